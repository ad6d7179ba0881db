"""What every request became: a decision or not, and how much of its time was ours.

The question is the shopper's: was there an answer? A decline is one, and so is "it is being processed". The classes are those of the
service level "shoppers can pay" (docs/operations.md): ``good`` over ``good`` and ``bad``, nothing else counts. Pure but for the clock.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Self

GOOD: Final = "good"
BAD: Final = "bad"
CALLER: Final = "caller"
LIMITED: Final = "limited"
GONE: Final = "gone"
CLASSES: Final = {
    GOOD: "a decision: approved, declined, to be completed by the shopper, or being processed",
    BAD: "no decision, and not for anything the caller did: any 5xx, whoever is at fault",
    CALLER: "a request that was wrong, in conflict or not allowed: any other 4xx",
    LIMITED: "asked for too often: 429",
    GONE: "the caller hung up before it was answered",
}
"""What a request became, and what that means."""

_PLAIN: Final = {"/v1/payments": "create", "/v1/refunds": "refund", "/v1/payment_methods": "store"}
_OF_PAYMENT: Final = frozenset({"confirm", "details", "capture", "cancel", "increment", "resolve"})
_FAMILIES: Final = {"/v1/webhooks/": "webhook", "/v1/return/": "return", "/console": "console", "/v1/": "other"}
VERBS: Final = (*_PLAIN.values(), *sorted(_OF_PAYMENT), *_FAMILIES.values())
"""Everything that may be asked, as far as it is told apart."""


def verb_of(method: str, path: str) -> str | None:
    """What was asked, in one of :data:`VERBS` whatever stands in the path; ``None`` for what is not counted (health, metrics, docs)."""
    if method == "POST":
        plain = _PLAIN.get(path)
        if plain is not None:
            return plain
        if path.startswith("/v1/payments/"):
            word = path.rpartition("/")[2]
            if word in _OF_PAYMENT:
                return word
    return next((verb for family, verb in _FAMILIES.items() if path.startswith(family)), None)


def class_of(status: int | None) -> str:
    """What became of a request that was answered with ``status``; with none, the caller did not wait for it."""
    if status is None:
        return GONE
    if status < 400 or status == 402:
        return GOOD
    if status >= 500:
        return BAD
    return LIMITED if status == 429 else CALLER


class Asked:
    """A request while it is answered: what was asked, how long that takes, and how much of it was spent waiting for others."""

    __slots__ = ("_started", "status", "verb", "waited_s")

    def __init__(self, method: str, path: str) -> None:
        self._started = time.perf_counter()
        self.verb = verb_of(method, path)
        self.waited_s = 0.0
        """Seconds spent waiting for providers, and for the caller to send the rest of the request."""
        self.status: int | None = None
        """The status of its answer, once that has begun."""

    @property
    def took_s(self) -> float:
        """Seconds since it came."""
        return time.perf_counter() - self._started


_asked: ContextVar[Asked | None] = ContextVar("asked", default=None)


def begun(asked: Asked) -> None:
    """From now on the current task, and what it starts, answers this request. It ends with the task: each request has one of its own."""
    _asked.set(asked)


class Waiting:
    """``with Waiting() as waiting: …``: the time in it is somebody else's, and ``waiting.s`` afterwards is how long that was."""

    __slots__ = ("s",)

    def __enter__(self) -> Self:
        self.s = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.s = time.perf_counter() - self.s
        asked = _asked.get()
        if asked is not None:
            asked.waited_s += self.s
