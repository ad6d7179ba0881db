"""Cards as a PSP sees them: brand, country, fingerprint; a log gets the masked number only."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

# First match wins, so the longer prefixes stand first.
_BRANDS = (
    ("34", "amex"),
    ("37", "amex"),
    ("36", "diners"),
    ("38", "diners"),
    ("30", "diners"),
    ("6011", "discover"),
    ("65", "discover"),
    ("35", "jcb"),
    ("62", "unionpay"),
    ("81", "unionpay"),
    ("50", "maestro"),
    ("67", "maestro"),
    ("4", "visa"),
    ("5", "mastercard"),
    ("2", "mastercard"),
)
_COUNTRIES = {"4000002500": "FR", "4000002760": "DE", "4000008260": "GB", "4000003800": "IE"}
PAN_LENGTHS = range(12, 20)


@dataclass(frozen=True, slots=True)
class Card:
    """One card, number included: simulators hold test numbers only, and never show them."""

    number: str
    exp_month: int
    exp_year: int
    cvc: str | None = None

    @property
    def brand(self) -> str:
        """Stripe's word for the scheme ("visa", "mastercard", …)."""
        return next((brand for prefix, brand in _BRANDS if self.number.startswith(prefix)), "unknown")

    @property
    def bin(self) -> str:
        """The first six digits."""
        return self.number[:6]

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]

    @property
    def masked(self) -> str:
        """First six and last four digits with stars between: what a log may hold."""
        return self.bin + "*" * (len(self.number) - 10) + self.last4

    @property
    def country(self) -> str:
        """The issuer's country."""
        return _COUNTRIES.get(self.number[:10], "US")

    @property
    def funding(self) -> str:
        """Stripe's own debit test numbers are debit; the rest is credit."""
        return "debit" if self.number.startswith(("400005", "520082")) else "credit"

    @property
    def fingerprint(self) -> str:
        """Equal for equal numbers, and useless for finding the number of a real card."""
        return hashlib.sha256(b"sandbox fingerprint " + self.number.encode()).hexdigest()[:16]

    def expired(self) -> bool:
        """Whether the expiry month is over."""
        now = datetime.now(UTC)
        return (self.exp_year, self.exp_month) < (now.year, now.month)


def luhn_valid(number: str) -> bool:
    """Whether the digits carry a right check digit and a length a card can have."""
    if not (number.isascii() and number.isdigit()) or len(number) not in PAN_LENGTHS:
        return False
    total = 0
    for position, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + position % 2)
        total += sum(divmod(value, 10))
    return total % 10 == 0
