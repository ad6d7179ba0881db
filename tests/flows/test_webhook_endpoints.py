"""Webhook endpoints: made, changed, rotated, tested and told again; what is refused; and the secret that is shown once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.endpoint_books import REPLAY_BATCH
from webhooks.catalog import EVENTS, types_of
from webhooks.signing import KEEP_S, Secrets, fingerprint

if TYPE_CHECKING:
    from tests.conftest import Commands, Database, Inside, Merchant, Open

ENDPOINTS: Final = "/v1/webhook_endpoints"
HOOK: Final = "https://shop.example/hooks"
ALWAYS: Final = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
NOBODYS: Final = "we_" + "0" * 32


async def made(merchant: Merchant, **fields: Any) -> dict[str, Any]:
    """An endpoint that must be made."""
    answer = await merchant.post(ENDPOINTS, {"url": HOOK} | fields)
    assert answer.status_code == 201, answer.text
    endpoint: dict[str, Any] = answer.json()
    return endpoint


async def told(merchant: Merchant, path: str, fields: Any = None, *, status: int = 200) -> dict[str, Any]:
    """The answer to a POST that must end with ``status``."""
    answer = await merchant.post(f"{ENDPOINTS}/{path}", fields)
    assert answer.status_code == status, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def deliveries(database: Database, endpoint: Mapping[str, Any]) -> dict[str, str]:
    """What is to be sent to an endpoint: each event's type with the status of its delivery."""
    rows = database.rows(
        "SELECT e.type, d.status FROM delivery d JOIN event e ON e.id = d.event_id WHERE d.endpoint_id = %(id)s",
        id=endpoint["id"],
    )
    return {row["type"]: row["status"] for row in rows}


def everything_stored(database: Database) -> str:
    """Every row of every table, as text."""
    tables = database.rows(
        "SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.tables"
        " WHERE table_schema IN ('public', 'procrastinate') AND table_type = 'BASE TABLE'"
    )
    return "\n".join(
        str(row["row"]) for table in tables for row in database.rows(f"SELECT t::text AS row FROM {table['name']} t")
    )


# --- The secret -------------------------------------------------------------------------------------------------------


