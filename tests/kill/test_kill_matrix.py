"""The kill matrix: a real process is killed at every crash point of every path; what it leaves is one charge and the right answer.

A *scene* is one thing that a merchant, a shopper or a PSP does, at one PSP, with one outcome. It is played once in this process to
learn which crash points it passes, and each of them is a *cell*: the scene is played against a process of its own that kills itself
there. Then the client sends the same key to another process, and at the end the books of the PSPs, the rows and the answers must
tell the same story. In a *swept* scene the process of the request dies first, and then the worker that takes over from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import asyncpg
import httpx
import pytest

from gateway import crash
from gateway.invariants import Outside, check_invariants
from gateway.sql import DatabaseAway
from gateway.sweep import settle
from gateway.verify import reading

if TYPE_CHECKING:
    from tests.conftest import Configuration, Database, Databases, Inside, Kit, Merchant, Open, Psps
    from tests.kill.conftest import Forge, Forked, Letter, Post

PSPS: Final = ("stripe", "adyen")
OTHER: Final = {"stripe": "adyen", "adyen": "stripe"}
RECOVERED_S: Final = 60.0
"""Six times what is promised: only a fault makes a cell wait this long, never a slow machine."""
ALIVE_MAX: Final = 6
LANES: Final = 8
SENDS_MAX: Final = 3
"""How often a client asks again before its process is dead: enough to see an unknown outcome through."""
TRIES_MAX: Final = 4
QUICK_S: Final = 40.0
"""How long a process may take to pass its point after it was given cause to, before another one is taken to have been quicker."""
WAITING_MAX: Final = 64
CELLS_MIN: Final = 120

CODES: Final = {
    ("stripe", "declined"): "lost_card",
    ("stripe", "cascade"): "generic_decline",
    ("adyen", "declined"): "BLOCK_CARD",
    ("adyen", "cascade"): "DECLINED",
}
OPERATION: Final = {"charge": "authorize", "capture": "capture", "cancel": "void", "refund": "refund"}
CHALLENGED: Final = {"stripe": "4000000000003220", "adyen": "5454545454545454"}
TELLING: Final = {
    ("stripe", "charge"): re.compile(rb'"type": ?"payment_intent.succeeded"'),
    ("stripe", "capture"): re.compile(rb'"type": ?"payment_intent.succeeded"'),
    ("adyen", "charge"): re.compile(rb'"eventCode": ?"AUTHORISATION"'),
    ("adyen", "capture"): re.compile(rb'"eventCode": ?"CAPTURE"'),
}
"""What a webhook holds that tells of an approval."""


@dataclass(frozen=True)
class Scene:
    """What is done (``path``) at one PSP, and what comes of it. ``swept``: by the worker, after the process of the request died.

    An outcome ``applied`` is an answer that was lost after its effect, ``not_applied`` an error without any. Of a webhook the
    outcome says what is known when it comes.
    """

    path: str
    psp: str
    outcome: str
    swept: bool = False

    def __str__(self) -> str:
        return f"{self.path}{' swept' if self.swept else ''} at {self.psp}, {self.outcome}"

    @property
    def can_go_unheard(self) -> bool:
        """Whether it is decided without any webhook."""
        told_later = self.psp == "adyen" and (self.path in {"capture", "cancel", "refund"} or self.outcome == "capture")
        return not told_later


SCENES: Final = tuple(
    [
        Scene("charge", psp, outcome, swept)
        for psp in PSPS
        for outcome in ("approved", "declined", "cascade", "applied", "not_applied")
        for swept in (False, True)
    ]
    + [
        Scene(path, psp, outcome, swept)
        for path in ("capture", "cancel", "refund")
        for psp in PSPS
        for outcome in ("approved", "applied", "not_applied")
        for swept in (False, True)
    ]
    + [Scene("confirm", psp, outcome) for psp in PSPS for outcome in ("approved", "applied")]
    + [Scene("return", psp, outcome) for psp in PSPS for outcome in ("succeeded", "failed")]
    + [Scene("webhook", psp, outcome) for psp in PSPS for outcome in ("unknown", "known", "capture")]
)


@dataclass(frozen=True)
class Cell:
    """One scene, killed at the ``nth`` passage of one point. ``heard``: the PSP's webhooks arrive once the process is dead."""

    scene: Scene
    point: str
    nth: int
    heard: bool

    def __str__(self) -> str:
        return f"{self.scene}, killed at {self.point}:{self.nth}, webhooks {'heard' if self.heard else 'lost'}"

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """What meets in this cell: its point with the PSP and with the webhooks' fate, and its step with all three."""
        point, step = f"{self.point}:{min(self.nth, 2)}", self.point.rpartition(".")[0]
        psp, outcome, heard = self.scene.psp, self.scene.outcome, f"heard {self.heard}"
        swept = f"{step} swept {self.scene.path}" if self.scene.swept else step
        return frozenset(
            {(point, psp), (point, heard), (step, outcome), (swept, psp), (psp, outcome), (outcome, heard)}
        )


