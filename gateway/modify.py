"""Capture, cancel and refund: the shape of a charge without routing.

The amount is reserved in the commit that opens the operation, under a constraint of the database, so two captures that race in two
processes cannot exceed the authorization even if both calls went out. The account is the one that holds the money.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, assert_never

import structlog

from gateway import lifecycle
from gateway.answers import Answer, follow_up_answer
from gateway.books import KeyUse, Request, Written
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import CAPTURE, REFUND, VOID, new_id
from gateway.keys import decided_once, in_progress, seal_answer, stored_answer
from gateway.lifecycle import IN_FLIGHT, Change, Operation, OperationStatus, Payment, Status
from gateway.queries import UsedKey
from gateway.settle import DECISIONS_MAX, open_certainly, read, record, send, take_over
from gateway.sql import DATABASE_LOST
from idempotency.key import Key
from providers.contract import Capture, Kind, Outcome, Refund, Void
from providers.money import Money

log = structlog.get_logger()

PREFIX: Final[Mapping[Kind, str]] = {Kind.CAPTURE: CAPTURE, Kind.VOID: VOID, Kind.REFUND: REFUND}


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A request to capture, void (cancel) or refund a payment. ``amount`` in minor units; ``None`` is all that is left."""

    key: Key
    fingerprint: bytes
    payment_id: str
    kind: Kind
    amount: int | None = None
    final: bool = True
    reason: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A committed operation that is ours to send."""

    payment: Payment
    operation: Operation
    request: Mapping[str, Any] = field(repr=False)
    first_send: bool


async def modify(command: FollowUp, deps: Deps) -> Answer:
    """Capture, cancel or refund once. Safe to call again with the same command at any moment, also after a crash.

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
            case Written.STALE:
                continue
    raise Problem("payment_changed", "The payment kept changing. Send the same request again.")


def _ask(payment: Payment, command: FollowUp, deps: Deps) -> tuple[Change, Work | None]:
    """What the command changes, and what has to be sent for it. Raises :class:`lifecycle.Refused`."""
    now = deps.clock()
    match command.kind:
        case Kind.CAPTURE:
            left = payment.amount_capturable
        case Kind.REFUND:
            left = payment.amount_refundable
        case Kind.VOID:
            if payment.status not in {Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION}:
                return lifecycle.cancel_opened(payment, None, command.reason, now), None
            left = payment.terms.amount
        case Kind.AUTHORIZE:
            raise AssertionError("an authorization is a charge")
        case _:
            assert_never(command.kind)
    amount = left if command.amount is None else command.amount
    operation = open_operation(payment, command.kind, amount, deps, final=command.final, metadata=command.metadata)
    match command.kind:
        case Kind.CAPTURE:
            change = lifecycle.capture_opened(payment, operation, now)
        case Kind.REFUND:
            change = lifecycle.refund_opened(payment, operation, now)
        case Kind.VOID:
            change = lifecycle.cancel_opened(payment, operation, command.reason, now)
        case _:
            assert_never(command.kind)
    _representable(payment, operation, deps)
    return change, Work(change.payment, operation, compose(payment, operation, deps, command.reason), first_send=True)


