"""What is said of a strategy beside its holdout, and how often it is said wrongly over whole lives of watching."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.uplift import ARM_MIN, Arm, Uplift, Verdict, payments_needed, uplift

LIVES = 200
LOOK_EVERY = 50


@dataclass
class Life:
    """What was ever said in one life."""

    taken_back: bool = False
    missed: bool = False


def _life(strategy: float, holdout: float, share: float, payments: int, dice: random.Random) -> Life:
    seen = {True: [0, 0], False: [0, 0]}
    life = Life()
    for payment in range(1, payments + 1):
        held = dice.random() < share
        seen[held][0] += 1
        seen[held][1] += dice.random() < (holdout if held else strategy)
        if payment % LOOK_EVERY == 0:
            said = uplift(Arm(*seen[False]), Arm(*seen[True]))
            life.taken_back |= said.verdict is Verdict.HOLDOUT_WINS
            if said.always_low is not None and said.always_high is not None:
                life.missed |= not said.always_low <= strategy - holdout <= said.always_high
    return life


def _lives(strategy: float, holdout: float, share: float) -> list[Life]:
    dice = random.Random(20)
    return [_life(strategy, holdout, share, 20_000, dice) for _ in range(LIVES)]


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_strategy_that_is_no_worse_is_hardly_ever_taken_back_however_often_it_is_looked_at(share: float) -> None:
    lives = _lives(0.85, 0.85, share)
    assert sum(life.taken_back for life in lives) <= 0.02 * LIVES
    assert sum(life.missed for life in lives) <= 0.05 * LIVES


def test_a_strategy_that_costs_eight_points_is_taken_back_in_nearly_every_life() -> None:
    assert sum(life.taken_back for life in _lives(0.77, 0.85, 0.05)) >= 0.9 * LIVES


def test_one_look_is_counted_by_hand() -> None:
    said = uplift(Arm(10_000, 9_000), Arm(1_000, 850))
    assert said.difference == pytest.approx(0.05)
    # By each arm's own rate: sqrt(.09/10000 + .1275/1000) = 0.01168; by that of all (0.8955): 0.01015.
    assert said.low == pytest.approx(0.05 - 1.96 * 0.01168, abs=2e-4)
    assert said.high == pytest.approx(0.05 + 1.96 * 0.01168, abs=2e-4)
    # rho^2 = (5.991 + log 6.991) / 20000, so t rho^2 = 4.365: sqrt(2 (5.365 / 4.365) log(1 + sqrt(5.365) / 0.05)) = 3.079.
    assert said.always_low == pytest.approx(0.05 - 3.079 * 0.01168, abs=3e-4)
    assert said.verdict is Verdict.STRATEGY_WINS


def test_nothing_is_said_of_few() -> None:
    assert uplift(Arm(100_000, 1), Arm(ARM_MIN - 1, ARM_MIN - 1)) == Uplift(
        Verdict.TOO_FEW, Arm(100_000, 1), Arm(ARM_MIN - 1, ARM_MIN - 1)
    )
    assert Arm(0, 0).rate is None


def test_how_many_payments_show_one_point_is_counted_by_hand() -> None:
    # 2 * 0.85 * 0.15 * (1.960 + 0.842)^2 / 0.01^2 = 20 015 in each of two equal arms.
    assert payments_needed(Arm(10_000, 8_500), Arm(10_000, 8_500)) == pytest.approx(2 * 20_015, rel=0.001)
    # With 5 % in the holdout: 0.1275 / (0.05 * 0.95) instead of 0.1275 / 0.25.
    assert payments_needed(Arm(9_500, 8_075), Arm(500, 425)) == pytest.approx(2 * 20_015 * 0.25 / 0.0475, rel=0.001)
    assert payments_needed(Arm(9_500, 8_075), Arm(500, 425), 0.02) == pytest.approx(
        20_015 / 2 * 0.25 / 0.0475, rel=0.001
    )
    assert payments_needed(Arm(9_500, 8_075), Arm(0, 0)) is None


def test_more_approved_than_payments_is_refused() -> None:
    with pytest.raises(ValueError, match="some of all"):
        Arm(1, 2)


@given(
    strategy=st.tuples(st.integers(ARM_MIN, 10**7), st.floats(0, 1)),
    holdout=st.tuples(st.integers(ARM_MIN, 10**6), st.floats(0, 1)),
)
def test_an_interval_for_all_looks_holds_the_one_for_one_look(
    strategy: tuple[int, float], holdout: tuple[int, float]
) -> None:
    arms = [Arm(payments, int(payments * rate)) for payments, rate in (strategy, holdout)]
    said = uplift(*arms)
    assert said.always_low is not None
    assert said.always_high is not None
    assert said.low is not None
    assert said.high is not None
    assert said.difference is not None
    assert -1 <= said.always_low <= said.low <= said.difference <= said.high <= said.always_high <= 1
    mirrored = uplift(*reversed(arms))
    assert mirrored.difference == pytest.approx(-said.difference)
    assert mirrored.always_high == pytest.approx(-said.always_low)
    if said.verdict is Verdict.HOLDOUT_WINS:
        assert said.difference < 0
