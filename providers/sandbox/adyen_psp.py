"""The simulated Adyen: Checkout v72 payments and modifications, with its own books.

Modifications answer "received" and tell their result by webhook, as at Adyen. The books move at
once, so a test needs no webhook to know the truth. What is told in time is told with the next request after it:
an authorisation that lapsed (EXPIRE) and a challenge that nobody came back from (OFFER_CLOSED).
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import orjson

from providers.sandbox import adyen_authentication as authentication
from providers.sandbox import adyen_errors as errors
from providers.sandbox.adyen_authentication import Challenges
from providers.sandbox.adyen_disputes import AdyenDisputes
from providers.sandbox.adyen_objects import (
    Payment,
    new_psp_reference,
    notification_item,
    payment_json,
    stored_json,
)
from providers.sandbox.adyen_requests import (
    as_dict,
    manual_capture,
    pre_authorised,
    read_amount,
    read_card,
    read_holder,
    read_metadata,
    read_reference,
    scripted_failure,
    scripted_refusal,
    text,
    triggered_advice,
    triggered_refusal,
)
from providers.sandbox.answers import Answer
from providers.sandbox.books import Book, Books, Entry
from providers.sandbox.cards import Card
from providers.sandbox.desk import Call, RefusedError, json_answer
from providers.sandbox.faults import Subject
from providers.sandbox.postman import Postman
from providers.sandbox.signatures import adyen_signature
from providers.sandbox.triggers import adyen_later_failure

REFUND_REASONS = ("FRAUD", "CUSTOMER REQUEST", "RETURN", "DUPLICATE", "OTHER")

NO_BALANCE = "Insufficient balance on payment"
NOT_CAPTURED = "Transaction hasn't been captured, refund not possible"
CANNOT_CANCEL = "Transaction is not in a state that can be cancelled"
CANNOT_ADJUST = "Transaction is not in a state that can be adjusted"
OTHER_CURRENCY = "Currency of the modification differs from the payment"
LATER_FAILURE = "Rejected by the card scheme"

AUTHORISATION_LIFE_S = 28 * 24 * 3600
"""After this an authorisation that nobody captured lapses: https://docs.adyen.com/online-payments/capture"""
OFFER_LIFE_S = 12 * 3600
"""How long a shopper has to come back: the description of OFFER_CLOSED in Adyen's webhook document."""


