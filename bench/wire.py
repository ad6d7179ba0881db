"""The least HTTP/1.1 that works: httptools on a raw asyncio protocol, keep-alive, no pipelining.

The simulated PSP, the floor and the load generator stand on it, so that none of them costs more
than what it measures. For loopback only: no TLS, no limits, no timeouts.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

REASONS = {200: b"OK", 201: b"Created", 404: b"Not Found", 409: b"Conflict", 502: b"Bad Gateway"}

Reply = tuple[int, bytes]
LOST: Reply = (0, b"the connection was lost")


def answer(status: int, body: bytes, headers: bytes = b"") -> bytes:
    """The bytes of a JSON answer; `headers` are whole lines, each with its line end."""
    return b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" % (
        status,
        REASONS[status],
        len(body),
        headers,
        body,
    )


class ServerConnection(asyncio.Protocol):
    """One accepted connection; a subclass's `handle` reads `self.url` and `self.body`.

    It is called once per whole request and must call `respond` once, now or later.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.body = b""

    def handle(self) -> None:
        raise NotImplementedError

    def respond(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, uninherited

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        self.handle()


class ClientConnection(asyncio.Protocol):
    """One keep-alive connection to a server; carries one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.done: Callable[[Reply], object] | None = None

    def send(self, request: bytes, done: Callable[[Reply], object]) -> None:
        """Send `request`; `done` is called once, with the reply or with `LOST`."""
        if self.transport.is_closing():
            done(LOST)
            return
        self.done = done
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, uninherited

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(LOST)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        self._finish((self.parser.get_status_code(), self.body))

    def _finish(self, reply: Reply) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(reply)


async def connect(host: str, port: int) -> ClientConnection:
    """A new connection, ready to send."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(ClientConnection, host, port)
    return connection
