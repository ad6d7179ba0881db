"""The gateway's commands with instruments that count nothing: beside `gateway`, what the metrics cost a charge.

`python -m bench.unmetered serve`. What is timed for them is timed all the same: providers' seconds are told of a payment as well.
"""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from gateway import cli
from gateway.metrics.instruments import Instruments


def _nothing(*_: Any, **__: Any) -> None:
    """Count nothing."""


def silence() -> None:
    """Let every instrument of this process count nothing, and a request pass by uncounted."""
    MetricWrapperBase.labels = lambda self, *_, **__: self  # type: ignore[method-assign]
    for kind, names in ((Counter, ("inc",)), (Gauge, ("inc", "dec", "set")), (Histogram, ("observe",))):
        for name in names:
            setattr(kind, name, _nothing)
    Instruments.answered = _nothing  # type: ignore[method-assign]


if __name__ == "__main__":
    silence()
    cli.app()
