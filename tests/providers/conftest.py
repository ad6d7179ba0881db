"""A loopback server that misbehaves on purpose, the sandbox PSPs, and accounts at both."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import Request, urlopen

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from providers import conformance, contract
from providers.adyen import AdyenProvider
from providers.contract import (
    Accept,
    Ask,
    Authorize,
    Call,
    Capture,
    Card,
    Defend,
    Increment,
    Kind,
    Refund,
    Token,
    Void,
)
from providers.declines import Action
from providers.money import Money
from providers.neutral import NeutralProvider
from providers.registry import Account, AccountConfig
from providers.sandbox import SandboxConfig, serve
from providers.sandbox.signatures import adyen_signature, stripe_signature
from providers.stripe import StripeProvider
from providers.transport import Transport

PROVIDERS: dict[str, Any] = {"stripe": StripeProvider, "adyen": AdyenProvider}
ADAPTERS: dict[str, Any] = {**PROVIDERS, "neutral": NeutralProvider}


# --- A server of our own ------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """One connection, as a fault sees it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def say(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def answer(self, status: int, body: bytes | object = b"", headers: Mapping[str, str] = {}) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await self.say("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)

    def reset(self) -> None:
        """RST instead of FIN: what a crashed peer or a firewall does."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


Behaviour = Callable[[Line], Awaitable[None]]


@dataclass
class Loopback:
    """Plays ``script`` in order, its last entry for ever."""

    script: list[Behaviour] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    server: asyncio.Server | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        assert self.server is not None
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def will(self, *behaviours: Behaviour) -> None:
        self.script[:] = behaviours

    def will_answer(self, status: int, body: bytes | object = b"", headers: Mapping[str, str] = {}) -> None:
        self.will(lambda line: line.answer(status, body, headers))

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._converse(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.seen.append(Seen(method, path, headers, body))
                behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                await behaviour(Line(writer))
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        assert self.server is not None
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # closed connections are torn down in the loop's next round


@pytest_asyncio.fixture
async def loopback() -> AsyncIterator[Loopback]:
    server = Loopback()
    await server.open()
    yield server
    await server.close()


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    pool = Transport()
    yield pool
    await pool.aclose()


@pytest_asyncio.fixture
async def hasty() -> AsyncIterator[Transport]:
    """Gives up on a connection soon, for tests in which nobody answers. A busy machine may need as long for one that is answered."""
    pool = Transport(connect_timeout_s=0.3)
    yield pool
    await pool.aclose()


# --- Accounts -----------------------------------------------------------------------------------

STRIPE_SECRET = "whsec_sandbox"
HMAC_KEY = SandboxConfig().adyen_hmac_key
NEUTRAL_SECRET = SandboxConfig().neutral_webhook_secret
MERCHANT_ACCOUNT = SandboxConfig().adyen_merchant_account


def config(provider: str, base_url: str, **changes: Any) -> AccountConfig:
    secret = {"stripe": STRIPE_SECRET, "adyen": HMAC_KEY, "neutral": NEUTRAL_SECRET}[provider]
    key = {"stripe": "sk_test_sandbox", "adyen": "adyen_test_sandbox", "neutral": "neutral_test_sandbox"}[provider]
    given = {
        "name": provider,
        "merchant": "mer_dev",
        "provider": provider,
        "api_key": SecretStr(key),
        "webhook_secrets": (SecretStr(secret),),
        "base_url": base_url,
        "merchant_account": MERCHANT_ACCOUNT if provider == "adyen" else None,
    }
    return AccountConfig(**(given | changes))


def account_at(provider: str, base_url: str, transport: Transport, **changes: Any) -> Account:
    settings = config(provider, base_url, **changes)
    return Account(settings, ADAPTERS[provider](settings, transport))


@pytest.fixture
def open_account(transport: Transport) -> Callable[..., Account]:
    """``open_account(provider, base_url, over=transport, **config)``."""

    def opened(provider: str, base_url: str, over: Transport = transport, **changes: Any) -> Account:
        return account_at(provider, base_url, over, **changes)

    return opened


# --- The sandbox --------------------------------------------------------------------------------


@dataclass
class Sandbox:
    """The simulators, running beside the tests, and the webhooks they have sent."""

    ports: dict[str, int] = field(default_factory=dict)
    webhooks: dict[str, list[tuple[dict[str, str], bytes]]] = field(
        default_factory=lambda: {name: [] for name in ADAPTERS}
    )

    def url(self, provider: str) -> str:
        return f"http://127.0.0.1:{self.ports[provider]}"

    def control(self, provider: str, path: str, body: object = None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url(provider)}/_sandbox/{path}", data, method=method)
        with urlopen(request) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def books(self, provider: str) -> Any:
        return self.control(provider, "books", method="GET")

    async def webhook(self, provider: str, found: Callable[[bytes], bool]) -> Any:
        """The first webhook whose body is what was asked for; at most 30 s are waited for it."""
        for _ in range(3000):
            for headers, body in self.webhooks[provider]:
                if found(body):
                    return headers, body
            await asyncio.sleep(0.01)
        raise AssertionError(f"no such webhook among {self.webhooks[provider]}")


async def _run_sandbox(sandbox: Sandbox, ready: threading.Event, stop: asyncio.Event) -> None:
    async def receive(request: web.Request) -> web.Response:
        kept = sandbox.webhooks[request.match_info["provider"]]
        kept.append((dict(request.headers), await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/{provider}", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver = f"http://127.0.0.1:{runner.addresses[0][1]}"

    def started(*ports: int) -> None:
        sandbox.ports |= dict(zip(ADAPTERS, ports, strict=True))
        ready.set()

    settings = SandboxConfig(
        stripe_port=0,
        adyen_port=0,
        neutral_port=0,
        stripe_webhook_url=f"{receiver}/stripe",
        stripe_webhook_secret=STRIPE_SECRET,
        adyen_webhook_url=f"{receiver}/adyen",
        neutral_webhook_url=f"{receiver}/neutral",
        adyen_multiple_partial_captures=True,
        refund_settles_after_s=0.05,
        webhook_delay_s=0,
    )
    try:
        await serve(settings, ready=started, stop=stop)
    finally:
        await runner.cleanup()


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    sandbox, ready = Sandbox(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_run_sandbox(sandbox, ready, stop)))
    thread.start()
    assert ready.wait(10), "the sandbox did not start"
    yield sandbox
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    for provider in ADAPTERS:
        running_sandbox.control(provider, "reset")
        running_sandbox.webhooks[provider].clear()
    return running_sandbox


# --- What the conformance suite is given --------------------------------------------------------

# With how many decimals each PSP counts, where it is not two. Written down from their pages a second time and not taken from
# the adapters: https://docs.stripe.com/currencies, https://docs.adyen.com/development-resources/currency-codes
_STRIPE_WHOLE = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_ADYEN_WHOLE = "CVE DJF GNF IDR JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_STRIPE_THREE, _OTHERS_THREE = "BHD JOD KWD OMR TND", "BHD IQD JOD KWD LYD OMR TND"
_NEUTRAL_WHOLE = "BIF CLP DJF GNF HUF ISK JPY KMF KRW PYG RWF TWD UGX VND VUV XAF XOF XPF"
DECIMALS = {
    "stripe": dict.fromkeys(_STRIPE_WHOLE.split(), 0) | dict.fromkeys(_STRIPE_THREE.split(), 3),
    "adyen": dict.fromkeys(_ADYEN_WHOLE.split(), 0) | dict.fromkeys(_OTHERS_THREE.split(), 3),
    "neutral": dict.fromkeys(_NEUTRAL_WHOLE.split(), 0) | dict.fromkeys(_OTHERS_THREE.split(), 3),
}


def decimals_of(provider: str, currency: str) -> int:
    return DECIMALS[provider].get(currency, 2)


def read_amount(provider: str, request: Mapping[str, Any]) -> tuple[Decimal, str]:
    """A composed authorization as the PSP reads it: major units, and the currency in capitals."""
    match provider:
        case "stripe":
            units, currency = request["params"]["amount"], request["params"]["currency"].upper()
        case "adyen":
            units, currency = request["body"]["amount"]["value"], request["body"]["amount"]["currency"]
        case _:
            return Decimal(request["body"]["money"]["value"]), request["body"]["money"]["currency"]
    assert isinstance(units, int)
    return Decimal(units).scaleb(-decimals_of(provider, currency)), currency


INSTRUMENTS: dict[str, dict[conformance.Situation, contract.Instrument]] = {
    "stripe": {
        "approved": Token("pm_card_visa"),
        "declined_soft": Token("pm_card_visa_chargeDeclinedInsufficientFunds"),
        "declined_hard": Token("pm_card_visa_chargeDeclinedStolenCard"),
        "challenge": Token("pm_card_threeDSecure2Required"),
        "disputed": Token("pm_card_createDispute"),
        "card": Card("4242424242424242", 3, 2030, "737", "Ada Lovelace"),
    },
    "adyen": {
        "approved": Token("test_4111111111111111"),
        "declined_soft": Card("4111111111111111", 3, 2030, "737", "NOT_ENOUGH_BALANCE"),
        "declined_hard": Card("4111111111111111", 3, 2030, "737", "CARD_EXPIRED"),
        "challenge": Token("test_4111111111111111"),
        "disputed": Card("4111111111111111", 3, 2030, "737", "chargeback:10.4"),
        "card": Card("4111111111111111", 3, 2030, "737", "Ada Lovelace"),
    },
    "neutral": {
        "approved": Token("ct_ok"),
        "declined_soft": Token("ct_no_funds"),
        "declined_hard": Token("ct_stolen"),
        "challenge": Token("ct_ask_shopper"),
        "card": Card("4242424242424242", 3, 2030, "737"),
    },
}

DEFENSES: dict[str, Mapping[str, Any]] = {
    "stripe": {"text": {"product_description": "A chair", "uncategorized_text": "winning_evidence"}},
    "adyen": {
        "reason": "SupplyDefenseMaterial",
        "documents": (contract.Document("DefenseMaterial", "application/pdf", b"%PDF-1.7"),),
    },
}


ACTIONS: dict[str, Mapping[conformance.Situation, Action]] = {
    "stripe": {"declined_soft": Action.RETRY_LATER, "declined_hard": Action.DO_NOT_RETRY},
    "adyen": {"declined_soft": Action.RETRY_LATER, "declined_hard": Action.ASK_NEW_METHOD},
    "neutral": {"declined_soft": Action.RETRY_LATER, "declined_hard": Action.DO_NOT_RETRY},
}
OPERATIONS_AT: dict[str, Mapping[conformance.Step, str]] = {"stripe": {"completion": "lookup"}}
DIFFERS: dict[str, Mapping[conformance.Difference, str]] = {
    "adyen": {"keeps_the_rest": "with several captures switched on the rest stays authorized until it is canceled"},
    "neutral": {"never_lapses": "a charge is held until it is settled or released"},
}
PROBLEMS: dict[str, Mapping[str, Any]] = {
    "stripe": {"error": {"type": "invalid_request_error", "code": "?", "message": "No such thing."}},
    "adyen": {"status": 422, "errorCode": "?", "message": "No such thing.", "errorType": "validation"},
    "neutral": {"error": {"code": "?", "detail": "no such thing"}},
}


def signed(provider: str, body: bytes) -> tuple[Mapping[str, str], bytes]:
    """The webhook that says this. Adyen signs every item within the body."""
    if provider == "stripe":
        return {"Stripe-Signature": stripe_signature(body, STRIPE_SECRET, int(time.time()))}, body
    if provider == "neutral":
        return {"x-signature": hmac.new(NEUTRAL_SECRET.encode(), body, hashlib.sha256).hexdigest()}, body
    try:
        said = json.loads(body)
        for entry in said["notificationItems"]:
            item = entry["NotificationRequestItem"]
            item["additionalData"]["hmacSignature"] = adyen_signature(item, HMAC_KEY)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}, body
    return {}, json.dumps(said).encode()


def shown_native(action: Mapping[str, Any], *, passed: bool) -> Mapping[str, str]:
    """What Adyen's component in the browser hands over after a fingerprint or a challenge."""
    shown = action["use_adyen_sdk"]
    word = "transStatus" if shown["subtype"] == "challenge" else "threeDSCompInd"
    said = {word: "Y" if passed else "N", "authorisationToken": shown["authorisationToken"]}
    return {"threeDSResult": base64.b64encode(json.dumps(said).encode()).decode()}


@pytest.fixture
def under_test(sandbox: Sandbox, transport: Transport) -> Callable[[str], conformance.UnderTest]:
    """``under_test(provider)``: an account at its simulator, for the conformance suite."""

    def opened(provider: str) -> conformance.UnderTest:
        # The simulators have everything switched on that a PSP does on request.
        on_request = tuple(ADAPTERS[provider].capabilities.on_request)

        def reopen(**changes: Any) -> Account:
            return account_at(provider, sandbox.url(provider), transport, **{"enabled": on_request, **changes})

        def script(operation: str, fault: str, parameters: Mapping[str, Any]) -> None:
            sandbox.control(provider, "faults", {"operation": operation, "fault": fault, **parameters})

        account = reopen()

        async def webhook(found: Callable[[contract.Event], bool]) -> tuple[Mapping[str, str], bytes]:
            def holds(body: bytes) -> bool:
                return any(found(event) for event in account.provider.parse_webhook(body))

            headers, body = await sandbox.webhook(provider, holds)
            return headers, body

        async def shopper(action: Mapping[str, Any], *, passed: bool) -> Mapping[str, str]:
            if "use_adyen_sdk" in action:
                return shown_native(action, passed=passed)
            page = f"{action['redirect_to_url']['url']}?result={'succeeded' if passed else 'failed'}"
            back = await transport.request("GET", page, {}, b"", 5)
            return dict(parse_qsl(urlsplit(back.headers["location"]).query))

        settings = config(provider, sandbox.url(provider))
        return conformance.UnderTest(
            account=account,
            instruments=INSTRUMENTS[provider],
            reopen=reopen,
            api_key=settings.api_key.get_secret_value(),
            webhook_secret=settings.webhook_secrets[0].get_secret_value(),
            reads=lambda request: read_amount(provider, request),
            decimals=lambda currency: decimals_of(provider, currency),
            script=script,
            operations=OPERATIONS_AT.get(provider, {}),
            problem=lambda code: json.dumps(PROBLEMS[provider]).replace("?", code),
            keys=lambda: [seen["key"] for seen in sandbox.control(provider, "requests", method="GET")["requests"]],
            books=lambda: sandbox.books(provider),
            webhook=webhook,
            sign=lambda body: signed(provider, body),
            shopper=shopper,
            advance=lambda seconds: sandbox.control(provider, "clock", {"advance_s": seconds}),
            defense=DEFENSES.get(provider, {}),
            actions=ACTIONS[provider],
            differs=DIFFERS.get(provider, {}),
        )

    return opened


# --- What we ask --------------------------------------------------------------------------------

KEY = "6f2d6c1e-3a76-4b4e-9d4f-0d8b1f6b7c55"
PAYMENT_IDS = {"stripe": "pi_1", "adyen": "PSP1PAYMENT"}
DISPUTE_IDS = {"stripe": "dp_1", "adyen": "PSP1DISPUTE"}
EUR = Money(1999, "EUR")
CARD = Card("4242424242424242", 3, 2030, "737", "Ada Lovelace")
TOKENS = {"stripe": Token("pm_card_visa"), "adyen": Token("test_4111111111111111")}
OPERATIONS = {
    Kind.AUTHORIZE: "att_1",
    Kind.CAPTURE: "cap_1",
    Kind.VOID: "vd_1",
    Kind.REFUND: "re_1",
    Kind.INCREMENT: "inc_1",
    Kind.DEFEND: "def_1",
    Kind.ACCEPT: "acc_1",
}


def ask_for(provider: str, kind: Kind, *, amount: Money = EUR, **changes: Any) -> Ask:
    """The plainest ask of its kind: a token, automatic capture."""
    common = {"operation_id": OPERATIONS[kind], "payment_id": "pay_1", "amount": amount}
    if kind is Kind.AUTHORIZE:
        common |= {
            "capture_method": "automatic",
            "instrument": TOKENS[provider],
            "return_url": "https://gateway.example/v1/return/t",
        }
    else:
        common["provider_payment_id"] = PAYMENT_IDS[provider]
    if kind is Kind.VOID:
        common["attempt_id"] = OPERATIONS[Kind.AUTHORIZE]
    if kind in (Kind.DEFEND, Kind.ACCEPT):
        common["dispute_id"] = DISPUTE_IDS[provider]
    shapes: dict[Kind, Callable[..., Ask]] = {
        Kind.AUTHORIZE: Authorize,
        Kind.CAPTURE: Capture,
        Kind.VOID: Void,
        Kind.REFUND: Refund,
        Kind.INCREMENT: Increment,
        Kind.DEFEND: Defend,
        Kind.ACCEPT: Accept,
    }
    return shapes[kind](**(common | changes))


def call_for(account: Account, ask: Ask, *, key: str = KEY, provider_id: str | None = None) -> Call:
    kind = next(kind for kind in Kind if type(ask).__name__.lower() == kind.value)
    request = account.provider.compose(ask)
    return Call(ask.operation_id, kind, request, key, ask.amount, provider_id)


async def keep_nothing(request: Mapping[str, Any]) -> None:
    """Of one step nothing is to be kept but that it is sent, where the PSP promises no replay."""
    assert request.get("sent"), "there is only one step, nothing is to be kept"


class Kit:
    """What tests share: ``tests`` is no package, so a fixture hands it out."""

    PROVIDERS = tuple(PROVIDERS)
    KEY = KEY
    EUR = EUR
    CARD = CARD
    TOKENS = TOKENS
    PAYMENT_IDS = PAYMENT_IDS
    HMAC_KEY = HMAC_KEY
    STRIPE_SECRET = STRIPE_SECRET
    MERCHANT_ACCOUNT = MERCHANT_ACCOUNT
    ask = staticmethod(ask_for)
    call = staticmethod(call_for)
    keep_nothing = staticmethod(keep_nothing)
    config = staticmethod(config)


@pytest.fixture
def kit() -> type[Kit]:
    return Kit
