"""Once: the claim on a key, before anything is written or sent.

The gate in Redis answers most duplicates at once. Whether a key is new is decided by Postgres alone, in the statement that
opens the payment; so a claim is only ever "go and look": with the gate in hand, or without it where Redis is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from idempotency.key import Key
from idempotency.store import Gate, RedisGate


class GatePolicy(StrEnum):
    """What a lost Redis means."""

    FAIL_OPEN = "fail_open"
    """Go on with Postgres alone: one more read, no loss of safety."""
    FAIL_CLOSED = "fail_closed"
    """Refuse: nothing happens until Redis is back."""


class GateClosed(Exception):
    """Redis is lost and the policy is ``fail_closed``. Nothing happened."""


class Claim:
    """A claim on a key, to be let go of when the request is done.

    ``fresh`` is false where somebody else holds, or lately held, the gate: then Postgres is read before anything is written.
    """

    def __init__(self, gate: RedisGate, key: Key, state: Gate, token: str) -> None:
        self.fresh = state is not Gate.HELD
        self._gate = gate
        self._key = key
        self._token = token if state is Gate.TAKEN else None

    async def let_go(self, *, decided: bool) -> None:
        """Open the gate for the next try. Once the answer is decided, replays come from Postgres and it may simply run out."""
        if self._token is not None and not decided:
            await self._gate.release(self._key.slot, self._token)


class Once:
    """Makes claims. ``applied`` is told of every time the policy stands in for Redis."""

    def __init__(self, gate: RedisGate, policy: GatePolicy, applied: Callable[[GatePolicy], None]) -> None:
        self._gate = gate
        self._policy = policy
        self._applied = applied

    async def claim(self, key: Key) -> Claim:
        """Claim ``key``. Raises :class:`GateClosed` by policy, never because of a duplicate."""
        state, token = await self._gate.take(key.slot)
        if state is Gate.UNAVAILABLE:
            self._applied(self._policy)
            if self._policy is GatePolicy.FAIL_CLOSED:
                raise GateClosed
        return Claim(self._gate, key, state, token)
