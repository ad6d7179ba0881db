"""The table of invariants: what is promised, in one sentence each, and the checks that would show it broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.invariants import outside_rules as outside
from gateway.invariants import rules
from gateway.invariants.facts import Arrival, CardDeclineRecord, Case, Entry, EventRecord, KeyCase, Moment

Check = Callable[[Case], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise, and how it is looked at.

    ``rows``, ``key``, ``event`` and ``card`` need the database alone. ``books`` and ``entry`` need the providers' books, ``wire`` and ``arrival``
    their wire logs; ``entry`` and ``arrival`` look at what names no operation that is here.
    """

    name: str
    says: str
    rows: Check | None = None
    key: Callable[[KeyCase], Iterator[str]] | None = None
    event: Callable[[EventRecord, Moment], Iterator[str]] | None = None
    card: Callable[[Sequence[CardDeclineRecord], float], Iterator[tuple[str, str]]] | None = None
    books: Check | None = None
    entry: Callable[[Entry, Moment], str | None] | None = None
    wire: Check | None = None
    arrival: Callable[[Arrival, Moment], str | None] | None = None

    @property
    def needs(self) -> str:
        """What it is judged on, in words."""
        parts = {
            "database": self.rows or self.key or self.event or self.card,
            "books": self.books or self.entry,
            "wire log": self.wire or self.arrival,
        }
        return ", ".join(name for name, check in parts.items() if check is not None)

    def is_checked(self, *, books: bool, wire: bool) -> bool:
        """Whether anything of it can be checked with what there is."""
        return "database" in self.needs or (books and "books" in self.needs) or (wire and "wire log" in self.needs)


INVARIANTS: Final[tuple[Invariant, ...]] = (
    Invariant(
        "no_double_charge",
        "Of a payment at most one authorization is held over all providers, and nothing is captured or refunded twice.",
        books=outside.one_charge,
    ),
    Invariant(
        "one_live_attempt",
        "A payment has at most one authorization that is live, and at most one that is open.",
        rows=rules.one_live_attempt,
    ),
    Invariant(
        "captured_within_authorized",
        "What is captured never exceeds what is authorized, and that never the payment's amount.",
        rows=rules.within_authorized,
        books=outside.captured_within_held,
    ),
    Invariant(
        "refunded_within_captured",
        "What is refunded never exceeds what is captured.",
        rows=rules.within_captured,
        books=outside.refunded_within_captured,
    ),
    Invariant(
        "nothing_lost",
        "Whatever a provider holds or has moved is known here, by the operation that caused it.",
        books=outside.nothing_lost,
        entry=outside.stray_entry,
    ),
    Invariant(
        "no_phantom",
        "Whatever succeeded here stands in the provider's books, with the same amount and currency.",
        books=outside.no_phantom,
    ),
    Invariant(
        "told_failed_is_unpaid",
        "Where the merchant was told that a payment failed, no money is held or taken, ever after.",
        key=rules.told_failed_is_unpaid,
        books=outside.told_failed_is_unpaid,
    ),
    Invariant(
        "written_before_sent",
        "An operation is written before its first request arrives at a provider.",
        wire=outside.written_before_sent,
        arrival=outside.stray_arrival,
    ),
    Invariant(
        "one_key_per_operation",
        "What is sent again is the same bytes under the same key, and two operations never share a key.",
        rows=rules.one_key_per_operation,
        wire=outside.one_key_per_request,
    ),
    Invariant(
        "nobody_else_while_open",
        "While an attempt may still move money, no other account is asked.",
        rows=rules.nobody_else_while_open,
        wire=outside.asked_one_after_the_other,
    ),
    Invariant(
        "within_horizon",
        "No key is sent again once its provider may have forgotten it.",
        wire=outside.within_horizon,
    ),
    Invariant(
        "answers_are_final",
        "What is kept as a key's answer is a final one, and what it told is still so.",
        key=rules.key_answer_is_final,
    ),
    Invariant(
        "keys_stand_once",
        "A key stands once for each merchant and mode, whatever else it is sent with.",
        key=rules.key_stands_once,
    ),
    Invariant(
        "keys_are_kept",
        "A key opens something that is there, and every payment was opened by a key that is there.",
        rows=rules.keys_are_kept,
        key=rules.key_opens_something,
    ),
    Invariant(
        "tenants_apart",
        "A merchant's keys and disputes are about that merchant's payments, in the same mode.",
        rows=rules.tenants_apart,
        key=rules.key_is_of_its_tenant,
    ),
    Invariant(
        "history_is_whole",
        "A payment's history has no gap, tells of every success, and ends with what the payment is.",
        rows=rules.history_is_whole,
    ),
    Invariant(
        "steps_are_legal",
        "Every step of a payment is one that may be taken, and every operation is what it may be.",
        rows=rules.steps_are_legal,
    ),
    Invariant(
        "decisions_are_followed",
        "Every attempt is at the account that the decision on record says, made by a version of its merchant's own.",
        rows=rules.decisions_are_followed,
    ),
    Invariant(
        "retries_are_allowed",
        "After a decline no account is asked again by itself, at once or later, unless that decline permits it.",
        rows=rules.retries_are_allowed,
    ),
    Invariant(
        "cards_within_limits",
        "No live card is sent once it was declined as often as its network allows, over all accounts and payments.",
        card=rules.cards_within_limits,
    ),
    Invariant(
        "evidence_is_kept",
        "An attempt whose outcome says something of its account says it in one word, written with that outcome; no other does.",
        rows=rules.evidence_is_kept,
    ),
    Invariant("status_agrees", "A payment's status is what its operations say.", rows=rules.status_agrees),
    Invariant(
        "amounts_are_sums",
        "What is captured and refunded is the sum of the operations that did it.",
        rows=rules.amounts_are_sums,
    ),
    Invariant(
        "reservations_are_sums",
        "What is reserved is the sum of the operations on their way; once none is, it is nothing.",
        rows=rules.reservations_are_sums,
    ),
    Invariant(
        "news_moves_forward",
        "No webhook takes a payment back, and every event is applied or due.",
        rows=rules.news_moves_forward,
        event=rules.event_is_applied,
    ),
    Invariant(
        "merchants_are_told",
        "Each status that a payment comes to is told once, in the commit that brings it there, and nothing else is.",
        rows=rules.merchants_are_told,
    ),
    Invariant(
        "nothing_forgotten",
        "Whatever is open is due, or waits for somebody who will come; at rest nothing is in flight.",
        rows=rules.nothing_forgotten,
    ),
    Invariant(
        "nothing_left_sealed",
        "A request that may never be sent again is wiped with the commit that ends it.",
        rows=rules.nothing_left_sealed,
    ),
)
"""Every promise that is checked, in the order in which it is printed."""
