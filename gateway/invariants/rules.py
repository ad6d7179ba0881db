"""The promises that the database alone can show to be broken: checks of one payment, or one key, as a value.

Pure. Each check yields a sentence for everything that is wrong, and nothing where all is well. The statuses and the steps between them
are written out here once more: what is compared with the code's own table would only prove that the code agrees with itself. A test
holds the two together.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from gateway.invariants.facts import (
    CardDeclineRecord,
    Case,
    ChangeRecord,
    EventRecord,
    KeyCase,
    Moment,
    OperationRecord,
    ToldRecord,
)

Sentences = Iterator[str]

OPEN: Final = frozenset({"created", "sent", "requires_action", "pending", "unknown"})
IN_FLIGHT: Final = frozenset({"created", "sent", "unknown"})
PAID: Final = frozenset({"authorized", "captured"})
_ATTEMPT: Final = frozenset(
    {"sent", "requires_action", "pending", "unknown", "declined", "not_processed", "voided", "expired"}
)
_FOLLOW_UP: Final = frozenset({"created", "sent", "pending", "unknown", "succeeded", "failed"})
OPERATION_STATUSES: Final[Mapping[str, frozenset[str]]] = {
    "authorize": _ATTEMPT | PAID,
    **dict.fromkeys(("capture", "void", "refund", "increment", "defend", "accept"), _FOLLOW_UP),
}
"""What an operation may be, by what it asks."""

STEPS: Final[Mapping[str, frozenset[str]]] = {
    "requires_payment_method": frozenset({"processing", "canceled", "failed"}),
    # A card that was declined too often elsewhere is asked of nobody.
    "requires_confirmation": frozenset({"requires_payment_method", "processing", "canceled"}),
    "requires_action": frozenset(
        {"requires_payment_method", "processing", "requires_capture", "succeeded", "canceled", "failed"}
    ),
    "processing": frozenset(
        {"requires_payment_method", "requires_action", "requires_capture", "succeeded", "canceled", "failed"}
    ),
    "requires_capture": frozenset({"succeeded", "canceled"}),
    # A capture that the provider took back; without one nothing is held where the authorization ran out meanwhile.
    "succeeded": frozenset({"requires_capture", "canceled"}),
    "canceled": frozenset(),
    "failed": frozenset(),
}
"""The steps a payment may take from one status to another. It may always stay what it is."""
FIRST: Final = frozenset({"requires_payment_method", "requires_confirmation", "processing"})
UNPAID: Final = frozenset({"requires_payment_method", "canceled", "failed"})
"""Statuses that tell the merchant that no money is held."""
HELD: Final = frozenset({"requires_capture", "succeeded"})
RELEASED: Final = frozenset({"expired", "voided"})
"""What an authorization is that its provider holds no more."""
WAITS_FOR_NOBODY: Final = frozenset({"awaiting_retry", "retry_scheduled"})
"""Why a payment is processing while nothing of it is open anywhere."""
PARKED_S: Final = 15 * 60
"""How long a payment waits for its key to be sent again."""
SAME_S: Final = 0.001
"""Instants are kept to the microsecond; a millisecond allows for their way through a float."""


# --- One payment ------------------------------------------------------------------------------------------------------


def one_live_attempt(case: Case) -> Sentences:
    """At most one success that is not released, and one that is open."""
    for what, statuses in (("live", PAID), ("open", OPEN)):
        found = [op.id for op in case.attempts if op.status in statuses]
        if len(found) > 1:
            yield f"{len(found)} authorizations are {what} at once: {', '.join(found)}"


def nobody_else_while_open(case: Case) -> Sentences:
    """No attempt follows one that is still open."""
    attempts = sorted(case.attempts, key=lambda op: op.seq)
    for op, following in pairwise(attempts):
        if op.status in OPEN:
            yield f"{following.id} at {following.account} was opened although {op.id} at {op.account} is {op.status}"


def within_authorized(case: Case) -> Sentences:
    """What is captured and being captured never exceeds the authorization, nor that the payment's amount."""
    p = case.payment
    if min(p.amount_captured, p.amount_capturing, p.amount_authorized) < 0:
        yield "an amount is negative"
    if p.amount_captured + p.amount_capturing > p.amount_authorized:
        yield f"{p.amount_captured} captured and {p.amount_capturing} being captured of {p.amount_authorized} authorized"
    if p.amount_authorized > p.amount:
        yield f"{p.amount_authorized} authorized of a payment of {p.amount}"


