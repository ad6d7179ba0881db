"""The log of what providers told us: read, filtered, and applied once more where somebody wants that.

What came in is never shown: it holds personal data. What it meant is, by its type and ids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from gateway.answers import instant
from gateway.ids import INBOUND, REFUSED, number_of, numbered_id
from gateway.sql import Pool, Row, Statement
from providers.contract import Event

REPLAY_MAX: Final = 10_000
"""Events that one call makes due again: the worker is at them for a minute or so. Another call goes on behind the last of them."""

APPLIED, WAITING, KEPT, FAILED = "applied", "waiting", "kept", "failed"

STATUSES: Final[Mapping[str, str]] = {
    APPLIED: "Our books say what it says, by it or before it.",
    WAITING: "It is tried again by itself: it was not applied yet, or speaks of what is not there yet.",
    KEPT: "It changes nothing and never will by itself; the result says why.",
    FAILED: "It could not be applied, however often it was tried. Replay it once the reason is gone.",
}
"""Where an event stands, and what that means."""
RESULTS: Final[Mapping[str, tuple[str, str]]] = {
    "applied": (APPLIED, "It changed a payment."),
    "no_news": (APPLIED, "All that it says was known."),
    "challenge_known": (APPLIED, "The shopper's challenge it asks for is known, or over."),
    "kept": (KEPT, "Its type says nothing about a payment."),
    "operation_not_found": (KEPT, "It is about no operation of ours, or about one that is not there yet."),
    "another_account": (KEPT, "It is about an operation that another account was asked for."),
    "amount_mismatch": (KEPT, "Its amount or currency is not what was asked for: it is not believed."),
    "token_not_found": (KEPT, "It is about a token that no payment method of yours holds."),
    "not_recorded": (FAILED, "The payment changed each time it was to be written."),
    "waits_for_void": (FAILED, "It was applied; the release that it led to is not confirmed."),
    "waits_for_refund": (FAILED, "A capture failed after all, and a refund of it never ended."),
    "waits_for_capture": (
        FAILED,
        "An authorization was released while a capture was on its way, and that never ended.",
    ),
    "waits_for_attempt": (FAILED, "An attempt was released before its outcome was known, and nobody ever told that."),
    "account_not_configured": (FAILED, "Its account is not configured: configure it, and replay the event."),
    "failed": (FAILED, "Applying it broke; the log of that time says where."),
}
"""What became of an event: the status that leaves it at once nobody tries it again, and what that means. The words stay."""


def status_of(result: str | None, *, ended: bool) -> str:
    """Where an event stands by its result, once its way has ended or before."""
    if not ended:
        return WAITING
    return RESULTS.get(result or "", (KEPT, ""))[0]


_COLUMNS: Final = """id, account, event_id, type, body_bytes, proved_by, payment_id, received_at, applied_at, due_at, result, tries,
    waits_for"""
_WORDS: Final = {
    wanted: sorted(word for word, (status, _) in RESULTS.items() if status == wanted) for wanted in (APPLIED, FAILED)
}
_PLACE: Final = "SELECT received_at, id FROM webhook_inbox WHERE id ="
_CONDITIONS: Final = {
    "before": f"(received_at, id) < ({_PLACE} :before)",
    "after": f"(received_at, id) > ({_PLACE} :after)",
    "ids": "id = ANY(:ids::bigint[])",
    "type": "type = :type",
    "result": "result = :result",
    "payment": "payment_id = :payment",
    "created_gte": "received_at >= :created_gte",
    "created_lt": "received_at < :created_lt",
    WAITING: "applied_at IS NULL",
    APPLIED: "applied_at IS NOT NULL AND result = ANY(:words::text[])",
    FAILED: "applied_at IS NOT NULL AND result = ANY(:words::text[])",
    KEPT: "applied_at IS NOT NULL AND result <> ALL(:words::text[])",
}


def _where(given: Collection[str]) -> str:
    return "".join(f" AND {sql}" for name, sql in _CONDITIONS.items() if name in given)


# An index has the events of each account in the order in which they came: so many are taken of each, and the newest of those are the page.
@lru_cache(maxsize=64)
def _page(given: frozenset[str]) -> Statement:
    return Statement(
        f"""SELECT e.* FROM unnest(:accounts::text[]) AS a(name) CROSS JOIN LATERAL (SELECT {_COLUMNS} FROM webhook_inbox
        WHERE account = a.name{_where(given)} ORDER BY received_at DESC, id DESC LIMIT :limit) AS e
        ORDER BY e.received_at DESC, e.id DESC LIMIT :limit"""
    )


def _chosen(given: Collection[str]) -> str:
    return f"""SELECT e.id, e.result, e.received_at
        FROM unnest(:accounts::text[]) AS a(name) CROSS JOIN LATERAL (SELECT id, result, received_at FROM webhook_inbox
        WHERE account = a.name{_where(given)} ORDER BY received_at, id LIMIT :limit) AS e
        ORDER BY e.received_at, e.id LIMIT :limit"""


_COUNTED: Final = """SELECT result, count(*) AS events, (SELECT id FROM chosen
    ORDER BY received_at DESC, id DESC LIMIT 1) AS last FROM chosen GROUP BY result"""


@lru_cache(maxsize=64)
def _counts(given: frozenset[str]) -> Statement:
    return Statement(f"WITH chosen AS ({_chosen(given)}) {_COUNTED}")


# Two replays, or one and a worker, take the rows in one order: none of them waits for another that waits for it.
@lru_cache(maxsize=64)
def _due_again(given: frozenset[str]) -> Statement:
    return Statement(
        f"""WITH chosen AS ({_chosen(given)}),
        held AS (SELECT id FROM webhook_inbox WHERE id IN (SELECT id FROM chosen) ORDER BY id FOR UPDATE),
        due AS (UPDATE webhook_inbox SET due_at = now(), applied_at = NULL, tries = 0 WHERE id IN (SELECT id FROM held))
        {_COUNTED}""",
        writes="replay",
    )


_SEALED: Final = Statement("SELECT sealed_body, position FROM webhook_inbox WHERE id = :id")
_REFUSED: Final = Statement(
    """SELECT id, minute, account, reason, refused FROM webhook_refusal WHERE account = ANY(:accounts::text[])
    AND (:before::bigint IS NULL OR id < :before) AND (:reason::text IS NULL OR reason = :reason)
    AND (:created_gte::timestamptz IS NULL OR minute >= :created_gte)
    AND (:created_lt::timestamptz IS NULL OR minute < :created_lt) ORDER BY id DESC LIMIT :limit"""
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events: those of ``accounts`` that fit everything that is not ``None``."""

    accounts: Sequence[str]
    type: str | None = None
    result: str | None = None
    status: str | None = None
    payment: str | None = None
    created_gte: datetime | None = None
    created_lt: datetime | None = None
    ids: Sequence[int] | None = None

    def params(self) -> dict[str, Any]:
        """The parameters of a statement by their names."""
        names = ("accounts", "type", "result", "payment", "created_gte", "created_lt", "ids")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        words = _WORDS.get(self.status or "", [word for each in _WORDS.values() for word in each])
        return {**found, "accounts": list(self.accounts), "words": words, "status": self.status}

    def given(self, *more: str) -> frozenset[str]:
        """The conditions that are meant."""
        named = {name for name, value in self.params().items() if value is not None and name in _CONDITIONS}
        return frozenset({*named, *more, *([self.status] if self.status else [])})


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay takes, or has taken: how many events, by the result they had.

    ``after`` is the number of the last one, where there may be more than one call takes: that is where to go on.
    """

    events: int
    by_result: Mapping[str, int]
    after: int | None


class InboundLog:
    """Reads the inbox, and makes events due again. Nothing here raises for what is not there."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, wanted: Wanted, limit: int, before: int | None = None) -> list[Row]:
        """A page of events, newest first; ``before`` is the number to go on from."""
        params = wanted.params() | {"before": before, "limit": limit}
        return await _page(wanted.given(*(["before"] if before is not None else []))).rows(self._pool, params)

    async def event(self, event_id: str, accounts: Sequence[str]) -> Row | None:
        """One event, where it is of one of ``accounts``."""
        number = number_of(event_id, INBOUND)
        found = [] if number is None else await self.page(Wanted(accounts, ids=[number]), 1)
        return found[0] if found else None

    async def sealed(self, row: Row) -> tuple[bytes, int]:
        """What an event came in, and its place there."""
        (found,) = await _SEALED.rows(self._pool, {"id": row["id"]})
        return found["sealed_body"], found["position"]

    async def replay(self, wanted: Wanted, *, dry_run: bool, after: int | None = None) -> Replay:
        """Make at most :data:`REPLAY_MAX` events due again, the oldest first; or only count them. ``after`` is the number to go on from.

        May be called again: what is due is due, and an event that says what is known changes nothing.
        """
        statement = (_counts if dry_run else _due_again)(wanted.given(*(["after"] if after is not None else [])))
        rows = await statement.rows(self._pool, wanted.params() | {"limit": REPLAY_MAX, "after": after})
        by_result = {row["result"] or "not_applied_yet": row["events"] for row in rows}
        events = sum(by_result.values())
        return Replay(events, dict(sorted(by_result.items())), rows[0]["last"] if events >= REPLAY_MAX else None)

    async def refused(self, accounts: Sequence[str], limit: int, **filters: Any) -> list[Row]:
        """A page of what was refused, newest first; ``before`` is the number to go on from."""
        wanted: dict[str, Any] = dict.fromkeys(("before", "reason", "created_gte", "created_lt"))
        return await _REFUSED.rows(self._pool, wanted | filters | {"accounts": list(accounts), "limit": limit})


