"""Under fire: real processes and real stores of their own, merchants who do not give up, and a judge who reads three books.

* ``fire`` starts two `gateway serve` and a `gateway worker` and sends them mixed payments while something goes wrong.
* A good merchant sends the same key until the answer is decided, at whichever server answers.
* At the end the PSPs' books, the database and what the merchants were told are laid side by side.

Stores that are killed and frozen here are never those of the other tests, and they write to disk as in production.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import aiohttp
import pytest

from gateway.api.auth import make_key
from gateway.embedded import SUPERUSER, Postgres, Valkey
from gateway.migrate import migrate
from gateway.settings import VERSIONS, Settings
from gateway.vault import Keyring

if TYPE_CHECKING:
    from gateway.invariants import Report
    from tests.conftest import Checked, Database, Databases, Kit, Processes, Psps, Server

PATIENCE_S: Final = 180.0
"""How long anything may take before a test says that it never came. A sound run needs a tenth of it, on a busy machine."""
CLIENT_TIMEOUT_S: Final = 35.0
"""What merchants are told to wait."""
PAUSE_S: Final = (0.15, 1.0)
"""Between two sends of one key: less than ``Retry-After`` says, so that more of them meet."""
LATENCY_MS: Final = 60
"""What a PSP takes for every call here, so that many are on their way when something goes wrong."""


# --- The size of a run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How many payments, and how often what goes wrong does so on their way."""

    payments: int
    losses: int
    seed: int


@pytest.fixture(
    params=[
        pytest.param(Size(500, 1, 1), id="500"),
        *(pytest.param(Size(5000, 10, seed), id=f"5000-{seed}", marks=pytest.mark.nightly) for seed in (2, 3)),
    ]
)
def size(request: pytest.FixtureRequest) -> Size:
    found: Size = request.param
    return found


# --- Stores that may be hurt ------------------------------------------------------------------------------------------


def migrated(server: Postgres) -> str:
    """A migrated database on ``server`` to be copied; gives its name."""
    name = "template_migrated"
    told = {
        "database_url": server.create_database(name),
        "migrate_database_url": server.url(name, role="interlock_owner"),
        "redis_url": "redis://unused",
        "secret_key": "c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M=",
        "dev": True,  # it brings the merchant
    }
    migrate(Settings.model_validate(told))
    return name