def within_captured(case: Case) -> Sentences:
    """What is refunded and being refunded never exceeds what was captured."""
    p = case.payment
    if min(p.amount_refunded, p.amount_refunding) < 0:
        yield "an amount is negative"
    if p.amount_refunded + p.amount_refunding > p.amount_captured:
        yield f"{p.amount_refunded} refunded and {p.amount_refunding} being refunded of {p.amount_captured} captured"


def _sum(case: Case, kind: str, statuses: frozenset[str]) -> int:
    return sum(op.amount for op in case.operations if op.kind == kind and op.status in statuses)


_DONE: Final = frozenset({"succeeded"})
_ON_THE_WAY: Final = OPEN - {"requires_action"}


def amounts_are_sums(case: Case) -> Sentences:
    """What the payment says was captured and refunded is the sum of its operations."""
    p = case.payment
    whole = p.amount_authorized if any(op.status == "captured" for op in case.attempts) else 0
    captured, refunded = whole + _sum(case, "capture", _DONE), _sum(case, "refund", _DONE)
    if p.amount_captured != captured:
        yield f"{p.amount_captured} is captured, its operations say {captured}"
    if p.amount_refunded != refunded:
        yield f"{p.amount_refunded} is refunded, its operations say {refunded}"


def reservations_are_sums(case: Case) -> Sentences:
    """What is reserved is the sum of the operations that are on their way."""
    p = case.payment
    capturing, refunding = _sum(case, "capture", _ON_THE_WAY), _sum(case, "refund", _ON_THE_WAY)
    if p.amount_capturing != capturing:
        yield f"{p.amount_capturing} is reserved for captures, those on their way ask for {capturing}"
    if p.amount_refunding != refunding:
        yield f"{p.amount_refunding} is reserved for refunds, those on their way ask for {refunding}"


def status_agrees(case: Case) -> Sentences:
    """The payment's status is what its operations say."""
    p, attempts = case.payment, case.attempts
    paid = [op for op in attempts if op.status in PAID]
    waiting = [op for op in attempts if op.status in OPEN]
    if p.status in HELD and not paid and not _rest_released(case):
        yield f"it is {p.status}, and no authorization of it is live"
    if p.status == "requires_capture" and any(op.status == "captured" for op in paid):
        yield "it is requires_capture, and its authorization is captured"
    if p.status == "succeeded" and not p.amount_captured and p.amount:
        yield "it has succeeded, and nothing is captured"
    if p.status in STEPS.keys() - HELD and paid:
        yield f"it is {p.status}, and {paid[0].id} is {paid[0].status}"
    if p.status in UNPAID | HELD and waiting:
        yield f"it is {p.status}, and {waiting[0].id} is {waiting[0].status}"
    if p.status == "processing" and not waiting and p.processing_reason not in WAITS_FOR_NOBODY:
        yield "it is processing, and nothing of it is open"


def _rest_released(case: Case) -> bool:
    """Whether the provider let go of what was not captured of it. What was captured stays."""
    p = case.payment
    return p.status == "succeeded" and p.amount_captured > 0 and any(op.status in RELEASED for op in case.attempts)


def history_is_whole(case: Case) -> Sentences:
    """The history, replayed from nothing, gives the payment as it is."""
    p, changes = case.payment, case.changes
    if [change.seq for change in changes] != list(range(1, p.version + 1)):
        yield f"its version is {p.version}, its history has {_numbers(changes)}"
        return
    if not changes:
        yield "it has no history"
        return
    before = None
    for change in changes:
        if change.from_status != before:
            yield f"change {change.seq} starts from {change.from_status}, the one before ended with {before}"
        before = change.to_status
    if before != p.status:
        yield f"its history ends with {before}, and it is {p.status}"
    if abs(changes[-1].at - p.updated_at) > SAME_S:
        yield "it was changed at another time than its history says"
    yield from _told_in_history(case)


