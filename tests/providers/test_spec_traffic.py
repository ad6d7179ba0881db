"""The conformance suite once more, with every word on the wire held to the PSPs' published specifications.

Each request of ours, each answer of the simulators and each webhook they send is validated after the case that caused it. So
neither side can drift: an adapter that sends what the PSP does not take, and a simulator that answers what it never would,
fail alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types

from providers.conformance import (
    Authorizations,
    Challenges,
    Disputes,
    Faults,
    FollowUps,
    Lookups,
    Replays,
    StoredCredentials,
    UnderTest,
    Webhooks,
)
from providers.transport import Reply, Transport


@dataclass
class Exchange:
    """One request with its answer; ``reply`` is ``None`` where none came whole."""

    method: str
    url: str
    body: bytes
    reply: Reply | None = None


class Recorded(Transport):
    """The transport, with a memory."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        super().__init__()
        self.exchanges = exchanges

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply:
        exchange = Exchange(method, url, body)
        self.exchanges.append(exchange)
        exchange.reply = await super().request(method, url, headers, body, timeout_s)
        return exchange.reply


# What no specification describes, by what it looks like, and why it is there. All else is validated.
EXCEPTIONS: Final[Mapping[str, tuple[Callable[[Reply], bool], str]]] = {
    "garbage": (lambda reply: reply.body == b"<<<not json>>>", "a scripted fault: an answer that nobody can read"),
    "empty": (lambda reply: reply.body == b"", "a scripted fault: an answer without a body"),
    "proxy": (
        lambda reply: reply.headers.get("content-type", "").startswith("text/html"),
        "a scripted 502 is a page of the proxy in front of the PSP, not of the PSP",
    ),
}
INVALID: Final = "invalid"
UNLISTED: Final[Mapping[str, frozenset[int]]] = {"adyen": frozenset({409, 429, 503})}
"""Statuses that the prose documents and the specification does not list: their bodies are held to ``ServiceError``."""
ADDED_DATA: Final = "additionalData"
"""Adyen's webhook schemas forbid what its own examples hold there (7 of 42), so more properties are no offence there."""


class Stripe:
    """Form bodies under ``/v1``, and events whose object is one of the schemas."""

    def __init__(self, published: Any) -> None:
        self.published = published
        self.spec = published.stripe

    def request(self, exchange: Exchange) -> None:
        address = urlsplit(exchange.url)
        _, operation = self.spec.operation(exchange.method, address.path)
        if exchange.method == "GET":
            known = {parameter["name"]: parameter["schema"] for parameter in operation.get("parameters", ())}
            schema = {"type": "object", "properties": known}
            text = address.query
        else:
            schema = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
            text = exchange.body.decode()
        Draft202012Validator(schema).validate(self.published.typed(self.published.form(text), schema))

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        pointer, operation = self.spec.operation(exchange.method, urlsplit(exchange.url).path)
        status = str(reply.status) if str(reply.status) in operation["responses"] else "default"
        self.spec.at(f"{pointer}/responses/{status}/content/application~1json/schema").validate(json.loads(reply.body))

    def webhook(self, body: bytes) -> None:
        event = json.loads(body)
        endpoint = self.spec.document["paths"]["/v1/webhook_endpoints"]["post"]["requestBody"]["content"]
        fields = endpoint["application/x-www-form-urlencoded"]["schema"]["properties"]
        assert event["type"] in fields["enabled_events"]["items"]["enum"]
        self.spec.schema("event").validate(event)
        self.spec.schema(event["data"]["object"]["object"]).validate(event["data"]["object"])


