"""The worker: procrastinate is the clock, the business rows are the queue.

A periodic task claims what is due and calls the functions of ``gateway.sweep`` and the inbox; so there is never a job a payment.
Any number of workers may run: the rows' leases and ``SKIP LOCKED`` keep them apart.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

import procrastinate
import structlog
from procrastinate.jobs import Status

from gateway import crash, rate_books, shadow, uplift
from gateway.app import House, check, open_house, told
from gateway.backlog import Backlog
from gateway.deps import Deps
from gateway.guard import guard
from gateway.metrics import exposition
from gateway.metrics.work import WorkInstruments
from gateway.monitoring import Monitoring
from gateway.news import wake
from gateway.settings import Settings
from gateway.simulations import SimulationBooks, simulate
from gateway.sql import Pool
from gateway.stopping import stopped
from gateway.sweep import end_abandoned, end_lapsed, end_parked, honour_cancels, retry_due, sweep, wipe
from webhooks.inbox import Inbox
from webhooks.outbox import Outbox

INBOX_BATCH: Final = 100
INBOX_BATCHES: Final = 50
"""A backlog is worked off in one run, as far as it goes; the next run begins two seconds later."""
SETTLE_EVERY: Final = "* * * * * */2"
"""Every two seconds: an unknown outcome is first looked at two seconds after it was recorded."""
MONITORS_EVERY: Final = "* * * * * */{}"
COUNT_EVERY: Final = "* * * * * */2"
"""Every two seconds: what happened is in the rates within five."""
SIMULATE_EVERY: Final = "* * * * * */2"
GUARD_EVERY: Final = "*/5 * * * *"
DISCARD_EVERY: Final = "17 4 * * *"
TIDY_EVERY: Final = "* * * * * */15"
STOP_S: Final = 1.5
"""How long a running task may take once the worker is told to stop; what it leaves is picked up by its lease."""
CONNECT_S: Final = 3.0
"""How long procrastinate waits for a connection; its own half a minute would be half a minute in which nothing is settled."""
AGAIN_S: Final = 1.0
"""How long after it was interrupted the worker starts again: Postgres needs about that to come back from a crash."""

log = structlog.get_logger()


async def run_worker(settings: Settings) -> None:
    """Work until told to stop (SIGINT, SIGTERM). Raises :class:`providers.registry.ConfigError` before it starts.

    Postgres may come and go: procrastinate's worker ends when it loses it, and then another one is started until there is one
    that stays. A worker that had ended would leave every open operation and every stored webhook to nobody.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    async with open_house(settings) as house, _metrics(house, settings):
        await check(house)
        work = WorkInstruments(house.registry)
        await house.deps.in_force.start(house.deps.clock())
        await house.deps.learned.start()
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, stop.set)
        log.info("worker_started")
        sending = asyncio.create_task(_send(house.outbox, stop))
        reading = [
            asyncio.create_task(house.deps.in_force.run(house.deps.clock)),
            asyncio.create_task(house.deps.learned.run()),
            asyncio.create_task(Backlog(house.pool, work, house.deps.accounts).run()),
        ]
        try:
            while not stop.is_set():
                await _until(stop, _work(house, settings, work))
                if not stop.is_set():
                    log.error("worker_interrupted", again_in_s=AGAIN_S)
                    await _until(stop, asyncio.sleep(AGAIN_S))
        finally:
            stop.set()
            await stopped(reading)
            await sending


def _metrics(house: House, settings: Settings) -> AbstractAsyncContextManager[None]:
    """What the worker tells Prometheus, served where the settings say."""
    if settings.worker_metrics_port == 0:
        return nullcontext()
    return exposition.served(settings.worker_metrics_host, settings.worker_metrics_port, lambda: told(house))


async def _send(outbox: Outbox, stop: asyncio.Event) -> None:
    """Send what merchants are told, until told to stop. It has its own clock, half a second, and needs nothing of procrastinate."""
    sending, told = asyncio.create_task(_sending(outbox)), asyncio.create_task(stop.wait())
    await asyncio.wait({sending, told}, return_when=asyncio.FIRST_COMPLETED)
    outbox.stop()
    await asyncio.wait({sending}, timeout=2 * STOP_S)  # a Postgres that is frozen must not keep the process
    for result in await stopped([sending, told]):
        if isinstance(result, Exception):
            log.error("sending_failed", error=type(result).__name__)


async def _sending(outbox: Outbox) -> None:
    await crash.on_path("outbox", outbox.run)()


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end, or cancel it once told to stop and wait until it has. What it raises is logged and no more."""
    working, told = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for result in await stopped([working, told]):
            if isinstance(result, Exception):
                log.error("worker_failed", error=type(result).__name__)


async def _work(house: House, settings: Settings, work: WorkInstruments) -> None:
    """One run of procrastinate's worker, on connections of its own."""
    connector = procrastinate.PsycopgConnector(
        conninfo=settings.database_url.get_secret_value(),
        kwargs={"options": "-c search_path=procrastinate,public"},
        min_size=1,
        max_size=4,
        timeout=CONNECT_S,
    )
    app = procrastinate.App(connector=connector)
    _schedule(app, house, settings, work)
    async with app.open_async():
        await app.run_worker_async(
            concurrency=5,  # one of them may be at a simulation for minutes
            delete_jobs="always",
            shutdown_graceful_timeout=STOP_S,
            fetch_job_polling_interval=1.0,
            install_signal_handlers=False,
        )


