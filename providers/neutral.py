"""A PSP that does not exist, in one file: the shortest complete adapter, to copy from.

``gateway sandbox --neutral-port`` plays the other side. Where Stripe and Adyen agree it differs on purpose: amounts are
decimal texts in major units, the idempotency key is a field of the body, a refusal is a state and not an error, a move
tells its result at once, and a charge can be found and ended by our reference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec
import orjson

from providers.contract import (
    Acknowledgement,
    ActionRequired,
    Approved,
    Ask,
    Authorize,
    Call,
    Capabilities,
    Capability,
    Capture,
    Card,
    CardFacts,
    Declined,
    DetailsRefused,
    Event,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Refund,
    Unknown,
    Void,
    WebhookRefused,
    derived_key,
    fingerprint_of,
)
from providers.declines import Action, Decline, load, look_up
from providers.money import Money, MoneyError, Units, exponent, from_provider, to_provider
from providers.registry import AccountConfig, ConfigError
from providers.transport import MaybeSent, NotSent, Reply, Transport

# --- Config -----------------------------------------------------------------------------------------------------------

READ_TIMEOUT_S: Final = 60.0
"""Longest silence on one socket; the deadline of a call is the registry's and shorter."""

# --- Capabilities -----------------------------------------------------------------------------------------------------

CAPABILITIES: Final = Capabilities(
    supported=frozenset(
        {
            Capability.CARD_NUMBERS,
            Capability.MANUAL_CAPTURE,
            Capability.PARTIAL_CAPTURE,
            Capability.SEVERAL_CAPTURES,
            Capability.PARTIAL_REFUND,
            Capability.SEVERAL_REFUNDS,
            Capability.REDIRECT,
            Capability.LOOKUP,
        }
    ),
    replay_horizon_s=40 * 3600,  # it forgets a request id after 48 h
)

_NO_DECIMALS: Final = "BIF CLP DJF GNF HUF ISK JPY KMF KRW PYG RWF TWD UGX VND VUV XAF XOF XPF"
_THREE_DECIMALS: Final = "BHD IQD JOD KWD LYD OMR TND"
_UNITS_MAX: Final = Decimal(10) ** 9
"""Amounts stay below this, in major units."""

# The forint and the new Taiwan dollar are taken in whole units only.
UNITS: Final = Units(
    exponents={**dict.fromkeys(_NO_DECIMALS.split(), 0), **dict.fromkeys(_THREE_DECIMALS.split(), 3)}, steps={}
)

# --- Decline and error tables -----------------------------------------------------------------------------------------

DECLINES: Final = load("neutral_refusals")

_CANCELLED: Final = Decline("cancelled", "hard", Action.DO_NOT_RETRY, "released")

Verdict = Literal["credentials", "rate_limited", "refused", "unknown", "unknown_resend"]
ANY: Final = "*"

_REFUSALS: Final = (
    "bad_value bad_currency bad_reference bad_return_to bad_settle bad_source no_request_id nothing_held reference_closed "
    "too_much"
)

# By HTTP status and error code. What is not here is Unknown: 5xx, `request_id_reused` (our bug), a new word.
ERRORS: Final[Mapping[tuple[int, str], Verdict]] = {
    (401, ANY): "credentials",
    (403, ANY): "credentials",
    (429, ANY): "rate_limited",
    (409, "request_running"): "unknown_resend",  # our first request is still running
    (400, "no_request_id"): "refused",
    (404, "no_such_charge"): "refused",
    **{(422, code): "refused" for code in _REFUSALS.split()},
}

# --- Event table ------------------------------------------------------------------------------------------------------

EVENTS: Final[Mapping[str, Kind]] = {
    "charge.held": Kind.AUTHORIZE,
    "charge.settled": Kind.AUTHORIZE,
    "charge.refused": Kind.AUTHORIZE,
    "charge.asking_shopper": Kind.AUTHORIZE,
    "move.settle": Kind.CAPTURE,
    "move.release": Kind.VOID,
    "move.give_back": Kind.REFUND,
}
MOVES: Final[Mapping[Kind, str]] = {Kind.CAPTURE: "settle", Kind.VOID: "release", Kind.REFUND: "give_back"}

# --- What is read of the answers --------------------------------------------------------------------------------------


class _Card(msgspec.Struct):
    scheme: str | None = None
    starts: str | None = None
    ends: str | None = None
    expires: str = ""
    country: str | None = None


