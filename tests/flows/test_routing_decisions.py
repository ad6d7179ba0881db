"""Where each payment goes, and that the record says why: documents in force, at real sandboxes, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from routing import document as documents
from routing import rules
from routing.decision import Decision

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Merchant, Open, Processes, Psps

ALL: Final = ("stripe", "adyen", "neutral")
AMEX: Final = "378282246310005"
MASTERCARD: Final = "5555555555554444"
SOFT: Final = "4000000000000002"
Json = dict[str, Any]


# --- Parts ------------------------------------------------------------------------------------------------------------


def to(*accounts: str) -> Json:
    return {"priority": list(accounts)}


def when(then: Json, **conditions: Any) -> Json:
    """A document of one rule beside a default that goes elsewhere."""
    return {"rules": [{"name": "special", "when": conditions, "then": then}], "default": to("stripe")}


async def asked_of(merchant: Merchant, payment: Json) -> Json:
    """What the API says of a payment's way."""
    answer = await merchant.get(f"/v1/payments/{payment['id']}/routing")
    assert answer.status_code == 200, answer.text
    routing: Json = answer.json()
    return routing


async def decision_of(merchant: Merchant, payment: Json) -> Json:
    (attempt,) = (await asked_of(merchant, payment))["attempts"]
    decision: Json = attempt["decision"]
    assert attempt["sentence"] == decision["sentence"]
    return decision


def records(database: Database) -> list[Json]:
    return [
        row["decision"] for row in database.rows("SELECT decision FROM operation WHERE kind = 'authorize' ORDER BY id")
    ]


def stood_in(metrics: str, dep: str) -> int:
    (line,) = [
        line for line in metrics.splitlines() if line.startswith(f'dependency_policy_applied_total{{dep="{dep}"')
    ]
    return int(float(line.rpartition(" ")[2]))


# --- Which account ----------------------------------------------------------------------------------------------------


def _card(number: str) -> Json:
    return {
        "payment_method_data": {
            "type": "card",
            "card": {"number": number, "exp_month": 12, "exp_year": 2030, "cvc": "1234"},
        }
    }


FITTING: Final[dict[str, tuple[Json, Json, Json]]] = {
    "currency": ({"currency": "GBP"}, {"currency": "GBP"}, {"currency": "EUR"}),
    "amount": ({"amount": {"min": 5000, "currency": "EUR"}}, {"amount": 5000}, {"amount": 4999}),
    "brand": ({"brand": ["amex", "mastercard"]}, _card(MASTERCARD), {}),
    "bin": ({"bin": "424242"}, {}, _card(MASTERCARD)),
    "bin of eight": ({"bin": "55555555"}, _card(MASTERCARD), {}),
    "metadata": ({"metadata": {"shop": "outlet"}}, {"metadata": {"shop": "outlet"}}, {"metadata": {"shop": "main"}}),
    "country": (
        {"country": "FR"},
        {"billing_details": {"address": {"country": "FR"}}},
        {"billing_details": {"address": {"country": "DE"}}},
    ),
    "initiator": ({"initiator": "merchant"}, {"off_session": True}, {"off_session": False}),
    "3-D Secure": ({"three_d_secure": "required"}, {"three_d_secure": "required"}, {}),
}


@pytest.mark.parametrize("name", FITTING)
async def test_a_rule_sends_what_fits_it_to_its_account_and_nothing_else(
    name: str, open_gateway: Open, database: Database, psps: Psps
) -> None:
    conditions, fits, fits_not = FITTING[name]
    version = database.publish(when(to("adyen"), **conditions))

    async with open_gateway() as inside:
        charged = [(await inside.merchant.charge(**fields)).json() for fields in (fits, fits_not)]
        first, other = [await decision_of(inside.merchant, payment) for payment in charged]

    assert [payment["account"] for payment in charged] == ["adyen", "stripe"]
    assert (first["version"], first["rule"], first["kind"], first["route"]) == (
        version,
        "special",
        "priority",
        ["adyen"],
    )
    assert (other["version"], other["rule"], other["route"]) == (version, "default", ["stripe"])
    assert [len(psps.requests(psp, "authorize")) for psp in ("adyen", "stripe")] == [1, 1]


