"""How instruments are read: as text for Prometheus, of one process or of all that serve one port.

Processes that share a port (``gateway serve --workers``) cannot be scraped one by one. They keep their values in files of one directory,
which ``PROMETHEUS_MULTIPROC_DIR`` names, and each of them answers for all. A process that died keeps what it had counted, since that
happened, and loses its gauges, since they say how something is. With the last of them all is gone: counters begin anew, which
Prometheus expects. Where the server's first process was killed, the next server of this machine takes its files away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from providers.registry import ConfigError

SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a directory of our own is made in it, which nobody else may read
"""Where files are never written to a disk: a charge must not wait for one."""
_PREFIX: Final = "interlock-metrics-"
_HELD: Final = "held"
"""A file that the server's first process keeps locked: however that ends, the lock ends with it."""


@contextmanager
def shared() -> Iterator[None]:
    """Let the processes that are started meanwhile keep their values together, and remove what servers that were killed have left.

    Does nothing where the variable names a directory already.
    """
    if SHARED in os.environ:
        yield
        return
    within = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _clear(within)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=within))
    with (directory / "begun").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (directory / "begun").rename(directory / _HELD)  # whoever clears up never sees it unlocked
        os.environ[SHARED] = str(directory)
        try:
            yield
        finally:
            del os.environ[SHARED]
            shutil.rmtree(directory, ignore_errors=True)


def _clear(within: Path) -> None:
    """Remove what was left by servers that were killed: nobody holds their lock, and none of their processes lives."""
    for directory in within.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (directory / _HELD).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not any(map(_alive, _pids(directory, "*.db"))):
                shutil.rmtree(directory, ignore_errors=True)


def text(registry: CollectorRegistry) -> bytes:
    """Everything that the instruments of ``registry`` say; where processes share their values, what those of all of them say."""
    directory = os.environ.get(SHARED)
    if directory is None:
        return generate_latest(registry)
    _bury(Path(directory))
    together = CollectorRegistry()
    MultiProcessCollector(together, directory)  # type: ignore[no-untyped-call]
    return generate_latest(together)


def _bury(directory: Path) -> None:
    """Remove the gauges of processes that are gone: how it was with them says nothing of now."""
    for pid in _pids(directory, "gauge_live*.db"):
        if not _alive(pid):
            mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


def _pids(directory: Path, files: str) -> set[int]:
    """The processes whose values ``files`` are, by their names."""
    return {int(file.stem.rpartition("_")[2]) for file in directory.glob(files)}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@asynccontextmanager
async def served(host: str, port: int, read: Callable[[], bytes]) -> AsyncIterator[None]:
    """Serve ``/metrics``, which is what ``read`` gives, and ``/healthz`` meanwhile, by plain HTTP and without a key.

    Raises :class:`ConfigError` where the address cannot be listened at.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=read(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", alive)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(
                f"GATEWAY_WORKER_METRICS_PORT: {host}:{port} cannot be listened at ({error.strerror}). Several workers on one machine "
                "each need a port of their own; 0 serves no metrics."
            ) from None
        yield
    finally:
        await runner.cleanup()
