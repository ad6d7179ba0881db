"""Who is asking: API keys, read from the Authorization header and nowhere else.

A key is ``sk_{test|live}_<id>_<secret>_<checksum>``. The id finds the row, the secret is compared as a keyed hash, and the checksum
lets a scanner tell a real key from a random string without asking us.
"""

from __future__ import annotations

import hmac
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex, token_urlsafe
from typing import Final, Literal

from gateway.errors import Problem
from gateway.queries import Queries
from gateway.sql import DATABASE_LOST
from gateway.vault import Keyring

CACHE_S: Final = 5.0
"""How long a key is remembered: a revoked key is refused everywhere within five seconds."""
CACHE_MAX: Final = 10_000

DEV_MERCHANT: Final = "mer_dev"
DEV_KEYS: Final = {"sk_test_dev": "secret", "pk_test_dev": "publishable"}
"""The fixed keys of `gateway dev`; any other gateway refuses them."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A merchant in one mode, and what its key may do."""

    merchant_id: str
    livemode: bool
    kind: Literal["secret", "publishable"]
    key_id: str
    """Which of the merchant's keys it is: no secret."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. ``text`` is shown once and never stored."""

    id: str
    text: str = field(repr=False)
    secret: str = field(repr=False)


def make_key(kind: Literal["secret", "publishable"], *, livemode: bool) -> NewKey:
    """A new key of 256 random bits."""
    prefix = f"{'sk' if kind == 'secret' else 'pk'}_{'live' if livemode else 'test'}"
    key_id = token_hex(8)
    secret = token_urlsafe(32).replace("-", "x").replace("_", "y")
    body = f"{prefix}_{key_id}_{secret}"
    return NewKey(key_id, f"{body}_{_checksum(body)}", secret)


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


class Authenticator:
    """Turns an Authorization header into a principal. ``lost`` is told of every key that could not be looked up."""

    def __init__(self, queries: Queries, keys: Keyring, *, dev: bool, lost: Callable[[], None] = lambda: None) -> None:
        self._queries = queries
        self._keys = keys
        self._dev = dev
        self._lost = lost
        self._known: dict[str, tuple[float, Principal]] = {}

    async def principal(self, header: str | None) -> Principal:
        """Who the key belongs to. Raises :class:`Problem`: 401, the same for every reason, or 503 where it cannot be looked up."""
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated()
        known = self._known.get(token)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        principal = self._dev_principal(token) or await self._stored(token)
        if len(self._known) >= CACHE_MAX:
            self._known.clear()
        self._known[token] = (time.monotonic() + CACHE_S, principal)
        return principal

    def _dev_principal(self, token: str) -> Principal | None:
        kind = DEV_KEYS.get(token) if self._dev else None
        if kind is None:
            return None
        return Principal(DEV_MERCHANT, False, "secret" if kind == "secret" else "publishable", token)

    async def _stored(self, token: str) -> Principal:
        parts = token.split("_")
        if len(parts) != 5 or _checksum(token.rpartition("_")[0]) != parts[4]:
            raise _unauthenticated()
        try:
            row = await self._queries.api_key(parts[2])
        except DATABASE_LOST:  # nothing was begun, so nothing is in doubt
            self._lost()
            raise Problem("database_unavailable", "Send the same request with the same key again.") from None
        if row is None or row["revoked_at"] is not None:
            raise _unauthenticated()
        if not hmac.compare_digest(bytes(row["secret_hash"]), self._keys.hash_api_key(parts[3])):
            raise _unauthenticated()
        mode, kind = ("live" if row["livemode"] else "test"), ("sk" if row["kind"] == "secret" else "pk")
        if parts[:2] != [kind, mode]:
            raise _unauthenticated()
        return Principal(row["merchant_id"], row["livemode"], row["kind"], parts[2])


def _unauthenticated() -> Problem:
    return Problem("unauthenticated", "Send a valid API key: Authorization: Bearer sk_…")
