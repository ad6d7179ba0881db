"""The books of the rates: what is counted of every payment, kept by the worker, and read for every question.

:func:`fold` reads which payments have changed, by the transactions that wrote their history, and counts them anew in one statement: what
they come to now is added to the counts, what they came to before is taken out, and the place up to which all is counted moves on. So a
late result restates the hour and the day of its attempt; a worker that dies has counted nothing or all of it; and of two that count at
once one finds that the place has moved. What a payment comes to is said by the views of the schema ``rates`` and nowhere else.

:func:`measure` answers a question from the smallest counts that can: whole hours or days from what is kept, the rest, and what is kept
nowhere, from the attempts (docs/adr/0027-rates-are-kept-counts.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from string import ascii_lowercase
from typing import Any, Final

from gateway.rate_tables import RatedRow
from gateway.rates import (
    CELLS_MAX,
    CLASS_BIT,
    CUBOIDS,
    EXTRA,
    MARKS,
    METADATA,
    METRICS,
    Amount,
    Asked,
    Cell,
    Cuboid,
    Mark,
    Measured,
    Metric,
    Unanswerable,
    check,
    source,
    whole,
)
from gateway.sql import Pool, Row, Statement, columns

BATCH: Final = 500
"""Changes that are counted in one statement: a tenth of a second for Postgres."""
BATCHES: Final = 40
"""What is counted in one run: the next one begins two seconds later."""


# --- Counting ------------------------------------------------------------------------------------------------------------

_HEARD: Final = Statement(
    """WITH known AS MATERIALIZED (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS horizon,
        pg_snapshot_xmax(pg_current_snapshot()) AS newest, now() AS at),
    heard AS MATERIALIZED (SELECT xid, payment_id, at FROM change
        WHERE (xid, payment_id) > ((SELECT position FROM rate_mark), (SELECT payment_id FROM rate_mark))
        AND xid < (SELECT horizon FROM known) ORDER BY xid, payment_id LIMIT :limit::int),
    newest AS (SELECT xid, payment_id FROM heard ORDER BY xid DESC, payment_id DESC LIMIT 1)
    SELECT position, payment_id, backfill, (SELECT count(*) FROM heard) AS heard,
        ARRAY(SELECT DISTINCT h.payment_id FROM heard h) AS payments,
        (SELECT xid FROM newest) AS upto, (SELECT newest.payment_id FROM newest) AS upto_payment,
        CASE WHEN known.horizon = known.newest AND (SELECT count(*) FROM heard) < :limit::int THEN known.at
            ELSE greatest(as_of, (SELECT max(at) FROM heard)) END AS as_of
    FROM rate_mark, known"""
)
"""What has changed since the place up to which all is counted. Nothing that commits late is passed over: only what is older than every
open transaction is read (docs/adr/0022-evidence-by-xid8.md)."""
_OLDER: Final = Statement("SELECT id FROM payment WHERE id > :after ORDER BY id LIMIT :limit::int")


def _keys() -> str:
    """The values of each cuboid's dimensions, as JSON without what is not known."""
    return ", ".join(
        "('{}', jsonb_strip_nulls(jsonb_build_object({})))".format(
            cuboid.name, ", ".join(f"'{name}', a.{name}::text" for name in sorted(cuboid.dimensions))
        )
        for cuboid in CUBOIDS
    )


def _columns(table: str, names: str) -> str:
    """The same columns, of a table."""
    return ", ".join(f"{table}.{name}" for name in names.split(", "))


_FACT: Final = columns(RatedRow)
_CLASSES: Final = ", ".join(f"'{name}'" for name in CLASS_BIT)
_CLASS_BIT: Final = f"(1 << (array_position(ARRAY[{_CLASSES}], a.class) - 1))::int2"
_MARKS: Final = " + ".join(f"CASE WHEN w.{name} THEN {mark:d} ELSE 0 END" for name, mark in MARKS.items())
_KEY_COLUMNS: Final = ", ".join(
    f"max(k.id) FILTER (WHERE k.cuboid = '{cuboid.name}') AS {cuboid.name}_key" for cuboid in CUBOIDS
)
_KEY_NAMES: Final = ", ".join(f"{cuboid.name}_key" for cuboid in CUBOIDS)
_CLOSEST: Final = """(SELECT r.* FROM rated r WHERE r.owner = p.owner AND r.same_try = p.same_try AND r.ordinal = 1
    AND r.marks & {reached} > 0 AND r.payment_id <> ALL(:ids::text[]) AND (r.at, r.payment_id) {side} (p.at, p.payment_id)
    ORDER BY r.at {order}, r.payment_id {order} LIMIT 1)"""
