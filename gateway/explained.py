"""Why did it go there? What is recorded of each attempt's way to its account, as the API shows it.

Pure: a payment in, its explanation out. The facts are those of the record, as they were when it was decided; only the sentences are
made anew, so they may read better in a later release. A record that this release cannot read is shown as none, and says so; that of a
shadow leaves the decision beside it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.answers import instant
from gateway.payment import Operation, Payment
from routing.decision import KINDS, WHY_NOT, Candidate, Decision
from routing.retries import Rule

NO_RECORD: Final = "How this account was chosen is not on record: the attempt is older than such records."
NOT_READABLE: Final = "How this account was chosen is on record, in a form that this release cannot read."
SHADOW_NOT_READABLE: Final = "What the shadow would have done is on record, in a form that this release cannot read."

ALLOWED: Final[Mapping[str, str]] = MappingProxyType(
    {
        Rule.FIRST: "it is the payment's first attempt",
        Rule.CONFIRMED: "the payment was confirmed again",
        Rule.SCHEDULED: "it was declined for now, and was to be tried again by itself",
        Rule.CODE_TABLE: "a decline of this code may be tried at another account at once",
        Rule.NOT_PROCESSED: "certainly nothing happened at the account before",
    }
)
"""The rules of :mod:`routing.retries` that allow an attempt, in words."""
_ENDED: Final[Mapping[str, str]] = MappingProxyType(
    {"declined": "declined it", "not_processed": "did not process it", "voided": "has voided its attempt"}
)
"""What the account before has done, in words."""


def routing_object(payment: Payment) -> dict[str, Any]:
    """Every attempt of a payment, oldest first, with why it went where it did."""
    attempts = [_attempt(payment, attempt) for attempt in payment.attempts]
    return {
        "object": "payment_routing",
        "payment": payment.terms.id,
        "route": list(payment.route),
        "attempts": attempts,
        "livemode": payment.terms.livemode,
    }


def _attempt(payment: Payment, attempt: Operation) -> dict[str, Any]:
    record = attempt.decision
    decision = cascade = None
    sentence = NO_RECORD
    if record is not None:
        try:
            if "after" in record:
                cascade = _cascade(record)
                sentence = _followed(payment, attempt, record)
            else:
                decision = decision_object(Decision.read(record), record)
                sentence = decision["sentence"]
        except (KeyError, TypeError, ValueError):
            decision, cascade, sentence = None, None, NOT_READABLE
    return {
        "object": "attempt_routing",
        "attempt": attempt.id,
        "account": attempt.account,
        "round": attempt.round,
        "status": attempt.status,
        "created": instant(attempt.created_at),
        "allowed_by": attempt.allowed_by,
        "decision": decision,
        "cascade": cascade,
        "sentence": sentence,
    }


def decision_object(decision: Decision, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A decision as the API shows it; ``record`` is what is kept with it: versions that could not be read, and a shadow's decision."""
    beside = record or {}
    passed = list(beside.get("unreadable", ()))
    sentence = decision.sentence
    if passed:
        broken = f"version {passed[0]}" if len(passed) == 1 else f"the versions {', '.join(passed)}"
        instead = "the order of the configuration" if decision.version is None else f"version {decision.version}"
        sentence = f"{sentence} {broken[0].upper()}{broken[1:]} could not be read, so {instead} stood in."
    return {
        "version": decision.version,
        "rule": decision.rule,
        "kind": decision.kind,
        "kind_meaning": KINDS.get(decision.kind),
        "strategy": decision.strategy,
        "mode": decision.mode,
        "constraint": decision.constraint,
        "seed": decision.seed,
        "facts": decision.facts.record(),
        "candidates": [_candidate(each) for each in decision.candidates],
        "route": list(decision.route),
        "unreadable_versions": passed,
        "shadow": _shadow(decision, beside.get("shadow")),
        "sentence": sentence,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "account": candidate.account,
        "eligible": candidate.ineligible is None,
        "ineligible_reason": candidate.ineligible,
        "score": candidate.score,
        "interval": None if candidate.low is None else [candidate.low, candidate.high],
        "breaker": candidate.breaker,
        "propensity": candidate.propensity,
        "why_not": candidate.why_not,
        "why_not_meaning": None if candidate.why_not is None else WHY_NOT.get(candidate.why_not),
    }


def _shadow(decision: Decision, kept: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a version that only watched would have decided. It saw the same facts."""
    if kept is None:
        return None
    try:
        shadow = Decision.read({**kept, "facts": decision.facts.record()})
        return {
            "version": shadow.version,
            "rule": shadow.rule,
            "kind": shadow.kind,
            "route": list(shadow.route),
            "same_account": shadow.route[:1] == decision.route[:1],
            "sentence": shadow.sentence,
        }
    except (KeyError, TypeError, ValueError):
        told = dict.fromkeys(("version", "rule", "kind", "route", "same_account"))
        return told | {"sentence": SHADOW_NOT_READABLE}


def _cascade(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "after": record["after"],
        "outcome": record["outcome"],
        "code": record.get("code"),
        "decided_by": record["decided_by"],
    }


def _followed(payment: Payment, attempt: Operation, record: Mapping[str, Any]) -> str:
    """Why another account was asked, and why this one, in one sentence."""
    before = payment.operation(record["after"])
    code = f" ({record['code']})" if record.get("code") else ""
    why = ALLOWED.get(attempt.allowed_by or "", f"the rule {attempt.allowed_by} allows it")
    return (
        f"{attempt.account} is asked because {before.account} {_ENDED[record['outcome']]}{code}: {why}. "
        f"It is the next account in the route that was decided with {record['decided_by']}."
    )
