"""The tables of this room. The schema itself is made by the migrations; a test holds the two together.

What carries the safety is in the database, behind the code: one open authorization a payment, one live success a payment,
amounts that can never exceed what was authorized or captured, and a history that the application role cannot rewrite.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import UserDefinedType
from sqlmodel import Field, SQLModel

OPEN_SQL: Final = "status IN ('created', 'sent', 'requires_action', 'pending', 'unknown')"

ID: Final = Text(collation="C")
"""Our ids sort by time; the C collation keeps that order whatever the database's locale is.

``merchant_id`` has no foreign key on the hot tables: it comes from the credential, and every insert would lock the same row.
"""
INSTANT: Final = DateTime(timezone=True)


class Xid8(UserDefinedType[int]):
    """A transaction's number, as ``pg_current_xact_id()`` gives it: 64 bits, never used twice in the life of a cluster."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Its name in DDL and in casts."""
        return "xid8"


class Merchant(SQLModel, table=True):
    """Who owns payments, accounts and keys."""

    __tablename__ = "merchant"

    id: str = Field(sa_type=ID, primary_key=True)
    name: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=INSTANT)


class ApiKey(SQLModel, table=True):
    """An API key, kept as a keyed hash. ``version`` pins the API version its requests get by default."""

    __tablename__ = "api_key"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("merchant.id")])
    kind: str = Field(sa_type=Text)
    livemode: bool = Field(sa_type=Boolean)
    secret_hash: bytes = Field(sa_type=LargeBinary)
    version: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=INSTANT)
    revoked_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (CheckConstraint("kind IN ('secret', 'publishable')", name="api_key_kind"),)


class Customer(SQLModel, table=True):
    """Who pays, as a merchant knows them. ``personal`` holds what identifies a person and is erased with the customer."""

    __tablename__ = "customer"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    reference: str | None = Field(default=None, sa_type=Text, nullable=True)
    metadata_: dict[str, str] = Field(sa_type=JSONB, sa_column_kwargs={"name": "metadata"})
    personal: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)
    deleted_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (
        Index("customer_by_merchant", "merchant_id", "livemode", "id"),
        Index("customer_by_reference", "merchant_id", "livemode", "reference", "id"),
    )


class PaymentMethod(SQLModel, table=True):
    """What a shopper pays with: a token an account, or a card sealed at rest. Display data never holds the number.

    What may be empty in a row of an older version may be empty here. A deleted row stays for the history of its payments, with
    nothing left in it that could be charged. ``dead_tokens`` are those that an account charges no more: told late, they do not
    come back. ``card_told_at`` is when a provider told of the card what is known of it.
    """

    __tablename__ = "payment_method"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    type: str = Field(sa_type=Text)
    tokens: dict[str, str] = Field(sa_type=JSONB)
    card: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    sealed_card: bytes | None = Field(default=None, sa_type=LargeBinary, nullable=True)
    sealed_cvc: bytes | None = Field(default=None, sa_type=LargeBinary, nullable=True)
    reusable: bool = Field(sa_type=Boolean)
    wipe_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    customer: str | None = Field(default=None, sa_type=Text, nullable=True)
    fingerprint: str | None = Field(default=None, sa_type=Text, nullable=True)
    network_transaction_id: str | None = Field(default=None, sa_type=Text, nullable=True)
    metadata_: dict[str, str] | None = Field(
        default=None, sa_type=JSONB, nullable=True, sa_column_kwargs={"name": "metadata"}
    )
    personal: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    verification_id: str | None = Field(default=None, sa_type=ID, nullable=True)
    updated_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    deleted_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    dead_tokens: list[str] | None = Field(default=None, sa_type=ARRAY(Text), nullable=True)
    card_told_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (
        Index(
            "payment_method_by_token",
            "tokens",
            postgresql_using="gin",
            postgresql_ops={"tokens": "jsonb_path_ops"},
            postgresql_where=text("reusable"),
        ),
        Index(
            "payment_method_by_dead_token",
            "dead_tokens",
            postgresql_using="gin",
            postgresql_where=text("dead_tokens IS NOT NULL"),
        ),
        Index("payment_method_wipe", "wipe_at", postgresql_where=text("wipe_at IS NOT NULL")),
        Index("payment_method_sealed", "id", postgresql_where=text("sealed_card IS NOT NULL")),
        Index("payment_method_by_merchant", "merchant_id", "livemode", "id", postgresql_where=text("reusable")),
        Index(
            "payment_method_by_customer",
            "merchant_id",
            "customer",
            "id",
            postgresql_where=text("reusable AND customer IS NOT NULL"),
        ),
        Index(
            "payment_method_by_fingerprint",
            "merchant_id",
            "fingerprint",
            "id",
            postgresql_where=text("reusable AND fingerprint IS NOT NULL"),
        ),
    )


