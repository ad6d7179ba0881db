"""Merchants are told: events, the endpoints they go to, and their deliveries.

Expand only: a process of the version before goes on working on the new schema, and tells nobody. Each statement commits by itself.
All of it may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS webhook_endpoint (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    url TEXT NOT NULL,
    description TEXT,
    wanted TEXT[],
    events TEXT[],
    status TEXT NOT NULL,
    disabled_reason TEXT,
    sealed_secrets BYTEA,
    failing_since TIMESTAMP WITH TIME ZONE,
    failed_events INTEGER NOT NULL,
    notices INTEGER NOT NULL,
    paused_until TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT webhook_endpoint_status CHECK (status IN ('enabled', 'disabled', 'deleted'))
)""",
    "CREATE INDEX IF NOT EXISTS webhook_endpoint_by_merchant ON webhook_endpoint (merchant_id, livemode, id)",
    """CREATE TABLE IF NOT EXISTS event (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    type TEXT NOT NULL,
    payment_id TEXT COLLATE "C",
    sequence INTEGER,
    body BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
)""",
    "CREATE INDEX IF NOT EXISTS event_by_merchant ON event (merchant_id, livemode, id)",
    "CREATE INDEX IF NOT EXISTS event_by_payment ON event (payment_id, sequence)",
    """CREATE TABLE IF NOT EXISTS delivery (
    endpoint_id TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    status TEXT NOT NULL,
    tries INTEGER NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    delivered_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (endpoint_id, event_id),
    CONSTRAINT delivery_status CHECK (status IN ('pending', 'succeeded', 'failed', 'canceled')),
    CONSTRAINT delivery_due CHECK ((status = 'pending') = (due_at IS NOT NULL))
)""",
    """CREATE INDEX IF NOT EXISTS delivery_fresh ON delivery (endpoint_id, due_at)
    WHERE due_at IS NOT NULL AND tries = 0""",
    """CREATE INDEX IF NOT EXISTS delivery_again ON delivery (endpoint_id, due_at)
    WHERE due_at IS NOT NULL AND tries > 0""",
    "CREATE INDEX IF NOT EXISTS delivery_by_event ON delivery (event_id)",
    """CREATE TABLE IF NOT EXISTS delivery_attempt (
    endpoint_id TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    status INTEGER,
    error TEXT,
    excerpt TEXT,
    took_ms INTEGER NOT NULL,
    PRIMARY KEY (endpoint_id, event_id, at)
)""",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
