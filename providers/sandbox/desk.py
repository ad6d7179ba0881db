"""The desk every request passes: log, credentials, faults, idempotency key, effect, answer.

The order of the steps is the order at the PSPs: credentials and scripted outages stand before the
idempotency layer, the effect behind it, and whatever happens to the answer on its way back leaves
the kept answer as it was. So a replay after a lost answer gives the truth.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from providers.sandbox.answers import (
    Answer,
    DrippingResponse,
    HangingResponse,
    ResetResponse,
    TruncatedResponse,
)
from providers.sandbox.books import Books
from providers.sandbox.clock import Clock
from providers.sandbox.faults import Faults, Rule, Subject
from providers.sandbox.keys import Claim, Keys
from providers.sandbox.postman import Postman
from providers.sandbox.wire_log import WireEntry, WireLog


@dataclass(slots=True)
class Call:
    """One request, as the verbs see it."""

    params: dict[str, Any]
    path_id: str
    key: str | None
    request_id: str
    base_url: str
    api_version: str | None
    take_decision: Callable[[], Rule | None]
    """The scripted decision for this request, if any; ask once, where the decision is made."""
    events: list[tuple[str, str, bytes]] = field(default_factory=list)
    """(event id, kind, body) of the webhooks this request causes."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One endpoint: what a request to it is about, and what it does.

    ``subject`` looks and never refuses; it also names the card for the log. ``act`` does all or
    nothing in one step without an await, so no two requests can interleave within it.
    """

    subject: Callable[[dict[str, Any], str], tuple[Subject, str | None]]
    act: Callable[[Call], Answer]


class RefusedError(Exception):
    """A request that got an error; ``kept`` is whether its idempotency key remembers that."""

    def __init__(self, answer: Answer, *, kept: bool) -> None:
        super().__init__(answer.status)
        self.answer = answer
        self.kept = kept


class Dialect(Protocol):
    """How one PSP reads requests and words its errors."""

    def parse(self, request: Request, body: bytes) -> dict[str, Any]:
        """The parameters; raises RefusedError for a body that cannot be read."""

    def authenticate(self, request: Request, params: Mapping[str, Any]) -> Answer | None:
        """The refusal for wrong credentials, or None."""

    def check_key(self, key: str) -> Answer | None:
        """The refusal for an idempotency key that cannot be one, or None."""

    def in_flight(self) -> Answer:
        """The answer while the first request under a key is still running."""

    def mismatch(self, key: str) -> Answer:
        """The answer to another request under a used key."""

    def failure(self, rule: Rule) -> Answer:
        """The answer of a scripted failure that has a status."""

    def lie(self, answer: Answer, rule: Rule) -> Answer:
        """The same answer with another amount or currency in it."""

    def headers(self, call: Call, first_request_id: str | None) -> dict[str, str]:
        """Headers of every answer; ``first_request_id`` is set on a replay."""


def header_key(request: Request, params: Mapping[str, Any]) -> str | None:
    """The ``Idempotency-Key`` header of a POST; other methods have no key."""
    return request.headers.get("idempotency-key") if request.method == "POST" else None


@dataclass(slots=True)
class Desk:
    """Everything one simulated PSP has, but for its own objects."""

    dialect: Dialect
    books: Books
    wire: WireLog
    faults: Faults
    keys: Keys
    postman: Postman
    clock: Clock = field(default_factory=Clock)
    key_of: Callable[[Request, Mapping[str, Any]], str | None] = header_key
    """Where this PSP looks for the idempotency key of a request that was read."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at shutdown: requests that hang by a fault let go."""

    async def serve(self, request: Request, verb: Verb) -> Response:
        """Answer one API request, whatever is scripted for it."""
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)
        entry = self.wire.open(
            method=request.method,
            path=request.url.path,
            key=header_key(request, {}),
            body_sha256=hashlib.sha256(body).hexdigest(),
        )
        call = Call(
            params={},
            path_id=request.path_params.get("id", ""),
            key=entry.key,
            request_id="req_" + secrets.token_hex(7),
            base_url=f"{request.url.scheme}://{request.headers.get('host', '127.0.0.1')}",
            api_version=request.headers.get("stripe-version"),
            take_decision=lambda: None,
        )
        try:
            call.params = self.dialect.parse(request, body)
        except RefusedError as refused:
            return self._respond(refused.answer, call, entry, None)
        call.key = entry.key = self.key_of(request, call.params)
        subject, card = verb.subject(call.params, call.path_id)
        entry.operation, entry.reference, entry.card = subject.operation, subject.reference, card
        call.take_decision = lambda: self._take("decision", subject, entry)
        refusal = self.dialect.authenticate(request, call.params)
        if refusal is not None:
            return self._respond(refusal, call, entry, None)
        return await self._serve_authentic(call, verb, subject, entry, body)

    async def _serve_authentic(
        self, call: Call, verb: Verb, subject: Subject, entry: WireEntry, body: bytes
    ) -> Response:
        fault = self._take("answer", subject, entry)
        if fault is not None and fault.kind.before_effect:
            return self._fail_before(fault, call, entry)
        answer, first_request_id = await self._decide(call, verb, subject, entry, fault=fault, body=body)
        self._post_events(call, subject, entry)
        if fault is None:
            return self._respond(answer, call, entry, first_request_id)
        if fault.fault == "wrong_reference":
            answer = _about_another(answer, str(fault.parameters["instead_of"] or subject.reference or ""))
            return self._respond(answer, call, entry, first_request_id)
        return await self._fail_after(fault, answer, call, entry, first_request_id)

    def _take(self, group: Any, subject: Subject, entry: WireEntry) -> Rule | None:
        rule = self.faults.take(group, subject, self.clock.now())
        if rule is not None:
            entry.applied(rule.fault)
        return rule

    def _fail_before(self, fault: Rule, call: Call, entry: WireEntry) -> Response:
        """Nothing happens here but the failure: no effect, and no key is claimed."""
        match fault.fault:
            case "timeout_before_effect":
                return HangingResponse(self.closing)
            case "reset_before_effect":
                return ResetResponse()
            case _:
                return self._respond(self.dialect.failure(fault), call, entry, None)

    async def _decide(
        self,
        call: Call,
        verb: Verb,
        subject: Subject,
        entry: WireEntry,
        *,
        fault: Rule | None,
        body: bytes,
    ) -> tuple[Answer, str | None]:
        """The true answer: the kept one of the key, or that of running the verb now."""
        if call.key is None:
            await self._linger(subject, entry)
            return self._run(call, verb, fault)[0], None
        refusal = self.dialect.check_key(call.key)
        if refusal is not None:
            return refusal, None
        fingerprint = hashlib.sha256(f"{entry.path}\n".encode() + _canonical(body)).hexdigest()
        claim = self.keys.claim(call.key, fingerprint, call.request_id, self.clock.now())
        if isinstance(claim, tuple):
            entry.replayed = True
            await self._linger(subject, entry)
            return claim
        if claim is Claim.IN_FLIGHT:
            return self.dialect.in_flight(), None
        if claim is Claim.MISMATCH:
            return self.dialect.mismatch(call.key), None
        try:
            # The key is held meanwhile: this is where a second request finds the first in flight.
            await self._linger(subject, entry)
            answer, kept = self._run(call, verb, fault)
            if kept:
                self.keys.keep(call.key, answer)
        finally:
            self.keys.release(call.key)
        return answer, None

    async def _linger(self, subject: Subject, entry: WireEntry) -> None:
        rule = self._take("latency", subject, entry)
        if rule is not None:
            await asyncio.sleep(rule.parameters["latency_ms"] / 1000)

    def _run(self, call: Call, verb: Verb, fault: Rule | None) -> tuple[Answer, bool]:
        try:
            answer, kept = verb.act(call), True
        except RefusedError as refused:
            answer, kept = refused.answer, refused.kept
        if fault is not None and fault.fault == "error_after_effect":
            # The PSP itself stumbled behind the effect, so this error is what its key remembers.
            return self.dialect.failure(fault), True
        return answer, kept

    def _post_events(self, call: Call, subject: Subject, entry: WireEntry) -> None:
        if not call.events:
            return
        rule = self._take("webhook", subject, entry)
        for position, (event, kind, body) in enumerate(call.events):
            self.postman.post(event=event, kind=kind, body=body, fault=rule, position=position)

    async def _fail_after(
        self, fault: Rule, answer: Answer, call: Call, entry: WireEntry, first: str | None
    ) -> Response:
        """The effect stands and its answer is kept; what the caller gets is something else."""
        headers = dict(answer.headers) | self.dialect.headers(call, first)
        parameters = fault.parameters
        match fault.fault:
            case "timeout_after_effect":
                return HangingResponse(self.closing)
            case "reset_after_effect":
                return ResetResponse()
            case "slow_answer":
                await asyncio.sleep(parameters["latency_ms"] / 1000)
            case "truncated":
                entry.answer(answer.status)
                return TruncatedResponse(answer.body, answer.status, headers, answer.media_type)
            case "drip":
                entry.answer(answer.status)
                pause_s = parameters["latency_ms"] / 1000
                return DrippingResponse(answer, headers, pause_s, parameters["chunks"])
            case "garbage":
                body = str(parameters["body"]).encode()
                answer = Answer(parameters["status"], body, answer.headers)
            case "empty":
                answer = Answer(parameters["status"], b"", answer.headers)
            case "wrong_amount" | "wrong_currency":
                answer = self.dialect.lie(answer, fault)
            case "error_after_effect":
                answer = self.dialect.failure(fault)
            case _:
                raise AssertionError(fault.fault)
        return self._respond(answer, call, entry, first)

    def _respond(self, answer: Answer, call: Call, entry: WireEntry, first: str | None) -> Response:
        entry.answer(answer.status)
        headers = dict(answer.headers) | self.dialect.headers(call, first)
        return Response(answer.body, answer.status, headers, answer.media_type)


def _canonical(body: bytes) -> bytes:
    """A form body with its pairs in one order; JSON as it stands (Adyen's is not compared at all)."""
    if body.startswith(b"{"):
        return body
    return b"&".join(sorted(body.split(b"&")))


def _about_another(answer: Answer, name: str) -> Answer:
    """The same answer with another name of the same length in the place of ``name``, wherever that stands."""
    other = name[:-1] + ("0" if name[-1:] != "0" else "1")
    body = answer.body.replace(name.encode(), other.encode()) if name else answer.body
    return Answer(answer.status, body, answer.headers, answer.media_type)


def objects_in(body: object) -> Iterator[dict[str, Any]]:
    """Every object of a JSON text that was read, the outer ones first: whoever lies does so wherever it is told."""
    if isinstance(body, dict):
        yield body
    if isinstance(body, dict | list):
        for part in body.values() if isinstance(body, dict) else body:
            yield from objects_in(part)


def json_answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, orjson.dumps(body), headers or {})
