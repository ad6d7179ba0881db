"""A PSP's own time: it runs as ours does until a test moves it.

What a PSP forgets, lets lapse or settles "after a day" is counted on this clock, so that a test can let a day pass in no
time. ``GET /_sandbox/clock`` shows it, ``POST`` moves it, a reset brings it back.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime


class BadTimeError(ValueError):
    """A time that cannot be meant; the message says what can."""


class Clock:
    """Seconds since the epoch, ahead of or behind the real ones by what was set."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now(self) -> float:
        """The time at this PSP, in seconds since the epoch."""
        return time.time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once."""
        self._ahead_s += seconds

    def set(self, now: float) -> None:
        """Make it ``now``; the clock runs on from there. Backwards too."""
        self._ahead_s = now - time.time()

    def reset(self) -> None:
        """Bring it back to the real time."""
        self._ahead_s = 0.0

    def order(self, wanted: object) -> None:
        """Do what a control request says: ``{"advance_s": n}`` or ``{"now": iso or seconds}``, one of them.

        Raises :class:`BadTimeError` on anything else, and changes nothing then.
        """
        match wanted:
            case {"advance_s": int() | float() as seconds, **rest} if not rest and not isinstance(seconds, bool):
                if not (math.isfinite(seconds) and seconds >= 0):
                    raise BadTimeError("advance_s is a number of seconds, at least 0")
                self.advance(seconds)
            case {"now": now, **rest} if not rest:
                self.set(moment(now, "now"))
            case _:
                raise BadTimeError('a clock is moved by {"advance_s": seconds} or {"now": an ISO 8601 time}')

    def as_json(self) -> dict[str, object]:
        """The time, and how far it was moved."""
        now = self.now()
        return {"now": datetime.fromtimestamp(now, UTC).isoformat(), "seconds": now, "ahead_s": self._ahead_s}


def moment(value: object, name: str) -> float:
    """A time as an ISO 8601 text with its offset, or as seconds since the epoch. Raises :class:`BadTimeError`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        read = None
    if read is None or read.tzinfo is None:
        raise BadTimeError(f"{name} is an ISO 8601 time with its offset, or seconds since the epoch")
    return read.timestamp()
