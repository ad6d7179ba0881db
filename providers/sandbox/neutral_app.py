"""The neutral PSP as an ASGI application: its routes, credentials and dialect."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from providers.sandbox.answers import Answer, bad_gateway
from providers.sandbox.books import Books
from providers.sandbox.clock import Clock
from providers.sandbox.config import SandboxConfig
from providers.sandbox.control import Room, application
from providers.sandbox.desk import Call, Desk, Verb, json_answer, objects_in
from providers.sandbox.faults import Faults, Rule, retry_after
from providers.sandbox.keys import NEUTRAL_KEY_LIFE_S, Keys
from providers.sandbox.neutral_objects import as_text, as_units
from providers.sandbox.neutral_psp import NeutralPsp, refusal
from providers.sandbox.postman import Postman
from providers.sandbox.wire_log import WireLog

_REQUEST_ID_MAX = 64
_WORDS = {409: "request_running", 429: "slow_down"}


class NeutralDialect:
    """JSON bodies, a bearer token, and the idempotency key as a field of the body."""

    def __init__(self, token: str) -> None:
        self._token = token

    def parse(self, request: Request, body: bytes) -> dict[str, Any]:
        """The JSON object of a body, or the query string's parameters. What changes something needs a ``request_id``."""
        if request.method != "POST":
            return dict(request.query_params)
        try:
            params = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise refusal(400, "not_json", "the body is no JSON") from None
        if not isinstance(params, dict) or not isinstance(params.get("request_id"), str):
            raise refusal(400, "no_request_id", "the body is an object with a request_id")
        return params

    def authenticate(self, request: Request, params: Mapping[str, Any]) -> Answer | None:
        """401 for any token but the account's own."""
        shown = request.headers.get("authorization", "")
        if hmac.compare_digest(shown.encode(), f"Bearer {self._token}".encode()):
            return None
        return refusal(401, "bad_token", "this token is not known here").answer

    def check_key(self, key: str) -> Answer | None:
        """A request id has 1 to 64 characters."""
        if 0 < len(key) <= _REQUEST_ID_MAX:
            return None
        return refusal(422, "bad_request_id", f"request_id has 1 to {_REQUEST_ID_MAX} characters").answer

    def in_flight(self) -> Answer:
        """409: send it again."""
        return refusal(409, "request_running", "the first request of this request_id is still running").answer

    def mismatch(self, key: str) -> Answer:
        """422: a request id says one thing only."""
        return refusal(422, "request_id_reused", "this request_id was used for something else").answer

    def failure(self, rule: Rule) -> Answer:
        """The scripted failure in this PSP's words; a 502 comes from a proxy and is no JSON."""
        status, headers = int(rule.parameters["status"]), retry_after(rule)
        if status in (502, 504):
            return bad_gateway(status, headers)
        answer = refusal(status, _WORDS.get(status, "broken"), "scripted").answer
        return Answer(answer.status, answer.body, {**answer.headers, **headers})

    def lie(self, answer: Answer, rule: Rule) -> Answer:
        """The same charges and moves with other amounts or another currency."""
        body = orjson.loads(answer.body)
        for lying in objects_in(body):
            for name in ("value", "held", "settled"):
                units = as_units(lying.get(name), lying.get("currency"))
                if units is not None and rule.fault == "wrong_amount":
                    lying[name] = as_text(units + int(rule.parameters["difference"]), lying["currency"])
            if rule.fault == "wrong_currency" and "currency" in lying:
                lying["currency"] = str(rule.parameters["currency"]).upper()
        return json_answer(answer.status, body, answer.headers)

    def headers(self, call: Call, first_request_id: str | None) -> dict[str, str]:
        """The id of this request at the PSP; nothing tells a replay from the first answer."""
        return {"x-trace": call.request_id}


def neutral_app(config: SandboxConfig) -> Starlette:
    """The neutral PSP's API under ``/charges`` and ``/releases``, and the control paths under ``/_sandbox``."""
    clock = Clock()
    books = Books(clock.now)

    def sign(body: bytes) -> dict[str, str]:
        return {"x-signature": hmac.new(config.neutral_webhook_secret.encode(), body, hashlib.sha256).hexdigest()}

    psp = NeutralPsp(books, clock.now)
    desk = Desk(
        dialect=NeutralDialect(config.neutral_token),
        books=books,
        wire=WireLog(config.wire_log_max),
        faults=Faults("neutral"),
        keys=Keys(config.keys_max, compare=True, life_s=NEUTRAL_KEY_LIFE_S),
        postman=Postman(
            url=config.neutral_webhook_url,
            sign=sign,
            delay_s=config.webhook_delay_s,
            attempts_max=config.webhook_attempts_max,
            pause_s=config.webhook_pause_s,
        ),
        clock=clock,
        key_of=lambda _, params: params.get("request_id"),
    )
    return application(Room(desk, psp), _routes(desk, psp))


def _routes(desk: Desk, psp: NeutralPsp) -> list[Route]:
    table = [
        ("POST", "/charges", Verb(psp.charge_subject, psp.charge)),
        ("GET", "/charges", Verb(psp.subject("lookup"), psp.find)),
        ("GET", "/charges/{id}", Verb(psp.subject("lookup"), psp.get)),
        ("POST", "/charges/{id}/finish", Verb(psp.subject("authorize"), psp.finish)),
        ("POST", "/charges/{id}/settle", Verb(psp.subject("capture"), psp.settle)),
        ("POST", "/charges/{id}/release", Verb(psp.subject("void"), psp.release)),
        ("POST", "/charges/{id}/give_back", Verb(psp.subject("refund"), psp.give_back)),
        ("POST", "/releases", Verb(psp.subject("void"), psp.release_by_reference)),
    ]
    return [Route(path, partial(desk.serve, verb=verb), methods=[method]) for method, path, verb in table]
