"""The books of routing: versions of routing documents, and the history of what puts them in force. Both are append-only.

Every write is one statement and one commit, with the key that brings it and with what the merchant is told. Rows are numbered in a
merchant and mode, and a number is there once: of two who have read the same history and write at the same time, one is told that it
has changed (:attr:`gateway.books.Written.STALE`), reads again and decides again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final

import asyncpg

from gateway.books import KEY, KeyUse, Written, key_values
from gateway.events import Event
from gateway.sql import Pool, Row, Statement, columns, values
from gateway.tables import (
    RoutingArmRow,
    RoutingPublicationRow,
    RoutingShadowGapRow,
    RoutingShadowRow,
    RoutingVersionRow,
)
from gateway.telling import DELIVERIES, EVENTS, telling
from routing.estimate import Gap, Sums, Weighed
from routing.publications import Publication, PublicationKind


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a merchant's routing document. ``created_by`` is the id of an API key. In a list the document is left out."""

    id: str
    merchant_id: str
    livemode: bool
    number: int
    name: str
    document: Mapping[str, Any] | None
    hash: str
    parent: str | None
    note: str | None
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class ArmCount:
    """The payments of one arm in one currency that were counted: amounts in its minor units, and when the first and last were sent."""

    version_id: str
    strategy: str
    arm: str
    currency: str
    payments: int
    approved: int
    amount: int
    amount_approved: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Watched:
    """A payment that a shadow has watched, as it ended. ``weighed`` is ``None`` where its first attempt says nothing of its account."""

    operation_id: str
    day: date
    same_account: bool
    approved: bool
    weighed: Weighed | None


@dataclass(frozen=True, slots=True)
class ShadowCount:
    """What was counted of a version in the shadow: payments, those whose first account it would have asked too, and their sums.

    ``sums`` and ``gaps`` are of the payments whose first attempt has an outcome; ``first_at`` and ``last_at`` of all.
    """

    version_id: str
    payments: int
    same_account: int
    first_at: datetime
    last_at: datetime
    sums: tuple[Sums, ...]
    gaps: tuple[Gap, ...]


_NUMBERED: Final = frozenset({"routing_version_number", "routing_publication_sequence"})
"""What refuses a number that somebody else has taken meanwhile."""
_DRAFT: Final = Statement(
    f"""WITH claim AS ({KEY.format(source="(SELECT) AS nothing")}),
    written AS (INSERT INTO routing_version ({columns(RoutingVersionRow)}) SELECT {values(RoutingVersionRow, "v_")} FROM claim)
    SELECT EXISTS (SELECT FROM claim) AS claimed""",
    writes="store",
)
_PUBLICATION: Final = f"""INSERT INTO routing_publication ({columns(RoutingPublicationRow)})
    SELECT {values(RoutingPublicationRow, "p_")} FROM {{source}} RETURNING id"""


@lru_cache(maxsize=4)
def _published(*, keyed: bool, told: bool) -> Statement:
    """One publication with what is ``told`` of it; ``keyed`` where a key brings it."""
    source = "claim" if keyed else "(SELECT) AS nothing"
    parts = [f"claim AS ({KEY.format(source='(SELECT) AS nothing')})"] if keyed else []
    parts.append(f"written AS ({_PUBLICATION.format(source=source)})")
    if told:
        parts.append(f"events AS ({EVENTS.format(source='written')})")
        parts.append(f"deliveries AS ({DELIVERIES.format(source='written')})")
    return Statement(f"WITH {', '.join(parts)} SELECT EXISTS (SELECT FROM written) AS claimed", writes="publish")