class PaymentRow(SQLModel, table=True):
    """A payment's present state. Amounts in minor units; personal data sits in ``personal``, which may be erased.

    An amount of zero is a verification of a payment method: the API takes none for a payment.
    """

    __tablename__ = "payment"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    version: int = Field(sa_type=Integer)
    status: str = Field(sa_type=Text)
    processing_reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    round: int = Field(sa_type=Integer)
    route: list[str] = Field(sa_type=ARRAY(Text))
    amount: int = Field(sa_type=BigInteger)
    currency: str = Field(sa_type=Text)
    capture_method: str = Field(sa_type=Text)
    off_session: bool = Field(sa_type=Boolean)
    amount_authorized: int = Field(sa_type=BigInteger)
    amount_capturing: int = Field(sa_type=BigInteger)
    amount_captured: int = Field(sa_type=BigInteger)
    amount_refunding: int = Field(sa_type=BigInteger)
    amount_refunded: int = Field(sa_type=BigInteger)
    cancel_requested: bool = Field(sa_type=Boolean)
    cancellation_reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    payment_method_id: str | None = Field(default=None, sa_type=ID, nullable=True)
    account: str | None = Field(default=None, sa_type=Text, nullable=True)
    provider: str | None = Field(default=None, sa_type=Text, nullable=True)
    provider_payment_id: str | None = Field(default=None, sa_type=Text, nullable=True)
    network_transaction_id: str | None = Field(default=None, sa_type=Text, nullable=True)
    auth_code: str | None = Field(default=None, sa_type=Text, nullable=True)
    checks: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    card: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    three_d_secure: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    capture_before: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    decline: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    next_action: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    retry_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    reference: str | None = Field(default=None, sa_type=Text, nullable=True)
    customer: str | None = Field(default=None, sa_type=Text, nullable=True)
    metadata_: dict[str, str] = Field(sa_type=JSONB, sa_column_kwargs={"name": "metadata"})
    options: dict[str, Any] = Field(sa_type=JSONB)
    personal: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (
        CheckConstraint("amount BETWEEN 0 AND 999999999999", name="payment_amount"),
        CheckConstraint("amount_authorized BETWEEN 0 AND amount", name="payment_authorized"),
        CheckConstraint("amount_capturing >= 0 AND amount_captured >= 0", name="payment_captured_positive"),
        CheckConstraint("amount_captured + amount_capturing <= amount_authorized", name="payment_captured"),
        CheckConstraint("amount_refunding >= 0 AND amount_refunded >= 0", name="payment_refunded_positive"),
        CheckConstraint("amount_refunded + amount_refunding <= amount_captured", name="payment_refunded"),
        Index("payment_by_merchant", "merchant_id", "livemode", "id"),
        Index("payment_cancel_requested", "id", postgresql_where=text("cancel_requested")),
        Index("payment_retry_due", "retry_at", postgresql_where=text("retry_at IS NOT NULL")),
        Index("payment_parked", "id", postgresql_where=text("processing_reason = 'awaiting_retry'")),
    )


