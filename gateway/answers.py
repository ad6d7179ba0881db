"""What the API answers about payments: the objects of the contract, and which status says what.

Pure: a payment in, bytes out. Only a decided answer is stored, and it is stored as these bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, assert_never

import orjson

from gateway.disputes import Dispute
from gateway.errors import MEDIA_TYPE, Problem
from gateway.incidents import Incident
from gateway.payment import IN_FLIGHT, Operation, OperationStatus, Payment, Reason, Status
from gateway.rows import card_json, three_d_secure_json
from gateway.vault import Keyring
from providers.contract import Kind
from providers.declines import Decline

JSON: Final = "application/json"
POLL_AFTER_S: Final = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: status, exact bytes, headers. ``decided`` answers are stored and replayed byte for byte.

    One that is only for this request carries its ``problem``, to be raised with the request's id.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    decided: bool = True
    media_type: str = JSON
    problem: Problem | None = None


def replayed(status: int, body: bytes) -> Answer:
    """A stored answer, once more."""
    media_type = MEDIA_TYPE if status == _REFUSED else JSON
    return Answer(status, body, {"Idempotent-Replayed": "true"}, media_type=media_type)


_REFUSED: Final = 422


def instant(at: datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds."""
    return None if at is None else at.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def payment_object(payment: Payment, keys: Keyring, expand: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The payment as the API shows it to whoever asks for it."""
    shown = payment_facts(payment)
    shown["client_secret"] = keys.secret_of(payment.terms.id)
    if "attempts" in expand:
        shown["attempts"] = [attempt_object(op, payment.terms.currency) for op in payment.attempts]
    if "refunds" in expand:
        shown["refunds"] = [refund_object(payment, op) for op in payment.operations if op.kind is Kind.REFUND]
    return shown


def payment_facts(payment: Payment) -> dict[str, Any]:
    """The payment without the secret that a browser acts on it with: what may be told to whoever listens."""
    terms = payment.terms
    return {
        "id": terms.id,
        "object": "payment",
        "status": payment.status,
        "amount": terms.amount,
        "currency": terms.currency,
        "amount_capturable": payment.amount_capturable,
        "amount_received": payment.amount_captured,
        "amount_refunded": payment.amount_refunded,
        "capture_method": terms.capture_method,
        "account": payment.account,
        "provider": payment.provider,
        "provider_payment_id": payment.provider_payment_id,
        "network_transaction_id": payment.network_transaction_id,
        "processing_reason": _processing_reason(payment),
        "next_retry_at": instant(payment.retry_at),
        "retry": None if terms.retry_until is None else {"until": instant(terms.retry_until)},
        "cancel_requested": payment.cancel_requested,
        "cancellation_reason": payment.cancellation_reason,
        "decline": decline_object(payment.decline),
        "next_action": next_action_object(payment),
        "payment_method": payment.payment_method,
        "card": card_json(payment.card),
        "captures": [capture_object(op, terms.currency) for op in payment.operations if op.kind is Kind.CAPTURE],
        "capture_before": instant(payment.capture_before),
        "three_d_secure": three_d_secure_json(payment.three_d_secure),
        "checks": {"avs": payment.avs, "cvc": payment.cvc} if payment.avs or payment.cvc else None,
        "auth_code": payment.auth_code,
        "arn": None,
        "reference": terms.reference,
        "description": terms.description,
        "statement_descriptor": terms.statement_descriptor,
        "customer": terms.customer,
        "off_session": terms.off_session,
        "setup_future_usage": terms.setup_future_usage,
        "recurring": terms.recurring,
        "incremental_authorization": bool(terms.adjustable),
        "return_url": terms.return_url,
        "metadata": terms.metadata,
        "livemode": terms.livemode,
        "attempt_count": len(payment.attempts),
        "review": [_review(op) for op in payment.operations if op.in_review],
        "created": instant(terms.created_at),
        "updated": instant(payment.updated_at),
    }


def history_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """One step of a payment's history as the API shows it, from its row."""
    return {
        "object": "change",
        "seq": row["seq"],
        "at": instant(row["at"]),
        "source": row["source"],
        "news": row["news"],
        "from": row["from_status"],
        "to": row["to_status"],
        "reason": row["reason"],
        "operation": row["operation_id"],
    }


def next_action_object(payment: Payment) -> dict[str, Any] | None:
    """What the shopper has to do. While what they brought back is on its way, there is nothing."""
    waits = payment.status is Status.REQUIRES_ACTION and payment.next_action is not None
    return dict(payment.next_action or {}) if waits else None


NEEDS_REVIEW: Final = "needs_review"
"""Neither the provider nor time has told: a person finds out, and resolves it. Shown instead of the stored reason."""


def _processing_reason(payment: Payment) -> str | None:
    """Why it is processing. What is on its way for the first time is pending at the provider."""
    if payment.status is not Status.PROCESSING:
        return payment.processing_reason
    attempt = payment.open_attempt
    waited = () if attempt is None else (attempt, payment.failover_void(attempt))
    if any(operation is not None and operation.in_review for operation in waited):
        return NEEDS_REVIEW
    return payment.processing_reason or Reason.PENDING_AT_PROVIDER


def decline_object(decline: Decline | None) -> dict[str, Any] | None:
    """Why the payment was declined, as the API shows it: the raw code is kept, the message is fit for a shopper."""
    if decline is None:
        return None
    return {
        "code": decline.code,
        "type": decline.type,
        "advice": decline.action,
        "provider_code": decline.provider_code,
        "network_code": decline.network_code,
        "network_advice": decline.network_advice,
        "retry_after_s": decline.wait_s,
        "message": decline.message,
    }


def _review(operation: Operation) -> dict[str, Any]:
    """An operation that waits for a person, with what was heard of it so far."""
    return {
        "operation": operation.id,
        "kind": operation.kind,
        "account": operation.account,
        "amount": operation.amount,
        "created": instant(operation.created_at),
        "in_review_since": instant(operation.review_at),
        "evidence": operation.evidence,
    }


def attempt_object(operation: Operation, currency: str) -> dict[str, Any]:
    """An attempt at one account as the API shows it."""
    return {
        "id": operation.id,
        "object": "attempt",
        "status": operation.status,
        "account": operation.account,
        "provider": operation.provider,
        "provider_payment_id": operation.provider_id,
        "amount": operation.amount,
        "currency": currency,
        "decline": decline_object(operation.decline),
        "reason": operation.reason,
        "allowed_by": operation.allowed_by,
        "evidence": operation.evidence,
        "created": instant(operation.created_at),
    }


def shown_status(operation: Operation) -> str:
    """A capture's or a refund's status in the words of the API: what is still on its way is pending."""
    return "pending" if operation.status in {OperationStatus.CREATED, OperationStatus.SENT} else operation.status


def capture_object(operation: Operation, currency: str) -> dict[str, Any]:
    """A capture as the API shows it."""
    return {
        "id": operation.id,
        "object": "capture",
        "status": shown_status(operation),
        "amount": operation.amount,
        "currency": currency,
        "final": operation.final,
        "provider_capture_id": operation.provider_id,
        "failure_code": operation.reason if operation.status is OperationStatus.FAILED else None,
        "created": instant(operation.created_at),
    }


def refund_object(payment: Payment, operation: Operation) -> dict[str, Any]:
    """A refund as the API shows it."""
    return {
        "id": operation.id,
        "object": "refund",
        "payment": payment.terms.id,
        "status": shown_status(operation),
        "amount": operation.amount,
        "currency": payment.terms.currency,
        "account": operation.account,
        "provider": operation.provider,
        "provider_refund_id": operation.provider_id,
        "failure_code": operation.reason if operation.status is OperationStatus.FAILED else None,
        "metadata": operation.metadata or {},
        "livemode": payment.terms.livemode,
        "created": instant(operation.created_at),
    }


def dispute_object(dispute: Dispute) -> dict[str, Any]:
    """A dispute as the API shows it."""
    return {
        "id": dispute.id,
        "object": "dispute",
        "payment": dispute.payment_id,
        "status": dispute.status,
        "amount": dispute.amount,
        "currency": dispute.currency,
        "reason": dispute.reason,
        "network_reason_code": dispute.network_reason_code,
        "respond_by": instant(dispute.respond_by),
        "account": dispute.account,
        "provider": dispute.provider,
        "provider_dispute_id": dispute.provider_dispute_id,
        "created": instant(dispute.created_at),
        "updated": instant(dispute.updated_at),
    }


def incident_object(incident: Incident) -> dict[str, Any]:
    """An incident as the API shows it."""
    return {
        "id": incident.id,
        "object": "incident",
        "kind": incident.kind,
        "status": "open" if incident.closed_at is None else "closed",
        "payment": incident.payment_id,
        "operation": incident.operation_id,
        "account": incident.account,
        "details": incident.details,
        "reason": incident.closed_reason,
        "livemode": incident.livemode,
        "created": instant(incident.created_at),
        "closed": instant(incident.closed_at),
    }


def notice_object(row: Mapping[str, Any], provider: str) -> dict[str, Any]:
    """What a provider told beside payments, as the event about it shows it. ``row`` are the columns of ``notice``."""
    return {
        "id": row["id"],
        "object": "notice",
        "kind": row["kind"],
        "payment": row["payment_id"],
        "account": row["account"],
        "provider": provider,
        "provider_notice_id": row["provider_notice_id"],
        "reason": row["reason"],
        "amount": row["amount"],
        "currency": row["currency"],
        "report_url": row["report_url"],
        "livemode": row["livemode"],
        "told": instant(row["told_at"]),
        "created": instant(row["created_at"]),
    }


def _waiting(location: str) -> dict[str, str]:
    return {"Location": location, "Retry-After": str(POLL_AFTER_S)}


def charge_answer(payment: Payment, keys: Keyring, *, ok: int) -> Answer:
    """The answer to a create (``ok`` 201) or a confirm (``ok`` 200)."""
    shown = payment_object(payment, keys)
    match payment.status:
        case Status.PROCESSING if payment.processing_reason is Reason.AWAITING_RETRY:
            problem = Problem(
                "provider_unavailable",
                "Nothing was charged: no account could process the payment. Send the same request with the same key again.",
                payment=shown,
            )
            return Answer(problem.sort.status, b"", decided=False, problem=problem)
        case Status.PROCESSING if payment.processing_reason is Reason.RETRY_SCHEDULED and payment.retry_at is not None:
            wait_s = max(POLL_AFTER_S, round((payment.retry_at - payment.updated_at).total_seconds()))
            location = {"Location": f"/v1/payments/{payment.terms.id}", "Retry-After": str(wait_s)}
            return Answer(202, orjson.dumps(shown), location, decided=False)
        case Status.PROCESSING:
            return Answer(202, orjson.dumps(shown), _waiting(f"/v1/payments/{payment.terms.id}"), decided=False)
        case Status.REQUIRES_ACTION:
            return Answer(ok, orjson.dumps(shown), decided=False)
        case Status.FAILED | Status.CANCELED:
            return Answer(402, orjson.dumps(shown))
        case Status.REQUIRES_PAYMENT_METHOD if payment.decline is not None:
            return Answer(402, orjson.dumps(shown))
        case Status.REQUIRES_PAYMENT_METHOD | Status.REQUIRES_CONFIRMATION | Status.REQUIRES_CAPTURE | Status.SUCCEEDED:
            return Answer(ok, orjson.dumps(shown))
        case _:
            assert_never(payment.status)


def follow_up_answer(
    payment: Payment, operation: Operation | None, keys: Keyring, dispute: Dispute | None = None
) -> Answer:
    """The answer to a verb on a payment. ``operation`` is ``None`` where no provider had to be asked.

    ``dispute`` is the one that was answered, as it stands once the provider has taken the answer.
    """
    if operation is None:  # canceled at once, or noted until the outcome is known
        shown = orjson.dumps(payment_object(payment, keys))
        if payment.status is not Status.PROCESSING and not payment.cancel_requested:
            return Answer(200, shown)
        return Answer(202, shown, _waiting(f"/v1/payments/{payment.terms.id}"), decided=False)
    if operation.status is OperationStatus.FAILED:
        return _refused(payment, operation, keys)
    settled = operation.status not in IN_FLIGHT | {OperationStatus.PENDING}
    if operation.kind is Kind.REFUND:
        shown, location = orjson.dumps(refund_object(payment, operation)), f"/v1/refunds/{operation.id}"
    elif dispute is not None:
        shown, location = orjson.dumps(dispute_object(dispute)), f"/v1/disputes/{dispute.id}"
    else:
        shown, location = orjson.dumps(payment_object(payment, keys)), f"/v1/payments/{payment.terms.id}"
    if not settled:
        return Answer(202, shown, _waiting(location), decided=False)
    return Answer(201 if operation.kind is Kind.REFUND else 200, shown)


def resolution_answer(payment: Payment, keys: Keyring) -> Answer:
    """The answer to a person's word about an operation that was in review."""
    return Answer(200, orjson.dumps(payment_object(payment, keys)))


def _refused(payment: Payment, operation: Operation, keys: Keyring) -> Answer:
    problem = Problem(
        "provider_refused",
        f"The provider refused the {operation.kind}.",
        payment=payment_object(payment, keys),
        extra={"provider": {"name": operation.provider, "code": operation.reason}, "operation": operation.id},
    )
    return Answer(problem.sort.status, problem.body(), media_type=MEDIA_TYPE)
