"""The algorithms that our strategies are compared with, in the shape of ours and with the same late outcomes.

Each keeps one state per segment (the context's BIN and currency) unless it says otherwise. Two settings are there for all
that learn, off by default, as they are published:

* ``aware``: declines that name the customer are no evidence about the account;
* ``prior``: the stale report counts as that many outcomes of each account in every segment, for good; with ``fades``, as
  outcomes that are forgotten as the others are.

A pull counts from the moment it is made, its outcome from when it is known: what waits is not pulled again and again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

Key = tuple[str, ...]
Context = Mapping[str, str]
Ranked = list[tuple[str, float, float]]
Report = Mapping[str, float] | None

OPTIMISM: Final = 10.0
"""The score of an account that nothing is known of: it is tried first."""


def by_score(scores: Mapping[str, float]) -> Ranked:
    """Best first; the propensity is not known where a score is drawn or compared, and 1 for the first says so little."""
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return [(account, score, float(i == 0)) for i, (account, score) in enumerate(ranked)]


class Priority:
    """The static rule: always in the order of the configuration."""

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any], prior: Report = None) -> None:
        self.order = tuple(accounts)

    def rank(self, context: Context, candidates: Sequence[str], rng: Random, now: float) -> Ranked:
        return [(account, 0.0, float(i == 0)) for i, account in enumerate(a for a in self.order if a in candidates)]

    def update(self, context: Context, account: str, outcome: str, now: float) -> None:
        """Nothing is learned."""


class Weighted(Priority):
    """A share for each place of the static order: 60, 30 and 10 in 100."""

    SHARES: Final = (0.6, 0.3, 0.1, 0.0)

    def rank(self, context: Context, candidates: Sequence[str], rng: Random, now: float) -> Ranked:
        known = [a for a in self.order if a in candidates]
        (first,) = rng.choices(known, weights=self.SHARES[: len(known)])
        return [(first, 0.0, 1.0), *((a, 0.0, 0.0) for a in known if a != first)]


class Cell:
    """What is known of one account in one segment: (discounted) outcomes, and pulls that wait for theirs."""

    __slots__ = ("approved", "base", "base_approved", "known", "recent", "waiting")

    def __init__(self, rate: float, strength: float, *, fades: bool) -> None:
        kept, forgotten = (0.0, strength) if fades else (strength, 0.0)
        self.base, self.base_approved = kept, rate * kept
        self.known, self.approved = forgotten, rate * forgotten
        self.waiting = 0
        self.recent: deque[bool] = deque()

    @property
    def count(self) -> float:
        return self.base + self.known

    @property
    def rate(self) -> float:
        count = self.base + self.known
        return (self.base_approved + self.approved) / count if count > 1e-9 else 0.0


class Learner:
    """One cell per segment and account. Subclasses say how outcomes are kept and how accounts are scored."""

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any], prior: Report = None) -> None:
        self.order = tuple(accounts)
        self.settings = settings
        self.aware = bool(settings.get("aware"))
        self.per_segment = not settings.get("global")
        self.report = dict(prior or {})
        self.strength = float(settings.get("prior", 0)) if prior else 0.0
        self.cells: dict[Key, dict[str, Cell]] = {}

    def cells_of(self, context: Context) -> dict[str, Cell]:
        key = (context["bin"], context["currency"]) if self.per_segment else ()
        found = self.cells.get(key)
        if found is None:
            found = self.cells[key] = {account: self.fresh(account) for account in self.order}
        return found

    def fresh(self, account: str) -> Cell:
        usual = sum(self.report.values()) / len(self.report) if self.report else 0.0
        return Cell(self.report.get(account, usual), self.strength, fades=bool(self.settings.get("fades")))

    def rank(self, context: Context, candidates: Sequence[str], rng: Random, now: float) -> Ranked:
        cells = self.cells_of(context)
        ranked = by_score(self.scores({account: cells[account] for account in candidates}, rng))
        cells[ranked[0][0]].waiting += 1
        return ranked

    def update(self, context: Context, account: str, outcome: str, now: float) -> None:
        cells = self.cells_of(context)
        cell = cells[account]
        cell.waiting = max(0, cell.waiting - 1)
        if not (self.aware and outcome == "declined_customer"):
            self.learn(cells, cell, approved=outcome == "approved")

    def learn(self, cells: Mapping[str, Cell], cell: Cell, *, approved: bool) -> None:
        cell.known += 1
        cell.approved += approved

    def scores(self, cells: Mapping[str, Cell], rng: Random) -> dict[str, float]:
        raise NotImplementedError


class EpsilonGreedy(Learner):
    """The best rate so far; with probability ``epsilon`` any account."""

    def scores(self, cells: Mapping[str, Cell], rng: Random) -> dict[str, float]:
        if rng.random() < self.settings["epsilon"]:
            return {account: rng.random() for account in cells}
        return {account: cell.rate if cell.count else OPTIMISM - cell.waiting for account, cell in cells.items()}


class Thompson(Learner):
    """A draw from each account's Beta posterior. ``scale``: how far from its mean, 1 as published."""

    def scores(self, cells: Mapping[str, Cell], rng: Random) -> dict[str, float]:
        draw, scale = rng.betavariate, self.settings.get("scale", 1.0)
        scores = {}
        for account, cell in cells.items():
            approved = max(0.0, cell.base_approved + cell.approved)
            declined = max(0.0, cell.base + cell.known - approved)
            drawn, mean = draw(1 + approved, 1 + declined), (1 + approved) / (2 + approved + declined)
            scores[account] = mean + scale * (drawn - mean)
        return scores


