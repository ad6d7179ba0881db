"""The sweep: what the worker does, again and again, so that nothing stays open because somebody died.

An operation whose time has come is taken over by its lease, sent again under the same key and with the same bytes while the PSP
certainly remembers that key, and looked up after that. What comes of it goes the way of every outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import structlog

from gateway import complete, lifecycle, retrying
from gateway.books import Written
from gateway.deps import Deps
from gateway.lifecycle import Change, NoChange
from gateway.modify import carry_out, open_operation, void_unknown
from gateway.payment import Operation, OperationStatus, Payment, Status
from gateway.settle import Looked, Taken, age, look, read, record, take_over
from providers.contract import Kind
from routing.plan import OnUnknown

BATCH: Final = 100
AT_ONCE: Final = 8
"""Operations settled at the same time: enough to catch up after an outage, few enough to leave the pool to the API."""
PARKED_S: Final = 900
"""A payment that nobody drives on ends after 15 minutes: by then the shopper is gone."""
CARD_S: Final = 3600
"""A sealed request may hold a card for 60 minutes; then only lookups are left."""
REVIEW_S: Final = 24 * 3600
"""An outcome that nobody could tell for a day is put before a person."""
PENDING_REVIEW_S: Final = 7 * 24 * 3600
"""What an account has accepted may take days: it is put before a person after a week."""

WAITING: Final = frozenset({OperationStatus.UNKNOWN, OperationStatus.PENDING})
"""Nobody has told the end of it yet."""

log = structlog.get_logger()


async def sweep(deps: Deps) -> int:
    """Settle what is due. Returns how many operations were looked at. Two workers may sweep at once."""
    due = await deps.queries.due(BATCH)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(payment_id: str, operation_id: str) -> None:
        async with slots:
            try:
                result = await settle(payment_id, operation_id, deps)
            except Exception as error:  # one operation's trouble must not keep the others waiting
                log.error("sweep_failed", operation=operation_id, error=type(error).__name__)
                result = "failed"
            deps.instruments.swept.labels(result).inc()

    await asyncio.gather(*(one(item.payment_id, item.operation_id) for item in due))
    return len(due)


async def settle(payment_id: str, operation_id: str, deps: Deps) -> str:
    """Find out what became of one operation. Returns what was found: the name of the outcome, or why nothing was done.

    The ladder: the same bytes under the same key while its account certainly remembers that key, then look-ups. What is not told within
    a day is put before a person, and looked at all the same until somebody tells: a webhook, a settlement line, or they. What the
    account has accepted is only looked up, in case the webhook with its end is lost.
    """
    payment = await read(payment_id, deps)
    operation = payment.operation(operation_id)
    if payment.failover_void(operation) is not None:  # sent again it could charge behind the void that is to end it
        await deps.books.postpone(operation)
        return "waits_for_void"
    taken = await take_over(payment, operation, deps)
    if taken is None:
        return "held"
    words = {"payment": payment_id, "operation": operation_id, "kind": operation.kind, "account": operation.account}
    with deps.traces.resumed("settle", operation.trace, **words, tries=operation.tries + 1) as span:
        looked = await look(taken, deps)
        found = type(looked.outcome).__name__
        if span is not None:
            span.told(outcome=found.lower())
        recorded = await record(taken.payment, taken.operation, looked.outcome, source="sweep", deps=deps)
        if recorded is not None and recorded.payment.operation(operation.id).status in WAITING:
            await _still_open(recorded.payment, taken, looked, deps)
    return found


async def _still_open(payment: Payment, taken: Taken, looked: Looked, deps: Deps) -> None:
    """What follows where a look has told nothing: the attempt is released by policy, or put before a person in time."""
    operation = payment.operation(taken.operation.id)
    if deps.on_unknown is OnUnknown.VOID_THEN_FAILOVER and await void_unknown(payment, operation, deps) is not None:
        return
    # A void that another account waits for is not given a week: it holds up what its attempt could tell.
    accepted = operation.status is OperationStatus.PENDING and not operation.releases_unknown
    patience = PENDING_REVIEW_S if accepted else REVIEW_S
    if age(operation, deps) <= timedelta(seconds=patience):
        return
    evidence = {"tries": operation.tries + 1, "sent_again": taken.sendable, "heard": dict(looked.heard)}
    change = lifecycle.put_in_review(payment, operation, evidence, deps.clock())
    if isinstance(change, NoChange):
        return
    reviewed = change.payment.operation(operation.id)
    if await deps.books.write(payment, change, source="sweep", reviewed=reviewed) is Written.DONE:
        deps.instruments.reviews.labels(operation.account, operation.kind).inc()
        log.error("needs_review", payment=payment.terms.id, operation=operation.id, account=operation.account)


async def end_abandoned(deps: Deps) -> int:
    """End challenges that nobody finished within 30 minutes. Returns how many payments changed."""
    return await _each_attempt(await complete.claim_abandoned(deps, BATCH), complete.abandon, deps)


async def end_lapsed(deps: Deps) -> int:
    """End declined payments that nobody tried to pay again within a day. Returns how many ended."""
    return await _each_attempt(await complete.claim_lapsed(deps, BATCH), complete.lapse, deps)


async def _each_attempt(
    claimed: list[tuple[str, str]], work: Callable[[Payment, Operation, Deps], Awaitable[bool]], deps: Deps
) -> int:
    attempts = dict(claimed)

    async def one(payment: Payment) -> bool:
        return await work(payment, payment.operation(attempts[payment.terms.id]), deps)

    return await _each(list(attempts), one, deps)


async def retry_due(deps: Deps) -> int:
    """Try payments again whose scheduled retry is due. Returns how many were. Two workers may at once."""

    async def again(payment: Payment) -> bool:
        return await retrying.retry(payment, deps)

    return await _each(await deps.books.claim_retries(retrying.AGAIN_S, BATCH), again, deps)


async def end_parked(deps: Deps) -> int:
    """End payments that wait for a retry nobody sends. Returns how many ended."""

    async def end(payment: Payment) -> bool:
        change = lifecycle.given_up(payment, deps.clock(), budget=deps.budget(payment.terms))
        return isinstance(change, Change) and await deps.books.write(payment, change, source="sweep") is Written.DONE

    return await _each(await deps.queries.parked(PARKED_S, BATCH), end, deps)


async def honour_cancels(deps: Deps) -> int:
    """Give back what was approved after its cancel was asked for: a void while it can be voided, else a refund."""

    async def give_back(payment: Payment) -> bool:
        try:
            return await _give_back(payment, deps)
        except lifecycle.Refused as refused:
            log.info("cancel_waits", payment=payment.terms.id, reason=str(refused))
            return False

    return await _each(await deps.queries.cancel_wanted(BATCH), give_back, deps)


async def _each(payment_ids: list[str], work: Callable[[Payment], Awaitable[bool]], deps: Deps) -> int:
    """Do ``work`` on every payment, some at a time; one payment's trouble must not keep the others waiting."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(payment_id: str) -> bool:
        async with slots:
            try:
                return await work(await read(payment_id, deps))
            except Exception as error:
                log.error("sweep_failed", payment=payment_id, error=type(error).__name__)
                return False

    return sum(await asyncio.gather(*map(one, payment_ids)))


async def _give_back(payment: Payment, deps: Deps) -> bool:
    now, attempt = deps.clock(), payment.open_attempt
    if attempt is not None:
        found = await complete.finished(payment, attempt, deps)
        if found is not None:  # the shopper had finished: the next round gives back what came of it
            return await complete.told(payment, attempt, found, deps)
    if payment.status is Status.SUCCEEDED:
        operation = open_operation(payment, Kind.REFUND, payment.amount_refundable, deps)
        change = lifecycle.refund_opened(payment, operation, now)
    else:
        operation = open_operation(payment, Kind.VOID, payment.terms.amount, deps)
        change = lifecycle.cancel_opened(payment, operation, payment.cancellation_reason, now)
    return await carry_out(payment, change, operation, deps)


async def wipe(deps: Deps) -> int:
    """Wipe cards and security codes that have waited too long."""
    return await deps.books.wipe(CARD_S)
