"""The load generator: merchants that pay, in a closed loop or as they come.

Closed loop (`--connections N`): N merchants, each sends its next payment when the last one is
answered; for CPU and throughput. Open loop (`--rate R`): payments arrive at random (Poisson) at R a
second however slow the answers are, and a latency counts from the moment a payment was due, so
a queue in front of the server is not hidden. Every payment has an Idempotency-Key of its own.
Prints one JSON object; runs in a process of its own so that its CPU is nobody else's.
"""

import argparse
import asyncio
import contextlib
import ctypes
import os
import random
import struct
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop

from bench.wire import ClientConnection, Reply, connect

DRAIN_S = 10.0  # how long the last answers may take; a charge's own deadline is far above it
CONNECTIONS_MAX = 1000  # of the open loop; beyond it payments queue here, which the latency shows
GOOD = {200, 201}
AMOUNT = '"amount": 1999'  # of each body; the kinds of a payment differ by it, and are as long
KINDS_MAX = 8_000
DRAWN = 100_003  # kinds are drawn before anything is timed; then they begin anew


@dataclass(frozen=True)
class Template:
    """A request with a place for its Idempotency-Key. Keys are unique over all runs.

    There may be several `kinds` of it, each with an amount of its own: a few are frequent and most are rare (Zipf's law), as cards are.
    """

    head: bytes
    tails: list[bytes]
    drawn: list[int]
    run: bytes

    @classmethod
    def of(cls, url: str, headers: list[str], body: str, kinds: int = 1) -> "Template":
        if kinds > KINDS_MAX or (kinds > 1 and body.count(AMOUNT) != 1):
            raise SystemExit(f"up to {KINDS_MAX} kinds, and only of a body with {AMOUNT}")
        bodies = [body.replace(AMOUNT, f"{AMOUNT[:-4]}{1999 + kind}") for kind in range(kinds)]
        weights = [1 / (kind + 1) for kind in range(kinds)]
        drawn = random.Random(20_261_123).choices(range(kinds), weights, k=DRAWN)
        at = urlsplit(url)
        lines = [f"POST {at.path} HTTP/1.1", f"Host: {at.netloc}", *headers]
        lines.append(f"Content-Length: {len(body.encode())}")
        if not any(line.lower().startswith("content-type:") for line in headers):
            lines.append("Content-Type: application/json")
        head = "\r\n".join(lines) + "\r\nIdempotency-Key: "
        tails = [f"\r\n\r\n{each}".encode() for each in bodies]
        return cls(head.encode(), tails, drawn, os.urandom(9).hex().encode())

    def numbered(self, n: int) -> bytes:
        return b"%s%s-%08d%s" % (self.head, self.run, n, self.tails[self.drawn[n % DRAWN]])


class Letters:
    """Whole requests from a file (`bench.hooks`), each sent once. After the last one they begin anew."""

    def __init__(self, file: Path) -> None:
        data, at = file.read_bytes(), 0
        self.requests: list[bytes] = []
        while at < len(data):
            (size,) = struct.unpack_from(">I", data, at)
            self.requests.append(data[at + 4 : at + 4 + size])
            at += 4 + size

    def numbered(self, n: int) -> bytes:
        return self.requests[n % len(self.requests)]


