"""Answers on the wire, right ones and broken ones.

A broken answer needs the connection itself. ``server.FaultableProtocol`` hands it over in the ASGI
scope; under any other server the connection is closed as well as that server can.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

TRANSPORT = "interlock.sandbox.transport"
"""The key of ``scope["extensions"]`` under which the protocol leaves its transport."""

_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer, as it is kept for an idempotency key."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


class HangingResponse(Response):
    """No answer, ever: waits until the caller hangs up or the sandbox shuts down."""

    def __init__(self, closing: asyncio.Event) -> None:
        super().__init__()
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, then leave the connection dead."""
        waits = [
            asyncio.ensure_future(_disconnected(receive)),
            asyncio.ensure_future(self._closing.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        reset_connection(scope)
        await _disconnected(receive)


class ResetResponse(Response):
    """The connection is reset (RST) instead of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reset, then wait until the server has noticed."""
        reset_connection(scope)
        await _disconnected(receive)


class TruncatedResponse(Response):
    """All headers and half of the body, then the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Announce the whole length, send half."""
        body = bytes(self.body)
        await send(_start(self))
        await send(_chunk(body[: len(body) // 2]))
        transport = _transport(scope)
        if transport is not None:
            # close() flushes what was written first; the caller reads half a body, then the end.
            transport.close()
        await _disconnected(receive)


class DrippingResponse(Response):
    """The right answer in small pieces: every single read is quick, the whole is not."""

    def __init__(self, answer: Answer, headers: Mapping[str, str], pause_s: float, chunks: int):
        super().__init__(answer.body, answer.status, headers, answer.media_type)
        self._pause_s = pause_s
        self._chunks = max(chunks, 1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send piece by piece, for as long as somebody reads."""
        body = bytes(self.body)
        size = max(1, -(-len(body) // self._chunks))
        await send(_start(self))
        for start in range(0, len(body), size):
            await asyncio.sleep(self._pause_s)
            await send(_chunk(body[start : start + size]))
        await send({"type": "http.response.body", "body": b""})


def _start(response: Response) -> Message:
    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": response.raw_headers,
    }


def _chunk(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _transport(scope: Scope) -> asyncio.Transport | None:
    transport: asyncio.Transport | None = scope.get("extensions", {}).get(TRANSPORT)
    return transport


def reset_connection(scope: Scope) -> None:
    """Close the caller's connection so that its next read fails with "connection reset"."""
    transport = _transport(scope)
    if transport is None:
        raise ConnectionResetError("this server cannot reset a connection; use sandbox.serve")
    number = transport.get_extra_info("socket").fileno()
    if number >= 0:
        # SO_LINGER belongs to the open connection, not to the descriptor: set through a copy, it
        # makes the server's own close send RST. uvloop's socket object has no setsockopt itself.
        with socket.socket(fileno=os.dup(number)) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
    transport.abort()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def bad_gateway(status: int, headers: Mapping[str, str]) -> Answer:
    """What a proxy in front of a PSP says when it cannot reach it."""
    words = f"{status} {HTTPStatus(status).phrase}"
    page = f"<html><head><title>{words}</title></head><body><h1>{words}</h1></body></html>"
    return Answer(status, page.encode(), headers, "text/html")
