"""Refusals: how many webhooks were not believed, by account, reason and minute.

They are counted here and written at most once a second, so that a flood of forgeries costs the database a row a minute and no more.
A count is lost with its process: it is a hint for people, never the books.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from webhooks.inbox import Pool

UNKNOWN: Final = "unknown"
"""The account of webhooks that named none of ours: whatever they named, they are counted as one."""
WRITE_EVERY_S: Final = 1.0
KEPT_DAYS: Final = 30
"""As long as any provider goes on sending what it could not deliver."""
UNWRITTEN_MAX: Final = 1_000
"""More different counts than this do not wait for a database that is gone."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a webhook is not taken: what it is answered, and what that means to whoever runs this."""

    status: int
    code: str
    detail: str
    meaning: str


_PROOF: Final = "The signature does not verify this body."
_WHO: Final = "No such account, or its webhooks are not configured."
REASONS: Final[Mapping[str, Reason]] = {
    "unknown_account": Reason(401, "webhook_refused", _WHO, "The address names no account of the configuration."),
    "no_secret": Reason(401, "webhook_refused", _WHO, "The account has no webhook secret, so nothing can be proved."),
    "basic_auth": Reason(
        401, "webhook_refused", "The user and the password do not fit.", "The user or the password is missing or wrong."
    ),
    "signature": Reason(
        401, "webhook_refused", _PROOF, "No configured secret has signed this: a wrong secret, a change, or a forgery."
    ),
    "stale": Reason(
        401,
        "webhook_refused",
        "The signature is older than five minutes.",
        "Rightly signed more than five minutes ago: sent again by somebody, or one of the clocks is wrong.",
    ),
    "future": Reason(
        401, "webhook_refused", "The signature is from the future.", "Rightly signed, by a clock that is ahead of ours."
    ),
    "another_account": Reason(
        401, "webhook_refused", "It is about another account.", "Authentic, and about another account than its address."
    ),
    "another_mode": Reason(
        401, "webhook_refused", "It is of the other mode, test or live.", "Authentic, and of test where this is live."
    ),
    "unreadable": Reason(
        400,
        "webhook_unreadable",
        "The body is no webhook that can be read.",
        "Not JSON, not strict JSON, or no event of this provider.",
    ),
    "too_large": Reason(413, "body_too_large", "A webhook has at most 262144 bytes.", "More than 256 KiB."),
    "encoded": Reason(
        415, "webhook_encoded", "Send it without a Content-Encoding.", "Compressed: it is not unpacked, nor looked at."
    ),
    "too_slow": Reason(
        408, "webhook_too_slow", "The body did not come within ten seconds.", "Its body did not come in ten seconds."
    ),
}
"""By the word that is counted, stored and shown. The words stay."""

_COUNT: Final = f"""WITH old AS (DELETE FROM webhook_refusal WHERE minute < now() - interval '{KEPT_DAYS} days')
    INSERT INTO webhook_refusal (minute, account, reason, refused)
    SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::bigint[])
    ON CONFLICT (minute, account, reason) DO UPDATE SET refused = webhook_refusal.refused + excluded.refused"""
WRITES: Final[Mapping[str, str]] = {_COUNT: "count"}
"""What this statement is called, by its text."""

log = structlog.get_logger()


class Refusals:
    """Counts, and writes what was counted."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._counts: Counter[tuple[int, str, str]] = Counter()
        self._writing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    def note(self, account: str, reason: str) -> None:
        """Count one. It is written within about a second, if the process lives as long."""
        minute = int(time.time()) // 60 * 60
        key = (minute, account, reason)
        if key in self._counts or len(self._counts) < UNWRITTEN_MAX:
            self._counts[key] += 1
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_soon())

    async def _write_soon(self) -> None:
        while self._counts:  # more may come while some are written, or these may not be written yet
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WRITE_EVERY_S):
                    await self._ending.wait()
            await self.write()
            if self._ending.is_set():
                return

    async def write(self) -> None:
        """Write what was counted. What could not be written is kept; never raises what the database raises."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        keys = sorted(counts)  # in one order everywhere, so that two processes never wait for each other
        columns = (
            [datetime.fromtimestamp(minute, UTC) for minute, _, _ in keys],
            [account for _, account, _ in keys],
            [reason for _, _, reason in keys],
            [counts[key] for key in keys],
        )
        try:
            await self._pool.fetch(_COUNT, *columns)
        except Exception as error:  # a count must never be in the way of a webhook
            log.warning("webhook_refusals_not_written", error=type(error).__name__)
            self._counts.update(counts)

    async def drain(self) -> None:
        """Write what is left, at the end. What is being written is waited for: cut off, it would be lost."""
        self._ending.set()
        if self._writing is not None:
            await self._writing
        await self.write()
