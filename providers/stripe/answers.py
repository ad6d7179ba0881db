"""What Stripe's answers mean: the shapes that are read, the tables of errors and declines, and an outcome for each verb.

Pure. An answer is believed only where it names what was asked for: the same object, the same money, and the metadata that
says which operation of ours it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar, assert_never

import msgspec

from providers.contract import (
    ActionRequired,
    Approved,
    Call,
    CardFacts,
    Declined,
    DisputeStatus,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    ThreeDSecure,
    Unknown,
)
from providers.declines import Action, Advice, Decline, NetworkAdvice, failed_after_all, load, load_advice, look_up
from providers.money import Money, from_provider, to_provider
from providers.stripe.asks import CAPTURE, CAPTURE_AMOUNT, INCREMENT, OPERATION, UNITS, is_verification

# --- Decline and error tables -----------------------------------------------------------------------------------------

DECLINES: Final = load("stripe_declines")

_STRIPE_ADVICE: Final = load_advice("stripe")
_MASTERCARD_ADVICE: Final = load_advice("mastercard")
_VISA_ADVICE: Final = {
    # Only what Visa forbids to try again: the other codes say no more than Stripe's own decline code.
    code: advice
    for code, advice in load_advice("visa").items()
    if advice.advice is Advice.NEVER
}

_CANCELLED: Final = Decline("cancelled", "hard", Action.DO_NOT_RETRY, "canceled")

REFUSAL_CODES: Final = frozenset(
    # https://docs.stripe.com/error-codes: refused before anything was done, because of what the request says.
    """
    amount_too_large amount_too_small charge_invalid_parameter country_code_invalid country_unsupported
    customer_max_payment_methods email_invalid invalid_characters livemode_mismatch parameter_invalid_empty
    parameter_invalid_integer parameter_invalid_string_blank parameter_invalid_string_empty parameter_missing
    parameter_unknown parameters_exclusive payment_intent_incompatible_payment_method payment_intent_invalid_parameter
    payment_method_currency_mismatch payment_method_invalid_parameter payment_method_unactivated postal_code_invalid
    resource_missing return_url_invalid setup_intent_invalid_parameter state_unsupported testmode_charges_only url_invalid
    """.split()  # noqa: SIM905 - a line each would say no more
)

FOLLOW_UP_REFUSAL_CODES: Final = REFUSAL_CODES | frozenset(
    # The same for what follows a payment: it is not in a state that permits the verb, and no replay changes that.
    """
    balance_insufficient capture_charge_authorization_expired capture_unauthorized_payment charge_already_refunded
    charge_disputed charge_exceeds_source_limit charge_exceeds_transaction_limit charge_expired_for_capture
    charge_not_refundable refund_disputed_payment
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


# By HTTP status and error code, (status, ANY) where the code does not matter. What is not here is Unknown: 5xx (kept and
# replayed under the key), `idempotency_error` (our bug), `payment_intent_unexpected_state` (an earlier send may be why).
ERRORS: Final[Mapping[Kind, Mapping[tuple[int, str], Verdict]]] = {
    kind: _errors(REFUSAL_CODES if kind is Kind.AUTHORIZE else FOLLOW_UP_REFUSAL_CODES) for kind in Kind
}

_BAD_REQUEST: Final = 400
CHARGE_PARAMS: Final = frozenset({"amount", "currency"})
"""A currency or an amount that Stripe does not take at all is refused in the same way, before anything is done."""
AMOUNT_PARAMS: Final = frozenset({"amount", "amount_to_capture"})
"""Stripe refuses to refund more than is left by a 400 that names the parameter but no code."""
SPENT: Final = "It may not be used again"
"""A PaymentMethod that was used once without a Customer is refused by a 400 without a code, in these words."""

# --- What is read of the answers --------------------------------------------------------------------------------------


class _Checks(msgspec.Struct):
    address_postal_code_check: str | None = None
    cvc_check: str | None = None


class _Authentication(msgspec.Struct):
    result: str | None = None
    authentication_flow: str | None = None
    version: str | None = None
    electronic_commerce_indicator: str | None = None


class _Feature(msgspec.Struct):
    status: str | None = None


