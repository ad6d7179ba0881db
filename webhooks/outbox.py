"""The outbox: deliveries that are due are claimed, sent, and what came of each try is written down. The rows are the queue.

A delivery is written with the change it tells of (``gateway.books``), so nothing that happened can go untold. A claim is a lease:
it moves ``due_at`` a few seconds ahead and is renewed while a try lasts, so what a process was at that died is due again by itself.
A receiver may therefore see an event twice, with the same id and the same bytes; it never misses one.

The outbox knows nothing of payments. How an event about an endpoint is made is handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol

import structlog

from webhooks.egress import Egress, Reply, Unreached
from webhooks.signing import Secrets, headers

# --- What comes of a try. Pure. ------------------------------------------------------------------------------------------

SCHEDULE_S: Final = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each try, about 75 hours in all: the schedule that Standard Webhooks 1.0.0 proposes."""
JITTER: Final = 0.2
"""A wait is up to so much shorter or longer, so that what failed together does not come back together."""
PAUSE_MAX_S: Final = 24 * 3600
"""No receiver can ask to be left alone for longer."""
DAY_S: Final = 24 * 3600
NOTICE_DAYS: Final = (1, 3, 5)
"""After so many days of failures only, the merchant is told; after the last of them the endpoint is switched off."""
FAILED_EVENTS_MIN: Final = 20
"""Fewer events than this say too little to switch an endpoint off."""
KEPT_DAYS: Final = 30

_OK: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)
_GONE: Final = 410
_BUSY: Final = frozenset({429, 502, 503, 504})
"""With one of these a receiver may say when it wants to be asked again."""


@dataclass(frozen=True, slots=True)
class After:
    """What came of a try. ``due_s`` is in how many seconds the next one is, ``pause_s`` how long the endpoint is left alone."""

    status: str
    due_s: float | None = None
    error: str | None = None
    pause_s: float | None = None
    gone: bool = False


def after(tries: int, reply: Reply | Unreached, now: datetime, draw: float) -> After:
    """Decide what becomes of a delivery that was tried ``tries`` times before. ``draw`` is a random number from 0 to 1."""
    if isinstance(reply, Unreached):
        return _failed(tries, draw, reply.reason)
    if reply.status in _OK:
        return After("succeeded")
    if reply.status == _GONE:
        return After("canceled", error="gone", gone=True)
    error = "redirect" if reply.status in _REDIRECT else "status"
    pause_s = pause_of(reply.retry_after, now) if reply.status in _BUSY else None
    return _failed(tries, draw, error, pause_s)


def _failed(tries: int, draw: float, error: str, pause_s: float | None = None) -> After:
    if tries + 1 >= len(SCHEDULE_S):
        return After("failed", error=error, pause_s=pause_s)
    due_s = SCHEDULE_S[tries + 1] * (1 - JITTER + 2 * JITTER * draw)
    return After("pending", max(due_s, pause_s or 0.0), error, pause_s)


def pause_of(retry_after: str | None, now: datetime) -> float | None:
    """The seconds that a ``Retry-After`` asks for, as a number or as a date (RFC 9110, 10.2.3); ``None`` where it asks for nothing."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), PAUSE_MAX_S)) or None
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    return min(seconds, PAUSE_MAX_S) if seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Notice:
    """What the merchant is told of an endpoint that fails: ``number`` notices will have been given, and whether it is switched off."""

    number: int
    disables: bool

    @property
    def type(self) -> str:
        """The event's type."""
        return "webhook_endpoint.disabled" if self.disables else "webhook_endpoint.failing"


def notice(failing_s: float, failed_events: int, given: int) -> Notice | None:
    """The notice that is due of an endpoint that has failed for ``failing_s`` seconds, or ``None``. Days that were missed are skipped."""
    passed = sum(failing_s >= days * DAY_S for days in NOTICE_DAYS)
    if passed == len(NOTICE_DAYS) and failed_events >= FAILED_EVENTS_MIN:
        return Notice(passed, disables=True)
    return Notice(passed, disables=False) if passed > given else None


# --- The statements ------------------------------------------------------------------------------------------------------