class OperationRow(SQLModel, table=True):
    """Everything we ask of a PSP, committed before it is sent. ``lease_until`` is on the database's clock.

    ``decision`` is how its account was chosen, as :class:`routing.decision.Decision` records it.

    ``evidence_word`` is what the first outcome of an attempt says of its account (``gateway.signals``), written once with that
    outcome, at ``evidence_at``, by the transaction ``evidence_xid``. It has nothing to do with ``evidence``, which is a person's.

    ``uncounted_arm`` is ``strategy`` or ``holdout`` in the first attempt of a payment that a strategy or its holdout decided, until the
    payment is counted in ``routing_arm``: then it is empty, as in all others.

    ``uncounted_shadow`` is the version that has watched the first attempt of a payment, until that is counted in ``routing_shadow``.

    ``trace`` is the span that it was opened under (``gateway.tracing``); empty where nobody traced.
    """

    __tablename__ = "operation"

    id: str = Field(sa_type=ID, primary_key=True)
    payment_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("payment.id")])
    kind: str = Field(sa_type=Text)
    seq: int = Field(sa_type=Integer)
    round: int = Field(sa_type=Integer)
    account: str = Field(sa_type=Text)
    provider: str = Field(sa_type=Text)
    amount: int = Field(sa_type=BigInteger)
    status: str = Field(sa_type=Text)
    final: bool = Field(sa_type=Boolean)
    provider_key: str = Field(sa_type=Text)
    provider_id: str | None = Field(default=None, sa_type=Text, nullable=True)
    decline: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    metadata_: dict[str, str] | None = Field(
        default=None, sa_type=JSONB, nullable=True, sa_column_kwargs={"name": "metadata"}
    )
    challenged: bool = Field(default=False, sa_type=Boolean, sa_column_kwargs={"server_default": text("false")})
    sealed_request: bytes | None = Field(default=None, sa_type=LargeBinary, nullable=True)
    holds_card: bool = Field(sa_type=Boolean)
    lease_until: datetime = Field(sa_type=INSTANT)
    epoch: int = Field(sa_type=Integer)
    tries: int = Field(sa_type=Integer)
    review_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    evidence: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    decision: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    due_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)
    evidence_word: str | None = Field(default=None, sa_type=Text, nullable=True)
    evidence_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    evidence_xid: int | None = Field(default=None, sa_type=Xid8, nullable=True)
    uncounted_arm: str | None = Field(default=None, sa_type=Text, nullable=True)
    uncounted_shadow: str | None = Field(default=None, sa_type=ID, nullable=True)
    trace: str | None = Field(default=None, sa_type=Text, nullable=True)

    __table_args__ = (
        UniqueConstraint("payment_id", "seq", name="operation_seq"),
        UniqueConstraint("provider_key", name="operation_provider_key"),
        CheckConstraint(
            "kind IN ('authorize', 'capture', 'void', 'refund', 'increment', 'defend', 'accept')", name="operation_kind"
        ),
        Index(
            "operation_one_open_authorize",
            "payment_id",
            unique=True,
            postgresql_where=text(f"kind = 'authorize' AND {OPEN_SQL}"),
        ),
        Index(
            "operation_one_live_success",
            "payment_id",
            unique=True,
            postgresql_where=text("kind = 'authorize' AND status IN ('authorized', 'captured')"),
        ),
        Index("operation_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("operation_holds_card", "created_at", postgresql_where=text("holds_card")),
        Index("operation_by_provider_id", "provider_id", postgresql_where=text("provider_id IS NOT NULL")),
        Index("operation_by_evidence", "evidence_xid", "id", postgresql_where=text("evidence_xid IS NOT NULL")),
        Index("operation_uncounted", "id", postgresql_where=text("uncounted_arm IS NOT NULL")),
        Index("operation_unwatched", "id", postgresql_where=text("uncounted_shadow IS NOT NULL")),
    )


class RoutingSnapshotRow(SQLModel, table=True):
    """What a strategy had learned from the outcomes up to one of them, that of ``operation_id`` in the transaction ``xid``.

    ``model`` is a hash of the merchant, the mode, the strategy, its accounts and its settings. The row without a ``state`` is where
    the model begins: every process folds from there, so that all of them know the same. ``state`` is JSON and not JSONB, because the
    order of its keys is part of it: sums of floating-point numbers depend on it.
    """

    __tablename__ = "routing_snapshot"

    model: str = Field(sa_type=ID, primary_key=True)
    xid: int = Field(sa_type=Xid8, primary_key=True)
    operation_id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    strategy: str = Field(sa_type=Text)
    folded: int = Field(sa_type=BigInteger)
    state: dict[str, Any] | None = Field(default=None, sa_type=JSON, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (Index("routing_snapshot_begins", "model", unique=True, postgresql_where=text("state IS NULL")),)


class DisputeRow(SQLModel, table=True):
    """What a provider says of a dispute about a payment: its present state. ``news_at`` is when the provider spoke of it last.

    ``heard`` has the newest time at which each status, and each fact, was told.
    """

    __tablename__ = "dispute"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    payment_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("payment.id")])
    account: str = Field(sa_type=Text)
    provider: str = Field(sa_type=Text)
    provider_dispute_id: str = Field(sa_type=Text)
    status: str = Field(sa_type=Text)
    amount: int = Field(sa_type=BigInteger)
    currency: str = Field(sa_type=Text)
    reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    network_reason_code: str | None = Field(default=None, sa_type=Text, nullable=True)
    respond_by: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    news_at: datetime = Field(sa_type=INSTANT)
    created_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)
    heard: dict[str, str] = Field(sa_type=JSONB, sa_column_kwargs={"server_default": text("'{}'")})

    __table_args__ = (
        UniqueConstraint("account", "provider_dispute_id", name="dispute_once"),
        Index("dispute_by_merchant", "merchant_id", "livemode", "id"),
        Index("dispute_by_payment", "payment_id"),
    )