class CardDetails(msgspec.Struct):
    """What Stripe tells of a card, beside a charge, a PaymentMethod or a setup attempt."""

    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    funding: str | None = None
    country: str | None = None
    checks: _Checks | None = None
    authorization_code: str | None = None
    network_transaction_id: str | None = None
    three_d_secure: _Authentication | None = None
    capture_before: int | None = None
    multicapture: _Feature | None = None
    incremental_authorization: _Feature | None = None

    def facts(self) -> CardFacts:
        """What is fit to show."""
        return CardFacts(
            brand=self.brand,
            last4=self.last4,
            exp_month=self.exp_month,
            exp_year=self.exp_year,
            funding=self.funding,
            country=self.country,
        )


class _Method(msgspec.Struct):
    id: str | None = None
    card: CardDetails | None = None


class _Charge(msgspec.Struct):
    id: str
    payment_method_details: _Method | None = None


class _Named(msgspec.Struct):
    id: str


class ApiError(msgspec.Struct):
    """Stripe's error object: that of a refused request, or the last one of an intent."""

    code: str | None = None
    message: str | None = None
    param: str | None = None
    decline_code: str | None = None
    advice_code: str | None = None
    network_advice_code: str | None = None
    network_decline_code: str | None = None
    payment_intent: _Named | None = None
    setup_intent: _Named | None = None
    payment_method: _Method | None = None

    @property
    def card(self) -> CardFacts | None:
        """What is known of the declined card."""
        card = self.payment_method and self.payment_method.card
        return card.facts() if card else None

    @property
    def intent_id(self) -> str | None:
        """The intent that this error is about."""
        about = self.payment_intent or self.setup_intent
        return about.id if about else None


class _CardOptions(msgspec.Struct):
    request_multicapture: str | None = None


class _Options(msgspec.Struct):
    card: _CardOptions | None = None


class _Marked(msgspec.Struct, kw_only=True):
    """An object with metadata, which Stripe may also leave null."""

    marks: dict[str, str] | None = msgspec.field(name="metadata", default=None)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata: what the merchant has set, and ours."""
        return self.marks or {}


class Intent(_Marked):
    """A PaymentIntent."""

    id: str
    object: Literal["payment_intent"]
    amount: int
    currency: str
    status: str
    amount_received: int = 0
    customer: str | None = None
    payment_method: str | None = None
    setup_future_usage: str | None = None
    payment_method_options: _Options | None = None
    latest_charge: _Charge | str | None = None
    last_error: ApiError | None = msgspec.field(name="last_payment_error", default=None)
    cancellation_reason: str | None = None
    next_action: dict[str, Any] | None = None

    @property
    def charge_id(self) -> str | None:
        """The charge behind it, expanded or not."""
        return self.latest_charge.id if isinstance(self.latest_charge, _Charge) else self.latest_charge

    @property
    def card(self) -> CardDetails | None:
        """The charged card, where the charge is expanded."""
        charge = self.latest_charge if isinstance(self.latest_charge, _Charge) else None
        method = charge.payment_method_details if charge else None
        return method.card if method else None

    def lacks(self, feature: Literal["multicapture", "incremental_authorization"]) -> bool:
        """Whether Stripe says that this card cannot do it: then a request for it did nothing and never will."""
        told: _Feature | None = getattr(self.card, feature) if self.card else None
        return told is not None and told.status == "unavailable"

    @property
    def token(self) -> str | None:
        """What the card is called from now on, where it was asked to be remembered."""
        return _token(self.customer, self.payment_method) if self.setup_future_usage else None

    @property
    def several(self) -> bool:
        """Whether more than one capture may have been taken: then ``amount_received`` is a sum."""
        options = self.payment_method_options and self.payment_method_options.card
        return bool(options and options.request_multicapture == "if_available")


class _Attempt(msgspec.Struct):
    payment_method_details: _Method | None = None


class Setup(_Marked):
    """A SetupIntent."""

    id: str
    object: Literal["setup_intent"]
    status: str
    customer: str | None = None
    payment_method: _Method | str | None = None
    latest_attempt: _Attempt | str | None = None
    last_error: ApiError | None = msgspec.field(name="last_setup_error", default=None)
    next_action: dict[str, Any] | None = None

    @property
    def card(self) -> CardDetails | None:
        """The verified card, where the PaymentMethod is expanded."""
        return self.payment_method.card if isinstance(self.payment_method, _Method) else None

    @property
    def attempt(self) -> CardDetails:
        """What the attempt itself found out, where it is expanded."""
        attempt = self.latest_attempt if isinstance(self.latest_attempt, _Attempt) else None
        details = attempt.payment_method_details if attempt else None
        return (details.card if details else None) or CardDetails()

    @property
    def token(self) -> str | None:
        """What the card is called from now on: only a Customer's card can be used again."""
        method = self.payment_method.id if isinstance(self.payment_method, _Method) else self.payment_method
        return _token(self.customer, method)


