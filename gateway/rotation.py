"""Rotating the vault's key: every record that an older key has sealed is wrapped anew under the first one, while charges go on.

Only the data key of a record is unwrapped and wrapped again; its body is neither read nor written anew. Each record is put in the
place of exactly the bytes it was made from, so whatever a charge wipes or seals meanwhile stands. A run may be cut off at any
moment and started again: what is wrapped anew already is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from gateway.books import Books
from gateway.method_books import MethodBooks
from gateway.queries import Queries, SealedRow
from gateway.settings import load_settings
from gateway.sql import connect
from gateway.vault import SealBroken, Sealer, key_id_of
from providers.registry import ConfigError

BATCH: Final = 200
"""Rows read at a time; each is written by itself, so no lock outlives one row."""
SAY_EVERY: Final = 1000
PASSES_MAX: Final = 5
"""How often all rows are gone through, because older keys have sealed some meanwhile."""

Say = Callable[[str], None]
Read = Callable[[str, int], Awaitable[list[SealedRow]]]


@dataclass(slots=True)
class Counts:
    """Records by the id of the key that has sealed them, and those that no configured key opens."""

    by_key: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Vault:
    """The vault's keys and the rows that hold what they have sealed."""

    sealer: Sealer
    queries: Queries
    books: Books
    methods: MethodBooks

    async def count(self) -> Counts:
        """What is sealed under which key, now."""
        counts = Counts()
        for _, rows in self._kinds():
            async for row in _all(rows):
                counts.by_key.update(key_id_of(record).hex() for record in row.records.values())
        return counts

    async def rotate(self, say: Say) -> Counts:
        """Wrap anew what older keys have sealed, until there is none, and say how it goes. Returns what is there in the end."""
        broken: dict[str, None] = {}
        for number in range(1, PASSES_MAX + 1):
            old = done = 0
            for kind, rows in self._kinds():
                async for row in _all(rows):
                    if self._is_new(row) or row.id in broken:
                        continue
                    old += 1
                    try:
                        done += await self._rewrap(kind, row)
                    except SealBroken:
                        broken[row.id] = None
                    if old % SAY_EVERY == 0:
                        say(f"pass {number}: {done} rows wrapped anew")
            say(f"pass {number}: {done} rows wrapped anew, all rows gone through")
            if not old:
                break
        counts = await self.count()
        counts.broken.extend(broken)
        return counts

    def _kinds(self) -> tuple[tuple[str, Read], ...]:
        return ("method", self.queries.sealed_methods), ("request", self.queries.sealed_requests)

    def _is_new(self, row: SealedRow) -> bool:
        return all(key_id_of(record) == self.sealer.key_id for record in row.records.values())

    async def _rewrap(self, kind: str, row: SealedRow) -> bool:
        """Wrap one row's records anew. ``False`` where somebody has changed them since they were read."""
        rewrapped = {
            purpose: self.sealer.rewrap(record, row.merchant_id, row.id, purpose)
            for purpose, record in row.records.items()
        }
        if kind == "request":
            return await self.books.rewrap(row.id, row.records["request"], rewrapped["request"])
        return await self.methods.rewrap(row.id, row.records, rewrapped)


async def _all(read: Read) -> AsyncIterator[SealedRow]:
    after = ""
    while rows := await read(after, BATCH):
        for row in rows:
            yield row
        after = rows[-1].id


@asynccontextmanager
async def open_vault() -> AsyncIterator[Vault]:
    """The vault of the environment's settings. Raises :class:`ConfigError` where no vault key is set."""
    settings = load_settings()
    if not settings.vault_keys:
        raise ConfigError("GATEWAY_VAULT_KEY is not set: there is no vault")
    pool = await connect(settings.database_url.get_secret_value())
    try:
        yield Vault(Sealer(*settings.vault_keys), Queries(pool), Books(pool), MethodBooks(pool))
    finally:
        pool.close()


async def status(say: Say) -> bool:
    """Say how many records each key has sealed. Whether all are sealed under the first key."""
    async with open_vault() as vault:
        return report(await vault.count(), vault.sealer, say)


async def rotate(say: Say) -> bool:
    """Wrap anew what older keys have sealed. Whether all records are sealed under the first key in the end."""
    async with open_vault() as vault:
        return report(await vault.rotate(say), vault.sealer, say)


def report(counts: Counts, sealer: Sealer, say: Say) -> bool:
    """Say what is sealed under which key, and what follows. Whether the older keys may be taken away."""
    roles = {key_id.hex(): "opens only" for key_id in sealer.key_ids} | {sealer.key_id.hex(): "seals"}
    for key_id, role in roles.items():
        say(f"key {key_id}  {role}  {counts.by_key[key_id]} records")
    for key_id in sorted(counts.by_key.keys() - roles.keys()):
        say(f"key {key_id}  not configured  {counts.by_key[key_id]} records")
    for row_id in counts.broken:
        say(f"{row_id} does not open: its key is not configured, or it was changed")
    left = counts.by_key.total() - counts.by_key[sealer.key_id.hex()]
    if left or counts.broken:
        say(f"{left} records are not sealed under the first key: keep the others, and run: gateway vault rotate")
        return False
    say("all records are sealed under the first key: the others may be taken away")
    return True
