"""A worker that is killed at any point of sending costs nothing but a repetition."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import pytest
from aiohttp import web

from gateway import crash
from gateway.embedded import SUPERUSER

if TYPE_CHECKING:
    from tests.conftest import Database, Databases, Kit, Processes
    from tests.outbound.conftest import Kitchen, Post, Receiver

POINTS: Final = [f"outbox.{step}.{side}" for step in crash.PATHS["outbox"].steps for side in ("before", "after")]
SOME: Final = ["outbox.claim.after", "outbox.post.after", "outbox.tried.before", "outbox.notify.before"]
SLOW_S: Final = 3.0
"""Longer than a lease goes without being renewed."""


@pytest.mark.parametrize("points", [SOME, pytest.param(POINTS, marks=pytest.mark.nightly)], ids=["some", "all"])
async def test_what_a_worker_leaves_that_dies_at_any_point_is_sent_by_the_next_one(
    processes: Processes, post: Post, receiver: Receiver, kitchen: type[Kitchen], flow: type[Kit],
    proved: Callable[[str], None], points: list[str],
) -> None:  # fmt: skip
    async def slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(SLOW_S)
        return web.Response()

    receiver.answers |= {"/slow": slowly, "/gone": kitchen.answering(410)}
    well = {path: post.endpoint(receiver.url(path)) for path in ("/well", "/slow")}
    sent: dict[str, str] = {}
    gone: list[str] = []
    for point in points:
        worker = processes.command("worker", GATEWAY_CRASH_AT=point)
        if ".notify." in point or ".call_off." in point:
            gone.append(post.endpoint(receiver.url("/gone")))
            post.event(gone[-1])
        else:
            endpoint = well["/slow" if ".renew." in point else "/well"]
            sent[post.event(endpoint)] = endpoint
        assert await asyncio.to_thread(worker.wait) == -signal.SIGKILL, (point, worker.printed)
        post.due_now()
    for endpoint in gone:  # what was lost of switching it off, its next delivery finds again
        post.event(endpoint)
    processes.worker()
    await flow.eventually(lambda: post.count("due_at IS NOT NULL") == 0, "all was sent")

    assert {post.status(endpoint, event) for event, endpoint in sent.items()} == {"succeeded"}
    assert {post.standing(endpoint)["disabled_reason"] for endpoint in gone} == {"gone"}
    heard = [(each.event_id, each.body) for each in receiver.heard if each.event_id in sent]
    assert set(heard) == {(event, post.body(event)) for event in sent}
    proved(f"outbound: killed at {len(points)} points; {len(sent)} events delivered in {len(heard)} posts, none lost")


async def test_a_worker_that_is_stopped_ends_in_time_and_cleanly(
    processes: Processes, post: Post, receiver: Receiver, kitchen: type[Kitchen], flow: type[Kit]
) -> None:
    receiver.answers["/never"] = kitchen.hanging
    endpoint = post.endpoint(receiver.url("/never"))
    event = post.event(endpoint)
    worker = processes.worker()
    await flow.eventually(lambda: len(receiver.heard) == 1, "it was sent")

    worker.interrupt()

    assert await asyncio.to_thread(worker.wait) == 0, worker.printed
    assert "Traceback" not in worker.printed
    assert (post.status(endpoint, event), post.delivery(endpoint, event)["tries"]) == ("pending", 0)


@contextlib.contextmanager
def closed(database: Database, databases: Databases) -> Iterator[None]:
    """Nobody is let into the database, and who was in it is thrown out."""
    name = database.value("SELECT current_database()")
    outside = dataclasses.replace(database, admin_url=databases.server.url("postgres", role=SUPERUSER))
    outside.rows(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    outside.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s", name=name)
    try:
        yield
    finally:
        outside.rows(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")


async def test_a_worker_that_loses_its_database_sends_on_when_it_is_back(
    processes: Processes, post: Post, receiver: Receiver, flow: type[Kit], databases: Databases
) -> None:
    endpoint = post.endpoint(receiver.url())
    first, worker = post.event(endpoint), processes.worker()
    await flow.eventually(lambda: post.status(endpoint, first) == "succeeded", "it sends")

    with closed(post.database, databases):
        await flow.eventually(lambda: "outbox_interrupted" in worker.printed, "the outbox has noticed")
    second = post.event(endpoint)
    await flow.eventually(lambda: post.status(endpoint, second) == "succeeded", "it sends again")

    assert worker.is_alive()