class Discounted(Learner):
    """Each outcome of the segment makes all older ones count ``gamma`` times as much."""

    def learn(self, cells: Mapping[str, Cell], cell: Cell, *, approved: bool) -> None:
        gamma = self.settings["gamma"]
        for other in cells.values():
            other.known *= gamma
            other.approved *= gamma
        cell.known += 1
        cell.approved += approved


class Sliding(Learner):
    """Of a segment's outcomes the last ``window`` count, whichever account they are of. A report fades with them."""

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any], prior: Report = None) -> None:
        super().__init__(accounts, settings, prior)
        self.kept: dict[int, deque[tuple[Cell, float, float]]] = {}

    def learn(self, cells: Mapping[str, Cell], cell: Cell, *, approved: bool) -> None:
        kept = self.kept.get(id(cells))
        if kept is None:
            kept = self.kept[id(cells)] = deque((other, other.approved, other.known) for other in cells.values())
        kept.append((cell, float(approved), 1.0))
        cell.known += 1
        cell.approved += approved
        if len(kept) > self.settings["window"]:
            old, approvals, count = kept.popleft()
            old.approved -= approvals
            old.known -= count


class DiscountedThompson(Discounted, Thompson):
    """Thompson on discounted outcomes."""


class SlidingThompson(Sliding, Thompson):
    """Thompson on the last outcomes of the segment."""


class Ucb(Learner):
    """The rate and a bonus for what is little known: `bonus * sqrt(0.6 * log(n) / n_k)` (Garivier and Moulines 2008)."""

    def scores(self, cells: Mapping[str, Cell], rng: Random) -> dict[str, float]:
        bonus = self.settings["bonus"]
        counts = {account: cell.count + cell.waiting for account, cell in cells.items()}
        width = 0.6 * math.log(max(2.0, sum(counts.values())))
        return {
            account: (cell.rate if cell.count > 1e-9 else 1.0) + bonus * math.sqrt(width / counts[account])
            if counts[account] > 1e-9
            else OPTIMISM
            for account, cell in cells.items()
        }


class SlidingUcb(Sliding, Ucb):
    """SW-UCB."""


class DiscountedUcb(Discounted, Ucb):
    """D-UCB."""


class Blocks(Learner):
    """Hyperswitch's success-based routing, after its documentation: a rate over blocks of outcomes, and a share explored.

    Per account and segment the last ``blocks`` full blocks of ``block`` outcomes and the one being filled. Less than
    ``blocks_min`` of them is not enough: the rate counts as 100 %. With probability ``explore`` any account is chosen.
    Elimination: each technical failure fills a bucket, which leaks one in ``leak_s`` seconds; a full one comes last.
    """

    BUCKET: Final = 5

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any], prior: Report = None) -> None:
        super().__init__(accounts, settings, prior)
        self.buckets = dict.fromkeys(self.order, (0.0, 0.0))  # account → (fill, when)

    def rank(self, context: Context, candidates: Sequence[str], rng: Random, now: float) -> Ranked:
        ranked = super().rank(context, candidates, rng, now)
        full = {account for account in candidates if self.filled(account, now) >= self.BUCKET}
        return sorted(ranked, key=lambda row: row[0] in full) if full else ranked

    def filled(self, account: str, now: float) -> float:
        fill, when = self.buckets[account]
        return max(0.0, fill - (now - when) / float(self.settings["leak_s"]))

    def update(self, context: Context, account: str, outcome: str, now: float) -> None:
        if outcome == "technical":
            self.buckets[account] = (min(self.BUCKET, self.filled(account, now) + 1), now)
        super().update(context, account, outcome, now)

    def learn(self, cells: Mapping[str, Cell], cell: Cell, *, approved: bool) -> None:
        cell.recent.append(approved)
        cell.approved += approved
        cell.known += 1
        block = self.settings["block"]
        if len(cell.recent) > block * (self.settings["blocks"] + 1):
            for _ in range(block):
                cell.approved -= cell.recent.popleft()
                cell.known -= 1

    def scores(self, cells: Mapping[str, Cell], rng: Random) -> dict[str, float]:
        if rng.random() < self.settings["explore"]:
            return {account: rng.random() for account in cells}
        enough = self.settings["blocks_min"] * self.settings["block"]
        order = {account: -1e-9 * place for place, account in enumerate(self.order)}
        return {a: (cell.rate if cell.count >= enough else 1.0) + order[a] for a, cell in cells.items()}


