"""The real Postgres, driven statement by statement from inside a simulation.

The gateway's own pool (:class:`gateway.sql.Pool`) is handed :class:`SimPool` in the place of asyncpg's. Its connections run the same
text through the same driver, with the same codecs and the same error classes, on a real connection that lives on a loop of its
own: that loop runs inside one step of the simulation until the answer is there. Each statement is a step of its own, with a pause
before it and after it, so that a host may die before it, or after its commit and before its answer.

Time in the database is virtual, too, with the same SQL: a schema ``sim`` stands before ``pg_catalog`` in the search path, and its
``now()`` gives the instant of the simulation.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import select
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import asyncpg

from gateway.sql import _Connection, prepare
from tests.simulation.loop import HOST, Host

T = TypeVar("T")

EPOCH: Final = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
"""When every simulation begins."""
LOCK_TIMEOUT_MS: Final = 200
"""Every statement is a transaction of its own, so nothing ever waits for a lock: a wait means that one was left open."""

TICK_US: Final = 100_000
"""The database's clock is told of the time ten times a second: no lease is that short, and each telling is a round trip."""

_REAL_MONOTONIC: Final = time.monotonic
_CLOCK: Final = (
    "CREATE SCHEMA IF NOT EXISTS sim",
    """CREATE OR REPLACE FUNCTION sim.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$ SELECT pg_catalog.current_setting('sim.now')::timestamptz $$""",
    "GRANT USAGE ON SCHEMA sim TO PUBLIC",
)
_TABLES: Final = (
    "idempotency_key, change, dispute, operation, payment_method, customer, payment, webhook_inbox, "
    "delivery_attempt, delivery, event, webhook_endpoint, api_key, merchant"
)


def instant(seconds: float) -> datetime:
    """A virtual second as a moment in time."""
    return EPOCH + timedelta(microseconds=round(seconds * 1e6))


class _SideLoop(asyncio.SelectorEventLoop):
    """A loop with the real clock, whatever the simulation says of ``time.monotonic``."""

    def time(self) -> float:
        return _REAL_MONOTONIC()


class _Line:
    """One connection, asked one thing at a time without any loop: its coroutine is driven by hand until the answer is there.

    A loop would cost more than the statement: a task, three rounds of its selector, and their handles.
    """

    def __init__(self, connection: Any) -> None:
        self.told: datetime | None = None
        self._connection = connection
        self._transport = connection._transport
        self._poll = select.poll()
        self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)

    def fetch(self, query: str, args: Sequence[Any]) -> list[Any]:
        """The rows, or whatever asyncpg raises."""
        asking = self._connection.fetch(query, *args)
        try:
            waiting = asking.send(None)
            while True:
                while not waiting.done():
                    self._poll.poll()
                    self._transport._read_ready()
                waiting = asking.send(None)
        except StopIteration as answered:
            rows: list[Any] = answered.value
            return rows


