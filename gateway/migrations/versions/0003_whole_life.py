"""A payment's whole life: challenges that are completed, authorizations that are changed, disputes."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

EXPAND = """
ALTER TABLE payment ADD COLUMN three_d_secure JSONB, ADD COLUMN capture_before TIMESTAMP WITH TIME ZONE;
ALTER TABLE operation ADD COLUMN challenged BOOLEAN DEFAULT false NOT NULL;
ALTER TABLE operation DROP CONSTRAINT operation_kind;
ALTER TABLE operation ADD CONSTRAINT operation_kind
    CHECK (kind IN ('authorize', 'capture', 'void', 'refund', 'increment', 'defend', 'accept'));
CREATE TABLE dispute (
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
);
CREATE INDEX dispute_by_merchant ON dispute (merchant_id, livemode, id);
CREATE INDEX dispute_by_payment ON dispute (payment_id);
"""

# A challenge that was open before this version has no time at which it is abandoned.
CHALLENGES = """
UPDATE operation SET due_at = updated_at + interval '30 minutes', challenged = true
    WHERE kind = 'authorize' AND status = 'requires_action';
"""


def upgrade() -> None:
    """Expand only: what runs on the schema before this goes on running."""
    op.execute(EXPAND)
    op.execute(CHALLENGES)
