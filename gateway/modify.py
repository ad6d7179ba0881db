"""Capture, cancel, refund, another amount, an answer to a dispute: the shape of a charge without routing.

The amount is reserved in the commit that opens the operation, under a constraint of the database, so two captures that race in two
processes cannot exceed the authorization even if both calls went out. The account is the one that holds the money.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, assert_never

import structlog

from gateway import lifecycle, tracing
from gateway.answers import Answer, follow_up_answer
from gateway.books import KeyUse, Request, Written
from gateway.deps import Deps
from gateway.disputes import ANSWERABLE, Dispute, answered
from gateway.errors import Problem
from gateway.ids import ACCEPTANCE, CAPTURE, DEFENSE, INCREMENT, REFUND, VOID, new_id
from gateway.keys import decided_once, in_progress, seal_answer, stored_answer
from gateway.lifecycle import Change
from gateway.payment import ANSWERS_DISPUTE, FAILOVER, IN_FLIGHT, Operation, OperationStatus, Payment, Status
from gateway.queries import UsedKey
from gateway.settle import DECISIONS_MAX, look, open_certainly, read, record, send, take_over
from gateway.sql import DATABASE_LOST
from gateway.vault import Keyring
from idempotency.key import Key
from providers.contract import (
    Accept,
    Ask,
    Capability,
    Capture,
    Defend,
    Document,
    Increment,
    Kind,
    NotProcessed,
    Outcome,
    Refund,
    Void,
)
from providers.money import Money

log = structlog.get_logger()

PREFIX: Final[Mapping[Kind, str]] = {
    Kind.CAPTURE: CAPTURE,
    Kind.VOID: VOID,
    Kind.REFUND: REFUND,
    Kind.INCREMENT: INCREMENT,
    Kind.DEFEND: DEFENSE,
    Kind.ACCEPT: ACCEPTANCE,
}


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A request about a payment that is there. ``amount`` in minor units; ``None`` is all that is left.

    Of an increment it is the new total. ``dispute`` is the one that is defended, with ``evidence``, or accepted.
    """

    key: Key
    fingerprint: bytes
    payment_id: str
    kind: Kind
    amount: int | None = None
    final: bool = True
    reason: str | None = None
    metadata: Mapping[str, str] | None = None
    dispute: Dispute | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is said and shown against a dispute. ``text`` by the provider's field names, ``reason`` its defense reason code."""

    text: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A committed operation that is ours to send."""

    payment: Payment
    operation: Operation
    request: Mapping[str, Any] = field(repr=False)
    first_send: bool


async def modify(command: FollowUp, deps: Deps) -> Answer:
    """Do what ``command`` asks once. Safe to call again with the same command at any moment, also after a crash.

    Raises :class:`Problem` where the payment's state or amount forbids it; then nothing was done and the key is free.
    """
    claim = await deps.once.claim(command.key)
    decided = False
    try:
        used = await deps.queries.used_key(command.key)
        if used is None and not claim.fresh:
            raise in_progress()
        work = await (_open(command, deps) if used is None else _resume(command, used, deps))
        if isinstance(work, Work):
            outcome = await send(work.payment, work.operation, work.request, deps, first_send=work.first_send)
            work = await _record(command, work, outcome, deps)
        decided = work.decided
        return work
    finally:
        await claim.let_go(decided=decided)


async def _open(command: FollowUp, deps: Deps) -> Work | Answer:
    """Reserve and commit. Another writer may come first: then the payment is read and judged again."""
    for _ in range(DECISIONS_MAX):
        payment = await read(command.payment_id, deps)
        await _answerable(command, deps)
        try:
            change, work = _ask(payment, command, deps)
        except lifecycle.Refused as refused:
            if await deps.queries.used_key(command.key) is not None:  # the same request, a moment earlier, is why
                raise in_progress() from None
            raise Problem(refused.code, str(refused), refused.param) from None
        use = KeyUse(command.key, command.fingerprint)
        opened, result = None, work or follow_up_answer(change.payment, None, deps.keys)
        if isinstance(result, Work):
            use = replace(use, operation_id=result.operation.id)
            opened = (result.operation, seal(result.payment, result.operation, result.request, deps))
        elif result.decided:
            use = replace(use, answer=(result.status, seal_answer(result, command.key, deps)))
        write = partial(deps.books.write, payment, change, source="api", opened=opened, key=use)
        operation_id = result.operation.id if isinstance(result, Work) else ""
        match await open_certainly(write, payment.terms.id, operation_id, deps):
            case Written.DONE:
                return result
            case Written.KEY_USED:
                raise in_progress()
            case Written.STALE | Written.CARD_KNOWN:
                continue
    raise Problem("payment_changed", "The payment kept changing. Send the same request again.")


async def _answerable(command: FollowUp, deps: Deps) -> None:
    """Refuse to answer a dispute that is over, as it stands now. Raises :class:`Problem` (409)."""
    dispute = None if command.dispute is None else await deps.queries.dispute(command.dispute.id)
    if dispute is not None and dispute.status not in ANSWERABLE:
        raise Problem("payment_state", f"A dispute that is {dispute.status} cannot be answered any more.")


def _ask(payment: Payment, command: FollowUp, deps: Deps) -> tuple[Change, Work | None]:
    """What the command changes, and what has to be sent for it. Raises :class:`lifecycle.Refused`."""
    now = deps.clock()
    if command.kind is Kind.VOID and not _to_release(payment):
        return lifecycle.cancel_opened(payment, None, command.reason, now), None
    operation = open_operation(
        payment,
        command.kind,
        _amount(payment, command),
        deps,
        final=command.final,
        metadata=command.metadata if command.dispute is None else {"dispute": command.dispute.id},
    )
    match command.kind:
        case Kind.CAPTURE:
            change = lifecycle.capture_opened(payment, operation, now)
        case Kind.REFUND:
            change = lifecycle.refund_opened(payment, operation, now)
        case Kind.VOID:
            change = lifecycle.cancel_opened(payment, operation, command.reason, now)
        case Kind.INCREMENT:
            change = lifecycle.increment_opened(payment, operation, now)
        case Kind.DEFEND | Kind.ACCEPT:
            change = lifecycle.dispute_answered(payment, operation, now)
        case Kind.AUTHORIZE:
            raise AssertionError("an authorization is a charge")
        case _:
            assert_never(command.kind)
    _possible(payment, operation, command, deps)
    return change, Work(change.payment, operation, compose(payment, operation, deps, command), first_send=True)


def _to_release(payment: Payment) -> bool:
    """Whether a cancel has something to release at a provider, and nobody is doing that already."""
    if payment.status is Status.REQUIRES_ACTION:
        closing = bool(payment.open_voids) and not payment.cancel_requested
        return payment.open_attempt is not None and not closing
    return payment.status is Status.REQUIRES_CAPTURE


def _amount(payment: Payment, command: FollowUp) -> int:
    if command.amount is not None:
        return command.amount
    match command.kind:
        case Kind.CAPTURE:
            return payment.amount_capturable
        case Kind.REFUND:
            return payment.amount_refundable
        case _ if command.dispute is not None:
            return command.dispute.amount
        case _:
            return payment.terms.amount


def follow_up(
    payment: Payment,
    kind: Kind,
    amount: int,
    operation_id: str,
    keys: Keyring,
    now: datetime,
    *,
    final: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Operation:
    """The operation as it stands when it is committed: on its way, at the account that holds the payment.

    Raises :class:`lifecycle.Refused` where no account has anything to do it to.
    """
    # Some PSPs name an attempt only when it is done; what is not done is voided by our own name for it.
    unfinished = kind is Kind.VOID and payment.status in {Status.REQUIRES_ACTION, Status.PROCESSING}
    if payment.account is None or payment.provider is None or not (payment.provider_payment_id or unfinished):
        raise lifecycle.Refused("payment_state", f"A payment that is {payment.status} has nothing to {kind}.")
    return Operation(
        id=operation_id,
        kind=kind,
        seq=len(payment.operations) + 1,
        round=payment.round,
        account=payment.account,
        provider=payment.provider,
        amount=amount,
        status=OperationStatus.SENT,
        provider_key=keys.provider_key(operation_id),
        final=final,
        metadata=metadata,
        created_at=now,
        trace=tracing.kept() or payment.trace,
    )


def open_operation(
    payment: Payment,
    kind: Kind,
    amount: int,
    deps: Deps,
    *,
    final: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Operation:
    """A new :func:`follow_up` of a configured account. Raises :class:`lifecycle.Refused`."""
    operation_id, now = new_id(PREFIX[kind]), deps.clock()
    operation = follow_up(payment, kind, amount, operation_id, deps.keys, now, final=final, metadata=metadata)
    if operation.account not in deps.accounts:
        raise lifecycle.Refused("payment_state", f"The payment's account {payment.account} is no longer configured.")
    return operation


def _possible(payment: Payment, operation: Operation, command: FollowUp, deps: Deps) -> None:
    """Refuse what the account cannot do, before it is asked. Raises :class:`Problem` naming account and capability."""
    account = deps.accounts[operation.account]
    if operation.kind not in ANSWERS_DISPUTE:
        why = account.provider.refuses(Money(operation.amount, payment.terms.currency))
        if why is not None:
            raise Problem("validation_failed", f"The account {account.name} cannot carry this amount: {why}.", "amount")
    for param, capability in _needs(payment, operation, command):
        if not account.can(capability):
            raise Problem(
                "capability_missing",
                f"The account {account.name} cannot do this (capability {capability}).",
                param,
                extra={"account": account.name, "capability": capability},
            )


Needs = Iterator[tuple[str | None, Capability]]
"""What an account must be able to do, with the field that asks for it."""


def _needs(payment: Payment, operation: Operation, command: FollowUp) -> Needs:
    if operation.kind is Kind.CAPTURE:
        yield from _capture_needs(payment, operation)
    if operation.kind is Kind.REFUND:
        yield from _refund_needs(payment, operation)
    if operation.kind is Kind.INCREMENT:
        higher = operation.amount > payment.amount_authorized
        yield "amount", Capability.INCREMENT if higher else Capability.DECREMENT
    if operation.kind is Kind.ACCEPT:
        yield None, Capability.DISPUTE_ACCEPT
    if command.evidence is not None and command.evidence.text:
        yield "text", Capability.DISPUTE_TEXT
    if command.evidence is not None and (command.evidence.documents or command.evidence.reason):
        yield "documents", Capability.DISPUTE_DOCUMENTS


def _capture_needs(payment: Payment, operation: Operation) -> Needs:
    if not operation.final or payment.amount_captured or payment.amount_capturing:
        yield "final", Capability.SEVERAL_CAPTURES
    if operation.amount < payment.amount_authorized:
        yield "amount", Capability.PARTIAL_CAPTURE


def _refund_needs(payment: Payment, operation: Operation) -> Needs:
    if operation.amount < payment.amount_captured:
        yield "amount", Capability.PARTIAL_REFUND
    if payment.amount_refunded or payment.amount_refunding:
        yield None, Capability.SEVERAL_REFUNDS


def compose(payment: Payment, operation: Operation, deps: Deps, command: FollowUp | None = None) -> Mapping[str, Any]:
    """The exact request for an operation on a payment that its account holds."""
    terms, money = payment.terms, Money(operation.amount, payment.terms.currency)
    at, asked = payment.provider_payment_id or "", (operation.id, terms.id, money)
    reason = None if command is None else command.reason
    ask: Ask
    match operation.kind:
        case Kind.CAPTURE:
            ask = Capture(*asked, at, final=operation.final)
        case Kind.VOID:
            attempt = payment.voidable
            unfinished = attempt.status is OperationStatus.REQUIRES_ACTION
            ask = Void(*asked, attempt.id, payment.provider_payment_id, unfinished=unfinished)
        case Kind.REFUND:
            ask = Refund(*asked, at, reason=reason)
        case Kind.INCREMENT:
            ask = Increment(*asked, at)
        case Kind.DEFEND | Kind.ACCEPT if command is not None and command.dispute is not None:
            ask = _dispute_ask(operation, command.dispute, command.evidence, payment)
        case _:
            raise AssertionError(f"{operation.kind} is not composed here")
    return deps.accounts[operation.account].provider.compose(ask)


def _dispute_ask(operation: Operation, dispute: Dispute, evidence: Evidence | None, payment: Payment) -> Ask:
    asked = (operation.id, payment.terms.id, Money(dispute.amount, dispute.currency))
    at, dispute_id = payment.provider_payment_id or "", dispute.provider_dispute_id
    if operation.kind is Kind.ACCEPT:
        return Accept(*asked, at, dispute_id)
    said = evidence or Evidence()
    return Defend(*asked, at, dispute_id, text=said.text, reason=said.reason, documents=said.documents)


def seal(payment: Payment, operation: Operation, request: Mapping[str, Any], deps: Deps) -> Request:
    """A follow-up's request as it stands in its row. It never holds a card."""
    return Request(deps.keys.seal_request(request, payment.terms.merchant_id, operation.id, holds_card=False))


