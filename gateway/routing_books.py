"""The books of routing: versions of routing documents, and the history of what puts them in force. Both are append-only.

Every write is one statement and one commit, with the key that brings it and with what the merchant is told. Rows are numbered in a
merchant and mode, and a number is there once: of two who have read the same history and write at the same time, one is told that it
has changed (:attr:`gateway.books.Written.STALE`), reads again and decides again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import asyncpg

from gateway.books import KEY, KeyUse, Written, key_values
from gateway.events import Event
from gateway.sql import Pool, Row, Statement, columns, values
from gateway.tables import RoutingArmRow, RoutingPublicationRow, RoutingVersionRow
from gateway.telling import DELIVERIES, EVENTS, telling
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


class RoutingBooks:
    """Writes and reads versions and publications, which nobody ever changes or deletes; and reads what strategies and holdouts came to."""

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

    # --- reading ---

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


def publication_from(row: Row) -> Publication:
    """The value that a publication's row was written from. Raises ``ValueError`` for a kind that this release does not know."""
    names = (name for name in Publication.__dataclass_fields__ if name not in {"kind", "version"})
    told = {name: row[name] for name in names}
    return Publication(kind=PublicationKind(row["kind"]), version=row["version_id"], **told)
