"""One charge, top to bottom.

A charge is two commits with one call between them: the first opens the payment with its key and its first operation, the second
records the outcome together with what follows from it. The loop is bounded by the plan. First run and recovery after a crash are
the same path: :func:`_resume` finds the operation that is already there and sends it again under the same key, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog

from gateway import lifecycle, limits, routes
from gateway.answers import Answer, charge_answer
from gateway.attempts import Step, compose
from gateway.books import KeyUse, Method, Request, Written
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.keys import decided_once, in_progress, seal_answer, stored_answer
from gateway.lifecycle import Change
from gateway.modify import void_unknown
from gateway.payment import IN_FLIGHT, Operation, OperationStatus, Payment, Reason, Status, Terms
from gateway.policies import Stance
from gateway.queries import UsedKey
from gateway.routes import Routed
from gateway.settle import (
    FOR_NOTHING_ELSE,
    MethodUse,
    Next,
    look,
    open_certainly,
    read,
    record,
    send,
    take_over,
    unrecorded,
)
from gateway.sql import DATABASE_LOST
from gateway.vault import Keyring, Wallet
from gateway.watch import refuses_new
from idempotency.key import Key
from idempotency.once import Claim
from providers.contract import (
    Card,
    CardFacts,
    NotProcessed,
    Outcome,
    Unknown,
)
from providers.registry import DEADLINE_S
from routing.plan import OnUnknown, Plan, Verdict
from routing.retries import CardDecline, Rule

CHARGE_S: Final = 25.0
"""A charge ends within 25 s, whatever its accounts do; clients are told to wait 35 s."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Charge:
    """A request to create a payment (``new``), to confirm one that is there, or to create one without confirming it."""

    key: Key | None
    """The key that the request came under; what the worker does by itself has none."""
    fingerprint: bytes
    terms: Terms
    wallet: Wallet | None
    confirm: bool = True
    new: bool = True
    method: Method | None = None
    """The payment method that the request brings, stored with the payment."""
    method_id: str | None = None
    card: Mapping[str, Any] | None = None
    """What may be shown of the method's card before a PSP has said more."""
    declines: tuple[CardDecline, ...] | None = None
    """What is known of the declines of the method's card; ``None`` where nobody has looked, since the card came with the request."""
    unusable: Problem | None = None
    """Why the stored method may not be charged for this payment. A key that was used before still answers."""
    use: MethodUse = FOR_NOTHING_ELSE
    """What the outcome means for the method: a card that was kept for this payment alone is wiped as its round ends."""
    answer: Callable[[Payment, Outcome | None, Keyring, int], Answer] | None = None
    """How the payment is answered, where it is not the payment itself that was asked for: a payment, the outcome that was just
    heard, the keys, :attr:`ok`."""

    @property
    def ok(self) -> int:
        """The status of success: 201 for a new payment, 200 for a verb on one."""
        return 201 if self.new else 200

    @property
    def named(self) -> Key:
        """The key of a request."""
        if self.key is None:
            raise AssertionError("a request has a key")
        return self.key

    @property
    def unread(self) -> str | None:
        """The fingerprint of the card whose declines nobody has read yet."""
        return None if self.declines is not None or self.method is None else self.method.fingerprint

    def render(self, payment: Payment, keys: Keyring, heard: Outcome | None = None) -> Answer:
        """The answer to this request as the payment stands, after what was just ``heard``. Pure."""
        if self.answer is None:
            return charge_answer(payment, keys, ok=self.ok)
        return self.answer(payment, heard, keys, self.ok)


@dataclass(frozen=True, slots=True)
class Work:
    """A committed operation that is ours to send, and all that is needed to go on after it."""

    command: Charge
    payment: Payment
    operation: Operation
    request: Mapping[str, Any] = field(repr=False)
    first_send: bool
    deadline: float


async def charge(command: Charge, deps: Deps) -> Answer:
    """Charge once. Safe to call again with the same command at any moment, also after a crash.

    Raises :class:`Problem` where this call did nothing: the key is being worked on (409) or was used for another request (422), no
    account can take the payment (422), or the payment's state forbids a confirm (409).
    """
    claim = await deps.once.claim(command.named)
    decided = False
    try:
        answer = await carry_out(await _open_or_resume(command, claim, deps), deps)
        decided = answer.decided
        return answer
    finally:
        await claim.let_go(decided=decided)


