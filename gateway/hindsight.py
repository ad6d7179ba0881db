"""`gateway routing simulate`: a routing document in a file, replayed over a merchant's payments, and told to a person."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import typer

from gateway.draft_file import draft_in
from gateway.replaying import Unreadable, Wanted, replayed
from gateway.settings import load_account_configs, load_settings
from providers.registry import ConfigError
from routing.backtest import Result

LISTED: Final = 10
"""Changed payments that a person is shown; ``--json`` has a hundred."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line was asked."""

    file: Path
    merchant_id: str
    days: int
    livemode: bool
    as_json: bool


def look_back(asked: Asked, say: Say) -> None:
    """Replay the document and say what came of it; how far it is stands on stderr. Changes nothing.

    Raises :class:`ConfigError` for a file that is no routing document, and where the database cannot be read.
    """
    settings, now = load_settings(), datetime.now(UTC)
    order = [
        account.name
        for account in load_account_configs(settings)
        if account.merchant == asked.merchant_id and account.livemode == asked.livemode
    ]
    if not order:
        raise ConfigError(f"--merchant: {asked.merchant_id} has no accounts in this mode")
    start = now - timedelta(days=asked.days)
    wanted = Wanted(asked.merchant_id, asked.livemode, start, now, order, draft_in(asked.file))
    bar = _Bar()
    try:
        result = asyncio.run(replayed(settings.database_url.get_secret_value(), wanted, bar))
    except Unreadable as error:
        raise ConfigError(str(error)) from None
    finally:
        bar.end()
    for line in [orjson.dumps(result.record()).decode()] if asked.as_json else as_text(result):
        say(line)


class _Bar:
    """How far it is, on a terminal's stderr; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = typer.progressbar(length=total, label="payments", file=sys.stderr)
        self._bar.update(done - self._done)
        self._done = done

    def end(self) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.render_finish()


def as_text(result: Result) -> Iterator[str]:
    """The result for a person, with what it rests on."""
    record = result.record()
    yield result.sentence
    yield ""
    yield from _rates(result, record)
    yield ""
    yield from _volumes(record)
    yield ""
    yield from _decisions(record["decisions"])
    if result.changed:
        yield ""
        yield from _changed(record["changed"][:LISTED])
    left = {what: count for what, count in record["attempts"].items() if count and what not in _ALL}
    if left:
        told = ", ".join(f"{count:,} {what}" for what, count in left.items())
        yield ""
        yield f"attempts read: {result.attempts:,}, of them {told}"


_RATES: Final = {
    "recorded": "recorded",
    "draft": "draft",
    "difference": "difference",
    "ahead": "as many fresh payments",
}
"""The rates of a result, and what each is called where a person reads it."""
_ALL: Final = frozenset({"read", "decided", "learned"})
"""What is counted of an attempt with which all is as it should be."""


def _rates(result: Result, record: Mapping[str, Any]) -> Iterator[str]:
    found, rates = result.estimate, record["authorization_rate"]
    yield from _table(
        ("authorization rate, in %", "", "95 % from", "to"),
        [(called, *_percents(rates[name])) for name, called in _RATES.items() if rates[name] is not None],
    )
    yield f"of {found.payments:,} payments, which tell as much as {found.effective:,.0f}; not covered: {found.uncovered:,.0f}"
    if found.refusal is None and found.refusal_of_difference is not None:
        yield found.refusal_of_difference.detail


def _volumes(record: Mapping[str, Any]) -> Iterator[str]:
    def figures(account: Mapping[str, Any]) -> Iterator[str]:
        for name in ("payments", "amount", "fees"):
            for which in ("recorded", "draft"):
                figure = account[which][name]
                yield "-" if figure is None else f"{figure:,.0f}"

    yield from _table(
        ("account", "", "payments", "draft", "amount", "draft", "fees", "draft"),
        [(each["account"], each["currency"], *figures(each)) for each in record["accounts"]],
    )


def _decisions(decisions: Mapping[str, Any]) -> Iterator[str]:
    yield from _table(("rule", "payments"), [(each["rule"], f"{each['payments']:,}") for each in decisions["rules"]])
    if decisions["moves"]:
        yield ""
        yield from _table(
            ("recorded", "draft", "payments"),
            [(each["recorded"], each["draft"], f"{each['payments']:,}") for each in decisions["moves"]],
        )


def _changed(changed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from _table(
        ("changed, the first of them", "at", "amount", "recorded", "draft", "rule"),
        [
            (e["payment"], e["at"][:19], f"{e['amount']:,} {e['currency']}", e["recorded"], e["draft"], e["rule"])
            for e in changed
        ],
    )


def _percents(interval: Mapping[str, float]) -> tuple[str, str, str]:
    value, low, high = (f"{100 * interval[name]:.2f}" for name in ("value", "low", "high"))
    return value, low, high


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they need: text to the left, figures to the right."""
    if not rows:
        return
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    figures = [all(row[at].strip("+-0123456789.,") == "" for row in rows) for at in range(len(head))]
    for row in (head, *rows):
        cells = (
            cell.rjust(w) if figure else cell.ljust(w) for cell, w, figure in zip(row, widths, figures, strict=True)
        )
        yield "  ".join(cells).rstrip()
