"""The composition root: settings in, a running house out. The only place where objects are wired."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from random import SystemRandom
from typing import Any, Final

import asyncpg
import orjson
import structlog
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import crash, logs, news, tracing
from gateway.answers import JSON
from gateway.api.accounts import Accounts
from gateway.api.auth import Authenticator
from gateway.api.disputes import Disputes
from gateway.api.events import Events
from gateway.api.inbound import InboundEvents
from gateway.api.incidents import Incidents
from gateway.api.methods import Customers, PaymentMethods
from gateway.api.metrics import Metrics
from gateway.api.monitors import Monitors
from gateway.api.openapi import document
from gateway.api.payments import Payments
from gateway.api.policies import Policies
from gateway.api.returns import Returns
from gateway.api.routing import Routing
from gateway.api.simulations import Simulations
from gateway.api.strategies import Strategies
from gateway.api.webhook_endpoints import WebhookEndpoints
from gateway.books import Books
from gateway.console.pages import Console
from gateway.deps import Deps
from gateway.endpoint_books import EndpointBooks
from gateway.errors import MEDIA_TYPE, PROBLEMS, Problem
from gateway.events import endpoint_event
from gateway.evidence import Learned, uses_of
from gateway.health import Health
from gateway.ids import REQUEST, new_id
from gateway.in_force import InForce
from gateway.inbound import InboundLog
from gateway.method_books import MethodBooks
from gateway.metrics import decisions, exposition
from gateway.metrics.instruments import Instruments
from gateway.monitor_books import MonitorBooks
from gateway.news_books import NewsBooks
from gateway.queries import Queries
from gateway.routing_books import RoutingBooks
from gateway.settings import Settings, load_account_configs, load_settings
from gateway.simulations import SimulationBooks
from gateway.sql import DATABASE_LOST, InDoubt, Pool, connect, connect_to_look
from gateway.stopping import stopped
from gateway.traced import Deliveries, Requests, TracedPool, TracedTransport
from gateway.tracing import Traces
from gateway.vault import Keyring
from gateway.watch import Watch
from idempotency.once import GateClosed, GatePolicy, Once
from idempotency.store import RedisGate
from providers.contract import Event
from providers.registry import ConfigError, load_accounts, place
from providers.transport import Transport
from webhooks.egress import Egress
from webhooks.inbox import Applied, Inbox
from webhooks.outbox import Counted, Outbox
from webhooks.refusals import Refusals
from webhooks.router import Webhooks

REQUEST_ID_MAX: Final = 64

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class House:
    """Everything that runs, so that it can be closed again."""

    deps: Deps
    inbox: Inbox
    outbox: Outbox
    pool: Pool
    looking: Pool
    """For questions over very many rows: it cannot write, and takes no connection from the charges."""
    gate: RedisGate
    registry: CollectorRegistry
    unproved: frozenset[str]
    """The accounts without a webhook secret: nothing that is said of them can be believed."""


@asynccontextmanager
async def open_house(settings: Settings, passed: crash.Passed | None = None) -> AsyncIterator[House]:
    """Wire the house and close it again. Raises :class:`ConfigError` for what cannot be served, before anything is.

    ``passed`` is told of every crash point on the way; without it, that is done where the settings name one.
    """
    configs = load_account_configs(settings)
    passed = passed or crash.armed(settings, configs)
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    traces = tracing.opened(os.environ, lambda became, spans: instruments.spans.labels(became).inc(spans))
    transport = _transport(passed, traces)
    loopback = settings.webhooks_allow_loopback
    egress = Egress(loopback=loopback) if passed is None else crash.WatchedEgress(passed, loopback=loopback)
    accounts = load_accounts(configs, transport)
    unproved = frozenset(config.name for config in configs if not config.webhook_secrets)
    keys = Keyring.derive(settings.secret_key.get_secret_value(), settings.vault_keys)
    redis_url = settings.redis_url.get_secret_value()
    gate = RedisGate(redis_url) if passed is None else crash.WatchedGate(redis_url, passed)

    def applied(policy: GatePolicy) -> None:
        instruments.stood_in("redis_loss", policy)

    database_url = settings.database_url.get_secret_value()
    pool = await connect(database_url, _pool(passed, traces))
    try:
        in_force = InForce(pool, {(each.merchant, each.livemode) for each in accounts.values()}, instruments)
        deps = Deps(
            books=Books(pool),
            method_books=MethodBooks(pool),
            news_books=NewsBooks(pool),
            endpoint_books=EndpointBooks(pool),
            routing_books=RoutingBooks(pool),
            queries=Queries(pool),
            once=Once(gate, settings.on_redis_loss, applied),
            in_force=in_force,
            learned=Learned(pool, lambda: uses_of(in_force.documents()), instruments),
            accounts=accounts,
            keys=keys,
            instruments=instruments,
            clock=lambda: datetime.now(UTC),
            public_url=settings.public_url.rstrip("/"),
            on_unknown=settings.on_unknown,
            policies=settings.policies,
            worker_backlog_max=settings.worker_backlog_max,
            limits=settings.limits,
            webhooks_allow_loopback=settings.webhooks_allow_loopback,
            routing_second_person=settings.routing_second_person,
            traces=traces,
        )

        looking = await connect_to_look(database_url)
        try:
            yield House(deps, _inbox(pool, deps), _outbox(pool, egress, deps), pool, looking, gate, registry, unproved)
        finally:
            looking.close()
    finally:
        await egress.aclose()
        pool.close()
        await gate.aclose()
        await transport.aclose()
        await traces.aclose()


def _transport(passed: crash.Passed | None, traces: Traces) -> Transport:
    """What requests to providers go through. One whose crash points are watched has no spans."""
    if passed is not None:
        return crash.WatchedTransport(passed)
    return Transport() if traces is tracing.OFF else TracedTransport(traces)


def _pool(passed: crash.Passed | None, traces: Traces) -> Callable[[Any, int], Pool]:
    """The same of statements."""
    if passed is not None:
        return partial(crash.WatchedPool, passed)
    return Pool if traces is tracing.OFF else partial(TracedPool, traces)


def _inbox(pool: Pool, deps: Deps) -> Inbox:
    sealer = deps.keys.sealer

    async def apply(account: str, event: Event) -> Applied:
        return await news.apply(account, event, deps)

    def counted(result: str) -> None:
        deps.instruments.inbound_events.labels(result).inc()

    return Inbox(pool, sealer.seal, sealer.open, apply, counted)


def _outbox(pool: Pool, egress: Egress, deps: Deps) -> Outbox:
    sealer, instruments = deps.keys.sealer, deps.instruments

    def open_secrets(sealed: bytes, endpoint_id: str) -> Any:
        return sealer.open_json(sealed, endpoint_id, "webhook_endpoint")

    counted = Counted(
        tried=lambda result: instruments.deliveries.labels(result).inc(),
        waited=instruments.delivery_wait_seconds.observe,
    )
    draw, trying = SystemRandom().random, Deliveries(deps.traces)
    return Outbox(pool, egress, open_secrets, endpoint_event, draw=draw, counted=counted, trying=trying)


async def check(house: House) -> None:
    """Refuse to start where this cannot work: no tables, or an account with open operations that is not configured.

    Raises :class:`ConfigError` with the way out.
    """
    try:
        in_use = await house.deps.queries.accounts_in_use()
    except DATABASE_LOST as error:
        raise ConfigError(f"GATEWAY_DATABASE_URL: the database cannot be reached ({error})") from None
    except asyncpg.UndefinedTableError:
        raise ConfigError("GATEWAY_DATABASE_URL: the database has no tables yet; run: gateway migrate") from None
    except asyncpg.InsufficientPrivilegeError:
        raise ConfigError(
            "GATEWAY_DATABASE_URL: its role may not read the tables; gateway migrate, run with the same URL, grants it"
        ) from None
    missing = in_use - house.deps.accounts.keys()
    if missing:
        names = ", ".join(sorted(missing))
        raise ConfigError(
            f"accounts with open operations are not configured: {names}. Put them back until they are settled."
        )


async def preflight(settings: Settings) -> None:
    """Open the house once and look whether it can serve, so that a command can say why not in one sentence."""
    async with open_house(settings) as house:
        await check(house)


def create_app(
    settings: Settings | None = None,
    passed: crash.Passed | None = None,
    *,
    loaded: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The API. Nothing is opened before the server starts it. ``passed`` as in :func:`open_house`.

    ``loaded`` is called at each start, once everything is loaded and before the first request.
    """
    settings = settings or load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with open_house(settings, passed) as house:
                await check(house)
                webhooks = _mount(app, house, settings)
                watch = Watch(house.pool, house.gate, house.deps)
                await watch.look()
                await house.deps.in_force.start(house.deps.clock())
                await house.deps.learned.start()
                loaded()
                running = [
                    asyncio.create_task(watch.run()),
                    asyncio.create_task(house.deps.in_force.run(house.deps.clock)),
                    asyncio.create_task(house.deps.learned.run()),
                ]
                yield
                await stopped(running)
                await webhooks.drain()
        finally:  # uvicorn ends the process with the signal that stopped it, so that nothing runs at its exit
            await asyncio.to_thread(logs.flush)

    # FastAPI's own telemetry tells messages of exceptions and whole addresses.
    silent: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, telemetry=silent)
    if passed is not None or settings.crash_at is not None:
        app.add_middleware(crash.OnPath)
    app.add_middleware(Edge)
    if tracing.wanted(os.environ):
        app.add_middleware(Requests)
    app.add_exception_handler(HTTPException, _http_problem)
    app.mount("/docs/static", StaticFiles(packages=[("fastapi_offline", "static")]), name="docs")
    return app


