"""The neutral PSP's objects and words: charges, their moves, its decimals, and what its test cards do.

It is nobody's PSP. Where Stripe and Adyen agree it differs on purpose: amounts are decimal texts in major units, an
idempotency key stands in the body, a refusal is a state and not an error, and every move tells its result at once.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.sandbox.cards import Card

# The króna, the forint and the new Taiwan dollar are taken in whole units, whatever ISO 4217 says of them.
_WHOLE = "BIF CLP DJF GNF HUF ISK JPY KMF KRW PYG RWF TWD UGX VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
_NOT_TAKEN = frozenset({"CLF", "UYI", "UYW", "XAG", "XAU", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX"})
DECIMALS: Mapping[str, int] = dict.fromkeys(_WHOLE.split(), 0) | dict.fromkeys(_THREE.split(), 3)
"""Where this PSP does not take two decimals."""
_WHOLE_DIGITS_MAX = 9

TOKENS: Mapping[str, str] = {
    "ct_ok": "4242424242424242",
    "ct_bank_says_no": "4000000000000002",
    "ct_no_funds": "4000000000009995",
    "ct_stolen": "4000000000009987",
    "ct_expired": "4000000000000069",
    "ct_bank_away": "4000000000000119",
    "ct_ask_shopper": "4000000000003220",
}
REFUSALS: Mapping[str, str] = {
    TOKENS["ct_bank_says_no"]: "bank_says_no",
    TOKENS["ct_no_funds"]: "no_funds",
    TOKENS["ct_stolen"]: "card_stolen",
    TOKENS["ct_expired"]: "card_expired",
    TOKENS["ct_bank_away"]: "bank_away",
}
ASKS_SHOPPER = frozenset({TOKENS["ct_ask_shopper"]})
BANK_SAYS_NO = "bank_says_no"


def decimals(currency: str) -> int:
    """How many decimals this PSP writes of a currency."""
    return DECIMALS.get(currency, 2)


def as_units(value: object, currency: object) -> int | None:
    """1999 for "19.99" EUR; None for what is not exactly one amount of that currency, or none this PSP takes."""
    if not (isinstance(currency, str) and re.fullmatch("[A-Z]{3}", currency)) or currency in _NOT_TAKEN:
        return None
    places = decimals(currency)
    form = rf"(0|[1-9][0-9]{{0,{_WHOLE_DIGITS_MAX - 1}}})" + (rf"\.([0-9]{{{places}}})" if places else "")
    if not (isinstance(value, str) and re.fullmatch(form, value)):
        return None
    return int(value.replace(".", "")) or None


def as_text(units: int, currency: str) -> str:
    """1999 EUR as "19.99"."""
    places = decimals(currency)
    digits = str(units).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def new_id(prefix: str) -> str:
    """A random id of this PSP."""
    return f"{prefix}_{secrets.token_hex(10)}"


@dataclass(slots=True)
class Move:
    """What was done to a charge after it was made. ``kind`` is settle, release or give_back."""

    kind: str
    reference: str
    units: int
    move_id: str = field(default_factory=lambda: new_id("mv"))


@dataclass(slots=True)
class Charge:
    """One charge with what became of its money, in this PSP's own smallest units."""

    reference: str
    units: int
    currency: str
    card: Card
    settle_now: bool
    return_to: str
    request_id: str
    state: str = "new"
    why: str | None = None
    held: int = 0
    settled: int = 0
    given_back: int = 0
    moves: list[Move] = field(default_factory=list)
    charge_id: str = field(default_factory=lambda: new_id("ch"))
    approval_code: str = field(default_factory=lambda: secrets.token_hex(3))
    network_trace: str = field(default_factory=lambda: f"{secrets.randbelow(10**15):015d}")

    def as_json(self, base_url: str) -> dict[str, Any]:
        """The charge as every answer and webhook shows it."""
        card, approved = self.card, self.held > 0
        return {
            "charge_id": self.charge_id,
            "reference": self.reference,
            "state": self.state,
            "refused_why": self.why,
            "currency": self.currency,
            "value": as_text(self.units, self.currency),
            "held": as_text(self.held, self.currency),
            "settled": as_text(self.settled, self.currency),
            "given_back": as_text(self.given_back, self.currency),
            "settle": "now" if self.settle_now else "later",
            "send_shopper_to": f"{base_url}/_sandbox/3ds/{self.charge_id}" if self.state == "asking_shopper" else None,
            "approval_code": self.approval_code if approved else None,
            "network_trace": self.network_trace if approved else None,
            "card": {
                "scheme": card.brand,
                "starts": card.bin,
                "ends": card.last4,
                "expires": f"{card.exp_month:02d}/{card.exp_year}",
                "country": card.country,
            },
            "moves": [self.move_json(move) for move in self.moves],
        }

    def move_json(self, move: Move) -> dict[str, Any]:
        """One move as every answer and webhook shows it."""
        return {
            "move_id": move.move_id,
            "charge_id": self.charge_id,
            "kind": move.kind,
            "reference": move.reference,
            "value": as_text(move.units, self.currency),
            "currency": self.currency,
        }
