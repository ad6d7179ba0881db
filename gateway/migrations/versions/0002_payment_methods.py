"""Payment methods and customers of their own: what is kept about a method, who it belongs to, and verifications of amount zero.

Expand only: a process of the version before goes on working on the new schema, since every new column may be left out. Each
statement commits by itself, so that no lock is held longer than its own statement needs: a check is made valid without keeping
payments from being written, an index keeps ``payment_method`` from being written for one scan of it. All of it may be run again
where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS customer (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    reference TEXT,
    metadata JSONB NOT NULL,
    personal JSONB,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
)""",
    "CREATE INDEX IF NOT EXISTS customer_by_merchant ON customer (merchant_id, livemode, id)",
    "CREATE INDEX IF NOT EXISTS customer_by_reference ON customer (merchant_id, livemode, reference, id)",
    """ALTER TABLE payment_method
    ADD COLUMN IF NOT EXISTS customer TEXT,
    ADD COLUMN IF NOT EXISTS fingerprint TEXT,
    ADD COLUMN IF NOT EXISTS network_transaction_id TEXT,
    ADD COLUMN IF NOT EXISTS metadata JSONB,
    ADD COLUMN IF NOT EXISTS personal JSONB,
    ADD COLUMN IF NOT EXISTS verification_id TEXT COLLATE "C",
    ADD COLUMN IF NOT EXISTS updated_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS deleted_at TIMESTAMP WITH TIME ZONE""",
    "CREATE INDEX IF NOT EXISTS payment_method_sealed ON payment_method (id) WHERE sealed_card IS NOT NULL",
    """CREATE INDEX IF NOT EXISTS payment_method_by_merchant ON payment_method (merchant_id, livemode, id)
    WHERE reusable""",
    """CREATE INDEX IF NOT EXISTS payment_method_by_customer ON payment_method (merchant_id, customer, id)
    WHERE reusable AND customer IS NOT NULL""",
    """CREATE INDEX IF NOT EXISTS payment_method_by_fingerprint ON payment_method (merchant_id, fingerprint, id)
    WHERE reusable AND fingerprint IS NOT NULL""",
    # Every row that fits the old check fits the new one: it may be checked afterwards, beside the payments that go on.
    """ALTER TABLE payment DROP CONSTRAINT IF EXISTS payment_amount,
    ADD CONSTRAINT payment_amount CHECK (amount BETWEEN 0 AND 999999999999) NOT VALID""",
    "ALTER TABLE payment VALIDATE CONSTRAINT payment_amount",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
