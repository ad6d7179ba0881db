"""How often a charge is tried, and which rule allows each try: by real HTTP, at accounts that decline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Inside, Kit, Open, Psps

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
