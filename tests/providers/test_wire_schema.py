"""What we send is what the PSPs' published specifications describe, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from providers.contract import Document, Kind, Token
from providers.money import Money

FULL = {
    "reference": "order-1",
    "description": "A chair",
    "statement_descriptor": "CHAIRS",
    "customer": "cus_1",
    "setup_future_usage": "off_session",
    "recurring": "subscription",
    "network_transaction_id": "NTI",
    "metadata": {"cart": "77"},
    "billing_details": {
        "name": "Ada",
        "email": "a@example.com",
        "phone": "+49301",
        "address": {
            "line1": "Street 1",
            "city": "Berlin",
            "postal_code": "10115",
            "country": "DE",
        },
    },
    "shopper": {
        "email": "a@example.com",
        "ip": "192.0.2.1",
        "channel": "web",
        "origin": "https://shop.example",
        "browser_info": {
            "accept_header": "*/*",
            "color_depth": 24,
            "java_enabled": False,
            "language": "en",
            "screen_height": 1,
            "screen_width": 2,
            "time_zone_offset": -60,
            "user_agent": "M",
        },
    },
}


def asks(provider: Any, kit: Any) -> Any:
    """Plain and full asks of every kind."""
    full = FULL | {"instrument": kit.CARD}
    authorize = Kind.AUTHORIZE
    return [
        kit.ask(provider, authorize),
        kit.ask(provider, authorize, **full),
        kit.ask(provider, authorize, **full, capture_method="manual"),
        kit.ask(provider, authorize, **(FULL | {"off_session": True})),
        kit.ask(provider, authorize, instrument=Token("8416")),
        kit.ask(provider, Kind.CAPTURE),
        kit.ask(provider, Kind.VOID),
        kit.ask(provider, Kind.REFUND, reason="duplicate"),
    ]


def stripe_asks(kit: Any) -> Any:
    """What only Stripe's words have, beside what both PSPs are asked."""
    authorize, remembered = Kind.AUTHORIZE, {"setup_future_usage": "off_session"}
    full = FULL | {"instrument": kit.CARD}
    flexible = {"capture_method": "manual", "adjustable": True, "several_captures": True, "three_d_secure": "required"}
    text = {"uncategorized_text": "She signed.", "customer_name": "Ada", "service_date": "2026-11-01"}
    return [
        *asks("stripe", kit)[:8],
        kit.ask("stripe", authorize, **full, **flexible),
        kit.ask("stripe", authorize, **remembered, instrument=Token("pm_1")),
        kit.ask("stripe", authorize, **remembered, instrument=Token("cus_1/pm_1")),
        kit.ask("stripe", authorize, instrument=Token("cus_1/pm_1"), off_session=True),
        kit.ask("stripe", authorize, amount=Money(0, "EUR")),
        kit.ask("stripe", authorize, **full, **flexible, amount=Money(0, "EUR")),
        kit.ask("stripe", Kind.CAPTURE, final=False),
        kit.ask("stripe", Kind.VOID, provider_payment_id="seti_1", unfinished=True),
        kit.ask("stripe", Kind.VOID, provider_payment_id=None, unfinished=True),
        kit.ask("stripe", Kind.INCREMENT),
        kit.ask("stripe", Kind.DEFEND, text=text),
        kit.ask("stripe", Kind.ACCEPT),
    ]


def stripe_made(path: str) -> Any:
    """What a step finds made, or a list finds listed."""
    made = {
        "/v1/payment_methods": {"id": "pm_1", "object": "payment_method"},
        "/v1/customers": {"id": "cus_1", "object": "customer"},
    }
    return made.get(path, {"id": "x", "object": "x", "data": [{"id": "pi_1", "metadata": {"operation": "att_1"}}]})


def check_stripe(published: Any, seen: Any) -> None:
    path, _, query = seen.path.partition("?")
    _, operation = published.stripe.operation(seen.method, path)
    if seen.method == "GET":
        assert set(published.form(query)) <= {parameter["name"] for parameter in operation["parameters"]}
        return
    schema = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    Draft202012Validator(schema).validate(published.typed(published.form(seen.body.decode()), schema))


