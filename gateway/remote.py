"""A gateway that is asked over HTTP with a merchant's key: what the commands need that work at it from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import aiohttp
import orjson

from providers.registry import ConfigError

PATIENCE_S: Final = 15.0
"""For one answer: as long as an endpoint has for its own."""
TRIES: Final = 5
AGAIN_S: Final = 0.5
"""Between two tries; so a gateway that is restarted, or a line that is lost, is waited for some seconds."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a gateway is, and a secret key of the merchant's there."""

    url: str
    key: str = field(repr=False)


def remote_of(url: str, key: str) -> Remote:
    """The same from the command line. Raises :class:`ConfigError` naming the option that cannot be used."""
    check_url("--url", url)
    if not key.isascii() or not key.isprintable() or not key:
        raise ConfigError("--key: must be a secret key, sk_…")
    return Remote(url.rstrip("/"), key)


def check_url(option: str, url: str) -> None:
    """Raises :class:`ConfigError` naming ``option`` for what is no address of HTTP."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{option}: must be a URL that starts with http:// or https://")


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections that know of no proxy and keep no cookies, and wait :data:`PATIENCE_S` for an answer."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(
        timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as connections:
        yield connections


class Refused(Exception):
    """The gateway refuses what was asked; ``problem`` says why, and nothing was done."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("code")))
        self.problem = problem


class NoAnswer(Exception):
    """The gateway was asked, and nobody knows what came of it."""


async def post(there: Remote, connections: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What the gateway answers to a POST. Sent again under the same idempotency key until there is an answer, so it is done once.

    Raises :class:`Refused`, :class:`NoAnswer` after :data:`TRIES`, and :class:`ConfigError` where the key is refused or there is no gateway.
    """
    headers = {
        "Authorization": f"Bearer {there.key}",
        "Idempotency-Key": f"cli-{uuid4().hex}",
        "Content-Type": "application/json",
    }
    for tries in range(TRIES):
        await asyncio.sleep(AGAIN_S if tries else 0)
        try:
            async with connections.post(
                f"{there.url}{path}", data=orjson.dumps(body), headers=headers, allow_redirects=False
            ) as answer:
                status, said = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            continue
        told = _object(said)
        if status >= 500 or told.get("code") == "request_in_progress":
            continue
        if status in {401, 403}:
            raise ConfigError(f"--key: the gateway at {there.url} refuses it: {told.get('detail', status)}")
        if status < 300 and "id" in told:
            return told
        if status == 404 or "code" not in told:
            raise ConfigError(f"--url: there is no gateway at {there.url}")
        raise Refused(told)
    raise NoAnswer


def _object(said: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(said)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}
