"""An index of the payments that went on to another account, for the flow between accounts in the console.

Expand only, and built beside the counting that goes on. It may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0021"
down_revision = "0020"

STATEMENTS: Final = (
    "DROP INDEX CONCURRENTLY IF EXISTS rated_cascades",  # one that was interrupted is there, and not valid
    "CREATE INDEX CONCURRENTLY rated_cascades ON rated (owner, at) WHERE extra > 0",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
