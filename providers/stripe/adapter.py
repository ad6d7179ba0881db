"""One Stripe account: the steps of an operation, each under its own key, over the official SDK.

Requests, errors and signatures are the SDK's; only the transport is ours. The SDK's ``raw_request_async`` is used because it
skips the tree of objects that the SDK builds of every answer, which costs more than all the rest of the call.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

import msgspec
import stripe

from providers.contract import (
    Accept,
    Acknowledgement,
    Ask,
    Authorize,
    Call,
    Capture,
    Declined,
    Defend,
    Event,
    Increment,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Refund,
    Unknown,
    Void,
    WebhookRefused,
    derived_key,
    fingerprint_of,
)
from providers.money import Money, MoneyError, to_provider
from providers.registry import AccountConfig, ConfigError
from providers.stripe import asks, events
from providers.stripe.answers import (
    ApiError,
    Made,
    Page,
    UnreadableError,
    failure_of,
    found_refund,
    outcome_of,
    read,
)
from providers.transport import MaybeSent, NotSent, Transport

API_VERSION: Final = "2026-05-27.dahlia"
"""Pinned, so that an upgrade of the SDK cannot change a request that was sent before."""

BASE_URL: Final = "https://api.stripe.com"

LIVE_KEYS: Final = re.compile(r"[sr]k_(live|test)_")
"""A key says itself which mode it is for; one that contradicts the account is refused."""

READ_TIMEOUT_S: Final = 60.0
"""Longest silence on one socket; the deadline of a call is the registry's and shorter."""

PAGE_MAX: Final = 100
PAGES_MAX: Final = 10
"""Pages of one stretch of time that a lookup without an id reads: a busy account must not be read whole."""
NEWEST_MAX: Final = 3
"""Pages of the newest intents: what was just sent again may have made it only now."""

# Latency figures of other calls, sent along with the next one. Not ours to give away.
stripe.enable_telemetry = False

# At level "debug" the SDK writes request bodies, card numbers among them, to its logger.
logging.getLogger("stripe").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class _Step:
    """Something to be made before the call that counts: ``part`` of the request, sent to ``path``, and named by ``param``.

    It moves no money, so no failure of it is Unknown. It has a key of its own that follows from the operation's: after a
    crash the same step finds what it made before.
    """

    part: str
    path: str
    makes: str
    param: str


_STEPS: Final = (
    _Step("card", "/v1/payment_methods", "payment_method", "payment_method"),
    _Step("customer", "/v1/customers", "customer", "customer"),
)


