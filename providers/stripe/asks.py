"""What is asked of Stripe: its capabilities, its units of money, and the exact request of every verb.

Pure: the same ask gives the same request. A request is JSON-able: ``path`` and ``params`` of the one call that counts, and
beside them what has to be made first (``card``, ``customer``) or found first (``attempt``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from providers.contract import (
    Accept,
    Authorize,
    Call,
    Capabilities,
    Capability,
    Capture,
    Card,
    Defend,
    DetailsRefused,
    Increment,
    Refund,
    Void,
)
from providers.money import Money, Units, to_provider

# --- Capabilities -----------------------------------------------------------------------------------------------------

_ON_REQUEST: Final = frozenset({Capability.SEVERAL_CAPTURES, Capability.INCREMENT})
_NEVER: Final = frozenset(
    {Capability.DECREMENT, Capability.NETWORK_TRANSACTION_ID, Capability.NATIVE, Capability.DISPUTE_DOCUMENTS}
)

CAPABILITIES: Final = Capabilities(
    supported=frozenset(Capability) - _ON_REQUEST - _NEVER,
    on_request=_ON_REQUEST,
    # Keys may be pruned after 24 h and then execute again: https://docs.stripe.com/api/idempotent_requests
    replay_horizon_s=20 * 3600,
    notes={
        Capability.PARTIAL_CAPTURE: "what is not captured is released at once, unless more captures were asked for",
        Capability.SEVERAL_CAPTURES: "Stripe calls it multicapture: at most 50 captures, part of IC+ pricing",
        Capability.INCREMENT: "at most 10 tries for a payment, declined ones included; part of IC+ pricing",
        Capability.DECREMENT: "Stripe only raises an authorization: capture less instead",
        Capability.NETWORK_TRANSACTION_ID: "the API has no field for the id of a payment made elsewhere",
        Capability.VERIFICATION: "a SetupIntent",
        Capability.STORED_CREDENTIALS: "a Customer is made for every card that is remembered",
        Capability.NATIVE: "needs Stripe.js with a client secret in the checkout; the shopper is redirected instead",
        Capability.LOOKUP: "by id; without one among the payments made within a minute of its opening, and the 300 newest",
        Capability.DISPUTE_TEXT: "the text fields of Stripe's dispute evidence, submitted at once",
        Capability.DISPUTE_DOCUMENTS: "Stripe's Files API is not spoken",
    },
)

# --- Units ------------------------------------------------------------------------------------------------------------

_NO_DECIMALS: Final = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_THREE_DECIMALS: Final = "BHD JOD KWD OMR TND"

# https://docs.stripe.com/currencies#zero-decimal: the króna and the Ugandan shilling are sent with two decimals that must
# be 00, and three-decimal amounts end in 0.
UNITS: Final = Units(
    exponents={
        **dict.fromkeys(_NO_DECIMALS.split(), 0),
        **dict.fromkeys(_THREE_DECIMALS.split(), 3),
        "ISK": 2,
        "UGX": 2,
    },
    steps={"ISK": 100, "UGX": 100, **dict.fromkeys(_THREE_DECIMALS.split(), 10)},
)

# --- Names shared with the reading of answers -------------------------------------------------------------------------

INTENT_EXPAND: Final = ("latest_charge",)
SETUP_EXPAND: Final = ("payment_method", "latest_attempt")

OPERATION: Final = "operation"
CAPTURE: Final = "capture"
CAPTURE_AMOUNT: Final = "capture_amount"
INCREMENT: Final = "increment"
CURRENCY: Final = "currency"
_OURS: Final = frozenset({OPERATION, "payment", "reference", "customer", CAPTURE, CAPTURE_AMOUNT, INCREMENT, CURRENCY})
"""The metadata keys that are ours. What follows a payment has keys of its own, so that it stands beside the
authorization's ``operation`` on the same PaymentIntent."""


def is_verification(amount: Money) -> bool:
    """Whether an authorization of this amount only asks if the card is good. Stripe calls that a SetupIntent."""
    return amount.amount_minor == 0


def object_path(name: str) -> str:
    """Where a PaymentIntent (``pi_…``) or a SetupIntent (``seti_…``) is."""
    kind = "setup_intents" if name.startswith("seti_") else "payment_intents"
    return f"/v1/{kind}/{escaped(name)}"


def list_path(amount: Money) -> str:
    """Where the intents for such an amount are made and listed."""
    return "/v1/setup_intents" if is_verification(amount) else "/v1/payment_intents"


AROUND_S: Final = ((-2, 3), (3, 60), (-60, -2))
"""Stretches of time around the opening of an operation, in seconds: it is sent at once, or by whoever takes it over."""


