"""What a draft would have approved, from payments that another decision had sent: self-normalized inverse propensity scoring.

Every payment was sent to one account, with a known probability. A payment whose account the draft would have chosen twice as
often counts twice; one that the draft would have sent elsewhere for certain counts nothing. The weighted share of approvals is
what the draft would have approved. No model of approvals is involved, so none can be wrong; what is not known is refused.

Pure, and of bounded memory: six sums a day. Source of the method: A. Swaminathan and T. Joachims, The Self-Normalized Estimator
for Counterfactual Learning (NIPS 2015); the interval is E. B. Wilson's (1927), on the sample size that the variance amounts to.

Payments that are counted as they come, over weeks and by many processes, are added up in :class:`Sums` and :class:`Gap`, which can be kept
in a table: :func:`estimate_of` makes the same estimate of them. How much one payment may count for depends on how many there will have
been, so these sums are kept apart by the size of the weights, in steps of two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import ceil, inf, log2, sqrt
from typing import Any, Final, Self

EFFECTIVE_MIN: Final = 500
"""Below this many effective payments no rate is given: its interval would be wider than what routing can gain."""
UNCOVERED_MAX: Final = 0.05
"""A larger share of payments about which nothing is known would make the interval say nothing."""
STRATUM_MIN: Final = 100
"""Days in a row are taken together until they amount to so many effective payments: the ratio of fewer leans to one side."""
WEIGHT_FLOOR: Final = 10.0
WEIGHT_SHARE: Final = 200
"""No payment counts for more than one in so many of all, else a handful of lucky ones could be the figure."""
LEVEL_MAX: Final = 24
"""Of the sizes of weights that sums tell apart: ten times two to the power of this is more than any weight may be."""
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
        " by a split or by a strategy that explores, and look again."
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


def level_of(ratio: float) -> int:
    """The size of a weight: 0 up to :data:`WEIGHT_FLOOR`, and one more for each doubling; :data:`LEVEL_MAX` at most."""
    if ratio <= WEIGHT_FLOOR:
        return 0
    return LEVEL_MAX if ratio == inf else min(LEVEL_MAX, ceil(log2(ratio / WEIGHT_FLOOR)))


def largest_of(level: int) -> float:
    """The largest weight of a level."""
    return WEIGHT_FLOOR * 2.0**level


@dataclass(frozen=True, slots=True)
class Interval:
    """A share and its 95 % interval, all between 0 and 1; of a difference, between -1 and 1."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """The interval as JSON values."""
        return {name: round(getattr(self, name), 6) for name in ("value", "low", "high")}

    def percent(self) -> str:
        """The share and its interval in percent, for a sentence."""
        return f"{100 * self.value:.2f} % ({100 * self.low:.2f} to {100 * self.high:.2f})"


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

    @property
    def sentence(self) -> str:
        """The estimate in plain English, which may change between releases."""
        if self.rate is None or self.recorded is None:
            return f"No rate is given. {'' if self.refusal is None else self.refusal.detail}"
        rate = f"Expected authorization rate {self.rate.percent()}, recorded {100 * self.recorded.value:.2f} %"
        if self.difference is None:
            return f"{rate}."
        low, high = 100 * self.difference.low, 100 * self.difference.high
        return f"{rate}: {100 * self.difference.value:+.2f} points ({low:+.2f} to {high:+.2f})."

    def record(self) -> dict[str, Any]:
        """The estimate as JSON values: shares from 0 to 1."""
        return {
            "payments": self.payments,
            "recorded": _recorded(self.recorded),
            "draft": _recorded(self.rate),
            "difference": _recorded(self.difference),
            "ahead": _recorded(self.ahead),
            "effective_payments": round(self.effective, 1),
            "effective_moved": round(self.effective_moved, 1),
            "not_covered": round(self.uncovered, 1),
            "weight_max": round(self.weight_max, 1),
            "strata": self.strata,
            "refused": _refused(self.refusal),
            "difference_refused": _refused(self.refusal_of_difference),
        }


def _recorded(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.record()


def _refused(refusal: Refusal | None) -> dict[str, str] | None:
    return None if refusal is None else {"reason": refusal.reason, "detail": refusal.detail}


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

    def put(self, sums: Sums) -> None:
        """Add payments that were added up, with weights of one level. :attr:`weight_max` has to be the largest of a level."""
        capped = sums.capped(self.weight_max)
        day = self._days.setdefault(sums.day, _Sums())
        day += capped
        if sums.moved:
            self._moved += capped

    def leave_open(self, gap: Gap) -> None:
        """Count what is cut off of the weights of payments that were put in, at one account: of a level above :attr:`weight_max`."""
        first = self._days[min(self._days)]  # only the sum over all days is looked at
        first.uncovered += gap.wanted - self.weight_max * gap.recorded
        self._where[gap.account] += gap.payments

    def estimate(self) -> Estimate:
        """What is known by now. May be asked at any time, any number of times."""
        strata = self._strata()
        total = _Sums()
        for stratum in strata:
            total += stratum
        refusal = self._refusal(total)
        recorded = None
        if total.payments:
            recorded = wilson(total.recorded, total.payments)
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
    return _widened(wilson(value, effective), unknown), _widened(wilson(value, fresh), unknown)


def _difference(strata: list[_Sums], total: _Sums) -> Interval:
    value = variance = rate = 0.0
    for stratum in strata:
        share = stratum.payments / total.payments
        rate += share * stratum.rate
        value += share * (stratum.rate - stratum.recorded)
        variance += share**2 * stratum.variance_of_difference
    width, unknown = Z * sqrt(variance), total.uncovered / total.payments
    return Interval(value, value - width - unknown * rate, value + width + unknown * (1 - rate))


def wilson(share: float, payments: float) -> Interval:
    """E. B. Wilson's score interval of a ``share`` of ``payments``, more than none: it holds near 0 and 1, where most rates are."""
    squared = Z * Z
    middle = (share + squared / (2 * payments)) / (1 + squared / payments)
    width = Z / (1 + squared / payments) * sqrt(share * (1 - share) / payments + squared / (4 * payments**2))
    return Interval(share, max(0.0, middle - width), min(1.0, middle + width))


