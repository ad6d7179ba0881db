"""The table of invariants: what is promised, in one sentence each, and the checks that would show it broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.invariants import rules
from gateway.invariants.facts import Case, KeyCase

Check = Callable[[Case], Iterator[str]]
KeyCheck = Callable[[KeyCase], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise. ``rows`` needs the database alone, ``books`` the providers' books, ``wire`` their wire logs."""

    name: str
    says: str
    rows: Check | None = None
    key: KeyCheck | None = None
    books: Check | None = None
    wire: Check | None = None


INVARIANTS: Final[tuple[Invariant, ...]] = (
    Invariant(
        "one_live_attempt",
        "A payment has at most one authorization that is live, and at most one that is open.",
        rows=rules.one_live_attempt,
    ),
    Invariant(
        "nobody_else_while_open",
        "While an attempt may still move money, no other account is asked.",
        rows=rules.nobody_else_while_open,
    ),
    Invariant(
        "within_authorized",
        "Captured amounts never exceed the authorized one, and that never the payment's.",
        rows=rules.within_authorized,
    ),
    Invariant("within_captured", "Refunded amounts never exceed the captured one.", rows=rules.within_captured),
    Invariant(
        "amounts_are_sums", "Captured and refunded amounts are the sums of the operations.", rows=rules.amounts_are_sums
    ),
    Invariant(
        "reservations_are_sums",
        "What is reserved is the sum of what is on its way; at rest that is nothing.",
        rows=rules.reservations_are_sums,
    ),
    Invariant("status_agrees", "A payment's status is what its operations say.", rows=rules.status_agrees),
    Invariant(
        "history_is_whole",
        "The history of a payment has no gap, and ends with what the payment is.",
        rows=rules.history_is_whole,
    ),
    Invariant("steps_are_legal", "Every step of a payment is one that may be taken.", rows=rules.steps_are_legal),
)
"""Every promise that is checked, in the order in which it is printed."""
