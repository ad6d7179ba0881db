"""The algorithms that ours are compared with do what their texts say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from bench.routing import rivals, tuning
from bench.routing.entrants import ENTRANTS, PUBLISHED, present, published
from bench.routing.play import Result
from bench.routing.runs import Job, run
from bench.routing.world import SCENARIOS, context_of, draw

GLOBAL: Final[dict[str, Any]] = {"global": True}  # a keyword of the language
ACCOUNTS: Final = ("a", "b", "c")
CONTEXT: Final = context_of(0)
OTHER: Final = context_of(1)


def made(family: type[rivals.Learner], report: Mapping[str, float] | None = None, **settings: Any) -> rivals.Learner:
    return family(ACCOUNTS, settings, report)


def teach(
    policy: rivals.Learner, rates: Mapping[str, float], payments: int, context: Mapping[str, str] = CONTEXT
) -> None:
    rng = Random(1)
    policy.rank(context, ACCOUNTS, rng, 0.0)
    for i in range(payments):
        for account, rate in rates.items():
            policy.update(context, account, "approved" if rng.random() < rate else "declined_ambiguous", 4.0 * i)


def firsts(policy: rivals.Learner, count: int = 400, context: Mapping[str, str] = CONTEXT) -> Counter[str]:
    rng, found = Random(2), Counter[str]()
    for i in range(count):
        account = policy.rank(context, ACCOUNTS, rng, 10_000.0 + i)[0][0]
        found[account] += 1
        policy.update(context, account, "declined_customer", 10_000.0 + i)
    return found


LEARNERS: Final[Sequence[tuple[type[rivals.Learner], dict[str, Any]]]] = [
    (rivals.EpsilonGreedy, {"epsilon": 0.05}),
    (rivals.SlidingUcb, {"window": 2_000, "bonus": 0.2}),
    (rivals.DiscountedUcb, {"gamma": 0.999, "bonus": 0.2}),
    (rivals.Thompson, {}),
    (rivals.DiscountedThompson, {"gamma": 0.999}),
    (rivals.SlidingThompson, {"window": 2_000}),
    (rivals.Blocks, {"block": 20, "blocks": 8, "blocks_min": 2, "explore": 0.1, "leak_s": 300}),
    (rivals.SuccessRateV3, {"bucket": 125, "hedge": 0.03, "threshold": 0.05}),
]


@pytest.mark.parametrize(("family", "settings"), LEARNERS)
def test_each_learns_which_account_is_best_and_in_which_segment(
    family: type[rivals.Learner], settings: dict[str, Any]
) -> None:
    policy = made(family, aware=True, **settings)
    teach(policy, {"a": 0.5, "b": 0.9, "c": 0.5}, 400)
    teach(policy, {"a": 0.5, "b": 0.5, "c": 0.9}, 400, OTHER)

    assert firsts(policy).most_common(1)[0] > ("b", 300)
    assert firsts(policy, context=OTHER)["c"] > 300


@pytest.mark.parametrize(("family", "settings"), [row for row in LEARNERS if row[0] is not rivals.EpsilonGreedy])
def test_each_that_forgets_follows_a_change(family: type[rivals.Learner], settings: dict[str, Any]) -> None:
    policy = made(family, aware=True, **settings)
    teach(policy, {"a": 0.5, "b": 0.95, "c": 0.5}, 600)
    teach(policy, {"a": 0.95, "b": 0.2, "c": 0.5}, 900)

    assert firsts(policy)["a"] > 300


@pytest.mark.parametrize(("family", "settings"), LEARNERS)
def test_a_ranking_holds_every_candidate_once(family: type[rivals.Learner], settings: dict[str, Any]) -> None:
    ranked = made(family, **settings).rank(CONTEXT, ("b", "c"), Random(1), 0.0)

    assert sorted(account for account, _, _ in ranked) == ["b", "c"]


def test_a_decline_that_names_the_customer_is_no_evidence_to_those_who_are_aware_of_it() -> None:
    policies = {aware: made(rivals.Thompson, aware=aware) for aware in (True, False)}
    for policy in policies.values():
        for _ in range(50):
            policy.update(CONTEXT, "a", "declined_customer", 0.0)

    assert policies[True].cells_of(CONTEXT)["a"].known == 0
    assert policies[False].cells_of(CONTEXT)["a"].known == 50


@pytest.mark.parametrize("fades", [True, False])
@pytest.mark.parametrize("family", [rivals.DiscountedThompson, rivals.SlidingThompson])
def test_a_report_counts_as_outcomes_for_good_or_until_it_is_forgotten(
    family: type[rivals.Learner], *, fades: bool
) -> None:
    report = {"a": 0.9, "b": 0.8}
    policy = made(family, report, prior=100, fades=fades, gamma=0.99, window=200)

    assert [round(policy.cells_of(CONTEXT)[account].rate, 3) for account in ACCOUNTS] == [0.9, 0.8, 0.85]
    teach(policy, {"a": 0.0}, 1_000)
    assert policy.cells_of(CONTEXT)["b"].count == pytest.approx(0 if fades else 100, abs=0.1)


def test_an_upper_bound_counts_pulls_whose_outcome_is_not_known() -> None:
    policy = made(rivals.SlidingUcb, window=200, bonus=1.0)
    rng = Random(1)

    first = [policy.rank(CONTEXT, ACCOUNTS, rng, 0.0)[0][0] for _ in range(9)]

    assert Counter(first) == {"a": 3, "b": 3, "c": 3}


def test_one_global_state_learns_of_one_segment_for_all() -> None:
    policy = made(rivals.DiscountedThompson, gamma=0.999, aware=True, **GLOBAL)
    teach(policy, {"a": 0.5, "b": 0.9, "c": 0.5}, 400)

    assert firsts(policy, context=OTHER)["b"] > 300


def test_blocks_put_an_account_last_whose_calls_fail_technically_until_the_bucket_leaks() -> None:
    policy = made(rivals.Blocks, block=5, blocks=8, blocks_min=5, explore=0.0, leak_s=300)
    for _ in range(5):
        policy.update(CONTEXT, "a", "technical", 0.0)

    assert policy.rank(CONTEXT, ACCOUNTS, Random(1), 1.0)[-1][0] != "a"  # the fifth has leaked a little
    policy.update(CONTEXT, "a", "technical", 1.0)
    assert policy.rank(CONTEXT, ACCOUNTS, Random(1), 1.0)[-1][0] == "a"
    assert policy.rank(CONTEXT, ACCOUNTS, Random(1), 400.0)[-1][0] != "a"


def test_srv3_starts_full_of_approvals_hedges_evenly_and_resets_a_stale_loser() -> None:
    policy = made(rivals.SuccessRateV3, bucket=100, hedge=0.05, threshold=0.05, aware=True)
    assert isinstance(policy, rivals.SuccessRateV3)

    counts = firsts(policy, 4_000)
    assert counts["b"] / 4_000 == pytest.approx(0.05, abs=0.015)
    teach(policy, {"b": 0.0}, 100)
    assert policy.cells_of(CONTEXT)["b"].approved == 0
    policy.rank(CONTEXT, ACCOUNTS, Random(3), 0.0)
    sigma = (0.09 / 100) ** 0.5  # the best one's variance is taken for 0.09 at least
    assert policy.cells_of(CONTEXT)["b"].approved / 100 == pytest.approx(1 - 3 * sigma, abs=0.011)


def test_srv3_eliminates_what_declines_for_long() -> None:
    policy = made(rivals.SuccessRateV3, bucket=2_000, hedge=0.0, threshold=0.05)
    assert isinstance(policy, rivals.SuccessRateV3)
    policy.rank(CONTEXT, ACCOUNTS, Random(1), 0.0)
    for _ in range(59):
        policy.update(OTHER, "a", "declined_ambiguous", 0.0)

    assert policy.health["a"] < 0.05
    assert policy.rank(CONTEXT, ACCOUNTS, Random(1), 0.0)[-1][0] == "a"


def test_the_autopilot_derives_queue_and_hedge_from_a_days_volume_every_15_minutes() -> None:
    policy = made(rivals.SuccessRateV3, bucket=125, hedge=0.05, threshold=0.05, autopilot=True)
    assert isinstance(policy, rivals.SuccessRateV3)
    for i in range(5_000):
        policy.rank(CONTEXT, ACCOUNTS, Random(i), i * 16.0)

    bucket, hedge = policy.plans[id(policy.cells_of(CONTEXT))]
    assert bucket == 250  # 5 sqrt(5,000 / 2) = 250
    assert hedge == pytest.approx(250 / 5_000, rel=0.02)
    assert len(policy.cells_of(CONTEXT)["a"].recent) == bucket


# --- Tuning and running -------------------------------------------------------------------------------------------------


def test_every_family_is_tuned_with_the_same_effort_from_its_published_settings_on() -> None:
    for family in tuning.GRID:
        settings = tuning.candidates(family)
        assert len(settings) == tuning.SETTINGS
        assert settings[0] == published(family)
        assert settings == tuning.candidates(family)
        assert len({str(row) for row in settings}) == tuning.SETTINGS
    assert {row.family for row in PUBLISHED.values() if not row.ours} - {
        PUBLISHED[family].family for family in tuning.GRID
    } == {rivals.Priority, rivals.Weighted}


def test_tuning_keeps_what_is_best_on_all_its_seeds() -> None:
    played: list[tuple[int, int]] = []

    def play(jobs: Sequence[Job], seeds: Sequence[int]) -> dict[str, list[Result]]:
        played.append((len(jobs), len(seeds)))
        first = seeds == tuning.FIRST_SEEDS
        gains = {job.name: int(job.name) if first else 100 - 10 * int(job.name) for job in jobs}
        return {name: [result_of(seed, gain) for seed in seeds] for name, gain in gains.items()}

    best = tuning.tune("epsilon", play)

    assert played == [(16, 2), (4, 4)]  # numbers 12 to 15 are the best of the first round, 12 of the second
    assert best["settings"] == tuning.candidates("epsilon")[12]
    assert best["pooled_on_tuning_seeds"] == pytest.approx((2 * 12 - 4 * 20) / 6, abs=0.1)


def result_of(seed: int, gain: float) -> Result:
    return Result("outage", seed, 20_000, 1_000 + gain, 1_000, 1_100, 50, 17, 1, 10, None, 0, 0, 0, 1.0, 0.1)


def test_reporting_seeds_are_not_tuning_seeds() -> None:
    from bench.routing.page import SEEDS

    assert set(SEEDS).isdisjoint(tuning.FIRST_SEEDS + tuning.OTHER_SEEDS)


def test_a_run_goes_on_where_it_was_stopped_and_two_processes_find_what_one_does(tmp_path: Path) -> None:
    jobs = [Job("priority", "priority"), Job("thompson", "thompson")]
    lanes = [("outage", 1), ("equal", 2)]
    keep = tmp_path / "kept.jsonl"

    first = run(lanes[:1], jobs[:1], payments=500, keep=keep)
    lines = keep.read_text(encoding="utf-8").splitlines()
    both = run(lanes, jobs, payments=500, keep=keep, processes=2)

    assert keep.read_text(encoding="utf-8").splitlines()[:1] == lines
    assert len(keep.read_text(encoding="utf-8").splitlines()) == 4
    assert both["priority"][0] == first["priority"][0]
    alone = run(lanes, jobs, payments=500)
    assert [row.got for row in both["thompson"]] == [row.got for row in alone["thompson"]]
    assert [row.got for row in run(lanes, jobs, payments=600, keep=keep)["thompson"]] != [
        row.got for row in alone["thompson"]
    ]


def test_every_row_can_be_made_for_a_lane_of_each_scenario() -> None:
    for scenario in SCENARIOS.values():
        lane = draw(scenario, 1, 300)
        for name in present():
            ranked = ENTRANTS[name].maker()(lane).rank(lane.contexts[0], lane.opens[0], Random(1), 0.0)
            assert {account for account, _, _ in ranked} == set(lane.opens[0])
