"""Who takes part: a name, how it is made, its settings, and what it may know beyond outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from bench.routing import rivals
from bench.routing.play import Maker, Policy

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entrant:
    """One row of the table. ``family`` makes the policy; what it is given besides its accounts stands here."""

    says: str
    family: Callable[..., Policy]
    settings: Settings
    history: bool = False
    """Whether it is handed the stale report, which the static order comes from."""

    def maker(self, changed: Settings | None = None) -> Maker:
        settings = {**self.settings, **(changed or {})}
        return lambda lane: self.family(lane.accounts, settings, dict(lane.report) if self.history else None)


def ours(name: str) -> Callable[..., Policy]:
    """A strategy of `routing.strategies`. Imported when it is first made: the environment works without it."""

    def make(accounts: tuple[str, ...], settings: Settings, prior: Any = None) -> Policy:
        policy: Policy = import_module("routing.strategies").make(name, accounts, settings, prior)
        return policy

    return make


ENTRANTS: Final[Mapping[str, Entrant]] = {
    "priority": Entrant("static priority", rivals.Priority, {}),
    "weighted": Entrant("weighted random 60/30/10", rivals.Weighted, {}),
    "epsilon": Entrant("eps-greedy 5 %, cumulative", rivals.EpsilonGreedy, {"epsilon": 0.05}),
    "thompson": Entrant("Thompson, stationary", rivals.Thompson, {}),
    "discounted_thompson": Entrant("discounted Thompson", rivals.DiscountedThompson, {"gamma": 0.999}),
    "success_rate_window": Entrant("ours: success_rate_window", ours("success_rate_window"), {}),
    "adaptive": Entrant("ours: adaptive, with last month's report", ours("adaptive"), {}, history=True),
    "adaptive_plain": Entrant("ours: adaptive, without a report", ours("adaptive"), {}),
}


def entrant(name: str) -> Entrant:
    """The row ``name``; or a class of yours, `package.module:Class`, made as `Class(accounts, settings, prior)`."""
    if name in ENTRANTS:
        return ENTRANTS[name]
    module, found, attribute = name.partition(":")
    if not found:
        raise LookupError(f"{name}: no entrant of that name; there are {', '.join(ENTRANTS)}, or module:Class")
    return Entrant(name, getattr(import_module(module), attribute), {}, history=True)


def present() -> list[str]:
    """The rows that can be run here: our own strategies only where `routing.strategies` is."""
    there = find_spec("routing.strategies") is not None
    return [name for name, row in ENTRANTS.items() if there or not row.says.startswith("ours")]