async def carry_out(payment: Payment, change: Change, operation: Operation, deps: Deps) -> bool:
    """Open, send and record an operation that the worker asks for by itself. ``False`` where another writer came first."""
    request = compose(payment, operation, deps)
    opened = (operation, seal(payment, operation, request, deps))
    with deps.traces.resumed("again", operation.trace, payment=payment.terms.id):
        if await deps.books.write(payment, change, source="sweep", opened=opened) is not Written.DONE:
            return False
        outcome = await send(change.payment, operation, request, deps, first_send=True)
        await record(change.payment, operation, outcome, source="sweep", deps=deps)
    return True


async def void_unknown(payment: Payment, attempt: Operation, deps: Deps) -> Payment | None:
    """Void an attempt of unknown outcome at its account, and give the payment after that; ``None`` where it may not be.

    Another account may be asked once the void is confirmed, here or by a webhook. Safe to call again: an attempt is voided once.
    """
    if attempt.kind is not Kind.AUTHORIZE or attempt.account not in deps.accounts:
        return None
    try:
        void = open_operation(payment, Kind.VOID, payment.terms.amount, deps, metadata={"purpose": FAILOVER})
        change = lifecycle.failover_opened(payment, attempt, void, deps.clock(), budget=deps.budget(payment.terms))
    except lifecycle.Refused:
        return None
    return await read(payment.terms.id, deps) if await carry_out(payment, change, void, deps) else None