class IncidentRow(SQLModel, table=True):
    """What was said of an operation and not believed, once for each thing that was said. No personal data."""

    __tablename__ = "incident"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    kind: str = Field(sa_type=Text)
    payment_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("payment.id")])
    operation_id: str = Field(sa_type=ID)
    account: str = Field(sa_type=Text)
    said: str = Field(sa_type=Text)
    details: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(sa_type=INSTANT)
    closed_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    closed_reason: str | None = Field(default=None, sa_type=Text, nullable=True)

    __table_args__ = (
        UniqueConstraint("operation_id", "kind", "said", name="incident_once"),
        CheckConstraint("kind IN ('amount_mismatch', 'contradiction', 'another_account')", name="incident_kind"),
        Index("incident_by_merchant", "merchant_id", "livemode", "id"),
        Index("incident_by_payment", "payment_id"),
    )


class NoticeRow(SQLModel, table=True):
    """What a provider told that changes nothing: a fraud warning, a review, a report. Once, however often it was told."""

    __tablename__ = "notice"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    kind: str = Field(sa_type=Text)
    account: str = Field(sa_type=Text)
    provider_notice_id: str = Field(sa_type=Text)
    payment_id: str | None = Field(default=None, sa_type=ID, sa_column_args=[ForeignKey("payment.id")], nullable=True)
    reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    amount: int | None = Field(default=None, sa_type=BigInteger, nullable=True)
    currency: str | None = Field(default=None, sa_type=Text, nullable=True)
    report_url: str | None = Field(default=None, sa_type=Text, nullable=True)
    told_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (UniqueConstraint("account", "kind", "provider_notice_id", name="notice_once"),)


class ChangeRow(SQLModel, table=True):
    """The append-only history of a payment. ``seq`` is the payment's version after the change. Ids only, no personal data."""

    __tablename__ = "change"

    payment_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("payment.id")], primary_key=True)
    seq: int = Field(sa_type=Integer, primary_key=True)
    at: datetime = Field(sa_type=INSTANT)
    source: str = Field(sa_type=Text)
    news: str = Field(sa_type=Text)
    from_status: str | None = Field(default=None, sa_type=Text, nullable=True)
    to_status: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    operation_id: str | None = Field(default=None, sa_type=ID, nullable=True)
    xid: int | None = Field(
        default=None, sa_type=Xid8, nullable=True, sa_column_kwargs={"server_default": text("pg_current_xact_id()")}
    )
    """The transaction that wrote it, by which readers find what is new (``gateway.rate_books``)."""

    __table_args__ = (Index("change_by_xid", "xid", "payment_id", postgresql_where=text("xid IS NOT NULL")),)


