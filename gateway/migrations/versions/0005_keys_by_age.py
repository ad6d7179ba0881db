"""Keys can be read by their age: checking the newer payments need not read all keys there have ever been.

Expand only: a process of the version before goes on working on the new schema. The index is a few pages however many keys there are.
It is built beside the payments that go on. It may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS: Final = (
    "DROP INDEX CONCURRENTLY IF EXISTS idempotency_key_by_age",  # one that was interrupted is there, and not valid
    """CREATE INDEX CONCURRENTLY idempotency_key_by_age ON idempotency_key USING brin (created_at)
    WITH (autosummarize = on)""",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
