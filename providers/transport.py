"""The one HTTP transport that every provider's SDK sends through: pooled, bounded, and honest.

A payment service provider (PSP) charges when a request reaches it, whether or not we hear the
answer. So the only thing this file decides is on which side of that line a failure lies:

* :class:`NotSent`    not one byte of the request left: another account may be asked;
* :class:`MaybeSent`  everything else, and everything we have no proof about.

It follows no redirect, keeps no cookie, reads no proxy from the environment and never sends
anything twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

CONNECTIONS_MAX: Final = 1000
"""Per process, over all accounts. aiohttp's 100 would cap it at 1000 calls of 100 ms a second."""

CONNECT_TIMEOUT_S: Final = 4.0
"""For a place in the pool, name, TCP and TLS together: ends as ``NotSent`` before a call's 10 s."""

KEEPALIVE_S: Final = 15.0
"""Shorter than a PSP's idle timeout: a connection that dies under a POST costs a replay."""

BODY_MAX_BYTES: Final = 1 << 20
"""The longest answer we read. A PaymentIntent with its charge has 5 kB."""

_CHUNK_BYTES: Final = 1 << 16


class NotSent(Exception):
    """Certainly nothing left: no name, nobody listening, no connection in time, or no TLS."""


class MaybeSent(Exception):
    """The request may have arrived, and there is no complete answer."""


# What aiohttp raises where nothing can have left (measured on a loopback server, tests/providers/test_transport.py);
# all other is MaybeSent. The trap: ClientOSError is both the base of every connector error and "connection reset"
# after sending.
_NOTHING_LEFT: Final = (
    aiohttp.ClientConnectorError,  # refused, unreachable, DNS, TLS handshake, certificate
    aiohttp.ConnectionTimeoutError,  # pool, TCP or TLS took too long
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. Names of ``headers`` may be asked in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """One pool of connections for all accounts. Opens in the running loop at its first request."""

    def __init__(
        self,
        *,
        connections_max: int = CONNECTIONS_MAX,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._connections_max = connections_max
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply:
        """Send once and read the whole answer. ``timeout_s`` bounds each silence, not the call.

        Raises :class:`NotSent` or :class:`MaybeSent`, never anything of aiohttp's. A cancellation
        and an outer ``asyncio.timeout`` pass through: whoever sets them knows that they prove
        nothing.
        """
        if self._closed:
            raise NotSent("the transport is closed")
        try:
            return await self._exchange(method, url, headers, body, timeout_s)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise  # in Python 3.11 TimeoutError is an OSError: this one is our caller's
            raise _classified(error) from error

    async def aclose(self) -> None:
        """Close every connection. Requests after this are ``NotSent``. May be called twice."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Reply:
        sending = self._opened().request(
            method,
            url,
            headers=headers,
            data=body or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s, sock_read=timeout_s),
        )
        async with sending as response:
            if (response.content_length or BODY_MAX_BYTES + 1) <= BODY_MAX_BYTES:
                return Reply(response.status, response.headers, await response.read())
            chunks: list[bytes] = []  # a length that is not told, or too long
            length = 0
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                length += len(chunk)
                if length > BODY_MAX_BYTES:
                    response.close()
                    raise MaybeSent(f"the answer is longer than {BODY_MAX_BYTES} bytes")
                chunks.append(chunk)
            return Reply(response.status, response.headers, b"".join(chunks))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections_max,
                    keepalive_timeout=KEEPALIVE_S,
                    ttl_dns_cache=60,
                    loop=asyncio.get_running_loop(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # An answer we asked not to compress arrives as it is; a compressed one is
                # unreadable, hence Unknown.
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
                trust_env=False,
            )
        return self._session


def _classified(error: Exception) -> NotSent | MaybeSent:
    """Our exception for aiohttp's. It names the class only: a message may hold a header."""
    ours = NotSent if isinstance(error, _NOTHING_LEFT) else MaybeSent
    return ours(type(error).__name__)