class _State(msgspec.Struct):
    """What a cancel is read by, of either kind of intent."""

    id: str
    object: Literal["payment_intent", "setup_intent"]
    status: str


class RefundObject(_Marked):
    """A Refund."""

    id: str
    object: Literal["refund"]
    amount: int
    currency: str
    status: str | None = None
    payment_intent: str | None = None
    failure_reason: str | None = None


class _Refunds(msgspec.Struct):
    data: list[RefundObject]


class _EvidenceDetails(msgspec.Struct, frozen=True):
    due_by: int | None = None
    submission_count: int = 0


class _DisputedCard(msgspec.Struct):
    network_reason_code: str | None = None


class _DisputedMethod(msgspec.Struct):
    card: _DisputedCard | None = None


class DisputeObject(_Marked):
    """A Dispute."""

    id: str
    object: Literal["dispute"]
    amount: int
    currency: str
    status: str
    reason: str | None = None
    payment_intent: str | None = None
    evidence_details: _EvidenceDetails = _EvidenceDetails()
    payment_method_details: _DisputedMethod | None = None


class MethodObject(msgspec.Struct):
    """A PaymentMethod, as a webhook shows it."""

    id: str
    object: Literal["payment_method"]
    customer: str | None = None
    card: CardDetails | None = None


class WarningObject(msgspec.Struct):
    """An early fraud warning."""

    id: str
    object: Literal["radar.early_fraud_warning"]
    charge: str
    fraud_type: str
    payment_intent: str | None = None


class ReviewObject(msgspec.Struct):
    """A review of a payment by people."""

    id: str
    object: Literal["review"]
    reason: str
    payment_intent: str | None = None
    closed_reason: str | None = None


class _File(msgspec.Struct):
    url: str | None = None


class ReportObject(msgspec.Struct):
    """A payout whose report can be made, or a report that was."""

    id: str
    object: Literal["payout", "reporting.report_run"]
    report_type: str | None = None
    result: _File | None = None


class _Listed(_Marked):
    id: str


class Page(msgspec.Struct):
    """One page of a list of intents, by name only."""

    data: list[_Listed]
    has_more: bool = False

    def named(self, operation: str) -> str | None:
        """The intent that carries the name of this operation."""
        return next((each.id for each in self.data if each.metadata.get(OPERATION) == operation), None)


class Made(msgspec.Struct):
    """Something that had to be made before the call that counts."""

    id: str
    object: str


class UnreadableError(Exception):
    """A success that does not say what we need to call it one."""


_T = TypeVar("_T")