def stretches(opened_at: datetime | None) -> list[dict[str, Any]]:
    """The filters of a list for what was made about then, the likeliest first. None where nobody knows when."""
    if opened_at is None:
        return []
    at = int(opened_at.timestamp())
    return [{"created": {"gte": at + first, "lte": at + last}} for first, last in AROUND_S]


def expand_of(name: str) -> list[str]:
    """What has to be expanded of such an object for its facts to be seen."""
    return list(SETUP_EXPAND if name.startswith("seti_") else INTENT_EXPAND)


def escaped(name: str) -> str:
    """An id as a part of a path: whatever it is, it stays one part."""
    return quote(name, safe="")


# --- Authorize --------------------------------------------------------------------------------------------------------


def authorize(ask: Authorize) -> Mapping[str, Any]:
    """A PaymentIntent that is created and confirmed at once, or for an amount of zero a SetupIntent.

    ``setup_future_usage`` needs a Customer, or Stripe takes the PaymentMethod for this one payment and never again; where the
    token names none, ``customer`` says that one is to be made first.
    """
    params = _setup_intent(ask) if is_verification(ask.amount) else _payment_intent(ask)
    if ask.description:
        params["description"] = ask.description[:1000]
    if card := _card_options(ask):
        params["payment_method_options"] = {"card": card}
    first: dict[str, Any] = {}
    match ask.instrument:
        case Card() as card_given:
            first["card"] = _new_method(card_given, ask.billing_details)
        case token:
            owner, _, params["payment_method"] = token.value.rpartition("/")
            if owner:
                params["customer"] = owner
    if ask.setup_future_usage and not ask.off_session and "customer" not in params:
        # Neither a name nor an address: Stripe would write to a customer whose address it knows.
        first["customer"] = {"metadata": _named(ask)}
    return {**first, "path": list_path(ask.amount), "params": params}


def _payment_intent(ask: Authorize) -> dict[str, Any]:
    params: dict[str, Any] = {
        "amount": to_provider(ask.amount, UNITS),
        "currency": ask.amount.currency.lower(),
        "capture_method": ask.capture_method,
        "confirm": True,
        "payment_method_types": ["card"],
        "metadata": _metadata(ask, _named(ask)),
        "expand": list(INTENT_EXPAND),
        # The shopper cannot come back from a redirect that they are not there to make.
        **({"off_session": True} if ask.off_session else {"return_url": ask.return_url}),
    }
    if descriptor := _descriptor(ask.statement_descriptor):
        params["statement_descriptor_suffix"] = descriptor
    if ask.setup_future_usage and not ask.off_session:
        params["setup_future_usage"] = ask.setup_future_usage
    return params


def _setup_intent(ask: Authorize) -> dict[str, Any]:
    """It has no amount and so no currency: ours is kept in the metadata, for the webhook to name it."""
    return {
        "confirm": True,
        "payment_method_types": ["card"],
        "usage": ask.setup_future_usage or "on_session",
        "metadata": _metadata(ask, _named(ask) | {CURRENCY: ask.amount.currency}),
        "expand": list(SETUP_EXPAND),
        "return_url": ask.return_url,
    }


def _card_options(ask: Authorize) -> Mapping[str, str]:
    options: dict[str, str] = {}
    if ask.three_d_secure == "required":
        options["request_three_d_secure"] = "any"
    if ask.capture_method == "manual" and not is_verification(ask.amount):
        if ask.adjustable:
            options["request_incremental_authorization"] = "if_available"
        if ask.several_captures:
            options["request_multicapture"] = "if_available"
    return options


def _new_method(card: Card, billing: Mapping[str, Any]) -> Mapping[str, Any]:
    details: dict[str, Any] = {"number": card.number, "exp_month": card.exp_month, "exp_year": card.exp_year}
    if card.cvc:
        details["cvc"] = card.cvc
    who = {name: billing[name] for name in ("name", "email", "phone") if billing.get(name)}
    if card.holder_name:
        who["name"] = card.holder_name
    lines = ("line1", "line2", "city", "state", "postal_code", "country")
    given = billing.get("address") or {}
    if address := {line: given[line] for line in lines if given.get(line)}:
        who["address"] = address
    return {"type": "card", "card": details} | ({"billing_details": who} if who else {})


_METADATA_MAX, _METADATA_KEY_MAX, _METADATA_VALUE_MAX = 50, 40, 500


def _named(ask: Authorize) -> dict[str, str]:
    ours = {OPERATION: ask.operation_id, "payment": ask.payment_id}
    if ask.reference:
        ours["reference"] = ask.reference[:_METADATA_VALUE_MAX]
    if ask.customer:
        ours["customer"] = ask.customer[:_METADATA_VALUE_MAX]
    return ours