class StripeProvider:
    """One Stripe account. Safe to use from many tasks at once."""

    name = "stripe"
    capabilities = asks.CAPABILITIES
    acknowledgement = Acknowledgement(b'{"received":true}', "application/json")

    def __init__(self, config: AccountConfig, transport: Transport) -> None:
        if "debug" in (os.environ.get("STRIPE_LOG"), stripe.log):
            raise ConfigError("STRIPE_LOG=debug prints card numbers to stderr: unset it")
        api_key = config.api_key.get_secret_value()
        if (mode := LIVE_KEYS.match(api_key)) and (mode[1] == "live") != config.livemode:
            raise ConfigError(f"account {config.name!r} is {config.environment}, its key is {mode[1]}")
        self._secrets = tuple(secret.get_secret_value() for secret in config.webhook_secrets)
        self._livemode = config.livemode
        self._merchant_account = config.merchant_account
        self._client = stripe.StripeClient(
            api_key,
            stripe_version=API_VERSION,
            base_addresses={"api": (config.base_url or BASE_URL).rstrip("/")},
            max_network_retries=0,  # a resend has to be a decision of ours, never a surprise
            http_client=_PooledClient(transport),
        )

    def refuses(self, money: Money) -> str | None:
        """Why Stripe cannot carry exactly this amount, or ``None`` when it can."""
        if not asks.UNITS.tells(money.currency):
            return f"Stripe does not say with how many decimals it takes {money.currency}"
        try:
            to_provider(money, asks.UNITS)
        except MoneyError as error:
            return str(error)
        return None

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        """The exact request for ``ask``: ``path`` and ``params``, and what has to be made or found before."""
        match ask:
            case Authorize():
                return asks.authorize(ask)
            case Capture():
                return asks.capture(ask)
            case Void():
                return asks.void(ask)
            case Refund():
                return asks.refund(ask)
            case Increment():
                return asks.increment(ask)
            case Defend():
                return asks.defend(ask)
            case Accept():
                return asks.accept(ask)
            case _:
                assert_never(ask)

    def completion(self, call: Call, details: Mapping[str, str]) -> Mapping[str, Any]:
        """Read the attempt's intent. Raises :class:`DetailsRefused` without one, or for another payment's details."""
        return asks.completion(call, details)

    async def send(self, call: Call, keep: Keep) -> Outcome:
        """Send ``call`` once.

        What has to be made first is made first; after each step what is left is handed to ``keep``, and only then does the
        next one begin.
        """
        request = call.request
        if request.get("method") == "get":
            return await self._read(call, request, request["path"], request["params"])
        for step in _STEPS:
            if step.part in request:
                made = await self._made(call, step, request[step.part])
                if not isinstance(made, str):
                    return made
                rest = {name: part for name, part in request.items() if name != step.part}
                request = rest | {"params": {**request["params"], step.param: made}}
                await keep(request)
        if "attempt" in request:
            found = await self._find(request["attempt"], call)
            if not isinstance(found, str):
                # Nobody knows what to cancel. Nor did an earlier send: it would have kept the handle before the cancel left.
                return NotProcessed("not_sent", found.provider_code, conclusive=True)
            request = asks.cancel(found)
            await keep(request)
        sent = await self._post(call.kind, request["path"], request["params"], call.key)
        return sent if not isinstance(sent, bytes) else outcome_of(call, request, sent)

    async def lookup(self, call: Call) -> Outcome:
        """Ask what became of ``call``. Nothing found is ``Unknown``: it may still be on its way."""
        request = call.request
        if call.kind in (Kind.DEFEND, Kind.ACCEPT):
            return await self._read(call, request, f"/v1/disputes/{asks.escaped(request['dispute'])}", {})
        if call.kind is Kind.REFUND:
            params = {"payment_intent": request["payment"], "limit": PAGE_MAX}
            return await self._read(call, request, "/v1/refunds", params, reader=found_refund)
        intent = call.provider_id if call.kind is Kind.AUTHORIZE else request.get("payment")
        if not intent:
            found = await self._find(request.get("attempt", call.operation_id), call)
            if not isinstance(found, str):
                return found
            intent = found
        request = {"params": {}, **request, "payment": intent}
        return await self._read(call, request, asks.object_path(intent), {"expand": asks.expand_of(intent)})

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        """Prove the raw bytes by any of the configured secrets, and that they are an event of this account and mode.

        A platform's endpoint also hears of its connected accounts, and of their tests: https://docs.stripe.com/connect/webhooks
        """
        secret = events.verify(headers, body, self._secrets)
        event = events.event_in(body)
        if event.livemode is not None and event.livemode != self._livemode:
            raise WebhookRefused("the event is of the other mode, test or live", "another_mode")
        if event.account is not None and event.account != self._merchant_account:
            raise WebhookRefused("the event is of another account, one that is connected", "another_account")
        return fingerprint_of(secret)

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        """The one event of a body that was verified before."""
        return [events.translated(events.event_in(body))]

    async def _made(self, call: Call, step: _Step, params: Mapping[str, Any]) -> str | NotProcessed | Declined:
        """The id of what the step makes."""
        sent = await self._post(call.kind, step.path, params, _step_key(call.key, step.makes))
        if isinstance(sent, bytes):
            try:
                made = read(sent, Made)
            except UnreadableError:
                return NotProcessed("not_sent")
            return made.id if made.object == step.makes else NotProcessed("not_sent")
        if isinstance(sent, Unknown):
            return NotProcessed("not_sent", sent.provider_code)
        return sent

    async def _find(self, operation: str, call: Call) -> str | Unknown:
        """The intent that carries the name of an operation, among those made when it was opened, and among the newest.

        A list and not the search: that one lags behind what was just written, up to an hour
        (https://docs.stripe.com/search#data-freshness).
        """
        path = asks.list_path(call.amount)
        for stretch in asks.stretches(call.opened_at):
            found = await self._named(operation, path, stretch, PAGES_MAX)
            if found is not None:
                return found
        return await self._named(operation, path, {}, NEWEST_MAX) or Unknown("not_found")

    async def _named(self, operation: str, path: str, stretch: Mapping[str, Any], pages: int) -> str | Unknown | None:
        """The intent that carries the name of an operation, on so many pages of one stretch of time; ``None`` where it is not there."""
        params = {"limit": PAGE_MAX, **stretch}
        for _ in range(pages):
            body = await self._get(path, params)
            if isinstance(body, Unknown):
                return body
            try:
                page = read(body, Page)
            except UnreadableError:
                return Unknown("unreadable")
            if found := page.named(operation):
                return found
            if not page.has_more or not page.data:
                break
            params = {"limit": PAGE_MAX, **stretch, "starting_after": page.data[-1].id}
        return None

    async def _read(
        self,
        call: Call,
        request: Mapping[str, Any],
        path: str,
        params: Mapping[str, Any],
        reader: Callable[[Call, Mapping[str, Any], bytes], Outcome] = outcome_of,
    ) -> Outcome:
        body = await self._get(path, params)
        return body if isinstance(body, Unknown) else reader(call, request, body)

    async def _get(self, path: str, params: Mapping[str, Any]) -> bytes | Unknown:
        """The body of what is there. Whatever fails, reading proves nothing and may be done again."""
        try:
            return _whole(await self._client.raw_request_async("get", path, **params))
        except (NotSent, MaybeSent) as error:
            return Unknown("lookup_failed", resend=True, provider_code=type(error).__name__)
        except stripe.StripeError as error:
            return Unknown("lookup_failed", provider_code=type(error).__name__)

    async def _post(
        self, kind: Kind, path: str, params: Mapping[str, Any], key: str
    ) -> bytes | NotProcessed | Declined | Unknown:
        """The body of a 2xx, or what the failure means."""
        try:
            response = await self._client.raw_request_async("post", path, idempotency_key=key, **params)
        except NotSent:
            return NotProcessed("not_sent")
        except MaybeSent:
            return Unknown("connection_lost", resend=True)
        except stripe.StripeError as error:
            return failure_of(error.http_status or 0, _details(error), kind)
        return _whole(response)


