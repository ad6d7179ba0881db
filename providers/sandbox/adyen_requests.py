"""Reading Adyen's requests: fields checked with Adyen's error codes, and what they trigger."""

import re
from collections.abc import Mapping
from typing import Any

from providers.sandbox import adyen_errors as errors
from providers.sandbox.cards import Card, luhn_valid
from providers.sandbox.desk import Call
from providers.sandbox.triggers import AdyenRefusal, adyen_merchant_advice, adyen_refusal, adyen_refusal_by_card

ENCRYPTED_TEST_PREFIX = "test_"
REFERENCE_MAX = 80
METADATA_MAX, METADATA_NAME_MAX, METADATA_VALUE_MAX = 20, 20, 80
GENERIC_REFUSAL = "2"
SCRIPTED_FAILURE = "Declined by the acquirer"
_MONTHS = {form for month in range(1, 13) for form in (f"{month}", f"{month:02d}")}


def read_card(method: Mapping[str, Any], stored: Mapping[str, tuple[str, Card]], shopper: str | None) -> Card:
    """Card data in any of the three ways: raw, encrypted (test values), stored for this shopper."""
    stored_id = method.get("storedPaymentMethodId") or method.get("recurringDetailReference")
    if stored_id is not None:
        kept = stored.get(str(stored_id))
        if kept is None or kept[0] != shopper:
            raise errors.invalid("803", "PaymentDetail not found")
        card = kept[1]
        return Card(card.number, card.exp_month, card.exp_year, None)
    if method.get("type", "scheme") not in ("scheme", "card"):
        raise errors.invalid("102", "Unable to determine variant")
    number = _card_field(method, "number", "encryptedCardNumber").replace(" ", "")
    month = _card_field(method, "expiryMonth", "encryptedExpiryMonth")
    year = _card_field(method, "expiryYear", "encryptedExpiryYear")
    cvc = _card_field(method, "cvc", "encryptedSecurityCode") or None
    if not luhn_valid(number):
        raise errors.invalid("101", "Invalid card number")
    if not (month in _MONTHS and re.fullmatch("[0-9]{4}", year)):
        raise errors.invalid("129", "Expiry Date Invalid")
    if cvc is not None and not (cvc.isdigit() and len(cvc) in (3, 4)):
        raise errors.invalid("103", "CVC is not the right length")
    return Card(number, int(month), int(year), cvc)


def triggered_refusal(params: Mapping[str, Any], card: Card) -> AdyenRefusal | None:
    """The refusal asked for by response code, holder name or card number, or by a real defect."""
    asked = as_dict(params.get("additionalData")).get("RequestedTestAcquirerResponseCode")
    holder = read_holder(params).partition(":")[0]
    refusal = (adyen_refusal(str(asked)) if asked is not None else None) or adyen_refusal(
        holder if not holder.isdigit() else ""
    )
    if refusal is None:
        refusal = adyen_refusal_by_card(card.number)
    if refusal is None and card.expired():
        refusal = adyen_refusal("6")
    return None if refusal is None or refusal.approved else refusal


def triggered_advice(params: Mapping[str, Any], card: Card) -> str | None:
    """What the network says beside the refusal of "DECLINED:03": Mastercard's advice, of other cards their raw response.

    The suffix is this sandbox's own.
    """
    code = read_holder(params).partition(":")[2].strip()
    if not code:
        return None
    return adyen_merchant_advice(code) if card.brand == "mastercard" else f"{code} : Declined by the issuer"


def read_holder(params: Mapping[str, Any]) -> str:
    """The holder name, "" where there is none."""
    return text(as_dict(params.get("paymentMethod")).get("holderName")) or ""


def merchant_initiated(params: Mapping[str, Any]) -> bool:
    """Whether the shopper is away: a card on file may be charged by one click, the other models are the merchant's."""
    return params.get("shopperInteraction") == "ContAuth" and params.get("recurringProcessingModel") != "CardOnFile"


def pre_authorised(params: Mapping[str, Any]) -> bool:
    """Whether the amount may be changed later."""
    return str(as_dict(params.get("additionalData")).get("authorisationType", "")).lower() == "preauth"


def scripted_refusal(call: Call) -> AdyenRefusal | None:
    """The refusal a fault script asks for, if it does."""
    scripted = call.take_decision()
    if scripted is None:
        return None
    code = scripted.parameters["code"]
    return adyen_refusal(str(code or GENERIC_REFUSAL)) or adyen_refusal(GENERIC_REFUSAL)


def scripted_failure(call: Call) -> str | None:
    """Why a modification fails, where a fault script says so: in the issuer's words where the script names its refusal."""
    scripted = call.take_decision()
    if scripted is None:
        return None
    code = scripted.parameters.get("code")
    refusal = adyen_refusal(str(code)) if code else None
    return SCRIPTED_FAILURE if refusal is None else refusal.reason


def manual_capture(params: Mapping[str, Any]) -> bool:
    """A capture delay counts as manual: its hours do not pass in a sandbox."""
    manual = str(as_dict(params.get("additionalData")).get("manualCapture", "")).lower() == "true"
    delay = params.get("captureDelayHours")
    return manual or (isinstance(delay, int) and delay > 0)


def read_amount(params: Mapping[str, Any], *, least: int) -> tuple[int, str]:
    """A whole amount of at least ``least``, and its currency."""
    amount = params.get("amount")
    if not isinstance(amount, dict):
        raise errors.invalid("100", "No amount specified")
    value, currency = amount.get("value"), amount.get("currency")
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise errors.invalid("137", "Invalid amount specified")
    if not (isinstance(currency, str) and re.fullmatch("[A-Z]{3}", currency)):
        raise errors.invalid("138", "Unsupported currency specified")
    return value, currency


def read_reference(params: Mapping[str, Any], name: str) -> str:
    """A merchant's reference."""
    reference = params.get(name)
    if not isinstance(reference, str) or not reference:
        raise errors.invalid("130", "Reference Missing")
    if len(reference) > REFERENCE_MAX:
        raise errors.invalid("702", f"{name} exceeds {REFERENCE_MAX} characters")
    return reference


def read_metadata(params: Mapping[str, Any]) -> dict[str, str]:
    """Metadata within Adyen's bounds."""
    metadata = as_dict(params.get("metadata"))
    if len(metadata) > METADATA_MAX or any(
        len(str(name)) > METADATA_NAME_MAX or len(str(value)) > METADATA_VALUE_MAX for name, value in metadata.items()
    ):
        raise errors.invalid("177", "Metadata size exceeds limit")
    return {str(name): str(value) for name, value in metadata.items()}


def _card_field(method: Mapping[str, Any], plain: str, encrypted: str) -> str:
    value = method.get(plain)
    if value is not None:
        return str(value)
    return str(method.get(encrypted, "")).removeprefix(ENCRYPTED_TEST_PREFIX)


def as_dict(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """The value as text; None stays None."""
    return None if value is None else str(value)