FRESH: Final = "due_at IS NOT NULL AND tries = 0"
AGAIN: Final = "due_at IS NOT NULL AND tries > 0"
"""The two lanes of what is on its way, in the words of their indexes."""


def pending_of(endpoint: str, most: str) -> str:
    """What is on its way to an endpoint, at most so many of each lane. Rows that are being written are skipped."""
    lanes = (
        f"""SELECT * FROM (SELECT endpoint_id, event_id FROM delivery WHERE endpoint_id = {endpoint} AND {lane}
        LIMIT {most} FOR UPDATE SKIP LOCKED) AS waiting"""
        for lane in (FRESH, AGAIN)
    )
    return f"({' UNION ALL '.join(lanes)})"


LEASE_S: Final = 6
RENEW_S: Final = 2.0
"""A lost renewal or two cost nothing; what a dead process had in hand is sent by another one within about eight seconds."""
FRESH_MAX: Final = 3
AGAIN_MAX: Final = 1
"""Tries of one endpoint that a process has under way: first ones, and later ones in a lane of their own, so that neither waits for the other."""
HEALTHY_MAX: Final = 75
FAILING_MAX: Final = 25
"""Tries in all, to endpoints that work and to such that do not: any number of the latter, each hanging for 15 s, cannot keep the former waiting."""


def _lane(name: str, lane: str, most: int) -> str:
    """The deliveries of one lane that may be taken: endpoint by endpoint, each found by one step in the index.

    No more endpoints are looked at than there is room for tries: those with the fewest under way, and of these whichever comes. Were it
    the one that has waited longest, endpoints that hang would always be that one, and a later one would wait until they have nothing left.
    """
    return f"""{name}_endpoint AS (
        (SELECT endpoint_id FROM delivery WHERE {lane} ORDER BY endpoint_id LIMIT 1)
        UNION ALL
        SELECT (SELECT d.endpoint_id FROM delivery d WHERE {lane}
            AND d.endpoint_id > e.endpoint_id ORDER BY d.endpoint_id LIMIT 1)
        FROM {name}_endpoint e WHERE e.endpoint_id IS NOT NULL
    ), {name}_turn AS (
        SELECT w.id, w.failing_since IS NOT NULL AS failing, {most} - coalesce(held.{name}, 0) AS free,
            coalesce(held.fresh, 0) + coalesce(held.again, 0) AS held,
            row_number() OVER (PARTITION BY w.failing_since IS NULL
                ORDER BY coalesce(held.fresh, 0) + coalesce(held.again, 0), random()) AS place
        FROM {name}_endpoint e JOIN webhook_endpoint w ON w.id = e.endpoint_id AND w.status = 'enabled'
            AND (w.paused_until IS NULL OR w.paused_until <= now())
        LEFT JOIN unnest($1::text[], $2::int[], $3::int[]) AS held(id, fresh, again) ON held.id = w.id
        WHERE coalesce(held.{name}, 0) < {most}
            AND EXISTS (SELECT FROM delivery d WHERE d.endpoint_id = w.id AND d.due_at <= now() AND {lane})
    ), {name} AS (
        SELECT d.endpoint_id, d.event_id, d.due_at, t.failing,
            t.held + row_number() OVER (PARTITION BY d.endpoint_id ORDER BY d.due_at) AS turn
        FROM {name}_turn t CROSS JOIN LATERAL (SELECT d.endpoint_id, d.event_id, d.due_at FROM delivery d
            WHERE d.endpoint_id = t.id AND d.due_at <= now() AND {lane} ORDER BY d.due_at
            LIMIT t.free FOR UPDATE SKIP LOCKED) d
        WHERE t.place <= CASE WHEN t.failing THEN $4::int ELSE $5::int END
    )"""


_CLAIM: Final = f"""WITH RECURSIVE {_lane("fresh", FRESH, FRESH_MAX)},
    {_lane("again", AGAIN, AGAIN_MAX)},
    due AS (SELECT *, row_number() OVER (PARTITION BY failing ORDER BY turn, random()) AS seat
        FROM (SELECT * FROM fresh UNION ALL SELECT * FROM again) AS lanes),
    claimed AS (SELECT * FROM due WHERE seat <= CASE WHEN failing THEN $4::int ELSE $5::int END)
    UPDATE delivery SET due_at = now() + interval '{LEASE_S} seconds'
    FROM claimed c JOIN event v ON v.id = c.event_id JOIN webhook_endpoint w ON w.id = c.endpoint_id
    WHERE delivery.endpoint_id = c.endpoint_id AND delivery.event_id = c.event_id
    RETURNING delivery.endpoint_id, delivery.event_id, delivery.tries, v.body, v.type, v.trace, w.url, w.sealed_secrets, c.failing,
    extract(epoch FROM now() - c.due_at)::float8 AS late_s"""