def _metadata(ask: Authorize, ours: dict[str, str]) -> Mapping[str, str]:
    """Ours last, so that no merchant's key can hide the one an operation is found by.

    https://docs.stripe.com/metadata: at most 50 keys of 40 characters with values of 500.
    """
    theirs = {
        key: value[:_METADATA_VALUE_MAX]
        for key, value in ask.metadata.items()
        # Square brackets are syntax in Stripe's form encoding.
        if key not in _OURS and len(key) <= _METADATA_KEY_MAX and not set("[]") & set(key)
    }
    left = _METADATA_MAX - len(_OURS)  # a place for each of ours, those of what follows the payment included
    return dict(list(theirs.items())[:left]) | ours


def _descriptor(text: str | None) -> str | None:
    r"""What Stripe takes: 22 characters, a letter among them, and none of <>\'"*."""
    suffix = re.sub(r"""[^\x20-\x7e]|[<>\\'"*]""", "", text or "").strip()[:22].strip()
    return suffix if re.search("[A-Za-z]", suffix) else None


def completion(call: Call, details: Mapping[str, str]) -> Mapping[str, Any]:
    """The shopper is back: the intent is read, which changes nothing. It says itself what came of the challenge.

    Stripe adds ``payment_intent`` (or ``setup_intent``) to the return address. One that is not the attempt's own belongs to
    another payment and is refused.
    """
    if not call.provider_id:
        raise DetailsRefused("the attempt has no PaymentIntent that could be completed")
    told = details.get("payment_intent") or details.get("setup_intent")
    if told and told != call.provider_id:
        raise DetailsRefused("payment_intent names another payment")
    return {
        "method": "get",
        "path": object_path(call.provider_id),
        "params": {"expand": expand_of(call.provider_id)},
    }


# --- What follows a payment -------------------------------------------------------------------------------------------


def capture(ask: Capture) -> Mapping[str, Any]:
    """``final_capture`` is Stripe's only where several captures are; left out it is true."""
    amount = to_provider(ask.amount, UNITS)
    params: dict[str, Any] = {
        "amount_to_capture": amount,
        "metadata": {CAPTURE: ask.operation_id, CAPTURE_AMOUNT: str(amount)},
        "expand": list(INTENT_EXPAND),
    }
    if not ask.final:
        params["final_capture"] = False
    return _follow_up(ask.provider_payment_id, "/capture", params)


def void(ask: Void) -> Mapping[str, Any]:
    """A cancel ends an authorization and an unfinished attempt alike. Without a handle the attempt is found by its name."""
    if ask.provider_payment_id is None:
        return {"attempt": ask.attempt_id, "params": {}}
    return cancel(ask.provider_payment_id)


def increment(ask: Increment) -> Mapping[str, Any]:
    """The new total, not the difference."""
    params = {
        "amount": to_provider(ask.amount, UNITS),
        "metadata": {INCREMENT: ask.operation_id},
        "expand": list(INTENT_EXPAND),
    }
    return _follow_up(ask.provider_payment_id, "/increment_authorization", params)


def _follow_up(payment: str, verb: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"path": object_path(payment) + verb, "params": params, "payment": payment}


def cancel(payment: str) -> Mapping[str, Any]:
    """The cancel of an intent, also of one that was found by its name."""
    return _follow_up(payment, "/cancel", {})


REFUND_REASONS: Final = frozenset({"duplicate", "fraudulent", "requested_by_customer"})


def refund(ask: Refund) -> Mapping[str, Any]:
    """A reason is passed on where Stripe knows it: any other word would be refused."""
    params: dict[str, Any] = {
        "payment_intent": ask.provider_payment_id,
        "amount": to_provider(ask.amount, UNITS),
        "metadata": {OPERATION: ask.operation_id, "payment": ask.payment_id},
    }
    if ask.reason in REFUND_REASONS:
        params["reason"] = ask.reason
    return {"path": "/v1/refunds", "params": params, "payment": ask.provider_payment_id}


# --- Disputes ---------------------------------------------------------------------------------------------------------


def defend(ask: Defend) -> Mapping[str, Any]:
    """The evidence is submitted with the same call: it goes to the bank, and once only.

    Raises ValueError for documents: they would be lost in silence. The account's capabilities refuse them long before.
    """
    if ask.documents:
        raise ValueError("documents need Stripe's Files API, which is not spoken here")
    params = {
        "evidence": dict(ask.text),
        "submit": True,
        "metadata": {OPERATION: ask.operation_id, "payment": ask.payment_id},
    }
    return {"path": f"/v1/disputes/{escaped(ask.dispute_id)}", "params": params, "dispute": ask.dispute_id}


def accept(ask: Accept) -> Mapping[str, Any]:
    """Closing a dispute is final: it is lost from then on."""
    return {"path": f"/v1/disputes/{escaped(ask.dispute_id)}/close", "params": {}, "dispute": ask.dispute_id}
