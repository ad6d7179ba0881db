"""The books of the monitors: what is watched, what first attempts came to minute by minute, and what was found of them.

A look is read in a few statements over all merchants and written in one for each: how far its monitors were judged, its incidents and
what it is told of them stand together or not at all. Of two workers that look at the same time one writes nothing, since the other
has moved on (``monitor_state.looks``). What is read comes of the counts of the rates (``gateway.rate_books``): an attempt whose result
comes late is in the next look as what it is then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from gateway.books import KEY, KeyUse, Written, key_values
from gateway.events import Event
from gateway.monitor_tables import MonitorIncidentRow, MonitorRow, MonitorStateRow
from gateway.rate_books import CountedTo
from gateway.rates import CLASS_BIT, EXTRA
from gateway.sql import Pool, Row, Statement, columns, values
from gateway.telling import DELIVERIES, EVENTS, telling

T = TypeVar("T", "Stored", "Found")

HISTORY_MAX: Final = 20
"""Changes of a monitor that are shown with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A monitor as it is stored (``gateway.monitor_tables.MonitorRow``)."""

    id: str
    merchant_id: str
    livemode: bool
    builtin: str | None
    name: str
    kind: str
    settings: Mapping[str, Any]
    muted: bool = False
    muted_until: datetime | None = None
    mute_reason: str | None = None
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    deleted_at: datetime | None = None

    def is_muted(self, now: datetime) -> bool:
        """Whether nobody is told of what it finds."""
        return self.muted and (self.muted_until is None or now < self.muted_until)


@dataclass(frozen=True, slots=True)
class Found:
    """An incident as it is stored (``gateway.monitor_tables.MonitorIncidentRow``)."""

    id: str
    merchant_id: str
    livemode: bool
    key: str
    monitor_id: str
    also: Sequence[str]
    severity: str
    segment: Mapping[str, Any]
    facts: Mapping[str, Any]
    summary: str
    opened_at: datetime
    noticed_at: datetime
    updated_at: datetime
    told_at: datetime | None = None
    closed_at: datetime | None = None
    closed_reason: str | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a merchant's monitors are judged in one mode. ``looked_at`` is ``None`` before the first look."""

    counted: CountedTo
    looked_at: datetime | None = None
    until: datetime | None = None
    verdicts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Watched:
    """A merchant in one mode, as it stands before a look. ``owner`` is its short name in the counts."""

    owner: int
    merchant_id: str
    livemode: bool
    looks: int
    state: Mapping[str, Any] | None
    runs: Mapping[str, Any]
    monitors: Sequence[Stored]
    open: Sequence[Found]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look came to: the state it leaves, every incident that is new or has changed, and what is told."""

    watched: Watched
    until: int
    state: Mapping[str, Any]
    runs: Mapping[str, Any]
    verdicts: Mapping[str, str]
    at: datetime
    found: Sequence[Found] = ()
    told: Sequence[Event] = ()


# --- What a merchant asks ------------------------------------------------------------------------------------------------

_MONITOR: Final = columns(MonitorRow)
_INCIDENT: Final = columns(MonitorIncidentRow)
_OWN: Final = "merchant_id = :merchant_id AND livemode = :livemode"
_CHANGE: Final = """INSERT INTO monitor_change (monitor_id, at, by, what, after)
    SELECT w.id, w.updated_at, w.updated_by, :what::text, jsonb_build_object('name', w.name, 'settings', w.settings, 'muted', w.muted,
        'muted_until', w.muted_until, 'mute_reason', w.mute_reason) FROM written w"""
_CREATE: Final = Statement(
    f"""WITH claim AS ({KEY.format(source="(SELECT) AS nothing")}),
    written AS (INSERT INTO monitor ({_MONITOR}) SELECT {values(MonitorRow, "m_")} FROM claim RETURNING {_MONITOR}),
    changed AS ({_CHANGE}) SELECT EXISTS (SELECT FROM claim) AS claimed""",
    writes="store",
)
_PUT: Final = Statement(
    f"""WITH written AS (INSERT INTO monitor ({_MONITOR}) VALUES ({values(MonitorRow, "m_")})
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, settings = excluded.settings, muted = excluded.muted,
        muted_until = excluded.muted_until, mute_reason = excluded.mute_reason, updated_at = excluded.updated_at,
        updated_by = excluded.updated_by WHERE monitor.deleted_at IS NULL AND monitor.updated_at = :was_at::timestamptz
        RETURNING {_MONITOR}),
    changed AS ({_CHANGE}) SELECT * FROM written""",
    writes="monitor",
)
_DELETE: Final = Statement(
    f"""WITH written AS (UPDATE monitor SET deleted_at = :at::timestamptz, updated_at = :at, updated_by = :by
        WHERE id = :id AND deleted_at IS NULL RETURNING {_MONITOR}),
    changed AS ({_CHANGE}) SELECT id FROM written""",
    writes="monitor",
)
_ACKNOWLEDGE: Final = Statement(
    """UPDATE monitor_incident SET acknowledged_at = :at::timestamptz, acknowledged_by = :by, note = :note::text
    WHERE id = :id AND acknowledged_at IS NULL RETURNING id""",
    writes="acknowledge",
)
_OF_MERCHANT: Final = Statement(f"SELECT {_MONITOR} FROM monitor WHERE {_OWN} AND deleted_at IS NULL ORDER BY id DESC")
_CHANGES: Final = Statement(
    "SELECT at, by, what, after FROM monitor_change WHERE monitor_id = :id ORDER BY id DESC LIMIT :limit"
)
_ONE: Final = Statement(f"SELECT {_INCIDENT} FROM monitor_incident WHERE id = :id AND {_OWN}")
_LIST: Final = f"SELECT {_INCIDENT} FROM monitor_incident WHERE {_OWN}"
_CONDITIONS: Final = {
    "before": "id < :before",
    "monitor": "(monitor_id = :monitor OR :monitor = ANY(also))",
    "severity": "severity = :severity",
    "open": "(closed_at IS NULL) = :open::bool",
}
_STANDING: Final = Statement(
    """SELECT m.as_of, m.backfill IS NULL AS complete, s.looked_at, s.until, s.verdicts FROM rate_mark m
    LEFT JOIN monitor_state s ON s.merchant_id = :merchant_id AND s.livemode = :livemode"""
)


@lru_cache(maxsize=16)
def _page(given: frozenset[str]) -> Statement:
    """A page of incidents, newest first, by the filters that are given."""
    conditions = "".join(f" AND {sql}" for name, sql in _CONDITIONS.items() if name in given)
    return Statement(f"{_LIST}{conditions} ORDER BY id DESC LIMIT :limit")


# --- What a look reads, of all merchants ----------------------------------------------------------------------------------

_WATCHED: Final = Statement(
    """SELECT o.id AS owner, o.merchant_id, o.livemode, coalesce(s.looks, 0) AS looks, s.state, coalesce(s.runs, '{}') AS runs
    FROM rate_owner o LEFT JOIN monitor_state s USING (merchant_id, livemode) ORDER BY o.id"""
)
_MONITORS: Final = Statement(f"SELECT {_MONITOR} FROM monitor WHERE deleted_at IS NULL ORDER BY id")
_OPEN: Final = Statement(f"SELECT {_INCIDENT} FROM monitor_incident WHERE closed_at IS NULL ORDER BY id")
_LEAF: Final = ", ".join(
    f"k.dimensions->>'{name}' AS {name}" for name in ("account", "brand", "currency", "issuer_country")
)


def _first_attempts(seconds: int) -> Statement:
    """First attempts by class and code, as ``rated`` has them, in steps of so many seconds since 1970."""
    return Statement(
        f"""WITH part AS MATERIALIZED (SELECT r.owner, floor(extract(epoch FROM r.at) / {seconds})::int AS step, r.bin_key, r.what,
            count(*) AS n, sum(r.amount) AS amount FROM rated r WHERE r.owner = ANY(:owners::int[]) AND r.at >= :start::timestamptz
            AND r.at < :end::timestamptz AND r.ordinal = 1 GROUP BY 1, 2, 3, 4)
        SELECT p.owner, p.step, {_LEAF}, p.what, k.dimensions->>'decline_code' AS code, sum(p.n)::int8 AS n, sum(p.amount)::int8 AS amount
        FROM part p JOIN rate_key k ON k.id = p.bin_key GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"""
    )


_MINUTES: Final = _first_attempts(60)
_HOURS: Final = _first_attempts(3600)
_DAYS: Final = Statement(
    f"""WITH part AS MATERIALIZED (SELECT c.owner, c.key, sum(c.n) AS n, sum(c.amount) AS amount FROM rate_bin c
        WHERE c.owner = ANY(:owners::int[]) AND c.of_payment AND c.at >= :start::timestamptz AND c.at < :end::timestamptz
        AND c.what < {EXTRA} GROUP BY 1, 2)
    SELECT p.owner, {_LEAF}, k.dimensions->>'class' AS class, k.dimensions->>'decline_code' AS code, sum(p.n)::int8 AS n,
    sum(p.amount)::int8 AS amount FROM part p JOIN rate_key k ON k.id = p.key GROUP BY 1, 2, 3, 4, 5, 6, 7"""
)
"""Payments by what became of their first attempt: whole days, as they are kept."""
CLASS_OF: Final[Mapping[int, str]] = {bit: name for name, bit in CLASS_BIT.items()}

_FIXED: Final = ("id", "merchant_id", "livemode", "key", "opened_at", "noticed_at")
_OF_A_PERSON: Final = ("acknowledged_at", "acknowledged_by", "note")
"""What a look never changes of an incident."""
_NAMES: Final = _INCIDENT.split(", ")
_MOVED: Final = ", ".join(f"{name} = excluded.{name}" for name in _NAMES if name not in (*_FIXED, *_OF_A_PERSON))
_LOOKED: Final = f"""INSERT INTO monitor_state AS s ({columns(MonitorStateRow)}) VALUES ({values(MonitorStateRow, "s_")})
    ON CONFLICT (merchant_id, livemode) DO UPDATE SET looks = excluded.looks, until = excluded.until, state = excluded.state,
    runs = excluded.runs, verdicts = excluded.verdicts, looked_at = excluded.looked_at WHERE s.looks = excluded.looks - 1
    RETURNING looks"""
"""How far it was judged; no row where another look was written since it was read."""
_WRITTEN: Final = f"""INSERT INTO monitor_incident AS i ({_INCIDENT}) SELECT {", ".join(f"f.{name}" for name in _NAMES)}
    FROM looked, jsonb_populate_recordset(NULL::monitor_incident, :found::jsonb) AS f
    ON CONFLICT (id) DO UPDATE SET {_MOVED} WHERE i.closed_at IS NULL RETURNING i.id"""
_TELLING: Final = (
    f"""events AS ({EVENTS.format(source="looked")}), deliveries AS ({DELIVERIES.format(source="looked")})"""
)
_LOOK: Final = (
    f"WITH looked AS ({_LOOKED}), written AS ({_WRITTEN}){{telling}} SELECT EXISTS (SELECT FROM looked) AS done"
)
_QUIET: Final = Statement(_LOOK.format(telling=""), writes="judge")
_TOLD: Final = Statement(_LOOK.format(telling=f", {_TELLING}"), writes="judge")


class MonitorBooks:
    """Reads and writes monitors and what they find. What is not there is ``None``, or nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # --- monitors ---

    async def monitors(self, merchant_id: str, *, livemode: bool) -> list[Stored]:
        """Every monitor of a merchant in one mode that has a row and is not deleted, newest first."""
        rows = await _OF_MERCHANT.rows(self._pool, {"merchant_id": merchant_id, "livemode": livemode})
        return [Stored(**row) for row in rows]

    async def create(self, monitor: Stored, key: KeyUse) -> Written:
        """Store a monitor, once a key."""
        params = _values(monitor) | key_values(key, monitor.id, monitor.created_at) | {"what": "created"}
        row = await _CREATE.row(self._pool, params)
        return Written.DONE if row is not None and row["claimed"] else Written.KEY_USED

    async def put(self, monitor: Stored, was_at: datetime) -> Stored | None:
        """Write a monitor in the place of what it was at ``was_at``. ``None`` where it has changed since, or was deleted."""
        row = await _PUT.row(self._pool, _values(monitor) | {"was_at": was_at, "what": "changed"})
        return None if row is None else Stored(**row)

    async def delete(self, monitor_id: str, by: str, at: datetime) -> None:
        """Watch no more with it: the next look closes what it has found, and tells of that. Deleting it again changes nothing."""
        await _DELETE.row(self._pool, {"id": monitor_id, "by": by, "at": at, "what": "deleted"})

    async def changes(self, monitor_id: str) -> list[Row]:
        """What was done about a monitor, the newest first: ``at``, ``by``, ``what`` and what it is ``after`` that."""
        return await _CHANGES.rows(self._pool, {"id": monitor_id, "limit": HISTORY_MAX})

    async def standing(self, merchant_id: str, *, livemode: bool) -> Standing:
        """How far a merchant's monitors are judged."""
        row = await _STANDING.row(self._pool, {"merchant_id": merchant_id, "livemode": livemode})
        if row is None:
            return Standing(CountedTo(None, complete=False))
        counted = CountedTo(row["as_of"], row["complete"])
        if row["looked_at"] is None:
            return Standing(counted)
        until = datetime.fromtimestamp(60 * row["until"], UTC)
        return Standing(counted, row["looked_at"], until, row["verdicts"])

    # --- incidents ---

    async def incident(self, incident_id: str, merchant_id: str, /, *, livemode: bool) -> Found | None:
        """A merchant's incident in one mode."""
        row = await _ONE.row(self._pool, {"id": incident_id, "merchant_id": merchant_id, "livemode": livemode})
        return None if row is None else Found(**row)

    async def incidents(
        self, merchant_id: str, *, livemode: bool, limit: int, before: str | None = None, **filters: Any
    ) -> list[Found]:
        """A page of incidents, newest first, by ``monitor``, ``severity`` and whether they are ``open``."""
        given = {name: value for name, value in {"before": before, **filters}.items() if value is not None}
        params = given | {"merchant_id": merchant_id, "livemode": livemode, "limit": limit}
        return [Found(**row) for row in await _page(frozenset(given)).rows(self._pool, params)]

    async def acknowledge(self, incident_id: str, by: str, note: str | None, at: datetime) -> None:
        """Somebody has seen it. Who was first stays."""
        await _ACKNOWLEDGE.row(self._pool, {"id": incident_id, "by": by, "note": note, "at": at})

    # --- looks ---

    async def watched(self) -> list[Watched]:
        """Every merchant and mode that payments were counted of, with its monitors and what is open."""
        rows = await _WATCHED.rows(self._pool, {})
        monitors = _by_owner(Stored(**row) for row in await _MONITORS.rows(self._pool, {}))
        found = _by_owner(Found(**row) for row in await _OPEN.rows(self._pool, {}))
        return [
            Watched(**row, monitors=monitors.get(owner, ()), open=found.get(owner, ()))
            for row in rows
            for owner in [(row["merchant_id"], row["livemode"])]
        ]

    async def write(self, look: Look) -> bool:
        """Write a look, and tell of it. ``False`` where another was written since its merchant was read: nothing is changed then."""
        watched = look.watched
        params: dict[str, Any] = {
            "s_merchant_id": watched.merchant_id,
            "s_livemode": watched.livemode,
            "s_looks": watched.looks + 1,
            "s_until": look.until,
            "s_state": look.state,
            "s_runs": look.runs,
            "s_verdicts": look.verdicts,
            "s_looked_at": look.at,
            "found": [{name: getattr(each, name) for name in Found.__dataclass_fields__} for each in look.found],
        }
        params |= telling(look.told, watched.merchant_id, look.at, livemode=watched.livemode)
        row = await (_TOLD if look.told else _QUIET).row(self._pool, params)
        return bool(row and row["done"])


