"""Webhooks: signed, in the background, repeated until taken, and faulty on request."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import Adyen.util
import pytest
import stripe
from aiohttp import web

from providers.sandbox import SandboxConfig, postman
from providers.sandbox.signatures import adyen_signature, adyen_signing_string

STRIPE_SECRET = "whsec_test_secret"


def deliveries(sandbox: Any, psp: str) -> list[dict[str, Any]]:
    answer = sandbox.http.get(f"{sandbox.url(psp)}/_sandbox/webhooks").json()
    found: list[dict[str, Any]] = answer["webhooks"]
    return found


def test_stripe_events_verify_with_the_official_sdk(sandbox: Any) -> None:
    intent = sandbox.charge()
    sandbox.mailbox.stripe_events("payment_intent.succeeded")
    _, headers, body = sandbox.mailbox.received[0]

    event = sandbox.stripe.construct_event(body, headers["Stripe-Signature"], STRIPE_SECRET)

    assert (event.type, event.data.object.id) == ("payment_intent.succeeded", intent.id)
    assert event.request.idempotency_key == "key-1"
    assert event.api_version == "2026-05-27.dahlia"
    with pytest.raises(stripe.SignatureVerificationError):
        sandbox.stripe.construct_event(body + b" ", headers["Stripe-Signature"], STRIPE_SECRET)


def test_adyen_items_verify_with_the_official_sdk(sandbox: Any) -> None:
    sandbox.pay(reference="ref:with\\odd:characters")

    item = sandbox.mailbox.adyen_items("AUTHORISATION")[0]

    key = SandboxConfig().adyen_hmac_key
    assert Adyen.util.is_valid_hmac_notification({"notificationItems": [{"NotificationRequestItem": item}]}, key)


def test_adyen_signatures_equal_the_golden_vectors(specs: Path) -> None:
    vectors = json.loads((specs / "adyen.hmac-vectors.json").read_text())["vectors"]
    items = [vector for vector in vectors if vector["kind"] == "notification_item"]
    assert items

    for vector in items:
        assert adyen_signing_string(vector["item"]) == vector["signing_string"]
        signature = adyen_signature(vector["item"], vector["hmac_key_hex"])
        assert signature == vector["expected_signature"], vector["name"]


@pytest.mark.parametrize(
    ("act", "kinds"),
    [
        ("succeed", {"payment_intent.succeeded"}),
        ("decline", {"payment_intent.payment_failed"}),
        ("authorize", {"payment_intent.amount_capturable_updated"}),
        ("challenge", {"payment_intent.requires_action"}),
        ("capture", {"charge.captured", "payment_intent.succeeded"}),
        ("cancel", {"payment_intent.canceled"}),
        ("refund", {"refund.created", "charge.refunded"}),
        ("pending_refund", {"refund.created", "refund.updated"}),
    ],
)
def test_stripe_tells_what_happened(sandbox: Any, act: str, kinds: set[str]) -> None:
    api = sandbox.stripe.v1
    match act:
        case "decline":
            with pytest.raises(stripe.CardError):
                sandbox.charge(payment_method="pm_card_visa_chargeDeclined")
        case "challenge":
            sandbox.charge(payment_method="pm_card_threeDSecure2Required")
        case "authorize":
            sandbox.charge(capture_method="manual")
        case "capture":
            api.payment_intents.capture(sandbox.charge(capture_method="manual").id)
        case "cancel":
            api.payment_intents.cancel(sandbox.charge(capture_method="manual").id)
        case "refund":
            api.refunds.create({"payment_intent": sandbox.charge().id})
        case "pending_refund":
            intent = sandbox.charge(payment_method="pm_card_pendingRefund")
            assert api.refunds.create({"payment_intent": intent.id}).status == "pending"
        case _:
            sandbox.charge()

    for kind in kinds:
        sandbox.mailbox.stripe_events(kind)


def test_an_event_is_sent_until_it_is_taken(sandbox: Any) -> None:
    sandbox.mailbox.statuses.extend([500, 302, 404])

    sandbox.charge()

    events = sandbox.mailbox.stripe_events("payment_intent.succeeded", 4)
    assert len({event["id"] for event in events}) == 1
    delivery = settled(sandbox, "stripe")[0]
    assert (delivery["attempts"], delivery["status"]) == (4, "delivered")


def test_an_event_nobody_takes_is_given_up(sandbox: Any) -> None:
    sandbox.mailbox.statuses.extend([500] * 6)

    sandbox.charge()

    sandbox.mailbox.stripe_events("payment_intent.succeeded", 6)
    delivery = settled(sandbox, "stripe")[0]
    assert (delivery["attempts"], delivery["status"]) == (6, "given_up")


async def test_an_event_that_waits_for_its_turn_is_not_taken_for_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver's time begins when it is spoken to: a burst of events must not run out of it in the sender's own queue."""
    monkeypatch.setattr(postman, "_CONNECTIONS_MAX", 1)
    monkeypatch.setattr(postman, "_ACKNOWLEDGE_WITHIN_S", 3)

    async def take(_: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    sender = postman.Postman(url=url, sign=lambda _: {}, delay_s=0, attempts_max=1, pause_s=0)
    try:
        for number in range(8):
            sender.post(event=f"evt_{number}", kind="test", body=b"{}", fault=None, position=0)
        for _ in range(600):
            if all(each["status"] != "pending" for each in sender.as_json()):
                break
            await asyncio.sleep(0.05)
    finally:
        await sender.close()
        await runner.cleanup()

    assert [each["status"] for each in sender.as_json()] == ["delivered"] * 8


def settled(sandbox: Any, psp: str) -> list[dict[str, Any]]:
    """The deliveries, once none is on its way."""
    for _ in range(100):
        if all(each["status"] != "pending" for each in deliveries(sandbox, psp)):
            break
        time.sleep(0.03)
    return deliveries(sandbox, psp)


@pytest.mark.parametrize("psp", ["stripe", "adyen"])
def test_a_webhook_may_come_twice_or_never(sandbox: Any, psp: str) -> None:
    sandbox.script(psp, "duplicate_webhook")
    sandbox.script(psp, "drop_webhook")
    charge = sandbox.charge if psp == "stripe" else sandbox.pay

    charge(key="twice")
    charge(key="never")

    found = settled(sandbox, psp)
    assert [each["status"] for each in found] == ["delivered", "dropped"]
    bodies = sandbox.mailbox.wait(2)
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]


def test_a_webhook_may_come_late(sandbox: Any) -> None:
    sandbox.script("adyen", "late_webhook", latency_ms=300)

    sandbox.pay(reference="late")
    sandbox.pay(key="key-2", reference="punctual")

    items = sandbox.mailbox.adyen_items("AUTHORISATION", 2)
    assert [item["merchantReference"] for item in items] == ["punctual", "late"]


def test_webhooks_may_change_places(sandbox: Any) -> None:
    sandbox.script("adyen", "reorder_webhook", latency_ms=3000)

    sandbox.pay(reference="first")
    time.sleep(0.1)
    sandbox.pay(key="key-2", reference="second")

    items = sandbox.mailbox.adyen_items("AUTHORISATION", 2)
    assert [item["merchantReference"] for item in items] == ["second", "first"]


def test_a_replay_sends_no_second_webhook(sandbox: Any) -> None:
    for _ in range(2):
        sandbox.charge(key="one")

    assert len(settled(sandbox, "stripe")) == 1
