"""The sandbox's answers and webhooks against the PSPs' official OpenAPI documents."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stripe
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it ships no types
from referencing import Registry
from referencing.jsonschema import DRAFT202012


def nullable(part: Any) -> Any:
    """OpenAPI 3.0's nullable as JSON Schema says it."""
    if isinstance(part, list):
        return [nullable(each) for each in part]
    if not isinstance(part, dict):
        return part
    rest = {name: nullable(value) for name, value in part.items() if name != "nullable"}
    return {"anyOf": [rest, {"type": "null"}]} if part.get("nullable") is True else rest


def validator(document: dict[str, Any], pointer: str) -> Draft202012Validator:
    resource = DRAFT202012.create_resource(document)
    registry: Registry[Any] = Registry().with_resource("urn:psp", resource)
    return Draft202012Validator({"$ref": f"urn:psp#{pointer}"}, registry=registry)


@pytest.fixture(scope="module")
def stripe_schema(specs: Path) -> Any:
    spec = json.loads((specs / "stripe.openapi.json").read_text())
    document = {"components": {"schemas": nullable(spec["components"]["schemas"])}}
    return lambda name: validator(document, f"/components/schemas/{name}")


@pytest.fixture(scope="module")
def adyen_schema(specs: Path) -> Any:
    document = json.loads((specs / "adyen.checkout-v72.openapi.json").read_text())
    return lambda name: validator(document, f"/components/schemas/{name}")


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


def test_stripe_errors(sandbox: Any, stripe_schema: Any) -> None:
    intent = sandbox.charge()
    tries = [
        partial(sandbox.charge, key="1", payment_method="pm_card_visa_chargeDeclined"),
        partial(sandbox.charge, key="2", payment_method="pm_card_radarBlock"),
        partial(sandbox.charge, key="3", amount=1),
        partial(sandbox.charge, key="key-1", amount=5000),
        partial(sandbox.stripe.v1.payment_intents.cancel, intent.id),
        partial(sandbox.stripe.v1.payment_intents.retrieve, "pi_nowhere"),
    ]

    for attempt in tries:
        with pytest.raises(stripe.StripeError) as caught:
            attempt()
        stripe_schema("error").validate(caught.value.json_body)


def test_stripe_events(sandbox: Any, stripe_schema: Any, specs: Path) -> None:
    spec = json.loads((specs / "stripe.openapi.json").read_text())
    endpoint = spec["paths"]["/v1/webhook_endpoints"]["post"]["requestBody"]["content"]
    fields = endpoint["application/x-www-form-urlencoded"]["schema"]["properties"]
    known = fields["enabled_events"]["items"]["enum"]
    intent = sandbox.charge(key="1", capture_method="manual")
    sandbox.stripe.v1.payment_intents.capture(intent.id)
    sandbox.stripe.v1.refunds.create({"payment_intent": intent.id})

    for event in sandbox.mailbox.wait(5):
        stripe_schema("event").validate(event)
        stripe_schema(event["data"]["object"]["object"]).validate(event["data"]["object"])
        assert event["type"] in known


def test_adyen_answers(sandbox: Any, adyen_schema: Any) -> None:
    eur = {"value": 400, "currency": "EUR"}
    manual = sandbox.pay(key="1", additionalData={"manualCapture": "true"})
    payment = manual["pspReference"]
    redirect = sandbox.pay(key="2", authenticationData={"attemptAuthentication": "always"})
    back = sandbox.http.get(redirect["action"]["url"], params={"result": "failed"})
    result = back.headers["location"].partition("redirectResult=")[2]
    details = sandbox.adyen.payments_api.payments_details({"details": {"redirectResult": result}})
    technical = sandbox.adyen.modifications_api.cancel_authorised_payment(
        {"merchantAccount": "SandboxECOM", "paymentReference": "ref-1", "reference": "op"}
    )

    for answer in (manual, redirect, sandbox.pay(key="3", holder="NOT_ENOUGH_BALANCE")):
        adyen_schema("PaymentResponse").validate(answer)
    adyen_schema("PaymentDetailsResponse").validate(details.message)
    captured = sandbox.modify("capture", payment, "c", amount=eur, reference="op-2")
    adyen_schema("PaymentCaptureResponse").validate(captured)
    adyen_schema("PaymentRefundResponse").validate(sandbox.modify("refund", payment, "r", amount=eur))
    adyen_schema("PaymentCancelResponse").validate(sandbox.modify("cancel", payment, "v"))
    adyen_schema("StandalonePaymentCancelResponse").validate(technical.message)
    refused = sandbox.http.post(f"{sandbox.adyen_url}/v72/payments", json={})
    adyen_schema("ServiceError").validate(refused.json())


def test_the_sdk_sends_what_the_documents_allow(adyen_schema: Any, new_adyen_payment: Any) -> None:
    adyen_schema("PaymentRequest").validate(new_adyen_payment())


def test_adyen_webhooks(sandbox: Any, specs: Path) -> None:
    document = json.loads((specs / "adyen.webhooks-v1.openapi.json").read_text())
    eur = {"value": 400, "currency": "EUR"}
    sandbox.pay(key="0", holder="DECLINED")
    manual = sandbox.pay(key="1", additionalData={"manualCapture": "true"})["pspReference"]
    sandbox.modify("capture", manual, "c", amount=eur)
    sandbox.modify("refund", manual, "r", amount=eur)
    other = sandbox.pay(key="2", reference="x", additionalData={"manualCapture": "true"})
    sandbox.modify("cancel", other["pspReference"], "v")
    sandbox.adyen.modifications_api.cancel_authorised_payment(
        {"merchantAccount": "SandboxECOM", "paymentReference": "x"}
    )

    for body in sandbox.mailbox.wait(7):
        code = body["notificationItems"][0]["NotificationRequestItem"]["eventCode"]
        schema = document["webhooks"][f"/{code}"]["post"]["requestBody"]["content"]
        pointer = schema["application/json"]["schema"]["$ref"].removeprefix("#")
        for problem in validator(document, pointer).iter_errors(body):
            # Adyen's own examples break this one rule of its documents, see specs/README.md.
            assert problem.path[-1] == "additionalData", problem.message
            assert "Additional properties" in problem.message
