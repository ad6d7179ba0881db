"""The guard: the promises about payments, checked again and again on what was made lately, in a process of its own.

A worker starts it every few minutes (:func:`guard`) and tells Prometheus what it found; it reads only, stands back behind those that
serve payments, and its death harms nobody. What is older, and what the providers' books say, is for ``gateway verify``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
import structlog

from gateway.invariants import INVARIANTS, Report, check_invariants
from gateway.metrics.work import WorkInstruments
from gateway.settings import Settings, load_settings
from gateway.vault import Keyring
from gateway.verify import reading
from providers.registry import ConfigError

WINDOW: Final = timedelta(minutes=15)
"""Payments that were made within it are checked: each about three times."""
LASTS_S: Final = 240.0
"""A check that takes longer is ended: another one is due."""
NICENESS: Final = 10
LINE_MAX: Final = 1 << 20

log = structlog.get_logger()


async def guard(instruments: WorkInstruments, environment: dict[str, str] | None = None) -> bool:
    """Check once, in a process of its own, and tell what was found. Whether it came to its end.

    ``environment`` is what that process is told, if not what this one was. May be called at any time; it changes nothing but the
    instruments.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "gateway.guard", stdout=asyncio.subprocess.PIPE, limit=LINE_MAX, env=environment
    )
    assert process.stdout is not None  # noqa: S101  # asked for above
    try:
        async with asyncio.timeout(LASTS_S):
            line = await process.stdout.readline()
    except TimeoutError:
        line = b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if not line:
        log.error("guard_failed")
        return False
    tell(orjson.loads(line), instruments)
    return True


def tell(found: dict[str, Any], instruments: WorkInstruments) -> None:
    """Set the instruments to what a check has found, and log each promise that is broken."""
    broken = found["broken"]
    for each in INVARIANTS:
        instruments.violations.labels(each.name).set(broken.get(each.name, 0))
    for name, times in broken.items():
        log.error("invariant_broken", invariant=name, times=times)
    instruments.checked_at.set(found["at"])
    instruments.check_seconds.set(found["seconds"])


async def _checked(settings: Settings) -> Report:
    async with reading(settings.database_url.get_secret_value()) as db:
        return await check_invariants(
            db,
            at_rest=False,
            keyring=Keyring.derive(settings.secret_key.get_secret_value()),
            since=datetime.now(UTC) - WINDOW,
        )


def main() -> int:
    """Check once as the environment says, and print what was found as one line of JSON. The exit code: 1 where it could not be checked."""
    os.nice(NICENESS)
    began = time.monotonic()
    try:
        report = asyncio.run(_checked(load_settings()))
    except ConfigError as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 1
    found = {"broken": dict(report.broken), "at": time.time(), "seconds": time.monotonic() - began}
    sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
