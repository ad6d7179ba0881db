"""The life of a payment: its transitions, and the one pure function that turns news into change.

Everything that changes a payment's state is decided in this file, and this file does no IO: it is handed values and hands
values back. The news may be the outcome of a call, a webhook, a lookup or an operator's word: the decision is the same.
Late, repeated and contradicting news change nothing and say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, assert_never

from gateway.payment import (
    ANSWERS_DISPUTE,
    FAILOVER,
    IN_FLIGHT,
    OPEN,
    REJECTED,
    Operation,
    Payment,
    Reason,
    Status,
    Terms,
    replaced,
)
from gateway.payment import OperationStatus as S
from providers.contract import (
    ActionRequired,
    Approved,
    CardFacts,
    Declined,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Unknown,
)
from providers.declines import Action, Decline
from routing.plan import Plan, Verdict
from routing.retries import LEAST_S, Budget, Ruling, counts, next_try

ROUNDS_MAX: Final = 5
"""How often an on-session payment may be confirmed before a decline is final."""
FORGOTTEN: Final = timedelta(hours=1)
"""How long an answer to a dispute whose outcome is unknown keeps another one from being given."""

_ENDS: Final = frozenset({S.AUTHORIZED, S.CAPTURED, S.DECLINED, S.VOIDED, S.EXPIRED})
_FOLLOW_UP: Final[Mapping[S, frozenset[S]]] = {
    S.CREATED: frozenset({S.SENT, S.PENDING, S.UNKNOWN, S.SUCCEEDED, S.FAILED}),
    S.SENT: frozenset({S.CREATED, S.PENDING, S.UNKNOWN, S.SUCCEEDED, S.FAILED}),
    S.UNKNOWN: frozenset({S.PENDING, S.SUCCEEDED, S.FAILED}),
    S.PENDING: frozenset({S.SUCCEEDED, S.FAILED}),
    S.SUCCEEDED: frozenset({S.FAILED}),  # Adyen: CAPTURE and then CAPTURE_FAILED, REFUND and then REFUND_FAILED
    S.FAILED: frozenset(),
}
TRANSITIONS: Final[Mapping[Kind, Mapping[S, frozenset[S]]]] = {
    Kind.AUTHORIZE: {
        S.SENT: _ENDS | {S.REQUIRES_ACTION, S.PENDING, S.UNKNOWN, S.NOT_PROCESSED},
        S.UNKNOWN: _ENDS | {S.REQUIRES_ACTION, S.PENDING},
        S.REQUIRES_ACTION: _ENDS | {S.SENT, S.PENDING, S.UNKNOWN},  # sent: the shopper came back, and that is passed on
        S.PENDING: _ENDS,
        S.AUTHORIZED: frozenset({S.CAPTURED, S.VOIDED, S.EXPIRED}),
        S.CAPTURED: frozenset(),
        S.DECLINED: frozenset(),
        S.NOT_PROCESSED: frozenset(),
        S.VOIDED: frozenset(),
        S.EXPIRED: frozenset(),
    },
    Kind.CAPTURE: _FOLLOW_UP,
    Kind.VOID: {**_FOLLOW_UP, S.SUCCEEDED: frozenset()},
    Kind.REFUND: _FOLLOW_UP,
    Kind.INCREMENT: {**_FOLLOW_UP, S.SUCCEEDED: frozenset()},
    Kind.DEFEND: {**_FOLLOW_UP, S.SUCCEEDED: frozenset()},
    Kind.ACCEPT: {**_FOLLOW_UP, S.SUCCEEDED: frozenset()},
}
"""Every step an operation may take, by what it asks. A step that is not here is no news: it changes nothing."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a payment: what it is afterwards, and what the history will say about it."""

    payment: Payment
    operation: Operation | None
    from_status: Status | None
    news: str
    reason: str


@dataclass(frozen=True, slots=True)
class NoChange:
    """News that changes nothing, and why."""

    reason: str


