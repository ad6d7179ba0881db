"""The books: the only writer of payments.

Every write is one statement and one commit: it locks the payment at the version the decision was made on, and writes the
payment, its operations, its history and the decided answer together, or nothing. Where another writer came first the
statement finds no row and nothing is written: the caller reads again and decides again.

What each statement is made of stands in ``_PIECES``; a statement is put together and prepared once for each combination.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final, Literal

from gateway import method_books
from gateway.disputes import Dispute
from gateway.events import told
from gateway.lifecycle import Change
from gateway.limits import DECLINED, FRESH, KEPT, declined_values
from gateway.payment import IN_FLIGHT, OPEN, Operation, OperationStatus, Payment
from gateway.rows import (
    DISPUTE_STATE,
    STATE,
    decline_json,
    dispute_values,
    operation_values,
    payment_values,
    state_values,
)
from gateway.signals import word_of
from gateway.sql import Pool, Statement, columns, sets, values
from gateway.tables import ChangeRow, Customer, DisputeRow, OperationRow, PaymentMethod, PaymentRow
from gateway.telling import DELIVERIES, EVENTS, telling
from idempotency.key import Key
from idempotency.tables import IdempotencyKey
from providers.contract import Kind
from webhooks.tables import EndpointRow

LEASE_S: Final = 6
"""How long a process may be silent before another may take its operation over; renewed every 2 s while a call lasts."""
LADDER_S: Final = (2, 5, 15, 60, 300, 900, 3600)
"""Seconds until an operation of unknown outcome is looked at again, by how often that was done; then the last one."""
PENDING_LADDER_S: Final = (900, 3600, 6 * 3600)
"""The same for what its provider has accepted: its end comes by webhook, and this is for the webhook that is lost."""
TAKEABLE: Final = IN_FLIGHT | {OperationStatus.PENDING}
"""What the worker looks at."""
ABANDONED_S: Final = 1800
"""A challenge that nobody finishes ends after 30 minutes: by then the shopper is gone."""
GRACE_S: Final = 120
"""What a challenge that goes on (a second step, details that were not taken) has left at least."""
LAPSED_S: Final = 24 * 3600
"""A payment that was declined waits a day for another try; then the decline is final."""
WIPED_AT_ONCE: Final = 10_000
LOOK_EVERY_S: Final = 2
"""A GET of an undecided payment brings its next look forward, at most this often."""


@dataclass(frozen=True, slots=True)
class Request:
    """The exact request of a new operation, sealed for sending and resending."""

    sealed: bytes = field(repr=False)
    holds_card: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A payment method, stored with the payment that brings it or by itself."""

    id: str
    type: str
    tokens: Mapping[str, str]
    card: Mapping[str, Any] | None
    sealed_card: bytes | None = field(repr=False)
    sealed_cvc: bytes | None = field(repr=False)
    reusable: bool
    wipe_at: datetime | None
    customer: str | None = None
    fingerprint: str | None = None
    network_transaction_id: str | None = None
    metadata: Mapping[str, str] | None = None
    personal: Mapping[str, Any] | None = None
    verification_id: str | None = None
    """The payment of amount zero that verifies it."""


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key and what it is used for. With ``answer`` (status and sealed body) it is decided in the same commit."""

    key: Key
    fingerprint: bytes
    operation_id: str | None = None
    answer: tuple[int, bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TakenOver:
    """An operation that is ours now. ``request`` is ``None`` where it was wiped: then only look-ups are left."""

    operation: Operation
    request: Request | None
    reached_nobody: bool
    """Whether it is recorded that every send so far reached nobody: then the next one counts as the first."""


class Written(Enum):
    """What became of a write."""

    DONE = auto()
    CARD_KNOWN = auto()
    """The card was declined of late: nothing was written until its declines are judged."""
    KEY_USED = auto()
    """The idempotency key is there already: nothing was written."""
    STALE = auto()
    """What it was decided on has changed since it was read: nothing was written."""


KEY: Final = f"""INSERT INTO idempotency_key ({columns(IdempotencyKey)})
    SELECT {values(IdempotencyKey, "k_")} FROM {{source}}
    ON CONFLICT DO NOTHING RETURNING payment_id"""
"""The key of whatever is written together with it, where ``source`` has a row: no row where the key is used already."""
_NOT_YET: Final = {
    "deleted_at": "NULL::timestamptz",
    "dead_tokens": "NULL::text[]",
    "card_told_at": "NULL::timestamptz",
}
"""What only comes to a payment method after it was stored."""
_METHOD: Final = f"""INSERT INTO payment_method ({columns(PaymentMethod)})
    SELECT {values(PaymentMethod, "m_", **_NOT_YET)} FROM {{source}}"""
_CUSTOMER: Final = f"""INSERT INTO customer ({columns(Customer)})
    SELECT {values(Customer, "u_", deleted_at="NULL::timestamptz")} FROM {{source}}"""
_ENDPOINT: Final = f"""INSERT INTO webhook_endpoint ({columns(EndpointRow)})
    SELECT {values(EndpointRow, "x_")} FROM {{source}}"""
_PAYMENT: Final = f"""INSERT INTO payment ({columns(PaymentRow)})
    SELECT {values(PaymentRow, "p_")} FROM {{source}}"""
_STATE: Final = f"""UPDATE payment SET {sets(PaymentRow, "p_", STATE)} FROM {{source}} WHERE payment.id = :p_id"""
_NO_WORD: Final = {
    "evidence_word": "NULL::text",
    "evidence_at": "NULL::timestamptz",
    "evidence_xid": "NULL::xid8",
}
"""What an attempt says of its account comes with its first outcome."""
_OPERATION: Final = f"""INSERT INTO operation ({columns(OperationRow)})
    SELECT {
    values(
        OperationRow,
        "o_",
        lease_until="now() + make_interval(secs => :o_lease::float8)",
        due_at="now() + make_interval(secs => :o_lease::float8)",
        tries="0",
        review_at="NULL::timestamptz",
        evidence="NULL::jsonb",
        **_NO_WORD,
    )
} FROM {{source}}"""
_SETTLE: Final = """UPDATE operation SET status = :s_status, provider_id = :s_provider_id, decline = :s_decline,
    reason = :s_reason, evidence = :s_evidence::jsonb, challenged = :s_challenged, updated_at = :p_updated_at, lease_until = now(), tries = tries + 1,
    due_at = now() + make_interval(secs => :s_due::float8),
    sealed_request = CASE WHEN :s_wipe THEN NULL ELSE sealed_request END,
    holds_card = holds_card AND NOT :s_wipe,
    evidence_word = coalesce(evidence_word, :s_word::text),
    evidence_at = CASE WHEN evidence_word IS NULL AND :s_word::text IS NOT NULL THEN :p_updated_at ELSE evidence_at END,
    evidence_xid = CASE WHEN evidence_word IS NULL AND :s_word::text IS NOT NULL THEN pg_current_xact_id() ELSE evidence_xid END
    FROM {source} WHERE operation.id = :s_id RETURNING operation.id"""
_ENDED: Final = """UPDATE operation SET status = :e_status, decline = :e_decline, reason = :e_reason,
    due_at = now() + make_interval(secs => :e_due::float8),
    sealed_request = NULL, holds_card = false, updated_at = :p_updated_at FROM {source}
    WHERE operation.payment_id = :p_id AND operation.id = ANY(:e_ids::text[])"""
_RETURNED: Final = """UPDATE operation SET status = 'sent', challenged = true, epoch = epoch + 1, tries = 0, sealed_request = :b_sealed,
    holds_card = false, updated_at = :p_updated_at, lease_until = now() + make_interval(secs => :b_lease::float8),
    due_at = now() + make_interval(secs => :b_lease::float8) FROM {source} WHERE operation.id = :b_id"""
_REVIEWED: Final = """UPDATE operation SET review_at = :v_review_at, evidence = :v_evidence::jsonb FROM {source}
    WHERE operation.id = :v_id"""
_DISPUTE: Final = f"""INSERT INTO dispute ({columns(DisputeRow)})
    SELECT {values(DisputeRow, "d_")} FROM {{source}}
    ON CONFLICT (account, provider_dispute_id) DO UPDATE SET {
    ", ".join(f"{name} = excluded.{name}" for name in DISPUTE_STATE)
}"""
_CHANGE: Final = f"""INSERT INTO change ({columns(ChangeRow)})
    SELECT {values(ChangeRow, "c_", xid="pg_current_xact_id()")} FROM {{source}}"""
_ANSWER: Final = """UPDATE idempotency_key SET status = :a_status, answer = :a_answer FROM {source}
    WHERE idempotency_key.merchant_id = :a_merchant_id AND idempotency_key.livemode = :a_livemode
    AND idempotency_key.key = :a_key AND idempotency_key.status IS NULL"""
_DRIVE: Final = """UPDATE idempotency_key SET operation_id = :o_id FROM {source}
    WHERE idempotency_key.merchant_id = :w_merchant_id AND idempotency_key.livemode = :w_livemode
    AND idempotency_key.key = :w_key"""
_PIECES: Final[Mapping[str, str]] = {
    "method": _METHOD,
    "customer": _CUSTOMER,
    "endpoint": _ENDPOINT,
    "payment": _PAYMENT,
    "state": _STATE,
    "settle": _SETTLE,
    "operation": _OPERATION,
    "ended": _ENDED,
    "returned": _RETURNED,
    "reviewed": _REVIEWED,
    "dispute": _DISPUTE,
    "change": _CHANGE,
    "events": EVENTS,
    "deliveries": DELIVERIES,
    "answer": _ANSWER,
    "drive": _DRIVE,
    "learned": method_books.SETTLED,
    "declined": DECLINED,
}

_GUARD: Final = "SELECT id FROM payment WHERE id = :p_id AND version = :g_version{also} FOR UPDATE"
_FENCED: Final = """SELECT payment.id FROM payment JOIN operation ON operation.id = :s_id AND operation.epoch = :s_epoch
    WHERE payment.id = :p_id AND payment.version = :g_version{also} FOR UPDATE"""
"""Settling is fenced: whoever lost the operation's lease finds the epoch gone, and must look again before it writes."""
_KNOWN: Final = "SELECT id FROM dispute WHERE id = :d_id AND heard = :g_heard::jsonb FOR UPDATE"
"""A dispute is told on from all that was heard of it. What shows nothing is heard of it beside the payment's versions."""


