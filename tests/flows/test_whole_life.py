"""Every verb of a payment's life at both PSPs: twice with one key is once, and of two that conflict one is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway import news
from providers.contract import Approved, Event, Kind
from providers.money import Money

if TYPE_CHECKING:
    import httpx

    from tests.conftest import Kit, Merchant, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])
SWITCHED_ON: Final = ("several_captures", "incremental_authorization")


async def settled(merchant: Merchant, payment_id: str, flow: type[Kit]) -> dict[str, Any]:
    """The payment once nothing of it is on its way: at once at Stripe, by webhook at Adyen."""

    async def done() -> bool:
        expand = {"expand[]": ["refunds", "history"]}
        payment = (await merchant.get(f"/v1/payments/{payment_id}", **expand)).json()
        asked = [event["operation"] for event in payment["history"] if event["reason"].endswith("_requested")]
        told = [event["operation"] for event in payment["history"] if event["reason"].endswith(("succeeded", "failed"))]
        waiting = [part["status"] for part in [*payment["captures"], *payment["refunds"]]]
        return "pending" not in waiting and not payment["cancel_requested"] and set(filter(None, asked)) <= set(told)

    await flow.eventually(done, "the verb was settled")
    return await merchant.payment(payment_id)


def amounts(psps: Psps, psp: str, book: str) -> list[int]:
    return [entry["amount"] for entry in psps.books(psp, book)]


# --- Another amount ---------------------------------------------------------------------------------------------------


@at_each
async def test_an_authorization_is_raised_and_then_captured_whole(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), enabled=SWITCHED_ON, listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual", incremental_authorization=True)
        path = f"/v1/payments/{payment['id']}/increment"
        answers = [await merchant.post(path, {"amount": 2500}, key="raise-1") for _ in range(2)]
        raised = await settled(merchant, payment["id"], flow)
        too_much = await merchant.post(f"/v1/payments/{payment['id']}/capture", {"amount": 2501})
        await merchant.post(f"/v1/payments/{payment['id']}/capture")
        captured = await settled(merchant, payment["id"], flow)

    assert {answer.status_code for answer in answers} <= {200, 202}, answers[0].text
    assert (raised["amount"], raised["amount_capturable"], raised["status"]) == (2500, 2500, "requires_capture")
    assert (too_much.status_code, too_much.json()["code"]) == (422, "amount_too_large")
    assert (captured["amount_received"], captured["status"]) == (2500, "succeeded")
    assert amounts(psps, psp, "authorisations") == [2500]
    assert amounts(psps, psp, "captures") == [2500]


async def test_adyen_lowers_an_authorization_and_stripe_says_before_the_call_that_it_cannot(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(enabled=SWITCHED_ON, listening=True) as inside:
        merchant, at = inside.merchant, {}
        for psp in ("stripe", "adyen"):
            payment = await merchant.charged(
                capture_method="manual", incremental_authorization=True, routing={"account": psp}
            )
            at[psp] = payment["id"]
        before = len(psps.requests("stripe"))
        refused = await merchant.post(f"/v1/payments/{at['stripe']}/increment", {"amount": 500})
        lowered = await merchant.post(f"/v1/payments/{at['adyen']}/increment", {"amount": 500})
        payment = await settled(merchant, at["adyen"], flow)

    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["account"], problem["capability"]) == (
        422,
        "capability_missing",
        "stripe",
        "decremental_authorization",
    )
    assert len(psps.requests("stripe")) == before
    assert lowered.status_code == 202, lowered.text
    assert (payment["amount"], payment["amount_capturable"]) == (500, 500)


@at_each
async def test_a_declined_increase_leaves_the_old_amount_capturable(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), enabled=SWITCHED_ON, listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual", incremental_authorization=True)
        if psp == "stripe":
            psps.fault(psp, "increment", "decline", code="insufficient_funds")
        else:
            psps.fault(psp, "increment", "fail_later")
        answer = await merchant.post(f"/v1/payments/{payment['id']}/increment", {"amount": 9999})
        kept = await settled(merchant, payment["id"], flow)
        await merchant.post(f"/v1/payments/{payment['id']}/capture")
        captured = await settled(merchant, payment["id"], flow)

    assert answer.status_code == (422 if psp == "stripe" else 202), answer.text
    assert (kept["amount"], kept["amount_capturable"], kept["status"]) == (1999, 1999, "requires_capture")
    assert captured["amount_received"] == 1999


async def test_an_amount_is_changed_only_where_that_was_asked_for_and_before_a_capture(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("adyen",), listening=True) as inside:
        merchant = inside.merchant
        plain = await merchant.charged(capture_method="manual")
        unasked = await merchant.post(f"/v1/payments/{plain['id']}/increment", {"amount": 2500})
        automatic = await merchant.charge(incremental_authorization=True)
        payment = await merchant.charged(capture_method="manual", incremental_authorization=True)
        same = await merchant.post(f"/v1/payments/{payment['id']}/increment", {"amount": 1999})
        await merchant.post(f"/v1/payments/{payment['id']}/capture")
        await settled(merchant, payment["id"], flow)
        late = await merchant.post(f"/v1/payments/{payment['id']}/increment", {"amount": 2500})

    assert (unasked.status_code, unasked.json()["code"]) == (409, "payment_state")
    assert (automatic.status_code, automatic.json()["code"]) == (422, "validation_failed")
    assert (same.status_code, same.json()["param"]) == (422, "amount")
    assert (late.status_code, late.json()["code"]) == (409, "payment_state")


async def test_an_account_that_cannot_raise_an_authorization_is_not_asked_for_one_it_should(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        answer = await inside.merchant.charge(capture_method="manual", incremental_authorization=True)
        accounts = (await inside.merchant.get("/v1/accounts")).json()["data"]

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "no_eligible_account")
    assert problem["accounts"] == {"stripe": "no_incremental_authorization"}
    assert accounts[0]["capabilities"]["incremental_authorization"] is False
    assert "incremental_authorization" in accounts[0]["on_request"]
    assert psps.nobody_was_asked()


# --- Several captures and refunds -------------------------------------------------------------------------------------


@at_each
async def test_one_authorization_is_captured_in_several_parts(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), enabled=SWITCHED_ON, listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual")
        path = f"/v1/payments/{payment['id']}/capture"
        first = [await merchant.post(path, {"amount": 500, "final": False}, key="part-1") for _ in range(2)]
        part = await settled(merchant, payment["id"], flow)
        await merchant.post(path, {"amount": 700, "final": False}, key="part-2")
        await settled(merchant, payment["id"], flow)
        too_much = await merchant.post(path, {"amount": 800})
        await merchant.post(path, {"amount": 99, "final": True})
        captured = await settled(merchant, payment["id"], flow)

    assert {answer.status_code for answer in first} <= {200, 202}, first[0].text
    assert (part["status"], part["amount_received"], part["amount_capturable"]) == ("requires_capture", 500, 1499)
    assert (too_much.status_code, too_much.json()["code"]) == (422, "amount_too_large")
    assert (captured["status"], captured["amount_received"], captured["amount_capturable"]) == ("succeeded", 1299, 0)
    assert amounts(psps, psp, "captures") == [500, 700, 99]


@at_each
async def test_a_second_capture_is_refused_before_the_call_where_the_account_takes_one(
    psp: str, open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await inside.merchant.charged(capture_method="manual")
        answer = await inside.merchant.post(f"/v1/payments/{payment['id']}/capture", {"amount": 500, "final": False})

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["account"], problem["capability"], problem["param"]) == (
        422,
        "capability_missing",
        psp,
        "several_captures",
        "final",
    )
    assert psps.requests(psp, "capture") == []


@at_each
async def test_a_refund_that_fails_later_gives_its_amount_back(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    number = "4000000000005126" if psp == "stripe" else "4111111111111111"
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(payment_method_data=flow.card(number))
        if psp == "adyen":
            psps.fault(psp, "refund", "fail_later")
        refund = await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 500})

        async def failed() -> bool:
            return bool((await merchant.get(f"/v1/refunds/{refund.json()['id']}")).json()["status"] == "failed")

        await flow.eventually(failed, "the refund failed")
        after = await merchant.payment(payment["id"])

    assert refund.status_code in {201, 202}, refund.text
    assert (after["status"], after["amount_refunded"]) == ("succeeded", 0)


# --- Released by the provider -----------------------------------------------------------------------------------------


@at_each
async def test_an_authorization_that_runs_out_at_the_psp_ends_the_payment(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual")
        psps.let_pass(psp, 30 * 24 * 3600)

        async def canceled() -> bool:
            return bool((await merchant.payment(payment["id"]))["status"] == "canceled")

        await flow.eventually(canceled, "the release was heard of")
        released = await merchant.payment(payment["id"])
        attempts = (await merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "attempts"})).json()["attempts"]
        late = await merchant.post(f"/v1/payments/{payment['id']}/capture")
        inside.database.rows("UPDATE webhook_inbox SET due_at = now()")
        await inside.work()  # all that was told is told once more, the approval after the release
        incidents = (await merchant.get("/v1/incidents")).json()["data"]

    assert incidents == []
    assert (released["cancellation_reason"], released["amount_capturable"]) == ("authorization_expired", 0)
    assert [attempt["status"] for attempt in attempts] == ["expired"]
    assert (late.status_code, late.json()["code"]) == (409, "payment_state")


async def test_a_release_heard_while_a_capture_was_on_its_way_is_not_forgotten(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual")
        psps.fault("stripe", "capture", "status", status=500)
        await merchant.post(f"/v1/payments/{payment['id']}/capture")
        psps.let_pass("stripe", 8 * 24 * 3600)
        waits = "SELECT count(*) FROM webhook_inbox WHERE result = 'waits_for_capture' AND due_at IS NOT NULL"
        await flow.eventually(lambda: inside.database.value(waits) == 1, "the release waits for the capture")

        async def canceled() -> bool:
            await inside.work()
            return bool((await merchant.payment(payment["id"]))["status"] == "canceled")

        await flow.eventually(canceled, "the release was heard of, and the capture told")
        released = await merchant.payment(payment["id"])

    assert (released["amount_capturable"], released["amount_received"]) == (0, 0)


async def test_a_change_of_the_amount_that_is_never_told_keeps_nobody_from_ending_the_payment(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway(("adyen",)) as inside:
        merchant, answers = inside.merchant, {}
        for verb, fields in (("capture", {"amount": 1999}), ("cancel", {})):
            payment = await merchant.charged(capture_method="manual", incremental_authorization=True)
            path = f"/v1/payments/{payment['id']}"
            await merchant.post(f"{path}/increment", {"amount": 2500})
            if verb == "capture":
                answers["too much"] = (await merchant.post(f"{path}/capture", {"amount": 2000})).status_code
            answers[verb] = (await merchant.post(f"{path}/{verb}", fields)).status_code

    assert answers == {"too much": 422, "capture": 202, "cancel": 202}


async def test_a_released_payment_keeps_its_amount_whatever_is_told_of_a_change(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("adyen",)) as inside:
        merchant, deps = inside.merchant, inside.house.deps
        payment = await merchant.charged(capture_method="manual", incremental_authorization=True)
        await merchant.post(f"/v1/payments/{payment['id']}/increment", {"amount": 2500})
        change, psp = inside.database.operations(payment["id"])[-1], payment["provider_payment_id"]
        told = {"provider_id": psp, "provider_payment_id": psp}
        gone = Event("e1", "EXPIRE", Kind.VOID, lapsed=True, outcome=Approved(psp, Money(1999, "EUR")), **told)
        late = Approved("x", Money(2500, "EUR"))
        raised = Event("e2", "AUTHORISATION_ADJUSTMENT", Kind.INCREMENT, change["id"], outcome=late)
        results = [(await news.apply("adyen", event, deps)).result for event in (gone, raised)]
        after = await merchant.payment(payment["id"])

    assert results == ["applied", "applied"]
    assert (after["status"], after["amount"]) == ("canceled", 1999)


# --- Conflicts --------------------------------------------------------------------------------------------------------


async def at_once(*sent: Any) -> list[httpx.Response]:
    return list(await asyncio.gather(*sent))


def one_was_refused(answers: list[httpx.Response]) -> bool:
    """One took effect, and each other one heard clearly that it did not."""
    done = [answer for answer in answers if answer.status_code in {200, 201, 202}]
    refused = [answer.json()["code"] for answer in answers if answer.status_code in {409, 422}]
    clear = {"payment_state", "amount_too_large", "payment_changed", "provider_refused"}
    return len(done) == 1 and len(done) + len(refused) == len(answers) and set(refused) <= clear


@at_each
async def test_of_a_capture_and_a_cancel_at_once_one_takes_effect(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual")
        psps.fault(psp, "any", "latency", latency_ms=200)
        path = f"/v1/payments/{payment['id']}"
        answers = await at_once(merchant.post(f"{path}/capture"), merchant.post(f"{path}/cancel"))
        after = await settled(merchant, payment["id"], flow)

    assert one_was_refused(answers), [answer.text for answer in answers]
    captured, voided = amounts(psps, psp, "captures"), psps.books(psp, "voids")
    assert (after["status"], after["amount_received"], len(captured), len(voided)) in {
        ("succeeded", 1999, 1, 0),
        ("canceled", 0, 0, 1),
    }


@at_each
async def test_of_two_refunds_that_together_exceed_the_capture_one_takes_effect(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged()
        refund = {"payment": payment["id"], "amount": 1200}
        answers = await at_once(*(merchant.post("/v1/refunds", refund) for _ in range(2)))
        after = await settled(merchant, payment["id"], flow)

    assert one_was_refused(answers), [answer.text for answer in answers]
    assert after["amount_refunded"] == 1200
    assert amounts(psps, psp, "refunds") == [1200]


@at_each
async def test_of_a_capture_and_a_change_of_the_amount_at_once_the_books_agree_with_one_order(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), enabled=SWITCHED_ON, listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual", incremental_authorization=True)
        psps.fault(psp, "any", "latency", latency_ms=200)
        path = f"/v1/payments/{payment['id']}"
        answers = await at_once(
            merchant.post(f"{path}/capture", {"amount": 1999}), merchant.post(f"{path}/increment", {"amount": 2500})
        )
        after = await settled(merchant, payment["id"], flow)

    assert one_was_refused(answers), [answer.text for answer in answers]
    assert sum(amounts(psps, psp, "captures")) == after["amount_received"]
    assert amounts(psps, psp, "authorisations") == [after["amount"]]


@at_each
async def test_every_verb_twice_with_one_key_has_one_effect(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), enabled=SWITCHED_ON, listening=True) as inside:
        merchant = inside.merchant
        create = flow.body(capture_method="manual", incremental_authorization=True)
        made = [await merchant.post("/v1/payments", create, key="make") for _ in range(2)]
        payment = made[0].json()
        path = f"/v1/payments/{payment['id']}"
        verbs = (
            (f"{path}/increment", {"amount": 2500}),
            (f"{path}/capture", {"amount": 2000}),
            ("/v1/refunds", {"payment": payment["id"], "amount": 300}),
        )
        for number, (verb, asked) in enumerate(verbs):
            for _ in range(2):
                answer = await merchant.post(verb, asked, key=f"verb-{number}")
                assert answer.status_code in {200, 201, 202}, answer.text
            await settled(merchant, payment["id"], flow)
            replay = [await merchant.post(verb, asked, key=f"verb-{number}") for _ in range(2)]
            assert replay[0].content == replay[1].content
            assert replay[1].headers["Idempotent-Replayed"] == "true"
        after = await merchant.payment(payment["id"])

    assert made[0].content == made[1].content
    assert (after["amount"], after["amount_received"], after["amount_refunded"]) == (2500, 2000, 300)
    assert amounts(psps, psp, "authorisations") == [2500]
    assert amounts(psps, psp, "captures") == [2000]
    assert amounts(psps, psp, "refunds") == [300]
