"""The simulated Adyen as its official SDK sees it."""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import Adyen
import pytest
from Adyen.exceptions import (
    AdyenAPIAuthenticationError,
    AdyenAPIInvalidPermission,
    AdyenAPIUnprocessableEntity,
)

from providers.sandbox.adyen_psp import AUTHORISATION_LIFE_S, OFFER_LIFE_S, AdyenPsp
from providers.sandbox.books import Books
from providers.sandbox.desk import Call, RefusedError
from providers.sandbox.postman import Postman

MERCHANT = "SandboxECOM"
EUR = {"value": 1000, "currency": "EUR"}


def refused(action: Any, **params: Any) -> AdyenAPIUnprocessableEntity:
    with pytest.raises(AdyenAPIUnprocessableEntity) as caught:
        action(**params)
    error: AdyenAPIUnprocessableEntity = caught.value
    return error


def authorised(sandbox: Any, **more: Any) -> str:
    answer = sandbox.pay(additionalData={"manualCapture": "true"}, **more)
    assert answer["resultCode"] == "Authorised"
    psp_reference: str = answer["pspReference"]
    return psp_reference


def test_an_ordinary_card_is_authorised_and_captured(sandbox: Any) -> None:
    answer = sandbox.pay()

    assert answer["resultCode"] == "Authorised"
    assert (answer["merchantReference"], answer["amount"]) == ("ref-1", EUR)
    data = answer["additionalData"]
    assert (data["cardSummary"], data["paymentMethod"], data["cardBin"]) == (
        "1111",
        "visa",
        "411111",
    )
    books = sandbox.books("adyen")
    assert [entry["amount"] for entry in books["authorisations"]] == [1000]
    assert [entry["amount"] for entry in books["captures"]] == [1000]
    item = sandbox.mailbox.adyen_items("AUTHORISATION")[0]
    assert (item["success"], item["pspReference"]) == ("true", answer["pspReference"])


def test_encrypted_test_values_are_taken(sandbox: Any) -> None:
    method = {
        "type": "scheme",
        "encryptedCardNumber": "test_5555444433331111",
        "encryptedExpiryMonth": "test_03",
        "encryptedExpiryYear": "test_2030",
        "encryptedSecurityCode": "test_737",
    }

    answer = sandbox.pay(paymentMethod=method)

    assert answer["paymentMethod"]["brand"] == "mc"


@pytest.mark.parametrize(
    ("more", "result", "code"),
    [
        ({"holder": "DECLINED"}, "Refused", "2"),
        ({"holder": "NOT_ENOUGH_BALANCE"}, "Refused", "12"),
        ({"holder": "FRAUD_CANCELLED"}, "Cancelled", "22"),
        ({"holder": "ERROR"}, "Error", "4"),
        ({"additionalData": {"RequestedTestAcquirerResponseCode": 6}}, "Refused", "6"),
        ({"number": "4000200000000123"}, "Refused", "12"),
        ({"number": "4000200000000040"}, "Error", "4"),
    ],
)
def test_refusals_are_triggered_as_documented(sandbox: Any, more: dict[str, Any], result: str, code: str) -> None:
    answer = sandbox.pay(**more)

    assert (answer["resultCode"], answer["refusalReasonCode"]) == (result, code)
    assert answer["refusalReason"]
    books = sandbox.books("adyen")
    assert books["authorisations"] == []
    assert len(books["declines"]) == 1
    item = sandbox.mailbox.adyen_items("AUTHORISATION")[0]
    assert (item["success"], item["reason"]) == ("false", answer["refusalReason"])


def test_a_manual_capture_is_received_and_told_by_webhook(sandbox: Any) -> None:
    payment = authorised(sandbox)
    assert sandbox.books("adyen")["captures"] == []

    answer = sandbox.modify("capture", payment, "c-1", amount=EUR, reference="op-2")

    assert (answer["status"], answer["paymentPspReference"]) == ("received", payment)
    item = sandbox.mailbox.adyen_items("CAPTURE")[0]
    assert item["success"] == "true"
    assert item["pspReference"] == answer["pspReference"]
    assert (item["originalReference"], item["merchantReference"]) == (payment, "op-2")
    entry = sandbox.books("adyen", reference="op-2")["captures"][0]
    assert (entry["payment"], entry["amount"], entry["key"]) == (payment, 1000, "c-1")