class DeclinedCardRow(SQLModel, table=True):
    """A declined attempt of a card, whichever account and payment it was, for as long as a limit looks back.

    ``card`` is the card's fingerprint, a keyed hash for one merchant, or the id of a payment method without one. ``network`` is its brand.
    ``never`` is a decline after which the card rests; ``not_before`` is when its network wants to see it again.
    """

    __tablename__ = "declined_card"

    operation_id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    card: str = Field(sa_type=ID)
    at: datetime = Field(sa_type=INSTANT)
    amount: int = Field(sa_type=BigInteger)
    currency: str = Field(sa_type=Text)
    network: str | None = Field(default=None, sa_type=Text, nullable=True)
    merchant_initiated: bool = Field(sa_type=Boolean)
    never: bool = Field(sa_type=Boolean)
    not_before: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (
        Index("declined_card_by_card", "merchant_id", "livemode", "card", "at"),
        Index("declined_card_by_age", "at"),
    )


VERSION_OF: Final = ["routing_version.merchant_id", "routing_version.livemode", "routing_version.id"]
PUBLICATION_OF: Final = ["routing_publication.merchant_id", "routing_publication.livemode", "routing_publication.id"]
"""What one merchant publishes in one mode is their own, of that mode: the database holds it."""


class RoutingVersionRow(SQLModel, table=True):
    """A routing document as it was made. It never changes: who wants it otherwise makes another version.

    ``number`` counts a merchant's versions in one mode, ``hash`` names the document's content, and ``parent`` is the version that was
    in force when this one was made. ``created_by`` is the id of the API key.
    """

    __tablename__ = "routing_version"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    number: int = Field(sa_type=Integer)
    name: str = Field(sa_type=Text)
    document: dict[str, Any] = Field(sa_type=JSONB)
    hash: str = Field(sa_type=Text)
    parent: str | None = Field(default=None, sa_type=ID, nullable=True)
    note: str | None = Field(default=None, sa_type=Text, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=ID)

    __table_args__ = (
        UniqueConstraint("merchant_id", "livemode", "number", name="routing_version_number"),
        UniqueConstraint("merchant_id", "livemode", "id", name="routing_version_by_merchant"),
        ForeignKeyConstraint(["merchant_id", "livemode", "parent"], VERSION_OF),
    )


class RoutingPublicationRow(SQLModel, table=True):
    """What was done about the version in force: the append-only history, ordered by ``sequence`` in a merchant and mode.

    What is in force follows from these rows alone (``routing.publications``). A ``request`` waits for a second person; its approval is
    the ``publish`` whose ``target`` it is. A ``withdraw`` takes its ``target`` out. A ``rollback`` puts ``version_id`` in force for all
    payments, or the order of the configuration where that is empty. ``published_by`` and ``approved_by`` are ids of API keys.
    """

    __tablename__ = "routing_publication"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    sequence: int = Field(sa_type=Integer)
    kind: str = Field(sa_type=Text)
    version_id: str | None = Field(default=None, sa_type=ID, nullable=True)
    percent: int = Field(sa_type=Integer)
    shadow: bool = Field(default=False, sa_type=Boolean, sa_column_kwargs={"server_default": text("false")})
    starts_at: datetime = Field(sa_type=INSTANT)
    target: str | None = Field(default=None, sa_type=ID, nullable=True)
    reason: str = Field(sa_type=Text)
    published_at: datetime = Field(sa_type=INSTANT)
    published_by: str = Field(sa_type=ID)
    approved_by: str | None = Field(default=None, sa_type=ID, nullable=True)

    __table_args__ = (
        UniqueConstraint("merchant_id", "livemode", "sequence", name="routing_publication_sequence"),
        CheckConstraint("kind IN ('request', 'publish', 'rollback', 'withdraw')", name="routing_publication_kind"),
        CheckConstraint("percent BETWEEN 1 AND 100", name="routing_publication_percent"),
        CheckConstraint("reason <> ''", name="routing_publication_reason"),
        CheckConstraint("version_id IS NOT NULL OR kind = 'rollback'", name="routing_publication_version"),
        CheckConstraint(
            "(target IS NOT NULL) = (kind = 'withdraw' OR approved_by IS NOT NULL)", name="routing_publication_target"
        ),
        CheckConstraint("approved_by <> published_by", name="routing_publication_two_persons"),
        UniqueConstraint("merchant_id", "livemode", "id", name="routing_publication_by_merchant"),
        ForeignKeyConstraint(["merchant_id", "livemode", "version_id"], VERSION_OF),
        ForeignKeyConstraint(["merchant_id", "livemode", "target"], PUBLICATION_OF),
    )


