"""Stripe's PaymentIntents: create, confirm, capture, cancel, and the shopper's challenge.

A verb checks first and acts then, without an await between, so it happens as a whole or not at
all. Refusals of parameters leave no trace; from the first written entry on, an idempotency key
remembers the answer, declines included.
"""

from dataclasses import dataclass
from typing import Any

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer
from providers.sandbox.desk import Call, RefusedError, json_answer
from providers.sandbox.stripe_account import StripeAccount, list_answer, way_back
from providers.sandbox.stripe_amounts import (
    check_charge_amount,
    check_currency,
    check_step,
    money,
    parse_amount,
)
from providers.sandbox.stripe_disputes import Disputes
from providers.sandbox.stripe_form import expanded, listed
from providers.sandbox.stripe_methods import Methods
from providers.sandbox.stripe_objects import (
    Charge,
    Intent,
    authentication_json,
    charge_json,
    new_id,
    payment_method_json,
)
from providers.sandbox.stripe_parameters import (
    read_card_options,
    read_limit,
    read_metadata,
    read_window,
    refuse_unknown,
)
from providers.sandbox.triggers import StripeTrigger, stripe_trigger

CAPTURE_METHODS = ("automatic", "automatic_async", "manual")
CANCELABLE = (
    "requires_payment_method",
    "requires_capture",
    "requires_confirmation",
    "requires_action",
    "processing",
)
CANCELLATION_REASONS = ("duplicate", "fraudulent", "requested_by_customer", "abandoned")
CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
FLEXIBLE_BRANDS = ("amex", "discover", "mastercard", "visa")
"""The networks that multicapture and incremental authorizations are offered on."""


@dataclass(frozen=True, slots=True)
class Features:
    """What Stripe has switched on for this account of what it offers on request."""

    multicapture: bool = True
    incremental: bool = True


