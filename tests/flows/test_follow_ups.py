"""Capture, cancel, refund and confirm at both accounts: what they answer, and what they can never do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from tests.conftest import Database, Inside, Kit, Merchant, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])


async def settled(merchant: Merchant, answer: httpx.Response, flow: type[Kit]) -> dict[str, Any]:
    """The payment of a verb's answer once nothing of it is on its way: at once at Stripe, by webhook at Adyen."""
    told = answer.json()
    payment_id = told["payment"] if told.get("object") == "refund" else told["id"]

    async def done() -> bool:
        payment = (await merchant.get(f"/v1/payments/{payment_id}", **{"expand[]": "refunds"})).json()
        waiting = [part["status"] for part in [*payment["captures"], *payment["refunds"]]]
        return "pending" not in waiting and not payment["cancel_requested"]

    await flow.eventually(done, "the verb was settled")
    return await merchant.payment(payment_id)


def said(psp: str, answer: httpx.Response, at_once: int) -> bool:
    """Stripe decides at once; Adyen has received it and tells later."""
    return answer.status_code == (at_once if psp == "stripe" else 202)


@at_each
async def test_the_whole_authorization_is_captured(psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        payment = await inside.merchant.charged(capture_method="manual")
        answer = await inside.merchant.post(f"/v1/payments/{payment['id']}/capture")
        captured = await settled(inside.merchant, answer, flow)

    assert (payment["status"], payment["amount_capturable"], payment["amount_received"]) == (
        "requires_capture",
        1999,
        0,
    )
    assert said(psp, answer, 200), answer.text
    assert (captured["status"], captured["amount_capturable"], captured["amount_received"]) == ("succeeded", 0, 1999)
    assert [capture["status"] for capture in captured["captures"]] == ["succeeded"]
    assert [entry["amount"] for entry in psps.books(psp, "captures")] == [1999]


@at_each
async def test_a_partial_capture_releases_the_rest(psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        payment = await inside.merchant.charged(capture_method="manual")
        answer = await inside.merchant.post(f"/v1/payments/{payment['id']}/capture", {"amount": 500})
        captured = await settled(inside.merchant, answer, flow)
        again = await inside.merchant.post(f"/v1/payments/{payment['id']}/capture", {"amount": 500})

    assert said(psp, answer, 200), answer.text
    assert (captured["status"], captured["amount_received"], captured["amount_capturable"]) == ("succeeded", 500, 0)
    assert (again.status_code, again.json()["code"]) == (409, "payment_state")
    assert [entry["amount"] for entry in psps.books(psp, "captures")] == [500]


@at_each
async def test_an_authorization_is_canceled(psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        payment = await inside.merchant.charged(capture_method="manual")
        answer = await inside.merchant.post(
            f"/v1/payments/{payment['id']}/cancel", {"cancellation_reason": "duplicate"}
        )
        canceled = await settled(inside.merchant, answer, flow)

    assert said(psp, answer, 200), answer.text
    assert (canceled["status"], canceled["cancellation_reason"]) == ("canceled", "duplicate")
    assert len(psps.books(psp, "voids")) == 1
    assert [charge["status"] for charge in psps.charges()] == ["voided"]


@at_each
async def test_refunds_never_exceed_what_was_captured(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged()
        first = await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 500, "metadata": {"line": "1"}})
        await settled(merchant, first, flow)
        second = await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 499})
        after_two = await settled(merchant, second, flow)
        too_much = await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 1001})
        rest = await merchant.post("/v1/refunds", {"payment": payment["id"]})
        refunded = await settled(merchant, rest, flow)
        nothing_left = await merchant.post("/v1/refunds", {"payment": payment["id"]})
        shown = await merchant.get(f"/v1/refunds/{first.json()['id']}")

    assert said(psp, first, 201), first.text
    assert (after_two["status"], after_two["amount_refunded"]) == ("succeeded", 999)
    assert (too_much.status_code, too_much.json()["code"], too_much.json()["param"]) == (
        422,
        "amount_too_large",
        "amount",
    )
    assert (rest.json()["amount"], refunded["amount_refunded"]) == (1000, 1999)
    assert nothing_left.status_code in {409, 422}, nothing_left.text
    assert (shown.json()["status"], shown.json()["amount"], shown.json()["metadata"]) == (
        "succeeded",
        500,
        {"line": "1"},
    )
    assert sorted(entry["amount"] for entry in psps.books(psp, "refunds")) == [499, 500, 1000]


