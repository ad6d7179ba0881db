"""A routing document is read whole or refused with every fault."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, Final, get_args

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from routing.conditions import When
from routing.document import Strategy, StrategyName, read
from routing.lint import CODES, lint
from routing.reading import keys_of
from routing.schema import schema
from routing.strategies import STRATEGIES, make
from routing.strategies.guarded import Guarded
from routing.values import COUNTRIES

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


def test_the_schema_is_one_and_takes_the_examples() -> None:
    whole = schema()
    Draft202012Validator.check_schema(whole)
    validator = Draft202012Validator(whole)

    assert validator.is_valid(WHOLE)
    for example in whole["examples"]:
        assert validator.is_valid(example)
        assert json.loads(read(example).canonical()) == example
    for name, part in whole["$defs"].items():
        for example in part.get("examples", ()):
            of_part = Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": whole["$defs"]})
            assert of_part.is_valid(example), name


def test_the_names_of_countries_are_those_of_the_standard() -> None:
    table = resources.files("tzdata").joinpath("zoneinfo/iso3166.tab").read_text(encoding="utf-8")
    codes = {line[:2] for line in table.splitlines() if not line.startswith("#")}

    assert codes | {"XK"} == COUNTRIES


def test_every_strategy_can_be_named() -> None:
    assert get_args(StrategyName) == tuple(STRATEGIES)
    for name in STRATEGIES:
        outcome = read(
            {"default": {"strategy": name, "accounts": ["north"], "constraints": {"explore_max": 2}}}
        ).default
        assert isinstance(outcome, Strategy)
        assert isinstance(make(name, outcome.accounts, outcome.all_settings), Guarded)


PAGE: Final = (Path(__file__).parent.parent.parent / "docs/routing-documents.md").read_text(encoding="utf-8")


def test_the_documents_of_the_guide_can_be_read_and_have_nothing_against_them() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)

    assert len(blocks) == 2
    for block in blocks:
        assert [each for each in lint(block.encode()) if each.level != "hint"] == []


def test_the_guide_names_every_condition_and_every_code_of_lint() -> None:
    assert [name for name in keys_of(When) if f"`{name}`" not in PAGE] == []
    assert [code for code in CODES if f"`{code}`" not in PAGE] == []
