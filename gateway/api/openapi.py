"""The OpenAPI document, printed from the schemas that validate and the table of problems that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from gateway.api import (
    described_metrics,
    described_monitors,
    described_routing,
    disputes,
    events,
    inbound,
    incidents,
    methods,
    monitors,
    payments,
    routing,
    simulations,
    webhook_endpoints,
)
from gateway.api.metrics import catalog
from gateway.api.policies import policy_object
from gateway.api.schemas import Body
from gateway.api.strategies import strategy_object
from gateway.errors import MEDIA_TYPE, PROBLEMS
from gateway.evidence import Model, Position, Use
from gateway.explained import decision_object
from gateway.inbound import Replay, replay_object
from gateway.policies import DEFAULTS, POLICIES
from gateway.settings import VERSIONS
from routing.decision import Candidate, Decision, Facts
from routing.strategies import make

BODIES: Final[Mapping[str, type[Body]]] = {
    **payments.BODIES,
    **disputes.BODIES,
    **incidents.BODIES,
    **methods.BODIES,
    **webhook_endpoints.BODIES,
    **events.BODIES,
    **inbound.BODIES,
    **routing.BODIES,
    **simulations.BODIES,
    **monitors.BODIES,
}
"""What each operation takes, by its id."""

_PAYMENT_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "object": "payment",
    "status": "succeeded",
    "amount": 1999,
    "currency": "EUR",
    "amount_capturable": 0,
    "amount_received": 1999,
    "amount_refunded": 0,
    "capture_method": "automatic",
    "account": "stripe",
    "provider": "stripe",
    "provider_payment_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "network_transaction_id": "104557651805572",
    "processing_reason": None,
    "decline": None,
    "next_action": None,
    "payment_method": "pm_0193a4c5d6e77f8091a2b3c4d5e6f709",
    "card": {"brand": "visa", "bin": "424242", "last4": "4242"},
    "captures": [],
    "reference": "order-1001",
    "customer": None,
    "metadata": {"cart": "77"},
    "livemode": False,
    "attempt_count": 1,
    "review": [],
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:00.345678Z",
}
_DECISION_EXAMPLE: Final = Decision(
    version="rt_0193a4c5d6e77f8091a2b3c4d5e6f710",
    rule="european cards",
    kind="priority",
    strategy=None,
    facts=Facts(
        payment_id=_PAYMENT_EXAMPLE["id"],
        merchant_id="mer_shop",
        livemode=False,
        amount=1999,
        currency="EUR",
        at=datetime(2026, 11, 21, 9, 30, 0, 123456, UTC),
        brand="visa",
        bin="424242",
        three_d_secure="automatic",
        metadata={"cart": "77"},
    ),
    candidates=(
        Candidate("stripe", propensity=1.0),
        Candidate("adyen", "currency_not_configured", propensity=0.0, why_not="ineligible"),
    ),
    route=("stripe",),
)
_ROUTING_EXAMPLE: Final[Mapping[str, Any]] = {
    "object": "payment_routing",
    "payment": _PAYMENT_EXAMPLE["id"],
    "route": ["stripe"],
    "attempts": [
        {
            "object": "attempt_routing",
            "attempt": "att_0193a4c5d6e77f8091a2b3c4d5e6f709",
            "account": "stripe",
            "round": 1,
            "status": "captured",
            "created": "2026-11-21T09:30:00.123456Z",
            "allowed_by": None,
            "decision": decision_object(_DECISION_EXAMPLE),
            "cascade": None,
            "sentence": _DECISION_EXAMPLE.sentence,
        }
    ],
    "livemode": False,
}
_STRATEGY_EXAMPLE: Final = strategy_object(
    Model(
        Use("mer_shop", False, "adaptive", ("stripe", "adyen"), {"constraints": {"explore_max": 2}}),
        make("adaptive", ("stripe", "adyen"), prior={"stripe": 0.92, "adyen": 0.9}),
        Position(),
        folded=4120,
        heard={"stripe": {"approved": 3712, "declined_ambiguous": 241}, "adyen": {"approved": 150, "technical": 17}},
        at=1795253400.0,
        ready=True,
    ),
    lag_s=0.2,
    now=1795253400.0,
)
_REFUND_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "re_0193a4c5d6e77f8091a2b3c4d5e6f70a",
    "object": "refund",
    "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "status": "succeeded",
    "amount": 500,
    "currency": "EUR",
}
_DISPUTE_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "dp_0193a4c5d6e77f8091a2b3c4d5e6f70b",
    "object": "dispute",
    "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "status": "needs_response",
    "amount": 1999,
    "currency": "EUR",
    "reason": "product_not_received",
    "network_reason_code": "13.1",
    "respond_by": "2026-12-05T23:59:59.000000Z",
    "account": "stripe",
}
_INCIDENT_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "in_0193a4c5d6e77f8091a2b3c4d5e6f70d",
    "object": "incident",
    "kind": "amount_mismatch",
    "status": "closed",
    "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "operation": "att_0193a4c5d6e77f8091a2b3c4d5e6f709",
    "account": "stripe",
    "details": {
        "source": "webhook",
        "said": {"outcome": "Approved", "provider_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d", "amount": 1, "currency": "EUR"},
        "known": {
            "kind": "authorize",
            "account": "stripe",
            "status": "unknown",
            "amount": 1999,
            "currency": "EUR",
            "amount_captured": 0,
        },
    },
    "reason": "The provider's support has corrected it: case 4711.",
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "closed": "2026-11-21T11:02:41.000000Z",
}
_ACCOUNT_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "stripe",
    "object": "account",
    "provider": "stripe",
    "livemode": False,
    "currencies": None,
    "capabilities": {"several_captures": False, "partial_refund": True},
    "on_request": ["several_captures"],
    "idempotency_horizon_s": 72000,
}
_POLICY_EXAMPLE: Final[Mapping[str, Any]] = policy_object(
    "redis_loss",
    POLICIES["redis_loss"],
    DEFAULTS["redis_loss"],
    {("redis", "idempotency_gate"): {"fail_open": 3, "fail_closed": 0}},
)
_METHOD_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "pm_0193a4c5d6e77f8091a2b3c4d5e6f709",
    "object": "payment_method",
    "type": "card",
    "customer": "cus_0193a4c5d6e77f8091a2b3c4d5e6f70b",
    "reusable": True,
    "deleted": False,
    "tokens": ["adyen"],
    "card": {
        "brand": "visa",
        "bin": "424242",
        "last4": "4242",
        "exp_month": 12,
        "exp_year": 2030,
        "funding": "credit",
        "country": "DE",
        "fingerprint": "5ad1f0c2a4e14d1e8f37c2a5f7b9d0e3",
    },
    "network_transaction_id": "104557651805572",
    "billing_details": {"name": "Ada Lovelace"},
    "metadata": {},
    "verification": {
        "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f70c",
        "status": "succeeded",
        "account": "adyen",
        "next_action": None,
        "decline": None,
    },
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:00.345678Z",
}
_CUSTOMER_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "cus_0193a4c5d6e77f8091a2b3c4d5e6f70b",
    "object": "customer",
    "deleted": False,
    "reference": "c-77",
    "name": "Ada Lovelace",
    "email": "ada@example.com",
    "phone": None,
    "metadata": {},
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:00.123456Z",
}
_ENDPOINT_EXAMPLE: Final[Mapping[str, Any]] = {
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
_SECRET: Final = {**_ENDPOINT_EXAMPLE, "secret": "whsec_…"}
_EVENT_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "evt_0193a4c5d6e77f8091a2b3c4d5e6f70e",
    "object": "event",
    "type": "payment.succeeded",
    "timestamp": "2026-11-21T09:30:00.345678Z",
    "api_version": VERSIONS[-1],
    "livemode": False,
    "payment": _PAYMENT_EXAMPLE["id"],
    "sequence": 2,
    "data": _PAYMENT_EXAMPLE,
}
_TRY_EXAMPLE: Final[Mapping[str, Any]] = {
    "object": "delivery_attempt",
    "at": "2026-11-21T09:30:00.456789Z",
    "status": 500,
    "error": None,
    "excerpt": "Internal Server Error",
    "took_ms": 87,
}
_DELIVERY_EXAMPLE: Final[Mapping[str, Any]] = {
    "object": "delivery",
    "endpoint": _ENDPOINT_EXAMPLE["id"],
    "event": _EVENT_EXAMPLE["id"],
    "type": "payment.succeeded",
    "payment": _PAYMENT_EXAMPLE["id"],
    "status": "pending",
    "tries": 1,
    "next_try": "2026-11-21T09:30:05.456789Z",
    "created": "2026-11-21T09:30:00.345678Z",
    "delivered": None,
}
_DELIVERIES: Final[Mapping[str, Any]] = {
    "object": "list",
    "data": [{**_DELIVERY_EXAMPLE, "attempts": [_TRY_EXAMPLE]}],
    "has_more": False,
    "next_cursor": None,
}
_REPLAY_EXAMPLE: Final[Mapping[str, Any]] = {
    "object": "webhook_replay",
    "endpoint": _ENDPOINT_EXAMPLE["id"],
    "from": "2026-11-21T00:00:00Z",
    "to": "2026-11-22T00:00:00Z",
    "types": None,
    "status": "failed",
    "dry_run": True,
    "events": 17,
}
_CREATE: Final = {
    "amount": 1999,
    "currency": "EUR",
    "confirm": True,
    "payment_method_data": {
        "type": "card",
        "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "cvc": "123"},
    },
    "reference": "order-1001",
    "metadata": {"cart": "77"},
}
_TOKEN: Final = {"payment_method_data": {"type": "token", "tokens": {"stripe": "pm_card_visa"}}}

# path, verb, name, summary, request example, success statuses, answer example
_MONEY: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    ("/v1/payments", "create", "Create a payment; with confirm, charge at once", _CREATE, "201", _PAYMENT_EXAMPLE),
    ("/v1/payments/{id}/confirm", "confirm", "Charge a payment that is there", _TOKEN, "200", _PAYMENT_EXAMPLE),
    ("/v1/payments/{id}/capture", "capture", "Capture an authorization", {"amount": 1999}, "200", _PAYMENT_EXAMPLE),
    ("/v1/payments/{id}/cancel", "cancel", "Cancel: void what is authorized", {}, "200", _PAYMENT_EXAMPLE),
    (
        "/v1/payments/{id}/increment",
        "increment",
        "Change the authorized amount before a capture",
        {"amount": 2499},
        "200",
        _PAYMENT_EXAMPLE,
    ),
    (
        "/v1/payments/{id}/details",
        "details",
        "Complete a native 3-D Secure challenge; it needs no key",
        {"details": {"threeDSResult": "eyJ0cmFuc1N0YXR1cyI6IlkifQ=="}},
        "200",
        _PAYMENT_EXAMPLE,
    ),
    (
        "/v1/payments/{id}/resolve",
        "resolve",
        "Settle what no machine could: an operation in review, by a person's word",
        {
            "outcome": "succeeded",
            "provider_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
            "reason": "The provider's support has confirmed the charge.",
            "evidence": "ticket 4711; settlement report of 2026-11-20, line 12",
        },
        "200",
        _PAYMENT_EXAMPLE,
    ),
    (
        "/v1/disputes/{id}/evidence",
        "evidence",
        "Contest a dispute; what is sent is submitted at once",
        {"text": {"product_description": "A chair, delivered on 3 May."}},
        "200",
        _DISPUTE_EXAMPLE,
    ),
    ("/v1/disputes/{id}/accept", "accept", "Give a dispute up", {}, "200", _DISPUTE_EXAMPLE),
    (
        "/v1/refunds",
        "refund",
        "Refund a captured payment, whole or in part",
        {"payment": _PAYMENT_EXAMPLE["id"], "amount": 500},
        "201",
        _REFUND_EXAMPLE,
    ),
)
_STORE: Final = {
    "type": "card",
    "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "cvc": "123"},
    "customer": _CUSTOMER_EXAMPLE["id"],
    "verify": True,
    "currency": "EUR",
}
_ADD: Final = {"tokens": {"adyen": "8415999999999999"}}
_PERSON: Final = {"reference": "c-77", "name": "Ada Lovelace", "email": "ada@example.com"}
_METHOD_ID: Final = "/v1/payment_methods/{id}"
_STORING: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    (
        "/v1/payment_methods",
        "create_payment_method",
        "Store a card or tokens; with verify, ask the issuer",
        _STORE,
        "201",
        _METHOD_EXAMPLE,
    ),
    (_METHOD_ID, "update_payment_method", "Add tokens, or attach to a customer", _ADD, "200", _METHOD_EXAMPLE),
    ("/v1/customers", "create_customer", "Store a customer", _PERSON, "201", _CUSTOMER_EXAMPLE),
    (
        "/v1/incidents/{id}/close",
        "close",
        "Say that an incident was looked at",
        {"reason": _INCIDENT_EXAMPLE["reason"]},
        "200",
        _INCIDENT_EXAMPLE,
    ),
)
_ENDPOINT_ID: Final = "/v1/webhook_endpoints/{id}"
_TELLING: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    (
        "/v1/webhook_endpoints",
        "create_webhook_endpoint",
        "Say where you want to be told; the secret is in this answer alone",
        {"url": "https://shop.example/hooks", "events": ["payment.*"]},
        "201",
        _SECRET,
    ),
    (
        _ENDPOINT_ID,
        "update_webhook_endpoint",
        "Change an endpoint, disable or enable it",
        {"status": "disabled"},
        "200",
        {**_ENDPOINT_EXAMPLE, "status": "disabled", "disabled_reason": "requested"},
    ),
    (
        f"{_ENDPOINT_ID}/rotate_secret",
        "rotate_secret",
        "A new secret; the old one signs beside it for 24 hours",
        {"revoke_old": False},
        "200",
        _SECRET,
    ),
    (
        f"{_ENDPOINT_ID}/test",
        "test_webhook_endpoint",
        "Send this endpoint an event to try it",
        {},
        "200",
        {
            **_EVENT_EXAMPLE,
            "type": "webhook_endpoint.test",
            "payment": None,
            "sequence": None,
            "data": _ENDPOINT_EXAMPLE,
        },
    ),
    (
        f"{_ENDPOINT_ID}/replay",
        "replay_webhook_endpoint",
        "Send the events of a time again: first how many, then in earnest",
        {"from": "2026-11-21T00:00:00Z", "to": "2026-11-22T00:00:00Z"},
        "200",
        _REPLAY_EXAMPLE,
    ),
    ("/v1/events/{id}/redeliver", "redeliver", "Send an event again", {}, "200", _DELIVERIES),
)
_FILTERS: Final = (
    "limit",
    "cursor",
    "status",
    "reference",
    "customer",
    "currency",
    "needs_review",
    "created[gte]",
    "created[lt]",
)


def document() -> dict[str, Any]:
    """The whole document. The same on every call."""
    schemas: dict[str, Any] = {"Problem": _problem_schema()}
    paths: dict[str, Any] = {}
    for path, verb, summary, example, ok, answer in (
        *_MONEY,
        *_STORING,
        *_TELLING,
        *described_routing.ASKED,
        *described_monitors.ASKED,
    ):
        model = BODIES[verb]
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
        paths.setdefault(path, {})["post"] = _post(path, verb, summary, model.__name__, example, ok, answer)
    page = {"object": "list", "data": [_PAYMENT_EXAMPLE], "has_more": False, "next_cursor": None}
    paths["/v1/payments"]["get"] = _get("List payments, newest first", page, [_query(name) for name in _FILTERS])
    paths["/v1/payments/{id}"] = {"get": _get("Retrieve a payment", _PAYMENT_EXAMPLE, [_PATH_ID, _query("expand[]")])}
    paths["/v1/payments/{id}/routing"] = {
        "get": _get("Why each attempt of a payment went where it did", _ROUTING_EXAMPLE, [_PATH_ID])
    }
    paths["/v1/refunds/{id}"] = {"get": _get("Retrieve a refund", _REFUND_EXAMPLE, [_PATH_ID])}
    page = page | {"data": [_DISPUTE_EXAMPLE]}
    filters = [_query(name) for name in ("limit", "cursor", "status", "payment")]
    paths["/v1/disputes"] = {"get": _get("List disputes, newest first", page, filters)}
    paths["/v1/disputes/{id}"] = {"get": _get("Retrieve a dispute", _DISPUTE_EXAMPLE, [_PATH_ID])}
    page = page | {"data": [_INCIDENT_EXAMPLE]}
    filters = [_query(name) for name in ("limit", "cursor", "kind", "payment", "status")]
    paths["/v1/incidents"] = {"get": _get("List incidents, newest first", page, filters)}
    paths["/v1/incidents/{id}"] = {"get": _get("Retrieve an incident", _INCIDENT_EXAMPLE, [_PATH_ID])}
    page = page | {"data": [_ACCOUNT_EXAMPLE]}
    paths["/v1/accounts"] = {"get": _get("The accounts, and what each is able to do", page, [])}
    page = page | {"data": [_POLICY_EXAMPLE]}
    paths["/v1/policies"] = {"get": _get("What is done without each part that may be lost", page, [])}
    page = page | {"data": [_STRATEGY_EXAMPLE]}
    paths["/v1/routing/strategies"] = {"get": _get("The strategies in force, and what they have learned", page, [])}
    paths |= _measured()
    paths["/v1/return/{token}"] = {"get": {**_RETURN}}
    paths |= _stored(paths)
    paths |= _told(paths)
    paths |= _routed(paths)
    paths |= _inbound(schemas)
    paths |= _simulated(schemas)
    paths |= _watched(paths)
    paths["/v1/webhooks/{account}"] = {"post": {**_WEBHOOK}}
    paths["/healthz"] = {"get": _plain("Whether the process runs", {"status": "ok"})}
    paths["/readyz"] = {"get": _plain("Whether requests can be served", _READY_EXAMPLE)}
    paths["/metrics"] = {"get": _plain("Prometheus metrics", "", media_type="text/plain")}
    for path, operations in paths.items():
        for operation in operations.values():
            operation["tags"] = [_tag(path)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Interlock",
            "version": VERSIONS[0],
            "description": "One payments API in front of several providers. Amounts are integers of minor units.",
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A secret key, sk_…"}},
        },
        "security": [{"key": []}],
    }


def _stored(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Payment methods and customers, with what is read of them and how they are deleted."""
    stored: dict[str, Any] = {}
    for path, what, example, filters in (
        ("/v1/payment_methods", "payment method", _METHOD_EXAMPLE, ("customer", "fingerprint")),
        ("/v1/customers", "customer", _CUSTOMER_EXAMPLE, ("reference",)),
    ):
        page = {"object": "list", "data": [example], "has_more": False, "next_cursor": None}
        queries = [_query(name) for name in ("limit", "cursor", *filters)]
        stored[path] = {**paths[path], "get": _get(f"List {what}s, newest first", page, queries)}
        stored[f"{path}/{{id}}"] = {
            **paths.get(f"{path}/{{id}}", {}),
            "get": _get(f"Retrieve a {what}, also a deleted one", example, [_PATH_ID]),
            "delete": _get(f"Delete a {what}", {**example, "deleted": True}, [_PATH_ID]),
        }
    return stored


