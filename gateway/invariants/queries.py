"""What is read for the invariants: pages in the order of their key, each one statement, so each is of one moment.

A page is a payment's rows as arrays of JSON, in the order of the fields of :mod:`gateway.invariants.facts`. Only columns that are named
there are read, so a column that a newer version adds changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.invariants.facts import (
    CardDeclineRecord,
    ChangeRecord,
    DisputeRecord,
    EventRecord,
    KeyRecord,
    OperationRecord,
    PaymentRecord,
    ToldRecord,
)

CARD_DECLINES_MIN: Final = 10
"""The lowest limit of a network: with as many declines none can be broken."""
PAGE: Final = 500
"""Payments or keys read at a time; what is in memory is a few such pages, however many rows there are."""

_INSTANTS: Final = frozenset(
    {"at", "created_at", "updated_at", "due_at", "review_at", "received_at", "retry_at", "evidence_at"}
)


class Fetches(Protocol):
    """Something that runs one statement: :class:`gateway.sql.Pool`, or the connection of ``gateway verify``."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        """The rows of one statement."""
        ...


_OPERATION: Final = {
    "sealed": "o.sealed_request IS NOT NULL",
    "evidenced": "o.evidence_xid IS NOT NULL",
    "releases_unknown": "o.kind = 'void' AND coalesce(o.metadata->>'purpose' = 'failover', false)",
    "action": "o.decline->>'action'",
    "allowed_by": "o.metadata->>'allowed_by'",
    "first_routed": "o.decision->'route'->>0",
    "follows": "o.decision->>'after'",
    "decided_by": "o.decision->>'decided_by'",
    "foreign_version": """coalesce(o.decision->>'version' IS NOT NULL AND NOT EXISTS (SELECT FROM routing_version v
        WHERE v.id = o.decision->>'version' AND v.merchant_id = p.merchant_id AND v.livemode = p.livemode), false)""",
    "key_shared": "EXISTS (SELECT FROM operation s WHERE s.provider_key = o.provider_key AND s.id <> o.id)",
}


def _array(record: type[NamedTuple], table: str, instead: Mapping[str, str]) -> str:
    return f"json_build_array({', '.join(_value(name, table, instead) for name in record._fields)})"


def _value(name: str, table: str, instead: Mapping[str, str]) -> str:
    if name in instead:
        return instead[name]
    return f"extract(epoch FROM {table}.{name})::float8" if name in _INSTANTS else f"{table}.{name}"


_PAYMENT_FACTS: Final = f"""SELECT {_array(PaymentRecord, "p", {})}::text AS payment,
    (SELECT coalesce(json_agg({_array(OperationRecord, "o", _OPERATION)} ORDER BY o.seq, o.id), '[]') FROM operation o
        WHERE o.payment_id = p.id)::text AS operations,
    (SELECT coalesce(json_agg({_array(ChangeRecord, "c", {})} ORDER BY c.seq), '[]') FROM change c
        WHERE c.payment_id = p.id)::text AS changes,
    (SELECT coalesce(json_agg({_array(DisputeRecord, "d", {})} ORDER BY d.id), '[]') FROM dispute d
        WHERE d.payment_id = p.id)::text AS disputes,
    (SELECT coalesce(json_agg({_array(ToldRecord, "e", {})}), '[]') FROM event e WHERE e.payment_id = p.id)::text AS told,
    extract(epoch FROM now())::float8 AS now FROM payment p"""
PAYMENTS: Final = f"""{_PAYMENT_FACTS} WHERE p.id > $1 AND p.created_at >= to_timestamp($2::float8)
    ORDER BY p.id LIMIT $3"""
"""One page of payments: ids above ``$1``, made at ``$2`` or later (seconds since 1970), ``$3`` of them."""
ONE_PAYMENT: Final = f"{_PAYMENT_FACTS} WHERE p.id = $1"
"""One payment by its id, ``$1``, in the same form."""

NOW: Final = "SELECT extract(epoch FROM now())::float8 AS now"

TOLD_SINCE: Final = "SELECT extract(epoch FROM created_at)::float8 AS at FROM event ORDER BY id LIMIT 1"
"""When the oldest event was written that is still kept: their ids sort by time."""

EVIDENCE_SINCE: Final = """SELECT extract(epoch FROM evidence_at)::float8 AS at FROM operation
    WHERE evidence_xid IS NOT NULL ORDER BY evidence_xid, id LIMIT 1"""
"""When the first word of evidence was written, by the index that they are folded by."""

_CARD: Final = {"opened": "extract(epoch FROM o.created_at)::float8", "payment_id": "o.payment_id"}
_CARD_FACTS: Final = f"""SELECT c.merchant_id, c.card, (SELECT json_agg({_array(CardDeclineRecord, "d", _CARD)} ORDER BY d.at, d.operation_id)
        FROM declined_card d JOIN operation o ON o.id = d.operation_id
        WHERE d.merchant_id = c.merchant_id AND d.livemode AND d.card = c.card)::text AS declines
    FROM page c ORDER BY c.merchant_id, c.card"""
CARDS: Final = f"""WITH page AS (SELECT merchant_id, card FROM declined_card WHERE livemode AND (merchant_id, card) > ($1, $2)
    GROUP BY merchant_id, card HAVING count(*) > {CARD_DECLINES_MIN} ORDER BY merchant_id, card LIMIT $3)
    {_CARD_FACTS}"""
"""One page of live cards behind a merchant and a card that were declined so often that a limit may be broken, ``$3`` of them; each with
all its declines, oldest first. A card that was declined a few times is passed over."""
CARDS_SINCE: Final = f"""WITH late AS MATERIALIZED (SELECT DISTINCT merchant_id, card FROM declined_card
        WHERE livemode AND at >= to_timestamp($4::float8)),
    page AS (SELECT merchant_id, card FROM late WHERE (merchant_id, card) > ($1, $2) AND (SELECT count(*) FROM declined_card d
        WHERE d.merchant_id = late.merchant_id AND d.livemode AND d.card = late.card) > {CARD_DECLINES_MIN}
        ORDER BY merchant_id, card LIMIT $3)
    {_CARD_FACTS}"""
"""The same of the cards that were declined at ``$4`` (seconds since 1970) or later, which are found by that time."""

COUNTS: Final = """SELECT relname::text AS name, greatest(reltuples, 0)::float8 AS rows FROM pg_class
    WHERE oid IN ('payment'::regclass, 'idempotency_key'::regclass)"""
"""About how many rows there are: what Postgres remembers of its last look, which costs nothing."""

_PAID: Final = "('authorized', 'captured')"
_ENDED: Final = "('voided', 'expired')"
_OPEN: Final = "('created', 'sent', 'requires_action', 'pending', 'unknown')"
_ROUND: Final = """(SELECT count(*) FROM operation r WHERE r.payment_id = o.payment_id AND r.kind = 'authorize'
    AND r.status IN {statuses} AND (r.round = o.round OR (r.round > o.round AND EXISTS (SELECT FROM operation s
        WHERE s.payment_id = r.payment_id AND s.round = r.round AND s.metadata->>'allowed_by' = 'scheduled'))))"""
"""What came of a key's round. A retry that was scheduled goes on with it: its answer is what comes of that."""
OPENED: Final = {
    "p": "payment",
    "m": "payment_method",
    "u": "customer",
    "w": "webhook_endpoint",
    "v": "routing_version",
    "b": "routing_publication",
    "t": "monitor",
}
"""The tables of all that a key may open. No row of theirs is ever deleted."""
_KEY: Final = {
    "opened": "k.payment_id",
    "repeated": """EXISTS (SELECT FROM idempotency_key s WHERE s.merchant_id = k.merchant_id AND s.livemode = k.livemode
        AND s.key = k.key AND s.ctid <> k.ctid)""",
    "target_merchant": f"coalesce({', '.join(f'{each}.merchant_id' for each in OPENED)})",
    "target_livemode": f"coalesce({', '.join(f'{each}.livemode' for each in OPENED)})",
    "target_status": "p.status",
    "target_round": "p.round",
    "op_payment": "o.payment_id",
    "op_kind": "o.kind",
    "op_status": "o.status",
    "op_round": "o.round",
    "paid_in_round": _ROUND.format(statuses=_PAID),
    "ended_in_round": _ROUND.format(statuses=_ENDED),
    "open_in_round": _ROUND.format(statuses=_OPEN),
}
_KEY_COLUMNS: Final = ", ".join(f"{_value(name, 'k', _KEY)} AS {name}" for name in KeyRecord._fields)
_TARGETS: Final = " ".join(f"LEFT JOIN {table} {each} ON {each}.id = k.payment_id" for each, table in OPENED.items())
_KEY_FACTS: Final = f"""SELECT {_KEY_COLUMNS}, extract(epoch FROM now())::float8 AS now FROM page k
    {_TARGETS}
    LEFT JOIN operation o ON o.id = k.operation_id"""