_LIGHT: Final = columns(RoutingVersionRow).replace("document", "NULL::jsonb AS document")
_OWN: Final = "merchant_id = :merchant_id AND livemode = :livemode"
_VERSION: Final = Statement(f"SELECT {columns(RoutingVersionRow)} FROM routing_version WHERE id = :id AND {_OWN}")
_VERSIONS: Final = Statement(
    f"""SELECT {_LIGHT} FROM routing_version WHERE {_OWN} AND (:before::text IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit"""
)
_LAST_NUMBER: Final = Statement(f"SELECT coalesce(max(number), 0) AS number FROM routing_version WHERE {_OWN}")
_HISTORY: Final = Statement(
    f"SELECT {columns(RoutingPublicationRow)} FROM routing_publication WHERE {_OWN} ORDER BY sequence"
)
_ARMS: Final = Statement(
    f"""SELECT {columns(RoutingArmRow)} FROM routing_arm WHERE {_OWN} AND version_id = ANY(:versions::text[])
    ORDER BY version_id DESC, strategy, arm, currency"""
)
_COMPARED: Final = Statement(
    f"""SELECT DISTINCT version_id FROM routing_arm WHERE {_OWN} AND (:before::text IS NULL OR version_id < :before)
    ORDER BY version_id DESC LIMIT :limit"""
)
_ENDED: Final = Statement(
    """SELECT o.id, o.account, o.evidence_word, o.created_at, o.decision->'candidates' AS candidates,
    o.decision#>'{shadow,candidates}' AS wanted, o.decision#>>'{shadow,route,0}' AS first
    FROM operation o JOIN payment p ON p.id = o.payment_id
    WHERE o.uncounted_shadow IS NOT NULL AND (o.evidence_word IS NOT NULL OR p.round > o.round
        OR p.status NOT IN ('processing', 'requires_action') OR p.processing_reason = 'retry_scheduled')
    ORDER BY o.id LIMIT :limit::int"""
)
_WATCH: Final = Statement(
    """WITH told AS (SELECT * FROM unnest(:ids::text[], :days::date[], :moved::bool[], :levels::int[], :same::bool[], :settled::bool[],
        :approved::bool[], :weights::float8[]) AS t(id, day, moved, level, same, settled, approved, weight)),
    ended AS (SELECT o.id, o.uncounted_shadow AS version_id, o.created_at, p.merchant_id, p.livemode
        FROM operation o JOIN payment p ON p.id = o.payment_id
        WHERE o.id = ANY(:ids::text[]) AND o.uncounted_shadow IS NOT NULL ORDER BY o.id FOR UPDATE OF o SKIP LOCKED),
    counted AS (UPDATE operation SET uncounted_shadow = NULL FROM ended JOIN told USING (id) WHERE operation.id = ended.id
        RETURNING ended.*, told.day, told.moved, told.level, told.same, told.settled, told.approved, told.weight),
    added AS (INSERT INTO routing_shadow AS r (merchant_id, livemode, version_id, day, moved, level, payments, same_account, settled,
        approved, weight, squared, weight_approved, squared_approved, first_at, last_at)
        SELECT merchant_id, livemode, version_id, day, moved, level, count(*), count(*) FILTER (WHERE same),
        count(*) FILTER (WHERE settled), count(*) FILTER (WHERE approved), sum(weight), sum(weight * weight),
        coalesce(sum(weight) FILTER (WHERE approved), 0), coalesce(sum(weight * weight) FILTER (WHERE approved), 0),
        min(created_at), max(created_at)
        FROM counted GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (merchant_id, livemode, version_id, day, moved, level) DO UPDATE SET payments = r.payments + excluded.payments,
        same_account = r.same_account + excluded.same_account, settled = r.settled + excluded.settled,
        approved = r.approved + excluded.approved, weight = r.weight + excluded.weight, squared = r.squared + excluded.squared,
        weight_approved = r.weight_approved + excluded.weight_approved,
        squared_approved = r.squared_approved + excluded.squared_approved,
        first_at = least(r.first_at, excluded.first_at), last_at = greatest(r.last_at, excluded.last_at)),
    gaps AS (INSERT INTO routing_shadow_gap AS r (merchant_id, livemode, version_id, account, level, payments, wanted, recorded)
        SELECT merchant_id, livemode, version_id, g.account, g.level, count(*), sum(g.wanted), sum(g.recorded)
        FROM unnest(:gap_ids::text[], :gap_accounts::text[], :gap_levels::int[], :gap_wanted::float8[], :gap_recorded::float8[])
            AS g(id, account, level, wanted, recorded) JOIN counted USING (id)
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (merchant_id, livemode, version_id, account, level) DO UPDATE SET payments = r.payments + excluded.payments,
        wanted = r.wanted + excluded.wanted, recorded = r.recorded + excluded.recorded)
    SELECT count(*) AS counted FROM counted""",
    writes="watch",
)
"""Payments that a shadow has watched are counted, and marked as counted in the same commit: once each, whoever counts and dies."""
_SHADOWS: Final = Statement(
    f"""SELECT DISTINCT version_id FROM routing_shadow WHERE {_OWN} AND (:before::text IS NULL OR version_id < :before)
    ORDER BY version_id DESC LIMIT :limit"""
)
_SUMS: Final = Statement(
    f"SELECT {columns(RoutingShadowRow)} FROM routing_shadow WHERE {_OWN} AND version_id = ANY(:versions::text[]) ORDER BY day"
)
_GAPS: Final = Statement(
    f"SELECT {columns(RoutingShadowGapRow)} FROM routing_shadow_gap WHERE {_OWN} AND version_id = ANY(:versions::text[])"
)
_AGREED: Final = Statement(
    f"""SELECT version_id, sum(payments)::bigint AS payments, sum(same_account)::bigint AS same_account, min(first_at) AS first_at,
    max(last_at) AS last_at FROM routing_shadow WHERE {_OWN} AND version_id = :version GROUP BY version_id"""
)


