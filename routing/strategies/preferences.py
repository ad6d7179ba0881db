"""The strategies proper: how each of them orders accounts whose breakers are closed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from routing.strategies.guarded import Guarded, View
from routing.strategies.policy import checked

EXPLORE: Final = 0.1
"""Part of the payments that go to an account worth exploring."""
EXPLORE_CAP: Final = 0.2
BATCH: Final = 10.0
"""Payments that are thought of together when asking whether to explore: one alone moves no mean far enough."""
HORIZON: Final = 6_000.0
"""Payments of all segments over which what is learned has to repay its cost: longer, and it has changed meanwhile."""


class Fixed:
    """What does not learn by itself has nothing to keep."""

    explores = False
    alike = True

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
    alike = False

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
            view.outlook.rates[place] * max(amount - self.fee(view.context, account), 0.0)
            if amount
            else -self.fee(view.context, account)
            for place, account in enumerate(view.accounts)
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
    """The account that most is expected of; and others, while what one of them may turn out to be worth repays asking it."""

    name = "adaptive"
    explores = True

    def __init__(self, accounts: Sequence[str], settings: Mapping[str, Any]) -> None:
        pass

    def prefer(self, view: View) -> tuple[list[float], list[int]]:
        """The best mean first. Another is explored if ``BATCH`` payments there can be expected to gain more than they cost.

        What is gained (the knowledge gradient): how far those outcomes would move its mean, how likely that is past the best one's, and
        the payments of this segment to come over which the change would pay. What is lost: the lead, once for each of them.
        """
        outlook = view.outlook
        means = outlook.means
        order = sorted(range(len(view.accounts)), key=means.__getitem__, reverse=True)
        best = order[0]
        chances = [0.0] * len(order)
        to_come = outlook.volume * HORIZON
        exploring = 0.0
        for index in order[1:]:
            rate, own = outlook.rates[index], outlook.own_vars[index]
            lead = means[best] - means[index]
            moved = own / math.sqrt(own + 1 / (rate * (1 - rate) * BATCH))
            z = lead / moved
            if z > 6:
                continue
            gain = moved * math.exp(-0.5 * z * z) * 0.3989423 - lead * 0.5 * math.erfc(z * 0.7071068)
            if gain * to_come > BATCH * lead:
                chances[index] = EXPLORE
                exploring += EXPLORE
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