class _Move(msgspec.Struct):
    move_id: str
    charge_id: str
    kind: str
    reference: str
    value: str
    currency: str


class _Charge(msgspec.Struct):
    charge_id: str
    reference: str
    state: str
    currency: str
    value: str
    settle: Literal["now", "later"]
    refused_why: str | None = None
    send_shopper_to: str | None = None
    approval_code: str | None = None
    network_trace: str | None = None
    card: _Card | None = None
    moves: list[_Move] = []


class _Closed(msgspec.Struct):
    closed: str


class _Charges(msgspec.Struct):
    charges: list[_Charge]


class _Problem(msgspec.Struct):
    code: str = ""


class _Error(msgspec.Struct):
    error: _Problem


class _Webhook(msgspec.Struct):
    event_id: str
    event: str
    at: datetime
    charge: _Charge
    move: _Move | None = None


class _UnreadableError(Exception):
    """A success that does not say what we need to call it one."""


_T = TypeVar("_T")


def _read(body: bytes, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _UnreadableError(type(error).__name__) from None  # the message could repeat the body


# --- The adapter ------------------------------------------------------------------------------------------------------


class NeutralProvider:
    """One account at the PSP that does not exist. Safe to use from many tasks at once."""

    name = "neutral"
    capabilities = CAPABILITIES
    acknowledgement = Acknowledgement(b"{}", "application/json")

    def __init__(self, config: AccountConfig, transport: Transport) -> None:
        if not config.base_url:
            raise ConfigError(
                f"account {config.name!r}: the neutral provider needs base_url, it has no address of its own"
            )
        self._url = config.base_url.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {config.api_key.get_secret_value()}",
            "Content-Type": "application/json",
        }
        self._secrets = tuple(secret.get_secret_value().encode() for secret in config.webhook_secrets)
        self._transport = transport

    def refuses(self, money: Money) -> str | None:
        """Why this provider cannot carry exactly this amount, or ``None`` when it can."""
        if not UNITS.tells(money.currency):
            return f"this provider does not list {money.currency}"
        try:
            sent = Decimal(_amount(money))
        except MoneyError as error:
            return str(error)
        return None if 0 < sent < _UNITS_MAX else "this provider takes amounts above zero and below a milliard"

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        """The exact request for ``ask``: ``path``, ``body``, and the ``charge`` it follows."""
        match ask:
            case Authorize():
                return {"path": "/charges", "charge": None, "body": _charge(ask)}
            case Capture():
                return _move(ask, "settle", {**_money(ask.amount), "last": ask.final})
            case Refund():
                return _move(ask, "give_back", {**_money(ask.amount), "why": ask.reason or "other"})
            case Void(provider_payment_id=None):
                body = {"reference": ask.operation_id, "charge_reference": ask.attempt_id}
                return {"path": "/releases", "charge": None, "body": body}
            case Void():
                return _move(ask, "release", {})
            case _:
                raise ValueError(f"no capability of this provider permits {type(ask).__name__}")

    def completion(self, call: Call, details: Mapping[str, str]) -> Mapping[str, Any]:
        """Finish a charge with the ``proof`` that the challenge page put into the return address."""
        if not details.get("proof"):
            raise DetailsRefused("proof is missing: the query parameters of the return address hold it")
        if not call.provider_id:
            raise DetailsRefused("this attempt has no charge that could be finished")
        path = f"/charges/{_id(call.provider_id)}/finish"
        return {"path": path, "charge": call.provider_id, "body": {"proof": details["proof"]}}

    async def send(self, call: Call, keep: Keep) -> Outcome:
        """Send ``call`` once. There is one step only, so ``keep`` is not needed."""
        request = call.request
        body = orjson.dumps({**request["body"], "request_id": _request_id(call)})
        try:
            reply = await self._transport.request(
                "POST", self._url + request["path"], self._headers, body, READ_TIMEOUT_S
            )
        except NotSent:
            return NotProcessed("not_sent")
        except MaybeSent:
            return Unknown("connection_lost", resend=True)
        if reply.status != 200:
            return _failure(call, reply)
        try:
            return _answer(call, reply.body)
        except (_UnreadableError, MoneyError):
            return Unknown("unreadable")

    async def lookup(self, call: Call) -> Outcome:
        """Ask what became of ``call``, by the charge's id or by our reference. Nothing found is ``Unknown``."""
        charge, reference = call.request.get("charge") or call.provider_id, call.operation_id
        if call.kind is Kind.VOID and not call.request.get("charge"):
            charge, reference = None, call.request["body"]["charge_reference"]
        path = f"/charges/{_id(charge)}" if charge else f"/charges?reference={_id(reference)}"
        try:
            reply = await self._transport.request("GET", self._url + path, self._headers, b"", READ_TIMEOUT_S)
            if reply.status != 200:
                return Unknown("lookup_failed", provider_code=f"http_{reply.status}")
            found = [_read(reply.body, _Charge)] if charge else _read(reply.body, _Charges).charges
            return _found(call, found[0]) if found else Unknown("not_found")
        except (NotSent, MaybeSent) as error:
            return Unknown("lookup_failed", provider_code=type(error).__name__)
        except (_UnreadableError, MoneyError):
            return Unknown("unreadable")

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        """Prove the raw bytes by any of the configured secrets, and that they are an event at all."""
        if not self._secrets:
            raise WebhookRefused("no webhook secret is configured for this account", "no_secret")
        shown = next((value for name, value in headers.items() if name.lower() == "x-signature"), "").encode()
        for secret in self._secrets:
            if hmac.compare_digest(hmac.new(secret, body, hashlib.sha256).hexdigest().encode(), shown):
                _event(body)
                return fingerprint_of(secret.decode())
        raise WebhookRefused("the signature matches no configured secret")

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        """The one event of a body that was verified before."""
        return [_translated(_event(body))]


