"""The books of what providers say beside payments: incidents, notices and what becomes of tokens.

Each is one statement and one commit, together with what the merchant is told of it, and may be written again: what is known is
written and told once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from gateway import crash
from gateway.answers import incident_object, notice_object
from gateway.disputes import Dispute
from gateway.events import Event, event
from gateway.ids import NOTICE, new_id
from gateway.incidents import Incident
from gateway.queries import StoredMethod
from gateway.sql import Pool, Statement, columns, values
from gateway.tables import IncidentRow, NoticeRow
from gateway.telling import DELIVERIES, EVENTS, telling
from providers.contract import Notice, NoticeKind

TOLD: Final = {
    NoticeKind.FRAUD_WARNING: "payment.fraud_warning",
    NoticeKind.REVIEW_OPENED: "payment.review_opened",
    NoticeKind.REVIEW_CLOSED: "payment.review_closed",
    NoticeKind.REPORT: "report.available",
}
"""What each notice is called where the merchant is told of it."""


_TELLING: Final = f"""events AS ({EVENTS.format(source="written")}), deliveries AS ({DELIVERIES.format(source="written")})
    SELECT id FROM written"""
"""The end of a commit: where it has ``written`` a row, the event of it and its deliveries."""
_INCIDENT: Final = Statement(
    f"""WITH written AS (INSERT INTO incident ({columns(IncidentRow)}) SELECT {values(IncidentRow, "i_")}
        ON CONFLICT (operation_id, kind, said) DO NOTHING RETURNING id), {_TELLING}""",
    writes="incident",
)
_CLOSE: Final = Statement(
    """UPDATE incident SET closed_at = :at, closed_reason = :reason WHERE id = :id AND closed_at IS NULL RETURNING id""",
    writes="close",
)
_NOTICE: Final = Statement(
    f"""WITH written AS (INSERT INTO notice ({columns(NoticeRow)}) SELECT {values(NoticeRow, "o_")}
        ON CONFLICT (account, kind, provider_notice_id) DO NOTHING RETURNING id), {_TELLING}""",
    writes="notice",
)
_HEARD: Final = Statement(
    """UPDATE dispute SET news_at = :at, heard = :heard::jsonb WHERE id = :id AND status = :status AND news_at = :was_at
    AND heard = :was::jsonb RETURNING id""",
    writes="dispute",
)
_METHOD: Final = """UPDATE payment_method SET tokens = :tokens::jsonb, dead_tokens = :dead::text[], card = :card::jsonb,
    card_told_at = :told_at::timestamptz, updated_at = :at::timestamptz WHERE id = :id AND deleted_at IS NULL
    AND updated_at IS NOT DISTINCT FROM :was_at::timestamptz AND card_told_at IS NOT DISTINCT FROM :was_told_at::timestamptz
    AND dead_tokens IS NOT DISTINCT FROM :was_dead::text[] AND tokens = :was::jsonb RETURNING id"""
_TOKEN: Final = Statement(f"WITH written AS ({_METHOD}), {_TELLING}", writes="token")
_TOKEN_HEARD: Final = Statement(_METHOD, writes="token")


class NewsBooks:
    """Writes what providers say beside payments."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open_incident(self, incident: Incident) -> bool:
        """Write an incident and tell of it. ``False`` where the same was said of the same operation before.

        Whoever notices one, its crash points are those of the path ``incident``: it is a commit of its own.
        """
        names = IncidentRow.__table__.columns.keys()  # type: ignore[attr-defined]  # SQLModel adds it to table models
        told = event("incident.opened", incident_object(incident), incident.created_at, livemode=incident.livemode)
        params = {f"i_{name}": getattr(incident, name) for name in names}
        params |= telling(
            [told],
            incident.merchant_id,
            incident.created_at,
            livemode=incident.livemode,
            payment_id=incident.payment_id,
        )
        with crash.aside("incident"):
            return await _INCIDENT.row(self._pool, params) is not None

    async def close_incident(self, incident_id: str, reason: str, at: datetime) -> None:
        """Close an incident. One that is closed keeps its first reason."""
        await _CLOSE.row(self._pool, {"id": incident_id, "reason": reason, "at": at})

    async def notice(
        self,
        notice: Notice,
        account: str,
        provider: str,
        merchant_id: str,
        payment_id: str | None,
        told_at: datetime | None,
        now: datetime,
        *,
        livemode: bool,
    ) -> bool:
        """Keep a notice and tell of it. ``False`` where the account has told it before."""
        amount = notice.amount
        row = {
            "id": new_id(NOTICE),
            "merchant_id": merchant_id,
            "livemode": livemode,
            "kind": notice.kind,
            "account": account,
            "provider_notice_id": notice.notice_id,
            "payment_id": payment_id,
            "reason": notice.reason,
            "amount": amount.amount_minor if amount else None,
            "currency": amount.currency if amount else None,
            "report_url": notice.report_url,
            "told_at": told_at,
            "created_at": now,
        }
        told = event(TOLD[notice.kind], notice_object(row, provider), now, livemode=livemode)
        params = {f"o_{name}": value for name, value in row.items()}
        params |= telling([told], merchant_id, now, livemode=livemode, payment_id=payment_id)
        return await _NOTICE.row(self._pool, params) is not None

    async def dispute_heard(self, before: Dispute, after: Dispute) -> bool:
        """Note what was heard of a dispute and leaves it as it stands: nothing is told. ``False`` where it has changed since it was read."""
        params = {"id": before.id, "status": before.status, "was": before.heard, "was_at": before.news_at}
        return await _HEARD.row(self._pool, params | {"heard": after.heard, "at": after.news_at}) is not None

    async def token(
        self, before: StoredMethod, after: StoredMethod, told: Event | None, merchant_id: str, *, at: datetime
    ) -> bool:
        """Write what became of a method's token, and tell it where there is something to tell.

        ``False`` where the method was changed since it was read: read it again.
        """
        params = {
            "id": before.id,
            "tokens": after.tokens,
            "dead": after.dead_tokens,
            "card": after.card,
            "told_at": after.card_told_at,
            "at": after.updated_at,
            "was": before.tokens,
            "was_dead": before.dead_tokens,
            "was_told_at": before.card_told_at,
            "was_at": before.updated_at,
        }
        if told is None:
            return await _TOKEN_HEARD.row(self._pool, params) is not None
        params |= telling([told], merchant_id, at, livemode=before.livemode)
        return await _TOKEN.row(self._pool, params) is not None