def sessions(server: Postgres) -> list[int]:
    """The processes that a Postgres has started: its sessions and its own workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                found += [int(entry.name)] if int(parent) == server.pid else []
    return found


def signalled(server: Postgres, how: signal.Signals) -> None:
    """Send ``how`` to a Postgres and to all that it has started."""
    for pid in (server.pid, *sessions(server)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


@pytest.fixture(scope="session")
def own_databases(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with Postgres.start(tmp_path_factory.mktemp("fire-postgres")) as server:
        yield dataclasses.replace(databases, server=server, template=migrated(server), numbers=itertools.count())


@pytest.fixture
def database(own_databases: Databases) -> Iterator[Database]:
    name, fresh = own_databases.create()
    yield fresh
    if own_databases.server.is_alive():
        signalled(own_databases.server, signal.SIGCONT)
    own_databases.server.restart()  # it ends every session, whatever state a test has left it in
    own_databases.server.drop_database(name)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey.start(tmp_path / "valkey") as server:
        yield server


NO_SMALL_DISK: Final = "a small file system cannot be mounted here (it takes root)"


@pytest.fixture
def small_disk(tmp_path: Path, own_databases: Databases) -> Iterator[Path]:
    """A file system of 256 MB in memory that can be filled. It goes away with the test process, however that ends."""
    where = tmp_path / "small"
    where.mkdir()
    script = 'mount -t tmpfs -o size=256m,mode=0700 tmpfs "$1" && echo mounted && cat; umount -l "$1"'
    holder = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(where)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with holder:  # it ends with its standard input
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(NO_SMALL_DISK)
        owner = (own_databases.server.data_dir / "cluster").stat()
        os.chown(where, owner.st_uid, owner.st_gid)
        yield where


@pytest.fixture
def tight_database(database: Database, own_databases: Databases, small_disk: Path) -> Iterator[Database]:
    """The test's database, its tables on the small disk."""
    name = database.value("SELECT current_database()")
    server = dataclasses.replace(database, admin_url=own_databases.server.url("postgres", role=SUPERUSER))
    server.rows(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    server.rows(f"ALTER DATABASE {name} SET TABLESPACE small")
    yield database
    own_databases.server.drop_database(name)
    server.rows("DROP TABLESPACE small")


@pytest.fixture
def tight_log(small_disk: Path, tmp_path: Path) -> Iterator[Postgres]:
    """A Postgres with its write-ahead log on the small disk."""
    folder = tmp_path / "postgres"
    Postgres.start(folder).stop()
    log = folder / "cluster" / "pg_wal"
    shutil.move(log, small_disk / "pg_wal")
    log.symlink_to(small_disk / "pg_wal")
    with Postgres.start(folder) as server:
        yield server


# --- Merchants --------------------------------------------------------------------------------------------------------

GOOD, SOFT, HARD = "4242424242424242", "4000000000000002", "4000000000009987"


@dataclass(frozen=True)
class Kind:
    """One kind of order: a card, an account, and what the merchant does after the charge."""

    weight: int
    name: str
    card: str = GOOD
    holder: str = "Ada Lovelace"
    account: str | None = None
    approved: bool = True
    verb: str = ""
    share: int = 100
    """Per cent of the amount that the verb is about."""

    @property
    def manual(self) -> bool:
        """Whether the charge only authorizes."""
        return self.verb in {"capture", "cancel"}


KINDS: Final = (
    Kind(26, "charge"),
    Kind(18, "charge", account="adyen"),
    Kind(12, "cascade", card=SOFT),
    Kind(5, "declined by both", card=SOFT, holder="DECLINED", approved=False),
    Kind(4, "refused", card=HARD, approved=False),
    Kind(3, "refused", holder="BLOCK_CARD", account="adyen", approved=False),
    Kind(6, "capture", verb="capture"),
    Kind(6, "capture", verb="capture", account="adyen"),
    Kind(3, "part captured", verb="capture", share=40),
    Kind(4, "cancel", verb="cancel"),
    Kind(3, "cancel", verb="cancel", account="adyen"),
    Kind(4, "refund", verb="refund"),
    Kind(3, "refund", verb="refund", account="adyen"),
    Kind(3, "part refunded", verb="refund", share=40),
)


@dataclass(frozen=True)
class Order:
    """One order of a shopper. Its number is in its key, its reference and its amount, so that no two look alike."""

    number: int
    kind: Kind
    leaves_after_s: float | None = None
    """The client hangs up in the middle of its first send."""
    comes_back: bool = True
    """Whether it sends again after it hung up."""

    @property
    def key(self) -> str:
        return f"order-{self.number}"

    @property
    def amount(self) -> int:
        return 1000 + self.number

    @property
    def currency(self) -> str:
        return ("EUR", "USD", "GBP")[self.number % 3]

    @property
    def part(self) -> int:
        return self.amount * self.kind.share // 100

    @property
    def captured(self) -> int:
        """What is taken from the shopper in the end, refunds aside."""
        if not self.kind.approved or self.kind.verb == "cancel":
            return 0
        return self.part if self.kind.verb == "capture" else self.amount

    @property
    def refunded(self) -> int:
        return self.part if self.kind.approved and self.kind.verb == "refund" else 0


def orders(size: Size, first: int) -> list[Order]:
    """The kinds in their shares, shuffled; numbered from ``first`` on."""
    dice = random.Random(size.seed + first)
    kinds = dice.choices(KINDS, [kind.weight for kind in KINDS], k=size.payments)
    return [Order(number, kind) for number, kind in enumerate(kinds, first)]


@dataclass(frozen=True)
class Said:
    """A decided answer, and the request that got it."""

    path: str
    fields: Mapping[str, Any]
    key: str
    status: int
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Told:
    """What a merchant was told about one order; nothing where the client never came back."""

    order: Order
    charge: Said | None = None
    verb: Said | None = None


FINAL: Final = frozenset({"200", "201", "402"})


def _code(answer: bytes) -> str:
    """A problem's code; what is no problem of the API has none, and is told from all that is."""
    with contextlib.suppress(ValueError, LookupError):
        return str(json.loads(answer)["code"])
    return f"without a code: {answer[:80]!r}"


@dataclass(eq=False)
class Sending:
    """One send on its way, and in the end what came of it."""

    url: str
    label: str = ""


@dataclass
class Merchants:
    """Sends orders at a steady rate, whether or not the last one was answered, each until it is decided."""

    urls: list[str]
    api_key: str
    http: aiohttp.ClientSession
    body: Callable[..., dict[str, Any]]
    card: Callable[..., dict[str, Any]]
    story: Callable[[str], str]
    """All that is known of a key, for the message of a test that fails."""
    told: list[Told] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """Every answer that anybody got until all was decided, a connection that was lost included."""
    after: Counter[str] = field(default_factory=Counter)
    """What the same keys were answered once nothing moved any more."""
    took_s: list[float] = field(default_factory=list)
    well: bool = False
    begun: int = 0
    held_from: int | None = None
    """The order that waits, with all after it, until somebody says ``go``: for what takes long to prepare."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    on_the_way: set[Sending] = field(default_factory=set)
    _next: Iterator[int] = field(default_factory=itertools.count)

    async def shop(self, wanted: Sequence[Order], rate: float) -> None:
        """Send every order, each until it is decided."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, order in enumerate(wanted):
                if number == self.held_from:
                    await self.go.wait()
                    started = time.monotonic() - number / rate
                await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
                told = Told(order)
                self.told.append(told)
                group.create_task(self._serve(told))
                self.begun += 1

    async def _serve(self, told: Told) -> None:
        order, kind = told.order, told.order.kind
        fields = self.body(
            amount=order.amount,
            currency=order.currency,
            reference=order.key,
            capture_method="manual" if kind.manual else "automatic",
            payment_method_data=self.card(kind.card, kind.holder),
            routing={"account": kind.account} if kind.account else None,
        )
        if order.leaves_after_s is not None:
            await self._leave("/v1/payments", fields, order.key, order.leaves_after_s)
            if not order.comes_back:
                return
        told.charge = await self.decided("/v1/payments", fields, order.key)
        if told.charge.status != 201 or not kind.verb:
            return
        payment = told.charge.json["id"]
        path, what = {
            "capture": (f"/v1/payments/{payment}/capture", {"amount": order.part}),
            "cancel": (f"/v1/payments/{payment}/cancel", {}),
            "refund": ("/v1/refunds", {"payment": payment, "amount": order.part}),
        }[kind.verb]
        told.verb = await self.decided(path, what, f"{kind.verb}-{order.number}")

    async def decided(self, path: str, fields: Mapping[str, Any], key: str) -> Said:
        """Send until the answer is final, to one server after the other."""
        deadline, pause = time.monotonic() + PATIENCE_S, PAUSE_S[0]
        while True:
            status, label, answer = await self.send(path, fields, key)
            if label in FINAL:
                return Said(path, fields, key, status, answer)
            again = status in {0, 202} or b'"retryable":true' in answer
            assert again, f"{key} was answered {label}: {answer[:500]!r}"
            assert time.monotonic() < deadline, (
                f"{key} was never decided, the last answer was {label}: {self.story(key)}"
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_S[1])

    async def send(self, path: str, fields: Mapping[str, Any], key: str) -> tuple[int, str, bytes]:
        """Send once: the status, what it is called in the counts, and the body. Status 0 is a connection that was lost."""
        url = self.urls[next(self._next) % len(self.urls)]
        headers = {"Authorization": f"Bearer {self.api_key}", "Idempotency-Key": key}
        started, status, answer = time.monotonic(), 0, b""
        sending = Sending(url, "hung up")
        self.on_the_way.add(sending)
        try:
            async with self.http.post(url + path, json=fields, headers=headers) as response:
                status, answer = response.status, await response.read()
            label = str(status)
            if status >= 400 and status != 402:
                label = f"{status} {_code(answer)}"
        except aiohttp.ClientConnectorError:
            status, label = 0, "refused connection"
        except (aiohttp.ClientError, OSError):
            status, label = 0, "lost connection"
        except TimeoutError:
            status, label = 0, "no answer in time"
        finally:
            self.on_the_way.remove(sending)
        sending.label = label
        if self.well:
            self.after[label] += 1
        else:
            self.seen[label] += 1
            self.took_s.append(time.monotonic() - started)
        return status, label, answer

    async def _leave(self, path: str, fields: Mapping[str, Any], key: str, after_s: float) -> None:
        """Hang up in the middle of a send."""
        try:
            async with asyncio.timeout(after_s):
                await self.send(path, fields, key)
        except TimeoutError:
            self.seen["hung up"] += 1

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for something that the load brings about."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"it never came: {what}"
            await asyncio.sleep(0.005)

    async def replayed(self) -> int:
        """Ask every decided key once more. Gives how many were not answered byte for byte as before."""
        said = [each for told in self.told for each in (told.charge, told.verb) if each is not None]
        slots, different = asyncio.Semaphore(16), 0

        async def once(before: Said) -> None:
            nonlocal different
            async with slots:
                status, _, answer = await self.send(before.path, before.fields, before.key)
            different += (status, answer) != (before.status, before.body)

        await asyncio.gather(*map(once, said))
        return different


# --- The judge --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Books:
    """The PSPs' books and wire logs, by our operation that an entry is about."""

    charges: Mapping[str, list[dict[str, Any]]]
    moved: Mapping[str, Mapping[str, list[dict[str, Any]]]]
    """Captures and refunds, by the authorization they belong to."""
    requests: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, psps: Psps) -> Books:
        charges: dict[str, list[dict[str, Any]]] = defaultdict(list)
        moved: dict[str, dict[str, list[dict[str, Any]]]] = {
            "captures": defaultdict(list),
            "refunds": defaultdict(list),
        }
        for psp in psps.REAL:
            for entry in psps.books(psp, "authorisations"):
                charges[entry["payment_reference"]].append(entry)
            for book, by_charge in moved.items():
                for entry in psps.books(psp, book):
                    by_charge[entry["payment_reference"]].append(entry)
        return cls(charges, moved, [entry for psp in psps.REAL for entry in psps.requests(psp)])


