"""Whether a strategy earns its place: its approvals beside those of the holdout, at any moment of watching.

A holdout is a share of payments, drawn by their ids, that goes the way it would go without the strategy. Both arms see the same
days, the same cards and the same outages, so the difference of their rates is the strategy's doing and nobody else's. People look
at such a number every day, and an interval that is right for one look is wrong for many. :func:`uplift` therefore gives two: the
usual one, for whoever looks once at a date that was fixed before, and one that holds at every look at once.

The second is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit
theory and asymptotic confidence sequences" (Annals of Statistics 52, 2024): theorem 2.2, and its one-sided form for the verdict.

Pure: counts in, numbers out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Final

ALPHA: Final = 0.05
"""An interval misses the truth in at most one of 20 merchants' lives, however often it is looked at."""
ROLLBACK_ALPHA: Final = 0.01
"""A strategy that is no worse than its holdout is ever taken back by mistake in at most one of 100 lives."""
TIGHTEST_AT: Final = 20_000
"""Payments after which the sequence is tightest: about where a difference of one point begins to show."""
ARM_MIN: Final = 300
"""Payments in each arm before anything is said: the theory is for many, and a rate of 85 % needs some declines to show its spread."""
_Z: Final = NormalDist().inv_cdf(1 - ALPHA / 2)
_POWER: Final = NormalDist().inv_cdf(0.8)


@dataclass(frozen=True, slots=True)
class Arm:
    """Payments of one arm whose end is known, and how many of them were approved."""

    payments: int
    approved: int

    def __post_init__(self) -> None:
        if not 0 <= self.approved <= self.payments:
            raise ValueError("approved payments are some of all payments")

    @property
    def rate(self) -> float | None:
        """Approved of all; ``None`` without payments."""
        return self.approved / self.payments if self.payments else None


class Verdict(StrEnum):
    """What may be said, however often it was asked."""

    TOO_FEW = "too_few"
    """An arm has fewer than :data:`ARM_MIN` payments."""
    OPEN = "open"
    """The difference may be either way."""
    STRATEGY_WINS = "strategy_wins"
    HOLDOUT_WINS = "holdout_wins"
    """The strategy costs approvals: it is taken back, where the document says so."""


@dataclass(frozen=True, slots=True)
class Uplift:
    """The strategy's rate less the holdout's, as shares of one (0.012 is 1.2 points).

    ``low`` and ``high`` hold for one look at a date that was fixed before, ``always_low`` and ``always_high`` for all looks together;
    each at 95 %. All are ``None`` while there are too few payments.
    """

    verdict: Verdict
    strategy: Arm
    holdout: Arm
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    always_low: float | None = None
    always_high: float | None = None


def uplift(strategy: Arm, holdout: Arm) -> Uplift:
    """What both arms say by now. May be asked after every payment: the verdict takes that into account."""
    if min(strategy.payments, holdout.payments) < ARM_MIN:
        return Uplift(Verdict.TOO_FEW, strategy, holdout)
    variance = _variance(strategy, holdout)
    difference = strategy.approved / strategy.payments - holdout.approved / holdout.payments
    once = _Z * math.sqrt(variance)
    always = _radius(strategy.payments + holdout.payments, variance, ALPHA / 2)
    decisive = _radius(strategy.payments + holdout.payments, variance, ROLLBACK_ALPHA)
    if difference + decisive < 0:
        verdict = Verdict.HOLDOUT_WINS
    elif difference - always > 0:
        verdict = Verdict.STRATEGY_WINS
    else:
        verdict = Verdict.OPEN
    return Uplift(
        verdict,
        strategy,
        holdout,
        difference,
        max(-1.0, difference - once),
        min(1.0, difference + once),
        max(-1.0, difference - always),
        min(1.0, difference + always),
    )


def payments_needed(strategy: Arm, holdout: Arm, difference: float = 0.01) -> int | None:
    """How many payments, of both arms together and in their shares, show a ``difference`` (0.01 is one point) to one look.

    Two-sided at 5 %, found in 80 of 100 cases where it is there. ``None`` while an arm is empty.
    """
    if not strategy.payments or not holdout.payments:
        return None
    together = Arm(strategy.payments + holdout.payments, strategy.approved + holdout.approved)
    share = holdout.payments / together.payments
    return math.ceil(_spread(together) / (share * (1 - share)) * ((_Z + _POWER) / difference) ** 2)


def told(said: Uplift) -> str:
    """The verdict in one plain English sentence, which may change between releases."""
    if said.difference is None or said.always_low is None or said.always_high is None:
        return (
            f"Nothing can be said yet: {said.strategy.payments} payments went by the strategy and {said.holdout.payments} belong to the "
            f"holdout, and {ARM_MIN} of each are needed."
        )
    points = abs(100 * said.difference)
    side = "more" if said.difference >= 0 else "less"
    found = f"it approves {points:.2f} points {side} than the holdout"
    interval = f"the truth lies between {100 * said.always_low:+.2f} and {100 * said.always_high:+.2f} points, however often one looks"
    return _TOLD[said.verdict].format(found=found, interval=interval)


_TOLD: Final = {
    Verdict.OPEN: "It is open whether the strategy earns its place: {found}, and {interval}.",
    Verdict.STRATEGY_WINS: "The strategy earns its place: {found}, and {interval}.",
    Verdict.HOLDOUT_WINS: "The strategy costs approvals: {found}, and {interval}.",
}


def _variance(strategy: Arm, holdout: Arm) -> float:
    """Of the difference of both rates: by each arm's own rate or by that of all, whichever is wider.

    A small arm that happens to look good also happens to look certain; measured over whole lives, its own rate alone takes a
    strategy back twice as often as is promised.
    """
    arms = (strategy, holdout)
    together = Arm(strategy.payments + holdout.payments, strategy.approved + holdout.approved)
    return max(sum(_spread(arm) / arm.payments for arm in arms), sum(_spread(together) / arm.payments for arm in arms))


def _spread(arm: Arm) -> float:
    """Of one payment. One of each kind is added: nobody is certain after 300 payments without a decline."""
    rate = (arm.approved + 1) / (arm.payments + 2)
    return rate * (1 - rate)


def _radius(payments: int, variance: float, alpha: float) -> float:
    """How far the truth may be off on one side at any moment, with a chance of ``alpha`` of ever being further.

    ``variance`` is that of the difference, so the spread of a single payment's contribution is ``payments * variance``.
    """
    rho2 = _RHO2[alpha]
    growth = payments * rho2 + 1
    return math.sqrt(variance * 2 * growth / (payments * rho2) * math.log(1 + math.sqrt(growth) / (2 * alpha)))


def _rho2(alpha: float) -> float:
    """The mixture's width that is tightest at :data:`TIGHTEST_AT` payments (the paper's appendix B.2, by its own approximation)."""
    level = -2 * math.log(2 * alpha) if alpha < 0.5 else 1.0
    return (level + math.log(1 + level)) / TIGHTEST_AT


_RHO2: Final = {alpha: _rho2(alpha) for alpha in (ALPHA / 2, ROLLBACK_ALPHA)}
