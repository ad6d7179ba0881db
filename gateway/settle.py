"""Settling: how an operation is sent, and how what comes of it is written although something goes wrong.

A client's request, the worker and a webhook all come through here: one way to send, one way to record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

import structlog
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_random_exponential

from gateway import lifecycle
from gateway.books import LeaseLost, Request, Written
from gateway.deps import Deps
from gateway.disputes import ANSWERABLE, Dispute, answered
from gateway.incidents import IncidentKind, incident
from gateway.lifecycle import Change, NoChange
from gateway.method_books import settled_values
from gateway.metrics.decisions import Waiting
from gateway.metrics.first_attempts import first_result, segment
from gateway.payment import ANSWERS_DISPUTE, FAILOVER, OPEN, Operation, OperationStatus, Payment, Reason, Status
from gateway.sql import DATABASE_LOST, InDoubt
from gateway.tracing import Span
from gateway.vault import SealBroken
from idempotency.key import Key
from providers.contract import Approved, Call, Capability, Declined, Kind, NotProcessed, Outcome, Pending, Unknown
from providers.declines import FAILED_AFTER_ALL, Action, Decline
from providers.money import Money
from routing.plan import Plan
from routing.retries import Rule

DECISIONS_MAX: Final = 5
"""How often a decision is made anew because another writer came first. Five writers at once on one payment is a defect."""
HOLD_S: Final = 10.0
"""How long an outcome is held in memory while Postgres is away: with the charge's 25 s that is the client's 35 s."""
QUEUE_S: Final = 24 * 3600
"""A capture, void or refund that reached nobody is sent again for a day, then it fails and frees its amount."""
NOT_SENT: Final = Decline("not_sent", "hard", Action.DO_NOT_RETRY)
DOUBT_S: Final = 5.0
"""How long an opening write whose answer was lost is tried again, before the caller is told that it is in doubt."""

_DEAD: Final = frozenset(
    {
        OperationStatus.DECLINED,
        OperationStatus.NOT_PROCESSED,
        OperationStatus.VOIDED,
        OperationStatus.EXPIRED,
        OperationStatus.FAILED,
    }
)


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Next:
    """An attempt to be opened in the same commit that ends the one before."""

    operation: Operation
    request: Request


@dataclass(frozen=True, slots=True)
class Taken:
    """An operation that is ours to settle, with its payment as it stands.

    ``request`` is in clear, and empty once it is wiped. ``sendable`` says that it may be sent again: it is there, and its account
    certainly remembers the key it was sent under.
    """

    payment: Payment
    operation: Operation
    request: Mapping[str, Any] = field(repr=False)
    sendable: bool
    reached_nobody: bool
    """Whether it is recorded that every send so far reached nobody: then the next one counts as the first."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of an outcome: the payment as it stands, and the change, unless its operation's status was known."""

    payment: Payment
    change: Change | None = None
    next: Next | None = None


@dataclass(frozen=True, slots=True)
class MethodUse:
    """What an attempt's outcome means for the payment's method.

    ``spent``: what was kept for this payment alone ends with its round. ``learns``: the method may be charged again, so what the
    account says of it is kept.
    """

    spent: bool
    learns: bool


NEWS_FROM_OUTSIDE: Final = MethodUse(spent=True, learns=True)
"""Whoever hears of an outcome without having asked knows nothing of the method: the row itself tells what applies."""
FOR_NOTHING_ELSE: Final = MethodUse(spent=False, learns=False)
"""A method that came with the payment, and of which nothing is kept."""

Follow = Callable[[Payment, Plan], Next | None]
Decide = Callable[[Payment], tuple[Key, int, bytes] | None]


# --- Sending ----------------------------------------------------------------------------------------------------------


