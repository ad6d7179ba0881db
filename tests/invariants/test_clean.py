"""A database of real payments keeps every promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.invariants import check_invariants

if TYPE_CHECKING:
    from tests.conftest import Kit, Open


async def test_mixed_payments_are_clean(open_gateway: Open, flow: type[Kit]) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        await merchant.charged()
        await merchant.charge(payment_method_data=flow.card("4000000000000002"))
        held = await merchant.charged(capture_method="manual")
        await merchant.post(f"/v1/payments/{held['id']}/capture", {"amount": 700})
        report = await check_invariants(inside.house.deps.queries._pool, at_rest=True)

    assert report.violations == ()
    assert report.rows["payment"] == 3