def _told_in_history(case: Case) -> Sentences:
    ids = {op.id for op in case.operations}
    for change in case.changes:
        if change.operation_id is not None and change.operation_id not in ids:
            yield f"change {change.seq} is about {change.operation_id}, which is none of its operations"
    for op in case.operations:
        named = [change for change in case.changes if change.operation_id == op.id]
        if op.kind == "authorize" and op.status in PAID and not any(change.to_status in HELD for change in named):
            yield f"{op.id} is {op.status}, and no change says so"
        if op.kind != "authorize" and op.status in {"succeeded", "failed"} and len(named) < 2:
            yield f"{op.id} has {op.status}, and no change says so"


def _numbers(changes: Sequence[ChangeRecord]) -> str:
    numbers = [str(change.seq) for change in changes]
    return ", ".join(numbers[:10]) + (" …" if len(numbers) > 10 else "") or "nothing"


def steps_are_legal(case: Case) -> Sentences:
    """Every step of the payment, and every status of its operations, is one that may be."""
    for change in case.changes:
        before, after = change.from_status, change.to_status
        if after not in STEPS:
            yield f"change {change.seq} ends with {after}, which is no status"
        elif before is None:
            if after not in FIRST:
                yield f"it began as {after}"
        elif after != before and after not in STEPS.get(before, ()):
            yield f"change {change.seq} goes from {before} to {after}, which is no step"
    for op in case.operations:
        if op.status not in OPERATION_STATUSES.get(op.kind, ()):
            yield f"{op.id} is {op.status}, which no {op.kind} can be"
        if op.round > case.payment.round:
            yield f"{op.id} is of round {op.round}, the payment is in round {case.payment.round}"
    if sorted(op.seq for op in case.operations) != list(range(1, len(case.operations) + 1)):
        yield "its operations are not numbered without a gap"


def decisions_are_followed(case: Case) -> Sentences:
    """Every attempt is at the account that its round's decision, made by a version of the merchant's own, says. Older ones have none."""
    attempts = sorted(case.attempts, key=lambda op: op.seq)
    for op in attempts:
        if op.first_routed not in {None, op.account}:
            yield f"{op.id} is at {op.account}, its decision says {op.first_routed}"
        if op.foreign_version:
            yield f"{op.id} was decided by a version that is not its merchant's"
        if op.follows is None and op.decided_by is None:
            continue
        earlier = [other for other in attempts if other.round == op.round and other.seq < op.seq]
        if not earlier or (op.decided_by, op.follows) != (earlier[0].id, earlier[-1].id):
            yield f"{op.id} says that it follows {op.follows} by the decision of {op.decided_by}, and it does not"


RETRIED_AT_ONCE: Final = frozenset({"retry_other_now"})
RETRIED_LATER: Final = frozenset({"retry_other_now", "retry_later"})
"""What a decline has to permit before another account is asked, at once or by itself later."""


def retries_are_allowed(case: Case) -> Sentences:
    """Nobody is asked again by itself after a decline that does not permit it. A merchant who confirms again may bring another card."""
    attempts = sorted(case.attempts, key=lambda op: op.seq)
    for op in attempts:
        by_itself = {"scheduled": RETRIED_LATER}.get(op.allowed_by or "", frozenset())
        for other in attempts:
            if other.status != "declined" or other.action is None or other.seq >= op.seq:
                continue
            permitted = RETRIED_AT_ONCE if other.round == op.round else by_itself
            if permitted and other.action not in permitted:
                yield f"{op.id} was tried after {other.id}, whose decline says {other.action}"


SPOKEN: Final = frozenset({"authorized", "captured", "declined", "not_processed"})
"""What an attempt can only be by an outcome that says something of its account."""
UNSPOKEN: Final = frozenset({"created", "sent", "requires_action", "pending"})
"""What it is before it has said anything, or after nobody knew its outcome: that is ``technical``."""
OUR_DOING: Final = frozenset({"step_not_kept", "account_not_configured", "no_lookup"})
"""Why nobody knows an outcome, where the account has no part in it."""


