"""How long an answer takes over a month with a million attempts, and with ten million."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from gateway.monitoring import Monitoring
from gateway.rate_books import measure
from gateway.rates import CUBOIDS, METRICS, Asked, Mark, source
from gateway.sql import connect, connect_to_look

if TYPE_CHECKING:
    from tests.conftest import Database

START: Final = datetime(2026, 10, 1, tzinfo=UTC)
DAYS: Final = 30
KINDS: Final = 12_000
"""Different attempts, drawn so that a hundredth of them makes a tenth of the traffic: accounts, cards, countries, bands, declines."""
PROFILES: Final = f"""CREATE TABLE kind AS SELECT i, account, 'psp_' || right(account, 1) AS provider, bin, brand, funding, country AS issuer_country, country,
    currency, band AS amount_band, initiator, 'automatic' AS capture_method, class, code AS decline_code,
    CASE WHEN code IS NOT NULL THEN 'soft' END AS decline_type, raw AS raw_code, 'priority' AS routing, 'rule ' || (bin % 5) AS rule,
    'rt_' || (i % 3) AS version, '1' AS ordinal, '1' AS round, tds AS three_d_secure,
    CASE WHEN class = 'approved' THEN '0' || (i % 4) END AS eci, CASE WHEN class = 'approved' THEN 'pass' END AS cvc, amount
    FROM (SELECT i, 'account_' || (i % 4) AS account, b AS bin, (ARRAY['visa', 'mastercard', 'amex'])[1 + b % 3] AS brand,
        (ARRAY['credit', 'debit', 'prepaid'])[1 + b % 7 % 3] AS funding, (ARRAY['DE', 'FR', 'GB', 'US', 'NL', 'ES', 'IT', 'PL', 'SE', 'CZ'])[1 + b % 10] AS country,
        CASE WHEN b % 10 = 2 THEN 'GBP' WHEN b % 10 = 3 THEN 'USD' ELSE 'EUR' END AS currency,
        (ARRAY['1-999', '1000-4999', '5000-19999', '20000-99999'])[1 + i % 13 % 4] AS band, 1000 * (1 + i % 13 % 4) AS amount,
        CASE WHEN i % 5 = 0 THEN 'merchant' ELSE 'customer' END AS initiator,
        CASE WHEN i % 11 = 0 THEN 'declined' WHEN i % 53 = 0 THEN 'technical' WHEN i % 59 = 0 THEN 'blocked' ELSE 'approved' END AS class,
        CASE WHEN i % 11 = 0 THEN (ARRAY['insufficient_funds', 'issuer_generic', 'card_expired'])[1 + i % 3] END AS code,
        CASE WHEN i % 11 = 0 THEN (i % 23)::text END AS raw, CASE WHEN i % 4 = 0 THEN 'authenticated' ELSE 'none' END AS tds
        FROM (SELECT i, (2000 * power((i * 7919 % {KINDS})::float8 / {KINDS}, 2))::int AS b FROM generate_series(0, {KINDS} - 1) AS i) AS drawn) AS each"""
HELD: Final = [
    "account",
    "provider",
    "bin",
    "brand",
    "funding",
    "issuer_country",
    "country",
    "currency",
    "amount_band",
    "initiator",
    "capture_method",
    "class",
    "decline_code",
    "decline_type",
    "raw_code",
    "routing",
    "rule",
    "version",
    "ordinal",
    "round",
    "three_d_secure",
    "eci",
    "cvc",
]


def fill(database: Database, attempts: int) -> None:
    """As many attempts as the worker would have counted them, each a payment of its own, spread evenly over the month."""
    keys = ", ".join(
        "('{}', jsonb_strip_nulls(jsonb_build_object({})))".format(
            cuboid.name, ", ".join(f"'{name}', {name}::text" for name in HELD if name in cuboid.dimensions)
        )
        for cuboid in CUBOIDS
    )
    named = ", ".join(f"max(k.id) FILTER (WHERE k.cuboid = '{cuboid.name}') AS {cuboid.name}_key" for cuboid in CUBOIDS)
    approved = Mark.REACHED | Mark.APPROVED | Mark.FIRST | Mark.LAST | Mark.REQUESTED
    failed = Mark.REACHED | Mark.LAST | Mark.STUMBLED | Mark.REQUESTED
    columns = "payment_id, ordinal, owner, at, hour_key, bin_key, proof_key, day_key, amount, what, marks, extra, last_at, metadata"
    step = timedelta(days=DAYS) / attempts
    with psycopg.connect(database.admin_url, autocommit=True) as connection:

        def run(text: str) -> None:
            connection.execute(text.encode())

        run("SET synchronous_commit = off; SET work_mem = '256MB'; SET maintenance_work_mem = '256MB'")
        run(PROFILES)
        run("INSERT INTO rate_owner (merchant_id, livemode) VALUES ('mer_dev', false)")
        run(f"""CREATE TABLE named AS SELECT i, cuboid, dimensions, md5(dimensions::text)::uuid AS digest
            FROM kind, LATERAL (VALUES {keys}) AS k(cuboid, dimensions)""")
        run(
            """INSERT INTO rate_key (owner, cuboid, digest, dimensions) SELECT DISTINCT ON (cuboid, digest) 1, cuboid, digest, dimensions FROM named"""
        )
        run(f"""CREATE TABLE keyed AS SELECT i, {named} FROM named JOIN rate_key k USING (cuboid, digest) GROUP BY i""")
        run(
            "CREATE TABLE drawn AS SELECT kind.*, keyed.hour_key, bin_key, proof_key, day_key FROM kind JOIN keyed USING (i)"
        )
        run("ALTER TABLE drawn ADD PRIMARY KEY (i)")
        run("DROP INDEX rated_by_time, rated_by_try; ALTER TABLE rated DROP CONSTRAINT rated_pkey")
        run(f"""INSERT INTO rated ({columns}) SELECT 'pay_' || lpad(to_hex(n), 32, '0'), 1, 1, at, hour_key, bin_key, proof_key, day_key, amount,
            CASE class WHEN 'approved' THEN 1 WHEN 'declined' THEN 2 WHEN 'technical' THEN 4 ELSE 16 END,
            CASE class WHEN 'approved' THEN {approved:d} ELSE {failed:d} END, 0, at, metadata
            FROM (SELECT n, '{START.isoformat()}'::timestamptz + n * '{step.total_seconds()} s'::interval AS at,
                (array['{{"shop": "north"}}', '{{"shop": "south"}}', NULL]::jsonb[])[1 + n % 3] AS metadata,
                ({KINDS - 1} * power(hashint8(n)::float8 / 4294967296 + 0.5, 2))::int AS i FROM generate_series(0, {attempts} - 1) AS n) AS made
            JOIN drawn USING (i)""")
        run("ALTER TABLE rated ADD PRIMARY KEY (payment_id, ordinal); CREATE INDEX rated_by_time ON rated (owner, at)")
        for cuboid in CUBOIDS:
            run(f"""INSERT INTO rate_{cuboid.name} (owner, of_payment, at, key, what, n, amount)
                SELECT 1, of_payment, at, key, what, sum(n), sum(amount) FROM (
                    SELECT date_trunc('{cuboid.grain}', at, 'UTC') AS at, {cuboid.name}_key AS key, what AS of_attempt, marks, count(*) AS n,
                    sum(amount) AS amount FROM rated GROUP BY 1, 2, 3, 4) AS counted
                CROSS JOIN LATERAL (VALUES (false, of_attempt), (true, marks)) AS each(of_payment, what) GROUP BY 2, 3, 4, 5""")
        run("DROP TABLE kind, named, keyed, drawn")
        for table in ("rated", "rate_key", *(f"rate_{cuboid.name}" for cuboid in CUBOIDS)):
            run(f"VACUUM ANALYZE {table}")


def questions() -> list[Asked]:
    """Every rate, over the whole month and over part of it, in the forms in which people ask."""
    forms: tuple[tuple[tuple[str, ...], str | None, dict[str, tuple[str, ...]]], ...] = (
        ((), "day", {}),
        (("account",), "hour", {}),
        (("account", "brand"), None, {}),
        (("bin", "account"), None, {}),
        (("issuer_country", "decline_code"), "day", {}),
        (("amount_band", "initiator", "rule"), None, {"brand": ("visa",), "currency": ("EUR", "GBP")}),
        (("raw_code",), None, {"account": ("account_1",)}),
        (("three_d_secure", "eci"), "week", {}),
        (("metadata.shop",), None, {}),
        (("bin", "decline_code"), None, {"class": ("approved", "declined")}),
        (("bin",), None, {"initiator": ("merchant",)}),
    )
    month = (START, START + timedelta(days=DAYS))
    ten_days = (START + timedelta(days=9, hours=7, minutes=13), START + timedelta(days=19, hours=7, minutes=13))
    return [
        Asked("mer_dev", False, metric, *(month if (number + turn) % 2 else ten_days), group_by, interval, filters)
        for turn, metric in enumerate(METRICS)
        for number, (group_by, interval, filters) in enumerate(forms)
    ]


FLOOR: Final = "SELECT count(*), sum(amount) FROM rated"
"""What the machine takes at that moment to look at each attempt once: 50 ms where nothing else runs."""
FLOORS_MAX: Final = 20
"""How often that a question may take on a machine that is busy with other things. A plan that has gone wrong takes hundreds."""


async def asked_over(database: Database, attempts: int) -> tuple[list[float], list[float]]:
    """Seconds that each question took, in the order of their length, and each look at the floor. The same counts come of every form."""
    await asyncio.to_thread(fill, database, attempts)
    took, floors = [], []
    counted: dict[tuple[str, datetime], set[int]] = {}
    pool = await connect_to_look(database.url)
    try:
        for number, question in enumerate(questions()):
            if number % 11 == 0:
                begun = time.perf_counter()
                await pool.fetchval(FLOOR)
                floors.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            answer = await measure(pool, question)
            took.append(time.perf_counter() - begun)
            if not question.filters:
                found = counted.setdefault((question.metric, question.start), set())
                found.add(sum(cell.n for cell in answer.cells))
    finally:
        pool.close()
    # Kept by the hour or the day, or counted one by one: nothing is lost or counted twice.
    assert {key: len(found) for key, found in counted.items() if len(found) > 1} == {}
    assert all(max(found) > attempts / 100 for (metric, _), found in counted.items() if metric != "unknown_rate")
    return sorted(took), sorted(floors)


def told(attempts: int, took: list[float], floors: list[float]) -> str:
    p50, p95 = (1000 * took[int(len(took) * share)] for share in (0.5, 0.95))
    return (
        f"rates: {len(took)} questions over {attempts:,} attempts: p50 {p50:.0f} ms, p95 {p95:.0f} ms, most {1000 * took[-1]:.0f} ms; "
        f"to look at each attempt once took {1000 * floors[len(floors) // 2]:.0f} ms"
    )


LOOKS: Final = 20


async def looks_over(database: Database) -> str:
    """What a look of the monitors takes: the first, which learns what is usual, and those of the minutes after it."""
    took, now = [], START + timedelta(days=DAYS - 1, hours=9)
    pool, looking = await connect(database.url), await connect_to_look(database.url)
    try:
        monitors = Monitoring(pool, looking, lambda: now)
        for _ in range(LOOKS):
            now += timedelta(minutes=1)
            await pool.fetch("UPDATE rate_mark SET as_of = $1, backfill = NULL", now)
            begun = time.perf_counter()
            assert await monitors.look() == 1
            took.append(1000 * (time.perf_counter() - begun))
    finally:
        looking.close()
        pool.close()
    first, *later = took
    later.sort()
    p95 = later[int(len(later) * 0.95)]
    return f"monitors over 1,000,000 attempts: a look p50 {later[len(later) // 2]:.0f} ms, p95 {p95:.0f} ms; the first of an hour {first:.0f} ms"


async def test_every_rate_of_a_million_attempts_is_answered_at_once_and_alike_in_every_form(
    database: Database, proved: Callable[[str], None]
) -> None:
    took, floors = await asked_over(database, 1_000_000)

    proved(told(1_000_000, took, floors))
    proved(await looks_over(database))
    assert took[int(len(took) * 0.95)] < max(0.3, FLOORS_MAX * floors[len(floors) // 2])


@pytest.mark.nightly
async def test_ten_million_attempts_are_answered_from_what_is_kept(
    database: Database, proved: Callable[[str], None]
) -> None:
    """Ten times the attempts are not ten times the cells: what is kept is answered sooner than each attempt is looked at once."""
    await asyncio.to_thread(fill, database, 10_000_000)
    times: list[tuple[float, float]] = []
    pool = await connect_to_look(database.url)
    try:
        for question in [each for each in questions() if source(each) is not None]:
            begun = time.perf_counter()
            await pool.fetchval(FLOOR)
            between = time.perf_counter()
            await measure(pool, question)
            times.append((between - begun, time.perf_counter() - between))
    finally:
        pool.close()

    floors, took = (sorted(each) for each in zip(*times, strict=True))
    proved(told(10_000_000, took, floors))
    assert took[len(took) // 2] < max(0.3, floors[len(floors) // 2])
