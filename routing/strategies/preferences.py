"""The strategies proper: how each of them orders accounts whose breakers are closed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from routing.strategies.beliefs import sigmoid
from routing.strategies.guarded import Guarded, View
from routing.strategies.policy import checked

EXPLORE_SCALE: Final = 0.25
EXPLORE_CAP: Final = 0.2


class Fixed:
    """What does not learn by itself has nothing to keep."""

    explores = False

    def learn(self, segment: str, account: str, *, approved: bool) -> None:
        """Nothing: the beliefs learn."""

    def forget(self, segment: str) -> None:
        """Nothing."""

    def detail(self, context: Mapping[str, str], account: str, rate: float) -> str | None:
        """No sentence."""
        return None

    def snapshot(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Nothing."""


def _certain(order: list[int]) -> tuple[list[float], list[int]]:
    chances = [0.0] * len(order)
    chances[order[0]] = 1.0
    return chances, order


class Priority(Fixed):
    """Accounts in the order they were named."""

    name = "priority"

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any]) -> None:
        self._places = {account: place for place, account in enumerate(accounts)}

    def prefer(self, view: View) -> tuple[list[float], list[int]]:
        """The first in order, always; accounts that were not named come last, as they were given."""
        places = [self._places.get(account, len(self._places)) for account in view.accounts]
        return _certain(sorted(range(len(places)), key=places.__getitem__))


class Weighted(Fixed):
    """Each account its part of the traffic."""

    name = "weighted"

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any]) -> None:
        self._weights: dict[str, float] = dict(settings.get("weights") or dict.fromkeys(accounts, 1.0))

    def prefer(self, view: View) -> tuple[list[float], list[int]]:
        """By weight; an account without any comes first only where no other can."""
        weights = [self._weights.get(account, 0.0) for account in view.accounts]
        total = sum(weights)
        chances = [weight / total for weight in weights] if total else [1 / len(weights)] * len(weights)
        return chances, sorted(range(len(chances)), key=chances.__getitem__, reverse=True)


class LeastCost(Fixed):
    """The account that leaves most of the amount: approval times what is left after the fee."""

    name = "least_cost"

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any]) -> None:
        fees: Mapping[str, Mapping[str, float]] = settings.get("fees", {})
        self._fees = {account: (fee["fixed"], fee["basis_points"]) for account, fee in fees.items()}

    def fee(self, context: Mapping[str, str], account: str) -> float:
        """What an approval costs at ``account``, in minor units of the payment's currency."""
        fixed, basis_points = self._fees.get(account, (0.0, 0.0))
        return fixed + _amount(context) * basis_points / 10_000

    def prefer(self, view: View) -> tuple[list[float], list[int]]:
        """The greatest ``p x (amount - fee)`` first: a dearer account has to lead by ``p x (its fee - the other's) / (amount - its fee)``."""
        amount = _amount(view.context)
        worth = [
            sigmoid(view.base + mean) * max(amount - self.fee(view.context, account), 0.0)
            if amount
            else -self.fee(view.context, account)
            for account, mean in zip(view.accounts, view.means, strict=True)
        ]
        return _certain(sorted(range(len(worth)), key=worth.__getitem__, reverse=True))

    def detail(self, context: Mapping[str, str], account: str, rate: float) -> str | None:
        """The lead in approval rate that ``account`` needs over the cheapest one."""
        amount, fee = _amount(context), self.fee(context, account)
        cheapest = min((self.fee(context, name), name) for name in self._fees) if self._fees else (fee, account)
        if amount <= fee or fee <= cheapest[0]:
            return None
        lead = rate * (fee - cheapest[0]) / (amount - fee)
        return f"{account} costs {fee - cheapest[0]:.4g} minor units more than {cheapest[1]}: it has to approve {lead * 100:.2f} points more to break even."


def _amount(context: Mapping[str, str]) -> int:
    amount = context.get("amount", "")
    return int(amount) if amount.isdecimal() else 0


class Window(Fixed):
    """The best success rate over the latest outcomes of a cell, and a hedge to keep the other windows fresh."""

    name = "success_rate_window"
    explores = True

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any]) -> None:
        self._length = int(settings.get("window", 125))
        self._hedge = settings.get("hedge", 5.0) / 100
        self._windows: dict[str, dict[str, deque[int]]] = {}

    def prefer(self, view: View) -> tuple[list[float], list[int]]:
        """Highest rate first, ties as the accounts were given. An empty window counts as all approved: it is tried."""
        windows = self._windows.get(view.segment, {})
        rates = [sum(window) / len(window) if (window := windows.get(account)) else 1.0 for account in view.accounts]
        order = sorted(range(len(rates)), key=lambda index: -rates[index])
        chances = [self._hedge / max(len(rates) - 1, 1)] * len(rates)
        chances[order[0]] = 1 - self._hedge if len(rates) > 1 else 1.0
        return chances, order

    def learn(self, segment: str, account: str, *, approved: bool) -> None:
        """Enter the outcome into the cell's window."""
        windows = self._windows.setdefault(segment, {})
        if account not in windows:
            windows[account] = deque(maxlen=self._length)
        windows[account].append(int(approved))

    def forget(self, segment: str) -> None:
        """The windows of a segment."""
        self._windows.pop(segment, None)

    def snapshot(self) -> dict[str, Any]:
        """The windows, as text of 0 and 1."""
        return {
            segment: {account: "".join(map(str, window)) for account, window in windows.items()}
            for segment, windows in self._windows.items()
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """The windows."""
        self._windows = {
            segment: {account: deque(map(int, window), maxlen=self._length) for account, window in windows.items()}
            for segment, windows in snapshot.items()
        }


class Adaptive(Fixed):
    """The best by belief, and others as often as a scaled-down Thompson sample of them would be best."""

    name = "adaptive"
    explores = True

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any]) -> None:
        pass

    def prefer(self, view: View) -> tuple[list[float], list[int]]:
        """The best mean first; each other with the chance that its sample beats the best one's, at most ``EXPLORE_CAP`` together."""
        order = sorted(range(len(view.means)), key=view.means.__getitem__, reverse=True)
        best = order[0]
        chances = [0.0] * len(order)
        for index in order[1:]:
            spread = EXPLORE_SCALE * math.sqrt(2 * (view.variances[best] + view.variances[index]))
            chances[index] = 0.5 * math.erfc((view.means[best] - view.means[index]) / spread)
        exploring = sum(chances)
        if exploring > EXPLORE_CAP:
            chances = [chance * EXPLORE_CAP / exploring for chance in chances]
            exploring = EXPLORE_CAP
        chances[best] = 1 - exploring
        return chances, order


PREFERENCES: Final = {kind.name: kind for kind in (Priority, Weighted, LeastCost, Window, Adaptive)}
"""Every strategy proper by name."""


class AdaptivePolicy(Guarded):
    """The ``adaptive`` strategy. ``accounts`` in the order of the rule it replaces; ``prior`` is last month's report, see ``make``."""

    def __init__(
        self, accounts: Sequence[str], settings: Mapping[str, Any] | None = None, prior: Mapping[str, Any] | None = None
    ) -> None:
        settings = checked("adaptive", accounts, settings)
        super().__init__(Adaptive(accounts, settings), accounts, settings, prior)