def test_an_over_capture_is_received_and_then_refused(sandbox: Any) -> None:
    payment = authorised(sandbox)

    answer = sandbox.modify("capture", payment, "c-1", amount=EUR | {"value": 1001})

    assert answer["status"] == "received"
    item = sandbox.mailbox.adyen_items("CAPTURE")[0]
    assert (item["success"], item["reason"]) == ("false", "Insufficient balance on payment")
    books = sandbox.books("adyen")
    assert (books["captures"], len(books["rejections"])) == ([], 1)


def test_the_first_partial_capture_is_the_last(sandbox: Any) -> None:
    payment = authorised(sandbox)

    for number in (1, 2):
        sandbox.modify("capture", payment, f"c-{number}", amount=EUR | {"value": 400})

    items = sandbox.mailbox.adyen_items("CAPTURE", 2)
    assert sorted(item["success"] for item in items) == ["false", "true"]
    assert len(sandbox.books("adyen")["captures"]) == 1


def test_capturing_a_captured_payment_charges_nothing(sandbox: Any) -> None:
    payment = sandbox.pay()["pspReference"]

    sandbox.modify("capture", payment, "c-1", amount=EUR)

    assert sandbox.mailbox.adyen_items("CAPTURE")[0]["success"] == "false"
    assert len(sandbox.books("adyen")["captures"]) == 1


def test_a_cancel_voids_once(sandbox: Any) -> None:
    payment = authorised(sandbox)

    for number in (1, 2):
        sandbox.modify("cancel", payment, f"v-{number}", reference=f"op-{number}")

    items = sandbox.mailbox.adyen_items("CANCELLATION", 2)
    assert sorted(item["success"] for item in items) == ["false", "true"]
    books = sandbox.books("adyen")
    assert len(books["voids"]) == 1
    assert books["authorisations"][0]["status"] == "voided"


def test_a_lost_payment_is_cancelled_by_its_reference(sandbox: Any) -> None:
    payment = authorised(sandbox)

    answer = sandbox.adyen.modifications_api.cancel_authorised_payment(
        {"merchantAccount": "SandboxECOM", "paymentReference": "ref-1", "reference": "op-9"}
    ).message

    assert answer["status"] == "received"
    item = sandbox.mailbox.adyen_items("TECHNICAL_CANCEL")[0]
    assert (item["success"], item["originalReference"]) == ("true", payment)
    assert len(sandbox.books("adyen")["voids"]) == 1


def test_a_technical_cancel_of_nothing_is_received_too(sandbox: Any) -> None:
    answer = sandbox.adyen.modifications_api.cancel_authorised_payment(
        {"merchantAccount": "SandboxECOM", "paymentReference": "never-arrived"}
    ).message

    assert answer["status"] == "received"
    assert sandbox.books("adyen")["voids"] == []


def test_refunds_never_exceed_the_capture(sandbox: Any) -> None:
    payment = sandbox.pay()["pspReference"]

    for number, value in enumerate((600, 600, 400)):
        sandbox.modify("refund", payment, f"r-{number}", amount=EUR | {"value": value})

    items = sandbox.mailbox.adyen_items("REFUND", 3)
    failed = [item for item in items if item["success"] == "false"]
    assert [item["amount"]["value"] for item in failed] == [600]
    assert sum(entry["amount"] for entry in sandbox.books("adyen")["refunds"]) == 1000


def test_an_uncaptured_payment_cannot_be_refunded(sandbox: Any) -> None:
    sandbox.modify("refund", authorised(sandbox), "r-1", amount=EUR)

    item = sandbox.mailbox.adyen_items("REFUND")[0]
    assert item["reason"] == "Transaction hasn't been captured, refund not possible"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"amount": None}, "100"),
        ({"amount": {"value": -1, "currency": "EUR"}}, "137"),
        ({"amount": {"value": 1, "currency": "eur"}}, "138"),
        ({"reference": ""}, "130"),
        ({"paymentMethod": None}, "14_004"),
        ({"returnUrl": None}, "14_030"),
        ({"number": "4111111111111112"}, "101"),
        ({"metadata": {"a-name-of-more-than-20-letters": "x"}}, "177"),
        ({"paymentMethod": {"type": "scheme", "storedPaymentMethodId": "none"}}, "803"),
    ],
)
def test_wrong_fields_get_adyens_codes(sandbox: Any, more: dict[str, Any], code: str) -> None:
    error = refused(sandbox.pay, **more)

    assert (error.status_code, error.error_code) == (422, code)
    assert sandbox.books("adyen")["authorisations"] == []


def test_an_unknown_payment_cannot_be_modified(sandbox: Any) -> None:
    with pytest.raises(AdyenAPIUnprocessableEntity) as caught:
        sandbox.modify("capture", "NOSUCHPAYMENT000", "c-1", amount=EUR)

    assert caught.value.error_code == "167"


