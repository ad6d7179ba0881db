"""Stripe's adapter: what is asked, how a card becomes a token first, and which webhook is believed."""

import json
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
import stripe
from pydantic import SecretStr

from providers.contract import (
    ActionRequired,
    Approved,
    Capability,
    Declined,
    DetailsRefused,
    DisputeNews,
    DisputeStatus,
    Document,
    Kind,
    NotProcessed,
    Pending,
    ThreeDSecure,
    Token,
    Unknown,
    WebhookRefused,
)
from providers.declines import Action, Advice
from providers.money import Money
from providers.registry import ConfigError
from providers.stripe import DECLINES, ERRORS, StripeProvider

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


def test_every_capability_is_offered_or_refused_with_a_reason(provider: Any) -> None:
    able = provider.capabilities

    assert not able.supported & able.on_request
    for capability in set(Capability) - able.supported:
        assert able.notes[capability]


def test_a_card_to_be_remembered_gets_a_customer_first(provider: Any, kit: Any) -> None:
    asked = {"setup_future_usage": "off_session", "customer": "shopper-7"}
    fresh = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, **asked))
    known = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, **asked, instrument=Token("cus_1/pm_1")))
    away = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, **asked, off_session=True))

    assert fresh["customer"] == {"metadata": {"operation": "att_1", "payment": "pay_1", "customer": "shopper-7"}}
    assert "customer" not in known
    assert (known["params"]["customer"], known["params"]["payment_method"]) == ("cus_1", "pm_1")
    assert "customer" not in away


def test_what_may_follow_is_asked_for_in_advance(provider: Any, kit: Any) -> None:
    wishes = {"adjustable": True, "several_captures": True, "three_d_secure": "required"}
    manual = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, capture_method="manual", **wishes))
    automatic = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, **wishes))

    assert manual["params"]["payment_method_options"] == {
        "card": {
            "request_three_d_secure": "any",
            "request_incremental_authorization": "if_available",
            "request_multicapture": "if_available",
        }
    }
    assert automatic["params"]["payment_method_options"] == {"card": {"request_three_d_secure": "any"}}


def test_an_amount_of_zero_only_verifies_the_card(provider: Any, kit: Any) -> None:
    nothing = Money(0, "EUR")
    plain = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, amount=nothing))
    kept = provider.compose(kit.ask("stripe", Kind.AUTHORIZE, amount=nothing, setup_future_usage="off_session"))

    assert plain == {
        "path": "/v1/setup_intents",
        "params": {
            "confirm": True,
            "payment_method_types": ["card"],
            "usage": "on_session",
            "metadata": {"operation": "att_1", "payment": "pay_1", "currency": "EUR"},
            "expand": ["payment_method", "latest_attempt"],
            "return_url": "https://gateway.example/v1/return/t",
            "payment_method": "pm_card_visa",
        },
    }
    assert kept["params"]["usage"] == "off_session"
    assert "customer" in kept


def test_only_a_capture_with_more_to_come_says_so(provider: Any, kit: Any) -> None:
    last = provider.compose(kit.ask("stripe", Kind.CAPTURE))["params"]
    more = provider.compose(kit.ask("stripe", Kind.CAPTURE, final=False))["params"]

    assert "final_capture" not in last
    assert more["final_capture"] is False
    assert more["metadata"] == {"capture": "cap_1", "capture_amount": "1999"}


def test_an_increment_asks_for_the_new_total(provider: Any, kit: Any) -> None:
    assert provider.compose(kit.ask("stripe", Kind.INCREMENT)) == {
        "path": "/v1/payment_intents/pi_1/increment_authorization",
        "params": {"amount": 1999, "metadata": {"increment": "inc_1"}, "expand": ["latest_charge"]},
        "payment": "pi_1",
    }


@pytest.mark.parametrize(
    ("payment", "path"),
    [("pi_1", "/v1/payment_intents/pi_1/cancel"), ("seti_1", "/v1/setup_intents/seti_1/cancel")],
)
def test_a_void_cancels_whatever_the_attempt_made(payment: Any, path: Any, provider: Any, kit: Any) -> None:
    assert provider.compose(kit.ask("stripe", Kind.VOID, provider_payment_id=payment))["path"] == path


def test_a_dispute_is_defended_in_stripes_own_fields_and_at_once(provider: Any, kit: Any) -> None:
    said = {"uncategorized_text": "She signed for it.", "customer_name": "Ada"}

    assert provider.compose(kit.ask("stripe", Kind.DEFEND, text=said)) == {
        "path": "/v1/disputes/dp_1",
        "params": {"evidence": said, "submit": True, "metadata": {"operation": "def_1", "payment": "pay_1"}},
        "dispute": "dp_1",
    }
    assert provider.compose(kit.ask("stripe", Kind.ACCEPT))["path"] == "/v1/disputes/dp_1/close"


