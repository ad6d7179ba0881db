"""The process: quick to start, quick to stop, whatever hangs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.sandbox import SandboxConfig, run

ROOT = Path(__file__).parents[2]
PROGRAM = """
from providers.sandbox import SandboxConfig, run
run(SandboxConfig(stripe_port=0, adyen_port=0), ready=lambda a, b: print(a, b, flush=True))
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with started:
        yield started
        started.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_though_a_request_hangs(
    process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[0])
    base = f"http://127.0.0.1:{port}"
    httpx.post(f"{base}/_sandbox/faults", json={"fault": "timeout_before_effect"})
    with socket.create_connection(("127.0.0.1", port)) as hanging, httpx.Client() as idle:
        hanging.sendall(b"GET /v1/refunds HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ")
        hanging.sendall(b"sk_test_sandbox\r\n\r\n")
        while not idle.get(f"{base}/_sandbox/requests").json()["requests"]:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)  # it does not wait for the answer that hangs

    assert (process.returncode, errors) == (0, "")


def test_the_third_psp_is_there_only_when_it_is_asked_for(sandbox: Any) -> None:
    """The default start is what it was: two ports are told to ``ready``, and both answer."""
    assert SandboxConfig().neutral_port is None
    assert httpx.get(f"{sandbox.neutral_url}/_sandbox/clock").status_code == 200


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is taken"):
            run(SandboxConfig(stripe_port=0, adyen_port=port))
