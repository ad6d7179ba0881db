"""The authorization explorer: one rate over time, by whatever we hold, and where the rest of it went.

Every panel is a table that a chart may be drawn from, and every value in one leads to the same question about that value alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.metrics import CSV, csv_text
from gateway.console.asker import CASCADES_MAX, Asker, Flow
from gateway.console.frame import PATH, Frame, Look
from gateway.console.question import PERIODS, Question, read
from gateway.deps import Deps
from gateway.rates import DIMENSIONS, INTERVALS, METRICS, Amount, Cell, Measured, Unanswerable

EXPLORER: Final = f"{PATH}/authorization"
LINES_MAX: Final = 5
"""More accounts than this make a chart that nobody reads; the table has them all."""
ROWS_MAX: Final = 200
BINS_MAX: Final = 20
CODES_MAX: Final = 15
SHADES: Final = 9
REASONS: Final = ("class", "decline_code", "decline_type", "account")
OF_REASONS: Final = "technical_error_rate"
"""The rate whose denominator is every attempt that was sent and ended: by class it counts what was not approved, and why."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a breakdown: a value, its rate now, and what it was before. ``change`` is told where both rest on enough."""

    value: str | None
    now: Cell
    before: Cell | None
    query: Mapping[str, object]

    @property
    def change(self) -> float | None:
        """In shares of one, or ``None`` where one of the two is too little to compare."""
        if self.before is None or self.now.too_few or self.before.too_few:
            return None
        return None if self.now.rate is None or self.before.rate is None else self.now.rate - self.before.rate

    @property
    def is_sure(self) -> bool:
        """Whether the two intervals have nothing in common."""
        if self.change is None or self.before is None:
            return False
        return bool((self.now.low or 0) > (self.before.high or 0) or (self.now.high or 0) < (self.before.low or 0))


@dataclass(frozen=True, slots=True)
class Decline:
    """One reason for which attempts were not approved, with how many of them each account has."""

    code: str
    type: str | None
    counts: Mapping[str, int]
    n: int
    up_to_here: float
    """The share of all that this reason and the ones above it are."""


class Explorer:
    """The explorer over one house."""

    def __init__(self, deps: Deps, asker: Asker, frame: Frame) -> None:
        self._deps = deps
        self._asker = asker
        self._frame = frame

    async def page(self, request: Request, look: Look) -> Response:
        """``GET /console/authorization``: the page, or a ``part`` of it that is asked for later; ``full`` is all at once.

        A question that has no answer is answered by the page with what to ask instead.
        """
        now, part = self._deps.clock(), request.query_params.get("part")
        later = {"bins": self._bins, "declines": self._declines}
        try:
            question = read(request.query_params.multi_items(), now)
            if part in later:
                shown = await later[part](question, look)
                return self._frame.page(f"{part}.html", look, question=question, **CHOICES, **shown)
            shown = await self._shown(question, look)
            shown |= {"heat": None, "declines": None}
            if request.query_params.get("full"):
                shown |= await self._bins(question, look) | await self._declines(question, look)
        except Unanswerable as wrong:
            values = {"question": Question(now), "wrong": str(wrong), "now": now}
            return self._frame.page("explorer.html", look, 422, section="authorization", **CHOICES, **values)
        return self._frame.page(
            "explorer.html", look, section="authorization", question=question, wrong=None, now=now, **CHOICES, **shown
        )

    async def _shown(self, question: Question, look: Look) -> dict[str, Any]:
        ask, asked = self._asker.measure, (question, look)
        questions = (
            ask(*asked, "account", series=True),
            ask(*asked, "account", series=True, before=True),
            *([ask(*asked, question.by), ask(*asked, question.by, before=True)] if question.by != "account" else []),
        )
        series, series_before, *by = await asyncio.gather(*questions)
        flows = await self._asker.flows(question, look)
        accounts, earlier = _accounts(series), earlier_steps(question, series_before)
        lines = breakdown(question, *(by or (merged(series, "account"), merged(series_before, "account"))))
        return {
            # Every attempt and every payment is in one cell of each answer, so that what they come to together needs no question.
            "whole": Line(None, together(series.cells), together(series_before.cells), {}),
            "as_of": series.as_of,
            "complete": series.complete,
            "accounts": accounts,
            "over_time": over_time(series, accounts),
            "earlier": earlier,
            "chart": line_chart(series, accounts[:LINES_MAX], question.interval, earlier),
            "lines": lines[:ROWS_MAX],
            "lines_more": max(0, len(lines) - ROWS_MAX),
            "scale": scale([line.now for line in lines[:ROWS_MAX]]),
            "flows": flows,
            "sankey": sankey_chart(flows),
        }

    async def _bins(self, question: Question, look: Look) -> dict[str, Any]:
        bins = await self._asker.measure(question, look, "bin", "account")
        accounts = _accounts(bins)
        return {"heat": heat(bins, accounts), "heat_accounts": accounts}

    async def _declines(self, question: Question, look: Look) -> dict[str, Any]:
        reasons = await self._asker.measure(question, look, *REASONS, metric=OF_REASONS)
        accounts, declined = _accounts(reasons), declines(reasons)
        return {"declines": declined, "decline_accounts": accounts, "pareto": pareto_chart(declined, accounts)}

    async def table(self, request: Request, look: Look) -> Response:
        """``GET /console/authorization.csv``: one of the page's tables, whole. Raises :class:`Unanswerable`."""
        question = read(request.query_params.multi_items(), self._deps.clock())
        name = request.query_params.get("table", "breakdown")
        groups: Mapping[str, tuple[tuple[str, ...], bool, str | None]] = {
            "time": (("account",), True, None),
            "breakdown": ((question.by,), False, None),
            "bins": (("bin", "account"), False, None),
            "declines": (REASONS, False, OF_REASONS),
        }
        if name not in groups:
            raise Unanswerable("table", f"table must be one of: {', '.join(groups)}.")
        group_by, series, metric = groups[name]
        asked = question.asked(
            look.visitor.merchant_id, *group_by, livemode=look.livemode, metric=metric, series=series
        )
        headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
        return self._frame.data(csv_text(asked, await self._asker.answer(asked)).encode(), CSV, headers)


