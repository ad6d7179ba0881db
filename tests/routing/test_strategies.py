"""What every strategy promises, whatever it is asked and told."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from routing.strategies import OUTCOMES, STRATEGIES, AdaptivePolicy, Policy, breaker, faults, make

ACCOUNTS: Final = ["north", "south", "west"]
SEGMENTS: Final = [{"currency": currency, "brand": brand} for currency in ("EUR", "USD") for brand in ("visa", "amex")]
FEES: Final = {"fees": {"north": {"fixed": 30, "basis_points": 290}, "south": {"fixed": 10, "basis_points": 120}}}

PROMISE: Final = {"attempts": 2_000, "starts_at": "1970-01-01T01:00:00Z", "ends_at": "1970-01-01T03:00:00Z"}
"""2,000 attempts in the second and third of four hours."""

events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(sorted(OUTCOMES))), min_size=0, max_size=300
)


def told(policy: Policy, history: list[tuple[int, int, str]]) -> None:
    for at, (segment, account, outcome) in enumerate(history):
        policy.update(SEGMENTS[segment], ACCOUNTS[account], outcome, float(at))


def lived(policy: Policy, rates: Mapping[str, float], payments: int, seed: int = 1) -> Counter[str]:
    """Route and learn ``payments`` times, and count who came first."""
    rng, first = random.Random(seed), Counter[str]()
    for at in range(payments):
        context = SEGMENTS[rng.randrange(4)]
        account = policy.rank(context, ACCOUNTS, rng, float(at))[0][0]
        first[account] += 1
        policy.update(context, account, "approved" if rng.random() < rates[account] else "declined_provider", float(at))
    return first


@pytest.mark.parametrize("name", STRATEGIES)
@given(history=events, seed=st.integers(0, 99), subset=st.sets(st.sampled_from(ACCOUNTS), min_size=1))
@effort(max_examples=25, deadline=None)
def test_a_ranking_names_each_candidate_once_and_its_chances_come_to_one(
    name: str, history: list[tuple[int, int, str]], seed: int, subset: set[str]
) -> None:
    policy = make(name, ACCOUNTS)
    told(policy, history)

    ranking = policy.rank(SEGMENTS[0], sorted(subset), random.Random(seed), 1e3)

    assert sorted(account for account, _, _ in ranking) == sorted(subset)
    assert sum(chance for _, _, chance in ranking) == pytest.approx(1)
    assert all(0 < score < 1 and 0 <= chance <= 1 for _, score, chance in ranking)
    assert ranking[0][2] > 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_to_choose_from_is_an_empty_ranking(name: str) -> None:
    assert make(name, ACCOUNTS).rank({}, [], random.Random(1), 0.0) == []


@pytest.mark.parametrize("name", STRATEGIES)
@given(history=events)
@effort(max_examples=25, deadline=None)
def test_a_restored_policy_decides_and_goes_on_learning_as_the_one_it_was_taken_from(
    name: str, history: list[tuple[int, int, str]]
) -> None:
    before, after = make(name, ACCOUNTS), make(name, ACCOUNTS)
    told(before, history)
    after.restore(json.loads(json.dumps(before.snapshot())))
    for policy in (before, after):
        told(policy, history[:50])

    assert after.snapshot() == before.snapshot()
    for context in SEGMENTS:
        ranking = before.rank(context, ACCOUNTS, random.Random(3), 1e3)
        assert after.rank(context, ACCOUNTS, random.Random(3), 1e3) == ranking
        assert after.explain(context, "south", 1e3) == before.explain(context, "south", 1e3)


def test_a_snapshot_of_another_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="not a snapshot of form"):
        make("priority", ACCOUNTS).restore(make("weighted", ACCOUNTS).snapshot())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_ranking_changes_nothing(name: str) -> None:
    policy = make(name, ACCOUNTS)
    lived(policy, dict.fromkeys(ACCOUNTS, 0.9), 500)
    before = policy.snapshot()

    for seed in range(50):
        policy.rank(SEGMENTS[seed % 4], ACCOUNTS, random.Random(seed), 1e3)
        policy.explain({"currency": "never seen"}, "south", 1e3)

    assert policy.snapshot() == before


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_chance_that_is_told_is_the_frequency_that_is_seen(name: str) -> None:
    settings: dict[str, Any] = {"constraints": {"max_share": {"north": 70}, "min_share": {"west": 5}}}
    policy = make(name, ACCOUNTS, settings)
    lived(policy, {"north": 0.9, "south": 0.89, "west": 0.88}, 300)
    rng, first, draws = random.Random(5), Counter[str](), 10_000
    chances: dict[str, float] = {}
    for _ in range(draws):
        ranking = policy.rank(SEGMENTS[1], ACCOUNTS, rng, 1e3)
        first[ranking[0][0]] += 1
        chances = {account: chance for account, _, chance in ranking}

    for account, chance in chances.items():
        assert first[account] / draws == pytest.approx(chance, abs=4 * (chance * (1 - chance) / draws) ** 0.5 + 1e-9)


@pytest.mark.parametrize("name", STRATEGIES)
@given(
    history=events,
    low=st.floats(0, 30),
    high=st.floats(40, 100),
    seed=st.integers(0, 99),
)
@effort(max_examples=15, deadline=None)
def test_shares_stay_within_their_constraints(
    name: str, history: list[tuple[int, int, str]], low: float, high: float, seed: int
) -> None:
    policy = make(name, ACCOUNTS, {"constraints": {"min_share": {"west": low}, "max_share": {"north": high}}})
    history = [event for event in history if event[2] in {"approved", "declined_customer"}]
    told(policy, history)
    sent, rng = Counter(ACCOUNTS[account] for _, account, _ in history), random.Random(seed)
    over = max(0.0, sent["north"] - high / 100 * sent.total())  # what it begins with, and may not grow
    under = max(0.0, low / 100 * sent.total() - sent["west"])
    for at in range(600):
        account = policy.rank(SEGMENTS[0], ACCOUNTS, rng, float(at))[0][0]
        sent[account] += 1
        policy.update(SEGMENTS[0], account, "approved", float(at))
        assert sent["north"] <= high / 100 * sent.total() + over + 25
        assert sent["west"] >= low / 100 * sent.total() - under - 25


def kept(policy: Policy, rates: Mapping[str, float], hours: int = 4) -> list[int]:
    """Route one payment a second for some hours: how many went to the west in each half hour."""
    rng, sent = random.Random(11), [0] * (2 * hours)
    for at in range(3600 * hours):
        context = SEGMENTS[rng.randrange(4)]
        account = policy.rank(context, ACCOUNTS, rng, float(at))[0][0]
        sent[at // 1800] += account == "west"
        policy.update(context, account, "approved" if rng.random() < rates[account] else "declined_provider", float(at))
    return sent


@pytest.mark.parametrize("name", ["priority", "adaptive"])
def test_a_commitment_is_met_in_its_time_evenly_and_not_exceeded(name: str) -> None:
    rates = {"north": 0.95, "south": 0.94, "west": 0.7}
    without = kept(make(name, ACCOUNTS), rates)
    sent = kept(make(name, ACCOUNTS, {"constraints": {"commitments": {"west": PROMISE}}}), rates)

    assert sum(without) < 500
    assert 2_000 <= sum(sent[2:6]) <= 2_010
    assert all(400 <= half_hour <= 600 for half_hour in sent[2:6])
    assert sum(sent[:2]) + sum(sent[6:]) < 300


def test_a_commitment_that_is_met_by_preference_moves_nothing() -> None:
    rates = {"north": 0.8, "south": 0.8, "west": 0.98}
    policy = make("adaptive", ACCOUNTS, {"constraints": {"commitments": {"west": PROMISE}}})
    kept(policy, rates, hours=2)

    assert policy.choose(SEGMENTS[0], ACCOUNTS, random.Random(1).random(), 7200.0).constraint is None


def test_a_commitment_is_told_and_stays_under_an_open_breaker_and_a_greatest_share() -> None:
    constraints = {"commitments": {"west": {**PROMISE, "attempts": 1_000_000}}, "max_share": {"west": 40}}
    policy = make("priority", ACCOUNTS, {"constraints": constraints})
    at = 3_700.0
    sent, told_of = Counter[str](), set[str | None]()
    for step in range(500):
        chosen = policy.choose(SEGMENTS[0], ACCOUNTS, random.Random(step).random(), at + step)
        account = chosen.ranking[0].account
        sent[account] += 1
        told_of.add(chosen.constraint)
        policy.update(SEGMENTS[0], account, "approved", at + step)
    assert sent["west"] == pytest.approx(200, abs=25)
    assert told_of <= {None, "shares of west; commitment of west"}

    for step in range(60):
        policy.update(SEGMENTS[0], "west", "technical", at + 500 + step)
    assert policy.choose(SEGMENTS[0], ACCOUNTS, random.Random(1).random(), at + 600).ranking[0].account == "north"


def test_a_replay_counts_what_a_draft_would_have_sent_for_its_commitment() -> None:
    policy = make("priority", ACCOUNTS, {"constraints": {"commitments": {"west": {**PROMISE, "attempts": 1}}}})
    policy.update(SEGMENTS[0], "west", "approved", 3_700.0)
    assert policy.choose(SEGMENTS[0], ACCOUNTS, random.Random(1).random(), 3_701.0).constraint is None

    policy.instead("west", "north")

    chosen = policy.choose(SEGMENTS[0], ACCOUNTS, random.Random(1).random(), 3_701.0)
    assert chosen.constraint == "commitment of west"


@given(history=events, most=st.floats(0, 20), seed=st.integers(0, 99))
@effort(max_examples=25, deadline=None)
def test_no_more_is_explored_than_may_be(history: list[tuple[int, int, str]], most: float, seed: int) -> None:
    history = [event for event in history if event[2] != "technical"]
    for name in ("adaptive", "success_rate_window"):
        policy = make(name, ACCOUNTS, {"constraints": {"explore_max": most}})
        told(policy, history)
        for context in SEGMENTS:
            ranking = policy.rank(context, ACCOUNTS, random.Random(seed), 1e3)
            closed = [
                chance for account, _, chance in ranking if policy.explain(context, account, 1e3).breaker == "closed"
            ]
            if closed:
                assert sum(closed) - max(closed) <= most / 100 + 1e-9


def test_payments_above_the_limit_never_explore_and_never_probe() -> None:
    limit = {"never_explore_above": {"amount": 5_000, "currency": "EUR"}}
    policy = make("adaptive", ACCOUNTS, {"constraints": limit})
    lived(policy, {"north": 0.95, "south": 0.9, "west": 0.9}, 300)
    for at in range(30):
        policy.update({"currency": "EUR"}, "north", "declined_provider", float(at))
    assert policy.explain({"currency": "EUR"}, "north", 30.0).breaker == "open"

    def best(context: dict[str, str]) -> float:
        return max(chance for _, _, chance in policy.rank(context, ACCOUNTS, random.Random(1), 30.0))

    assert best({"currency": "EUR", "amount": "5001"}) == 1
    assert best({"currency": "EUR"}) == 1, "without an amount nobody knows that it is small"
    assert best({"currency": "EUR", "amount": "5000"}) < 1
    assert best({"currency": "USD", "amount": "5001"}) < 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_account_that_dies_gets_probes_alone_and_everything_back_once_it_is_well(name: str) -> None:
    policy = make(name, ACCOUNTS, {"weights": {"north": 1}} if name == "weighted" else {})
    lived(policy, {"north": 0.93, "south": 0.85, "west": 0.85}, 2000)

    ill = lived(policy, {"north": 0.0, "south": 0.85, "west": 0.85}, 1000, seed=2)
    assert ill["north"] < 80
    lived(policy, {"north": 0.93, "south": 0.85, "west": 0.85}, 4000, seed=3)
    assert policy.explain(SEGMENTS[0], "north", 0.0).breaker == "closed"


def test_technical_errors_open_a_breaker_within_a_few() -> None:
    policy = make("priority", ACCOUNTS)
    for at in range(3):
        policy.update(SEGMENTS[0], "north", "technical", float(at))

    assert policy.explain(SEGMENTS[0], "north", 3.0).breaker == "open"
    assert policy.explain(SEGMENTS[3], "north", 3.0).breaker == "open", "it is the account, not the segment"
    ranking = policy.rank(SEGMENTS[0], ACCOUNTS, random.Random(1), 3.0)
    assert [account for account, _, _ in ranking] == ["south", "west", "north"]


def test_where_every_breaker_is_open_they_are_ignored() -> None:
    policy = make("priority", ACCOUNTS)
    for account in ACCOUNTS:
        for at in range(5):
            policy.update(SEGMENTS[0], account, "technical", float(at))

    assert policy.rank(SEGMENTS[0], ACCOUNTS, random.Random(1), 5.0)[0][0] == "north"


@given(history=events, hinted=events)
@effort(max_examples=30, deadline=None)
def test_hints_that_are_taken_back_leave_nothing(
    history: list[tuple[int, int, str]], hinted: list[tuple[int, int, str]]
) -> None:
    policy, plain = AdaptivePolicy(ACCOUNTS), AdaptivePolicy(ACCOUNTS)
    told(policy, history)
    told(plain, history)
    for segment, account, outcome in hinted:
        policy.hint(ACCOUNTS[account], SEGMENTS[segment], outcome, 1e3)
    for segment, account, outcome in reversed(hinted):
        policy.unhint(ACCOUNTS[account], SEGMENTS[segment], outcome, 1e3)

    assert policy.snapshot() == plain.snapshot()
    for context in SEGMENTS:
        assert policy.rank(context, ACCOUNTS, random.Random(1), 1e3) == plain.rank(
            context, ACCOUNTS, random.Random(1), 1e3
        )


@given(history=events, hinted=events)
@effort(max_examples=40, deadline=None)
def test_a_decision_between_two_hints_changes_nothing_about_what_they_come_to(
    history: list[tuple[int, int, str]], hinted: list[tuple[int, int, str]]
) -> None:
    """What hints come to is kept from one decision to the next, so that a decision costs the same however many there are."""
    asked, waited = make("adaptive", ACCOUNTS), make("adaptive", ACCOUNTS)
    for policy in (asked, waited):
        told(policy, history)
    for segment, account, outcome in hinted:
        for policy in (asked, waited):
            policy.hint(ACCOUNTS[account], SEGMENTS[segment], outcome, 1e3)
        asked.choose(SEGMENTS[segment], ACCOUNTS, random.Random(1).random(), 1e3)

    for context in SEGMENTS:
        for name in ACCOUNTS:
            assert asked.explain(context, name, 1e3) == waited.explain(context, name, 1e3)


LIMITS: Final = {"max_share": {"north": 40}, "never_explore_above": {"amount": 500, "currency": "EUR"}}
calls = st.lists(
    st.tuples(
        st.sampled_from(["update", "unhint", *["hint"] * 4]),
        st.sampled_from(ACCOUNTS),
        st.sampled_from(SEGMENTS[:2]),
        st.sampled_from(["approved", "declined_provider", "technical"]),
    ),
    min_size=10,
    max_size=40,
)


def called(policy: Policy, what: str, account: str, context: dict[str, str], outcome: str) -> None:
    if what == "update":
        policy.update(context, account, outcome, 1e3)
    else:
        getattr(policy, what)(account, context, outcome, 1e3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, {}) for name in STRATEGIES), ("adaptive", {"constraints": LIMITS}), ("least_cost", FEES)],
)
@given(calls=calls)
@effort(max_examples=30, deadline=None)
def test_what_payments_that_are_alike_share_is_what_would_be_worked_out_for_each(
    name: str, settings: dict[str, Any], calls: list[tuple[str, str, dict[str, str], str]]
) -> None:
    asked = make(name, ACCOUNTS, settings)
    for at, call in enumerate(calls):
        called(asked, *call)
        for amount, draw, explain in (("10", 0.01, False), ("1000", 0.97, True), ("10", 0.97, False)):
            anew = make(name, ACCOUNTS, settings)
            for each in calls[: at + 1]:
                called(anew, *each)
            payment = call[2] | {"amount": amount}
            expected = anew.choose(payment, ACCOUNTS, draw, 1e3, explain=explain)
            assert asked.choose(payment, ACCOUNTS, draw, 1e3, explain=explain) == expected


def test_the_segments_that_are_told_to_be_open_are_those_whose_breakers_are() -> None:
    """Whatever was closed again, or forgotten for want of room; and after a restart."""
    settings, rng, ill, told_open = {"cells_max": 18, "segment_by": ["bin"]}, random.Random(1), {"0"}, 0
    policy = make("adaptive", ACCOUNTS, settings)
    for at in range(4_000):
        if at % 50 == 0:
            ill = {str(each) for each in rng.sample(range(9), 4)}
        segment = str(rng.randrange(9))
        outcome = "technical" if segment in ill and rng.random() < 0.7 else "approved"
        policy.update({"bin": segment}, rng.choice(ACCOUNTS), outcome, float(at))
        if at % 10:
            continue
        restored = make("adaptive", ACCOUNTS, settings)
        restored.restore(policy.snapshot())
        for name in ACCOUNTS:
            cells = {each: states.get(name) for each, states in policy.snapshot()["segments"]}
            really = sorted(each for each, state in cells.items() if state is not None and breaker.is_open(state))
            assert sorted(policy.opened(name)) == sorted(restored.opened(name)) == really
            told_open += len(really)
    assert told_open > 100


def test_a_hint_moves_the_breaker_at_once_and_is_forgotten_after_a_while() -> None:
    policy = make("priority", ACCOUNTS, {"hint_s": 10})
    for _ in range(3):
        policy.hint("north", SEGMENTS[0], "technical", 100.0)

    assert policy.explain(SEGMENTS[1], "north", 100.5).breaker == "open"
    assert policy.explain(SEGMENTS[1], "north", 111.0).breaker == "closed"


@pytest.mark.parametrize("name", ["adaptive", "priority"])
def test_hints_open_the_breaker_and_one_taken_back_closes_it(name: str) -> None:
    hinted = make(name, ACCOUNTS)
    lived(hinted, {"north": 0.93, "south": 0.9, "west": 0.9}, 600)
    hints = 0
    while hinted.explain(SEGMENTS[1], "north", 1e3).breaker == "closed":
        hinted.hint("north", SEGMENTS[0], "declined_ambiguous", 1e3)
        hints += 1
    assert 3 <= hints <= 8
    hinted.unhint("north", SEGMENTS[0], "declined_ambiguous", 1e3)
    assert hinted.explain(SEGMENTS[1], "north", 1e3).breaker == "closed", "one of them was taken back"


def test_an_outcome_that_is_no_word_is_refused() -> None:
    for name in STRATEGIES:
        with pytest.raises(ValueError, match="not an outcome"):
            make(name, ACCOUNTS).update({}, "north", "refused", 0.0)
        with pytest.raises(ValueError, match="not an outcome"):
            make(name, ACCOUNTS).hint("north", {}, "refused", 0.0)


def test_the_customers_declines_do_not_move_what_is_believed() -> None:
    policy = make("adaptive", ACCOUNTS)
    before = policy.explain(SEGMENTS[0], "north", 0.0)
    for at in range(200):
        policy.update(SEGMENTS[0], "north", "declined_customer", float(at))

    assert policy.explain(SEGMENTS[0], "north", 0.0) == before


def test_the_better_account_gets_the_traffic_whatever_the_order() -> None:
    rates = {"north": 0.80, "south": 0.90, "west": 0.80}

    first = lived(make("adaptive", ACCOUNTS), rates, 4000)

    assert first["south"] > 3000


def test_a_report_of_the_past_decides_until_there_is_evidence() -> None:
    counted = {"north": {"approved": 8000, "attempts": 10_000}, "west": {"approved": 9100, "attempts": 10_000}}
    for prior in (counted, {"north": 0.80, "west": 0.91}):
        policy = make("adaptive", ACCOUNTS, prior=prior)
        assert policy.explain({}, "west", 0.0).score > policy.explain({}, "north", 0.0).score


def test_priority_keeps_to_its_order_and_weighted_to_its_weights() -> None:
    assert [
        account for account, _, _ in make("priority", ACCOUNTS).rank({}, ["west", "north"], random.Random(1), 0.0)
    ] == [
        "north",
        "west",
    ]
    first = lived(make("weighted", ACCOUNTS, {"weights": {"north": 3, "south": 1}}), dict.fromkeys(ACCOUNTS, 0.9), 4000)
    assert first["west"] == 0
    assert first["north"] == pytest.approx(3000, abs=150)


def test_least_cost_pays_the_dearer_fee_only_for_the_lead_that_earns_it() -> None:
    policy = make(
        "least_cost",
        ["dear", "cheap"],
        {"fees": {"dear": {"fixed": 50, "basis_points": 0}, "cheap": {"fixed": 10, "basis_points": 0}}},
    )
    rng = random.Random(1)
    assert policy.rank({"amount": "200000"}, ["dear", "cheap"], rng, 0.0)[0][0] == "dear", (
        "expected to be better, as it is named first"
    )
    for at in range(3000):
        policy.update({"currency": "USD"}, "cheap", "approved" if at % 10 else "declined_provider", 0.0)
        policy.update({"currency": "USD"}, "dear", "approved" if at % 10 else "declined_provider", 0.0)
    assert policy.rank({"currency": "USD", "amount": "6000"}, ["dear", "cheap"], rng, 0.0)[0][0] == "cheap"

    explained = policy.explain({"currency": "USD", "amount": "6000"}, "dear", 0.0)
    assert explained.detail is not None
    lead = explained.score * 40 / (6000 - 50) * 100
    assert f"{lead:.2f} points" in explained.detail
    assert policy.explain({"currency": "USD", "amount": "6000"}, "cheap", 0.0).detail is None


def test_no_strategy_depends_on_the_order_of_a_mapping_or_on_the_seed_of_hashes() -> None:
    program = """
