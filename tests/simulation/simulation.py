"""One simulation from its seed to its verdict, and what it prints where a promise was broken."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from tests.simulation.audit import audit, open_operations, verify
from tests.simulation.clients import Asked, Clients
from tests.simulation.postgres import Stage
from tests.simulation.psp import DAY, HOUR, Faults
from tests.simulation.world import Violation, World

SPACING_S: Final = 0.06
"""A new payment comes sixteen times a second."""
TRACE_MAX: Final = 60
REST_MAX_S: Final = 14 * DAY
RESOLVED_MAX: Final = 8
LOOK_EVERY_S: Final = 2 * HOUR
Mutant = Callable[[World], AbstractContextManager[None]]


class SimulationFailed(AssertionError):
    """A promise was broken; the message has the seed, how to run it again, and the trace of the payment."""


@dataclass(frozen=True)
class Verdict:
    """What a simulation came to."""

    seed: int
    counts: Counter[str]
    digest: int
    steps: int
    statements: int
    violation: Violation | None
    trace: str

    def passed(self) -> Verdict:
        """Itself. Raises :class:`SimulationFailed` where a promise was broken."""
        if self.violation is not None:
            raise SimulationFailed(self.trace) from self.violation
        return self


def simulate(
    seed: int,
    stage: Stage,
    payments: int,
    faults: Faults | None = None,
    mutant: Mutant | None = None,
    blind: frozenset[str] = frozenset(),
    patience_s: float = REST_MAX_S,
) -> Verdict:
    """Run one world of ``payments`` to its rest and audit it. Empties the database first."""
    stage.clear()
    world = World(seed, stage, faults or Faults())
    world.blind, world.patience_s = blind, patience_s
    clients = Clients(world, payments, payments * SPACING_S)
    before, collecting = stage.statements, gc.isenabled()
    gc.disable()  # when it collects would be chance, and a simulation has no other chance than its seed
    try:
        with nullcontext() if mutant is None else mutant(world):
            world.run(lambda: _life(world, clients, payments * SPACING_S))
    finally:
        if collecting:
            gc.enable()
            gc.collect()
    trace = _trace(world, payments) if world.violation is not None else ""
    return Verdict(
        seed, world.counts, world.loop.digest, world.loop.steps, stage.statements - before, world.violation, trace
    )


async def _life(world: World, clients: Clients, spread_s: float) -> None:
    world.stir(spread_s + 50)
    world.spawn(world.chaos())

    async def calm() -> None:
        await asyncio.sleep(spread_s + 40)
        world.calm = True
        world.note("", "the faults have ended")

    world.spawn(calm())
    await clients.live()
    await _rest(world)
    await _resolve(world, clients)
    await _ask_everything_again(world, clients)
    audit(world, clients)
    await verify(world)


async def _rest(world: World) -> None:
    """Let time pass until nothing is owed and nothing is open but what only a person can settle."""
    deadline = world.loop.now + world.patience_s
    while world.loop.now < deadline:
        await asyncio.sleep(LOOK_EVERY_S)
        waiting = world.stage.look("SELECT count(*) AS n FROM webhook_inbox WHERE due_at IS NOT NULL")[0]["n"]
        owed = sum(psp.owed for psp in world.psps.values())
        open_ = [row for row in open_operations(world) if not row["with_a_person"]]
        if world.calm and not (waiting or owed or open_):
            parked = world.stage.look(
                """SELECT count(*) AS n FROM payment WHERE processing_reason = 'awaiting_retry'
                OR (cancel_requested AND status <> 'processing')"""
            )
            if not parked[0]["n"]:
                return


async def _resolve(world: World, clients: Clients) -> None:
    """What only a person can settle is settled by one; what waited behind that comes to them next."""
    for _ in range(RESOLVED_MAX):
        waiting = [row for row in open_operations(world) if row["review_at"] is not None]
        if not waiting:
            return
        for row in waiting:
            await clients.resolve(row)
        await _rest(world)


async def _ask_everything_again(world: World, clients: Clients) -> None:
    """Every key is asked once more: what was decided is answered byte for byte, and what was not is decided by then.

    A key that was free, because nothing had come of it, may begin something now: that is asked again after another rest.
    """
    waiting: list[Asked] = []
    for asked in list(clients.asked):
        reply = await clients.ask_again(asked)
        world.counts["keys asked again"] += 1
        if reply.status == 202:
            waiting.append(asked)
    await _rest(world)
    await _resolve(world, clients)
    for asked in waiting:
        reply = await clients.ask_again(asked)
        if reply.status == 202:
            raise Violation("an answer is there in the end", asked.order, f"{asked.key} still answers 202")
    await _rest(world)


def _trace(world: World, payments: int) -> str:
    """The seed, how to run it again, and what happened to the payment that the promise was about."""
    violation = world.violation
    assert violation is not None
    order = violation.order
    lines = [(at, what) for at, whose, what in world.notes if whose in {order, ""}]
    for row in world.stage.look(
        """SELECT c.at, c.source, c.news, c.from_status, c.to_status, c.reason, c.operation_id
        FROM change c JOIN payment p ON p.id = c.payment_id WHERE p.reference = $1 ORDER BY c.at, c.seq""",
        order,
    ):
        at = (row["at"] - world.clock()).total_seconds() + world.loop.now
        operation = (row["operation_id"] or "")[-6:]
        lines.append(
            (
                at,
                f"  books: {row['source']} {row['news']} {operation}: {row['from_status']} > {row['to_status']} ({row['reason']})",
            )
        )
    lines.sort(key=lambda line: line[0])
    about = [at for at, whose, _ in world.notes if whose == order]
    if about:
        first, last = min(about), max(about)
        lines = [(at, what) for at, what in lines if first - 1 <= at <= last + 1]
    shown = [f"{at:12.3f}  {what}" for at, what in lines]
    if len(shown) > TRACE_MAX:
        shown = [*shown[: TRACE_MAX // 2], "        ...", *shown[-TRACE_MAX // 2 :]]
    head = [
        f"seed {world.seed}: {violation}",
        f"again: SIM_SEED={world.seed} SIM_PAYMENTS={payments} python -m pytest tests/simulation -k one_seed",
        f"payment {order} at {world.loop.now:.3f} virtual seconds:",
    ]
    if violation.__cause__ is not None:
        import traceback

        shown += traceback.format_exception(violation.__cause__)
    return "\n".join([*head, *shown])
