"""What the PSPs say by webhook: every type that they publish is news or ignored with a reason, and each is read as it is meant."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any, Final

import pytest
from pydantic import SecretStr

from providers import adyen, stripe
from providers.contract import Approved, CardFacts, Kind, Notice, NoticeKind, TokenNews, WebhookRefused
from providers.money import Money
from providers.sandbox.signatures import adyen_signature, stripe_signature

SECRET: Final = "whsec_sandbox"
HMAC_HEADER: Final = "HmacSignature"


@pytest.fixture
def at_stripe(open_account: Any) -> Any:
    return open_account("stripe", "http://127.0.0.1:1").provider


@pytest.fixture
def at_adyen(open_account: Any) -> Any:
    return open_account("adyen", "http://127.0.0.1:1").provider


def stripe_event(kind: str, obj: Any, **changes: Any) -> bytes:
    data = {"object": obj} | changes
    return json.dumps(
        {"id": "evt_1", "object": "event", "type": kind, "created": 1_780_000_000, "livemode": False, "data": data}
    ).encode()


def told_by_stripe(provider: Any, body: bytes) -> Any:
    provider.verify_webhook({"Stripe-Signature": stripe_signature(body, SECRET, int(time.time()))}, body)
    (told,) = provider.parse_webhook(body)
    return told


def adyen_item(kit: Any, code: str, extra: Any = None, **changes: Any) -> bytes:
    item = {
        "amount": {"currency": "EUR", "value": 1999},
        "eventCode": code,
        "eventDate": "2026-11-21T10:00:00+01:00",
        "merchantAccountCode": "SandboxECOM",
        "merchantReference": "att_1",
        "originalReference": "PSP0",
        "pspReference": "MOD1",
        "reason": "",
        "success": "true",
    } | changes
    item["additionalData"] = {**(extra or {}), "hmacSignature": adyen_signature(item, kit.HMAC_KEY)}
    return json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}).encode()


def told_by_adyen(provider: Any, body: bytes, headers: Any = None) -> Any:
    provider.verify_webhook(headers or {}, body)
    (told,) = provider.parse_webhook(body)
    return told


# --- Every published type -----------------------------------------------------------------------------------------------


def test_every_type_of_stripes_is_news_or_ignored_with_a_reason(specs: Any, proved: Any) -> None:
    document = json.loads((specs / "stripe.openapi.json").read_text())
    form = document["paths"]["/v1/webhook_endpoints"]["post"]["requestBody"]["content"]
    (schema,) = (each["schema"] for each in form.values())
    types = set(schema["properties"]["enabled_events"]["items"]["enum"]) - {"*"}

    news = {kind for kind in types if kind in stripe.TOLD}
    ignored = {kind for kind in types if stripe.why_ignored(kind) is not None}

    assert len(types) > 250
    assert types - news - ignored == set(), "neither news nor ignored"
    assert news & ignored == set(), "both"
    assert news == stripe.TOLD, "a type that Stripe does not publish"
    used = {name for name in stripe.IGNORED for kind in types if kind == name or kind.startswith(f"{name}.")}
    assert used == stripe.IGNORED.keys(), "a reason that nothing needs"
    proved(f"Stripe's event types: {len(types)}, of them {len(news)} news and {len(ignored)} ignored with a reason")


def test_every_code_of_adyens_is_news_or_ignored_with_a_reason(specs: Any, proved: Any) -> None:
    standard = json.loads((specs / "adyen.webhooks-v1.openapi.json").read_text())["webhooks"]
    tokens = json.loads((specs / "adyen.tokenization-webhooks-v1.openapi.json").read_text())["webhooks"]
    codes = {name.removeprefix("/") for name in standard} | set(tokens)

    tables = ({code for code, _ in adyen.EVENTS}, {adyen.CANCEL_OR_REFUND}, adyen.DISPUTES, adyen.NOTICES, adyen.TOKENS)
    news = [code for table in tables for code in table]

    assert len(codes) == 48 + 4
    assert codes - set(news) - adyen.IGNORED.keys() == set(), "neither news nor ignored"
    assert set(news) & adyen.IGNORED.keys() == set(), "both"
    assert len(news) == len(set(news)), "news of two kinds"
    assert set(news) <= codes, "a code that Adyen does not publish"
    proved(f"Adyen's event codes: {len(codes)}, of them {len(news)} news and {len(codes - set(news))} ignored")


def test_a_type_that_nobody_knows_is_neither() -> None:
    assert stripe.why_ignored("charge.invented") is None
    assert stripe.why_ignored("invoice") == stripe.why_ignored("invoice.paid") is not None
    assert stripe.why_ignored("invoiced.paid") is None


# --- Official examples --------------------------------------------------------------------------------------------------

RESOURCES: Final = {
    "charge": "charge.",
    "dispute": "charge.dispute.",
    "payment_intent": "payment_intent.",
    "payment_method": "payment_method.",
    "payout": "payout.",
    "radar.early_fraud_warning": "radar.",
    "refund": "refund.",
    "reporting.report_run": "reporting.report_run.",
    "review": "review.",
    "setup_intent": "setup_intent.",
}
"""Stripe's example objects, and how the types of the events about them begin."""