def _told(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Events and the endpoints they go to, with what is read of them."""

    def page(example: Mapping[str, Any]) -> dict[str, Any]:
        return {"object": "list", "data": [example], "has_more": False, "next_cursor": None}

    filters = [_query(name) for name in ("limit", "cursor", *events.FILTERS)]
    at = [_PATH_ID, *(_query(name) for name in ("limit", "cursor", "status"))]
    gone = {**_ENDPOINT_EXAMPLE, "status": "deleted", "secrets": []}
    last = {**_DELIVERY_EXAMPLE, "last_attempt": _TRY_EXAMPLE}
    paged = [_query(name) for name in ("limit", "cursor")]
    return {
        "/v1/webhook_endpoints": {
            **paths["/v1/webhook_endpoints"],
            "get": _get("List webhook endpoints, newest first", page(_ENDPOINT_EXAMPLE), paged),
        },
        _ENDPOINT_ID: {
            **paths[_ENDPOINT_ID],
            "get": _get("Retrieve a webhook endpoint, also a deleted one", _ENDPOINT_EXAMPLE, [_PATH_ID]),
            "delete": _get("Delete a webhook endpoint", gone, [_PATH_ID]),
        },
        f"{_ENDPOINT_ID}/deliveries": {"get": _get("What was sent there, the newest event first", page(last), at)},
        "/v1/events": {"get": _get("List events, newest first", page(_EVENT_EXAMPLE), filters)},
        "/v1/events/{id}": {"get": _get("Retrieve an event, as it was sent", _EVENT_EXAMPLE, [_PATH_ID])},
        "/v1/events/{id}/deliveries": {
            "get": _get("To which endpoints an event went, with every try", _DELIVERIES, [_PATH_ID])
        },
    }


def _routed(paths: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of routing, beside what is asked of it."""
    return {
        path: {**paths.get(path, {}), "get": _get(summary, example, list(map(_parameter, parameters)))}
        for path, summary, example, parameters in described_routing.READ
    }


def _parameter(name: str) -> dict[str, Any]:
    return _PATH_ID if name == "id" else _query(name)


_INBOUND_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "iev_0000000000000000000000000000002a",
    "object": "inbound_event",
    "account": "stripe",
    "type": "payment_intent.succeeded",
    "provider_event_id": "evt_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "status": "applied",
    "result": "applied",
    "payment": _PAYMENT_EXAMPLE["id"],
    "verification": {"result": "verified", "secret": "5ad1f0c2"},
    "body_bytes": 3127,
    "tries": 1,
    "waits_for": None,
    "received": "2026-11-21T09:30:00.123456Z",
    "applied": "2026-11-21T09:30:00.128456Z",
    "next_try": None,
    "livemode": False,
}
_MEANING_EXAMPLE: Final[Mapping[str, Any]] = {
    "operation_kind": "authorize",
    "operation": "att_0193a4c5d6e77f8091a2b3c4d5e6f70d",
    "outcome": "approved",
    "provider_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "provider_payment_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "dispute": None,
    "occurred": "2026-11-21T09:29:59.000000Z",
}
_REFUSED_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "rfs_00000000000000000000000000000007",
    "object": "refused_webhooks",
    "account": "stripe",
    "reason": "signature",
    "minute": "2026-11-21T09:30:00.000000Z",
    "count": 12,
}
_AGAIN_EXAMPLE: Final[Mapping[str, Any]] = replay_object(
    Replay(3, {"operation_not_found": 3}, after=None), dry_run=True
)


