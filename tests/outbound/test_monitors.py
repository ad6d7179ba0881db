"""Monitors, the whole way: an outage at a provider, what the worker makes of it, and what the merchant hears and may do about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import orjson
import pytest

from gateway import crash
from gateway.monitoring import TOGETHER, Monitoring
from gateway.rate_books import fold
from gateway.sql import DatabaseAway

if TYPE_CHECKING:
    from tests.conftest import Inside, Kit, Open, Psps
    from tests.outbound.conftest import Receiver

Json = dict[str, Any]
MONITORS: Final = "/v1/monitors"
FOUND: Final = "/v1/monitor_incidents"
POOR: Final = "4000000000009995"
AT_STRIPE, AT_ADYEN = {"account": "stripe"}, {"account": "adyen"}
BUILTIN: Final = ["authorization_drop", "authentication_drop", "technical_errors", "blocked_share", "no_traffic"]

_COPIES: Final = """INSERT INTO rated (payment_id, ordinal, owner, at, hour_key, bin_key, proof_key, day_key, amount, what, marks, extra, last_at)
    SELECT 'past_' || c.n, 1, r.owner, c.at, r.hour_key, r.bin_key, r.proof_key, r.day_key, r.amount, r.what, r.marks, r.extra, c.at
    FROM (SELECT row_number() OVER () AS n, at FROM generate_series(1, 4) AS week CROSS JOIN LATERAL generate_series(
        now() - week * interval '7 days' - interval '3 hours', now() - week * interval '7 days' + interval '3 hours', interval '12 seconds') AS at) AS c
    JOIN (SELECT r.*, row_number() OVER (ORDER BY payment_id) - 1 AS place FROM rated r) AS r
    ON r.place = CASE WHEN c.n %% 10 = 0 THEN 2 WHEN c.n %% 3 = 0 THEN 1 ELSE 0 END"""
_KEPT: Final = """INSERT INTO rate_bin AS c (owner, of_payment, at, key, what, n, amount)
    SELECT owner, true, date_trunc('day', at, 'UTC'), bin_key, marks, count(*), sum(amount) FROM rated WHERE payment_id LIKE 'past_%%' GROUP BY 1, 3, 4, 5
    ON CONFLICT (owner, of_payment, at, key, what) DO UPDATE SET n = c.n + excluded.n, amount = c.amount + excluded.amount"""


@dataclass
class Shop:
    """A merchant with four weeks of payments behind it, and a worker whose clock is the test's."""

    inside: Inside
    psps: Psps
    flow: type[Kit]
    began: datetime
    minutes: int = 0

    @property
    def at(self) -> datetime:
        """What the clock says: so many minutes after the payments of the test."""
        return self.began + timedelta(minutes=self.minutes)

    async def pay(self, number: str | None = None, **fields: Any) -> None:
        card = self.flow.card(number or self.flow.CARD["number"])
        fields = dict[str, Any]({"amount": 1000, "routing": AT_STRIPE, "payment_method_data": card}) | fields
        answer = await self.inside.merchant.charge(**fields)
        assert answer.status_code in {201, 202, 402}, answer.text

    async def count(self) -> None:
        await fold(self.inside.house.pool)

    async def look(self, looks: int = 1) -> int:
        """So many minutes later, each with a look of a worker that has just begun."""
        written = 0
        for _ in range(looks):
            self.minutes += 1
            self.counted_to(self.at)
            written += await self.worker().look()
        return written

    def worker(self) -> Monitoring:
        return Monitoring(self.inside.house.pool, self.inside.house.looking, lambda: self.at)

    def counted_to(self, at: datetime) -> None:
        self.inside.database.rows("UPDATE rate_mark SET as_of = %(at)s", at=at)

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.inside.merchant.get(path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, fields: Json) -> Json:
        answer = await self.inside.merchant.post(path, fields)
        assert answer.status_code in {200, 201}, answer.text
        shown: Json = answer.json()
        return shown

    async def monitor(self, name: str) -> Json:
        """A built-in one."""
        (found,) = [each for each in (await self.get(MONITORS))["data"] if each["builtin"] == name]
        return dict(found)

    async def events(self, *types: str) -> list[Json]:
        wanted = types or ("opened", "closed", "escalated")
        told = [(await self.get("/v1/events", type=f"monitor.incident_{each}"))["data"] for each in wanted]
        return [each for data in told for each in data]


