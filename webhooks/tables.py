"""The inbox: what a provider told us, stored once, before anything is made of it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Identity, Index, Integer, LargeBinary, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel


class InboxRow(SQLModel, table=True):
    """One event of one account. ``sealed_body`` is the request it came in, as received; ``applied_at`` ends its way."""

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

    __table_args__ = (
        UniqueConstraint("account", "event_id", name="webhook_inbox_once"),
        Index("webhook_inbox_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )
