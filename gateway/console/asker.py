"""Asks the books: of the rates and of the flow between accounts by connections that only look, of what is open by few of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.console.frame import Look
from gateway.console.question import Question
from gateway.rate_books import measure
from gateway.rates import CLASS_BIT, Asked, Cell, Measured
from gateway.sql import Pool, Row, Statement

AT_ONCE: Final = 4
"""So many statements about what is open run at once, of the 16 connections that a process has for its charges."""
CASCADES_MAX: Final = 20_000
"""The flow between accounts is of so many payments at most, the last ones: enough for its shape, and soon read."""

_FLOW = Statement(
    """SELECT k1.dimensions->>'account' AS first, moved.first_what, k2.dimensions->>'account' AS second, moved.second_what,
        k1.dimensions->>'currency' AS currency, sum(moved.n)::int8 AS n, sum(moved.amount)::int8 AS amount
    FROM (SELECT r1.hour_key AS first_key, r1.what AS first_what, r2.hour_key AS second_key, r2.what AS second_what, count(*) AS n,
        sum(r1.amount) AS amount
        FROM (SELECT payment_id, hour_key, what, amount FROM rated
            WHERE owner = (SELECT id FROM rate_owner WHERE merchant_id = :merchant_id AND livemode = :livemode)
            AND at >= :start::timestamptz AND at < :end::timestamptz AND extra > 0 ORDER BY at DESC LIMIT :limit::int) AS r1
        JOIN rated r2 ON r2.payment_id = r1.payment_id AND r2.ordinal = 2 GROUP BY 1, 2, 3, 4) AS moved
    JOIN rate_key k1 ON k1.id = moved.first_key JOIN rate_key k2 ON k2.id = moved.second_key GROUP BY 1, 2, 3, 4, 5"""
)


@dataclass(frozen=True, slots=True)
class Flow:
    """Payments that a first account did not approve and that went on to a second one, alike in both and in what came of it."""

    first: str
    first_class: str
    second: str
    second_class: str
    n: int
    amounts: Mapping[str, int]
    """What they are over, in minor units by currency."""


class Asker:
    """The console's reader. ``looking`` are connections for questions over very many rows."""

    def __init__(self, pool: Pool, looking: Pool) -> None:
        self._pool = pool
        self._looking = looking
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def rows(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Row]:
        """The rows of a statement that reads."""
        async with self._turns:
            return await statement.rows(self._pool, values)

    async def measure(
        self,
        question: Question,
        look: Look,
        *group_by: str,
        metric: str | None = None,
        series: bool = False,
        before: bool = False,
    ) -> Measured:
        """The answer to a question about the payments that are looked at. Raises :class:`gateway.rates.Unanswerable`."""
        asked = question.asked(
            look.visitor.merchant_id, *group_by, livemode=look.livemode, metric=metric, series=series, before=before
        )
        return await self.answer(asked)

    async def answer(self, asked: Asked) -> Measured:
        """The same for a question that is put already."""
        return await measure(self._looking, asked)

    async def flows(self, question: Question, look: Look) -> list[Flow]:
        """How payments went from one account to the next, of the last that did in the period, whatever else is filtered by."""
        values = {"merchant_id": look.visitor.merchant_id, "livemode": look.livemode, "limit": CASCADES_MAX}
        rows = await self.rows(_FLOW, values | {"start": question.start, "end": question.end})
        found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        for row in rows:
            key = (row["first"] or "", _class(row["first_what"]), row["second"] or "", _class(row["second_what"]))
            flow = found.setdefault(key, {"n": 0, "amounts": {}})
            flow["n"] += row["n"]
            flow["amounts"][row["currency"]] = flow["amounts"].get(row["currency"], 0) + row["amount"]
        return sorted((Flow(*key, **flow) for key, flow in found.items()), key=lambda each: -each.n)


def only(measured: Measured) -> Cell:
    """The one cell of an answer that is not grouped: nothing of nothing where nothing was counted."""
    return measured.cells[0] if measured.cells else Cell({}, None, 0, 0)


def _class(what: int) -> str:
    return next((name for name, bit in CLASS_BIT.items() if bit == what), "unknown")