# --- Verbs: what is sent ----------------------------------------------------------------------------------------------


def _charge(ask: Authorize) -> Mapping[str, Any]:
    match ask.instrument:
        case Card() as card:
            source = {"number": card.number, "expires": f"{card.exp_month:02d}/{card.exp_year}"}
            source |= {"code": card.cvc} if card.cvc else {}
        case token:
            source = {"token": token.value}
    return {
        "reference": ask.operation_id,
        "money": _money(ask.amount),
        "settle": "now" if ask.capture_method == "automatic" else "later",
        "source": source,
        "return_to": ask.return_url,
        "ask_shopper": ask.three_d_secure == "required",
    }


def _move(ask: Capture | Void | Refund, verb: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    charge = ask.provider_payment_id
    path = f"/charges/{_id(charge or '')}/{verb}"
    return {"path": path, "charge": charge, "body": {"reference": ask.operation_id, **body}}


def _money(money: Money) -> Mapping[str, str]:
    return {"value": _amount(money), "currency": money.currency}


_AMOUNT: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,4})?")


def _decimals(currency: str) -> int:
    return UNITS.exponents.get(currency, exponent(currency))


def _amount(money: Money) -> str:
    return f"{Decimal(to_provider(money, UNITS)).scaleb(-_decimals(money.currency)):f}"


def _request_id(call: Call) -> str:
    """The operation's key; of the step that finishes it a key of its own, which follows from both."""
    proof = call.request["body"].get("proof")
    if proof is None:
        return call.key
    return derived_key(f"{call.key}/finish/{proof}".encode())


def _id(value: str) -> str:
    return quote(value, safe="")


# --- Outcomes: what the answer means ----------------------------------------------------------------------------------


def _answer(call: Call, body: bytes) -> Outcome:
    """A 200, believed only where it names what we asked for."""
    if call.kind is Kind.AUTHORIZE:
        return _charged(call, _read(body, _Charge))
    if call.request["charge"] is None:
        attempt = call.request["body"]["charge_reference"]
        try:
            closed = _read(body, _Closed).closed == attempt
        except _UnreadableError:
            return _moved(call, _read(body, _Move))  # the charge was there after all
        return Approved(attempt, call.amount) if closed else Unknown("mismatch_operation")
    return _moved(call, _read(body, _Move))


def _charged(call: Call, charge: _Charge) -> Outcome:
    if charge.reference != call.operation_id:
        return Unknown("mismatch_operation")
    return _other_money(call, charge.value, charge.currency) or _of_charge(charge)


def _moved(call: Call, move: _Move) -> Outcome:
    if move.charge_id != (call.request["charge"] or move.charge_id) or move.reference != call.operation_id:
        return Unknown("mismatch_operation")
    if move.kind != MOVES[call.kind]:
        return Unknown("mismatch_operation")
    if call.kind is Kind.VOID:  # a charge is released, not an amount
        return Approved(move.move_id, call.amount)
    return _other_money(call, move.value, move.currency) or _of_move(move, call.kind)