@dataclass
class Verdict:
    """What is wrong. Nothing may be."""

    double: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    payments: int = 0
    unknown: int = 0

    def clean(self) -> bool:
        return not (self.double or self.lost or self.wrong)


LIVE: Final = frozenset({"authorised", "captured"})
HOLDS_MONEY: Final = frozenset({"requires_capture", "succeeded"})


def judge(told: Sequence[Told], database: Database, books: Books) -> Verdict:
    """Lay the three side by side, once nothing moves any more."""
    found = Verdict()
    keys = [each.order.key for each in told]
    rows = database.rows("SELECT * FROM payment WHERE reference = ANY(%(keys)s)", keys=keys)
    ids = [row["id"] for row in rows]
    operations = database.rows(
        "SELECT id, payment_id, kind, status FROM operation WHERE payment_id = ANY(%(ids)s)", ids=ids
    )
    attempts: dict[str, list[str]] = defaultdict(list)
    for operation in operations:
        if operation["kind"] == "authorize":
            attempts[operation["payment_id"]].append(operation["id"])
    found.payments = len(rows)
    found.unknown = database.value(
        "SELECT count(*) FROM change WHERE news = 'Unknown' AND payment_id = ANY(%(ids)s)", ids=ids
    )
    by_key = {row["reference"]: row for row in rows}
    if len(by_key) != len(rows):
        found.double.append(f"{len(rows)} payments for {len(by_key)} keys")
    known = {row["id"]: row["provider_key"] for row in database.rows("SELECT id, provider_key FROM operation")}
    strangers = books.charges.keys() - known.keys()
    found.lost += [f"the books hold a charge of an operation that is not there: {each}" for each in strangers]
    for each in told:
        row = by_key.get(each.order.key)
        if row is None:
            if each.charge is not None or each.order.comes_back:
                found.lost.append(f"{each.order.key} has no payment")
            continue
        _judge_order(
            each, row, [charge for attempt in attempts[row["id"]] for charge in books.charges.get(attempt, [])], found
        )
        _judge_amounts(each, row, attempts[row["id"]], books, found)
    _judge_wire(books.requests, known, found)
    return found


