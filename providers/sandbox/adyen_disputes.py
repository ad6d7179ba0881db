"""Disputes at the simulated Adyen: how they come about, and the Disputes API v30.

A payment whose holder name asks for one (``adyen_dispute`` in ``triggers``) is disputed once it is captured. Defending it
leads to what its row in ``test_triggers.json`` says; accepting it ends its defence period. The API answers 200 and says
in ``disputeServiceResult`` whether it did what it was asked.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from providers.sandbox.adyen_objects import Payment, brand, new_psp_reference
from providers.sandbox.answers import Answer
from providers.sandbox.desk import Call, json_answer
from providers.sandbox.faults import Subject
from providers.sandbox.triggers import AdyenDispute, adyen_dispute

DEFENSE_DAYS = 18
CONTENT_TYPES = ("application/pdf", "image/jpeg", "image/tiff")
DEFENSES = {"SupplyDefenseMaterial": ("DefenseMaterial",), "DuplicateChargeback": ()}
"""Defense reason codes, each with the document types of which one is needed."""
REASONS = {
    "10.4": "Other Fraud-Card Absent Environment",
    "13.1": "Merchandise/Services Not Received",
    "13.3": "Not as Described or Defective Merchandise/Services",
}
STATUSES = {
    "REQUEST_FOR_INFORMATION": "Unresponded",
    "NOTIFICATION_OF_CHARGEBACK": "Undefended",
    "CHARGEBACK": "Undefended",
    "INFORMATION_SUPPLIED": "Pending",
    "CHARGEBACK_REVERSED": "Pending",
    "SECOND_CHARGEBACK": "Lost",
    "DISPUTE_DEFENSE_PERIOD_ENDED": "Accepted",
}
"""disputeStatus by event code: https://docs.adyen.com/risk-management/disputes-api/dispute-notifications"""

Notify = Callable[..., None]


@dataclass(slots=True)
class Dispute:
    """One dispute: whose payment, its course, and what was brought against it."""

    payment: Payment
    course: AdyenDispute
    amount: int
    ends_at: datetime
    open: bool = True
    documents: set[str] = field(default_factory=set)
    psp_reference: str = field(default_factory=new_psp_reference)


