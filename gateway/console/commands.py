"""``gateway users …``: the console's users, made, listed, given new passwords and let in no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.answers import instant
from gateway.console.passwords import generated
from gateway.console.users import LINK_S, Users
from gateway.settings import Settings, load_settings
from gateway.sql import connect
from gateway.vault import Keyring
from providers.registry import ConfigError


async def create(email: str, merchant_id: str, password: str | None) -> list[str]:
    """Make a user; without a ``password`` one is generated and shown, this once. Raises :class:`ConfigError` where that cannot be."""
    chosen = password or generated()
    async with _users() as (users, _):
        await users.create(email, merchant_id, chosen)
    return [f"user {email.strip().lower()} may look at {merchant_id}", *_shown(password, chosen)]


async def reset(email: str, password: str | None) -> list[str]:
    """Give a user another password, sign them out everywhere, and let them in again if they were disabled."""
    chosen = password or generated()
    async with _users() as (users, _):
        await users.set_password(email, chosen)
    return [f"user {email.lower()} has a new password, and is signed out everywhere", *_shown(password, chosen)]


async def disable(email: str) -> str:
    """Let a user in no more, and sign them out everywhere. Again changes nothing."""
    async with _users() as (users, _):
        await users.disable(email)
    return f"user {email.lower()} is disabled, and signed out everywhere"


async def listed() -> list[str]:
    """A line a user: email, merchant, when they were made, whether they are disabled, and when they last looked."""
    async with _users() as (users, _):
        rows = await users.all()
    return [
        f"{row['email']}  {row['merchant_id']}  created {instant(row['created_at'])}"
        + (f"  disabled {instant(row['disabled_at'])}" if row["disabled_at"] else "")
        + (f"  signed in, last seen {instant(row['seen_at'])}" if row["seen_at"] else "")
        for row in rows
    ]


async def link(email: str) -> list[str]:
    """An address that signs a user in once. Raises :class:`ConfigError` outside development, where a password is asked for."""
    async with _users() as (users, settings):
        if not settings.dev:
            raise ConfigError(
                "links are for development (GATEWAY_DEV=1); a new password: gateway users reset " + email.lower()
            )
        token = await users.link(email)
    return [
        f"{settings.public_url.rstrip('/')}/console/link/{token}",
        f"It signs in once, within {LINK_S // 60} minutes.",
    ]


async def first_link(database_url: str, email: str, merchant_id: str) -> str:
    """The token of a link for the user of ``gateway dev``, who is made if they are not there. May be called at every start."""
    pool = await connect(database_url)
    try:
        users = Users(pool, b"")
        if not any(user["email"] == email for user in await users.all()):
            await users.create(email, merchant_id, None)
        return await users.link(email)
    finally:
        pool.close()


def _shown(password: str | None, chosen: str) -> list[str]:
    return [] if password else [f"password: {chosen}", "It is shown this once."]


@asynccontextmanager
async def _users() -> AsyncIterator[tuple[Users, Settings]]:
    settings = load_settings()
    keys = Keyring.derive(settings.secret_key.get_secret_value())
    pool = await connect(settings.database_url.get_secret_value())
    try:
        yield Users(pool, keys.console), settings
    finally:
        pool.close()
