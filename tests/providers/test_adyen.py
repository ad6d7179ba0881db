"""Adyen's adapter: what is asked, what its result codes mean, and which webhook is believed."""

import copy
import json
from typing import Any

import Adyen
import pytest
from Adyen.services.checkout import AdyenCheckoutApi
from Adyen.util import generate_notification_sig
from pydantic import SecretStr

from providers.adyen import API_VERSION, EVENTS, AdyenProvider
from providers.contract import (
    ActionRequired,
    Approved,
    Declined,
    Kind,
    Pending,
    Token,
    Unknown,
    WebhookRefused,
)
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


def test_everything_the_merchant_said_goes_along(provider: Any, kit: Any) -> None:
    browser = {
        "accept_header": "*/*",
        "color_depth": 24,
        "java_enabled": False,
        "language": "en",
        "screen_height": 1,
        "screen_width": 2,
        "time_zone_offset": -60,
        "user_agent": "M",
    }
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
            "browser_info": browser,
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


def test_adyens_own_samples_are_read_once_they_are_signed(specs: Any, open_account: Any, kit: Any) -> None:
    samples = json.loads((specs / "adyen.sample-webhooks.json").read_text())["samples"]
    for sample in samples:
        for entry in sample["body"].get("notificationItems", []):
            body = entry["NotificationRequestItem"]
            provider = open_account(
                "adyen",
                "http://127.0.0.1:1",
                merchant_account=body["merchantAccountCode"],
            ).provider
            plain = {name: value for name, value in body.items() if name != "additionalData"}
            plain["originalReference"] = plain.get("originalReference") or ""
            plain["merchantReference"] = plain.get("merchantReference") or ""

            assert read(provider, {}, packed(signed(plain, kit.HMAC_KEY)))
