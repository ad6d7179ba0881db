"""A dispute: what a provider says of one, and what of it is news. Pure.

A provider tells of a dispute by webhook, in any order and more than once. A verdict (won, lost) stands above everything that is
said on the way there, whenever it was said; of two verdicts, or of two others, the newest telling by the provider's own clock wins,
and of two that bear the same time (Adyen's clock knows seconds) the one that is further along. That is one order of all tellings, so
whatever order they come in, the same one is left. Nothing a dispute says moves an amount of its payment: what moves money there is
the provider's report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from providers.contract import DisputeNews, DisputeStatus, Kind

_FURTHER: Final[Mapping[DisputeStatus, int]] = {
    DisputeStatus.INQUIRY: 0,
    DisputeStatus.NEEDS_RESPONSE: 1,
    DisputeStatus.UNDER_REVIEW: 2,
    DisputeStatus.CLOSED: 3,
    DisputeStatus.WON: 4,
    DisputeStatus.LOST: 5,
}
ANSWERABLE: Final = frozenset({DisputeStatus.INQUIRY, DisputeStatus.NEEDS_RESPONSE})
"""Statuses in which a dispute can be defended or accepted."""
AFTER: Final[Mapping[Kind, DisputeStatus]] = {
    Kind.DEFEND: DisputeStatus.UNDER_REVIEW,
    Kind.ACCEPT: DisputeStatus.LOST,
}
"""Where a dispute stands once the provider has taken our answer."""


TAKEN: Final[Mapping[Kind, frozenset[DisputeStatus]]] = {
    Kind.DEFEND: frozenset({DisputeStatus.UNDER_REVIEW, DisputeStatus.WON}),
    Kind.ACCEPT: frozenset({DisputeStatus.LOST}),
}
"""Statuses that say our answer was taken, where nothing else did."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute as it stands. ``amount`` in minor units of ``currency``; ``news_at`` is when the provider said so."""

    id: str
    payment_id: str
    account: str
    provider: str
    provider_dispute_id: str
    status: DisputeStatus
    amount: int
    currency: str
    reason: str | None
    network_reason_code: str | None
    respond_by: datetime | None
    news_at: datetime
    created_at: datetime
    updated_at: datetime


_VERDICTS: Final = frozenset({DisputeStatus.WON, DisputeStatus.LOST})


def told(dispute: Dispute, news: DisputeNews, at: datetime, now: datetime) -> Dispute | None:
    """The dispute after ``news`` that the provider dates ``at``; ``None`` where that says nothing new.

    Older news still tells what nobody has told yet: a reason, or until when to respond. Where only :attr:`Dispute.news_at` differs
    afterwards there is nothing to show, but what is older than that must not win later: :func:`shows_more`.
    """
    if _place(news.status, at) > _place(dispute.status, dispute.news_at):
        after = replace(
            dispute,
            status=news.status,
            amount=news.amount.amount_minor,
            reason=news.reason or dispute.reason,
            network_reason_code=news.network_reason_code or dispute.network_reason_code,
            respond_by=news.respond_by or dispute.respond_by,
            news_at=at,
        )
    else:
        after = replace(
            dispute,
            reason=dispute.reason or news.reason,
            network_reason_code=dispute.network_reason_code or news.network_reason_code,
            respond_by=dispute.respond_by or news.respond_by,
        )
    if after == dispute:
        return None
    return replace(after, updated_at=now) if shows_more(dispute, after) else after


def shows_more(before: Dispute, after: Dispute) -> bool:
    """Whether a merchant would see a difference."""
    return replace(after, news_at=before.news_at) != before


def _place(status: DisputeStatus, at: datetime) -> tuple[bool, datetime, int]:
    return status in _VERDICTS, at, _FURTHER[status]


def answered(dispute: Dispute, kind: Kind, asked_at: datetime | None, now: datetime) -> Dispute:
    """The dispute once its provider has taken our defense, or that we accept it.

    What the provider dates before we asked (``asked_at``, to its second) was said before, however late it comes.
    """
    since = dispute.news_at if asked_at is None else max(dispute.news_at, asked_at.replace(microsecond=0))
    return replace(dispute, status=AFTER[kind], news_at=since, updated_at=now)