def _step_key(key: str, step: str) -> str:
    """The key of one step of an operation."""
    return derived_key(f"{key}/{step}".encode())


def _details(error: stripe.StripeError) -> ApiError:
    """What the error says of itself. The SDK sets ``err.code`` for half of its classes only."""
    body = error.json_body if error.error else None
    try:
        return msgspec.convert(body["error"], ApiError) if isinstance(body, dict) else ApiError()
    except msgspec.ValidationError:
        return ApiError()


class _PooledClient(stripe.HTTPClient):
    """The SDK's public seam for a transport. The transport's two exceptions pass through it."""

    name = "interlock"

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body = (post_data or "").encode()
        reply = await self._transport.request(method.upper(), url, headers, body, READ_TIMEOUT_S)
        if 200 <= reply.status < 300:
            # We read the raw bytes ourselves, once. The SDK would parse them into a tree that nobody looks at, and format
            # them for a debug log that is off: a quarter of the whole call (docs/performance.md).
            return b"{}", reply.status, _Answered(reply.headers, reply.body)
        return _utf8(reply.body), reply.status, reply.headers


class _Answered(Mapping[str, str]):
    """The headers of a 2xx, which the SDK hands back as they are, with the body that belongs to them."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self._headers = headers
        self.body = body

    def __getitem__(self, name: str) -> str:
        return self._headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


def _whole(response: Any) -> bytes:
    """The body of a 2xx as it arrived."""
    answered: _Answered = response.headers
    return answered.body


def _utf8(body: bytes) -> bytes:
    """The body, with marks where it is not UTF-8: the SDK would raise something else than its own."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode(errors="replace").encode()
    return body
