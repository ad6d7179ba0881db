"""Traces: what belongs to one request, from its caller through the decision and the providers to the webhook that comes days later.

Spans are told to an OpenTelemetry collector where one is named (``gateway.otlp``), and to nobody else. Where none is, every span is
nothing: what is asked for here then costs a look at a variable, and nothing of OpenTelemetry's SDK is imported.

What may be told of a span is written down in :data:`SPANS`, and nothing else leaves the process: no body, no header, no address with an
id in it, no query, no message of an exception. So a card number or a key has no way out.

A trace goes on after its request: the span under which an operation was opened, and an event written, is kept in their rows as a W3C
``traceparent``. What is heard of that operation later, whoever hears it, is told in its trace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from providers.registry import ConfigError

# --- What is told -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort of span: its name, made of what is told of it, its kind by OpenTelemetry, what it covers, and what may be told."""

    name: str
    kind: Literal["server", "client", "internal", "consumer"]
    says: str
    told: tuple[str, ...]


ATTRIBUTES: Final[Mapping[str, str]] = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "server": "server.address",
    "port": "server.port",
    "error": "error.type",
    "system": "db.system.name",
    "statement": "db.operation.name",
    "payment": "interlock.payment",
    "operation": "interlock.operation",
    "kind": "interlock.operation.kind",
    "account": "interlock.account",
    "provider": "interlock.provider",
    "provider_id": "interlock.provider.id",
    "provider_request": "interlock.provider.request_id",
    "outcome": "interlock.outcome",
    "decided": "interlock.routing.kind",
    "version": "interlock.routing.version",
    "rule": "interlock.routing.rule",
    "strategy": "interlock.routing.strategy",
    "event": "interlock.event",
    "type": "interlock.event.type",
    "endpoint": "interlock.endpoint",
    "tries": "interlock.tries",
    "result": "interlock.result",
}
"""What each of our words is called in a span: by the semantic conventions of OpenTelemetry where they have a name."""

SPANS: Final[Mapping[str, Sort]] = {
    "request": Sort(
        "{method} {route}",
        "server",
        "A request, from its first byte to the last of its answer. A 5xx is its error; a decline is none.",
        ("method", "route", "status", "error"),
    ),
    "route": Sort(
        "route",
        "internal",
        "The decision which account is asked first.",
        ("payment", "account", "decided", "version", "rule", "strategy"),
    ),
    "call": Sort(
        "{kind} {account}",
        "client",
        "One operation at one account, with every resend. Its error is an outcome that is unknown, or that nothing happened.",
        ("payment", "operation", "kind", "account", "provider", "outcome", "provider_id", "error"),
    ),
    "look_up": Sort(
        "look up {account}",
        "client",
        "A question to an account, what became of an operation.",
        ("payment", "operation", "kind", "account", "provider", "outcome", "provider_id", "error"),
    ),
    "send": Sort(
        "{method}",
        "client",
        "One HTTP request to a provider. Its error is a 5xx, or that no answer came.",
        ("method", "server", "port", "status", "provider_request", "error"),
    ),
    "statement": Sort(
        "{statement} {system}",
        "client",
        "One statement to the database, by what it does; with the wait for a connection.",
        ("system", "statement", "error"),
    ),
    "webhook": Sort(
        "apply webhook",
        "consumer",
        "A provider's webhook, applied to what it speaks of; linked to the request that it came with.",
        ("payment", "operation", "kind", "account", "type", "result", "error"),
    ),
    "return": Sort(
        "complete challenge",
        "consumer",
        "The shopper is back from a challenge; linked to the request that they came back with.",
        ("payment", "operation", "account", "error"),
    ),
    "settle": Sort(
        "settle",
        "consumer",
        "The worker, finding out what became of an operation.",
        ("payment", "operation", "kind", "account", "tries", "outcome", "error"),
    ),
    "again": Sort(
        "work on payment",
        "consumer",
        "The worker, asking for something by itself: a scheduled retry, a release, a refund.",
        ("payment", "error"),
    ),
    "deliver": Sort(
        "deliver {type}",
        "client",
        "One try to tell a merchant of an event.",
        ("event", "type", "endpoint", "tries", "status", "result", "error"),
    ),
}
"""Every sort of span."""


# --- The settings -------------------------------------------------------------------------------------------------------

VARIABLES: Final[Mapping[str, tuple[str, str]]] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        "not set: no traces",
        "Where spans are sent, by OTLP over HTTP: `http://collector:4318`. `/v1/traces` is added. Without it nothing of the SDK is loaded.",
    ),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("not set", "The same, as the whole address: nothing is added."),
    "OTEL_EXPORTER_OTLP_HEADERS": (
        "not set",
        "Headers of each export, such as a key: `name=value,name=value`, values percent-encoded. `OTEL_EXPORTER_OTLP_TRACES_HEADERS` likewise.",
    ),
    "OTEL_EXPORTER_OTLP_TIMEOUT": (
        "10",
        "Seconds for one export with all its retries. Then its spans are dropped and counted.",
    ),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf", "Nothing else is spoken; gRPC is refused."),
    "OTEL_SERVICE_NAME": (
        "interlock",
        "What the gateway is called in traces. `OTEL_RESOURCE_ATTRIBUTES` adds more: `deployment.environment.name=live`.",
    ),
    "OTEL_TRACES_SAMPLER": (
        "parentbased_always_on",
        "Which traces are told: `always_on`, `always_off`, `traceidratio`, or one of them with `parentbased_` before, which leaves it to the caller's `traceparent`.",
    ),
    "OTEL_TRACES_SAMPLER_ARG": ("1.0", "The share of `traceidratio`, from 0 to 1."),
    "OTEL_SDK_DISABLED": ("false", "`true`: no traces, whatever else is set. So does `OTEL_TRACES_EXPORTER=none`."),
}
"""The standard variables that are listened to, with their defaults."""