class Adyen:
    """JSON bodies: Checkout under ``/v72``, the Disputes API under its own path, and notifications of one schema a code."""

    def __init__(self, published: Any) -> None:
        self.documents = {"/v72": published.adyen, "/ca/services/DisputeService/v30": published.adyen_disputes}
        self.checkout = published.adyen
        self.webhooks = published.adyen_webhooks

    def described(self, exchange: Exchange) -> tuple[Any, str, Any]:
        """The document that describes a request, where it does, and how."""
        path = urlsplit(exchange.url).path
        prefix = next(prefix for prefix in self.documents if path.startswith(prefix))
        return self.documents[prefix], *self.documents[prefix].operation(exchange.method, path.removeprefix(prefix))

    def request(self, exchange: Exchange) -> None:
        document, pointer, operation = self.described(exchange)
        body = json.loads(exchange.body)
        if "paymentMethod" in body:  # a oneOf over 50 methods, some of which take anything; ours is the card's
            self.checkout.schema("CardDetails").validate(body["paymentMethod"])
        schema = document.at(f"{pointer}/requestBody/content/application~1json/schema")
        assert [each for each in schema.iter_errors(body) if list(each.path) != ["paymentMethod"]] == []
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert set(body) <= set(document.document["components"]["schemas"][name]["properties"])

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        document, pointer, operation = self.described(exchange)
        if str(reply.status) in operation["responses"]:
            schema = document.at(f"{pointer}/responses/{reply.status}/content/application~1json/schema")
        else:
            assert reply.status in UNLISTED["adyen"]
            schema = self.checkout.schema("ServiceError")
        schema.validate(json.loads(reply.body))

    def webhook(self, body: bytes) -> None:
        told = json.loads(body)
        code = told["notificationItems"][0]["NotificationRequestItem"]["eventCode"]
        content = self.webhooks.document["webhooks"][f"/{code}"]["post"]["requestBody"]["content"]
        for problem in self.webhooks.at(content["application/json"]["schema"]["$ref"].removeprefix("#")).iter_errors(
            told
        ):
            assert problem.path[-1] == ADDED_DATA, problem.message
            assert "Additional properties" in problem.message


DIALECTS: Final[Mapping[str, Callable[[Any], Any]]] = {"stripe": Stripe, "adyen": Adyen}


class Traffic(Authorizations, Challenges, FollowUps, StoredCredentials, Disputes, Lookups, Replays, Faults, Webhooks):
    """Every part of the suite that speaks to a PSP."""

    provider: str

    @pytest.fixture
    def exchanges(self) -> list[Exchange]:
        return []

    @pytest_asyncio.fixture
    async def transport(self, exchanges: list[Exchange]) -> AsyncIterator[Transport]:
        pool = Recorded(exchanges)
        yield pool
        await pool.aclose()

    @pytest.fixture
    def psp(self, under_test: Callable[[str], UnderTest]) -> UnderTest:
        return under_test(self.provider)

    @pytest.fixture(autouse=True)
    def held_to_the_specification(
        self, exchanges: list[Exchange], published: Any, sandbox: Any, held: Counter[str]
    ) -> Iterator[None]:
        yield
        dialect = DIALECTS[self.provider](published)

        def check(what: str, validate: Callable[..., None], *said: Any) -> None:
            held[f"{self.provider} {what}"] += 1
            try:
                validate(*said)
            except BaseException:
                held[INVALID] += 1
                raise

        for exchange in exchanges:
            if "/_sandbox/" in exchange.url:
                continue  # the shopper's browser at the challenge page
            check("requests", dialect.request, exchange)
            if exchange.reply is None:
                continue
            why = next((name for name, (seems, _) in EXCEPTIONS.items() if seems(exchange.reply)), None)
            if why is None:
                check("answers", dialect.answer, exchange, exchange.reply)
            else:
                held[f"{self.provider} excepted as {why}"] += 1
        for _, body in list(sandbox.webhooks[self.provider]):
            check("webhooks", dialect.webhook, body)


class TestStripe(Traffic):
    provider = "stripe"


class TestAdyen(Traffic):
    provider = "adyen"


def test_an_offence_is_found(published: Any) -> None:
    """The check itself: a field that Stripe does not take, and an answer that Adyen would not give."""
    wrong = Exchange("POST", "http://psp/v1/refunds", b"payment_intent=pi_1&amuont=5")
    with pytest.raises(KeyError):
        Stripe(published).request(wrong)

    answer = Reply(201, {}, json.dumps({"status": "done", "pspReference": 7}).encode())
    with pytest.raises(Exception, match=r"is not one of|is not of type|is a required property"):
        Adyen(published).answer(Exchange("POST", "http://psp/v72/payments/P/captures", b"{}"), answer)
