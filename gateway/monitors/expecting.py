"""What is usual: the rate and the traffic of each segment at this hour of the week, from four weeks. Pure.

A rate's expectation is made in three steps, from the widest segment to the smallest.

1. Over all hours: a segment's own share, drawn towards its parent's with the weight of 200 attempts.
2. For the hour: the parent's rate at this hour of the week, moved by as much as the segment differs from its parent over all hours (in log
   odds). A segment with a lower rate than its parent is so not held to its parent's.
3. Its own counts at this hour of the last four weeks, drawn towards that with a weight of at most 200 attempts.

A week whose hour was itself out of the usual teaches nothing, as long as most weeks agree: an outage is not to be the measure of the
next one. What is usual in traffic is the median of the weeks, and without any history nothing is expected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from statistics import fmean, median
from typing import Final, NamedTuple

from gateway.monitors.chances import chance_of_so_many, deviations
from gateway.monitors.monitor import GROUPS, RATES
from gateway.monitors.segments import DIMENSIONS, EVERYTHING, WIDE, Leaf, Segment, parent, part, segments_of, shape

WEEKS: Final = 4
HOURS_OF_WEEK: Final = 168
PRIOR: Final = 200
"""The weight, in attempts, of what is expected before a segment's own hour is looked at."""
KNOWN_MAX: Final = 2000
"""No rate is known better than from so many attempts: it moves by half a point or so from day to day by itself."""
ODD: Final = 1e-4
"""A week is left out whose hour had so small a chance."""
WINDOW: Final = 15
"""Minutes of a window."""
WORTH: Final = 20
"""Attempts that are expected in a window of a segment that is watched. A smaller one is watched as a part of its parents; everything and each
account are watched in any case: a shop that has grown since has many more attempts than are usual."""

FIELDS: Final = (*dict.fromkeys(GROUPS.values()), "attempts", "amount")
"""What is counted of a leaf: attempts by group, all of them, and their amount in minor units of the leaf's currency."""
AT: Final[Mapping[str, int]] = {name: at for at, name in enumerate(FIELDS)}
_ATTEMPTS, _AMOUNT, _LATE = AT["attempts"], AT["amount"], AT["unauthenticated"]
Counts = list[int]
"""One number for each of :data:`FIELDS`."""
PARTS: Final = tuple(
    (tuple(AT[name] for name in rate.good), tuple(AT[name] for name in rate.bad)) for rate in RATES.values()
)
_BOTH: Final = tuple((*good, *bad) for good, bad in PARTS)


def split(counts: Sequence[float], rate: int) -> tuple[int, int]:
    """The good and the bad ones of the rate that is number ``rate`` of :data:`gateway.monitors.monitor.RATES`."""
    good, bad = PARTS[rate]
    return int(sum(map(counts.__getitem__, good))), int(sum(map(counts.__getitem__, bad)))


def decided(counts: Sequence[float], rate: int) -> float:
    """The good and the bad ones together."""
    return sum(map(counts.__getitem__, _BOTH[rate]))


def add(counts: Counts, what: str, n: int, amount: int, *, settled: bool) -> None:
    """Count ``n`` attempts of class ``what``. ``settled``: whether one that is pending should long have had its outcome."""
    counts[_ATTEMPTS] += n
    counts[_AMOUNT] += amount
    group = GROUPS.get(what)
    if group is not None:
        counts[AT[group]] += n
    elif what == "pending" and settled:
        counts[_LATE] += n


class Past(NamedTuple):
    """``n`` first attempts of the leaf in an hour of the past (unix seconds // 3600), of class ``what``, and their amount."""

    hour: int
    leaf: Leaf
    what: str
    n: int
    amount: int


class Overall(NamedTuple):
    """``n`` first attempts of the leaf in the last four weeks, of class ``what``, and their amount."""

    leaf: Leaf
    what: str
    n: int
    amount: int


def past_hours(hour: int) -> tuple[int, ...]:
    """The hours that say what is usual in ``hour``: it, the one before and the one after, in each of the four weeks before."""
    return tuple(hour + beside - week * HOURS_OF_WEEK for week in range(1, WEEKS + 1) for beside in (-1, 0, 1))


