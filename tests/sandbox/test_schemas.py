"""The sandbox's answers and webhooks against the PSPs' official OpenAPI documents."""

from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import pytest
import stripe


@pytest.fixture(scope="module")
def stripe_schema(published: Any) -> Any:
    return published.stripe.schema


@pytest.fixture(scope="module")
def adyen_schema(published: Any) -> Any:
    return published.adyen.schema


def test_stripe_objects(sandbox: Any, stripe_schema: Any) -> None:
    api = sandbox.stripe.v1
    expand = {"expand": ["latest_charge", "payment_method"]}
    manual = sandbox.charge(key="1", capture_method="manual", **expand)
    intents = [
        sandbox.charge(key="0", **expand),
        manual,
        api.payment_intents.capture(manual.id, {"amount_to_capture": 1000, **expand}),
        api.payment_intents.cancel(sandbox.charge(key="2", capture_method="manual").id, expand),
        sandbox.charge(key="3", confirm=None, payment_method=None),
        sandbox.charge(key="4", payment_method="pm_card_threeDSecure2Required"),
        sandbox.charge(
            key="5",
            payment_method="pm_card_threeDSecure2Required",
            return_url="https://shop.example/back",
        ),
    ]
    refund = api.refunds.create({"payment_intent": intents[0].id})
    method = api.payment_methods.retrieve(intents[0].payment_method.id)
    customer = api.customers.create({"email": "ada@example.com"})

    for intent in intents:
        stripe_schema("payment_intent").validate(intent.to_dict())
    stripe_schema("refund").validate(refund.to_dict())
    stripe_schema("payment_method").validate(method.to_dict())
    stripe_schema("customer").validate(customer.to_dict())
    charge = api.charges.retrieve(api.payment_intents.retrieve(intents[0].id).latest_charge)
    stripe_schema("charge").validate(charge.to_dict())


def test_stripe_objects_of_the_whole_life(sandbox: Any, stripe_schema: Any) -> None:
    api = sandbox.stripe.v1
    customer = api.customers.create({"name": "Ada", "metadata": {"a": "b"}})
    options = {
        "request_multicapture": "if_available",
        "request_incremental_authorization": "if_available",
        "request_three_d_secure": "any",
    }
    expand = {"expand": ["latest_charge", "payment_method"]}
    flexible = sandbox.charge(
        capture_method="manual",
        customer=customer.id,
        setup_future_usage="off_session",
        payment_method_options={"card": options},
        **expand,
    )
    raised = api.payment_intents.increment_authorization(flexible.id, {"amount": 2500, **expand})
    part = api.payment_intents.capture(flexible.id, {"amount_to_capture": 9, "final_capture": False, **expand})
    released = api.payment_intents.cancel(flexible.id, expand)
    challenged = sandbox.charge(
        key="c", payment_method="pm_card_threeDSecure2Required", return_url="https://shop.example/back"
    )
    sandbox.http.get(challenged.next_action.redirect_to_url.url, params={"result": "succeeded"})
    passed = api.payment_intents.retrieve(challenged.id, expand)

    for intent in (flexible, raised, part, released, passed):
        stripe_schema("payment_intent").validate(intent.to_dict())
    for method in api.customers.payment_methods.list(customer.id):
        stripe_schema("payment_method").validate(method.to_dict())
    stripe_schema("customer").validate(api.customers.update(customer.id, {"name": ""}).to_dict())
    stripe_schema("deleted_customer").validate(api.customers.delete(customer.id).to_dict())


