"""What the OpenAPI document says of payments, cards and customers, and of what they rest on: what may be asked, and an example of each.

As ``gateway.api.described_routing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from gateway.api.policies import policy_object
from gateway.explained import decision_object
from gateway.policies import DEFAULTS, POLICIES
from routing.decision import Candidate, Decision, Facts

PAYMENT: Final[Mapping[str, Any]] = {
    "id": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "object": "payment",
    "status": "succeeded",
    "amount": 1999,
    "currency": "EUR",
    "amount_capturable": 0,
    "amount_received": 1999,
    "amount_refunded": 0,
    "capture_method": "automatic",
    "account": "stripe",
    "provider": "stripe",
    "provider_payment_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
    "network_transaction_id": "104557651805572",
    "processing_reason": None,
    "decline": None,
    "next_action": None,
    "payment_method": "pm_0193a4c5d6e77f8091a2b3c4d5e6f709",
    "card": {"brand": "visa", "bin": "424242", "last4": "4242"},
    "captures": [],
    "reference": "order-1001",
    "customer": None,
    "metadata": {"cart": "77"},
    "livemode": False,
    "attempt_count": 1,
    "review": [],
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:00.345678Z",
}
_DECISION_EXAMPLE: Final = Decision(
    version="rt_0193a4c5d6e77f8091a2b3c4d5e6f710",
    rule="european cards",
    kind="priority",
    strategy=None,
    facts=Facts(
        payment_id=PAYMENT["id"],
        merchant_id="mer_shop",
        livemode=False,
        amount=1999,
        currency="EUR",
        at=datetime(2026, 11, 21, 9, 30, 0, 123456, UTC),
        brand="visa",
        bin="424242",
        three_d_secure="automatic",
        metadata={"cart": "77"},
    ),
    candidates=(
        Candidate("stripe", propensity=1.0),
        Candidate("adyen", "currency_not_configured", propensity=0.0, why_not="ineligible"),
    ),
    route=("stripe",),
)
ROUTING: Final[Mapping[str, Any]] = {
    "object": "payment_routing",
    "payment": PAYMENT["id"],
    "route": ["stripe"],
    "attempts": [
        {
            "object": "attempt_routing",
            "attempt": "att_0193a4c5d6e77f8091a2b3c4d5e6f709",
            "account": "stripe",
            "round": 1,
            "status": "captured",
            "created": "2026-11-21T09:30:00.123456Z",
            "allowed_by": None,
            "decision": decision_object(_DECISION_EXAMPLE),
            "cascade": None,
            "sentence": _DECISION_EXAMPLE.sentence,
        }
    ],
    "livemode": False,
}
REFUND: Final[Mapping[str, Any]] = {
    "id": "re_0193a4c5d6e77f8091a2b3c4d5e6f70a",
    "object": "refund",
    "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "status": "succeeded",
    "amount": 500,
    "currency": "EUR",
}
DISPUTE: Final[Mapping[str, Any]] = {
    "id": "dp_0193a4c5d6e77f8091a2b3c4d5e6f70b",
    "object": "dispute",
    "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "status": "needs_response",
    "amount": 1999,
    "currency": "EUR",
    "reason": "product_not_received",
    "network_reason_code": "13.1",
    "respond_by": "2026-12-05T23:59:59.000000Z",
    "account": "stripe",
}
INCIDENT: Final[Mapping[str, Any]] = {
    "id": "in_0193a4c5d6e77f8091a2b3c4d5e6f70d",
    "object": "incident",
    "kind": "amount_mismatch",
    "status": "closed",
    "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f708",
    "operation": "att_0193a4c5d6e77f8091a2b3c4d5e6f709",
    "account": "stripe",
    "details": {
        "source": "webhook",
        "said": {"outcome": "Approved", "provider_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d", "amount": 1, "currency": "EUR"},
        "known": {
            "kind": "authorize",
            "account": "stripe",
            "status": "unknown",
            "amount": 1999,
            "currency": "EUR",
            "amount_captured": 0,
        },
    },
    "reason": "The provider's support has corrected it: case 4711.",
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "closed": "2026-11-21T11:02:41.000000Z",
}
ACCOUNT: Final[Mapping[str, Any]] = {
    "id": "stripe",
    "object": "account",
    "provider": "stripe",
    "livemode": False,
    "currencies": None,
    "capabilities": {"several_captures": False, "partial_refund": True},
    "on_request": ["several_captures"],
    "idempotency_horizon_s": 72000,
}
POLICY: Final[Mapping[str, Any]] = policy_object(
    "redis_loss",
    POLICIES["redis_loss"],
    DEFAULTS["redis_loss"],
    {("redis", "idempotency_gate"): {"fail_open": 3, "fail_closed": 0}},
)
METHOD: Final[Mapping[str, Any]] = {
    "id": "pm_0193a4c5d6e77f8091a2b3c4d5e6f709",
    "object": "payment_method",
    "type": "card",
    "customer": "cus_0193a4c5d6e77f8091a2b3c4d5e6f70b",
    "reusable": True,
    "deleted": False,
    "tokens": ["adyen"],
    "card": {
        "brand": "visa",
        "bin": "424242",
        "last4": "4242",
        "exp_month": 12,
        "exp_year": 2030,
        "funding": "credit",
        "country": "DE",
        "fingerprint": "5ad1f0c2a4e14d1e8f37c2a5f7b9d0e3",
    },
    "network_transaction_id": "104557651805572",
    "billing_details": {"name": "Ada Lovelace"},
    "metadata": {},
    "verification": {
        "payment": "pay_0193a4c5d6e77f8091a2b3c4d5e6f70c",
        "status": "succeeded",
        "account": "adyen",
        "next_action": None,
        "decline": None,
    },
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:00.345678Z",
}
CUSTOMER: Final[Mapping[str, Any]] = {
    "id": "cus_0193a4c5d6e77f8091a2b3c4d5e6f70b",
    "object": "customer",
    "deleted": False,
    "reference": "c-77",
    "name": "Ada Lovelace",
    "email": "ada@example.com",
    "phone": None,
    "metadata": {},
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:00.123456Z",
}
_CREATE: Final = {
    "amount": 1999,
    "currency": "EUR",
    "confirm": True,
    "payment_method_data": {
        "type": "card",
        "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "cvc": "123"},
    },
    "reference": "order-1001",
    "metadata": {"cart": "77"},
}
_TOKEN: Final = {"payment_method_data": {"type": "token", "tokens": {"stripe": "pm_card_visa"}}}

_MONEY: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    ("/v1/payments", "create", "Create a payment; with confirm, charge at once", _CREATE, "201", PAYMENT),
    ("/v1/payments/{id}/confirm", "confirm", "Charge a payment that is there", _TOKEN, "200", PAYMENT),
    ("/v1/payments/{id}/capture", "capture", "Capture an authorization", {"amount": 1999}, "200", PAYMENT),
    ("/v1/payments/{id}/cancel", "cancel", "Cancel: void what is authorized", {}, "200", PAYMENT),
    (
        "/v1/payments/{id}/increment",
        "increment",
        "Change the authorized amount before a capture",
        {"amount": 2499},
        "200",
        PAYMENT,
    ),
    (
        "/v1/payments/{id}/details",
        "details",
        "Complete a native 3-D Secure challenge; it needs no key",
        {"details": {"threeDSResult": "eyJ0cmFuc1N0YXR1cyI6IlkifQ=="}},
        "200",
        PAYMENT,
    ),
    (
        "/v1/payments/{id}/resolve",
        "resolve",
        "Settle what no machine could: an operation in review, by a person's word",
        {
            "outcome": "succeeded",
            "provider_id": "pi_3PqX7Y2eZvKYlo2C1a2b3c4d",
            "reason": "The provider's support has confirmed the charge.",
            "evidence": "ticket 4711; settlement report of 2026-11-20, line 12",
        },
        "200",
        PAYMENT,
    ),
    (
        "/v1/disputes/{id}/evidence",
        "evidence",
        "Contest a dispute; what is sent is submitted at once",
        {"text": {"product_description": "A chair, delivered on 3 May."}},
        "200",
        DISPUTE,
    ),
    ("/v1/disputes/{id}/accept", "accept", "Give a dispute up", {}, "200", DISPUTE),
    (
        "/v1/refunds",
        "refund",
        "Refund a captured payment, whole or in part",
        {"payment": PAYMENT["id"], "amount": 500},
        "201",
        REFUND,
    ),
)
_STORE: Final = {
    "type": "card",
    "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "cvc": "123"},
    "customer": CUSTOMER["id"],
    "verify": True,
    "currency": "EUR",
}
_ADD: Final = {"tokens": {"adyen": "8415999999999999"}}
_PERSON: Final = {"reference": "c-77", "name": "Ada Lovelace", "email": "ada@example.com"}
_METHOD_ID: Final = "/v1/payment_methods/{id}"
_STORING: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    (
        "/v1/payment_methods",
        "create_payment_method",
        "Store a card or tokens; with verify, ask the issuer",
        _STORE,
        "201",
        METHOD,
    ),
    (_METHOD_ID, "update_payment_method", "Add tokens, or attach to a customer", _ADD, "200", METHOD),
    ("/v1/customers", "create_customer", "Store a customer", _PERSON, "201", CUSTOMER),
    (
        "/v1/incidents/{id}/close",
        "close",
        "Say that an incident was looked at",
        {"reason": INCIDENT["reason"]},
        "200",
        INCIDENT,
    ),
)
ASKED: Final = (*_MONEY, *_STORING)
"""Path, verb, summary, an example of what is sent, the status of success, an example of the answer."""