async def test_the_secret_is_in_the_answer_that_makes_it_and_nowhere_else(
    open_gateway: Open, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_gateway() as inside:
        first = await inside.merchant.post(ENDPOINTS, {"url": HOOK}, key="hook-1")
        again = await inside.merchant.post(ENDPOINTS, {"url": HOOK}, key="hook-1")
        other = await inside.merchant.post(ENDPOINTS, {"url": HOOK + "/2"}, key="hook-1")
        endpoint = first.json()
        rotated = await told(inside.merchant, f"{endpoint['id']}/rotate_secret")
        path = f"{ENDPOINTS}/{endpoint['id']}"
        later = [
            await inside.merchant.get(path),
            await inside.merchant.get(ENDPOINTS),
            await inside.merchant.post(path, {"description": "x"}),
            await inside.merchant.post(path + "/test"),
            await inside.merchant.get(path + "/deliveries"),
            await inside.merchant.get("/v1/events"),
            await inside.merchant.post(path, {"url": "http:"}),
            await inside.merchant.get("/metrics"),
            await inside.merchant.delete(path),
        ]
    secrets = [endpoint["secret"], rotated["secret"]]
    seen = "".join(answer.text for answer in later) + everything_stored(database) + "".join(capfd.readouterr())

    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert again.content == first.content
    assert other.json()["code"] == "idempotency_key_reused"
    assert len(set(secrets)) == 2
    for secret in secrets:
        raw = b64decode(secret.removeprefix("whsec_"))
        assert (secret[:6], len(raw)) == ("whsec_", 32)
        assert [form for form in (secret, secret[6:], raw.hex()) if form in seen] == []
    assert fingerprint(endpoint["secret"]) in later[0].text
    assert database.value("SELECT count(*) FROM webhook_endpoint") == 1


async def test_a_new_secret_signs_beside_the_old_one_for_a_day_or_alone(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        endpoint = await made(inside.merchant)
        rotated = await told(inside.merchant, f"{endpoint['id']}/rotate_secret")
        shown = (await inside.merchant.get(f"{ENDPOINTS}/{endpoint['id']}")).json()
        sealed = database.value("SELECT sealed_secrets FROM webhook_endpoint")
        stored = Secrets.from_json(inside.house.deps.keys.sealer.open_json(sealed, endpoint["id"], "webhook_endpoint"))
        alone = await told(inside.merchant, f"{endpoint['id']}/rotate_secret", {"revoke_old": True})

    new, old = shown["secrets"]
    assert (new["fingerprint"], new["expires"]) == (fingerprint(rotated["secret"]), None)
    assert old["fingerprint"] == fingerprint(endpoint["secret"])
    expires = datetime.fromisoformat(old["expires"])
    assert timedelta(0) < timedelta(seconds=KEEP_S) - (expires - datetime.now(UTC)) < timedelta(minutes=5)
    assert stored.live(datetime.now(UTC).timestamp()) == [rotated["secret"], endpoint["secret"]]
    assert [each["fingerprint"] for each in alone["secrets"]] == [fingerprint(alone["secret"])]


async def test_two_rotations_at_once_are_two_secrets_that_both_sign(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        endpoint = await made(inside.merchant)
        path = f"{endpoint['id']}/rotate_secret"
        both = await asyncio.gather(told(inside.merchant, path), told(inside.merchant, path))
        shown = (await inside.merchant.get(f"{ENDPOINTS}/{endpoint['id']}")).json()

    handed_out = {fingerprint(each["secret"]) for each in (endpoint, *both)}
    assert {each["fingerprint"] for each in shown["secrets"]} == handed_out
    assert len(handed_out) == 3


# --- Making and changing ----------------------------------------------------------------------------------------------


async def test_an_endpoint_shows_what_it_was_given_and_means_the_types_of_that(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        families = await made(
            inside.merchant, events=["refund.*", "dispute.created", "refund.*"], description="Refunds"
        )
        all_of_them = await made(inside.merchant, events=["*"])
        plain = await made(inside.merchant)
        listed = (await inside.merchant.get(ENDPOINTS)).json()
        page = (await inside.merchant.get(ENDPOINTS, limit=2)).json()
        rest = (await inside.merchant.get(ENDPOINTS, cursor=page["next_cursor"])).json()
    stored = {row["id"]: row["events"] for row in database.rows("SELECT id, events FROM webhook_endpoint")}

    assert (families["object"], families["url"], families["status"]) == ("webhook_endpoint", HOOK, "enabled")
    assert (families["events"], families["description"]) == (["refund.*", "dispute.created"], "Refunds")
    assert stored[families["id"]] == sorted({*types_of(["refund.*"]), "dispute.created"})
    assert [each["events"] for each in (all_of_them, plain)] == [["*"], ["*"]]
    assert (stored[all_of_them["id"]], stored[plain["id"]]) == (None, None)
    assert [each["id"] for each in listed["data"]] == [plain["id"], all_of_them["id"], families["id"]]
    assert [each["id"] for each in (*page["data"], *rest["data"])] == [each["id"] for each in listed["data"]]


REFUSED: Final[list[tuple[str, dict[str, Any], str | None]]] = [
    ("no URL", {"url": None}, "url"),
    ("a number", {"url": 7}, "url"),
    ("plain http", {"url": "http://shop.example/hooks"}, "url"),
    ("another port", {"url": "https://shop.example:444/hooks"}, "url"),
    ("this machine", {"url": "https://127.0.0.1/hooks"}, "url"),
    ("the cloud's own address", {"url": "https://169.254.169.254/latest/meta-data"}, "url"),
    ("a number for an address", {"url": "https://2130706433/"}, "url"),
    ("a name of this machine", {"url": "https://localhost/hooks"}, "url"),
    ("user info", {"url": "https://user:hunter2@shop.example/hooks"}, "url"),
    ("a file", {"url": "file:///etc/passwd"}, "url"),
    ("a long URL", {"url": "https://shop.example/" + "x" * 4000}, "url"),
    ("no events", {"events": []}, "events"),
    ("an unknown type", {"events": ["payment.*", "payment.paid"]}, "events.1"),
    ("an unknown family", {"events": ["invoice.*"]}, "events.0"),
    ("a type that is no text", {"events": [7]}, "events.0"),
    ("a secret of one's own", {"secret": "whsec_mine"}, "secret"),
    ("a long description", {"description": "x" * 256}, "description"),
]


async def test_what_cannot_be_an_endpoint_is_refused_and_names_its_field(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway(webhooks_allow_loopback=False) as inside:
        endpoint = await made(inside.merchant)
        for name, fields, param in REFUSED:
            body = {"url": HOOK, **fields}
            answers = [await inside.merchant.post(ENDPOINTS, body)]
            if name != "no URL":
                answers.append(await inside.merchant.post(f"{ENDPOINTS}/{endpoint['id']}", fields))
            for answer in answers:
                problem = answer.json()
                assert (answer.status_code, problem["code"], problem["param"]) == (422, "validation_failed", param), (
                    name
                )
                assert "hunter2" not in answer.text
        nulls = [
            (await inside.merchant.post(f"{ENDPOINTS}/{endpoint['id']}", {name: None})).json()["param"]
            for name in ("url", "status")
        ]
        unkeyed = await inside.merchant.post(ENDPOINTS, {"url": HOOK}, **{"Idempotency-Key": ""})

    assert nulls == ["url", "status"]
    assert (unkeyed.status_code, unkeyed.json()["code"]) == (400, "idempotency_key_missing")
    assert [row["url"] for row in database.rows("SELECT url FROM webhook_endpoint")] == [HOOK]


async def test_there_are_at_most_twenty_in_a_mode_and_a_deleted_one_leaves_room(
    open_gateway: Open, commands: Commands, database: Database
) -> None:
    live_key = commands(database, "keys", "create", "mer_dev", "--live")
    async with open_gateway() as inside:
        live = dataclasses.replace(inside.merchant, api_key=live_key)
        answers = await asyncio.gather(*(made(inside.merchant, description=str(n)) for n in range(19)))
        twentieth = await inside.merchant.post(ENDPOINTS, {"url": HOOK}, key="hook-20")
        over = await inside.merchant.post(ENDPOINTS, {"url": HOOK})
        again = await inside.merchant.post(ENDPOINTS, {"url": HOOK}, key="hook-20")
        theirs = await made(live)
        seen = [(await key.get(f"{ENDPOINTS}/{theirs['id']}")).status_code for key in (live, inside.merchant)]
        await inside.merchant.delete(f"{ENDPOINTS}/{answers[0]['id']}")
        room = await inside.merchant.post(ENDPOINTS, {"url": HOOK})

    assert (twentieth.status_code, over.status_code, room.status_code) == (201, 422, 201)
    assert "20 endpoints" in over.json()["detail"]
    assert again.content == twentieth.content
    assert (theirs["livemode"], seen) == (True, [200, 404])


async def test_a_disabled_endpoint_gets_nothing_and_an_enabled_one_starts_afresh(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        endpoint = await made(inside.merchant, events=["payment.*"])
        await inside.merchant.charged()
        before = deliveries(database, endpoint)
        database.rows(
            "UPDATE webhook_endpoint SET failing_since = now(), failed_events = 7, notices = 2, paused_until = now()"
        )
        off = await told(inside.merchant, endpoint["id"], {"status": "disabled"})
        await inside.merchant.charged()
        while_off = database.rows("SELECT * FROM delivery WHERE endpoint_id = %(id)s", id=endpoint["id"])
        on = await told(inside.merchant, endpoint["id"], {"status": "enabled"})
        kept = await told(inside.merchant, endpoint["id"], {"description": "Orders"})
        cleared = await told(inside.merchant, endpoint["id"], {"description": None, "events": None})
        await inside.merchant.charged()
        after = database.value("SELECT count(*) FROM delivery WHERE status = 'pending'")
        database.rows("UPDATE webhook_endpoint SET failing_since = now(), failed_events = 7")
        moved = await told(inside.merchant, endpoint["id"], {"url": HOOK + "/new"})

    assert before == {"payment.succeeded": "pending"}
    assert (off["status"], off["disabled_reason"], off["failed_events"]) == ("disabled", "requested", 7)
    assert [(row["status"], row["due_at"]) for row in while_off] == [("canceled", None)]
    facts = ("status", "disabled_reason", "failing_since", "failed_events", "paused_until")
    assert [on[name] for name in facts] == ["enabled", None, None, 0, None]
    assert (kept["description"], kept["events"]) == ("Orders", ["payment.*"])
    assert (cleared["description"], cleared["events"]) == (None, ["*"])
    assert after == 1
    assert (moved["url"], moved["failing_since"], moved["failed_events"]) == (HOOK + "/new", None, 0)
    assert database.value("SELECT notices FROM webhook_endpoint") == 0


async def test_a_deleted_endpoint_is_still_shown_and_cannot_be_brought_back(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        endpoint = await made(inside.merchant)
        await inside.merchant.charged()
        path = f"{ENDPOINTS}/{endpoint['id']}"
        answers = [
            await inside.merchant.delete(path),
            await inside.merchant.delete(path),
            await inside.merchant.get(path),
        ]
        update = await inside.merchant.post(path, {"status": "enabled"})
        others = [
            await inside.merchant.post(path + "/rotate_secret"),
            await inside.merchant.post(path + "/test"),
            await inside.merchant.post(path + "/replay", ALWAYS | {"dry_run": False}),
        ]
        listed = (await inside.merchant.get(ENDPOINTS)).json()["data"]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.content for answer in answers}) == 1
    assert (answers[0].json()["status"], answers[0].json()["secrets"], listed) == ("deleted", [], [])
    assert {(answer.status_code, answer.json()["code"]) for answer in [update, *others]} == {(409, "not_deliverable")}
    assert set(deliveries(database, endpoint).values()) == {"canceled"}
    assert database.value("SELECT sealed_secrets FROM webhook_endpoint") is None


async def test_a_type_that_a_release_adds_belongs_to_its_family(
    open_gateway: Open, database: Database, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gateway() as inside:
        family = await made(inside.merchant, events=["payment.*", "refund.failed"])
        plain = await made(inside.merchant)
    database.rows(
        "UPDATE webhook_endpoint SET events = ARRAY['payment.succeeded', 'refund.failed'] WHERE id = %(id)s",
        id=family["id"],
    )
    monkeypatch.setenv("GATEWAY_MIGRATE_DATABASE_URL", database.owner_url)
    commands(database, "migrate")
    stored = {row["id"]: row["events"] for row in database.rows("SELECT id, events FROM webhook_endpoint")}

    assert stored[family["id"]] == sorted({*types_of(["payment.*"]), "refund.failed"})
    assert stored[plain["id"]] is None


# --- What is sent there -----------------------------------------------------------------------------------------------


async def test_a_test_event_goes_to_this_endpoint_alone(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        endpoint, other = await made(inside.merchant, events=["dispute.*"]), await made(inside.merchant)
        event = await told(inside.merchant, f"{endpoint['id']}/test")
        listed = (await inside.merchant.get("/v1/events")).json()["data"]
        await told(inside.merchant, endpoint["id"], {"status": "disabled"})
        refused = await inside.merchant.post(f"{ENDPOINTS}/{endpoint['id']}/test")
        unknown = await inside.merchant.post(f"{ENDPOINTS}/{endpoint['id']}/test", {"type": "payment.succeeded"})

    assert (event["type"], event["payment"], event["sequence"]) == ("webhook_endpoint.test", None, None)
    assert (event["data"]["id"], event["data"]["object"]) == (endpoint["id"], "webhook_endpoint")
    assert listed == [event]
    assert (deliveries(database, endpoint), deliveries(database, other)) == ({"webhook_endpoint.test": "canceled"}, {})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_deliverable")
    assert (unknown.status_code, unknown.json()["param"]) == (422, "type")
    assert database.value("SELECT count(*) FROM event") == 1


async def test_the_deliveries_of_an_endpoint_are_listed_with_their_last_try(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        endpoint = await made(inside.merchant, events=["payment.succeeded"])
        paid = [await inside.merchant.charged() for _ in range(3)]
        path = f"{ENDPOINTS}/{endpoint['id']}/deliveries"
        first = (await inside.merchant.get(path, limit=2)).json()
        rest = (await inside.merchant.get(path, limit=2, cursor=first["next_cursor"])).json()
        failed = rest["data"][0]
        for status, error in ((500, None), (None, "timeout")):
            database.rows(
                "INSERT INTO delivery_attempt (endpoint_id, event_id, at, status, error, excerpt, took_ms)"
                " VALUES (%(to)s, %(event)s, now(), %(status)s, %(error)s, 'oh', 12)",
                to=endpoint["id"],
                event=failed["event"],
                status=status,
                error=error,
            )
        database.rows(
            "UPDATE delivery SET status = 'failed', due_at = NULL WHERE event_id = %(id)s", id=failed["event"]
        )
        filtered = (await inside.merchant.get(path, status="failed")).json()["data"]
        wrong = [await inside.merchant.get(path, status="lost"), await inside.merchant.get(path, cursor=paid[0]["id"])]

    assert [each["payment"] for each in (*first["data"], *rest["data"])] == [each["id"] for each in reversed(paid)]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert {(each["object"], each["status"], each["tries"], each["last_attempt"]) for each in first["data"]} == {
        ("delivery", "pending", 0, None)
    }
    (one,) = filtered
    assert (one["event"], one["tries"], one["next_try"]) == (failed["event"], 2, None)
    assert (one["last_attempt"]["error"], one["last_attempt"]["status"], one["last_attempt"]["took_ms"]) == (
        "timeout",
        None,
        12,
    )
    assert [(answer.status_code, answer.json()["param"]) for answer in wrong] == [(422, "status"), (422, "cursor")]


# --- Replay -----------------------------------------------------------------------------------------------------------


async def _missed(inside: Inside, database: Database) -> dict[str, Any]:
    """An endpoint with a delivery of every sort, each of a payment of its own, and an event while it was off."""
    endpoint = await made(inside.merchant, events=["payment.succeeded", "payment.requires_capture"])
    sorts = {
        "succeeded": "status = 'succeeded', due_at = NULL, delivered_at = now(), tries = 1",
        "failed": "status = 'failed', due_at = NULL, tries = 10",
        "canceled": "status = 'canceled', due_at = NULL, tries = 3",
        "waiting": "due_at = now() + interval '5 hours', tries = 6",
        "under way": "due_at = now() + interval '6 seconds', tries = 2",
    }
    found = {}
    for sort, sets in sorts.items():
        found[sort] = (await inside.merchant.charged())["id"]
        database.rows(
            f"UPDATE delivery SET {sets} FROM event e WHERE e.id = event_id AND e.payment_id = %(id)s", id=found[sort]
        )
    database.rows("UPDATE webhook_endpoint SET status = 'disabled'")
    found["while off"] = (await inside.merchant.charged(capture_method="manual"))["id"]
    database.rows("UPDATE webhook_endpoint SET status = 'enabled'")
    return {"endpoint": endpoint, "payments": found}


def _sent_again(database: Database, payments: Mapping[str, str]) -> set[str]:
    """The sorts whose delivery is due now."""
    rows = database.rows(
        "SELECT e.payment_id FROM delivery d JOIN event e ON e.id = d.event_id WHERE d.status = 'pending' AND d.due_at <= now()"
    )
    names = {payment: sort for sort, payment in payments.items()}
    return {names[row["payment_id"]] for row in rows}


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        ({}, {"failed", "canceled", "waiting", "while off"}),
        ({"status": "all"}, {"succeeded", "failed", "canceled", "waiting", "while off"}),
        ({"types": ["payment.requires_capture"]}, {"while off"}),
        ({"types": ["refund.*"]}, set()),
        ({"to": "2020-01-02T00:00:00Z"}, set()),
        ({"from": "2099-01-02T00:00:00Z"}, set()),
    ],
)
async def test_a_replay_says_how_many_and_then_sends_what_was_not_got(
    asked: dict[str, Any], again: set[str], open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        scene = await _missed(inside, database)
        path = f"{scene['endpoint']['id']}/replay"
        counted = await told(inside.merchant, path, ALWAYS | asked)
        before = _sent_again(database, scene["payments"])
        sent = await told(inside.merchant, path, ALWAYS | asked | {"dry_run": False})
        after = _sent_again(database, scene["payments"])
        repeated = await told(inside.merchant, path, ALWAYS | asked | {"dry_run": False})

    assert (counted["dry_run"], counted["events"], before) == (True, len(again), set())
    assert (sent["dry_run"], sent["events"], after) == (False, len(again), again)
    assert repeated["events"] == 0  # they are about to be tried
    fresh = database.rows("SELECT tries, delivered_at FROM delivery WHERE status = 'pending' AND due_at <= now()")
    assert {(row["tries"], row["delivered_at"]) for row in fresh} <= {(1, None)}


async def test_a_replay_that_cannot_be_done_is_refused(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        endpoint = await made(inside.merchant)
        path = f"{ENDPOINTS}/{endpoint['id']}/replay"
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"to": ALWAYS["to"]}, "from"),
            ({"from": ALWAYS["from"]}, "to"),
            (ALWAYS | {"from": "yesterday"}, "from"),
            (ALWAYS | {"to": "2026-11-21T00:00:00"}, "to"),
            ({"from": ALWAYS["to"], "to": ALWAYS["from"]}, "to"),
            (ALWAYS | {"types": ["payment.succeeded", "nothing"]}, "types.1"),
            (ALWAYS | {"types": []}, "types"),
            (ALWAYS | {"status": "pending"}, "status"),
            (ALWAYS | {"dry_run": "no"}, "dry_run"),
            (ALWAYS | {"endpoint": endpoint["id"]}, "endpoint"),
        ]
        answers = [(await inside.merchant.post(path, fields), param) for fields, param in wrong]
        widest = await inside.merchant.post(path, {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59.999999Z"})
        await told(inside.merchant, endpoint["id"], {"status": "disabled"})
        off = await inside.merchant.post(path, ALWAYS)

    for answer, param in answers:
        assert (answer.status_code, answer.json()["param"]) == (422, param), answer.text
    assert (widest.status_code, off.status_code) == (200, 409), widest.text
    assert off.json()["code"] == "not_deliverable"


async def test_a_replay_goes_through_a_long_range_in_steps_and_refuses_one_that_is_too_long(
    open_gateway: Open, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 2 * REPLAY_BATCH + 7
    async with open_gateway() as inside:
        endpoint = await made(inside.merchant)
        database.rows(
            "INSERT INTO event (id, merchant_id, livemode, type, body, created_at)"
            " SELECT 'evt_' || lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '7' || lpad(n::text, 19, '0'),"
            " 'mer_dev', false, 'payment.succeeded', '{}', now() FROM generate_series(1, %(number)s) n",
            number=number,
        )
        sent = await told(inside.merchant, f"{endpoint['id']}/replay", ALWAYS | {"dry_run": False})
        pending = database.value("SELECT count(*) FROM delivery WHERE status = 'pending'")
        monkeypatch.setattr("gateway.endpoints.REPLAY_MAX", 100)
        database.rows("UPDATE delivery SET status = 'failed', due_at = NULL")
        over = await inside.merchant.post(f"{ENDPOINTS}/{endpoint['id']}/replay", ALWAYS)

    assert (sent["events"], pending) == (number, number)
    assert (over.status_code, over.json()["param"]) == (422, "to")


# --- Whose it is ------------------------------------------------------------------------------------------------------


async def _walk(merchant: Merchant, endpoint_id: str, event_id: str) -> list[tuple[int, Any]]:
    """Every route with these ids; of a problem all but the id of its request."""
    path = f"{ENDPOINTS}/{endpoint_id}"
    answers = [
        await merchant.get(path),
        await merchant.post(path, {"status": "disabled"}),
        await merchant.delete(path),
        await merchant.post(f"{path}/rotate_secret"),
        await merchant.post(f"{path}/test"),
        await merchant.get(f"{path}/deliveries"),
        await merchant.post(f"{path}/replay", ALWAYS),
        await merchant.get(f"/v1/events/{event_id}"),
        await merchant.get(f"/v1/events/{event_id}/deliveries"),
        await merchant.post(f"/v1/events/{event_id}/redeliver"),
        await merchant.post(f"/v1/events/{event_id}/redeliver", {"endpoint": endpoint_id}),
    ]
    return [(answer.status_code, answer.json() | {"request_id": None}) for answer in answers]


async def test_another_merchants_endpoints_and_events_are_not_there(
    open_gateway: Open, database: Database, commands: Commands
) -> None:
    commands(database, "merchants", "create", "mer_other")
    other_key = commands(database, "keys", "create", "mer_other")
    publishable = commands(database, "keys", "create", "mer_dev", "--kind", "publishable")
    async with open_gateway() as inside:
        other = dataclasses.replace(inside.merchant, api_key=other_key)
        endpoint, theirs = await made(inside.merchant), await made(other)
        paid = await inside.merchant.charged()
        (event,) = (await inside.merchant.get("/v1/events", payment=paid["id"])).json()["data"]
        before = everything_stored(database)
        nothing = await _walk(other, NOBODYS, "evt_" + "0" * 32)
        walked = await _walk(other, endpoint["id"], event["id"])
        crossed = await inside.merchant.post(f"/v1/events/{event['id']}/redeliver", {"endpoint": theirs["id"]})
        lists = [
            (await other.get("/v1/events")).json()["data"],
            (await other.get("/v1/events", payment=paid["id"])).json()["data"],
            (await other.get(ENDPOINTS, cursor=NOBODYS.replace("0", "f"))).json()["data"],
        ]
        shop = dataclasses.replace(inside.merchant, api_key=publishable)
        forbidden = await _walk(shop, endpoint["id"], event["id"])
        forbidden += [
            (answer.status_code, answer.json()) for answer in [await shop.post(ENDPOINTS), await shop.get("/v1/events")]
        ]
        after = everything_stored(database)

    assert [status for status, _ in nothing] == [404] * len(nothing)
    assert walked == nothing
    assert (crossed.status_code, crossed.json()["param"]) == (404, "endpoint")
    assert ([len(each) for each in lists], lists[2][0]["id"]) == ([0, 0, 1], theirs["id"])
    assert {(status, problem["code"]) for status, problem in forbidden} == {(403, "forbidden")}
    assert before == after
    assert deliveries(database, theirs) == {}


def test_what_is_wanted_stands_for_types_of_the_catalogue() -> None:
    assert types_of(["*"]) == EVENTS.keys()
    assert types_of(["dispute.*"]) == {"dispute.created", "dispute.updated", "dispute.closed"}
    assert types_of(["payment.succeeded", "nothing", "payment", "payment."]) == {"payment.succeeded"}
    assert types_of([]) == frozenset()
    assert json.dumps(sorted(EVENTS))  # a name is a plain word