def test_stripes_own_examples_are_read_in_every_event_about_them(specs: Any, at_stripe: Any, proved: Any) -> None:
    fixtures = json.loads((specs / "stripe.fixtures3.json").read_text())["resources"]
    document = json.loads((specs / "stripe.openapi.json").read_text())
    form = document["paths"]["/v1/webhook_endpoints"]["post"]["requestBody"]["content"]
    (schema,) = (each["schema"] for each in form.values())
    read = said = 0
    for kind in sorted(set(schema["properties"]["enabled_events"]["items"]["enum"]) - {"*"}):
        about = max((name for name, begins in RESOURCES.items() if kind.startswith(begins)), key=len, default=None)
        resource = fixtures[about or "customer"]
        told = told_by_stripe(at_stripe, stripe_event(kind, resource))

        assert (told.event_id, told.type) == ("evt_1", kind)
        speaks = any(each is not None for each in (told.outcome, told.dispute, told.token, told.notice))
        assert not (speaks and kind not in stripe.TOLD), kind
        read, said = read + 1, said + speaks
    assert said >= 15
    proved(f"Stripe's own examples: {read} events read, {said} of them news")


def test_adyens_own_tokenization_examples_are_read(specs: Any, open_account: Any, kit: Any) -> None:
    document = json.loads((specs / "adyen.tokenization-webhooks-v1.openapi.json").read_text())
    examples = [example["value"] for example in document["components"]["examples"].values()]
    assert len(examples) == 4
    for example in examples:
        account = example["data"]["merchantAccount"]
        provider = open_account("adyen", "http://127.0.0.1:1", merchant_account=account).provider
        body = json.dumps(example).encode()

        told = told_by_adyen(provider, body, signed_whole(body, kit.HMAC_KEY))

        name = f"{example['data']['shopperReference']}/{example['data']['storedPaymentMethodId']}"
        alive = not example["type"].endswith("disabled")
        assert told.token == TokenNews((name, example["data"]["storedPaymentMethodId"]), alive)
        assert (told.type, told.provider_payment_id) == (example["type"], example["eventId"])
        assert told.occurred_at.isoformat() == example["createdAt"]


# --- Adyen's second envelope --------------------------------------------------------------------------------------------


def signed_whole(body: bytes, key: str, name: str = HMAC_HEADER) -> dict[str, str]:
    digest = hmac.new(bytes.fromhex(key), body, hashlib.sha256).digest()
    return {name: base64.b64encode(digest).decode()}


def token_webhook(kind: str = "recurring.token.created", **changes: Any) -> bytes:
    data = {"merchantAccount": "SandboxECOM", "storedPaymentMethodId": "M5N7", "shopperReference": "shopper-1"}
    told = {
        "type": kind,
        "version": "1",
        "eventId": "PSP1",
        "environment": "test",
        "createdAt": "2026-11-21T10:00:00+01:00",
        "data": {**data, "type": "visa", "operation": kind.rpartition(".")[2]},
    }
    return json.dumps(told | changes).encode()


@pytest.mark.parametrize("name", ["HmacSignature", "hmacsignature", "HMACSIGNATURE"])
def test_a_signature_of_the_whole_body_is_found_in_any_case(name: str, at_adyen: Any, kit: Any) -> None:
    body = token_webhook()

    assert told_by_adyen(at_adyen, body, signed_whole(body, kit.HMAC_KEY, name)).token.alive