async def carry_out(work: Work | Answer, deps: Deps) -> Answer:
    """Send what is committed and record what comes of it, at one account after the other, until there is an answer."""
    while isinstance(work, Work):  # bounded: every round of it asks an account that was not asked before
        # The only call on a PSP. Its intent is committed, and no transaction is open.
        outcome = await send(work.payment, work.operation, work.request, deps, first_send=work.first_send)
        work = await _record(work, outcome, deps)
    return work


# --- Opening ----------------------------------------------------------------------------------------------------------


async def _open_or_resume(command: Charge, claim: Claim, deps: Deps) -> Work | Answer:
    """The first operation, committed; or what is already there for this key."""
    if command.new and claim.fresh:  # the common case: no look before the insert, the unique key decides
        opened = await _create(command, deps)
        if opened is not None:
            return opened
    used = await deps.queries.used_key(command.named)
    if used is not None:
        return await _resume(command, used, deps)
    if not claim.fresh:  # somebody holds the gate and has not committed yet
        raise in_progress()
    return await _confirm(command, deps)


async def _create(command: Charge, deps: Deps) -> Work | Answer | None:
    """A new payment in one commit. ``None`` where the key is there already: then nothing was written."""
    terms, now = command.terms, command.terms.created_at
    status = Status.REQUIRES_CONFIRMATION if command.wallet else Status.REQUIRES_PAYMENT_METHOD
    payment = Payment(terms, status, updated_at=now, payment_method=command.method_id, card=_display(command.card))
    wallet = command.wallet if command.confirm else None
    routed = None if wallet is None else routes.decide(terms, wallet, payment.card, deps, now)
    refusal = command.unusable if routed is None else _refusal(command, routed, deps)
    if refusal is not None:
        if await deps.queries.used_key(command.named) is not None:
            return None  # a replay outlives a change of the configuration
        raise refusal
    plan = Plan.start(routed.route if routed is not None else (), budget=deps.budget(terms))
    stopped = None if routed is None else _stopped(payment, plan, command, deps)
    if wallet is None or routed is None or stopped is not None:
        change = stopped or lifecycle.created(payment, now)
        answer = command.render(change.payment, deps.keys)
        use = _key_use(command, answer=(answer.status, seal_answer(answer, command.named, deps)))
        if await deps.books.open(change, use, source="api", method=command.method, request=None) is not Written.DONE:
            return None
        if stopped is not None:
            _count_stopped(stopped, deps)
        return answer
    step = Step(routed.route[0], 1, Rule.FIRST, routed.record())
    operation, request = compose(payment, step, wallet, deps, now)
    change = lifecycle.confirmed(payment, operation, routed.route, now)
    work = Work(_informed(command), change.payment, operation, request, first_send=True, deadline=deadline())
    use = _key_use(command, operation_id=operation.id)
    fresh = _fresh(command, deps)
    write = partial(
        deps.books.open, change, use, source="api", method=command.method, request=seal(work, deps), fresh=fresh
    )
    written = await open_certainly(write, terms.id, operation.id, deps)
    if written is Written.CARD_KNOWN:
        return await _create(await _with_declines(command, deps), deps)
    return work if written is Written.DONE else None


async def _confirm(command: Charge, deps: Deps) -> Work | Answer:
    """A new round of a payment that is there."""
    payment = await read(command.terms.id, deps)
    try:
        work, change = _new_round(payment, command, deps)
    except Problem:
        if await deps.queries.used_key(command.named) is not None:  # the same request, a moment earlier, is why
            raise in_progress() from None
        raise
    opened = None if isinstance(work, Answer) else work.operation.id
    decided = (work.status, seal_answer(work, command.named, deps)) if isinstance(work, Answer) else None
    write = partial(
        deps.books.write,
        payment,
        change,
        source="api",
        opened=None if isinstance(work, Answer) else (work.operation, seal(work, deps)),
        key=_key_use(command, operation_id=opened, answer=decided),
        method=command.method,
        fresh=_fresh(command, deps),
    )
    match await open_certainly(write, payment.terms.id, opened or "", deps):
        case Written.DONE:
            if isinstance(work, Answer):
                _count_stopped(change, deps)
            return work
        case Written.CARD_KNOWN:
            return await _confirm(await _with_declines(command, deps), deps)
        case Written.KEY_USED:
            raise in_progress()
        case Written.STALE:
            raise Problem("payment_changed", "The payment changed meanwhile. Send the same request again.")