@pytest.mark.parametrize("index", range(20))
async def test_stripe_gets_what_its_specification_describes(
    index: Any, published: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    async def answer(line: Any) -> None:
        await line.answer(200, stripe_made(loopback.seen[-1].path))

    async def keep(_request: Any) -> None:
        pass

    loopback.will(answer)
    account = open_account("stripe", loopback.url)
    call = kit.call(account, stripe_asks(kit)[index])

    await account.provider.send(call, keep)
    await account.provider.lookup(call)

    methods = [seen.method for seen in loopback.seen]
    assert {"POST", "GET"} == set(methods)
    for seen in loopback.seen:
        check_stripe(published, seen)


@pytest.mark.parametrize("found", ["pi_1", "seti_1"])
async def test_stripe_is_asked_for_a_completed_challenge_as_its_specification_describes(
    found: Any, published: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(404)
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE), provider_id=found)

    await account.provider.send(replace(call, request=account.provider.completion(call, {})), kit.keep_nothing)

    (seen,) = loopback.seen
    check_stripe(published, seen)


ADYEN_SCHEMAS = {
    "/v72/payments": "PaymentRequest",
    "/v72/payments/details": "PaymentDetailsRequest",
    "/v72/payments/PSP1PAYMENT/captures": "PaymentCaptureRequest",
    "/v72/payments/PSP1PAYMENT/cancels": "PaymentCancelRequest",
    "/v72/payments/PSP1PAYMENT/refunds": "PaymentRefundRequest",
    "/v72/payments/PSP1PAYMENT/amountUpdates": "PaymentAmountUpdateRequest",
    "/v72/cancels": "StandalonePaymentCancelRequest",
    "/ca/services/DisputeService/v30/supplyDefenseDocument": "SupplyDefenseDocumentRequest",
    "/ca/services/DisputeService/v30/defendDispute": "DefendDisputeRequest",
    "/ca/services/DisputeService/v30/acceptDispute": "AcceptDisputeRequest",
}


def adyen_asks(kit: Any) -> Any:
    """What only Adyen's words have: everything that can be asked beside what both PSPs are asked."""
    authorize = Kind.AUTHORIZE
    full = FULL | {"instrument": kit.CARD}
    document = Document("DefenseMaterial", "application/pdf", b"%PDF")
    return [
        *asks("adyen", kit)[:8],
        kit.ask("adyen", authorize, **full, capture_method="manual", adjustable=True, three_d_secure="required"),
        kit.ask("adyen", authorize, **full, amount=Money(0, "EUR")),
        kit.ask("adyen", authorize, instrument=kit.CARD, setup_future_usage="on_session"),
        kit.ask("adyen", authorize, **(FULL | {"instrument": Token("cus_1/8416"), "off_session": True})),
        kit.ask("adyen", authorize, **full, off_session=True),
        kit.ask("adyen", Kind.VOID, provider_payment_id=None),
        kit.ask("adyen", Kind.VOID, unfinished=True),
        kit.ask("adyen", Kind.INCREMENT),
        kit.ask("adyen", Kind.DEFEND, reason="SupplyDefenseMaterial", documents=(document,)),
        kit.ask("adyen", Kind.ACCEPT),
    ]


def check_adyen(published: Any, seen: Any) -> None:
    name = ADYEN_SCHEMAS[seen.path]
    document = published.adyen_disputes if "DisputeService" in seen.path else published.adyen
    schema = document.document["components"]["schemas"][name]
    body = seen.json
    method = body.pop("paymentMethod", None)
    if method is not None:  # a oneOf over 50 methods; ours is the card's
        document.schema("CardDetails").validate(method)
    assert set(body) <= set(schema["properties"])
    for field, value in body.items():
        document.at(f"/components/schemas/{name}/properties/{field}").validate(value)
    assert set(schema["required"]) - {"paymentMethod"} <= set(body)


@pytest.mark.parametrize("index", range(18))
async def test_adyen_gets_what_its_specification_describes(
    index: Any, published: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    async def keep(_request: Any) -> None:
        pass

    loopback.will_answer(200, {"disputeServiceResult": {"success": True}})
    account = open_account("adyen", loopback.url)
    await account.provider.send(kit.call(account, adyen_asks(kit)[index]), keep)

    assert loopback.seen
    for seen in loopback.seen:
        check_adyen(published, seen)


@pytest.mark.parametrize("name", ["redirectResult", "threeDSResult"])
async def test_adyen_gets_the_details_of_a_challenge_as_its_specification_describes_them(
    name: Any, published: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(200, {"resultCode": "Pending", "pspReference": "PSP1PAYMENT"})
    account = open_account("adyen", loopback.url)
    call = kit.call(account, kit.ask("adyen", Kind.AUTHORIZE))
    finishing = replace(call, request=account.provider.completion(call, {name: "X"}))

    await account.provider.send(finishing, kit.keep_nothing)

    (seen,) = loopback.seen
    check_adyen(published, seen)
    assert set(seen.json["details"]) <= set(
        published.adyen.document["components"]["schemas"]["PaymentCompletionDetails"]["properties"]
    )
