"""Webhook delivery: late, repeated, never in the way of an answer.

Events are posted by tasks in the background. An event that is not acknowledged with a 2xx is sent
again with a doubling pause, a bounded number of times; then it is given up, as a PSP in the end
does too.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from providers.sandbox.faults import Rule

_DELIVERIES_MAX = 10_000
_CONNECTIONS_MAX = 20
_ACKNOWLEDGED = range(200, 300)
_ACKNOWLEDGE_WITHIN_S = 10  # both PSPs give a receiver about this long


@dataclass(slots=True)
class Delivery:
    """One webhook on its way, as ``GET /_sandbox/webhooks`` shows it."""

    number: int
    event: str
    kind: str
    posted: float = field(default_factory=time.time)
    attempts: int = 0
    status: str = "pending"
    last_answer: int | str | None = None


class Postman:
    """Delivers the events of one PSP to one address."""

    def __init__(
        self,
        *,
        url: str | None,
        sign: Callable[[bytes], Mapping[str, str]],
        delay_s: float,
        attempts_max: int,
        pause_s: float,
    ) -> None:
        """``sign`` gives the headers of one sending, made fresh for each."""
        self._url = url
        self._sign = sign
        self._delay_s = delay_s
        self._attempts_max = attempts_max
        self._pause_s = pause_s
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._deliveries: deque[Delivery] = deque(maxlen=_DELIVERIES_MAX)
        self._numbers = itertools.count(1)
        self._passed = asyncio.Event()

    def post(self, *, event: str, kind: str, body: bytes, fault: Rule | None, position: int) -> None:
        """Send one event in the background; returns at once and never raises.

        ``position`` is the event's place among those of one request: they leave in that order.
        """
        if self._url is None:
            return
        delivery = Delivery(next(self._numbers), event, kind)
        self._deliveries.append(delivery)
        fault_name = None if fault is None else fault.fault
        if fault is not None and fault_name == "drop_webhook":
            delivery.status = "dropped"
            return
        copies = fault.parameters["copies"] if fault and fault_name == "duplicate_webhook" else 1
        for _ in range(copies):
            task = asyncio.create_task(self._carry(delivery, body, fault, position))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def as_json(self) -> list[dict[str, Any]]:
        """The newest deliveries in posting order."""
        return [asdict(delivery) for delivery in self._deliveries]

    def clear(self) -> None:
        """Forget all deliveries and stop those on their way."""
        for task in self._tasks:
            task.cancel()
        self._deliveries.clear()

    async def close(self) -> None:
        """Stop sending; what is on its way is given up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _carry(self, delivery: Delivery, body: bytes, fault: Rule | None, position: int) -> None:
        await asyncio.sleep(self._delay_s + position * 0.01)
        if fault is not None and fault.fault == "late_webhook":
            await asyncio.sleep(fault.parameters["latency_ms"] / 1000)
        if fault is not None and fault.fault == "reorder_webhook":
            await self._let_another_pass(fault.parameters["latency_ms"] / 1000)
        for attempt in range(self._attempts_max):
            delivery.attempts += 1
            if await self._send(delivery, body):
                delivery.status = "delivered"
                self._passed.set()
                return
            await asyncio.sleep(self._pause_s * 2**attempt)
        if delivery.status == "pending":
            delivery.status = "given_up"

    async def _let_another_pass(self, patience_s: float) -> None:
        """Wait until some other event was delivered; alone on the road, go on after a while."""
        self._passed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._passed.wait(), patience_s)

    async def _send(self, delivery: Delivery, body: bytes) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX),
                # The receiver's time begins when it is spoken to, not while the event waits here for a free connection.
                timeout=aiohttp.ClientTimeout(sock_connect=_ACKNOWLEDGE_WITHIN_S, sock_read=_ACKNOWLEDGE_WITHIN_S),
            )
        assert self._url is not None  # noqa: S101 - post() sends nothing without an address
        headers = {"Content-Type": "application/json", **self._sign(body)}
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                await answer.read()
                delivery.last_answer = answer.status
                return answer.status in _ACKNOWLEDGED
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            delivery.last_answer = type(error).__name__
            return False
