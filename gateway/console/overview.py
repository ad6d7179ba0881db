"""The overview: what a payments team looks at first. Every number leads to where it comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.console.asker import Asker, only
from gateway.console.explorer import EXPLORER, Line, line_chart, merged, scale
from gateway.console.frame import Frame, Look
from gateway.console.question import PERIODS, Question, read
from gateway.deps import Deps
from gateway.incidents import Incident
from gateway.monitor_books import Found, MonitorBooks
from gateway.monitor_definitions import look_of
from gateway.rates import Amount, Cell, Measured
from gateway.sql import Row, Statement

SAMPLE: Final = 2_000
"""Of so many payments, the last ones, it is said how long their accounts took to answer."""
SHOWN: Final = 20
FINAL: Final = "payment_authorization_rate"
FIRST: Final = "first_attempt_rate"
NO_ANSWERS: Final[Mapping[str, Any]] = {"p50_s": None, "p95_s": None}
COUNTED_MAX: Final = 1_000

BREAKERS: Final = ("closed", "probing", "open")
"""A breaker's words, the worst last."""

_ANSWERS = Statement(
    """SELECT o.account, count(*) AS n, percentile_cont(0.5) WITHIN GROUP (ORDER BY took)::float8 AS p50_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY took)::float8 AS p95_s
    FROM (SELECT id FROM payment WHERE merchant_id = :merchant_id AND livemode = :livemode ORDER BY id DESC LIMIT :sample::int) p
    CROSS JOIN LATERAL (SELECT account, extract(epoch FROM evidence_at - created_at) AS took FROM operation
        WHERE payment_id = p.id AND kind = 'authorize' AND NOT challenged AND evidence_at IS NOT NULL) o
    GROUP BY GROUPING SETS ((o.account), ())"""
)
_OPEN = """FROM operation o JOIN payment p ON p.id = o.payment_id
    WHERE o.due_at IS NOT NULL AND o.status = 'unknown' AND p.merchant_id = :merchant_id AND p.livemode = :livemode"""
_UNKNOWN = Statement(
    f"""SELECT o.id, o.payment_id, o.kind, o.account, o.amount, p.currency, p.reference, o.created_at, o.review_at, o.reason
    {_OPEN} ORDER BY o.created_at LIMIT :limit::int"""
)
_UNKNOWN_COUNT = Statement(
    f"""SELECT count(*) AS n, min(created_at) AS oldest FROM (SELECT o.created_at {_OPEN} ORDER BY o.created_at LIMIT :limit::int) AS open"""
)


@dataclass(frozen=True, slots=True)
class Strip:
    """One account: how it does now. ``breaker`` is the worst of what the strategies in force say, or ``None`` where none does."""

    name: str
    provider: str
    line: Line | None
    technical: Cell | None
    breaker: str | None
    segments: int
    p50_s: float | None
    p95_s: float | None


