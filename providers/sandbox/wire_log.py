"""The wire log: every request that arrived, in order, without a body and without a card number."""

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class WireEntry:
    """One request. ``status`` is null while no answer has left; it stays null if none ever does."""

    number: int
    arrived: float
    method: str
    path: str
    operation: str
    key: str | None
    reference: str | None
    body_sha256: str
    card: str | None = None
    status: int | None = None
    replayed: bool = False
    fault: str | None = None
    answered: float | None = None

    def applied(self, fault: str) -> None:
        """Note a fault that shaped this request; several are joined by a plus."""
        self.fault = fault if self.fault is None else f"{self.fault}+{fault}"

    def answer(self, status: int) -> None:
        """Note that an answer leaves now."""
        self.status = status
        self.answered = time.time()


class WireLog:
    """The newest requests, at most ``entries_max`` of them."""

    def __init__(self, entries_max: int) -> None:
        self._entries: deque[WireEntry] = deque(maxlen=entries_max)
        self._count = 0

    def open(self, *, method: str, path: str, key: str | None, body_sha256: str) -> WireEntry:
        """Log an arrival now."""
        self._count += 1
        entry = WireEntry(
            number=self._count,
            arrived=time.time(),
            method=method,
            path=path,
            operation="other",
            key=key,
            reference=None,
            body_sha256=body_sha256,
        )
        self._entries.append(entry)
        return entry

    def clear(self) -> None:
        """Forget everything, the numbering too."""
        self._entries.clear()
        self._count = 0

    def as_json(self, filters: dict[str, str], since: float | None) -> list[dict[str, Any]]:
        """Entries in arrival order whose columns equal the filters."""
        return [
            asdict(entry)
            for entry in self._entries
            if (since is None or entry.arrived >= since)
            and all(getattr(entry, column) == value for column, value in filters.items())
        ]
