"""Lint tells what cannot be, what will hardly be meant and what is worth knowing."""

from __future__ import annotations

from typing import Any, Final

import pytest

from routing.document import read
from routing.lint import CODES, AccountFacts, lint

NORTH: Final = {"priority": ["north"]}
SOUTH: Final = {"priority": ["south"]}
BOTH: Final = {"priority": ["north", "south"]}
ADAPTIVE: Final = {"strategy": "adaptive", "accounts": ["north", "south"]}
ACCOUNTS: Final = {
    "north": AccountFacts(frozenset({"EUR", "USD"}), frozenset({"merchant_initiated"})),
    "south": AccountFacts(frozenset({"EUR"}), frozenset({"merchant_initiated", "three_d_secure_redirect"})),
}


def ruled(*whens: dict[str, Any], then: Any = NORTH, default: Any = BOTH, **more: Any) -> dict[str, Any]:
    rules = [{"name": "abcdefgh"[place], "when": when, "then": then} for place, when in enumerate(whens)]
    return {"rules": rules, "default": default, **more}


def found(plain: Any, **more: Any) -> list[tuple[str, str, str]]:
    assert {each.code for each in lint(plain, **more)} <= CODES.keys()
    return [(each.level, each.code, each.pointer) for each in lint(plain, **more)]


COVERED: Final[dict[str, list[dict[str, Any]]]] = {
    "the same": [{"brand": "visa"}, {"brand": "visa"}],
    "one more condition": [{"brand": "visa"}, {"brand": "visa", "country": "DE"}],
    "one value of several": [{"brand": ["visa", "amex"]}, {"brand": "amex"}],
    "all but another": [{"brand": {"not": ["amex"]}}, {"brand": ["visa", "jcb"]}],
    "all but more": [{"brand": {"not": ["amex"]}}, {"brand": {"not": ["amex", "jcb"]}}],
    "the amount inside": [
        {"currency": "EUR", "amount": {"min": 100}},
        {"currency": "EUR", "amount": {"min": 200, "max": 300}},
    ],
    "the amount of its currency": [{"currency": ["EUR", "USD"]}, {"amount": {"min": 5, "currency": "EUR"}}],
    "two halves of an amount": [
        {"currency": "EUR", "amount": {"max": 100}},
        {"currency": "EUR", "amount": {"min": 101}},
        {"currency": "EUR"},
    ],
    "a value and all others": [{"brand": "visa"}, {"brand": {"not": ["visa"]}}, {"country": "DE"}],
    "both initiators": [{"initiator": "customer"}, {"initiator": "merchant"}, {"country": "DE"}],
    "not the one is the other": [{"initiator": "customer"}, {"initiator": {"not": ["merchant"]}}],
    "a prefix of the prefix": [{"bin": "4"}, {"bin": ["4242", "400000-499999"]}],
    "two halves of a prefix": [{"bin": "400000-449999"}, {"bin": "450000-499999"}, {"bin": "4"}],
    "the bin is of eight digits": [{"bin": "424242"}, {"bin": "42424242"}],
    "day and night": [
        {"time": {"from": "06:00", "until": "22:00", "timezone": "UTC"}},
        {"time": {"from": "22:00", "until": "06:00", "timezone": "UTC"}},
        {"brand": "visa"},
    ],
    "the night of one day": [
        {"time": {"from": "22:00", "until": "06:00", "timezone": "UTC"}},
        {"time": {"days": ["sun"], "from": "23:00", "until": "05:00", "timezone": "UTC"}},
    ],
    "metadata": [{"metadata": {"shop": ["7", "8"]}}, {"metadata": {"shop": "7", "till": "1"}}],
    "three corners": [
        {"brand": "visa", "country": "DE"},
        {"brand": {"not": ["visa"]}, "country": "DE"},
        {"country": {"not": ["DE"]}, "brand": "visa"},
        {"brand": "visa"},
    ],
}
OPEN: Final[dict[str, list[dict[str, Any]]]] = {
    "another value": [{"brand": "visa"}, {"brand": "amex"}],
    "one value more": [{"brand": "visa"}, {"brand": ["visa", "amex"]}],
    "an exception first": [{"brand": "visa", "country": "DE"}, {"brand": "visa"}],
    "what is not known": [{"country": "DE"}, {"country": {"not": ["DE"]}, "brand": "visa"}],
    "another metadata key": [{"metadata": {"shop": "7"}}, {"metadata": {"till": "7"}}],
    "a gap of one unit": [
        {"currency": "EUR", "amount": {"max": 99}},
        {"currency": "EUR", "amount": {"min": 101}},
        {"currency": "EUR"},
    ],
    "six digits in two halves of eight": [
        {"bin": "42424200-42424249"},
        {"bin": "42424250-42424299"},
        {"bin": "424242"},
    ],
    "other clocks": [
        {"time": {"from": "06:00", "until": "22:00", "timezone": "UTC"}},
        {"time": {"from": "10:00", "until": "12:00", "timezone": "Europe/Berlin"}},
    ],
}


@pytest.mark.parametrize("case", COVERED)
def test_a_rule_that_nothing_reaches_is_found(case: str) -> None:
    whens = COVERED[case]

    last = ("warning", "unreachable", f"/rules/{len(whens) - 1}")
    assert [each for each in found(ruled(*whens)) if each[1] == "unreachable"] == [last]


