"""The same charge at each account, and everything that can come of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.books import LEASE_S

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Open, Processes, Psps

ORDERS = [("stripe", "adyen"), ("adyen", "stripe")]
both_orders = pytest.mark.parametrize("order", ORDERS, ids=["stripe_first", "adyen_first"])
SOFT = {
    "stripe": {"number": "4000000000000002"},
    "adyen": {"number": "4242424242424242", "holder": "DECLINED"},
}
HARD = {
    "stripe": {"number": "4000000000009987"},
    "adyen": {"number": "4242424242424242", "holder": "BLOCK_CARD"},
}


@both_orders
async def test_an_approved_charge_is_succeeded_and_one_charge_in_the_books(
    order: tuple[str, str], open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway(order) as inside:
        answer = await inside.merchant.charge(reference="order-1001", metadata={"cart": "77"})

    payment = answer.json()
    assert (answer.status_code, payment["status"]) == (201, "succeeded")
    assert (payment["account"], payment["attempt_count"], payment["amount_received"]) == (order[0], 1, 1999)
    (charge,) = psps.charges()
    assert (charge["payment"], charge["amount"], charge["currency"]) == (payment["provider_payment_id"], 1999, "EUR")
    assert not psps.requests(order[1])


@both_orders
async def test_a_soft_decline_is_approved_by_the_other_account(
    order: tuple[str, str], open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    first, second = order

    async with open_gateway(order) as inside:
        answer = await inside.merchant.charge(payment_method_data=flow.card(**SOFT[first]))
        shown = await inside.merchant.get(f"/v1/payments/{answer.json()['id']}", **{"expand[]": "attempts"})

    payment = answer.json()
    assert (answer.status_code, payment["status"], payment["account"]) == (201, "succeeded", second)
    assert payment["decline"] is None
    attempts = shown.json()["attempts"]
    assert [(attempt["account"], attempt["status"]) for attempt in attempts] == [
        (first, "declined"),
        (second, "captured"),
    ]
    assert attempts[0]["decline"]["type"] == "soft"
    assert len(psps.books(first, "declines")) == 1
    assert len(psps.charges()) == 1


@both_orders
async def test_a_hard_decline_is_final_and_nobody_else_is_asked(
    order: tuple[str, str], open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    first, second = order

    async with open_gateway(order) as inside:
        answer = await inside.merchant.charge(payment_method_data=flow.card(**HARD[first]))

    payment = answer.json()
    assert (answer.status_code, payment["status"]) == (402, "requires_payment_method")
    assert payment["attempt_count"] == 1
    assert payment["decline"]["type"] == "hard"
    assert payment["decline"]["provider_code"] == {"stripe": "lost_card", "adyen": "5"}[first]
    assert not psps.requests(second)
    assert psps.charges() == []


@both_orders
async def test_a_soft_decline_at_every_account_is_answered_402_with_the_last_decline(
    order: tuple[str, str], open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    method = flow.card("4000000000000002", holder="DECLINED")

    async with open_gateway(order) as inside:
        answer = await inside.merchant.charge(payment_method_data=method)

    payment = answer.json()
    assert (answer.status_code, payment["status"], payment["attempt_count"]) == (402, "requires_payment_method", 2)
    assert payment["decline"]["code"] == "issuer_generic"
    assert psps.charges() == []


async def test_a_declined_charge_without_a_shopper_has_failed(open_gateway: Open, flow: type[Kit]) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.charge(payment_method_data=flow.card(**HARD["stripe"]), off_session=True)

    assert (answer.status_code, answer.json()["status"]) == (402, "failed")


@both_orders
async def test_a_refused_connection_is_approved_by_the_other_account(
    order: tuple[str, str], open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway(order, unreachable=[order[0]]) as inside:
        answer = await inside.merchant.charge()

    payment = answer.json()
    assert (answer.status_code, payment["account"], payment["attempt_count"]) == (201, order[1], 2)
    assert len(psps.charges()) == 1


async def test_when_no_account_can_be_reached_nothing_is_charged_and_the_same_key_succeeds_later(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway(unreachable=["stripe", "adyen"]) as inside:
        refused = await inside.merchant.charge(key="order-1")
        shown = await inside.merchant.payment(refused.json()["payment"]["id"])
    async with open_gateway() as inside:
        answer = await inside.merchant.charge(key="order-1")

    assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
    assert refused.headers["Retry-After"]
    assert (shown["status"], shown["processing_reason"]) == ("processing", "awaiting_retry")
    assert (answer.status_code, answer.json()["id"]) == (201, shown["id"])
    assert len(psps.charges()) == 1


async def test_a_pinned_account_is_the_only_one_asked(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway() as inside:
        approved = await inside.merchant.charge(routing={"account": "adyen"})
        declined = await inside.merchant.charge(
            routing={"account": "adyen"}, payment_method_data=flow.card(**SOFT["adyen"])
        )

    assert (approved.status_code, approved.json()["account"]) == (201, "adyen")
    assert (declined.status_code, declined.json()["attempt_count"]) == (402, 1)
    assert not psps.requests("stripe")


async def test_a_token_is_charged_only_at_the_account_that_knows_it(open_gateway: Open, psps: Psps) -> None:
    tokens = {"type": "token", "tokens": {"stripe": "pm_card_visa_chargeDeclined"}}

    async with open_gateway() as inside:
        answer = await inside.merchant.charge(payment_method_data=tokens)

    assert (answer.status_code, answer.json()["attempt_count"]) == (402, 1)
    assert not psps.requests("adyen")


QUICK_DOUBTS: list[tuple[str, dict[str, Any]]] = [
    ("reset_after_effect", {"times": 3}),
    ("garbage", {"times": 3}),
    ("empty", {"times": 3}),
    ("truncated", {"times": 3}),
    ("wrong_amount", {"times": 1}),
]


@both_orders
@pytest.mark.parametrize(("fault", "parameters"), QUICK_DOUBTS, ids=[name for name, _ in QUICK_DOUBTS])
async def test_an_answer_that_says_nothing_is_unknown_and_becomes_the_truth(
    order: tuple[str, str], fault: str, parameters: dict[str, Any], open_gateway: Open, psps: Psps, database: Database
) -> None:
    first, second = order
    psps.fault(first, "authorize", fault, **parameters)

    async with open_gateway(order) as inside:
        answer = await inside.merchant.charge(key="order-1")
        unknown = answer.json()
        asked_meanwhile = psps.requests(second)
        for _ in range(3):
            await inside.work()
        settled = await inside.merchant.payment(unknown["id"])
        again = await inside.merchant.charge(key="order-1")

    assert (answer.status_code, unknown["status"]) == (202, "processing")
    assert unknown["processing_reason"] == "outcome_unknown"
    assert answer.headers["Location"] == f"/v1/payments/{unknown['id']}"
    assert answer.headers["Retry-After"]
    assert asked_meanwhile == []
    assert (settled["status"], settled["account"], settled["attempt_count"]) == ("succeeded", first, 1)
    assert (again.status_code, again.json()["id"]) == (201, unknown["id"])
    assert len(psps.charges()) == 1
    (operation,) = database.operations(unknown["id"])
    assert {entry["key"] for entry in psps.requests(first, "authorize")} == {operation["provider_key"]}


@both_orders
@pytest.mark.parametrize("fault", ["status", "outage"])
async def test_a_failing_psp_is_never_taken_for_one_that_did_nothing(
    order: tuple[str, str], fault: str, open_gateway: Open, psps: Psps
) -> None:
    psps.fault(order[0], "authorize", fault, times=3)

    async with open_gateway(order) as inside:
        answer = await inside.merchant.charge(key="order-1")
        again = await inside.merchant.retried(lambda: inside.merchant.charge(key="order-1"))
        for _ in range(4):
            await inside.work()
        settled = await inside.merchant.payment(answer.json()["id"])

    assert (answer.status_code, answer.json()["processing_reason"]) == (202, "outcome_unknown")
    assert again.status_code in {201, 202}
    assert not psps.requests(order[1])
    assert (settled["status"], settled["account"]) == ("succeeded", order[0])
    assert len(psps.charges()) == 1


async def test_a_call_that_times_out_after_its_effect_is_settled_to_the_truth_by_the_worker(
    processes: Processes, psps: Psps, flow: type[Kit]
) -> None:
    """Two calls of ten seconds, at once: one at each account, both charged there and never answered."""
    for psp in psps.REAL:
        psps.fault(psp, "authorize", "timeout_after_effect")
        psps.fault(psp, "any", "drop_webhook", times=None)
    server = processes.server().start()
    processes.worker()

    async with server.merchant() as merchant:
        answers = await asyncio.gather(
            *(merchant.charge(key=f"order-{psp}", routing={"account": psp}, reference=psp) for psp in psps.REAL),
        )
        payments = [answer.json() for answer in answers]

        async def settled() -> bool:
            shown = [await merchant.payment(payment["id"]) for payment in payments]
            return all(payment["status"] == "succeeded" for payment in shown)

        await flow.eventually(settled, "both payments succeeded")
        again = [
            await merchant.charge(key=f"order-{psp}", routing={"account": psp}, reference=psp) for psp in psps.REAL
        ]

    for psp, answer, replay in zip(psps.REAL, answers, again, strict=True):
        assert answer.status_code == 202, (psp, answer.text)
        assert answer.json()["processing_reason"] == "outcome_unknown"
        assert (replay.status_code, replay.json()["id"]) == (201, answer.json()["id"])
        assert (replay.json()["account"], replay.json()["attempt_count"]) == (psp, 1)
    assert len(psps.charges()) == 2
    for psp in psps.REAL:  # the lease was held while the call lasted: nobody else sent it meanwhile
        first, second, *_ = (entry["arrived"] for entry in psps.requests(psp, "authorize"))
        assert second - first > LEASE_S


@both_orders
async def test_an_error_that_the_psp_remembers_under_the_key_is_settled_by_its_webhook(
    order: tuple[str, str], open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    """The charge was made, and every replay of it is answered with the same 500."""
    psps.fault(order[0], "authorize", "error_after_effect", status=500)
    psps.fault(order[0], "authorize", "late_webhook", latency_ms=500)

    async with open_gateway(order, listening=True) as inside:
        answer = await inside.merchant.charge(key="order-1")
        await inside.work()
        payment_id = answer.json()["id"]

        async def settled() -> bool:
            return bool((await inside.merchant.payment(payment_id))["status"] == "succeeded")

        await flow.eventually(settled, "the payment succeeded")
        again = await inside.merchant.charge(key="order-1")

    assert (answer.status_code, answer.json()["processing_reason"]) == (202, "outcome_unknown")
    assert (again.status_code, again.json()["id"], again.json()["account"]) == (201, payment_id, order[0])
    assert not psps.requests(order[1])
    assert len(psps.charges()) == 1


# --- 3-D Secure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "status", "code"),
    [("succeeded", "succeeded", None), ("failed", "requires_payment_method", "authentication_failed")],
)
async def test_a_challenge_is_handed_to_the_shopper_and_its_result_comes_by_webhook(
    result: str, status: str, code: str | None, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(listening=True) as inside:
        answer = await inside.merchant.charge(key="order-1", payment_method_data=flow.card("4000002760003184"))
        challenged = answer.json()
        psps.http.get(challenged["next_action"]["redirect_to_url"]["url"], params={"result": result})

        async def over() -> bool:
            return bool((await inside.merchant.payment(challenged["id"]))["status"] == status)

        await flow.eventually(over, f"the payment is {status}")
        payment = await inside.merchant.payment(challenged["id"])
        again = await inside.merchant.charge(key="order-1", payment_method_data=flow.card("4000002760003184"))

    assert (answer.status_code, challenged["status"]) == (201, "requires_action")
    assert (again.status_code, again.json()["id"]) == (201 if status == "succeeded" else 402, challenged["id"])
    assert payment["next_action"] is None
    assert (payment["decline"] or {"code": None})["code"] == code
    assert not psps.requests("adyen")
    assert len(psps.charges()) == (status == "succeeded")


async def test_a_challenge_can_be_canceled(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(listening=True) as inside:
        challenged = (await inside.merchant.charge(payment_method_data=flow.card("4000002760003184"))).json()
        answer = await inside.merchant.post(f"/v1/payments/{challenged['id']}/cancel")

    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert psps.charges() == []


async def test_after_a_challenge_nobody_else_is_asked(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    """The decline permits another account, but the shopper has done his part and is gone: the payment waits for a new card."""
    from gateway.settle import record
    from providers.contract import Declined
    from providers.declines import Action, Decline

    card = flow.card("4000002760003184")
    async with open_gateway(("stripe", "adyen")) as inside:
        challenged = await inside.merchant.charge(key="order-1", payment_method_data=card)
        payment = await inside.house.deps.queries.payment(challenged.json()["id"])
        assert payment is not None
        outcome = Declined(Decline("issuer_generic", "soft", Action.RETRY_OTHER_NOW, "do_not_honor"))
        await record(payment, payment.operations[0], outcome, source="webhook", deps=inside.house.deps)
        again = await inside.merchant.charge(key="order-1", payment_method_data=card)

    assert (again.status_code, again.json()["status"]) == (402, "requires_payment_method")
    assert again.json()["attempt_count"] == 1
    assert not psps.requests("adyen")


async def test_a_cancel_on_its_way_is_honoured_when_the_answer_is_a_challenge(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    from gateway.sweep import honour_cancels

    psps.fault("stripe", "authorize", "latency", latency_ms=700)
    async with open_gateway(("stripe",), listening=True) as inside:
        waiting = asyncio.create_task(
            inside.merchant.charge(key="order-1", payment_method_data=flow.card("4000002760003184"))
        )
        await flow.eventually(lambda: len(psps.requests("stripe", "authorize")) == 1, "the PSP has its request")
        (payment,) = (await inside.merchant.get("/v1/payments")).json()["data"]
        cancel = await inside.merchant.post(f"/v1/payments/{payment['id']}/cancel")
        challenged = (await waiting).json()
        await honour_cancels(inside.house.deps)
        after = await inside.merchant.payment(payment["id"])

    assert (cancel.status_code, challenged["status"]) == (202, "requires_action")
    assert after["status"] == "canceled"
    assert psps.charges() == []


async def test_an_approval_of_what_had_ended_raises_the_alarm(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    """No PSP should ever say so; if one does, money has moved that we told nobody about."""
    from gateway.settle import record
    from providers.contract import Approved
    from providers.money import Money

    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        declined = await inside.merchant.charge(payment_method_data=flow.card("4000000000000002"))
        payment = await deps.queries.payment(declined.json()["id"])
        assert payment is not None
        told = Approved("pi_1", Money(1999, "EUR"), captured=True)
        recorded = await record(payment, payment.operations[0], told, source="webhook", deps=deps)
        counted = deps.instruments.contradictions.labels("stripe")._value.get()

    assert recorded is not None
    assert (recorded.change, recorded.payment.status, counted) == (None, "requires_payment_method", 1)


async def test_an_approval_that_is_only_older_than_our_void_raises_no_alarm(open_gateway: Open) -> None:
    """Providers deliver late and again for days: that an authorization was approved before it was voided is no contradiction."""
    from gateway.settle import record
    from providers.contract import Approved
    from providers.money import Money

    async with open_gateway(("stripe",), listening=True) as inside:
        deps = inside.house.deps
        payment_id = (await inside.merchant.charged(capture_method="manual"))["id"]
        canceled = await inside.merchant.post(f"/v1/payments/{payment_id}/cancel")
        payment = await deps.queries.payment(payment_id)
        assert payment is not None
        late = Approved(payment.provider_payment_id or "", Money(1999, "EUR"))
        await record(payment, payment.operations[0], late, source="webhook", deps=deps)

    assert canceled.json()["status"] == "canceled"
    assert deps.instruments.contradictions.labels("stripe")._value.get() == 0
