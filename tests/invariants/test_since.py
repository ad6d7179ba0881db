"""What is older than ``--since`` is left out, and not read past either: the rest is found by its age."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.invariants import check_invariants
from gateway.verify import reading

if TYPE_CHECKING:
    from tests.conftest import Kit
    from tests.invariants.conftest import Mixed

SPREAD: Final = """SET session_replication_role = replica;
UPDATE idempotency_key k SET created_at = now() - n * interval '70 minutes'
    FROM (SELECT key, row_number() OVER (ORDER BY key) / 4 AS n FROM idempotency_key) numbered WHERE numbered.key = k.key;
UPDATE webhook_inbox SET received_at = now() - ((SELECT max(id) FROM webhook_inbox) - id) * interval '20 minutes'"""
"""Four keys at the same instant, then 70 minutes nothing; an event every 20 minutes."""


@pytest.mark.parametrize("page", [1, 2, 3, 7, 1000])
async def test_newer_keys_and_events_are_read_once_each_whatever_the_page(page: int, mixed: Mixed) -> None:
    mixed.database.rows(SPREAD)
    now = datetime.now(UTC)
    for hours in (0, 3, 8, 24 * 365):
        since = now - timedelta(hours=hours, minutes=1)
        async with reading(mixed.database.url) as db:
            report = await check_invariants(db, at_rest=True, since=since, page=page)
        spread = {"idempotency_key": "created_at", "webhook_inbox": "received_at"}
        for table, column in (spread | {"payment": "created_at"}).items():
            count = mixed.database.value(f"SELECT count(*) FROM {table} WHERE {column} >= '{since.isoformat()}'")
            assert report.rows.get(table, 0) == count, (table, hours)
            assert count or (table, hours) == ("payment", 0)


async def test_nothing_is_told_otherwise_because_older_ones_are_left_out(mixed: Mixed, flow: type[Kit]) -> None:
    async with reading(mixed.database.url) as db:
        whole, newer = [
            await check_invariants(db, mixed.outside, at_rest=True, grace_s=5, keyring=flow.keyring(), since=since)
            for since in (None, datetime.now(UTC) - timedelta(hours=1))
        ]

    assert whole == newer
    assert whole.clean


OLD: Final = 20_000
AGE_MS: Final = f"(extract(epoch FROM now())::bigint - 86400 * 30 + n * (86400 * 29 / {OLD})) * 1000"
"""A month's rows, and none of the last day."""
FILL: Final = f"""
SET session_replication_role = replica;
CREATE TEMP TABLE old AS SELECT n, to_timestamp({AGE_MS} / 1000) AS at, lpad(to_hex({AGE_MS}), 12, '0') || lpad(to_hex(n), 20, '0') AS id
    FROM generate_series(1, {OLD}) n;
INSERT INTO payment SELECT r.* FROM payment p, old,
    LATERAL jsonb_populate_record(p, jsonb_build_object('id', 'pay_' || old.id, 'created_at', at)) r
    WHERE p.id = (SELECT min(id) FROM payment);
INSERT INTO idempotency_key (merchant_id, livemode, key, fingerprint, payment_id, created_at)
    SELECT 'mer_dev', false, old.id, decode(repeat('ab', 1000), 'hex'), 'pay_' || old.id, at FROM old ORDER BY n;
INSERT INTO webhook_inbox (account, event_id, type, sealed_body, position, received_at, tries)
    SELECT 'stripe', old.id, 't', '', 0, at, 0 FROM old ORDER BY n;
UPDATE webhook_inbox SET received_at = '2020-01-01', applied_at = now() WHERE id <= (SELECT min(id) FROM webhook_inbox WHERE type = 't');
INSERT INTO webhook_inbox (account, event_id, type, sealed_body, position, received_at, tries, applied_at)
    VALUES ('stripe', 'newest', 'u', '', 0, now(), 0, now());
SELECT brin_summarize_new_values('idempotency_key_by_age');
ANALYZE payment, idempotency_key, webhook_inbox
"""


@dataclass
class Explained:
    """A reader that has every statement explained before it runs."""

    db: Any
    scans: dict[str, set[str]] = field(default_factory=dict)
    """How the tables that are walked through were read, by table."""
    read: int = 0

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        (row,) = await self.db.fetch(f"EXPLAIN (FORMAT JSON) {query}", *args)
        for node in _nodes(json.loads(row["QUERY PLAN"])[0]["Plan"]):
            table = node.get("Relation Name", "")
            # What is joined to a page is looked up row by row, or read whole where the table is as small as here.
            if table == "idempotency_key" or f" FROM {table} p WHERE" in query or table == "webhook_inbox":
                self.scans.setdefault(table, set()).add(node["Node Type"])
        rows: list[Any] = await self.db.fetch(query, *args)
        self.read += len(rows)
        return rows


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


async def test_no_table_is_read_whole_to_leave_most_of_it_out(mixed: Mixed) -> None:
    mixed.database.rows(FILL)

    async with reading(mixed.database.url) as db:
        explained = Explained(db)
        report = await check_invariants(explained, at_rest=False, since=datetime.now(UTC) - timedelta(hours=12))

    assert report.rows["payment"] == mixed.payments
    assert report.rows["webhook_inbox"] == 1
    assert report.clean, report.violations
    assert explained.scans["idempotency_key"] >= {"Bitmap Heap Scan"}
    assert explained.scans.keys() == {"payment", "idempotency_key", "webhook_inbox"}
    assert not any("Seq Scan" in kinds for kinds in explained.scans.values()), explained.scans
    assert explained.read < 1000
