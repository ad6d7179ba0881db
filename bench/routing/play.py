"""One strategy through one lane, and what came of it.

The strategy is handed contexts, the accounts that may be chosen, a die of its own, the time, and outcomes once they are
known. It never holds the lane. What it chose is counted afterwards, against the true rates.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Final, Protocol, runtime_checkable

from bench.routing.world import CALM, DELAY_PAYMENTS, POOLED, REPEATS, Lane

DEAD_WINDOW: Final = 40
DEAD_SHARE: Final = 0.1
BLOCK: Final = 200
RETRYABLE: Final = frozenset({"technical", "declined_provider", "declined_ambiguous"})


class Policy(Protocol):
    """What is measured: the interface of `routing.strategies`."""

    def rank(
        self, context: Mapping[str, str], candidates: Sequence[str], rng: Random, now: float
    ) -> list[tuple[str, float, float]]:
        """(account, score, propensity) of every candidate, best first. ``now`` in seconds."""

    def update(self, context: Mapping[str, str], account: str, outcome: str, now: float) -> None:
        """``account`` has answered ``outcome``."""


@runtime_checkable
class Opening(Protocol):
    """A policy with breakers may say how often one has opened so far, at any level."""

    @property
    def openings(self) -> int: ...


class Explained(Protocol):
    """What `explain` answers, as far as it counts here."""

    @property
    def breaker(self) -> str: ...


@runtime_checkable
class Explaining(Protocol):
    """A policy that says of each account whether its breaker is ``closed``."""

    def explain(self, context: Mapping[str, str], account: str, now: float) -> Explained: ...


NOWHERE: Final[Mapping[str, str]] = {"currency": "XTS", "bin": "999999"}
"""A context that no payment has: a breaker that is open there is the account's, not a segment's."""


class Watch:
    """Counts how often breakers open, by asking after every outcome: an account's once, a segment's where its account's is closed."""

    def __init__(self, policy: Explaining) -> None:
        self.explain = policy.explain
        self.openings = 0
        self.open: set[tuple[str, ...]] = set()

    def told(self, context: Mapping[str, str], account: str, now: float) -> None:
        """An outcome of ``account`` has just been learned."""
        if self._turned((account,), NOWHERE, account, now):
            return
        self._turned((account, context["bin"]), context, account, now)

    def _turned(self, key: tuple[str, ...], context: Mapping[str, str], account: str, now: float) -> bool:
        """Whether it is open. Counts it where it was not."""
        if self.explain(context, account, now).breaker == "closed":
            self.open.discard(key)
            return False
        self.openings += key not in self.open
        self.open.add(key)
        return True


Maker = Callable[[Lane], Policy]
"""Makes a fresh policy for a lane: from its accounts in their static order, and its stale report where it can use one."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one strategy did in one lane. Sums of true probabilities, in approvals."""

    scenario: str
    seed: int
    payments: int
    got: float
    static: float
    oracle: float
    lost: float
    """In an outage: approvals lost against the oracle while the first account of ``incidents`` was dead."""
    dead: int
    """In an outage: payments sent to the dead account until its share of the last 40 fell under 10 %."""
    switches: int
    """Blocks of 200 payments of a segment whose most used account is not that of the block before."""
    blocks: int
    openings: int | None
    """How often breakers opened; ``None``: the policy does not say, or was not asked."""
    fees: float
    """Paid for approved payments, in minor units; expected, as approvals are."""
    attempts: int
    """Second attempts; 0 where there is no cascade."""
    recovered: int
    us: float | None
    """Microseconds per payment: one ranking and one update. ``None`` where its breakers were asked for, too."""
    spent_s: float
    """CPU time of all of it."""

    @property
    def gain(self) -> float:
        return self.got - self.static

    @property
    def gap(self) -> float:
        return self.oracle - self.static