class Overview:
    """The first page, over one house."""

    def __init__(self, deps: Deps, asker: Asker, frame: Frame, monitors: MonitorBooks) -> None:
        self._deps = deps
        self._monitors = monitors
        self._asker = asker
        self._frame = frame

    async def page(self, request: Request, look: Look) -> Response:
        """``GET /console``. A period that there is not is the usual one."""
        now = self._deps.clock()
        period = request.query_params.get("period", "24h")
        question = read([("period", period if period in PERIODS else "24h")], now)
        open_, rates = await asyncio.gather(self._open(look, now), self._rates(question, look, now))
        return self._frame.page(
            "overview.html",
            look,
            section="overview",
            now=now,
            question=question,
            periods=PERIODS,
            explorer=EXPLORER,
            counted_max=COUNTED_MAX,
            worker=self._deps.standing,
            **open_,
            **rates,
        )

    async def _open(self, look: Look, now: datetime) -> dict[str, Any]:
        """What waits for somebody: attempts that nobody knows the end of, incidents, and what the monitors have found."""
        whose = {"merchant_id": look.visitor.merchant_id, "livemode": look.livemode}
        unknown, (waiting, *_), incidents, found = await asyncio.gather(
            self._asker.rows(_UNKNOWN, whose | {"limit": SHOWN}),
            self._asker.rows(_UNKNOWN_COUNT, whose | {"limit": COUNTED_MAX}),
            self._incidents(look),
            self._found(look),
        )
        return {
            "unknown": unknown,
            "unknown_count": waiting["n"],
            "unknown_oldest_s": None if waiting["oldest"] is None else (now - waiting["oldest"]).total_seconds(),
            "incidents": incidents[:SHOWN],
            "incident_count": len(incidents),
            "found": [(each, look_of(each)["console"]) for each in found[:SHOWN]],
            "found_count": len(found),
            "pages": sum(each.severity == "page" for each in found),
        }

    async def _incidents(self, look: Look) -> list[Incident]:
        return await self._deps.queries.incidents(
            look.visitor.merchant_id, livemode=look.livemode, limit=COUNTED_MAX, open=True
        )

    async def _found(self, look: Look) -> list[Found]:
        """What the monitors have found and is open, what wakes somebody first."""
        found = await self._monitors.incidents(
            look.visitor.merchant_id, livemode=look.livemode, limit=COUNTED_MAX, open=True
        )
        return sorted(found, key=lambda each: each.severity != "page")

    async def _rates(self, question: Question, look: Look, now: datetime) -> dict[str, Any]:
        """What came of the payments of the period, and of as long a time before it."""
        ask, asked = self._asker.measure, (question, look)
        whose = {"merchant_id": look.visitor.merchant_id, "livemode": look.livemode}
        questions = (
            ask(*asked, metric=FINAL),
            ask(*asked, metric=FINAL, before=True),
            ask(*asked, metric=FIRST),
            ask(*asked, metric=FIRST, before=True),
            ask(*asked, metric="recovered_by_cascade"),
            ask(*asked, "account", series=True),
            ask(*asked, "account", before=True),
            ask(*asked, "account", metric="technical_error_rate"),
        )
        final, final_before, first, first_before, cascades, series, *of_accounts = await asyncio.gather(*questions)
        accounts_before, faults = of_accounts
        accounts = merged(series, "account")
        answers = await self._asker.rows(_ANSWERS, whose | {"sample": SAMPLE})
        strips = self._strips(look, accounts, accounts_before, faults, answers, now)
        return {
            "final": Line(None, only(final), only(final_before), {}),
            "first": Line(None, only(first), only(first_before), {}),
            "volume": largest_first(only(final).amounts),
            "recovered": only(cascades),
            "saved": largest_first(only(cascades).amounts),
            "as_of": final.as_of,
            "complete": final.complete,
            "chart": line_chart(series, [strip.name for strip in strips], question.interval),
            "took": next((row for row in answers if row["account"] is None), None),
            "strips": strips,
            "scale": scale(list(accounts.cells)),
        }

    def _strips(
        self,
        look: Look,
        accounts: Measured,
        before: Measured,
        faults: Measured,
        answers: Sequence[Row],
        now: datetime,
    ) -> list[Strip]:
        took = {row["account"]: row for row in answers if row["account"] is not None}
        rates, earlier, technical = (
            {cell.keys["account"]: cell for cell in each.cells} for each in (accounts, before, faults)
        )
        breakers = self._breakers(look, now)
        return [
            Strip(
                name=account.name,
                provider=account.provider.name,
                line=Line(account.name, cell, earlier.get(account.name), {})
                if (cell := rates.get(account.name))
                else None,
                technical=technical.get(account.name),
                breaker=breaker,
                segments=segments,
                p50_s=row["p50_s"],
                p95_s=row["p95_s"],
            )
            for account in self._deps.accounts_of(look.visitor.merchant_id, livemode=look.livemode)
            for breaker, segments in [breakers.get(account.name, (None, 0))]
            for row in [took.get(account.name, NO_ANSWERS)]
        ]

    def _breakers(self, look: Look, now: datetime) -> dict[str, tuple[str, int]]:
        """Of each account the worst of its breakers, and for how many kinds of payments one is open besides."""
        worst: dict[str, tuple[str, int]] = {}
        for model in self._deps.learned.models(look.visitor.merchant_id, livemode=look.livemode):
            for account in model.use.accounts:
                word = model.policy.explain({}, account, now.timestamp()).breaker
                known, segments = worst.get(account, (BREAKERS[0], 0))
                worst[account] = (
                    max(known, word or known, key=BREAKERS.index),
                    max(segments, len(model.policy.opened(account))),
                )
        return worst


def largest_first(amounts: Sequence[Amount]) -> list[Amount]:
    """Amounts of several currencies, those that the most came of first. They are never added up: nobody said at which rate."""
    return sorted((each for each in amounts if each.hits), key=lambda each: (-each.hits, each.currency))
