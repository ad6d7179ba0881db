"""Reading a request: strict JSON, a problem that names the field, and nothing of what was sent in it."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway.api import reading
from gateway.api.schemas import Body, PaymentCancel, PaymentCapture, PaymentConfirm, PaymentCreate, RefundCreate
from gateway.errors import Problem

PAN: Final = "4242424242424242"
MODELS: Final[tuple[type[Body], ...]] = (PaymentCreate, PaymentConfirm, PaymentCapture, PaymentCancel, RefundCreate)
PLAIN: Final = {"amount": 1999, "currency": "EUR"}
CARD: Final = {"number": PAN, "exp_month": 12, "exp_year": 2030, "cvc": "737"}


def problem_of(raw: bytes, model: type[Body] = PaymentCreate) -> dict[str, Any]:
    """The problem that this body is answered with."""
    with pytest.raises(Problem) as refused:
        reading.validate(model, reading.parse(raw))
    document: dict[str, Any] = json.loads(refused.value.body("req_1"))
    return document


def wrong(**fields: Any) -> dict[str, Any]:
    return problem_of(orjson.dumps(PLAIN | fields))


# --- Strict JSON ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{}{}",
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\n"}',
        b"\xef\xbb\xbf{}",
        b"// {}\n{}",
        b" \n",
        b"[]",
        b"null",
        b'"text"',
        b"1999",
        b'{"a":1,"a":1}',
        b'{"metadata":{"a":"1","a":"2"}}',
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_a_strict_json_object_is_malformed(raw: bytes) -> None:
    problem = problem_of(raw)

    assert (problem["status"], problem["code"], problem["param"]) == (400, "malformed_json", None)


def test_a_repeated_key_is_said_to_be_one() -> None:
    assert problem_of(b'{"amount":1,"amount":2}')["detail"] == "The body has the same key twice in one object."


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [32, 200, 30_000])
def test_a_body_is_at_most_32_levels_deep(opened: bytes, depth: int) -> None:
    closed = b"]" if opened == b"[" else b"}"
    raw = b'{"deep":' + opened * depth + b"1" + closed * depth + b"}"

    problem = problem_of(raw)

    assert (problem["code"], "32 levels" in problem["detail"]) == ("malformed_json", True)


def test_32_levels_are_read() -> None:
    assert reading.parse(b'{"deep":' + b"[" * 31 + b"]" * 31 + b"}")["deep"] is not None


def test_many_brackets_beside_each_other_are_not_deep() -> None:
    assert len(reading.parse(orjson.dumps({"wide": [[] for _ in range(100)]}))["wide"]) == 100


def test_no_body_is_an_empty_object() -> None:
    assert reading.parse(b"") == {}


# --- Bounded ----------------------------------------------------------------------------------------------------------


def request(chunks: list[bytes], **headers: str) -> Request:
    body: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    sent = iter([*body, {"type": "http.request"}])

    async def receive() -> dict[str, Any]:
        return next(sent)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": named}, receive)


async def test_a_body_of_64_kib_is_read_whole() -> None:
    assert len(await reading.body(request([b"x" * 1024] * 64))) == reading.BODY_MAX


async def test_a_body_past_64_kib_is_refused_by_what_it_declares_without_being_read() -> None:
    with pytest.raises(Problem) as refused:
        await reading.body(request([], content_length=str(reading.BODY_MAX + 1)))

    assert (refused.value.code, refused.value.sort.status) == ("body_too_large", 413)


@pytest.mark.parametrize("declared", ["10", "nonsense", "-1"])
async def test_a_body_past_64_kib_is_refused_while_it_comes_in_whatever_it_declares(declared: str) -> None:
    with pytest.raises(Problem) as refused:
        await reading.body(request([b"x" * 1024] * 65, content_length=declared))

    assert refused.value.code == "body_too_large"


# --- The field that is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": -1}, "amount"),
        ({"amount": 1_000_000_000_000}, "amount"),
        ({"amount": 2**63 - 1}, "amount"),
        ({"amount": "1999"}, "amount"),
        ({"amount": 1999.0}, "amount"),
        ({"amount": True}, "amount"),
        ({"currency": "XAU"}, "currency"),
        ({"currency": "eur"}, "currency"),
        ({"currency": "EURO"}, "currency"),
        ({"confirm": "true"}, "confirm"),
        ({"confirm": 1}, "confirm"),
        ({"capture_method": "later"}, "capture_method"),
        ({"colour": "red"}, "colour"),
        ({"metadata": {"cart": 77}}, "metadata"),
        ({"metadata": {"": "77"}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(51)}}, "metadata"),
        ({"payment_method": "pay_1"}, "payment_method"),
        ({"payment_method_data": {}}, "payment_method_data"),
        ({"payment_method_data": {"type": "cash"}}, "payment_method_data"),
        ({"payment_method_data": {"type": "card"}}, "payment_method_data.card"),
        (
            {"payment_method_data": {"type": "card", "card": CARD | {"number": PAN[:-1] + "1"}}},
            "payment_method_data.card.number",
        ),
        (
            {"payment_method_data": {"type": "card", "card": CARD | {"exp_month": 13}}},
            "payment_method_data.card.exp_month",
        ),
        ({"payment_method_data": {"type": "card", "card": CARD | {"cvc": "12"}}}, "payment_method_data.card.cvc"),
        ({"payment_method_data": {"type": "card", "card": CARD | {"pin": "1"}}}, "payment_method_data.card.pin"),
        ({"payment_method_data": {"type": "card", "card": CARD, "token": "t"}}, "payment_method_data.token"),
        ({"payment_method_data": {"type": "token", "tokens": {}}}, "payment_method_data.tokens"),
        ({"payment_method_data": {"type": "token", "tokens": {"stripe": 1}}}, "payment_method_data.tokens"),
        ({"payment_method_data": {"type": "token", "tokens": {"card": 1}}}, "payment_method_data.tokens"),
        ({"payment_method_data": {"type": "token", "tokens": {"a": "t"}, "card": CARD}}, "payment_method_data.card"),
        ({"billing_details": {"address": {"country": "de"}}}, "billing_details.address.country"),
        ({"shopper": {"browser_info": {"color_depth": 0}}}, "shopper.browser_info.color_depth"),
        ({"return_url": "javascript:alert(1)"}, "return_url"),
        ({"statement_descriptor": "A" * 23}, "statement_descriptor"),
    ],
)
def test_a_wrong_field_is_named_as_the_caller_wrote_it(fields: dict[str, Any], param: str) -> None:
    problem = wrong(**fields)

    assert (problem["status"], problem["code"], problem["param"]) == (422, "validation_failed", param)
    assert problem["detail"].startswith(f"{param} ")


@pytest.mark.parametrize("amount", [b"1e3", b"1e999", b"9223372036854775808", b"-0", b"null"])
def test_an_amount_that_is_no_plain_integer_is_refused(amount: bytes) -> None:
    problem = problem_of(b'{"currency":"EUR","amount":' + amount + b"}")

    assert (problem["status"], problem["param"]) == (422, "amount")


def test_every_wrong_field_is_told_at_once() -> None:
    problem = problem_of(b'{"amount":0}')

    assert [error["param"] for error in problem["errors"]] == ["amount", "currency"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"confirm": True}, "Confirm needs payment_method or payment_method_data."),
        (
            {"payment_method": "pm_" + "0" * 32, "payment_method_data": {"type": "token", "tokens": {"stripe": "t"}}},
            "Send payment_method or payment_method_data, not both.",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_told_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    problem = wrong(**fields)

    assert (problem["param"], problem["detail"]) == (None, sentence)


@pytest.mark.parametrize("model", MODELS)
def test_every_body_refuses_a_field_it_does_not_know(model: type[Body]) -> None:
    problem = problem_of(b'{"surprise":1}', model)

    assert "surprise" in {error["param"] for error in problem["errors"]}


@pytest.mark.parametrize(
    "raw", [b'{"reference":"a\\u0000b"}', b'{"metadata":{"a\\u0000":"b"}}', b'{"a":[["\\u0000"]]}']
)
def test_a_text_that_the_database_cannot_hold_is_refused(raw: bytes) -> None:
    problem = problem_of(raw)

    assert (problem["code"], "null character" in problem["detail"]) == ("malformed_json", True)


# --- Nothing of what was sent -----------------------------------------------------------------------------------------

names = st.sampled_from(
    sorted({*PaymentCreate.model_fields, *RefundCreate.model_fields, "card", "tokens", "type", "number"})
)
marked = st.sampled_from([PAN, f"card_{PAN}", f" {PAN} ", f"{PAN}\u0000", "4242 4242 4242 4242", PAN * 4])
leaves = (
    marked | st.sampled_from([int(PAN), float(PAN), -int(PAN), None, True, "card", "token", ""]) | st.text(max_size=5)
)
junk = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | marked, inner, max_size=5),
    max_leaves=15,
)
objects = st.dictionaries(names | marked, junk, max_size=8)


def assert_tells_nothing(model: type[Body], raw: bytes) -> None:
    try:
        reading.validate(model, reading.parse(raw))
    except Problem as problem:
        told = (problem.body("req_1").decode() + repr(problem.headers())).replace(" ", "")
        assert PAN not in told


@given(st.sampled_from(MODELS), objects)
def test_no_problem_repeats_a_card_number_wherever_it_was_put(model: type[Body], body: dict[str, Any]) -> None:
    assert_tells_nothing(model, orjson.dumps(body))


@given(st.sampled_from(MODELS), st.binary(max_size=60), st.binary(max_size=60))
def test_no_problem_repeats_a_card_number_out_of_junk(model: type[Body], before: bytes, after: bytes) -> None:
    assert_tells_nothing(model, before + PAN.encode() + after)


@given(objects, st.integers(0, 300))
def test_no_problem_repeats_a_card_number_out_of_a_torn_body(body: dict[str, Any], cut: int) -> None:
    assert_tells_nothing(PaymentCreate, orjson.dumps({"metadata": {PAN: PAN}} | body)[:cut])


def test_a_key_that_is_no_field_name_is_not_repeated() -> None:
    assert wrong(**{PAN: 1})["param"] == "?"


def test_a_validated_card_does_not_show_itself() -> None:
    body = PaymentCreate.model_validate(PLAIN | {"payment_method_data": {"type": "card", "card": CARD}})

    assert PAN not in repr(body)
    assert "737" not in repr(body)