class Refused(Exception):
    """The payment's state forbids the verb. ``code`` is the API's word, the message says what the state allows."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


# --- News about an operation ------------------------------------------------------------------------------------------


def decide(
    payment: Payment, operation_id: str, outcome: Outcome, plan: Plan, *, driven: bool, now: datetime
) -> Change | NoChange:
    """What ``outcome`` of one operation means for the payment.

    ``plan`` is the payment's plan after this outcome. ``driven`` says that whoever asks will go on with it at once, or is told at
    once; news that comes without a driver (webhook, lookup) never leaves a payment waiting for an account that nobody will ask.
    """
    operation = payment.operation(operation_id)
    if operation.kind is Kind.AUTHORIZE:
        return _authorize_news(payment, operation, outcome, plan, driven=driven, now=now)
    return _follow_up_news(payment, operation, outcome, plan.budget, driven=driven, now=now)


def followed_by(change: Change, operation: Operation) -> Change:
    """The same change, with the next attempt opened in the same commit: there is no moment between the two."""
    return replace(change, payment=_asking(change.payment, operation))


def _asking(payment: Payment, operation: Operation, **also: Any) -> Payment:
    """The payment with a new attempt on its way: from here on it is at that account, and not known there yet."""
    return replace(
        payment,
        operations=(*payment.operations, operation),
        account=operation.account,
        provider=operation.provider,
        provider_payment_id=None,
        **also,
    )


def _authorize_news(
    payment: Payment, operation: Operation, outcome: Outcome, plan: Plan, *, driven: bool, now: datetime
) -> Change | NoChange:
    if operation.status is S.AUTHORIZED and (payment.amount_capturing or payment.amount_captured):
        return NoChange("a capture of ours accounts for it")
    if payment.failover_void(operation) is not None:
        return NoChange(VOID_DECIDES)
    outcome = _in_challenge(payment, operation, outcome)
    after = _attempt_after(operation, outcome, automatic=payment.terms.capture_method == "automatic")
    if isinstance(after, NoChange):
        return _learned(payment, operation, outcome, now) or after
    news = type(outcome).__name__
    changed = replace(
        payment,
        version=payment.version + 1,
        updated_at=now,
        operations=replaced(payment.operations, after),
        account=after.account,
        provider=after.provider,
        provider_payment_id=after.provider_id,  # never that of an earlier attempt, perhaps at another account
        # While nobody knows what came of a return, the challenge may turn out to be open still.
        next_action=payment.next_action if after.challenged and after.status is S.UNKNOWN else None,
        processing_reason=None,
    )
    match outcome:
        case Approved():
            changed = _approved(changed, outcome, captured=after.status is S.CAPTURED)
        case ActionRequired(action=action):
            changed = replace(changed, status=Status.REQUIRES_ACTION, next_action=action)
        case Pending():
            changed = _processing(changed, Reason.PENDING_AT_PROVIDER)
        case Unknown():
            changed = _processing(changed, Reason.OUTCOME_UNKNOWN)
        case Declined(decline=decline, card=card):
            changed = _ended(replace(changed, decline=decline, card=_merged(changed.card, card)), plan, driven=driven)
        case NotProcessed():
            changed = _ended(changed, plan, driven=driven)
        case _:
            assert_never(outcome)
    return _change(payment, changed, after, news, after.reason or after.status)


VOID_DECIDES: Final = "a void of it is on its way: what comes of that decides"
"""Told of an attempt that is being voided for a failover: to believe it now could say "paid" of what is void a moment later."""


def _in_challenge(payment: Payment, operation: Operation, outcome: Outcome) -> Outcome:
    """What an outcome means once the shopper was challenged: the provider knows the attempt, whatever comes of the next request.

    Details that it does not take leave the challenge as open as it was. A request that did not reach it is sent again by the worker.
    A cancel that is heard while the challenge is closed because nobody finished it says that it has expired.
    """
    match outcome:
        case NotProcessed(reason="rejected") if operation.challenged and payment.next_action is not None:
            return ActionRequired(operation.provider_id, payment.next_action)
        case NotProcessed() if operation.challenged:
            return Unknown(outcome.reason, provider_code=outcome.provider_code)
        case Declined(decline=Decline(code="cancelled")) if operation.challenged and _abandoning(payment):
            return replace(outcome, decline=_LATE)
        case _:
            return outcome


def _abandoning(payment: Payment) -> bool:
    """Whether the challenge of this round is being closed because nobody finished it."""
    return not payment.cancel_requested and _closing(payment)


def _attempt_after(operation: Operation, outcome: Outcome, *, automatic: bool) -> Operation | NoChange:
    """The attempt once ``outcome`` is known, or why it is no news.

    What is authorized with ``automatic`` capture is captured with it; Adyen's webhook does not say so again.
    """
    reason = decline = None
    provider_id, challenged = operation.provider_id, operation.challenged
    match outcome:
        case Approved():
            status = S.CAPTURED if outcome.captured or automatic else S.AUTHORIZED
            provider_id = outcome.provider_id
        case Declined():
            status, decline = S.DECLINED, outcome.decline
            provider_id, reason = outcome.provider_id or provider_id, outcome.decline.code
        case ActionRequired():
            status, provider_id = S.REQUIRES_ACTION, outcome.provider_id or provider_id
            challenged = True
        case Pending():
            status, provider_id = S.PENDING, outcome.provider_id or provider_id
        case NotProcessed():
            status, reason = S.NOT_PROCESSED, outcome.reason
            if reason == REJECTED:
                decline = Decline("provider_rejected", "hard", Action.ASK_NEW_METHOD, outcome.provider_code)
        case Unknown():
            status, reason = S.UNKNOWN, outcome.reason
        case _:
            assert_never(outcome)
    if status not in TRANSITIONS[Kind.AUTHORIZE][operation.status]:
        return NoChange(f"attempt is {operation.status}, news says {status}")
    return replace(
        operation, status=status, provider_id=provider_id, decline=decline, reason=reason, challenged=challenged
    )


def _approved(payment: Payment, outcome: Approved, *, captured: bool) -> Payment:
    amount = outcome.amount.amount_minor
    return replace(
        payment,
        status=Status.SUCCEEDED if captured else Status.REQUIRES_CAPTURE,
        amount_authorized=amount,
        amount_captured=amount if captured else 0,
        decline=None,
        network_transaction_id=outcome.network_transaction_id or payment.network_transaction_id,
        auth_code=outcome.auth_code or payment.auth_code,
        avs=outcome.avs or payment.avs,
        cvc=outcome.cvc or payment.cvc,
        card=_merged(payment.card, outcome.card),
        three_d_secure=outcome.three_d_secure or payment.three_d_secure,
        capture_before=None if captured else outcome.capture_before,
    )


def _learned(payment: Payment, operation: Operation, outcome: Outcome, now: datetime) -> Change | None:
    """What a second telling of an approval adds: the webhook may come before the answer, and it knows less."""
    if not isinstance(outcome, Approved) or operation.status not in {S.AUTHORIZED, S.CAPTURED}:
        return None
    told = replace(
        payment,
        network_transaction_id=payment.network_transaction_id or outcome.network_transaction_id,
        auth_code=payment.auth_code or outcome.auth_code,
        avs=payment.avs or outcome.avs,
        cvc=payment.cvc or outcome.cvc,
        card=_merged(outcome.card, payment.card),
        three_d_secure=payment.three_d_secure or outcome.three_d_secure,
        capture_before=payment.capture_before or (outcome.capture_before if payment.amount_capturable else None),
    )
    if told == payment and outcome.token is None:
        return None
    changed = replace(told, version=payment.version + 1, updated_at=now)
    return _change(payment, changed, operation, type(outcome).__name__, "facts_learned")


def _merged(known: CardFacts | None, told: CardFacts | None) -> CardFacts | None:
    """What is known of the card: what the PSP says of it, and for the rest what was known before."""
    if known is None or told is None:
        return told or known
    return CardFacts(
        **{name: value if value is not None else getattr(known, name) for name, value in asdict(told).items()}
    )


def _ended(payment: Payment, plan: Plan, *, driven: bool) -> Payment:
    """An attempt ended without approval: go on, park, or end the round."""
    match plan.verdict:
        case Verdict.ASK:
            return _processing(payment, None if driven else Reason.AWAITING_RETRY)
        case Verdict.NOT_SENT:
            tried = [attempt for attempt in payment.attempts if attempt.round == payment.round]
            if all(attempt.reason == REJECTED for attempt in tried):  # sending it again would be rejected again
                return _declined(replace(payment, decline=tried[-1].decline), plan.budget)
            return _processing(payment, Reason.AWAITING_RETRY)
        case Verdict.DECIDED | Verdict.WAITING:
            return _declined(payment, plan.budget)
        case _:
            assert_never(plan.verdict)


def _declined(payment: Payment, budget: Budget | None = None) -> Payment:
    """The round is over without approval: another method may be tried, unless nobody is there to try it.

    Within ``budget`` a payment that may be is tried again later by itself.
    """
    if payment.cancel_requested:
        return replace(_voided(payment), cancellation_reason=payment.cancellation_reason or "requested")
    round_ = [attempt for attempt in payment.attempts if attempt.round == payment.round]
    if declined := [op for op in round_ if op.status in {S.DECLINED, S.EXPIRED}]:  # shown with the account it is from
        last = declined[-1]
        payment = replace(
            payment,
            account=last.account,
            provider=last.provider,
            provider_payment_id=last.provider_id,
            decline=last.decline,
        )
    tries = len({attempt.round for attempt in payment.attempts if attempt.status in {S.DECLINED, S.EXPIRED}})
    payment = replace(payment, processing_reason=None, next_action=None)
    if tries < ROUNDS_MAX and not payment.terms.off_session:
        return replace(payment, status=Status.REQUIRES_PAYMENT_METHOD)
    if tries < ROUNDS_MAX and payment.decline is not None and payment.decline.action is Action.STEP_UP_3DS:
        # Nobody is there to authenticate now. The merchant brings the shopper back, and confirms.
        return replace(payment, status=Status.REQUIRES_ACTION, next_action=AUTHENTICATE)
    again = None if budget is None else _again(payment, budget)
    return replace(payment, status=Status.FAILED) if again is None else _scheduled(payment, again)


def _again(payment: Payment, budget: Budget) -> datetime | None:
    """When a payment that was declined is tried again by itself, if it is."""
    decline, until = payment.decline, payment.terms.retry_until
    if until is None or decline is None or not payment.terms.off_session:
        return None
    declines = [op.decline for op in payment.attempts if op.status is S.DECLINED and op.decline is not None]
    ruling = next_try(decline, sum(map(counts, declines)), budget, payment.updated_at, until)
    return ruling.until if ruling.allowed else None


def _scheduled(payment: Payment, at: datetime) -> Payment:
    return replace(payment, status=Status.PROCESSING, processing_reason=Reason.RETRY_SCHEDULED, retry_at=at)


AUTHENTICATE: Final[Mapping[str, Any]] = MappingProxyType({"type": "authenticate_on_session"})
"""The next action of an off-session payment whose issuer wants to see the shopper: ``/confirm`` it while they are there."""


def _processing(payment: Payment, reason: Reason | None) -> Payment:
    return replace(payment, status=Status.PROCESSING, processing_reason=reason)


def _follow_up_news(
    payment: Payment, operation: Operation, outcome: Outcome, budget: Budget, *, driven: bool, now: datetime
) -> Change | NoChange:
    """News about a capture, a void or a refund. ``driven`` says that whoever asked for it is told at once."""
    status, reason = _follow_up_status(outcome)
    if status is S.CREATED and operation.releases_unknown:  # not queued: the attempt it was to end is settled otherwise
        status = S.FAILED
    if status not in TRANSITIONS[operation.kind][operation.status]:
        return NoChange(f"{operation.kind} is {operation.status}, news says {status}")
    if refunded_since(payment, operation):
        return NoChange("the capture failed after it was refunded: the provider's report will show what moved")
    provider_id = getattr(outcome, "provider_id", None) or operation.provider_id
    decline = outcome.decline if isinstance(outcome, Declined) else None
    after = replace(operation, status=status, provider_id=provider_id, decline=decline, reason=reason)
    operations = replaced(payment.operations, after)
    changed = replace(payment, version=payment.version + 1, updated_at=now, operations=operations)
    if status in {S.SUCCEEDED, S.FAILED}:
        changed = _settled(changed, operation, after, budget, driven=driven)
    return _change(payment, changed, after, type(outcome).__name__, f"{after.kind}_{after.status}")


def refunded_since(payment: Payment, operation: Operation) -> bool:
    """Whether a capture cannot be undone, since what it took is refunded, or being refunded. A refund that fails may change that."""
    undone = operation.kind is Kind.CAPTURE and operation.status is S.SUCCEEDED
    return undone and payment.amount_captured - operation.amount < payment.amount_refunded + payment.amount_refunding


def _follow_up_status(outcome: Outcome) -> tuple[S, str | None]:
    match outcome:
        case Approved():
            return S.SUCCEEDED, None
        case Declined(decline=decline):
            return S.FAILED, decline.provider_code or decline.code
        case Pending() | ActionRequired():
            return S.PENDING, None
        case NotProcessed(reason=reason):  # reached nobody: queued, sent again under the same key
            return S.CREATED, reason
        case Unknown(reason=reason):
            return S.UNKNOWN, reason
        case _:
            assert_never(outcome)


def _settled(payment: Payment, before: Operation, after: Operation, budget: Budget, *, driven: bool) -> Payment:
    """Move the reserved amount of a follow-up to where it belongs."""
    amount, succeeded, undone = after.amount, after.status is S.SUCCEEDED, before.status is S.SUCCEEDED
    taken = amount if succeeded else 0
    match after.kind:
        case Kind.CAPTURE if undone:  # captured, and then the capture failed after all
            payment = replace(payment, amount_captured=payment.amount_captured - amount)
            if payment.attempts[-1].status in _RELEASED:
                return _released(payment)
            last = any(op.kind is Kind.CAPTURE and op.final and op.status is S.SUCCEEDED for op in payment.operations)
            # Another one that released the rest leaves nothing to capture, whichever of the two was heard first.
            return payment if last else replace(payment, status=Status.REQUIRES_CAPTURE)
        case Kind.CAPTURE:
            payment = replace(
                payment,
                amount_capturing=payment.amount_capturing - amount,
                amount_captured=payment.amount_captured + taken,
            )
            whole = payment.amount_captured == payment.amount_authorized
            done = succeeded and (after.final or whole)
            return replace(payment, status=Status.SUCCEEDED, capture_before=None) if done else payment
        case Kind.REFUND if undone:
            return replace(payment, amount_refunded=payment.amount_refunded - amount)
        case Kind.REFUND:
            return replace(
                payment,
                amount_refunding=payment.amount_refunding - amount,
                amount_refunded=payment.amount_refunded + taken,
            )
        case Kind.INCREMENT if succeeded and payment.status is Status.REQUIRES_CAPTURE:
            # What was captured meanwhile was authorized, whatever is left of it now.
            held = max(amount, payment.amount_captured + payment.amount_capturing)
            return replace(payment, amount_authorized=held, terms=replace(payment.terms, amount=held))
        case Kind.VOID:
            return _void_ended(payment, after, budget, succeeded=succeeded, driven=driven)
        case Kind.INCREMENT | Kind.DEFEND | Kind.ACCEPT:
            return payment
        case Kind.AUTHORIZE:
            raise AssertionError("an authorization is not a follow-up")
        case _:
            assert_never(after.kind)


def _void_ended(payment: Payment, void: Operation, budget: Budget, *, succeeded: bool, driven: bool) -> Payment:
    """A void has ended: of an authorization, of a challenge that nobody finished, or of an attempt of unknown outcome."""
    if void.releases_unknown:
        return _released_unknown(payment, void, budget) if succeeded else payment
    if void.round != payment.round:  # what it was to release ended by itself, and the payment was tried again since
        return payment
    held = any(attempt.status is S.AUTHORIZED for attempt in payment.attempts)
    if succeeded and not payment.amount_captured:
        if payment.cancel_requested or held:
            return _voided(payment)
        return payment if payment.open_attempt is None else _expired(payment)
    # It was captured before it could be released, or may have been. Who asked and hears so now may refund it; a cancel
    # that was promised before is kept: then the worker does.
    waits = payment.amount_captured > 0 or payment.open_attempt is not None
    promised = payment.cancel_requested and not driven and not succeeded and waits
    return replace(payment, cancel_requested=promised)


def _expired(payment: Payment) -> Payment:
    """The challenge that nobody finished is closed at its account: the round is over."""
    operations = tuple(
        replace(op, status=S.EXPIRED, decline=_LATE, reason=_LATE.code)
        if op.kind is Kind.AUTHORIZE and op.status in OPEN
        else op
        for op in payment.operations
    )
    return _declined(replace(payment, operations=operations, decline=_LATE))


_LATE: Final = Decline("authentication_expired", "soft", Action.ASK_NEW_METHOD)
"""Nobody finished the challenge."""


def _voided(payment: Payment) -> Payment:
    operations = tuple(
        replace(op, status=S.VOIDED)
        if op.kind is Kind.AUTHORIZE and op.status in {S.AUTHORIZED, S.REQUIRES_ACTION, S.PENDING, S.UNKNOWN}
        else op
        for op in payment.operations
    )
    return replace(
        payment,
        operations=operations,
        status=Status.CANCELED,
        processing_reason=None,
        next_action=None,
        cancel_requested=False,
    )


def _released_unknown(payment: Payment, void: Operation, budget: Budget) -> Payment:
    """The attempt is void, whatever had come of it: the next account may be asked, by whoever drives the payment on."""
    operations = tuple(
        replace(op, status=S.VOIDED, reason=FAILOVER)
        if op.kind is Kind.AUTHORIZE and op.status is S.UNKNOWN and op.round == void.round
        else op
        for op in payment.operations
    )
    payment = replace(payment, operations=operations, provider_payment_id=None)
    return _ended(payment, payment.plan(budget=budget), driven=False)


# --- What a merchant, an operator or the clock asks of a payment ------------------------------------------------------


def created(payment: Payment, now: datetime) -> Change:
    """A payment begins, and waits to be confirmed."""
    return _change(payment, replace(payment, version=payment.version + 1, updated_at=now), None, "Created", "created")


def confirmed(payment: Payment, operation: Operation, route: tuple[str, ...], now: datetime) -> Change:
    """A new round starts with ``operation``. Raises :class:`Refused` where the state forbids a confirm."""
    if not _confirmable(payment):
        raise Refused("payment_state", f"A payment that is {payment.status} cannot be confirmed.")
    changed = _asking(
        payment,
        operation,
        next_action=None,
        version=payment.version + 1,
        updated_at=now,
        status=Status.PROCESSING,
        processing_reason=None,
        round=payment.round + 1,
        route=route,
        decline=None,
    )
    return _change(payment, changed, operation, "Confirmed", "confirmed")


def limited(payment: Payment, decline: Decline, why: str, now: datetime) -> Change:
    """Nobody is asked: the card was tried too often. Another method may be. Raises :class:`Refused` where the state forbids a confirm."""
    if not _confirmable(payment):
        raise Refused("payment_state", f"A payment that is {payment.status} cannot be confirmed.")
    changed = replace(
        payment,
        version=payment.version + 1,
        updated_at=now,
        status=Status.REQUIRES_PAYMENT_METHOD,
        next_action=None,
        decline=decline,
    )
    return _change(payment, changed, None, "Limited", why)


def _confirmable(payment: Payment) -> bool:
    return payment.status in {Status.REQUIRES_PAYMENT_METHOD, Status.REQUIRES_CONFIRMATION} or payment.steps_up


def with_shopper(payment: Payment) -> Terms:
    """The terms on which a payment is confirmed: the shopper has come to authenticate where it waited for that."""
    if not payment.steps_up:
        return payment.terms
    return replace(payment.terms, off_session=False, three_d_secure="required")


def returned(payment: Payment, operation: Operation, now: datetime) -> Change:
    """The shopper is back from a challenge, and what they brought is on its way to the account.

    Raises :class:`Refused` where the attempt waits for nobody: it was completed, canceled or has run out meanwhile.
    """
    if operation.status is not S.REQUIRES_ACTION:
        raise Refused("payment_state", f"The payment is {payment.status}: there is no challenge to complete.")
    if _closing(payment):
        raise Refused("payment_state", "The payment is being canceled.")
    after = replace(operation, status=S.SENT, epoch=operation.epoch + 1, challenged=True)
    changed = replace(
        payment,
        version=payment.version + 1,
        updated_at=now,
        status=Status.PROCESSING,
        processing_reason=None,
        operations=replaced(payment.operations, after),
    )
    return _change(payment, changed, after, "Returned", "shopper_returned")


def abandoned(payment: Payment, operation: Operation, now: datetime) -> Change:
    """Nobody finished the challenge: ``operation`` closes the attempt at its account, and then it has expired.

    Raises :class:`Refused` where there is nothing to close, or it is being closed already.
    """
    attempt = payment.open_attempt
    if attempt is None or attempt.status is not S.REQUIRES_ACTION:
        raise Refused("payment_state", f"The payment is {payment.status}: there is no challenge to end.")
    if _closing(payment):
        raise Refused("payment_state", "The payment is being canceled.")
    changed = replace(payment, version=payment.version + 1, updated_at=now, operations=(*payment.operations, operation))
    return _change(payment, changed, operation, "Abandoned", "challenge_abandoned")


def lapsed(payment: Payment, operation: Operation, now: datetime) -> Change | NoChange:
    """A payment that nobody tried to pay again after the attempt ``operation`` ends: its decline is final."""
    waits = payment.status is Status.REQUIRES_PAYMENT_METHOD or payment.steps_up
    if not waits or operation.round != payment.round:
        return NoChange("the payment does not wait for another try")
    changed = replace(payment, version=payment.version + 1, updated_at=now, status=Status.FAILED, next_action=None)
    return _change(payment, changed, None, "Lapsed", "no_other_try")


def asked(payment: Payment, operation: Operation, route: tuple[str, ...], now: datetime) -> Change:
    """A parked payment goes on: ``operation`` is its next attempt."""
    changed = _asking(
        payment,
        operation,
        version=payment.version + 1,
        updated_at=now,
        processing_reason=None,
        round=operation.round,
        route=route,
    )
    return _change(payment, changed, operation, "Asked", f"attempt {operation.seq} at {operation.account}")


def retried(payment: Payment, operation: Operation, route: tuple[str, ...], now: datetime) -> Change:
    """The retry that was scheduled begins: ``operation`` opens a round of its own. Raises :class:`Refused` where none waits."""
    _waits_for_retry(payment)
    changed = _asking(
        payment,
        operation,
        version=payment.version + 1,
        updated_at=now,
        processing_reason=None,
        retry_at=None,
        round=operation.round,
        route=route,
        decline=None,
    )
    return _change(payment, changed, operation, "Retried", f"attempt {operation.seq} at {operation.account}")


def put_off(payment: Payment, ruling: Ruling, now: datetime) -> Change:
    """The retry that was scheduled may not be made now: it waits until the rule allows it, or its last decline is final.

    Raises :class:`Refused` where none waits.
    """
    _waits_for_retry(payment)
    changed = replace(payment, version=payment.version + 1, updated_at=now)
    later, until = ruling.until, payment.terms.retry_until
    if later is None or until is None or later > until:
        changed = replace(changed, status=Status.FAILED, processing_reason=None, retry_at=None)
    else:
        changed = _scheduled(changed, later)
    return _change(payment, changed, None, "PutOff", ruling.rule)


def _waits_for_retry(payment: Payment) -> None:
    if payment.processing_reason is not Reason.RETRY_SCHEDULED or payment.open_attempt is not None:
        raise Refused("payment_state", "The payment does not wait for a retry.")


def given_up(payment: Payment, now: datetime, *, budget: Budget | None = None) -> Change | NoChange:
    """A parked payment that nobody drives on ends: declined if an account declined it, else never sent.

    One that is to be tried again by itself is, within ``budget``: an hour later where it reached nobody.
    """
    if payment.processing_reason is not Reason.AWAITING_RETRY or payment.open_attempt is not None:
        return NoChange("the payment is not parked")
    changed = replace(payment, version=payment.version + 1, updated_at=now)
    if payment.cancel_requested or payment.decline is not None:
        ended = _declined(changed, budget)
        return _change(payment, ended, None, "GivenUp", ended.status)
    again, until = now + timedelta(seconds=LEAST_S), payment.terms.retry_until
    if until is not None and payment.terms.off_session and again <= until:
        return _change(payment, _scheduled(changed, again), None, "GivenUp", "not_sent")
    not_sent = Decline("not_sent", "soft", Action.RETRY_LATER)
    changed = replace(changed, status=Status.FAILED, processing_reason=None, decline=not_sent)
    return _change(payment, changed, None, "GivenUp", "not_sent")


def failover_opened(
    payment: Payment, attempt: Operation, void: Operation, now: datetime, *, budget: Budget | None = None
) -> Change:
    """Void an attempt of unknown outcome, so that another account may be asked. Once an attempt.

    Raises :class:`Refused` where it is not unknown, a shopper has been challenged for it, it was tried before, or nobody is left to ask.
    """
    if attempt.kind is not Kind.AUTHORIZE or attempt.status is not S.UNKNOWN:
        raise Refused("payment_state", f"The {attempt.kind} is {attempt.status}.")
    if attempt.challenged or payment.cancel_requested:
        raise Refused("payment_state", "Nobody else is asked after this attempt.")
    if any(op.releases_unknown and op.seq > attempt.seq for op in payment.operations):
        raise Refused("payment_state", "It was tried before.")
    if payment.plan({attempt.id: NotProcessed("not_sent")}, budget=budget).account is None:
        raise Refused("payment_state", "There is nobody else to ask: it may as well be approved.")
    changed = replace(payment, version=payment.version + 1, updated_at=now, operations=(*payment.operations, void))
    return _change(payment, changed, void, "FailoverVoid", "void_then_failover")


def put_in_review(
    payment: Payment, operation: Operation, evidence: Mapping[str, Any], now: datetime
) -> Change | NoChange:
    """Nobody could tell what came of ``operation``: a person has to find out. It stays as open as it is."""
    if operation.status not in {S.UNKNOWN, S.PENDING} or operation.review_at is not None:
        return NoChange(f"{operation.kind} is {operation.status}")
    after = replace(operation, review_at=now, evidence=evidence)
    changed = replace(
        payment, version=payment.version + 1, updated_at=now, operations=replaced(payment.operations, after)
    )
    return _change(payment, changed, after, "Review", f"{operation.kind}_needs_review")


def resolved(change: Change, operation: Operation, found: Mapping[str, Any]) -> Change:
    """The same change, with what the person found beside the evidence there was."""
    after = change.payment.operation(operation.id)
    after = replace(after, evidence={**(operation.evidence or {}), "resolution": found})
    return replace(change, payment=change.payment.with_operation(after), operation=after, news="Resolved")


def capture_opened(payment: Payment, operation: Operation, now: datetime) -> Change:
    """Reserve the amount of a capture. Raises :class:`Refused` where the state or the amount forbids it."""
    if payment.status is not Status.REQUIRES_CAPTURE:
        raise Refused("payment_state", f"A payment that is {payment.status} cannot be captured.")
    if operation.amount < 1:
        raise Refused("payment_state", "All of it is being captured already.")
    if _closing(payment):
        raise Refused("payment_state", "The payment is being canceled.")
    if any(op.kind is Kind.CAPTURE and op.final and op.status in OPEN for op in payment.operations):
        raise Refused("payment_state", "A capture that releases the rest is on its way.")
    changing = [op for op in payment.operations if op.kind is Kind.INCREMENT and op.status in OPEN]
    if any(op.status in IN_FLIGHT for op in changing):
        raise Refused("payment_state", "The authorized amount is being changed.")
    # A change that the provider has taken and not yet told of may be either way: what fits both is certain.
    certain = min([payment.amount_capturable, *(op.amount for op in changing)])
    if operation.amount > certain:
        raise Refused("amount_too_large", f"At most {certain} can be captured.", param="amount")
    changed = replace(
        payment,
        version=payment.version + 1,
        updated_at=now,
        amount_capturing=payment.amount_capturing + operation.amount,
        operations=(*payment.operations, operation),
    )
    return _change(payment, changed, operation, "CaptureRequested", "capture_requested")


def released(payment: Payment, attempt: Operation, *, lapsed: bool, now: datetime) -> Change | NoChange:
    """The provider has released the authorization by itself: it ran out (``lapsed``), or somebody canceled it there."""
    if attempt.status is not S.AUTHORIZED or payment.status not in {Status.REQUIRES_CAPTURE, Status.SUCCEEDED}:
        return NoChange(f"attempt is {attempt.status}, payment is {payment.status}")
    if payment.amount_capturing:
        return NoChange("a capture is on its way: what comes of it tells which was first")
    after = replace(attempt, status=S.EXPIRED if lapsed else S.VOIDED)
    operations = replaced(payment.operations, after)
    changed = _released(replace(payment, version=payment.version + 1, updated_at=now, operations=operations))
    return _change(payment, changed, after, "Released", _RELEASED[after.status])


_RELEASED: Final[Mapping[S, str]] = {S.EXPIRED: "authorization_expired", S.VOIDED: "canceled_at_provider"}
"""Why a payment holds nothing any more, by what became of its authorization."""


def _released(payment: Payment) -> Payment:
    """What is left of a payment whose authorization was released: what was captured of it stays, and without that it is canceled."""
    payment = replace(payment, capture_before=None)
    if payment.amount_captured:
        return replace(payment, status=Status.SUCCEEDED)
    why = _RELEASED[payment.attempts[-1].status]
    return replace(payment, status=Status.CANCELED, cancellation_reason=why, cancel_requested=False)


def increment_opened(payment: Payment, operation: Operation, now: datetime) -> Change:
    """Ask for another authorized total, up or down. Raises :class:`Refused` where the state or the amount forbids it."""
    if payment.status is not Status.REQUIRES_CAPTURE:
        raise Refused("payment_state", f"The amount of a payment that is {payment.status} cannot be changed.")
    if _closing(payment):
        raise Refused("payment_state", "The payment is being canceled.")
    if payment.amount_capturing or payment.amount_captured:
        raise Refused("payment_state", "A payment with a capture cannot change its amount.")
    if any(op.kind is Kind.INCREMENT and op.status in OPEN for op in payment.operations):
        raise Refused("payment_state", "The authorized amount is being changed already.")
    if operation.amount == payment.amount_authorized:
        raise Refused("validation_failed", "This is the authorized amount already.", param="amount")
    changed = replace(
        payment,
        version=payment.version + 1,
        updated_at=now,
        operations=(*payment.operations, operation),
    )
    return _change(payment, changed, operation, "IncrementRequested", "increment_requested")


def dispute_answered(payment: Payment, operation: Operation, now: datetime) -> Change:
    """Defend or accept a dispute. Raises :class:`Refused` while an answer to it is on its way."""
    dispute = (operation.metadata or {}).get("dispute")
    for op in payment.operations:
        ours = op.kind in ANSWERS_DISPUTE and (op.metadata or {}).get("dispute") == dispute
        # One that has stayed unknown for an hour must not use up the time there is to answer.
        forgotten = op.status is S.UNKNOWN and op.created_at is not None and now - op.created_at > FORGOTTEN
        if ours and op.status in OPEN and not forgotten:
            raise Refused("payment_state", "An answer to this dispute is on its way.")
    changed = replace(payment, version=payment.version + 1, updated_at=now, operations=(*payment.operations, operation))
    return _change(payment, changed, operation, "DisputeAnswered", f"{operation.kind}_requested")


def disputed(payment: Payment, status: str, now: datetime) -> Change:
    """What a provider says of a dispute stands in the payment's history. It changes none of its amounts."""
    changed = replace(payment, version=payment.version + 1, updated_at=now)
    return _change(payment, changed, None, "Dispute", f"dispute_{status}")


