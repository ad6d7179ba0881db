"""What the books keep for routing strategies to learn from: one word an attempt, with the transaction that wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Open, Psps


def told(database: Database, payment_id: str) -> list[tuple[str, str, str | None]]:
    return [
        (row["account"], row["status"], row["evidence_word"])
        for row in database.operations(payment_id)
        if row["kind"] == "authorize"
    ]


async def test_each_attempt_of_a_cascade_says_what_its_account_did_in_the_order_of_the_commits(
    open_gateway: Open, flow: type[Kit], database: Database
) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged(payment_method_data=flow.card("4000000000000002"))

    assert told(database, payment["id"]) == [
        ("stripe", "declined", "declined_ambiguous"),
        ("adyen", "captured", "approved"),
    ]
    declined, approved = database.operations(payment["id"])
    assert declined["evidence_xid"] < approved["evidence_xid"]
    assert declined["evidence_at"] <= approved["evidence_at"]


async def test_a_decline_that_every_account_would_give_is_the_customers(
    open_gateway: Open, flow: type[Kit], database: Database
) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.charge(payment_method_data=flow.card("4000000000009995"))

    assert told(database, answer.json()["id"]) == [("stripe", "declined", "declined_customer")]


async def test_an_account_that_is_not_reached_is_technical_and_the_next_one_approves(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway(unreachable=["stripe"]) as inside:
        payment = await inside.merchant.charged()

    assert told(database, payment["id"]) == [
        ("stripe", "not_processed", "technical"),
        ("adyen", "captured", "approved"),
    ]


async def test_a_timeout_stays_one_although_the_payment_turns_out_to_be_approved(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    async with open_gateway() as inside:
        psps.fault("stripe", "authorize", "garbage", times=None)
        psps.fault("stripe", "authorize", "drop_webhook", times=None)
        waiting = await inside.merchant.charge()
        before = database.operations(waiting.json()["id"])
        psps.clear_faults("stripe")
        await inside.work()
        payment = await inside.merchant.payment(waiting.json()["id"])
        after = database.operations(payment["id"])

    assert (waiting.status_code, payment["status"]) == (202, "succeeded")
    assert told(database, payment["id"]) == [("stripe", "captured", "technical")]
    names = ("evidence_word", "evidence_at", "evidence_xid")
    assert [before[0][name] for name in names] == [after[0][name] for name in names]


async def test_a_challenge_says_nothing_until_it_has_ended(
    open_gateway: Open, flow: type[Kit], psps: Psps, database: Database
) -> None:
    async with open_gateway(listening=True) as inside:
        waiting: dict[str, Any] = (
            await inside.merchant.charge(payment_method_data=flow.card("4000002760003184"))
        ).json()
        meanwhile = told(database, waiting["id"])
        back = await psps.visit(waiting, "succeeded")
        await inside.merchant.http.get(back)
        payment = await inside.merchant.payment(waiting["id"])

    assert meanwhile == [("stripe", "requires_action", None)]
    assert payment["status"] == "succeeded"
    assert told(database, payment["id"]) == [("stripe", "captured", "approved")]


async def test_a_capture_or_a_refund_says_nothing(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged(capture_method="manual")
        await inside.merchant.post(f"/v1/payments/{payment['id']}/capture")
        await inside.merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 100})

    words = {row["kind"]: row["evidence_word"] for row in database.operations(payment["id"])}
    assert words == {"authorize": "approved", "capture": None, "refund": None}
