"""How Stripe's webhooks are proved and read. Pure but for the clock that a signature's age is measured by."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import msgspec
import stripe

from providers.contract import (
    Approved,
    CardFacts,
    DisputeNews,
    Event,
    Kind,
    Notice,
    NoticeKind,
    Outcome,
    TokenNews,
    Unknown,
    WebhookRefused,
)
from providers.money import Money, MoneyError, from_provider
from providers.stripe.answers import (
    DISPUTE_STATUSES,
    DisputeObject,
    Intent,
    MethodObject,
    RefundObject,
    ReportObject,
    ReviewObject,
    Setup,
    UnreadableError,
    WarningObject,
    moment,
    of_intent,
    of_refund,
    of_setup,
    read,
)
from providers.stripe.asks import CAPTURE, CAPTURE_AMOUNT, CURRENCY, INCREMENT, OPERATION, UNITS

WEBHOOK_TOLERANCE_S: Final = 300
"""How far a webhook's timestamp may lie in the past or the future: https://docs.stripe.com/webhooks#replay-attacks"""
HEADER_MAX: Final = 4096
"""No signature header is longer: one of ours has 78 characters, and two while a secret is rotated."""

REASONS: Final = frozenset(
    # https://docs.stripe.com/api/disputes/object#dispute_object-reason: the vocabulary of every provider is Stripe's.
    """
    bank_cannot_process check_returned credit_not_processed customer_initiated debit_not_authorized duplicate fraudulent
    general incorrect_account_details insufficient_funds noncompliant product_not_received product_unacceptable
    subscription_canceled unrecognized
    """.split()  # noqa: SIM905 - a line each would say no more
)


class _EventObject(msgspec.Struct):
    object: msgspec.Raw
    previous_attributes: dict[str, Any] | None = None


LAPSED: Final = frozenset({"automatic", "expired"})
"""Reasons of a cancel that nobody asked for: https://docs.stripe.com/api/payment_intents/object, cancellation_reason."""


class WebhookEvent(msgspec.Struct):
    """The envelope of an event. A thin one names its object and does not hold it.

    https://docs.stripe.com/event-destinations#thin-events
    """

    id: str
    object: Literal["event", "v2.core.event"]
    type: str
    created: int | str
    data: _EventObject | None = None
    livemode: bool | None = None
    account: str | None = None
    """The connected account that it is about, where it is not about the one whose endpoint this is."""


# --- Proof ------------------------------------------------------------------------------------------------------------


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> str:
    """The secret that signed these very bytes a short time ago. Raises :class:`WebhookRefused` where none of ``secrets`` did."""
    if not secrets:
        raise WebhookRefused("no webhook secret is configured for this account", "no_secret")
    header = next((value for name, value in headers.items() if name.lower() == "stripe-signature"), "")
    if len(header) > HEADER_MAX:
        raise WebhookRefused("the signature header is longer than any that is sent")
    secret = next((secret for secret in secrets if _signed(body, header, secret)), None)
    if secret is None:
        raise WebhookRefused("the signature matches no configured secret")
    # Its age is measured here: the SDK refuses the past only, and does not say whether it was that.
    stamp = next(part for part in header.split(",") if part.startswith("t="))
    age_s = int(time.time()) - int(stamp.split("=", 2)[1])
    if age_s > WEBHOOK_TOLERANCE_S:
        raise WebhookRefused("the signature is too old", "stale")
    if age_s < -WEBHOOK_TOLERANCE_S:
        raise WebhookRefused("the signature is from the future", "future")
    return secret


def _signed(body: bytes, header: str, secret: str) -> bool:
    """The SDK's verdict, whatever the age. It also raises on a body that is not UTF-8 and a signature not ASCII."""
    try:
        return bool(stripe.WebhookSignature.verify_header(body, header, secret))
    except (stripe.SignatureVerificationError, ValueError, TypeError):
        return False


def event_in(body: bytes) -> WebhookEvent:
    """The event in a body. Raises :class:`WebhookRefused` where there is none."""
    try:
        return read(body, WebhookEvent)
    except UnreadableError as error:
        raise WebhookRefused("the body is not a Stripe event", "unreadable") from error


# --- Meaning ----------------------------------------------------------------------------------------------------------


def translated(event: WebhookEvent) -> Event:
    """The event in our words. One without use for us, or unreadable, is kept as it is."""
    kept = Event(event.id, event.type, occurred_at=moment(event.created) if isinstance(event.created, int) else None)
    reader = _READERS.get(event.type)
    if reader is None or event.data is None:
        return kept
    try:
        told = reader(kept, event.data)
    except (UnreadableError, MoneyError):
        return kept
    return kept if isinstance(told.outcome, Unknown) else told  # a status we do not know is no news


