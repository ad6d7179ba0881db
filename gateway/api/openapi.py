"""The OpenAPI document, printed from the schemas that validate and the table of problems that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.api import (
    described_events,
    described_metrics,
    described_monitors,
    described_payments,
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
from gateway.api.schemas import Body
from gateway.errors import MEDIA_TYPE, PROBLEMS
from gateway.settings import VERSIONS

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
        *described_payments.ASKED,
        *described_events.ASKED,
        *described_routing.ASKED,
        *described_monitors.ASKED,
    ):
        paths.setdefault(path, {})["post"] = _post(path, verb, summary, _body(schemas, verb), example, ok, answer)
    page = {"object": "list", "data": [described_payments.PAYMENT], "has_more": False, "next_cursor": None}
    paths["/v1/payments"]["get"] = _get("List payments, newest first", page, [_query(name) for name in _FILTERS])
    paths["/v1/payments/{id}"] = {
        "get": _get("Retrieve a payment", described_payments.PAYMENT, [_PATH_ID, _query("expand[]")])
    }
    paths["/v1/payments/{id}/routing"] = {
        "get": _get("Why each attempt of a payment went where it did", described_payments.ROUTING, [_PATH_ID])
    }
    paths["/v1/refunds/{id}"] = {"get": _get("Retrieve a refund", described_payments.REFUND, [_PATH_ID])}
    page = page | {"data": [described_payments.DISPUTE]}
    filters = [_query(name) for name in ("limit", "cursor", "status", "payment")]
    paths["/v1/disputes"] = {"get": _get("List disputes, newest first", page, filters)}
    paths["/v1/disputes/{id}"] = {"get": _get("Retrieve a dispute", described_payments.DISPUTE, [_PATH_ID])}
    page = page | {"data": [described_payments.INCIDENT]}
    filters = [_query(name) for name in ("limit", "cursor", "kind", "payment", "status")]
    paths["/v1/incidents"] = {"get": _get("List incidents, newest first", page, filters)}
    paths["/v1/incidents/{id}"] = {"get": _get("Retrieve an incident", described_payments.INCIDENT, [_PATH_ID])}
    page = page | {"data": [described_payments.ACCOUNT]}
    paths["/v1/accounts"] = {"get": _get("The accounts, and what each is able to do", page, [])}
    page = page | {"data": [described_payments.POLICY]}
    paths["/v1/policies"] = {"get": _get("What is done without each part that may be lost", page, [])}
    page = page | {"data": [described_routing.STRATEGY]}
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
        ("/v1/payment_methods", "payment method", described_payments.METHOD, ("customer", "fingerprint")),
        ("/v1/customers", "customer", described_payments.CUSTOMER, ("reference",)),
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
    gone = {**described_events.ENDPOINT, "status": "deleted", "secrets": []}
    last = {**described_events.DELIVERY, "last_attempt": described_events.TRY}
    paged = [_query(name) for name in ("limit", "cursor")]
    return {
        "/v1/webhook_endpoints": {
            **paths["/v1/webhook_endpoints"],
            "get": _get("List webhook endpoints, newest first", page(described_events.ENDPOINT), paged),
        },
        described_events.ENDPOINT_ID: {
            **paths[described_events.ENDPOINT_ID],
            "get": _get("Retrieve a webhook endpoint, also a deleted one", described_events.ENDPOINT, [_PATH_ID]),
            "delete": _get("Delete a webhook endpoint", gone, [_PATH_ID]),
        },
        f"{described_events.ENDPOINT_ID}/deliveries": {
            "get": _get("What was sent there, the newest event first", page(last), at)
        },
        "/v1/events": {"get": _get("List events, newest first", page(described_events.EVENT), filters)},
        "/v1/events/{id}": {"get": _get("Retrieve an event, as it was sent", described_events.EVENT, [_PATH_ID])},
        "/v1/events/{id}/deliveries": {
            "get": _get("To which endpoints an event went, with every try", described_events.DELIVERIES, [_PATH_ID])
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


def _inbound(schemas: dict[str, Any]) -> dict[str, Any]:
    """What providers told: read, and applied again."""
    page = {"object": "list", "data": [described_events.INBOUND], "has_more": False, "next_cursor": None}
    filters = [_query(name) for name in ("limit", "cursor", *inbound.FILTERS)]
    refused = {**page, "data": [described_events.REFUSED]}
    refused_filters = [_query(name) for name in ("limit", "cursor", *inbound.REFUSED_FILTERS)]
    one = {**described_events.INBOUND, "meaning": described_events.MEANING}
    waiting = {
        **described_events.INBOUND,
        "status": "waiting",
        "applied": None,
        "next_try": described_events.INBOUND["received"],
    }
    path = "/v1/inbound_events"
    return {
        path: {"get": _get("List what providers told us, newest first", page, filters)},
        f"{path}/refused": {"get": _get("Count the webhooks that were not believed", refused, refused_filters)},
        f"{path}/replay": {
            "post": _again(
                schemas, "replay_inbound_events", "Apply several again, or only count them", described_events.AGAIN
            )
        },
        f"{path}/{{id}}": {"get": _get("Retrieve what a provider told us, and what it meant", one, [_PATH_ID])},
        f"{path}/{{id}}/replay": {
            "post": _again(schemas, "replay_inbound_event", "Apply one again", waiting, [_PATH_ID])
        },
    }


def _simulated(schemas: dict[str, Any]) -> dict[str, Any]:
    """What a routing document would have done."""
    queued = {
        **described_routing.SIMULATION,
        "status": "queued",
        "progress_percent": 0,
        "payments": None,
        "result": None,
    }
    ask = _again(
        schemas, "simulate_routing_config", "Replay a routing config over your own payments", queued, [_PATH_ID]
    )
    ask["responses"]["202"] = ask["responses"].pop("200")
    listed = {name: value for name, value in described_routing.SIMULATION.items() if name != "result"}
    page = {"object": "list", "data": [listed], "has_more": False, "next_cursor": None}
    return {
        "/v1/routing/configs/{id}/simulate": {"post": ask},
        "/v1/routing/simulations": {
            "get": _get(
                "List simulations without their results, newest first", page, [_query("limit"), _query("cursor")]
            )
        },
        "/v1/routing/simulations/{id}": {
            "get": _get(
                "Retrieve a simulation: how far it is, and what came of it", described_routing.SIMULATION, [_PATH_ID]
            )
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


def _body(schemas: dict[str, Any], verb: str) -> str:
    """The name of what a verb takes, among the schemas from now on with all that it is made of."""
    model = BODIES[verb]
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    schemas[model.__name__] = schema
    return model.__name__


def _again(
    schemas: dict[str, Any], verb: str, summary: str, answer: Mapping[str, Any], parameters: Sequence[Any] = ()
) -> dict[str, Any]:
    """A POST that may be sent any number of times, and so needs no key."""
    name = _body(schemas, verb)
    example = {} if parameters else described_events.SEVERAL_AGAIN
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": example}}
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
