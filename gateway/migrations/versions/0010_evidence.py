"""What each attempt says of its account is kept with its first outcome, in the order in which it can be read without a gap; and what strategies have learned from it.

Expand only: a process of the version before goes on working on the new schema, and the attempts that it settles say nothing. A
statement that cannot have its lock within a few seconds gives up, and the index is built beside the payments that go on. All of it
may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    """ALTER TABLE operation ADD COLUMN IF NOT EXISTS evidence_word TEXT,
    ADD COLUMN IF NOT EXISTS evidence_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS evidence_xid xid8""",
    "RESET lock_timeout",
    # One that was interrupted is there, and not valid.
    "DROP INDEX CONCURRENTLY IF EXISTS operation_by_evidence",
    """CREATE INDEX CONCURRENTLY operation_by_evidence ON operation (evidence_xid, id)
    WHERE evidence_xid IS NOT NULL""",
    """CREATE TABLE IF NOT EXISTS routing_snapshot (
    model TEXT COLLATE "C" NOT NULL,
    xid xid8 NOT NULL,
    operation_id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    strategy TEXT NOT NULL,
    folded BIGINT NOT NULL,
    state JSON,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (model, xid, operation_id)
)""",
    "CREATE UNIQUE INDEX IF NOT EXISTS routing_snapshot_begins ON routing_snapshot (model) WHERE state IS NULL",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