@lru_cache(maxsize=128)
def _statement(pieces: frozenset[str], *, guarded: bool, keyed: bool) -> Statement:
    """One statement: ``guard`` locks the payment at its version, and a ``known`` dispute as it was; ``claim`` takes the key.

    Every piece hangs on both, and on that the card is ``fresh`` where that is asked.
    """
    conditions = {name: sql for name, sql in (("known", _KNOWN), ("fresh", FRESH)) if name in pieces}
    parts = [f"{name} AS ({sql})" for name, sql in conditions.items()]
    if guarded:
        guard = _FENCED if "settle" in pieces else _GUARD
        parts.append(
            f"guard AS ({guard.format(also=''.join(f' AND EXISTS (SELECT FROM {each})' for each in conditions))})"
        )
    if keyed:
        source = "guard" if guarded else "fresh" if "fresh" in pieces else "(SELECT) AS nothing"
        parts.append(f"claim AS ({KEY.format(source=source)})")
    source = "claim" if keyed else "guard"
    for name, sql in _PIECES.items():
        if name in pieces:
            # The next attempt waits for the last one to be settled: an index allows one open attempt at any instant.
            after_settle = name == "operation" and "settle" in pieces
            parts.append(f"{name}_ AS ({sql.format(source='settle_' if after_settle else source)})")
    done = "EXISTS (SELECT FROM guard)" if guarded else "true"
    claim = "EXISTS (SELECT FROM claim)" if keyed else "true"
    fresh = "EXISTS (SELECT FROM fresh)" if "fresh" in pieces else "true"
    return Statement(
        f"WITH {', '.join(parts)} SELECT {done} AS guarded, {claim} AS claimed, {fresh} AS fresh",
        writes=_deed(pieces, keyed=keyed),
    )