def _mount(app: FastAPI, house: House, settings: Settings) -> Webhooks:
    deps = house.deps
    app.state.instruments = deps.instruments
    app.state.traces = deps.traces
    authenticator = Authenticator(
        deps.queries, deps.keys, dev=settings.dev, lost=lambda: deps.instruments.stood_in("postgres_loss_api_key")
    )
    webhooks = Webhooks(
        house.inbox,
        deps.accounts,
        Refusals(house.pool),
        lambda account, result: _count_webhook(house, account, result),
        lambda error: _count_loss(house, error),
    )
    app.router.routes += [
        *_charged(deps, authenticator),
        *_stored(deps, authenticator),
        *_routed(deps, authenticator),
        *_told(deps, authenticator),
        *_heard(house, authenticator, webhooks),
        *_simulated(house, authenticator),
        *_measured(house, authenticator),
        *_watched(house, authenticator),
        *_served(house),
        *(_looked_at(house, settings) if settings.console else []),
    ]
    return webhooks


def _charged(deps: Deps, authenticator: Authenticator) -> list[Route]:
    """The routes of payments and of what comes of them."""
    payments, disputes = Payments(deps, authenticator), Disputes(deps, authenticator)
    incidents = Incidents(deps, authenticator)
    return [
        Route("/v1/payments", payments.create, methods=["POST"]),
        Route("/v1/payments", payments.list, methods=["GET"]),
        Route("/v1/payments/{id}", payments.retrieve, methods=["GET"]),
        Route("/v1/payments/{id}/routing", payments.routing, methods=["GET"]),
        Route("/v1/payments/{id}/confirm", payments.confirm, methods=["POST"]),
        Route("/v1/payments/{id}/capture", payments.capture, methods=["POST"]),
        Route("/v1/payments/{id}/cancel", payments.cancel, methods=["POST"]),
        Route("/v1/payments/{id}/increment", payments.increment, methods=["POST"]),
        Route("/v1/payments/{id}/resolve", payments.resolve, methods=["POST"]),
        Route("/v1/payments/{id}/details", payments.details, methods=["POST"]),
        Route("/v1/return/{token}", Returns(deps).__call__, methods=["GET"]),
        Route("/v1/refunds", payments.refund, methods=["POST"]),
        Route("/v1/refunds/{id}", payments.retrieve_refund, methods=["GET"]),
        Route("/v1/disputes", disputes.list, methods=["GET"]),
        Route("/v1/disputes/{id}", disputes.retrieve, methods=["GET"]),
        Route("/v1/disputes/{id}/evidence", disputes.evidence, methods=["POST"]),
        Route("/v1/disputes/{id}/accept", disputes.accept, methods=["POST"]),
        Route("/v1/incidents", incidents.list, methods=["GET"]),
        Route("/v1/incidents/{id}", incidents.retrieve, methods=["GET"]),
        Route("/v1/incidents/{id}/close", incidents.close, methods=["POST"]),
    ]