class AdyenDisputes:
    """All disputes of one merchant account."""

    def __init__(self, notify: Notify, now: Callable[[], float]) -> None:
        """``notify`` posts one event of a payment, as :class:`~providers.sandbox.adyen_psp.AdyenPsp` does."""
        self._notify = notify
        self._now = now
        self._disputes: dict[str, Dispute] = {}

    def clear(self) -> None:
        """Forget every dispute."""
        self._disputes.clear()

    def raised(self, payment: Payment, amount: int, call: Call) -> None:
        """Dispute what was just captured, if the holder name asks for it."""
        course = adyen_dispute(payment.holder_name, brand(payment.card))
        if course is None:
            return
        ends_at = datetime.fromtimestamp(self._now(), UTC) + timedelta(days=DEFENSE_DAYS)
        dispute = Dispute(payment, course, amount, ends_at, open=bool(course.defended))
        self._disputes[dispute.psp_reference] = dispute
        self._tell(dispute, course.events, call)

    def subject(self, operation: str) -> Callable[[Mapping[str, Any], str], tuple[Subject, str | None]]:
        """What a request is about, for faults and the log."""

        def found(params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
            dispute = self._disputes.get(str(params.get("disputePspReference")))
            if dispute is None:
                return Subject(operation=operation), None
            card = dispute.payment.card
            return Subject(operation=operation, currency=dispute.payment.currency, bin=card.number), card.masked

        return found

    # -- the Disputes API

    def reasons(self, call: Call) -> Answer:
        """POST /retrieveApplicableDefenseReasons."""
        dispute = self._found(call)
        if dispute is None:
            return _answer("Dispute was not found")
        reasons = [
            {
                "defenseReasonCode": code,
                "satisfied": not types or bool(dispute.documents & set(types)),
                "defenseDocumentTypes": [
                    {
                        "defenseDocumentTypeCode": each,
                        "requirementLevel": "OneOrMore",
                        "available": each in dispute.documents,
                    }
                    for each in types
                ],
            }
            for code, types in DEFENSES.items()
        ]
        return _answer(None, defenseReasons=reasons)

    def supply(self, call: Call) -> Answer:
        """POST /supplyDefenseDocument: all documents or none. One of a type that is there takes its place."""
        dispute = self._found(call)
        documents = call.params.get("defenseDocuments")
        if dispute is None:
            return _answer("Dispute was not found")
        if not isinstance(documents, list) or not all(isinstance(each, dict) for each in documents) or not documents:
            return _answer("Defense documents are missing")
        for document in documents:
            if document.get("contentType") not in CONTENT_TYPES:
                return _answer("Invalid content type")
            if not _is_base64(document.get("content")):
                return _answer("Invalid document content")
        dispute.documents |= {str(each.get("defenseDocumentTypeCode")) for each in documents}
        return _answer(None)

    def delete(self, call: Call) -> Answer:
        """POST /deleteDisputeDefenseDocument."""
        dispute, kind = self._found(call), str(call.params.get("defenseDocumentType"))
        if dispute is None or kind not in dispute.documents:
            return _answer("Defense document was not found")
        dispute.documents.remove(kind)
        return _answer(None)

    def defend(self, call: Call) -> Answer:
        """POST /defendDispute: once, with a reason that applies and the documents that it needs."""
        dispute, reason = self._found(call), str(call.params.get("defenseReasonCode"))
        if dispute is None:
            return _answer("Dispute was not found")
        if not dispute.open:
            return _answer("Dispute is not in a defendable state")
        if reason not in DEFENSES:
            return _answer("Defense reason code is not applicable")
        if DEFENSES[reason] and not dispute.documents & set(DEFENSES[reason]):
            return _answer("Required defense documents are missing")
        dispute.open = False
        self._tell(dispute, dispute.course.defended, call)
        return _answer(None)

    def accept(self, call: Call) -> Answer:
        """POST /acceptDispute: once."""
        dispute = self._found(call)
        if dispute is None:
            return _answer("Dispute was not found")
        if not dispute.open:
            return _answer("Dispute cannot be accepted in its current state")
        dispute.open = False
        self._tell(dispute, ("DISPUTE_DEFENSE_PERIOD_ENDED",), call)
        return _answer(None)

    # -- shared

    def _found(self, call: Call) -> Dispute | None:
        return self._disputes.get(str(call.params.get("disputePspReference")))

    def _tell(self, dispute: Dispute, events: tuple[str, ...], call: Call) -> None:
        payment, code = dispute.payment, dispute.course.reason_code
        for event in events:
            word = "rfi" if event == "REQUEST_FOR_INFORMATION" else "chargeback"
            additional = {
                f"{word}ReasonCode": code,
                f"{word}SchemeCode": brand(payment.card),
                "disputeStatus": STATUSES[event],
                "modificationMerchantReferences": "",
            }
            if STATUSES[event] in ("Undefended", "Unresponded"):
                additional |= {
                    "defendable": "true",
                    "autoDefended": "false",
                    "defensePeriodEndsAt": dispute.ends_at.isoformat(timespec="seconds"),
                }
            self._notify(
                call,
                payment,
                event_code=event,
                psp_reference=dispute.psp_reference,
                merchant_reference=payment.reference,
                failure=None,
                reason=REASONS.get(code, "Dispute"),
                amount=dispute.amount,
                additional=additional,
            )


def _answer(problem: str | None, **more: Any) -> Answer:
    result: dict[str, Any] = {"success": problem is None}
    if problem is not None:
        result["errorMessage"] = problem
    return json_answer(200, {"disputeServiceResult": result, **more})


def _is_base64(content: object) -> bool:
    try:
        return isinstance(content, str) and bool(base64.b64decode(content, validate=True))
    except binascii.Error:
        return False