def test_credentials_and_merchant_account_are_checked(sandbox: Any) -> None:
    with pytest.raises(AdyenAPIInvalidPermission) as caught:
        sandbox.pay(merchantAccount="Somebody")
    assert caught.value.error_code == "901"

    client = Adyen.AdyenClient(xapikey="wrong", platform="test")
    api = Adyen.AdyenCheckoutApi(client=client).payments_api
    api.baseUrl = f"{sandbox.adyen_url}/v72"
    with pytest.raises(AdyenAPIAuthenticationError):
        api.payments({"merchantAccount": "SandboxECOM"})


def test_a_stored_card_pays_again_without_the_shopper(sandbox: Any) -> None:
    first = sandbox.pay(storePaymentMethod=True, shopperReference="shopper-1", recurringProcessingModel="CardOnFile")
    stored_id = first["additionalData"]["tokenization.storedPaymentMethodId"]

    again = sandbox.pay(
        key="key-2",
        paymentMethod={"type": "scheme", "storedPaymentMethodId": stored_id},
        shopperReference="shopper-1",
        shopperInteraction="ContAuth",
        recurringProcessingModel="Subscription",
        returnUrl=None,
    )

    assert (again["resultCode"], again["additionalData"]["cardSummary"]) == ("Authorised", "1111")


@pytest.mark.parametrize(("result", "code"), [("succeeded", "Authorised"), ("failed", "Refused")])
def test_a_challenge_ends_in_payment_details(sandbox: Any, result: str, code: str) -> None:
    answer = sandbox.pay(authenticationData={"attemptAuthentication": "always"})
    assert answer["resultCode"] == "RedirectShopper"
    assert sandbox.books("adyen")["authorisations"] == []
    back = sandbox.http.get(answer["action"]["url"], params={"result": result})
    redirect_result = back.headers["location"].partition("redirectResult=")[2]

    details = sandbox.adyen.payments_api.payments_details({"details": {"redirectResult": redirect_result}}).message

    assert details["resultCode"] == code
    assert details["pspReference"] == answer["pspReference"]
    assert len(sandbox.books("adyen")["authorisations"]) == (result == "succeeded")


def test_metadata_comes_back_in_the_webhook(sandbox: Any) -> None:
    sandbox.pay(metadata={"operation": "op-1"})

    item = sandbox.mailbox.adyen_items("AUTHORISATION")[0]
    assert item["additionalData"]["metadata.operation"] == "op-1"


def test_amounts_are_integers_in_adyens_own_exponents(sandbox: Any) -> None:
    answer = sandbox.pay(amount={"value": 1999, "currency": "ISK"})

    assert answer["amount"] == {"value": 1999, "currency": "ISK"}


PRE_AUTH = {"manualCapture": "true", "authorisationType": "PreAuth"}


def test_a_pre_authorisation_can_be_adjusted(sandbox: Any) -> None:
    payment = sandbox.pay(additionalData=PRE_AUTH)["pspReference"]

    sandbox.modify("adjust", payment, "a-1", amount=EUR | {"value": 1500}, industryUsage="delayedCharge")

    assert sandbox.mailbox.adyen_items("AUTHORISATION_ADJUSTMENT")[0]["success"] == "true"
    assert [entry["amount"] for entry in sandbox.books("adyen")["authorisations"]] == [1500]
    sandbox.modify("capture", payment, "c-1", amount=EUR | {"value": 1500})
    assert sandbox.mailbox.adyen_items("CAPTURE")[0]["success"] == "true"


def test_a_final_authorisation_cannot_be_adjusted(sandbox: Any) -> None:
    sandbox.modify("adjust", authorised(sandbox), "a-1", amount=EUR | {"value": 1500}, reference="inc_1")

    item = sandbox.mailbox.adyen_items("AUTHORISATION_ADJUSTMENT")[0]
    assert (item["success"], item["merchantReference"]) == ("false", "inc_1")
    assert [entry["amount"] for entry in sandbox.books("adyen")["authorisations"]] == [1000]


@pytest.mark.parametrize(
    ("fault", "more", "reason"),
    [
        ("fail_later", {}, "Declined by the acquirer"),
        ("decline", {"code": "NOT_ENOUGH_BALANCE"}, "Not enough balance"),
    ],
)
def test_an_issuer_may_refuse_an_adjustment(sandbox: Any, fault: str, more: Any, reason: str) -> None:
    payment = sandbox.pay(additionalData=PRE_AUTH)["pspReference"]
    sandbox.script("adyen", fault, "increment", **more)

    sandbox.modify("adjust", payment, "a-1", amount=EUR | {"value": 1500})

    item = sandbox.mailbox.adyen_items("AUTHORISATION_ADJUSTMENT")[0]
    assert (item["success"], item["reason"]) == ("false", reason)
    assert [entry["amount"] for entry in sandbox.books("adyen")["authorisations"]] == [1000]


