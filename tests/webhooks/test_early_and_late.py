"""An event that comes before its payment, or while the database is away, is applied all the same: soon, once, and none is lost."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import httpx
import psycopg
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from gateway.backlog import Backlog
from gateway.embedded import SUPERUSER, Postgres
from gateway.inbound import status_of
from gateway.metrics.work import WorkInstruments
from gateway.worker import jobs
from webhooks.inbox import LADDER_S

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open, Processes, Psps

PATIENCE_S = 1_200.0
"""How long a provider goes on sending in these tests; a real one does so for days."""


def disputed(provider_payment_id: str, number: str) -> bytes:
    """A webhook that names a payment by nothing but the provider's own id of it."""
    dispute = {
        "id": f"du_{number}",
        "object": "dispute",
        "amount": 1999,
        "currency": "eur",
        "payment_intent": provider_payment_id,
        "reason": "fraudulent",
        "status": "needs_response",
        "evidence_details": {"due_by": int(time.time()) + 600_000},
    }
    event = {
        "id": f"evt_{number}",
        "object": "event",
        "type": "charge.dispute.created",
        "created": int(time.time()),
        "data": {"object": dispute},
    }
    return json.dumps(event).encode()


async def tell(http: httpx.AsyncClient, body: bytes, flow: type[Kit]) -> None:
    answer = await http.post("/v1/webhooks/stripe", content=body, headers=flow.signed(body))
    assert answer.status_code == 200, answer.text


async def receive(inside: Inside, body: bytes, flow: type[Kit]) -> None:
    """Store what Stripe tells, and leave it to the worker to apply it."""
    await inside.house.inbox.receive(inside.house.deps.accounts["stripe"], flow.signed(body), body)


def forget_its_name(database: Database, payment_id: str) -> None:
    """As it is before the provider's answer has been written: nobody here knows yet what the payment is called there."""
    database.rows(
        "UPDATE operation SET provider_id = NULL WHERE payment_id = %(id)s AND kind = 'authorize'", id=payment_id
    )


def learn_its_name(database: Database, payment: dict[str, Any]) -> None:
    database.rows(
        "UPDATE operation SET provider_id = %(name)s WHERE payment_id = %(id)s AND kind = 'authorize'",
        id=payment["id"],
        name=payment["provider_payment_id"],
    )


def inbox(database: Database) -> dict[str, Any]:
    (row,) = database.rows("SELECT * FROM webhook_inbox WHERE type = 'charge.dispute.created'")
    return row


async def _early(inside: Inside, database: Database, flow: type[Kit]) -> dict[str, Any]:
    """A payment whose dispute has come too early."""
    payment = await inside.merchant.charged(routing={"account": "stripe"})
    forget_its_name(database, payment["id"])
    await tell(inside.merchant.http, disputed(payment["provider_payment_id"], "1"), flow)
    await flow.eventually(lambda: inbox(database)["result"] is not None, "it was looked at")
    return payment


