"""Every instrument that there is, for those who name one: the printed table, the rules and the dashboards are held to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from gateway.metrics.instruments import Instruments
from gateway.metrics.work import WorkInstruments

_SERIES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "summary": ("_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
}
"""What the series of each sort of instrument are called, after its name."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument: its name without what its series append, its sort, its labels, what it says, and which processes have it."""

    name: str
    sort: str
    labels: tuple[str, ...]
    says: str
    told_by: str

    @property
    def series(self) -> dict[str, frozenset[str]]:
        """The names under which Prometheus keeps it, each with its labels."""
        return {
            self.name + end: frozenset({*self.labels, *(("le",) if end == "_bucket" else ())})
            for end in _SERIES[self.sort]
        }


def instruments() -> list[Instrument]:
    """All of them, in the order of the code."""
    registry = CollectorRegistry()
    return [*_of(Instruments(registry), "every process"), *_of(WorkInstruments(registry), "a worker")]


def _of(holder: object, told_by: str) -> Iterator[Instrument]:
    for held in vars(holder).values():
        if isinstance(held, MetricWrapperBase):
            (family,) = held.describe()
            yield Instrument(family.name, family.type, tuple(held._labelnames), family.documentation, told_by)  # noqa: SLF001  # labels have no other name