async def test_a_stored_card_is_known_by_what_its_provider_has_told(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    database.publish(when(to("adyen"), brand="visa"))

    async with open_gateway() as inside:
        stored = (await inside.merchant.post("/v1/payment_methods", flow.card())).json()
        payment = await inside.merchant.charged(payment_method=stored["id"], payment_method_data=None)
        decision = await decision_of(inside.merchant, payment)

    assert payment["account"] == "adyen"
    assert (decision["facts"]["brand"], decision["facts"]["bin"]) == ("visa", "42424242")


async def test_without_a_document_the_order_of_the_configuration_decides_and_says_so(open_gateway: Open) -> None:
    async with open_gateway(("adyen", "stripe")) as inside:
        payment = await inside.merchant.charged()
        decision = await decision_of(inside.merchant, payment)

    assert payment["account"] == "adyen"
    assert (decision["kind"], decision["version"], decision["rule"]) == ("static", None, None)
    assert decision["route"] == ["adyen", "stripe"]
    assert "no routing document is in force" in decision["sentence"]


async def test_the_account_that_a_request_names_is_asked_whatever_the_document_says(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    version = database.publish({"default": to("stripe")})

    async with open_gateway() as inside:
        payment = await inside.merchant.charged(routing={"account": "adyen"})
        decision = await decision_of(inside.merchant, payment)
        declined = await inside.merchant.charge(routing={"account": "stripe"}, payment_method_data=flow.card(SOFT))

    assert payment["account"] == "adyen"
    assert (decision["kind"], decision["mode"], decision["version"]) == ("pinned", "forced", version)
    assert {each["account"]: each["why_not"] for each in decision["candidates"]} == {
        "adyen": None,
        "stripe": "not_pinned",
    }
    assert (declined.status_code, declined.json()["attempt_count"]) == (402, 1)


async def test_an_account_that_cannot_take_the_payment_is_passed_over_with_the_reason(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    database.publish({"default": to("neutral", "stripe", "adyen")})
    token = {"type": "token", "tokens": {"adyen": "8415999999999999", "stripe": "pm_card_visa"}}

    async with open_gateway(ALL) as inside:
        payment = await inside.merchant.charged(payment_method_data=token)
        decision = await decision_of(inside.merchant, payment)

    assert payment["account"] == "stripe"
    assert decision["route"] == ["stripe", "adyen"]
    (neutral,) = [each for each in decision["candidates"] if each["account"] == "neutral"]
    assert (neutral["eligible"], neutral["ineligible_reason"], neutral["why_not"]) == (False, "no_token", "ineligible")
    assert "neutral (no_token)" in decision["sentence"]
    assert not psps.requests("neutral")


async def test_a_document_that_offers_nobody_who_can_take_a_payment_does_not_stop_it(
    open_gateway: Open, database: Database
) -> None:
    database.publish({"default": to("elsewhere")})

    async with open_gateway() as inside:
        payment = await inside.merchant.charged()
        decision = await decision_of(inside.merchant, payment)

    assert (payment["account"], decision["kind"]) == ("stripe", "static")
    assert decision["constraint"]
    (elsewhere,) = [each for each in decision["candidates"] if each["account"] == "elsewhere"] or [None]
    assert elsewhere is None or elsewhere["ineligible_reason"] == "unknown_account"


async def test_where_nobody_can_take_it_the_answer_names_every_account(open_gateway: Open, database: Database) -> None:
    database.publish({"default": to("adyen", "stripe")})

    async with open_gateway(ALL) as inside:
        answer = await inside.merchant.charge(payment_method_data={"type": "token", "tokens": {"gone": "tok_1"}})

    assert (answer.status_code, answer.json()["code"]) == (422, "no_eligible_account")
    assert answer.json()["accounts"] == dict.fromkeys(ALL, "no_token")
    assert database.value("SELECT count(*) FROM operation") == 0


# --- Splits -----------------------------------------------------------------------------------------------------------

SPLIT: Final = {"default": {"split": {"stripe": 50, "adyen": 50}}}


async def test_a_split_gives_each_payment_one_arm_and_keeps_it_whenever_it_is_asked(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    """A payment of which certainly nothing happened starts over: with a new decision, and the same arm."""
    version = database.publish(SPLIT)

    async with open_gateway(unreachable=("stripe", "adyen")) as inside:
        parked = [await inside.merchant.charge(key=f"order-{n}") for n in range(12)]
    async with open_gateway() as inside:
        charged = [(await inside.merchant.charge(key=f"order-{n}")).json() for n in range(12)]
        again = [(await inside.merchant.charge(key=f"order-{n}")).json() for n in range(12)]
        routings = [await asked_of(inside.merchant, payment) for payment in charged]

    assert {answer.status_code for answer in parked} == {503}
    assert again == charged
    for routing, payment in zip(routings, charged, strict=True):
        decisions = [each["decision"] for each in routing["attempts"] if each["decision"] is not None]
        assert [each["round"] for each in routing["attempts"]] == [1, 1, 2]
        assert [decision["route"][0] for decision in decisions] == [payment["account"]] * 2
        assert {(each["version"], each["kind"]) for each in decisions} == {(version, "split")}
        assert len({decision["seed"] for decision in decisions}) == 1
    assert set(Counter(payment["account"] for payment in charged)) == {"stripe", "adyen"}
    assert len(psps.charges()) == 12


# --- Cascades ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "rule"), [("declined", "code_table"), ("not_processed", "not_processed")])
async def test_an_attempt_after_the_first_says_which_rule_allowed_it(
    how: str, rule: str, open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    database.publish({"default": to("stripe", "adyen")})
    unreachable = ("stripe",) if how == "not_processed" else ()

    async with open_gateway(("adyen", "stripe"), unreachable=unreachable) as inside:
        payment = await inside.merchant.charged(
            payment_method_data=flow.card(SOFT if how == "declined" else "4242424242424242")
        )
        first, second = (await asked_of(inside.merchant, payment))["attempts"]

    assert (first["account"], second["account"], payment["account"]) == ("stripe", "adyen", "adyen")
    assert first["cascade"] is None
    assert second["decision"] is None
    cascade = second["cascade"]
    assert (cascade["after"], cascade["decided_by"]) == (first["attempt"], first["attempt"])
    assert (cascade["outcome"], second["allowed_by"], first["allowed_by"]) == (how, rule, None)
    assert cascade["code"] == ("issuer_generic" if how == "declined" else records(database)[1]["code"])
    said = "declined it (issuer_generic)" if how == "declined" else "did not process it"
    assert second["sentence"].startswith(f"adyen is asked because stripe {said}")


async def test_a_new_round_has_a_decision_of_its_own(open_gateway: Open, database: Database, flow: type[Kit]) -> None:
    database.publish(when(to("adyen"), brand="mastercard"))

    async with open_gateway() as inside:
        declined = (await inside.merchant.charge(payment_method_data=flow.card(SOFT))).json()
        path = f"/v1/payments/{declined['id']}/confirm"
        paid = await inside.merchant.post(path, {"payment_method_data": flow.card(MASTERCARD)})
        first, second = (await asked_of(inside.merchant, declined))["attempts"]

    assert (paid.status_code, paid.json()["account"]) == (200, "adyen"), paid.text
    assert [each["decision"]["rule"] for each in (first, second)] == ["default", "special"]
    assert [each["decision"]["facts"]["brand"] for each in (first, second)] == ["visa", "mastercard"]


# --- What is in force -------------------------------------------------------------------------------------------------


async def test_what_is_published_is_in_force_within_two_seconds(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        before = await inside.merchant.charged()
        version = database.publish({"default": to("adyen")})
        await asyncio.sleep(2)
        after = await inside.merchant.charged()
        decision = await decision_of(inside.merchant, after)

    assert [before["account"], after["account"]] == ["stripe", "adyen"]
    assert decision["version"] == version


async def test_a_scheduled_publication_starts_by_itself_without_another_reading(
    open_gateway: Open, database: Database
) -> None:
    old = database.publish({"default": to("stripe")})
    starts = datetime.now(UTC) + timedelta(hours=1)
    new = database.publish({"default": to("adyen")}, starts_at=starts)

    async with open_gateway() as inside:
        in_force = inside.house.deps.in_force
        await in_force.read(datetime.now(UTC))
        found = [
            in_force.of("pay_1", "mer_dev", at, livemode=False).version
            for at in (starts - timedelta(seconds=1), starts, starts + timedelta(seconds=1))
        ]
        live = in_force.of("pay_1", "mer_dev", starts, livemode=True)

    assert found == [old, new, new]
    assert live.version is None


async def test_a_staged_version_takes_its_share_and_the_one_before_keeps_the_rest(
    open_gateway: Open, database: Database
) -> None:
    old = database.publish({"default": to("stripe")})
    new = database.publish({"default": to("adyen")}, percent=50)

    async with open_gateway() as inside:
        charged = [await inside.merchant.charged() for _ in range(16)]
        decided = [(await decision_of(inside.merchant, payment))["version"] for payment in charged]

    assert {(payment["account"], version) for payment, version in zip(charged, decided, strict=True)} == {
        ("stripe", old),
        ("adyen", new),
    }


async def test_a_shadow_decides_nothing_and_says_what_it_would_have_done(
    open_gateway: Open, database: Database
) -> None:
    version = database.publish({"default": to("stripe")})
    shadow = database.publish({"default": to("adyen")}, shadow=True)

    async with open_gateway() as inside:
        payment = await inside.merchant.charged()
        decision = await decision_of(inside.merchant, payment)
        database.rows(
            """UPDATE operation SET decision = jsonb_set(decision, '{shadow}', '{"kind": "of another release"}')"""
        )
        unreadable = await decision_of(inside.merchant, payment)

    assert (payment["account"], decision["version"]) == ("stripe", version)
    assert (decision["shadow"]["version"], decision["shadow"]["route"]) == (shadow, ["adyen"])
    assert decision["shadow"]["same_account"] is False
    assert unreadable["shadow"]["sentence"].endswith("in a form that this release cannot read.")
    assert {**unreadable, "shadow": None} == {**decision, "shadow": None}


BROKEN: Final[dict[str, Any]] = {
    "no document": [],
    "of another release": {"default": {"oracle": ["adyen"]}},
    "a rule without a condition": {"rules": [{"name": "all", "when": {}, "then": to("adyen")}], "default": to("adyen")},
    "no default": {"rules": []},
    "text": "adyen",
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_document_that_cannot_be_read_stops_no_payment(
    broken: str, open_gateway: Open, database: Database
) -> None:
    """The last good version decides, and without one the configuration; both are told and counted."""
    only = database.publish(BROKEN[broken])

    async with open_gateway() as inside:
        static = await inside.merchant.charged()
        told = await decision_of(inside.merchant, static)
        counted = stood_in((await inside.merchant.get("/metrics")).text, "routing_document")

    assert (static["account"], told["kind"], told["version"]) == ("stripe", "static", None)
    assert told["unreadable_versions"] == [only]
    assert f"Version {only} could not be read" in told["sentence"]
    assert counted == 1

    good = database.publish({"default": to("adyen")})
    bad = database.publish(BROKEN[broken])
    async with open_gateway() as inside:
        payment = await inside.merchant.charged()
        decision = await decision_of(inside.merchant, payment)

    assert (payment["account"], decision["version"], decision["unreadable_versions"]) == ("adyen", good, [bad])


async def test_a_publication_that_this_release_cannot_read_is_passed_over(
    open_gateway: Open, database: Database
) -> None:
    """What is newer than this release, or was damaged, leaves in force what was; what comes after it counts again."""
    good = database.publish({"default": to("adyen")})
    database.rows("ALTER TABLE routing_publication DROP CONSTRAINT routing_publication_kind")
    database.publish({"default": to("stripe")}, kind="of another release")

    async with open_gateway() as inside:
        before = await decision_of(inside.merchant, await inside.merchant.charged())
        counted = stood_in((await inside.merchant.get("/metrics")).text, "routing_document")
        newest = database.publish({"default": to("stripe")})
        await asyncio.sleep(2)
        after = await decision_of(inside.merchant, await inside.merchant.charged())

    assert (before["version"], before["route"], before["unreadable_versions"]) == (good, ["adyen"], [])
    assert (after["version"], after["route"]) == (newest, ["stripe"])
    assert counted == 1


async def test_a_version_of_another_merchant_decides_nothing_whoever_has_published_it(
    open_gateway: Open, database: Database
) -> None:
    theirs = database.publish({"default": to("adyen")})
    database.rows("SET session_replication_role = replica; UPDATE routing_version SET merchant_id = 'mer_other'")

    async with open_gateway() as inside:
        payment = await inside.merchant.charged()
        decision = await decision_of(inside.merchant, payment)

    assert (payment["account"], decision["kind"], decision["unreadable_versions"]) == ("stripe", "static", [theirs])


async def test_a_rollback_and_a_withdrawal_are_in_force_like_a_publication(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    """Through the API, as a payments team does it."""
    async with open_gateway() as inside:

        async def post(path: str, **fields: Any) -> Json:
            answer = await inside.merchant.post(f"/v1/routing/{path}", fields)
            assert answer.status_code == 201, answer.text
            made: Json = answer.json()
            return made

        async def goes_to(*accounts: str) -> str | None:
            decision: Json = {}

            async def goes() -> bool:
                nonlocal decision
                decision = await decision_of(inside.merchant, await inside.merchant.charged())
                return tuple(decision["route"]) == accounts

            await flow.eventually(goes, f"payments go to {accounts}")
            version: str | None = decision["version"]
            return version

        first, second = [
            (await post("configs", document={"default": to(*accounts)}))["id"]
            for accounts in (("adyen", "stripe"), ("adyen",))
        ]
        await post(f"configs/{first}/publish", reason="a test")
        by = [await goes_to("adyen", "stripe")]
        await post(f"configs/{second}/publish", reason="a test")
        by.append(await goes_to("adyen"))
        await post("rollback", reason="a test")
        by.append(await goes_to("adyen", "stripe"))
        await post("rollback", reason="a test")
        by.append(await goes_to("stripe", "adyen"))

    assert by == [first, second, first, None]


# --- The record -------------------------------------------------------------------------------------------------------

REPLAYED: Final[dict[str, Any]] = {
    "static": None,
    "priority": {"default": to("adyen", "stripe")},
    "split": SPLIT,
    "pinned": {"default": to("adyen")},
    "fallback": {"rules": [{"name": "gone", "when": {"currency": "EUR"}, "then": to("gone")}], "default": to("adyen")},
    "a strategy": {"default": {"strategy": "adaptive", "accounts": ["adyen", "stripe"]}},
}


@pytest.mark.parametrize("name", REPLAYED)
async def test_the_record_replayed_gives_the_same_decision(name: str, open_gateway: Open, database: Database) -> None:
    document = REPLAYED[name]
    version = None if document is None else database.publish(document)

    async with open_gateway(ALL) as inside:
        for number in range(4):
            pin = {"routing": {"account": "stripe"}} if name == "pinned" else {}
            await inside.merchant.charged(amount=1000 + number, metadata={"order": str(number)}, **pin)
    decided = [Decision.read(record) for record in records(database)]

    assert len(decided) == 4
    read = None if document is None else documents.read(document)
    for decision in decided:
        assert decision.version == version
        assert rules.replayed(decision, read) == decision


async def test_an_attempt_from_before_there_were_records_says_so(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged()
        database.rows("UPDATE operation SET decision = NULL")
        (old,) = (await asked_of(inside.merchant, payment))["attempts"]
        database.rows("""UPDATE operation SET decision = '{"kind": "of another release"}'""")
        (strange,) = (await asked_of(inside.merchant, payment))["attempts"]

    assert (old["decision"], old["cascade"]) == (None, None)
    assert "older than such records" in old["sentence"]
    assert "cannot read" in strange["sentence"]


async def test_a_payment_that_nobody_was_asked_for_has_no_way_to_explain(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        created = (await inside.merchant.charge(confirm=False)).json()
        routing = await asked_of(inside.merchant, created)
        nobody = await inside.merchant.http.get(f"/v1/payments/{created['id']}/routing")
        missing = await inside.merchant.get(f"/v1/payments/pay_{'0' * 32}/routing")

    assert (routing["attempts"], routing["route"]) == ([], [])
    assert (nobody.status_code, missing.status_code) == (401, 404)


async def test_a_record_keeps_no_more_of_a_card_number_than_may_be_kept(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        for number in ("4242424242424242", AMEX):
            await inside.merchant.charge(**_card(number))

    assert [record["facts"]["bin"] for record in records(database)] == ["42424242", "378282"]


async def test_a_killed_process_leaves_the_decision_as_it_was_made(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    """What is published after the first commit changes nothing about an attempt that was opened before."""
    database.publish({"default": to("stripe", "adyen")})
    psps.fault("stripe", "authorize", "latency", latency_ms=1500)
    server = processes.server().start()

    async with server.merchant() as merchant:
        waiting = asyncio.create_task(merchant.charge(key="order-1", payment_method_data=flow.card(SOFT)))
        await flow.eventually(lambda: len(psps.requests("stripe", "authorize")) == 1, "the request at Stripe")
        (before,) = records(database)
        server.process.kill()
        with contextlib.suppress(httpx.TransportError):
            await waiting
        database.publish({"default": to("adyen")})
        server.start()
        answer = await merchant.retried(lambda: merchant.charge(key="order-1", payment_method_data=flow.card(SOFT)))
        routing = await asked_of(merchant, answer.json())

    first, second = records(database)
    assert first == before
    assert second["decided_by"] == routing["attempts"][0]["attempt"]
    assert [each["account"] for each in routing["attempts"]] == ["stripe", "adyen"]
    assert routing["route"] == ["stripe", "adyen"]
    assert len({entry["key"] for entry in psps.requests("stripe", "authorize")}) == 1
    assert (answer.status_code, answer.json()["account"]) == (201, "adyen")
