"""How an event is written: two parts of whatever commit it tells of, so that neither is ever there without the other.

Those about an endpoint are written by the outbox (``webhooks.outbox``), which knows nothing of the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from gateway import tracing
from gateway.events import Event
from gateway.sql import columns
from webhooks.tables import DeliveryRow, EventRow

EVENTS: Final = f"""INSERT INTO event ({columns(EventRow)})
    SELECT e.id, :n_merchant_id::text, :n_livemode::bool, e.type, :n_payment_id::text, :n_sequence::int, e.body, :n_at::timestamptz,
    :n_trace::text
    FROM {{source}}, unnest(:n_ids::text[], :n_types::text[], :n_bodies::bytea[]) AS e(id, type, body)"""
"""The events, where ``source`` has the row that says what they tell of was written."""
DELIVERIES: Final = f"""INSERT INTO delivery ({columns(DeliveryRow)})
    SELECT w.id, e.id, 'pending', 0, now(), now(), NULL::timestamptz
    FROM {{source}}, unnest(:n_ids::text[], :n_types::text[]) AS e(id, type) JOIN webhook_endpoint w
    ON w.merchant_id = :n_merchant_id AND w.livemode = :n_livemode AND w.status = 'enabled'
    AND (w.events IS NULL OR e.type = ANY(w.events))"""
"""Their deliveries, one for each endpoint that wants them at this moment."""


def telling(
    events: Sequence[Event],
    merchant_id: str,
    at: datetime,
    *,
    livemode: bool,
    payment_id: str | None = None,
    sequence: int | None = None,
) -> dict[str, Any]:
    """The parameters of both parts. Nothing where there is nothing to tell."""
    if not events:
        return {}
    return {
        "n_merchant_id": merchant_id,
        "n_livemode": livemode,
        "n_payment_id": payment_id,
        "n_sequence": sequence,
        "n_at": at,
        "n_trace": tracing.kept(),
        "n_ids": [event.id for event in events],
        "n_types": [event.type for event in events],
        "n_bodies": [event.body for event in events],
    }
