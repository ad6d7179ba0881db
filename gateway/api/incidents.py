"""Incidents: what providers said and was not believed, and a person's word that it was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import incident_object
from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Principal
from gateway.api.schemas import Body, IncidentClose
from gateway.errors import Problem
from gateway.ids import INCIDENT, PAYMENT, is_id
from gateway.incidents import Incident, IncidentKind

STATUSES: Final = ("open", "closed")


class Incidents(Desk):
    """The incident routes over one house."""

    async def list(self, request: Request) -> Response:
        """``GET /v1/incidents``, newest first."""
        who = await self._principal(request)
        before, limit = asking.page(request, ("kind", "payment", "status"), INCIDENT)
        found = await self._deps.queries.incidents(
            who.merchant_id, livemode=who.livemode, limit=limit + 1, before=before, **_filters(request.query_params)
        )
        return asking.listed([incident_object(incident) for incident in found], limit)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/incidents/{id}``."""
        return asking.json(incident_object(await self._incident(request, await self._principal(request))))

    async def close(self, request: Request) -> Response:
        """``POST /v1/incidents/{id}/close``: closed again it keeps its first reason, so it needs no key."""
        who, raw = await self._asked_plainly(request)
        incident = await self._incident(request, who)
        body = reading.validate(IncidentClose, raw)
        await self._deps.news_books.close_incident(incident.id, body.reason, self._deps.clock())
        return asking.json(incident_object(await self._incident(request, who)))

    async def _incident(self, request: Request, who: Principal) -> Incident:
        return await self._named(request, who, INCIDENT, "incident", self._deps.queries.incident_of)


def _filters(query: Mapping[str, str]) -> dict[str, Any]:
    """The filters of a list. Raises :class:`Problem` (422) naming the parameter."""
    if "payment" in query and not is_id(query["payment"], PAYMENT):
        raise Problem("validation_failed", f"payment must be an id that starts with {PAYMENT}_.", "payment")
    for name, words in (("kind", tuple(IncidentKind)), ("status", STATUSES)):
        if name in query and query[name] not in words:
            raise Problem("validation_failed", f"{name} must be one of: {', '.join(words)}.", name)
    open_ = None if "status" not in query else query["status"] == "open"
    return {"kind": query.get("kind"), "payment": query.get("payment"), "open": open_}


BODIES: Final[Mapping[str, type[Body]]] = {"close": IncidentClose}
"""What each verb takes, for the OpenAPI document."""
