"""The inbox: an event is stored once, acknowledged after that commit, then applied; and applied again by the worker if that failed.

The inbox knows nothing of payments. It is handed a function that applies one event; what that function says is the end of the
event's way, or that it should be tried again later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from providers.contract import Event
from providers.registry import Account

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
    """What became of an event. ``again``: it may mean something later."""

    result: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """An event that was stored just now."""

    id: int
    account: str
    event: Event


Apply = Callable[[str, Event], Awaitable[Applied]]
Seal = Callable[..., bytes]

_STORE: Final = f"""INSERT INTO webhook_inbox
    (account, event_id, type, sealed_body, position, received_at, tries, due_at)
    SELECT $1, e.event_id, e.type, $2, e.position, now(), 0, now() + interval '{AT_ONCE_S} seconds'
    FROM unnest($3::text[], $4::text[], $5::int[]) AS e(event_id, type, position)
    ON CONFLICT (account, event_id) DO NOTHING RETURNING id, position"""
_DONE: Final = """UPDATE webhook_inbox SET result = $2, tries = tries + 1,
    due_at = now() + make_interval(secs => $3::float8),
    applied_at = CASE WHEN $3::float8 IS NULL THEN now() END WHERE id = $1"""
_DUE: Final = f"""UPDATE webhook_inbox SET due_at = now() + interval '{LEASE_S} seconds' WHERE id IN
    (SELECT id FROM webhook_inbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, account, type, sealed_body, position, tries"""
WRITES: Final[Mapping[str, str]] = {_STORE: "receive", _DONE: "note", _DUE: "claim"}
"""What each of these statements is called, by its text."""


class Inbox:
    """Stores and applies. Every method may be called again for the same webhook."""

    def __init__(self, pool: Pool, seal: Seal, unseal: Seal, apply: Apply) -> None:
        self._pool = pool
        self._seal = seal
        self._open = unseal
        self._apply = apply

    async def receive(self, account: Account, headers: Mapping[str, str], body: bytes) -> Sequence[Received]:
        """Verify and store. What is returned is committed, and was not there before.

        Raises :class:`providers.contract.WebhookRefused` for what is not authentic: nothing is stored then.
        """
        account.provider.verify_webhook(headers, body)
        events = account.provider.parse_webhook(body)
        sealed = self._seal(body, account.name, "webhook")
        rows = await self._pool.fetch(
            _STORE,
            account.name,
            sealed,
            [event.event_id for event in events],
            [event.type for event in events],
            list(range(len(events))),
        )
        return [Received(row["id"], account.name, events[row["position"]]) for row in rows]

    async def apply(self, received: Received, tries: int = 0) -> str:
        """Apply one stored event and note what became of it. Raises what the database raises; then it is due again."""
        applied = await self._apply(received.account, received.event)
        await self._note(received.id, applied.result, again=applied.again, tries=tries)
        log.info("webhook_applied", account=received.account, type=received.event.type, result=applied.result)
        return applied.result

    async def apply_due(self, accounts: Mapping[str, Account], limit: int) -> int:
        """Apply events that are due, as the worker does. Returns how many were taken."""
        rows = await self._pool.fetch(_DUE, limit)
        for row in rows:
            account = accounts.get(row["account"])
            if account is None:
                continue
            try:
                body = self._open(row["sealed_body"], row["account"], "webhook")
                event = account.provider.parse_webhook(body)[row["position"]]
                await self.apply(Received(row["id"], row["account"], event), row["tries"])
            except Exception as error:  # one event's trouble must not keep the others waiting
                log.error("webhook_apply_failed", account=row["account"], type=row["type"], error=type(error).__name__)
                await self._note(row["id"], "failed", again=True, tries=row["tries"])
        return len(rows)

    async def _note(self, event_id: int, result: str, *, again: bool, tries: int) -> None:
        delay = LADDER_S[tries] if again and tries < len(LADDER_S) else None
        await self._pool.fetch(_DONE, event_id, result, delay)
