"""Where books come from: the control paths of a sandbox, or a file with an entry a line.

Providers keep amounts in units of their own (some take the Icelandic króna with two decimals); here they become ISO minor units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.invariants.facts import Arrival, Entry
from providers.money import MoneyError, Units, from_provider
from providers.registry import ENTRY_POINTS, ConfigError

BOOKS: Final = ("authorisations", "captures", "refunds", "voids", "declines", "rejections")


@cache
def horizons() -> dict[str, float]:
    """For how many seconds each installed provider certainly remembers a key."""
    return {point.name: point.load().capabilities.replay_horizon_s for point in entry_points(group=ENTRY_POINTS)}


@cache
def units(provider: str) -> Units:
    """In which units a provider keeps its amounts; ISO's own where its adapter says nothing else."""
    for point in entry_points(group=ENTRY_POINTS, name=provider):
        table = getattr(import_module(point.module), "UNITS", None)
        if isinstance(table, Units):
            return table
    return Units(exponents={}, steps={})


def sandbox_entries(books: Mapping[str, Iterable[Mapping[str, Any]]], account: str, provider: str) -> Iterator[Entry]:
    """The entries of a sandbox's books, as ``/_sandbox/books`` gives them. ``account`` is empty where several share it."""
    for book in BOOKS:
        for entry in books.get(book, ()):
            yield Entry(
                account=account,
                book=book,
                payment=entry["payment"],
                reference=entry["reference"],
                payment_reference=entry["payment_reference"],
                amount=_minor(entry["amount"], entry["currency"], provider),
                currency=entry["currency"],
                status=entry["status"],
                key=entry["key"],
                at=entry["time"],
            )


def sandbox_arrivals(requests: Iterable[Mapping[str, Any]], account: str) -> Iterator[Arrival]:
    """The requests of a sandbox's wire log, as ``/_sandbox/requests`` gives them."""
    for request in requests:
        yield Arrival(
            account=account,
            operation=request["operation"],
            reference=request["reference"],
            key=request["key"],
            path=request["path"],
            body=request["body_sha256"],
            at=request["arrived"],
            answered=request["answered"],
        )


def _minor(amount: int, currency: str, provider: str) -> int:
    try:
        return from_provider(amount, currency, units(provider)).amount_minor
    except MoneyError:  # a fraction of a minor unit, or no currency: nothing here can be equal to it
        return amount


def file_entries(path: Path) -> Iterator[Entry]:
    """The entries of a file: one JSON object a line, with the fields of :class:`Entry`; amounts in ISO minor units.

    Raises :class:`ConfigError` naming the line that is none.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _entry(line, path, number)
    except OSError as error:
        raise ConfigError(f"--books: {path} cannot be read ({type(error).__name__})") from None


_OPTIONAL: Final[dict[str, Any]] = {"account": "", "reference": None, "payment_reference": None, "key": None}
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "amount": int,
    "at": (int, float),
    "reference": (str, type(None)),
    "payment_reference": (str, type(None)),
    "key": (str, type(None)),
}


def _entry(line: bytes, path: Path, number: int) -> Entry:
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ConfigError(f"--books: line {number} of {path} is not JSON") from None
    values = _OPTIONAL | told if isinstance(told, dict) else {}
    for name in Entry._fields:
        if not isinstance(values.get(name), _TYPES.get(name, str)):
            raise ConfigError(f"--books: line {number} of {path} has no {name} that can be used")
    if values["book"] not in BOOKS:
        raise ConfigError(f"--books: line {number} of {path} names no book; there are {', '.join(BOOKS)}")
    return Entry._make(values[name] for name in Entry._fields)
