"""Declines: one table a provider from its own code to our word, how final it is, and what may be tried next.

The tables are data (``providers/data/*.csv``): a row a documented code, with its source. ``type`` is ``hard`` where the same
card will not work again, ``soft`` where it may. ``action`` is the retry policy. ``evidence`` says how much the decline tells
about the account rather than the shopper (0, 0.5 or 1). A code that is not listed maps to ``other``, soft, ``retry_later``
and keeps its raw value.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Final, Literal, cast


class Action(StrEnum):
    """What a decline permits."""

    RETRY_OTHER_NOW = "retry_other_now"
    RETRY_LATER = "retry_later"
    STEP_UP_3DS = "step_up_3ds"
    ASK_NEW_METHOD = "ask_new_method"
    DO_NOT_RETRY = "do_not_retry"


@dataclass(frozen=True, slots=True)
class Decline:
    """One decline in our words, with the provider's own code kept beside them."""

    code: str
    type: Literal["soft", "hard"]
    action: Action
    provider_code: str | None = None
    evidence: str = "0"

    @property
    def message(self) -> str:
        """A sentence fit for a shopper. It never says stolen, lost or fraud: that is for the merchant's eyes."""
        return MESSAGES.get(self.code, "Your card was declined.")

    def advised(self, advice: str | None) -> Decline:
        """The same decline where the network advises never to try again: then it is hard, whatever the table says."""
        if advice != "do_not_try_again":
            return self
        return Decline(self.code, "hard", Action.DO_NOT_RETRY, self.provider_code, self.evidence)


MESSAGES: Final[Mapping[str, str]] = {
    "amount_invalid": "This amount cannot be charged to your card.",
    "authentication_failed": "Your bank could not confirm that it is you. Please try again or use another card.",
    "authentication_required": "Your bank asks you to confirm this payment.",
    "card_data_invalid": "Please check your card details.",
    "card_expired": "Your card has expired.",
    "insufficient_funds": "Your card has insufficient funds.",
    "issuer_unavailable": "Your bank cannot be reached right now. Please try again.",
    "limit_exceeded": "Your card's limit has been reached.",
    "not_permitted": "Your card cannot be used for this payment. Please use another card.",
    "not_sent": "The payment could not be processed. Please try again.",
    "pin_problem": "Your card's PIN could not be used. Please use another card.",
    "provider_error": "The payment could not be processed. Please try again.",
    "provider_rejected": "This payment cannot be made with this card. Please use another card.",
}

OTHER: Final = "other"


def load(table: str) -> Mapping[str, Decline]:
    """The decline table in ``providers/data/{table}.csv``, by the provider's code."""
    text = (files("providers") / "data" / f"{table}.csv").read_text(encoding="utf-8")
    return {
        row["code"]: Decline(
            code=row["normalized"],
            type=cast("Literal['soft', 'hard']", row["type"]),
            action=Action(row["action"]),
            provider_code=row["code"],
            evidence=row["evidence"],
        )
        for row in csv.DictReader(text.splitlines())
    }


def look_up(table: Mapping[str, Decline], provider_code: str | None) -> Decline:
    """The decline for a provider's code. A code nobody documented keeps its raw value and is read as soft, retry later."""
    found = table.get(provider_code or "")
    return found or Decline(OTHER, "soft", Action.RETRY_LATER, provider_code)
