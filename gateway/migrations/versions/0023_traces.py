"""Where a trace goes on: the span under which an operation was opened, and an event written.

Expand only: columns that may be empty, which changes nothing of what is there and takes a lock for an instant. A process of the version
before leaves them empty. It may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0023"
down_revision = "0021"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    "ALTER TABLE operation ADD COLUMN IF NOT EXISTS trace text",
    "ALTER TABLE event ADD COLUMN IF NOT EXISTS trace text",
    "RESET lock_timeout",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