class Usual(NamedTuple):
    """What is usual of a segment in each of three hours.

    The share that is good of each rate, from how many attempts that is known, and attempts a minute. ``mean_amount`` is that of an
    attempt, in minor units, and means something where the segment has one currency.
    """

    rates: tuple[tuple[float, ...], ...]
    known: tuple[tuple[float, ...], ...]
    traffic: tuple[float, ...]
    mean_amount: int


@dataclass(frozen=True, slots=True)
class Expected:
    """What is usual around ``hour``. Made by :func:`expect`; nothing in it changes.

    ``watched`` are the segments that are worth a look in this hour, the widest first, and ``lies_in`` names for each known leaf those it lies in by their
    places in ``watched``.
    """

    hour: int
    usual: Mapping[Segment, Usual]
    watched: tuple[Segment, ...] = ()
    lies_in: Mapping[Leaf, tuple[int, ...]] = field(default_factory=dict)
    wide: int = field(init=False)
    """How many of ``watched`` have one dimension at most; they stand first."""
    _place: dict[Segment, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wide", sum(len(segment) <= 1 for segment in self.watched))
        object.__setattr__(self, "_place", {segment: at for at, segment in enumerate(self.watched)})

    def leaves(self) -> Iterable[tuple[Leaf, Usual]]:
        """Every leaf with a history, and what is usual of it."""
        return ((leaf, self.usual[part(leaf, DIMENSIONS)]) for leaf in self.lies_in)

    def of(self, leaf: Leaf) -> Usual | None:
        """What is usual of the leaf, or of the smallest segment around it that is known. ``None`` without any history."""
        for segment in reversed(segments_of(leaf)):
            found = self.usual.get(segment)
            if found is not None:
                return found
        return None

    def place(self, segment: Segment) -> int | None:
        """Where the segment stands among ``watched``; ``None`` where it is not watched."""
        return self._place.get(segment)

    def places(self, leaf: Leaf) -> tuple[int, ...]:
        """Where the leaf lies among ``watched``, in ascending order."""
        found = self.lies_in.get(leaf)
        if found is None:
            around = set(segments_of(leaf))
            found = tuple(at for at, segment in enumerate(self.watched) if segment in around)
        return found


def expect(hour: int, past: Iterable[Past], overall: Iterable[Overall]) -> Expected:
    """What is usual in ``hour`` (unix seconds // 3600), from the hours of :func:`past_hours` and from four weeks altogether.

    Rows may come in any order, and several of a key are added up. ``overall`` need not hold the last hours. A rate of which there is no
    history at all is expected to be good half of the time and known from nothing, so nothing is out of the usual.
    """
    totals = _rolled((None, row.leaf, row.what, row.n, row.amount) for row in overall)[None]
    hours = _rolled((row.hour, row.leaf, row.what, row.n, row.amount) for row in past)
    known = _weeks(hour, hours)
    slots = [[hour + beside - week * HOURS_OF_WEEK for week in known] for beside in (-1, 0, 1)]
    usual: dict[Segment, Usual] = {}
    nothing = [0] * len(FIELDS)
    prior = [min(PRIOR, sum(split(totals.get(EVERYTHING, nothing), rate))) for rate in range(len(PARTS))]
    all_hours: dict[Segment, tuple[float, ...]] = {}
    for segment in sorted(totals, key=len):
        counts = totals[segment]
        above = parent(segment) if segment else None
        weeks = [[hours.get(each, {}).get(segment, nothing) for each in slot] for slot in slots]
        over_all = tuple(
            _over_all(split(counts, rate), prior[rate], None if above is None else all_hours[above][rate])
            for rate in range(len(PARTS))
        )
        all_hours[segment] = over_all
        made = [
            [
                _hour(
                    [split(each, rate) for each in slot],
                    _moved(over_all[rate], usual[above].rates[rate][at], all_hours[above][rate])
                    if above is not None
                    else over_all[rate],
                    prior[rate],
                )
                for at, slot in enumerate(weeks)
            ]
            for rate in range(len(PARTS))
        ]
        usual[segment] = Usual(
            tuple(tuple(rate for rate, _ in each) for each in made),
            tuple(tuple(known for _, known in each) for each in made),
            tuple(_a_minute([each[_ATTEMPTS] for each in slot], segment) for slot in weeks),
            counts[_AMOUNT] // counts[_ATTEMPTS] if counts[_ATTEMPTS] else 0,
        )
    watched = tuple(
        segment for segment, each in usual.items() if max(each.traffic) * WINDOW >= WORTH or shape(segment) in WIDE
    )
    at = {segment: place for place, segment in enumerate(watched)}
    leaves = {_leaf(segment) for segment in usual if len(segment) == len(Leaf._fields)}
    lies_in = {leaf: tuple(at[each] for each in segments_of(leaf) if each in at) for leaf in leaves}
    return Expected(hour, usual, watched, lies_in)


def _weeks(hour: int, hours: Collection[int | None]) -> range:
    """The weeks since the first payment. One without a payment at this hour counts: that is usual, too, where nobody pays at night."""
    oldest = max((round((hour - each) / HOURS_OF_WEEK) for each in hours if each is not None), default=0)
    return range(1, oldest + 1)


def _a_minute(weeks: Sequence[int], segment: Segment) -> float:
    """The median of the weeks, as an outage or a sale is no measure; of a leaf the mean, as a few attempts have no median of use."""
    if not weeks:
        return 0.0
    return (fmean(weeks) if len(segment) == len(DIMENSIONS) else median(weeks)) / 60


def _leaf(segment: Segment) -> Leaf:
    return Leaf(*(value for _, value in segment))


def _rolled(rows: Iterable[tuple[int | None, Leaf, str, int, int]]) -> dict[int | None, dict[Segment, Counts]]:
    """The counts of every segment, by hour."""
    leaves: dict[tuple[int | None, Leaf], Counts] = {}
    for hour, leaf, what, n, amount in rows:
        counts = leaves.get((hour, leaf))
        if counts is None:
            counts = leaves[hour, leaf] = [0] * len(FIELDS)
        add(counts, what, n, amount, settled=True)
    rolled: dict[int | None, dict[Segment, Counts]] = {None: {}}
    for (hour, leaf), counts in leaves.items():
        into = rolled.setdefault(hour, {})
        for segment in segments_of(leaf):
            sums = into.get(segment)
            if sums is None:
                into[segment] = counts.copy()
            else:
                for at, n in enumerate(counts):
                    sums[at] += n
    return rolled


def _over_all(counted: tuple[int, int], prior: float, above: float | None) -> float:
    good, bad = counted
    if above is None:
        return _inner((good + 0.5) / (good + bad + 1))
    return _inner((good + prior * above) / (good + bad + prior)) if good + bad + prior else above


def _hour(weeks: Sequence[tuple[int, int]], before: float, prior: float) -> tuple[float, float]:
    """The rate at this hour of the week, and from how many attempts it is known."""
    odd = [good + bad > 0 and _is_odd(good, bad, before, prior) for good, bad in weeks]
    if 2 * sum(odd) > sum(good + bad > 0 for good, bad in weeks):
        odd = [False] * len(weeks)  # that is no exception any more: it is how things are now
    good = sum(counted[0] for counted, out in zip(weeks, odd, strict=True) if not out)
    n = sum(sum(counted) for counted, out in zip(weeks, odd, strict=True) if not out)
    rate = (good + prior * before) / (n + prior) if n + prior else before
    return _inner(rate), min(KNOWN_MAX, n + prior)


def _is_odd(good: int, bad: int, before: float, prior: float) -> bool:
    n, weight = good + bad, max(prior, 1)
    if abs(deviations(bad, n, 1 - before, weight)) < 3:  # three deviations are a chance of 1 in 1,000
        return False
    return min(chance_of_so_many(bad, n, 1 - before, weight), chance_of_so_many(good, n, before, weight)) < ODD


def _moved(own: float, at_hour: float, above: float) -> float:
    """The parent's rate at this hour, moved by as much as ``own`` differs from ``above``."""
    return _inner(1 / (1 + exp(-(_odds(at_hour) + _odds(own) - _odds(above)))))


def _odds(share: float) -> float:
    return log(share / (1 - share))


def _inner(share: float) -> float:
    return min(max(share, 0.0005), 0.9995)
