"""A Valkey of this room's own: its tests kill it and hold it still."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.embedded import Valkey
from idempotency.store import RedisGate


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey.start(tmp_path_factory.mktemp("gate")) as running:
        yield running


@pytest.fixture
def redis_server(server: Valkey) -> Iterator[Valkey]:
    """Whatever a test did to it, the next one finds it alive."""
    yield server
    if server.is_alive():
        server.resume()
    else:
        server.restart()


@pytest.fixture
async def gate(redis_server: Valkey) -> AsyncIterator[RedisGate]:
    opened = RedisGate(redis_server.url)
    yield opened
    await opened.aclose()
