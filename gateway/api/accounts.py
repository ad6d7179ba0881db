"""``GET /v1/accounts``: the merchant's accounts, and what each of them is able to do."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import JSON
from gateway.api.asking import Asker
from gateway.deps import Deps
from providers.contract import Capability
from providers.registry import Account


class Accounts:
    """The account routes over one house."""

    def __init__(self, deps: Deps, asker: Asker) -> None:
        self._deps = deps
        self._asker = asker

    async def list(self, request: Request) -> Response:
        """``GET /v1/accounts``, in the order of the configuration: the order in which they are asked."""
        who = await self._asker.principal(request)
        accounts = self._deps.accounts_of(who.merchant_id, livemode=who.livemode)
        shown = {"object": "list", "data": [account_object(account) for account in accounts]}
        return Response(orjson.dumps(shown | {"has_more": False, "next_cursor": None}), media_type=JSON)


def account_object(account: Account) -> dict[str, Any]:
    """An account as the API shows it: what it can do, what its provider would have to switch on, and nothing secret."""
    able = account.provider.capabilities
    return {
        "id": account.name,
        "object": "account",
        "provider": account.provider.name,
        "livemode": account.livemode,
        "currencies": None if account.currencies is None else sorted(account.currencies),
        "capabilities": {str(capability): account.can(capability) for capability in Capability},
        "on_request": sorted(able.on_request - account.capabilities),
        "idempotency_horizon_s": able.replay_horizon_s,
    }
