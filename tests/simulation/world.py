"""A simulated world: gateways, workers, PSPs, clients and what goes wrong between them, all drawn from one seed.

What is real: the routes, the charge path, the lifecycle, the plan, the keys, the inbox, the worker's jobs, the registry's resends,
and Postgres. What is simulated: time, chance, the network, Redis and the PSPs.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Final, NoReturn, cast

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.routing import Router

import idempotency.store
from gateway import news
from gateway.api.auth import _checksum
from gateway.app import Edge, House, _mount
from gateway.books import Books
from gateway.deps import Deps
from gateway.endpoint_books import EndpointBooks
from gateway.events import endpoint_event
from gateway.in_force import InForce
from gateway.method_books import MethodBooks
from gateway.metrics.instruments import Instruments
from gateway.news_books import NewsBooks
from gateway.queries import Queries
from gateway.routing_books import RoutingBooks
from gateway.settings import VERSIONS, Settings
from gateway.sql import Pool
from gateway.vault import Keyring
from gateway.worker import jobs
from idempotency.once import GatePolicy, Once
from providers.contract import Event
from providers.registry import Account, AccountConfig
from routing.plan import OnUnknown
from tests.simulation.gate import SimRedis
from tests.simulation.loop import HOST, Host, SimLoop
from tests.simulation.postgres import EPOCH, SimPool, SimPostgres, Stage, instant
from tests.simulation.psp import HORIZON_S, HOUR, NO_FAULTS, SECRET, Arrival, Charge, Faults, Psp, SimProvider, Style
from webhooks.egress import Egress
from webhooks.inbox import Applied, Inbox
from webhooks.outbox import Outbox

MERCHANTS: Final = ("mer_one", "mer_two")
GATEWAYS: Final = 3
WORKERS: Final = 2
POOL: Final = 16
KEYS: Final = Keyring.derive(b"s" * 32, (b"v" * 32,))
SETTINGS: Final = Settings.model_validate(
    {
        "database_url": "postgresql://simulated",
        "redis_url": "redis://simulated",
        "secret_key": "c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M=",
        "public_url": "http://gateway.example",
    }
)
CLIENT_WAITS_S: Final = 35.0
QUIET_S: Final = 3 * HOUR
"""How seldom a job comes round where nothing happens for days."""
LATE_S: Final = 100.0
"""A request that left within the horizon may arrive so much after it."""
OPEN: Final = frozenset({"created", "sent", "requires_action", "pending", "unknown"})
SURPRISES: Final = frozenset(
    {"provider_adapter_failed", "request_failed", "sweep_failed", "task_failed", "webhook_apply_failed"}
)
"""Log events that tell of an exception that nobody expected, unless it is the database's absence."""
TELLING: Final = frozenset({"contradiction", "lease_was_lost", "outcome_not_recorded", "opening_in_doubt"})
"""Log events that a trace shows."""
EXPECTED: Final = frozenset({"DatabaseAway", "InDoubt"})


class Violation(Exception):
    """A promise was broken."""

    def __init__(self, rule: str, order: str, detail: str) -> None:
        super().__init__(rule, order, detail)
        self.rule = rule
        self.order = order
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    body: bytes
    headers: dict[str, str]


@dataclass
class Gateway:
    """One incarnation of one process: a server, a worker, or both in one."""

    host: Host
    house: House
    serve: Any
    routes: _Routes
    waiting: dict[asyncio.Future[Reply | None], None] = field(default_factory=dict)
    """In the order of asking: a set would have the order of their addresses."""


