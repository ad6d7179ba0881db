"""What operators, auditors and integrators rely on: health, metrics, the document, the history, and no secret anywhere."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import re
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import jsonschema  # type: ignore[import-untyped]
import psycopg
import pytest
import redis

from gateway.api.openapi import BODIES
from gateway.embedded import Postgres
from gateway.errors import PROBLEMS

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.embedded import Valkey
    from tests.conftest import Database, Databases, Kit, Merchant, Open, Processes, Psps


# --- The log ----------------------------------------------------------------------------------------------------------

PATIENT: Final = """
import os, sys
import gateway.logs
os.dup2(os.open(sys.argv.pop(1), os.O_WRONLY), 2)
gateway.logs.FLUSH_S = 60.0
from gateway.cli import app
app(prog_name="gateway")
"""
"""`gateway` with its log in a pipe, and with more patience for who reads it than any machine needs."""


def _read_all(reader: int) -> bytes:
    os.set_blocking(reader, True)
    return b"".join(iter(lambda: os.read(reader, 65536), b""))


async def test_a_server_that_is_told_to_stop_writes_what_it_has_logged(
    processes: Processes, database: Database, flow: type[Kit], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    server = processes.server()
    server.process._argv = ["-c", PATIENT, str(pipe), "serve", "--port", str(server.port)]
    server.start()
    connected = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'interlock' AND datname = current_database()"
    )

    async with server.merchant() as merchant:
        for _ in range(300):
            assert (await merchant.http.post("/v1/webhooks/stripe", content=b"{}")).status_code == 401
        assert database.value(connected) > 0
    server.process._running.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    await flow.eventually(lambda: database.value(connected) == 0, "the house is closed")
    log = await asyncio.to_thread(_read_all, reader)
    ended = await asyncio.to_thread(server.process.wait)
    os.close(reader)

    assert log.count(b'"event":"webhook_refused"') == 300
    assert ended in {0, -signal.SIGTERM}


# --- Health -----------------------------------------------------------------------------------------------------------


async def test_health_and_metrics_need_no_key_and_readiness_reports_a_lost_redis(
    open_gateway: Open, valkey: Valkey
) -> None:
    async with open_gateway() as inside:
        http = inside.merchant.http
        await inside.merchant.charge(key="order-1")
        live, ready = await http.get("/healthz"), await http.get("/readyz")
        metrics = await http.get("/metrics")
        valkey.kill()
        without_redis = await http.get("/readyz")

    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()["status"], ready.json()["redis"]) == (200, "ready", "ok")
    assert (without_redis.status_code, without_redis.json()["redis"]) == (200, "lost")
    assert metrics.headers["Content-Type"].startswith("text/plain")
    assert (
        'interlock_operation_outcomes_total{account="stripe",kind="authorize",outcome="Approved"} 1.0' in metrics.text
    )
    assert 'interlock_answers_total{status="201",verb="create"} 1.0' in metrics.text


async def test_a_database_that_is_not_migrated_is_not_ready(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        database.rows("UPDATE alembic_version SET version_num = '0000'")
        answer = await inside.merchant.http.get("/readyz")

    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    assert "gateway migrate" in answer.json()["migrations"]


@pytest.fixture
def own_postgres(tmp_path: Path, databases: Databases) -> Iterator[Postgres]:
    """A Postgres that a test may kill: it keeps what it has committed."""
    with Postgres.start(tmp_path / "own") as server:
        yield server


async def test_while_postgres_is_stopped_nothing_is_promised_and_afterwards_all_goes_on(
    own_postgres: Postgres, processes: Processes, psps: Psps, flow: type[Kit]
) -> None:
    migrated = {"GATEWAY_DATABASE_URL": own_postgres.app_url, "GATEWAY_MIGRATE_DATABASE_URL": own_postgres.owner_url}
    processes.migrate(**migrated)
    server = processes.server(**migrated).start()

    async with server.merchant() as merchant:
        before = await merchant.charge(key="order-1")
        own_postgres.kill()
        live, ready = await merchant.http.get("/healthz"), await merchant.http.get("/readyz")
        refused = await merchant.charge(key="order-2")
        own_postgres.restart()

        async def is_ready() -> bool:
            return (await merchant.http.get("/readyz")).status_code == 200

        await flow.eventually(is_ready, "the gateway is ready again")
        again = await merchant.retried(lambda: merchant.charge(key="order-1"))
        later = await merchant.retried(lambda: merchant.charge(key="order-2"))

    assert (live.status_code, ready.status_code, ready.json()["postgres"]) == (200, 503, "lost")
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert refused.headers["Retry-After"]
    assert (again.status_code, again.content) == (201, before.content)
    assert (later.status_code, len(psps.charges())) == (201, 2)


# --- The document -----------------------------------------------------------------------------------------------------


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            yield f"{verb.upper()} {path}", operation


def _references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for each in value.values():
                yield from _references(each)
        case list():
            for each in value:
                yield from _references(each)
        case _:
            return


async def test_the_openapi_document_describes_what_is_served_with_examples_that_hold(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.http.get("/openapi.json")
        docs = await inside.merchant.http.get("/docs")
        asked = {name: await inside.merchant.http.request(*name.split(" ")) for name, _ in _operations(answer.json())}

    document = answer.json()
    schemas = document["components"]["schemas"]
    assert (answer.status_code, document["openapi"]) == (200, "3.1.0")
    assert docs.status_code == 200
    assert {name for name, reply in asked.items() if reply.status_code == 405} == set()
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    for name, operation in _operations(document):
        assert operation["summary"], name
        (decided, *_) = (code for code in operation["responses"] if code.startswith("2"))
        content = operation["responses"][decided].get("content")
        assert content is None or all("example" in part for part in content.values()), name
        if "requestBody" in operation:
            (part,) = operation["requestBody"]["content"].values()
            assert "example" in part, name
            if "schema" in part:
                root = part["schema"] | {"components": document["components"]}
                jsonschema.Draft202012Validator(root).validate(part["example"])
                BODIES[operation["operationId"]].model_validate(part["example"])


async def test_the_document_knows_every_problem_and_every_field_of_a_payment(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        document = (await inside.merchant.http.get("/openapi.json")).json()
        payment = await inside.merchant.charged()

    assert set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) >= set(PROBLEMS)
    create = document["paths"]["/v1/payments"]["post"]
    example = create["responses"]["201"]["content"]["application/json"]["example"]
    assert set(example) <= set(payment)


# --- The history ------------------------------------------------------------------------------------------------------


async def _all_kinds(merchant: Merchant, psps: Psps, flow: type[Kit]) -> None:
    """One payment of each kind of life."""
    await merchant.charged()
    await merchant.charge(payment_method_data=flow.card("4000000000009987"))
    await merchant.charge(payment_method_data=flow.card("4000000000000002"), reference="cascade")
    await merchant.charged(confirm=False)
    for verb in ("capture", "cancel"):
        for psp in psps.REAL:
            held = await merchant.charged(capture_method="manual", routing={"account": psp})
            await merchant.post(f"/v1/payments/{held['id']}/{verb}")
    for psp in psps.REAL:
        paid = await merchant.charged(routing={"account": psp})
        await merchant.post("/v1/refunds", {"payment": paid["id"], "amount": 500})
        psps.fault(psp, "authorize", "garbage")
        psps.fault(psp, "authorize", "drop_webhook")
        await merchant.charge(routing={"account": psp})
    created = await merchant.charged(confirm=False)
    await merchant.post(f"/v1/payments/{created['id']}/confirm")


async def test_the_history_of_every_payment_leads_to_its_state(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway(listening=True) as inside:
        await _all_kinds(inside.merchant, psps, flow)
        await inside.work()
        waiting = "SELECT count(*) FROM operation WHERE status IN ('created', 'sent', 'pending', 'unknown')"
        await flow.eventually(lambda: database.value(waiting) == 0, "everything was settled")

    payments = database.rows("SELECT * FROM payment")
    assert len(payments) >= 12
    for payment in payments:
        changes = database.rows("SELECT * FROM change WHERE payment_id = %(id)s ORDER BY seq", id=payment["id"])
        assert [change["seq"] for change in changes] == list(range(1, payment["version"] + 1))
        assert [change["from_status"] for change in changes] == [
            None,
            *(change["to_status"] for change in changes[:-1]),
        ]
        assert (changes[-1]["to_status"], changes[-1]["at"]) == (payment["status"], payment["updated_at"])
        operations = {operation["id"] for operation in database.operations(payment["id"])}
        assert {change["operation_id"] for change in changes} - {None} == operations
        captured = [
            operation["amount"]
            for operation in database.operations(payment["id"])
            if (operation["kind"], operation["status"]) in {("authorize", "captured"), ("capture", "succeeded")}
        ]
        assert sum(captured) == payment["amount_captured"]
        assert (payment["amount_capturing"], payment["amount_refunding"]) == (0, 0)
    assert database.value("SELECT count(*) FROM operation WHERE sealed_request IS NOT NULL OR holds_card") == 0
    assert database.value("SELECT count(*) FROM payment_method WHERE sealed_cvc IS NOT NULL AND wipe_at IS NULL") == 0
    for psp in psps.REAL:
        ours = database.value(
            "SELECT coalesce(sum(amount_captured), 0)::bigint FROM payment WHERE account = %(psp)s", psp=psp
        )
        assert sum(entry["amount"] for entry in psps.books(psp, "captures")) == ours
        back = database.value(
            "SELECT coalesce(sum(amount_refunded), 0)::bigint FROM payment WHERE account = %(psp)s", psp=psp
        )
        assert sum(entry["amount"] for entry in psps.books(psp, "refunds")) == back


@pytest.mark.parametrize("statement", ["UPDATE change SET reason = 'x'", "DELETE FROM change", "TRUNCATE change"])
async def test_nobody_rewrites_the_history(statement: str, open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        await inside.merchant.charged()
    before = database.rows("SELECT * FROM change")

    for url, refusal in (
        (database.url, psycopg.errors.InsufficientPrivilege),
        (database.owner_url, psycopg.errors.RaiseException),
        (database.admin_url, psycopg.errors.RaiseException),
    ):
        with psycopg.connect(url, autocommit=True) as connection, pytest.raises(refusal):
            connection.execute(statement.encode())

    assert database.rows("SELECT * FROM change") == before


@pytest.mark.parametrize("table", ["payment", "operation", "idempotency_key", "webhook_inbox", "merchant", "api_key"])
def test_the_application_deletes_nothing_and_changes_no_schema(table: str, database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        for statement in (
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"DROP TABLE {table}",
            f"ALTER TABLE {table} ADD x int",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


# --- Secrets ----------------------------------------------------------------------------------------------------------

NUMBERS: Final = ("4242424242424242", "4000000000009987", "4000000000000002", "5555555555554444", "4242424242424241")
CVC: Final = "7319"
HOLDER: Final = "Ada Q. Lovelace"


def _spellings(secret: str) -> set[str]:
    """How a secret could be written down: plain, as bytea in hex, in base64."""
    plain = secret.encode()
    return {secret, plain.hex(), base64.b64encode(plain).decode().rstrip("=")[:-1]}


def _dump(database: Database) -> str:
    """Every row of every table as text; bytea is written in hex, and again as the characters it may hold."""
    tables = database.rows(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    rows = [row["line"] for table in tables for row in database.rows(f"SELECT t::text AS line FROM {table['name']} t")]
    return "\n".join(rows)


async def test_no_secret_is_written_anywhere_in_the_clear(
    processes: Processes, psps: Psps, database: Database, valkey: Valkey, flow: type[Kit]
) -> None:
    def card(number: str) -> dict[str, Any]:
        return {
            "type": "card",
            "card": {"number": number, "exp_month": 12, "exp_year": 2030, "cvc": CVC, "holder_name": HOLDER},
        }

    server = processes.server().start()
    processes.worker()
    async with server.merchant() as merchant:
        for psp in psps.REAL:
            psps.fault(psp, "authorize", "garbage")
            await merchant.charge(payment_method_data=card(NUMBERS[0]), routing={"account": psp})
            psps.fault(psp, "authorize", "error_after_effect", status=500)
            psps.fault(psp, "authorize", "drop_webhook")
            await merchant.charge(payment_method_data=card(NUMBERS[0]), routing={"account": psp})  # stays unknown
            await merchant.charge(payment_method_data=card(NUMBERS[3]), setup_future_usage="off_session")
            paid = await merchant.charged(payment_method_data=card(NUMBERS[0]), routing={"account": psp})
            await merchant.post("/v1/refunds", {"payment": paid["id"]})
        kept = await merchant.charged(payment_method_data=card(NUMBERS[0]), confirm=False)
        for number in NUMBERS:
            await merchant.post("/v1/payment_methods", card(number))
            verify = {"verify": True, "currency": "EUR", "routing": {"account": "adyen"}}
            await merchant.post("/v1/payment_methods", card(number) | verify)
        for number in NUMBERS:
            await merchant.charge(payment_method_data=card(number), metadata={"card": "none"})
        await merchant.charge(payment_method_data=card(NUMBERS[0]), currency="EURO")
        await merchant.post("/v1/payments", b'{"card": "' + NUMBERS[0].encode())
        metrics = (await merchant.get("/metrics")).text
    await flow.eventually(
        lambda: database.value("SELECT count(*) FROM webhook_inbox WHERE applied_at IS NOT NULL") > 0,
        "webhooks were applied",
    )
    with redis.Redis.from_url(valkey.url) as client:
        in_redis = " ".join(f"{name!r} {client.get(name)!r}" for name in client.scan_iter())
    dump, logs = _dump(database), processes.printed

    assert kept["client_secret"].startswith(f"{kept['id']}_secret_")
    assert kept["id"] in dump
    assert database.value("SELECT count(*) FROM operation WHERE sealed_request IS NOT NULL") > 0
    assert "idem:" in in_redis
    assert "outcome_recorded" in logs
    secrets = [*NUMBERS, "sk_test_dev", kept["client_secret"].rpartition("_")[2], *flow.SECRETS.values()]
    for where, text in {"database": dump, "logs": logs, "redis": in_redis, "metrics": metrics}.items():
        found = {secret for secret in secrets for spelling in _spellings(secret) if spelling in text}
        assert found == set(), where
        assert HOLDER not in text, where
        assert not re.search(rf'(cvc|cvv|securityCode|security_code)["\s:=\']+{CVC}', text), where