def test_evidence_is_never_lost_in_silence(provider: Any, kit: Any) -> None:
    paper = Document("receipt", "application/pdf", b"%PDF")

    with pytest.raises(ValueError, match="Files API"):
        provider.compose(kit.ask("stripe", Kind.DEFEND, documents=(paper,)))


# --- The shopper comes back ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "amount", "path"),
    [
        ("pi_1", Money(1999, "EUR"), "/v1/payment_intents/pi_1?expand[0]=latest_charge"),
        ("seti_1", Money(0, "EUR"), "/v1/setup_intents/seti_1?expand[0]=payment_method&expand[1]=latest_attempt"),
    ],
)
async def test_a_completed_challenge_is_only_read(
    found: Any, amount: Any, path: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(200, intent(status="requires_capture") if found == "pi_1" else setup())
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE, amount=amount), provider_id=found)
    details = {"payment_intent" if found == "pi_1" else "setup_intent": found, "redirect_status": "failed"}
    request = account.provider.completion(call, details)

    outcome = await account.send(replace(call, request=request), kit.keep_nothing, first_send=False)

    assert isinstance(outcome, Approved)
    (seen,) = loopback.seen
    assert (seen.method, unquote(seen.path), seen.body) == ("GET", path, b"")
    assert "idempotency-key" not in seen.headers


@pytest.mark.parametrize(
    ("known", "details"), [(None, {}), ("pi_1", {"payment_intent": "pi_2"}), ("seti_1", {"setup_intent": "seti_2"})]
)
def test_details_of_another_payment_complete_nothing(known: Any, details: Any, open_account: Any, kit: Any) -> None:
    account = open_account("stripe", "http://127.0.0.1:1")
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE), provider_id=known)

    with pytest.raises(DetailsRefused) as refusal:
        account.provider.completion(call, details)

    assert "pi_2" not in str(refusal.value)


async def test_a_completion_that_reaches_nobody_proves_nothing(open_account: Any, kit: Any) -> None:
    account = open_account("stripe", "http://127.0.0.1:1")
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE), provider_id="pi_1")
    call = replace(call, request=account.provider.completion(call, {}))

    outcome = await account.provider.send(call, kit.keep_nothing)

    assert outcome == Unknown("lookup_failed", resend=True, provider_code="NotSent")


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


NEW_CUSTOMER = {"id": "cus_1", "object": "customer"}


async def remember_card(loopback: Any, open_account: Any, kit: Any, call: Any = None, *behaviours: Any) -> Any:
    kept: list[Any] = []

    async def keep(request: Any) -> None:
        kept.append(request)

    loopback.will(*behaviours)
    account = open_account("stripe", loopback.url)
    asked = kit.ask("stripe", Kind.AUTHORIZE, instrument=kit.CARD, setup_future_usage="off_session")
    call = call or kit.call(account, asked)
    return await account.provider.send(call, keep), kept, call


async def test_a_remembered_card_takes_three_steps_and_each_is_kept(loopback: Any, open_account: Any, kit: Any) -> None:
    saved = intent(setup_future_usage="off_session", customer="cus_1", payment_method="pm_1")
    outcome, kept, call = await remember_card(
        loopback,
        open_account,
        kit,
        None,
        lambda line: line.answer(200, NEW_METHOD),
        lambda line: line.answer(200, NEW_CUSTOMER),
        lambda line: line.answer(200, saved),
    )

    assert outcome.token == "cus_1/pm_1"
    assert [seen.path for seen in loopback.seen] == ["/v1/payment_methods", "/v1/customers", "/v1/payment_intents"]
    assert len({seen.headers["idempotency-key"] for seen in loopback.seen}) == 3
    assert "card" not in kept[0]
    assert "customer" in kept[0]
    assert set(kept[1]) == {"path", "params"}
    assert (kept[1]["params"]["payment_method"], kept[1]["params"]["customer"]) == ("pm_1", "cus_1")
    assert kit.CARD.number not in json.dumps(kept)
    assert loopback.seen[2].headers["idempotency-key"] == call.key


async def test_a_crash_between_the_steps_goes_on_where_it_was(loopback: Any, open_account: Any, kit: Any) -> None:
    _, kept, call = await remember_card(
        loopback,
        open_account,
        kit,
        None,
        lambda line: line.answer(200, NEW_METHOD),
        lambda line: line.answer(500, b""),
    )
    first = loopback.seen[1]
    again, _, _ = await remember_card(
        loopback,
        open_account,
        kit,
        replace(call, request=kept[-1]),
        lambda line: line.answer(200, NEW_CUSTOMER),
        lambda line: line.answer(200, intent()),
    )

    assert isinstance(again, Approved)
    assert [seen.path for seen in loopback.seen[2:]] == ["/v1/customers", "/v1/payment_intents"]
    second = loopback.seen[2]
    assert (first.body, first.headers["idempotency-key"]) == (second.body, second.headers["idempotency-key"])


