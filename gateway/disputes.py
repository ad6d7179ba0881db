"""A dispute: what a provider says of one, and what of it is news. Pure.

A provider tells of a dispute by webhook, in any order and more than once. Of every status, and of every fact, the newest time by the
provider's own clock at which it was told is kept, so whatever order the tellings come in, the same is known in the end. A fact is
what was told of it last. The status is the newest verdict (won, lost): what is said on the way there stands below it, whenever it was
said, but for one thing. A dispute that was won is not over: the issuer may go on, and what is told after that takes it up again. Where
there is no verdict, the status is the newest of all; of two that bear the same time (Adyen's clock knows seconds) it is the one that
is further along. Nothing a dispute says moves an amount of its payment: what moves money there is the provider's report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

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
    """A dispute as it stands. ``amount`` in minor units of ``currency``; ``news_at`` is when the provider spoke of it last.

    ``heard`` has the newest time at which each status, and each fact, was told.
    """

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
    heard: Mapping[str, datetime] = field(default_factory=dict, hash=False)


_VERDICTS: Final = frozenset({DisputeStatus.WON, DisputeStatus.LOST})


def facts_in(news: DisputeNews) -> dict[str, Any]:
    """What is told beside the status, by the names of :class:`Dispute`."""
    facts = {
        "amount": news.amount.amount_minor,
        "reason": news.reason,
        "network_reason_code": news.network_reason_code,
        "respond_by": news.respond_by,
    }
    return {name: value for name, value in facts.items() if value is not None}


def told(dispute: Dispute, news: DisputeNews, at: datetime, now: datetime) -> Dispute | None:
    """The dispute after ``news`` that the provider dates ``at``; ``None`` where that says nothing new.

    Older news still tells what nobody has told yet: a reason, or until when to respond. Where only :attr:`Dispute.heard` differs
    afterwards there is nothing to show, but what is older than that must not win later: :func:`shows_more`.
    """
    heard = _heard(dispute)
    heard[news.status.value] = max(at, heard.get(news.status.value, at))
    newer = {
        name: value
        for name, value in facts_in(news).items()
        if (known := getattr(dispute, name)) is None
        or (at, str(value)) > (heard.get(name, dispute.news_at), str(known))
    }
    heard |= dict.fromkeys(newer, at)
    after = replace(dispute, status=_stands(heard), news_at=max(at, dispute.news_at), heard=heard, **newer)
    if after == dispute:
        return None
    return replace(after, updated_at=now) if shows_more(dispute, after) else after


def _heard(dispute: Dispute) -> dict[str, datetime]:
    """What was heard, together with the status as it stands: a version before this one has kept nothing else."""
    status, heard = dispute.status.value, dict(dispute.heard)
    return heard if status in heard else heard | {status: dispute.news_at}


def _stands(heard: Mapping[str, datetime]) -> DisputeStatus:
    def newest(statuses: Iterable[DisputeStatus]) -> tuple[datetime, int, DisputeStatus] | None:
        return max(
            ((heard[each.value], _FURTHER[each], each) for each in statuses if each.value in heard), default=None
        )

    verdict, other = newest(_VERDICTS), newest(_FURTHER.keys() - _VERDICTS)
    taken_up = verdict and other and verdict[2] is DisputeStatus.WON and other[0] > verdict[0]
    stands = other if verdict is None or taken_up else verdict
    if stands is None:
        raise AssertionError("a dispute that nothing was heard of")
    return stands[2]


def shows_more(before: Dispute, after: Dispute) -> bool:
    """Whether a merchant would see a difference."""
    return replace(after, news_at=before.news_at, heard=before.heard) != before


def answered(dispute: Dispute, kind: Kind, asked_at: datetime | None, now: datetime) -> Dispute:
    """The dispute once its provider has taken our defense, or that we accept it.

    What the provider dates before we asked (``asked_at``, to its second) was said before, however late it comes.
    """
    since = dispute.news_at if asked_at is None else max(dispute.news_at, asked_at.replace(microsecond=0))
    heard = _heard(dispute) | {AFTER[kind].value: since}
    return replace(dispute, status=AFTER[kind], news_at=since, updated_at=now, heard=heard)
