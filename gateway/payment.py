"""A payment as a value: what was asked for, where it stands, and what was asked of its providers.

Values only: what changes them is decided in ``gateway.lifecycle``. A payment's ``version`` counts its changes; the row
``change(payment_id, seq)`` of that number tells what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from providers.contract import Approved, CardFacts, Declined, Kind, NotProcessed, Outcome, ThreeDSecure, Unknown
from providers.declines import Action, Decline
from providers.money import Money
from routing.plan import Plan
from routing.retries import DEFAULTS, Budget


class Status(StrEnum):
    """What a payment waits for: each status says what to do next."""

    REQUIRES_PAYMENT_METHOD = "requires_payment_method"
    REQUIRES_CONFIRMATION = "requires_confirmation"
    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    REQUIRES_CAPTURE = "requires_capture"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a payment is ``processing``; none while its attempt is on the way for the first time."""

    PENDING_AT_PROVIDER = "pending_at_provider"
    OUTCOME_UNKNOWN = "outcome_unknown"
    AWAITING_RETRY = "awaiting_retry"
    """Nothing is open at any provider: the same key drives the payment on, else it ends after 15 minutes."""
    RETRY_SCHEDULED = "retry_scheduled"
    """Declined for now, with nothing open at any provider: the worker tries it again at the payment's ``retry_at``."""


class OperationStatus(StrEnum):
    """Where one operation at a PSP stands. Authorizations use all but ``succeeded`` and ``failed``, the others only some."""

    CREATED = "created"
    SENT = "sent"
    REQUIRES_ACTION = "requires_action"
    PENDING = "pending"
    UNKNOWN = "unknown"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    DECLINED = "declined"
    NOT_PROCESSED = "not_processed"
    VOIDED = "voided"
    EXPIRED = "expired"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


S = OperationStatus
REJECTED: Final = "rejected"
"""A provider would not even look at the request: the request is wrong, and stays wrong."""
IN_FLIGHT: Final = frozenset({S.CREATED, S.SENT, S.UNKNOWN})
"""Open, and it is for us to find out what became of it: a lease guards who does."""
OPEN: Final = IN_FLIGHT | {S.REQUIRES_ACTION, S.PENDING}
"""The operation may still move money. While an authorization is open, no other account is asked."""

