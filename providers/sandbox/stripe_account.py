"""One Stripe account: its objects, its books and its events; the verbs stand in other files."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer
from providers.sandbox.books import Book, Books, Entry
from providers.sandbox.desk import Call, json_answer
from providers.sandbox.postman import Postman
from providers.sandbox.stripe_dispute_objects import Dispute
from providers.sandbox.stripe_objects import (
    API_VERSION,
    AUTHORIZED_FOR_S,
    Charge,
    Intent,
    PaymentMethod,
    Refund,
    intent_json,
)
from providers.sandbox.stripe_setup_objects import Setup


class StripeAccount:
    """All objects of one account, by id."""

    def __init__(self, books: Books, postman: Postman, time: Callable[[], float]) -> None:
        """``time`` gives the seconds since the epoch, as this account counts them."""
        self._time = time
        self.books = books
        self.postman = postman
        self.intents: dict[str, Intent] = {}
        self.intent_list: list[Intent] = []
        self.charges: dict[str, Charge] = {}
        self.refunds: dict[str, Refund] = {}
        self.refunds_by_intent: dict[str, list[Refund]] = {}
        self.methods: dict[str, PaymentMethod] = {}
        self.customers: dict[str, dict[str, Any]] = {}
        self.setups: dict[str, Setup] = {}
        self.disputes: dict[str, Dispute] = {}
        self.held: deque[Charge] = deque()
        """Whatever was authorized without being captured at once, the oldest first."""
        self._later: set[asyncio.TimerHandle] = set()

    def now(self) -> int:
        """The time of this account, in whole seconds since the epoch."""
        return int(self._time())

    def clear(self) -> None:
        """Forget every object."""
        self.intents.clear()
        self.intent_list.clear()
        self.charges.clear()
        self.refunds.clear()
        self.refunds_by_intent.clear()
        self.methods.clear()
        self.customers.clear()
        self.setups.clear()
        self.disputes.clear()
        self.held.clear()
        for handle in self._later:
            handle.cancel()
        self._later.clear()

    def later(self, delay_s: float, happens: Callable[[], None]) -> None:
        """Let something happen by itself after a while, unless everything is forgotten before."""

        def due() -> None:
            self._later.discard(handle)
            happens()

        handle = asyncio.get_running_loop().call_later(delay_s, due)
        self._later.add(handle)

    def known_customer(self, customer: object) -> str | None:
        """A Customer that a parameter names, or None where it names none; 400 for one that is not there."""
        if not customer:
            return None
        if self.customers.get(str(customer), {"deleted": True}).get("deleted"):
            raise errors.missing_object("customer", str(customer), "customer")
        return str(customer)

    def challenge(self, call: Call, name: str, return_url: str | None) -> dict[str, Any]:
        """The ``next_action`` that sends the shopper to the issuer's page, or leaves that to the browser SDK."""
        page = f"{call.base_url}/_sandbox/3ds/{name}"
        if return_url is None or call.params.get("use_stripe_sdk") == "true":
            return {"type": "use_stripe_sdk", "use_stripe_sdk": {"stripe_js": page}}
        return {"type": "redirect_to_url", "redirect_to_url": {"url": page, "return_url": return_url}}

    def lapse(self) -> None:
        """Cancel every authorization that was not captured in time."""
        while self.held and self.held[0].created + AUTHORIZED_FOR_S <= self.now():
            self.lapse_if_due(self.intents[self.held.popleft().intent])

    def lapse_if_due(self, intent: Intent) -> None:
        """Cancel one authorization that was not captured in time, as Stripe does by itself."""
        charge = self.charges.get(intent.latest_charge or "")
        if intent.status != "requires_capture" or charge is None or self.now() < charge.created + AUTHORIZED_FOR_S:
            return
        self.books.mark_authorisation(intent.id, "expired")
        self.end(intent, "automatic", None)

    def end(self, intent: Intent, reason: str | None, call: Call | None) -> int:
        """Cancel an intent; gives the amount that is released by it."""
        released = 0
        charge = self.charges.get(intent.latest_charge or "")
        if intent.status == "requires_capture" and charge is not None:
            released = charge.amount_released = charge.amount - charge.amount_captured
        intent.status = "canceled"
        intent.next_action = None
        intent.canceled_at = self.now()
        intent.cancellation_reason = reason
        self.event(call, "payment_intent.canceled", self.intent_body(intent))
        return released

    def intent_in_path(self, call: Call) -> Intent:
        """The intent a path names, or 404."""
        intent = self.intents.get(call.path_id)
        if intent is None:
            raise errors.no_such("payment_intent", call.path_id, "intent")
        self.lapse_if_due(intent)
        return intent

    def intent_body(self, intent: Intent, expand: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The intent as it looks now."""
        return intent_json(intent, self.charges.get(intent.latest_charge or ""), expand)

    def book(
        self,
        book: Book,
        intent: Intent,
        entry_id: str,
        *,
        amount: int,
        reference: str | None,
        key: str | None,
        reason: str | None = None,
    ) -> Entry:
        """Write an entry about an intent's money."""
        status = {"authorisations": "authorised", "declines": "declined"}.get(book, "succeeded")
        return self.books.write(
            book,
            Entry(
                id=entry_id,
                payment=intent.id,
                reference=reference,
                payment_reference=intent.reference,
                amount=amount,
                currency=intent.currency.upper(),
                key=key,
                status=status,
                reason=reason,
            ),
        )

    def event(
        self, call: Call | None, kind: str, body: dict[str, Any], *, before: dict[str, Any] | None = None
    ) -> None:
        """Note an event of this request; without a request it is posted right away. ``before`` is what changed, as it was."""
        event_id = "evt_3" + secrets.token_hex(12)
        event = orjson.dumps(
            {
                "id": event_id,
                "object": "event",
                "api_version": API_VERSION,
                "created": self.now(),
                "data": {"object": body} | ({} if before is None else {"previous_attributes": before}),
                "livemode": False,
                "pending_webhooks": 1,
                "request": {
                    "id": call.request_id if call else None,
                    "idempotency_key": call.key if call else None,
                },
                "type": kind,
            }
        )
        if call is not None:
            call.events.append((event_id, kind, event))
        else:
            self.postman.post(event=event_id, kind=kind, body=event, fault=None, position=0)


def list_answer(data: list[dict[str, Any]], *, url: str, more: bool) -> Answer:
    """One page of a list."""
    return json_answer(200, {"object": "list", "data": data, "has_more": more, "url": url})


def way_back(kind: str, name: str, client_secret: str, return_url: str | None, *, failed: bool) -> str | None:
    """Where the issuer's page sends the shopper, with what Stripe adds to the address; None where there is no address."""
    if return_url is None:
        return None
    mark = "&" if "?" in return_url else "?"
    result = "failed" if failed else "succeeded"
    return f"{return_url}{mark}{kind}={name}&{kind}_client_secret={client_secret}&redirect_status={result}"
