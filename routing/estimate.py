"""What a draft would have approved, from payments that another decision had sent: self-normalized inverse propensity scoring.

Every payment was sent to one account, with a known probability. A payment whose account the draft would have chosen twice as
often counts twice; one that the draft would have sent elsewhere for certain counts nothing. The weighted share of approvals is
what the draft would have approved. No model of approvals is involved, so none can be wrong; what is not known is refused.

Pure, and of bounded memory: six sums a day. Source of the method: A. Swaminathan and T. Joachims, The Self-Normalized Estimator
for Counterfactual Learning (NIPS 2015); the interval is E. B. Wilson's (1927), on the sample size that the variance amounts to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Final, Self

EFFECTIVE_MIN: Final = 500
"""Below this many effective payments no rate is given: its interval would be wider than what routing can gain."""
UNCOVERED_MAX: Final = 0.05
"""A larger share of payments about which nothing is known would make the interval say nothing."""
STRATUM_MIN: Final = 100
"""Days in a row are taken together until they amount to so many effective payments: the ratio of fewer leans to one side."""
WEIGHT_FLOOR: Final = 10.0
WEIGHT_SHARE: Final = 200
"""No payment counts for more than one in so many of all, else a handful of lucky ones could be the figure."""
_NOTHING: Final = 1e-9
"""Two probabilities that differ by less are one: what is left are the last digits of a float."""
Z: Final = 1.959963984540054
"""Of a two-sided 95 % interval."""

REFUSALS: Final[Mapping[str, str]] = {
    "nothing_recorded": (
        "No payment of that time was decided by a document and has an outcome. Take a longer time, or wait for payments."
    ),
    "not_covered": (
        "The draft would send {uncovered:,.0f} of {payments:,} payments ({share:.1%}) where the decisions of that time hardly"
        " ever sent their like: {where}. Nothing is known about how those would have ended. Send a share of them there first,"
        " by a split or by a strategy that explores, and simulate again."
    ),
    "too_few": (
        "What is known amounts to {effective:,.0f} payments, and a rate needs {least}. Take a longer time, or send more of the"
        " payments that the draft moves to {where} first, by a split or by a strategy that explores."
    ),
    "too_few_moved": (
        "The draft changes the chances of payments that amount to {effective:,.0f}, and a difference needs {least}. The rate is"
        " given; what the draft changes in it is too little to be told from chance."
    ),
}
"""Why there is no figure, and what to do about it."""


def weight_max(payments: int) -> float:
    """The largest weight of one payment among ``payments``, by :data:`WEIGHT_SHARE`; among few it is :data:`WEIGHT_FLOOR`."""
    return max(WEIGHT_FLOOR, payments / WEIGHT_SHARE)


@dataclass(frozen=True, slots=True)
class Interval:
    """A share and its 95 % interval, all between 0 and 1; of a difference, between -1 and 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a figure is not given: a word of :data:`REFUSALS`, and that sentence with its numbers."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of a draft. ``rate``, ``difference`` and ``ahead`` are ``None`` exactly where a refusal says why.

    ``recorded`` is the rate of the same payments as they were sent. ``difference`` is draft less recorded; the two rates come from
    the same payments, so it is known better than either. ``ahead`` is where the rate of as many fresh payments will be found, if
    nothing but the document changes: their own chance is added. ``effective`` is how many payments sent by the draft itself would
    tell as much; ``effective_moved`` the same of those alone whose chances the draft changes. ``uncovered`` counts, in payments,
    what the draft would send where the records say nothing; the intervals leave open whether all or none of that is approved.
    """

    payments: int
    recorded: Interval | None
    rate: Interval | None
    difference: Interval | None
    ahead: Interval | None
    effective: float
    effective_moved: float
    uncovered: float
    weight_max: float
    strata: int
    refusal: Refusal | None
    refusal_of_difference: Refusal | None


@dataclass(slots=True)
class _Sums:
    """The sums of one day, or of several in a row."""

    payments: int = 0
    approved: int = 0
    weight: float = 0.0
    squared: float = 0.0
    weight_approved: float = 0.0
    squared_approved: float = 0.0
    uncovered: float = 0.0

    def add(self, weight: float, *, approved: bool) -> None:
        squared = weight * weight
        self.payments += 1
        self.weight += weight
        self.squared += squared
        if approved:
            self.approved += 1
            self.weight_approved += weight
            self.squared_approved += squared

    def __iadd__(self, other: _Sums) -> Self:
        self.payments += other.payments
        self.approved += other.approved
        self.weight += other.weight
        self.squared += other.squared
        self.weight_approved += other.weight_approved
        self.squared_approved += other.squared_approved
        self.uncovered += other.uncovered
        return self

    @property
    def effective(self) -> float:
        return self.weight**2 / self.squared if self.squared else 0.0

    @property
    def rate(self) -> float:
        return self.weight_approved / self.weight if self.weight else 0.0

    @property
    def recorded(self) -> float:
        return self.approved / self.payments

    @property
    def variance(self) -> float:
        """Of :attr:`rate`: the sum of squares of each payment's influence on it, ``w (r - rate) / sum of w``."""
        return self._spread * self._few

    @property
    def variance_of_difference(self) -> float:
        """Of ``rate - recorded``, from the same influences: ``w (r - rate) / sum of w - (r - recorded) / payments``."""
        rate, recorded = self.rate, self.recorded
        shared = (recorded * (1 - recorded) - 2 * rate * (1 - rate)) / self.payments
        return max(0.0, self._spread + shared) * self._few

    @property
    def _spread(self) -> float:
        if not self.weight:
            return 0.25  # nothing is known of these days: as wide as a share can be
        rate = self.rate
        return max(0.0, self.squared_approved * (1 - 2 * rate) + rate**2 * self.squared) / self.weight**2

    @property
    def _few(self) -> float:
        """That the rate was taken from the same payments, as in every variance of a sample."""
        return self.effective / (self.effective - 1) if self.effective > 1 else 1.0


