"""``GET /v1/accounts``: the merchant's accounts, and what each of them is able to do."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import asking
from gateway.api.asking import Desk
from providers.contract import Capability
from providers.registry import Account


class Accounts(Desk):
    """The account routes over one house."""

    async def list(self, request: Request) -> Response:
        """``GET /v1/accounts``, in the order of the configuration: the order in which they are asked."""
        who = await self._principal(request)
        accounts = self._deps.accounts_of(who.merchant_id, livemode=who.livemode)
        return asking.listed([account_object(account) for account in accounts], len(accounts))


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