def read(body: bytes | msgspec.Raw, shape: type[_T]) -> _T:
    """The body as ``shape``. Raises :class:`UnreadableError`, which never repeats the body."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(type(error).__name__) from None


def _token(customer: str | None, method: str | None) -> str | None:
    return f"{customer}/{method}" if customer and method else None


# --- Outcomes ---------------------------------------------------------------------------------------------------------


def outcome_of(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    """What a 2xx means for ``call``; ``request`` is the one that was answered."""
    try:
        return _READERS[call.kind](call, request, body)
    except UnreadableError:
        return Unknown("unreadable")


def _authorized(call: Call, _request: Mapping[str, Any], body: bytes) -> Outcome:
    if is_verification(call.amount):
        return _verified(call, read(body, Setup))
    intent = read(body, Intent)
    if intent.metadata.get(OPERATION) != call.operation_id:
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, intent.amount, intent.currency):
        return mismatch
    if intent.status == "succeeded" and intent.amount_received != intent.amount:
        return Unknown("mismatch_amount_received")
    return of_intent(intent)


def _verified(call: Call, setup: Setup) -> Outcome:
    if setup.metadata.get(OPERATION) != call.operation_id:
        return Unknown("mismatch_operation")
    return of_setup(setup, call.amount)


def _captured(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    intent = read(body, Intent)
    if intent.id != request["payment"]:
        return Unknown("mismatch_payment")
    if intent.several or "final_capture" in request["params"]:
        return _captured_in_part(call, request, intent)
    if intent.status == "canceled":
        return Declined(refused(intent.status), intent.id)
    if intent.status != "succeeded":
        return Unknown("not_captured", provider_code=intent.status)
    if intent.metadata.get(CAPTURE, call.operation_id) != call.operation_id:
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, intent.amount_received, intent.currency):
        return mismatch
    return Approved(intent.charge_id or intent.id, call.amount, captured=True)


def _captured_in_part(call: Call, request: Mapping[str, Any], intent: Intent) -> Outcome:
    """One of several captures: ``amount_received`` is their sum, so the metadata that a capture leaves has to name ours.

    A replay is answered with what was true then. A lookup after a newer capture finds that one's name and proves nothing;
    where nothing was received at all, a payment that is over, or whose card takes one capture only, proves that ours was not.
    """
    if intent.metadata.get(CAPTURE) != call.operation_id:
        untouched = CAPTURE not in intent.metadata and not intent.amount_received
        if untouched and intent.status == "canceled":
            return Declined(refused(intent.status), intent.id)
        if untouched and "final_capture" in request["params"] and intent.lacks("multicapture"):
            return Declined(refused("multicapture_unavailable"), intent.id)
        return Unknown("mismatch_operation")
    sent = to_provider(call.amount, UNITS)
    if intent.currency != call.amount.currency.lower():
        return Unknown("mismatch_currency")
    if intent.metadata.get(CAPTURE_AMOUNT) != str(sent) or intent.amount_received < sent:
        return Unknown("mismatch_amount")
    return Approved(intent.charge_id or intent.id, call.amount, captured=True)


def _voided(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    intent = read(body, _State)
    if intent.id != request["payment"]:
        return Unknown("mismatch_payment")
    if intent.status == "succeeded":
        return Declined(refused(intent.status), intent.id)
    if intent.status != "canceled":
        return Unknown("not_voided", provider_code=intent.status)
    return Approved(intent.id, call.amount)


def _incremented(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    intent = read(body, Intent)
    if intent.id != request["payment"]:
        return Unknown("mismatch_payment")
    if intent.metadata.get(INCREMENT) != call.operation_id:
        untouched = INCREMENT not in intent.metadata  # else ours may have come before the one that is named
        if untouched and intent.lacks("incremental_authorization"):
            return Declined(refused("incremental_authorization_unavailable"), intent.id)
        if untouched and intent.status in ("succeeded", "canceled"):  # too late for ours, wherever it is
            return Declined(refused(intent.status), intent.id)
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, intent.amount, intent.currency):
        return mismatch
    return Approved(intent.id, call.amount, capture_before=_capture_before(intent))


def _refunded(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    return _of_our_refund(call, request, read(body, RefundObject))


def _of_our_refund(call: Call, request: Mapping[str, Any], refund: RefundObject) -> Outcome:
    if refund.payment_intent != request["payment"] or refund.metadata.get(OPERATION) != call.operation_id:
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, refund.amount, refund.currency):
        return mismatch
    return of_refund(refund)


def found_refund(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    """Ours among the refunds of a payment; a miss proves nothing."""
    try:
        for refund in read(body, _Refunds).data:
            if refund.metadata.get(OPERATION) == call.operation_id:
                return _of_our_refund(call, request, refund)
    except UnreadableError:
        return Unknown("unreadable")
    return Unknown("not_found")


def _defended(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    """Ours is there when the dispute carries our name and something was submitted: both came with one request."""
    dispute = read(body, DisputeObject)
    if dispute.id != request["dispute"]:
        return Unknown("mismatch_operation")
    if dispute.metadata.get(OPERATION) == call.operation_id and dispute.evidence_details.submission_count:
        return _other_money(call, dispute.amount, dispute.currency) or Approved(dispute.id, call.amount)
    if dispute.status in OVER and OPERATION not in dispute.metadata:  # nobody defended it, and now it is too late
        return Declined(refused(dispute.status), dispute.id)
    return Unknown("mismatch_operation")


def _conceded(call: Call, request: Mapping[str, Any], body: bytes) -> Outcome:
    dispute = read(body, DisputeObject)
    if dispute.id != request["dispute"]:
        return Unknown("mismatch_operation")
    if dispute.status in ("lost", "warning_closed"):
        return _other_money(call, dispute.amount, dispute.currency) or Approved(dispute.id, call.amount)
    if dispute.status in OVER:
        return Declined(refused(dispute.status), dispute.id)
    return Unknown("not_closed", provider_code=dispute.status)


_READERS: Final[Mapping[Kind, Callable[[Call, Mapping[str, Any], bytes], Outcome]]] = {
    Kind.AUTHORIZE: _authorized,
    Kind.CAPTURE: _captured,
    Kind.VOID: _voided,
    Kind.REFUND: _refunded,
    Kind.INCREMENT: _incremented,
    Kind.DEFEND: _defended,
    Kind.ACCEPT: _conceded,
}


def _other_money(call: Call, amount: int, currency: str) -> Unknown | None:
    if currency != call.amount.currency.lower():
        return Unknown("mismatch_currency")
    return Unknown("mismatch_amount") if amount != to_provider(call.amount, UNITS) else None


# --- What an object says by itself ------------------------------------------------------------------------------------


def of_intent(intent: Intent) -> Outcome:
    """https://docs.stripe.com/payments/paymentintents/lifecycle; any other status is Unknown."""
    match intent.status:
        case "succeeded":
            return _approved(intent, intent.amount_received, captured=True)
        case "requires_capture":
            return _approved(intent, intent.amount, captured=False)
        case _:
            return _not_approved(intent)


