"""The walk through the database: pages of payments and keys, judged one by one, in bounded memory.

It reads and writes nothing. Each page is one statement, so what is judged together is of one moment. On a system that is at work
what looks broken is read once more before it is reported, and what is younger than a moment's grace is not judged by what others say.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Final, TypeVar

import orjson

from gateway.ids import PAYMENT
from gateway.invariants.facts import (
    Arrival,
    CardDeclineRecord,
    Case,
    ChangeRecord,
    DisputeRecord,
    Entry,
    EventRecord,
    KeyCase,
    KeyRecord,
    Moment,
    OperationRecord,
    Outside,
    PaymentRecord,
    Report,
    ToldRecord,
    Violation,
)
from gateway.invariants.queries import (
    CARDS,
    CARDS_SINCE,
    COUNTS,
    EVENT,
    EVIDENCE_SINCE,
    INBOX,
    INBOX_END,
    INBOX_FROM,
    KEY,
    KEYED,
    KEYS,
    KEYS_SINCE,
    NOW,
    ONE_PAYMENT,
    OPERATIONS,
    PAGE,
    PAYMENTS,
    TOLD_SINCE,
    Fetches,
)
from gateway.invariants.shelf import Shelf
from gateway.invariants.table import INVARIANTS
from gateway.sql import Row
from gateway.vault import Keyring, SealBroken

GRACE_S: Final = 120.0
"""How long after a payment's last change the providers' books may say something else of it."""
SHOWN_MAX: Final = 100
"""How many violations are kept to be shown; all are counted."""
CONFIRMED_MAX: Final = 50
"""How many times a key that seems to be missing is looked for once more, which costs a walk through all keys."""
SLACK_S: Final = 3600.0
"""How far what sorts by age (an id, the number of an event) may be from the time that is written beside it."""
TOLD_S: Final = 29 * 86_400.0
"""What merchants were told is kept for 30 days. What is about to be removed is not looked for."""
STRETCH_S: Final = 600.0
"""The first stretch of time in which keys are looked for; the next are as long as fits a page."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the walk is: rows of ``table`` so far, of about ``total``."""

    table: str
    rows: int
    total: int


