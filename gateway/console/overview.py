"""The overview: what a payments team looks at first. Every number leads to where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.console.frame import Frame, Look
from gateway.deps import Deps
from gateway.incidents import Incident
from gateway.sql import Pool, Row, Statement

SAMPLE: Final = 2_000
"""Of so many payments, the last ones, it is said how long their accounts took to answer."""
SHOWN: Final = 20
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
    breaker: str | None
    segments: int
    answers: int
    p50_s: float | None
    p95_s: float | None


class Overview:
    """The first page, over one house."""

    def __init__(self, deps: Deps, pool: Pool, frame: Frame) -> None:
        self._deps = deps
        self._pool = pool
        self._frame = frame

    async def page(self, request: Request, look: Look) -> Response:
        """``GET /console``."""
        whose = {"merchant_id": look.visitor.merchant_id, "livemode": look.livemode}
        answers = await _ANSWERS.rows(self._pool, whose | {"sample": SAMPLE})
        unknown = await _UNKNOWN.rows(self._pool, whose | {"limit": SHOWN})
        waiting = await _UNKNOWN_COUNT.row(self._pool, whose | {"limit": COUNTED_MAX})
        incidents: Sequence[Incident] = await self._deps.queries.incidents(
            look.visitor.merchant_id, livemode=look.livemode, limit=COUNTED_MAX, open=True
        )
        now = self._deps.clock()
        return self._frame.page(
            "overview.html",
            look,
            section="overview",
            now=now,
            took=next((row for row in answers if row["account"] is None), None),
            strips=self._strips(look, answers, now),
            unknown=unknown,
            unknown_count=waiting["n"] if waiting else 0,
            unknown_oldest_s=_age_s(waiting["oldest"] if waiting else None, now),
            incidents=incidents[:SHOWN],
            incident_count=len(incidents),
            counted_max=COUNTED_MAX,
            worker=self._deps.standing,
        )

    def _strips(self, look: Look, answers: Sequence[Row], now: datetime) -> list[Strip]:
        took: Mapping[str, Row] = {row["account"]: row for row in answers if row["account"] is not None}
        breakers = self._breakers(look, now)
        strips = []
        for account in self._deps.accounts_of(look.visitor.merchant_id, livemode=look.livemode):
            row: Mapping[str, Any] = took.get(account.name, {})
            breaker, segments = breakers.get(account.name, (None, 0))
            strips.append(
                Strip(
                    account.name,
                    account.provider.name,
                    breaker,
                    segments,
                    row.get("n", 0),
                    row.get("p50_s"),
                    row.get("p95_s"),
                )
            )
        return strips

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


def _age_s(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else (now - at).total_seconds()
