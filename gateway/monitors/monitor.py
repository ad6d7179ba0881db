"""Monitors: what is watched, how a merchant may tune it, and when a run of bad looks becomes an incident. Pure.

A look is one minute's judgement. What has too little to go by is judged neither bad nor good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

from gateway.monitors.segments import EVERYTHING, Segment
from gateway.rates import METRICS

Severity = Literal["page", "ticket"]
"""Whether somebody is to be woken, or it can wait for the morning."""


class Verdict(StrEnum):
    """What a look has come to."""

    BAD = "bad"
    GOOD = "good"
    UNCLEAR = "unclear"
    """Not bad enough to open an incident, and not good enough to close one."""
    UNJUDGED = "unjudged"
    """Too little to go by."""


# --- What is watched ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of first attempts that should not fall: ``good`` of ``good`` and ``bad``, which are groups of :data:`GROUPS`."""

    name: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    failing: str
    """What those do that are bad, after "of the attempts"."""
    slow: bool = False
    """Whether slow drifts of it are looked for as well."""


GROUPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "approved": "approved",
        "declined": "declined",
        "technical": "failed",
        "unknown": "failed",
        "blocked": "blocked",
        "authentication_failed": "unauthenticated",
    }
)
"""The classes of attempts as they are counted here. One that is ``pending`` for long counts as not authenticated: a shopper whose challenge
goes round in circles leaves nothing else behind. Canceled ones are in no rate."""

RATES: Final[Mapping[str, Rate]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Rate("authorization", ("approved",), ("declined",), "were declined", slow=True),
            Rate(
                "authentication", ("approved", "declined"), ("unauthenticated",), "did not get through authentication"
            ),
            Rate("technical", ("approved", "declined"), ("failed",), "failed technically or are unknown"),
            Rate("blocked", ("approved", "declined"), ("blocked",), "were blocked before the issuer was asked"),
        )
    }
)
"""The rates that are watched. Each is one against what an issuer has decided, so that one trouble shows in one of them and not in all."""


# --- How it may be tuned --------------------------------------------------------------------------------------------------

SAMPLE_MIN: Final = 20
"""Attempts in a window below which nothing is judged."""
LOOKS_MAX: Final = 120


class Untunable(Exception):
    """A setting that cannot be. ``param`` names it; the message says what may be set instead."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a monitor judges. Raises :class:`Untunable` where a value is out of its range.

    ``false_pages_per_day``: what it may page for nothing, over all its segments together; the chance below which a window alarms follows
    from it. ``drop``: how far the rate must be below what is expected, as a share (0.03 is three points). ``min_sample``: attempts in a
    window below which nothing is judged. ``open_after`` and ``close_after``: looks, one a minute, that must be bad or good in a row.
    ``severity``: the highest it may reach.
    """

    false_pages_per_day: float = 0.0005
    drop: float = 0.03
    min_sample: int = SAMPLE_MIN
    open_after: int = 2
    close_after: int = 10
    severity: Severity = "page"

    def __post_init__(self) -> None:
        _within("false_pages_per_day", self.false_pages_per_day, 1e-6, 1.0)
        _within("drop", self.drop, 0.01, 0.9)
        _within("min_sample", self.min_sample, SAMPLE_MIN, 100_000)
        _looks(self.open_after, self.close_after)
        if self.severity not in {"page", "ticket"}:
            raise Untunable("severity", "severity must be page or ticket.")


