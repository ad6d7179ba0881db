"""The stage of a run: Postgres, Valkey, the PSP, the server under test, and whose core is whose.

Every process started here ends with the block that started it, and with this process however that
ends. All listen on 127.0.0.1 only.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu import process_tree
from gateway.embedded import Postgres, Valkey, spawn

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Psp:
    """The running simulated PSP."""

    url: str

    def set_delay(self, delay_ms: int) -> int:
        """Set the delay of all charges from now on. Returns how many charges there were so far."""
        request = urllib.request.Request(f"{self.url}/_bench/delay/{delay_ms}", method="POST")
        with urllib.request.urlopen(request, timeout=5) as response:
            return int(json.load(response)["charges"])


@dataclass(frozen=True)
class Stage:
    """What the variants run on."""

    postgres: Postgres
    valkey: Valkey
    psp: Psp
    directory: Path

    def processes(self) -> set[int]:
        """Every process of this run."""
        return process_tree(os.getpid(), self.postgres.pid, self.valkey.pid)


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Everything but the server under test, off the server's core, until the block ends.

    Postgres syncs every commit to the disk under `directory`, as it would in production.
    """
    os.sched_setaffinity(0, core_sets()[1])  # children inherit it
    with (
        Postgres.start(directory / "postgres") as postgres,
        Valkey.start(directory / "valkey") as valkey,
        psp_process(directory) as psp,
    ):
        yield Stage(postgres, valkey, psp, directory)


@contextmanager
def psp_process(directory: Path) -> Iterator[Psp]:
    """The simulated PSP in a process of its own, off the server's core, until the block ends."""
    with serving("psp", [sys.executable, "-m", "bench.psp"], {}, directory) as (_, url):
        yield Psp(url)


def core_sets() -> tuple[set[int], set[int]]:
    """The server's core and everybody else's; the same one where there is only one."""
    cores = sorted(_CORES)
    return {cores[0]}, set(cores[1:] or cores)


_CORES = frozenset(os.sched_getaffinity(0))  # before we confine ourselves


@contextmanager
def serving(
    name: str, argv: list[str], env: Mapping[str, str], directory: Path, *, own_core: bool = False
) -> Iterator[tuple[int, str]]:
    """A server, started with `--port N`, until the block ends: its pid and its URL.

    Raises RuntimeError with the end of its log when it does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = directory / f"{name}.log"
    server_core, other_cores = core_sets()
    os.sched_setaffinity(0, server_core if own_core else other_cores)  # children inherit it
    try:
        process = spawn(
            [*argv, "--port", str(port)],
            log=log,
            death_signal=signal.SIGKILL,
            env=environment(env),
            cwd=ROOT,
        )
    finally:
        os.sched_setaffinity(0, other_cores)
    try:
        if not _takes_connections(process, port):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            raise RuntimeError(f"{name} did not start. Its last words:\n{tail}")
        yield process.pid, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of another gateway, and with `own`."""
    inherited = {name: value for name, value in os.environ.items() if "GATEWAY" not in name}
    return inherited | dict(own)


def load(url: str, body: str, *options: str) -> dict[str, Any]:
    """Run the load generator (`bench.load`) to its end. Returns what it printed."""
    argv = [sys.executable, "-m", "bench.load", "--url", url, "--body", body, *options]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, timeout=LOAD_TIMEOUT_S, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _takes_connections(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False