async def test_no_failure_of_the_customer_step_can_have_moved_money(loopback: Any, open_account: Any, kit: Any) -> None:
    for behaviour in (reset, lambda line: line.answer(500, b""), lambda line: line.answer(200, NEW_METHOD)):
        outcome, _, _ = await remember_card(
            loopback, open_account, kit, None, lambda line: line.answer(200, NEW_METHOD), behaviour
        )

        assert outcome == NotProcessed("not_sent")
    assert "/v1/payment_intents" not in [seen.path for seen in loopback.seen]


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


async def sent(loopback: Any, open_account: Any, kit: Any, body: Any, kind: Any, status: int = 200, **ask: Any) -> Any:
    """What the adapter makes of one answer."""
    loopback.will_answer(status, body)
    account = open_account("stripe", loopback.url)
    return await account.provider.send(kit.call(account, kit.ask("stripe", kind, **ask)), kit.keep_nothing)


@pytest.mark.parametrize(("body", "outcome"), STATUSES)
async def test_a_status_by_the_table(body: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any) -> None:
    found = await sent(loopback, open_account, kit, body, Kind.AUTHORIZE)

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

    found = await sent(loopback, open_account, kit, intent(latest_charge=charge), Kind.AUTHORIZE)

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
    found = await sent(loopback, open_account, kit, intent(metadata={"capture": "cap_other"}), Kind.CAPTURE)

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

    found = await sent(loopback, open_account, kit, refund, Kind.REFUND)

    assert type(found) is outcome


