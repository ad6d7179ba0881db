"""Who takes part: a name, how it is made, its settings, and what it may know beyond outcomes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from bench.routing import rivals
from bench.routing.play import Maker, Policy
from bench.routing.world import Lane

Settings = Mapping[str, Any]
TUNED: Final = Path(__file__).with_name("tuned.json")
"""What `bench.routing.tuning` has found best, by family."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """One row of the table. ``family`` makes the policy; what it is given besides its accounts stands here."""

    says: str
    family: Callable[..., Policy]
    settings: Settings
    history: bool = False
    """Whether it is handed the stale report, which the static order comes from."""
    ours: bool = False
    """Whether its code is that of `routing.strategies`."""
    fees: bool = False
    """Whether it is told what each account takes of an approved payment."""

    def maker(self, changed: Settings | None = None, *, history: bool | None = None) -> Maker:
        """Makes the policy for a lane, with ``changed`` settings, and with or without the report where ``history`` says so."""
        settings = {**self.settings, **(changed or {})}
        reads = self.history if history is None else history

        def make(lane: Lane) -> Policy:
            report = lane.named_report if settings.get("aware", True) else lane.report
            known = zip(lane.accounts, lane.fees, strict=True) if self.fees else ()
            fees = {account: {"fixed": fee, "basis_points": 0} for account, fee in known}
            return self.family(
                lane.accounts, {**settings, **({"fees": fees} if fees else {})}, dict(report) if reads else None
            )

        return make


def ours(name: str) -> Callable[..., Policy]:
    """A strategy of `routing.strategies`. Imported when it is first made: the environment works without it."""

    def make(accounts: tuple[str, ...], settings: Settings, prior: Any = None) -> Policy:
        policy: Policy = import_module("routing.strategies").make(name, accounts, settings, prior)
        return policy

    return make


PUBLISHED: Final[Mapping[str, Entrant]] = {
    "priority": Entrant("static priority", rivals.Priority, {}),
    "weighted": Entrant("weighted random 60/30/10", rivals.Weighted, {}),
    "epsilon": Entrant("eps-greedy 5 %, cumulative", rivals.EpsilonGreedy, {"epsilon": 0.05}),
    "sw_ucb": Entrant("SW-UCB W=200 (paper)", rivals.SlidingUcb, {"window": 200, "bonus": 1.0}),
    "d_ucb": Entrant("D-UCB gamma=0.6 (paper, literal)", rivals.DiscountedUcb, {"gamma": 0.6, "bonus": 2.0}),
    "thompson": Entrant("Thompson, stationary", rivals.Thompson, {}),
    "discounted_thompson": Entrant("discounted Thompson gamma=0.999", rivals.DiscountedThompson, {"gamma": 0.999}),
    "sliding_thompson": Entrant("sliding-window Thompson W=1000", rivals.SlidingThompson, {"window": 1_000}),
    "global_thompson": Entrant(
        "discounted Thompson, one global state", rivals.DiscountedThompson, {"gamma": 0.999, "global": True}
    ),
    "blocks": Entrant(
        "Hyperswitch blocks 8x5, 20 % explored, elimination",
        rivals.Blocks,
        {"block": 5, "blocks": 8, "blocks_min": 5, "explore": 0.2, "leak_s": 300},
    ),
    "srv3": Entrant(
        "decision-engine SRv3, defaults",
        rivals.SuccessRateV3,
        {"bucket": 125, "hedge": 0.05, "threshold": 0.05},
    ),
    "srv3_autopilot": Entrant(
        "decision-engine SRv3, GSM filter and Autopilot",
        rivals.SuccessRateV3,
        {"bucket": 125, "hedge": 0.05, "threshold": 0.05, "autopilot": True, "aware": True},
    ),
    "success_rate_window": Entrant("ours: success_rate_window", ours("success_rate_window"), {}, ours=True),
    "least_cost": Entrant(
        "ours: least_cost, with the report", ours("least_cost"), {}, history=True, ours=True, fees=True
    ),
    "adaptive": Entrant("ours: adaptive, with last month's report", ours("adaptive"), {}, history=True, ours=True),
    "adaptive_plain": Entrant("ours: adaptive, without a report", ours("adaptive"), {}, ours=True),
}


def published(name: str) -> Settings:
    """The settings that a row is published with."""
    return PUBLISHED[name].settings


def _tuned() -> dict[str, Entrant]:
    """A second row for every family that was tuned: it is handed the report, and its settings say whether it is used."""
    found = json.loads(TUNED.read_text(encoding="utf-8")) if TUNED.exists() else {}
    rows = {}
    for name, best in found.items():
        row = PUBLISHED[name]
        family = re.split(r" \(| gamma| W=| 8x5| 5 %|, defaults|, stationary", row.says)[0]
        rows[f"{name}_tuned"] = Entrant(
            f"{family}, tuned", row.family, {**row.settings, **best["settings"]}, history=True
        )
    return rows


ENTRANTS: Final[Mapping[str, Entrant]] = {**PUBLISHED, **_tuned()}
"""Every row of the table, by the name that `--only` takes."""


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
    return [name for name, row in ENTRANTS.items() if there or not row.ours]
