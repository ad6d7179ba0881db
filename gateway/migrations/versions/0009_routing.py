"""How payments are routed is a merchant's to say: versions of its routing document, what put them in force, and why an attempt went where it did.

Expand only: a process of the version before goes on working on the new schema. A statement that cannot have its lock within a few
seconds gives up. All of it may be run again where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS routing_version (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    document JSONB NOT NULL,
    hash TEXT NOT NULL,
    parent TEXT COLLATE "C",
    note TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT routing_version_number UNIQUE (merchant_id, livemode, number),
    CONSTRAINT routing_version_by_merchant UNIQUE (merchant_id, livemode, id),
    FOREIGN KEY (merchant_id, livemode, parent) REFERENCES routing_version (merchant_id, livemode, id)
)""",
    """CREATE TABLE IF NOT EXISTS routing_publication (
    id TEXT COLLATE "C" NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    version_id TEXT COLLATE "C",
    percent INTEGER NOT NULL,
    shadow BOOLEAN DEFAULT false NOT NULL,
    starts_at TIMESTAMP WITH TIME ZONE NOT NULL,
    target TEXT COLLATE "C",
    reason TEXT NOT NULL,
    published_at TIMESTAMP WITH TIME ZONE NOT NULL,
    published_by TEXT COLLATE "C" NOT NULL,
    approved_by TEXT COLLATE "C",
    PRIMARY KEY (id),
    CONSTRAINT routing_publication_sequence UNIQUE (merchant_id, livemode, sequence),
    CONSTRAINT routing_publication_kind CHECK (kind IN ('request', 'publish', 'rollback', 'withdraw')),
    CONSTRAINT routing_publication_percent CHECK (percent BETWEEN 1 AND 100),
    CONSTRAINT routing_publication_reason CHECK (reason <> ''),
    CONSTRAINT routing_publication_version CHECK (version_id IS NOT NULL OR kind = 'rollback'),
    CONSTRAINT routing_publication_target CHECK ((target IS NOT NULL) = (kind = 'withdraw' OR approved_by IS NOT NULL)),
    CONSTRAINT routing_publication_two_persons CHECK (approved_by <> published_by),
    CONSTRAINT routing_publication_by_merchant UNIQUE (merchant_id, livemode, id),
    FOREIGN KEY (merchant_id, livemode, version_id) REFERENCES routing_version (merchant_id, livemode, id),
    FOREIGN KEY (merchant_id, livemode, target) REFERENCES routing_publication (merchant_id, livemode, id)
)""",
    """CREATE OR REPLACE TRIGGER routing_version_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON routing_version
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite()""",
    """CREATE OR REPLACE TRIGGER routing_publication_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON routing_publication
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite()""",
    "SET lock_timeout = '3s'",
    "ALTER TABLE operation ADD COLUMN IF NOT EXISTS decision JSONB",
    "RESET lock_timeout",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
