"""Events: which of them each flow tells, in which order and how often; how they are read, and told again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

from webhooks.catalog import EVENTS, types_of

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open, Psps

ENDPOINTS: Final = "/v1/webhook_endpoints"
HOOK: Final = "https://shop.example/hooks"
MANUAL: Final[dict[str, Any]] = {"capture_method": "manual"}
CHALLENGED: Final = {"stripe": "4000000000003220", "adyen": "5454545454545454"}
DISPUTED: Final = {"stripe": ("4000000000000259", None), "adyen": ("4111111111111111", "chargeback:10.4")}


async def told_of(inside: Inside, payment_id: str) -> list[dict[str, Any]]:
    """Everything that was told of a payment, as its merchant sees it."""
    shown = await inside.merchant.get(f"/v1/payments/{payment_id}", **{"expand[]": "events"})
    assert shown.status_code == 200, shown.text
    events: list[dict[str, Any]] = shown.json()["events"]
    return events


# --- Which events each flow tells -------------------------------------------------------------------------------------


class Flow:
    """One gateway, one PSP, and a merchant who does something."""

    def __init__(self, inside: Inside, psps: Psps, psp: str, kit: type[Kit]) -> None:
        self.inside, self.psps, self.psp, self.kit = inside, psps, psp, kit
        self.merchant = inside.merchant

    async def charge(self, **fields: Any) -> str:
        answer = await self.merchant.charge(**{"routing": {"account": self.psp}} | fields)
        assert answer.status_code in {201, 202, 402}, answer.text
        return str(answer.json()["id"])

    async def verb(self, payment: str, verb: str, **fields: Any) -> None:
        answer = await self.merchant.post(f"/v1/payments/{payment}/{verb}", fields)
        assert answer.status_code in {200, 202}, answer.text

    async def refund(self, payment: str, amount: int) -> None:
        answer = await self.merchant.post("/v1/refunds", {"payment": payment, "amount": amount})
        assert answer.status_code in {201, 202}, answer.text

    async def told(self, payment: str, type_: str) -> None:
        """Wait until it is."""

        async def there() -> bool:
            return type_ in {event["type"] for event in await told_of(self.inside, payment)}

        await self.kit.eventually(there, f"{type_} was told")

    async def quiet(self) -> None:
        """Wait until every webhook has come and is applied."""
        database = self.inside.database

        def done() -> bool:
            sent = self.psps.webhooks(self.psp)
            waiting = database.value("SELECT count(*) FROM webhook_inbox WHERE result IS NULL")
            return waiting == 0 and all(each["status"] in {"delivered", "dropped"} for each in sent)

        await self.kit.eventually(done, "every webhook was applied")


Step = Callable[[Flow], Awaitable[str]]


async def approved(it: Flow) -> str:
    return await it.charge()


async def created(it: Flow) -> str:
    return await it.charge(confirm=False)


async def declined(it: Flow) -> str:
    it.psps.fault(it.psp, "authorize", "decline", **({"code": "lost_card"} if it.psp == "stripe" else {}))
    return await it.charge()


async def unknown_then_settled(it: Flow) -> str:
    it.psps.fault(it.psp, "authorize", "garbage")
    it.psps.fault(it.psp, "authorize", "drop_webhook")
    payment = await it.charge()
    await it.inside.work()
    return payment


async def held(it: Flow) -> str:
    return await it.charge(**MANUAL)


async def captured(it: Flow) -> str:
    payment = await it.charge(**MANUAL)
    await it.verb(payment, "capture")
    return payment


async def captured_in_part(it: Flow) -> str:
    payment = await it.charge(**MANUAL)
    await it.verb(payment, "capture", amount=700)
    return payment


async def canceled(it: Flow) -> str:
    payment = await it.charge(**MANUAL)
    await it.verb(payment, "cancel")
    return payment


async def refunded(it: Flow) -> str:
    payment = await it.charge()
    await it.refund(payment, 500)
    return payment


async def refund_failed(it: Flow) -> str:
    it.psps.fault(it.psp, "refund", "fail_later")
    payment = await it.charge()
    await it.refund(payment, 500)
    return payment


async def disputed(it: Flow) -> str:
    number, holder = DISPUTED[it.psp]
    return await it.charge(payment_method_data=it.kit.card(number, holder))


async def challenged(it: Flow, result: str = "succeeded") -> str:
    payment = await it.charge(
        payment_method_data=it.kit.card(CHALLENGED[it.psp]),
        return_url="https://shop.example",
        three_d_secure="required",
    )
    waiting = await it.merchant.payment(payment)
    await it.merchant.come_back(await it.psps.visit(waiting, result))
    return payment


DEFENSE: Final[dict[str, dict[str, Any]]] = {
    "stripe": {"text": {"uncategorized_text": "winning_evidence"}},
    "adyen": {
        "reason": "SupplyDefenseMaterial",
        "documents": [{"type": "DefenseMaterial", "content_type": "application/pdf", "content": "JVBERi0xLjQgYQ=="}],
    },
}


async def defended(it: Flow) -> str:
    payment = await disputed(it)
    await it.told(payment, "dispute.created")
    (dispute,) = (await it.merchant.get("/v1/disputes", payment=payment)).json()["data"]
    answer = await it.merchant.post(f"/v1/disputes/{dispute['id']}/evidence", DEFENSE[it.psp])
    assert answer.status_code == 200, answer.text
    return payment


async def challenge_failed(it: Flow) -> str:
    return await challenged(it, "failed")


async def cascaded(it: Flow) -> str:
    it.psps.fault("stripe", "authorize", "decline", code="generic_decline")
    return await it.charge(routing=None)


async def verified(it: Flow) -> str:
    method = {**it.kit.card(), "verify": True, "currency": "EUR", "routing": {"account": it.psp}}
    answer = await it.merchant.post("/v1/payment_methods", method)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["verification"]["payment"])


PAID: Final = (2, "payment.succeeded")
HELD: Final = (2, "payment.requires_capture")
Told = list[tuple[int, str]]
FLOWS: Final[list[tuple[Step, Told, Told | None]]] = [
    (created, [], None),
    (verified, [], None),
    (approved, [PAID], None),
    (declined, [(2, "attempt.declined"), (2, "payment.requires_payment_method")], None),
    (unknown_then_settled, [(2, "attempt.unknown"), (2, "payment.unknown"), (3, "payment.succeeded")], None),
    (held, [HELD], None),
    (
        captured,
        [HELD, (4, "capture.succeeded"), (4, "payment.succeeded")],
        [HELD, (4, "capture.pending"), (5, "capture.succeeded"), (5, "payment.succeeded")],
    ),
    (
        captured_in_part,
        [HELD, (4, "capture.succeeded"), (4, "payment.succeeded")],
        [HELD, (4, "capture.pending"), (5, "capture.succeeded"), (5, "payment.succeeded")],
    ),
    (
        canceled,
        [HELD, (4, "attempt.voided"), (4, "payment.canceled")],
        [HELD, (5, "attempt.voided"), (5, "payment.canceled")],
    ),
    (refunded, [PAID, (4, "refund.succeeded")], [PAID, (4, "refund.pending"), (5, "refund.succeeded")]),
    (refund_failed, [PAID, (4, "refund.pending"), (5, "refund.failed")], None),
    (challenged, [(2, "payment.requires_action"), (4, "payment.succeeded")], None),
    (
        challenge_failed,
        [(2, "payment.requires_action"), (4, "attempt.declined"), (4, "payment.requires_payment_method")],
        None,
    ),
    (disputed, [PAID, (3, "dispute.created")], None),
    (
        defended,
        [PAID, (3, "dispute.created"), (5, "dispute.updated"), (6, "dispute.closed")],
        None,
    ),
]
"""Each flow with what is told at the first PSP, and at the second where that is something else. The number is the payment's version:
what was only asked for has one, and tells nothing."""


@pytest.mark.parametrize("psp", ["stripe", "adyen"])
async def test_each_flow_tells_exactly_these_events(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit], proved: Callable[[str], None]
) -> None:
    found, expected = {}, {}
    async with open_gateway(listening=True) as inside:
        for step, at_first, at_second in FLOWS:
            told = at_second if psp == "adyen" and at_second is not None else at_first
            it = Flow(inside, psps, psp, flow)
            payment = await step(it)
            if told:
                await it.told(payment, told[-1][1])
            await it.quiet()
            found[step.__name__] = sorted(
                (event["sequence"], event["type"]) for event in await told_of(inside, payment)
            )
            expected[step.__name__] = told
            psps.clear_faults(psp)

    assert found == expected
    proved(f"events: {len(found)} flows at {psp} tell {sum(map(len, found.values()))} events, none missing, none twice")


async def test_a_cascade_tells_the_decline_and_then_the_approval(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(listening=True) as inside:
        it = Flow(inside, psps, "stripe", flow)
        payment = await cascaded(it)
        await it.quiet()
        told = await told_of(inside, payment)

    assert [(event["sequence"], event["type"]) for event in told] == [(2, "attempt.declined"), (3, "payment.succeeded")]
    assert (told[0]["data"]["account"], told[1]["data"]["account"]) == ("stripe", "adyen")


async def test_every_type_of_the_catalogue_is_told_by_a_flow_or_said_to_be_rare() -> None:
    """What no flow of the table tells is tested where it happens."""
    told = {type_ for _, first, second in FLOWS for _, type_ in [*first, *(second or [])]}
    rare = {
        "payment.requires_confirmation",
        "payment.processing",
        "payment.needs_review",
        "payment.retry_scheduled",
        "payment.failed",
        "payment.updated",
        "attempt.not_processed",
        "attempt.expired",
        "capture.unknown",
        "capture.failed",
        "refund.unknown",
        "payment.fraud_warning",
        "payment.review_opened",
        "payment.review_closed",
        "payment_method.updated",
        "incident.opened",
        "report.available",
        *types_of(["monitor.*", "routing.*", "webhook_endpoint.*"]),
    }

    assert told <= EVENTS.keys()
    assert EVENTS.keys() - told - rare == set()


# --- How they are read ------------------------------------------------------------------------------------------------


async def test_an_event_is_shown_as_it_was_stored_to_the_byte(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged(metadata={"name": "Zoë \u2028 ✓"}, description="ünïcode")
        ((event_id, body),) = [(row["id"], row["body"]) for row in database.rows("SELECT id, body FROM event")]
        one = await inside.merchant.get(f"/v1/events/{event_id}")
        many = await inside.merchant.get("/v1/events")
        expanded = await inside.merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "events"})
    event = one.json()

    assert one.content == body == orjson.dumps(orjson.loads(body))
    assert many.content == b'{"object":"list","data":[' + body + b'],"has_more":false,"next_cursor":null}'
    assert body in expanded.content
    assert event | {"data": None} == {
        "id": event_id,
        "object": "event",
        "type": "payment.succeeded",
        "timestamp": payment["updated"],
        "api_version": event["api_version"],
        "livemode": False,
        "payment": payment["id"],
        "sequence": 2,
        "data": None,
    }
    assert "client_secret" not in event["data"]
    assert event["data"] == {name: value for name, value in payment.items() if name != "client_secret"}


async def test_events_are_listed_newest_first_and_filtered(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        paid = [await inside.merchant.charged() for _ in range(3)]
        held = await inside.merchant.charged(capture_method="manual")
        everything = (await inside.merchant.get("/v1/events")).json()["data"]

        async def listed(**query: Any) -> list[str]:
            answer = await inside.merchant.get("/v1/events", **query)
            assert answer.status_code == 200, answer.text
            return [event["payment"] for event in answer.json()["data"]]

        walked: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        for _ in range(3):
            page = (await inside.merchant.get("/v1/events", **query)).json()
            walked += [event["id"] for event in page["data"]]
            query["cursor"] = page["next_cursor"]
            if not page["has_more"]:
                break
        third = everything[1]["timestamp"]
        by = {
            "type": await listed(type="payment.requires_capture"),
            "family": await listed(type="payment.*"),
            "other family": await listed(type="refund.*"),
            "payment": await listed(payment=paid[1]["id"]),
            "since": await listed(**{"created[gte]": third}),
            "before": await listed(**{"created[lt]": third}),
            "long ago": await listed(**{"created[lt]": "0001-01-01T00:00:00Z"}),
            "some day": await listed(**{"created[gte]": "9999-12-31T23:59:59.999999Z"}),
        }
        wrong = {
            (answer.status_code, answer.json()["param"])
            for answer in [
                await inside.merchant.get("/v1/events", type="invoice.paid"),
                await inside.merchant.get("/v1/events", payment="order-1"),
                await inside.merchant.get("/v1/events", cursor="evt_1"),
                await inside.merchant.get("/v1/events", limit=101),
                await inside.merchant.get("/v1/events", status="x"),
                await inside.merchant.get("/v1/events", **{"created[gte]": "yesterday"}),
            ]
        }

    newest_first = [held["id"], *(each["id"] for each in reversed(paid))]
    assert [event["payment"] for event in everything] == newest_first
    assert walked == [event["id"] for event in everything]
    assert by == {
        "type": [held["id"]],
        "family": newest_first,
        "other family": [],
        "payment": [paid[1]["id"]],
        "since": newest_first[:2],
        "before": newest_first[2:],
        "long ago": [],
        "some day": [],
    }
    assert wrong == {(422, param) for param in ("type", "payment", "cursor", "limit", "status", "created[gte]")}


# --- Telling again ----------------------------------------------------------------------------------------------------


async def test_an_event_is_told_again_to_every_endpoint_that_wants_it_or_to_one(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant

        async def made(**fields: Any) -> str:
            return str((await merchant.post(ENDPOINTS, {"url": HOOK} | fields)).json()["id"])

        first, deaf = await made(), await made(events=["refund.*"])
        paid = await merchant.charged()
        (event,) = (await merchant.get("/v1/events", payment=paid["id"])).json()["data"]
        path = f"/v1/events/{event['id']}"
        second = await made(events=["payment.*"])  # it was made later
        database.rows("UPDATE delivery SET status = 'succeeded', due_at = NULL, delivered_at = now(), tries = 3")
        database.rows(
            "INSERT INTO delivery_attempt (endpoint_id, event_id, at, status, error, excerpt, took_ms)"
            " SELECT endpoint_id, event_id, now() - make_interval(secs => n), 500 - n, NULL, 'x', n"
            " FROM delivery, generate_series(1, 2) n"
        )
        to_one = await merchant.post(f"{path}/redeliver", {"endpoint": second})
        status = {row["endpoint_id"]: row["status"] for row in database.rows("SELECT * FROM delivery")}
        to_all = await merchant.post(f"{path}/redeliver")
        shown = (await merchant.get(f"{path}/deliveries")).json()
        database.rows("UPDATE delivery SET due_at = now() + interval '6 seconds', tries = 1")
        under_way = await merchant.post(f"{path}/redeliver")
        untouched = {row["tries"] for row in database.rows("SELECT tries FROM delivery")}
        not_wanted = await merchant.post(f"{path}/redeliver", {"endpoint": deaf})
        for each in (first, second):
            await merchant.post(f"{ENDPOINTS}/{each}", {"status": "disabled"})
        nobody = await merchant.post(f"{path}/redeliver")
        wrong = await merchant.post(f"{path}/redeliver", {"endpoint": "we_1"})

    assert to_one.status_code == to_all.status_code == under_way.status_code == 200
    assert status == {first: "succeeded", second: "pending"}
    assert {each["endpoint"]: each["status"] for each in shown["data"]} == {first: "pending", second: "pending"}
    (tried,) = [each for each in shown["data"] if each["attempts"]]
    assert (tried["endpoint"], tried["tries"], tried["delivered"]) == (first, 2, None)
    assert [(each["status"], each["took_ms"]) for each in tried["attempts"]] == [(498, 2), (499, 1)]
    assert untouched == {1}
    assert [(answer.status_code, answer.json()["code"]) for answer in (not_wanted, nobody)] == [
        (409, "not_deliverable")
    ] * 2
    assert not_wanted.json()["param"] == "endpoint"
    assert (wrong.status_code, wrong.json()["param"]) == (422, "endpoint")


async def test_a_test_event_is_told_again_only_where_it_was_told(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        one, other = [(await inside.merchant.post(ENDPOINTS, {"url": HOOK})).json()["id"] for _ in range(2)]
        event = (await inside.merchant.post(f"{ENDPOINTS}/{one}/test")).json()
        again = await inside.merchant.post(f"/v1/events/{event['id']}/redeliver")
        elsewhere = await inside.merchant.post(f"/v1/events/{event['id']}/redeliver", {"endpoint": other})

    assert [each["endpoint"] for each in again.json()["data"]] == [one]
    assert elsewhere.status_code == 409
    assert json.loads(again.text)["has_more"] is False
    assert database.value("SELECT count(*) FROM delivery") == 1


def test_the_catalogue_names_things_and_what_happened_to_them() -> None:
    words = Counter(len(type_.split(".")) for type_ in EVENTS)

    assert words == {2: len(EVENTS)}
    assert all(text.endswith(".") for text in EVENTS.values())