def _stored(deps: Deps, authenticator: Authenticator) -> list[Route]:
    """The routes of what is kept to charge with, and of what is configured."""
    methods, customers = PaymentMethods(deps, authenticator), Customers(deps, authenticator)
    return [
        Route("/v1/payment_methods", methods.create, methods=["POST"]),
        Route("/v1/payment_methods", methods.list, methods=["GET"]),
        Route("/v1/payment_methods/{id}", methods.retrieve, methods=["GET"]),
        Route("/v1/payment_methods/{id}", methods.update, methods=["POST"]),
        Route("/v1/payment_methods/{id}", methods.delete, methods=["DELETE"]),
        Route("/v1/customers", customers.create, methods=["POST"]),
        Route("/v1/customers", customers.list, methods=["GET"]),
        Route("/v1/customers/{id}", customers.retrieve, methods=["GET"]),
        Route("/v1/customers/{id}", customers.delete, methods=["DELETE"]),
        Route("/v1/accounts", Accounts(deps, authenticator).list, methods=["GET"]),
        Route("/v1/policies", Policies(deps, authenticator).list, methods=["GET"]),
    ]


def _routed(deps: Deps, authenticator: Authenticator) -> list[Route]:
    """The routes of what a merchant says about routing."""
    routing = Routing(deps, authenticator)
    return [
        Route("/v1/routing", routing.overview, methods=["GET"]),
        Route("/v1/routing/history", routing.history, methods=["GET"]),
        Route("/v1/routing/strategies", Strategies(deps, authenticator).list, methods=["GET"]),
        Route("/v1/routing/uplift", routing.uplift, methods=["GET"]),
        Route("/v1/routing/shadow", routing.shadow, methods=["GET"]),
        Route("/v1/routing/rollback", routing.rollback, methods=["POST"]),
        Route("/v1/routing/configs", routing.create, methods=["POST"]),
        Route("/v1/routing/configs", routing.list, methods=["GET"]),
        Route("/v1/routing/configs/{id}", routing.retrieve, methods=["GET"]),
        Route("/v1/routing/configs/{id}/lint", routing.lint, methods=["POST"]),
        Route("/v1/routing/configs/{id}/diff", routing.diff, methods=["GET"]),
        Route("/v1/routing/configs/{id}/dry-run", routing.dry_run, methods=["POST"]),
        Route("/v1/routing/configs/{id}/publish", routing.publish, methods=["POST"]),
        Route("/v1/routing/publications/{id}/approve", routing.approve, methods=["POST"]),
        Route("/v1/routing/publications/{id}/withdraw", routing.withdraw, methods=["POST"]),
    ]


