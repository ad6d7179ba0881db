"""A shelf for what is too much for memory: entries of books, arrivals of a wire log, and which payments have a key.

It is a temporary file of SQLite, which takes itself away. Everything is poured in first and looked up afterwards by name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from gateway.invariants.facts import Arrival, Entry

POUR: Final = 2_000
"""Rows written at a time."""
ASK: Final = 500
"""Names asked for at a time: SQLite takes a bounded number of parameters."""
CACHE_KIB: Final = 16_384

_Record = TypeVar("_Record", Entry, Arrival)


class Shelved(NamedTuple):
    """What the shelf has about some operations, with the numbers by which it is marked as seen."""

    entries: Sequence[tuple[int, Entry]]
    arrivals: Sequence[tuple[int, Arrival]]


class Shelf:
    """Open until :meth:`close`. Not to be shared between threads."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)  # no name: a temporary file of its own
        for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF", "temp_store = FILE"):
            self._file.execute(f"PRAGMA {pragma}")
        for name, record in (("entry", Entry), ("arrival", Arrival)):
            self._file.execute(f"CREATE TABLE {name} (seen INTEGER DEFAULT 0, {', '.join(_columns(record))})")
        self._file.execute("CREATE TABLE opened (id TEXT)")

    def close(self) -> None:
        """Forget everything."""
        self._file.close()

    def pour_entries(self, entries: Iterable[Entry]) -> int:
        """Take entries in; once, before the first look-up. Returns how many."""
        return self._pour("entry", Entry, entries, ("reference", "payment_reference", "key"))

    def pour_arrivals(self, arrivals: Iterable[Arrival]) -> int:
        """Take arrivals in; once, before the first look-up. Returns how many."""
        return self._pour("arrival", Arrival, arrivals, ("reference", "key"))

    def pour_opened(self, ids: Iterable[str]) -> None:
        """Note what keys have opened. May be called again until :meth:`index_opened`."""
        self._many("INSERT INTO opened VALUES (?)", ((each,) for each in ids))

    def index_opened(self) -> None:
        """Make what was opened ready for :meth:`opened`."""
        self._file.execute("CREATE INDEX opened_id ON opened (id)")

    def opened(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that a key has opened."""
        return {row[0] for row in self._ask("SELECT id FROM opened WHERE id IN ({})", ids)}

    def about(self, operations: Sequence[str], keys: Sequence[str]) -> Shelved:
        """Entries and arrivals that name one of ``operations``, or came under one of ``keys``, or share a key with such a one."""
        entries, arrivals = dict[int, Entry](), dict[int, Arrival]()
        for column, names in (("reference", operations), ("payment_reference", operations), ("key", keys)):
            query = f'SELECT {_listed(Entry)} FROM entry WHERE "{column}" IN ({{}})'
            entries |= {row[0]: Entry._make(row[1:]) for row in self._ask(query, names)}
        for column, names in (("reference", operations), ("key", keys)):
            arrivals |= self._arrivals(column, names)
        shared = {arrival.key for arrival in arrivals.values() if arrival.key is not None}
        arrivals |= self._arrivals("key", sorted(shared - set(keys)))
        return Shelved(sorted(entries.items()), sorted(arrivals.items()))

    def _arrivals(self, column: str, names: Sequence[str]) -> dict[int, Arrival]:
        query = f'SELECT {_listed(Arrival)} FROM arrival WHERE "{column}" IN ({{}})'
        return {row[0]: Arrival._make(row[1:]) for row in self._ask(query, names)}

    def mark(self, shelved: Shelved) -> None:
        """Note that these belong to operations of ours."""
        for name, records in (("entry", shelved.entries), ("arrival", shelved.arrivals)):
            numbers = [(number,) for number, _ in records]
            self._many(f"UPDATE {name} SET seen = 1 WHERE rowid = ?", numbers)

    def stray_entries(self) -> Iterator[Entry]:
        """Entries that belong to no operation that was looked up."""
        return (Entry._make(row[1:]) for row in self._strays("entry", Entry))

    def stray_arrivals(self) -> Iterator[Arrival]:
        """Arrivals that name an operation, and none that was looked up."""
        named = (Arrival._make(row[1:]) for row in self._strays("arrival", Arrival))
        return (arrival for arrival in named if arrival.reference is not None)

    def _strays(self, name: str, record: type[NamedTuple]) -> Iterator[tuple[Any, ...]]:
        return self._file.execute(f"SELECT {_listed(record)} FROM {name} WHERE seen = 0 ORDER BY rowid")

    def _pour(self, name: str, record: type[_Record], rows: Iterable[_Record], indexes: tuple[str, ...]) -> int:
        places = ", ".join("?" * len(record._fields))
        insert = f"INSERT INTO {name} ({', '.join(_columns(record))}) VALUES ({places})"
        left, count = iter(rows), 0
        while chunk := list(islice(left, POUR)):
            self._many(insert, chunk)
            count += len(chunk)
        for column in indexes:  # afterwards: it is sorted once
            self._file.execute(f'CREATE INDEX {name}_{column} ON {name} ("{column}")')
        return count

    def _many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        self._file.execute("BEGIN")  # by itself each row would be a transaction
        self._file.executemany(statement, rows)
        self._file.execute("COMMIT")

    def _ask(self, query: str, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(names), ASK):
            chunk = names[start : start + ASK]
            yield from self._file.execute(query.format(", ".join("?" * len(chunk))), chunk)


def _columns(record: type[NamedTuple]) -> list[str]:
    return [f'"{name}"' for name in record._fields]


def _listed(record: type[NamedTuple]) -> str:
    return f"rowid, {', '.join(_columns(record))}"
