"""How the console writes numbers, money and times: exact, for people, and the same on every page.

Thousands are parted by a thin space, which nobody anywhere reads as a decimal sign. Times are in UTC and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from providers.money import exponent

NONE: Final = "–"
SPACE: Final = "\u202f"
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def count(number: int | None) -> str:
    """A whole number: ``12 345``."""
    return NONE if number is None else f"{number:,}".replace(",", SPACE)


def money(amount_minor: int | None, currency: str) -> str:
    """An amount to the last unit, with its currency: ``12 345.67 EUR``."""
    if amount_minor is None:
        return NONE
    decimals, sign = exponent(currency), "\u2212" if amount_minor < 0 else ""
    major, minor = divmod(abs(amount_minor), 10**decimals)
    return f"{sign}{count(major)}{f'.{minor:0{decimals}d}' if decimals else ''}\u00a0{currency}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one: ``93.4 %``."""
    return NONE if share is None else f"{share * 100:.{digits}f}{SPACE}%"


def points(change: float | None, digits: int = 1) -> str:
    """A change of a share, in percentage points with its sign: ``+1.2 pp``."""
    if change is None:
        return NONE
    shown = f"{abs(change) * 100:.{digits}f}"
    sign = "±" if float(shown) == 0 else "+" if change > 0 else "\u2212"
    return f"{sign}{shown}{SPACE}pp"


def milliseconds(seconds: float | None) -> str:
    """How long a provider took: ``412 ms``."""
    return NONE if seconds is None else f"{count(round(seconds * 1000))}{SPACE}ms"


def span(seconds: float | None) -> str:
    """How long something lasts, in its two largest units: ``2 h 5 min``."""
    if seconds is None:
        return NONE
    left, shown = max(0, int(seconds)), []
    for size, unit in _UNITS:
        if left >= size:
            shown.append(f"{left // size}{SPACE}{unit}")
            left %= size
    return " ".join(shown[:2]) if shown else f"{left}{SPACE}s"


def instant(at: datetime) -> str:
    """A moment to the second: ``2026-11-22 17:40:03 UTC``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def words(name: str) -> str:
    """A name of ours as words: ``amount_mismatch`` is ``Amount mismatch``."""
    return name.replace("_", " ").capitalize()


def step(at: datetime, interval: str) -> str:
    """The beginning of a step of a series, as short as it can be said: ``22 Nov``, ``22 Nov 14:00``, ``Nov 2026``."""
    at = at.astimezone(UTC)
    return (
        f"{at:%b %Y}" if interval == "month" else f"{at.day} {at:%b}" + (f" {at:%H:%M}" if interval == "hour" else "")
    )


def place(share: float, low: float, high: float, width: int) -> str:
    """Where a share stands on a scale of so many units from ``low`` to ``high``: for drawing."""
    return f"{max(0.0, min(1.0, (share - low) / (high - low))) * width:.1f}"


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    each.__name__: each for each in (count, money, percent, points, milliseconds, span, instant, words, step, place)
}
"""What templates write with."""