_RENEW: Final = f"""UPDATE delivery SET due_at = now() + interval '{LEASE_S} seconds'
    FROM unnest($1::text[], $2::text[], $3::int[]) AS held(endpoint_id, event_id, tries)
    WHERE delivery.endpoint_id = held.endpoint_id AND delivery.event_id = held.event_id
    AND delivery.tries = held.tries AND delivery.status = 'pending' RETURNING delivery.event_id"""
_TRIED: Final = """WITH mine AS (UPDATE delivery SET status = CASE WHEN moved THEN 'pending' ELSE $4 END, tries = tries + 1,
        due_at = CASE WHEN moved THEN now() ELSE now() + make_interval(secs => $5::float8) END,
        delivered_at = CASE WHEN $4 = 'succeeded' THEN now() END
        FROM (SELECT url <> $11 AND $4 <> 'succeeded' AS moved FROM webhook_endpoint WHERE id = $1) AS w
        WHERE endpoint_id = $1 AND event_id = $2 AND tries = $3 AND status = 'pending' RETURNING endpoint_id, event_id),
    attempt AS (INSERT INTO delivery_attempt (endpoint_id, event_id, at, status, error, excerpt, took_ms)
        SELECT endpoint_id, event_id, now(), $6::int, $7::text, $8::text, $9::int FROM mine),
    standing AS (UPDATE webhook_endpoint w SET
        failing_since = CASE WHEN $4 = 'succeeded' THEN NULL ELSE coalesce(w.failing_since, now()) END,
        failed_events = CASE WHEN $4 = 'succeeded' THEN 0 ELSE w.failed_events + ($3 = 0)::int END,
        notices = CASE WHEN $4 = 'succeeded' THEN 0 ELSE w.notices END,
        paused_until = greatest(w.paused_until, now() + make_interval(secs => $10::float8))
        FROM mine WHERE w.id = mine.endpoint_id AND w.url = $11 AND NOT ($4 = 'succeeded' AND w.failing_since IS NULL))
    SELECT endpoint_id FROM mine"""
"""What an address could not take that was left meanwhile is due at once at the new one, and is not held against that."""
_STANDING: Final = """id, merchant_id, livemode, url, description, wanted, status, disabled_reason, failing_since, failed_events, notices, created_at, now() AS at"""
_PASSED: Final = " + ".join(f"(failing_since <= now() - interval '{days} days')::int" for days in NOTICE_DAYS)
_FAILING: Final = f"""SELECT {_STANDING} FROM webhook_endpoint WHERE status = 'enabled' AND (notices < {_PASSED}
    OR ({_PASSED} = {len(NOTICE_DAYS)} AND failed_events >= {FAILED_EVENTS_MIN})) ORDER BY failing_since LIMIT $1"""
"""Those of which a notice is due, as :func:`notice` has it: an old one of which nothing is due must not stand before a new one."""
_AT: Final = f"SELECT {_STANDING} FROM webhook_endpoint WHERE id = $1 AND url = $2 AND status = 'enabled'"
_NOTIFY: Final = """WITH told AS (UPDATE webhook_endpoint SET notices = $3, status = $4, disabled_reason = $5, updated_at = now()
        WHERE id = $1 AND url = $9 AND status = 'enabled' AND notices = $2 RETURNING id, merchant_id, livemode),
    event_ AS (INSERT INTO event (id, merchant_id, livemode, type, body, created_at)
        SELECT $6, merchant_id, livemode, $7, $8::bytea, now() FROM told),
    delivery_ AS (INSERT INTO delivery (endpoint_id, event_id, status, tries, due_at, created_at)
        SELECT w.id, $6, 'pending', 0, now(), now() FROM told JOIN webhook_endpoint w
        ON w.merchant_id = told.merchant_id AND w.livemode = told.livemode AND w.status = 'enabled' AND w.id <> told.id
        AND (w.events IS NULL OR $7 = ANY(w.events)))
    SELECT id FROM told"""