def _judge_order(told: Told, row: Mapping[str, Any], charges: Sequence[Mapping[str, Any]], found: Verdict) -> None:
    """One key: at most one charge, and the one that was told."""
    order, live = told.order, [charge for charge in charges if charge["status"] in LIVE]
    if len(live) > 1 or len(charges) > 1:
        found.double.append(f"{order.key} was charged {len(charges)} times, {len(live)} of them hold money")
    if bool(live) != (row["status"] in HOLDS_MONEY):
        found.lost.append(f"{order.key} is {row['status']}, and the books hold {len(live)} charges")
    if told.charge is None:
        return  # nobody was told anything; the row and the books agree
    approved = told.charge.status == 201
    if approved != order.kind.approved or told.charge.json["id"] != row["id"]:
        found.wrong.append(f"{order.key} ({order.kind.name}) was told {told.charge.status}")
    if approved and len(charges) != 1:
        found.lost.append(f"{order.key} was told success, and the books hold {len(charges)} charges")
    if not approved and live:
        found.wrong.append(f"{order.key} was told failure, and the books hold its money")
    if approved and bool(live) == (order.kind.verb == "cancel"):
        found.lost.append(f"{order.key} ({order.kind.name}) has {len(live)} charges that hold money")


def _judge_amounts(told: Told, row: Mapping[str, Any], attempts: Sequence[str], books: Books, found: Verdict) -> None:
    """Authorized, captured, refunded: as asked, in the row and in the books."""
    order = told.order
    for book, column, wanted in (
        ("captures", "amount_captured", order.captured),
        ("refunds", "amount_refunded", order.refunded),
    ):
        entries = [entry for attempt in attempts for entry in books.moved[book].get(attempt, [])]
        moved = sum(entry["amount"] for entry in entries)
        if any(entry["currency"].upper() != order.currency for entry in entries):
            found.wrong.append(f"{order.key}: {book} in another currency")
        if moved != row[column]:
            (found.double if moved > row[column] else found.lost).append(
                f"{order.key} ({order.kind.name}): {book} of {moved} in the books, {row[column]} in the row"
            )
        if told.charge is not None and row[column] != wanted:
            found.wrong.append(f"{order.key} ({order.kind.name}): {column} is {row[column]}, asked was {wanted}")
    for charge in (charge for attempt in attempts for charge in books.charges.get(attempt, [])):
        if (charge["amount"], charge["currency"].upper()) != (order.amount, order.currency):
            found.wrong.append(f"{order.key}: authorized were {charge['amount']} {charge['currency']}")
    if row["amount_capturing"] or row["amount_refunding"]:
        found.wrong.append(f"{order.key}: an amount is still reserved")


