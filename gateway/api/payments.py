"""Payments and refunds: read, call the use case, answer.

The routes take the raw request: the body is validated from bytes, and the answer is bytes already. FastAPI's own machinery would
cost as much again as the whole of it (docs/performance.md); it still serves the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import JSON, Answer, charge_answer, history_object, payment_object, refund_object
from gateway.api import reading
from gateway.api.asking import Asker, owns
from gateway.api.auth import Principal
from gateway.api.schemas import (
    Body,
    CardMethodIn,
    MethodIn,
    PaymentCancel,
    PaymentCapture,
    PaymentConfirm,
    PaymentCreate,
    PaymentDetails,
    PaymentIncrement,
    RefundCreate,
    TokenMethodIn,
)
from gateway.books import Method
from gateway.charge import Charge, charge
from gateway.complete import complete
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import PAYMENT, PAYMENT_METHOD, REFUND, is_id, new_id
from gateway.lifecycle import Payment, Status, Terms
from gateway.modify import FollowUp, modify
from gateway.vault import Wallet, open_card, seal_card
from idempotency.key import fingerprint
from providers.contract import Card, Kind

LIST_DEFAULT: Final = 20
LIST_MAX: Final = 100
UNUSED_CARD_S: Final = 3600
"""A card waits for its confirm for 60 minutes, then it is wiped."""
EXPANDABLE: Final = frozenset({"attempts", "refunds"})


class Payments:
    """The payment routes over one house."""

    def __init__(self, deps: Deps, asker: Asker) -> None:
        self._deps = deps
        self._asker = asker

    # --- verbs ---

    async def create(self, request: Request) -> Response:
        """``POST /v1/payments``."""
        who, key, raw = await self._asker.asked(request)
        body = reading.validate(PaymentCreate, raw)
        now = self._deps.clock()
        terms = _terms(body, raw, who, now)
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/payments", "", raw)
        command = Charge(key, print_, terms, wallet=None, confirm=body.confirm)
        if body.payment_method is not None:
            command = await self._with_stored(command, body.payment_method, who)
        elif body.payment_method_data is not None:
            reusable = body.setup_future_usage is not None
            command = self._with_data(command, body.payment_method_data, now, reusable=reusable)
        return self._answer("create", await charge(command, self._deps))

    async def confirm(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/confirm``."""
        who, key, raw = await self._asker.asked(request)
        payment = await self._asker.payment(request, who)
        body = reading.validate(PaymentConfirm, raw)
        print_ = self._fingerprint("POST /v1/payments/{id}/confirm", payment, raw)
        command = Charge(key, print_, payment.terms, wallet=None, new=False)
        now = self._deps.clock()
        if body.payment_method_data is not None:
            reusable = payment.terms.setup_future_usage is not None
            command = self._with_data(command, body.payment_method_data, now, reusable=reusable)
        elif (method_id := body.payment_method or payment.payment_method) is not None:
            command = await self._with_stored(command, method_id, who)
        return self._answer("confirm", await charge(command, self._deps))

    async def capture(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/capture``."""
        who, key, raw = await self._asker.asked(request)
        payment = await self._asker.payment(request, who)
        body = reading.validate(PaymentCapture, raw)
        print_ = self._fingerprint("POST /v1/payments/{id}/capture", payment, raw)
        command = FollowUp(key, print_, payment.terms.id, Kind.CAPTURE, body.amount, final=body.final)
        return self._answer("capture", await modify(command, self._deps))

    async def increment(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/increment``."""
        who, key, raw = await self._asker.asked(request)
        payment = await self._asker.payment(request, who)
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
        who = await self._asker.principal(request)
        raw = reading.parse(await reading.body(request))
        payment = await self._asker.payment(request, who)
        body = reading.validate(PaymentDetails, raw)
        attempt = payment.open_attempt
        if attempt is not None:
            payment = await complete(payment, attempt, body.details, self._deps)
        return self._answer("details", charge_answer(payment, self._deps.keys, ok=200))

    async def cancel(self, request: Request) -> Response:
        """``POST /v1/payments/{id}/cancel``."""
        who, key, raw = await self._asker.asked(request)
        payment = await self._asker.payment(request, who)
        body = reading.validate(PaymentCancel, raw)
        print_ = self._fingerprint("POST /v1/payments/{id}/cancel", payment, raw)
        command = FollowUp(key, print_, payment.terms.id, Kind.VOID, reason=body.cancellation_reason)
        return self._answer("cancel", await modify(command, self._deps))

    async def refund(self, request: Request) -> Response:
        """``POST /v1/refunds``."""
        who, key, raw = await self._asker.asked(request)
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
        who = await self._asker.principal(request)
        payment = await self._asker.payment(request, who)
        if payment.status is Status.PROCESSING:
            await self._deps.books.mark_due(payment.terms.id)
        expand = _expand(request, EXPANDABLE | {"events"})
        shown = payment_object(payment, self._deps.keys, expand)
        if "events" in expand:
            shown["events"] = [history_object(row) for row in await self._deps.queries.history(payment.terms.id)]
        return _json(shown)

    async def list(self, request: Request) -> Response:
        """``GET /v1/payments``, newest first."""
        who = await self._asker.principal(request)
        filters, limit = _filters(request)
        page = await self._deps.queries.payments(who.merchant_id, livemode=who.livemode, limit=limit + 1, **filters)
        shown, more, expand = page[:limit], len(page) > limit, _expand(request)
        return _json(
            {
                "object": "list",
                "data": [payment_object(payment, self._deps.keys, expand) for payment in shown],
                "has_more": more,
                "next_cursor": shown[-1].terms.id if more else None,
            }
        )

    async def retrieve_refund(self, request: Request) -> Response:
        """``GET /v1/refunds/{id}``."""
        who = await self._asker.principal(request)
        refund_id = request.path_params["id"]
        found = await self._deps.queries.operation(refund_id) if is_id(refund_id, REFUND) else None
        if found is None or not owns(who, found[0]):
            raise Problem("not_found", "There is no such refund.")
        return _json(refund_object(*found))

    # --- parts ---

    def _fingerprint(self, route: str, payment: Payment, raw: Mapping[str, Any]) -> bytes:
        return fingerprint(self._deps.keys.fingerprint, route, payment.terms.id, raw)

    def _with_data(self, command: Charge, data: MethodIn, now: datetime, *, reusable: bool) -> Charge:
        """The command with a payment method that the request brought, to be stored with the payment."""
        method_id = new_id(PAYMENT_METHOD)
        if isinstance(data, TokenMethodIn):
            method = Method(method_id, "token", data.tokens, None, None, None, reusable=True, wipe_at=None)
            return replace(command, wallet=Wallet(tokens=data.tokens), method=method, method_id=method_id)
        return self._with_card(command, data, method_id, now, reusable=reusable)

    def _with_card(
        self, command: Charge, data: CardMethodIn, method_id: str, now: datetime, *, reusable: bool
    ) -> Charge:
        vault, sent = self._deps.keys.vault, data.card
        if vault is None:
            raise Problem(
                "card_not_accepted",
                "Card numbers are accepted only where a vault key is configured; send tokens instead.",
                "payment_method_data.card.number",
            )
        card = Card(sent.number, sent.exp_month, sent.exp_year, sent.cvc, sent.holder_name)
        waits = not command.confirm and command.new  # the card is needed again at the confirm
        sealed_card = sealed_cvc = None
        if waits or reusable:
            sealed_card, sealed_cvc = seal_card(card, vault, command.terms.merchant_id, method_id)
        method = Method(
            id=method_id,
            type="card",
            tokens={},
            card={
                "bin": card.number[:6],
                "last4": card.number[-4:],
                "exp_month": card.exp_month,
                "exp_year": card.exp_year,
            },
            sealed_card=sealed_card,
            sealed_cvc=sealed_cvc if waits else None,
            reusable=reusable,
            wipe_at=now + timedelta(seconds=UNUSED_CARD_S) if waits else None,
        )
        return replace(command, wallet=Wallet(card=card), method=method, method_id=method_id, card=method.card)

    async def _with_stored(self, command: Charge, method_id: str, who: Principal) -> Charge:
        """The command with a payment method that is stored already."""
        method = await self._deps.queries.method(method_id, who.merchant_id, livemode=who.livemode)
        if method is None:
            raise Problem("validation_failed", "There is no such payment method.", "payment_method")
        own = not command.new and method.created_at == command.terms.created_at  # they were stored in one commit
        if not own and not method.reusable:
            unusable = Problem(
                "validation_failed",
                "This payment method was for one payment; send the card again, with setup_future_usage to keep it.",
                "payment_method",
            )
            return replace(command, wallet=Wallet(), method_id=method.id, unusable=unusable)
        card, vault = None, self._deps.keys.vault
        if method.sealed_card is not None and vault is not None:
            sealed_cvc = method.sealed_cvc if own else None  # it waits for the payment that it came with
            card = open_card(method.sealed_card, sealed_cvc, vault, who.merchant_id, method.id)
        spent = method.id if method.type == "card" and own else None
        wallet = Wallet(method.tokens, card)
        return replace(command, wallet=wallet, method_id=method.id, card=method.card, spent_method=spent)

    def _answer(self, verb: str, answer: Answer) -> Response:
        self._deps.instruments.answers.labels(verb, str(answer.status)).inc()
        if answer.problem is not None:
            raise answer.problem
        return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)


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
        pinned_account=None if body.routing is None else body.routing.account,
        metadata=body.metadata,
        billing_details=raw.get("billing_details") or {},  # validated above, kept as it was set
        shopper=raw.get("shopper") or {},
    )


