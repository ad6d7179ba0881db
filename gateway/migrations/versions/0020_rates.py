"""Rates: views that say what each attempt, payment and group came to, and the counts that are kept of them.

The views stand in a schema of their own, for analysts: ``GRANT USAGE ON SCHEMA rates`` and ``SELECT`` on its views is all they need.
What changes about a payment is found by the transaction that wrote its step of the history (``change.xid``).

Expand only: a process of the version before goes on working on the new schema, and what it writes is counted alike. A statement that
cannot have its lock within a few seconds gives up, and the index is built beside the payments that go on. All of it may be run again
where it was interrupted.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0020"
down_revision = "0019"

TABLES: Final = (
    "SET lock_timeout = '3s'",
    "ALTER TABLE change ADD COLUMN IF NOT EXISTS xid xid8",
    # In a statement of its own: rows that are there keep none, and the table is not written anew.
    "ALTER TABLE change ALTER COLUMN xid SET DEFAULT pg_current_xact_id()",
    "RESET lock_timeout",
    # One that was interrupted is there, and not valid.
    "DROP INDEX CONCURRENTLY IF EXISTS change_by_xid",
    "CREATE INDEX CONCURRENTLY change_by_xid ON change (xid, payment_id) WHERE xid IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS rate_mark (
    id SMALLINT NOT NULL,
    position xid8 NOT NULL,
    payment_id TEXT COLLATE "C" NOT NULL,
    backfill TEXT COLLATE "C",
    window_s INTEGER NOT NULL,
    as_of TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT rate_mark_once CHECK (id = 1),
    CONSTRAINT rate_mark_window CHECK (window_s > 0)
)""",
    "INSERT INTO rate_mark (id, position, payment_id, backfill, window_s) VALUES (1, '0', '', '', 1800) ON CONFLICT DO NOTHING",
    """CREATE TABLE IF NOT EXISTS rate_owner (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    merchant_id TEXT COLLATE "C" NOT NULL,
    livemode BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT rate_owner_once UNIQUE (merchant_id, livemode)
)""",
    """CREATE TABLE IF NOT EXISTS rate_key (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    owner INTEGER NOT NULL,
    cuboid TEXT NOT NULL,
    digest UUID NOT NULL,
    dimensions JSONB NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT rate_key_once UNIQUE (owner, cuboid, digest)
)""",
    """CREATE TABLE IF NOT EXISTS rated (
    payment_id TEXT COLLATE "C" NOT NULL,
    ordinal SMALLINT NOT NULL,
    owner INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    hour_key INTEGER NOT NULL,
    bin_key INTEGER NOT NULL,
    proof_key INTEGER NOT NULL,
    day_key INTEGER NOT NULL,
    amount BIGINT NOT NULL,
    what SMALLINT NOT NULL,
    marks SMALLINT,
    extra SMALLINT,
    last_at TIMESTAMP WITH TIME ZONE,
    same_try UUID,
    metadata JSONB,
    PRIMARY KEY (payment_id, ordinal)
)""",
    "CREATE INDEX IF NOT EXISTS rated_by_time ON rated (owner, at)",
    """CREATE INDEX IF NOT EXISTS rated_by_try ON rated (owner, same_try, at, payment_id)
    WHERE same_try IS NOT NULL""",
    *(
        f"""CREATE TABLE IF NOT EXISTS rate_{name} (
    owner INTEGER NOT NULL,
    of_payment BOOLEAN NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    key INTEGER NOT NULL,
    what SMALLINT NOT NULL,
    n BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (owner, of_payment, at, key, what)
)"""
        for name in ("hour", "bin", "proof", "day")
    ),
)

SAME_TRY: Final = """CASE WHEN p.reference IS NOT NULL THEN md5(jsonb_build_array(p.reference, coalesce(
            left(p.card->>'bin', 6) || '/' || (p.card->>'last4') || '/' || (p.card->>'exp_month') || '/' || (p.card->>'exp_year'),
            p.payment_method_id), p.amount, p.currency)::text)::uuid END"""