def _new_round(payment: Payment, command: Charge, deps: Deps) -> tuple[Work | Answer, Change]:
    """What a confirm opens, or the answer where the card is asked of nobody. Raises :class:`Problem` where the state or the accounts forbid it."""
    wallet, now = command.wallet, deps.clock()
    if wallet is None:
        raise Problem(
            "validation_failed", "The payment has no payment method; send one to confirm it.", "payment_method"
        )
    # The customer is that of the method, where none was named.
    terms = replace(lifecycle.with_shopper(payment), customer=command.terms.customer)
    command = replace(command, terms=terms)
    card = payment.card if command.method_id == payment.payment_method else _display(command.card)
    routed = routes.decide(terms, wallet, card, deps, now)
    refusal = _refusal(command, routed, deps)
    if refusal is not None:
        raise refusal
    payment = replace(payment, terms=terms, card=card, payment_method=command.method_id)
    rule = Rule.CONFIRMED if payment.attempts else Rule.FIRST
    step = Step(routed.route[0], payment.round + 1, rule, routed.record())
    try:
        stopped = _stopped(payment, Plan.start(routed.route, budget=deps.budget(terms)), command, deps)
        if stopped is not None:
            return command.render(stopped.payment, deps.keys), stopped
        operation, request = compose(payment, step, wallet, deps, now)
        change = lifecycle.confirmed(payment, operation, routed.route, now)
    except lifecycle.Refused as refused:
        raise Problem(refused.code, str(refused)) from None
    command = _informed(command)
    return Work(command, change.payment, operation, request, first_send=True, deadline=deadline()), change


# --- The card's limits ------------------------------------------------------------------------------------------------


def _fresh(command: Charge, deps: Deps) -> str | None:
    """The card that has to be without a decline for the charge to be opened blindly, where the limits of cards hold."""
    return command.unread if deps.limits.hold(livemode=command.terms.livemode) else None


def _informed(command: Charge) -> Charge:
    """The command once it is open: nothing was known against its card that was not read."""
    return command if command.declines is not None else replace(command, declines=())


async def _with_declines(command: Charge, deps: Deps) -> Charge:
    """The command with the declines of its card, where nobody has read them."""
    card, terms = _fresh(command, deps), command.terms
    if card is None:
        return _informed(command)
    return replace(command, declines=await deps.queries.card_declines(card, terms.merchant_id, livemode=terms.livemode))


def _stopped(payment: Payment, plan: Plan, command: Charge, deps: Deps) -> Change | None:
    """The charge that is sent to nobody, where a limit of its card forbids the first attempt."""
    now = deps.clock()
    ruling = limits.judged(payment, plan, command.declines or (), deps.limits, now)
    return (
        None if ruling.allowed else lifecycle.limited(payment, limits.limited(ruling, payment, now), ruling.rule, now)
    )


def _count_stopped(change: Change, deps: Deps) -> None:
    deps.instruments.retries.labels(change.reason, "forbidden").inc()
    log.info("card_limited", payment=change.payment.terms.id, rule=change.reason)


def _display(card: Mapping[str, Any] | None) -> CardFacts | None:
    return None if card is None else CardFacts(**card)


def _refusal(command: Charge, routed: Routed, deps: Deps) -> Problem | None:
    """Why nobody can be asked for this charge, or ``None``."""
    if command.unusable is not None or routed.route:
        return command.unusable or refuses_new(deps)
    return routes.refusal(command.terms, command.wallet or Wallet(), deps)


def seal(work: Work, deps: Deps) -> Request:
    """The request as it stands in the operation's row."""
    terms, operation = work.payment.terms, work.operation
    wallet = work.command.wallet
    holds_card = wallet is not None and isinstance(wallet.instrument(operation.account), Card)
    sealed = deps.keys.seal_request(work.request, terms.merchant_id, operation.id, holds_card=holds_card)
    return Request(sealed, holds_card)


