"""Every problem the API answers, in one table, and its one rendering (RFC 9457).

A problem never echoes what was sent: it names the field and the fix. ``retryable`` says whether the same request, under the same
key, may be sent again as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "https://interlock.dev/problems/"


@dataclass(frozen=True, slots=True)
class Sort:
    """One sort of problem: its status, its title, and whether the same request may be sent again."""

    status: int
    title: str
    retryable: bool = False
    retry_after_s: int | None = None


PROBLEMS: Final[Mapping[str, Sort]] = {
    # The request could not be read.
    "malformed_json": Sort(400, "The body is not the JSON we read"),
    "idempotency_key_missing": Sort(400, "An Idempotency-Key is required"),
    "idempotency_key_malformed": Sort(400, "The Idempotency-Key is malformed"),
    "unknown_version": Sort(400, "There is no such API version"),
    "body_too_large": Sort(413, "The body is too large"),
    # Who is asking.
    "unauthenticated": Sort(401, "No valid API key"),
    "forbidden": Sort(403, "This key may not do that"),
    "not_found": Sort(404, "There is nothing here"),
    "method_not_allowed": Sort(405, "This address does not take that method"),
    # What was asked.
    "validation_failed": Sort(422, "A field is wrong"),
    "idempotency_key_reused": Sort(422, "This key was used for another request"),
    "card_not_accepted": Sort(422, "Card numbers are not accepted here"),
    "no_eligible_account": Sort(422, "No account can take this payment"),
    "amount_too_large": Sort(422, "The amount is too large"),
    "capability_missing": Sort(422, "The account cannot do this"),
    "provider_refused": Sort(422, "The provider refused"),
    "routing_document_invalid": Sort(422, "The routing document has faults"),
    "routing_not_publishable": Sort(422, "The routing document does not work here"),
    "monitor_builtin": Sort(422, "A built-in monitor cannot be deleted"),
    # The state of things.
    "request_in_progress": Sort(409, "The same request is being worked on", retryable=True, retry_after_s=2),
    "payment_state": Sort(409, "The payment's state forbids this", retry_after_s=2),
    "simulation_running": Sort(409, "A simulation is under way", retry_after_s=10),
    "not_deliverable": Sort(409, "Nothing is delivered there", retry_after_s=2),
    "payment_changed": Sort(409, "The payment changed meanwhile", retryable=True, retry_after_s=1),
    "routing_state": Sort(409, "The state of routing forbids this", retry_after_s=2),
    "routing_changed": Sort(409, "Other routing is in force than was expected", retry_after_s=2),
    # Nothing happened.
    "provider_unavailable": Sort(503, "No provider could be reached", retryable=True, retry_after_s=5),
    "database_unavailable": Sort(503, "The database cannot be reached", retryable=True, retry_after_s=2),
    "idempotency_unavailable": Sort(503, "The idempotency gate cannot be reached", retryable=True, retry_after_s=2),
    "settlement_stalled": Sort(503, "Nobody settles payments now", retryable=True, retry_after_s=30),
    "vault_unavailable": Sort(503, "The stored card cannot be opened", retryable=True, retry_after_s=30),
    # It may have happened.
    "outcome_in_doubt": Sort(504, "It is not known whether the request was taken", retryable=True, retry_after_s=2),
    # A defect of ours.
    "internal_error": Sort(500, "Something broke on our side", retryable=True, retry_after_s=5),
}


@dataclass(slots=True, eq=False)
class Problem(Exception):
    """A problem on its way to the caller. ``detail`` is our own sentence; ``param`` is the path of the field it is about."""

    code: str
    detail: str
    param: str | None = None
    payment: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sort(self) -> Sort:
        """Its row in the table."""
        return PROBLEMS[self.code]

    def body(self, request_id: str | None = None) -> bytes:
        """The problem document. ``request_id`` is left out of answers that are stored: those are the same for every request."""
        document: dict[str, Any] = {
            "type": TYPE_BASE + self.code,
            "title": self.sort.title,
            "status": self.sort.status,
            "detail": self.detail,
            "code": self.code,
            "param": self.param,
            "retryable": self.sort.retryable,
            **self.extra,
        }
        if request_id is not None:
            document["request_id"] = request_id
        if self.payment is not None:
            document["payment"] = self.payment
        return orjson.dumps(document)

    def headers(self) -> dict[str, str]:
        """``Retry-After`` where waiting helps."""
        return {} if self.sort.retry_after_s is None else {"Retry-After": str(self.sort.retry_after_s)}