def inbound_object(row: Row, *, livemode: bool) -> dict[str, Any]:
    """An event as the API shows it."""
    ended = row["applied_at"] is not None
    return {
        "id": numbered_id(INBOUND, row["id"]),
        "object": "inbound_event",
        "account": row["account"],
        "type": row["type"],
        "provider_event_id": row["event_id"],
        "status": status_of(row["result"], ended=ended),
        "result": row["result"],
        "payment": row["payment_id"],
        "verification": {"result": "verified", "secret": row["proved_by"]},
        "body_bytes": row["body_bytes"],
        "tries": row["tries"],
        "waits_for": row["waits_for"],
        "received": instant(row["received_at"]),
        "applied": instant(row["applied_at"]),
        "next_try": instant(row["due_at"]),
        "livemode": livemode,
    }


def meaning_object(event: Event) -> dict[str, Any]:
    """What an event means, in our words: kinds, ids and where it stands. No name, card or address is among them."""
    dispute = event.dispute
    return {
        "operation_kind": event.kind,
        "operation": event.operation_id,
        "outcome": None if event.outcome is None else type(event.outcome).__name__.lower(),
        "provider_id": event.provider_id,
        "provider_payment_id": event.provider_payment_id,
        "dispute": None if dispute is None else {"provider_dispute_id": dispute.dispute_id, "status": dispute.status},
        "occurred": instant(event.occurred_at),
    }


def refusal_object(row: Row) -> dict[str, Any]:
    """A count of what was refused, as the API shows it."""
    return {
        "id": numbered_id(REFUSED, row["id"]),
        "object": "refused_webhooks",
        "account": row["account"],
        "reason": row["reason"],
        "minute": instant(row["minute"]),
        "count": row["refused"],
    }


def replay_object(replay: Replay, *, dry_run: bool) -> dict[str, Any]:
    """What a replay did, or would do."""
    done, known = ("would be", "would change") if dry_run else ("are", "changes")
    return {
        "object": "inbound_replay",
        "dry_run": dry_run,
        "events": replay.events,
        "by_result": dict(replay.by_result),
        "after": None if replay.after is None else numbered_id(INBOUND, replay.after),
        "detail": f"{replay.events} events {done} applied again; what is known already {known} nothing.",
    }
