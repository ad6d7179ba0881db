"""Forks gateway processes from one that has imported everything: a process a cell, without two seconds of imports each.

It reads orders from its standard input and writes what happened to its standard output, a JSON line each:

* ``{"order": 1, "serve": true, "environment": {…}, "log": "…"}`` starts a server; ``{"order": 1, "pid": …, "port": …}`` says where.
* ``{"order": 2, "serve": false, …}`` starts a worker.
* ``{"order": 3, "words": ["keys", "list", …], …}`` starts `gateway keys list …`, with this environment and nothing else of ours;
  with ``errors`` its stderr goes to that file.
* ``{"order": 4, "kill": pid}`` ends one with ``SIGKILL``.
* ``{"ended": pid, "signal": 9}`` or ``{"ended": pid, "code": 0}`` comes for each process that ends, however that was.

Its children die with it, and it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from importlib import import_module
from typing import Any

import uvicorn

from gateway import cli
from gateway.app import create_app
from gateway.settings import load_settings
from gateway.worker import run_worker

PR_SET_PDEATHSIG = 1
LOADED_LATE = (
    "gateway.admin",
    "gateway.hindsight",
    "gateway.listen",
    "gateway.migrate",
    "gateway.rotation",
    "gateway.verify",
    "providers.adyen",
    "providers.stripe",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)
"""What a process imports only once it is told what to do."""


def become(order: dict[str, Any], listening: socket.socket | None, forge: int) -> None:
    """The child, until it ends: what its words say, or a server or a worker as `gateway serve` and `gateway worker` run them."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != forge:  # it ended before that was said
        return
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(
        log if "errors" not in order else os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2
    )
    if "words" in order:
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv[1:] = order["words"]
        cli.app()
        return
    os.environ.update(order["environment"])
    settings = load_settings()
    if listening is None:
        asyncio.run(run_worker(settings))
        return
    config = uvicorn.Config(
        create_app(settings),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        lifespan="on",
        timeout_keep_alive=75,  # as `gateway serve`: the default is the client's own, and the two would meet
    )
    uvicorn.Server(config).run(sockets=[listening])


class Forge:
    """The parent of them all."""

    def __init__(self) -> None:
        self.alive: set[int] = set()

    def obey(self, order: dict[str, Any]) -> None:
        if "kill" not in order:
            self.start(order)
            return
        self.bury()  # a number that was given back must not be killed in its next life
        if order["kill"] in self.alive:
            os.kill(order["kill"], signal.SIGKILL)

    def start(self, order: dict[str, Any]) -> None:
        """Fork a child. A server's socket listens before it does, so that its clients only have to wait."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=128) if order.get("serve") else None
        forge, pid = os.getpid(), os.fork()
        if pid == 0:
            code: object = 1
            try:
                become(order, listening, forge)
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
            except BaseException:  # a child that fails says why in its log
                traceback.print_exc()
            finally:
                end(code if isinstance(code, int) else 1)
        self.alive.add(pid)
        tell({"order": order["order"], "pid": pid, "port": listening.getsockname()[1] if listening else None})
        if listening is not None:
            listening.close()

    def bury(self) -> None:
        """Tell of every child that has ended."""
        while self.alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.alive.remove(pid)
            how = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}
            tell({"ended": pid, **how})

    def end(self) -> None:
        """Kill them all, and wait until they are gone."""
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
        for pid in self.alive:
            os.waitpid(pid, 0)


def end(code: int) -> None:
    """End this process as its interpreter would, and leave alone what the forge has registered."""
    threading._shutdown()  # type: ignore[attr-defined]  # what waits for its threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    for name in LOADED_LATE:
        import_module(name)
    gc.collect()
    gc.freeze()  # what is loaded by now is shared with every child, as long as nobody writes to it
    noticed, notice = os.pipe()
    os.set_blocking(notice, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(notice, warn_on_full_buffer=False)
    forge, pending = Forge(), b""
    while True:
        ready, _, _ = select.select([0, noticed], [], [])
        if noticed in ready:
            os.read(noticed, 4096)
            forge.bury()
        if 0 in ready:
            read = os.read(0, 1 << 16)
            if not read:
                forge.end()
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                forge.obey(json.loads(line))


if __name__ == "__main__":
    main()