def _found(call: Call, charge: _Charge) -> Outcome:
    if call.kind is Kind.AUTHORIZE:
        return _charged(call, charge)
    moves = (move for move in charge.moves if (move.reference, move.kind) == (call.operation_id, MOVES[call.kind]))
    return next((_moved(call, move) for move in moves), Unknown("not_found"))


def _other_money(call: Call, value: str, currency: str) -> Unknown | None:
    if currency != call.amount.currency:
        return Unknown("mismatch_currency")
    return None if _worth(value, currency) == call.amount else Unknown("mismatch_amount")


def _worth(value: str, currency: str) -> Money:
    units = Decimal(value).scaleb(_decimals(currency)) if _AMOUNT.fullmatch(value) else Decimal("NaN")
    if units != units.to_integral_value():  # nothing equals NaN
        raise _UnreadableError("amount")
    return from_provider(int(units), currency, UNITS)


def _of_charge(charge: _Charge) -> Outcome:
    match charge.state:
        case "held" | "settled":
            return _approved(charge)
        case "released":  # also where it was approved before: nothing is held any more
            return Declined(_CANCELLED, charge.charge_id, _facts(charge))
        case "refused":
            return Declined(look_up(DECLINES, charge.refused_why), charge.charge_id, _facts(charge))
        case "asking_shopper" if charge.send_shopper_to:
            action = {"type": "redirect_to_url", "redirect_to_url": {"url": charge.send_shopper_to}}
            return ActionRequired(charge.charge_id, action)
        case state:
            return Unknown("status", provider_code=state)


def _approved(charge: _Charge) -> Approved:
    return Approved(
        provider_id=charge.charge_id,
        amount=_worth(charge.value, charge.currency),
        captured=charge.settle == "now",
        network_transaction_id=charge.network_trace,
        auth_code=charge.approval_code,
        card=_facts(charge),
    )


def _of_move(move: _Move, kind: Kind) -> Approved:
    return Approved(move.move_id, _worth(move.value, move.currency), captured=kind is Kind.CAPTURE)


def _facts(charge: _Charge) -> CardFacts | None:
    card = charge.card
    if card is None:
        return None
    month, _, year = card.expires.partition("/")
    return CardFacts(
        brand=card.scheme,
        bin=card.starts,
        last4=card.ends,
        exp_month=int(month) if month.isdecimal() else None,
        exp_year=int(year) if year.isdecimal() else None,
        country=card.country,
    )


def _failure(call: Call, reply: Reply) -> Outcome:
    """Anything but a 200, by the table."""
    try:
        code = _read(reply.body, _Error).error.code
    except _UnreadableError:
        code = ""
    verdict = ERRORS.get((reply.status, code)) or ERRORS.get((reply.status, ANY), "unknown")
    first = call.kind is Kind.AUTHORIZE
    match verdict:
        case "credentials" | "rate_limited":
            return NotProcessed(verdict, code or None)
        case "refused" if first and call.request["charge"] is None:
            return NotProcessed("rejected", code)
        case "refused" if not first:
            return Declined(Decline("provider_refused", "hard", Action.DO_NOT_RETRY, code))
        case _:  # a charge that could not be finished still waits there
            return Unknown(f"http_{reply.status}", resend=verdict == "unknown_resend", provider_code=code or None)


# --- Webhooks ---------------------------------------------------------------------------------------------------------


def _event(body: bytes) -> _Webhook:
    try:
        return _read(body, _Webhook)
    except _UnreadableError as error:
        raise WebhookRefused("the body is not an event", "unreadable") from error


def _translated(webhook: _Webhook) -> Event:
    """The event in our words. One without use for us, or unreadable, is kept as it is."""
    kept = Event(webhook.event_id, webhook.event, occurred_at=webhook.at)
    kind, charge, move = EVENTS.get(webhook.event), webhook.charge, webhook.move
    if kind is None or (move is None) is not (kind is Kind.AUTHORIZE):
        return kept
    try:
        outcome = _of_charge(charge) if move is None else _of_move(move, kind)
    except (_UnreadableError, MoneyError):
        return kept
    if isinstance(outcome, Unknown):  # a state we do not know is no news
        return kept
    return Event(
        event_id=webhook.event_id,
        type=webhook.event,
        kind=kind,
        operation_id=charge.reference if move is None else move.reference,
        provider_id=charge.charge_id if move is None else move.move_id,
        provider_payment_id=charge.charge_id,
        outcome=outcome,
        occurred_at=webhook.at,
    )
