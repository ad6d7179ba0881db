"""Keys can be read by their age: checking the newer payments need not read all keys there have ever been.

Expand only: a process of the version before goes on working on the new schema. The index is a few pages however many keys there are.
Building it keeps keys, and with them payments, from being written for one scan of their table; where it cannot have its lock within a
few seconds it gives up. It may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    """CREATE INDEX IF NOT EXISTS idempotency_key_by_age ON idempotency_key USING brin (created_at)
    WITH (autosummarize = on)""",
    "RESET lock_timeout",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
