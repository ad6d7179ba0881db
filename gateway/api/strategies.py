"""``GET /v1/routing/strategies``: the strategies in force, and what this process has learned for each of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import instant
from gateway.api import asking
from gateway.api.asking import Desk
from gateway.evidence import Model

SEGMENTS_MAX: Final = 100
"""So many segments are shown of an account; where there are more, it is the account that is ill."""


class Strategies(Desk):
    """The strategy route over one house."""

    async def list(self, request: Request) -> Response:
        """``GET /v1/routing/strategies``. Every process learns the same from the same rows, so it matters little which one answers."""
        who = await self._principal(request)
        learned, now = self._deps.learned, self._deps.clock().timestamp()
        models = learned.models(who.merchant_id, livemode=who.livemode)
        return asking.listed_whole([strategy_object(model, learned.lag_s, now) for model in models])


def strategy_object(model: Model, lag_s: float, now: float) -> dict[str, Any]:
    """A strategy in force as the API shows it, with what is believed of each of its accounts over all kinds of payments.

    ``approval`` is the expected share of approvals, without what the customer and the issuer stop, with its 95 % interval. ``breaker``
    is the account's own; ``segments_open`` are the kinds of payments for which it is open besides.
    """
    use = model.use
    return {
        "id": use.key,
        "object": "routing_strategy",
        "strategy": use.strategy,
        "settings": dict(use.settings),
        "accounts": [_account(model, account, now) for account in use.accounts],
        "outcomes": model.folded,
        "last_outcome": instant(datetime.fromtimestamp(model.at, UTC)) if model.folded else None,
        "ready": model.ready,
        "lag_s": round(lag_s, 3),
        "livemode": use.livemode,
    }


def _account(model: Model, account: str, now: float) -> dict[str, Any]:
    known = model.policy.explain({}, account, now)
    heard = model.heard.get(account, {})
    return {
        "account": account,
        "approval": {"mean": round(known.score, 4), "low": round(known.low, 4), "high": round(known.high, 4)},
        "breaker": known.breaker,
        "segments_open": model.policy.opened(account)[:SEGMENTS_MAX],
        "outcomes": dict(sorted(heard.items())),
        "detail": known.detail,
    }
