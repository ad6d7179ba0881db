"""Simulations: a routing draft replayed over a merchant's own payments, asked for by the API and worked off by a worker.

A merchant has one at a time in each mode. The worker that has its lease starts a process that only reads and computes
(``gateway.replaying``), and writes down how far that is and what came of it. Where the worker dies, its process ends too, the lease runs
out, and the next one begins anew; after :data:`TRIES_MAX` times nobody does. What came of it is kept for 30 days.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import structlog

from gateway.answers import instant
from gateway.errors import Problem
from gateway.sql import Pool, Row, Statement, columns
from gateway.tables import RoutingSimulationRow

DAYS_DEFAULT: Final = 30
DAYS_MAX: Final = 400
"""A longer past says little about the providers of today."""
TRIES_MAX: Final = 3
LASTS_S: Final = 3600.0
"""Whatever takes an hour takes too long: a million attempts take minutes."""
SILENT_S: Final = 120.0
"""A process that says nothing for so long hangs. A page of payments takes tenths of a second."""
RENEW_S: Final = 5.0
"""The lease of 20 s is renewed at least so often."""
KEPT_DAYS: Final = 30
LINE_MAX: Final = 1 << 22
"""Bytes of a result: a hundred changed payments, and each account by its currencies."""

FAILURES: Final[Mapping[str, str]] = {
    "interrupted": f"It was interrupted {TRIES_MAX} times. Ask for it again.",
    "took_too_long": "It took too long. Ask for a shorter time.",
    "broke": "It broke on our side; the worker's log has the reason.",
}

log = structlog.get_logger()

_COLUMNS: Final = columns(RoutingSimulationRow)
_OWN: Final = "merchant_id = :merchant_id AND livemode = :livemode"
_QUEUE: Final = Statement(
    f"""INSERT INTO routing_simulation ({_COLUMNS})
    SELECT :id::text, merchant_id, livemode, id, :starts_at::timestamptz, :ends_at::timestamptz, 'queued', 0, NULL, NULL, NULL, now(), 0,
    :now::timestamptz, :now::timestamptz FROM routing_version WHERE id = :version_id AND {_OWN}
    ON CONFLICT (merchant_id, livemode) WHERE status IN ('queued', 'running') DO NOTHING RETURNING {_COLUMNS}""",
    writes="queue",
)
_UNDER_WAY: Final = Statement(
    f"SELECT {_COLUMNS} FROM routing_simulation WHERE {_OWN} AND status IN ('queued', 'running')"
)
# All there is of 30 days, and one at a time a merchant: short enough to be walked by id.
_PAGE: Final = Statement(
    f"""SELECT {_COLUMNS.replace("result", "NULL::jsonb AS result")} FROM routing_simulation
    WHERE {_OWN} AND (:before::text IS NULL OR id < :before) ORDER BY id DESC LIMIT :limit"""
)
_FIND: Final = Statement(f"SELECT {_COLUMNS} FROM routing_simulation WHERE id = :id AND {_OWN}")
_CLAIM: Final = Statement(
    """UPDATE routing_simulation s SET status = 'running', epoch = s.epoch + 1, done = 0, total = NULL,
    lease_until = now() + interval '20 seconds', updated_at = now()
    FROM routing_version v WHERE v.id = s.version_id AND s.id = (SELECT id FROM routing_simulation
        WHERE status IN ('queued', 'running') AND lease_until <= now() ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING s.id, s.merchant_id, s.livemode, s.starts_at, s.ends_at, s.epoch, v.document""",
    writes="claim",
)
_ADVANCE: Final = Statement(
    """UPDATE routing_simulation SET done = :done::int, total = :total::int, lease_until = now() + interval '20 seconds',
    updated_at = now() WHERE id = :id AND epoch = :epoch AND status = 'running' RETURNING id""",
    writes="advance",
)
_CONCLUDE: Final = Statement(
    """UPDATE routing_simulation SET status = :status, result = :result::jsonb, error = :error::text,
    done = CASE WHEN :result::jsonb IS NULL THEN done ELSE coalesce(total, 0) END,
    updated_at = now() WHERE id = :id AND epoch = :epoch AND status = 'running' RETURNING id""",
    writes="conclude",
)
_DISCARD: Final = Statement(
    "DELETE FROM routing_simulation WHERE created_at < now() - make_interval(days => :days::int)", writes="discard"
)


@dataclass(frozen=True, slots=True)
class Simulation:
    """One simulation as it stands. Times are of the payments: from ``starts_at`` to before ``ends_at``."""

    id: str
    merchant_id: str
    livemode: bool
    version_id: str
    starts_at: datetime
    ends_at: datetime
    status: str
    done: int
    total: int | None
    result: Mapping[str, Any] | None
    error: str | None
    lease_until: datetime
    epoch: int
    created_at: datetime
    updated_at: datetime


class Lost(Exception):
    """The lease is somebody else's: what comes of this run counts no more."""


class SimulationBooks:
    """Writes and reads simulations."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def queue(
        self,
        simulation_id: str,
        version_id: str,
        merchant_id: str,
        /,
        *,
        livemode: bool,
        starts_at: datetime,
        ends_at: datetime,
        now: datetime,
    ) -> Simulation | None:
        """Ask for one. Where the merchant has one under way that is the answer; ``None`` where that has ended just now."""
        own = {"merchant_id": merchant_id, "livemode": livemode}
        asked = {"id": simulation_id, "version_id": version_id, "starts_at": starts_at, "ends_at": ends_at, "now": now}
        rows = await _QUEUE.rows(self._pool, own | asked) or await _UNDER_WAY.rows(self._pool, own)
        return Simulation(**rows[0]) if rows else None

    async def find(self, wanted: str, merchant_id: str, /, *, livemode: bool) -> Simulation | None:
        """A merchant's simulation in one mode."""
        row = await _FIND.row(self._pool, {"id": wanted, "merchant_id": merchant_id, "livemode": livemode})
        return None if row is None else Simulation(**row)

    async def page(self, merchant_id: str, *, livemode: bool, limit: int, before: str | None) -> list[Simulation]:
        """A page of simulations without their results, newest first; ``before`` is the id to go on from."""
        params = {"merchant_id": merchant_id, "livemode": livemode, "limit": limit, "before": before}
        return [Simulation(**row) for row in await _PAGE.rows(self._pool, params)]

    async def claim(self) -> Row | None:
        """Take one over that nobody works on, with its document. Nobody else has it until the lease runs out."""
        return await _CLAIM.row(self._pool, {})

    async def advance(self, claimed: Row, done: int, total: int | None) -> None:
        """Note how far it is, and keep it. Raises :class:`Lost` where it is somebody else's by now."""
        params = {"id": claimed["id"], "epoch": claimed["epoch"], "done": done, "total": total}
        if await _ADVANCE.row(self._pool, params) is None:
            raise Lost

    async def conclude(
        self, claimed: Row, *, result: Mapping[str, Any] | None = None, error: str | None = None
    ) -> None:
        """Note what came of it, or why nothing did. Raises :class:`Lost` where it is somebody else's by now."""
        status = "failed" if result is None else "succeeded"
        params = {"id": claimed["id"], "epoch": claimed["epoch"], "status": status, "result": result, "error": error}
        if await _CONCLUDE.row(self._pool, params) is None:
            raise Lost

    async def discard(self) -> None:
        """Delete what is too old."""
        await _DISCARD.rows(self._pool, {"days": KEPT_DAYS})


def listed_object(simulation: Simulation) -> dict[str, Any]:
    """A simulation as a list shows it: what came of it, which is long, is left out."""
    return {name: value for name, value in simulation_object(simulation).items() if name != "result"}


def simulation_object(simulation: Simulation) -> dict[str, Any]:
    """A simulation as the API shows it."""
    total = simulation.total
    percent = 100 if simulation.status == "succeeded" else 100 * simulation.done // total if total else 0
    return {
        "id": simulation.id,
        "object": "routing_simulation",
        "config": simulation.version_id,
        "status": simulation.status,
        "progress_percent": percent,
        "payments": total,
        "from": instant(simulation.starts_at),
        "until": instant(simulation.ends_at),
        "result": simulation.result,
        "error": None if simulation.error is None else FAILURES.get(simulation.error, simulation.error),
        "livemode": simulation.livemode,
        "created": instant(simulation.created_at),
        "updated": instant(simulation.updated_at),
    }


def under_way(simulation: Simulation) -> Problem:
    """What is answered where another simulation is asked for than the one under way."""
    return Problem(
        "simulation_running",
        f"Simulation {simulation.id} is under way. Wait until it has ended; a merchant has one at a time.",
        extra={"simulation": simulation.id},
    )


# --- The worker's part ------------------------------------------------------------------------------------------------

Order = Callable[[str, bool], Sequence[str]]
"""The accounts of a merchant and mode, in the order of the configuration."""


async def simulate(books: SimulationBooks, url: str, order: Order) -> bool:
    """Work off one simulation, if there is one. Whether there was. Two workers may do so at once.

    Cancelled, it leaves the simulation to whoever comes when the lease has run out.
    """
    claimed = await books.claim()
    if claimed is None:
        return False
    try:
        told = await _told(books, claimed, url, order)
        if "result" in told:
            await books.conclude(claimed, result=told["result"])
        else:
            log.error("simulation_failed", simulation=claimed["id"], reason=told["error"])
            await books.conclude(claimed, error=told["error"])
    except Lost:
        log.warning("simulation_lost", simulation=claimed["id"])
    return True


async def _told(books: SimulationBooks, claimed: Row, url: str, order: Order) -> Mapping[str, Any]:
    """The result, or the error: a word of :data:`FAILURES`, or a sentence."""
    if claimed["epoch"] > TRIES_MAX:
        return {"error": "interrupted"}
    try:
        async with asyncio.timeout(LASTS_S):
            return await _replayed(books, claimed, url, order(claimed["merchant_id"], claimed["livemode"]))
    except TimeoutError:
        return {"error": "took_too_long"}


async def _replayed(books: SimulationBooks, claimed: Row, url: str, order: Sequence[str]) -> Mapping[str, Any]:
    """What a process of its own has found. It is ended where nobody waits for it any more."""
    asked = {
        "url": url,
        "wanted": {
            "merchant_id": claimed["merchant_id"],
            "livemode": claimed["livemode"],
            "start": claimed["starts_at"],
            "end": claimed["ends_at"],
            "order": list(order),
            "document": claimed["document"],
        },
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "gateway.replaying",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_MAX,
    )
    assert process.stdin is not None  # noqa: S101  # asked for above
    assert process.stdout is not None  # noqa: S101  # asked for above
    try:
        process.stdin.write(orjson.dumps(asked) + b"\n")
        await process.stdin.drain()
        return await _listened(books, claimed, process.stdout)
    except (BrokenPipeError, ConnectionResetError):
        return {"error": "broke"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _listened(books: SimulationBooks, claimed: Row, output: asyncio.StreamReader) -> Mapping[str, Any]:
    """The last line that the process says. Every other one says how far it is."""
    done: int = 0
    total: int | None = None
    heard = time.monotonic()
    await books.advance(claimed, done, total)
    reading = asyncio.ensure_future(output.readline())
    try:
        while time.monotonic() - heard < SILENT_S:
            await asyncio.wait({reading}, timeout=RENEW_S)
            if reading.done():
                line, heard = reading.result(), time.monotonic()
                told: Mapping[str, Any] = orjson.loads(line) if line else {"error": "broke"}
                if "done" not in told:
                    return told
                done, total = told["done"], told["total"]
                reading = asyncio.ensure_future(output.readline())
            await books.advance(claimed, done, total)
        return {"error": "took_too_long"}
    finally:
        reading.cancel()