def _told(deps: Deps, authenticator: Authenticator) -> list[Route]:
    """The routes of what merchants are told, and where."""
    endpoints, events = WebhookEndpoints(deps, authenticator), Events(deps, authenticator)
    return [
        Route("/v1/webhook_endpoints", endpoints.create, methods=["POST"]),
        Route("/v1/webhook_endpoints", endpoints.list, methods=["GET"]),
        Route("/v1/webhook_endpoints/{id}", endpoints.retrieve, methods=["GET"]),
        Route("/v1/webhook_endpoints/{id}", endpoints.update, methods=["POST"]),
        Route("/v1/webhook_endpoints/{id}", endpoints.delete, methods=["DELETE"]),
        Route("/v1/webhook_endpoints/{id}/rotate_secret", endpoints.rotate_secret, methods=["POST"]),
        Route("/v1/webhook_endpoints/{id}/test", endpoints.test, methods=["POST"]),
        Route("/v1/webhook_endpoints/{id}/deliveries", endpoints.deliveries, methods=["GET"]),
        Route("/v1/webhook_endpoints/{id}/replay", endpoints.replay, methods=["POST"]),
        Route("/v1/events", events.list, methods=["GET"]),
        Route("/v1/events/{id}", events.retrieve, methods=["GET"]),
        Route("/v1/events/{id}/deliveries", events.deliveries, methods=["GET"]),
        Route("/v1/events/{id}/redeliver", events.redeliver, methods=["POST"]),
    ]


