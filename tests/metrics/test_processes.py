"""What Prometheus reads off real processes: it adds up, it is bounded, and it begins anew only where a process does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families as families
from prometheus_client.samples import Sample

from gateway import guard
from gateway.backlog import Backlog
from gateway.brands import BRANDS
from gateway.invariants import INVARIANTS
from gateway.metrics import decisions, exposition
from gateway.metrics.first_attempts import CURRENCIES, RESULTS
from gateway.metrics.work import QUEUES, SEVERITIES, WorkInstruments
from gateway.worker import run_worker
from providers.registry import ConfigError

if TYPE_CHECKING:
    from tests.conftest import Configuration, Database, Kit, Merchant, Open, Processes, Psps, Server


def _samples(text: str) -> list[Sample]:
    return [sample for family in families(text) for sample in family.samples]


async def _read(url: str) -> list[Sample]:
    """One scrape, on a connection of its own: any process that listens may answer it."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return _samples(answer.text)


def _sum(samples: list[Sample], name: str, **labels: str) -> float:
    wanted = labels.items()
    return sum(each.value for each in samples if each.name == name and wanted <= each.labels.items())


def _children(server: Server) -> list[int]:
    """The processes that answer requests for a server of several, and not what Python runs beside them."""
    assert server.process._running is not None
    parent = server.process._running.pid
    pids = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


OUTCOMES: Final = {
    "first approved": (
        "interlock_first_attempts_total",
        {"result": "approved"},
        "SELECT count(*) FROM operation WHERE kind = 'authorize' AND seq = 1 AND status IN ('authorized', 'captured')",
    ),
    "first declined": (
        "interlock_first_attempts_total",
        {"result": "declined"},
        "SELECT count(*) FROM operation WHERE kind = 'authorize' AND seq = 1 AND status = 'declined'",
    ),
    "first unknown": (
        "interlock_first_attempts_total",
        {"result": "unknown"},
        "SELECT count(*) FROM change WHERE news = 'Unknown'",
    ),
    "unknown settled": ("interlock_unknown_settled_seconds_count", {}, "SELECT count(*) FROM change WHERE news = 'Unknown'"),
    "decisions": ("interlock_decisions_total", {"verb": "create", "class": "good"}, "SELECT count(*) FROM payment"),
    "answers": ("interlock_answer_seconds_count", {"verb": "create"}, "SELECT count(*) FROM payment"),
    "refunds": ("interlock_decisions_total", {"verb": "refund", "class": "good"}, "SELECT count(*) FROM operation WHERE kind = 'refund'"),
    "webhooks": ("interlock_webhooks_total", {"result": "stored"}, "SELECT count(*) FROM webhook_inbox"),
}  # fmt: skip
"""What is counted, and the rows that say how much of it there was."""


async def _traffic(merchant: Merchant, psps: Psps, flow: type[Kit], keys: list[str]) -> None:
    """Payments of each kind, some of them settled by the worker, each under a key of its own."""
    psps.fault("stripe", "authorize", "garbage", match={"bin": "4000056655665556"}, times=1)
    declined = flow.card("4000000000009995", holder="NOT_ENOUGH_BALANCE")
    bodies = [
        *({} for _ in range(4)),
        {"payment_method_data": declined},
        {"payment_method_data": flow.card("4000056655665556")},
    ]
    answers = [await merchant.charge(key=key, **fields) for key, fields in zip(keys, bodies, strict=True)]
    assert Counter(answer.status_code for answer in answers) == {201: 4, 402: 1, 202: 1}
    refunded = await merchant.post("/v1/refunds", {"payment": answers[0].json()["id"], "amount": 100})
    assert refunded.status_code in {201, 202}, refunded.text


@dataclass
class Scraped:
    """Servers and a worker of one database, as Prometheus sees them."""

    servers: tuple[Server, ...]
    worker: str
    database: Database
    ended: list[Sample] = field(default_factory=list)
    """What Prometheus remembers of counters that began anew."""

    async def worker_listens(self) -> bool:
        try:
            return bool(await _read(self.worker))
        except httpx.TransportError:
            return False

    async def adds_up(self) -> bool:
        urls = (*(server.url for server in self.servers), self.worker)
        read = [sample for url in urls for sample in await _read(url)] + self.ended
        counted = {
            what: (_sum(read, name, **labels), self.database.value(query))
            for what, (name, labels, query) in OUTCOMES.items()
        }
        none_unknown = _sum(read, "interlock_unknown_operations") == 0
        return none_unknown and all(told == rows for told, rows in counted.values())

    async def traffic(self, psps: Psps, flow: type[Kit], prefixes: str) -> None:
        """At each server, under keys of its prefix; over when everything adds up."""
        for server, prefix in zip(self.servers, prefixes, strict=True):
            async with server.merchant() as merchant:
                await _traffic(merchant, psps, flow, [f"{prefix}-{number}" for number in range(6)])
        await flow.eventually(self.adds_up, "the sum of all processes is the rows")


