"""What one call of an SDK costs, by what carries it.

Both SDKs leave their transport to us: Stripe's by a subclass of `stripe.HTTPClient`, Adyen's by a
client whose `call_adyen_api` is a coroutine. This measures their defaults against an `httpx` in
small pools and against `aiohttp`, under one load in one process: CPU of the process per call, all
threads, and the median latency; the best of the repetitions, which take turns. The bare row is the
call on a raw connection, hand-encoded, for scale.

    python -m bench.transport [--seconds 0.6] [--repetitions 2] [--only adyen]
"""

import argparse
import asyncio
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import Adyen
import aiohttp
import httpx
import msgspec
import orjson
import stripe
import uvloop

from bench.stage import Psp, core_sets, psp_process
from bench.wire import ClientConnection, Reply, connect

DELAYS_MS = (0, 20)
CONNECTIONS = (1, 16, 64)
TIMEOUT_S = 10.0
SMALL_POOL = 10  # connections; httpx walks its whole pool for every request
SMALL_POOLS = 8

Call = Callable[[], Awaitable[object]]
Way = Callable[[str], AsyncIterator[Call]]
WAYS: dict[str, Callable[[str], AbstractAsyncContextManager[Call]]] = {}


def way(name: str) -> Callable[[Way], Way]:
    """Enter an async generator that yields one `Call` under the name its row has."""

    def enter(make: Way) -> Way:
        WAYS[name] = asynccontextmanager(make)
        return make

    return enter


INTENT: Any = {
    "amount": 1999,
    "currency": "eur",
    "payment_method": "pm_card_visa",
    "confirm": True,
    "metadata": {"operation": "op_019aa5c0"},
    "expand": ["latest_charge"],
}


def stripe_client(psp: str, http_client: stripe.HTTPClient | None = None) -> stripe.StripeClient:
    return stripe.StripeClient(
        "sk_test_bench",
        base_addresses={"api": psp},
        http_client=http_client,
        max_network_retries=0,
    )


@way("stripe, default (httpx)")
async def stripe_default(psp: str) -> AsyncIterator[Call]:
    client = stripe_client(psp)
    yield lambda: client.v1.payment_intents.create_async(INTENT)


class SmallPools(stripe.HTTPClient):
    """httpx clients of a few connections each, taken in turn."""

    name = "httpx-small-pools"

    def __init__(self, clients: list[httpx.AsyncClient]) -> None:
        super().__init__()
        self.turns = itertools.cycle(clients)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        response = await next(self.turns).request(method, url, headers=headers, content=post_data or b"")
        return response.content, response.status_code, response.headers


@way("stripe, httpx in small pools")
async def stripe_small_pools(psp: str) -> AsyncIterator[Call]:
    limits = httpx.Limits(max_connections=SMALL_POOL, max_keepalive_connections=SMALL_POOL)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(limits=limits, timeout=TIMEOUT_S))
            for _ in range(SMALL_POOLS)
        ]
        client = stripe_client(psp, SmallPools(clients))
        yield lambda: client.v1.payment_intents.create_async(INTENT)


class OverAiohttp(stripe.HTTPClient):
    """One pooled aiohttp session behind Stripe's SDK."""

    name = "aiohttp"

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__()
        self.session = session

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        async with self.session.request(method, url, headers=headers, data=post_data) as response:
            return await response.read(), response.status, response.headers


class CardFacts(msgspec.Struct):
    brand: str | None = None
    last4: str | None = None
    country: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    network_transaction_id: str | None = None


class MethodDetails(msgspec.Struct):
    card: CardFacts | None = None


class Charge(msgspec.Struct):
    id: str
    object: str
    payment_method_details: MethodDetails | None = None


class Trimmed(msgspec.Struct):
    """The fields of a PaymentIntent that a charge reads."""

    id: str
    object: str
    amount: int
    amount_received: int
    currency: str
    status: str
    client_secret: str | None = None
    next_action: dict[str, Any] | None = None
    last_payment_error: dict[str, Any] | None = None
    latest_charge: Charge | None = None


read_trimmed = msgspec.json.Decoder(Trimmed).decode
write_trimmed = msgspec.json.Encoder().encode


class TrimmedOverAiohttp(OverAiohttp):
    """Hands the SDK only the fields that are read: it builds an object for every nested one."""

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body, status, answered = await super().request_async(method, url, headers, post_data)
        return write_trimmed(read_trimmed(body)), status, answered


def session() -> aiohttp.ClientSession:
    # Not the default limit of 100 connections: at 100 ms a call that is 1000 payments/s, no more.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
    )


@way("stripe, SDK's own AIOHTTPClient")
async def stripe_sdk_aiohttp(psp: str) -> AsyncIterator[Call]:
    http_client = stripe.AIOHTTPClient()
    client = stripe_client(psp, http_client)
    yield lambda: client.v1.payment_intents.create_async(INTENT)
    await http_client.close_async()  # type: ignore[no-untyped-call]  # the SDK's


@way("stripe, aiohttp")
async def stripe_aiohttp(psp: str) -> AsyncIterator[Call]:
    async with session() as pooled:
        client = stripe_client(psp, OverAiohttp(pooled))
        yield lambda: client.v1.payment_intents.create_async(INTENT)


@way("stripe, aiohttp, reply trimmed")
async def stripe_aiohttp_trimmed(psp: str) -> AsyncIterator[Call]:
    async with session() as pooled:
        client = stripe_client(psp, TrimmedOverAiohttp(pooled))
        yield lambda: client.v1.payment_intents.create_async(INTENT)


@way("stripe, aiohttp, raw_request")
async def stripe_raw_request(psp: str) -> AsyncIterator[Call]:
    async with session() as pooled:
        client = stripe_client(psp, OverAiohttp(pooled))
        yield lambda: client.raw_request_async("post", "/v1/payment_intents", **INTENT)


