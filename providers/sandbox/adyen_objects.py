"""Adyen's objects: what the simulator keeps of a payment, and how answers and webhooks look."""

import base64
import json
import secrets
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from providers.sandbox.cards import Card
from providers.sandbox.triggers import AdyenRefusal, adyen_raw_response

_ALPHABET = string.ascii_uppercase + string.digits
# Adyen's names where they differ from Stripe's.
_BRANDS = {"mastercard": "mc", "unionpay": "cup"}


def new_psp_reference() -> str:
    """A pspReference: 16 capitals and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


Step = Literal["redirect", "fingerprint", "challenge"]
"""What a payment waits for its shopper to do."""

RESULT_CODES: dict[Step, str] = {
    "redirect": "RedirectShopper",
    "fingerprint": "IdentifyShopper",
    "challenge": "ChallengeShopper",
}


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
    created: float
    """When it was made, in seconds since the epoch."""
    holder_name: str = ""
    pre_authorised: bool = False
    refusal: AdyenRefusal | None = None
    advice: str | None = None
    step: Step | None = None
    step_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    directory: str | None = None
    """EMVCo's transStatus of the authentication request; None where nothing was asked."""
    authentication: str | None = None
    """EMVCo's transStatus in the end."""
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
        if self.step is not None:
            return RESULT_CODES[self.step]
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
        **_authentication_data(payment),
        **_decision_data(payment),
    }
    if payment.stored_id is not None and payment.shopper_reference is not None:
        data |= {
            "tokenization.storedPaymentMethodId": payment.stored_id,
            "tokenization.shopperReference": payment.shopper_reference,
            "tokenization.store.operationType": "created",
            "recurring.recurringDetailReference": payment.stored_id,
            "recurring.shopperReference": payment.shopper_reference,
        }
    return data


def _decision_data(payment: Payment) -> dict[str, str]:
    """What the issuer said: an approval's references, or the network's own words for the refusal."""
    if payment.refusal is None:
        return {
            "refusalReasonRaw": "AUTHORISED",
            "authCode": payment.auth_code,
            "networkTxReference": payment.network_reference,
            "authorisedAmountValue": str(payment.amount),
            "authorisedAmountCurrency": payment.currency,
        }
    code = payment.refusal.code
    data = {"refusalReasonRaw": adyen_raw_response(code) or payment.refusal.reason or "Unknown"}
    if payment.advice is not None and brand(payment.card) == "mc":
        data["merchantAdviceCode"] = payment.advice
    elif payment.advice is not None:
        data["refusalReasonRaw"] = payment.advice
    if code == "24":
        data |= {"cvcResult": "2 Doesn't match", "cvcResultRaw": "N"}
    return data


_ECI = {"Y": ("05", "02"), "A": ("06", "01")}
"""The electronic commerce indicator by transStatus: of Mastercard the second, of all others the first."""


def _authentication_data(payment: Payment) -> dict[str, str]:
    """The 3-D Secure fields of an answer that needs no action any more."""
    if payment.directory is None:
        return {"threeDOffered": "false", "threeDOfferedResponse": "N/A", "threeDAuthenticatedResponse": "N/A"}
    letter = payment.authentication or payment.directory
    data = {
        "threeDOffered": "true",
        "threeDOfferedResponse": payment.directory,
        "threeDAuthenticated": "true" if letter == "Y" else "false",
        "threeDAuthenticatedResponse": letter,
        "threeDSVersion": "2.2.0",
        "liabilityShift": "true" if letter in _ECI else "false",
    }
    if letter in _ECI:
        data["eci"] = _ECI[letter][brand(payment.card) == "mc"]
        data["cavv"] = "AAABBZmkkQAAAAAAAGSRAAAAAAA="
    return data


def payment_json(payment: Payment, base_url: str) -> dict[str, Any]:
    """The ``PaymentResponse`` and the ``PaymentDetailsResponse``."""
    if payment.step is not None:
        return _waiting(payment, payment.step, base_url)
    body: dict[str, Any] = {
        "pspReference": payment.psp_reference,
        "resultCode": payment.result_code,
        "merchantReference": payment.reference,
        "amount": {"value": payment.amount, "currency": payment.currency},
        "paymentMethod": {"type": "scheme", "brand": brand(payment.card)},
        "additionalData": additional_data(payment),
    }
    if payment.refusal is not None:
        body["refusalReason"] = payment.refusal.reason or "Unknown"
        body["refusalReasonCode"] = payment.refusal.code
    return body


def _waiting(payment: Payment, step: Step, base_url: str) -> dict[str, Any]:
    """An action instead of a result. Nothing of an authorisation exists yet; a native one has no pspReference either.

    Every action has the address of this sandbox's own page, where anybody may play the shopper.
    """
    body: dict[str, Any] = {"resultCode": RESULT_CODES[step]}
    action = {"paymentMethodType": "scheme", "url": f"{base_url}/_sandbox/3ds/{payment.psp_reference}"}
    if step == "redirect":
        body |= {"pspReference": payment.psp_reference, "merchantReference": payment.reference}
        return body | {"action": {"type": "redirect", "method": "GET", **action}}
    token = encoded({"threeDSServerTransID": payment.psp_reference, "step": step})
    native = {
        "type": "threeDS2",
        "subtype": step,
        "token": token,
        "authorisationToken": payment.step_token,
        "paymentData": payment.step_token,
    }
    return body | {"action": {**native, **action}}


def encoded(content: dict[str, str]) -> str:
    """An object as Adyen's components hand it over: JSON in Base64."""
    return base64.b64encode(json.dumps(content).encode()).decode()


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
    now: float,
    additional: dict[str, str],
) -> dict[str, Any]:
    """One ``NotificationRequestItem``, not yet signed."""
    item: dict[str, Any] = {
        "additionalData": dict(additional),
        "amount": {"currency": currency, "value": amount},
        "eventCode": event_code,
        "eventDate": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
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
        "expiryYear": f"{card.exp_year % 100:02d}",
        "cardBin": card.bin,
        "name": brand(card).upper(),
        "supportedRecurringProcessingModels": ["CardOnFile", "Subscription", "UnscheduledCardOnFile"],
    }