_BEFORE: Final = _CLOSEST.format(reached=int(Mark.REACHED), side="<", order="DESC")
_AFTER: Final = _CLOSEST.format(reached=int(Mark.REACHED), side=">", order="ASC")

_MAKE: Final = f"""mark AS MATERIALIZED (SELECT window_s FROM rate_mark WHERE position = :position::xid8 AND payment_id = :payment
        AND backfill IS NOT DISTINCT FROM :backfill::text FOR UPDATE SKIP LOCKED),
    attempts AS MATERIALIZED (SELECT a.* FROM rates.attempt a WHERE a.payment_id = ANY(:ids::text[])),
    whole AS MATERIALIZED (SELECT p.* FROM rates.payment p WHERE p.payment_id = ANY(:ids::text[])),
    owners AS (SELECT DISTINCT a.merchant_id, a.livemode FROM attempts a, mark),
    new_owner AS (INSERT INTO rate_owner (merchant_id, livemode)
        SELECT merchant_id, livemode FROM owners w
        WHERE NOT EXISTS (SELECT FROM rate_owner o WHERE (o.merchant_id, o.livemode) = (w.merchant_id, w.livemode))
        RETURNING id, merchant_id, livemode),
    owner AS (SELECT id, merchant_id, livemode FROM new_owner
        UNION ALL SELECT o.id, o.merchant_id, o.livemode FROM rate_owner o JOIN owners USING (merchant_id, livemode)),
    named AS MATERIALIZED (SELECT a.payment_id, a.ordinal, o.id AS owner, k.cuboid, k.dimensions, md5(k.dimensions::text)::uuid AS digest
        FROM attempts a JOIN owner o USING (merchant_id, livemode) CROSS JOIN LATERAL (VALUES {_keys()}) AS k(cuboid, dimensions)),
    new_key AS (INSERT INTO rate_key (owner, cuboid, digest, dimensions)
        SELECT DISTINCT ON (owner, cuboid, digest) owner, cuboid, digest, dimensions FROM named n
        WHERE NOT EXISTS (SELECT FROM rate_key k WHERE (k.owner, k.cuboid, k.digest) = (n.owner, n.cuboid, n.digest))
        RETURNING id, owner, cuboid, digest),
    known_key AS (SELECT id, owner, cuboid, digest FROM new_key UNION ALL
        SELECT k.id, k.owner, k.cuboid, k.digest FROM rate_key k
        JOIN (SELECT DISTINCT owner, cuboid, digest FROM named) AS n USING (owner, cuboid, digest)),
    keyed AS (SELECT n.payment_id, n.ordinal, n.owner, {_KEY_COLUMNS}
        FROM named n JOIN known_key k USING (owner, cuboid, digest) GROUP BY 1, 2, 3),
    made AS MATERIALIZED (SELECT k.*, a.at, a.amount, {_CLASS_BIT} AS what,
        CASE WHEN w.payment_id IS NOT NULL THEN {_MARKS} END AS marks,
        CASE WHEN w.payment_id IS NOT NULL THEN CASE WHEN w.stumbled THEN w.extra_attempts ELSE 0 END END AS extra,
        w.last_at, w.same_try, nullif(a.metadata, '{{}}') AS metadata
        FROM attempts a JOIN keyed k USING (payment_id, ordinal)
        LEFT JOIN whole w ON a.ordinal = 1 AND w.payment_id = a.payment_id),
    old AS MATERIALIZED (SELECT r.* FROM rated r, mark WHERE r.payment_id = ANY(:ids::text[]))"""
"""What these payments come to now, and what was counted of them; nothing where somebody else has counted since."""
_TRIED: Final = f"same_try IS NOT NULL AND marks & {Mark.REACHED:d} > 0"
_MADE: Final = f"payment_id, ordinal, owner, {_KEY_NAMES}, at, amount, what, marks, extra, last_at, same_try, metadata"
_IS_LAST: Final = f"""CASE WHEN marks IS NOT NULL THEN (marks & ~{Mark.LAST:d}) | CASE WHEN marks & {Mark.APPROVED:d} > 0
    OR next_at IS NULL OR next_at > last_at + make_interval(secs => mark.window_s) THEN {Mark.LAST:d} ELSE 0 END END::int2 AS marks"""