# --- Playing a scene ----------------------------------------------------------------------------------------------------


@dataclass
class Play:
    """One playing of a scene: the merchant's request, to be sent until it is decided."""

    scene: Scene
    psps: Psps
    flow: type[Kit]
    number: str
    heard: bool = True
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Its process is dead: from here on the webhooks arrive."""
    path: str = "/v1/payments"
    fields: dict[str, Any] = field(default_factory=dict)
    payment_id: str | None = None
    address: str | None = None
    """Where the shopper's browser is sent back to."""

    @property
    def name(self) -> str:
        """The merchant's reference and key."""
        return f"kill-{self.number}"

    async def prepare(self, merchant: Merchant) -> None:
        """Everything that comes before the request that is killed, at a healthy gateway."""
        scene = self.scene
        charge = self.flow.body(
            payment_method_data=self.flow.card(CHALLENGED[scene.psp] if scene.path == "return" else self.number),
            reference=self.name,
        )
        if scene.outcome != "cascade":
            charge["routing"] = {"account": scene.psp}
        verb = scene.outcome if scene.outcome == "capture" else scene.path
        if verb in {"capture", "cancel"}:
            charge["capture_method"] = "manual"
        match verb:
            case "charge":
                self.fields = charge
            case "capture" | "cancel" | "refund":
                payment = await merchant.charged(**charge)
                self.payment_id = payment["id"]
                amount = {} if verb == "cancel" else {"amount": 700}
                self.path = "/v1/refunds" if verb == "refund" else f"/v1/payments/{payment['id']}/{verb}"
                self.fields = {"payment": payment["id"], **amount} if verb == "refund" else amount
            case "confirm":
                created = await merchant.post("/v1/payments", charge | {"confirm": False})
                self.payment_id = created.json()["id"]
                self.path, self.fields = f"/v1/payments/{self.payment_id}/confirm", {}
            case "return":
                payment = (await merchant.charge(key=self.name, **charge)).json()
                self.payment_id = payment["id"]
                self.address = await self.psps.visit(payment, scene.outcome)
            case _:
                self.fields = charge
        self._script()
        if scene.path == "webhook":
            answer = await self.post(merchant)
            assert answer.status_code == (202 if self.waits else 200 if verb == "capture" else 201), answer.text

    @property
    def waits(self) -> bool:
        """Whether it is not decided before the PSP tells of it."""
        scene = self.scene
        return scene.outcome == "unknown" or (scene.outcome == "capture" and scene.psp == "adyen")

    def _script(self) -> None:
        scene = self.scene
        match = {"bin": self.number}
        operation = OPERATION.get(scene.path, "authorize")
        match scene.outcome:
            case "declined" | "cascade":
                code = CODES[scene.psp, scene.outcome]
                self.psps.fault(scene.psp, operation, "decline", code=code, match=match, times=None)
            case "applied":
                self.psps.fault(scene.psp, operation, "garbage", match=match)
            case "not_applied":
                self.psps.fault(scene.psp, operation, "status", status=500, match=match)
            case "unknown":  # long enough for the webhook to come first
                self.psps.fault(scene.psp, operation, "garbage", match=match, times=3)
            case _:
                pass

    async def post(self, merchant: Merchant) -> httpx.Response:
        """The request, once; or the shopper's browser."""
        if self.address is not None:
            return await merchant.come_back(self.address)
        return await merchant.post(self.path, self.fields, key=self.name)

    async def insist(self, merchant: Merchant, sends: int) -> None:
        """What a client does while its process lives: ask again where nothing is decided."""
        for _ in range(sends):
            answer = await self.post(merchant)
            if answer.status_code not in {202, 409, 503}:
                return

    async def decided(self, merchant: Merchant) -> httpx.Response:
        """Send the same key until the answer is decided."""
        deadline = time.monotonic() + RECOVERED_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self.post(merchant)
                again = answer.status_code == 202 or (answer.status_code in {409, 503} and answer.json()["retryable"])
                if not again:
                    return answer
            assert time.monotonic() < deadline, f"{self.scene}: it was never decided: {answer.text}"
            await asyncio.sleep(0.25)

    def tells(self, letter: Letter) -> bool:
        """Whether a webhook is the one that the scene is about."""
        verb = "capture" if self.scene.outcome == "capture" else "charge"
        return TELLING[self.scene.psp, verb].search(letter.body) is not None