@dataclass(slots=True)
class Snips:
    """Adds payments up, in any order, and gives the :class:`Estimate`. ``weight_max`` is that of :func:`weight_max`."""

    weight_max: float
    _days: dict[int, _Sums] = field(default_factory=dict)
    _moved: _Sums = field(default_factory=_Sums)
    _where: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        day: int,
        account: str,
        recorded: Mapping[str, float],
        target: Mapping[str, float],
        *,
        approved: bool,
    ) -> None:
        """Add one payment of ``day`` that was sent to ``account``.

        ``recorded`` has the probability with which each account was asked first, ``target`` that of the draft; an account that is
        missing has none. Both are of the payment's own facts, and neither may know how it ended. ``ValueError`` where the
        probability of ``account`` is not above 0: then it was not asked at random, and nothing can be told from it.
        """
        chance = recorded.get(account, 0.0)
        if chance <= 0.0:
            raise ValueError(f"the probability of the account that was asked is {chance}")
        sums = self._days.get(day)
        if sums is None:
            sums = self._days[day] = _Sums()
        weight = min(target.get(account, 0.0) / chance, self.weight_max)
        sums.add(weight, approved=approved)
        if not _alike(recorded, target):
            self._moved.add(weight, approved=approved)
            self._uncovered(sums, recorded, target)

    def _uncovered(self, sums: _Sums, recorded: Mapping[str, float], target: Mapping[str, float]) -> None:
        """What is cut off of the weights, over all the accounts that might have been asked: exact, not drawn."""
        for account, wanted in target.items():
            missing = wanted - self.weight_max * recorded.get(account, 0.0)
            if missing > _NOTHING:
                sums.uncovered += missing
                self._where[account] += 1

    def estimate(self) -> Estimate:
        """What is known by now. May be asked at any time, any number of times."""
        strata = self._strata()
        total = _Sums()
        for stratum in strata:
            total += stratum
        refusal = self._refusal(total)
        recorded = None
        if total.payments:
            recorded = _wilson(total.recorded, total.payments)
        rate = difference = ahead = unsure = None
        if refusal is None:
            rate, ahead = _rate(strata, total)
            unsure = self._refusal_of_difference(total)
            difference = _difference(strata, total) if unsure is None else None
        return Estimate(
            payments=total.payments,
            recorded=recorded,
            rate=rate,
            difference=difference,
            ahead=ahead,
            effective=total.effective,
            effective_moved=self._moved.effective,
            uncovered=total.uncovered,
            weight_max=self.weight_max,
            strata=len(strata),
            refusal=refusal,
            refusal_of_difference=refusal or unsure,
        )

    def _strata(self) -> list[_Sums]:
        """The days, some taken together. By their weights alone: what was approved has no say in it."""
        strata: list[_Sums] = []
        for day in sorted(self._days):
            if not strata or strata[-1].effective >= STRATUM_MIN:
                strata.append(_Sums())
            strata[-1] += self._days[day]
        if len(strata) > 1 and strata[-1].effective < STRATUM_MIN:
            last = strata.pop()
            strata[-1] += last
        return strata

    def _refusal(self, total: _Sums) -> Refusal | None:
        if not total.payments:
            return Refusal("nothing_recorded", REFUSALS["nothing_recorded"])
        share = total.uncovered / total.payments
        if share > UNCOVERED_MAX:
            return self._refused("not_covered", total, share)
        if total.effective < EFFECTIVE_MIN:
            return self._refused("too_few", total, share)
        return None

    def _refusal_of_difference(self, total: _Sums) -> Refusal | None:
        if not self._moved.payments or self._moved.effective >= EFFECTIVE_MIN:
            return None
        share = total.uncovered / total.payments
        return self._refused("too_few_moved", self._moved, share)

    def _refused(self, reason: str, sums: _Sums, share: float) -> Refusal:
        where = ", ".join(account for account, _ in self._where.most_common(3)) or "the account that it prefers"
        return Refusal(
            reason,
            REFUSALS[reason].format(
                uncovered=sums.uncovered,
                payments=sums.payments,
                share=share,
                effective=sums.effective,
                least=EFFECTIVE_MIN,
                where=where,
            ),
        )