_NAMES: Final = _FACT.split(", ")
_CHAIN: Final = f"""probe AS (SELECT owner, same_try, at, payment_id FROM made WHERE {_TRIED}
        UNION SELECT owner, same_try, at, payment_id FROM old WHERE {_TRIED}),
    near AS MATERIALIZED (SELECT b.*, true AS earlier FROM probe p CROSS JOIN LATERAL {_BEFORE} AS b
        UNION ALL SELECT f.*, false FROM probe p CROSS JOIN LATERAL {_AFTER} AS f),
    beside AS (SELECT payment_id, bool_or(earlier) AS earlier FROM near GROUP BY 1),
    tried AS (SELECT owner, same_try, at, payment_id FROM made WHERE {_TRIED}
        UNION SELECT owner, same_try, at, payment_id FROM near),
    following AS (SELECT payment_id, lead(at) OVER (PARTITION BY owner, same_try ORDER BY at, payment_id) AS next_at FROM tried),
    fresh AS (SELECT {_columns("m", _MADE)}, f.next_at FROM made m LEFT JOIN following f ON f.payment_id = m.payment_id AND m.ordinal = 1
        UNION ALL SELECT {_columns("n", _MADE)}, f.next_at FROM (SELECT DISTINCT ON (payment_id) * FROM near ORDER BY payment_id) AS n
        JOIN beside b USING (payment_id) JOIN following f USING (payment_id) WHERE b.earlier),
    written AS MATERIALIZED (SELECT {", ".join(_IS_LAST if name == "marks" else f"fresh.{name}" for name in _NAMES)} FROM fresh, mark),
    replaced AS MATERIALIZED (SELECT * FROM old UNION ALL
        SELECT r.* FROM rated r JOIN beside b USING (payment_id), mark WHERE b.earlier AND r.ordinal = 1)"""
"""Who tries the same just before and just after: a payment that comes between two changes which of them is the last of its group.

A payment that did not reach a provider is in no group. That it would be its last is said of it as well, and counts for nothing.
"""
_MOVED: Final = " UNION ALL ".join(
    f"""SELECT owner, {_KEY_NAMES}, at, false AS of_payment, what, {sign} AS n, {sign} * amount AS amount FROM {rows}
    UNION ALL SELECT owner, {_KEY_NAMES}, at, true, marks, {sign}, {sign} * amount FROM {rows} WHERE marks IS NOT NULL
    UNION ALL SELECT owner, {_KEY_NAMES}, at, true, {EXTRA}, {sign} * extra, 0 FROM {rows} WHERE extra > 0"""
    for rows, sign in (("written", 1), ("replaced", -1))
)
_COUNTED: Final = ", ".join(
    f"""{cuboid.name}_counted AS (INSERT INTO rate_{cuboid.name} AS c (owner, of_payment, at, key, what, n, amount)
    SELECT owner, of_payment, date_trunc('{cuboid.grain}', at, 'UTC'), {cuboid.name}_key, what, sum(n), sum(amount) FROM moved
    GROUP BY 1, 2, 3, 4, 5 HAVING sum(n) <> 0 OR sum(amount) <> 0
    ON CONFLICT (owner, of_payment, at, key, what) DO UPDATE SET n = c.n + excluded.n, amount = c.amount + excluded.amount)"""
    for cuboid in CUBOIDS
)
_STORED: Final = f"""INSERT INTO rated ({_FACT}) SELECT {_FACT} FROM written
    ON CONFLICT (payment_id, ordinal) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _NAMES[2:])}
    WHERE ({_columns("rated", _FACT)}) IS DISTINCT FROM ({_columns("excluded", _FACT)})"""
