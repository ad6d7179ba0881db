"""The books of endpoints and deliveries: where merchants want to be told, what was tried, and what is to be tried again.

An endpoint is stored by ``gateway.books``, with the key that brings it. Every method here is one statement and one commit, but for
a replay, which is one for each thousand events; each may be called again. What is sent, and when, is the outbox's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from gateway.events import Event
from gateway.ids import EVENT, first_id
from gateway.sql import Pool, Row, Statement, columns, values
from webhooks.outbox import KEPT_DAYS, pending_of
from webhooks.tables import DeliveryRow, EndpointRow, EventRow

IN_FLIGHT_S: Final = 10
"""A pending delivery that is due sooner is being tried, or is about to be: nothing has to be done about it."""
CANCEL_MAX: Final = 1_000
"""The deliveries that are canceled together with their endpoint. More are the worker's: nothing is sent to it in any case."""
REPLAY_BATCH: Final = 1_000
REPLAY_MAX: Final = 100_000
"""The events of one replay. A longer one is asked for in parts, so that no request takes more than some seconds."""
TEST: Final = "webhook_endpoint.test"
"""The one type that goes to the endpoint it is about, and to no other."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it stands. ``wanted`` is what was asked for, ``events`` the types that are meant: all where there are none."""

    id: str
    merchant_id: str
    livemode: bool
    url: str
    description: str | None
    wanted: Sequence[str] | None
    events: Sequence[str] | None
    status: str
    disabled_reason: str | None
    sealed_secrets: bytes | None = field(repr=False)
    failing_since: datetime | None
    failed_events: int
    notices: int
    paused_until: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Range:
    """Which events are sent again to an endpoint: of a time (``start`` included, ``end`` not), of some ``types`` or of any.

    Without ``everything`` only those that it wants and has not got: that have failed or wait for another try, that were canceled when
    it was disabled, and those of the time since it was made in which it was.
    """

    start: datetime
    end: datetime
    types: Collection[str] | None = None
    everything: bool = False


_ENDPOINT: Final = f"""SELECT {columns(EndpointRow)} FROM webhook_endpoint
    WHERE id = :id AND merchant_id = :merchant_id AND livemode = :livemode"""
_ONE: Final = Statement(_ENDPOINT)
_ANYONES: Final = Statement(f"SELECT {columns(EndpointRow)} FROM webhook_endpoint WHERE id = :id")
_COUNT: Final = Statement(
    """SELECT count(*) AS number FROM webhook_endpoint
    WHERE merchant_id = :merchant_id AND livemode = :livemode AND status <> 'deleted'"""
)
# What is being written down just now is skipped: that statement holds its delivery, and waits for the endpoint that we hold.
_CANCELED: Final = f"""canceled AS (UPDATE delivery SET status = 'canceled', due_at = NULL FROM (SELECT d.endpoint_id, d.event_id
    FROM {{source}} CROSS JOIN LATERAL {pending_of("{source}.id", str(CANCEL_MAX))} d) AS d
    WHERE delivery.endpoint_id = d.endpoint_id AND delivery.event_id = d.event_id)"""
