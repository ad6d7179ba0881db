"""What a strategy earns beside its holdout: payments of both arms, each counted once when its first round has ended.

Expand only: a process of the version before goes on working on the new schema, and the payments that it opens are not counted. A
statement that cannot have its lock within a few seconds gives up, and the index is built beside the payments that go on. All of it
may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0015"
down_revision = "0014"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    "ALTER TABLE operation ADD COLUMN IF NOT EXISTS uncounted_arm TEXT",
    "RESET lock_timeout",
    # One that was interrupted is there, and not valid.
    "DROP INDEX CONCURRENTLY IF EXISTS operation_uncounted",
    "CREATE INDEX CONCURRENTLY operation_uncounted ON operation (id) WHERE uncounted_arm IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS routing_arm (
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    version_id TEXT COLLATE "C" NOT NULL,
    strategy TEXT NOT NULL,
    arm TEXT NOT NULL,
    currency TEXT NOT NULL,
    payments BIGINT NOT NULL,
    approved BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    amount_approved BIGINT NOT NULL,
    first_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (merchant_id, livemode, version_id, strategy, arm, currency),
    CONSTRAINT routing_arm_name CHECK (arm IN ('strategy', 'holdout')),
    CONSTRAINT routing_arm_approved CHECK (approved BETWEEN 0 AND payments),
    CONSTRAINT routing_arm_amount CHECK (amount_approved BETWEEN 0 AND amount)
)""",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
