"""Simulations: the real gateway and the real Postgres under a seeded scheduler, with virtual time and simulated PSPs and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.simulation.postgres import Stage


@pytest.fixture(scope="session")
def stage(databases: Any) -> Iterator[Stage]:
    """One migrated database for all simulations; each empties it."""
    from tests.simulation.postgres import Stage

    name, database = databases.create()
    opened = Stage(database.url, database.admin_url)
    yield opened
    opened.close()
    databases.server.drop_database(name)