class RoutingSimulationRow(SQLModel, table=True):
    """A draft that is replayed over a merchant's own payments, and what came of it. One at a time for a merchant and mode.

    ``done`` of ``total`` payments are replayed; ``lease_until``, on the database's clock, is when it is taken over from a worker that is
    silent, which raises ``epoch``.
    """

    __tablename__ = "routing_simulation"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    version_id: str = Field(sa_type=ID)
    starts_at: datetime = Field(sa_type=INSTANT)
    ends_at: datetime = Field(sa_type=INSTANT)
    status: str = Field(sa_type=Text)
    done: int = Field(sa_type=Integer)
    total: int | None = Field(default=None, sa_type=Integer, nullable=True)
    result: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    error: str | None = Field(default=None, sa_type=Text, nullable=True)
    lease_until: datetime = Field(sa_type=INSTANT)
    epoch: int = Field(sa_type=Integer)
    created_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (
        ForeignKeyConstraint(["merchant_id", "livemode", "version_id"], VERSION_OF),
        CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed')", name="routing_simulation_status"),
        CheckConstraint("starts_at < ends_at", name="routing_simulation_time"),
        CheckConstraint("(result IS NOT NULL) = (status = 'succeeded')", name="routing_simulation_result"),
        CheckConstraint("(error IS NOT NULL) = (status = 'failed')", name="routing_simulation_error"),
        Index(
            "routing_simulation_one_open",
            "merchant_id",
            "livemode",
            unique=True,
            postgresql_where=text("status IN ('queued', 'running')"),
        ),
        Index("routing_simulation_by_age", "created_at"),
    )


class RoutingArmRow(SQLModel, table=True):
    """Payments of one arm, a version's strategy or its holdout, whose first round has ended: each counted once, by the worker.

    Amounts are sums in minor units of the currency; ``first_at`` and ``last_at`` are when the first and the last of them were sent.
    """

    __tablename__ = "routing_arm"

    merchant_id: str = Field(sa_type=ID, primary_key=True)
    livemode: bool = Field(sa_type=Boolean, primary_key=True)
    version_id: str = Field(sa_type=ID, primary_key=True)
    strategy: str = Field(sa_type=Text, primary_key=True)
    arm: str = Field(sa_type=Text, primary_key=True)
    currency: str = Field(sa_type=Text, primary_key=True)
    payments: int = Field(sa_type=BigInteger)
    approved: int = Field(sa_type=BigInteger)
    amount: int = Field(sa_type=BigInteger)
    amount_approved: int = Field(sa_type=BigInteger)
    first_at: datetime = Field(sa_type=INSTANT)
    last_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (
        CheckConstraint("arm IN ('strategy', 'holdout')", name="routing_arm_name"),
        CheckConstraint("approved BETWEEN 0 AND payments", name="routing_arm_approved"),
        CheckConstraint("amount_approved BETWEEN 0 AND amount", name="routing_arm_amount"),
    )


class ConsoleUserRow(SQLModel, table=True):
    """A person who may look at one merchant's payments in the console. ``email`` is in small letters.

    Without a ``password_hash`` only a one-time link lets them in.
    """

    __tablename__ = "console_user"

    id: str = Field(sa_type=ID, primary_key=True)
    email: str = Field(sa_type=Text)
    merchant_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("merchant.id")])
    password_hash: str | None = Field(default=None, sa_type=Text, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    password_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    disabled_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (
        UniqueConstraint("email", name="console_user_email"),
        CheckConstraint("email = lower(email)", name="console_user_email_small"),
    )


class ConsoleSessionRow(SQLModel, table=True):
    """A person who is signed in. The token itself is in their browser alone; all times are the database's."""

    __tablename__ = "console_session"

    token_hash: bytes = Field(sa_type=LargeBinary, primary_key=True)
    user_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("console_user.id")])
    created_at: datetime = Field(sa_type=INSTANT)
    seen_at: datetime = Field(sa_type=INSTANT)
    ends_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (Index("console_session_by_user", "user_id"),)


