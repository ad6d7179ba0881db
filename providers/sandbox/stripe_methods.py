"""Stripe's payment methods and customers."""

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer
from providers.sandbox.cards import Card, luhn_valid
from providers.sandbox.desk import Call, json_answer
from providers.sandbox.stripe_account import StripeAccount, list_answer
from providers.sandbox.stripe_objects import (
    PaymentMethod,
    billing_details,
    customer_json,
    payment_method_json,
)
from providers.sandbox.stripe_parameters import page_of, read_metadata, refuse_unknown
from providers.sandbox.triggers import stripe_numbers_by_token, stripe_trigger


class Methods:
    """The verbs of payment methods and customers."""

    def __init__(self, account: StripeAccount) -> None:
        self._account = account

    def create_payment_method(self, call: Call) -> Answer:
        """POST /v1/payment_methods."""
        method = self.new(call.params)
        return json_answer(200, payment_method_json(method))

    def retrieve_payment_method(self, call: Call) -> Answer:
        """GET /v1/payment_methods/{id}."""
        return json_answer(200, payment_method_json(self._method_in_path(call)))

    def attach(self, call: Call) -> Answer:
        """POST /v1/payment_methods/{id}/attach: cards that decline at once decline here too."""
        refuse_unknown("attach", call.params)
        method = self._method_in_path(call)
        customer = call.params.get("customer")
        if not customer:
            raise errors.missing("customer")
        owner = self._account.known_customer(customer)
        if method.spent:
            raise errors.spent_method()
        trigger = stripe_trigger(method.card.number)
        if trigger.outcome == "declined":
            raise errors.card_error(
                trigger.code or "card_declined",
                trigger.message or errors.DECLINED,
                **({"decline_code": trigger.decline_code} if trigger.decline_code else {}),
            )
        method.customer = owner
        self._account.event(call, "payment_method.attached", payment_method_json(method))
        return json_answer(200, payment_method_json(method))

    def detach(self, call: Call) -> Answer:
        """POST /v1/payment_methods/{id}/detach."""
        refuse_unknown("detach", call.params)
        method = self._method_in_path(call)
        before = {"customer": method.customer}
        method.customer, method.spent = None, True
        self._account.event(call, "payment_method.detached", payment_method_json(method), before=before)
        return json_answer(200, payment_method_json(method))

    def create_customer(self, call: Call) -> Answer:
        """POST /v1/customers."""
        refuse_unknown("create_customer", call.params)
        customer_id = "cus_" + secrets.token_hex(7)
        customer = customer_json(customer_id, call.params, self._account.now())
        self._account.customers[customer_id] = customer
        return json_answer(200, customer)

    def retrieve_customer(self, call: Call) -> Answer:
        """GET /v1/customers/{id}."""
        return json_answer(200, self._customer_in_path(call))

    def update_customer(self, call: Call) -> Answer:
        """POST /v1/customers/{id}: what is given is changed, an empty text removes."""
        refuse_unknown("update_customer", call.params)
        customer = self._customer_in_path(call)
        if customer.get("deleted"):
            raise errors.no_such("customer", call.path_id, "customer")
        for name in ("description", "email", "name", "phone"):
            if name in call.params:
                customer[name] = call.params[name] or None
        customer["metadata"] = customer["metadata"] | read_metadata(call.params)
        self._account.event(call, "customer.updated", customer)
        return json_answer(200, customer)

    def delete_customer(self, call: Call) -> Answer:
        """DELETE /v1/customers/{id}: its cards are detached, and nobody can use them again."""
        self._customer_in_path(call)
        for method in self._account.methods.values():
            if method.customer == call.path_id:
                method.customer, method.spent = None, True
        deleted = {"id": call.path_id, "object": "customer", "deleted": True}
        self._account.customers[call.path_id] = deleted
        return json_answer(200, deleted)

    def list_of_customer(self, call: Call) -> Answer:
        """GET /v1/customers/{id}/payment_methods: newest first."""
        self._customer_in_path(call)
        found = [each for each in reversed(self._account.methods.values()) if each.customer == call.path_id]
        page, more = page_of(found, call.params, "PaymentMethod")
        url = f"/v1/customers/{call.path_id}/payment_methods"
        return list_answer([payment_method_json(each) for each in page], url=url, more=more)

    def _customer_in_path(self, call: Call) -> dict[str, Any]:
        customer = self._account.customers.get(call.path_id)
        if customer is None:
            raise errors.no_such("customer", call.path_id, "id")
        return customer

    def check_owner(self, method: PaymentMethod, customer: str | None) -> None:
        """Refuse a card that was used up, or that belongs to another Customer than the request names."""
        if method.spent:
            raise errors.spent_method()
        if method.customer is not None and method.customer != customer:
            raise errors.invalid_request(
                f"The payment method {method.id} belongs to the Customer {method.customer}. Please include the Customer in "
                "the `customer` parameter.",
                param="payment_method",
            )

    def keep(self, method: PaymentMethod, customer: str | None, usage: str | None, call: Call | None) -> None:
        """A card was used with success: it is attached where that was asked for, and else it was for this once."""
        if usage and customer:
            method.set_up = method.set_up or usage == "off_session"
            if method.customer is None:
                method.customer = customer
                self._account.event(call, "payment_method.attached", payment_method_json(method))
        elif method.customer is None:
            method.spent = True

    def _method_in_path(self, call: Call) -> PaymentMethod:
        method = self._account.methods.get(call.path_id)
        if method is None:
            raise errors.no_such("PaymentMethod", call.path_id, "payment_method")
        return method

    def new(self, given: Mapping[str, Any]) -> PaymentMethod:
        """Keep a new payment method made of request parameters."""
        if given.get("type") != "card":
            if "type" not in given:
                raise errors.missing("type")
            raise errors.invalid_request(
                f"Invalid type: must be card in this sandbox, not {given['type']}", param="type"
            )
        card = given.get("card")
        if not isinstance(card, Mapping):
            raise errors.missing("card")
        method = PaymentMethod(
            card=_parse_card(card),
            billing_details=billing_details(given.get("billing_details")),
            metadata=read_metadata(given),
            created=self._account.now(),
        )
        self._account.methods[method.id] = method
        return method

    def find(self, params: Mapping[str, Any]) -> PaymentMethod | None:
        """The payment method a request names, by id, by test token or by its data."""
        method_id = params.get("payment_method")
        if method_id:
            method = self._account.methods.get(str(method_id))
            number = stripe_numbers_by_token().get(str(method_id))
            if method is None and number is not None:
                method = PaymentMethod(
                    card=Card(number, 12, time.gmtime().tm_year + 3, "123"),
                    billing_details=billing_details(None),
                    metadata={},
                    created=self._account.now(),
                )
                self._account.methods[method.id] = method
            if method is None:
                raise errors.missing_object("PaymentMethod", str(method_id), "payment_method")
            return method
        data = params.get("payment_method_data")
        return self.new(data) if isinstance(data, Mapping) else None


