"""Endpoints: where a merchant is told of events. Made once a key, changed, tested, and told again what they have missed.

A secret is shown in the answer that makes it and nowhere else. At rest it is sealed; what may be said of it is its fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from gateway.answers import Answer, instant
from gateway.books import KeyUse, Written
from gateway.deps import Deps
from gateway.endpoint_books import REPLAY_MAX, TEST, Endpoint, Range, endpoint_values
from gateway.errors import Problem
from gateway.events import Event, endpoint_event
from gateway.methods import stored_once
from gateway.vault import Sealer
from idempotency.key import Key
from webhooks.catalog import ALL, types_of
from webhooks.egress import Refused, check_url
from webhooks.signing import Secret, Secrets

ENDPOINTS_MAX: Final = 20
"""The endpoints of one merchant in one mode: each of them is sent every event that it wants."""
ROTATIONS_MAX: Final = 5
PURPOSE: Final = "webhook_endpoint"
"""What its secrets are sealed for: they open as nothing else, and for no other endpoint."""


def endpoint_object(endpoint: Endpoint, secrets: Secrets | None, now: datetime) -> dict[str, Any]:
    """An endpoint as the API shows it to its merchant. ``secrets`` are shown by their fingerprints alone."""
    live = frozenset(() if secrets is None else secrets.live(now.timestamp()))
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "url": endpoint.url,
        "description": endpoint.description,
        "events": [ALL] if endpoint.wanted is None else list(endpoint.wanted),
        "status": endpoint.status,
        "disabled_reason": endpoint.disabled_reason,
        "secrets": [_secret_object(each) for each in (secrets.kept if secrets else ()) if each.secret in live],
        "failing_since": instant(endpoint.failing_since),
        "failed_events": endpoint.failed_events,
        "paused_until": instant(endpoint.paused_until),
        "livemode": endpoint.livemode,
        "created": instant(endpoint.created_at),
        "updated": instant(endpoint.updated_at),
    }


def _secret_object(secret: Secret) -> dict[str, Any]:
    until = None if secret.until is None else datetime.fromtimestamp(secret.until, UTC)
    return {"fingerprint": secret.fingerprint, "expires": instant(until)}


def delivery_object(row: Mapping[str, Any], tries: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """An event on its way to an endpoint, with the last try, or with all of them."""
    last = {name: row[f"last_{name}"] for name in ("at", "status", "error", "excerpt", "took_ms")}
    told: dict[str, Any] = {"last_attempt": None if last["at"] is None else try_object(last)}
    if tries is not None:
        told = {"attempts": [try_object(each) for each in tries]}
    return {
        "object": "delivery",
        "endpoint": row["endpoint_id"],
        "event": row["event_id"],
        "type": row["type"],
        "payment": row["payment_id"],
        "status": row["status"],
        "tries": row["tries"],
        "next_try": instant(row["due_at"]),
        "created": instant(row["created_at"]),
        "delivered": instant(row["delivered_at"]),
        **told,
    }


def try_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """One try: the HTTP status that came back, or in a word why none did."""
    return {
        "object": "delivery_attempt",
        "at": instant(row["at"]),
        "status": row["status"],
        "error": row["error"],
        "excerpt": row["excerpt"],
        "took_ms": row["took_ms"],
    }


# --- What is asked ------------------------------------------------------------------------------------------------------


def checked_url(url: str, deps: Deps) -> str:
    """The URL, where events may be sent there. Raises :class:`Problem` (422) with the reason."""
    try:
        check_url(url, loopback=deps.webhooks_allow_loopback)
    except Refused as refused:
        raise Problem("validation_failed", str(refused), "url") from None
    return url


def chosen(wanted: Sequence[str] | None) -> tuple[list[str] | None, list[str] | None]:
    """What was asked for and the types that are meant, as they are stored: nothing where it is every type.

    Raises :class:`Problem` (422) naming the first that is no type and no family.
    """
    for at, name in enumerate(wanted or ()):
        if not types_of([name]):
            sentence = "Send types such as payment.succeeded (docs/events.md), families such as payment.*, or *."
            raise Problem("validation_failed", sentence, f"events.{at}")
    if wanted is None or ALL in wanted:
        return None, None
    return list(dict.fromkeys(wanted)), sorted(types_of(wanted))


async def create(endpoint: Endpoint, secrets: Secrets, key: Key, fingerprint: bytes, deps: Deps) -> Answer:
    """Make an endpoint, once a key. The answer holds its secret, also when it is replayed. Raises :class:`Problem` (422) past the most."""
    full = None
    if await deps.endpoint_books.count(key.merchant_id, livemode=key.livemode) >= ENDPOINTS_MAX:
        full = Problem("validation_failed", f"There are {ENDPOINTS_MAX} endpoints already. Delete one of them first.")

    async def write(use: KeyUse) -> Written:
        return await deps.books.store("endpoint", endpoint_values(endpoint), endpoint.id, use, endpoint.created_at)

    shown = {**endpoint_object(endpoint, secrets, endpoint.created_at), "secret": secrets.newest.secret}
    return await stored_once(key, fingerprint, deps, Answer(201, orjson.dumps(shown)), write, full)


async def rotate(endpoint: Endpoint, deps: Deps, *, revoke_old: bool) -> tuple[Endpoint, Secrets]:
    """Give the endpoint a new secret, and what it has now. The old one signs beside it for a day, or no more with ``revoke_old``.

    Asked again it makes another one: the last answer's is the newest. Raises :class:`Problem` (409) where it is deleted.
    """
    for _ in range(ROTATIONS_MAX):
        if endpoint.sealed_secrets is None:
            raise deleted()
        now = deps.clock()
        secrets = opened(endpoint, deps.keys.sealer).rotated(now.timestamp())
        secrets = secrets.revoked_old() if revoke_old else secrets
        rotated = await deps.endpoint_books.rotate(endpoint, sealed(secrets, endpoint.id, deps.keys.sealer), now)
        if rotated is not None:
            return rotated, secrets
        endpoint = await deps.endpoint_books.anyones(endpoint.id) or endpoint
    raise Problem("request_in_progress", "Its secret is being changed by another request.")


async def test(endpoint: Endpoint, deps: Deps) -> Event:
    """Send a ``webhook_endpoint.test`` to this endpoint alone. Raises :class:`Problem` (409) where it is disabled."""
    now = deps.clock()
    row = {name: getattr(endpoint, name) for name in Endpoint.__dataclass_fields__}
    told = endpoint_event(TEST, {**row, "at": now})
    if not await deps.endpoint_books.test(endpoint, told, now):
        raise disabled()
    return told


async def replay(endpoint: Endpoint, wanted: Range, deps: Deps, *, dry_run: bool) -> int:
    """Send what the range holds again, and how many events that is; with ``dry_run`` only how many.

    Raises :class:`Problem`: 409 where the endpoint is disabled, 422 for a range of more than 100 000 events. Asked again it sends
    only what is not on its way.
    """
    if endpoint.status != "enabled":
        raise disabled()
    events = await deps.endpoint_books.missed(endpoint.id, wanted)
    if events > REPLAY_MAX:
        raise Problem(
            "validation_failed", f"The range holds more than {REPLAY_MAX} events; ask for a shorter one.", "to"
        )
    return events if dry_run else await deps.endpoint_books.replay(endpoint.id, wanted)


def disabled() -> Problem:
    """What is answered where nothing is sent any more."""
    return Problem("not_deliverable", "The endpoint is disabled or deleted; enable it first with status: enabled.")


def deleted() -> Problem:
    """What is answered where nothing can be changed any more."""
    return Problem("not_deliverable", "This endpoint was deleted; make another one.")


# --- Secrets --------------------------------------------------------------------------------------------------------------


def sealed(secrets: Secrets, endpoint_id: str, sealer: Sealer) -> bytes:
    """The secrets of an endpoint, as they are stored."""
    return sealer.seal_json(secrets.to_json(), endpoint_id, PURPOSE)


def opened(endpoint: Endpoint, sealer: Sealer) -> Secrets:
    """The secrets as they were sealed; none of a deleted endpoint. Raises :class:`gateway.vault.SealBroken`."""
    if endpoint.sealed_secrets is None:
        return Secrets(())
    return Secrets.from_json(sealer.open_json(endpoint.sealed_secrets, endpoint.id, PURPOSE))