CHOICES: Final[Mapping[str, Any]] = {
    "metrics": METRICS,
    "dimensions": DIMENSIONS,
    "periods": PERIODS,
    "intervals": INTERVALS,
    "explorer": EXPLORER,
    "cascades_max": CASCADES_MAX,
}
"""What the page lets people choose from."""


def _accounts(measured: Measured) -> list[str]:
    """The accounts of an answer, those with the most first."""
    totals: dict[str, int] = {}
    for cell in measured.cells:
        if (account := cell.keys["account"]) is not None:
            totals[account] = totals.get(account, 0) + cell.n
    return sorted(totals, key=lambda each: (-totals[each], each))


def together(cells: Iterable[Cell], keys: Mapping[str, str | None] = MappingProxyType({})) -> Cell:
    """What cells come to that have nothing in common."""
    n = hits = extra = 0
    amounts: dict[str, tuple[int, int]] = {}
    for cell in cells:
        n, hits, extra = n + cell.n, hits + cell.hits, extra + (cell.extra_attempts or 0)
        for each in cell.amounts:
            before = amounts.get(each.currency, (0, 0))
            amounts[each.currency] = (before[0] + each.n, before[1] + each.hits)
    return Cell(keys, None, n, hits, tuple(Amount(name, *sums) for name, sums in sorted(amounts.items())), extra)


def merged(measured: Measured, name: str) -> Measured:
    """The same answer by one of its dimensions alone, the largest first."""
    found: dict[str | None, list[Cell]] = {}
    for cell in measured.cells:
        found.setdefault(cell.keys[name], []).append(cell)
    cells = [together(of, {name: value}) for value, of in found.items()]
    return Measured(tuple(sorted(cells, key=lambda each: -each.n)), measured.as_of, measured.complete)


# --- The tables ---------------------------------------------------------------------------------------------------------


def breakdown(question: Question, now: Measured, before: Measured) -> list[Line]:
    """A row for each value, the largest first."""
    earlier = {cell.keys[question.by]: cell for cell in before.cells}
    return [
        Line(value, cell, earlier.get(value), question.only(question.by, value))
        for cell in now.cells
        for value in [cell.keys[question.by]]
    ]


def over_time(series: Measured, accounts: Sequence[str]) -> list[tuple[datetime, dict[str, Cell]]]:
    """A row for each step, newest first, with a cell for each account that had something then."""
    found: dict[datetime, dict[str, Cell]] = {}
    for cell in series.cells:
        if cell.at is not None and cell.keys["account"] in accounts:
            found.setdefault(cell.at, {})[str(cell.keys["account"])] = cell
    return sorted(found.items(), key=lambda each: each[0], reverse=True)


def earlier_steps(question: Question, series: Measured) -> dict[tuple[str | None, datetime], Cell]:
    """The cells of the time before, by account and the step of now that each is compared with."""
    return {
        (cell.keys["account"], beside): cell
        for cell in series.cells
        if cell.at is not None and (beside := question.beside(cell.at)) is not None
    }


def heat(bins: Measured, accounts: Sequence[str]) -> list[tuple[str, int, list[tuple[Cell | None, int]]]]:
    """The largest BINs: of each how many, and by account its cell with a shade from 0 to :data:`SHADES`, between the worst and the best."""
    totals: dict[str, int] = {}
    cells: dict[tuple[str, str], Cell] = {}
    for cell in bins.cells:
        bin_, account = cell.keys["bin"], cell.keys["account"]
        if bin_ is not None and account is not None:
            totals[bin_] = totals.get(bin_, 0) + cell.n
            cells[bin_, account] = cell
    largest = sorted(totals, key=lambda each: (-totals[each], each))[:BINS_MAX]
    rates = [cell.rate for (bin_, _), cell in cells.items() if bin_ in largest and cell.rate is not None]
    low, high = (min(rates), max(rates)) if rates else (0.0, 1.0)

    def shaded(cell: Cell | None) -> tuple[Cell | None, int]:
        if cell is None or cell.rate is None:
            return cell, 0
        return cell, round(SHADES * (cell.rate - low) / (high - low)) if high > low else SHADES

    return [(each, totals[each], [shaded(cells.get((each, account))) for account in accounts]) for each in largest]


