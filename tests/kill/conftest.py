"""What kills: a forge that forks gateway processes, and a postman who brings webhooks when a test wants them brought."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

FORGE: Final = Path(__file__).parent.parent / "forge.py"
HOST: Final = "127.0.0.1"
PAUSE_S: Final = 0.2
GONE_S: Final = 60.0
"""How long a process that was told to die may take; longer is a fault of the forge."""
OPERATION: Final = re.compile(rb"\b[a-z]{2,3}_[0-9a-f]{32}\b")


@dataclass
class Forked:
    """A gateway process of the forge. ``ended`` is how it ended: the number of a signal, or minus its exit code."""

    pid: int
    port: int | None
    log: Path
    ended: asyncio.Future[int]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    async def dies(self, within_s: float) -> None:
        """Give it the time to die by itself."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), within_s)

    def died_at(self, point: str) -> bool:
        """Whether it was killed, and by its own hand at this point."""
        return self.ended.done() and self.ended.result() == signal.SIGKILL and f"crash point {point}\n" in self.printed


@dataclass
class Forge:
    """Talks to ``forge.py``."""

    running: asyncio.subprocess.Process
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)
    ordered: dict[int, tuple[Path, asyncio.Future[Forked]]] = field(default_factory=dict)
    alive: dict[int, Forked] = field(default_factory=dict)

    async def listen(self) -> None:
        """Hear what the forge tells, until it ends."""
        assert self.running.stdout is not None
        loop = asyncio.get_running_loop()
        async for line in self.running.stdout:
            told = json.loads(line)
            if "order" in told:
                log, answer = self.ordered.pop(told["order"])
                forked = self.alive[told["pid"]] = Forked(told["pid"], told["port"], log, loop.create_future())
                if not answer.done():  # whoever ordered it may have given up
                    answer.set_result(forked)
            elif "ended" in told:
                self.alive.pop(told["ended"]).ended.set_result(told.get("signal", -told.get("code", 0)))

    async def server(self, environment: Mapping[str, str], crash_at: str | None = None) -> Forked:
        """A `gateway serve`. It listens at once and answers once it is open."""
        return await self._start(environment, crash_at, serve=True)

    async def worker(self, environment: Mapping[str, str], crash_at: str | None = None) -> Forked:
        """A `gateway worker`."""
        return await self._start(environment, crash_at, serve=False)

    async def kill(self, forked: Forked) -> None:
        """End one with ``kill -9``, if it is there still."""
        self._tell({"kill": forked.pid})
        await self.gone(forked)

    async def gone(self, forked: Forked) -> None:
        """Wait until it has ended. It has failed where that was not by a kill."""
        how = await asyncio.wait_for(asyncio.shield(forked.ended), GONE_S)
        assert how == signal.SIGKILL, forked.printed

    async def _start(self, environment: Mapping[str, str], crash_at: str | None, *, serve: bool) -> Forked:
        number, log = next(self.numbers), self.folder / f"forked-{os.urandom(6).hex()}.log"
        told = environment if crash_at is None else {**environment, "GATEWAY_CRASH_AT": crash_at}
        answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self.ordered[number] = log, answer
        self._tell({"order": number, "serve": serve, "environment": dict(told), "log": str(log)})
        return await answer

    def _tell(self, order: Mapping[str, Any]) -> None:
        assert self.running.stdin is not None
        self.running.stdin.write(json.dumps(order).encode() + b"\n")


@pytest.fixture
async def forge(tmp_path: Path) -> AsyncIterator[Forge]:
    """Forks gateway processes. All of them have ended when the test has."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        str(FORGE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        start_new_session=True,
    )
    ours = Forge(running, tmp_path)
    listening = asyncio.create_task(ours.listen())
    try:
        yield ours
    finally:
        assert running.stdin is not None
        running.stdin.close()  # it ends with its standard input, and kills what it has forked
        await asyncio.wait_for(running.wait(), GONE_S)
        await listening


# --- Cards ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cards() -> Iterator[str]:
    """Numbers of cards that nobody else has, so that what is scripted for one happens to nobody else."""
    return (f"{body}{_check_digit(body)}" for body in map("49{:013d}".format, itertools.count(1)))


def _check_digit(body: str) -> int:
    doubled = [int(digit) * (2 if at % 2 == 0 else 1) for at, digit in enumerate(body)]
    return -sum(value - 9 if value > 9 else value for value in doubled) % 10


# --- Webhooks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letter:
    """A webhook as the PSP has sent it."""

    account: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def operations(self) -> set[str]:
        """The operations of ours that it speaks of."""
        return {found.decode() for found in OPERATION.findall(self.body)}


@dataclass
class Post:
    """Stands between the PSPs and the gateway: takes every webhook at once, and brings it when and where a test wants it.

    What nobody brings is lost, as far as the gateway can tell.
    """

    letters: asyncio.Queue[Letter] = field(default_factory=asyncio.Queue)
    """What came and nobody has brought yet."""
    seen: list[Letter] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, request: web.Request) -> web.Response:
        """A PSP brings a webhook."""
        letter = Letter(request.match_info["account"], dict(request.headers), await request.read())
        async with self.came:
            self.letters.put_nowait(letter)
            self.seen.append(letter)
            self.came.notify_all()
        return web.Response()

    async def wait_for(self, tells: Callable[[Letter], bool]) -> Letter:
        """The first webhook that ``tells`` what is waited for."""
        async with self.came:
            while True:
                for letter in self.seen:
                    if tells(letter):
                        return letter
                await asyncio.wait_for(self.came.wait(), GONE_S)

    @staticmethod
    async def deliver(letter: Letter, http: aiohttp.ClientSession, url: str) -> int | None:
        """Bring one to a gateway. Its answer, or ``None`` where there was none."""
        headers = {
            name: value for name, value in letter.headers.items() if name in {"Content-Type", "Stripe-Signature"}
        }
        try:
            async with http.post(f"{url}/v1/webhooks/{letter.account}", data=letter.body, headers=headers) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return None

    async def redeliver(self, letter: Letter, http: aiohttp.ClientSession, url: str) -> None:
        """Bring one until it is acknowledged, as a PSP does."""
        deadline = asyncio.get_running_loop().time() + GONE_S
        while await self.deliver(letter, http, url) != 200:
            assert asyncio.get_running_loop().time() < deadline, f"nobody takes the webhook at {url}"
            await asyncio.sleep(PAUSE_S)


@pytest.fixture
async def post(api_port: int) -> AsyncIterator[Post]:
    """Where the PSPs send their webhooks."""
    ours = Post()
    app = web.Application()
    app.router.add_post("/v1/webhooks/{account}", ours.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, api_port).start()
        yield ours
    finally:
        await runner.cleanup()
