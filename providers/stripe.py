"""Stripe, in one file: what we ask of it, what its answers mean, and how its webhooks are read.

The rule of this file: money moves in one request only, the one that creates and confirms the
PaymentIntent under the operation's own key. A card number becomes a PaymentMethod first, in a
request that moves nothing, so what is kept of the operation afterwards names a ``pm_…`` and no
card. Whatever comes back is read by the tables below; an answer that is in none of them is
``Unknown``.

Requests, errors and signatures are the official SDK's; only the transport is ours. The SDK's
``raw_request_async`` is used because it skips the tree of objects that the SDK builds of every
answer, which costs more than all the rest of the call.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar, assert_never
from urllib.parse import quote

import msgspec
import stripe

from providers.contract import (
    Acknowledgement,
    ActionRequired,
    Approved,
    Ask,
    Authorize,
    Call,
    Capabilities,
    Capture,
    Card,
    CardFacts,
    Declined,
    Event,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Refund,
    Unknown,
    Void,
    WebhookRefused,
)
from providers.declines import Action, Decline, load, look_up
from providers.money import Money, MoneyError, Units, exponent, from_provider, to_provider
from providers.registry import AccountConfig, ConfigError
from providers.transport import MaybeSent, NotSent, Transport

# --- Config -------------------------------------------------------------------------------------

API_VERSION: Final = "2026-05-27.dahlia"
"""Pinned, so that an upgrade of the SDK cannot change a request that was sent before."""

BASE_URL: Final = "https://api.stripe.com"

LIVE_KEYS: Final = re.compile(r"[sr]k_(live|test)_")
"""A key says itself which mode it is for; one that contradicts the account is refused."""

READ_TIMEOUT_S: Final = 60.0
"""Longest silence on one socket; the deadline of a call is the registry's and shorter."""

WEBHOOK_TOLERANCE_S: Final = 300
"""How far a webhook's timestamp may lie in the past or the future.

https://docs.stripe.com/webhooks#replay-attacks
"""

# Latency figures of other calls, sent along with the next one. Not ours to give away.
stripe.enable_telemetry = False

# At level "debug" the SDK writes request bodies, card numbers among them, to its logger.
logging.getLogger("stripe").setLevel(logging.WARNING)

# --- Capabilities -------------------------------------------------------------------------------

CAPABILITIES: Final = Capabilities(
    several_captures=False,  # multicapture is on request: https://docs.stripe.com/payments/multicapture
    # Keys may be pruned after 24 h and then execute again.
    # https://docs.stripe.com/api/idempotent_requests
    replay_horizon_s=20 * 3600,
    lookup=True,
)

_NO_DECIMALS: Final = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_THREE_DECIMALS: Final = "BHD JOD KWD OMR TND"
_USUAL_DECIMALS: Final = 2

# https://docs.stripe.com/currencies#zero-decimal: the króna and the Ugandan shilling are sent with
# two decimals that must be 00, and three-decimal amounts end in 0.
UNITS: Final = Units(
    exponents={
        **dict.fromkeys(_NO_DECIMALS.split(), 0),
        **dict.fromkeys(_THREE_DECIMALS.split(), 3),
        "ISK": 2,
        "UGX": 2,
    },
    steps={"ISK": 100, "UGX": 100, **dict.fromkeys(_THREE_DECIMALS.split(), 10)},
)

# --- Decline and error tables -------------------------------------------------------------------

DECLINES: Final = load("stripe_declines")

_CANCELLED: Final = Decline("cancelled", "hard", Action.DO_NOT_RETRY, "canceled")

REFUSAL_CODES: Final = frozenset(
    # https://docs.stripe.com/error-codes: refused before anything was done, because of what the
    # request says.
    """
    amount_too_large amount_too_small charge_invalid_parameter country_code_invalid
    country_unsupported customer_max_payment_methods email_invalid invalid_characters
    livemode_mismatch parameter_invalid_empty parameter_invalid_integer
    parameter_invalid_string_blank parameter_invalid_string_empty parameter_missing
    parameter_unknown parameters_exclusive payment_intent_incompatible_payment_method
    payment_intent_invalid_parameter payment_method_currency_mismatch
    payment_method_invalid_parameter payment_method_unactivated postal_code_invalid resource_missing
    return_url_invalid state_unsupported testmode_charges_only url_invalid
    """.split()  # noqa: SIM905 - a line each would say no more
)