async def test_a_verb_that_adyen_has_received_is_decided_by_its_webhook_and_then_replayed_the_same(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    psps.fault("adyen", "capture", "late_webhook", latency_ms=300)

    async with open_gateway(("adyen",), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual")
        path = f"/v1/payments/{payment['id']}/capture"
        received = await merchant.post(path, key="capture-1")
        before = await merchant.post(path, key="capture-1")
        await settled(merchant, received, flow)
        decided = [await merchant.post(path, key="capture-1") for _ in range(2)]

    assert (received.status_code, before.status_code) == (202, 202)
    assert received.json()["status"] == "requires_capture"
    assert received.json()["captures"][0]["status"] == "pending"
    assert received.headers["Location"] == f"/v1/payments/{payment['id']}"
    assert {answer.status_code for answer in decided} == {200}
    assert len({answer.content for answer in decided}) == 1
    assert decided[0].json()["status"] == "succeeded"
    assert len(psps.requests("adyen", "capture")) == 1


# Stripe decides a capture at once: there is no later failure.
@pytest.mark.parametrize(("psp", "verb"), [("stripe", "refund"), ("adyen", "capture"), ("adyen", "refund")])
async def test_a_verb_that_the_psp_undoes_later_gives_its_amount_back(
    psp: str, verb: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    psps.fault(psp, verb, "fail_later")

    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual" if verb == "capture" else "automatic")
        path, fields = (
            (f"/v1/payments/{payment['id']}/capture", {})
            if verb == "capture"
            else ("/v1/refunds", {"payment": payment["id"]})
        )
        answer = await merchant.post(path, fields)
        assert answer.status_code in {200, 201, 202}, answer.text

        async def undone() -> bool:
            shown = (await merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "refunds"})).json()
            return [part["status"] for part in [*shown["captures"], *shown["refunds"]]] == ["failed"]

        await flow.eventually(undone, "the verb has failed")
        after = await merchant.payment(payment["id"])

    if verb == "capture":
        assert (after["status"], after["amount_capturable"], after["amount_received"]) == ("requires_capture", 1999, 0)
    else:
        assert (after["status"], after["amount_received"], after["amount_refunded"]) == ("succeeded", 1999, 0)


async def _refused(inside: Inside, path: str, fields: dict[str, Any]) -> tuple[int, str]:
    answer = await inside.merchant.post(path, fields)
    return answer.status_code, answer.json()["code"]


async def test_a_verb_that_the_state_forbids_is_a_conflict_and_no_psp_hears_of_it(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        paid = (await merchant.charged())["id"]
        held = (await merchant.charged(capture_method="manual"))["id"]
        new = (await merchant.charged(confirm=False))["id"]
        canceled = (await merchant.charged(confirm=False))["id"]
        await merchant.post(f"/v1/payments/{canceled}/cancel")
        failed = (await merchant.charge(payment_method_data=flow.card("4000000000009987"), off_session=True)).json()[
            "id"
        ]
        before = len(psps.requests("stripe"))
        method = {"payment_method_data": flow.card()}
        answers = {
            "capture of a captured": await _refused(inside, f"/v1/payments/{paid}/capture", {}),
            "cancel of a captured": await _refused(inside, f"/v1/payments/{paid}/cancel", {}),
            "confirm of a captured": await _refused(inside, f"/v1/payments/{paid}/confirm", method),
            "confirm of an authorized": await _refused(inside, f"/v1/payments/{held}/confirm", method),
            "refund of an authorized": await _refused(inside, "/v1/refunds", {"payment": held}),
            "capture of a new": await _refused(inside, f"/v1/payments/{new}/capture", {}),
            "refund of a new": await _refused(inside, "/v1/refunds", {"payment": new}),
            "capture of a canceled": await _refused(inside, f"/v1/payments/{canceled}/capture", {}),
            "cancel of a canceled": await _refused(inside, f"/v1/payments/{canceled}/cancel", {}),
            "confirm of a canceled": await _refused(inside, f"/v1/payments/{canceled}/confirm", method),
            "capture of a failed": await _refused(inside, f"/v1/payments/{failed}/capture", {}),
            "confirm of a failed": await _refused(inside, f"/v1/payments/{failed}/confirm", method),
        }
        too_much = await _refused(inside, f"/v1/payments/{held}/capture", {"amount": 2000})
        several = await _refused(inside, f"/v1/payments/{held}/capture", {"amount": 500, "final": False})

    assert answers == dict.fromkeys(answers, (409, "payment_state"))
    assert too_much == (422, "amount_too_large")
    assert several == (422, "capability_missing")
    assert len(psps.requests("stripe")) == before


@at_each
async def test_captures_that_race_in_two_processes_never_exceed_the_authorization(
    psp: str, open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as one, open_gateway((psp,)) as other:
        payment = await one.merchant.charged(capture_method="manual")
        path = f"/v1/payments/{payment['id']}/capture"
        racing = [inside.merchant.post(path, {"amount": 1500}) for inside in (one, other) * 5]
        answers = await asyncio.gather(*racing)
        (won,) = [answer for answer in answers if answer.status_code in {200, 202}]
        captured = await settled(one.merchant, won, flow)

    lost = [answer for answer in answers if answer is not won]
    assert {answer.json()["code"] for answer in lost} <= {"payment_state", "amount_too_large", "payment_changed"}
    assert captured["amount_received"] == 1500
    assert [entry["amount"] for entry in psps.books(psp, "captures")] == [1500]
    assert database.value("SELECT count(*) FROM operation WHERE kind = 'capture'") == 1


@at_each
async def test_refunds_that_race_never_exceed_the_capture(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as one, open_gateway((psp,)) as other:
        payment = await one.merchant.charged()
        racing = [
            inside.merchant.retried(
                lambda inside=inside, key=f"refund-{number}": inside.merchant.post(  # type: ignore[misc]  # bound now
                    "/v1/refunds", {"payment": payment["id"], "amount": 700}, key=key
                )
            )
            for number, inside in enumerate((one, other) * 4)
        ]
        answers = await asyncio.gather(*racing)
        won = [answer for answer in answers if answer.status_code in {201, 202}]
        refunded = await settled(one.merchant, won[0], flow)

    assert len(won) == 2
    assert {answer.json()["code"] for answer in answers if answer not in won} == {"amount_too_large"}
    assert refunded["amount_refunded"] == 1400
    assert [entry["amount"] for entry in psps.books(psp, "refunds")] == [700, 700]


async def test_a_payment_is_created_first_and_confirmed_with_a_card_later(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        created = await merchant.charged(confirm=False, payment_method_data=None)
        asked = psps.nobody_was_asked()
        nothing = await merchant.post(f"/v1/payments/{created['id']}/confirm")
        method = {"payment_method_data": flow.card()}
        answer = await merchant.post(f"/v1/payments/{created['id']}/confirm", method, key="confirm-1")
        again = await merchant.post(f"/v1/payments/{created['id']}/confirm", method, key="confirm-1")

    assert (created["status"], asked) == ("requires_payment_method", True)
    assert (nothing.status_code, nothing.json()["param"]) == (422, "payment_method")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert (again.status_code, again.content) == (200, answer.content)
    assert len(psps.charges()) == 1


async def test_a_card_brought_at_creation_is_charged_at_the_confirm_and_wiped(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    async with open_gateway() as inside:
        created = await inside.merchant.charged(confirm=False)
        kept = database.rows("SELECT * FROM payment_method")[0]
        answer = await inside.merchant.post(f"/v1/payments/{created['id']}/confirm")
        (wiped,) = database.rows("SELECT * FROM payment_method")

    assert (created["status"], created["card"]["last4"]) == ("requires_confirmation", "4242")
    assert kept["sealed_card"]
    assert kept["sealed_cvc"]
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert (wiped["sealed_card"], wiped["sealed_cvc"], wiped["wipe_at"]) == (None, None, None)
    assert len(psps.charges()) == 1


async def test_a_card_that_came_for_one_payment_is_charged_for_no_other(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        first = (await merchant.charge(confirm=False)).json()
        second = (await merchant.charge(confirm=False, payment_method_data=None)).json()
        charged = await merchant.post(
            "/v1/payments", flow.body(payment_method_data=None, payment_method=first["payment_method"])
        )
        confirmed = await merchant.post(
            f"/v1/payments/{second['id']}/confirm", {"payment_method": first["payment_method"]}
        )
        created = await merchant.charge(confirm=False, payment_method_data=None, payment_method=first["payment_method"])

    for answer in (charged, confirmed, created):
        assert (answer.status_code, answer.json()["param"]) == (422, "payment_method")
    assert psps.nobody_was_asked()


async def test_a_security_code_goes_only_with_the_payment_it_came_with(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    """A card kept for later is charged for another payment without its code; the code still waits for its own."""
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        first = (await merchant.charge(confirm=False, setup_future_usage="off_session")).json()
        method = first["payment_method"]
        other = await merchant.charge(payment_method_data=None, payment_method=method)
        waits = database.value("SELECT sealed_cvc IS NOT NULL FROM payment_method WHERE id = %(id)s", id=method)
        own = await merchant.post(f"/v1/payments/{first['id']}/confirm")
        kept = database.value(
            "SELECT sealed_cvc IS NULL AND sealed_card IS NOT NULL FROM payment_method WHERE id = %(id)s", id=method
        )

    assert (other.status_code, own.status_code) == (201, 200), other.text + own.text
    assert (waits, kept) == (True, True)
    assert (other.json()["checks"], own.json()["checks"]["cvc"]) == (None, "pass")


async def test_a_code_that_waits_is_not_spent_by_another_payments_settling(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        first = (await merchant.charge(confirm=False, setup_future_usage="off_session")).json()
        psps.fault("stripe", "authorize", "garbage", times=1)
        psps.fault("stripe", "authorize", "drop_webhook", times=None)
        other = await merchant.charge(payment_method_data=None, payment_method=first["payment_method"])
        await inside.work()
        settled = await merchant.payment(other.json()["id"])
        own = await merchant.post(f"/v1/payments/{first['id']}/confirm")

    assert (other.status_code, settled["status"]) == (202, "succeeded")
    assert own.json()["checks"]["cvc"] == "pass"
    assert database.value("SELECT count(*) FROM payment_method WHERE sealed_cvc IS NOT NULL") == 0


async def test_a_confirm_is_replayed_although_another_card_has_followed(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        payment = (await merchant.charge(confirm=False, payment_method_data=flow.card("4000000000000002"))).json()
        path, first = f"/v1/payments/{payment['id']}/confirm", {"payment_method": payment["payment_method"]}
        declined = await merchant.post(path, first, key="confirm-1")
        done = await merchant.post(path, {"payment_method_data": flow.card()}, key="confirm-2")
        again = await merchant.post(path, first, key="confirm-1")

    assert (declined.status_code, done.status_code) == (402, 200)
    assert (again.status_code, again.content) == (402, declined.content)
    assert len(psps.charges()) == 1


async def test_the_card_that_is_shown_is_the_one_that_is_charged(open_gateway: Open, flow: type[Kit]) -> None:
    """After a decline of one card, confirmed with a stored one: nothing of the first stays in sight."""
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        stored = (await merchant.charge(setup_future_usage="off_session")).json()["payment_method"]
        declined = (await merchant.charge(payment_method_data=flow.card("4000000000000002"))).json()
        done = await merchant.post(f"/v1/payments/{declined['id']}/confirm", {"payment_method": stored})

    assert declined["card"]["last4"] == "0002"
    assert (done.status_code, done.json()["payment_method"]) == (200, stored)
    assert (done.json()["card"]["bin"], done.json()["card"]["last4"]) == ("424242", "4242")


async def test_a_declined_payment_is_confirmed_with_another_card(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        declined = await inside.merchant.charge(payment_method_data=flow.card("4000000000009987"))
        path = f"/v1/payments/{declined.json()['id']}/confirm"
        again = await inside.merchant.post(path, {"payment_method_data": flow.card("4000000000009979")})
        answer = await inside.merchant.post(path, {"payment_method_data": flow.card()})

    assert (declined.status_code, again.status_code) == (402, 402)
    assert again.json()["decline"]["provider_code"] == "stolen_card"
    assert (answer.status_code, answer.json()["status"], answer.json()["attempt_count"]) == (200, "succeeded", 3)
    assert (answer.json()["id"], answer.json()["decline"]) == (declined.json()["id"], None)
    assert len(psps.charges()) == 1


async def test_after_five_declined_rounds_a_payment_has_failed(open_gateway: Open, flow: type[Kit]) -> None:
    async with open_gateway(("stripe",)) as inside:
        card = flow.card("4000000000009987")
        method = {"payment_method_data": card}
        answers = [await inside.merchant.charge(payment_method_data=card)]
        for _ in range(4):
            answers.append(await inside.merchant.post(f"/v1/payments/{answers[0].json()['id']}/confirm", method))
        refused = await inside.merchant.post(f"/v1/payments/{answers[0].json()['id']}/confirm", method)

    assert [answer.json()["status"] for answer in answers] == ["requires_payment_method"] * 4 + ["failed"]
    assert refused.status_code == 409


@pytest.mark.parametrize("capture_method", ["automatic", "manual"])
@at_each
async def test_a_cancel_while_the_outcome_is_unknown_is_honoured_once_it_is_known(
    psp: str, capture_method: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    from gateway.sweep import honour_cancels

    psps.fault(psp, "authorize", "garbage", times=1)
    psps.fault(psp, "authorize", "drop_webhook", times=1)

    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        unknown = await merchant.charge(key="order-1", capture_method=capture_method)
        payment_id = unknown.json()["id"]
        cancel = await merchant.post(
            f"/v1/payments/{payment_id}/cancel", {"cancellation_reason": "abandoned"}, key="cancel-1"
        )
        await inside.work()
        await honour_cancels(inside.house.deps)

        async def given_back() -> bool:
            payment = await merchant.payment(payment_id)
            return bool(payment["status"] == "canceled" or payment["amount_refunded"] == 1999)

        await flow.eventually(given_back, "the money was given back")
        payment = await merchant.payment(payment_id)
        again = await merchant.post(
            f"/v1/payments/{payment_id}/cancel", {"cancellation_reason": "abandoned"}, key="cancel-1"
        )

    assert (unknown.status_code, cancel.status_code) == (202, 202)
    assert cancel.json()["cancel_requested"] is True
    assert payment["cancel_requested"] is False
    if capture_method == "manual":
        assert (payment["status"], again.status_code) == ("canceled", 200)
        assert len(psps.books(psp, "voids")) == 1
    else:
        assert (payment["status"], payment["amount_refunded"]) == ("succeeded", 1999)
        assert [entry["amount"] for entry in psps.books(psp, "refunds")] == [1999]


@at_each
@pytest.mark.parametrize("verb", ["capture", "cancel", "refund"])
async def test_a_verb_that_reaches_nobody_is_queued_and_done_later_once(
    psp: str, verb: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await inside.merchant.charged(capture_method="automatic" if verb == "refund" else "manual")
    path, fields = (
        ("/v1/refunds", {"payment": payment["id"]})
        if verb == "refund"
        else (f"/v1/payments/{payment['id']}/{verb}", {})
    )
    async with open_gateway((psp,), unreachable=[psp]) as inside:
        queued = await inside.merchant.post(path, fields, key="verb-1")
        await inside.work()
        still = await inside.merchant.post(path, fields, key="verb-1")
    async with open_gateway((psp,), listening=True) as inside:
        await inside.work()
        await settled(inside.merchant, queued, flow)
        done = await inside.merchant.post(path, fields, key="verb-1")
        after = await inside.merchant.payment(payment["id"])

    assert (queued.status_code, still.status_code) == (202, 202)
    assert queued.headers["Location"]
    assert done.status_code == (201 if verb == "refund" else 200), done.text
    book = {"capture": "captures", "cancel": "voids", "refund": "refunds"}[verb]
    assert len(psps.books(psp, book)) == 1
    assert after["status"] == ("canceled" if verb == "cancel" else "succeeded")
    assert after["amount_refunded"] == (1999 if verb == "refund" else 0)


@pytest.mark.parametrize(("psp", "hours"), [("stripe", 21), ("adyen", 25)])
async def test_a_verb_that_reached_nobody_for_as_long_as_it_may_be_sent_has_failed_and_frees_its_amount(
    psp: str, hours: int, open_gateway: Open, psps: Psps, database: Database
) -> None:
    """Past the PSP's memory of the key it can no longer be sent safely; that nobody was asked is still certain then."""
    async with open_gateway((psp,)) as inside:
        payment_id = (await inside.merchant.charged())["id"]
    async with open_gateway((psp,), unreachable=[psp]) as inside:
        queued = await inside.merchant.post("/v1/refunds", {"payment": payment_id}, key="refund-1")
        await inside.work()
        database.rows(
            "UPDATE operation SET created_at = now() - make_interval(hours => %(hours)s) WHERE kind = 'refund'",
            hours=hours,
        )
        await inside.work()
        told = await inside.merchant.post("/v1/refunds", {"payment": payment_id}, key="refund-1")
    async with open_gateway((psp,), listening=True) as inside:
        another = await inside.merchant.post("/v1/refunds", {"payment": payment_id}, key="refund-2")

    assert (queued.status_code, told.status_code, told.json()["code"]) == (202, 422, "provider_refused")
    assert another.status_code in {201, 202}
    assert len(psps.books(psp, "refunds")) == 1


@at_each
@pytest.mark.parametrize(
    ("verb", "fault"), [("capture", "garbage"), ("refund", "reset_after_effect"), ("void", "truncated")]
)
async def test_a_verb_whose_answer_is_lost_is_sent_again_under_its_key_and_done_once(
    psp: str, verb: str, fault: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    psps.fault(psp, verb, fault, times=3)

    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="automatic" if verb == "refund" else "manual")
        word = {"capture": "capture", "void": "cancel"}.get(verb)
        path, fields = (
            (f"/v1/payments/{payment['id']}/{word}", {}) if word else ("/v1/refunds", {"payment": payment["id"]})
        )
        lost = await merchant.post(path, fields, key="verb-1")

        async def done() -> bool:
            await inside.work()
            return (await merchant.post(path, fields, key="verb-1")).status_code in {200, 201}

        await flow.eventually(done, "the verb was settled")
        again = [await merchant.post(path, fields, key="verb-1") for _ in range(2)]

    assert lost.status_code in {200, 201, 202}, lost.text  # a quick webhook may tell before the last resend is lost
    assert len({answer.content for answer in again}) == 1
    assert len(psps.books(psp, {"capture": "captures", "refund": "refunds", "void": "voids"}[verb])) == 1
    assert len({entry["key"] for entry in psps.requests(psp, verb)}) == 1


@at_each
async def test_a_verb_that_the_psp_refuses_is_told_with_its_code_and_frees_its_amount(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    """The PSP has captured already, behind our back; its books and ours differ until somebody looks."""
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment = await merchant.charged()
        psps.reset()  # the PSP has lost the payment
        answer = await merchant.post("/v1/refunds", {"payment": payment["id"]}, key="refund-1")
        after = await merchant.payment(payment["id"])
        again = await merchant.post("/v1/refunds", {"payment": payment["id"]}, key="refund-1")

    if psp == "stripe":
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "provider_refused")
        assert problem["provider"] == {"name": "stripe", "code": "resource_missing"}
        assert (after["status"], after["amount_refunded"]) == ("succeeded", 0)
        assert (again.status_code, again.content, again.headers["Idempotent-Replayed"]) == (422, answer.content, "true")
        assert again.headers["Content-Type"] == "application/problem+json"
    else:
        assert answer.status_code in {202, 422}


async def test_confirms_that_race_under_different_keys_make_one_charge(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway() as one, open_gateway() as other:
        created = await one.merchant.charged(confirm=False, payment_method_data=None)
        path, method = f"/v1/payments/{created['id']}/confirm", {"payment_method_data": flow.card()}
        answers = await asyncio.gather(*(inside.merchant.post(path, method) for inside in (one, other) * 5))

    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    assert {answer.status_code for answer in answers if answer not in won} == {409}
    assert len(psps.charges()) == 1


@at_each
async def test_a_capture_and_a_cancel_that_race_are_never_both_done(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as one, open_gateway((psp,)) as other:
        payments = [await one.merchant.charged(capture_method="manual") for _ in range(6)]
        verbs = [
            inside.merchant.post(f"/v1/payments/{payment['id']}/{verb}")
            for number, payment in enumerate(payments)
            for inside, verb in zip(
                (one, other), ("capture", "cancel") if number % 2 else ("cancel", "capture"), strict=True
            )
        ]
        answers = await asyncio.gather(*verbs)
        for answer in answers:
            if answer.status_code in {200, 202}:
                await settled(one.merchant, answer, flow)
        shown = [await one.merchant.payment(payment["id"]) for payment in payments]

    assert sum(answer.status_code in {200, 202} for answer in answers) == len(payments)
    assert {answer.status_code for answer in answers} <= {200, 202, 409}
    captured = [payment["provider_payment_id"] for payment in shown if payment["status"] == "succeeded"]
    canceled = [payment["provider_payment_id"] for payment in shown if payment["status"] == "canceled"]
    assert len(captured) + len(canceled) == len(payments)
    assert sorted(entry["payment"] for entry in psps.books(psp, "captures")) == sorted(captured)
    assert sorted(entry["payment"] for entry in psps.books(psp, "voids")) == sorted(canceled)