def _inbound(schemas: dict[str, Any]) -> dict[str, Any]:
    """What providers told: read, and applied again."""
    page = {"object": "list", "data": [_INBOUND_EXAMPLE], "has_more": False, "next_cursor": None}
    filters = [_query(name) for name in ("limit", "cursor", *inbound.FILTERS)]
    refused = {**page, "data": [_REFUSED_EXAMPLE]}
    refused_filters = [_query(name) for name in ("limit", "cursor", *inbound.REFUSED_FILTERS)]
    one = {**_INBOUND_EXAMPLE, "meaning": _MEANING_EXAMPLE}
    waiting = {**_INBOUND_EXAMPLE, "status": "waiting", "applied": None, "next_try": _INBOUND_EXAMPLE["received"]}
    path = "/v1/inbound_events"
    return {
        path: {"get": _get("List what providers told us, newest first", page, filters)},
        f"{path}/refused": {"get": _get("Count the webhooks that were not believed", refused, refused_filters)},
        f"{path}/replay": {
            "post": _again(schemas, "replay_inbound_events", "Apply several again, or only count them", _AGAIN_EXAMPLE)
        },
        f"{path}/{{id}}": {"get": _get("Retrieve what a provider told us, and what it meant", one, [_PATH_ID])},
        f"{path}/{{id}}/replay": {
            "post": _again(schemas, "replay_inbound_event", "Apply one again", waiting, [_PATH_ID])
        },
    }


