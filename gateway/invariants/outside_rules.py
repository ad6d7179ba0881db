"""The promises that only the providers can show to be broken: one payment against their books and their wire logs.

Pure, like :mod:`gateway.invariants.rules`. On a system that is at work a payment is compared only once its last change is older than
the grace, since a provider and a database are never read at one instant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from gateway.invariants.facts import Arrival, Case, Entry, Moment, OperationRecord
from gateway.invariants.rules import OPEN, PAID, RELEASED, UNPAID, in_review

Sentences = Iterator[str]

SKEW_S: Final = 2.0
"""How far the clocks of a gateway and of a provider may be apart."""
_HELD_THERE: Final = frozenset({"authorised", "captured"})
_MOVES: Final = frozenset({"captures", "refunds"})


def is_held(entry: Entry) -> bool:
    """Whether it is an authorization that is not released."""
    return entry.book == "authorisations" and entry.status in _HELD_THERE


def is_moved(entry: Entry) -> bool:
    """Whether it is a capture or a refund that was not taken back."""
    return entry.book in _MOVES and entry.status != "failed"


def _about(entry: Entry) -> str:
    where = f" at {entry.account}" if entry.account else ""
    return f"{entry.payment}{where} ({entry.amount} {entry.currency}, {entry.status})"


def _comparable(case: Case) -> bool:
    return case.moment.comparable(case.payment.updated_at)


# --- Books ------------------------------------------------------------------------------------------------------------


def one_charge(case: Case) -> Sentences:
    """One authorization of a payment that is not released, over all providers; and nothing is captured or refunded twice."""
    held = [entry for entry in case.entries if is_held(entry)]
    if len(held) > 1 and _comparable(case):  # one that is being released is held until it is
        yield f"{len(held)} authorizations are held: {', '.join(map(_about, held))}"
    moved = [(entry.book, entry.reference) for entry in case.entries if is_moved(entry) and entry.reference is not None]
    for book, reference in sorted(set(moved)):
        if (times := moved.count((book, reference))) > 1:
            yield f"{reference} stands {times} times in the {book}"


def captured_within_held(case: Case) -> Sentences:
    """Σ captured in the books ≤ authorized in the books ≤ the payment's amount."""
    if not _comparable(case):
        return
    changing = any(op.kind == "increment" and op.status in OPEN for op in case.operations)
    for entry in case.entries:
        if entry.book != "authorisations":
            continue
        captured = _total(case, "captures", entry.payment)
        if captured > entry.amount:
            yield f"{captured} captured of {_about(entry)}"
        if entry.amount > case.payment.amount and not changing:
            yield f"{_about(entry)} is more than the payment's {case.payment.amount}"


def refunded_within_captured(case: Case) -> Sentences:
    """Σ refunded in the books ≤ Σ captured in the books."""
    for payment in sorted({entry.payment for entry in case.entries if entry.book == "refunds"}):
        captured, refunded = _total(case, "captures", payment), _total(case, "refunds", payment)
        if refunded > captured:
            yield f"{refunded} refunded of {captured} captured at {payment}"


def _total(case: Case, book: str, payment: str) -> int:
    return sum(e.amount for e in case.entries if e.book == book and e.payment == payment and is_moved(e))


def nothing_lost(case: Case) -> Sentences:
    """Money that a provider holds or has moved is known here, by the operation that caused it."""
    operations = {op.id: op for op in case.operations}
    for entry in case.entries:
        if not (is_held(entry) or is_moved(entry)) or not case.moment.comparable(entry.at):
            continue
        op = operations.get(entry.reference or "")
        if op is None or op.kind not in _CAUSES[entry.book]:
            yield f"{_about(entry)} in the {entry.book} belongs to {entry.reference}, which is no operation of it"
        elif entry.account and entry.account != op.account:
            yield f"{_about(entry)} stands for {op.id}, which is at {op.account}"
        elif _comparable(case) and not _is_known(case, op, entry):
            yield f"{_about(entry)} in the {entry.book} is {op.id}, which is {op.status} here"


