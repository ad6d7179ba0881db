"""Many strategies through many lanes: in one process or two, with progress, and going on where a run was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from bench.routing.entrants import entrant
from bench.routing.play import Result, measure, record
from bench.routing.world import PAYMENTS, SCENARIOS, draw

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Job:
    """One strategy to be measured: a name for the table, whose code, and settings that replace or add to the row's."""

    name: str
    entrant: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: bool | None = None
    """Whether it gets the stale report; ``None``: as its row says."""


Lane = tuple[str, int]
"""Scenario and seed."""


@cache
def revision(*, ours: bool) -> str:
    """A digest of the code that a result depends on: kept ones of other code are not used."""
    files = [Path(__file__).with_name(name) for name in ("world.py", "play.py", "rivals.py")]
    files += sorted((ROOT / "routing").rglob("strategies/**/*.py")) if ours else []
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def run(
    lanes: Sequence[Lane],
    jobs: Sequence[Job],
    *,
    payments: int = PAYMENTS,
    cascade: bool = False,
    processes: int = 1,
    keep: Path | None = None,
) -> dict[str, list[Result]]:
    """Every job through every lane; results by the job's name. Progress goes to standard error.

    ``keep``: a file of lines to which every result is added; what it already holds of the same code is not played again.
    """
    kept = _kept(keep)
    found: dict[tuple[str, Lane], Result] = {}
    work: list[tuple[Lane, list[Job]]] = []
    for lane in lanes:
        missing = []
        for job in jobs:
            old = kept.get(_key(job, lane, payments, cascade=cascade))
            if old is None or ":" in job.entrant:  # the code of a class from elsewhere is not known here
                missing.append(job)
            else:
                found[job.name, lane] = old
        if missing:
            work.append((lane, missing))
    with (keep or Path(os.devnull)).open("a", encoding="utf-8") as file:
        for lane, rows in _progress(_played(work, payments, cascade=cascade, processes=processes), len(work)):
            for job, result in rows:
                found[job.name, lane] = result
                file.write(json.dumps({"key": _key(job, lane, payments, cascade=cascade), **record(result)}) + "\n")
            file.flush()
    return {job.name: [found[job.name, lane] for lane in lanes] for job in jobs}


def run_lane(
    work: tuple[Lane, Sequence[Job]], *, payments: int, cascade: bool
) -> tuple[Lane, list[tuple[Job, Result]]]:
    """Some jobs through one lane. A process of its own may do this."""
    (scenario, seed), jobs = work
    drawn = draw(SCENARIOS[scenario], seed, payments)
    return work[0], [
        (job, measure(drawn, entrant(job.entrant).maker(job.settings, history=job.history), cascade=cascade))
        for job in jobs
    ]


Played = Iterator[tuple[Lane, list[tuple[Job, Result]]]]


def _played(work: Sequence[tuple[Lane, list[Job]]], payments: int, *, cascade: bool, processes: int) -> Played:
    play = partial(run_lane, payments=payments, cascade=cascade)
    if processes == 1:
        yield from map(play, work)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(play, work)


def _progress(played: Played, count: int) -> Played:
    started = time.monotonic()
    for number, done in enumerate(played, 1):
        yield done
        seconds = time.monotonic() - started
        left = seconds / number * (count - number)
        print(f"\r{number}/{count} lanes, {seconds:.0f} s, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    if count:
        print(file=sys.stderr)


def _key(job: Job, lane: Lane, payments: int, *, cascade: bool) -> str:
    row = entrant(job.entrant)
    history = row.history if job.history is None else job.history
    settings = {**row.settings, **job.settings}
    said = [revision(ours=row.ours), job.entrant.removesuffix("_tuned"), settings, history, *lane, payments, cascade]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def _kept(keep: Path | None) -> dict[str, Result]:
    if keep is None or not keep.exists():
        return {}
    rows = [json.loads(line) for line in keep.read_text(encoding="utf-8").splitlines()]
    return {row.pop("key"): Result(**row) for row in rows}