_UPDATE: Final = Statement(
    f"""WITH endpoint AS (UPDATE webhook_endpoint SET url = coalesce(:url::text, url),
        description = CASE WHEN :describes::bool THEN :description::text ELSE description END,
        wanted = CASE WHEN :chooses::bool THEN :wanted::text[] ELSE wanted END,
        events = CASE WHEN :chooses THEN :events::text[] ELSE events END,
        status = coalesce(:status::text, status),
        disabled_reason = CASE :status WHEN 'enabled' THEN NULL
            WHEN 'disabled' THEN coalesce(disabled_reason, 'requested') ELSE disabled_reason END,
        failing_since = CASE WHEN :afresh::bool THEN NULL ELSE failing_since END,
        failed_events = CASE WHEN :afresh THEN 0 ELSE failed_events END,
        notices = CASE WHEN :afresh THEN 0 ELSE notices END,
        paused_until = CASE WHEN :afresh THEN NULL ELSE paused_until END,
        updated_at = :at::timestamptz
        WHERE id = :id AND status <> 'deleted' RETURNING {columns(EndpointRow)}),
    off AS (SELECT id FROM endpoint WHERE status = 'disabled'), {_CANCELED.format(source="off")}
    SELECT * FROM endpoint""",
    writes="endpoint",
)
_DELETE: Final = Statement(
    f"""WITH gone AS (UPDATE webhook_endpoint SET status = 'deleted', sealed_secrets = NULL, failing_since = NULL,
        paused_until = NULL, updated_at = :at::timestamptz WHERE id = :id AND status <> 'deleted' RETURNING id),
    {_CANCELED.format(source="gone")} SELECT id FROM gone""",
    writes="endpoint",
)
_ROTATE: Final = Statement(
    f"""UPDATE webhook_endpoint SET sealed_secrets = :sealed, updated_at = :at::timestamptz
    WHERE id = :id AND sealed_secrets = :before RETURNING {columns(EndpointRow)}""",
    writes="rotate",
)
_TEST: Final = Statement(
    f"""WITH told AS (INSERT INTO event ({columns(EventRow)})
        SELECT {values(EventRow, "n_", payment_id="NULL::text", sequence="NULL::integer", trace="NULL::text")} FROM webhook_endpoint
        WHERE id = :endpoint AND status = 'enabled' ON CONFLICT (id) DO NOTHING),
    sent AS (INSERT INTO delivery ({columns(DeliveryRow)})
        SELECT id, :n_id, 'pending', 0, now(), now(), NULL::timestamptz FROM webhook_endpoint
        WHERE id = :endpoint AND status = 'enabled' ON CONFLICT (endpoint_id, event_id) DO NOTHING)
    SELECT id FROM webhook_endpoint WHERE id = :endpoint AND status = 'enabled'""",
    writes="test",
)

_WANTS: Final = f"""(d.event_id IS NOT NULL OR (e.type <> '{TEST}' AND (w.events IS NULL OR e.type = ANY(w.events))))"""
"""What an endpoint is told: what it wants now, and what it was told before."""
_KEPT: Final = f"e.created_at > now() - interval '{KEPT_DAYS - 1} days'"
"""What is about to be removed is not sent again: its delivery would stay without it."""
_AT_REST: Final = f"(d.status IS DISTINCT FROM 'pending' OR d.due_at > now() + interval '{IN_FLIGHT_S} seconds')"
_AGAIN: Final = f"""INSERT INTO delivery ({columns(DeliveryRow)})
    SELECT endpoint_id, event_id, 'pending', :tries::int, now(), now(), NULL::timestamptz FROM due
    ON CONFLICT (endpoint_id, event_id) DO UPDATE SET status = 'pending', tries = excluded.tries, due_at = excluded.due_at,
    created_at = excluded.created_at, delivered_at = NULL"""
_REDELIVER: Final = Statement(
    f"""WITH wanting AS (SELECT w.id AS endpoint_id, e.id AS event_id, {_AT_REST} AS at_rest
        FROM event e JOIN webhook_endpoint w ON w.merchant_id = e.merchant_id AND w.livemode = e.livemode
        LEFT JOIN delivery d ON d.endpoint_id = w.id AND d.event_id = e.id
        WHERE e.id = :event AND w.status = 'enabled' AND (:endpoint::text IS NULL OR w.id = :endpoint) AND {_KEPT} AND {_WANTS}),
    due AS (SELECT endpoint_id, event_id FROM wanting WHERE at_rest), again AS ({_AGAIN})
    SELECT endpoint_id FROM wanting ORDER BY endpoint_id""",
    writes="redeliver",
)
_MISSED: Final = f"""SELECT e.id AS event_id, w.id AS endpoint_id FROM webhook_endpoint w JOIN event e
    ON e.merchant_id = w.merchant_id AND e.livemode = w.livemode LEFT JOIN delivery d ON d.endpoint_id = w.id AND d.event_id = e.id
    WHERE w.id = :endpoint AND w.status = 'enabled' AND e.id > :after AND e.id < :before
    AND e.created_at >= :start AND e.created_at < :end AND (:types::text[] IS NULL OR e.type = ANY(:types))
    AND {_KEPT} AND {_WANTS} AND {_AT_REST} AND (:everything::bool OR (d.status IS DISTINCT FROM 'succeeded'
    AND (d.event_id IS NOT NULL OR e.created_at >= w.created_at)))
    ORDER BY e.id LIMIT :limit"""