FAILOVER: Final = "failover"
"""Why an attempt of unknown outcome is voided: so that another account may be asked."""
ALLOWED_BY: Final = "allowed_by"
"""Under which an attempt that is not the first has the rule that allowed it (``routing.retries.Rule``)."""
ANSWERS_DISPUTE: Final = frozenset({Kind.DEFEND, Kind.ACCEPT})
"""What is asked about a dispute: it moves none of the payment's amounts."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Everything we ask of a PSP, as a value. ``amount`` is in minor units of the payment's currency."""

    id: str
    kind: Kind
    seq: int
    round: int
    account: str
    provider: str
    amount: int
    status: S
    provider_key: str
    epoch: int = 1
    tries: int = 0
    provider_id: str | None = None
    decline: Decline | None = None
    final: bool = True
    reason: str | None = None
    metadata: Mapping[str, str] | None = None
    challenged: bool = False
    """Whether the shopper was asked to authenticate: after that nobody else is asked, whatever comes of it."""
    created_at: datetime | None = None
    review_at: datetime | None = None
    """When it was put before a person, because nobody could tell its outcome."""
    evidence: Mapping[str, Any] | None = None
    """What was heard until then, and what the person found."""
    decision: Mapping[str, Any] | None = field(default=None, repr=False)
    """How an attempt's account was chosen (``gateway.routes``); ``None`` for other operations, and before that was recorded."""
    trace: str | None = None
    """The span that it was opened under (``gateway.tracing``), as a W3C ``traceparent``; ``None`` where nobody traced."""

    @property
    def in_review(self) -> bool:
        """Whether it waits for a person."""
        return self.review_at is not None and self.status in {S.UNKNOWN, S.PENDING}

    @property
    def allowed_by(self) -> str | None:
        """The rule that allowed this attempt, where it is not the first."""
        return (self.metadata or {}).get(ALLOWED_BY)

    @property
    def releases_unknown(self) -> bool:
        """Whether it is the void of an attempt of unknown outcome, after which another account is asked."""
        return self.kind is Kind.VOID and (self.metadata or {}).get("purpose") == FAILOVER

    def outcome(self, currency: str) -> Outcome:
        """What an authorization's recorded status says to the plan."""
        match self.status:
            case S.AUTHORIZED | S.CAPTURED:
                amount = Money(self.amount, currency)
                return Approved(self.provider_id or "", amount, captured=self.status is S.CAPTURED)
            case S.DECLINED | S.EXPIRED if self.decline is not None:
                return Declined(self.decline, self.provider_id)
            case S.NOT_PROCESSED:
                return NotProcessed("not_sent")
            case S.VOIDED if self.reason == FAILOVER:  # proved: it holds nothing, and never will
                return NotProcessed("not_sent")
            case S.DECLINED | S.VOIDED | S.EXPIRED:
                return Declined(Decline("cancelled", "hard", Action.DO_NOT_RETRY), self.provider_id)
            case _:
                return Unknown("open")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the merchant asked for, fixed when the payment is created but for three things.

    An authorization that is changed changes ``amount``, ``off_session`` ends when the shopper comes to authenticate, and a
    payment that named nobody takes the ``customer`` of the method it is confirmed with. An ``amount`` of zero is a verification of a payment method.
    """

    id: str
    merchant_id: str
    livemode: bool
    amount: int
    currency: str
    capture_method: str
    off_session: bool
    created_at: datetime
    reference: str | None = None
    customer: str | None = None
    description: str | None = None
    statement_descriptor: str | None = None
    return_url: str | None = None
    setup_future_usage: str | None = None
    recurring: str | None = None
    network_transaction_id: str | None = None
    pinned_account: str | None = None
    three_d_secure: str | None = None
    adjustable: bool | None = None
    retry_until: datetime | None = None
    """Until when a payment without its shopper is tried again by itself."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    billing_details: Mapping[str, Any] = field(default_factory=dict)
    shopper: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as a value: its terms, its state, and the operations it has asked of providers. Amounts in minor units.

    ``version`` 0 is a payment that is not written yet.
    """

    terms: Terms
    status: Status
    updated_at: datetime
    version: int = 0
    processing_reason: Reason | None = None
    round: int = 0
    route: tuple[str, ...] = ()
    amount_authorized: int = 0
    amount_capturing: int = 0
    amount_captured: int = 0
    amount_refunding: int = 0
    amount_refunded: int = 0
    cancel_requested: bool = False
    cancellation_reason: str | None = None
    payment_method: str | None = None
    account: str | None = None
    provider: str | None = None
    provider_payment_id: str | None = None
    network_transaction_id: str | None = None
    auth_code: str | None = None
    avs: str | None = None
    cvc: str | None = None
    card: CardFacts | None = None
    three_d_secure: ThreeDSecure | None = None
    capture_before: datetime | None = None
    decline: Decline | None = None
    next_action: Mapping[str, Any] | None = None
    retry_at: datetime | None = None
    """When it is tried again by itself, while it waits for that."""
    operations: tuple[Operation, ...] = ()

    @property
    def amount_capturable(self) -> int:
        """What a capture may still ask for. A final partial capture releases the rest, so then it is zero."""
        if self.status is not Status.REQUIRES_CAPTURE:
            return 0
        return self.amount_authorized - self.amount_captured - self.amount_capturing

    @property
    def amount_refundable(self) -> int:
        """What a refund may still ask for."""
        return self.amount_captured - self.amount_refunded - self.amount_refunding

    @property
    def attempts(self) -> tuple[Operation, ...]:
        """The authorizations, oldest first."""
        return tuple(operation for operation in self.operations if operation.kind is Kind.AUTHORIZE)

    @property
    def open_attempt(self) -> Operation | None:
        """The authorization that may still move money; there is at most one (a unique index holds it)."""
        return next((attempt for attempt in self.attempts if attempt.status in OPEN), None)

    @property
    def voidable(self) -> Operation:
        """The authorization that a void is about: the one that is open, or the last."""
        return self.open_attempt or self.attempts[-1]

    @property
    def in_review(self) -> bool:
        """Whether one of its operations waits for a person."""
        return any(operation.in_review for operation in self.operations)

    @property
    def open_voids(self) -> tuple[Operation, ...]:
        """The voids of this round that are on their way. One of an earlier round has nothing to say about this one."""
        return tuple(
            op for op in self.operations if op.kind is Kind.VOID and op.round == self.round and op.status in OPEN
        )

    def failover_void(self, attempt: Operation) -> Operation | None:
        """The void on its way that is to end ``attempt``, so that another account may be asked."""
        if attempt.kind is not Kind.AUTHORIZE or attempt.round != self.round:
            return None
        return next((op for op in self.open_voids if op.releases_unknown and op.seq > attempt.seq), None)

    @property
    def trace(self) -> str | None:
        """The trace that its last operation belongs to: what nobody asked for by a request goes on in it."""
        return self.operations[-1].trace if self.operations else None

    @property
    def steps_up(self) -> bool:
        """Whether it waits for its shopper to come and authenticate, with no attempt open anywhere."""
        return self.status is Status.REQUIRES_ACTION and self.open_attempt is None

    def operation(self, operation_id: str) -> Operation:
        """The operation of that id. Raises ``KeyError`` for one that is not this payment's."""
        for operation in self.operations:
            if operation.id == operation_id:
                return operation
        raise KeyError(operation_id)

    def with_operation(self, operation: Operation) -> Payment:
        """The payment with a newer state of one of its operations."""
        return replace(self, operations=replaced(self.operations, operation))

    def plan(self, news: Mapping[str, Outcome] = MappingProxyType({}), *, budget: Budget | None = None) -> Plan:
        """The plan of the current round, folded from the attempts already there, with ``news`` of some by operation id.

        ``budget`` is what the charge may use as it is set; without it that is the default.
        """
        currency = self.terms.currency
        history = [
            (attempt.account, news.get(attempt.id) or attempt.outcome(currency))
            for attempt in self.attempts
            if attempt.round == self.round
        ]
        return Plan.resume(self.route, history, budget=budget or DEFAULTS.budget(off_session=self.terms.off_session))


def replaced(operations: tuple[Operation, ...], changed: Operation) -> tuple[Operation, ...]:
    """The operations with a newer state of one of them."""
    return tuple(changed if operation.id == changed.id else operation for operation in operations)
