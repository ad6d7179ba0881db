"""What the OpenAPI document says of the rates. As ``gateway.api.described_routing``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from gateway.api.metrics import FORMATS, csv_text, metric_object
from gateway.rates import DIMENSIONS, FILTERS_MAX, GROUPS_MAX, INTERVALS, METRICS, Amount, Asked, Cell, Measured

_ASKED: Final = Asked(
    "mer_shop",
    False,
    "payment_authorization_rate",
    datetime(2026, 11, 14, tzinfo=UTC),
    datetime(2026, 11, 21, tzinfo=UTC),
    ("account", "brand"),
    "day",
    {"currency": ("EUR",)},
)
_MEASURED: Final = Measured(
    (
        Cell(
            {"account": "main", "brand": "visa"},
            datetime(2026, 11, 14, tzinfo=UTC),
            1204,
            1093,
            (Amount("EUR", 4_812_300, 4_377_100),),
        ),
    ),
    datetime(2026, 11, 21, 9, 30, 0, 123456, UTC),
)
EXAMPLE: Final = metric_object(_ASKED, _MEASURED)
TABLE: Final = csv_text(_ASKED, _MEASURED)


def _parameter(name: str, description: str, *, where: str = "query", **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": description,
        "schema": {"type": "string", **schema},
    }


PARAMETERS: Final[list[dict[str, Any]]] = [
    _parameter("metric", "The rate.", where="path", enum=list(METRICS)),
    _parameter(
        "group_by",
        f"Up to {GROUPS_MAX} dimensions, with commas: {', '.join(DIMENSIONS)}, or metadata.KEY. A cell for each combination that occurs.",
    ),
    _parameter("from", "The beginning, RFC 3339; seven days before to where it is not given.", format="date-time"),
    _parameter("to", "The end, which is not part of it; now where it is not given.", format="date-time"),
    _parameter("interval", "With it there is a cell for each step, in UTC.", enum=list(INTERVALS)),
    {
        **_parameter(
            "filter",
            f"dimension:value, up to {FILTERS_MAX} dimensions. Given again with another value of the same dimension, either is meant. "
            "Nothing after the colon means that the value is not known.",
        ),
        "schema": {"type": "array", "items": {"type": "string"}},
        "explode": True,
    },
    _parameter("format", "csv for a table; so does Accept: text/csv.", enum=list(FORMATS)),
]
