"""The way out to merchants: the only place where this system connects to an address that a merchant has chosen.

A merchant's URL may point anywhere, at the database beside us or at a cloud's metadata too (server-side request forgery). So:

* the URL is read by one strict grammar, which leaves two parsers nothing to disagree about;
* a name is looked up at every connect, every address it has must be public, and only those very addresses are connected to: what
  the name says a moment later (DNS rebinding) changes nothing. TLS and Host keep the name;
* the socket is made by us, and not for an address that is not public, whatever way it came;
* no redirect is followed, no proxy read from the environment, no cookie kept, and what comes back is bounded and not believed.

What this cannot know: addresses that are public and yet inside (a cloud's own translation prefix, the gateway's own outer address).
Where that matters, let the worker out through an egress proxy of the network only.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

# --- What may be connected to. Pure. -------------------------------------------------------------------------------------

PORTS: Final = frozenset({443, 8443})
URL_MAX: Final = 2048

_DENIED_4: Final = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared between a carrier's customers; a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's own services, at an address that looks public
        "169.254.0.0/16",  # link-local; most clouds' metadata at 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # multicast tunnels
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_6: Final = IPv6Network("2000::/3")
"""All that is routed as unicast. Outside of it: ``::``, ``::1``, ``::ffff:0:0/96`` and other forms of IPv4 addresses, the NAT64
prefixes ``64:ff9b::/96`` and ``64:ff9b:1::/48``, ``fc00::/7`` with ``fd00:ec2::254``, ``fe80::/10``, ``ff00::/8``."""
_DENIED_6: Final = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
"""From the registries of special-purpose addresses of IANA (RFC 6890 and its updates). ``ipaddress`` knows most of them, and says
of NAT64, 6to4 and multicast that they are global."""
_INSIDE: Final = (".localhost", ".local", ".internal", ".home.arpa", ".localdomain", ".lan", ".intranet", ".corp")
"""Names that never belong to the public DNS (RFC 6761, 6762, 8375, ICANN's reserved ``.internal``), and what is used for them."""

_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#\\]*)(?P<rest>[/?][^#\\]*)?", re.ASCII
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

Address = IPv4Address | IPv6Address


class Refused(Exception):
    """The URL may not be sent to. ``reason`` is a word, the message a sentence that says what to do."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def is_public(address: Address | str) -> bool:
    """Whether an address is one of the public internet's. ``ValueError`` for what is no address."""
    address = ip_address(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in net for net in _DENIED_4)
    if address.scope_id is not None:
        return False
    return address.is_global and address in _GLOBAL_6 and not any(address in net for net in _DENIED_6)


def check_url(url: str, *, loopback: bool) -> None:
    """Refuse a URL that must not be sent to. It looks nothing up: the addresses of a name are checked when it is connected to.

    With ``loopback``, for development alone, ``http``, any port and the addresses of this machine may be used, too.
    Raises :class:`Refused`. May be called any number of times.
    """
    if len(url) > URL_MAX:
        raise Refused("too_long", f"A URL has at most {URL_MAX} characters.")
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise Refused(
            "characters",
            "A URL has no spaces and only ASCII characters. Write a name in its xn-- form, the rest with %.",
        )
    whole = _URL.fullmatch(url)
    if whole is None:
        raise Refused("not_a_url", "This is no URL of the form https://host/path; it has no fragment and no backslash.")
    scheme = whole["scheme"].lower()
    if scheme not in {"https", "http"} or (scheme == "http" and not loopback):
        raise Refused("not_https", "The URL begins with https://.")
    if "@" in whole["authority"]:
        raise Refused("user_info", "The URL holds no user name and no password: the signature tells who sends.")
    authority = _AUTHORITY.fullmatch(whole["authority"])
    if authority is None:
        raise Refused("not_a_url", "The URL's host is a name of letters, digits, dots and hyphens, or an address.")
    port = int(authority["port"] or (443 if scheme == "https" else 80))
    if not loopback and port not in PORTS:
        raise Refused("port", f"The URL's port is {' or '.join(map(str, sorted(PORTS)))}.")
    if not 0 < port < 1 << 16:
        raise Refused("port", "The URL's port is a number from 1 to 65535.")
    _check_host(authority["host"].lower(), loopback=loopback)


def _check_host(host: str, *, loopback: bool) -> None:
    if host.startswith("["):
        _check_address(host[1:-1], loopback=loopback)
        return
    if host.endswith("."):
        raise Refused("trailing_dot", "The URL's host does not end with a full stop.")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # as the WHATWG has it: whatever ends with a number means to be an IPv4 address
        _check_address(host, loopback=loopback)
        return
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused("not_a_name", "The URL's host is no name of the DNS.")
    if loopback and (host == "localhost" or host.endswith(".localhost")):
        return
    if len(labels) < 2 or f".{host}".endswith(_INSIDE):
        raise Refused("inside", "The URL's host is a full name of the public DNS.")


def _check_address(text: str, *, loopback: bool) -> None:
    try:
        address = ip_address(text)
    except ValueError:
        raise Refused(
            "address_form", "An address is written plainly: four decimal numbers, or an IPv6 address in brackets."
        ) from None
    if not may_connect(address, loopback=loopback):
        raise Refused("not_public", "The URL's address is not one of the public internet.")


def may_connect(address: Address, *, loopback: bool) -> bool:
    """Whether a connection to it may be opened."""
    return is_public(address) or (loopback and address.is_loopback)


# --- Going out -----------------------------------------------------------------------------------------------------------

CONNECT_S: Final = 5.0
"""For name, TCP and TLS together."""
TOTAL_S: Final = 15.0
"""From the first byte of the try to the status of the answer: Standard Webhooks asks for 15 to 30 s."""
BODY_S: Final = 2.0
"""By then the status has decided already; what is left is an excerpt, and worth no more."""
BODY_MAX: Final = 4096
"""Bytes of an answer that are read at most; the connection of a longer one is cut off."""
EXCERPT_MAX: Final = 200
KEEPALIVE_S: Final = 4.0
"""Shorter than what servers have by default (Node 5 s): a connection that they close under a POST looks like a failure of the endpoint."""
CONNECTIONS_MAX: Final = 200
HEADERS_MAX: Final = 64
HEADER_MAX: Final = 8190
"""Header lines of an answer, and bytes of each."""
LOOKUPS_MAX: Final = 256
"""Names that are being looked up at a time, each once: a thread each, since a name server may take half a minute to say nothing. More than
the tries to failing endpoints begin within that: whoever works must not find no thread."""

_CARDLIKE: Final = re.compile(r"\d(?:[ -]?\d){11,}")
_SECRETLIKE: Final = re.compile(r"\b(?:whsec|sk|rk|pk)_\S+|\b(?:bearer|basic)\s+\S+", re.IGNORECASE)

LookUp = Callable[[str, int], Sequence[tuple[Any, ...]]]
"""As ``socket.getaddrinfo`` with a host and a port; may block."""


class Unreached(Exception):
    """There is no answer. ``reason`` is one word. Whether the request arrived is not known, unless it was never sent."""

    def __init__(self, reason: str, took_ms: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.took_ms = took_ms


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``excerpt`` is the beginning of its body, printable and scrubbed; ``retry_after`` the header's text."""

    status: int
    excerpt: str
    took_ms: int
    retry_after: str | None = None


class _NotPublic(OSError):
    """A name, or one of its addresses, that is not to be connected to."""


def _look_up(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)


class _Resolver(AbstractResolver):
    """Looks names up, and answers with all their addresses or refuses the name.

    A name that is being looked up already is not asked for again: both get the same answer, which was checked for both.
    """

    def __init__(self, look_up: LookUp, *, loopback: bool) -> None:
        self._look_up = look_up
        self._loopback = loopback
        self._asked: dict[tuple[str, int], asyncio.Future[Sequence[tuple[Any, ...]]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of ``host``. Raises ``OSError`` where it has none, or one that is not public."""
        found: list[ResolveResult] = []
        for kind, _, proto, _, place in await self._ask(host, port):
            address = ip_address(place[0])
            if not may_connect(address, loopback=self._loopback):
                raise _NotPublic("one of its addresses is not public")
            found.append(
                {"hostname": host, "host": str(address), "port": port, "family": kind, "proto": proto, "flags": 0}
            )
        if not found:
            raise OSError("no address")
        return found

    async def close(self) -> None:
        """Nothing to close: the threads end with their answers, and do not keep the process."""

    async def _ask(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        asked = self._asked.get((host, port))
        if asked is None:
            if len(self._asked) >= LOOKUPS_MAX:
                raise OSError("too many names are being looked up")
            asked = self._asked[host, port] = asyncio.get_running_loop().create_future()
            asked.add_done_callback(lambda _: self._asked.pop((host, port)))
            threading.Thread(target=self._answer, args=(asked, host, port), name="look-up", daemon=True).start()
        return await asyncio.shield(asked)

    def _answer(self, asked: asyncio.Future[Sequence[tuple[Any, ...]]], host: str, port: int) -> None:
        """In a thread. With a full stop behind it a name is looked up as it is, not within the domains of this machine."""
        rows: Sequence[tuple[Any, ...]] | OSError
        try:
            rows = self._look_up(host if self._loopback else f"{host}.", port)
        except Exception as error:  # a name may be too odd even for the library
            rows = error if isinstance(error, OSError) else OSError(type(error).__name__)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            asked.get_loop().call_soon_threadsafe(_settle, asked, rows)


def _settle(asked: asyncio.Future[Sequence[tuple[Any, ...]]], rows: Sequence[tuple[Any, ...]] | OSError) -> None:
    if isinstance(rows, OSError):
        asked.set_exception(rows)
        asked.exception()  # seen, also where nobody waits any more
    else:
        asked.set_result(rows)


class Egress:
    """Posts to merchants' URLs. Opens in the running loop at its first post.

    ``tls`` and ``look_up`` stand in for the system's trust and its names.
    """

    def __init__(
        self, *, loopback: bool = False, look_up: LookUp = _look_up, tls: ssl.SSLContext | None = None
    ) -> None:
        self._loopback = loopback
        self._look_up = look_up
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Post once. A redirect is an answer like any other.

        Raises :class:`Unreached`, with the reason in a word, and nothing of aiohttp's. It ends within :data:`TOTAL_S` and
        :data:`BODY_S`, whatever the other side does.
        """
        began = time.monotonic()
        try:
            check_url(url, loopback=self._loopback)
            async with asyncio.timeout(TOTAL_S + BODY_S):
                return await self._exchange(url, headers, body, began)
        except Refused as refused:
            raise Unreached(refused.reason) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreached(_reason(error), _since(began)) from error

    async def aclose(self) -> None:
        """Close every connection. May be called twice."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes, began: float) -> Reply:
        sending = self._opened().post(URL(url, encoded=True), headers=headers, data=body, allow_redirects=False)
        async with sending as response:
            took_ms = _since(began)
            start = b""
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # the status has come, and decides
                async with asyncio.timeout(BODY_S):
                    start = await _start_of(response)
            if not response.content.at_eof():
                response.close()
            plain = "Content-Encoding" not in response.headers
            return Reply(
                response.status, excerpt_of(start) if plain else "", took_ms, response.headers.get("Retry-After")
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_Resolver(self._look_up, loopback=self._loopback),
                use_dns_cache=False,
                socket_factory=self._socket,
                limit=CONNECTIONS_MAX,
                keepalive_timeout=KEEPALIVE_S,
                ssl=self._tls or True,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=TOTAL_S, connect=CONNECT_S),
                max_line_size=HEADER_MAX,
                max_field_size=HEADER_MAX,
                max_headers=HEADERS_MAX,
            )
        return self._session

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The last door: no socket for an address that is not public, also where nothing was looked up."""
        family, kind, proto, _, place = info
        if not may_connect(ip_address(place[0]), loopback=self._loopback):
            raise _NotPublic("the address is not public")
        return socket.socket(family, kind, proto)


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of the body, :data:`BODY_MAX` at most."""
    start = bytearray()
    while len(start) < BODY_MAX:
        chunk = await response.content.read(BODY_MAX - len(start))
        if not chunk:
            break
        start += chunk
    return bytes(start)


def excerpt_of(start: bytes) -> str:
    """What may be shown of an answer: printable, without what looks like a card number or a secret, and short."""
    text = "".join(character if character.isprintable() else " " for character in start.decode(errors="replace"))
    text = _SECRETLIKE.sub("[removed]", _CARDLIKE.sub("[removed]", " ".join(text.split())))
    return text[:EXCERPT_MAX]


_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "no_such_name"),
    (aiohttp.ClientConnectorCertificateError, "certificate"),
    (aiohttp.ClientSSLError, "tls"),
    (aiohttp.ConnectionTimeoutError, "connect_timeout"),
    (TimeoutError, "timeout"),
    (aiohttp.ClientConnectorError, "not_connected"),
    (aiohttp.ServerDisconnectedError, "disconnected"),
    (aiohttp.ClientOSError, "disconnected"),
    (aiohttp.ClientResponseError, "bad_answer"),
    (aiohttp.ClientError, "failed"),
    (OSError, "not_connected"),
)
"""By exception, the word that a merchant reads; most specific first."""


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _NotPublic):
        return "not_public"
    return next((word for kind, word in _REASONS if isinstance(error, kind)), "failed")


def _since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
