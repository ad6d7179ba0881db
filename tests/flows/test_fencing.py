"""Who has lost an operation writes nothing untrue about it: the lease, the epoch, and what still counts from the loser."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gateway.payment import Operation, Payment
    from tests.conftest import Checked, Database, Inside, Kit, Open, Processes, Psps

LOST = "UPDATE operation SET lease_until = now(), due_at = now()"
ON_ITS_WAY = "UPDATE operation SET status = 'sent', reason = NULL WHERE status = 'unknown'"
"""As if the process had never written that it had no answer: it is still waiting for one."""


async def _left_behind(inside: Inside, psps: Psps) -> tuple[Payment, Operation]:
    """A payment whose charge was made and whose answer was lost, as the process knows it that sent it."""
    psps.fault("stripe", "authorize", "garbage", times=3)
    psps.fault("stripe", "authorize", "drop_webhook", times=None)
    answer = await inside.merchant.charge(key="order-1")
    assert answer.status_code == 202
    inside.database.rows(ON_ITS_WAY)
    payment = await inside.house.deps.queries.payment(answer.json()["id"])
    assert payment is not None
    return payment, payment.operations[0]


async def test_nothing_happened_is_not_believed_of_who_has_lost_the_operation(
    open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    """The one that took it over may have charged: the loser's "my request reached nobody" is true of its own send only."""
    from gateway.settle import record, take_over
    from providers.contract import NotProcessed, Unknown

    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        payment, operation = await _left_behind(inside, psps)
        database.rows(LOST)
        assert await take_over(payment, operation, deps) is not None
        before = database.rows("SELECT version, status, processing_reason FROM payment")

        for untrue in (NotProcessed("not_sent"), Unknown("timeout")):
            recorded = await record(payment, operation, untrue, source="call", deps=deps)
            assert recorded is not None
            assert recorded.change is None

    assert database.rows("SELECT version, status, processing_reason FROM payment") == before
    assert database.value("SELECT status FROM operation") == "sent"
    assert database.value("SELECT count(*) FROM change WHERE source = 'call'") == 1, (
        "the first, of the answer that was lost"
    )
    await checked(database, psps, at_rest=False)


async def test_an_approval_counts_whoever_learned_it(
    open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    from gateway.settle import record, take_over
    from providers.contract import Approved
    from providers.money import Money

    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        payment, operation = await _left_behind(inside, psps)
        database.rows(LOST)
        assert await take_over(payment, operation, deps) is not None

        approved = Approved("pi_late", Money(1999, "EUR"), captured=True)
        recorded = await record(payment, operation, approved, source="call", deps=deps)

    assert recorded is not None
    assert (recorded.payment.status, recorded.payment.amount_captured) == ("succeeded", 1999)
    assert database.value("SELECT status FROM operation") == "captured"
    await checked(database, psps)


async def test_what_was_queued_counts_as_sent_from_the_moment_somebody_takes_it(
    open_gateway: Open, database: Database, psps: Psps, checked: Checked
) -> None:
    """A worker that dies after its send must not leave a row that says that nobody was asked."""
    from gateway.settle import take_over

    async with open_gateway(("stripe",)) as inside:
        payment_id = (await inside.merchant.charged(capture_method="manual"))["id"]
    async with open_gateway(("stripe",), unreachable=["stripe"]) as inside:
        queued = await inside.merchant.post(f"/v1/payments/{payment_id}/capture", {}, key="capture-1")
        assert queued.status_code == 202
        assert database.value("SELECT status FROM operation WHERE kind = 'capture'") == "created"
        database.rows(LOST)
        payment = await inside.house.deps.queries.payment(payment_id)
        assert payment is not None
        first = await take_over(payment, payment.operations[1], inside.house.deps)
        assert first is not None
        assert first.reached_nobody
        assert database.value("SELECT status FROM operation WHERE kind = 'capture'") == "sent"
        database.rows(LOST)
        second = await take_over(first.payment, first.operation, inside.house.deps)

    assert second is not None
    assert not second.reached_nobody
    await checked(database, psps, at_rest=False)


async def test_an_operation_that_is_decided_or_held_is_not_taken(
    open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    from gateway.settle import take_over

    async with open_gateway(("stripe",)) as inside:
        deps = inside.house.deps
        done = await deps.queries.payment((await inside.merchant.charged())["id"])
        payment, operation = await _left_behind(inside, psps)
        inside.database.rows(LOST)
        first = await take_over(payment, operation, deps)
        second = await take_over(payment, operation, deps)
        assert done is not None
        decided = await take_over(done, done.operations[0], deps)

    assert first is not None
    assert (second, decided) == (None, None)
    await checked(database, psps, at_rest=False)


async def test_a_stopped_process_that_wakes_up_again_finds_its_work_done_and_adds_nothing(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit], checked: Checked
) -> None:
    """SIGSTOP in the middle of a call: the lease runs out, the worker settles, and the answer that was slept over is no news."""
    psps.fault("stripe", "authorize", "slow_answer", latency_ms=1500)
    psps.fault("stripe", "authorize", "drop_webhook", times=None)
    server = processes.server().start()

    async with server.merchant() as merchant:
        waiting = asyncio.create_task(merchant.charge(key="order-1"))
        await flow.eventually(lambda: len(psps.requests("stripe", "authorize")) == 1, "the PSP has its request")
        server.process.suspend()
        processes.worker()
        await flow.eventually(
            lambda: database.value("SELECT count(*) FROM payment WHERE status = 'succeeded'") == 1, "it was settled"
        )
        server.process.resume()
        answer = await waiting

    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert len(psps.charges()) == 1
    sources = database.rows("SELECT source FROM change ORDER BY seq")
    assert [row["source"] for row in sources[:2]] == ["api", "sweep"]
    assert database.value("SELECT epoch FROM operation") == 2
    await checked(database, psps)


@pytest.mark.parametrize("again", ["same", "other"])
async def test_a_key_drives_only_the_round_that_it_opened(
    again: str, open_gateway: Open, psps: Psps, flow: type[Kit], database: Database, checked: Checked
) -> None:
    """The first key, sent again in the second round, tells how the payment stands and asks nobody."""
    declined = flow.card("4000000000000002")
    async with open_gateway(("stripe",)) as inside:
        merchant = inside.merchant
        first = await merchant.charge(key="order-1", payment_method_data=declined)
        payment_id = first.json()["id"]
        psps.fault("stripe", "authorize", "garbage", times=3)
        psps.fault("stripe", "authorize", "drop_webhook", times=None)
        path = f"/v1/payments/{payment_id}/confirm"
        second = await merchant.post(path, {"payment_method_data": flow.card()}, key="confirm-1")
        asked = len(psps.requests("stripe", "authorize"))
        if again == "same":
            replay = await merchant.charge(key="order-1", payment_method_data=declined)
            assert replay.content == first.content
        else:
            replay = await merchant.post(path, {"payment_method_data": flow.card()}, key="confirm-2")
            assert replay.status_code == 409

    assert (first.status_code, second.status_code) == (402, 202)
    assert len(psps.requests("stripe", "authorize")) == asked
    await checked(database, psps, at_rest=False)