def _not_approved(intent: Intent | Setup) -> Outcome:
    match intent.status:
        case "requires_action" if intent.next_action:
            return ActionRequired(intent.id, _next_action(intent.next_action))
        case "processing":
            return Pending(intent.id)
        case "canceled":
            return Declined(_CANCELLED, intent.id)
        case "requires_payment_method" if intent.last_error:
            return Declined(decline_of(intent.last_error), intent.id, intent.last_error.card)
        case status:
            return Unknown("status", provider_code=status)


def _next_action(action: Mapping[str, Any]) -> Mapping[str, Any]:
    """A redirect by its address alone: where it leads back to is between Stripe and us. All else is for Stripe's own script."""
    redirect = action.get("redirect_to_url")
    if action.get("type") != "redirect_to_url" or not isinstance(redirect, dict):
        return action
    return {"type": "redirect_to_url", "redirect_to_url": {"url": redirect.get("url")}}


def _approved(intent: Intent, amount: int, *, captured: bool) -> Approved:
    card = intent.card or CardDetails()
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
        token=intent.token,
        three_d_secure=_three_d_secure(card.three_d_secure),
        capture_before=None if captured else _capture_before(intent),
    )


def of_setup(setup: Setup, amount: Money) -> Outcome:
    """https://docs.stripe.com/payments/paymentintents/lifecycle, of a SetupIntent; any other status is Unknown."""
    match setup.status:
        case "succeeded":
            checks = setup.attempt.checks or (setup.card and setup.card.checks) or _Checks()
            return Approved(
                provider_id=setup.id,
                amount=amount,
                avs=checks.address_postal_code_check,
                cvc=checks.cvc_check,
                card=setup.card.facts() if setup.card else None,
                token=setup.token,
                three_d_secure=_three_d_secure(setup.attempt.three_d_secure),
            )
        case _:
            return _not_approved(setup)


_AUTHENTICATED: Final[Mapping[str, Literal["authenticated", "attempted", "exempted", "not_supported", "failed"]]] = {
    "authenticated": "authenticated",
    "attempt_acknowledged": "attempted",
    "exempted": "exempted",
    "not_supported": "not_supported",
    "failed": "failed",
    "processing_error": "failed",
}
_FLOWS: Final[Mapping[str, Literal["frictionless", "challenge"]]] = {
    "frictionless": "frictionless",
    "challenge": "challenge",
}


def _three_d_secure(told: _Authentication | None) -> ThreeDSecure | None:
    """None where no authentication took place, or one whose result Stripe does not name."""
    result = _AUTHENTICATED.get(told.result or "") if told else None
    if told is None or result is None:
        return None
    flow = _FLOWS.get(told.authentication_flow or "")
    return ThreeDSecure(result, flow, told.version, told.electronic_commerce_indicator)