# --- Rehearsal: which points a scene passes -----------------------------------------------------------------------------

Passages = list[tuple[str, int]]
_on_stage: Final[ContextVar[Scene | None]] = ContextVar("_on_stage", default=None)
_dying: Final[ContextVar[str | None]] = ContextVar("_dying", default=None)


class Prompter:
    """Notes every point that the scene of the task passes; and lets a request fail where a process would die."""

    def __init__(self) -> None:
        self.passed: dict[Scene, list[str]] = {}

    def __call__(self, point: str) -> None:
        scene = _on_stage.get()
        if scene is not None:
            self.passed.setdefault(scene, []).append(point)
        if point == _dying.get():
            raise DatabaseAway

    def passages(self, scene: Scene) -> Passages:
        """Each passage as point and number, in their order."""
        counts: Counter[str] = Counter()
        found = []
        for point in self.passed.get(scene, []):
            counts[point] += 1
            found.append((point, counts[point]))
        return found


async def rehearse(
    open_gateway: Open, psps: Psps, post: Post, flow: type[Kit], cards: Iterator[str]
) -> dict[Scene, Passages]:
    """Play every scene once, in this process and without a worker."""
    prompter = Prompter()
    slots = asyncio.Semaphore(ALIVE_MAX)

    async def rehearsed(scene: Scene, inside: Inside) -> None:
        async with slots:
            play = Play(scene, psps, flow, next(cards))
            await play.prepare(inside.merchant)
            if scene.swept:
                _dying.set(f"{scene.path}.open.after")
                await play.insist(inside.merchant, 1)
                _dying.set(None)
                await _rehearse_sweep(play, inside)
            elif scene.path == "webhook":
                letter = await _letter_of(play, post, inside.database)
                _on_stage.set(scene)
                answer = await inside.merchant.http.post(
                    f"/v1/webhooks/{letter.account}", content=letter.body, headers=letter.headers
                )
                assert answer.status_code == 200, answer.text
                await flow.eventually(
                    lambda: "webhook.note.after" in prompter.passed[scene], f"{scene}: the webhook was applied"
                )
            else:
                _on_stage.set(scene)
                await play.insist(inside.merchant, SENDS_MAX)

    async with open_gateway(passed=prompter) as inside:
        await asyncio.gather(*(rehearsed(scene, inside) for scene in SCENES))
    return {scene: prompter.passages(scene) for scene in SCENES}


async def _rehearse_sweep(play: Play, inside: Inside) -> None:
    """The worker finds what a request has left."""
    rows = "SELECT o.id, o.payment_id FROM operation o JOIN payment p ON p.id = o.payment_id WHERE p.reference = %(name)s ORDER BY o.seq DESC LIMIT 1"
    (left,) = inside.database.rows(rows, name=play.name)
    inside.database.rows("UPDATE operation SET lease_until = now() WHERE id = %(id)s", id=left["id"])
    _on_stage.set(play.scene)

    async def swept() -> object:
        return await settle(left["payment_id"], left["id"], inside.house.deps)

    await crash.on_path("settle", swept)()


async def _letter_of(play: Play, post: Post, database: Database) -> Letter:
    """The webhook that a scene is about."""
    found = await asyncio.to_thread(
        database.rows,
        "SELECT o.id FROM operation o JOIN payment p ON p.id = o.payment_id WHERE p.reference = %(name)s",
        name=play.name,
    )
    operations = {row["id"] for row in found}
    return await post.wait_for(lambda letter: bool(letter.operations & operations) and play.tells(letter))


# --- The cells ----------------------------------------------------------------------------------------------------------