def evidence_is_kept(case: Case) -> Sentences:
    """An attempt whose outcome says something of its account has its word, with when and by which transaction; no other has one."""
    for op in case.operations:
        word = op.evidence_word
        if len({word is None, op.evidence_at is None, not op.evidenced}) > 1:
            yield f"{op.id} has half a word of evidence"
        elif word is not None and op.kind != "authorize":
            yield f"{op.id} is a {op.kind}, and says {word} of its account"
        elif word not in {None, "technical"} and op.status in UNSPOKEN:
            yield f"{op.id} is {op.status}, and says {word} of its account already"
        elif word is None and _speaks(op) and op.created_at >= case.evidence_since:
            yield f"{op.id} is {op.status}, and says nothing of its account"


def _speaks(op: OperationRecord) -> bool:
    if op.kind != "authorize" or (op.status == "declined" and op.action is None):
        return False
    return op.status in SPOKEN or (op.status == "unknown" and op.reason not in OUR_DOING)


def news_moves_forward(case: Case) -> Sentences:
    """Nothing that a provider tells by webhook takes a payment back to where it had been."""
    for change in case.changes:
        before, after = change.from_status, change.to_status
        settled = before in HELD | {"canceled", "failed"}
        undone = (before, after) == ("succeeded", "requires_capture")
        if change.source == "webhook" and settled and not undone and _RANK.get(after, 0) < _RANK.get(before or "", 0):
            yield f"change {change.seq}, a webhook's, takes it back from {before} to {after}"


_RANK: Final[Mapping[str, int]] = {
    "requires_payment_method": 0,
    "requires_confirmation": 0,
    "requires_action": 1,
    "processing": 1,
    "requires_capture": 2,
    "succeeded": 3,
    "canceled": 3,
    "failed": 3,
}


def one_key_per_operation(case: Case) -> Sentences:
    """Two operations never share a provider key."""
    for op in case.operations:
        if op.key_shared:
            yield f"{op.id} shares its provider key with another operation"
        if not op.provider_key or len(op.provider_key) > 64:
            yield f"{op.id} has no provider key that could be sent"


def in_review(case: Case, op: OperationRecord) -> bool:
    """Whether an operation of unknown outcome was handed to a person, or waits for a void that was: nobody else is to look at it."""
    if op.review_at is not None or op.kind != "authorize":
        return op.review_at is not None
    voids = [each for each in case.operations if each.releases_unknown and each.round == op.round and each.seq > op.seq]
    return any(void.status in OPEN and void.review_at is not None for void in voids)


def nothing_forgotten(case: Case) -> Sentences:
    """Whatever is open is due, or waits for somebody who will come."""
    p, moment = case.payment, case.moment
    for op in case.operations:
        if op.status not in OPEN or in_review(case, op):
            continue
        if op.due_at is None:
            yield f"{op.id} is {op.status}, and nobody will ever look at it"
        elif op.status in IN_FLIGHT and moment.at_rest:
            yield f"{op.id} is {op.status}, and everything is at rest"
        elif op.due_at < moment.now - moment.grace_s:
            yield f"{op.id} is {op.status}, and was due {moment.now - op.due_at:.0f} s ago"
    parked = p.processing_reason == "awaiting_retry" and p.status == "processing"
    if parked and p.updated_at < moment.now - PARKED_S - moment.grace_s:
        yield f"it has waited for its key for {moment.now - p.updated_at:.0f} s"
    if p.processing_reason == "retry_scheduled" and p.retry_at is None:
        yield "its retry is scheduled, and nobody will ever make it"
    elif p.retry_at is not None and p.retry_at < moment.now - moment.grace_s:
        yield f"its retry was due {moment.now - p.retry_at:.0f} s ago"
    if p.cancel_requested and moment.at_rest and p.status in {"canceled", "failed"}:
        yield f"it is {p.status}, and its cancel is still wanted"


def nothing_left_sealed(case: Case) -> Sentences:
    """A request that may never be sent again is wiped with the commit that ends it."""
    for op in case.operations:
        if op.sealed and op.status not in OPEN:
            yield f"{op.id} is {op.status}, and its request is still there"


