"""Hot SQL: text that a reviewer can read, with its column lists taken from the tables.

A statement is written as SQL with named parameters (``:name``) and prepared by asyncpg, one round trip each. Column lists come
from the SQLModel tables, so a renamed column breaks at import and not at night. An ORM session would cost more CPU than the
whole rest of a charge (docs/performance.md); why text and not compiled Core stands in docs/adr/0009-hot-sql-is-text.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import asyncpg  # it ships no types; Pool below is what we use of it
import orjson
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from providers.registry import ConfigError

POOL_MIN: Final = 2
POOL_MAX: Final = 16
"""More connections gained nothing at 64 concurrent charges (docs/performance.md); none is held across a provider call."""
LOOK_MAX: Final = 3
"""Questions over very many rows at once, in one process: each may take a core of the database's for a moment."""
ACQUIRE_TIMEOUT_S: Final = 5.0
"""How long a request waits for a free connection before it is told that the database is away."""
COMMAND_TIMEOUT_S: Final = 5.0
"""A statement of ours takes a millisecond. One that takes five seconds has lost its database."""

Row = Mapping[str, Any]


class DatabaseAway(Exception):
    """Postgres cannot be reached, or cannot write: the statement was not carried out, nothing happened."""


class InDoubt(Exception):
    """The connection was lost in the middle of a statement: it may have been committed, or may yet be."""


DATABASE_LOST: Final = (DatabaseAway, InDoubt)


_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg is confused by what a dying server sends to an idle connection
    asyncpg.exceptions.OperatorInterventionError,  # it is shutting down or starting up
    asyncpg.TooManyConnectionsError,
    OSError,
    TimeoutError,
)
"""What a database that is gone looks like to asyncpg."""
_REFUSED: Final = (asyncpg.InsufficientResourcesError, asyncpg.ReadOnlySQLTransactionError)
"""A full disk, or a primary that has become a standby: it answers, and has written nothing."""
_NOT_LET_IN: Final = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


class Pool:
    """Connections to Postgres. Each call is one statement in a transaction of its own.

    A connection that has answered stays at hand for the next statement; one that has not is cut off, and asyncpg's pool
    replaces it. Its pool costs a task for every release, more than the statement itself (docs/performance.md).
    """

    def __init__(self, pool: Any, size: int) -> None:
        self._pool = pool
        self._free = asyncio.Semaphore(size)
        self._at_hand: list[Any] = []

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """The rows. Raises :class:`DatabaseAway` or :class:`InDoubt` where Postgres is lost, before or after sending."""
        try:
            if self._free.locked():
                await asyncio.wait_for(self._free.acquire(), ACQUIRE_TIMEOUT_S)
            else:
                await self._free.acquire()
        except TimeoutError as error:
            raise DatabaseAway("no connection became free") from error
        try:
            return await self._fetch(await self._connection(), query, args)
        finally:
            self._free.release()

    async def _connection(self) -> Any:
        while self._at_hand:
            connection = self._at_hand.pop()
            try:
                if not connection.is_closed():
                    return connection
                await self._pool.release(connection)
            except asyncpg.InterfaceError:  # it was lost while it waited, and asyncpg has taken it back
                continue
        try:
            return await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        except _LOST as error:
            raise DatabaseAway(type(error).__name__) from error

    async def _fetch(self, connection: Any, query: str, args: tuple[Any, ...]) -> list[Row]:
        try:
            rows: list[Row] = await connection.fetch(query, *args)
        except BaseException as error:
            if isinstance(error, asyncpg.PostgresError) and not isinstance(error, _LOST):
                self._at_hand.append(connection)  # it answered: only the statement was wrong
            else:
                self._drop(connection)
            if isinstance(error, _REFUSED):
                raise DatabaseAway(type(error).__name__) from error
            if isinstance(error, _LOST):
                raise InDoubt(type(error).__name__) from error
            raise
        self._at_hand.append(connection)
        return rows

    @staticmethod
    def _drop(connection: Any) -> None:
        """Cut a connection off. To release it would wait for an answer that a frozen server never gives."""
        with contextlib.suppress(asyncpg.InterfaceError):  # asyncpg has taken it back already
            connection.terminate()

    async def fetchrow(self, query: str, *args: Any) -> Row | None:
        """The first row, or ``None``."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row, or ``None``."""
        row = await self.fetchrow(query, *args)
        return None if row is None else next(iter(row.values()))

    def close(self) -> None:
        """Cut every connection off. Whoever still waits for an answer is :class:`InDoubt`; whoever asks now, :class:`DatabaseAway`.

        To part politely would wait for each statement under way, and for a frozen server without end.
        """
        self._at_hand.clear()
        self._pool.terminate()


_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")
_UPDATE: Final = r"""UPDATE\s+(ONLY\s+)?[\w."]+(\s*\*)?(\s+(AS\s+)?[\w"]+)?\s+SET"""
_WRITING: Final = re.compile(rf"\b(INSERT\s+INTO|{_UPDATE}|DELETE\s+FROM|MERGE\s+INTO|TRUNCATE)\b", re.IGNORECASE)

