"""A connection that can only read, for what looks through the books beside the charges: a checker, a replay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg  # it ships no types

STATEMENT_S: Final = 60
"""A page takes milliseconds. One that takes a minute is not worth the load."""
LOCK_S: Final = 5
"""A migration may hold a table for a moment; longer than this it is not waited for."""
LOST: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What a database that cannot be read looks like to asyncpg, whatever the cause."""


class Unreachable(Exception):
    """There is no such database, or it lets nobody in; what it says may be shown."""


@asynccontextmanager
async def read_only(url: str, name: str) -> AsyncIterator[Any]:
    """One connection of asyncpg's to ``url``, which the database itself keeps from writing, and shows under ``name``.

    Each statement is a transaction of its own, and is cut off after :data:`STATEMENT_S`. Raises :class:`Unreachable`.
    """
    only_reads = {
        "application_name": name,
        "default_transaction_read_only": "on",
        "statement_timeout": f"{STATEMENT_S}s",
        "lock_timeout": f"{LOCK_S}s",
        "jit": "off",
    }
    try:
        connection = await asyncpg.connect(url, server_settings=only_reads, timeout=LOCK_S)
    except (*LOST, ValueError) as error:
        raise Unreachable(f"the database cannot be reached ({type(error).__name__})") from None
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=LOCK_S)
        except LOST:  # what was read was read
            connection.terminate()