class SuccessRateV3(Learner):
    """Juspay's decision-engine, SRv3, after its source and documentation (2026-08): the queue of the last outcomes.

    * Per account and segment a queue of ``bucket`` outcomes, full of approvals at first; the highest rate is chosen.
    * Hedging: with probability ``hedge`` times the number of accounts, any account, all alike.
    * Reset: who is more than three standard deviations under the best starts again, three under the best.
    * Elimination: per account one score, x 0.95 on a decline, / 0.95 on an approval; under ``threshold`` it comes last.
    * ``autopilot``: every 15 minutes, from the segment's volume V of a day and n accounts, bucket = 5 sqrt(V / (n - 1)) in
      steps of 25 within 100 and 2,000, hedge = bucket / V within 1 % and 30 % / (n - 1), from 100 payments on. A queue
      starts again where its size changes.
    * Its GSM filter, which leaves out declines of the customer, is ``aware``.
    """

    SIGMAS: Final = 3.0
    PERIOD_S: Final = 900.0

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any], prior: Report = None) -> None:
        super().__init__(accounts, settings, prior)
        self.health = dict.fromkeys(self.order, 1.0)
        self.plans: dict[int, tuple[int, float]] = {}  # cells → (bucket, hedge) by autopilot
        self.volume: dict[int, deque[float]] = {}
        self.checked = 0.0
        self.plan = (int(settings["bucket"]), float(settings["hedge"]))

    def rank(self, context: Context, candidates: Sequence[str], rng: Random, now: float) -> Ranked:
        cells = self.cells_of(context)
        if self.settings.get("autopilot"):
            self.volume.setdefault(id(cells), deque()).append(now)
            if now - self.checked >= self.PERIOD_S:
                self.checked = now
                self.pilot(now)
        bucket, hedge = self.plans.get(id(cells), self.plan)
        for cell in cells.values():
            if len(cell.recent) != bucket:
                self.fill(cell, bucket, bucket)
        if rng.random() < hedge * len(candidates):
            scores = {account: rng.random() for account in candidates}
        else:
            self.reset(cells, candidates, bucket)
            scores = {a: cells[a].approved / bucket - 1e-9 * i for i, a in enumerate(candidates)}
        low = self.settings["threshold"]
        return by_score({a: score - (OPTIMISM if self.health[a] < low else 0.0) for a, score in scores.items()})

    def fill(self, cell: Cell, bucket: int, approvals: int) -> None:
        """A queue of ``bucket`` outcomes of which ``approvals`` are approvals, the declines spread evenly."""
        declines = bucket - approvals
        marks = {round((i + 0.5) * bucket / declines) for i in range(declines)} if declines else set()
        cell.recent = deque(i not in marks for i in range(bucket))
        cell.approved = sum(cell.recent)

    def reset(self, cells: Mapping[str, Cell], candidates: Sequence[str], bucket: int) -> None:
        best = max(cells[account].approved for account in candidates) / bucket
        margin = self.SIGMAS * math.sqrt(max(best * (1 - best), 0.09) / bucket)
        for account in candidates:
            if cells[account].approved / bucket < best - margin:
                self.fill(cells[account], bucket, bucket - min(bucket, max(2, int((1 - best + margin) * bucket))))

    def pilot(self, now: float) -> None:
        others = max(1, len(self.order) - 1)
        for key, moments in self.volume.items():
            while moments and moments[0] < now - 86_400:
                moments.popleft()
            if len(moments) >= 100:
                bucket = min(2_000, max(100, 25 * round(math.sqrt(len(moments) / others) * 5 / 25)))
                self.plans[key] = (bucket, max(0.01, min(bucket / len(moments), 0.3 / others)))

    def update(self, context: Context, account: str, outcome: str, now: float) -> None:
        if self.aware and outcome == "declined_customer":
            return
        approved = outcome == "approved"
        self.health[account] = min(1.0, self.health[account] / 0.95) if approved else self.health[account] * 0.95
        cell = self.cells_of(context)[account]
        if cell.recent:
            cell.approved += approved - cell.recent.popleft()
            cell.recent.append(approved)
