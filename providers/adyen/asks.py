"""What we send to Adyen: the exact body of every ask, as its specification has it (Checkout v72, Disputes v30)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final, assert_never

from providers.adyen.tables import UNITS
from providers.contract import (
    Accept,
    Ask,
    Authorize,
    Capture,
    Card,
    Defend,
    DetailsRefused,
    Increment,
    Refund,
    Token,
    Void,
)
from providers.money import Money, to_provider

REFUND_REASONS: Final[Mapping[str, str]] = {
    "duplicate": "DUPLICATE",
    "fraudulent": "FRAUD",
    "requested_by_customer": "CUSTOMER REQUEST",
    "return": "RETURN",
    "other": "OTHER",
}
RECURRING: Final[Mapping[str, str]] = {
    "subscription": "Subscription",
    "unscheduled": "UnscheduledCardOnFile",
    "card_on_file": "CardOnFile",
}
CHANNELS: Final[Mapping[str, str]] = {"web": "Web", "ios": "iOS", "android": "Android"}

DETAILS: Final = ("redirectResult", "threeDSResult")
"""What a shopper brings back of a challenge: from a redirect in the query string, from Adyen's component in ``details``."""

_BROWSER: Final[Mapping[str, str]] = {
    "accept_header": "acceptHeader",
    "color_depth": "colorDepth",
    "java_enabled": "javaEnabled",
    "language": "language",
    "screen_height": "screenHeight",
    "screen_width": "screenWidth",
    "time_zone_offset": "timeZoneOffset",
    "user_agent": "userAgent",
}

_TEST_TOKEN: Final = "test_"  # noqa: S105 - a prefix
"""Adyen's test cards without PCI scope: `test_4111111111111111` and the fixed values below.

https://docs.adyen.com/development-resources/testing/test-card-numbers
"""
_TEST_CARD: Final = {
    "encryptedExpiryMonth": "test_03",
    "encryptedExpiryYear": "test_2030",
    "encryptedSecurityCode": "test_737",
}

_METADATA_MAX, _METADATA_KEY_MAX, _METADATA_VALUE_MAX = 20, 20, 80
_SHOPPER_REFERENCE_MIN: Final = 3


def composed(ask: Ask, merchant_account: str, *, test: bool) -> Mapping[str, Any]:
    """The request for ``ask``: its ``verb``, the ``payment`` it follows, its ``body``, and what else its verb needs."""
    body: dict[str, Any] = {"merchantAccount": merchant_account, "reference": ask.operation_id}
    match ask:
        case Authorize():
            return _request("payments", None, body | _authorize(ask, test=test))
        case Capture():
            return _request("captures", ask.provider_payment_id, body | {"amount": _amount(ask.amount)})
        case Void():
            return _void(ask, body)
        case Refund():
            body["amount"] = _amount(ask.amount)
            if reason := REFUND_REASONS.get(ask.reason or ""):
                body["merchantRefundReason"] = reason
            return _request("refunds", ask.provider_payment_id, body)
        case Increment():
            # `industryUsage` is left out: that a guest did not come, or paid later, is not ours to claim.
            return _request("amountUpdates", ask.provider_payment_id, body | {"amount": _amount(ask.amount)})
        case Defend():
            return _defend(ask, merchant_account)
        case Accept():
            return _request("acceptDispute", None, _dispute(ask, merchant_account)) | {"documents": []}
        case _:
            assert_never(ask)


def completed(details: Mapping[str, str]) -> Mapping[str, Any]:
    """The request that finishes a challenge. Raises :class:`DetailsRefused` where its result is not among ``details``."""
    for name in DETAILS:
        if value := details.get(name):
            return _request("details", None, {"details": {name: value}})
    raise DetailsRefused(f"one of {' and '.join(DETAILS)} is needed")


def _request(verb: str, payment: str | None, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"verb": verb, "payment": payment, "body": body}


# --- What follows a payment ---------------------------------------------------------------------


def _void(ask: Void, body: dict[str, Any]) -> Mapping[str, Any]:
    """By the payment's own reference; by ours where there is none, or where there may be no payment yet.

    https://docs.adyen.com/online-payments/cancel
    """
    if ask.provider_payment_id and not ask.unfinished:
        return _request("cancels", ask.provider_payment_id, body)
    request = _request("technicalCancels", None, body | {"paymentReference": ask.attempt_id})
    return request | {"unfinished": ask.unfinished}


def _dispute(ask: Defend | Accept, merchant_account: str) -> dict[str, Any]:
    return {"merchantAccountCode": merchant_account, "disputePspReference": ask.dispute_id}


def _defend(ask: Defend, merchant_account: str) -> Mapping[str, Any]:
    """Raises ValueError for text: it would be lost in silence. The account's capabilities refuse it long before."""
    if ask.text:
        raise ValueError("Adyen takes documents and a defense reason code, no text")
    documents = [
        {
            "defenseDocumentTypeCode": document.type,
            "contentType": document.content_type,
            "content": base64.b64encode(document.content).decode(),
        }
        for document in ask.documents
    ]
    body = {**_dispute(ask, merchant_account), "defenseReasonCode": ask.reason or ""}
    return _request("defendDispute", None, body) | {"documents": documents}


# --- A payment ----------------------------------------------------------------------------------


def _authorize(ask: Authorize, *, test: bool) -> dict[str, Any]:
    method, owner = _payment_method(ask, test=test)
    stored = "storedPaymentMethodId" in method
    shopper = _shopper(ask)
    body: dict[str, Any] = {
        "amount": _amount(ask.amount),
        "paymentMethod": method,
        "returnUrl": ask.return_url,
        "metadata": _metadata(ask),
        **_capture(ask),
        **_consent(ask, owner, stored=stored),
        **_authentication(ask, shopper),
        **shopper,
    }
    if ask.reference:
        body["merchantOrderReference"] = ask.reference[:1000]
    if ask.statement_descriptor:
        body["shopperStatement"] = ask.statement_descriptor[:22]
    return body


