"""Redis as the gate sees it: a dictionary with virtual expiry, that can be away, be flushed, or lose an answer.

The gateway's own :class:`idempotency.store.RedisGate` runs over it, with its batching, its skipping and its reading of answers.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self, cast

from redis.exceptions import ConnectionError as RedisConnectionError

from idempotency.store import SOCKET_TIMEOUT_S, RedisGate


class SimRedis:
    """One server, shared by all hosts."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, rng: random.Random, faults: float, counts: Counter[str]
    ) -> None:
        self.away = False
        self.faults = faults
        self._loop = loop
        self._rng = rng
        self._counts = counts
        self._slots: dict[str, tuple[str, float]] = {}

    def flush(self) -> None:
        """Forget everything, as a fail-over to an empty replica does."""
        self._slots.clear()

    def gate(self) -> RedisGate:
        """A gate over this server."""
        gate = RedisGate("redis://127.0.0.1:1/0")
        gate._redis = cast("Any", self)
        gate._release = cast("Any", self.release)
        return gate

    async def answer(self) -> None:
        """Wait for an answer, or find Redis lost."""
        await asyncio.sleep(0)
        if self.away:
            await asyncio.sleep(SOCKET_TIMEOUT_S)
            raise RedisConnectionError("Redis is away")
        if self._rng.random() < self.faults:
            self._counts["Redis answers lost"] += 1
            raise RedisConnectionError("the answer was lost")

    def take(self, slot: str, token: str, px: int) -> bool | None:
        """``SET slot token NX PX px``."""
        now = self._loop.time()
        held = self._slots.get(slot)
        if held is not None and held[1] > now:
            return None
        self._slots[slot] = (token, now + px / 1000)
        return True

    def pipeline(self, *, transaction: bool) -> _Pipe:
        return _Pipe(self)

    async def release(self, keys: Sequence[str], args: Sequence[str]) -> None:
        """The script that opens a gate which is still its holder's."""
        if not self.away and self._slots.get(keys[0], ("", 0))[0] == args[0]:
            del self._slots[keys[0]]
        await self.answer()

    async def ping(self) -> bool:
        await self.answer()
        return True


class _Pipe:
    """What the gate uses of a pipeline. What it sends has its effect although its answer may be lost."""

    def __init__(self, redis: SimRedis) -> None:
        self._redis = redis
        self._asked: list[tuple[str, str, int]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is kept."""

    def set(self, slot: str, token: str, *, nx: bool, px: int) -> None:
        self._asked.append((slot, token, px))

    async def execute(self, *, raise_on_error: bool) -> list[bool | None]:
        await asyncio.sleep(0)
        answers = [] if self._redis.away else [self._redis.take(*asked) for asked in self._asked]
        await self._redis.answer()
        return answers
