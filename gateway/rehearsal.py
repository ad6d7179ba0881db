"""What a version would do, before it is in force: what lint says of it, what it changes, and how it decides one payment.

Nothing here writes, and nobody is asked. A payment that was made is decided on what was known of it when it was: its record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway import routes
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.explained import decision_object
from gateway.ids import PAYMENT, new_id
from gateway.payment import Payment, Terms
from gateway.routing_books import Version
from providers.contract import Capability
from routing.decision import Decision, Facts
from routing.diff import diff
from routing.document import Document, Faulty, read
from routing.lint import ERROR, AccountFacts, Finding, lint


@dataclass(frozen=True, slots=True)
class Described:
    """A payment in words: what rules may look at, and who could take it. Amounts in minor units.

    ``tokens`` are the accounts that know the payment method; ``None`` where a card is at hand, which any account takes.
    """

    amount: int
    currency: str
    at: datetime
    country: str | None = None
    brand: str | None = None
    funding: str | None = None
    bin: str | None = field(default=None, repr=False)
    issuer_country: str | None = None
    initiator: str = "customer"
    recurring: str | None = None
    three_d_secure: str = "automatic"
    capture_method: str = "automatic"
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    tokens: Sequence[str] | None = None
    payment_id: str | None = None


# --- Lint -------------------------------------------------------------------------------------------------------------


def findings(version: Version, deps: Deps) -> list[Finding]:
    """What is to be said of a version here: errors, which keep it from being published, warnings and hints."""
    return lint(version.document or {}, accounts_of(version.merchant_id, deps, livemode=version.livemode))


def accounts_of(merchant_id: str, deps: Deps, *, livemode: bool) -> dict[str, AccountFacts]:
    """What lint knows of a merchant's accounts."""
    return {
        account.name: AccountFacts(account.currencies, frozenset(str(each) for each in Capability if account.can(each)))
        for account in deps.accounts_of(merchant_id, livemode=livemode)
    }


def lint_object(version: Version, found: Sequence[Finding]) -> dict[str, Any]:
    """What lint says, as the API shows it."""
    return {
        "object": "routing_lint",
        "config": version.id,
        "publishable": not any(each.level == ERROR for each in found),
        "findings": [each.record() for each in found],
    }


def check_publishable(version: Version, deps: Deps) -> None:
    """Raises :class:`Problem` (422) for a version that lint finds an error in."""
    errors = [each for each in findings(version, deps) if each.level == ERROR]
    if errors:
        first = errors[0]
        more = "" if len(errors) == 1 else f" There are {len(errors) - 1} more errors."
        detail = f"{first.pointer or 'The document'}: {first.message} {first.fix}{more}"
        raise Problem("routing_not_publishable", detail, extra={"errors": [each.record() for each in errors]})


# --- Diff -------------------------------------------------------------------------------------------------------------


def diff_object(version: Version, against: Version | None) -> dict[str, Any]:
    """What ``version`` says otherwise than ``against``, one change each. Against nothing all of it is new.

    Raises :class:`Problem` (422) where one of them cannot be read.
    """
    after = _document(version)
    changes = [] if against is None else [each.record() for each in diff(_document(against), after)]
    return {
        "object": "routing_diff",
        "config": version.id,
        "against": None if against is None else against.id,
        "same": against is not None and not changes,
        "changes": changes,
    }


# --- Dry run ----------------------------------------------------------------------------------------------------------


def described_run(version: Version, described: Described, deps: Deps) -> dict[str, Any]:
    """How ``version`` would decide a payment in words. Raises :class:`Problem` (422) where it cannot be read."""
    terms = Terms(
        id=described.payment_id or new_id(PAYMENT),
        merchant_id=version.merchant_id,
        livemode=version.livemode,
        amount=described.amount,
        currency=described.currency,
        capture_method=described.capture_method,
        off_session=described.initiator == "merchant",
        created_at=described.at,
        recurring=described.recurring,
        three_d_secure=described.three_d_secure,
        metadata=described.metadata,
    )
    known = Facts(
        payment_id=terms.id,
        merchant_id=terms.merchant_id,
        livemode=terms.livemode,
        amount=terms.amount,
        currency=terms.currency,
        at=described.at,
        country=described.country,
        brand=described.brand,
        funding=described.funding,
        bin=described.bin,
        issuer_country=described.issuer_country,
        initiator=described.initiator,
        recurring=described.recurring,
        three_d_secure=described.three_d_secure,
        metadata=described.metadata,
    )
    able = routes.able(terms, frozenset(described.tokens or ()), deps, has_card=described.tokens is None)
    return _run(version, known, able, None, deps)


def recorded_run(version: Version, payment: Payment, deps: Deps) -> dict[str, Any]:
    """How ``version`` would have decided a payment that was made.

    Raises :class:`Problem`: 409 for one of which nothing is on record, 422 where the version cannot be read.
    """
    records = (each.decision for each in payment.attempts if each.decision and "facts" in each.decision)
    try:
        decided = Decision.read(next(records, {}))
    except (KeyError, TypeError, ValueError):
        raise Problem("payment_state", "How this payment was routed is not on record; describe it instead.") from None
    reasons = {each.account: each.ineligible for each in decided.candidates}
    here = deps.accounts_of(version.merchant_id, livemode=version.livemode)
    able = {account.name: reasons[account.name] for account in here if account.name in reasons}
    return _run(version, decided.facts, able, payment, deps)


def _run(
    version: Version, known: Facts, able: Mapping[str, str | None], payment: Payment | None, deps: Deps
) -> dict[str, Any]:
    decision = routes.rehearse(_document(version), version.id, known, able, deps)
    return {
        "object": "routing_dry_run",
        "config": version.id,
        "payment": None if payment is None else payment.terms.id,
        "account": decision.route[0] if decision.route else None,
        "was": None if payment is None else list(payment.route),
        "decision": decision_object(decision),
        "sentence": decision.sentence,
    }


def _document(version: Version) -> Document:
    try:
        return read(version.document or {})
    except Faulty as error:  # it could be read when it was made, by another release
        told = [{"pointer": each.pointer, "message": each.message, "fix": each.fix} for each in error.faults]
        detail = f"Version {version.id} cannot be read by this release."
        raise Problem("routing_document_invalid", detail, extra={"errors": told}) from None