def _intent_event(kept: Event, data: _EventObject) -> Event:
    intent = read(data.object, Intent)
    kind, operation, outcome = _meant(intent)
    return replace(
        kept,
        kind=kind,
        operation_id=operation,
        provider_id=intent.charge_id or intent.id if kind is Kind.CAPTURE else intent.id,
        provider_payment_id=intent.id,
        outcome=outcome,
        lapsed=intent.cancellation_reason in LAPSED,
    )


def _meant(intent: Intent) -> tuple[Kind, str | None, Outcome]:
    """Which of our operations an intent speaks of: what follows an authorization leaves a key of its own in the metadata.

    Captures come after increments, so something received under the name of a capture is that capture's.
    """
    told, ours = of_intent(intent), intent.metadata
    if intent.amount_received and CAPTURE in ours and intent.status in ("succeeded", "requires_capture"):
        return Kind.CAPTURE, ours[CAPTURE], Approved(intent.charge_id or intent.id, _taken(intent), captured=True)
    if intent.status == "requires_capture" and not intent.amount_received and INCREMENT in ours:
        return Kind.INCREMENT, ours[INCREMENT], told
    if intent.status == "canceled" and intent.charge_id and intent.last_error is None:
        # There was an authorization, so this released it. A cancel carries no metadata that could name our operation.
        released = from_provider(intent.amount - intent.amount_received, intent.currency, UNITS)
        return Kind.VOID, None, Approved(intent.id, released)
    return Kind.AUTHORIZE, ours.get(OPERATION), told


def _taken(intent: Intent) -> Money:
    """What one capture took. Where there may be several ``amount_received`` is their sum, and the capture says its own."""
    said = intent.metadata.get(CAPTURE_AMOUNT, "")
    own = int(said) if intent.several and said.isascii() and said.isdigit() else intent.amount_received
    return from_provider(min(own, intent.amount_received), intent.currency, UNITS)


def _setup_event(kept: Event, data: _EventObject) -> Event:
    """A SetupIntent has no currency: ours stands in its metadata."""
    setup = read(data.object, Setup)
    if CURRENCY not in setup.metadata:
        return kept  # none of ours
    return replace(
        kept,
        kind=Kind.AUTHORIZE,
        operation_id=setup.metadata.get(OPERATION),
        provider_id=setup.id,
        provider_payment_id=setup.id,
        outcome=of_setup(setup, Money(0, setup.metadata[CURRENCY])),
    )


def _refund_event(kept: Event, data: _EventObject) -> Event:
    refund = read(data.object, RefundObject)
    return replace(
        kept,
        kind=Kind.REFUND,
        operation_id=refund.metadata.get(OPERATION),
        provider_id=refund.id,
        provider_payment_id=refund.payment_intent,
        outcome=of_refund(refund),
    )


def _dispute_event(kept: Event, data: _EventObject) -> Event:
    dispute = read(data.object, DisputeObject)
    status = DISPUTE_STATUSES.get(dispute.status)
    if status is None:
        return kept
    card, due = dispute.payment_method_details and dispute.payment_method_details.card, dispute.evidence_details.due_by
    news = DisputeNews(
        dispute_id=dispute.id,
        status=status,
        amount=from_provider(dispute.amount, dispute.currency, UNITS),
        reason=dispute.reason if dispute.reason in REASONS else "general",
        network_reason_code=card.network_reason_code if card else None,
        respond_by=moment(due),
    )
    return replace(kept, provider_id=dispute.id, provider_payment_id=dispute.payment_intent, dispute=news)


def _method_event(kept: Event, data: _EventObject) -> Event:
    """A PaymentMethod that Stripe or the network has changed. One without a Customer was for one payment."""
    method = read(data.object, MethodObject)
    card = method.card.facts() if method.card else None
    return replace(kept, token=_token_news(method.customer, method.id, alive=True, card=card))


def _detached(kept: Event, data: _EventObject) -> Event:
    """It can never be charged again. Whose it was stands in what it was before."""
    owner = (data.previous_attributes or {}).get("customer")
    method = read(data.object, MethodObject)
    return replace(kept, token=_token_news(owner if isinstance(owner, str) else None, method.id, alive=False))


def _token_news(owner: str | None, method: str, *, alive: bool, card: CardFacts | None = None) -> TokenNews:
    return TokenNews((f"{owner}/{method}", method) if owner else (method,), alive, card)


def _warning_event(kept: Event, data: _EventObject) -> Event:
    warning = read(data.object, WarningObject)
    notice = Notice(NoticeKind.FRAUD_WARNING, warning.id, warning.fraud_type)
    return replace(kept, provider_payment_id=warning.payment_intent, notice=notice)


