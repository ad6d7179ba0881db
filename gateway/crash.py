"""Crash points: where a process can be made to die, so that a test can prove that what it leaves behind is picked up.

A point lies before and after everything that leaves the process: every statement that writes, every word with the gate, every
request to a PSP. Nobody has to remember to set one. The pool, the gate and the transport are watched at their seams, where all
of that goes through, and only where the setting ``GATEWAY_CRASH_AT`` names a point: otherwise the plain ones are wired, and a
crash point costs nothing at all.

A point is named after the path it lies on, its step and its side: ``charge.open.after``. :data:`PATHS` and :data:`STEPS` are the
whole table; a test holds them to what real runs pass.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.settings import Settings
from gateway.sql import WRITES, Pool, Row, is_writing
from idempotency.store import Gate, RedisGate
from providers.registry import AccountConfig, ConfigError
from providers.transport import Reply, Transport
from webhooks import egress, inbox, outbox, refusals

Side = Literal["before", "after"]
Passed = Callable[[str], None]
"""Told of every crash point that is passed, by its name."""


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the gateway, begun by a request to one of ``routes`` (method and pattern) or by the worker's ``job``."""

    what: str
    steps: tuple[str, ...]
    routes: tuple[tuple[str, str], ...] = ()
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that leaves the process: what it is, and how things stand where the process dies before or after it."""

    what: str
    before: str
    after: str


STEPS: Final[Mapping[str, Step]] = {
    "take": Step(
        "Redis is asked for the gate of the key",
        "Nothing has happened: the same key starts anew.",
        "The gate is shut and nothing else has happened: it opens by itself, and the same key starts anew.",
    ),
    "release": Step(
        "the gate is opened",
        "Everything is written; the gate stays shut until it opens by itself.",
        "Everything is written and the gate is open: only the answer is missing, and the same key gets it.",
    ),
    "open": Step(
        "the intent is committed, with its key",
        "Nothing is written and nothing was sent: the same key starts anew.",
        "The intent stands and nothing was sent: once the lease has run out, the same key or the sweep sends it.",
    ),
    "send": Step(
        "a request goes to the PSP",
        "The PSP has heard nothing: the same bytes are sent under the same key.",
        "The PSP has acted and its answer is lost: the same bytes under the same key are told the same.",
    ),
    "ask": Step(
        "the PSP is asked what it knows",
        "Nothing was learned: it is asked again.",
        "What was learned is lost: it is asked again.",
    ),
    "reseal": Step(
        "what is left to send is kept",
        "The first step is done at the PSP and not known here: it is done again under its own key.",
        "The first step is kept: the next one is sent with it.",
    ),
    "renew": Step(
        "the lease is renewed while a call lasts",
        "The lease runs out at its old time.",
        "The lease runs out at its new time.",
    ),
    "settle": Step(
        "the outcome is committed, with the answer",
        "The PSP has answered and nothing is written: the same bytes under the same key are told the same.",
        "The outcome and the answer stand: the same key gets that answer.",
    ),
    "cascade": Step(
        "a decline and the next attempt are committed",
        "The decline is not written and nobody else was asked: the first account is told the same again.",
        "The next attempt stands and nothing was sent for it: the same key sends it, or the sweep.",
    ),
    "take_over": Step(
        "the operation of a process that died is taken over",
        "It is still free: whoever comes next takes it over.",
        "It is ours for one lease and nothing was sent: after that the next one takes it over.",
    ),
    "postpone": Step(
        "an operation that is as open as before is let go of",
        "It stays ours until the lease runs out, then it is looked at again.",
        "It is looked at again by the ladder.",
    ),
    "answer": Step(
        "the answer of a key is decided afterwards",
        "The payment stands: the same key decides the same answer.",
        "The answer stands: the same key gets it.",
    ),
    "change": Step(
        "a change that needs no PSP is committed",
        "Nothing is written: it is done again.",
        "It is done.",
    ),
    "resolve": Step(
        "what a person found out is committed, with the answer",
        "Nothing is written: the operation waits for a person still, and the same key settles it.",
        "The outcome and the answer stand: the same key gets that answer.",
    ),
    "reviewed": Step(
        "an operation is put before a person",
        "Nothing is written: the next look puts it there.",
        "It waits for a person, and is looked at all the same.",
    ),
    "returned": Step(
        "what the shopper brought back is committed",
        "Nothing is kept: the challenge waits on, and the shopper's browser may come again.",
        "It is kept and was not sent: once the lease has run out, the sweep sends it.",
    ),
    "dispute": Step(
        "a dispute as it stands is committed",
        "Nothing is written: the event is stored and applied again.",
        "It is written: applied again, the event is no news.",
    ),
    "store": Step(
        "what is no payment is stored, with its key and answer",
        "Nothing is written: the same key starts anew.",
        "It is stored: the same key gets the answer.",
    ),
    "publish": Step(
        "what is in force of routing is changed, with its event, key and answer",
        "Nothing is written: what was in force is in force, and the same key, or the worker's next run, starts anew.",
        "It is in force, or scheduled, and the merchant is told: the same key gets the answer.",
    ),
    "compare": Step(
        "payments of strategies and their holdouts are counted",
        "None of them is counted: the next run counts them.",
        "They are counted, and marked as counted: no run counts them again.",
    ),
    "watch": Step(
        "payments that a shadow has watched are counted",
        "None of them is counted: the next run counts them.",
        "They are counted, and marked as counted: no run counts them again.",
    ),
    "count_rates": Step(
        "payments that have changed are counted in the rates",
        "None of them is counted anew: the next run counts them.",
        "They are counted, and the place up to which all is counted has moved on: no run counts them again.",
    ),
    "judge": Step(
        "how far a merchant's monitors were judged is committed, with its incidents and their events",
        "Nothing is written and nobody is told: the next look judges the same minutes.",
        "The look, its incidents and their events stand together: the next look goes on from there.",
    ),
    "monitor": Step(
        "a monitor is changed or deleted",
        "Nothing is written.",
        "It is written, with who did it: done again, it changes nothing.",
    ),
    "acknowledge": Step(
        "somebody says that an incident of a monitor was seen",
        "Nobody has.",
        "It is written: said again, who was first stays.",
    ),
    "update": Step(
        "a payment method is changed", "Nothing is written.", "It is written: done again, it changes nothing."
    ),
    "delete": Step(
        "a payment method is emptied", "Nothing is written.", "It is written: done again, it changes nothing."
    ),
    "erase": Step("a customer is erased", "Nothing is written.", "It is written: done again, it changes nothing."),
    "incident": Step(
        "what cannot be is written down",
        "Nothing is written; what it was said beside is as it was: said again, it is written.",
        "It is written and the merchant is told: said again, it is known.",
    ),
    "close": Step("an incident is closed", "It is open.", "It is closed: closed again, it keeps its reason."),
    "notice": Step(
        "a notice of a provider is kept",
        "Nothing is written: the event is stored and applied again.",
        "It is kept and the merchant is told: applied again, the event is no news.",
    ),
    "token": Step(
        "what became of a token is committed",
        "Nothing is written: the event is stored and applied again.",
        "It is written and the merchant is told: applied again, the event is no news.",
    ),
    "endpoint": Step(
        "a webhook endpoint is changed or deleted",
        "Nothing is written.",
        "It is written: done again, it changes nothing.",
    ),
    "rotate": Step(
        "the secret of a webhook endpoint is replaced",
        "Nothing is written: the old secret signs.",
        "A secret that nobody has seen signs beside the old one: done again, another one is made and shown.",
    ),
    "test": Step(
        "a test event is written with its delivery",
        "Nothing is written.",
        "It is sent: asked again, another one is.",
    ),
    "redeliver": Step(
        "deliveries are made due again",
        "Nothing is written: nothing is sent again.",
        "They are sent again: asked again, those that have not been sent meanwhile stay as they are.",
    ),
    "receive": Step(
        "the events of a webhook are stored",
        "Nothing is stored and nothing was acknowledged: the PSP sends it again.",
        "It is stored and was not acknowledged: the worker applies it, and what the PSP sends again is a duplicate.",
    ),
    "note": Step(
        "what became of an event is noted",
        "It is applied and not noted: it is applied again, and is no news.",
        "The event's way has ended.",
    ),
    "count": Step(
        "how many webhooks were refused is written",
        "What was counted in this second is lost; nothing else is.",
        "It is counted.",
    ),
    "wake": Step(
        "events that came before their payment are made due",
        "They are made due the next time, or tried by the ladder.",
        "They are due: whoever comes next applies them.",
    ),
    "replay": Step(
        "events that were received are made due again",
        "Nothing is written: ask again.",
        "They are due: the worker applies them, and what is known already is no news.",
    ),
    "claim": Step(
        "rows whose time has come are claimed",
        "They are due: whoever comes next claims them.",
        "They are due again after a while.",
    ),
    "mark_due": Step(
        "the next look at an undecided payment is brought forward",
        "The payment is looked at by the ladder.",
        "The payment is looked at by the next sweep.",
    ),
    "adopt": Step("challenges that have no end are given one", "They are given one the next time.", "They are due."),
    "forget": Step(
        "an operation that needs nothing any more is taken off the list",
        "It is looked at once more, and needs nothing.",
        "Nobody looks at it any more.",
    ),
    "post": Step(
        "an event is sent to a merchant's endpoint",
        "The merchant has heard nothing: it is sent once the lease has run out.",
        "The merchant may have it: it is sent again, with the same id and the same bytes.",
    ),
    "tried": Step(
        "what came of a delivery's try is noted",
        "It was tried and that is not known here: it is sent again, with the same id and the same bytes.",
        "The try and what follows from it stand.",
    ),
    "notify": Step(
        "an endpoint that fails is told of, and may be switched off",
        "Nothing is written: the next look, or the endpoint's next answer, does it.",
        "The event, its deliveries and the endpoint's status stand together.",
    ),
    "call_off": Step(
        "what was on its way to an endpoint that is switched off is canceled",
        "It is not sent, and canceled the next time.",
        "It is canceled, and may be sent again by hand.",
    ),
    "prune": Step(
        "events that are too old are deleted, with their deliveries",
        "They are deleted the next time.",
        "They are gone.",
    ),
    "begin": Step(
        "where a strategy's model begins is written",
        "Nothing is written: whoever needs the model next writes it.",
        "It is written: every process begins there.",
    ),
    "snapshot": Step(
        "what a strategy has learned is written",
        "Nothing is written: a start goes on from the snapshot before, and reads the rest.",
        "It is written: a start goes on from there.",
    ),
    "queue": Step(
        "a simulation is asked for",
        "Nothing is written: ask again.",
        "It is done: asked again meanwhile, it is the answer.",
    ),
    "advance": Step(
        "how far a simulation is is noted",
        "The lease runs out at its old time, and the simulation begins anew.",
        "The lease runs out at its new time, and the simulation begins anew.",
    ),
    "conclude": Step(
        "what came of a simulation is noted",
        "Nothing is written: it begins anew once the lease has run out.",
        "It is there to be read.",
    ),
    "discard": Step("simulations that are too old are deleted", "They are deleted the next time.", "They are gone."),
    "login_try": Step(
        "a password that is tried at the console is counted",
        "It was not looked at.",
        "It is counted, and was not looked at.",
    ),
    "session_begin": Step(
        "somebody is signed in", "They are not.", "They are, and their browser does not know: they sign in again."
    ),
    "session_begin_by_link": Step(
        "somebody is signed in by a link",
        "The link is as good as before.",
        "It is used up, and their browser does not know: a new one is made.",
    ),
    "user_password_change": Step(
        "somebody at the console changes their password",
        "The old one is good, and nobody is signed out.",
        "The new one is good, and they are signed out everywhere: they sign in with it.",
    ),
    "session_seen": Step("it is noted that somebody still looks", "It is noted with their next page.", "It is noted."),
    "session_end": Step("somebody is signed out", "They are signed in still.", "They are signed out everywhere."),
    "wipe_methods": Step(
        "cards that have waited too long are wiped", "They are wiped the next time.", "They are gone."
    ),
    "wipe_requests": Step("requests with a card are wiped", "They are wiped the next time.", "They are gone."),
    "wipe_declines": Step("old declines of cards are deleted", "They are deleted the next time.", "They are gone."),
}
"""What leaves the process: the statements by what they write, the gate, and the words with a PSP."""

_GATE: Final = ("take", "release")
_CALL: Final = ("send", "renew", "settle")
_NEWS: Final = ("settle", "change", "dispute", "notice", "token", "note")
_FOLLOW_UP: Final = (*_GATE, "open", *_CALL, "take_over", "ask", "postpone", "answer")
_CHARGE: Final = (*_FOLLOW_UP, "reseal", "cascade", "mark_due")

PATHS: Final[Mapping[str, Path]] = {
    "charge": Path("a charge", _CHARGE, (("POST", "/v1/payments"),)),
    "confirm": Path("a payment that is confirmed", (*_CHARGE, "change"), (("POST", "/v1/payments/[^/]+/confirm"),)),
    "capture": Path("a capture", _FOLLOW_UP, (("POST", "/v1/payments/[^/]+/capture"),)),
    "cancel": Path("a cancel", (*_FOLLOW_UP, "change"), (("POST", "/v1/payments/[^/]+/cancel"),)),
    "increment": Path("another amount", _FOLLOW_UP, (("POST", "/v1/payments/[^/]+/increment"),)),
    "refund": Path("a refund", _FOLLOW_UP, (("POST", "/v1/refunds"),)),
    "return": Path(
        "a shopper who comes back from a challenge",
        ("returned", "ask", *_CALL, "postpone"),
        (("GET", "/v1/return/[^/]+"), ("POST", "/v1/payments/[^/]+/details")),
    ),
    "dispute": Path(
        "an answer to a dispute", (*_FOLLOW_UP, "reseal"), (("POST", "/v1/disputes/[^/]+/(evidence|accept)"),)
    ),
    "resolve": Path(
        "a person who settles what nobody else could tell",
        (*_GATE, "take_over", "ask", "settle", "resolve"),
        (("POST", "/v1/payments/[^/]+/resolve"),),
    ),
    "method": Path(
        "a payment method",
        (*_CHARGE, "store", "update", "delete"),
        (("POST", "/v1/payment_methods(/[^/]+)?"), ("DELETE", "/v1/payment_methods/[^/]+")),
    ),
    "customer": Path(
        "a customer",
        (*_GATE, "store", "erase"),
        (("POST", "/v1/customers"), ("DELETE", "/v1/customers/[^/]+")),
    ),
    "incident": Path(
        "what cannot be, whoever notices it, and a person who has looked",
        ("incident", "close"),
        (("POST", "/v1/incidents/[^/]+/close"),),
    ),
    "monitor": Path(
        "a monitor",
        (*_GATE, "store", "monitor"),
        (("POST", "/v1/monitors(/[^/]+)?"), ("DELETE", "/v1/monitors/[^/]+")),
    ),
    "acknowledge": Path(
        "an incident of a monitor that somebody has seen",
        ("acknowledge",),
        (("POST", "/v1/monitor_incidents/[^/]+/acknowledge"),),
    ),
    "endpoint": Path(
        "a webhook endpoint",
        (*_GATE, "store", "endpoint", "rotate", "test", "redeliver"),
        (
            ("POST", "/v1/webhook_endpoints(/[^/]+(/(rotate_secret|test|replay))?)?"),
            ("DELETE", "/v1/webhook_endpoints/[^/]+"),
        ),
    ),
    "simulate": Path("a simulation", ("queue",), (("POST", "/v1/routing/configs/[^/]+/simulate"),)),
    "routing": Path(
        "a version of routing, and what puts it in force",
        (*_GATE, "store", "publish"),
        (("POST", "/v1/routing/(rollback|configs(/[^/]+/[a-z-]+)?|publications/[^/]+/[a-z]+)"),),
    ),
    "redeliver": Path("an event that is sent again", ("redeliver",), (("POST", "/v1/events/[^/]+/redeliver"),)),
    "console": Path(
        "the console: somebody who signs in, looks, changes their password and signs out",
        (
            "login_try",
            "session_begin",
            "session_begin_by_link",
            "user_password_change",
            "session_seen",
            "session_end",
        ),
        (("POST", "/console/.+"), ("GET", "/console(/.*)?")),
    ),
    "read": Path("a payment that is read", ("mark_due",), (("GET", "/v1/payments/[^/]+"),)),
    "webhook": Path("a webhook", ("receive", *_NEWS, "count"), (("POST", "/v1/webhooks/[^/]+"),)),
    "replay": Path("events that are replayed", ("replay",), (("POST", "/v1/inbound_events/([^/]+/)?replay"),)),
    "sweep": Path(
        "the worker's sweep", ("take_over", "ask", "reseal", *_CALL, "postpone", "open", "reviewed"), job="settle"
    ),
    "inbound": Path("webhooks that the worker applies", ("wake", "claim", *_NEWS), job="inbound"),
    "cancels": Path("cancels that the worker carries out", ("open", "ask", *_CALL, "postpone"), job="cancels"),
    "abandoned": Path(
        "challenges that the worker ends", ("adopt", "claim", "open", "ask", *_CALL, "postpone"), job="abandoned"
    ),
    "lapsed": Path("declined payments that the worker ends", ("claim", "change", "forget"), job="lapsed"),
    "retries": Path(
        "payments that the worker tries again", ("claim", "open", *_CALL, "reseal", "cascade", "change"), job="retries"
    ),
    "uplift": Path(
        "what the worker counts for strategies and their holdouts, and rolls back", ("compare", "publish"), job="uplift"
    ),
    "shadow": Path("what the worker counts of shadows", ("watch",), job="shadow"),
    "rates": Path("what the worker counts for the rates", ("count_rates",), job="rates"),
    "monitors": Path("what the worker judges for the monitors", ("judge",), job="monitors"),
    "parked": Path("parked payments that the worker ends", ("change",), job="parked"),
    "wipe": Path("the worker's wiping", ("wipe_methods", "wipe_requests", "wipe_declines"), job="wipe"),
    "learn": Path("what strategies learn", ("begin", "snapshot"), job="learn"),
    "outbox": Path(
        "events on their way to merchants", ("claim", "post", "renew", "tried", "notify", "call_off"), job="outbox"
    ),
    "notify": Path("endpoints that fail", ("notify",), job="notify"),
    "call_off": Path("what is on its way to endpoints that are switched off", ("call_off",), job="call_off"),
    "prune": Path("what merchants need no more", ("prune",), job="prune"),
    "simulations": Path("simulations that the worker does", ("claim", "advance", "conclude"), job="simulations"),
    "discard": Path("simulations that nobody needs any more", ("discard",), job="discard"),
}
"""Every path with the steps that a process may die at."""


def points() -> dict[str, str]:
    """Every crash point with a sentence about what a process leaves behind that dies there."""
    found = {}
    for name, path in PATHS.items():
        for step in path.steps:
            found[f"{name}.{step}.before"] = STEPS[step].before
            found[f"{name}.{step}.after"] = STEPS[step].after
    return found


# --- The path that a task is on -----------------------------------------------------------------------------------------

NO_PATH: Final = "elsewhere"
_path: Final[ContextVar[str]] = ContextVar("path", default=NO_PATH)
_ROUTES: Final = tuple(
    (method, re.compile(pattern), name) for name, path in PATHS.items() for method, pattern in path.routes
)
_JOBS: Final[Mapping[str, str]] = {path.job: name for name, path in PATHS.items() if path.job is not None}


def path_of(method: str, url_path: str) -> str:
    """The path that a request begins, or :data:`NO_PATH` for one that writes nothing."""
    return next((name for verb, pattern, name in _ROUTES if verb == method and pattern.fullmatch(url_path)), NO_PATH)


def on_path(job: str, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """``work`` of the worker, on the path of its ``job``. ``KeyError`` for a job that no path names."""
    name = _JOBS[job]

    async def working() -> object:
        before = _path.set(name)
        try:
            return await work()
        finally:
            _path.reset(before)

    return working


@contextmanager
def aside(name: str) -> Iterator[None]:
    """On the path ``name`` for a while: a commit that is the same on whichever path it is made."""
    before = _path.set(name)
    try:
        yield
    finally:
        _path.reset(before)


class OnPath:
    """Puts every request on its path. Wired only where crash points are watched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        before = _path.set(path_of(scope["method"], scope["path"]))
        try:
            await self._app(scope, receive, send)
        finally:
            _path.reset(before)