"""What two payments have in common that try the same: the merchant's reference, the card by what may be shown of it, and the money.

Not by the card's fingerprint: that is erased with its payment method, and then the same rows would say something else.
"""
ATTEMPT: Final = f"""CREATE OR REPLACE VIEW rates.attempt AS
SELECT merchant_id, livemode, payment_id, attempt_id, at,
    row_number() OVER (PARTITION BY payment_id ORDER BY at, seq) AS ordinal,
    row_number() OVER (PARTITION BY payment_id, round ORDER BY at, seq) > 1 AND attempt_id IS NOT NULL AS cascaded,
    round, class, attempt_id IS NOT NULL AND class IN ('approved', 'declined', 'blocked', 'authentication_failed') AS reached,
    amount, currency, account, provider, brand, funding, bin, issuer_country, country,
    CASE WHEN amount < 1 THEN '0' WHEN amount < 1000 THEN '1-999' WHEN amount < 5000 THEN '1000-4999' WHEN amount < 20000 THEN '5000-19999'
        WHEN amount < 100000 THEN '20000-99999' ELSE '100000+' END AS amount_band,
    initiator, recurring, capture_method, decline_code, decline_type, decline_action, raw_code, network_code, network_advice,
    routing, rule, version, strategy, mode, allowed_by,
    CASE WHEN class = 'approved' AND proof->>'result' IS NOT NULL THEN proof->>'result'
        WHEN class = 'authentication_failed' THEN 'failed' WHEN challenged THEN 'challenged' ELSE 'none' END AS three_d_secure,
    CASE WHEN class = 'approved' AND proof->>'flow' IS NOT NULL THEN proof->>'flow' WHEN challenged THEN 'challenge' END AS three_d_secure_flow,
    CASE WHEN class = 'approved' THEN proof->>'version' END AS three_d_secure_version,
    CASE WHEN class = 'approved' THEN proof->>'eci' END AS eci,
    CASE WHEN class = 'approved' THEN checks->>'avs' END AS avs,
    CASE WHEN class = 'approved' THEN checks->>'cvc' END AS cvc,
    metadata, same_try
FROM (
    SELECT p.merchant_id, p.livemode, o.payment_id, o.id AS attempt_id, o.created_at AS at, o.seq, o.round, o.challenged,
        CASE WHEN o.status IN ('authorized', 'captured') THEN 'approved'
            WHEN o.status IN ('voided', 'expired') AND EXISTS (SELECT FROM public.change c WHERE c.payment_id = o.payment_id
                AND c.operation_id = o.id AND c.reason IN ('authorized', 'captured')) THEN 'approved'
            WHEN o.status IN ('created', 'sent', 'requires_action', 'pending') THEN 'pending'
            WHEN o.status = 'unknown' THEN 'unknown'
            WHEN o.status = 'not_processed' OR (o.status = 'voided' AND o.reason IS NOT NULL) THEN 'technical'
            WHEN o.status = 'voided' OR x.code = 'cancelled'
                THEN CASE WHEN o.challenged THEN 'authentication_failed' ELSE 'canceled' END
            WHEN x.code IN ('authentication_failed', 'authentication_expired') THEN 'authentication_failed'
            WHEN x.code IN ('suspected_fraud', 'merchant_blocked', 'compliance_block', 'retry_limit_reached') THEN 'blocked'
            WHEN x.code IN ('provider_error', 'provider_config', 'provider_rejected', 'not_sent', 'test_card') THEN 'technical'
            ELSE 'declined' END AS class,
        o.amount, p.currency, o.account, o.provider, coalesce(f.brand, c.brand) AS brand, coalesce(f.funding, c.funding) AS funding,
        left(coalesce(f.bin, c.bin), 8) AS bin, coalesce(f.issuer_country, c.country) AS issuer_country,
        f.country,
        coalesce(f.initiator, CASE WHEN p.off_session THEN 'merchant' ELSE 'customer' END) AS initiator,
        coalesce(f.recurring, p.options->>'recurring') AS recurring, p.capture_method,
        x.code AS decline_code, x.type AS decline_type, x.action AS decline_action, x.provider_code AS raw_code, x.network_code,
        x.network_advice, d.decision->>'kind' AS routing, d.decision->>'rule' AS rule, d.decision->>'version' AS version,
        d.decision->>'strategy' AS strategy, d.decision->>'mode' AS mode, o.metadata->>'allowed_by' AS allowed_by,
        p.three_d_secure AS proof, p.checks, p.metadata, {SAME_TRY} AS same_try
    FROM public.operation o JOIN public.payment p ON p.id = o.payment_id
    LEFT JOIN public.operation d ON d.id = coalesce(o.decision->>'decided_by', o.id)
    CROSS JOIN LATERAL jsonb_to_record(coalesce(d.decision->'facts', '{{}}')) AS f(brand text, funding text, bin text,
        issuer_country text, country text, initiator text, recurring text)
    CROSS JOIN LATERAL jsonb_to_record(CASE WHEN o.round = p.round AND p.card IS NOT NULL THEN p.card ELSE '{{}}' END)
        AS c(brand text, bin text, last4 text, exp_month text, exp_year text, funding text, country text)
    CROSS JOIN LATERAL jsonb_to_record(coalesce(o.decline, '{{}}')) AS x(code text, type text, action text, provider_code text,
        network_code text, network_advice text)
    WHERE o.kind = 'authorize' AND o.amount > 0
    UNION ALL
    SELECT p.merchant_id, p.livemode, l.payment_id, NULL, l.at, l.seq, NULL, false, 'blocked', p.amount, p.currency, NULL, NULL,
        p.card->>'brand', p.card->>'funding', left(p.card->>'bin', 8), p.card->>'country',
        NULL, CASE WHEN p.off_session THEN 'merchant' ELSE 'customer' END,
        p.options->>'recurring', p.capture_method, 'retry_limit_reached', 'soft', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        l.reason, NULL, NULL, p.metadata, {SAME_TRY}
    FROM public.change l JOIN public.payment p ON p.id = l.payment_id WHERE l.news = 'Limited' AND p.amount > 0
) AS made"""