def _deed(pieces: frozenset[str], *, keyed: bool) -> str:
    """What a commit of these pieces does, in one word: the name of its crash points."""
    if {"settle", "operation"} <= pieces:
        return "cascade"
    if keyed and "settle" in pieces:
        return "resolve"
    if pieces & {"payment", "operation"}:
        return "open"
    return next(
        (piece for piece in ("settle", "reviewed", "returned", "dispute") if piece in pieces),
        "change" if "change" in pieces else "store",
    )


_RENEW: Final = Statement(
    """UPDATE operation SET lease_until = now() + make_interval(secs => :lease::float8),
    due_at = now() + make_interval(secs => :lease::float8)
    WHERE id = :id AND epoch = :epoch AND status = ANY(:statuses::text[]) RETURNING id""",
    writes="renew",
)
# What is taken over is about to be sent: from here on nobody can say any more that it never was.
_TAKE: Final = Statement(
    """WITH before AS (SELECT id, status FROM operation WHERE id = :id AND epoch = :epoch AND lease_until <= now()
        AND status = ANY(:statuses::text[]) FOR UPDATE)
    UPDATE operation SET epoch = epoch + 1, lease_until = now() + make_interval(secs => :lease::float8),
    due_at = now() + make_interval(secs => :lease::float8),
    status = CASE operation.status WHEN 'created' THEN 'sent' ELSE operation.status END
    FROM before WHERE operation.id = before.id
    RETURNING operation.epoch, operation.status, before.status AS before, sealed_request, holds_card""",
    writes="take_over",
)
_POSTPONE: Final = Statement(
    """UPDATE operation SET tries = tries + CASE WHEN :climb::bool THEN 1 ELSE 0 END, lease_until = now(), due_at = now()
    + make_interval(secs => (:ladder::float8[])[least(CASE WHEN :climb THEN tries + 1 ELSE 1 END, cardinality(:ladder::float8[]))])
    WHERE id = :id AND epoch = :epoch AND status = ANY(:statuses::text[]) RETURNING id""",
    writes="postpone",
)
_RESEAL: Final = Statement(
    "UPDATE operation SET sealed_request = :sealed, holds_card = false WHERE id = :id AND epoch = :epoch RETURNING id",
    writes="reseal",
)
_REWRAP: Final = Statement(
    "UPDATE operation SET sealed_request = :rewrapped WHERE id = :id AND sealed_request = :sealed RETURNING id",
    writes="rewrap",
)
_ANSWER_LATER: Final = Statement(
    """UPDATE idempotency_key SET status = :a_status, answer = :a_answer WHERE merchant_id = :a_merchant_id
    AND livemode = :a_livemode AND key = :a_key AND status IS NULL RETURNING key""",
    writes="answer",
)
_MARK_DUE: Final = Statement(
    f"""UPDATE operation SET due_at = now() WHERE payment_id = :id AND due_at > now()
    AND status IN ('unknown', 'created') AND lease_until <= now()
    AND updated_at < now() - interval '{LOOK_EVERY_S} seconds' RETURNING id""",
    writes="mark_due",
)
_CLAIM: Final = Statement(
    """UPDATE operation SET due_at = now() + make_interval(secs => :again::float8) WHERE id IN
    (SELECT id FROM operation WHERE due_at <= now() AND status = ANY(:statuses::text[]) ORDER BY due_at LIMIT :limit
    FOR UPDATE SKIP LOCKED) RETURNING payment_id, id""",
    writes="claim",
)
_CLAIM_RETRIES: Final = Statement(
    """UPDATE payment SET retry_at = now() + make_interval(secs => :again::float8) WHERE id IN
    (SELECT id FROM payment WHERE retry_at <= now() AND processing_reason = 'retry_scheduled' ORDER BY retry_at LIMIT :limit
    FOR UPDATE SKIP LOCKED) RETURNING id""",
    writes="claim",
)
_ADOPT: Final = Statement(
    """UPDATE operation SET due_at = now(), challenged = true WHERE kind = 'authorize' AND status = 'requires_action'
    AND due_at IS NULL AND updated_at < now() - make_interval(secs => :age::float8) RETURNING id""",
    writes="adopt",
)
_SETTLED: Final = Statement(
    "UPDATE operation SET due_at = NULL WHERE id = :id AND status = ANY(:statuses::text[]) RETURNING id",
    writes="forget",
)
_COMPARE: Final = Statement(
    """WITH ended AS (SELECT o.id, o.uncounted_arm AS arm, o.created_at, p.merchant_id, p.livemode, p.currency, p.amount,
        o.decision->>'version' AS version_id, coalesce(o.decision->>'strategy', '') AS strategy,
        EXISTS (SELECT FROM operation a WHERE a.payment_id = o.payment_id AND a.kind = 'authorize' AND a.round = o.round
            AND (a.status IN ('authorized', 'captured') OR a.evidence_word = 'approved')) AS approved
        FROM operation o JOIN payment p ON p.id = o.payment_id
        WHERE o.uncounted_arm IS NOT NULL AND (p.round > o.round OR p.status NOT IN ('processing', 'requires_action')
            OR p.processing_reason = 'retry_scheduled')
        ORDER BY o.id LIMIT :limit::int FOR UPDATE OF o SKIP LOCKED),
    counted AS (UPDATE operation SET uncounted_arm = NULL FROM ended WHERE operation.id = ended.id RETURNING ended.*),
    added AS (INSERT INTO routing_arm AS r (merchant_id, livemode, version_id, strategy, arm, currency, payments, approved, amount,
        amount_approved, first_at, last_at)
        SELECT merchant_id, livemode, version_id, strategy, arm, currency, count(*), count(*) FILTER (WHERE approved),
        sum(amount), coalesce(sum(amount) FILTER (WHERE approved), 0), min(created_at), max(created_at)
        FROM counted GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (merchant_id, livemode, version_id, strategy, arm, currency) DO UPDATE SET payments = r.payments + excluded.payments,
        approved = r.approved + excluded.approved, amount = r.amount + excluded.amount,
        amount_approved = r.amount_approved + excluded.amount_approved,
        first_at = least(r.first_at, excluded.first_at), last_at = greatest(r.last_at, excluded.last_at))
    SELECT count(*) AS counted FROM counted""",
    writes="compare",
)
"""Payments whose first round has ended are counted, and marked as counted in the same commit: once each, whoever counts and dies."""
_WIPE: Final = Statement(
    """UPDATE payment_method SET sealed_cvc = NULL, wipe_at = NULL,
    sealed_card = CASE WHEN reusable THEN sealed_card END WHERE wipe_at <= now() RETURNING id""",
    writes="wipe_methods",
)
_WIPE_REQUESTS: Final = Statement(
    """UPDATE operation SET sealed_request = NULL, holds_card = false
    WHERE holds_card AND created_at < now() - make_interval(secs => :age::float8) RETURNING id""",
    writes="wipe_requests",
)
_WIPE_DECLINES: Final = Statement(
    """DELETE FROM declined_card WHERE operation_id IN (SELECT operation_id FROM declined_card
    WHERE at < now() - make_interval(secs => :age::float8) ORDER BY at LIMIT :limit) RETURNING operation_id""",
    writes="wipe_declines",
)


