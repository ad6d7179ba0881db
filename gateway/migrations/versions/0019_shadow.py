"""What a shadow comes to: payments that it has watched, each counted once, and the sums that say what it would have approved.

Expand only: a process of the version before goes on working on the new schema, and the payments that it opens are not counted. A
statement that cannot have its lock within a few seconds gives up, and the index is built beside the payments that go on. All of it
may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0019"
down_revision = "0018"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    'ALTER TABLE operation ADD COLUMN IF NOT EXISTS uncounted_shadow TEXT COLLATE "C"',
    "RESET lock_timeout",
    # One that was interrupted is there, and not valid.
    "DROP INDEX CONCURRENTLY IF EXISTS operation_unwatched",
    "CREATE INDEX CONCURRENTLY operation_unwatched ON operation (id) WHERE uncounted_shadow IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS routing_shadow (
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    version_id TEXT COLLATE "C" NOT NULL,
    day DATE NOT NULL,
    moved BOOLEAN NOT NULL,
    level INTEGER NOT NULL,
    payments BIGINT NOT NULL,
    same_account BIGINT NOT NULL,
    settled BIGINT NOT NULL,
    approved BIGINT NOT NULL,
    weight DOUBLE PRECISION NOT NULL,
    squared DOUBLE PRECISION NOT NULL,
    weight_approved DOUBLE PRECISION NOT NULL,
    squared_approved DOUBLE PRECISION NOT NULL,
    first_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (merchant_id, livemode, version_id, day, moved, level),
    CONSTRAINT routing_shadow_same CHECK (same_account BETWEEN 0 AND payments),
    CONSTRAINT routing_shadow_settled CHECK (settled BETWEEN 0 AND payments),
    CONSTRAINT routing_shadow_approved CHECK (approved BETWEEN 0 AND settled)
)""",
    """CREATE TABLE IF NOT EXISTS routing_shadow_gap (
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    version_id TEXT COLLATE "C" NOT NULL,
    account TEXT NOT NULL,
    level INTEGER NOT NULL,
    payments BIGINT NOT NULL,
    wanted DOUBLE PRECISION NOT NULL,
    recorded DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (merchant_id, livemode, version_id, account, level)
)""",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