def all_cells(passages: Mapping[Scene, Passages]) -> list[Cell]:
    """Every passage of every scene, with and without the PSP's webhooks."""
    return [
        Cell(scene, point, nth, heard)
        for scene, passed in passages.items()
        for point, nth in passed
        for heard in (True, False)
        if heard or scene.can_go_unheard
    ]


def pairwise(cells: list[Cell]) -> list[Cell]:
    """A choice of cells in which everything meets that meets in any of them."""
    left = list(cells)
    random.Random(4).shuffle(left)
    wanted = set().union(*(cell.pairs for cell in left))
    chosen = []
    while wanted:
        best = max(left, key=lambda cell: len(cell.pairs & wanted))
        wanted -= best.pairs
        left.remove(best)
        chosen.append(best)
    return chosen


# --- The stage ----------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A database with a healthy gateway on it, and whatever a cell kills there."""

    database: Database
    environment: Mapping[str, str]
    rows: asyncpg.Pool
    healthy: Forked
    merchant: Merchant
    plays: dict[str, Play] = field(default_factory=dict)

    async def name_of(self, operations: Iterable[str]) -> str | None:
        """The payment that one of these operations belongs to, by its reference."""
        found: str | None = await self.rows.fetchval(
            "SELECT p.reference FROM operation o JOIN payment p ON p.id = o.payment_id WHERE o.id = ANY($1)",
            list(operations),
        )
        return found

    async def operations_of(self, play: Play) -> set[str]:
        found = await self.rows.fetch(
            "SELECT o.id FROM operation o JOIN payment p ON p.id = o.payment_id WHERE p.reference = $1", play.name
        )
        return {row["id"] for row in found}

    async def at_rest(self, play: Play) -> None:
        """Wait until nothing is open any more."""
        deadline = time.monotonic() + RECOVERED_S
        while await self.rows.fetchval(
            """SELECT count(*) FROM operation o JOIN payment p ON p.id = o.payment_id WHERE p.reference = $1
            AND (o.status IN ('created', 'sent', 'unknown', 'pending') OR p.status = 'processing')""",
            play.name,
        ):
            assert time.monotonic() < deadline, f"{play.scene}: it never came to rest"
            await asyncio.sleep(0.25)

    async def all_applied(self) -> None:
        """Wait until every event that was stored is applied: what a dead process has left of them is due some seconds later.

        One that never is, the promises tell of.
        """
        deadline = time.monotonic() + RECOVERED_S
        left = "SELECT count(*) FROM webhook_inbox WHERE applied_at IS NULL"
        while await self.rows.fetchval(left):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.25)

    async def due_now(self, play: Play) -> None:
        """The lease of what a dead process has left has run out: what six seconds would do."""
        await self.rows.execute(
            """UPDATE operation SET lease_until = now(), due_at = now() FROM payment p
            WHERE p.id = operation.payment_id AND p.reference = $1 AND operation.due_at IS NOT NULL""",
            play.name,
        )


@asynccontextmanager
async def connected(forked: Forked, flow: type[Kit]) -> AsyncIterator[Merchant]:
    async with httpx.AsyncClient(base_url=forked.url, timeout=RECOVERED_S) as http:
        yield flow.Merchant(http)