async def test_an_event_before_its_payment_waits_without_being_tried_and_is_due_once_that_is_there(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        payment = await _early(inside, database, flow)
        _, inbound = jobs(inside.house.deps, inside.house.inbox, inside.house.pool)["inbound"]
        early = inbox(database)
        database.rows("UPDATE webhook_inbox SET due_at = now() + interval '1 hour' WHERE due_at IS NOT NULL")
        for _ in range(5):
            await inbound()
        waiting = inbox(database)
        learn_its_name(database, payment)
        await inbound()
        applied = inbox(database)
        disputes = (await inside.merchant.get("/v1/disputes", payment=payment["id"])).json()["data"]
        await inbound()
        after = inbox(database)

    assert (early["result"], early["waits_for"]) == ("operation_not_found", payment["provider_payment_id"])
    assert (waiting["tries"], waiting["result"]) == (1, "operation_not_found")
    assert (applied["result"], applied["tries"], applied["due_at"]) == ("applied", 2, None)
    assert (applied["payment_id"], applied["waits_for"], applied["waits_kind"]) == (payment["id"], None, None)
    assert len(disputes) == 1
    assert after == applied


async def test_an_event_whose_tries_are_over_is_applied_too_when_its_payment_appears_within_a_day(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        payment = await _early(inside, database, flow)
        _, inbound = jobs(inside.house.deps, inside.house.inbox, inside.house.pool)["inbound"]
        given_up = "UPDATE webhook_inbox SET due_at = NULL, applied_at = now(), tries = 6 WHERE waits_for IS NOT NULL"
        database.rows(given_up)
        learn_its_name(database, payment)
        database.rows("UPDATE webhook_inbox SET received_at = now() - interval '2 days' WHERE waits_for IS NOT NULL")
        await inbound()
        too_old = inbox(database)["result"]
        database.rows("UPDATE webhook_inbox SET received_at = now() WHERE waits_for IS NOT NULL")
        await inbound()

    assert too_old == "operation_not_found"
    assert inbox(database)["result"] == "applied"


async def test_what_is_due_is_applied_although_nobody_can_look_for_what_others_wait_for(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        _, inbound = jobs(inside.house.deps, inside.house.inbox, inside.house.pool)["inbound"]
        await receive(inside, disputed("pi_1", "1").replace(b"charge.dispute.created", b"balance.available"), flow)
        database.rows("UPDATE webhook_inbox SET due_at = now()")
        database.rows("ALTER TABLE operation RENAME TO elsewhere")
        with pytest.raises(asyncpg.UndefinedTableError):
            await inbound()

    assert database.value("SELECT result FROM webhook_inbox") == "kept"


async def test_events_of_an_account_that_is_not_configured_are_given_up_and_say_what_to_do(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        await receive(inside, disputed("pi_1", "1"), flow)
        database.rows("UPDATE webhook_inbox SET account = 'gone'")
        seen = []
        for _ in range(len(LADDER_S) + 1):
            await inside.work()
            seen.append(inbox(database)["due_at"] is not None)

    given_up = inbox(database)
    assert seen == [*[True] * len(LADDER_S), False]
    assert status_of(given_up["result"], ended=given_up["applied_at"] is not None) == "failed"
    assert given_up["result"] == "account_not_configured"


async def test_an_event_that_breaks_is_named_in_the_log_with_the_place_where_it_broke(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        await receive(inside, disputed("pi_1", "1"), flow)
        database.rows("UPDATE webhook_inbox SET sealed_body = 'nonsense'")
        with capture_logs() as lines:
            await inside.work()
        count = inside.house.registry.get_sample_value("interlock_inbound_events_total", {"result": "failed"})

    (line,) = [line for line in lines if line["event"] == "webhook_apply_failed"]
    assert (line["inbox_id"], line["account"]) == (inbox(database)["id"], "stripe")
    assert re.fullmatch(r"\w+\.py:\d+", line["where"])
    assert count == 1


async def test_the_backlog_tells_how_long_what_is_due_has_waited(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        told = WorkInstruments(CollectorRegistry())
        backlog, seen = Backlog(inside.house.pool, told, ()), []
        await receive(inside, disputed("pi_1", "1"), flow)
        for due in ("now() + interval '1 hour'", "now() - interval '1 hour'", "NULL"):
            database.rows(f"UPDATE webhook_inbox SET due_at = {due}")
            await backlog.look()
            seen.append(told.inbound_overdue_seconds._value.get())

    assert (seen[0], seen[2]) == (0, 0)
    assert 3600 <= seen[1] < 3700


async def test_a_worker_applies_an_early_event_within_seconds_of_its_payment(
    processes: Processes, database: Database, flow: type[Kit], proved: Callable[[str], None]
) -> None:
    server = processes.server().start()
    processes.worker()
    async with server.merchant() as merchant:
        payments = [await merchant.charged(routing={"account": "stripe"}) for _ in range(5)]
        for number, payment in enumerate(payments):
            forget_its_name(database, payment["id"])
            await tell(merchant.http, disputed(payment["provider_payment_id"], str(number)), flow)
        looked_at = "SELECT count(*) FROM webhook_inbox WHERE result = 'operation_not_found'"
        await flow.eventually(lambda: database.value(looked_at) == len(payments), "all were looked at")
        database.rows("UPDATE webhook_inbox SET due_at = now() + interval '1 hour' WHERE due_at IS NOT NULL")
        for payment in payments:
            learn_its_name(database, payment)
        appeared = time.monotonic()
        await flow.eventually(lambda: database.value("SELECT count(*) FROM dispute") == len(payments), "all are there")
        took_s = time.monotonic() - appeared

    proved(f"events before their payment: {len(payments)} applied, all within {took_s:.1f} s of its appearance")


# --- The database is away ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def away(postgres: Postgres, database: Database) -> AsyncIterator[None]:
    """Nobody can reach this database, nor go on with a session there."""
    name = database.url.split("?")[0].rpartition("/")[2]
    with psycopg.connect(postgres.url("postgres", role=SUPERUSER), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


async def insist(http: aiohttp.ClientSession, url: str, body: bytes, flow: type[Kit]) -> int:
    """Send a webhook until it is acknowledged, as a provider does. Says how often it was not."""
    refusals, deadline = 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            async with http.post(f"{url}/v1/webhooks/stripe", data=body, headers=flow.signed(body)) as answer:
                if answer.ok:
                    return refusals
                assert answer.status == 503, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            pass
        refusals += 1
        await asyncio.sleep(min(0.5 * 2**refusals, 30))
    raise AssertionError("it was never taken")


async def _through_an_outage(
    outage_s: float, events: int, processes: Processes, database: Database, psps: Psps, postgres: Postgres, flow: Any
) -> int:
    """Webhooks come all the time while the database is away. Says how many sendings were not acknowledged."""
    server = processes.server().start()
    worker = processes.worker()
    await flow.eventually(lambda: "worker_started" in worker.printed, "the worker has its database")
    async with server.merchant() as merchant, aiohttp.ClientSession() as http:
        payments = []
        for _ in range(4):
            psps.fault("stripe", "authorize", "drop_webhook")
            payments.append(await merchant.charged(routing={"account": "stripe"}))
        operations = [database.operations(payment["id"])[0]["id"] for payment in payments]
        bodies = [flow.stripe_event(operations[n % len(operations)], number=f"out{n}") for n in range(events)]
        pause_s, sending = (outage_s + 2) / events, []

        async def send_all() -> None:
            for body in bodies:
                sending.append(asyncio.create_task(insist(http, server.url, body, flow)))
                await asyncio.sleep(pause_s)

        sender = asyncio.create_task(send_all())
        await asyncio.sleep(1)
        async with away(postgres, database):
            await asyncio.sleep(outage_s)
        await sender
        refused = sum(await asyncio.gather(*sending))
        ended = "SELECT count(*) FROM webhook_inbox WHERE applied_at IS NOT NULL AND event_id LIKE 'evt_out%%'"
        await flow.eventually(lambda: database.value(ended) == events, "every event was applied")
        after = [await merchant.payment(payment["id"]) for payment in payments]

    results = {row["result"] for row in database.rows("SELECT DISTINCT result FROM webhook_inbox")}
    assert results <= {"applied", "no_news"}
    assert refused > 0
    assert after == payments
    return refused


@pytest.mark.parametrize(("outage_s", "events"), [(60, 600), pytest.param(600, 3_000, marks=pytest.mark.nightly)])
async def test_nothing_is_lost_while_the_database_is_away(
    outage_s: float,
    events: int,
    processes: Processes,
    database: Database,
    psps: Psps,
    postgres: Postgres,
    flow: type[Kit],
    proved: Callable[[str], None],
) -> None:
    refused = await _through_an_outage(outage_s, events, processes, database, psps, postgres, flow)

    proved(f"the database away for {outage_s} s: {events} events, {refused} sendings not acknowledged, 0 events lost")
