"""Events: what a merchant was told, and telling it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Principal
from gateway.api.schemas import Body, EventRedeliver
from gateway.endpoints import delivery_object
from gateway.errors import Problem
from gateway.events import Event
from gateway.ids import EVENT, PAYMENT, is_id
from webhooks.catalog import types_of

FILTERS: Final = ("type", "payment", "created[gte]", "created[lt]")


def event_json(body: bytes) -> Any:
    """An event in an answer: the very bytes that are signed and sent."""
    return orjson.Fragment(body)


class Events(Desk):
    """The event routes over one house."""

    async def list(self, request: Request) -> Response:
        """``GET /v1/events``, newest first."""
        who = await self._principal(request)
        cursor, limit = asking.page(request, FILTERS, EVENT)
        query = request.query_params
        if "payment" in query and not is_id(query["payment"], PAYMENT):
            raise Problem("validation_failed", f"payment must be an id that starts with {PAYMENT}_.", "payment")
        types = types_of([query["type"]]) if "type" in query else None
        if types is not None and not types:
            sentence = "type must be a type such as payment.succeeded (docs/events.md), or a family such as payment.*."
            raise Problem("validation_failed", sentence, "type")
        found = await self._deps.endpoint_books.events(
            who.merchant_id,
            livemode=who.livemode,
            limit=limit + 1,
            before=cursor,
            types=None if types is None else sorted(types),
            payment=query.get("payment"),
            since=asking.instant(query, "created[gte]"),
            until=asking.instant(query, "created[lt]"),
        )
        more = len(found) > limit
        shown = found[:limit]
        return asking.json(
            {
                "object": "list",
                "data": [event_json(body) for _, body in shown],
                "has_more": more,
                "next_cursor": shown[-1][0] if more else None,
            }
        )

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/events/{id}``."""
        who = await self._principal(request)
        return asking.json(event_json((await self._event(request, who)).body))

    async def deliveries(self, request: Request) -> Response:
        """``GET /v1/events/{id}/deliveries``: to which endpoints it went, with every try."""
        who = await self._principal(request)
        event = await self._event(request, who)
        asking.page(request, (), EVENT)  # its endpoints are few: they make one page
        return await self._delivered(event)

    async def redeliver(self, request: Request) -> Response:
        """``POST /v1/events/{id}/redeliver``: to every endpoint that wants it, or to one. It needs no key: receivers know the event's id."""
        who, raw = await self._asked_plainly(request)
        event = await self._event(request, who)
        body = reading.validate(EventRedeliver, raw)
        books = self._deps.endpoint_books
        if body.endpoint is not None:
            endpoint = await books.endpoint(body.endpoint, who.merchant_id, livemode=who.livemode)
            if endpoint is None:
                raise Problem("not_found", "There is no such webhook endpoint.", "endpoint")
        endpoints = await books.redeliver(event.id, body.endpoint)
        if not endpoints:
            which = "No endpoint" if body.endpoint is None else "The endpoint is disabled or deleted, or it"
            wants = "of yours is enabled and wants" if body.endpoint is None else "does not want"
            raise Problem(
                "not_deliverable",
                f"{which} {wants} events of this type, or the event is about to be removed.",
                body.endpoint and "endpoint",
            )
        return await self._delivered(event)

    async def _delivered(self, event: Event) -> Response:
        found = await self._deps.endpoint_books.deliveries_of(event.id)
        return asking.listed_whole([delivery_object(row, tries) for row, tries in found])

    async def _event(self, request: Request, who: Principal) -> Event:
        return await self._named(request, who, EVENT, "event", self._deps.endpoint_books.event)


BODIES: Final[Mapping[str, type[Body]]] = {"redeliver": EventRedeliver}
"""What each verb takes, for the OpenAPI document."""