_CANCEL: Final = f"""UPDATE delivery SET status = 'canceled', due_at = NULL FROM (SELECT d.endpoint_id, d.event_id
    FROM webhook_endpoint w CROSS JOIN LATERAL {pending_of("w.id", "$1")} d WHERE w.status <> 'enabled' LIMIT $1) AS d
    WHERE delivery.endpoint_id = d.endpoint_id AND delivery.event_id = d.event_id RETURNING delivery.event_id"""
# An event's id begins with its time, so the oldest are found by the primary key.
_PRUNE: Final = f"""WITH old AS (SELECT id FROM event
        WHERE id < 'evt_' || lpad(to_hex((extract(epoch FROM now() - interval '{KEPT_DAYS} days') * 1000)::bigint), 12, '0')
        AND created_at < now() - interval '{KEPT_DAYS} days' ORDER BY id LIMIT $1),
    sent AS (SELECT d.endpoint_id, d.event_id FROM old JOIN delivery d ON d.event_id = old.id),
    attempts AS (DELETE FROM delivery_attempt a USING sent WHERE a.endpoint_id = sent.endpoint_id AND a.event_id = sent.event_id),
    deliveries AS (DELETE FROM delivery d USING sent WHERE d.endpoint_id = sent.endpoint_id AND d.event_id = sent.event_id)
    DELETE FROM event USING old WHERE event.id = old.id RETURNING event.id"""
WRITES: Final[Mapping[str, str]] = {
    _CLAIM: "claim",
    _RENEW: "renew",
    _TRIED: "tried",
    _NOTIFY: "notify",
    _CANCEL: "call_off",
    _PRUNE: "prune",
}
"""What each of these statements is called, by its text."""


# --- The sender ----------------------------------------------------------------------------------------------------------

POLL_S: Final = 0.5
GATHER_S: Final = 0.01
"""How long after a try has ended what has ended with it is waited for: one claim then fills all their places."""
STOP_S: Final = 1.5
"""How long the tries under way may take once the outbox is told to stop; the others are left to their lease."""
NOTICES_MAX: Final = 100
BATCH: Final = 1000
"""Rows that are called off or pruned in one statement, a fraction of a second's work."""
BATCHES_MAX: Final = 50
USER_AGENT: Final = "Interlock-Webhooks/1"

log = structlog.get_logger()


class Pool(Protocol):
    """What the outbox uses of a database pool."""

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """The rows of one statement."""
        ...


class Told(Protocol):
    """An event about an endpoint, as it is stored."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def body(self) -> bytes:
        """Its bytes."""
        ...


Tell = Callable[[str, Mapping[str, Any]], Told]
"""Makes the event of a type about an endpoint, of whose row it is given the columns; ``at`` is the instant."""
Unseal = Callable[[bytes, str], Mapping[str, Any]]
"""Opens the sealed secrets of an endpoint, which is named by its id."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that is ours for as long as its lease is renewed."""

    endpoint_id: str
    event_id: str
    tries: int
    failing: bool
    url: str
    body: bytes = field(repr=False)
    sealed_secrets: bytes | None = field(repr=False)
    type: str
    trace: str | None
    """The span that the event was written under, as a W3C ``traceparent``."""


Tried = Callable[[Reply | Unreached, str], None]
"""Told of a try: the answer or the want of one, and what came of it in a word."""
Trying = Callable[[Delivery], AbstractContextManager[Tried]]
"""Put around each try."""


def _unwatched(_: Delivery) -> AbstractContextManager[Tried]:
    return contextlib.nullcontext(lambda *_: None)


@dataclass(frozen=True, slots=True)
class Counted:
    """Told what came of each try, and how many seconds after it was due a first one began."""

    tried: Callable[[str], None] = lambda _: None
    waited: Callable[[float], None] = lambda _: None


