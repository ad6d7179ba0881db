"""Outcomes that nobody could tell are put before a person; what a provider has accepted is asked about from time to time.

Expand only: a process of the version before goes on working on the new schema. Each statement commits by itself, and one that cannot
have its lock within a few seconds gives up, so that it never stands in the way of payments. All of it may be run again where it was
interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    """ALTER TABLE operation ADD COLUMN IF NOT EXISTS review_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS evidence JSONB""",
    "RESET lock_timeout",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
