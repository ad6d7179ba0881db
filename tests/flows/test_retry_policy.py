"""How often a charge is tried, and which rule allows each try: by real HTTP, at accounts that decline."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.retrying import retry
from gateway.sql import Pool
from gateway.sweep import end_parked, retry_due

if TYPE_CHECKING:
    from tests.conftest import Checked, Inside, Kit, Merchant, Open, Psps

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


# --- Scheduled retries ------------------------------------------------------------------------------------------------


async def stored(inside: Inside, **fields: Any) -> dict[str, Any]:
    """What charges a stored card while its shopper is away, and tries again for ten days."""
    kept = await inside.merchant.charged(setup_future_usage="off_session", customer="shopper-7", **fields)
    return {
        "payment_method": kept["payment_method"],
        "payment_method_data": None,
        "off_session": True,
        "recurring": "subscription",
        "customer": "shopper-7",
        "retry": {"until": (datetime.now(UTC) + timedelta(days=10)).isoformat()},
    }


async def next_day(inside: Inside) -> int:
    """A day later: the worker makes the retries that are due. Returns how many."""
    inside.database.rows("UPDATE payment SET retry_at = retry_at - interval '1 day' - interval '1 s'")
    aged(inside, 1.0001)
    inside.database.let_time_pass()
    return await retry_due(inside.house.deps)


async def test_a_soft_decline_is_tried_again_a_day_later_and_the_merchant_is_told(
    open_gateway: Open, psps: Psps, checked: Checked
) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        merchant = inside.merchant
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds")
        answer = await merchant.charge(**away, key="invoice-7")
        again = await merchant.charge(**away, key="invoice-7")
        too_soon = await retry_due(inside.house.deps)
        due = await next_day(inside)
        twice = await retry_due(inside.house.deps)
        payment = answer.json()
        paid = await merchant.payment(payment["id"])
        replayed = await merchant.charge(**away, key="invoice-7")
        tried = await attempts(inside, payment["id"])
        told = (await merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "events"})).json()["events"]
        await checked(inside.database, psps)

    assert (answer.status_code, payment["status"], payment["processing_reason"]) == (
        202,
        "processing",
        "retry_scheduled",
    )
    assert 86390 < int(answer.headers["retry-after"]) <= 86400
    waits = datetime.fromisoformat(payment["next_retry_at"]) - datetime.fromisoformat(payment["updated"])
    assert waits == timedelta(days=1)
    assert (again.status_code, again.json()["id"]) == (202, payment["id"])
    assert (too_soon, due, twice) == (0, 1, 0)
    assert (paid["status"], paid["next_retry_at"], paid["decline"]) == ("succeeded", None, None)
    assert (replayed.status_code, replayed.json()["status"]) == (201, "succeeded")
    assert tried == [("stripe", "declined", None), ("stripe", "captured", "scheduled")]
    by_type = {event["type"]: event["data"] for event in told}
    assert by_type.keys() == {"attempt.declined", "payment.retry_scheduled", "payment.succeeded"}
    assert by_type["payment.retry_scheduled"]["next_retry_at"] == payment["next_retry_at"]


async def test_a_generic_decline_is_taken_to_the_other_account_the_next_day(
    open_gateway: Open, psps: Psps, checked: Checked
) -> None:
    async with open_gateway(("stripe", "adyen")) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="generic_decline", times=None)
        payment = (await inside.merchant.charge(**away)).json()
        await next_day(inside)
        tried = await attempts(inside, payment["id"])
        paid = await inside.merchant.payment(payment["id"])
        why = (await inside.merchant.get(f"/v1/payments/{payment['id']}/routing")).json()["attempts"][1]
        await checked(inside.database, psps)

    assert tried == [("stripe", "declined", None), ("adyen", "captured", "scheduled")]
    assert (paid["status"], paid["account"]) == ("succeeded", "adyen")
    assert (why["allowed_by"], why["round"], why["decision"]["route"]) == ("scheduled", 2, ["adyen"])
    passed_over = {each["account"]: each["ineligible_reason"] for each in why["decision"]["candidates"]}
    assert passed_over == {"stripe": "declined_before", "adyen": None}


async def test_a_payment_with_one_account_is_tried_again_there(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="generic_decline")
        payment = (await inside.merchant.charge(**away)).json()
        await next_day(inside)
        paid = await inside.merchant.payment(payment["id"])

    assert (paid["status"], paid["account"], paid["attempt_count"]) == ("succeeded", "stripe", 2)


async def test_a_payment_that_was_sent_to_nobody_has_no_attempt_to_explain(open_gateway: Open, flow: type[Kit]) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        await inside.merchant.charge(payment_method_data=flow.card(**STOLEN))
        limited = (await inside.merchant.charge(payment_method_data=flow.card(**STOLEN))).json()
        why = await inside.merchant.get(f"/v1/payments/{limited['id']}/routing")

    assert (why.status_code, why.json()["attempts"], why.json()["route"]) == (200, [], [])


async def test_a_payment_is_tried_four_times_and_then_its_last_decline_is_final(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds", times=None)
        payment = (await inside.merchant.charge(**away)).json()
        tries = [await next_day(inside) for _ in range(5)]
        failed = await inside.merchant.payment(payment["id"])

    assert tries == [1, 1, 1, 0, 0]
    assert (failed["status"], failed["attempt_count"], failed["next_retry_at"]) == ("failed", 4, None)
    assert failed["decline"]["code"] == "insufficient_funds"


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("stolen_card", True),  # never
        ("expired_card", True),  # another card is asked for
        ("insufficient_funds", False),  # nobody asked for it
    ],
)
async def test_what_is_final_or_was_not_asked_for_is_not_tried_again(
    code: str, open_gateway: Open, psps: Psps, *, wanted: bool
) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        if not wanted:
            del away["retry"]
        psps.fault("stripe", "authorize", "decline", code=code)
        answer = await inside.merchant.charge(**away)

    assert (answer.status_code, answer.json()["status"], answer.json()["next_retry_at"]) == (402, "failed", None)


async def test_no_retry_is_made_after_its_time(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        away["retry"] = {"until": (datetime.now(UTC) + timedelta(hours=30)).isoformat()}
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds", times=None)
        first = await inside.merchant.charge(**away)
        away["retry"] = {"until": (datetime.now(UTC) + timedelta(hours=20)).isoformat()}
        second = await inside.merchant.charge(**away)

    assert (first.status_code, second.status_code) == (202, 402)


async def test_a_scheduled_retry_is_canceled_at_once_and_never_made(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds")
        payment = (await inside.merchant.charge(**away)).json()
        canceled = await inside.merchant.post(f"/v1/payments/{payment['id']}/cancel")
        made = await next_day(inside)

    assert (canceled.status_code, canceled.json()["status"], canceled.json()["next_retry_at"]) == (
        200,
        "canceled",
        None,
    )
    assert made == 0
    assert len(psps.requests("stripe", "authorize")) == 2


async def test_what_another_payment_has_used_of_the_cards_budget_puts_a_retry_off(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway(("stripe",), card_limits_in_test_mode=True) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds", times=2)
        payment = (await inside.merchant.charge(**away)).json()
        aged(inside, 1)
        other = await inside.merchant.charge(**{**away, "retry": None})  # a day later, and declined again
        inside.database.rows("UPDATE payment SET retry_at = now() WHERE retry_at IS NOT NULL")
        await retry_due(inside.house.deps)
        put_off = await inside.merchant.payment(payment["id"])
        history = (await inside.merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "history"})).json()[
            "history"
        ]
        await next_day(inside)
        paid = await inside.merchant.payment(payment["id"])

    assert other.json()["decline"]["code"] == "insufficient_funds"
    assert (put_off["processing_reason"], put_off["attempt_count"]) == ("retry_scheduled", 1)
    assert (history[-1]["news"], history[-1]["reason"]) == ("PutOff", "budget_off_session")
    assert (paid["status"], paid["attempt_count"]) == ("succeeded", 2)


async def test_a_retry_whose_card_was_deleted_ends_with_the_decline_there_was(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds")
        payment = (await inside.merchant.charge(**away)).json()
        await inside.merchant.delete(f"/v1/payment_methods/{away['payment_method']}")
        await next_day(inside)
        failed = await inside.merchant.payment(payment["id"])

    assert (failed["status"], failed["attempt_count"]) == ("failed", 1)
    assert failed["decline"]["code"] == "insufficient_funds"


async def test_a_retry_that_reaches_nobody_is_made_again_later(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds")
        payment = (await inside.merchant.charge(**away)).json()
        psps.fault("stripe", "any", "status", status=401, times=1)
        await next_day(inside)
        parked = await inside.merchant.payment(payment["id"])
        inside.database.rows("UPDATE payment SET updated_at = updated_at - interval '1 hour'")
        await end_parked(inside.house.deps)
        waits = await inside.merchant.payment(payment["id"])
        await next_day(inside)
        paid = await inside.merchant.payment(payment["id"])

    assert parked["processing_reason"] == "awaiting_retry"
    assert (waits["processing_reason"], waits["next_retry_at"] is None) == ("retry_scheduled", False)
    assert paid["status"] == "succeeded"


async def test_two_workers_make_a_retry_once(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        psps.fault("stripe", "authorize", "decline", code="insufficient_funds")
        payment = (await inside.merchant.charge(**away)).json()
        read = [await inside.house.deps.queries.payment(payment["id"]) for _ in range(4)]
        made = await asyncio.gather(*(retry(each, inside.house.deps) for each in read if each is not None))
        paid = await inside.merchant.payment(payment["id"])

    assert sorted(made) == [False, False, False, True]
    assert (paid["status"], paid["attempt_count"]) == ("succeeded", 2)
    assert len(psps.charges()) == 2  # the one that stored the card, and this


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"retry": {"until": "2020-01-01T00:00:00Z"}}, "retry.until"),
        ({"retry": {"until": "2999-01-01T00:00:00Z"}}, "retry.until"),
        ({"retry": {"until": "tomorrow"}}, "retry.until"),
        ({"retry": {}}, "retry.until"),
        ({"off_session": False}, None),
        ({"confirm": False}, None),
    ],
)
async def test_a_retry_that_cannot_be_is_refused_with_what_it_needs(
    fields: dict[str, Any], param: str | None, open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway(("stripe",)) as inside:
        away = await stored(inside)
        answer = await inside.merchant.charge(**{**away, **fields})

    assert (answer.status_code, answer.json()["code"], answer.json().get("param")) == (422, "validation_failed", param)
    assert "until" in answer.json()["detail"] or "retry needs off_session" in answer.json()["detail"].lower()
    assert len(psps.requests("stripe", "authorize")) == 1