def _judge_wire(requests: Sequence[Mapping[str, Any]], keys: Mapping[str, str], found: Verdict) -> None:
    """One key, one body: whatever was sent again was sent byte for byte, and no key served two operations."""
    bodies: dict[tuple[str, str], set[str]] = defaultdict(set)
    users: dict[str, set[str]] = defaultdict(set)
    for entry in requests:
        if entry["key"] is not None:
            bodies[entry["key"], entry["path"]].add(entry["body_sha256"])
            users[entry["key"]].add(entry["reference"])
    found.wrong += [f"two bodies under one key at {path}" for (_, path), seen in bodies.items() if len(seen) > 1]
    for used in users.values():
        if len(used - {None}) > 1:
            found.wrong.append(f"one key for {sorted(used - {None})}")
    asked = {
        entry["reference"] for entry in requests if entry["operation"] in {"authorize", "capture", "void", "refund"}
    }
    found.lost += [f"a PSP was asked for {each}, which is not written down" for each in asked - {None} - keys.keys()]


# --- A run ------------------------------------------------------------------------------------------------------------

Loss = Callable[["Fire"], Awaitable[None]]

ALWAYS: Final = frozenset({"200", "201", "202", "402", "409 request_in_progress"})
"""What a caller may see with all stores at hand: the rest of this list is an outcome that is not known yet."""
DATABASE_LOST: Final = ALWAYS | {"503 database_unavailable", "504 outcome_in_doubt"}
SERVER_LOST: Final = ALWAYS | {"lost connection", "refused connection"}


