"""Stripe's objects: what the simulator keeps of each, and how each looks on the wire."""

import secrets
import string
from dataclasses import dataclass, field
from typing import Any

from providers.sandbox.cards import Card

API_VERSION = "2026-05-27.dahlia"
_ALPHABET = string.ascii_letters + string.digits
AUTHORIZED_FOR_S = 7 * 24 * 3600
"""How long an authorization holds; Stripe then cancels what was not captured."""


def new_id(prefix: str) -> str:
    """An id of Stripe's shape."""
    return prefix + "_3" + "".join(secrets.choice(_ALPHABET) for _ in range(23))


@dataclass(slots=True, kw_only=True)
class PaymentMethod:
    """A card with an id."""

    card: Card
    billing_details: dict[str, Any]
    metadata: dict[str, str]
    id: str = field(default_factory=lambda: new_id("pm"))
    created: int
    customer: str | None = None
    spent: bool = False
    """Used once without a Customer, or detached from one: nobody may use it again."""
    set_up: bool = False
    """The shopper agreed, and was authenticated, to be charged while away."""


@dataclass(slots=True, kw_only=True)
class Refund:
    """Money on its way back."""

    intent: str
    charge: str
    amount: int
    currency: str
    metadata: dict[str, str]
    reason: str | None
    status: str = "succeeded"
    failure_reason: str | None = None
    id: str = field(default_factory=lambda: new_id("re"))
    created: int


@dataclass(slots=True, kw_only=True)
class Charge:
    """One try to take money: approved, or declined with ``failure``."""

    intent: str
    amount: int
    currency: str
    method: PaymentMethod
    failure: dict[str, Any] | None = None
    blocked: bool = False
    cvc_check: str | None = "pass"
    three_d_secure: dict[str, Any] | None = None
    amount_captured: int = 0
    amount_refunded: int = 0
    amount_released: int = 0
    """What was authorized and will never be captured, because the intent was cancelled."""
    multicapture: bool = False
    incremental: bool = False
    disputed: bool = False
    charged_back: bool = False
    """The money is with the shopper's bank: it cannot be refunded as well."""
    balance_transaction: str | None = None
    manual: bool = False
    customer: str | None = None
    id: str = field(default_factory=lambda: new_id("ch"))
    created: int
    authorization_code: str = field(default_factory=lambda: "".join(secrets.choice(string.digits) for _ in range(6)))
    network_transaction_id: str = field(
        default_factory=lambda: "".join(secrets.choice(string.digits) for _ in range(15))
    )


@dataclass(slots=True, kw_only=True)
class Intent:
    """A PaymentIntent: one payment that may be tried several times, and succeed once."""

    amount: int
    currency: str
    capture_method: str
    metadata: dict[str, str]
    description: str | None = None
    customer: str | None = None
    receipt_email: str | None = None
    setup_future_usage: str | None = None
    statement_descriptor: str | None = None
    return_url: str | None = None
    status: str = "requires_payment_method"
    method: PaymentMethod | None = None
    latest_charge: str | None = None
    last_error: dict[str, Any] | None = None
    amount_received: int = 0
    canceled_at: int | None = None
    cancellation_reason: str | None = None
    next_action: dict[str, Any] | None = None
    card_options: dict[str, str] = field(default_factory=dict)
    """What was requested in ``payment_method_options[card]``."""
    reference: str | None = None
    """The merchant's operation: metadata["operation"] as first given, for later verbs change it."""
    key: str | None = None
    """Idempotency key of the request that was last meant to take the money."""
    id: str = field(default_factory=lambda: new_id("pi"))
    created: int
    position: int = 0
    """Its place in the list of all, so that paging needs no search."""
    secret: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def client_secret(self) -> str:
        """What a browser may hold."""
        return f"{self.id}_secret_{self.secret}"


def card_checks(cvc_check: str | None) -> dict[str, Any]:
    """What the issuer said of the card's data."""
    return {
        "address_line1_check": None,
        "address_postal_code_check": None,
        "cvc_check": cvc_check,
    }