def due_after(operation: Operation, at: datetime) -> int | None:
    """Seconds from ``at`` until the worker looks at an operation again; ``None`` where only news from outside can move it."""
    match operation.status:
        case OperationStatus.UNKNOWN | OperationStatus.CREATED:
            return LADDER_S[min(operation.tries, len(LADDER_S) - 1)]
        case OperationStatus.PENDING:
            return PENDING_LADDER_S[0]
        case OperationStatus.REQUIRES_ACTION:  # counted from the attempt, however often the shopper comes back early
            return max(GRACE_S, ABANDONED_S - int((at - (operation.created_at or at)).total_seconds()))
        case OperationStatus.DECLINED | OperationStatus.EXPIRED | OperationStatus.NOT_PROCESSED:
            return LAPSED_S if operation.kind is Kind.AUTHORIZE else None
        case _:
            return None


class LeaseLost(Exception):
    """Another process has taken the operation over."""


class Books:
    """Writes payments. Every method is one commit and may be called again: what was written once is not written twice."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open(
        self,
        change: Change,
        key: KeyUse,
        *,
        source: str,
        method: Method | None,
        request: Request | None,
        fresh: str | None = None,
    ) -> Written:
        """A new payment with its key, its payment method and its first operation, if it has one.

        ``fresh`` is a card's fingerprint: where that card was declined of late, nothing is written.
        """
        payment = change.payment
        params = {**payment_values(payment), **self._key(key, payment), **change_values(change, source)}
        pieces = {"payment", "change"}
        if method is not None:
            pieces.add("method")
            params |= _method_values(method, payment)
        if request is not None and change.operation is not None:
            pieces.add("operation")
            params |= _operation_values(change.operation, payment, request)
        if fresh is not None:
            pieces.add("fresh")
            params |= _fresh_values(fresh, payment)
        row = await _statement(frozenset(pieces), guarded=False, keyed=True).row(self._pool, params)
        return _written(row)

    async def write(
        self,
        before: Payment,
        change: Change,
        *,
        source: str,
        settled: Operation | None = None,
        opened: tuple[Operation, Request] | None = None,
        key: KeyUse | None = None,
        answer: tuple[Key, int, bytes] | None = None,
        method: Method | None = None,
        learned: Mapping[str, Any] | None = None,
        driven_by: Key | None = None,
        returned: tuple[Operation, Request] | None = None,
        reviewed: Operation | None = None,
        dispute: tuple[Dispute | None, Dispute] | None = None,
        fresh: str | None = None,
    ) -> Written:
        """One change of a payment that is there: settle an operation, open another, take a key, decide an answer.

        ``driven_by`` is the key that the opened operation now belongs to. ``returned`` is an attempt whose shopper is back, with the
        request that completes it. ``reviewed`` is an operation that is put before a person. ``dispute`` is a dispute as it was, if it
        was, and as it stands from now on. ``fresh`` as in :meth:`open`. ``learned`` is what the outcome says about the payment's method,
        as :func:`gateway.method_books.settled_values`. What the merchant is told of it, and to which endpoints it goes, is part of the
        same commit.
        """
        payment, (known, stands) = change.payment, dispute or (None, None)
        ended = _newly_ended(before, payment, settled)
        pieces: dict[str, Any] = {
            "settle": settled and _settle_values(settled, payment.updated_at),
            "operation": opened and _operation_values(opened[0], payment, opened[1]),
            "ended": ended and _ended_values(ended, payment.updated_at),
            "answer": answer and _answer_values(*answer),
            "method": method and _method_values(method, payment),
            "learned": learned,
            "declined": declined_values(before, payment, settled),
            "fresh": fresh and _fresh_values(fresh, payment),
            "drive": driven_by and _drive_values(driven_by),
            "returned": returned and _returned_values(*returned),
            "reviewed": reviewed and _reviewed_values(reviewed),
            "known": known and {"g_heard": known.heard},
            "dispute": stands and dispute_values(stands, payment),
            "events": telling(
                told(before, payment, dispute),
                payment.terms.merchant_id,
                payment.updated_at,
                livemode=payment.terms.livemode,
                payment_id=payment.terms.id,
                sequence=payment.version,
            ),
        }
        params = {
            **state_values(payment),
            **change_values(change, source),
            "p_id": payment.terms.id,
            "g_version": before.version,
        }
        for values_ in filter(None, pieces.values()):
            params |= values_
        if key is not None:
            params |= self._key(key, payment)
        wanted = {"state", "change", *(name for name, given in pieces.items() if given)}
        if "events" in wanted:
            wanted.add("deliveries")
        return _written(
            await _statement(frozenset(wanted), guarded=True, keyed=key is not None).row(self._pool, params)
        )

    async def answer(self, key: Key, status: int, sealed: bytes) -> bool:
        """Decide a key's answer afterwards. ``False`` where it was decided already: then that answer stands."""
        return await _ANSWER_LATER.row(self._pool, _answer_values(key, status, sealed)) is not None

    async def renew(self, operation: Operation) -> bool:
        """Hold on to the lease. ``False`` where the operation is settled, or another process has taken it over."""
        params = {"id": operation.id, "epoch": operation.epoch, "lease": float(LEASE_S), "statuses": list(TAKEABLE)}
        return await _RENEW.row(self._pool, params) is not None

    async def take_over(self, operation: Operation) -> TakenOver | None:
        """Take an operation whose lease has run out, to send it or to look it up.

        ``None`` where somebody is at work on it, or there is nothing left to do. From here on it counts as sent.
        """
        params = {"id": operation.id, "epoch": operation.epoch, "lease": float(LEASE_S), "statuses": list(TAKEABLE)}
        row = await _TAKE.row(self._pool, params)
        if row is None:
            return None
        sealed = row["sealed_request"]
        return TakenOver(
            operation=replace(operation, epoch=row["epoch"], status=OperationStatus(row["status"])),
            request=None if sealed is None else Request(sealed, row["holds_card"]),
            reached_nobody=row["before"] == OperationStatus.CREATED,
        )

    async def postpone(self, operation: Operation, *, climb: bool = True) -> None:
        """Let go of an operation that is as open as it was, to be looked at again by the ladder.

        Only the worker's own looks ``climb`` it: a client that retries often must not put the next one off.
        """
        ladder_s = PENDING_LADDER_S if operation.status is OperationStatus.PENDING else LADDER_S
        params = {
            "id": operation.id,
            "epoch": operation.epoch,
            "ladder": [float(step) for step in ladder_s],
            "climb": climb,
            "statuses": list(TAKEABLE),
        }
        await _POSTPONE.row(self._pool, params)

    async def reseal(self, operation: Operation, sealed: bytes) -> None:
        """Keep what is still to be sent of a request in steps. Raises :class:`LeaseLost`: then nothing more may be sent."""
        params = {"id": operation.id, "epoch": operation.epoch, "sealed": sealed}
        if await _RESEAL.row(self._pool, params) is None:
            raise LeaseLost(operation.id)

    async def rewrap(self, operation_id: str, sealed: bytes, rewrapped: bytes) -> bool:
        """Put a request's rewrapped record in its place. ``False`` where it was wiped or sealed anew since it was read."""
        params = {"id": operation_id, "sealed": sealed, "rewrapped": rewrapped}
        return await _REWRAP.row(self._pool, params) is not None

    async def store(
        self,
        piece: Literal["method", "customer", "endpoint"],
        row: Mapping[str, Any],
        row_id: str,
        key: KeyUse,
        at: datetime,
    ) -> Written:
        """Store what is no payment, once a key: ``row`` are the piece's values, ``row_id`` is what the key opened."""
        params = {**row, **key_values(key, row_id, at)}
        return _written(await _statement(frozenset({piece}), guarded=False, keyed=True).row(self._pool, params))

    async def mark_due(self, payment_id: str) -> None:
        """Bring the next look at an undecided payment forward."""
        await _MARK_DUE.rows(self._pool, {"id": payment_id})

    async def claim_due(
        self, statuses: Collection[OperationStatus], again_s: float, limit: int
    ) -> list[tuple[str, str]]:
        """Attempts in one of ``statuses`` whose time has come, as ids of payment and operation.

        Each is claimed for one try: unless that changes it, it is due again ``again_s`` seconds later.
        """
        rows = await _CLAIM.rows(self._pool, {"statuses": list(statuses), "again": again_s, "limit": limit})
        return [(row["payment_id"], row["id"]) for row in rows]

    async def compare(self, limit: int) -> int:
        """Count payments of strategies and their holdouts whose first round has ended, ``limit`` at most. Returns how many.

        Each is counted once: two may count at once, and one that dies has counted nothing.
        """
        row = await _COMPARE.row(self._pool, {"limit": limit})
        return 0 if row is None else int(row["counted"])

    async def claim_retries(self, again_s: float, limit: int) -> list[str]:
        """Payments whose scheduled retry is due. Each is claimed for one try, as by :meth:`claim_due`."""
        return [row["id"] for row in await _CLAIM_RETRIES.rows(self._pool, {"again": again_s, "limit": limit})]

    async def adopt_challenges(self, age_s: float) -> None:
        """Make due what a process of an older version has left waiting for its shopper: it knew no such time."""
        await _ADOPT.rows(self._pool, {"age": age_s})

    async def forget_due(self, operation: Operation) -> None:
        """Nothing is to be done any more about an operation that has ended."""
        await _SETTLED.row(self._pool, {"id": operation.id, "statuses": list(FINAL)})

    async def wipe(self, age_s: float) -> int:
        """Wipe cards and security codes that have waited too long: of unused methods, and of requests still unknown.

        Declines of cards that no limit looks back at any more are deleted.
        """
        methods = await _WIPE.rows(self._pool, {})
        requests = await _WIPE_REQUESTS.rows(self._pool, {"age": age_s})
        declines = await _WIPE_DECLINES.rows(self._pool, {"age": KEPT.total_seconds(), "limit": WIPED_AT_ONCE})
        return len(methods) + len(requests) + len(declines)

    @staticmethod
    def _key(use: KeyUse, payment: Payment) -> dict[str, Any]:
        return key_values(use, payment.terms.id, payment.updated_at)


