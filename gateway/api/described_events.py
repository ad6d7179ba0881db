"""What the OpenAPI document says of events, told and heard: webhook endpoints, deliveries, and what providers tell us.

As ``gateway.api.described_routing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.api.described_payments import PAYMENT
from gateway.inbound import Replay, replay_object
from gateway.settings import VERSIONS

ENDPOINT: Final[Mapping[str, Any]] = {
    "id": "we_0193a4c5d6e77f8091a2b3c4d5e6f70d",
    "object": "webhook_endpoint",
    "url": "https://shop.example/hooks",
    "description": None,
    "events": ["payment.*"],
    "status": "enabled",
    "disabled_reason": None,
    "secrets": [{"fingerprint": "1f2e3d4c", "expires": None}],
    "failing_since": None,
    "failed_events": 0,
    "paused_until": None,
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:00.123456Z",
}
_SECRET: Final = {**ENDPOINT, "secret": "whsec_…"}
EVENT: Final[Mapping[str, Any]] = {
    "id": "evt_0193a4c5d6e77f8091a2b3c4d5e6f70e",
    "object": "event",
    "type": "payment.succeeded",
    "timestamp": "2026-11-21T09:30:00.345678Z",
    "api_version": VERSIONS[-1],
    "livemode": False,
    "payment": PAYMENT["id"],
    "sequence": 2,
    "data": PAYMENT,
}
TRY: Final[Mapping[str, Any]] = {
    "object": "delivery_attempt",
    "at": "2026-11-21T09:30:00.456789Z",
    "status": 500,
    "error": None,
    "excerpt": "Internal Server Error",
    "took_ms": 87,
}
DELIVERY: Final[Mapping[str, Any]] = {
    "object": "delivery",
    "endpoint": ENDPOINT["id"],
    "event": EVENT["id"],
    "type": "payment.succeeded",
    "payment": PAYMENT["id"],
    "status": "pending",
    "tries": 1,
    "next_try": "2026-11-21T09:30:05.456789Z",
    "created": "2026-11-21T09:30:00.345678Z",
    "delivered": None,
}
DELIVERIES: Final[Mapping[str, Any]] = {
    "object": "list",
    "data": [{**DELIVERY, "attempts": [TRY]}],
    "has_more": False,
    "next_cursor": None,
}
_REPLAY_EXAMPLE: Final[Mapping[str, Any]] = {
    "object": "webhook_replay",
    "endpoint": ENDPOINT["id"],
    "from": "2026-11-21T00:00:00Z",
    "to": "2026-11-22T00:00:00Z",
    "types": None,
    "status": "failed",
    "dry_run": True,
    "events": 17,
}
ENDPOINT_ID: Final = "/v1/webhook_endpoints/{id}"
ASKED: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    (
        "/v1/webhook_endpoints",
        "create_webhook_endpoint",
        "Say where you want to be told; the secret is in this answer alone",
        {"url": "https://shop.example/hooks", "events": ["payment.*"]},
        "201",
        _SECRET,
    ),
    (
        ENDPOINT_ID,
        "update_webhook_endpoint",
        "Change an endpoint, disable or enable it",
        {"status": "disabled"},
        "200",
        {**ENDPOINT, "status": "disabled", "disabled_reason": "requested"},
    ),
    (
        f"{ENDPOINT_ID}/rotate_secret",
        "rotate_secret",
        "A new secret; the old one signs beside it for 24 hours",
        {"revoke_old": False},
        "200",
        _SECRET,
    ),
    (
        f"{ENDPOINT_ID}/test",
        "test_webhook_endpoint",
        "Send this endpoint an event to try it",
        {},
        "200",
        {
            **EVENT,
            "type": "webhook_endpoint.test",
            "payment": None,
            "sequence": None,
            "data": ENDPOINT,
        },
    ),
    (
        f"{ENDPOINT_ID}/replay",
        "replay_webhook_endpoint",
        "Send the events of a time again: first how many, then in earnest",
        {"from": "2026-11-21T00:00:00Z", "to": "2026-11-22T00:00:00Z"},
        "200",
        _REPLAY_EXAMPLE,
    ),
    ("/v1/events/{id}/redeliver", "redeliver", "Send an event again", {}, "200", DELIVERIES),
)
INBOUND: Final[Mapping[str, Any]] = {
    "id": "iev_0000000000000000000000000000002a",
    "object": "inbound_event",
    "account": "stripe",
    "type": "payment_intent.succeeded",
    "provider_event_id": "evt_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "status": "applied",
    "result": "applied",
    "payment": PAYMENT["id"],
    "verification": {"result": "verified", "secret": "5ad1f0c2"},
    "body_bytes": 3127,
    "tries": 1,
    "waits_for": None,
    "received": "2026-11-21T09:30:00.123456Z",
    "applied": "2026-11-21T09:30:00.128456Z",
    "next_try": None,
    "livemode": False,
}
MEANING: Final[Mapping[str, Any]] = {
    "operation_kind": "authorize",
    "operation": "att_0193a4c5d6e77f8091a2b3c4d5e6f70d",
    "outcome": "approved",
    "provider_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "provider_payment_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "dispute": None,
    "occurred": "2026-11-21T09:29:59.000000Z",
}
REFUSED: Final[Mapping[str, Any]] = {
    "id": "rfs_00000000000000000000000000000007",
    "object": "refused_webhooks",
    "account": "stripe",
    "reason": "signature",
    "minute": "2026-11-21T09:30:00.000000Z",
    "count": 12,
}
SEVERAL_AGAIN: Final = {"account": "stripe", "status": "failed", "dry_run": True}
AGAIN: Final[Mapping[str, Any]] = replay_object(Replay(3, {"operation_not_found": 3}, after=None), dry_run=True)
