"""The reader of payments. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from gateway.disputes import Dispute
from gateway.incidents import Incident
from gateway.limits import OF_CARD, OF_METHOD, declines_from
from gateway.payment import Operation, Payment
from gateway.rows import dispute_from, incident_from, payment_from
from gateway.sql import Pool, Row, Statement, columns
from gateway.tables import ApiKey, ChangeRow, Customer, DisputeRow, IncidentRow, OperationRow, PaymentMethod, PaymentRow
from idempotency.key import Key
from routing.retries import CardDecline


@dataclass(frozen=True, slots=True)
class UsedKey:
    """What a key was used for, and its answer where it is decided.

    ``payment_id`` is a method's or a customer's id where the key stored one of those.
    """

    fingerprint: bytes
    payment_id: str
    operation_id: str | None
    status: int | None
    answer: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredMethod:
    """A stored payment method, still sealed."""

    id: str
    tokens: Mapping[str, str] = field(repr=False)
    sealed_card: bytes | None = field(repr=False)
    sealed_cvc: bytes | None = field(repr=False)
    card: Mapping[str, Any] | None
    reusable: bool
    type: str
    created_at: datetime
    livemode: bool = False
    customer: str | None = None
    fingerprint: str | None = None
    network_transaction_id: str | None = None
    metadata: Mapping[str, str] | None = None
    personal: Mapping[str, Any] | None = field(default=None, repr=False)
    verification_id: str | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    dead_tokens: Sequence[str] | None = field(default=None, repr=False)
    """Tokens that their account charges no more."""
    card_told_at: datetime | None = None
    """When the provider told of the card what is known of it, by the provider's clock."""

    @property
    def billing_details(self) -> Mapping[str, Any]:
        """Who pays with it, as far as that was told and not erased."""
        billing: Mapping[str, Any] = (self.personal or {}).get("billing_details", {})
        return billing


