"""The shopper comes back: a challenge is completed, or closed because nobody finished it.

What the shopper brings is committed before it is sent, as the attempt's new request, and it travels under a key that follows from
the attempt's and from what was brought. So a process that dies here leaves an attempt like any other: its lease runs out, and the
same bytes are sent again. Two returns at once are one: the payment's version lets one of them through, the other waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import structlog

from gateway import lifecycle
from gateway.books import ABANDONED_S, Request, Written
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.lifecycle import Change
from gateway.metrics.decisions import Waiting
from gateway.modify import carry_out, open_operation
from gateway.payment import Operation, OperationStatus, Payment
from gateway.settle import DECISIONS_MAX, call_of, open_certainly, read, record, send
from providers.contract import ActionRequired, Capability, DetailsRefused, Kind, Outcome, Unknown

WAIT_S: Final = 12.0
"""How long a second return waits for what the first one is told: a call on a PSP ends within 10 s."""
LOOK_S: Final = 0.2
CHANGES_MAX: Final = 100
"""A payment with a longer history is not asked about again for every visit to its return address; the sweep ends it."""
LAPSE_AGAIN_S: Final = 3600
"""A payment that could not be ended for want of another try is looked at again an hour later."""

log = structlog.get_logger()


async def complete(payment: Payment, operation: Operation, details: Mapping[str, str], deps: Deps) -> Payment:
    """Pass on what the shopper brought back from a challenge, and answer how the payment stands after it.

    Safe to call any number of times with the same details, also at once: they are sent under one key. Raises
    :class:`Problem` (422) where something is missing from the details, and where the account is gone (409).
    """
    for _ in range(DECISIONS_MAX):
        operation = payment.operation(operation.id)
        if operation.status is not OperationStatus.REQUIRES_ACTION or payment.version > CHANGES_MAX:
            return await _told(payment, operation, deps)
        request = _completion(payment, operation, details, deps)
        try:
            change = lifecycle.returned(payment, operation, deps.clock())
        except lifecycle.Refused:  # it is being canceled: whether that came too late will be told by the account
            return payment
        sent = change.payment.operation(operation.id)
        sealed = deps.keys.seal_request(request, payment.terms.merchant_id, operation.id, holds_card=False)
        write = partial(deps.books.write, payment, change, source="return", returned=(sent, Request(sealed)))
        if await open_certainly(write, payment.terms.id, "", deps) is Written.DONE:
            about = {"payment": payment.terms.id, "operation": sent.id, "account": sent.account}
            with deps.traces.resumed("return", sent.trace, **about):
                outcome = await send(change.payment, sent, request, deps, first_send=True)
                recorded = await record(change.payment, sent, outcome, source="return", deps=deps)
            return change.payment if recorded is None else recorded.payment
        payment = await read(payment.terms.id, deps)  # another return, or other news, came first
    return payment


def _completion(payment: Payment, operation: Operation, details: Mapping[str, str], deps: Deps) -> Mapping[str, Any]:
    """The request that completes the attempt. Raises :class:`Problem` where it cannot be made."""
    account = deps.accounts.get(operation.account)
    if account is None:
        raise Problem("payment_state", f"The payment's account {operation.account} is no longer configured.")
    try:
        return account.provider.completion(call_of(payment, operation, {}), details)
    except DetailsRefused as refused:
        raise Problem("validation_failed", f"{refused}.", "details") from None


async def _told(payment: Payment, operation: Operation, deps: Deps) -> Payment:
    """The payment once whoever is completing it has been told, or as it stands when that takes too long."""
    deadline = time.monotonic() + WAIT_S
    while payment.operation(operation.id).status is OperationStatus.SENT and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_S)
        payment = await read(payment.terms.id, deps)
    return payment


async def claim_abandoned(deps: Deps, limit: int) -> list[tuple[str, str]]:
    """The attempts whose challenge nobody has finished in time, claimed for :func:`abandon`."""
    await deps.books.adopt_challenges(ABANDONED_S)
    return await deps.books.claim_due([OperationStatus.REQUIRES_ACTION], ABANDONED_S, limit)


async def abandon(payment: Payment, operation: Operation, deps: Deps) -> bool:
    """End a challenge that nobody finished: close it at its account, unless the account says that it was finished after all.

    Returns whether anything changed. What the account does not answer is tried again with the next claim.
    """
    if operation.account not in deps.accounts or operation.status is not OperationStatus.REQUIRES_ACTION:
        return False
    found = await finished(payment, operation, deps)
    if found is not None:
        return await told(payment, operation, found, deps)
    void = open_operation(payment, Kind.VOID, payment.terms.amount, deps)
    try:
        change = lifecycle.abandoned(payment, void, deps.clock())
    except lifecycle.Refused:
        return False
    return await carry_out(payment, change, void, deps)


async def finished(payment: Payment, operation: Operation, deps: Deps) -> Outcome | None:
    """What the account says came of a challenge, or ``None`` where it is open still, or the account cannot tell."""
    account = deps.accounts.get(operation.account)
    if account is None or not account.can(Capability.LOOKUP):
        return None
    with Waiting():
        found = await account.lookup(call_of(payment, operation, {}))
    return None if isinstance(found, Unknown | ActionRequired) else found


async def told(payment: Payment, operation: Operation, outcome: Outcome, deps: Deps) -> bool:
    """Record what the account says came of a challenge. Returns whether it was news."""
    recorded = await record(payment, operation, outcome, source="sweep", deps=deps)
    return recorded is not None and recorded.change is not None


async def claim_lapsed(deps: Deps, limit: int) -> list[tuple[str, str]]:
    """The attempts that ended without approval and that nobody followed with another try, claimed for :func:`lapse`."""
    ended = [OperationStatus.DECLINED, OperationStatus.EXPIRED, OperationStatus.NOT_PROCESSED]
    return await deps.books.claim_due(ended, LAPSE_AGAIN_S, limit)


async def lapse(payment: Payment, operation: Operation, deps: Deps) -> bool:
    """Make the decline of a payment final that nobody tried to pay again. Returns whether it was."""
    change = lifecycle.lapsed(payment, operation, deps.clock())
    if isinstance(change, Change) and await deps.books.write(payment, change, source="sweep") is not Written.DONE:
        return False
    await deps.books.forget_due(operation)
    return isinstance(change, Change)