PAYMENT: dict[str, Any] = {
    "amount": {"currency": "EUR", "value": 1999},
    "merchantAccount": "BenchECOM",
    "paymentMethod": {"type": "scheme", "storedPaymentMethodId": "8415718415172204"},
    "reference": "op_019aa5c0",
    "shopperInteraction": "ContAuth",
    "returnUrl": "https://shop.example/back",
}


def payments_api(client: Any, psp: str) -> Any:
    """The SDK's payments service, aimed at the simulated PSP instead of Adyen's test host."""
    client.xapikey, client.platform = "bench", "test"
    service = Adyen.services.checkout.AdyenCheckoutApi(client).payments_api
    service.baseUrl = f"{psp}/v72"
    return service


@way("adyen, default (requests in threads)")
async def adyen_default(psp: str) -> AsyncIterator[Call]:
    service = payments_api(Adyen.AdyenClient(), psp)
    yield lambda: asyncio.to_thread(service.payments, PAYMENT, idempotency_key="k")


class AsyncAdyen(Adyen.AdyenClient):  # type: ignore[misc]  # the SDK has no types
    """Adyen's client with the call as a coroutine: its services return what this returns."""

    def __init__(self, pooled: aiohttp.ClientSession) -> None:
        super().__init__()
        self.pooled = pooled

    async def call_adyen_api(
        self,
        request_data: dict[str, Any],
        service: str,
        method: str,
        endpoint: str,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Any:
        key, _, _, options = self._set_credentials(service, endpoint, **options)
        url = self._determine_api_url(self._set_platform(**options), endpoint)
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        data = orjson.dumps(request_data)
        async with self.pooled.request(method, url, headers=headers, data=data) as response:
            raw = await response.text()
            return self._handle_response(url, raw, data, response.status, response.headers)


@way("adyen, coroutine over aiohttp")
async def adyen_aiohttp(psp: str) -> AsyncIterator[Call]:
    async with session() as pooled:
        service = payments_api(AsyncAdyen(pooled), psp)
        yield lambda: service.payments(PAYMENT, idempotency_key="k")


@way("bare: no SDK, raw connection")
async def bare(psp: str) -> AsyncIterator[Call]:
    at, idle = urlsplit(psp), list[ClientConnection]()
    form = b"amount=1999&currency=eur&payment_method=pm_card_visa&confirm=true&expand[0]=latest_charge"
    head = b"POST /v1/payment_intents HTTP/1.1\r\nHost: psp\r\nContent-Length: %d\r\n\r\n" % len(form)

    async def call() -> Trimmed:
        connection = idle.pop() if idle else await connect(at.hostname or "", at.port or 80)
        arrived: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        connection.send(head + form, arrived.set_result)
        _, body = await arrived
        idle.append(connection)
        return read_trimmed(body)

    yield call


async def measure(call: Call, connections: int, seconds: float) -> tuple[float, float]:
    """CPU microseconds per call and the median latency in milliseconds, in a closed loop."""
    latencies: list[float] = []

    async def caller(until: float) -> None:
        while (started := time.perf_counter()) < until:
            await call()
            latencies.append(time.perf_counter() - started)

    async def callers(for_s: float) -> None:
        until = time.perf_counter() + for_s
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(caller(until))

    await callers(seconds / 4)
    latencies.clear()
    gc.collect()
    gc.freeze()  # as the gateway does after its start
    before = time.process_time()
    await callers(seconds)
    spent = time.process_time() - before
    return spent / len(latencies) * 1e6, sorted(latencies)[len(latencies) // 2] * 1000


Cell = tuple[float, float]


async def compare(psp: Psp, names: list[str], seconds: float) -> dict[tuple[str, int, int], Cell]:
    """One repetition: every way under every load."""
    cells = {}
    for name in names:
        print(name, file=sys.stderr, flush=True)
        async with WAYS[name](psp.url) as call:
            for delay_ms in DELAYS_MS:
                psp.set_delay(delay_ms)
                for connections in CONNECTIONS:
                    cpu_us, p50_ms = await measure(call, connections, seconds)
                    cells[name, delay_ms, connections] = cpu_us, p50_ms - delay_ms
    return cells


def print_table(names: list[str], repetitions: list[dict[tuple[str, int, int], Cell]]) -> None:
    """One row for each way, with the best figures of the repetitions."""
    loads = [(delay, n) for delay in DELAYS_MS for n in CONNECTIONS]
    heads = " | ".join(f"{f'{delay} ms, c={n}':>14}" for delay, n in loads)
    print(f"CPU us per call / p50 ms over the PSP's delay\n\n| {'':36} | {heads} |")
    print(f"|{'-' * 38}|" + "|".join(["-" * 15 + ":"] * len(loads)) + "|")
    for name in names:
        cells = []
        for delay, n in loads:
            cpu_us = min(found[name, delay, n][0] for found in repetitions)
            p50_ms = min(found[name, delay, n][1] for found in repetitions)
            cells.append(f"{cpu_us:6.0f} /{p50_ms:6.2f}")
        print(f"| {name:36} | " + " | ".join(f"{cell:>14}" for cell in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="What carries an SDK's call, and what it costs.")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--only", default="", help="a part of the names to measure")
    options = parser.parse_args()
    names = [name for name in WAYS if options.only in name]
    with tempfile.TemporaryDirectory() as directory, psp_process(Path(directory)) as psp:
        os.sched_setaffinity(0, core_sets()[0])
        repetitions = [uvloop.run(compare(psp, names, options.seconds)) for _ in range(options.repetitions)]
    print_table(names, repetitions)


if __name__ == "__main__":
    main()