def _parse_card(given: Mapping[str, Any]) -> Card:
    """A card as typed; what no issuer could accept is a card error, as at Stripe."""
    token = given.get("token")
    if token is not None:
        number = stripe_numbers_by_token().get(str(token))
        if number is None:
            raise errors.missing_object("token", str(token), "card[token]")
        return Card(number, 12, time.gmtime().tm_year + 3, "123")
    for required in ("number", "exp_month", "exp_year"):
        if not given.get(required):
            raise errors.missing(f"card[{required}]")
    number = str(given["number"]).replace(" ", "")
    if not luhn_valid(number):
        raise errors.card_error("incorrect_number", "Your card number is incorrect.", param="number")
    month, year = str(given["exp_month"]), str(given["exp_year"])
    if re.fullmatch("0?[1-9]|1[0-2]", month) is None:
        raise errors.card_error("invalid_expiry_month", "Your card's expiration month is invalid.", param="exp_month")
    year = f"20{year}" if re.fullmatch("[0-9]{2}", year) else year
    full_year = int(year) if re.fullmatch("[0-9]{4}", year) else 0
    cvc = str(given["cvc"]) if given.get("cvc") else None
    card = Card(number, int(month), full_year, cvc)
    if card.expired() or full_year > time.gmtime().tm_year + 50:
        raise errors.card_error("invalid_expiry_year", "Your card's expiration year is invalid.", param="exp_year")
    if cvc is not None and not (cvc.isdigit() and len(cvc) in (3, 4)):
        raise errors.card_error("invalid_cvc", "Your card's security code is invalid.", param="cvc")
    return card
