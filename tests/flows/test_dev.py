"""`gateway dev` as a person meets it: one command, a charge, and nothing left when it is over."""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.dev import RESTARTS_MAX, _Child, _Watched

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


@dataclass
class Dev:
    """A running `gateway dev`, and everything it has printed so far."""

    process: subprocess.Popen[bytes]
    port: int
    data: Path
    output: Path

    @property
    def printed(self) -> str:
        return self.output.read_text()

    def wait_for(self, pattern: str, within_s: float = START_TIMEOUT_S) -> str:
        """Wait until it has printed `pattern`, and return the match."""
        deadline = time.monotonic() + within_s
        while (found := re.search(pattern, self.printed)) is None:
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.02)
        return found.group()

    def stop(self, how: signal.Signals, within_s: float = STOP_TIMEOUT_S + 2) -> tuple[int, float]:
        """Send the signal; return the exit code and how long it took."""
        began = time.monotonic()
        self.process.send_signal(how)
        return _end_of(self, within_s), time.monotonic() - began

    def left(self, within_s: float = 1.0) -> list[str]:
        """The processes of this run that are still there, after a moment's grace."""
        deadline = time.monotonic() + within_s
        while (found := _processes_of(self.data)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return list(found.values())

    def children(self, name: str) -> list[int]:
        """The ids of the processes whose command line says `name`."""
        return [pid for pid, command in _processes_of(self.data).items() if name in command]


def _end_of(dev: Dev, within_s: float) -> int:
    """The exit code; one that does not end is killed, so that a failed test leaves nothing."""
    try:
        return dev.process.wait(within_s)
    except subprocess.TimeoutExpired:
        dev.process.kill()
        dev.process.wait()
        pytest.fail(f"did not end within {within_s} s:\n{dev.printed}")


def _processes_of(data: Path) -> dict[int, str]:
    """Every live process that works in `data` or was told of it, but for the supervisor itself.

    Postgres and Valkey change into their directories; our own processes are told of theirs by the
    environment. A zombie is none: its reaper is late, that is all.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            works_in = str((entry / "cwd").readlink())
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ours = works_in.startswith(str(data)) or os.fsencode(data) in told
            if alive and ours and " dev --port" not in command:
                found[int(entry.name)] = command
    return found


def _four_free_ports() -> int:
    """The first of four neighbouring ports that are free now."""
    while True:
        with contextlib.ExitStack() as probes:
            first = probes.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                for neighbour in (port + 1, port + 2, port + 3):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", neighbour))
                return port


def _begin(data: Path, output: Path, *options: str, port: int | None = None) -> Dev:
    port = port or _four_free_ports()
    argv = [sys.executable, "-P", "-m", "gateway.cli", "dev"]
    argv += ["--port", str(port), "--data", str(data), *options]
    # The servers of this machine are not the ones under test.
    ours = ("GATEWAY_", "STRIPE_", "ADYEN_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with output.open("ab") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT, env=env)
    return Dev(process, port, data, output)


@contextlib.contextmanager
def _running(data: Path, output: Path, *options: str) -> Iterator[Dev]:
    dev = _begin(data, output, *options)
    try:
        dev.wait_for("gateway ready")
        yield dev
    finally:
        if dev.process.poll() is None:
            dev.process.terminate()
        _end_of(dev, STOP_TIMEOUT_S + 2)


def _refused(data: Path, output: Path, port: int) -> str:
    """Run one that must refuse to start; return what it said."""
    dev = _begin(data, output, port=port)
    assert _end_of(dev, START_TIMEOUT_S) == 1
    return dev.printed


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("dev")
    with _running(directory / "data", directory / "output") as running:
        yield running


def _send_curl(command: str) -> tuple[int, dict[str, object]]:
    """Send what the printed curl would send: the words are the test, not the program."""
    words = iter(shlex.split(command.replace("\\\n", " "))[1:])
    url, body, headers = "", "", {}
    for word in words:
        match word:
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d":
                body = next(words)
            case _:
                url = word
    address = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=35)) as connection:
        connection.request("POST", address.path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def _answers(port: int, path: str) -> int:
    """The status of a GET, or 0 when nobody answers."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0


def _waits_until_ready(dev: Dev, within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while _answers(dev.port, "/readyz") != http.client.OK:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_printed_curl_charges_a_card(dev: Dev) -> None:
    curl = dev.wait_for(r"curl (?:.+\n)+")

    status, payment = _send_curl(curl)

    assert (status, payment["status"]) == (201, "succeeded")
    assert (payment["amount"], payment["currency"]) == (1999, "EUR")


def test_every_printed_address_answers(dev: Dev) -> None:
    addresses = re.findall(r"http://127\.0\.0\.1:(\d+)(/docs|/_sandbox/books|/metrics)", dev.printed)

    assert len(addresses) == 5
    for port, path in addresses:
        assert _answers(int(port), path) == http.client.OK, path


def test_the_printed_link_signs_in_to_the_console(dev: Dev) -> None:
    token = dev.wait_for(r"/console/link/\S+").rpartition("/")[2]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", dev.port, timeout=5)) as connection:
        connection.request("POST", "/console/link", body=f"token={token}", headers={"Sec-Fetch-Site": "same-origin"})
        answer = connection.getresponse()
        answer.read()
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        connection.request("GET", "/console", headers={"Cookie": cookie})
        page = connection.getresponse().read()

    assert b"dev@localhost" in page


def test_the_test_keys_and_the_data_directory_are_printed(dev: Dev) -> None:
    for word in ("sk_test_dev", "pk_test_dev", str(dev.data)):
        assert word in dev.printed


def test_secrets_are_for_their_owner_only(dev: Dev) -> None:
    for name in ("secrets.toml", "env", "postgres/passwords.json"):
        assert (dev.data / name).stat().st_mode & 0o777 == 0o600, name


def test_a_second_one_on_the_same_data_is_refused(dev: Dev, tmp_path: Path) -> None:
    said = _refused(dev.data, tmp_path / "output", _four_free_ports())

    assert f"process {dev.process.pid}" in said
    assert str(dev.data) in said
    assert "--data" in said


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_taken_port_is_named_before_anything_starts(which: int, tmp_path: Path) -> None:
    port = _four_free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + which))
        taken.listen()
        said = _refused(tmp_path / "data", tmp_path / "output", port)

    assert f"Port {port + which}" in said
    assert "--port" in said
    assert not (tmp_path / "data" / "postgres").exists()