async def send(
    payment: Payment, operation: Operation, request: Mapping[str, Any], deps: Deps, *, first_send: bool
) -> Outcome:
    """Send one committed operation and read what comes of it. Nothing is written here, and no transaction is open."""
    terms = payment.terms
    account = deps.accounts[operation.account]

    async def keep(rest: Mapping[str, Any]) -> None:
        sealed = deps.keys.seal_request(rest, terms.merchant_id, operation.id, holds_card=False)
        await deps.books.reseal(operation, sealed)

    hold = deps.hold(operation)
    waiting = Waiting()
    with deps.traces.span("call", **_spoken_of(payment, operation)) as span:
        try:
            with waiting:
                outcome = await account.send(call_of(payment, operation, request), keep, first_send=first_send)
        except (LeaseLost, *DATABASE_LOST) as error:  # a step could not be kept, so the next one was not sent
            log.warning("step_not_kept", operation=operation.id, error=type(error).__name__)
            outcome = Unknown("step_not_kept")
        finally:
            hold.let_go()
        _tell(span, outcome)
    deps.instruments.provider_seconds.labels(account.name, operation.kind).observe(waiting.s)
    deps.instruments.outcomes.labels(account.name, operation.kind, type(outcome).__name__).inc()
    return outcome


def _spoken_of(payment: Payment, operation: Operation) -> dict[str, str]:
    """What a span about a provider tells before it."""
    return {
        "payment": payment.terms.id,
        "operation": operation.id,
        "kind": operation.kind,
        "account": operation.account,
        "provider": operation.provider,
    }


def _tell(span: Span | None, outcome: Outcome) -> None:
    """What a span about a provider tells after it. A decline is an answer like any other; what is not certain, or not done, is an error."""
    if span is None:
        return
    span.told(outcome=type(outcome).__name__.lower(), provider_id=getattr(outcome, "provider_id", None))
    if isinstance(outcome, Unknown | NotProcessed):
        span.failed(outcome.reason)


def call_of(payment: Payment, operation: Operation, request: Mapping[str, Any]) -> Call:
    """The operation on its way to its PSP."""
    about = payment.voidable if operation.kind is Kind.VOID else operation
    return Call(
        operation_id=operation.id,
        kind=operation.kind,
        request=request,
        key=operation.provider_key,
        amount=Money(operation.amount, payment.terms.currency),
        provider_id=operation.provider_id,
        opened_at=about.created_at,
    )


async def take_over(payment: Payment, operation: Operation, deps: Deps) -> Taken | None:
    """Take an operation whose holder died. ``None`` where somebody is at work on it, or it is settled."""
    taken = await deps.books.take_over(operation)
    if taken is None:
        return None
    request: Mapping[str, Any] | None = None
    if taken.request is not None:
        try:
            request = deps.keys.open_request(
                taken.request.sealed, payment.terms.merchant_id, operation.id, holds_card=taken.request.holds_card
            )
        except SealBroken as error:  # it cannot be sent any more: what is left is to ask, and then a person
            log.error("request_does_not_open", operation=operation.id, why=str(error))
    accepted = taken.operation.status is OperationStatus.PENDING  # that is never sent again, only asked about
    sendable = request is not None and not accepted and remembered(operation, deps)
    return Taken(
        payment.with_operation(taken.operation), taken.operation, request or {}, sendable, taken.reached_nobody
    )


def remembered(operation: Operation, deps: Deps) -> bool:
    """Whether the account certainly remembers the operation's key.

    A provider that has forgotten a key takes the same bytes for a new request, and charges again.
    """
    account = deps.accounts.get(operation.account)
    return account is not None and age(operation, deps) < timedelta(
        seconds=account.provider.capabilities.replay_horizon_s
    )


def age(operation: Operation, deps: Deps) -> timedelta:
    """How long ago the operation was opened, which is never later than it was first sent."""
    now = deps.clock()
    return now - (operation.created_at or now)


def outlived(taken: Taken, deps: Deps) -> Declined | None:
    """The end of an operation that has reached nobody for as long as it may be queued: certainly nothing happened."""
    account = deps.accounts.get(taken.operation.account)
    if account is None or not taken.reached_nobody:
        return None
    # Past the horizon it could not be sent any more, only looked up; and then nobody could say that it never was.
    queued = timedelta(seconds=min(QUEUE_S, account.provider.capabilities.replay_horizon_s))
    return Declined(NOT_SENT) if age(taken.operation, deps) > queued else None


@dataclass(frozen=True, slots=True)
class Looked:
    """One look at an operation: what came of it, and what was heard on the way."""

    outcome: Outcome
    heard: Mapping[str, str]