# --- The seams ----------------------------------------------------------------------------------------------------------


def _point(step: str, side: Side) -> str:
    return f"{_path.get()}.{step}.{side}"


class WatchedPool(Pool):
    """A pool that passes a point before and after every statement that writes."""

    def __init__(self, passed: Passed, pool: Any, size: int) -> None:
        super().__init__(pool, size)
        self._passed = passed

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """As :meth:`Pool.fetch`. ``AssertionError`` for a statement that writes and says nowhere what."""
        step = next(
            filter(None, (each.get(query) for each in (WRITES, inbox.WRITES, outbox.WRITES, refusals.WRITES))), None
        )
        if step is None:
            if is_writing(query):
                raise AssertionError("a statement that writes has no name, so it has no crash points")
            return await super().fetch(query, *args)
        self._passed(_point(step, "before"))
        rows = await super().fetch(query, *args)
        self._passed(_point(step, "after"))
        return rows


class WatchedGate(RedisGate):
    """A gate that passes a point before and after it is taken and opened."""

    def __init__(self, url: str, passed: Passed) -> None:
        super().__init__(url)
        self._passed = passed

    async def take(self, slot: str) -> tuple[Gate, str]:
        """As :meth:`RedisGate.take`."""
        self._passed(_point("take", "before"))
        taken = await super().take(slot)
        self._passed(_point("take", "after"))
        return taken

    async def release(self, slot: str, token: str) -> None:
        """As :meth:`RedisGate.release`."""
        self._passed(_point("release", "before"))
        await super().release(slot, token)
        self._passed(_point("release", "after"))


