"""Looking: what the worker does for the monitors. Once a minute each merchant's first attempts are judged, in each mode.

What is decided, ``gateway.monitors`` decides; here is what it is told and what becomes of its word. A look reads what all merchants had in
a few statements, and is written in one for each merchant (``gateway.monitor_books``): a worker that dies in the middle has written all
of a merchant's look or nothing, and the next one goes on from there. Nothing is judged that is not counted yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import msgspec
import structlog

from gateway.events import Event
from gateway.monitor_books import CLASS_OF, FirstAttempts, Found, Look, MonitorBooks, Stored, Watched
from gateway.monitor_definitions import (
    LATE,
    UNSOUND,
    all_of,
    at_minute,
    found_of,
    is_told,
    judged,
    severity_of,
    threshold,
    told,
)
from gateway.monitors import (
    RATES,
    Decision,
    Expected,
    Incident,
    Leaf,
    Loss,
    Overall,
    Past,
    Run,
    Seen,
    State,
    Static,
    Verdict,
    debounce,
    decide,
    expect,
    judge,
    needed_from,
    past_hours,
    with_codes,
)
from gateway.monitors.incident import money
from gateway.monitors.monitor import GROUPS, TRAFFIC
from gateway.monitors.segments import DIMENSIONS, holds
from gateway.rate_books import counted_to, measure
from gateway.rates import Asked, Cell
from gateway.sql import Pool, Row

HISTORY: Final = timedelta(days=28)
SETTLING: Final = timedelta(hours=2)
"""What is younger says nothing yet of what is usual: it may be what is judged."""
TOGETHER: Final = 50
"""Merchants and modes that are read in one statement: with all of them it would outlast its time, and what is read would all be held at once."""
BAD_WHEN_HIGH: Final = frozenset({"technical_error_rate", "unknown_rate"})
"""Published rates that cost money where they are high; the others where they are low."""

log = structlog.get_logger()

_leaf_of = itemgetter("account", "brand", "currency", "issuer_country")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is usual of a merchant in an hour, and the declines of four weeks by leaf, class and code."""

    hour: int
    expected: Expected
    codes: Mapping[tuple[Leaf, str, str], int]