WRITES: Final[dict[str, str]] = {}
"""What each writing statement is called, by its text: the crash points around it are named after that."""


def is_writing(query: str) -> bool:
    """Whether a statement writes."""
    return _WRITING.search(query) is not None


class Statement:
    """One statement: its text with numbered parameters, and their names in that order.

    ``writes`` says in one word what a writing statement does. ``ValueError`` where that is missing: nothing may be committed
    on whose two sides a process cannot be made to die (``gateway.crash``).
    """

    def __init__(self, sql: str, *, writes: str | None = None) -> None:
        if is_writing(sql) != (writes is not None):
            raise ValueError(f"a statement that writes, and no other, says what it writes: {sql[:80]}")
        names: dict[str, int] = {}
        self.text = _PARAMETER.sub(lambda m: f"${names.setdefault(m[1], len(names) + 1)}", sql)
        self._names = tuple(names)
        if writes is not None:
            WRITES[self.text] = writes

    async def row(self, pool: Pool, values: Mapping[str, Any]) -> Row | None:
        """Run it in a transaction of its own and return its first row. ``KeyError`` for a parameter that was not given."""
        return await pool.fetchrow(self.text, *[values[name] for name in self._names])

    async def rows(self, pool: Pool, values: Mapping[str, Any]) -> list[Row]:
        """Run it in a transaction of its own and return its rows."""
        return await pool.fetch(self.text, *[values[name] for name in self._names])


def _names(model: type[SQLModel]) -> dict[str, str]:
    columns = model.__table__.columns  # type: ignore[attr-defined]  # SQLModel adds it to table models
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are untyped
    return {column.name: column.type.compile(dialect=dialect).split(" COLLATE")[0] for column in columns}


def columns(model: type[SQLModel], *, table: str = "", prefix: str = "") -> str:
    """The model's columns, as a list to insert into or to select; ``prefix`` goes before the names they are answered under."""
    asked = [f"{table}.{name}" if table else name for name in _names(model)]
    if prefix:
        asked = [f"{column} AS {prefix}{column.rpartition('.')[2]}" for column in asked]
    return ", ".join(asked)


def values(model: type[SQLModel], prefix: str, **instead: str) -> str:
    """A typed parameter for each column, named ``prefix`` + column, but for those that SQL computes ``instead``."""
    unknown = instead.keys() - _names(model).keys()
    if unknown:
        raise KeyError(f"{model.__name__} has no column {unknown}")
    return ", ".join(instead.get(name, f":{prefix}{name}::{kind}") for name, kind in _names(model).items())


def sets(model: type[SQLModel], prefix: str, only: Collection[str]) -> str:
    """Assignments of the columns in ``only`` to parameters named ``prefix`` + column."""
    unknown = set(only) - _names(model).keys()
    if unknown:
        raise KeyError(f"{model.__name__} has no column {unknown}")
    return ", ".join(f"{name} = :{prefix}{name}" for name in only)


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # untyped base
    """A connection without the reset that asyncpg sends on every release: we keep no session state, and it is a round trip."""

    def get_reset_query(self) -> str:
        return ""


async def prepare(connection: Any) -> None:
    """Let a connection of asyncpg's give and take JSON as values."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_dump, decoder=orjson.loads, format="text")


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()


async def connect(url: str, make: Callable[[Any, int], Pool] = Pool) -> Pool:
    """A pool on ``url``, as ``make`` has it. Raises :class:`ConfigError` where the database cannot be reached, or does not let us in."""
    # Planning a statement of a hundred parameters costs more than running it; the tables want the same plan every time.
    return make(await _connections(url, (POOL_MIN, POOL_MAX), plan_cache_mode="force_generic_plan"), POOL_MAX)


async def connect_to_look(url: str) -> Pool:
    """A pool for questions over very many rows. It cannot write, and however many ask, charges have their own connections.

    Raises as :func:`connect`.
    """
    # A question over a month wants another plan than one over a day. Joins that look each row up are never meant here, and what is not
    # known yet of a young table must not make the planner believe so.
    settings = {"plan_cache_mode": "force_custom_plan", "enable_nestloop": "off", "default_transaction_read_only": "on"}
    return Pool(await _connections(url, (0, LOOK_MAX), work_mem="32MB", **settings), LOOK_MAX)


async def _connections(url: str, size: tuple[int, int], **settings: str) -> Any:
    try:
        return await asyncpg.create_pool(
            url,
            min_size=size[0],
            max_size=size[1],
            max_inactive_connection_lifetime=0,
            command_timeout=COMMAND_TIMEOUT_S,
            connection_class=_Connection,
            init=prepare,
            server_settings={"application_name": "interlock", "jit": "off", **settings},
        )
    except (*_LOST, *_NOT_LET_IN) as error:
        raise ConfigError(f"GATEWAY_DATABASE_URL: the database cannot be reached ({type(error).__name__})") from None