class ConsoleLinkRow(SQLModel, table=True):
    """A link that signs a person in once. It is deleted when it is used."""

    __tablename__ = "console_link"

    token_hash: bytes = Field(sa_type=LargeBinary, primary_key=True)
    user_id: str = Field(sa_type=ID, sa_column_args=[ForeignKey("console_user.id")])
    ends_at: datetime = Field(sa_type=INSTANT)


class ConsoleEventRow(SQLModel, table=True):
    """Who came into the console, who tried, and what was done about its users: append-only.

    A try is by ``subject``, a keyed hash of what was typed as an email, which may be anything, and from ``address``.
    """

    __tablename__ = "console_event"

    id: str = Field(sa_type=ID, primary_key=True)
    at: datetime = Field(sa_type=INSTANT)
    kind: str = Field(sa_type=Text)
    user_id: str | None = Field(default=None, sa_type=ID, sa_column_args=[ForeignKey("console_user.id")], nullable=True)
    subject: bytes | None = Field(default=None, sa_type=LargeBinary, nullable=True)
    address: str | None = Field(default=None, sa_type=Text, nullable=True)

    __table_args__ = (
        CheckConstraint(
            "kind IN ('user_created', 'user_disabled', 'password_set', 'link_made', 'login_tried', 'login_succeeded', "
            "'link_used', 'logout')",
            name="console_event_kind",
        ),
        Index("console_event_by_subject", "subject", "at", postgresql_where=text("subject IS NOT NULL")),
        Index("console_event_by_address", "address", "at", postgresql_where=text("address IS NOT NULL")),
    )


class RoutingShadowRow(SQLModel, table=True):
    """Payments of one day that a version has watched from the shadow, added up: each counted once, by the worker.

    ``settled`` are those whose first attempt said something of its account. Of them are the sums behind it, by which
    ``routing.estimate`` says what the version would have approved: ``level`` is the size of their weights, and ``moved`` says that
    the version sends them elsewhere, or with other chances. ``first_at`` and ``last_at`` are when the first and the last were sent.
    """

    __tablename__ = "routing_shadow"

    merchant_id: str = Field(sa_type=ID, primary_key=True)
    livemode: bool = Field(sa_type=Boolean, primary_key=True)
    version_id: str = Field(sa_type=ID, primary_key=True)
    day: date = Field(sa_type=Date, primary_key=True)
    moved: bool = Field(sa_type=Boolean, primary_key=True)
    level: int = Field(sa_type=Integer, primary_key=True)
    payments: int = Field(sa_type=BigInteger)
    same_account: int = Field(sa_type=BigInteger)
    settled: int = Field(sa_type=BigInteger)
    approved: int = Field(sa_type=BigInteger)
    weight: float = Field(sa_type=Double)
    squared: float = Field(sa_type=Double)
    weight_approved: float = Field(sa_type=Double)
    squared_approved: float = Field(sa_type=Double)
    first_at: datetime = Field(sa_type=INSTANT)
    last_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (
        CheckConstraint("same_account BETWEEN 0 AND payments", name="routing_shadow_same"),
        CheckConstraint("settled BETWEEN 0 AND payments", name="routing_shadow_settled"),
        CheckConstraint("approved BETWEEN 0 AND settled", name="routing_shadow_approved"),
    )


class RoutingShadowGapRow(SQLModel, table=True):
    """Of payments in ``routing_shadow``: where the version would send them much more often than they were, by ``routing.estimate``."""

    __tablename__ = "routing_shadow_gap"

    merchant_id: str = Field(sa_type=ID, primary_key=True)
    livemode: bool = Field(sa_type=Boolean, primary_key=True)
    version_id: str = Field(sa_type=ID, primary_key=True)
    account: str = Field(sa_type=Text, primary_key=True)
    level: int = Field(sa_type=Integer, primary_key=True)
    payments: int = Field(sa_type=BigInteger)
    wanted: float = Field(sa_type=Double)
    recorded: float = Field(sa_type=Double)