FOLLOW_UP_REFUSAL_CODES: Final = REFUSAL_CODES | frozenset(
    # The same for what follows a payment: it is not in a state that permits the verb, and no replay
    # changes that.
    """
    balance_insufficient capture_charge_authorization_expired capture_unauthorized_payment
    charge_already_refunded charge_disputed charge_exceeds_source_limit
    charge_exceeds_transaction_limit charge_expired_for_capture charge_not_refundable
    refund_disputed_payment
    """.split()  # noqa: SIM905
)

Verdict = Literal["declined", "credentials", "rate_limited", "refused", "unknown", "unknown_resend"]
ANY: Final = "*"


def _errors(refusals: frozenset[str]) -> Mapping[tuple[int, str], Verdict]:
    rows: dict[tuple[int, str], Verdict] = {
        (402, ANY): "declined",
        (401, ANY): "credentials",
        (403, ANY): "credentials",
        (429, ANY): "rate_limited",
        (429, "lock_timeout"): "unknown_resend",  # another request holds the object: it may be ours
        (409, "idempotency_key_in_use"): "unknown_resend",  # our first request is still running
    }
    return rows | {(status, code): "refused" for status in (400, 404, 422) for code in refusals}


# By HTTP status and error code, (status, ANY) where the code does not matter. What is not here is
# Unknown: 5xx (kept and replayed under the key), `idempotency_error` (our bug),
# `payment_intent_unexpected_state` (an earlier send may be why).
ERRORS: Final[Mapping[Kind, Mapping[tuple[int, str], Verdict]]] = {
    Kind.AUTHORIZE: _errors(REFUSAL_CODES),
    Kind.CAPTURE: _errors(FOLLOW_UP_REFUSAL_CODES),
    Kind.VOID: _errors(FOLLOW_UP_REFUSAL_CODES),
    Kind.REFUND: _errors(FOLLOW_UP_REFUSAL_CODES),
}

_BAD_REQUEST: Final = 400
AMOUNT_PARAMS: Final = frozenset({"amount", "amount_to_capture"})
"""Stripe refuses to refund more than is left by a 400 that names the parameter but no code."""

# --- Event table --------------------------------------------------------------------------------

INTENT_EVENTS: Final = frozenset(
    {
        "payment_intent.succeeded",
        "payment_intent.amount_capturable_updated",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "payment_intent.requires_action",
        "payment_intent.processing",
    }
)
REFUND_EVENTS: Final = frozenset({"refund.created", "refund.updated", "refund.failed"})

# --- What is read of the answers ----------------------------------------------------------------


class _Checks(msgspec.Struct):
    address_postal_code_check: str | None = None
    cvc_check: str | None = None


class _CardDetails(msgspec.Struct):
    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    funding: str | None = None
    country: str | None = None
    checks: _Checks | None = None
    authorization_code: str | None = None
    network_transaction_id: str | None = None

    def facts(self) -> CardFacts:
        return CardFacts(
            brand=self.brand,
            last4=self.last4,
            exp_month=self.exp_month,
            exp_year=self.exp_year,
            funding=self.funding,
            country=self.country,
        )


class _Method(msgspec.Struct):
    card: _CardDetails | None = None


class _NewMethod(msgspec.Struct):
    id: str
    object: Literal["payment_method"]


class _Charge(msgspec.Struct):
    id: str
    payment_method_details: _Method | None = None


class _Named(msgspec.Struct):
    id: str


class _Error(msgspec.Struct):
    code: str | None = None
    param: str | None = None
    decline_code: str | None = None
    advice_code: str | None = None
    payment_intent: _Named | None = None
    payment_method: _Method | None = None

    @property
    def card(self) -> CardFacts | None:
        card = self.payment_method and self.payment_method.card
        return card.facts() if card else None


class _Intent(msgspec.Struct):
    id: str
    object: Literal["payment_intent"]
    amount: int
    currency: str
    status: str
    amount_received: int = 0
    metadata: dict[str, str] = {}
    latest_charge: _Charge | str | None = None
    last_payment_error: _Error | None = None
    next_action: dict[str, Any] | None = None

    @property
    def charge_id(self) -> str | None:
        return self.latest_charge.id if isinstance(self.latest_charge, _Charge) else self.latest_charge

    @property
    def card(self) -> _CardDetails | None:
        charge = self.latest_charge if isinstance(self.latest_charge, _Charge) else None
        method = charge.payment_method_details if charge else None
        return method.card if method else None