class Intents:
    """The verbs of PaymentIntents."""

    def __init__(self, account: StripeAccount, methods: Methods, disputes: Disputes, features: Features) -> None:
        self._account = account
        self._methods = methods
        self._disputes = disputes
        self._features = features

    def create_intent(self, call: Call) -> Answer:
        """POST /v1/payment_intents, with or without confirming at once."""
        params = call.params
        refuse_unknown("create_intent", params)
        for required in ("amount", "currency"):
            if not params.get(required):
                raise errors.missing(required)
        amount, currency = parse_amount(params["amount"], "amount"), str(params["currency"]).lower()
        check_currency(currency)
        check_charge_amount(amount, currency)
        capture_method = str(params.get("capture_method", "automatic_async"))
        errors.one_of("capture_method", capture_method, CAPTURE_METHODS)
        confirms = params.get("confirm") == "true"
        if not confirms and ("off_session" in params or "return_url" in params):
            wrong = "off_session" if "off_session" in params else "return_url"
            raise errors.invalid_request(f"`{wrong}` can only be passed when `confirm` is true.", param=wrong)
        metadata = read_metadata(params)
        intent = Intent(
            created=self._account.now(),
            amount=amount,
            currency=currency,
            capture_method=capture_method,
            metadata=metadata,
            reference=metadata.get("operation"),
            description=params.get("description"),
            customer=self._account.known_customer(params.get("customer")),
            card_options=read_card_options(params),
            receipt_email=params.get("receipt_email"),
            setup_future_usage=params.get("setup_future_usage"),
            statement_descriptor=params.get("statement_descriptor"),
            method=self._methods.find(params),
        )
        if confirms and intent.method is None:
            raise _no_method()
        if intent.method is not None:
            self._methods.check_owner(intent.method, intent.customer)
        intent.status = "requires_payment_method" if intent.method is None else "requires_confirmation"
        intent.position = len(self._account.intent_list)
        self._account.intents[intent.id] = intent
        self._account.intent_list.append(intent)
        if confirms:
            self._confirm(intent, call)
        return self._intent_answer(intent, call)

    def retrieve_intent(self, call: Call) -> Answer:
        """GET /v1/payment_intents/{id}."""
        return self._intent_answer(self._account.intent_in_path(call), call)

    def list_intents(self, call: Call) -> Answer:
        """GET /v1/payment_intents: newest first, by creation window and cursor."""
        params = call.params
        limit = read_limit(params)
        first, last = read_window(params)
        newest = len(self._account.intent_list)
        if after := params.get("starting_after"):
            cursor = self._account.intents.get(str(after))
            if cursor is None:
                raise errors.no_such("payment_intent", str(after), "starting_after")
            newest = cursor.position
        self._account.lapse()
        found: list[Intent] = []
        for position in range(newest - 1, -1, -1):
            intent = self._account.intent_list[position]
            # Created times never fall, so the first too old one ends the search.
            if intent.created < first or len(found) > limit:
                break
            if intent.created <= last and ("customer" not in params or intent.customer == params["customer"]):
                found.append(intent)
        expand = frozenset(path.removeprefix("data.") for path in listed(params.get("expand")))
        data = [self._account.intent_body(intent, expand) for intent in found[:limit]]
        return list_answer(data, url="/v1/payment_intents", more=len(found) > limit)

    def confirm(self, call: Call) -> Answer:
        """POST /v1/payment_intents/{id}/confirm."""
        refuse_unknown("confirm", call.params)
        intent = self._account.intent_in_path(call)
        method = self._methods.find(call.params)
        if intent.status not in CONFIRMABLE:
            raise errors.unexpected_state(
                "You cannot confirm this PaymentIntent because it has "
                + (
                    "already succeeded after being previously confirmed."
                    if intent.status == "succeeded"
                    else f"a status of {intent.status}."
                ),
                self._account.intent_body(intent),
            )
        if method is not None:
            intent.method = method
        if intent.method is None:
            raise _no_method()
        self._methods.check_owner(intent.method, intent.customer)
        intent.card_options |= read_card_options(call.params)
        if "capture_method" in call.params:
            errors.one_of("capture_method", str(call.params["capture_method"]), CAPTURE_METHODS)
            intent.capture_method = str(call.params["capture_method"])
        self._confirm(intent, call)
        return self._intent_answer(intent, call)

    def _confirm(self, intent: Intent, call: Call) -> None:
        """Ask the issuer: approval, a challenge for the shopper, or a raised decline."""
        assert intent.method is not None  # noqa: S101 - both callers have checked
        params = call.params
        intent.key = call.key
        intent.next_action = None
        intent.return_url = params.get("return_url") or intent.return_url
        intent.setup_future_usage = params.get("setup_future_usage") or intent.setup_future_usage
        off_session = params.get("off_session") not in (None, "false")
        trigger = stripe_trigger(intent.method.card.number)
        requested = intent.card_options.get("request_three_d_secure") in ("any", "challenge")
        if trigger.challenges(off_session=off_session, set_up=intent.method.set_up, requested=requested):
            if off_session:
                self._decline(intent, "authentication_required", None, call)
            intent.status = "requires_action"
            intent.next_action = self._account.challenge(call, intent.id, intent.return_url)
            self._account.event(call, "payment_intent.requires_action", self._account.intent_body(intent))
            return
        if trigger.outcome in ("declined", "declined_on_charge_only", "blocked"):
            self._decline(intent, trigger.decline_code or str(trigger.code), trigger, call)
        scripted = call.take_decision()
        if scripted is not None and scripted.fault in ("decline", "approval_rate"):
            self._decline(intent, scripted.parameters["code"] or "generic_decline", None, call)
        self._approve(intent, trigger, authentication_json("attempt_acknowledged", None) if requested else None, call)

    def _approve(
        self, intent: Intent, trigger: StripeTrigger, authentication: dict[str, Any] | None, call: Call | None
    ) -> None:
        assert intent.method is not None  # noqa: S101 - only a confirmed intent is approved
        manual, flexible = intent.capture_method == "manual", intent.method.card.brand in FLEXIBLE_BRANDS
        charge = Charge(
            created=self._account.now(),
            intent=intent.id,
            amount=intent.amount,
            currency=intent.currency,
            method=intent.method,
            three_d_secure=authentication,
            manual=manual,
            multicapture=manual and flexible and self._features.multicapture and _asked(intent, "multicapture"),
            incremental=manual
            and flexible
            and self._features.incremental
            and _asked(intent, "incremental_authorization"),
        )
        if trigger.outcome == "succeeded_cvc_check_fail":
            charge.cvc_check = "fail"
        elif intent.method.card.cvc is None:
            charge.cvc_check = None
        self._account.charges[charge.id] = charge
        intent.latest_charge = charge.id
        intent.last_error = None
        self._methods.keep(intent.method, intent.customer, intent.setup_future_usage, call)
        self._account.book(
            "authorisations",
            intent,
            charge.id,
            amount=intent.amount,
            reference=intent.reference,
            key=intent.key,
        )
        if charge.manual:
            intent.status = "requires_capture"
            self._account.held.append(charge)
            self._account.event(call, "payment_intent.amount_capturable_updated", self._account.intent_body(intent))
            return
        self._capture(intent, charge, intent.amount, intent.reference, intent.key)
        if intent.capture_method == "automatic_async":
            charge.balance_transaction = None  # Stripe fills it in later for this method
        self._account.event(call, "payment_intent.succeeded", self._account.intent_body(intent))

    def _capture(
        self,
        intent: Intent,
        charge: Charge,
        amount: int,
        reference: str | None,
        key: str | None,
        *,
        final: bool = True,
    ) -> None:
        transaction = new_id("txn")
        charge.amount_captured += amount
        charge.balance_transaction = transaction
        intent.amount_received = charge.amount_captured
        self._account.book("captures", intent, transaction, amount=amount, reference=reference, key=key)
        if final or charge.amount_captured == charge.amount:
            intent.status = "succeeded"
            self._account.books.mark_authorisation(intent.id, "captured")
            self._disputes.expect(charge)

    def complete_challenge(self, intent_id: str, *, succeeded: bool) -> str | None:
        """The shopper's answer on the 3-D Secure page; gives the address to return to, if any.

        A second visit changes nothing. Raises KeyError for an intent that is not there.
        """
        intent = self._account.intents[intent_id]
        if intent.status == "requires_action" and intent.method is not None:
            intent.next_action = None
            trigger = stripe_trigger(intent.method.card.number)
            try:
                if not succeeded:
                    self._decline(intent, errors.FAILED_AUTHENTICATION["payment_intent"], None, None)
                if trigger.outcome == "requires_action_then_declined":
                    self._decline(intent, str(trigger.decline_code), trigger, None)
                self._approve(intent, trigger, authentication_json("authenticated", "challenge"), None)
            except RefusedError:
                pass  # the decline is on the intent; the page only has to send the shopper back
        failed = intent.last_error is not None
        return way_back("payment_intent", intent.id, intent.client_secret, intent.return_url, failed=failed)

    def _decline(self, intent: Intent, reason: str, trigger: StripeTrigger | None, call: Call | None) -> None:
        """Book a declined try and raise the card error. The intent may be confirmed again."""
        assert intent.method is not None  # noqa: S101 - only a confirmed intent is declined
        error = errors.decline(reason, trigger, intent.method.card.brand)
        charge = Charge(
            created=self._account.now(),
            intent=intent.id,
            amount=intent.amount,
            currency=intent.currency,
            method=intent.method,
            failure=error,
            blocked=trigger is not None and trigger.outcome == "blocked",
        )
        if error["code"] == "incorrect_cvc":
            charge.cvc_check = "fail"
        if error["code"] != errors.FAILED_AUTHENTICATION["payment_intent"]:
            self._account.charges[charge.id] = charge
            intent.latest_charge = charge.id
            error["charge"] = charge.id
        error["payment_method"] = payment_method_json(intent.method)
        intent.status = "requires_payment_method"
        intent.last_error = error
        intent.method = None
        self._account.book(
            "declines",
            intent,
            charge.id,
            amount=intent.amount,
            reference=intent.reference,
            key=intent.key,
            reason=reason,
        )
        body = self._account.intent_body(intent)
        self._account.event(call, "payment_intent.payment_failed", body)
        raise RefusedError(json_answer(402, {"error": error | {"payment_intent": body}}), kept=True)

    def capture(self, call: Call) -> Answer:
        """POST /v1/payment_intents/{id}/capture: what is not captured is released, unless more captures are to come."""
        params = call.params
        refuse_unknown("capture", params)
        intent = self._account.intent_in_path(call)
        if intent.status != "requires_capture" or intent.latest_charge is None:
            raise errors.unexpected_state(
                "This PaymentIntent could not be captured because it has a status of "
                f"{intent.status}. Only a PaymentIntent with one of the following statuses may be "
                "captured: requires_capture.",
                self._account.intent_body(intent),
            )
        charge = self._account.charges[intent.latest_charge]
        final, left = params.get("final_capture", "true") == "true", charge.amount - charge.amount_captured
        if not final and not charge.multicapture:
            raise errors.invalid_request(
                "You can only set `final_capture` to false when multicapture is available for the PaymentIntent.",
                param="final_capture",
            )
        amount = left
        if "amount_to_capture" in params:
            amount = parse_amount(params["amount_to_capture"], "amount_to_capture")
            check_step(amount, intent.currency, "amount_to_capture")
        if amount > left:
            raise errors.invalid_request(
                f"The amount to capture ({money(amount, intent.currency)}) is greater than the "
                f"amount that can be captured ({money(left, intent.currency)}).",
                code="amount_too_large",
                param="amount_to_capture",
            )
        metadata = read_metadata(params)
        intent.metadata |= metadata
        self._capture(intent, charge, amount, metadata.get("operation"), call.key, final=final)
        self._account.event(call, "charge.captured", charge_json(charge, intent))
        news = "succeeded" if intent.status == "succeeded" else "amount_capturable_updated"
        self._account.event(call, f"payment_intent.{news}", self._account.intent_body(intent))
        return self._intent_answer(intent, call)

    def increment(self, call: Call) -> Answer:
        """POST …/increment_authorization: a new, higher total; a decline changes nothing."""
        params = call.params
        refuse_unknown("increment", params)
        intent = self._account.intent_in_path(call)
        if not params.get("amount"):
            raise errors.missing("amount")
        amount = parse_amount(params["amount"], "amount")
        check_charge_amount(amount, intent.currency)
        metadata = read_metadata(params)
        if intent.status != "requires_capture" or intent.latest_charge is None:
            raise errors.unexpected_state(
                "This PaymentIntent's authorization could not be incremented because it has a "
                f"status of {intent.status}.",
                self._account.intent_body(intent),
            )
        charge = self._account.charges[intent.latest_charge]
        if not charge.incremental or charge.amount_captured:
            raise errors.invalid_request(
                "This PaymentIntent is not eligible for incremental authorization. Request it with "
                "`payment_method_options[card][request_incremental_authorization]` when you confirm the PaymentIntent."
            )
        if amount <= charge.amount:
            raise errors.invalid_request(
                "The amount must be greater than the currently authorized amount "
                f"({money(charge.amount, intent.currency)}).",
                param="amount",
            )
        scripted = call.take_decision()
        if scripted is not None:
            code = scripted.parameters["code"] or "generic_decline"
            error = errors.decline(code, None, charge.method.card.brand)
            body = self._account.intent_body(intent)
            raise RefusedError(json_answer(402, {"error": error | {"payment_intent": body}}), kept=True)
        charge.amount = intent.amount = amount
        intent.metadata |= metadata
        self._account.books.adjust_authorisation(intent.id, amount)
        self._account.event(call, "payment_intent.amount_capturable_updated", self._account.intent_body(intent))
        return self._intent_answer(intent, call)

    def cancel(self, call: Call) -> Answer:
        """POST /v1/payment_intents/{id}/cancel: releases an uncaptured authorisation."""
        refuse_unknown("cancel", call.params)
        intent = self._account.intent_in_path(call)
        reason = call.params.get("cancellation_reason")
        if reason is not None:
            errors.one_of("cancellation_reason", str(reason), CANCELLATION_REASONS)
        if intent.status not in CANCELABLE:
            raise errors.unexpected_state(
                f"You cannot cancel this PaymentIntent because it has a status of {intent.status}. "
                "Only a PaymentIntent with one of the following statuses may be canceled: "
                + ", ".join(CANCELABLE)
                + ".",
                self._account.intent_body(intent),
            )
        released = self._account.end(intent, reason, call)
        if released:
            self._account.book("voids", intent, new_id("void"), amount=released, reference=None, key=call.key)
            self._account.books.mark_authorisation(intent.id, "voided")
        return self._intent_answer(intent, call)

    def _intent_answer(self, intent: Intent, call: Call) -> Answer:
        expand = expanded(call.params)
        return json_answer(200, self._account.intent_body(intent, expand))


def _asked(intent: Intent, feature: str) -> bool:
    return intent.card_options.get(f"request_{feature}") == "if_available"


def _no_method() -> RefusedError:
    return errors.invalid_request(
        "You cannot confirm this PaymentIntent because it's missing a payment method. You can "
        "either update the PaymentIntent with a payment method and then confirm it again, or "
        "confirm it again directly with a payment method or ConfirmationToken.",
        code="payment_intent_unexpected_state",
    )