def _heard(house: House, authenticator: Authenticator, webhooks: Webhooks) -> list[Route]:
    """The routes of what providers tell us: where they do, and where that is read and replayed."""
    inbound = InboundEvents(house.deps, authenticator, InboundLog(house.pool))
    return [
        Route("/v1/webhooks/{account}", webhooks.__call__, methods=["POST"]),
        Route("/v1/inbound_events", inbound.list, methods=["GET"]),
        Route("/v1/inbound_events/refused", inbound.refused, methods=["GET"]),
        Route("/v1/inbound_events/replay", inbound.replay_many, methods=["POST"]),
        Route("/v1/inbound_events/{id}", inbound.retrieve, methods=["GET"]),
        Route("/v1/inbound_events/{id}/replay", inbound.replay, methods=["POST"]),
    ]


def _simulated(house: House, authenticator: Authenticator) -> list[Route]:
    """The routes of what routing documents would have done."""
    simulations = Simulations(house.deps, authenticator, SimulationBooks(house.pool))
    return [
        Route("/v1/routing/configs/{id}/simulate", simulations.create, methods=["POST"]),
        Route("/v1/routing/simulations", simulations.list, methods=["GET"]),
        Route("/v1/routing/simulations/{id}", simulations.retrieve, methods=["GET"]),
    ]


def _measured(house: House, authenticator: Authenticator) -> list[Route]:
    """The routes of the rates."""
    metrics = Metrics(house.deps, authenticator, house.looking)
    return [
        Route("/v1/metrics", metrics.list, methods=["GET"]),
        Route("/v1/metrics/{metric}", metrics.retrieve, methods=["GET"]),
    ]


def _watched(house: House, authenticator: Authenticator) -> list[Route]:
    """The routes of the monitors and of what they find."""
    monitors = Monitors(house.deps, authenticator, MonitorBooks(house.pool))
    return [
        Route("/v1/monitors", monitors.create, methods=["POST"]),
        Route("/v1/monitors", monitors.list, methods=["GET"]),
        Route("/v1/monitors/{id}", monitors.retrieve, methods=["GET"]),
        Route("/v1/monitors/{id}", monitors.update, methods=["POST"]),
        Route("/v1/monitors/{id}", monitors.delete, methods=["DELETE"]),
        Route("/v1/monitors/{id}/incidents", monitors.incidents_of, methods=["GET"]),
        Route("/v1/monitor_incidents", monitors.incidents, methods=["GET"]),
        Route("/v1/monitor_incidents/{id}", monitors.incident, methods=["GET"]),
        Route("/v1/monitor_incidents/{id}/acknowledge", monitors.acknowledge, methods=["POST"]),
    ]


def _served(house: House) -> list[Route]:
    """The routes of the service itself."""
    health = Health(house.gate, house.deps)

    async def metrics(_: Request) -> Response:
        return Response(told(house), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/healthz", health.live, methods=["GET"]),
        Route("/readyz", health.ready, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        Route("/docs", _docs, methods=["GET"]),
    ]


def _looked_at(house: House, settings: Settings) -> list[Route]:
    """The routes of the console."""
    return Console(house.deps, house.pool, house.looking, secure=settings.public_url.startswith("https://")).routes()


def told(house: House) -> bytes:
    """What this process tells Prometheus; where several serve one port, what all of them tell."""
    house.deps.instruments.lines_dropped(logs.dropped())
    return exposition.text(house.registry)


def _count_webhook(house: House, account: str, result: str) -> None:
    instruments = house.deps.instruments
    instruments.webhooks.labels(account, result).inc()
    if result == "refused":
        known = account in house.deps.accounts and account not in house.unproved
        instruments.stood_in("webhook_not_authentic" if known else "webhook_unconfigured")


def _count_loss(house: House, error: Exception) -> None:
    if isinstance(error, DATABASE_LOST):
        house.deps.instruments.stood_in("postgres_loss_webhook")


async def _openapi(_: Request) -> Response:
    return Response(orjson.dumps(document()), media_type=JSON)


async def _docs(_: Request) -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Interlock API",
        swagger_js_url="/docs/static/swagger-ui-bundle.js",
        swagger_css_url="/docs/static/swagger-ui.css",
        swagger_favicon_url="/docs/static/favicon.png",
    )