@asynccontextmanager
async def open_shop(open_gateway: Open, psps: Psps, flow: type[Kit], **settings: Any) -> AsyncIterator[Shop]:
    async with open_gateway(**settings) as inside:
        shop = Shop(inside, psps, flow, datetime.now(UTC))
        await shop.pay()
        await shop.pay(routing=AT_ADYEN)
        await shop.pay(POOR)
        await shop.count()
        for text in (_COPIES, _KEPT):
            inside.database.rows(text, nothing=None)
        yield shop


async def outage(shop: Shop, declined: int = 30) -> None:
    """Stripe declines all, Adyen none; all within this minute."""
    await asyncio.gather(*(shop.pay(POOR) for _ in range(declined)), *(shop.pay(routing=AT_ADYEN) for _ in range(12)))
    await shop.count()


async def recovery(shop: Shop) -> None:
    """The same a quarter of an hour later, when all of it is out of the window, as it was before: every payment is approved."""
    shop.inside.database.rows(
        "UPDATE rated SET at = at - interval '30 minutes' WHERE payment_id LIKE 'pay\\_%%'", nothing=None
    )
    await asyncio.gather(*(shop.pay() for _ in range(25)), *(shop.pay(routing=AT_ADYEN) for _ in range(12)))
    await shop.count()


async def delivered(shop: Shop, receiver: Receiver, number: int) -> list[Json]:
    sending = asyncio.create_task(shop.inside.house.outbox.run())
    try:
        await shop.flow.eventually(lambda: len(receiver.heard) >= number, f"{number} events were heard")
    finally:
        shop.inside.house.outbox.stop()
        await sending
    return [orjson.loads(each.body) for each in receiver.heard]


async def test_an_outage_is_told_with_its_loss_and_closed_once_it_is_over(
    open_gateway: Open, psps: Psps, flow: type[Kit], receiver: Receiver
) -> None:
    async with open_shop(open_gateway, psps, flow) as shop:
        await shop.post("/v1/webhook_endpoints", {"url": receiver.url(), "events": ["monitor.*"]})
        await outage(shop)
        shop.counted_to(shop.at - timedelta(minutes=9))
        assert await shop.worker().look() == 0, "nothing is judged that is not counted"
        waiting = await shop.monitor("authorization_drop")
        assert await shop.look(4) == 4
        alerting = await shop.monitor("authorization_drop")
        (open_,) = (await shop.get(FOUND, status="open"))["data"]
        at_monitor = await shop.get(f"{MONITORS}/{alerting['id']}/incidents")
        path, _, asked = open_["look"]["metrics"].partition("?")
        rates = await shop.get(path, **parse_qs(asked))
        seen = await shop.post(f"{FOUND}/{open_['id']}/acknowledge", {"note": "The issuer is down."})
        again = await shop.post(f"{FOUND}/{open_['id']}/acknowledge", {"note": "Is it?"})
        assert await shop.worker().look() == 0, "a minute is judged once"
        await recovery(shop)
        await shop.look(11)
        closed = await shop.get(f"{FOUND}/{open_['id']}")
        heard = await delivered(shop, receiver, 2)
        well = await shop.monitor("authorization_drop")

    assert (waiting["state"], alerting["state"], well["state"]) == ("waiting", "alerting", "ok")
    assert waiting["waiting_for"].startswith("Payments are counted too late")
    assert (alerting["open_incidents"], well["open_incidents"], at_monitor["data"]) == (1, 0, [open_])
    # 32 were tried at stripe in the quarter of an hour, of which 31 were declined; six of seven are usual.
    assert (open_["segment"]["account"], open_["severity"], open_["n"], open_["rate"]) == (
        "stripe",
        "page",
        32,
        "authorization",
    )
    assert 0.85 < open_["expected_rate"] < 0.87
    (loss,) = open_["loss_per_hour"]
    assert loss["currency"] == "EUR"
    assert abs(loss["amount"] - 4 * 1000 * (32 * open_["expected_rate"] - 1)) <= 10, (
        "approvals lost in an hour, at 10.00 EUR each"
    )
    assert [each["code"] for each in open_["decline_codes"]] == ["insufficient_funds"]
    assert "account stripe" in open_["summary"]
    assert {each["keys"]["decline_code"]: each["n"] for each in rates["data"]} == {None: 1, "insufficient_funds": 31}
    assert (seen["acknowledged"]["note"], again["acknowledged"]) == ("The issuer is down.", seen["acknowledged"])
    assert (closed["status"], closed["closed_reason"]) == ("closed", "recovered")
    assert [each["type"] for each in heard] == ["monitor.incident_opened", "monitor.incident_closed"]
    assert [each["data"]["id"] for each in heard] == [open_["id"]] * 2
    assert heard[0]["data"]["loss_per_hour"] == open_["loss_per_hour"]
    assert heard[1]["data"]["acknowledged"] == seen["acknowledged"]