# --- 3-D Secure ---------------------------------------------------------------------------------

ENROLLED = "5454545454545454"
BROWSER = {
    "acceptHeader": "*/*",
    "colorDepth": 24,
    "javaEnabled": False,
    "language": "en",
    "screenHeight": 1,
    "screenWidth": 2,
    "timeZoneOffset": -60,
    "userAgent": "M",
}
NATIVE: dict[str, Any] = {
    "channel": "Web",
    "origin": "https://shop.example",
    "browserInfo": BROWSER,
    "authenticationData": {"threeDSRequestData": {"nativeThreeDS": "preferred"}},
}


def details(sandbox: Any, **given: str) -> Any:
    return sandbox.adyen.payments_api.payments_details({"details": given}).message


def brought_back(action: Any, **content: str) -> str:
    """What Adyen's component would hand over for an action, made by hand."""
    content |= {"authorisationToken": action["authorisationToken"]}
    return base64.b64encode(json.dumps(content).encode()).decode()


def played(sandbox: Any, action: Any, result: str) -> dict[str, str]:
    """What the sandbox's own page sends the shopper back with."""
    back = sandbox.http.get(action["url"], params={"result": result}).headers["location"]
    return dict(parse_qsl(back.partition("?")[2]))


@pytest.mark.parametrize(("status", "result"), [("Y", "Authorised"), ("N", "Refused")])
def test_a_native_challenge_has_two_steps(sandbox: Any, status: str, result: str) -> None:
    answer = sandbox.pay(number=ENROLLED, **NATIVE)

    assert (answer["resultCode"], answer["action"]["subtype"]) == ("IdentifyShopper", "fingerprint")
    assert "pspReference" not in answer
    fingerprint = brought_back(answer["action"], threeDSCompInd="Y")
    challenge = details(sandbox, threeDSResult=fingerprint)
    assert (challenge["resultCode"], challenge["action"]["subtype"]) == ("ChallengeShopper", "challenge")
    assert sandbox.books("adyen")["authorisations"] == []
    ended = details(sandbox, threeDSResult=brought_back(challenge["action"], transStatus=status))
    assert ended["resultCode"] == result
    data = ended["additionalData"]
    assert (data["threeDOfferedResponse"], data["threeDAuthenticatedResponse"]) == ("C", status)
    assert len(sandbox.books("adyen")["authorisations"]) == (status == "Y")


def test_the_sandbox_plays_the_shopper_of_a_native_challenge(sandbox: Any) -> None:
    answer = sandbox.pay(number=ENROLLED, **NATIVE)

    challenge = details(sandbox, **played(sandbox, answer["action"], "succeeded"))
    ended = details(sandbox, **played(sandbox, challenge["action"], "succeeded"))

    assert (ended["resultCode"], ended["merchantReference"]) == ("Authorised", "ref-1")
    assert sandbox.http.get(answer["action"]["url"], params={"result": "failed"}).status_code == 404


FRICTIONLESS = [
    ("4000200000001006", "Authorised", "Y", "true"),
    ("4000200000001014", "Authorised", "A", "true"),
    ("4000200000001022", "Refused", "N", "false"),
]


@pytest.mark.parametrize(("number", "result", "status", "shift"), FRICTIONLESS)
@pytest.mark.parametrize("native", [True, False])
def test_without_a_challenge_the_directory_decides(
    sandbox: Any, number: str, result: str, status: str, shift: str, *, native: bool
) -> None:
    answer = sandbox.pay(number=number, **(NATIVE if native else {}))
    if native:
        answer = details(sandbox, threeDSResult=brought_back(answer["action"], threeDSCompInd="Y"))

    assert answer["resultCode"] == result
    data = answer["additionalData"]
    assert (data["threeDAuthenticatedResponse"], data["liabilityShift"]) == (status, shift)


def test_every_enrolled_test_card_of_adyens_is_challenged(sandbox: Any, specs: Path) -> None:
    groups = json.loads((specs / "adyen.test-cards.json").read_text())["groups"]
    cards = [card for group in groups for card in group["items"]]
    assert any(card.get("secure3DS") for card in cards)

    for card in cards:
        number = card["cardnumber"].replace(" ", "")
        answer = sandbox.pay(key=number, number=number)

        wanted = "RedirectShopper" if card.get("secure3DS") else "Authorised"
        assert answer["resultCode"] == wanted, number