class Monitoring:
    """Looks at every merchant in each mode. ``looking`` is the pool of :func:`gateway.sql.connect_to_look`."""

    def __init__(self, pool: Pool, looking: Pool, clock: Callable[[], datetime]) -> None:
        self._books, self._first, self._looking, self._clock = (
            MonitorBooks(pool),
            FirstAttempts(looking),
            looking,
            clock,
        )
        self._known: dict[int, _Known] = {}

    async def look(self) -> int:
        """Look once at all that was not looked at in this minute. Returns how many merchants, in each mode, were.

        May be called at any time and by several at once: a look is written once. One merchant's failure leaves the others theirs; the last
        one is raised at the end.
        """
        now, counted = self._clock(), await counted_to(self._looking)
        if not counted.complete or counted.as_of is None or now - counted.as_of > LATE:
            return 0  # what is missing would look like a drop; the monitors say that they wait
        until = int(min(now, counted.as_of).timestamp()) // 60
        due = [(each, _state(each)) for each in await self._books.watched()]
        due = [(each, state) for each, state in due if state.until < until]
        done, failed = 0, None
        due.sort(key=lambda one: one[1].until)
        for at in range(0, len(due), TOGETHER):
            if self._is_over(now):
                break  # the next run goes on with those that have waited longest
            looked, error = await self._look_at_all(due[at : at + TOGETHER], until, now)
            done, failed = done + looked, error or failed
        if failed is not None:
            raise failed
        return done

    def _is_over(self, began: datetime) -> bool:
        """Whether a look that began then has had its time: what it would judge is late by now."""
        return self._clock() - began > LATE

    async def _look_at_all(
        self, due: Sequence[tuple[Watched, State]], until: int, now: datetime
    ) -> tuple[int, Exception | None]:
        """Look at these. Where they cannot be read together, half of them at a time: it may be one that cannot be."""
        owners = [each.owner for each, _ in due]
        try:
            await self._learn(owners, until // 60, now)
            start = min(needed_from(state, until) for _, state in due)
            rows = await self._first.minutes(owners, at_minute(start), at_minute(until))
        except Exception as error:
            if len(due) == 1 or self._is_over(now):
                log.error("monitors_not_looked", merchant=due[0][0].merchant_id, error=type(error).__name__)
                return 0, error
            middle = len(due) // 2
            halves = [await self._look_at_all(half, until, now) for half in (due[:middle], due[middle:])]
            return sum(looked for looked, _ in halves), halves[1][1] or halves[0][1]
        seen = {owner: list(of) for owner, of in groupby(sorted(rows, key=_owner), key=_owner)}
        done, failed = 0, None
        for each, state in due:
            try:
                done += await self._look_at(each, state, seen.get(each.owner, []), until, now)
            except Exception as error:  # the others are looked at all the same
                log.error("monitors_not_looked", merchant=each.merchant_id, error=type(error).__name__)
                failed = error
        return done, failed

    async def _look_at(self, each: Watched, state: State, rows: Sequence[Row], until: int, now: datetime) -> bool:
        """Judge one merchant's monitors in one mode and write what came of it."""
        monitors = {
            one.id: one for one in all_of(each.monitors, each.merchant_id, livemode=each.livemode) if _is_sound(one)
        }
        known = self._known[each.owner]
        watching = [judged(one) for one in monitors.values() if one.kind != "static"]
        decision = await asyncio.to_thread(
            lambda: decide(until, watching, [_seen(row) for row in rows], known.expected, state)
        )
        statics = [
            await self._measure(one, _run(each.runs.get(one.id)), each, until, now)
            for one in monitors.values()
            if one.kind == "static"
        ]
        found = [
            *_found(each, decision, known, now),
            *_standing(statics),
            *_orphans(each, decision, statics, until, now),
        ]
        found, events = _told(each, found, decision.escalated, monitors, now)
        return await self._books.write(
            Look(
                watched=each,
                until=until,
                state=decision.state.to_json(),
                runs={one.monitor.id: one.kept() for one in statics},
                verdicts={**decision.verdicts, **{one.monitor.id: one.word for one in statics}},
                at=now,
                found=found,
                told=events,
            )
        )

    # --- what is usual ---

    async def _learn(self, owners: Sequence[int], hour: int, now: datetime) -> None:
        """Read what is usual in this hour, where it is not known yet."""
        new = [owner for owner in owners if owner not in self._known or self._known[owner].hour != hour]
        if not new:
            return
        past: dict[int, list[Past]] = {owner: [] for owner in new}
        for first, last in _stretches(past_hours(hour)):
            for row in await self._first.hours(new, at_minute(60 * first), at_minute(60 * (last + 1))):
                past[row["owner"]].append(
                    Past(row["step"], Leaf(*_leaf_of(row)), CLASS_OF[row["what"]], row["n"], row["amount"])
                )
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        overall: dict[int, list[tuple[Overall, str | None]]] = {owner: [] for owner in new}
        for row in await self._first.days(new, today - HISTORY, today):
            overall[row["owner"]].append((_overall(row, row["class"]), row["code"]))
        if today < now - SETTLING:
            for row in await self._first.hours(new, today, now - SETTLING):
                overall[row["owner"]].append((_overall(row, CLASS_OF[row["what"]]), row["code"]))
        for owner in new:
            rows = overall[owner]
            expected = await asyncio.to_thread(expect, hour, past[owner], [each for each, _ in rows])
            codes: dict[tuple[Leaf, str, str], int] = {}
            for each, code in rows:
                if code is not None:
                    codes[each.leaf, each.what, code] = codes.get((each.leaf, each.what, code), 0) + each.n
            self._known[owner] = _Known(hour, expected, codes)

    # --- thresholds ---

    async def _measure(self, monitor: Stored, run: _Run, each: Watched, until: int, now: datetime) -> _Static:
        """One look at a threshold."""
        static = threshold(monitor)
        asked = Asked(
            each.merchant_id,
            each.livemode,
            static.metric,
            at_minute(until - static.window),
            at_minute(until),
            filters={name: (value or "",) for name, value in monitor.settings["segment"].items()},
        )
        try:
            cells = (await measure(self._looking, asked)).cells
        except Exception as error:  # the merchant's other monitors are judged all the same
            log.error("monitor_not_judged", monitor=monitor.id, error=type(error).__name__)
            cells = ()
        cell = cells[0] if cells else Cell({}, None, 0, 0)
        verdict = judge(static, cell.hits, cell.n)
        after, step = debounce(run.run, verdict, static.open_after, static.close_after)
        opened = until if step == "opened" else run.opened if after.open or step is not None else None
        was = next((row for row in each.open if row.key == monitor.id), None)
        return _Static(monitor, static, cell, verdict, _Run(after, opened), step, until, was, now)


def _owner(row: Row) -> int:
    owner: int = row["owner"]
    return owner


def _state(each: Watched) -> State:
    """How far a merchant's monitors are. What another release has kept and cannot be read is begun anew: what was open is closed then."""
    try:
        state = State() if each.state is None else State.from_json(each.state)
        segments = [
            *(one.incident.segment for one in state.open),
            *(segment for segment, _ in state.sums),
            *(segment for _, segment, _ in state.runs),
        ]
        rates = {one.incident.rate for one in state.open}
        if {name for segment in segments for name, _ in segment} <= {*DIMENSIONS} and rates <= {*RATES, TRAFFIC}:
            return state
    except msgspec.ValidationError:
        pass
    log.error("monitors_begun_anew", merchant=each.merchant_id)
    return State()


def _seen(row: Row) -> Seen:
    return Seen(row["step"], Leaf(*_leaf_of(row)), CLASS_OF[row["what"]], row["code"], row["n"], row["amount"])


def _overall(row: Row, what: str) -> Overall:
    return Overall(Leaf(*_leaf_of(row)), what, row["n"], row["amount"])


def _stretches(hours: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of hours that follow each other."""
    for _, run in groupby(enumerate(sorted(hours)), key=lambda each: each[1] - each[0]):
        follow = [hour for _, hour in run]
        yield follow[0], follow[-1]


def _is_sound(monitor: Stored) -> bool:
    """Whether a monitor can be judged: one that another release has stored may have become impossible. The others are judged all the same."""
    try:
        threshold(monitor) if monitor.kind == "static" else judged(monitor)
    except UNSOUND as error:
        log.error("monitor_not_judged", monitor=monitor.id, error=type(error).__name__)
        return False
    return True


# --- What a look comes to -----------------------------------------------------------------------------------------------


def _found(each: Watched, decision: Decision, known: _Known, now: datetime) -> Iterator[Found]:
    """The incidents of a decision, as they are stored. What is closed and not open here was closed with its monitor."""
    rows = {row.key: row for row in each.open}
    closed = (incident for incident in decision.closed if incident.key in rows)
    for incident in (*decision.opened, *decision.changed, *closed):
        yield found_of(
            _before(incident, known),
            rows.get(incident.key),
            each.merchant_id,
            now,
            livemode=each.livemode,
            summary=incident.summary,
        )


def _orphans(
    each: Watched, decision: Decision, statics: Sequence[_Static], until: int, now: datetime
) -> Iterator[Found]:
    """What is open and nobody looks at any more: its monitor was deleted during a look, or cannot be judged, or the state was begun anew."""
    known = {
        *(one.incident.key for one in decision.state.open),
        *(incident.key for incident in decision.closed),
        *(one.monitor.id for one in statics if one.run.run.open or one.step is not None),
    }
    for row in each.open:
        if row.key not in known:
            yield replace(row, closed_at=at_minute(until), closed_reason="gone", updated_at=now)


def _before(incident: Incident, known: _Known) -> Incident:
    """The incident with the share that each decline code had in its segment over four weeks."""
    if incident.rate not in RATES or not incident.codes:
        return incident
    before: dict[str, int] = {}
    for (leaf, what, code), n in known.codes.items():
        if GROUPS.get(what) in RATES[incident.rate].bad and holds(incident.segment, leaf):
            before[code] = before.get(code, 0) + n
    return with_codes(incident, before)


def _told(
    each: Watched, found: Sequence[Found], escalated: frozenset[str], monitors: Mapping[str, Stored], now: datetime
) -> tuple[list[Found], list[Event]]:
    """What is written of incidents and what is told of them. One that was muted is told of once it is not any more and still open."""
    changed = {row.id: row for row in found}
    rows, events = [], []
    for row in (*changed.values(), *(row for row in each.open if row.id not in changed)):
        if row.closed_at is not None:
            if row.told_at is not None:
                events.append(told("closed", row, now))
        elif row.told_at is None and is_told(row, monitors, now):
            row = replace(row, told_at=now, updated_at=now)  # noqa: PLW2901  # the same incident from here on
            events.append(told("opened", row, now))
        elif row.told_at is not None and row.key in escalated:
            events.append(told("escalated", row, now))
        elif row.id not in changed:
            continue
        rows.append(row)
    return rows, events


# --- Thresholds ----------------------------------------------------------------------------------------------------------


_FRESH: Final = Run()
_RUN: Final = tuple(Run.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class _Run:
    """How the last looks at a threshold went, and in which minute its incident was opened."""

    run: Run = _FRESH
    opened: int | None = None


def _run(kept: Mapping[str, Any] | None) -> _Run:
    """The run as :meth:`_Static.kept` has kept it."""
    try:
        return _Run() if kept is None else _Run(Run(**{name: kept[name] for name in _RUN}), kept["opened"])
    except (KeyError, TypeError):  # another release has kept it in another form
        return _Run()


@dataclass(frozen=True, slots=True)
class _Static:
    """One look at a threshold, and what has come of it."""

    monitor: Stored
    static: Static
    cell: Cell
    verdict: Verdict
    run: _Run
    step: str | None
    until: int
    was: Found | None
    now: datetime

    @property
    def word(self) -> str:
        """How the monitor stands."""
        if self.run.run.open:
            return "alerting"
        return "too_little" if self.verdict is Verdict.UNJUDGED else "ok"

    def kept(self) -> dict[str, Any]:
        """The run as it is kept."""
        return {**asdict(self.run.run), "opened": self.run.opened if self.run.run.open else None}

    def found(self) -> Found | None:
        """Its incident as it is stored, where it is new, or has changed by this look."""
        if self.step in {"recovered", "no_data"}:
            if self.was is None:
                return None
            return replace(self.was, closed_at=at_minute(self.until), closed_reason=self.step, updated_at=self.now)
        if not self.run.run.open or self.verdict is not Verdict.BAD:
            return None
        monitor, static, cell, losses = self.monitor, self.static, self.cell, self._losses()
        incident = Incident(
            key=monitor.id,
            monitor=monitor.id,
            rate=static.metric,
            segment=tuple(monitor.settings["segment"].items()),
            severity=severity_of(monitor),
            detector="static",
            opened=self.run.opened or self.until,
            looked=self.until,
            since=self.until - static.window,
            minutes=static.window,
            expected_rate=static.threshold,
            seen_rate=cell.hits / cell.n,
            n=cell.n,
            expected_n=cell.n,
            lost=self._beyond(cell.hits, cell.n) if self._costs else 0,
            loss_per_hour=tuple(losses),
        )
        found = found_of(
            incident,
            self.was,
            monitor.merchant_id,
            self.now,
            livemode=monitor.livemode,
            summary=self._summary(incident),
        )
        return found if self.was is None else replace(found, severity=self.was.severity)

    @property
    def _costs(self) -> bool:
        """Whether it is on the side of its threshold that costs money."""
        return (self.static.op == "above") == (self.static.metric in BAD_WHEN_HIGH)

    def _beyond(self, hits: int, n: int) -> float:
        """How much is beyond the threshold, of ``hits`` in ``n``."""
        over = hits - self.static.threshold * n
        return max(0.0, over if self.static.op == "above" else -over)

    def _losses(self) -> list[Loss]:
        """What is beyond the threshold, by the hour and in money."""
        if not self._costs:
            return []
        found = [
            Loss(each.currency, round(self._beyond(each.hits, each.n) * 60 / self.static.window))
            for each in self.cell.amounts
        ]
        return [each for each in found if each.amount]

    def _summary(self, incident: Incident) -> str:
        lost = ", ".join(money(each) for each in incident.loss_per_hour)
        return (
            f"{self.monitor.name}: {incident.rate} is {100 * incident.seen_rate:.1f} % of {incident.n} in {incident.minutes} minutes, "
            f"{self.static.op} the threshold of {100 * incident.expected_rate:.1f} %{f'; beyond it {lost} an hour' if lost else ''}."
        )


def _standing(statics: Sequence[_Static]) -> Iterator[Found]:
    for each in statics:
        found = each.found()
        if found is not None:
            yield found
