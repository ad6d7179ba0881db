"""Spans by OpenTelemetry's SDK, sent to a collector by OTLP over HTTP. Imported only where an endpoint is named.

Sending is a thread's work and bounded on every side: spans wait in a queue that drops what does not fit, an export ends after its
time-out, the end of the process waits two seconds. Whatever fails here is counted and never felt by a payment.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import Token
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Self

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.tracing import ATTRIBUTES, SPANS, Sort, Span, Traces, current

QUEUE_MAX: Final = 2048
"""Spans that may wait, a few megabytes: some 200 charges."""
BATCH_MAX: Final = 256
"""Spans in one export: packing them holds the interpreter for some milliseconds."""
EVERY_S: Final = 1.0
CLOSE_S: Final = 2.0
"""How long the end of the process waits for its last spans."""

EXPORTED, REFUSED, DROPPED, BROKEN = "exported", "not_taken", "queue_full", "broken"

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KINDS: Final = {kind.name.lower(): kind for kind in SpanKind}

log = structlog.get_logger()


def context_of(traceparent: str | None) -> SpanContext | None:
    """The span that a ``traceparent`` names, or ``None`` for one that is not valid (W3C Trace Context, level 1, 3.2)."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    flags = TraceFlags(int(found[4], 16) & TraceFlags.SAMPLED)
    context = SpanContext(int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=flags)
    return context if context.is_valid else None


class _Sending(SpanExporter):
    """Counts what becomes of the spans of each export, and says once when the collector stops taking them, or takes them again."""

    def __init__(self, exporter: SpanExporter, counted: Callable[[str, int], None]) -> None:
        self._exporter = exporter
        self._counted = counted
        self._taken = True
        self.handed = 0
        """Spans that have left the queue, for good."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export them. Never raises."""
        self.handed += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            log.error("traces_not_exported", error=type(error).__name__)
            result = SpanExportResult.FAILURE
        taken = result is SpanExportResult.SUCCESS
        self._counted(EXPORTED if taken else REFUSED, len(spans))
        if taken is not self._taken:
            self._taken = taken
            log.warning("traces_taken_again" if taken else "traces_not_taken")
        return result

    def shutdown(self) -> None:
        """End the export that is under way, if there is one. May be called twice."""
        self._exporter.shutdown()


class _Queue(SpanProcessor):
    """The SDK's queue, with its overflow counted. ``ended`` and ``handed`` have one writer each, so nobody waits for a lock."""

    def __init__(self, sending: _Sending, counted: Callable[[str, int], None]) -> None:
        self._batches = BatchSpanProcessor(
            sending, max_queue_size=QUEUE_MAX, schedule_delay_millis=EVERY_S * 1000, max_export_batch_size=BATCH_MAX
        )
        self._sending = sending
        self._counted = counted
        self._ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, or drop it where the queue is full."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._ended - self._sending.handed >= QUEUE_MAX:
            self._counted(DROPPED, 1)
            return
        self._ended += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]  # the SDK has no type for it


class Exported(Traces):
    """Traces that are sent where the standard variables say (:data:`gateway.tracing.VARIABLES`), by this process alone."""

    def __init__(self, environ: Mapping[str, str], counted: Callable[[str, int], None]) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it logs addresses; what matters is counted
        named = bool(environ.get("OTEL_SERVICE_NAME")) or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        ours = {"service.version": version("interlock")} | ({} if named else {"service.name": "interlock"})
        self._counted = counted
        self._sending = _Sending(OTLPSpanExporter(), counted)
        self._provider = TracerProvider(resource=Resource.create(ours), shutdown_on_exit=False)
        self._provider.add_span_processor(_Queue(self._sending, counted))
        self._tracer = self._provider.get_tracer("interlock", version("interlock"))
        self._closing: threading.Thread | None = None

    def span(self, sort: str, **words: Any) -> AbstractContextManager[Span | None]:
        """As :meth:`Traces.span`."""
        over = current.get()
        if not isinstance(over, _Opened) or over.ended or not over.context.trace_flags.sampled:
            return super().span(sort)
        return self._opened(sort, words, over.context, ())

    def resumed(self, sort: str, trace: str | None, **words: Any) -> AbstractContextManager[Span | None]:
        """As :meth:`Traces.resumed`."""
        over = current.get()
        here = over.context if isinstance(over, _Opened) else None
        there = context_of(trace) or here
        elsewhere = here is not None and there is not None and here.trace_id != there.trace_id
        return self._opened(sort, words, there, (Link(here),) if here is not None and elsewhere else ())

    def _opened(
        self, sort: str, words: Mapping[str, Any], under: SpanContext | None, links: Sequence[Link]
    ) -> AbstractContextManager[Span | None]:
        try:
            row = SPANS[sort]
            # An empty context and not the thread's: a library that traces by itself is not part of ours.
            context = Context() if under is None else trace.set_span_in_context(NonRecordingSpan(under), Context())
            span = self._tracer.start_span(
                row.name.format_map(words).strip(),
                context,
                _KINDS[row.kind],
                _attributes(row, words),
                links,
                record_exception=False,
                set_status_on_exception=False,
            )
            return _Opened(row, span)
        except Exception as error:  # a payment goes on without its span
            self._counted(BROKEN, 1)
            log.error("span_not_begun", sort=sort, error=type(error).__name__)
            return super().span(sort)

    async def aclose(self) -> None:
        """As :meth:`Traces.aclose`: what the collector has not taken by then is lost."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
            self._closing.start()
            await asyncio.to_thread(self._closing.join, CLOSE_S)
            self._sending.shutdown()


class _Opened:
    """A span while it lasts: the task's own from ``__enter__`` to ``__exit__``."""

    __slots__ = ("_row", "_span", "_token", "context", "ended")

    def __init__(self, row: Sort, span: trace.Span) -> None:
        self._row = row
        self._span = span
        self.context = span.get_span_context()
        self.ended = False

    @property
    def trace_id(self) -> str:
        return f"{self.context.trace_id:032x}"

    @property
    def traceparent(self) -> str:
        return f"00-{self.context.trace_id:032x}-{self.context.span_id:016x}-{self.context.trace_flags & 1:02x}"

    def told(self, **words: Any) -> None:
        with suppress(Exception):  # a payment goes on without it, here and below
            self._span.set_attributes(_attributes(self._row, words))
            if "route" in words:  # it is known only behind the request that it names
                self._span.update_name(self._row.name.format_map(words).strip())

    def failed(self, why: str) -> None:
        with suppress(Exception):
            self._span.set_attribute(ATTRIBUTES["error"], why)
            self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> Self:
        self._token: Token[Span | None] = current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        current.reset(self._token)
        if kind is not None:  # its class alone: a message could hold what was sent
            self.failed(kind.__name__)
        self.ended = True
        with suppress(Exception):
            self._span.end()


def _attributes(row: Sort, words: Mapping[str, Any]) -> dict[str, Any]:
    return {
        ATTRIBUTES[word]: value if isinstance(value, int) else str(value)
        for word, value in words.items()
        if word in row.told and value is not None
    }