@pytest.mark.parametrize("case", OPEN)
def test_a_rule_that_something_reaches_is_left_alone(case: str) -> None:
    assert [each for each in found(ruled(*OPEN[case])) if each[1] in {"unreachable", "impossible"}] == []


def test_the_rule_that_is_in_the_way_is_named() -> None:
    (finding,) = lint(ruled({"brand": ["visa", "amex"]}, {"brand": "amex"}))

    assert finding.message == "Rule 'b' never decides: rule 'a' before it takes all its payments."
    assert finding.fix == "Move it before 'a', or remove it."
    assert finding.record()["code"] == "unreachable"


def test_rules_that_cut_across_each_other_and_differ_are_a_hint() -> None:
    whens = {"brand": "visa"}, {"country": ["DE", "AT"]}
    plain = ruled(*whens)
    plain["rules"][1]["then"] = SOUTH

    (finding,) = lint(plain)
    assert (finding.level, finding.code, finding.pointer) == ("hint", "overlap", "/rules/1")
    assert "(brand visa, country AT or DE)" in finding.message
    assert found(ruled(*whens)) == []  # they do the same


def test_faults_of_a_document_that_cannot_be_read_are_errors() -> None:
    plain = {"default": {"split": {"north": 50}}, "holdout": {"percent": 99}}

    assert found(plain) == [("error", "unreadable", "/default"), ("error", "unreadable", "/holdout/percent")]
    assert found(b"{") == [("error", "unreadable", "")]


ABOUT_ACCOUNTS: Final[dict[str, tuple[Any, list[tuple[str, str, str]]]]] = {
    "unknown": ({"default": {"priority": ["nroth", "south"]}}, [("error", "unknown_account", "/default/priority/0")]),
    "unknown in a split": (
        {"default": {"split": {"north": 50, "so/uth": 50}}},
        [("error", "unknown_account", "/default/split/so~1uth")],
    ),
    "unknown in a strategy and its holdout": (
        {
            "default": {"strategy": "adaptive", "accounts": ["north", "east"]},
            "holdout": {"percent": 5, "accounts": ["east"]},
        },
        [("error", "unknown_account", "/default/accounts/1"), ("error", "unknown_account", "/holdout/accounts/0")],
    ),
    "one that does not take the currency": (
        ruled({"currency": "USD"}, then={"priority": ["north", "south"]}, default=NORTH),
        [("warning", "unable_account", "/rules/0/then/priority/1"), ("hint", "gap", "/rules")],
    ),
    "none that takes the currency": (
        ruled({"currency": "JPY"}, {"currency": ["EUR", "USD"]}),
        [("error", "unable_account", "/rules/0/then/priority/0")],
    ),
    "one that is able to take some": (ruled({"currency": ["EUR", "JPY"]}, {"currency": "USD"}), []),
    "one without the capability": (
        ruled({"three_d_secure": "required"}, then={"split": {"north": 50, "south": 50}}, default=SOUTH),
        [("warning", "unable_account", "/rules/0/then/split/north")],
    ),
    "one that may or may not need the capability": (ruled({"three_d_secure": ["required", "automatic"]}), []),
    "a currency that no rule takes": (ruled({"currency": "EUR"}), [("hint", "gap", "/rules")]),
    "amounts between rules": (
        ruled(
            {"currency": "EUR", "amount": {"max": 1000}},
            {"currency": "EUR", "amount": {"min": 2000}},
            {"currency": "USD"},
        ),
        [("hint", "gap", "/rules")],
    ),
    "no rule about currencies": (ruled({"brand": "visa"}), []),
}


@pytest.mark.parametrize("case", ABOUT_ACCOUNTS)
def test_a_document_is_held_against_the_accounts(case: str) -> None:
    plain, expected = ABOUT_ACCOUNTS[case]

    assert found(plain, accounts=ACCOUNTS) == expected


def test_a_misspelt_account_is_told_with_the_one_that_is_meant() -> None:
    (finding,) = lint({"default": {"priority": ["nroth"]}}, ACCOUNTS)

    assert (finding.message, finding.fix) == ("There is no account 'nroth'.", "Write 'north'.")


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ({"default": NORTH, "holdout": {"percent": 5}}, [("warning", "no_effect", "/holdout")]),
        (
            {"default": ADAPTIVE, "holdout": {"percent": 5, "accounts": ["south", "west"]}},
            [("warning", "no_effect", "/holdout/accounts/1")],
        ),
        ({"default": {"strategy": "adaptive", "accounts": ["north"]}}, [("hint", "no_choice", "/default/accounts")]),
        (ruled({"brand": "visa"}, then=BOTH), [("hint", "no_effect", "/rules/0")]),
        ({"default": ADAPTIVE, "holdout": {"percent": 5}}, []),
    ],
)
def test_what_has_no_effect_is_told(plain: Any, expected: list[tuple[str, str, str]]) -> None:
    assert found(plain) == expected


def test_a_document_that_was_read_is_taken_as_it_is() -> None:
    assert lint(read({"default": NORTH}), ACCOUNTS) == []
