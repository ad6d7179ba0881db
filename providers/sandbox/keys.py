"""Idempotency keys as a PSP keeps them: claimed while a request runs, then its first answer."""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from providers.sandbox.answers import Answer


class Claim(Enum):
    """What became of the wish to run a request under a key."""

    CLAIMED = "claimed"
    IN_FLIGHT = "in_flight"
    MISMATCH = "mismatch"


@dataclass(slots=True)
class _Kept:
    fingerprint: str
    request_id: str
    answer: Answer | None = None


class Keys:
    """Keys of one account. ``compare`` is whether another request under a key is refused."""

    def __init__(self, keys_max: int, *, compare: bool) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._keys_max = keys_max
        self._compare = compare

    def claim(self, key: str, fingerprint: str, request_id: str) -> Claim | tuple[Answer, str]:
        """Claim a key, or say why not; a finished key gives its answer and first request id."""
        kept = self._kept.get(key)
        if kept is None:
            self._kept[key] = _Kept(fingerprint, request_id)
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
