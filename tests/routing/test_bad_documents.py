"""Every fault of a document is told with its place and with what to write instead."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from routing.document import Fault, Faulty, read
from routing.schema import schema

TO_ONE: Final = {"priority": ["north"]}
NIGHT: Final = {"from": "22:00", "until": "06:00", "timezone": "Europe/Berlin"}
PROMISE: Final = {"attempts": 5, "starts_at": "2026-12-01T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z"}
ADAPTIVE: Final = {"strategy": "adaptive", "accounts": ["north", "south"]}


def when(**conditions: Any) -> dict[str, Any]:
    return {"rules": [{"name": "a", "when": conditions, "then": TO_ONE}], "default": TO_ONE}


def then(outcome: Any) -> dict[str, Any]:
    return {"rules": [{"name": "a", "when": {"currency": "EUR"}, "then": outcome}], "default": TO_ONE}


def rules(*names: Any) -> dict[str, Any]:
    return {
        "rules": [{"name": name, "when": {"currency": "EUR"}, "then": TO_ONE} for name in names],
        "default": TO_ONE,
    }


def whole(**more: Any) -> dict[str, Any]:
    return {"default": TO_ONE, **more}


def text(inside: str) -> bytes:
    return f'{{"default": {inside}}}'.encode()


AT: Final = "/rules/0/when/"
TO: Final = "/rules/0/then"
BAD: Final[dict[str, tuple[Any, str, str]]] = {
    # The text
    "no JSON": (b'{"default": ', "", "Correct line 1, column 13; an editor with the JSON Schema shows it."),
    "a comma too many": (b'{"rules": [],}', "", "Correct line 1, column 14; an editor with the JSON Schema shows it."),
    "nothing": (b"", "", "Correct line 1, column 1; an editor with the JSON Schema shows it."),
    "another encoding": ('{"name": "Küche"}'.encode("latin-1"), "", "Save it as UTF-8."),
    "too large": (
        b" " * (256 * 1024 + 1),
        "",
        "Merge rules, and write ranges of card numbers for lists of them.",
    ),
    "nested too deep for the parser": (b"[" * 100_000, "", "Use at most 16 levels."),
    "nested too deep": (text("[" * 20 + "]" * 20), "/default" + "/0" * 15, "Use at most 16 levels."),
    "a number that no machine holds": (text("1" + "0" * 5_000), "", "Write a number of at most 9007199254740992."),
    "a number that JSON does not carry": (
        whole(default={**ADAPTIVE, "settings": {"cells_max": 2**60}}),
        "/default/settings/cells_max",
        "Write a number of at most 9007199254740992.",
    ),
    "a key twice": (b'{"default": {"priority": ["a"]}, "default": {"priority": ["b"]}}', "/default", "Write it once."),
    "a key twice, deep": (
        text('{"split": {"north": 50, "north": 50, "south": 50}}'),
        "/default/split/north",
        "Write it once.",
    ),
    "NaN": (text('{"split": {"north": NaN}}'), "/default/split/north", "Write a number."),
    "Infinity": (whole(holdout={"percent": float("inf")}), "/holdout/percent", "Write a number."),
    "null": (whole(holdout=None), "/holdout", "Leave the key out."),
    "half of a surrogate pair": (
        rb'{"name": "\ud800", "default": {"priority": ["a"]}}',
        "/name",
        "Leave \\u0000 and halves of surrogate pairs out.",
    ),
    "a zero byte": (
        rb'{"default": {"priority": ["a\u0000"]}}',
        "/default/priority/0",
        "Leave \\u0000 and halves of surrogate pairs out.",
    ),
    "a zero byte in a key": (
        rb'{"default": {"split": {"a\u0000": 100}}}',
        "/default/split",
        "Write the key as printable text.",
    ),
    "no JSON value": (
        whole(default={"priority": {"a"}}),
        "/default/priority",
        "Write text, a number, true, false, a list or an object.",
    ),
    # The whole
    "a list": ([], "", 'Write an object, such as {"key": …}.'),
    "no default": ({"rules": []}, "/default", "Add 'default'."),
    "a misspelt key": (whole(rule=[]), "/rule", "Write 'rules'."),
    "another gateway's key": (whole(fallback=TO_ONE), "/fallback", "Write 'default'."),
    "a key of nobody": (
        whole(zzz=1),
        "/zzz",
        "Leave it out; what may stand here is '$schema', 'name', 'note', 'rules', 'default' and 'holdout'.",
    ),
    "a key with slashes": (
        whole(**{"a/b~c": 1}),
        "/a~1b~0c",
        "Leave it out; what may stand here is '$schema', 'name', 'note', 'rules', 'default' and 'holdout'.",
    ),
    "rules in an object": (whole(rules={"a": 1}), "/rules", 'Write a list, such as ["name"].'),
    "too many rules": (rules(*map(str, range(501))), "/rules", "Take some out, or spread them over several rules."),
    "a holdout too large": (whole(holdout={"percent": 11}), "/holdout/percent", "Write at most 10."),
    "a holdout too small": (whole(holdout={"percent": 0.4}), "/holdout/percent", "Write at least 0.5."),
    "a holdout in words": (
        whole(holdout={"percent": "5"}),
        "/holdout/percent",
        "Write a number from 0 to 100, without quotes.",
    ),
    "a rollback in words": (
        whole(holdout={"percent": 5, "rollback": "yes"}),
        "/holdout/rollback",
        "Write true or false, such as true.",
    ),
    "an unknown key of the holdout": (whole(holdout={"share": 5}), "/holdout/share", "Write 'percent'."),
    # Rules
    "a rule that is text": (whole(rules=["eu"]), "/rules/0", 'Write an object, such as {"key": …}.'),
    "a rule without a name": (
        whole(rules=[{"when": {"currency": "EUR"}, "then": TO_ONE}]),
        "/rules/0/name",
        "Add 'name'.",
    ),
    "a rule without conditions": (when(), "/rules/0/when", "Add a condition, or make it the 'default'."),
    "a rule with if": (
        whole(rules=[{"name": "a", "if": {"currency": "EUR"}, "when": {"currency": "EUR"}, "then": TO_ONE}]),
        "/rules/0/if",
        "Write 'when'.",
    ),
    "two rules of a name": (rules("a", "b", "a"), "/rules/2/name", "Give the rule its own."),
    "a rule called default": (rules("default"), "/rules/0/name", "Give the rule its own."),
    "an empty name": (rules(""), "/rules/0/name", "Write something, or leave the key out."),
    "a name of spaces": (rules(" eu\n"), "/rules/0/name", "Write 'eu'."),
    "a long name": (rules("x" * 65), "/rules/0/name", "Shorten it."),
    # Conditions
    "a misspelt condition": (when(curency="EUR"), f"{AT}curency", "Write 'currency'."),
    "a condition of another gateway": (when(card_brand="visa"), f"{AT}card_brand", "Write 'brand'."),
    "an unknown currency": (when(currency="EURO"), f"{AT}currency", "Write 'EUR'."),
    "a currency in lower case": (when(currency=["USD", "eur"]), f"{AT}currency/1", "Write 'EUR'."),
    "a currency that buys nothing": (
        when(currency="XAU"),
        f"{AT}currency",
        "Write a code of three capital letters, such as 'EUR'.",
    ),
    "no currency": (when(currency=[]), f"{AT}currency", "Name one."),
    "a currency twice": (when(currency=["EUR", "EUR"]), f"{AT}currency", "Write it once."),
    "a number for a currency": (when(currency=978), f"{AT}currency", 'Write text, such as "name".'),
    "a not of nothing": (when(brand={"not": []}), f"{AT}brand/not", "Name one."),
    "a not of text": (when(brand={"not": "amex"}), f"{AT}brand/not", 'Write a list, such as ["name"].'),
    "a misspelt not": (when(brand={"nott": ["amex"]}), f"{AT}brand/nott", "Write 'not'."),
    "a brand in capitals": (when(brand={"not": ["American Express"]}), f"{AT}brand/not/0", "Write 'american_express'."),
    "a country in words": (
        when(country="Germany"),
        f"{AT}country",
        "Write a code of two capital letters, such as 'DE'.",
    ),
    "the United Kingdom": (when(country=["IE", "UK"]), f"{AT}country/1", "Write 'GB'."),
    "an issuer's country in lower case": (when(issuer_country="us"), f"{AT}issuer_country", "Write 'US'."),
    "an amount with decimals": (
        when(currency="EUR", amount={"min": 19.99}),
        f"{AT}amount/min",
        "Write a whole number, such as 1999: amounts are in minor units.",
    ),
    "an amount in text": (
        when(currency="EUR", amount={"max": "100"}),
        f"{AT}amount/max",
        "Write a whole number, such as 1999: amounts are in minor units.",
    ),
    "an amount below nothing": (when(currency="EUR", amount={"min": -1}), f"{AT}amount/min", "Write at least 0."),
    "an amount beyond all": (
        when(currency="EUR", amount={"max": 10**12}),
        f"{AT}amount/max",
        "Write at most 999999999999.",
    ),
    "an amount upside down": (
        when(currency="EUR", amount={"min": 5, "max": 2}),
        f"{AT}amount",
        "Write min 2 and max 5.",
    ),
    "an amount of nothing": (when(currency="EUR", amount={}), f"{AT}amount", "Add 'min' or 'max', in minor units."),
    "an amount in no currency": (
        when(amount={"min": 5}),
        "/rules/0/when",
        "Add 'currency' to the amount, or exactly one currency to the rule.",
    ),
    "an amount in two currencies": (
        when(currency=["EUR", "USD"], amount={"min": 5}),
        "/rules/0/when",
        "Add 'currency' to the amount, or exactly one currency to the rule.",
    ),
    "an amount in all but one currency": (
        when(currency={"not": ["USD"]}, amount={"min": 5}),
        "/rules/0/when",
        "Add 'currency' to the amount, or exactly one currency to the rule.",
    ),
    "an amount in a currency that the rule leaves out": (
        when(currency=["USD", "GBP"], amount={"min": 5, "currency": "EUR"}),
        "/rules/0/when",
        "Add 'EUR' to the currency of the rule, or take it from the amount.",
    ),
    "a bin of letters": (
        when(bin="4242x"),
        f"{AT}bin",
        "Write 1 to 8 digits such as '4242', or two numbers of the same length such as '400000-499999'.",
    ),
    "a bin of nine digits": (
        when(bin=["424242424"]),
        f"{AT}bin/0",
        "Write 1 to 8 digits such as '4242', or two numbers of the same length such as '400000-499999'.",
    ),
    "a bin range of two lengths": (when(bin="4000-49"), f"{AT}bin", "Write '4000-4999'."),
    "a bin range upside down": (when(bin="49-40"), f"{AT}bin", "Write '40-49'."),
    "too many bins": (
        when(bin=[str(number) for number in range(1_001)]),
        f"{AT}bin",
        "Take some out, or spread them over several rules.",
    ),
    "an unknown initiator": (when(initiator="merchnt"), f"{AT}initiator", "Write 'merchant'."),
    "an unknown recurrence": (
        when(recurring="yes"),
        f"{AT}recurring",
        "Write one of 'subscription', 'unscheduled' and 'card_on_file'.",
    ),
    "3-D Secure as a truth": (
        when(three_d_secure=True),
        f"{AT}three_d_secure",
        "Write one of 'automatic' and 'required'.",
    ),
    "a time zone of nobody": (
        when(time={**NIGHT, "timezone": "Mars"}),
        f"{AT}time/timezone",
        "Write one such as 'Europe/Berlin'.",
    ),
    "a city": (when(time={**NIGHT, "timezone": "Berlin"}), f"{AT}time/timezone", "Write 'Europe/Berlin'."),
    "a folder of time zones": (
        when(time={**NIGHT, "timezone": "Europe/"}),
        f"{AT}time/timezone",
        "Write one such as 'Europe/Berlin'.",
    ),
    "a way out of the folder": (
        when(time={**NIGHT, "timezone": "../../etc/passwd"}),
        f"{AT}time/timezone",
        "Write one such as 'Europe/Berlin'.",
    ),
    "no time zone": (when(time={"from": "22:00"}), f"{AT}time/timezone", "Add 'timezone'."),
    "a short hour": (when(time={**NIGHT, "until": "6:00"}), f"{AT}time/until", "Write '06:00'."),
    "an hour of 25": (when(time={**NIGHT, "from": "25:00"}), f"{AT}time/from", "Write it as '22:00'."),
    "a window from midnight at the end": (when(time={**NIGHT, "from": "24:00"}), f"{AT}time", "Write '00:00'."),
    "an empty window": (
        when(time={**NIGHT, "until": "22:00"}),
        f"{AT}time",
        "Leave 'from' and 'until' out for the whole day.",
    ),
    "a time without a time": (when(time={"timezone": "UTC"}), f"{AT}time", "Add one of them."),
    "a long day": (when(time={"days": ["Monday"], "timezone": "UTC"}), f"{AT}time/days/0", "Write 'mon'."),
    "a day of nobody": (
        when(time={"days": ["xyz"], "timezone": "UTC"}),
        f"{AT}time/days/0",
        "Write one of mon, tue, wed, thu, fri, sat, sun.",
    ),
    "a misspelt end": (when(time={**NIGHT, "to": "06:00"}), f"{AT}time/to", "Write 'until'."),
    "metadata as text": (when(metadata="shop"), f"{AT}metadata", 'Write an object, such as {"key": …}.'),
    "metadata without keys": (when(metadata={}), f"{AT}metadata", "Name one."),
    "metadata that are numbers": (when(metadata={"shop": 7}), f"{AT}metadata/shop", 'Write text, such as "name".'),
    "too many conditions": (
        when(metadata={f"key{number}": "x" for number in range(21)}),
        "/rules/0/when",
        "Leave some out: a list of values is one condition.",
    ),
    # Outcomes
    "an account for an outcome": (
        then("north"),
        TO,
        "Write one with 'priority', 'split' and 'strategy', such as {'priority': ['acme_eu']}.",
    ),
    "an outcome of nothing": (then({}), TO, "Add 'priority', 'split' or 'strategy'."),
    "a misspelt outcome": (then({"priorities": ["north"]}), TO, "Write 'priority'."),
    "two outcomes": (then({**TO_ONE, "split": {"north": 100}}), TO, "Keep one of them."),
    "nobody to ask": (then({"priority": []}), f"{TO}/priority", "Name one."),
    "one account as text": (then({"priority": "north"}), f"{TO}/priority", 'Write a list, such as ["name"].'),
    "an account twice": (then({"priority": ["north", "south", "north"]}), f"{TO}/priority", "Write it once."),
    "an empty account": (then({"priority": [""]}), f"{TO}/priority/0", "Write something, or leave the key out."),
    "a split that is too small": (then({"split": {"north": 60, "south": 30}}), TO, "Add 10."),
    "a split that is too large": (then({"split": {"north": 60.5, "south": 40}}), TO, "Take 0.5 away."),
    "a split of shares": (then({"split": {"north": 33.333, "south": 66.67}}), f"{TO}/split/north", "Write 33.33."),
    "a negative part": (then({"split": {"north": 100, "south": -10}}), f"{TO}/split/south", "Write at least 0."),
    "a split in a list": (then({"split": ["north"]}), f"{TO}/split", 'Write an object, such as {"key": …}.'),
    "a misspelt strategy": (then({**ADAPTIVE, "strategy": "adaptiv"}), f"{TO}/strategy", "Write 'adaptive'."),
    "a strategy without accounts": (then({"strategy": "adaptive"}), f"{TO}/accounts", "Add 'accounts'."),
    "a misspelt setting": (
        then({**ADAPTIVE, "settings": {"probeshare": 1}}),
        f"{TO}/settings/probeshare",
        "Write 'probe_share'.",
    ),
    "a setting out of range": (
        then({**ADAPTIVE, "settings": {"probe_share": 50}}),
        f"{TO}/settings/probe_share",
        "Give a number from 0.05 to 10 (percent of payments).",
    ),
    "a misspelt account in a setting": (
        then({"strategy": "weighted", "accounts": ["north", "south"], "settings": {"weights": {"nroth": 1}}}),
        f"{TO}/settings/weights/nroth",
        "Write 'north'.",
    ),
    "constraints among the settings": (
        then({**ADAPTIVE, "settings": {"constraints": {}}}),
        f"{TO}/settings/constraints",
        "Write them beside the settings.",
    ),
    "a misspelt constraint": (
        then({**ADAPTIVE, "constraints": {"max_shares": {}}}),
        f"{TO}/constraints/max_shares",
        "Write 'max_share'.",
    ),
    "least shares above all": (
        then({**ADAPTIVE, "constraints": {"min_share": {"north": 60, "south": 50}}}),
        f"{TO}/constraints/min_share",
        "Lower them.",
    ),
    "a least share above the greatest": (
        then({**ADAPTIVE, "constraints": {"min_share": {"north": 60}, "max_share": {"north": 50}}}),
        f"{TO}/constraints/min_share/north",
        "Lower it, or raise the max_share.",
    ),
    "a commitment to an account that is not ranked": (
        then({**ADAPTIVE, "constraints": {"commitments": {"sout": PROMISE}}}),
        f"{TO}/constraints/commitments/sout",
        "Write 'south'.",
    ),
    "a commitment that ends before it starts": (
        then({**ADAPTIVE, "constraints": {"commitments": {"south": {**PROMISE, "ends_at": "2026-11-01T00:00:00Z"}}}}),
        f"{TO}/constraints/commitments/south/ends_at",
        "Give a later time.",
    ),
    "a commitment without an offset": (
        then({**ADAPTIVE, "constraints": {"commitments": {"south": {**PROMISE, "starts_at": "2026-12-01"}}}}),
        f"{TO}/constraints/commitments/south/starts_at",
        "Write it as '2026-12-01T00:00:00Z'.",
    ),
    "a commitment of half an attempt": (
        then({**ADAPTIVE, "constraints": {"commitments": {"south": {**PROMISE, "attempts": 0.5}}}}),
        f"{TO}/constraints/commitments/south/attempts",
        "Write a whole number, such as 10000.",
    ),
    "a misspelt key of a commitment": (
        then({**ADAPTIVE, "constraints": {"commitments": {"south": {**PROMISE, "attemps": 5}}}}),
        f"{TO}/constraints/commitments/south/attemps",
        "Write 'attempts'.",
    ),
    "a share of an account that is not ranked": (
        then({**ADAPTIVE, "constraints": {"max_share": {"sout": 50}}}),
        f"{TO}/constraints/max_share/sout",
        "Write 'south'.",
    ),
    "exploration beyond all": (
        then({**ADAPTIVE, "constraints": {"explore_max": 101}}),
        f"{TO}/constraints/explore_max",
        "Write at most 100.",
    ),
    "a limit without a currency": (
        then({**ADAPTIVE, "constraints": {"never_explore_above": {"amount": 5}}}),
        f"{TO}/constraints/never_explore_above/currency",
        "Add 'currency'.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_document_is_refused_with_the_place_and_the_fix(case: str) -> None:
    document, pointer, fix = BAD[case]

    with pytest.raises(Faulty) as caught:
        read(document)

    assert [(fault.pointer, fault.fix) for fault in caught.value.faults] == [(pointer, fix)]
    assert caught.value.faults[0].message.endswith(".")


def test_every_fault_of_a_document_is_told_at_once_and_in_its_order() -> None:
    document = {
        "defualt": TO_ONE,
        "rules": [
            {"name": "a", "when": {"currency": "EURO", "brand": "VISA"}, "then": {"split": {"north": 50}}},
            {"name": "a", "when": {"amount": {"min": 1.5}}, "then": {"priority": []}},
            {"name": "c", "when": {}, "then": {**ADAPTIVE, "settings": {"window": 3}}},
        ],
        "holdout": {"percent": 50, "accounts": None},
    }

    with pytest.raises(Faulty) as caught:
        read(json.dumps(document).encode())

    assert [fault.pointer for fault in caught.value.faults] == [
        "/defualt",
        "/rules/0/when/currency",
        "/rules/0/when/brand",
        "/rules/0/then",
        "/rules/1/name",
        "/rules/1/when/amount/min",
        "/rules/1/then/priority",
        "/rules/2/when",
        "/rules/2/then/settings/window",
        "/holdout/percent",
        "/holdout/accounts",
    ]
    assert str(caught.value).startswith("/defualt: There is no such key. Write 'default'. /rules/0")


def test_a_document_never_repeats_a_fault_of_one_place() -> None:
    with pytest.raises(Faulty) as caught:
        read(b'{"default": {"priority": [null]}}')

    assert caught.value.faults == (Fault("/default/priority/0", "null says nothing here.", "Leave the key out."),)


BEYOND_A_SCHEMA: Final = frozenset(
    {
        "a rule called default",
        "a name of spaces",
        "a currency that buys nothing",
        "the United Kingdom",
        "an amount upside down",
        "an amount of nothing",
        "an amount in no currency",
        "an amount in two currencies",
        "an amount in all but one currency",
        "an amount in a currency that the rule leaves out",
        "a bin range of two lengths",
        "a bin range upside down",
        "a time zone of nobody",
        "a city",
        "a folder of time zones",
        "a way out of the folder",
        "a window from midnight at the end",
        "an empty window",
        "a time without a time",
        "too many conditions",
        "a split that is too small",
        "a split that is too large",
        "a split of shares",
        "a misspelt account in a setting",
        "least shares above all",
        "a least share above the greatest",
        "a share of an account that is not ranked",
        "a commitment to an account that is not ranked",
        "a commitment that ends before it starts",
        "a commitment without an offset",
    }
)
"""What is wrong with these is not their form, and an editor does not show it."""


def test_the_schema_shows_an_editor_what_is_wrong_in_form() -> None:
    validator = Draft202012Validator(schema())
    plain = {case: document for case, (document, _, _) in BAD.items() if not isinstance(document, bytes)}

    assert {case for case, document in plain.items() if validator.is_valid(document)} == BEYOND_A_SCHEMA
