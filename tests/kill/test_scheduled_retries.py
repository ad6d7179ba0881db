"""A worker is killed at every point of a scheduled retry: the next one finishes what it left, and nobody is charged twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway import crash
from gateway.sweep import retry_due, sweep

if TYPE_CHECKING:
    from tests.conftest import Configuration, Inside, Kit, Open, Psps
    from tests.kill.conftest import Forge

QUICK_S: Final = 60.0
STEPS: Final = ("claim", "open", "reseal", "send", "settle")
"""What a retry passes that is approved at its first account."""
POINTS: Final = tuple(f"retries.{step}.{side}" for step in STEPS for side in ("before", "after"))


def test_the_points_are_in_the_table() -> None:
    assert set(POINTS) <= set(crash.points())


async def scheduled(inside: Inside, psps: Psps, flow: type[Kit], number: str) -> dict[str, Any]:
    """A payment of a stored card that was declined for now; the shopper is away."""
    method = (await inside.merchant.post("/v1/payment_methods", flow.card(number))).json()
    psps.fault("stripe", "authorize", "decline", code="insufficient_funds", match={"bin": number})
    answer = await inside.merchant.charge(
        payment_method=method["id"],
        payment_method_data=None,
        off_session=True,
        recurring="unscheduled",
        retry={"until": (datetime.now(UTC) + timedelta(days=7)).isoformat()},
    )
    payment: dict[str, Any] = answer.json()
    assert payment["processing_reason"] == "retry_scheduled", answer.text
    return payment


@pytest.mark.parametrize("point", POINTS)
async def test_what_a_killed_worker_leaves_of_a_retry_is_one_charge(
    point: str,
    open_gateway: Open,
    configuration: Configuration,
    psps: Psps,
    forge: Forge,
    flow: type[Kit],
    cards: Iterator[str],
    checked: Any,
) -> None:
    async with open_gateway(("stripe",)) as inside:
        payment = await scheduled(inside, psps, flow, next(cards))
        inside.database.rows("UPDATE payment SET retry_at = now()")
        worker = await forge.worker(configuration.environment(configuration.accounts(("stripe",))), f"{point}:1")
        await worker.dies(QUICK_S)
        assert worker.died_at(point), worker.printed
        for _ in range(3):  # what a minute would do, as often as it takes: the lease has run out, and the claim
            inside.database.let_time_pass()
            inside.database.rows("UPDATE payment SET retry_at = now() WHERE retry_at IS NOT NULL")
            await sweep(inside.house.deps)
            await retry_due(inside.house.deps)
        paid = await inside.merchant.payment(payment["id"])

    assert (paid["status"], paid["attempt_count"], paid["next_retry_at"]) == ("succeeded", 2, None)
    (charge,) = psps.charges()
    assert charge["payment"] == paid["provider_payment_id"]
    await checked(inside.database, psps)
