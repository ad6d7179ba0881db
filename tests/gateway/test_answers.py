"""What the API answers: which status says what, every field of the contract, and what a shopper is never told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from gateway.answers import (
    POLL_AFTER_S,
    Answer,
    capture_object,
    charge_answer,
    follow_up_answer,
    instant,
    payment_object,
    refund_object,
    replayed,
    shown_status,
)
from gateway.errors import MEDIA_TYPE, PROBLEMS, Problem
from gateway.lifecycle import TRANSITIONS
from gateway.payment import Operation, OperationStatus, Payment, Reason, Status, Terms
from gateway.vault import Keyring
from providers.contract import CardFacts, Kind
from providers.declines import MESSAGES, Action, Decline, load

KEYS: Final = Keyring.derive(b"s" * 32)
NOW: Final = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)
TERMS: Final = Terms(
    id="pay_1",
    merchant_id="mer_1",
    livemode=False,
    amount=1999,
    currency="EUR",
    capture_method="manual",
    off_session=False,
    created_at=NOW,
    reference="order-1001",
    metadata={"cart": "77"},
)
STOLEN: Final = Decline("card_stolen", "hard", Action.DO_NOT_RETRY, "stolen_card")
CONTRACT: Final = {
    "id", "object", "status", "amount", "currency", "amount_capturable", "amount_received", "amount_refunded",
    "capture_method", "account", "provider", "provider_payment_id", "network_transaction_id", "processing_reason",
    "decline", "next_action", "payment_method", "card", "captures", "capture_before", "three_d_secure", "checks",
    "auth_code", "arn", "reference", "customer", "metadata", "client_secret", "livemode", "attempt_count", "created",
    "updated",
}  # fmt: skip
"""Every field of the answer in the public contract."""
WORDS: Final = {"pending", "succeeded", "failed", "canceled", "unknown"}
"""A capture's and a refund's statuses in the public contract."""


def payment(status: Status, **changes: Any) -> Payment:
    return replace(Payment(TERMS, status, updated_at=NOW, version=1), **changes)


def operation(kind: Kind, status: OperationStatus, **changes: Any) -> Operation:
    plain = Operation("op_1", kind, 1, 1, "eu", "psp", 1999, status, "key_1", provider_id="psp_1", created_at=NOW)
    return replace(plain, **changes)


def read(answer: Answer) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(answer.body)
    return body


# --- A charge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "changes", "http", "decided"),
    [
        (Status.SUCCEEDED, {}, 201, True),
        (Status.REQUIRES_CAPTURE, {}, 201, True),
        (Status.REQUIRES_CONFIRMATION, {}, 201, True),
        (Status.REQUIRES_PAYMENT_METHOD, {}, 201, True),
        (Status.CANCELED, {}, 402, True),
        (Status.REQUIRES_ACTION, {"next_action": {"type": "redirect"}}, 201, False),
        (Status.REQUIRES_PAYMENT_METHOD, {"decline": STOLEN}, 402, True),
        (Status.FAILED, {"decline": STOLEN}, 402, True),
        (Status.PROCESSING, {}, 202, False),
        (Status.PROCESSING, {"processing_reason": Reason.PENDING_AT_PROVIDER}, 202, False),
        (Status.PROCESSING, {"processing_reason": Reason.OUTCOME_UNKNOWN}, 202, False),
        (Status.PROCESSING, {"processing_reason": Reason.AWAITING_RETRY}, 503, False),
        # A decline on the way does not make an open payment a declined one.
        (Status.PROCESSING, {"decline": STOLEN, "processing_reason": Reason.OUTCOME_UNKNOWN}, 202, False),
        (Status.SUCCEEDED, {"decline": STOLEN}, 201, True),
    ],
)
def test_a_charge_is_answered_by_its_status(
    status: Status, changes: dict[str, Any], http: int, *, decided: bool
) -> None:
    answer = charge_answer(payment(status, **changes), KEYS, ok=201)

    assert (answer.status, answer.decided) == (http, decided)


@pytest.mark.parametrize("status", Status)
def test_a_confirm_answers_200_where_a_create_answers_201(status: Status) -> None:
    created, confirmed = (charge_answer(payment(status), KEYS, ok=ok) for ok in (201, 200))

    assert confirmed.status == (200 if created.status == 201 else created.status)
    assert confirmed.body == created.body


def test_what_is_processing_says_where_to_look_and_when() -> None:
    answer = charge_answer(payment(Status.PROCESSING), KEYS, ok=201)

    assert answer.headers == {"Location": "/v1/payments/pay_1", "Retry-After": str(POLL_AFTER_S)}


@pytest.mark.parametrize("reason", [None, *Reason])
def test_what_is_processing_says_why(reason: Reason | None) -> None:
    shown = payment_object(payment(Status.PROCESSING, processing_reason=reason), KEYS)

    assert shown["processing_reason"] in set(Reason)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PROCESSING])
def test_what_is_not_processing_gives_no_reason_for_it(status: Status) -> None:
    assert payment_object(payment(status), KEYS)["processing_reason"] is None


def test_a_payment_that_nobody_processed_may_be_sent_again_under_the_same_key() -> None:
    answer = charge_answer(payment(Status.PROCESSING, processing_reason=Reason.AWAITING_RETRY), KEYS, ok=201)

    assert answer.problem is not None
    problem = json.loads(answer.problem.body("req_1"))
    assert (problem["code"], problem["retryable"], problem["status"]) == ("provider_unavailable", True, 503)
    assert (problem["payment"]["id"], problem["request_id"]) == ("pay_1", "req_1")
    assert "Retry-After" in answer.problem.headers()


def test_a_declined_payment_says_what_the_merchant_may_do_next() -> None:
    answer = charge_answer(payment(Status.FAILED, decline=STOLEN), KEYS, ok=201)

    assert read(answer)["decline"] == {
        "code": "card_stolen",
        "type": "hard",
        "advice": "do_not_retry",
        "provider_code": "stolen_card",
        "network_code": None,
        "network_advice": None,
        "retry_after_s": None,
        "message": "Your card was declined.",
    }


def test_the_same_payment_is_the_same_bytes() -> None:
    one, other = (charge_answer(payment(Status.SUCCEEDED), KEYS, ok=201).body for _ in range(2))

    assert one == other


# --- The objects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", Status)
def test_every_field_of_the_contract_is_there_in_every_status(status: Status) -> None:
    shown = payment_object(payment(status), KEYS)

    assert shown.keys() >= CONTRACT


def test_a_payment_shows_its_amounts_its_card_and_its_times() -> None:
    facts = CardFacts(brand="visa", bin="424242", last4="4242", exp_month=12, exp_year=2030)
    attempts = (
        operation(Kind.AUTHORIZE, OperationStatus.DECLINED),
        operation(Kind.AUTHORIZE, OperationStatus.AUTHORIZED),
    )
    part = operation(Kind.CAPTURE, OperationStatus.SUCCEEDED, amount=500)

    shown = payment_object(
        payment(
            Status.REQUIRES_CAPTURE,
            amount_authorized=1999,
            amount_captured=500,
            amount_capturing=99,
            amount_refunded=100,
            card=facts,
            cvc="match",
            operations=(*attempts, part),
        ),
        KEYS,
    )

    assert (shown["amount_capturable"], shown["amount_received"], shown["amount_refunded"]) == (1400, 500, 100)
    assert (shown["card"]["bin"], shown["card"]["last4"]) == ("424242", "4242")
    assert shown["checks"] == {"avs": None, "cvc": "match"}
    assert (shown["attempt_count"], len(shown["captures"])) == (2, 1)
    assert shown["created"] == "2026-11-21T09:30:00.123456Z"


def test_attempts_and_refunds_are_shown_where_they_are_asked_for() -> None:
    operations = (
        operation(Kind.AUTHORIZE, OperationStatus.DECLINED, decline=STOLEN),
        operation(Kind.REFUND, OperationStatus.SENT),
    )
    shown = payment(Status.SUCCEEDED, operations=operations)

    plain = payment_object(shown, KEYS)
    expanded = payment_object(shown, KEYS, frozenset({"attempts", "refunds"}))

    assert not plain.keys() & {"attempts", "refunds"}
    assert expanded["attempts"][0]["decline"]["provider_code"] == "stolen_card"
    assert expanded["refunds"][0]["status"] == "pending"


def test_the_client_secret_belongs_to_one_payment_and_one_secret_key() -> None:
    mine = payment_object(payment(Status.SUCCEEDED), KEYS)["client_secret"]
    other_payment = payment_object(replace(payment(Status.SUCCEEDED), terms=replace(TERMS, id="pay_2")), KEYS)
    other_key = payment_object(payment(Status.SUCCEEDED), Keyring.derive(b"t" * 32))

    assert mine.startswith("pay_1_secret_")
    assert len({mine, other_payment["client_secret"], other_key["client_secret"]}) == 3


@pytest.mark.parametrize("kind", [Kind.CAPTURE, Kind.REFUND])
@pytest.mark.parametrize("status", TRANSITIONS[Kind.CAPTURE])
def test_captures_and_refunds_use_the_words_of_the_contract_and_no_other(kind: Kind, status: OperationStatus) -> None:
    assert shown_status(operation(kind, status)) in WORDS


def test_a_failed_refund_says_why_and_a_pending_one_does_not() -> None:
    reason = {"reason": "charge_already_refunded"}
    failed = refund_object(payment(Status.SUCCEEDED), operation(Kind.REFUND, OperationStatus.FAILED, **reason))
    queued = refund_object(
        payment(Status.SUCCEEDED), operation(Kind.REFUND, OperationStatus.CREATED, reason="not_sent")
    )

    assert (failed["status"], failed["failure_code"]) == ("failed", "charge_already_refunded")
    assert (queued["status"], queued["failure_code"]) == ("pending", None)


def test_a_capture_says_whether_it_is_the_last() -> None:
    shown = capture_object(operation(Kind.CAPTURE, OperationStatus.SUCCEEDED, final=False), "EUR")

    assert (shown["object"], shown["final"], shown["provider_capture_id"]) == ("capture", False, "psp_1")


def test_times_are_rfc_3339_in_utc() -> None:
    assert instant(None) is None
    assert instant(NOW) == "2026-11-21T09:30:00.123456Z"
    assert instant(NOW.replace(microsecond=0)) == "2026-11-21T09:30:00.000000Z"


# --- Capture, cancel, refund ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "http", "decided"),
    [
        (Kind.CAPTURE, OperationStatus.SUCCEEDED, 200, True),
        (Kind.VOID, OperationStatus.SUCCEEDED, 200, True),
        (Kind.REFUND, OperationStatus.SUCCEEDED, 201, True),
        *((kind, OperationStatus.FAILED, 422, True) for kind in (Kind.CAPTURE, Kind.VOID, Kind.REFUND)),
        *(
            (kind, status, 202, False)
            for kind in (Kind.CAPTURE, Kind.VOID, Kind.REFUND)
            for status in (
                OperationStatus.CREATED,
                OperationStatus.SENT,
                OperationStatus.UNKNOWN,
                OperationStatus.PENDING,
            )
        ),
    ],
)
def test_a_follow_up_is_answered_by_its_status(
    kind: Kind, status: OperationStatus, http: int, *, decided: bool
) -> None:
    asked = operation(kind, status)

    answer = follow_up_answer(payment(Status.SUCCEEDED, operations=(asked,)), asked, KEYS)

    assert (answer.status, answer.decided) == (http, decided)
    assert ("Retry-After" in answer.headers) is (http == 202)


def test_a_refund_answers_the_refund_and_a_capture_the_payment() -> None:
    refund, capture = (operation(kind, OperationStatus.SENT) for kind in (Kind.REFUND, Kind.CAPTURE))

    refunded = follow_up_answer(payment(Status.SUCCEEDED, operations=(refund,)), refund, KEYS)
    captured = follow_up_answer(payment(Status.REQUIRES_CAPTURE, operations=(capture,)), capture, KEYS)

    assert (read(refunded)["object"], refunded.headers["Location"]) == ("refund", "/v1/refunds/op_1")
    assert (read(captured)["object"], captured.headers["Location"]) == ("payment", "/v1/payments/pay_1")


def test_what_the_psp_refused_says_so_with_its_code_and_is_not_to_be_sent_again() -> None:
    refused = operation(Kind.CAPTURE, OperationStatus.FAILED, reason="charge_expired_for_capture")

    answer = follow_up_answer(payment(Status.REQUIRES_CAPTURE, operations=(refused,)), refused, KEYS)

    problem = read(answer)
    assert (problem["code"], problem["retryable"]) == ("provider_refused", False)
    assert problem["provider"] == {"name": "psp", "code": "charge_expired_for_capture"}
    assert (problem["operation"], problem["payment"]["id"], answer.media_type) == ("op_1", "pay_1", MEDIA_TYPE)


def test_a_cancel_that_needed_nobody_is_decided_and_one_that_waits_is_not() -> None:
    at_once = follow_up_answer(payment(Status.CANCELED), None, KEYS)
    waits = follow_up_answer(payment(Status.PROCESSING, cancel_requested=True), None, KEYS)

    assert (at_once.status, at_once.decided) == (200, True)
    assert (waits.status, waits.decided, read(waits)["cancel_requested"]) == (202, False, True)


# --- Replays and problems ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 402])
def test_a_replay_is_the_stored_bytes_and_says_that_it_is_one(status: int) -> None:
    answer = replayed(status, b'{"id":"pay_1"}')

    assert (answer.status, answer.body, answer.decided) == (status, b'{"id":"pay_1"}', True)
    assert (answer.headers, answer.media_type) == ({"Idempotent-Replayed": "true"}, "application/json")


def test_a_replayed_refusal_is_a_problem_again() -> None:
    assert replayed(422, b"{}").media_type == MEDIA_TYPE


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_has_the_form_of_rfc_9457_and_says_whether_to_retry(code: str) -> None:
    problem = Problem(code, "A sentence.", "amount")

    document = json.loads(problem.body("req_1"))
    assert document.keys() == {"type", "title", "status", "detail", "code", "param", "retryable", "request_id"}
    assert (document["code"], document["status"], document["request_id"]) == (code, PROBLEMS[code].status, "req_1")
    assert document["retryable"] in {"Retry-After" in problem.headers(), False}
    assert ("Retry-After" in problem.headers()) or document["status"] not in {409, 503, 504}


def test_a_problem_that_is_stored_holds_no_request_id() -> None:
    assert "request_id" not in json.loads(Problem("provider_refused", "It refused.").body())


@pytest.mark.parametrize("table", ["stripe_declines", "adyen_refusals"])
def test_a_shopper_is_never_told_that_a_card_is_stolen_lost_or_suspected(table: str) -> None:
    told = {decline.message for decline in load(table).values()} | {STOLEN.message, *MESSAGES.values()}

    assert [
        sentence for sentence in told if re.search(r"stolen|lost|fraud|pick.?up|suspect|risk", sentence, re.IGNORECASE)
    ] == []