async def test_how_the_shopper_was_authenticated_is_told(loopback: Any, open_account: Any, kit: Any) -> None:
    told = {
        "result": "attempt_acknowledged",
        "authentication_flow": "frictionless",
        "version": "2.2.0",
        "electronic_commerce_indicator": "06",
    }
    card = {"three_d_secure": told, "capture_before": 1_780_000_000}
    held = intent(
        status="requires_capture",
        latest_charge={"id": "ch_1", "payment_method_details": {"type": "card", "card": card}},
    )

    outcome = await sent(loopback, open_account, kit, held, Kind.AUTHORIZE)

    assert outcome.three_d_secure == ThreeDSecure("attempted", "frictionless", "2.2.0", "06")
    assert outcome.capture_before == datetime.fromtimestamp(1_780_000_000, UTC)


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("authenticated", "authenticated"),
        ("exempted", "exempted"),
        ("not_supported", "not_supported"),
        ("failed", "failed"),
        ("processing_error", "failed"),
        ("a_new_word", None),
        (None, None),
    ],
)
async def test_an_authentication_by_the_table(
    word: Any, result: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    card = {"three_d_secure": {"result": word}}
    charge = {"id": "ch_1", "payment_method_details": {"type": "card", "card": card}}

    outcome = await sent(loopback, open_account, kit, intent(latest_charge=charge), Kind.AUTHORIZE)

    assert (outcome.three_d_secure.result if result else outcome.three_d_secure) == result


def setup(**changes: Any) -> Any:
    body = {
        "id": "seti_1",
        "object": "setup_intent",
        "status": "succeeded",
        "metadata": {"operation": "att_1", "currency": "EUR"},
        "customer": "cus_1",
        "payment_method": {"id": "pm_1", "card": {"brand": "visa", "last4": "4242"}},
        "latest_attempt": {
            "payment_method_details": {
                "card": {"checks": {"cvc_check": "pass"}, "three_d_secure": {"result": "authenticated"}}
            }
        },
    }
    return body | changes


SETUPS = [
    (setup(), Approved),
    (setup(status="requires_action", next_action={"type": "redirect_to_url"}), ActionRequired),
    (setup(status="requires_action"), Unknown),
    (setup(status="processing"), Pending),
    (setup(status="canceled"), Declined),
    (setup(status="requires_payment_method", last_setup_error={"code": "card_declined"}), Declined),
    (setup(status="requires_payment_method"), Unknown),
    (setup(status="a_new_status"), Unknown),
    (setup(metadata={}), Unknown),
    (intent(), Unknown),
]


@pytest.mark.parametrize(("body", "outcome"), SETUPS)
async def test_a_verification_by_the_table(body: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any) -> None:
    found = await sent(loopback, open_account, kit, body, Kind.AUTHORIZE, amount=Money(0, "EUR"))

    assert type(found) is outcome


async def test_a_verified_card_is_known_by_its_token(loopback: Any, open_account: Any, kit: Any) -> None:
    found = await sent(loopback, open_account, kit, setup(), Kind.AUTHORIZE, amount=Money(0, "EUR"))
    once = await sent(loopback, open_account, kit, setup(customer=None), Kind.AUTHORIZE, amount=Money(0, "EUR"))

    assert (found.token, found.amount, found.cvc) == ("cus_1/pm_1", Money(0, "EUR"), "pass")
    assert (found.card.last4, found.three_d_secure.result, found.captured) == ("4242", "authenticated", False)
    assert once.token is None


SEVERAL = {"card": {"request_multicapture": "if_available"}}


def part(**changes: Any) -> Any:
    """An intent after a capture of 500, more being possible."""
    return (
        intent(
            status="requires_capture",
            amount_received=700,
            metadata={"capture": "cap_1", "capture_amount": "500"},
            payment_method_options=SEVERAL,
        )
        | changes
    )


PARTS = [
    (part(), Approved("ch_1", Money(500, "EUR"), captured=True)),
    (part(status="succeeded"), Approved("ch_1", Money(500, "EUR"), captured=True)),
    (part(status="canceled"), Approved("ch_1", Money(500, "EUR"), captured=True)),
    (part(amount_received=499), Unknown("mismatch_amount")),
    (part(metadata={"capture": "cap_1", "capture_amount": "501"}), Unknown("mismatch_amount")),
    (part(currency="usd"), Unknown("mismatch_currency")),
    (part(metadata={"capture": "cap_2"}), Unknown("mismatch_operation")),
    (part(metadata={}, status="succeeded"), Unknown("mismatch_operation")),
    (part(id="pi_2"), Unknown("mismatch_payment")),
]


@pytest.mark.parametrize(("body", "outcome"), PARTS)
async def test_one_of_several_captures_is_believed_by_its_own_name_only(
    body: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    half = Money(500, "EUR")
    for final in (False, True):
        assert await sent(loopback, open_account, kit, body, Kind.CAPTURE, amount=half, final=final) == outcome


async def test_a_part_of_a_payment_that_ended_untouched_was_never_captured(
    loopback: Any, open_account: Any, kit: Any
) -> None:
    """After any other capture nothing is proved: ours may have been the one before it."""
    untouched = part(status="canceled", metadata={}, amount_received=0)
    touched = part(status="canceled", metadata={"capture": "cap_2"})

    never = await sent(loopback, open_account, kit, untouched, Kind.CAPTURE, final=False)
    perhaps = await sent(loopback, open_account, kit, touched, Kind.CAPTURE, final=False)

    assert never.decline.code == "provider_refused"
    assert perhaps == Unknown("mismatch_operation")


OTHERS = Unknown("mismatch_operation")


async def test_more_captures_than_the_card_allows_were_never_taken(loopback: Any, open_account: Any, kit: Any) -> None:
    card = {"multicapture": {"status": "unavailable"}, "incremental_authorization": {"status": "unavailable"}}
    charge = {"id": "ch_1", "payment_method_details": {"type": "card", "card": card}}
    held = intent(status="requires_capture", amount_received=0, latest_charge=charge, payment_method_options=SEVERAL)
    touched = {"metadata": {"capture": "cap_0", "increment": "inc_0"}}

    assert await sent(loopback, open_account, kit, held | touched, Kind.CAPTURE, final=False) == OTHERS
    assert await sent(loopback, open_account, kit, held | touched, Kind.INCREMENT) == OTHERS
    more = await sent(loopback, open_account, kit, held, Kind.CAPTURE, final=False)
    last = await sent(loopback, open_account, kit, held, Kind.CAPTURE)
    raised = await sent(loopback, open_account, kit, held, Kind.INCREMENT)

    assert more.decline.provider_code == "multicapture_unavailable"
    assert isinstance(last, Unknown)
    assert raised.decline.provider_code == "incremental_authorization_unavailable"


INCREMENTS = [
    ({}, Approved("pi_1", Money(1999, "EUR"))),
    ({"amount": 1998}, Unknown("mismatch_amount")),
    ({"metadata": {"increment": "inc_0"}}, Unknown("mismatch_operation")),
    ({"id": "pi_2"}, Unknown("mismatch_payment")),
]


@pytest.mark.parametrize(("changes", "outcome"), INCREMENTS)
async def test_an_increment_by_the_table(
    changes: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    held = intent(status="requires_capture", metadata={"increment": "inc_1"}) | changes

    assert await sent(loopback, open_account, kit, held, Kind.INCREMENT) == outcome


async def test_a_payment_that_is_over_was_not_incremented(loopback: Any, open_account: Any, kit: Any) -> None:
    for status in ("succeeded", "canceled"):
        found = await sent(loopback, open_account, kit, intent(status=status), Kind.INCREMENT)
        raised_since = intent(status=status, metadata={"increment": "inc_2"})

        assert await sent(loopback, open_account, kit, raised_since, Kind.INCREMENT) == OTHERS
        assert (found.decline.code, found.decline.provider_code) == ("provider_refused", status)


async def test_a_declined_increment_names_the_payment(loopback: Any, open_account: Any, kit: Any) -> None:
    error = {"code": "card_declined", "decline_code": "insufficient_funds", "payment_intent": intent()}

    found = await sent(loopback, open_account, kit, {"error": error}, Kind.INCREMENT, status=402)

    assert (found.decline.code, found.provider_id) == ("insufficient_funds", "pi_1")


def dispute(**changes: Any) -> Any:
    body = {
        "id": "dp_1",
        "object": "dispute",
        "amount": 1999,
        "currency": "eur",
        "status": "under_review",
        "reason": "fraudulent",
        "metadata": {"operation": "def_1"},
        "payment_intent": "pi_1",
        "evidence_details": {"due_by": 1_780_000_000, "submission_count": 1},
        "payment_method_details": {"type": "card", "card": {"brand": "visa", "network_reason_code": "10.4"}},
    }
    return body | changes


DONE = Approved("dp_1", Money(1999, "EUR"))
DEFENCES = [
    (Kind.DEFEND, {}, DONE),
    (Kind.DEFEND, {"status": "lost"}, DONE),
    (Kind.DEFEND, {"metadata": {}}, Unknown("mismatch_operation")),
    (
        Kind.DEFEND,
        {"evidence_details": {}, "status": "needs_response"},
        Unknown("mismatch_operation"),
    ),
    (Kind.DEFEND, {"metadata": {}, "status": "won"}, "won"),
    (Kind.DEFEND, {"metadata": {"operation": "def_2"}, "status": "won"}, Unknown("mismatch_operation")),
    (Kind.DEFEND, {"id": "dp_2"}, Unknown("mismatch_operation")),
    (Kind.DEFEND, {"amount": 1}, Unknown("mismatch_amount")),
    (Kind.ACCEPT, {"status": "lost"}, DONE),
    (Kind.ACCEPT, {"status": "warning_closed"}, DONE),
    (Kind.ACCEPT, {"status": "won"}, "won"),
    (Kind.ACCEPT, {"status": "prevented"}, "prevented"),
    (Kind.ACCEPT, {}, Unknown("not_closed", provider_code="under_review")),
    (Kind.ACCEPT, {"status": "lost", "currency": "usd"}, Unknown("mismatch_currency")),
    (Kind.ACCEPT, {"id": "dp_2"}, Unknown("mismatch_operation")),
]


@pytest.mark.parametrize(("kind", "changes", "outcome"), DEFENCES)
async def test_the_end_of_a_dispute_by_the_table(
    kind: Any, changes: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", kind))

    found = await sent(loopback, open_account, kit, dispute(**changes), kind)
    read_later = await account.provider.lookup(call)

    assert (found.decline.provider_code if isinstance(found, Declined) else found) == outcome
    assert found == read_later
    assert (loopback.seen[-1].method, loopback.seen[-1].path) == ("GET", "/v1/disputes/dp_1")


async def test_a_card_that_was_used_up_was_certainly_not_charged(loopback: Any, open_account: Any, kit: Any) -> None:
    """Stripe gives no code for it, so its words decide; any other 400 without a code stays unknown."""
    words = "The provided PaymentMethod was previously used … It may not be used again. …"
    spent = {"error": {"type": "invalid_request_error", "message": words}}
    other = {"error": {"type": "invalid_request_error", "message": "No."}}

    assert await sent(loopback, open_account, kit, spent, Kind.AUTHORIZE, 400) == NotProcessed(
        "rejected", "payment_method_spent"
    )
    assert await sent(loopback, open_account, kit, spent, Kind.CAPTURE, 400) == Unknown("http_400")
    assert await sent(loopback, open_account, kit, other, Kind.AUTHORIZE, 400) == Unknown("http_400")


# --- Declines and what the networks advise ------------------------------------------------------

HARD, WAIT = ("hard", Action.DO_NOT_RETRY), ("soft", Action.RETRY_LATER)
ADVICE = [
    # brand, error fields, (type, action), advice, seconds
    ("visa", {"advice_code": "do_not_try_again"}, HARD, Advice.NEVER, None),
    ("visa", {"advice_code": "confirm_card_data"}, ("soft", Action.ASK_NEW_METHOD), Advice.DATA, None),
    ("visa", {"advice_code": "try_again_later"}, ("soft", Action.RETRY_OTHER_NOW), Advice.LATER, None),
    ("visa", {"network_decline_code": "04"}, HARD, Advice.NEVER, None),
    ("visa", {"advice_code": "try_again_later", "network_decline_code": "R1"}, HARD, Advice.NEVER, None),
    ("visa", {"network_decline_code": "51"}, ("soft", Action.RETRY_OTHER_NOW), None, None),
    ("visa", {"network_advice_code": "03"}, ("soft", Action.RETRY_OTHER_NOW), None, None),
    ("mastercard", {"network_advice_code": "03"}, HARD, Advice.NEVER, None),
    ("mastercard", {"network_advice_code": "24"}, WAIT, Advice.WAIT, 3600),
    ("mastercard", {"network_advice_code": "30", "advice_code": "try_again_later"}, WAIT, Advice.WAIT, 864_000),
    ("mastercard", {"network_advice_code": "24", "advice_code": "do_not_try_again"}, HARD, Advice.NEVER, None),
    ("mastercard", {"network_decline_code": "04"}, ("soft", Action.RETRY_OTHER_NOW), None, None),
    ("amex", {"advice_code": "a_new_word", "network_advice_code": "24"}, ("soft", Action.RETRY_OTHER_NOW), None, None),
]


@pytest.mark.parametrize(("brand", "fields", "policy", "advice", "wait_s"), ADVICE)
async def test_what_the_network_advises_stands_above_the_code(
    brand: Any,
    fields: Any,
    policy: Any,
    advice: Any,
    wait_s: Any,
    loopback: Any,
    open_account: Any,
    kit: Any,
) -> None:
    error = {"code": "card_declined", "decline_code": "generic_decline", "payment_method": {"card": {"brand": brand}}}

    found = (await sent(loopback, open_account, kit, {"error": error | fields}, Kind.AUTHORIZE, 402)).decline

    assert (found.type, found.action) == policy
    assert (found.network_advice, found.wait_s) == (advice, wait_s)
    assert found.network_code == fields.get("network_decline_code")
    assert (found.code, found.provider_code) == ("issuer_generic", "generic_decline")


@pytest.mark.parametrize("code", sorted(DECLINES))
async def test_every_documented_decline_has_our_word_and_tells_a_thief_nothing(
    code: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    error = {"error": {"code": "card_declined", "decline_code": code}}

    found = (await sent(loopback, open_account, kit, error, Kind.AUTHORIZE, 402)).decline

    assert found == DECLINES[code]
    assert not {"stolen", "lost", "fraud"} & set(found.message.lower().replace(".", "").split())


async def test_an_undocumented_decline_keeps_its_word(loopback: Any, open_account: Any, kit: Any) -> None:
    error = {"error": {"code": "card_declined", "decline_code": "moon_phase"}}

    found = (await sent(loopback, open_account, kit, error, Kind.AUTHORIZE, 402)).decline

    assert (found.code, found.provider_code, found.action) == ("other", "moon_phase", Action.RETRY_LATER)


async def test_an_absent_shopper_who_is_needed_leaves_a_payment_to_go_on_with(
    loopback: Any, open_account: Any, kit: Any
) -> None:
    wanted = {"code": "authentication_required", "decline_code": "authentication_required", "payment_intent": intent()}

    found = await sent(loopback, open_account, kit, {"error": wanted}, Kind.AUTHORIZE, 402, off_session=True)

    assert (found.decline.code, found.decline.action) == ("authentication_required", Action.STEP_UP_3DS)
    assert found.provider_id == "pi_1"


# --- Lookup without an id -----------------------------------------------------------------------


def pages(*bodies: Any) -> Any:
    return [lambda line, body=body: line.answer(200, body) for body in bodies]


def listed(*names: Any, more: bool = False) -> Any:
    return {"data": [{"id": f"pi_{name}", "metadata": {"operation": name}} for name in names], "has_more": more}


async def test_an_attempt_without_an_id_is_found_by_its_name(loopback: Any, open_account: Any, kit: Any) -> None:
    found_there = intent(id="pi_att_1")
    loopback.will(*pages(listed("x", "y", more=True), listed("z", "att_1", more=True), found_there))
    account = open_account("stripe", loopback.url)

    outcome = await account.provider.lookup(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)))

    assert isinstance(outcome, Approved)
    assert [unquote(seen.path) for seen in loopback.seen] == [
        "/v1/payment_intents?limit=100",
        "/v1/payment_intents?limit=100&starting_after=pi_y",
        "/v1/payment_intents/pi_att_1?expand[0]=latest_charge",
    ]


async def test_an_attempt_of_a_busy_account_is_found_where_it_was_opened(
    loopback: Any, open_account: Any, kit: Any
) -> None:
    """By the time it is looked for thousands may be newer: it is asked for by the time at which it was opened."""
    opened_at = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    at = int(opened_at.timestamp())
    loopback.will(*pages(listed("x"), listed("y", more=True), listed("att_1"), intent(id="pi_att_1")))
    account = open_account("stripe", loopback.url)
    call = replace(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)), opened_at=opened_at)

    outcome = await account.provider.lookup(call)

    assert isinstance(outcome, Approved)
    assert [unquote(seen.path) for seen in loopback.seen] == [
        f"/v1/payment_intents?limit=100&created[gte]={at - 2}&created[lte]={at + 3}",
        f"/v1/payment_intents?limit=100&created[gte]={at + 3}&created[lte]={at + 60}",
        f"/v1/payment_intents?limit=100&created[gte]={at + 3}&created[lte]={at + 60}&starting_after=pi_y",
        "/v1/payment_intents/pi_att_1?expand[0]=latest_charge",
    ]


@pytest.mark.parametrize(("last", "asked"), [(listed("x", more=True), 33), (listed("x"), 4), (b"[]", 1)])
async def test_a_lookup_ends_however_many_there_are(
    last: Any, asked: int, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(200, last)
    account = open_account("stripe", loopback.url)
    call = replace(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)), opened_at=datetime.now(UTC))

    outcome = await account.provider.lookup(call)

    assert isinstance(outcome, Unknown)
    assert len(loopback.seen) == asked


