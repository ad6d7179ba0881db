"""One Stripe account: its objects, its books and its events; the verbs stand in other files."""

import secrets
import time
from typing import Any

import orjson

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer
from providers.sandbox.books import Book, Books, Entry
from providers.sandbox.desk import Call, json_answer
from providers.sandbox.postman import Postman
from providers.sandbox.stripe_objects import (
    API_VERSION,
    Charge,
    Intent,
    PaymentMethod,
    Refund,
    intent_json,
)


class StripeAccount:
    """All objects of one account, by id."""

    def __init__(self, books: Books, postman: Postman) -> None:
        self.books = books
        self.postman = postman
        self.intents: dict[str, Intent] = {}
        self.intent_list: list[Intent] = []
        self.charges: dict[str, Charge] = {}
        self.refunds: dict[str, Refund] = {}
        self.refunds_by_intent: dict[str, list[Refund]] = {}
        self.methods: dict[str, PaymentMethod] = {}
        self.customers: dict[str, dict[str, Any]] = {}

    def clear(self) -> None:
        """Forget every object."""
        self.intents.clear()
        self.intent_list.clear()
        self.charges.clear()
        self.refunds.clear()
        self.refunds_by_intent.clear()
        self.methods.clear()
        self.customers.clear()

    def intent_in_path(self, call: Call) -> Intent:
        """The intent a path names, or 404."""
        intent = self.intents.get(call.path_id)
        if intent is None:
            raise errors.no_such("payment_intent", call.path_id, "intent")
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

    def event(self, call: Call | None, kind: str, body: dict[str, Any]) -> None:
        """Note an event of this request; without a request it is posted right away."""
        event_id = "evt_3" + secrets.token_hex(12)
        event = orjson.dumps(
            {
                "id": event_id,
                "object": "event",
                "api_version": API_VERSION,
                "created": int(time.time()),
                "data": {"object": body},
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