def test_both_keys_sign_a_whole_body_while_one_is_rotated(open_account: Any, kit: Any) -> None:
    keys = ("AB" * 32, kit.HMAC_KEY)
    provider = open_account("adyen", "http://127.0.0.1:1", webhook_secrets=tuple(map(SecretStr, keys))).provider
    body = token_webhook()

    for key in keys:
        assert told_by_adyen(provider, body, signed_whole(body, key)).token


def forged_tokens(key: str) -> dict[str, tuple[dict[str, str], bytes]]:
    body = token_webhook()
    other = token_webhook(data={"merchantAccount": "Other", "storedPaymentMethodId": "M", "shopperReference": "s"})
    live = token_webhook(environment="live")
    good = signed_whole(body, key)
    return {
        "no header": ({}, body),
        "an empty header": ({HMAC_HEADER: ""}, body),
        "not base64": ({HMAC_HEADER: "é"}, body),
        "another key": (signed_whole(body, "AB" * 32), body),
        "a tampered body": (good, body.replace(b"M5N7", b"M5N8")),
        "a space more": (good, body + b" "),
        "another merchant account": (signed_whole(other, key), other),
        "another environment": (signed_whole(live, key), live),
        "the signature of an item within": (
            {},
            token_webhook(additionalData={"hmacSignature": good[HMAC_HEADER]}),
        ),
    }


@pytest.mark.parametrize("name", forged_tokens("00"))
def test_a_token_webhook_that_is_not_authentic_is_refused(name: str, at_adyen: Any, kit: Any) -> None:
    headers, body = forged_tokens(kit.HMAC_KEY)[name]

    with pytest.raises(WebhookRefused):
        at_adyen.verify_webhook(headers, body)


def test_the_same_news_of_a_token_is_one_event_and_other_news_another(at_adyen: Any) -> None:
    def event_id(body: bytes) -> str:
        (told,) = at_adyen.parse_webhook(body)
        return str(told.event_id)

    first = event_id(token_webhook())
    assert first == event_id(token_webhook(version="2"))
    assert first != event_id(token_webhook("recurring.token.disabled"))
    assert first != event_id(token_webhook(createdAt="2026-11-21T10:00:01+01:00"))


# --- What the new kinds of news say -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "extra", "notice"),
    [
        (
            "NOTIFICATION_OF_FRAUD",
            {"reason": "Fraudulent Use of Account Number"},
            Notice(NoticeKind.FRAUD_WARNING, "MOD1", "Fraudulent Use of Account Number", Money(1999, "EUR")),
        ),
        (
            "MANUAL_REVIEW_ACCEPT",
            {"reason": "expire"},
            Notice(NoticeKind.REVIEW_CLOSED, "MOD1", "accepted", Money(1999, "EUR")),
        ),
        ("MANUAL_REVIEW_REJECT", {}, Notice(NoticeKind.REVIEW_CLOSED, "MOD1", "rejected", Money(1999, "EUR"))),
        (
            "REPORT_AVAILABLE",
            {"pspReference": "settlement_2026_11.csv", "reason": "https://ca-test.adyen.com/reports/download/x.csv"},
            Notice(
                NoticeKind.REPORT,
                "settlement_2026_11.csv",
                report_url="https://ca-test.adyen.com/reports/download/x.csv",
            ),
        ),
    ],
)
def test_a_notice_of_adyens(code: str, extra: Any, notice: Notice, at_adyen: Any, kit: Any) -> None:
    told = told_by_adyen(at_adyen, adyen_item(kit, code, **extra))
    denied = told_by_adyen(at_adyen, adyen_item(kit, code, **extra, success="false"))

    assert (told.notice, told.kind, told.outcome, told.dispute) == (notice, None, None, None)
    assert told.provider_payment_id == "PSP0"
    assert denied.notice is None