def merchants_are_told(case: Case) -> Sentences:
    """A payment's merchant is told once of each status it came to, and of nothing that never was."""
    p, versions = case.payment, {change.seq for change in case.changes}
    for event in case.told:
        if event.sequence not in {None, *versions}:  # a notice or an incident is no change of it
            yield f"{event.type} tells of its version {event.sequence}, which there is not"
    if not p.amount:
        return
    for change in case.changes:
        moved = change.from_status not in {None, change.to_status} and change.to_status != "processing"
        if not moved or change.at < case.told_since:
            continue
        times = case.told.count(ToldRecord(change.seq, f"payment.{change.to_status}"))
        if times != 1:
            yield f"change {change.seq} made it {change.to_status}, and its merchant was told {times} times"


def tenants_apart(case: Case) -> Sentences:
    """What hangs on a payment is of the same merchant and mode."""
    p = case.payment
    for dispute in case.disputes:
        if (dispute.merchant_id, dispute.livemode) != (p.merchant_id, p.livemode):
            yield f"its dispute {dispute.id} is of {dispute.merchant_id}"


def keys_are_kept(case: Case) -> Sentences:
    """Every payment was opened by a key that is still there: without it, the same request would charge again."""
    if not case.keyed:
        yield "there is no key that has opened it" + ("" if case.looked_again else " (not looked up again)")


# --- One card ---------------------------------------------------------------------------------------------------------

DAY_S: Final = 86_400.0
MONTH_S: Final = 30 * DAY_S
UNDER_WAY_S: Final = 60.0
"""How long a charge may be at work: what is declined meanwhile, by a charge beside it, it could not know of."""


class Window(NamedTuple):
    """A ``network`` allows ``most`` declines of a card in ``seconds``; ``alike`` says which ones it counts together."""

    network: str
    most: int
    seconds: float
    alike: Callable[[CardDeclineRecord], tuple[object, ...]]


WINDOWS: Final = (
    Window("visa", 20, MONTH_S, lambda d: (d.amount, d.currency, d.merchant_initiated)),
    Window("mastercard", 10, DAY_S, lambda d: ()),
    Window("mastercard", 35, MONTH_S, lambda d: (d.amount, d.currency)),
)
"""What the networks allow before they charge for each retry. What is set may only be less."""
_NETWORKS: Final[Mapping[str | None, frozenset[str]]] = {
    "visa": frozenset({"visa"}),
    "mastercard": frozenset({"mastercard"}),
    "maestro": frozenset({"mastercard"}),
    None: frozenset({"visa", "mastercard"}),
}
"""Whose windows hold for a card; where nobody knows its network, all of them."""


def cards_within_limits(declines: Sequence[CardDeclineRecord], since: float) -> Iterator[tuple[str, str]]:
    """No attempt of a card was opened ``since`` while a window of its network was full: a payment and a sentence for each that was.

    ``declines`` are those of one card, over all accounts and payments. A decline counts for an attempt where it was recorded a moment
    before that was opened or earlier, and is still in the window.
    """
    for window in WINDOWS:
        counted = defaultdict(list)
        for each in declines:
            if window.network in _NETWORKS.get(each.network, ()):
                counted[window.alike(each)].append(each)
        for alike in counted.values():
            times = sorted(each.at for each in alike)
            for each in alike:
                oldest, newest = each.opened - window.seconds, each.opened - UNDER_WAY_S
                known = bisect_left(times, newest) - bisect_right(times, oldest)
                if known >= window.most and each.opened >= since:
                    hours = f"{window.seconds / 3600:.0f} hours"
                    detail = f"{each.operation_id} was opened after {known} declines of its card in {hours}, and {window.network}"
                    yield each.payment_id, f"{detail} allows {window.most}"


# --- One key ----------------------------------------------------------------------------------------------------------

DECIDED: Final = frozenset({200, 201, 402, 422})
"""The answers that are final. A payment that is on its way is answered 202, and that is never stored."""


