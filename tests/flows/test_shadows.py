"""Shadows: each payment that a version has watched is counted once, and what it would have approved is told, or refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway import shadow
from gateway.ids import new_id

if TYPE_CHECKING:
    from tests.conftest import Commands, Database, Inside, Kit, Open, Psps

Json = dict[str, Any]
SOFT: Final = "4000000000000002"
CHALLENGED: Final = "4000000000003220"
IN_FORCE: Final[Json] = {"default": {"split": {"stripe": 50, "adyen": 50}}}
WATCHING: Final[Json] = {"default": {"priority": ["adyen", "stripe"]}}


async def watched(inside: Inside) -> Json:
    """What is told of the shadow in force, beside what is in force."""
    told: Json = (await inside.merchant.get("/v1/routing")).json()
    return told


async def test_every_payment_is_counted_once_whoever_counts(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    database.publish(IN_FORCE)
    version = database.publish(WATCHING, shadow=True)

    async with open_gateway() as inside:
        deps = inside.house.deps
        before = await watched(inside)
        for number in range(30):
            fields: Json = {} if number % 3 else {"payment_method_data": flow.card(SOFT)}
            await inside.merchant.charge(**fields)
        await inside.merchant.charge(routing={"account": "stripe"})
        at_once = await asyncio.gather(*(shadow.count(deps) for _ in range(3)))
        again = await shadow.count(deps)
        now = await watched(inside)
        (listed,) = (await inside.merchant.get("/v1/routing/shadow")).json()["data"]
    # A payment whose first account declines goes on to the other one: its first attempt is what is watched.
    first = database.rows("SELECT account, evidence_word = 'approved' AS good FROM operation WHERE decision ? 'shadow'")
    rows = database.rows("SELECT * FROM routing_shadow")

    assert (before["shadow"]["config"], before["watched"]["payments"]) == (version, 0)
    assert before["watched"]["agreement"] is before["watched"]["since"] is None
    assert (len(first), sum(at_once), again) == (30, 30, 0)
    same = sum(row["account"] == "adyen" for row in first)
    assert (now["watched"]["payments"], now["watched"]["same_account"]) == (30, same)
    agreement = now["watched"]["agreement"]
    assert agreement["value"] == pytest.approx(same / 30, abs=1e-6)
    assert agreement["low"] < agreement["value"] < agreement["high"]
    assert now["watched"]["since"] < now["watched"]["until"]
    # Half of the payments were sent to adyen by chance, and stand for the others.
    assert {(row["level"], row["moved"]) for row in rows} == {(0, True)}
    assert sum(row["settled"] for row in rows) == 30
    assert sum(row["weight"] for row in rows) == 2 * same
    assert sum(row["weight_approved"] for row in rows) == 2 * sum(
        row["good"] for row in first if row["account"] == "adyen"
    )
    assert (listed["config"], listed["watching"], listed["payments"]) == (version, True, 30)
    assert listed["authorization_rate"]["draft"] is None
    assert listed["authorization_rate"]["refused"]["reason"] == "too_few"
    assert listed["sentence"].startswith(f"It has watched 30 payments, and would have sent {same} of them")
    assert "No rate is given." in listed["sentence"]


async def test_what_has_not_ended_waits_and_what_says_nothing_is_in_no_rate(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    database.publish({"default": {"priority": ["stripe"]}})
    database.publish(WATCHING, shadow=True)

    async with open_gateway() as inside:
        deps = inside.house.deps
        challenged = (await inside.merchant.charge(payment_method_data=flow.card(CHALLENGED))).json()
        waiting = await shadow.count(deps)
        canceled = await inside.merchant.post(f"/v1/payments/{challenged['id']}/cancel")
        ended = await shadow.count(deps)
        card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "cvc": "737"}
        verified = {"type": "card", "card": card, "verify": True, "currency": "EUR"}
        verification = await inside.merchant.post("/v1/payment_methods", verified)
        await inside.merchant.charged()
        approved = await shadow.count(deps)
        told = await watched(inside)
        (listed,) = (await inside.merchant.get("/v1/routing/shadow")).json()["data"]

    assert challenged["status"] == "requires_action"
    assert canceled.status_code == 200, canceled.text
    assert verification.status_code == 201, verification.text
    assert verification.json()["verification"]["status"] == "succeeded"
    assert (waiting, ended, approved) == (0, 1, 1)
    assert (told["watched"]["payments"], told["watched"]["same_account"]) == (2, 0)
    # Nobody has ever sent such a payment to adyen, so nothing is known of it.
    assert listed["authorization_rate"]["payments"] == 1
    assert listed["authorization_rate"]["not_covered"] == 1.0
    assert listed["authorization_rate"]["refused"]["reason"] == "not_covered"
    assert "adyen" in listed["authorization_rate"]["refused"]["detail"]


async def test_a_record_that_does_not_say_by_which_chance_is_watched_and_weighs_nothing(
    open_gateway: Open, database: Database
) -> None:
    database.publish(IN_FORCE)
    database.publish(WATCHING, shadow=True)

    async with open_gateway() as inside:
        for _ in range(3):
            await inside.merchant.charged()
        broken = (
            """UPDATE operation SET decision = {} WHERE id = (SELECT id FROM operation ORDER BY id OFFSET {} LIMIT 1)"""
        )
        for at, decision in enumerate(
            ("decision - 'candidates'", "jsonb_set(decision, '{shadow,candidates}', '[{\"propensity\": 1}]')")
        ):
            database.rows(broken.format(decision, at))
        counted = await shadow.count(inside.house.deps)
        (listed,) = (await inside.merchant.get("/v1/routing/shadow")).json()["data"]

    assert counted == listed["payments"] == 3
    assert listed["authorization_rate"]["payments"] == 1


def counted_before(database: Database, version: str, payments: int) -> None:
    """What earlier runs of the worker have counted: half of all was asked where the version asks, and nine of ten approved there."""
    for weight, approved in ((2.0, payments * 9 // 20), (0.0, payments * 8 // 20)):
        database.rows(
            """INSERT INTO routing_shadow AS r VALUES ('mer_dev', false, %(version)s, '2026-11-21', true, 0, %(half)s, %(same)s,
            %(half)s, %(approved)s, %(half)s * %(w)s, %(half)s * %(w)s ^ 2, %(approved)s * %(w)s, %(approved)s * %(w)s ^ 2, %(at)s, %(at)s)
            ON CONFLICT (merchant_id, livemode, version_id, day, moved, level) DO UPDATE SET payments = r.payments + excluded.payments,
            settled = r.settled + excluded.settled, approved = r.approved + excluded.approved""",
            version=version,
            half=payments // 2,
            same=payments // 2 if weight else 0,
            approved=approved,
            w=weight,
            at=datetime(2026, 11, 21, tzinfo=UTC),
        )


async def test_versions_are_listed_newest_first_a_page_at_a_time(
    open_gateway: Open, database: Database, commands: Commands
) -> None:
    database.publish(IN_FORCE)
    versions = [database.publish(WATCHING, shadow=True) for _ in range(3)]
    for version in versions:
        counted_before(database, version, 4000)

    async with open_gateway() as inside:
        page = (await inside.merchant.get("/v1/routing/shadow", limit=2)).json()
        rest = (await inside.merchant.get("/v1/routing/shadow", cursor=page["next_cursor"])).json()
        bad = await inside.merchant.get("/v1/routing/shadow", cursor="rt_1")
        told = await watched(inside)
    lines = commands(database, "routing", "shadow", "--merchant", "mer_dev").splitlines()
    shown = [*page["data"], *rest["data"]]

    assert [each["config"] for each in shown] == versions[::-1]
    assert [each["watching"] for each in shown] == [True, False, False]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert (bad.status_code, bad.json()["param"]) == (422, "cursor")
    rate = shown[0]["authorization_rate"]
    assert (rate["recorded"]["value"], rate["draft"]["value"]) == (pytest.approx(0.85), pytest.approx(0.9))
    assert rate["draft"]["low"] < 0.9 < rate["draft"]["high"]
    assert rate["difference"]["low"] > 0
    assert told["watched"]["agreement"]["value"] == 0.5
    assert lines[0] == f"{versions[2]}  watching  {shown[0]['sentence']}"
    assert lines[1:] == [f"{each['config']}  {each['sentence']}" for each in shown[1:]]


async def test_no_shadow_is_told_as_none(open_gateway: Open, database: Database, commands: Commands) -> None:
    async with open_gateway() as inside:
        told = await watched(inside)
        listed = (await inside.merchant.get("/v1/routing/shadow")).json()["data"]
        for asked in ({"limit": 0}, {"cursor": new_id("rp")}, {"config": "rt_1"}):
            answer = await inside.merchant.get("/v1/routing/shadow", **asked)
            assert answer.status_code == 422, answer.text
    lines = commands(database, "routing", "shadow", "--merchant", "mer_dev")

    assert (told["shadow"], told["watched"]) == (None, None)
    assert (listed, lines) == ([], "")