def declines(reasons: Measured) -> list[Decline]:
    """Why attempts were not approved, the most frequent first; after :data:`CODES_MAX` the rest is one row."""
    found: dict[tuple[str, str | None], dict[str, int]] = {}
    for cell in reasons.cells:
        if cell.keys["class"] == "approved":
            continue
        code, sort = cell.keys["decline_code"] or str(cell.keys["class"]), cell.keys["decline_type"]
        if cell.keys["class"] != "declined":
            sort = str(cell.keys["class"])
        counts = found.setdefault((code, sort), {})
        account = str(cell.keys["account"])
        counts[account] = counts.get(account, 0) + cell.n
    ordered = sorted(found.items(), key=lambda each: (-sum(each[1].values()), each[0][0]))
    rest: dict[str, int] = {}
    for _, counts in ordered[CODES_MAX:]:
        for account, number in counts.items():
            rest[account] = rest.get(account, 0) + number
    kept = ordered[:CODES_MAX] + ([((f"{len(ordered) - CODES_MAX} others", None), rest)] if rest else [])
    total, so_far, shown = sum(sum(counts.values()) for _, counts in kept), 0, []
    for (code, sort), counts in kept:
        number = sum(counts.values())
        so_far += number
        shown.append(Decline(code, sort, counts, number, so_far / total))
    return shown


def scale(cells: Sequence[Cell]) -> tuple[float, float]:
    """From where to where the bars of a table reach: what is there, in steps of ten percent."""
    lows = [cell.low for cell in cells if cell.low is not None]
    highs = [cell.high for cell in cells if cell.high is not None]
    if not lows:
        return 0.0, 1.0
    return int(min(lows) * 10) / 10, min(1.0, -(-int(max(highs) * 1000) // 100) / 10 or 0.1)


# --- The charts, as the numbers that they are drawn from ---------------------------------------------------------------


def line_chart(
    series: Measured,
    accounts: Sequence[str],
    interval: str,
    earlier: Mapping[tuple[str | None, datetime], Cell] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """A line and a band for each account, with the line of the time before; nothing where there is nothing to connect."""
    times = sorted({cell.at for cell in series.cells if cell.at is not None})
    if len(times) < 2:
        return None
    now = {(cell.keys["account"], cell.at): cell for cell in series.cells if cell.at is not None}

    def values(
        account: str, of: Callable[[Cell], float | None], cells: Mapping[tuple[str | None, datetime], Cell] = now
    ) -> list[float | None]:
        return [None if (cell := cells.get((account, at))) is None else _rounded(of(cell)) for at in times]

    return {
        "kind": "rates",
        "interval": interval,
        "times": [at.isoformat() for at in times],
        "series": [
            {
                "name": account,
                "rate": values(account, lambda cell: cell.rate),
                "low": values(account, lambda cell: cell.low),
                "high": values(account, lambda cell: cell.high),
                "n": values(account, lambda cell: cell.n),
                "before": values(account, lambda cell: cell.rate, earlier),
            }
            for account in accounts
        ],
    }


def pareto_chart(declined: Sequence[Decline], accounts: Sequence[str]) -> dict[str, Any] | None:
    """Bars stacked by account, and the line of what they come to together."""
    if not declined:
        return None
    return {
        "kind": "pareto",
        "names": [each.code for each in declined],
        "series": [{"name": name, "counts": [each.counts.get(name, 0) for each in declined]} for name in accounts],
        "together": [_rounded(each.up_to_here) for each in declined],
    }


def sankey_chart(flows: Sequence[Flow]) -> dict[str, Any] | None:
    """First account and its outcome, second account and its outcome."""
    if not flows:
        return None
    links: dict[tuple[str, str], int] = {}
    nodes: dict[str, dict[str, Any]] = {}
    for flow in flows:
        path = (
            ("1", flow.first, flow.first),
            ("1", f"{flow.first_class} at {flow.first}", flow.first_class),
            ("2", flow.second, flow.second),
            ("2", flow.second_class, flow.second_class),
        )
        for place, (step, name, shown) in enumerate(path):
            nodes[f"{step} {name}"] = {"name": f"{step} {name}", "shown": shown, "depth": place}
        for (step, name, _), (next_step, next_name, _) in pairwise(path):
            key = (f"{step} {name}", f"{next_step} {next_name}")
            links[key] = links.get(key, 0) + flow.n
    return {
        "kind": "flow",
        "nodes": list(nodes.values()),
        "links": [{"source": source, "target": target, "value": n} for (source, target), n in links.items()],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
