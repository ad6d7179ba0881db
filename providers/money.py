"""Money: an integer of ISO 4217 minor units with its currency, and the way into a provider's own units.

Inside the gateway an amount is always in ISO minor units. Providers keep tables of their own (Adyen sends the Icelandic
króna with two decimals, Stripe the Malagasy ariary with none), so each adapter converts at its border with
:func:`to_provider` and :func:`from_provider`. A conversion that would lose a unit is refused, never rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import iso4217

AMOUNT_MIN: Final = 1
AMOUNT_MAX: Final = 999_999_999_999
"""Largest amount of one payment, in minor units (the API's limit; both providers stop earlier)."""


_USUAL_DECIMALS: Final = 2


class MoneyError(ValueError):
    """An amount or a currency that cannot be. The message names the value and the rule it breaks."""


@lru_cache(maxsize=512)
def exponent(currency: str) -> int:
    """Number of decimals of ``currency`` in ISO 4217: 2 for EUR, 0 for JPY, 3 for KWD.

    Raises :class:`MoneyError` for a code that is unknown, not in upper case, or has no minor unit (XAU, XXX).
    """
    try:
        decimals = iso4217.Currency(currency).exponent
    except ValueError:
        decimals = None
    if decimals is None:
        raise MoneyError(f"{currency!r} is not an ISO 4217 currency that money can be paid in")
    return int(decimals)


@dataclass(frozen=True, slots=True)
class Money:
    """``amount_minor`` units of ``currency``. Zero is allowed here (a balance may be zero); a payment's limits are the API's."""

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        exponent(self.currency)
        if self.amount_minor < 0:
            raise MoneyError(f"an amount cannot be negative: {self.amount_minor} {self.currency}")


@dataclass(frozen=True, slots=True)
class Units:
    """One provider's table: decimals where they differ from ISO, and the step its amounts must be a multiple of."""

    exponents: Mapping[str, int]
    steps: Mapping[str, int]
    """Smallest step in the provider's own units: Stripe takes the Kuwaiti dinar with three decimals of which the last is 0."""

    def tells(self, currency: str) -> bool:
        """Whether it is known with how many decimals the provider takes ``currency``. Two need no saying."""
        return currency in self.exponents or exponent(currency) == _USUAL_DECIMALS


def to_provider(money: Money, units: Units) -> int:
    """The integer to send for ``money``. Raises :class:`MoneyError` where the provider cannot carry the exact amount."""
    shift = units.exponents.get(money.currency, exponent(money.currency)) - exponent(money.currency)
    if shift >= 0:
        sent = money.amount_minor * int(10**shift)
    else:
        sent, lost = divmod(money.amount_minor, int(10**-shift))
        if lost:
            raise MoneyError(f"{money.amount_minor} {money.currency} has decimals that this provider does not carry")
    if sent % units.steps.get(money.currency, 1):
        raise MoneyError(
            f"{money.amount_minor} {money.currency} is not a multiple of "
            f"{units.steps[money.currency]} units, the smallest step this provider carries"
        )
    return sent


def from_provider(sent: int, currency: str, units: Units) -> Money:
    """What the provider's integer means. Raises :class:`MoneyError` on a currency or a fraction that ISO does not know."""
    code = currency.upper()
    shift = units.exponents.get(code, exponent(code)) - exponent(code)
    if shift < 0:
        return Money(sent * int(10**-shift), code)
    whole, lost = divmod(sent, int(10**shift))
    if lost:
        raise MoneyError(f"{sent} {code} from the provider is not a whole number of minor units")
    return Money(whole, code)
