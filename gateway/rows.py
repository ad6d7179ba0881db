"""Between rows and values: how a payment and its operations are written down, and read back the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from gateway.disputes import Dispute
from gateway.incidents import Incident, IncidentKind
from gateway.payment import Operation, OperationStatus, Payment, Reason, Status, Terms
from providers.contract import CardFacts, DisputeStatus, Kind, ThreeDSecure
from providers.declines import Action, Advice, Decline

OPTIONS: Final = (
    "description",
    "statement_descriptor",
    "return_url",
    "setup_future_usage",
    "recurring",
    "network_transaction_id",
    "pinned_account",
    "three_d_secure",
    "adjustable",
    "retry_until",
)
"""Terms that nobody filters by: they live in one JSON column."""

STATE: Final = (
    "version",
    "status",
    "processing_reason",
    "round",
    "route",
    "amount",
    "off_session",
    "amount_authorized",
    "amount_capturing",
    "amount_captured",
    "amount_refunding",
    "amount_refunded",
    "cancel_requested",
    "cancellation_reason",
    "payment_method_id",
    "customer",
    "options",
    "account",
    "provider",
    "provider_payment_id",
    "network_transaction_id",
    "auth_code",
    "checks",
    "card",
    "three_d_secure",
    "capture_before",
    "decline",
    "next_action",
    "retry_at",
    "updated_at",
)
"""The columns of a payment that change."""


def state_values(payment: Payment) -> dict[str, Any]:
    """The changing columns of ``payment``, under parameter names."""
    checks = {"avs": payment.avs, "cvc": payment.cvc} if payment.avs or payment.cvc else None
    return {
        "p_version": payment.version,
        "p_status": payment.status,
        "p_processing_reason": payment.processing_reason,
        "p_round": payment.round,
        "p_route": payment.route,
        "p_amount": payment.terms.amount,
        "p_off_session": payment.terms.off_session,
        "p_options": {name: value for name in OPTIONS if (value := getattr(payment.terms, name)) is not None},
        "p_amount_authorized": payment.amount_authorized,
        "p_amount_capturing": payment.amount_capturing,
        "p_amount_captured": payment.amount_captured,
        "p_amount_refunding": payment.amount_refunding,
        "p_amount_refunded": payment.amount_refunded,
        "p_cancel_requested": payment.cancel_requested,
        "p_cancellation_reason": payment.cancellation_reason,
        "p_payment_method_id": payment.payment_method,
        "p_customer": payment.terms.customer,
        "p_account": payment.account,
        "p_provider": payment.provider,
        "p_provider_payment_id": payment.provider_payment_id,
        "p_network_transaction_id": payment.network_transaction_id,
        "p_auth_code": payment.auth_code,
        "p_checks": checks,
        "p_card": card_json(payment.card),
        "p_three_d_secure": three_d_secure_json(payment.three_d_secure),
        "p_capture_before": payment.capture_before,
        "p_decline": decline_json(payment.decline),
        "p_next_action": None if payment.next_action is None else dict(payment.next_action),
        "p_retry_at": payment.retry_at if payment.processing_reason is Reason.RETRY_SCHEDULED else None,
        "p_updated_at": payment.updated_at,
    }


def payment_values(payment: Payment) -> dict[str, Any]:
    """Every column of ``payment``, under parameter names."""
    terms = payment.terms
    personal = {"billing_details": terms.billing_details, "shopper": terms.shopper}
    return {
        **state_values(payment),
        "p_id": terms.id,
        "p_merchant_id": terms.merchant_id,
        "p_livemode": terms.livemode,
        "p_currency": terms.currency,
        "p_capture_method": terms.capture_method,
        "p_reference": terms.reference,
        "p_metadata": terms.metadata,
        "p_personal": personal if terms.billing_details or terms.shopper else None,
        "p_created_at": terms.created_at,
    }


def operation_values(operation: Operation, payment: Payment) -> dict[str, Any]:
    """Every column of ``operation`` that is not sealed, computed by SQL or the writer's, under parameter names."""
    return {
        "o_id": operation.id,
        "o_payment_id": payment.terms.id,
        "o_kind": operation.kind,
        "o_seq": operation.seq,
        "o_round": operation.round,
        "o_account": operation.account,
        "o_provider": operation.provider,
        "o_amount": operation.amount,
        "o_status": operation.status,
        "o_final": operation.final,
        "o_provider_key": operation.provider_key,
        "o_provider_id": operation.provider_id,
        "o_decline": decline_json(operation.decline),
        "o_reason": operation.reason,
        "o_metadata": operation.metadata,
        "o_challenged": operation.challenged,
        "o_epoch": operation.epoch,
        "o_decision": operation.decision,
        "o_uncounted_arm": _arm(operation, payment),
        "o_uncounted_shadow": _shadow(operation, payment),
        "o_trace": operation.trace,
        "o_created_at": operation.created_at,
        "o_updated_at": payment.updated_at,
    }


def _arm(operation: Operation, payment: Payment) -> str | None:
    """The arm that a payment is counted in, which its first attempt bears; none for what no strategy decides, or is no payment."""
    decision = operation.decision or {}
    kind, version = decision.get("kind"), decision.get("version")
    compared = version is not None and kind in {"strategy", "holdout"}
    return kind if compared and _opens(operation, payment) else None


def _shadow(operation: Operation, payment: Payment) -> str | None:
    """The version from the shadow that a payment is counted of, which its first attempt bears as well."""
    shadow = (operation.decision or {}).get("shadow")
    return None if shadow is None or not _opens(operation, payment) else shadow.get("version")