PAYMENT: Final = """CREATE OR REPLACE VIEW rates.payment AS
SELECT merchant_id, livemode, payment_id, at, last_at, attempts, extra_attempts, class, reached, approved, first_approved,
    recovered OR (first_class IN ('declined', 'technical', 'blocked', 'authentication_failed')) AS stumbled, recovered,
    approved OR (decided AND NOT open) AS requested,
    amount, currency, account, provider, brand, funding, bin, issuer_country, country, amount_band, initiator, recurring, capture_method,
    decline_code, decline_type, decline_action, raw_code, network_code, network_advice, routing, rule, version, strategy, mode, ordinal, round,
    allowed_by, three_d_secure, three_d_secure_flow, three_d_secure_version, eci, avs, cvc, metadata, same_try
FROM (
    SELECT a.merchant_id, a.livemode, a.payment_id, a.at, a.ordinal, a.class AS first_class, a.class,
        max(a.at) OVER whole AS last_at,
        count(a.attempt_id) OVER whole AS attempts,
        count(*) FILTER (WHERE a.cascaded) OVER whole AS extra_attempts,
        bool_or(a.reached) OVER whole AS reached,
        bool_or(a.class = 'approved') OVER whole AS approved,
        a.class = 'approved' AS first_approved,
        bool_or(a.class = 'approved' AND a.cascaded) OVER whole AS recovered,
        bool_or(a.class IN ('pending', 'unknown')) OVER whole AS open,
        bool_or(a.class IN ('declined', 'technical', 'blocked', 'authentication_failed')) OVER whole AS decided,
        a.amount, a.currency, a.account, a.provider, a.brand, a.funding, a.bin, a.issuer_country, a.country, a.amount_band, a.initiator,
        a.recurring, a.capture_method, a.decline_code, a.decline_type, a.decline_action, a.raw_code, a.network_code, a.network_advice,
        a.routing, a.rule, a.version, a.strategy, a.mode, a.round, a.allowed_by, a.three_d_secure, a.three_d_secure_flow, a.three_d_secure_version,
        a.eci, a.avs, a.cvc, a.metadata,
        a.same_try
    FROM rates.attempt a WINDOW whole AS (PARTITION BY a.payment_id)
) AS made WHERE ordinal = 1"""

