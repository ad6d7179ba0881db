"""What the outcomes so far say of each account for each kind of payment.

The log-odds of an approval in segment *s* at account *k* are ``base[s] + account[k] + cell[s, k]``: what the segment's issuers do to
everybody, what the account does to everybody, and what is particular to the two. Each term is a mean and a variance that outcomes
narrow and time widens, so a cell without evidence of its own borrows its account's, and old evidence fades.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

BASE_MEAN: Final = 2.5
BASE_VAR: Final = 0.5
ACCOUNT_VAR: Final = 0.12
CELL_VAR: Final = 0.15
BASE_DRIFT: Final = 1e-4
"""Variance that a term gains with each outcome of its own: what it learned long ago is worth less."""
ACCOUNT_DRIFT: Final = 1e-5
CELL_DRIFT: Final = 1e-4
ORDER_LEAD: Final = 0.1
"""Log-odds by which an account is expected to be better than the next one named: nobody orders accounts at random."""
PRIOR_VAR: Final = 0.05
"""Variance of a report's log-odds as a forecast of the coming month, however many payments it counts."""


def sigmoid(x: float) -> float:
    """The rate of log-odds ``x``."""
    return 1.0 / (1.0 + math.exp(-x))


def log_odds(rate: float) -> float:
    """The log-odds of ``rate``, kept off 0 and 1."""
    rate = min(max(rate, 1e-4), 1 - 1e-4)
    return math.log(rate / (1 - rate))


Term = list[float]
"""Mean, variance, effective number of outcomes."""


class Beliefs:
    """Means and variances of all terms. ``prior`` is a report: account → rate, or ``{"approved", "attempts"}``."""

    def __init__(self, accounts: Sequence[str], prior: Mapping[str, Any] | None) -> None:
        self.accounts: dict[str, Term] = {}
        self.bases: dict[str, Term] = {}
        self.cells: dict[str, dict[str, Term]] = {}
        middle = (len(accounts) - 1) / 2
        for place, account in enumerate(accounts):
            self.accounts[account] = [(middle - place) * ORDER_LEAD, ACCOUNT_VAR, 0.0]
        self.start = BASE_MEAN
        if prior:
            self._report(prior)

    def _report(self, prior: Mapping[str, Any]) -> None:
        told: dict[str, tuple[float, float]] = {}
        for account, report in prior.items():
            approved, attempts = (
                (report["approved"], report["attempts"]) if isinstance(report, Mapping) else (report * 1e4, 1e4)
            )
            rate = (approved + 1.8) / (attempts + 2)
            told[account] = (log_odds(rate), PRIOR_VAR + 1 / (max(attempts, 1) * rate * (1 - rate)))
        self.start = sum(mean for mean, _ in told.values()) / len(told)
        for account, (mean, variance) in told.items():
            gain = ACCOUNT_VAR / (ACCOUNT_VAR + variance)
            self.accounts[account] = [gain * (mean - self.start), (1 - gain) * ACCOUNT_VAR, 0.0]

    def _account(self, account: str) -> Term:
        term = self.accounts.get(account)
        if term is None:
            term = self.accounts[account] = [0.0, ACCOUNT_VAR, 0.0]
        return term

    def believed(self, segment: str, account: str) -> tuple[float, float, float]:
        """Mean and variance of a cell's log-odds, without what its segment shares, and the cell's outcomes. Add :meth:`base`."""
        own = self.accounts.get(account) or [0.0, ACCOUNT_VAR, 0.0]
        cells = self.cells.get(segment)
        cell = cells.get(account) if cells else None
        if cell is None:
            return own[0], own[1] + CELL_VAR, 0.0
        return own[0] + cell[0], own[1] + cell[1], cell[2]

    def base(self, segment: str) -> tuple[float, float]:
        """Mean and variance of what all accounts share in a segment."""
        term = self.bases.get(segment)
        return (term[0], term[1]) if term else (self.start, BASE_VAR)

    def expected(self, segment: str, account: str) -> float:
        """The approval rate expected of a cell."""
        return sigmoid(self.base(segment)[0] + self.believed(segment, account)[0])

    def learn(self, segment: str, account: str, *, approved: bool) -> None:
        """Take one outcome in."""
        base = self.bases.get(segment)
        if base is None:
            base = self.bases[segment] = [self.start, BASE_VAR, 0.0]
        own = self._account(account)
        cells = self.cells.setdefault(segment, {})
        cell = cells.setdefault(account, [0.0, CELL_VAR, 0.0])
        rate = sigmoid(base[0] + own[0] + cell[0])
        weight = rate * (1 - rate)
        step = (approved - rate) / (1 + weight * (base[1] + own[1] + cell[1]))
        shrink = weight / (1 + weight * (base[1] + own[1] + cell[1]))
        for term, drift, most in (
            (base, BASE_DRIFT, BASE_VAR),
            (own, ACCOUNT_DRIFT, ACCOUNT_VAR),
            (cell, CELL_DRIFT, CELL_VAR),
        ):
            term[0] += term[1] * step
            term[1] = min(term[1] - term[1] * term[1] * shrink + drift, most)
            term[2] = term[2] * 0.9998 + 1

    def forget(self, segment: str) -> None:
        """Give up what is known of a segment alone."""
        self.bases.pop(segment, None)
        self.cells.pop(segment, None)

    def snapshot(self) -> dict[str, Any]:
        """All terms, JSON-able."""
        return {
            "start": self.start,
            "accounts": {name: list(term) for name, term in self.accounts.items()},
            "bases": {name: list(term) for name, term in self.bases.items()},
            "cells": {
                segment: {name: list(term) for name, term in cells.items()} for segment, cells in self.cells.items()
            },
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take all terms from a snapshot."""
        self.start = snapshot["start"]
        self.accounts = {name: list(term) for name, term in snapshot["accounts"].items()}
        self.bases = {name: list(term) for name, term in snapshot["bases"].items()}
        self.cells = {
            segment: {name: list(term) for name, term in cells.items()} for segment, cells in snapshot["cells"].items()
        }