async def look(taken: Taken, deps: Deps) -> Looked:
    """Find out what became of an operation: send again what may be sent again, look up the rest, and what the replay leaves open.

    The worker and a client's retry come through here alike: a provider that keeps its own 500 under a key gives that to every replay.
    """
    ended = outlived(taken, deps)
    if ended is not None:
        return Looked(ended, {})
    replayed: Outcome | None = None
    if taken.sendable:
        replayed = await send(taken.payment, taken.operation, taken.request, deps, first_send=taken.reached_nobody)
        if not isinstance(replayed, Unknown):
            return Looked(replayed, {})
    found = await look_up(taken, deps)
    told = {"replay": replayed, "look_up": found}
    heard = {how: _said(outcome) for how, outcome in told.items() if isinstance(outcome, Unknown | Pending)}
    return Looked(replayed if replayed is not None and isinstance(found, Unknown) else found, heard)


def _said(outcome: Unknown | Pending) -> str:
    """What an account said that told no end, in one line of evidence."""
    if isinstance(outcome, Pending):
        return "pending"
    return outcome.reason if outcome.provider_code is None else f"{outcome.reason} ({outcome.provider_code})"


async def look_up(taken: Taken, deps: Deps) -> Outcome:
    """Find out what became of an operation without sending it. ``Unknown`` where the account cannot tell, or finds nothing."""
    account = deps.accounts.get(taken.operation.account)
    if account is None:
        return Unknown("account_not_configured")
    if not account.can(Capability.LOOKUP):
        return Unknown("no_lookup")
    hold = deps.hold(taken.operation)  # it may take longer than the lease
    with deps.traces.span("look_up", **_spoken_of(taken.payment, taken.operation)) as span:
        try:
            with Waiting():
                found = await account.lookup(call_of(taken.payment, taken.operation, taken.request))
        finally:
            hold.let_go()
        _tell(span, found)
    return found


# --- Recording --------------------------------------------------------------------------------------------------------


async def record(
    payment: Payment,
    operation: Operation,
    outcome: Outcome,
    *,
    source: str,
    deps: Deps,
    follow: Follow | None = None,
    decide: Decide | None = None,
    use: MethodUse = NEWS_FROM_OUTSIDE,
) -> Recorded | None:
    """Write an outcome together with what follows from it, in one commit; ``None`` where Postgres stayed away.

    ``follow`` opens the next attempt where the plan names one; without it nobody goes on at once. ``decide`` gives the key's
    answer where it is decided by this. May be told the same news any number of times: the second time it is none.
    """
    try:
        return await _record(payment, operation, outcome, source, deps, follow, decide, use)
    except DATABASE_LOST as error:  # it could not be read again: the lease runs out and the worker asks once more
        log.error("outcome_not_recorded", operation=operation.id, error=type(error).__name__)
        return None


async def _record(
    payment: Payment,
    operation: Operation,
    outcome: Outcome,
    source: str,
    deps: Deps,
    follow: Follow | None,
    decide: Decide | None,
    use: MethodUse,
) -> Recorded | None:
    for _ in range(DECISIONS_MAX):
        plan, following = payment.plan({operation.id: outcome}, budget=deps.budget(payment.terms)), None
        # After a challenge, or a wait at the provider, nobody else is asked: the shopper has gone, or is done with it.
        known = payment.operation(operation.id)
        waited = known.challenged or known.status is OperationStatus.PENDING
        if follow is not None and not waited:
            following = follow(payment, plan)
        if waited or (follow is not None and following is None):
            plan = plan.held()
        driven = following is not None or (source == "call" and operation.kind is not Kind.AUTHORIZE)
        change = lifecycle.decide(payment, operation.id, outcome, plan, driven=driven, now=deps.clock())
        if isinstance(change, NoChange):
            await _watch(payment, known, outcome, source, deps)
            await _no_news(operation, source, deps)
            return Recorded(payment)
        if following is not None:
            change = lifecycle.followed_by(change, following.operation)
        settled = change.payment.operation(operation.id)
        told = settled.status is known.status  # who told it decided the answer, too
        written = await write_steadily(
            partial(
                deps.books.write,
                payment,
                change,
                source=source,
                settled=settled,
                opened=None if following is None else (following.operation, following.request),
                answer=None if decide is None or following is not None or told else decide(change.payment),
                learned=learned(change, settled, outcome, use) if operation.kind is Kind.AUTHORIZE else None,
                dispute=await _dispute(change, settled, outcome, deps),
            ),
            deps,
        )
        if written is None:
            return None
        if written is Written.DONE:
            if operation.kind is Kind.AUTHORIZE:
                deps.learned.hint(change.payment, known, settled)
            await _watch(payment, known, outcome, source, deps)
            _count_retry(change.payment, settled, deps)
            count_settled(change.payment, known, settled, deps)
            _log_recorded(change, settled, outcome, source)
            return Recorded(change.payment, None if told else change, following)
        payment = await read(payment.terms.id, deps)
        if _disowned(payment, operation, outcome, source):
            log.warning("lease_was_lost", operation=operation.id, outcome=type(outcome).__name__)
            return Recorded(payment)
    raise RuntimeError(f"{payment.terms.id} kept changing")


