"""Whether this process runs, and whether it can serve."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import JSON
from gateway.queries import Queries
from idempotency.store import RedisGate

log = structlog.get_logger()

HEAD: Final = max(
    entry.name.partition("_")[0]
    for entry in (files("gateway") / "migrations" / "versions").iterdir()
    if entry.name.endswith(".py")
)
"""The newest migration this code was written for; their names are numbered."""


class Health:
    """``/healthz`` and ``/readyz``."""

    def __init__(self, queries: Queries, gate: RedisGate) -> None:
        self._queries = queries
        self._gate = gate

    async def live(self, _: Request) -> Response:
        """The process answers."""
        return Response(orjson.dumps({"status": "ok"}), media_type=JSON)

    async def ready(self, _: Request) -> Response:
        """Postgres answers and is migrated. A lost Redis is only reported: reads, and by policy all else, go on without it."""
        report = {"postgres": "ok", "migrations": "ok", "redis": "ok" if await self._gate.ping() else "lost"}
        try:
            revision = await self._queries.revision()
        except Exception as error:  # whatever it is, this process cannot serve now
            log.warning("not_ready", error=type(error).__name__)
            report |= {"postgres": "lost", "migrations": "unknown"}
        else:
            if revision is None or revision < HEAD:
                report["migrations"] = f"at {revision}, need {HEAD}: run `gateway migrate`"
        ready = report["postgres"] == report["migrations"] == "ok"
        body = orjson.dumps({"status": "ready" if ready else "not_ready", **report})
        return Response(body, 200 if ready else 503, media_type=JSON)