def key_values(use: KeyUse, opened_id: str, at: datetime) -> dict[str, Any]:
    """The parameters of :data:`KEY`; ``opened_id`` is what the key opens."""
    status, answer = use.answer or (None, None)
    return {
        "k_merchant_id": use.key.merchant_id,
        "k_livemode": use.key.livemode,
        "k_key": use.key.text,
        "k_fingerprint": use.fingerprint,
        "k_payment_id": opened_id,
        "k_operation_id": use.operation_id,
        "k_status": status,
        "k_answer": answer,
        "k_created_at": at,
    }


def _fresh_values(card: str, payment: Payment) -> dict[str, Any]:
    return {"f_card": card, "f_merchant_id": payment.terms.merchant_id, "f_livemode": payment.terms.livemode}


def _written(row: Any) -> Written:
    if not row["fresh"]:
        return Written.CARD_KNOWN
    if not row["guarded"]:
        return Written.STALE
    return Written.DONE if row["claimed"] else Written.KEY_USED


_ENDS: Final = frozenset({OperationStatus.VOIDED, OperationStatus.EXPIRED})


def _newly_ended(before: Payment, after: Payment, settled: Operation | None) -> list[Operation]:
    """The authorizations that this change ends beside the operation that it settles: all of them in the same way."""
    live = {op.id for op in before.operations if op.status not in _ENDS} - {settled.id if settled else None}
    return [op for op in after.operations if op.status in _ENDS and op.id in live]