def open_operation(
    payment: Payment,
    kind: Kind,
    amount: int,
    deps: Deps,
    *,
    final: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Operation:
    """A new capture, void or refund at the account that holds the payment. Raises :class:`lifecycle.Refused`."""
    if payment.account is None or payment.provider is None or payment.provider_payment_id is None:
        raise lifecycle.Refused("payment_state", f"A payment that is {payment.status} has nothing to {kind}.")
    if payment.account not in deps.accounts:
        raise lifecycle.Refused("payment_state", f"The payment's account {payment.account} is no longer configured.")
    operation_id = new_id(PREFIX[kind])
    return Operation(
        id=operation_id,
        kind=kind,
        seq=len(payment.operations) + 1,
        round=payment.round,
        account=payment.account,
        provider=payment.provider,
        amount=amount,
        status=OperationStatus.SENT,
        provider_key=deps.keys.provider_key(operation_id),
        final=final,
        metadata=metadata,
        created_at=deps.clock(),
    )


def _representable(payment: Payment, operation: Operation, deps: Deps) -> None:
    account = deps.accounts[operation.account]
    why = account.provider.refuses(Money(operation.amount, payment.terms.currency))
    if why is not None:
        raise Problem("validation_failed", f"The account {account.name} cannot carry this amount: {why}.", "amount")
    several = account.provider.capabilities.several_captures
    if operation.kind is Kind.CAPTURE and not operation.final and not several:
        raise Problem(
            "validation_failed",
            f"The account {account.name} takes one capture a payment (capability several_captures); send final: true.",
            "final",
        )


def compose(payment: Payment, operation: Operation, deps: Deps, reason: str | None = None) -> Mapping[str, Any]:
    """The exact request for a follow-up."""
    provider_payment_id = payment.provider_payment_id
    if provider_payment_id is None:
        raise AssertionError("a follow-up needs a payment at the provider")
    terms, money = payment.terms, Money(operation.amount, payment.terms.currency)
    ask: Capture | Void | Refund
    match operation.kind:
        case Kind.CAPTURE:
            ask = Capture(operation.id, terms.id, money, provider_payment_id, final=operation.final)
        case Kind.VOID:
            ask = Void(operation.id, terms.id, money, provider_payment_id)
        case Kind.REFUND:
            ask = Refund(operation.id, terms.id, money, provider_payment_id, reason=reason)
        case Kind.AUTHORIZE:
            raise AssertionError("an authorization is composed by the charge")
        case _:
            assert_never(operation.kind)
    return deps.accounts[operation.account].provider.compose(ask)


def seal(payment: Payment, operation: Operation, request: Mapping[str, Any], deps: Deps) -> Request:
    """A follow-up's request as it stands in its row. It never holds a card."""
    return Request(deps.keys.seal_request(request, payment.terms.merchant_id, operation.id, holds_card=False))


async def _record(command: FollowUp, work: Work, outcome: Outcome, deps: Deps) -> Answer:
    """Write the outcome, what it does to the reserved amount, and the answer if it is decided, in one commit."""
    operation_id = work.operation.id

    def decide(payment: Payment) -> tuple[Key, int, bytes] | None:
        answer = follow_up_answer(payment, payment.operation(operation_id), deps.keys)
        return (command.key, answer.status, seal_answer(answer, command.key, deps)) if answer.decided else None

    recorded = await record(work.payment, work.operation, outcome, source="call", deps=deps, decide=decide)
    try:
        if recorded is not None:
            return await _present(command, recorded.payment, operation_id, deps, stored=recorded.change is not None)
    except DATABASE_LOST:
        log.error("answer_not_recorded", operation=operation_id)
    # Postgres is lost after the PSP answered; the lease runs out and the worker replays.
    unknown = replace(work.operation, status=OperationStatus.UNKNOWN)
    return follow_up_answer(work.payment, unknown, deps.keys)


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
    payment, holding, request = taken
    if request is None or operation.account not in deps.accounts:
        await deps.books.postpone(holding.operation)
        return follow_up_answer(payment, holding.operation, deps.keys)
    return Work(payment, holding.operation, request, first_send=holding.reached_nobody)


async def _present(
    command: FollowUp, payment: Payment, operation_id: str | None, deps: Deps, *, stored: bool = False
) -> Answer:
    """The operation as it stands; a decided one becomes the key's answer, unless it is ``stored`` already."""
    operation = None if operation_id is None else payment.operation(operation_id)
    answer = follow_up_answer(payment, operation, deps.keys)
    if stored or not answer.decided:
        return answer
    return await decided_once(answer, command.key, command.fingerprint, deps)
