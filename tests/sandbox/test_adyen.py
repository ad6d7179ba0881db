"""The simulated Adyen as its official SDK sees it."""

from typing import Any

import Adyen
import pytest
from Adyen.exceptions import (
    AdyenAPIAuthenticationError,
    AdyenAPIInvalidPermission,
    AdyenAPIUnprocessableEntity,
)

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
        "encryptedCardNumber": "test_5454545454545454",
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


def test_an_authorisation_can_be_adjusted(sandbox: Any) -> None:
    payment = authorised(sandbox)

    sandbox.modify("adjust", payment, "a-1", amount=EUR | {"value": 1500}, industryUsage="delayedCharge")

    assert sandbox.mailbox.adyen_items("AUTHORISATION_ADJUSTMENT")[0]["success"] == "true"
    assert [entry["amount"] for entry in sandbox.books("adyen")["authorisations"]] == [1500]
    sandbox.modify("capture", payment, "c-1", amount=EUR | {"value": 1500})
    assert sandbox.mailbox.adyen_items("CAPTURE")[0]["success"] == "true"
