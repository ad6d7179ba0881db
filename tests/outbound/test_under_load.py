"""Many events to many endpoints, some of them sick, through workers that are killed: everybody gets everything, and the well get it soon."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
from aiohttp import web

from gateway.ids import EVENT, new_id
from webhooks.egress import TOTAL_S

if TYPE_CHECKING:
    from tests.conftest import Database, Processes
    from tests.outbound.conftest import Kitchen, Post, Receiver

ENDPOINTS: Final = 20
RATE: Final = 100
"""Events a second."""
SHADOW_S: Final = 10.0
"""After a kill, what was in hand waits for its lease, and a new worker takes seconds to start."""
PATIENCE_S: Final = 300.0


async def emit(
    database: Database, endpoints: list[str], number: int, tenths: Callable[[int], None]
) -> dict[str, float]:
    """Write events with their deliveries, evenly over time and endpoints; when each was written. ``tenths`` is told of every tenth."""
    began, written = asyncio.get_running_loop().time(), dict[str, float]()
    turns = itertools.cycle(endpoints)
    connection = await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True)
    async with connection:
        for count in range(number):
            await asyncio.sleep(began + count / RATE - asyncio.get_running_loop().time())
            if count % (number // 10) == 0:
                tenths(count // (number // 10))
            event, endpoint = new_id(EVENT), next(turns)
            body = json.dumps({"id": event, "type": "payment.succeeded", "data": {"filler": "x" * (count % 4000)}})
            written[event] = asyncio.get_running_loop().time()
            await connection.execute(
                "WITH e AS (INSERT INTO event (id, merchant_id, livemode, type, body, created_at)"
                " VALUES (%(event)s, 'mer_dev', false, 'payment.succeeded', %(body)s, now()))"
                " INSERT INTO delivery VALUES (%(endpoint)s, %(event)s, 'pending', 0, now(), now())",
                {"event": event, "endpoint": endpoint, "body": body.encode()},
            )
    return written


@pytest.mark.parametrize("number", [1500, pytest.param(10_000, marks=pytest.mark.nightly)])
async def test_every_event_arrives_through_two_kills_and_sick_endpoints_keep_nobody_waiting(
    number: int, processes: Processes, post: Post, receiver: Receiver, kitchen: type[Kitchen],
    database: Database, proved: Callable[[str], None],
) -> None:  # fmt: skip
    well = asyncio.Event()

    async def hanging(_: web.Request) -> web.Response:
        await well.wait()
        return web.Response()

    receiver.answers |= {"/0": hanging, "/1": kitchen.answering(500)}
    endpoints = [post.endpoint(receiver.url(f"/{each}")) for each in range(ENDPOINTS)]
    worker, loop, kills = processes.worker(), asyncio.get_running_loop(), list[float]()
    while "worker_started" not in worker.printed:
        assert worker.is_alive(), worker.printed
        await asyncio.sleep(0.05)  # a process has no event

    def on_tenth(tenth: int) -> None:
        nonlocal worker
        if tenth in {3, 7}:
            kills.append(loop.time())
            worker.kill()
            worker = processes.worker()

    written = await emit(database, endpoints, number, on_tenth)
    sick = {f"/{each}" for each in (0, 1)}
    await _all_but(post, endpoints[:2])
    first: dict[str, float] = {}
    for heard in receiver.heard:
        if heard.path not in sick:
            first.setdefault(heard.event_id, heard.at - written[heard.event_id])
    receiver.answers.clear()
    well.set()
    deadline = time.monotonic() + PATIENCE_S
    while post.count("status = 'pending'"):
        assert time.monotonic() < deadline, "it was never delivered"
        post.database.rows(
            "UPDATE delivery SET due_at = now() WHERE tries > 0 AND due_at > now() + interval '10 seconds'"
        )
        await asyncio.sleep(1.0)

    assert post.count("status = 'succeeded'") == number
    bodies = defaultdict[str, set[bytes]](set)
    for heard in receiver.heard:
        bodies[heard.event_id].add(heard.body)
    assert bodies.keys() == written.keys()
    stored = {row["id"]: bytes(row["body"]) for row in database.rows("SELECT id, body FROM event")}
    assert all(bodies[event] == {stored[event]} for event in written), "the same bytes under the same id, at every try"
    calm = sorted(
        delay for event, delay in first.items() if not any(0 <= written[event] - kill < SHADOW_S for kill in kills)
    )
    assert _quantile(calm, 0.99) < TOTAL_S, "nobody waited until a hanging endpoint was given up"
    proved(
        f"outbound: {number} events at {RATE}/s to {ENDPOINTS} endpoints, one hanging and one failing, {len(kills)} kills: all delivered"
        f" in {len(receiver.heard)} posts; first delivery p50 {_quantile(calm, 0.5):.2f} s, p99 {_quantile(calm, 0.99):.2f} s"
        f" outside {SHADOW_S:.0f} s after a kill ({len(calm)} events), {max(first.values()):.1f} s at most within"
    )


async def _all_but(post: Post, sick: list[str]) -> None:
    """Wait until all but the sick have everything."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        (row,) = post.database.rows(
            "SELECT count(*) AS n FROM delivery WHERE status = 'pending' AND endpoint_id <> ALL(%(sick)s)", sick=sick
        )
        if row["n"] == 0:
            return
        assert time.monotonic() < deadline, "it was never delivered"
        await asyncio.sleep(0.2)


def _quantile(sorted_values: list[float], share: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))] if sorted_values else 0.0
