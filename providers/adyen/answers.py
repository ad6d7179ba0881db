"""What Adyen's answers mean: results, modifications, disputes and errors, each by its table.

A decline is a success of the HTTP call, so the result code decides and never the status. An answer is believed only
where it is about the operation, the payment and the money that we asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, assert_never

import msgspec

from providers.adyen.tables import (
    ADVICE,
    ANY,
    CANCELLED,
    CARD_ERRORS,
    DECLINES,
    ERRORS,
    RESULTS,
    UNITS,
)
from providers.contract import (
    ActionRequired,
    Approved,
    Call,
    CardFacts,
    Declined,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    ThreeDSecure,
    Unknown,
)
from providers.declines import Action, Decline, look_up
from providers.money import Money, to_provider

# --- What is read -------------------------------------------------------------------------------


class Amount(msgspec.Struct):
    """Money in Adyen's units."""

    value: int
    currency: str


class Payment(msgspec.Struct, rename="camel"):
    """The answer to ``/payments`` and ``/payments/details``."""

    result_code: str
    psp_reference: str | None = None
    merchant_reference: str | None = None
    amount: Amount | None = None
    refusal_reason_code: str | None = None
    action: dict[str, Any] | None = None
    additional_data: dict[str, Any] = {}


class Modification(msgspec.Struct, rename="camel"):
    """The answer to everything that follows a payment, and to a technical cancel."""

    psp_reference: str
    status: str
    payment_psp_reference: str | None = None
    payment_reference: str | None = None
    reference: str | None = None
    amount: Amount | None = None


class DisputeResult(msgspec.Struct, rename="camel"):
    """Whether the Disputes API did what it was asked."""

    success: bool
    error_message: str | None = None


class DisputeAnswer(msgspec.Struct, rename="camel"):
    """The answer of the Disputes API."""

    dispute_service_result: DisputeResult


# --- Outcomes -----------------------------------------------------------------------------------


def paid(call: Call, payment: Payment) -> Outcome:
    """A result code, by the table. What is not in it is ``Unknown``."""
    if call.request["verb"] == "details" and not _named(call, payment):
        # The shopper brought what belongs to another payment, or an answer that does not say whose it is.
        another = payment.merchant_reference is not None
        return NotProcessed("rejected", "another_payment", conclusive=True) if another else Unknown("unnamed")
    if payment.merchant_reference not in (None, call.operation_id):
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, payment.amount):
        return mismatch
    psp, code, data = payment.psp_reference, payment.refusal_reason_code, payment.additional_data
    match RESULTS.get(payment.result_code):
        case "approved" if psp:
            # Nothing says it after a challenge; the terms of the payment do.
            captured = call.request["body"].get("captureDelayHours") == 0
            return replace(approved(psp, call.amount, data, captured=captured), token=_token(call, data))
        # `Error` without a reason code says that something broke, not that nothing was taken.
        case "declined" if payment.result_code == "Refused" or (code and code != "0"):
            return Declined(decline(code, data), psp, card_facts(data))
        case "cancelled":
            return Declined(CANCELLED, psp)
        case "action" if payment.action:
            return ActionRequired(psp, _next_action(payment.action))
        case "pending":
            return Pending(psp)
        case _:
            return Unknown("result", provider_code=payment.result_code)


def _named(call: Call, payment: Payment) -> bool:
    """Whether the answer to a completion names our attempt. The request did not: it held only what the shopper brought.

    A further action is as good as none of money, so it need not say.
    """
    if payment.merchant_reference is not None:
        return payment.merchant_reference == call.operation_id
    same = call.provider_id is not None and payment.psp_reference == call.provider_id
    return same or RESULTS.get(payment.result_code) == "action"


