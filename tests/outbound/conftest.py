"""What the proofs of sending share: receivers that listen for real, endpoints and events as rows, and a sender on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from aiohttp import web

from gateway.events import endpoint_event
from gateway.ids import EVENT, new_id
from gateway.sql import Pool, connect
from webhooks.egress import Egress
from webhooks.outbox import Counted, Outbox
from webhooks.signing import Secrets

if TYPE_CHECKING:
    from tests.conftest import Database, Kit

HOST: Final = "127.0.0.1"
MERCHANT: Final = "mer_dev"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Heard:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """A merchant's server. ``answers`` says by path what it does; otherwise it is content."""

    port: int
    answers: dict[str, Answer] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    at_once: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    most: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def url(self, path: str = "/hooks") -> str:
        return f"http://{HOST}:{self.port}{path}"

    def at(self, path: str) -> list[Heard]:
        return [each for each in self.heard if each.path == path]

    async def hear(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.path
        self.heard.append(Heard(path, dict(request.headers), body, asyncio.get_running_loop().time()))
        self.at_once[path] += 1
        self.most[path] = max(self.most[path], self.at_once[path])
        try:
            answer = self.answers.get(path)
            return web.Response(text="ok") if answer is None else await answer(request)
        finally:
            self.at_once[path] -= 1


@asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
    receiver = Receiver(0)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.hear)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    line = socket.socket()
    line.bind((HOST, 0))
    receiver.port = line.getsockname()[1]
    site = web.SockSite(runner, line)
    await site.start()
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """One server of a merchant, on a port of its own."""
    async with listening() as one:
        yield one


def answering(status: int, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def hanging(_: web.Request) -> web.Response:
    """Never answers; the one who asks goes away first."""
    await asyncio.Event().wait()
    raise AssertionError


@dataclass
class Post:
    """Endpoints and events of one merchant, put into the database as the API and the books do it."""

    database: Database
    sealer: Any
    secrets: dict[str, Secrets] = field(default_factory=dict)

    def endpoint(self, url: str, **changes: Any) -> str:
        endpoint_id: str = changes.pop("id", f"we_{uuid.uuid4().hex}")
        self.secrets[endpoint_id] = secrets = changes.pop("secrets", None) or Secrets.new()
        row = {
            "id": endpoint_id,
            "merchant_id": MERCHANT,
            "livemode": False,
            "url": url,
            "status": "enabled",
            "failed_events": 0,
            "notices": 0,
            "sealed_secrets": self.sealer.seal_json(secrets.to_json(), endpoint_id, "webhook_endpoint"),
        } | changes
        names, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
        self.database.rows(
            f"INSERT INTO webhook_endpoint ({names}, created_at, updated_at) VALUES ({places}, now(), now())", **row
        )
        return endpoint_id

    def event(self, *endpoints: str, number: int = 0, type_: str = "payment.succeeded") -> str:
        """An event that is on its way to ``endpoints``, due at once."""
        event_id = new_id(EVENT)
        body = json.dumps({"id": event_id, "type": type_, "data": {"number": number, "text": "Grüße"}}).encode()
        with psycopg.connect(self.database.admin_url) as connection:
            connection.execute(
                "INSERT INTO event (id, merchant_id, livemode, type, body, created_at) VALUES (%s, %s, false, %s, %s, now())",
                [event_id, MERCHANT, type_, body],
            )
            for endpoint in endpoints:
                connection.execute(
                    "INSERT INTO delivery (endpoint_id, event_id, status, tries, due_at, created_at)"
                    " VALUES (%s, %s, 'pending', 0, now(), now())",
                    [endpoint, event_id],
                )
        return event_id

    def delivery(self, endpoint: str, event: str) -> dict[str, Any]:
        (row,) = self.database.rows(
            "SELECT *, extract(epoch FROM due_at - now())::float8 AS due_s FROM delivery"
            " WHERE endpoint_id = %(endpoint)s AND event_id = %(event)s",
            endpoint=endpoint,
            event=event,
        )
        return row

    def tries(self, endpoint: str, event: str) -> list[dict[str, Any]]:
        return self.database.rows(
            "SELECT * FROM delivery_attempt WHERE endpoint_id = %(endpoint)s AND event_id = %(event)s ORDER BY at",
            endpoint=endpoint,
            event=event,
        )

    def standing(self, endpoint: str) -> dict[str, Any]:
        (row,) = self.database.rows(
            "SELECT *, extract(epoch FROM paused_until - now())::float8 AS paused_s FROM webhook_endpoint WHERE id = %(id)s",
            id=endpoint,
        )
        return row

    def status(self, endpoint: str, event: str) -> str:
        return str(self.delivery(endpoint, event)["status"])

    def due_now(self) -> None:
        self.database.rows("UPDATE delivery SET due_at = now() WHERE due_at IS NOT NULL")

    def body(self, event: str) -> bytes:
        return bytes(self.database.value("SELECT body FROM event WHERE id = %(id)s", id=event))

    def count(self, where: str) -> int:
        return int(self.database.value(f"SELECT count(*) FROM delivery WHERE {where}"))


@pytest.fixture
def post(database: Database, flow: type[Kit]) -> Post:
    return Post(database, flow.keyring().sealer)


@dataclass
class Sender:
    """An outbox inside the test, with what it counted."""

    outbox: Outbox
    pool: Pool
    tried: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    async def round(self) -> int:
        """One claim, and its tries to their end."""
        taken = await self.outbox.send_due()
        await self.outbox.idle()
        return taken


OpenSender = Callable[..., AbstractAsyncContextManager[Sender]]


@pytest.fixture
def sending(database: Database, flow: type[Kit]) -> OpenSender:
    """``async with sending() as sender``: a sender of its own on the test's database; several may be open."""

    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[Sender]:
        sealer = flow.keyring().sealer
        pool = await connect(database.url)
        egress = changes.pop("egress", None) or Egress(loopback=True)
        tried: list[str] = []
        waited: list[float] = []
        outbox = Outbox(
            pool,
            egress,
            lambda sealed, endpoint: sealer.open_json(sealed, endpoint, "webhook_endpoint"),
            endpoint_event,
            draw=random.random,
            counted=Counted(tried.append, waited.append),
            **changes,
        )
        try:
            yield Sender(outbox, pool, tried, waited)
        finally:
            await egress.aclose()
            pool.close()

    return opened


@asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Kitchen:
    """What the tests here share."""

    running = staticmethod(running)
    listening = staticmethod(listening)
    answering = staticmethod(answering)
    hanging = staticmethod(hanging)
    MERCHANT = MERCHANT


@pytest.fixture
def kitchen() -> type[Kitchen]:
    return Kitchen