def _opens(operation: Operation, payment: Payment) -> bool:
    """Whether it is the first attempt of a payment that is one: a verification moves nothing."""
    return operation.kind is Kind.AUTHORIZE and operation.allowed_by is None and payment.terms.amount > 0


DISPUTE_STATE: Final = (
    "status",
    "amount",
    "reason",
    "network_reason_code",
    "respond_by",
    "news_at",
    "updated_at",
    "heard",
)
"""The columns of a dispute that change."""


def dispute_values(dispute: Dispute, payment: Payment) -> dict[str, Any]:
    """Every column of ``dispute``, under parameter names."""
    return {
        **{f"d_{name}": value for name, value in asdict(dispute).items()},
        "d_merchant_id": payment.terms.merchant_id,
        "d_livemode": payment.terms.livemode,
        "d_payment_id": payment.terms.id,
    }


def dispute_from(row: Mapping[str, Any]) -> Dispute:
    """The value that a dispute's row was written from."""
    told = {name: row[name] for name in Dispute.__dataclass_fields__}
    heard = {name: datetime.fromisoformat(at) for name, at in row["heard"].items()}
    return Dispute(**told | {"status": DisputeStatus(row["status"]), "heard": heard})


def payment_from(row: Mapping[str, Any], operations: Iterable[Mapping[str, Any]]) -> Payment:
    """The value that these rows were written from."""
    personal, options, checks = row["personal"] or {}, dict(row["options"]), row["checks"] or {}
    if "retry_until" in options:
        options["retry_until"] = datetime.fromisoformat(options["retry_until"])
    terms = Terms(
        id=row["id"],
        merchant_id=row["merchant_id"],
        livemode=row["livemode"],
        amount=row["amount"],
        currency=row["currency"],
        capture_method=row["capture_method"],
        off_session=row["off_session"],
        created_at=row["created_at"],
        reference=row["reference"],
        customer=row["customer"],
        metadata=row["metadata"],
        billing_details=personal.get("billing_details", {}),
        shopper=personal.get("shopper", {}),
        **options,
    )
    return Payment(
        terms=terms,
        status=Status(row["status"]),
        updated_at=row["updated_at"],
        version=row["version"],
        processing_reason=Reason(row["processing_reason"]) if row["processing_reason"] else None,
        round=row["round"],
        route=tuple(row["route"]),
        amount_authorized=row["amount_authorized"],
        amount_capturing=row["amount_capturing"],
        amount_captured=row["amount_captured"],
        amount_refunding=row["amount_refunding"],
        amount_refunded=row["amount_refunded"],
        cancel_requested=row["cancel_requested"],
        cancellation_reason=row["cancellation_reason"],
        payment_method=row["payment_method_id"],
        account=row["account"],
        provider=row["provider"],
        provider_payment_id=row["provider_payment_id"],
        network_transaction_id=row["network_transaction_id"],
        auth_code=row["auth_code"],
        avs=checks.get("avs"),
        cvc=checks.get("cvc"),
        card=CardFacts(**row["card"]) if row["card"] else None,
        three_d_secure=ThreeDSecure(**row["three_d_secure"]) if row["three_d_secure"] else None,
        capture_before=row["capture_before"],
        decline=decline_from(row["decline"]),
        next_action=row["next_action"],
        retry_at=row["retry_at"],
        operations=tuple(operation_from(operation) for operation in operations),
    )


def operation_from(row: Mapping[str, Any]) -> Operation:
    """The value that an operation's row was written from."""
    return Operation(
        id=row["id"],
        kind=Kind(row["kind"]),
        seq=row["seq"],
        round=row["round"],
        account=row["account"],
        provider=row["provider"],
        amount=row["amount"],
        status=OperationStatus(row["status"]),
        provider_key=row["provider_key"],
        epoch=row["epoch"],
        tries=row["tries"],
        provider_id=row["provider_id"],
        decline=decline_from(row["decline"]),
        final=row["final"],
        reason=row["reason"],
        metadata=row["metadata"],
        challenged=row["challenged"],
        created_at=row["created_at"],
        review_at=row["review_at"],
        evidence=row["evidence"],
        decision=row["decision"],
        trace=row["trace"],
    )


def incident_from(row: Mapping[str, Any]) -> Incident:
    """The value that an incident's row was written from."""
    names = ("id", "merchant_id", "livemode", "payment_id", "operation_id", "account", "said", "details")
    return Incident(
        kind=IncidentKind(row["kind"]),
        created_at=row["created_at"],
        closed_at=row["closed_at"],
        closed_reason=row["closed_reason"],
        **{name: row[name] for name in names},
    )


def card_json(card: CardFacts | None) -> dict[str, Any] | None:
    """What may be shown of a card, as it stands in a JSON column and in an answer."""
    if card is None:
        return None
    return {
        "brand": card.brand,
        "bin": card.bin,
        "last4": card.last4,
        "exp_month": card.exp_month,
        "exp_year": card.exp_year,
        "funding": card.funding,
        "country": card.country,
    }


def three_d_secure_json(facts: ThreeDSecure | None) -> dict[str, Any] | None:
    """How the shopper was authenticated, as it stands in a JSON column and in an answer."""
    return None if facts is None else asdict(facts)


def decline_json(decline: Decline | None) -> dict[str, Any] | None:
    """A decline as it stands in a JSON column."""
    return None if decline is None else asdict(decline)


def decline_from(value: Mapping[str, Any] | None) -> Decline | None:
    """The decline that a JSON column holds."""
    if value is None:
        return None
    advice = value.get("network_advice")
    return Decline(
        **{**value, "action": Action(value["action"]), "network_advice": None if advice is None else Advice(advice)}
    )
