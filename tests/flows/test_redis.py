"""Redis is the quick gate and never the truth: whatever happens to it, a key makes one charge."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from idempotency.once import GatePolicy

if TYPE_CHECKING:
    from gateway.embedded import Valkey
    from tests.conftest import Checked, Database, Kit, Open, Psps

AT_ONCE = 12


def _kill(valkey: Valkey, flow: type[Kit]) -> None:
    valkey.kill()


def _pause(valkey: Valkey, flow: type[Kit]) -> None:
    valkey.pause()


def _flush(valkey: Valkey, flow: type[Kit]) -> None:
    flow.flush(valkey)


def _restart(valkey: Valkey, flow: type[Kit]) -> None:
    valkey.kill()
    valkey.restart()


EVENTS: list[Callable[[Valkey, type[Kit]], None]] = [_kill, _pause, _flush, _restart]
NAMES = ["killed", "paused", "flushed", "restarted"]


@pytest.mark.parametrize("event", EVENTS, ids=NAMES)
async def test_what_happens_to_redis_in_the_middle_makes_no_second_charge_and_no_other_answer(
    event: Callable[[Valkey, type[Kit]], None],
    open_gateway: Open,
    psps: Psps,
    valkey: Valkey,
    flow: type[Kit],
    database: Database,
    checked: Checked,
) -> None:
    psps.fault("stripe", "authorize", "latency", latency_ms=800)

    async with open_gateway() as one, open_gateway() as other:
        first = asyncio.create_task(one.merchant.charge(key="order-1"))
        await flow.eventually(lambda: bool(psps.requests("stripe", "authorize")), "the PSP has its request")
        event(valkey, flow)
        duplicates = [
            inside.merchant.retried(lambda inside=inside: inside.merchant.charge(key="order-1"))  # type: ignore[misc]  # bound now
            for inside in (one, other) * (AT_ONCE // 2)
        ]
        answers = [await first, *await asyncio.gather(*duplicates)]

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(psps.charges()) == 1
    assert len(psps.requests("stripe", "authorize")) == 1
    await checked(database, psps)


@pytest.mark.parametrize("event", [_kill, _pause], ids=["killed", "paused"])
async def test_without_redis_a_gateway_that_fails_open_charges_once_with_postgres_alone(
    event: Callable[[Valkey, type[Kit]], None],
    open_gateway: Open,
    psps: Psps,
    valkey: Valkey,
    flow: type[Kit],
    database: Database,
    checked: Checked,
) -> None:
    async with open_gateway() as one, open_gateway() as other:
        event(valkey, flow)
        duplicates = [
            inside.merchant.retried(lambda inside=inside: inside.merchant.charge(key="order-1"))  # type: ignore[misc]  # bound now
            for inside in (one, other) * (AT_ONCE // 2)
        ]
        answers = await asyncio.gather(*duplicates)
        payment = answers[0].json()["id"]
        refund = await one.merchant.retried(
            lambda: one.merchant.post("/v1/refunds", {"payment": payment}, key="refund-1")
        )
        again = await other.merchant.post("/v1/refunds", {"payment": payment}, key="refund-1")
        counted = (await one.merchant.get("/metrics")).text

    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert (refund.status_code, again.content) == (201, refund.content)
    assert len(psps.charges()) == 1
    assert len(psps.books("stripe", "refunds")) == 1
    assert re.search(
        r'dependency_policy_applied_total\{dep="redis",op="idempotency_gate",policy="fail_open"\} [1-9]', counted
    )
    await checked(database, psps)


async def test_without_redis_a_gateway_that_fails_closed_refuses_and_nothing_happens(
    open_gateway: Open, psps: Psps, valkey: Valkey, database: Database, checked: Checked
) -> None:
    async with open_gateway(on_redis_loss=GatePolicy.FAIL_CLOSED) as inside:
        payment = await inside.merchant.charged()
        before = database.row_counts()
        valkey.kill()
        charge = await inside.merchant.charge(key="order-2")
        refund = await inside.merchant.post("/v1/refunds", {"payment": payment["id"]}, key="refund-1")
        after, read = database.row_counts(), await inside.merchant.get(f"/v1/payments/{payment['id']}")
        valkey.restart()
        later = await inside.merchant.retried(lambda: inside.merchant.charge(key="order-2"))

    for refused in (charge, refund):
        assert (refused.status_code, refused.json()["code"]) == (503, "idempotency_unavailable")
        assert refused.json()["retryable"] is True
        assert refused.headers["Retry-After"]
    assert (before, read.status_code) == (after, 200)
    assert (later.status_code, len(psps.charges())) == (201, 2)
    assert psps.books("stripe", "refunds") == []
    await checked(database, psps)


async def test_a_gateway_starts_without_redis_and_uses_it_when_it_comes(
    open_gateway: Open, valkey: Valkey, psps: Psps, database: Database, checked: Checked
) -> None:
    valkey.kill()

    async with open_gateway() as inside:
        without = await inside.merchant.charge(key="order-1")
        lost = (await inside.merchant.get("/readyz")).json()["redis"]
        valkey.restart()
        found = (await inside.merchant.get("/readyz")).json()["redis"]
        again = await inside.merchant.charge(key="order-1")

    assert (lost, found) == ("lost", "ok")
    assert (without.status_code, again.content) == (201, without.content)
    await checked(database, psps)