class AdyenPsp:
    """All objects of one Adyen company account."""

    def __init__(
        self,
        books: Books,
        postman: Postman,
        *,
        merchant_account: str,
        hmac_key: str,
        multiple_captures: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``now`` is the time at this PSP, in seconds since the epoch."""
        self._now = now
        self.disputes = AdyenDisputes(self._notify, now)
        self.books = books
        self.postman = postman
        self._merchant_account = merchant_account
        self._hmac_key = hmac_key
        self._multiple_captures = multiple_captures
        self.clear()

    def clear(self) -> None:
        """Forget every object."""
        self.payments: dict[str, Payment] = {}
        self.payments_by_reference: dict[str, list[Payment]] = {}
        self.stored: dict[str, tuple[str, Card]] = {}
        self._challenges = Challenges()
        self._offers: deque[Payment] = deque()
        self._uncaptured: deque[Payment] = deque()
        self.disputes.clear()

    # -- what a request is about, for faults and the log

    def payment_subject(self, params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
        """A new payment: reference, currency and card are in the request."""
        try:
            shopper = text(params.get("shopperReference"))
            card = read_card(as_dict(params.get("paymentMethod")), self.stored, shopper)
        except RefusedError:
            card = None
        subject = Subject(
            operation="authorize",
            currency=text(as_dict(params.get("amount")).get("currency")),
            bin=card.number if card else None,
            reference=text(params.get("reference")),
        )
        return subject, card.masked if card else None

    def details_subject(self, params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
        """The second half of a payment with a challenge."""
        payment = self._challenges.payment_of(as_dict(params.get("details")))
        return self._subject_of("authorize", payment, None)

    def modification_subject(
        self, operation: str, params: Mapping[str, Any], path_id: str
    ) -> tuple[Subject, str | None]:
        """A modification: the reference is its own, the rest is the payment's."""
        payment = self.payments.get(path_id)
        if payment is None:
            payment = self._newest(text(params.get("paymentReference")) or "")
        return self._subject_of(operation, payment, text(params.get("reference")))

    def _subject_of(self, operation: str, payment: Payment | None, reference: str | None) -> tuple[Subject, str | None]:
        if payment is None:
            return Subject(operation=operation, reference=reference), None
        subject = Subject(
            operation=operation,
            currency=payment.currency,
            bin=payment.card.number,
            reference=reference or (payment.reference if operation == "authorize" else None),
        )
        return subject, payment.card.masked

    # -- payments

    def pay(self, call: Call) -> Answer:
        """POST /payments."""
        params = call.params
        amount, currency = read_amount(params, least=0)
        reference = read_reference(params, "reference")
        method = params.get("paymentMethod")
        if not isinstance(method, dict):
            raise errors.invalid("14_004", "Missing payment method details")
        interaction = params.get("shopperInteraction", "Ecommerce")
        if not params.get("returnUrl") and interaction != "ContAuth":
            raise errors.invalid("14_030", "Return URL is missing.")
        payment = Payment(
            reference=reference,
            amount=amount,
            currency=currency,
            card=read_card(method, self.stored, text(params.get("shopperReference"))),
            manual_capture=manual_capture(params),
            key=call.key,
            metadata=read_metadata(params),
            created=self._now(),
            holder_name=read_holder(params),
            pre_authorised=pre_authorised(params),
            return_url=text(params.get("returnUrl")) or "",
            shopper_reference=text(params.get("shopperReference")),
        )
        if params.get("storePaymentMethod") is True and payment.shopper_reference:
            payment.stored_id = new_psp_reference()
        self.payments[payment.psp_reference] = payment
        self.payments_by_reference.setdefault(reference, []).append(payment)
        payment.refusal = triggered_refusal(params, payment.card) or scripted_refusal(call)
        payment.advice = triggered_advice(params, payment.card)
        authentication.begin(payment, params)
        if payment.step is None:
            self._settle_authorisation(payment, call)
        else:
            self._challenges.opened(payment)
            self._offers.append(payment)
        return json_answer(200, payment_json(payment, call.base_url))

    def details(self, call: Call) -> Answer:
        """POST /payments/details with what the shopper brought back of a challenge."""
        details = as_dict(call.params.get("details"))
        payment = self._challenges.payment_of(details)
        if payment is None or (payment.cancelled and payment.step is not None):
            raise errors.invalid("702", "Invalid redirectResult or threeDSResult")
        if payment.step is not None and self._challenges.advance(payment, details):
            self._settle_authorisation(payment, call)
        return json_answer(200, payment_json(payment, call.base_url))

    def complete_challenge(self, psp_reference: str, *, succeeded: bool) -> str | None:
        """The shopper's answer on the challenge page; gives the address to return to.

        Raises KeyError for a payment that is not there, or waits for nothing.
        """
        payment = self.payments[psp_reference]
        if payment.step is None:
            raise KeyError(psp_reference)
        mark = "&" if "?" in payment.return_url else "?"
        result = self._challenges.answered(payment, payment.step, succeeded=succeeded)
        return f"{payment.return_url}{mark}{quote(result, safe='=')}"

    def timely(self, act: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        """``act``, after everything that time has brought about since the last request."""

        def acted(call: Call) -> Answer:
            self.lapse()
            return act(call)

        return acted

    def lapse(self) -> None:
        """End the challenges that nobody came back from, and release what was not captured in time."""
        now = self._now()
        while self._offers and self._offers[0].created + OFFER_LIFE_S <= now:
            self._lapse(self._offers.popleft(), "OFFER_CLOSED")
        while self._uncaptured and self._uncaptured[0].created + AUTHORISATION_LIFE_S <= now:
            self._lapse(self._uncaptured.popleft(), "EXPIRE")

    def _lapse(self, payment: Payment, event_code: str) -> None:
        """End a challenge that is still open, or release what was not captured of an authorisation."""
        if event_code == "OFFER_CLOSED":
            lapses = payment.step is not None
        else:
            lapses = payment.captures == 0 or (self._multiple_captures and payment.captured < payment.amount)
        if payment.cancelled or not lapses:
            return
        payment.cancelled = True
        if payment.captures == 0:
            self.books.mark_authorisation(payment.psp_reference, "expired")
        event, kind, body = self._notification(
            payment,
            event_code=event_code,
            psp_reference=payment.psp_reference,
            merchant_reference=payment.reference,
        )
        self.postman.post(event=event, kind=kind, body=body, fault=None, position=0)

    def _settle_authorisation(self, payment: Payment, call: Call) -> None:
        """Book the issuer's answer and tell it by webhook."""
        approved = payment.refusal is None
        payment.authorised = approved
        card = payment.card
        if payment.refusal is None:
            self._book("authorisations", payment, payment.psp_reference, payment.reference)
            if payment.stored_id is not None and payment.shopper_reference is not None:
                self.stored[payment.stored_id] = (payment.shopper_reference, card)
            if not payment.manual_capture and payment.amount > 0:
                payment.captured, payment.captures = payment.amount, 1
                self._book("captures", payment, payment.psp_reference, payment.reference)
                self.books.mark_authorisation(payment.psp_reference, "captured")
            elif payment.manual_capture:
                self._uncaptured.append(payment)
            reason = f"{payment.auth_code}:{card.last4}:{card.exp_month:02d}/{card.exp_year}"
        else:
            payment.stored_id = None
            reason = payment.refusal.reason or "Unknown"
            self._book("declines", payment, payment.psp_reference, payment.reference, reason=reason)
        self._notify(
            call,
            payment,
            event_code="AUTHORISATION",
            psp_reference=payment.psp_reference,
            merchant_reference=payment.reference,
            failure=None if approved else reason,
            reason=reason,
        )
        if payment.captured:
            self.disputes.raised(payment, payment.captured, call)

    # -- modifications

    def capture(self, call: Call) -> Answer:
        """POST /payments/{psp}/captures."""
        payment = self._payment_in_path(call)
        amount, currency = read_amount(call.params, least=1)
        left = payment.amount - payment.captured
        failure = None
        if currency != payment.currency:
            failure = OTHER_CURRENCY
        elif not payment.authorised or payment.cancelled or amount > left:
            failure = NO_BALANCE
        elif payment.captures and not self._multiple_captures:
            failure = NO_BALANCE  # the first partial capture has cancelled the rest
        return self._modify(
            call,
            payment,
            book="captures",
            event_code="CAPTURE",
            failure=failure,
            amount=amount,
            currency=currency,
        )

    def refund(self, call: Call) -> Answer:
        """POST /payments/{psp}/refunds."""
        payment = self._payment_in_path(call)
        amount, currency = read_amount(call.params, least=1)
        reason = call.params.get("merchantRefundReason")
        if reason is not None and reason not in REFUND_REASONS:
            raise errors.invalid("702", "Invalid merchantRefundReason")
        failure = None
        if currency != payment.currency:
            failure = OTHER_CURRENCY
        elif payment.captured == 0:
            failure = NOT_CAPTURED
        elif amount > payment.captured - payment.refunded:
            failure = NO_BALANCE
        return self._modify(
            call,
            payment,
            book="refunds",
            event_code="REFUND",
            failure=failure,
            amount=amount,
            currency=currency,
        )

    def cancel(self, call: Call) -> Answer:
        """POST /payments/{psp}/cancels."""
        payment = self._payment_in_path(call)
        failure = None if _cancellable(payment) else CANNOT_CANCEL
        return self._modify(
            call,
            payment,
            book="voids",
            event_code="CANCELLATION",
            failure=failure,
            amount=payment.amount,
            currency=payment.currency,
        )

    def adjust(self, call: Call) -> Answer:
        """POST /payments/{psp}/amountUpdates: a new total, higher or lower."""
        payment = self._payment_in_path(call)
        amount, currency = read_amount(call.params, least=1)
        failure = None
        if currency != payment.currency:
            failure = OTHER_CURRENCY
        elif not payment.pre_authorised or not payment.authorised or payment.cancelled or payment.captured:
            failure = CANNOT_ADJUST
        return self._modify(
            call,
            payment,
            book="authorisations",
            event_code="AUTHORISATION_ADJUSTMENT",
            failure=failure,
            amount=amount,
            currency=currency,
        )

    def technical_cancel(self, call: Call) -> Answer:
        """POST /cancels: by the merchant's own reference, for a pspReference that was lost.

        Every payment of that reference is cancelled. For one that never arrived nothing is told
        but "received".
        """
        payment_reference = read_reference(call.params, "paymentReference")
        own_reference = text(call.params.get("reference"))
        modification = new_psp_reference()
        for payment in self.payments_by_reference.get(payment_reference, []):
            if not payment.authorised:
                continue
            failure = None if _cancellable(payment) else CANNOT_CANCEL
            self._apply(
                call,
                payment,
                book="voids",
                event_code="TECHNICAL_CANCEL",
                modification=modification,
                reference=own_reference,
                failure=failure,
                amount=payment.amount,
                currency=payment.currency,
            )
        body = {
            "merchantAccount": call.params["merchantAccount"],
            "paymentReference": payment_reference,
            "pspReference": modification,
            "status": "received",
        }
        if own_reference is not None:
            body["reference"] = own_reference
        return json_answer(201, body)

    def _modify(
        self,
        call: Call,
        payment: Payment,
        *,
        book: Book,
        event_code: str,
        failure: str | None,
        amount: int,
        currency: str,
    ) -> Answer:
        """Do a modification, or fail it, and answer "received" either way."""
        modification = new_psp_reference()
        reference = text(call.params.get("reference"))
        self._apply(
            call,
            payment,
            book=book,
            event_code=event_code,
            modification=modification,
            reference=reference,
            failure=failure,
            amount=amount,
            currency=currency,
        )
        body: dict[str, Any] = {
            "merchantAccount": call.params["merchantAccount"],
            "paymentPspReference": payment.psp_reference,
            "pspReference": modification,
            "status": "received",
        }
        if reference is not None:
            body["reference"] = reference
        if book != "voids":
            body["amount"] = {"value": amount, "currency": currency}
        for echoed in ("merchantRefundReason", "industryUsage"):
            if echoed in call.params:
                body[echoed] = call.params[echoed]
        return json_answer(201, body)

    def _apply(
        self,
        call: Call,
        payment: Payment,
        *,
        book: Book,
        event_code: str,
        modification: str,
        reference: str | None,
        failure: str | None,
        amount: int,
        currency: str,
    ) -> None:
        failure = failure or scripted_failure(call)
        if failure is None:
            self._move(payment, book, amount)
        entry = None
        if failure is not None or book != "authorisations":
            entry = self._book(
                book if failure is None else "rejections",
                payment,
                modification,
                reference,
                amount=amount,
                currency=currency,
                key=call.key,
                reason=failure,
            )
        tell = partial(
            self._notify,
            call,
            payment,
            psp_reference=modification,
            # A technical cancel is told under the reference of the payment, as in Adyen's own example of it.
            merchant_reference=payment.reference
            if event_code == "TECHNICAL_CANCEL"
            else reference or payment.reference,
            amount=amount,
            currency=currency,
        )
        tell(event_code=event_code, failure=failure, reason=failure or "")
        undone = adyen_later_failure(payment.holder_name, book)
        if failure is None and undone is not None and entry is not None:
            self._undo(payment, book, amount)
            entry.status = "failed"
            tell(event_code=undone, failure=None, reason=LATER_FAILURE)
        elif failure is None and book == "captures":
            self.disputes.raised(payment, amount, call)

    # -- shared by the verbs

    def _move(self, payment: Payment, book: Book, amount: int) -> None:
        """The money itself."""
        match book:
            case "authorisations":
                # An adjustment is no second authorisation: the one there is gets a new total.
                payment.amount = amount
                self.books.adjust_authorisation(payment.psp_reference, amount)
            case "captures":
                payment.captured += amount
                payment.captures += 1
                self.books.mark_authorisation(payment.psp_reference, "captured")
            case "refunds":
                payment.refunded += amount
            case _:
                payment.cancelled = True
                self.books.mark_authorisation(payment.psp_reference, "voided")

    @staticmethod
    def _undo(payment: Payment, book: Book, amount: int) -> None:
        """Give a capture or a refund back: the scheme has rejected it."""
        if book == "captures":
            payment.captured -= amount
        else:
            payment.refunded -= amount

    def _payment_in_path(self, call: Call) -> Payment:
        payment = self.payments.get(call.path_id)
        if payment is None:
            raise errors.invalid("167", "Original pspReference required for this operation")
        return payment

    def _newest(self, reference: str) -> Payment | None:
        found = self.payments_by_reference.get(reference)
        return found[-1] if found else None

    def _book(
        self,
        book: Book,
        payment: Payment,
        entry_id: str,
        reference: str | None,
        *,
        amount: int | None = None,
        currency: str | None = None,
        key: str | None = None,
        reason: str | None = None,
    ) -> Entry:
        statuses = {"authorisations": "authorised", "declines": "declined", "rejections": "failed"}
        return self.books.write(
            book,
            Entry(
                id=entry_id,
                payment=payment.psp_reference,
                reference=reference,
                payment_reference=payment.reference,
                amount=payment.amount if amount is None else amount,
                currency=currency or payment.currency,
                key=key or payment.key,
                status=statuses.get(book, "succeeded"),
                reason=reason,
            ),
        )

    def _notify(self, call: Call, payment: Payment, **told: Any) -> None:
        """Tell something of a payment with the answer to this request."""
        call.events.append(self._notification(payment, **told))

    def _notification(
        self,
        payment: Payment,
        *,
        event_code: str,
        psp_reference: str,
        merchant_reference: str,
        failure: str | None = None,
        reason: str = "",
        amount: int | None = None,
        currency: str | None = None,
        additional: dict[str, str] | None = None,
    ) -> tuple[str, str, bytes]:
        """A signed notification: its event, its kind and its body."""
        item = notification_item(
            payment,
            event_code=event_code,
            psp_reference=psp_reference,
            merchant_account=self._merchant_account,
            merchant_reference=merchant_reference,
            success=failure is None,
            reason=reason,
            amount=payment.amount if amount is None else amount,
            currency=currency or payment.currency,
            now=self._now(),
            additional=additional or {},
        )
        item["additionalData"]["hmacSignature"] = adyen_signature(item, self._hmac_key)
        body = {"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}
        return psp_reference, event_code, orjson.dumps(body)

    # -- stored payment methods

    def store(self, call: Call) -> Answer:
        """POST /storedPaymentMethods."""
        shopper = text(call.params.get("shopperReference"))
        if not shopper:
            raise errors.invalid("139", "Recurring requires shopperEmail and shopperReference")
        card = read_card(as_dict(call.params.get("paymentMethod")), self.stored, shopper)
        stored_id = new_psp_reference()
        self.stored[stored_id] = (shopper, card)
        return json_answer(201, stored_json(stored_id, shopper, card))

    def list_stored(self, call: Call) -> Answer:
        """GET /storedPaymentMethods?shopperReference=&merchantAccount=."""
        shopper = text(call.params.get("shopperReference")) or ""
        found = [
            stored_json(stored_id, shopper, card)
            for stored_id, (owner, card) in self.stored.items()
            if owner == shopper
        ]
        body = {
            "merchantAccount": self._merchant_account,
            "shopperReference": shopper,
            "storedPaymentMethods": found,
        }
        return json_answer(200, body)

    def forget(self, call: Call) -> Answer:
        """DELETE /storedPaymentMethods/{id}?shopperReference=&merchantAccount=."""
        owner, _ = self.stored.get(call.path_id, (None, None))
        if owner is None or owner != text(call.params.get("shopperReference")):
            raise errors.invalid("803", "PaymentDetail not found")
        del self.stored[call.path_id]
        return Answer(204, b"")


def _cancellable(payment: Payment) -> bool:
    return payment.authorised and not payment.cancelled and payment.captured == 0
