"""3-D Secure at both PSPs: frictionless, passed, failed, abandoned; the payment ends right, and the history says why."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from string import ascii_letters
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway import complete, news
from gateway.sql import DatabaseAway
from gateway.sweep import end_abandoned, end_lapsed, honour_cancels
from providers.contract import ActionRequired, Declined, Event, Kind, NotProcessed
from providers.declines import Action, Decline

if TYPE_CHECKING:
    from tests.conftest import Inside, Kit, Merchant, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])

CHALLENGED: Final = {"stripe": "4000000000003220", "adyen": "5454545454545454"}
FRICTIONLESS: Final = {"stripe": "4242424242424242", "adyen": "4000200000001006"}
BACK: Final = "https://shop.example/back?order=7"


async def challenged(merchant: Merchant, psp: str, flow: type[Kit], **fields: Any) -> dict[str, Any]:
    """A payment that waits for its shopper."""
    answer = await merchant.charge(
        **{"payment_method_data": flow.card(CHALLENGED[psp]), "return_url": BACK, "three_d_secure": "required"} | fields
    )
    assert answer.status_code == 201, answer.text
    payment: dict[str, Any] = answer.json()
    assert payment["status"] == "requires_action", payment
    assert payment["next_action"]["type"] == "redirect_to_url", payment["next_action"]
    return payment


async def history(merchant: Merchant, payment_id: str) -> list[str]:
    shown = (await merchant.get(f"/v1/payments/{payment_id}", **{"expand[]": "history"})).json()
    return [event["reason"] for event in shown["history"]]


async def open_attempt(inside: Inside, payment: dict[str, Any]) -> str:
    """The id of the attempt that waits for the shopper."""
    found = await inside.house.deps.queries.payment(payment["id"])
    assert found is not None
    assert found.open_attempt is not None
    return found.open_attempt.id


@at_each
async def test_a_challenge_that_is_passed_ends_the_payment_well(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await challenged(inside.merchant, psp, flow)
        answer = await inside.merchant.come_back(await psps.visit(payment, "succeeded"))
        paid = await inside.merchant.payment(payment["id"])
        told = await history(inside.merchant, payment["id"])

    assert answer.status_code == 303, answer.text
    assert answer.headers["referrer-policy"] == "no-referrer"
    back = urlsplit(answer.headers["location"])
    assert f"{back.scheme}://{back.netloc}{back.path}" == "https://shop.example/back"
    assert parse_qs(back.query) == {"order": ["7"], "payment": [payment["id"]]}
    assert (paid["status"], paid["amount_received"], paid["next_action"]) == ("succeeded", 1999, None)
    assert paid["three_d_secure"]["result"] == "authenticated"
    assert told == ["confirmed", "requires_action", "shopper_returned", "captured"]
    assert len(psps.charges()) == 1


@at_each
async def test_a_frictionless_authentication_asks_nothing_of_the_shopper(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        paid = await inside.merchant.charged(
            payment_method_data=flow.card(FRICTIONLESS[psp]), return_url=BACK, three_d_secure="required"
        )

    assert paid["status"] == "succeeded"
    assert paid["three_d_secure"]["result"] in {"authenticated", "attempted"}
    assert paid["three_d_secure"]["flow"] in {"frictionless", None}
    assert len(psps.charges()) == 1


@at_each
async def test_a_challenge_that_fails_declines_the_payment_and_asks_nobody_else(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    order = (psp, "adyen" if psp == "stripe" else "stripe")
    async with open_gateway(order) as inside:
        payment = await challenged(inside.merchant, psp, flow)
        await inside.merchant.come_back(await psps.visit(payment, "failed"))
        declined = await inside.merchant.payment(payment["id"])
        told = await history(inside.merchant, payment["id"])

    assert declined["status"] == "requires_payment_method"
    assert declined["decline"]["code"] == "authentication_failed"
    assert declined["next_action"] is None
    assert declined["attempt_count"] == 1
    assert told[-2:] == ["shopper_returned", "authentication_failed"]
    assert psps.charges() == []


@at_each
async def test_a_shopper_who_comes_back_without_an_answer_may_still_finish(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await challenged(inside.merchant, psp, flow)
        address = await visit_never(inside, payment, psp)
        early = await inside.merchant.http.get(address)
        waiting = await inside.merchant.payment(payment["id"])
        await inside.merchant.come_back(await psps.visit(payment, "succeeded"))
        paid = await inside.merchant.payment(payment["id"])

    assert early.status_code == 303
    assert waiting["status"] == "requires_action"
    assert waiting["next_action"]["type"] == "redirect_to_url"
    assert paid["status"] == "succeeded"


async def visit_never(inside: Inside, payment: dict[str, Any], psp: str) -> str:
    """The bare return address, as a browser opens it that goes back too early."""
    return f"/v1/return/{inside.house.deps.keys.return_token(await open_attempt(inside, payment))}"


@at_each
async def test_an_abandoned_challenge_is_closed_at_the_psp_and_then_has_expired(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await challenged(inside.merchant, psp, flow)
        inside.database.let_time_pass()
        ended = await end_abandoned(inside.house.deps)
        expired = await inside.merchant.payment(payment["id"])
        attempts = (await inside.merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "attempts"})).json()
        told = await history(inside.merchant, payment["id"])
        late = await inside.merchant.come_back(await psps.visit(payment, "succeeded"))
        still = await inside.merchant.payment(payment["id"])
        again = await inside.merchant.post(
            f"/v1/payments/{payment['id']}/confirm", {"payment_method_data": flow.card("4242424242424242")}
        )

    assert ended == 1
    assert expired["status"] == "requires_payment_method"
    assert expired["decline"]["code"] == "authentication_expired"
    assert [attempt["status"] for attempt in attempts["attempts"]] == ["expired"]
    assert told[-2:] == ["challenge_abandoned", "void_succeeded"]
    assert late.status_code == 303
    assert still["status"] == "requires_payment_method"
    assert again.status_code in {200, 201}, again.text


async def test_a_challenge_that_was_finished_although_the_browser_never_came_back_is_found(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await challenged(inside.merchant, "stripe", flow)
        await psps.visit(payment, "succeeded")
        inside.database.let_time_pass()
        await end_abandoned(inside.house.deps)
        paid = await inside.merchant.payment(payment["id"])

    assert paid["status"] == "succeeded"
    assert psps.books("stripe", "voids") == []


@at_each
async def test_two_returns_at_once_complete_the_payment_once(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await challenged(inside.merchant, psp, flow)
        address = await psps.visit(payment, "succeeded")
        psps.fault(psp, "any", "latency", latency_ms=300)
        answers = await asyncio.gather(*(inside.merchant.come_back(address) for _ in range(4)))
        paid = await inside.merchant.payment(payment["id"])
        told = await history(inside.merchant, payment["id"])

    assert {answer.status_code for answer in answers} == {303}
    assert paid["status"] == "succeeded"
    assert told.count("shopper_returned") == 1
    assert len(psps.charges()) == 1


@at_each
async def test_a_completion_whose_answer_is_lost_is_settled_by_sending_it_again(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await challenged(inside.merchant, psp, flow)
        address = await psps.visit(payment, "succeeded")
        psps.fault(psp, "any", "garbage")
        await inside.merchant.come_back(address)
        unknown = await inside.merchant.payment(payment["id"])
        await inside.work()
        paid = await inside.merchant.payment(payment["id"])

    assert (unknown["status"], unknown["processing_reason"]) == ("processing", "outcome_unknown")
    assert paid["status"] == "succeeded"
    assert len(psps.charges()) == 1


async def test_late_news_of_a_challenge_does_not_take_back_that_the_shopper_has_returned(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await challenged(inside.merchant, "stripe", flow)
        address = await psps.visit(payment, "succeeded")
        attempt_id = await open_attempt(inside, payment)
        psps.fault("stripe", "lookup", "latency", latency_ms=700)
        returning = asyncio.create_task(inside.merchant.come_back(address))
        await flow.eventually(lambda: bool(psps.requests("stripe", "lookup")), "the return is at the PSP")
        event = Event(
            "evt_late",
            "payment_intent.requires_action",
            Kind.AUTHORIZE,
            attempt_id,
            outcome=ActionRequired(payment["provider_payment_id"], payment["next_action"]),
        )
        late = await news.apply("stripe", event, inside.house.deps)
        meanwhile = await inside.merchant.payment(payment["id"])
        await returning
        paid = await inside.merchant.payment(payment["id"])

    assert late.result == "challenge_known"
    assert (meanwhile["status"], paid["status"]) == ("processing", "succeeded")


async def test_a_return_address_that_is_not_ours_says_nothing(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await challenged(inside.merchant, "stripe", flow)
        token = inside.house.deps.keys.return_token(await open_attempt(inside, payment))
        forged = [token[:-1] + last for last in ascii_letters if last != token[-1]]
        forged += [token[:20], "x" * 43, "ü", token + "AAAA", "B" + token[1:], token + "."]
        answers = [await inside.merchant.http.get(f"/v1/return/{each}") for each in forged]
        waiting = await inside.merchant.payment(payment["id"])

    assert {answer.status_code for answer in answers} == {404}
    assert all(payment["id"] not in answer.text for answer in answers)
    assert all("go back to the shop" in answer.text for answer in answers)
    assert all("default-src 'none'" in answer.headers["Content-Security-Policy"] for answer in answers)
    assert waiting["status"] == "requires_action"


async def test_a_native_challenge_is_completed_through_details(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    shopper = {
        "channel": "web",
        "origin": "https://shop.example",
        "ip": "192.0.2.1",
        "browser_info": {
            "accept_header": "*/*",
            "color_depth": 24,
            "java_enabled": False,
            "language": "en",
            "screen_height": 800,
            "screen_width": 1280,
            "time_zone_offset": -60,
            "user_agent": "Mozilla/5.0",
        },
    }
    async with open_gateway(("adyen",)) as inside:
        merchant = inside.merchant
        answer = await merchant.charge(
            payment_method_data=flow.card(CHALLENGED["adyen"]), shopper=shopper, return_url=BACK
        )
        payment = answer.json()
        path = f"/v1/payments/{payment['id']}/details"
        nothing = await merchant.post(path, {"details": {"other": "x"}})
        steps = []
        for _ in range(3):
            if payment["status"] != "requires_action":
                break
            action = payment["next_action"]["use_adyen_sdk"]
            steps.append(action["subtype"])
            result = await asyncio.to_thread(native_result, psps, action)
            answer = await merchant.post(path, {"details": {"threeDSResult": result}})
            payment = answer.json()

    assert (nothing.status_code, nothing.json()["code"], nothing.json()["param"]) == (
        422,
        "validation_failed",
        "details",
    )
    assert steps == ["fingerprint", "challenge"]
    assert answer.status_code == 200, answer.text
    assert payment["status"] == "succeeded"
    assert payment["three_d_secure"]["result"] == "authenticated"
    assert len(psps.charges()) == 1


def native_result(psps: Psps, action: dict[str, Any]) -> str:
    """What Adyen's component in the browser would make of the action, as the simulator understands it."""
    page = psps.http.get(action["url"], params={"result": "succeeded"})
    return parse_qs(urlsplit(page.headers["location"]).query)["threeDSResult"][0]