def key_opens_something(case: KeyCase) -> Sentences:
    """A key names something that is there."""
    key = case.key
    if key.target_merchant is None:
        yield f"the key {key.key!r} has opened {key.opened}, which is not there"
    elif key.operation_id is not None and key.op_payment is None:
        yield f"the key {key.key!r} drives {key.operation_id}, which is not there"
    elif key.operation_id is not None and key.op_payment != key.opened:
        yield f"the key {key.key!r} of {key.opened} drives {key.operation_id}, which is of {key.op_payment}"


def key_is_of_its_tenant(case: KeyCase) -> Sentences:
    """A key opens nothing of another merchant, or of the other mode."""
    key = case.key
    if key.target_merchant is not None and (key.target_merchant, key.target_livemode) != (
        key.merchant_id,
        key.livemode,
    ):
        yield f"the key {key.key!r} of {key.merchant_id} has opened {key.opened} of {key.target_merchant}"


def key_stands_once(case: KeyCase) -> Sentences:
    """A merchant's key stands once in each mode."""
    if case.key.repeated:
        yield f"the key {case.key.key!r} of {case.key.merchant_id} stands more than once"


def key_answer_is_final(case: KeyCase) -> Sentences:
    """What is stored as an answer is a final one, and what it says is still so."""
    key = case.key
    if (key.status is None) != (key.answer is None):
        yield f"the key {key.key!r} has half an answer"
        return
    if key.status is None:
        return
    asked_for = (
        key.status == 202 and key.target_status is None
    )  # a publication: that it waits for somebody is the answer
    if key.status not in DECIDED and not asked_for:
        yield f"the key {key.key!r} keeps {key.status} as its final answer"
    if key.op_kind == "authorize" and key.status in {200, 201} and not key.paid_in_round + key.ended_in_round:
        yield f"the key {key.key!r} was answered {key.status}, and nothing of its round was approved"
    if key.op_kind not in {None, "authorize"} and not _follow_up_as_told(key.status, key.op_kind, key.op_status):
        yield f"the key {key.key!r} was answered {key.status}, and its {key.op_kind} is {key.op_status}"
    if case.unreadable:
        yield f"the stored answer of the key {key.key!r} cannot be opened"
    if case.told is not None:
        yield from _still_so(case, case.told)


def _follow_up_as_told(status: int, kind: str | None, op_status: str | None) -> bool:
    if status == 422:
        return op_status == "failed"
    taken_back = kind in {"capture", "refund"}  # done, and then undone by the provider
    return op_status == "succeeded" or (taken_back and op_status == "failed")


def _still_so(case: KeyCase, told: Mapping[str, object]) -> Sentences:
    """What an answer told of a payment of its own, against what that is now."""
    key, now = case.key, case.key.target_status
    if told.get("object") != "payment" or told.get("id") != key.opened or now is None:
        return
    was = told.get("status")
    gone_back = was in HELD and now not in HELD | {"canceled"}
    if gone_back or (was in {"canceled", "failed"} and now != was):
        yield f"the key {key.key!r} was told {was}, and {key.opened} is {now}"


def told_failed_is_unpaid(case: KeyCase) -> Sentences:
    """Who was told that a payment failed is never charged by the same request after all."""
    key = case.key
    if key.status == 402 and key.op_kind == "authorize" and key.paid_in_round + key.open_in_round:
        what = "approved" if key.paid_in_round else "still open"
        yield f"the key {key.key!r} was answered 402, and {key.opened} is {what} in the same round"


# --- One event --------------------------------------------------------------------------------------------------------


def event_is_applied(event: EventRecord, moment: Moment) -> Sentences:
    """An event that was stored is applied, or due to be."""
    if event.applied:
        return
    if event.due_at is None:
        yield f"the event {event.event_id} of {event.account} is not applied, and never will be"
    elif moment.at_rest and event.received_at < moment.now - moment.grace_s:
        yield f"the event {event.event_id} of {event.account} is not applied, and everything is at rest"
    elif event.due_at < moment.now - moment.grace_s:
        yield f"the event {event.event_id} of {event.account} was due {moment.now - event.due_at:.0f} s ago"
