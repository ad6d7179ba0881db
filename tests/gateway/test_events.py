"""What merchants are told of a change: the right words once, with the object as it is, and nothing that only they asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
import pytest

from gateway.disputes import Dispute
from gateway.events import event, told
from gateway.ids import EVENT, is_id
from gateway.payment import FAILOVER, Operation, OperationStatus, Payment, Reason, Status, Terms
from providers.contract import DisputeStatus, Kind
from webhooks.catalog import EVENTS

S = OperationStatus
NOW: Final = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
LATER: Final = NOW + timedelta(seconds=1)
TERMS: Final = Terms(
    id="pay_1",
    merchant_id="mer_1",
    livemode=False,
    amount=100,
    currency="EUR",
    capture_method="manual",
    off_session=False,
    created_at=NOW,
)


def operation(kind: Kind, status: S, seq: int = 1) -> Operation:
    return Operation(f"{kind}_{seq}", kind, seq, 1, "a", "psp", 100, status, f"key_{seq}")


def payment(status: Status, *operations: Operation, **more: Any) -> Payment:
    return Payment(TERMS, status, updated_at=LATER, version=3, operations=operations, **more)


def types(before: Payment, after: Payment, dispute: tuple[Dispute | None, Dispute] | None = None) -> list[str]:
    return [each.type for each in told(before, after, dispute)]


SENT: Final = payment(Status.PROCESSING, operation(Kind.AUTHORIZE, S.SENT))
UNKNOWN: Final = payment(
    Status.PROCESSING, operation(Kind.AUTHORIZE, S.UNKNOWN), processing_reason=Reason.OUTCOME_UNKNOWN
)
HELD: Final = payment(Status.REQUIRES_CAPTURE, operation(Kind.AUTHORIZE, S.AUTHORIZED), amount_authorized=100)
PAID: Final = payment(
    Status.SUCCEEDED, operation(Kind.AUTHORIZE, S.CAPTURED), amount_authorized=100, amount_captured=100
)
REFUNDING: Final = replace(PAID, operations=(*PAID.operations, operation(Kind.REFUND, S.SENT, 2)), amount_refunding=100)
CAPTURING: Final = replace(HELD, operations=(*HELD.operations, operation(Kind.CAPTURE, S.SENT, 2)))

CANCELING: Final = replace(
    HELD, operations=(*HELD.operations, operation(Kind.VOID, S.PENDING, 2)), cancel_requested=True
)
INCREASING: Final = replace(HELD, operations=(*HELD.operations, operation(Kind.INCREMENT, S.PENDING, 2)))
RELEASING: Final = replace(
    UNKNOWN,
    operations=(*UNKNOWN.operations, replace(operation(Kind.VOID, S.PENDING, 2), metadata={"purpose": FAILOVER})),
)


def ended(payment: Payment, outcome: S, **more: Any) -> Payment:
    """The payment once its last operation has ended."""
    *earlier, last = payment.operations
    return replace(payment, operations=(*earlier, replace(last, status=outcome)), **more)


STEPS: Final[dict[str, tuple[Payment, Payment, list[str]]]] = {
    "created": (replace(SENT, version=0, operations=()), SENT, []),
    "sent": (payment(Status.REQUIRES_CONFIRMATION), SENT, []),
    "approved": (SENT, HELD, ["payment.requires_capture"]),
    "approved and captured": (SENT, PAID, ["payment.succeeded"]),
    "declined": (
        SENT,
        ended(SENT, S.DECLINED, status=Status.REQUIRES_PAYMENT_METHOD),
        ["payment.requires_payment_method", "attempt.declined"],
    ),
    "declined, and the next account is asked": (
        SENT,
        payment(Status.PROCESSING, operation(Kind.AUTHORIZE, S.DECLINED), operation(Kind.AUTHORIZE, S.SENT, 2)),
        ["attempt.declined"],
    ),
    "not known": (SENT, UNKNOWN, ["payment.unknown", "attempt.unknown"]),
    "not known still": (UNKNOWN, UNKNOWN, []),
    "known after all": (UNKNOWN, PAID, ["payment.succeeded"]),
    "accepted": (
        SENT,
        ended(SENT, S.PENDING, processing_reason=Reason.PENDING_AT_PROVIDER),
        ["payment.processing"],
    ),
    "nobody reached": (
        SENT,
        ended(SENT, S.NOT_PROCESSED, processing_reason=Reason.AWAITING_RETRY),
        ["attempt.not_processed"],
    ),
    "before a person": (
        UNKNOWN,
        replace(UNKNOWN, operations=(replace(UNKNOWN.operations[0], review_at=LATER),)),
        ["payment.needs_review"],
    ),
    "more authorized": (HELD, replace(HELD, amount_authorized=150), ["payment.updated"]),
    "an increment refused": (INCREASING, ended(INCREASING, S.FAILED), ["payment.updated"]),
    "a cancel refused": (CANCELING, ended(CANCELING, S.FAILED, cancel_requested=False), ["payment.updated"]),
    "a void that nobody asked for refused": (
        replace(CANCELING, cancel_requested=False),
        ended(CANCELING, S.FAILED, cancel_requested=False),
        [],
    ),
    "a failover's void refused": (RELEASING, ended(RELEASING, S.FAILED), []),
    "a capture asked for": (HELD, CAPTURING, []),
    "a capture accepted": (CAPTURING, ended(CAPTURING, S.PENDING), ["capture.pending"]),
    "a part captured": (CAPTURING, ended(CAPTURING, S.SUCCEEDED), ["capture.succeeded"]),
    "all captured": (
        CAPTURING,
        ended(CAPTURING, S.SUCCEEDED, status=Status.SUCCEEDED),
        ["payment.succeeded", "capture.succeeded"],
    ),
    "a capture that failed after all": (
        ended(CAPTURING, S.SUCCEEDED, status=Status.SUCCEEDED),
        ended(CAPTURING, S.FAILED),
        ["payment.requires_capture", "capture.failed"],
    ),
    "a refund asked for": (PAID, REFUNDING, []),
    "a refund given": (REFUNDING, ended(REFUNDING, S.SUCCEEDED, amount_refunded=100), ["refund.succeeded"]),
    "a refund refused": (REFUNDING, ended(REFUNDING, S.FAILED), ["refund.failed"]),
    "released": (HELD, ended(HELD, S.VOIDED, status=Status.CANCELED), ["payment.canceled", "attempt.voided"]),
    "run out": (HELD, ended(HELD, S.EXPIRED, status=Status.CANCELED), ["payment.canceled", "attempt.expired"]),
    "two attempts that end at once": (
        payment(Status.PROCESSING, operation(Kind.AUTHORIZE, S.UNKNOWN), operation(Kind.AUTHORIZE, S.UNKNOWN, 2)),
        payment(Status.CANCELED, operation(Kind.AUTHORIZE, S.VOIDED), operation(Kind.AUTHORIZE, S.VOIDED, 2)),
        ["payment.canceled", "attempt.voided", "attempt.voided"],
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_told_in_these_words(step: str) -> None:
    before, after, expected = STEPS[step]

    assert types(before, after) == expected


@pytest.mark.parametrize("step", STEPS)
def test_the_same_step_is_the_same_events_byte_for_byte_and_each_has_an_id_of_its_own(step: str) -> None:
    before, after, _ = STEPS[step]
    events = told(before, after)

    assert told(before, after) == events
    assert len({each.id for each in events}) == len(events)
    assert all(is_id(each.id, EVENT) for each in events)


def test_another_version_or_another_moment_is_another_event() -> None:
    ids = {
        told(SENT, after)[0].id
        for after in (PAID, replace(PAID, version=4), replace(PAID, updated_at=LATER + timedelta(seconds=1)))
    }

    assert len(ids) == 3


def test_an_event_has_the_whole_object_and_no_secret_to_act_on_it() -> None:
    (told_of,) = told(SENT, PAID)
    body = orjson.loads(told_of.body)

    assert (body["id"], body["type"], body["sequence"], body["payment"]) == (
        told_of.id,
        "payment.succeeded",
        3,
        "pay_1",
    )
    assert body["timestamp"] == "2026-11-21T09:30:01.000000Z"
    assert (body["data"]["object"], body["data"]["status"], body["data"]["amount_received"]) == (
        "payment",
        "succeeded",
        100,
    )
    assert b"secret" not in told_of.body


@pytest.mark.parametrize("kind", [Kind.CAPTURE, Kind.REFUND, Kind.AUTHORIZE])
def test_an_operation_names_its_payment(kind: Kind) -> None:
    status = S.DECLINED if kind is Kind.AUTHORIZE else S.FAILED
    before = payment(Status.SUCCEEDED, operation(kind, S.SENT))
    (told_of,) = told(before, ended(before, status))
    body = orjson.loads(told_of.body)

    assert (body["payment"], body["data"]["payment"], body["data"]["id"]) == ("pay_1", "pay_1", f"{kind}_1")


def test_the_verification_of_a_payment_method_is_no_payment() -> None:
    nothing = replace(SENT, terms=replace(TERMS, amount=0))

    assert told(nothing, replace(PAID, terms=nothing.terms)) == []


D: Final = DisputeStatus


@pytest.mark.parametrize(
    ("before", "status", "expected"),
    [
        (None, D.NEEDS_RESPONSE, ["dispute.created"]),
        (None, D.LOST, ["dispute.created", "dispute.closed"]),
        (D.NEEDS_RESPONSE, D.UNDER_REVIEW, ["dispute.updated"]),
        (D.NEEDS_RESPONSE, D.NEEDS_RESPONSE, ["dispute.updated"]),
        (D.UNDER_REVIEW, D.WON, ["dispute.closed"]),
        (D.WON, D.LOST, ["dispute.closed"]),
        (D.INQUIRY, D.CLOSED, ["dispute.closed"]),
        (D.LOST, D.LOST, ["dispute.updated"]),  # a fact that came late
        (D.WON, D.UNDER_REVIEW, ["dispute.updated"]),  # taken up again
    ],
)
def test_a_dispute_is_told_beside_its_payment(
    before: DisputeStatus | None, status: DisputeStatus, expected: list[str]
) -> None:
    after = Dispute("dp_1", "pay_1", "a", "psp", "du_1", status, 100, "EUR", None, None, None, NOW, NOW, LATER)

    assert types(PAID, PAID, (None if before is None else replace(after, status=before), after)) == expected


def test_what_has_no_sequence_is_told_apart_within_a_millisecond() -> None:
    """A stored method may be told twice of in one."""
    shown = {"id": "pm_1", "object": "payment_method"}
    ids = {
        event("payment_method.updated", shown, NOW + timedelta(microseconds=us), livemode=False).id for us in range(3)
    }

    assert len(ids) == 3


def test_a_word_that_is_not_in_the_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="catalogue"):
        event("payment.lost", {"id": "pay_1", "object": "payment"}, NOW, livemode=False)


def test_every_status_that_a_payment_can_come_to_has_its_word() -> None:
    assert {f"payment.{status}" for status in Status} <= EVENTS.keys()
