"""An incident: what a provider says of an operation that cannot be, or that denies what is on record. Pure.

Nothing is changed by it, and nothing of it is believed: it is written down once, told, and closed by a person who has looked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from gateway.ids import INCIDENT, derived_id
from gateway.payment import Operation, Payment
from providers.contract import Approved, Outcome


class IncidentKind(StrEnum):
    """What cannot be."""

    AMOUNT_MISMATCH = "amount_mismatch"
    """A success over another amount, or in another currency, than was asked for."""
    CONTRADICTION = "contradiction"
    """An approval of what had ended without one, or of a void after the capture; the failure of a capture that was refunded since."""
    ANOTHER_ACCOUNT = "another_account"
    """One account speaks of an operation that was asked of another."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident. ``said`` is what was said, in a word that is the same however often it is said."""

    id: str
    merchant_id: str
    livemode: bool
    kind: IncidentKind
    payment_id: str
    operation_id: str
    account: str
    said: str
    details: Mapping[str, Any]
    created_at: datetime
    closed_at: datetime | None = None
    closed_reason: str | None = None


def incident(
    kind: IncidentKind,
    payment: Payment,
    operation: Operation,
    outcome: Outcome,
    now: datetime,
    *,
    account: str,
    source: str,
) -> Incident:
    """What was said of ``operation``, as it stood before. ``account`` is who said it, ``source`` how we heard of it."""
    terms = payment.terms
    word = type(outcome).__name__
    told: dict[str, Any] = {"outcome": word, "provider_id": getattr(outcome, "provider_id", None)}
    if isinstance(outcome, Approved):
        told |= {"amount": outcome.amount.amount_minor, "currency": outcome.amount.currency}
    said = " ".join(str(told[name]) for name in ("outcome", "amount", "currency") if name in told)
    if kind is IncidentKind.ANOTHER_ACCOUNT:
        said = f"{account} {said}"
    return Incident(
        id=derived_id(INCIDENT, now, operation.id, kind, said),
        merchant_id=terms.merchant_id,
        livemode=terms.livemode,
        kind=kind,
        payment_id=terms.id,
        operation_id=operation.id,
        account=account,
        said=said,
        details={
            "source": source,
            "said": told,
            "known": {
                "kind": operation.kind,
                "account": operation.account,
                "status": operation.status,
                "amount": operation.amount,
                "currency": terms.currency,
                "amount_captured": payment.amount_captured,
            },
        },
        created_at=now,
    )
