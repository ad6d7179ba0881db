"""Stripe's adapter: what is asked, how a card becomes a token first, and which webhook is believed."""

import json
import logging
import time
from typing import Any

import pytest
import stripe
from pydantic import SecretStr

from providers.contract import (
    ActionRequired,
    Approved,
    Declined,
    Kind,
    NotProcessed,
    Pending,
    Token,
    Unknown,
    WebhookRefused,
)
from providers.money import Money
from providers.registry import ConfigError
from providers.stripe import ERRORS, StripeProvider

NO_TRANSPORT: Any = None


@pytest.fixture
def provider(open_account: Any) -> Any:
    return open_account("stripe", "http://127.0.0.1:1").provider


def intent(**changes: Any) -> Any:
    body = {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": 1999,
        "amount_received": 1999,
        "currency": "eur",
        "status": "succeeded",
        "metadata": {"operation": "att_1"},
        "latest_charge": "ch_1",
    }
    return body | changes


# --- What is asked ------------------------------------------------------------------------------


def test_the_same_ask_gives_the_same_request(provider: Any, kit: Any) -> None:
    for kind in Kind:
        asked = kit.ask("stripe", kind, amount=Money(5, "EUR"))

        first, second = provider.compose(asked), provider.compose(asked)

        assert json.dumps(first) == json.dumps(second)


def test_a_request_is_json_and_shows_nothing_in_a_log(provider: Any, kit: Any) -> None:
    call = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, instrument=kit.CARD))

    assert json.loads(json.dumps(call)) == call
    assert kit.CARD.number not in repr(kit.CARD)


def test_everything_the_merchant_said_goes_along(provider: Any, kit: Any) -> None:
    request = provider.compose(
        kit.ask(
            "stripe",
            Kind.AUTHORIZE,
            capture_method="manual",
            reference="order-1",
            customer="cus_1",
            description="A chair",
            statement_descriptor="CHAIRS* <shop>",
            setup_future_usage="off_session",
            metadata={"cart": "77", "operation": "mine", "bad[key]": "x", "k" * 41: "x"},
        )
    )

    assert request["params"] == {
        "amount": 1999,
        "currency": "eur",
        "capture_method": "manual",
        "confirm": True,
        "payment_method_types": ["card"],
        "metadata": {
            "cart": "77",
            "operation": "att_1",
            "payment": "pay_1",
            "reference": "order-1",
            "customer": "cus_1",
        },
        "expand": ["latest_charge"],
        "return_url": "https://gateway.example/v1/return/t",
        "description": "A chair",
        "statement_descriptor_suffix": "CHAIRS shop",
        "setup_future_usage": "off_session",
        "payment_method": "pm_card_visa",
    }


def test_metadata_never_refuses_a_payment(provider: Any, kit: Any) -> None:
    many = {f"key{number}": "v" * 600 for number in range(80)}

    sent = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, metadata=many))["params"]["metadata"]

    assert len(sent) == 44  # six places are left for the names of what follows the payment
    assert max(map(len, sent.values())) == 500
    assert sent["operation"] == "att_1"


@pytest.mark.parametrize("text", ["123", "", "***", None])
def test_a_descriptor_that_stripe_would_refuse_is_left_out(text: Any, provider: Any, kit: Any) -> None:
    asked = kit.ask("stripe", Kind.AUTHORIZE, statement_descriptor=text)

    assert "statement_descriptor_suffix" not in provider.compose(asked)["params"]


def test_without_the_shopper_there_is_nowhere_to_return_to(provider: Any, kit: Any) -> None:
    params = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, off_session=True))["params"]

    assert params["off_session"] is True
    assert "return_url" not in params


def test_a_refund_says_only_reasons_that_stripe_knows(provider: Any, kit: Any) -> None:
    known = provider.compose(kit.ask("stripe", Kind.REFUND, reason="duplicate"))
    unknown = provider.compose(kit.ask("stripe", Kind.REFUND, reason="changed my mind"))

    assert known["params"]["reason"] == "duplicate"
    assert "reason" not in unknown["params"]