@pytest.mark.parametrize(
    ("last", "asked"), [(listed("x", more=True), 3), (listed("x"), 1), (listed(more=True), 1), (b"[]", 1)]
)
async def test_an_attempt_that_is_not_found_is_still_unknown(
    last: Any, asked: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(200, last)
    account = open_account("stripe", loopback.url)

    outcome = await account.provider.lookup(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)))

    assert isinstance(outcome, Unknown)
    assert len(loopback.seen) == asked


async def test_what_others_left_without_metadata_hides_nothing(loopback: Any, open_account: Any, kit: Any) -> None:
    """Stripe may leave metadata null, and a refund's status."""
    account = open_account("stripe", loopback.url)
    ours = {"id": "re_1", "object": "refund", "amount": 1999, "currency": "eur", "status": "succeeded"}
    ours |= {"metadata": {"operation": "re_1"}, "payment_intent": "pi_1"}
    other = {"id": "re_2", "object": "refund", "amount": 1, "currency": "eur", "status": None, "metadata": None}
    call = replace(kit.call(account, kit.ask("stripe", Kind.REFUND)), operation_id="re_1")
    loopback.will(*pages({"data": [other, ours]}))

    found = await account.provider.lookup(call)
    loopback.will(*pages({"data": [{"id": "pi_x", "metadata": None}, *listed("att_1")["data"]]}, intent(id="pi_att_1")))
    attempt = await account.provider.lookup(kit.call(account, kit.ask("stripe", Kind.AUTHORIZE)))

    assert isinstance(found, Approved)
    assert isinstance(attempt, Approved)


