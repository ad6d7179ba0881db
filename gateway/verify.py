"""``gateway verify``: every promise about payments, checked on the running system, reading only.

The session is read-only for the database itself, holds no transaction longer than one page, and takes no lock that keeps anybody from
writing. The sandboxes among the accounts are asked for their books; books of anybody else come from a file.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import orjson

from gateway.invariants import (
    INVARIANTS,
    Arrival,
    Entry,
    Outside,
    Progress,
    Report,
    check_invariants,
    file_entries,
    horizons,
    named,
    sandbox_arrivals,
    sandbox_entries,
)
from gateway.read_only import LOST, Unreachable, read_only
from gateway.settings import Settings, load_account_configs, load_settings
from gateway.vault import Keyring
from providers.registry import AccountConfig, ConfigError

BOOKS_S: Final = 60.0
SAY_EVERY_S: Final = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be verified. ``books`` are addresses of sandboxes or files; none means the sandboxes among the accounts.

    ``accounts`` are those whose books these are, where they do not say it. ``books_as_of`` is when the files were taken, if not when
    they were written.
    """

    books: tuple[str, ...] = ()
    at_rest: bool = False
    grace_s: float = 120.0
    since: str | None = None
    as_json: bool = False
    shown_max: int = 100
    accounts: tuple[str, ...] = ()
    books_as_of: str | None = None


class Reader:
    """One connection that can only read. Raises :class:`ConfigError` where the database cannot be read any more."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """The rows of one statement, in a transaction of its own."""
        try:
            rows: list[Mapping[str, Any]] = await self._connection.fetch(query, *args)
        except asyncpg.UndefinedTableError:
            raise ConfigError("GATEWAY_DATABASE_URL: the database has no tables yet; run: gateway migrate") from None
        except asyncpg.UndefinedColumnError:
            raise ConfigError(
                "GATEWAY_DATABASE_URL: the tables are those of an older version; run: gateway migrate"
            ) from None
        except LOST as error:
            raise ConfigError(
                f"GATEWAY_DATABASE_URL: the database could not be read ({type(error).__name__})"
            ) from None
        return rows


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reader]:
    """A read-only session on the database at ``url``. Raises :class:`ConfigError` where it cannot be reached."""
    try:
        async with read_only(url, "interlock verify") as connection:
            yield Reader(connection)
    except Unreachable as error:
        raise ConfigError(f"GATEWAY_DATABASE_URL: {error}") from None


async def verify(wanted: Wanted, say: Say, hint: Say) -> bool:
    """Check everything, ``say`` what was found and ``hint`` how far it is. Whether every promise holds.

    Changes nothing, and may be called at any time. Raises :class:`ConfigError` where the database or the books cannot be read.
    """
    settings = load_settings()
    since = None if wanted.since is None else since_when(wanted.since, datetime.now(UTC))
    began = time.monotonic()
    async with reading(settings.database_url.get_secret_value()) as db:
        outside = await _outside(wanted, settings, hint)
        try:
            report = await check_invariants(
                db,
                outside,
                at_rest=wanted.at_rest,
                grace_s=wanted.grace_s,
                keyring=Keyring.derive(settings.secret_key.get_secret_value()),
                since=since,
                limit=wanted.shown_max,
                progress=_Ticker(hint),
            )
        except (sqlite3.Error, OverflowError) as error:
            raise ConfigError(f"the books could not be kept in a temporary file ({type(error).__name__})") from None
    took_s = time.monotonic() - began
    lines = [as_json(report, took_s)] if wanted.as_json else as_text(report, took_s)
    for line in lines:
        say(line)
    return report.clean


_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def since_when(text: str, now: datetime, option: str = "--since") -> datetime:
    """The instant that ``text`` names: ``90m``, ``24h``, ``7d`` before ``now``, or a date or time in ISO 8601, UTC where it says no zone.

    Raises :class:`ConfigError` for anything else, naming ``option``, and for what was before the year 1.
    """
    try:
        if duration := _DURATION.fullmatch(text):
            return now - timedelta(**{_UNITS[duration[2]]: int(duration[1])})
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ConfigError(f"{option}: {text!r} is longer ago than there are dates") from None
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is neither a duration (90m, 24h, 7d) nor a date (2026-11-21)") from None


# --- Books ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A sandbox, and the accounts that are kept there."""

    url: str
    accounts: list[AccountConfig] = field(default_factory=list)

    @property
    def account(self) -> str:
        """The account whose books these are, or nothing where several share them."""
        return self.accounts[0].name if len(self.accounts) == 1 else ""

    @property
    def provider(self) -> str:
        """Who keeps them."""
        return self.accounts[0].provider if self.accounts else ""


async def _outside(wanted: Wanted, settings: Settings, hint: Say) -> Outside | None:
    """The books that were named, or those of the sandboxes among the accounts; ``None`` where there are none."""
    urls = [each.removesuffix("/_sandbox/books").rstrip("/") for each in wanted.books if _is_url(each)]
    files = [Path(each) for each in wanted.books if not _is_url(each)]
    for path in files:
        if not path.is_file():
            raise ConfigError(f"--books: there is no file {path}")
    places = _places(load_account_configs(settings)) if urls or not wanted.books else {}
    asked = {url: places.get(url) or _Place(url) for url in urls} if wanted.books else places
    taken_at, covered = _taken_at(files, wanted.books_as_of), set(wanted.accounts)
    account = None if not wanted.accounts else wanted.accounts[0] if len(wanted.accounts) == 1 else ""
    entries: list[Iterable[Entry]] = [named(file_entries(path), account, covered) for path in files]
    arrivals: list[Iterable[Arrival]] = []
    since: dict[str, float] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=BOOKS_S)) as http:
        for place in asked.values():
            told = await _ask(http, place, account or "")
            if told is None and wanted.books:
                raise ConfigError(f"--books: nobody keeps books at {place.url}")
            if told is None:
                hint(
                    f"{place.url} keeps no books that can be read: {', '.join(a.name for a in place.accounts)} not compared"
                )
                continue
            if not place.accounts and account is None:
                raise ConfigError(
                    f"--books: none of the accounts is at {place.url}; say whose books they are with --account"
                )
            covered.update(each.name for each in place.accounts)
            entries.append(told.entries)
            arrivals.append(told.arrivals)
            since.update({each.name: told.since for each in place.accounts})
    if not entries:
        return None
    wire = chain.from_iterable(arrivals) if arrivals else None
    return Outside(chain.from_iterable(entries), wire, taken_at, horizons() if arrivals else {}, covered, since)


