"""What somebody asks of the rates, as it stands in an address: which rate, since when, of what, and by what.

Pure. Everything that was asked is in the address, so that it may be kept, sent and come back to; a link is the same question with a
little of it changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from gateway.rates import DIMENSIONS, FILTERS_MAX, INTERVALS, METADATA, METRICS, Asked, Unanswerable

PERIODS: Final[Mapping[str, tuple[str, timedelta, str]]] = {
    "24h": ("24 hours", timedelta(hours=24), "hour"),
    "7d": ("7 days", timedelta(days=7), "day"),
    "30d": ("30 days", timedelta(days=30), "day"),
    "90d": ("90 days", timedelta(days=90), "week"),
}
"""What may be chosen: its name, how long it is, and the step of its series where no other is asked for."""
STEPS: Final[Mapping[str, timedelta]] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
}
"""How long a step of a series is, a month about."""
METRIC: Final = "attempt_authorization_rate"
PERIOD: Final = "30d"
BY: Final = "account"
KNOWN: Final = frozenset(
    {"metric", "period", "interval", "by", "filter", "add", "value", "mode", "table", "part", "full"}
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question. ``end`` is now; ``start`` is a whole step before it, so that the first step of a series is a whole one."""

    end: datetime
    metric: str = METRIC
    period: str = PERIOD
    interval: str = "day"
    by: str = BY
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def start(self) -> datetime:
        """The beginning of the hour, or of the day, in which the period begins."""
        at = self.end - PERIODS[self.period][1]
        hour = at.replace(minute=0, second=0, microsecond=0)
        return hour if self.period == "24h" else hour.replace(hour=0)

    @property
    def before(self) -> tuple[datetime, datetime]:
        """As long a time, just before it."""
        return self.start - (self.end - self.start), self.start

    def beside(self, at: datetime) -> datetime | None:
        """The step that a step of the time :attr:`before` is compared with: as many later as the period is long.

        ``None`` where that step is not a whole one.
        """
        start, end = self.before
        if at < start or _later(at, self.interval, 1) > end:
            return None
        return _later(at, self.interval, max(1, round((end - start) / STEPS[self.interval])))

    def asked(
        self,
        merchant_id: str,
        *group_by: str,
        livemode: bool,
        metric: str | None = None,
        series: bool = False,
        before: bool = False,
    ) -> Asked:
        """The question for the books of the rates: grouped, as a ``series``, or of the time ``before``."""
        start, end = self.before if before else (self.start, self.end)
        interval = self.interval if series else None
        return Asked(merchant_id, livemode, metric or self.metric, start, end, group_by, interval, self.filters)

    def query(self, **changes: object) -> dict[str, object]:
        """The question as the query of an address, with ``changes``. What is as usual is left out."""
        asked: dict[str, object] = {
            "metric": self.metric if self.metric != METRIC else None,
            "period": self.period if self.period != PERIOD else None,
            "interval": self.interval if self.interval != PERIODS[self.period][2] else None,
            "by": self.by if self.by != BY else None,
            "filter": [f"{name}:{value}" for name, values in self.filters.items() for value in values] or None,
        }
        if "period" in changes:
            asked["interval"] = None
        return asked | changes

    def only(self, name: str, value: str | None) -> dict[str, object]:
        """The query of the same question about what has this value alone. What is not known is the empty text."""
        return replace(self, filters={**self.filters, name: (value or "",)}).query()

    def without(self, name: str, value: str) -> dict[str, object]:
        """The query of the same question without one value of a filter."""
        left = tuple(each for each in self.filters[name] if each != value)
        kept = {each: values for each, values in self.filters.items() if each != name}
        return replace(self, filters={**kept, name: left} if left else kept).query()


def _later(at: datetime, interval: str, steps: int) -> datetime:
    if interval != "month":
        return at + steps * STEPS[interval]
    months = at.month - 1 + steps
    return at.replace(year=at.year + months // 12, month=months % 12 + 1)


def read(asked: Sequence[tuple[str, str]], now: datetime) -> Question:
    """The question in a query. Raises :class:`Unanswerable` naming what is none; what is left out is as usual.

    ``add`` and ``value`` are one more filter, as a form without script sends it.
    """
    plain = {name: value for name, value in asked if name != "filter"}
    if unknown := plain.keys() - KNOWN:
        raise Unanswerable("query", f"The address asks for {len(unknown)} thing(s) that this page does not know.")
    period = plain.get("period") or PERIOD
    if period not in PERIODS:
        raise Unanswerable("period", f"period must be one of: {', '.join(PERIODS)}.")
    interval = plain.get("interval") or PERIODS[period][2]
    if interval not in INTERVALS:
        raise Unanswerable("interval", f"interval must be one of: {', '.join(INTERVALS)}.")
    metric, by = plain.get("metric") or METRIC, plain.get("by") or BY
    if metric not in METRICS:
        raise Unanswerable("metric", f"metric must be one of: {', '.join(METRICS)}.")
    _check_dimension("by", by)
    added = [f"{plain['add']}:{plain.get('value', '').strip()}"] if plain.get("add") else []
    return Question(
        now, metric, period, interval, by, _filters([value for name, value in asked if name == "filter"] + added)
    )


def _filters(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        _check_dimension("filter", name)
        if not colon or "\0" in value:
            raise Unanswerable("filter", "A filter is a dimension, a colon and a value, such as brand:visa.")
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), value)))
    if len(found) > FILTERS_MAX:
        raise Unanswerable("filter", f"{FILTERS_MAX} filters at most.")
    return found


def _check_dimension(param: str, name: str) -> None:
    if name not in DIMENSIONS and not (name.startswith(METADATA) and len(name) > len(METADATA) and "\0" not in name):
        raise Unanswerable(
            param, f"{param} has a dimension that is none. There are: {', '.join(DIMENSIONS)}, metadata.KEY."
        )
