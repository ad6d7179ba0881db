"""A process that is killed on any line leaves nothing but work for the next one: one charge, and the right answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.conftest import Checked, Database, Kit, Merchant, Open, Processes, Psps, Server

AT_EACH = ("stripe", "adyen")
Send = tuple[str, dict[str, Any], str]


async def _killed_while_the_psp_answers(
    server: Server, merchant: Merchant, psps: Psps, operation: str, sends: list[Send], flow: type[Kit]
) -> None:
    """Send all at once, kill the process with -9 when every PSP has its request, and start it again."""
    before = sum(len(psps.requests(psp, operation)) for psp in AT_EACH)
    waiting = [asyncio.create_task(merchant.post(path, fields, key=key)) for path, fields, key in sends]
    await flow.eventually(
        lambda: sum(len(psps.requests(psp, operation)) for psp in AT_EACH) == before + len(sends),
        "all requests at the PSPs",
    )
    server.process.kill()
    for task in waiting:
        with contextlib.suppress(httpx.TransportError):
            await task
    server.start()


def _slow(psps: Psps, operation: str) -> None:
    for psp in AT_EACH:
        psps.fault(psp, operation, "latency", latency_ms=1500)
        psps.fault(psp, operation, "drop_webhook", times=None)


async def test_a_charge_whose_process_is_killed_is_made_once_and_its_retry_answers_rightly(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit], checked: Checked
) -> None:
    _slow(psps, "authorize")
    server = processes.server().start()

    async with server.merchant() as merchant:
        sends = [("/v1/payments", flow.body(routing={"account": psp}), f"order-{psp}") for psp in AT_EACH]
        await _killed_while_the_psp_answers(server, merchant, psps, "authorize", sends, flow)
        answers = await asyncio.gather(
            *(
                merchant.retried(lambda path=path, fields=fields, key=key: merchant.post(path, fields, key=key))  # type: ignore[misc]  # bound now
                for path, fields, key in sends
            )
        )
        again = [await merchant.post(path, fields, key=key) for path, fields, key in sends]

    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(201, "succeeded")] * 2
    assert [answer.content for answer in again] == [answer.content for answer in answers]
    assert len(psps.charges()) == 2
    assert database.value("SELECT count(*) FROM payment") == 2
    for psp in AT_EACH:
        assert len({entry["key"] for entry in psps.requests(psp, "authorize")}) == 1
    await checked(database, psps)


async def test_the_worker_alone_settles_what_a_killed_process_has_left(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit], checked: Checked
) -> None:
    """Nobody asks again: the shopper is gone, and the money is accounted for all the same."""
    _slow(psps, "authorize")
    server = processes.server().start()

    async with server.merchant() as merchant:
        sends = [("/v1/payments", flow.body(routing={"account": psp}), f"order-{psp}") for psp in AT_EACH]
        await _killed_while_the_psp_answers(server, merchant, psps, "authorize", sends, flow)
        server.process.kill()
        processes.worker()
        await flow.eventually(
            lambda: database.value("SELECT count(*) FROM payment WHERE status = 'succeeded'") == 2,
            "both payments succeeded",
        )

    assert len(psps.charges()) == 2
    assert database.value("SELECT count(*) FROM operation WHERE sealed_request IS NOT NULL") == 0
    assert database.value("SELECT count(*) FROM change WHERE source = 'sweep'") == 2
    await checked(database, psps)


@pytest.mark.parametrize("psp", AT_EACH)
async def test_a_process_killed_while_it_passes_on_a_shoppers_return_leaves_it_to_the_worker(
    psp: str, processes: Processes, psps: Psps, database: Database, flow: type[Kit], checked: Checked
) -> None:
    """The shopper has done their part and never comes again."""
    number = {"stripe": "4000000000003220", "adyen": "5454545454545454"}[psp]
    processes.server()  # never started: nobody hears the webhook of the visit, which would settle the payment
    server = processes.server().start()

    async with server.merchant() as merchant:
        answer = await merchant.charge(payment_method_data=flow.card(number), routing={"account": psp})
        address = await psps.visit(answer.json(), "succeeded")
        psps.fault(psp, "any", "latency", latency_ms=1500)
        asked = len(psps.requests(psp))
        returning = asyncio.create_task(merchant.come_back(address))
        await flow.eventually(lambda: len(psps.requests(psp)) > asked, "the return is at the PSP")
        server.process.kill()
        with contextlib.suppress(httpx.TransportError):
            await returning
        processes.worker()
        await flow.eventually(
            lambda: database.value("SELECT count(*) FROM payment WHERE status = 'succeeded'") == 1, "it was settled"
        )

    assert len(psps.charges()) == 1
    assert database.value("SELECT count(*) FROM operation WHERE sealed_request IS NOT NULL") == 0
    await checked(database, psps)


async def test_a_worker_that_is_killed_in_the_middle_of_its_work_leaves_it_to_the_next_one(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit], checked: Checked
) -> None:
    """Nothing that a dead worker held may keep the next one from working: no lock, no job, no lease."""
    psps.fault("stripe", "authorize", "garbage", times=3)
    psps.fault("stripe", "authorize", "drop_webhook", times=None)
    server = processes.server().start()

    async with server.merchant() as merchant:
        assert (await merchant.charge(key="order-1")).status_code == 202
        asked = len(psps.requests("stripe", "authorize"))
        psps.fault("stripe", "authorize", "latency", latency_ms=60_000, times=1)
        first = processes.worker()
        await flow.eventually(lambda: len(psps.requests("stripe", "authorize")) > asked, "the worker asks the PSP")
        first.kill()
        processes.worker()
        await flow.eventually(
            lambda: database.value("SELECT count(*) FROM payment WHERE status = 'succeeded'") == 1, "it was settled"
        )

    assert len(psps.charges()) == 1
    assert len({entry["key"] for entry in psps.requests("stripe", "authorize")}) == 1
    await checked(database, psps)


@pytest.mark.parametrize(("verb", "book"), [("capture", "captures"), ("refund", "refunds")])
async def test_a_follow_up_whose_process_is_killed_is_done_once_and_its_retry_answers_rightly(
    verb: str, book: str, processes: Processes, psps: Psps, database: Database, flow: type[Kit], checked: Checked
) -> None:
    server = processes.server().start()

    async with server.merchant() as merchant:
        method = "manual" if verb == "capture" else "automatic"
        payments = [await merchant.charged(capture_method=method, routing={"account": psp}) for psp in AT_EACH]
        for psp in AT_EACH:
            psps.fault(psp, verb, "latency", latency_ms=1500)
        sends: list[Send] = [
            (f"/v1/payments/{payment['id']}/capture", {"amount": 700}, f"verb-{payment['account']}")
            if verb == "capture"
            else ("/v1/refunds", {"payment": payment["id"], "amount": 700}, f"verb-{payment['account']}")
            for payment in payments
        ]
        await _killed_while_the_psp_answers(server, merchant, psps, verb, sends, flow)

        async def decided(path: str, fields: dict[str, Any], key: str) -> httpx.Response:
            while True:
                answer = await merchant.retried(lambda: merchant.post(path, fields, key=key))
                if answer.status_code != 202:
                    return answer
                await asyncio.sleep(0.1)

        answers = await asyncio.gather(*(decided(*send) for send in sends))
        shown = [await merchant.payment(payment["id"]) for payment in payments]

    assert {answer.status_code for answer in answers} == {200 if verb == "capture" else 201}
    moved = "amount_received" if verb == "capture" else "amount_refunded"
    assert [payment[moved] for payment in shown] == [700, 700]
    for psp in AT_EACH:
        assert [entry["amount"] for entry in psps.books(psp, book)] == [700]
        assert len({entry["key"] for entry in psps.requests(psp, verb)}) == 1
    assert database.value("SELECT count(*) FROM operation WHERE kind = %(kind)s", kind=verb) == 2
    await checked(database, psps)


async def test_a_process_killed_between_two_accounts_leaves_a_payment_that_its_retry_drives_on(
    processes: Processes, psps: Psps, flow: type[Kit], database: Database, checked: Checked
) -> None:
    """The first account has declined, the second one was slow when the process died."""
    psps.fault("adyen", "authorize", "latency", latency_ms=1500)
    for psp in psps.REAL:  # what the process has stored and not applied would wait for a worker, and there is none
        psps.fault(psp, "authorize", "drop_webhook", times=None)
    server = processes.server().start()

    async with server.merchant() as merchant:
        fields = flow.body(payment_method_data=flow.card("4000000000000002"))
        waiting = asyncio.create_task(merchant.post("/v1/payments", fields, key="order-1"))
        await flow.eventually(lambda: len(psps.requests("adyen", "authorize")) == 1, "the second account was asked")
        server.process.kill()
        with contextlib.suppress(httpx.TransportError):
            await waiting
        server.start()
        answer = await merchant.retried(lambda: merchant.post("/v1/payments", fields, key="order-1"))

    assert (answer.status_code, answer.json()["account"], answer.json()["attempt_count"]) == (201, "adyen", 2)
    assert len(psps.charges()) == 1
    assert len(psps.requests("stripe", "authorize")) == 1
    await checked(database, psps)


async def test_postgres_lost_after_the_psp_has_answered_loses_no_charge(
    processes: Processes, psps: Psps, flow: type[Kit], database: Database, checked: Checked
) -> None:
    """Sessions are cut while the call is on its way; the outcome is held until the database takes it."""
    psps.fault("stripe", "authorize", "latency", latency_ms=1000)
    psps.fault("stripe", "authorize", "drop_webhook", times=None)
    server = processes.server().start()

    async with server.merchant() as merchant:
        waiting = asyncio.create_task(merchant.charge(key="order-1"))
        await flow.eventually(lambda: len(psps.requests("stripe", "authorize")) == 1, "the PSP has its request")
        processes.configuration.database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        answer = await waiting
        again = await merchant.charge(key="order-1")

    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert again.content == answer.content
    assert len(psps.charges()) == 1
    await checked(database, psps)


async def test_a_client_that_hangs_up_does_not_end_the_charge(
    open_gateway: Open, psps: Psps, flow: type[Kit], api_port: int, database: Database, checked: Checked
) -> None:
    psps.fault("stripe", "authorize", "latency", latency_ms=800)
    psps.fault("stripe", "authorize", "drop_webhook")

    async with open_gateway(listening=True) as inside:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api_port}", timeout=60) as http:
            waiting = asyncio.create_task(dataclasses.replace(inside.merchant, http=http).charge(key="order-1"))
            await flow.eventually(lambda: len(psps.requests("stripe", "authorize")) == 1, "the PSP has its request")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        again = await inside.merchant.retried(lambda: inside.merchant.charge(key="order-1"))

    assert (again.status_code, again.json()["status"]) == (201, "succeeded")
    assert len(psps.requests("stripe", "authorize")) == 1
    assert len(psps.charges()) == 1
    await checked(database, psps)


async def test_a_process_that_is_told_to_stop_finishes_what_it_has_begun(
    processes: Processes, psps: Psps, flow: type[Kit], database: Database, checked: Checked
) -> None:
    psps.fault("stripe", "authorize", "latency", latency_ms=800)
    psps.fault("stripe", "authorize", "drop_webhook")
    server = processes.server().start()

    async with server.merchant() as merchant:
        waiting = asyncio.create_task(merchant.charge())
        await flow.eventually(lambda: len(psps.requests("stripe", "authorize")) == 1, "the PSP has its request")
        stopping = asyncio.create_task(asyncio.to_thread(server.process.stop))
        answer = await waiting
        await stopping

    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert len(psps.charges()) == 1
    await checked(database, psps)
