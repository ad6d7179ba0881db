"""Payment methods and customers: read, call the use case, answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Principal
from gateway.api.schemas import Body, CustomerCreate, PaymentMethodCreate, PaymentMethodUpdate
from gateway.books import Method
from gateway.errors import Problem
from gateway.ids import CUSTOMER, PAYMENT, PAYMENT_METHOD, new_id
from gateway.methods import (
    card_from,
    card_method,
    customer_object,
    method_object,
    store_customer,
    store_method,
    unknown_customer,
    verify_method,
)
from gateway.payment import Terms
from gateway.queries import StoredCustomer, StoredMethod
from idempotency.key import fingerprint
from providers.contract import Card

VERIFIES_ONLY: Final = ("currency", "routing", "return_url", "shopper")
"""Fields that only a verification has a use for."""


class PaymentMethods(Desk):
    """The payment method routes over one house."""

    async def create(self, request: Request) -> Response:
        """``POST /v1/payment_methods``."""
        who, key, raw = await self._asked(request)
        body = reading.validate(PaymentMethodCreate, raw)
        _check(body)
        now, keys = self._deps.clock(), self._deps.keys
        print_ = fingerprint(keys.fingerprint, "POST /v1/payment_methods", "", raw)
        method, card = self._brought(body, raw, who)
        unusable = await self._unusable(body.tokens, body.customer, who)
        if not body.verify:
            answer = await store_method(method, key, print_, now, self._deps, unusable)
        else:
            terms = _verification_terms(body, raw, who, now)
            answer = await verify_method(method, terms, key, print_, card, unusable, self._deps)
        return self._answer("create_payment_method", answer)

    async def update(self, request: Request) -> Response:
        """``POST /v1/payment_methods/{id}``: sent again it changes nothing more, so it needs no key."""
        who, raw = await self._asked_plainly(request)
        method = await self._method(request, who)
        body = reading.validate(PaymentMethodUpdate, raw)
        if method.deleted_at is not None:
            raise Problem("validation_failed", "This payment method was deleted.")
        if not method.reusable:
            raise Problem("validation_failed", "This payment method was for one payment; it is not kept.")
        unusable = await self._unusable(body.tokens, body.customer, who)
        if unusable is not None:
            raise unusable
        now = self._deps.clock()
        if not await self._deps.method_books.update(method.id, body.tokens or {}, body.customer, now):
            raise Problem("validation_failed", "This payment method is attached to another customer.", "customer")
        return await self._shown(request, who)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/payment_methods/{id}``, also of a deleted one."""
        return await self._shown(request, await self._principal(request))

    async def list(self, request: Request) -> Response:
        """``GET /v1/payment_methods``: those that may be charged again, newest first."""
        who = await self._principal(request)
        filters = ("customer", "fingerprint")
        cursor, limit = asking.page(request, filters, PAYMENT_METHOD)
        wanted = {name: request.query_params.get(name) for name in filters}
        queries = self._deps.queries
        found = await queries.methods(who.merchant_id, livemode=who.livemode, limit=limit + 1, before=cursor, **wanted)
        told = await queries.verifications(found)
        shown = [method_object(method, told.get(method.verification_id or "")) for method in found]
        return asking.listed(shown, limit)

    async def delete(self, request: Request) -> Response:
        """``DELETE /v1/payment_methods/{id}``. Deleting it again answers the same."""
        who = await self._principal(request)
        method = await self._method(request, who)
        await self._deps.method_books.delete(method.id, self._deps.clock())
        return await self._shown(request, who)

    # --- parts ---

    async def _method(self, request: Request, who: Principal) -> StoredMethod:
        return await self._named(request, who, PAYMENT_METHOD, "payment method", self._deps.queries.method)

    async def _shown(self, request: Request, who: Principal) -> Response:
        method = await self._method(request, who)
        told = await self._deps.queries.verifications([method])
        return asking.json(method_object(method, told.get(method.verification_id or "")))

    def _brought(self, body: PaymentMethodCreate, raw: Mapping[str, Any], who: Principal) -> tuple[Method, Card | None]:
        """The method that the request brings, and its card with the code, which is not stored."""
        method_id, card = new_id(PAYMENT_METHOD), None
        if body.card is not None:
            card = card_from(body.card, self._deps.keys, "card.number")
            method = card_method(card, self._deps.keys, who.merchant_id, method_id, keeps=True)
        else:
            method = Method(method_id, "token", body.tokens or {}, None, None, None, reusable=True, wipe_at=None)
        billing = raw.get("billing_details")  # validated above, kept as it was set
        kept = replace(
            method,
            customer=body.customer,
            network_transaction_id=body.network_transaction_id,
            metadata=body.metadata,
            personal={"billing_details": billing} if billing else None,
        )
        return kept, card

    async def _unusable(self, tokens: Mapping[str, str] | None, customer: str | None, who: Principal) -> Problem | None:
        """Why such a method is not stored, or ``None``: it names an account or a customer that is not there."""
        accounts = {account.name for account in self._deps.accounts_of(who.merchant_id, livemode=who.livemode)}
        unknown = sorted((tokens or {}).keys() - accounts)
        if unknown:
            shown = f" {unknown[0]}" if reading.FIELD.fullmatch(unknown[0]) else ""
            return Problem("validation_failed", f"There is no account{shown} to have a token at.", "tokens")
        return await unknown_customer(customer, who.merchant_id, self._deps, livemode=who.livemode)


