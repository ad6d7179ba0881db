"""What a request became, in a bounded number of words; what came of a first attempt."""

from __future__ import annotations

import time
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.metrics import decisions
from gateway.metrics.decisions import BAD, CALLER, GONE, GOOD, LIMITED, Asked, Waiting, class_of, verb_of
from gateway.metrics.first_attempts import RESULTS, first_result, segment
from gateway.metrics.instruments import Instruments
from gateway.payment import Operation, OperationStatus, Payment, Status, Terms
from providers.contract import CardFacts, Kind
from providers.declines import Action, Decline


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [
        ("POST", "/v1/payments", "create"),
        ("POST", "/v1/payments/pay_1/confirm", "confirm"),
        ("POST", "/v1/payments/pay_1/capture", "capture"),
        ("POST", "/v1/payments/pay_1/delete-everything", "other"),
        ("POST", "/v1/refunds", "refund"),
        ("POST", "/v1/payment_methods", "store"),
        ("GET", "/v1/payments", "other"),
        ("GET", "/v1/payments/pay_1/capture", "other"),
        ("POST", "/v1/webhooks/stripe", "webhook"),
        ("GET", "/v1/return/token", "return"),
        ("GET", "/console/explorer", "console"),
        ("GET", "/healthz", None),
        ("GET", "/metrics", None),
        ("GET", "/docs/static/x.js", None),
    ],
)
def test_what_is_asked_has_a_word(method: str, path: str, verb: str | None) -> None:
    assert verb_of(method, path) == verb


@given(
    st.sampled_from(["GET", "POST", "DELETE", "PROPFIND"]), st.sampled_from(["", "/v1/", "/v1/payments/"]), st.text()
)
def test_no_path_makes_a_word_of_its_own(method: str, start: str, rest: str) -> None:
    assert verb_of(method, start + rest) in {None, *decisions.VERBS}


@pytest.mark.parametrize(
    ("status", "became"),
    [(200, GOOD), (201, GOOD), (202, GOOD), (302, GOOD), (402, GOOD), (400, CALLER), (401, CALLER), (409, CALLER),
     (422, CALLER), (429, LIMITED), (500, BAD), (503, BAD), (504, BAD), (None, GONE)],
)  # fmt: skip
def test_an_answer_is_a_decision_or_says_whose_fault_it_is_that_there_is_none(status: int | None, became: str) -> None:
    assert class_of(status) == became


def test_what_is_added_is_without_the_time_spent_waiting_for_others() -> None:
    registry = CollectorRegistry()
    instruments, asked = Instruments(registry), Asked("POST", "/v1/payments")

    def request() -> float:
        decisions.begun(asked)
        with Waiting() as waiting:
            time.sleep(0.05)
        return waiting.s

    waited_s = copy_context().run(request)
    with Waiting():  # outside of any request it is nobody's
        time.sleep(0.01)
    asked.status = 201
    instruments.answered(asked)

    took = registry.get_sample_value("interlock_answer_seconds_sum", {"verb": "create"})
    added = registry.get_sample_value("interlock_added_seconds_sum", {"verb": "create"})
    assert took is not None
    assert added is not None
    assert 0.05 <= waited_s == asked.waited_s
    assert took - added == pytest.approx(waited_s)


def test_what_the_caller_got_wrong_says_nothing_about_our_time() -> None:
    registry = CollectorRegistry()
    instruments, asked = Instruments(registry), Asked("POST", "/v1/refunds")
    asked.status = 422
    instruments.answered(asked)

    assert registry.get_sample_value("interlock_decisions_total", {"verb": "refund", "class": "caller"}) == 1
    assert registry.get_sample_value("interlock_answer_seconds_count", {"verb": "refund"}) is None


NOW = datetime(2026, 1, 1, tzinfo=UTC)
SENT = Operation("att_1", Kind.AUTHORIZE, 1, 1, "acct", "psp", 100, OperationStatus.SENT, "key")


def _payment(attempt: Operation, **terms: object) -> Payment:
    plain = Terms("pay_1", "mer", livemode=False, amount=100, currency="EUR", capture_method="automatic", off_session=False, created_at=NOW)  # fmt: skip
    return Payment(replace(plain, **terms), Status.PROCESSING, NOW, operations=(attempt,))  # type: ignore[arg-type]


def _declined(code: str) -> Operation:
    decline = Decline(code, "soft", Action.RETRY_LATER, evidence="0")
    return replace(SENT, status=OperationStatus.DECLINED, decline=decline)


@pytest.mark.parametrize(
    ("after", "result"),
    [
        (replace(SENT, status=OperationStatus.CAPTURED), "approved"),
        (replace(SENT, status=OperationStatus.AUTHORIZED), "approved"),
        (_declined("insufficient_funds"), "declined"),
        (_declined("issuer_generic"), "declined"),
        (_declined("provider_error"), "technical"),
        (_declined("authentication_failed"), "authentication_failed"),
        (_declined("suspected_fraud"), "blocked"),
        (_declined("test_card"), "technical"),
        (_declined("not_sent"), "technical"),
        (replace(SENT, status=OperationStatus.NOT_PROCESSED), "technical"),
        (replace(SENT, status=OperationStatus.UNKNOWN), "unknown"),
        (replace(SENT, status=OperationStatus.REQUIRES_ACTION), None),
        (replace(SENT, status=OperationStatus.PENDING), None),
        (replace(SENT, status=OperationStatus.VOIDED, challenged=True), "authentication_failed"),
        (replace(SENT, status=OperationStatus.VOIDED), None),
    ],
)
def test_a_first_attempt_is_counted_by_what_came_of_it(after: Operation, result: str | None) -> None:
    assert first_result(_payment(after), SENT, after) == result
    assert result in {None, *RESULTS}


def test_an_unknown_one_is_counted_again_when_it_is_known_and_a_known_one_never() -> None:
    unknown = replace(SENT, status=OperationStatus.UNKNOWN)
    approved = replace(SENT, status=OperationStatus.CAPTURED)

    assert first_result(_payment(approved), unknown, approved) == "approved"
    assert first_result(_payment(unknown), unknown, unknown) is None
    assert first_result(_payment(approved), replace(SENT, status=OperationStatus.AUTHORIZED), approved) is None


def test_neither_a_second_attempt_nor_a_verification_is_a_first_attempt() -> None:
    approved = replace(SENT, status=OperationStatus.CAPTURED)
    second = replace(approved, id="att_2", seq=2)
    cascaded = replace(_payment(_declined("insufficient_funds")), operations=(_declined("insufficient_funds"), second))

    assert first_result(cascaded, replace(SENT, id="att_2", seq=2), second) is None
    assert first_result(_payment(approved, amount=0), SENT, approved) is None


@pytest.mark.parametrize(
    ("brand", "currency", "told"),
    [("visa", "EUR", ("acct", "visa", "EUR")), ("my own brand", "XAF", ("acct", "other", "other")), (None, "USD", ("acct", "other", "USD"))],
)  # fmt: skip
def test_only_brands_and_currencies_of_a_table_have_labels(
    brand: str | None, currency: str, told: tuple[str, ...]
) -> None:
    card = None if brand is None else CardFacts(brand=brand)

    assert segment(replace(_payment(SENT, currency=currency), card=card), SENT) == told