def learned(change: Change, settled: Operation, outcome: Outcome, use: MethodUse) -> dict[str, Any] | None:
    """What the outcome of an attempt says about the payment's method, for the books, where there is anything to write about it."""
    payment = change.payment
    ended = payment.status is not Status.PROCESSING
    spent_at = payment.terms.created_at if use.spent and ended else None
    if payment.payment_method is None or (spent_at is None and not use.learns):
        return None
    return settled_values(payment.payment_method, settled.account, outcome if use.learns else None, spent_at=spent_at)


async def _dispute(
    change: Change, operation: Operation, outcome: Outcome, deps: Deps
) -> tuple[Dispute, Dispute] | None:
    """The dispute that ``outcome`` moves, before and after it: its provider has taken our answer."""
    if operation.kind not in ANSWERS_DISPUTE or not isinstance(outcome, Approved):
        return None
    dispute = await deps.queries.dispute((operation.metadata or {})["dispute"])
    if dispute is None or dispute.status not in ANSWERABLE:  # the provider has told more already
        return None
    return dispute, answered(dispute, operation.kind, operation.created_at, change.payment.updated_at)


def _disowned(payment: Payment, operation: Operation, outcome: Outcome, source: str) -> bool:
    """Whether another process has taken the operation over, and this outcome says nothing about what that one sends.

    An approval or a decline is a fact about the operation's key, whoever learned it. "Nothing happened" is true only of our
    own send: the new holder's may be charging right now.
    """
    lost = source != "webhook" and payment.operation(operation.id).epoch != operation.epoch
    return lost and isinstance(outcome, NotProcessed | Unknown)


async def _watch(payment: Payment, operation: Operation, outcome: Outcome, source: str, deps: Deps) -> None:
    """Open an incident where an approval denies what was told before: money may have moved otherwise than we said.

    ``operation`` is as it stood before the outcome.
    """
    if not isinstance(outcome, Approved):
        return
    before = operation.status
    held = payment.terms.capture_method == "manual" or operation.reason == FAILOVER
    ran_out = before is OperationStatus.EXPIRED and operation.decline is None
    if (before is OperationStatus.VOIDED or ran_out) and held and not outcome.captured:
        return  # it is only older than its release
    if operation.decline is not None and operation.decline.code == FAILED_AFTER_ALL and _same(operation, outcome):
        return  # it is only older than its failure
    # A void of an attempt that another one followed says nothing of what was captured after it.
    ours = operation.kind is Kind.VOID and operation.round == payment.round and not operation.releases_unknown
    if before in _DEAD or (ours and payment.amount_captured):
        deps.instruments.contradictions.labels(operation.account).inc()
        log.error("contradiction", payment=payment.terms.id, operation=operation.id, status=before)
        await not_believed(IncidentKind.CONTRADICTION, payment, operation, outcome, operation.account, source, deps)


def _same(operation: Operation, outcome: Approved) -> bool:
    """Whether the provider speaks of what it has named before."""
    return operation.provider_id == outcome.provider_id


async def not_believed(
    kind: IncidentKind,
    payment: Payment,
    operation: Operation,
    outcome: Outcome,
    account: str,
    source: str,
    deps: Deps,
) -> None:
    """Write down what cannot be, once, and tell the merchant.

    A webhook is applied again where Postgres was lost, so that is raised; of a call the answer must not be lost for it.
    """
    opened = incident(kind, payment, operation, outcome, deps.clock(), account=account, source=source)
    try:
        new = await deps.news_books.open_incident(opened)
    except DATABASE_LOST as error:
        if source == "webhook":
            raise
        log.error("incident_not_written", operation=operation.id, kind=kind, error=type(error).__name__)
        return
    if new:
        deps.instruments.incidents.labels(account, kind).inc()


