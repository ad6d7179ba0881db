"""The environment that strategies are measured in: its worlds are what it says, and nobody who is measured sees them."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

import pytest

from bench.routing import __main__ as program
from bench.routing.entrants import ENTRANTS, Entrant, entrant
from bench.routing.play import Result, Share, bounds, figures, measure, play
from bench.routing.rivals import Priority
from bench.routing.world import DELAY_PAYMENTS, POOLED, SCENARIOS, Lane, context_of, draw

LEARNERS: Final = [name for name, row in ENTRANTS.items() if not row.ours]
KEYS: Final = {"currency", "brand", "funding", "issuer_country", "bin", "initiator", "amount_band", "amount"}
WORDS: Final = {"approved", "declined_provider", "declined_customer", "declined_ambiguous", "technical"}
GAPS_PP: Final = {  # (least, most) of what a clairvoyant gains over the static rule, mean over ten seeds
    "stationary": (0.3, 2.0),
    "slow_drift": (1.5, 4.0),
    "outage": (6.0, 9.5),
    "partial_outage": (4.0, 7.0),
    "cyclical": (1.0, 3.0),
    "cold_start": (0.8, 2.5),
    "low_traffic": (0.3, 2.0),
    "decline_burst": (0.3, 2.0),
    "equal": (0.0, 0.0),
}

FIRST_RATES: Final = [0.966022, 0.848294, 0.807045]
FIRST_SEGMENTS: Final = [0, 2, 10, 1, 5, 1, 11, 5]


class Spy(Priority):
    """Asks as the static rule does, and keeps whatever it was handed."""

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, object], prior: object = None) -> None:
        super().__init__(accounts, settings)
        self.ranked: list[tuple[Mapping[str, str], tuple[str, ...], float]] = []
        self.told: list[tuple[int, Mapping[str, str], str, str, float]] = []

    def rank(
        self, context: Mapping[str, str], candidates: Sequence[str], rng: Random, now: float
    ) -> list[tuple[str, float, float]]:
        self.ranked.append((context, tuple(candidates), now))
        return super().rank(context, candidates, rng, now)

    def update(self, context: Mapping[str, str], account: str, outcome: str, now: float) -> None:
        self.told.append((len(self.ranked), context, account, outcome, now))


@cache
def lane_of(scenario: str, seed: int = 1, payments: int = 20_000) -> Lane:
    return draw(SCENARIOS[scenario], seed, payments)


def chosen_by(lane: Lane, k: int) -> list[int]:
    return [k] * len(lane.segment)


def mean(lane: Lane, k: int, span: range) -> float:
    return statistics.fmean(lane.chance(i, k) for i in span)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_seed_is_one_world_and_another_seed_another(scenario: str) -> None:
    first, again, other = (draw(SCENARIOS[scenario], seed, 3_000) for seed in (7, 7, 8))

    assert (first.segment, first.rates, first.dice, first.at, first.due) == (
        again.segment,
        again.rates,
        again.dice,
        again.at,
        again.due,
    )
    assert first.accounts == again.accounts
    assert first.dice != other.dice


def test_a_world_does_not_depend_on_the_process() -> None:
    lane = lane_of("stationary", 1, 100)

    assert [round(rate, 6) for rate in lane.rates[0]] == FIRST_RATES  # hash randomisation would show here
    assert lane.segment[:8] == FIRST_SEGMENTS


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("scenario", ["outage", "cold_start"])
def test_a_clairvoyant_is_never_beaten_and_the_same_run_gives_the_same_result(name: str, scenario: str) -> None:
    lane = lane_of(scenario, 3, 9_500)

    result, again = measure(lane, entrant(name).maker()), measure(lane, entrant(name).maker())

    assert result.got <= result.oracle
    assert (result.got, result.dead, result.switches) == (again.got, again.dead, again.switches)


def test_the_clairvoyant_takes_the_best_account_of_every_payment() -> None:
    lane = lane_of("slow_drift", 2, 500)
    best = [max(range(3), key=lane.rates[i].__getitem__) for i in range(500)]

    got, static, oracle = bounds(lane, best)

    assert got == oracle == pytest.approx(sum(max(lane.chance(i, k) for k in range(3)) for i in range(500)))
    for k in range(3):
        assert bounds(lane, chosen_by(lane, k))[0] < oracle
    assert static == bounds(lane, chosen_by(lane, 0))[0]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_static_rule_captures_nothing_by_definition(scenario: str) -> None:
    result = measure(lane_of(scenario, 4, 4_000), entrant("priority").maker())

    assert result.gain == 0
    assert result.switches == 0


@pytest.mark.parametrize("scenario", GAPS_PP)
def test_what_can_be_gained_is_near_what_the_design_states(scenario: str) -> None:
    least, most = GAPS_PP[scenario]
    gaps = []
    for seed in range(10):
        lane = draw(SCENARIOS[scenario], seed)
        _, static, oracle = bounds(lane, chosen_by(lane, 0))
        gaps.append(100 * (oracle - static) / len(lane.segment))

    assert least <= statistics.fmean(gaps) <= most


def test_in_an_outage_the_best_account_is_dead_and_later_the_second_best_is_halved() -> None:
    lane = lane_of("outage", 5)
    dead, second = (incident.account for incident in lane.incidents)
    third = next(k for k in range(3) if k not in {dead, second})

    assert {round(lane.rates[i][dead], 9) for i in range(7_000, 9_000)} == {0.05}
    assert mean(lane, dead, range(7_000)) == max(mean(lane, k, range(7_000)) for k in range(3))
    assert mean(lane, second, range(7_000)) >= mean(lane, third, range(7_000)) - 0.01
    usual = {s: lane.rates[i][second] for i, s in enumerate(lane.segment) if i < 7_000}
    assert all(lane.rates[i][second] == pytest.approx(0.55 * usual[lane.segment[i]]) for i in range(14_000, 15_500))
    assert lane.rates[9_000][dead] > 0.8


def test_a_partial_outage_hurts_two_segments_alone() -> None:
    lane = lane_of("partial_outage", 5)
    hurt = lane.incidents[0].account
    usual = {s: lane.rates[i][hurt] for i, s in enumerate(lane.segment) if i < 6_000}

    factors = {
        (lane.segment[i] in {1, 3}, round(lane.rates[i][hurt] / usual[lane.segment[i]], 6))
        for i in range(6_000, 13_000)
    }
    assert factors == {(True, 0.25), (False, 1.0)}


def test_a_burst_of_declines_is_the_same_at_every_account() -> None:
    lane = lane_of("decline_burst", 5)
    usual = {s: lane.customer[i] for i, s in enumerate(lane.segment) if i < 8_000}

    assert all(lane.customer[i] == pytest.approx(0.55 * usual[lane.segment[i]]) for i in range(8_000, 10_000))
    assert lane.customer[10_000] == usual[lane.segment[10_000]]


def test_equal_accounts_are_equal_and_nothing_is_lost_by_any_choice() -> None:
    lane = lane_of("equal", 5, 2_000)

    assert all(len(set(rates)) == 1 for rates in lane.rates)
    assert Share.of([(0.0, 0.0)]) is None


def test_a_new_account_may_be_chosen_from_payment_4000_and_is_better_in_half_of_the_segments() -> None:
    lane = lane_of("cold_start", 5)
    spy = Spy(lane.accounts, {})
    play(lane, spy)

    assert {len(candidates) for _, candidates, _ in spy.ranked[:4_000]} == {3}
    assert {candidates for _, candidates, _ in spy.ranked[4_000:]} == {lane.accounts}
    assert lane.accounts[-1] not in lane.report
    rows = {s: lane.rates[i] for i, s in enumerate(lane.segment)}
    assert sum(rates[3] > max(rates[:3]) for rates in rows.values()) == 6


def test_segments_follow_zipf_and_there_are_as_many_as_said() -> None:
    lane = lane_of("low_traffic", 5)
    counts = sorted((lane.segment.count(s) for s in range(200)), reverse=True)

    assert len(lane.contexts) == 200
    assert 3 * counts[3] == pytest.approx(counts[0], rel=0.25)  # 1/4^.8 = 0.33
    assert len({tuple(context.values()) for context in lane.contexts}) == 200


def test_without_an_account_effect_interactions_are_all_there_is() -> None:
    spreads = []
    for seed in range(12):
        lane = lane_of("non_additive", seed, 2_000)
        rows = {s: lane.rates[i] for i, s in enumerate(lane.segment)}
        spreads.append(len({max(range(3), key=rates.__getitem__) for rates in rows.values()}))

    assert statistics.fmean(spreads) > 2.5  # nearly always, each of the three is the best somewhere


def test_technical_failures_are_told_at_once_and_by_name() -> None:
    lane = lane_of("technical", 5)
    down = lane.incidents[0]

    class Told(Spy):
        def rank(
            self, context: Mapping[str, str], candidates: Sequence[str], rng: Random, now: float
        ) -> list[tuple[str, float, float]]:
            super().rank(context, candidates, rng, now)
            return [(lane.accounts[down.account], 0.0, 1.0)]

    spy = Told(lane.accounts, {})
    play(lane, spy)

    at_once = {told - 1 for told, _, _, outcome, _ in spy.told if outcome == "technical"}
    later = {told - DELAY_PAYMENTS for told, _, _, outcome, _ in spy.told if outcome != "technical"}
    assert len(at_once & set(down.span)) == pytest.approx(0.9 * len(down.span), rel=0.05)
    assert at_once.isdisjoint(later)
    assert at_once | later >= set(range(20_000 - DELAY_PAYMENTS))


def test_an_outcome_is_known_15_payments_later_and_not_before() -> None:
    lane = lane_of("stationary", 5, 1_000)
    spy = Spy(lane.accounts, {})
    play(lane, spy)

    assert [told for told, *_ in spy.told] == list(range(DELAY_PAYMENTS, 1_000))
    first = lane.accounts[0]
    assert [(account, outcome) for _, _, account, outcome, _ in spy.told] == [
        (first, lane.outcome(i, 0)) for i in range(1_000 - DELAY_PAYMENTS)
    ]
    assert [now for *_, now in spy.told] == lane.at[DELAY_PAYMENTS:]


@pytest.mark.parametrize("scenario", ["outage_minutes", "daily_curve"])
def test_where_outcomes_come_by_webhook_they_come_minutes_late_and_in_any_order(scenario: str) -> None:
    lane = lane_of(scenario, 5, 6_000)
    spy = Spy(lane.accounts, {})
    play(lane, spy)

    assert lane.due is not None
    delays = [due - at for due, at in zip(lane.due, lane.at, strict=True)]
    assert min(delays) > 0
    assert statistics.fmean(delays) == pytest.approx(180, rel=0.1)
    assert lane.due != sorted(lane.due)
    dues = sorted(lane.due)
    for number, (told, *_, now) in enumerate(spy.told):
        assert lane.at[told - 1] < dues[number] <= now == lane.at[told]


def test_payments_of_a_daily_curve_never_go_back_and_a_night_is_quiet() -> None:
    lane = lane_of("daily_curve", 5)
    hours = [0] * 24
    for at in lane.at:
        hours[int(at / 3_600) % 24] += 1

    assert all(a <= b for a, b in itertools.pairwise(lane.at))
    assert hours[0] < 0.2 * hours[12]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_strategy_is_handed_contexts_names_and_outcomes_and_nothing_of_the_truth(scenario: str) -> None:
    lane = lane_of(scenario, 6, 5_000)
    spy = Spy(lane.accounts, {})

    play(lane, spy)

    assert all(set(context) == KEYS for context, _, _ in spy.ranked[:200])
    assert {type(value) for context, _, _ in spy.ranked[:200] for value in context.values()} == {str}
    assert {account for _, candidates, _ in spy.ranked for account in candidates} <= set(lane.accounts)
    assert {outcome for *_, outcome, _ in spy.told} <= WORDS
    assert context_of(0) == lane.contexts[0]  # the same in every lane: it says nothing about rates


def test_the_report_is_stale_by_a_point_and_a_half_and_the_static_order_follows_it() -> None:
    errors = []
    for seed in range(40):
        lane = lane_of("stationary", seed, 5_000)
        assert (
            list(lane.report) == sorted(lane.report, key=lane.report.__getitem__, reverse=True) == list(lane.accounts)
        )
        errors += [lane.report[account] - mean(lane, k, range(5_000)) for k, account in enumerate(lane.accounts)]

    assert 0.010 < statistics.pstdev(errors) < 0.018


def test_of_100_declines_of_customers_65_name_their_reason() -> None:
    lane = lane_of("stationary", 5)
    named = [lane.outcome(i, 0) for i, dice in enumerate(lane.dice) if dice[1] >= lane.customer[i] and dice[0] < 0.5]

    assert named.count("declined_customer") / len(named) == pytest.approx(0.65, abs=0.03)
    assert set(named) == {"declined_customer", "declined_ambiguous"}


def test_a_second_attempt_is_made_after_what_may_be_retried_and_mostly_repeats_the_decline() -> None:
    lane = lane_of("stationary", 5)
    spy = Spy(lane.accounts, {})

    chosen, attempts, recovered = play(lane, spy, cascade=True)

    retryable = sum(lane.outcome(i, 0) == "declined_ambiguous" for i in range(20_000))
    assert (set(chosen), attempts) == ({0}, retryable)
    assert 0.1 * attempts < recovered < 0.4 * attempts
    assert {account for _, _, account, _, _ in spy.told} == set(lane.accounts[:2])


def test_the_dead_account_is_counted_until_it_gets_no_more_than_a_tenth() -> None:
    lane = lane_of("outage", 5, 9_500)
    dead = lane.incidents[0].account
    other = (dead + 1) % 3

    class Late(Spy):
        def rank(
            self, context: Mapping[str, str], candidates: Sequence[str], rng: Random, now: float
        ) -> list[tuple[str, float, float]]:
            super().rank(context, candidates, rng, now)
            return [(lane.accounts[dead if len(self.ranked) <= 7_025 else other], 0.0, 1.0)]

    result = measure(lane, lambda lane: Late(lane.accounts, {}))

    assert result.dead == 25
    assert 15 < result.lost < 25 + 2_000 * 0.1


def test_switches_are_counted_between_blocks_of_200_payments_of_a_segment() -> None:
    lane = lane_of("equal", 5, 3_000)

    class Alternating(Spy):
        def rank(
            self, context: Mapping[str, str], candidates: Sequence[str], rng: Random, now: float
        ) -> list[tuple[str, float, float]]:
            super().rank(context, candidates, rng, now)
            seen = sum(known == lane.contexts[0] for known, _, _ in self.ranked) - 1
            turn = seen // 200 % 2 if context == lane.contexts[0] else 0
            return [(lane.accounts[turn], 0.0, 1.0)]

    result = measure(lane, lambda lane: Alternating(lane.accounts, {}))

    blocks = [lane.segment.count(s) // 200 for s in range(12)]
    assert result.switches == blocks[0] - 1 > 2
    assert result.blocks == sum(count - 1 for count in blocks if count)


def result_of(seed: int, gain: float, gap: float, scenario: str = "outage") -> Result:
    return Result(scenario, seed, 20_000, 1_000 + gain, 1_000, 1_000 + gap, 50, 17, 1, 10, 2, 0, 0, 0, 1.0, 0.1)


def test_captured_is_a_ratio_of_sums_with_its_standard_error_over_seeds() -> None:
    found = figures([result_of(1, 50, 100), result_of(2, 10, 10)])

    assert found.pooled is not None
    assert found.pooled.percent == pytest.approx(100 * 60 / 110)
    assert found.pooled.error == pytest.approx(100 * (2 * (50 - 100 * 60 / 110) ** 2 * 2) ** 0.5 / 110, rel=1e-6)
    assert found.uplift_pp == pytest.approx(100 * 30 / 20_000)
    assert str(Share.of([(1, 2)])) == "50.0"


def test_equal_accounts_are_not_pooled_and_openings_count_where_nothing_fails() -> None:
    found = figures([result_of(1, 0, 0, "equal"), result_of(1, 50, 100)])

    assert "equal" not in POOLED
    assert len(POOLED) == 8
    assert found.pooled is not None
    assert found.pooled.percent == 50
    assert found.false_openings == 2
    assert found.false_switch == 0.1


def test_a_strategy_of_ones_own_is_named_by_its_module_and_class() -> None:
    row: Entrant = entrant("bench.routing.rivals:Weighted")

    assert measure(lane_of("stationary", 1, 500), row.maker()).payments == 500
    with pytest.raises(LookupError, match="no entrant of that name; there are priority"):
        entrant("nobody")


def test_the_program_prints_a_table_and_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seeds", "1,2", "--only", "priority,thompson", "--scenarios", "outage", "--payments", "1500"]

    assert program.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[:4] == ["priority", "0.0", "±", "0.0"]
    assert "2/2 lanes" in printed.err
    with pytest.raises(SystemExit):
        program.main(["--scenarios", "sunny"])
    assert "unknown sunny; there are stationary" in capsys.readouterr().err
    assert program.seeds_of("1-3,7") == [1, 2, 3, 7]
    assert program.change_of("adaptive.memory=3000") == ("adaptive", "memory", 3000)


@dataclass
class Said:
    breaker: str


class Broken(Spy):
    """Says that one account's breaker opens twice, and one of a segment once, while that of another account is open."""

    def explain(self, context: Mapping[str, str], account: str, now: float) -> Said:
        payment = len(self.ranked)
        first = account == self.order[0] and (200 <= payment < 300 or 400 <= payment < 500)
        segment = account == self.order[0] and context.get("bin") == context_of(0)["bin"] and 450 <= payment < 700
        return Said("open" if first or segment else "closed")


def test_openings_are_asked_for_where_nothing_fails_and_an_account_counts_once_for_all_its_segments() -> None:
    calm, outage = (
        measure(lane_of(name, 5, 1_000), lambda lane: Broken(lane.accounts, {})) for name in ("equal", "outage")
    )

    assert (calm.openings, outage.openings) == (3, None)
    assert calm.us is None
    assert figures([calm]).false_openings == 20 * 3
    assert figures([outage]).false_openings is None