import json, random
from routing.strategies import STRATEGIES, make
answers = []
for name in STRATEGIES:
    policy, rng = make(name, ["north", "south", "west"], {"cells_max": 16}), random.Random(1)
    for at in range(2000):
        context = {"currency": "EUR", "bin": str(400000 + rng.randrange(9))}
        ranking = policy.rank(context, ["north", "south", "west"], rng, at)
        policy.update(context, ranking[0][0], rng.choice(["approved", "approved", "declined_provider", "technical"]), at)
        answers.append(ranking)
    answers.append(policy.snapshot())
print(json.dumps(answers))
"""
    root = Path(__file__).parent.parent.parent
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_cells_are_bounded_whatever_contexts_come() -> None:
    policy = make("adaptive", ACCOUNTS, {"cells_max": 30})
    for at in range(2000):
        policy.update({"bin": str(400000 + at)}, "north", "approved", float(at))

    snapshot = policy.snapshot()
    assert len(snapshot["beliefs"]["rows"]) <= 10
    assert [segment for segment, _ in snapshot["segments"]][-1] == "||||401999|"
    assert len(snapshot["segments"]) == 10


@pytest.mark.parametrize(
    ("name", "settings", "pointer"),
    [
        ("thompson", {}, ""),
        ("priority", {"window": 10}, "/window"),
        ("success_rate_window", {"window": 9}, "/window"),
        ("success_rate_window", {"window": 12.5}, "/window"),
        ("success_rate_window", {"hedge": "5"}, "/hedge"),
        ("success_rate_window", {"hedge": True}, "/hedge"),
        ("adaptive", {"segment_by": []}, "/segment_by"),
        ("adaptive", {"segment_by": "brand"}, "/segment_by"),
        ("weighted", {"weights": {"east": 1}}, "/weights/east"),
        ("weighted", {"weights": {"north": -1}}, "/weights/north"),
        ("weighted", {"weights": {"north": 0}}, "/weights"),
        ("weighted", {"weights": 3}, "/weights"),
        ("least_cost", {"fees": {"north": {"fixed": 3}}}, "/fees/north"),
        ("adaptive", {"breaker_threshold": float("nan")}, "/breaker_threshold"),
        ("adaptive", {"constraints": []}, "/constraints"),
        ("adaptive", {"constraints": {"share": 1}}, "/constraints/share"),
        ("adaptive", {"constraints": {"explore_max": 101}}, "/constraints/explore_max"),
        ("adaptive", {"constraints": {"min_share": {"north": 60, "south": 50}}}, "/constraints/min_share"),
        ("adaptive", {"constraints": {"max_share": {"north": 20, "south": 20, "west": 20}}}, "/constraints/max_share"),
        (
            "adaptive",
            {"constraints": {"min_share": {"north": 60}, "max_share": {"north": 50}}},
            "/constraints/min_share/north",
        ),
        ("adaptive", {"constraints": {"never_explore_above": {"amount": 5}}}, "/constraints/never_explore_above"),
        ("adaptive", {"constraints": {"commitments": 5}}, "/constraints/commitments"),
        ("adaptive", {"constraints": {"commitments": {"east": PROMISE}}}, "/constraints/commitments/east"),
        ("adaptive", {"constraints": {"commitments": {"west": {"attempts": 5}}}}, "/constraints/commitments/west"),
        (
            "adaptive",
            {"constraints": {"commitments": {"west": {**PROMISE, "attempts": 0}}}},
            "/constraints/commitments/west/attempts",
        ),
        (
            "adaptive",
            {"constraints": {"commitments": {"west": {**PROMISE, "starts_at": "1970-01-01T00:00:00"}}}},
            "/constraints/commitments/west/starts_at",
        ),
        (
            "adaptive",
            {"constraints": {"commitments": {"west": {**PROMISE, "ends_at": PROMISE["starts_at"]}}}},
            "/constraints/commitments/west/ends_at",
        ),
    ],
)
def test_settings_that_make_no_sense_are_told_with_their_place_and_a_fix(
    name: str, settings: dict[str, Any], pointer: str
) -> None:
    found = faults(name, ACCOUNTS, settings)

    assert [fault.pointer for fault in found] == [pointer]
    assert all(fault.message and fault.fix for fault in found)
    with pytest.raises(ValueError, match=r":"):
        make(name, ACCOUNTS, settings)


def test_every_setting_is_taken_at_its_default_and_at_its_bounds() -> None:
    for name, table in STRATEGIES.items():
        for setting in table:
            values = [setting.default]
            if setting.kind in {"number", "integer"}:
                values += [setting.low, setting.high]
            for value in values:
                assert faults(name, ACCOUNTS, {setting.name: value}) == [], setting.name
                make(name, ACCOUNTS, {setting.name: value})
    assert faults("least_cost", ACCOUNTS, FEES) == []
    assert faults("adaptive", ACCOUNTS, {"constraints": {"max_share": {"north": 0}}}) == []
