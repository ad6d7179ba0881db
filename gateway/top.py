"""``gateway top``: how it goes, for whoever was called and has a shell on the host: rates, breakers, unknown outcomes, queues, the worker.

It looks at the database alone, by a connection that can only read, so it needs no API process to be well. A look is a dozen short
statements, and is given up after :data:`LOOK_S`; a database that is away is said to be, and asked again. Rates are those of
``gateway.rate_books``, breakers those of the worker's last snapshot, at most a minute old: the processes themselves know sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import asyncpg  # it ships no types
import orjson
from prometheus_client import CollectorRegistry
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.backlog import COUNTED_MAX, UNKNOWN, WAITING
from gateway.evidence import saved, uses_of
from gateway.in_force import InForce
from gateway.metrics.instruments import Instruments
from gateway.metrics.work import SEVERITIES
from gateway.policies import WORKER_LOST_S
from gateway.rate_books import counted_to, measure
from gateway.rates import TOO_FEW, Asked, Cell
from gateway.read_only import LOST, Unreachable, read_only
from gateway.settings import load_database_url
from gateway.sql import InDoubt, Pool, Row, prepare

LOOK_S: Final = 15.0
OWNERS_MAX: Final = 20
"""Merchants and modes that are shown; more are for the console, or for ``--merchant``."""
WINDOWS: Final[Mapping[str, timedelta]] = {
    "5m": timedelta(minutes=5),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
}
RATES: Final[Mapping[str, str]] = {"first": "first_attempt_rate", "final": "payment_authorization_rate"}
"""The rates that are shown, by the words over their columns."""
BREAKERS: Final = ("closed", "probing", "open")
"""A breaker's words, the worst last."""

_OWNERS: Final = """SELECT merchant_id, livemode FROM rate_owner WHERE ($1::text IS NULL OR merchant_id = $1) AND (livemode OR NOT $2::bool)
    ORDER BY livemode DESC, merchant_id LIMIT $3::int"""
_WORKER: Final = "SELECT extract(epoch FROM now() - max(last_heartbeat))::float8 AS silent_s FROM procrastinate.procrastinate_workers"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be shown. ``merchant`` leaves the others out, ``live`` the payments of test mode."""

    merchant: str | None = None
    live: bool = False
    interval_s: float = 2.0
    once: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of ``n`` payments; ``None`` where there were none."""

    rate: float | None = None
    n: int = 0

    @property
    def shown(self) -> str:
        """As it stands in the table, with how many payments it rests on."""
        return "-" if self.rate is None else f"{100 * self.rate:.1f} % of {self.n:,}"


