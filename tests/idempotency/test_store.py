"""The gate on a real Redis-protocol server: who holds it, and what its loss costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest
from redis.asyncio import Redis

from gateway.embedded import Valkey
from idempotency.key import Key
from idempotency.once import GateClosed, GatePolicy, Once
from idempotency.store import GATE_MS, SKIP_S, SOCKET_TIMEOUT_S, Gate, RedisGate

KEY: Final = Key("mer_1", livemode=False, text="order-1")
MARGIN_S: Final = 0.25
"""What two busy cores may add."""


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
async def test_a_lost_redis_is_noticed_within_its_time_limit_and_then_left_alone(
    gate: RedisGate, redis_server: Valkey, how: str
) -> None:
    await gate.take("warm")
    getattr(redis_server, how)()

    started = time.monotonic()
    first, _ = await gate.take("slot")
    noticed = time.monotonic() - started
    started = time.monotonic()
    answers = await asyncio.gather(*(gate.take(f"slot_{n}") for n in range(200)))
    skipped = time.monotonic() - started

    assert first is Gate.UNAVAILABLE
    assert noticed < SOCKET_TIMEOUT_S + MARGIN_S
    assert {state for state, _ in answers} == {Gate.UNAVAILABLE}
    assert skipped < MARGIN_S


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

    started = time.monotonic()
    answers = await asyncio.gather(*(gate.take(f"slot_{n}") for n in range(300)))
    waited = time.monotonic() - started

    assert {state for state, _ in answers} == {Gate.UNAVAILABLE}
    assert waited < 2 * SOCKET_TIMEOUT_S + MARGIN_S


async def test_letting_go_while_redis_is_lost_raises_nothing(gate: RedisGate, redis_server: Valkey) -> None:
    _, token = await gate.take("slot")
    redis_server.kill()

    await gate.release("slot", token)

    assert (await gate.take("slot"))[0] is Gate.UNAVAILABLE
    assert await gate.ping() is False


async def test_a_redis_that_came_back_is_asked_again_after_a_second(gate: RedisGate, redis_server: Valkey) -> None:
    redis_server.kill()
    await gate.take("slot")
    redis_server.restart()
    assert (await gate.take("slot"))[0] is Gate.UNAVAILABLE

    await asyncio.sleep(SKIP_S)

    assert (await gate.take("back"))[0] is Gate.TAKEN
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
