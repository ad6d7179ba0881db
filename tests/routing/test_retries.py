"""The retry rules: what no history may ever allow, whatever else it holds, and which rule is named for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from providers.contract import ActionRequired, Approved, Declined, NotProcessed, Outcome, Pending, Unknown
from providers.declines import Action, Advice, Decline, load, load_advice
from providers.money import Money
from routing.plan import Plan
from routing.retries import (
    DAY,
    FOREVER,
    LEAST_S,
    MASTERCARD_DAY,
    MASTERCARD_MONTH,
    MONTH,
    Budget,
    CardDecline,
    CardUse,
    Case,
    Limits,
    Rule,
    Ruling,
    counts,
    judge,
    next_try,
    processed,
    says_never,
)

NOW: Final = datetime(2026, 11, 2, 12, tzinfo=UTC)
SOFT: Final = Decline("issuer_generic", "soft", Action.RETRY_OTHER_NOW, "05", "1")
NOT_SENT: Final = NotProcessed("not_sent")
TABLES: Final = [decline for table in ("stripe_declines", "adyen_refusals") for decline in load(table).values()]
ADVICE: Final = [
    None,
    *(each for network in ("stripe", "mastercard", "visa") for each in load_advice(network).values()),
]

declines = st.builds(lambda decline, advice: decline.advised(advice), st.sampled_from(TABLES), st.sampled_from(ADVICE))
ends: st.SearchStrategy[Outcome] = st.sampled_from(
    [
        Approved("pi_1", Money(1999, "EUR"), captured=True),
        Pending("pi_1"),
        ActionRequired("pi_1", {"type": "redirect"}),
        Unknown("timeout"),
    ]
)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    declines.map(Declined), st.just(NOT_SENT), st.just(Declined(SOFT)), ends
)
histories = st.lists(outcomes, max_size=6)
limits = st.builds(
    Limits, on_session=st.integers(1, 5), off_session=st.integers(1, 15), off_session_gap_s=st.sampled_from([0, 86400])
)


def rows(declined: Sequence[tuple[int, int, bool, bool]]) -> tuple[CardDecline, ...]:
    """Declines of one card by (seconds ago, amount, merchant-initiated, never)."""
    return tuple(
        CardDecline(f"att_{n}", NOW - timedelta(seconds=ago), amount, "EUR", merchant, never=never)
        for n, (ago, amount, merchant, never) in enumerate(declined)
    )


cards = st.builds(
    CardUse,
    st.lists(
        st.tuples(st.integers(0, 40 * 86400), st.sampled_from([1000, 1999]), st.booleans(), st.booleans()), max_size=60
    ).map(rows),
    st.sampled_from([1000, 1999]),
    st.just("EUR"),
    st.sampled_from(["visa", "mastercard", "amex", None]),
    st.booleans(),
)


@given(before=histories, end=ends, after=st.lists(outcomes, max_size=4), set_=limits, off_session=st.booleans())
def test_nothing_goes_on_once_money_has_moved_or_may_move(
    before: list[Outcome], end: Outcome, after: list[Outcome], set_: Limits, *, off_session: bool
) -> None:
    case = Case((*before, end, *after), set_.budget(off_session=off_session), set_)

    assert not judge(case).allowed


@given(histories, declines, st.lists(outcomes, max_size=4), limits, cards)
def test_what_says_never_is_never_tried_again_whatever_comes_before_or_after_it(
    before: list[Outcome], never: Decline, after: list[Outcome], set_: Limits, card: CardUse
) -> None:
    assume(says_never(never))

    ruling = judge(Case((*before, Declined(never), *after), set_.budget(off_session=False), set_, card, NOW))

    assert not ruling.allowed


@given(card=cards, ago=st.integers(0, 30 * 86400 - 1), merchant=st.booleans(), set_=limits)
def test_a_card_that_was_told_never_rests_for_thirty_days_at_any_account(
    card: CardUse, ago: int, set_: Limits, *, merchant: bool
) -> None:
    told = CardDecline("att_never", NOW - timedelta(seconds=ago), 5, "USD", merchant, never=True)
    card = replace(card, declines=(*card.declines, told))

    ruling = judge(Case((), set_.budget(off_session=merchant), set_, card, NOW))

    assert (ruling.allowed, ruling.rule) == (False, Rule.CARD_NEVER)
    assert ruling.until is not None
    assert ruling.until >= told.at + MONTH


@given(
    news=histories,
    set_=limits,
    off_session=st.booleans(),
    accounts=st.lists(st.sampled_from("abcdefgh"), max_size=8, unique=True),
)
def test_a_charge_never_exceeds_its_budget(
    news: list[Outcome], set_: Limits, accounts: list[str], *, off_session: bool
) -> None:
    budget = set_.budget(off_session=off_session)
    plan = Plan.start(accounts, budget=budget)
    for outcome in news:
        if plan.account is None:
            break
        plan = plan.after(outcome)

    assert processed(plan.history) <= budget.attempts
    assert len(plan.history) <= budget.tries


@given(cards, limits, histories)
def test_no_card_is_tried_beyond_what_its_network_allows(card: CardUse, set_: Limits, history: list[Outcome]) -> None:
    ruling = judge(Case(tuple(history), set_.budget(off_session=card.merchant_initiated), set_, card, NOW))

    month = [one for one in card.declines if NOW - one.at < MONTH]
    same = [one for one in month if (one.amount, one.currency) == (card.amount, card.currency)]
    if ruling.allowed and card.network in {"visa", None}:
        assert sum(one.merchant_initiated == card.merchant_initiated for one in same) < set_.visa
    if ruling.allowed and card.network in {"mastercard", None}:
        assert sum(NOW - one.at < DAY for one in card.declines) < MASTERCARD_DAY
        assert len(same) < MASTERCARD_MONTH
    if ruling.allowed and card.merchant_initiated:
        fortnight = [one for one in month if one.merchant_initiated and NOW - one.at < timedelta(days=14)]
        assert len(fortnight) < set_.off_session


@given(cards, limits, histories)
def test_a_card_is_free_again_when_the_ruling_says_so(card: CardUse, set_: Limits, history: list[Outcome]) -> None:
    case = Case(tuple(history), set_.budget(off_session=card.merchant_initiated), set_, card, NOW)
    ruling = judge(case)
    assume(ruling.until not in {None, FOREVER})

    later = judge(replace(case, now=ruling.until))

    assert later.rule is not ruling.rule or (later.until is not None and later.until > (ruling.until or NOW))


def card(
    declined: Sequence[tuple[int, int, bool, bool]], network: str | None = "visa", *, merchant: bool = False
) -> CardUse:
    return CardUse(rows(declined), 1999, "EUR", network, merchant)


HOUR: Final = 3600
WAITS: Final = replace(SOFT, action=Action.RETRY_LATER, network_advice=Advice.WAIT, wait_s=86400)
LATER: Final = Decline("insufficient_funds", "soft", Action.RETRY_LATER)
LOST: Final = Decline("lost_stolen", "hard", Action.DO_NOT_RETRY)
ERROR: Final = Decline("provider_error", "soft", Action.RETRY_OTHER_NOW)
ON: Final = Limits().budget(off_session=False)
OFF: Final = Limits().budget(off_session=True)


@pytest.mark.parametrize(
    ("case", "rule", "allowed"),
    [
        (Case(), Rule.FIRST, True),
        (Case((Declined(SOFT),)), Rule.CODE_TABLE, True),
        (Case((NOT_SENT,)), Rule.NOT_PROCESSED, True),
        (
            Case((Declined(ERROR), Declined(SOFT))),
            Rule.CODE_TABLE,
            True,
        ),  # an account's own error is no attempt of the card
        (Case((Unknown("timeout"),)), Rule.MONEY_MAY_MOVE, False),
        (Case((Approved("pi_1", Money(1, "EUR"), captured=True),)), Rule.APPROVED, False),
        (Case((Declined(LOST),)), Rule.NETWORK_NEVER, False),
        (Case((Declined(SOFT), NOT_SENT, Declined(SOFT))), Rule.BUDGET_ON_SESSION, False),
        (Case((Declined(SOFT),), OFF), Rule.BUDGET_OFF_SESSION, False),
        (Case((Declined(ERROR),), OFF), Rule.CODE_TABLE, True),
        (Case((Declined(SOFT),), Limits(off_session_gap_s=0).budget(off_session=True)), Rule.CODE_TABLE, True),
        (Case((Declined(WAITS),)), Rule.NETWORK_WAIT, False),
        (Case((Declined(LATER),)), Rule.CODE_TABLE, False),
        (Case((NOT_SENT, NOT_SENT, NOT_SENT)), Rule.TRIES, False),
        (Case((Declined(SOFT),), account_left=False), Rule.NO_ACCOUNT, False),
        (Case((Declined(SOFT),), time_left=False), Rule.DEADLINE, False),
        (Case(card=card([(HOUR, 1999, False, False)] * 14), now=NOW), Rule.FIRST, True),
        (Case(card=card([(HOUR, 1999, False, False)] * 15), now=NOW), Rule.CARD_LIMIT_VISA, False),
        (
            Case(card=card([(HOUR, 1999, True, False)] * 15), now=NOW),
            Rule.FIRST,
            True,
        ),  # the merchant's are counted apart
        (Case(card=card([(HOUR, 2000, False, False)] * 15), now=NOW), Rule.FIRST, True),  # and each amount by itself
        (Case(card=card([(HOUR, 2000, False, False)] * 10, "mastercard"), now=NOW), Rule.CARD_LIMIT_MASTERCARD, False),
        (Case(card=card([(HOUR, 2000, False, False)] * 9, "mastercard"), now=NOW), Rule.FIRST, True),
        (
            Case(card=card([(25 * HOUR, 1999, False, False)] * 35, "mastercard"), now=NOW),
            Rule.CARD_LIMIT_MASTERCARD,
            False,
        ),
        (Case(card=card([(25 * HOUR, 1999, False, False)] * 34, "mastercard"), now=NOW), Rule.FIRST, True),
        (Case(card=card([(25 * HOUR, 1999, False, False)] * 35, "amex"), now=NOW), Rule.FIRST, True),
        (Case(budget=OFF, card=card([(HOUR, 1, True, False)], merchant=True), now=NOW), Rule.BUDGET_OFF_SESSION, False),
        (Case(budget=OFF, card=card([(25 * HOUR, 1, True, False)], merchant=True), now=NOW), Rule.FIRST, True),
        (
            Case(
                budget=OFF, card=card([(n * 25 * HOUR, 1, True, False) for n in (1, 2, 3, 4)], merchant=True), now=NOW
            ),
            Rule.BUDGET_OFF_SESSION,
            False,
        ),
        (Case(budget=OFF, card=card([(HOUR, 1, False, False)], merchant=True), now=NOW), Rule.FIRST, True),
    ],
)
def test_the_rule_that_decides_is_named(case: Case, rule: Rule, *, allowed: bool) -> None:
    ruling = judge(case)

    assert (ruling.rule, ruling.allowed) == (rule, allowed)


def test_a_merchant_waits_as_long_as_the_network_asks_and_a_shopper_need_not() -> None:
    until = NOW + timedelta(days=2)
    told = CardDecline("att_1", NOW - timedelta(days=2), 1999, "EUR", merchant_initiated=True, not_before=until)
    use = CardUse((told,), 1999, "EUR", "mastercard", merchant_initiated=True)

    assert judge(Case(budget=OFF, card=use, now=NOW)) == Ruling(Rule.NETWORK_WAIT, allowed=False, until=until)
    assert judge(Case(budget=ON, card=replace(use, merchant_initiated=False), now=NOW)).allowed


def test_the_visa_ceiling_is_freed_by_its_oldest_decline() -> None:
    use = card([(n * HOUR, 1999, False, False) for n in range(1, 16)])

    assert judge(Case(card=use, now=NOW)).until == NOW - timedelta(hours=15) + MONTH


def test_every_never_of_the_networks_tables_is_one() -> None:
    told = [advice for advice in ADVICE if advice is not None and advice.advice is Advice.NEVER]

    assert {(one.network, one.code) for one in told} >= {("mastercard", "03"), ("mastercard", "21"), ("visa", "04")}
    assert all(says_never(SOFT.advised(one)) for one in told)
    assert says_never(load("adyen_refusals")["46"])
    assert says_never(load("stripe_declines")["stolen_card"])
    assert not says_never(load("stripe_declines")["insufficient_funds"])


def test_what_no_issuer_said_counts_against_no_card() -> None:
    assert not counts(ERROR)
    assert counts(SOFT)
    assert processed([NOT_SENT, Declined(ERROR), Declined(SOFT)]) == 1


def test_the_defaults_are_stricter_than_the_networks() -> None:
    set_ = Limits()

    assert (set_.on_session, set_.off_session) == (2, 4)
    assert set_.visa <= 20
    assert set_.budget(off_session=True) == Budget(1, 3, off_session=True)


# --- Tried again by itself --------------------------------------------------------------------------------------------


@given(
    decline=declines,
    declined=st.integers(1, 20),
    set_=limits,
    until=st.integers(0, 14 * 86400).map(lambda seconds: NOW + timedelta(seconds=seconds)),
)
def test_a_scheduled_retry_keeps_to_every_wait_every_budget_and_its_time(
    decline: Decline, declined: int, set_: Limits, until: datetime
) -> None:
    ruling = next_try(decline, declined, set_.budget(off_session=True), NOW, until)

    if ruling.allowed:
        assert ruling.rule is Rule.SCHEDULED
        assert not says_never(decline)
        assert decline.action in {Action.RETRY_LATER, Action.RETRY_OTHER_NOW}
        assert declined < set_.off_session
        assert ruling.until is not None
        waits = ruling.until - NOW
        assert waits >= timedelta(seconds=max(set_.off_session_gap_s, decline.wait_s or 0, LEAST_S))
        assert ruling.until <= until
    else:
        assert ruling.until == FOREVER


@pytest.mark.parametrize(
    ("decline", "declined", "rule", "waits"),
    [
        (LATER, 1, Rule.SCHEDULED, DAY),
        (SOFT, 3, Rule.SCHEDULED, DAY),
        (replace(WAITS, wait_s=4 * 86400), 1, Rule.SCHEDULED, 4 * DAY),
        (LATER, 4, Rule.BUDGET_OFF_SESSION, None),
        (LOST, 1, Rule.NETWORK_NEVER, None),
        (replace(SOFT, action=Action.ASK_NEW_METHOD), 1, Rule.CODE_TABLE, None),
        (replace(SOFT, action=Action.STEP_UP_3DS), 1, Rule.CODE_TABLE, None),
        (replace(WAITS, wait_s=10 * 86400), 1, Rule.DEADLINE, None),
    ],
)
def test_when_a_payment_is_tried_again_by_itself(
    decline: Decline, declined: int, rule: Rule, waits: timedelta | None
) -> None:
    ruling = next_try(decline, declined, OFF, NOW, NOW + timedelta(days=7))

    assert (ruling.rule, ruling.allowed) == (rule, waits is not None)
    assert waits is None or ruling.until == NOW + waits
