"""Routing configs over HTTP: versions that never change, what puts them in force, and the history of who did it, when and why."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from gateway import publishing, rehearsal
from routing.publications import in_force, in_shadow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Checked, Commands, Database, Inside, Kit, Merchant, Open, Processes, Psps

CONFIGS: Final = "/v1/routing/configs"
STRIPE: Final[Mapping[str, Any]] = {"default": {"priority": ["stripe", "adyen"]}}
ADYEN: Final[Mapping[str, Any]] = {"default": {"priority": ["adyen", "stripe"]}}
ONLY_ADYEN: Final[Mapping[str, Any]] = {"default": {"priority": ["adyen"]}}
SPLIT: Final[Mapping[str, Any]] = {
    "rules": [
        {
            "name": "large in euros",
            "when": {"currency": ["EUR"], "amount": {"min": 50_000}},
            "then": {"split": {"stripe": 40, "adyen": 60}},
        }
    ],
    "default": {"priority": ["stripe"]},
}
NOBODYS: Final = "0" * 32
PAYMENTS: Final = [f"pay_{number:032x}" for number in range(400)]


async def drafted(merchant: Merchant, document: Mapping[str, Any] = STRIPE, **fields: Any) -> dict[str, Any]:
    """A version that must be made."""
    answer = await merchant.post(CONFIGS, {"document": document} | fields)
    assert answer.status_code == 201, answer.text
    version: dict[str, Any] = answer.json()
    return version


async def published(
    merchant: Merchant, config: str, *, key: str | None = None, status: int = 201, **fields: Any
) -> dict[str, Any]:
    """The answer to publishing, which must end with ``status``."""
    answer = await merchant.post(f"{CONFIGS}/{config}/publish", {"reason": "a reason"} | fields, key=key)
    assert answer.status_code == status, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def told(merchant: Merchant, path: str, *, status: int = 201, **fields: Any) -> dict[str, Any]:
    """The answer to a POST that must end with ``status``."""
    answer = await merchant.post(f"/v1/routing/{path}", fields)
    assert answer.status_code == status, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def overview(merchant: Merchant) -> dict[str, Any]:
    """What is in force."""
    answer = await merchant.get("/v1/routing")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def history(merchant: Merchant) -> list[dict[str, Any]]:
    """Who did what, the newest first."""
    answer = await merchant.get("/v1/routing/history", limit=100)
    assert answer.status_code == 200, answer.text
    steps: list[dict[str, Any]] = answer.json()["data"]
    return steps


async def in_force_for(inside: Inside, after_s: float = 0) -> set[str | None]:
    """The versions that decide payments, some seconds from now."""
    written = await inside.house.deps.routing_books.history("mer_dev", livemode=False)
    at = datetime.now(UTC) + timedelta(seconds=after_s)
    return {in_force(written, payment, at) for payment in PAYMENTS}


def events(database: Database) -> list[dict[str, Any]]:
    """What the merchant was told, the oldest first."""
    return [json.loads(row["body"]) for row in database.rows("SELECT body FROM event ORDER BY id")]


def stored(database: Database) -> tuple[int, int, int]:
    """How many versions, publications and keys there are."""
    tables = ("routing_version", "routing_publication", "idempotency_key")
    first, second, third = (database.value(f"SELECT count(*) FROM {table}") for table in tables)
    return first, second, third


def later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def with_key(inside: Inside, key: str) -> Merchant:
    return dataclasses.replace(inside.merchant, api_key=key)


# --- Versions ---------------------------------------------------------------------------------------------------------


async def test_a_draft_is_a_version_that_nothing_is_decided_by(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        first = await drafted(inside.merchant, SPLIT, note="large ones to adyen")
        second = await drafted(inside.merchant, STRIPE, name="plain")
        read = (await inside.merchant.get(f"{CONFIGS}/{first['id']}")).json()
        page = (await inside.merchant.get(CONFIGS, limit=1)).json()
        rest = (await inside.merchant.get(CONFIGS, cursor=page["next_cursor"])).json()
        shown, in_force_now = await overview(inside.merchant), await in_force_for(inside)

    assert first["id"].startswith("rt_")
    assert (first["number"], first["name"], first["note"]) == (1, "Version 1", "large ones to adyen")
    assert (second["number"], second["name"], second["created_by"]) == (2, "plain", "sk_test_dev")
    assert first["document"] == SPLIT
    assert read == first
    assert [each["id"] for each in (*page["data"], *rest["data"])] == [second["id"], first["id"]]
    assert not any("document" in each for each in page["data"])
    assert (shown["in_force"], in_force_now) == (None, {None})
    assert events(database) == []


async def test_the_same_key_makes_one_version_and_answers_the_same_bytes(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        first = await inside.merchant.post(CONFIGS, {"document": STRIPE}, key="draft-1")
        again = await inside.merchant.post(CONFIGS, {"document": STRIPE}, key="draft-1")
        other = await inside.merchant.post(CONFIGS, {"document": ADYEN}, key="draft-1")
        same = await drafted(inside.merchant, STRIPE)

    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert again.content == first.content
    assert other.json()["code"] == "idempotency_key_reused"
    assert same["hash"] == first.json()["hash"]
    assert stored(database)[0] == 2


BAD: Final[tuple[tuple[Mapping[str, Any], frozenset[str]], ...]] = (
    ({}, frozenset({"/default"})),
    ({"default": {"priority": []}}, frozenset({"/default/priority"})),
    ({"default": {"split": {"stripe": 50, "adyen": 49}}}, frozenset({"/default"})),
    ({**STRIPE, "ruels": []}, frozenset({"/ruels"})),
    (
        {
            "rules": [
                {"name": "one", "when": {"currency": ["eur"]}, "then": {"priority": ["stripe", "stripe"]}},
                {"name": "one", "when": {"color": "red"}, "then": {"priority": ["stripe"]}},
            ],
            "default": {"split": {"stripe": 30}},
        },
        frozenset({"/rules/0/when/currency/0", "/rules/0/then/priority", "/rules/1/when/color", "/default"}),
    ),
)


async def test_a_bad_document_is_refused_with_all_its_faults_and_nothing_is_stored(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        good = await drafted(inside.merchant)
        await published(inside.merchant, good["id"])
        before = (stored(database), await overview(inside.merchant), await in_force_for(inside))
        answers = [
            await inside.merchant.post(CONFIGS, {"document": document}, key=f"bad-{at}")
            for at, (document, _) in enumerate(BAD)
        ]
        after = (stored(database), await overview(inside.merchant), await in_force_for(inside))
        corrected = await inside.merchant.post(CONFIGS, {"document": ADYEN}, key="bad-0")

    for answer, (_, pointers) in zip(answers, BAD, strict=True):
        assert (answer.status_code, answer.json()["code"]) == (422, "routing_document_invalid"), answer.text
        found = answer.json()["errors"]
        assert pointers <= {each["pointer"] for each in found}, found
        assert all(each["message"] and each["fix"] for each in found)
    assert after == before
    assert corrected.status_code == 201


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "document"),
        ({"document": []}, "document"),
        ({"document": STRIPE, "name": ""}, "name"),
        ({"document": STRIPE, "percent": 5}, "percent"),
    ],
)
async def test_a_draft_says_what_it_is(open_gateway: Open, fields: Mapping[str, Any], param: str) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.post(CONFIGS, fields)

    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (422, "validation_failed", param)


async def test_a_document_that_is_too_large_is_refused(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        huge = {"default": {"priority": ["stripe"]}, "name": "x" * 400_000}
        answer = await inside.merchant.post(CONFIGS, {"document": huge})

    assert answer.status_code == 413


# --- Publishing -------------------------------------------------------------------------------------------------------


async def test_what_is_published_is_in_force_and_told_in_the_same_commit(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        endpoint = (await inside.merchant.post("/v1/webhook_endpoints", {"url": "https://shop.example/hooks"})).json()
        version = await drafted(inside.merchant)
        shown = await published(inside.merchant, version["id"], key="publish-1", reason="Adyen approves more.")
        again = await published(inside.merchant, version["id"], key="publish-1", reason="Adyen approves more.")
        now, in_force_now = await overview(inside.merchant), await in_force_for(inside)
        (step,) = await history(inside.merchant)
        next_one = await drafted(inside.merchant, ADYEN)

    assert shown["kind"] == "publish"
    assert (shown["config"], shown["percent"], shown["status"]) == (version["id"], 100, "in_force")
    assert (shown["reason"], shown["published_by"], shown["approved_by"]) == (
        "Adyen approves more.",
        "sk_test_dev",
        None,
    )
    assert again == shown == step == now["publication"]
    assert in_force_now == {version["id"]}
    assert (now["in_force"]["id"], now["rollback_to"]) == (version["id"], None)
    assert next_one["parent"] == version["id"]
    (event,) = events(database)
    assert (event["type"], event["data"], event["payment"]) == ("routing.version_published", shown, None)
    delivery = database.rows("SELECT endpoint_id, event_id FROM delivery")
    assert [(row["endpoint_id"], row["event_id"]) for row in delivery] == [(endpoint["id"], event["id"])]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reason": None}, "reason"),
        ({"reason": ""}, "reason"),
        ({"reason": "x", "percent": 0}, "percent"),
        ({"reason": "x", "percent": 101}, "percent"),
        ({"reason": "x", "percent": 2.5}, "percent"),
        ({"reason": "x", "starts_at": "tomorrow"}, "starts_at"),
        ({"reason": "x", "starts_at": "2020-01-01T00:00:00Z"}, "starts_at"),
        ({"reason": "x", "expected": "pay_1"}, "expected"),
        ({"reason": "x", "who": "me"}, "who"),
    ],
)
async def test_a_publication_says_why_for_how_many_and_from_when(
    open_gateway: Open, database: Database, fields: Mapping[str, Any], param: str
) -> None:
    async with open_gateway() as inside:
        version = await drafted(inside.merchant)
        sent = {name: value for name, value in fields.items() if value is not None}
        answer = await inside.merchant.post(f"{CONFIGS}/{version['id']}/publish", sent)

    assert (answer.status_code, answer.json()["param"]) == (422, param), answer.text
    assert stored(database) == (1, 0, 1)


async def test_a_version_that_names_accounts_which_are_not_there_is_not_published(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway(order=["stripe"]) as inside:
        version = await drafted(inside.merchant, SPLIT)
        refused = await published(inside.merchant, version["id"], status=422)
        nothing = await in_force_for(inside)

    assert refused["code"] == "routing_not_publishable"
    assert [each["pointer"] for each in refused["errors"]] == ["/rules/0/then/split/adyen"]
    assert "adyen" in refused["errors"][0]["message"]
    assert (nothing, stored(database)) == ({None}, (1, 0, 1))


async def test_a_version_is_staged_for_a_part_of_the_payments_and_then_for_all(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        first, second = await drafted(inside.merchant), await drafted(inside.merchant, ADYEN)
        await published(inside.merchant, first["id"])
        await published(inside.merchant, second["id"], percent=5)
        at_five, shown = await in_force_for(inside), await overview(inside.merchant)
        await published(inside.merchant, second["id"], percent=100)
        at_all = await in_force_for(inside)
        words = [each["status"] for each in await history(inside.merchant)]

    assert at_five == {first["id"], second["id"]}
    assert (shown["in_force"]["id"], shown["staged"]["config"], shown["staged"]["percent"]) == (
        first["id"],
        second["id"],
        5,
    )
    assert shown["rollback_to"] == first["id"]
    assert at_all == {second["id"]}
    assert words == ["in_force", "superseded", "superseded"]


async def test_a_scheduled_version_starts_at_its_time_unless_it_is_withdrawn(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        first, second = await drafted(inside.merchant), await drafted(inside.merchant, ADYEN)
        await published(inside.merchant, first["id"])
        scheduled = await published(inside.merchant, second["id"], starts_at=later(3600))
        shown = await overview(inside.merchant)
        now, then = await in_force_for(inside), await in_force_for(inside, after_s=3601)
        withdrawn = await told(inside.merchant, f"publications/{scheduled['id']}/withdraw", reason="not yet")
        again = await told(inside.merchant, f"publications/{scheduled['id']}/withdraw", reason="not yet", status=409)
        never = await in_force_for(inside, after_s=3601)
        words = [each["status"] for each in await history(inside.merchant)]

    assert (scheduled["status"], [each["id"] for each in shown["scheduled"]]) == ("scheduled", [scheduled["id"]])
    assert (now, then, never) == ({first["id"]}, {second["id"]}, {first["id"]})
    assert (withdrawn["kind"], withdrawn["target"], again["code"]) == ("withdraw", scheduled["id"], "routing_state")
    assert words == ["done", "withdrawn", "in_force"]
    types = [(event["type"], event["data"]["status"]) for event in events(database)]
    assert types == [
        ("routing.version_published", "in_force"),
        ("routing.version_published", "scheduled"),
        ("routing.publication_withdrawn", "done"),
    ]


async def test_what_is_in_force_is_rolled_back_and_not_withdrawn(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        version = await drafted(inside.merchant)
        shown = await published(inside.merchant, version["id"])
        refused = await told(inside.merchant, f"publications/{shown['id']}/withdraw", reason="x", status=409)

    assert refused["code"] == "routing_state"


async def test_a_shadow_decides_nothing_until_it_is_withdrawn(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        first, second = await drafted(inside.merchant), await drafted(inside.merchant, ADYEN)
        await published(inside.merchant, first["id"])
        shadow = await published(inside.merchant, second["id"], shadow=True)
        shown, decides = await overview(inside.merchant), await in_force_for(inside)
        written = await inside.house.deps.routing_books.history("mer_dev", livemode=False)
        watched = in_shadow(written, PAYMENTS[0], datetime.now(UTC))
        await told(inside.merchant, f"publications/{shadow['id']}/withdraw", reason="seen enough")
        after = await overview(inside.merchant)

    assert (shadow["status"], shown["shadow"]["config"], after["shadow"]) == ("shadow", second["id"], None)
    assert (decides, watched) == ({first["id"]}, second["id"])
    assert shown["in_force"]["id"] == after["in_force"]["id"] == first["id"]


# --- Rolling back -----------------------------------------------------------------------------------------------------


async def test_a_rollback_is_one_call_to_the_version_before_each_time(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        versions = [await drafted(inside.merchant, document) for document in (STRIPE, ADYEN, SPLIT)]
        for version in versions:
            await published(inside.merchant, version["id"])
        went = []
        for _ in versions:
            shown = await told(inside.merchant, "rollback", reason="approvals fell")
            went.append((shown["config"], await in_force_for(inside)))
        nothing = await told(inside.merchant, "rollback", reason="approvals fell", status=409)
        kinds = [(each["kind"], each["reason"]) for each in await history(inside.merchant)]

    first, second, _ = (version["id"] for version in versions)
    assert went == [(second, {second}), (first, {first}), (None, {None})]
    assert nothing["code"] == "routing_state"
    assert kinds == [("rollback", "approvals fell")] * 3 + [("publish", "a reason")] * 3


async def test_a_rollback_of_a_stage_leaves_what_was_in_force_for_all(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        first, second = await drafted(inside.merchant), await drafted(inside.merchant, ADYEN)
        await published(inside.merchant, first["id"])
        await published(inside.merchant, second["id"], percent=25)
        shown = await told(inside.merchant, "rollback", reason="approvals fell")
        after = await in_force_for(inside)

    assert (shown["kind"], shown["config"], after) == ("rollback", first["id"], {first["id"]})
    assert [event["type"] for event in events(database)] == ["routing.version_published"] * 3


async def test_a_rollback_works_when_every_document_is_broken(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        first, second = await drafted(inside.merchant), await drafted(inside.merchant, ADYEN)
        await published(inside.merchant, first["id"])
        await published(inside.merchant, second["id"])
        database.rows("ALTER TABLE routing_version DISABLE TRIGGER routing_version_append_only")
        database.rows("UPDATE routing_version SET document = '{\"default\": 7}'")
        shown = await told(inside.merchant, "rollback", reason="all is broken")

    assert shown["config"] == first["id"]


# --- What a version would do ------------------------------------------------------------------------------------------


async def test_lint_says_what_keeps_a_version_from_being_published_and_what_is_hardly_meant(open_gateway: Open) -> None:
    shadowed = {
        "rules": [
            {"name": "euros", "when": {"currency": "EUR"}, "then": {"priority": ["stripe"]}},
            {"name": "visa in euros", "when": {"currency": "EUR", "brand": "visa"}, "then": {"priority": ["adyen"]}},
        ],
        "default": {"priority": ["acme", "stripe"]},
    }
    async with open_gateway() as inside:
        bad, good = await drafted(inside.merchant, shadowed), await drafted(inside.merchant)
        found = await told(inside.merchant, f"configs/{bad['id']}/lint", status=200)
        nothing = await told(inside.merchant, f"configs/{good['id']}/lint", status=200)
        refused = await published(inside.merchant, bad["id"], status=422)

    pointers = {(each["level"], each["pointer"]) for each in found["findings"]}
    assert found["publishable"] is False
    assert ("warning", "/rules/1") in pointers
    errors = [each for each in found["findings"] if each["level"] == "error"]
    assert [each["pointer"] for each in errors] == ["/default/priority/0"]
    assert all(each["message"] and each["fix"] and each["code"] for each in found["findings"])
    assert (nothing["publishable"], [each for each in nothing["findings"] if each["level"] == "error"]) == (True, [])
    assert refused["errors"] == errors


async def test_a_diff_is_against_what_is_in_force_or_another_version(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        first, second = await drafted(inside.merchant), await drafted(inside.merchant, SPLIT)
        path = f"{CONFIGS}/{second['id']}/diff"
        against_nothing = (await inside.merchant.get(path)).json()
        await published(inside.merchant, first["id"])
        changed = (await inside.merchant.get(path)).json()
        itself = (await inside.merchant.get(path, against=second["id"])).json()
        wrong = [await inside.merchant.get(path, against=each) for each in ("x", f"rt_{NOBODYS}")]

    assert (against_nothing["against"], against_nothing["same"]) == (None, False)
    assert changed["against"] == first["id"]
    assert ("added", "large in euros") in {(each["kind"], each["rule"]) for each in changed["changes"]}
    assert all(each["sentence"] for each in changed["changes"])
    assert (itself["same"], itself["changes"]) == (True, [])
    assert [(answer.status_code, answer.json()["param"]) for answer in wrong] == [(422, "against")] * 2


async def test_a_dry_run_decides_a_payment_in_words_and_asks_nobody(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    async with open_gateway() as inside:
        version = await drafted(inside.merchant, SPLIT)
        before = stored(database)

        async def run(**fields: Any) -> dict[str, Any]:
            return await told(inside.merchant, f"configs/{version['id']}/dry-run", status=200, **fields)

        small = await run(amount=100, currency="EUR")
        large = [await run(amount=50_000, currency="EUR", payment_id=each) for each in (*PAYMENTS[:30], *PAYMENTS[:30])]
        by_token = await run(amount=100, currency="EUR", tokens=["adyen"])
        wrong = [
            await inside.merchant.post(f"{CONFIGS}/{version['id']}/dry-run", fields)
            for fields in (
                {},
                {"amount": 100},
                {"amount": 100, "currency": "eur"},
                {"amount": 100, "currency": "EUR", "bin": "4242424242"},
                {"amount": 100, "currency": "EUR", "payment": PAYMENTS[0]},
            )
        ]

    assert (small["account"], small["decision"]["rule"], small["decision"]["kind"]) == ("stripe", "default", "priority")
    assert small["sentence"] == small["decision"]["sentence"]
    assert {each["account"] for each in small["decision"]["candidates"]} == {"stripe", "adyen"}
    assert {each["decision"]["rule"] for each in large} == {"large in euros"}
    assert {each["account"] for each in large} == {"stripe", "adyen"}
    assert [each["account"] for each in large[:30]] == [each["account"] for each in large[30:]]
    assert by_token["account"] == "adyen"
    assert [answer.json()["param"] for answer in wrong] == ["amount", "currency", "currency", "bin", "payment"]
    assert stored(database) == before
    assert psps.nobody_was_asked()


async def test_a_dry_run_of_a_payment_decides_it_as_it_was_known_then(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        version = await drafted(inside.merchant, ADYEN)
        paid = await inside.merchant.charged(amount=4200)
        path = f"{CONFIGS}/{version['id']}/dry-run"
        shown = (await inside.merchant.post(path, {"payment": paid["id"]})).json()
        unsent = (await inside.merchant.charge(confirm=False)).json()
        refused = await inside.merchant.post(path, {"payment": unsent["id"]})
        missing = await inside.merchant.post(path, {"payment": f"pay_{NOBODYS}"})

    assert paid["account"] == "stripe"
    assert (shown["account"], shown["was"], shown["payment"]) == ("adyen", ["stripe", "adyen"], paid["id"])
    facts = shown["decision"]["facts"]
    assert (facts["payment_id"], facts["amount"], facts["bin"]) == (paid["id"], 4200, "42424242")
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_state")
    assert (missing.status_code, missing.json()["param"]) == (422, "payment")


async def test_a_dry_run_of_a_payment_is_beside_the_decision_that_it_repeats(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    """The shopper's second card was routed by another document: that is no answer to how the first one was."""
    psps.fault("adyen", "authorize", "decline")
    database.publish(ONLY_ADYEN)
    async with open_gateway() as inside:
        declined = (await inside.merchant.charge()).json()
    database.publish(STRIPE)
    async with open_gateway() as inside:
        path = f"/v1/payments/{declined['id']}/confirm"
        paid = (await inside.merchant.post(path, {"payment_method_data": flow.card()})).json()
        version = await drafted(inside.merchant, ONLY_ADYEN)
        shown = await told(inside.merchant, f"configs/{version['id']}/dry-run", status=200, payment=paid["id"])

    assert paid["account"] == "stripe"
    assert (shown["account"], shown["was"]) == ("adyen", ["adyen"])


