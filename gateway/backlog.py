"""The backlog: what a worker finds waiting in the database, every few seconds, for Prometheus alone.

Only a worker looks: what the rows tell is the same wherever it is asked, and a sum over processes must count it once. While no worker
runs nobody looks; the API processes tell that (``gateway.watch``), and how long what waits for a worker has been waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

import structlog

from gateway.metrics.work import QUEUES, SEVERITIES, WorkInstruments
from gateway.sql import Pool
from webhooks.outbox import AGAIN, FRESH

LOOK_S: Final = 3.0
"""Seconds between two looks."""
COUNTED_MAX: Final = 10_000
"""More of anything are not counted: the number says enough."""

UNKNOWN: Final = """SELECT account, count(*) AS waiting, extract(epoch FROM now() - min(created_at))::float8 AS oldest_s
    FROM operation WHERE due_at IS NOT NULL AND status = 'unknown' GROUP BY account"""
"""What is unknown stays due until it is known, also before a person: so the index of what is due finds all of it."""
WAITING: Final = f"""SELECT
    (SELECT count(*) FROM (SELECT FROM operation WHERE due_at <= now() LIMIT $1::int) AS due) AS operations,
    (SELECT count(*) FROM (SELECT FROM webhook_inbox WHERE due_at <= now() LIMIT $1::int) AS due) AS inbound,
    (SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 FROM webhook_inbox WHERE due_at <= now()) AS inbound_s,
    (SELECT count(*) FROM (
    (SELECT FROM delivery WHERE {FRESH} LIMIT $1::int) UNION ALL
    (SELECT FROM delivery WHERE {AGAIN} LIMIT $1::int)) AS waiting) AS outbound,
    (SELECT coalesce(extract(epoch FROM now() - min(first.due_at)), 0)::float8 FROM webhook_endpoint w CROSS JOIN LATERAL
    (SELECT due_at FROM delivery WHERE endpoint_id = w.id AND {FRESH} ORDER BY due_at LIMIT 1) AS first
    WHERE w.status = 'enabled' AND w.failing_since IS NULL AND (w.paused_until IS NULL OR w.paused_until <= now())) AS outbound_s,
    (SELECT count(*) FROM (SELECT FROM incident WHERE closed_at IS NULL LIMIT $1::int) AS open) AS incidents,
    (SELECT count(*) FROM (SELECT FROM monitor_incident WHERE closed_at IS NULL AND told_at IS NOT NULL AND severity = 'page'
        LIMIT $1::int) AS open) AS page,
    (SELECT count(*) FROM (SELECT FROM monitor_incident WHERE closed_at IS NULL AND told_at IS NOT NULL AND severity = 'ticket'
        LIMIT $1::int) AS open) AS ticket"""
"""So many are counted of each, and not one row more; what is late of deliveries takes one step in the index for each endpoint that works."""

log = structlog.get_logger()


class Backlog:
    """Looks, again and again, and sets the instruments of one worker. ``accounts`` are told of from the start, by their names."""

    def __init__(self, pool: Pool, instruments: WorkInstruments, accounts: Iterable[str]) -> None:
        self._pool = pool
        self._instruments = instruments
        self._accounts = set(accounts)
        self._blind = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once. Never raises: what cannot be seen now stays as it was, and the heartbeat with it."""
        try:
            await self._look()
        except Exception as error:  # whatever it is: the heartbeat that stands still tells it
            if not self._blind:
                log.warning("backlog_not_seen", error=type(error).__name__)
            self._blind = True
        else:
            self._blind = False
            self._instruments.heartbeat.set(time.time())

    async def _look(self) -> None:
        tell = self._instruments
        unknown = {row["account"]: row for row in await self._pool.fetch(UNKNOWN)}
        self._accounts |= unknown.keys()
        for account in self._accounts:
            tell.unknown.labels(account).set(unknown[account]["waiting"] if account in unknown else 0)
        tell.unknown_oldest_seconds.set(max([0.0, *(row["oldest_s"] for row in unknown.values())]))
        row = await self._pool.fetchrow(WAITING, COUNTED_MAX)
        if row is None:
            raise AssertionError("a row of counts is always there")
        for queue in QUEUES:
            tell.queue_depth.labels(queue).set(row[queue])
        tell.inbound_overdue_seconds.set(row["inbound_s"])
        tell.deliveries_pending.set(row["outbound"])
        tell.deliveries_overdue_seconds.set(max(0.0, row["outbound_s"]))
        tell.incidents_open.set(row["incidents"])
        for severity in SEVERITIES:
            tell.monitor_incidents_open.labels(severity).set(row[severity])