async def test_the_wire_is_the_sdks_with_our_key_and_the_pinned_version(
    loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(200, intent())
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE))

    await account.provider.send(call, kit.keep_nothing)
    await account.provider.send(call, kit.keep_nothing)

    first, second = loopback.seen
    assert (first.path, first.body) == (second.path, second.body)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == kit.KEY
    assert first.headers["stripe-version"] == "2026-05-27.dahlia"
    assert first.headers["authorization"] == "Bearer sk_test_sandbox"
    assert "x-stripe-client-telemetry" not in first.headers
    assert first.form["confirm"] == "true"


# --- A card becomes a PaymentMethod first -------------------------------------------------------

NEW_METHOD = {"id": "pm_1", "object": "payment_method"}


async def send_card(loopback: Any, open_account: Any, kit: Any, *behaviours: Any, keep: Any = None) -> Any:
    async def kept(request: Any) -> None:
        kept_requests.append(request)

    kept_requests: list[Any] = []
    loopback.will(*behaviours)
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE, instrument=kit.CARD))
    outcome = await account.send(call, keep or kept, first_send=True)
    return outcome, kept_requests, call


async def test_the_card_is_sent_once_under_a_key_of_its_own(loopback: Any, open_account: Any, kit: Any) -> None:
    outcome, kept, call = await send_card(
        loopback,
        open_account,
        kit,
        lambda line: line.answer(200, NEW_METHOD),
        lambda line: line.answer(200, intent()),
    )

    assert isinstance(outcome, Approved)
    card, charge = loopback.seen
    assert (card.path, charge.path) == ("/v1/payment_methods", "/v1/payment_intents")
    assert charge.headers["idempotency-key"] == call.key != card.headers["idempotency-key"]
    assert len(card.headers["idempotency-key"]) == 36
    assert card.form["card[number]"] == kit.CARD.number
    assert kit.CARD.number.encode() not in charge.body
    assert kept == [
        {
            "path": "/v1/payment_intents",
            "params": {**call.request["params"], "payment_method": "pm_1"},
        }
    ]


async def test_a_resend_after_the_card_step_sends_no_card(
    loopback: Any, open_account: Any, kit: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("providers.registry._RESENDS.wait", lambda _state: 0)

    async def lose(line: Any) -> None:
        line.reset()

    outcome, kept, _ = await send_card(
        loopback,
        open_account,
        kit,
        lambda line: line.answer(200, NEW_METHOD),
        lose,
        lambda line: line.answer(200, intent()),
    )

    assert isinstance(outcome, Approved)
    assert [seen.path for seen in loopback.seen] == [
        "/v1/payment_methods",
        "/v1/payment_intents",
        "/v1/payment_intents",
    ]
    assert loopback.seen[1].body == loopback.seen[2].body
    assert len(kept) == 1


async def reset(line: Any) -> None:
    line.reset()


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        (reset, NotProcessed("not_sent")),
        (lambda line: line.answer(500, b"<html>"), NotProcessed("not_sent")),
        (lambda line: line.answer(200, b"1111"), NotProcessed("not_sent")),
        (lambda line: line.answer(200, {"id": "x", "object": "card"}), NotProcessed("not_sent")),
        (lambda line: line.answer(401, {"error": {}}), NotProcessed("credentials")),
        (
            lambda line: line.answer(400, {"error": {"code": "parameter_missing"}}),
            NotProcessed("rejected", "parameter_missing"),
        ),
        (
            lambda line: line.answer(409, {"error": {"code": "idempotency_key_in_use"}}),
            NotProcessed("not_sent", "idempotency_key_in_use"),
        ),
    ],
)
async def test_no_failure_of_the_card_step_can_have_moved_money(
    behaviour: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    found, kept, _ = await send_card(loopback, open_account, kit, behaviour)

    assert found == outcome
    assert kept == []
    assert len(loopback.seen) == 1


async def test_a_card_that_stripe_does_not_take_is_a_decline(loopback: Any, open_account: Any, kit: Any) -> None:
    error = {"error": {"type": "card_error", "code": "incorrect_number", "message": "no"}}
    found, _, _ = await send_card(loopback, open_account, kit, lambda line: line.answer(402, error))

    assert isinstance(found, Declined)
    assert (found.decline.code, found.decline.provider_code) == (
        "card_data_invalid",
        "incorrect_number",
    )


async def test_nothing_is_charged_before_the_rest_is_kept(loopback: Any, open_account: Any, kit: Any) -> None:
    async def fails(_request: Any) -> None:
        raise RuntimeError("no commit")

    with pytest.raises(RuntimeError, match="no commit"):
        await send_card(
            loopback,
            open_account,
            kit,
            lambda line: line.answer(200, NEW_METHOD),
            keep=fails,
        )

    assert [seen.path for seen in loopback.seen] == ["/v1/payment_methods"]


# --- What the answer means ----------------------------------------------------------------------

STATUSES = [
    (intent(), Approved),
    (intent(status="requires_capture", amount_received=0), Approved),
    (
        intent(
            status="requires_action",
            next_action={
                "type": "redirect_to_url",
                "redirect_to_url": {"url": "https://hooks.example"},
            },
        ),
        ActionRequired,
    ),
    (intent(status="requires_action"), Unknown),
    (intent(status="processing"), Pending),
    (intent(status="canceled"), Declined),
    (
        intent(status="requires_payment_method", last_payment_error={"code": "card_declined"}),
        Declined,
    ),
    (intent(status="requires_payment_method"), Unknown),
    (intent(status="requires_confirmation"), Unknown),
    (intent(status="requires_reauthorization"), Unknown),
    (intent(status="a_new_status"), Unknown),
    (intent(amount_received=1), Unknown),
    (intent(metadata={}), Unknown),
]


@pytest.mark.parametrize(("body", "outcome"), STATUSES)
async def test_a_status_by_the_table(body: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any) -> None:
    loopback.will_answer(200, body)
    account = open_account("stripe", loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)), kit.keep_nothing)

    assert type(found) is outcome