@pytest.mark.parametrize("param", ["currency", "amount"])
async def test_a_currency_or_an_amount_that_stripe_does_not_take_leaves_nothing_in_doubt(
    param: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    error = {"type": "invalid_request_error", "param": param, "message": "Invalid currency: xyz."}
    loopback.will_answer(400, {"error": error})
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE, instrument=Token("pm_1")))

    assert await account.provider.send(call, kit.keep_nothing) == NotProcessed("rejected", f"{param}_invalid")


async def test_an_attempt_without_an_id_is_cancelled_by_its_name(loopback: Any, open_account: Any, kit: Any) -> None:
    kept: list[Any] = []

    async def keep(request: Any) -> None:
        kept.append(request)

    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.VOID, provider_payment_id=None, unfinished=True))
    loopback.will(*pages(listed("att_1"), intent(id="pi_att_1", status="canceled")))

    outcome = await account.provider.send(call, keep)
    loopback.will(*pages(listed("x")))
    nobody = await account.send(call, keep, first_send=False)
    unclear = await account.provider.lookup(call)

    assert isinstance(outcome, Approved)
    assert [request["path"] for request in kept] == ["/v1/payment_intents/pi_att_1/cancel"]
    # Also after an earlier send: the cancel leaves only once its handle is kept, and this request has none yet.
    assert nobody == NotProcessed("not_sent", conclusive=True)
    assert unclear == Unknown("not_found")


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
    found = await sent(
        loopback, open_account, kit, {"error": {"code": 7, "decline_code": ["x"]}}, Kind.AUTHORIZE, status=402
    )

    assert found == Unknown("http_402")


