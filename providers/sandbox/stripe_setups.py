"""Stripe's SetupIntents: a card is verified without a payment, and kept where a Customer is named."""

from typing import Any

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer
from providers.sandbox.desk import Call, RefusedError, json_answer
from providers.sandbox.stripe_account import StripeAccount, list_answer, way_back
from providers.sandbox.stripe_form import expanded
from providers.sandbox.stripe_methods import Methods
from providers.sandbox.stripe_objects import authentication_json, payment_method_json
from providers.sandbox.stripe_parameters import (
    page_of,
    read_card_options,
    read_metadata,
    read_window,
    refuse_unknown,
)
from providers.sandbox.stripe_setup_objects import Setup, attempt_json, setup_json
from providers.sandbox.triggers import stripe_trigger

USAGES = ("off_session", "on_session")
CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCELLATION_REASONS = ("abandoned", "requested_by_customer", "duplicate")


class Setups:
    """The verbs of SetupIntents."""

    def __init__(self, account: StripeAccount, methods: Methods) -> None:
        self._account = account
        self._methods = methods

    def create(self, call: Call) -> Answer:
        """POST /v1/setup_intents, with or without confirming at once."""
        params = call.params
        refuse_unknown("create_setup", params)
        usage, confirms = str(params.get("usage", "off_session")), params.get("confirm") == "true"
        errors.one_of("usage", usage, USAGES)
        if not confirms and "return_url" in params:
            raise errors.invalid_request("`return_url` can only be passed when `confirm` is true.", param="return_url")
        setup = Setup(
            created=self._account.now(),
            usage=usage,
            metadata=read_metadata(params),
            customer=self._account.known_customer(params.get("customer")),
            description=params.get("description"),
            card_options=read_card_options(params),
            method=self._methods.find(params),
        )
        if setup.method is not None:
            self._methods.check_owner(setup.method, setup.customer)
        if confirms and setup.method is None:
            raise _no_method()
        setup.status = "requires_payment_method" if setup.method is None else "requires_confirmation"
        self._account.setups[setup.id] = setup
        if confirms:
            self._confirm(setup, call)
        return _answer(setup, call)

    def retrieve(self, call: Call) -> Answer:
        """GET /v1/setup_intents/{id}."""
        return _answer(self._in_path(call), call)

    def list(self, call: Call) -> Answer:
        """GET /v1/setup_intents: newest first."""
        found = list(reversed(self._account.setups.values()))
        if "customer" in call.params:
            found = [each for each in found if each.customer == call.params["customer"]]
        first, last = read_window(call.params)
        found = [each for each in found if first <= each.created <= last]
        page, more = page_of(found, call.params, "setup_intent")
        return list_answer([setup_json(each) for each in page], url="/v1/setup_intents", more=more)

    def confirm(self, call: Call) -> Answer:
        """POST /v1/setup_intents/{id}/confirm."""
        refuse_unknown("confirm_setup", call.params)
        setup = self._in_path(call)
        if setup.status not in CONFIRMABLE:
            raise _unexpected(setup, "confirm")
        setup.card_options |= read_card_options(call.params)
        setup.method = self._methods.find(call.params) or setup.method
        if setup.method is None:
            raise _no_method()
        self._methods.check_owner(setup.method, setup.customer)
        self._confirm(setup, call)
        return _answer(setup, call)

    def cancel(self, call: Call) -> Answer:
        """POST /v1/setup_intents/{id}/cancel."""
        refuse_unknown("cancel_setup", call.params)
        setup = self._in_path(call)
        reason = call.params.get("cancellation_reason")
        if reason is not None:
            errors.one_of("cancellation_reason", str(reason), CANCELLATION_REASONS)
        if setup.status not in CONFIRMABLE:
            raise _unexpected(setup, "cancel")
        setup.status, setup.next_action, setup.cancellation_reason = "canceled", None, reason
        self._account.event(call, "setup_intent.canceled", setup_json(setup))
        return _answer(setup, call)

    def complete_challenge(self, name: str, *, succeeded: bool) -> str | None:
        """The shopper's answer on the 3-D Secure page; as for a PaymentIntent."""
        setup = self._account.setups[name]
        if setup.status == "requires_action":
            setup.next_action = None
            try:
                if not succeeded:
                    self._decline(setup, errors.FAILED_AUTHENTICATION["setup_intent"], None)
                self._succeed(setup, authentication_json("authenticated", "challenge"), None)
            except RefusedError:
                pass  # the decline is on the intent; the page only has to send the shopper back
        failed = setup.last_error is not None
        return way_back("setup_intent", setup.id, setup.client_secret, setup.return_url, failed=failed)

    def _confirm(self, setup: Setup, call: Call) -> None:
        """Ask the issuer: good, a challenge for the shopper, or a raised decline."""
        assert setup.method is not None  # noqa: S101 - both callers have checked
        setup.next_action = None
        setup.return_url = call.params.get("return_url") or setup.return_url
        trigger = stripe_trigger(setup.method.card.number)
        requested = setup.card_options.get("request_three_d_secure") in ("any", "challenge")
        if trigger.challenges(off_session=False, set_up=False, requested=requested):
            setup.status = "requires_action"
            setup.next_action = self._account.challenge(call, setup.id, setup.return_url)
            self._account.event(call, "setup_intent.requires_action", setup_json(setup))
            return
        if trigger.outcome in ("declined", "blocked"):
            self._decline(setup, trigger.decline_code or str(trigger.code), call)
        scripted = call.take_decision()
        if scripted is not None and scripted.fault in ("decline", "approval_rate"):
            self._decline(setup, scripted.parameters["code"] or "generic_decline", call)
        self._succeed(setup, authentication_json("attempt_acknowledged", None) if requested else None, call)

    def _succeed(self, setup: Setup, authentication: dict[str, Any] | None, call: Call | None) -> None:
        assert setup.method is not None  # noqa: S101 - only a confirmed intent succeeds
        setup.status, setup.last_error = "succeeded", None
        setup.attempt = attempt_json(
            setup, setup.method, error=None, authentication=authentication, at=self._account.now()
        )
        if setup.customer is not None:
            self._methods.keep(setup.method, setup.customer, setup.usage, call)
        self._account.event(call, "setup_intent.succeeded", setup_json(setup))

    def _decline(self, setup: Setup, reason: str, call: Call | None) -> None:
        """Note the failure and raise the card error. The intent may be confirmed again."""
        assert setup.method is not None  # noqa: S101 - only a confirmed intent is declined
        card = setup.method.card
        error = errors.decline(reason, stripe_trigger(card.number), card.brand)
        setup.attempt = attempt_json(
            setup, setup.method, error=dict(error), authentication=None, at=self._account.now()
        )
        error["payment_method"] = payment_method_json(setup.method)
        setup.status, setup.last_error, setup.method = "requires_payment_method", error, None
        body = setup_json(setup)
        self._account.event(call, "setup_intent.setup_failed", body)
        raise RefusedError(json_answer(402, {"error": error | {"setup_intent": body}}), kept=True)

    def _in_path(self, call: Call) -> Setup:
        setup = self._account.setups.get(call.path_id)
        if setup is None:
            raise errors.no_such("setupintent", call.path_id, "intent")
        return setup


def _answer(setup: Setup, call: Call) -> Answer:
    expand = expanded(call.params)
    return json_answer(200, setup_json(setup, expand))


def _unexpected(setup: Setup, verb: str) -> RefusedError:
    return errors.invalid_request(
        f"You cannot {verb} this SetupIntent because it has a status of {setup.status}.",
        code="setup_intent_unexpected_state",
        kept=True,
        setup_intent=setup_json(setup),
    )


def _no_method() -> RefusedError:
    return errors.invalid_request(
        "You cannot confirm this SetupIntent because it's missing a payment method. Update the SetupIntent with a payment "
        "method and then confirm it again.",
        code="setup_intent_unexpected_state",
    )
