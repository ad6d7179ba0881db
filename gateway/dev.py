"""`gateway dev`: the whole gateway on one machine, from nothing, with one command.

One supervisor, and everything else is its child: an embedded Postgres and Valkey, the sandbox PSPs,
the API and the worker. The rule: nothing is started before everything that can be refused has been
(the directory, the ports), and nothing outlives the supervisor, however it ends.

A child that dies is brought back where its state is on disk (API, worker, Postgres, Valkey); the
sandbox keeps its books in memory, so its death ends the run.
"""

import asyncio
import base64
import collections
import contextlib
import errno
import http.client
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, Self

from gateway.embedded import DirectoryLock, EmbeddedError, Postgres, Valkey, spawn, write_private
from providers.registry import ConfigError

SECRET_KEY = "sk_test_dev"  # noqa: S105 - fixed and public; refused outside `gateway dev`
PUBLISHABLE_KEY = "pk_test_dev"
MERCHANT = "mer_dev"
VIEWER = "dev@localhost"
ADYEN_MERCHANT_ACCOUNT = "InterlockDevECOM"

# Importing the application takes about two seconds on two busy cores; ten times that is a fault.
READY_TIMEOUT_S = 30.0
# A migration of a populated database may take a while, and must not be cut short.
MIGRATE_TIMEOUT_S = 300.0
# All gone within five seconds: three for our own processes, one each for Valkey and Postgres.
STOP_TIMEOUT_S = 3.0
DRAIN_TIMEOUT_S = 2.0
STORE_STOP_TIMEOUT_S = 1.0
RESTARTS_MAX = 3
RESTARTS_WINDOW_S = 60.0
WATCH_S = 0.1
POLL_S = 0.02
LOG_LINES_SHOWN = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DevError(RuntimeError):
    """`gateway dev` cannot start or go on. The message names the problem and the fix."""


def run(port: int, data: Path, traffic: float, history: int) -> None:
    """Start everything, say `gateway ready`, and keep it running until Ctrl-C or SIGTERM.

    With `traffic` payments a second go on beside it, after a back-fill of `history` payments, once.

    Exits 0 when asked to stop and 1, with the reason on stderr, when it cannot start or go on.
    Whatever it started is gone when it returns.
    """
    ports = Ports(port)
    data = data.absolute()
    try:
        with (
            _StopRequest() as request,
            _exclusive(data),
            _Supervisor(ports, data, request) as supervisor,
        ):
            supervisor.start(history if traffic > 0 else 0)
            with _traffic(ports, traffic):
                supervisor.watch()
    except _Stopped:
        _say(f"stopped; the data stays in {data}")
        raise SystemExit(0) from None
    except (DevError, EmbeddedError) as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error}. Check {data}, or choose another data directory (--data).")
    raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class Ports:
    """The four ports of a run: the gateway on `api`, the sandboxes on the two after it, the worker's metrics on the last."""

    api: int

    @property
    def stripe(self) -> int:
        """The sandbox Stripe's port."""
        return self.api + 1

    @property
    def adyen(self) -> int:
        """The sandbox Adyen's port."""
        return self.api + 2

    @property
    def worker(self) -> int:
        """Where the worker serves its metrics."""
        return self.api + 3

    @property
    def api_url(self) -> str:
        """Where the gateway answers."""
        return f"http://127.0.0.1:{self.api}"

    @property
    def stripe_url(self) -> str:
        """Where the sandbox Stripe answers."""
        return f"http://127.0.0.1:{self.stripe}"

    @property
    def adyen_url(self) -> str:
        """Where the sandbox Adyen answers."""
        return f"http://127.0.0.1:{self.adyen}"

    def refuse_taken(self) -> None:
        """Raise when one of the four is not free on 127.0.0.1, before anything is started."""
        if not 1 <= self.api <= 65535 - 3:
            raise DevError(f"--port {self.api} is out of range: choose one from 1 to 65532.")
        uses = {
            self.api: "the gateway",
            self.stripe: "sandbox Stripe",
            self.adyen: "sandbox Adyen",
            self.worker: "the worker's metrics",
        }
        for port, use in uses.items():
            with socket.socket() as probe:
                # As the servers themselves do: a closed connection's port in TIME_WAIT is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    why = "is taken" if error.errno == errno.EADDRINUSE else f"fails ({error})"
                    raise DevError(
                        f"Port {port} (for {use}) {why}. Stop what listens there, or choose others "
                        f"with --port N: it uses N to N+3."
                    ) from error


