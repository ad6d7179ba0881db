"""`gateway listen`: events as they come, once each, forwarded with a signature that proves them; through a restart of the gateway."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from aiohttp import web

from gateway.listen import OVERLAP, Seen, line_of

if TYPE_CHECKING:
    from tests.conftest import Commands, Database, Kit, Open, Process, Processes

SECRET: Final = re.compile(r"whsec_[A-Za-z0-9+/=]+")
NOBODY: Final = "http://127.0.0.1:1"


@dataclass
class Receiver:
    """A developer's program: it keeps what it is sent, and answers as it was told."""

    url: str = ""
    status: int = 200
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.Response:
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.status, headers={"Location": f"{NOBODY}/elsewhere"})

    @property
    def types(self) -> list[str]:
        return [orjson.loads(body)["type"] for _, body in self.got]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hooks", receiver.__call__)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
        yield receiver
    finally:
        await runner.cleanup()


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As the specification of Standard Webhooks tells a receiver to look, and no code of ours."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode() + b"." + body
    expected = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    return fresh and f"v1,{expected}" in headers["webhook-signature"].split(" ")


async def listening(processes: Processes, flow: type[Kit], *words: str) -> Process:
    process = processes.command("listen", *words)
    await flow.eventually(lambda: "Ctrl-C ends it." in process.printed, "it listens")
    return process


async def test_it_prints_and_forwards_what_happens_through_a_restart_and_ends_with_a_sentence(
    processes: Processes, flow: type[Kit], database: Database
) -> None:
    server = processes.server().start()
    async with receiving() as receiver, server.merchant() as merchant:
        before = await merchant.charged()
        process = await listening(processes, flow, "--url", server.url, "--forward-to", receiver.url)
        paid = await merchant.charged()
        await flow.eventually(lambda: len(receiver.got) == 1, "the payment was forwarded")
        server.process.kill()
        await flow.eventually(lambda: "There is no answer from" in process.printed, "the gateway was missed")
        server.start()
        await flow.eventually(lambda: "answers again" in process.printed, "the gateway was found again")
        receiver.status = 302
        held = await merchant.charged(capture_method="manual")
        await flow.eventually(lambda: "<- 302" in process.printed, "the second one was forwarded")
        process.interrupt()
        code = await asyncio.to_thread(process.wait)
        (secret,) = set(SECRET.findall(process.printed))
        stored = {row["id"]: row["body"] for row in database.rows("SELECT id, body FROM event")}

    printed = process.printed
    assert code == 0, printed
    assert printed.splitlines()[-1] == "Stopped listening. Events go on being stored and sent."
    assert printed.count("There is no answer from") == 1
    assert receiver.types == ["payment.succeeded", "payment.requires_capture"]
    for headers, body in receiver.got:
        assert is_signed(secret, headers, body)
        assert not is_signed(secret, headers, body + b" ")
        assert stored[headers["webhook-id"]] == body
        assert headers["content-type"] == "application/json"
    lines = [line for line in printed.splitlines() if " payment." in line]
    assert [line.split()[1:] for line in lines] == [
        ["payment.succeeded", paid["id"], "1999", "EUR", "succeeded"],
        ["payment.requires_capture", held["id"], "1999", "EUR", "requires_capture"],
    ]
    assert before["id"] not in printed
    assert "sk_test_dev" not in printed


async def test_it_says_what_it_is_asked_for_and_that_nobody_takes_it(processes: Processes, flow: type[Kit]) -> None:
    server = processes.server().start()
    async with server.merchant() as merchant:
        asked = ("--events", "payment.requires_capture", "--events", "refund.*", "--forward-to", NOBODY)
        process = await listening(processes, flow, "--url", server.url, *asked)
        paid = await merchant.charged()
        await merchant.post("/v1/refunds", {"payment": paid["id"], "amount": 5})
        await merchant.charged(capture_method="manual")
        await flow.eventually(lambda: "payment.requires_capture" in process.printed, "the last one was heard")
        process.stop()

    assert [line.split()[1] for line in process.printed.splitlines() if line.startswith("20")] == [
        "refund.succeeded",
        "payment.requires_capture",
    ]
    assert "no answer (ClientConnectorError)" in process.printed


