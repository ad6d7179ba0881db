"""Strategies beside their holdouts: each payment is counted once, in the arm that its first attempt was decided by."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway import uplift

if TYPE_CHECKING:
    from tests.conftest import Commands, Database, Inside, Kit, Open, Psps

Json = dict[str, Any]
DOCUMENT: Final[Json] = {
    "rules": [{"name": "small", "when": {"amount": {"max": 99, "currency": "EUR"}}, "then": {"priority": ["stripe"]}}],
    "default": {"strategy": "weighted", "accounts": ["stripe", "adyen"]},
    "holdout": {"percent": 10, "accounts": ["adyen"], "rollback": True},
}
SOFT: Final = "4000000000000002"
CHALLENGED: Final = "4000000000003220"


async def reported(inside: Inside) -> list[Json]:
    answer = await inside.merchant.get("/v1/routing/uplift")
    assert answer.status_code == 200, answer.text
    data: list[Json] = answer.json()["data"]
    return data


def arms(database: Database) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    return {
        (row["arm"], row["currency"]): (row["payments"], row["approved"], row["amount"], row["amount_approved"])
        for row in database.rows("SELECT * FROM routing_arm")
    }


def true_arms(database: Database) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    """What the payments themselves say, of those that have ended."""
    rows = database.rows(
        """SELECT o.decision->>'kind' AS arm, p.currency, p.amount, p.amount_captured > 0 AS approved
        FROM payment p JOIN operation o ON o.payment_id = p.id AND o.seq = 1
        WHERE p.status IN ('succeeded', 'requires_payment_method') AND o.decision->>'kind' IN ('strategy', 'holdout')"""
    )
    found: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        counted = found.setdefault((row["arm"], row["currency"]), Counter())
        counted["payments"] += 1
        counted["amount"] += row["amount"]
        if row["approved"]:
            counted["approved"] += 1
            counted["amount_approved"] += row["amount"]
    return {
        key: (each["payments"], each["approved"], each["amount"], each["amount_approved"])
        for key, each in found.items()
    }


def counted_before(database: Database, version: str, arm: str, payments: int, approved: int, **of: Any) -> None:
    """What earlier runs of the worker have counted."""
    row = {"merchant": "mer_dev", "strategy": "weighted", "currency": "EUR"} | of
    database.rows(
        """INSERT INTO routing_arm VALUES (%(merchant)s, false, %(version)s, %(strategy)s, %(arm)s, %(currency)s, %(payments)s,
        %(approved)s, %(payments)s * 100, %(approved)s * 100, %(at)s, %(at)s)""",
        version=version,
        arm=arm,
        payments=payments,
        approved=approved,
        at=datetime(2026, 11, 21, tzinfo=UTC),
        **row,
    )


async def test_every_payment_is_counted_once_in_its_arm_whoever_counts(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    version = database.publish(DOCUMENT)
    declines: Json = {"payment_method_data": flow.card(SOFT)}

    async with open_gateway() as inside:
        deps = inside.house.deps
        kinds: Counter[str] = Counter()
        for number in range(300):
            fields = {0: {}, 1: declines, 2: {"currency": "GBP", "amount": 700}}[number % 3]
            await inside.merchant.charge(**fields)
            kinds = Counter(
                row["kind"] for row in database.rows("SELECT decision->>'kind' AS kind FROM operation WHERE seq = 1")
            )
            if number >= 30 and kinds["holdout"] >= 3:
                break
        await inside.merchant.charge(amount=50)  # a rule decides it, and no strategy
        pinned = await inside.merchant.charge(routing={"account": "stripe"})
        at_once = await asyncio.gather(*(uplift.count(deps) for _ in range(3)))
        again = await uplift.count(deps)
        counted = arms(database)
        (shown,) = await reported(inside)

    assert pinned.status_code == 201
    assert sum(at_once) == kinds["strategy"] + kinds["holdout"]
    assert again == 0
    assert counted == true_arms(database)
    assert {arm for arm, _ in counted} == {"strategy", "holdout"}
    assert (shown["config"], shown["in_force"], shown["verdict"]) == (version, True, "too_few")
    assert shown["holdout"]["payments"] == kinds["holdout"]
    assert [each["currency"] for each in shown["strategy"]["amounts"]] == ["EUR", "GBP"]
    assert [each["name"] for each in shown["by_strategy"]] == ["weighted"]


async def test_what_has_not_ended_waits_and_another_card_is_nobodys(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    database.publish({"default": {"strategy": "weighted", "accounts": ["stripe"]}})

    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        challenged = (await inside.merchant.charge(payment_method_data=flow.card(CHALLENGED))).json()
        psps.fault("stripe", "authorize", "garbage")
        unknown = (await inside.merchant.charge()).json()
        waiting = await uplift.count(deps)
        visited = await psps.visit(challenged, "succeeded")
        await inside.merchant.come_back(visited)
        paid = await uplift.count(deps), arms(database)
        database.let_time_pass()
        await inside.work()
        settled = await uplift.count(deps), arms(database)
        declined = (await inside.merchant.charge(payment_method_data=flow.card(SOFT))).json()
        lost = await uplift.count(deps), arms(database)
        answer = await inside.merchant.post(
            f"/v1/payments/{declined['id']}/confirm", {"payment_method_data": flow.card()}
        )
        then = await uplift.count(deps), arms(database)

    assert (challenged["status"], unknown["status"], answer.json()["status"]) == (
        "requires_action",
        "processing",
        "succeeded",
    )
    assert waiting == 0
    assert paid == (1, {("strategy", "EUR"): (1, 1, 1999, 1999)})
    assert settled == (1, {("strategy", "EUR"): (2, 2, 3998, 3998)})
    assert lost == (1, {("strategy", "EUR"): (3, 2, 5997, 3998)})
    assert then == (0, lost[1])


async def test_a_hold_that_is_released_before_it_is_counted_was_approved(
    open_gateway: Open, database: Database
) -> None:
    database.publish({"default": {"strategy": "weighted", "accounts": ["stripe"]}})

    async with open_gateway(("stripe",)) as inside:
        held = await inside.merchant.charged(capture_method="manual")
        canceled = await inside.merchant.post(f"/v1/payments/{held['id']}/cancel")
        await uplift.count(inside.house.deps)

    assert canceled.json()["status"] == "canceled"
    assert arms(database) == {("strategy", "EUR"): (1, 1, 1999, 1999)}


@pytest.mark.parametrize(
    ("strategy", "holdout", "verdict", "begins"),
    [
        ((9_000, 8_100), (299, 100), "too_few", "Nothing can be said yet: 9000 payments went by the strategy and 299 "),
        (
            (9_000, 8_100),
            (500, 440),
            "open",
            "It is open whether the strategy earns its place: it approves 2.00 points more",
        ),
        ((9_000, 8_100), (1_000, 700), "strategy_wins", "The strategy earns its place: it approves 20.00 points more"),
        ((9_000, 6_300), (1_000, 900), "holdout_wins", "The strategy costs approvals: it approves 20.00 points less"),
    ],
)
async def test_the_report_says_what_may_be_said(
    open_gateway: Open,
    database: Database,
    strategy: tuple[int, int],
    holdout: tuple[int, int],
    verdict: str,
    begins: str,
) -> None:
    version = database.publish(DOCUMENT)
    counted_before(database, version, "strategy", *strategy)
    counted_before(database, version, "holdout", *holdout)

    async with open_gateway() as inside:
        (shown,) = await reported(inside)

    assert (shown["verdict"], shown["sentence"][: len(begins)]) == (verdict, begins)
    assert (shown["strategy"]["rate"], shown["holdout"]["rate"]) == (
        strategy[1] / strategy[0],
        holdout[1] / holdout[0],
    )
    if verdict == "too_few":
        assert (shown["difference"], shown["interval"], shown["always_valid_interval"]) == (None, None, None)
    else:
        low, high = shown["interval"]
        always_low, always_high = shown["always_valid_interval"]
        assert always_low < low < shown["difference"] < high < always_high
    assert shown["payments_for_one_point"] > 10_000


async def test_versions_are_listed_newest_first_a_page_at_a_time(
    open_gateway: Open, database: Database, commands: Commands
) -> None:
    versions = [database.publish(DOCUMENT) for _ in range(3)]
    for version in versions:
        counted_before(database, version, "strategy", 400, 300)
        counted_before(database, version, "strategy", 40, 30, strategy="adaptive")
        counted_before(database, version, "holdout", 400, 300, currency="GBP")

    async with open_gateway() as inside:
        page = (await inside.merchant.get("/v1/routing/uplift", limit=2)).json()
        rest = (await inside.merchant.get("/v1/routing/uplift", cursor=page["next_cursor"])).json()
        bad = await inside.merchant.get("/v1/routing/uplift", cursor="rt_1")
    lines = commands(database, "routing", "uplift", "--merchant", "mer_dev").splitlines()

    assert [each["config"] for each in (*page["data"], *rest["data"])] == versions[::-1]
    assert [each["in_force"] for each in (*page["data"], *rest["data"])] == [True, False, False]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert (bad.status_code, bad.json()["param"]) == (422, "cursor")
    first = page["data"][0]
    assert [(each["name"], each["strategy"]["payments"]) for each in first["by_strategy"]] == [
        ("adaptive", 40),
        ("weighted", 400),
    ]
    assert first["strategy"]["payments"] == 440
    assert len(lines) == 3
    assert lines[0] == f"{versions[2]}  in force  {first['sentence']}"


# --- Rolling back by itself -------------------------------------------------------------------------------------------

PLAIN: Final[Json] = {"default": {"priority": ["stripe"]}}


async def in_force(inside: Inside) -> str | None:
    shown = (await inside.merchant.get("/v1/routing")).json()["in_force"]
    return None if shown is None else str(shown["id"])


async def run_twice(inside: Inside) -> list[int]:
    """What the worker rolls back, in two runs that have read what is published."""
    deps, done = inside.house.deps, []
    for _ in range(2):
        await deps.in_force.read(deps.clock())
        done.append(await uplift.take_back(deps))
    return done


def losing(database: Database, version: str) -> None:
    counted_before(database, version, "strategy", 9_000, 6_300)
    counted_before(database, version, "holdout", 1_000, 900)


async def test_what_costs_approvals_is_rolled_back_once_and_said_to_be_automatic(
    open_gateway: Open, database: Database
) -> None:
    plain, version = database.publish(PLAIN), database.publish(DOCUMENT)
    losing(database, version)

    async with open_gateway() as inside:
        deps = inside.house.deps
        await deps.in_force.read(deps.clock())
        at_once = await asyncio.gather(*(uplift.take_back(deps) for _ in range(3)))
        again = await run_twice(inside)
        after = await in_force(inside)
        steps = (await inside.merchant.get("/v1/routing/history")).json()["data"]
        told = (await inside.merchant.get("/v1/events", type="routing.version_published")).json()["data"]

    assert (sorted(at_once), again) == ([0, 0, 1], [0, 0])
    assert after == plain
    assert [(each["kind"], each["config"], each["automatic"], each["published_by"]) for each in steps[:2]] == [
        ("rollback", plain, True, "gateway"),
        ("publish", version, False, "key_test"),
    ]
    assert steps[0]["reason"].startswith(
        "Rolled back by itself. The strategy costs approvals: it approves 20.00 points less"
    )
    assert [each["data"]["automatic"] for each in told] == [True]


@pytest.mark.parametrize(
    "holdout", [{"percent": 10, "rollback": False}, None], ids=["told not to", "without a holdout"]
)
async def test_what_is_not_to_be_rolled_back_is_not(
    open_gateway: Open, database: Database, holdout: Json | None
) -> None:
    document = {key: value for key, value in (DOCUMENT | {"holdout": holdout}).items() if value is not None}
    database.publish(PLAIN)
    version = database.publish(document)
    losing(database, version)

    async with open_gateway() as inside:
        done, after = await run_twice(inside), await in_force(inside)

    assert (done, after) == ([0, 0], version)


async def test_what_somebody_has_published_since_stands(open_gateway: Open, database: Database) -> None:
    version = database.publish(DOCUMENT)
    losing(database, version)
    database.publish(PLAIN, percent=5)

    async with open_gateway() as inside:
        staged = await run_twice(inside), await in_force(inside)
        newer = database.publish(PLAIN)
        whole = await run_twice(inside), await in_force(inside)

    assert staged == ([0, 0], version)
    assert whole == ([0, 0], newer)


async def test_a_stage_that_costs_approvals_ends(open_gateway: Open, database: Database) -> None:
    plain, version = database.publish(PLAIN), database.publish(DOCUMENT, percent=25)
    losing(database, version)

    async with open_gateway() as inside:
        done = await run_twice(inside)
        shown = (await inside.merchant.get("/v1/routing")).json()

    assert done == [1, 0]
    assert (shown["in_force"]["id"], shown["staged"]) == (plain, None)


async def test_a_version_before_that_asks_the_same_strategy_is_passed_over(
    open_gateway: Open, database: Database
) -> None:
    plain = database.publish(PLAIN)
    database.publish(DOCUMENT | {"rules": []})
    database.publish({"default": {"nobody": []}})
    version = database.publish(DOCUMENT)
    losing(database, version)

    async with open_gateway() as inside:
        done, after = await run_twice(inside), await in_force(inside)

    assert (done, after) == ([1, 0], plain)


async def test_where_nothing_else_was_ever_in_force_the_configuration_decides(
    open_gateway: Open, database: Database
) -> None:
    database.publish(DOCUMENT | {"rules": []})
    version = database.publish(DOCUMENT)
    losing(database, version)

    async with open_gateway() as inside:
        done, after = await run_twice(inside), await in_force(inside)
        await asyncio.sleep(2)  # what is published decides everywhere by then
        await inside.merchant.charged()

    assert (done, after) == ([1, 0], None)
    assert database.value("SELECT decision->>'kind' FROM operation") == "static"


async def test_what_a_person_publishes_again_all_the_same_is_theirs(open_gateway: Open, database: Database) -> None:
    version = database.publish(DOCUMENT)
    losing(database, version)

    async with open_gateway() as inside:
        first = await run_twice(inside)
        published = await inside.merchant.post(f"/v1/routing/configs/{version}/publish", {"reason": "We know better."})
        second, after = await run_twice(inside), await in_force(inside)

    assert published.status_code == 201, published.text
    assert (first, second, after) == ([1, 0], [0, 0], version)
