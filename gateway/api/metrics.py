"""``GET /v1/metrics`` and ``GET /v1/metrics/{metric}``: what the rates are, and what they come to, as JSON or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import instant
from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Authenticator, Principal
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.rate_books import measure
from gateway.rates import (
    DIMENSIONS,
    INTERVALS,
    METRICS,
    TOO_FEW,
    Asked,
    Cell,
    Measured,
    Metric,
    Unanswerable,
)
from gateway.sql import Pool

DEFAULT_RANGE: Final = timedelta(days=7)
PARAMETERS: Final = ("group_by", "from", "to", "interval", "filter", "format")
FORMATS: Final = ("json", "csv")
CSV: Final = "text/csv; charset=utf-8"
TEXT_MAX: Final = 200
_DIGITS: Final = 6
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula: such a value is shown with an apostrophe before it."""


class Metrics(Desk):
    """The routes of the rates over one house."""

    def __init__(self, deps: Deps, authenticator: Authenticator, pool: Pool) -> None:
        super().__init__(deps, authenticator)
        self._pool = pool

    async def list(self, request: Request) -> Response:
        """``GET /v1/metrics``: every rate with its definition, and the dimensions that there are."""
        await self._principal(request)
        return asking.json(catalog())

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/metrics/{metric}``: one rate, of what the key's merchant sees in the key's mode."""
        who = await self._principal(request)
        name = request.path_params["metric"]
        if name not in METRICS:
            raise Problem("not_found", f"There is no such metric. There are: {', '.join(METRICS)}.")
        as_csv = _as_csv(request)
        try:
            asked = _asked(request, name, who, self._deps.clock())
            answer = await measure(self._pool, asked)
        except Unanswerable as wrong:
            raise Problem("validation_failed", str(wrong), wrong.param) from None
        if as_csv:
            return Response(csv_text(asked, answer), media_type=CSV)
        return asking.json(metric_object(asked, answer))


def _as_csv(request: Request) -> bool:
    """Whether a table is wanted. Raises :class:`Problem` (422) for parameters that there are not, or that come twice."""
    query = request.query_params
    if unknown := set(query) - set(PARAMETERS):
        param = next((name for name in sorted(unknown) if reading.FIELD.fullmatch(name)), None)
        raise Problem("validation_failed", f"A metric is asked for by: {', '.join(PARAMETERS)}.", param)
    for name in PARAMETERS:
        given = query.getlist(name)
        if len(given) > 1 and name != "filter":
            raise Problem("validation_failed", f"{name} is given more than once.", name)
        if any("\0" in each for each in given):
            raise Problem("validation_failed", f"{name} holds a null character.", name)
    form = query.get("format")
    if form is not None and form not in FORMATS:
        raise Problem("validation_failed", f"format must be one of: {', '.join(FORMATS)}.", "format")
    return form == "csv" or (form is None and request.headers.get("accept", "").startswith("text/csv"))


def _asked(request: Request, metric: str, who: Principal, now: datetime) -> Asked:
    """The question that a request asks. Raises :class:`Problem` (422) or :class:`Unanswerable`."""
    query = request.query_params
    end = reading.instant(query["to"], "to") if "to" in query else now
    start = reading.instant(query["from"], "from") if "from" in query else end - DEFAULT_RANGE
    group_by = tuple(name.strip() for name in query.get("group_by", "").split(",") if name.strip())
    filters: dict[str, tuple[str, ...]] = {}
    for each in query.getlist("filter"):
        name, colon, value = each.partition(":")
        if not colon or len(value) > TEXT_MAX:
            raise Unanswerable(
                "filter", "filter must be dimension:value, such as account:main; nothing after the colon is not known."
            )
        filters[name] = (*filters.get(name, ()), value)
    if any(len(name) > TEXT_MAX for name in (*group_by, *filters)):
        raise Unanswerable("group_by", f"A dimension has at most {TEXT_MAX} characters.")
    return Asked(who.merchant_id, who.livemode, metric, start, end, group_by, query.get("interval"), filters)


# --- What is answered ----------------------------------------------------------------------------------------------------


def catalog() -> dict[str, Any]:
    """Every rate and every dimension, as the API shows them."""
    return {
        "object": "list",
        "data": [_definition(metric) for metric in METRICS.values()],
        "has_more": False,
        "next_cursor": None,
        "dimensions": [
            {"name": name, "description": text}
            for name, text in (*DIMENSIONS.items(), ("metadata.KEY", "what you have put there"))
        ],
        "intervals": list(INTERVALS),
        "minimum_sample": TOO_FEW,
    }


def _definition(metric: Metric) -> dict[str, Any]:
    return {
        "id": metric.name,
        "object": "metric_definition",
        "unit": metric.unit,
        "numerator": metric.numerator,
        "denominator": metric.denominator,
        "leaves_out": metric.leaves_out,
        "sentence": metric.sentence,
    }


def metric_object(asked: Asked, answer: Measured) -> dict[str, Any]:
    """A rate as the API shows it."""
    metric = METRICS[asked.metric]
    return {
        "object": "metric",
        "metric": metric.name,
        "definition": metric.sentence,
        "unit": metric.unit,
        "from": instant(asked.start),
        "to": instant(asked.end),
        "interval": asked.interval,
        "group_by": list(asked.group_by),
        "filter": {name: list(values) for name, values in asked.filters.items()},
        "as_of": instant(answer.as_of),
        "complete": answer.complete,
        "minimum_sample": TOO_FEW,
        "data": [_cell(cell) for cell in answer.cells],
        "livemode": asked.livemode,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "at": instant(cell.at),
        "keys": dict(cell.keys),
        "n": cell.n,
        "hits": cell.hits,
        "rate": _rounded(cell.rate),
        "low": _rounded(cell.low),
        "high": _rounded(cell.high),
        "too_few": cell.too_few,
        "amounts": [{**asdict(each), "rate": _rounded(each.rate)} for each in cell.amounts],
    }
    return shown if cell.extra_attempts is None else {**shown, "extra_attempts": cell.extra_attempts}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def csv_text(asked: Asked, answer: Measured) -> str:
    """The same as a table: a row a cell, and three columns more for each currency that occurs."""
    currencies = sorted({each.currency for cell in answer.cells for each in cell.amounts})
    costs = METRICS[asked.metric].costs
    head = [
        "at",
        *asked.group_by,
        "n",
        "hits",
        "rate",
        "low",
        "high",
        "too_few",
        *(["extra_attempts"] if costs else []),
    ]
    head += [f"amount_{what}_{currency}" for currency in currencies for what in ("n", "hits", "rate")]
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\r\n")
    table.writerow(map(_plain, head))
    table.writerows(_lines(answer.cells, currencies, costs=costs))
    return written.getvalue()


def _lines(cells: Sequence[Cell], currencies: Sequence[str], *, costs: bool) -> Iterator[list[Any]]:
    for cell in cells:
        shown = _cell(cell)
        line = [
            shown["at"],
            *map(_plain, cell.keys.values()),
            cell.n,
            cell.hits,
            shown["rate"],
            shown["low"],
            shown["high"],
        ]
        line += [str(cell.too_few).lower(), *([cell.extra_attempts] if costs else [])]
        amounts: Mapping[str, Any] = {each["currency"]: each for each in shown["amounts"]}
        for currency in currencies:
            each = amounts.get(currency, {"n": 0, "hits": 0, "rate": None})
            line += [each["n"], each["hits"], each["rate"]]
        yield line


def _plain(text: str | None) -> str | None:
    return f"'{text}" if text is not None and text.startswith(_FORMULAS) else text
