"""The table behind the gate: one row a key, and the answer once it is decided."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, DateTime, Index, Integer, LargeBinary, Text
from sqlmodel import Field, SQLModel


class IdempotencyKey(SQLModel, table=True):
    """What a key was used for. The primary key is the promise: whatever happens to Redis, a key opens one thing once.

    ``payment_id`` is the id of what the key has opened: a payment, a payment method or a customer.
    ``answer`` is the decided answer's body, sealed, because it may hold a client secret.
    """

    __tablename__ = "idempotency_key"

    merchant_id: str = Field(sa_type=Text, primary_key=True)
    livemode: bool = Field(sa_type=Boolean, primary_key=True)
    key: str = Field(sa_type=Text, primary_key=True)
    fingerprint: bytes = Field(sa_type=LargeBinary)
    payment_id: str = Field(sa_type=Text)
    operation_id: str | None = Field(default=None, sa_type=Text, nullable=True)
    status: int | None = Field(default=None, sa_type=Integer, nullable=True)
    answer: bytes | None = Field(default=None, sa_type=LargeBinary, nullable=True)
    created_at: datetime = Field(sa_type=DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint("octet_length(key) BETWEEN 1 AND 255", name="idempotency_key_length"),
        Index(
            "idempotency_key_by_age",
            "created_at",
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        ),
    )
