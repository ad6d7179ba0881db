"""The tables of this room: what a provider told us, stored once before anything is made of it; and what merchants are told.

``event`` and its deliveries are written in the commit that changes the payment. What is delivered are the stored bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

ID: Final = Text(collation="C")
INSTANT: Final = DateTime(timezone=True)


class InboxRow(SQLModel, table=True):
    """One event of one account. ``sealed_body`` is a request that says it alone, as received but for a batch; ``applied_at`` ends its way.

    ``body_bytes`` is that request's size, ``proved_by`` the fingerprint of the secret that proved it. ``payment_id`` is what it was found
    to be about; ``waits_for`` and ``waits_kind`` say what was not there yet, in the words of whoever applies events.
    """

    __tablename__ = "webhook_inbox"

    id: int | None = Field(default=None, sa_type=BigInteger, sa_column_args=[Identity()], primary_key=True)
    account: str = Field(sa_type=Text)
    event_id: str = Field(sa_type=Text)
    type: str = Field(sa_type=Text)
    sealed_body: bytes = Field(sa_type=LargeBinary)
    position: int = Field(sa_type=Integer)
    received_at: datetime = Field(sa_type=DateTime(timezone=True))
    applied_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True), nullable=True)
    result: str | None = Field(default=None, sa_type=Text, nullable=True)
    tries: int = Field(sa_type=Integer)
    due_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True), nullable=True)
    body_bytes: int | None = Field(default=None, sa_type=Integer, nullable=True)
    proved_by: str | None = Field(default=None, sa_type=Text, nullable=True)
    payment_id: str | None = Field(default=None, sa_type=ID, nullable=True)
    waits_for: str | None = Field(default=None, sa_type=Text, nullable=True)
    waits_kind: str | None = Field(default=None, sa_type=Text, nullable=True)

    __table_args__ = (
        UniqueConstraint("account", "event_id", name="webhook_inbox_once"),
        Index("webhook_inbox_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("webhook_inbox_by_account", "account", "received_at", "id"),
        Index("webhook_inbox_by_payment", "payment_id", postgresql_where=text("payment_id IS NOT NULL")),
        Index("webhook_inbox_waiting", "received_at", postgresql_where=text("waits_for IS NOT NULL")),
    )


class RefusalRow(SQLModel, table=True):
    """How many webhooks of an account were refused for one reason in one minute. A flood of them is a row a minute."""

    __tablename__ = "webhook_refusal"

    id: int | None = Field(default=None, sa_type=BigInteger, sa_column_args=[Identity()], primary_key=True)
    minute: datetime = Field(sa_type=INSTANT)
    account: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    refused: int = Field(sa_type=BigInteger)

    __table_args__ = (UniqueConstraint("minute", "account", "reason", name="webhook_refusal_once"),)


class EndpointRow(SQLModel, table=True):
    """Where a merchant wants to be told.

    ``wanted`` is what it asked for, types and families; ``events`` are the types that are meant by that, all where there are none.
    ``sealed_secrets`` holds the secrets that sign, the newest first, each with its end. ``failing_since`` and ``failed_events`` count
    what has failed since the last success; ``paused_until`` is how long it asked to be left alone.
    """

    __tablename__ = "webhook_endpoint"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    url: str = Field(sa_type=Text)
    description: str | None = Field(default=None, sa_type=Text, nullable=True)
    wanted: list[str] | None = Field(default=None, sa_type=ARRAY(Text), nullable=True)
    events: list[str] | None = Field(default=None, sa_type=ARRAY(Text), nullable=True)
    status: str = Field(sa_type=Text)
    disabled_reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    sealed_secrets: bytes | None = Field(default=None, sa_type=LargeBinary, nullable=True)
    failing_since: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    failed_events: int = Field(sa_type=Integer)
    notices: int = Field(sa_type=Integer)
    paused_until: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)

    __table_args__ = (
        CheckConstraint("status IN ('enabled', 'disabled', 'deleted')", name="webhook_endpoint_status"),
        Index("webhook_endpoint_by_merchant", "merchant_id", "livemode", "id"),
    )


class EventRow(SQLModel, table=True):
    """One event, as merchants are told of it. ``body`` is what is signed and sent; ``sequence`` is the payment's version.

    One that is about no payment has neither payment nor sequence. ``trace`` is the span that it was written under, as a W3C
    ``traceparent``; empty where nobody traced.
    """

    __tablename__ = "event"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    type: str = Field(sa_type=Text)
    payment_id: str | None = Field(default=None, sa_type=ID, nullable=True)
    sequence: int | None = Field(default=None, sa_type=Integer, nullable=True)
    body: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=INSTANT)
    trace: str | None = Field(default=None, sa_type=Text, nullable=True)

    __table_args__ = (
        Index("event_by_merchant", "merchant_id", "livemode", "id"),
        Index("event_by_payment", "payment_id", "sequence"),
    )


class DeliveryRow(SQLModel, table=True):
    """An event on its way to one endpoint. ``due_at`` is when it is tried next, on the database's clock; empty at its end.

    First tries and later ones have an index each: they are two lanes, and neither waits for the other.
    """

    __tablename__ = "delivery"

    endpoint_id: str = Field(sa_type=ID, primary_key=True)
    event_id: str = Field(sa_type=ID, primary_key=True)
    status: str = Field(sa_type=Text)
    tries: int = Field(sa_type=Integer)
    due_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    delivered_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'succeeded', 'failed', 'canceled')", name="delivery_status"),
        CheckConstraint("(status = 'pending') = (due_at IS NOT NULL)", name="delivery_due"),
        Index("delivery_fresh", "endpoint_id", "due_at", postgresql_where=text("due_at IS NOT NULL AND tries = 0")),
        Index("delivery_again", "endpoint_id", "due_at", postgresql_where=text("due_at IS NOT NULL AND tries > 0")),
        Index("delivery_by_event", "event_id"),
    )


class DeliveryAttemptRow(SQLModel, table=True):
    """One try. ``status`` is the HTTP status that came back; ``error`` says in one word why none did, or why it counts as none."""

    __tablename__ = "delivery_attempt"

    endpoint_id: str = Field(sa_type=ID, primary_key=True)
    event_id: str = Field(sa_type=ID, primary_key=True)
    at: datetime = Field(sa_type=INSTANT, primary_key=True)
    status: int | None = Field(default=None, sa_type=Integer, nullable=True)
    error: str | None = Field(default=None, sa_type=Text, nullable=True)
    excerpt: str | None = Field(default=None, sa_type=Text, nullable=True)
    took_ms: int = Field(sa_type=Integer)