def _alike(recorded: Mapping[str, float], target: Mapping[str, float]) -> bool:
    """Whether the draft sends the payment to each account as often as it was sent: then it says nothing of a difference."""
    if recorded == target:
        return True
    accounts = recorded.keys() | target.keys()
    return all(abs(recorded.get(account, 0.0) - target.get(account, 0.0)) <= _NOTHING for account in accounts)


def _rate(strata: list[_Sums], total: _Sums) -> tuple[Interval, Interval]:
    """The rate, and that of as many fresh payments: the strata's, each by its share of the payments."""
    value = variance = 0.0
    for stratum in strata:
        share = stratum.payments / total.payments
        value += share * stratum.rate
        variance += share**2 * stratum.variance
    effective = value * (1 - value) / variance if variance > 0 else total.effective
    fresh = 1 / (1 / effective + 1 / total.payments)
    unknown = total.uncovered / total.payments
    return _widened(_wilson(value, effective), unknown), _widened(_wilson(value, fresh), unknown)


def _difference(strata: list[_Sums], total: _Sums) -> Interval:
    value = variance = rate = 0.0
    for stratum in strata:
        share = stratum.payments / total.payments
        rate += share * stratum.rate
        value += share * (stratum.rate - stratum.recorded)
        variance += share**2 * stratum.variance_of_difference
    width, unknown = Z * sqrt(variance), total.uncovered / total.payments
    return Interval(value, value - width - unknown * rate, value + width + unknown * (1 - rate))


def _wilson(share: float, payments: float) -> Interval:
    """E. B. Wilson's score interval: it holds near 0 and 1, where most approval rates are."""
    squared = Z * Z
    middle = (share + squared / (2 * payments)) / (1 + squared / payments)
    width = Z / (1 + squared / payments) * sqrt(share * (1 - share) / payments + squared / (4 * payments**2))
    return Interval(share, max(0.0, middle - width), min(1.0, middle + width))


def _widened(interval: Interval, unknown: float) -> Interval:
    """The interval of all payments, where the ``unknown`` share may be approved or not."""
    known = 1 - unknown
    return Interval(interval.value, known * interval.low, known * interval.high + unknown)
