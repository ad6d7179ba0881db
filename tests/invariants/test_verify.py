"""``gateway verify`` as an operator runs it: what it says, what it exits with, and that it changes and hinders nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import orjson
import psycopg
import pytest
from sqlalchemy import make_url

from gateway import read_only
from gateway.invariants import INVARIANTS, Entry, Violation, check_invariants, file_entries
from gateway.verify import Reader, reading, since_when
from providers.registry import ConfigError

if TYPE_CHECKING:
    from gateway.vault import Keyring
    from tests.conftest import Configuration, Database, Databases, Kit, Open, Processes, Psps
    from tests.invariants.conftest import Mixed

NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)


def books_of(mixed: Mixed, folder: Path) -> Path:
    """The books of the mixed payments as a file."""
    path = folder / "books.ndjson"
    path.write_text("".join(json.dumps(entry._asdict()) + "\n" for entry in mixed.outside.entries))
    return path


def test_a_clean_system_is_said_to_be_clean_with_what_was_read(
    mixed: Mixed, verified: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, said, _ = verified(books=(str(books_of(mixed, tmp_path)),), grace_s=0.0)

    assert code == 0, said
    assert f"payment {mixed.payments}" in said
    assert f"{len(list(mixed.outside.entries))} book entries" in said
    wire_only = [each for each in INVARIANTS if each.needs == "wire log"]
    assert f"all {len(INVARIANTS) - len(wire_only)} promises that were checked hold" in said
    assert "not checked  within_horizon" in said
    for each in INVARIANTS:
        assert f"{each.name}: {each.says}" in said


def test_without_books_it_asks_the_sandboxes_among_the_accounts(
    mixed: Mixed, verified: Callable[..., tuple[int, str, str]]
) -> None:
    """They have been reset since: whatever stands here is a phantom to them."""
    code, said, _ = verified(at_rest=True, grace_s=0.0, shown_max=3)

    assert code == 1
    lines = said.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["no_phantom"] * 3
    assert lines[3].startswith("… and ")
    assert "holds  within_horizon" in said
    assert said.endswith("violations of 1 promise")


def test_what_is_broken_is_named_with_the_payment_for_people_and_programs(
    mixed: Mixed, verified: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    mixed.database.rows("UPDATE payment SET amount_capturing = 5 WHERE reference = 'held-stripe'")
    payment = mixed.database.value("SELECT id FROM payment WHERE reference = 'held-stripe'")
    books = (str(books_of(mixed, tmp_path)),)

    code, said, _ = verified(books=books, grace_s=0.0)
    as_json, told, _ = verified(books=books, grace_s=0.0, as_json=True)

    assert (code, as_json) == (1, 1)
    assert said.splitlines()[0] == (
        f"reservations_are_sums  {payment}  5 is reserved for captures, those on their way ask for 0"
    )
    assert "1 violation of 1 promise" in said
    report = json.loads(told)
    assert report["clean"] is False
    assert [each["payment_id"] for each in report["violations"]] == [payment]
    assert {each["name"]: each["broken"] for each in report["invariants"] if each["broken"]} == {
        "reservations_are_sums": 1
    }
    assert report["rows"]["payment"] == mixed.payments


def test_older_payments_can_be_left_out(
    mixed: Mixed, verified: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    mixed.database.rows(
        """UPDATE payment SET amount_capturing = 5, created_at = created_at - interval '2 days' WHERE reference = 'held-stripe'"""
    )

    code, said, _ = verified(books=(str(books_of(mixed, tmp_path)),), since="1d", grace_s=0.0)

    assert code == 0, said
    assert f"payment {mixed.payments - 1}" in said


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90m", datetime(2026, 11, 21, 10, 30, tzinfo=UTC)),
        ("24h", datetime(2026, 11, 20, 12, tzinfo=UTC)),
        ("7d", datetime(2026, 11, 14, 12, tzinfo=UTC)),
        ("30s", datetime(2026, 11, 21, 11, 59, 30, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20T01:00:00+01:00", datetime(2026, 11, 20, tzinfo=UTC)),
    ],
)
def test_since_is_a_duration_or_a_date(text: str, at: datetime) -> None:
    assert since_when(text, NOW) == at


def test_what_cannot_be_read_is_a_sentence_and_exit_code_2(processes: Processes, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ndjson"
    broken.write_text('{"book": "captures"}\n')
    huge, nameless = tmp_path / "huge.ndjson", tmp_path / "nameless.ndjson"
    huge.write_text(json.dumps(GOOD | {"amount": 2**63 - 1}) + "\n")
    nameless.write_text(json.dumps(GOOD) + "\n")
    nobody = "postgresql://app:hunter2@127.0.0.1:1/interlock"
    for words, changes, says in (
        ((), {"GATEWAY_DATABASE_URL": nobody}, "the database cannot be reached"),
        (("--since", "yesterday"), {}, "neither a duration"),
        (("--since", "999999d"), {}, "longer ago than there are dates"),
        (("--books-as-of", "noon"), {}, "--books-as-of: 'noon' is neither"),
        (("--books", str(huge)), {}, "line 1 of"),
        (("--books", str(nameless)), {}, "names no account"),
        (("--books", "no.ndjson"), {}, "there is no file no.ndjson"),
        (("--books", str(broken)), {}, "line 1 of"),
        (("--books", "http://127.0.0.1:1"), {}, "nobody keeps books at"),
    ):
        code, printed = processes.run("verify", *words, **changes)
        assert (code, says in printed) == (2, True), printed
        assert "Traceback" not in printed
        assert "hunter2" not in printed


GOOD: Final[dict[str, Any]] = {
    "book": "captures",
    "payment": "pi_1",
    "amount": 1,
    "currency": "EUR",
    "status": "succeeded",
    "at": 1,
}


def test_a_file_of_books_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "books"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | {"reference": "cap_1", "account": "one"}) + "\n")

    assert list(file_entries(path)) == [
        Entry("", "captures", "pi_1", None, None, 1, "EUR", "succeeded", None, 1),
        Entry("one", "captures", "pi_1", "cap_1", None, 1, "EUR", "succeeded", None, 1),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "nothing",
        "[]",
        json.dumps(GOOD | {"amount": "1"}),
        json.dumps(GOOD | {"amount": 2**63 - 1}),
        json.dumps(GOOD | {"amount": 2**63}),
        json.dumps(GOOD | {"amount": -1}),
        json.dumps(GOOD | {"amount": True}),
        json.dumps(GOOD | {"at": 10**300}),
        json.dumps(GOOD | {"reference": "att\0"}),
        json.dumps(GOOD | {"book": "novels"}),
        json.dumps(GOOD | {"key": 7}),
    ],
)
def test_a_line_that_is_no_entry_is_refused_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "books"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n")

    with pytest.raises(ConfigError, match="line 2 of"):
        list(file_entries(path))


async def test_the_session_can_only_read(database: Database) -> None:
    async with reading(database.url) as db:
        for writes in ("DELETE FROM payment", "CREATE TEMP TABLE x ()", "UPDATE operation SET due_at = now()"):
            with pytest.raises(ConfigError, match="ReadOnlySQLTransaction"):
                await db.fetch(writes)


async def test_a_session_that_cannot_be_closed_takes_nothing_back(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read was read, also where the database does not hear the farewell."""
    name, _ = databases.create()
    address, port = make_url(databases.server.url(name, tcp=True)), databases.server.port
    deaf, relays = asyncio.Event(), list[asyncio.Task[None]]()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_there, to_there = await asyncio.open_connection("127.0.0.1", port)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if not deaf.is_set():
                    sink.write(data)

        both = [asyncio.create_task(carry(reader, to_there)), asyncio.create_task(carry(from_there, writer))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        for each in (to_there, writer):
            each.close()
        await asyncio.gather(*both, to_there.wait_closed(), writer.wait_closed(), return_exceptions=True)

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.create_task(relay(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = address.set(port=server.sockets[0].getsockname()[1]).render_as_string(hide_password=False)
    async with server, reading(url) as db:
        rows = await db.fetch("SELECT 7 AS seven")
        deaf.set()
        monkeypatch.setattr(read_only, "LOCK_S", 1)
    await asyncio.gather(*relays)
    databases.server.drop_database(name)

    assert rows[0]["seven"] == 7


@dataclass
class Watched:
    """A reader, and how many locks its session holds after each statement."""

    db: Reader
    database: Database
    held: list[int] = field(default_factory=list)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        rows = await self.db.fetch(query, *args)
        self.held.append(self.database.value(LOCKS))
        return rows


async def test_it_waits_for_nobody_who_writes_and_nobody_waits_for_it(mixed: Mixed, flow: type[Kit]) -> None:
    """Rows that somebody holds locked are read as they were; between two pages nothing is held at all."""
    holder = await asyncpg.connect(mixed.database.admin_url)
    try:
        async with reading(mixed.database.url) as db, holder.transaction():
            await holder.execute("SELECT * FROM payment FOR UPDATE")
            await holder.execute("UPDATE payment SET amount_capturing = 5 WHERE reference = 'held-stripe'")
            watched = Watched(db, mixed.database)
            report = await check_invariants(watched, mixed.outside, at_rest=True, grace_s=5, keyring=flow.keyring())
    finally:
        await holder.close()

    assert report.violations == ()
    assert len(watched.held) > 5
    assert set(watched.held) == {0}


LOCKS: Final = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE a.application_name = 'interlock verify' AND l.locktype = 'relation'"""


async def test_while_payments_are_made_it_finds_nothing_wrong(
    open_gateway: Open, psps: Psps, flow: type[Kit], proved: Callable[[str], None]
) -> None:
    """Pages, books and wire logs are read at different instants, while everything moves: that is never a false alarm.

    On a busy machine something may really be late, which is no false alarm, and is over once a worker has been there.
    """
    rounds = compared = 0
    enough = asyncio.Event()
    async with open_gateway(listening=True) as inside:

        async def violations(taken_at: float) -> list[Violation]:
            said = await asyncio.to_thread(flow.outside, inside.database, psps)
            theirs = replace(said, taken_at=taken_at)
            async with reading(inside.database.url) as db:
                report = await check_invariants(db, theirs, at_rest=False, grace_s=1, keyring=flow.keyring(), page=7)
            return list(report.violations)

        async def nothing_late() -> bool:
            await inside.work()
            return await violations(time.time()) == []

        making = asyncio.gather(*(_busy(inside.merchant, flow, enough) for _ in range(4)))
        try:
            while compared < COMPARED_MIN:
                assert not making.done(), "the payments go on"
                taken_at = time.time()  # what changes while the books are read is not compared with them
                assert [each for each in await violations(taken_at) if " was due " not in each.detail] == []
                rounds += 1
                compared += inside.database.value(OLD_ENOUGH.format(taken_at))
        finally:
            enough.set()
            await making
        made = inside.database.value("SELECT count(*) FROM payment")
        await flow.eventually(nothing_late, "a worker has done what was late")

    assert rounds > 1
    proved(
        f"verify beside traffic: {rounds} runs with {compared} comparisons while {made} payments were made, 0 false alarms"
    )


COMPARED_MIN: Final = 100
OLD_ENOUGH: Final = "SELECT count(*) FROM payment WHERE updated_at <= to_timestamp({} - 1)"
"""How many payments are compared with books that were taken then."""


async def _busy(merchant: Any, flow: type[Kit], enough: asyncio.Event) -> None:
    for number in itertools.count():
        if enough.is_set():
            return
        payment = await merchant.charged(routing={"account": ("stripe", "adyen")[number % 2]})
        await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 500})
        await merchant.charge(payment_method_data=flow.card("4000000000000002"))


# --- Many payments ----------------------------------------------------------------------------------------------------

ORIGINAL: Final = "(SELECT min(id) FROM payment)"
FILL: Final = f"""
SET session_replication_role = replica;
INSERT INTO payment SELECT r.* FROM payment p, generate_series(%(first)s::int, %(last)s::int) n,
    LATERAL jsonb_populate_record(p, jsonb_build_object('id', 'pay_z' || n)) r WHERE p.id = {ORIGINAL};
INSERT INTO operation SELECT r.* FROM operation o, generate_series(%(first)s::int, %(last)s::int) n,
    LATERAL jsonb_populate_record(o, jsonb_build_object('id', 'att_z' || n, 'payment_id', 'pay_z' || n, 'provider_key', 'key_' || n)) r
    WHERE o.payment_id = {ORIGINAL};
INSERT INTO change SELECT 'pay_z' || n, c.seq, c.at, c.source, c.news, c.from_status, c.to_status, c.reason, 'att_z' || n
    FROM change c, generate_series(%(first)s::int, %(last)s::int) n WHERE c.payment_id = {ORIGINAL};
INSERT INTO event SELECT r.* FROM event e, generate_series(%(first)s::int, %(last)s::int) n,
    LATERAL jsonb_populate_record(e, jsonb_build_object('id', e.id || '_' || n, 'payment_id', 'pay_z' || n)) r
    WHERE e.payment_id = {ORIGINAL};
ANALYZE payment, operation, change, event
"""
"""Copies of the one payment that there is, with all of its rows but its key."""
KEYS: Final = "COPY idempotency_key (merchant_id, livemode, key, fingerprint, payment_id, operation_id, status, answer, created_at) FROM STDIN"
KEY: Final = f"""SELECT merchant_id, livemode, key, fingerprint, status, answer, created_at
    FROM idempotency_key WHERE payment_id = {ORIGINAL}"""


@dataclass
class Many:
    """A database with as many copies of a payment as are wanted, and the books that belong to it."""

    configuration: Configuration
    keyring: Keyring
    original: list[Entry]
    folder: Path
    copies: int = 0

    def grow(self, payments: int) -> None:
        """Let there be so many payments."""
        wanted = {"first": self.copies + 1, "last": payments - 1}
        with psycopg.connect(self.configuration.database.admin_url, autocommit=True) as connection:
            for statement in FILL.split(";"):
                connection.execute(statement.encode(), wanted if "first" in statement else None)
            self._seal_answers(connection, range(wanted["first"], payments))
        with self.books.open("a") as lines:
            for number in range(wanted["first"], payments):
                for entry in self.original:
                    copied = entry._replace(
                        payment=f"pi_{number}", reference=f"att_z{number}", payment_reference=f"att_z{number}", key=None
                    )
                    lines.write(orjson.dumps(copied._asdict()).decode() + "\n")
        self.copies = payments - 1

    def _seal_answers(self, connection: psycopg.Connection[Any], numbers: range) -> None:
        """The keys of the copies: an answer opens under its own key alone, so each is sealed anew."""
        original = connection.execute(KEY.encode()).fetchone()
        assert original is not None
        merchant, live, key, fingerprint, status, answer, at = original
        sealer, mode = self.keyring.sealer, "live" if live else "test"
        told = sealer.open(answer, merchant, mode, key, "answer").decode()
        payment = orjson.loads(told)["id"]
        with connection.cursor() as cursor, cursor.copy(KEYS.encode()) as rows:
            for n in numbers:
                sealed = sealer.seal(told.replace(payment, f"pay_z{n}").encode(), merchant, mode, f"z{n}", "answer")
                rows.write_row((merchant, live, f"z{n}", fingerprint, f"pay_z{n}", f"att_z{n}", status, sealed, at))
        connection.execute("ANALYZE idempotency_key")

    @property
    def books(self) -> Path:
        return self.folder / "books.ndjson"

    def verify(self) -> tuple[int, str, str, float]:
        """Run the command as a process: its exit code, what it said and hinted, and its peak of memory in MB."""
        told = self.configuration.environment(self.folder) | {"PYTHONSAFEPATH": "1"}
        environment = {**os.environ, **{name: value for name, value in told.items() if name != "GATEWAY_CONFIG"}}
        argv = [
            sys.executable,
            "-P",
            "-m",
            "gateway.cli",
            "verify",
            "--grace",
            "0",
            "--books",
            str(self.books),
            "--account",
            "stripe",
        ]
        out, err = self.folder / "out", self.folder / "err"
        with out.open("wb") as said, err.open("wb") as hinted:
            process = subprocess.Popen(argv, env=environment, stdout=said, stderr=hinted)
            peak_kb = 0
            while process.poll() is None:
                peak_kb = max(peak_kb, own_peak_kb(process.pid))
                time.sleep(0.01)
        return process.returncode, out.read_text(), err.read_text(), peak_kb / 1024


def own_peak_kb(pid: int) -> int:
    """What a running process has held at most. Its resource usage would not tell: that begins with what its parent held."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) if found else 0  # it has just ended


@pytest.fixture
async def many(open_gateway: Open, configuration: Configuration, psps: Psps, flow: type[Kit], tmp_path: Path) -> Many:
    async with open_gateway() as inside:
        await inside.merchant.charged()
    original = list(flow.outside(configuration.database, psps).entries)
    (tmp_path / "books.ndjson").write_text("".join(json.dumps(entry._asdict()) + "\n" for entry in original))
    return Many(configuration, flow.keyring(), original, tmp_path)


MORE_MB: Final = 48
"""How much more memory four times as many payments may take: the shelf's cache grows to its bound. They themselves take more."""


def test_reading_four_times_as_many_payments_takes_no_more_memory(many: Many, proved: Callable[[str], None]) -> None:
    peaks = []
    for payments in (5_000, 20_000):
        many.grow(payments)
        code, said, hinted, peak_mb = many.verify()
        assert code == 0, said + hinted
        assert f"payment {payments:,}" in said
        assert f"{2 * payments:,} book entries" in said
        peaks.append(peak_mb)

    assert peaks[1] - peaks[0] < MORE_MB, peaks
    proved(f"verify: 5,000 payments in {peaks[0]:.0f} MB, 20,000 in {peaks[1]:.0f} MB")


PEAK_MAX_MB: Final = 400


@pytest.mark.nightly
def test_a_million_payments_are_read_in_bounded_memory(many: Many, proved: Callable[[str], None]) -> None:
    many.grow(1_000_000)

    code, said, hinted, peak_mb = many.verify()

    assert code == 0, said + hinted
    assert "payment 1,000,000" in said
    assert "2,000,000 book entries" in said
    assert peak_mb < PEAK_MAX_MB
    assert re.search(r"payment: [0-9,]+ of about [0-9,]+ rows \([0-9]+ %\), [0-9,]+/s", hinted)
    took = re.search(r"read in ([0-9.]+) s", said)
    proved(
        f"verify: 1,000,000 payments with 2,000,000 book entries in {took[1] if took else '?'} s and {peak_mb:.0f} MB"
    )


async def test_it_may_be_interrupted(processes: Processes, database: Database, flow: type[Kit]) -> None:
    """Ctrl-C ends it in a sentence, also while it waits for a table that a migration holds."""
    holder = await asyncpg.connect(database.admin_url)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE idempotency_key IN ACCESS EXCLUSIVE MODE")
            process = processes.command("verify")
            await flow.eventually(lambda: database.value(WAITING) == 1, "it waits for the table")
            process.interrupt()
            code = await asyncio.to_thread(process.wait)
    finally:
        await holder.close()

    assert (code, "nothing was changed" in process.printed) == (130, True), process.printed
    assert "Traceback" not in process.printed


WAITING: Final = """SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'interlock verify' AND wait_event_type = 'Lock'"""
