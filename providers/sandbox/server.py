"""The simulators on loopback ports of one process: Stripe and Adyen always, the third where it was asked for."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
import uvloop
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from providers.sandbox.adyen_app import adyen_app
from providers.sandbox.answers import TRANSPORT
from providers.sandbox.config import SandboxConfig
from providers.sandbox.control import closing_event
from providers.sandbox.neutral_app import neutral_app
from providers.sandbox.stripe_app import stripe_app

HOST = "127.0.0.1"
_BACKLOG = 2048
_LINGER_S = 1
"""Answers still being written at shutdown get this long."""


class FaultableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that shows the application its transport, to break it."""

    def on_message_begin(self) -> None:
        """Add the transport to the scope of the request that begins."""
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item] # ASGI types know only standard extensions


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to whoever runs the loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(port: int) -> socket.socket:
    """A listening socket on loopback; a taken port raises an OSError that names it."""
    # The protocol is spelled out because asyncio turns Nagle off only for sockets that name it;
    # else an answer in two writes waits 40 ms for the caller's delayed ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"port {port} on {HOST} is taken") from error
    listener.listen(_BACKLOG)
    return listener


def _server(app: Starlette) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=FaultableProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_LINGER_S,
        )
    )


async def serve(
    config: SandboxConfig,
    *,
    ready: Callable[..., None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve the PSPs until ``stop`` is set or this task is cancelled; handles no signals.

    ``ready`` is called with the ports of Stripe, Adyen and, where it was asked for, the third, once all answer. Requests
    that hang by a fault are let go at the end, so it ends at once.
    """
    wanted = [(stripe_app, config.stripe_port), (adyen_app, config.adyen_port), (neutral_app, config.neutral_port)]
    places = [(make, port) for make, port in wanted if port is not None]
    listeners: list[socket.socket] = []
    try:
        for _, port in places:
            listeners.append(bind(port))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    apps = [make(config) for make, _ in places]
    servers = [_server(app) for app in apps]
    running = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    stopped = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        while not all(server.started for server in servers):
            if any(task.done() for task in running):
                return  # the gather below raises what kept it from starting
            await asyncio.sleep(0.005)  # uvicorn has no event for "started"
        if ready is not None:
            ready(*(listener.getsockname()[1] for listener in listeners))
        await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        for app, server in zip(apps, servers, strict=True):
            closing_event(app).set()
            server.should_exit = True
        await asyncio.gather(*running)


def run(config: SandboxConfig, *, ready: Callable[..., None] | None = None) -> None:
    """Serve the PSPs until SIGTERM or SIGINT."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(config, ready=ready, stop=stop)

    uvloop.run(main())
