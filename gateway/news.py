"""News from outside: what a webhook's event means for our books.

An event is matched to an operation by our reference, which the PSP echoes, or by the PSP's own ids. It then goes the way of every
outcome: one pure decision, one writer. An event that finds nothing or says nothing changes nothing, and the inbox keeps it with the
reason. One that contradicts our amounts changes nothing either, and is an incident. What a PSP says of its tokens, and what it only
wants to have said, goes its own way.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Final

import structlog

from gateway import lifecycle, tokens
from gateway.books import Written
from gateway.deps import Deps
from gateway.disputes import ANSWERABLE, TAKEN, Dispute, facts_in, shows_more, told
from gateway.events import event as outbound
from gateway.ids import DISPUTE, new_id
from gateway.incidents import IncidentKind
from gateway.lifecycle import NoChange
from gateway.methods import ERASABLE, method_object
from gateway.payment import ANSWERS_DISPUTE, OPEN, Operation, OperationStatus, Payment
from gateway.queries import StoredMethod
from gateway.settle import DECISIONS_MAX, not_believed, record
from gateway.sql import Pool, Statement
from providers.contract import (
    ActionRequired,
    Approved,
    Declined,
    DisputeNews,
    Event,
    Kind,
    Notice,
    NoticeKind,
    Outcome,
    TokenNews,
)
from providers.declines import Action, Decline
from providers.money import Money
from webhooks.inbox import Applied

WAITS_H: Final = 24
WAITING_MAX: Final = 1_000
"""How long, and how many, events are looked after that have come before what they are about; the others are tried by the inbox's ladder."""

log = structlog.get_logger()


class _AnothersError(Exception):
    """What an event is about is of another merchant than the account is by now: to this one it is not there."""


async def apply(account: str, event: Event, deps: Deps) -> Applied:
    """Apply one event. May be called any number of times: the second time it is no news."""
    try:
        return await _applied(account, event, deps)
    except _AnothersError:
        return Applied("operation_not_found")  # and never will be: it waits for nothing


async def _applied(account: str, event: Event, deps: Deps) -> Applied:
    if event.dispute is not None:
        return await _disputed(account, event, event.dispute, deps)
    if event.token is not None:
        return await _token_told(account, event, event.token, deps)
    if event.notice is not None:
        return await _noticed(account, event, event.notice, deps)
    if event.outcome is None or event.kind is None:
        return Applied("kept")
    found = await _find(account, event, deps)
    if found is None and event.kind is Kind.VOID and isinstance(event.outcome, Approved):
        return await _released_there(account, event, deps)
    if found is None:
        by_ours = event.operation_id is not None
        return _not_found(event.operation_id) if by_ours else _not_found(event.provider_id, event.kind)
    payment, operation = found
    _belongs(payment, account, deps)
    about = {"payment": payment.terms.id, "operation": operation.id, "kind": operation.kind}
    with deps.traces.resumed("webhook", operation.trace, **about, account=account, type=event.type) as span:
        applied = await _told_of(payment, operation, event, event.outcome, account, deps)
        if span is not None:
            span.told(result=applied.result)
    return replace(applied, payment_id=payment.terms.id)


def _belongs(payment: Payment, account: str, deps: Deps) -> None:
    """Raises :class:`_AnothersError` where a payment is not of the merchant whose account this is by now."""
    owner, terms = deps.accounts[account], payment.terms
    if (terms.merchant_id, terms.livemode) != (owner.merchant, owner.livemode):
        raise _AnothersError


def _not_found(wanted: str | None, kind: Kind | None = None) -> Applied:
    """What to try again: ``wanted`` is our operation, or the provider's name of one of that ``kind``. :data:`WAKE` looks for it."""
    return Applied("operation_not_found", again=True, waits_for=wanted, waits_kind=kind)