class World:
    """Everything that happens in one simulation. ``violation`` is the first promise that was broken."""

    def __init__(self, seed: int, stage: Stage, faults: Faults, *, epoch: int = 0) -> None:
        self.seed = seed
        self.stage = stage
        self.faults = faults
        self.loop = SimLoop(seed)
        self.nature = random.Random(f"nature {seed}")
        self.counts: Counter[str] = Counter()
        self.on_unknown = OnUnknown.VOID_THEN_FAILOVER if seed % 2 else OnUnknown.HOLD
        self.violation: Violation | None = None
        self.patience_s = 0.0
        """How long it may take until everything is at rest."""
        self.blind: frozenset[str] = frozenset()
        """Rules that are not judged: whether another one finds a mutant, too."""
        self.calm = False
        self.notes: list[tuple[float, str, str]] = []
        self.postgres = SimPostgres(stage, self.loop, self.nature, faults.statement, self.counts)
        self.redis = SimRedis(self.loop, self.nature, faults.redis, self.counts)
        self.psps: dict[str, Psp] = {}
        for merchant, styles in zip(MERCHANTS, (("prompt", "later"), ("later", "prompt")), strict=True):
            for style in styles:
                name = f"{style}_{merchant.removeprefix('mer_')}"
                self.psps[name] = Psp(name, cast("Style", style), self, self._webhook)
        self.gateways: dict[str, Gateway] = {}
        self.orders: dict[str, list[Charge]] = {}
        self._hosts: list[Host] = []
        self._kill_in = self._steps_to_kill()
        self._ended: asyncio.Future[None] | None = None
        self._sent: dict[str, tuple[str, bytes]] = {}
        self._busy_until = 0.0
        self._over = False
        self.loop.before = self._before

    # --- what the parts ask of it ---

    @property
    def now(self) -> float:
        return self.loop.now

    def clock(self) -> datetime:
        return instant(self.loop.now)

    def failing(self) -> Faults:
        return NO_FAULTS if self.calm else self.faults

    def note(self, order: str, what: str) -> None:
        self.notes.append((self.loop.now, order, what))

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None:
        async def watched() -> None:
            try:
                await coro
            except Exception as error:
                self.fail(error)

        self.loop.start_on(None, watched())

    def fail(self, error: Exception) -> None:
        """The first broken promise ends the world."""
        if isinstance(error, Violation) and error.rule in self.blind:
            return
        if self.violation is None:
            broken = error if isinstance(error, Violation) else Violation("surprise", "", repr(error))
            broken.__cause__ = None if broken is error else error
            self.violation = broken
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    # --- the wire, judged as it happens ---

    def arrived(self, arrival: Arrival) -> None:
        body = arrival.body
        reference, order = body["reference"], body["order"]
        self.note(
            order, f"{arrival.psp} got {body['verb']} {reference[-6:]} of {body['amount']} under {arrival.key[:8]}"
        )
        known = self._sent.setdefault(arrival.key, (reference, arrival.digest))
        self.judge("one key, one request", order, f"{arrival.key} carried two", holds=known[0] == reference)
        known = self._sent.setdefault(reference, (arrival.key, arrival.digest))
        same = known == (arrival.key, arrival.digest)
        self.judge("one operation, one key, the same bytes", order, f"{reference} was sent in two ways", holds=same)
        age, horizon = self.loop.now - arrival.first_of_key, HORIZON_S[arrival.style]
        self.judge(
            "no replay beyond the horizon",
            order,
            f"{reference} was sent after {age:.0f} s",
            holds=age < horizon + LATE_S,
        )
        rows = self.stage.look(
            """SELECT o.id, o.seq, o.kind, o.status FROM operation o
            WHERE o.payment_id = (SELECT payment_id FROM operation WHERE id = $1) ORDER BY o.seq""",
            reference,
        )
        ours = next((row for row in rows if row["id"] == reference), None)
        self.judge("intent before action", order, f"{reference} is not written", holds=ours is not None)
        if body["verb"] == "authorize" and ours is not None:
            for row in rows:
                earlier = row["kind"] == "authorize" and row["seq"] < ours["seq"]
                still = earlier and row["status"] in OPEN
                self.judge("nobody else is asked", order, f"{row['id']} is {row['status']}", holds=not still)

    def judge(self, rule: str, order: str, detail: str, *, holds: bool) -> None:
        """Raise :class:`Violation` where a rule does not hold, unless this world is blind to it."""
        if not holds:
            self.counts[f"broken: {rule}"] += 1
            if rule not in self.blind:
                raise Violation(rule, order, detail)

    def charged(self, charge: Charge) -> None:
        charges = self.orders.setdefault(charge.order, [])
        charges.append(charge)
        self.counts["authorizations"] += 1
        live = [each.psp for each in charges if not each.voided]
        self.judge("never charged twice", charge.order, f"charged at {live}", holds=len(live) == 1)

    # --- hosts ---

    def boot(self, name: str, *, worker: bool) -> None:
        """Start a process: wired as :func:`gateway.app.open_house` wires it."""
        host = Host(name)
        self._hosts.append(host)
        context = contextvars.copy_context()
        context.run(HOST.set, host)
        gateway = context.run(self._build, host)
        self.gateways[name] = gateway
        if worker:
            for job, (cron, work) in jobs(gateway.house.deps, gateway.house.inbox, gateway.house.pool).items():
                self.loop.start_on(host, self._work(job, _period(cron), work))

    def _build(self, host: Host) -> Gateway:
        registry = CollectorRegistry()
        instruments = Instruments(registry)
        pool = Pool(SimPool(self.postgres), POOL)
        gate = self.redis.gate()

        def applied(policy: GatePolicy) -> None:
            self.counts["Redis losses met"] += 1

        deps = Deps(
            books=Books(pool),
            method_books=MethodBooks(pool),
            news_books=NewsBooks(pool),
            endpoint_books=EndpointBooks(pool),
            routing_books=RoutingBooks(pool),
            queries=Queries(pool),
            once=Once(gate, GatePolicy.FAIL_OPEN, applied),
            in_force=InForce(pool, (), instruments),
            accounts={name: self._account(psp) for name, psp in self.psps.items()},
            keys=KEYS,
            instruments=instruments,
            clock=self.clock,
            public_url=SETTINGS.public_url,
            on_unknown=self.on_unknown,
        )

        async def apply(account: str, event: Event) -> Applied:
            return await news.apply(account, event, deps)

        inbox = Inbox(pool, KEYS.sealer.seal, KEYS.sealer.open, apply, lambda _: None)
        outbox = Outbox(
            pool, Egress(), lambda *_: {}, endpoint_event, draw=self.nature.random
        )  # nobody is told in here
        house = House(deps, inbox, outbox, pool, pool, gate, registry, frozenset())
        router = Router()
        routes = _Routes(router)
        _mount(cast("FastAPI", routes), house, SETTINGS)
        return Gateway(host, house, Edge(router), routes)

    def _account(self, psp: Psp) -> Account:
        merchant = f"mer_{psp.name.rpartition('_')[2]}"
        config = AccountConfig(name=psp.name, merchant=merchant, provider=psp.name, api_key=SecretStr("x"))
        return Account(config, SimProvider(psp, self))

    async def _work(self, name: str, period: float, work: Callable[[], Any]) -> None:
        """A job by the clock, as the worker runs it. Nothing hurries where nothing happens: then it comes round less often."""
        pause = period
        while True:
            await asyncio.sleep(pause * (0.9 + 0.2 * self.nature.random()))
            pause = period if self.loop.now < self._busy_until else min(pause * 2, QUIET_S)
            try:
                await work()
            except Exception as error:
                structlog.get_logger().error("task_failed", task=name, error=type(error).__name__)

    def _before(self, host: Host) -> None:
        self._kill_in -= 1
        if self._kill_in <= 0 and not self.calm:
            self._kill_in = self._steps_to_kill()
            self.kill(self.gateways[host.name])

    def _steps_to_kill(self) -> float:
        every = self.faults.kill_every
        return self.nature.expovariate(1 / every) if every else float("inf")

    def kill(self, gateway: Gateway) -> None:
        """``kill -9``, and a new incarnation a moment later."""
        if not gateway.host.alive:
            return
        gateway.host.alive = False
        self.postgres.cut(gateway.host)
        self.counts["kills"] += 1
        self.note("", f"{gateway.host.name} killed")
        for future in gateway.waiting:
            self.loop.call_later(self.nature.random() * 0.1, _break, future, context=_outside())
        name, worker = gateway.host.name, gateway.host.name.startswith("worker")
        pause = 0.2 + self.nature.random() * self.nature.choice((0.5, 1.0, 4.0))
        self.loop.call_later(pause, lambda: self.boot(name, worker=worker), context=_outside())

    async def chaos(self) -> None:
        """Stalls, and losses of Redis and of Postgres, until the world calms down."""
        nature, faults = self.nature, self.faults

        async def every(seconds: float, strike: Callable[[], Coroutine[Any, Any, None]]) -> None:
            while seconds:
                await asyncio.sleep(nature.expovariate(1 / seconds))
                if self.calm:
                    return
                await strike()

        async def stall() -> None:
            gateway = nature.choice(sorted(self.gateways.values(), key=lambda each: each.host.name))
            gateway.host.stalled_until = self.loop.now + nature.choice((0.5, 3.0, 9.0, 20.0)) * nature.random()
            self.counts["stalls"] += 1

        async def lose_redis() -> None:
            self.counts["Redis losses"] += 1
            self.redis.flush()
            if nature.random() < 0.5:
                self.redis.away = True
                await asyncio.sleep(nature.random() * 8)
                self.redis.away = False

        async def lose_postgres() -> None:
            self.counts["Postgres losses"] += 1
            self.note("", "Postgres lost")
            self.postgres.cut()
            if nature.random() < 0.5:
                self.postgres.away = True
                await asyncio.sleep(nature.random() * nature.choice((1.0, 5.0, 20.0)))
                self.postgres.away = False

        await asyncio.gather(
            every(faults.stall_every_s, stall),
            every(faults.redis_every_s, lose_redis),
            every(faults.postgres_every_s, lose_postgres),
        )

    # --- the network ---

    async def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply | None:
        """One request to one of the gateways. ``None``: the connection broke, and nobody knows what became of it."""
        servers = [
            each for name, each in sorted(self.gateways.items()) if each.host.alive and name.startswith("gateway")
        ]
        await asyncio.sleep(self.nature.random() * 0.05)
        if not servers:
            return None
        gateway = self.nature.choice(servers)
        if not gateway.host.alive or self.nature.random() < self.failing().wire / 2:
            return None
        answer: asyncio.Future[Reply | None] = self.loop.create_future()
        gateway.waiting[answer] = None
        self.loop.start_on(gateway.host, self._serve(gateway, method, path, headers, body, answer))
        try:
            async with asyncio.timeout(CLIENT_WAITS_S):
                reply = await answer
        except TimeoutError:
            return None
        finally:
            gateway.waiting.pop(answer, None)
        return None if self.nature.random() < self.failing().wire else reply

    async def _serve(
        self,
        gateway: Gateway,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        answer: asyncio.Future[Reply | None],
    ) -> None:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("gateway", 80),
            "client": ("client", 1),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "state": {},
            "app": gateway.routes,
        }
        told: dict[str, Any] = {"body": b""}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                told.update(status=message["status"], headers=message["headers"])
            else:
                told["body"] += message.get("body", b"")

        try:
            await gateway.serve(scope, receive, send)
        except Exception as error:
            self.fail(error)
            return
        if not answer.done():
            said = {name.decode(): value.decode() for name, value in told["headers"]}
            answer.set_result(Reply(told["status"], told["body"], said))

    async def _webhook(self, account: str, raw: bytes) -> int | None:
        reply = await self.ask("POST", f"/v1/webhooks/{account}", {"signature": SECRET}, raw)
        return None if reply is None else reply.status

    # --- a run ---

    def stir(self, seconds: float = 120.0) -> None:
        """Something happens: the workers keep their pace for a while."""
        self._busy_until = max(self._busy_until, self.loop.now + seconds)

    def run(self, life: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Live until ``life`` is over or a promise is broken; then nothing of it goes on."""

        async def main() -> None:
            self._ended = self.loop.create_future()

            async def lived() -> None:
                await life()
                if self._ended is not None and not self._ended.done():
                    self._ended.set_result(None)

            self.spawn(lived())
            await self._ended

        with self._virtual():
            for name, api_key in _api_keys().items():
                self._merchant(name, *api_key)
            for number in range(GATEWAYS):
                self.boot(f"gateway {number}", worker=False)
            for number in range(WORKERS):
                self.boot(f"worker {number}", worker=True)
            try:
                self.loop.run_until_complete(main())
            finally:
                self.calm = self._over = True
                self.loop.bury(self._hosts)
                self.loop.close()

    def _merchant(self, name: str, key_id: str, secret: str) -> None:
        self.stage.look("INSERT INTO merchant (id, name, created_at) VALUES ($1, $1, $2)", name, EPOCH)
        self.stage.look(
            """INSERT INTO api_key (id, merchant_id, kind, livemode, secret_hash, version, created_at)
            VALUES ($1, $2, 'secret', false, $3, $4, $5)""",
            key_id,
            name,
            KEYS.hash_api_key(secret),
            VERSIONS[0],
            EPOCH,
        )

    def _logged(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        name, error = event["event"], event.get("error")
        self.counts[f"log {name}"] += 1
        if name in TELLING:
            self.note("", f"log: {name} { ({**event, 'event': ''}) }")
        if name == "contradiction" and not self._over:
            self.fail(Violation("no alarm without a cause", "", f"{event['payment']}: {event['operation']}"))
        if name in SURPRISES and error not in EXPECTED and not self._over:
            self.fail(Violation("surprise", "", f"{name}: {event}"))
        raise structlog.DropEvent

    @contextmanager
    def _virtual(self) -> Iterator[None]:
        """Time and chance are the simulation's: for this process, until the run is over."""
        chance = random.Random(f"chance {self.seed}")
        state, logging = random.getstate(), structlog.get_config()
        began = int(EPOCH.timestamp()) * 10**9
        instead: list[tuple[Any, str, Any]] = [
            (time, "monotonic", lambda: self.loop.now),
            (time, "perf_counter", lambda: self.loop.now),
            (time, "time_ns", lambda: began + int(self.loop.now * 1e9)),
            (os, "urandom", chance.randbytes),
            (idempotency.store, "token_hex", lambda size: chance.randbytes(size).hex()),
        ]
        held = [(place, name, getattr(place, name)) for place, name, _ in instead]
        for place, name, thing in instead:
            setattr(place, name, thing)
        random.seed(self.seed)
        structlog.configure(processors=[self._logged], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            for place, name, thing in held:
                setattr(place, name, thing)
            random.setstate(state)
            structlog.configure(**logging)


@dataclass
class _Routes:
    """What mounting asks of an application."""

    router: Router
    state: SimpleNamespace = field(default_factory=SimpleNamespace)


def _api_keys() -> dict[str, tuple[str, str]]:
    return {merchant: (f"{number:016x}", "s" * 43) for number, merchant in enumerate(MERCHANTS)}


def token_of(merchant: str) -> str:
    """The text of a merchant's API key."""
    key_id, secret = _api_keys()[merchant]
    body = f"sk_test_{key_id}_{secret}"
    return f"{body}_{_checksum(body)}"


def _period(cron: str) -> float:
    every = re.search(r"\*/(\d+)$", cron)
    assert every is not None, cron
    return float(every[1])


def _break(future: asyncio.Future[Reply | None]) -> None:
    if not future.done():
        future.set_result(None)


def _outside() -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(HOST.set, None)
    return context