_CAUSES: Final = {
    "authorisations": frozenset({"authorize"}),
    "captures": frozenset({"authorize", "capture"}),
    "refunds": frozenset({"refund"}),
}


def _is_known(case: Case, op: OperationRecord, entry: Entry) -> bool:
    """Whether the operation says, or may still come to say, what the provider's books say."""
    if op.status in OPEN:  # what is due, or with a person, is not lost
        return not case.moment.at_rest or entry.status == "pending" or in_review(case, op)
    if entry.book == "authorisations" and case.payment.status in UNPAID:
        return True  # worse than lost: told_failed_is_unpaid says it
    if entry.book == "captures" and op.kind == "authorize":
        return op.status == "captured"
    if entry.book == "authorisations" and op.status in RELEASED and case.payment.amount_captured:
        return True  # what was captured of it stays; a book need not say what became of the rest
    return op.status in PAID | {"succeeded"}


def told_failed_is_unpaid(case: Case) -> Sentences:
    """A payment that the merchant was told is unpaid holds no money anywhere."""
    if case.payment.status not in UNPAID or not _comparable(case):
        return
    for entry in case.entries:
        if is_held(entry):
            yield f"it is {case.payment.status}, and {_about(entry)} is held"


def no_phantom(case: Case) -> Sentences:
    """What succeeded here stands in the books of its account, where there are any, with the same amount and currency."""
    if not _comparable(case):
        return
    by_cause = {(entry.book, entry.reference): entry for entry in case.entries if entry.status != "failed"}
    for op in case.operations:
        if op.amount == 0:  # a verification moves nothing, and not every provider writes it down
            continue
        if not case.moment.covers(op.account, op.created_at):
            continue
        for book, amount in _expected(case, op):
            entry = by_cause.get((book, op.id))
            if entry is None:
                yield f"{op.id} at {op.account} is {op.status}, and is not in the {book}"
            elif entry.currency != case.payment.currency or not _same(case, book, entry.amount, amount):
                yield f"{op.id} is {amount} {case.payment.currency} here, and {_about(entry)} there"
            elif book == "authorisations" and entry.status == "voided" and not _being_voided(case):
                yield f"{op.id} is {op.status} here, and {_about(entry)} there"


def _being_voided(case: Case) -> bool:
    return any(op.kind == "void" and op.status in OPEN for op in case.operations)


def _expected(case: Case, op: OperationRecord) -> Iterator[tuple[str, int]]:
    """The books in which an operation that succeeded must stand, with its amount."""
    if op.kind == "authorize" and op.status in PAID:
        yield "authorisations", case.payment.amount_authorized
        if op.status == "captured":
            yield "captures", case.payment.amount_authorized
    if op.kind == "capture" and op.status == "succeeded":
        yield "captures", op.amount
    if op.kind == "refund" and op.status == "succeeded":
        yield "refunds", op.amount


def _same(case: Case, book: str, there: int, here: int) -> bool:
    """Whether two amounts are the same. An authorization that was changed may be lower there than what was captured before."""
    changes = [op.status for op in case.operations if op.kind == "increment"]
    if book == "authorisations" and changes:
        return any(status in OPEN for status in changes) or there == here or (there < here and "succeeded" in changes)
    return there == here


# --- Wire logs --------------------------------------------------------------------------------------------------------


def written_before_sent(case: Case) -> Sentences:
    """An operation is committed before its first request arrives."""
    operations = {op.id: op for op in case.operations}
    for arrival in case.arrivals:
        op = operations.get(arrival.reference or "")
        if op is not None and arrival.at < op.created_at - SKEW_S:
            yield f"{op.id} was made {op.created_at - arrival.at:.0f} s after {arrival.path} had its request"


