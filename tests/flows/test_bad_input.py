"""Requests that cannot be right: each has its exact problem, reaches no PSP, writes nothing and echoes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Open, Psps

NUMBER: Final = "4242424242424242"
CVC: Final = "737"
SECRET: Final = "sk_test_dev"
CARD: Final[dict[str, Any]] = {"number": NUMBER, "exp_month": 12, "exp_year": 2030, "cvc": CVC}
NO_SUCH_PAYMENT: Final = "pay_" + "0" * 32
NO_SUCH_METHOD: Final = "pm_" + "0" * 32
OMITTED: Final = b"left out"
"""Marks a field or a header that is not sent at all."""
NO_KEY: Final[dict[str, str | bytes]] = {"Idempotency-Key": OMITTED}


def charge(**fields: Any) -> bytes:
    plain: dict[str, Any] = {
        "amount": 1999,
        "currency": "EUR",
        "confirm": True,
        "payment_method_data": {"type": "card", "card": CARD},
    }
    return json.dumps({name: value for name, value in (plain | fields).items() if value != OMITTED}).encode()


def card(**fields: Any) -> dict[str, Any]:
    return {"type": "card", "card": {name: value for name, value in (CARD | fields).items() if value != OMITTED}}


def raw_amount(text: str) -> bytes:
    return charge().replace(b'"amount": 1999', f'"amount": {text}'.encode())


@dataclass(frozen=True)
class Bad:
    """A request and the problem it must be answered with."""

    name: str
    status: int
    code: str
    param: str | None = None
    content: bytes = field(default_factory=charge)
    path: str = "/v1/payments"
    method: str = "POST"
    headers: dict[str, str | bytes] = field(default_factory=dict)


def wrong(name: str, param: str | None, **fields: Any) -> Bad:
    return Bad(name, 422, "validation_failed", param, charge(**fields))


def wrong_card(name: str, **fields: Any) -> Bad:
    (field_name,) = fields
    return wrong(name, f"payment_method_data.card.{field_name}", payment_method_data=card(**fields))


def wrong_method(name: str, param: str | None, *, code: str = "validation_failed", **fields: Any) -> Bad:
    plain: dict[str, Any] = {"type": "card", "card": CARD}
    body = {name: value for name, value in (plain | fields).items() if value != OMITTED}
    return Bad(name, 422, code, param, json.dumps(body).encode(), "/v1/payment_methods")


def wrong_customer(name: str, param: str | None, /, **fields: Any) -> Bad:
    return Bad(name, 422, "validation_failed", param, json.dumps(fields).encode(), "/v1/customers")


def malformed(name: str, content: bytes) -> Bad:
    return Bad(name, 400, "malformed_json", content=content)


def filtered(name: str, query: str, param: str) -> Bad:
    return Bad(name, 422, "validation_failed", param, b"", f"/v1/payments?{query}", "GET")


REQUESTS: Final = [
    # Bytes that are no request.
    Bad("a body of 64 KiB and a byte", 413, "body_too_large", content=b" " * (64 * 1024 + 1)),
    malformed("no body that is JSON", b"amount=1999&currency=EUR"),
    malformed("a body that ends in the middle", charge()[:-9]),
    malformed("two bodies", charge() * 2),
    malformed("an array", b"[" + charge() + b"]"),
    malformed("a string", b'"4242424242424242"'),
    malformed("null", b"null"),
    malformed("an array of depth 10 000", b"[" * 10_000 + b"]" * 10_000),
    malformed("an object of depth 5 000", b'{"metadata":' * 5_000 + b"1" + b"}" * 5_000),
    malformed("an object of depth 33", charge(metadata=json.loads('{"a":' * 32 + "1" + "}" * 32))),
    malformed("NaN", raw_amount("NaN")),
    malformed("Infinity", raw_amount("Infinity")),
    malformed("minus Infinity", raw_amount("-Infinity")),
    malformed("an amount with a leading zero", raw_amount("0100")),
    malformed("the same key twice", raw_amount('1, "amount": 1999')),
    malformed(
        "the same key twice, deep inside", charge(metadata={"a": "1"}).replace(b'"a": "1"', b'"a": "1", "a": "2"')
    ),
    malformed("invalid UTF-8", charge(reference="order").replace(b"order", b"order\xff\xfe")),
    malformed("a lone surrogate", charge(reference="order").replace(b"order", b"\\ud800")),
    malformed("a byte order mark of UTF-16", "{}".encode("utf-16")),
    # Amounts.
    wrong("no amount", "amount", amount=OMITTED),
    wrong("amount 0", "amount", amount=0),
    wrong("amount -1", "amount", amount=-1),
    wrong("amount 2^63", "amount", amount=2**63),
    wrong("amount of 13 digits", "amount", amount=1_000_000_000_000),
    wrong('amount "100"', "amount", amount="100"),
    wrong("amount 10.5", "amount", amount=10.5),
    wrong("amount true", "amount", amount=True),
    wrong("amount null", "amount", amount=None),
    wrong("amount of a list", "amount", amount=[1999]),
    Bad("amount 1e3", 422, "validation_failed", "amount", raw_amount("1e3")),
    Bad("amount 1999.0", 422, "validation_failed", "amount", raw_amount("1999.0")),
    Bad("amount 1e400", 422, "validation_failed", "amount", raw_amount("1e400")),
    Bad("an amount of 4 000 digits", 422, "validation_failed", "amount", raw_amount("9" * 4_000)),
    malformed("an amount of 5 000 digits", raw_amount("9" * 5_000)),
    # Currencies.
    wrong("no currency", "currency", currency=OMITTED),
    wrong("gold", "currency", currency="XAU"),
    wrong("no currency at all", "currency", currency="XXX"),
    wrong("small letters", "currency", currency="eur"),
    wrong("a word", "currency", currency="EURO"),
    wrong("a number", "currency", currency=978),
    wrong("no letters", "currency", currency=""),
    # Fields.
    wrong("an unknown field", "amout", amout=1999),
    wrong("an unknown field of the card", "payment_method_data.card.nmber", payment_method_data=card(nmber=NUMBER)),
    wrong("an unknown field of the address", "billing_details.address.zip", billing_details={"address": {"zip": "1"}}),
    wrong("confirm as a word", "confirm", confirm="yes"),
    wrong("an unknown capture method", "capture_method", capture_method="later"),
    wrong("a reference of 256 characters", "reference", reference="r" * 256),
    wrong("metadata that is no text", "metadata", metadata={"cart": 77}),
    wrong("metadata of 51 keys", "metadata", metadata={str(number): "" for number in range(51)}),
    wrong("a return address that is none", "return_url", return_url="javascript:alert(1)"),
    wrong(
        "a country in small letters", "billing_details.address.country", billing_details={"address": {"country": "de"}}
    ),
    malformed("a null character in the reference", charge(reference="a\0b")),
    malformed("a null character in a key of metadata", charge(metadata={"a\0b": "77"})),
    malformed("a null character in a name", charge(billing_details={"name": "a\0b"})),
    # Payment methods.
    wrong("confirm without a method", None, payment_method_data=OMITTED),
    wrong("both kinds of method", None, payment_method=NO_SUCH_METHOD),
    wrong("an unknown stored method", "payment_method", payment_method=NO_SUCH_METHOD, payment_method_data=OMITTED),
    wrong("a method id that is none", "payment_method", payment_method=NUMBER, payment_method_data=OMITTED),
    wrong("an unknown type of method", "payment_method_data", payment_method_data={"type": "cash"}),
    wrong("a method without a type", "payment_method_data", payment_method_data={"card": CARD}),
    wrong("no tokens", "payment_method_data.tokens", payment_method_data={"type": "token", "tokens": {}}),
    wrong_card("no number", number=OMITTED),
    wrong_card("a number whose check digit is wrong", number="4242424242424241"),
    wrong_card("a number with spaces", number="4242 4242 4242 4242"),
    wrong_card("a number of 20 digits", number=NUMBER + "4242"),
    wrong_card("a number in Arabic digits", number="٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢"),
    wrong_card("a number that is a number", number=int(NUMBER)),
    wrong_card("month 13", exp_month=13),
    wrong_card("a year of two digits", exp_year=30),
    wrong_card("a security code of letters", cvc="abc"),
    Bad(
        "an account that is not there",
        422,
        "no_eligible_account",
        "routing.account",
        charge(routing={"account": "nobody"}),
    ),
    Bad(
        "a token for an account that is not there",
        422,
        "no_eligible_account",
        None,
        charge(payment_method_data={"type": "token", "tokens": {"nobody": "tok_1"}}),
    ),
    # The key.
    Bad("no Idempotency-Key", 400, "idempotency_key_missing", headers={"Idempotency-Key": OMITTED}),
    Bad("an empty Idempotency-Key", 400, "idempotency_key_missing", headers={"Idempotency-Key": "  "}),
    Bad("a quoted nothing", 400, "idempotency_key_malformed", headers={"Idempotency-Key": '""'}),
    Bad(
        "an Idempotency-Key of 256 characters", 400, "idempotency_key_malformed", headers={"Idempotency-Key": "k" * 256}
    ),
    Bad(
        "an Idempotency-Key that is not ASCII",
        400,
        "idempotency_key_malformed",
        headers={"Idempotency-Key": "clé".encode()},
    ),
    Bad("an Idempotency-Key with a tab", 400, "idempotency_key_malformed", headers={"Idempotency-Key": "a\tb"}),
    # Who asks.
    Bad("no credentials", 401, "unauthenticated", headers={"Authorization": OMITTED}),
    Bad("another scheme", 401, "unauthenticated", headers={"Authorization": f"Basic {SECRET}"}),
    Bad("no token", 401, "unauthenticated", headers={"Authorization": "Bearer"}),
    Bad("a key that was never made", 401, "unauthenticated", headers={"Authorization": "Bearer sk_test_0_0_00000000"}),
    Bad("a key with something behind it", 401, "unauthenticated", headers={"Authorization": f"Bearer {SECRET}x"}),
    Bad("a key that is not ASCII", 401, "unauthenticated", headers={"Authorization": "Bearer sk_test_é".encode()}),
    Bad("a publishable key", 403, "forbidden", headers={"Authorization": "Bearer pk_test_dev"}),
    Bad("an unknown version", 400, "unknown_version", headers={"Gateway-Version": "2020-01-01"}),
    # Where.
    Bad("a payment that is not there", 404, "not_found", content=b"{}", path=f"/v1/payments/{NO_SUCH_PAYMENT}/confirm"),
    Bad("a payment id that is none", 404, "not_found", content=b"{}", path="/v1/payments/4242424242424242/capture"),
    Bad("a payment id with a null byte", 404, "not_found", content=b"{}", path="/v1/payments/pay_%00/cancel"),
    Bad("a read of an id that is none", 404, "not_found", path="/v1/payments/4242424242424242", method="GET"),
    Bad("a refund id that is none", 404, "not_found", path="/v1/refunds/re_1", method="GET"),
    Bad("an address that is not there", 404, "not_found", path="/v1/nothing/4242424242424242"),
    Bad("a method that is not taken", 405, "method_not_allowed", path="/v1/payments", method="DELETE"),
    Bad("a read of a verb", 405, "method_not_allowed", path=f"/v1/payments/{NO_SUCH_PAYMENT}/capture", method="GET"),
    # Refunds.
    Bad("a refund of nothing", 422, "validation_failed", "payment", b"{}", "/v1/refunds"),
    Bad("a refund of an id that is none", 422, "validation_failed", "payment", b'{"payment": "pay_1"}', "/v1/refunds"),
    Bad(
        "a refund of a payment that is not there",
        404,
        "not_found",
        "payment",
        json.dumps({"payment": NO_SUCH_PAYMENT}).encode(),
        "/v1/refunds",
    ),
    Bad(
        "a refund of nothing of it",
        422,
        "validation_failed",
        "amount",
        json.dumps({"payment": NO_SUCH_PAYMENT, "amount": 0}).encode(),
        "/v1/refunds",
    ),
    # 3-D Secure, changed amounts, disputes.
    wrong("a return address without a host", "return_url", return_url="https://"),
    wrong("a return address in half a bracket", "return_url", return_url="https://[::1"),
    wrong("a return address with a tab", "return_url", return_url="https://shop\t.example/"),
    wrong("a return address that changes when it is read", "return_url", return_url="https://\u2100.example/"),
    wrong("an origin without a host", "shopper.origin", shopper={"origin": "https://["}),
    wrong("an unknown kind of 3-D Secure", "three_d_secure", three_d_secure="always"),
    wrong("3-D Secure without the shopper", None, three_d_secure="required", off_session=True),
    wrong("a changeable amount that is captured at once", None, incremental_authorization=True),
    wrong(
        "a token that ends in a slash",
        "payment_method_data.tokens",
        payment_method_data={"type": "token", "tokens": {"stripe": "cus_1/"}},
    ),
    Bad(
        "a change of no payment", 404, "not_found", None, b'{"amount": 1}', f"/v1/payments/{NO_SUCH_PAYMENT}/increment"
    ),
    Bad("details of no payment", 404, "not_found", None, b'{"details": {}}', f"/v1/payments/{NO_SUCH_PAYMENT}/details"),
    Bad("a dispute that is not there", 404, "not_found", None, b"", f"/v1/disputes/dp_{'0' * 32}", "GET"),
    Bad("evidence in no dispute", 404, "not_found", None, b"{}", f"/v1/disputes/{NUMBER}/evidence"),
    Bad(
        "acceptance without a key", 400, "idempotency_key_missing", None, b"{}", "/v1/disputes/x/accept", headers=NO_KEY
    ),
    Bad("disputes, an unknown status", 422, "validation_failed", "status", b"", "/v1/disputes?status=angry", "GET"),
    Bad("disputes of no payment", 422, "validation_failed", "payment", b"", f"/v1/disputes?payment={NUMBER}", "GET"),
    # Lists.
    filtered("limit 0", "limit=0", "limit"),
    filtered("limit 101", "limit=101", "limit"),
    filtered("limit -1", "limit=-1", "limit"),
    filtered("limit of a word", "limit=all", "limit"),
    filtered("a limit in Arabic digits", "limit=%D9%A1", "limit"),
    filtered("a limit of 5 000 digits", "limit=" + "9" * 5_000, "limit"),
    filtered("a reference with a null character", "reference=%00", "reference"),
    filtered("a currency that is none", "currency=%00", "currency"),
    filtered("a time before all times", "created[gte]=0001-01-01T00:00:00%2B23:59", "created[gte]"),
    filtered("a time after all times", "created[lt]=9999-12-31T23:59:59-23:59", "created[lt]"),
    filtered("an unknown filter", "amount=1999", "amount"),
    filtered("a cursor that is none", "cursor=abc", "cursor"),
    filtered("an unknown status", "status=paid", "status"),
    filtered("a time that is none", "created[gte]=yesterday", "created[gte]"),
    filtered("a time without a zone", "created[lt]=2026-11-01T00:00:00", "created[lt]"),
    filtered("an unknown expansion", "expand[]=secrets", "expand[]"),
    # Payment methods and customers of their own.
    wrong_method("a method of an unknown type", "type", type="cash"),
    wrong_method("a card method without a card", "card", card=OMITTED),
    wrong_method("a card method with tokens", "tokens", tokens={"stripe": "pm_1"}),
    wrong_method("a token method with a card", "card", type="token"),
    wrong_method("a token method without tokens", "tokens", type="token", card=OMITTED),
    wrong_method("a token method with no token", "tokens", type="token", card=OMITTED, tokens={}),
    wrong_method("a token that is no text", "tokens", type="token", card=OMITTED, tokens={NUMBER: 1}),
    wrong_method("a token at an account that is not there", "tokens", type="token", card=OMITTED, tokens={"x": "tok"}),
    wrong_method("a token at a card number", "tokens", type="token", card=OMITTED, tokens={NUMBER: "tok"}),
    wrong_method(
        "a stored number whose check digit is wrong", "card.number", card=CARD | {"number": NUMBER[:-1] + "1"}
    ),
    wrong_method("a stored card with an unknown field", "card.nmber", card=CARD | {"nmber": NUMBER}),
    wrong_method("a stored card of a customer that is not there", "customer", customer="cus_" + "0" * 32),
    wrong_method("a verification without a currency", "currency", verify=True),
    wrong_method("a verification in gold", "currency", verify=True, currency="XAU"),
    wrong_method("a currency without a verification", "currency", currency="EUR"),
    wrong_method("a route without a verification", "routing", routing={"account": "stripe"}),
    wrong_method(
        "a verification at an account that is not there",
        "routing.account",
        code="no_eligible_account",
        verify=True,
        currency="EUR",
        routing={"account": "nobody"},
    ),
    wrong_customer("a customer with an unknown field", "mail", mail="ada@example.com"),
    wrong_customer("a customer whose name is a number", "name", name=int(NUMBER)),
    wrong_customer("a customer whose metadata is no text", "metadata", metadata={"card": int(NUMBER)}),
    Bad("a customer without a key", 400, "idempotency_key_missing", None, b"{}", "/v1/customers", headers=NO_KEY),
    Bad("a method without a key", 400, "idempotency_key_missing", path="/v1/payment_methods", headers=NO_KEY),
    Bad("a method that is not there", 404, "not_found", None, b"", f"/v1/payment_methods/{NO_SUCH_METHOD}", "GET"),
    Bad("a deletion of a method that is not there", 404, "not_found", None, b"", "/v1/payment_methods/pm_1", "DELETE"),
    Bad(
        "a change of a method that is not there", 404, "not_found", None, b"{}", f"/v1/payment_methods/{NO_SUCH_METHOD}"
    ),
    Bad("a customer that is not there", 404, "not_found", None, b"", f"/v1/customers/cus_{'0' * 32}", "GET"),
    Bad("a deletion of a customer id that is none", 404, "not_found", None, b"", f"/v1/customers/{NUMBER}", "DELETE"),
    Bad("a change of a customer", 405, "method_not_allowed", None, b"{}", f"/v1/customers/cus_{'0' * 32}"),
    Bad("methods, limit 0", 422, "validation_failed", "limit", b"", "/v1/payment_methods?limit=0", "GET"),
    Bad("methods, another cursor", 422, "validation_failed", "cursor", b"", "/v1/payment_methods?cursor=pay_1", "GET"),
    Bad("methods, an unknown filter", 422, "validation_failed", "bin", b"", "/v1/payment_methods?bin=424242", "GET"),
    Bad("customers, an unknown filter", 422, "validation_failed", "email", b"", "/v1/customers?email=a", "GET"),
    Bad(
        "customers, a null character", 422, "validation_failed", "reference", b"", "/v1/customers?reference=%00", "GET"
    ),
]
IDS: Final = [bad.name.replace(" ", "_") for bad in REQUESTS]


def test_the_table_names_each_request_once() -> None:
    assert len(set(IDS)) == len(REQUESTS) >= 40


async def test_what_cannot_be_right_is_answered_with_its_exact_problem_and_nothing_else_happens(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    """One application, one table: a row that is wrong is reported with all others that are."""
    faults = []

    async with open_gateway() as inside:
        for bad in REQUESTS:
            headers: dict[str, str | bytes] = {
                "Authorization": f"Bearer {SECRET}",
                "Idempotency-Key": "order-1",
                **bad.headers,
            }
            sent = {name: value for name, value in headers.items() if value != OMITTED}
            answer = await inside.merchant.http.request(bad.method, bad.path, content=bad.content, headers=sent)  # type: ignore[arg-type]  # httpx takes both
            problem = answer.json()
            told = (answer.status_code, problem.get("code"), problem.get("param"))
            said = answer.text + str(answer.headers)
            faults += [f"{bad.name}: {told}"] if told != (bad.status, bad.code, bad.param) else []
            faults += [f"{bad.name}: {name} missing" for name in _MEMBERS if name not in problem]
            faults += [f"{bad.name}: echoes {text}" for text in _NEVER_SAID if text in said]
            if answer.headers["Content-Type"] != "application/problem+json":
                faults.append(f"{bad.name}: {answer.headers['Content-Type']}")
            if problem.get("request_id") != answer.headers["Request-Id"]:
                faults.append(f"{bad.name}: request id")

    assert faults == []
    assert psps.nobody_was_asked()
    assert set(database.row_counts().values()) == {0}


_MEMBERS: Final = ("type", "title", "status", "detail", "code", "param", "retryable", "request_id")
_NEVER_SAID: Final = (
    NUMBER,
    NUMBER[:12],
    "424242424",
    "4242 4242",
    "٤٢٤٢",
    SECRET,
    "pk_test_dev",
    "Traceback",
    "gateway/",
)


@pytest.mark.parametrize("chunks", [1, 5])
async def test_a_body_is_measured_as_it_arrives_when_its_length_is_not_told(
    chunks: int, open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:

        async def content() -> Any:
            for _ in range(chunks):
                yield b" " * (65_536 // chunks + 1)

        headers = {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": "order-1"}
        answer = await inside.merchant.http.post("/v1/payments", content=content(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert psps.nobody_was_asked()


async def test_a_refused_request_leaves_its_key_free_for_the_right_one(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        refused = await inside.merchant.charge(key="order-1", amount=0)
        answer = await inside.merchant.charge(key="order-1")

    assert (refused.status_code, answer.status_code) == (422, 201)


async def test_the_largest_request_that_is_right_is_taken(open_gateway: Open, flow: type[Kit]) -> None:
    fields = flow.body(
        amount=999_999_99,
        reference="r" * 255,
        description="d" * 1000,
        metadata={f"key-{number}": "v" * 500 for number in range(50)},
        billing_details={"name": "n" * 255, "address": {"country": "DE", "line1": "ä" * 255}},
    )

    async with open_gateway() as inside:
        answer = await inside.merchant.post("/v1/payments", fields, key='"' + "k" * 255 + '"')

    assert answer.status_code == 201, answer.text
    assert answer.json()["metadata"] == fields["metadata"]
