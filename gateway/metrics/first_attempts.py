"""The first attempt of each payment, by what came of it: what the alarm for a falling authorization rate counts. Pure.

The rate is ``approved / (approved + declined)``. What was never put before an issuer, what the shopper did not finish and what nobody
knows are told apart, so that no retry, no outage and no abandoned challenge looks like an issuer's no. For everything else there are
the metrics of the API, which are restated; a counter never is: a late approval is counted when it is heard.
"""

from __future__ import annotations

from typing import Final

from gateway.brands import BRANDS
from gateway.payment import OPEN, Operation, Payment
from gateway.rates import (
    APPROVED,
    AUTHENTICATION_FAILED,
    BLOCKED,
    DECLINED,
    TECHNICAL,
    UNKNOWN,
    class_of,
)
from providers.contract import Kind

RESULTS: Final = (APPROVED, DECLINED, AUTHENTICATION_FAILED, BLOCKED, TECHNICAL, UNKNOWN)
"""What came of a first attempt, by the classes of the published rates. One that was ``unknown`` is counted once more when it is known."""

CURRENCIES: Final = frozenset(
    {
        *("AED", "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD"),
        *("INR", "JPY", "MXN", "NOK", "NZD", "PLN", "SEK", "SGD", "USD"),
    }
)
"""The currencies that have a label of their own."""
REST: Final = "other"


def first_result(payment: Payment, before: Operation, after: Operation) -> str | None:
    """What has just come of the payment's first attempt, in one of :data:`RESULTS`; ``None`` where it is none, or nothing yet.

    ``before`` and ``after`` are the same operation. A verification of a payment method, over an amount of zero, is no payment.
    """
    if after.kind is not Kind.AUTHORIZE or payment.terms.amount == 0 or payment.attempts[0].id != after.id:
        return None
    if before.status not in OPEN or before.status is after.status:
        return None
    code = None if after.decline is None else after.decline.code
    result = class_of(after.status, after.reason, code, challenged=after.challenged)
    return result if result in RESULTS else None


def segment(payment: Payment, attempt: Operation) -> tuple[str, str, str]:
    """Where an attempt is counted: its account, and the brand and currency of the payment as far as these are told apart."""
    brand = (payment.card.brand if payment.card is not None else None) or REST
    currency = payment.terms.currency
    return attempt.account, brand if brand in BRANDS else REST, currency if currency in CURRENCIES else REST