async def _no_news(operation: Operation, source: str, deps: Deps) -> None:
    deps.instruments.no_news.labels(source).inc()
    if source != "webhook":
        await deps.books.postpone(operation, climb=source == "sweep")


def _count_retry(payment: Payment, operation: Operation, deps: Deps) -> None:
    """Count what came of a retry that was scheduled, and that another one is."""
    if payment.processing_reason is Reason.RETRY_SCHEDULED:
        deps.instruments.scheduled.labels("scheduled").inc()
    elif operation.allowed_by == Rule.SCHEDULED and operation.status not in OPEN:
        deps.instruments.scheduled.labels(operation.status).inc()


def count_settled(payment: Payment, before: Operation, after: Operation, deps: Deps) -> None:
    """Count what came of the payment's first attempt, and how long an outcome was unknown."""
    first = first_result(payment, before, after)
    if first is not None:
        deps.instruments.first_attempts.labels(*segment(payment, after), first).inc()
    if before.status is OperationStatus.UNKNOWN and after.status is not OperationStatus.UNKNOWN:
        deps.instruments.unknown_settled_seconds.observe(age(after, deps).total_seconds())


def _log_recorded(change: Change, operation: Operation, outcome: Outcome, source: str) -> None:
    if source == "call" and isinstance(outcome, Approved):
        return  # what went as it should is in the history and in the metrics; the log is for the rest
    log.info(
        "outcome_recorded",
        payment=change.payment.terms.id,
        operation=operation.id,
        account=operation.account,
        source=source,
        outcome=type(outcome).__name__,
        status=change.payment.status,
    )


# --- Writing ----------------------------------------------------------------------------------------------------------


async def write_steadily(write: Callable[[], Awaitable[Written]], deps: Deps) -> Written | None:
    """Write what a PSP has answered, holding on to it while Postgres is away. ``None`` where that took too long.

    A commit whose answer was lost is simply written again: the payment's version then tells that it was there.
    """
    try:
        return await write()
    except DATABASE_LOST as error:
        log.warning("write_retried", error=type(error).__name__)
        deps.instruments.stood_in("postgres_loss_recording")
    try:
        return await _retrying(HOLD_S)(write)
    except RetryError as error:
        log.error("outcome_not_recorded", error=type(error.last_attempt.exception()).__name__)
        return None


async def open_certainly(
    write: Callable[[], Awaitable[Written]], payment_id: str, operation_id: str, deps: Deps
) -> Written:
    """Open an operation, and know whether it is open: where the commit's answer was lost it is tried again.

    Raises :class:`gateway.sql.DatabaseAway` where nothing was written, and :class:`gateway.sql.InDoubt` where it stays in
    doubt: then the operation may be there, and the same key will find it.
    """
    try:
        return await write()
    except InDoubt as error:
        log.warning("opening_in_doubt", operation=operation_id, error=type(error).__name__)
    try:
        written: Written = await _retrying(DOUBT_S)(write)
        payment = None if written is Written.DONE else await deps.queries.payment(payment_id)
    except (RetryError, *DATABASE_LOST) as error:
        raise InDoubt(type(error).__name__) from error
    ours = payment is not None and any(operation.id == operation_id for operation in payment.operations)
    return Written.DONE if ours else written


def _retrying(seconds: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(DATABASE_LOST),
        wait=wait_random_exponential(multiplier=0.1, max=1.0),
        stop=stop_after_delay(seconds),
    )


async def read(payment_id: str, deps: Deps) -> Payment:
    """The payment as it stands now. One that was written is never deleted, so its absence is a defect."""
    payment = await deps.queries.payment(payment_id)
    if payment is None:
        raise AssertionError(f"{payment_id} is gone")
    return payment


def unrecorded(payment: Payment) -> Payment:
    """What can be said of a payment whose outcome could not be written: it is not known yet."""
    return replace(payment, status=Status.PROCESSING, processing_reason=Reason.OUTCOME_UNKNOWN)
