"""Monitors: what is watched, how far it was judged, what was done about it, and what was found.

Expand only: nothing that is there is touched. It may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0024"
down_revision = "0023"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS monitor (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    builtin TEXT,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    settings JSONB NOT NULL,
    muted BOOLEAN NOT NULL,
    muted_until TIMESTAMP WITH TIME ZONE,
    mute_reason TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_by TEXT COLLATE "C" NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT monitor_kind CHECK (kind IN ('drop', 'traffic', 'static')),
    CONSTRAINT monitor_muted CHECK (muted OR (muted_until IS NULL AND mute_reason IS NULL)),
    CONSTRAINT monitor_builtin CHECK (builtin IS NULL OR deleted_at IS NULL)
)""",
    "CREATE INDEX IF NOT EXISTS monitor_by_merchant ON monitor (merchant_id, livemode, id)",
    """CREATE TABLE IF NOT EXISTS monitor_change (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    monitor_id TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    by TEXT COLLATE "C" NOT NULL,
    what TEXT NOT NULL,
    after JSONB NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT monitor_change_what CHECK (what IN ('created', 'changed', 'deleted'))
)""",
    "CREATE INDEX IF NOT EXISTS monitor_change_by_monitor ON monitor_change (monitor_id, id)",
    """CREATE OR REPLACE TRIGGER monitor_change_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON monitor_change
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite()""",
    """CREATE TABLE IF NOT EXISTS monitor_state (
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    looks BIGINT NOT NULL,
    until INTEGER NOT NULL,
    state JSONB NOT NULL,
    runs JSONB NOT NULL,
    verdicts JSONB NOT NULL,
    looked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (merchant_id, livemode)
)""",
    """CREATE TABLE IF NOT EXISTS monitor_incident (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    key TEXT NOT NULL,
    monitor_id TEXT COLLATE "C" NOT NULL,
    also TEXT[] NOT NULL,
    severity TEXT NOT NULL,
    segment JSONB NOT NULL,
    facts JSONB NOT NULL,
    summary TEXT NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
    noticed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    told_at TIMESTAMP WITH TIME ZONE,
    closed_at TIMESTAMP WITH TIME ZONE,
    closed_reason TEXT,
    acknowledged_at TIMESTAMP WITH TIME ZONE,
    acknowledged_by TEXT COLLATE "C",
    note TEXT,
    PRIMARY KEY (id),
    CONSTRAINT monitor_incident_severity CHECK (severity IN ('page', 'ticket')),
    CONSTRAINT monitor_incident_closed CHECK ((closed_at IS NULL) = (closed_reason IS NULL)),
    CONSTRAINT monitor_incident_acknowledged CHECK ((acknowledged_at IS NULL) = (acknowledged_by IS NULL))
)""",
    """CREATE UNIQUE INDEX IF NOT EXISTS monitor_incident_open ON monitor_incident (merchant_id, livemode, key)
    WHERE closed_at IS NULL""",
    "CREATE INDEX IF NOT EXISTS monitor_incident_by_merchant ON monitor_incident (merchant_id, livemode, id)",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
