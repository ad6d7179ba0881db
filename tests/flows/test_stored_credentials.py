"""Stored credentials: one payment with the shopper there, and the next ones without, at the same account or another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Kit, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])


@at_each
async def test_a_card_kept_at_its_first_payment_is_charged_by_its_token_while_the_shopper_is_away(
    psp: str, open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway((psp,)) as inside:
        merchant = inside.merchant
        first = await merchant.charged(setup_future_usage="off_session", customer="shopper-77")
        method = (await merchant.get(f"/v1/payment_methods/{first['payment_method']}")).json()
        inside.database.rows("UPDATE payment_method SET sealed_card = NULL, sealed_cvc = NULL")
        later = [
            await merchant.charged(
                payment_method=first["payment_method"],
                payment_method_data=None,
                off_session=True,
                recurring="subscription",
                customer="shopper-77",
            )
            for _ in range(2)
        ]

    assert method["tokens"] == [psp]
    assert method["network_transaction_id"] == first["network_transaction_id"]
    assert [payment["status"] for payment in later] == ["succeeded", "succeeded"]
    assert len(psps.charges()) == 3


async def test_a_card_first_charged_at_one_account_goes_on_at_the_other_with_the_networks_id(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway(("stripe", "adyen"), off_session_gap_s=0) as inside:
        merchant = inside.merchant
        first = await merchant.charged(setup_future_usage="off_session", customer="shopper-77")
        psps.fault("stripe", "authorize", "decline", code="generic_decline")
        later = await merchant.charged(
            payment_method=first["payment_method"],
            payment_method_data=None,
            off_session=True,
            recurring="unscheduled",
            customer="shopper-77",
        )
        refund = await merchant.post("/v1/refunds", {"payment": later["id"]})

    assert (first["account"], later["account"], later["attempt_count"]) == ("stripe", "adyen", 2)
    assert refund.status_code in {201, 202}, refund.text
    assert len(psps.requests("adyen", "authorize")) == 1


@at_each
async def test_an_issuer_that_wants_to_see_the_shopper_makes_the_payment_wait_for_them(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    number = {"stripe": "4000002760003184", "adyen": "4000200000001030"}[psp]
    async with open_gateway((psp,)) as inside:
        merchant = inside.merchant
        answer = await merchant.charge(
            payment_method_data=flow.card(number),
            setup_future_usage="off_session",
            off_session=True,
            recurring="unscheduled",
            customer="shopper-77",
            return_url="https://shop.example/back",
        )
        waiting = answer.json()
        confirmed = await merchant.post(
            f"/v1/payments/{waiting['id']}/confirm", {"payment_method_data": flow.card(number)}
        )
        challenged = confirmed.json()
        await merchant.come_back(await psps.visit(challenged, "succeeded"))
        paid = await merchant.payment(waiting["id"])

    assert (answer.status_code, waiting["status"]) == (201, "requires_action"), answer.text
    assert waiting["next_action"] == {"type": "authenticate_on_session"}
    assert waiting["decline"]["code"] == "authentication_required"
    assert (confirmed.status_code, challenged["status"]) == (200, "requires_action"), confirmed.text
    assert (paid["status"], paid["off_session"]) == ("succeeded", False)
    assert len(psps.charges()) == 1


async def test_a_payment_that_was_stepped_up_asks_the_next_account_for_3_d_secure_too(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe", "adyen")) as inside:
        merchant = inside.merchant
        psps.fault("stripe", "authorize", "decline", code="authentication_required")
        waiting = (await merchant.charge(off_session=True, recurring="unscheduled")).json()
        psps.fault("stripe", "any", "status", status=401)
        answer = await merchant.post(
            f"/v1/payments/{waiting['id']}/confirm", {"payment_method_data": flow.card("4111111111111111")}
        )

    assert waiting["status"] == "requires_action"
    assert (answer.json()["account"], answer.json()["status"]) == ("adyen", "requires_action")
    assert answer.json()["next_action"]["type"] == "redirect_to_url"


async def test_an_account_that_cannot_take_a_foreign_network_id_is_refused_by_name(
    open_gateway: Open, psps: Psps
) -> None:
    fields: dict[str, Any] = {
        "off_session": True,
        "recurring": "subscription",
        "network_transaction_id": "MCC1234567890",
    }
    async with open_gateway(("stripe",)) as inside:
        refused = await inside.merchant.charge(**fields)
    asked = psps.nobody_was_asked()
    async with open_gateway(("stripe", "adyen")) as inside:
        paid = await inside.merchant.charged(**fields)

    assert (refused.status_code, refused.json()["accounts"]) == (422, {"stripe": "no_network_transaction_id"})
    assert asked
    assert (paid["account"], paid["status"]) == ("adyen", "succeeded")
