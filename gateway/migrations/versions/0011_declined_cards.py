"""How often a card was declined is counted over all accounts: a row for each declined attempt, under the card's fingerprint.

Expand only: a process of the version before goes on working on the new schema. All of it may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS declined_card (
    operation_id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    card TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    amount BIGINT NOT NULL,
    currency TEXT NOT NULL,
    network TEXT,
    merchant_initiated BOOLEAN NOT NULL,
    never BOOLEAN NOT NULL,
    not_before TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (operation_id)
)""",
    "CREATE INDEX IF NOT EXISTS declined_card_by_card ON declined_card (merchant_id, livemode, card, at)",
    "CREATE INDEX IF NOT EXISTS declined_card_by_age ON declined_card (at)",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