async def _http_problem(request: Request, error: Exception) -> Response:
    """A route that is not there, in our own form."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "internal_error")
    return _rendered(Problem(code, PROBLEMS[code].title + "."), request.scope)


def _rendered(problem: Problem, scope: Scope) -> Response:
    return Response(
        problem.body(scope["state"]["request_id"]), problem.sort.status, problem.headers(), media_type=MEDIA_TYPE
    )


class Edge:
    """The edge of the API: every request has an id, and every exception an answer that says nothing it should not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = decisions.Asked(scope["method"], scope["path"])
        decisions.begun(asked)
        try:
            await self._answer(asked, scope, receive, send)
        finally:
            instruments: Instruments = scope["app"].state.instruments
            instruments.answered(asked)

    async def _answer(self, asked: decisions.Asked, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id

        async def receive_timed() -> Message:
            with decisions.Waiting():
                return await receive()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                asked.status = message["status"]
                message["headers"].append((b"request-id", request_id.encode()))
            await send(message)

        try:
            await self._app(scope, receive_timed, send_marked)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server stops and waits no longer; what was begun is settled by its lease
            if asked.status is None:
                await _rendered(_cut_off(scope), scope)(scope, receive, send_marked)
            raise
        except Exception as error:
            problem = _problem_of(error, scope)
            if asked.status is not None:
                raise
            await _rendered(problem, scope)(scope, receive, send_marked)


def _problem_of(error: Exception, scope: Scope) -> Problem:
    """What an exception is to the caller. Only its class is logged: a message could hold what was sent."""
    match error:
        case Problem():
            return error
        case GateClosed():
            return Problem(
                "idempotency_unavailable", "Nothing happened. Send the same request with the same key again."
            )
        case _ if isinstance(error, DATABASE_LOST):
            log.error("database_lost", path=_route(scope), error=type(error).__name__)
            instruments: Instruments = scope["app"].state.instruments
            instruments.stood_in("postgres_loss_reading" if scope["method"] == "GET" else "postgres_loss_opening")
            in_doubt = isinstance(error, InDoubt) and scope["method"] != "GET"
            code = "outcome_in_doubt" if in_doubt else "database_unavailable"
            return Problem(code, "Send the same request with the same key again.")
        case _:
            log.error("request_failed", path=_route(scope), error=type(error).__name__, where=place(error))
            return Problem(
                "internal_error", "Send the same request with the same key again; if it stays, tell us the request_id."
            )


def _cut_off(scope: Scope) -> Problem:
    """What a request is told that was cut off in the middle: never that nothing happened, nor that it failed."""
    log.warning("request_cut_off", path=_route(scope))
    code = "internal_error" if scope["method"] == "GET" else "outcome_in_doubt"
    return Problem(code, "The server was stopped. Send the same request with the same key again.")


def _route(scope: Scope) -> str:
    """What was asked, for the log: never a token in an address."""
    path: str = scope["path"]
    return next((f"{start}{{token}}" for start in ("/v1/return/", "/console/link/") if path.startswith(start)), path)


def _request_id(scope: Scope) -> str:
    """The caller's own X-Request-Id where it is a plain word, else a new one."""
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    given = headers.get(b"x-request-id", b"")
    if 0 < len(given) <= REQUEST_ID_MAX and given.replace(b"-", b"").replace(b"_", b"").isalnum():
        return given.decode("ascii")
    return new_id(REQUEST)