_SIMULATION_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "sim_0193a4c5d6e77f8091a2b3c4d5e6f711",
    "object": "routing_simulation",
    "config": "rt_0193a4c5d6e77f8091a2b3c4d5e6f712",
    "status": "succeeded",
    "progress_percent": 100,
    "payments": 31204,
    "from": "2026-10-22T09:30:00.000000Z",
    "until": "2026-11-21T09:30:00.000000Z",
    "result": {
        "sentence": "The draft changes 9,361 of 31,204 decisions (30.0%). Expected authorization rate 88.00 % (87.41 to 88.57), recorded"
        " 85.01 %: +2.99 points (+2.48 to +3.50).",
        "decisions": {
            "changed": 9361,
            "moves": [{"recorded": "adyen", "draft": "stripe", "payments": 9361}],
            "rules": [{"rule": "default", "payments": 31204}],
        },
        "authorization_rate": {
            "payments": 30988,
            "recorded": {"value": 0.850103, "low": 0.846083, "high": 0.854033},
            "draft": {"value": 0.880012, "low": 0.874103, "high": 0.885678},
            "difference": {"value": 0.029909, "low": 0.024801, "high": 0.035017},
            "effective_payments": 22785.3,
            "not_covered": 0.0,
            "refused": None,
        },
    },
    "error": None,
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:09.654321Z",
}


