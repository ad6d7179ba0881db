"""The stream: so many payments a second through the real API, by shoppers of every sort, at sandboxes with moods.

A loop of its own in a thread beside whoever runs it. Whatever answers, or does not, the next shopper comes at their time.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import aiohttp

from gateway.demo.shoppers import COUNTRIES, ZERO_DECIMALS

IN_FLIGHT_MAX: Final = 100
TIMEOUT_S: Final = 35.0
"""The API tells every client to wait 35 s: a charge may take 25 and a proxy adds its own."""
OUTAGE_EVERY_S: Final = 240.0
OUTAGE_S: Final = 30.0
"""Every four minutes one of the sandboxes answers nobody for half a minute."""
SLIP_EVERY_S: Final = 20.0
"""How often an answer is lost after its payment was made: nobody knows what became of it, until the worker has found out."""
TRIES_MAX: Final = 3
"""How often a shop sends a request again to which the answer was to send it again."""

MOODS: Final[Mapping[str, tuple[Mapping[str, Any], ...]]] = MappingProxyType(
    {
        "stripe": (
            {"rate": 0.96, "match": {"bin": "340000-379999"}},
            {"rate": 0.80, "match": {"currency": "JPY"}},
            {"rate": 0.93},
        ),
        "adyen": (
            {"rate": 0.74, "match": {"bin": "340000-379999"}},
            {"rate": 0.78, "match": {"currency": "GBP"}},
            {"rate": 0.94},
        ),
    }
)
"""What share of cards each sandbox approves; the first that matches decides. So the two differ by brand and currency."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of shopper: a card, and what the shop does after the charge.

    Sandbox Stripe declines by the card's number, sandbox Adyen by the holder's name: each scenario carries both, so that it means the
    same at either. ``comes_back`` is the share of those challenged who finish.
    """

    weight: int
    cards: tuple[str, ...] = ("4242424242424242", "5555555555554444")
    holder: str = "Ada Lovelace"
    fields: Mapping[str, Any] = field(default_factory=dict)
    then: str = ""
    share: float = 1.0
    comes_back: float = 0.85


_MANUAL: Final = {"capture_method": "manual"}
_SHOWN: Final = {"three_d_secure": "required", "return_url": "https://shop.example/back"}
SCENARIOS: Final = (
    Scenario(weight=58),
    Scenario(weight=8, cards=("378282246310005",)),
    Scenario(weight=2, cards=("4000000000009995",), holder="NOT_ENOUGH_BALANCE"),
    Scenario(weight=1, cards=("4000000000000069",), holder="CARD_EXPIRED"),
    Scenario(weight=1, cards=("4000000000000127",), holder="CVC_DECLINED"),
    Scenario(weight=1, cards=("4000000000009979",), holder="BLOCK_CARD"),
    Scenario(weight=1, cards=("4100000000000019",), holder="FRAUD"),
    Scenario(weight=1, cards=("4000000000000119",), holder="ACQUIRER_ERROR"),
    Scenario(weight=1, cards=("4000000000000002",), holder="DECLINED"),
    Scenario(weight=6, cards=("4000000000003220", "5454545454545454"), fields=_SHOWN),
    Scenario(weight=7, fields=_MANUAL, then="capture"),
    Scenario(weight=3, fields=_MANUAL, then="capture", share=0.5),
    Scenario(weight=3, fields=_MANUAL, then="cancel"),
    Scenario(weight=5, then="refund"),
    Scenario(weight=2, then="refund", share=0.4),
)


@contextlib.contextmanager
def running(
    url: str, secret_key: str, sandboxes: Mapping[str, str], payments_per_s: float, say: Callable[[str], None]
) -> Iterator[None]:
    """Run the stream beside the block; say at the end what came back. ``sandboxes`` are addresses by provider."""
    say(
        f"traffic: {payments_per_s:g} payments a second, and an outage of one sandbox every {OUTAGE_EVERY_S / 60:g} minutes"
    )
    loop = asyncio.new_event_loop()
    stream = Stream(url, secret_key, sandboxes, payments_per_s)
    thread = threading.Thread(target=loop.run_until_complete, args=(stream.run(),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stream.stopping.set)
        thread.join(1.0)
        if not loop.is_running():
            loop.close()
        counts = ", ".join(f"{name} {count}" for name, count in sorted(stream.seen.items()))
        say(f"traffic: {counts or 'nothing sent'}")


class Stream:
    """Payments at a steady rate, whether or not the last one has been answered."""

    def __init__(self, url: str, secret_key: str, sandboxes: Mapping[str, str], payments_per_s: float) -> None:
        self.stopping = asyncio.Event()
        self.seen: collections.Counter[str] = collections.Counter()
        """What came of the payments so far, by the API's words."""
        self._url = url
        self._headers = {"Authorization": f"Bearer {secret_key}"}
        self._sandboxes = sandboxes
        self._pause_s = 1.0 / payments_per_s
        self._random = random.Random()  # noqa: S311 - shoppers, not secrets

    async def run(self) -> None:
        """Send until :attr:`stopping` is set."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(self._url, timeout=timeout, headers=self._headers) as shop,
            aiohttp.ClientSession(timeout=timeout) as outside,
        ):
            tasks = {asyncio.create_task(self._moods(outside)), asyncio.create_task(self._slips(outside))}
            loop = asyncio.get_running_loop()
            due = loop.time()
            while not self.stopping.is_set():
                if len(tasks) < IN_FLIGHT_MAX:
                    shopper = asyncio.create_task(self._shop(shop, outside))
                    tasks.add(shopper)
                    shopper.add_done_callback(tasks.discard)
                else:
                    self.seen["skipped"] += 1
                due = max(due + self._pause_s, loop.time() - 1.0)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), max(0.0, due - loop.time()))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- The sandboxes ---

    async def _moods(self, outside: aiohttp.ClientSession) -> None:
        """Tell the sandboxes how they feel about cards, and send one of them away now and then."""
        for provider, moods in MOODS.items():
            for mood in moods:
                await self._fault(outside, provider, "approval_rate", **mood)
        while True:
            await asyncio.sleep(OUTAGE_EVERY_S)
            until = time.time() + OUTAGE_S
            await self._fault(outside, self._random.choice(sorted(self._sandboxes)), "outage", until=until)
            self.seen["outages"] += 1

    async def _slips(self, outside: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(SLIP_EVERY_S)
            lost = self._random.choice(("reset_after_effect", "error_after_effect", "garbage"))
            await self._fault(outside, self._random.choice(sorted(self._sandboxes)), lost, times=1)

    async def _fault(self, outside: aiohttp.ClientSession, provider: str, fault: str, **parameters: Any) -> None:
        body = {"operation": "authorize", "fault": fault, **parameters}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, KeyError):
            async with outside.post(f"{self._sandboxes[provider]}/_sandbox/faults", json=body) as answer:
                await answer.read()

    # --- The shoppers ---

    async def _shop(self, shop: aiohttp.ClientSession, outside: aiohttp.ClientSession) -> None:
        try:
            await self._one_payment(shop, outside)
        except (aiohttp.ClientError, TimeoutError):
            self.seen["unreachable"] += 1  # the API is being restarted; the next shopper may succeed

    async def _one_payment(self, shop: aiohttp.ClientSession, outside: aiohttp.ClientSession) -> None:
        (scenario,) = self._random.choices(SCENARIOS, [scenario.weight for scenario in SCENARIOS])
        (country,) = self._random.choices(list(COUNTRIES), [share for share, _ in COUNTRIES.values()])
        currency = COUNTRIES[country][1]
        amount = self._random.randint(100, 25_000) * (100 if currency in ZERO_DECIMALS else 1)
        amount = min(amount, 400_000)
        payment = await self._post(
            shop,
            "/v1/payments",
            {
                "amount": amount,
                "currency": currency,
                "confirm": True,
                "reference": f"traffic-{uuid.uuid4().hex[:12]}",
                "billing_details": {"name": scenario.holder, "address": {"country": country}},
                "payment_method_data": {
                    "type": "card",
                    "card": {
                        "number": self._random.choice(scenario.cards),
                        "exp_month": 12,
                        "exp_year": time.gmtime().tm_year + 4,
                        "cvc": "123",
                    },
                },
                **scenario.fields,
            },
        )
        status = str(payment.get("status", "refused"))
        self.seen[status] += 1
        if status == "requires_action":
            await self._challenged(outside, payment, scenario)
        elif scenario.then and status in ("succeeded", "requires_capture"):
            await self._then(shop, payment, scenario, max(1, int(amount * scenario.share)))

    async def _challenged(self, outside: aiohttp.ClientSession, payment: Mapping[str, Any], scenario: Scenario) -> None:
        """The shopper goes to their issuer's page and comes back, or does not."""
        if self._random.random() > scenario.comes_back:
            self.seen["abandoned"] += 1
            return
        await asyncio.sleep(self._random.uniform(1.0, 6.0))
        page = ((payment.get("next_action") or {}).get("redirect_to_url") or {}).get("url")
        if page is not None:
            result = "succeeded" if self._random.random() < 0.92 else "failed"
            async with outside.get(page, params={"result": result}, allow_redirects=False) as sent_back:
                address = sent_back.headers.get("Location")
            if address is not None:
                async with outside.get(address, allow_redirects=False) as answer:
                    await answer.read()
                self.seen["came back"] += 1

    async def _then(
        self, shop: aiohttp.ClientSession, payment: Mapping[str, Any], scenario: Scenario, part: int
    ) -> None:
        match scenario.then:
            case "refund":
                await self._post(shop, "/v1/refunds", {"payment": payment["id"], "amount": part})
            case "capture":
                await self._post(shop, f"/v1/payments/{payment['id']}/capture", {"amount": part})
            case _:
                await self._post(shop, f"/v1/payments/{payment['id']}/cancel", {})
        self.seen[scenario.then] += 1

    async def _post(self, shop: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the API answers; a request that it wants to see again is sent again under the same key, as a good shop does."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        answer: object = {}
        for _ in range(TRIES_MAX):
            async with shop.post(path, json=body, headers=headers) as response:
                answer = await response.json(content_type=None)
                if response.status < 500 and response.status != 409:
                    break
            await asyncio.sleep(1.0)
        return answer if isinstance(answer, dict) else {}
