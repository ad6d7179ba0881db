"""The brand of a card, read off its number, until a PSP says more.

The ranges are the issuer identification numbers that the card networks publish (ISO/IEC 7812); they move rarely, and a wrong guess
costs nothing but a logo: a PSP's word replaces it. The words are those of the API: ``visa``, ``mastercard``, ``amex``, ….
"""

from __future__ import annotations

from typing import Final

RANGES: Final[tuple[tuple[str, str, str], ...]] = (
    ("amex", "34", "34"),
    ("amex", "37", "37"),
    ("diners", "300", "305"),
    ("diners", "3095", "3095"),
    ("diners", "36", "36"),
    ("diners", "38", "39"),
    ("jcb", "3528", "3589"),
    ("maestro", "5018", "5018"),
    ("maestro", "5020", "5020"),
    ("maestro", "5038", "5038"),
    ("maestro", "5893", "5893"),
    ("maestro", "6304", "6304"),
    ("maestro", "6759", "6759"),
    ("maestro", "6761", "6763"),
    ("discover", "6011", "6011"),
    ("discover", "644", "649"),
    ("discover", "65", "65"),
    ("mastercard", "51", "55"),
    ("mastercard", "2221", "2720"),
    ("unionpay", "62", "62"),
    ("unionpay", "81", "81"),
    ("visa", "4", "4"),
)
"""Brand, first and last prefix of a range. No number is in two of them."""

BRANDS: Final = frozenset(brand for brand, _, _ in RANGES)
"""All that the table knows."""


def brand_of(number: str) -> str | None:
    """The brand that issues such numbers, or ``None`` where the table knows none."""
    return next((brand for brand, first, last in RANGES if first <= number[: len(first)] <= last), None)
