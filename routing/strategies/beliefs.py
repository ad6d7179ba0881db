"""What the outcomes so far say of each account for each kind of payment: a Bayesian model, updated in a few microseconds.

The log-odds of an approval in segment *s* at account *k* are a sum of terms, each with a mean and a variance:

* ``start + common``: the level of this merchant's payments, and how today differs from it for everybody (an issuer's incident, a payday);
* ``base[s]``: what the segment's issuers do to every account;
* ``standing[k] + drift[k]``: what the account is to everybody, and how it has been moving of late. How fast accounts move is learned: a
  bank of drifts of different strength is kept, weighted by how well each has foretold the outcomes;
* ``cell[s, k]``: what is particular to the two. How much cells differ at all is learned as well (empirical Bayes).

Within a segment, base and cells are inferred together: each cell keeps the precision and the weighted sum of its own evidence, and the base
is what its cells have in common. So a cell without evidence borrows from its account and segment, and two accounts are compared with
the segment's own uncertainty left out. Time is counted in outcomes; what is not confirmed fades to where it started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, expm1, log, sqrt
from typing import Any, Final

LEVEL: Final = 2.25
"""Log-odds of an approval (0.905) where no report says otherwise."""
LEVEL_VAR: Final = 0.5
LEVEL_VAR_REPORTED: Final = 0.2
"""Not much less: a report may count the customers' declines, and then tells a level that is too low by half a unit."""
COMMON_VAR: Final = 0.2
COMMON_MEMORY: Final = 300.0
BASE_VAR: Final = 0.1
STANDING_VAR: Final = 0.05
STANDING_MEMORY: Final = 60_000.0
CELL_VAR: Final = 0.08
CELL_VAR_MIN: Final = 0.01
CELL_VAR_MAX: Final = 0.5
CELL_MEMORY: Final = 20_000.0
CELLS_AS_USUAL: Final = 100.0
"""As many cells of variance ``CELL_VAR`` are taken to have been seen before the first one is."""
DRIFT_VARS: Final = (0.004, 0.02, 0.1)
DRIFT_MEMORY: Final = 1_200.0
DRIFT_TRUST: Final = 0.9995
"""What a forecast made one outcome earlier counts in choosing between the drifts."""
VOLUME_MEMORY: Final = 20_000.0
ORDER_LEAD: Final = 0.05
"""Log-odds by which an account is expected to be better than the next one named: nobody orders accounts at random."""
REPORT_VAR: Final = 0.02
"""Variance of a report's log-odds as a forecast of the coming month, however many payments it counts."""
STRANGER: Final = (0.0, STANDING_VAR + DRIFT_VARS[1])
"""Mean and variance of an account that nothing was told of."""
STRIDE: Final = 8
"""Outcomes between two fadings of the accounts' terms: as good as after each, and cheaper."""


def sigmoid(x: float) -> float:
    """The rate of log-odds ``x``. Where every payment and outcome passes it is written out: a call takes as long as the formula."""
    return 1.0 / (1.0 + exp(-x))


@dataclass(slots=True)
class Row:
    """A segment's evidence. Lists are by account number and may be shorter than there are accounts."""

    at: int
    """The clock when it last learned."""
    volume: float
    info: list[float]
    """Precision of each cell's own evidence."""
    pull: list[float]
    """The evidence's mean times its precision."""
    spread: float = 0.0
    """Expected squares of its cells' terms, summed, and their number."""
    cells: int = 0


@dataclass(slots=True)
class Outlook:
    """What is expected of a payment at some accounts. Log-odds; lists are in the order of ``names``."""

    names: Sequence[str]
    base: float
    """What all accounts share, whatever it is made of."""
    base_var: float
    """Variance of the segment's base alone."""
    means: list[float]
    rates: list[float]
    """The approval rate expected of each account."""
    own_vars: list[float]
    """Variance of what is the account's own."""
    leans: list[float]
    """How much of a cell's term would be taken back if the base proved higher, 0..1: nothing where there is no evidence."""
    volume: float
    """The segment's part of the traffic."""