async def test_a_key_that_is_refused_and_an_address_that_is_no_gateway_are_a_sentence(
    processes: Processes, database: Database, commands: Commands
) -> None:
    server = processes.server().start()
    publishable = commands(database, "keys", "create", "mer_dev", "--kind", "publishable")
    async with receiving() as other:
        asked: list[tuple[str, ...]] = [
            ("--url", server.url, "--key", "sk_test_nobody"),
            ("--url", server.url, "--key", publishable),
            ("--url", other.url),
        ]
        started = [processes.command("listen", *words) for words in asked]
        answers = [(await asyncio.to_thread(process.wait), process.printed) for process in started]

    assert [code for code, _ in answers] == [2, 2, 2]
    assert [text.strip() for _, text in answers] == [
        f"gateway: --key: the gateway at {server.url} refuses it (401)",
        f"gateway: --key: the gateway at {server.url} refuses it (403)",
        f"gateway: --url: there is no gateway at {other.url}",
    ]
    assert publishable not in "".join(text for _, text in answers)


# --- What was seen ----------------------------------------------------------------------------------------------------


def event(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    plain = {"id": f"evt_{number}", "type": "payment.succeeded", "timestamp": at.isoformat(), "sequence": number}
    return {**plain, "payment": "pay_1", "data": {}} | fields


def test_an_event_that_is_committed_late_is_said_once_and_in_its_order() -> None:
    seen, now = Seen(), datetime(2026, 11, 21, tzinfo=UTC)
    first, late, newest = event(1, now), event(2, now - timedelta(seconds=59)), event(3, now + timedelta(seconds=1))

    assert seen.since is None
    assert seen.new([first]) == [first]
    assert seen.since == now - OVERLAP
    assert seen.new([newest, first, late]) == [late, newest]
    assert seen.new([newest, first, late]) == []


def test_what_is_not_looked_at_any_more_is_forgotten() -> None:
    seen, now = Seen(), datetime(2026, 11, 21, tzinfo=UTC)
    for number in range(1000):
        seen.new([event(number, now + timedelta(seconds=number))])

    assert len(seen._seen) == OVERLAP.total_seconds() + 1


@pytest.mark.parametrize(
    ("data", "ends"),
    [
        ({"id": "pay_1", "amount": 1999, "currency": "EUR", "status": "succeeded"}, "pay_1  1999 EUR  succeeded"),
        ({"id": "we_1", "object": "webhook_endpoint", "status": "enabled"}, "we_1  enabled"),
        ({}, "payment.succeeded"),
    ],
)
def test_an_event_is_one_line(data: dict[str, Any], ends: str) -> None:
    payment = "pay_1" if data.get("id") == "pay_1" else None
    line = line_of(event(1, datetime(2026, 11, 21, tzinfo=UTC), data=data, payment=payment))

    assert line.startswith("2026-11-21T00:00:00+00:00  payment.succeeded")
    assert line.endswith(ends)


# --- gateway replay events --------------------------------------------------------------------------------------------


async def test_the_command_sends_again_what_the_route_would(
    open_gateway: Open, database: Database, commands: Commands
) -> None:
    async with open_gateway() as inside:
        made = await inside.merchant.post("/v1/webhook_endpoints", {"url": "https://shop.example/hooks"})
        endpoint = made.json()["id"]
        await inside.merchant.charged()
        await inside.merchant.charged(capture_method="manual")
    database.rows("UPDATE delivery SET status = 'failed', due_at = NULL")

    def replay(*words: str) -> str:
        return commands(database, "replay", "events", "--endpoint", endpoint, "--since", "1h", *words)

    def pending() -> int:
        count: int = database.value("SELECT count(*) FROM delivery WHERE status = 'pending'")
        return count

    counted, untouched = replay(), pending()
    one, after_one = replay("--type", "payment.succeeded", "--apply"), pending()
    rest, after_all = replay("--apply"), pending()
    database.rows("UPDATE delivery SET status = 'succeeded', due_at = NULL")
    got, everything = replay(), replay("--all")

    assert (counted.split()[0], untouched) == ("2", 0)
    assert counted.endswith("would be sent again; with --apply they are")
    assert (one.split()[0], after_one) == ("1", 1)
    assert one.endswith(f"are sent again to {endpoint}")
    assert (rest.split()[0], after_all) == ("1", 2)
    assert (got.split()[0], everything.split()[0]) == ("0", "2")


def test_the_command_refuses_an_endpoint_that_is_not_there_or_not_enabled(
    database: Database, processes: Processes
) -> None:
    database.rows(
        "INSERT INTO webhook_endpoint (id, merchant_id, livemode, url, status, failed_events, notices, created_at, updated_at)"
        " VALUES ('we_off', 'mer_dev', false, 'https://shop.example', 'disabled', 0, 0, now(), now())"
    )
    answers = [processes.run("replay", "events", "--endpoint", each, "--since", "1h") for each in ("we_1", "we_off")]

    assert answers == [
        (2, "gateway: there is no endpoint we_1\n"),
        (2, "gateway: endpoint we_off is disabled: nothing is sent there\n"),
    ]