class Stage:
    """The database of the simulations: real connections, one for the gateway's role and one that may do everything."""

    def __init__(self, url: str, admin_url: str) -> None:
        self._loop = _SideLoop()
        self._admin = self.run(self._connect(admin_url, lock_timeout_ms=10_000))
        for statement in _CLOCK:
            self.run(self._admin.execute(statement))
        for table in _TABLES.split(
            ", "
        ):  # when it comes would be chance, and rows of the same due time change their order
            self.run(self._admin.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))
        self._connections = [self.run(self._connect(url, lock_timeout_ms=LOCK_TIMEOUT_MS)) for _ in range(2)]
        self._lines = [_Line(connection) for connection in self._connections]
        self._looking = _Line(self._admin)
        self.statements = 0

    @staticmethod
    async def _connect(url: str, lock_timeout_ms: int) -> Any:
        settings = {
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
            "search_path": "sim, pg_catalog, public",
            "lock_timeout": str(lock_timeout_ms),
            "synchronous_commit": "off",
            "sim.now": EPOCH.isoformat(),
        }
        connection = await asyncpg.connect(
            url, connection_class=_Connection, server_settings=settings, statement_cache_size=1000
        )
        await prepare(connection)
        return connection

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run ``coro`` on the loop of the connections, now, whatever loop is running."""
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return self._loop.run_until_complete(coro)
        finally:
            asyncio._set_running_loop(outer)

    def execute(self, number: int, now: datetime, query: str, args: Sequence[Any]) -> Any:
        """One statement of the gateway at the instant ``now``, committed before this returns."""
        self.statements += 1
        line = self._lines[number % len(self._lines)]
        now -= timedelta(microseconds=now.microsecond % TICK_US)
        if line.told != now:
            line.told = now
            line.fetch("SELECT set_config('sim.now', $1, false)", (now.isoformat(),))
        return line.fetch(query, args)

    def tell(self, now: datetime) -> None:
        """Tell the looking connection what time it is."""
        self._looking.fetch("SELECT set_config('sim.now', $1, false)", (now.isoformat(),))

    def look(self, query: str, *args: Any) -> list[Any]:
        """What stands in the database, past every fault."""
        return self._looking.fetch(query, args)

    def alter(self, *statements: str) -> None:
        """Change the schema: only mutants do."""
        for statement in statements:
            self.run(self._admin.execute(statement))

    def clear(self) -> None:
        """Empty every table, the append-only ones too."""
        past_triggers = "SET LOCAL session_replication_role = replica"
        self.run(self._admin.execute(f"BEGIN; {past_triggers}; TRUNCATE {_TABLES} RESTART IDENTITY CASCADE; COMMIT"))

    def close(self) -> None:
        """Close the connections."""
        for connection in (*self._connections, self._admin):
            self.run(connection.close())
        self._loop.close()


class SimPostgres:
    """Postgres as the hosts see it: faults, restarts and outages over one :class:`Stage`."""

    def __init__(
        self, stage: Stage, loop: asyncio.AbstractEventLoop, rng: random.Random, faults: float, counts: Counter[str]
    ) -> None:
        self.stage = stage
        self.away = False
        self.faults = faults
        """How often a statement meets a fault."""
        self.counts = counts
        self._loop = loop
        self._rng = rng
        self._connections: list[SimConnection] = []

    def connect(self, number: int) -> SimConnection:
        """A new connection. Raises as a server does that is not there."""
        if self.away:
            raise ConnectionRefusedError("Postgres is away")
        connection = SimConnection(self, number)
        self._connections.append(connection)
        return connection

    def cut(self, host: Host | None = None) -> None:
        """Close the connections: those of a host that died, or all of them, as a restart does."""
        for connection in self._connections:
            if host is None or connection.host is host:
                connection.lost = True
        self._connections = [each for each in self._connections if not each.lost]

    async def pause(self) -> None:
        """Let anything else happen, at times for longer."""
        draw = self._rng.random()
        await asyncio.sleep(0 if draw < 0.95 else self._rng.random() * (0.02 if draw < 0.999 else 2.0))

    async def statement(self, connection: SimConnection, query: str, args: Sequence[Any]) -> Any:
        """Carry a statement out, or lose it before, lose its answer after, or let it hang."""
        await self.pause()
        if connection.is_closed() or self.away:
            raise _lost(connection)
        draw = self._rng.random() / self.faults if self.faults else 1.0
        if draw < 0.35:
            self.counts["statements lost"] += 1
            raise _lost(connection)
        if draw < 0.5:
            self.counts["statements hanging"] += 1
            self._later(connection.number, query, args)
            await asyncio.sleep(5)
            connection.lost = True
            raise TimeoutError
        rows = self._now(connection.number, query, args)
        if draw < 1:
            if _writes(query):
                self.counts["commits lost"] += 1
            await self.pause()
            raise _lost(connection)
        await self.pause()
        if connection.is_closed():
            if _writes(query):
                self.counts["commits lost"] += 1
            raise _lost(connection)
        return rows

    def _now(self, number: int, query: str, args: Sequence[Any]) -> Any:
        return self.stage.execute(number, instant(self._loop.time()), query, args)

    def _later(self, number: int, query: str, args: Sequence[Any]) -> None:
        """A statement that hangs may be carried out long after everybody gave up on it, or never."""
        if self._rng.random() < 0.5:

            def late() -> None:
                try:
                    self._now(number, query, args)
                except asyncpg.PostgresError:
                    self.counts["late statements refused"] += 1

            context = contextvars.copy_context()
            context.run(HOST.set, None)
            self._loop.call_later(self._rng.random() * 20, late, context=context)


def _writes(query: str) -> bool:
    return "UPDATE" in query or "INSERT" in query


def _lost(connection: SimConnection) -> Exception:
    connection.lost = True
    error: Exception = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    return error


class SimConnection:
    """What :class:`gateway.sql.Pool` uses of an asyncpg connection."""

    def __init__(self, postgres: SimPostgres, number: int) -> None:
        self.host = HOST.get()
        self.lost = False
        self.number = number
        self._postgres = postgres

    def is_closed(self) -> bool:
        return self.lost

    def terminate(self) -> None:
        self.lost = True

    async def fetch(self, query: str, *args: Any) -> Any:
        return await self._postgres.statement(self, query, args)


class SimPool:
    """What :class:`gateway.sql.Pool` uses of asyncpg's pool."""

    def __init__(self, postgres: SimPostgres) -> None:
        self._postgres = postgres
        self._numbers = 0

    async def acquire(self, timeout: float) -> SimConnection:  # noqa: ASYNC109  # asyncpg's own name for it
        await self._postgres.pause()
        self._numbers += 1
        return self._postgres.connect(self._numbers)

    async def release(self, connection: SimConnection) -> None:
        connection.terminate()

    async def close(self) -> None:
        """Nothing is kept."""