def _amount(money: Money) -> Mapping[str, Any]:
    return {"value": to_provider(money, UNITS), "currency": money.currency}


def _capture(ask: Authorize) -> Mapping[str, Any]:
    """Always said: the merchant account's own setting is not ours to guess. Of a verification there is nothing to capture.

    A pre-authorization is one whose amount may change: https://docs.adyen.com/online-payments/adjust-authorisation
    """
    if ask.amount.amount_minor == 0:
        return {}
    said: dict[str, str] = {"manualCapture": "true"} if ask.capture_method == "manual" else {}
    if ask.adjustable:
        said["authorisationType"] = "PreAuth"
    capture: dict[str, Any] = {"captureDelayHours": 0} if ask.capture_method == "automatic" else {}
    return capture | ({"additionalData": said} if said else {})


def _payment_method(ask: Authorize, *, test: bool) -> tuple[Mapping[str, Any], str | None]:
    """The method, and the shopper whose it is where the token says so."""
    method: dict[str, Any] = {"type": "scheme"}
    holder = ask.billing_details.get("name")
    match ask.instrument:
        case Card() as card:
            method |= {"number": card.number, "expiryMonth": f"{card.exp_month:02d}", "expiryYear": str(card.exp_year)}
            if card.cvc:
                method["cvc"] = card.cvc
            holder = card.holder_name or holder
        case Token(value) if test and value.startswith(_TEST_TOKEN) and "/" not in value:
            method |= {"encryptedCardNumber": value, **_TEST_CARD}
        case Token(value):
            # Ours are "shopper/stored"; a merchant's own may be the stored id alone, of the customer it names.
            shopper, _, stored = value.rpartition("/")
            return method | {"storedPaymentMethodId": stored}, shopper or None
    if holder:
        method["holderName"] = holder
    if ask.network_transaction_id:
        method["networkPaymentReference"] = ask.network_transaction_id
    return method, None


def _consent(ask: Authorize, owner: str | None, *, stored: bool) -> Mapping[str, Any]:
    """Who is there, and what was agreed.

    https://docs.adyen.com/online-payments/tokenization. A card is remembered for a shopper: where the merchant names none, it
    is the payment's own.
    """
    consent: dict[str, Any] = {"shopperInteraction": "ContAuth" if ask.off_session or stored else "Ecommerce"}
    if not owner and ask.customer and len(ask.customer) >= _SHOPPER_REFERENCE_MIN:
        owner = ask.customer
    store = bool(ask.setup_future_usage) and not (ask.off_session or stored)
    if store:
        owner = owner or ask.payment_id
        consent["storePaymentMethod"] = True
    if owner:
        consent["shopperReference"] = owner
    model = RECURRING.get(ask.recurring or "")
    if ask.off_session or ask.setup_future_usage == "off_session":
        model = model or "UnscheduledCardOnFile"
    elif stored or store:
        model = model or "CardOnFile"
    return consent | ({"recurringProcessingModel": model} if model else {})


def _authentication(ask: Authorize, shopper: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whether to authenticate, and where. Without the shopper nobody can be asked.

    https://docs.adyen.com/online-payments/3d-secure: in the checkout needs a page to stand in and a browser to ask about.
    """
    if ask.off_session:
        return {}
    native = shopper.get("channel") == "Web" and {"origin", "browserInfo"} <= set(shopper)
    said: dict[str, Any] = {"threeDSRequestData": {"nativeThreeDS": "preferred" if native else "disabled"}}
    if ask.three_d_secure == "required":
        said["attemptAuthentication"] = "always"
    return {"authenticationData": said}


def _shopper(ask: Authorize) -> Mapping[str, Any]:
    """What helps the issuer to say yes. A part that Adyen would refuse is left out."""
    given, billing = ask.shopper, ask.billing_details
    phone = billing.get("phone") or ""
    told = {
        "shopperEmail": given.get("email") or billing.get("email"),
        "shopperIP": given.get("ip"),
        "channel": CHANNELS.get(str(given.get("channel", "")).lower()),
        "origin": given.get("origin"),
        "telephoneNumber": phone if phone.startswith("+") else None,
        "browserInfo": _browser(given.get("browser_info") or {}),
        "billingAddress": _address(billing.get("address") or {}),
    }
    return {name: value for name, value in told.items() if value}


def _browser(info: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if any(info.get(name) is None for name in _BROWSER):
        return None
    return {theirs: info[name] for name, theirs in _BROWSER.items()}


def _address(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if not all(given.get(line) for line in ("line1", "city", "postal_code", "country")):
        return None
    address = {
        "street": given["line1"],
        "houseNumberOrName": given.get("line2") or "N/A",
        "city": given["city"],
        "postalCode": given["postal_code"],
        "country": given["country"],
    }
    return address | ({"stateOrProvince": given["state"]} if given.get("state") else {})


def _metadata(ask: Authorize) -> Mapping[str, str]:
    """Ours, and as much of the merchant's as Adyen takes: too much of it refuses the payment (177)."""
    ours = {"payment": ask.payment_id}
    theirs = {
        key: value[:_METADATA_VALUE_MAX]
        for key, value in ask.metadata.items()
        if key not in ours and 0 < len(key) <= _METADATA_KEY_MAX
    }
    return ours | dict(list(theirs.items())[: _METADATA_MAX - len(ours)])
