"""What we send is what the PSPs' published specifications describe, and nothing else."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from providers.contract import Kind, Token

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


@pytest.fixture(scope="module")
def stripe_paths(published: Any) -> Any:
    return published.stripe.document["paths"]


def stripe_schema(paths: Any, path: Any) -> Any:
    template = re.sub(r"/pi_1\b", "/{intent}", path)
    content = paths[template]["post"]["requestBody"]["content"]
    return content["application/x-www-form-urlencoded"]["schema"]


@pytest.mark.parametrize("index", range(8))
async def test_stripe_gets_what_its_specification_describes(
    index: Any, stripe_paths: Any, published: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    async def method(line: Any) -> None:
        await line.answer(200, {"id": "pm_1", "object": "payment_method"})

    async def keep(_request: Any) -> None:
        pass

    loopback.will(method)
    account = open_account("stripe", loopback.url)
    await account.provider.send(kit.call(account, asks("stripe", kit)[index]), keep)

    assert loopback.seen
    for seen in loopback.seen:
        schema = stripe_schema(stripe_paths, seen.path)
        body = published.typed(published.form(seen.body.decode()), schema)
        Draft202012Validator(schema).validate(body)


ADYEN_SCHEMAS = {
    "payments": "PaymentRequest",
    "captures": "PaymentCaptureRequest",
    "cancels": "PaymentCancelRequest",
    "refunds": "PaymentRefundRequest",
}


@pytest.mark.parametrize("index", range(8))
async def test_adyen_gets_what_its_specification_describes(
    index: Any, published: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(500)
    account = open_account("adyen", loopback.url)
    await account.provider.send(kit.call(account, asks("adyen", kit)[index]), kit.keep_nothing)

    (seen,) = loopback.seen
    name = ADYEN_SCHEMAS[seen.path.rpartition("/")[2]]
    schemas = published.adyen.document["components"]["schemas"]
    body = seen.json
    method = body.pop("paymentMethod", None)
    if method is not None:  # a oneOf over 50 methods; ours is the card's
        published.adyen.schema("CardDetails").validate(method)
    assert set(body) <= set(schemas[name]["properties"])
    for field, value in body.items():
        published.adyen.at(f"/components/schemas/{name}/properties/{field}").validate(value)
    required = set(schemas[name]["required"]) - {"paymentMethod"}
    assert required <= set(body)