GROUP: Final = """CREATE OR REPLACE VIEW rates.payment_group AS
SELECT * FROM (
    SELECT p.*, lead(p.at) OVER (PARTITION BY p.merchant_id, p.livemode, p.same_try ORDER BY p.at, p.payment_id) AS next_try_at
    FROM rates.payment p WHERE p.reached
) AS tried
WHERE approved OR same_try IS NULL OR next_try_at IS NULL
    OR next_try_at > last_at + make_interval(secs => (SELECT window_s FROM public.rate_mark))"""

RATES: Final = (
    ("attempt_authorization_rate", "attempt", "class = 'approved'", "class IN ('approved', 'declined')"),
    ("payment_authorization_rate", "payment", "approved", "reached"),
    ("deduplicated_rate", "payment_group", "approved", "true"),
    ("acceptance_rate", "payment", "approved", "requested"),
    ("first_attempt_rate", "payment", "first_approved", "reached"),
    ("recovered_by_cascade", "payment", "recovered", "stumbled"),
    (
        "technical_error_rate",
        "attempt",
        "class = 'technical'",
        "class IN ('approved', 'declined', 'technical', 'unknown')",
    ),
    ("unknown_rate", "attempt", "class = 'unknown'", "class IN ('approved', 'declined', 'technical', 'unknown')"),
)
"""Name, view, numerator and denominator."""


def rate_view(name: str, view: str, hits: str, total: str) -> str:
    """The view of one rate: a row a merchant, mode, day, account and currency."""
    return f"""CREATE OR REPLACE VIEW rates.{name} AS
SELECT merchant_id, livemode, date_trunc('day', at, 'UTC') AS day, account, currency, count(*) AS n, count(*) FILTER (WHERE {hits}) AS hits,
    count(*) FILTER (WHERE {hits})::float8 / count(*) AS rate, sum(amount) AS amount_n,
    coalesce(sum(amount) FILTER (WHERE {hits}), 0) AS amount_hits{", sum(extra_attempts) AS extra_attempts" if name == "recovered_by_cascade" else ""}
FROM rates.{view} WHERE {total} GROUP BY 1, 2, 3, 4, 5"""


COMMENTS: Final = {
    "attempt": "Every attempt to authorize a payment, with its class: approved, declined, technical, unknown, blocked, authentication_failed, "
    "canceled or pending. A confirmation that the limits of the card stopped is a row without attempt_id. Amounts in minor units. at is when the "
    "attempt was made; a late result changes its class, not its time. Verifications of amount 0 are left out.",
    "payment": "Every payment with an attempt: what became of it, with the dimensions and the time of its first attempt. reached: an attempt "
    "was answered by a provider; requested: it is decided; recovered: another account approved it in the same round; extra_attempts: what that cost.",
    "payment_group": "Payments that reached a provider, without those that a later one tries again: the same reference, card, amount and currency "
    "within rate_mark.window_s seconds after the last attempt. A group ends with its first approval.",
    "attempt_authorization_rate": "approved / (approved + declined), per attempt",
    "payment_authorization_rate": "payments with an approved attempt / payments with an attempt that reached a provider",
    "deduplicated_rate": "groups with an approved payment / groups of payments that reached a provider",
    "acceptance_rate": "approved payments / decided payments: technical failures, blocks and challenges that were not passed count against it",
    "first_attempt_rate": "payments whose first attempt was approved / payments with an attempt that reached a provider",
    "recovered_by_cascade": "payments that another account approved in the same round / payments whose first attempt ended without an approval",
    "technical_error_rate": "technical / (approved + declined + technical + unknown), per attempt",
    "unknown_rate": "unknown / (approved + declined + technical + unknown), per attempt",
}

VIEWS: Final = (
    "CREATE SCHEMA IF NOT EXISTS rates",
    "COMMENT ON SCHEMA rates IS 'Authorization rates, for reading: GRANT USAGE ON SCHEMA rates, and SELECT on its views'",
    ATTEMPT,
    PAYMENT,
    GROUP,
    *(rate_view(*each) for each in RATES),
    *(f"COMMENT ON VIEW rates.{name} IS '{said}'" for name, said in COMMENTS.items()),
)


def upgrade() -> None:
    """Add what is new, one statement and one commit at a time."""
    with op.get_context().autocommit_block():
        for statement in (*TABLES, *VIEWS):
            op.execute(statement)
