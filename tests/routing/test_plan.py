"""The plan: who is asked next, and when nobody else may be. Properties over any sequence of outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.contract import ActionRequired, Approved, Declined, NotProcessed, Outcome, Pending, Unknown
from providers.declines import Action, Decline
from providers.money import Money
from routing.plan import Plan, Verdict
from routing.retries import TRIES_MAX, Budget, Rule, processed

MONEY: Final = Money(1999, "EUR")
APPROVED: Final = Approved("pi_1", MONEY, captured=True)
NOT_PROCESSED: Final = NotProcessed("not_sent")
WAITS: Final[tuple[Outcome, ...]] = (Unknown("timeout"), Pending("pi_1"), ActionRequired("pi_1", {"type": "redirect"}))


def declined(action: Action) -> Declined:
    return Declined(Decline("do_not_honor", "soft", action, "05"))


ASKS_ON: Final[tuple[Outcome, ...]] = (NOT_PROCESSED, declined(Action.RETRY_OTHER_NOW))
ENDS: Final[tuple[Outcome, ...]] = (
    APPROVED,
    *WAITS,
    *(declined(action) for action in Action if action is not Action.RETRY_OTHER_NOW),
)

outcomes = st.sampled_from([*ASKS_ON, *ENDS])
# Mostly outcomes after which the next account is asked, so that long cascades are common.
histories = st.lists(st.one_of(st.sampled_from(ASKS_ON), st.sampled_from(ASKS_ON), outcomes), max_size=8)
accounts = st.lists(st.sampled_from("abcdef"), max_size=8)
limits = st.builds(Budget, st.integers(0, 7), st.integers(0, 7))


def driven(plan: Plan, news: Iterable[Outcome]) -> tuple[Plan, list[tuple[str, Outcome]]]:
    """What a charge does: ask the plan's account, and go on with what it answered."""
    history: list[tuple[str, Outcome]] = []
    for outcome in news:
        if plan.account is None:
            break
        history.append((plan.account, outcome))
        plan = plan.after(outcome)
    return plan, history


def folded(plan: Plan, news: Iterable[Outcome]) -> list[Plan]:
    """Every plan on the way, whatever the plan says about going on."""
    plans = [plan]
    for outcome in news:
        plan = plan.after(outcome)
        plans.append(plan)
    return plans


@given(accounts, histories, st.sampled_from(WAITS), histories, limits)
def test_nobody_is_asked_after_an_outcome_under_which_money_may_move(
    names: Sequence[str], before: Sequence[Outcome], wait: Outcome, after: Sequence[Outcome], most: Budget
) -> None:
    plan = folded(Plan.start(names, budget=most), before)[-1].after(wait)

    assert plan.verdict is Verdict.WAITING
    assert all(later.account is None for later in folded(plan, after))


@given(accounts, histories, st.sampled_from(WAITS), st.lists(st.sampled_from(ASKS_ON), max_size=4))
def test_an_attempt_that_may_have_charged_is_never_forgotten_for_a_later_refusal(
    names: Sequence[str], before: Sequence[Outcome], wait: Outcome, after: Sequence[Outcome]
) -> None:
    plan = folded(Plan.start(names), before)[-1].after(wait)

    assert {later.verdict for later in folded(plan, after)} == {Verdict.WAITING}


@given(accounts, histories, histories)
def test_an_approval_ends_the_asking(names: Sequence[str], before: Sequence[Outcome], after: Sequence[Outcome]) -> None:
    plan = folded(Plan.start(names), before)[-1].after(APPROVED)

    assert plan.verdict is Verdict.DECIDED
    assert all(later.account is None for later in folded(plan, after))


@given(accounts, histories, limits)
def test_every_account_is_asked_at_most_once_and_in_the_order_of_preference(
    names: Sequence[str], news: Sequence[Outcome], most: Budget
) -> None:
    _, history = driven(Plan.start(names, budget=most), news)

    asked = [account for account, _ in history]
    assert asked == list(dict.fromkeys(names))[: len(asked)]


@given(accounts, histories, limits)
def test_no_more_attempts_are_made_than_the_plan_allows(
    names: Sequence[str], news: Sequence[Outcome], most: Budget
) -> None:
    plan, history = driven(Plan.start(names, budget=most), news)

    assert len(history) <= most.tries
    assert processed([outcome for _, outcome in history]) <= most.attempts
    assert plan.attempts == len(history)


@given(accounts, histories, limits)
def test_another_account_is_asked_only_after_a_refusal_that_permits_it(
    names: Sequence[str], news: Sequence[Outcome], most: Budget
) -> None:
    _, history = driven(Plan.start(names, budget=most), news)

    assert all(outcome in ASKS_ON for _, outcome in history[:-1])