class _Stopped(BaseException):
    """Somebody asked us to stop."""


class _StopRequest:
    """Ctrl-C, SIGTERM or a closed terminal, heard between two steps.

    The first one only sets a flag: an exception out of a signal handler can come up in the middle
    of a fork, where Python drops it. A second one does not wait for the step to end.
    """

    def __init__(self) -> None:
        self._heard = False

    def __enter__(self) -> Self:
        self._before = {kind: signal.signal(kind, self._hear) for kind in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _hear(self, _signal: int, _frame: FrameType | None) -> None:
        if self._heard:
            raise _Stopped
        self._heard = True

    def check(self) -> None:
        """Raise when somebody asked."""
        if self._heard:
            raise _Stopped

    def pause(self, seconds: float) -> None:
        """Sleep a little, unless somebody asked."""
        self.check()
        time.sleep(seconds)


@contextlib.contextmanager
def _exclusive(data: Path) -> Iterator[None]:
    lock = DirectoryLock.take(data)
    try:
        yield
    finally:
        lock.release()


class _Restartable(Protocol):
    """What the watch needs to know of a child."""

    def is_alive(self) -> bool: ...

    def restart(self) -> None: ...


class _Child:
    """One of our own processes: `python -m gateway.cli …`, its output in a log file."""

    def __init__(self, name: str, arguments: list[str], env: dict[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._argv = [sys.executable, "-P", "-m", "gateway.cli", *arguments]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # SIGKILL, when we die without a word: a process that drains could hang, and all of ours
        # are built to be killed on any line.
        self._process = spawn(self._argv, log=self.log, death_signal=signal.SIGKILL, env=self._env)

    restart = start

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask_to_stop(self) -> None:
        if self._process is not None and self.is_alive():
            self._process.terminate()

    def wait(self, deadline: float) -> bool:
        """Whether it ended by then."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """How it ended, and the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        shown = "\n".join(f"  | {line}" for line in lines)
        return f"{_ending(self.exit_code)}. The end of {self.log}:\n{shown}"


def _ending(code: int | None) -> str:
    if code is None:
        return "is still running"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


@dataclass
class _Watched:
    """A child that is brought back, but not for ever."""

    name: str
    child: _Restartable
    restarts: collections.deque[float] = field(default_factory=collections.deque)

    def may_restart(self) -> bool:
        now = time.monotonic()
        while self.restarts and self.restarts[0] < now - RESTARTS_WINDOW_S:
            self.restarts.popleft()
        self.restarts.append(now)
        return len(self.restarts) <= RESTARTS_MAX


class _Supervisor:
    """Starts the children in order, watches them, stops them in the opposite order."""

    def __init__(self, ports: Ports, data: Path, request: _StopRequest) -> None:
        self._request = request
        self._ports = ports
        self._data = data
        self._logs = data / "logs"
        self._began = time.monotonic()
        self._postgres: Postgres | None = None
        self._valkey: Valkey | None = None
        self._sandbox: _Child | None = None
        self._serving: list[_Child] = []
        self._watched: list[_Watched] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is _Stopped:
            _say("stopping")
        self.stop()

    def start(self, history: int) -> None:
        """From nothing to `gateway ready`; a back-fill of `history` payments is done before anybody is served."""
        self._ports.refuse_taken()
        self._logs.mkdir(mode=0o700, exist_ok=True)
        env = self._base_environment()

        # The sandbox needs no store: it imports its code while the stores start.
        sandbox_ports = ["--stripe-port", str(self._ports.stripe)]
        sandbox_ports += ["--adyen-port", str(self._ports.adyen)]
        self._sandbox = self._started("sandbox", ["sandbox", *sandbox_ports], env)
        env |= self._stores()
        self._write_environment(env)
        self._migrate(env)
        if history:
            self._fill(env, history)
        _say("starting the API, the worker and the sandboxes")

        api = self._started("api", ["serve", "--port", str(self._ports.api)], env)
        self._serving.append(api)
        worker = self._started("worker", ["worker"], env)
        self._serving.append(worker)
        link = self._link(env["GATEWAY_DATABASE_URL"])  # while they start
        self._watched += [_Watched("api", api), _Watched("worker", worker)]

        self._wait("sandbox", self._sandbox, lambda: _listens(self._ports.stripe))
        self._wait("sandbox", self._sandbox, lambda: _listens(self._ports.adyen))
        self._wait("api", api, lambda: _answers_ready(self._ports.api))
        self._wait("worker", worker, lambda: _listens(self._ports.worker))
        _say(_banner(self._ports, self._data, time.monotonic() - self._began, link))

    def _link(self, database_url: str) -> str:
        """An address that signs into the console once."""
        self._request.check()
        # It takes what the API takes to import, and --help and a refused start need none of it.
        from gateway.console.commands import first_link  # noqa: PLC0415

        try:
            token = asyncio.run(first_link(database_url, VIEWER, MERCHANT))
        except ConfigError as error:
            raise DevError(str(error)) from error
        return f"{self._ports.api_url}/console/link/{token}"

    def watch(self) -> NoReturn:
        """Bring back what dies; raise when something cannot be brought back."""
        while True:
            self._request.pause(WATCH_S)
            if self._sandbox is not None and not self._sandbox.is_alive():
                raise DevError(f"The sandbox {self._sandbox.last_words()}")
            for watched in self._watched:
                if not watched.child.is_alive():
                    self._bring_back(watched)

    def stop(self) -> None:
        """Stop everything within five seconds: first who takes work, last who keeps it."""
        for kind in STOP_SIGNALS:
            signal.signal(kind, signal.SIG_IGN)  # a second Ctrl-C must not cut this short
        begin = time.monotonic()
        for child in self._serving:
            child.ask_to_stop()
        for child in self._serving:
            # The sandbox answers their last calls: it goes after them.
            child.wait(begin + DRAIN_TIMEOUT_S)
        ours = [*self._serving, *([self._sandbox] if self._sandbox else [])]
        if self._sandbox is not None:
            self._sandbox.ask_to_stop()
        for child in ours:
            if not child.wait(begin + STOP_TIMEOUT_S):
                _say(f"{child.name} did not stop within {STOP_TIMEOUT_S:.0f} s and was killed")
                child.kill()
        if self._valkey is not None:
            self._valkey.stop(STORE_STOP_TIMEOUT_S)
        if self._postgres is not None:
            self._postgres.stop(STORE_STOP_TIMEOUT_S)

    def _started(self, name: str, arguments: list[str], env: dict[str, str]) -> _Child:
        self._request.check()
        child = _Child(name, arguments, env, self._logs)
        child.start()
        return child

    def _stores(self) -> dict[str, str]:
        """Start Postgres and Valkey, unless the environment names others; say where they are."""
        env = {}
        # A shell that has read an earlier run's `env` names that run's stores, long gone: not ours.
        theirs = {} if "GATEWAY_DEV" in os.environ else os.environ
        if external := theirs.get("GATEWAY_REDIS_URL"):
            _say("using the Redis that GATEWAY_REDIS_URL names")
            env["GATEWAY_REDIS_URL"] = external
        else:
            self._valkey = Valkey.start(self._data / "valkey")
            self._watched.append(_Watched("valkey", self._valkey))
            env["GATEWAY_REDIS_URL"] = self._valkey.url
        if external := theirs.get("GATEWAY_DATABASE_URL"):
            _say("using the Postgres that GATEWAY_DATABASE_URL names")
            owner = theirs.get("GATEWAY_MIGRATE_DATABASE_URL", external)
            return env | {"GATEWAY_DATABASE_URL": external, "GATEWAY_MIGRATE_DATABASE_URL": owner}
        directory = self._data / "postgres"
        _say("starting Postgres" if (directory / "cluster").exists() else "creating the database")
        self._postgres = Postgres.start(directory)
        # First of all: who depends on it must find it when brought back.
        self._watched.insert(0, _Watched("postgres", self._postgres))
        return env | {
            "GATEWAY_DATABASE_URL": self._postgres.app_url,
            "GATEWAY_MIGRATE_DATABASE_URL": self._postgres.owner_url,
        }

    def _migrate(self, env: dict[str, str]) -> None:
        _say("migrating")
        migrate = self._started("migrate", ["migrate"], env)
        self._serving.append(migrate)  # so that a Ctrl-C in the middle stops it too
        deadline = time.monotonic() + MIGRATE_TIMEOUT_S
        while migrate.is_alive():
            self._request.pause(POLL_S)
            if time.monotonic() > deadline:
                raise DevError(f"The migration takes too long; its log is {migrate.log}.")
        if migrate.exit_code != 0:
            raise DevError(f"The migration {migrate.last_words()}")
        self._serving.remove(migrate)

    def _fill(self, env: dict[str, str], payments: int) -> None:
        """Write a month of payments that were never made, unless they are there."""
        self._request.check()
        # They take what the API takes to import, and only --traffic needs them.
        from gateway.demo.backfill import backfill  # noqa: PLC0415
        from gateway.settings import Settings  # noqa: PLC0415

        began, named = time.monotonic(), ("DEV", "CONFIG", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "VAULT_KEY")
        settings = Settings.model_validate({name.lower(): env[f"GATEWAY_{name}"] for name in named})
        try:
            with _progress(self._request) as tell:
                filled = asyncio.run(backfill(settings, env, tell, payments=payments))
        except ConfigError as error:
            raise DevError(str(error)) from error
        if filled.payments:
            took_s = time.monotonic() - began
            _say(f"back-filled {filled.payments:,} payments of 30 days ({filled.rows:,} rows) in {took_s:.1f} s")
        else:
            _say("the back-fill of an earlier start is there: nothing was added")

    def _wait(self, name: str, child: _Child, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            if not child.is_alive():
                raise DevError(f"The {name} {child.last_words()}")
            if time.monotonic() > deadline:
                raise DevError(f"The {name} is not ready after {READY_TIMEOUT_S:.0f} s and {child.last_words()}")
            self._request.pause(POLL_S)

    def _bring_back(self, watched: _Watched) -> None:
        child = watched.child
        how = _ending(child.exit_code) if isinstance(child, _Child) else "died"
        if not watched.may_restart():
            words = child.last_words() if isinstance(child, _Child) else "died again."
            raise DevError(
                f"The {watched.name} ended more than {RESTARTS_MAX} times within "
                f"{RESTARTS_WINDOW_S:.0f} s and is not started again. It {words}"
            )
        _say(f"{watched.name} {how}; starting it again")
        child.restart()

    def _base_environment(self) -> dict[str, str]:
        """What every process of the run is told, but for the stores."""
        known = _dev_secrets(self._data / "secrets.toml")
        accounts = self._data / "accounts.toml"
        accounts.write_text(_accounts(self._ports))
        webhooks = f"{self._ports.api_url}/v1/webhooks"
        return dict(os.environ) | {
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "GATEWAY_DEV": "1",
            "GATEWAY_WEBHOOKS_ALLOW_LOOPBACK": "1",
            "GATEWAY_CONFIG": str(accounts),
            "GATEWAY_PUBLIC_URL": self._ports.api_url,
            "GATEWAY_WORKER_METRICS_PORT": str(self._ports.worker),
            "GATEWAY_SECRET_KEY": known["secret_key"],
            "GATEWAY_VAULT_KEY": known["vault_key"],
            # Always ours: a real key from the user's shell must never meet a sandbox, or worse.
            "STRIPE_API_KEY": "sk_test_sandbox",
            "STRIPE_WEBHOOK_SECRET": known["stripe_webhook_secret"],
            "ADYEN_API_KEY": "adyen_test_sandbox",
            "ADYEN_HMAC_KEY": known["adyen_hmac_key"],
            "ADYEN_MERCHANT_ACCOUNT": ADYEN_MERCHANT_ACCOUNT,
            "GATEWAY_SANDBOX_STRIPE_WEBHOOK_URL": f"{webhooks}/stripe",
            "GATEWAY_SANDBOX_ADYEN_WEBHOOK_URL": f"{webhooks}/adyen",
        }

    def _write_environment(self, env: dict[str, str]) -> None:
        """For a second terminal: `set -a; . .gateway/env; set +a; gateway verify`."""
        ours = {name: value for name, value in env.items() if os.environ.get(name) != value}
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in sorted(ours.items()))
        write_private(self._data / "env", "".join(lines))


def _dev_secrets(path: Path) -> dict[str, str]:
    """The secrets of this data directory: made once and kept, since sealed cards depend on them."""
    known: dict[str, str] = {}
    if path.exists():
        try:
            known = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DevError(
                f"{path} cannot be read ({error}). Repair it, or move {path.parent} away to start "
                "afresh: cards in its vault cannot be opened without it."
            ) from error
    fresh = {
        "secret_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "vault_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "stripe_webhook_secret": "whsec_" + secrets.token_hex(24),
        "adyen_hmac_key": secrets.token_hex(32),
    }
    if fresh.keys() - known.keys():
        known = fresh | known
        write_private(path, "".join(f'{name} = "{value}"\n' for name, value in known.items()))
    return known


def _accounts(ports: Ports) -> str:
    return f"""\
# Written by `gateway dev` at every start: changes here are lost.

[accounts.stripe]
merchant = "{MERCHANT}"
provider = "stripe"
api_key_env = "STRIPE_API_KEY"
webhook_secret_env = "STRIPE_WEBHOOK_SECRET"
base_url = "{ports.stripe_url}"
enabled = ["incremental_authorization", "several_captures"]

[accounts.adyen]
merchant = "{MERCHANT}"
provider = "adyen"
api_key_env = "ADYEN_API_KEY"
merchant_account = "{ADYEN_MERCHANT_ACCOUNT}"
hmac_key_env = "ADYEN_HMAC_KEY"
environment = "test"
base_url = "{ports.adyen_url}"
"""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _banner(ports: Ports, data: Path, took_s: float, link: str) -> str:
    return f"""
gateway ready in {took_s:.1f} s

  API              {ports.api_url}
  docs             {ports.api_url}/docs
  console          {link}
                   signs in once within 15 minutes; another: gateway users link {VIEWER}
  sandbox Stripe   {ports.stripe_url}   books: {ports.stripe_url}/_sandbox/books
  sandbox Adyen    {ports.adyen_url}   books: {ports.adyen_url}/_sandbox/books
  metrics          {ports.api_url}/metrics and http://127.0.0.1:{ports.worker}/metrics (the worker's)
  secret key       {SECRET_KEY}
  publishable key  {PUBLISHABLE_KEY}
  data             {data}   logs: {data / "logs"}

Charge a card:

curl {ports.api_url}/v1/payments \\
  -H 'Authorization: Bearer {SECRET_KEY}' \\
  -H 'Idempotency-Key: order-1001' \\
  -H 'Content-Type: application/json' \\
  -d '{{"amount": 1999, "currency": "EUR", "confirm": true, "reference": "order-1001", \
"payment_method_data": {{"type": "card", "card": {{"number": "4242424242424242", \
"exp_month": 12, "exp_year": 2030, "cvc": "123"}}}}}}'

Ctrl-C stops everything.
"""


@contextlib.contextmanager
def _traffic(ports: Ports, payments_per_s: float) -> Iterator[None]:
    """Run the stream of `--traffic` beside the block, if it is wanted."""
    if payments_per_s <= 0:
        yield
        return
    from gateway.demo import stream  # noqa: PLC0415

    sandboxes = {"stripe": ports.stripe_url, "adyen": ports.adyen_url}
    with stream.running(ports.api_url, SECRET_KEY, sandboxes, payments_per_s, _say):
        yield


@contextlib.contextmanager
def _progress(request: _StopRequest) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and nothing elsewhere. Whoever moves it is stopped where somebody asked."""
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("payments of the last 30 days", total=None)

        def tell(done: int, total: int) -> None:
            request.check()
            bar.update(task, completed=done, total=total)

        yield tell


def _say(text: str) -> None:
    # Whoever read our output may be gone (`gateway dev | head`, a closed terminal): go on without.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"gateway dev: {text}\n")
