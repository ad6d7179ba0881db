"""People who may look at the console: who they are, their sessions, and an append-only record of who came in and who tried.

Expand only: a process of the version before goes on working on the new schema, and serves no console. All of it may be run again where
it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0018"
down_revision = "0015"

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS console_user (
    id TEXT COLLATE "C" NOT NULL,
    email TEXT NOT NULL,
    merchant_id TEXT COLLATE "C" NOT NULL,
    password_hash TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    password_at TIMESTAMP WITH TIME ZONE,
    disabled_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT console_user_email UNIQUE (email),
    CONSTRAINT console_user_email_small CHECK (email = lower(email)),
    FOREIGN KEY (merchant_id) REFERENCES merchant (id)
)""",
    """CREATE TABLE IF NOT EXISTS console_session (
    token_hash BYTEA NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ends_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (token_hash),
    FOREIGN KEY (user_id) REFERENCES console_user (id)
)""",
    "CREATE INDEX IF NOT EXISTS console_session_by_user ON console_session (user_id)",
    """CREATE TABLE IF NOT EXISTS console_link (
    token_hash BYTEA NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    ends_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (token_hash),
    FOREIGN KEY (user_id) REFERENCES console_user (id)
)""",
    """CREATE TABLE IF NOT EXISTS console_event (
    id TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    kind TEXT NOT NULL,
    user_id TEXT COLLATE "C",
    subject BYTEA,
    address TEXT,
    PRIMARY KEY (id),
    CONSTRAINT console_event_kind CHECK (kind IN ('user_created', 'user_disabled', 'password_set', 'link_made', 'login_tried',
    'login_succeeded', 'link_used', 'logout')),
    FOREIGN KEY (user_id) REFERENCES console_user (id)
)""",
    "CREATE INDEX IF NOT EXISTS console_event_by_subject ON console_event (subject, at) WHERE subject IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS console_event_by_address ON console_event (address, at) WHERE address IS NOT NULL",
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