def received(call: Call, modification: Modification) -> Outcome:
    """``received`` is a promise: the result follows by webhook.

    One case ends here. Where the shopper never came back, the payment could only have been authorized by our own
    ``/payments/details``: there is nothing to release, no webhook will follow, and that the cancel arrived is all there is.
    """
    request = call.request
    if modification.payment_psp_reference not in (None, request["payment"]):
        return Unknown("mismatch_payment")
    if modification.payment_reference not in (None, request["body"].get("paymentReference")):
        return Unknown("mismatch_payment")
    if modification.reference not in (None, call.operation_id):
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, modification.amount):
        return mismatch
    if modification.status != "received" or not modification.psp_reference:
        return Unknown("status", provider_code=modification.status)
    if request.get("unfinished"):
        return Approved(modification.psp_reference, call.amount)
    return Pending(modification.psp_reference)


def disputed(call: Call, answer: DisputeAnswer) -> Outcome:
    """What the Disputes API says in its body: its HTTP status is 200 either way."""
    result = answer.dispute_service_result
    if result.success:
        return Approved(call.request["body"]["disputePspReference"], call.amount)
    return Declined(refused((result.error_message or "")[:100] or None))


def failure(error: Any, call: Call) -> Outcome:
    """An SDK error by the table. Its class decides nothing: 404 and 500 share one."""
    status, code = int(error.status_code or 0), str(error.error_code or "")
    verdict = ERRORS.get((status, code)) or ERRORS.get((status, ANY), "unknown")
    authorize = call.kind is Kind.AUTHORIZE
    match verdict:
        case "credentials" | "rate_limited":
            return NotProcessed(verdict, code or None)
        case "declined" | "refused" if authorize and call.request["verb"] == "details":
            # Of what the shopper brought back: the challenge stays open. Adyen keeps the first answer under a key, so this one
            # says that it never obeyed them.
            return NotProcessed("rejected", code, conclusive=True)
        case "declined" if authorize:
            found = look_up(DECLINES, CARD_ERRORS[code])
            return Declined(replace(found, provider_code=code))
        case "refused" if authorize:
            return NotProcessed("rejected", code)
        case "refused":
            return Declined(refused(code))
        case "declined" | "unknown":
            # https://docs.adyen.com/development-resources/api-idempotency: send again only if told to
            again = str((error.headers or {}).get("transient-error", "")).lower() == "true"
            return Unknown(f"http_{status}", resend=again, provider_code=code or None)
        case _:
            assert_never(verdict)


def refused(code: str | None) -> Decline:
    """The decline of what follows a payment: Adyen's own word, and nothing that a shopper could change."""
    return Decline("provider_refused", "hard", Action.DO_NOT_RETRY, code)


def _other_money(call: Call, amount: Amount | None) -> Unknown | None:
    """Adyen may leave the amount out, also of an `Authorised` (its own examples do)."""
    if amount is None:
        return None
    if amount.currency != call.amount.currency:
        return Unknown("mismatch_currency")
    same = amount.value == to_provider(call.amount, UNITS)
    return None if same else Unknown("mismatch_amount")


# --- What additionalData tells ------------------------------------------------------------------
# https://docs.adyen.com/api-explorer/Checkout/72/post/payments#responses-200-additionalData: each field comes only where the
# merchant account is set to show it.


def approved(psp: str, amount: Money, data: Mapping[str, Any], *, captured: bool) -> Approved:
    """It happened, with what is told beside it. Never a token: whoever may trust that one adds it."""
    return Approved(
        provider_id=psp,
        amount=amount,
        captured=captured,
        network_transaction_id=text(data, "networkTxReference"),
        auth_code=text(data, "authCode"),
        avs=text(data, "avsResult"),
        cvc=text(data, "cvcResult"),
        card=card_facts(data),
        three_d_secure=_authentication(data),
    )


def _token(call: Call, data: Mapping[str, Any]) -> str | None:
    """The stored payment method with the shopper it belongs to: one is of no use without the other."""
    stored = text(data, "tokenization.storedPaymentMethodId") or text(data, "recurring.recurringDetailReference")
    shopper = (
        text(data, "tokenization.shopperReference")
        or text(data, "recurring.shopperReference")
        or text(data, "shopperReference")
        or call.request["body"].get("shopperReference")
    )
    return f"{shopper}/{stored}" if stored and shopper else None


