"""The life of a payment: every step in the table and no other, amounts that conserve, nothing that moves backwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway import lifecycle
from gateway.lifecycle import ROUNDS_MAX, TRANSITIONS, Change, NoChange, Refused
from gateway.payment import FAILOVER, IN_FLIGHT, OPEN, Operation, OperationStatus, Payment, Reason, Status, Terms
from gateway.payment import OperationStatus as S
from providers.contract import (
    ActionRequired,
    Approved,
    CardFacts,
    Declined,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Unknown,
)
from providers.declines import Action, Decline
from providers.money import Money
from routing.plan import Plan

AMOUNT: Final = 100
NOW: Final = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
LATER: Final = datetime(2026, 11, 21, 9, 31, tzinfo=UTC)
DECLINE: Final = Decline("do_not_honor", "soft", Action.ASK_NEW_METHOD, "05")
ELSEWHERE: Final = Decline("issuer_unavailable", "soft", Action.RETRY_OTHER_NOW, "91")
STEP_UP: Final = Decline("authentication_required", "soft", Action.STEP_UP_3DS, "38")

NEWS: Final[dict[str, Callable[[int], Outcome]]] = {
    "approved": lambda amount: Approved("psp_1", Money(amount, "EUR")),
    "captured": lambda amount: Approved("psp_1", Money(amount, "EUR"), captured=True),
    "declined": lambda _: Declined(DECLINE, "psp_1"),
    "declined_go_elsewhere": lambda _: Declined(ELSEWHERE),
    "action_required": lambda _: ActionRequired("psp_1", {"type": "redirect"}),
    "action_required_without_id": lambda _: ActionRequired(None, {"type": "redirect"}),
    "pending": lambda _: Pending("psp_1"),
    "not_processed": lambda _: NotProcessed("not_sent"),
    "unknown": lambda _: Unknown("timeout"),
    "declined_step_up": lambda _: Declined(STEP_UP, "psp_1"),
}
SAYS: Final[dict[bool, dict[str, S]]] = {
    True: {
        "approved": S.AUTHORIZED,
        "captured": S.CAPTURED,
        "declined": S.DECLINED,
        "declined_go_elsewhere": S.DECLINED,
        "action_required": S.REQUIRES_ACTION,
        "action_required_without_id": S.REQUIRES_ACTION,
        "pending": S.PENDING,
        "not_processed": S.NOT_PROCESSED,
        "unknown": S.UNKNOWN,
        "declined_step_up": S.DECLINED,
    },
    False: {
        "approved": S.SUCCEEDED,
        "captured": S.SUCCEEDED,
        "declined": S.FAILED,
        "declined_go_elsewhere": S.FAILED,
        "action_required": S.PENDING,
        "action_required_without_id": S.PENDING,
        "pending": S.PENDING,
        "not_processed": S.CREATED,
        "unknown": S.UNKNOWN,
        "declined_step_up": S.FAILED,
    },
}
"""What an outcome says about an authorization (``True``) and about a follow-up (``False``)."""


def terms(**changes: Any) -> Terms:
    plain = Terms(
        id="pay_1",
        merchant_id="mer_1",
        livemode=False,
        amount=AMOUNT,
        currency="EUR",
        capture_method="manual",
        off_session=False,
        created_at=NOW,
    )
    return replace(plain, **changes)


def operation(
    kind: Kind, status: S, *, seq: int = 1, amount: int = AMOUNT, round_: int = 1, account: str = "a"
) -> Operation:
    operation_id = f"{kind}_{seq}"
    return Operation(operation_id, kind, seq, round_, account, "psp", amount, status, f"key_{seq}")


def unpaid(**changes: Any) -> Payment:
    return replace(Payment(terms(), Status.REQUIRES_CONFIRMATION, updated_at=NOW), **changes)


def sent(route: tuple[str, ...] = ("a", "b"), **changes: Any) -> Payment:
    """A payment whose first attempt is on its way."""
    attempt = operation(Kind.AUTHORIZE, S.SENT, account=route[0])
    return lifecycle.confirmed(unpaid(terms=terms(**changes)), attempt, route, NOW).payment


def told(payment: Payment, operation_id: str, news: str, *, driven: bool = False) -> Payment:
    """The payment after news that must be news."""
    change = hear(payment, operation_id, NEWS[news](payment.operation(operation_id).amount), driven=driven)
    assert isinstance(change, Change)
    return change.payment


def hear(payment: Payment, operation_id: str, outcome: Outcome, *, driven: bool = False) -> Change | NoChange:
    plan = payment.plan({operation_id: outcome})
    return lifecycle.decide(payment, operation_id, outcome, plan.held() if driven else plan, driven=driven, now=LATER)


def authorized() -> Payment:
    return told(sent(), "authorize_1", "approved")


def captured() -> Payment:
    return told(sent(), "authorize_1", "captured")


def unknown() -> Payment:
    return told(sent(), "authorize_1", "unknown")


def voiding(payment: Payment) -> Payment:
    """The payment while its attempt of unknown outcome is voided, so that another account may be asked."""
    void = replace(operation(Kind.VOID, S.SENT, seq=2), metadata={"purpose": FAILOVER})
    return lifecycle.failover_opened(payment, payment.operations[0], void, NOW).payment


# --- Outcomes that nobody knows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("news", ["approved", "captured", "declined", "not_processed"])
def test_nothing_is_believed_of_an_attempt_while_the_void_is_out_that_is_to_end_it(news: str) -> None:
    payment = voiding(unknown())

    change = hear(payment, "authorize_1", NEWS[news](AMOUNT))

    assert change == NoChange(lifecycle.VOID_DECIDES)


def test_a_confirmed_void_of_an_unknown_attempt_lets_the_next_account_be_asked() -> None:
    payment = told(voiding(unknown()), "void_2", "approved")

    assert (payment.operations[0].status, payment.processing_reason) == (S.VOIDED, Reason.AWAITING_RETRY)
    assert payment.plan().account == "b"


@pytest.mark.parametrize("news", ["declined", "not_processed"])
def test_a_void_that_ended_nothing_leaves_the_attempt_as_unknown_as_it_was(news: str) -> None:
    payment = told(voiding(unknown()), "void_2", news)

    assert (payment.operations[0].status, payment.operations[1].status) == (S.UNKNOWN, S.FAILED)
    assert payment.plan().account is None
    assert told(payment, "authorize_1", "captured").status is Status.SUCCEEDED


def _canceled(payment: Payment) -> Payment:
    return lifecycle.cancel_opened(payment, None, None, NOW).payment


@pytest.mark.parametrize(
    "payment",
    [
        pytest.param(sent(), id="on its way"),
        pytest.param(authorized(), id="authorized"),
        pytest.param(_canceled(unknown()), id="to be canceled"),
        pytest.param(told(sent(("a",)), "authorize_1", "unknown"), id="nobody else to ask"),
        pytest.param(told(voiding(unknown()), "void_2", "declined"), id="tried before"),
    ],
)
def test_an_attempt_is_voided_for_a_failover_only_where_that_can_lead_to_one(payment: Payment) -> None:
    void = operation(Kind.VOID, S.SENT, seq=9)

    with pytest.raises(Refused):
        lifecycle.failover_opened(payment, payment.operations[0], void, NOW)


def test_a_review_changes_nothing_but_what_is_said_of_it() -> None:
    payment = unknown()

    change = lifecycle.put_in_review(payment, payment.operations[0], {"tries": 9}, LATER)

    assert isinstance(change, Change)
    assert (change.payment.status, change.payment.processing_reason) == (Status.PROCESSING, Reason.OUTCOME_UNKNOWN)
    assert (change.payment.operations[0].status, change.payment.in_review) == (S.UNKNOWN, True)
    again = lifecycle.put_in_review(change.payment, change.payment.operations[0], {"tries": 10}, LATER)
    assert isinstance(again, NoChange)


# --- Every step in the table, and no other ----------------------------------------------------------------------------


def in_state(kind: Kind, status: S) -> Payment:
    """A payment in whose operation of ``kind`` stands at ``status``, with amounts that fit."""
    asked = operation(kind, status, seq=2)
    attempt = operation(Kind.AUTHORIZE, S.CAPTURED if kind is Kind.REFUND else S.AUTHORIZED)
    waits, done = AMOUNT if status in OPEN else 0, AMOUNT if status is S.SUCCEEDED else 0
    plain = unpaid(version=1, round=1, route=("a", "b"), amount_authorized=AMOUNT, operations=(attempt, asked))
    match kind:
        case Kind.AUTHORIZE:
            alone = operation(kind, status, seq=2)
            return replace(plain, status=Status.PROCESSING, amount_authorized=0, operations=(alone,))
        case Kind.CAPTURE:
            state = Status.SUCCEEDED if done else Status.REQUIRES_CAPTURE
            return replace(plain, status=state, amount_capturing=waits, amount_captured=done)
        case Kind.VOID:
            return replace(plain, status=Status.CANCELED if done else Status.REQUIRES_CAPTURE)
        case Kind.REFUND:
            plain = replace(plain, status=Status.SUCCEEDED, amount_captured=AMOUNT)
            return replace(plain, amount_refunding=waits, amount_refunded=done)
        case Kind.INCREMENT | Kind.DEFEND | Kind.ACCEPT:
            return replace(plain, status=Status.REQUIRES_CAPTURE)


EVERY: Final = [(kind, status, news) for kind, steps in TRANSITIONS.items() for status in steps for news in NEWS]


@pytest.mark.parametrize(("kind", "status", "news"), EVERY)
def test_news_takes_a_step_of_the_table_or_changes_nothing(kind: Kind, status: S, news: str) -> None:
    payment = in_state(kind, status)
    before = replace(payment)
    says = SAYS[kind is Kind.AUTHORIZE][news]

    change = hear(payment, f"{kind}_2", NEWS[news](AMOUNT))

    assert payment == before
    if says in TRANSITIONS[kind][status]:
        assert isinstance(change, Change)
        assert change.payment.operation(f"{kind}_2").status is says
        assert change.payment.version == payment.version + 1
        assert (change.from_status, change.news) == (payment.status, type(NEWS[news](AMOUNT)).__name__)
    else:
        assert isinstance(change, NoChange)
        assert change.reason == (f"{'attempt' if kind is Kind.AUTHORIZE else kind} is {status}, news says {says}")


@pytest.mark.parametrize("kind", Kind)
def test_the_table_knows_every_status_it_leads_to(kind: Kind) -> None:
    steps = TRANSITIONS[kind]

    assert set().union(*steps.values()) <= steps.keys()


@pytest.mark.parametrize("kind", Kind)
def test_no_step_leads_back_to_where_it_started_so_a_duplicate_is_never_news(kind: Kind) -> None:
    assert not [status for status, after in TRANSITIONS[kind].items() if status in after]


def test_what_has_ended_never_opens_again() -> None:
    reopened = [
        (kind, status, after)
        for kind, steps in TRANSITIONS.items()
        for status, afters in steps.items()
        for after in afters
        if status not in OPEN and after in OPEN
    ]

    assert reopened == []


def test_a_declined_attempt_is_never_approved_whatever_comes_late() -> None:
    payment = told(sent(), "authorize_1", "declined")

    late = [hear(payment, "authorize_1", news(AMOUNT)) for news in NEWS.values()]

    assert all(isinstance(change, NoChange) for change in late)


def test_a_status_is_in_flight_only_while_it_is_open() -> None:
    assert IN_FLIGHT < OPEN


def test_an_operation_of_another_payment_is_a_defect_and_not_news() -> None:
    with pytest.raises(KeyError):
        lifecycle.decide(sent(), "authorize_9", Unknown("timeout"), Plan.start([]), driven=False, now=LATER)


# --- A charge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("news", "status", "reason"),
    [
        ("approved", Status.REQUIRES_CAPTURE, None),
        ("captured", Status.SUCCEEDED, None),
        ("declined", Status.REQUIRES_PAYMENT_METHOD, None),
        ("declined_go_elsewhere", Status.PROCESSING, Reason.AWAITING_RETRY),
        ("action_required", Status.REQUIRES_ACTION, None),
        ("pending", Status.PROCESSING, Reason.PENDING_AT_PROVIDER),
        ("not_processed", Status.PROCESSING, Reason.AWAITING_RETRY),
        ("unknown", Status.PROCESSING, Reason.OUTCOME_UNKNOWN),
    ],
)
def test_a_status_says_what_the_outcome_means(news: str, status: Status, reason: Reason | None) -> None:
    payment = told(sent(), "authorize_1", news)

    assert (payment.status, payment.processing_reason) == (status, reason)


def test_a_decline_that_is_taken_elsewhere_at_once_never_announces_a_failure() -> None:
    payment = sent()
    outcome = NEWS["declined_go_elsewhere"](AMOUNT)

    plan = payment.plan({"authorize_1": outcome})
    change = lifecycle.decide(payment, "authorize_1", outcome, plan, driven=True, now=LATER)
    assert isinstance(change, Change)
    change = lifecycle.followed_by(change, operation(Kind.AUTHORIZE, S.SENT, seq=2, account="b"))

    assert (change.payment.status, change.payment.processing_reason) == (Status.PROCESSING, None)
    assert [attempt.status for attempt in change.payment.attempts] == [S.DECLINED, S.SENT]
    assert change.payment.version == payment.version + 1


def test_an_off_session_decline_is_final() -> None:
    payment = told(sent(off_session=True), "authorize_1", "declined")

    assert payment.status is Status.FAILED


def test_the_shopper_may_try_five_times_and_then_the_payment_has_failed() -> None:
    payment, statuses = unpaid(), []

    for round_ in range(1, ROUNDS_MAX + 1):
        attempt = operation(Kind.AUTHORIZE, S.SENT, seq=round_, round_=round_)
        payment = lifecycle.confirmed(payment, attempt, ("a",), NOW).payment
        payment = told(payment, attempt.id, "declined")
        statuses.append(payment.status)

    assert statuses == [Status.REQUIRES_PAYMENT_METHOD] * 4 + [Status.FAILED]
    with pytest.raises(Refused, match="failed cannot be confirmed"):
        lifecycle.confirmed(payment, operation(Kind.AUTHORIZE, S.SENT, seq=9), ("a",), NOW)


def test_rounds_in_which_nobody_was_reached_do_not_use_up_the_tries() -> None:
    attempts = tuple(operation(Kind.AUTHORIZE, S.NOT_PROCESSED, seq=seq, round_=seq) for seq in range(1, 9))
    last = operation(Kind.AUTHORIZE, S.SENT, seq=9, round_=9)
    payment = unpaid(status=Status.PROCESSING, round=9, route=("a",), operations=(*attempts, last))

    payment = told(payment, "authorize_9", "declined")

    assert payment.status is Status.REQUIRES_PAYMENT_METHOD


def test_a_new_round_forgets_the_last_decline_and_asks_every_account_anew() -> None:
    payment = told(sent(("a",)), "authorize_1", "declined")

    payment = lifecycle.confirmed(payment, operation(Kind.AUTHORIZE, S.SENT, seq=2, round_=2), ("a",), NOW).payment

    assert (payment.decline, payment.round, payment.status) == (None, 2, Status.PROCESSING)


def test_a_payment_never_shows_the_provider_id_of_an_attempt_at_another_account() -> None:
    payment = told(sent(), "authorize_1", "declined")
    attempt = operation(Kind.AUTHORIZE, S.SENT, seq=2, round_=2, account="b")
    payment = lifecycle.confirmed(payment, attempt, ("b",), NOW).payment

    payment = told(payment, "authorize_2", "unknown")

    assert (payment.account, payment.provider_payment_id) == ("b", None)


@pytest.mark.parametrize("status", [status for status in Status if not status.startswith("requires_")])
def test_only_a_payment_that_waits_for_it_can_be_confirmed(status: Status) -> None:
    with pytest.raises(Refused):
        lifecycle.confirmed(unpaid(status=status), operation(Kind.AUTHORIZE, S.SENT), ("a",), NOW)


def test_the_first_change_of_a_payment_came_from_nothing_whatever_it_does_at_once() -> None:
    waiting = lifecycle.created(unpaid(), LATER)
    charging = lifecycle.confirmed(unpaid(), operation(Kind.AUTHORIZE, S.SENT), ("a",), LATER)

    assert (waiting.payment.version, waiting.from_status) == (1, None)
    assert (charging.payment.version, charging.from_status) == (1, None)
    assert waiting.payment.updated_at == charging.payment.updated_at == LATER


# --- Parked, and given up ---------------------------------------------------------------------------------------------


def test_a_parked_payment_that_nobody_reached_has_failed_once_it_is_given_up() -> None:
    parked = told(sent(("a",)), "authorize_1", "not_processed")

    change = lifecycle.given_up(parked, LATER)

    assert isinstance(change, Change)
    assert (change.payment.status, change.payment.processing_reason) == (Status.FAILED, None)
    assert (change.reason, change.payment.updated_at) == ("not_sent", LATER)


def test_a_parked_payment_that_was_declined_on_the_way_is_declined_once_it_is_given_up() -> None:
    parked = told(sent(), "authorize_1", "declined_go_elsewhere")

    change = lifecycle.given_up(parked, LATER)

    assert isinstance(change, Change)
    assert (change.payment.status, change.payment.decline) == (Status.REQUIRES_PAYMENT_METHOD, ELSEWHERE)


def test_a_parked_payment_whose_cancel_was_asked_for_is_canceled_once_it_is_given_up() -> None:
    parked = told(sent(("a",)), "authorize_1", "not_processed")
    parked = lifecycle.cancel_opened(parked, None, "abandoned", NOW).payment

    change = lifecycle.given_up(parked, LATER)

    assert isinstance(change, Change)
    assert (change.payment.status, change.payment.cancellation_reason) == (Status.CANCELED, "abandoned")


@pytest.mark.parametrize("news", ["approved", "captured", "declined", "action_required", "pending", "unknown"])
def test_only_a_parked_payment_is_given_up(news: str) -> None:
    payment = told(sent(("a",)), "authorize_1", news)

    assert isinstance(lifecycle.given_up(payment, LATER), NoChange)
    assert isinstance(lifecycle.given_up(sent(), LATER), NoChange)


def test_giving_up_twice_changes_nothing() -> None:
    change = lifecycle.given_up(told(sent(("a",)), "authorize_1", "not_processed"), LATER)
    assert isinstance(change, Change)

    assert isinstance(lifecycle.given_up(change.payment, LATER), NoChange)


def test_a_parked_payment_goes_on_with_its_next_account() -> None:
    parked = told(sent(), "authorize_1", "not_processed")
    assert parked.plan().account == "b"

    change = lifecycle.asked(parked, operation(Kind.AUTHORIZE, S.SENT, seq=2, account="b"), parked.route, LATER)

    assert (change.payment.processing_reason, change.payment.plan().account) == (None, None)


# --- Capture and refund -----------------------------------------------------------------------------------------------


def capture_of(payment: Payment, amount: int, *, final: bool = True) -> Payment:
    asked = replace(operation(Kind.CAPTURE, S.SENT, seq=len(payment.operations) + 1, amount=amount), final=final)
    return lifecycle.capture_opened(payment, asked, NOW).payment


def refund_of(payment: Payment, amount: int) -> Payment:
    asked = operation(Kind.REFUND, S.SENT, seq=len(payment.operations) + 1, amount=amount)
    return lifecycle.refund_opened(payment, asked, NOW).payment


def test_a_capture_reserves_its_amount_before_it_is_sent() -> None:
    payment = capture_of(authorized(), 60, final=False)

    assert (payment.amount_capturing, payment.amount_captured, payment.amount_capturable) == (60, 0, 40)
    with pytest.raises(Refused, match="At most 40") as refused:
        capture_of(payment, 41)
    assert (refused.value.code, refused.value.param) == ("amount_too_large", "amount")


def test_nothing_is_captured_beside_a_capture_that_releases_the_rest() -> None:
    payment = capture_of(authorized(), 60)

    with pytest.raises(Refused, match="on its way") as refused:
        capture_of(payment, 10)
    assert refused.value.code == "payment_state"


def test_what_is_to_be_canceled_is_not_captured() -> None:
    asked = lifecycle.cancel_opened(sent(), None, "requested_by_customer", NOW).payment
    payment = told(asked, "authorize_1", "approved")

    assert (payment.status, payment.cancel_requested) == (Status.REQUIRES_CAPTURE, True)
    with pytest.raises(Refused, match="being canceled"):
        capture_of(payment, 10)


def test_what_is_authorized_with_automatic_capture_is_captured_although_the_news_does_not_say_so() -> None:
    payment = sent()
    payment = replace(payment, terms=replace(payment.terms, capture_method="automatic"))

    after = told(payment, "authorize_1", "approved")

    assert (after.status, after.amount_captured) == (Status.SUCCEEDED, AMOUNT)


def test_an_approval_that_is_told_again_with_more_adds_what_was_missing_and_changes_nothing_else() -> None:
    payment = told(sent(), "authorize_1", "approved")
    card = CardFacts(brand="visa", last4="4242")
    fuller = Approved("psp_1", Money(AMOUNT, "EUR"), network_transaction_id="nti_1", card=card)

    change = hear(payment, "authorize_1", fuller)

    assert isinstance(change, Change)
    assert change.reason == "facts_learned"
    assert (change.payment.network_transaction_id, change.payment.card) == ("nti_1", card)
    kept = replace(
        change.payment, version=payment.version, updated_at=payment.updated_at, network_transaction_id=None, card=None
    )
    assert kept == replace(payment, network_transaction_id=None, card=None)
    other = Approved("psp_1", Money(AMOUNT, "EUR"), network_transaction_id="nti_2", card=CardFacts(brand="amex"))
    assert isinstance(hear(change.payment, "authorize_1", other), NoChange), "what is known stays as it is"


def test_a_payment_is_where_it_is_being_asked_and_a_decline_stands_with_its_own_account() -> None:
    outcome = NEWS["declined_go_elsewhere"](AMOUNT)
    first = sent().operation("authorize_1")
    declined = replace(sent(), route=(first.account, "account_2"))
    plan = declined.plan({first.id: outcome})
    change = lifecycle.decide(declined, first.id, outcome, plan, driven=True, now=NOW)
    assert isinstance(change, Change)
    second = replace(operation(Kind.AUTHORIZE, S.SENT, seq=2), account="account_2", provider="other")

    asking = lifecycle.followed_by(change, second).payment
    nobody = told(asking, second.id, "not_processed")

    assert (asking.account, asking.provider, asking.provider_payment_id) == ("account_2", "other", None)
    assert (nobody.status, nobody.account) == (Status.REQUIRES_PAYMENT_METHOD, first.account)
    assert nobody.decline is not None


def test_a_final_capture_of_a_part_ends_the_payment_and_releases_the_rest() -> None:
    payment = told(capture_of(authorized(), 60), "capture_2", "approved")

    assert (payment.status, payment.amount_captured, payment.amount_capturable) == (Status.SUCCEEDED, 60, 0)


def test_captures_that_are_not_final_end_the_payment_once_everything_is_captured() -> None:
    payment = told(capture_of(authorized(), 60, final=False), "capture_2", "approved")
    assert (payment.status, payment.amount_capturable) == (Status.REQUIRES_CAPTURE, 40)

    payment = told(capture_of(payment, 40, final=False), "capture_3", "approved")

    assert (payment.status, payment.amount_captured) == (Status.SUCCEEDED, AMOUNT)


def test_a_failed_capture_frees_its_amount() -> None:
    payment = told(capture_of(authorized(), 60), "capture_2", "declined")

    assert (payment.status, payment.amount_capturing, payment.amount_capturable) == (Status.REQUIRES_CAPTURE, 0, AMOUNT)


def test_a_capture_that_failed_after_its_success_takes_the_payment_back_to_be_captured() -> None:
    payment = told(capture_of(authorized(), AMOUNT), "capture_2", "approved")

    payment = told(payment, "capture_2", "declined")

    assert (payment.status, payment.amount_captured, payment.amount_capturable) == (Status.REQUIRES_CAPTURE, 0, AMOUNT)


def test_a_capture_that_reached_nobody_keeps_its_amount_reserved_until_it_is_sent_again() -> None:
    payment = told(capture_of(authorized(), 60), "capture_2", "not_processed")

    assert payment.operation("capture_2").status is S.CREATED
    assert payment.amount_capturing == 60


def test_the_psp_reporting_the_payment_captured_is_no_news_while_a_capture_of_ours_accounts_for_it() -> None:
    payment = capture_of(authorized(), AMOUNT)

    change = hear(payment, "authorize_1", NEWS["captured"](AMOUNT))

    assert isinstance(change, NoChange)


@pytest.mark.parametrize("payment", [unpaid(), sent(), captured()], ids=["unpaid", "sent", "captured"])
def test_only_an_authorized_payment_can_be_captured(payment: Payment) -> None:
    with pytest.raises(Refused) as refused:
        capture_of(payment, 1)
    assert refused.value.code == "payment_state"


def test_a_refund_reserves_its_amount_and_two_cannot_exceed_what_was_captured() -> None:
    payment = refund_of(captured(), 60)

    assert (payment.amount_refunding, payment.amount_refundable) == (60, 40)
    with pytest.raises(Refused, match="At most 40"):
        refund_of(payment, 41)


def test_a_refund_moves_from_reserved_to_refunded_and_leaves_the_payment_succeeded() -> None:
    payment = told(refund_of(captured(), 60), "refund_2", "approved")

    assert (payment.status, payment.amount_refunding, payment.amount_refunded) == (Status.SUCCEEDED, 0, 60)


def test_a_refund_that_failed_after_its_success_can_be_asked_for_again() -> None:
    payment = told(refund_of(captured(), AMOUNT), "refund_2", "approved")

    payment = told(payment, "refund_2", "declined")

    assert (payment.amount_refunded, payment.amount_refundable) == (0, AMOUNT)


@pytest.mark.parametrize("payment", [unpaid(), sent(), authorized()], ids=["unpaid", "sent", "authorized"])
def test_nothing_can_be_refunded_before_something_was_captured(payment: Payment) -> None:
    with pytest.raises(Refused, match="Nothing was captured"):
        refund_of(payment, 1)


# --- Cancel -----------------------------------------------------------------------------------------------------------


def cancel(payment: Payment) -> Payment:
    asked = operation(Kind.VOID, S.SENT, seq=len(payment.operations) + 1)
    needed = payment.status in {Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION}
    return lifecycle.cancel_opened(payment, asked if needed else None, "abandoned", NOW).payment


@pytest.mark.parametrize(("told_at_once", "kept"), [(False, True), (True, False)])
def test_a_cancel_that_was_promised_is_kept_when_the_money_was_captured_before_the_void(
    *, told_at_once: bool, kept: bool
) -> None:
    """Whoever is told at once that it failed decides for himself; who was promised it gets the money back by the worker."""
    payment = cancel(told(cancel(sent()), "authorize_1", "action_required"))
    payment = told(payment, "authorize_1", "captured")

    after = told(payment, "void_2", "declined", driven=told_at_once)

    assert (after.status, after.amount_captured) == (Status.SUCCEEDED, AMOUNT)
    assert after.cancel_requested is kept


def test_an_unpaid_payment_is_canceled_at_once() -> None:
    payment = cancel(unpaid())

    assert (payment.status, payment.cancellation_reason) == (Status.CANCELED, "abandoned")


def test_an_authorization_is_released_by_a_void_and_canceled_when_that_succeeds() -> None:
    payment = cancel(authorized())
    assert payment.status is Status.REQUIRES_CAPTURE

    payment = told(payment, "void_2", "approved")

    assert (payment.status, payment.cancel_requested) == (Status.CANCELED, False)
    assert payment.operation("authorize_1").status is S.VOIDED


def test_a_payment_that_waits_for_the_shopper_is_canceled_by_a_void() -> None:
    payment = told(cancel(told(sent(), "authorize_1", "action_required")), "void_2", "approved")

    assert (payment.status, payment.next_action) == (Status.CANCELED, None)
    assert payment.operation("authorize_1").status is S.VOIDED


def test_a_void_that_the_psp_refuses_leaves_the_authorization_to_be_captured() -> None:
    payment = told(cancel(authorized()), "void_2", "declined")

    assert (payment.status, payment.cancel_requested, payment.amount_capturable) == (
        Status.REQUIRES_CAPTURE,
        False,
        AMOUNT,
    )


def test_a_cancel_while_the_outcome_is_not_known_is_kept_until_it_is() -> None:
    payment = cancel(told(sent(), "authorize_1", "unknown"))
    assert (payment.status, payment.cancel_requested) == (Status.PROCESSING, True)

    approved = told(payment, "authorize_1", "approved")
    refused = told(payment, "authorize_1", "declined")

    assert (approved.status, approved.cancel_requested) == (Status.REQUIRES_CAPTURE, True)
    assert (refused.status, refused.cancel_requested) == (Status.CANCELED, False)


def test_neither_a_capture_nor_a_second_cancel_starts_while_the_first_cancel_is_on_its_way() -> None:
    payment = cancel(authorized())

    with pytest.raises(Refused, match="being canceled"):
        capture_of(payment, 1)
    with pytest.raises(Refused, match="being canceled"):
        cancel(payment)


def test_a_payment_with_a_capture_on_its_way_is_not_canceled() -> None:
    with pytest.raises(Refused, match="refund it instead"):
        cancel(capture_of(authorized(), 1))


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.CANCELED, Status.FAILED])
def test_what_has_ended_is_not_canceled(status: Status) -> None:
    with pytest.raises(Refused, match=f"{status} cannot be canceled"):
        cancel(unpaid(status=status))


def test_an_authorization_cannot_be_released_without_asking_the_psp() -> None:
    with pytest.raises(AssertionError):
        lifecycle.cancel_opened(authorized(), None, None, NOW)


# --- Recovery and value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", TRANSITIONS[Kind.AUTHORIZE])
def test_an_attempt_that_is_still_open_lets_the_plan_ask_nobody_else(status: S) -> None:
    payment = unpaid(round=1, route=("a", "b"), operations=(replace(operation(Kind.AUTHORIZE, status), decline=None),))

    asks_on = payment.plan().account is not None

    assert asks_on is (status is S.NOT_PROCESSED)


@given(news=st.sampled_from(sorted(NEWS)), driven=st.booleans())
def test_the_plan_of_a_recorded_outcome_is_the_plan_that_was_decided_with(news: str, *, driven: bool) -> None:
    payment, outcome = sent(), NEWS[news](AMOUNT)
    plan = payment.plan({"authorize_1": outcome})

    change = lifecycle.decide(payment, "authorize_1", outcome, plan, driven=driven, now=LATER)

    assert isinstance(change, Change)
    assert change.payment.plan() == plan


# --- Known gaps: what the PSP may contradict --------------------------------------------------------------------------


def test_a_capture_that_fails_although_it_was_refunded_leaves_no_more_refunded_than_captured() -> None:
    payment = told(capture_of(authorized(), AMOUNT), "capture_2", "approved")
    payment = told(refund_of(payment, AMOUNT), "refund_3", "approved")

    change = hear(payment, "capture_2", NEWS["declined"](AMOUNT))

    after = change.payment if isinstance(change, Change) else payment
    assert after.amount_refunded + after.amount_refunding <= after.amount_captured


def test_a_payment_that_has_succeeded_is_not_shown_as_canceled_while_it_holds_the_money() -> None:
    payment = told(cancel(authorized()), "authorize_1", "captured")

    change = hear(payment, "void_2", NEWS["approved"](AMOUNT))

    after = change.payment if isinstance(change, Change) else payment
    assert after.status is not Status.CANCELED or after.amount_captured == 0


# --- Any order of news ------------------------------------------------------------------------------------------------

FORWARD: Final[dict[Status, set[Status]]] = {
    Status.SUCCEEDED: {Status.REQUIRES_CAPTURE},  # only by a capture that fails after all, checked where it happens
    Status.REQUIRES_CAPTURE: {Status.SUCCEEDED, Status.CANCELED},
    Status.CANCELED: set(),
    Status.FAILED: set(),
}


class Life(RuleBasedStateMachine):
    """One payment under everything that may happen to it, in any order, against what its operations naively add up to."""

    payment: Payment

    @initialize(off_session=st.booleans())
    def create(self, *, off_session: bool) -> None:
        self.payment = unpaid(terms=terms(off_session=off_session))
        self.history: list[Change] = []

    # --- what happens ---

    @precondition(
        lambda self: (
            self.payment.status in {Status.REQUIRES_CONFIRMATION, Status.REQUIRES_PAYMENT_METHOD}
            or self.payment.steps_up
        )
    )
    @rule(route=st.sampled_from([("a",), ("a", "b"), ("b", "a", "c", "d")]))
    def confirm(self, route: tuple[str, ...]) -> None:
        attempt = self.next(Kind.AUTHORIZE, account=route[0], round_=self.payment.round + 1)
        self.apply(lifecycle.confirmed(self.payment, attempt, route, NOW))

    @precondition(lambda self: self.payment.operations)
    @rule(data=st.data(), news=st.sampled_from(sorted(NEWS)), driven=st.booleans())
    def hear(self, data: st.DataObject, news: str, *, driven: bool) -> None:
        about = data.draw(st.sampled_from(self.payment.operations))
        outcome = NEWS[news](about.amount)
        self.learn(about, outcome, driven=driven)

    @precondition(lambda self: self.payment.open_attempt is not None)
    @rule(news=st.sampled_from(sorted(NEWS)))
    def answer(self, news: str) -> None:
        attempt = self.payment.open_attempt
        assert attempt is not None
        self.learn(attempt, NEWS[news](AMOUNT), driven=True)

    @rule(amount=st.integers(1, AMOUNT), final=st.booleans())
    def capture(self, amount: int, *, final: bool) -> None:
        asked = replace(self.next(Kind.CAPTURE, amount=amount), final=final)
        self.ask(lambda: lifecycle.capture_opened(self.payment, asked, NOW))

    @rule(amount=st.integers(1, AMOUNT))
    def refund(self, amount: int) -> None:
        self.ask(lambda: lifecycle.refund_opened(self.payment, self.next(Kind.REFUND, amount=amount), NOW))

    @rule()
    def cancel(self) -> None:
        needed = self.payment.status in {Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION}
        asked = self.next(Kind.VOID) if needed and not self.payment.steps_up else None
        self.ask(lambda: lifecycle.cancel_opened(self.payment, asked, None, NOW))

    @rule(amount=st.integers(1, 2 * AMOUNT))
    def increment(self, amount: int) -> None:
        asked = self.next(Kind.INCREMENT, amount=amount)
        self.ask(lambda: lifecycle.increment_opened(self.payment, asked, NOW))

    @rule(kind=st.sampled_from([Kind.DEFEND, Kind.ACCEPT]))
    def answer_a_dispute(self, kind: Kind) -> None:
        asked = replace(self.next(kind), metadata={"dispute": "dp_1"})
        self.ask(lambda: lifecycle.dispute_answered(self.payment, asked, NOW))

    @precondition(lambda self: self.payment.open_attempt is not None)
    @rule()
    def come_back(self) -> None:
        attempt = self.payment.open_attempt
        assert attempt is not None
        self.ask(lambda: lifecycle.returned(self.payment, attempt, NOW))

    @rule()
    def abandon(self) -> None:
        self.ask(lambda: lifecycle.abandoned(self.payment, self.next(Kind.VOID), NOW))

    @precondition(lambda self: self.payment.open_attempt is not None)
    @rule()
    def void_the_unknown(self) -> None:
        attempt = self.payment.open_attempt
        assert attempt is not None
        void = replace(self.next(Kind.VOID), metadata={"purpose": FAILOVER})
        self.ask(lambda: lifecycle.failover_opened(self.payment, attempt, void, NOW))

    @precondition(lambda self: self.payment.operations)
    @rule(data=st.data())
    def put_in_review(self, data: st.DataObject) -> None:
        about = data.draw(st.sampled_from(self.payment.operations))
        change = lifecycle.put_in_review(self.payment, about, {"tries": 9}, NOW)
        if isinstance(change, Change):
            self.apply(change)

    @precondition(lambda self: self.payment.attempts)
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.payment.attempts))
        change = lifecycle.lapsed(self.payment, attempt, NOW)
        if isinstance(change, Change):
            self.apply(change)

    @precondition(lambda self: self.payment.cancel_requested and self.payment.status is Status.SUCCEEDED)
    @rule()
    def give_back(self) -> None:
        if self.payment.amount_refundable:
            self.refund(self.payment.amount_refundable)

    @precondition(lambda self: self.payment.processing_reason is Reason.AWAITING_RETRY)
    @rule()
    def give_up(self) -> None:
        change = lifecycle.given_up(self.payment, NOW)
        assert isinstance(change, Change)
        self.apply(change)

    @precondition(
        lambda self: self.payment.processing_reason is Reason.AWAITING_RETRY and not self.payment.cancel_requested
    )
    @rule()
    def go_on(self) -> None:
        plan, round_ = self.payment.plan(), self.payment.round
        if plan.account is None:
            plan, round_ = Plan.start(self.payment.route), round_ + 1
        attempt = self.next(Kind.AUTHORIZE, account=plan.account or "", round_=round_)
        self.apply(lifecycle.asked(self.payment, attempt, self.payment.route, NOW))

    # --- how it is written ---

    def next(
        self, kind: Kind, *, amount: int = AMOUNT, account: str | None = None, round_: int | None = None
    ) -> Operation:
        seq = len(self.payment.operations) + 1
        where, when = account or self.payment.account or "a", self.payment.round if round_ is None else round_
        return operation(kind, S.SENT, seq=seq, amount=amount, account=where, round_=when)

    def ask(self, verb: Callable[[], Change]) -> None:
        try:
            change = verb()
        except Refused:
            return
        self.apply(change)

    def learn(self, about: Operation, outcome: Outcome, *, driven: bool) -> None:
        payment, following = self.payment, None
        plan = payment.plan({about.id: outcome})
        driven = driven and not about.challenged  # after a challenge nobody else is asked
        plan = plan.held() if about.challenged else plan
        if driven and plan.account is not None and about.kind is Kind.AUTHORIZE:
            following = self.next(Kind.AUTHORIZE, account=plan.account)
        plan = plan.held() if driven and following is None else plan
        change = lifecycle.decide(payment, about.id, outcome, plan, driven=driven, now=LATER)
        if isinstance(change, NoChange):
            assert change.reason
            return
        self.apply(change if following is None else lifecycle.followed_by(change, following))
        again = lifecycle.decide(self.payment, about.id, outcome, self.payment.plan(), driven=driven, now=LATER)
        assert isinstance(again, NoChange), "a duplicate is never news"

    def apply(self, change: Change) -> None:
        before, after = self.payment, change.payment
        assert after.version == before.version + 1
        assert change.from_status is (before.status if before.version else None)
        fixed = replace(after.terms, amount=before.terms.amount, off_session=before.terms.off_session)
        assert fixed == before.terms
        for one in before.operations:
            self.assert_step(one, after.operation(one.id))
        if after.status is not before.status:
            assert after.status in FORWARD.get(before.status, set(Status)), (before.status, after.status)
            if before.status is Status.SUCCEEDED:
                assert change.operation is not None
                assert (change.operation.kind, change.operation.status) == (Kind.CAPTURE, S.FAILED)
        self.payment = after
        self.history.append(change)

    @staticmethod
    def assert_step(before: Operation, after: Operation) -> None:
        assert after.status is before.status or after.status in TRANSITIONS[before.kind][before.status]
        fixed = ("id", "kind", "seq", "round", "account", "provider", "amount", "provider_key")
        assert [getattr(before, name) for name in fixed] == [getattr(after, name) for name in fixed]

    # --- what always holds ---

    @invariant()
    def amounts_are_what_the_operations_add_up_to(self) -> None:
        def total(kind: Kind, statuses: set[S] | frozenset[S]) -> int:
            return sum(one.amount for one in self.payment.operations if one.kind is kind and one.status in statuses)

        captured_at_once = total(Kind.AUTHORIZE, {S.CAPTURED})
        payment = self.payment
        assert payment.amount_captured == captured_at_once + total(Kind.CAPTURE, {S.SUCCEEDED})
        assert payment.amount_capturing == total(Kind.CAPTURE, OPEN)
        assert payment.amount_refunded == total(Kind.REFUND, {S.SUCCEEDED})
        assert payment.amount_refunding == total(Kind.REFUND, OPEN)
        if payment.status in {Status.SUCCEEDED, Status.REQUIRES_CAPTURE}:
            assert payment.amount_authorized in self.totals()
            assert payment.amount_authorized <= payment.terms.amount

    def totals(self) -> set[int]:
        """Every amount that was authorized at some time: the attempt's, and that of each change of it."""
        done = {S.AUTHORIZED, S.CAPTURED, S.SUCCEEDED}
        kinds = {Kind.AUTHORIZE, Kind.INCREMENT}
        return {one.amount for one in self.payment.operations if one.kind in kinds and one.status in done}

    @invariant()
    def amounts_conserve(self) -> None:
        payment = self.payment
        assert 0 <= payment.amount_captured + payment.amount_capturing <= payment.amount_authorized <= 2 * AMOUNT
        assert 0 <= payment.amount_refunded + payment.amount_refunding <= payment.amount_captured
        assert min(payment.amount_capturing, payment.amount_refunding, payment.amount_refunded) >= 0
        assert 0 <= payment.amount_capturable <= payment.amount_authorized
        assert 0 <= payment.amount_refundable <= payment.amount_authorized

    @invariant()
    def one_attempt_is_open_and_one_has_succeeded_at_most(self) -> None:
        attempts = self.payment.attempts
        assert sum(attempt.status in OPEN for attempt in attempts) <= 1
        assert sum(attempt.status in {S.AUTHORIZED, S.CAPTURED} for attempt in attempts) <= 1

    @invariant()
    def no_account_is_asked_twice_in_a_round(self) -> None:
        asked = [(attempt.round, attempt.account) for attempt in self.payment.attempts]
        assert len(asked) == len(set(asked))

    @invariant()
    def the_status_says_what_the_attempts_say(self) -> None:
        payment, attempt = self.payment, self.payment.open_attempt
        live = [one for one in payment.attempts if one.status in {S.AUTHORIZED, S.CAPTURED}]
        assert payment.processing_reason is None or payment.status is Status.PROCESSING
        returned = attempt is not None and attempt.challenged and attempt.status in {S.SENT, S.UNKNOWN}
        assert (payment.next_action is not None) == (payment.status is Status.REQUIRES_ACTION or returned)
        if attempt is not None:
            assert not live
            waits = {
                S.SENT: (Status.PROCESSING, None),
                S.REQUIRES_ACTION: (Status.REQUIRES_ACTION, None),
                S.PENDING: (Status.PROCESSING, Reason.PENDING_AT_PROVIDER),
                S.UNKNOWN: (Status.PROCESSING, Reason.OUTCOME_UNKNOWN),
            }
            assert (payment.status, payment.processing_reason) == waits[attempt.status]
        elif live:
            assert payment.status in {Status.REQUIRES_CAPTURE, Status.SUCCEEDED}
            assert (payment.account, payment.decline) == (live[0].account, None)
        else:
            assert payment.status not in {Status.REQUIRES_CAPTURE, Status.SUCCEEDED}
            assert payment.status is not Status.REQUIRES_ACTION or payment.steps_up
            parked = payment.processing_reason is Reason.AWAITING_RETRY
            assert parked is (payment.status is Status.PROCESSING)

    @invariant()
    def the_history_is_without_gaps(self) -> None:
        versions = [0, *(change.payment.version for change in self.history)]
        assert all(later == earlier + 1 for earlier, later in pairwise(versions))


Life.TestCase.settings = settings(max_examples=300, stateful_step_count=30)
TestLife = Life.TestCase


def test_every_status_of_an_operation_belongs_to_some_kind() -> None:
    known = {status for steps in TRANSITIONS.values() for status in steps}

    assert known == set(OperationStatus)
