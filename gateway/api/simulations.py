"""Simulations of routing documents: ``/v1/routing/configs/{id}/simulate`` and ``/v1/routing/simulations``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Authenticator
from gateway.api.schemas import Body, RoutingSimulate
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import ROUTING_VERSION, SIMULATION, new_id
from gateway.simulations import (
    DAYS_DEFAULT,
    DAYS_MAX,
    Simulation,
    SimulationBooks,
    listed_object,
    simulation_object,
    under_way,
)


class Simulations(Desk):
    """The routes of simulations over one house."""

    def __init__(self, deps: Deps, authenticator: Authenticator, books: SimulationBooks) -> None:
        super().__init__(deps, authenticator)
        self._books = books

    async def create(self, request: Request) -> Response:
        """``POST /v1/routing/configs/{id}/simulate``: 202. Asked again while it is under way, the same one is answered: it needs no key."""
        who, raw = await self._asked_plainly(request)
        version = await self._named(request, who, ROUTING_VERSION, "routing config", self._deps.routing_books.version)
        body, now = reading.validate(RoutingSimulate, raw), self._deps.clock()
        starts_at, ends_at = _time(body, now)
        simulation_id = new_id(SIMULATION)
        simulation = await self._books.queue(
            simulation_id,
            version.id,
            who.merchant_id,
            livemode=who.livemode,
            starts_at=starts_at,
            ends_at=ends_at,
            now=now,
        )
        if simulation is None:
            raise Problem("request_in_progress", "Another simulation has ended just now. Send the same request again.")
        if simulation.id != simulation_id and not (
            simulation.version_id == version.id and _same(simulation, body, starts_at, ends_at)
        ):
            raise under_way(simulation)
        answer = asking.json(simulation_object(simulation))
        answer.status_code = 202
        return answer

    async def list(self, request: Request) -> Response:
        """``GET /v1/routing/simulations``: what was asked for in the last 30 days, without the results, newest first."""
        who = await self._principal(request)
        before, limit = asking.page(request, (), SIMULATION)
        found = await self._books.page(who.merchant_id, livemode=who.livemode, limit=limit + 1, before=before)
        return asking.listed([listed_object(simulation) for simulation in found], limit)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/routing/simulations/{id}``: how far it is, and what came of it."""
        who = await self._principal(request)
        return asking.json(
            simulation_object(await self._named(request, who, SIMULATION, "simulation", self._books.find))
        )


def _time(body: RoutingSimulate, now: datetime) -> tuple[datetime, datetime]:
    """The time that is meant. Raises :class:`Problem` (422) naming the field."""
    until = now if body.until is None else reading.instant(body.until, "until")
    if body.days is not None and body.from_ is not None:
        raise Problem("validation_failed", "Send days or from, not both.", "days")
    if body.from_ is None:
        return until - timedelta(days=body.days or DAYS_DEFAULT), until
    start = reading.instant(body.from_, "from")
    if start >= until:
        raise Problem("validation_failed", "until must be later than from.", "until")
    if until - start > timedelta(days=DAYS_MAX):
        raise Problem("validation_failed", f"At most {DAYS_MAX} days.", "from")
    return start, until


def _same(simulation: Simulation, body: RoutingSimulate, starts_at: datetime, ends_at: datetime) -> bool:
    """Whether a simulation is of the time that is meant: what ends now moves on as it is asked for again."""
    until_now = simulation.ends_at == simulation.created_at
    ends_alike = until_now if body.until is None else simulation.ends_at == ends_at
    if body.from_ is not None:
        return ends_alike and simulation.starts_at == starts_at
    return ends_alike and simulation.ends_at - simulation.starts_at == ends_at - starts_at


BODIES: Final[Mapping[str, type[Body]]] = {"simulate_routing_config": RoutingSimulate}
"""What each verb takes, for the OpenAPI document."""