@given(accounts, histories, limits)
def test_the_verdict_says_what_the_last_outcome_and_the_rest_of_the_accounts_say(
    names: Sequence[str], news: Sequence[Outcome], most: Budget
) -> None:
    plan, history = driven(Plan.start(names, budget=most), news)
    answers = [outcome for _, outcome in history]
    left = len(set(names)) > len(history) and len(history) < most.tries and processed(answers) < most.attempts

    if answers and answers[-1] in WAITS:
        expected = Verdict.WAITING
    elif answers and answers[-1] in ENDS:
        expected = Verdict.DECIDED
    elif left:
        expected = Verdict.ASK
    else:
        declines = any(isinstance(outcome, Declined) for outcome in answers)
        expected = Verdict.DECIDED if declines else Verdict.NOT_SENT
    assert plan.verdict is expected


@given(accounts, histories, limits)
def test_recovery_after_a_crash_has_the_plan_of_the_first_run(
    names: Sequence[str], news: Sequence[Outcome], most: Budget
) -> None:
    plan, history = driven(Plan.start(names, budget=most), news)

    resumed = Plan.resume(names, history, budget=most)

    assert (resumed, resumed.history) == (plan, plan.history)


@given(accounts, accounts, histories)
def test_recovery_asks_nobody_twice_though_the_configuration_has_changed(
    names: Sequence[str], names_now: Sequence[str], news: Sequence[Outcome]
) -> None:
    _, history = driven(Plan.start(names), news)

    resumed = Plan.resume(names_now, history)

    asked = {account for account, _ in history}
    assert resumed.account is None or resumed.account in set(names_now) - asked
    assert resumed.attempts == len(history)


@given(accounts, histories, st.builds(Budget, st.integers(1, 3), st.integers(1, 3)))
def test_recovery_under_a_smaller_limit_asks_nobody_and_keeps_what_was_learnt(
    names: Sequence[str], news: Sequence[Outcome], most: Budget
) -> None:
    plan, history = driven(Plan.start(names, budget=Budget(7, 7)), news)

    resumed = Plan.resume(names, history, budget=most)

    if len(history) >= most.tries or processed([outcome for _, outcome in history]) >= most.attempts:
        assert resumed.account is None
        assert resumed.verdict is plan.held().verdict


@pytest.mark.parametrize(
    ("action", "asks_on"),
    [
        (Action.RETRY_OTHER_NOW, True),
        (Action.RETRY_LATER, False),
        (Action.STEP_UP_3DS, False),
        (Action.ASK_NEW_METHOD, False),
        (Action.DO_NOT_RETRY, False),
    ],
)
def test_only_the_decline_that_says_so_is_taken_to_another_account(action: Action, *, asks_on: bool) -> None:
    plan = Plan.start(["a", "b"]).after(declined(action))

    assert plan.account == ("b" if asks_on else None)
    assert plan.verdict is (Verdict.ASK if asks_on else Verdict.DECIDED)


def test_the_table_above_names_every_action() -> None:
    (table,) = (mark for mark in test_only_the_decline_that_says_so_is_taken_to_another_account.pytestmark)  # type: ignore[attr-defined]

    assert {action for action, _ in table.args[1]} == set(Action)


def test_a_plan_without_an_account_has_sent_nothing() -> None:
    assert Plan.start([]).verdict is Verdict.NOT_SENT
    assert Plan.start(["a"], budget=Budget(0, 0)).verdict is Verdict.NOT_SENT
    assert Plan.resume([], []).verdict is Verdict.NOT_SENT


def test_running_out_after_a_decline_is_a_decline_although_the_last_account_processed_nothing() -> None:
    plan = Plan.start(["a", "b"]).after(declined(Action.RETRY_OTHER_NOW)).after(NOT_PROCESSED)

    assert plan.verdict is Verdict.DECIDED


def test_running_out_without_any_decline_is_nothing_sent() -> None:
    plan = Plan.start(["a", "b"]).after(NOT_PROCESSED).after(NOT_PROCESSED)

    assert plan.verdict is Verdict.NOT_SENT


def test_three_accounts_are_asked_at_most_by_default() -> None:
    plan, history = driven(Plan.start("abcd"), [NOT_PROCESSED] * 9)

    assert (len(history), plan.account, plan.rule) == (TRIES_MAX, None, Rule.TRIES)


def test_two_accounts_process_a_charge_by_default() -> None:
    plan, history = driven(Plan.start("abcd"), [declined(Action.RETRY_OTHER_NOW)] * 9)

    assert (len(history), plan.account, plan.rule) == (2, None, Rule.BUDGET_ON_SESSION)


def test_a_plan_that_cannot_ask_on_now_ends_with_the_decline_so_far_or_with_nothing_sent() -> None:
    untouched = Plan.start(["a", "b"])

    assert untouched.held().verdict is Verdict.NOT_SENT
    assert untouched.after(NOT_PROCESSED).held().verdict is Verdict.NOT_SENT
    assert untouched.after(declined(Action.RETRY_OTHER_NOW)).held().verdict is Verdict.DECIDED


@given(accounts, histories)
def test_holding_changes_nothing_for_a_plan_that_waits_or_is_decided(
    names: Sequence[str], news: Sequence[Outcome]
) -> None:
    plan, _ = driven(Plan.start(names), news)

    if plan.verdict is Verdict.ASK:
        assert plan.held().account is None
    else:
        assert plan.held() == plan