def test_stripe_setups(sandbox: Any, stripe_schema: Any) -> None:
    api, expand = sandbox.stripe.v1.setup_intents, {"expand": ["payment_method", "latest_attempt"]}
    back = {"confirm": True, "return_url": "https://shop.example/back", **expand}
    customer = sandbox.stripe.v1.customers.create({})
    challenged = api.create({"payment_method": "pm_card_threeDSecure2Required", **back})
    failed = api.create({"payment_method": "pm_card_threeDSecure2Required", **back})
    for setup, result in ((challenged, "succeeded"), (failed, "failed")):
        stripe_schema("setup_intent").validate(setup.to_dict())
        sandbox.http.get(setup.next_action.redirect_to_url.url, params={"result": result})
    with pytest.raises(stripe.CardError) as caught:
        api.create({"payment_method": "pm_card_visa_chargeDeclined", **back})

    for setup in (
        api.create({}),
        api.create({"payment_method": "pm_card_visa", "customer": customer.id, **back}),
        api.retrieve(challenged.id, expand),
        api.retrieve(failed.id, expand),
        api.cancel(failed.id),
        *api.list(),
    ):
        stripe_schema("setup_intent").validate(setup.to_dict())
    stripe_schema("error").validate(caught.value.json_body)


def test_stripe_disputes(sandbox: Any, stripe_schema: Any) -> None:
    disputes = sandbox.stripe.v1.disputes
    for key, token in enumerate(("pm_card_createDispute", "pm_card_createDisputeInquiry")):
        sandbox.charge(key=str(key), payment_method=token, expand=["latest_charge"])
    opened = [event["data"]["object"] for event in sandbox.mailbox.stripe_events("charge.dispute.created", 2)]

    for body in opened:
        stripe_schema("dispute").validate(body)
        stripe_schema("dispute").validate(disputes.retrieve(body["id"]).to_dict())
        evidence = {"evidence": {"uncategorized_text": "winning_evidence"}, "metadata": {"operation": "op"}}
        stripe_schema("dispute").validate(disputes.update(body["id"], evidence).to_dict())
    for event in sandbox.mailbox.stripe_events("charge.dispute.closed", 2):
        stripe_schema("dispute").validate(event["data"]["object"])
    with pytest.raises(stripe.StripeError) as caught:
        disputes.close(opened[0]["id"])
    stripe_schema("error").validate(caught.value.json_body)
    charge = sandbox.stripe.v1.charges.retrieve(opened[0]["charge"])
    stripe_schema("charge").validate(charge.to_dict())


def test_stripe_errors(sandbox: Any, stripe_schema: Any) -> None:
    intent = sandbox.charge()
    tries = [
        partial(sandbox.charge, key="1", payment_method="pm_card_visa_chargeDeclined"),
        partial(sandbox.charge, key="2", payment_method="pm_card_radarBlock"),
        partial(sandbox.charge, key="3", amount=1),
        partial(sandbox.charge, key="key-1", amount=5000),
        partial(sandbox.stripe.v1.payment_intents.cancel, intent.id),
        partial(sandbox.stripe.v1.payment_intents.retrieve, "pi_nowhere"),
        partial(sandbox.stripe.v1.payment_intents.increment_authorization, intent.id, {"amount": 5000}),
        partial(sandbox.charge, key="6", payment_method="pm_card_authenticationRequired", off_session=True),
        partial(sandbox.stripe.v1.disputes.retrieve, "dp_nowhere"),
        partial(sandbox.stripe.v1.setup_intents.retrieve, "seti_nowhere"),
    ]

    for attempt in tries:
        with pytest.raises(stripe.StripeError) as caught:
            attempt()
        stripe_schema("error").validate(caught.value.json_body)


def test_stripe_events(sandbox: Any, stripe_schema: Any, published: Any) -> None:
    spec = published.stripe.document
    endpoint = spec["paths"]["/v1/webhook_endpoints"]["post"]["requestBody"]["content"]
    fields = endpoint["application/x-www-form-urlencoded"]["schema"]["properties"]
    known = fields["enabled_events"]["items"]["enum"]
    api = sandbox.stripe.v1
    intent = sandbox.charge(key="1", capture_method="manual")
    api.payment_intents.capture(intent.id)
    api.refunds.create({"payment_intent": intent.id})
    sandbox.charge(key="2", payment_method="pm_card_createDispute")
    sandbox.charge(key="3", payment_method="pm_card_createIssuerFraudRecord")
    refunded = sandbox.charge(key="4", payment_method="pm_card_refundFail")
    api.refunds.create({"payment_intent": refunded.id})
    api.setup_intents.create({"confirm": True, "payment_method": "pm_card_visa", "return_url": "https://shop.example"})
    described = {"event", "payment_intent", "charge", "refund", "setup_intent", "dispute"}

    for event in sandbox.mailbox.wait(17):
        stripe_schema("event").validate(event)
        assert event["type"] in known
        body = event["data"]["object"]
        if body["object"] in described:  # the excerpt of the document has no early fraud warnings
            stripe_schema(body["object"]).validate(body)
        else:
            assert body["object"] == "radar.early_fraud_warning"