@dataclass(slots=True)
class Line:
    """One account. ``rates`` by rate and window; ``breaker`` is ``None`` where no strategy in force ranks the account."""

    merchant: str
    livemode: bool
    account: str
    rates: dict[str, dict[str, Rate]] = field(
        default_factory=lambda: {name: dict.fromkeys(WINDOWS, Rate()) for name in RATES}
    )
    breaker: str | None = None
    unknown: int = 0
    unknown_oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. ``unknown`` are all outcomes that nobody knows, whoever's; ``waiting`` is what is due by queue.

    ``worker_silent_s`` is ``None`` where no worker was ever there.
    """

    at: datetime
    lines: tuple[Line, ...]
    unknown: int
    unknown_oldest_s: float
    waiting: Mapping[str, int]
    inbound_s: float
    outbound_s: float
    incidents: int
    monitor_incidents: Mapping[str, int]
    worker_silent_s: float | None
    counted_to: datetime | None

    @property
    def worker_lost(self) -> bool:
        """Whether nobody settles what is open."""
        return self.worker_silent_s is None or self.worker_silent_s > WORKER_LOST_S

    def record(self) -> dict[str, Any]:
        """The same as JSON values."""
        lines = [
            {
                **asdict(each),
                "rates": {
                    name: {window: asdict(rate) for window, rate in by.items()} for name, by in each.rates.items()
                },
            }
            for each in self.lines
        ]
        return {
            "at": self.at.isoformat(),
            "accounts": lines,
            "unknown": self.unknown,
            "unknown_oldest_s": self.unknown_oldest_s,
            "waiting": dict(self.waiting),
            "inbound_overdue_s": self.inbound_s,
            "outbound_overdue_s": self.outbound_s,
            "incidents_open": self.incidents,
            "monitor_incidents_open": dict(self.monitor_incidents),
            "worker_silent_s": self.worker_silent_s,
            "worker_lost": self.worker_lost,
            "rates_counted_to": None if self.counted_to is None else self.counted_to.isoformat(),
        }


# --- Looking ----------------------------------------------------------------------------------------------------------


class Reading(Pool):
    """One connection that can only read, as the books ask for it."""

    def __init__(self, connection: Any) -> None:
        self._connection_ = connection

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """The rows of one statement, in a transaction of its own. Raises :class:`InDoubt` where the database cannot be read."""
        try:
            rows: list[Row] = await self._connection_.fetch(query, *args)
        except LOST as error:
            raise InDoubt(type(error).__name__) from error
        return rows


async def look(db: Pool, wanted: Wanted, now: datetime) -> Seen:
    """Look once. Reads only."""
    owners = [
        (row["merchant_id"], row["livemode"])
        for row in await db.fetch(_OWNERS, wanted.merchant, wanted.live, OWNERS_MAX)
    ]
    lines: dict[tuple[str, bool, str], Line] = {}
    for merchant, livemode in owners:
        for name, metric in RATES.items():
            for window, lasts in WINDOWS.items():
                asked = Asked(merchant, livemode, metric, now - lasts, now, ("account",))
                for cell in (await measure(db, asked)).cells:
                    _line(lines, merchant, livemode, cell.keys["account"] or "?").rates[name][window] = _rate(cell)
    await _breakers(lines, owners, db, now)
    unknown = {row["account"]: row for row in await db.fetch(UNKNOWN)}
    for line in lines.values():
        if row := unknown.get(line.account):
            line.unknown, line.unknown_oldest_s = row["waiting"], row["oldest_s"]
    row, worker = await db.fetchrow(WAITING, COUNTED_MAX), await db.fetchrow(_WORKER)
    if row is None or worker is None:
        raise AssertionError("a row of counts is always there")
    return Seen(
        at=now,
        lines=tuple(lines[key] for key in sorted(lines)),
        unknown=sum(each["waiting"] for each in unknown.values()),
        unknown_oldest_s=max([0.0, *(each["oldest_s"] for each in unknown.values())]),
        waiting={queue: row[queue] for queue in ("operations", "inbound", "outbound")},
        inbound_s=row["inbound_s"],
        outbound_s=max(0.0, row["outbound_s"]),
        incidents=row["incidents"],
        monitor_incidents={severity: row[severity] for severity in SEVERITIES},
        worker_silent_s=worker["silent_s"],
        counted_to=(await counted_to(db)).as_of,
    )


def _line(lines: dict[tuple[str, bool, str], Line], merchant: str, livemode: bool, account: str) -> Line:  # noqa: FBT001
    return lines.setdefault((merchant, livemode, account), Line(merchant, livemode, account))


def _rate(cell: Cell) -> Rate:
    return Rate(cell.rate, cell.n)


async def _breakers(
    lines: dict[tuple[str, bool, str], Line], owners: Sequence[tuple[str, bool]], db: Pool, now: datetime
) -> None:
    """Of each account the worst that the strategies in force said of it when they were saved last."""
    in_force = InForce(db, owners, Instruments(CollectorRegistry()))
    await in_force.read(now)
    for use in uses_of(in_force.documents()):
        model = await saved(use, db)
        for account in use.accounts if model is not None else ():
            word = model.policy.explain({}, account, now.timestamp()).breaker if model is not None else None
            line = _line(lines, use.merchant_id, use.livemode, account)
            line.breaker = max(line.breaker or BREAKERS[0], word or BREAKERS[0], key=BREAKERS.index)


# --- Showing ----------------------------------------------------------------------------------------------------------

_STYLES: Final = {"open": "bold red", "probing": "yellow", "closed": "green"}


def drawn(seen: Seen) -> RenderableType:
    """One look as it stands on a terminal; what needs somebody is red, and says so in words."""
    table = Table(box=box.SIMPLE_HEAD, expand=False, pad_edge=False)
    table.add_column("account", overflow="fold")
    for name in RATES:
        for window in WINDOWS:
            table.add_column(f"{name} {window}", justify="right", no_wrap=True)
    table.add_column("breaker")
    table.add_column("unknown", justify="right", no_wrap=True)
    for line in seen.lines:
        table.add_row(
            f"{line.account} ({line.merchant}, {'live' if line.livemode else 'test'})",
            *(_shown(line.rates[name][window]) for name in RATES for window in WINDOWS),
            Text(line.breaker or "-", _STYLES.get(line.breaker or "", "")),
            Text(
                f"{line.unknown}, {age(line.unknown_oldest_s)}" if line.unknown else "0", "red" if line.unknown else ""
            ),
        )
    empty = () if seen.lines else (Text("No payments were counted yet."),)
    return Group(*_words(seen), table, *empty)


def _shown(rate: Rate) -> Text:
    """A rate; pale where it rests on too little to be compared."""
    return Text(rate.shown, "dim" if rate.n < TOO_FEW else "")


def _words(seen: Seen) -> Iterator[Text]:
    counted = "never" if seen.counted_to is None else f"{age((seen.at - seen.counted_to).total_seconds())} ago"
    silent = "never seen" if seen.worker_silent_s is None else f"seen {age(seen.worker_silent_s)} ago"
    yield Text(f"{seen.at:%Y-%m-%d %H:%M:%S} UTC   rates counted {counted}", "bold")
    yield Text(f"worker {'LOST: ' if seen.worker_lost else ''}{silent}", "bold red" if seen.worker_lost else "green")
    oldest = f", the oldest for {age(seen.unknown_oldest_s)}" if seen.unknown else ""
    yield Text(f"unknown outcomes {_count(seen.unknown)}{oldest}", "red" if seen.unknown else "")
    waiting = ", ".join(f"{queue} {_count(count)}" for queue, count in seen.waiting.items())
    late = f"inbound webhooks {age(seen.inbound_s)} late, outbound {age(seen.outbound_s)} late"
    yield Text(f"due: {waiting}   {late}   open incidents {_count(seen.incidents)}")
    found = ", ".join(f"{severity} {_count(count)}" for severity, count in seen.monitor_incidents.items())
    yield Text(f"monitors: open incidents {found}", "bold red" if seen.monitor_incidents.get("page") else "")


def _count(number: int) -> str:
    return f"{number:,}" if number < COUNTED_MAX else f"{number:,} or more"


def age(seconds: float) -> str:
    """A time in one unit, for a person in a hurry."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