@dataclass(frozen=True, slots=True)
class StoredCustomer:
    """A customer as a merchant knows them. A deleted one has no personal data left."""

    id: str
    merchant_id: str
    livemode: bool
    reference: str | None
    metadata: Mapping[str, str]
    personal: Mapping[str, Any] | None = field(repr=False)
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row that holds what the vault has sealed: a payment method's card and code, or an operation's request."""

    id: str
    merchant_id: str
    records: Mapping[str, bytes] = field(repr=False)
    """The sealed records by their purpose."""


@dataclass(frozen=True, slots=True)
class DueOperation:
    """An operation whose time has come."""

    payment_id: str
    operation_id: str


_USED = Statement(
    """SELECT fingerprint, payment_id, operation_id, status, answer FROM idempotency_key
    WHERE merchant_id = :merchant_id AND livemode = :livemode AND key = :key"""
)
_PAYMENT = Statement(
    f"""SELECT {columns(PaymentRow, table="p")}, {columns(OperationRow, table="o", prefix="o_")}
    FROM payment p LEFT JOIN operation o ON o.payment_id = p.id WHERE p.id = :id ORDER BY o.seq"""
)
_OPERATION: Final = tuple((f"o_{name}", name) for name in columns(OperationRow).split(", "))
"""What :data:`_PAYMENT` calls the columns of an operation, and what they are."""
_OPERATIONS_OF = Statement(
    f"SELECT {columns(OperationRow)} FROM operation WHERE payment_id = ANY(:ids::text[]) ORDER BY payment_id, seq"
)
_LIST = Statement(
    f"""SELECT {columns(PaymentRow)} FROM payment WHERE merchant_id = :merchant_id AND livemode = :livemode
    AND (amount > 0 OR :in_review::bool) AND (:before::text IS NULL OR id < :before) AND (:status::text IS NULL OR status = :status)
    AND (:reference::text IS NULL OR reference = :reference) AND (:customer::text IS NULL OR customer = :customer)
    AND (:currency::text IS NULL OR currency = :currency)
    AND (NOT :in_review OR id IN (SELECT payment_id FROM operation
    WHERE due_at IS NOT NULL AND review_at IS NOT NULL AND status IN ('unknown', 'pending')))
    AND (:created_gte::timestamptz IS NULL OR created_at >= :created_gte)
    AND (:created_lt::timestamptz IS NULL OR created_at < :created_lt)
    ORDER BY id DESC LIMIT :limit"""
)
_BY_OPERATION = Statement("SELECT payment_id, id FROM operation WHERE id = :id")
_BY_PROVIDER_ID = Statement(
    """SELECT payment_id, id FROM operation WHERE provider_id = :provider_id AND account = :account
    AND kind = :kind ORDER BY seq DESC LIMIT 1"""
)
_METHOD_IS = "FROM payment_method WHERE id = :id AND merchant_id = :merchant_id AND livemode = :livemode"
_METHOD = Statement(f"SELECT {columns(PaymentMethod)} {_METHOD_IS}")
_METHOD_TO_CHARGE = Statement(f"SELECT {columns(PaymentMethod)}, {OF_METHOD} AS declines {_METHOD_IS}")
_OF_CARD = Statement(OF_CARD)
_PAYMENTS_OF = Statement(f"SELECT {columns(PaymentRow)} FROM payment WHERE id = ANY(:ids::text[])")
_CUSTOMER = Statement(
    f"""SELECT {columns(Customer)} FROM customer
    WHERE id = :id AND merchant_id = :merchant_id AND livemode = :livemode"""
)
_KEPT = f"""SELECT {columns(PaymentMethod)} FROM payment_method
    WHERE merchant_id = :merchant_id AND livemode = :livemode AND reusable AND deleted_at IS NULL"""
_KNOWN_AS = Statement(
    f"""{_KEPT} AND (tokens @> ANY(ARRAY(SELECT jsonb_build_object(:account::text, name) FROM unnest(:names::text[]) AS name))
    OR dead_tokens && :names::text[]) ORDER BY id"""
)
_CUSTOMERS = f"""SELECT {columns(Customer)} FROM customer
    WHERE merchant_id = :merchant_id AND livemode = :livemode AND deleted_at IS NULL"""
_SEALED_METHODS = Statement(
    """SELECT id, merchant_id, sealed_card, sealed_cvc FROM payment_method
    WHERE sealed_card IS NOT NULL AND id > :after ORDER BY id LIMIT :limit"""
)
_SEALED_REQUESTS = Statement(
    """SELECT o.id, p.merchant_id, o.sealed_request FROM operation o JOIN payment p ON p.id = o.payment_id
    WHERE o.holds_card AND o.sealed_request IS NOT NULL AND o.id > :after ORDER BY o.id LIMIT :limit"""
)
_DUE = Statement(
    """SELECT payment_id, id FROM operation WHERE due_at <= now()
    AND status IN ('created', 'sent', 'unknown', 'pending') ORDER BY due_at LIMIT :limit"""
)
_PARKED = Statement(
    """SELECT id FROM payment WHERE processing_reason = 'awaiting_retry'
    AND (updated_at < now() - make_interval(secs => :age::float8) OR cancel_requested) ORDER BY updated_at LIMIT :limit"""
)
_CANCEL_WANTED = Statement(
    """SELECT id FROM payment WHERE cancel_requested AND status IN ('requires_action', 'requires_capture', 'succeeded')
    AND NOT (amount = 0 AND status = 'succeeded') AND NOT EXISTS (SELECT FROM operation WHERE payment_id = payment.id AND kind IN ('void', 'refund')
    AND status IN ('created', 'sent', 'pending', 'unknown')) ORDER BY updated_at LIMIT :limit"""
)
_API_KEY = Statement(f"SELECT {columns(ApiKey)} FROM api_key WHERE id = :id")
_OPEN_ACCOUNTS = Statement(
    """SELECT DISTINCT account FROM operation
    WHERE status IN ('created', 'sent', 'requires_action', 'pending', 'unknown')"""
)


_CHANGES = Statement(f"SELECT {columns(ChangeRow)} FROM change WHERE payment_id = :id ORDER BY seq")
_DISPUTE = Statement(f"SELECT {columns(DisputeRow)} FROM dispute WHERE id = :id")
_DISPUTE_AT = Statement(
    f"""SELECT {columns(DisputeRow)} FROM dispute
    WHERE account = :account AND provider_dispute_id = :provider_dispute_id"""
)
_DISPUTES = f"SELECT {columns(DisputeRow)} FROM dispute WHERE merchant_id = :merchant_id AND livemode = :livemode"
_INCIDENT = Statement(f"SELECT {columns(IncidentRow)} FROM incident WHERE id = :id")
_INCIDENTS = f"SELECT {columns(IncidentRow)} FROM incident WHERE merchant_id = :merchant_id AND livemode = :livemode"


class Queries:
    """Reads. Nothing here raises for what is not there: it answers ``None`` or nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def used_key(self, key: Key) -> UsedKey | None:
        """What became of a key."""
        params = {"merchant_id": key.merchant_id, "livemode": key.livemode, "key": key.text}
        row = await _USED.row(self._pool, params)
        return None if row is None else UsedKey(**row)

    async def payment(self, payment_id: str) -> Payment | None:
        """A payment with its operations as of one moment, whoever's it is: for the charge path and the worker."""
        rows = await _PAYMENT.rows(self._pool, {"id": payment_id})
        if not rows:
            return None
        operations = [{name: row[at] for at, name in _OPERATION} for row in rows if row["o_id"] is not None]
        return payment_from(rows[0], operations)

    async def payment_of(self, payment_id: str, merchant_id: str, *, livemode: bool) -> Payment | None:
        """A merchant's payment in one mode. Another merchant's is not there."""
        payment = await self.payment(payment_id)
        if payment is None or payment.terms.merchant_id != merchant_id or payment.terms.livemode != livemode:
            return None
        return payment

    async def payments(self, merchant_id: str, *, livemode: bool, limit: int, **filters: Any) -> list[Payment]:
        """A page of payments, newest first; ``before`` is the id to go on from."""
        wanted: dict[str, Any] = dict.fromkeys(
            ("before", "status", "reference", "customer", "currency", "created_gte", "created_lt")
        )
        params = (
            wanted | {"in_review": False} | filters | {"merchant_id": merchant_id, "livemode": livemode, "limit": limit}
        )
        rows = await _LIST.rows(self._pool, params)
        operations: dict[str, list[Any]] = {row["id"]: [] for row in rows}
        for row in await _OPERATIONS_OF.rows(self._pool, {"ids": list(operations)}):
            operations[row["payment_id"]].append(row)
        return [payment_from(row, operations[row["id"]]) for row in rows]

    async def operation(self, operation_id: str) -> tuple[Payment, Operation] | None:
        """An operation with its payment."""
        return await self._found(await _BY_OPERATION.row(self._pool, {"id": operation_id}))

    async def operation_at(self, account: str, provider_id: str, kind: str) -> tuple[Payment, Operation] | None:
        """The operation of one kind that an account knows by ``provider_id``."""
        params = {"account": account, "provider_id": provider_id, "kind": kind}
        return await self._found(await _BY_PROVIDER_ID.row(self._pool, params))

    async def _found(self, row: Row | None) -> tuple[Payment, Operation] | None:
        payment = None if row is None else await self.payment(row["payment_id"])
        return None if row is None or payment is None else (payment, payment.operation(row["id"]))

    async def method(self, method_id: str, merchant_id: str, *, livemode: bool) -> StoredMethod | None:
        """A merchant's stored payment method."""
        params = {"id": method_id, "merchant_id": merchant_id, "livemode": livemode}
        row = await _METHOD.row(self._pool, params)
        return None if row is None else _stored_method(row)

    async def method_to_charge(
        self, method_id: str, merchant_id: str, *, livemode: bool
    ) -> tuple[StoredMethod, tuple[CardDecline, ...]] | None:
        """The same with the declines of its card, at every account, in the same round trip."""
        params = {"id": method_id, "merchant_id": merchant_id, "livemode": livemode}
        row = await _METHOD_TO_CHARGE.row(self._pool, params)
        return None if row is None else (_stored_method(row), declines_from(row["declines"]))

    async def card_declines(self, card: str, merchant_id: str, *, livemode: bool) -> tuple[CardDecline, ...]:
        """The declines of one card of a merchant, by its fingerprint, of the last 30 days, at every account."""
        params = {"card": card, "merchant_id": merchant_id, "livemode": livemode}
        return declines_from(await _OF_CARD.rows(self._pool, params))

    async def methods(self, merchant_id: str, *, livemode: bool, limit: int, **filters: Any) -> list[StoredMethod]:
        """A page of the payment methods that may be charged again, newest first; ``before`` is the id to go on from."""
        params = filters | {"merchant_id": merchant_id, "livemode": livemode, "limit": limit}
        return [_stored_method(row) for row in await _page(_KEPT, _given(filters)).rows(self._pool, params)]

    async def methods_known_as(
        self, account: str, names: Sequence[str], merchant_id: str, *, livemode: bool
    ) -> list[StoredMethod]:
        """A merchant's kept methods that hold one of ``names`` as their token of ``account``, or did until it died."""
        params = {"account": account, "names": list(names), "merchant_id": merchant_id, "livemode": livemode}
        return [_stored_method(row) for row in await _KNOWN_AS.rows(self._pool, params)]

    async def verifications(self, methods: Iterable[StoredMethod]) -> dict[str, Payment]:
        """The payments that verify ``methods``, by their ids, without their operations."""
        ids = [method.verification_id for method in methods if method.verification_id is not None]
        rows = await _PAYMENTS_OF.rows(self._pool, {"ids": ids}) if ids else []
        return {row["id"]: payment_from(row, []) for row in rows}

    async def customer(self, customer_id: str, merchant_id: str, *, livemode: bool) -> StoredCustomer | None:
        """A merchant's customer, also a deleted one."""
        params = {"id": customer_id, "merchant_id": merchant_id, "livemode": livemode}
        row = await _CUSTOMER.row(self._pool, params)
        return None if row is None else StoredCustomer(**row)

    async def customers(self, merchant_id: str, *, livemode: bool, limit: int, **filters: Any) -> list[StoredCustomer]:
        """A page of customers, newest first; ``before`` is the id to go on from."""
        params = filters | {"merchant_id": merchant_id, "livemode": livemode, "limit": limit}
        return [StoredCustomer(**row) for row in await _page(_CUSTOMERS, _given(filters)).rows(self._pool, params)]

    async def sealed_methods(self, after: str, limit: int) -> list[SealedRow]:
        """Payment methods with a sealed card, in the order of their ids, from behind ``after``."""
        rows = await _SEALED_METHODS.rows(self._pool, {"after": after, "limit": limit})
        purposes = {"card": "sealed_card", "cvc": "sealed_cvc"}
        return [
            SealedRow(row["id"], row["merchant_id"], {name: row[at] for name, at in purposes.items() if row[at]})
            for row in rows
        ]

    async def sealed_requests(self, after: str, limit: int) -> list[SealedRow]:
        """Operations whose sealed request holds a card, in the order of their ids, from behind ``after``."""
        rows = await _SEALED_REQUESTS.rows(self._pool, {"after": after, "limit": limit})
        return [SealedRow(row["id"], row["merchant_id"], {"request": row["sealed_request"]}) for row in rows]

    async def due(self, limit: int) -> list[DueOperation]:
        """Operations whose time has come, the longest waiting first."""
        return [DueOperation(row["payment_id"], row["id"]) for row in await _DUE.rows(self._pool, {"limit": limit})]

    async def parked(self, age_s: float, limit: int) -> list[str]:
        """Payments that nobody has driven on for ``age_s`` seconds, or that are to be canceled."""
        return [row["id"] for row in await _PARKED.rows(self._pool, {"age": age_s, "limit": limit})]

    async def cancel_wanted(self, limit: int) -> list[str]:
        """Payments that were approved after their cancel was asked for."""
        return [row["id"] for row in await _CANCEL_WANTED.rows(self._pool, {"limit": limit})]

    async def history(self, payment_id: str) -> list[Mapping[str, Any]]:
        """Everything that changed a payment, oldest first: the rows of its history."""
        return await _CHANGES.rows(self._pool, {"id": payment_id})

    async def dispute(self, dispute_id: str) -> Dispute | None:
        """A dispute, whoever's it is: for the worker and the books."""
        row = await _DISPUTE.row(self._pool, {"id": dispute_id})
        return None if row is None else dispute_from(row)

    async def dispute_at(self, account: str, provider_dispute_id: str) -> Dispute | None:
        """The dispute that an account knows by ``provider_dispute_id``."""
        params = {"account": account, "provider_dispute_id": provider_dispute_id}
        row = await _DISPUTE_AT.row(self._pool, params)
        return None if row is None else dispute_from(row)

    async def dispute_of(self, dispute_id: str, merchant_id: str, *, livemode: bool) -> Dispute | None:
        """A merchant's dispute in one mode. Another merchant's is not there."""
        row = await _DISPUTE.row(self._pool, {"id": dispute_id})
        theirs = row is not None and (row["merchant_id"], row["livemode"]) == (merchant_id, livemode)
        return dispute_from(row) if row is not None and theirs else None

    async def disputes(self, merchant_id: str, *, livemode: bool, limit: int, **filters: Any) -> list[Dispute]:
        """A page of disputes, newest first; ``before`` is the id to go on from."""
        params = filters | {"merchant_id": merchant_id, "livemode": livemode, "limit": limit}
        return [dispute_from(row) for row in await _page(_DISPUTES, _given(filters)).rows(self._pool, params)]

    async def incident_of(self, incident_id: str, merchant_id: str, *, livemode: bool) -> Incident | None:
        """A merchant's incident in one mode. Another merchant's is not there."""
        row = await _INCIDENT.row(self._pool, {"id": incident_id})
        theirs = row is not None and (row["merchant_id"], row["livemode"]) == (merchant_id, livemode)
        return incident_from(row) if row is not None and theirs else None

    async def incidents(self, merchant_id: str, *, livemode: bool, limit: int, **filters: Any) -> list[Incident]:
        """A page of incidents, newest first; ``before`` is the id to go on from."""
        params = filters | {"merchant_id": merchant_id, "livemode": livemode, "limit": limit}
        return [incident_from(row) for row in await _page(_INCIDENTS, _given(filters)).rows(self._pool, params)]

    async def api_key(self, key_id: str) -> dict[str, Any] | None:
        """An API key's row."""
        row = await _API_KEY.row(self._pool, {"id": key_id})
        return None if row is None else dict(row)

    async def accounts_in_use(self) -> set[str]:
        """Accounts with open operations: they cannot leave the configuration."""
        return {row["account"] for row in await _OPEN_ACCOUNTS.rows(self._pool, {})}

    async def revision(self) -> str | None:
        """The migration that the database is at, or whatever asyncpg raises where it cannot be asked."""
        revision: str | None = await self._pool.fetchval("SELECT max(version_num) FROM alembic_version")
        return revision


def _stored_method(row: Row) -> StoredMethod:
    return StoredMethod(**{name: row[name] for name in StoredMethod.__dataclass_fields__})


_CONDITIONS: Final = {
    "before": "id < :before",
    "customer": "customer = :customer",
    "fingerprint": "fingerprint = :fingerprint",
    "kind": "kind = :kind",
    "open": "(closed_at IS NULL) = :open::bool",
    "payment": "payment_id = :payment",
    "reference": "reference = :reference",
    "status": "status = :status",
}


def _given(filters: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, value in filters.items() if value is not None)


@lru_cache(maxsize=32)
def _page(source: str, given: frozenset[str]) -> Statement:
    """A page of ``source``, newest first. Only what is given is asked for: one plan for all filters would use no index."""
    conditions = "".join(f" AND {sql}" for name, sql in _CONDITIONS.items() if name in given)
    return Statement(f"{source}{conditions} ORDER BY id DESC LIMIT :limit")
