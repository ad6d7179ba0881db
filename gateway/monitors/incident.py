"""A monitor's incident: which part of the payments, since when, how bad, what it costs, and where to look. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from gateway.monitors.monitor import RATES, TRAFFIC, Severity
from gateway.monitors.segments import Segment, told
from providers.money import exponent

Detector = Literal["window", "slow_window", "cusum", "traffic", "static"]
"""What found it: a window that is far below what is expected; two windows in a row that are below it; a sum over hours that has grown;
missing traffic; or a threshold."""
CODES_MAX: Final = 5


class Loss(msgspec.Struct, frozen=True):
    """What is lost in an hour, in minor units of one currency. Currencies are never added up."""

    currency: str
    amount: int


class CodeShare(msgspec.Struct, frozen=True):
    """A decline code among the bad attempts of the window: how many, its share of them, and its share before where that was read."""

    code: str
    n: int
    share: float
    share_before: float | None = None


class Child(msgspec.Struct, frozen=True):
    """The part that the largest share of the lost approvals lies in, one dimension further down."""

    segment: Segment
    share: float


class Incident(msgspec.Struct, frozen=True):
    """One incident. Times are minutes (unix seconds // 60); rates are shares; ``lost`` is an estimate.

    ``key`` is the same as long as the incident lives, also where it turns out to be wider than was seen at first. ``also`` are other
    monitors that see the same cause. The figures are of ``minutes`` from ``since`` on, as they were at the last bad look, ``looked``.
    """

    key: str
    monitor: str
    rate: str
    segment: Segment
    severity: Severity
    detector: Detector
    opened: int
    looked: int
    since: int
    minutes: int
    expected_rate: float
    seen_rate: float
    n: int
    expected_n: float
    lost: float
    also: tuple[str, ...] = ()
    loss_per_hour: tuple[Loss, ...] = ()
    codes: tuple[CodeShare, ...] = ()
    child: Child | None = None
    closed: int | None = None
    closed_reason: Literal["recovered", "no_data", "gone"] | None = None

    @property
    def summary(self) -> str:
        """One sentence for somebody who was just woken. What a threshold has found is said in its monitor's words instead."""
        if self.rate == TRAFFIC:
            what = f"{self.n} attempts of {told(self.segment)} in {self.minutes} minutes, where {self.expected_n:.0f} are usual"
        else:
            what = (
                f"{_percent(1 - self.seen_rate)} of {self.n} attempts of {told(self.segment)} {RATES[self.rate].failing} in "
                f"{self.minutes} minutes, where {_percent(1 - self.expected_rate)} are usual"
            )
        lost = ", ".join(money(each) for each in self.loss_per_hour)
        return f"{what}: about {self.lost * 60 / self.minutes:.0f} approvals an hour are lost{f', worth {lost}' if lost else ''}."


def money(loss: Loss) -> str:
    """The amount as people write it: ``1,234.50 EUR``, ``1,234 JPY``."""
    decimals = exponent(loss.currency)
    units, rest = divmod(loss.amount, 10**decimals)
    return f"{units:,}{f'.{rest:0{decimals}}' if decimals else ''} {loss.currency}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def with_codes(incident: Incident, before: Mapping[str, int]) -> Incident:
    """The incident with each code's share of before. ``before``: how many of each code the segment had in the past, all codes together."""
    total = sum(before.values())
    if not total:
        return incident
    codes = tuple(CodeShare(each.code, each.n, each.share, before.get(each.code, 0) / total) for each in incident.codes)
    return msgspec.structs.replace(incident, codes=codes)