_TRANS_STATUS: Final[Mapping[str, Any]] = {
    "Y": "authenticated",
    "A": "attempted",
    "I": "exempted",
    "U": "not_supported",
    "N": "failed",
    "R": "failed",
}
"""EMVCo's transStatus."""


def _authentication(data: Mapping[str, Any]) -> ThreeDSecure | None:
    """``threeDOfferedResponse`` is what the directory said, ``threeDAuthenticatedResponse`` what the issuer said in the end."""
    exempted = text(data, "scaExemptionRequested")
    if text(data, "threeDOffered") != "true":
        return ThreeDSecure("exempted") if exempted else None
    challenged = text(data, "threeDOfferedResponse") == "C"
    fallback = "Y" if text(data, "threeDAuthenticated") == "true" else "U"
    letters = (text(data, "threeDAuthenticatedResponse"), text(data, "threeDOfferedResponse"), fallback)
    return ThreeDSecure(
        result=next(_TRANS_STATUS[letter] for letter in letters if letter and letter in _TRANS_STATUS),
        flow="challenge" if challenged else "frictionless",
        version=text(data, "threeDSVersion"),
        eci=text(data, "eci"),
    )


def decline(code: str | None, data: Mapping[str, Any]) -> Decline:
    """The refusal by Adyen's code, and what the card network advises above it."""
    network_code = _leading(data, "refusalReasonRaw")
    advice = ADVICE["mastercard"].get(_leading(data, "merchantAdviceCode") or "")
    if advice is None and (text(data, "paymentMethod") or "").startswith(("visa", "electron")):
        advice = ADVICE["visa"].get(network_code or "")
    return replace(look_up(DECLINES, code).advised(advice), network_code=network_code)


def _leading(data: Mapping[str, Any], name: str) -> str | None:
    """The code before the words, as in "05 : Do not honor" and "03: Do not try again". Without a code there are only words."""
    found = re.match(r"\s*([0-9A-Z]{2,4})\s*(:|$)", text(data, name) or "")
    return found.group(1) if found else None


BRANDS: Final[Mapping[str, str]] = {"mc": "mastercard", "cup": "unionpay"}


def card_facts(data: Mapping[str, Any]) -> CardFacts | None:
    """The card, if the merchant account is set to show it."""
    brand, last4 = text(data, "paymentMethod"), text(data, "cardSummary")
    if brand is None and last4 is None:
        return None
    month, _, year = (text(data, "expiryDate") or "").partition("/")
    return CardFacts(
        brand=BRANDS.get(brand or "", brand),
        bin=text(data, "cardBin"),
        last4=last4,
        exp_month=int(month) if re.fullmatch("[0-9]{1,2}", month) else None,
        exp_year=int(year) if re.fullmatch("[0-9]{4}", year) else None,
        funding=(text(data, "fundingSource") or "").lower() or None,
        country=text(data, "cardIssuingCountry") or text(data, "issuerCountry"),
    )


def text(data: Mapping[str, Any], name: str) -> str | None:
    """A field that is a text and not empty."""
    value = data.get(name)
    return value if isinstance(value, str) and value else None


def _next_action(action: Mapping[str, Any]) -> Mapping[str, Any]:
    """A redirect as the API says it; all else is for Adyen's own components in the browser."""
    if action.get("type") != "redirect" or not action.get("url"):
        return {"type": "use_adyen_sdk", "use_adyen_sdk": dict(action)}
    redirect = {"url": action["url"]}
    if action.get("method", "GET") != "GET":
        redirect |= {"method": action["method"], "data": action.get("data") or {}}
    return {"type": "redirect_to_url", "redirect_to_url": redirect}