async def test_a_late_result_is_judged_as_what_it_is_then(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_shop(open_gateway, psps, flow) as shop:
        psps.fault("stripe", "authorize", "garbage", times=25)
        await asyncio.gather(*(shop.pay() for _ in range(25)), *(shop.pay(routing=AT_ADYEN) for _ in range(12)))
        await shop.count()
        await shop.look(3)
        (unknown,) = (await shop.get(FOUND))["data"]
        await shop.inside.work()  # the provider is asked, and has approved all of them
        await shop.count()
        await shop.look(10)
        (known,) = (await shop.get(FOUND))["data"]
        rows = shop.inside.database.rows(
            "SELECT DISTINCT at FROM rated WHERE payment_id NOT LIKE 'past%%'", nothing=None
        )

    assert (unknown["rate"], unknown["status"], unknown["segment"]["account"]) == ("technical", "open", "stripe")
    assert (known["id"], known["status"], known["closed_reason"]) == (unknown["id"], "closed", "recovered")
    assert all(each["at"] > shop.at - timedelta(minutes=15) for each in rows), (
        "the same attempts are in the window still"
    )


async def test_what_is_muted_is_judged_and_told_once_it_is_heard_again_and_goes_on(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_shop(open_gateway, psps, flow) as shop:
        monitor = await shop.monitor("authorization_drop")
        path = f"{MONITORS}/{monitor['id']}"
        muted = await shop.post(path, {"mute": {"reason": "Stripe is in maintenance."}})
        await outage(shop)
        await shop.look(4)
        (quiet,) = (await shop.get(FOUND))["data"]
        silent = await shop.events()
        heard = await shop.post(path, {"mute": None})
        shop.minutes += 1
        shop.counted_to(shop.at)
        looks = await asyncio.gather(*(shop.worker().look() for _ in range(4)))  # four workers at the same time
        await shop.look(3)
        events = await shop.events()
        changes = (await shop.get(path))["changes"]

    assert (muted["state"], muted["mute"]) == ("muted", {"until": None, "reason": "Stripe is in maintenance."})
    assert (quiet["status"], quiet["told"], silent) == ("open", None, [])
    assert (heard["state"], heard["mute"]) == ("alerting", None)
    assert sum(looks) == 1
    assert [(each["type"], each["data"]["id"]) for each in events] == [("monitor.incident_opened", quiet["id"])]
    assert [(each["what"], each["by"], each["after"]["muted"]) for each in changes] == [
        ("changed", "sk_test_dev", False),
        ("changed", "sk_test_dev", True),
    ]


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_worker_that_dies_at_a_look_has_written_all_of_it_or_nothing(
    open_gateway: Open, psps: Psps, flow: type[Kit], side: str
) -> None:
    dying: set[str] = set()

    def passed(point: str) -> None:
        if point in dying:
            raise DatabaseAway

    async with open_shop(open_gateway, psps, flow, passed=passed) as shop:
        await outage(shop)
        await shop.look(1)
        dying.add(f"monitors.judge.{side}")
        shop.minutes += 1
        shop.counted_to(shop.at)
        with pytest.raises(DatabaseAway):
            await crash.on_path("monitors", shop.worker().look)()
        after = (len(await shop.events()), len((await shop.get(FOUND))["data"]))
        dying.clear()
        await shop.worker().look()
        await shop.look(2)
        events, found = await shop.events(), (await shop.get(FOUND))["data"]

    assert after == ((0, 0) if side == "before" else (1, 1))
    assert [each["type"] for each in events] == ["monitor.incident_opened"]
    assert [each["id"] for each in found] == [events[0]["data"]["id"]]


_STRANGE: Final = """WITH other AS (INSERT INTO rate_owner (merchant_id, livemode)
        SELECT 'mer_other_' || n, false FROM generate_series(1, 3) AS n RETURNING id, merchant_id),
    counted AS (INSERT INTO rated (payment_id, ordinal, owner, at, hour_key, bin_key, proof_key, day_key, amount, what, marks, extra, last_at)
        SELECT 'strange', 1, o.id, now() - interval '7 days', r.hour_key, r.bin_key, r.proof_key, r.day_key, r.amount, 512, r.marks, r.extra, r.last_at
        FROM other o, (SELECT * FROM rated LIMIT 1) AS r WHERE o.merchant_id = 'mer_other_1')
    INSERT INTO monitor_state (merchant_id, livemode, looks, until, state, runs, verdicts, looked_at)
    SELECT merchant_id, false, 1, 1, '{"until": "later", "sums": 7}', '{}', '{}', now() FROM other WHERE merchant_id = 'mer_other_2'"""
"""One merchant with a class of attempts that nobody knows, one with a state of another form, and one with nothing."""


async def test_what_another_release_has_left_stops_nobody_elses_monitors_and_leaves_nothing_open(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_shop(open_gateway, psps, flow) as shop:
        rows = shop.inside.database.rows
        static = await shop.post(MONITORS, STATIC)
        rows(_STRANGE, nothing=None)
        await outage(shop)
        for _ in range(3):
            with pytest.raises(KeyError):  # of the one merchant: the worker says so
                await shop.look()
        found = (await shop.get(FOUND, status="open"))["data"]
        looked = rows("SELECT merchant_id FROM monitor_state WHERE looks > 2", nothing=None)
        rows("DELETE FROM rated WHERE payment_id = 'strange'", nothing=None)
        rows("UPDATE monitor_state SET state = '{\"until\": \"later\"}' WHERE merchant_id = 'mer_dev'", nothing=None)
        rows('UPDATE monitor SET settings = settings || \'{"metric": "of_tomorrow"}\'', nothing=None)
        looks = await shop.look()
        closed = {each["id"]: each["closed_reason"] for each in (await shop.get(FOUND, status="closed"))["data"]}
        told = {each["data"]["id"] for each in await shop.events("closed")}
        listed = {each["id"]: each for each in (await shop.get(MONITORS))["data"]}

    assert len(found) == 2, "an outage, and a threshold"
    assert {each["merchant_id"] for each in looked} == {"mer_dev", "mer_other_2", "mer_other_3"}
    assert looks == 4
    assert closed == {each["id"]: "gone" for each in found}, (
        "of a state that cannot be read, and of a monitor that is none"
    )
    assert told == closed.keys()
    assert listed[static["id"]]["tuning"] == STATIC["tuning"]


async def test_a_look_that_takes_long_is_ended_and_the_next_one_goes_on_with_the_rest(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_shop(open_gateway, psps, flow) as shop:
        house = shop.inside.house
        shop.inside.database.rows(
            "INSERT INTO rate_owner (merchant_id, livemode) SELECT 'mer_' || n, false FROM generate_series(1, %(n)s) AS n",
            n=2 * TOGETHER,
        )
        shop.minutes += 1
        shop.counted_to(shop.at)
        hours = chain([0, 0], repeat(1))  # it takes an hour after the first of them were looked at
        slow = Monitoring(house.pool, house.looking, lambda: shop.at + timedelta(hours=next(hours)))
        first = await slow.look()
        rest = await shop.worker().look()

    assert (first, rest) == (TOGETHER, TOGETHER + 1)


STATIC: Final[Json] = {
    "name": "Acceptance at Stripe",
    "kind": "static",
    "metric": "acceptance_rate",
    "op": "below",
    "threshold": 0.9,
    "segment": {"account": "stripe"},
    "tuning": {"min_sample": 20, "severity": "page"},
}
DROP: Final[Json] = {"name": "Ours", "kind": "drop", "rate": "authorization", "segment": {"account": "stripe"}}
REFUSED: Final[tuple[tuple[Json, str], ...]] = (
    ({**STATIC, "op": None}, "op"),
    ({**STATIC, "rate": "authorization"}, "rate"),
    ({**STATIC, "metric": "approval_rate"}, "metric"),
    ({**STATIC, "threshold": 1.5}, "threshold"),
    ({**STATIC, "threshold": 10**400}, "threshold"),
    ({**STATIC, "tuning": {"window": 10**400}}, "tuning.window"),
    ({**STATIC, "segment": {"shoe_size": "44"}}, "segment"),
    ({**STATIC, "tuning": {"drop": 0.1}}, "tuning.drop"),
    ({**STATIC, "tuning": {"window": 1}}, "tuning.window"),
    ({**DROP, "segment": {"bin": "424242"}}, "segment"),
    ({**DROP, "segment": {"brand": "visa", "currency": "EUR"}}, "segment"),
    ({**DROP, "tuning": {"min_sample": 1}}, "tuning.min_sample"),
    ({**DROP, "rate": "luck"}, "rate"),
    ({**DROP, "mute": {"until": "2020-01-01T00:00:00Z", "reason": "?"}}, "mute.until"),
)


async def test_monitors_of_ones_own_are_judged_beside_the_built_in_ones(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_shop(open_gateway, psps, flow) as shop:
        ours = shop.inside.merchant
        created = await ours.post(MONITORS, STATIC, key="monitor-1")
        replayed = await ours.post(MONITORS, STATIC, key="monitor-1")
        until = datetime.now(UTC) + timedelta(seconds=4)
        briefly = {**DROP, "mute": {"until": until.isoformat(), "reason": "We deploy."}}
        muted = await ours.post(MONITORS, briefly, key="monitor-2")
        drop = muted.json()
        refused = [(await ours.post(MONITORS, fields), param) for fields, param in REFUSED]
        static = created.json()
        path = f"{MONITORS}/{static['id']}"
        tuned = await shop.post(path, {"threshold": 0.8, "tuning": {"window": 30, "severity": None}})
        listed = await shop.get(MONITORS, limit=2)
        rest = await shop.get(MONITORS, cursor=listed["next_cursor"])
        await outage(shop)
        await shop.look(4)
        found = {each["monitor"]: each for each in (await shop.get(FOUND))["data"]}
        builtin = await shop.monitor("authorization_drop")
        kept = await ours.delete(f"{MONITORS}/{builtin['id']}")
        deleted = [(await ours.delete(f"{MONITORS}/{each}")).status_code for each in (static["id"], static["id"])]
        events = len(await shop.events())
        await shop.look(2)
        gone = await shop.get(f"{FOUND}/{found[static['id']]['id']}")
        told_of_it = (await shop.events("closed"))[: len(await shop.events()) - events]
        await asyncio.sleep((until - datetime.now(UTC)).total_seconds())
        later = await ours.post(MONITORS, briefly, key="monitor-2")
        after_deleted = await shop.get(MONITORS, cursor=static["id"])

    assert (created.status_code, replayed.content) == (201, created.content)
    assert (muted.status_code, later.content) == (201, muted.content), "a replay outlives what was asked for"
    assert [(answer.status_code, answer.json()["param"]) for answer, _ in refused] == [
        (422, param) for _, param in REFUSED
    ]
    assert (tuned["threshold"], tuned["tuning"]["window"], tuned["tuning"]["severity"]) == (0.8, 30, "ticket")
    assert [each["id"] for each in listed["data"]] == [drop["id"], static["id"]]
    assert [each["builtin"] for each in rest["data"]] == BUILTIN
    assert found.keys() == {static["id"], drop["id"], builtin["id"]}
    of_static = found[static["id"]]
    # One of 32 was accepted at stripe, where 0.8 of them should be: 24.6 too few of 10.00 EUR in half an hour.
    assert (of_static["detector"], of_static["n"], of_static["severity"]) == ("static", 32, "ticket")
    assert of_static["loss_per_hour"] == [{"currency": "EUR", "amount": 2 * round(1000 * (32 * 0.8 - 1))}]
    assert "below the threshold of 80.0 %" in of_static["summary"]
    assert found[drop["id"]]["segment"] == {"account": "stripe"}
    assert (kept.status_code, kept.json()["code"]) == (422, "monitor_builtin")
    assert deleted == [200, 404]
    assert [each["builtin"] for each in after_deleted["data"]] == BUILTIN, "a page goes on after one that was deleted"
    assert (gone["status"], gone["closed_reason"]) == ("closed", "gone")
    assert [each["data"]["id"] for each in told_of_it] == [gone["id"]]
