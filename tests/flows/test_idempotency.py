"""One key, one charge: whoever asks, how often and where."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Final

import aiohttp

from gateway.sweep import sweep

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Open, Processes, Psps

KEYS: Final = 200
CLIENTS: Final = 50
AT_ONCE: Final = 10
"""Keys in flight at the same time: 500 open requests keep two API processes busy without drowning the test itself."""


async def test_fifty_clients_at_two_processes_under_one_key_make_one_charge(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    servers = [processes.server(), processes.server()]
    for server in servers:
        server.process.start()
    for server in servers:
        server.wait_until_ready()
    slots = asyncio.Semaphore(AT_ONCE)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(number: int, key: str) -> tuple[int, bytes]:
            """One that keeps asking: now at this process, now at the other."""
            headers = {"Authorization": "Bearer sk_test_dev", "Idempotency-Key": key}
            for attempt in range(1_000):
                url = f"{servers[(number + attempt) % 2].url}/v1/payments"
                async with session.post(url, json=flow.body(reference=key), headers=headers) as answer:
                    said = await answer.read()
                    if answer.status != 409:
                        return answer.status, said
                await asyncio.sleep(random.uniform(0.05, 0.25))
            raise AssertionError(f"{key} is in progress for ever")

        async def key_of(number: int) -> set[tuple[int, bytes]]:
            async with slots:
                return set(await asyncio.gather(*(client(each, f"order-{number}") for each in range(CLIENTS))))

        answers = await asyncio.gather(*(key_of(number) for number in range(KEYS)))

    assert [said for said in answers if len(said) > 1] == []
    assert {status for said in answers for status, _ in said} == {201}
    assert database.value("SELECT count(*) FROM payment WHERE status = 'succeeded'") == KEYS
    assert database.value("SELECT count(*) FROM operation") == KEYS
    assert len(psps.charges()) == KEYS
    assert len({charge["payment"] for charge in psps.charges()}) == KEYS


async def test_a_replay_is_the_same_answer_byte_for_byte(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as inside:
        first = await inside.merchant.charge(key="order-1")
        replays = [await inside.merchant.charge(key="order-1") for _ in range(3)]

    assert "Idempotent-Replayed" not in first.headers
    assert {(answer.status_code, answer.content) for answer in replays} == {(201, first.content)}
    assert {answer.headers["Idempotent-Replayed"] for answer in replays} == {"true"}
    assert {answer.headers["Content-Type"] for answer in [first, *replays]} == {"application/json"}
    assert len(psps.charges()) == 1


async def test_a_decline_is_replayed_as_it_was_and_the_card_is_not_asked_again(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    method = flow.card("4000000000009987")

    async with open_gateway() as inside:
        first = await inside.merchant.charge(key="order-1", payment_method_data=method)
        again = await inside.merchant.charge(key="order-1", payment_method_data=method)

    assert (again.status_code, again.content) == (402, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(psps.requests("stripe", "authorize")) == 1


async def test_a_replay_stays_the_same_after_the_payment_has_changed(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        first = await inside.merchant.charge(key="order-1")
        await inside.merchant.post("/v1/refunds", {"payment": first.json()["id"]})
        again = await inside.merchant.charge(key="order-1")

    assert again.content == first.content


async def test_the_order_of_fields_and_white_space_do_not_make_another_request(
    open_gateway: Open, flow: type[Kit]
) -> None:
    fields = flow.body()
    turned = (
        b"{ "
        + b" , ".join(b'"%s" : %s' % (name.encode(), json.dumps(fields[name]).encode()) for name in reversed(fields))
        + b" }"
    )

    async with open_gateway() as inside:
        first = await inside.merchant.post("/v1/payments", fields, key="order-1")
        again = await inside.merchant.post("/v1/payments", turned, key='"order-1"')

    assert (again.status_code, again.content) == (201, first.content)


async def test_the_same_key_for_another_request_is_refused(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as inside:
        first = await inside.merchant.charge(key="order-1")
        more = await inside.merchant.charge(key="order-1", amount=2000)
        verb = await inside.merchant.post("/v1/refunds", {"payment": first.json()["id"]}, key="order-1")

    for refused in (more, verb):
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
        assert first.json()["id"] not in refused.text
    assert len(psps.charges()) == 1
    assert psps.books("stripe", "refunds") == []


async def test_a_duplicate_while_the_first_is_on_its_way_is_told_to_come_again(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    psps.fault("stripe", "authorize", "latency", latency_ms=700)

    async with open_gateway() as inside:
        first = asyncio.create_task(inside.merchant.charge(key="order-1"))
        await flow.eventually(lambda: bool(psps.requests("stripe", "authorize")), "the PSP has its request")
        meanwhile = await inside.merchant.charge(key="order-1")
        answer = await first
        again = await inside.merchant.charge(key="order-1")

    assert (meanwhile.status_code, meanwhile.json()["code"]) == (409, "request_in_progress")
    assert meanwhile.json()["retryable"] is True
    assert meanwhile.headers["Retry-After"]
    assert (answer.status_code, again.content) == (201, answer.content)


async def test_every_verb_is_done_once_under_its_key(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        payment = await merchant.charged(capture_method="manual")
        other = await merchant.charged(capture_method="manual")
        captures = [
            await merchant.retried(lambda: merchant.post(f"/v1/payments/{payment['id']}/capture", {}, key="c"))
            for _ in range(3)
        ]
        refunds = [
            await merchant.retried(
                lambda: merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 500}, key="r")
            )
            for _ in range(3)
        ]
        cancels = [
            await merchant.retried(lambda: merchant.post(f"/v1/payments/{other['id']}/cancel", {}, key="v"))
            for _ in range(3)
        ]

    for answers in (captures, refunds, cancels):
        assert len({(answer.status_code, answer.content) for answer in answers}) == 1
        assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", "true"]
    assert [len(psps.books("stripe", book)) for book in ("captures", "refunds", "voids")] == [1, 1, 1]


async def test_different_requests_that_race_under_one_key_make_one_charge(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as one, open_gateway() as other:
        racing = [
            inside.merchant.retried(
                lambda inside=inside, amount=amount: inside.merchant.charge(key="order-1", amount=amount)  # type: ignore[misc]  # bound now
            )
            for inside in (one, other)
            for amount in range(1000, 1005)
        ]
        answers = await asyncio.gather(*racing)

    charged = {answer.json()["amount"] for answer in answers if answer.status_code == 201}
    refused = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert len(charged) == 1
    assert refused == {"idempotency_key_reused"}
    assert [charge["amount"] for charge in psps.charges()] == list(charged)


async def test_two_workers_that_find_the_same_operation_send_it_once(open_gateway: Open, psps: Psps) -> None:
    psps.fault("stripe", "authorize", "garbage")
    psps.fault("stripe", "authorize", "drop_webhook")

    async with open_gateway() as one, open_gateway() as other:
        await one.merchant.charge()
        before = len(psps.requests("stripe", "authorize"))
        psps.fault("stripe", "authorize", "latency", latency_ms=300)
        one.database.let_time_pass()
        await asyncio.gather(*(sweep(inside.house.deps) for inside in (one, other) * 3))

    assert len(psps.requests("stripe", "authorize")) == before + 1
    assert len(psps.charges()) == 1