def _simulated(schemas: dict[str, Any]) -> dict[str, Any]:
    """What a routing document would have done."""
    queued = {**_SIMULATION_EXAMPLE, "status": "queued", "progress_percent": 0, "payments": None, "result": None}
    ask = _again(
        schemas, "simulate_routing_config", "Replay a routing config over your own payments", queued, [_PATH_ID]
    )
    ask["responses"]["202"] = ask["responses"].pop("200")
    listed = {name: value for name, value in _SIMULATION_EXAMPLE.items() if name != "result"}
    page = {"object": "list", "data": [listed], "has_more": False, "next_cursor": None}
    return {
        "/v1/routing/configs/{id}/simulate": {"post": ask},
        "/v1/routing/simulations": {
            "get": _get(
                "List simulations without their results, newest first", page, [_query("limit"), _query("cursor")]
            )
        },
        "/v1/routing/simulations/{id}": {
            "get": _get("Retrieve a simulation: how far it is, and what came of it", _SIMULATION_EXAMPLE, [_PATH_ID])
        },
    }


def _measured() -> dict[str, Any]:
    """The rates."""
    rate = _get(
        "What a rate comes to, by its dimensions and over time", described_metrics.EXAMPLE, described_metrics.PARAMETERS
    )
    rate["responses"]["200"]["content"]["text/csv"] = {"schema": {"type": "string"}, "example": described_metrics.TABLE}
    return {
        "/v1/metrics": {"get": _get("Every rate with its definition, and every dimension", catalog(), [])},
        "/v1/metrics/{metric}": {"get": rate},
    }


