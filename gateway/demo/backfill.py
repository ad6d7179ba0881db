"""The back-fill: a month of payments, written once, in one transaction, so that there is something to look at on the first start.

Everything is there or nothing is, and who starts again finds the first key and writes nothing. Rows go in by ``COPY``, and only where
nothing real can be: with development settings, into test mode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import asyncpg  # it ships no types
import orjson

from gateway.api.auth import DEV_KEYS, DEV_MERCHANT
from gateway.demo.lives import House, Life, Rows, key_of
from gateway.demo.shoppers import DAYS, World, shoppers
from gateway.ids import PUBLICATION, ROUTING_VERSION, derived_id
from gateway.read_only import LOST
from gateway.settings import Settings, load_account_configs
from gateway.vault import Keyring
from providers.registry import ConfigError
from routing import document as documents

PAYMENTS: Final = 20_000
SEED: Final = 7
BATCH: Final = 500
"""Payments between two words about how far it is, and two looks at whether it is still wanted."""
CONNECT_S: Final = 5.0
SPLITS: Final = (55, 45)
"""How the first two accounts share the payments, where nobody has published anything else."""

_THERE: Final = "SELECT EXISTS (SELECT FROM idempotency_key WHERE merchant_id = $1 AND NOT livemode AND key = $2)"
_VERSIONED: Final = "SELECT EXISTS (SELECT FROM routing_version WHERE merchant_id = $1 AND NOT livemode)"

Tell = Callable[[int, int], None]
"""Told of how many payments are done, of how many."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What was written: payments, and all rows. Both are zero where the back-fill was there already."""

    payments: int = 0
    rows: int = 0


async def backfill(
    settings: Settings,
    environ: Mapping[str, str],
    tell: Tell,
    *,
    payments: int = PAYMENTS,
    seed: int = SEED,
    now: datetime | None = None,
) -> Filled:
    """Write ``payments`` of the last 30 days before ``now`` for the merchant of ``gateway dev``. Called again it writes nothing.

    The same ``seed`` and ``now`` give the same payments. ``environ`` holds the secrets of the accounts. What ``tell`` raises ends it,
    with nothing written. Raises :class:`ConfigError` outside development, where an account is live, where the merchant has none, and
    where the database cannot be reached.
    """
    accounts = _accounts(settings, environ)
    try:
        connection = await asyncpg.connect(settings.database_url.get_secret_value(), timeout=CONNECT_S)
    except (*LOST, ValueError) as error:
        raise ConfigError(f"GATEWAY_DATABASE_URL: the database cannot be reached ({type(error).__name__})") from None
    try:
        # COPY is binary; a JSONB value in it is its version, and the text.
        for name, version in (("jsonb", b"\x01"), ("json", b"")):
            await connection.set_type_codec(
                name,
                schema="pg_catalog",
                encoder=lambda value, head=version: head + orjson.dumps(value),
                decoder=lambda value, head=version: orjson.loads(value[len(head) :]),
                format="binary",
            )
        async with connection.transaction():
            if await connection.fetchval(_THERE, DEV_MERCHANT, key_of(seed, 1)):
                return Filled()
            keys = Keyring.derive(settings.secret_key.get_secret_value())
            house = House(DEV_MERCHANT, accounts, keys, seed, now or datetime.now(UTC))
            if len(accounts) > 1 and not await connection.fetchval(_VERSIONED, DEV_MERCHANT):
                house = await _published(house, connection)
            return await _filled(house, connection, tell, payments)
    finally:
        await connection.close(timeout=CONNECT_S)


def _accounts(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Providers by account. Raises :class:`ConfigError` wherever anything real could be meant."""
    if not settings.dev:
        raise ConfigError("payments that were never made are for development alone (GATEWAY_DEV=1)")
    configs = load_account_configs(settings, environ)  # which refuses live ones together with development settings
    accounts = {config.name: config.provider for config in configs if config.merchant == DEV_MERCHANT}
    if not accounts:
        raise ConfigError(f"GATEWAY_CONFIG: {DEV_MERCHANT} has no account that payments could have gone to")
    return accounts


async def _published(house: House, connection: Any) -> House:
    """The house with a routing document in force since before its first payment, so that every account has first attempts."""
    parts = dict(zip(house.accounts, SPLITS, strict=False))
    document = documents.read({"name": "Shared out", "default": {"split": parts}})
    canonical, at = document.canonical(), house.end - timedelta(days=DAYS, minutes=5)
    version = derived_id(ROUTING_VERSION, at, "demo", str(house.seed))
    owner = {"merchant_id": house.merchant, "livemode": False}
    rows: Rows = {
        "routing_version": [
            {
                "id": version,
                **owner,
                "number": 1,
                "name": document.name,
                "document": orjson.loads(canonical),
                "hash": sha256(canonical).hexdigest(),
                "parent": None,
                "note": "Made by gateway dev --traffic",
                "created_at": at,
                "created_by": next(iter(DEV_KEYS)),
            }
        ],
        "routing_publication": [
            {
                "id": derived_id(PUBLICATION, at, "demo", str(house.seed)),
                **owner,
                "sequence": 1,
                "kind": "publish",
                "version_id": version,
                "percent": 100,
                "shadow": False,
                "starts_at": at,
                "target": None,
                "reason": "Something to compare: both accounts have first attempts",
                "published_at": at,
                "published_by": next(iter(DEV_KEYS)),
                "approved_by": None,
            }
        ],
    }
    await _copy(rows, connection)
    return replace(house, version=version, document=document)


async def _filled(house: House, connection: Any, tell: Tell, payments: int) -> Filled:
    """Write batch after batch; while Postgres takes one in, the next is being lived."""
    lived = _batches(house, await connection.fetchval("SELECT pg_current_xact_id()"), payments)
    batch, done, written = next(lived, None), 0, 0
    while batch is not None:
        done += len(batch["payment"])
        tell(done, payments)
        copied, batch = await asyncio.gather(_copy(batch, connection), asyncio.to_thread(next, lived, None))
        written += copied
    return Filled(payments, written)


def _batches(house: House, xid: int, payments: int) -> Iterator[Rows]:
    """The rows of all payments, :data:`BATCH` of them at a time."""
    world, batch = World(house.seed, house.end, house.accounts), Rows()
    for done, shopper in enumerate(shoppers(house.seed, payments, house.end), start=1):
        for table, rows in Life(shopper, world, house).rows(xid).items():
            batch.setdefault(table, []).extend(rows)
        if done % BATCH == 0 or done == payments:
            yield batch
            batch = {}


async def _copy(rows: Rows, connection: Any) -> int:
    """Write rows, those of a table that others name first. How many."""
    written = 0
    for table, each in rows.items():
        if each:
            columns = list(each[0])
            records = [tuple(row[column] for column in columns) for row in each]
            await connection.copy_records_to_table(table, records=records, columns=columns)
            written += len(records)
    return written