async def test_what_is_known_of_the_card_is_kept(loopback: Any, open_account: Any, kit: Any) -> None:
    card = {
        "brand": "visa",
        "last4": "4242",
        "exp_month": 3,
        "exp_year": 2030,
        "funding": "credit",
        "country": "US",
        "checks": {"address_postal_code_check": "pass", "cvc_check": "fail"},
        "authorization_code": "A1",
        "network_transaction_id": "nti",
        "something_new": {"a": 1},
    }
    charge = {"id": "ch_1", "payment_method_details": {"type": "card", "card": card}}
    loopback.will_answer(200, intent(latest_charge=charge))
    account = open_account("stripe", loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)), kit.keep_nothing)

    assert (found.avs, found.cvc, found.auth_code) == ("pass", "fail", "A1")
    assert found.network_transaction_id == "nti"
    assert (found.card.brand, found.card.last4, found.card.country) == ("visa", "4242", "US")


@pytest.mark.parametrize("kind", [Kind.CAPTURE, Kind.VOID])
async def test_a_follow_up_that_did_not_happen_is_not_approved(
    kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", kind))
    other = {Kind.CAPTURE: "canceled", Kind.VOID: "succeeded"}[kind]

    loopback.will_answer(200, intent(status="requires_capture"))
    still_open = await account.provider.send(call, kit.keep_nothing)
    loopback.will_answer(200, intent(status=other))
    over = await account.provider.send(call, kit.keep_nothing)

    assert isinstance(still_open, Unknown)
    assert isinstance(over, Declined)
    assert over.decline.code == "provider_refused"


async def test_a_capture_that_was_not_ours_is_not_believed(loopback: Any, open_account: Any, kit: Any) -> None:
    loopback.will_answer(200, intent(metadata={"capture": "cap_other"}))
    account = open_account("stripe", loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask("stripe", Kind.CAPTURE)), kit.keep_nothing)

    assert found == Unknown("mismatch_operation")


REFUNDS = [("succeeded", Approved), ("pending", Pending), ("failed", Declined), ("new", Unknown)]


@pytest.mark.parametrize(("status", "outcome"), REFUNDS)
async def test_a_refund_by_the_table(status: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any) -> None:
    refund = {
        "id": "re_psp",
        "object": "refund",
        "amount": 1999,
        "currency": "eur",
        "status": status,
        "payment_intent": "pi_1",
        "metadata": {"operation": "re_1"},
    }
    loopback.will_answer(200, refund)
    account = open_account("stripe", loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask("stripe", Kind.REFUND)), kit.keep_nothing)

    assert type(found) is outcome


async def test_a_lookup_that_fails_proves_nothing(loopback: Any, open_account: Any, kit: Any) -> None:
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.CAPTURE))
    for status in (401, 402, 404, 429, 500):
        loopback.will_answer(status, {"error": {"code": "resource_missing"}})

        assert isinstance(await account.provider.lookup(call), Unknown)
    loopback.will_answer(200, b"{}")
    assert await account.provider.lookup(call) == Unknown("unreadable")


