"""What is in force, as one process knows it: which routing document decides a payment.

Every process reads by itself, at its start and every second, what its merchants have published; never on the way of a request, which
finds in memory what was read last. So a publication is in force everywhere within two seconds, and one that was scheduled starts in
every process at its own moment, on that process's clock.

Nothing that goes wrong here stops a payment. A publication that cannot be read is passed over; of a version whose document cannot be
read the one before it stands in, and the order of the configuration where there is none; a Postgres that is away leaves what was read
last. Each is counted, and logged once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from gateway.metrics.instruments import Instruments
from gateway.routing_books import publication_from
from gateway.sql import Pool, Statement, columns
from gateway.tables import RoutingPublicationRow
from routing import document, publications
from routing.document import Document, Faulty
from routing.publications import Publication, Standing, bucket

READ_EVERY_S: Final = 1.0
FIRST_READ_S: Final = 3.0
"""How long a start waits for the first reading. A process that has none decides by the order of the configuration until it has."""
SHADOW_SLOW_S: Final = 0.005
"""What a shadow may take of the processor for one payment. The largest documents take 0.8 ms, and strategies over 50 accounts 0.4."""
SHADOW_RESTS: Final = 20
"""A slower one is not asked for so many times as long: it never takes more than a tenth of a process."""

Owner = tuple[str, bool]
"""A merchant and a mode."""

_NEWS = Statement(
    f"""SELECT p.* FROM unnest(:merchants::text[], :modes::bool[], :sequences::int[]) AS known (merchant_id, livemode, sequence)
    CROSS JOIN LATERAL (SELECT {columns(RoutingPublicationRow)} FROM routing_publication
    WHERE merchant_id = known.merchant_id AND livemode = known.livemode AND sequence > known.sequence ORDER BY sequence) AS p"""
)
"""What was published since the last reading: one step in an index for each merchant and mode, and nothing read where nothing is new."""
_DOCUMENTS = Statement("SELECT id, merchant_id, livemode, document FROM routing_version WHERE id = ANY(:ids::text[])")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Found:
    """What decides one payment: a version with its document, or neither where the order of the configuration does.

    ``unreadable`` are the versions that should have and cannot be read. ``shadow`` is one that only watches, and is not asked while it
    ``rests``.
    """

    version: str | None = None
    document: Document | None = None
    unreadable: tuple[str, ...] = ()
    shadow: tuple[str, Document] | None = None
    rests: bool = False


NOTHING: Final = Found()


@dataclass(slots=True)
class _Known:
    """One merchant's history in one mode as it was read last, and what it came to."""

    sequence: int = 0
    history: tuple[Publication, ...] = ()
    standing: Standing = field(default_factory=Standing)
    documents: Mapping[str, Document | None] = field(default_factory=dict)
    """The documents that may have to decide, by version; ``None`` for one that cannot be read."""
    until: datetime | None = None
    """When the next scheduled publication starts."""

    def at(self, now: datetime) -> Standing:
        """What the history comes to at ``now``. It is worked out again only where a scheduled publication has started."""
        if self.until is not None and now >= self.until:
            self.standing = publications.standing(self.history, now)
            self.until = _next(self.standing)
        return self.standing


