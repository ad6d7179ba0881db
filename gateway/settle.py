"""Settling: when an open operation is looked at again, and how an outcome is written although something goes wrong."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import asyncpg
import structlog
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_random_exponential

from gateway import lifecycle
from gateway.books import LeaseLost, Written
from gateway.deps import Deps
from gateway.lifecycle import Change, NoChange, Operation, OperationStatus, Payment
from providers.contract import Call, Outcome, Unknown
from providers.money import Money

CALL_S: Final = 10.0
"""A call on a PSP ends within 10 s, resends of the same bytes included."""
DECISIONS_MAX: Final = 5
"""How often a decision is made anew because another writer came first. Five writers at once on one payment is a defect."""
HOLD_S: Final = 15.0
"""How long an outcome is held in memory while Postgres is away; with the call's 10 s that is the charge's 25 s."""
LADDER_S: Final = (2, 5, 15, 60, 300, 900, 3600)
"""Seconds until an operation of unknown outcome is looked at again, by how often that was done; then the last one."""

DATABASE_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.OperatorInterventionError,  # it is shutting down or starting up
    asyncpg.TooManyConnectionsError,
    OSError,
    TimeoutError,
)
"""What a database that is gone looks like, before a statement (nothing happened) or in the middle of one (in doubt)."""

log = structlog.get_logger()


def due_after(operation: Operation) -> float | None:
    """Seconds until the worker looks at an operation again; ``None`` where only news from outside can move it."""
    match operation.status:
        case OperationStatus.UNKNOWN | OperationStatus.CREATED:
            return float(LADDER_S[min(operation.tries, len(LADDER_S) - 1)])
        case _:
            return None


async def write_steadily(write: Callable[[], Awaitable[Written]]) -> Written | None:
    """Write what a PSP has answered, holding on to it while Postgres is away. ``None`` where that took too long.

    A commit whose answer was lost is simply written again: the payment's version then tells that it was there.
    """
    try:
        return await write()
    except DATABASE_LOST as error:
        log.warning("write_retried", error=type(error).__name__)
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(DATABASE_LOST),
        wait=wait_random_exponential(multiplier=0.1, max=1.0),
        stop=stop_after_delay(HOLD_S),
    )
    try:
        return await retrying(write)
    except RetryError as error:
        log.error("outcome_not_recorded", error=type(error.last_attempt.exception()).__name__)
        return None


async def send(
    payment: Payment, operation: Operation, request: Mapping[str, Any], deps: Deps, *, first_send: bool
) -> Outcome:
    """Send one committed operation and read what comes of it. Nothing is written here, and no transaction is open."""
    terms = payment.terms
    account = deps.accounts[operation.account]
    call = Call(
        operation_id=operation.id,
        kind=operation.kind,
        request=request,
        key=operation.provider_key,
        amount=Money(operation.amount, terms.currency),
        provider_id=operation.provider_id,
    )

    async def keep(rest: Mapping[str, Any]) -> None:
        sealed = deps.keys.seal_request(rest, terms.merchant_id, operation.id, holds_card=False)
        await deps.books.reseal(operation, sealed)

    started = time.perf_counter()
    hold = deps.hold(operation)
    try:
        outcome = await account.send(call, keep, first_send=first_send, timeout_s=CALL_S)
    except (LeaseLost, *DATABASE_LOST) as error:  # a step could not be kept, so the next one was not sent
        log.warning("step_not_kept", operation=operation.id, error=type(error).__name__)
        outcome = Unknown("step_not_kept")
    finally:
        hold.let_go()
    deps.instruments.provider_seconds.labels(account.name, operation.kind).observe(time.perf_counter() - started)
    deps.instruments.outcomes.labels(account.name, operation.kind, type(outcome).__name__).inc()
    return outcome


async def learn(payment: Payment, operation_id: str, outcome: Outcome, *, source: str, deps: Deps) -> Change | NoChange:
    """Tell the books news that nobody waits for: from a webhook, the worker or a lookup. May be told any number of times."""
    for _ in range(DECISIONS_MAX):
        plan = payment.plan({operation_id: outcome})
        change = lifecycle.decide(payment, operation_id, outcome, plan, driven=False, now=deps.clock())
        if isinstance(change, NoChange):
            deps.instruments.no_news.labels(source).inc()
            return change
        settled = change.operation
        due_s = None if settled is None else due_after(settled)
        written = await deps.books.write(payment, change, source=source, settled=settled, due_s=due_s)
        if written is Written.DONE:
            log.info("news_recorded", payment=payment.terms.id, operation=operation_id, source=source, news=change.news)
            return change
        payment = await read(payment.terms.id, deps)
    return NoChange("the payment kept changing")


async def read(payment_id: str, deps: Deps) -> Payment:
    """The payment as it stands now. One that was written is never deleted, so its absence is a defect."""
    payment = await deps.queries.payment(payment_id)
    if payment is None:
        raise AssertionError(f"{payment_id} is gone")
    return payment