WAKE: Final = Statement(
    """WITH found AS (SELECT e.id FROM (SELECT id, account, waits_for, waits_kind
        FROM webhook_inbox WHERE waits_for IS NOT NULL AND received_at > now() - make_interval(hours => :hours::int)
        ORDER BY received_at DESC LIMIT :most) AS e
        WHERE EXISTS (SELECT FROM operation WHERE id = e.waits_for COLLATE "C" AND e.waits_kind IS NULL)
        OR EXISTS (SELECT FROM operation WHERE provider_id = e.waits_for AND account = e.account AND kind = e.waits_kind)),
    held AS (SELECT id FROM webhook_inbox WHERE id IN (SELECT id FROM found) AND (due_at IS NULL OR due_at > now())
        ORDER BY id FOR UPDATE SKIP LOCKED)
    UPDATE webhook_inbox SET due_at = now() WHERE id IN (SELECT id FROM held) RETURNING id""",
    writes="wake",
)
"""Events whose operation has appeared meanwhile are due at once: two probes of an index for each of the newest that wait.

One that another worker has just taken may be applied twice, which changes nothing.
"""


async def wake(pool: Pool) -> int:
    """Make due what has found its operation at last. Says how many; may be called at any time."""
    return len(await WAKE.rows(pool, {"hours": WAITS_H, "most": WAITING_MAX}))


async def _told_of(
    payment: Payment, operation: Operation, event: Event, outcome: Outcome, account: str, deps: Deps
) -> Applied:
    """What is said of one operation of ours. What cannot be is written down, and not believed."""
    if operation.account != account:
        log.error("webhook_of_another_account", account=account, operation=operation.id)
        await not_believed(IncidentKind.ANOTHER_ACCOUNT, payment, operation, outcome, account, "webhook", deps)
        return Applied("another_account")
    if operation.challenged and isinstance(outcome, ActionRequired):
        return Applied("challenge_known")  # late: the shopper may be back, and what they brought on its way
    operation = _meant(payment, operation, event)
    if isinstance(outcome, Approved) and operation.kind is not Kind.VOID:
        amount = outcome.amount
        if (amount.amount_minor, amount.currency) != (operation.amount, payment.terms.currency):
            log.error("webhook_amount_mismatch", account=account, operation=operation.id, type=event.type)
            await not_believed(IncidentKind.AMOUNT_MISMATCH, payment, operation, outcome, account, "webhook", deps)
            return Applied("amount_mismatch")
    return await _recorded(payment, operation, outcome, deps)


async def _recorded(payment: Payment, operation: Operation, outcome: Outcome, deps: Deps) -> Applied:
    recorded = await record(payment, operation, outcome, source="webhook", deps=deps)
    if recorded is None:
        return Applied("not_recorded", again=True)
    if recorded.payment.failover_void(operation) is not None:
        return Applied("waits_for_void", again=True)
    if recorded.change is not None:
        return Applied("applied")
    if isinstance(outcome, Declined) and lifecycle.refunded_since(
        recorded.payment, recorded.payment.operation(operation.id)
    ):
        # Both cannot be, unless the refund fails, too: until that is heard a person has to know.
        kind = IncidentKind.CONTRADICTION
        await not_believed(kind, recorded.payment, operation, outcome, operation.account, "webhook", deps)
        return Applied("waits_for_refund", again=True)
    return Applied("no_news")


