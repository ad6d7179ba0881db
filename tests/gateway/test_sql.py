"""The connections to Postgres: what a lost, a frozen or a full server is to us, and that none is lost with it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from gateway.embedded import SUPERUSER, Postgres
from gateway.sql import COMMAND_TIMEOUT_S, POOL_MAX, DatabaseAway, InDoubt, Pool, connect
from providers.registry import ConfigError


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres.start(tmp_path_factory.mktemp("frozen"), fsync=False) as running:
        yield running


@pytest.fixture
async def pool(server: Postgres) -> AsyncIterator[Pool]:
    opened = await connect(server.create_database("connections"))
    yield opened
    opened.close()


async def test_a_frozen_server_leaves_the_statement_in_doubt_and_the_pool_usable(pool: Pool) -> None:
    frozen = await pool.fetchval("SELECT pg_backend_pid()")
    os.kill(frozen, signal.SIGSTOP)
    try:
        with pytest.raises(InDoubt):
            await pool.fetch("SELECT 1")
    finally:
        os.kill(frozen, signal.SIGCONT)

    assert await pool.fetchval("SELECT 1") == 1


async def test_a_server_that_is_gone_is_in_doubt_or_away_and_found_again(server: Postgres, pool: Pool) -> None:
    await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.05)") for _ in range(POOL_MAX)))
    server.kill()
    for _ in range(2 * POOL_MAX):
        with pytest.raises((InDoubt, DatabaseAway)):
            await pool.fetch("SELECT 1")

    server.restart()

    assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(2 * POOL_MAX))) == [1] * 2 * POOL_MAX


async def test_a_cancelled_caller_takes_no_connection_with_it(pool: Pool) -> None:
    waiting = [asyncio.create_task(pool.fetch("SELECT pg_sleep(60)")) for _ in range(3 * POOL_MAX)]
    await asyncio.sleep(0.2)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(2 * POOL_MAX))) == [1] * 2 * POOL_MAX


async def test_a_wrong_statement_is_our_fault_and_costs_no_connection(pool: Pool) -> None:
    process = await pool.fetchval("SELECT pg_backend_pid()")

    with pytest.raises(Exception, match="division by zero"):
        await pool.fetch("SELECT 1 / 0")

    assert await pool.fetchval("SELECT pg_backend_pid()") == process


async def test_a_server_that_only_reads_has_written_nothing(server: Postgres) -> None:
    url = server.create_database("standby")
    with psycopg.connect(server.url("standby", role=SUPERUSER), autocommit=True) as admin:
        admin.execute(b"ALTER DATABASE standby SET default_transaction_read_only = on")
    pool = await connect(url)

    with pytest.raises(DatabaseAway, match="ReadOnlySQLTransactionError"):
        await pool.fetch("CREATE TABLE refused (id int)")

    pool.close()


@pytest.mark.parametrize("frozen", [False, True], ids=["at work", "frozen"])
async def test_a_pool_is_closed_at_once_though_a_statement_is_on_its_way(pool: Pool, *, frozen: bool) -> None:
    process = await pool.fetchval("SELECT pg_backend_pid()")
    waiting = asyncio.create_task(pool.fetch("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.2)
    if frozen:
        os.kill(process, signal.SIGSTOP)
    try:
        pool.close()

        with pytest.raises(InDoubt):
            await asyncio.wait_for(waiting, COMMAND_TIMEOUT_S - 1)  # sooner than it would give up by itself
        with pytest.raises(DatabaseAway):
            await pool.fetch("SELECT 1")
    finally:
        if frozen:
            os.kill(process, signal.SIGCONT)


async def test_a_server_that_does_not_let_us_in_is_named(server: Postgres) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_DATABASE_URL: the database cannot be reached"):
        await connect(server.url("no_such_database"))