@dataclass
class Tally:
    """What came back."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    refusal: str = ""  # the first answer that was not a success

    def count(self, reply: Reply, latency_s: float) -> None:
        status, body = reply
        self.statuses[status] += 1
        self.latencies_s.append(latency_s)
        if status not in GOOD and not self.refusal:
            self.refusal = f"{status} {body[:400]!r}"

    def report(self, per_second: float, unanswered: int) -> dict[str, Any]:
        ordered = sorted(self.latencies_s) or [float("nan")]
        return {
            "answered": sum(self.statuses.values()),
            "succeeded": sum(self.statuses[status] for status in GOOD),
            "unanswered": unanswered,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "refusal": self.refusal,
            "per_second": per_second,
            "p50_ms": ordered[int(len(ordered) * 0.50)] * 1000,
            "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        }


Opener = Callable[[], Awaitable[ClientConnection]]


async def closed_loop(opener: Opener, template: Template | Letters, connections: int, seconds: float) -> dict[str, Any]:
    """`connections` merchants for `seconds`; returns when the last one is answered."""
    tally, drained = Tally(), asyncio.Event()
    merchants = [await opener() for _ in range(connections)]
    sent, busy, answered_in_time = 0, 0, 0
    deadline = time.perf_counter() + seconds

    def pay(merchant: ClientConnection) -> None:
        nonlocal sent, busy
        started = time.perf_counter()

        def answered(reply: Reply) -> None:
            nonlocal busy, answered_in_time
            busy -= 1
            now = time.perf_counter()
            tally.count(reply, now - started)
            answered_in_time += now < deadline
            # A lost connection is counted and left: sending again would spin.
            if now < deadline and reply[0]:
                pay(merchant)
            elif busy == 0:
                drained.set()

        sent, busy = sent + 1, busy + 1
        merchant.send(template.numbered(sent), answered)

    for merchant in merchants:
        pay(merchant)
    await _until(drained, seconds + DRAIN_S)
    return tally.report(answered_in_time / seconds, busy)


class OpenLoop:
    """Payments as they come, over some connections and more as they are needed."""

    def __init__(self, opener: Opener, template: Template | Letters) -> None:
        self.opener, self.template = opener, template
        self.tally = Tally()
        self.drained = asyncio.Event()
        self.idle: list[ClientConnection] = []
        self.waiting: deque[tuple[float, int]] = deque()
        self.openings: set[asyncio.Future[None]] = set()
        self.due: list[float] = []
        self.opened = self.next_one = self.left = 0
        self.alarm = Alarm(self.arrive)

    async def run(self, rate: float, connections: int, seconds: float) -> dict[str, Any]:
        self.idle = [await self.opener() for _ in range(connections)]
        self.opened = connections
        self.due = _arrivals(rate, seconds)
        self.left = len(self.due)
        self.alarm.set(self.due[0])
        await _until(self.drained, seconds + DRAIN_S)
        return self.tally.report(self.tally.statuses.total() / seconds, self.left)

    def arrive(self) -> None:
        """Send what is due by now, and have the alarm ring for the next."""
        while self.next_one < len(self.due) and self.due[self.next_one] <= time.monotonic():
            due_at, self.next_one = self.due[self.next_one], self.next_one + 1
            if self.idle:
                self.pay(self.idle.pop(), due_at, self.next_one)
                continue
            self.waiting.append((due_at, self.next_one))
            if self.opened < CONNECTIONS_MAX:
                self.opened += 1
                self.openings.add(asyncio.ensure_future(self.open_one()))
        if self.next_one < len(self.due):
            self.alarm.set(self.due[self.next_one])

    def pay(self, merchant: ClientConnection, due_at: float, n: int) -> None:
        def answered(reply: Reply) -> None:
            self.left -= 1
            self.tally.count(reply, time.monotonic() - due_at)
            if self.left == 0:
                self.drained.set()
            if reply[0]:
                self.free(merchant)

        merchant.send(self.template.numbered(n), answered)

    def free(self, merchant: ClientConnection) -> None:
        if self.waiting:
            self.pay(merchant, *self.waiting.popleft())
        else:
            self.idle.append(merchant)

    async def open_one(self) -> None:
        self.free(await self.opener())


class Alarm:
    """Calls back at a moment of the monotonic clock, to the microsecond.

    The event loop's own timers have a grain of 1 ms, which would send payments in bursts and add
    up to 1 ms to every latency; a timer of the kernel (timerfd) does not.
    """

    ABSOLUTE, MONOTONIC, NON_BLOCKING = 1, 1, 0o4000

    def __init__(self, ring: Callable[[], None]) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.timerfd_create(self.MONOTONIC, self.NON_BLOCKING)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self.ring = ring
        asyncio.get_running_loop().add_reader(self.descriptor, self._rung)

    def set(self, at: float) -> None:
        whole = int(at)
        spec = struct.pack("qqqq", 0, 0, whole, int((at - whole) * 1e9))
        if self.libc.timerfd_settime(self.descriptor, self.ABSOLUTE, spec, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _rung(self) -> None:
        os.read(self.descriptor, 8)
        self.ring()


def _arrivals(rate: float, seconds: float) -> list[float]:
    """The moments of a Poisson process, the same for every variant at the same rate."""
    dice = random.Random(20_261_121)
    at = time.monotonic() + 0.05
    end, due = at + seconds, []
    while (at := at + dice.expovariate(rate)) < end:
        due.append(at)
    return due or [at]


async def _until(drained: asyncio.Event, timeout_s: float) -> None:
    """Wait for the last answer; what is missing then is reported as unanswered."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(drained.wait(), timeout_s)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    at = urlsplit(options.url)
    template: Template | Letters
    if options.letters:
        template = Letters(options.letters)
    else:
        template = Template.of(options.url, options.header, options.body, options.kinds)

    async def opener() -> ClientConnection:
        return await connect(at.hostname or "127.0.0.1", at.port or 80)

    connections, seconds = options.connections, options.seconds
    if options.rate:
        found = await OpenLoop(opener, template).run(options.rate, connections, seconds)
    else:
        found = await closed_loop(opener, template, connections, seconds)
    return found | {"connections": connections, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="http://127.0.0.1:8080/v1/payments")
    parser.add_argument("--body", required=True)
    parser.add_argument("--kinds", type=int, default=1, help="of payments, told apart by their amounts")
    parser.add_argument("--letters", type=Path, help="a file of whole requests, to be sent instead of the body")
    parser.add_argument("--header", action="append", default=[], help="a line; may be repeated")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.0, help="payments/s; 0: closed loop")
    parser.add_argument("--seconds", type=float, default=5.0)
    print(orjson.dumps(uvloop.run(run(parser.parse_args()))).decode())


if __name__ == "__main__":
    main()
