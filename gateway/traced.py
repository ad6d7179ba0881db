"""The seams where spans are begun that no use case knows of: a request, a statement, a request to a provider, a delivery.

They are wired only where traces are told (``gateway.app``), each in place of what it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.metrics.decisions import verb_of
from gateway.sql import WRITES, Pool, Row
from gateway.tracing import Traces
from providers.transport import Reply, Transport
from webhooks import inbox, outbox, refusals
from webhooks.egress import Unreached
from webhooks.outbox import Delivery, Tried

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STRANGERS: Final = frozenset({"webhook", "return", "console"})
"""What is asked by others than merchants' backends: their ``traceparent`` says nothing to us."""
_WRITES: Final = (WRITES, inbox.WRITES, outbox.WRITES, refusals.WRITES)
_REQUEST_IDS: Final = ("request-id", "pspreference", "x-request-id", "x-trace")
_WORD: Final = re.compile(r"[\w.-]{1,128}", re.ASCII)


class Requests:
    """A span for every request but those for health, metrics and documentation, in the trace of its caller."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._templates: dict[Any, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        verb = verb_of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if verb is None:
            await self._app(scope, receive, send)
            return
        traces: Traces = scope["app"].state.traces
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        trace = None if verb in _STRANGERS else _traceparent(scope)
        with traces.resumed("request", trace, method=method, route="") as span:

            async def send_noted(message: Message) -> None:
                if span is not None and message["type"] == "http.response.start":
                    status = message["status"]
                    span.told(method=method, route=self._template(scope), status=status)
                    if status >= 500:
                        span.failed(str(status))
                await send(message)

            await self._app(scope, receive, send_noted)

    def _template(self, scope: Scope) -> str:
        """The path of the route, with names in place of what stands there; empty where there is no such route."""
        if not self._templates:
            routes = scope["app"].router.routes
            self._templates = {each.endpoint: each.path_format for each in routes if isinstance(each, Route)}
        return self._templates.get(scope.get("endpoint"), "")


def _traceparent(scope: Scope) -> str | None:
    """What the request says that it belongs to. Said twice it says nothing; ``tracestate`` is not read, since it could hold anything."""
    said: list[bytes] = [value for name, value in scope["headers"] if name == b"traceparent"]
    return said[0].decode("latin-1") if len(said) == 1 else None


class TracedPool(Pool):
    """A pool with a span for every statement of a task that is in one. Its name is what the statement does, never its text."""

    def __init__(self, traces: Traces, pool: Any, size: int) -> None:
        super().__init__(pool, size)
        self._traces = traces

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """As :meth:`Pool.fetch`."""
        does = next(filter(None, (each.get(query) for each in _WRITES)), "read")
        with self._traces.span("statement", statement=does, system="postgresql"):
            return await super().fetch(query, *args)


class TracedTransport(Transport):
    """A transport with a span for every request: where it went and what status came back. The provider is not told of our trace."""

    def __init__(self, traces: Traces) -> None:
        super().__init__()
        self._traces = traces

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply:
        """As :meth:`Transport.request`."""
        parts = urlsplit(url)
        where = {"server": parts.hostname, "port": parts.port or (443 if parts.scheme == "https" else 80)}
        with self._traces.span("send", method=method.upper(), **where) as span:
            reply = await super().request(method, url, headers, body, timeout_s)
            if span is not None:
                span.told(status=reply.status, provider_request=_request_id(reply.headers))
                if reply.status >= 500:
                    span.failed(str(reply.status))
            return reply


def _request_id(headers: Mapping[str, str]) -> str | None:
    """What the provider calls the request, where it says so in a plain word."""
    found = next((headers[name] for name in _REQUEST_IDS if name in headers), "")
    return found if _WORD.fullmatch(found) else None


class Deliveries:
    """A span for every try to tell a merchant of an event, in the trace of what the event tells of."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    @contextmanager
    def __call__(self, delivery: Delivery) -> Iterator[Tried]:
        """The try, and whom to tell what came of it."""
        words = {"event": delivery.event_id, "type": delivery.type, "endpoint": delivery.endpoint_id}
        with self._traces.resumed("deliver", delivery.trace, **words, tries=delivery.tries + 1) as span:

            def tried(reply: Any, result: str) -> None:
                if span is None:
                    return
                status = None if isinstance(reply, Unreached) else reply.status
                span.told(status=status, result=result)
                if result != "succeeded":
                    span.failed(reply.reason if isinstance(reply, Unreached) else str(status))

            yield tried