# --- Recording --------------------------------------------------------------------------------------------------------


async def _record(work: Work, outcome: Outcome, deps: Deps) -> Work | Answer:
    """Write the outcome together with what follows from it, in one commit: the next attempt, the wait, or the answer."""
    command, following, answer = work.command, None, None

    def follow(payment: Payment, plan: Plan) -> Next | None:
        nonlocal following
        alone = _alone(deps) and isinstance(outcome, NotProcessed)
        following = None if alone else _following(payment, plan, work, outcome, deps)
        return None if following is None else Next(following.operation, seal(following, deps))

    def decide(payment: Payment) -> tuple[Key, int, bytes] | None:
        nonlocal answer
        answer = command.render(payment, deps.keys, outcome)
        key = command.key if answer.decided else None
        return None if key is None else (key, answer.status, seal_answer(answer, key, deps))

    recorded = await record(
        work.payment,
        work.operation,
        outcome,
        source="call",
        deps=deps,
        follow=follow,
        decide=decide,
        use=command.use,
    )
    _count(outcome, following, deps)
    if recorded is None:  # Postgres is lost after the PSP answered; the lease runs out and the worker replays
        return command.render(unrecorded(work.payment), deps.keys)
    if recorded.change is None:  # a webhook or another process told the books first
        try:
            return await _go_on(command, recorded.payment, deps, work.deadline)
        except DATABASE_LOST:  # never "nothing happened" after a provider was asked
            return command.render(unrecorded(recorded.payment), deps.keys)
    if recorded.next is not None and following is not None:
        return replace(following, payment=recorded.payment)
    if isinstance(outcome, Unknown) and deps.on_unknown is OnUnknown.VOID_THEN_FAILOVER:
        return await _void_then_go_on(work, recorded.payment, deps)
    return answer or command.render(recorded.payment, deps.keys)


async def _void_then_go_on(work: Work, payment: Payment, deps: Deps) -> Work | Answer:
    """By policy: void the attempt that nobody knows the outcome of, and ask another account if that is confirmed at once."""
    if time.monotonic() + DEADLINE_S > work.deadline:  # no time is left to wait for a void: the worker asks for it
        return work.command.render(payment, deps.keys)
    try:
        released = await void_unknown(payment, payment.operation(work.operation.id), deps)
        if released is not None:
            return await _go_on(work.command, released, deps, work.deadline)
    except DATABASE_LOST:  # never "nothing happened" after a provider was asked
        log.error("void_not_recorded", operation=work.operation.id)
    return work.command.render(unrecorded(payment), deps.keys)


def _count(outcome: Outcome, following: Work | None, deps: Deps) -> None:
    """Count the policies that stood in for an account's answer."""
    if isinstance(outcome, Unknown):
        deps.instruments.stood_in("unknown", deps.on_unknown)
    if isinstance(outcome, NotProcessed) and (_alone(deps) or following is not None):
        deps.instruments.stood_in("provider_not_reached", deps.policies["provider_not_reached"])


def _alone(deps: Deps) -> bool:
    """Whether nobody else is asked, by choice, where an account certainly did nothing."""
    return deps.policies["provider_not_reached"] == Stance.FAIL_CLOSED


def _reached_nobody(payment: Payment) -> bool:
    """Whether certainly nothing happened at any account that this round has asked."""
    asked = [attempt for attempt in payment.attempts if attempt.round == payment.round]
    return all(attempt.status is OperationStatus.NOT_PROCESSED for attempt in asked)


def _following(payment: Payment, plan: Plan, work: Work, outcome: Outcome, deps: Deps) -> Work | None:
    """The next attempt, where every rule allows it and the shopper's means are at hand for it."""
    wallet = work.command.wallet or Wallet()
    if payment.cancel_requested:  # asked for while the last account was being asked: nobody else is
        return None
    account = _next_account(payment, plan, work.command, work.deadline, deps)
    if account is None:
        return None
    step = Step(account, payment.round, plan.rule, routes.cascade(payment, work.operation, outcome))
    operation, request = compose(payment, step, wallet, deps, deps.clock())
    return replace(work, operation=operation, request=request, first_send=True)


