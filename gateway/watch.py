"""The watch: what each API process finds out about the parts around it, every few seconds and never on the way of a request.

One statement asks Postgres for its clock, the workers' last sign of life and what waits for them; one command asks Redis whether
it still holds what was left there. What is found stands in :class:`gateway.policies.Standing`, and in the metrics.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

import structlog

from gateway.deps import Deps
from gateway.errors import Problem
from gateway.policies import WORKER_LOST_S, Stance
from gateway.sql import Pool
from idempotency.store import Memory, RedisGate

LOOK_S: Final = 3.0
"""Seconds between two looks: an alarm at 60 s needs no more, and each costs one cheap statement."""
COUNTED_MAX: Final = 10_000
"""More waiting operations than this are not counted: the number says enough, and is more than any backlog that may be set."""

_LOOK: Final = """SELECT extract(epoch FROM clock_timestamp())::float8 AS clock_s,
    (SELECT extract(epoch FROM now() - max(last_heartbeat))::float8 FROM procrastinate.procrastinate_workers) AS silent_s,
    count(*) AS overdue, coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 AS overdue_s
    FROM (SELECT due_at FROM operation WHERE due_at <= now() - make_interval(secs => $1::float8)
    AND status IN ('created', 'sent', 'unknown', 'pending') ORDER BY due_at LIMIT $2::int) AS waiting"""

log = structlog.get_logger()


class Watch:
    """Looks, again and again. ``deps.standing`` is what it has seen."""

    def __init__(self, pool: Pool, gate: RedisGate, deps: Deps) -> None:
        self._pool = pool
        self._gate = gate
        self._deps = deps
        self._blind = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look once. Never raises: what cannot be seen now keeps its last standing."""
        await self._look_at_redis()
        try:
            await self._look_at_postgres()
        except Exception as error:  # whatever it is, requests find it out by themselves
            if not self._blind:
                log.warning("watch_is_blind", error=type(error).__name__)
            self._blind = True
        else:
            self._blind = False

    async def _look_at_redis(self) -> None:
        if await self._gate.remembers() is Memory.LOST:
            self._deps.instruments.stood_in("redis_data_loss")
            log.warning("redis_lost_its_data")

    async def _look_at_postgres(self) -> None:
        standing, clock = self._deps.standing, self._deps.clock
        asked = clock().timestamp()
        row = await self._pool.fetchrow(_LOOK, WORKER_LOST_S, COUNTED_MAX)
        answered = clock().timestamp()
        if row is None:
            raise AssertionError("an aggregate has one row")
        standing.skew_s = certain_skew_s(asked, row["clock_s"], answered)
        standing.worker_silent_s = math.inf if row["silent_s"] is None else row["silent_s"]
        standing.overdue, standing.overdue_s = row["overdue"], row["overdue_s"]
        instruments = self._deps.instruments
        instruments.clock_skew.set(standing.skew_s)
        instruments.worker_silent.set(standing.worker_silent_s)
        instruments.overdue.set(standing.overdue)
        instruments.overdue_seconds.set(standing.overdue_s)


def certain_skew_s(asked: float, theirs: float, answered: float) -> float:
    """How far our clock certainly is from theirs, which was read some time between our two readings.

    A slow answer widens what is uncertain, so that load alone never looks like a wrong clock.
    """
    if asked > theirs:
        return asked - theirs
    return min(answered - theirs, 0.0)


def refuses_new(deps: Deps) -> Problem | None:
    """Why nothing new is charged now, or ``None``: nobody settles what is unknown, and too much of it waits."""
    standing = deps.standing
    if not standing.worker_lost:
        return None
    bounded = deps.policies["worker_loss"] == Stance.DEGRADE
    if not (bounded and standing.stalled(deps.worker_backlog_max)):
        deps.instruments.stood_in("worker_loss", Stance.FAIL_OPEN)
        return None
    deps.instruments.stood_in("worker_loss", Stance.FAIL_CLOSED)
    return Problem(
        "settlement_stalled",
        "Nothing was charged: the worker that settles payments is lost. Send the same request with the same key again.",
    )