Job = Callable[[], Awaitable[object]]


def jobs(deps: Deps, inbox: Inbox, pool: Pool) -> Mapping[str, tuple[str, Job]]:
    """What the worker does by the clock, on the business rows: each job by its name, with its cron line.

    A job's name is the path of the crash points that it passes.
    """

    async def apply_due() -> None:
        for _ in range(INBOX_BATCHES):
            if await inbox.apply_due(deps.accounts, INBOX_BATCH) < INBOX_BATCH:
                return

    async def inbound() -> None:
        await apply_due()
        if await wake(pool):
            await apply_due()

    work: Mapping[str, tuple[str, Job]] = {
        "settle": (SETTLE_EVERY, lambda: sweep(deps)),
        "inbound": (SETTLE_EVERY, inbound),
        "cancels": (SETTLE_EVERY, lambda: honour_cancels(deps)),
        "abandoned": (TIDY_EVERY, lambda: end_abandoned(deps)),
        "lapsed": (TIDY_EVERY, lambda: end_lapsed(deps)),
        "retries": (SETTLE_EVERY, lambda: retry_due(deps)),
        "parked": (TIDY_EVERY, lambda: end_parked(deps)),
        "uplift": (TIDY_EVERY, lambda: uplift.watch(deps)),
        "shadow": (TIDY_EVERY, lambda: shadow.count(deps)),
        "wipe": (TIDY_EVERY, lambda: wipe(deps)),
        "learn": (TIDY_EVERY, deps.learned.save),
    }
    return {name: (cron, crash.on_path(name, job)) for name, (cron, job) in work.items()}


def outbound_jobs(outbox: Outbox) -> Mapping[str, tuple[str, Job]]:
    """What is done by the clock about endpoints and events, in the form of :func:`jobs`. Sending has a loop of its own."""
    work: Mapping[str, tuple[str, Job]] = {
        "notify": (TIDY_EVERY, outbox.notify),
        "call_off": (TIDY_EVERY, outbox.call_off),
        "prune": (TIDY_EVERY, outbox.prune),
    }
    return {name: (cron, crash.on_path(name, job)) for name, (cron, job) in work.items()}


def routing_jobs(deps: Deps, pool: Pool, database_url: str) -> Mapping[str, tuple[str, Job]]:
    """What is done by the clock about simulations, in the form of :func:`jobs`. The arithmetic is done by a process of its own."""
    books = SimulationBooks(pool)

    def order(merchant_id: str, livemode: bool) -> list[str]:  # noqa: FBT001  # as :data:`gateway.simulations.Order`
        return [account.name for account in deps.accounts_of(merchant_id, livemode=livemode)]

    work: Mapping[str, tuple[str, Job]] = {
        "simulations": (SIMULATE_EVERY, lambda: simulate(books, database_url, order)),
        "discard": (DISCARD_EVERY, books.discard),
    }
    return {name: (cron, crash.on_path(name, job)) for name, (cron, job) in work.items()}


def counting_jobs(deps: Deps, pool: Pool, looking: Pool, monitors_every_s: int = 30) -> Mapping[str, tuple[str, Job]]:
    """What is counted by the clock and judged of it, in the form of :func:`jobs`. No payment waits for it."""
    work: Mapping[str, tuple[str, Job]] = {
        "rates": (COUNT_EVERY, lambda: rate_books.fold(pool)),
        "monitors": (MONITORS_EVERY.format(monitors_every_s), Monitoring(pool, looking, deps.clock).look),
    }
    return {name: (cron, crash.on_path(name, job)) for name, (cron, job) in work.items()}


def _schedule(app: procrastinate.App, house: House, settings: Settings, told_of: WorkInstruments) -> None:
    database_url = settings.database_url.get_secret_value()
    done = {
        **jobs(house.deps, house.inbox, house.pool),
        **outbound_jobs(house.outbox),
        **routing_jobs(house.deps, house.pool, database_url),
        **counting_jobs(house.deps, house.pool, house.looking, settings.monitors_every_s),
    }
    for name, (cron, work) in done.items():
        _every(app, name, work, cron, told_of)
    _every(app, "bury", lambda: _bury(app), TIDY_EVERY, told_of)
    _every(app, "guard", lambda: guard(told_of), GUARD_EVERY, told_of)


def _every(app: procrastinate.App, name: str, work: Job, cron: str, told_of: WorkInstruments) -> None:
    """Run ``work`` by the clock. A run that takes long is not overtaken by the next one of this process.

    There is no lock in the database: it would outlive a worker that was killed, and then nobody would ever run this again.
    """
    running = asyncio.Lock()
    told_of.task_failures.labels(name)  # from the start, so that the first one is a rise

    async def task(timestamp: int) -> None:
        if running.locked():
            return
        async with running:
            try:
                with told_of.task_seconds.labels(name).time():
                    await work()
            except Exception as error:  # the next run tries again; a failed job would only be a second record of it
                log.error("task_failed", task=name, error=type(error).__name__)
                told_of.task_failures.labels(name).inc()
            else:
                told_of.task_succeeded.labels(name).set(time.time())

    registered = app.task(name=name, queueing_lock=name)(task)
    app.periodic(cron=cron, periodic_id=name)(registered)


async def _bury(app: procrastinate.App) -> None:
    """Remove the runs of workers that were killed. What they were at is found again by the rows' own leases."""
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)
