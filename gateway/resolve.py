"""Resolving: a person settles what no machine could tell, with a reason and the evidence they found.

The last step of the ladder. Only an operation that was put in review may be resolved, and the account is asked once more before
the person is believed: what it tells then stands above what they say. Whatever is told later is compared with it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from gateway import lifecycle
from gateway.answers import Answer, instant, resolution_answer
from gateway.books import KeyUse, Written
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.keys import in_progress, seal_answer, stored_answer
from gateway.lifecycle import NoChange
from gateway.payment import Operation, Payment
from gateway.settle import NEWS_FROM_OUTSIDE, count_settled, learned, look_up, open_certainly, read, record, take_over
from idempotency.key import Key
from providers.contract import Approved, Declined, Kind, Outcome, Pending, Unknown
from providers.declines import Action, Decline
from providers.money import Money

_NOT_EXECUTED: Final = Decline("not_sent", "hard", Action.DO_NOT_RETRY, "resolved")
_NAMED: Final = frozenset({Kind.AUTHORIZE, Kind.CAPTURE, Kind.REFUND})
"""What moves money has a name at its provider: without it nobody could follow the money."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a person found out about an operation in review; ``operation_id`` may be left out where only one is."""

    key: Key
    fingerprint: bytes
    payment_id: str
    operation_id: str | None
    outcome: Literal["succeeded", "failed"]
    provider_id: str | None
    reason: str
    evidence: str
    by: str
    """The id of the API key that it was said with."""


async def resolve(command: Resolution, deps: Deps) -> Answer:
    """Settle an operation by a person's word, once. Safe to call again with the same command.

    Raises :class:`Problem`: 409 where nothing is in review, somebody is at work on it, or the account has told by itself; 422 where
    the provider's id is missing.
    """
    claim = await deps.once.claim(command.key)
    decided = False
    try:
        used = await deps.queries.used_key(command.key)
        if used is None and not claim.fresh:
            raise in_progress()
        answer = None if used is None else stored_answer(command.key, command.fingerprint, used, deps)
        answer = answer or await _settle(command, deps)
        decided = True
        return answer
    finally:
        await claim.let_go(decided=decided)


async def _settle(command: Resolution, deps: Deps) -> Answer:
    payment = await read(command.payment_id, deps)
    operation = _in_review(payment, command.operation_id)
    outcome = _outcome(command, payment, operation)
    taken = await take_over(payment, operation, deps)
    if taken is None:
        raise in_progress()
    payment, operation = taken.payment, taken.operation
    told = await look_up(taken, deps)
    if not isinstance(told, Unknown | Pending):
        recorded = await record(payment, operation, told, source="look_up", deps=deps)
        if recorded is None:
            raise Problem(
                "database_unavailable", "Nothing was resolved. Send the same request with the same key again."
            )
        raise Problem("payment_state", "The account has just told what became of it: read the payment.")
    now = deps.clock()
    news = {operation.id: outcome} if operation.kind is Kind.AUTHORIZE else {}
    plan = payment.plan(news, budget=deps.budget(payment.terms))
    change = lifecycle.decide(payment, operation.id, outcome, plan, driven=False, now=now)
    if isinstance(change, NoChange):
        raise Problem("payment_state", f"This cannot be said of it: {change.reason}.")
    change = lifecycle.resolved(change, operation, _found(command, instant(now)))
    settled = change.payment.operation(operation.id)
    answer = resolution_answer(change.payment, deps.keys)
    write = partial(
        deps.books.write,
        payment,
        change,
        source="operator",
        settled=settled,
        key=KeyUse(command.key, command.fingerprint, None, (answer.status, seal_answer(answer, command.key, deps))),
        learned=learned(change, settled, outcome, NEWS_FROM_OUTSIDE) if operation.kind is Kind.AUTHORIZE else None,
    )
    if await open_certainly(write, payment.terms.id, "", deps) is Written.DONE:
        count_settled(change.payment, operation, settled, deps)
        return answer
    raise Problem("payment_changed", "The payment changed meanwhile. Read it, and send the same request again.")


def _in_review(payment: Payment, operation_id: str | None) -> Operation:
    """The operation that is meant. Raises :class:`Problem` where it is not in review, or several are."""
    waiting = [op for op in payment.operations if op.in_review and operation_id in {None, op.id}]
    if len(waiting) > 1:
        raise Problem("validation_failed", "Several operations are in review; say which one.", "operation")
    if not waiting:
        raise Problem(
            "payment_state",
            "Nothing of this payment is in review: an outcome is put there once nobody could tell it for a day.",
        )
    return waiting[0]


def _outcome(command: Resolution, payment: Payment, operation: Operation) -> Outcome:
    """What the person's word means. Raises :class:`Problem` where the provider's id is missing."""
    if command.outcome == "failed":
        return Declined(_NOT_EXECUTED)
    provider_id = command.provider_id or operation.provider_id or ""
    if not provider_id and operation.kind in _NAMED:
        raise Problem("validation_failed", "Say what the provider calls it.", "provider_id")
    automatic = operation.kind is Kind.AUTHORIZE and payment.terms.capture_method == "automatic"
    return Approved(provider_id, Money(operation.amount, payment.terms.currency), captured=automatic)


def _found(command: Resolution, at: str | None) -> Mapping[str, Any]:
    return {
        "outcome": command.outcome,
        "reason": command.reason,
        "evidence": command.evidence,
        "by": command.by,
        "at": at,
    }
