"""Whether this process runs, and whether it can serve."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import JSON
from gateway.deps import Deps
from gateway.policies import Stance
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

    def __init__(self, gate: RedisGate, deps: Deps) -> None:
        self._gate = gate
        self._deps = deps

    async def live(self, _: Request) -> Response:
        """The process answers."""
        return Response(orjson.dumps({"status": "ok"}), media_type=JSON)

    async def ready(self, _: Request) -> Response:
        """Postgres answers and is migrated, and its clock and ours agree, as far as the last look at it has told.

        A lost Redis is only reported: reads, and by policy all else, go on without it.
        """
        report = {"postgres": "ok", "migrations": "ok", "redis": "ok" if await self._gate.ping() else "lost"}
        try:
            revision = await self._deps.queries.revision()
        except Exception as error:  # whatever it is, this process cannot serve now
            log.warning("not_ready", error=type(error).__name__)
            report |= {"postgres": "lost", "migrations": "unknown"}
        else:
            if revision is None or revision < HEAD:
                report["migrations"] = f"at {revision}, need {HEAD}: run `gateway migrate`"
        report["clock"], in_time = self._clock()
        ready = report["postgres"] == report["migrations"] == "ok" and in_time
        body = orjson.dumps({"status": "ready" if ready else "not_ready", **report})
        return Response(body, 200 if ready else 503, media_type=JSON)

    def _clock(self) -> tuple[str, bool]:
        """How our clock stands to the database's, and whether that lets us serve."""
        standing = self._deps.standing
        if not standing.clock_wrong:
            return "ok", True
        policy = self._deps.policies["clock_skew"]
        self._deps.instruments.stood_in("clock_skew", policy)
        direction = "ahead of" if standing.skew_s > 0 else "behind"
        return f"{abs(standing.skew_s):.1f} s {direction} the database's", policy == Stance.FAIL_OPEN
