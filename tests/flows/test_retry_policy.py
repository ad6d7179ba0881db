"""How often a charge is tried, and which rule allows each try: by real HTTP, at accounts that decline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.sql import Pool

if TYPE_CHECKING:
    from tests.conftest import Inside, Kit, Merchant, Open, Psps

THREE: Any = ("stripe", "adyen", "neutral")
DECLINED_EVERYWHERE: Any = {"number": "4000000000000002", "holder": "DECLINED"}


async def attempts(inside: Inside, payment_id: str) -> list[tuple[str, str, str | None]]:
    """Each attempt of a payment: its account, its status, and the rule that allowed it."""
    shown = await inside.merchant.get(f"/v1/payments/{payment_id}", **{"expand[]": "attempts"})
    return [(one["account"], one["status"], one["allowed_by"]) for one in shown.json()["attempts"]]


async def test_two_accounts_process_a_charge_and_the_third_is_not_asked(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(THREE) as inside:
        answer = await inside.merchant.charge(payment_method_data=flow.card(**DECLINED_EVERYWHERE))
        tried = await attempts(inside, answer.json()["id"])

    assert (answer.status_code, answer.json()["status"]) == (402, "requires_payment_method")
    assert tried == [("stripe", "declined", None), ("adyen", "declined", "code_table")]
    assert not psps.requests("neutral")


async def test_as_many_accounts_process_a_charge_as_are_set(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(THREE, attempts_on_session=1) as inside:
        one = await inside.merchant.charge(payment_method_data=flow.card(**DECLINED_EVERYWHERE))
    asked = [psp for psp in THREE if psps.requests(psp, "authorize")]
    async with open_gateway(THREE, attempts_on_session=3) as inside:
        three = await inside.merchant.charge(payment_method_data=flow.card(**DECLINED_EVERYWHERE))

    assert (one.json()["attempt_count"], asked) == (1, ["stripe"])
    assert (three.status_code, three.json()["account"], three.json()["attempt_count"]) == (402, "neutral", 3)


async def test_an_account_that_did_nothing_uses_up_no_attempt(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    psps.fault("adyen", "authorize", "decline", code="2")

    async with open_gateway(THREE, unreachable=["stripe"]) as inside:
        answer = await inside.merchant.charge()
        tried = await attempts(inside, answer.json()["id"])

    assert (answer.status_code, answer.json()["account"]) == (201, "neutral"), answer.text
    assert tried == [
        ("stripe", "not_processed", None),
        ("adyen", "declined", "not_processed"),
        ("neutral", "captured", "code_table"),
    ]


async def test_what_says_never_is_asked_of_nobody_else_though_the_code_alone_would_allow_it(
    open_gateway: Open, psps: Psps
) -> None:
    psps.fault("stripe", "authorize", "decline", code="do_not_try_again")

    async with open_gateway(("stripe", "adyen")) as inside:
        answer = await inside.merchant.charge()

    assert (answer.status_code, answer.json()["attempt_count"]) == (402, 1)
    assert not psps.requests("adyen")


async def test_a_decline_without_the_shopper_is_not_taken_to_another_account_at_once(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe", "adyen")) as inside:
        method = flow.card("4000000000000002")
        answer = await inside.merchant.charge(payment_method_data=method, off_session=True, recurring="unscheduled")

    assert (answer.status_code, answer.json()["status"], answer.json()["attempt_count"]) == (402, "failed", 1)
    assert answer.json()["decline"]["advice"] == "retry_other_now"
    assert not psps.requests("adyen", "authorize")


async def test_the_attempt_of_a_payment_that_is_confirmed_again_says_so(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        declined = (await merchant.charge(payment_method_data=flow.card("4000000000000002"))).json()
        again = await merchant.post(f"/v1/payments/{declined['id']}/confirm", {"payment_method_data": flow.card()})
        tried = await attempts(inside, declined["id"])

    assert again.json()["status"] == "succeeded"
    assert tried == [("stripe", "declined", None), ("stripe", "captured", "confirmed")]


# --- Limits of cards --------------------------------------------------------------------------------------------------

STOLEN: Any = {"number": "4000000000009979"}
"""A number that Stripe's test mode declines as stolen."""
GENERIC: Any = {"number": "4000000000000002", "holder": "DECLINED"}


def rows(inside: Inside) -> list[dict[str, Any]]:
    return inside.database.rows("SELECT * FROM declined_card ORDER BY at, operation_id")


def aged(inside: Inside, days: float) -> None:
    """Let the declines of cards be as many days older."""
    inside.database.rows(
        "UPDATE declined_card SET at = at - make_interval(secs => %(s)s), not_before = not_before - make_interval(secs => %(s)s)",
        s=days * 86400,
    )