KEYS: Final = f"""WITH page AS (SELECT *, ctid FROM idempotency_key
    WHERE (merchant_id, livemode, key) > ($1, $2, $3)
    ORDER BY merchant_id, livemode, key LIMIT $4)
    {_KEY_FACTS} ORDER BY k.merchant_id, k.livemode, k.key"""
"""One page of keys above a key, ``$4`` of them."""
KEYS_SINCE: Final = f"""WITH page AS (SELECT *, ctid FROM idempotency_key
    WHERE created_at >= to_timestamp($1::float8) AND created_at < to_timestamp($6::float8)
    AND (created_at, merchant_id, livemode, key) > (to_timestamp($1::float8), $2, $3, $4)
    ORDER BY created_at, merchant_id, livemode, key LIMIT $5)
    {_KEY_FACTS} ORDER BY k.created_at, k.merchant_id, k.livemode, k.key"""
"""One page of keys by age: behind an instant and a key, ``$5`` of them, made before ``$6``. A narrow stretch of time is read by its index."""
KEY: Final = f"""WITH page AS (SELECT *, ctid FROM idempotency_key
    WHERE merchant_id = $1 AND livemode = $2 AND key = $3) {_KEY_FACTS}"""
"""One key again."""

KEYED: Final = "SELECT EXISTS (SELECT FROM idempotency_key WHERE payment_id = $1) AS keyed"
"""Whether a payment has a key. There is no index for it, so it is asked only of the few that seem to have none."""

OPERATIONS: Final = "SELECT id, payment_id FROM operation WHERE id = ANY($1::text[])"
"""Which of these operations there are."""

_EVENT: Final = {"applied": "e.applied_at IS NOT NULL"}
INBOX: Final = f"""SELECT {", ".join(f"{_value(name, 'e', _EVENT)} AS {name}" for name in EventRecord._fields)},
    extract(epoch FROM now())::float8 AS now
    FROM webhook_inbox e WHERE e.id > $1 AND e.received_at >= to_timestamp($2::float8) ORDER BY e.id LIMIT $3"""
"""One page of the inbox above an id, received at ``$2`` or later, ``$3`` of them."""
INBOX_END: Final = "SELECT coalesce(max(id), 0) AS id FROM webhook_inbox"
INBOX_FROM: Final = """SELECT id, extract(epoch FROM received_at)::float8 AS at FROM webhook_inbox
    WHERE id >= $1 ORDER BY id LIMIT 1"""
"""The first event from an id on, and when it was received: they are numbered in that order, within a moment."""
EVENT: Final = INBOX.replace("e.id > $1", "e.id = $1")
"""One event again."""
