"""Stripe's disputes and fraud warnings: what the simulator keeps of each, and how each looks on the wire."""

from dataclasses import dataclass, field
from typing import Any

from providers.sandbox.stripe_objects import Charge, new_id


@dataclass(slots=True, kw_only=True)
class Dispute:
    """A shopper's bank asks for a payment back, or asks only what it was for."""

    charge: str
    intent: str
    amount: int
    currency: str
    brand: str
    reason: str
    status: str
    metadata: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)
    submissions: int = 0
    transactions: list[dict[str, Any]] = field(default_factory=list)
    id: str = field(default_factory=lambda: new_id("dp"))
    created: int

    @property
    def inquiry(self) -> bool:
        """Whether the bank only asks, and has taken nothing."""
        return self.status.startswith("warning")


EVIDENCE = tuple(
    """
    access_activity_log billing_address cancellation_policy cancellation_policy_disclosure cancellation_rebuttal
    customer_communication customer_email_address customer_name customer_purchase_ip customer_signature
    duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id product_description receipt
    refund_policy refund_policy_disclosure refund_refusal_explanation service_date service_documentation
    shipping_address shipping_carrier shipping_date shipping_documentation shipping_tracking_number uncategorized_file
    uncategorized_text
    """.split()  # noqa: SIM905 - a line each would say no more
)
"""What can be said to a dispute."""
RESPOND_WITHIN_S = 9 * 24 * 3600
NETWORK_REASONS = {"fraudulent": "10.4", "product_not_received": "13.1"}
"""Visa's codes."""


def dispute_json(dispute: Dispute) -> dict[str, Any]:
    """The ``dispute`` object."""
    return {
        "id": dispute.id,
        "object": "dispute",
        "amount": dispute.amount,
        "balance_transactions": dispute.transactions,
        "charge": dispute.charge,
        "created": dispute.created,
        "currency": dispute.currency,
        "enhanced_eligibility_types": [],
        "evidence": {name: dispute.evidence.get(name) for name in EVIDENCE} | {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": dispute.created + RESPOND_WITHIN_S,
            "enhanced_eligibility": {},
            "has_evidence": bool(dispute.evidence),
            "past_due": False,
            "submission_count": dispute.submissions,
        },
        "is_charge_refundable": dispute.inquiry,
        "livemode": False,
        "metadata": dispute.metadata,
        "payment_intent": dispute.intent,
        "payment_method_details": {
            "card": {
                "brand": dispute.brand,
                "case_type": "inquiry" if dispute.inquiry else "chargeback",
                "network_reason_code": NETWORK_REASONS.get(dispute.reason),
            },
            "type": "card",
        },
        "reason": dispute.reason,
        "status": dispute.status,
    }


DISPUTE_FEE = 1500


def dispute_transaction_json(dispute: Dispute, *, withdrawn: bool, at: int) -> dict[str, Any]:
    """The balance transaction that takes the disputed money, and a fee, or gives the money back."""
    amount, fee = (-dispute.amount, DISPUTE_FEE) if withdrawn else (dispute.amount, 0)
    fees = [
        {
            "amount": fee,
            "application": None,
            "currency": dispute.currency,
            "description": "Dispute fee",
            "type": "stripe_fee",
        }
    ]
    return {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": at,
        "balance_type": "payments",
        "created": at,
        "currency": dispute.currency,
        "description": f"Chargeback {'withdrawal' if withdrawn else 'reversal'} for {dispute.charge}",
        "exchange_rate": None,
        "fee": fee,
        "fee_details": fees if fee else [],
        "net": amount - fee,
        "reporting_category": "dispute" if withdrawn else "dispute_reversal",
        "source": dispute.id,
        "status": "available",
        "type": "adjustment",
    }


def fraud_warning_json(charge: Charge, at: int) -> dict[str, Any]:
    """The ``radar.early_fraud_warning`` object: the network reports fraud before anybody disputes."""
    return {
        "id": new_id("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": charge.id,
        "created": at,
        "fraud_type": "made_with_stolen_card",
        "livemode": False,
        "payment_intent": charge.intent,
    }