class _Refund(msgspec.Struct):
    id: str
    object: Literal["refund"]
    amount: int
    currency: str
    status: str
    metadata: dict[str, str] = {}
    payment_intent: str | None = None
    failure_reason: str | None = None


class _Refunds(msgspec.Struct):
    data: list[_Refund]


class _EventObject(msgspec.Struct):
    object: msgspec.Raw


class _WebhookEvent(msgspec.Struct):
    id: str
    object: Literal["event"]
    type: str
    created: int
    data: _EventObject


class _UnreadableError(Exception):
    """A success that does not say what we need to call it one."""


_T = TypeVar("_T")


def _read(body: bytes | msgspec.Raw, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _UnreadableError(type(error).__name__) from None  # the message could repeat the body


# --- The adapter --------------------------------------------------------------------------------


class StripeProvider:
    """One Stripe account. Safe to use from many tasks at once."""

    name = "stripe"
    capabilities = CAPABILITIES
    acknowledgement = Acknowledgement(b'{"received":true}', "application/json")

    def __init__(self, config: AccountConfig, transport: Transport) -> None:
        if "debug" in (os.environ.get("STRIPE_LOG"), stripe.log):
            raise ConfigError("STRIPE_LOG=debug prints card numbers to stderr: unset it")
        api_key = config.api_key.get_secret_value()
        if (mode := LIVE_KEYS.match(api_key)) and (mode[1] == "live") != config.livemode:
            raise ConfigError(f"account {config.name!r} is {config.environment}, its key is {mode[1]}")
        self._secrets = tuple(secret.get_secret_value() for secret in config.webhook_secrets)
        self._client = stripe.StripeClient(
            api_key,
            stripe_version=API_VERSION,
            base_addresses={"api": (config.base_url or BASE_URL).rstrip("/")},
            max_network_retries=0,  # a resend has to be a decision of ours, never a surprise
            http_client=_PooledClient(transport),
        )

    def refuses(self, money: Money) -> str | None:
        """Why Stripe cannot carry exactly this amount, or ``None`` when it can."""
        if exponent(money.currency) != _USUAL_DECIMALS and money.currency not in UNITS.exponents:
            return f"Stripe does not say with how many decimals it takes {money.currency}"
        try:
            to_provider(money, UNITS)
        except MoneyError as error:
            return str(error)
        return None

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        """The exact request for ``ask``: ``path`` and ``params``.

        ``card`` stands beside them where a card has to become a PaymentMethod first.
        """
        match ask:
            case Authorize():
                return _authorize(ask)
            case Capture():
                params = {
                    "amount_to_capture": to_provider(ask.amount, UNITS),
                    # A key of its own, so that it stands beside the authorization's `operation` on
                    # the same PaymentIntent.
                    "metadata": {"capture": ask.operation_id},
                    "expand": ["latest_charge"],
                }
                return _follow_up(ask.provider_payment_id, "/capture", params)
            case Void():
                return _follow_up(ask.provider_payment_id, "/cancel", {})
            case Refund():
                return _refund(ask)
            case _:
                assert_never(ask)

    async def send(self, call: Call, keep: Keep) -> Outcome:
        """Send ``call`` once.

        With a card: make it a PaymentMethod, hand what is left to ``keep``, and only then charge.
        """
        request = call.request
        if "card" in request:
            method = await self._tokenized(call)
            if not isinstance(method, str):
                return method
            params = {**request["params"], "payment_method": method}
            request = {"path": request["path"], "params": params}
            await keep(request)
        sent = await self._post(call.kind, request["path"], request["params"], call.key)
        return sent if not isinstance(sent, bytes) else _answer(call, request, sent)

    async def lookup(self, call: Call) -> Outcome:
        """Ask what became of ``call``. Nothing found is ``Unknown``: it may still be on its way."""
        payment = call.provider_id if call.kind is Kind.AUTHORIZE else call.request["payment"]
        if not payment:
            return Unknown("no_handle")  # Stripe's search is not for reading what was just written
        path = f"/v1/payment_intents/{_id(payment)}"
        params: dict[str, Any] = {"expand": ["latest_charge"]}
        if call.kind is Kind.REFUND:
            path, params = "/v1/refunds", {"payment_intent": payment, "limit": 100}
        try:
            found = await self._client.raw_request_async("get", path, **params)
            return _FOUND[call.kind](call, _whole(found))
        except (NotSent, MaybeSent, stripe.StripeError) as error:
            return Unknown("lookup_failed", provider_code=type(error).__name__)
        except _UnreadableError:
            return Unknown("unreadable")

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Prove the raw bytes by any of the configured secrets, and that they are an event at all."""
        _verify(headers, body, self._secrets)
        _event(body)

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        """The one event of a body that was verified before."""
        return [_translated(_event(body))]

    async def _tokenized(self, call: Call) -> str | NotProcessed | Declined:
        """The card as a PaymentMethod's id. It moves no money, so no failure of it is Unknown."""
        path, key = "/v1/payment_methods", _step_key(call.key, "payment_method")
        sent = await self._post(call.kind, path, call.request["card"], key)
        if isinstance(sent, bytes):
            try:
                return _read(sent, _NewMethod).id
            except _UnreadableError:
                return NotProcessed("not_sent")
        if isinstance(sent, Unknown):
            return NotProcessed("not_sent", sent.provider_code)
        return sent

    async def _post(
        self, kind: Kind, path: str, params: Mapping[str, Any], key: str
    ) -> bytes | NotProcessed | Declined | Unknown:
        """The body of a 2xx, or what the failure means."""
        try:
            response = await self._client.raw_request_async("post", path, idempotency_key=key, **params)
        except NotSent:
            return NotProcessed("not_sent")
        except MaybeSent:
            return Unknown("connection_lost", resend=True)
        except stripe.StripeError as error:
            return _failure(error, kind)
        return _whole(response)


class _PooledClient(stripe.HTTPClient):
    """The SDK's public seam for a transport. The transport's two exceptions pass through it."""

    name = "interlock"

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body = (post_data or "").encode()
        reply = await self._transport.request(method.upper(), url, headers, body, READ_TIMEOUT_S)
        if 200 <= reply.status < 300:
            # We read the raw bytes ourselves, once. The SDK would parse them into a tree that nobody looks at, and format
            # them for a debug log that is off: a quarter of the whole call (docs/performance.md).
            return b"{}", reply.status, _Answered(reply.headers, reply.body)
        return _utf8(reply.body), reply.status, reply.headers


class _Answered(Mapping[str, str]):
    """The headers of a 2xx, which the SDK hands back as they are, with the body that belongs to them."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self._headers = headers
        self.body = body

    def __getitem__(self, name: str) -> str:
        return self._headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


def _whole(response: Any) -> bytes:
    """The body of a 2xx as it arrived."""
    answered: _Answered = response.headers
    return answered.body


def _utf8(body: bytes) -> bytes:
    """The body, with marks where it is not UTF-8: the SDK would raise something else than its own."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode(errors="replace").encode()
    return body


# --- Verbs: what is sent ------------------------------------------------------------------------


def _authorize(ask: Authorize) -> Mapping[str, Any]:
    params: dict[str, Any] = {
        "amount": to_provider(ask.amount, UNITS),
        "currency": ask.amount.currency.lower(),
        "capture_method": ask.capture_method,
        "confirm": True,
        "payment_method_types": ["card"],
        "metadata": _metadata(ask),
        "expand": ["latest_charge"],
        # The shopper cannot come back from a redirect that they are not there to make.
        **({"off_session": True} if ask.off_session else {"return_url": ask.return_url}),
    }
    optional = {
        "description": ask.description and ask.description[:1000],
        "statement_descriptor_suffix": _descriptor(ask.statement_descriptor),
        "setup_future_usage": None if ask.off_session else ask.setup_future_usage,
    }
    params |= {name: value for name, value in optional.items() if value}
    request: dict[str, Any] = {"path": "/v1/payment_intents", "params": params}
    match ask.instrument:
        case Card() as card:
            return {"card": _new_method(card, ask.billing_details), **request}
        case token:
            params["payment_method"] = token.value
            return request


def _new_method(card: Card, billing: Mapping[str, Any]) -> Mapping[str, Any]:
    details: dict[str, Any] = {
        "number": card.number,
        "exp_month": card.exp_month,
        "exp_year": card.exp_year,
    }
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


def _follow_up(payment: str, verb: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "path": f"/v1/payment_intents/{_id(payment)}{verb}",
        "params": params,
        "payment": payment,
    }


REFUND_REASONS: Final = frozenset({"duplicate", "fraudulent", "requested_by_customer"})


def _refund(ask: Refund) -> Mapping[str, Any]:
    params: dict[str, Any] = {
        "payment_intent": ask.provider_payment_id,
        "amount": to_provider(ask.amount, UNITS),
        "metadata": {"operation": ask.operation_id, "payment": ask.payment_id},
    }
    if ask.reason in REFUND_REASONS:
        params["reason"] = ask.reason
    return {"path": "/v1/refunds", "params": params, "payment": ask.provider_payment_id}


_METADATA_MAX, _METADATA_KEY_MAX, _METADATA_VALUE_MAX = 50, 40, 500


def _metadata(ask: Authorize) -> Mapping[str, str]:
    """Ours last, so that no merchant's key can hide the one an operation is found by.

    https://docs.stripe.com/metadata: at most 50 keys of 40 characters with values of 500.
    """
    ours = {"operation": ask.operation_id, "payment": ask.payment_id}
    if ask.reference:
        ours["reference"] = ask.reference[:_METADATA_VALUE_MAX]
    if ask.customer:
        ours["customer"] = ask.customer[:_METADATA_VALUE_MAX]
    theirs = {
        key: value[:_METADATA_VALUE_MAX]
        for key, value in ask.metadata.items()
        # Square brackets are syntax in Stripe's form encoding.
        if key not in ours and key != "capture" and len(key) <= _METADATA_KEY_MAX and not set("[]") & set(key)
    }
    left = _METADATA_MAX - len(ours) - 1  # one place is the capture's
    return dict(list(theirs.items())[:left]) | ours


def _descriptor(text: str | None) -> str | None:
    r"""What Stripe takes: 22 characters, a letter among them, and none of <>\'"*."""
    suffix = re.sub(r"""[^\x20-\x7e]|[<>\\'"*]""", "", text or "").strip()[:22].strip()
    return suffix if re.search("[A-Za-z]", suffix) else None


def _step_key(key: str, step: str) -> str:
    """The key of one step of an operation: always the same, and shaped like the others."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"{key}/{step}".encode()).digest()[:16], version=4))


def _id(value: str) -> str:
    return quote(value, safe="")


# --- Outcomes: what the answer means ------------------------------------------------------------


def _answer(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    """A 2xx, believed only where it names what we asked for."""
    try:
        match call.kind:
            case Kind.AUTHORIZE:
                return _authorized(call, _read(body, _Intent))
            case Kind.CAPTURE:
                return _captured(call, request["payment"], _read(body, _Intent))
            case Kind.VOID:
                return _voided(call, request["payment"], _read(body, _Intent))
            case Kind.REFUND:
                return _refunded(call, request["payment"], _read(body, _Refund))
            case _:
                assert_never(call.kind)
    except _UnreadableError:
        return Unknown("unreadable")


def _authorized(call: Call, intent: _Intent) -> Outcome:
    if intent.metadata.get("operation") != call.operation_id:
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, intent.amount, intent.currency):
        return mismatch
    if intent.status == "succeeded" and intent.amount_received != intent.amount:
        return Unknown("mismatch_amount_received")
    return _of_intent(intent)


def _captured(call: Call, payment: str, intent: _Intent) -> Outcome:
    if intent.id != payment:
        return Unknown("mismatch_payment")
    if intent.status == "canceled":
        return Declined(_refused(intent.status), intent.id)
    if intent.status != "succeeded":
        return Unknown("not_captured", provider_code=intent.status)
    if intent.metadata.get("capture", call.operation_id) != call.operation_id:
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, intent.amount_received, intent.currency):
        return mismatch
    return Approved(intent.charge_id or intent.id, call.amount, captured=True)


def _voided(call: Call, payment: str, intent: _Intent) -> Outcome:
    if intent.id != payment:
        return Unknown("mismatch_payment")
    if intent.status == "succeeded":
        return Declined(_refused(intent.status), intent.id)
    if intent.status != "canceled":
        return Unknown("not_voided", provider_code=intent.status)
    return Approved(intent.id, call.amount)


def _refunded(call: Call, payment: str, refund: _Refund) -> Outcome:
    if refund.payment_intent != payment or refund.metadata.get("operation") != call.operation_id:
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, refund.amount, refund.currency):
        return mismatch
    return _of_refund(refund)


def _other_money(call: Call, amount: int, currency: str) -> Unknown | None:
    if currency != call.amount.currency.lower():
        return Unknown("mismatch_currency")
    return Unknown("mismatch_amount") if amount != to_provider(call.amount, UNITS) else None


def _of_intent(intent: _Intent) -> Outcome:
    """https://docs.stripe.com/payments/paymentintents/lifecycle; any other status is Unknown."""
    match intent.status:
        case "succeeded":
            return _approved(intent, intent.amount_received, captured=True)
        case "requires_capture":
            return _approved(intent, intent.amount, captured=False)
        case "requires_action" if intent.next_action:
            return ActionRequired(intent.id, intent.next_action)
        case "processing":
            return Pending(intent.id)
        case "canceled":
            return Declined(_CANCELLED, intent.id)
        case "requires_payment_method" if intent.last_payment_error:
            error = intent.last_payment_error
            return Declined(_decline(error), intent.id, error.card)
        case status:
            return Unknown("status", provider_code=status)


def _approved(intent: _Intent, amount: int, *, captured: bool) -> Approved:
    card = intent.card or _CardDetails()
    checks = card.checks or _Checks()
    return Approved(
        provider_id=intent.id,
        amount=from_provider(amount, intent.currency, UNITS),
        captured=captured,
        network_transaction_id=card.network_transaction_id,
        auth_code=card.authorization_code,
        avs=checks.address_postal_code_check,
        cvc=checks.cvc_check,
        card=card.facts() if intent.card else None,
    )


def _of_refund(refund: _Refund) -> Outcome:
    """https://docs.stripe.com/refunds#failed-refunds: a refund that succeeded may fail later."""
    match refund.status:
        case "succeeded":
            return Approved(refund.id, from_provider(refund.amount, refund.currency, UNITS))
        case "pending" | "requires_action":
            return Pending(refund.id)
        case "failed" | "canceled":
            return Declined(_refused(refund.failure_reason or refund.status), refund.id)
        case status:
            return Unknown("status", provider_code=status)


def _failure(error: stripe.StripeError, kind: Kind) -> NotProcessed | Declined | Unknown:
    """An SDK error by the table. Its class decides nothing: 409, 5xx and 2xx garbage share one."""
    status, details = error.http_status or 0, _details(error)
    code = details.code or ""
    verdict = ERRORS[kind].get((status, code)) or ERRORS[kind].get((status, ANY), "unknown")
    if kind is not Kind.AUTHORIZE and status == _BAD_REQUEST and not code and details.param in AMOUNT_PARAMS:
        verdict, code = "refused", f"{details.param}_invalid"
    match verdict:
        case "declined" if details.code or details.decline_code:
            intent = details.payment_intent
            return Declined(_decline(details), intent.id if intent else None, details.card)
        case "credentials" | "rate_limited":
            return NotProcessed(verdict, code or None)
        case "refused" if kind is Kind.AUTHORIZE:
            return NotProcessed("rejected", code)
        case "refused":
            return Declined(_refused(code))
        case "declined" | "unknown" | "unknown_resend":
            return Unknown(f"http_{status}", resend=verdict == "unknown_resend", provider_code=code or None)
        case _:
            assert_never(verdict)


def _details(error: stripe.StripeError) -> _Error:
    """What the error says of itself. The SDK sets ``err.code`` for half of its classes only."""
    body = error.json_body if error.error else None
    try:
        return msgspec.convert(body["error"], _Error) if isinstance(body, dict) else _Error()
    except msgspec.ValidationError:
        return _Error()


def _decline(error: _Error) -> Decline:
    """The decline code where our table has it, else the error code; the raw word is kept."""
    known = (code for code in (error.decline_code, error.code) if code in DECLINES)
    code = next(known, error.decline_code or error.code)
    return look_up(DECLINES, code).advised(error.advice_code)


def _refused(code: str) -> Decline:
    return Decline("provider_refused", "hard", Action.DO_NOT_RETRY, code)


# --- Lookup: what is found ----------------------------------------------------------------------


def _found_refund(call: Call, body: bytes) -> Outcome:
    for refund in _read(body, _Refunds).data:
        if refund.metadata.get("operation") == call.operation_id:
            return _refunded(call, call.request["payment"], refund)
    return Unknown("not_found")


_FOUND: Final[Mapping[Kind, Callable[[Call, bytes], Outcome]]] = {
    Kind.AUTHORIZE: lambda call, body: _authorized(call, _read(body, _Intent)),
    Kind.CAPTURE: lambda call, body: _captured(call, call.request["payment"], _read(body, _Intent)),
    Kind.VOID: lambda call, body: _voided(call, call.request["payment"], _read(body, _Intent)),
    Kind.REFUND: _found_refund,
}

# --- Webhooks -----------------------------------------------------------------------------------


def _verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
    if not secrets:
        raise WebhookRefused("no webhook secret is configured for this account")
    header = next((value for name, value in headers.items() if name.lower() == "stripe-signature"), "")
    if not any(_signed(body, header, secret) for secret in secrets):
        raise WebhookRefused("the signature matches no configured secret, or it is too old")
    stamp = next(part for part in header.split(",") if part.startswith("t="))
    if int(stamp[2:]) > time.time() + WEBHOOK_TOLERANCE_S:  # the SDK refuses the past only
        raise WebhookRefused("the signature is from the future")


def _signed(body: bytes, header: str, secret: str) -> bool:
    """The SDK's verdict. It also raises on a body that is not UTF-8 and a signature not ASCII."""
    try:
        return bool(stripe.WebhookSignature.verify_header(body, header, secret, WEBHOOK_TOLERANCE_S))
    except (stripe.SignatureVerificationError, ValueError, TypeError):
        return False


def _event(body: bytes) -> _WebhookEvent:
    try:
        return _read(body, _WebhookEvent)
    except _UnreadableError as error:
        raise WebhookRefused("the body is not a Stripe event") from error


def _translated(event: _WebhookEvent) -> Event:
    """The event in our words. One without use for us, or unreadable, is kept as it is."""
    kept = Event(event.id, event.type, occurred_at=datetime.fromtimestamp(event.created, UTC))
    try:
        if event.type in INTENT_EVENTS:
            return _intent_event(kept, _read(event.data.object, _Intent))
        if event.type in REFUND_EVENTS:
            return _refund_event(kept, _read(event.data.object, _Refund))
    except (_UnreadableError, MoneyError):
        return kept
    return kept


def _intent_event(kept: Event, intent: _Intent) -> Event:
    kind, operation, outcome = Kind.AUTHORIZE, intent.metadata.get("operation"), _of_intent(intent)
    if intent.status == "succeeded" and "capture" in intent.metadata:
        kind, operation = Kind.CAPTURE, intent.metadata["capture"]
    elif intent.status == "canceled" and intent.charge_id and intent.last_payment_error is None:
        # There was an authorization, so this released it. A cancel carries no metadata that could
        # name our operation.
        kind, operation = Kind.VOID, None
        outcome = Approved(intent.id, from_provider(intent.amount, intent.currency, UNITS))
    if isinstance(outcome, Unknown):  # a status we do not know is no news
        return kept
    return Event(
        event_id=kept.event_id,
        type=kept.type,
        kind=kind,
        operation_id=operation,
        provider_id=intent.charge_id or intent.id if kind is Kind.CAPTURE else intent.id,
        provider_payment_id=intent.id,
        outcome=outcome,
        occurred_at=kept.occurred_at,
    )


def _refund_event(kept: Event, refund: _Refund) -> Event:
    outcome = _of_refund(refund)
    if isinstance(outcome, Unknown):
        return kept
    return Event(
        event_id=kept.event_id,
        type=kept.type,
        kind=Kind.REFUND,
        operation_id=refund.metadata.get("operation"),
        provider_id=refund.id,
        provider_payment_id=refund.payment_intent,
        outcome=outcome,
        occurred_at=kept.occurred_at,
    )