_SAMPLERS: Final = frozenset(
    f"{parent}{each}" for parent in ("", "parentbased_") for each in ("always_on", "always_off", "traceidratio")
)
_HEADER: Final = re.compile(r"\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=[^,]*")


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces. Raises :class:`ConfigError` naming the variable that cannot be used; never its value."""

    def either(ending: str) -> tuple[str, str]:
        for name in (f"OTEL_EXPORTER_OTLP_TRACES_{ending}", f"OTEL_EXPORTER_OTLP_{ending}"):
            if environ.get(name, "").strip():
                return name, environ[name].strip()
        return "", ""

    endpoint, url = either("ENDPOINT")
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not endpoint or exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    _check_endpoint(endpoint, url)
    protocol, spoken = either("PROTOCOL")
    timeout, seconds = either("TIMEOUT")
    headers, written = either("HEADERS")
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    share = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    faults = {
        "OTEL_TRACES_EXPORTER: traces are exported by otlp, or by none": exporter not in {"", "otlp"},
        f"{protocol}: must be http/protobuf; gRPC is not spoken": spoken not in {"", "http/protobuf"},
        f"{timeout}: must be a number of seconds above 0": seconds and not 0 < _number(seconds) < math.inf,
        f"{headers}: must be name=value, several separated by commas": written
        and not all(_HEADER.fullmatch(each) for each in written.split(",")),
        f"OTEL_TRACES_SAMPLER: must be one of {', '.join(sorted(_SAMPLERS))}": sampler and sampler not in _SAMPLERS,
        "OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1": share
        and sampler.endswith("traceidratio")
        and not 0 <= _number(share) <= 1,
    }
    wrong = [fault for fault, holds in faults.items() if holds]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return True


def _check_endpoint(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError(f"{name}: must be an address such as http://collector:4318") from None
    if not usable:
        raise ConfigError(f"{name}: must be an address such as http://collector:4318")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{name}: holds no user and password; a key goes into OTEL_EXPORTER_OTLP_HEADERS")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- Spans --------------------------------------------------------------------------------------------------------------


class Span(Protocol):
    """A span that was begun. Nothing of it ever raises."""

    @property
    def trace_id(self) -> str:
        """The 32 hexadecimal digits of its trace."""
        ...

    @property
    def traceparent(self) -> str:
        """What goes on under it bears this (W3C Trace Context)."""
        ...

    def told(self, **words: Any) -> None:
        """Tell more of it, by the words of its :class:`Sort`; what is not among them, or ``None``, is left out."""
        ...

    def failed(self, why: str) -> None:
        """It is an error, of this type."""
        ...


_NOTHING: Final = nullcontext()


class Traces:
    """No traces. ``with traces.span(…) as span`` gives ``None`` wherever nobody listens."""

    def span(self, sort: str, **words: Any) -> AbstractContextManager[Span | None]:
        """A span under the one that the current task is in; nothing where that is none, has ended, or is left out by the sampler."""
        return _NOTHING

    def resumed(self, sort: str, trace: str | None, **words: Any) -> AbstractContextManager[Span | None]:
        """A span in the trace of a ``traceparent`` that was kept or came with a request, linked to the one that the task is in.

        Without one, or with one that is not valid, it goes on with the task's own, or begins a trace.
        """
        return _NOTHING

    async def aclose(self) -> None:
        """Send what waits, for two seconds at most. May be called twice."""


OFF: Final = Traces()

current: Final[ContextVar[Span | None]] = ContextVar("span", default=None)
"""The span that the current task is in, as :mod:`gateway.otlp` sets it."""


def kept() -> str | None:
    """What to keep with what the current task writes, so that it can be gone on with: a ``traceparent``, or nothing."""
    span = current.get()
    return None if span is None else span.traceparent


def in_line(_: object, __: str, line: Any) -> Any:
    """A line of the log (a processor of structlog's), with the trace that it belongs to."""
    span = current.get()
    if span is not None:
        line["trace_id"] = span.trace_id
    return line


def opened(environ: Mapping[str, str], counted: Callable[[str, int], None]) -> Traces:
    """The traces that the environment asks for, or :data:`OFF`. ``counted`` is told what became of how many spans.

    Raises :class:`ConfigError` as :func:`wanted`. It starts a thread: call it in the process that serves.
    """
    if not wanted(environ):
        return OFF
    from gateway.otlp import Exported  # noqa: PLC0415  # 10 MB and a fifth of a second, for those who want traces

    return Exported(environ, counted)
