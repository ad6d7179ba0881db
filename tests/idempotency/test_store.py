"""The gate on a real Redis-protocol server: who holds it, and what its loss costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from redis.asyncio import Redis

from gateway.embedded import Valkey
from idempotency.key import Key
from idempotency.once import GateClosed, GatePolicy, Once
from idempotency.store import GATE_MS, SKIP_S, Gate, RedisGate

KEY: Final = Key("mer_1", livemode=False, text="order-1")
MANY: Final = 240
"""So many that each waiting for a time-out of its own would take a minute."""
PATIENCE_S: Final = 30.0


@pytest.fixture
async def redis(redis_server: Valkey) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_server.url)
    await client.flushall()
    yield client
    await client.aclose()


async def test_of_many_at_once_one_takes_the_gate(gate: RedisGate, redis: Redis) -> None:
    answers = await asyncio.gather(*(gate.take("slot") for _ in range(100)))

    assert [state for state, _ in answers].count(Gate.TAKEN) == 1
    assert [state for state, _ in answers].count(Gate.HELD) == 99


async def test_of_two_processes_one_takes_the_gate(gate: RedisGate, redis: Redis, redis_server: Valkey) -> None:
    other = RedisGate(redis_server.url)

    answers = await asyncio.gather(*(one.take(f"slot_{n}") for n in range(20) for one in (gate, other)))
    await other.aclose()

    assert [state for state, _ in answers].count(Gate.TAKEN) == 20


async def test_each_slot_is_a_gate_of_its_own(gate: RedisGate, redis: Redis) -> None:
    answers = await asyncio.gather(*(gate.take(f"slot_{n}") for n in range(50)))

    assert {state for state, _ in answers} == {Gate.TAKEN}
    assert len({token for _, token in answers}) == 50


async def test_a_gate_that_was_let_go_is_taken_again(gate: RedisGate, redis: Redis) -> None:
    _, token = await gate.take("slot")

    await gate.release("slot", token)

    assert (await gate.take("slot"))[0] is Gate.TAKEN


async def test_letting_go_never_opens_the_gate_of_whoever_took_it_after_us(gate: RedisGate, redis: Redis) -> None:
    _, ours = await gate.take("slot")
    await redis.delete("slot")  # ours ran out
    _, theirs = await gate.take("slot")

    await gate.release("slot", ours)

    assert await redis.get("slot") == theirs.encode()


async def test_a_gate_opens_by_itself_after_its_holder_died(gate: RedisGate, redis: Redis) -> None:
    await gate.take("slot")

    left = await redis.pttl("slot")

    assert 0 < left <= GATE_MS


async def test_a_flushed_redis_opens_the_gate_and_nothing_breaks(gate: RedisGate, redis: Redis) -> None:
    _, token = await gate.take("slot")
    await redis.flushall()

    await gate.release("slot", token)

    assert (await gate.take("slot"))[0] is Gate.TAKEN


# --- Redis is lost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_lost_redis_is_noticed_and_then_left_alone(gate: RedisGate, redis_server: Valkey, how: str) -> None:
    await gate.take("warm")
    getattr(redis_server, how)()

    async with asyncio.timeout(PATIENCE_S):  # each waiting for its own time-out would take much longer
        answers = [await gate.take(f"slot_{n}") for n in range(MANY)]

    assert {state for state, _ in answers} == {Gate.UNAVAILABLE}


async def test_a_redis_that_never_was_is_unavailable_and_raises_nothing() -> None:
    gate = RedisGate("redis://127.0.0.1:1/0")

    assert (await gate.take("slot"))[0] is Gate.UNAVAILABLE
    await gate.release("slot", "token")
    assert await gate.ping() is False
    await gate.aclose()


async def test_many_that_ask_while_redis_hangs_wait_once_and_not_one_after_the_other(
    gate: RedisGate, redis_server: Valkey
) -> None:
    redis_server.pause()

    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(*(gate.take(f"slot_{n}") for n in range(MANY)))

    assert {state for state, _ in answers} == {Gate.UNAVAILABLE}


@asynccontextmanager
async def babbler(at: str) -> AsyncIterator[tuple[RedisGate, asyncio.Event]]:
    """A gate whose server answers every command ``at`` with what no client can read; and when it was asked."""
    asked, ended, word = asyncio.Event(), asyncio.Event(), f"\r\n{at}\r\n".encode()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while heard := await reader.read(4096):
            if word not in heard:  # what a client says of itself first
                writer.write(b"+OK\r\n")
                continue
            asked.set()
            await asyncio.sleep(0.05)
            writer.write(b"-MOVED\r\n" * heard.count(word))
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    gate = RedisGate(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield gate, asked
    finally:
        await gate.aclose()
        server.close()
        await ended.wait()


async def test_an_answer_that_cannot_be_read_leaves_nobody_waiting() -> None:
    """Who asks while the question is out waits for the next one, whatever becomes of this one."""
    async with babbler("SET") as (gate, asked):
        first = asyncio.create_task(gate.take("slot_1"))
        await asked.wait()
        answers = await asyncio.gather(first, gate.take("slot_2"))

    assert [state for state, _ in answers] == [Gate.UNAVAILABLE] * 2


async def test_an_answer_to_letting_go_that_cannot_be_read_raises_nothing() -> None:
    async with babbler("EVALSHA") as (gate, asked):
        await gate.release("slot", "token")
        state, _ = await gate.take("slot")

    assert asked.is_set()
    assert state is Gate.UNAVAILABLE


async def test_an_answer_to_a_ping_that_cannot_be_read_is_none() -> None:
    async with babbler("PING") as (gate, asked):
        assert await gate.ping() is False

    assert asked.is_set()


async def test_letting_go_while_redis_is_lost_raises_nothing(gate: RedisGate, redis_server: Valkey) -> None:
    _, token = await gate.take("slot")
    redis_server.kill()

    await gate.release("slot", token)

    assert (await gate.take("slot"))[0] is Gate.UNAVAILABLE
    assert await gate.ping() is False


async def test_a_redis_that_came_back_is_asked_again(gate: RedisGate, redis_server: Valkey) -> None:
    redis_server.kill()
    await gate.take("slot")
    redis_server.restart()

    async with asyncio.timeout(PATIENCE_S):
        state = Gate.UNAVAILABLE
        while state is Gate.UNAVAILABLE:
            await asyncio.sleep(SKIP_S / 10)
            state, _ = await gate.take("back")

    assert await gate.ping() is True


# --- Once -------------------------------------------------------------------------------------------------------------


async def test_a_second_claim_on_a_key_is_told_to_look_first(gate: RedisGate, redis: Redis) -> None:
    once = Once(gate, GatePolicy.FAIL_OPEN, lambda policy: None)

    first, second = await once.claim(KEY), await once.claim(KEY)

    assert (first.fresh, second.fresh) == (True, False)


async def test_an_undecided_claim_lets_the_next_one_in_and_a_decided_one_stays_shut(
    gate: RedisGate, redis: Redis
) -> None:
    once = Once(gate, GatePolicy.FAIL_OPEN, lambda policy: None)
    await (await once.claim(KEY)).let_go(decided=False)
    again = await once.claim(KEY)

    await again.let_go(decided=True)

    assert again.fresh
    assert not (await once.claim(KEY)).fresh


async def test_whoever_only_looked_does_not_open_the_gate_of_who_is_at_work(gate: RedisGate, redis: Redis) -> None:
    once = Once(gate, GatePolicy.FAIL_OPEN, lambda policy: None)
    await once.claim(KEY)

    await (await once.claim(KEY)).let_go(decided=False)

    assert not (await once.claim(KEY)).fresh


async def test_without_redis_a_claim_goes_on_with_postgres_alone_and_that_is_counted() -> None:
    gate, applied = RedisGate("redis://127.0.0.1:1/0"), list[GatePolicy]()
    once = Once(gate, GatePolicy.FAIL_OPEN, applied.append)

    claim = await once.claim(KEY)
    await claim.let_go(decided=False)
    await gate.aclose()

    assert claim.fresh
    assert applied == [GatePolicy.FAIL_OPEN]


async def test_without_redis_a_claim_is_refused_where_the_house_prefers_that() -> None:
    gate, applied = RedisGate("redis://127.0.0.1:1/0"), list[GatePolicy]()
    once = Once(gate, GatePolicy.FAIL_CLOSED, applied.append)

    with pytest.raises(GateClosed):
        await once.claim(KEY)
    await gate.aclose()

    assert applied == [GatePolicy.FAIL_CLOSED]
