"""A database of real payments keeps every promise, at rest and at work; and reading it takes no more memory when it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
