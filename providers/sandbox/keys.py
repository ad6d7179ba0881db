"""Idempotency keys as a PSP keeps them: claimed while a request runs, then its first answer, and one day forgotten."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from providers.sandbox.answers import Answer

STRIPE_KEY_LIFE_S = 24 * 3600
"""https://docs.stripe.com/api/idempotent_requests: keys may be pruned once they are at least 24 hours old."""
ADYEN_KEY_LIFE_S = 7 * 24 * 3600
"""https://docs.adyen.com/development-resources/api-idempotency: valid for at least 7 days."""
NEUTRAL_KEY_LIFE_S = 48 * 3600


class Claim(Enum):
    """What became of the wish to run a request under a key."""

    CLAIMED = "claimed"
    IN_FLIGHT = "in_flight"
    MISMATCH = "mismatch"


@dataclass(slots=True)
class _Kept:
    fingerprint: str
    request_id: str
    claimed: float
    answer: Answer | None = None


class Keys:
    """Keys of one account. ``compare`` is whether another request under a key is refused.

    ``life_s`` is how long a key is known, counted from its first use on the PSP's own clock. A request under a key that was
    forgotten is executed again, silently, as at the PSPs.
    """

    def __init__(self, keys_max: int, *, compare: bool, life_s: float = math.inf) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._keys_max = keys_max
        self._compare = compare
        self._life_s = life_s

    def claim(self, key: str, fingerprint: str, request_id: str, now: float) -> Claim | tuple[Answer, str]:
        """Claim a key, or say why not; a finished key gives its answer and first request id."""
        kept = self._kept.get(key)
        if kept is not None and kept.answer is not None and now - kept.claimed >= self._life_s:
            del self._kept[key]
            kept = None
        if kept is None:
            self._kept[key] = _Kept(fingerprint, request_id, now)
            if len(self._kept) > self._keys_max:
                self._kept.popitem(last=False)
            return Claim.CLAIMED
        if self._compare and kept.fingerprint != fingerprint:
            return Claim.MISMATCH
        if kept.answer is None:
            return Claim.IN_FLIGHT
        return kept.answer, kept.request_id

    def keep(self, key: str, answer: Answer) -> None:
        """Finish a claimed key: from now on this is what it answers."""
        kept = self._kept.get(key)
        if kept is not None:
            kept.answer = answer

    def release(self, key: str) -> None:
        """Give a claimed key back, as if the request had never come."""
        kept = self._kept.get(key)
        if kept is not None and kept.answer is None:
            del self._kept[key]

    def clear(self) -> None:
        """Forget all keys, as a PSP does some time after its promise has ended."""
        self._kept.clear()