_MISSING: Final = Statement(f"SELECT count(*) AS number FROM ({_MISSED}) AS due")
_REPLAY: Final = Statement(
    f"WITH due AS ({_MISSED}), again AS ({_AGAIN}) SELECT event_id FROM due",
    writes="redeliver",
)

_EVENT: Final = Statement(
    """SELECT id, type, body FROM event WHERE id = :id AND merchant_id = :merchant_id AND livemode = :livemode"""
)
_EVENTS_OF: Final = Statement("SELECT body FROM event WHERE payment_id = :id ORDER BY sequence, id")
_EVENTS: Final = "SELECT id, body FROM event e WHERE merchant_id = :merchant_id AND livemode = :livemode"
_ENDPOINTS: Final = f"""SELECT {columns(EndpointRow)} FROM webhook_endpoint e
    WHERE merchant_id = :merchant_id AND livemode = :livemode AND status <> 'deleted'"""
_LAST: Final = """SELECT at, status, error, excerpt, took_ms FROM delivery_attempt
    WHERE endpoint_id = d.endpoint_id AND event_id = d.event_id ORDER BY at DESC LIMIT 1"""
_TRIES: Final = (
    "SELECT count(*) FROM delivery_attempt a WHERE a.endpoint_id = d.endpoint_id AND a.event_id = d.event_id"
)
_DELIVERIES: Final = f"""SELECT e.id, d.endpoint_id, d.event_id, d.status, d.due_at, d.created_at, d.delivered_at, e.type, e.payment_id,
    ({_TRIES}) AS tries, l.at AS last_at, l.status AS last_status, l.error AS last_error, l.excerpt AS last_excerpt,
    l.took_ms AS last_took_ms FROM delivery d JOIN event e ON e.id = d.event_id LEFT JOIN LATERAL ({_LAST}) l ON true"""
_TO: Final = f"{_DELIVERIES} WHERE d.endpoint_id = :endpoint"
_OF: Final = Statement(f"{_DELIVERIES} WHERE d.event_id = :event ORDER BY d.endpoint_id")
_ATTEMPTS: Final = Statement(
    "SELECT endpoint_id, at, status, error, excerpt, took_ms FROM delivery_attempt WHERE event_id = :event ORDER BY endpoint_id, at"
)

_CONDITIONS: Final = {
    "before": "e.id < :before",
    "types": "e.type = ANY(:types::text[])",
    "payment": "e.payment_id = :payment",
    "since": "e.id >= :since_id AND e.created_at >= :since",
    "until": "e.id < :until_id AND e.created_at < :until",
    "status": "d.status = :status",
}


@lru_cache(maxsize=64)
def _page(source: str, given: frozenset[str]) -> Statement:
    """A page of ``source``, newest first. Only what is given is asked for: one plan for all filters would use no index."""
    conditions = "".join(f" AND {sql}" for name, sql in _CONDITIONS.items() if name in given)
    return Statement(f"{source}{conditions} ORDER BY e.id DESC LIMIT :limit")


