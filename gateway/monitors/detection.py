"""The decision of the monitors: one look a minute at one merchant's first attempts in one mode. Pure: no IO, no clock.

A look asks of every watched segment, for each monitor:

* **window**: is so bad a quarter of an hour, against what is usual at this hour of the week, less likely than the monitor may be wrong,
  and worse by three points at least? This pages.
* **slow_window**: were two windows in a row each less likely than 1 in 1,000? A ticket.
* **cusum** (authorization alone; everything, and each account, brand, currency and issuer country): has the sum that looks for a fall by five points
  grown beyond its threshold? A ticket, and a page where it grows further. It counts minutes that are five minutes old, each once.
* **traffic**: is there less than a fifth of the usual attempts, and so few that half of them would not explain it? This pages. Not of
  accounts: routing moves those.

What is bad is then traced to its cause: the smallest segment that the loss lies in, with nothing left to explain around it. One cause is one
incident, over all builtin monitors, and while it is open what lies in its segment explains no other.

**How often it is wrong.** Looks at windows that overlap are alike: 96 windows a day are worth about 288 looks. A monitor may page for
nothing ``false_pages_per_day`` times a day, half of that for everything and the accounts together, half for all smaller segments
together, so each alarms below ``false_pages_per_day / 2 / 288 / segments``. With the four builtin rates at 0.0005 that is 0.002 pages a day,
or one in 500 days for a merchant however many segments it has, as far as a payment's fate is independent of the others'. The day-to-day
movement of rates is allowed for by never trusting one to more than 2,000 attempts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec

from gateway.monitors import slow
from gateway.monitors.causes import Finding, Retest, causes
from gateway.monitors.chances import chance_of_so_few, chance_of_so_many, deviations
from gateway.monitors.expecting import WINDOW, WORTH, Expected
from gateway.monitors.incident import CODES_MAX, Detector, Incident
from gateway.monitors.monitor import RATES, TRAFFIC, Monitor, Run, Severity, Verdict, debounce
from gateway.monitors.segments import SHOPPERS, WIDE, Segment, crossing, nested, shape, within
from gateway.monitors.windows import NUMBER, SHORT, Figures, Seen, Window, codes, counted

LOOKS_A_DAY: Final = 288
"""How many independent looks a day's overlapping windows are worth."""
SLOW: Final = 1e-3
"""The chance below which two windows in a row are a ticket."""
NEAR: Final = 2.5
"""Standard deviations below which nothing can be so unlikely."""
MISSING: Final = 0.2
"""The share of the usual attempts below which traffic is missing."""
MISSING_CHANCE: Final = 1e-6
"""How unlikely so few attempts must be, even if only half of the usual ones were on their way."""
RECENT: Final = 30
"""Minutes in which an incident may still turn out to be a part, or the whole, of what it was taken for."""
SAME_CAUSE: Final = 15
"""Minutes within which another monitor's alarm in the same segment is taken for the same cause."""


# --- What is kept between looks -------------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True):
    """An open incident, how its last looks went, and the largest drop it had."""

    incident: Incident
    run: Run
    worst: float