@pytest.mark.parametrize(
    "address",
    [
        "http://ca-test.adyen.com/reports/x.csv",
        "https://adyen.com.evil.example/x.csv",
        "https://evil.example/.adyen.com/x.csv",
        "https://evil.example\\.adyen.com/x.csv",
        "https://ca-test.adyen.com@evil.example/x.csv",
        "https://user@ca-test.adyen.com/x.csv",
        "https://evil-adyen.com/x.csv",
        "https://ca-test.adyen.com",
        "https://ca-test.adyen.com/x\n.csv",
        "it is ready",
        "",
    ],
)
def test_a_report_lies_at_adyens_or_nobody_knows_where(address: str, at_adyen: Any, kit: Any) -> None:
    told = told_by_adyen(at_adyen, adyen_item(kit, "REPORT_AVAILABLE", pspReference="x.csv", reason=address))

    assert told.notice == Notice(NoticeKind.REPORT, "x.csv")


@pytest.mark.parametrize(
    ("action", "kind"), [("cancel", Kind.VOID), ("refund", Kind.REFUND), ("cancelorrefund", None), (None, None)]
)
def test_a_cancel_or_refund_is_what_its_action_says(action: Any, kind: Any, at_adyen: Any, kit: Any) -> None:
    extra = {"modification.action": action} if action else {}
    told = told_by_adyen(at_adyen, adyen_item(kit, "CANCEL_OR_REFUND", extra))
    denied = told_by_adyen(at_adyen, adyen_item(kit, "CANCEL_OR_REFUND", extra, success="false"))

    assert (told.kind, told.operation_id, told.provider_payment_id) == (kind, None, "PSP0")
    assert isinstance(told.outcome, Approved) == (kind is not None)
    assert (denied.kind, denied.outcome) == (None, None)


METHOD: Final = {
    "id": "pm_1",
    "object": "payment_method",
    "customer": "cus_1",
    "card": {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 2031},
}
FACTS: Final = CardFacts(brand="visa", last4="4242", exp_month=1, exp_year=2031)


@pytest.mark.parametrize("kind", ["attached", "automatically_updated", "updated"])
def test_a_changed_payment_method_is_news_of_its_token(kind: str, at_stripe: Any) -> None:
    told = told_by_stripe(at_stripe, stripe_event(f"payment_method.{kind}", METHOD))

    assert told.token == TokenNews(("cus_1/pm_1", "pm_1"), alive=True, card=FACTS)


@pytest.mark.parametrize(
    ("before", "names"),
    [({"customer": "cus_1"}, ("cus_1/pm_1", "pm_1")), ({}, ("pm_1",)), ({"customer": 7}, ("pm_1",))],
)
def test_a_detached_payment_method_is_a_dead_token(before: Any, names: Any, at_stripe: Any) -> None:
    body = stripe_event("payment_method.detached", METHOD | {"customer": None}, previous_attributes=before)

    assert told_by_stripe(at_stripe, body).token == TokenNews(names, alive=False)


@pytest.mark.parametrize(
    ("kind", "obj", "notice", "payment"),
    [
        (
            "radar.early_fraud_warning.created",
            {"id": "issfr_1", "object": "radar.early_fraud_warning", "charge": "ch_1", "fraud_type": "misc"},
            Notice(NoticeKind.FRAUD_WARNING, "issfr_1", "misc"),
            "pi_1",
        ),
        (
            "review.opened",
            {"id": "prv_1", "object": "review", "reason": "rule"},
            Notice(NoticeKind.REVIEW_OPENED, "prv_1", "rule"),
            "pi_1",
        ),
        (
            "review.closed",
            {"id": "prv_1", "object": "review", "reason": "approved", "closed_reason": "approved"},
            Notice(NoticeKind.REVIEW_CLOSED, "prv_1", "approved"),
            "pi_1",
        ),
        (
            "payout.reconciliation_completed",
            {"id": "po_1", "object": "payout"},
            Notice(NoticeKind.REPORT, "po_1"),
            None,
        ),
        (
            "reporting.report_run.succeeded",
            {"id": "frr_1", "object": "reporting.report_run", "report_type": "x.1", "result": {"url": "https://f/1"}},
            Notice(NoticeKind.REPORT, "frr_1", "x.1", report_url="https://f/1"),
            None,
        ),
    ],
)
def test_a_notice_of_stripes(kind: str, obj: Any, notice: Notice, payment: Any, at_stripe: Any) -> None:
    told = told_by_stripe(at_stripe, stripe_event(kind, {"payment_intent": payment} | obj))

    assert (told.notice, told.provider_payment_id) == (notice, payment)
    assert (told.kind, told.outcome, told.dispute) == (None, None, None)