@pytest.mark.parametrize("name", ["gateway.cli serve", "gateway.cli worker", "valkey-server"])
def test_a_killed_process_comes_back(dev: Dev, name: str) -> None:
    (pid,) = dev.children(name)

    os.kill(pid, signal.SIGKILL)

    deadline = time.monotonic() + START_TIMEOUT_S
    while dev.children(name) in ([], [pid]):
        assert time.monotonic() < deadline, dev.printed
        time.sleep(0.02)
    assert _waits_until_ready(dev)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping_leaves_nothing_and_the_next_start_has_the_data(how: signal.Signals, tmp_path: Path) -> None:
    with _running(tmp_path / "data", tmp_path / "first", "--traffic", "5", "--history", "300") as dev:
        assert "back-filled 300 payments" in dev.printed
        secrets = (dev.data / "secrets.toml").read_text()

        code, took_s = dev.stop(how)

        assert code == 0, dev.printed
        assert took_s < STOP_TIMEOUT_S
        assert dev.left() == []

    with _running(tmp_path / "data", tmp_path / "second", "--traffic", "1", "--history", "300") as again:
        assert (again.data / "secrets.toml").read_text() == secrets
        assert "nothing was added" in again.printed


def test_killing_the_supervisor_leaves_nothing_and_the_next_start_works(tmp_path: Path) -> None:
    with _running(tmp_path / "data", tmp_path / "first") as dev:
        dev.stop(signal.SIGKILL)

        assert dev.left(within_s=STOP_TIMEOUT_S) == []

    with _running(tmp_path / "data", tmp_path / "second") as again:
        assert _answers(again.port, "/readyz") == http.client.OK


def test_a_process_that_keeps_dying_is_given_up() -> None:
    watched = _Watched("api", _Child("api", ["serve"], {}, Path("logs")))

    allowed = [watched.may_restart() for _ in range(RESTARTS_MAX + 1)]

    assert allowed == [True] * RESTARTS_MAX + [False]


def test_a_sandbox_that_dies_ends_the_run_with_its_last_words(tmp_path: Path) -> None:
    with _running(tmp_path / "data", tmp_path / "output") as dev:
        (sandbox,) = dev.children("gateway.cli sandbox")

        os.kill(sandbox, signal.SIGKILL)

        assert _end_of(dev, STOP_TIMEOUT_S + 1) == 1
        assert "The sandbox was ended by SIGKILL" in dev.printed
        assert dev.left() == []


def test_stopping_in_the_middle_of_the_first_start_leaves_nothing(tmp_path: Path) -> None:
    dev = _begin(tmp_path / "data", tmp_path / "output")
    dev.wait_for("creating the database")

    code, _ = dev.stop(signal.SIGTERM, within_s=START_TIMEOUT_S)  # Postgres makes its files in one go, however slowly

    assert code == 0, dev.printed
    assert dev.left() == []
