"""What we send is what the PSPs' published specifications describe, and nothing else."""

import json
import re
from typing import Any
from urllib.parse import parse_qsl

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012

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


def nested(body: Any) -> Any:
    """`a[b][0]=c` as the values it means, still all text."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(body, keep_blank_values=True):
        path = re.findall(r"[^\[\]]+", name)
        into = found
        for step in path[:-1]:
            into = into.setdefault(step, {})
        into[path[-1]] = value
    return found


def typed(value: Any, schema: Any) -> Any:
    """The text of a form as the schema's types; a name the schema does not know is an error."""
    for option in schema.get("anyOf", []):
        try:
            return typed(value, option)
        except (KeyError, ValueError, TypeError):
            continue
    match schema.get("type"):
        case "object" if not isinstance(value, dict):
            raise TypeError(value)
        case "object":
            properties, more = schema.get("properties", {}), schema.get("additionalProperties")
            rest = more if isinstance(more, dict) else None
            return {name: typed(each, properties.get(name) or rest or properties[name]) for name, each in value.items()}
        case "array":
            return [typed(each, schema["items"]) for each in value.values()]
        case "integer":
            return int(value)
        case "boolean":
            return {"true": True, "false": False}[value]
        case _:
            return value


@pytest.fixture(scope="module")
def stripe_paths(specs: Any) -> Any:
    return json.loads((specs / "stripe.openapi.json").read_text())["paths"]


def stripe_schema(paths: Any, path: Any) -> Any:
    template = re.sub(r"/pi_1\b", "/{intent}", path)
    content = paths[template]["post"]["requestBody"]["content"]
    return content["application/x-www-form-urlencoded"]["schema"]


@pytest.mark.parametrize("index", range(8))
async def test_stripe_gets_what_its_specification_describes(
    index: Any, stripe_paths: Any, loopback: Any, open_account: Any, kit: Any
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
        body = typed(nested(seen.body.decode()), schema)
        Draft202012Validator(schema).validate(body)


ADYEN_SCHEMAS = {
    "payments": "PaymentRequest",
    "captures": "PaymentCaptureRequest",
    "cancels": "PaymentCancelRequest",
    "refunds": "PaymentRefundRequest",
}


@pytest.fixture(scope="module")
def adyen_spec(specs: Any) -> Any:
    return json.loads((specs / "adyen.checkout-v72.openapi.json").read_text())


@pytest.mark.parametrize("index", range(8))
async def test_adyen_gets_what_its_specification_describes(
    index: Any, adyen_spec: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(500)
    account = open_account("adyen", loopback.url)
    await account.provider.send(kit.call(account, asks("adyen", kit)[index]), kit.keep_nothing)

    (seen,) = loopback.seen
    name = ADYEN_SCHEMAS[seen.path.rpartition("/")[2]]
    schemas = adyen_spec["components"]["schemas"]
    resource: Any = DRAFT202012.create_resource(adyen_spec)
    registry: Any = Registry().with_resource("urn:adyen", resource)
    body = seen.json
    method = body.pop("paymentMethod", None)
    if method is not None:  # a oneOf over 50 methods; ours is the card's
        card = {"$ref": "urn:adyen#/components/schemas/CardDetails"}
        Draft202012Validator(card, registry=registry).validate(method)
    assert set(body) <= set(schemas[name]["properties"])
    for field, value in body.items():
        each = {"$ref": f"urn:adyen#/components/schemas/{name}/properties/{field}"}
        Draft202012Validator(each, registry=registry).validate(value)
    required = set(schemas[name]["required"]) - {"paymentMethod"}
    assert required <= set(body)
