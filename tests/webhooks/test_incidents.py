"""What a provider says that cannot be is never believed: it is written down once, told, shown, and closed by a person."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import pytest

from gateway import news
from gateway.incidents import IncidentKind
from gateway.settle import not_believed, record
from gateway.sql import DatabaseAway
from providers.contract import Approved, Declined, Event, Kind
from providers.declines import failed_after_all
from providers.money import Money
from providers.sandbox.signatures import adyen_signature

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])
SHOWN: Final = {
    "id",
    "object",
    "kind",
    "status",
    "payment",
    "operation",
    "account",
    "details",
    "reason",
    "livemode",
    "created",
    "closed",
}


def event(
    psp: str, flow: type[Kit], operation: str, *, amount: int = 1999, currency: str = "EUR", number: str = "1"
) -> Any:
    """An authentic webhook that says that an operation was approved, and its headers."""
    if psp == "stripe":
        body = flow.stripe_event(operation, amount=amount, number=number).replace(
            b'"eur"', f'"{currency.lower()}"'.encode()
        )
        return body, flow.signed(body)
    item = {
        "eventCode": "AUTHORISATION",
        "success": "true",
        "pspReference": f"PSP{number}",
        "merchantReference": operation,
        "merchantAccountCode": flow.MERCHANT_ACCOUNT,
        "amount": {"value": amount, "currency": currency},
        "eventDate": "2026-11-21T09:30:00+01:00",
    }
    item["additionalData"] = {"hmacSignature": adyen_signature(item, flow.SECRETS["FLOWS_ADYEN_HMAC_KEY"])}
    return json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}).encode(), {}


async def hear(inside: Inside, psp: str, told: tuple[bytes, dict[str, str]]) -> list[str]:
    """Store and apply a webhook, as its endpoint does; what became of its events."""
    account = inside.house.deps.accounts[psp]
    received = await inside.house.inbox.receive(account, told[1], told[0])
    return [await inside.house.inbox.apply(each) for each in received]


async def unknown(inside: Inside, psps: Psps, psp: str) -> tuple[dict[str, Any], str]:
    """A charge of which nobody knows what came, and its operation."""
    psps.fault(psp, "authorize", "garbage")
    payment = (await inside.merchant.charge(routing={"account": psp})).json()
    return payment, inside.database.operations(payment["id"])[0]["id"]


async def incidents(inside: Inside, **filters: Any) -> list[dict[str, Any]]:
    answer = await inside.merchant.get("/v1/incidents", **filters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


WRONG: Final = [(1, "EUR"), (2000, "EUR"), (1999, "USD"), (19990, "EUR")]


@at_each
async def test_a_success_over_another_amount_or_currency_is_an_incident_and_is_not_believed(
    psp: str, open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        payment, operation = await unknown(inside, psps, psp)
        results = []
        for number, (amount, currency) in enumerate(WRONG):
            for copy in ("a", "b"):  # told twice, as two events
                said = event(psp, flow, operation, amount=amount, currency=currency, number=f"{number}{copy}")
                results += await hear(inside, psp, said)
        after = await inside.merchant.payment(payment["id"])
        found = await incidents(inside, payment=payment["id"])
        counted = inside.house.deps.instruments.incidents.labels(psp, "amount_mismatch")._value.get()
        right = await hear(inside, psp, event(psp, flow, operation, number="9"))
        settled = await inside.merchant.payment(payment["id"])

    assert set(results) == {"amount_mismatch"}
    assert (after["status"], after["amount_received"]) == ("processing", 0)
    assert len(found) == len(WRONG) == counted
    assert {(each["details"]["said"]["amount"], each["details"]["said"]["currency"]) for each in found} == set(WRONG)
    assert found[0].keys() == SHOWN
    assert {(each["kind"], each["status"], each["operation"]) for each in found} == {
        ("amount_mismatch", "open", operation)
    }
    told = database.rows("SELECT body, payment_id, sequence FROM event WHERE type = 'incident.opened' ORDER BY id DESC")
    assert [json.loads(row["body"])["data"] for row in told] == found
    assert {(row["payment_id"], row["sequence"]) for row in told} == {(payment["id"], None)}
    assert (right, settled["status"], settled["amount_received"]) == (["applied"], "succeeded", 1999)


async def test_an_account_that_speaks_of_anothers_operation_is_an_incident(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        payment, operation = await unknown(inside, psps, "stripe")
        result = await hear(inside, "adyen", event("adyen", flow, operation))
        after = await inside.merchant.payment(payment["id"])
        (found,) = await incidents(inside)

    assert (result, after["status"]) == (["another_account"], "processing")
    assert (found["kind"], found["account"], found["details"]["known"]["account"]) == (
        "another_account",
        "adyen",
        "stripe",
    )


OTHERS: Final = (
    '[accounts.other_stripe]\nmerchant = "mer_other"\nprovider = "stripe"\n'
    'api_key_env = "FLOWS_STRIPE_API_KEY"\nwebhook_secret_env = "FLOWS_STRIPE_WEBHOOK_SECRET"\n'
)


async def test_a_merchants_account_that_speaks_of_anothers_operation_is_told_nothing_and_tells_nothing(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway(more=OTHERS) as inside:
        payment, operation = await unknown(inside, psps, "stripe")
        result = await hear(inside, "other_stripe", event("stripe", flow, operation))
        woken = await news.wake(inside.house.pool)
        after = await inside.merchant.payment(payment["id"])
        found = await incidents(inside)

    (row,) = database.rows("SELECT payment_id, due_at, applied_at IS NULL AS waits FROM webhook_inbox")
    assert (result, woken, after["status"], found) == (["operation_not_found"], 0, "processing", [])
    assert row == {"payment_id": None, "due_at": None, "waits": False}


async def test_an_approval_of_what_had_ended_is_an_incident_once_however_often_it_is_heard(
    open_gateway: Open, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        declined = (await inside.merchant.charge(payment_method_data=flow.card("4000000000000002"))).json()
        payment = await deps.queries.payment(declined["id"])
        assert payment is not None
        told = Approved("pi_1", Money(1999, "EUR"), captured=True)
        for source in ("webhook", "webhook", "call", "sweep"):
            await record(payment, payment.operations[0], told, source=source, deps=deps)
        (found,) = await incidents(inside, kind="contradiction")

    assert (found["details"]["source"], found["details"]["known"]["status"]) == ("webhook", "declined")


async def test_a_capture_that_fails_after_it_was_refunded_waits_for_the_refund_and_a_person_knows(
    open_gateway: Open, database: Database
) -> None:
    def failed(kind: Kind, operation: str) -> Event:
        return Event(f"evt_{operation}", "X", kind, operation, outcome=Declined(failed_after_all("reversed"), "psp_1"))

    async with open_gateway(("stripe",)) as inside:
        merchant, deps = inside.merchant, inside.house.deps
        payment = await merchant.charged(capture_method="manual")
        await merchant.post(f"/v1/payments/{payment['id']}/capture")
        await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 500})
        _, capture, refund = (op["id"] for op in database.operations(payment["id"]))
        early = [await news.apply("stripe", failed(Kind.CAPTURE, capture), deps) for _ in range(2)]
        kept = await merchant.payment(payment["id"])
        (found,) = await incidents(inside)
        then = await news.apply("stripe", failed(Kind.REFUND, refund), deps)
        late = await news.apply("stripe", failed(Kind.CAPTURE, capture), deps)
        after = await merchant.payment(payment["id"])

    assert [(each.result, each.again) for each in early] == [("waits_for_refund", True)] * 2
    assert (kept["status"], kept["amount_received"], kept["amount_refunded"]) == ("succeeded", 1999, 500)
    assert (found["kind"], found["operation"], found["details"]["said"]["outcome"]) == (
        "contradiction",
        capture,
        "Declined",
    )
    assert (then.result, late.result) == ("applied", "applied")
    assert (after["status"], after["amount_received"], after["amount_refunded"]) == ("requires_capture", 0, 0)


async def test_what_was_decided_meanwhile_is_what_a_capture_that_fails_after_its_refund_is_compared_with(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    """The payment was read while its capture was open; by the time that its failure is written it is captured and refunded."""
    async with open_gateway(("stripe",)) as inside:
        merchant, deps = inside.merchant, inside.house.deps
        payment = await merchant.charged(capture_method="manual")
        psps.fault("stripe", "capture", "garbage")
        await merchant.post(f"/v1/payments/{payment['id']}/capture")
        capture = database.operations(payment["id"])[-1]["id"]
        before = await deps.queries.operation(capture)
        assert before is not None
        taken = Approved(before[1].provider_id or "ch_1", Money(1999, "EUR"), captured=True)
        await record(*before, taken, source="sweep", deps=deps)
        await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 500})
        applied = await news._recorded(*before, Declined(failed_after_all("reversed"), "ch_1"), deps)
        found = await incidents(inside)

    assert before[1].status == "unknown"
    assert (applied.result, [each["kind"] for each in found]) == ("waits_for_refund", ["contradiction"])


class Away:
    """A pool on a database that is lost for what is written about incidents, and for that alone."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.lost = True

    async def fetch(self, query: str, *args: Any) -> Any:
        if self.lost and "INSERT INTO incident" in query:
            raise DatabaseAway
        return await self._pool.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None


