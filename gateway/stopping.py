"""Ending what runs beside: a task that is told to end, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

AGAIN_S: Final = 2.0
"""How long a task may take to end before it is cancelled again. A task of procrastinate's takes 1.5 s."""


async def stopped(tasks: Collection[asyncio.Task[Any]]) -> list[Any]:
    """Cancel tasks until each has ended, and give what each has returned or raised. May be called with tasks that have ended.

    Once is not enough: ``asyncio.wait_for`` of Python 3.11 loses a cancellation that comes when what it waits for is just done
    (https://github.com/python/cpython/issues/86296), and redis-py waits like that for each command it sends.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    return await asyncio.gather(*tasks, return_exceptions=True)
