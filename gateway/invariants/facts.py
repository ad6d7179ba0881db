"""What the invariants are judged on: rows as they stand in the database, and what the providers' own books and wire logs say.

Instants are seconds since 1970 in UTC, amounts are minor units. Nothing here is the gateway's opinion of a row: a column is read as
it was written, so a defect in the code that writes it cannot hide itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple


class PaymentRecord(NamedTuple):
    """A row of ``payment``."""

    id: str
    merchant_id: str
    livemode: bool
    version: int
    status: str
    processing_reason: str | None
    round: int
    amount: int
    currency: str
    capture_method: str
    amount_authorized: int
    amount_capturing: int
    amount_captured: int
    amount_refunding: int
    amount_refunded: int
    cancel_requested: bool
    created_at: float
    updated_at: float
    retry_at: float | None = None


class OperationRecord(NamedTuple):
    """A row of ``operation``. ``sealed``: it holds a request. ``key_shared``: another operation has the same provider key.

    ``releases_unknown``: it is the void of an attempt of unknown outcome, after which another account is asked. Of the record of how an
    attempt's account was chosen: ``first_routed`` is the account that its decision puts first, ``follows`` and ``decided_by`` are the
    attempts that the record of a further one names, and ``foreign_version`` says that the version that decided is not the merchant's
    in that mode. ``action`` is what its decline permits, and ``allowed_by`` the rule that allowed it where it is a retry.
    ``evidenced``: the transaction is noted that wrote its word of evidence.
    """

    id: str
    kind: str
    seq: int
    round: int
    account: str
    provider: str
    amount: int
    status: str
    reason: str | None
    provider_key: str
    provider_id: str | None
    due_at: float | None
    created_at: float
    updated_at: float
    sealed: bool
    key_shared: bool
    releases_unknown: bool
    review_at: float | None
    first_routed: str | None = None
    follows: str | None = None
    decided_by: str | None = None
    foreign_version: bool = False
    action: str | None = None
    allowed_by: str | None = None
    evidence_word: str | None = None
    evidence_at: float | None = None
    evidenced: bool = False


class ChangeRecord(NamedTuple):
    """A row of ``change``: one step of the payment's history."""

    seq: int
    at: float
    source: str
    news: str
    from_status: str | None
    to_status: str
    reason: str
    operation_id: str | None


class ToldRecord(NamedTuple):
    """A row of ``event``: what the merchant was told, and of which change."""

    sequence: int | None
    type: str


class DisputeRecord(NamedTuple):
    """A row of ``dispute``."""

    id: str
    merchant_id: str
    livemode: bool
    account: str


class KeyRecord(NamedTuple):
    """A row of ``idempotency_key`` with the rows that it names, as of the same moment.

    ``repeated``: another row has the same merchant, mode and key. ``target_*`` is the payment, or whatever else, that it opened;
    ``target_merchant`` is ``None`` where there is none. ``op_*`` is the operation it names, ``paid_in_round`` the live
    authorizations of that operation's round, and ``ended_in_round`` those that were and are released.
    """

    merchant_id: str
    livemode: bool
    key: str
    opened: str
    operation_id: str | None
    status: int | None
    answer: bytes | None
    created_at: float
    repeated: bool
    target_merchant: str | None
    target_livemode: bool | None
    target_status: str | None
    target_round: int | None
    op_payment: str | None
    op_kind: str | None
    op_status: str | None
    op_round: int | None
    paid_in_round: int
    ended_in_round: int
    open_in_round: int


class CardDeclineRecord(NamedTuple):
    """A row of ``declined_card``, with the payment of its attempt and when that was opened. ``at`` is when the decline was recorded."""

    operation_id: str
    payment_id: str
    opened: float
    at: float
    amount: int
    currency: str
    network: str | None
    merchant_initiated: bool


class EventRecord(NamedTuple):
    """A row of ``webhook_inbox``, without what was in the event."""

    id: int
    account: str
    event_id: str
    due_at: float | None
    received_at: float
    applied: bool


class Entry(NamedTuple):
    """One movement of money in a provider's own books, or a refused one.

    ``book`` is ``authorisations``, ``captures``, ``refunds``, ``voids``, ``declines`` or ``rejections``. ``reference`` is the operation
    of ours that caused it, as the provider was told; ``payment_reference`` is the attempt its payment came with. ``account`` is
    empty where it is not known. ``status`` of an authorization: ``authorised``, ``captured``, ``voided`` or ``expired``; of the
    others ``pending``, ``succeeded`` or ``failed``.
    """

    account: str
    book: str
    payment: str
    reference: str | None
    payment_reference: str | None
    amount: int
    currency: str
    status: str
    key: str | None
    at: float


