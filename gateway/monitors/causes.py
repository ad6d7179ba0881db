"""Causes: which segments explain what is bad in many. Pure.

A provider's trouble shows in all payments, in the account, in each of its brands and currencies, and somewhat in every country. What is
told is the account.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from gateway.monitors.incident import Detector
from gateway.monitors.segments import Segment, within

CAUSES_MAX: Final = 8
"""Causes that one look tells apart; the next look finds what is left."""
MOST: Final = 0.7
"""The share of the loss that a part must hold to stand for the whole."""
REST: Final = 1 / 3
"""The drop that may be left around it, as a share of the whole's."""
ABOUT: Final = 0.9
"""The share of the largest loss that is as good as it."""
AROUND: Final = 0.1
"""The share of the attempts that must be around it: where nearly all payments are of one brand, to name the brand says nothing."""


class Finding(NamedTuple):
    """A segment that is bad: the attempts it has, or should have, and how many of them are lost beyond what is usual, not below 0."""

    segment: Segment
    detector: Detector
    n: float
    lost: float


Retest = Callable[[Finding, Sequence[Segment]], Finding | None]
"""What is left of a finding without these segments; ``None`` where that is not bad."""


def causes(findings: Mapping[Segment, Finding], retest: Retest) -> list[Finding]:
    """The segments that explain all findings, the largest loss first; none of them lies in another.

    From the largest loss it goes down as long as a part holds nearly all of it and what is around the part is nearly as ever. Then
    everything is looked at again without what is explained.
    """
    left, found = dict(findings), list[Finding]()
    while left and len(found) < CAUSES_MAX:
        cause = _innermost(_outermost(left.values()), left.values())
        found = [each for each in found if not within(each.segment, cause.segment)]
        found.append(cause)
        explained = [each.segment for each in found]
        outside = (each for each in left.values() if not any(within(each.segment, inner) for inner in explained))
        left = {each.segment: each for each in (retest(other, explained) for other in outside) if each is not None}
    return found


def _outermost(findings: Collection[Finding]) -> Finding:
    """The widest of those that about the largest loss lies in: the same payments may have several names."""
    most = max(each.lost for each in findings)
    large = (each for each in findings if each.lost >= ABOUT * most)
    return min(large, key=_widest)


def _widest(finding: Finding) -> tuple[int, float, str]:
    return len(finding.segment), -finding.lost, repr(finding.segment)


def _innermost(whole: Finding, others: Collection[Finding]) -> Finding:
    """The part of ``whole`` that stands for it, and the part of that, as far down as there is one; the fewest dimensions first."""
    parts = [each for each in others if _stands_for(each, whole)]
    if not parts:
        return whole
    return _innermost(min(parts, key=_widest), others)


def _stands_for(part: Finding, whole: Finding) -> bool:
    around, lost = whole.n - part.n, whole.lost - part.lost
    return (
        within(part.segment, whole.segment)
        and part.segment != whole.segment
        and part.lost >= MOST * whole.lost
        and around >= AROUND * whole.n > 0
        and lost / around <= REST * whole.lost / whole.n
    )
