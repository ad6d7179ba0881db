"""A line that breaks on purpose: a TCP proxy between a real account and its real sandbox PSP.

The vocabulary is Toxiproxy's (``latency``, ``timeout``, ``reset_peer``, ``limit_data``, ``slicer``), and a toxic is a coroutine
over one connection. A toxic works on every request until the line is mended. ``struck`` says that it has done its work: a caller
that gave up before has met no fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import json
import select
import socket
import ssl
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from providers.contract import Kind

HOST: Final = "127.0.0.1"
NOBODY: Final = "http://nowhere.invalid"
HTML: Final = b"<html><body>Bad Gateway</body></html>"
DRIP_PAUSE_S: Final = 0.25
"""Between two bytes: each read is quick, and the shortest answer takes far longer than any deadline of a call."""


# --- One connection ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """The PSP's whole answer."""

    head: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.head + self.body


class Line:
    """One connection of a caller, and the way on to the PSP."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.reader = reader
        self._writer = writer
        self._begun = b""

    async def begins(self) -> bool:
        """Wait for the first byte of a request. ``False`` where the caller has gone."""
        self._begun = await self.reader.read(1)
        return bool(self._begun)

    async def request(self) -> bytes:
        """The whole request, noted."""
        head = self._begun + await self.reader.readuntil(b"\r\n\r\n")
        body = await self.reader.readexactly(_length(head))
        self.proxy.requests.append((head, body))
        return head + body

    async def forward(self, request: bytes, *, slice_bytes: int | None = None) -> Reply:
        """Send it on to the PSP, on a connection of its own, and read the whole answer."""
        reader, writer = await asyncio.open_connection(HOST, self.proxy.psp_port)
        try:
            for part in _slices(request, slice_bytes or len(request)):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if not self.proxy.keeps:
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        return Reply(head, body)

    async def say(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def heard(self) -> None:
        """Wait until the caller's side has taken over every byte that was said."""
        while struct.unpack("i", fcntl.ioctl(self._fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0)  # the kernel has no event for it

    async def until_gone(self) -> None:
        """Wait until the caller hangs up."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass

    def reset(self) -> None:
        """RST instead of FIN."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _fileno(self) -> int:
        fileno: int = self._writer.get_extra_info("socket").fileno()
        return fileno


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)


