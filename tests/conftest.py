"""The whole gateway for tests: a real Postgres and Valkey, the real sandbox PSPs, and the application beside or inside the test.

Everything starts on free ports, from the main thread, and dies with the test process (PR_SET_PDEATHSIG), however that ends.

* ``open_gateway`` runs the application inside the test, behind its ASGI door: quick, and the worker's functions are at hand.
* ``processes`` starts real `gateway serve` and `gateway worker` processes, to be killed on any line: forked from one that has
  imported everything. `gateway dev` and all that it starts start as they do for everybody.

Both work on ``database``, a fresh copy of a migrated one.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
import hypothesis
import psycopg
import pytest
import redis
import uvicorn
from fastapi import FastAPI
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from gateway.app import House, create_app, open_house
from gateway.embedded import SUPERUSER, Postgres, Valkey, spawn
from gateway.ids import PUBLICATION, ROUTING_VERSION, new_id
from gateway.invariants import Outside, Report, check_invariants, horizons, sandbox_arrivals, sandbox_entries
from gateway.migrate import migrate
from gateway.settings import Settings
from gateway.sweep import sweep
from gateway.vault import Keyring
from gateway.verify import reading
from idempotency.once import GatePolicy
from providers.sandbox.signatures import stripe_signature

TESTS: Final = Path(__file__).parent
HOST: Final = "127.0.0.1"
READY_S: Final = 60.0
"""Importing the application takes two seconds on two busy cores; thirty times that is a fault."""
SOON_S: Final = 40.0
"""How long a test waits for what the worker does within seconds, before it says that it never will."""

SECRETS: Final[Mapping[str, str]] = {
    "FLOWS_STRIPE_API_KEY": "sk_test_sandbox",
    "FLOWS_STRIPE_WEBHOOK_SECRET": "whsec_flows",
    "FLOWS_ADYEN_API_KEY": "adyen_test_sandbox",
    "FLOWS_ADYEN_HMAC_KEY": "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
    "FLOWS_NEUTRAL_TOKEN": "neutral_test_sandbox",
    "FLOWS_NEUTRAL_WEBHOOK_SECRET": "neutral_flows",
    "GATEWAY_SECRET_KEY": base64.b64encode(b"s" * 32).decode(),
    "GATEWAY_VAULT_KEY": base64.b64encode(b"v" * 32).decode(),
}
MERCHANT_ACCOUNT: Final = "FlowsECOM"
CARD: Final[Mapping[str, Any]] = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "cvc": "737"}


# How fast an example is made says nothing about the code; on a busy machine it would fail the test.
hypothesis.settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_machine")


# A shell ignores Ctrl-C for what it runs in the background, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The suite is a module of ours and not a test file: without this its assertions would say nothing when they fail.
pytest.register_assert_rewrite("providers.conformance")


connect_anywhere: Any = socket.socket.connect


def connect_here(self: socket.socket, address: Any) -> None:
    """Connect within this machine; anywhere else fails the test, and no adapter can take that for an answer."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("localhost", "127.0.0.1", "::1"):
        self.close()
        pytest.fail(f"a test tried to reach {address[0]}: only tests marked live may leave this machine")
    connect_anywhere(self, address)


_PROVED: Final[list[str]] = []
_HELD: Final[Counter[str]] = Counter()


@pytest.fixture(scope="session")
def proved() -> Callable[[str], None]:
    """Notes one line of counts, such as "kill matrix: 124 cells, 0 wrong", to be printed where the run ends."""
    return _PROVED.append


