"""What merchants are told of a change: which events it is, and their bytes. Pure.

Before and after are compared, so nobody who writes a change can forget to say so. An event's id follows from what it is about,
the version of the payment and its type: however often the change is decided or written, it is the same event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from gateway.answers import attempt_object, capture_object, dispute_object, instant, payment_facts, refund_object
from gateway.disputes import Dispute
from gateway.ids import EVENT, derived_id
from gateway.payment import Operation, OperationStatus, Payment, Reason, Status
from gateway.settings import VERSIONS
from providers.contract import DisputeStatus, Kind
from webhooks.catalog import EVENTS

S = OperationStatus

_TOLD: Final[Mapping[Kind, Mapping[OperationStatus, str]]] = {
    Kind.AUTHORIZE: {  # an approval is told by the payment
        status: f"attempt.{status}" for status in (S.DECLINED, S.NOT_PROCESSED, S.UNKNOWN, S.VOIDED, S.EXPIRED)
    },
    Kind.CAPTURE: {status: f"capture.{status}" for status in (S.PENDING, S.UNKNOWN, S.SUCCEEDED, S.FAILED)},
    Kind.REFUND: {status: f"refund.{status}" for status in (S.PENDING, S.UNKNOWN, S.SUCCEEDED, S.FAILED)},
}
"""What an operation's new status is called. Of the other kinds the payment tells."""
_ASKED: Final = frozenset({Kind.VOID, Kind.INCREMENT})
"""Where these succeed the payment is another one; where they fail, that has to be said."""
_WAITS: Final[Mapping[Reason | None, str | None]] = {
    Reason.OUTCOME_UNKNOWN: "payment.unknown",
    Reason.PENDING_AT_PROVIDER: "payment.processing",
    Reason.RETRY_SCHEDULED: "payment.retry_scheduled",
    Reason.AWAITING_RETRY: None,  # nothing happened anywhere: whoever asked is told to ask again
    None: None,
}
_CLOSED: Final = frozenset({DisputeStatus.WON, DisputeStatus.LOST, DisputeStatus.CLOSED})


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``body`` is what is stored, signed and sent."""

    id: str
    type: str
    body: bytes = field(repr=False)


def told(before: Payment, after: Payment, dispute: tuple[Dispute | None, Dispute] | None = None) -> list[Event]:
    """The events of one change, each with its full object as it is afterwards. None where only something was asked for.

    ``dispute`` is a dispute before, if it was there, and afterwards.
    The verification of a payment method is no payment: nothing is told of it.
    """
    if after.terms.amount == 0:
        return []
    return [
        event(type_, shown, after.updated_at, livemode=after.terms.livemode, sequence=after.version)
        for type_, shown in _told(before, after, dispute)
    ]


def _told(
    before: Payment, after: Payment, dispute: tuple[Dispute | None, Dispute] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    types = _of_payment(before, after)
    if types:
        shown = payment_facts(after)
        for type_ in types:
            yield type_, shown
    known = {operation.id: operation.status for operation in before.operations}
    for operation in after.operations:
        name = _TOLD.get(operation.kind, {}).get(operation.status)
        if name is not None and known.get(operation.id) is not operation.status:
            yield name, _object(after, operation)
    if dispute is not None:
        for type_ in _of_dispute(*dispute):
            yield type_, dispute_object(dispute[1])


def _of_payment(before: Payment, after: Payment) -> list[str]:
    """What is told of the payment itself."""
    types = []
    type_: str | None
    if (before.status, before.processing_reason) != (after.status, after.processing_reason):
        type_ = _WAITS[after.processing_reason] if after.status is Status.PROCESSING else f"payment.{after.status}"
        if type_ is not None and before.version:  # what was just asked for has its answer
            types.append(type_)
    elif after.amount_authorized != before.amount_authorized or _refused(before, after):
        types.append("payment.updated")
    if after.in_review and not before.in_review:
        types.append("payment.needs_review")
    return types


def _refused(before: Payment, after: Payment) -> bool:
    """Whether a cancel or an increment has failed by this change. A void that nobody but us has asked for is none of these."""
    open_before = {operation.id for operation in before.operations if operation.status is not S.FAILED}
    return any(
        operation.kind in _ASKED
        and operation.status is S.FAILED
        and operation.id in open_before
        and (operation.kind is Kind.INCREMENT or (before.cancel_requested and not operation.releases_unknown))
        for operation in after.operations
    )


def _of_dispute(before: Dispute | None, dispute: Dispute) -> list[str]:
    """What is told of a dispute. One whose end is the first that was heard of it begins and ends at once."""
    new = before is None
    over = dispute.status in _CLOSED and (before is None or before.status is not dispute.status)
    types = [type_ for type_, is_so in (("dispute.created", new), ("dispute.closed", over)) if is_so]
    return types or ["dispute.updated"]


def _object(payment: Payment, operation: Operation) -> Mapping[str, Any]:
    currency = payment.terms.currency
    match operation.kind:
        case Kind.REFUND:
            return refund_object(payment, operation)
        case Kind.CAPTURE:
            return {**capture_object(operation, currency), "payment": payment.terms.id}
        case _:
            return {**attempt_object(operation, currency), "payment": payment.terms.id}


def endpoint_event(type_: str, row: Mapping[str, Any]) -> Event:
    """The event of a type about an endpoint, from the columns of its row and ``at``, the instant."""
    shown = {
        "id": row["id"],
        "object": "webhook_endpoint",
        "url": row["url"],
        "description": row["description"],
        "events": ["*"] if row["wanted"] is None else list(row["wanted"]),
        "status": row["status"],
        "disabled_reason": row["disabled_reason"],
        "failing_since": instant(row["failing_since"]),
        "livemode": row["livemode"],
        "created": instant(row["created_at"]),
    }
    return event(type_, shown, row["at"], livemode=row["livemode"])


def event(type_: str, shown: Mapping[str, Any], at: datetime, *, livemode: bool, sequence: int | None = None) -> Event:
    """One event about ``shown``, in the form of the Standard Webhooks: https://www.standardwebhooks.com, payload structure."""
    if type_ not in EVENTS:
        raise ValueError(f"{type_} is not in the catalogue")
    # An id knows milliseconds: what has no sequence is told apart by the microsecond.
    which = at.isoformat() if sequence is None else str(sequence)
    event_id = derived_id(EVENT, at, shown["id"], which, type_)
    body = {
        "id": event_id,
        "object": "event",
        "type": type_,
        "timestamp": instant(at),
        "api_version": VERSIONS[-1],
        "livemode": livemode,
        "payment": shown["id"] if shown["object"] == "payment" else shown.get("payment"),
        "sequence": sequence,
        "data": shown,
    }
    return Event(event_id, type_, orjson.dumps(body))
