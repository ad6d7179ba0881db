"""The loop of the simulations, and the database's virtual clock."""

from __future__ import annotations

import asyncio
import inspect
from datetime import timedelta

import pytest

from tests.simulation.loop import Deadlock, Host, SimLoop
from tests.simulation.postgres import EPOCH, Stage


def lived(seed: int) -> tuple[list[int], int]:
    """The order in which five tasks get their turns, and the run's digest."""
    loop, turns = SimLoop(seed), []

    async def task(number: int) -> None:
        for _ in range(4):
            turns.append(number)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(task(number) for number in range(5)))

    loop.run_until_complete(main())
    loop.close()
    return turns, loop.digest


def test_the_seed_draws_the_order() -> None:
    assert lived(1) == lived(1)
    assert lived(1)[0] != lived(2)[0]


def test_a_day_takes_no_time_and_what_waits_less_comes_first() -> None:
    loop, woke = SimLoop(1), []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woke.append(loop.time())

    async def main() -> None:
        await asyncio.gather(sleeper(86_400), sleeper(3), sleeper(600))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(60)

    loop.run_until_complete(main())
    loop.close()

    assert woke == [3, 600, 86_400]
    assert loop.now == 86_410


def test_what_is_killed_never_runs_again_not_even_to_clean_up() -> None:
    loop, host, seen = SimLoop(1), Host("victim"), []

    async def victim() -> None:
        seen.append("begun")
        try:
            await asyncio.sleep(1)
        except BaseException:
            seen.append("told")
            raise
        finally:
            seen.append("cleaned up")

    async def main() -> None:
        loop.start_on(host, victim())
        await asyncio.sleep(0.5)
        host.alive = False
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert seen == ["begun"]

    loop.bury([host])
    loop.close()


def test_what_is_stalled_goes_on_later() -> None:
    loop, host, at = SimLoop(1), Host("slow"), []

    async def slow() -> None:
        await asyncio.sleep(1)
        at.append(loop.time())

    async def main() -> None:
        loop.start_on(host, slow())
        await asyncio.sleep(0.5)
        host.stalled_until = 30.0
        await asyncio.sleep(60)

    loop.run_until_complete(main())
    loop.close()

    assert at == [30.0]


def test_waiting_for_what_never_comes_is_an_error() -> None:
    loop = SimLoop(1)

    async def main() -> None:
        await loop.create_future()

    with pytest.raises(Deadlock):
        loop.run_until_complete(main())
    loop.bury([])
    loop.close()


def test_what_ends_before_it_began_takes_along_what_it_was_to_await() -> None:
    """Else Python would warn of it, in whichever test the collector next comes by."""
    loop = SimLoop(1)

    async def innermost() -> None:
        raise AssertionError("it never begins")

    async def outer() -> None:
        await given

    async def main() -> None:
        loop.start_on(None, outer())

    given = innermost()
    loop.run_until_complete(main())
    loop.bury([])
    loop.close()

    assert inspect.getcoroutinestate(given) == inspect.CORO_CLOSED


def test_the_databases_clock_is_the_simulations_for_statements_that_were_prepared_before(stage: Stage) -> None:
    told = [
        stage.execute(0, EPOCH + timedelta(days=days), "SELECT now() AS now, now() + interval '1 day' AS tomorrow", ())[
            0
        ]
        for days in (0, 1, 30)
    ]

    assert [row["now"] for row in told] == [EPOCH + timedelta(days=days) for days in (0, 1, 30)]
    assert [row["tomorrow"] for row in told] == [EPOCH + timedelta(days=days + 1) for days in (0, 1, 30)]
