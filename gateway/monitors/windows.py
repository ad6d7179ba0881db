"""Windows: what was seen in so many minutes, beside what is usual of the same payments. Pure.

What is expected of a segment is the sum of what is expected of its leaves, for as many attempts as each of them had: more payments from a
country with a low rate are no drop. Where the segment itself is usually lower at this hour than its leaves let expect, that holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from gateway.monitors.expecting import AT, FIELDS, PARTS, Counts, Expected, add, decided, split
from gateway.monitors.incident import Child, CodeShare, Loss
from gateway.monitors.monitor import GROUPS, RATES, Rate
from gateway.monitors.segments import DIMENSIONS, Leaf, Segment, holds, part, shape

PENDING_MAX: Final = 5
"""Minutes after which an attempt that is still pending counts as not authenticated: a challenge takes one or two."""
SHORT: Final = 5
"""Minutes in which missing traffic shows, where enough is expected in so few."""
NUMBER: Final = {name: at for at, name in enumerate(RATES)}
"""The rates by their numbers, which stand for them here."""
AUTHORIZATION: Final = NUMBER["authorization"]
SHARE_MIN: Final = 0.0005
BEYOND: Final = 0.1
"""By how much the share of the loss must exceed that of the attempts for a part to be named."""
_ATTEMPTS, _AMOUNT = AT["attempts"], AT["amount"]
_FIRST: Final = len(FIELDS)
_WIDTH: Final = len(FIELDS) + len(RATES)


class Seen(NamedTuple):
    """``n`` first attempts of the leaf made in a minute (unix seconds // 60), of class ``what``, and their amount. ``code`` is their decline's."""

    minute: int
    leaf: Leaf
    what: str
    code: str | None
    n: int
    amount: int


class Figures(NamedTuple):
    """One rate of one segment: ``bad`` of ``n``, where a share of ``usual`` is good as far as ``known`` attempts can tell."""

    n: int
    bad: int
    usual: float
    known: float

    @property
    def seen(self) -> float:
        """The share that is good."""
        return 1 - self.bad / self.n

    @property
    def drop(self) -> float:
        """How far it is below what is usual."""
        return self.usual - self.seen


@dataclass(frozen=True, slots=True)
class At:
    """A time between the middles of two of the three hours that :class:`Usual` is told for."""

    first: int
    share: float

    @classmethod
    def minute(cls, minute: float, hour: int) -> At:
        """The place of ``minute``, which is about in ``hour``."""
        place = min(max(minute / 60 - hour + 0.5, 0.0), 1.999)
        return cls(int(place), place - int(place))

    def of(self, values: Sequence[float]) -> float:
        """The value at that time."""
        return values[self.first] * (1 - self.share) + values[self.first + 1] * self.share


class Window:
    """What was seen from ``since`` to before ``until``.

    The sums of a segment are its counts, then what is expected of each rate; they are made for all that is watched at once, and for any
    other segment, or a part of one, when asked for.
    """

    def __init__(
        self, since: int, until: int, leaves: Mapping[Leaf, Counts], expected: Expected, *, wide: bool = False
    ) -> None:
        """``wide``: only of segments that one dimension tells apart are the sums made at once."""
        self.since, self.until, self.expected = since, until, expected
        self._made = expected.wide if wide else len(expected.watched)
        self.at = At.minute((since + until) / 2, expected.hour)
        self._leaves = {leaf: self._beside(leaf, counts) for leaf, counts in leaves.items()}

    @cached_property
    def sums(self) -> list[list[float]]:
        """The sums of every watched segment, by its place."""
        return self.without(())

    @property
    def minutes(self) -> int:
        """Its length."""
        return self.until - self.since

    def _beside(self, leaf: Leaf, counts: Counts) -> list[float]:
        """The counts of a leaf, and how many good ones are expected of each rate."""
        usual = self.expected.of(leaf)
        if usual is None:
            return [*counts, *(decided(counts, rate) / 2 for rate in range(len(RATES)))]
        first, late = self.at.first, self.at.share
        early = 1 - late
        return [
            *counts,
            *[
                (rates[first] * early + rates[first + 1] * late) * decided(counts, rate)
                for rate, rates in enumerate(usual.rates)
            ],
        ]

    def without(self, covered: Sequence[Segment]) -> list[list[float]]:
        """The sums of every watched segment, by its place, less what lies in ``covered``."""
        made = self._made
        sums = [[0.0] * _WIDTH for _ in range(made)]
        places = self.expected.places
        for leaf, beside in self._leaves.items():
            if covered and any(holds(each, leaf) for each in covered):
                continue
            for place in places(leaf):
                if place >= made:
                    break
                sums[place] = [a + b for a, b in zip(sums[place], beside, strict=True)]
        return sums

    def sum_of(self, segment: Segment, covered: Sequence[Segment] = ()) -> list[float]:
        """The sums of one segment less what lies in ``covered``."""
        place = None if covered else self.expected.place(segment)
        if place is not None and place < self._made:
            return self.sums[place]
        total = [0.0] * _WIDTH
        for leaf, beside in self._leaves.items():
            if holds(segment, leaf) and not any(holds(each, leaf) for each in covered):
                total = [a + b for a, b in zip(total, beside, strict=True)]
        return total

    def figures(self, segment: Segment, rate: int, covered: Sequence[Segment] = ()) -> Figures | None:
        """The rate that is number ``rate`` in a segment less ``covered``. ``None`` where there is no attempt or no history."""
        sums = self.sum_of(segment, covered)
        good, bad = split(sums, rate)
        usual = self.expected.usual.get(segment) or self.expected.usual.get(())
        if not good + bad or usual is None:
            return None
        known = self.at.of(usual.known[rate])
        if known < 1:
            return None
        share = sums[_FIRST + rate] / (good + bad) * self._lower(segment, rate)
        return Figures(good + bad, bad, min(max(share, SHARE_MIN), 1 - SHARE_MIN), known)

    def suspects(self, rate: int, drop: float, covered: Sequence[Segment]) -> list[Segment]:
        """The watched segments whose rate is further below what their leaves let expect than ``drop``."""
        rows = zip(self.expected.watched, self.without(covered) if covered else self.sums, strict=True)
        good_at, at = PARTS[rate][0], _FIRST + rate
        return [
            segment
            for segment, sums in rows
            if sums[at] - sum(map(sums.__getitem__, good_at)) > drop * decided(sums, rate)
        ]

    def _lower(self, segment: Segment, rate: int) -> float:
        """By how much the segment is usually lower than its leaves let expect; 1 where it is not."""
        usual, whole = self.expected.usual.get(segment), self.sum_of(segment)
        together = whole[_FIRST + rate]
        if usual is None or not together:
            return 1.0
        return min(1.0, self.at.of(usual.rates[rate]) * sum(split(whole, rate)) / together)

    def traffic(self, segment: Segment, covered: Sequence[Segment] = ()) -> tuple[int, float]:
        """How many attempts there are, and how many are usual. The latter is 0 without history."""
        return int(self.sum_of(segment, covered)[_ATTEMPTS]), self.usual_traffic(segment, covered)

    def usual_traffic(self, segment: Segment, covered: Sequence[Segment] = ()) -> float:
        """How many attempts are usual in so many minutes."""
        found = self.expected.usual.get(segment)
        if found is not None and not covered:
            return self.minutes * self.at.of(found.traffic)
        of_leaves = [
            (leaf, self.at.of(usual.traffic)) for leaf, usual in self.expected.leaves() if holds(segment, leaf)
        ]
        together = sum(n for _, n in of_leaves)
        whole = self.minutes * (together if found is None else self.at.of(found.traffic))
        if not together:
            return whole
        left = sum(n for leaf, n in of_leaves if not any(holds(each, leaf) for each in covered))
        return whole * left / together

    # --- What an alarm says ----------------------------------------------------------------------------------------------

    def lost(self, segment: Segment, rate: int | None) -> Lost:
        """The approvals that are lost in a segment; ``rate`` is ``None`` where it is traffic that is missing."""
        each = self._missing(segment) if rate is None else self._failing(segment, rate)
        return Lost(segment, each, self.minutes)

    def _failing(self, segment: Segment, rate: int) -> list[tuple[Leaf, float, int, int]]:
        lower = self._lower(segment, rate)
        found = []
        for leaf, beside in self._leaves.items():
            if holds(segment, leaf):
                good, _ = split(beside, rate)
                lost = beside[_FIRST + rate] * lower - good
                found.append((leaf, lost * self._approved(leaf, rate), int(beside[_ATTEMPTS]), int(beside[_AMOUNT])))
        return found

    def _missing(self, segment: Segment) -> list[tuple[Leaf, float, int, int]]:
        found = []
        of_leaves = [(leaf, usual) for leaf, usual in self.expected.leaves() if holds(segment, leaf)]
        together = sum(self.at.of(usual.traffic) for _, usual in of_leaves)
        for leaf, usual in of_leaves:
            if together:
                expected = self.usual_traffic(segment) * self.at.of(usual.traffic) / together
                seen = self._leaves.get(leaf)
                lost = expected - (seen[_ATTEMPTS] if seen is not None else 0)
                thousandths = round(expected * 1000)
                found.append((leaf, lost * self._approved(leaf, None), thousandths, thousandths * usual.mean_amount))
        return found

    def _approved(self, leaf: Leaf, rate: int | None) -> float:
        """The share of attempts that would have been approved, had they come so far as the issuer."""
        usual = self.expected.of(leaf)
        return 1.0 if rate == AUTHORIZATION or usual is None else self.at.of(usual.rates[AUTHORIZATION])


class Lost:
    """The approvals that are lost in a segment: by its leaves, how many of how many attempts over which amount."""

    def __init__(self, segment: Segment, leaves: Sequence[tuple[Leaf, float, int, int]], minutes: int) -> None:
        self.segment, self._leaves, self._minutes = segment, leaves, minutes
        self.approvals = max(0.0, sum(lost for _, lost, _, _ in leaves))

    def per_hour(self) -> tuple[Loss, ...]:
        """In an hour, in money: the approvals of each currency times the mean amount of its attempts, the largest number of approvals first."""
        sums: dict[str, tuple[float, int, int]] = {}
        for leaf, lost, n, amount in self._leaves:
            if leaf.currency is not None:
                had = sums.get(leaf.currency, (0.0, 0, 0))
                sums[leaf.currency] = (had[0] + lost, had[1] + n, had[2] + amount)
        found = {name: each for name, each in sums.items() if each[0] > 0 and each[1] > 0}
        together = sum(lost for lost, _, _ in found.values())
        thousandths = {name: round(1000 * self.approvals * lost / together) for name, (lost, _, _) in found.items()}
        losses = [
            Loss(name, thousandths[name] * amount * 60 // (1000 * n * self._minutes))
            for name, (_, n, amount) in sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
        ]
        return tuple(each for each in losses if each.amount)

    def child(self) -> Child | None:
        """The part, one dimension further down, with most of the loss beyond its part of the attempts.

        ``None`` where the loss is spread as the attempts are.
        """
        total, attempts = self.approvals, sum(n for _, _, n, _ in self._leaves)
        if not total or not attempts:
            return None
        parts: dict[Segment, tuple[float, int]] = {}
        named = shape(self.segment)
        for dimension in DIMENSIONS:
            if dimension in named:
                continue
            further = tuple(name for name in DIMENSIONS if name in named or name == dimension)
            for leaf, lost, n, _ in self._leaves:
                had = parts.get(part(leaf, further), (0.0, 0))
                parts[part(leaf, further)] = (had[0] + lost, had[1] + n)
        if not parts:
            return None
        lost_beyond = {each: lost / total - n / attempts for each, (lost, n) in parts.items()}
        most = max(parts, key=lambda each: (lost_beyond[each], each))
        return Child(most, min(1.0, parts[most][0] / total)) if lost_beyond[most] >= BEYOND else None


def counted(seen: Iterable[Seen], since: int, until: int, now: int) -> dict[Leaf, Counts]:
    """The counts of each leaf from ``since`` to before ``until``, as they are known at ``now``."""
    leaves: dict[Leaf, Counts] = {}
    for minute, leaf, what, _, n, amount in seen:
        if since <= minute < until:
            counts = leaves.get(leaf)
            if counts is None:
                counts = leaves[leaf] = [0] * len(FIELDS)
            add(counts, what, n, amount, settled=minute < now - PENDING_MAX)
    return leaves


def codes(
    seen: Iterable[Seen], rate: Rate, segment: Segment, since: int, until: int, most: int
) -> tuple[CodeShare, ...]:
    """The commonest decline codes of what is bad in the rate, and each one's share of those that have one."""
    found: dict[str, int] = {}
    for minute, leaf, what, code, n, _ in seen:
        if code is not None and since <= minute < until and GROUPS.get(what) in rate.bad and holds(segment, leaf):
            found[code] = found.get(code, 0) + n
    total = sum(found.values())
    first = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
    return tuple(CodeShare(code, n, n / total) for code, n in first)