class FirstAttempts:
    """What first attempts came to, of any number of merchants at once. ``pool`` is that of :func:`gateway.sql.connect_to_look`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def minutes(self, owners: Sequence[int], start: datetime, end: datetime) -> list[Row]:
        """By minute: ``owner``, ``step`` (since 1970), the four dimensions of a leaf, ``what`` (a bit), ``code``, ``n``, ``amount``."""
        return await _MINUTES.rows(self._pool, {"owners": list(owners), "start": start, "end": end})

    async def hours(self, owners: Sequence[int], start: datetime, end: datetime) -> list[Row]:
        """The same by hour."""
        return await _HOURS.rows(self._pool, {"owners": list(owners), "start": start, "end": end})

    async def days(self, owners: Sequence[int], start: datetime, end: datetime) -> list[Row]:
        """Whole days (UTC) added up: ``owner``, the four dimensions, ``class``, ``code``, ``n``, ``amount``."""
        return await _DAYS.rows(self._pool, {"owners": list(owners), "start": start, "end": end})


def _values(monitor: Stored) -> dict[str, Any]:
    return {f"m_{name}": getattr(monitor, name) for name in Stored.__dataclass_fields__}


def _by_owner(rows: Iterable[T]) -> dict[tuple[str, bool], list[T]]:
    found: dict[tuple[str, bool], list[T]] = {}
    for each in rows:
        found.setdefault((each.merchant_id, each.livemode), []).append(each)
    return found
