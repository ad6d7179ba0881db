"""What a key that was used before answers, for every money-moving verb alike."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.answers import Answer, replayed
from gateway.books import KeyUse, Written
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.queries import UsedKey
from gateway.vault import Keyring
from idempotency.key import Key

DECIDED_MAX: Final = 5
"""How often what is stored is decided anew because somebody else has written meanwhile."""

Decided = tuple[Answer, Callable[[KeyUse], Awaitable[Written]]]
"""An answer, and what writes it together with its key."""


def in_progress() -> Problem:
    """409: somebody is at work on this key; the same request may be sent again shortly."""
    return Problem("request_in_progress", "The same request is being worked on. Send it again in a moment.")


def stored_answer(key: Key, fingerprint: bytes, used: UsedKey, deps: Deps) -> Answer | None:
    """The key's decided answer, byte for byte, or ``None`` while it is undecided.

    Raises :class:`Problem` (422) where the key was used for another request.
    """
    if not hmac.compare_digest(used.fingerprint, fingerprint):
        raise Problem(
            "idempotency_key_reused",
            "This Idempotency-Key was used for another request. Use a new key for a new request.",
        )
    if used.status is None or used.answer is None:
        return None
    deps.instruments.replays.inc()
    return replayed(used.status, deps.keys.sealer.open(used.answer, *_context(key)))


def seal_answer(answer: Answer, key: Key, deps: Deps) -> bytes:
    """The answer's body as it is stored. It may hold a client secret, so it is sealed."""
    return sealed(answer, key, deps.keys)


def sealed(answer: Answer, key: Key, keys: Keyring) -> bytes:
    """The same for whoever has the keys alone."""
    return keys.sealer.seal(answer.body, *_context(key))


async def written_once(key: Key, fingerprint: bytes, deps: Deps, decide: Callable[[], Awaitable[Decided]]) -> Answer:
    """Write what the key opens together with its answer, or give the answer that it has.

    What is written is decided under the key's gate, and decided again where what it was decided on has changed. What ``decide`` raises
    is raised where the key is new, and leaves it so: a replay outlives what made a request impossible.
    """
    claim = await deps.once.claim(key)
    decided = False
    try:
        used = await deps.queries.used_key(key)
        if used is None:
            if not claim.fresh:  # somebody holds the gate and has not committed yet
                raise in_progress()
            for _ in range(DECIDED_MAX):
                answer, write = await decide()
                written = await write(KeyUse(key, fingerprint, answer=(answer.status, seal_answer(answer, key, deps))))
                if written is Written.DONE:
                    decided = True
                    return answer
                if written is Written.KEY_USED:
                    break
            used = await deps.queries.used_key(key)
        known = None if used is None else stored_answer(key, fingerprint, used, deps)
        if known is None:
            raise in_progress()
        decided = True
        return known
    finally:
        await claim.let_go(decided=decided)


async def decided_once(answer: Answer, key: Key, fingerprint: bytes, deps: Deps) -> Answer:
    """Make ``answer`` the key's answer; where it has one already, that one stands and is given instead."""
    if await deps.books.answer(key, answer.status, seal_answer(answer, key, deps)):
        return answer
    used = await deps.queries.used_key(key)
    stored = None if used is None else stored_answer(key, fingerprint, used, deps)
    return stored or answer


def _context(key: Key) -> tuple[str, ...]:
    return key.merchant_id, "live" if key.livemode else "test", key.text, "answer"