def test_a_refund_status_that_is_not_known_is_kept(provider: Any) -> None:
    refund = {"id": "re_psp", "object": "refund", "amount": 1, "currency": "eur", "status": "new"}

    assert told_by(provider, event("refund.updated", refund)).outcome is None


def test_a_token_is_sent_as_it_is(provider: Any, kit: Any) -> None:
    asked = kit.ask("stripe", Kind.AUTHORIZE, instrument=Token("pm_123"))

    assert provider.compose(asked)["params"]["payment_method"] == "pm_123"
    assert "card" not in provider.compose(asked)


# --- Webhooks about the rest of a payment's life ------------------------------------------------


def test_an_increment_is_not_taken_for_another_authorization(provider: Any) -> None:
    held = intent(status="requires_capture", amount=2500, amount_received=0)
    first = told_by(provider, event("payment_intent.amount_capturable_updated", held))
    raised = held | {"metadata": {"operation": "att_1", "increment": "inc_1"}}

    told = told_by(provider, event("payment_intent.amount_capturable_updated", raised))

    assert (first.kind, first.operation_id) == (Kind.AUTHORIZE, "att_1")
    assert (told.kind, told.operation_id) == (Kind.INCREMENT, "inc_1")
    assert told.outcome.amount == Money(2500, "EUR")