@pytest.fixture(scope="session")
def held() -> Counter[str]:
    """What was held to the published specifications so far, and found valid: counted, and printed where the run ends."""
    return _HELD


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where the run has several processes, each gives its counts to the one that prints."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["counts"] = {"proved": _PROVED, "held": dict(_HELD)}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    counts = getattr(node, "workeroutput", {}).get("counts")
    if counts:
        _PROVED.extend(counts["proved"])
        _HELD.update(counts["held"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much of the conformance suite ran, by adapter, and what the run proved."""
    conformance: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            file, _, rest = report.nodeid.partition("::")
            if file.endswith("test_conformance.py") and "::" in rest:
                adapter = rest.partition("::")[0].removeprefix("Test").lower()
                conformance.setdefault(adapter, Counter())[outcome] += 1
    lines = [f"conformance {name}: {counts.total()} cases, {_listed(counts)}" for name, counts in conformance.items()]
    if _HELD:
        _HELD["invalid"] += 0  # said in any case
        lines.append(f"held to the published specifications: {_listed(_HELD)}")
    if lines or _PROVED:
        terminalreporter.section("proved", sep="-")
    for line in (*lines, *_PROVED):
        terminalreporter.write_line(line)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))


LONG: Final = (
    "simulation/test_simulation.py",
    "webhooks/test_early_and_late.py",
    "kill/test_kill_matrix.py",
    "simulation/test_mutants.py",
    "proxy/test_fault_table.py",
    "fire/test_dependency_loss.py",
    "fire/test_clients_and_restarts.py",
    "kill/test_crash_points.py",
    "flows/test_policies.py",
)
"""The files that take a minute and more. They come first: what is begun last is waited for by one process alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = {TESTS / file: place for place, file in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path, len(LONG)))


def keep_what_is_loaded() -> None:
    """No collection walks it again: the SDKs, thousands of tests and the specifications are half a second of walking."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    keep_what_is_loaded()


def pytest_runtest_setup(item: pytest.Item) -> None:
    live = item.get_closest_marker("live") is not None
    socket.socket.connect = connect_anywhere if live else connect_here  # type: ignore[method-assign, assignment]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


# --- Processes --------------------------------------------------------------------------------------------------------


class Forked:
    """A process of the forge, with what is used of ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended = threading.Event()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired("gateway", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, how: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, how)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forge:
    """Talks to ``forge.py``, from which every `gateway …` of a test process is forked: two seconds of imports are done once."""

    def __init__(self, log: Path) -> None:
        self._numbers = itertools.count()
        self._started: dict[int, Future[Forked]] = {}
        with log.open("ab") as errors:
            self._running = subprocess.Popen(
                [sys.executable, "-P", str(TESTS / "forge.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(os.environ) | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        self._log = log
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()

    def fork(self, words: Sequence[str], env: Mapping[str, str], log: Path, errors: Path | None = None) -> Forked:
        """`gateway …` with this environment, its output appended to ``log``; what it says on stderr to ``errors``, if to another."""
        assert self._running.stdin is not None
        number, started = next(self._numbers), Future[Forked]()
        self._started[number] = started
        order = {"order": number, "words": list(words), "environment": dict(env), "log": str(log)}
        if errors is not None:
            order["errors"] = str(errors)
        self._running.stdin.write(json.dumps(order).encode() + b"\n")
        self._running.stdin.flush()
        return started.result(READY_S)

    def end(self) -> None:
        """It ends with its input, and all that it has forked with it."""
        assert self._running.stdin is not None
        self._running.stdin.close()
        self._running.wait(READY_S)
        self._hearing.join()

    def _hear(self) -> None:
        alive: dict[int, Forked] = {}
        assert self._running.stdout is not None
        with self._running.stdout as lines:
            for line in lines:
                told = json.loads(line)
                if "order" in told:
                    alive[told["pid"]] = Forked(told["pid"])
                    self._started.pop(told["order"]).set_result(alive[told["pid"]])
                else:
                    gone = alive.pop(told["ended"])
                    gone.returncode = -told["signal"] if "signal" in told else told["code"]
                    gone.ended.set()
        for started in self._started.values():
            started.set_exception(AssertionError(f"the forge has ended: {self._log.read_text()}"))


@pytest.fixture(scope="session")
def process_forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    ours = Forge(tmp_path_factory.mktemp("forge") / "log")
    yield ours
    ours.end()


GATEWAY: Final = ("-m", "gateway.cli")


class Process:
    """One of our own processes. It dies with the test process; ``kill`` is ``kill -9``.

    With a ``forge`` a plain `gateway …` is forked from it; whatever else is asked for gets an interpreter of its own.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path, forge: Forge | None = None) -> None:
        self.log = log
        self._argv = argv
        self._env = dict(os.environ) | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"} | dict(env)
        self._forge = forge
        self._running: subprocess.Popen[bytes] | Forked | None = None

    def start(self) -> None:
        if self._forge is not None and tuple(self._argv[:2]) == GATEWAY:
            self._running = self._forge.fork(self._argv[2:], self._env, self.log)
            return
        argv = [sys.executable, "-P", *self._argv]
        self._running = spawn(argv, log=self.log, death_signal=signal.SIGKILL, env=self._env)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def interrupt(self) -> None:
        """Ctrl-C."""
        assert self._running is not None
        self._running.send_signal(signal.SIGINT)

    def suspend(self) -> None:
        """Freeze it as a paused container or a stolen core would."""
        assert self._running is not None
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._running is not None
        self._running.send_signal(signal.SIGCONT)

    def wait(self) -> int:
        assert self._running is not None
        return self._running.wait(READY_S)

    def is_alive(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def _end(self, how: signal.Signals) -> None:
        if self._running is None:
            return
        self._running.send_signal(how)
        try:
            self._running.wait(10)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running = None

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def wait_until_it_answers(process: Process, url: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert process.is_alive(), process.printed
        assert time.monotonic() < deadline, process.printed
        time.sleep(0.02)


# --- The stores -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres.start(tmp_path_factory.mktemp("postgres"), fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey.start(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def flush(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Iterator[Valkey]:
    """The Valkey of the session, empty; whatever a test did to it, the next one finds it alive."""
    flush(valkey_server)
    yield valkey_server
    if valkey_server.is_alive():
        valkey_server.resume()
    else:
        valkey_server.restart()


@dataclass(frozen=True)
class Database:
    """A migrated database of its own, and a superuser's look into it."""

    url: str
    owner_url: str
    admin_url: str

    def rows(self, query: str, **params: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.admin_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, **params: Any) -> Any:
        (row,) = self.rows(query, **params)
        (value,) = row.values()
        return value

    def operations(self, payment_id: str) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM operation WHERE payment_id = %(id)s ORDER BY seq", id=payment_id)

    def publish(self, document: object, **row: Any) -> str:
        """Put a routing document in force as another process would, read or not, and tell its version. ``row`` is of the publication."""
        version, now = new_id(ROUTING_VERSION), datetime.now(UTC)
        self.rows(
            """INSERT INTO routing_version (id, merchant_id, livemode, number, name, document, hash, created_at, created_by)
            SELECT %(id)s, 'mer_dev', false, 1 + count(*), 'test', %(document)s, '', %(now)s, 'key_test'
            FROM routing_version WHERE merchant_id = 'mer_dev'""",
            id=version,
            document=Jsonb(document),
            now=now,
        )
        published = {"kind": "publish", "percent": 100, "shadow": False, "starts_at": now} | row
        self.rows(
            """INSERT INTO routing_publication (id, merchant_id, livemode, sequence, kind, version_id, percent, shadow, starts_at,
            reason, published_at, published_by) SELECT %(id)s, 'mer_dev', false, 1 + count(*), %(kind)s, %(version)s, %(percent)s,
            %(shadow)s, %(starts_at)s, 'for a test', %(now)s, 'key_test' FROM routing_publication WHERE merchant_id = 'mer_dev'""",
            id=new_id(PUBLICATION),
            version=version,
            now=now,
            **published,
        )
        return version

    def let_time_pass(self) -> None:
        """Every lease has run out and everything that waits is due: what a few seconds would do."""
        self.rows("UPDATE operation SET lease_until = now(), due_at = now() WHERE due_at IS NOT NULL")
        self.rows("UPDATE webhook_inbox SET due_at = now() WHERE due_at IS NOT NULL")
        self.rows("UPDATE delivery SET due_at = now() WHERE due_at IS NOT NULL")

    def row_counts(self) -> dict[str, int]:
        tables = (
            "payment",
            "operation",
            "change",
            "idempotency_key",
            "payment_method",
            "customer",
            "webhook_inbox",
        )
        return {table: self.value(f"SELECT count(*) FROM {table}") for table in tables}


@dataclass(frozen=True)
class Databases:
    """Copies of one migrated database."""

    server: Postgres
    template: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def create(self, template: str | None = None) -> tuple[str, Database]:
        name = f"flow_{next(self.numbers)}"
        url = self.server.create_database(name, template=template or self.template)
        return name, Database(url, self.server.url(name, role="interlock_owner"), self.server.url(name, role=SUPERUSER))


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> Databases:
    name = "template_migrated"
    url = postgres.create_database(name)
    owner = postgres.url(name, role="interlock_owner")
    migrate(
        Settings.model_validate(
            {
                "database_url": url,
                "migrate_database_url": owner,
                "redis_url": "redis://unused",
                "secret_key": SECRETS["GATEWAY_SECRET_KEY"],
                "dev": True,
            }
        )
    )
    return Databases(postgres, name)


@pytest.fixture
def database(databases: Databases) -> Iterator[Database]:
    name, fresh = databases.create()
    yield fresh
    databases.server.drop_database(name)


# --- The PSPs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Psps:
    """The sandbox PSPs, in a process of their own, seen through their control paths.

    The third, neutral one is asked only where an account of a test names it.
    """

    urls: Mapping[str, str]
    http: httpx.Client
    REAL: ClassVar = ("stripe", "adyen")
    """Those that play a PSP that there is."""

    def reset(self) -> None:
        for psp in self.urls:
            self._control(psp, "POST", "reset")

    def books(self, psp: str, book: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._control(psp, "GET", "books")[book]
        return entries

    def all_books(self, psp: str) -> dict[str, list[dict[str, Any]]]:
        books: dict[str, list[dict[str, Any]]] = self._control(psp, "GET", "books")
        return books

    def charges(self) -> list[dict[str, Any]]:
        """Every authorization that any of them has made."""
        return [entry for psp in self.urls for entry in self.books(psp, "authorisations")]

    def requests(self, psp: str, operation: str | None = None) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._control(psp, "GET", "requests")["requests"]
        return [entry for entry in entries if operation in {None, entry["operation"]}]

    def nobody_was_asked(self) -> bool:
        return not any(self.requests(psp) for psp in self.urls)

    def fault(self, psp: str, operation: str, fault: str, **parameters: Any) -> None:
        self._control(psp, "POST", "faults", {"operation": operation, "fault": fault, **parameters})

    def clear_faults(self, psp: str) -> None:
        self._control(psp, "DELETE", "faults")

    def let_pass(self, psp: str, seconds: float) -> None:
        """Move the PSP's own clock."""
        self._control(psp, "POST", "clock", {"advance_s": seconds})

    def faults_applied(self, psp: str) -> dict[str, int]:
        applied: dict[str, int] = self._control(psp, "GET", "faults")["applied"]
        return applied

    def webhooks(self, psp: str) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = self._control(psp, "GET", "webhooks")["webhooks"]
        return sent

    async def visit(self, waiting: Mapping[str, Any], result: str) -> str:
        """The shopper opens the PSP's page and answers; gives the address at the gateway that they are sent back to."""
        page = waiting["next_action"]["redirect_to_url"]["url"]
        sent_back = await asyncio.to_thread(self.http.get, page, params={"result": result})
        assert sent_back.is_redirect, sent_back.text
        return str(sent_back.headers["location"])

    def _control(self, psp: str, method: str, path: str, body: object = None) -> Any:
        answer = self.http.request(method, f"{self.urls[psp]}/_sandbox/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None


@pytest.fixture(scope="session")
def api_port() -> int:
    """Where the sandboxes send their webhooks. A real server of a test listens there, or nobody does."""
    return free_port()


_SANDBOX: Final = (
    "import json, sys; from providers.sandbox import SandboxConfig, run; run(SandboxConfig(**json.loads(sys.argv[1])))"
)


@pytest.fixture(scope="session")
def running_psps(tmp_path_factory: pytest.TempPathFactory, api_port: int) -> Iterator[Psps]:
    ports = {"stripe": free_port(), "adyen": free_port(), "neutral": free_port()}
    config = {
        **{f"{psp}_port": port for psp, port in ports.items()},
        **{f"{psp}_webhook_url": f"http://{HOST}:{api_port}/v1/webhooks/{psp}" for psp in ports},
        "stripe_api_key": SECRETS["FLOWS_STRIPE_API_KEY"],
        "stripe_webhook_secret": SECRETS["FLOWS_STRIPE_WEBHOOK_SECRET"],
        "adyen_api_key": SECRETS["FLOWS_ADYEN_API_KEY"],
        "adyen_hmac_key": SECRETS["FLOWS_ADYEN_HMAC_KEY"],
        "adyen_merchant_account": MERCHANT_ACCOUNT,
        "neutral_token": SECRETS["FLOWS_NEUTRAL_TOKEN"],
        "neutral_webhook_secret": SECRETS["FLOWS_NEUTRAL_WEBHOOK_SECRET"],
        "adyen_multiple_partial_captures": True,
        "webhook_delay_s": 0.05,
        "refund_settles_after_s": 0.1,
    }
    log = tmp_path_factory.mktemp("sandbox") / "log"
    process = Process(["-c", _SANDBOX, json.dumps(config)], {}, log)
    process.start()
    try:
        urls = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
        for url in urls.values():
            wait_until_it_answers(process, f"{url}/_sandbox/books")
        with httpx.Client(timeout=30) as http:
            yield Psps(urls, http)
    finally:
        process.stop()


@pytest.fixture
def psps(running_psps: Psps) -> Psps:
    running_psps.reset()
    return running_psps


# --- The PSPs' published specifications -------------------------------------------------------------------------------


def nullable(part: Any) -> Any:
    """OpenAPI 3.0's nullable as JSON Schema says it."""
    if isinstance(part, list):
        return [nullable(each) for each in part]
    if not isinstance(part, dict):
        return part
    rest = {name: nullable(value) for name, value in part.items() if name != "nullable"}
    return {"anyOf": [rest, {"type": "null"}]} if part.get("nullable") is True else rest


class Published:
    """One OpenAPI document: what may be sent to a PSP, and what it may answer."""

    def __init__(self, file: Path) -> None:
        document = json.loads(file.read_text())
        self.document = nullable(document) if document["openapi"].startswith("3.0") else document
        self._registry: Registry[Any] = Registry().with_resource("urn:psp", DRAFT202012.create_resource(self.document))
        self._validators: dict[str, Any] = {}

    def at(self, pointer: str) -> Any:
        """A validator of the schema at a JSON pointer."""
        if pointer not in self._validators:
            schema = {"$ref": f"urn:psp#{pointer}"}
            self._validators[pointer] = Draft202012Validator(schema, registry=self._registry)
        return self._validators[pointer]

    def schema(self, name: str) -> Any:
        """A validator of one of its named schemas."""
        return self.at(f"/components/schemas/{name}")

    def operation(self, method: str, path: str) -> tuple[str, Any]:
        """Where an operation is described, as a JSON pointer, and its description. A path in words goes before a template."""
        templates = [path, *(known for known in self.document["paths"] if "{" in known and fits(known, path))]
        template = next(known for known in templates if known in self.document["paths"])
        pointer = f"/paths/{template.replace('~', '~0').replace('/', '~1')}/{method.lower()}"
        return pointer, self.document["paths"][template][method.lower()]


def fits(template: str, path: str) -> bool:
    """Whether a path is one of a template's: `/payments/{id}/captures`."""
    pattern = re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(template))
    return re.fullmatch(pattern, path) is not None


def form(text: str) -> Any:
    """A form body or query, `a[b][0]=c`, as the values it means, still all text."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        path = re.findall(r"[^\[\]]+", name)
        into = found
        for step in path[:-1]:
            into = into.setdefault(step, {})
        into[path[-1]] = value
    return found


def typed(value: Any, schema: Any) -> Any:
    """The text of a form as the schema's types; a name the schema does not know is an error."""
    for option in schema.get("anyOf", []):
        try:
            return typed(value, option)
        except (KeyError, ValueError, TypeError):
            continue
    match schema.get("type"):
        case "object" if not isinstance(value, dict):
            raise TypeError(value)
        case "object":
            properties, more = schema.get("properties", {}), schema.get("additionalProperties")
            rest = more if isinstance(more, dict) else None
            return {name: typed(each, properties.get(name) or rest or properties[name]) for name, each in value.items()}
        case "array":
            return [typed(each, schema["items"]) for each in value.values()]
        case "integer":
            return int(value)
        case "boolean":
            return {"true": True, "false": False}[value]
        case _:
            return value


@pytest.fixture(scope="session")
def specs() -> Path:
    """The folder of the PSPs' published specifications, which are not part of this repository."""
    folder = os.environ.get("GATEWAY_PSP_SPECS")
    if not folder:
        pytest.skip("GATEWAY_PSP_SPECS is not set: the PSPs' specifications are not here")
    return Path(folder)


class Library:
    """The PSPs' documents, each loaded once, and how a form is read by them."""

    form = staticmethod(form)
    typed = staticmethod(typed)

    def __init__(self, folder: Path) -> None:
        self.stripe = Published(folder / "stripe.openapi.json")
        self.adyen = Published(folder / "adyen.checkout-v72.openapi.json")
        self.adyen_webhooks = Published(folder / "adyen.webhooks-v1.openapi.json")
        self.adyen_disputes = Published(folder / "adyen.disputes-v30.openapi.json")


@pytest.fixture(scope="session")
def published(specs: Path) -> Library:
    library = Library(specs)
    keep_what_is_loaded()
    return library


# --- The configuration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configuration:
    """Writes accounts files and settings for one database and one Redis."""

    database: Database
    redis_url: str
    psps: Psps
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def accounts(
        self,
        order: Sequence[str] = ("stripe", "adyen"),
        unreachable: Sequence[str] = (),
        more: str = "",
        enabled: Sequence[str] = (),
    ) -> Path:
        """An accounts file: the first account is asked first; nobody listens at those that are ``unreachable``.

        What is ``enabled`` has been switched on at those that do it on request.
        """
        tables = []
        for name in order:
            url = f"http://{HOST}:{free_port()}" if name in unreachable else self.psps.urls[name]
            common = f'[accounts.{name}]\nmerchant = "mer_dev"\nprovider = "{name}"\nbase_url = "{url}"\n'
            switched_on = [each for each in enabled if each in _ON_REQUEST[name]]
            tables.append(common + _CREDENTIALS[name] + f"enabled = {json.dumps(switched_on)}\n")
        path = self.folder / f"accounts-{next(self.numbers)}.toml"
        path.write_text("\n".join([*tables, more]))
        return path

    def environment(self, accounts: Path, **changes: str) -> dict[str, str]:
        """What a process is told."""
        return {
            **SECRETS,
            "GATEWAY_DEV": "1",
            "GATEWAY_WEBHOOKS_ALLOW_LOOPBACK": "1",
            "GATEWAY_WORKER_METRICS_PORT": "0",  # several workers run at the same time
            "GATEWAY_DATABASE_URL": self.database.url,
            "GATEWAY_MIGRATE_DATABASE_URL": self.database.owner_url,
            "GATEWAY_REDIS_URL": self.redis_url,
            "GATEWAY_CONFIG": str(accounts),
            **changes,
        }

    def settings(self, accounts: Path, on_redis_loss: GatePolicy = GatePolicy.FAIL_OPEN, **changes: Any) -> Settings:
        """The same for an application inside the test."""
        told = {name.removeprefix("GATEWAY_").lower(): value for name, value in self.environment(accounts).items()}
        return Settings.model_validate(told | {"dev": True, "on_redis_loss": on_redis_loss} | changes)


_CREDENTIALS: Final[Mapping[str, str]] = {
    "stripe": 'api_key_env = "FLOWS_STRIPE_API_KEY"\nwebhook_secret_env = "FLOWS_STRIPE_WEBHOOK_SECRET"\n',
    "adyen": 'api_key_env = "FLOWS_ADYEN_API_KEY"\nhmac_key_env = "FLOWS_ADYEN_HMAC_KEY"\n'
    f'merchant_account = "{MERCHANT_ACCOUNT}"\n',
    "neutral": 'api_key_env = "FLOWS_NEUTRAL_TOKEN"\nwebhook_secret_env = "FLOWS_NEUTRAL_WEBHOOK_SECRET"\n',
}


_ON_REQUEST: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(entry_point.load().capabilities.on_request)
    for name in _CREDENTIALS
    for entry_point in entry_points(group="interlock.providers", name=name)
}


@pytest.fixture(scope="session")
def secrets_in_environment() -> Iterator[None]:
    """An accounts file names its secrets; an application inside the test reads them from our own environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            if name.startswith("FLOWS_"):
                patch.setenv(name, value)
        yield


@pytest.fixture
def configuration(
    database: Database, valkey: Valkey, psps: Psps, tmp_path: Path, secrets_in_environment: None
) -> Configuration:
    return Configuration(database, valkey.url, psps, tmp_path)


# --- A merchant -------------------------------------------------------------------------------------------------------


def body(**fields: Any) -> dict[str, Any]:
    """The plainest charge, with ``fields`` instead; a field that is ``None`` is left out."""
    plain = {
        "amount": 1999,
        "currency": "EUR",
        "confirm": True,
        "payment_method_data": {"type": "card", "card": dict(CARD)},
    }
    return {name: value for name, value in (plain | fields).items() if value is not None}


def card(number: str = CARD["number"], holder: str | None = None) -> dict[str, Any]:
    """Payment method data of one card."""
    return {"type": "card", "card": {**CARD, "number": number, **({"holder_name": holder} if holder else {})}}


@dataclass(frozen=True)
class Merchant:
    """A merchant's backend: it sends what it is told, and nothing again unless told so."""

    http: httpx.AsyncClient
    api_key: str = "sk_test_dev"

    async def post(self, path: str, fields: Any = None, *, key: str | None = None, **headers: str) -> httpx.Response:
        sent = {"Authorization": f"Bearer {self.api_key}", "Idempotency-Key": key or uuid.uuid4().hex} | headers
        content = fields if isinstance(fields, bytes) else json.dumps(fields or {}).encode()
        return await self.http.post(path, content=content, headers=sent)

    async def get(self, path: str, **params: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return await self.http.get(path, params=params, headers=headers)

    async def delete(self, path: str) -> httpx.Response:
        return await self.http.delete(path, headers={"Authorization": f"Bearer {self.api_key}"})

    async def charge(self, *, key: str | None = None, **fields: Any) -> httpx.Response:
        return await self.post("/v1/payments", body(**fields), key=key)

    async def charged(self, **fields: Any) -> dict[str, Any]:
        """A charge that must be approved."""
        answer = await self.charge(**fields)
        assert answer.status_code == 201, answer.text
        payment: dict[str, Any] = answer.json()
        return payment

    async def payment(self, payment_id: str) -> dict[str, Any]:
        answer = await self.get(f"/v1/payments/{payment_id}")
        assert answer.status_code == 200, answer.text
        payment: dict[str, Any] = answer.json()
        return payment

    async def come_back(self, address: str) -> httpx.Response:
        """The shopper's browser opens the gateway's return address: without any key."""
        parts = urlsplit(address)
        return await self.http.get(f"{parts.path}?{parts.query}")

    async def retried(self, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Send, and again while the answer is that somebody is at work on the same key or the server is away."""
        deadline = time.monotonic() + SOON_S
        while True:
            try:
                answer = await send()
                if answer.status_code not in {409, 503} or answer.json()["retryable"] is not True:
                    return answer
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, "it was never answered"
            await asyncio.sleep(0.1)


def stripe_event(operation_id: str, *, amount: int = 1999, number: str = "1") -> bytes:
    """A webhook of Stripe that says that an operation was approved."""
    intent = {
        "id": f"pi_{number}",
        "object": "payment_intent",
        "amount": amount,
        "amount_received": amount,
        "currency": "eur",
        "status": "succeeded",
        "metadata": {"operation": operation_id},
    }
    event = {
        "id": f"evt_{number}",
        "object": "event",
        "type": "payment_intent.succeeded",
        "created": int(time.time()),
        "data": {"object": intent},
    }
    return json.dumps(event).encode()


def signed(body: bytes, *, age_s: int = 0, secret: str | None = None) -> dict[str, str]:
    """The headers of an authentic Stripe webhook."""
    secret = secret or SECRETS["FLOWS_STRIPE_WEBHOOK_SECRET"]
    return {"Stripe-Signature": stripe_signature(body, secret, int(time.time()) - age_s)}


async def eventually(holds: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str) -> None:
    """Wait until it holds. Only a fault makes this long."""
    deadline = time.monotonic() + SOON_S
    while True:
        found = holds()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, f"it never came: {what}"
        await asyncio.sleep(0.05)


# --- The gateway inside the test --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inside:
    """The application inside the test, and the functions that a worker would call."""

    merchant: Merchant
    house: House
    database: Database

    async def work(self) -> None:
        """A worker's round, after everything that waits has become due."""
        self.database.let_time_pass()
        await sweep(self.house.deps)
        await self.house.inbox.apply_due(self.house.deps.accounts, 100)


Open = Callable[..., AbstractAsyncContextManager[Inside]]


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the loop is the test's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _listening(app: FastAPI, port: int) -> AsyncIterator[None]:
    server = _Server(uvicorn.Config(app, host=HOST, port=port, log_config=None, access_log=False, lifespan="off"))
    running = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not running.done(), running
            await asyncio.sleep(0.005)  # uvicorn has no event for "started"
        yield
    finally:
        server.should_exit = True
        await running


@pytest.fixture
def open_gateway(configuration: Configuration, api_port: int) -> Open:
    """``async with open_gateway(order=…, unreachable=…, on_redis_loss=…) as inside``; may be opened again on the same database.

    With ``listening`` it also hears the webhooks of the sandboxes. ``passed`` is told of every crash point that is passed.
    ``changes`` are settings that are otherwise than usual.
    """

    @asynccontextmanager
    async def opened(
        order: Sequence[str] = ("stripe", "adyen"),
        *,
        unreachable: Sequence[str] = (),
        on_redis_loss: GatePolicy = GatePolicy.FAIL_OPEN,
        more: str = "",
        enabled: Sequence[str] = (),
        listening: bool = False,
        passed: Callable[[str], None] | None = None,
        **changes: Any,
    ) -> AsyncIterator[Inside]:
        accounts = configuration.accounts(order, unreachable, more, enabled)
        settings = configuration.settings(accounts, on_redis_loss, **changes)
        app = create_app(settings, passed)
        async with (
            app.router.lifespan_context(app),
            _listening(app, api_port) if listening else nullcontext(),
            open_house(settings, passed) as house,
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway", timeout=60) as http,
        ):
            yield Inside(Merchant(http), house, configuration.database)

    return opened


# --- The gateway as processes -----------------------------------------------------------------------------------------


@dataclass
class Server:
    """A real `gateway serve`."""

    process: Process
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> Server:
        self.process.start()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        wait_until_it_answers(self.process, f"{self.url}/readyz")

    def merchant(self, api_key: str = "sk_test_dev") -> AbstractAsyncContextManager[Merchant]:
        @asynccontextmanager
        async def connected() -> AsyncIterator[Merchant]:
            async with httpx.AsyncClient(base_url=self.url, timeout=60) as http:
                yield Merchant(http, api_key)

        return connected()


@dataclass
class Processes:
    """Starts real processes on the test's database, and ends them all."""

    configuration: Configuration
    api_port: int
    folder: Path
    forge: Forge
    started: list[Process] = field(default_factory=list)

    def server(self, **changes: str) -> Server:
        """A `gateway serve`; the first one hears the webhooks."""
        return self._server([], changes)

    def several(self, workers: int) -> Server:
        """A `gateway serve` of so many processes."""
        return self._server(["--workers", str(workers)], {})

    def _server(self, words: Sequence[str], changes: Mapping[str, str]) -> Server:
        taken = any("serve" in process.log.name for process in self.started)
        port = free_port() if taken else self.api_port
        return Server(self._start(["serve", "--port", str(port), *words], changes), port)

    def migrate(self, **changes: str) -> None:
        """`gateway migrate`, to its end."""
        code, printed = self.run("migrate", **changes)
        assert code == 0, printed

    def run(self, *words: str, **changes: str) -> tuple[int, str]:
        """`gateway …` to its end: its exit code and what it printed."""
        process = self.command(*words, **changes)
        return process.wait(), process.printed

    def command(self, *words: str, **changes: str) -> Process:
        """`gateway …`, started."""
        process = self._start(list(words), changes)
        process.start()
        return process

    def worker(self, **changes: str) -> Process:
        """A `gateway worker`, started."""
        process = self._start(["worker"], changes)
        process.start()
        return process

    @property
    def printed(self) -> str:
        return "".join(process.printed for process in self.started)

    def _start(self, words: list[str], changes: Mapping[str, str]) -> Process:
        env = self.configuration.environment(self.configuration.accounts(), **changes)
        log = self.folder / f"{words[0]}-{len(self.started)}.log"
        process = Process([*GATEWAY, *words], env, log, self.forge)
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            process.kill()


Commands = Callable[..., str]


@pytest.fixture(scope="session")
def commands(valkey_server: Valkey, process_forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """``commands(database, "keys", "create", …)`` runs `gateway …` to its end and gives what it printed."""
    folder, numbers = tmp_path_factory.mktemp("commands"), itertools.count()

    def run(database: Database, *words: str) -> str:
        env = {**SECRETS, "GATEWAY_DATABASE_URL": database.url, "GATEWAY_REDIS_URL": valkey_server.url}
        printed, errors = (folder / f"{name}-{next(numbers)}" for name in ("printed", "errors"))
        code = process_forge.fork(words, dict(os.environ) | env, printed, errors).wait(READY_S)
        assert code == 0, errors.read_text()
        return printed.read_text().strip()

    return run


@pytest.fixture
def processes(configuration: Configuration, api_port: int, tmp_path: Path, process_forge: Forge) -> Iterator[Processes]:
    ours = Processes(configuration, api_port, tmp_path, process_forge)
    yield ours
    ours.end()


# --- The promises ---------------------------------------------------------------------------------------------------------


def outside(database: Database, psps: Psps) -> Outside:
    """What the sandbox PSPs say: their books and wire logs. An account is named where its PSP serves no other one."""
    used = database.rows(
        "SELECT provider, min(account) AS name FROM operation GROUP BY provider HAVING count(DISTINCT account) = 1"
    )
    names = {row["provider"]: row["name"] for row in used}
    return Outside(
        entries=[entry for psp in psps.urls for entry in sandbox_entries(psps.all_books(psp), names.get(psp, ""), psp)],
        arrivals=[arrival for psp in psps.urls for arrival in sandbox_arrivals(psps.requests(psp), names.get(psp, ""))],
        horizons=horizons(),
    )


def keyring() -> Keyring:
    """The keys of every gateway of the tests."""
    return Keyring.derive(base64.b64decode(SECRETS["GATEWAY_SECRET_KEY"]))


Checked = Callable[..., Awaitable[Report]]


@pytest.fixture
def checked() -> Checked:
    """``await checked(database, psps, at_rest=True)``: every promise holds, for the rows as for the PSPs' books and wire logs."""

    async def check(database: Database, psps: Psps, *, at_rest: bool = True) -> Report:
        async with reading(database.url) as db:
            report = await check_invariants(db, outside(database, psps), at_rest=at_rest, grace_s=5, keyring=keyring())
        assert report.clean, "\n".join(
            f"{each.invariant} {each.payment_id}: {each.detail}" for each in report.violations
        )
        return report

    return check


# --- What tests share: ``tests`` is no package, so a fixture hands it out ------------------------------------------------


class Kit:
    """The builders of requests, and patience."""

    CARD = CARD
    SECRETS = SECRETS
    Merchant = Merchant
    MERCHANT_ACCOUNT = MERCHANT_ACCOUNT
    body = staticmethod(body)
    card = staticmethod(card)
    eventually = staticmethod(eventually)
    flush = staticmethod(flush)
    outside = staticmethod(outside)
    keyring = staticmethod(keyring)
    stripe_event = staticmethod(stripe_event)
    signed = staticmethod(signed)


@pytest.fixture
def flow() -> type[Kit]:
    return Kit