@pytest.mark.parametrize("attempt", ["never", None])
def test_who_starts_the_payment_decides_whether_an_enrolled_card_is_challenged(sandbox: Any, attempt: Any) -> None:
    if attempt:
        answer = sandbox.pay(number=ENROLLED, authenticationData={"attemptAuthentication": "never"})
    else:
        answer = sandbox.pay(
            number=ENROLLED, shopperInteraction="ContAuth", recurringProcessingModel="UnscheduledCardOnFile"
        )

    assert answer["resultCode"] == "Authorised"
    assert answer["additionalData"]["threeDOffered"] == "false"


def test_an_issuer_may_want_the_shopper_of_a_later_payment(sandbox: Any) -> None:
    answer = sandbox.pay(
        number="4000200000001030", shopperInteraction="ContAuth", recurringProcessingModel="Subscription"
    )

    assert (answer["resultCode"], answer["refusalReasonCode"]) == ("Refused", "38")


@pytest.mark.parametrize("given", [{}, {"redirectResult": "made up"}, {"threeDSResult": "made up"}])
def test_made_up_details_complete_nothing(sandbox: Any, given: dict[str, str]) -> None:
    sandbox.pay(number=ENROLLED)

    error = refused(details, sandbox=sandbox, **given)

    assert error.error_code == "702"
    assert sandbox.books("adyen")["authorisations"] == []


def test_a_challenge_without_its_result_is_no_challenge_passed(sandbox: Any) -> None:
    answer = sandbox.pay(number=ENROLLED, **NATIVE)
    challenge = details(sandbox, threeDSResult=brought_back(answer["action"], threeDSCompInd="Y"))

    error = refused(details, sandbox=sandbox, threeDSResult=brought_back(challenge["action"]))

    assert error.error_code == "702"


def test_the_same_details_get_the_same_answer(sandbox: Any) -> None:
    answer = sandbox.pay(number=ENROLLED)
    given = played(sandbox, answer["action"], "succeeded")

    first, second = details(sandbox, **given), details(sandbox, **given)

    assert first == second
    assert len(sandbox.books("adyen")["authorisations"]) == 1


# --- Verifications and stored cards -------------------------------------------------------------


def test_a_verification_moves_no_money(sandbox: Any) -> None:
    answer = sandbox.pay(
        amount={"value": 0, "currency": "EUR"},
        storePaymentMethod=True,
        shopperReference="shopper-1",
        recurringProcessingModel="CardOnFile",
    )

    assert (answer["resultCode"], answer["amount"]["value"]) == ("Authorised", 0)
    assert answer["additionalData"]["tokenization.storedPaymentMethodId"]
    assert sandbox.books("adyen")["captures"] == []


def stored(sandbox: Any) -> str:
    request = {
        "merchantAccount": MERCHANT,
        "shopperReference": "shopper-1",
        "recurringProcessingModel": "CardOnFile",
        "paymentMethod": {
            "type": "scheme",
            "number": "4111111111111111",
            "expiryMonth": "03",
            "expiryYear": "2030",
            "cvc": "737",
        },
    }
    answer: dict[str, str] = sandbox.adyen.recurring_api.stored_payment_methods(request).message
    return answer["id"]


def test_a_stored_card_is_its_shoppers_alone(sandbox: Any) -> None:
    token = stored(sandbox)

    error = refused(
        sandbox.pay,
        paymentMethod={"type": "scheme", "storedPaymentMethodId": token},
        shopperReference="shopper-2",
        shopperInteraction="ContAuth",
    )

    assert error.error_code == "803"


def test_a_stored_card_is_listed_until_it_is_forgotten(sandbox: Any) -> None:
    token = stored(sandbox)
    api = sandbox.adyen.recurring_api
    query = {"shopperReference": "shopper-1", "merchantAccount": MERCHANT}

    def listed() -> list[str]:
        found = api.get_tokens_for_stored_payment_details(query_parameters=query).message
        return [each["id"] for each in found["storedPaymentMethods"]]

    assert listed() == [token]
    other = query | {"shopperReference": "shopper-2"}
    refused(api.delete_token_for_stored_payment_details, storedPaymentMethodId=token, query_parameters=other)
    assert listed() == [token]
    api.delete_token_for_stored_payment_details(token, query_parameters=query)
    assert listed() == []


# --- What the networks say ----------------------------------------------------------------------

