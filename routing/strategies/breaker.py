"""The breakers: one for each account and one for each cell, against outages and against technical errors.

A breaker is a cumulative sum (CUSUM) of the evidence, in nats, that the approval rate has fallen to ``drop`` of what is expected. It
opens at ``threshold``; while it is open the mirrored sum over the probes closes it at ``close``. What is expected is first multiplied
by the common-mode factor: if the other accounts are approving less as well, it is the issuers or the day, not this account.

Sums start again at zero, so an account that is well gathers nothing: false openings are rare however long it runs.
"""

from __future__ import annotations

import math
from typing import Final

from routing.strategies.policy import APPROVED, DECLINED_CUSTOMER, TECHNICAL

EXPECTED_MIN: Final = 0.3
"""An account that approves less than this anyway opens no breaker sooner for it: below, one decline says nothing."""
EXPECTED_MAX: Final = 0.97
"""Above, a single decline would weigh as much as several: an expectation is never as sure as that."""
TECHNICAL_RATE: Final = 0.005
"""Technical errors of an account that is well."""
TECHNICAL_RATE_ILL: Final = 0.3
"""Technical errors of one that is not."""
TECHNICAL_UP: Final = math.log(TECHNICAL_RATE_ILL / TECHNICAL_RATE)
TECHNICAL_DOWN: Final = math.log((1 - TECHNICAL_RATE_ILL) / (1 - TECHNICAL_RATE))

FALL, RISE, OPEN, ILL, WELL, DOWN = range(6)
"""Where a breaker's list of six floats keeps: evidence of a fall, of a recovery, whether it is open, and the same for technical errors."""


def fresh() -> list[float]:
    """A closed breaker."""
    return [0.0] * 6


def is_open(state: list[float]) -> bool:
    """Whether the account or cell is to get probes only."""
    return state[OPEN] > 0 or state[DOWN] > 0


def at_rest(state: list[float] | None) -> bool:
    """Whether an approval leaves it as it is: nothing speaks against the account. A breaker not made yet (``None``) is at rest."""
    return state is None or not any(state)


def word(state: list[float]) -> str:
    """``closed``, ``open`` or ``probing``."""
    if not is_open(state):
        return "closed"
    return "probing" if state[RISE] > 0 or state[WELL] > 0 else "open"


class Trip:
    """The thresholds of a policy's breakers."""

    __slots__ = ("close", "drop", "log_drop", "technical", "threshold")

    def __init__(self, *, threshold: float, drop: float, close: float, technical: float) -> None:
        self.threshold, self.close, self.technical = threshold, close, technical
        self.drop, self.log_drop = drop, math.log(drop)

    def move(self, state: list[float], outcome: str, expected: float) -> None:
        """Move ``state`` by one outcome, where ``expected`` (common mode included) was the chance of an approval."""
        if outcome == TECHNICAL:
            self._technical(state, TECHNICAL_UP)
            return
        self._technical(state, TECHNICAL_DOWN)  # any answer at all shows that it answers
        if outcome == DECLINED_CUSTOMER:
            return
        expected = min(max(expected, EXPECTED_MIN), EXPECTED_MAX)
        step = self.log_drop if outcome == APPROVED else math.log((1 - self.drop * expected) / (1 - expected))
        if state[OPEN]:
            state[RISE] = max(0.0, state[RISE] - step)
            if state[RISE] >= self.close:
                state[FALL] = state[RISE] = state[OPEN] = 0.0
        else:
            state[FALL] = max(0.0, state[FALL] + step)
            if state[FALL] >= self.threshold:
                state[OPEN], state[RISE] = 1.0, 0.0

    def _technical(self, state: list[float], step: float) -> None:
        if state[DOWN]:
            state[WELL] = max(0.0, state[WELL] - step)
            if state[WELL] >= 1.0:  # three answers in a row: a connection that works is soon seen to work
                state[ILL] = state[WELL] = state[DOWN] = 0.0
        elif step > 0 or state[ILL] > 0:
            state[ILL] = max(0.0, state[ILL] + step)
            if state[ILL] >= self.technical:
                state[DOWN], state[WELL] = 1.0, 0.0