@dataclass
class Fire:
    """The house, and what may be done to it."""

    ALWAYS: ClassVar = ALWAYS
    DATABASE_LOST: ClassVar = DATABASE_LOST
    SERVER_LOST: ClassVar = SERVER_LOST

    processes: Processes
    psps: Psps
    size: Size
    postgres: Postgres
    valkey: Valkey
    note: Callable[[str], None]
    kit: type[Kit]
    checked: Checked
    servers: list[Server] = field(default_factory=list)
    workers: list[Any] = field(default_factory=list)
    settings: Mapping[str, str] = field(default_factory=lambda: {"GATEWAY_DEV": "0"})
    """As in production, where a server that is told to stop has half a minute to finish."""
    latency_ms: int = LATENCY_MS
    slow: str = "any"
    """Which of the PSPs' operations take that long."""
    remarks: list[str] = field(default_factory=list)
    clocks_off_s: int = 0
    """By how much some servers are ahead or behind, where they are."""
    ordered: int = 0
    merchants: Merchants = field(init=False)

    @property
    def database(self) -> Database:
        return self.processes.configuration.database

    def rest_on(self, server: Postgres) -> None:
        """Use another Postgres, before anything is opened."""
        name, self.postgres = migrated(server), server
        urls = {"url": server.url(name), "owner_url": server.url(name, role="interlock_owner")}
        database = dataclasses.replace(self.database, **urls, admin_url=server.url(name, role=SUPERUSER))
        self.processes.configuration = dataclasses.replace(self.processes.configuration, database=database)

    async def open(
        self, servers: int = 2, *, prepared: Callable[[int, Server], None] = lambda number, server: None
    ) -> None:
        """Start the servers and the worker, and wait until they serve. ``prepared`` may change one before its start."""
        for number in range(servers):
            server = self.processes.server(**self.settings)
            prepared(number, server)
            server.process.start()
            self.servers.append(server)
        self.start_worker()
        for server in self.servers:
            await self.ready(server)

    def orders(self) -> list[Order]:
        """New orders, as many as the size says."""
        self.ordered += self.size.payments
        return orders(self.size, self.ordered - self.size.payments)

    async def add_server(self) -> Server:
        """Another server, once it serves."""
        server = self.processes.server(**self.settings)
        server.process.start()
        await self.ready(server)
        self.servers.append(server)
        self.merchants.urls.append(server.url)
        return server

    def signal_postgres(self, how: signal.Signals) -> None:
        """Send ``how`` to Postgres and to all its sessions."""
        signalled(self.postgres, how)

    async def stop(self, server: Server) -> str:
        """SIGTERM, as a rolling restart sends it. Gives how long it took, and what became of the calls that were under way."""
        under_way = [each for each in self.merchants.on_the_way if each.url == server.url]
        started = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(server.process.stop))
        await asyncio.sleep(0.3)  # for as long, nobody has told the merchants
        if server.url in self.merchants.urls:
            self.merchants.urls.remove(server.url)
        self.servers.remove(server)
        await stopping
        took_s = time.monotonic() - started
        await self.merchants.until(lambda: not self.merchants.on_the_way & set(under_way), "the end of its calls")
        cut = sum(not each.label[:1].isdigit() for each in under_way)
        return f"SIGTERM with {len(under_way)} calls under way: {len(under_way) - cut} answered, {cut} cut, gone in {took_s:.1f} s"

    def start_worker(self) -> None:
        self.workers.append(self.processes.worker())

    async def ready(self, server: Server) -> None:
        """Wait until it serves, without stopping the load."""
        await asyncio.to_thread(server.wait_until_ready)

    def stumble(self) -> None:
        """What PSPs do wrong on any day: some answers are lost, broken or a 500, after the money has moved or before."""
        faults = ("garbage", "reset_after_effect", "error_after_effect", "truncated", "reset_before_effect", "empty")
        often = max(1, self.size.payments // 250)
        for psp in self.psps.REAL:
            self.psps._control(psp, "DELETE", "faults")
            self.psps.fault(psp, self.slow, "latency", latency_ms=self.latency_ms, times=None)
            for number, fault in enumerate(faults):
                self.psps.fault(psp, "authorize", fault, times=often, after=5 + 9 * number)
            for number, verb in enumerate(("capture", "refund", "void")):
                self.psps.fault(psp, verb, faults[number], times=often, after=1 + number)
            if psp == "stripe":  # the other PSP has no look-up: with its webhook lost, a kept 500 is for a person
                self.psps.fault(psp, "authorize", "drop_webhook", times=often * 5, after=3)
            self.psps.fault(psp, "authorize", "duplicate_webhook", times=often * 5, after=20)

    async def burn(
        self,
        what: str,
        loss: Loss,
        allowed: Collection[str],
        *,
        rate: float = 90.0,
        wanted: Sequence[Order] | None = None,
        held_from: float | None = None,
    ) -> Verdict:
        """Send the orders, let ``loss`` happen on their way, wait until all is settled, and judge. May be called again.

        ``held_from`` is the share of the orders after which the rest waits until ``loss`` says ``go``.
        Nobody may have seen an answer that is not in ``allowed``, nor, once it is over, one that is not usual.
        """
        wanted = self.orders() if wanted is None else wanted
        began = self.database.value("SELECT now()")
        self.stumble()
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            urls = [server.url for server in self.servers]
            key = new_key(self.database, self.kit.SECRETS["GATEWAY_SECRET_KEY"])
            self.merchants = Merchants(urls, key, http, self.kit.body, self.kit.card, self.story)
            if held_from is not None:
                self.merchants.held_from = int(len(wanted) * held_from)
            async with asyncio.TaskGroup() as group:
                group.create_task(self.merchants.shop(wanted, rate))
                group.create_task(self._trouble(loss))
            await self.at_rest()
            self.merchants.well = True
            different = await self.merchants.replayed()
        verdict = self.judge(self.merchants.told, self.books())
        if different:
            verdict.wrong.append(f"{different} keys were answered otherwise than before")
        assert verdict.clean(), verdict
        if self.clocks_off_s:
            self._set_clocks_right(began)
        self._report(what, verdict, await self.checked(self.database, self.psps, at_rest=True))
        assert all(process.is_alive() for process in (*self.workers, *(server.process for server in self.servers)))
        assert self.merchants.seen.keys() - {"hung up"} <= set(allowed), self.merchants.seen
        assert self.merchants.after.keys() <= FINAL, self.merchants.after
        return verdict

    def books(self) -> Books:
        """The PSPs' books as they stand."""
        return Books.of(self.psps)

    def judge(self, told: Sequence[Told], books: Books) -> Verdict:
        """What is wrong."""
        return judge(told, self.database, books)

    def attempt_of(self, key: str) -> str:
        """The one attempt of a key's payment."""
        found: str = self.database.value(
            "SELECT o.id FROM operation o JOIN payment p ON p.id = o.payment_id WHERE p.reference = %(key)s", key=key
        )
        return found

    def story(self, key: str) -> str:
        """The rows of a key's payment, and what its operations have asked of the PSPs."""
        (used,) = self.database.rows(
            "SELECT payment_id, operation_id, status FROM idempotency_key WHERE key = %(key)s", key=key
        ) or [{"payment_id": None}]
        mine = {"id": used["payment_id"]}
        operations = self.database.rows(
            """SELECT id, kind, status, reason, epoch, tries, lease_until - now() AS lease, due_at - now() AS due,
            sealed_request IS NULL AS wiped FROM operation WHERE payment_id = %(id)s ORDER BY seq""",
            **mine,
        )
        changes = self.database.rows(
            "SELECT at, source, news, to_status, reason FROM change WHERE payment_id = %(id)s ORDER BY seq", **mine
        )
        ours = {operation["id"] for operation in operations}
        wire = [entry for psp in self.psps.REAL for entry in self.psps.requests(psp) if entry["reference"] in ours]
        inbox = self.database.rows(
            "SELECT account, type, result, tries, due_at - now() AS due, count(*) FROM webhook_inbox GROUP BY 1, 2, 3, 4, 5"
        )
        sent = Counter(
            (psp, each["kind"], each["status"], each["attempts"], each["last_answer"])
            for psp in self.psps.REAL
            for each in self.psps.webhooks(psp)
        )
        parts: list[Mapping[Any, Any]] = [used, *operations, *changes, *wire[:6], *wire[-6:], *inbox[:40], dict(sent)]
        return "\n".join(str({name: str(value) for name, value in part.items()}) for part in parts)

    async def _trouble(self, loss: Loss) -> None:
        """Let it happen as often as the size says, spread over the orders."""
        for number in range(self.size.losses):
            at = int((number + 0.2) * self.size.payments / self.size.losses)
            await self.merchants.until(lambda at=at: self.merchants.begun >= at, f"{at} orders")  # type: ignore[misc]  # bound now
            await loss(self)

    async def at_rest(self) -> None:
        """Wait until nothing is open and no event waits to be applied: webhooks and the worker bring that about."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            still = await asyncio.to_thread(
                self.database.rows,
                """SELECT kind, account, status, count(*) FROM operation
                WHERE status IN ('created', 'sent', 'unknown', 'pending') GROUP BY 1, 2, 3
                UNION ALL SELECT type, account, 'not applied', count(*) FROM webhook_inbox
                WHERE due_at IS NOT NULL AND tries = 0 GROUP BY 1, 2""",
            )
            if not still:
                return
            assert time.monotonic() < deadline, f"still open: {still}"
            await asyncio.sleep(0.2)

    def _set_clocks_right(self, began: datetime) -> None:
        """Take the error out of when operations were opened: the PSPs' wire log, which is compared with that, has the right time.

        What was opened before the run began is behind, what was opened in the future is ahead: a run is shorter than the error.
        """
        for sign, wrong in ((1, "created_at < %(began)s"), (-1, "created_at > now()")):
            self.database.rows(
                f"UPDATE operation SET created_at = created_at + make_interval(secs => %(error)s) WHERE {wrong}",
                error=sign * self.clocks_off_s,
                began=began,
            )

    def _report(self, what: str, verdict: Verdict, report: Report) -> None:
        seen = ", ".join(f"{count} x {label}" for label, count in sorted(self.merchants.seen.items()))
        took = sorted(self.merchants.took_s)
        self.note(
            f"under fire, {what}: {verdict.payments} payments, {self.size.losses} loss(es); callers saw {seen}; "
            f"{''.join(f'{remark}; ' for remark in self.remarks)}{verdict.unknown} unknown outcomes; p50 {took[len(took) // 2] * 1000:.0f} ms, "
            f"p99 {took[len(took) * 99 // 100] * 1000:.0f} ms; "
            f"{len(verdict.double)} double, {len(verdict.lost)} lost, {len(verdict.wrong)} wrong; "
            f"{len(report.checked)} invariants hold"
        )


def new_key(database: Database, secret_key: str) -> str:
    """A merchant's key as `gateway keys create` makes it: in production there are no others."""
    key = make_key("secret", livemode=False)
    database.rows(
        """INSERT INTO api_key (id, merchant_id, kind, livemode, secret_hash, version, created_at)
        VALUES (%(id)s, 'mer_dev', 'secret', false, %(hash)s, %(version)s, now())""",
        id=key.id,
        hash=Keyring.derive(base64.b64decode(secret_key)).hash_api_key(key.secret),
        version=VERSIONS[0],
    )
    return key.text


@pytest.fixture
def fire(
    own_databases: Databases,
    processes: Processes,
    psps: Psps,
    valkey: Valkey,
    size: Size,
    proved: Callable[[str], None],
    flow: type[Kit],
    checked: Checked,
) -> Fire:
    return Fire(processes, psps, size, own_databases.server, valkey, proved, flow, checked)