VISA, MASTERCARD = "4111111111111111", "5555444433331111"
SAID = [
    (VISA, "NOT_ENOUGH_BALANCE", "51 : Insufficient funds", None),
    (VISA, "DECLINED:46", "46 : Declined by the issuer", None),
    (MASTERCARD, "DECLINED", "05 : Do not honor", None),
    (MASTERCARD, "DECLINED:03", "05 : Do not honor", "03 : Do not try again"),
    (MASTERCARD, "DECLINED:24", "05 : Do not honor", "24 : Retry after 1 hour"),
    (VISA, "FRAUD", "FRAUD", None),
]


@pytest.mark.parametrize(("number", "holder", "raw", "advice"), SAID)
def test_a_refusal_says_what_the_network_said(sandbox: Any, number: str, holder: str, raw: str, advice: Any) -> None:
    data = sandbox.pay(number=number, holder=holder)["additionalData"]

    assert (data["refusalReasonRaw"], data.get("merchantAdviceCode")) == (raw, advice)


# --- Failures that come later -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "verb", "book"),
    [
        ("CAPTURE_FAILED", "capture", "captures"),
        ("REFUND_FAILED", "refund", "refunds"),
        ("REFUNDED_REVERSED", "refund", "refunds"),
    ],
)
def test_a_scheme_may_reject_what_had_worked(sandbox: Any, holder: str, verb: str, book: str) -> None:
    payment = authorised(sandbox, holder=holder) if verb == "capture" else sandbox.pay(holder=holder)["pspReference"]

    sandbox.modify(verb, payment, "k-1", amount=EUR, reference="op-1")

    (before,) = sandbox.mailbox.adyen_items(verb.upper())
    (after,) = sandbox.mailbox.adyen_items(holder)
    assert (before["success"], after["success"]) == ("true", "true")
    assert (after["merchantReference"], after["originalReference"]) == ("op-1", payment)
    assert [entry["status"] for entry in sandbox.books("adyen")[book] if entry["reference"] == "op-1"] == ["failed"]


class Noting(Postman):
    """A postman who keeps what Adyen tells by itself."""

    def __init__(self) -> None:
        super().__init__(url=None, sign=lambda body: {}, delay_s=0, attempts_max=1, pause_s=0)
        self.told: list[tuple[str, str, bytes]] = []

    def post(self, *, event: str, kind: str, body: bytes, fault: Any, position: int) -> None:
        self.told.append((event, kind, body))


class Soon:
    """An Adyen whose time the test moves; it needs no server."""

    def __init__(self, *, multiple_captures: bool = False) -> None:
        self.now = 1_800_000_000.0
        self.items: list[dict[str, Any]] = []
        self.books, self.postman = Books(), Noting()
        self.psp = AdyenPsp(
            self.books,
            self.postman,
            merchant_account=MERCHANT,
            hmac_key="00",
            multiple_captures=multiple_captures,
            now=lambda: self.now,
        )

    def ask(self, act: Any, path_id: str = "", **params: Any) -> tuple[Any, list[str]]:
        """The answer, and the codes of the events that were told before and with it."""
        self.postman.told.clear()
        call = Call({"merchantAccount": MERCHANT, **params}, path_id, None, "r", "http://x", None, lambda: None)
        answer = self.psp.timely(act)(call)
        told = [*self.postman.told, *call.events]
        self.items = [json.loads(body)["notificationItems"][0]["NotificationRequestItem"] for _, _, body in told]
        return json.loads(answer.body), [kind for _, kind, _ in told]


def test_an_authorisation_lapses_in_time(new_adyen_payment: Any) -> None:
    soon = Soon()
    payment, _ = soon.ask(soon.psp.pay, **new_adyen_payment(additionalData={"manualCapture": "true"}))
    soon.now += AUTHORISATION_LIFE_S

    _, events = soon.ask(soon.psp.capture, payment["pspReference"], amount=EUR)

    assert events == ["EXPIRE", "CAPTURE"]
    assert (soon.items[0]["pspReference"], soon.items[0]["amount"]) == (payment["pspReference"], EUR)
    assert soon.items[0]["eventDate"] == "2027-02-12T08:00:00+00:00"
    assert [entry.status for entry in soon.books.entries("authorisations")] == ["expired"]
    assert list(soon.books.entries("captures")) == []


def test_a_captured_authorisation_does_not_lapse(new_adyen_payment: Any) -> None:
    soon = Soon()
    payment, _ = soon.ask(soon.psp.pay, **new_adyen_payment(additionalData={"manualCapture": "true"}))
    soon.ask(soon.psp.capture, payment["pspReference"], amount=EUR)
    soon.now += AUTHORISATION_LIFE_S

    _, events = soon.ask(soon.psp.refund, payment["pspReference"], amount=EUR)

    assert events == ["REFUND"]


