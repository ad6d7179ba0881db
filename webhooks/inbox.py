"""The inbox: an event is stored once, acknowledged after that commit, then applied; and applied again by the worker if that failed.

The inbox knows nothing of payments. It is handed a function that applies one event; what that function says is the end of the
event's way, or that it should be tried again later. What an event waits for is kept for whoever knows when that has come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jiter
import structlog

from providers.contract import Event, WebhookRefused
from providers.registry import Account, place

LADDER_S: Final = (5, 30, 300, 3600, 21_600)
"""Seconds until an event that could not be applied is tried again; after the last it is kept as it is."""
LEASE_S: Final = 60
"""How long applying a batch of events may take before another worker tries them."""
AT_ONCE_S: Final = 6
"""An event is applied as soon as it is stored. Where that could not be, the worker tries it after so long: Postgres was lost, or the
process was. An event that is applied twice changes nothing the second time."""

log = structlog.get_logger()


class Pool(Protocol):
    """What the inbox uses of a database pool."""

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """The rows of one statement."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of an event. ``again``: it may mean something later.

    ``payment_id`` is what it is about, where that was found; ``waits_for`` is what was not, and ``waits_kind`` what that is.
    """

    result: str
    again: bool = False
    payment_id: str | None = None
    waits_for: str | None = None
    waits_kind: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """An event that was stored just now."""

    id: int
    account: str
    event: Event


Apply = Callable[[str, Event], Awaitable[Applied]]
Seal = Callable[..., bytes]

NAME_MAX: Final = 255
"""No provider's id or type of an event is longer. A longer one has no place in an index."""

_STORE: Final = f"""INSERT INTO webhook_inbox
    (account, event_id, type, sealed_body, position, received_at, tries, due_at, body_bytes, proved_by)
    SELECT $1, e.event_id, e.type, e.sealed_body, e.position, now(), 0, now() + interval '{AT_ONCE_S} seconds', e.body_bytes, $2
    FROM unnest($3::text[], $4::text[], $5::int[], $6::bytea[], $7::int[])
    AS e(event_id, type, position, sealed_body, body_bytes)
    ON CONFLICT (account, event_id) DO NOTHING RETURNING id, event_id"""
_DONE: Final = """UPDATE webhook_inbox SET result = $2, tries = tries + 1,
    due_at = now() + make_interval(secs => $3::float8),
    applied_at = CASE WHEN $3::float8 IS NULL THEN now() END,
    payment_id = coalesce($4, payment_id), waits_for = $5, waits_kind = $6 WHERE id = $1"""
_DUE: Final = f"""UPDATE webhook_inbox SET due_at = now() + interval '{LEASE_S} seconds' WHERE id IN
    (SELECT id FROM webhook_inbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, account, type, sealed_body, position, tries"""
WRITES: Final[Mapping[str, str]] = {_STORE: "receive", _DONE: "note", _DUE: "claim"}
"""What each of these statements is called, by its text."""


class Inbox:
    """Stores and applies. Every method may be called again for the same webhook. ``counted`` is told what became of each event."""

    def __init__(self, pool: Pool, seal: Seal, unseal: Seal, apply: Apply, counted: Callable[[str], None]) -> None:
        self._pool = pool
        self._seal = seal
        self._open = unseal
        self._apply = apply
        self._counted = counted

    async def receive(self, account: Account, headers: Mapping[str, str], body: bytes) -> Sequence[Received]:
        """Verify and store. What is returned is committed, and was not there before.

        Raises :class:`providers.contract.WebhookRefused` for what is not authentic or cannot be read: nothing is stored then.
        """
        proved_by = account.verify_webhook(headers, body)
        events = {event.event_id: event for event in _strictly_read(account, body)}
        bodies = [body if event.alone is None else event.alone for event in events.values()]
        rows = await self._pool.fetch(
            _STORE,
            account.name,
            proved_by,
            list(events),
            [event.type for event in events.values()],
            [0] * len(events),  # each is alone in what is kept of it
            [self._seal(each, account.name, "webhook") for each in bodies],
            list(map(len, bodies)),
        )
        return [Received(row["id"], account.name, events[row["event_id"]]) for row in rows]

    async def apply(self, received: Received, tries: int = 0) -> str:
        """Apply one stored event and note what became of it. Raises what the database raises; then it is due again."""
        applied = await self._apply(received.account, received.event)
        await self._note(received.id, applied, tries)
        log.info(
            "webhook_applied",
            inbox_id=received.id,
            account=received.account,
            type=received.event.type,
            result=applied.result,
        )
        return applied.result

    async def apply_due(self, accounts: Mapping[str, Account], limit: int) -> int:
        """Apply events that are due, as the worker does. Returns how many were taken."""
        rows = await self._pool.fetch(_DUE, limit)
        for row in rows:
            account = accounts.get(row["account"])
            if account is None:
                await self._note(row["id"], Applied("account_not_configured", again=True), row["tries"])
                continue
            try:
                body = self._open(row["sealed_body"], row["account"], "webhook")
                event = account.provider.parse_webhook(body)[row["position"]]
                await self.apply(Received(row["id"], row["account"], event), row["tries"])
            except Exception as error:  # one event's trouble must not keep the others waiting
                log.error(
                    "webhook_apply_failed",
                    inbox_id=row["id"],
                    account=row["account"],
                    type=row["type"],
                    error=type(error).__name__,
                    where=place(error),
                )
                await self._note(row["id"], Applied("failed", again=True), row["tries"])
        return len(rows)

    async def _note(self, event_id: int, applied: Applied, tries: int) -> None:
        delay = LADDER_S[tries] if applied.again and tries < len(LADDER_S) else None
        told = (applied.payment_id, applied.waits_for, applied.waits_kind)
        await self._pool.fetch(_DONE, event_id, applied.result, delay, *told)
        self._counted(applied.result)


def _strictly_read(account: Account, body: bytes) -> Sequence[Event]:
    """The events of a body that was proved, where it is strict JSON: what can be read in two ways is not read at all."""
    try:
        jiter.from_json(body, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise WebhookRefused("the body is not strict JSON", "unreadable") from error
    events = account.provider.parse_webhook(body)
    for event in events:
        if not all(0 < len(word.encode()) <= NAME_MAX and "\0" not in word for word in (event.event_id, event.type)):
            raise WebhookRefused("an event has no id or no type that can be kept", "unreadable")
    return events