def refund_opened(payment: Payment, operation: Operation, now: datetime) -> Change:
    """Reserve the amount of a refund. Raises :class:`Refused` where nothing, or not so much, was captured."""
    if payment.amount_captured == 0:
        raise Refused("payment_state", "Nothing was captured that could be refunded.")
    if operation.amount < 1:
        raise Refused("payment_state", "All of it is refunded, or being refunded, already.")
    if operation.amount > payment.amount_refundable:
        raise Refused("amount_too_large", f"At most {payment.amount_refundable} can be refunded.", param="amount")
    changed = replace(
        payment,
        version=payment.version + 1,
        updated_at=now,
        cancel_requested=False,
        amount_refunding=payment.amount_refunding + operation.amount,
        operations=(*payment.operations, operation),
    )
    return _change(payment, changed, operation, "RefundRequested", "refund_requested")


def cancel_opened(payment: Payment, operation: Operation | None, reason: str | None, now: datetime) -> Change:
    """Cancel at once, void at the PSP with ``operation``, or note that it is wanted while the outcome is not known."""
    changed = replace(payment, version=payment.version + 1, updated_at=now, cancellation_reason=reason)
    match payment.status:
        case Status.REQUIRES_PAYMENT_METHOD | Status.REQUIRES_CONFIRMATION:
            changed = replace(changed, status=Status.CANCELED)
        case Status.PROCESSING:
            changed = _canceled_while_processing(changed)
        case Status.REQUIRES_ACTION if payment.open_attempt is None:
            changed = replace(changed, status=Status.CANCELED, next_action=None)
        case Status.REQUIRES_ACTION if operation is None:  # its abandoned challenge is being closed: that cancels it
            changed = replace(changed, cancel_requested=True)
        case Status.REQUIRES_CAPTURE | Status.REQUIRES_ACTION:
            if operation is None:
                raise AssertionError("an authorization is released by a void")
            if payment.amount_capturing or payment.amount_captured:
                raise Refused("payment_state", "A payment with a capture cannot be canceled; refund it instead.")
            if payment.open_voids:
                raise Refused("payment_state", "The payment is being canceled.")
            changed = replace(changed, cancel_requested=True, operations=(*payment.operations, operation))
        case Status.SUCCEEDED | Status.CANCELED | Status.FAILED:
            raise Refused("payment_state", f"A payment that is {payment.status} cannot be canceled.")
        case _:
            assert_never(payment.status)
    return _change(payment, changed, operation, "CancelRequested", "cancel_requested")


def _canceled_while_processing(payment: Payment) -> Payment:
    """A cancel waits for the end of what is on its way; where that is but a retry that was scheduled, nothing is."""
    if payment.processing_reason is Reason.RETRY_SCHEDULED:
        return replace(payment, status=Status.CANCELED, processing_reason=None, retry_at=None)
    return replace(payment, cancel_requested=True)


def _closing(payment: Payment) -> bool:
    """Whether it is to be released, or its challenge is being closed."""
    return payment.cancel_requested or bool(payment.open_voids)


def _change(before: Payment, after: Payment, operation: Operation | None, news: str, reason: str) -> Change:
    """A step from ``before`` to ``after``. What a payment was before its first version is nothing."""
    return Change(after, operation, before.status if before.version else None, news, reason)