def one_key_per_request(case: Case) -> Sentences:
    """Whatever is sent again is the same bytes under the same key, and no key serves two requests."""
    by_key: dict[str, set[tuple[str, str]]] = defaultdict(set)
    by_request: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    own_path: dict[tuple[str, str], str] = {}
    for arrival in sorted(case.arrivals, key=lambda each: each.at):
        if arrival.key is None:  # it asks and changes nothing
            continue
        by_key[arrival.key].add((arrival.path, arrival.body))
        if arrival.reference is None:
            continue
        # What completes a challenge goes elsewhere, under a key that follows from what the shopper brought.
        path = own_path.setdefault((arrival.reference, arrival.operation), arrival.path)
        if arrival.path == path:
            by_request[arrival.reference, arrival.path, arrival.body].add(arrival.key)
    for key, requests in by_key.items():
        if len(requests) > 1:
            yield f"{len(requests)} different requests went out under the key {key}"
    for (reference, path, _), keys in by_request.items():
        if len(keys) > 1:
            yield f"the request of {reference} to {path} went out under {len(keys)} keys"


def asked_one_after_the_other(case: Case) -> Sentences:
    """No other account is asked before it is known what came of the attempt before."""
    attempts = sorted(case.attempts, key=lambda op: op.seq)
    for op, following in pairwise(attempts):
        asked = _asking(case, {op.id})
        after = min((arrival.at for arrival in _asking(case, {following.id})), default=None)
        if not asked or after is None:
            continue
        known = _known_at(case, op, following, asked)
        if known is None or known > after:
            yield f"{following.account} was asked for {following.id} before {op.account} had answered for {op.id}"


def _asking(case: Case, ids: set[str]) -> list[Arrival]:
    return [each for each in case.arrivals if each.reference in ids and each.operation in _ASKS and each.key]


_ASKS: Final = frozenset({"authorize", "void"})


def _known_at(case: Case, op: OperationRecord, following: OperationRecord, asked: list[Arrival]) -> float | None:
    """When an attempt's end was first known here: its provider answered, or to the void of it, or told it otherwise."""
    voids = {each.id for each in case.operations if each.kind == "void" and op.seq < each.seq < following.seq}
    answers = [*asked, *_asking(case, voids)]
    told = [
        change.at - SKEW_S
        for change in case.changes
        if change.operation_id in {op.id, *voids} and change.source != "call" and change.news in _ENDS
    ]
    return min([*told, *(each.answered for each in answers if each.answered is not None)], default=None)


_ENDS: Final = frozenset({"Approved", "Declined", "Resolved"})
"""News of an end. That nothing happened is believed of a call alone, and there the provider's answer, or its silence, shows it."""


def within_horizon(case: Case) -> Sentences:
    """No key is sent again once its provider may have forgotten it: it would be charged as new."""
    operations = {op.id: op for op in case.operations}
    sent: dict[str, list[Arrival]] = defaultdict(list)
    for arrival in case.arrivals:
        if arrival.key is not None and arrival.reference in operations:
            sent[arrival.key].append(arrival)
    for key, arrivals in sent.items():
        op = operations[arrivals[0].reference or ""]
        horizon_s, times = case.moment.horizons.get(op.provider), [arrival.at for arrival in arrivals]
        if horizon_s is not None and max(times) - min(times) > horizon_s:
            yield f"{op.id} was sent again under {key} after {max(times) - min(times):.0f} s; it is kept for {horizon_s:.0f} s"


# --- What belongs to nobody -------------------------------------------------------------------------------------------


def stray_entry(entry: Entry, moment: Moment) -> str | None:
    """What is wrong with an entry that names no operation of ours, or ``None``."""
    if not (is_held(entry) or is_moved(entry)) or not moment.comparable(entry.at):
        return None
    return f"{_about(entry)} in the {entry.book} belongs to {entry.reference}, which is nowhere here"


def stray_arrival(arrival: Arrival, moment: Moment) -> str | None:
    """What is wrong with a request for an operation that is not there, or ``None``."""
    if not moment.comparable(arrival.at):
        return None
    return f"{arrival.path} had a request for {arrival.reference}, which was never written"
