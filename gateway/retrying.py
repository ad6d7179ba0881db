"""Scheduled retries: a payment without its shopper that was declined for now is tried again by itself.

Nothing waits in memory: the moment stands in the payment's row. The worker claims what is due, and opens the next attempt with the
payment's version as its guard, so two workers never open two; from that commit on it is an attempt like any other, whose lease
guards it. Each retry is a round of its own, sent and recorded by the code of every charge.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from gateway import lifecycle, limits, routes
from gateway.attempts import Step, compose
from gateway.books import Written
from gateway.charge import Charge, Work, carry_out, deadline, seal
from gateway.deps import Deps
from gateway.lifecycle import Change
from gateway.methods import with_stored
from gateway.payment import OperationStatus, Payment, Reason
from gateway.settle import open_certainly
from providers.declines import Action
from routing.plan import Plan
from routing.retries import FOREVER, LEAST_S, Rule, Ruling

AGAIN_S: Final = 60.0
"""When a retry that was claimed and not begun, since a process died or something was away, is tried again."""

log = structlog.get_logger()


async def retry(payment: Payment, deps: Deps) -> bool:
    """Make the retry of ``payment`` that is due. ``False`` where there is none, or somebody else was quicker. Safe to call again."""
    if payment.processing_reason is not Reason.RETRY_SCHEDULED or payment.payment_method is None:
        return False
    with deps.traces.resumed("again", payment.trace, payment=payment.terms.id):
        return await _retried(payment, payment.payment_method, deps)


async def _retried(payment: Payment, method_id: str, deps: Deps) -> bool:
    work, change = await _begun(payment, method_id, deps)
    opened = None if work is None else (work.operation, seal(work, deps))
    write = partial(deps.books.write, payment, change, source="sweep", opened=opened)
    if (
        await open_certainly(write, payment.terms.id, "" if work is None else work.operation.id, deps)
        is not Written.DONE
    ):
        return False
    if work is None:
        waits = change.payment.processing_reason is Reason.RETRY_SCHEDULED
        deps.instruments.scheduled.labels("put_off" if waits else "failed").inc()
        log.info("retry_put_off", payment=payment.terms.id, rule=change.reason, status=change.payment.status)
        return True
    await carry_out(work, deps)
    return True


async def _begun(payment: Payment, method_id: str, deps: Deps) -> tuple[Work | None, Change]:
    """The attempt that is to be made; or none, where a rule puts it off or its payment method is gone."""
    now, terms = deps.clock(), payment.terms
    command = Charge(None, b"", terms, wallet=None, new=False)
    command = await with_stored(command, method_id, deps)
    wallet = command.wallet
    in_an_hour = Ruling(Rule.NO_ACCOUNT, allowed=False, until=now + timedelta(seconds=LEAST_S))
    if command.unusable is not None or wallet is None:
        for_good = (
            command.unusable is None or not command.unusable.sort.retryable
        )  # its method is gone, not its key away
        return None, lifecycle.put_off(payment, replace(in_an_hour, until=FOREVER) if for_good else in_an_hour, now)
    routed = routes.decide(terms, wallet, payment.card, deps, now, without=_declined_at(payment))
    if not routed.route:
        routed = routes.decide(terms, wallet, payment.card, deps, now)
    plan = Plan.start(routed.route, budget=deps.budget(terms))
    ruling = limits.judged(payment, plan, command.declines or (), deps.limits, now)
    if plan.account is None:
        ruling = in_an_hour
    deps.instruments.retries.labels(ruling.rule, "allowed" if ruling.allowed else "forbidden").inc()
    if not ruling.allowed or plan.account is None:
        return None, lifecycle.put_off(payment, ruling, now)
    step = Step(plan.account, payment.round + 1, Rule.SCHEDULED, routed.record())
    operation, request = compose(payment, step, wallet, deps, now)
    change = lifecycle.retried(payment, operation, routed.route, now)
    return Work(command, change.payment, operation, request, first_send=True, deadline=deadline()), change


def _declined_at(payment: Payment) -> frozenset[str]:
    """The accounts that are left out where there is another one, since that may get approved what they could not."""
    last = payment.attempts[-1]
    if last.decline is None or last.decline.action is not Action.RETRY_OTHER_NOW:
        return frozenset()
    return frozenset(op.account for op in payment.attempts if op.status is OperationStatus.DECLINED)
