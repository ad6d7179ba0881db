"""Declines: one table a provider from its own code to our word, how final it is, and what may be tried next.

The tables are data (``providers/data/*.csv``): a row a documented code, with its source. ``type`` is ``hard`` where the same
card will not work again, ``soft`` where it may. ``action`` is the retry policy. ``evidence`` says how much the decline tells
about the account rather than the shopper (0, 0.5 or 1). A code that is not listed maps to ``other``, soft, ``retry_later``
and keeps its raw value.

What the card network advises stands above the provider's code: ``providers/data/network_advice.csv`` says what Stripe's
``advice_code``, Mastercard's merchant advice codes and Visa's response codes mean (:meth:`Decline.advised`).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
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


class Advice(StrEnum):
    """What a card network advises after a decline."""

    NEVER = "do_not_try_again"
    """The issuer will never approve this card; networks charge for every further try."""
    DATA = "confirm_card_data"
    """The card's data are wrong or old: the same data will be declined again, anywhere."""
    WAIT = "wait"
    """Not before :attr:`NetworkAdvice.wait_s` seconds have passed."""
    LATER = "try_again_later"
    """Not now. It says nothing against another account."""


@dataclass(frozen=True, slots=True)
class NetworkAdvice:
    """One code of a card network, and what it advises."""

    network: str
    code: str
    advice: Advice
    wait_s: int | None = None


@dataclass(frozen=True, slots=True)
class Decline:
    """One decline in our words, with the provider's own code kept beside them."""

    code: str
    type: Literal["soft", "hard"]
    action: Action
    provider_code: str | None = None
    evidence: str = "0"
    network_code: str | None = None
    """The issuer's own response code where the provider passes it on, such as ``05``."""
    network_advice: Advice | None = None
    wait_s: int | None = None
    """How long the network wants to be left alone with this card, in seconds."""

    @property
    def message(self) -> str:
        """A sentence fit for a shopper. It never says stolen, lost or fraud: that is for the merchant's eyes."""
        return MESSAGES.get(self.code, "Your card was declined.")

    def advised(self, told: NetworkAdvice | None) -> Decline:
        """The same decline once the network's advice is heard. Advice makes a decline stricter, and never milder.

        "Never" makes it hard, wrong data ask for another card, and what must wait is not taken elsewhere: that holds at every
        account. ``try_again_later`` alone changes nothing: issuers attach it to nearly every soft decline, and the table knows
        which of these another acquirer may get approved. Of several advices the strictest counts, in whatever order they come.
        """
        if told is None:
            return self
        action = max(self.action, _AT_LEAST[told.advice], key=_STRICTER.index)
        waits = action is Action.RETRY_LATER
        return replace(
            self,
            type="hard" if told.advice is Advice.NEVER else self.type,
            action=action,
            network_advice=max(filter(None, (self.network_advice, told.advice)), key=_GRAVER.index),
            wait_s=max(filter(None, (self.wait_s, told.wait_s)), default=None) if waits else None,
        )


FAILED_AFTER_ALL: Final = "failed_after_all"
"""The code of what was accepted, perhaps told as a success, and failed in the end: that it had succeeded may be heard later."""


def failed_after_all(provider_code: str | None) -> Decline:
    """The decline of a capture or a refund that was accepted, and failed in the end."""
    return Decline(FAILED_AFTER_ALL, "hard", Action.DO_NOT_RETRY, provider_code)


_STRICTER: Final = (
    Action.RETRY_OTHER_NOW,
    Action.STEP_UP_3DS,
    Action.RETRY_LATER,
    Action.ASK_NEW_METHOD,
    Action.DO_NOT_RETRY,
)
"""What a decline permits, from the mildest to the strictest."""
_GRAVER: Final = (Advice.LATER, Advice.WAIT, Advice.DATA, Advice.NEVER)
_AT_LEAST: Final[Mapping[Advice, Action]] = {
    Advice.LATER: Action.RETRY_OTHER_NOW,
    Advice.WAIT: Action.RETRY_LATER,
    Advice.DATA: Action.ASK_NEW_METHOD,
    Advice.NEVER: Action.DO_NOT_RETRY,
}
"""How strict an advice makes a decline at least."""

MESSAGES: Final[Mapping[str, str]] = {
    "amount_invalid": "This amount cannot be charged to your card.",
    "authentication_expired": "The payment was not confirmed in time. Please try again.",
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
    "retry_limit_reached": "This card cannot be used right now. Please use another card.",
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


def load_advice(network: str) -> Mapping[str, NetworkAdvice]:
    """What the codes of one network advise, by code: ``stripe``, ``mastercard`` (merchant advice) or ``visa`` (responses)."""
    text = (files("providers") / "data" / "network_advice.csv").read_text(encoding="utf-8")
    return {
        row["code"]: NetworkAdvice(network, row["code"], Advice(row["advice"]), int(row["wait_s"] or 0) or None)
        for row in csv.DictReader(text.splitlines())
        if row["network"] == network
    }
