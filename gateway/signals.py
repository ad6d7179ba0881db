"""What an attempt's first outcome says of its account, in one word: the evidence that routing strategies learn from.

Pure. The word is written once, with the outcome, and stands whatever is heard later (docs/adr/0022-evidence-by-xid8.md): a timeout that turns
out to have been an approval was a timeout, and what has been learned from a row is never unlearned.
"""

from __future__ import annotations

from typing import Final

from gateway.payment import REJECTED, Operation, OperationStatus
from providers.contract import Kind
from providers.declines import Decline

APPROVED: Final = "approved"
DECLINED_PROVIDER: Final = "declined_provider"
DECLINED_CUSTOMER: Final = "declined_customer"
DECLINED_AMBIGUOUS: Final = "declined_ambiguous"
TECHNICAL: Final = "technical"
WORDS: Final = (APPROVED, DECLINED_PROVIDER, DECLINED_CUSTOMER, DECLINED_AMBIGUOUS, TECHNICAL)
"""The words of :mod:`routing.strategies`."""

_OURS: Final = frozenset({"step_not_kept", "account_not_configured", "no_lookup"})
"""Why nobody knows an outcome, where that is our own doing: it says nothing of the account."""
_FAULTS: Final = frozenset({"provider_error", "provider_config"})
"""Declines that are none: the account could not process it, and says so in the form of a decline."""
_ISSUERS: Final = frozenset({"issuer_generic", "issuer_soft", "issuer_unavailable"})
"""Declines whose reason nobody tells: it may be the card, or the way the account presents it."""


def word_of(operation: Operation) -> str | None:
    """What the attempt, as its outcome leaves it, says of its account. ``None`` where it says nothing, or nothing yet.

    What waits for a shopper or a webhook says nothing before its end, and a challenge that nobody finished never does. An outcome
    that nobody knows is ``technical`` at once. Only authorizations speak.
    """
    if operation.kind is not Kind.AUTHORIZE:
        return None
    match operation.status:
        case OperationStatus.AUTHORIZED | OperationStatus.CAPTURED:
            return APPROVED
        case OperationStatus.DECLINED if operation.decline is not None:
            return _word_of_decline(operation.decline)
        case OperationStatus.NOT_PROCESSED if operation.reason == REJECTED:  # the request's fault, or the account's
            return DECLINED_AMBIGUOUS
        case OperationStatus.UNKNOWN if operation.reason in _OURS:
            return None
        case OperationStatus.NOT_PROCESSED | OperationStatus.UNKNOWN:
            return TECHNICAL
        case _:
            return None


def _word_of_decline(decline: Decline) -> str:
    if decline.code in _FAULTS:
        return TECHNICAL
    match decline.evidence:
        case "0":
            return DECLINED_CUSTOMER
        case "1" if decline.code not in _ISSUERS:
            return DECLINED_PROVIDER
        case _:  # half, or the issuer's silence
            return DECLINED_AMBIGUOUS