class Beliefs:
    """All terms. ``prior`` is a report: account → rate, or ``{"approved", "attempts"}``; ``None`` for an account says nothing of it."""

    def __init__(self, accounts: Sequence[str], prior: Mapping[str, Any] | None) -> None:
        self.numbers: dict[str, int] = {}
        self.clock = 0
        self.volume = 1.0
        self.level, self.level_var = LEVEL, LEVEL_VAR
        self.common, self.common_var = 0.0, COMMON_VAR
        self.cell_var, self._spread, self._cells = CELL_VAR, CELLS_AS_USUAL * CELL_VAR, CELLS_AS_USUAL
        self._expected: list[float] = []  # of each account's standing, where it fades to
        self._standing: list[float] = []
        self._standing_var: list[float] = []
        self._drift: list[list[float]] = [[] for _ in DRIFT_VARS]  # by strength, then by account
        self._drift_var: list[list[float]] = [[] for _ in DRIFT_VARS]
        self._odds = [0.0] * len(DRIFT_VARS)  # log weight of each strength
        self._weights: list[float] | None = None  # the same as parts of 1, once asked for
        self._mixed: list[
            tuple[float, float] | None
        ] = []  # mean and variance of standing and drift together, once asked for
        self.rows: dict[str, Row] = {}
        middle = (len(accounts) - 1) / 2
        for place, account in enumerate(accounts):
            self._number(account, (middle - place) * ORDER_LEAD)
        self._report({account: report for account, report in (prior or {}).items() if report is not None})

    def _report(self, prior: Mapping[str, Any]) -> None:
        if not prior:
            return
        rates: dict[str, tuple[float, float]] = {}
        for account, report in prior.items():
            counted = (report["approved"], report["attempts"]) if isinstance(report, Mapping) else (report * 1e6, 1e6)
            attempts = max(counted[1], 1)
            rates[account] = (min(max((counted[0] + 1.8) / (attempts + 2), 0.01), 0.99), attempts)
        middle = sum(rate for rate, _ in rates.values()) / len(rates)
        self.level, self.level_var = log(middle / (1 - middle)), LEVEL_VAR_REPORTED
        weight = middle * (1 - middle)
        for account, (rate, attempts) in rates.items():
            told_var = REPORT_VAR + 1 / (attempts * weight)
            number = self._number(account, 0.0)
            gain = STANDING_VAR / (STANDING_VAR + told_var)
            self._expected[number] = self._standing[number] = gain * (rate - middle) / weight
            self._standing_var[number] = (1 - gain) * STANDING_VAR

    def _number(self, account: str, expected: float) -> int:
        number = self.numbers.get(account)
        if number is None:
            number = self.numbers[account] = len(self.numbers)
            self._expected.append(expected)
            self._standing.append(expected)
            self._standing_var.append(STANDING_VAR)
            for means, variances, variance in zip(self._drift, self._drift_var, DRIFT_VARS, strict=True):
                means.append(0.0)
                variances.append(variance)
            self._mixed.append(None)
        return number

    def _moved(self) -> None:
        """What is known of the accounts has moved: they are mixed anew when they are asked for."""
        self._mixed = [None] * len(self._standing)
        self._weights = None

    def _mix(self, number: int) -> tuple[float, float]:
        """An account's mean and variance, with its drifts weighed into one."""
        weights = self._weights
        if weights is None:
            odds = [exp(odds) for odds in self._odds]
            total = sum(odds)
            weights = self._weights = [each / total for each in odds]
        mean = square = 0.0
        for weight, means, variances in zip(weights, self._drift, self._drift_var, strict=True):
            drift = means[number]
            part = weight * drift
            mean += part
            square += weight * variances[number] + part * drift
        mixed = self._mixed[number] = (
            self._standing[number] + mean,
            self._standing_var[number] + (square - mean * mean),
        )
        return mixed

    def outlook(self, segment: str, names: Sequence[str]) -> Outlook:
        """What is expected of a payment in ``segment`` at ``names``. Changes nothing."""
        row, cell_var, mixed = self.rows.get(segment), self.cell_var, self._mixed
        base, precision = 0.0, 1 / BASE_VAR
        infos: list[float] = []
        pulls: list[float] = []
        volume = 0.0
        if row is not None:
            infos, pulls = row.info, row.pull
            volume = row.volume * exp((row.at - self.clock) / VOLUME_MEMORY)
            for info, pull in zip(infos, pulls, strict=True):
                if info:
                    part = 1 / (1 + cell_var * info)
                    precision += info * part
                    base += pull * part
        base /= precision
        shared = self.level + self.common + base
        means: list[float] = []
        rates: list[float] = []
        own_vars: list[float] = []
        leans: list[float] = []
        for name in names:
            number = self.numbers.get(name)
            mean, variance = STRANGER if number is None else mixed[number] or self._mix(number)
            if number is None or number >= len(infos) or not infos[number]:
                variance += cell_var
                leans.append(0.0)
            else:
                info = infos[number]
                cell = cell_var / (1 + cell_var * info)
                mean += cell * (pulls[number] - info * base)
                variance += cell
                leans.append(info * cell)
            means.append(mean)
            own_vars.append(variance)
            rates.append(1 / (1 + exp(-shared - mean)))
        volume = (volume + 1) / (self.volume + len(self.rows))
        return Outlook(names, shared, 1 / precision, means, rates, own_vars, leans, volume)

    def spreads(self, outlook: Outlook) -> list[float]:
        """The standard deviation of each account's log-odds, with all that it shares with others."""
        shared, base_var = self.level_var + self.common_var, outlook.base_var
        return [
            sqrt(shared + own_var + (1 - lean) * (1 - lean) * base_var)
            for own_var, lean in zip(outlook.own_vars, outlook.leans, strict=True)
        ]

    def evidence(self, segment: str, account: str, rate: float) -> float:
        """How many outcomes' worth of evidence a cell has of its own."""
        row, number = self.rows.get(segment), self.numbers.get(account)
        if row is None or number is None or number >= len(row.info):
            return 0.0
        return row.info[number] / (rate * (1 - rate))

    def pass_by(self) -> None:
        """One outcome has come in, of whatever kind: time goes on."""
        self.clock += 1
        self.volume += 1 - self.volume / VOLUME_MEMORY
        keep = _KEEP_COMMON
        self.common *= keep
        self.common_var = COMMON_VAR + keep * keep * (self.common_var - COMMON_VAR)
        if self.clock % STRIDE:
            return
        keep = _KEEP_STANDING
        for number, expected in enumerate(self._expected):
            self._standing[number] = expected + keep * (self._standing[number] - expected)
            self._standing_var[number] = STANDING_VAR + keep * keep * (self._standing_var[number] - STANDING_VAR)
        keep = _KEEP_DRIFT
        for means, variances, variance in zip(self._drift, self._drift_var, DRIFT_VARS, strict=True):
            for number in range(len(means)):
                means[number] *= keep
                variances[number] = variance + keep * keep * (variances[number] - variance)
        self._moved()

    def learn(self, segment: str, account: str, seen: Outlook, *, approved: bool) -> None:
        """Take one outcome in, where ``seen`` is the outlook at this account alone.

        A step of an extended Kalman filter: on each of the wider terms by itself, on a segment's terms together.
        """
        number = self._number(account, 0.0)
        row = self.rows.get(segment)
        if row is None:
            row = self.rows[segment] = Row(self.clock, 0.0, [], [])
        self._age(row, number)
        rest_var = self.level_var + self.common_var
        lean = 1 - seen.leans[0]
        own_mean, own_var = self._mixed[number] or self._mix(number)
        local_var = seen.own_vars[0] - own_var + lean * lean * seen.base_var
        log_odds = seen.base + seen.means[0]
        rate = sigmoid(log_odds)
        weight = rate * (1 - rate)
        surprise = approved - rate
        scale = 1 / (1 + weight * (rest_var + own_var + local_var))
        step, shrink = surprise * scale, weight * scale
        local = log_odds - self.level - self.common - own_mean
        # The accounts' drifts first, each by its own forecast; then what they leave to the other terms.
        self._follow(number, log_odds - own_mean, rest_var + local_var, approved=approved)
        self.level += self.level_var * step
        self.level_var -= self.level_var * self.level_var * shrink
        self.common += self.common_var * step
        self.common_var -= self.common_var * self.common_var * shrink
        standing_var = self._standing_var[number]
        self._standing[number] += standing_var * step
        self._standing_var[number] = standing_var - standing_var * standing_var * shrink
        heard = weight / (1 + weight * (rest_var + own_var))
        row.info[number] += heard
        row.pull[number] += heard * (local + surprise / weight)
        self._compare(row)
        self._moved()

    def _age(self, row: Row, number: int) -> None:
        """Let a segment's evidence fade by the time since it last learned, and count this outcome into its volume."""
        passed = self.clock - row.at
        row.at = self.clock
        row.volume = row.volume * exp(-passed / VOLUME_MEMORY) + 1
        row.info += [0.0] * (number + 1 - len(row.info))
        row.pull += [0.0] * (number + 1 - len(row.pull))
        loose = 2 * self.cell_var * -expm1(-passed / CELL_MEMORY)
        infos, pulls = row.info, row.pull
        for place, info in enumerate(infos):
            keep = 1 / (1 + info * loose)
            infos[place] = info * keep
            pulls[place] *= keep

    def _follow(self, number: int, rest: float, rest_var: float, *, approved: bool) -> None:
        """Move each strength's drift of an account, and weigh it by what it foretold. ``rest``: log-odds without the account."""
        rest += self._standing[number]
        rest_var += self._standing_var[number]
        odds = self._odds
        for strength, (means, variances) in enumerate(zip(self._drift, self._drift_var, strict=True)):
            mean, variance = means[number], variances[number]
            log_odds, doubt = rest + mean, rest_var + variance
            rate = 1 / (1 + exp(-log_odds))
            weight = rate * (1 - rate)
            scale = 1 / (1 + weight * doubt)
            # the mean over what is not known (probit)
            foretold = 1 / (1 + exp(-log_odds / sqrt(1 + 0.3926991 * doubt)))
            odds[strength] = DRIFT_TRUST * odds[strength] + log(foretold if approved else 1 - foretold)
            means[number] = mean + variance * (approved - rate) * scale
            variances[number] = variance - variance * variance * weight * scale
        most = max(odds)
        self._odds = [value - most for value in odds]

    def _compare(self, row: Row) -> None:
        """Re-estimate how much cells differ, by what this segment's cells now say."""
        cell_var = self.cell_var
        base, precision = 0.0, 1 / BASE_VAR
        for info, pull in zip(row.info, row.pull, strict=True):
            part = 1 / (1 + cell_var * info)
            precision += info * part
            base += pull * part
        base /= precision
        spread, cells = 0.0, 0
        for info, pull in zip(row.info, row.pull, strict=True):
            if info > 0.2:
                cell = cell_var / (1 + cell_var * info)
                mean, lean = cell * (pull - info * base), info * cell
                spread += mean * mean + cell + lean * lean / precision
                cells += 1
        self._spread += spread - row.spread
        self._cells += cells - row.cells
        row.spread, row.cells = spread, cells
        self.cell_var = min(max(self._spread / self._cells, CELL_VAR_MIN), CELL_VAR_MAX)

    def forget(self, segment: str) -> None:
        """Give up what is known of a segment alone."""
        row = self.rows.pop(segment, None)
        if row is not None:
            self._spread -= row.spread
            self._cells -= row.cells

    def snapshot(self) -> dict[str, Any]:
        """All terms, JSON-able."""
        return {
            "numbers": list(self.numbers),
            "clock": self.clock,
            "shared": [self.volume, self.level, self.level_var, self.common, self.common_var],
            "spread": [self.cell_var, self._spread, self._cells],
            "standing": [list(self._expected), list(self._standing), list(self._standing_var)],
            "drift": [[list(means) for means in self._drift], [list(row) for row in self._drift_var], list(self._odds)],
            "rows": {
                segment: [row.at, row.volume, list(row.info), list(row.pull), row.spread, row.cells]
                for segment, row in self.rows.items()
            },
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take all terms from a snapshot."""
        self.numbers = {account: number for number, account in enumerate(snapshot["numbers"])}
        self.clock = snapshot["clock"]
        self.volume, self.level, self.level_var, self.common, self.common_var = snapshot["shared"]
        self.cell_var, self._spread, self._cells = snapshot["spread"]
        self._expected, self._standing, self._standing_var = map(list, snapshot["standing"])
        means, variances, odds = snapshot["drift"]
        self._drift, self._drift_var = [list(row) for row in means], [list(row) for row in variances]
        self._odds = list(odds)
        self.rows = {
            segment: Row(at, volume, list(info), list(pull), spread, cells)
            for segment, (at, volume, info, pull, spread, cells) in snapshot["rows"].items()
        }
        self._moved()


_KEEP_COMMON: Final = exp(-1 / COMMON_MEMORY)
_KEEP_STANDING: Final = exp(-STRIDE / STANDING_MEMORY)
_KEEP_DRIFT: Final = exp(-STRIDE / DRIFT_MEMORY)
