"""Equal effort for every algorithm that is compared: the same number of settings, drawn at random, on the same lanes.

For each family the published settings and 15 drawn ones run through the eight pooled scenarios on seeds 1 and 2; the best
four of them on seeds 3 to 6 as well. The best of those by what is captured on all six seeds is kept in `tuned.json`. Every
family may leave out declines that name the customer and use the stale report, if its draw says so. Reported are other seeds.

`python -m bench.routing.tuning` does it again (ten minutes of one core; what is done is kept, and not done again).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.routing.entrants import TUNED, published
from bench.routing.play import Result, figures
from bench.routing.runs import Job, run
from bench.routing.world import POOLED

SETTINGS: Final = 16
BEST: Final = 4
FIRST_SEEDS: Final = (1, 2)
OTHER_SEEDS: Final = (3, 4, 5, 6)

Draw = Callable[[Random], Any]


def log(low: float, high: float, digits: int = 4) -> Draw:
    """Evenly on a logarithmic scale."""
    return lambda rng: round(math.exp(rng.uniform(math.log(low), math.log(high))), digits)


def whole(low: float, high: float) -> Draw:
    """As :func:`log`, in whole numbers."""
    return lambda rng: round(math.exp(rng.uniform(math.log(low), math.log(high))))


def memory(low: float, high: float) -> Draw:
    """A discount, by the number of outcomes that it remembers: 1 / (1 - gamma)."""
    return lambda rng: round(1 - 1 / math.exp(rng.uniform(math.log(low), math.log(high))), 7)


def either(*choices: Any) -> Draw:
    return lambda rng: rng.choice(choices)


KNOWING: Final[Mapping[str, Draw]] = {
    "aware": either(True, True, True, False),
    "prior": lambda rng: 0 if rng.random() < 0.25 else log(5, 1_000, 0)(rng),
    "fades": either(True, False),
}
"""What every family may know beyond its outcomes."""

GRID: Final[Mapping[str, Mapping[str, Draw]]] = {
    "epsilon": {"epsilon": log(0.0005, 0.1), **KNOWING},
    "sw_ucb": {"window": whole(100, 10_000), "bonus": log(0.01, 1), **KNOWING},
    "d_ucb": {"gamma": memory(50, 20_000), "bonus": log(0.01, 2), **KNOWING},
    "thompson": {"scale": log(0.05, 1), **KNOWING},
    "discounted_thompson": {"gamma": memory(50, 20_000), "scale": log(0.05, 1), **KNOWING},
    "sliding_thompson": {"window": whole(100, 10_000), "scale": log(0.05, 1), **KNOWING},
    "global_thompson": {"gamma": memory(50, 50_000), "scale": log(0.05, 1), **KNOWING},
    "blocks": {
        "block": whole(3, 60),
        "blocks": whole(4, 40),
        "blocks_min": whole(1, 5),
        "explore": log(0.002, 0.3),
        **KNOWING,
    },
    "srv3": {
        "bucket": whole(25, 4_000),
        "hedge": log(0.001, 0.1),
        "threshold": either(0.05, 0.1, 0.2, 0.4, 0.6),
        "autopilot": either(True, False, False, False),
        "aware": KNOWING["aware"],
    },
}
"""Family → setting → how it is drawn. SRv3 has no place for a report: its queues start full of approvals."""


def candidates(family: str) -> list[dict[str, Any]]:
    """The published settings, then drawn ones: always the same."""
    rng = Random(f"tuning/{family}")
    drawn = [{name: draw(rng) for name, draw in GRID[family].items()} for _ in range(SETTINGS - 1)]
    return [dict(published(family)), *drawn]


def pooled(results: Sequence[Result]) -> float:
    found = figures(results).pooled
    return found.percent if found else 0.0


def tune(family: str, play: Callable[[Sequence[Job], Sequence[int]], Mapping[str, list[Result]]]) -> dict[str, Any]:
    """The best settings of ``family`` by two rounds of ``play`` (jobs, seeds → results by job)."""
    jobs = [Job(str(n), family, settings, history=True) for n, settings in enumerate(candidates(family))]
    results = {name: list(rows) for name, rows in play(jobs, FIRST_SEEDS).items()}
    best = sorted(jobs, key=lambda job: -pooled(results[job.name]))[:BEST]
    for name, rows in play(best, OTHER_SEEDS).items():
        results[name] += rows
    winner = max(best, key=lambda job: pooled(results[job.name]))
    return {"settings": dict(winner.settings), "pooled_on_tuning_seeds": round(pooled(results[winner.name]), 1)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.routing.tuning", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(GRID), default=list(GRID), help="families (default: all)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--keep", type=Path, help="a file of results: what is there is not played again")
    chosen = parser.parse_args(argv)

    def play(jobs: Sequence[Job], seeds: Sequence[int]) -> Mapping[str, list[Result]]:
        lanes = [(scenario, seed) for seed in seeds for scenario in POOLED]
        return run(lanes, jobs, processes=chosen.processes, keep=chosen.keep)

    known = json.loads(TUNED.read_text(encoding="utf-8")) if TUNED.exists() else {}
    for family in chosen.only:
        print(family, file=sys.stderr)
        known[family] = partial(tune, family)(play)
        TUNED.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