@dataclass
class Theatre:
    """All stages, and the couriers who bring webhooks to them."""

    forge: Forge
    post: Post
    psps: Psps
    flow: type[Kit]
    configuration: Configuration
    databases: Databases
    http: aiohttp.ClientSession
    cards: Iterator[str]
    stages: list[Stage] = field(default_factory=list)

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[Stage]:
        """A database of its own, with a healthy gateway on it."""
        name, database = self.databases.create()
        configuration = replace(self.configuration, database=database)
        environment = configuration.environment(configuration.accounts())
        async with asyncpg.create_pool(database.admin_url, min_size=1, max_size=2) as rows:
            healthy = await self.forge.server(environment)
            async with connected(healthy, self.flow) as merchant:
                ours = Stage(database, environment, rows, healthy, merchant)
                self.stages.append(ours)
                yield ours
            await self.forge.kill(healthy)
        self.databases.server.drop_database(name)

    async def carry(self) -> None:
        """Bring webhooks, each by a courier of its own."""
        async with asyncio.TaskGroup() as couriers:
            while True:
                couriers.create_task(self._bring(await self.post.letters.get()))

    async def broken_promises(self) -> list[str]:
        """Every promise that the rows of a stage break, alone or beside the PSPs' books and wire logs."""
        known, found = set[str](), list[str]()
        for stage in self.stages:
            outside = await asyncio.to_thread(self.flow.outside, stage.database, self.psps)
            ours = {row["id"] for row in await stage.rows.fetch("SELECT id FROM operation")}
            known |= ours
            theirs = Outside(
                [entry for entry in outside.entries if ours & {entry.reference, entry.payment_reference}],
                [arrival for arrival in outside.arrivals or () if arrival.reference in ours],
                outside.taken_at,
                outside.horizons,
            )
            async with reading(stage.database.url) as rows:
                report = await check_invariants(rows, theirs, at_rest=True, grace_s=5, keyring=self.flow.keyring())
            found += [f"{each.invariant} {each.payment_id}: {each.detail}" for each in report.violations]
        strange = {
            entry["payment_reference"] for psp in PSPS for entry in self.psps.books(psp, "authorisations")
        } - known
        return found + [f"a charge that nobody knows: {reference}" for reference in strange]

    async def _bring(self, letter: Letter) -> None:
        """Bring one webhook to its healthy gateway, once the process that is to die is dead; or never."""
        for stage in self.stages:
            name = await stage.name_of(letter.operations)
            if name is not None:
                play = stage.plays[name]
                await play.gone.wait()
                if play.heard:
                    await self.post.redeliver(letter, self.http, stage.healthy.url)
                return


# --- A cell -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How one cell ended. ``killed``: the process died of its own hand at the cell's point."""

    cell: Cell
    play: Play
    stage: Stage
    killed: bool
    recovered_s: float
    answer: httpx.Response
    replays: tuple[httpx.Response, ...]


async def played(cell: Cell, theatre: Theatre, stage: Stage, slots: asyncio.Semaphore) -> Ending:
    """Play one cell: kill, go on at a healthy gateway, and come to rest."""
    play = Play(cell.scene, theatre.psps, theatre.flow, next(theatre.cards), cell.heard)
    stage.plays[play.name] = play
    async with slots:
        await play.prepare(stage.merchant)
        kill = _kill_the_worker if cell.scene.swept else _kill_the_server
        killed = await kill(cell, play, theatre, stage)
    died = time.monotonic()
    play.gone.set()
    worker = await theatre.forge.worker(stage.environment) if cell.scene.swept else None
    answer = await play.decided(stage.merchant)
    await stage.at_rest(play)
    recovered = time.monotonic() - died
    replays = [await play.post(stage.merchant) for _ in range(2)]
    if worker is not None:
        await theatre.forge.kill(worker)
    return Ending(cell, play, stage, killed, recovered, answer, tuple(replays))


async def _kill_the_server(cell: Cell, play: Play, theatre: Theatre, stage: Stage) -> bool:
    """Let a server of its own serve the cell, and die of it."""
    armed = await theatre.forge.server(stage.environment, f"{cell.point}:{cell.nth}")
    if cell.scene.path == "webhook":
        operations = await stage.operations_of(play)
        letter = await theatre.post.wait_for(lambda it: bool(it.operations & operations) and play.tells(it))
        await theatre.post.deliver(letter, theatre.http, armed.url)
        await armed.dies(QUICK_S)  # it applies what it has acknowledged
    else:
        async with connected(armed, theatre.flow) as merchant:
            with contextlib.suppress(httpx.TransportError):
                await play.insist(merchant, SENDS_MAX)
                await theatre.forge.kill(armed)
    await theatre.forge.kill(armed)
    return armed.died_at(cell.point)


async def _kill_the_worker(cell: Cell, play: Play, theatre: Theatre, stage: Stage) -> bool:
    """Let a server die with the intent committed, and then the worker that takes over from it."""
    first = replace(cell, scene=replace(cell.scene, swept=False), point=f"{cell.scene.path}.open.after", nth=1)
    assert await _kill_the_server(first, play, theatre, stage), f"{cell}: the server did not die"
    await stage.due_now(play)
    armed = await theatre.forge.worker(stage.environment, f"{cell.point}:{cell.nth}")
    await armed.dies(QUICK_S)
    await theatre.forge.kill(armed)
    return armed.died_at(cell.point)


