"""Synthetic payments: a market of three accounts, four brands, five currencies and eight issuer countries, with days, weeks and troubles.

Everything follows from the seed. Attempts are drawn one by one, and are pending until the shopper and the issuer are done.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from itertools import accumulate
from math import cos, exp, log, pi, sqrt
from random import Random

from gateway.monitors import Expected, Leaf, Overall, Past, Seen, Segment, expect, past_hours
from gateway.monitors.segments import holds

ACCOUNTS = {"acme_us": 0.5, "acme_eu": 0.3, "backup": 0.2}
BRANDS = {"visa": 0.5, "mastercard": 0.3, "amex": 0.12, "discover": 0.08}
CURRENCIES = {"EUR": 0.4, "USD": 0.25, "GBP": 0.2, "PLN": 0.1, "JPY": 0.05}
COUNTRIES = {"DE": 0.22, "US": 0.2, "GB": 0.16, "FR": 0.13, "PL": 0.1, "ES": 0.08, "JP": 0.06, "NL": 0.05}
HOME = {"DE": "EUR", "US": "USD", "GB": "GBP", "FR": "EUR", "PL": "PLN", "ES": "EUR", "JP": "JPY", "NL": "EUR"}
ZONE = {"DE": 1, "US": -6, "GB": 0, "FR": 1, "PL": 1, "ES": 1, "JP": 9, "NL": 1}
MEAN_AMOUNT = {"EUR": 4200, "USD": 4800, "GBP": 3900, "PLN": 18_000, "JPY": 6500}
CODES = {"insufficient_funds": 0.45, "do_not_honor": 0.35, "expired_card": 0.08, "invalid_cvc": 0.12}
CLASSES = ("approved", "declined", "authentication_failed", "technical", "unknown", "blocked", "canceled")
USUAL = {"authentication_failed": 0.03, "technical": 0.004, "unknown": 0.0008, "blocked": 0.015, "canceled": 0.005}
PER_MINUTE = 50
DAY = 1440
START = 29_000_160  # a Monday, 00:00 UTC, in minutes
Shares = dict[str, float]


@dataclass(frozen=True)
class Trouble:
    """What goes wrong from ``start`` to before ``end`` in a segment. ``worse`` makes the shares of the classes; ``loops`` is the share of
    challenges that never end, ``gone`` of shoppers who do not come."""

    start: int
    end: int
    segment: Segment = ()
    worse: Callable[[Shares, int], Shares] = lambda shares, _: shares
    code: str | None = None
    loops: float = 0.0
    gone: float = 0.0


def less(points: float, to: str = "declined") -> Callable[[Shares, int], Shares]:
    """Approvals fall by so much of all that are decided."""

    def worse(shares: Shares, _: int) -> Shares:
        lost = min(shares["approved"], points * (shares["approved"] + shares["declined"]))
        return {**shares, "approved": shares["approved"] - lost, to: shares[to] + lost}

    return worse


def failing(share: float, to: str) -> Callable[[Shares, int], Shares]:
    """Such a share of all attempts comes to ``to`` instead."""

    def worse(shares: Shares, _: int) -> Shares:
        return {name: each * (1 - share) + (share if name == to else 0) for name, each in shares.items()}

    return worse


def sinking(points_a_day: float, start: int) -> Callable[[Shares, int], Shares]:
    """Approvals fall a little more each minute."""
    return lambda shares, minute: less(points_a_day * max(0, minute - start) / DAY)(shares, minute)


class Market:
    def __init__(self, seed: int, troubles: Iterable[Trouble] = ()) -> None:
        self.seed, self.troubles = seed, tuple(troubles)
        dice = Random(seed)
        self.leaves, weights = [], []
        self.odds: dict[Leaf, float] = {}
        account = dict(zip(ACCOUNTS, (0.2, 0.0, -0.25), strict=True))
        brand = dict(zip(BRANDS, (0.1, 0.0, -0.4, -0.2), strict=True))
        country = {name: dice.gauss(0, 0.25) for name in COUNTRIES}
        currency = {name: dice.gauss(0, 0.1) for name in CURRENCIES}
        for a, of_a in ACCOUNTS.items():
            for b, of_b in BRANDS.items():
                for c, of_c in CURRENCIES.items():
                    for i, of_i in COUNTRIES.items():
                        leaf = Leaf(a, b, c, i)
                        self.leaves.append(leaf)
                        weights.append(of_a * of_b * of_c * of_i * (6 if HOME[i] == c else 1) * exp(dice.gauss(0, 0.3)))
                        self.odds[leaf] = 2.2 + account[a] + brand[b] + country[i] + currency[c] + dice.gauss(0, 0.15)
        total = sum(weights)
        self.weights = [each / total for each in weights]
        self.reached = list(accumulate(self.weights))
        self.other = {
            leaf: {name: share * exp(dice.gauss(0, 0.2)) for name, share in USUAL.items()} for leaf in self.leaves
        }
        self.minutes: dict[int, list[tuple[Seen, int]]] = {}
        self.final: dict[int, list[Seen]] = {}
        self.settled_by: dict[int, int] = {}
        self.hours: dict[int, list[Past]] = {}
        self.known: dict[int, Expected] = {}
        self._shares: tuple[object, dict[Leaf, list[float]]] = (None, {})
        self._overall: list[Overall] | None = None

    def beside(self, *troubles: Trouble) -> Market:
        """The same market in which something else goes wrong. What is usual is known to both, so no trouble may lie in the past of a look."""
        other = copy(self)
        other.troubles = troubles
        other.minutes, other.final, other.settled_by, other._shares = {}, {}, {}, (None, {})
        return other

    # --- What is true ----------------------------------------------------------------------------------------------------

    def busy(self, minute: int) -> float:
        """Attempts a minute that are usual."""
        day, at = divmod(minute - START, DAY)
        weekly = (1.0, 0.97, 0.98, 1.0, 1.12, 1.08, 0.85)[day % 7]
        return PER_MINUTE * weekly * (1 - 0.65 * cos(2 * pi * (at / DAY - 3 / 24)))

    def _crowd(self, minute: int) -> float:
        """How many more come than usual: an hour's and ten minutes' chance."""
        hour, ten = Random(f"{self.seed} crowd {minute // 60}"), Random(f"{self.seed} crowd {minute // 10} of ten")
        return exp(hour.gauss(0, 0.06) + ten.gauss(0, 0.06))

    def usual(self, leaf: Leaf, minute: int) -> Shares:
        """The shares of the classes without any trouble."""
        day, at = divmod(minute - START, DAY)
        moved = Random(f"{self.seed} day {day}").gauss(0, 0.03) + Random(f"{self.seed} {leaf.account} {day}").gauss(
            0, 0.04
        )
        local = (at / 60 + ZONE[leaf.issuer_country or "DE"]) / 24
        odds = self.odds[leaf] + 0.2 * cos(2 * pi * (local - 14 / 24)) - (0.08 if day % 7 >= 5 else 0.0) + moved
        other = self.other[leaf]
        decided, rate = 1 - sum(other.values()), 1 / (1 + exp(-odds))
        return {"approved": decided * rate, "declined": decided * (1 - rate), **other}

    def _reaching(self, minute: int) -> dict[Leaf, list[float]]:
        """The sums of the classes' shares, by leaf; troubles that move are followed each half an hour."""
        active = tuple(at for at, each in enumerate(self.troubles) if each.start <= minute < each.end)
        key = (minute // 30, active)
        if self._shares[0] != key:
            self._shares = (key, {})
        return self._shares[1]

    def _line(self, leaf: Leaf, minute: int) -> list[float]:
        lines = self._reaching(minute)
        line = lines.get(leaf)
        if line is None:
            shares = self.usual(leaf, minute // 30 * 30)
            for each in self.troubles:
                if each.start <= minute < each.end and holds(each.segment, leaf):
                    shares = each.worse(shares, minute)
            line = lines[leaf] = list(accumulate(shares[name] for name in CLASSES))
        return line

    # --- What happens ----------------------------------------------------------------------------------------------------

    def _draw(self, minute: int) -> list[tuple[Seen, int]]:
        dice = Random(f"{self.seed} minute {minute}")
        mean = self.busy(minute) * self._crowd(minute)
        n = max(0, round(dice.gauss(mean, sqrt(mean))))
        active = [each for each in self.troubles if each.start <= minute < each.end]
        drawn = []
        for leaf in dice.choices(self.leaves, cum_weights=self.reached, k=n):
            line = self._line(leaf, minute)
            what = CLASSES[min(bisect(line, dice.random() * line[-1]), len(CLASSES) - 1)]
            code = dice.choices(list(CODES), list(CODES.values()))[0] if what == "declined" else None
            challenged = what == "authentication_failed" or dice.random() < 0.15
            settled = minute + (1 + int(min(30.0, dice.expovariate(1 / 1.5))) if challenged else 0)
            lost = False
            for each in active:
                if holds(each.segment, leaf):
                    lost = lost or dice.random() < each.gone
                    if dice.random() < each.loops:
                        what, code, settled = "authentication_failed", None, minute + 60
                    if each.code is not None and what == "declined":
                        code = each.code
            if not lost:
                amount = max(100, round(dice.lognormvariate(log(MEAN_AMOUNT[leaf.currency or "EUR"]), 0.7)))
                drawn.append((Seen(minute, leaf, what, code, 1, amount), settled))
        return drawn

    def seen(self, since: int, until: int) -> list[Seen]:
        """The attempts of these minutes, as they are known at ``until``."""
        rows: list[Seen] = []
        for minute in range(since, until):
            if minute not in self.settled_by:
                self.minutes[minute] = drawn = self._draw(minute)
                self.final[minute] = [row for row, _ in drawn]
                self.settled_by[minute] = max((settled for _, settled in drawn), default=minute)
                if minute % 60 == 0:
                    self._fold(minute // 60 - 4)
            if self.settled_by[minute] < until:
                rows += self.final[minute]
            else:
                rows += (
                    row if settled < until else row._replace(what="pending", code=None)
                    for row, settled in self.minutes[minute]
                )
        return rows

    def _fold(self, hour: int) -> None:
        """Keep the counts of an hour instead of its attempts, where all of them were drawn, and forget what no week needs any more."""
        minutes = range(hour * 60, hour * 60 + 60)
        if all(minute in self.settled_by for minute in minutes):
            counts: dict[tuple[Leaf, str], list[int]] = defaultdict(lambda: [0, 0])
            for minute in minutes:
                for row in self.final.pop(minute):
                    sums = counts[row.leaf, row.what]
                    sums[0] += 1
                    sums[1] += row.amount
                del self.minutes[minute], self.settled_by[minute]
            self._keep(hour, counts)
            self.hours.pop(hour - 5 * 168, None)

    def _keep(self, hour: int, counts: dict[tuple[Leaf, str], list[int]]) -> None:
        self.hours[hour] = [Past(hour, leaf, what, n, amount) for (leaf, what), (n, amount) in counts.items()]

    def _hour(self, hour: int) -> list[Past]:
        """What came of an hour: of the attempts that were drawn, else as likely as they."""
        if hour not in self.hours:
            self._likely(hour)
        return self.hours[hour]

    def _likely(self, hour: int) -> None:
        counts: dict[tuple[Leaf, str], list[int]] = defaultdict(lambda: [0, 0])
        dice = Random(f"{self.seed} hour {hour}")
        middle = hour * 60 + 30
        mean = 60 * self.busy(middle) * exp(dice.gauss(0, 0.065))
        n = max(0, round(dice.gauss(mean, sqrt(mean))))
        for leaf in dice.choices(self.leaves, cum_weights=self.reached, k=n):
            line = self._line(leaf, middle)
            what = CLASSES[min(bisect(line, dice.random() * line[-1]), len(CLASSES) - 1)]
            sums = counts[leaf, what]
            sums[0] += 1
            sums[1] += round(MEAN_AMOUNT[leaf.currency or "EUR"] * 1.28)
        self._keep(hour, counts)

    def expected(self, hour: int) -> Expected:
        """What is usual in ``hour``."""
        if hour not in self.known:
            past = [row for each in past_hours(hour) for row in self._hour(each)]
            self.known[hour] = expect(hour, past, self.overall())
            self.known.pop(hour - 8, None)
        return self.known[hour]

    def overall(self) -> list[Overall]:
        """Four weeks altogether, without what chance makes of them: the days of one, every third hour of them."""
        if self._overall is None:
            sums: dict[tuple[Leaf, str], float] = defaultdict(float)
            for at in range(0, 7 * 24, 3):
                minute = START + at * 60 + 30
                for leaf, weight in zip(self.leaves, self.weights, strict=True):
                    for what, share in self.usual(leaf, minute).items():
                        sums[leaf, what] += 3 * 4 * 60 * self.busy(minute) * weight * share
            self._overall = [
                Overall(leaf, what, round(n), round(n) * round(MEAN_AMOUNT[leaf.currency or "EUR"] * 1.28))
                for (leaf, what), n in sums.items()
            ]
        return self._overall