class State(msgspec.Struct, frozen=True):
    """What is kept between looks. ``until`` is the minute of the last one, ``settled`` the first minute that no sum has counted."""

    until: int = 0
    settled: int = 0
    sums: tuple[tuple[Segment, float], ...] = ()
    runs: tuple[tuple[str, Segment, int], ...] = ()
    open: tuple[Open, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is kept. :meth:`from_json` reads it."""
        kept: dict[str, Any] = msgspec.to_builtins(self)
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> State:
        """What :meth:`to_json` has made. Raises ``msgspec.ValidationError`` for anything else."""
        return msgspec.convert(kept, cls)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a look has come to: the state to keep, and what to write and tell.

    ``changed`` are incidents that stay open, with the figures of this look; ``escalated`` the keys of those among them that were tickets and
    are pages now. ``verdicts`` says of each monitor ``ok``, ``alerting`` or ``too_little``; it is empty where no look was made.
    """

    state: State
    opened: tuple[Incident, ...] = ()
    changed: tuple[Incident, ...] = ()
    closed: tuple[Incident, ...] = ()
    escalated: frozenset[str] = frozenset()
    verdicts: Mapping[str, str] = field(default_factory=dict)


def needed_from(state: State, until: int) -> int:
    """The first minute that a look at ``until`` has to be told of."""
    windows = until - 2 * WINDOW
    return min(windows, max(state.settled, until - slow.BEHIND_MAX)) if state.settled else windows


def decide(until: int, monitors: Sequence[Monitor], seen: Iterable[Seen], expected: Expected, state: State) -> Decision:
    """Look at the minutes before ``until`` (unix seconds // 60), which must be over and counted.

    ``seen`` are the first attempts from :func:`needed_from` on, as they are known now; rows of before or after are passed over. ``expected``
    is what is usual in the hour of ``until``. Called again for the same minute, or an earlier one, it changes nothing.
    """
    if until <= state.until:
        return Decision(state)
    return _Look(until, monitors, list(seen), expected, state).decision()


# --- One look -------------------------------------------------------------------------------------------------------------


class _Judged(NamedTuple):
    """A rate's figures in a window, and how unlikely they are."""

    figures: Figures
    chance: float


class _Look:
    """All that one look knows, and what it has decided so far."""

    def __init__(
        self, until: int, monitors: Sequence[Monitor], seen: list[Seen], expected: Expected, state: State
    ) -> None:
        self.until, self.monitors, self.seen, self.expected, self.state = until, monitors, seen, expected, state
        self.open = {each.incident.key: each for each in state.open}
        self.past_runs = {(monitor, segment): n for monitor, segment, n in state.runs}
        self.runs: dict[tuple[str, Segment], int] = {}
        self.opened: set[str] = set()
        self.changed: set[str] = set()
        self.escalated: set[str] = set()
        self.wide = max(1, sum(shape(each) in WIDE for each in expected.watched))
        self.sums = self._grown()

    def _window(self, minutes: int, *, ended: int = 0, wide: bool = False) -> Window:
        since, until = self.until - ended - minutes, self.until - ended
        return Window(since, until, counted(self.seen, since, until, self.until), self.expected, wide=wide)

    @cached_property
    def now(self) -> Window:
        return self._window(WINDOW)

    @cached_property
    def before(self) -> Window:
        return self._window(WINDOW, ended=WINDOW)

    @cached_property
    def both(self) -> Window:
        return self._window(2 * WINDOW)

    @cached_property
    def short(self) -> Window:
        return self._window(SHORT, wide=True)

    def decision(self) -> Decision:
        """Look at what is open, then for what is new."""
        closed = self._look_at_open()
        for monitor in self.monitors:
            awaited = self._take(monitor, "page", ())
            self._take(monitor, "ticket", awaited)
        runs = {**{key: n for key, n in self.past_runs.items() if self._too_little(*key)}, **self.runs}
        state = State(
            until=self.until,
            settled=self.until - slow.SETTLED,
            sums=tuple((segment, total) for segment, total in self.sums.items() if total > 0),
            runs=tuple((monitor, segment, n) for (monitor, segment), n in runs.items()),
            open=tuple(self.open.values()),
        )
        incidents = {key: each.incident for key, each in self.open.items()}
        return Decision(
            state,
            opened=tuple(incidents[key] for key in incidents if key in self.opened),
            changed=tuple(incidents[key] for key in incidents if key in self.changed - self.opened),
            closed=closed,
            escalated=frozenset(self.escalated - self.opened),
            verdicts={each.id: self._verdict(each) for each in self.monitors},
        )

    def _too_little(self, monitor_id: str, segment: Segment) -> bool:
        """Whether there is too little to go on with a run of bad looks, or to end it."""
        monitor = self._monitor(monitor_id)
        return monitor is not None and monitor.kind == "drop" and self._judge(monitor, segment) is None

    def _monitor(self, monitor_id: str) -> Monitor | None:
        return next((each for each in self.monitors if each.id == monitor_id), None)

    def _verdict(self, monitor: Monitor) -> str:
        if any(monitor.id in _monitors(each.incident) for each in self.open.values()):
            return "alerting"
        if monitor.kind == "traffic":
            judged = self.now.usual_traffic(monitor.segment) >= WORTH
        else:
            judged = self._judge(monitor, monitor.segment) is not None
        return "ok" if judged else "too_little"

    # --- Judging a segment -----------------------------------------------------------------------------------------------

    def _alpha(self, monitor: Monitor, segment: Segment) -> float:
        """The chance below which a window of the segment pages."""
        a_look = monitor.tuning.false_pages_per_day / LOOKS_A_DAY
        narrow = len(self.expected.watched) - self.wide
        if not monitor.builtin:
            return a_look
        if not narrow:
            return a_look / self.wide
        return a_look / 2 / (self.wide if shape(segment) in WIDE else narrow)

    def _judge(
        self, monitor: Monitor, segment: Segment, covered: Sequence[Segment] = (), window: Window | None = None
    ) -> _Judged | None:
        """The figures of a rate, and their chance. ``None`` below the minimum sample, or without history."""
        figures = (window or self.now).figures(segment, NUMBER[monitor.rate], covered)
        if figures is None or figures.n < monitor.tuning.min_sample:
            return None
        share = 1 - figures.usual
        near = deviations(figures.bad, figures.n, share, figures.known) < NEAR
        return _Judged(figures, 1.0 if near else chance_of_so_many(figures.bad, figures.n, share, figures.known))

    def _bad(
        self, monitor: Monitor, segment: Segment, covered: Sequence[Segment], severity: Severity
    ) -> Finding | None:
        """What is bad of a segment less ``covered``, and worth a page, or at least a ticket."""
        if monitor.kind == "traffic":
            return self._missing(segment, covered) if severity == monitor.tuning.severity else None
        judged = self._judge(monitor, segment, covered)
        if judged is None or judged.figures.drop <= monitor.tuning.drop:
            return None
        found = Finding(segment, "window", judged.figures.n, judged.figures.drop * judged.figures.n)
        if judged.chance < self._alpha(monitor, segment):
            return found if severity == monitor.tuning.severity else None
        if severity == "page" or judged.chance >= SLOW:
            return None
        earlier = self._judge(monitor, segment, covered, self.before)
        if earlier is None or earlier.chance >= SLOW or earlier.figures.drop <= monitor.tuning.drop:
            return None
        return found._replace(detector="slow_window")

    def _missing(self, segment: Segment, covered: Sequence[Segment]) -> Finding | None:
        """Missing traffic in a segment less ``covered``."""
        window = self._traffic_window(segment, covered)
        if window is None:
            return None
        n, usual = window.traffic(segment, covered)
        few = n < MISSING * usual and chance_of_so_few(n, usual / 2) < MISSING_CHANCE
        return Finding(segment, "traffic", usual, usual - n) if few else None

    def _traffic_window(self, segment: Segment, covered: Sequence[Segment] = ()) -> Window | None:
        """The shortest window in which enough is usual; ``None`` where that is none."""
        windows = (self.short, self.now)
        return next((each for each in windows if each.usual_traffic(segment, covered) >= WORTH), None)

    def _drifted(self, monitor: Monitor, segment: Segment, severity: Severity) -> Finding | None:
        """A segment whose sum has grown beyond what is worth a page, or at least a ticket."""
        total = self.sums.get(segment, 0.0)
        reached: Severity = "page" if total >= slow.PAGE and monitor.tuning.severity == "page" else "ticket"
        if total < slow.TICKET or reached != severity:
            return None
        judged = self._judge(monitor, segment, window=self.both)
        if judged is None:
            return None
        # the last half an hour may be better than the hours that the sum was made of
        return Finding(segment, "cusum", judged.figures.n, max(0.0, judged.figures.drop * judged.figures.n))

    # --- Looking for what is new -----------------------------------------------------------------------------------------

    def _take(self, monitor: Monitor, severity: Severity, awaited: Sequence[Segment]) -> list[Segment]:
        """Open, or widen, an incident for each cause of what is bad. Returns the segments whose run is too short yet."""
        own = [each for each in self.open.values() if monitor.id in _monitors(each.incident)]
        movable = [each for each in own if self._movable(each.incident, monitor, severity)]
        covered = [*awaited, *(each.incident.segment for each in own if each not in movable)]
        findings = self._findings(monitor, severity, covered)
        for segment in findings:
            key = monitor.id, segment
            self.runs[key] = self.past_runs.get(key, 0) + 1

        def retest(finding: Finding, explained: Sequence[Segment]) -> Finding | None:
            if finding.detector == "cusum":  # no sum without them is kept
                return None if any(crossing(finding.segment, each) for each in explained) else finding
            return self._bad(monitor, finding.segment, [*covered, *explained], severity)

        waiting = []
        for cause in self._matched(severity, [each.incident.key for each in movable], causes(findings, retest), retest):
            run = max(self.runs[monitor.id, each] for each in findings if nested(each, cause.segment))
            if run >= monitor.tuning.open_after:
                self._open(monitor, severity, cause)
            else:
                waiting.append(cause.segment)
        return waiting

    def _findings(self, monitor: Monitor, severity: Severity, covered: Sequence[Segment]) -> dict[Segment, Finding]:
        """Every segment that is bad enough."""
        if not monitor.builtin:
            found = [self._bad(monitor, monitor.segment, covered, severity)]
        elif monitor.kind == "traffic":
            shoppers = (each for each in self.expected.watched if shape(each) in SHOPPERS)
            found = [self._missing(each, covered) for each in shoppers] if severity == monitor.tuning.severity else []
        else:
            suspects = self.now.suspects(NUMBER[monitor.rate], monitor.tuning.drop, covered)
            found = [self._bad(monitor, each, covered, severity) for each in suspects]
        findings = {each.segment: each for each in found if each is not None}
        if monitor.builtin and monitor.kind == "drop" and RATES[monitor.rate].slow:
            for segment in self.sums:
                if segment not in findings and not any(within(segment, each) for each in covered):
                    drifted = self._drifted(monitor, segment, severity)
                    if drifted is not None:
                        findings[segment] = drifted
        return findings

    def _movable(self, incident: Incident, monitor: Monitor, severity: Severity) -> bool:
        """Whether it is still open what the incident's segment is, or a ticket may become a page."""
        if incident.monitor != monitor.id:
            return False
        recent = self.until - incident.opened < RECENT
        return (
            incident.severity == "ticket"
            if severity == "page" and not recent
            else recent and (severity == "page" or incident.severity == "ticket")
        )

    def _matched(
        self, severity: Severity, movable: Iterable[str], found: list[Finding], retest: Retest
    ) -> list[Finding]:
        """The causes that no open incident stands for. One that does gets the segment of its cause, as it is seen now."""
        for key in movable:
            cause, segment = self._cause_of(self.open[key].incident, found, retest)
            if cause is not None:
                self._move(key, cause._replace(segment=segment), severity)
            found = [each for each in found if each is not cause and not within(each.segment, segment)]
        return found

    def _cause_of(self, incident: Incident, found: Sequence[Finding], retest: Retest) -> tuple[Finding | None, Segment]:
        """The cause that an incident is one of, and the segment it has by that: wider only where what is around it is bad as well."""
        own, recent = incident.segment, self.until - incident.opened < RECENT
        around = next((each for each in found if within(own, each.segment) and (recent or each.segment == own)), None)
        if around is not None:
            alone = around.detector != "cusum" and retest(around, [own]) is None
            return around, own if alone else around.segment
        inside = [each for each in found if within(each.segment, own)]
        across = [] if inside or not recent else [each for each in found if crossing(each.segment, own)]
        one = inside or across
        return (one[0], one[0].segment) if len(one) == 1 else (None, own)

    def _move(self, key: str, cause: Finding, severity: Severity) -> None:
        """Let the incident be one of ``cause``."""
        kept = self.open[key]
        raised = self._raised(kept.incident, severity)
        if raised.severity == kept.incident.severity and kept.incident.segment == cause.segment:
            return
        moved = msgspec.structs.replace(raised, segment=cause.segment)
        self._set(Open(self._told(moved, cause.detector), kept.run, kept.worst))
        self._forget(self.open[key].incident)

    def _raised(self, incident: Incident, severity: Severity) -> Incident:
        """The incident, as a page where it was a ticket and ``severity`` is one."""
        if severity == "ticket" or incident.severity == "page":
            return incident
        self.escalated.add(incident.key)
        return msgspec.structs.replace(incident, severity="page")

    def _open(self, monitor: Monitor, severity: Severity, cause: Finding) -> None:
        """Open an incident, unless another monitor has just opened one of the same cause."""
        for each in self.open.values():
            same = monitor.builtin and self._is_builtin(each.incident) and nested(each.incident.segment, cause.segment)
            if same and self.until - each.incident.opened <= SAME_CAUSE:
                wider = cause.segment if within(each.incident.segment, cause.segment) else each.incident.segment
                incident = msgspec.structs.replace(
                    self._raised(each.incident, severity),
                    also=tuple(dict.fromkeys((*each.incident.also, monitor.id))),
                    segment=wider,
                )
                self._set(Open(self._told(incident, each.incident.detector), each.run, each.worst))
                return
        key = f"{monitor.id}@{self.until}#{sum(each.startswith(f'{monitor.id}@{self.until}#') for each in self.opened)}"
        blank = Incident(
            key=key,
            monitor=monitor.id,
            rate=monitor.rate,
            segment=cause.segment,
            severity=severity,
            detector=cause.detector,
            opened=self.until,
            looked=self.until,
            since=self.until,
            minutes=WINDOW,
            expected_rate=0.0,
            seen_rate=0.0,
            n=0,
            expected_n=0.0,
            lost=0.0,
        )
        self._set(Open(self._told(blank, cause.detector), Run(open=True), 0.0))
        self.opened.add(key)
        self._forget(self.open[key].incident)

    def _is_builtin(self, incident: Incident) -> bool:
        monitor = self._monitor(incident.monitor)
        return monitor is not None and monitor.builtin

    def _set(self, kept: Open) -> None:
        incident = kept.incident
        worst = max(kept.worst, incident.expected_rate - incident.seen_rate)
        self.open[incident.key] = Open(incident, kept.run, worst)
        self.changed.add(incident.key)

    def _forget(self, incident: Incident) -> None:
        """Begin the sums anew that a page explains; the one that has found it goes on, and says when it is over.

        What lies across has grown by it as well, for as long as it took to find. A ticket changes no sum: it may yet become a page.
        """
        if incident.severity == "ticket":
            return
        for segment, total in self.sums.items():
            if within(segment, incident.segment):
                if incident.detector != "cusum" or segment != incident.segment:
                    self.sums[segment] = 0.0
            elif crossing(segment, incident.segment):
                self.sums[segment] = min(total, slow.TICKET / 2)

    # --- Looking at what is open -----------------------------------------------------------------------------------------

    def _look_at_open(self) -> tuple[Incident, ...]:
        """Judge each open incident by all monitors that see it. Returns those that are closed now."""
        closed = []
        for key, kept in list(self.open.items()):
            monitors = [each for each in self.monitors if each.id in _monitors(kept.incident)]
            verdict = _together([self._look_again(each, kept) for each in monitors])
            close_after = max((each.tuning.close_after for each in monitors), default=1)
            run, step = debounce(kept.run, verdict, 1, close_after)
            if step is None and monitors:
                self.open[key] = Open(kept.incident, run, kept.worst)
                if verdict is Verdict.BAD:
                    self._set(Open(self._told(kept.incident, kept.incident.detector), run, kept.worst))
                continue
            del self.open[key]
            reason = step if step in {"recovered", "no_data"} else "gone"
            closed.append(msgspec.structs.replace(kept.incident, closed=self.until, closed_reason=reason))
        return tuple(closed)

    def _look_again(self, monitor: Monitor, kept: Open) -> Verdict:
        """Whether an open incident goes on, as one of its monitors sees it."""
        segment = kept.incident.segment
        if monitor.kind == "traffic":
            window = self._traffic_window(segment)
            if window is None:
                return Verdict.UNJUDGED
            n, usual = window.traffic(segment)
            return Verdict.BAD if self._missing(segment, ()) else Verdict.GOOD if n >= usual / 2 else Verdict.UNCLEAR
        drifted = kept.incident.detector == "cusum" and monitor.id == kept.incident.monitor
        judged = self._judge(monitor, segment, window=self.both if drifted else None)
        if judged is None:
            return Verdict.UNJUDGED
        half = judged.figures.drop < max(kept.worst, monitor.tuning.drop) / 2
        if drifted:
            total = self.sums.get(segment, 0.0)
            return (
                Verdict.BAD
                if total >= slow.TICKET
                else Verdict.GOOD
                if half and total < slow.TICKET / 2
                else Verdict.UNCLEAR
            )
        worse = judged.figures.drop > monitor.tuning.drop
        if worse and (judged.chance < self._alpha(monitor, segment) or (judged.chance < SLOW and not half)):
            return Verdict.BAD
        return Verdict.GOOD if half and judged.chance >= SLOW else Verdict.UNCLEAR

    def _told(self, incident: Incident, detector: Detector) -> Incident:
        """The incident with the figures of this look."""
        segment, missing = incident.segment, incident.rate == TRAFFIC
        window = (
            (self._traffic_window(segment) or self.now) if missing else self.both if detector == "cusum" else self.now
        )
        rate = None if missing else NUMBER[incident.rate]
        figures = None if rate is None else window.figures(segment, rate)
        lost = window.lost(segment, rate)
        n, usual = window.traffic(segment)
        return msgspec.structs.replace(
            incident,
            detector=detector,
            looked=self.until,
            since=window.since,
            minutes=window.minutes,
            expected_rate=1.0 if figures is None else figures.usual,
            seen_rate=1.0 if figures is None else figures.seen,
            n=n if figures is None else figures.n,
            expected_n=usual,
            lost=lost.approvals,
            loss_per_hour=lost.per_hour(),
            codes=()
            if rate is None
            else codes(self.seen, RATES[incident.rate], segment, window.since, window.until, CODES_MAX),
            child=lost.child(),
        )

    # --- Slow drifts -----------------------------------------------------------------------------------------------------

    def _grown(self) -> dict[Segment, float]:
        """The sums after the minutes that have settled since the last look."""
        watching = [each.id for each in self.monitors if each.builtin and each.kind == "drop" and RATES[each.rate].slow]
        if not watching or not self.state.settled:
            return dict(self.state.sums)
        pages = (each.incident for each in self.open.values() if each.incident.severity == "page")
        known = [each for each in pages if set(watching) & set(_monitors(each))]
        covered: dict[Segment, Collection[Segment]] = {
            segment: [each.segment for each in known if not (each.detector == "cusum" and each.segment == segment)]
            for segment in self.expected.watched[: self.expected.wide]
        }
        since, until = max(self.state.settled, self.until - slow.BEHIND_MAX), self.until - slow.SETTLED
        return slow.grown(dict(self.state.sums), self.seen, since, until, self.expected, covered)


def _monitors(incident: Incident) -> tuple[str, ...]:
    """Every monitor that sees it."""
    return (incident.monitor, *incident.also)


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """What several monitors see together: it goes on while one sees it go on, and is over where one sees that and none the contrary."""
    return next((each for each in (Verdict.BAD, Verdict.UNCLEAR, Verdict.GOOD) if each in verdicts), Verdict.UNJUDGED)
