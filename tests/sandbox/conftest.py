"""A served sandbox, the official SDKs pointed at it, and somebody who receives its webhooks."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import Adyen
import httpx
import pytest
import stripe

from providers.sandbox import SandboxConfig, serve

STRIPE_SECRET = "whsec_test_secret"
MERCHANT = "SandboxECOM"


@dataclass
class Mailbox:
    """Webhooks as they arrived, with the statuses to answer next (200 when none is left)."""

    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int, wanted: Callable[[dict[str, Any]], bool] = lambda body: True) -> list[dict[str, Any]]:
        """The bodies of the wanted webhooks, once there are that many of them."""

        def bodies() -> list[dict[str, Any]]:
            parsed = [json.loads(body) for _, _, body in self.received]
            return [body for body in parsed if wanted(body)]

        with self.changed:
            assert self.changed.wait_for(lambda: len(bodies()) >= count, 5), bodies()
            return bodies()

    def stripe_events(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Stripe events of one type."""
        return self.wait(count, lambda body: body.get("type") == kind)

    def adyen_items(self, code: str, count: int = 1) -> list[dict[str, Any]]:
        """Adyen notification items of one event code."""

        def item(body: dict[str, Any]) -> dict[str, Any]:
            items = body.get("notificationItems", [{"NotificationRequestItem": {}}])
            found: dict[str, Any] = items[0]["NotificationRequestItem"]
            return found

        return [item(b) for b in self.wait(count, lambda b: item(b).get("eventCode") == code)]


@pytest.fixture(scope="session")
def mail_server() -> Iterator[tuple[Mailbox, str]]:
    mailbox = Mailbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with mailbox.changed:
                mailbox.received.append((self.path, dict(self.headers), body))
                status = mailbox.statuses.pop(0) if mailbox.statuses else 200
                mailbox.changed.notify_all()
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield mailbox, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Sandbox:
    """Both simulators with a client for everything they offer."""

    stripe_url: str
    adyen_url: str
    neutral_url: str
    http: httpx.Client
    stripe: stripe.StripeClient
    adyen: Adyen.AdyenCheckoutApi
    mailbox: Mailbox

    def url(self, psp: str) -> str:
        return {"stripe": self.stripe_url, "adyen": self.adyen_url, "neutral": self.neutral_url}[psp]

    def books(self, psp: str, **query: str) -> dict[str, list[dict[str, Any]]]:
        books: dict[str, list[dict[str, Any]]] = self.http.get(f"{self.url(psp)}/_sandbox/books", params=query).json()
        return books

    def requests(self, psp: str, **query: str) -> list[dict[str, Any]]:
        answer = self.http.get(f"{self.url(psp)}/_sandbox/requests", params=query).json()
        found: list[dict[str, Any]] = answer["requests"]
        return found

    def script(self, psp: str, fault: str, operation: str = "any", **more: Any) -> dict[str, Any]:
        answer = self.http.post(
            f"{self.url(psp)}/_sandbox/faults",
            json={"operation": operation, "fault": fault, **more},
        )
        assert answer.status_code == 201, answer.text
        rule: dict[str, Any] = answer.json()
        return rule

    def charge(self, key: str = "key-1", **more: Any) -> Any:
        """A card payment at Stripe, through the SDK."""
        params: Any = {
            "amount": 1999,
            "currency": "eur",
            "confirm": True,
            "payment_method": "pm_card_visa",
            "metadata": {"operation": "op-1"},
            **more,
        }
        return self.stripe.v1.payment_intents.create(without_absent(params), {"idempotency_key": key})

    def pay(self, key: str = "key-1", **more: Any) -> dict[str, Any]:
        """A card payment at Adyen, through the SDK."""
        result = self.adyen.payments_api.payments(adyen_payment(**more), idempotency_key=key)
        message: dict[str, Any] = result.message
        return message

    def ask(self, path: str, request_id: str, **body: Any) -> httpx.Response:
        """A request at the neutral PSP, by hand."""
        return self.http.post(
            f"{self.neutral_url}{path}",
            json={"request_id": request_id, **body},
            headers={"Authorization": "Bearer neutral_test_sandbox"},
        )

    def modify(self, verb: str, psp_reference: str, key: str, **more: Any) -> dict[str, Any]:
        """A modification at Adyen, through the SDK."""
        api = self.adyen.modifications_api
        call = {
            "capture": api.capture_authorised_payment,
            "refund": api.refund_captured_payment,
            "cancel": api.cancel_authorised_payment_by_psp_reference,
            "adjust": api.update_authorised_amount,
        }[verb]
        body = {"merchantAccount": MERCHANT, **more}
        message: dict[str, Any] = call(body, psp_reference, idempotency_key=key).message
        return message


