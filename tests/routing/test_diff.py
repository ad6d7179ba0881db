"""A diff says what has changed, rule by rule, in sentences."""

from __future__ import annotations

from typing import Any, Final

import pytest

from routing.diff import diff
from routing.document import read

A: Final = {"name": "a", "when": {"currency": "EUR"}, "then": {"priority": ["north"]}}
B: Final = {"name": "b", "when": {"brand": ["visa", "amex"]}, "then": {"split": {"north": 60, "south": 40}}}
C: Final = {
    "name": "c",
    "when": {"country": {"not": ["US"]}},
    "then": {"strategy": "adaptive", "accounts": ["north", "south"]},
}


def whole(*rules: dict[str, Any], default: Any = None, **more: Any) -> dict[str, Any]:
    return {"rules": list(rules), "default": default or {"priority": ["south"]}, **more}


CHANGES: Final[dict[str, tuple[Any, Any, list[tuple[str, str | None, str | None, str]]]]] = {
    "nothing": (whole(A, B), whole(B, A)["rules"] and whole(A, B), []),
    "a rule more": (whole(A), whole(A, B), [("added", None, "/rules/1", "Rule 'b' is added as number 2.")]),
    "a rule less": (whole(A, B), whole(B), [("removed", "/rules/0", None, "Rule 'a' is removed.")]),
    "one moved": (
        whole(A, B, C),
        whole(B, C, A),
        [("moved", "/rules/0", "/rules/2", "Rule 'a' is moved from number 1 to 3.")],
    ),
    "another name": (
        whole(A),
        whole({**A, "name": "euros"}),
        [("renamed", "/rules/0", "/rules/0", "Rule 'a' is called 'euros'.")],
    ),
    "another value": (
        whole(A),
        whole({**A, "when": {"currency": ["EUR", "USD"]}}),
        [
            (
                "changed",
                "/rules/0/when/currency",
                "/rules/0/when/currency",
                "Rule 'a': when currency was EUR and is EUR or USD.",
            )
        ],
    ),
    "one condition more": (
        whole(A),
        whole({**A, "when": {"currency": "EUR", "brand": {"not": ["amex"]}}}),
        [("changed", None, "/rules/0/when/brand", "Rule 'a': when brand is new: not amex.")],
    ),
    "one condition less": (
        whole({**A, "when": {"currency": "EUR", "bin": "4242"}}),
        whole(A),
        [("changed", "/rules/0/when/bin", None, "Rule 'a': when bin is gone; it was 4242.")],
    ),
    "other shares, in another place": (
        whole(B),
        whole(A, {**B, "then": {"split": {"north": 70, "south": 30}}}),
        [
            ("added", None, "/rules/0", "Rule 'a' is added as number 1."),
            (
                "changed",
                "/rules/0/then/split/north",
                "/rules/1/then/split/north",
                "Rule 'b': then split north was 60 and is 70.",
            ),
            (
                "changed",
                "/rules/0/then/split/south",
                "/rules/1/then/split/south",
                "Rule 'b': then split south was 40 and is 30.",
            ),
        ],
    ),
    "another outcome": (
        whole(B),
        whole({**B, "then": C["then"]}),
        [
            (
                "changed",
                "/rules/0/then",
                "/rules/0/then",
                "Rule 'b': then was the split north 60 %, south 40 % and is strategy adaptive over north, south.",
            )
        ],
    ),
    "the rest": (
        whole(A),
        whole(A, default={"priority": ["west", "south"]}, holdout={"percent": 5}),
        [
            (
                "changed",
                "/default/priority",
                "/default/priority",
                "The document: default priority was south and is west or south.",
            ),
            ("changed", None, "/holdout", 'The document: holdout is new: {"percent":5}.'),
        ],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_change_has_its_places_and_its_sentence(case: str) -> None:
    before, after, expected = CHANGES[case]
    changes = diff(read(before), read(after))

    assert [(each.kind, each.before, each.after, each.sentence) for each in changes] == expected


def test_a_change_is_told_as_json() -> None:
    (change,) = diff(read(whole(A)), read(whole()))

    assert change.record() == {
        "kind": "removed",
        "rule": "a",
        "before": "/rules/0",
        "after": None,
        "sentence": "Rule 'a' is removed.",
    }