class Shows(Protocol):
    """Somewhere to show looks."""

    def show(self, seen: Seen) -> None:
        """Show a look."""
        ...

    def away(self, why: str, since: datetime) -> None:
        """Say that the database cannot be read."""
        ...


class _Screen:
    """Where looks are shown: drawn again in place on a terminal, one after the other elsewhere, or as lines of JSON."""

    def __init__(self, console: Console, live: Live | None, *, as_json: bool) -> None:
        self._console = console
        self._live = live
        self._as_json = as_json
        self._last: RenderableType = ""

    def show(self, seen: Seen) -> None:
        """Show a look."""
        if self._as_json:
            self._console.out(orjson.dumps(seen.record()).decode(), highlight=False)
            return
        self._last = drawn(seen)
        self._draw(self._last)

    def away(self, why: str, since: datetime) -> None:
        """Say that the database cannot be read, above what was seen last."""
        if self._as_json:
            self._console.out(
                orjson.dumps({"at": datetime.now(UTC).isoformat(), "error": why}).decode(), highlight=False
            )
            return
        said = Text(
            f"{why}, since {since:%H:%M:%S} UTC; asked again until it is back. What follows is old.", "bold red"
        )
        self._draw(Group(said, self._last) if self._last else said)

    def _draw(self, what: RenderableType) -> None:
        if self._live is not None:
            self._live.update(what, refresh=True)
        else:
            self._console.print(what)


def run(wanted: Wanted, complain: Say) -> int:
    """Show how it goes until Ctrl-C, or once. The exit code: 1 where it was to be shown once and the database could not be read.

    Raises :class:`providers.registry.ConfigError` where it is not said which database.
    """
    url, console = load_database_url(), Console()
    if not console.is_terminal:
        console = Console(width=200)  # a table for a file or a pipe is not folded
    try:
        if wanted.once:
            return asyncio.run(_once(url, wanted, _Screen(console, None, as_json=wanted.as_json), complain))
        if wanted.as_json or not console.is_terminal:
            asyncio.run(watch(url, wanted, _Screen(console, None, as_json=wanted.as_json)))
        with Live(console=console, auto_refresh=False, screen=True) as live:
            asyncio.run(watch(url, wanted, _Screen(console, live, as_json=False)))
    except KeyboardInterrupt:
        return 0
    return 0


async def _once(url: str, wanted: Wanted, screen: _Screen, complain: Say) -> int:
    try:
        async with read_only(url, "interlock top") as connection:
            await prepare(connection)
            screen.show(await asyncio.wait_for(look(Reading(connection), wanted, datetime.now(UTC)), LOOK_S))
    except _AWAY as error:
        complain(f"gateway: {_why(error)}")
        return 1
    return 0


async def watch(url: str, wanted: Wanted, screen: Shows) -> None:
    """Look until cancelled, on a new connection wherever one was lost."""
    since: datetime | None = None
    while True:
        try:
            async with read_only(url, "interlock top") as connection:
                await prepare(connection)
                while True:
                    seen = await asyncio.wait_for(look(Reading(connection), wanted, datetime.now(UTC)), LOOK_S)
                    since = None
                    screen.show(seen)
                    await asyncio.sleep(wanted.interval_s)
        except _AWAY as error:
            since = since or datetime.now(UTC)
            screen.away(_why(error), since)
            await asyncio.sleep(wanted.interval_s)


# asyncpg is confused by what a dying server sends to an idle connection.
_AWAY: Final = (Unreachable, InDoubt, TimeoutError, asyncpg.InternalClientError, *LOST)


def _why(error: BaseException) -> str:
    """What is wrong with the database, and the fix where there is one."""
    if isinstance(
        error.__cause__, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError | asyncpg.InvalidSchemaNameError
    ):
        return "the database has the tables of another version; run: gateway migrate"
    if isinstance(error, Unreachable):
        return str(error)
    name = type(error.__cause__ or error).__name__
    return f"the database cannot be read ({name})"
