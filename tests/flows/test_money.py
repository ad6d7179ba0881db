"""An amount is the same money everywhere, although the PSPs count the decimals of some currencies in their own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.conftest import Kit, Open, Psps

# currency, amount in ISO minor units, the integer in Stripe's books and in Adyen's; None: that PSP cannot carry it.
# https://docs.stripe.com/currencies and https://docs.adyen.com/development-resources/currency-codes
SENT: Final[list[tuple[str, int, int | None, int | None]]] = [
    ("EUR", 1999, 1999, 1999),
    ("USD", 100, 100, 100),
    ("JPY", 500, 500, 500),
    ("KRW", 12_000, 12_000, 12_000),
    ("VND", 30_000, 30_000, 30_000),
    ("ISK", 300, 30_000, 30_000),
    ("UGX", 5_000, 500_000, 5_000),
    ("CLP", 990, 990, 99_000),
    ("KWD", 12_340, 12_340, 12_340),
    ("BHD", 1_000, 1_000, 1_000),
    ("TND", 4_560, 4_560, 4_560),
    ("KWD", 12_345, None, 12_345),
    ("BHD", 1, None, 1),
    ("IDR", 1_500_000, 1_500_000, 15_000),
    ("IDR", 1_500_050, 1_500_050, None),
    ("MGA", 100, 1, 100),
]
CARRIED: Final = [row for row in SENT if None not in row]


async def test_each_psp_is_sent_its_own_integer_and_the_merchant_sees_the_same_amount(
    open_gateway: Open, psps: Psps
) -> None:
    faults = []

    async with open_gateway() as inside:
        for currency, amount, at_stripe, at_adyen in SENT:
            for psp, expected in (("stripe", at_stripe), ("adyen", at_adyen)):
                if expected is None:
                    continue
                answer = await inside.merchant.charge(amount=amount, currency=currency, routing={"account": psp})
                payment = answer.json()
                said = (
                    answer.status_code,
                    payment.get("amount"),
                    payment.get("amount_received"),
                    payment.get("currency"),
                )
                found = [
                    (charge["amount"], charge["currency"].upper())
                    for charge in psps.books(psp, "authorisations")
                    if charge["payment"] == payment.get("provider_payment_id")
                ]
                if said != (201, amount, amount, currency) or found != [(expected, currency)]:
                    faults.append((currency, amount, psp, said, found, payment.get("detail")))

    assert faults == []


async def test_an_amount_that_a_psp_cannot_carry_goes_to_the_other_one_at_once(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as inside:
        dinar = await inside.merchant.charged(amount=12_345, currency="KWD")
    async with open_gateway(("adyen", "stripe")) as inside:
        rupiah = await inside.merchant.charged(amount=1_500_050, currency="IDR")

    assert (dinar["account"], dinar["attempt_count"]) == ("adyen", 1)
    assert (rupiah["account"], rupiah["attempt_count"]) == ("stripe", 1)
    assert [charge["currency"].upper() for charge in psps.books("stripe", "authorisations")] == ["IDR"]
    assert [charge["currency"].upper() for charge in psps.books("adyen", "authorisations")] == ["KWD"]


async def test_an_amount_that_no_account_can_carry_is_refused_and_nobody_is_asked(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.charge(amount=12_345, currency="KWD", routing={"account": "stripe"})

    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (
        422,
        "no_eligible_account",
        "routing.account",
    )
    assert "amount_not_representable" in answer.json()["detail"]
    assert psps.nobody_was_asked()


@pytest.mark.parametrize("order", [("stripe", "adyen"), ("adyen", "stripe")], ids=["to_adyen", "to_stripe"])
async def test_failing_over_keeps_the_money_what_it_was(
    order: tuple[str, str], open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    first, second = order
    method = flow.card("4000000000000002") if first == "stripe" else flow.card(holder="DECLINED")
    faults = []

    async with open_gateway(order) as inside:
        for currency, amount, at_stripe, at_adyen in CARRIED:
            answer = await inside.merchant.charge(amount=amount, currency=currency, payment_method_data=method)
            payment = answer.json()
            sent = {"stripe": at_stripe, "adyen": at_adyen}
            declined, approved = psps.books(first, "declines")[-1], psps.books(second, "authorisations")[-1]
            found = (answer.status_code, payment.get("amount_received"), declined["amount"], approved["amount"])
            if found != (201, amount, sent[first], sent[second]):
                faults.append((currency, amount, found))

    assert faults == []


@pytest.mark.parametrize("psp", ["stripe", "adyen"])
async def test_captures_and_refunds_are_counted_as_the_charge_was(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    sent = {"stripe": 30_000, "adyen": 30_000}

    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(amount=300, currency="ISK", capture_method="manual")
        await merchant.post(f"/v1/payments/{payment['id']}/capture", {"amount": 300})

        async def captured() -> bool:
            return bool((await merchant.payment(payment["id"]))["amount_received"] == 300)

        await flow.eventually(captured, "the capture")
        refund = await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 100})

    assert refund.status_code in {201, 202}
    assert refund.json()["amount"] == 100
    assert [entry["amount"] for entry in psps.books(psp, "captures")] == [sent[psp]]
    assert [entry["amount"] for entry in psps.books(psp, "refunds")] == [sent[psp] // 3]


async def test_a_refund_that_the_psp_cannot_carry_is_refused_before_it_is_sent(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await inside.merchant.charged(amount=12_340, currency="KWD")
        answer = await inside.merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 5})

    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (422, "validation_failed", "amount")
    assert psps.requests("stripe", "refund") == []
