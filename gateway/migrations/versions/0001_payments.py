"""The first schema: merchants and keys, payments with their operations and history, the idempotency keys, the inbox.

Two roles from the start. The owner migrates; the application's role gets what it needs and no more: it can neither update nor
delete the history. A trigger says the same to everybody else.
"""

from __future__ import annotations

from importlib.resources import files

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE merchant (
    id TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE api_key (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    livemode BOOLEAN NOT NULL,
    secret_hash BYTEA NOT NULL,
    version TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT api_key_kind CHECK (kind IN ('secret', 'publishable')),
    FOREIGN KEY(merchant_id) REFERENCES merchant (id)
);
CREATE TABLE payment_method (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    type TEXT NOT NULL,
    tokens JSONB NOT NULL,
    card JSONB,
    sealed_card BYTEA,
    sealed_cvc BYTEA,
    reusable BOOLEAN NOT NULL,
    wipe_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX payment_method_wipe ON payment_method (wipe_at) WHERE wipe_at IS NOT NULL;
CREATE TABLE payment (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    version INTEGER NOT NULL,
    status TEXT NOT NULL,
    processing_reason TEXT,
    round INTEGER NOT NULL,
    route TEXT[] NOT NULL,
    amount BIGINT NOT NULL,
    currency TEXT NOT NULL,
    capture_method TEXT NOT NULL,
    off_session BOOLEAN NOT NULL,
    amount_authorized BIGINT NOT NULL,
    amount_capturing BIGINT NOT NULL,
    amount_captured BIGINT NOT NULL,
    amount_refunding BIGINT NOT NULL,
    amount_refunded BIGINT NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    cancellation_reason TEXT,
    payment_method_id TEXT COLLATE "C",
    account TEXT,
    provider TEXT,
    provider_payment_id TEXT,
    network_transaction_id TEXT,
    auth_code TEXT,
    checks JSONB,
    card JSONB,
    decline JSONB,
    next_action JSONB,
    reference TEXT,
    customer TEXT,
    metadata JSONB NOT NULL,
    options JSONB NOT NULL,
    personal JSONB,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT payment_amount CHECK (amount BETWEEN 1 AND 999999999999),
    CONSTRAINT payment_authorized CHECK (amount_authorized BETWEEN 0 AND amount),
    CONSTRAINT payment_captured_positive CHECK (amount_capturing >= 0 AND amount_captured >= 0),
    CONSTRAINT payment_captured CHECK (amount_captured + amount_capturing <= amount_authorized),
    CONSTRAINT payment_refunded_positive CHECK (amount_refunding >= 0 AND amount_refunded >= 0),
    CONSTRAINT payment_refunded CHECK (amount_refunded + amount_refunding <= amount_captured)
);
CREATE INDEX payment_by_merchant ON payment (merchant_id, livemode, id);
CREATE INDEX payment_cancel_requested ON payment (id) WHERE cancel_requested;
CREATE INDEX payment_parked ON payment (id) WHERE processing_reason = 'awaiting_retry';
CREATE TABLE operation (
    id TEXT COLLATE "C" NOT NULL,
    payment_id TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    seq INTEGER NOT NULL,
    round INTEGER NOT NULL,
    account TEXT NOT NULL,
    provider TEXT NOT NULL,
    amount BIGINT NOT NULL,
    status TEXT NOT NULL,
    final BOOLEAN NOT NULL,
    provider_key TEXT NOT NULL,
    provider_id TEXT,
    decline JSONB,
    reason TEXT,
    metadata JSONB,
    sealed_request BYTEA,
    holds_card BOOLEAN NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
    epoch INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT operation_seq UNIQUE (payment_id, seq),
    CONSTRAINT operation_provider_key UNIQUE (provider_key),
    CONSTRAINT operation_kind CHECK (kind IN ('authorize', 'capture', 'void', 'refund')),
    FOREIGN KEY(payment_id) REFERENCES payment (id)
);
CREATE INDEX operation_by_provider_id ON operation (provider_id) WHERE provider_id IS NOT NULL;
CREATE INDEX operation_due ON operation (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX operation_holds_card ON operation (created_at) WHERE holds_card;
CREATE UNIQUE INDEX operation_one_live_success ON operation (payment_id) WHERE kind = 'authorize' AND status IN ('authorized', 'captured');
CREATE UNIQUE INDEX operation_one_open_authorize ON operation (payment_id) WHERE kind = 'authorize' AND status IN ('created', 'sent', 'requires_action', 'pending', 'unknown');
CREATE TABLE change (
    payment_id TEXT COLLATE "C" NOT NULL,
    seq INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    source TEXT NOT NULL,
    news TEXT NOT NULL,
    from_status TEXT,
    to_status TEXT NOT NULL,
    reason TEXT NOT NULL,
    operation_id TEXT COLLATE "C",
    PRIMARY KEY (payment_id, seq),
    FOREIGN KEY(payment_id) REFERENCES payment (id)
);
CREATE TABLE idempotency_key (
    merchant_id TEXT NOT NULL,
    livemode BOOLEAN NOT NULL,
    key TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    payment_id TEXT NOT NULL,
    operation_id TEXT,
    status INTEGER,
    answer BYTEA,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (merchant_id, livemode, key),
    CONSTRAINT idempotency_key_length CHECK (octet_length(key) BETWEEN 1 AND 255)
);
CREATE TABLE webhook_inbox (
    id BIGINT GENERATED BY DEFAULT AS IDENTITY,
    account TEXT NOT NULL,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    sealed_body BYTEA NOT NULL,
    position INTEGER NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    applied_at TIMESTAMP WITH TIME ZONE,
    result TEXT,
    tries INTEGER NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT webhook_inbox_once UNIQUE (account, event_id)
);
CREATE INDEX webhook_inbox_due ON webhook_inbox (due_at) WHERE due_at IS NOT NULL;
"""

APPEND_ONLY = """
CREATE FUNCTION refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP;
END $$;
CREATE TRIGGER change_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON change
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite();
"""

# Room on the page for the update that every payment gets: it then touches no index.
FILL = "ALTER TABLE payment SET (fillfactor = 70)"

# A plan made on an empty, never analysed table costs three times as much for as long as it stays cached.
ANALYZE_EARLY = """
ALTER TABLE payment SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 200);
ALTER TABLE operation SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 200);
ALTER TABLE change SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 200);
ALTER TABLE idempotency_key SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 200);
"""


def upgrade() -> None:
    """Create everything, the job tables of procrastinate in a schema of their own."""
    op.execute(TABLES)
    op.execute(APPEND_ONLY)
    op.execute(FILL)
    op.execute(ANALYZE_EARLY)
    op.execute("CREATE SCHEMA procrastinate")
    op.execute("SET LOCAL search_path TO procrastinate, public")
    op.get_bind().connection.cursor().execute((files("procrastinate.sql") / "schema.sql").read_text(encoding="utf-8"))
    op.execute("SET LOCAL search_path TO DEFAULT")
