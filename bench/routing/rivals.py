"""The algorithms that our strategies are compared with, in the shape of ours and with the same late outcomes.

Each keeps one state per segment (the context's BIN and currency) unless it says otherwise. Two settings are there for all
that learn, off by default, as they are published:

* ``aware``: declines that name the customer are no evidence about the account;
* ``prior``: the stale report counts as that many outcomes of each account in every segment.

A pull counts from the moment it is made, its outcome from when it is known: what waits is not pulled again and again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

Key = tuple[str, ...]
Context = Mapping[str, str]
Ranked = list[tuple[str, float, float]]

OPTIMISM: Final = 10.0
"""The score of an account that nothing is known of: it is tried first."""


def by_score(scores: Mapping[str, float]) -> Ranked:
    """Best first; the propensity is not known where a score is drawn or compared, and 1 for the first says so little."""
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return [(account, score, float(i == 0)) for i, (account, score) in enumerate(ranked)]


class Priority:
    """The static rule: always in the order of the configuration."""

    def __init__(
        self, accounts: Sequence[str], settings: Mapping[str, Any], prior: Mapping[str, float] | None = None
    ) -> None:
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

    __slots__ = ("approved", "known", "recent", "waiting")

    def __init__(self, approved: float, known: float) -> None:
        self.approved = approved
        self.known = known
        self.waiting = 0
        self.recent: deque[bool] = deque()

    @property
    def rate(self) -> float:
        return self.approved / self.known if self.known else 0.0


class Learner:
    """One cell per segment and account. Subclasses say how outcomes are kept and how accounts are scored."""

    def __init__(
        self, accounts: Sequence[str], settings: Mapping[str, Any], prior: Mapping[str, float] | None = None
    ) -> None:
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
        return Cell(self.strength * self.report.get(account, usual), self.strength)

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
        return {account: cell.rate if cell.known else OPTIMISM - cell.waiting for account, cell in cells.items()}


class Thompson(Learner):
    """A draw from each account's Beta posterior."""

    def scores(self, cells: Mapping[str, Cell], rng: Random) -> dict[str, float]:
        draw = rng.betavariate
        return {account: draw(1 + c.approved, 1 + c.known - c.approved) for account, c in cells.items()}


class DiscountedThompson(Thompson):
    """Thompson where each outcome of the segment makes all older ones count ``gamma`` times as much."""

    def learn(self, cells: Mapping[str, Cell], cell: Cell, *, approved: bool) -> None:
        gamma = self.settings["gamma"]
        for other in cells.values():
            other.known *= gamma
            other.approved *= gamma
        cell.known += 1
        cell.approved += approved
