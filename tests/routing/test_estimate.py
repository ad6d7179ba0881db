"""The estimator against pasts whose truth is known: the interval covers it as often as it says, and refuses where it must."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Final

import pytest

from routing.estimate import (
    EFFECTIVE_MIN,
    REFUSALS,
    Estimate,
    Gap,
    Interval,
    Snips,
    Sums,
    estimate_of,
    largest_of,
    level_of,
    weigh,
    weight_max,
)

A: Final = {"a": 1.0}
B: Final = {"b": 1.0}
HALF: Final = {"a": 0.5, "b": 0.5}


def added(*payments: tuple[int, str, Mapping[str, float], Mapping[str, float], bool], most: float = 10.0) -> Snips:
    snips = Snips(most)
    for day, account, recorded, target, approved in payments:
        snips.add(day, account, recorded, target, approved=approved)
    return snips


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_a_small_past_by_hand() -> None:
    """One day, 1,000 payments by halves: a approved 450 of 500, b 400 of 500. The draft sends four of five to a.

    Weights 1.6 and 0.4: (1.6 * 450 + 0.4 * 400) / (1.6 * 500 + 0.4 * 500) = 880 / 1000. The influences' squares:
    (2.56 * (450 * 0.12^2 + 50 * 0.88^2) + 0.16 * (400 * 0.12^2 + 100 * 0.88^2)) / 1000^2 = 0.000129024, times 735.29 / 734.29.
    """
    target = {"a": 0.8, "b": 0.2}
    snips = Snips(10.0)
    for account, good in (("a", 450), ("b", 400)):
        for number in range(500):
            snips.add(1, account, HALF, target, approved=number < good)
    found = snips.estimate()
    assert (found.payments, found.strata, found.uncovered) == (1000, 1, 0.0)
    assert found.effective == pytest.approx(1000**2 / (500 * 2.56 + 500 * 0.16))
    assert found.recorded is not None
    assert found.recorded.value == 0.85
    assert found.rate is not None
    assert found.rate.value == pytest.approx(0.88)
    spread = 0.000129024 * found.effective / (found.effective - 1)
    # Wilson's interval of 0.88 on so many payments as that variance amounts to.
    many, z2 = 0.88 * 0.12 / spread, 1.959963984540054**2
    middle, width = (0.88 + z2 / (2 * many)) / (1 + z2 / many), sqrt(z2 * (0.88 * 0.12 / many + z2 / (4 * many**2)))
    assert found.rate.low == pytest.approx(middle - width / (1 + z2 / many))
    assert found.rate.high == pytest.approx(middle + width / (1 + z2 / many))
    # The difference of each payment's influences: w (r - 0.88) / 1000 - (r - 0.85) / 1000.
    influences = [((1.6, 1), 450), ((1.6, 0), 50), ((0.4, 1), 400), ((0.4, 0), 100)]
    paired = sum(n * (w * (r - 0.88) - (r - 0.85)) ** 2 for (w, r), n in influences) / 1000**2
    paired *= found.effective / (found.effective - 1)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.03)
    assert found.difference.high - 0.03 == pytest.approx(1.959963984540054 * sqrt(paired))
    assert found.difference.high - found.difference.low < found.rate.high - found.rate.low


def test_days_count_by_their_payments() -> None:
    """A day on which the draft's account was asked seldom counts with all its payments: it was a bad day."""
    snips = Snips(10.0)
    for day, share, chance in ((1, 0.9, 0.5), (2, 0.5, 0.25)):
        recorded = {"a": chance, "b": 1 - chance}
        for number in range(2000):
            asked = "a" if number < 2000 * chance else "b"
            place = number if asked == "a" else number - 2000 * chance
            snips.add(day, asked, recorded, A, approved=place < share * 2000 * (chance if asked == "a" else 1 - chance))
    found = snips.estimate()
    assert found.strata == 2
    assert found.rate is not None
    assert found.rate.value == pytest.approx((0.9 + 0.5) / 2)


