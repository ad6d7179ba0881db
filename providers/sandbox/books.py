"""The simulator's own books: what really happened to money at this PSP.

Entries are written by the code that moves the money, in the same step, and are never changed but
for their status (and the total of an authorisation that is adjusted). A checker compares them with
what a gateway believes; so nothing here is derived from what a gateway was told.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Book = Literal["authorisations", "captures", "refunds", "voids", "declines", "rejections"]
BOOKS: tuple[Book, ...] = (
    "authorisations",
    "captures",
    "refunds",
    "voids",
    "declines",
    "rejections",
)


@dataclass(slots=True, kw_only=True)
class Entry:
    """One movement of money, or a refused one.

    ``reference`` is the merchant's name for the operation that caused it; ``payment_reference`` is
    the one the authorisation came with.
    """

    id: str
    payment: str
    reference: str | None
    payment_reference: str | None
    amount: int
    currency: str
    key: str | None
    status: str
    reason: str | None = None
    time: float = 0.0
    """When it was written, on the PSP's clock."""


class Books:
    """Append-only journals, one per kind of movement, with an index by payment."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.since = now()
        """When they were begun: what moved before, under another process, is nowhere any more."""
        self._books: dict[Book, list[Entry]] = {book: [] for book in BOOKS}
        self._authorisations: dict[str, Entry] = {}

    def write(self, book: Book, entry: Entry) -> Entry:
        """Append one entry, dated now, and return it."""
        entry.time = self._now()
        self._books[book].append(entry)
        if book == "authorisations":
            self._authorisations[entry.payment] = entry
        return entry

    def mark_authorisation(self, payment: str, status: str) -> None:
        """Note what became of an authorisation ("captured", "voided", …)."""
        entry = self._authorisations.get(payment)
        if entry is not None:
            entry.status = status

    def adjust_authorisation(self, payment: str, amount: int) -> None:
        """Note the new total of an authorisation that was adjusted."""
        entry = self._authorisations.get(payment)
        if entry is not None:
            entry.amount = amount

    def clear(self) -> None:
        """Forget everything."""
        for entries in self._books.values():
            entries.clear()
        self._authorisations.clear()

    def as_json(
        self, *, reference: str | None, payment: str | None, since: float | None
    ) -> dict[str, list[dict[str, Any]]]:
        """All books; a filter that is None does not filter."""

        def wanted(entry: Entry) -> bool:
            return (
                (reference is None or reference == entry.reference)
                and (payment is None or payment == entry.payment)
                and (since is None or entry.time >= since)
            )

        return {book: [asdict(entry) for entry in entries if wanted(entry)] for book, entries in self._books.items()}

    def entries(self, book: Book) -> Iterator[Entry]:
        """One book in writing order."""
        return iter(self._books[book])