class RoutingBooks:
    """Writes and reads versions and publications, which nobody ever changes or deletes; and what strategies, holdouts and shadows came to."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # --- writing ---

    async def draft(self, version: Version, key: KeyUse) -> Written:
        """Store a version, once a key. ``STALE`` where its number was taken meanwhile."""
        params = {f"v_{name}": getattr(version, name) for name in Version.__dataclass_fields__}
        params |= key_values(key, version.id, version.created_at)
        return await self._write(_DRAFT, params)

    async def publish(
        self, publication: Publication, merchant_id: str, *, livemode: bool, told: Event | None, key: KeyUse | None
    ) -> Written:
        """Append to the history, with what is ``told`` of it. ``STALE`` where the history has grown since it was read.

        Without a ``key`` it is the gateway's own: then whoever calls it again has to read the history first.
        """
        row = asdict(publication)
        params = {f"p_{name}": value for name, value in row.items()}
        params |= {"p_version_id": publication.version, "p_merchant_id": merchant_id, "p_livemode": livemode}
        if told is not None:
            params |= telling([told], merchant_id, publication.published_at, livemode=livemode)
        if key is not None:
            params |= key_values(key, publication.id, publication.published_at)
        return await self._write(_published(keyed=key is not None, told=told is not None), params)

    async def _write(self, statement: Statement, params: Mapping[str, Any]) -> Written:
        try:
            row = await statement.row(self._pool, params)
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name in _NUMBERED:
                return Written.STALE
            raise
        return Written.DONE if row is not None and row["claimed"] else Written.KEY_USED

    async def ended(self, limit: int) -> list[Row]:
        """First attempts that a shadow has watched, that are not counted yet and have ended, ``limit`` at most, the oldest first.

        ``candidates`` are those of the decision, ``wanted`` the shadow's, and ``first`` is the account that it would have asked.
        """
        return await _ENDED.rows(self._pool, {"limit": limit})

    async def watch(self, payments: Sequence[Watched]) -> int:
        """Count payments that have :meth:`ended`. Returns how many: what somebody else has counted meanwhile is left out."""
        gaps = [(each.operation_id, gap) for each in payments for gap in (each.weighed.gaps if each.weighed else ())]
        told = [each.weighed or _SILENT for each in payments]
        params = {
            "ids": [each.operation_id for each in payments],
            "days": [each.day for each in payments],
            "moved": [each.moved for each in told],
            "levels": [each.level for each in told],
            "same": [each.same_account for each in payments],
            "settled": [each.weighed is not None for each in payments],
            "approved": [each.approved for each in payments],
            "weights": [each.weight for each in told],
            "gap_ids": [operation for operation, _ in gaps],
            "gap_accounts": [gap.account for _, gap in gaps],
            "gap_levels": [gap.level for _, gap in gaps],
            "gap_wanted": [gap.wanted for _, gap in gaps],
            "gap_recorded": [gap.recorded for _, gap in gaps],
        }
        row = await _WATCH.row(self._pool, params)
        return 0 if row is None else int(row["counted"])

    # --- reading ---

    async def shadows(self, merchant_id: str, *, livemode: bool, limit: int, before: str | None) -> list[str]:
        """The ids of versions that have watched payments, newest first; ``before`` is the id to go on from."""
        params = {"merchant_id": merchant_id, "livemode": livemode, "limit": limit, "before": before}
        return [row["version_id"] for row in await _SHADOWS.rows(self._pool, params)]

    async def shadow_counts(
        self, merchant_id: str, versions: Sequence[str], *, livemode: bool
    ) -> Mapping[str, ShadowCount]:
        """All that was counted of these versions in the shadow. A version of which nothing was is left out."""
        params = {"merchant_id": merchant_id, "livemode": livemode, "versions": list(versions)}
        rows, gaps = await _SUMS.rows(self._pool, params), await _GAPS.rows(self._pool, params)
        return {
            version: _shadow_count(
                version,
                [row for row in rows if row["version_id"] == version],
                [row for row in gaps if row["version_id"] == version],
            )
            for version in {row["version_id"] for row in rows}
        }

    async def agreed(self, version_id: str, merchant_id: str, *, livemode: bool) -> ShadowCount | None:
        """How many payments a version has watched and agreed on, without the sums; ``None`` where it has watched none yet."""
        row = await _AGREED.row(self._pool, {"merchant_id": merchant_id, "livemode": livemode, "version": version_id})
        return None if row is None else ShadowCount(**row, sums=(), gaps=())

    async def compared(self, merchant_id: str, *, livemode: bool, limit: int, before: str | None) -> list[str]:
        """The ids of versions that payments were counted of, newest first; ``before`` is the id to go on from."""
        params = {"merchant_id": merchant_id, "livemode": livemode, "limit": limit, "before": before}
        return [row["version_id"] for row in await _COMPARED.rows(self._pool, params)]

    async def arms(self, merchant_id: str, versions: Sequence[str], *, livemode: bool) -> list[ArmCount]:
        """What was counted of these versions, the newest version first."""
        params = {"merchant_id": merchant_id, "livemode": livemode, "versions": list(versions)}
        rows = await _ARMS.rows(self._pool, params)
        return [ArmCount(**{name: row[name] for name in ArmCount.__dataclass_fields__}) for row in rows]

    async def version(self, version_id: str, merchant_id: str, /, *, livemode: bool) -> Version | None:
        """A merchant's version in one mode, with its document."""
        params = {"id": version_id, "merchant_id": merchant_id, "livemode": livemode}
        row = await _VERSION.row(self._pool, params)
        return None if row is None else Version(**row)

    async def versions(self, merchant_id: str, *, livemode: bool, limit: int, before: str | None) -> list[Version]:
        """A page of versions without their documents, newest first; ``before`` is the id to go on from."""
        params = {"merchant_id": merchant_id, "livemode": livemode, "limit": limit, "before": before}
        return [Version(**row) for row in await _VERSIONS.rows(self._pool, params)]

    async def last_number(self, merchant_id: str, *, livemode: bool) -> int:
        """The number of the newest version, 0 where there is none."""
        row = await _LAST_NUMBER.row(self._pool, {"merchant_id": merchant_id, "livemode": livemode})
        return 0 if row is None else int(row["number"])

    async def history(self, merchant_id: str, *, livemode: bool) -> list[Publication]:
        """Every publication of a merchant in one mode, in their order: all that says what is in force."""
        rows = await _HISTORY.rows(self._pool, {"merchant_id": merchant_id, "livemode": livemode})
        return [publication_from(row) for row in rows]


_SILENT: Final = Weighed(0.0, moved=False, gaps=())
"""What says nothing weighs nothing."""
_GAP: Final = tuple(Gap.__dataclass_fields__)


def _shadow_count(version: str, rows: Sequence[Row], gaps: Sequence[Row]) -> ShadowCount:
    return ShadowCount(
        version,
        sum(row["payments"] for row in rows),
        sum(row["same_account"] for row in rows),
        min(row["first_at"] for row in rows),
        max(row["last_at"] for row in rows),
        tuple(_sums(row) for row in rows if row["settled"]),
        tuple(Gap(**{name: row[name] for name in _GAP}) for row in gaps),
    )


def _sums(row: Row) -> Sums:
    summed = ("moved", "level", "approved", "weight", "squared", "weight_approved", "squared_approved")
    return Sums(day=row["day"].toordinal(), payments=row["settled"], **{name: row[name] for name in summed})


def publication_from(row: Row) -> Publication:
    """The value that a publication's row was written from. Raises ``ValueError`` for a kind that this release does not know."""
    names = (name for name in Publication.__dataclass_fields__ if name not in {"kind", "version"})
    told = {name: row[name] for name in names}
    return Publication(kind=PublicationKind(row["kind"]), version=row["version_id"], **told)
