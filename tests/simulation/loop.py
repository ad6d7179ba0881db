"""An event loop for simulations: the next step is drawn from a seed, time is virtual, and a host can be killed between two steps.

Time stands still while anything can run and then jumps to the next timer, so a day costs nothing. Everything that a simulated
process does runs in a context that names it (:data:`HOST`). A killed host's steps never run again: no ``finally``, no ``except``,
as after ``kill -9``. A stalled host's steps wait, as after ``SIGSTOP`` or a long pause of its machine.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import inspect
import random
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

T = TypeVar("T")

PRUNE_AT: Final = 256
CLOSINGS_MAX: Final = 50
"""How often a coroutine is told to end before it is taken for one that never will."""


@dataclass(eq=False)
class Host:
    """One incarnation of a simulated process."""

    name: str
    alive: bool = True
    stalled_until: float = 0.0
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    """All of its tasks, kept although it is dead: a task that is collected would run its ``finally``."""
    prune_at: int = PRUNE_AT

    def keep(self, task: asyncio.Task[Any]) -> None:
        self.tasks.append(task)
        if len(self.tasks) > self.prune_at:
            self.tasks = [each for each in self.tasks if not each.done()]
            self.prune_at = PRUNE_AT + 2 * len(self.tasks)


HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("HOST", default=None)


def _nothing(host: Host) -> None:
    pass


class Deadlock(Exception):
    """Nothing can run and no timer is set, but somebody still waits."""


class SimLoop(asyncio.BaseEventLoop):
    """A seeded scheduler with a virtual clock. ``digest`` tells one run from another."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.set_debug(False)
        self.now = 0.0
        self.steps = 0
        self.digest = 0
        self.before: Callable[[Host], None] = _nothing
        """Told before every step of a host, which may be its last."""
        self._rng = random.Random(seed)
        self._runnable: list[asyncio.Handle] = []
        self._grave: list[asyncio.Handle] = []
        self._buried: list[asyncio.Task[Any]] = []
        self._outside: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make)

    # --- what asyncio asks of a loop ---

    def time(self) -> float:
        return self.now

    def _write_to_self(self) -> None:
        """Nobody sleeps in a system call here."""

    def _process_events(self, event_list: object) -> None:
        """There are no sockets here."""

    def _run_once(self) -> None:
        runnable = self._runnable
        ready: Any = self._ready  # type: ignore[attr-defined]  # BaseEventLoop's own queue
        if ready:
            runnable.extend(ready)
            ready.clear()
        if not runnable:
            self._jump()
            if not runnable:
                return
        count = len(runnable)
        at = int(self._rng.random() * count)
        handle: Any = runnable[at]
        runnable[at] = runnable[-1]
        runnable.pop()
        if handle._cancelled:
            return
        host = handle._context.get(HOST)
        if host is not None:
            if not host.alive:
                self._grave.append(handle)
                return
            if host.stalled_until > self.now:
                self.call_at(host.stalled_until, self._again, handle, context=_OUTSIDE)
                return
            self.before(host)
            if not host.alive:
                self._grave.append(handle)
                return
        self.steps += 1
        self.digest = (self.digest * 1_000_003 ^ at ^ count << 20 ^ int(self.now * 1e6) << 32) & 0xFFFF_FFFF_FFFF_FFFF
        handle._run()

    def _again(self, handle: asyncio.Handle) -> None:
        self._runnable.append(handle)

    def _jump(self) -> None:
        """On to the next timer of a living host, and everything that is due with it."""
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]  # BaseEventLoop's own heap
        while timers:
            timer = timers[0]
            host = timer._context.get(HOST)
            if timer._cancelled or (host is not None and not host.alive):
                heapq.heappop(timers)
                timer._scheduled = False
                if not timer._cancelled:
                    self._grave.append(timer)
                continue
            if self._runnable and timer._when > self.now:
                return
            self.now = max(self.now, timer._when)
            heapq.heappop(timers)
            timer._scheduled = False
            self._runnable.append(timer)
        if not self._runnable:
            raise Deadlock

    # --- hosts ---

    def _make(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, context=context)
        host = HOST.get() if context is None else context.get(HOST)
        if host is None:
            self._outside.append(task)
            if len(self._outside) > 4096:
                self._outside = [each for each in self._outside if not each.done()]
        else:
            host.keep(task)
        return task

    def start_on(self, host: Host | None, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``coro`` on ``host``, or outside of every host, whoever asks."""
        context = contextvars.copy_context()
        context.run(HOST.set, host)
        return self.create_task(coro, context=context)

    def bury(self, hosts: list[Host]) -> None:
        """End everything that never ended, after the simulation: nothing of it may do anything any more.

        Their coroutines are closed one by one, with the loop standing still; what they then try fails or waits for ever.
        """
        while tasks := [
            each for each in (*self._outside, *(t for host in hosts for t in host.tasks)) if not each.done()
        ]:
            self._outside.clear()
            for host in hosts:
                host.tasks.clear()
            for task in tasks:  # what they start while they end is found in the next round
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
                _close(task.get_coro())
                self._buried.append(task)
        self._runnable.clear()
        self._grave.clear()
        ready: Any = self._ready  # type: ignore[attr-defined]
        ready.clear()
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        timers.clear()


def _close(coro: Any) -> None:
    """Close a coroutine; and what one that never began was given to await, as nobody else will: Python warns of such."""
    if inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        for given in inspect.getcoroutinelocals(coro).values():
            if inspect.iscoroutine(given):
                _close(given)
    for _ in range(CLOSINGS_MAX):
        try:
            coro.close()
        except RuntimeError:  # it awaited something in a `finally`
            continue
        except BaseException:  # whatever a dying coroutine raises is nobody's news
            return
        return


_OUTSIDE: Final = contextvars.Context()
