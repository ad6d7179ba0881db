"""A payment without its shopper may be tried again by itself: when that is due.

Expand only: a process of the version before goes on working on the new schema. A statement that cannot have its lock within a few
seconds gives up, and the index is built beside the payments that go on. All of it may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0013"
down_revision = "0011"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    "ALTER TABLE payment ADD COLUMN IF NOT EXISTS retry_at TIMESTAMP WITH TIME ZONE",
    "RESET lock_timeout",
    # One that was interrupted is there, and not valid.
    "DROP INDEX CONCURRENTLY IF EXISTS payment_retry_due",
    "CREATE INDEX CONCURRENTLY payment_retry_due ON payment (retry_at) WHERE retry_at IS NOT NULL",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
