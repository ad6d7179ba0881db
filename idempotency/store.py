"""The gate in Redis: one test-and-set that tells at once whether somebody is working on a key.

It is never the truth. Losing it, flushing it or failing it over may cost a look into Postgres, never money.
"""

from __future__ import annotations

import asyncio
import math
import time
from enum import Enum, auto
from secrets import token_hex
from typing import Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

GATE_MS: Final = 6_000
"""How long a gate stays shut at most, counted from the taking: as long as an operation's lease. Its holder may be slower."""
SOCKET_TIMEOUT_S: Final = 0.25
"""Redis answers in well under a millisecond; past a quarter of a second it is down for our purpose."""
SKIP_S: Final = 1.0
"""After a failure Redis is left alone for this long, so that an outage costs one time-out a second and not one a request."""
CONNECTIONS_MAX: Final = 64

MARK_S: Final = 3600
"""How long a mark stays in Redis after its process has gone."""

_RELEASE: Final = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class Gate(Enum):
    """What the gate says about a key."""

    TAKEN = auto()
    """We hold it."""
    HELD = auto()
    """Somebody else holds it, or did until a moment ago."""
    UNAVAILABLE = auto()
    """Redis does not answer: ask Postgres, or refuse, by policy."""


class Memory(Enum):
    """What Redis has of what was left there."""

    KEPT = auto()
    """All of it, as far as one mark can tell."""
    LOST = auto()
    """Nothing: it was flushed, or failed over to a copy that is behind."""
    UNCERTAIN = auto()
    """It does not answer, or was not asked for too long."""


_Claim = tuple[str, str, asyncio.Future[Gate]]


def _read(answer: object) -> Gate:
    if isinstance(answer, Exception):
        return Gate.UNAVAILABLE
    return Gate.TAKEN if answer else Gate.HELD


class RedisGate:
    """The gate over one Redis-protocol server. Safe to share between tasks; closed once."""

    def __init__(self, url: str) -> None:
        # Blocking: the default pool raises at its limit, in the middle of a charge.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=SOCKET_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
        )
        self._redis = Redis(connection_pool=pool)
        self._release = self._redis.register_script(_RELEASE)
        self._skip_until = 0.0
        self._waiting: list[_Claim] = []
        self._asking: asyncio.Task[None] | None = None
        self._mark = f"mark:{token_hex(8)}"
        self._marked_until = -math.inf

    async def take(self, slot: str) -> tuple[Gate, str]:
        """Try to take ``slot``; the token proves the hold to :meth:`release`.

        One question is out at a time: who comes meanwhile goes with the next one, all in one round trip (docs/performance.md).
        """
        if time.monotonic() < self._skip_until:
            return Gate.UNAVAILABLE, ""
        token, answer = token_hex(8), asyncio.get_running_loop().create_future()
        self._waiting.append((slot, token, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())
        return await answer, token

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                claims, self._waiting = self._waiting, []
                await self._ask(claims)
        finally:
            self._asking = None

    async def _ask(self, claims: list[_Claim]) -> None:
        answers: list[object] = [RedisError()] * len(claims)
        try:
            if time.monotonic() < self._skip_until:  # the question before this one has found it lost
                return
            async with self._redis.pipeline(transaction=False) as pipe:
                for slot, token, _ in claims:
                    pipe.set(slot, token, nx=True, px=GATE_MS)
                answers = await pipe.execute(raise_on_error=False)
        except Exception:  # redis-py raises ValueError, too, for an answer it cannot read
            self._skip_until = time.monotonic() + SKIP_S
        finally:  # whatever happens, nobody is left waiting
            for (_, _, future), answer in zip(claims, answers, strict=True):
                if not future.done():
                    future.set_result(_read(answer))

    async def release(self, slot: str, token: str) -> None:
        """Open the gate if it is still ours. Never raises: a gate that stays shut opens by itself."""
        try:
            await self._release(keys=[slot], args=[token])
        except Exception:  # redis-py raises ValueError, too, for an answer it cannot read
            self._skip_until = time.monotonic() + SKIP_S

    async def ping(self) -> bool:
        """Whether Redis answers now."""
        try:
            return bool(await self._redis.ping())
        except Exception:  # redis-py raises ValueError, too, for an answer it cannot read
            return False

    async def remembers(self) -> Memory:
        """Whether Redis still holds the mark that the last call has left. Never raises, and leaves a new mark.

        A flush or a fail-over makes no noise: its connections stay, or come back, and only what was there is gone.
        """
        asked = time.monotonic()
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.get(self._mark)
                pipe.set(self._mark, 1, ex=MARK_S)
                found, _ = await pipe.execute()
        except Exception:  # redis-py raises ValueError, too, for an answer it cannot read
            return Memory.UNCERTAIN
        due = asked < self._marked_until
        self._marked_until = asked + MARK_S / 2  # well before the mark runs out by itself
        if found is not None:
            return Memory.KEPT
        return Memory.LOST if due else Memory.UNCERTAIN

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()