def _next_account(payment: Payment, plan: Plan, command: Charge, deadline: float, deps: Deps) -> str | None:
    """The account to ask, where every rule allows another attempt and the shopper's means are at hand for it. What is ruled is counted."""
    time_left = time.monotonic() + DEADLINE_S <= deadline
    declines = command.declines or ()
    ruling = limits.judged(payment, plan, declines, deps.limits, deps.clock(), time_left=time_left)
    deps.instruments.retries.labels(ruling.rule, "allowed" if ruling.allowed else "forbidden").inc()
    account, wallet = plan.account, command.wallet or Wallet()
    if not ruling.allowed or account is None or account not in deps.accounts or wallet.instrument(account) is None:
        return None
    return account


# --- Resuming ---------------------------------------------------------------------------------------------------------


async def _resume(command: Charge, used: UsedKey, deps: Deps) -> Work | Answer:
    """What a key that was used before answers: its stored answer, or the payment driven on."""
    stored = stored_answer(command.named, command.fingerprint, used, deps)
    if stored is not None:
        return stored
    payment = await read(used.payment_id, deps)
    if used.operation_id is None or payment.operation(used.operation_id).round != payment.round:
        return await _present(command, payment, deps)  # a newer confirm took the payment on: this key drives nothing
    attempt = payment.open_attempt
    if attempt is not None and payment.failover_void(attempt) is not None:
        await deps.books.mark_due(payment.terms.id)  # the worker asks about its void: what comes of that decides
        return command.render(payment, deps.keys)
    command = await _with_declines(command, deps)
    if attempt is None or attempt.status not in IN_FLIGHT:
        return await _go_on(command, payment, deps, deadline())
    taken = await take_over(payment, attempt, deps)
    if taken is None:
        raise in_progress()
    work = Work(command, taken.payment, taken.operation, taken.request, first_send=False, deadline=deadline())
    return await _record(work, (await look(taken, deps)).outcome, deps)


async def _go_on(command: Charge, payment: Payment, deps: Deps, deadline: float) -> Work | Answer:
    """Drive a parked payment on to its next account, or answer how it stands."""
    if payment.processing_reason is not Reason.AWAITING_RETRY or payment.cancel_requested or command.wallet is None:
        return await _present(command, payment, deps)
    now, plan, route = deps.clock(), payment.plan(budget=deps.budget(payment.terms)), payment.route
    if plan.verdict is Verdict.NOT_SENT or (_alone(deps) and _reached_nobody(payment)):
        # Nothing happened anywhere: start over with the accounts there are now.
        routed = routes.decide(payment.terms, command.wallet, payment.card, deps, now)
        route, plan = routed.route, Plan.start(routed.route, budget=plan.budget)
        round_, rule, record = payment.round + 1, Rule.NOT_PROCESSED, routed.record()
    else:
        last = payment.attempts[-1]
        record = routes.cascade(payment, last, last.outcome(payment.terms.currency))
        round_, rule = payment.round, plan.rule
    account = _next_account(payment, plan, command, deadline, deps)
    if account is None:
        return await _present(command, payment, deps)
    operation, request = compose(payment, Step(account, round_, rule, record), command.wallet, deps, now)
    change = lifecycle.asked(payment, operation, route, now)
    work = Work(command, change.payment, operation, request, first_send=True, deadline=deadline)
    opened = (operation, seal(work, deps))
    write = partial(deps.books.write, payment, change, source="api", opened=opened, driven_by=command.key)
    if await open_certainly(write, payment.terms.id, operation.id, deps) is not Written.DONE:
        raise in_progress()
    return work


async def _present(command: Charge, payment: Payment, deps: Deps) -> Answer:
    """The payment as it stands; a decided one becomes the key's answer, unless the key has one already."""
    answer = command.render(payment, deps.keys)
    if not answer.decided or command.key is None:
        return answer
    return await decided_once(answer, command.key, command.fingerprint, deps)


def _key_use(command: Charge, *, operation_id: str | None = None, answer: tuple[int, bytes] | None = None) -> KeyUse:
    return KeyUse(command.named, command.fingerprint, operation_id, answer)


def deadline() -> float:
    """When a charge that begins now ends at the latest, on the monotonic clock."""
    return time.monotonic() + CHARGE_S