NATIVE: dict[str, Any] = {
    "channel": "Web",
    "origin": "https://shop.example",
    "browserInfo": {"userAgent": "M", "acceptHeader": "*/*"},
    "authenticationData": {"threeDSRequestData": {"nativeThreeDS": "preferred"}},
}


def test_adyen_answers(sandbox: Any, adyen_schema: Any) -> None:
    eur = {"value": 400, "currency": "EUR"}
    pre_auth = {"manualCapture": "true", "authorisationType": "PreAuth"}
    manual = sandbox.pay(key="1", additionalData=pre_auth)
    payment = manual["pspReference"]
    answers = [
        manual,
        sandbox.pay(key="2", holder="NOT_ENOUGH_BALANCE"),
        sandbox.pay(key="3", holder="DECLINED:03", number="5555444433331111"),
        sandbox.pay(key="4", amount={"value": 0, "currency": "EUR"}),
        sandbox.pay(key="5", storePaymentMethod=True, shopperReference="shopper-1"),
        sandbox.pay(key="6", number="4000200000001014"),
    ]
    adjusted = sandbox.modify("adjust", payment, "a", amount=eur, reference="op-1")

    for answer in answers:
        adyen_schema("PaymentResponse").validate(answer)
    adyen_schema("PaymentAmountUpdateResponse").validate(adjusted)
    captured = sandbox.modify("capture", payment, "c", amount=eur, reference="op-2")
    adyen_schema("PaymentCaptureResponse").validate(captured)
    adyen_schema("PaymentRefundResponse").validate(sandbox.modify("refund", payment, "r", amount=eur))
    adyen_schema("PaymentCancelResponse").validate(sandbox.modify("cancel", payment, "v"))
    technical = sandbox.adyen.modifications_api.cancel_authorised_payment(
        {"merchantAccount": "SandboxECOM", "paymentReference": "ref-1", "reference": "op"}
    )
    adyen_schema("StandalonePaymentCancelResponse").validate(technical.message)
    refused = sandbox.http.post(f"{sandbox.adyen_url}/v72/payments", json={})
    adyen_schema("ServiceError").validate(refused.json())


@pytest.mark.parametrize("more", [{}, NATIVE], ids=["redirect", "native"])
@pytest.mark.parametrize("result", ["succeeded", "failed"])
def test_adyen_challenges(sandbox: Any, adyen_schema: Any, result: str, more: Any) -> None:
    answer = sandbox.pay(number="5454545454545454", **more)
    adyen_schema("PaymentResponse").validate(answer)
    while "action" in answer:
        back = sandbox.http.get(answer["action"]["url"], params={"result": result}).headers["location"]
        details = dict(parse_qsl(back.partition("?")[2]))
        answer = sandbox.adyen.payments_api.payments_details({"details": details}).message
        adyen_schema("PaymentDetailsResponse").validate(answer)

    assert answer["resultCode"] == {"succeeded": "Authorised", "failed": "Refused"}[result]


def test_adyen_stored_cards(sandbox: Any, adyen_schema: Any) -> None:
    method = {"type": "scheme", "number": "4111111111111111", "expiryMonth": "03", "expiryYear": "2030"}
    request = {"merchantAccount": "SandboxECOM", "shopperReference": "shopper-1", "paymentMethod": method}
    api = sandbox.adyen.recurring_api

    stored = api.stored_payment_methods(request)
    listed = api.get_tokens_for_stored_payment_details(
        query_parameters={"shopperReference": "shopper-1", "merchantAccount": "SandboxECOM"}
    )

    assert stored.status_code == 201
    adyen_schema("StoredPaymentMethodResource").validate(stored.message)
    adyen_schema("ListStoredPaymentMethodsResponse").validate(listed.message)
    assert listed.message["storedPaymentMethods"]