class InForce:
    """What this process knows to be in force. :meth:`of` is asked for each payment; :meth:`run` keeps it fresh."""

    def __init__(self, pool: Pool, owners: Iterable[Owner], instruments: Instruments) -> None:
        self._pool = pool
        self._known = {owner: _Known() for owner in owners}
        self._instruments = instruments
        self._logged: set[str] = set()
        self._slow: set[str] = set()
        self._resting: dict[str, datetime] = {}

    def of(self, payment_id: str, merchant_id: str, now: datetime, *, livemode: bool) -> Found:
        """What decides a payment at ``now``. Reads nothing, never raises, and answers the same until something is published."""
        known = self._known.get((merchant_id, livemode))
        if known is None or not known.history:
            return NOTHING
        standing, documents = known.at(now), known.documents
        passed: list[str] = []
        watching = standing.shadow
        shadow, rests = None, False
        if watching is not None and watching.version is not None and bucket(payment_id) < watching.percent:
            watches, until = documents.get(watching.version), self._resting.get(watching.version)
            rests = until is not None and now < until
            shadow = None if watches is None or rests else (watching.version, watches)
        for version in standing.versions(payment_id):
            found = documents.get(version)
            if found is not None:
                return Found(version, found, tuple(passed), shadow, rests)
            passed.append(version)
        return Found(None, None, tuple(passed), shadow, rests)

    def watched(self, version: str, took_s: float, now: datetime) -> None:
        """Note what a shadow took of the processor for a payment. After two slow ones in a row it rests; one may be chance."""
        if took_s <= SHADOW_SLOW_S:
            self._slow.discard(version)
        elif version not in self._slow:
            self._slow.add(version)
        else:
            self._resting[version] = now + timedelta(seconds=SHADOW_RESTS * took_s)
            self._once(f"{version} rests", "shadow_slow", version=version)

    def documents(self) -> Iterator[tuple[Owner, Document]]:
        """The documents that may have to decide or to watch, with their merchants and modes: what they name is made ready ahead."""
        for owner, known in self._known.items():
            for found in known.documents.values():
                if found is not None:
                    yield owner, found

    def leading(self, now: datetime) -> Iterator[tuple[Owner, str, Document]]:
        """The version that each merchant has put in force last in each mode, for a part of the payments or all, with its document."""
        for owner, known in self._known.items():
            version = known.at(now).newest
            found = None if version is None else known.documents.get(version)
            if version is not None and found is not None:
                yield owner, version, found

    # --- Reading ---

    async def run(self, now: Callable[[], datetime]) -> None:
        """Read until cancelled. ``now`` is the clock."""
        while True:
            await asyncio.sleep(READ_EVERY_S)
            await self.read(now())

    async def start(self, now: datetime) -> None:
        """The first reading, which a start waits for; not longer than :data:`FIRST_READ_S`. Never raises."""
        try:
            await asyncio.wait_for(self.read(now), FIRST_READ_S)
        except TimeoutError:
            self._stale("TimeoutError")

    async def read(self, now: datetime) -> None:
        """Read what is new. Never raises: what cannot be read now leaves what was read last."""
        try:
            await self._read(now)
        except Exception as error:  # whatever it is, payments go on
            self._stale(type(error).__name__)
        else:
            self._logged.discard(_AWAY)

    def _stale(self, error: str) -> None:
        self._instruments.stood_in("postgres_loss_routing")
        self._once(_AWAY, "routing_not_read", error=error)

    async def _read(self, now: datetime) -> None:
        owners = list(self._known)
        asked = {
            "merchants": [merchant for merchant, _ in owners],
            "modes": [livemode for _, livemode in owners],
            "sequences": [self._known[owner].sequence for owner in owners],
        }
        news: dict[Owner, list[Mapping[str, Any]]] = {}
        for row in await _NEWS.rows(self._pool, asked):
            news.setdefault((row["merchant_id"], row["livemode"]), []).append(row)
        for owner, rows in news.items():
            known = self._known[owner]
            history = (*known.history, *self._readable(rows))
            standing = publications.standing(history, now)
            documents = await self._documents(owner, standing, known.documents)  # in memory before it is in force
            self._known[owner] = _Known(rows[-1]["sequence"], history, standing, documents, _next(standing))

    def _readable(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Publication]:
        for row in rows:
            try:
                yield publication_from(row)
            except (ValueError, TypeError, KeyError) as error:
                self._instruments.stood_in("routing_unreadable")
                self._once(row["id"], "publication_unreadable", publication=row["id"], error=type(error).__name__)

    async def _documents(
        self, owner: Owner, standing: Standing, known: Mapping[str, Document | None]
    ) -> Mapping[str, Document | None]:
        """The documents that may have to decide: what is and will be in force, what watches, and what stands in where one is broken."""
        kept: dict[str, Document | None] = {}
        others = (standing.staged, standing.shadow, *standing.scheduled)
        await self._fetch(owner, {each.version for each in others if each is not None and each.version}, known, kept)
        for version in reversed(standing.settled):
            await self._fetch(owner, {version}, known, kept)
            if kept[version] is not None:
                break
        return kept

    async def _fetch(
        self,
        owner: Owner,
        versions: AbstractSet[str],
        known: Mapping[str, Document | None],
        kept: dict[str, Document | None],
    ) -> None:
        missing = versions - known.keys() - kept.keys()
        rows = await _DOCUMENTS.rows(self._pool, {"ids": sorted(missing)}) if missing else []
        values = {row["id"]: row["document"] for row in rows if (row["merchant_id"], row["livemode"]) == owner}
        for version in versions - kept.keys():
            kept[version] = known[version] if version in known else await self._document(version, values.get(version))

    async def _document(self, version: str, value: Any) -> Document | None:
        try:
            return await asyncio.to_thread(
                document.read, value
            )  # a long one takes a while, and requests are served here
        except Faulty as faulty:
            why = str(faulty)
        except Exception as error:  # whatever was stored: it is passed over, and payments go on
            why = type(error).__name__
        self._once(version, "routing_version_unreadable", version=version, why=why[:500])
        return None

    def _once(self, what: str, event: str, **told: str) -> None:
        if what not in self._logged:
            log.error(event, **told)
        self._logged.add(what)


_AWAY: Final = "postgres"


def _next(standing: Standing) -> datetime | None:
    return standing.scheduled[0].starts_at if standing.scheduled else None