async def _released_there(account: str, event: Event, deps: Deps) -> Applied:
    """A release that names no operation of ours: the authorization ran out, or somebody canceled it at the provider."""
    for _ in range(DECISIONS_MAX):
        found = await _authorization(account, event, deps)
        if found is None:
            return _not_found(event.provider_payment_id, Kind.AUTHORIZE)
        payment, attempt = found
        about = payment.terms.id
        # What a failover voids has no name at its provider yet: such an event never means that one.
        ours = [op for op in payment.open_voids if op.account == account and not op.releases_unknown]
        if ours and event.outcome is not None:  # whoever asked for it, what ours is to release is released
            return replace(await _recorded(payment, ours[-1], event.outcome, deps), payment_id=about)
        change = lifecycle.released(payment, attempt, lapsed=event.lapsed, now=deps.clock())
        if isinstance(change, NoChange):
            # A capture on its way tells which of the two was first; an open attempt, whether there was anything to release.
            if payment.amount_capturing:
                return Applied("waits_for_capture", again=True, payment_id=about)
            if attempt.status in OPEN:
                return Applied("waits_for_attempt", again=True, payment_id=about)
            return Applied("no_news", payment_id=about)
        if await deps.books.write(payment, change, source="webhook") is Written.DONE:
            return Applied("applied", payment_id=about)
    return Applied("not_recorded", again=True)


async def _authorization(account: str, event: Event, deps: Deps) -> tuple[Payment, Operation] | None:
    """The attempt that an event's payment at the provider is."""
    if event.provider_payment_id is None:
        return None
    found = await deps.queries.operation_at(account, event.provider_payment_id, Kind.AUTHORIZE)
    if found is not None:
        _belongs(found[0], account, deps)
    return found


async def _disputed(account: str, event: Event, news: DisputeNews, deps: Deps) -> Applied:
    """What a provider says of a dispute: its present state, and a line in the payment's history."""
    now = deps.clock()
    at = event.occurred_at or now
    for _ in range(DECISIONS_MAX):
        payment = await _disputed_payment(account, event, news, deps)
        if payment is None:
            return _not_found(event.provider_payment_id, Kind.AUTHORIZE)
        about = payment.terms.id
        # Read after the payment: whoever writes of the dispute from here on moves the payment's version or what was heard of the
        # dispute, and we decide again.
        known = await deps.queries.dispute_at(account, news.dispute_id)
        after = _opened(payment, account, news, at, now) if known is None else told(known, news, at, now)
        if known is not None and (after is None or not shows_more(known, after)):
            if after is not None and not await deps.news_books.dispute_heard(known, after):
                continue
            await _answers_told(payment, known, deps)
            return Applied("no_news", payment_id=about)
        if after is None:
            raise AssertionError("the first that is heard of a dispute is news")
        change = lifecycle.disputed(payment, after.status, now)
        if await deps.books.write(payment, change, source="webhook", dispute=(known, after)) is Written.DONE:
            await _answers_told(change.payment, after, deps)
            return Applied("applied", payment_id=about)
    return Applied("not_recorded", again=True)


async def _answers_told(payment: Payment, dispute: Dispute, deps: Deps) -> None:
    """What a dispute's new status says about answers of ours whose own outcome was never told."""
    if dispute.status in ANSWERABLE:
        return
    for op in payment.operations:
        ours = op.kind in ANSWERS_DISPUTE and (op.metadata or {}).get("dispute") == dispute.id
        if not ours or op.status is not OperationStatus.UNKNOWN:
            continue
        amount = Money(op.amount, payment.terms.currency)
        over = Declined(Decline("provider_refused", "hard", Action.DO_NOT_RETRY, f"dispute_{dispute.status}"))
        outcome = Approved(dispute.provider_dispute_id, amount) if dispute.status in TAKEN[op.kind] else over
        recorded = await record(payment, op, outcome, source="webhook", deps=deps)
        payment = payment if recorded is None else recorded.payment


async def _disputed_payment(account: str, event: Event, news: DisputeNews, deps: Deps) -> Payment | None:
    known = await deps.queries.dispute_at(account, news.dispute_id)
    if known is not None:
        payment = await deps.queries.payment(known.payment_id)
        if payment is not None:
            _belongs(payment, account, deps)
        return payment
    found = await _authorization(account, event, deps)
    return None if found is None else found[0]