@pytest.mark.parametrize("kind", ["amount_mismatch", "contradiction"])
async def test_where_postgres_is_away_for_the_incident_its_webhook_is_applied_again(
    kind: str, open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        if kind == "contradiction":
            payment = (await inside.merchant.charge(payment_method_data=flow.card("4000000000000002"))).json()
            operation = database.operations(payment["id"])[0]["id"]
        else:
            payment, operation = await unknown(inside, psps, "stripe")
        books = inside.house.deps.news_books
        books._pool = away = Away(inside.house.pool)  # type: ignore[assignment]  # as much of a pool as is used
        said = event("stripe", flow, operation, amount=1999 if kind == "contradiction" else 1)
        account = inside.house.deps.accounts["stripe"]
        (received,) = await inside.house.inbox.receive(account, said[1], said[0])
        with suppress(DatabaseAway):
            await inside.house.inbox.apply(received)
        none, due = await incidents(inside), database.value("SELECT due_at IS NOT NULL FROM webhook_inbox")
        away.lost = False
        database.let_time_pass()
        await inside.house.inbox.apply_due(inside.house.deps.accounts, 10)
        found = await incidents(inside)

    assert (none, due) == ([], True)
    assert [each["kind"] for each in found] == [kind]
    assert database.value("SELECT due_at IS NULL AND applied_at IS NOT NULL FROM webhook_inbox")


async def test_an_incident_that_cannot_be_written_does_not_cost_a_call_its_answer(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        declined = (await inside.merchant.charge(payment_method_data=flow.card("4000000000000002"))).json()
        payment = await deps.queries.payment(declined["id"])
        assert payment is not None
        deps.news_books._pool = Away(inside.house.pool)  # type: ignore[assignment]  # as much of a pool as is used
        told = Approved("pi_1", Money(1999, "EUR"), captured=True)
        recorded = await record(payment, payment.operations[0], told, source="call", deps=deps)

    assert recorded is not None
    assert database.value("SELECT count(*) FROM incident") == 0


async def test_a_hundred_who_notice_it_at_once_write_one_incident_and_one_event(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        unsettled, _ = await unknown(inside, psps, "stripe")
        payment = await deps.queries.payment(unsettled["id"])
        assert payment is not None
        operation, said = payment.operations[0], Approved("pi_1", Money(5, "EUR"))
        await asyncio.gather(
            *(
                not_believed(IncidentKind.AMOUNT_MISMATCH, payment, operation, said, "stripe", "webhook", deps)
                for _ in range(100)
            )
        )

    assert database.value("SELECT count(*) FROM incident") == 1
    assert database.value("SELECT count(*) FROM event WHERE type = 'incident.opened'") == 1
    assert deps.instruments.incidents.labels("stripe", "amount_mismatch")._value.get() == 1


# --- The routes ---------------------------------------------------------------------------------------------------------


async def test_a_person_closes_an_incident_once_with_a_reason(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        _, operation = await unknown(inside, psps, "stripe")
        for amount in (1, 2, 3):
            await hear(inside, "stripe", event("stripe", flow, operation, amount=amount, number=str(amount)))
        first, second, third = await incidents(inside)
        path = f"/v1/incidents/{second['id']}"
        closed = await merchant.post(f"{path}/close", {"reason": "The provider has corrected it: case 4711."})
        again = await merchant.post(f"{path}/close", {"reason": "Once more."})
        shown = await merchant.get(path)
        still_open, done = await incidents(inside, status="open"), await incidents(inside, status="closed")
        page = (await merchant.get("/v1/incidents", limit=2)).json()
        rest = (await merchant.get("/v1/incidents", limit=2, cursor=page["next_cursor"])).json()
        reopened = await hear(inside, "stripe", event("stripe", flow, operation, amount=2, number="again"))
        after = await merchant.get(path)

    assert closed.status_code == again.status_code == 200
    assert closed.json() == again.json() == shown.json() == after.json()
    assert (closed.json()["status"], closed.json()["reason"]) == ("closed", "The provider has corrected it: case 4711.")
    assert ([each["id"] for each in still_open], [each["id"] for each in done]) == (
        [first["id"], third["id"]],
        [second["id"]],
    )
    assert [each["id"] for each in (*page["data"], *rest["data"])] == [first["id"], second["id"], third["id"]]
    assert (page["has_more"], rest["has_more"], reopened) == (True, False, ["amount_mismatch"])


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/v1/incidents?kind=fire", None, 422, "kind"),
        ("/v1/incidents?status=ajar", None, 422, "status"),
        ("/v1/incidents?payment=7", None, 422, "payment"),
        ("/v1/incidents?reference=7", None, 422, "reference"),
        ("/v1/incidents?cursor=pay_1", None, 422, "cursor"),
        ("/v1/incidents/in_1", None, 404, None),
        (f"/v1/incidents/in_{'0' * 32}", None, 404, None),
        (f"/v1/incidents/in_{'0' * 32}/close", {"reason": "x"}, 404, None),
        ("{incident}/close", {}, 422, "reason"),
        ("{incident}/close", {"reason": ""}, 422, "reason"),
        ("{incident}/close", {"reason": "x", "kind": "y"}, 422, "kind"),
    ],
)
async def test_what_the_routes_refuse(
    path: str, fields: Any, status: int, param: str | None, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        if "{incident}" in path:
            _, operation = await unknown(inside, psps, "stripe")
            await hear(inside, "stripe", event("stripe", flow, operation, amount=1))
            (found,) = await incidents(inside)
            path = path.replace("{incident}", f"/v1/incidents/{found['id']}")
        path, _, query = path.partition("?")
        filters = dict(parse_qsl(query))
        merchant = inside.merchant
        answer = await (merchant.get(path, **filters) if fields is None else merchant.post(path, fields))

    assert (answer.status_code, answer.json()["param"]) == (status, param)


async def test_another_merchants_incident_is_not_there(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        _, operation = await unknown(inside, psps, "stripe")
        await hear(inside, "stripe", event("stripe", flow, operation, amount=1))
        (found,) = await incidents(inside)
        database.rows("UPDATE incident SET merchant_id = 'mer_other'")
        listed = await incidents(inside)
        shown = await inside.merchant.get(f"/v1/incidents/{found['id']}")
        closed = await inside.merchant.post(f"/v1/incidents/{found['id']}/close", {"reason": "mine"})

    assert (listed, shown.status_code, closed.status_code) == ([], 404, 404)
    assert database.value("SELECT closed_at FROM incident") is None