async def test_a_long_document_is_worked_out_beside_the_requests_that_are_served(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To lint five hundred rules takes seconds, and no payment may wait for that."""
    at_work: list[threading.Thread] = []

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def watched(*args: Any) -> Any:
            at_work.append(threading.current_thread())
            return real(*args)

        monkeypatch.setattr(module, name, watched)

    for module, name in ((publishing, "read"), (rehearsal, "read"), (rehearsal, "diff"), (rehearsal, "lint")):
        watch(module, name)
    async with open_gateway() as inside:
        first, version = await drafted(inside.merchant), await drafted(inside.merchant, SPLIT)
        await inside.merchant.get(f"{CONFIGS}/{version['id']}/diff", against=first["id"])
        await told(inside.merchant, f"configs/{version['id']}/lint", status=200)
        await told(inside.merchant, f"configs/{version['id']}/dry-run", status=200, amount=100, currency="EUR")
        await published(inside.merchant, version["id"])

    assert len(at_work) == 8
    assert threading.main_thread() not in at_work


async def test_what_is_published_decides_payments_and_what_is_rolled_back_does_no_more(
    open_gateway: Open, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        version = await drafted(inside.merchant, ADYEN)
        before = await inside.merchant.charged()

        async def goes_to(account: str) -> bool:
            return bool((await inside.merchant.charged())["account"] == account)

        await published(inside.merchant, version["id"])
        await flow.eventually(lambda: goes_to("adyen"), "the version decides")
        await told(inside.merchant, "rollback", reason="approvals fell")
        await flow.eventually(lambda: goes_to("stripe"), "the configuration decides again")

    assert before["account"] == "stripe"


def test_the_command_line_lints_a_file_without_a_gateway(tmp_path: Path) -> None:
    file = tmp_path / "routing.json"

    def linted(text: str | None, *words: str) -> tuple[int, str]:
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        argv = [sys.executable, "-P", "-m", "gateway.cli", "routing", "lint", str(file), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout

    code, said = linted(json.dumps(SPLIT))
    assert (code, "error" in said) == (0, False)
    code, said = linted(json.dumps(SPLIT), "--account", "stripe")
    assert code == 1
    assert "error /rules/0/then/split/adyen " in said
    code, said = linted('{"default": {"priority": []}}')
    assert code == 1
    assert said.startswith("error /default/priority ")
    code, said = linted("{")
    assert (code, said.startswith("error / ")) == (1, True)
    assert linted(None) == (2, "")
    assert linted(" " * (1 << 20) + json.dumps(SPLIT)) == (2, "")


# --- A second person --------------------------------------------------------------------------------------------------


@pytest.fixture
def second_key(commands: Commands, database: Database) -> str:
    """Another secret key of the same merchant."""
    return commands(database, "keys", "create", "mer_dev")


async def test_a_publication_waits_for_another_key_where_a_second_person_is_asked_for(
    open_gateway: Open, database: Database, second_key: str, psps: Psps, checked: Checked
) -> None:
    async with open_gateway(routing_second_person=True) as inside:
        other = with_key(inside, second_key)
        version = await drafted(inside.merchant)
        asked = await published(inside.merchant, version["id"], status=202, percent=30)
        waiting, nothing = await overview(inside.merchant), await in_force_for(inside)
        own = await told(inside.merchant, f"publications/{asked['id']}/approve", status=403)
        approved = await told(other, f"publications/{asked['id']}/approve")
        again = await told(other, f"publications/{asked['id']}/approve", status=409)
        now, steps = await in_force_for(inside), await history(inside.merchant)

    assert (asked["kind"], asked["status"], nothing) == ("request", "awaiting_approval", {None})
    assert [each["id"] for each in waiting["awaiting_approval"]] == [asked["id"]]
    assert (own["code"], again["code"]) == ("forbidden", "routing_state")
    assert (approved["kind"], approved["percent"], approved["target"]) == ("publish", 30, asked["id"])
    assert (approved["published_by"], approved["approved_by"]) == ("sk_test_dev", second_key.split("_")[2])
    assert approved["reason"] == "a reason"
    assert now == {version["id"], None}
    assert [each["status"] for each in steps] == ["in_force", "approved"]
    assert [event["type"] for event in events(database)] == [
        "routing.approval_requested",
        "routing.version_published",
    ]
    await checked(database, psps)


async def test_a_request_expires_after_a_day_and_may_be_withdrawn_before(
    open_gateway: Open, database: Database, second_key: str
) -> None:
    async with open_gateway(routing_second_person=True) as inside:
        other = with_key(inside, second_key)
        version = await drafted(inside.merchant)
        old, taken_back = [await published(inside.merchant, version["id"], status=202) for _ in range(2)]
        await told(other, f"publications/{taken_back['id']}/withdraw", reason="not like this")
        database.rows("ALTER TABLE routing_publication DISABLE TRIGGER routing_publication_append_only")
        database.rows("UPDATE routing_publication SET published_at = published_at - interval '24 hours 1 second'")
        refused = [await told(other, f"publications/{each['id']}/approve", status=409) for each in (old, taken_back)]
        nothing, words = await in_force_for(inside), [each["status"] for each in await history(inside.merchant)]

    assert [each["code"] for each in refused] == ["routing_state"] * 2
    assert (nothing, words) == ({None}, ["done", "withdrawn", "expired"])


async def test_a_rollback_asks_for_no_second_person(open_gateway: Open, second_key: str) -> None:
    async with open_gateway() as inside:
        version = await drafted(inside.merchant)
        await published(inside.merchant, version["id"])
    async with open_gateway(routing_second_person=True) as inside:
        shown = await told(inside.merchant, "rollback", reason="approvals fell")
        now = await in_force_for(inside)

    assert (shown["kind"], now) == ("rollback", {None})


# --- Two at once ------------------------------------------------------------------------------------------------------


async def test_who_has_seen_something_else_in_force_is_refused(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        first, second = await drafted(inside.merchant), await drafted(inside.merchant, ADYEN)
        await published(inside.merchant, first["id"], expected=None)
        late = await published(inside.merchant, second["id"], status=409, expected=None)
        wrong = await told(inside.merchant, "rollback", reason="x", expected=second["id"], status=409)
        await published(inside.merchant, second["id"], expected=first["id"])
        now = await in_force_for(inside)

    assert (late["code"], late["in_force"], wrong["code"]) == ("routing_changed", first["id"], "routing_changed")
    assert now == {second["id"]}
    assert database.value("SELECT count(*) FROM routing_publication") == 2


async def test_those_who_publish_at_the_same_time_come_one_after_the_other(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        versions = [await drafted(inside.merchant, document) for document in (STRIPE, ADYEN, SPLIT)]
        answers = await asyncio.gather(*(published(inside.merchant, each["id"]) for each in versions))
        now, steps = await in_force_for(inside), await history(inside.merchant)

    assert sorted(answer["sequence"] for answer in answers) == [1, 2, 3]
    assert now == {steps[0]["config"]}
    assert {each["config"] for each in steps} == {each["id"] for each in versions}
    assert {event["data"]["sequence"] for event in events(database)} == {1, 2, 3}


async def test_of_those_who_have_seen_the_same_one_comes_first_and_the_others_are_refused(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        versions = [await drafted(inside.merchant, document) for document in (STRIPE, ADYEN, SPLIT)]
        mine = {"reason": "mine is better", "expected": None}
        answers = await asyncio.gather(
            *(inside.merchant.post(f"{CONFIGS}/{each['id']}/publish", mine) for each in versions)
        )

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"routing_changed"}
    assert stored(database)[1:] == (1, 4)
    assert len(events(database)) == 1


async def test_drafts_that_are_made_at_the_same_time_are_numbered(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        made = await asyncio.gather(*(drafted(inside.merchant) for _ in range(4)))

    assert sorted(each["number"] for each in made) == [1, 2, 3, 4]


# --- A process that dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["store", "publish"])
@pytest.mark.parametrize("side", ["before", "after"])
async def test_who_is_killed_has_done_all_or_nothing_and_the_same_key_finishes_it(
    processes: Processes, database: Database, step: str, side: str
) -> None:
    processes.migrate()
    server = processes.server().start()
    async with server.merchant() as merchant:
        version = await drafted(merchant)
    paths: Mapping[str, tuple[str, Mapping[str, Any]]] = {
        "store": (CONFIGS, {"document": ADYEN}),
        "publish": (f"{CONFIGS}/{version['id']}/publish", {"reason": "a reason"}),
    }
    path, fields = paths[step]
    dying = processes.server(GATEWAY_CRASH_AT=f"routing.{step}.{side}:1").start()
    async with dying.merchant() as merchant:
        with pytest.raises(httpx.TransportError):
            await merchant.post(path, fields, key="key-1")
    assert dying.process.wait() == -signal.SIGKILL
    left = (stored(database), len(events(database)))
    async with server.merchant() as merchant:
        answer = await merchant.retried(lambda: merchant.post(path, fields, key="key-1"))
        again = await merchant.post(path, fields, key="key-1")

    done = ((2, 0, 2), 0) if step == "store" else ((1, 1, 2), 1)
    assert left == (done if side == "after" else ((1, 0, 1), 0))
    assert (answer.status_code, again.content) == (201, answer.content)
    assert (stored(database), len(events(database))) == done


# --- Tenants ----------------------------------------------------------------------------------------------------------


async def _walk(merchant: Merchant, config: str, publication: str) -> list[tuple[int, Any]]:
    """Every route with these ids; of a problem all but the id of its request."""
    reason = {"reason": "x"}
    answers = [
        await merchant.get("/v1/routing"),
        await merchant.get("/v1/routing/history"),
        await merchant.get("/v1/routing/history", cursor=publication),
        await merchant.get(CONFIGS),
        await merchant.get(CONFIGS, cursor=config),
        await merchant.get(f"{CONFIGS}/{config}"),
        await merchant.post(f"{CONFIGS}/{config}/publish", reason),
        await merchant.post(f"{CONFIGS}/{config}/lint"),
        await merchant.get(f"{CONFIGS}/{config}/diff"),
        await merchant.post(f"{CONFIGS}/{config}/dry-run", {"amount": 1, "currency": "EUR"}),
        await merchant.post(f"/v1/routing/publications/{publication}/approve"),
        await merchant.post(f"/v1/routing/publications/{publication}/withdraw", reason),
        await merchant.post("/v1/routing/rollback", reason),
        await merchant.post("/v1/routing/rollback", {**reason, "expected": config}),
    ]
    return [(answer.status_code, answer.json() | {"request_id": None}) for answer in answers]


@pytest.mark.parametrize("other", ["merchant", "mode"])
async def test_another_merchants_routing_and_that_of_the_other_mode_are_not_there(
    open_gateway: Open, psps: Psps, database: Database, commands: Commands, other: str
) -> None:
    commands(database, "merchants", "create", "mer_other")
    words = ("mer_other",) if other == "merchant" else ("mer_dev", "--live")
    key = commands(database, "keys", "create", *words)
    accounts = (
        '[accounts.other_stripe]\nmerchant = "mer_other"\nprovider = "stripe"\n'
        f'base_url = "{psps.urls["stripe"]}"\napi_key_env = "FLOWS_STRIPE_API_KEY"\n'
    )
    async with open_gateway(more=accounts) as inside:
        version = await drafted(inside.merchant)
        await published(inside.merchant, version["id"])
        scheduled = await published(inside.merchant, version["id"], starts_at=later(3600))
        before = (stored(database), await overview(inside.merchant))
        stranger = with_key(inside, key)
        nothing = await _walk(stranger, f"rt_{NOBODYS}", f"rp_{NOBODYS}")
        theirs = await _walk(stranger, version["id"], scheduled["id"])
        after = (stored(database), await overview(inside.merchant))

    expected = [200] * 5 + [404] * 7 + [409] * 2
    assert [status for status, _ in nothing] == [status for status, _ in theirs] == expected
    assert theirs == nothing
    assert [answer["data"] for _, answer in theirs[1:5]] == [[]] * 4
    assert theirs[0][1]["in_force"] is None
    assert after == before


async def test_only_a_secret_key_says_anything_about_routing(
    open_gateway: Open, database: Database, commands: Commands
) -> None:
    publishable = commands(database, "keys", "create", "mer_dev", "--kind", "publishable")
    async with open_gateway() as inside:
        version = await drafted(inside.merchant)
        shown = await published(inside.merchant, version["id"], starts_at=later(3600))
        before = stored(database)
        for key, status in ((publishable, 403), ("sk_test_nobody", 401)):
            shop = with_key(inside, key)
            answers = [
                await shop.post(CONFIGS, {"document": STRIPE}),
                await shop.get("/v1/routing"),
                await shop.get("/v1/routing/history"),
                await shop.get(CONFIGS),
                await shop.get(f"{CONFIGS}/{version['id']}"),
                await shop.post(f"{CONFIGS}/{version['id']}/publish", {"reason": "x"}),
                await shop.post(f"{CONFIGS}/{version['id']}/lint"),
                await shop.get(f"{CONFIGS}/{version['id']}/diff"),
                await shop.post(f"{CONFIGS}/{version['id']}/dry-run"),
                await shop.post("/v1/routing/rollback", {"reason": "x"}),
                await shop.post(f"/v1/routing/publications/{shown['id']}/approve"),
                await shop.post(f"/v1/routing/publications/{shown['id']}/withdraw", {"reason": "x"}),
            ]
            assert [answer.status_code for answer in answers] == [status] * len(answers)
        after = stored(database)

    assert after == before


async def test_history_is_read_page_by_page(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        version = await drafted(inside.merchant)
        for _ in range(5):
            await published(inside.merchant, version["id"])
        found: list[int] = []
        cursor: dict[str, str] = {}
        while True:
            page = (await inside.merchant.get("/v1/routing/history", limit=2, **cursor)).json()
            found += [each["sequence"] for each in page["data"]]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}

    assert found == [5, 4, 3, 2, 1]
