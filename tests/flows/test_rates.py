"""Rates: 60 payments of every awkward kind, counted by hand; and what the API answers about them, and refuses."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.rate_books import fold
from gateway.rates import CELLS_MAX, DIMENSIONS, METRICS
from gateway.sweep import end_abandoned

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open, Psps

Json = dict[str, Any]
POOR, SOFT, BROKEN, RISKY, CHALLENGED = (
    "4000000000009995",
    "4000000000000002",
    "4000000000000119",
    "4100000000000019",
    "4000000000003220",
)
"""No funds; declined so that another account may be asked; the provider fails; its risk engine stops it; 3-D Secure."""
NO_BALANCE: Final = "NOT_ENOUGH_BALANCE"
PASSES: Final = "Ada Lovelace"
AT_STRIPE, AT_ADYEN = {"account": "stripe"}, {"account": "adyen"}


class Set:
    """Makes the 60 payments. What each comes to stands beside it; the sums are in :data:`BY_HAND`."""

    def __init__(self, inside: Inside, psps: Psps, flow: type[Kit]) -> None:
        self.inside, self.psps, self.flow = inside, psps, flow

    async def pay(self, number: str | None = None, holder: str | None = None, **fields: Any) -> Json:
        card = self.flow.card(number or self.flow.CARD["number"], holder)
        answer = await self.inside.merchant.charge(
            **dict[str, Any]({"amount": 1000, "payment_method_data": card, "metadata": {"shop": "north"}} | fields)
        )
        assert answer.status_code in {201, 202, 402}, answer.text
        payment: Json = answer.json().get("payment", answer.json())
        return payment

    async def make(self) -> None:
        for number in range(26):  # approved: 20 in EUR, 6 in GBP
            await (self.pay(currency="GBP", amount=700) if number < 6 else self.pay())
        for _ in range(5):  # declined
            await self.pay(POOR)
        for _ in range(5):  # declined, then approved by the other account: recovered
            await self.pay(SOFT)
        for _ in range(3):  # declined by both
            await self.pay(SOFT, NO_BALANCE)
        for _ in range(2):  # technical, then approved by the other account: recovered
            await self.pay(BROKEN)
        await self.pay(BROKEN, routing=AT_STRIPE)  # technical, and nobody else may be asked
        for _ in range(3):  # blocked
            await self.pay(RISKY)
        await self._challenged()
        await self._unknown()
        for holder in (NO_BALANCE, NO_BALANCE, PASSES):  # the same three times: declined, declined, approved
            await self.pay(holder=holder, reference="order-7", routing=AT_ADYEN)
        for _ in range(2):  # the same twice: declined, declined
            await self.pay(POOR, reference="order-8")
        held = await self.pay(capture_method="manual")  # approved, whatever the merchant does then
        await self.inside.merchant.post(f"/v1/payments/{held['id']}/cancel")
        await self.inside.merchant.post(  # a verification, and no payment
            "/v1/payment_methods", self.flow.card() | {"verify": True, "currency": "EUR"}
        )

    async def _challenged(self) -> None:
        """Two pass, one fails, two never come back: approved, approved, and three times not authenticated."""
        for result in ("succeeded", "succeeded", "failed"):
            waiting = await self.pay(CHALLENGED)
            await self.inside.merchant.come_back(await self.psps.visit(waiting, result))
        for _ in range(2):
            await self.pay(CHALLENGED)
        self.inside.database.let_time_pass()
        await end_abandoned(self.inside.house.deps)

    async def _unknown(self) -> None:
        """Two are asked about and were approved, one is told of by a late webhook, and one stays unknown."""
        for _ in range(2):
            self.psps.fault("stripe", "authorize", "garbage")
            await self.pay()
        await self.inside.work()
        self.psps.fault("stripe", "authorize", "garbage")
        self.psps.fault("stripe", "authorize", "drop_webhook")
        late = await self.pay(amount=1999)
        (attempt,) = self.inside.database.operations(late["id"])
        event = self.flow.stripe_event(attempt["id"])
        await self.inside.merchant.http.post("/v1/webhooks/stripe", content=event, headers=self.flow.signed(event))
        await self.flow.eventually(
            lambda: self.inside.database.value("SELECT count(*) FROM webhook_inbox WHERE applied_at IS NULL") == 0,
            "the webhook was applied",
        )
        self.psps.fault("stripe", "authorize", "garbage")
        self.psps.fault("stripe", "authorize", "drop_webhook")
        self.psps.fault("stripe", "lookup", "status", status=500, times=None)
        await self.pay()


# Attempts: 40 approved (32 at stripe, 8 at adyen), 20 declined (15, 5), 3 technical, 1 unknown, 3 blocked, 3 not authenticated.
# Payments: 60, of which 58 reached a provider (not the unknown one, nor the one that was technical alone), 40 were approved, 33 at the first
# attempt; 59 are decided. Two of the three and one of the two that try the same again are no groups. 26 stumbled, 7 of them were recovered.
BY_HAND: Final = {
    "attempt_authorization_rate": (40, 60),
    "payment_authorization_rate": (40, 58),
    "deduplicated_rate": (40, 55),
    "acceptance_rate": (40, 59),
    "first_attempt_rate": (33, 58),
    "recovered_by_cascade": (7, 26),
    "technical_error_rate": (3, 64),
    "unknown_rate": (1, 64),
}
# The late one is of 19.99 and not of 10.
IN_EUR: Final = {
    "attempt_authorization_rate": (34_999, 54_999),
    "payment_authorization_rate": (34_999, 52_999),
    "deduplicated_rate": (34_999, 49_999),
    "acceptance_rate": (34_999, 53_999),
    "first_attempt_rate": (27_999, 52_999),
    "recovered_by_cascade": (7_000, 26_000),
    "technical_error_rate": (3_000, 58_999),
    "unknown_rate": (1_000, 58_999),
}
EXTRA_ATTEMPTS: Final = 10  # five and two that were approved, three that were not


async def asked(inside: Inside, metric: str, **params: Any) -> Json:
    answer = await inside.merchant.get(f"/v1/metrics/{metric}", **params)
    assert answer.status_code == 200, answer.text
    shown: Json = answer.json()
    return shown


async def test_sixty_payments_of_every_kind_come_to_what_was_counted_by_hand_however_it_is_asked(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        await Set(inside, psps, flow).make()
        before = await asked(inside, "acceptance_rate")
        await fold(inside.house.pool)
        shown = {metric: await asked(inside, metric) for metric in METRICS}
        by_hour = await asked(inside, "attempt_authorization_rate", interval="hour", group_by="account")
        by_shop = await asked(inside, "deduplicated_rate", group_by="metadata.shop")
        by_code = await asked(inside, "attempt_authorization_rate", group_by="decline_code", filter="account:stripe")
    views = {
        metric: database.rows(
            f"""SELECT sum(hits)::int AS hits, sum(n)::int AS n, sum(amount_n) FILTER (WHERE currency = 'EUR')::int AS eur,
            sum(amount_hits) FILTER (WHERE currency = 'EUR')::int AS eur_hits FROM rates.{metric}"""
        )[0]
        for metric in METRICS
    }
    kept = {
        metric: database.rows(
            f"""SELECT coalesce(sum(n) FILTER (WHERE {condition.format(wanted=METRICS[metric].hits)}), 0)::int AS hits,
            sum(n) FILTER (WHERE {condition.format(wanted=METRICS[metric].total)})::int AS n
            FROM rate_day WHERE of_payment = {METRICS[metric].of_payments}"""
        )[0]
        for metric in METRICS
        for condition in (
            "what & {wanted} = {wanted} AND what < 256" if METRICS[metric].of_payments else "what & {wanted} > 0",
        )
    }

    assert database.value("SELECT count(*) FROM payment WHERE amount > 0") == 60
    assert (before["data"], before["as_of"], before["complete"]) == ([], None, False)
    cells = {metric: answer["data"][0] for metric, answer in shown.items()}
    assert {metric: (cell["hits"], cell["n"]) for metric, cell in cells.items()} == BY_HAND
    assert {metric: (row["hits"], row["n"]) for metric, row in views.items()} == BY_HAND
    assert {metric: (row["hits"], row["n"]) for metric, row in kept.items()} == BY_HAND
    assert {metric: (row["eur_hits"], row["eur"]) for metric, row in views.items()} == IN_EUR
    amounts = {metric: {each["currency"]: each for each in cell["amounts"]} for metric, cell in cells.items()}
    assert {metric: (each["EUR"]["hits"], each["EUR"]["n"]) for metric, each in amounts.items()} == IN_EUR
    assert amounts["acceptance_rate"]["GBP"] == {"currency": "GBP", "n": 4200, "hits": 4200, "rate": 1.0}
    assert cells["recovered_by_cascade"]["extra_attempts"] == EXTRA_ATTEMPTS
    assert all(answer["complete"] for answer in shown.values())
    assert [cell["too_few"] for cell in cells.values()] == [True] * len(METRICS)
    hours = [(cell["keys"]["account"], cell["hits"], cell["n"]) for cell in by_hour["data"]]
    assert (sum(n for a, _, n in hours if a == "stripe"), sum(h for a, h, _ in hours if a == "stripe")) == (47, 32)
    assert (sum(n for a, _, n in hours if a == "adyen"), sum(h for a, h, _ in hours if a == "adyen")) == (13, 8)
    assert [(cell["keys"], cell["hits"], cell["n"]) for cell in by_shop["data"]] == [
        ({"metadata.shop": "north"}, 40, 55)
    ]
    assert {cell["keys"]["decline_code"]: cell["n"] for cell in by_code["data"]} == {
        None: 32,
        "insufficient_funds": 7,
        "issuer_generic": 8,
    }


# --- Asking ------------------------------------------------------------------------------------------------------------


async def test_a_rate_is_a_table_too_and_no_value_in_it_is_a_formula(open_gateway: Open, database: Database) -> None:
    async with open_gateway(("stripe",)) as inside:
        await inside.merchant.charged(metadata={"shop": "=1+1"})
        await fold(inside.house.pool)
        path, params = "/v1/metrics/recovered_by_cascade", {"group_by": "metadata.shop,brand"}
        empty = await inside.merchant.get(path, **params, format="csv")
        answer = await inside.merchant.http.get(
            "/v1/metrics/acceptance_rate",
            params=params,
            headers={"Authorization": f"Bearer {inside.merchant.api_key}", "Accept": "text/csv"},
        )

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    head, line = csv.reader(io.StringIO(answer.text))
    assert head[:8] == ["at", "metadata.shop", "brand", "n", "hits", "rate", "low", "high"]
    assert line == ["", "'=1+1", "visa", "1", "1", "1.0", "0.206549", "1.0", "true", "1999", "1999", "1.0"]
    assert empty.text == "at,metadata.shop,brand,n,hits,rate,low,high,too_few,extra_attempts\r\n"


WEEK: Final = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-08T00:00:00Z"}
YEAR: Final = {"from": "2025-11-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("params", "param", "says"),
    [
        ({"group_by": "issuer"}, "group_by", "There are: account, provider, brand"),
        ({"group_by": "metadata."}, "group_by", "metadata.KEY"),
        ({"group_by": "brand,brand"}, "group_by", "twice"),
        ({"group_by": "brand,bin,account,country,currency"}, "group_by", "4 dimensions"),
        ({"filter": "brand"}, "filter", "dimension:value"),
        ({"filter": "issuer:x"}, "filter", "There are: account"),
        ({"interval": "minute"}, "interval", "hour, day, week, month"),
        ({"from": "yesterday"}, "from", "RFC 3339"),
        ({"from": WEEK["to"], "to": WEEK["from"]}, "to", "later than from"),
        ({"from": "2025-01-01T00:00:00Z", "to": WEEK["to"]}, "from", "400 days"),
        (YEAR | {"group_by": "metadata.shop"}, "group_by", "31 days at most"),
        (YEAR | {"group_by": "bin", "filter": "initiator:merchant"}, "group_by", "31 days at most"),
        ({"format": "xml"}, "format", "json, csv"),
        ({"groupby": "brand"}, "groupby", "asked for by"),
    ],
)
async def test_a_question_that_cannot_be_answered_is_told_what_to_ask_instead(
    open_gateway: Open, params: Json, param: str, says: str
) -> None:
    async with open_gateway(("stripe",)) as inside:
        answer = await inside.merchant.get("/v1/metrics/acceptance_rate", **params)

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["param"]) == (422, "validation_failed", param)
    assert says in problem["detail"]


async def test_there_is_a_list_of_rates_and_dimensions_and_no_other(open_gateway: Open) -> None:
    async with open_gateway(("stripe",)) as inside:
        listed = (await inside.merchant.get("/v1/metrics")).json()
        other = await inside.merchant.get("/v1/metrics/conversion")
        answers = [
            (await inside.merchant.get(f"/v1/metrics/{each['id']}", **WEEK, group_by=dimension)).status_code
            for each in listed["data"][:2]
            for dimension in DIMENSIONS
        ]

    assert [each["id"] for each in listed["data"]] == list(METRICS)
    assert [each["name"] for each in listed["dimensions"]] == [*DIMENSIONS, "metadata.KEY"]
    assert (other.status_code, other.json()["code"]) == (404, "not_found")
    assert set(answers) == {200}


async def test_an_answer_of_too_many_cells_is_refused(open_gateway: Open, database: Database) -> None:
    database.rows("INSERT INTO rate_owner (merchant_id, livemode) VALUES ('mer_dev', false)")
    database.rows(
        """INSERT INTO rate_key (owner, cuboid, digest, dimensions) SELECT o.id, 'bin', md5(n::text)::uuid,
        jsonb_build_object('bin', n::text, 'currency', 'EUR') FROM rate_owner o, generate_series(0, %(most)s) AS n""",
        most=CELLS_MAX,
    )
    database.rows(
        "INSERT INTO rate_bin SELECT owner, false, %(at)s, id, 1, 1, 100 FROM rate_key",
        at=datetime(2026, 11, 2, tzinfo=UTC),
    )

    async with open_gateway(("stripe",)) as inside:
        answer = await inside.merchant.get("/v1/metrics/attempt_authorization_rate", **WEEK, group_by="bin")
        fewer = await asked(inside, "attempt_authorization_rate", **WEEK, group_by="bin", filter="bin:17")

    assert (answer.status_code, answer.json()["param"]) == (422, "group_by")
    assert f"{CELLS_MAX} cells" in answer.json()["detail"]
    assert [(cell["keys"]["bin"], cell["n"]) for cell in fewer["data"]] == [("17", 1)]


async def test_a_late_result_restates_the_hour_of_its_attempt(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    async with open_gateway(("stripe",)) as inside:
        psps.fault("stripe", "authorize", "garbage")
        await inside.merchant.charge()
        yesterday = datetime.now(UTC) - timedelta(days=1)
        database.rows("UPDATE operation SET created_at = %(at)s", at=yesterday)
        await fold(inside.house.pool)
        unknown = await asked(inside, "unknown_rate", interval="hour")
        await inside.work()
        await fold(inside.house.pool)
        known = await asked(inside, "unknown_rate", interval="hour")

    (first,), (then,) = unknown["data"], known["data"]
    assert first["at"] == then["at"] == yesterday.strftime("%Y-%m-%dT%H:00:00.000000Z")
    assert [(cell["hits"], cell["n"]) for cell in (first, then)] == [(1, 1), (0, 1)]
