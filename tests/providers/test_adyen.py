"""Adyen's adapter: what is asked, what its result codes mean, and which webhook is believed."""

import copy
import json
import uuid
from dataclasses import replace
from typing import Any

import Adyen
import pytest
from Adyen.services.checkout import AdyenCheckoutApi
from Adyen.util import generate_notification_sig
from pydantic import SecretStr

from providers.adyen import (
    API_VERSION,
    CANCEL_OR_REFUND,
    DECLINES,
    DISPUTES,
    DISPUTES_PATH,
    EVENTS,
    NOTICES,
    AdyenProvider,
)
from providers.contract import (
    ActionRequired,
    Approved,
    Capability,
    Declined,
    DetailsRefused,
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
from providers.declines import Advice
from providers.money import Money
from providers.registry import ConfigError
from providers.transport import Reply

NO_TRANSPORT: Any = None


@pytest.fixture
def provider(open_account: Any) -> Any:
    return open_account("adyen", "http://127.0.0.1:1").provider


# --- The SDK underneath -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_set_credentials", "_set_platform", "_determine_api_url", "_handle_response"])
def test_the_four_methods_of_the_sdk_that_we_rest_on_are_there(name: Any) -> None:
    assert callable(getattr(Adyen.AdyenClient, name))


def test_the_sdk_speaks_the_version_that_we_test() -> None:
    api = AdyenCheckoutApi(client=Adyen.AdyenClient(xapikey="x"))

    assert api.payments_api.baseUrl.endswith(f"/{API_VERSION}")
    assert api.modifications_api.baseUrl.endswith(f"/{API_VERSION}")


class Recorder:
    """A transport that only notes where a request would go."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    async def request(self, method: Any, url: Any, headers: Any, body: Any, timeout_s: Any) -> Any:
        self.urls.append(url)
        return Reply(500, {}, b"")


ADDRESSES = [
    ({"base_url": None}, "https://checkout-test.adyen.com/v72/payments"),
    (
        {"base_url": None, "environment": "live", "live_prefix": "1797a841fbb37ca7-Acme"},
        "https://1797a841fbb37ca7-Acme-checkout-live.adyenpayments.com/checkout/v72/payments",
    ),
    (
        {"base_url": "http://psp-live.internal/a/"},
        "http://psp-live.internal/a/v72/payments",
    ),
    (
        {"base_url": "http://psp-test.internal", "environment": "live"},
        "http://psp-test.internal/v72/payments",
    ),
]


@pytest.mark.parametrize(("changes", "url"), ADDRESSES)
async def test_a_request_goes_to_the_right_address(changes: Any, url: Any, kit: Any) -> None:
    recorder: Any = Recorder()
    provider = AdyenProvider(kit.config("adyen", **({"base_url": None} | changes)), recorder)
    account = type("A", (), {"provider": provider})

    await provider.send(
        kit.call(account, kit.ask("adyen", Kind.AUTHORIZE, instrument=Token("8416"))),
        kit.keep_nothing,
    )

    assert recorder.urls == [url]


@pytest.mark.parametrize(
    "changes",
    [{"merchant_account": None}, {"base_url": None, "environment": "live"}],
)
def test_a_configuration_that_lacks_something_is_refused(changes: Any, kit: Any) -> None:
    with pytest.raises(ConfigError, match="account 'adyen'"):
        AdyenProvider(kit.config("adyen", **({"base_url": "http://x"} | changes)), NO_TRANSPORT)


def test_what_it_cannot_do_is_said(provider: Any, open_account: Any) -> None:
    able = provider.capabilities
    missing = set(Capability) - able.supported - able.on_request
    switched_on = open_account("adyen", "http://127.0.0.1:1", enabled=(Capability.SEVERAL_CAPTURES,))

    assert missing == {Capability.LOOKUP, Capability.DISPUTE_TEXT}
    assert able.on_request == {Capability.SEVERAL_CAPTURES}
    assert missing <= set(able.notes)
    assert switched_on.can(Capability.SEVERAL_CAPTURES)
    assert not open_account("adyen", "http://127.0.0.1:1").can(Capability.SEVERAL_CAPTURES)


# --- What is asked ------------------------------------------------------------------------------


def test_the_same_ask_gives_the_same_request(provider: Any, kit: Any) -> None:
    for kind in Kind:
        asked = kit.ask("adyen", kind)

        assert json.dumps(provider.compose(asked)) == json.dumps(provider.compose(asked))


async def test_the_wire_is_the_sdks_with_our_key(loopback: Any, open_account: Any, kit: Any) -> None:
    loopback.will_answer(200, {"resultCode": "Pending", "pspReference": "PSP1"})
    account = open_account("adyen", loopback.url)
    call = kit.call(account, kit.ask("adyen", Kind.AUTHORIZE))

    await account.provider.send(call, kit.keep_nothing)
    await account.provider.send(call, kit.keep_nothing)

    first, second = loopback.seen
    assert (first.path, first.body) == (second.path, second.body)
    assert first.path == "/v72/payments"
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == kit.KEY
    assert first.headers["x-api-key"] == "adyen_test_sandbox"
    assert first.json == call.request["body"]


PATHS = [
    (Kind.INCREMENT, "/v72/payments/PSP1PAYMENT/amountUpdates"),
    (Kind.CAPTURE, "/v72/payments/PSP1PAYMENT/captures"),
    (Kind.VOID, "/v72/payments/PSP1PAYMENT/cancels"),
    (Kind.REFUND, "/v72/payments/PSP1PAYMENT/refunds"),
]


@pytest.mark.parametrize(("kind", "path"), PATHS)
async def test_what_follows_a_payment_names_it_and_itself(
    kind: Any, path: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(201, {"status": "received", "pspReference": "MOD1"})
    account = open_account("adyen", loopback.url)
    asked = kit.ask("adyen", kind)

    found = await account.provider.send(kit.call(account, asked), kit.keep_nothing)

    assert found == Pending("MOD1")
    assert loopback.seen[0].path == path
    assert loopback.seen[0].json["reference"] == asked.operation_id
    assert loopback.seen[0].json["merchantAccount"] == kit.MERCHANT_ACCOUNT


def body_of(provider: Any, kit: Any, **ask: Any) -> Any:
    return provider.compose(kit.ask("adyen", Kind.AUTHORIZE, **ask))["body"]


def test_how_a_payment_is_captured_is_always_said(provider: Any, kit: Any) -> None:
    automatic = body_of(provider, kit)
    manual = body_of(provider, kit, capture_method="manual")

    assert automatic["captureDelayHours"] == 0
    assert "additionalData" not in automatic
    assert manual["additionalData"] == {"manualCapture": "true"}
    assert "captureDelayHours" not in manual


def test_an_amount_that_may_change_is_a_pre_authorization(provider: Any, kit: Any) -> None:
    body = body_of(provider, kit, capture_method="manual", adjustable=True)

    assert body["additionalData"] == {"manualCapture": "true", "authorisationType": "PreAuth"}


@pytest.mark.parametrize("method", ["automatic", "manual"])
def test_of_a_verification_there_is_nothing_to_capture(method: Any, provider: Any, kit: Any) -> None:
    body = body_of(provider, kit, amount=Money(0, "EUR"), capture_method=method, adjustable=True)

    assert body["amount"] == {"value": 0, "currency": "EUR"}
    assert not {"captureDelayHours", "additionalData"} & set(body)


BROWSER = {
    "accept_header": "*/*",
    "color_depth": 24,
    "java_enabled": False,
    "language": "en",
    "screen_height": 1,
    "screen_width": 2,
    "time_zone_offset": -60,
    "user_agent": "M",
}
IN_BROWSER = {"channel": "web", "origin": "https://shop.example", "browser_info": BROWSER}
AUTHENTICATION = [
    ({}, {"threeDSRequestData": {"nativeThreeDS": "disabled"}}),
    ({"shopper": IN_BROWSER}, {"threeDSRequestData": {"nativeThreeDS": "preferred"}}),
    ({"shopper": IN_BROWSER | {"origin": None}}, {"threeDSRequestData": {"nativeThreeDS": "disabled"}}),
    ({"shopper": IN_BROWSER | {"channel": "ios"}}, {"threeDSRequestData": {"nativeThreeDS": "disabled"}}),
    (
        {"three_d_secure": "required"},
        {"threeDSRequestData": {"nativeThreeDS": "disabled"}, "attemptAuthentication": "always"},
    ),
    ({"off_session": True, "three_d_secure": "required"}, None),
]


@pytest.mark.parametrize(("ask", "said"), AUTHENTICATION)
def test_where_and_whether_the_shopper_is_authenticated(ask: Any, said: Any, provider: Any, kit: Any) -> None:
    assert body_of(provider, kit, **ask).get("authenticationData") == said


STORED = [
    ("cus_1/8416", {}, ("cus_1", "8416")),
    ("cus_1/8416", {"customer": "cus_2"}, ("cus_1", "8416")),
    ("a/b/8416", {}, ("a/b", "8416")),
    ("test_cus/8416", {}, ("test_cus", "8416")),
    ("8416", {"customer": "cus_2"}, ("cus_2", "8416")),
    ("8416", {}, (None, "8416")),
]


@pytest.mark.parametrize(("token", "ask", "meant"), STORED)
def test_a_stored_card_goes_with_the_shopper_it_belongs_to(
    token: Any, ask: Any, meant: Any, provider: Any, kit: Any
) -> None:
    body = body_of(provider, kit, instrument=Token(token), **ask)

    assert (body.get("shopperReference"), body["paymentMethod"]["storedPaymentMethodId"]) == meant


@pytest.mark.parametrize(("customer", "shopper"), [("cus_1", "cus_1"), ("ab", "pay_1"), (None, "pay_1")])
def test_a_card_is_remembered_for_a_shopper(customer: Any, shopper: Any, provider: Any, kit: Any) -> None:
    body = body_of(provider, kit, customer=customer, setup_future_usage="off_session")

    assert (body["storePaymentMethod"], body["shopperReference"]) == (True, shopper)


def test_a_card_is_not_remembered_twice(provider: Any, kit: Any) -> None:
    stored = body_of(provider, kit, instrument=Token("cus_1/8416"), setup_future_usage="on_session")
    away = body_of(provider, kit, off_session=True, setup_future_usage="off_session")

    assert "storePaymentMethod" not in stored
    assert "storePaymentMethod" not in away


def test_a_payment_made_elsewhere_is_named_with_a_card_number_only(provider: Any, kit: Any) -> None:
    card = body_of(provider, kit, instrument=kit.CARD, network_transaction_id="NTI", off_session=True)
    stored = body_of(provider, kit, instrument=Token("cus_1/8416"), network_transaction_id="NTI")

    assert card["paymentMethod"]["networkPaymentReference"] == "NTI"
    assert card["shopperInteraction"] == "ContAuth"
    assert "networkPaymentReference" not in stored["paymentMethod"]


def test_what_has_no_reference_at_adyen_is_cancelled_by_ours(provider: Any, kit: Any) -> None:
    known = provider.compose(kit.ask("adyen", Kind.VOID))
    lost = provider.compose(kit.ask("adyen", Kind.VOID, provider_payment_id=None))
    waiting = provider.compose(kit.ask("adyen", Kind.VOID, unfinished=True))

    assert (known["verb"], known["payment"]) == ("cancels", "PSP1PAYMENT")
    for request in (lost, waiting):
        assert request["verb"] == "technicalCancels"
        assert (request["body"]["paymentReference"], request["body"]["reference"]) == ("att_1", "vd_1")


def test_everything_the_merchant_said_goes_along(provider: Any, kit: Any) -> None:
    body = body_of(
        provider,
        kit,
        instrument=kit.CARD,
        reference="order-1",
        customer="cus_1",
        statement_descriptor="A CHAIR",
        setup_future_usage="off_session",
        network_transaction_id="NTI",
        metadata={"cart": "77"},
        billing_details={
            "name": "Ada",
            "phone": "+49301",
            "address": {
                "line1": "Street 1",
                "line2": "b",
                "city": "Berlin",
                "postal_code": "10115",
                "country": "DE",
                "state": "BE",
            },
        },
        shopper={
            "email": "a@example.com",
            "ip": "192.0.2.1",
            "channel": "web",
            "origin": "https://shop.example",
            "browser_info": BROWSER,
        },
    )

    assert body["paymentMethod"] == {
        "type": "scheme",
        "number": "4242424242424242",
        "expiryMonth": "03",
        "expiryYear": "2030",
        "cvc": "737",
        "holderName": "Ada Lovelace",
        "networkPaymentReference": "NTI",
    }
    assert body["reference"] == "att_1"
    assert body["merchantOrderReference"] == "order-1"
    assert body["metadata"] == {"payment": "pay_1", "cart": "77"}
    assert body["storePaymentMethod"] is True
    assert body["recurringProcessingModel"] == "UnscheduledCardOnFile"
    assert (body["shopperInteraction"], body["shopperReference"]) == ("Ecommerce", "cus_1")
    assert body["browserInfo"]["timeZoneOffset"] == -60
    assert body["billingAddress"]["houseNumberOrName"] == "b"
    assert (body["channel"], body["telephoneNumber"]) == ("Web", "+49301")


CONSENT = [
    ({"instrument": Token("8416")}, "ContAuth", "CardOnFile"),
    ({"instrument": Token("8416"), "off_session": True}, "ContAuth", "UnscheduledCardOnFile"),
    ({"off_session": True, "recurring": "subscription"}, "ContAuth", "Subscription"),
    ({}, "Ecommerce", None),
    ({"setup_future_usage": "on_session"}, "Ecommerce", "CardOnFile"),
    ({"setup_future_usage": "on_session", "customer": "cus_1"}, "Ecommerce", "CardOnFile"),
]


@pytest.mark.parametrize(("ask", "interaction", "model"), CONSENT)
def test_who_is_there_and_what_was_agreed(ask: Any, interaction: Any, model: Any, provider: Any, kit: Any) -> None:
    body = body_of(provider, kit, **ask)

    assert body["shopperInteraction"] == interaction
    assert body.get("recurringProcessingModel") == model


def test_what_adyen_would_refuse_is_left_out(provider: Any, kit: Any) -> None:
    body = body_of(
        provider,
        kit,
        customer="ab",
        metadata={f"key{number}": "v" * 100 for number in range(30)} | {"k" * 21: "x"},
        billing_details={"phone": "030", "address": {"line1": "Street 1"}},
        shopper={"browser_info": {"language": "en"}, "channel": "fax"},
    )

    assert len(body["metadata"]) == 20
    assert max(map(len, body["metadata"].values())) == 80
    assert max(map(len, body["metadata"])) <= 20
    absent = {"shopperReference", "browserInfo", "channel", "billingAddress", "telephoneNumber"}
    assert not absent & set(body)


def test_a_test_card_is_only_a_test_card_at_test(kit: Any) -> None:
    live = kit.config("adyen", "http://x", environment="live")
    test = kit.config("adyen", "http://x")
    asked = kit.ask("adyen", Kind.AUTHORIZE)

    at_test = AdyenProvider(test, NO_TRANSPORT).compose(asked)["body"]["paymentMethod"]
    at_live = AdyenProvider(live, NO_TRANSPORT).compose(asked)["body"]["paymentMethod"]

    assert at_test["encryptedSecurityCode"] == "test_737"
    assert at_live == {"type": "scheme", "storedPaymentMethodId": "test_4111111111111111"}


# --- What the answer means ----------------------------------------------------------------------

REDIRECT = {"type": "redirect", "method": "GET", "url": "https://acs.example"}
RESULTS = [
    ({"resultCode": "Authorised", "pspReference": "P"}, Approved),
    ({"resultCode": "Authorised"}, Unknown),
    ({"resultCode": "Refused", "refusalReasonCode": "2"}, Declined),
    ({"resultCode": "Refused"}, Declined),
    ({"resultCode": "Error", "refusalReasonCode": "4"}, Declined),
    ({"resultCode": "Error", "refusalReasonCode": "0"}, Unknown),
    ({"resultCode": "Error"}, Unknown),
    ({"resultCode": "Cancelled"}, Declined),
    ({"resultCode": "Pending"}, Pending),
    ({"resultCode": "Received"}, Pending),
    ({"resultCode": "RedirectShopper", "action": REDIRECT}, ActionRequired),
    ({"resultCode": "RedirectShopper"}, Unknown),
    ({"resultCode": "IdentifyShopper", "action": {"type": "threeDS2"}}, ActionRequired),
    ({"resultCode": "PartiallyAuthorised", "pspReference": "P"}, Unknown),
    ({"resultCode": "AuthenticationFinished"}, Unknown),
    ({"resultCode": "Success"}, Unknown),
    ({"resultCode": "NewWord"}, Unknown),
]


async def answered(body: Any, loopback: Any, open_account: Any, kit: Any, status: Any = 200, **ask: Any) -> Any:
    loopback.will_answer(status, body)
    account = open_account("adyen", loopback.url)
    call = kit.call(account, kit.ask("adyen", Kind.AUTHORIZE, **ask))
    return await account.provider.send(call, kit.keep_nothing)


@pytest.mark.parametrize(("body", "outcome"), RESULTS)
async def test_a_result_code_by_the_table(body: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any) -> None:
    assert type(await answered(body, loopback, open_account, kit)) is outcome


async def test_an_action_in_our_words(loopback: Any, open_account: Any, kit: Any) -> None:
    async def action(given: Any) -> Any:
        body = {"resultCode": "RedirectShopper", "action": given}
        return (await answered(body, loopback, open_account, kit)).action

    posted = REDIRECT | {"method": "POST", "data": {"MD": "x"}}

    assert await action(REDIRECT) == {
        "type": "redirect_to_url",
        "redirect_to_url": {"url": "https://acs.example"},
    }
    assert (await action(posted))["redirect_to_url"] == {
        "url": "https://acs.example",
        "method": "POST",
        "data": {"MD": "x"},
    }
    assert await action({"type": "threeDS2", "token": "t"}) == {
        "type": "use_adyen_sdk",
        "use_adyen_sdk": {"type": "threeDS2", "token": "t"},
    }


async def test_what_is_known_of_the_card_is_kept(loopback: Any, open_account: Any, kit: Any) -> None:
    data = {
        "paymentMethod": "mc",
        "cardSummary": "4444",
        "cardBin": "555555",
        "expiryDate": "3/2030",
        "fundingSource": "CREDIT",
        "cardIssuingCountry": "NL",
        "authCode": "1234",
        "avsResult": "5 No AVS data provided",
        "cvcResult": "1 Matches",
        "networkTxReference": "NTI",
    }
    body = {"resultCode": "Authorised", "pspReference": "P", "additionalData": data}

    found = await answered(body, loopback, open_account, kit, capture_method="manual")

    assert not found.captured
    assert (found.auth_code, found.network_transaction_id) == ("1234", "NTI")
    assert (found.card.brand, found.card.bin, found.card.funding) == (
        "mastercard",
        "555555",
        "credit",
    )
    assert (found.card.exp_month, found.card.exp_year) == (3, 2030)


AUTHENTICATED = [
    ({}, None),
    ({"threeDOffered": "false", "threeDAuthenticatedResponse": "N/A"}, None),
    ({"scaExemptionRequested": "lowValue"}, ThreeDSecure("exempted")),
    (
        {
            "threeDOffered": "true",
            "threeDOfferedResponse": "C",
            "threeDAuthenticatedResponse": "Y",
            "threeDSVersion": "2.2.0",
            "eci": "05",
        },
        ThreeDSecure("authenticated", "challenge", "2.2.0", "05"),
    ),
    (
        {"threeDOffered": "true", "threeDOfferedResponse": "A", "threeDAuthenticatedResponse": "A"},
        ThreeDSecure("attempted", "frictionless"),
    ),
    ({"threeDOffered": "true", "threeDOfferedResponse": "Y"}, ThreeDSecure("authenticated", "frictionless")),
    (
        {"threeDOffered": "true", "threeDAuthenticated": "true", "threeDAuthenticatedResponse": "N/A"},
        ThreeDSecure("authenticated", "frictionless"),
    ),
    ({"threeDOffered": "true"}, ThreeDSecure("not_supported", "frictionless")),
    (
        {"threeDOffered": "true", "threeDOfferedResponse": "C", "threeDAuthenticatedResponse": "N"},
        ThreeDSecure("failed", "challenge"),
    ),
]


@pytest.mark.parametrize(("data", "facts"), AUTHENTICATED)
async def test_how_the_shopper_was_authenticated(
    data: Any, facts: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    body = {"resultCode": "Authorised", "pspReference": "P", "additionalData": data}

    assert (await answered(body, loopback, open_account, kit)).three_d_secure == facts


NEW_TOKEN = {"tokenization.storedPaymentMethodId": "8416", "tokenization.shopperReference": "cus_1"}
OLD_TOKEN = {"recurring.recurringDetailReference": "8416", "recurring.shopperReference": "cus_1"}
REMEMBERED = [
    (NEW_TOKEN, {}, "cus_1/8416"),
    (OLD_TOKEN, {}, "cus_1/8416"),
    ({"recurring.recurringDetailReference": "8416", "shopperReference": "cus_1"}, {}, "cus_1/8416"),
    ({"recurring.recurringDetailReference": "8416"}, {"setup_future_usage": "on_session"}, "pay_1/8416"),
    ({"recurring.recurringDetailReference": "8416"}, {}, None),
    ({"tokenization.shopperReference": "cus_1"}, {}, None),
]


@pytest.mark.parametrize(("data", "ask", "token"), REMEMBERED)
async def test_what_adyen_calls_the_card_from_now_on(
    data: Any, ask: Any, token: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    body = {"resultCode": "Authorised", "pspReference": "P", "additionalData": data}

    assert (await answered(body, loopback, open_account, kit, **ask)).token == token


async def test_a_verification_is_approved_over_nothing(loopback: Any, open_account: Any, kit: Any) -> None:
    zero = {"value": 0, "currency": "EUR"}
    body = {"resultCode": "Authorised", "pspReference": "P", "amount": zero}

    found = await answered(body, loopback, open_account, kit, amount=Money(0, "EUR"))

    assert (found.amount, found.captured) == (Money(0, "EUR"), False)


MASTERCARD, VISA = {"paymentMethod": "mc"}, {"paymentMethod": "visa"}
ADVISED = [
    (MASTERCARD, "03: Do not try again", None, "do_not_retry", Advice.NEVER, None),
    (MASTERCARD, "03 : Do not try again", "05 : Do not honor", "do_not_retry", Advice.NEVER, None),
    (MASTERCARD, "24 : Retry after 1 hour", None, "retry_later", Advice.WAIT, 3600),
    (MASTERCARD, "01: New account information available", None, "ask_new_method", Advice.DATA, None),
    (MASTERCARD, "02", None, "retry_other_now", Advice.LATER, None),
    (MASTERCARD, "99: Something new", None, "retry_other_now", None, None),
    (MASTERCARD, None, "46 : Closed account", "retry_other_now", None, None),
    (VISA, None, "46 : Closed account", "do_not_retry", Advice.NEVER, None),
    ({"paymentMethod": "visadebit"}, None, "R1: Revocation", "do_not_retry", Advice.NEVER, None),
    (VISA, None, "N7 : CVV2 failure", "ask_new_method", Advice.DATA, None),
    (VISA, None, "51 : Insufficient funds", "retry_other_now", Advice.LATER, None),
    (VISA, None, "05 : Do not honor", "retry_other_now", None, None),
    ({}, None, "46 : Closed account", "retry_other_now", None, None),
]


@pytest.mark.parametrize(("card", "advice", "raw", "action", "told", "wait_s"), ADVISED)
async def test_what_the_network_advises_stands_above_the_table(
    card: Any, advice: Any, raw: Any, action: Any, told: Any, wait_s: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    data = card | ({"merchantAdviceCode": advice} if advice else {}) | ({"refusalReasonRaw": raw} if raw else {})
    body = {"resultCode": "Refused", "refusalReasonCode": "2", "additionalData": data}

    decline = (await answered(body, loopback, open_account, kit)).decline

    assert (decline.action, decline.network_advice, decline.wait_s) == (action, told, wait_s)
    assert decline.network_code == (raw or "").partition(":")[0].strip() or decline.network_code is None


RAW = [
    ("05 : Do not honor", "05"),
    ("05: Do not honor", "05"),
    ("51", "51"),
    ("AUTHORISED", None),
    ("Refused", None),
    ("FRAUD-CANCELLED : x", None),
    ("", None),
]


@pytest.mark.parametrize(("raw", "code"), RAW)
async def test_the_issuers_own_code_is_kept(raw: Any, code: Any, loopback: Any, open_account: Any, kit: Any) -> None:
    body = {"resultCode": "Refused", "refusalReasonCode": "2", "additionalData": {"refusalReasonRaw": raw}}

    assert (await answered(body, loopback, open_account, kit)).decline.network_code == code


@pytest.mark.parametrize("code", [*DECLINES, "999", None])
async def test_every_refusal_maps_and_tells_a_thief_nothing(
    code: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    body = {"resultCode": "Refused", "refusalReasonCode": code, "refusalReason": "Blocked: stolen card"}

    decline = (await answered(body, loopback, open_account, kit)).decline

    assert decline.provider_code == code
    assert decline.code == (DECLINES[code].code if code in DECLINES else "other")
    assert not {"stolen", "lost", "fraud"} & set(decline.message.lower().replace(".", "").split())


async def test_a_payment_that_needs_its_shopper_asks_for_a_step_up(loopback: Any, open_account: Any, kit: Any) -> None:
    body = {"resultCode": "Refused", "refusalReasonCode": "38"}

    decline = (await answered(body, loopback, open_account, kit, off_session=True)).decline

    assert (decline.code, decline.action) == ("authentication_required", "step_up_3ds")


async def test_mastercards_advice_never_to_try_again_is_heard(loopback: Any, open_account: Any, kit: Any) -> None:
    body = {
        "resultCode": "Refused",
        "refusalReasonCode": "2",
        "additionalData": {"merchantAdviceCode": "03: Do not try again"},
    }

    found = await answered(body, loopback, open_account, kit)

    assert (found.decline.type, found.decline.action) == ("hard", "do_not_retry")


@pytest.mark.parametrize("code", ["101", "103", "129"])
async def test_a_mistyped_card_is_a_decline(code: Any, loopback: Any, open_account: Any, kit: Any) -> None:
    error = {"status": 422, "errorCode": code, "errorType": "validation"}

    found = await answered(error, loopback, open_account, kit, status=422)

    assert isinstance(found, Declined)
    assert (found.decline.code, found.decline.provider_code) == ("card_data_invalid", code)


async def test_an_error_of_the_sdk_does_not_hold_the_card(loopback: Any, transport: Any, kit: Any) -> None:
    provider = AdyenProvider(kit.config("adyen", loopback.url), transport)
    loopback.will_answer(500, {"errorCode": "905"})
    body = provider.compose(kit.ask("adyen", Kind.AUTHORIZE, instrument=kit.CARD))["body"]

    with pytest.raises(Adyen.exceptions.AdyenError) as caught:
        await provider._api.payments_api.payments(body, idempotency_key=kit.KEY)

    assert kit.CARD.number not in repr(vars(caught.value))


# --- Challenges ---------------------------------------------------------------------------------

REDIRECTED, AUTHENTICATED_NATIVELY = {"redirectResult": "X6Xt"}, {"threeDSResult": "eyJ0"}


async def completed(given: Any, body: Any, loopback: Any, open_account: Any, kit: Any, status: int = 200) -> Any:
    loopback.will_answer(status, body)
    account = open_account("adyen", loopback.url)
    call = kit.call(account, kit.ask("adyen", Kind.AUTHORIZE))
    finishing = replace(call, request=account.provider.completion(replace(call, request={}), given))
    return await account.provider.send(finishing, kit.keep_nothing)


@pytest.mark.parametrize("given", [REDIRECTED, AUTHENTICATED_NATIVELY])
async def test_a_challenge_is_finished_with_what_the_shopper_brought_back(
    given: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    body = {"resultCode": "Authorised", "pspReference": "P", "merchantReference": "att_1"}

    found = await completed(given | {"state": "x"}, body, loopback, open_account, kit)

    assert (found.provider_id, found.amount) == ("P", kit.EUR)
    (seen,) = loopback.seen
    assert (seen.path, seen.json) == ("/v72/payments/details", {"details": given})


@pytest.mark.parametrize(("body", "outcome"), RESULTS)
async def test_the_end_of_a_challenge_by_the_same_table(
    body: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    named = {"merchantReference": "att_1", **body} if body else body

    assert type(await completed(REDIRECTED, named, loopback, open_account, kit)) is outcome


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (
            {"resultCode": "Authorised", "pspReference": "P", "merchantReference": "att_2"},
            NotProcessed("rejected", "another_payment", conclusive=True),
        ),
        (
            {
                "resultCode": "Authorised",
                "pspReference": "P",
                "merchantReference": "att_1",
                "amount": {"value": 1, "currency": "EUR"},
            },
            Unknown("mismatch_amount"),
        ),
        # Adyen's own example of an answer names nothing: the webhook that does is waited for.
        ({"resultCode": "Authorised", "pspReference": "P"}, Unknown("unnamed")),
        ({"resultCode": "Refused", "refusalReasonCode": "2", "pspReference": "P"}, Unknown("unnamed")),
    ],
)
async def test_what_completes_another_payment_completes_nothing(
    body: Any, outcome: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    assert await completed(REDIRECTED, body, loopback, open_account, kit) == outcome


async def test_after_the_fingerprint_comes_the_challenge(loopback: Any, open_account: Any, kit: Any) -> None:
    action = {"type": "threeDS2", "subtype": "challenge", "token": "t", "authorisationToken": "a"}
    body = {"resultCode": "ChallengeShopper", "action": action}

    found = await completed(AUTHENTICATED_NATIVELY, body, loopback, open_account, kit)

    assert found == ActionRequired(None, {"type": "use_adyen_sdk", "use_adyen_sdk": action})


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("code", ["101", "702"])
async def test_details_that_adyen_refuses_leave_the_challenge_open(
    status: Any, code: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    body = {"status": status, "errorCode": code, "errorType": "validation"}

    found = await completed(REDIRECTED, body, loopback, open_account, kit, status=status)

    wanted: Any = (
        NotProcessed("rejected", code, conclusive=True)
        if (status, code) != (400, "101")
        else Unknown("http_400", provider_code="101")
    )
    assert found == wanted


@pytest.mark.parametrize("given", [{}, {"redirectResult": ""}, {"payload": "x", "MD": "y"}])
def test_details_without_a_result_are_refused(given: Any, provider: Any, kit: Any) -> None:
    account = type("A", (), {"provider": provider})
    call = kit.call(account, kit.ask("adyen", Kind.AUTHORIZE))

    with pytest.raises(DetailsRefused, match="redirectResult"):
        provider.completion(call, given)


async def test_the_same_details_always_travel_under_the_same_key(loopback: Any, open_account: Any, kit: Any) -> None:
    body = {"resultCode": "Pending"}
    for given in (REDIRECTED, REDIRECTED, {"redirectResult": "other"}, AUTHENTICATED_NATIVELY):
        await completed(given, body, loopback, open_account, kit)

    keys = [seen.headers["idempotency-key"] for seen in loopback.seen]
    assert keys[0] == keys[1]
    assert len({*keys, kit.KEY}) == 4
    assert all(str(uuid.UUID(key)) == key for key in keys)


# --- What follows a payment ---------------------------------------------------------------------

CANCELLED = {"status": "received", "pspReference": "MOD1", "paymentReference": "att_1", "reference": "vd_1"}


async def voided(body: Any, loopback: Any, open_account: Any, kit: Any, **ask: Any) -> Any:
    loopback.will_answer(201, body)
    account = open_account("adyen", loopback.url)
    return await account.provider.send(kit.call(account, kit.ask("adyen", Kind.VOID, **ask)), kit.keep_nothing)


async def test_a_challenge_that_nobody_finished_ends_with_the_cancel(
    loopback: Any, open_account: Any, kit: Any
) -> None:
    found = await voided(CANCELLED, loopback, open_account, kit, unfinished=True)

    assert found == Approved("MOD1", kit.EUR)
    assert loopback.seen[0].path == "/v72/cancels"


async def test_a_payment_that_may_be_authorized_waits_for_its_cancel(
    loopback: Any, open_account: Any, kit: Any
) -> None:
    assert await voided(CANCELLED, loopback, open_account, kit, provider_payment_id=None) == Pending("MOD1")


@pytest.mark.parametrize("change", [{"paymentReference": "att_2"}, {"reference": "vd_2"}, {"status": "later"}])
async def test_an_answer_about_another_cancel_is_not_believed(
    change: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    assert isinstance(await voided(CANCELLED | change, loopback, open_account, kit, unfinished=True), Unknown)


async def test_a_new_total_is_received_and_comes_by_webhook(loopback: Any, open_account: Any, kit: Any) -> None:
    total = {"value": 1999, "currency": "EUR"}
    loopback.will_answer(201, {"status": "received", "pspReference": "MOD1", "amount": total, "reference": "inc_1"})
    account = open_account("adyen", loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask("adyen", Kind.INCREMENT)), kit.keep_nothing)

    assert found == Pending("MOD1")
    assert loopback.seen[0].json["amount"] == total


# --- Disputes -----------------------------------------------------------------------------------

DONE, NOT_DONE = ({"disputeServiceResult": {"success": done, "errorMessage": "No."}} for done in (True, False))
DOCUMENT = Document("DefenseMaterial", "application/pdf", b"%PDF")


class Kept:
    """What an adapter asked to be kept, in order; ``call`` is what would be sent again."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.requests: list[Any] = []

    async def __call__(self, request: Any) -> None:
        self.requests.append(request)
        self.call = replace(self.call, request=request)


def of_dispute(kind: Any, loopback: Any, open_account: Any, kit: Any, **ask: Any) -> Any:
    account = open_account("adyen", loopback.url)
    return account.provider, Kept(kit.call(account, kit.ask("adyen", kind, **ask)))


async def test_a_dispute_is_accepted(loopback: Any, open_account: Any, kit: Any) -> None:
    loopback.will_answer(200, DONE)
    provider, keep = of_dispute(Kind.ACCEPT, loopback, open_account, kit)

    assert await provider.send(keep.call, keep) == Approved("PSP1DISPUTE", kit.EUR)
    (seen,) = loopback.seen
    assert seen.path == f"/{DISPUTES_PATH}/acceptDispute"
    assert seen.json == {"merchantAccountCode": kit.MERCHANT_ACCOUNT, "disputePspReference": "PSP1DISPUTE"}
    assert seen.headers["idempotency-key"] == kit.KEY


async def test_documents_are_supplied_before_the_defence(loopback: Any, open_account: Any, kit: Any) -> None:
    loopback.will_answer(200, DONE)
    provider, keep = of_dispute(
        Kind.DEFEND, loopback, open_account, kit, reason="SupplyDefenseMaterial", documents=(DOCUMENT,)
    )

    assert await provider.send(keep.call, keep) == Approved("PSP1DISPUTE", kit.EUR)
    first, second = loopback.seen
    assert first.path == f"/{DISPUTES_PATH}/supplyDefenseDocument"
    assert first.json["defenseDocuments"] == [
        {"defenseDocumentTypeCode": "DefenseMaterial", "contentType": "application/pdf", "content": "JVBERg=="}
    ]
    assert second.path == f"/{DISPUTES_PATH}/defendDispute"
    assert second.json["defenseReasonCode"] == "SupplyDefenseMaterial"
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"] == kit.KEY
    assert [request["documents"] for request in keep.requests] == [[]]


@pytest.mark.parametrize("kind", [Kind.DEFEND, Kind.ACCEPT])
async def test_a_dispute_that_adyen_will_not_touch_is_a_refusal(
    kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(200, NOT_DONE)
    provider, keep = of_dispute(kind, loopback, open_account, kit)

    found = await provider.send(keep.call, keep)

    assert (found.decline.code, found.decline.provider_code) == ("provider_refused", "No.")


async def test_documents_that_are_not_taken_defend_nothing(loopback: Any, open_account: Any, kit: Any) -> None:
    loopback.will_answer(200, NOT_DONE)
    provider, keep = of_dispute(Kind.DEFEND, loopback, open_account, kit, documents=(DOCUMENT,))

    assert isinstance(await provider.send(keep.call, keep), Declined)
    assert (len(loopback.seen), keep.requests) == (1, [])


REFUSALS = [(200, NOT_DONE), (422, {"status": 422, "errorCode": "702", "errorType": "validation"})]


@pytest.mark.parametrize(("status", "body"), REFUSALS)
@pytest.mark.parametrize("kind", [Kind.DEFEND, Kind.ACCEPT])
async def test_a_refusal_after_a_lost_answer_proves_nothing(
    kind: Any, status: Any, body: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    """The first request may have been obeyed, and be the very reason why the second is refused."""

    async def lost(line: Any) -> None:
        line.reset()

    async def refused(line: Any) -> None:
        await line.answer(status, body)

    loopback.will(lost, refused)
    provider, keep = of_dispute(kind, loopback, open_account, kit)

    first = await provider.send(keep.call, keep)
    second = await provider.send(keep.call, keep)

    assert first == Unknown("connection_lost", resend=True)
    assert (second.reason, type(second)) == ("earlier_send", Unknown)


async def test_nothing_is_said_of_a_dispute_that_could_not_be_kept(loopback: Any, open_account: Any, kit: Any) -> None:
    async def broken(_request: Any) -> None:
        raise ConnectionError

    provider, keep = of_dispute(Kind.ACCEPT, loopback, open_account, kit)

    with pytest.raises(ConnectionError):
        await provider.send(keep.call, broken)
    assert loopback.seen == []


DISPUTE_ADDRESSES = [
    ({"base_url": None}, "https://ca-test.adyen.com/ca/services/DisputeService/v30/acceptDispute"),
    (
        {"base_url": None, "environment": "live", "live_prefix": "1797a841fbb37ca7-Acme"},
        "https://ca-live.adyen.com/ca/services/DisputeService/v30/acceptDispute",
    ),
    ({"base_url": "http://psp-live.internal/a/"}, f"http://psp-live.internal/a/{DISPUTES_PATH}/acceptDispute"),
]


@pytest.mark.parametrize(("changes", "url"), DISPUTE_ADDRESSES)
async def test_a_dispute_goes_to_the_right_address(changes: Any, url: Any, kit: Any) -> None:
    recorder: Any = Recorder()
    provider = AdyenProvider(kit.config("adyen", **({"base_url": None} | changes)), recorder)
    call = kit.call(type("A", (), {"provider": provider}), kit.ask("adyen", Kind.ACCEPT))

    await provider.send(call, Kept(call))

    assert recorder.urls == [url]


# --- Webhooks -----------------------------------------------------------------------------------


def read(provider: Any, headers: Any, body: Any) -> Any:
    """Verified, then translated, as the inbox does it."""
    provider.verify_webhook(headers, body)
    return provider.parse_webhook(body)


OF_THE_PAYMENT = ("AUTHORISATION", "EXPIRE", "OFFER_CLOSED")


def item(code: Any = "AUTHORISATION", success: Any = "true", **changes: Any) -> Any:
    reference = {"CAPTURE": "cap_1", "REFUND": "re_1", "CANCELLATION": "vd_1", "AUTHORISATION_ADJUSTMENT": "inc_1"}
    body = {
        "amount": {"currency": "EUR", "value": 1999},
        "eventCode": code,
        "eventDate": "2026-11-21T10:00:00+01:00",
        "merchantAccountCode": "SandboxECOM",
        "merchantReference": reference.get(code.removesuffix("_FAILED"), "att_1"),
        "paymentMethod": "visa",
        "pspReference": "PSP1",
        "reason": "",
        "success": success,
    }
    if code not in OF_THE_PAYMENT:
        body |= {"originalReference": "PSP0", "pspReference": "MOD1"}
    return body | changes


def signed(body: Any, key: Any, extra: Any = None) -> Any:
    body = copy.deepcopy(body)
    data = dict(extra or {}, hmacSignature=generate_notification_sig(body, key).decode())
    return body | {"additionalData": data}


def packed(*items: Any) -> Any:
    entries = [{"NotificationRequestItem": each} for each in items]
    return json.dumps({"live": "false", "notificationItems": entries}).encode()


def told_by(provider: Any, kit: Any, body: Any, extra: Any = None) -> Any:
    (told,) = read(provider, {}, packed(signed(body, kit.HMAC_KEY, extra)))
    return told


TOLD = [
    ("AUTHORISATION", "true", Kind.AUTHORIZE, Approved),
    ("AUTHORISATION", "false", Kind.AUTHORIZE, Declined),
    ("CAPTURE", "true", Kind.CAPTURE, Approved),
    ("CAPTURE", "false", Kind.CAPTURE, Declined),
    ("CAPTURE_FAILED", "true", Kind.CAPTURE, Declined),
    ("CANCELLATION", "true", Kind.VOID, Approved),
    ("CANCELLATION", "false", Kind.VOID, Declined),
    ("TECHNICAL_CANCEL", "true", Kind.VOID, Approved),
    ("REFUND", "true", Kind.REFUND, Approved),
    ("REFUND", "false", Kind.REFUND, Declined),
    ("REFUND_FAILED", "true", Kind.REFUND, Declined),
    ("REFUNDED_REVERSED", "true", Kind.REFUND, Declined),
    ("REFUND_WITH_DATA", "true", Kind.REFUND, Approved),
    ("REFUND_WITH_DATA", "false", Kind.REFUND, Declined),
    ("AUTHORISATION_ADJUSTMENT", "true", Kind.INCREMENT, Approved),
    ("AUTHORISATION_ADJUSTMENT", "false", Kind.INCREMENT, Declined),
    ("EXPIRE", "true", Kind.VOID, Approved),
    ("OFFER_CLOSED", "true", Kind.AUTHORIZE, Declined),
    ("CANCEL_OR_REFUND", "true", None, type(None)),
    ("REPORT_AVAILABLE", "true", None, type(None)),
    ("A_NEW_CODE", "true", None, type(None)),
]


@pytest.mark.parametrize(("code", "success", "kind", "outcome"), TOLD)
def test_an_event_by_the_table(code: Any, success: Any, kind: Any, outcome: Any, provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item(code, success))

    assert (told.type, told.kind, type(told.outcome)) == (code, kind, outcome)
    assert told.occurred_at.isoformat() == "2026-11-21T10:00:00+01:00"
    if kind is Kind.AUTHORIZE:
        assert (told.operation_id, told.provider_id) == ("att_1", "PSP1")
    elif code == "EXPIRE":
        assert (told.provider_id, told.provider_payment_id) == ("PSP1", "PSP1")
    elif kind is not None:
        assert (told.provider_id, told.provider_payment_id) == ("MOD1", "PSP0")
    if code in ("TECHNICAL_CANCEL", "EXPIRE"):
        assert told.operation_id is None  # its reference is the payment's own


def test_every_row_of_the_event_table_is_tested() -> None:
    assert {(code, success == "true") for code, success, kind, _ in TOLD if kind} >= set(EVENTS) - {
        ("TECHNICAL_CANCEL", False)
    }


def test_no_token_is_taken_from_what_is_not_signed(provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item(), NEW_TOKEN)

    assert told.outcome.token is None


def test_an_adjustment_tells_the_new_total(provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item("AUTHORISATION_ADJUSTMENT", amount={"currency": "EUR", "value": 2500}))

    assert (told.operation_id, told.outcome.amount) == ("inc_1", Money(2500, "EUR"))


@pytest.mark.parametrize(
    ("reason", "code", "advice", "action"),
    [
        ("Not enough balance", "insufficient_funds", None, "retry_later"),
        ("Refused", "issuer_generic", "03 : Do not try again", "do_not_retry"),
        ("Transaction is not in a state that can be adjusted", "provider_refused", None, "do_not_retry"),
    ],
)
def test_a_refused_adjustment_is_the_issuers_or_adyens(
    reason: Any, code: Any, advice: Any, action: Any, provider: Any, kit: Any
) -> None:
    extra = {"merchantAdviceCode": advice} if advice else {}

    decline = told_by(provider, kit, item("AUTHORISATION_ADJUSTMENT", "false", reason=reason), extra).outcome.decline

    assert (decline.code, decline.action) == (code, action)


def test_an_offer_that_closed_was_not_confirmed_in_time(provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item("OFFER_CLOSED"))

    assert (told.operation_id, told.outcome.decline.code) == ("att_1", "authentication_expired")


STATUSES = [
    ("REQUEST_FOR_INFORMATION", DisputeStatus.INQUIRY),
    ("NOTIFICATION_OF_CHARGEBACK", DisputeStatus.NEEDS_RESPONSE),
    ("CHARGEBACK", DisputeStatus.NEEDS_RESPONSE),
    ("INFORMATION_SUPPLIED", DisputeStatus.UNDER_REVIEW),
    ("PREARBITRATION_OPEN", DisputeStatus.UNDER_REVIEW),
    ("PREARBITRATION_ACCEPTED", DisputeStatus.UNDER_REVIEW),
    ("PREARBITRATION_DECLINED", DisputeStatus.UNDER_REVIEW),
    ("SCHEME_ARBITRATION", DisputeStatus.UNDER_REVIEW),
    ("CHARGEBACK_REVERSED", DisputeStatus.WON),
    ("ISSUER_RESPONSE_TIMEFRAME_EXPIRED", DisputeStatus.WON),
    ("PREARBITRATION_WON", DisputeStatus.WON),
    ("PREARBITRATION_ISSUER_WITHDRAWN", DisputeStatus.WON),
    ("SCHEME_ARBITRATION_WON", DisputeStatus.WON),
    ("SECOND_CHARGEBACK", DisputeStatus.LOST),
    ("PREARBITRATION_LOST", DisputeStatus.LOST),
    ("SCHEME_ARBITRATION_LOST", DisputeStatus.LOST),
    ("DISPUTE_DEFENSE_PERIOD_ENDED", DisputeStatus.LOST),
]


@pytest.mark.parametrize(("code", "status"), STATUSES)
def test_news_of_a_dispute_by_the_table(code: Any, status: Any, provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item(code))

    assert (told.kind, told.outcome, told.operation_id) == (None, None, None)
    assert (told.dispute.dispute_id, told.dispute.status, told.dispute.amount) == ("MOD1", status, kit.EUR)
    assert told.provider_payment_id == "PSP0"


def test_every_row_of_the_dispute_table_is_tested() -> None:
    assert dict(STATUSES) == dict(DISPUTES)


@pytest.mark.parametrize("code", ["ISSUER_COMMENTS", "NOTIFICATION_OF_FRAUD", "MANUAL_REVIEW_REJECT"])
def test_what_says_nothing_of_where_a_dispute_stands_is_kept(code: Any, provider: Any, kit: Any) -> None:
    assert told_by(provider, kit, item(code)).dispute is None


def test_a_failed_or_unreadable_dispute_is_no_news(provider: Any, kit: Any) -> None:
    assert told_by(provider, kit, item("CHARGEBACK", "false")).dispute is None
    assert told_by(provider, kit, item("CHARGEBACK", amount={"currency": "XXX", "value": 1})).dispute is None


def test_the_facts_of_a_dispute(provider: Any, kit: Any) -> None:
    extra = {
        "chargebackReasonCode": " 4853",
        "chargebackSchemeCode": "mc",
        "defensePeriodEndsAt": "2026-12-18T10:15:30+01:00",
        "disputeStatus": "Undefended",
    }
    news = told_by(provider, kit, item("CHARGEBACK"), extra).dispute

    assert (news.network_reason_code, news.reason) == ("4853", "general")
    assert news.respond_by.isoformat() == "2026-12-18T10:15:30+01:00"
    assert news.status is DisputeStatus.NEEDS_RESPONSE


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("10.4", "fraudulent"),
        ("4837", "fraudulent"),
        ("F29", "fraudulent"),
        ("12.6.1", "duplicate"),
        ("13.1", "product_not_received"),
        ("13.2", "subscription_canceled"),
        ("13.3", "product_unacceptable"),
        ("13.6", "credit_not_processed"),
        ("4863", "unrecognized"),
        ("9999", "general"),
    ],
)
def test_a_networks_reason_in_one_word(code: Any, reason: Any, provider: Any, kit: Any) -> None:
    of_chargeback = told_by(provider, kit, item("CHARGEBACK"), {"chargebackReasonCode": code}).dispute
    of_inquiry = told_by(provider, kit, item("REQUEST_FOR_INFORMATION"), {"rfiReasonCode": code}).dispute

    assert of_chargeback.reason == of_inquiry.reason == reason
    assert of_chargeback.network_reason_code == code


SAID_OF_IT = [
    ("CHARGEBACK", "Pending", DisputeStatus.UNDER_REVIEW),
    ("CHARGEBACK", "Accepted", DisputeStatus.LOST),
    ("NOTIFICATION_OF_CHARGEBACK", "Expired", DisputeStatus.LOST),
    ("CHARGEBACK", "Won", DisputeStatus.NEEDS_RESPONSE),
    ("SECOND_CHARGEBACK", "Won", DisputeStatus.LOST),
    ("CHARGEBACK_REVERSED", "Pending", DisputeStatus.WON),
]


@pytest.mark.parametrize(("code", "said", "status"), SAID_OF_IT)
def test_what_is_not_signed_never_wins_a_dispute(code: Any, said: Any, status: Any, provider: Any, kit: Any) -> None:
    assert told_by(provider, kit, item(code), {"disputeStatus": said}).dispute.status is status


def test_a_dispute_without_its_own_reference_is_known_by_the_payment(provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item("SECOND_CHARGEBACK", originalReference="", pspReference="PSP0"))

    assert (told.provider_payment_id, told.dispute.dispute_id) == ("PSP0", "PSP0")


@pytest.mark.parametrize("written", ["", "soon", "2026-12-18", "2026-12-18T10:15:30"])
def test_a_deadline_without_its_time_zone_is_none(written: Any, provider: Any, kit: Any) -> None:
    assert told_by(provider, kit, item("CHARGEBACK"), {"defensePeriodEndsAt": written}).dispute.respond_by is None


@pytest.mark.parametrize("said", [True, "true"])
def test_success_may_be_a_boolean(said: Any, provider: Any, kit: Any) -> None:
    body = item() | {"success": "true"}
    sealed = signed(body, kit.HMAC_KEY) | {"success": said}

    (told,) = read(provider, {}, packed(sealed))

    assert isinstance(told.outcome, Approved)


def test_what_is_not_signed_does_not_say_that_money_was_captured(provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item(), {"metadata.capture_method": "automatic"})

    assert not told.outcome.captured


def test_a_refusal_in_words_finds_its_code(provider: Any, kit: Any) -> None:
    known = told_by(provider, kit, item(success="false", reason="Not enough balance"))
    unknown = told_by(provider, kit, item(success="false", reason="Some new words"))

    assert known.outcome.decline.provider_code == "12"
    assert (unknown.outcome.decline.code, unknown.outcome.decline.provider_code) == (
        "other",
        "Some new words",
    )


def test_a_payment_that_is_not_ours_names_no_operation(provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item(merchantReference="their-order-1"))

    assert told.operation_id is None
    assert told.provider_id == "PSP1"


def test_money_is_read_in_adyens_units(provider: Any, kit: Any) -> None:
    told = told_by(provider, kit, item(amount={"currency": "ISK", "value": "500"}))

    assert told.outcome.amount == Money(5, "ISK")


def test_a_batch_is_several_events(provider: Any, kit: Any) -> None:
    batch = packed(signed(item(), kit.HMAC_KEY), signed(item("CAPTURE"), kit.HMAC_KEY))

    first, second = read(provider, {}, batch)

    assert (first.kind, second.kind) == (Kind.AUTHORIZE, Kind.CAPTURE)
    assert first.event_id != second.event_id


def test_a_repetition_has_the_same_id_and_newer_details_another(provider: Any, kit: Any) -> None:
    same = [told_by(provider, kit, item()).event_id for _ in range(2)]
    later = told_by(provider, kit, item(eventDate="2026-11-21T10:00:01+01:00")).event_id

    assert same[0] == same[1] != later


def without_amount() -> Any:
    body = item("REPORT_AVAILABLE")
    del body["amount"]
    return body


def test_an_item_without_amount_is_signed_with_nothing_in_its_place(provider: Any, kit: Any) -> None:
    body = without_amount()
    filled = body | {"amount": {"value": "", "currency": ""}}
    sealed = body | {"additionalData": signed(filled, kit.HMAC_KEY)["additionalData"]}

    (told,) = read(provider, {}, packed(sealed))

    assert told.outcome is None


def test_both_keys_are_good_while_one_is_rotated(open_account: Any, kit: Any) -> None:
    keys = ("AB" * 32, kit.HMAC_KEY)
    secrets = tuple(SecretStr(key) for key in keys)
    provider = open_account("adyen", "http://127.0.0.1:1", webhook_secrets=secrets).provider

    for key in keys:
        assert read(provider, {}, packed(signed(item(), key)))


def bad_webhooks(key: Any) -> Any:
    good = signed(item(), key)
    return {
        "a tampered second item": packed(good, good | {"amount": {"currency": "EUR", "value": 1}}),
        "a tampered amount": packed(good | {"amount": {"currency": "EUR", "value": 1}}),
        "a tampered reference": packed(good | {"merchantReference": "att_2"}),
        "no additional data": packed(item()),
        "no signature": packed(item() | {"additionalData": {"a": "b"}}),
        "an empty signature": packed(item() | {"additionalData": {"hmacSignature": ""}}),
        "not a text": packed(item() | {"additionalData": {"hmacSignature": None}}),
        "not ascii": packed(item() | {"additionalData": {"hmacSignature": "é"}}),
        "another key": packed(signed(item(), "AB" * 32)),
        "another account": packed(signed(item(merchantAccountCode="Other"), key)),
        "a second item of another account": packed(good, signed(item(merchantAccountCode="Other"), key)),
        "no items": packed(),
        "not json": b"hello",
        "not utf-8": b"\xff\xfe",
        "a number": b"1111",
        "a list": b"[]",
        "very deep": b"[" * 100_000,
        "an item that is none": b'{"notificationItems":[7]}',
        "an item that is a text": b'{"notificationItems":[{"NotificationRequestItem":"x"}]}',
        "an amount that is none": packed(good | {"amount": 7}),
        "no reference": packed({k: v for k, v in good.items() if k != "pspReference"}),
    }


@pytest.mark.parametrize("name", bad_webhooks("00"))
def test_what_is_not_authentic_is_refused(name: Any, provider: Any, kit: Any) -> None:
    with pytest.raises(WebhookRefused):
        read(provider, {}, bad_webhooks(kit.HMAC_KEY)[name])


def test_without_a_key_nothing_is_believed(open_account: Any, kit: Any) -> None:
    provider = open_account("adyen", "http://127.0.0.1:1", webhook_secrets=()).provider

    with pytest.raises(WebhookRefused, match="no webhook secret"):
        read(provider, {}, packed(signed(item(), kit.HMAC_KEY)))


def test_adyens_own_vectors(specs: Any, open_account: Any) -> None:
    vectors = json.loads((specs / "adyen.hmac-vectors.json").read_text())["vectors"]
    items = [vector for vector in vectors if vector["kind"] == "notification_item"]
    assert items
    for vector in items:
        provider = open_account(
            "adyen",
            "http://127.0.0.1:1",
            webhook_secrets=(SecretStr(vector["hmac_key_hex"]),),
            merchant_account=vector["item"]["merchantAccountCode"],
        ).provider
        data = {"additionalData": {"hmacSignature": vector["expected_signature"]}}

        assert read(provider, {}, packed(vector["item"] | data))


def resigned(body: Any, kit: Any) -> Any:
    """The item with its own additional data, under a signature that is ours."""
    plain = {name: value for name, value in body.items() if name != "additionalData"}
    plain["originalReference"] = plain.get("originalReference") or ""
    plain["merchantReference"] = plain.get("merchantReference") or ""
    return signed(plain, kit.HMAC_KEY, body.get("additionalData"))


def official(specs: Any) -> Any:
    """Every example notification of the official documents and of the Java SDK's mocks."""
    samples = json.loads((specs / "adyen.sample-webhooks.json").read_text())["samples"]
    examples = json.loads((specs / "adyen.webhooks-v1.openapi.json").read_text())["components"]["examples"]
    bodies = [sample["body"] for sample in samples] + [example["value"] for example in examples.values()]
    return [entry["NotificationRequestItem"] for body in bodies for entry in body.get("notificationItems", [])]


def test_every_official_example_is_read_once_it_is_signed(specs: Any, open_account: Any, kit: Any) -> None:
    known = 0
    for body in official(specs):
        provider = open_account(
            "adyen",
            "http://127.0.0.1:1",
            merchant_account=body["merchantAccountCode"],
        ).provider

        (told,) = read(provider, {}, packed(resigned(body, kit)))

        assert told.type == body["eventCode"]
        assert told.occurred_at is not None
        assert (told.dispute is not None) == (body["eventCode"] in DISPUTES)
        meant = (body["eventCode"], str(body["success"]).lower() == "true") in EVENTS
        assert (told.outcome is not None) == (meant or body["eventCode"] == CANCEL_OR_REFUND)
        assert (told.notice is not None) == (body["eventCode"] in NOTICES)
        known += told.outcome is not None or told.dispute is not None
    assert known > 25