_FOLD: Final = Statement(
    f"""WITH {_MAKE}, {_CHAIN}, moved AS MATERIALIZED ({_MOVED}), {_COUNTED}, stored AS ({_STORED}),
    moved_on AS (UPDATE rate_mark SET position = :upto::xid8, payment_id = :upto_payment, backfill = :backfilled::text,
        as_of = :as_of::timestamptz FROM mark RETURNING id)
    SELECT count(*) AS counted FROM moved_on""",
    writes="count_rates",
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Up to where all is counted."""

    position: int
    payment_id: str
    backfill: str | None
    as_of: datetime | None


async def fold(pool: Pool) -> int:
    """Count what has changed since the last run, then what is older and was never counted. Returns how many payments.

    May be called at any time, by several at once: each change is counted once. One that dies has counted a batch or nothing of it.
    """
    total = 0
    for _ in range(BATCHES):
        heard = await _HEARD.row(pool, {"limit": BATCH})
        if heard is None:
            return total
        place = _Place(heard["position"], heard["payment_id"], heard["backfill"], heard["as_of"])
        if heard["heard"]:
            upto = replace(place, position=heard["upto"], payment_id=heard["upto_payment"])
            total += await _count(pool, heard["payments"], place, upto)
            continue
        if place.backfill is None:
            await _count(pool, [], place, place)  # nothing is new: that is known now, too
            return total
        older = [row["id"] for row in await _OLDER.rows(pool, {"after": place.backfill, "limit": BATCH})]
        total += await _count(pool, older, place, replace(place, backfill=older[-1] if older else None))
    return total


async def _count(pool: Pool, payments: Sequence[str], place: _Place, upto: _Place) -> int:
    """Count these payments, and move on from ``place`` to ``upto``. Nothing where another has moved on from there."""
    params = {
        "ids": list(payments),
        "position": place.position,
        "payment": place.payment_id,
        "backfill": place.backfill,
        "upto": upto.position,
        "upto_payment": upto.payment_id,
        "backfilled": upto.backfill,
        "as_of": upto.as_of,
    }
    row = await _FOLD.row(pool, params)
    return len(payments) if row is not None and row["counted"] else 0


# --- Asking --------------------------------------------------------------------------------------------------------------

_AS_OF: Final = Statement("SELECT as_of, backfill IS NULL AS complete FROM rate_mark")
_OWNER: Final = """(SELECT id FROM rate_owner WHERE merchant_id = :merchant_id::text AND livemode = :livemode::bool)"""
_SUMS: Final = ("n", "hits", "amount_n", "amount_hits", "extra")


def _set(metric: Metric, wanted: int, what: str) -> str:
    """The condition that a count is of ``wanted``: any of the classes of attempts, all of the marks of payments.

    All of them and no more are the greatest number there can be. Asked so, the planner expects a third of the rows; asked for one value
    it expects a few, and sorts a million.
    """
    return f"{what} & {wanted} >= {wanted} AND {what} < {EXTRA}" if metric.of_payments else f"{what} & {wanted} > 0"


def _kept(metric: Metric, cuboid: Cuboid, step: str) -> str:
    """What is kept of whole hours or days."""
    total, hits = (_set(metric, wanted, "c.what") for wanted in (metric.total, metric.hits))
    asked = f"({total}) OR c.what = {EXTRA}" if metric.costs else total
    sums = f"""(sum(c.n) FILTER (WHERE {total}))::int8 AS n, (sum(c.n) FILTER (WHERE {hits}))::int8 AS hits,
        (sum(c.amount) FILTER (WHERE {total}))::int8 AS amount_n, (sum(c.amount) FILTER (WHERE {hits}))::int8 AS amount_hits,
        (sum(c.n) FILTER (WHERE c.what = {EXTRA}))::int8 AS extra"""
    return f"""SELECT {step.format(at="c.at")} AS at, k.place AS {cuboid.name}_place, {sums}
        FROM rate_{cuboid.name} c JOIN {cuboid.name}_keys k ON k.id = c.key
        WHERE c.owner = {_OWNER} AND c.of_payment = {metric.of_payments} AND c.at >= :whole_from::timestamptz
        AND c.at < :whole_to::timestamptz AND ({asked}) GROUP BY 1, 2"""


def _single(metric: Metric, cuboids: Sequence[Cuboid], metadata: Sequence[str], step: str, time: str) -> str:
    """The same of the attempts themselves, within ``time``."""
    what = "r.marks" if metric.of_payments else "r.what"
    total, hits = (_set(metric, wanted, what) for wanted in (metric.total, metric.hits))
    groups = [step.format(at="r.at") + " AS at", *(f"{each.name}_keys.place AS {each.name}_place" for each in cuboids)]
    groups += [f"r.metadata->>:{name}::text AS {name}" for name in metadata]
    joins = " ".join(f"JOIN {each.name}_keys ON {each.name}_keys.id = r.{each.name}_key" for each in cuboids)
    return f"""SELECT {", ".join(groups)}, count(*) AS n, count(*) FILTER (WHERE {hits}) AS hits, sum(r.amount)::int8 AS amount_n,
        (sum(r.amount) FILTER (WHERE {hits}))::int8 AS amount_hits, sum(r.extra)::int8 AS extra FROM rated r {joins}
        WHERE r.owner = {_OWNER} AND {time} AND {total} GROUP BY {", ".join(str(n + 1) for n in range(len(groups)))}"""


@lru_cache(maxsize=256)
def _question(
    name: str, group_by: tuple[str, ...], filters: tuple[str, ...], interval: str | None, kept: Cuboid | None
) -> Statement:
    """The statement that answers questions of this form. Values are parameters: nothing of a caller's stands in its text.

    The keys of each cuboid are filtered first, and those that are shown alike get one place: what is summed up is small numbers.
    """
    metric, wanted = METRICS[name], tuple(dict.fromkeys((*group_by, *filters)))
    own = {each: f"m_{letter}" for letter, each in _lettered(each for each in wanted if each.startswith(METADATA))}
    cuboids = (kept,) if kept is not None else _covering(frozenset(wanted) - own.keys())
    holder = {each: next(c for c in cuboids if each in c.dimensions) for each in wanted if each not in own}
    step = "NULL::timestamptz" if interval is None else f"date_trunc('{interval}', {{at}}, 'UTC')"
    within = "r.at >= :start::timestamptz AND r.at < :whole_from::timestamptz"
    after = "r.at >= :whole_to::timestamptz AND r.at < :end::timestamptz"
    parts = [_single(metric, cuboids, list(own.values()), step, time) for time in (within, after)]
    if kept is not None:
        parts.append(_kept(metric, kept, step))
    asked = {each: f"= ANY(:f_{letter}::text[])" for letter, each in _lettered(filters)}
    shown = [("currency", cuboids[0], "currency")]
    shown += [(f"g_{letter}", holder[each], each) for letter, each in _lettered(group_by) if each in holder]
    keys = [_named(cuboid, shown, [each for each in asked if holder.get(each) is cuboid], asked) for cuboid in cuboids]
    labels = [f"{cuboid.name}_labels.{alias}" for alias, cuboid, _ in shown]
    labels += [f"part.{own[each]} AS g_{letter}" for letter, each in _lettered(group_by) if each in own]
    joins = " ".join(f"JOIN {c.name}_labels ON {c.name}_labels.place = part.{c.name}_place" for c in cuboids)
    kept_only = [f"coalesce(part.{own[each]}, '') {asked[each]}" for each in filters if each in own]
    sums = ", ".join(f"coalesce(sum(part.{each}), 0)::int8 AS {each}" for each in _SUMS)
    groups = ", ".join(str(number + 1) for number in range(1 + len(labels)))
    return Statement(
        f"""WITH {", ".join(keys)} SELECT {", ".join(["part.at", *labels])}, {sums}
        FROM ({" UNION ALL ".join(parts)}) AS part {joins} {"WHERE " + " AND ".join(kept_only) if kept_only else ""}
        GROUP BY {groups} HAVING sum(part.n) > 0 OR sum(part.extra) > 0 ORDER BY {groups} LIMIT {CELLS_MAX + 1}"""
    )


def _named(
    cuboid: Cuboid, shown: Sequence[tuple[str, Cuboid, str]], filters: Sequence[str], asked: Mapping[str, str]
) -> str:
    """The keys of a cuboid that are asked for, with their place among those that are shown alike, and what each place shows."""
    of = [(alias, each) for alias, holder, each in shown if holder is cuboid]
    values = ", ".join(f"k.dimensions->>'{each}' AS {alias}" for alias, each in of)
    order = ", ".join(f"k.dimensions->>'{each}' COLLATE \"C\"" for _, each in of) or "1"
    only = "".join(f" AND coalesce(k.dimensions->>'{each}', '') {asked[each]}" for each in filters)
    names = ", ".join(["place", *(alias for alias, _ in of)])
    return f"""{cuboid.name}_keys AS MATERIALIZED (SELECT k.id, dense_rank() OVER (ORDER BY {order})::int AS place{", " + values if values else ""}
        FROM rate_key k WHERE k.owner = {_OWNER} AND k.cuboid = '{cuboid.name}'{only}),
    {cuboid.name}_labels AS (SELECT DISTINCT {names} FROM {cuboid.name}_keys)"""


def _lettered(names: Iterator[str] | Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(ascii_lowercase, names, strict=False)


def _covering(wanted: frozenset[str]) -> tuple[Cuboid, ...]:
    """Cuboids that have all of these dimensions between them, the one with most of them first. Each has the currency."""
    found: list[Cuboid] = []
    while wanted or not found:
        best = max(CUBOIDS, key=lambda each: len(wanted & each.dimensions))
        found.append(best)
        wanted -= best.dimensions
    return tuple(found)


@dataclass(frozen=True, slots=True)
class CountedTo:
    """All that was recorded by ``as_of`` is counted. ``complete``: and all that is older."""

    as_of: datetime | None
    complete: bool


async def counted_to(pool: Pool) -> CountedTo:
    """How far the rates are counted."""
    row = await _AS_OF.row(pool, {})
    return CountedTo(None, complete=False) if row is None else CountedTo(row["as_of"], row["complete"])


async def measure(pool: Pool, asked: Asked) -> Measured:
    """Answer a question. Raises :class:`gateway.rates.Unanswerable` where it is wrong, or its answer has too many cells.

    ``pool`` is that of :func:`gateway.sql.connect_to_look`: on the connections of the charges the plan would be that of a small question.
    Reads two times: how far all is counted, and the counts; what is counted between the two is in the answer, and not in ``as_of``.
    """
    metric, kept = check(asked), source(asked)
    whole_from, whole_to = (asked.end, asked.end) if kept is None else whole(asked, kept.grain)
    params: dict[str, Any] = {
        "merchant_id": asked.merchant_id,
        "livemode": asked.livemode,
        "start": asked.start,
        "end": asked.end,
        "whole_from": whole_from,
        "whole_to": whole_to,
    }
    filters = tuple(asked.filters)
    params |= {f"f_{letter}": list(asked.filters[name]) for letter, name in _lettered(filters)}
    params |= {f"m_{letter}": name.removeprefix(METADATA) for letter, name in _lettered(asked.metadata_keys)}
    to = await counted_to(pool)
    statement = _question(metric.name, asked.group_by, filters, asked.interval, kept)
    rows = await statement.rows(pool, params)
    if len(rows) > CELLS_MAX:
        raise Unanswerable(
            "group_by",
            f"The answer has more than {CELLS_MAX} cells: filter it, take a longer interval, or ask for less time.",
        )
    return Measured(_cells(rows, asked, metric), to.as_of, to.complete)


def _cells(rows: Sequence[Row], asked: Asked, metric: Metric) -> tuple[Cell, ...]:
    """A cell for all currencies of the same keys."""
    key_of = itemgetter("at", *(f"g_{letter}" for letter, _ in _lettered(asked.group_by)), "currency")
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(key_of(row)[:-1], []).append(row)
    cells = [_cell(at, dict(zip(asked.group_by, keys, strict=True)), of, metric) for (at, *keys), of in found.items()]
    cells.sort(key=lambda each: each.n, reverse=True)
    return tuple(cells if asked.interval is None else sorted(cells, key=_at))


def _at(cell: Cell) -> datetime:
    assert cell.at is not None, "with an interval each cell has its beginning"  # noqa: S101  # the statement groups by it
    return cell.at


def _cell(at: datetime | None, keys: Mapping[str, str | None], rows: Sequence[Row], metric: Metric) -> Cell:
    return Cell(
        keys=keys,
        at=at,
        n=sum(row["n"] for row in rows),
        hits=sum(row["hits"] for row in rows),
        amounts=tuple(Amount(row["currency"], row["amount_n"], row["amount_hits"]) for row in rows),
        extra_attempts=sum(row["extra"] for row in rows) if metric.costs else None,
    )
