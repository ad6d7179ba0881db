"""Every verb at both PSPs, by the official SDKs over real HTTP against the sandbox and its books."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from providers.contract import (
    ActionRequired,
    Approved,
    Declined,
    Kind,
    NotProcessed,
    Pending,
    Unknown,
)
from providers.money import Money

MOVES = (Kind.AUTHORIZE, Kind.CAPTURE, Kind.VOID, Kind.REFUND)
"""What every payment may go through at both PSPs alike."""


class Hand:
    """Both PSPs in one hand: ``await psp(provider, kind, **ask)`` gives the call and its outcome."""

    def __init__(self, send: Any, accounts: Any) -> None:
        self.send = send
        self.accounts = accounts

    def __call__(self, *args: Any, **ask: Any) -> Any:
        return self.send(*args, **ask)


@pytest.fixture
def psp(sandbox: Any, open_account: Any, kit: Any) -> Any:
    accounts = {name: open_account(name, sandbox.url(name)) for name in kit.PROVIDERS}

    async def send(provider: Any, kind: Any, *, keep: Any = kit.keep_nothing, **ask: Any) -> Any:
        account = accounts[provider]
        call = kit.call(account, kit.ask(provider, kind, **ask), key=str(uuid.uuid4()))
        return call, await account.send(call, keep, first_send=True)

    return Hand(send, accounts)


async def authorized(psp: Any, provider: Any, method: Any = "manual", **ask: Any) -> Any:
    _, outcome = await psp(provider, Kind.AUTHORIZE, capture_method=method, **ask)
    assert isinstance(outcome, Approved)
    return outcome


@pytest.mark.parametrize("method", ["automatic", "manual"])
@pytest.mark.parametrize("provider", ["stripe", "adyen"])
async def test_authorize(provider: Any, method: Any, psp: Any, sandbox: Any) -> None:
    outcome = await authorized(psp, provider, method)

    assert outcome.amount == Money(1999, "EUR")
    assert outcome.captured is (method == "automatic")
    assert outcome.network_transaction_id
    assert outcome.card.last4 in ("4242", "1111")
    assert outcome.card.brand == "visa"
    books = sandbox.books(provider)
    assert len(books["authorisations"]) == 1
    assert len(books["captures"]) == (method == "automatic")
    assert books["authorisations"][0]["reference"] == "att_1"


@pytest.mark.parametrize("verb", [Kind.CAPTURE, Kind.VOID, Kind.REFUND])
@pytest.mark.parametrize("provider", ["stripe", "adyen"])
async def test_what_follows_a_payment(provider: Any, verb: Any, psp: Any, sandbox: Any) -> None:
    method = "automatic" if verb is Kind.REFUND else "manual"
    payment = await authorized(psp, provider, method)

    _, outcome = await psp(provider, verb, provider_payment_id=payment.provider_id)

    assert isinstance(outcome, Approved if provider == "stripe" else Pending)
    book = {Kind.CAPTURE: "captures", Kind.VOID: "voids", Kind.REFUND: "refunds"}[verb]
    assert [entry["amount"] for entry in sandbox.books(provider)[book]] == [1999]


@pytest.mark.parametrize("provider", ["stripe", "adyen"])
async def test_partial_capture_and_partial_refund(provider: Any, psp: Any, sandbox: Any) -> None:
    payment = await authorized(psp, provider)
    some, less = Money(1200, "EUR"), Money(500, "EUR")

    await psp(provider, Kind.CAPTURE, provider_payment_id=payment.provider_id, amount=some)
    await psp(provider, Kind.REFUND, provider_payment_id=payment.provider_id, amount=less)

    books = sandbox.books(provider)
    assert [entry["amount"] for entry in books["captures"]] == [1200]
    assert [entry["amount"] for entry in books["refunds"]] == [500]


async def test_a_card_becomes_a_payment_method_before_it_is_charged_at_stripe(psp: Any, sandbox: Any, kit: Any) -> None:
    kept = []

    async def keep(request: Any) -> None:
        assert sandbox.books("stripe")["authorisations"] == []
        kept.append(request)

    _, outcome = await psp("stripe", Kind.AUTHORIZE, instrument=kit.CARD, keep=keep)

    assert isinstance(outcome, Approved)
    assert len(kept) == 1
    assert kept[0]["params"]["payment_method"].startswith("pm_")
    assert kit.CARD.number not in json.dumps(kept)


async def test_a_card_is_charged_at_adyen(psp: Any, kit: Any) -> None:
    _, outcome = await psp("adyen", Kind.AUTHORIZE, instrument=kit.CARD)

    assert isinstance(outcome, Approved)
    assert outcome.card
    assert outcome.card.bin == "424242"


DECLINES = [
    ("stripe", "pm_card_visa_chargeDeclined", "generic_decline"),
    ("stripe", "pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ("stripe", "pm_card_visa_chargeDeclinedStolenCard", "stolen_card"),
]


@pytest.mark.parametrize(("provider", "token", "code"), DECLINES)
async def test_a_decline_keeps_the_code_and_the_object(
    provider: Any, token: Any, code: Any, psp: Any, kit: Any
) -> None:
    instrument = type(kit.TOKENS[provider])(token)

    _, outcome = await psp(provider, Kind.AUTHORIZE, instrument=instrument)

    assert isinstance(outcome, Declined)
    assert outcome.decline.provider_code == code
    assert outcome.provider_id
    assert outcome.provider_id.startswith("pi_")


async def test_advice_never_to_try_again_makes_a_decline_hard(psp: Any, kit: Any) -> None:
    instrument = type(kit.TOKENS["stripe"])("pm_card_visa_chargeDeclinedStolenCard")

    _, outcome = await psp("stripe", Kind.AUTHORIZE, instrument=instrument)

    assert (outcome.decline.type, outcome.decline.action) == ("hard", "do_not_retry")


@pytest.mark.parametrize(
    ("holder", "code", "normalized"),
    [("DECLINED", "2", "issuer_generic"), ("CARD_EXPIRED", "6", "card_expired")],
)
async def test_adyen_refuses_by_the_holder_name(holder: Any, code: Any, normalized: Any, psp: Any, kit: Any) -> None:
    _, outcome = await psp("adyen", Kind.AUTHORIZE, instrument=replace(kit.CARD, holder_name=holder))

    assert isinstance(outcome, Declined)
    assert (outcome.decline.provider_code, outcome.decline.code) == (code, normalized)


async def test_adyens_error_without_a_reason_is_no_decline(psp: Any, kit: Any) -> None:
    _, outcome = await psp("adyen", Kind.AUTHORIZE, instrument=replace(kit.CARD, holder_name="UNKNOWN"))

    assert outcome == Unknown("result", provider_code="Error")


async def test_a_challenge_is_an_action(psp: Any, kit: Any) -> None:
    instrument = type(kit.TOKENS["stripe"])("pm_card_threeDSecure2Required")

    _, outcome = await psp("stripe", Kind.AUTHORIZE, instrument=instrument)

    assert isinstance(outcome, ActionRequired)
    assert outcome.action["type"] == "redirect_to_url"
    assert outcome.action["redirect_to_url"]["url"].startswith("http")


async def test_an_off_session_challenge_is_a_decline_that_asks_for_it(psp: Any, kit: Any) -> None:
    instrument = type(kit.TOKENS["stripe"])("pm_card_threeDSecure2Required")

    _, outcome = await psp("stripe", Kind.AUTHORIZE, instrument=instrument, off_session=True)

    assert isinstance(outcome, Declined)
    assert outcome.decline.action == "step_up_3ds"


@pytest.mark.parametrize("provider", ["stripe", "adyen"])
async def test_a_wrong_key_reaches_nobody(provider: Any, sandbox: Any, open_account: Any, kit: Any) -> None:
    account = open_account(provider, sandbox.url(provider), api_key="sk_test_other")
    call = kit.call(account, kit.ask(provider, Kind.AUTHORIZE))

    outcome = await account.send(call, kit.keep_nothing, first_send=True)

    assert isinstance(outcome, NotProcessed)
    assert outcome.reason == "credentials"
    assert sandbox.books(provider)["authorisations"] == []


@pytest.mark.parametrize("provider", ["stripe", "adyen"])
@pytest.mark.parametrize("kind", MOVES)
async def test_a_lost_answer_is_sent_again_and_happens_once(provider: Any, kind: Any, psp: Any, sandbox: Any) -> None:
    """The answer is lost after the effect; the identical bytes under the same key find it."""
    ask = {}
    if kind is not Kind.AUTHORIZE:
        method = "automatic" if kind is Kind.REFUND else "manual"
        ask["provider_payment_id"] = (await authorized(psp, provider, method)).provider_id
    sandbox.control(provider, "faults", {"operation": kind.value, "fault": "reset_after_effect", "times": 1})

    _, outcome = await psp(provider, kind, **ask)

    assert isinstance(outcome, Approved | Pending)
    book = {"authorize": "authorisations", "void": "voids"}.get(kind.value, f"{kind.value}s")
    assert len(sandbox.books(provider)[book]) == 1


@pytest.mark.parametrize("kind", Kind)
async def test_stripe_can_be_asked_what_became_of_it(kind: Any, psp: Any, sandbox: Any) -> None:
    """An answer of 500 is kept and replayed under the key, so only reading settles it."""
    ask, provider_id = {}, None
    if kind is not Kind.AUTHORIZE:
        method = "automatic" if kind is Kind.REFUND else "manual"
        ask["provider_payment_id"] = (await authorized(psp, "stripe", method)).provider_id
    sandbox.control("stripe", "faults", {"operation": kind.value, "fault": "error_after_effect"})
    call, outcome = await psp("stripe", kind, **ask)
    assert outcome == Unknown("http_500")
    if kind is Kind.AUTHORIZE:
        provider_id = sandbox.books("stripe")["authorisations"][0]["payment"]

    found = await psp.accounts["stripe"].lookup(replace(call, provider_id=provider_id))

    assert isinstance(found, Approved)
    assert found.amount == Money(1999, "EUR")


async def test_what_stripe_does_not_show_is_still_unknown(psp: Any, kit: Any) -> None:
    payment = await authorized(psp, "stripe")
    account = psp.accounts["stripe"]

    async def look(kind: Any, **ask: Any) -> Any:
        call = kit.call(account, kit.ask("stripe", kind, **ask))
        return await account.lookup(call)

    here = {"provider_payment_id": payment.provider_id}
    assert isinstance(await look(Kind.AUTHORIZE), Unknown)
    for kind in (Kind.CAPTURE, Kind.VOID, Kind.REFUND):
        assert isinstance(await look(kind, **here), Unknown)
        assert isinstance(await look(kind, provider_payment_id="pi_none"), Unknown)


async def test_adyen_cannot_be_asked(psp: Any, kit: Any) -> None:
    account = psp.accounts["adyen"]
    call = kit.call(account, kit.ask("adyen", Kind.AUTHORIZE))

    assert await account.lookup(call) == Unknown("no_lookup")


async def test_more_than_is_left_is_refused_at_stripe(psp: Any) -> None:
    payment = await authorized(psp, "stripe", "automatic")

    _, outcome = await psp(
        "stripe",
        Kind.REFUND,
        provider_payment_id=payment.provider_id,
        amount=Money(5000, "EUR"),
    )

    assert isinstance(outcome, Declined)
    assert outcome.decline.code == "provider_refused"


def read(provider: Any, headers: Any, body: Any) -> Any:
    """Verified, then translated, as the inbox does it."""
    provider.verify_webhook(headers, body)
    return provider.parse_webhook(body)


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("provider", ["stripe", "adyen"])
async def test_the_webhook_says_the_same(provider: Any, kind: Any, psp: Any, sandbox: Any, kit: Any) -> None:
    method = "manual" if kind in (Kind.CAPTURE, Kind.VOID) else "automatic"
    payment = await authorized(psp, provider, method)
    if kind is not Kind.AUTHORIZE:
        await psp(provider, kind, provider_payment_id=payment.provider_id)
    types = {
        ("stripe", Kind.AUTHORIZE): b"payment_intent.succeeded",
        ("stripe", Kind.CAPTURE): b"payment_intent.succeeded",
        ("stripe", Kind.VOID): b"payment_intent.canceled",
        ("stripe", Kind.REFUND): b"refund.created",
        ("adyen", Kind.AUTHORIZE): b'"eventCode":"AUTHORISATION"',
        ("adyen", Kind.CAPTURE): b'"eventCode":"CAPTURE"',
        ("adyen", Kind.VOID): b'"eventCode":"CANCELLATION"',
        ("adyen", Kind.REFUND): b'"eventCode":"REFUND"',
    }
    headers, body = await sandbox.webhook(provider, lambda raw: types[provider, kind] in raw)

    (event,) = read(psp.accounts[provider].provider, headers, body)

    assert event.kind is kind
    assert isinstance(event.outcome, Approved)
    assert event.outcome.amount == kit.EUR
    assert event.provider_payment_id == payment.provider_id
    assert event.occurred_at is not None
    if kind is Kind.AUTHORIZE:
        assert event.operation_id == "att_1"
        assert event.outcome.captured is (provider == "stripe")  # Adyen does not say it: the terms of the payment do
    elif (provider, kind) != ("stripe", Kind.VOID):  # a cancel carries no metadata at Stripe
        assert event.operation_id == kit.ask(provider, kind).operation_id


MONEY = [
    ("stripe", Money(500, "JPY"), 500),
    ("stripe", Money(5, "ISK"), 500),
    ("stripe", Money(5000, "UGX"), 500_000),
    ("stripe", Money(12340, "KWD"), 12340),
    ("stripe", Money(500, "MGA"), 5),
    ("adyen", Money(500, "JPY"), 500),
    ("adyen", Money(5, "ISK"), 500),
    ("adyen", Money(1000, "CLP"), 100_000),
    ("adyen", Money(500_000, "IDR"), 5000),
]


@pytest.mark.parametrize(("provider", "amount", "sent"), MONEY)
async def test_money_arrives_in_the_psps_own_units(
    provider: Any, amount: Any, sent: Any, psp: Any, sandbox: Any
) -> None:
    outcome = await authorized(psp, provider, "automatic", amount=amount)

    assert outcome.amount == amount
    assert sandbox.books(provider)["authorisations"][0]["amount"] == sent
