"""What the gateway rests on is lost while payments are made: callers see what the policy says, and every key charges once."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import redis.asyncio

if TYPE_CHECKING:
    from tests.fire.conftest import Fire

AWAY_S = 1.5
FROZEN_S = 5.0
FLUSHES = 50


async def test_redis_killed_under_load_is_not_seen_by_any_caller(fire: Fire) -> None:
    await fire.open()

    async def killed(fire: Fire) -> None:
        fire.valkey.kill()
        await asyncio.sleep(AWAY_S)
        fire.valkey.restart()

    await fire.burn("redis killed", killed, fire.ALWAYS)


async def test_redis_emptied_again_and_again_under_load_is_not_seen_by_any_caller(fire: Fire) -> None:
    await fire.open()

    async def flushed(fire: Fire) -> None:
        async with redis.asyncio.Redis.from_url(fire.valkey.url) as client:
            for _ in range(FLUSHES):
                await client.flushall()
                await asyncio.sleep(AWAY_S / FLUSHES)

    await fire.burn("redis emptied", flushed, fire.ALWAYS)


async def test_redis_frozen_under_load_is_not_seen_by_any_caller(fire: Fire) -> None:
    await fire.open()

    async def frozen(fire: Fire) -> None:
        fire.valkey.pause()
        await asyncio.sleep(FROZEN_S)
        fire.valkey.resume()

    await fire.burn("redis frozen", frozen, fire.ALWAYS)


async def test_postgres_killed_under_load_recovers_and_nothing_is_lost(fire: Fire) -> None:
    await fire.open()

    async def killed(fire: Fire) -> None:
        fire.signal_postgres(signal.SIGKILL)
        fire.postgres.kill()
        await asyncio.sleep(AWAY_S)
        fire.postgres.restart()

    await fire.burn("postgres killed", killed, fire.DATABASE_LOST)


async def test_postgres_frozen_under_load_is_waited_for_and_nothing_is_lost(fire: Fire) -> None:
    await fire.open()

    async def frozen(fire: Fire) -> None:
        fire.signal_postgres(signal.SIGSTOP)
        await asyncio.sleep(FROZEN_S)
        fire.signal_postgres(signal.SIGCONT)

    await fire.burn("postgres frozen", frozen, fire.DATABASE_LOST)
