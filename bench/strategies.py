"""What a decision costs: every strategy with 4 accounts and 10,000 cells, in one process, without IO.

`python -m bench.strategies`, or `python -m bench.run --only strategies`. Throughput counts CPU time, since others on the machine are no
cost of ours; the percentiles are of wall time, which is what a payment waits, so a busy machine shows in them.
"""

import gc
import random
import time
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routing.strategies import STRATEGIES, Policy, make

ACCOUNTS = ("acme_us", "acme_eu", "bolt_us", "bolt_eu")
CELLS = 10_000
SEGMENTS = CELLS // len(ACCOUNTS)
DECISIONS = 20_000
PASSES = 3
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "weighted": {"weights": dict(zip(ACCOUNTS, (4, 3, 2, 1), strict=True))},
    "least_cost": {"fees": {name: {"fixed": 10 + 5 * i, "basis_points": 100} for i, name in enumerate(ACCOUNTS)}},
}


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU for a ranking and for an update, percentiles of a ranking's wall time, and memory."""

    rank_us: float
    update_us: float
    p50_us: float
    p99_us: float
    mb: float
    """Of everything that the policy keeps for 10,000 cells."""

    @property
    def per_second(self) -> float:
        return 1e6 / self.rank_us


def contexts() -> list[dict[str, str]]:
    return [
        {
            "currency": ("EUR", "USD", "GBP")[i % 3],
            "brand": ("visa", "mastercard")[i % 2],
            "funding": "credit",
            "issuer_country": ("DE", "US", "FR", "GB")[i % 4],
            "bin": str(400_000 + i),
            "initiator": "customer",
            "amount": str(500 + 37 * (i % 400)),
        }
        for i in range(SEGMENTS)
    ]


def filled(name: str, known: list[dict[str, str]]) -> Policy:
    """A policy that has seen every cell four times."""
    policy, rng = make(name, ACCOUNTS, SETTINGS.get(name)), random.Random(7)
    for _ in range(4):
        for context in known:
            for account in ACCOUNTS:
                policy.update(context, account, "approved" if rng.random() < 0.9 else "declined_ambiguous", 0.0)
    return policy


def measure(name: str) -> Cost:
    known = contexts()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    policy = filled(name, known)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    rng = random.Random(11)
    # Each kind of payment once between two outcomes: the dearest case, where nothing that was worked out is of use again.
    rounds = [rng.sample(known, SEGMENTS) for _ in range(DECISIONS // SEGMENTS)]
    ranks, updates = [], []
    walls: list[int] = []
    for _ in range(PASSES):  # the best pass counts: others' noise only ever adds
        spent = 0.0
        for order in rounds:
            started = time.process_time()
            for context in order:
                policy.rank(context, ACCOUNTS, rng, 0.0)
            spent += time.process_time() - started
            policy.update(order[0], ACCOUNTS[0], "approved", 0.0)
        ranks.append(spent)
        started = time.process_time()
        for order in rounds:
            for i, context in enumerate(order):
                policy.update(context, ACCOUNTS[i % 4], "declined_ambiguous" if i % 10 == 0 else "approved", 0.0)
        updates.append(time.process_time() - started)
    for order in rounds:
        for context in order:
            at = time.perf_counter_ns()
            policy.rank(context, ACCOUNTS, rng, 0.0)
            walls.append(time.perf_counter_ns() - at)
        policy.update(order[0], ACCOUNTS[0], "approved", 0.0)
    walls.sort()
    each = 1e6 / DECISIONS
    return Cost(
        min(ranks) * each,
        min(updates) * each,
        walls[DECISIONS // 2] / 1e3,
        walls[DECISIONS * 99 // 100] / 1e3,
        held / 1e6,
    )


def print_table() -> None:
    """Measure every strategy and print a row for each."""
    print(f"\nStrategies: {len(ACCOUNTS)} accounts, {CELLS:,} cells, one core\n")
    print("| strategy | decision, µs CPU | decisions/s | p50, µs | p99, µs | update, µs CPU | memory, MB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in STRATEGIES:
        cost = measure(name)
        print(
            f"| `{name}` | {cost.rank_us:.1f} | {cost.per_second:,.0f} | {cost.p50_us:.0f} | {cost.p99_us:.0f}"
            f" | {cost.update_us:.1f} | {cost.mb:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    print_table()
