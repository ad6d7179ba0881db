"""Merchants and API keys, made and revoked from the command line; and events, sent again from there."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

from gateway import rate_books, shadow
from gateway.answers import instant
from gateway.api.auth import make_key
from gateway.endpoint_books import REPLAY_MAX, EndpointBooks, Range
from gateway.ids import INBOUND, numbered_id
from gateway.inbound import RESULTS, STATUSES, InboundLog, Wanted
from gateway.routing_books import RoutingBooks
from gateway.settings import VERSIONS, Settings, load_account_configs, load_settings
from gateway.sql import Pool, Statement, columns, connect, values
from gateway.tables import ApiKey, Merchant
from gateway.uplift import report
from gateway.vault import Keyring
from gateway.verify import since_when
from providers.registry import ConfigError
from webhooks.catalog import types_of

SHOWN: Final = 20
TURN_S: Final = 0.1
MERCHANT_ID: Final = re.compile(r"mer_[a-z0-9_]{1,60}")

_CREATE_MERCHANT: Final = Statement(
    f"INSERT INTO merchant ({columns(Merchant)}) VALUES ({values(Merchant, '')}) ON CONFLICT DO NOTHING RETURNING id",
    writes="create_merchant",
)
_MERCHANT: Final = Statement("SELECT id FROM merchant WHERE id = :id")
_CREATE_KEY: Final = Statement(
    f"INSERT INTO api_key ({columns(ApiKey)}) VALUES ({values(ApiKey, '')}) RETURNING id", writes="create_key"
)
_REVOKE: Final = Statement(
    "UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE id = :id RETURNING id, merchant_id",
    writes="revoke_key",
)
_LIST: Final = Statement(f"SELECT {columns(ApiKey)} FROM api_key WHERE merchant_id = :id ORDER BY created_at")


async def create_merchant(merchant_id: str, name: str) -> str:
    """Create a merchant; says so if it was there. Raises :class:`ConfigError` for an id that is not one."""
    if MERCHANT_ID.fullmatch(merchant_id) is None:
        raise ConfigError(f"{merchant_id!r} is not a merchant id: mer_ and small letters, digits or underscores")
    async with _database() as (pool, _):
        row = await _CREATE_MERCHANT.row(pool, {"id": merchant_id, "name": name, "created_at": datetime.now(UTC)})
    return f"merchant {merchant_id} {'created' if row else 'was there already'}"


async def create_key(merchant_id: str, kind: Literal["secret", "publishable"], *, livemode: bool) -> str:
    """Create a key and return its text, the only time it is shown. Raises :class:`ConfigError` for an unknown merchant."""
    async with _database() as (pool, settings):
        if await _MERCHANT.row(pool, {"id": merchant_id}) is None:
            raise ConfigError(
                f"there is no merchant {merchant_id}; make it with: gateway merchants create {merchant_id}"
            )
        key = make_key(kind, livemode=livemode)
        keyring = Keyring.derive(settings.secret_key.get_secret_value())
        row: dict[str, Any] = {
            "id": key.id,
            "merchant_id": merchant_id,
            "kind": kind,
            "livemode": livemode,
            "secret_hash": keyring.hash_api_key(key.secret),
            "version": VERSIONS[0],
            "created_at": datetime.now(UTC),
            "revoked_at": None,
        }
        await _CREATE_KEY.row(pool, row)
    return key.text


async def revoke_key(key_id: str) -> str:
    """Revoke a key; revoking it again changes nothing. Raises :class:`ConfigError` for an unknown id."""
    async with _database() as (pool, _):
        row = await _REVOKE.row(pool, {"id": key_id})
    if row is None:
        raise ConfigError(f"there is no key {key_id}; see: gateway keys list MERCHANT")
    return f"key {key_id} of {row['merchant_id']} is revoked"


async def list_keys(merchant_id: str) -> list[str]:
    """A line a key: id, mode, kind, when it was made, and whether it is revoked."""
    async with _database() as (pool, _):
        rows = await _LIST.rows(pool, {"id": merchant_id})
    return [
        f"{row['id']}  {'live' if row['livemode'] else 'test'}  {row['kind']}  created {instant(row['created_at'])}"
        + (f"  revoked {instant(row['revoked_at'])}" if row["revoked_at"] else "")
        for row in rows
    ]


async def replay_events(
    endpoint_id: str, since: str, until: str | None, types: Sequence[str] | None, *, everything: bool, dry_run: bool
) -> str:
    """Send an endpoint the events of a time again, or say how many that would be; asked again it sends what is not on its way.

    Raises :class:`ConfigError` for an unknown or disabled endpoint, a time that is none, a type that there is not, and a range of
    more than 100 000 events.
    """
    now = datetime.now(UTC)
    start, end = since_when(since, now), now if until is None else since_when(until, now, "--until")
    if start >= end:
        raise ConfigError("--until: must be later than --since")
    if unknown := [name for name in types or () if not types_of([name])]:
        raise ConfigError(f"--type: {unknown[0]!r} is no type of event and no family; docs/events.md lists them")
    wanted = Range(start, end, types_of(types) if types else None, everything)
    async with _database() as (pool, _):
        books = EndpointBooks(pool)
        endpoint = await books.anyones(endpoint_id)
        if endpoint is None:
            raise ConfigError(f"there is no endpoint {endpoint_id}")
        if endpoint.status != "enabled":
            raise ConfigError(f"endpoint {endpoint_id} is {endpoint.status}: nothing is sent there")
        events = await books.missed(endpoint_id, wanted)
        if events > REPLAY_MAX:
            raise ConfigError(f"the range holds more than {REPLAY_MAX} events; choose a shorter one")
        if not dry_run:
            events = await books.replay(endpoint_id, wanted)
    what = f"{events} events of {instant(start)} to {instant(end)}"
    return (
        f"{what} would be sent again; with --apply they are" if dry_run else f"{what} are sent again to {endpoint_id}"
    )


async def replay_inbound(
    accounts: Sequence[str], since: str, filters: Mapping[str, str | None], say: Callable[[str], None], *, dry_run: bool
) -> None:
    """Make events that were received due again, or say what that would be. May be run any number of times.

    What is more than one call takes is taken in several, and ``say`` is told of each. ``filters`` are ``until``, ``type``, ``result`` and
    ``status``. Raises :class:`ConfigError` for an account, a time or a word that there is not.
    """
    now, until = datetime.now(UTC), filters.get("until")
    for name, words in (("result", RESULTS), ("status", STATUSES)):
        if (said := filters.get(name)) is not None and said not in words:
            raise ConfigError(f"--{name}: {said!r} is none of: {', '.join(words)}")
    wanted = Wanted(
        accounts=accounts,
        created_gte=since_when(since, now),
        created_lt=now if until is None else since_when(until, now, "--until"),
        type=filters.get("type"),
        result=filters.get("result"),
        status=filters.get("status"),
    )
    async with _database() as (pool, settings):
        known = {config.name for config in load_account_configs(settings)}
        if unknown := sorted(set(accounts) - known):
            raise ConfigError(
                f"--account: {', '.join(unknown)} is not configured; there are: {', '.join(sorted(known))}"
            )
        counts: Counter[str] = Counter()
        done = await InboundLog(pool).replay(wanted, dry_run=dry_run)
        counts.update(done.by_result)
        while done.after is not None:
            say(f"{counts.total()} events, up to {numbered_id(INBOUND, done.after)}")
            done = await InboundLog(pool).replay(wanted, dry_run=dry_run, after=done.after)
            counts.update(done.by_result)
    if dry_run:
        say(f"{counts.total()} events would be applied again. Nothing was changed: do it with --apply")
    else:
        say(f"{counts.total()} events are due: the worker applies them. What is known already changes nothing")
    for result, events in sorted(counts.items()):
        say(f"  {result}: {events}")


async def uplifts(merchant_id: str, *, livemode: bool) -> list[str]:
    """A line a version that strategies decide by: its id, whether it is in force, and what it earns beside its holdout; newest first.

    The last 20 versions. Raises :class:`ConfigError` for an unknown merchant.
    """
    async with _database() as (pool, _):
        if await _MERCHANT.row(pool, {"id": merchant_id}) is None:
            raise ConfigError(f"there is no merchant {merchant_id}")
        found = await report(merchant_id, RoutingBooks(pool), datetime.now(UTC), livemode=livemode, limit=SHOWN)
    return [f"{each['config']}  {'in force  ' if each['in_force'] else ''}{each['sentence']}" for each in found]


async def shadows(merchant_id: str, *, livemode: bool) -> list[str]:
    """A line a version that has watched payments: its id, whether it watches now, and what it would have approved; newest first.

    The last 20 versions. Raises :class:`ConfigError` for an unknown merchant.
    """
    async with _database() as (pool, _):
        if await _MERCHANT.row(pool, {"id": merchant_id}) is None:
            raise ConfigError(f"there is no merchant {merchant_id}")
        now = datetime.now(UTC)
        found = await shadow.report(merchant_id, RoutingBooks(pool), now, livemode=livemode, limit=SHOWN)
    return [f"{each['config']}  {'watching  ' if each['watching'] else ''}{each['sentence']}" for each in found]


async def count_rates(say: Callable[[str], None]) -> None:
    """Count all payments for the rates until nothing is left that is not counted, beside the worker, and ``say`` how far it is."""
    async with _database() as (pool, _):
        total = 0
        while True:
            total += await rate_books.fold(pool)
            if (await rate_books.counted_to(pool)).complete:
                say(f"{total} payments counted; the rates are complete")
                return
            say(f"{total} payments counted")
            await asyncio.sleep(TURN_S)  # the worker may be at it, too


@asynccontextmanager
async def _database() -> AsyncIterator[tuple[Pool, Settings]]:
    settings = load_settings()
    pool = await connect(settings.database_url.get_secret_value())
    try:
        yield pool, settings
    finally:
        pool.close()