def play(
    lane: Lane, policy: Policy, *, cascade: bool = False, watch: Watch | None = None
) -> tuple[list[int], int, int]:
    """The account (by number) chosen for each payment, second attempts, and approvals recovered by them."""
    rng = Random(f"policy/{lane.scenario.name}/{lane.seed}")
    number = {account: k for k, account in enumerate(lane.accounts)}
    chosen: list[int] = []
    waiting: list[tuple[float, int, int, Mapping[str, str], str, str]] = []
    candidates: tuple[str, ...] = ()
    contexts, segment, moments, dues = lane.contexts, lane.segment, lane.at, lane.due
    rank, update, outcome_of = policy.rank, policy.update, lane.outcome
    attempts = recovered = 0
    for i, now in enumerate(moments):
        candidates = lane.opens.get(i, candidates)
        clock = now if dues else float(i)
        while waiting and waiting[0][0] <= clock:
            _, _, _, known, account, outcome = heapq.heappop(waiting)
            update(known, account, outcome, now)
            if watch:
                watch.told(known, account, now)
        context = contexts[segment[i]]
        ranked = rank(context, candidates, rng, now)
        account = ranked[0][0]
        k = number[account]
        chosen.append(k)
        outcome = outcome_of(i, k)
        due = dues[i] if dues else float(i + DELAY_PAYMENTS)
        heapq.heappush(waiting, (clock if outcome == "technical" else due, i, 0, context, account, outcome))
        if cascade and outcome in RETRYABLE and len(ranked) > 1:
            attempts += 1
            second = _second(lane, i, number[ranked[1][0]], outcome)
            recovered += second == "approved"
            heapq.heappush(waiting, (due, i, 1, context, ranked[1][0], second))
    return chosen, attempts, recovered


def _second(lane: Lane, payment: int, k: int, first: str) -> str:
    """What the second account answers: six of ten declines are repeated by anybody, technical failures are not."""
    die = Random(f"second/{lane.scenario.name}/{lane.seed}/{payment}").random()
    if first == "technical":
        return lane.outcome(payment, k)
    return "declined_ambiguous" if die < REPEATS else lane.outcome(payment, k, (die - REPEATS) / (1 - REPEATS))


def measure(lane: Lane, make: Maker, *, cascade: bool = False) -> Result:
    """A fresh policy of ``make`` through ``lane``, measured."""
    policy = make(lane)
    watch = Watch(policy) if lane.scenario.name in CALM and isinstance(policy, Explaining) else None
    if isinstance(policy, Opening):
        watch = None
    started = time.process_time()
    chosen, attempts, recovered = play(lane, policy, cascade=cascade, watch=watch)
    spent = time.process_time() - started
    got, static, oracle = bounds(lane, chosen)
    switches, blocks = _switches(lane, chosen)
    return Result(
        scenario=lane.scenario.name,
        seed=lane.seed,
        payments=len(chosen),
        got=got,
        static=static,
        oracle=oracle,
        lost=_lost(lane, chosen),
        dead=_sent_to_the_dead(lane, chosen),
        switches=switches,
        blocks=blocks,
        openings=policy.openings if isinstance(policy, Opening) else watch.openings if watch else None,
        fees=sum(lane.chance(i, k) * lane.fees[k] for i, k in enumerate(chosen)),
        attempts=attempts,
        recovered=recovered,
        us=None if watch else 1e6 * spent / len(chosen),
        spent_s=spent,
    )


def bounds(lane: Lane, chosen: Sequence[int]) -> tuple[float, float, float]:
    """Expected approvals: of the choices, of the static rule (always its first account), of a clairvoyant."""
    got = static = oracle = 0.0
    open_now = 0
    for i, k in enumerate(chosen):
        if i in lane.opens:
            open_now = len(lane.opens[i])
        chances = [lane.chance(i, other) for other in range(open_now)]
        got += chances[k]
        static += chances[0]
        oracle += max(chances)
    return got, static, oracle


def _lost(lane: Lane, chosen: Sequence[int]) -> float:
    if not lane.incidents:
        return 0.0
    accounts = range(len(lane.accounts))
    span = lane.incidents[0].span
    return sum(max(lane.chance(i, k) for k in accounts) - lane.chance(i, chosen[i]) for i in span if i < len(chosen))


def _sent_to_the_dead(lane: Lane, chosen: Sequence[int]) -> int:
    if not lane.incidents or lane.incidents[0].segments is not None:
        return 0
    dead, span = lane.incidents[0].account, lane.incidents[0].span
    sent = 0
    for i in span:
        if i >= len(chosen):
            break
        sent += chosen[i] == dead
        if chosen[max(0, i + 1 - DEAD_WINDOW) : i + 1].count(dead) < DEAD_SHARE * DEAD_WINDOW:
            break
    return sent


