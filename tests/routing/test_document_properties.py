"""What holds of every document and every payment: found by drawing them."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from routing.decision import Decision, Facts
from routing.diff import diff
from routing.document import Document, Fault, Faulty, Split, Strategy, read
from routing.lint import lint
from routing.rules import decide, match
from routing.schema import schema
from routing.strategies import STRATEGIES, Policy, make
from routing.values import DAYS

SCHEMA: Final = Draft202012Validator(schema())
ACCOUNTS: Final = ("north", "south", "west", "Łódź/2~1")
CURRENCIES: Final = ("EUR", "USD", "JPY", "KWD")
COUNTRIES: Final = ("DE", "US", "XK")
BRANDS: Final = ("visa", "mastercard", "amex")
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)

accounts: Final = st.lists(st.sampled_from(ACCOUNTS), min_size=1, max_size=4, unique=True)


def condition(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(values, min_size=1, max_size=4, unique=True)
    return st.one_of(values, several, several.map(lambda named: {"not": named}))


@st.composite
def bins(draw: st.DrawFn) -> str:
    size = draw(st.integers(1, 8))
    low, high = sorted(draw(st.tuples(st.integers(0, 10**size - 1), st.integers(0, 10**size - 1))))
    return draw(st.sampled_from([f"{low:0{size}}", f"{low:0{size}}-{high:0{size}}"]))


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    minutes = draw(st.lists(st.integers(0, 1439), min_size=2, max_size=2, unique=True))
    begin, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in minutes)
    window = {"from": begin, "until": end, "days": draw(st.lists(st.sampled_from(DAYS), min_size=1, unique=True))}
    kept = draw(st.lists(st.sampled_from(sorted(window)), min_size=1, unique=True))
    zone = draw(st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"]))
    return {key: window[key] for key in kept} | {"timezone": zone}


@st.composite
def amounts(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted(draw(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000))))
    ends = draw(st.sampled_from([{"min": low}, {"max": high}, {"min": low, "max": high}]))
    return {**ends, "currency": draw(st.sampled_from(CURRENCIES))}


@st.composite
def whens(draw: st.DrawFn) -> dict[str, Any]:
    drawn = {
        "currency": condition(st.sampled_from(CURRENCIES)),
        "amount": amounts(),
        "country": condition(st.sampled_from(COUNTRIES)),
        "brand": condition(st.sampled_from(BRANDS)),
        "funding": condition(st.sampled_from(["credit", "debit"])),
        "bin": condition(bins()),
        "issuer_country": condition(st.sampled_from(COUNTRIES)),
        "initiator": condition(st.sampled_from(["customer", "merchant"])),
        "recurring": condition(st.sampled_from(["subscription", "unscheduled"])),
        "three_d_secure": condition(st.sampled_from(["automatic", "required"])),
        "time": windows(),
        "metadata": st.dictionaries(TEXTS.filter(bool), condition(TEXTS), min_size=1, max_size=2),
    }
    kept = draw(st.lists(st.sampled_from(sorted(drawn)), min_size=1, max_size=3, unique=True))
    when = {key: draw(drawn[key]) for key in kept}
    if "amount" in when and "currency" in when:
        when["currency"] = when["amount"]["currency"]
    return when


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Any]:
    named = draw(accounts)
    cuts = sorted(draw(st.lists(st.integers(0, 10_000), min_size=len(named) - 1, max_size=len(named) - 1)))
    ends = [0, *cuts, 10_000]
    shares = [(high - low) / 100 for low, high in pairwise(ends)]
    plain = [int(share) if share == int(share) and draw(st.booleans()) else share for share in shares]
    return {"split": dict(zip(named, plain, strict=True))}


@st.composite
def ranked(draw: st.DrawFn) -> dict[str, Any]:
    named = draw(accounts)
    name = draw(st.sampled_from(sorted(STRATEGIES)))
    numbers = [setting for setting in STRATEGIES[name] if setting.kind == "number"]
    chosen = draw(st.sampled_from(numbers))
    value = draw(st.sampled_from([chosen.low, chosen.high, chosen.default]))
    constraints = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "explore_max": st.sampled_from([0, 2.5, 100]),
                "min_share": st.just({named[0]: 12.34}),
                "max_share": st.just({named[-1]: 100.0}),
                "commitments": st.just(
                    {
                        named[0]: {
                            "attempts": 5,
                            "starts_at": "2026-12-01T00:00:00Z",
                            "ends_at": "2027-01-01T00:00:00+01:00",
                        }
                    }
                ),
                "never_explore_above": st.just({"amount": 5, "currency": "EUR"}),
            },
        )
    )
    more = draw(st.fixed_dictionaries({}, optional={"settings": st.just({chosen.name: value})}))
    return {"strategy": name, "accounts": named, "constraints": constraints, **more}


outcomes: Final = st.one_of(accounts.map(lambda named: {"priority": named}), splits(), ranked())


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    texts = draw(st.lists(st.tuples(whens(), outcomes), max_size=5))
    rules = [{"name": f"rule {place}", "when": when, "then": then} for place, (when, then) in enumerate(texts)]
    more = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "$schema": TEXTS,
                "note": TEXTS,
                "holdout": st.fixed_dictionaries(
                    {"percent": st.sampled_from([0.5, 1, 2.25, 10.0])},
                    optional={"accounts": accounts, "rollback": st.booleans()},
                ),
            },
        )
    )
    return {"rules": rules, "default": draw(outcomes), **more}


payments: Final = st.builds(
    Facts,
    payment_id=st.integers(0, 10**6).map("pay_{}".format),
    merchant_id=st.just("mer_1"),
    livemode=st.booleans(),
    amount=st.integers(0, 5_000),
    currency=st.sampled_from(CURRENCIES),
    at=st.integers(0, 10**9).map(lambda second: datetime.fromtimestamp(second + 10**9, UTC)),
    country=st.none() | st.sampled_from(COUNTRIES),
    brand=st.none() | st.sampled_from(BRANDS),
    funding=st.none() | st.sampled_from(["credit", "debit"]),
    bin=st.none() | st.from_regex(r"[0-9]{6}([0-9]{2})?", fullmatch=True, alphabet=st.characters(codec="ascii")),
    issuer_country=st.none() | st.sampled_from(COUNTRIES),
    initiator=st.sampled_from(["customer", "merchant"]),
    recurring=st.none() | st.sampled_from(["subscription", "unscheduled"]),
    three_d_secure=st.none() | st.sampled_from(["automatic", "required"]),
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=2),
)
eligible: Final = st.dictionaries(st.sampled_from(ACCOUNTS), st.sampled_from([None, None, "no_token"]))


def fresh(outcome: Strategy) -> Policy:
    return make(outcome.strategy, outcome.accounts, outcome.all_settings)


def made(document: Document, facts: Facts, eligibility: dict[str, str | None], order: tuple[str, ...]) -> Decision:
    return decide(document, "rt_1", facts, eligibility, order, fresh, 0.0)


@given(documents())
@settings(max_examples=150, deadline=None)
def test_whatever_is_accepted_is_written_and_read_again(plain: dict[str, Any]) -> None:
    document = read(plain)
    written = document.canonical()

    assert read(written) == document
    assert read(written).canonical() == written
    assert json.loads(written) == plain
    assert read(json.dumps(plain).encode()) == document
    assert read(json.loads(written)) == document


@given(documents())
@settings(max_examples=100, deadline=None)
def test_whatever_is_accepted_is_of_the_schema(plain: dict[str, Any]) -> None:
    assert [error.message for error in SCHEMA.iter_errors(plain)] == []


@given(documents(), payments, eligible)
@settings(max_examples=150, deadline=None)
def test_the_same_inputs_give_the_same_decision_and_its_record_gives_it_again(
    plain: dict[str, Any], facts: Facts, eligibility: dict[str, str | None]
) -> None:
    document, order = read(plain), tuple(sorted(eligibility))
    decision = made(document, facts, eligibility, order)

    assert made(read(document.canonical()), facts, eligibility, order) == decision
    record = json.loads(json.dumps(decision.record(), allow_nan=False))
    assert Decision.read(record) == decision
    stood = {each.account: each.ineligible for each in decision.candidates if each.ineligible != "unknown_account"}
    replayed = made(document, Decision.read(record).facts, stood, tuple(stood))
    assert (replayed.route, replayed.rule, replayed.kind) == (decision.route, decision.rule, decision.kind)


@given(documents(), payments, eligible)
@settings(max_examples=150, deadline=None)
def test_no_payment_is_lost_and_none_goes_where_it_cannot(
    plain: dict[str, Any], facts: Facts, eligibility: dict[str, str | None]
) -> None:
    document, order = read(plain), tuple(sorted(eligibility))
    decision = made(document, facts, eligibility, order)
    able = {account for account, reason in eligibility.items() if reason is None}

    assert set(decision.route) <= able
    assert bool(decision.route) == bool(able)
    assert len(set(decision.route)) == len(decision.route)
    assert {each.account for each in decision.candidates} >= set(eligibility)
    assert len({each.account for each in decision.candidates}) == len(decision.candidates)
    assert [each.account for each in decision.candidates[: len(decision.route)]] == list(decision.route)
    assert [each.why_not is None for each in decision.candidates] == [
        place == 0 and bool(decision.route) for place in range(len(decision.candidates))
    ]
    if decision.route:
        assert math.isclose(sum(each.propensity or 0.0 for each in decision.candidates), 1.0)
        assert decision.candidates[0].propensity
    assert decision.sentence.endswith(".")


@given(splits(), st.integers(0, 10**6))
def test_an_arm_is_of_the_payment_alone(plain: dict[str, Any], number: int) -> None:
    """Whatever else is in the document, and however often it is asked."""
    facts = Facts(f"pay_{number}", "mer_1", False, 100, "EUR", datetime(2026, 1, 1, tzinfo=UTC))
    later = Facts(f"pay_{number}", "mer_2", True, 999, "USD", datetime(2027, 1, 1, tzinfo=UTC))
    all_can: dict[str, str | None] = dict.fromkeys(ACCOUNTS)
    first = made(read({"default": plain}), facts, all_can, ACCOUNTS)
    second = made(
        read({"rules": [{"name": "a", "when": {"currency": "USD"}, "then": plain}], "default": {"priority": ["west"]}}),
        later,
        all_can,
        ACCOUNTS,
    )

    assert first.route == second.route


@given(splits())
@settings(max_examples=15, deadline=None)
def test_the_arms_get_their_shares(plain: dict[str, Any]) -> None:
    document = read({"default": plain})
    assert isinstance(document.default, Split)
    counts = dict.fromkeys(document.default.split, 0)
    moment, all_can = datetime(2026, 1, 1, tzinfo=UTC), dict.fromkeys(ACCOUNTS)
    for number in range(4_000):
        facts = Facts(f"pay_{number}", "mer_1", False, 100, "EUR", moment)
        counts[decide(document, None, facts, all_can, ACCOUNTS, lambda _: None, 0.0).route[0]] += 1

    for account, percent in document.default.split.items():
        assert abs(counts[account] / 40 - percent) < 3.5, (account, counts)


@given(st.integers(0, 9_900), st.integers(0, 100))
def test_moving_a_split_moves_no_more_payments_than_it_has_to(first: int, more: int) -> None:
    before = read({"default": {"split": {"north": first / 100, "south": (10_000 - first) / 100}}}).default
    after = read(
        {"default": {"split": {"north": (first + more) / 100, "south": (10_000 - first - more) / 100}}}
    ).default
    assert isinstance(before, Split)
    assert isinstance(after, Split)

    assert [end for _, end in before.parts] == [first, 10_000]
    assert [end for _, end in after.parts] == [first + more, 10_000]


@given(whens(), payments)
@settings(max_examples=250, deadline=None)
def test_a_not_holds_exactly_where_its_values_would_not(when: dict[str, Any], facts: Facts) -> None:
    def holds(conditions: dict[str, Any]) -> bool:
        rule = {"name": "a", "when": conditions, "then": {"priority": ["north"]}}
        return match(read({"rules": [rule], "default": {"priority": ["north"]}}), facts)[0] == "a"

    for key, given_ in when.items():
        if key not in {"amount", "time", "metadata"} and isinstance(given_, dict):
            assert holds({key: given_}) is not holds({key: given_["not"]})


@given(documents(), st.lists(payments, min_size=20, max_size=20))
@settings(max_examples=150, deadline=None)
def test_no_payment_reaches_what_lint_calls_unreachable(plain: dict[str, Any], seen: list[Facts]) -> None:
    document = read(plain)
    never = {
        document.rules[int(each.pointer.split("/")[2])].name
        for each in lint(document)
        if each.code in {"unreachable", "impossible"}
    }

    assert never.isdisjoint(match(document, facts)[0] for facts in seen)


@given(documents(), documents())
@settings(max_examples=75, deadline=None)
def test_a_diff_is_empty_exactly_where_nothing_has_changed(first: dict[str, Any], second: dict[str, Any]) -> None:
    before, after = read(first), read(second)

    assert diff(before, before) == []
    assert (diff(before, after) == []) == (before.canonical() == after.canonical())


jsons: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    """A document with something else somewhere in it."""
    whole: Any = draw(documents())
    at = whole
    for _ in range(draw(st.integers(0, 6))):
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or draw(st.booleans()):
            at[key] = draw(jsons)
            break
        at = at[key]
    else:
        if isinstance(at, dict):
            at[draw(st.text(max_size=8))] = draw(jsons)
    return whole


@given(spoiled())
@settings(max_examples=250, deadline=None)
def test_a_spoiled_document_is_refused_with_its_places_or_is_one_after_all(plain: Any) -> None:
    faults, document = attempted(plain)

    assert (document is None) == bool(faults)
    assert len({fault.pointer for fault in faults}) == len(faults)
    assert all(fault.message.endswith(".") and fault.fix.endswith(".") for fault in faults)
    assert document is None or read(document.canonical()) == document


def attempted(plain: Any) -> tuple[tuple[Fault, ...], Document | None]:
    try:
        return (), read(plain)
    except Faulty as refused:
        return refused.faults, None


@given(st.binary(max_size=50) | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_break_the_reader(text: bytes) -> None:
    with pytest.raises(Faulty):
        read(text)
