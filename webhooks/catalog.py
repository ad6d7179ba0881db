"""The catalogue of what merchants are told: every type of event, and when it is sent.

What a merchant has just asked for is no event: it has the answer. What comes of it for a payment is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

EVENTS: Final[Mapping[str, str]] = {
    "payment.requires_action": "The shopper has to authenticate.",
    "payment.requires_capture": "Authorized: the amount is held and waits for a capture.",
    "payment.requires_payment_method": "Declined, or not completed; it may be tried again.",
    "payment.requires_confirmation": "It may be confirmed again.",
    "payment.processing": "The provider has accepted it and will tell the end later.",
    "payment.retry_scheduled": "Declined for now: it is tried again by itself at `next_retry_at`.",
    "payment.unknown": "Nobody can tell yet what came of it. Never treat it as failed: one of the others follows.",
    "payment.needs_review": "Nobody could tell for a day what came of an operation: a person has to find out.",
    "payment.succeeded": "The money is captured.",
    "payment.canceled": "It was canceled, or ran out, and holds nothing.",
    "payment.failed": "It has failed for good, and holds nothing.",
    "payment.updated": "Its amount was changed; or a cancel or an increment that was on its way has failed, and it stays as it is.",
    "payment.fraud_warning": "The issuer has reported fraud: a dispute may follow, and a refund may prevent it.",
    "payment.review_opened": "People at the provider look at it.",
    "payment.review_closed": "People at the provider have looked at it; `reason` says what came of it.",
    "attempt.declined": "One account declined; another one may be asked.",
    "attempt.not_processed": "One account certainly did nothing; another one may be asked.",
    "attempt.unknown": "Nobody can tell yet what came of an attempt.",
    "attempt.voided": "An attempt was released.",
    "attempt.expired": "An attempt ran out.",
    "capture.pending": "The provider has accepted a capture and will tell the end later.",
    "capture.unknown": "Nobody can tell yet what came of a capture.",
    "capture.succeeded": "A capture took its amount.",
    "capture.failed": "A capture failed, now or after all.",
    "refund.pending": "The provider has accepted a refund and will tell the end later.",
    "refund.unknown": "Nobody can tell yet what came of a refund.",
    "refund.succeeded": "A refund gave its amount back.",
    "refund.failed": "A refund failed, now or after all: its amount may be refunded again.",
    "dispute.created": "A shopper disputes a payment, or their bank asks about it.",
    "dispute.updated": "A dispute has moved.",
    "dispute.closed": "A dispute has ended: won, lost or closed.",
    "payment_method.updated": "An account has replaced its card, or charges its token no more.",
    "incident.opened": "A provider says what cannot be: it was not believed, and a person has to look.",
    "monitor.incident_opened": "A monitor has found that fewer payments come in or are approved than should: `loss_per_hour` and `look` say what it costs and where to look.",
    "monitor.incident_escalated": "An incident of a monitor has become worse: a ticket is a page now.",
    "monitor.incident_closed": "An incident of a monitor is over; `closed_reason` says how.",
    "report.available": "A provider has a report about settled money.",
    "routing.version_published": "A routing config was published, scheduled or rolled back to; `starts_at` says from when.",
    "routing.approval_requested": "A publication of a routing config waits for another key's approval.",
    "routing.publication_withdrawn": "A publication was withdrawn before it started, or a shadow ended.",
    "webhook_endpoint.failing": "An endpoint has failed for one, three or five days.",
    "webhook_endpoint.disabled": "An endpoint was switched off: it said it is gone, or failed for five days.",
    "webhook_endpoint.test": "You asked for it, to see that you get it.",
}
"""By type, what it says."""
ALL: Final = "*"
"""What stands for every type, also those of a later release."""


def types_of(wanted: Iterable[str]) -> frozenset[str]:
    """The types that ``wanted`` stand for: types, families such as ``payment.*``, or :data:`ALL`. None where it is none of these."""
    names = {*wanted}
    return frozenset(type_ for type_ in EVENTS if names & {type_, family_of(type_), ALL})


def family_of(type_: str) -> str:
    """The name of all types about the same thing: ``payment.*`` of ``payment.succeeded``."""
    return f"{type_.partition('.')[0]}.*"
