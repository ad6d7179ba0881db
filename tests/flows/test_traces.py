"""Traces, told to a collector that reads what it is sent: one trace from the caller through the providers to the webhook and the merchant."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.otlp import BATCH_MAX, QUEUE_MAX, Exported, context_of
from gateway.printed import spans_section
from gateway.tracing import ATTRIBUTES, OFF, SPANS, current, in_line, kept, opened, wanted
from providers.registry import ConfigError

if TYPE_CHECKING:
    from tests.conftest import Kit, Open, Processes, Psps

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER: Final = "00f067aa0ba902b7"
CVC: Final = "9173"
ROOT: Final = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Seen:
    """One span, as the collector has it."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    error: bool
    links: list[str]
    told: Mapping[str, Any]

    def __getitem__(self, word: str) -> Any:
        return self.told.get(ATTRIBUTES[word])


def _read(body: bytes) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return request


@dataclass
class Collector:
    """An OTLP endpoint, and a merchant's server at ``/hooks``. Without an ``answer`` it takes spans and never says a word."""

    url: str = ""
    answer: int | None = 200
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def spans(self) -> list[Seen]:
        return [
            Seen(
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.kind,
                span.status.code == 2,
                [link.trace_id.hex() for link in span.links],
                {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes},
            )
            for body in list(self.bodies)
            for resource in _read(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of(self, trace: str) -> list[Seen]:
        return [span for span in self.spans if span.trace == trace]

    def named(self, trace: str, *words: str) -> list[Seen]:
        return [span for span in self.of(trace) if span.name in words]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, and an environment that names it."""
    ours = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's own name
            body, traces = self.rfile.read(int(self.headers["Content-Length"])), self.path == "/v1/traces"
            if traces:
                ours.headers.append(dict(self.headers))
                ours.bodies.append(body)
            if traces and ours.answer is None:
                ours.released.wait(60)
                return
            self.send_response((ours.answer or 200) if traces else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    ours.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ours.url)
    yield ours
    ours.released.set()
    server.shutdown()
    server.server_close()


def traceparent(trace: str = TRACE) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-01", "tracestate": "card=4242424242424242"}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.nightly)])
async def test_one_trace_from_the_request_through_both_providers_to_the_webhook_and_the_merchant(
    workers: int, processes: Processes, collector: Collector, psps: Psps, flow: type[Kit]
) -> None:
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20canary"}
    server = (processes.server(**told) if workers == 1 else processes.several(workers, **told)).start()
    processes.worker(**told)
    psps.fault("stripe", "authorize", "decline", code="generic_decline")
    async with server.merchant() as merchant:
        endpoint = await merchant.post("/v1/webhook_endpoints", {"url": f"{collector.url}/hooks", "events": ["*"]})
        assert endpoint.status_code == 201, endpoint.text
        body = flow.body(payment_method_data={"type": "card", "card": {**flow.CARD, "cvc": CVC}})
        answer = await merchant.post("/v1/payments", body, **traceparent())
        assert answer.status_code == 201, answer.text
        payment = answer.json()
    wanted = {"POST /v1/payments", "apply webhook", "deliver payment.succeeded"}
    await flow.eventually(lambda: wanted <= {span.name for span in collector.of(TRACE)}, "the whole trace")
    spans = collector.of(TRACE)
    (request,) = [span for span in spans if span.name == "POST /v1/payments"]
    by_id = {span.id: span for span in spans}
    first, second = (span for psp in ("stripe", "adyen") for span in spans if span.name == f"authorize {psp}")

    assert {span.parent for span in spans} - by_id.keys() == {CALLER}  # every span but the first is under another one
    assert request.parent == CALLER
    assert (request["status"], request.error, request.kind) == (201, False, 2)
    (route,) = [span for span in spans if span.name == "route"]
    assert (route.parent, route["account"], route["decided"]) == (request.id, "stripe", "static")
    assert (first["account"], first["outcome"], first.error) == ("stripe", "declined", False)
    assert (second["account"], second["outcome"], second.error) == ("adyen", "approved", False)
    assert {first.parent, second.parent} == {request.id}
    assert {first["payment"], second["payment"]} == {payment["id"]}
    sends = [span for span in spans if span.name == "POST" and span.parent in {first.id, second.id}]
    assert {span.parent for span in sends} == {first.id, second.id}
    assert {span["server"] for span in sends} == {"127.0.0.1"}
    assert [span["status"] for span in sends if span.parent == second.id] == [200]
    assert any(span["provider_request"] for span in sends if span.parent == first.id)
    assert {"open postgresql", "cascade postgresql", "settle postgresql"} <= {span.name for span in spans}
    (delivered,) = [span for span in spans if span.name == "deliver payment.succeeded"]
    assert (delivered.parent, delivered["result"], delivered["status"]) == (request.id, "succeeded", 204)
    assert_what_was_received_is_linked(collector, request)
    assert_no_secret_was_told(collector, flow)


def assert_what_was_received_is_linked(collector: Collector, request: Seen) -> None:
    applied = collector.named(TRACE, "apply webhook")
    for span in applied:
        (link,) = span.links
        (received,) = [each for each in collector.of(link) if each.name == "POST /v1/webhooks/{account}"]
        assert (span.parent, received.parent, received["status"]) == (request.id, "", 200)
    assert {span["account"] for span in applied} <= {"stripe", "adyen"}


def assert_no_secret_was_told(collector: Collector, flow: type[Kit]) -> None:
    sent = b"".join(collector.bodies)
    secrets = [*flow.SECRETS.values(), flow.CARD["number"], "sk_test_dev", "canary"]
    assert [secret for secret in secrets if secret.encode() in sent] == []
    assert re.findall(rf"(?<![0-9a-f]){CVC}(?![0-9a-f])", sent.decode("latin-1")) == []
    assert {head.get("authorization") for head in collector.headers} == {"Bearer canary"}


async def test_an_outcome_that_nobody_knew_is_settled_in_its_trace_and_is_an_error_until_then(
    collector: Collector, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    for fault in ("garbage", "drop_webhook"):
        psps.fault("stripe", "authorize", fault)
    async with open_gateway() as inside:
        answer = await inside.merchant.post("/v1/payments", flow.body(), **traceparent())
        assert answer.json()["processing_reason"] == "outcome_unknown"
        await inside.work()
        (row,) = inside.database.operations(answer.json()["id"])
    spans = collector.of(TRACE)
    (request,) = [span for span in spans if span.name == "POST /v1/payments"]
    (settle,) = [span for span in spans if span.name == "settle"]
    (call,) = [span for span in spans if span.name == "authorize stripe" and span.parent == request.id]
    (again,) = [span for span in spans if span.name == "authorize stripe" and span.parent == settle.id]

    assert row["trace"] == f"00-{TRACE}-{request.id}-01"
    assert (request["status"], request.error) == (202, False)
    assert (call["outcome"], call.error) == ("unknown", True)
    assert (settle.parent, settle["outcome"], settle["tries"]) == (request.id, "approved", 2)
    assert (again["outcome"], again.error) == ("approved", False)


async def test_a_shopper_who_comes_back_is_in_the_trace_of_their_payment(
    collector: Collector, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        asked = flow.body(payment_method_data=flow.card("4000002760003184"), return_url="https://shop.example/back")
        answer = await inside.merchant.post("/v1/payments", asked, **traceparent())
        back = await inside.merchant.come_back(await psps.visit(answer.json(), "succeeded"))
        assert back.is_redirect, back.text
    (request,) = [span for span in collector.of(TRACE) if span.name == "POST /v1/payments"]
    (done,) = [span for span in collector.of(TRACE) if span.name == "complete challenge"]
    (came,) = [span for span in collector.spans if span.name == "GET /v1/return/{token}"]

    assert (done.parent, done.links) == (request.id, [came.trace])
    assert [span["outcome"] for span in collector.of(TRACE) if span.parent == done.id and span["outcome"]] == [
        "approved"
    ]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "4242424242424242",
    ],
)
def test_a_traceparent_that_is_not_valid_names_nothing(said: str) -> None:
    assert context_of(said) is None


def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    found = context_of(f"cc-{TRACE}-{CALLER}-03-what-comes-later")

    assert found is not None
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags) == (TRACE, CALLER, 1)


async def test_a_collector_that_hangs_stops_no_payment_and_holds_up_no_end(
    collector: Collector, open_gateway: Open, flow: type[Kit]
) -> None:
    collector.answer = None
    async with open_gateway() as inside:
        paid = [await inside.merchant.charged() for _ in range(3)]
        metrics = await inside.merchant.http.get("/metrics")
        ended_from = time.monotonic()
    ended_s = time.monotonic() - ended_from

    assert [payment["status"] for payment in paid] == ["succeeded"] * 3
    assert metrics.status_code == 200
    assert ended_s < 9  # two houses wait two seconds each; an export alone would take ten


async def test_a_collector_that_nobody_is_stops_no_payment(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch, flow: type[Kit]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    async with open_gateway() as inside:
        await inside.merchant.charged()

        async def counted() -> bool:
            told = (await inside.merchant.http.get("/metrics")).text
            return 'interlock_trace_spans_total{result="not_taken"}' in told

        await flow.eventually(counted, "spans that were not taken are counted")


async def test_what_does_not_fit_in_the_queue_is_dropped_and_counted(collector: Collector) -> None:
    collector.answer = None
    counts: dict[str, int] = {}

    def counted(became: str, spans: int) -> None:
        counts[became] = counts.get(became, 0) + spans

    traces = opened({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, counted)
    for _ in range(QUEUE_MAX + 2 * BATCH_MAX):
        with traces.resumed("request", None, method="GET", route="/"):
            pass
    collector.answer = 200
    collector.released.set()
    await traces.aclose()

    assert BATCH_MAX <= counts["queue_full"] <= 2 * BATCH_MAX
    assert sum(counts.values()) <= QUEUE_MAX + 2 * BATCH_MAX


async def test_an_error_of_ours_is_the_requests_error_and_a_refusal_is_none(
    collector: Collector, open_gateway: Open, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        await inside.merchant.post("/v1/payments", flow.body(currency="XXX"), **traceparent())
        inside.database.rows("ALTER TABLE payment RENAME TO away")
        broken = await inside.merchant.post("/v1/payments", flow.body(), **traceparent())
        inside.database.rows("ALTER TABLE away RENAME TO payment")
        nowhere = await inside.merchant.get("/v1/nothing/4242424242424242")
    refused, failed = [span for span in collector.of(TRACE) if span.name == "POST /v1/payments"]

    assert (refused["status"], refused.error) == (422, False)
    assert (failed["status"], failed.error, failed["error"]) == (broken.status_code, True, str(broken.status_code))
    assert nowhere.status_code == 404
    assert [span["status"] for span in collector.spans if span.name == "GET"] == [404]


# --- Off ----------------------------------------------------------------------------------------------------------------


def test_without_an_endpoint_nothing_that_traces_or_exports_is_loaded() -> None:
    """The Redis client loads the SDK's metrics by itself wherever the SDK is installed, and does nothing with them."""
    program = """
import sys
from gateway import tracing
import gateway.app, gateway.worker, gateway.dev
assert tracing.opened({}, print) is tracing.OFF
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter", "google."))]
"""
    ended = subprocess.run([sys.executable, "-P", "-c", program], check=False, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr


async def test_without_an_endpoint_no_span_is_begun_and_nothing_is_kept(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged()
        (row,) = inside.database.operations(payment["id"])

        assert inside.house.deps.traces is OFF
    assert row["trace"] is None
    with OFF.resumed("request", f"00-{TRACE}-{CALLER}-01") as span:
        assert (span, kept(), current.get()) == (None, None, None)


async def test_a_line_of_the_log_names_its_trace(collector: Collector) -> None:
    traces = Exported({}, lambda *_: None)
    with traces.resumed("request", f"00-{TRACE}-{CALLER}-01", method="GET", route="/"):
        assert in_line(None, "", {"event": "x"}) == {"event": "x", "trace_id": TRACE}
    assert in_line(None, "", {"event": "x"}) == {"event": "x"}
    # While it is open the SDK starts a thread in every forked child, and a child with threads may enter no user namespace.
    await traces.aclose()


# --- Settings and the table -----------------------------------------------------------------------------------------------

NAMED: Final = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_TRACES_SAMPLER": "nonsense"}, False),
        (NAMED, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector.example/v1/traces"}, True),
        (NAMED | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (NAMED | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (NAMED | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}, True),
        (NAMED | {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b,x-more=c"}, True),
    ],
)
def test_traces_are_on_where_an_endpoint_is_named(environment: dict[str, str], on: bool) -> None:  # noqa: FBT001
    assert wanted(environment) is on


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://user:hunter2@collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_and_never_repeated(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        wanted({**NAMED, "OTEL_TRACES_SAMPLER": "traceidratio", variable: value})

    assert str(refused.value).startswith(f"{variable}: ")
    assert "hunter2" not in str(refused.value)


def test_the_table_tells_every_word_once_and_names_spans_by_what_they_tell() -> None:
    used = {word for sort in SPANS.values() for word in sort.told}

    assert used == ATTRIBUTES.keys()
    assert len(set(ATTRIBUTES.values())) == len(ATTRIBUTES)
    for sort in SPANS.values():
        assert {name for _, name, _, _ in Formatter().parse(sort.name) if name} <= set(sort.told)
    assert all(ATTRIBUTES[word] in spans_section() for word in used)
