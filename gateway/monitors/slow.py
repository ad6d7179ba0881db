"""Slow drifts of the authorization rate: a Bernoulli CUSUM for a fall by five points. Pure.

There is a sum for everything, and for each account, brand, currency and issuer country: what is smaller has too few attempts. Each
settled minute adds the logarithm of how much more likely it is after the fall than before; below nothing the sum begins anew. A minute is
counted once, so a result that comes later than it has settled is not counted twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from gateway.monitors.chances import steps
from gateway.monitors.expecting import Expected
from gateway.monitors.segments import Segment
from gateway.monitors.windows import AUTHORIZATION, Seen, Window, counted

FALL: Final = 0.05
TICKET: Final = 15.0
PAGE: Final = 18.0
CAP: Final = TICKET / 4
"""What one minute can add: a burst of stolen cards is no slow drift."""
CEILING: Final = 1.25 * PAGE
"""The sum grows no further, so that it is down again soon after."""
SETTLED: Final = 5
"""Minutes after which an attempt is counted, as it is then."""
BEHIND_MAX: Final = 120
"""Minutes that are caught up with after a pause; what is older is passed over."""


def grown(
    sums: Mapping[Segment, float],
    seen: Iterable[Seen],
    since: int,
    until: int,
    expected: Expected,
    covered: Mapping[Segment, Collection[Segment]],
) -> dict[Segment, float]:
    """The sums after the minutes from ``since`` to before ``until``.

    ``covered`` names segments whose payments do not count, by the segment they do not count for: what an open incident explains.
    """
    by_minute: dict[int, list[Seen]] = {}
    for row in seen:
        if since <= row.minute < until:
            by_minute.setdefault(row.minute, []).append(row)
    made = dict(sums)
    drifting = expected.watched[: expected.wide]
    for minute in sorted(by_minute):
        window = Window(minute, minute + 1, counted(by_minute[minute], minute, minute + 1, until), expected, wide=True)
        for segment in drifting:
            figures = window.figures(segment, AUTHORIZATION, tuple(covered.get(segment, ())))
            if figures is not None:
                approval, decline = steps(figures.usual, FALL)
                step = min(CAP, approval * (figures.n - figures.bad) + decline * figures.bad)
                made[segment] = min(CEILING, max(0.0, made.get(segment, 0.0) + step))
    return made
