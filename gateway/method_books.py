"""The books of payment methods and customers: what changes them once they are there.

They are stored by ``gateway.books``, with the key or the payment that brings them. Every method here is one statement and one
commit, and may be called again. What a call teaches about a method is written with that call's outcome: :data:`SETTLED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from gateway.rows import card_json
from gateway.sql import Pool, Statement
from providers.contract import Approved, Outcome

_ALIVE: Final = """(SELECT coalesce(jsonb_object_agg(key, value), '{{}}') FROM jsonb_each_text(:l_tokens::jsonb)
        WHERE value <> ALL (coalesce(payment_method.dead_tokens, '{{}}')))"""
SETTLED: Final = f"""UPDATE payment_method SET
    sealed_cvc = CASE WHEN payment_method.created_at = :l_spent_at::timestamptz THEN NULL ELSE sealed_cvc END,
    wipe_at = CASE WHEN payment_method.created_at = :l_spent_at::timestamptz THEN NULL ELSE wipe_at END,
    sealed_card = CASE WHEN payment_method.created_at = :l_spent_at::timestamptz AND NOT reusable THEN NULL
        ELSE sealed_card END,
    tokens = CASE WHEN reusable THEN tokens || {_ALIVE} ELSE tokens END,
    network_transaction_id = coalesce(payment_method.network_transaction_id, :l_network_transaction_id::text),
    card = nullif(:l_card::jsonb || coalesce(jsonb_strip_nulls(payment_method.card), '{{{{}}}}') || :l_brand::jsonb, '{{{{}}}}'),
    updated_at = :p_updated_at
    FROM {{source}} WHERE payment_method.id = :l_id AND payment_method.deleted_at IS NULL
    AND (payment_method.created_at = :l_spent_at::timestamptz OR (reusable AND (NOT tokens @> {_ALIVE}
        OR (payment_method.network_transaction_id IS NULL AND :l_network_transaction_id::text IS NOT NULL)
        OR coalesce(jsonb_strip_nulls(payment_method.card), '{{{{}}}}')
            <> :l_card::jsonb || coalesce(jsonb_strip_nulls(payment_method.card), '{{{{}}}}') || :l_brand::jsonb)))"""  # noqa: S608 - our own text
"""A piece of the commit that records an outcome: what it has taught about the method, and the end of what was for it alone.

One UPDATE for both, since one statement cannot change a row twice. A code or a card waits for the payment that was stored in the
same commit as its method (``l_spent_at``), so another payment's end wipes nothing. A token that was told dead is not taken again.
What a PSP says of a card fills what was empty; only the brand, which was read off the number before, is replaced by the PSP's word.
Where nothing is new, nothing is written.
"""


def handed_out(account: str | None, outcome: Outcome | None) -> dict[str, str]:
    """The token that ``account`` has handed out with this outcome, by account: none, or one."""
    token = outcome.token if isinstance(outcome, Approved) else None
    return {} if account is None or token is None else {account: token}


def settled_values(
    method_id: str, account: str, outcome: Outcome | None, *, spent_at: datetime | None
) -> dict[str, Any]:
    """The parameters of :data:`SETTLED`, but for ``p_updated_at``, which is the payment's.

    ``outcome`` is that of an authorization at ``account``, or ``None`` where nothing was learned; ``spent_at`` is when the payment
    was created, where its round has ended, else ``None``.
    """
    approved = outcome if isinstance(outcome, Approved) else None
    told = getattr(outcome, "card", None)
    facts = {name: value for name, value in (card_json(told) or {}).items() if value is not None}
    return {
        "l_id": method_id,
        "l_spent_at": spent_at,
        "l_tokens": handed_out(account, outcome),
        "l_network_transaction_id": None if approved is None else approved.network_transaction_id,
        "l_card": facts,
        "l_brand": {"brand": facts["brand"]} if "brand" in facts else {},
    }


_EMPTIED: Final = """sealed_card = NULL, sealed_cvc = NULL, wipe_at = NULL, tokens = '{}', dead_tokens = NULL, personal = NULL, metadata = NULL,
    fingerprint = NULL, deleted_at = :at::timestamptz, updated_at = :at::timestamptz"""
_UPDATE: Final = Statement(
    """UPDATE payment_method SET tokens = tokens || :tokens::jsonb, customer = coalesce(:customer::text, customer),
    updated_at = :at WHERE id = :id AND reusable AND deleted_at IS NULL
    AND (:customer::text IS NULL OR customer IS NULL OR customer = :customer) RETURNING id""",
    writes="update",
)
_DELETE: Final = Statement(
    f"UPDATE payment_method SET {_EMPTIED} WHERE id = :id AND deleted_at IS NULL RETURNING id",  # noqa: S608 - our own text
    writes="delete",
)
_DELETE_CUSTOMER: Final = Statement(
    f"""WITH gone AS (UPDATE customer SET personal = NULL, metadata = '{{}}', deleted_at = coalesce(deleted_at, :at::timestamptz),
        updated_at = CASE WHEN deleted_at IS NULL THEN :at::timestamptz ELSE updated_at END
        WHERE id = :id RETURNING id, merchant_id),
    methods AS (UPDATE payment_method SET {_EMPTIED} FROM gone WHERE payment_method.merchant_id = gone.merchant_id
        AND payment_method.customer = gone.id AND reusable AND payment_method.deleted_at IS NULL)
    SELECT id FROM gone""",  # noqa: S608 - our own text
    writes="erase",
)
_REWRAP: Final = Statement(
    """UPDATE payment_method SET sealed_card = :card, sealed_cvc = :cvc WHERE id = :id
    AND sealed_card IS NOT DISTINCT FROM :old_card AND sealed_cvc IS NOT DISTINCT FROM :old_cvc RETURNING id""",
    writes="rewrap",
)


class MethodBooks:
    """Writes payment methods and customers that are there already. Whose they are was looked up before."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def update(self, method_id: str, tokens: Mapping[str, str], customer: str | None, at: datetime) -> bool:
        """Add tokens and attach a customer. ``False`` where it is deleted, of one payment, or another customer's."""
        params = {"id": method_id, "tokens": tokens, "customer": customer, "at": at}
        return await _UPDATE.row(self._pool, params) is not None

    async def delete(self, method_id: str, at: datetime) -> None:
        """Leave nothing of a method that could be charged or that names a person. Deleting it again changes nothing."""
        await _DELETE.row(self._pool, {"id": method_id, "at": at})

    async def delete_customer(self, customer_id: str, at: datetime) -> None:
        """Erase a customer's personal data and delete their payment methods, also those attached since the last time."""
        await _DELETE_CUSTOMER.row(self._pool, {"id": customer_id, "at": at})

    async def rewrap(self, method_id: str, sealed: Mapping[str, bytes], rewrapped: Mapping[str, bytes]) -> bool:
        """Put rewrapped records, by purpose, in the place of ``sealed``. ``False`` where they have changed since."""
        params = {"id": method_id, "card": rewrapped.get("card"), "cvc": rewrapped.get("cvc")}
        params |= {"old_card": sealed.get("card"), "old_cvc": sealed.get("cvc")}
        return await _REWRAP.row(self._pool, params) is not None