async def check_invariants(
    db: Fetches,
    books: Outside | None = None,
    *,
    at_rest: bool,
    grace_s: float = GRACE_S,
    keyring: Keyring | None = None,
    since: datetime | None = None,
    limit: int = SHOWN_MAX,
    page: int = PAGE,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Check every promise about payments against the rows in ``db`` and, where given, the providers' ``books``.

    ``at_rest`` says that nothing is at work and everything that was on its way has had its time: then nothing may be open without a
    cause, and nothing is too young to be judged. Without it the walk may be made on a system that is charging.
    ``keyring`` opens the stored answers, to compare what was told with what is. ``since`` leaves older payments out.

    Reads only; may be called any number of times. Raises what ``db`` raises.
    """
    shelf = Shelf()
    try:
        walk = _Walk(db, shelf, books, at_rest, grace_s, keyring, since, limit, page, progress)
        return await walk.report()
    finally:
        shelf.close()


class _Walk:
    """One walk: what it has read so far, and what it has found."""

    def __init__(
        self,
        db: Fetches,
        shelf: Shelf,
        books: Outside | None,
        at_rest: bool,  # noqa: FBT001 - handed on as it was given
        grace_s: float,
        keyring: Keyring | None,
        since: datetime | None,
        limit: int,
        page: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._db, self._shelf, self._books = db, shelf, books
        self._at_rest, self._grace_s = at_rest, grace_s
        self._keyring, self._limit, self._page = keyring, limit, page
        self._since = None if since is None else since.timestamp()
        self._progress = progress
        self._rows: Counter[str] = Counter()
        self._found: list[Violation] = []
        self._broken: Counter[str] = Counter()
        self._entries = self._arrivals = 0
        self._wire = books is not None and books.arrivals is not None
        self._confirmed = 0
        self._answers = self._unreadable = 0
        self._told_since = self._evidence_since = math.inf
        self._checks = [
            (each.name, check)
            for each in INVARIANTS
            for check in (each.rows, each.books if books is not None else None, each.wire if self._wire else None)
            if check is not None
        ]
        """What every payment is looked at with."""

    async def report(self) -> Report:
        if self._books is not None:
            self._entries = self._shelf.pour_entries(self._books.entries)
            self._arrivals = self._shelf.pour_arrivals(self._books.arrivals or ())
        totals = {row["name"]: int(row["rows"]) for row in await self._db.fetch(COUNTS)}
        started = await self._keys(totals.get("idempotency_key", 0))
        self._shelf.index_opened()
        await self._payments(totals.get("payment", 0), started)
        await self._strays()
        await self._inbox()
        await self._cards()
        return Report(
            violations=tuple(self._found),
            broken=dict(self._broken),
            rows=dict(self._rows),
            entries=self._entries,
            arrivals=self._arrivals,
            accounts=None
            if self._books is None or self._books.accounts is None
            else tuple(sorted(self._books.accounts)),
            answers=self._answers,
            unreadable=self._unreadable,
            checked=tuple(
                each.name for each in INVARIANTS if each.is_checked(books=self._books is not None, wire=self._wire)
            ),
        )

    # -- keys

    async def _keys(self, total: int) -> float:
        """Judge every key, and note what each has opened. Returns the database's time when it began."""
        (row,) = await self._db.fetch(NOW)
        started: float = row["now"]
        async for rows in self._key_pages(started):
            keys = [(_key(row), row["now"]) for row in rows]
            self._shelf.pour_opened(key.opened for key, _ in keys)
            for key, now in keys:
                await self._judge_key(key, now)
            self._count("idempotency_key", len(rows), total)
        return started

    async def _key_pages(self, now: float) -> AsyncIterator[Sequence[Row]]:
        """All keys in their order, or the newer ones by age, in stretches of time that hold about a page each."""
        if self._since is None:
            place: tuple[str, bool, str] = _FIRST
            while rows := await self._db.fetch(KEYS, *place, self._page):
                yield rows
                place = _place(rows[-1])
            return
        at, place, stretch_s, ends = self._since, _FIRST, STRETCH_S, 0.0
        while ends != math.inf:
            ends = at + stretch_s if at + stretch_s < now else math.inf
            rows = await self._db.fetch(KEYS_SINCE, at, *place, self._page, ends)
            if rows:
                yield rows
            if len(rows) == self._page:  # there may be more of them in this stretch
                at, place, ends = rows[-1]["created_at"], _place(rows[-1]), 0.0
                stretch_s /= 2
            else:
                at, place = ends, _FIRST
                stretch_s *= 2 if 2 * len(rows) < self._page else 1

    async def _judge_key(self, key: KeyRecord, now: float) -> None:
        first = self._key_case(key, now)
        self._answers += first.unreadable or first.told is not None
        self._unreadable += first.unreadable
        if not list(_key_violations(first)):
            return
        for row in (await self._db.fetch(KEY, key.merchant_id, key.livemode, key.key))[:1]:
            self._note(_key_violations(self._key_case(_key(row), row["now"])))

    def _key_case(self, key: KeyRecord, now: float) -> KeyCase:
        if self._keyring is None or key.answer is None:
            return KeyCase(key, self._moment(now))
        told = self._told(self._keyring, key, key.answer)
        return KeyCase(key, self._moment(now), told, unreadable=told is None)

    @staticmethod
    def _told(keyring: Keyring, key: KeyRecord, answer: bytes) -> dict[str, object] | None:
        """An answer's body, or ``None`` where it cannot be opened."""
        context = (key.merchant_id, "live" if key.livemode else "test", key.key, "answer")
        try:
            told = orjson.loads(keyring.sealer.open(answer, *context))
        except (SealBroken, orjson.JSONDecodeError):
            return None
        return told if isinstance(told, dict) else None

    # -- payments

    async def _payments(self, total: int, started: float) -> None:
        oldest = await self._db.fetch(TOLD_SINCE)
        self._told_since = max(oldest[0]["at"], started - TOLD_S) if oldest else math.inf
        first = await self._db.fetch(EVIDENCE_SINCE)
        self._evidence_since = first[0]["at"] if first else math.inf
        after = "" if self._since is None else _id_of(self._since - SLACK_S)
        while rows := await self._db.fetch(PAYMENTS, after, self._since or 0.0, self._page):
            for case in await self._cases(rows, started):
                violations = list(self._violations(case))
                if violations and not self._at_rest:  # another writer may have come between two looks
                    again = await self._db.fetch(ONE_PAYMENT, case.payment.id)
                    violations = [v for each in await self._cases(again, started) for v in self._violations(each)]
                self._note(violations)
                after = case.payment.id
                self._rows.update(operation=len(case.operations), change=len(case.changes), dispute=len(case.disputes))
            self._count("payment", len(rows), total)

    async def _cases(self, rows: Iterable[Row], started: float) -> list[Case]:
        bare = [_case(row, self._moment(row["now"]), self._told_since, self._evidence_since) for row in rows]
        opened = self._shelf.opened([case.payment.id for case in bare])
        whole = [await self._keyed(case, case.payment.id in opened, started) for case in bare]
        return whole if self._books is None else self._with_books(whole)

    def _with_books(self, cases: list[Case]) -> list[Case]:
        """The cases with what the providers say of them."""
        owners = {op.id: number for number, case in enumerate(cases) for op in case.operations}
        senders = {op.provider_key: op.id for case in cases for op in case.operations}
        shelved = self._shelf.about(list(owners), list(senders))
        self._shelf.mark(shelved)
        entries: dict[int, list[Entry]] = defaultdict(list)
        arrivals: dict[int, list[Arrival]] = defaultdict(list)
        for _, entry in shelved.entries:
            # What names no operation was caused by the one under whose key it came.
            known = entry if entry.reference else entry._replace(reference=senders.get(entry.key or ""))
            for number in {owners[name] for name in (known.reference, known.payment_reference) if name in owners}:
                entries[number].append(known)
        of_key: dict[str, set[int]] = defaultdict(set)
        named = [
            each if each.reference else each._replace(reference=senders.get(each.key or ""))
            for _, each in shelved.arrivals
        ]
        for arrival in named:
            if arrival.reference in owners:
                of_key[arrival.key or ""].add(owners[arrival.reference])
        for arrival in named:
            mine = {owners[arrival.reference]} if arrival.reference in owners else set()
            for number in mine | (of_key[arrival.key] if arrival.key else set()):
                arrivals[number].append(arrival)
        return [replace(case, entries=entries[n], arrivals=arrivals[n]) for n, case in enumerate(cases)]

    async def _keyed(self, case: Case, keyed: bool, started: float) -> Case:  # noqa: FBT001 - a fact about the case
        # A payment that was opened while the keys were walked may have its key behind the place where the walk was.
        old = self._at_rest or case.payment.created_at < started - self._grace_s
        if keyed or not old:
            return case
        if self._confirmed >= CONFIRMED_MAX:
            return replace(case, keyed=False, looked_again=False)
        self._confirmed += 1
        (row,) = await self._db.fetch(KEYED, case.payment.id)
        return replace(case, keyed=bool(row["keyed"]))

    def _violations(self, case: Case) -> Iterator[Violation]:
        for name, check in self._checks:
            for detail in check(case):
                yield Violation(name, case.payment.id, detail)

    # -- what belongs to no payment

    async def _strays(self) -> None:
        """Judge what the providers have for operations that no payment of the walk has."""
        if self._books is None:
            return
        (row,) = await self._db.fetch(NOW)
        moment, since = self._moment(row["now"]), self._since or 0.0
        for entries in _chunks(self._shelf.stray_entries(), self._page):
            known = await self._known(name for entry in entries for name in (entry.reference, entry.payment_reference))
            left = [e for e in entries if e.at >= since and not known & {e.reference, e.payment_reference}]
            for each in INVARIANTS:
                self._note(_strays(each.name, each.entry, left, moment, lambda e: e.payment_reference or e.payment))
        for arrivals in _chunks(self._shelf.stray_arrivals(), self._page):
            known = await self._known(arrival.reference for arrival in arrivals)
            unknown = [a for a in arrivals if a.at >= since and a.reference not in known]
            for each in INVARIANTS:
                self._note(_strays(each.name, each.arrival, unknown, moment, lambda a: a.reference or ""))

    async def _known(self, names: Iterable[str | None]) -> set[str | None]:
        """Those of ``names`` that are operations after all: older than the walk, or written since it passed."""
        asked = sorted({name for name in names if name is not None})
        return {row["id"] for row in await self._db.fetch(OPERATIONS, asked)} if asked else set()

    async def _inbox(self) -> None:
        after = 0 if self._since is None else await self._inbox_before(self._since - SLACK_S)
        while rows := await self._db.fetch(INBOX, after, self._since or 0.0, self._page):
            for row in rows:
                if list(self._event_violations(row)):
                    for again in await self._db.fetch(EVENT, row["id"], 0.0, 1):
                        self._note(self._event_violations(again))
            after = rows[-1]["id"]
            self._count("webhook_inbox", len(rows), 0)

    async def _inbox_before(self, at: float) -> int:
        """A number of an event behind which everything is that was received since ``at``: found by halves."""
        (end,) = await self._db.fetch(INBOX_END)
        low, high = 0, end["id"] + 1
        while low < high:
            middle = (low + high) // 2
            found = await self._db.fetch(INBOX_FROM, middle)
            if found and found[0]["at"] < at:
                low = found[0]["id"] + 1
            else:
                high = middle
        return int(low) - 1

    def _event_violations(self, row: Row) -> Iterator[Violation]:
        event, moment = EventRecord._make(row[name] for name in EventRecord._fields), self._moment(row["now"])
        for each in INVARIANTS:
            if each.event is not None:
                yield from (Violation(each.name, event.event_id, detail) for detail in each.event(event, moment))

    async def _cards(self) -> None:
        """Judge the cards that were declined often. What was declined stays so, so none is read again."""
        query, late = (CARDS, ()) if self._since is None else (CARDS_SINCE, (self._since,))
        place = ("", "")
        while rows := await self._db.fetch(query, *place, self._page, *late):
            for row in rows:
                declines = [CardDeclineRecord._make(each) for each in orjson.loads(row["declines"] or "[]")]
                for each in INVARIANTS:
                    found = each.card(declines, self._since or 0.0) if each.card is not None else ()
                    self._note(Violation(each.name, payment, detail) for payment, detail in found)
                self._rows["declined_card"] += len(declines)
            place = (rows[-1]["merchant_id"], rows[-1]["card"])

    # -- what all need

    def _moment(self, now: float) -> Moment:
        books = self._books
        if books is None:
            return Moment(now, self._at_rest, self._grace_s)
        taken_at = now if books.taken_at is None else books.taken_at
        return Moment(now, self._at_rest, self._grace_s, taken_at, books.horizons, books.accounts, books.since)

    def _note(self, violations: Iterable[Violation]) -> None:
        for violation in violations:
            self._broken[violation.invariant] += 1
            if len(self._found) < self._limit:
                self._found.append(violation)

    def _count(self, table: str, rows: int, total: int) -> None:
        self._rows[table] += rows
        if self._progress is not None:
            self._progress(Progress(table, self._rows[table], max(total, self._rows[table])))


def _key_violations(case: KeyCase) -> Iterator[Violation]:
    for each in INVARIANTS:
        if each.key is not None:
            yield from (Violation(each.name, case.key.opened, detail) for detail in each.key(case))


_FIRST: Final = ("", False, "")


def _place(row: Row) -> tuple[str, bool, str]:
    return row["merchant_id"], row["livemode"], row["key"]


def _id_of(at: float) -> str:
    """What the ids of payments made at ``at`` begin with: they sort by time."""
    return f"{PAYMENT}_{max(int(at * 1000), 0):012x}"


def _key(row: Row) -> KeyRecord:
    return KeyRecord._make(row[name] for name in KeyRecord._fields)


def _case(row: Row, moment: Moment, told_since: float, evidence_since: float) -> Case:
    return Case(
        payment=PaymentRecord._make(orjson.loads(row["payment"])),
        operations=[OperationRecord._make(each) for each in orjson.loads(row["operations"])],
        changes=[ChangeRecord._make(each) for each in orjson.loads(row["changes"])],
        disputes=[DisputeRecord._make(each) for each in orjson.loads(row["disputes"])],
        told=[ToldRecord._make(each) for each in orjson.loads(row["told"])],
        moment=moment,
        told_since=told_since,
        evidence_since=evidence_since,
    )


_T = TypeVar("_T")


def _chunks(rows: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _strays(
    invariant: str,
    check: Callable[[_T, Moment], str | None] | None,
    found: Iterable[_T],
    moment: Moment,
    name: Callable[[_T], str],
) -> Iterator[Violation]:
    for each in found:
        detail = None if check is None else check(each, moment)
        if detail is not None:
            yield Violation(invariant, name(each), detail)
