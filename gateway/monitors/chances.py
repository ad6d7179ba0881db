"""Chances: how likely is what was seen, if all were as ever. Pure.

A rate is known from so many attempts, and moves a little from day to day by itself. So what is expected of it is a Beta distribution,
and of a count the beta-binomial one: the normal approximation calls 6 of 20 declined, where 5 % are usual, a chance of 1 in 7 million;
it is 1 in 3,000.
"""

from __future__ import annotations

from math import exp, inf, lgamma, log, sqrt
from typing import Final

_ENOUGH: Final = 1e-6
"""A term of a sum that adds less than this share of it ends the sum."""


def chance_of_so_many(bad: int, n: int, share: float, weight: float) -> float:
    """The chance that ``bad`` or more of ``n`` fail where ``share`` of them do, as far as ``weight`` attempts can tell.

    ``share`` is between 0 and 1, both excluded; ``weight`` more than 0. Exact to a millionth of itself.
    """
    if bad <= 0:
        return 1.0
    fail, pass_ = share * weight, (1 - share) * weight
    if bad <= n * share:  # the longer side of the sum; nobody asks for its last digit
        return 1.0 - _sum_down(bad - 1, n, fail, pass_)
    term = exp(_log_chance(bad, n, fail, pass_))
    total = term
    for k in range(bad, n):
        term *= (n - k) * (k + fail) / ((k + 1) * (n - k - 1 + pass_))
        total += term
        if term < total * _ENOUGH:
            break
    return min(1.0, total)


def _sum_down(bad: int, n: int, fail: float, pass_: float) -> float:
    """The chance that ``bad`` or fewer of ``n`` fail."""
    term = exp(_log_chance(bad, n, fail, pass_))
    total = term
    for k in range(bad, 0, -1):
        term *= k * (n - k + pass_) / ((n - k + 1) * (k - 1 + fail))
        total += term
        if term < total * _ENOUGH:
            break
    return min(1.0, total)


def _log_chance(bad: int, n: int, fail: float, pass_: float) -> float:
    """The logarithm of the beta-binomial chance of ``bad`` of ``n``."""
    ways = lgamma(n + 1) - lgamma(bad + 1) - lgamma(n - bad + 1)
    return ways + _log_beta(bad + fail, n - bad + pass_) - _log_beta(fail, pass_)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def deviations(bad: int, n: int, share: float, weight: float) -> float:
    """By how many standard deviations more than ``share`` of ``n`` failed. Cheap: says where the exact chance is worth its price."""
    spread = share * (1 - share) * n * (weight + n) / (weight + 1)
    return (bad - n * share) / sqrt(spread) if spread > 0 else (inf if bad > n * share else 0.0)


def chance_of_so_few(seen: int, expected: float) -> float:
    """The chance of ``seen`` or fewer where ``expected`` come on average and each by itself (Poisson)."""
    if expected <= 0:
        return 1.0
    term = total = exp(-expected) if expected < 700 else 0.0  # beyond, a double has no such small number
    if not total:
        return 0.0 if seen < expected / 2 else 1.0
    for k in range(1, seen + 1):
        term *= expected / k
        total += term
    return min(1.0, total)


def steps(rate: float, less: float) -> tuple[float, float]:
    """What an approval and a decline add to the sum that looks for a fall from ``rate`` by ``less`` (Page's CUSUM of a Bernoulli variable).

    They are the logarithms of how much more likely each is after the fall: the first is negative, the second positive.
    From 0.90 by 0.05: -0.057 and +0.405. A rate of less than twice the fall is looked at for its half.
    """
    after = max(rate - less, rate / 2)
    return log(after / rate), log((1 - after) / (1 - rate))
