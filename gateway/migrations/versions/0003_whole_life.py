"""A payment's whole life: challenges that are completed, authorizations that are changed, disputes.

Expand only: a process of the version before goes on working on the new schema. Each statement commits by itself, so that no lock is
held longer than its own statement needs, and one that cannot have its lock within a few seconds gives up, so that it never stands in
the way of payments. All of it may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS: Final = (
    "SET lock_timeout = '3s'",
    """ALTER TABLE payment ADD COLUMN IF NOT EXISTS three_d_secure JSONB,
    ADD COLUMN IF NOT EXISTS capture_before TIMESTAMP WITH TIME ZONE""",
    "ALTER TABLE operation ADD COLUMN IF NOT EXISTS challenged BOOLEAN DEFAULT false NOT NULL",
    # Every row that fits the old check fits the new one: it may be checked afterwards, beside the payments that go on.
    """ALTER TABLE operation DROP CONSTRAINT IF EXISTS operation_kind, ADD CONSTRAINT operation_kind
    CHECK (kind IN ('authorize', 'capture', 'void', 'refund', 'increment', 'defend', 'accept')) NOT VALID""",
    "ALTER TABLE operation VALIDATE CONSTRAINT operation_kind",
    """CREATE TABLE IF NOT EXISTS dispute (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    payment_id TEXT COLLATE "C" NOT NULL,
    account TEXT NOT NULL,
    provider TEXT NOT NULL,
    provider_dispute_id TEXT NOT NULL,
    status TEXT NOT NULL,
    amount BIGINT NOT NULL,
    currency TEXT NOT NULL,
    reason TEXT,
    network_reason_code TEXT,
    respond_by TIMESTAMP WITH TIME ZONE,
    news_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT dispute_once UNIQUE (account, provider_dispute_id),
    FOREIGN KEY(payment_id) REFERENCES payment (id)
)""",
    "CREATE INDEX IF NOT EXISTS dispute_by_merchant ON dispute (merchant_id, livemode, id)",
    "CREATE INDEX IF NOT EXISTS dispute_by_payment ON dispute (payment_id)",
    "RESET lock_timeout",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
