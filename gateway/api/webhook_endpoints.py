"""Webhook endpoints: where a merchant is told, what was sent there, and sending it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Principal
from gateway.api.events import event_json
from gateway.api.schemas import Body, EndpointCreate, EndpointReplay, EndpointRotate, EndpointUpdate, Nothing
from gateway.endpoint_books import Endpoint, Range
from gateway.endpoints import (
    checked_url,
    chosen,
    create,
    deleted,
    delivery_object,
    endpoint_object,
    opened,
    replay,
    rotate,
    sealed,
    test,
)
from gateway.errors import Problem
from gateway.ids import ENDPOINT, EVENT, new_id
from idempotency.key import fingerprint
from webhooks.catalog import types_of
from webhooks.signing import Secrets

STATUSES: Final = ("pending", "succeeded", "failed", "canceled")
"""What a delivery may be."""


class WebhookEndpoints(Desk):
    """The endpoint routes over one house."""

    async def create(self, request: Request) -> Response:
        """``POST /v1/webhook_endpoints``. The secret is in this answer and in no other."""
        who, key, raw = await self._asked(request)
        body = reading.validate(EndpointCreate, raw)
        url, (wanted, events) = checked_url(body.url, self._deps), chosen(body.events)
        now, secrets, endpoint_id = self._deps.clock(), Secrets.new(), new_id(ENDPOINT)
        endpoint = Endpoint(
            id=endpoint_id,
            merchant_id=who.merchant_id,
            livemode=who.livemode,
            url=url,
            description=body.description,
            wanted=wanted,
            events=events,
            status="enabled",
            disabled_reason=None,
            sealed_secrets=sealed(secrets, endpoint_id, self._deps.keys.sealer),
            failing_since=None,
            failed_events=0,
            notices=0,
            paused_until=None,
            created_at=now,
            updated_at=now,
        )
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/webhook_endpoints", "", raw)
        return self._answer("create_webhook_endpoint", await create(endpoint, secrets, key, print_, self._deps))

    async def list(self, request: Request) -> Response:
        """``GET /v1/webhook_endpoints``: those that are not deleted, newest first."""
        who = await self._principal(request)
        cursor, limit = asking.page(request, (), ENDPOINT)
        found = await self._deps.endpoint_books.endpoints(
            who.merchant_id, livemode=who.livemode, limit=limit + 1, before=cursor
        )
        return asking.listed([self._shown(endpoint) for endpoint in found], limit)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/webhook_endpoints/{id}``, also of a deleted one."""
        who = await self._principal(request)
        return asking.json(self._shown(await self._endpoint(request, who)))

    async def update(self, request: Request) -> Response:
        """``POST /v1/webhook_endpoints/{id}``: sent again it changes nothing more, so it needs no key."""
        who, raw = await self._asked_plainly(request)
        endpoint = await self._endpoint(request, who)
        body = reading.validate(EndpointUpdate, raw)
        changes = {name: getattr(body, name) for name in body.model_fields_set}
        for name in ("url", "status"):
            if name in changes and changes[name] is None:
                raise Problem("validation_failed", f"{name} cannot be null.", name)
        if body.url is not None:
            checked_url(body.url, self._deps)
        if "events" in changes:
            changes["wanted"], changes["events"] = chosen(body.events)
        changed = await self._deps.endpoint_books.update(endpoint.id, changes, self._deps.clock())
        if changed is None:
            raise deleted()
        return asking.json(self._shown(changed))

    async def delete(self, request: Request) -> Response:
        """``DELETE /v1/webhook_endpoints/{id}``. Deleting it again answers the same."""
        who = await self._principal(request)
        endpoint = await self._endpoint(request, who)
        await self._deps.endpoint_books.delete(endpoint.id, self._deps.clock())
        return asking.json(self._shown(await self._endpoint(request, who)))

    async def rotate_secret(self, request: Request) -> Response:
        """``POST /v1/webhook_endpoints/{id}/rotate_secret``. The new secret is in this answer and in no other."""
        who, raw = await self._asked_plainly(request)
        endpoint = await self._endpoint(request, who)
        body = reading.validate(EndpointRotate, raw)
        endpoint, secrets = await rotate(endpoint, self._deps, revoke_old=body.revoke_old)
        shown = endpoint_object(endpoint, secrets, self._deps.clock())
        return asking.json({**shown, "secret": secrets.newest.secret})

    async def test(self, request: Request) -> Response:
        """``POST /v1/webhook_endpoints/{id}/test``: an event for this endpoint alone."""
        who, raw = await self._asked_plainly(request)
        endpoint = await self._endpoint(request, who)
        reading.validate(Nothing, raw)
        return asking.json(event_json((await test(endpoint, self._deps)).body))

    async def deliveries(self, request: Request) -> Response:
        """``GET /v1/webhook_endpoints/{id}/deliveries``: what was sent there, the newest event first."""
        who = await self._principal(request)
        endpoint = await self._endpoint(request, who)
        cursor, limit = asking.page(request, ("status",), EVENT)
        status = request.query_params.get("status")
        if status is not None and status not in STATUSES:
            raise Problem("validation_failed", f"status must be one of: {', '.join(STATUSES)}.", "status")
        rows = await self._deps.endpoint_books.deliveries_to(endpoint.id, limit=limit + 1, before=cursor, status=status)
        return asking.listed([delivery_object(row) for row in rows], limit, cursor="event")

    async def replay(self, request: Request) -> Response:
        """``POST /v1/webhook_endpoints/{id}/replay``: how many events it would be sent again, or sending them."""
        who, raw = await self._asked_plainly(request)
        endpoint = await self._endpoint(request, who)
        body = reading.validate(EndpointReplay, raw)
        start, end = reading.instant(body.from_, "from"), reading.instant(body.to, "to")
        if start >= end:
            raise Problem("validation_failed", "to must be later than from.", "to")
        for at, name in enumerate(body.types or ()):
            if not types_of([name]):
                raise Problem("validation_failed", "Send types such as payment.succeeded.", f"types.{at}")
        types = None if body.types is None else types_of(body.types)
        wanted = Range(start, end, types, everything=body.status == "all")
        events = await replay(endpoint, wanted, self._deps, dry_run=body.dry_run)
        return asking.json(
            {
                "object": "webhook_replay",
                "endpoint": endpoint.id,
                "from": body.from_,
                "to": body.to,
                "types": body.types,
                "status": body.status,
                "dry_run": body.dry_run,
                "events": events,
            }
        )

    # --- parts ---

    async def _endpoint(self, request: Request, who: Principal) -> Endpoint:
        return await self._named(request, who, ENDPOINT, "webhook endpoint", self._deps.endpoint_books.endpoint)

    def _shown(self, endpoint: Endpoint) -> dict[str, Any]:
        return endpoint_object(endpoint, opened(endpoint, self._deps.keys.sealer), self._deps.clock())


BODIES: Final[Mapping[str, type[Body]]] = {
    "create_webhook_endpoint": EndpointCreate,
    "update_webhook_endpoint": EndpointUpdate,
    "rotate_secret": EndpointRotate,
    "test_webhook_endpoint": Nothing,
    "replay_webhook_endpoint": EndpointReplay,
}
"""What each verb takes, for the OpenAPI document."""