def neutral_charge(**more: Any) -> dict[str, Any]:
    """A whole /charges request but for its request_id."""
    return {
        "reference": "ref-1",
        "money": {"value": "19.99", "currency": "EUR"},
        "settle": "now",
        "source": {"token": "ct_ok"},
        "return_to": "https://shop.example/back",
        **more,
    }


def without_absent(params: Any) -> Any:
    """The parameters that are given; None stands for "not sent"."""
    return {name: value for name, value in params.items() if value is not None}


def adyen_payment(**more: Any) -> dict[str, Any]:
    """A whole /payments request; ``number`` and ``holder`` go into the payment method."""
    method = {
        "type": "scheme",
        "number": more.pop("number", "4111111111111111"),
        "expiryMonth": "03",
        "expiryYear": "2030",
        "cvc": "737",
        "holderName": more.pop("holder", "Ada Lovelace"),
    }
    return {
        "merchantAccount": MERCHANT,
        "amount": {"value": 1000, "currency": "EUR"},
        "reference": "ref-1",
        "returnUrl": "https://shop.example/back",
        "paymentMethod": method,
        **more,
    }


@pytest.fixture(scope="session")
def served(mail_server: tuple[Mailbox, str]) -> Iterator[Sandbox]:
    mailbox, mail_url = mail_server
    config = SandboxConfig(
        stripe_port=0,
        adyen_port=0,
        neutral_port=0,
        stripe_webhook_url=f"{mail_url}/stripe",
        stripe_webhook_secret=STRIPE_SECRET,
        adyen_webhook_url=f"{mail_url}/adyen",
        neutral_webhook_url=f"{mail_url}/neutral",
        webhook_delay_s=0.02,
        webhook_attempts_max=6,
        webhook_pause_s=0.005,
        refund_settles_after_s=0.1,
    )
    ports: list[int] = []
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def on_ready(*chosen: int) -> None:
        ports.extend(chosen)
        loops.append(asyncio.get_running_loop())
        ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve(config, ready=on_ready, stop=stop)))
    thread.start()
    assert ready.wait(10)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    client = Adyen.AdyenClient(xapikey=config.adyen_api_key, platform="test", http_timeout=2)
    adyen = Adyen.AdyenCheckoutApi(client=client)
    for api in (adyen.payments_api, adyen.modifications_api, adyen.recurring_api):
        api.baseUrl = f"{urls[1]}/v72"
    with httpx.Client(timeout=5) as http, requests_transport() as stripe_http:
        stripe_client = stripe.StripeClient(
            config.stripe_api_key,
            stripe_version="2026-05-27.dahlia",
            base_addresses={"api": urls[0]},
            http_client=stripe_http,
        )
        yield Sandbox(urls[0], urls[1], urls[2], http, stripe_client, adyen, mailbox)
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(5)
    assert not thread.is_alive()


class requests_transport:  # noqa: N801 - used as a with statement only
    """Stripe's own requests transport, closed at the end."""

    def __enter__(self) -> stripe.RequestsClient:
        self._client = stripe.RequestsClient(timeout=2)
        return self._client

    def __exit__(self, *error: object) -> None:
        self._client.close()  # type: ignore[no-untyped-call] # as the SDK has it


@pytest.fixture
def sandbox(served: Sandbox) -> Sandbox:
    """The served sandbox with nothing in it."""
    on_the_road = False
    for psp in ("stripe", "adyen", "neutral"):
        webhooks = served.http.get(f"{served.url(psp)}/_sandbox/webhooks").json()["webhooks"]
        on_the_road |= any(webhook["status"] == "pending" for webhook in webhooks)
        served.http.post(f"{served.url(psp)}/_sandbox/reset")
    if on_the_road:
        time.sleep(0.05)  # one that is being sent may still arrive
    served.mailbox.received.clear()
    served.mailbox.statuses.clear()
    return served


@pytest.fixture(scope="session")
def new_adyen_payment() -> Callable[..., dict[str, Any]]:
    """Builds /payments requests for tests that send them by hand."""
    return adyen_payment


@pytest.fixture(scope="session")
def new_neutral_charge() -> Callable[..., dict[str, Any]]:
    """Builds /charges requests for tests that send them by hand."""
    return neutral_charge
