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

AMOUNT_MAX: Final = 10**15
"""More than any payment may be, and less than what would not fit where amounts are kept."""
AT_MAX: Final = 253_402_300_800
"""The end of the year 9999, in seconds since 1970."""
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
    """The entries of a sandbox's books, as ``/_sandbox/books`` gives them. ``account`` is empty where several share it.

    Raises ``LookupError``, ``TypeError`` or ``AttributeError`` for what is none.
    """
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


def named(entries: Iterable[Entry], account: str | None, accounts: set[str]) -> Iterator[Entry]:
    """The entries, those that name no account with ``account``. Whichever they name joins ``accounts``.

    Raises :class:`ConfigError` for one without an account where ``account`` is ``None``. It is empty where it may be any of several.
    """
    for entry in entries:
        if entry.account:
            accounts.add(entry.account)
        elif account is None:
            raise ConfigError(f"--books: the entry of {entry.payment} names no account; say which it is with --account")
        yield entry if entry.account else entry._replace(account=account or "")


def _minor(amount: int, currency: str, provider: str) -> int:
    try:
        return from_provider(amount, currency, units(provider)).amount_minor
    except MoneyError:  # a fraction of a minor unit, or no currency: nothing here can be equal to it
        return amount


def file_entries(path: Path) -> Iterator[Entry]:
    """The entries of a file: one JSON object a line, with the fields of :class:`Entry`; amounts in ISO minor units.

    Raises :class:`ConfigError` naming the line that is none, or holds a number that no payment could have.
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


def _usable(name: str, value: object) -> bool:
    if not isinstance(value, _TYPES.get(name, str)) or isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return 0 <= value <= (AMOUNT_MAX if name == "amount" else AT_MAX)
    return not isinstance(value, str) or "\0" not in value


def _entry(line: bytes, path: Path, number: int) -> Entry:
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ConfigError(f"--books: line {number} of {path} is not JSON") from None
    values = _OPTIONAL | told if isinstance(told, dict) else {}
    for name in Entry._fields:
        if not _usable(name, values.get(name)):
            raise ConfigError(f"--books: line {number} of {path} has no {name} that can be used")
    if values["book"] not in BOOKS:
        raise ConfigError(f"--books: line {number} of {path} names no book; there are {', '.join(BOOKS)}")
    return Entry._make(values[name] for name in Entry._fields)