def billing_details(given: object) -> dict[str, Any]:
    """Billing details with every field, absent ones null."""
    given = given if isinstance(given, dict) else {}
    address = given.get("address")
    address = address if isinstance(address, dict) else {}
    parts = ("city", "country", "line1", "line2", "postal_code", "state")
    return {
        "address": {part: address.get(part) or None for part in parts},
        "email": given.get("email") or None,
        "name": given.get("name") or None,
        "phone": given.get("phone") or None,
        "tax_id": None,
    }


def payment_method_json(method: PaymentMethod) -> dict[str, Any]:
    """The ``payment_method`` object."""
    card = method.card
    return {
        "id": method.id,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": method.billing_details,
        "card": {
            "brand": card.brand,
            "checks": card_checks("pass" if card.cvc else None),
            "country": card.country,
            "display_brand": card.brand,
            "exp_month": card.exp_month,
            "exp_year": card.exp_year,
            "fingerprint": card.fingerprint,
            "funding": card.funding,
            "generated_from": None,
            "last4": card.last4,
            "networks": {"available": [card.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": method.created,
        "customer": method.customer,
        "customer_account": None,
        "livemode": False,
        "metadata": method.metadata,
        "type": "card",
    }


def _outcome_json(charge: Charge) -> dict[str, Any]:
    outcome: dict[str, Any] = {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network",
        "reason": None,
        "risk_level": "normal",
        "risk_score": 20,
        "seller_message": "Payment complete.",
        "type": "authorized",
    }
    if charge.failure is not None:
        reason = charge.failure.get("decline_code") or charge.failure["code"]
        outcome |= {
            "advice_code": charge.failure.get("advice_code"),
            "network_decline_code": charge.failure.get("network_decline_code"),
            "network_status": "declined_by_network",
            "reason": reason,
            "seller_message": "The bank did not return any further details with this decline.",
            "type": "issuer_declined",
        }
    if charge.blocked:
        outcome |= {
            "network_status": "not_sent_to_network",
            "reason": "highest_risk_level",
            "risk_level": "highest",
            "risk_score": 90,
            "seller_message": "Stripe blocked this payment as too risky.",
            "type": "blocked",
        }
    return outcome


def _availability(*, offered: bool) -> str:
    return "available" if offered else "unavailable"


def authentication_json(result: str, flow: str | None) -> dict[str, Any]:
    """How a shopper was authenticated, as it stands beside a charge."""
    return {
        "authentication_flow": flow,
        "electronic_commerce_indicator": "05" if result == "authenticated" else "06",
        "exemption_indicator": None,
        "result": result,
        "result_reason": None if result == "authenticated" else "card_not_enrolled",
        "transaction_id": None,
        "version": "2.2.0",
    }


def _card_details_json(charge: Charge) -> dict[str, Any]:
    card, approved = charge.method.card, charge.failure is None
    details: dict[str, Any] = {
        "amount_authorized": charge.amount if approved else None,
        "authorization_code": charge.authorization_code if approved else None,
        "brand": card.brand,
        "checks": card_checks(charge.cvc_check),
        "country": card.country,
        "exp_month": card.exp_month,
        "exp_year": card.exp_year,
        "extended_authorization": {"status": "disabled"},
        "fingerprint": card.fingerprint,
        "funding": card.funding,
        "incremental_authorization": {"status": _availability(offered=charge.incremental)},
        "installments": None,
        "last4": card.last4,
        "mandate": None,
        "multicapture": {"status": _availability(offered=charge.multicapture)},
        "network": card.brand,
        "network_token": {"used": False},
        "network_transaction_id": charge.network_transaction_id if approved else None,
        "overcapture": {"maximum_amount_capturable": charge.amount, "status": "unavailable"},
        "regulated_status": "unregulated",
        "three_d_secure": charge.three_d_secure,
        "wallet": None,
    }
    if charge.manual and approved:
        details["capture_before"] = charge.created + AUTHORIZED_FOR_S
    return details


def charge_json(charge: Charge, intent: Intent) -> dict[str, Any]:
    """The ``charge`` object."""
    failed = charge.failure is not None
    given_back = charge.amount_refunded + charge.amount_released
    held = charge.amount if charge.amount_released else charge.amount_captured
    return {
        "id": charge.id,
        "object": "charge",
        "amount": charge.amount,
        "amount_captured": charge.amount_captured,
        "amount_refunded": given_back,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": charge.balance_transaction,
        "billing_details": charge.method.billing_details,
        "calculated_statement_descriptor": intent.statement_descriptor or "SANDBOX",
        "captured": charge.amount_captured > 0,
        "created": charge.created,
        "currency": charge.currency,
        "customer": intent.customer,
        "description": intent.description,
        "disputed": charge.disputed,
        "failure_balance_transaction": None,
        "failure_code": charge.failure["code"] if charge.failure else None,
        "failure_message": charge.failure["message"] if charge.failure else None,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent.metadata,
        "on_behalf_of": None,
        "outcome": _outcome_json(charge),
        "paid": not failed,
        "payment_intent": charge.intent,
        "payment_method": charge.method.id,
        "payment_method_details": {"card": _card_details_json(charge), "type": "card"},
        "receipt_email": intent.receipt_email,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": 0 < held <= given_back,
        "review": None,
        "shipping": None,
        "source_transfer": None,
        "statement_descriptor": intent.statement_descriptor,
        "statement_descriptor_suffix": None,
        "status": "failed" if failed else "succeeded",
        "transfer_data": None,
        "transfer_group": None,
    }


def intent_json(intent: Intent, charge: Charge | None, expand: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The ``payment_intent`` object; ``expand`` may name latest_charge and payment_method."""
    capturable = charge.amount - charge.amount_captured if charge and intent.status == "requires_capture" else 0
    latest: object = intent.latest_charge
    if charge is not None and "latest_charge" in expand:
        latest = charge_json(charge, intent)
    method: object = None if intent.method is None else intent.method.id
    if intent.method is not None and "payment_method" in expand:
        method = payment_method_json(intent.method)
    return {
        "id": intent.id,
        "object": "payment_intent",
        "amount": intent.amount,
        "amount_capturable": capturable,
        "amount_details": {"tip": {}},
        "amount_received": intent.amount_received,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": intent.canceled_at,
        "cancellation_reason": intent.cancellation_reason,
        "capture_method": intent.capture_method,
        "client_secret": intent.client_secret,
        "confirmation_method": "automatic",
        "created": intent.created,
        "currency": intent.currency,
        "customer": intent.customer,
        "customer_account": None,
        "description": intent.description,
        "excluded_payment_method_types": None,
        "last_payment_error": intent.last_error,
        "latest_charge": latest,
        "livemode": False,
        "metadata": intent.metadata,
        "next_action": intent.next_action,
        "on_behalf_of": None,
        "payment_method": method,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
                **intent.card_options,
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": intent.receipt_email,
        "review": None,
        "setup_future_usage": intent.setup_future_usage,
        "shipping": None,
        "source": None,
        "statement_descriptor": intent.statement_descriptor,
        "statement_descriptor_suffix": None,
        "status": intent.status,
        "transfer_data": None,
        "transfer_group": None,
    }


def refund_json(refund: Refund) -> dict[str, Any]:
    """The ``refund`` object."""
    body: dict[str, Any] = {
        "id": refund.id,
        "object": "refund",
        "amount": refund.amount,
        "balance_transaction": None,
        "charge": refund.charge,
        "created": refund.created,
        "currency": refund.currency,
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": refund.metadata,
        "payment_intent": refund.intent,
        "reason": refund.reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": refund.status,
        "transfer_reversal": None,
    }
    if refund.failure_reason is not None:
        body["failure_reason"] = refund.failure_reason
    return body


def customer_json(customer_id: str, given: dict[str, Any], created: int) -> dict[str, Any]:
    """The ``customer`` object."""
    return {
        "id": customer_id,
        "object": "customer",
        "created": created,
        "email": given.get("email"),
        "description": given.get("description"),
        "name": given.get("name"),
        "phone": given.get("phone"),
        "livemode": False,
        "metadata": given.get("metadata", {}),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "shipping": None,
    }
