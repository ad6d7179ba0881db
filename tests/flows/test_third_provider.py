"""A third provider is one file and one entry point: nothing in the gateway knows its name, and every part of it works there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Kit, Open, Psps


async def test_a_payment_lives_its_life_at_the_third_provider(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(("neutral",), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual", key="order-1")
        again = await merchant.charged(capture_method="manual", key="order-1")
        path = f"/v1/payments/{payment['id']}"
        parts = [await merchant.post(f"{path}/capture", {"amount": 500, "final": final}) for final in (False, True)]
        refund = await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 300})
        raised = await merchant.post(f"{path}/increment", {"amount": 5000})
        held = await merchant.charged(capture_method="manual")
        canceled = await merchant.post(f"/v1/payments/{held['id']}/cancel")
        after = await merchant.payment(payment["id"])

        async def heard() -> bool:
            applied = "SELECT count(*) FROM webhook_inbox WHERE applied_at IS NOT NULL"
            return bool(inside.database.value(applied) >= 5)

        await flow.eventually(heard, "its webhooks were applied")
        unchanged = await merchant.payment(payment["id"])

    assert again == payment
    assert (payment["account"], payment["provider"]) == ("neutral", "neutral")
    assert [part.status_code for part in parts] == [200, 200]
    assert refund.status_code == 201, refund.text
    assert raised.status_code == 409
    assert canceled.json()["status"] == "canceled"
    assert (after["amount_received"], after["amount_refunded"], after["status"]) == (1000, 300, "succeeded")
    assert unchanged == after
    assert [entry["amount"] for entry in psps.books("neutral", "captures")] == [500, 500]


async def test_a_shopper_is_challenged_at_the_third_provider_and_comes_back(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("neutral",)) as inside:
        answer = await inside.merchant.charge(payment_method_data=flow.card("4000000000003220"))
        await inside.merchant.come_back(await psps.visit(answer.json(), "succeeded"))
        paid = await inside.merchant.payment(answer.json()["id"])

    assert paid["status"] == "succeeded"


async def test_a_soft_decline_at_the_third_provider_is_taken_to_the_next_account(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("neutral", "stripe")) as inside:
        psps.fault("neutral", "authorize", "decline", code="bank_away")
        paid = await inside.merchant.charged()
        unsupported = await inside.merchant.charge(setup_future_usage="off_session", routing={"account": "neutral"})

    assert (paid["account"], paid["attempt_count"]) == ("stripe", 2)
    assert unsupported.json()["accounts"] == {"neutral": "no_stored_credentials"}