class EndpointBooks:
    """Reads and writes endpoints, and the deliveries and events that belong to them. What is not there is ``None``, or nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # --- endpoints ---

    async def endpoint(self, endpoint_id: str, merchant_id: str, *, livemode: bool) -> Endpoint | None:
        """A merchant's endpoint in one mode, also a deleted one."""
        params = {"id": endpoint_id, "merchant_id": merchant_id, "livemode": livemode}
        return _endpoint(await _ONE.row(self._pool, params))

    async def anyones(self, endpoint_id: str) -> Endpoint | None:
        """An endpoint, whoever's it is: for an operator."""
        return _endpoint(await _ANYONES.row(self._pool, {"id": endpoint_id}))

    async def endpoints(self, merchant_id: str, *, livemode: bool, limit: int, before: str | None) -> list[Endpoint]:
        """A page of the endpoints that are not deleted, newest first; ``before`` is the id to go on from."""
        params = {"merchant_id": merchant_id, "livemode": livemode, "limit": limit, "before": before}
        rows = await _page(_ENDPOINTS, _given({"before": before})).rows(self._pool, params)
        return [Endpoint(**row) for row in rows]

    async def count(self, merchant_id: str, *, livemode: bool) -> int:
        """How many endpoints a merchant has in one mode."""
        row = await _COUNT.row(self._pool, {"merchant_id": merchant_id, "livemode": livemode})
        return 0 if row is None else int(row["number"])

    async def update(self, endpoint_id: str, changes: Mapping[str, Any], at: datetime) -> Endpoint | None:
        """Change what ``changes`` name: url, description, status, and wanted together with events. ``None`` where it is deleted.

        Where it is enabled, or given another address, it starts afresh: what has failed before counts no more. One that is
        disabled has nothing on its way any more.
        """
        afresh = changes.get("status") == "enabled" or changes.get("url") is not None
        names = ("url", "description", "wanted", "events", "status")
        params = {name: changes.get(name) for name in names} | {"id": endpoint_id, "at": at, "afresh": afresh}
        params |= {"describes": "description" in changes, "chooses": "wanted" in changes}
        return _endpoint(await _UPDATE.row(self._pool, params))

    async def delete(self, endpoint_id: str, at: datetime) -> None:
        """Nothing is sent there any more, and its secrets are gone. Deleting it again changes nothing."""
        await _DELETE.row(self._pool, {"id": endpoint_id, "at": at})

    async def rotate(self, endpoint: Endpoint, sealed: bytes, at: datetime) -> Endpoint | None:
        """Put other secrets in the place of those that ``endpoint`` was read with. ``None`` where they have changed since."""
        params = {"id": endpoint.id, "before": endpoint.sealed_secrets, "sealed": sealed, "at": at}
        return _endpoint(await _ROTATE.row(self._pool, params))

    # --- deliveries ---

    async def test(self, endpoint: Endpoint, event: Event, at: datetime) -> bool:
        """Write an event and its delivery to this endpoint alone. ``False`` where that is not enabled any more."""
        params = {
            "endpoint": endpoint.id,
            "n_id": event.id,
            "n_merchant_id": endpoint.merchant_id,
            "n_livemode": endpoint.livemode,
            "n_type": event.type,
            "n_body": event.body,
            "n_created_at": at,
        }
        return await _TEST.row(self._pool, params) is not None

    async def redeliver(self, event_id: str, endpoint_id: str | None) -> list[str]:
        """Make an event's deliveries due at once, to all endpoints that want it or to one; the ids of those endpoints.

        One that is being tried, or about to be, stays as it is. The others begin anew, with their schedule of tries.
        """
        params = {"event": event_id, "endpoint": endpoint_id, "tries": 0}
        return [row["endpoint_id"] for row in await _REDELIVER.rows(self._pool, params)]

    async def missed(self, endpoint_id: str, wanted: Range) -> int:
        """How many events a replay would send again, at most one more than :data:`REPLAY_MAX`."""
        row = await _MISSING.row(self._pool, _range_values(endpoint_id, wanted, REPLAY_MAX + 1))
        return 0 if row is None else int(row["number"])

    async def replay(self, endpoint_id: str, wanted: Range) -> int:
        """Make the deliveries of a range due again, the oldest event first; how many. Broken off and asked again, it goes on.

        They count as tried once: new events do not wait behind them (``webhooks.outbox``).
        """
        params = _range_values(endpoint_id, wanted, REPLAY_BATCH) | {"tries": 1}
        replayed = 0
        while rows := await _REPLAY.rows(self._pool, params):
            replayed += len(rows)
            if len(rows) < REPLAY_BATCH or replayed >= REPLAY_MAX:
                break
            params["after"] = max(row["event_id"] for row in rows)
        return replayed

    async def deliveries_to(
        self, endpoint_id: str, *, limit: int, before: str | None, status: str | None
    ) -> list[Mapping[str, Any]]:
        """A page of an endpoint's deliveries, those of the newest event first; ``before`` is the event's id to go on from."""
        given = {"before": before, "status": status}
        params = given | {"endpoint": endpoint_id, "limit": limit}
        return await _page(_TO, _given(given)).rows(self._pool, params)

    async def deliveries_of(self, event_id: str) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
        """The deliveries of an event, each with its tries, the first one first."""
        rows = await _OF.rows(self._pool, {"event": event_id})
        tries = await _ATTEMPTS.rows(self._pool, {"event": event_id})
        return [(row, [each for each in tries if each["endpoint_id"] == row["endpoint_id"]]) for row in rows]

    # --- events ---

    async def event(self, event_id: str, merchant_id: str, *, livemode: bool) -> Event | None:
        """A merchant's event in one mode, with its bytes as they were sent."""
        row = await _EVENT.row(self._pool, {"id": event_id, "merchant_id": merchant_id, "livemode": livemode})
        return None if row is None else Event(**row)

    async def events(self, merchant_id: str, *, livemode: bool, limit: int, **filters: Any) -> list[tuple[str, bytes]]:
        """A page of events as ids and bytes, newest first: ``before``, ``types``, ``payment``, ``since``, ``until``."""
        params: dict[str, Any] = filters | {"merchant_id": merchant_id, "livemode": livemode, "limit": limit}
        params["since_id"] = _bound(filters.get("since"))
        params["until_id"] = _bound(filters.get("until"), past=True)
        rows = await _page(_EVENTS, _given(filters)).rows(self._pool, params)
        return [(row["id"], row["body"]) for row in rows]

    async def events_of(self, payment_id: str) -> list[bytes]:
        """Everything that was told of a payment, oldest first, as bytes."""
        return [row["body"] for row in await _EVENTS_OF.rows(self._pool, {"id": payment_id})]


def endpoint_values(endpoint: Endpoint) -> dict[str, Any]:
    """Every column of ``webhook_endpoint``, under parameter names."""
    return {f"x_{name}": getattr(endpoint, name) for name in Endpoint.__dataclass_fields__}


def _endpoint(row: Row | None) -> Endpoint | None:
    return None if row is None else Endpoint(**row)


def _given(filters: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, value in filters.items() if value is not None)


def _bound(at: datetime | None, *, past: bool = False) -> str | None:
    """The least id of ``at``: an id knows milliseconds, so what is before a time is before the next of them."""
    return None if at is None else first_id(EVENT, at, past=past)


def _range_values(endpoint_id: str, wanted: Range, limit: int) -> dict[str, Any]:
    return {
        "endpoint": endpoint_id,
        "after": _bound(wanted.start),
        "before": _bound(wanted.end, past=True),
        "start": wanted.start,
        "end": wanted.end,
        "types": None if wanted.types is None else sorted(wanted.types),
        "everything": wanted.everything,
        "limit": limit,
    }