@at_each
async def test_a_cancel_while_the_shopper_is_away_closes_the_challenge(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,)) as inside:
        payment = await challenged(inside.merchant, psp, flow)
        address = await psps.visit(payment, "succeeded") if psp == "adyen" else None
        answer = await inside.merchant.post(f"/v1/payments/{payment['id']}/cancel")
        if address is not None:
            await inside.merchant.come_back(address)
        canceled = await inside.merchant.payment(payment["id"])

    assert answer.status_code == 200, answer.text
    assert canceled["status"] == "canceled"
    assert [charge["status"] for charge in psps.charges()] in ([], ["voided"])


async def test_a_declined_payment_that_nobody_pays_again_has_failed_after_a_day(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        answer = await inside.merchant.charge(payment_method_data=flow.card("4000000000009995"))
        inside.database.let_time_pass()
        ended = [await end_lapsed(inside.house.deps) for _ in range(2)]
        failed = await inside.merchant.payment(answer.json()["id"])
        confirm = await inside.merchant.post(
            f"/v1/payments/{failed['id']}/confirm", {"payment_method_data": flow.card()}
        )

    assert answer.json()["status"] == "requires_payment_method"
    assert ended == [1, 0]
    assert (failed["status"], failed["decline"]["code"]) == ("failed", "insufficient_funds")
    assert (confirm.status_code, confirm.json()["code"]) == (409, "payment_state")


async def test_a_decline_followed_by_an_account_that_was_away_is_final_after_a_day(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe", "adyen"), unreachable=("adyen",)) as inside:
        psps.fault("stripe", "authorize", "decline", code="processing_error")
        answer = await inside.merchant.charge()
        inside.database.let_time_pass()
        await end_lapsed(inside.house.deps)
        failed = await inside.merchant.payment(answer.json()["id"])

    assert answer.json()["status"] == "requires_payment_method"
    assert failed["status"] == "failed"


# --- Returns that go wrong ---------------------------------------------------------------------------------------------


async def worked(inside: Inside, rounds: int = 3) -> None:
    """The worker's rounds, its cancels included."""
    for _ in range(rounds):
        await honour_cancels(inside.house.deps)
        await inside.work()


async def test_nothing_happened_is_said_only_of_ones_own_request(
    open_gateway: Open, psps: Psps, flow: type[Kit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process wakes up and is refused a connection, while the worker has charged and lost the answer."""
    async with open_gateway(("adyen",)) as inside:
        payment = await challenged(inside.merchant, "adyen", flow)
        address = await psps.visit(payment, "succeeded")

        async def frozen(*_args: object, **_options: object) -> NotProcessed:
            psps.fault("adyen", "any", "garbage", status=500)
            await inside.work()
            return NotProcessed("not_sent")

        with monkeypatch.context() as patch:
            patch.setattr(complete, "send", frozen)
            await inside.merchant.come_back(address)
        meanwhile = await inside.merchant.payment(payment["id"])
        await inside.work()
        paid = await inside.merchant.payment(payment["id"])

    assert (meanwhile["status"], meanwhile["processing_reason"]) == ("processing", "outcome_unknown")
    assert paid["status"] == "succeeded"
    assert len(psps.charges()) == 1


@pytest.mark.parametrize("status", [429, 401])
async def test_a_return_that_the_psp_did_not_take_is_passed_on_by_the_worker(
    status: int, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("adyen",)) as inside:
        payment = await challenged(inside.merchant, "adyen", flow)
        address = await psps.visit(payment, "succeeded")
        psps.fault("adyen", "any", "status", status=status)
        await inside.merchant.come_back(address)
        await worked(inside)
        paid = await inside.merchant.payment(payment["id"])

    assert paid["status"] == "succeeded"
    assert len(psps.charges()) == 1


@pytest.mark.parametrize("dies", ["before_the_call", "after_the_call"])
async def test_wrong_details_and_a_crash_leave_the_challenge_open(
    dies: str, open_gateway: Open, psps: Psps, flow: type[Kit], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_args: object, **_options: object) -> None:
        raise RuntimeError

    async with open_gateway(("adyen",)) as inside:
        payment = await challenged(inside.merchant, "adyen", flow)
        bare = await visit_never(inside, payment, "adyen")
        with monkeypatch.context() as patch:
            if dies == "before_the_call":
                patch.setattr(complete, "send", killed)
            else:
                psps.fault("adyen", "any", "garbage", status=500)
            await inside.merchant.http.get(f"{bare}?redirectResult=nonsense")
        unknown = await inside.merchant.payment(payment["id"])
        await worked(inside)
        waiting = await inside.merchant.payment(payment["id"])
        await inside.merchant.come_back(await psps.visit(payment, "succeeded"))
        paid = await inside.merchant.payment(payment["id"])

    assert (unknown["status"], unknown["next_action"]) == ("processing", None)
    assert (waiting["status"], waiting["next_action"]) == ("requires_action", payment["next_action"])
    assert paid["status"] == "succeeded"
    assert len(psps.charges()) == 1


async def test_what_another_payments_shopper_brought_back_completes_nothing(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    """The shopper of a cheap payment passes its challenge, and opens the address of a dear one with the result."""
    async with open_gateway(("adyen",)) as inside:
        dear = await challenged(inside.merchant, "adyen", flow, amount=199_900)
        cheap = await challenged(inside.merchant, "adyen", flow, amount=100)
        result = urlsplit(await psps.visit(cheap, "succeeded")).query
        await inside.merchant.http.get(f"{await visit_never(inside, dear, 'adyen')}?{result}")
        still = await inside.merchant.payment(dear["id"])
        await inside.merchant.http.get(f"{await visit_never(inside, cheap, 'adyen')}?{result}")
        paid = await inside.merchant.payment(cheap["id"])

    assert (still["status"], still["amount_received"]) == ("requires_action", 0)
    assert (paid["status"], paid["amount_received"]) == ("succeeded", 100)
    assert [charge["amount"] for charge in psps.charges()] == [100]


async def test_a_cancel_that_was_promised_is_kept_although_the_shopper_had_finished(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await challenged(inside.merchant, "stripe", flow)
        address = await psps.visit(payment, "succeeded")
        psps.fault("stripe", "void", "status", status=500)
        promised = await inside.merchant.post(f"/v1/payments/{payment['id']}/cancel")
        await inside.work()
        await inside.merchant.come_back(address)
        await worked(inside)
        ended = await inside.merchant.payment(payment["id"])

    assert (promised.status_code, promised.json()["cancel_requested"]) == (202, True)
    assert ended["status"] == "canceled" or ended["amount_refunded"] == 1999


async def test_a_cancel_that_joins_the_closing_of_a_challenge_is_kept(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await challenged(inside.merchant, "stripe", flow)
        inside.database.let_time_pass()
        psps.fault("stripe", "void", "status", status=500)
        await end_abandoned(inside.house.deps)
        await psps.visit(payment, "succeeded")
        promised = await inside.merchant.post(f"/v1/payments/{payment['id']}/cancel")
        await worked(inside, rounds=5)
        ended = await inside.merchant.payment(payment["id"])

    assert promised.status_code == 202, promised.text
    assert ended["status"] == "canceled" or ended["amount_refunded"] == 1999


async def test_coming_back_early_does_not_put_off_the_end(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await challenged(inside.merchant, "stripe", flow)
        bare = await visit_never(inside, payment, "stripe")
        inside.database.rows("UPDATE operation SET created_at = created_at - interval '25 minutes'")
        for _ in range(2):
            await inside.merchant.http.get(bare)
        (attempt,) = inside.database.operations(payment["id"])

    assert attempt["status"] == "requires_action"
    assert attempt["due_at"] - attempt["created_at"] < timedelta(minutes=31)


async def test_a_challenge_that_an_older_version_left_behind_ends(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",)) as inside:
        await challenged(inside.merchant, "stripe", flow)
        inside.database.rows(
            "UPDATE operation SET due_at = NULL, challenged = false, updated_at = updated_at - interval '2 hours'"
        )
        ended = await end_abandoned(inside.house.deps)

    assert ended == 1


async def test_an_old_closing_says_nothing_about_a_newer_try(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        payment = await challenged(merchant, "stripe", flow)
        inside.database.let_time_pass()
        psps.fault("stripe", "void", "status", status=500)
        await end_abandoned(inside.house.deps)
        await psps.visit(payment, "failed")
        found = await inside.house.deps.queries.payment(payment["id"])
        assert found is not None
        attempt = found.attempts[-1]
        failed = Declined(Decline("authentication_failed", "soft", Action.ASK_NEW_METHOD), attempt.provider_id)
        event = Event("evt_1", "payment_intent.payment_failed", Kind.AUTHORIZE, attempt.id, outcome=failed)
        await news.apply("stripe", event, inside.house.deps)
        again = await merchant.post(
            f"/v1/payments/{payment['id']}/confirm", {"payment_method_data": flow.card(CHALLENGED["stripe"])}
        )
        await merchant.come_back(await psps.visit(again.json(), "succeeded"))
        paid = await merchant.payment(payment["id"])

    assert paid["status"] == "succeeded"


async def test_a_browser_is_sent_on_although_the_database_is_away(
    open_gateway: Open, psps: Psps, flow: type[Kit], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: object, **_options: object) -> None:
        raise DatabaseAway

    async with open_gateway(("stripe",)) as inside:
        payment = await challenged(inside.merchant, "stripe", flow)
        address = await psps.visit(payment, "succeeded")
        monkeypatch.setattr(complete, "open_certainly", away)
        answer = await inside.merchant.come_back(address)

    assert answer.status_code == 303