def _capture_before(intent: Intent) -> datetime | None:
    return moment(intent.card.capture_before if intent.card else None)


def moment(seconds: int | None) -> datetime | None:
    """A time of Stripe's, or ``None`` where there is none, or none that a calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, ValueError, OSError):
        return None


def of_refund(refund: RefundObject) -> Outcome:
    """https://docs.stripe.com/refunds#failed-refunds: a refund that succeeded may fail later."""
    match refund.status:
        case "succeeded":
            return Approved(refund.id, from_provider(refund.amount, refund.currency, UNITS))
        case "pending" | "requires_action":
            return Pending(refund.id)
        case "failed" | "canceled":
            return Declined(failed_after_all(refund.failure_reason or refund.status), refund.id)
        case status:
            return Unknown("status", provider_code=status)


DISPUTE_STATUSES: Final[Mapping[str, DisputeStatus]] = {
    "warning_needs_response": DisputeStatus.INQUIRY,
    "warning_under_review": DisputeStatus.UNDER_REVIEW,
    "warning_closed": DisputeStatus.CLOSED,
    "needs_response": DisputeStatus.NEEDS_RESPONSE,
    "under_review": DisputeStatus.UNDER_REVIEW,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
    "prevented": DisputeStatus.CLOSED,  # settled before it became a chargeback
}
"""https://docs.stripe.com/api/disputes/object#dispute_object-status, in our words."""

OVER: Final = frozenset({"won", "lost", "warning_closed", "prevented"})
"""Nothing can be said to such a dispute any more."""

# --- Errors and declines ----------------------------------------------------------------------------------------------


def failure_of(status: int, details: ApiError, kind: Kind) -> NotProcessed | Declined | Unknown:
    """An error by the table: its HTTP status and its code decide, never the class of the SDK's exception."""
    code = details.code or ""
    verdict = ERRORS[kind].get((status, code)) or ERRORS[kind].get((status, ANY), "unknown")
    if status == _BAD_REQUEST and not code and (named := _nameless(details, kind)):
        verdict, code = "refused", named
    match verdict:
        case "declined" if details.code or details.decline_code:
            return Declined(decline_of(details), details.intent_id, details.card)
        case "credentials" | "rate_limited":
            return NotProcessed(verdict, code or None)
        case "refused" if kind is Kind.AUTHORIZE:
            return NotProcessed("rejected", code)
        case "refused":
            return Declined(refused(code))
        case "declined" | "unknown" | "unknown_resend":
            return Unknown(f"http_{status}", resend=verdict == "unknown_resend", provider_code=code or None)
        case _:
            assert_never(verdict)


def _nameless(details: ApiError, kind: Kind) -> str | None:
    """A word for the refusals that come without a code and yet are certain: a parameter that is wrong by itself."""
    if kind is Kind.AUTHORIZE and SPENT in (details.message or ""):
        return "payment_method_spent"
    wrong = CHARGE_PARAMS if kind is Kind.AUTHORIZE else AMOUNT_PARAMS
    return f"{details.param}_invalid" if details.param in wrong else None


def decline_of(error: ApiError) -> Decline:
    """The decline code where our table has it, else the error code; the raw word is kept, and advice stands above it."""
    known = (code for code in (error.decline_code, error.code) if code in DECLINES)
    decline = look_up(DECLINES, next(known, error.decline_code or error.code))
    for advice in _advice(error):
        decline = decline.advised(advice)
    return replace(decline, network_code=error.network_decline_code)


def _advice(error: ApiError) -> Iterator[NetworkAdvice | None]:
    """What is advised, by Stripe and by the card's network."""
    yield _STRIPE_ADVICE.get(error.advice_code or "")
    brand = error.card.brand if error.card else None
    if brand == "mastercard":
        yield _MASTERCARD_ADVICE.get(error.network_advice_code or "")
    if brand == "visa":
        yield _VISA_ADVICE.get(error.network_decline_code or "")


def refused(code: str) -> Decline:
    """What follows a payment was refused, for good."""
    return Decline("provider_refused", "hard", Action.DO_NOT_RETRY, code)
