"""The tables of the rates: what is counted of each attempt, and the counts that are kept. As ``gateway.tables``.

All of it follows from payments, operations and their history, and can be made again from them (``gateway rates rebuild``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from gateway.rates import CUBOIDS
from gateway.tables import ID, INSTANT, Xid8


class RateMarkRow(SQLModel, table=True):
    """How far the rates are counted: one row.

    ``position`` is the last transaction whose changes are counted, up to that of ``payment_id``; ``backfill`` the last payment of those
    that are being counted from the beginning, and empty once all are. ``window_s`` is how many seconds after a try another one of the
    same belongs to the same group: 1,800 unless ``gateway rates rebuild`` was told otherwise.
    """

    __tablename__ = "rate_mark"

    id: int = Field(sa_type=SmallInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    position: int = Field(sa_type=Xid8)
    payment_id: str = Field(sa_type=ID)
    backfill: str | None = Field(default=None, sa_type=ID, nullable=True)
    window_s: int = Field(sa_type=Integer)
    as_of: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (
        CheckConstraint("id = 1", name="rate_mark_once"),
        CheckConstraint("window_s > 0", name="rate_mark_window"),
    )


class RateOwnerRow(SQLModel, table=True):
    """A short name for a merchant in one mode: it stands in every count."""

    __tablename__ = "rate_owner"

    id: int = Field(sa_type=Integer, primary_key=True, sa_column_args=[Identity(always=True)])
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)

    __table_args__ = (UniqueConstraint("merchant_id", "livemode", name="rate_owner_once"),)


class RateKeyRow(SQLModel, table=True):
    """A short name for the values of a cuboid's dimensions that occur together (``gateway.rates.CUBOIDS``). ``digest`` is their MD5."""

    __tablename__ = "rate_key"

    id: int = Field(sa_type=Integer, primary_key=True, sa_column_args=[Identity(always=True)])
    owner: int = Field(sa_type=Integer)
    cuboid: str = Field(sa_type=Text)
    digest: UUID = Field(sa_type=Uuid)
    dimensions: dict[str, str] = Field(sa_type=JSONB)

    __table_args__ = (UniqueConstraint("owner", "cuboid", "digest", name="rate_key_once"),)


class RatedRow(SQLModel, table=True):
    """An attempt as it is counted: where, when, as ``what`` (``gateway.rates.CLASS_BIT``) and how much.

    The first of a payment bears what the payment came to: its ``marks`` (``gateway.rates.Mark``), the ``extra`` attempts of its cascades,
    when its last attempt was made, and what payments that try the same have in common.
    """

    __tablename__ = "rated"

    payment_id: str = Field(sa_type=ID, primary_key=True)
    ordinal: int = Field(sa_type=SmallInteger, primary_key=True)
    owner: int = Field(sa_type=Integer)
    at: datetime = Field(sa_type=INSTANT)
    hour_key: int = Field(sa_type=Integer)
    bin_key: int = Field(sa_type=Integer)
    proof_key: int = Field(sa_type=Integer)
    day_key: int = Field(sa_type=Integer)
    amount: int = Field(sa_type=BigInteger)
    what: int = Field(sa_type=SmallInteger)
    marks: int | None = Field(default=None, sa_type=SmallInteger, nullable=True)
    extra: int | None = Field(default=None, sa_type=SmallInteger, nullable=True)
    last_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    same_try: UUID | None = Field(default=None, sa_type=Uuid, nullable=True)
    metadata_: dict[str, str] | None = Field(
        default=None, sa_type=JSONB, nullable=True, sa_column_kwargs={"name": "metadata"}
    )

    __table_args__ = (
        Index("rated_by_time", "owner", "at"),
        Index("rated_cascades", "owner", "at", postgresql_where=text("extra > 0")),
        Index(
            "rated_by_try",
            "owner",
            "same_try",
            "at",
            "payment_id",
            postgresql_where=text("same_try IS NOT NULL"),
        ),
    )


def _counts(name: str) -> Table:
    """The counts of a cuboid: so many, and so much, of ``what`` from ``at`` on, for one combination of its dimensions."""
    return Table(
        f"rate_{name}",
        SQLModel.metadata,
        Column("owner", Integer, primary_key=True, autoincrement=False),
        Column("of_payment", Boolean, primary_key=True),
        Column("at", INSTANT, primary_key=True),
        Column("key", Integer, primary_key=True, autoincrement=False),
        Column("what", SmallInteger, primary_key=True, autoincrement=False),
        Column("n", BigInteger, nullable=False),
        Column("amount", BigInteger, nullable=False),
    )


COUNTS: Final = tuple(_counts(cuboid.name) for cuboid in CUBOIDS)
