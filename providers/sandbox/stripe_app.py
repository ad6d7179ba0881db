"""The simulated Stripe as an ASGI application: its routes, credentials and dialect."""

import base64
import binascii
import hmac
import time
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer, bad_gateway
from providers.sandbox.books import Books
from providers.sandbox.clock import Clock
from providers.sandbox.config import SandboxConfig
from providers.sandbox.control import Room, application
from providers.sandbox.desk import Call, Desk, Verb, json_answer, objects_in
from providers.sandbox.faults import Faults, Rule, retry_after
from providers.sandbox.keys import STRIPE_KEY_LIFE_S, Keys
from providers.sandbox.postman import Postman
from providers.sandbox.signatures import stripe_signature
from providers.sandbox.stripe_form import decode_form
from providers.sandbox.stripe_intents import Features
from providers.sandbox.stripe_objects import API_VERSION
from providers.sandbox.stripe_psp import StripePsp
from providers.sandbox.wire_log import WireLog

KEY_LENGTH_MAX = 255
_AMOUNT_FIELDS = ("amount", "amount_received", "amount_capturable", "amount_captured")


class StripeDialect:
    """Form bodies, Bearer keys and Stripe's error objects."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def parse(self, request: Request, body: bytes) -> dict[str, Any]:
        """The parameters of a form body, or of the query string."""
        try:
            text = body.decode() if request.method == "POST" else request.url.query
            return decode_form(text)
        except ValueError:
            raise errors.invalid_request("Invalid request body.") from None

    def authenticate(self, request: Request, params: Mapping[str, Any]) -> Answer | None:
        """Bearer or Basic, as Stripe takes both."""
        shown = _shown_key(request.headers.get("authorization", ""))
        if hmac.compare_digest(shown.encode(), self._api_key.encode()):
            return None
        return errors.wrong_api_key(shown)

    def check_key(self, key: str) -> Answer | None:
        """A key has at most 255 characters."""
        if len(key) <= KEY_LENGTH_MAX:
            return None
        message = f"Idempotency keys can be at most {KEY_LENGTH_MAX} characters long."
        return errors.invalid_request(message).answer

    def in_flight(self) -> Answer:
        """409."""
        return errors.key_in_use()

    def mismatch(self, key: str) -> Answer:
        """400."""
        return errors.key_mismatch(key)

    def failure(self, rule: Rule) -> Answer:
        """The scripted failure in Stripe's words; a 502 comes from a proxy and is no JSON."""
        if rule.fault == "lock_timeout":
            return errors.limited("lock_timeout")
        status, headers = int(rule.parameters["status"]), retry_after(rule)
        match status:
            case 409:
                answer = errors.key_in_use()
            case 429:
                answer = errors.limited("rate_limit")
            case 502 | 504:
                return bad_gateway(status, headers)
            case _:
                answer = errors.api_error(status)
        return Answer(answer.status, answer.body, {**answer.headers, **headers})

    def lie(self, answer: Answer, rule: Rule) -> Answer:
        """The same objects with other amounts or another currency; errors stay as they are."""
        if answer.status != HTTPStatus.OK:
            return answer
        body = orjson.loads(answer.body)
        for lying in objects_in(body):
            if "object" not in lying:
                continue  # metadata may have the same words, and it is the merchant's
            if rule.fault == "wrong_currency" and "currency" in lying:
                lying["currency"] = str(rule.parameters["currency"]).lower()
            for name in _AMOUNT_FIELDS:
                if rule.fault == "wrong_amount" and lying.get(name):
                    lying[name] += rule.parameters["difference"]
        return json_answer(200, body)

    def headers(self, call: Call, first_request_id: str | None) -> dict[str, str]:
        """Request-Id, the version, and what belongs to a key."""
        headers = {
            "Request-Id": call.request_id,
            "Stripe-Version": call.api_version or API_VERSION,
        }
        if call.key is not None:
            headers["Idempotency-Key"] = call.key
            headers["Original-Request"] = first_request_id or call.request_id
        if first_request_id is not None:
            headers["Idempotent-Replayed"] = "true"
        return headers


def _shown_key(authorization: str) -> str:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return credentials.strip() if scheme.lower() == "bearer" else ""