def _within(param: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise Untunable(param, f"{param} must be from {low:g} to {high:g}.")


def _looks(open_after: int, close_after: int) -> None:
    _within("open_after", open_after, 1, LOOKS_MAX)
    _within("close_after", close_after, 1, LOOKS_MAX)


Kind = Literal["drop", "traffic"]


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor that knows by itself what is usual. ``id`` is the caller's.

    ``drop`` watches ``rate``, a name of :data:`RATES`; ``traffic`` how many attempts there are, and ``rate`` is ``"traffic"``. With
    ``builtin`` every segment is watched, and what has one cause becomes one incident over all builtin monitors; without, ``segment`` alone.
    """

    id: str
    kind: Kind
    rate: str
    segment: Segment = EVERYTHING
    tuning: Tuning = Tuning()
    builtin: bool = False

    def __post_init__(self) -> None:
        if self.kind == "drop" and self.rate not in RATES:
            raise Untunable("rate", f"rate must be one of: {', '.join(RATES)}.")


TRAFFIC: Final = "traffic"
BUILTIN: Final = (
    Monitor("authorization_drop", "drop", "authorization", builtin=True),
    Monitor("authentication_drop", "drop", "authentication", builtin=True),
    Monitor("technical_errors", "drop", "technical", builtin=True),
    Monitor("blocked_share", "drop", "blocked", builtin=True),
    Monitor("no_traffic", "traffic", TRAFFIC, builtin=True),
)
"""What every merchant has without doing anything."""
OWN: Final = Tuning(false_pages_per_day=0.003)
"""The tuning of a monitor of one's own, where nothing else is said: it has one segment, and alarms at a chance of 1 in 100,000."""


# --- A threshold of one's own ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Static:
    """A published rate that must not be ``below``, or ``above``, ``threshold`` over the last ``window`` minutes.

    Raises :class:`Untunable` where a value is out of its range. ``threshold`` is a share (0.85 is 85 %).
    """

    metric: str
    op: Literal["below", "above"]
    threshold: float
    window: int = 15
    min_sample: int = 50
    open_after: int = 2
    close_after: int = 10

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise Untunable("metric", f"There is no such metric. There are: {', '.join(METRICS)}.")
        if self.op not in {"below", "above"}:
            raise Untunable("op", "op must be below or above.")
        _within("threshold", self.threshold, 0.0, 1.0)
        _within("window", self.window, 5, 1440)
        _within("min_sample", self.min_sample, 1, 1_000_000)
        _looks(self.open_after, self.close_after)


def judge(static: Static, hits: int, n: int) -> Verdict:
    """What a look at ``hits`` of ``n`` in the monitor's window comes to. Below its minimum sample nothing is judged."""
    if n < static.min_sample:
        return Verdict.UNJUDGED
    rate = hits / n
    crossed = rate < static.threshold if static.op == "below" else rate > static.threshold
    return Verdict.BAD if crossed else Verdict.GOOD


# --- Debounce -------------------------------------------------------------------------------------------------------------

SILENT_MAX: Final = 60
"""Looks without a judgement after which an incident is closed: nobody can say any more whether it goes on."""


@dataclass(frozen=True, slots=True)
class Run:
    """How the last looks went: ``bad`` and ``good`` ones in a row, and since when (in looks) nothing could be judged."""

    open: bool = False
    bad: int = 0
    good: int = 0
    unjudged: int = 0


Step = Literal["opened", "recovered", "no_data"]


def debounce(run: Run, verdict: Verdict, open_after: int, close_after: int) -> tuple[Run, Step | None]:
    """The run after one more look, and what it has changed.

    Opens after ``open_after`` bad looks in a row, and not again while it is open; closes after ``close_after`` good ones, or for want of
    data. An unclear look ends both rows. One without a judgement leaves them as they are.
    """
    if verdict is Verdict.UNJUDGED:
        silent = run.unjudged + 1
        if run.open and silent >= SILENT_MAX:
            return Run(), "no_data"
        return Run(run.open, run.bad, run.good, min(silent, SILENT_MAX)), None
    bad = min(run.bad + 1, LOOKS_MAX) if verdict is Verdict.BAD else 0
    good = min(run.good + 1, LOOKS_MAX) if verdict is Verdict.GOOD else 0
    if not run.open and bad >= open_after:
        return Run(open=True), "opened"
    if run.open and good >= close_after:
        return Run(), "recovered"
    return Run(run.open, bad, good), None