def test_an_offer_that_nobody_took_is_closed(new_adyen_payment: Any) -> None:
    soon = Soon()
    soon.ask(soon.psp.pay, **new_adyen_payment(number=ENROLLED))
    soon.now += OFFER_LIFE_S

    _, events = soon.ask(soon.psp.list_stored, shopperReference="shopper-1")

    assert events == ["OFFER_CLOSED"]


@pytest.mark.parametrize("number", ["4000200000000024", ENROLLED])
def test_what_was_refused_or_finished_in_time_is_no_open_offer(new_adyen_payment: Any, number: str) -> None:
    soon = Soon()
    answer, _ = soon.ask(soon.psp.pay, **new_adyen_payment(number=number))
    if "action" in answer:
        back = soon.psp.complete_challenge(answer["pspReference"], succeeded=False)
        assert back
        soon.ask(soon.psp.details, details={"redirectResult": back.partition("redirectResult=")[2]})
    soon.now += OFFER_LIFE_S

    _, events = soon.ask(soon.psp.list_stored, shopperReference="shopper-1")

    assert events == []


def test_a_closed_offer_cannot_be_taken(new_adyen_payment: Any) -> None:
    soon = Soon()
    answer, _ = soon.ask(soon.psp.pay, **new_adyen_payment(number=ENROLLED))
    back = soon.psp.complete_challenge(answer["pspReference"], succeeded=True)
    assert back
    soon.now += OFFER_LIFE_S

    with pytest.raises(RefusedError):
        soon.ask(soon.psp.details, details={"redirectResult": back.partition("redirectResult=")[2]})

    assert list(soon.books.entries("authorisations")) == []


def test_what_is_left_of_several_captures_lapses_in_time(new_adyen_payment: Any) -> None:
    soon = Soon(multiple_captures=True)
    payment, _ = soon.ask(soon.psp.pay, **new_adyen_payment(additionalData={"manualCapture": "true"}))
    soon.ask(soon.psp.capture, payment["pspReference"], amount=EUR | {"value": 400})
    soon.now += AUTHORISATION_LIFE_S

    _, events = soon.ask(soon.psp.capture, payment["pspReference"], amount=EUR | {"value": 400})

    assert events == ["EXPIRE", "CAPTURE"]
    assert [entry.amount for entry in soon.books.entries("captures")] == [400]


def test_several_captures_are_possible_where_adyen_switched_them_on(new_adyen_payment: Any) -> None:
    soon = Soon(multiple_captures=True)
    payment, _ = soon.ask(soon.psp.pay, **new_adyen_payment(additionalData={"manualCapture": "true"}))

    for value in (400, 500, 200):
        soon.ask(soon.psp.capture, payment["pspReference"], amount=EUR | {"value": value})

    assert [entry.amount for entry in soon.books.entries("captures")] == [400, 500]
    assert [entry.amount for entry in soon.books.entries("rejections")] == [200]


# --- Disputes -----------------------------------------------------------------------------------


@pytest.fixture
def disputes(sandbox: Any) -> Any:
    """The official SDK's Disputes API, with the merchant account and the one dispute there is filled in."""
    api = Adyen.AdyenDisputesApi(client=Adyen.AdyenClient(xapikey="adyen_test_sandbox", platform="test")).disputes_api
    api.baseUrl = f"{sandbox.adyen_url}/ca/services/DisputeService/v30"

    def ask(verb: str, **more: Any) -> Any:
        item = sandbox.mailbox.wait(1, lambda body: "isputeStatus" in json.dumps(body))[0]
        dispute = item["notificationItems"][0]["NotificationRequestItem"]["pspReference"]
        body = {"merchantAccountCode": MERCHANT, "disputePspReference": dispute, **more}
        return getattr(api, verb)(body).message["disputeServiceResult"]

    return ask


DOCUMENT = {"defenseDocumentTypeCode": "DefenseMaterial", "contentType": "application/pdf", "content": "cGRm"}


def told(sandbox: Any, *codes: str) -> None:
    for code in codes:
        assert sandbox.mailbox.adyen_items(code)


def test_a_chargeback_follows_the_capture(sandbox: Any) -> None:
    payment = authorised(sandbox, holder="chargeback:13.1")

    sandbox.modify("capture", payment, "c-1", amount=EUR)

    notice = sandbox.mailbox.adyen_items("NOTIFICATION_OF_CHARGEBACK")[0]
    chargeback = sandbox.mailbox.adyen_items("CHARGEBACK")[0]
    assert notice["pspReference"] == chargeback["pspReference"] != payment
    assert (chargeback["originalReference"], chargeback["merchantReference"]) == (payment, "ref-1")
    assert chargeback["additionalData"]["chargebackReasonCode"] == "13.1"
    assert chargeback["additionalData"]["defensePeriodEndsAt"]