def _taken_at(files: list[Path], as_of: str | None) -> float:
    """When the books were taken at the latest: now, or when a file was written, or what the operator says of the files."""
    now = time.time()
    if as_of is None:
        return min([now, *(path.stat().st_mtime for path in files)])
    return min(now, since_when(as_of, datetime.now(UTC), "--books-as-of").timestamp())


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _places(accounts: list[AccountConfig]) -> dict[str, _Place]:
    """The addresses that may be sandboxes: no live account is ever asked."""
    places: dict[str, _Place] = {}
    for account in accounts:
        if account.base_url is not None and not account.livemode:
            url = account.base_url.rstrip("/")
            places.setdefault(url, _Place(url)).accounts.append(account)
    return places


@dataclass(frozen=True, slots=True)
class _Told:
    """What a sandbox keeps: its books, which it began at ``since``, and its wire log."""

    entries: list[Entry]
    arrivals: list[Arrival]
    since: float


async def _ask(http: aiohttp.ClientSession, place: _Place, account: str) -> _Told | None:
    """A sandbox's books and its wire log, or ``None`` where there is no sandbox. ``account`` is whose they are, if nothing else says it."""
    try:
        async with http.get(f"{place.url}/_sandbox/books") as answer:
            books = orjson.loads(await answer.read()) if answer.status == 200 else None
            since = float(answer.headers.get("Books-Since", "0"))
        async with http.get(f"{place.url}/_sandbox/requests") as answer:
            requests = orjson.loads(await answer.read()) if answer.status == 200 else None
        if books is None or requests is None:
            return None
        whose = place.account if place.accounts else account
        entries = list(sandbox_entries(books, whose, place.provider))
        return _Told(entries, list(sandbox_arrivals(requests["requests"], whose)), since)
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError, AttributeError):
        return None  # nobody, or somebody whose answers are no sandbox's


# --- Saying it --------------------------------------------------------------------------------------------------------


class _Ticker:
    """Hints how far the walk is, every two seconds."""

    def __init__(self, hint: Say) -> None:
        self._hint = hint
        self._began = self._said = time.monotonic()
        self._table = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.table != self._table:
            self._table, self._began = progress.table, self._said
        if now - self._said < SAY_EVERY_S:
            return
        self._said = now
        rate = progress.rows / max(now - self._began, 0.001)
        share = f"{100 * progress.rows // progress.total} %" if progress.total else "?"
        self._hint(f"{progress.table}: {progress.rows:,} of about {progress.total:,} rows ({share}), {rate:,.0f}/s")


def as_text(report: Report, took_s: float) -> Iterator[str]:
    """What was found, for a person: every violation that is shown, every promise with how it stands, and what was read."""
    if report.answers and report.unreadable == report.answers:
        yield f"None of the {report.answers:,} stored answers opens: this GATEWAY_SECRET_KEY is not the one they were sealed with."
    for each in report.violations:
        yield f"{each.invariant}  {each.payment_id}  {each.detail}"
    if report.found > len(report.violations):
        yield f"… and {report.found - len(report.violations):,} more"
    if report.violations:
        yield ""
    for invariant in INVARIANTS:
        yield f"{_standing(report, invariant.name):>12}  {invariant.name}: {invariant.says}"
    yield ""
    rows = ", ".join(f"{table} {count:,}" for table, count in report.rows.items()) or "none"
    whose = "" if report.accounts is None else f" of {', '.join(report.accounts) or 'no account'}"
    yield f"read in {took_s:.1f} s: {rows} rows; {report.entries:,} book entries{whose}, {report.arrivals:,} requests"
    if report.clean:
        yield f"all {len(report.checked)} promises that were checked hold"
    else:
        yield f"{_counted(report.found, 'violation')} of {_counted(len(report.broken), 'promise')}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _standing(report: Report, name: str) -> str:
    if name not in report.checked:
        return "not checked"
    return f"{report.broken[name]:,} broken" if name in report.broken else "holds"


def as_json(report: Report, took_s: float) -> str:
    """The same for a program, as one line."""
    return orjson.dumps(
        {
            "clean": report.clean,
            "seconds": round(took_s, 3),
            "rows": report.rows,
            "entries": report.entries,
            "requests": report.arrivals,
            "accounts": report.accounts,
            "answers": {"stored": report.answers, "unreadable": report.unreadable},
            "invariants": [
                {
                    "name": each.name,
                    "says": each.says,
                    "checked": each.name in report.checked,
                    "broken": report.broken.get(each.name, 0),
                }
                for each in INVARIANTS
            ],
            "violations": [asdict(each) for each in report.violations],
        }
    ).decode()


def run(wanted: Wanted, say: Say, hint: Say) -> int:
    """Verify, and give the exit code: 0 where every promise holds, 1 where one does not, 130 where it was interrupted."""
    try:
        return 0 if asyncio.run(verify(wanted, say, hint)) else 1
    except KeyboardInterrupt:
        hint("stopped; nothing was changed")
        return 130