async def test_a_stolen_card_rests_at_this_merchant_whatever_account_and_payment_it_comes_to(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe", "adyen"), card_limits_in_test_mode=True) as inside:
        merchant = inside.merchant
        first = await merchant.charge(payment_method_data=flow.card(**STOLEN))
        asked = len(psps.requests("stripe", "authorize")) + len(psps.requests("adyen"))
        again = await merchant.charge(payment_method_data=flow.card(**STOLEN), amount=700, key="again")
        elsewhere = await merchant.charge(payment_method_data=flow.card(**STOLEN), routing={"account": "adyen"})
        replayed = await merchant.charge(payment_method_data=flow.card(**STOLEN), amount=700, key="again")
        another = await merchant.charge()
        asked_again = [psps.requests(psp, "authorize") for psp in ("stripe", "adyen")]
        aged(inside, 31)
        later = await merchant.charge(payment_method_data=flow.card(**STOLEN))

    assert (first.status_code, first.json()["decline"]["code"], first.json()["attempt_count"]) == (
        402,
        "lost_stolen",
        1,
    )
    assert asked == 1
    for answer in (again, elsewhere):
        payment = answer.json()
        assert (answer.status_code, payment["status"], payment["attempt_count"]) == (402, "requires_payment_method", 0)
        assert payment["decline"]["code"] == "retry_limit_reached"
        assert 29 * 86400 < payment["decline"]["retry_after_s"] <= 30 * 86400
        assert "stolen" not in payment["decline"]["message"]
    assert replayed.content == again.content
    assert another.status_code == 201
    assert [len(asked) for asked in asked_again] == [2, 0]
    assert later.json()["decline"]["code"] == "lost_stolen"


async def test_the_declines_of_a_card_are_counted_over_all_accounts(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    """Two accounts decline each charge: the Visa limit of four is reached by the second charge, and by neither account alone."""
    async with open_gateway(("stripe", "adyen"), card_limits_in_test_mode=True, card_limit_visa=4) as inside:
        merchant = inside.merchant
        answers = [await merchant.charge(payment_method_data=flow.card(**GENERIC)) for _ in range(3)]
        other_amount = await merchant.charge(payment_method_data=flow.card(**GENERIC), amount=2500)
        counted = rows(inside)
        aged(inside, 30)
        later = await merchant.charge(payment_method_data=flow.card(**GENERIC))

    assert [answer.json()["attempt_count"] for answer in answers] == [2, 2, 0]
    assert answers[2].json()["decline"]["code"] == "retry_limit_reached"
    assert other_amount.json()["attempt_count"] == 2
    assert len(counted) == 6
    assert len({row["card"] for row in counted}) == 1
    assert {(row["network"], row["merchant_initiated"], row["never"]) for row in counted} == {("visa", False, False)}
    assert later.json()["attempt_count"] == 2


async def test_the_limit_is_held_within_a_charge_too(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(("stripe", "adyen"), card_limits_in_test_mode=True, card_limit_visa=3) as inside:
        answers = [await inside.merchant.charge(payment_method_data=flow.card(**GENERIC)) for _ in range(2)]

    assert [answer.json()["attempt_count"] for answer in answers] == [2, 1]
    assert len(psps.requests("adyen", "authorize")) == 1


async def test_a_mastercard_is_not_sent_after_ten_declines_in_a_day(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    card = flow.card("5555555555554444", holder="DECLINED")
    async with open_gateway(("adyen",), card_limits_in_test_mode=True) as inside:
        amounts = range(1000, 1011)
        answers = [await inside.merchant.charge(payment_method_data=card, amount=amount) for amount in amounts]
        aged(inside, 1)
        later = await inside.merchant.charge(payment_method_data=card)

    codes = [answer.json()["decline"]["code"] for answer in answers]
    assert codes == ["issuer_generic"] * 10 + ["retry_limit_reached"]
    assert later.json()["attempt_count"] == 1


async def test_a_stored_card_is_the_same_card_and_rests_a_day_without_the_shopper(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        merchant = inside.merchant
        kept = await merchant.charged(setup_future_usage="off_session", customer="shopper-7")
        away: Any = {
            "payment_method": kept["payment_method"],
            "payment_method_data": None,
            "off_session": True,
            "recurring": "unscheduled",
            "customer": "shopper-7",
        }
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds")
        declined = await merchant.charge(**away)
        soon = await merchant.charge(**away, amount=500)
        in_session = await merchant.charge()
        aged(inside, 1)
        next_day = await merchant.charge(**away)

    assert (declined.json()["status"], declined.json()["decline"]["code"]) == ("failed", "insufficient_funds")
    assert (soon.json()["status"], soon.json()["attempt_count"]) == ("requires_payment_method", 0)
    assert (soon.json()["decline"]["code"], soon.json()["decline"]["advice"]) == ("retry_limit_reached", "retry_later")
    assert 23 * 3600 < soon.json()["decline"]["retry_after_s"] <= 24 * 3600
    assert (in_session.status_code, next_day.status_code) == (201, 201)


async def test_a_confirm_with_a_card_that_rests_asks_nobody_and_another_card_goes_on(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        merchant = inside.merchant
        declined = (await merchant.charge(payment_method_data=flow.card(**STOLEN))).json()
        confirm = f"/v1/payments/{declined['id']}/confirm"
        same = await merchant.post(confirm, {"payment_method_data": flow.card(**STOLEN)}, key="same")
        replayed = await merchant.post(confirm, {"payment_method_data": flow.card(**STOLEN)}, key="same")
        waiting = (await merchant.charge(payment_method_data=flow.card(**STOLEN), confirm=False)).json()
        own = await merchant.post(f"/v1/payments/{waiting['id']}/confirm", {})
        paid = await merchant.post(confirm, {"payment_method_data": flow.card()})
        history = (await merchant.get(f"/v1/payments/{waiting['id']}", **{"expand[]": "history"})).json()["history"]

    assert (same.status_code, same.json()["status"], same.json()["attempt_count"]) == (
        402,
        "requires_payment_method",
        1,
    )
    assert same.json()["decline"]["code"] == "retry_limit_reached"
    assert replayed.content == same.content
    assert (waiting["status"], own.json()["status"]) == ("requires_confirmation", "requires_payment_method")
    assert (history[-1]["news"], history[-1]["reason"]) == ("Limited", "card_never_30d")
    assert (paid.status_code, paid.json()["status"]) == (200, "succeeded")
    assert len(psps.requests("stripe", "authorize")) == 2


async def test_a_token_is_counted_by_its_payment_method(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        merchant = inside.merchant
        method = await merchant.post(
            "/v1/payment_methods", {"type": "token", "tokens": {"stripe": "pm_card_visa_chargeDeclinedStolenCard"}}
        )
        stored: Any = {"payment_method": method.json()["id"], "payment_method_data": None}
        answers = [await merchant.charge(**stored) for _ in range(2)]

    assert [answer.json()["decline"]["code"] for answer in answers] == ["lost_stolen", "retry_limit_reached"]


async def test_a_verification_of_a_card_that_rests_says_so(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        merchant = inside.merchant
        await merchant.charge(payment_method_data=flow.card(**STOLEN))
        answer = await merchant.post("/v1/payment_methods", {**flow.card(**STOLEN), "verify": True, "currency": "EUR"})

    assert answer.json()["verification"]["decline"]["code"] == "retry_limit_reached", answer.text
    assert answer.json()["verification"]["status"] == "failed"
    assert len(psps.requests("stripe", "authorize")) == 1


async def test_in_test_mode_cards_are_not_limited_unless_that_is_set(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        answers = [await inside.merchant.charge(payment_method_data=flow.card(**STOLEN)) for _ in range(2)]

    assert [answer.json()["decline"]["code"] for answer in answers] == ["lost_stolen", "lost_stolen"]


async def test_what_no_issuer_declined_counts_against_no_card(open_gateway: Open, psps: Psps) -> None:
    psps.fault("stripe", "authorize", "decline", code="processing_error")

    async with open_gateway(("stripe", "adyen"), card_limits_in_test_mode=True) as inside:
        answer = await inside.merchant.charge()
        counted = rows(inside)

    assert (answer.status_code, answer.json()["account"], counted) == (201, "adyen", [])


async def test_charges_at_once_of_a_card_that_was_declined_are_each_judged(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        merchant = inside.merchant
        await merchant.charge(payment_method_data=flow.card(**STOLEN))
        answers = await asyncio.gather(
            *(merchant.charge(payment_method_data=flow.card(**STOLEN), key="one") for _ in range(3)),
            *(merchant.charge(payment_method_data=flow.card(**STOLEN)) for _ in range(3)),
        )

    assert {answer.status_code for answer in answers} <= {402, 409}
    assert {answer.json()["decline"]["code"] for answer in answers if answer.status_code == 402} == {
        "retry_limit_reached"
    }
    assert len(psps.requests("stripe", "authorize")) == 1


async def test_a_card_that_was_never_declined_costs_no_round_trip(
    open_gateway: Open, flow: type[Kit], monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    fetch = Pool.fetch

    async def counted(self: Pool, query: str, *args: Any) -> Any:
        statements.append(query)
        return await fetch(self, query, *args)

    async def of(merchant: Merchant, **fields: Any) -> int:
        before = len(statements)
        await merchant.charged(**fields)
        return len(statements) - before

    monkeypatch.setattr(Pool, "fetch", counted)
    found = {}
    for limited in (False, True):
        async with open_gateway(("stripe",), card_limits_in_test_mode=limited) as inside:
            kept = await inside.merchant.charged(setup_future_usage="off_session")
            stored = {"payment_method": kept["payment_method"], "payment_method_data": None}
            found[limited] = (await of(inside.merchant), await of(inside.merchant, **stored))

    # The two commits; between them the step that is kept at Stripe, or before them the stored method.
    assert found[False] == found[True] == (3, 3)