class Customers(Desk):
    """The customer routes over one house."""

    async def create(self, request: Request) -> Response:
        """``POST /v1/customers``."""
        who, key, raw = await self._asked(request)
        body = reading.validate(CustomerCreate, raw)
        now = self._deps.clock()
        personal = {name: raw[name] for name in ("name", "email", "phone") if raw.get(name) is not None}
        customer = StoredCustomer(
            id=new_id(CUSTOMER),
            merchant_id=who.merchant_id,
            livemode=who.livemode,
            reference=body.reference,
            metadata=body.metadata,
            personal=personal or None,
            created_at=now,
            updated_at=now,
        )
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/customers", "", raw)
        return self._answer("create_customer", await store_customer(customer, key, print_, self._deps))

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/customers/{id}``, also of a deleted one."""
        who = await self._principal(request)
        return asking.json(customer_object(await self._customer(request, who)))

    async def list(self, request: Request) -> Response:
        """``GET /v1/customers``: those that are not deleted, newest first."""
        who = await self._principal(request)
        cursor, limit = asking.page(request, ("reference",), CUSTOMER)
        found = await self._deps.queries.customers(
            who.merchant_id,
            livemode=who.livemode,
            limit=limit + 1,
            before=cursor,
            reference=request.query_params.get("reference"),
        )
        return asking.listed([customer_object(customer) for customer in found], limit)

    async def delete(self, request: Request) -> Response:
        """``DELETE /v1/customers/{id}``, with their payment methods. Deleting them again answers the same."""
        who = await self._principal(request)
        customer = await self._customer(request, who)
        await self._deps.method_books.delete_customer(customer.id, self._deps.clock())
        return asking.json(customer_object(await self._customer(request, who)))

    async def _customer(self, request: Request, who: Principal) -> StoredCustomer:
        return await self._named(request, who, CUSTOMER, "customer", self._deps.queries.customer)


def _check(body: PaymentMethodCreate) -> None:
    """What the fields' own rules cannot say. Raises :class:`Problem` (422) naming the field."""
    for kind, value in (("card", body.card), ("tokens", body.tokens)):
        wanted = body.type == kind.removesuffix("s")
        if wanted and value is None:
            raise Problem("validation_failed", f"{kind} is required with type {body.type}.", kind)
        if value is not None and not wanted:
            raise Problem("validation_failed", f"{kind} does not go with type {body.type}.", kind)
    if body.verify and body.currency is None:
        raise Problem("validation_failed", "currency is required to verify.", "currency")
    if not body.verify:
        for name in VERIFIES_ONLY:
            if getattr(body, name) is not None:
                raise Problem("validation_failed", f"{name} is for a verification; send verify: true.", name)


def _verification_terms(body: PaymentMethodCreate, raw: Mapping[str, Any], who: Principal, now: datetime) -> Terms:
    """The terms of the payment of amount zero that verifies a method, and asks its account to remember it."""
    return Terms(
        id=new_id(PAYMENT),
        merchant_id=who.merchant_id,
        livemode=who.livemode,
        amount=0,
        currency=body.currency or "",
        capture_method="automatic",
        off_session=False,
        created_at=now,
        customer=body.customer,
        return_url=body.return_url,
        setup_future_usage="off_session",
        network_transaction_id=body.network_transaction_id,
        pinned_account=None if body.routing is None else body.routing.account,
        billing_details=raw.get("billing_details") or {},
        shopper=raw.get("shopper") or {},
    )


BODIES: Final[Mapping[str, type[Body]]] = {
    "create_payment_method": PaymentMethodCreate,
    "update_payment_method": PaymentMethodUpdate,
    "create_customer": CustomerCreate,
}
"""What each verb takes, for the OpenAPI document."""
