"""The log of what providers told us: what came, what became of it, what was refused; and applying it again changes nothing known."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from gateway import inbound
from gateway.admin import replay_inbound
from gateway.inbound import RESULTS, STATUSES
from gateway.news import wake
from providers.contract import fingerprint_of
from webhooks.refusals import REASONS

if TYPE_CHECKING:
    from tests.conftest import Commands, Configuration, Database, Inside, Kit, Merchant, Open, Processes, Psps

ROOT: Final = Path(__file__).parent.parent.parent
PATH: Final = "/v1/inbound_events"
OTHERS: Final = (
    '[accounts.other_stripe]\nmerchant = "mer_other"\nprovider = "stripe"\n'
    'api_key_env = "FLOWS_STRIPE_API_KEY"\nwebhook_secret_env = "FLOWS_STRIPE_WEBHOOK_SECRET"\n'
)


async def listed(merchant: Merchant, path: str = PATH, **filters: Any) -> list[dict[str, Any]]:
    answer = await merchant.get(path, **filters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def tell(inside: Inside, flow: type[Kit], operation: str, number: str, account: str = "stripe") -> httpx.Response:
    body = flow.stripe_event(operation, number=number)
    return await inside.merchant.http.post(f"/v1/webhooks/{account}", content=body, headers=flow.signed(body))


async def all_looked_at(database: Database, flow: type[Kit]) -> None:
    await flow.eventually(
        lambda: database.value("SELECT count(*) FROM webhook_inbox WHERE result IS NULL") == 0, "all were looked at"
    )


async def unknown_charge(inside: Inside, psps: Psps, psp: str = "stripe") -> dict[str, Any]:
    psps.fault(psp, "authorize", "garbage")
    psps.fault(psp, "authorize", "drop_webhook")
    answer = await inside.merchant.charge(routing={"account": psp})
    assert answer.status_code == 202, answer.text
    unknown: dict[str, Any] = answer.json()
    return unknown


async def test_an_event_shows_what_it_meant_and_nothing_that_was_sent(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        unknown = await unknown_charge(inside, psps)
        (operation,) = database.operations(unknown["id"])
        await tell(inside, flow, operation["id"], "7")
        await all_looked_at(database, flow)
        (event,) = await listed(inside.merchant)
        one = (await inside.merchant.get(f"{PATH}/{event['id']}")).json()

    fixed = {name: event[name] for name in event.keys() - {"id", "received", "applied"}}
    assert fixed == {
        "object": "inbound_event",
        "account": "stripe",
        "type": "payment_intent.succeeded",
        "provider_event_id": "evt_7",
        "status": "applied",
        "result": "applied",
        "payment": unknown["id"],
        "verification": {"result": "verified", "secret": fingerprint_of(flow.SECRETS["FLOWS_STRIPE_WEBHOOK_SECRET"])},
        "body_bytes": len(flow.stripe_event(operation["id"], number="7")),
        "tries": 1,
        "waits_for": None,
        "next_try": None,
        "livemode": False,
    }
    assert event["received"] <= event["applied"]
    meaning = one.pop("meaning")
    assert one == event
    assert meaning.pop("occurred")
    assert meaning == {
        "operation_kind": "authorize",
        "operation": operation["id"],
        "outcome": "approved",
        "provider_id": "pi_7",
        "provider_payment_id": "pi_7",
        "dispute": None,
    }


async def test_events_are_filtered_and_paged(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        unknown = await unknown_charge(inside, psps)
        (operation,) = database.operations(unknown["id"])
        await tell(inside, flow, operation["id"], "1")
        await all_looked_at(database, flow)
        await tell(inside, flow, operation["id"], "2")
        await tell(inside, flow, "att_" + "0" * 32, "3")
        await all_looked_at(database, flow)

        async def numbers(**filters: Any) -> list[str]:
            return [event["provider_event_id"] for event in await listed(inside.merchant, **filters)]

        assert await numbers() == ["evt_3", "evt_2", "evt_1"]
        assert await numbers(account="stripe") == ["evt_3", "evt_2", "evt_1"]
        assert await numbers(account="adyen") == await numbers(account="nobody") == []
        assert await numbers(result="applied") == ["evt_1"]
        assert await numbers(result="no_news") == ["evt_2"]
        assert await numbers(status="applied") == ["evt_2", "evt_1"]
        assert await numbers(status="waiting") == ["evt_3"]
        assert await numbers(status="kept") == await numbers(status="failed") == []
        assert await numbers(payment=unknown["id"]) == ["evt_2", "evt_1"]
        assert await numbers(type="payment_intent.succeeded", status="waiting") == ["evt_3"]
        assert await numbers(type="charge.succeeded") == []
        middle = (await listed(inside.merchant))[1]["received"]
        assert await numbers(**{"created[gte]": middle}) == ["evt_3", "evt_2"]
        assert await numbers(**{"created[lt]": middle}) == ["evt_1"]
        first = (await inside.merchant.get(PATH, limit=2)).json()
        assert (len(first["data"]), first["has_more"]) == (2, True)
        assert await numbers(cursor=first["next_cursor"]) == ["evt_1"]
        database.rows("UPDATE webhook_inbox SET applied_at = now(), due_at = NULL WHERE event_id = 'evt_3'")
        assert await numbers(status="kept") == ["evt_3"]


@pytest.mark.parametrize(
    ("filters", "param"),
    [
        ({"status": "done"}, "status"),
        ({"result": "x"}, "result"),
        ({"payment": "pay_1"}, "payment"),
        ({"created[gte]": "yesterday"}, "created[gte]"),
        ({"created[lt]": "2026-11-01T00:00:00"}, "created[lt]"),
        ({"limit": "0"}, "limit"),
        ({"cursor": "iev_1"}, "cursor"),
        ({"cursor": "iev_" + "f" * 32}, "cursor"),
        ({"type": "a\0b"}, "type"),
        ({"color": "red"}, "color"),
    ],
)
async def test_a_wrong_filter_is_named(filters: Mapping[str, str], param: str, open_gateway: Open) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.get(PATH, **filters)

    assert (answer.status_code, answer.json()["param"]) == (422, param)


async def test_what_was_refused_is_shown_by_reason_and_minute(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        body = flow.stripe_event("att_1")
        for age_s in (0, 3_600):
            for _ in range(3):
                headers = flow.signed(body if age_s else b"other", age_s=age_s)
                await inside.merchant.http.post("/v1/webhooks/stripe", content=body, headers=headers)
        await inside.merchant.http.post("/v1/webhooks/nobody", content=body)
        await flow.eventually(
            lambda: database.value("SELECT coalesce(sum(refused), 0) FROM webhook_refusal") == 7, "all were counted"
        )
        refused = await listed(inside.merchant, f"{PATH}/refused")
        stale = await listed(inside.merchant, f"{PATH}/refused", reason="stale")
        first = (await inside.merchant.get(f"{PATH}/refused", limit=1)).json()
        rest = await listed(inside.merchant, f"{PATH}/refused", cursor=first["next_cursor"])
        wrong = await inside.merchant.get(f"{PATH}/refused", reason="x")

    counts: dict[str, int] = {}
    for row in refused:
        assert (row["object"], row["account"]) == ("refused_webhooks", "stripe")  # nobody's are nobody's to see
        counts[row["reason"]] = counts.get(row["reason"], 0) + row["count"]
    assert counts == {"signature": 3, "stale": 3}
    assert {row["reason"] for row in stale} == {"stale"}
    assert [*first["data"], *rest] == refused
    assert (wrong.status_code, wrong.json()["param"]) == (422, "reason")


# --- Again ------------------------------------------------------------------------------------------------------------


async def test_a_replay_of_what_is_known_changes_nothing(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        unknown = await unknown_charge(inside, psps)
        (operation,) = database.operations(unknown["id"])
        await tell(inside, flow, operation["id"], "1")
        await all_looked_at(database, flow)
        settled, before = await inside.merchant.payment(unknown["id"]), database.row_counts()
        (event,) = await listed(inside.merchant)
        for _ in range(2):
            again = await inside.merchant.post(f"{PATH}/{event['id']}/replay")
            assert (again.status_code, again.json()["status"]) == (200, "waiting")
            assert again.json()["next_try"] is not None
        await inside.work()
        (after,) = await listed(inside.merchant)

        assert (after["status"], after["result"], after["payment"]) == ("applied", "no_news", unknown["id"])
        assert await inside.merchant.payment(unknown["id"]) == settled
        assert database.row_counts() == before


async def test_several_are_replayed_after_they_were_counted(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    """Events that could not be applied, as a defect of ours would leave them: counted first, then applied by a replay."""
    async with open_gateway() as inside:
        unknown = await unknown_charge(inside, psps)
        (operation,) = database.operations(unknown["id"])
        await tell(inside, flow, operation["id"], "1")
        await tell(inside, flow, "order-of-another-shop", "2")
        await all_looked_at(database, flow)
        database.rows("UPDATE webhook_inbox SET result = 'failed', applied_at = now(), due_at = NULL, tries = 6")
        failed = {"status": "failed", "account": "stripe"}
        dry = (await inside.merchant.post(f"{PATH}/replay", failed)).json()
        untouched = await listed(inside.merchant, status="failed")
        none = (await inside.merchant.post(f"{PATH}/replay", failed | {"type": "x", "dry_run": False})).json()
        done = (await inside.merchant.post(f"{PATH}/replay", failed | {"dry_run": False})).json()
        waiting = await listed(inside.merchant, status="waiting")
        await inside.work()
        after = {event["provider_event_id"]: event["result"] for event in await listed(inside.merchant)}

    assert (dry["object"], dry["dry_run"], dry["events"]) == ("inbound_replay", True, 2)
    assert (dry["by_result"], dry["after"]) == ({"failed": 2}, None)
    assert (len(untouched), none["events"], done["events"], len(waiting)) == (2, 0, 2, 2)
    assert done["dry_run"] is False
    assert after == {"evt_1": "no_news", "evt_2": "operation_not_found"}


async def test_more_than_one_call_takes_is_taken_by_several(
    open_gateway: Open, database: Database, flow: type[Kit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "REPLAY_MAX", 2)
    async with open_gateway() as inside:
        for number in range(5):
            await tell(inside, flow, "order-of-another-shop", str(number))
        await all_looked_at(database, flow)
        database.rows(
            "UPDATE webhook_inbox SET received_at = '2026-11-01', applied_at = now(), due_at = NULL, tries = 6"
        )
        taken: list[tuple[bool, int, int]] = []
        for dry_run in (True, False):
            after = None
            while not taken or after is not None or taken[-1][0] is not dry_run:
                body = {"account": "stripe", "dry_run": dry_run, "after": after}
                answer = (await inside.merchant.post(f"{PATH}/replay", body)).json()
                after = answer["after"]
                due = database.value("SELECT count(*) FROM webhook_inbox WHERE due_at IS NOT NULL")
                taken.append((dry_run, answer["events"], due))
        oldest = [event["id"] for event in reversed(await listed(inside.merchant))]
        behind = {"account": "stripe", "after": oldest[2]}
        rest = (await inside.merchant.post(f"{PATH}/replay", behind)).json()

    assert taken == [(True, 2, 0), (True, 2, 0), (True, 1, 0), (False, 2, 2), (False, 2, 4), (False, 1, 5)]
    assert (rest["events"], rest["after"]) == (2, oldest[4])


async def test_the_command_line_goes_on_until_all_is_replayed(
    open_gateway: Open,
    configuration: Configuration,
    database: Database,
    flow: type[Kit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "REPLAY_MAX", 2)
    for name, value in configuration.environment(configuration.accounts()).items():
        monkeypatch.setenv(name, value)
    async with open_gateway() as inside:
        for number in range(5):
            await tell(inside, flow, "order-of-another-shop", str(number))
        await all_looked_at(database, flow)
        database.rows("UPDATE webhook_inbox SET applied_at = now(), due_at = NULL, tries = 6")
        said: list[str] = []
        await replay_inbound(["stripe"], "1h", {}, said.append, dry_run=False)
        due = database.value("SELECT count(*) FROM webhook_inbox WHERE due_at IS NOT NULL")

    assert [line.partition(" ")[0] for line in said[:3]] == ["2", "4", "5"], said
    assert said[3:] == ["  operation_not_found: 5"]
    assert due == 5


async def test_replays_and_a_worker_at_the_same_moment_take_turns(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        for number in range(20):
            await tell(inside, flow, "att_" + "0" * 32, str(number))
        await all_looked_at(database, flow)
        log, wanted = inbound.InboundLog(inside.house.pool), inbound.Wanted(["stripe"])
        for _ in range(5):
            replays = asyncio.gather(*(log.replay(wanted, dry_run=False) for _ in range(6)))
            wakes = asyncio.gather(*(wake(inside.house.pool) for _ in range(6)))
            done, _, _ = await asyncio.gather(replays, inside.work(), wakes)
            assert [each.events for each in done] == [20] * 6


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"dry_run": False}, None),
        ({"status": "done"}, "status"),
        ({"result": "x"}, "result"),
        ({"created": {"gte": "x"}}, "created[gte]"),
        ({"created": {"from": "x"}}, "created.from"),
        ({"dry_run": "no", "account": "stripe"}, "dry_run"),
        ({"after": "iev_1", "account": "stripe"}, "after"),
        ({"after": "iev_" + "0" * 32}, None),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_replay_of_nothing_in_particular_is_refused(body: Any, param: str | None, open_gateway: Open) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.post(f"{PATH}/replay", body)

    assert (answer.status_code, answer.json()["param"]) == (422, param)


# --- Whose it is ------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_key(database: Database, commands: Commands) -> str:
    """A secret key of another merchant."""
    commands(database, "merchants", "create", "mer_other")
    return commands(database, "keys", "create", "mer_other")


async def test_a_merchant_sees_and_replays_the_events_of_its_own_accounts(
    open_gateway: Open, database: Database, flow: type[Kit], other_key: str
) -> None:
    async with open_gateway(more=OTHERS) as inside:
        await tell(inside, flow, "att_" + "0" * 32, "1", "stripe")
        await tell(inside, flow, "att_" + "0" * 32, "2", "other_stripe")
        await inside.merchant.http.post("/v1/webhooks/other_stripe", content=b"{}")
        await all_looked_at(database, flow)
        await flow.eventually(lambda: database.value("SELECT count(*) FROM webhook_refusal") == 1, "it was counted")
        other = dataclasses.replace(inside.merchant, api_key=other_key)
        (own,), (theirs,) = await listed(inside.merchant), await listed(other)
        hidden = [
            await inside.merchant.get(f"{PATH}/{theirs['id']}"),
            await inside.merchant.post(f"{PATH}/{theirs['id']}/replay"),
            await other.get(f"{PATH}/{own['id']}"),
            await inside.merchant.get(f"{PATH}/iev_{'0' * 32}"),
            await inside.merchant.get(f"{PATH}/iev_{'f' * 32}"),
            await inside.merchant.get(f"{PATH}/evt_1"),
        ]
        named = {"account": "other_stripe", "dry_run": False}
        replayed = (await inside.merchant.post(f"{PATH}/replay", named)).json()
        refused = await listed(inside.merchant, f"{PATH}/refused"), await listed(other, f"{PATH}/refused")
        public = dataclasses.replace(inside.merchant, api_key="pk_test_dev")
        forbidden = await public.get(PATH)
        stranger = await dataclasses.replace(inside.merchant, api_key="sk_test_nobody").get(PATH)

    assert (own["account"], theirs["account"]) == ("stripe", "other_stripe")
    assert {answer.status_code for answer in hidden} == {404}
    assert len({answer.json()["detail"] for answer in hidden}) == 1
    assert replayed["events"] == 0
    assert (len(refused[0]), len(refused[1])) == (0, 1)
    assert (forbidden.status_code, stranger.status_code) == (403, 401)


# --- The command line -------------------------------------------------------------------------------------------------


async def test_the_command_line_replays_what_the_worker_then_applies(
    processes: Processes, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    server = processes.server().start()
    async with server.merchant() as merchant:
        payment = await merchant.charged(routing={"account": "stripe"})
        await flow.eventually(lambda: database.value("SELECT count(*) FROM webhook_inbox") > 0, "webhooks came")
        await all_looked_at(database, flow)
        database.rows(
            "UPDATE webhook_inbox SET result = 'failed', applied_at = now(), due_at = NULL, payment_id = NULL"
        )
        events = database.value("SELECT count(*) FROM webhook_inbox")
        asked = ("replay", "inbound", "--account", "stripe", "--since", "1h", "--result", "failed")
        code, dry = processes.run(*asked)
        untouched = database.value("SELECT count(*) FROM webhook_inbox WHERE due_at IS NOT NULL")
        applied_code, applied = processes.run(*asked, "--apply")
        wrong = [
            processes.run("replay", "inbound", *words)
            for words in (
                ("--account", "nobody", "--since", "1h"),
                ("--account", "stripe", "--since", "soon"),
                ("--account", "stripe", "--since", "1h", "--result", "x"),
                ("--account", "stripe", "--since", "1h", "--status", "x"),
            )
        ]
        processes.worker()
        await flow.eventually(
            lambda: database.value("SELECT count(*) FROM webhook_inbox WHERE result = 'failed'") == 0,
            "the worker has applied them",
        )
        after = await merchant.payment(payment["id"])

    assert (code, applied_code, untouched) == (0, 0, 0), (dry, applied)
    assert f"{events} events would be applied again" in dry
    assert f"failed: {events}" in dry
    assert f"{events} events are due" in applied
    assert [code for code, _ in wrong] == [2, 2, 2, 2], wrong
    assert after == payment


# --- Words ------------------------------------------------------------------------------------------------------------


def _results_in_use() -> Iterator[str]:
    """Every word that applying an event may end with."""
    for file in ("gateway/news.py", "webhooks/inbox.py"):
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Applied":
                for word in ast.walk(node.args[0]):
                    if isinstance(word, ast.Constant) and isinstance(word.value, str):
                        yield word.value


def test_every_result_has_its_status_and_every_reason_its_meaning() -> None:
    assert set(_results_in_use()) == RESULTS.keys()
    assert {status for status, _ in RESULTS.values()} | {"waiting"} == STATUSES.keys()
    assert all(meaning for _, meaning in RESULTS.values())
    assert {reason.status for reason in REASONS.values()} == {400, 401, 408, 413, 415}


async def test_no_personal_data_leaves_the_log(
    open_gateway: Open, database: Database, flow: type[Kit], proved: Callable[[str], None]
) -> None:
    secrets = ("Ada Lovelace", "ada@example.com", "10 Downing Street", "192.0.2.77")
    event = json.loads(flow.stripe_event("att_" + "0" * 32))
    event["data"]["object"] |= {"receipt_email": secrets[1], "shipping": {"name": secrets[0], "line1": secrets[2]}}
    event["request"] = {"ip": secrets[3]}
    body = json.dumps(event).encode()
    async with open_gateway() as inside:
        await inside.merchant.http.post("/v1/webhooks/stripe", content=body, headers=flow.signed(body))
        await all_looked_at(database, flow)
        (listed_one,) = await listed(inside.merchant)
        one = (await inside.merchant.get(f"{PATH}/{listed_one['id']}")).text
    row = str(database.rows("SELECT * FROM webhook_inbox"))

    assert listed_one["body_bytes"] == len(body)
    assert not [word for word in secrets if word in one or word in str(listed_one) or word in row]
    proved(f"the inbound log: {len(secrets)} personal details sent, 0 shown or stored in plain")
