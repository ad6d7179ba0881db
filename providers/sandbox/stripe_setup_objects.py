"""Stripe's SetupIntents and their attempts: what the simulator keeps of each, and how each looks on the wire."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from providers.sandbox.stripe_objects import PaymentMethod, card_checks, new_id, payment_method_json


@dataclass(slots=True, kw_only=True)
class Setup:
    """A SetupIntent: a card that is verified, and where a Customer is named kept for later payments."""

    usage: str
    metadata: dict[str, str]
    customer: str | None = None
    description: str | None = None
    return_url: str | None = None
    status: str = "requires_payment_method"
    method: PaymentMethod | None = None
    last_error: dict[str, Any] | None = None
    cancellation_reason: str | None = None
    next_action: dict[str, Any] | None = None
    card_options: dict[str, str] = field(default_factory=dict)
    attempt: dict[str, Any] | None = None
    """The latest attempt, as it looks on the wire."""
    id: str = field(default_factory=lambda: new_id("seti"))
    created: int
    secret: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def client_secret(self) -> str:
        """What a browser may hold."""
        return f"{self.id}_secret_{self.secret}"


def setup_json(setup: Setup, expand: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The ``setup_intent`` object; ``expand`` may name payment_method and latest_attempt."""
    method: object = None if setup.method is None else setup.method.id
    if setup.method is not None and "payment_method" in expand:
        method = payment_method_json(setup.method)
    attempt: object = None if setup.attempt is None else setup.attempt["id"]
    if "latest_attempt" in expand:
        attempt = setup.attempt
    return {
        "id": setup.id,
        "object": "setup_intent",
        "application": None,
        "automatic_payment_methods": None,
        "cancellation_reason": setup.cancellation_reason,
        "client_secret": setup.client_secret,
        "created": setup.created,
        "customer": setup.customer,
        "customer_account": None,
        "description": setup.description,
        "excluded_payment_method_types": None,
        "flow_directions": None,
        "last_setup_error": setup.last_error,
        "latest_attempt": attempt,
        "livemode": False,
        "mandate": None,
        "metadata": setup.metadata,
        "next_action": setup.next_action,
        "on_behalf_of": None,
        "payment_method": method,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
                **setup.card_options,
            }
        },
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": setup.status,
        "usage": setup.usage,
    }


def attempt_json(
    setup: Setup, method: PaymentMethod, *, error: dict[str, Any] | None, authentication: dict[str, Any] | None, at: int
) -> dict[str, Any]:
    """The ``setup_attempt`` object."""
    card = method.card
    shown = (
        "authentication_flow",
        "electronic_commerce_indicator",
        "result",
        "result_reason",
        "transaction_id",
        "version",
    )
    return {
        "id": new_id("setatt"),
        "object": "setup_attempt",
        "application": None,
        "created": at,
        "customer": setup.customer,
        "customer_account": None,
        "flow_directions": None,
        "livemode": False,
        "on_behalf_of": None,
        "payment_method": method.id,
        "payment_method_details": {
            "card": {
                "brand": card.brand,
                "checks": card_checks("pass" if card.cvc else None),
                "country": card.country,
                "exp_month": card.exp_month,
                "exp_year": card.exp_year,
                "fingerprint": card.fingerprint,
                "funding": card.funding,
                "last4": card.last4,
                "network": card.brand,
                "three_d_secure": authentication and {name: authentication[name] for name in shown},
                "wallet": None,
            },
            "type": "card",
        },
        "setup_error": error,
        "setup_intent": setup.id,
        "status": "failed" if error else "succeeded",
        "usage": setup.usage,
    }
