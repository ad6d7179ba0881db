"""The worker goes on whatever happens to the database under it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gateway.embedded import SUPERUSER

if TYPE_CHECKING:
    from tests.conftest import Database, Databases, Kit, Processes, Psps


async def test_a_worker_that_loses_its_database_works_on_when_it_is_back(
    processes: Processes, psps: Psps, database: Database, databases: Databases, flow: type[Kit]
) -> None:
    """Its sessions are ended and new ones refused, as in a restart: what is open is settled after that all the same."""
    psps.fault("stripe", "authorize", "drop_webhook", times=None)
    server, worker = processes.server().start(), processes.worker()
    await flow.eventually(lambda: "worker_started" in worker.printed, "the worker has started")

    name, administration = (
        database.value("SELECT current_database()"),
        dataclasses.replace(database, admin_url=databases.server.url("postgres", role=SUPERUSER)),
    )
    administration.rows(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    administration.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s", name=name)
    await flow.eventually(lambda: "worker_interrupted" in worker.printed, "the worker has noticed")
    administration.rows(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    async with server.merchant() as merchant:
        psps.fault("stripe", "authorize", "garbage")
        answer = await merchant.retried(lambda: merchant.charge(key="order-1"))
        await flow.eventually(
            lambda: database.value("SELECT count(*) FROM change WHERE source = 'sweep'") == 1, "it was settled"
        )

    assert answer.status_code == 202
    assert worker.is_alive()