class Outbox:
    """Sends what is due, and tends the endpoints. Any number of them may run, in one process or many."""

    def __init__(
        self,
        pool: Pool,
        egress: Egress,
        unseal: Unseal,
        tell: Tell,
        *,
        draw: Callable[[], float],
        clock: Callable[[], float] = time.time,
        counted: Counted | None = None,
        trying: Trying = _unwatched,
    ) -> None:
        self._pool = pool
        self._egress = egress
        self._unseal = unseal
        self._tell = tell
        self._draw = draw
        self._clock = clock
        self._counted = counted or Counted()
        self._trying_to = trying
        self._held: dict[tuple[str, str], Delivery] = {}
        self._trying: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._stopped = False
        self._blind = False

    async def run(self) -> None:
        """Send what becomes due, until told to stop. Postgres may come and go. What is under way then has :data:`STOP_S` to end.

        Cancelled in the middle of a claim, what that has claimed waits for its lease.
        """
        renewing = asyncio.create_task(self._renew_always())
        try:
            while not self._stopped:
                await self._seen(self.send_due)
                if not self._stopped:
                    self._ended.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), POLL_S)
                    await asyncio.sleep(GATHER_S)
        finally:
            self._stopped = True
            if self._trying:
                await asyncio.wait(self._trying, timeout=STOP_S)
            left = [renewing, *self._trying]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def stop(self) -> None:
        """Claim nothing more, and let :meth:`run` end. May be called twice."""
        self._stopped = True
        self._ended.set()

    async def send_due(self) -> int:
        """Claim what is due and there is room for, and begin to send it. Returns how many. Raises what the database raises."""
        fresh: dict[str, int] = {}
        again: dict[str, int] = {}
        for held in self._held.values():
            lane = again if held.tries else fresh
            lane[held.endpoint_id] = lane.get(held.endpoint_id, 0) + 1
        endpoints = sorted({*fresh, *again})
        failing = sum(held.failing for held in self._held.values())
        rows = await self._pool.fetch(
            _CLAIM,
            endpoints,
            [fresh.get(endpoint, 0) for endpoint in endpoints],
            [again.get(endpoint, 0) for endpoint in endpoints],
            max(0, FAILING_MAX - failing),
            max(0, HEALTHY_MAX - (len(self._held) - failing)),
        )
        return sum(self._begin(row) for row in rows)

    async def idle(self) -> None:
        """Wait until no try is under way."""
        while self._trying:
            await asyncio.wait(self._trying)

    def _begin(self, row: Mapping[str, Any]) -> bool:
        """Begin a try. One that is under way here has just had its lease renewed, and is not begun again."""
        delivery = Delivery(
            row["endpoint_id"],
            row["event_id"],
            row["tries"],
            row["failing"],
            row["url"],
            row["body"],
            row["sealed_secrets"],
            row["type"],
            row["trace"],
        )
        key = (delivery.endpoint_id, delivery.event_id)
        if key in self._held:
            return False
        if delivery.tries == 0:
            self._counted.waited(row["late_s"])
        self._held[key] = delivery
        task = asyncio.create_task(self._try(delivery))
        self._trying.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._trying.discard(task)
            del self._held[key]
            self._ended.set()

        task.add_done_callback(ended)
        return True

    async def _try(self, delivery: Delivery) -> None:
        """One try, to the note of what came of it. Never raises: what is not noted is due again when its lease has run out."""
        try:
            with self._trying_to(delivery) as tried:
                reply = await self._post(delivery)
                outcome = after(delivery.tries, reply, datetime.fromtimestamp(self._clock(), UTC), self._draw())
                tried(reply, "again" if outcome.status == "pending" else outcome.status)
            noted = await self._note(delivery, reply, outcome)
            if outcome.gone and noted:
                await self._switch_off(delivery)
        except Exception as error:
            log.warning(
                "delivery_not_noted",
                endpoint=delivery.endpoint_id,
                event_id=delivery.event_id,
                error=type(error).__name__,
            )
            self._counted.tried("not_noted")

    async def _post(self, delivery: Delivery) -> Reply | Unreached:
        try:
            if delivery.sealed_secrets is None:
                return Unreached("not_signed")
            now = self._clock()
            secrets = Secrets.from_json(self._unseal(delivery.sealed_secrets, delivery.endpoint_id)).live(now)
            signed = headers(delivery.event_id, int(now), delivery.body, secrets)
        except Exception as error:  # nothing of the error is told: it may speak of the key
            log.error("delivery_not_signed", endpoint=delivery.endpoint_id, error=type(error).__name__)
            return Unreached("not_signed")
        told = {**signed, "content-type": "application/json", "user-agent": USER_AGENT}
        try:
            return await self._egress.post(delivery.url, told, delivery.body)
        except Unreached as unreached:
            return unreached

    async def _note(self, delivery: Delivery, reply: Reply | Unreached, outcome: After) -> bool:
        """Write down what came of a try, unless somebody else has gone on with the delivery meanwhile."""
        status, excerpt = (reply.status, reply.excerpt) if isinstance(reply, Reply) else (None, None)
        rows = await self._pool.fetch(
            _TRIED,
            delivery.endpoint_id,
            delivery.event_id,
            delivery.tries,
            outcome.status,
            outcome.due_s,
            status,
            outcome.error,
            excerpt or None,
            reply.took_ms,
            outcome.pause_s,
            delivery.url,
        )
        result = ("again" if outcome.status == "pending" else outcome.status) if rows else "overtaken"
        self._counted.tried(result)
        if outcome.status != "succeeded":
            log.info(
                "delivery_failed",
                endpoint=delivery.endpoint_id,
                event_id=delivery.event_id,
                tries=delivery.tries + 1,
                status=status,
                error=outcome.error,
                result=result,
            )
        return bool(rows)

    async def _renew_always(self) -> None:
        while not self._stopped:
            await asyncio.sleep(RENEW_S)
            await self._seen(self._renew)

    async def _renew(self) -> None:
        held = list(self._held.values())
        if held:
            await self._pool.fetch(
                _RENEW,
                [each.endpoint_id for each in held],
                [each.event_id for each in held],
                [each.tries for each in held],
            )

    async def _seen(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do it. That it cannot be done is said once, until it can be done again."""
        try:
            await work()
        except Exception as error:  # whatever it is: a sender that had ended would leave every event to nobody
            if not self._blind:
                log.error("outbox_interrupted", error=type(error).__name__)
            self._blind = True
        else:
            self._blind = False

    # --- The endpoints, by the clock ---

    async def notify(self) -> int:
        """Tell merchants of endpoints that fail, and switch off those that have failed for too long. Returns how many were told of."""
        given = 0
        for row in await self._pool.fetch(_FAILING, NOTICES_MAX):
            failing_s = (row["at"] - row["failing_since"]).total_seconds()
            due = notice(failing_s, row["failed_events"], row["notices"])
            if due is not None:
                given += await self._give(row, due, "failing" if due.disables else None)
        return given

    async def _switch_off(self, delivery: Delivery) -> None:
        """Switch an endpoint off that says it is gone, unless it has moved meanwhile. Where that is lost, its next delivery finds it gone again."""
        for row in await self._pool.fetch(_AT, delivery.endpoint_id, delivery.url):
            await self._give(row, Notice(row["notices"], disables=True), "gone")
        await self.call_off()

    async def _give(self, row: Mapping[str, Any], due: Notice, reason: str | None) -> int:
        status = "disabled" if due.disables else row["status"]
        event = self._tell(due.type, {**row, "status": status, "disabled_reason": reason})
        told = await self._pool.fetch(
            _NOTIFY, row["id"], row["notices"], due.number, status, reason, event.id, due.type, event.body, row["url"]
        )
        if told:
            log.warning("endpoint_told_of", endpoint=row["id"], type=due.type, reason=reason)
        return len(told)

    async def call_off(self) -> int:
        """Cancel what was on its way to endpoints that are switched off or deleted, in batches. Returns how many."""
        return await self._in_batches(_CANCEL)

    async def prune(self) -> int:
        """Delete what is older than :data:`KEPT_DAYS` days, with its deliveries, in batches. Returns how many events."""
        return await self._in_batches(_PRUNE)

    async def _in_batches(self, statement: str) -> int:
        done = 0
        for _ in range(BATCHES_MAX):
            rows: Sequence[Any] = await self._pool.fetch(statement, BATCH)
            done += len(rows)
            if len(rows) < BATCH:
                break
        return done