def stripe_app(config: SandboxConfig) -> Starlette:
    """Stripe's API under ``/v1`` and the control paths under ``/_sandbox``."""
    clock = Clock()
    books = Books(clock.now)

    def sign(body: bytes) -> dict[str, str]:
        timestamp = int(time.time())
        return {"Stripe-Signature": stripe_signature(body, config.stripe_webhook_secret, timestamp)}

    postman = Postman(
        url=config.stripe_webhook_url,
        sign=sign,
        delay_s=config.webhook_delay_s,
        attempts_max=config.webhook_attempts_max,
        pause_s=config.webhook_pause_s,
    )
    features = Features(multicapture=config.stripe_multicapture, incremental=config.stripe_incremental_authorization)
    psp = StripePsp(books, postman, settles_after_s=config.refund_settles_after_s, features=features, time=clock.now)
    desk = Desk(
        dialect=StripeDialect(config.stripe_api_key),
        books=books,
        wire=WireLog(config.wire_log_max),
        faults=Faults("stripe"),
        keys=Keys(config.keys_max, compare=True, life_s=STRIPE_KEY_LIFE_S),
        postman=postman,
        clock=clock,
    )
    return application(Room(desk, psp), _routes(desk, psp))


def _routes(desk: Desk, psp: StripePsp) -> list[Route]:
    def subject(operation: str) -> Any:
        return partial(psp.subject, operation)

    intents, setups, methods, refunds, disputes = psp.intents, psp.setups, psp.methods, psp.refunds, psp.disputes
    table = [
        ("POST", "/v1/payment_intents", Verb(psp.create_subject, intents.create_intent)),
        ("GET", "/v1/payment_intents", Verb(subject("lookup"), intents.list_intents)),
        ("GET", "/v1/payment_intents/{id}", Verb(subject("lookup"), intents.retrieve_intent)),
        ("POST", "/v1/payment_intents/{id}/confirm", Verb(subject("authorize"), intents.confirm)),
        ("POST", "/v1/payment_intents/{id}/capture", Verb(subject("capture"), intents.capture)),
        ("POST", "/v1/payment_intents/{id}/increment_authorization", Verb(subject("increment"), intents.increment)),
        ("POST", "/v1/payment_intents/{id}/cancel", Verb(subject("void"), intents.cancel)),
        ("POST", "/v1/setup_intents", Verb(psp.create_subject, setups.create)),
        ("GET", "/v1/setup_intents", Verb(subject("lookup"), setups.list)),
        ("GET", "/v1/setup_intents/{id}", Verb(subject("lookup"), setups.retrieve)),
        ("POST", "/v1/setup_intents/{id}/confirm", Verb(subject("authorize"), setups.confirm)),
        ("POST", "/v1/setup_intents/{id}/cancel", Verb(subject("void"), setups.cancel)),
        ("GET", "/v1/charges/{id}", Verb(subject("lookup"), refunds.retrieve_charge)),
        ("POST", "/v1/refunds", Verb(subject("refund"), refunds.create_refund)),
        ("GET", "/v1/refunds", Verb(subject("lookup"), refunds.list_refunds)),
        ("GET", "/v1/refunds/{id}", Verb(subject("lookup"), refunds.retrieve_refund)),
        ("GET", "/v1/disputes", Verb(subject("lookup"), disputes.list)),
        ("GET", "/v1/disputes/{id}", Verb(subject("lookup"), disputes.retrieve)),
        ("POST", "/v1/disputes/{id}", Verb(subject("defend"), disputes.update)),
        ("POST", "/v1/disputes/{id}/close", Verb(subject("accept"), disputes.close)),
        ("POST", "/v1/payment_methods", Verb(subject("tokenize"), methods.create_payment_method)),
        ("GET", "/v1/payment_methods/{id}", Verb(subject("lookup"), methods.retrieve_payment_method)),
        ("POST", "/v1/payment_methods/{id}/attach", Verb(subject("tokenize"), methods.attach)),
        ("POST", "/v1/payment_methods/{id}/detach", Verb(subject("tokenize"), methods.detach)),
        ("POST", "/v1/customers", Verb(subject("other"), methods.create_customer)),
        ("GET", "/v1/customers/{id}", Verb(subject("lookup"), methods.retrieve_customer)),
        ("POST", "/v1/customers/{id}", Verb(subject("other"), methods.update_customer)),
        ("DELETE", "/v1/customers/{id}", Verb(subject("other"), methods.delete_customer)),
        ("GET", "/v1/customers/{id}/payment_methods", Verb(subject("lookup"), methods.list_of_customer)),
        ("GET", "/v1/{path:path}", Verb(subject("other"), _unknown_path)),
        ("POST", "/v1/{path:path}", Verb(subject("other"), _unknown_path)),
    ]
    return [Route(path, partial(desk.serve, verb=verb), methods=[method]) for method, path, verb in table]


def _unknown_path(call: Call) -> Answer:
    raise errors.invalid_request(
        "Unrecognized request URL. If you are trying to list objects, remove the trailing slash. "
        "If you are trying to retrieve an object, make sure you passed a valid (non-empty) "
        "identifier in your code.",
        status=404,
    )
