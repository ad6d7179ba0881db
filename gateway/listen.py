"""``gateway listen``: prints a gateway's events as they come, and forwards them, signed, to a program on this machine.

It asks ``GET /v1/events`` over and over, a minute back each time: an event bears the time of its change, and its commit may come
later than a newer one's. What was seen is not said twice. It needs nothing but an API key, changes nothing at the gateway, and
goes on when that was restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import aiohttp
import orjson

from gateway.answers import instant
from gateway.remote import Remote, check_url, remote_of, session
from providers.registry import ConfigError
from webhooks.catalog import EVENTS, types_of
from webhooks.signing import headers, new_secret

POLL_S: Final = 0.5
OVERLAP: Final = timedelta(seconds=60)
"""How much later than a newer event's an event's commit may come."""
PAGE: Final = 100

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to listen to: which gateway; where to forward to, if anywhere; and which ``types``, all if none."""

    there: Remote
    forward_to: str | None = None
    types: Collection[str] = frozenset()


def wanted_of(url: str, key: str, forward_to: str | None, events: Collection[str]) -> Wanted:
    """The same from the command line. Raises :class:`ConfigError` naming the option that cannot be used."""
    there = remote_of(url, key)
    if forward_to is not None:
        check_url("--forward-to", forward_to)
    for name in events:
        if not types_of([name]):
            raise ConfigError(f"--events: {name!r} is no type of event and no family; docs/events.md lists them")
    return Wanted(there, forward_to, types_of(events))


class Seen:
    """The events that were seen, as far back as they are still looked at."""

    def __init__(self) -> None:
        self._seen: dict[str, datetime] = {}
        self._newest: datetime | None = None

    @property
    def since(self) -> datetime | None:
        """From when on to look; ``None`` while there has been no event at all."""
        return None if self._newest is None else self._newest - OVERLAP

    def new(self, events: Collection[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those of ``events`` that were not seen yet, the oldest first. They are from now on."""
        fresh = [event for event in events if event["id"] not in self._seen]
        for event in fresh:
            self._seen[event["id"]] = at = datetime.fromisoformat(event["timestamp"])
            self._newest = at if self._newest is None else max(self._newest, at)
        if self.since is not None:
            self._seen = {name: at for name, at in self._seen.items() if at >= self.since}
        return sorted(fresh, key=lambda event: (event["timestamp"], event["sequence"] or 0, event["id"]))


class Listener:
    """Listens to one gateway. ``say`` is handed one line at a time."""

    def __init__(self, wanted: Wanted, session: aiohttp.ClientSession, say: Say) -> None:
        self._wanted = wanted
        self._session = session
        self._say = say
        self._seen = Seen()
        self._secret = new_secret()
        self._lost = False

    async def run(self) -> None:
        """Listen until cancelled. Raises :class:`ConfigError` where the gateway refuses the key, or is none."""
        self._seen.new([event async for event in self._patiently(self._look_back)])
        self._say(f"Listening at {self._wanted.there.url}. Ctrl-C ends it.")
        if self._wanted.forward_to is not None:
            self._say(f"Forwarding to {self._wanted.forward_to}, signed with {self._secret}")
        while True:
            await asyncio.sleep(POLL_S)
            events = [event async for event in self._patiently(lambda: self._from(self._seen.since))]
            for event in self._seen.new(events):
                if not self._wanted.types or event["type"] in self._wanted.types:
                    self._say(line_of(event))
                    await self._forward(event)

    async def _patiently(self, ask: Callable[[], AsyncIterator[Mapping[str, Any]]]) -> AsyncIterator[Mapping[str, Any]]:
        """What ``ask`` finds, asked until there is a gateway that answers."""
        while True:
            try:
                found = [event async for event in ask()]
            except (aiohttp.ClientError, TimeoutError, OSError, _Unready):
                if not self._lost:
                    self._say(f"There is no answer from {self._wanted.there.url}; trying again until there is.")
                self._lost = True
                await asyncio.sleep(POLL_S)
                continue
            if self._lost:
                self._say(f"{self._wanted.there.url} answers again.")
                self._lost = False
            break
        for event in found:
            yield event

    async def _look_back(self) -> AsyncIterator[Mapping[str, Any]]:
        """What is there already, as far as it will be looked at again."""
        newest = (await self._page({"limit": "1"}))["data"]
        if newest:
            async for event in self._from(datetime.fromisoformat(newest[0]["timestamp"]) - OVERLAP):
                yield event

    async def _from(self, since: datetime | None) -> AsyncIterator[Mapping[str, Any]]:
        """Every event since then, or ever."""
        query = {"limit": str(PAGE)} | ({} if since is None else {"created[gte]": str(instant(since))})
        while True:
            page = await self._page(query)
            for event in page["data"]:
                yield event
            if not page["has_more"]:
                return
            query["cursor"] = page["next_cursor"]

    async def _page(self, query: Mapping[str, str]) -> Mapping[str, Any]:
        asked = {"Authorization": f"Bearer {self._wanted.there.key}"}
        async with self._session.get(f"{self._wanted.there.url}/v1/events", params=query, headers=asked) as answer:
            if answer.status >= 500:
                raise _Unready
            if answer.status in {401, 403}:
                raise ConfigError(f"--key: the gateway at {self._wanted.there.url} refuses it ({answer.status})")
            try:
                page = orjson.loads(await answer.read())
            except orjson.JSONDecodeError:
                page = {}
            if answer.status != 200 or not isinstance(page, dict) or "data" not in page:
                raise ConfigError(f"--url: there is no gateway at {self._wanted.there.url}")
            return page

    async def _forward(self, event: Mapping[str, Any]) -> None:
        if self._wanted.forward_to is None:
            return
        body = orjson.dumps(event)  # the bytes that were stored: they were written by the same hand
        began = time.monotonic()
        signed = headers(event["id"], int(time.time()), body, [self._secret]) | {"content-type": "application/json"}
        try:
            async with self._session.post(
                self._wanted.forward_to, data=body, headers=signed, allow_redirects=False
            ) as answer:
                said = str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = f"no answer ({type(error).__name__})"
        self._say(f"  <- {said} in {int((time.monotonic() - began) * 1000)} ms, {event['id']}")


class _Unready(Exception):
    """The gateway answers, and cannot serve."""


def line_of(event: Mapping[str, Any]) -> str:
    """An event in a line: its time, its type, what it is about, the amount and the status."""
    shown = event["data"]
    about = event["payment"] or shown.get("id", "")
    amount = f"{shown['amount']} {shown['currency']}" if {"amount", "currency"} <= shown.keys() else ""
    parts = (event["timestamp"], f"{event['type']:<{_WIDEST}}", about, amount, shown.get("status") or "")
    return "  ".join(part for part in parts if part).rstrip()


_WIDEST: Final = max(map(len, EVENTS))


async def listen(wanted: Wanted, say: Say) -> None:
    """Listen until Ctrl-C, and say so. Raises :class:`ConfigError` as :meth:`Listener.run`."""
    loop = asyncio.get_running_loop()
    async with session() as connections:
        listening = asyncio.ensure_future(Listener(wanted, connections, say).run())
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, listening.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await listening
    say("Stopped listening. Events go on being stored and sent.")