def _review_event(kept: Event, data: _EventObject) -> Event:
    review = read(data.object, ReviewObject)
    kind = NoticeKind.REVIEW_OPENED if review.closed_reason is None else NoticeKind.REVIEW_CLOSED
    notice = Notice(kind, review.id, review.closed_reason or review.reason)
    return replace(kept, provider_payment_id=review.payment_intent, notice=notice)


def _report_event(kept: Event, data: _EventObject) -> Event:
    report = read(data.object, ReportObject)
    url = report.result.url if report.result else None
    return replace(kept, notice=Notice(NoticeKind.REPORT, report.id, report.report_type, report_url=url))


_Reader = Callable[[Event, _EventObject], Event]
_READERS: Final[Mapping[str, _Reader]] = {
    "payment_intent.succeeded": _intent_event,
    "payment_intent.amount_capturable_updated": _intent_event,
    "payment_intent.payment_failed": _intent_event,
    "payment_intent.canceled": _intent_event,
    "payment_intent.requires_action": _intent_event,
    "payment_intent.processing": _intent_event,
    "setup_intent.succeeded": _setup_event,
    "setup_intent.setup_failed": _setup_event,
    "setup_intent.requires_action": _setup_event,
    "setup_intent.canceled": _setup_event,
    "refund.created": _refund_event,
    "refund.updated": _refund_event,
    "refund.failed": _refund_event,
    "charge.refund.updated": _refund_event,
    "charge.dispute.created": _dispute_event,
    "charge.dispute.updated": _dispute_event,
    "charge.dispute.closed": _dispute_event,
    "charge.dispute.funds_withdrawn": _dispute_event,
    "charge.dispute.funds_reinstated": _dispute_event,
    "payment_method.attached": _method_event,
    "payment_method.automatically_updated": _method_event,
    "payment_method.updated": _method_event,
    "payment_method.detached": _detached,
    "radar.early_fraud_warning.created": _warning_event,
    "radar.early_fraud_warning.updated": _warning_event,
    "review.opened": _review_event,
    "review.closed": _review_event,
    "payout.reconciliation_completed": _report_event,
    "reporting.report_run.succeeded": _report_event,
}
"""By type of event; any other says nothing to us."""
TOLD: Final = frozenset(_READERS)
"""The types that are news."""

_THE_INTENT: Final = "the PaymentIntent's own event says it, and says whose it is"
_THE_REFUND: Final = "the Refund's own event says it, and says which one"
_BANK: Final = "the account's bank and balance: the report of the payout shows them"
_ANOTHER_PRODUCT: Final = "another product of Stripe's: we use none of it"
_CONFIGURATION: Final = "how the Stripe account is set up: its people know"
IGNORED: Final[Mapping[str, str]] = {
    "charge.captured": _THE_INTENT,
    "charge.expired": _THE_INTENT,
    "charge.failed": _THE_INTENT,
    "charge.pending": _THE_INTENT,
    "charge.succeeded": _THE_INTENT,
    "charge.refunded": _THE_REFUND,
    "charge.updated": "a charge's fee is known: the report of its payout shows it",
    "payment_intent.created": "nothing was asked of the issuer yet",
    "payment_intent.partially_funded": "bank transfers: we make none",
    "setup_intent.created": "nothing was asked of the issuer yet",
    "mandate": "bank debits: we make none, and a card's dead mandate is told by the next decline",
    "payout.canceled": _BANK,
    "payout.created": _BANK,
    "payout.failed": _BANK,
    "payout.paid": _BANK,
    "payout.updated": _BANK,
    "reporting.report_run.failed": "whoever asked for the report asks again",
    "reporting.report_type.updated": "data for reports is there: the report itself is news",
    **dict.fromkeys(
        ("balance", "cash_balance", "customer_cash_balance_transaction", "reserve", "topup", "transfer"), _BANK
    ),
    **dict.fromkeys(("account", "balance_settings", "capability", "person", "test_helpers"), _CONFIGURATION),
    **dict.fromkeys(
        """
        application_fee billing billing_portal checkout climate coupon credit_note customer entitlements file
        financial_connections identity invoice invoice_payment invoiceitem issuing_authorization issuing_card
        issuing_cardholder issuing_dispute issuing_personalization_design issuing_token issuing_transaction payment_link
        plan price product promotion_code quote sigma source subscription_schedule tax tax_rate terminal treasury
        """.split(),  # noqa: SIM905 - a line each would say no more
        _ANOTHER_PRODUCT,
    ),
}
"""Types, or families of them by how they begin, that say nothing to us, and why: they are kept and acknowledged."""


def why_ignored(kind: str) -> str | None:
    """Why events of a type say nothing to us, or ``None`` where they are news, or a type that nobody knew."""
    parts = kind.split(".")
    return next((IGNORED[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in IGNORED), None)