def _widened(interval: Interval, unknown: float) -> Interval:
    """The interval of all payments, where the ``unknown`` share may be approved or not."""
    known = 1 - unknown
    return Interval(interval.value, known * interval.low, known * interval.high + unknown)


# --- Sums that are kept -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """Payments that would be sent to ``account`` much more often than they were: their chances there, added up by the ratio of both.

    ``level`` is that of the ratio, never 0; ``wanted`` adds the draft's chances up, ``recorded`` those with which the account was asked.
    """

    account: str
    level: int
    payments: int
    wanted: float
    recorded: float


@dataclass(frozen=True, slots=True)
class Sums:
    """Payments of one ``day`` whose weights are of one ``level``, added up. ``moved``: the draft changes their chances."""

    day: int
    moved: bool
    level: int
    payments: int
    approved: int
    weight: float
    squared: float
    weight_approved: float
    squared_approved: float

    def capped(self, most: float) -> _Sums:
        """These sums where no weight may be above ``most``, the largest of some level."""
        if self.level > level_of(most):
            n, approved = self.payments, self.approved
            return _Sums(n, approved, n * most, n * most**2, approved * most, approved * most**2)
        return _Sums(
            self.payments, self.approved, self.weight, self.squared, self.weight_approved, self.squared_approved
        )


@dataclass(frozen=True, slots=True)
class Weighed:
    """What one payment adds to the sums."""

    weight: float
    moved: bool
    gaps: tuple[Gap, ...]

    @property
    def level(self) -> int:
        """The size of its weight."""
        return level_of(self.weight)


def weigh(account: str, recorded: Mapping[str, float], target: Mapping[str, float]) -> Weighed:
    """What a payment that was sent to ``account`` counts for, in the terms of :meth:`Snips.add`, which it raises as."""
    chance = recorded.get(account, 0.0)
    if chance <= 0.0:
        raise ValueError(f"the probability of the account that was asked is {chance}")
    weight = target.get(account, 0.0) / chance
    if _alike(recorded, target):
        return Weighed(weight, moved=False, gaps=())
    gaps = []
    for name, wanted in target.items():
        asked = recorded.get(name, 0.0)
        level = level_of(wanted / asked if asked > 0.0 else inf)
        if level and wanted > _NOTHING:
            gaps.append(Gap(name, level, 1, wanted, asked))
    return Weighed(weight, moved=True, gaps=tuple(gaps))


def estimate_of(sums: Collection[Sums], gaps: Collection[Gap]) -> Estimate:
    """The :class:`Estimate` of payments that were added up: that of :class:`Snips`, whose ``weight_max`` is the largest of a level.

    It is the largest level that :func:`weight_max` allows so many payments.
    """
    payments = sum(each.payments for each in sums)
    allowed = weight_max(payments)
    level = level_of(allowed)
    most = largest_of(level if largest_of(level) <= allowed else level - 1)
    snips = Snips(most)
    for each in sums:
        snips.put(each)
    for gap in gaps:
        if gap.level > level_of(most):
            snips.leave_open(gap)
    return snips.estimate()