def test_a_defence_needs_its_documents_and_wins(sandbox: Any, disputes: Any) -> None:
    sandbox.pay(holder="Chargeback:10.4")

    early = disputes("defend_dispute", defenseReasonCode="SupplyDefenseMaterial")
    supplied = disputes("supply_defense_document", defenseDocuments=[DOCUMENT])
    defended = disputes("defend_dispute", defenseReasonCode="SupplyDefenseMaterial")

    assert [each["success"] for each in (early, supplied, defended)] == [False, True, True]
    assert early["errorMessage"]
    told(sandbox, "INFORMATION_SUPPLIED", "CHARGEBACK_REVERSED")
    assert not disputes("defend_dispute", defenseReasonCode="SupplyDefenseMaterial")["success"]
    assert not disputes("accept_dispute")["success"]


@pytest.mark.parametrize(
    ("holder", "codes"),
    [
        ("Chargeback Reversed", ["INFORMATION_SUPPLIED", "CHARGEBACK_REVERSED"]),
        ("Second Chargeback", ["CHARGEBACK_REVERSED", "SECOND_CHARGEBACK"]),
        ("request for information", ["REQUEST_FOR_INFORMATION"]),
    ],
)
def test_a_holder_name_runs_the_whole_course(sandbox: Any, holder: str, codes: list[str]) -> None:
    sandbox.pay(holder=holder)

    told(sandbox, *codes)


def test_a_defence_may_be_in_vain(sandbox: Any, disputes: Any) -> None:
    sandbox.pay(holder="chargeback defended in vain")

    assert disputes("defend_dispute", defenseReasonCode="DuplicateChargeback")["success"]

    told(sandbox, "INFORMATION_SUPPLIED", "SECOND_CHARGEBACK")


def test_a_dispute_is_accepted_once(sandbox: Any, disputes: Any) -> None:
    sandbox.pay(holder="chargeback")

    assert disputes("accept_dispute")["success"]

    told(sandbox, "DISPUTE_DEFENSE_PERIOD_ENDED")
    assert not disputes("accept_dispute")["success"]
    assert not disputes("defend_dispute", defenseReasonCode="DuplicateChargeback")["success"]


WRONG_DOCUMENTS = [
    ([], "missing"),
    ([DOCUMENT | {"contentType": "text/html"}], "content type"),
    ([DOCUMENT | {"content": "not base64!"}], "content"),
]


@pytest.mark.parametrize(("documents", "problem"), WRONG_DOCUMENTS)
def test_wrong_documents_are_not_taken(sandbox: Any, disputes: Any, documents: Any, problem: str) -> None:
    sandbox.pay(holder="chargeback")

    result = disputes("supply_defense_document", defenseDocuments=documents)

    assert not result["success"]
    assert problem in result["errorMessage"]


def test_a_document_can_be_taken_back(sandbox: Any, disputes: Any) -> None:
    sandbox.pay(holder="chargeback")
    disputes("supply_defense_document", defenseDocuments=[DOCUMENT])

    taken = disputes("delete_dispute_defense_document", defenseDocumentType="DefenseMaterial")
    again = disputes("delete_dispute_defense_document", defenseDocumentType="DefenseMaterial")

    assert (taken["success"], again["success"]) == (True, False)
    assert disputes("retrieve_applicable_defense_reasons")["success"]
    assert not disputes("defend_dispute", defenseReasonCode="SupplyDefenseMaterial")["success"]
    assert not disputes("defend_dispute", defenseReasonCode="NoSuchReason")["success"]


VERBS = [
    "accept_dispute",
    "defend_dispute",
    "supply_defense_document",
    "delete_dispute_defense_document",
    "retrieve_applicable_defense_reasons",
]


@pytest.mark.parametrize("verb", VERBS)
def test_a_dispute_that_is_not_there_is_no_success(sandbox: Any, disputes: Any, verb: str) -> None:
    sandbox.pay(holder="chargeback")

    assert not disputes(verb, disputePspReference="NOSUCHDISPUTE000")["success"]


def test_a_dispute_of_another_merchant_account_is_not_shown(sandbox: Any, disputes: Any) -> None:
    sandbox.pay(holder="chargeback")

    with pytest.raises(AdyenAPIInvalidPermission):
        disputes("accept_dispute", merchantAccountCode="Somebody")
