"""What we send is what the PSPs' published specifications describe, and nothing else."""

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from providers.contract import Kind, Token
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


def stripe_operation(paths: Any, method: str, path: str) -> Any:
    """The operation of the specification that a path is served by."""
    template = re.sub(r"/(pi|seti)_1\b", "/{intent}", path)
    return paths[re.sub(r"/dp_1\b", "/{dispute}", template)][method.lower()]


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


def check_stripe(paths: Any, seen: Any) -> None:
    path, _, query = seen.path.partition("?")
    operation = stripe_operation(paths, seen.method, path)
    if seen.method == "GET":
        assert set(nested(query)) <= {parameter["name"] for parameter in operation["parameters"]}
        return
    schema = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    Draft202012Validator(schema).validate(typed(nested(seen.body.decode()), schema))


@pytest.mark.parametrize("index", range(20))
async def test_stripe_gets_what_its_specification_describes(
    index: Any, stripe_paths: Any, loopback: Any, open_account: Any, kit: Any
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
        check_stripe(stripe_paths, seen)


@pytest.mark.parametrize("found", ["pi_1", "seti_1"])
async def test_stripe_is_asked_for_a_completed_challenge_as_its_specification_describes(
    found: Any, stripe_paths: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(404)
    account = open_account("stripe", loopback.url)
    call = kit.call(account, kit.ask("stripe", Kind.AUTHORIZE), provider_id=found)

    await account.provider.send(replace(call, request=account.provider.completion(call, {})), kit.keep_nothing)

    (seen,) = loopback.seen
    check_stripe(stripe_paths, seen)


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