def test_every_verb_has_its_table_of_errors() -> None:
    assert set(ERRORS) == set(Kind)


# --- Secrets and card numbers -------------------------------------------------------------------


def test_a_key_of_the_other_mode_is_refused(kit: Any) -> None:
    for key, environment in (("sk_live_x", "test"), ("rk_test_x", "live")):
        config = kit.config("stripe", "http://x", api_key=SecretStr(key), environment=environment)

        with pytest.raises(ConfigError) as refused:
            StripeProvider(config, NO_TRANSPORT)
        assert key not in str(refused.value)


def test_the_sdks_debug_log_would_print_card_numbers_and_is_refused(kit: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("STRIPE_LOG", "debug")

    with pytest.raises(ConfigError):
        StripeProvider(kit.config("stripe", "http://x"), NO_TRANSPORT)


async def test_no_log_shows_a_card_number(loopback: Any, open_account: Any, kit: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    await send_card(
        loopback,
        open_account,
        kit,
        lambda line: line.answer(200, NEW_METHOD),
        lambda line: line.answer(200, intent()),
    )

    assert kit.CARD.number not in caplog.text
    assert "sk_test_sandbox" not in caplog.text


# --- Webhooks -----------------------------------------------------------------------------------


def read(provider: Any, headers: Any, body: Any) -> Any:
    """Verified, then translated, as the inbox does it."""
    provider.verify_webhook(headers, body)
    return provider.parse_webhook(body)


def event(kind: Any = "payment_intent.succeeded", obj: Any = None, **changes: Any) -> Any:
    body = {
        "id": "evt_1",
        "object": "event",
        "type": kind,
        "created": 1_780_000_000,
        "data": {"object": intent() if obj is None else obj},
    }
    return json.dumps(body | changes).encode()


def sign(body: Any, secret: Any = "whsec_sandbox", at: Any = 0) -> Any:
    stamp = int(time.time()) + at
    text = body.decode("utf-8", "replace")
    header = stripe.WebhookSignature.generate_signature_header(text, secret, stamp)
    return {"Stripe-Signature": header}


def test_a_signed_event_is_translated(provider: Any) -> None:
    body = event()

    (told,) = read(provider, sign(body), body)

    assert (told.event_id, told.type, told.kind) == (
        "evt_1",
        "payment_intent.succeeded",
        Kind.AUTHORIZE,
    )
    assert (told.operation_id, told.provider_id) == ("att_1", "pi_1")
    assert told.outcome == Approved("pi_1", Money(1999, "EUR"), captured=True)


def test_a_header_is_found_in_any_case(provider: Any) -> None:
    body = event()
    (value,) = sign(body).values()

    assert read(provider, {"stripe-signature": value}, body)


def test_both_secrets_are_good_while_one_is_rotated(open_account: Any, kit: Any) -> None:
    secrets = (SecretStr("whsec_new"), SecretStr("whsec_sandbox"))
    provider = open_account("stripe", "http://127.0.0.1:1", webhook_secrets=secrets).provider
    body = event()

    for secret in secrets:
        assert read(provider, sign(body, secret.get_secret_value()), body)


def bad_webhooks() -> Any:
    body = event()
    good = sign(body)
    stamp = int(time.time())
    return {
        "no header": ({}, body),
        "an empty header": ({"Stripe-Signature": ""}, body),
        "no timestamp": ({"Stripe-Signature": "v1=00"}, body),
        "a header that is no header": ({"Stripe-Signature": "hello"}, body),
        "another secret": (sign(body, "whsec_other"), body),
        "a tampered body": (good, body.replace(b"1999", b"1998")),
        "too old": (sign(body, at=-400), body),
        "from the future": (sign(body, at=400), body),
        "not utf-8": (good, b"\xff\xfe" + body),
        "a signature that is not ascii": ({"Stripe-Signature": f"t={stamp},v1=é"}, body),
        "only the old scheme": (
            {"Stripe-Signature": good["Stripe-Signature"].replace("v1=", "v0=")},
            body,
        ),
        "no event": (sign(b"[]"), b"[]"),
        "not json": (sign(b"hello"), b"hello"),
    }


@pytest.mark.parametrize("name", bad_webhooks())
def test_what_is_not_authentic_is_refused(name: Any, provider: Any) -> None:
    headers, body = bad_webhooks()[name]

    with pytest.raises(WebhookRefused):
        read(provider, headers, body)


def test_without_a_secret_nothing_is_believed(open_account: Any) -> None:
    provider = open_account("stripe", "http://127.0.0.1:1", webhook_secrets=()).provider
    body = event()

    with pytest.raises(WebhookRefused, match="no webhook secret"):
        read(provider, sign(body), body)


def told_by(provider: Any, body: Any) -> Any:
    (told,) = read(provider, sign(body), body)
    return told


def test_our_own_capture_is_told_as_ours(provider: Any) -> None:
    captured = intent(metadata={"operation": "att_1", "capture": "cap_1"}, amount_received=1200)

    told = told_by(provider, event(obj=captured))

    assert (told.kind, told.operation_id) == (Kind.CAPTURE, "cap_1")
    assert (told.provider_id, told.provider_payment_id) == ("ch_1", "pi_1")
    assert told.outcome.amount == Money(1200, "EUR")


def test_a_released_authorization_is_a_void_and_an_abandoned_one_a_decline(provider: Any) -> None:
    released = told_by(provider, event("payment_intent.canceled", intent(status="canceled")))
    abandoned = told_by(
        provider,
        event("payment_intent.canceled", intent(status="canceled", latest_charge=None)),
    )

    assert (released.kind, type(released.outcome)) == (Kind.VOID, Approved)
    assert (abandoned.kind, abandoned.outcome.decline.code) == (Kind.AUTHORIZE, "cancelled")


def test_a_decline_by_webhook(provider: Any) -> None:
    error = {
        "code": "card_declined",
        "decline_code": "insufficient_funds",
        "payment_method": {"card": {"brand": "visa", "last4": "9995"}},
    }
    failed = intent(status="requires_payment_method", last_payment_error=error)

    told = told_by(provider, event("payment_intent.payment_failed", failed))

    assert told.outcome.decline.code == "insufficient_funds"
    assert told.outcome.card.last4 == "9995"


def test_a_refund_by_webhook(provider: Any) -> None:
    refund = {
        "id": "re_psp",
        "object": "refund",
        "amount": 500,
        "currency": "eur",
        "status": "failed",
        "payment_intent": "pi_1",
        "metadata": {"operation": "re_1"},
        "failure_reason": "lost_or_stolen_card",
    }

    told = told_by(provider, event("refund.failed", refund))

    assert (told.kind, told.operation_id) == (Kind.REFUND, "re_1")
    assert (told.provider_id, told.provider_payment_id) == ("re_psp", "pi_1")
    assert told.outcome.decline.provider_code == "lost_or_stolen_card"


@pytest.mark.parametrize(
    "body",
    [
        event("charge.refunded", {"object": "charge"}),
        event("invoice.paid", {"object": "invoice"}),
        event("payment_intent.succeeded", {"object": "payment_intent"}),
        event("payment_intent.succeeded", intent(currency="zzz")),
        event("payment_intent.processing", intent(status="a_new_status")),
        event("refund.updated", {"object": "refund"}),
    ],
)
def test_an_authentic_event_that_says_nothing_to_us_is_kept(body: Any, provider: Any) -> None:
    told = told_by(provider, body)

    assert told.event_id == "evt_1"
    assert told.kind is None
    assert told.outcome is None


async def test_an_error_whose_fields_have_other_types_is_unknown(loopback: Any, open_account: Any, kit: Any) -> None:
    loopback.will_answer(402, {"error": {"code": 7, "decline_code": ["x"]}})
    account = open_account("stripe", loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)), kit.keep_nothing)

    assert found == Unknown("http_402")


def test_a_refund_status_that_is_not_known_is_kept(provider: Any) -> None:
    refund = {"id": "re_psp", "object": "refund", "amount": 1, "currency": "eur", "status": "new"}

    assert told_by(provider, event("refund.updated", refund)).outcome is None


def test_a_token_is_sent_as_it_is(provider: Any, kit: Any) -> None:
    asked = kit.ask("stripe", Kind.AUTHORIZE, instrument=Token("pm_123"))

    assert provider.compose(asked)["params"]["payment_method"] == "pm_123"
    assert "card" not in provider.compose(asked)
