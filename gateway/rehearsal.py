"""What a version would do, before it is in force: what lint says of it, what it changes, and how it decides one payment.

Nothing here writes, and nobody is asked. A payment that was made is decided on what was known of it when it was: its record.
To read a long document and to look through it takes seconds: a thread does it, and requests are served meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway import routes
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.explained import decision_object
from gateway.payment import Payment, Terms
from gateway.routing_books import Version
from providers.contract import Capability
from routing.decision import Decision, Facts
from routing.diff import diff
from routing.document import Document, Faulty, read
from routing.lint import ERROR, AccountFacts, Finding, lint

# --- Lint -------------------------------------------------------------------------------------------------------------


async def findings(version: Version, deps: Deps) -> list[Finding]:
    """What is to be said of a version here: errors, which keep it from being published, warnings and hints."""
    accounts = accounts_of(version.merchant_id, deps, livemode=version.livemode)
    return await asyncio.to_thread(lint, version.document or {}, accounts)


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


async def check_publishable(version: Version, deps: Deps) -> None:
    """Raises :class:`Problem` (422) for a version that lint finds an error in."""
    errors = [each for each in await findings(version, deps) if each.level == ERROR]
    if errors:
        first = errors[0]
        more = "" if len(errors) == 1 else f" There are {len(errors) - 1} more errors."
        detail = f"{first.pointer or 'The document'}: {first.message} {first.fix}{more}"
        raise Problem("routing_not_publishable", detail, extra={"errors": [each.record() for each in errors]})


# --- Diff -------------------------------------------------------------------------------------------------------------


async def diff_object(version: Version, against: Version | None) -> dict[str, Any]:
    """What ``version`` says otherwise than ``against``, one change each. Against nothing all of it is new.

    Raises :class:`Problem` (422) where one of them cannot be read.
    """
    after = await _document(version)
    changes = [] if against is None else await asyncio.to_thread(diff, await _document(against), after)
    return {
        "object": "routing_diff",
        "config": version.id,
        "against": None if against is None else against.id,
        "same": against is not None and not changes,
        "changes": [each.record() for each in changes],
    }


# --- Dry run ----------------------------------------------------------------------------------------------------------


async def described_run(
    version: Version, known: Facts, deps: Deps, *, capture_method: str, tokens: Collection[str] | None
) -> dict[str, Any]:
    """How ``version`` would decide a payment of which this is ``known``. Raises :class:`Problem` (422) where it cannot be read.

    ``tokens`` are the accounts that know the payment method; ``None`` where a card is at hand, which any account takes.
    """
    terms = Terms(
        id=known.payment_id,
        merchant_id=known.merchant_id,
        livemode=known.livemode,
        amount=known.amount,
        currency=known.currency,
        capture_method=capture_method,
        off_session=known.initiator == "merchant",
        created_at=known.at,
        recurring=known.recurring,
        three_d_secure=known.three_d_secure,
    )
    able = routes.able(terms, tokens or (), deps, has_card=tokens is None)
    return await _run(version, known, able, deps)


async def recorded_run(version: Version, payment: Payment, deps: Deps) -> dict[str, Any]:
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
    return await _run(version, decided.facts, able, deps, was=decided)


async def _run(
    version: Version, known: Facts, able: Mapping[str, str | None], deps: Deps, *, was: Decision | None = None
) -> dict[str, Any]:
    """The decision as it would be, beside the one that ``was`` made of the same payment."""
    decision = routes.rehearse(await _document(version), version.id, known, able, deps)
    return {
        "object": "routing_dry_run",
        "config": version.id,
        "payment": None if was is None else was.facts.payment_id,
        "account": decision.route[0] if decision.route else None,
        "was": None if was is None else list(was.route),
        "decision": decision_object(decision),
        "sentence": decision.sentence,
    }


async def _document(version: Version) -> Document:
    try:
        return await asyncio.to_thread(read, version.document or {})
    except Faulty as error:  # it could be read when it was made, by another release
        told = [{"pointer": each.pointer, "message": each.message, "fix": each.fix} for each in error.faults]
        detail = f"Version {version.id} cannot be read by this release."
        raise Problem("routing_document_invalid", detail, extra={"errors": told}) from None