async def test_at_rest_the_sum_over_processes_is_the_number_of_rows_whoever_was_restarted(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    alone, several, port = processes.server(), processes.several(2), _free_port()
    for server in (alone, several):
        server.start()
    worker = processes.worker(GATEWAY_WORKER_METRICS_PORT=str(port))
    scraped = Scraped((alone, several), f"http://127.0.0.1:{port}", database)

    await flow.eventually(scraped.worker_listens, "the worker tells its metrics")
    await scraped.traffic(psps, flow, "as")
    seen = [await _read(several.url) for _ in range(6)]

    assert {_sum(each, "interlock_decisions_total", verb="create") for each in seen} == {6}
    assert _sum(seen[0], "interlock_decisions_total", verb="create", **{"class": "bad"}) == 0

    killed = _children(several)[0]
    os.kill(killed, signal.SIGKILL)
    await flow.eventually(
        lambda: len(_children(several)) == 2 and killed not in _children(several), "another process is there"
    )
    several.wait_until_ready()
    assert _sum(await _read(several.url), "interlock_decisions_total", verb="create") == 6
    scraped.ended += [each for each in await _read(alone.url) if not re.search(r"_(bucket|created)$", each.name)]
    alone.process.stop()
    alone.start()
    assert _sum(await _read(alone.url), "interlock_decisions_total") == 0
    await scraped.traffic(psps, flow, "bt")

    told = await _read(scraped.worker)
    assert database.value("SELECT count(*) FROM payment") == 24
    assert time.time() - _sum(told, "interlock_worker_heartbeat_timestamp_seconds") < 60
    assert _sum(told, "interlock_worker_task_seconds_count", task="settle") > 0
    assert _sum(told, "interlock_worker_task_success_timestamp_seconds", task="settle") > 0
    for of_the_worker in (
        "interlock_queue_depth",
        "interlock_unknown_oldest_seconds",
        "interlock_invariant_violations",
    ):
        assert not [each for each in await _read(alone.url) if each.name == of_the_worker]
    worker.stop()
    shared = _shared(several)
    several.process.stop()
    assert not shared.exists()


def _shared(server: Server) -> Path:
    """Where the processes of a server keep their values together."""
    environ = Path(f"/proc/{_children(server)[0]}/environ").read_bytes().decode().split("\0")
    (named,) = [each for each in environ if each.startswith("PROMETHEUS_MULTIPROC_DIR=")]
    directory = Path(named.partition("=")[2])
    assert list(directory.glob("counter_*.db"))
    return directory


@contextmanager
def _sharing() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that lets others share their values until its input ends, and where."""
    program = (
        "import os, sys; from gateway.metrics import exposition as e\n"
        "with e.shared(): print(os.environ[e.SHARED], flush=True), sys.stdin.read()"
    )
    argv = [sys.executable, "-P", "-c", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        assert directory.is_dir()
        yield process, directory


def test_what_a_killed_server_leaves_is_removed_at_the_next_start_and_what_a_living_one_has_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(exposition.SHARED, raising=False)
    with _sharing() as (killed, left), _sharing() as (_, kept):
        of_a_living_process = left / "counter_1.db"
        of_a_living_process.touch()
        killed.kill()
        killed.wait()
        with exposition.shared():
            still = left.exists()
        of_a_living_process.rename(left / f"counter_{killed.pid}.db")
        with exposition.shared():
            own = Path(os.environ[exposition.SHARED])
            found = (left.exists(), kept.exists(), own.exists())

    assert still
    assert found == (False, True, True)
    assert not own.exists()
    assert not kept.exists()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_worker_says_that_its_port_is_taken_and_what_to_do(configuration: Configuration) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = configuration.settings(configuration.accounts(), worker_metrics_port=port)
        with pytest.raises(ConfigError) as refused:
            await run_worker(settings)

    assert f"GATEWAY_WORKER_METRICS_PORT: 127.0.0.1:{port} cannot be listened at" in str(refused.value)
    assert "0 serves no metrics" in str(refused.value)


async def test_the_workers_address_tells_metrics_and_life_and_nothing_else() -> None:
    port = _free_port()
    async with exposition.served("127.0.0.1", port, lambda: b"a 1\n"), httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}"
        metrics, alive = await http.get(f"{url}/metrics"), await http.get(f"{url}/healthz")
        nothing, written = await http.get(f"{url}/v1/payments"), await http.post(f"{url}/metrics")
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            async with exposition.served("127.0.0.1", port, bytes):
                pass

    assert (metrics.text, alive.json()) == ("a 1\n", {"status": "ok"})
    assert (nothing.status_code, written.status_code) == (404, 405)


HOSTILE: Final = ("'; DROP TABLE payment;--", "visa\n", "x" * 3000, "\u202eevil", "__name__", '"}', "4111111111111111")


async def test_no_value_that_a_caller_sends_becomes_a_label_beyond_those_of_a_table(
    open_gateway: Open, database: Database, flow: type[Kit], psps: Psps
) -> None:
    accounts = {"stripe", "adyen", "unknown"}
    allowed: dict[str, set[str]] = {
        "verb": {*decisions.VERBS},
        "class": {*decisions.CLASSES},
        "account": accounts,
        "brand": {*BRANDS, "other"},
        "currency": {*CURRENCIES, "other"},
        "result": {*RESULTS, "refused", "stored", "unknown_account"},
        "invariant": {each.name for each in INVARIANTS},
        "queue": {*QUEUES},
        "severity": {*SEVERITIES},
        "kind": {"authorize"},
        "outcome": {"Approved", "Declined", "NotProcessed", "Unknown"},
    }
    async with open_gateway() as inside:
        merchant, http = inside.merchant, inside.merchant.http
        for index, word in enumerate(HOSTILE):
            quoted = httpx.URL("http://x/", params={"w": word}).query.decode().removeprefix("w=")
            for method in ("GET", "POST", f"X{index}"):
                for path in (
                    f"/v1/{quoted}",
                    f"/v1/payments/{quoted}/{quoted}",
                    f"/v1/webhooks/{quoted}",
                    f"/{quoted}",
                ):
                    await http.request(method, path, content=word.encode())
            card = {**flow.card("6304000000000000", holder=word[:100]), "brand": word}
            await merchant.charge(reference=word[:100], metadata={word[:30]: word[:400]}, currency=word[:3])
            await merchant.charge(payment_method_data=card, routing={"account": word})
        for currency in ("XAF", "ISK", "HUF", "ZAR", "EUR"):
            await merchant.charge(currency=currency, payment_method_data=flow.card("3566002020360505"))
        told = WorkInstruments(inside.house.registry)
        psps.fault("stripe", "authorize", "garbage", times=1)
        assert (await merchant.charge()).status_code == 202
        await Backlog(inside.house.pool, told, inside.house.deps.accounts).look()
        samples = _samples((await http.get("/metrics")).text) + _samples(
            exposition.text(inside.house.registry).decode()
        )

    seen: dict[str, set[str]] = {}
    for each in samples:
        for label, value in each.labels.items():
            seen.setdefault(label, set()).add(value)
    assert {label: values - allowed[label] for label, values in seen.items() if label in allowed} == {
        label: set() for label in seen if label in allowed
    }
    assert seen["currency"] == {"EUR", "other"}
    assert not [label for label in seen if label not in {*allowed, *BY_CODE}]
    assert not any(word in value for values in seen.values() for value in values for word in HOSTILE)


BY_CODE: Final = {"le", "dep", "op", "policy", "status", "rule", "ruling", "source", "strategy", "task"}
"""Labels whose values stand in the code: no request brings them."""


async def test_the_guard_checks_what_was_made_lately_in_a_process_of_its_own_and_tells_what_is_broken(
    open_gateway: Open, database: Database, psps: Psps, processes: Processes
) -> None:
    registry = CollectorRegistry()
    told = WorkInstruments(registry)
    environment = dict(os.environ) | processes.configuration.environment(processes.configuration.accounts())

    async def found() -> dict[str, float]:
        assert await guard.guard(told, environment)
        samples = _samples(exposition.text(registry).decode())
        assert time.time() - _sum(samples, "interlock_invariant_last_run_timestamp_seconds") < 60
        broken = {
            each.labels["invariant"]: each.value for each in samples if each.name == "interlock_invariant_violations"
        }
        assert broken.keys() == {each.name for each in INVARIANTS}
        return {name: times for name, times in broken.items() if times}

    async with open_gateway() as inside:
        payment = await inside.merchant.charged()
        database.rows("UPDATE payment SET version = version + 1 WHERE id = %(id)s", id=payment["id"])
        broken = await found()
        database.rows("UPDATE payment SET created_at = created_at - interval '1 hour'")
        older = await found()

    assert older == {}
    assert sum(broken.values()) >= 1


async def test_a_guard_that_cannot_look_says_so_by_telling_nothing() -> None:
    registry = CollectorRegistry()

    assert not await guard.guard(WorkInstruments(registry), {"PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    assert registry.get_sample_value("interlock_invariant_last_run_timestamp_seconds") == 0


async def test_while_the_database_is_away_the_heartbeat_stands_still() -> None:
    class Away:
        async def fetch(self, *_: object) -> list[object]:
            raise OSError

    registry = CollectorRegistry()
    backlog = Backlog(Away(), WorkInstruments(registry), ["stripe"])  # type: ignore[arg-type]  # a pool without its database
    await backlog.look()

    assert registry.get_sample_value("interlock_worker_heartbeat_timestamp_seconds") == 0