def test_the_same_draft_has_the_same_rate_and_no_difference() -> None:
    dice = random.Random(7)
    snips = Snips(10.0)
    for number in range(3000):
        account = dice.choice("ab")
        snips.add(number // 100, account, HALF, dict(HALF), approved=dice.random() < 0.8)
    found = snips.estimate()
    assert found.rate is not None
    assert found.recorded is not None
    assert found.difference is not None
    assert found.rate.value == pytest.approx(found.recorded.value, abs=1e-12)
    assert (found.difference.value, found.difference.low, found.difference.high) == pytest.approx((0, 0, 0), abs=1e-7)
    assert found.effective == pytest.approx(3000)
    assert found.effective_moved == 0.0


# --- Refusing ---------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_nothing() -> None:
    found = Snips(10.0).estimate()
    assert (found.rate, found.recorded, found.effective) == (None, None, 0.0)
    assert found.refusal is not None
    assert found.refusal.reason == "nothing_recorded"


def test_an_account_that_was_never_asked_has_no_rate() -> None:
    snips = added(*[(n // 500, "a", A, B, n % 10 > 0) for n in range(5000)])
    found = snips.estimate()
    assert (found.rate, found.difference, found.ahead) == (None, None, None)
    assert found.uncovered == 5000
    assert found.refusal is not None
    assert found.refusal.reason == "not_covered"
    assert "5,000 of 5,000" in found.refusal.detail
    assert "b" in found.refusal.detail.split(":")[1]
    assert found.recorded is not None
    assert found.recorded.value == 0.9


def test_too_few_effective_payments_are_refused_and_one_more_is_not() -> None:
    """By halves: what the draft moves to ``a`` amounts to the payments that went there."""
    few, enough = (
        added(*[(0, "ab"[n % 2], HALF, A, n % 20 > 1) for n in range(2 * moved)]).estimate()
        for moved in (EFFECTIVE_MIN - 1, EFFECTIVE_MIN)
    )
    assert (few.effective, enough.effective) == pytest.approx((EFFECTIVE_MIN - 1, EFFECTIVE_MIN))
    assert (few.rate, few.difference) == (None, None)
    assert few.refusal is not None
    assert few.refusal.reason == "too_few"
    assert enough.refusal is None
    assert enough.rate is not None
    assert enough.difference is not None


def test_a_little_that_is_not_covered_widens_the_interval_by_as_much() -> None:
    known = [(0, "a", A, A, n % 10 > 0) for n in range(9700)]
    sure = added(*known).estimate()
    found = added(*known, *[(0, "a", A, B, True) for _ in range(300)]).estimate()
    assert sure.rate is not None
    assert found.rate is not None
    assert found.uncovered == 300
    assert found.rate.low == pytest.approx(0.97 * sure.rate.low, abs=1e-4)
    assert found.rate.high == pytest.approx(0.97 * sure.rate.high + 0.03, abs=1e-4)


def test_a_weight_that_is_cut_off_is_not_covered() -> None:
    """Sent one time in a hundred, weight 100, cut at 10: nine tenths of what the draft wants are unknown."""
    recorded = {"a": 0.99, "b": 0.01}
    snips = added(*[(0, "a", recorded, B, True)] * 990, *[(0, "b", recorded, B, True)] * 10)
    found = snips.estimate()
    assert found.uncovered == pytest.approx(900)
    assert found.refusal is not None
    assert found.refusal.reason == "not_covered"


def test_a_difference_needs_as_many_of_what_is_moved() -> None:
    rest = [(0, "a", A, A, n % 10 > 0) for n in range(5000)]
    found = added(*rest, *[(0, "ab"[n % 2], HALF, B, True) for n in range(200)]).estimate()
    assert found.rate is not None
    assert found.refusal is None
    assert found.difference is None
    assert found.refusal_of_difference is not None
    assert found.refusal_of_difference.reason == "too_few_moved"


def test_an_account_that_had_no_chance_was_not_asked_by_dice() -> None:
    with pytest.raises(ValueError, match=r"is 0\.0"):
        Snips(10.0).add(0, "a", B, B, approved=True)


def test_every_refusal_says_what_to_do() -> None:
    assert all(sentence.count(".") >= 2 for sentence in REFUSALS.values())


# --- Pasts whose truth is known -------------------------------------------------------------------------------------------

SEGMENTS: Final = 6


@dataclass(frozen=True)
class World:
    """Payments of six segments; accounts whose approvals differ by segment and day."""

    base: tuple[float, ...]
    effect: Mapping[str, tuple[float, ...]]

    @classmethod
    def drawn(cls, dice: random.Random, accounts: str = "abc") -> World:
        base = tuple(dice.uniform(0.78, 0.95) for _ in range(SEGMENTS))
        return cls(base, {name: tuple(dice.gauss(0, 0.5) for _ in range(SEGMENTS)) for name in accounts})

    def approval(self, segment: int, account: str, day: int) -> float:
        share = self.base[segment]
        logit = log(share / (1 - share)) + self.effect[account][segment] + 0.3 * (day % 7 == 3)
        return 1 / (1 + exp(-logit))


Chances = Callable[[int], Mapping[str, float]]
PASTS: Final[Mapping[str, tuple[Chances, Chances, int]]] = {
    # What was done, what the draft does, and payments a past.
    "a split moved": (lambda s: HALF, lambda s: {"a": 0.8, "b": 0.2}, 2000),
    "a split ended": (lambda s: {"a": 0.6, "b": 0.4}, lambda s: B, 2500),
    "an account explored a little": (lambda s: {"a": 0.94, "b": 0.06}, lambda s: B if s < 3 else A, 6000),
    "by segment, three accounts": (
        lambda s: {"a": 0.5, "b": 0.3, "c": 0.2} if s % 2 else {"a": 0.2, "b": 0.2, "c": 0.6},
        lambda s: {"c": 0.7, "a": 0.3} if s % 2 else {"b": 1.0},
        4000,
    ),
}


def past(name: str, seed: int) -> tuple[Estimate, float, float]:
    """One past of a world of its own: what is estimated of it, the draft's true rate, and the rate that was expected of it."""
    recorded_of, target_of, payments = PASTS[name]
    dice = random.Random(f"{name}/{seed}")
    world = World.drawn(dice)
    recorded, target = [recorded_of(s) for s in range(SEGMENTS)], [target_of(s) for s in range(SEGMENTS)]
    days = 10
    cells = [
        (
            [world.approval(s, account, day) for account in recorded[s]],
            sum(share * world.approval(s, account, day) for account, share in target[s].items()),
            sum(share * world.approval(s, account, day) for account, share in recorded[s].items()),
        )
        for day in range(days)
        for s in range(SEGMENTS)
    ]
    truth = sum(cell[1] for cell in cells) / len(cells)
    before = sum(cell[2] for cell in cells) / len(cells)
    names = [list(chances) for chances in recorded]
    shares = [list(chances.values()) for chances in recorded]
    snips = Snips(weight_max(payments))
    for number in range(payments):
        day, segment = number * days // payments, dice.randrange(SEGMENTS)
        place = dice.choices(range(len(shares[segment])), shares[segment])[0]
        approved = dice.random() < cells[day * SEGMENTS + segment][0][place]
        snips.add(day, names[segment][place], recorded[segment], target[segment], approved=approved)
    return snips.estimate(), truth, before


def covered(name: str, seeds: range) -> tuple[float, float]:
    """The share of pasts whose interval covers the truth: of the rate, and of the difference."""
    rates = differences = 0
    for seed in seeds:
        found, truth, before = past(name, seed)
        assert found.rate is not None, found.refusal
        assert found.difference is not None
        rates += found.rate.low <= truth <= found.rate.high
        differences += found.difference.low <= truth - before <= found.difference.high
    return rates / len(seeds), differences / len(seeds)


@pytest.mark.parametrize("name", PASTS)
def test_the_interval_covers_the_truth_in_19_of_20_pasts(name: str) -> None:
    rate, difference = covered(name, range(500))
    assert 0.92 <= rate <= 0.98
    assert 0.92 <= difference <= 0.98


@pytest.mark.nightly
@pytest.mark.parametrize("name", PASTS)
def test_the_interval_covers_the_truth_in_many_pasts(name: str) -> None:
    rate, difference = covered(name, range(10_000, 14_000))
    assert 0.935 <= rate <= 0.965
    assert 0.935 <= difference <= 0.965


# --- Sums that are kept -----------------------------------------------------------------------------------------------

Payment = tuple[int, str, Mapping[str, float], Mapping[str, float], bool]


def kept(payments: list[Payment]) -> tuple[list[Sums], list[Gap]]:
    """The sums of payments that are added one by one, as a table would keep them."""
    sums: dict[tuple[int, bool, int], Sums] = {}
    gaps: dict[tuple[str, int], Gap] = {}
    for day, account, recorded, target, good in payments:
        one = weigh(account, recorded, target)
        key, weight = (day, one.moved, one.level), one.weight
        old = sums.get(key, Sums(*key, 0, 0, 0.0, 0.0, 0.0, 0.0))
        sums[key] = Sums(
            *key,
            old.payments + 1,
            old.approved + good,
            old.weight + weight,
            old.squared + weight**2,
            old.weight_approved + good * weight,
            old.squared_approved + good * weight**2,
        )
        for gap in one.gaps:
            was = gaps.get((gap.account, gap.level), Gap(gap.account, gap.level, 0, 0.0, 0.0))
            gaps[gap.account, gap.level] = Gap(
                gap.account, gap.level, was.payments + 1, was.wanted + gap.wanted, was.recorded + gap.recorded
            )
    return list(sums.values()), list(gaps.values())


def drawn(payments: int, seed: int, rare: float) -> list[Payment]:
    """Payments of which a few went where the draft sends many: weights from 0 to a hundred, and accounts that were never asked."""
    dice = random.Random(seed)
    found: list[Payment] = []
    for number in range(payments):
        chance = rare * dice.choice((0.5, 1.0, 2.0))
        recorded = {"a": 1 - chance, "b": chance}
        wanted = dice.choice(({"a": 0.4, "b": 0.6}, {"b": 1.0}, recorded, {"a": 0.98, "b": chance, "c": 0.02 - chance}))
        account = "b" if dice.random() < chance else "a"
        found.append((number * 7 // payments, account, recorded, wanted, dice.random() < 0.85))
    return found


@pytest.mark.parametrize(("payments", "rare"), [(300, 0.2), (1500, 0.2), (1500, 0.01), (12_000, 0.01), (30_000, 0.004)])
def test_sums_that_are_kept_give_the_estimate_of_the_payments_themselves(payments: int, rare: float) -> None:
    past = drawn(payments, payments, rare)
    found = estimate_of(*kept(past))
    expected = added(*past, most=found.weight_max).estimate()

    assert weight_max(payments) / 2 < found.weight_max <= weight_max(payments)
    assert found.refusal == expected.refusal
    assert found.refusal_of_difference == expected.refusal_of_difference
    for name in ("payments", "strata"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("effective", "effective_moved", "uncovered"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))
    for name in ("recorded", "rate", "difference", "ahead"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if isinstance(one, Interval):
            assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_levels_are_steps_of_two_from_the_smallest_cap() -> None:
    assert [level_of(ratio) for ratio in (0.0, 1.0, 10.0, 10.1, 20.0, 20.1, 40.0)] == [0, 0, 0, 1, 1, 2, 2]
    assert [largest_of(level) for level in range(3)] == [10.0, 20.0, 40.0]
    assert level_of(float("inf")) == level_of(1e12)
    assert largest_of(level_of(float("inf"))) > 1e8


def test_nothing_that_is_kept_is_nothing_recorded() -> None:
    found = estimate_of([], [])
    assert found.refusal is not None
    assert found.refusal.reason == "nothing_recorded"
    with pytest.raises(ValueError, match="the account that was asked"):
        weigh("c", HALF, A)