def _expand(request: Request, known: frozenset[str] = EXPANDABLE) -> frozenset[str]:
    wanted = frozenset(request.query_params.getlist("expand[]"))
    if wanted - known:
        raise Problem("validation_failed", f"expand[] takes: {', '.join(sorted(known))}.", "expand[]")
    return wanted


def _filters(request: Request) -> tuple[dict[str, Any], int]:
    """The filters and the limit of a list. Raises :class:`Problem` (422) naming the parameter."""
    query = request.query_params
    known = {
        "limit",
        "cursor",
        "status",
        "reference",
        "customer",
        "currency",
        "created[gte]",
        "created[lt]",
        "expand[]",
    }
    if unknown := set(query) - known:
        param = next((name for name in sorted(unknown) if reading.FIELD.fullmatch(name)), None)
        raise Problem("validation_failed", f"This list is filtered by: {', '.join(sorted(known))}.", param)
    if unprintable := [name for name, value in query.items() if "\0" in value]:
        raise Problem("validation_failed", f"{unprintable[0]} holds a null character.", unprintable[0])
    limit = query.get("limit", str(LIST_DEFAULT))
    if len(limit) > 3 or not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= LIST_MAX:
        raise Problem("validation_failed", f"limit must be 1 to {LIST_MAX}.", "limit")
    cursor = query.get("cursor")
    if cursor is not None and not is_id(cursor, PAYMENT):
        raise Problem("validation_failed", "cursor must be a next_cursor of this list.", "cursor")
    if query.get("status") is not None and query["status"] not in set(Status):
        raise Problem("validation_failed", f"status must be one of: {', '.join(Status)}.", "status")
    filters: dict[str, Any] = {name: query.get(name) for name in ("status", "reference", "customer", "currency")}
    filters |= {
        "before": cursor,
        "created_gte": _instant(query, "created[gte]"),
        "created_lt": _instant(query, "created[lt]"),
    }
    return filters, int(limit)


def _instant(query: Mapping[str, str], name: str) -> datetime | None:
    if name not in query:
        return None
    at: datetime | None
    try:
        at = datetime.fromisoformat(query[name])
        at = None if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # no time at all, or one that only a zone's offset puts before the year 1
        at = None
    if at is None:
        raise Problem("validation_failed", f"{name} must be an RFC 3339 time such as 2026-11-01T00:00:00Z.", name)
    return at


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)


BODIES: Final[Mapping[str, type[Body]]] = {
    "create": PaymentCreate,
    "confirm": PaymentConfirm,
    "capture": PaymentCapture,
    "cancel": PaymentCancel,
    "increment": PaymentIncrement,
    "details": PaymentDetails,
    "refund": RefundCreate,
}
"""What each verb takes, for the OpenAPI document."""
