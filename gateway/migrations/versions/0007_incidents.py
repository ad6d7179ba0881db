"""What providers say and we do not believe, what they say beside payments, and tokens that can be charged no more.

Expand only: a process of the version before goes on working on the new schema. Each statement commits by itself, one that cannot have
its lock within a few seconds gives up, and the index of what is there is built beside the payments that go on. All of it may be run
again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS incident (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    kind TEXT NOT NULL,
    payment_id TEXT COLLATE "C" NOT NULL,
    operation_id TEXT COLLATE "C" NOT NULL,
    account TEXT NOT NULL,
    said TEXT NOT NULL,
    details JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    closed_at TIMESTAMP WITH TIME ZONE,
    closed_reason TEXT,
    PRIMARY KEY (id),
    CONSTRAINT incident_once UNIQUE (operation_id, kind, said),
    CONSTRAINT incident_kind CHECK (kind IN ('amount_mismatch', 'contradiction', 'another_account')),
    FOREIGN KEY (payment_id) REFERENCES payment (id)
)""",
    "CREATE INDEX IF NOT EXISTS incident_by_merchant ON incident (merchant_id, livemode, id)",
    "CREATE INDEX IF NOT EXISTS incident_by_payment ON incident (payment_id)",
    """CREATE TABLE IF NOT EXISTS notice (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    kind TEXT NOT NULL,
    account TEXT NOT NULL,
    provider_notice_id TEXT NOT NULL,
    payment_id TEXT COLLATE "C",
    reason TEXT,
    amount BIGINT,
    currency TEXT,
    report_url TEXT,
    told_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT notice_once UNIQUE (account, kind, provider_notice_id),
    FOREIGN KEY (payment_id) REFERENCES payment (id)
)""",
    "SET lock_timeout = '3s'",
    """ALTER TABLE payment_method ADD COLUMN IF NOT EXISTS dead_tokens TEXT[],
    ADD COLUMN IF NOT EXISTS card_told_at TIMESTAMP WITH TIME ZONE""",
    "RESET lock_timeout",
    "DROP INDEX CONCURRENTLY IF EXISTS payment_method_by_token",  # one that was interrupted is there, and not valid
    "CREATE INDEX CONCURRENTLY payment_method_by_token ON payment_method USING gin (tokens jsonb_path_ops) WHERE reusable",
    "DROP INDEX CONCURRENTLY IF EXISTS payment_method_by_dead_token",
    """CREATE INDEX CONCURRENTLY payment_method_by_dead_token ON payment_method USING gin (dead_tokens)
    WHERE dead_tokens IS NOT NULL""",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
