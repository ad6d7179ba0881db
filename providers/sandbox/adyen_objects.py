"""Adyen's objects: what the simulator keeps of a payment, and how answers and webhooks look."""

import secrets
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from providers.sandbox.cards import Card
from providers.sandbox.triggers import AdyenRefusal

_ALPHABET = string.ascii_uppercase + string.digits
# Adyen's names where they differ from Stripe's.
_BRANDS = {"mastercard": "mc", "unionpay": "cup"}


def new_psp_reference() -> str:
    """A pspReference: 16 capitals and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


@dataclass(slots=True)
class Payment:
    """One payment request with what became of its money. Amounts are in Adyen's minor units."""

    reference: str
    amount: int
    currency: str
    card: Card
    manual_capture: bool
    key: str | None
    metadata: dict[str, str]
    refusal: AdyenRefusal | None = None
    pending_redirect: bool = False
    return_url: str = ""
    shopper_reference: str | None = None
    stored_id: str | None = None
    authorised: bool = False
    cancelled: bool = False
    captured: int = 0
    captures: int = 0
    refunded: int = 0
    psp_reference: str = field(default_factory=new_psp_reference)
    auth_code: str = field(default_factory=lambda: "".join(secrets.choice(string.digits) for _ in range(6)))
    network_reference: str = field(default_factory=lambda: "".join(secrets.choice(string.digits) for _ in range(15)))

    @property
    def result_code(self) -> str:
        """The word for the present state that ``/payments`` answers with."""
        if self.pending_redirect:
            return "RedirectShopper"
        return "Authorised" if self.refusal is None else self.refusal.result_code


def brand(card: Card) -> str:
    """Adyen's word for the scheme ("visa", "mc", …)."""
    return _BRANDS.get(card.brand, card.brand)


def additional_data(payment: Payment) -> dict[str, str]:
    """What the account is set to return beside the result; every value is a string."""
    card = payment.card
    data = {
        "cardBin": card.bin,
        "cardSummary": card.last4,
        "cardHolderName": "Checkout Shopper",
        "cardIssuingCountry": card.country,
        "cardPaymentMethod": brand(card),
        "expiryDate": f"{card.exp_month}/{card.exp_year}",
        "fundingSource": card.funding.upper(),
        "issuerCountry": card.country,
        "paymentMethod": brand(card),
        "paymentMethodVariant": brand(card),
        "avsResult": "4 AVS not supported for this card type",
        "avsResultRaw": "4",
        "cvcResult": "1 Matches" if card.cvc else "6 No CVC/CVV provided",
        "cvcResultRaw": "M" if card.cvc else "",
        "acquirerCode": "SandboxAcquirer",
        "merchantReference": payment.reference,
        "refusalReasonRaw": "AUTHORISED",
    }
    if payment.refusal is None:
        data |= {
            "authCode": payment.auth_code,
            "networkTxReference": payment.network_reference,
            "authorisedAmountValue": str(payment.amount),
            "authorisedAmountCurrency": payment.currency,
        }
    else:
        reason = payment.refusal.reason or ""
        data["refusalReasonRaw"] = f"{payment.refusal.code.zfill(2)} : {reason}"
    if payment.refusal is not None and payment.refusal.code == "24":
        data |= {"cvcResult": "2 Doesn't match", "cvcResultRaw": "N"}
    if payment.stored_id is not None and payment.shopper_reference is not None:
        data |= {
            "tokenization.storedPaymentMethodId": payment.stored_id,
            "tokenization.shopperReference": payment.shopper_reference,
            "tokenization.store.operationType": "created",
        }
    return data


def payment_json(payment: Payment, base_url: str) -> dict[str, Any]:
    """The ``PaymentResponse``."""
    body: dict[str, Any] = {
        "pspReference": payment.psp_reference,
        "resultCode": payment.result_code,
        "merchantReference": payment.reference,
        "amount": {"value": payment.amount, "currency": payment.currency},
        "paymentMethod": {"type": "scheme", "brand": brand(payment.card)},
    }
    if payment.pending_redirect:
        # Before the shopper has been challenged nothing of an authorisation exists, not even its
        # amount in the answer.
        del body["amount"]
        body["action"] = {
            "type": "redirect",
            "method": "GET",
            "paymentMethodType": "scheme",
            "url": f"{base_url}/_sandbox/3ds/{payment.psp_reference}",
        }
        return body
    body["additionalData"] = additional_data(payment)
    if payment.refusal is not None:
        body["refusalReason"] = payment.refusal.reason or "Unknown"
        body["refusalReasonCode"] = payment.refusal.code
    return body


def notification_item(
    payment: Payment,
    *,
    event_code: str,
    psp_reference: str,
    merchant_account: str,
    merchant_reference: str,
    success: bool,
    reason: str,
    amount: int,
    currency: str,
) -> dict[str, Any]:
    """One ``NotificationRequestItem``, not yet signed."""
    item: dict[str, Any] = {
        "additionalData": {},
        "amount": {"currency": currency, "value": amount},
        "eventCode": event_code,
        "eventDate": datetime.now(UTC).isoformat(timespec="seconds"),
        "merchantAccountCode": merchant_account,
        "merchantReference": merchant_reference,
        "paymentMethod": brand(payment.card),
        "pspReference": psp_reference,
        "reason": reason,
        "success": "true" if success else "false",
    }
    if psp_reference != payment.psp_reference:
        item["originalReference"] = payment.psp_reference
    if event_code == "AUTHORISATION":
        item["additionalData"] = additional_data(payment) | {
            f"metadata.{name}": value for name, value in payment.metadata.items()
        }
        if success:
            item["operations"] = ["CANCEL", "CAPTURE", "REFUND"]
    return item


def stored_json(stored_id: str, shopper: str, card: Card) -> dict[str, Any]:
    """A stored payment method."""
    return {
        "id": stored_id,
        "shopperReference": shopper,
        "type": "scheme",
        "brand": brand(card),
        "lastFour": card.last4,
        "expiryMonth": f"{card.exp_month:02d}",
        "expiryYear": str(card.exp_year),
        "issuerBin": card.bin,
        "name": brand(card).upper(),
        "supportedShopperInteractions": ["Ecommerce", "ContAuth"],
        "supportedRecurringProcessingModels": [
            "CardOnFile",
            "Subscription",
            "UnscheduledCardOnFile",
        ],
    }
