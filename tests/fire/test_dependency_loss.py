"""What the gateway rests on is lost while payments are made: callers see what the policy says, and every key charges once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import redis.asyncio

from gateway.embedded import Postgres

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.fire.conftest import Fire

AWAY_S = 1.5
FROZEN_S = 5.0
FLUSHES = 50
REFUSALS = 20
"""So many charges are refused before there is space again."""


def fill(disk: Path) -> Path:
    """Write until there is no space left; gives the file to remove."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for piece in (b"x" * 65_536, b"x" * 4096):
            with contextlib.suppress(OSError):
                while file.write(piece) == len(piece):
                    pass
    return ballast


async def test_whatever_happens_to_redis_under_load_no_caller_sees_it(fire: Fire) -> None:
    await fire.open()

    async def killed(fire: Fire) -> None:
        fire.valkey.kill()
        await asyncio.sleep(AWAY_S)
        fire.valkey.restart()

    async def emptied(fire: Fire) -> None:
        async with redis.asyncio.Redis.from_url(fire.valkey.url) as client:
            for _ in range(FLUSHES):
                await client.flushall()
                await asyncio.sleep(AWAY_S / FLUSHES)

    async def frozen(fire: Fire) -> None:
        fire.valkey.pause()
        await asyncio.sleep(FROZEN_S)
        fire.valkey.resume()

    await fire.burn("redis killed", killed, fire.ALWAYS)
    await fire.burn("redis emptied", emptied, fire.ALWAYS)
    await fire.burn("redis frozen", frozen, fire.ALWAYS)


async def test_postgres_killed_or_frozen_under_load_is_waited_for_and_nothing_is_lost(fire: Fire) -> None:
    await fire.open()

    async def killed(fire: Fire) -> None:
        fire.signal_postgres(signal.SIGKILL)
        fire.postgres.kill()
        await asyncio.sleep(AWAY_S)
        fire.postgres.restart()

    async def frozen(fire: Fire) -> None:
        fire.signal_postgres(signal.SIGSTOP)
        await asyncio.sleep(FROZEN_S)
        fire.signal_postgres(signal.SIGCONT)

    await fire.burn("postgres killed", killed, fire.DATABASE_LOST)
    refused = fire.merchants.seen["503 database_unavailable"]
    # Slower, so that it is frozen for half of the time at most: always frozen, a cascade would have no time for its second account.
    await fire.burn("postgres frozen", frozen, fire.DATABASE_LOST, rate=45.0)

    assert refused > 0


async def test_postgres_without_space_for_its_tables_refuses_before_the_call_and_settles_later(
    tight_database: Database, fire: Fire, small_disk: Path
) -> None:
    await fire.open()

    async def full(fire: Fire) -> None:
        ballast, before = fill(small_disk), fire.merchants.seen["503 database_unavailable"]
        try:
            await fire.merchants.until(
                lambda: fire.merchants.seen["503 database_unavailable"] >= before + REFUSALS, "charges are refused"
            )
        finally:
            ballast.unlink()

    await fire.burn("postgres without space for its tables", full, fire.ALWAYS | {"503 database_unavailable"})


async def test_postgres_without_space_for_its_log_goes_down_and_nothing_is_lost(
    tight_log: Postgres, fire: Fire, small_disk: Path
) -> None:
    """It cannot go on without its log: it ends itself, and is started again once there is space."""
    fire.rest_on(tight_log)
    await fire.open()

    async def full(fire: Fire) -> None:
        ballast = fill(small_disk)
        with contextlib.suppress(psycopg.Error):
            while True:  # into the next file of the log, for which there is no space
                fire.database.rows("SELECT pg_switch_wal()")
                await asyncio.sleep(0.05)
        await asyncio.sleep(AWAY_S)
        ballast.unlink()
        tight_log.restart()

    await fire.burn("postgres without space for its log", full, fire.DATABASE_LOST)