def _watched(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Monitors and what they find, with what is read of them."""
    page = {
        "object": "list",
        "data": [described_monitors.OWN, described_monitors.BUILTIN],
        "has_more": False,
        "next_cursor": None,
    }
    found = {**page, "data": [described_monitors.INCIDENT]}
    of_one = [_query(name) for name in ("limit", "cursor", "status", "severity")]
    path, incidents_path = "/v1/monitors", "/v1/monitor_incidents"
    one, seen = f"{path}/{{id}}", f"{incidents_path}/{{id}}/acknowledge"
    return {
        path: {
            **paths[path],
            "get": _get("List your monitors, then the built-in ones", page, [_query("limit"), _query("cursor")]),
        },
        one: {
            **paths[one],
            "get": _get(
                "Retrieve a monitor, with what was done about it",
                {**described_monitors.OWN, "changes": described_monitors.CHANGES},
                [_PATH_ID],
            ),
            "delete": _get(
                "Delete a monitor; a built-in one can be muted",
                {"id": described_monitors.OWN["id"], "object": "monitor", "deleted": True},
                [_PATH_ID],
            ),
        },
        f"{one}/incidents": {"get": _get("List what a monitor has found, newest first", found, [_PATH_ID, *of_one])},
        incidents_path: {
            "get": _get("List what monitors have found, newest first", found, [*of_one, _query("monitor")])
        },
        f"{incidents_path}/{{id}}": {
            "get": _get("Retrieve an incident of a monitor", described_monitors.INCIDENT, [_PATH_ID])
        },
        seen: paths[seen],
    }


def _again(
    schemas: dict[str, Any], verb: str, summary: str, answer: Mapping[str, Any], parameters: Sequence[Any] = ()
) -> dict[str, Any]:
    """A POST that may be sent any number of times, and so needs no key."""
    model = BODIES[verb]
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    schemas[model.__name__] = schema
    example = {} if parameters else {"account": "stripe", "status": "failed", "dry_run": True}
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}}
    return {
        **_get(summary, answer, list(parameters)),
        "operationId": verb,
        "requestBody": {"required": not parameters, "content": content},
    }


_TAGS: Final[Mapping[str, str]] = {
    "payments": "Charge a card or a token, and what follows from it.",
    "refunds": "Give money back.",
    "disputes": "What a cardholder contests, and what you answer.",
    "incidents": "What a provider said that cannot be, and was not believed.",
    "routing": "Which account is asked: versions of your rules, what is in force, and what a draft would have done.",
    "metrics": "How many are approved: every rate by its published definition.",
    "monitors": "What is watched: drops, missing traffic, thresholds.",
    "monitor_incidents": "What monitors have found, what it costs an hour, and where to look.",
    "accounts": "Where payments may go, and what each account is able to do.",
    "payment_methods": "Cards and tokens that are kept to be charged again.",
    "customers": "Who pays.",
    "events": "What you were told.",
    "webhook_endpoints": "Where you are told.",
    "webhooks": "What providers tell us.",
    "inbound_events": "What providers have told us, and what became of it.",
    "operations": "For whoever runs it.",
}


def _tag(path: str) -> str:
    return next((tag for tag in _TAGS if path.split("/")[2:3] == [tag]), "operations")


_BODILESS: Final = frozenset(
    {
        "confirm",
        "capture",
        "cancel",
        "accept",
        "rotate_secret",
        "test_webhook_endpoint",
        "redeliver",
        "approve_publication",
        "acknowledge_monitor_incident",
    }
)
"""Verbs that may be asked without a body."""
_KEYLESS: Final = frozenset(
    {"details", "update_payment_method", "close", "lint_routing_config", "dry_run_routing_config", "update_monitor"}
    | {"acknowledge_monitor_incident"}
    | (webhook_endpoints.BODIES.keys() | events.BODIES.keys()) - {"create_webhook_endpoint"}
)
"""Verbs that need no idempotency key: asked again they change nothing more, or nothing that matters."""
_DECIDED: Final = frozenset(
    {"update_payment_method", "create_customer", "close"}
    | monitors.BODIES.keys()
    | webhook_endpoints.BODIES.keys()
    | events.BODIES.keys()
    | (routing.BODIES.keys() - {"publish_routing_config"})
)
"""Verbs that never wait for a provider."""
_PATH_ID: Final = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_RETURN: Final = {
    "summary": "Where the shopper's browser comes back from a challenge; it is sent on to the payment's return_url",
    "security": [],
    "parameters": [{"name": "token", "in": "path", "required": True, "schema": {"type": "string"}}],
    "responses": {
        "303": {"description": "On to return_url?payment=pay_…"},
        "200": {"description": "A page that says thank you, where the payment has no return_url"},
        "404": {"description": "Not an address of ours"},
    },
}
_READY_EXAMPLE: Final = {"status": "ready", "postgres": "ok", "migrations": "ok", "redis": "ok", "clock": "ok"}
_WEBHOOK: Final = {
    "summary": "A provider's webhook, in the provider's own form",
    "security": [],
    "parameters": [{"name": "account", "in": "path", "required": True, "schema": {"type": "string"}}],
    "requestBody": {"content": {"application/json": {"example": {"id": "evt_1", "type": "payment_intent.succeeded"}}}},
    "responses": {
        "200": {"description": "Stored"},
        "400": {"description": "Not readable; nothing was stored"},
        "401": {"description": "Not authentic; nothing was stored"},
        "408": {"description": "Too slow; nothing was stored"},
        "413": {"description": "Too large; nothing was stored"},
        "415": {"description": "Compressed; nothing was stored"},
        "503": {"description": "It could not be stored; send it again"},
    },
}


def _post(
    path: str, verb: str, summary: str, model: str, example: Any, ok: str, answer: Mapping[str, Any]
) -> dict[str, Any]:
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "schema": {"type": "string", "maxLength": 255},
        "example": "order-1001",
        "description": "A new one for every new request; the same one to send a request again.",
    }
    keyed = [] if verb in _KEYLESS else [key]
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}, "example": example}}
    codes = {"400", "401", "403", "404", "409", "413", "422", "500", "503", "504"}
    codes |= {"202"} if verb not in _DECIDED else set()
    codes |= {"402"} if verb in {"create", "confirm", "details", "create_payment_method"} else set()
    return {
        "summary": summary,
        "operationId": verb,
        "parameters": [*keyed, *([_PATH_ID] if "{id}" in path else [])],
        "requestBody": {"required": verb not in _BODILESS, "content": body},
        "responses": {
            ok: {"description": "Decided", "content": {"application/json": {"example": answer}}},
            **{code: _problem_answer(int(code), answer) for code in sorted(codes)},
        },
    }


def _problem_answer(status: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    if status in {202, 402} and answer["object"] == "payment_method":
        verification = {**answer["verification"], "status": "processing" if status == 202 else "failed"}
        told = {**answer, "verification": verification}
        description = "Stored; its verification is not settled yet" if status == 202 else "Stored, but declined"
        return {"description": description, "content": {"application/json": {"example": told}}}
    if status == 202 and answer["object"] == "routing_publication":
        waiting = {**answer, "kind": "request", "status": "awaiting_approval"}
        return {"description": "Waits for another key", "content": {"application/json": {"example": waiting}}}
    if status == 202:
        status = {"payment": "processing", "refund": "pending"}.get(answer["object"], answer["status"])
        waiting = {**answer, "status": status}
        return {"description": "Not settled yet", "content": {"application/json": {"example": waiting}}}
    if status == 402:
        decline = {"code": "insufficient_funds", "type": "soft", "advice": "retry_later"}
        declined = {**answer, "status": "requires_payment_method", "decline": decline}
        return {"description": "Declined", "content": {"application/json": {"example": declined}}}
    codes = [code for code, sort in PROBLEMS.items() if sort.status == status]
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": ", ".join(codes), "content": {MEDIA_TYPE: {"schema": schema}}}


def _get(summary: str, example: Mapping[str, Any], parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Found", "content": {"application/json": {"example": example}}},
            **{str(status): _problem_answer(status, example) for status in (400, 401, 403, 404, 422, 500, 503)},
        },
    }


def _query(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}


def _plain(summary: str, example: Any, *, media_type: str = "application/json") -> dict[str, Any]:
    answer = {"description": summary, "content": {media_type: {"example": example}}}
    return {"summary": summary, "security": [], "responses": {"200": answer}}


def _problem_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "retryable"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "enum": list(PROBLEMS)},
            "param": {"type": ["string", "null"]},
            "retryable": {"type": "boolean"},
            "request_id": {"type": "string"},
            "payment": {"type": "object"},
        },
    }
