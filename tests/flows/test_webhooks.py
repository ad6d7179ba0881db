"""Webhooks: only what is authentic is stored, once, and it ends in the same state whenever it comes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from providers.sandbox.signatures import adyen_signature

if TYPE_CHECKING:
    import httpx

    from tests.conftest import Database, Inside, Kit, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])


def adyen_item(operation_id: str, flow: type[Kit], *, amount: int = 1999, number: str = "1") -> dict[str, Any]:
    item: dict[str, Any] = {
        "eventCode": "AUTHORISATION",
        "success": "true",
        "pspReference": f"PSP{number}",
        "merchantReference": operation_id,
        "merchantAccountCode": flow.MERCHANT_ACCOUNT,
        "amount": {"value": amount, "currency": "EUR"},
        "eventDate": "2026-11-21T09:30:00+01:00",
        "reason": "123456:4242:12/2030",
    }
    signature = adyen_signature(item, flow.SECRETS["FLOWS_ADYEN_HMAC_KEY"])
    captured = {"metadata.capture_method": "automatic"}
    return {"NotificationRequestItem": item | {"additionalData": {"hmacSignature": signature, **captured}}}


def adyen_batch(*items: dict[str, Any]) -> bytes:
    return json.dumps({"live": "false", "notificationItems": list(items)}).encode()


async def deliver(inside: Inside, psp: str, operation_id: str, flow: type[Kit], **changes: Any) -> httpx.Response:
    """An authentic webhook that says the operation was approved."""
    if psp == "stripe":
        body = flow.stripe_event(operation_id, **changes)
        return await inside.merchant.http.post("/v1/webhooks/stripe", content=body, headers=flow.signed(body))
    body = adyen_batch(adyen_item(operation_id, flow, **changes))
    return await inside.merchant.http.post("/v1/webhooks/adyen", content=body)


REFUSED, UNREADABLE = (401, "webhook_refused"), (400, "webhook_unreadable")


async def _refused(
    inside: Inside, database: Database, account: str, body: bytes, headers: dict[str, str], told: Any = REFUSED
) -> None:
    answer = await inside.merchant.http.post(f"/v1/webhooks/{account}", content=body, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == told, (body, headers)
    assert database.value("SELECT count(*) FROM webhook_inbox") == 0


async def test_what_is_not_authentic_is_refused_and_not_stored(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    event, item = flow.stripe_event("att_1"), adyen_item("att_1", flow)
    unsigned = json.loads(adyen_batch(item))
    del unsigned["notificationItems"][0]["NotificationRequestItem"]["additionalData"]["hmacSignature"]
    tampered = adyen_batch(item).replace(b"1999", b"9999")
    other_account = adyen_batch(item).replace(flow.MERCHANT_ACCOUNT.encode(), b"SomebodyElse")

    async with open_gateway() as inside:
        await _refused(inside, database, "stripe", event, {})
        await _refused(inside, database, "stripe", event, {"Stripe-Signature": "t=1,v1=00"})
        await _refused(inside, database, "stripe", event, flow.signed(event, secret="whsec_other"))
        await _refused(inside, database, "stripe", event, flow.signed(event, age_s=3600))
        await _refused(inside, database, "stripe", event, flow.signed(event, age_s=-3600))
        await _refused(inside, database, "stripe", event + b" ", flow.signed(event))
        await _refused(inside, database, "stripe", b"", flow.signed(b""), UNREADABLE)
        await _refused(inside, database, "adyen", json.dumps(unsigned).encode(), {})
        await _refused(inside, database, "adyen", tampered, {})
        await _refused(inside, database, "adyen", other_account, {})
        await _refused(inside, database, "adyen", b'{"notificationItems": []}', {}, UNREADABLE)
        await _refused(inside, database, "adyen", b"not json", {}, UNREADABLE)
        await _refused(inside, database, "adyen", b"[" * 10_000, {}, UNREADABLE)
        await _refused(inside, database, "nobody", event, flow.signed(event))
        await _refused(inside, database, "adyen", event, flow.signed(event), UNREADABLE)


async def test_a_webhook_past_256_kib_is_refused(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.http.post("/v1/webhooks/stripe", content=b" " * (256 * 1024 + 1))

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert database.value("SELECT count(*) FROM webhook_inbox") == 0


async def test_one_false_item_refuses_the_whole_batch_and_two_true_ones_are_stored(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    true, false = adyen_item("att_1", flow), adyen_item("att_2", flow, number="2")
    false["NotificationRequestItem"]["amount"]["value"] = 1

    async with open_gateway() as inside:
        await _refused(inside, database, "adyen", adyen_batch(true, false), {})
        both = adyen_batch(true, adyen_item("att_2", flow, number="2"))
        answer = await inside.merchant.http.post("/v1/webhooks/adyen", content=both)

    assert (answer.status_code, answer.text) == (200, "[accepted]")
    assert database.value("SELECT count(*) FROM webhook_inbox") == 2


@at_each
async def test_a_webhook_that_comes_again_is_stored_once_and_acknowledged_again(
    psp: str, open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    psps.fault(psp, "authorize", "duplicate_webhook", copies=3)

    async with open_gateway((psp,), listening=True) as inside:
        payment = await inside.merchant.charged()
        before = (await inside.merchant.get(f"/v1/payments/{payment['id']}")).content
        await flow.eventually(
            lambda: len(psps.webhooks(psp)) == psps_delivered(psps, psp) > 0, "every webhook was delivered"
        )
        await flow.eventually(lambda: _applied(database), "every event was applied")
        after = (await inside.merchant.get(f"/v1/payments/{payment['id']}")).content

    assert next(delivery["attempts"] for delivery in psps.webhooks(psp)) == 3
    events = database.rows("SELECT event_id FROM webhook_inbox")
    assert len(events) == len({row["event_id"] for row in events}) == len(psps.webhooks(psp))
    assert after == before


def psps_delivered(psps: Psps, psp: str) -> int:
    return sum(delivery["status"] == "delivered" for delivery in psps.webhooks(psp))


def _applied(database: Database) -> bool:
    count: int = database.value("SELECT count(*) FROM webhook_inbox WHERE applied_at IS NULL")
    return count == 0


@pytest.mark.parametrize("capture_method", ["automatic", "manual"])
@at_each
async def test_a_webhook_before_our_own_answer_ends_in_the_same_state(
    psp: str, capture_method: str, open_gateway: Open, psps: Psps, database: Database
) -> None:
    psps.fault(psp, "authorize", "slow_answer", latency_ms=700)

    async with open_gateway((psp,), listening=True) as inside:
        answer = await inside.merchant.charge(key="order-1", capture_method=capture_method)
        again = await inside.merchant.charge(key="order-1", capture_method=capture_method)
        psps.reset()
        plain = await inside.merchant.charge(key="order-2", capture_method=capture_method)

    early, usual = answer.json(), plain.json()
    its_psps = ("provider_payment_id", "network_transaction_id", "auth_code")
    assert (answer.status_code, again.content) == (201, answer.content)
    changes = database.rows("SELECT source, reason FROM change WHERE payment_id = %(id)s ORDER BY seq", id=early["id"])
    assert [row["source"] for row in changes[:2]] == ["api", "webhook"]
    assert [(row["source"], row["reason"]) for row in changes[2:]] in ([], [("call", "facts_learned")])
    own = {"id", "payment_method", "client_secret", "created", "updated", "capture_before", *its_psps}
    assert {name: early[name] for name in early.keys() - own} == {name: usual[name] for name in early.keys() - own}
    told = ("capture_before", *its_psps)
    assert [bool(early[name]) for name in told] == [bool(usual[name]) for name in told]


@at_each
async def test_an_unknown_outcome_becomes_the_truth_by_webhook_and_a_late_repetition_is_no_news(
    psp: str, open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    psps.fault(psp, "authorize", "garbage")
    psps.fault(psp, "authorize", "drop_webhook")

    async with open_gateway((psp,)) as inside:
        unknown = (await inside.merchant.charge()).json()
        (operation,) = database.operations(unknown["id"])
        acknowledged = await deliver(inside, psp, operation["id"], flow)
        await flow.eventually(lambda: _applied(database), "the event was applied")
        settled = await inside.merchant.payment(unknown["id"])
        await deliver(inside, psp, operation["id"], flow, number="2")
        await flow.eventually(lambda: _applied(database), "the second event was applied")
        after = await inside.merchant.payment(unknown["id"])

    assert acknowledged.status_code == 200
    assert (unknown["status"], settled["status"], after) == ("processing", "succeeded", settled)
    results = [row["result"] for row in database.rows("SELECT result FROM webhook_inbox ORDER BY id")]
    assert results == ["applied", "no_news"]


@at_each
async def test_an_authentic_webhook_that_contradicts_our_amount_changes_nothing(
    psp: str, open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    psps.fault(psp, "authorize", "garbage")
    psps.fault(psp, "authorize", "drop_webhook")

    async with open_gateway((psp,)) as inside:
        unknown = (await inside.merchant.charge()).json()
        (operation,) = database.operations(unknown["id"])
        await deliver(inside, psp, operation["id"], flow, amount=1)
        await flow.eventually(lambda: _applied(database), "the event was applied")
        after = await inside.merchant.payment(unknown["id"])

    assert (after["status"], after["amount_received"]) == ("processing", 0)
    assert database.value("SELECT result FROM webhook_inbox") == "amount_mismatch"


async def test_an_authentic_webhook_of_another_account_changes_nothing(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    psps.fault("stripe", "authorize", "garbage")
    psps.fault("stripe", "authorize", "drop_webhook")

    async with open_gateway() as inside:
        unknown = (await inside.merchant.charge()).json()
        (operation,) = database.operations(unknown["id"])
        await deliver(inside, "adyen", operation["id"], flow)
        await flow.eventually(lambda: _applied(database), "the event was applied")
        after = await inside.merchant.payment(unknown["id"])

    assert after["status"] == "processing"
    assert database.value("SELECT result FROM webhook_inbox") == "another_account"


@at_each
async def test_a_webhook_of_a_payment_that_is_not_ours_is_kept_and_acknowledged(
    psp: str, open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        answer = await deliver(inside, psp, "att_" + "0" * 32, flow)
        foreign = await deliver(inside, psp, "order-of-another-shop", flow, number="2")

        def noted() -> bool:
            count: int = database.value("SELECT count(*) FROM webhook_inbox WHERE result IS NOT NULL")
            return count == 2

        await flow.eventually(noted, "both were looked at")

    assert (answer.status_code, foreign.status_code) == (200, 200)
    assert database.value("SELECT count(*) FROM payment") == 0


@at_each
async def test_a_webhook_that_cannot_be_stored_is_asked_for_again(
    psp: str, open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        database.rows("ALTER TABLE webhook_inbox RENAME TO webhook_inbox_gone")
        answer = await deliver(inside, psp, "att_1", flow)
        policies = (await inside.merchant.get("/v1/policies")).json()["data"]
        database.rows("ALTER TABLE webhook_inbox_gone RENAME TO webhook_inbox")
        again = await deliver(inside, psp, "att_1", flow)

    assert (answer.status_code, again.status_code) == (503, 200)
    (lost,) = [row["applied"] for row in policies if row["id"] == "postgres_loss_webhook"]
    assert lost == {"fail_closed": 0}  # the database is there
    assert database.value("SELECT count(*) FROM webhook_inbox") == 1
