"""Payments and refunds: read, call the use case, answer.

The routes take the raw request: the body is validated from bytes, and the answer is bytes already. FastAPI's own machinery would
cost as much again as the whole of it (docs/performance.md); it still serves the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import charge_answer, history_object, payment_object, refund_object
from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Principal
from gateway.api.events import event_json
from gateway.api.schemas import (
    Body,
    MethodIn,
    PaymentCancel,
    PaymentCapture,
    PaymentConfirm,
    PaymentCreate,
    PaymentDetails,
    PaymentIncrement,
    PaymentResolve,
    RefundCreate,
    TokenMethodIn,
)
from gateway.books import Method
from gateway.charge import Charge, charge
from gateway.complete import complete
from gateway.errors import Problem
from gateway.explained import routing_object
from gateway.ids import PAYMENT, PAYMENT_METHOD, REFUND, is_id, new_id
from gateway.methods import card_from, card_method, unknown_customer, with_stored
from gateway.modify import FollowUp, modify
from gateway.payment import Payment, Status, Terms
from gateway.resolve import Resolution, resolve
from gateway.settle import MethodUse
from gateway.vault import Wallet
from idempotency.key import fingerprint
from providers.contract import Kind
from routing.retries import SCHEDULED_MAX

UNUSED_CARD_S: Final = 3600
"""A card waits for its confirm for 60 minutes, then it is wiped."""
EXPANDABLE: Final = frozenset({"attempts", "refunds"})
FILTERS: Final = (
    "status",
    "reference",
    "customer",
    "currency",
    "needs_review",
    "created[gte]",
    "created[lt]",
    "expand[]",
)

log = structlog.get_logger()


class Payments(Desk):
    """The payment routes over one house."""

    # --- verbs ---

    async def create(self, request: Request) -> Response:
        """``POST /v1/payments``."""
        who, key, raw = await self._asked(request)
        body = reading.validate(PaymentCreate, raw)
        now = self._deps.clock()
        terms = _terms(body, raw, who, now)
        if terms.retry_until is not None and not now < terms.retry_until <= now + SCHEDULED_MAX:
            raise Problem(
                "validation_failed", f"retry.until must be within the next {SCHEDULED_MAX.days} days.", "retry.until"
            )
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/payments", "", raw)
        command = Charge(key, print_, terms, wallet=None, confirm=body.confirm)
        if body.payment_method is not None:
            command = await with_stored(command, body.payment_method, self._deps)
        elif body.payment_method_data is not None:
            reusable = body.setup_future_usage is not None
            command = self._with_data(command, body.payment_method_data, now, reusable=reusable)
        command = await self._with_customer(command, who)
        return self._answer("create", await charge(command, self._deps))

    async def confirm(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/confirm``."""
        who, key, raw = await self._asked(request)
        payment = await self._payment(request, who)
        if payment.terms.amount == 0:
            raise Problem(
                "payment_state", "A verification is not confirmed; store the payment method again to verify it."
            )
        body = reading.validate(PaymentConfirm, raw)
        print_ = self._fingerprint("POST /v1/payments/{id}/confirm", payment, raw)
        command = Charge(key, print_, payment.terms, wallet=None, new=False)
        now = self._deps.clock()
        if body.payment_method_data is not None:
            reusable = payment.terms.setup_future_usage is not None
            command = self._with_data(command, body.payment_method_data, now, reusable=reusable)
        elif (method_id := body.payment_method or payment.payment_method) is not None:
            command = await self._with_customer(await with_stored(command, method_id, self._deps), who)
        return self._answer("confirm", await charge(command, self._deps))

    async def capture(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/capture``."""
        who, key, raw = await self._asked(request)
        payment = await self._payment(request, who)
        body = reading.validate(PaymentCapture, raw)
        print_ = self._fingerprint("POST /v1/payments/{id}/capture", payment, raw)
        command = FollowUp(key, print_, payment.terms.id, Kind.CAPTURE, body.amount, final=body.final)
        return self._answer("capture", await modify(command, self._deps))

    async def increment(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/increment``."""
        who, key, raw = await self._asked(request)
        payment = await self._payment(request, who)
        body = reading.validate(PaymentIncrement, raw)
        if not payment.terms.adjustable:
            raise Problem(
                "payment_state", "The payment was not made with incremental_authorization: its amount stays as it is."
            )
        print_ = self._fingerprint("POST /v1/payments/{id}/increment", payment, raw)
        command = FollowUp(key, print_, payment.terms.id, Kind.INCREMENT, body.amount)
        return self._answer("increment", await modify(command, self._deps))

    async def details(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/details``: what the checkout page got from a native challenge. It needs no key."""
        who, raw = await self._asked_plainly(request)
        payment = await self._payment(request, who)
        body = reading.validate(PaymentDetails, raw)
        attempt = payment.open_attempt
        if attempt is not None:
            payment = await complete(payment, attempt, body.details, self._deps)
        return self._answer("details", charge_answer(payment, self._deps.keys, ok=200))

    async def cancel(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/cancel``."""
        who, key, raw = await self._asked(request)
        payment = await self._payment(request, who)
        body = reading.validate(PaymentCancel, raw)
        print_ = self._fingerprint("POST /v1/payments/{id}/cancel", payment, raw)
        command = FollowUp(key, print_, payment.terms.id, Kind.VOID, reason=body.cancellation_reason)
        return self._answer("cancel", await modify(command, self._deps))

    async def resolve(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/resolve``: a person settles what no machine could."""
        who, key, raw = await self._asked(request)
        payment = await self._payment(request, who)
        body = reading.validate(PaymentResolve, raw)
        print_ = self._fingerprint("POST /v1/payments/{id}/resolve", payment, raw)
        command = Resolution(
            key,
            print_,
            payment.terms.id,
            by=who.key_id,
            operation_id=body.operation,
            outcome=body.outcome,
            provider_id=body.provider_id,
            reason=body.reason,
            evidence=body.evidence,
        )
        return self._answer("resolve", await resolve(command, self._deps))

    async def refund(self, request: Request) -> Response:
        """``POST /v1/refunds``."""
        who, key, raw = await self._asked(request)
        body = reading.validate(RefundCreate, raw)
        if await self._deps.queries.payment_of(body.payment, who.merchant_id, livemode=who.livemode) is None:
            raise Problem("not_found", "There is no such payment.", "payment")
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/refunds", "", raw)
        command = FollowUp(
            key, print_, body.payment, Kind.REFUND, body.amount, reason=body.reason, metadata=body.metadata
        )
        return self._answer("refund", await modify(command, self._deps))

    # --- reads ---

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/payments/{id}``. An undecided payment is only marked due: a read moves no money."""
        who = await self._principal(request)
        payment = await self._payment(request, who)
        if payment.status is Status.PROCESSING:
            await self._deps.books.mark_due(payment.terms.id)
        expand = _expand(request, EXPANDABLE | {"events", "history"})
        shown = payment_object(payment, self._deps.keys, expand)
        if "events" in expand:
            shown["events"] = [event_json(body) for body in await self._deps.endpoint_books.events_of(payment.terms.id)]
        if "history" in expand:
            shown["history"] = [history_object(row) for row in await self._deps.queries.history(payment.terms.id)]
        return asking.json(shown)

    async def routing(self, request: Request) -> Response:
        """``GET /v1/payments/{id}/routing``: why each attempt went where it did."""
        who = await self._principal(request)
        return asking.json(routing_object(await self._payment(request, who)))

    async def list(self, request: Request) -> Response:
        """``GET /v1/payments``, newest first."""
        who = await self._principal(request)
        filters, limit = _filters(request)
        expand = _expand(request)
        found = await self._deps.queries.payments(who.merchant_id, livemode=who.livemode, limit=limit + 1, **filters)
        return asking.listed([payment_object(payment, self._deps.keys, expand) for payment in found], limit)

    async def retrieve_refund(self, request: Request) -> Response:
        """``GET /v1/refunds/{id}``."""
        who = await self._principal(request)
        refund_id = request.path_params["id"]
        found = await self._deps.queries.operation(refund_id) if is_id(refund_id, REFUND) else None
        if found is None or not _owns(who, found[0]):
            raise Problem("not_found", "There is no such refund.")
        return asking.json(refund_object(*found))

    # --- parts ---

    async def _payment(self, request: Request, who: Principal) -> Payment:
        return await self._named(request, who, PAYMENT, "payment", self._deps.queries.payment_of)

    def _fingerprint(self, route: str, payment: Payment, raw: Mapping[str, Any]) -> bytes:
        return fingerprint(self._deps.keys.fingerprint, route, payment.terms.id, raw)

    def _with_data(self, command: Charge, data: MethodIn, now: datetime, *, reusable: bool) -> Charge:
        """The command with a payment method that the request brought, to be stored with the payment."""
        method_id, use = new_id(PAYMENT_METHOD), MethodUse(spent=False, learns=reusable)
        if isinstance(data, TokenMethodIn):
            method = Method(
                method_id,
                "token",
                data.tokens,
                None,
                None,
                None,
                reusable=True,
                wipe_at=None,
                customer=command.terms.customer,
            )
            return replace(command, wallet=Wallet(tokens=data.tokens), method=method, method_id=method_id, use=use)
        terms = command.terms
        card = card_from(data.card, self._deps.keys, "payment_method_data.card.number")
        waits = not command.confirm and command.new  # the card is needed again at the confirm
        method = replace(
            card_method(card, self._deps.keys, terms.merchant_id, method_id, keeps=waits or reusable, keeps_code=waits),
            reusable=reusable,
            wipe_at=now + timedelta(seconds=UNUSED_CARD_S) if waits else None,
            customer=terms.customer if reusable else None,
        )
        return replace(command, wallet=Wallet(card=card), method=method, method_id=method_id, card=method.card, use=use)

    async def _with_customer(self, command: Charge, who: Principal) -> Charge:
        """The command, not chargeable where it names a customer of ours that is not there."""
        if command.unusable is not None:
            return command
        problem = await unknown_customer(command.terms.customer, who.merchant_id, self._deps, livemode=who.livemode)
        return command if problem is None else replace(command, unusable=problem)


def _terms(body: PaymentCreate, raw: Mapping[str, Any], who: Principal, now: datetime) -> Terms:
    return Terms(
        id=new_id(PAYMENT),
        merchant_id=who.merchant_id,
        livemode=who.livemode,
        amount=body.amount,
        currency=body.currency,
        capture_method=body.capture_method,
        off_session=body.off_session,
        created_at=now,
        reference=body.reference,
        customer=body.customer,
        description=body.description,
        statement_descriptor=body.statement_descriptor,
        return_url=body.return_url,
        setup_future_usage=body.setup_future_usage,
        recurring=body.recurring,
        network_transaction_id=body.network_transaction_id,
        three_d_secure="required" if body.three_d_secure == "required" else None,
        adjustable=body.incremental_authorization or None,
        retry_until=None if body.retry is None else reading.instant(body.retry.until, "retry.until"),
        pinned_account=None if body.routing is None else body.routing.account,
        metadata=body.metadata,
        billing_details=raw.get("billing_details") or {},  # validated above, kept as it was set
        shopper=raw.get("shopper") or {},
    )


def _owns(who: Principal, payment: Payment) -> bool:
    return (payment.terms.merchant_id, payment.terms.livemode) == (who.merchant_id, who.livemode)


def _expand(request: Request, known: frozenset[str] = EXPANDABLE) -> frozenset[str]:
    wanted = frozenset(request.query_params.getlist("expand[]"))
    if wanted - known:
        raise Problem("validation_failed", f"expand[] takes: {', '.join(sorted(known))}.", "expand[]")
    return wanted


def _filters(request: Request) -> tuple[dict[str, Any], int]:
    """The filters and the limit of a list. Raises :class:`Problem` (422) naming the parameter."""
    query = request.query_params
    cursor, limit = asking.page(request, FILTERS, PAYMENT)
    if query.get("status") is not None and query["status"] not in set(Status):
        raise Problem("validation_failed", f"status must be one of: {', '.join(Status)}.", "status")
    if query.get("needs_review", "true") != "true":
        raise Problem("validation_failed", "needs_review may only be true.", "needs_review")
    filters: dict[str, Any] = {name: query.get(name) for name in ("status", "reference", "customer", "currency")}
    filters |= {
        "before": cursor,
        "in_review": "needs_review" in query,
        "created_gte": asking.instant(query, "created[gte]"),
        "created_lt": asking.instant(query, "created[lt]"),
    }
    return filters, limit


BODIES: Final[Mapping[str, type[Body]]] = {
    "create": PaymentCreate,
    "confirm": PaymentConfirm,
    "capture": PaymentCapture,
    "cancel": PaymentCancel,
    "increment": PaymentIncrement,
    "details": PaymentDetails,
    "resolve": PaymentResolve,
    "refund": RefundCreate,
}
"""What each verb takes, for the OpenAPI document."""