def _switches(lane: Lane, chosen: Sequence[int]) -> tuple[int, int]:
    """(Changes of the most used account, pairs of consecutive blocks), over all segments."""
    by_segment: dict[int, list[int]] = {}
    for s, k in zip(lane.segment, chosen, strict=True):
        by_segment.setdefault(s, []).append(k)
    changes = pairs = 0
    for row in by_segment.values():
        most = [Counter(row[i : i + BLOCK]).most_common(1)[0][0] for i in range(0, len(row) - BLOCK + 1, BLOCK)]
        changes += sum(a != b for a, b in itertools.pairwise(most))
        pairs += max(0, len(most) - 1)
    return changes, pairs


# --- Many lanes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """A ratio of sums, in percent, with its standard error over seeds (linearised). ``None``: there is nothing to gain."""

    percent: float
    error: float | None

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Share | None:
        """From (part, whole) of each seed."""
        whole = sum(b for _, b in pairs)
        if whole < 1e-6:
            return None
        ratio = sum(a for a, _ in pairs) / whole
        n = len(pairs)
        if n < 2:
            return cls(100 * ratio, None)
        spread = math.sqrt(n / (n - 1) * sum((a - ratio * b) ** 2 for a, b in pairs))
        return cls(100 * ratio, 100 * spread / whole)

    def __str__(self) -> str:
        return f"{self.percent:.1f}" + (f" ± {self.error:.1f}" if self.error is not None else "")


@dataclass(frozen=True, slots=True)
class Figures:
    """One strategy over all its lanes. ``None`` where the scenario that it is measured in was not run."""

    captured: Mapping[str, Share | None]
    pooled: Share | None
    """Captured over the published scenarios that were run, without `equal`."""
    uplift_pp: float | None
    """Mean over the same scenarios of (approval rate - static's), in points."""
    lost: float | None
    static_lost: float | None
    dead: float | None
    false_switch: float | None
    false_openings: float | None
    """Breakers that opened per 20,000 payments where no account ever fails, mean over those scenarios."""
    openings: Mapping[str, float]
    regret: float | None
    """Approvals lost to the oracle per 10,000 payments while nothing changes."""
    retries_per_recovered: float | None
    us: float | None
    lanes: int


def figures(results: Sequence[Result], static_lost: float | None = None) -> Figures:
    """What ``results`` of one strategy say together."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.scenario, []).append(result)
    by_seed: dict[int, list[Result]] = {}
    for result in results:
        if result.scenario in POOLED:
            by_seed.setdefault(result.seed, []).append(result)
    pooled = [(sum(r.gain for r in some), sum(r.gap for r in some)) for some in by_seed.values()]
    gains = [r.gain / r.payments for some in by_seed.values() for r in some]
    openings = {
        name: 20_000 * sum(r.openings or 0 for r in some) / sum(r.payments for r in some)
        for name, some in rows.items()
        if all(r.openings is not None for r in some)
    }
    calm = [openings[name] for name in CALM if name in openings]
    recovered = sum(r.recovered for r in results)
    outages, same, still = rows.get("outage"), rows.get("equal"), rows.get("stationary")
    return Figures(
        captured={name: Share.of([(r.gain, r.gap) for r in some]) for name, some in rows.items()},
        pooled=Share.of(pooled) if pooled else None,
        uplift_pp=100 * sum(gains) / len(gains) if gains else None,
        lost=_mean([r.lost for r in outages]) if outages else None,
        static_lost=static_lost,
        dead=_mean([r.dead for r in outages]) if outages else None,
        false_switch=sum(r.switches for r in same) / max(1, sum(r.blocks for r in same)) if same else None,
        false_openings=_mean(calm) if calm else None,
        openings=openings,
        regret=_mean([1e4 * (r.oracle - r.got) / r.payments for r in still]) if still else None,
        retries_per_recovered=sum(r.attempts for r in results) / recovered if recovered else None,
        us=_mean(timed) if (timed := [r.us for r in results if r.us is not None]) else None,
        lanes=len(results),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def record(result: Result) -> dict[str, float | int | str | None]:
    return {field.name: getattr(result, field.name) for field in fields(result)}