def _ended_values(ended: list[Operation], at: datetime) -> dict[str, Any]:
    first = ended[0]
    return {
        "e_ids": [op.id for op in ended],
        "e_status": first.status,
        "e_decline": decline_json(first.decline),
        "e_reason": first.reason,
        "e_due": due_after(first, at),
    }


def change_values(change: Change, source: str) -> dict[str, Any]:
    """Every column of ``change``, under parameter names."""
    return {
        "c_payment_id": change.payment.terms.id,
        "c_seq": change.payment.version,
        "c_at": change.payment.updated_at,
        "c_source": source,
        "c_news": change.news,
        "c_from_status": change.from_status,
        "c_to_status": change.payment.status,
        "c_reason": change.reason,
        "c_operation_id": change.operation.id if change.operation else None,
    }


def _operation_values(operation: Operation, payment: Payment, request: Request) -> dict[str, Any]:
    return {
        **operation_values(operation, payment),
        "o_sealed_request": request.sealed,
        "o_holds_card": request.holds_card,
        "o_lease": float(LEASE_S),
    }


FINAL: Final = frozenset(OperationStatus) - OPEN
"""Statuses after which an operation asks nothing more of its provider."""
WIPED: Final = FINAL | {OperationStatus.REQUIRES_ACTION}
"""Statuses after which a sealed request is never sent again, so it is wiped with the same commit."""