def test_each_of_several_captures_is_told_by_its_own_name_and_amount(provider: Any) -> None:
    names = {"operation": "att_1", "increment": "inc_1", "capture": "cap_2", "capture_amount": "500"}
    some = part(metadata=names)

    more = told_by(provider, event("payment_intent.amount_capturable_updated", some))
    last = told_by(provider, event("payment_intent.succeeded", some | {"status": "succeeded"}))

    for told in (more, last):
        assert (told.kind, told.operation_id) == (Kind.CAPTURE, "cap_2")
        assert (told.outcome.amount, told.outcome.captured) == (Money(500, "EUR"), True)


def test_a_capture_cannot_claim_more_than_was_received(provider: Any) -> None:
    some = part(metadata={"capture": "cap_2", "capture_amount": "9000"})

    told = told_by(provider, event("payment_intent.amount_capturable_updated", some))

    assert told.outcome.amount == Money(700, "EUR")


def test_a_cancel_after_a_capture_releases_what_was_left(provider: Any) -> None:
    told = told_by(provider, event("payment_intent.canceled", part(status="canceled")))

    assert (told.kind, told.outcome.amount) == (Kind.VOID, Money(1299, "EUR"))


@pytest.mark.parametrize(
    ("kind", "changes", "outcome"),
    [
        ("setup_intent.succeeded", {}, Approved),
        ("setup_intent.requires_action", {"status": "requires_action", "next_action": {"type": "x"}}, ActionRequired),
        (
            "setup_intent.setup_failed",
            {"status": "requires_payment_method", "last_setup_error": {"code": "setup_intent_authentication_failure"}},
            Declined,
        ),
        ("setup_intent.canceled", {"status": "canceled"}, Declined),
    ],
)
def test_a_verification_by_webhook(kind: Any, changes: Any, outcome: Any, provider: Any) -> None:
    """In a webhook nothing is expanded."""
    body = setup(payment_method="pm_1", latest_attempt="setatt_1", **changes)

    told = told_by(provider, event(kind, body))

    assert (told.kind, told.operation_id) == (Kind.AUTHORIZE, "att_1")
    assert (told.provider_id, told.provider_payment_id) == ("seti_1", "seti_1")
    assert type(told.outcome) is outcome
    if outcome is Approved:
        assert (told.outcome.token, told.outcome.amount) == ("cus_1/pm_1", Money(0, "EUR"))
    if kind == "setup_intent.setup_failed":
        assert told.outcome.decline.code == "authentication_failed"


DISPUTE_EVENTS = ["created", "updated", "closed", "funds_withdrawn", "funds_reinstated"]


@pytest.mark.parametrize("kind", DISPUTE_EVENTS)
def test_news_of_a_dispute(kind: Any, provider: Any) -> None:
    told = told_by(provider, event(f"charge.dispute.{kind}", dispute(status="needs_response")))

    assert (told.kind, told.outcome, told.provider_payment_id) == (None, None, "pi_1")
    assert told.dispute == DisputeNews(
        "dp_1",
        DisputeStatus.NEEDS_RESPONSE,
        Money(1999, "EUR"),
        "fraudulent",
        "10.4",
        datetime.fromtimestamp(1_780_000_000, UTC),
    )


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("warning_needs_response", DisputeStatus.INQUIRY),
        ("warning_under_review", DisputeStatus.UNDER_REVIEW),
        ("warning_closed", DisputeStatus.CLOSED),
        ("needs_response", DisputeStatus.NEEDS_RESPONSE),
        ("under_review", DisputeStatus.UNDER_REVIEW),
        ("won", DisputeStatus.WON),
        ("lost", DisputeStatus.LOST),
        ("prevented", DisputeStatus.CLOSED),
        ("a_new_status", None),
    ],
)
def test_a_disputes_status_by_the_table(status: Any, word: Any, provider: Any) -> None:
    bare: Any = {"payment_method_details": None, "evidence_details": {}, "reason": "a_new_reason"}
    told = told_by(provider, event("charge.dispute.updated", dispute(status=status, **bare)))

    assert (told.dispute.status if word else told.dispute) == word
    if word:
        assert (told.dispute.reason, told.dispute.network_reason_code, told.dispute.respond_by) == (
            "general",
            None,
            None,
        )


@pytest.mark.parametrize(
    "body",
    [
        event("setup_intent.succeeded", setup(metadata={})),
        event("setup_intent.succeeded", setup(status="a_new_status")),
        event("setup_intent.succeeded", setup(metadata={"currency": "zzz"})),
        event("charge.dispute.created", {"object": "dispute"}),
        event("radar.early_fraud_warning.created", {"object": "radar.early_fraud_warning"}),
        event("payment_method.attached", {"object": "payment_method"}),
    ],
)
def test_what_is_none_of_ours_is_kept(body: Any, provider: Any) -> None:
    first, second = told_by(provider, body), told_by(provider, body)

    assert first == second
    assert (first.kind, first.outcome, first.dispute) == (None, None, None)