async def _record(command: FollowUp, work: Work, outcome: Outcome, deps: Deps) -> Answer:
    """Write the outcome, what it does to the reserved amount, and the answer if it is decided, in one commit."""
    operation_id = work.operation.id

    def decide(payment: Payment) -> tuple[Key, int, bytes] | None:
        operation = payment.operation(operation_id)
        answer = follow_up_answer(payment, operation, deps.keys, _dispute(command, payment, operation))
        return (command.key, answer.status, seal_answer(answer, command.key, deps)) if answer.decided else None

    if isinstance(outcome, NotProcessed):
        deps.instruments.stood_in("follow_up_not_reached")
    recorded = await record(work.payment, work.operation, outcome, source="call", deps=deps, decide=decide)
    try:
        if recorded is not None:
            return await _present(command, recorded.payment, operation_id, deps, stored=recorded.change is not None)
    except DATABASE_LOST:
        log.error("answer_not_recorded", operation=operation_id)
    # Postgres is lost after the PSP answered; the lease runs out and the worker replays.
    unknown = replace(work.operation, status=OperationStatus.UNKNOWN)
    return follow_up_answer(work.payment, unknown, deps.keys, command.dispute)


def _dispute(command: FollowUp, payment: Payment, operation: Operation | None) -> Dispute | None:
    """The dispute that the command is about, as it stands: answered only once its provider has taken the answer."""
    done = operation is not None and operation.status is OperationStatus.SUCCEEDED
    if command.dispute is None or operation is None or not done:
        return command.dispute
    return answered(command.dispute, command.kind, operation.created_at, payment.updated_at)


async def _resume(command: FollowUp, used: UsedKey, deps: Deps) -> Work | Answer:
    """What a key that was used before answers: its stored answer, or the operation driven on."""
    stored = stored_answer(command.key, command.fingerprint, used, deps)
    if stored is not None:
        return stored
    payment = await read(used.payment_id, deps)
    if used.operation_id is None:
        return await _present(command, payment, None, deps)
    operation = payment.operation(used.operation_id)
    if operation.status not in IN_FLIGHT:
        return await _present(command, payment, operation.id, deps)
    taken = await take_over(payment, operation, deps)
    if taken is None:
        raise in_progress()
    work = Work(taken.payment, taken.operation, taken.request, first_send=False)
    return await _record(command, work, (await look(taken, deps)).outcome, deps)


async def _present(
    command: FollowUp, payment: Payment, operation_id: str | None, deps: Deps, *, stored: bool = False
) -> Answer:
    """The operation as it stands; a decided one becomes the key's answer, unless it is ``stored`` already."""
    operation = None if operation_id is None else payment.operation(operation_id)
    answer = follow_up_answer(payment, operation, deps.keys, _dispute(command, payment, operation))
    if stored or not answer.decided:
        return answer
    return await decided_once(answer, command.key, command.fingerprint, deps)