def _settle_values(operation: Operation, at: datetime) -> dict[str, Any]:
    return {
        "s_id": operation.id,
        "s_epoch": operation.epoch,
        "s_status": operation.status,
        "s_provider_id": operation.provider_id,
        "s_decline": decline_json(operation.decline),
        "s_reason": operation.reason,
        "s_evidence": operation.evidence,
        "s_challenged": operation.challenged,
        "s_due": due_after(operation, at),
        "s_wipe": operation.status in WIPED,
        "s_word": word_of(operation),
    }


def _reviewed_values(operation: Operation) -> dict[str, Any]:
    return {"v_id": operation.id, "v_review_at": operation.review_at, "v_evidence": operation.evidence}


def _drive_values(key: Key) -> dict[str, Any]:
    return {"w_merchant_id": key.merchant_id, "w_livemode": key.livemode, "w_key": key.text}


def _returned_values(operation: Operation, request: Request) -> dict[str, Any]:
    return {"b_id": operation.id, "b_sealed": request.sealed, "b_lease": float(LEASE_S)}


def _answer_values(key: Key, status: int, sealed: bytes) -> dict[str, Any]:
    return {
        "a_merchant_id": key.merchant_id,
        "a_livemode": key.livemode,
        "a_key": key.text,
        "a_status": status,
        "a_answer": sealed,
    }


def _method_values(method: Method, payment: Payment) -> dict[str, Any]:
    terms = payment.terms
    return method_values(method, terms.merchant_id, livemode=terms.livemode, at=payment.updated_at)


def method_values(method: Method, merchant_id: str, *, livemode: bool, at: datetime) -> dict[str, Any]:
    """Every column of ``payment_method``, under parameter names."""
    return {
        "m_id": method.id,
        "m_type": method.type,
        "m_tokens": method.tokens,
        "m_card": method.card,
        "m_sealed_card": method.sealed_card,
        "m_sealed_cvc": method.sealed_cvc,
        "m_reusable": method.reusable,
        "m_wipe_at": method.wipe_at,
        "m_customer": method.customer,
        "m_fingerprint": method.fingerprint,
        "m_network_transaction_id": method.network_transaction_id,
        "m_metadata": method.metadata,
        "m_personal": method.personal,
        "m_verification_id": method.verification_id,
        "m_merchant_id": merchant_id,
        "m_livemode": livemode,
        "m_created_at": at,
        "m_updated_at": at,
    }