async def ended(cell: Cell, theatre: Theatre, stage: Stage, slots: asyncio.Semaphore) -> list[Ending]:
    """Play a cell until its process has died at its point; where another process was quicker, it is played again."""
    endings: list[Ending] = []
    while not endings or not endings[-1].killed:
        assert len(endings) < TRIES_MAX, f"{cell}: its process never died there"
        endings.append(await played(cell, theatre, stage, slots))
    return endings


# --- The judgement ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Books:
    """What the PSPs know: of money by the attempt that it began with, of requests by their operation."""

    entries: Mapping[tuple[str, str], list[dict[str, Any]]]
    """By book and attempt; ``psp`` says whose."""
    requests: Mapping[str, list[dict[str, Any]]]

    @classmethod
    def of(cls, psps: Psps) -> Books:
        entries: dict[tuple[str, str], list[dict[str, Any]]] = {}
        requests: dict[str, list[dict[str, Any]]] = {}
        for psp in PSPS:
            for book in ("authorisations", "captures", "refunds", "voids"):
                for entry in psps.books(psp, book):
                    entries.setdefault((book, entry["payment_reference"]), []).append(entry | {"psp": psp})
            for request in psps.requests(psp):
                if request["reference"] is not None and request["method"] != "GET":
                    requests.setdefault(request["reference"], []).append(request)
        return cls(entries, requests)

    def moved(self, book: str, operations: Iterable[str]) -> list[tuple[str, int, str]]:
        """PSP, amount and status of every entry that began with one of these operations."""
        found = [entry for operation in operations for entry in self.entries.get((book, operation), [])]
        return [(entry["psp"], entry["amount"], entry["status"]) for entry in found]


PAID: Final = ("succeeded", 1999, 0)
EXPECTED: Final[Mapping[tuple[str, str], tuple[int, tuple[str, int, int]]]] = {
    ("charge", "declined"): (402, ("requires_payment_method", 0, 0)),
    ("charge", ""): (201, PAID),
    ("confirm", ""): (200, PAID),
    ("capture", ""): (200, ("succeeded", 700, 0)),
    ("cancel", ""): (200, ("canceled", 0, 0)),
    ("refund", ""): (201, ("succeeded", 1999, 700)),
    ("return", "failed"): (200, ("requires_payment_method", 0, 0)),
    ("return", ""): (200, PAID),
    ("webhook", "capture"): (200, ("succeeded", 700, 0)),
    ("webhook", ""): (201, PAID),
}
"""The answer, and the payment with what was captured and refunded, by path and outcome; without an outcome for all others."""


def expected(scene: Scene) -> tuple[int, tuple[str, int, int]]:
    return EXPECTED.get((scene.path, scene.outcome)) or EXPECTED[scene.path, ""]


async def wrong(ending: Ending, books: Books) -> list[str]:
    """What is not as it should be."""
    status, payment = expected(ending.cell.scene)
    rows = await ending.stage.rows.fetch("SELECT * FROM payment WHERE reference = $1", ending.play.name)
    stand = [(row["status"], row["amount_captured"], row["amount_refunded"]) for row in rows]
    operations = await ending.stage.operations_of(ending.play)
    replays = {(replay.status_code, replay.content) for replay in ending.replays}
    faults = {
        f"answered {ending.answer.status_code}: {ending.answer.text}": ending.answer.status_code != status,
        "a replay differs": replays != {(status, ending.answer.content)},
        f"the payment stands at {stand}": stand != [payment],
        "an amount is still reserved": any(row["amount_capturing"] or row["amount_refunding"] for row in rows),
    }
    return [*(fault for fault, there in faults.items() if there), *_moved_wrongly(ending.cell.scene, operations, books)]


def _moved_wrongly(scene: Scene, operations: set[str], books: Books) -> Iterator[str]:
    """What the PSPs' books say that should not be there, or should."""
    _, (status, captured, refunded) = expected(scene)
    charged = [(psp, amount) for psp, amount, state in books.moved("authorisations", operations) if state != "voided"]
    at = OTHER[scene.psp] if scene.outcome == "cascade" else scene.psp
    if charged != ([] if status in {"requires_payment_method", "canceled"} else [(at, 1999)]):
        yield f"charged {charged}"
    for book, amount in (("captures", captured), ("refunds", refunded)):
        moved = [entry for entry in books.moved(book, operations) if entry[2] != "failed"]
        if sum(entry[1] for entry in moved) != amount:
            yield f"{book}: {moved}"
    for operation in operations:
        sent = {(each["path"], each["key"], each["body_sha256"]) for each in books.requests.get(operation, [])}
        if len(sent) != len({path for path, _, _ in sent}):
            yield f"{operation} was sent in two ways: {sent}"