def _opened(payment: Payment, account: str, news: DisputeNews, at: datetime, now: datetime) -> Dispute:
    return Dispute(
        id=new_id(DISPUTE),
        payment_id=payment.terms.id,
        account=account,
        provider=payment.provider or "",
        provider_dispute_id=news.dispute_id,
        status=news.status,
        amount=news.amount.amount_minor,
        currency=news.amount.currency,
        reason=news.reason,
        network_reason_code=news.network_reason_code,
        respond_by=news.respond_by,
        news_at=at,
        created_at=now,
        updated_at=now,
        heard=dict.fromkeys((news.status.value, *facts_in(news)), at),
    )


async def _noticed(account: str, event: Event, notice: Notice, deps: Deps) -> Applied:
    """What changes nothing is kept and told once. One about a payment waits until the payment is known."""
    owner, payment = deps.accounts[account], None
    if notice.kind is not NoticeKind.REPORT:
        found = await _authorization(account, event, deps)
        if found is None:
            return _not_found(event.provider_payment_id, Kind.AUTHORIZE)
        payment = found[0].terms.id
    new = await deps.news_books.notice(
        notice,
        account,
        owner.provider.name,
        owner.merchant,
        payment,
        event.occurred_at,
        deps.clock(),
        livemode=owner.livemode,
    )
    return Applied("applied" if new else "no_news", payment_id=payment)


async def _token_told(account: str, event: Event, news: TokenNews, deps: Deps) -> Applied:
    """What an account says of a token of its own, for every method that holds it or did.

    One that was handed out just now belongs to the method of the payment that asked for it, too. A token that is dead may be one
    that we are told of later: then it is looked for again.
    """
    owner, now, result = deps.accounts[account], deps.clock(), "no_news"
    methods = await deps.queries.methods_known_as(account, news.names, owner.merchant, livemode=owner.livemode)
    asked_for = await _asked_for(account, event, {method.id for method in methods}, deps)
    if asked_for is not None:
        methods.append(asked_for)
    for method in methods:
        after = tokens.token_told(method, account, news, event.occurred_at or now, now)
        if after is None:
            continue
        said = None
        if tokens.shows_more(method, after):
            verified = await deps.queries.verifications([after])
            shown = method_object(after, verified.get(after.verification_id or ""))
            told_of = {name: value for name, value in shown.items() if name not in ERASABLE}
            said = outbound("payment_method.updated", told_of, now, livemode=owner.livemode)
            result = "applied"
        if not await deps.news_books.token(method, after, said, owner.merchant, at=now):
            return Applied("not_recorded", again=True)
    return Applied(result) if methods else Applied("token_not_found", again=not news.alive)


async def _asked_for(account: str, event: Event, known: Collection[str], deps: Deps) -> StoredMethod | None:
    """The method of the payment that asked for the token, where it is kept to be charged again and is none of the ``known``."""
    try:
        found = await _authorization(account, event, deps)
    except _AnothersError:
        return None
    if found is None or found[0].payment_method is None or found[0].payment_method in known:
        return None
    terms = found[0].terms
    method = await deps.queries.method(found[0].payment_method, terms.merchant_id, livemode=terms.livemode)
    return method if method is not None and method.reusable and method.deleted_at is None else None


async def _find(account: str, event: Event, deps: Deps) -> tuple[Payment, Operation] | None:
    if event.operation_id is not None:
        found = await deps.queries.operation(event.operation_id)
        if found is not None:
            return found
    if event.provider_id is not None and event.kind is not None:
        return await deps.queries.operation_at(account, event.provider_id, event.kind)
    return None


def _meant(payment: Payment, operation: Operation, event: Event) -> Operation:
    """A PSP that reports a capture as "the payment succeeded" means our open capture, not the authorization again."""
    captured = isinstance(event.outcome, Approved) and event.outcome.captured
    if operation.kind is not Kind.AUTHORIZE or operation.status is not OperationStatus.AUTHORIZED or not captured:
        return operation
    captures = [op for op in payment.operations if op.kind is Kind.CAPTURE and op.status in OPEN]
    return captures[-1] if captures else operation
