"""Simulations of routing drafts: what was asked, how far it is, and what came of it.

Expand only: a process of the version before goes on working on the new schema. It may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0014"
down_revision = "0013"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS routing_simulation (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    version_id TEXT COLLATE "C" NOT NULL,
    starts_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ends_at TIMESTAMP WITH TIME ZONE NOT NULL,
    status TEXT NOT NULL,
    done INTEGER NOT NULL,
    total INTEGER,
    result JSONB,
    error TEXT,
    lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
    epoch INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT routing_simulation_status CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
    CONSTRAINT routing_simulation_time CHECK (starts_at < ends_at),
    CONSTRAINT routing_simulation_result CHECK ((result IS NOT NULL) = (status = 'succeeded')),
    CONSTRAINT routing_simulation_error CHECK ((error IS NOT NULL) = (status = 'failed')),
    FOREIGN KEY (merchant_id, livemode, version_id) REFERENCES routing_version (merchant_id, livemode, id)
)""",
    """CREATE UNIQUE INDEX IF NOT EXISTS routing_simulation_one_open ON routing_simulation (merchant_id, livemode)
    WHERE status IN ('queued', 'running')""",
    "CREATE INDEX IF NOT EXISTS routing_simulation_by_age ON routing_simulation (created_at)",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
