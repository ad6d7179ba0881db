"""A database of real payments keeps every promise, at rest and at work; and reading it takes no more memory when it grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gateway.invariants import INVARIANTS, check_invariants
from gateway.verify import reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Kit
    from tests.invariants.conftest import Mixed


async def test_mixed_payments_keep_every_promise(mixed: Mixed, flow: type[Kit], proved: Callable[[str], None]) -> None:
    async with reading(mixed.database.url) as db:
        report = await check_invariants(db, mixed.outside, at_rest=True, grace_s=5, keyring=flow.keyring())

    assert report.violations == ()
    assert report.checked == tuple(each.name for each in INVARIANTS)
    assert report.rows["payment"] == mixed.payments > 20
    proved(
        f"invariants: {len(INVARIANTS)} hold for {dict(report.rows)}, {report.entries} book entries, {report.arrivals} requests"
    )


@dataclass
class Torn:
    """A reader whose first look at each payment shows something that was never so."""

    db: Any
    looks: int = 0

    async def fetch(self, query: str, *args: Any) -> list[dict[str, Any]]:
        rows = [dict(row) for row in await self.db.fetch(query, *args)]
        if rows and "payment" in rows[0] and len(args) == 3:
            self.looks += 1
            for row in rows:
                payment = orjson.loads(row["payment"])
                row["payment"] = orjson.dumps([*payment[:11], payment[11] + 5, *payment[12:]]).decode()
        return rows


async def test_what_seems_broken_is_read_once_more_before_it_is_reported(mixed: Mixed, flow: type[Kit]) -> None:
    async with reading(mixed.database.url) as db:
        torn = Torn(db)
        beside_traffic = await check_invariants(torn, at_rest=False, keyring=flow.keyring(), page=7)
        at_rest = await check_invariants(torn, at_rest=True, keyring=flow.keyring(), page=7)

    assert torn.looks > 6
    assert beside_traffic.violations == ()
    assert at_rest.broken["reservations_are_sums"] == mixed.payments, "it was torn indeed"


async def test_a_page_may_be_of_any_size(mixed: Mixed, flow: type[Kit]) -> None:
    async with reading(mixed.database.url) as db:
        reports = [
            await check_invariants(db, mixed.outside, at_rest=True, grace_s=5, keyring=flow.keyring(), page=page)
            for page in (1, 3, 1000)
        ]

    assert reports[0].clean
    assert reports[0] == reports[1] == reports[2]
