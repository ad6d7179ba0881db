"""Who asks, under which key, about what: the same for every route, and in that order, so that a stranger learns nothing."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from gateway.api import reading
from gateway.api.auth import Authenticator, Principal
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import PAYMENT, is_id
from gateway.lifecycle import Payment
from gateway.settings import VERSIONS
from idempotency.key import Key, KeyMalformed
from idempotency.key import parse as parse_key


class Asker:
    """Reads what every request has: its key, its version, its Idempotency-Key, and whose payment it is about."""

    def __init__(self, deps: Deps, authenticator: Authenticator) -> None:
        self._deps = deps
        self._authenticator = authenticator

    async def principal(self, request: Request) -> Principal:
        """The merchant that asks. Raises :class:`Problem`: 401, 403 for a publishable key, 400 for an unknown version."""
        who = await self._authenticator.principal(request.headers.get("authorization"))
        if who.kind != "secret":
            raise Problem("forbidden", "A publishable key may not do that; use a secret key on your server.")
        version = request.headers.get("gateway-version")
        if version is not None and version not in VERSIONS:
            raise Problem("unknown_version", f"Gateway-Version must be one of: {', '.join(VERSIONS)}.")
        return who

    async def asked(self, request: Request, most: int = reading.BODY_MAX) -> tuple[Principal, Key, dict[str, Any]]:
        """Who asks, under which Idempotency-Key, for what. Raises :class:`Problem`."""
        who = await self.principal(request)
        raw = reading.parse(await reading.body(request, most))
        try:
            text = parse_key(request.headers.get("idempotency-key"))
        except KeyMalformed as error:
            missing = not request.headers.get("idempotency-key", "").strip()
            raise Problem("idempotency_key_missing" if missing else "idempotency_key_malformed", str(error)) from None
        return who, Key(who.merchant_id, who.livemode, text), raw

    async def payment(self, request: Request, who: Principal) -> Payment:
        """The payment in the path. Raises :class:`Problem` (404) for one that is not there, or not theirs."""
        payment_id = request.path_params["id"]
        payment = None
        if is_id(payment_id, PAYMENT):
            payment = await self._deps.queries.payment_of(payment_id, who.merchant_id, livemode=who.livemode)
        if payment is None:
            raise Problem("not_found", "There is no such payment.")
        return payment


def owns(who: Principal, payment: Payment) -> bool:
    """Whether the payment is theirs, in this mode."""
    return (payment.terms.merchant_id, payment.terms.livemode) == (who.merchant_id, who.livemode)