# --- The matrix ---------------------------------------------------------------------------------------------------------


async def run_matrix(cells: list[Cell], theatre: Theatre) -> tuple[list[Ending], list[str]]:
    """Play all cells; what each ended with, and what is wrong."""
    slots, forge = asyncio.Semaphore(ALIVE_MAX), theatre.forge
    endings: list[Ending] = []
    async with contextlib.AsyncExitStack() as stack:
        main = await stack.enter_async_context(theatre.stage())
        lanes = [await stack.enter_async_context(theatre.stage()) for _ in range(LANES)]
        worker = await forge.worker(main.environment)
        waiting = asyncio.Semaphore(WAITING_MAX)

        async def one(cell: Cell) -> None:
            async with waiting:
                endings.extend(await ended(cell, theatre, main, slots))

        async def lane(stage: Stage, queue: Iterator[Cell]) -> None:
            for cell in queue:
                endings.extend(await ended(cell, theatre, stage, slots))

        swept = iter([cell for cell in cells if cell.scene.swept])
        async with asyncio.TaskGroup() as couriers:
            carrying = couriers.create_task(theatre.carry())
            async with asyncio.TaskGroup() as actors:
                for stage in lanes:
                    actors.create_task(lane(stage, swept))
                for cell in cells:
                    if not cell.scene.swept:
                        actors.create_task(one(cell))
            carrying.cancel()
        workers = [worker, *[await forge.worker(stage.environment) for stage in lanes]]
        await asyncio.gather(*(stage.all_applied() for stage in (main, *lanes)))
        for each in workers:
            await forge.kill(each)
        books = await asyncio.to_thread(Books.of, theatre.psps)
        broken = await theatre.broken_promises()
        wrongs = [
            f"{ending.cell}: {fault} ({ending.play.name})" for ending in endings for fault in await wrong(ending, books)
        ]
    return endings, wrongs + broken


Matrix = Callable[[list[Cell]], Awaitable[None]]


@pytest.fixture
async def theatre(
    forge: Forge,
    post: Post,
    psps: Psps,
    flow: type[Kit],
    configuration: Configuration,
    databases: Databases,
    cards: Iterator[str],
) -> AsyncIterator[Theatre]:
    async with aiohttp.ClientSession() as http:
        yield Theatre(forge, post, psps, flow, configuration, databases, http, cards)


@pytest.fixture
def matrix(theatre: Theatre, proved: Callable[[str], None]) -> Matrix:
    """Plays cells and proves that none is wrong."""

    async def prove(cells: list[Cell]) -> None:
        theatre.psps.reset()  # the rehearsal was in a database of its own
        began = time.monotonic()
        endings, faults = await run_matrix(cells, theatre)
        seconds = time.monotonic() - began
        slowest = max(endings, key=lambda ending: ending.recovered_s)
        killed = {ending.cell for ending in endings if ending.killed}
        proved(
            f"kill matrix: {len(killed)} cells at {len({cell.point for cell in killed})} crash points, {len(faults)} wrong, "
            f"recovered within {slowest.recovered_s:.1f} s ({slowest.cell}), {seconds:.0f} s in all"
        )
        assert not faults, "\n".join(faults)
        assert killed == set(cells)

    return prove


async def test_a_process_that_is_killed_at_any_point_leaves_one_charge_and_the_right_answer(
    open_gateway: Open, psps: Psps, post: Post, flow: type[Kit], cards: Iterator[str], matrix: Matrix
) -> None:
    """Every point meets each PSP and both fates of the webhooks in some cell, and every step each outcome."""
    cells = pairwise(all_cells(await rehearse(open_gateway, psps, post, flow, cards)))

    assert len(cells) >= CELLS_MIN
    await matrix(cells)


@pytest.mark.nightly
async def test_a_process_that_is_killed_at_every_passage_of_every_scene_leaves_one_charge_and_the_right_answer(
    open_gateway: Open, psps: Psps, post: Post, flow: type[Kit], cards: Iterator[str], matrix: Matrix
) -> None:
    await matrix(all_cells(await rehearse(open_gateway, psps, post, flow, cards)))
