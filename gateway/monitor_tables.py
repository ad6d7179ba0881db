"""The tables of the monitors: what is watched, how far it was judged, and what was found. As ``gateway.tables``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Identity,
    Index,
    Integer,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from gateway.tables import ID, INSTANT


class MonitorRow(SQLModel, table=True):
    """A monitor that a merchant has made, or a built-in one that was tuned or muted: the others are as they come, and have no row.

    ``settings`` is what it watches and how, as it was asked for. While it is ``muted`` it is judged, and nobody is told; with
    ``muted_until`` that ends by itself. ``created_by`` and ``updated_by`` are ids of API keys.
    """

    __tablename__ = "monitor"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    builtin: str | None = Field(default=None, sa_type=Text, nullable=True)
    name: str = Field(sa_type=Text)
    kind: str = Field(sa_type=Text)
    settings: dict[str, Any] = Field(sa_type=JSONB)
    muted: bool = Field(sa_type=Boolean)
    muted_until: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    mute_reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=ID)
    updated_at: datetime = Field(sa_type=INSTANT)
    updated_by: str = Field(sa_type=ID)
    deleted_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)

    __table_args__ = (
        CheckConstraint("kind IN ('drop', 'traffic', 'static')", name="monitor_kind"),
        CheckConstraint("muted OR (muted_until IS NULL AND mute_reason IS NULL)", name="monitor_muted"),
        CheckConstraint("builtin IS NULL OR deleted_at IS NULL", name="monitor_builtin"),
        Index("monitor_by_merchant", "merchant_id", "livemode", "id"),
    )


class MonitorChangeRow(SQLModel, table=True):
    """What was done about a monitor, by which API key, and what it is since: append-only."""

    __tablename__ = "monitor_change"

    id: int = Field(sa_type=BigInteger, primary_key=True, sa_column_args=[Identity(always=True)])
    monitor_id: str = Field(sa_type=ID)
    at: datetime = Field(sa_type=INSTANT)
    by: str = Field(sa_type=ID)
    what: str = Field(sa_type=Text)
    after: dict[str, Any] = Field(sa_type=JSONB)

    __table_args__ = (
        CheckConstraint("what IN ('created', 'changed', 'deleted')", name="monitor_change_what"),
        Index("monitor_change_by_monitor", "monitor_id", "id"),
    )


class MonitorStateRow(SQLModel, table=True):
    """How far a merchant's monitors were judged in one mode, and what is carried from one look to the next.

    ``looks`` counts the looks that were written: of two workers that look at the same time one finds that it has moved on, and writes
    nothing. ``verdicts`` is what each monitor came to.
    """

    __tablename__ = "monitor_state"

    merchant_id: str = Field(sa_type=ID, primary_key=True)
    livemode: bool = Field(sa_type=Boolean, primary_key=True)
    looks: int = Field(sa_type=BigInteger)
    until: int = Field(sa_type=Integer)
    state: dict[str, Any] = Field(sa_type=JSONB)
    runs: dict[str, Any] = Field(sa_type=JSONB)
    verdicts: dict[str, str] = Field(sa_type=JSONB)
    looked_at: datetime = Field(sa_type=INSTANT)


class MonitorIncidentRow(SQLModel, table=True):
    """What a monitor has found: one for each cause, however long it lasts. ``facts`` are its figures as they were last taken.

    ``key`` names it among the open ones of a merchant and mode. ``told_at`` is when the merchant was told, and empty as long as its
    monitor is muted.
    """

    __tablename__ = "monitor_incident"

    id: str = Field(sa_type=ID, primary_key=True)
    merchant_id: str = Field(sa_type=ID)
    livemode: bool = Field(sa_type=Boolean)
    key: str = Field(sa_type=Text)
    monitor_id: str = Field(sa_type=ID)
    also: list[str] = Field(sa_type=ARRAY(Text))
    severity: str = Field(sa_type=Text)
    segment: dict[str, Any] = Field(sa_type=JSONB)
    facts: dict[str, Any] = Field(sa_type=JSONB)
    summary: str = Field(sa_type=Text)
    opened_at: datetime = Field(sa_type=INSTANT)
    noticed_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)
    told_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    closed_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    closed_reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    acknowledged_at: datetime | None = Field(default=None, sa_type=INSTANT, nullable=True)
    acknowledged_by: str | None = Field(default=None, sa_type=ID, nullable=True)
    note: str | None = Field(default=None, sa_type=Text, nullable=True)

    __table_args__ = (
        CheckConstraint("severity IN ('page', 'ticket')", name="monitor_incident_severity"),
        CheckConstraint("(closed_at IS NULL) = (closed_reason IS NULL)", name="monitor_incident_closed"),
        CheckConstraint("(acknowledged_at IS NULL) = (acknowledged_by IS NULL)", name="monitor_incident_acknowledged"),
        Index(
            "monitor_incident_open",
            "merchant_id",
            "livemode",
            "key",
            unique=True,
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index("monitor_incident_by_merchant", "merchant_id", "livemode", "id"),
    )
