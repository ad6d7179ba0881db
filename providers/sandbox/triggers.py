"""The documented test cards, tokens and trigger names of both PSPs, read once from their file."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class StripeTrigger:
    """What Stripe's test mode does with one card number (or one of its tokens)."""

    number: str
    outcome: str
    code: str | None
    decline_code: str | None
    message: str | None

    def challenges(self, *, off_session: bool, set_up: bool, requested: bool) -> bool:
        """Whether the shopper has to authenticate, by the rule of this card.

        ``set_up`` is whether the card was set up for payments without the shopper, ``requested`` whether the merchant asks
        for 3-D Secure of its own accord.
        """
        usual = "always" if self.outcome.startswith("requires_action") else "never"
        match _CHALLENGES.get(self.number, usual):
            case "always":
                return True
            case "unless_set_up":
                return not (off_session and set_up)
            case "on_session":
                return not off_session
            case "if_requested":
                return requested and not off_session
            case _:
                return False


@dataclass(frozen=True, slots=True)
class AdyenRefusal:
    """One simulated acquirer answer of Adyen's test platform."""

    code: str
    holder_name: str
    result_code: str
    reason: str | None

    @property
    def approved(self) -> bool:
        """Whether this row is the one that asks for an approval."""
        return self.result_code == "Authorised"


# https://docs.stripe.com/testing#authentication-and-setup, where the outcome alone does not say it.
_CHALLENGES = {
    "4000002500003155": "unless_set_up",
    "4000003800000446": "on_session",
    "4000000000003055": "if_requested",
}


ORDINARY_CARD = StripeTrigger("", "succeeded", None, None, None)


@cache
def _data() -> dict[str, Any]:
    text = files("providers.sandbox").joinpath("test_triggers.json").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@cache
def _stripe_by_number() -> dict[str, StripeTrigger]:
    return {
        row["number"]: StripeTrigger(row["number"], row["outcome"], row["code"], row["decline_code"], row["message"])
        for row in _data()["stripe"]["cards"]
    }


@cache
def stripe_numbers_by_token() -> dict[str, str]:
    """Card numbers behind ``pm_card_*`` and ``tok_*``."""
    return {token: row["number"] for row in _data()["stripe"]["cards"] for token in row["tokens"]}


def stripe_trigger(number: str) -> StripeTrigger:
    """What this number does; a number of no special meaning succeeds."""
    return _stripe_by_number().get(number, ORDINARY_CARD)


@cache
def _adyen_by_name() -> dict[str, AdyenRefusal]:
    rows = [
        AdyenRefusal(row["code"], row["holder_name"], row["result_code"], row["reason"])
        for row in _data()["adyen"]["refusals"]
    ]
    return {row.code: row for row in rows} | {row.holder_name: row for row in rows}


@cache
def _adyen_codes_by_card() -> dict[str, str]:
    return {row["number"]: row["code"] for row in _data()["adyen"]["cards"]}


def adyen_refusal(code_or_name: str) -> AdyenRefusal | None:
    """The row for a refusal code ("12") or holder name ("NOT_ENOUGH_BALANCE"), if there is one."""
    return _adyen_by_name().get(code_or_name)


def adyen_refusal_by_card(number: str) -> AdyenRefusal | None:
    """The refusal this card number always gets (numbers of this sandbox, not of Adyen)."""
    code = _adyen_codes_by_card().get(number)
    return None if code is None else _adyen_by_name()[code]


@dataclass(frozen=True, slots=True)
class AdyenAuthentication:
    """What the card schemes' directory says of one card number, and what happens without its shopper."""

    directory: str
    """EMVCo's transStatus: C a challenge, Y authenticated and A attempted without one, N not authenticated."""
    off_session: str | None
    """The refusal of a payment that the merchant starts, where the issuer wants the shopper."""


@dataclass(frozen=True, slots=True)
class AdyenDispute:
    """The course of one dispute: what is told after the capture, and what once it is defended."""

    events: tuple[str, ...]
    defended: tuple[str, ...]
    reason_code: str


@cache
def _adyen_authentications() -> dict[str, AdyenAuthentication]:
    return {
        row["number"]: AdyenAuthentication(row["directory"], row["off_session"])
        for row in _data()["adyen"]["three_d_secure"]
    }


def adyen_authentication(number: str) -> AdyenAuthentication | None:
    """What 3-D Secure makes of this card; None for one that is not enrolled."""
    return _adyen_authentications().get(number)


@cache
def _adyen_raw_responses() -> dict[str, str]:
    return {row["code"]: row["raw"] for row in _data()["adyen"]["raw_responses"]}


def adyen_raw_response(code: str) -> str | None:
    """What the card network says for a refusal code, as in "51 : Insufficient funds"; None where no network spoke."""
    return _adyen_raw_responses().get(code)


@cache
def _adyen_advice() -> dict[str, str]:
    return {row["code"]: f"{row['code']} : {row['words']}" for row in _data()["adyen"]["merchant_advice"]}


def adyen_merchant_advice(code: str) -> str | None:
    """Mastercard's merchant advice code with its words, as in "03 : Do not try again"."""
    return _adyen_advice().get(code)


CHARGEBACK_CODES = {"visa": "10.4", "mc": "4837", "amex": "F29"}
"""The reason of a dispute whose trigger names none, by brand."""


def adyen_dispute(holder_name: str, brand: str) -> AdyenDispute | None:
    """The dispute that a holder name asks for, as in "chargeback:10.4" or "Second Chargeback"; case does not matter.

    https://docs.adyen.com/risk-management/disputes-api/test-applicable-dispute-reasons
    """
    name, _, code = holder_name.partition(":")
    for row in _data()["adyen"]["disputes"]:
        if row["holder_name"] == name.strip().lower():
            reason_code = code.strip() or CHARGEBACK_CODES.get(brand, "10.4")
            return AdyenDispute(tuple(row["events"]), tuple(row["defended"]), reason_code)
    return None


def adyen_later_failure(holder_name: str, book: str) -> str | None:
    """The event that undoes each capture or refund of a payment with this holder name."""
    rows = _data()["adyen"]["later"]
    return next((row["holder_name"] for row in rows if (row["holder_name"], row["book"]) == (holder_name, book)), None)