DISPUTE_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("retrieveApplicableDefenseReasons", "DefenseReasonsResponse", {}),
    (
        "supplyDefenseDocument",
        "SupplyDefenseDocumentResponse",
        {"defenseDocuments": [{"defenseDocumentTypeCode": "A", "contentType": "image/jpeg", "content": "cGRm"}]},
    ),
    ("deleteDisputeDefenseDocument", "DeleteDefenseDocumentResponse", {"defenseDocumentType": "A"}),
    ("defendDispute", "DefendDisputeResponse", {"defenseReasonCode": "DuplicateChargeback"}),
    ("acceptDispute", "AcceptDisputeResponse", {}),
]


def test_adyen_disputes(sandbox: Any, published: Any) -> None:
    sandbox.pay(holder="chargeback")
    dispute = sandbox.mailbox.adyen_items("CHARGEBACK")[0]["pspReference"]

    for path, schema, more in DISPUTE_CALLS:
        answer = sandbox.http.post(
            f"{sandbox.adyen_url}/ca/services/DisputeService/v30/{path}",
            json={"merchantAccountCode": "SandboxECOM", "disputePspReference": dispute, **more},
            headers={"X-API-Key": "adyen_test_sandbox"},
        )
        assert answer.status_code == 200
        published.adyen_disputes.schema(schema).validate(answer.json())


def test_the_sdk_sends_what_the_documents_allow(adyen_schema: Any, new_adyen_payment: Any) -> None:
    adyen_schema("PaymentRequest").validate(new_adyen_payment())


def test_adyen_webhooks(sandbox: Any, published: Any) -> None:
    document = published.adyen_webhooks.document
    eur = {"value": 400, "currency": "EUR"}
    pre_auth = {"additionalData": {"manualCapture": "true", "authorisationType": "PreAuth"}}
    sandbox.pay(key="0", holder="DECLINED")
    for number, verbs in enumerate((("adjust", "capture", "refund"), ("cancel",))):
        payment = sandbox.pay(key=f"p{number}", **pre_auth)["pspReference"]
        for verb in verbs:
            more = {} if verb == "cancel" else {"amount": eur}
            sandbox.modify(verb, payment, f"{verb}{number}", **more)
    sandbox.pay(key="x", reference="x", **pre_auth)
    technical = {"merchantAccount": "SandboxECOM", "paymentReference": "x"}
    sandbox.adyen.modifications_api.cancel_authorised_payment(technical)
    sandbox.modify(
        "capture", sandbox.pay(key="y", holder="CAPTURE_FAILED", **pre_auth)["pspReference"], "k", amount=eur
    )
    for holder in ("REFUND_FAILED", "REFUNDED_REVERSED"):
        sandbox.modify("refund", sandbox.pay(key=holder, holder=holder)["pspReference"], f"k-{holder}", amount=eur)
    for holder in ("Second Chargeback", "request for information"):
        sandbox.pay(key=holder, holder=holder)

    bodies = sandbox.mailbox.wait(26)
    assert len({body["notificationItems"][0]["NotificationRequestItem"]["eventCode"] for body in bodies}) == 15
    for body in bodies:
        code = body["notificationItems"][0]["NotificationRequestItem"]["eventCode"]
        schema = document["webhooks"][f"/{code}"]["post"]["requestBody"]["content"]
        pointer = schema["application/json"]["schema"]["$ref"].removeprefix("#")
        for problem in published.adyen_webhooks.at(pointer).iter_errors(body):
            # Adyen's own examples break this one rule of its documents, see specs/README.md.
            assert problem.path[-1] == "additionalData", problem.message
            assert "Additional properties" in problem.message