class Arrival(NamedTuple):
    """One request as it arrived at a provider. ``body`` is a hash of its bytes; ``answered`` is ``None`` where no answer left."""

    account: str
    operation: str
    reference: str | None
    key: str | None
    path: str
    body: str
    at: float
    answered: float | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """What the providers say, as of ``taken_at`` (seconds since 1970): their books and, where there is one, their wire log.

    Both are read once, in any order, and may be longer than memory. Without ``taken_at`` they count as taken at the moment of each
    page that is compared with them: give it wherever the database goes on being written to. ``accounts`` are those whose books
    these are, complete once ``entries`` were read; ``None`` means every account. ``horizons`` says for how many seconds each
    provider certainly remembers a key, by its name; without it that is not checked.
    """

    entries: Iterable[Entry] = ()
    arrivals: Iterable[Arrival] | None = None
    taken_at: float | None = None
    horizons: Mapping[str, float] = field(default_factory=dict)
    accounts: AbstractSet[str] | None = None
    since: Mapping[str, float] = field(default_factory=dict)
    """By account, when its books were begun; what succeeded before is not looked for there. Without it they are whole."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When and how strictly is judged. ``taken_at`` is ``None`` where there are no books to compare with.

    ``accounts`` are those whose books there are, ``None`` where they are all.
    """

    now: float
    at_rest: bool
    grace_s: float
    taken_at: float | None = None
    horizons: Mapping[str, float] = field(default_factory=dict)
    accounts: AbstractSet[str] | None = None
    since: Mapping[str, float] = field(default_factory=dict)

    def covers(self, account: str, at: float) -> bool:
        """Whether the books of ``account`` are among those there are, and were begun before ``at``."""
        return (self.accounts is None or account in self.accounts) and at >= self.since.get(account, at)

    def comparable(self, at: float) -> bool:
        """Whether the books were taken long enough after ``at`` to tell of it."""
        return self.taken_at is not None and (self.at_rest or at <= self.taken_at - self.grace_s)


@dataclass(frozen=True, slots=True)
class Case:
    """One payment with all that is known of it, as of one moment of the database."""

    payment: PaymentRecord
    operations: Sequence[OperationRecord]
    changes: Sequence[ChangeRecord]
    disputes: Sequence[DisputeRecord]
    told: Sequence[ToldRecord]
    moment: Moment
    told_since: float
    """Since when merchants are told, and what they were told is kept."""
    evidence_since: float = math.inf
    """When the first word of evidence was written: attempts made before may have none."""
    entries: Sequence[Entry] = ()
    arrivals: Sequence[Arrival] = ()
    keyed: bool = True
    """Whether a key is there that opened it."""
    looked_again: bool = True
    """Whether the key that seems to be missing was looked for once more."""

    @property
    def attempts(self) -> list[OperationRecord]:
        """The authorizations, oldest first."""
        return [op for op in self.operations if op.kind == "authorize"]


@dataclass(frozen=True, slots=True)
class KeyCase:
    """One key with what it opened. ``told`` is its answer's body; ``unreadable``: it has one, and it could not be opened."""

    key: KeyRecord
    moment: Moment
    told: Mapping[str, object] | None = None
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which, about which payment (or key, or entry), and what is wrong in one sentence."""

    invariant: str
    payment_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. ``violations`` are the first of them, ``broken`` counts all by invariant."""

    violations: tuple[Violation, ...]
    broken: Mapping[str, int]
    rows: Mapping[str, int]
    """Rows read, by table."""
    entries: int
    arrivals: int
    checked: tuple[str, ...]
    """The invariants that were checked: without books those that need them are not."""
    accounts: tuple[str, ...] | None = None
    """The accounts whose books were compared; ``None`` where all were, or none."""
    answers: int = 0
    """Stored answers that were to be opened."""
    unreadable: int = 0
    """Those among them that could not be."""

    @property
    def found(self) -> int:
        """How many violations there are in all."""
        return sum(self.broken.values())

    @property
    def clean(self) -> bool:
        """Whether every promise holds."""
        return not self.broken