class WatchedTransport(Transport):
    """A transport that passes a point before and after every request: ``ask`` for a GET, which moves no money, else ``send``."""

    def __init__(self, passed: Passed) -> None:
        super().__init__()
        self._passed = passed

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply:
        """As :meth:`Transport.request`."""
        step = "ask" if method.upper() == "GET" else "send"
        self._passed(_point(step, "before"))
        reply = await super().request(method, url, headers, body, timeout_s)
        self._passed(_point(step, "after"))
        return reply


class WatchedEgress(egress.Egress):
    """A way out that passes a point before and after every post to a merchant."""

    def __init__(self, passed: Passed, *, loopback: bool) -> None:
        super().__init__(loopback=loopback)
        self._passed = passed

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> egress.Reply:
        """As :meth:`webhooks.egress.Egress.post`."""
        self._passed(_point("post", "before"))
        reply = await super().post(url, headers, body)
        self._passed(_point("post", "after"))
        return reply


# --- The kill -----------------------------------------------------------------------------------------------------------


class Crash:
    """Kills this process with ``SIGKILL`` when it passes ``point`` for the ``nth`` time, counted from 1."""

    def __init__(self, point: str, nth: int) -> None:
        self._point = point
        self._left = nth

    def __call__(self, point: str) -> None:
        """A point is passed: mostly not ours."""
        if point != self._point:
            return
        self._left -= 1
        if self._left == 0:
            sys.stderr.write(f"crash point {point}\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def armed(settings: Settings, accounts: Iterable[AccountConfig]) -> Crash | None:
    """What ``GATEWAY_CRASH_AT`` asks for, or ``None`` where it asks for nothing.

    Raises :class:`ConfigError` where this is no test system, and for a point that there is not.
    """
    if settings.crash_at is None:
        return None
    if not settings.dev:
        raise ConfigError("GATEWAY_CRASH_AT: crash points are for tests; they are refused unless GATEWAY_DEV=1")
    live = sorted(account.name for account in accounts if account.livemode)
    if live:
        raise ConfigError(f"GATEWAY_CRASH_AT: crash points are refused with a live account ({', '.join(live)})")
    point, colon, nth = settings.crash_at.partition(":")
    if point not in points():
        raise ConfigError(f"GATEWAY_CRASH_AT: there is no crash point {point!r}; docs/crash-points.md lists them")
    if colon and not (nth.isascii() and nth.isdigit() and int(nth)):
        raise ConfigError("GATEWAY_CRASH_AT: the passage after the colon is a whole number from 1")
    return Crash(point, int(nth) if colon else 1)
