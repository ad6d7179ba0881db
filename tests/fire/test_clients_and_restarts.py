"""Clients hang up, servers are told to stop, clocks are wrong: every key charges once, and nothing is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Server
    from tests.fire.conftest import Fire

TEN_MINUTES = 600

WRONG_CLOCK = """
import datetime, sys, time
shift, true = float(sys.argv.pop(1)), time.time
time.time = lambda: true() + shift
import gateway.app
class Wrong(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=shift)
gateway.app.datetime = Wrong
from gateway.cli import app
app(prog_name="gateway")
"""
"""A process whose clock is wrong: its Python's ``time.time`` and the one ``datetime.now`` that the gateway reads.

It needs no tool of the machine, as libfaketime would, and reaches all that matters here: leases go by the database's clock, and
time-outs by a clock that nobody can set.
"""


async def test_clients_that_hang_up_in_the_middle_of_a_charge_change_nothing(fire: Fire) -> None:
    """Six in ten hang up, half of those never come back: their payments are as decided as the others."""
    await fire.open()
    dice = random.Random(fire.size.seed)
    wanted = [
        dataclasses.replace(order, leaves_after_s=dice.uniform(0.002, 0.12), comes_back=dice.random() < 0.5)
        if dice.random() < 0.6
        else order
        for order in fire.orders()
    ]

    async def nothing(fire: Fire) -> None:
        """The clients are trouble enough."""

    await fire.burn("clients hang up", nothing, fire.ALWAYS, wanted=wanted)
    assert fire.merchants.seen["hung up"] > len(wanted) // 10


async def test_a_server_that_is_told_to_stop_finishes_its_calls(fire: Fire) -> None:
    fire.latency_ms = 500
    await fire.open()

    async def stopped(fire: Fire) -> None:
        fire.remarks.append(await fire.stop(fire.servers[-1]))
        await fire.add_server()

    await fire.burn("a server is told to stop", stopped, fire.SERVER_LOST)


async def test_calls_that_a_stopping_server_does_not_wait_for_are_settled_afterwards(fire: Fire) -> None:
    """It waits for two seconds, and the PSPs take three: the calls are cut off in the middle."""
    fire.latency_ms, fire.slow = 3000, "authorize"
    fire.settings = {"GATEWAY_DEV": "1"}
    await fire.open()

    async def stopped(fire: Fire) -> None:
        fire.remarks.append(await fire.stop(fire.servers[-1]))
        await fire.add_server()

    allowed = fire.SERVER_LOST | {"504 outcome_in_doubt"}
    await fire.burn("a server stops before its calls end", stopped, allowed)

    assert fire.merchants.seen["504 outcome_in_doubt"] > 0


async def test_a_rolling_restart_under_load_is_only_a_connection_to_be_made_again(fire: Fire) -> None:
    """New ones are started, old ones told to stop, the worker too. The one that hears the webhooks comes last."""
    await fire.open()

    async def rolled(fire: Fire) -> None:
        hears_webhooks, *old = fire.servers
        new = await fire.add_server()
        fire.merchants.go.set()
        begun = fire.merchants.begun
        await fire.merchants.until(lambda: fire.merchants.begun >= begun + 20, "orders go on")
        for server in old:
            fire.remarks.append(await fire.stop(server))
        worker = fire.workers.pop()
        fire.start_worker()
        await asyncio.to_thread(worker.stop)
        fire.remarks.append(await fire.stop(hears_webhooks))
        hears_webhooks.process.start()
        await fire.ready(hears_webhooks)
        fire.merchants.urls.append(hears_webhooks.url)
        fire.servers = [hears_webhooks, new]

    # Each restart takes seconds, and the orders are to last for all of them.
    rate = 30.0 if fire.size.losses > 1 else 90.0
    await fire.burn("rolling restart", rolled, fire.SERVER_LOST, rate=rate, held_from=0.4)


async def test_clocks_twenty_minutes_apart_change_nothing(fire: Fire) -> None:
    """One server is right and hears the webhooks, one is ten minutes ahead, one ten minutes behind."""

    def misled(number: int, server: Server) -> None:
        if number:
            shift = TEN_MINUTES if number == 1 else -TEN_MINUTES
            words = ["-c", WRONG_CLOCK, str(shift), "serve", "--port", str(server.port)]
            server.process = type(server.process)(words, server.process._env, server.process.log)
            fire.processes.started[-1] = server.process

    fire.settings = {**fire.settings, "GATEWAY_ON_CLOCK_SKEW": "fail_open"}  # else those two would not be ready
    await fire.open(3, prepared=misled)
    fire.clocks_off_s = TEN_MINUTES

    async def nothing(fire: Fire) -> None:
        """The clocks are trouble enough."""

    await fire.burn("clocks ten minutes ahead and behind", nothing, fire.ALWAYS)

    ahead, behind = (
        fire.database.value(f"SELECT count(*) FROM payment WHERE created_at {off}")
        for off in ("> now() + interval '5 min'", "< now() - interval '9 min'")
    )
    assert min(ahead, behind) > fire.size.payments // 5
