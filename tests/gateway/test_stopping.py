"""What is told to end, ends: also where a library loses the first word."""

from __future__ import annotations

import asyncio

import pytest

from gateway import stopping
from gateway.stopping import stopped


async def test_a_task_that_loses_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "AGAIN_S", 0.01)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost == 3:
                    raise
                lost += 1

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)

    (ended,) = await asyncio.wait_for(stopped([task]), 10)

    assert lost == 3
    assert isinstance(ended, asyncio.CancelledError)


async def test_what_has_ended_by_itself_is_given_as_it_ended() -> None:
    async def works() -> str:
        return "done"

    async def fails() -> None:
        raise LookupError("gone")

    tasks = [asyncio.create_task(works()), asyncio.create_task(fails())]
    await asyncio.wait(tasks)

    done, failed = await stopped(tasks)

    assert done == "done"
    assert isinstance(failed, LookupError)
    assert await stopped([]) == []