def _slices(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


# --- Toxics -----------------------------------------------------------------------------------------------------------

Toxic = Callable[..., Awaitable[None]]


async def healthy(line: Line) -> None:
    reply = await line.forward(await line.request())
    await line.say(reply.raw)


async def latency(line: Line, seconds: float = 0.2) -> None:
    request = await line.request()
    await asyncio.sleep(seconds)
    reply = await line.forward(request)
    line.proxy.struck.set()
    await line.say(reply.raw)


async def slicer(line: Line, size: int = 7) -> None:
    """Both ways in slices of a few bytes."""
    reply = await line.forward(await line.request(), slice_bytes=size)
    line.proxy.struck.set()
    for part in _slices(reply.raw, size):
        await line.say(part)
        await asyncio.sleep(0)


async def duplicate(line: Line, answer: int) -> None:
    """The network delivers the request twice at the same time; the caller hears one of the two answers."""
    request = await line.request()
    replies = await asyncio.gather(line.forward(request), line.forward(request))
    line.proxy.struck.set()
    await line.say(replies[answer].raw)


async def timeout(line: Line, *, asked: bool) -> None:
    """Silence: the request is swallowed, or its answer is."""
    request = await line.request()
    if asked:
        await line.forward(request)
    line.proxy.struck.set()
    await line.until_gone()


async def late(line: Line) -> None:
    """The request arrives when the caller has given up."""
    request = await line.request()
    line.proxy.struck.set()
    await line.until_gone()
    await line.forward(request)


async def too_late(line: Line) -> None:
    """The request lies in some queue until the caller's replay has been answered; then it arrives."""
    request = await line.request()
    line.proxy.struck.set()
    await line.until_gone()
    await line.proxy.released.wait()
    await line.forward(request)


async def drip(line: Line) -> None:
    """The answer comes byte by byte: no read is slow, the whole is."""
    reply = await line.forward(await line.request())
    gone = asyncio.ensure_future(line.until_gone())
    try:
        for part in _slices(reply.raw, 1):
            await line.say(part)
            line.proxy.struck.set()
            if (await asyncio.wait({gone}, timeout=DRIP_PAUSE_S))[0]:
                return
        line.proxy.outlasted = True
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def reset_peer(line: Line, at: str) -> None:
    """RST: in the request, after it, in the answer's headers or body, or when all was said."""
    if at == "request":
        await line.reader.read(40)
    else:
        request = await line.request()
        if at != "request_end":
            reply = await line.forward(request)
            told = {"headers": reply.head[:20], "body": reply.head + reply.body[:20], "end": reply.raw}[at]
            await line.say(told)
            await line.heard()
    line.proxy.struck.set()
    line.reset()


async def hang_up(line: Line) -> None:
    """FIN without a word, when the PSP has answered."""
    await line.forward(await line.request())
    line.proxy.struck.set()
    await line.close()


async def limit_data(line: Line) -> None:
    """Half the answer's body, then FIN."""
    reply = await line.forward(await line.request())
    line.proxy.struck.set()
    await line.say(reply.head + reply.body[: len(reply.body) // 2])
    await line.close()


async def answer(
    line: Line, status: int, body: bytes | str, *, asked: bool, headers: Mapping[str, str] | None = None
) -> None:
    """Something between the two answers in the PSP's place.

    A text is the code of an error in the PSP's own words, or the code at each of the two: ``stripe's/adyen's``.
    """
    request = await line.request()
    if asked:
        await line.forward(request)
    line.proxy.struck.set()
    raw = body if isinstance(body, bytes) else _problem(line.proxy.psp, status, body)
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    await line.say("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)


def _problem(psp: str, status: int, codes: str) -> bytes:
    code = codes.split("/")[-1 if psp == "adyen" else 0]
    if psp == "adyen":
        said: Any = {"status": status, "errorCode": code, "errorType": "validation", "message": "no"}
    else:
        said = {"error": {"type": "invalid_request_error", "code": code, "message": "no"}}
    return json.dumps(said).encode()


async def lie(line: Line, about: str) -> None:
    """The true answer with another amount, or in another currency, wherever it says so."""
    reply = await line.forward(await line.request())
    body = json.dumps(_lied(json.loads(reply.body), about)).encode()
    head = [part for part in reply.head.split(b"\r\n") if part and not part.lower().startswith(b"content-length")]
    line.proxy.struck.set()
    await line.say(b"\r\n".join([*head, f"Content-Length: {len(body)}".encode()]) + b"\r\n\r\n" + body)


_AMOUNTS: Final = {"amount", "amount_received", "amount_capturable", "value"}


def _lied(part: Any, about: str) -> Any:
    if isinstance(part, list):
        return [_lied(each, about) for each in part]
    if not isinstance(part, dict):
        return part
    lied = {name: _lied(value, about) for name, value in part.items()}
    for name, value in lied.items():
        if about == "amount" and name in _AMOUNTS and isinstance(value, int):
            lied[name] = value + 1
        if about == "currency" and name == "currency" and isinstance(value, str):
            lied[name] = "USD" if value.isupper() else "usd"
    return lied


async def plain_text(line: Line) -> None:
    """What a web server says to who speaks TLS on its plain port."""
    await line.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


TOXICS: Final[Mapping[str, Toxic]] = {
    toxic.__name__: toxic
    for toxic in (
        healthy,
        latency,
        slicer,
        duplicate,
        timeout,
        late,
        too_late,
        drip,
        reset_peer,
        hang_up,
        limit_data,
        answer,
        lie,
    )
}
LISTENERS: Final = ("refused", "full_backlog", "no_name", "plain_text_for_tls", "wrong_certificate")
"""What goes wrong before there is a connection."""


# --- The proxy --------------------------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """One line to one PSP, on a port of its own. Healthy until it is broken, and again once it is mended."""

    psp: str
    psp_port: int
    certificate: ssl.SSLContext
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Head and body of every whole request that came."""
    connections: int = 0
    keeps: bool = False
    """Whether a connection stays open for another request after an answer."""
    outlasted: bool = False
    """Whether somebody listened to a drip to its end."""
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        self._toxic: Callable[[Line], Awaitable[None]] = healthy
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._deaf: list[socket.socket] = []
        self.url = f"http://{HOST}:{await self._listen()}"

    async def break_down(self, toxic: str, **parameters: Any) -> str:
        """From now on every request meets the toxic. Gives the address to send to, another one where nobody may be reached."""
        self.struck.clear()
        if toxic not in LISTENERS:
            self._toxic = lambda line: TOXICS[toxic](line, **parameters)
            return self.url
        self.struck.set()  # whoever sends cannot but meet it
        match toxic:
            case "refused":
                return f"http://{HOST}:{self._hold()}"
            case "full_backlog":
                return f"http://{HOST}:{self._fill()}"
            case "no_name":
                return NOBODY
            case "plain_text_for_tls":
                self._toxic = plain_text
                return self.url.replace("http", "https")
            case _:
                return f"https://{HOST}:{await self._listen(self.certificate)}"

    def mend(self) -> None:
        """Whoever sends to :attr:`url` from now on is heard."""
        self._toxic, self.keeps = healthy, False

    async def calm(self) -> None:
        """Wait until everything that is under way has arrived."""
        await asyncio.gather(*self._tasks)

    async def aclose(self) -> None:
        """May be called twice."""
        for listener in self._listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for deaf in self._deaf:
            deaf.close()
        await asyncio.sleep(0)  # what was closed is torn down in the loop's next round

    async def _listen(self, tls: ssl.SSLContext | None = None) -> int:
        listener = await asyncio.start_server(self._accept, HOST, 0, ssl=tls)
        self._listeners.append(listener)
        port: int = listener.sockets[0].getsockname()[1]
        return port

    def _hold(self) -> int:
        """A port where nobody listens, and that nobody else can take."""
        held = socket.socket()
        held.bind((HOST, 0))
        self._deaf.append(held)
        port: int = held.getsockname()[1]
        return port

    def _fill(self) -> int:
        """A listener that never accepts, with a queue that is full: whoever connects now gets no answer at all."""
        port = self._hold()
        self._deaf[-1].listen(0)
        while True:
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((HOST, port))
            self._deaf.append(filler)
            ready = select.poll()
            ready.register(filler, select.POLLOUT)
            if not ready.poll(50):  # ms; within this machine a connection is there at once, or never
                return port

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._converse(Line(self, reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, line: Line) -> None:
        try:
            while await line.begins():
                await self._toxic(line)
                if not self.keeps:
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass  # the caller has gone
        finally:
            await line.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A certificate that nobody has signed, for somebody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody.example")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    kept: Path = tmp_path_factory.mktemp("tls") / "pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    kept.write_bytes(private + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kept)
    return context


Proxies = Callable[[str, str], Awaitable[Proxy]]


@pytest_asyncio.fixture
async def proxies(certificate: ssl.SSLContext) -> AsyncIterator[Proxies]:
    """``await proxies(psp, url)``: a new line to the PSP at that address. All are closed at the end."""
    opened: list[Proxy] = []

    async def open_one(psp: str, url: str) -> Proxy:
        proxy = Proxy(psp, int(url.rpartition(":")[2]), certificate)
        await proxy.open()
        opened.append(proxy)
        return proxy

    yield open_one
    for proxy in opened:
        await proxy.aclose()


# --- The table --------------------------------------------------------------------------------------------------------

PSPS: Final = ("stripe", "adyen")
TRUTH: Final = "the truth"
NOT_SENT: Final = "NotProcessed not_sent"
LOST: Final = "Unknown connection_lost"
TIMEOUT: Final = "Unknown timeout"
UNREADABLE: Final = "Unknown unreadable"
FAILED: Final = "Unknown lookup_failed"


@dataclass(frozen=True)
class Row:
    """One fault. ``outcome`` is that of the first send, ``effect`` how often the PSP has done it by then."""

    fault: str
    toxic: str
    parameters: Mapping[str, Any]
    outcome: str
    effect: int
    lookup: str
    """What a lookup under the same fault says."""
    void: str | None = None
    """The outcome of a void, which names no amount, where it differs."""
    follow_up: str | None = None
    """The outcome of everything that follows a payment, where it differs."""
    kept: bool = False
    """It strikes a connection that was used before and kept."""
    only: str | None = None
    """The PSP that says such a thing, where the other one does not."""

    @property
    def card(self) -> str:
        """The outcome where a card has to be made known first: while that step fails no money has moved, so nothing is unknown.

        Only silence is, as a deadline does not say which step it ended. A lie about money is told in the second step.
        """
        first_step = self.outcome.startswith("Unknown") and self.outcome != TIMEOUT and self.toxic != "lie"
        return NOT_SENT if first_step else self.outcome

    def expected(self, kind: Kind) -> str:
        if kind is Kind.VOID and self.void is not None:
            return self.void
        return self.outcome if kind is Kind.AUTHORIZE or self.follow_up is None else self.follow_up


def row(fault: str, toxic: str, outcome: str, effect: int, lookup: str, /, **more: Any) -> Row:
    ours = {name: more.pop(name) for name in ("void", "follow_up", "kept", "only") if name in more}
    return Row(fault, toxic, more, outcome, effect, lookup, **ours)


# fmt: off
TABLE: Final = (
    #   the fault                              toxic                   first send      effect  lookup
    # Nothing can have left.
    row("connection refused",                 "refused",              NOT_SENT,        0, FAILED),
    row("nobody accepts the connection",      "full_backlog",         NOT_SENT,        0, FAILED),
    row("unknown host name",                  "no_name",              NOT_SENT,        0, FAILED),
    row("plain text in the place of TLS",     "plain_text_for_tls",   NOT_SENT,        0, FAILED),
    row("a certificate of somebody else",     "wrong_certificate",    NOT_SENT,        0, FAILED),
    # Silence: it may have happened.
    row("timeout before the effect",          "timeout",              TIMEOUT,         0, TIMEOUT, asked=False),
    row("timeout after the effect",           "timeout",              TIMEOUT,         1, TIMEOUT, asked=True),
    row("late delivery",                      "late",                 TIMEOUT,         1, TIMEOUT),
    row("delivery after the replay",          "too_late",             TIMEOUT,         0, TIMEOUT),
    row("slow drip",                          "drip",                 TIMEOUT,         1, TIMEOUT),
    # A line that breaks: it may have happened.
    row("reset in the middle of the request", "reset_peer",           LOST,            0, FAILED, at="request"),
    row("reset before it is forwarded",       "reset_peer",           LOST,            0, FAILED, at="request_end"),
    row("a kept connection that is dead",     "reset_peer",           LOST,            0, FAILED, at="request_end", kept=True),
    row("reset in the answer's headers",      "reset_peer",           LOST,            1, FAILED, at="headers"),
    row("reset in the answer's body",         "reset_peer",           LOST,            1, FAILED, at="body"),
    row("reset after the whole answer",       "reset_peer",           TRUTH,           1, TRUTH, at="end"),
    row("hung up without an answer",          "hang_up",              LOST,            1, FAILED),
    row("truncated answer",                   "limit_data",           LOST,            1, FAILED),
    # An answer that is none.
    row("garbage 200 for the answer",         "answer",               UNREADABLE,      1, UNREADABLE, status=200, body=b"<<<>>>", asked=True),
    row("garbage 200 without asking",         "answer",               UNREADABLE,      0, UNREADABLE, status=200, body=b"<<<>>>", asked=False),
    row("empty 200 for the answer",           "answer",               UNREADABLE,      1, UNREADABLE, status=200, body=b"", asked=True),
    row("empty 200 without asking",           "answer",               UNREADABLE,      0, UNREADABLE, status=200, body=b"", asked=False),
    row("wrong amount",                       "lie",  "Unknown mismatch_amount",       1, "Unknown mismatch_amount", about="amount", void=TRUTH),
    row("wrong currency",                     "lie",  "Unknown mismatch_currency",     1, "Unknown mismatch_currency", about="currency", void=TRUTH),
    # Answers of the table by their status.
    row("500 before the effect",              "answer", "Unknown http_500",            0, FAILED, status=500, body="api_error", asked=False),
    row("500 after the effect",               "answer", "Unknown http_500",            1, FAILED, status=500, body="api_error", asked=True),
    row("502 with HTML before the effect",    "answer", "Unknown http_502",            0, FAILED, status=502, body=HTML, asked=False),
    row("502 with HTML after the effect",     "answer", "Unknown http_502",            1, FAILED, status=502, body=HTML, asked=True),
    row("503 with Retry-After",               "answer", "Unknown http_503",            0, FAILED, status=503, body=b"", asked=False, headers={"Retry-After": "1"}),
    row("504 after the effect",               "answer", "Unknown http_504",            1, FAILED, status=504, body=HTML, asked=True),
    row("409 in flight",                      "answer", "Unknown http_409",            0, FAILED, status=409, body="idempotency_key_in_use/704", asked=False),
    row("429 lock_timeout",                   "answer", "Unknown http_429",            0, FAILED, status=429, body="lock_timeout", asked=False, only="stripe"),
    row("503 with 703, transient",            "answer", "Unknown http_503",            0, FAILED, status=503, body="703", asked=False, only="adyen", headers={"transient-error": "true"}),
    row("400 with a code of no list",         "answer", "Unknown http_400",            0, FAILED, status=400, body="a_new_code", asked=False),
    row("400 with a code of the list",        "answer", "NotProcessed rejected",       0, FAILED, status=400, body="parameter_missing/702", asked=False, follow_up="Declined provider_refused"),
    row("429",                                "answer", "NotProcessed rate_limited",   0, FAILED, status=429, body="rate_limit", asked=False),
    row("401",                                "answer", "NotProcessed credentials",    0, FAILED, status=401, body="000", asked=False),
    row("403",                                "answer", "NotProcessed credentials",    0, FAILED, status=403, body="901", asked=False),
    # Trouble that changes nothing.
    row("duplicate delivery, first answer",   "duplicate",            TRUTH,           1, TRUTH, answer=0),
    row("duplicate delivery, second answer",  "duplicate",            TRUTH,           1, TRUTH, answer=1),
    row("latency within the deadline",        "latency",              TRUTH,           1, TRUTH),
    row("both ways in slices",                "slicer",               TRUTH,           1, TRUTH),
)
# fmt: on


class Faults:
    """The table, by row and PSP."""

    COUNT: Final = len(TABLE)
    pairs: Final = [(row, psp) for row in TABLE for psp in PSPS if row.only in {None, psp}]

    @staticmethod
    def named(fault: str) -> Row:
        (found,) = [row for row in TABLE if row.fault == fault]
        return found


@pytest.fixture
def faults() -> type[Faults]:
    return Faults
