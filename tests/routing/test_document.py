"""A routing document is read whole or refused with every fault."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from routing.document import Faulty, read

WHOLE: Final[dict[str, Any]] = {
    "$schema": "https://example.com/routing.schema.json",
    "name": "Europe first",
    "rules": [
        {
            "name": "night",
            "when": {
                "currency": "EUR",
                "amount": {"min": 100, "max": 50_000},
                "country": ["DE", "AT"],
                "brand": {"not": ["amex"]},
                "bin": ["4242", "510000-559999"],
                "time": {"days": ["fri"], "from": "22:00", "until": "06:00", "timezone": "Europe/Berlin"},
                "metadata": {"shop": ["7", "8"]},
            },
            "then": {"split": {"north": 66.5, "south": 33.5}},
        }
    ],
    "default": {"strategy": "adaptive", "accounts": ["north", "south"], "constraints": {"explore_max": 2}},
    "holdout": {"percent": 0.5},
}


def test_what_was_read_is_written_and_read_again() -> None:
    document = read(WHOLE)

    assert read(document.canonical()) == document
    assert read(json.dumps(WHOLE).encode()) == document
    assert json.loads(document.canonical()) == WHOLE


def test_every_fault_is_told_with_its_pointer_and_fix() -> None:
    with pytest.raises(Faulty) as caught:
        read(
            {
                "rules": [
                    {"name": "a", "when": {"currency": "EURO"}, "then": {"split": {"x": 50}}},
                    {"name": "a", "when": {"amount": {"min": 1.5}}, "then": {"priority": []}},
                ],
                "default": {"priority": ["x", "x"]},
            }
        )

    assert [fault.pointer for fault in caught.value.faults] == [
        "/rules/0/when/currency",
        "/rules/0/then",
        "/rules/1/when/amount/min",
        "/rules/1/then/priority",
        "/default/priority",
    ]
    assert all(fault.message and fault.fix for fault in caught.value.faults)
