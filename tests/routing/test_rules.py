"""Rules decide as their document says, and never lose a payment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from routing.decision import Candidate, Decision, Facts
from routing.document import Document, read
from routing.rules import decide, drawn, fall, match, seed_of
from routing.strategies import CONTEXT_KEYS, Policy, Ranked, make
from routing.strategies import Chosen as Choice

FACTS: Final = Facts("pay_1", "mer_1", False, 1999, "EUR", datetime(2026, 11, 20, 12, 0, tzinfo=UTC), brand="visa")
ORDER: Final = ("north", "south", "west")
ALL: Final[Mapping[str, str | None]] = dict.fromkeys(ORDER)


def document(*rules: dict[str, Any], default: Any = None, **more: Any) -> Document:
    named = [{"name": f"rule {place}", **rule} for place, rule in enumerate(rules)]
    return read({"rules": named, "default": default or {"priority": list(ORDER)}, **more})


def rule(when: dict[str, Any], *accounts: str) -> dict[str, Any]:
    return {"when": when, "then": {"priority": list(accounts)}}


def ask(routing: Document | None, facts: Facts = FACTS, **more: Any) -> Decision:
    eligibility, policy = more.pop("eligibility", ALL), more.pop("policy", None)
    version = None if routing is None else "rt_1"
    return decide(routing, version, facts, eligibility, ORDER, lambda _: policy, 0.0, **more)


class Broken:
    """A strategy that somebody has written wrongly: nothing of it can be relied upon."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def choose(
        self, context: Mapping[str, str], candidates: Sequence[str], draw: float, now: float, *, explain: bool
    ) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def learned(name: str, *outcomes: tuple[str, str], settings: Mapping[str, Any] | None = None) -> Policy:
    """The strategy over all accounts, after these outcomes, fifty times each."""
    policy = make(name, ORDER, settings or {})
    for account, outcome in outcomes * 50:
        policy.update(FACTS.context(), account, outcome, 0.0)
    return policy


def test_the_first_rule_that_holds_decides_and_the_default_otherwise() -> None:
    routing = document(rule({"currency": "USD"}, "west"), rule({"brand": ["visa", "amex"]}, "south", "north"))

    assert ask(routing).route == ("south", "north")
    assert ask(routing).rule == "rule 1"
    assert ask(routing, replace(FACTS, currency="USD")).route == ("west",)
    assert match(routing, replace(FACTS, brand="jcb"))[0] == "default"


def test_without_a_document_the_order_of_the_configuration_decides() -> None:
    decision = ask(None, eligibility={**ALL, "north": "no_token"})

    assert (decision.kind, decision.rule, decision.route) == ("static", None, ("south", "west"))


def test_a_rule_whose_accounts_cannot_gives_way_to_the_default_and_that_to_the_configuration() -> None:
    routing = document(rule({"currency": "EUR"}, "west"), default={"priority": ["south"]})

    first = ask(routing, eligibility={**ALL, "west": "no_token"})
    second = ask(routing, eligibility={"north": None, "south": "no_token", "west": "no_token"})

    assert (first.rule, first.route) == ("default", ("south",))
    assert first.constraint == "no account of rule 'rule 0' can take it, so the default applies"
    assert (second.kind, second.route) == ("static", ("north",))
    assert second.constraint == "no account that the document offers can take it"


def test_a_pinned_account_stands_above_every_rule() -> None:
    decision = ask(document(rule({"currency": "EUR"}, "west")), pinned="south")

    assert (decision.kind, decision.route) == ("pinned", ("south",))
    assert [each.why_not for each in decision.candidates] == [None, "not_pinned", "not_pinned"]


def test_a_split_gives_every_payment_its_arm_and_the_others_follow_by_size() -> None:
    routing = document(default={"split": {"north": 20, "south": 50, "west": 30}})
    decisions = [ask(routing, replace(FACTS, payment_id=f"pay_{number}")) for number in range(20_000)]

    counts = {name: sum(each.route[0] == name for each in decisions) / 200 for name in ORDER}
    assert counts == pytest.approx({"north": 20, "south": 50, "west": 30}, abs=1)
    assert {each.route for each in decisions} == {
        ("north", "south", "west"),
        ("south", "west", "north"),
        ("west", "south", "north"),
    }
    assert {each.account: each.propensity for each in decisions[0].candidates} == {
        "north": 0.2,
        "south": 0.5,
        "west": 0.3,
    }


LISTED: Final = "so its accounts are asked in their listed order"


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (None, "is not available"),
        (Broken(ZeroDivisionError()), "failed (ZeroDivisionError)"),
        (Broken(None), "failed (AttributeError)"),
        (Broken(Choice([], "exploit")), "did not rank its accounts"),
        (
            Broken(Choice([Ranked("south", 1.0, 1.0), Ranked("south", 1.0, 1.0)], "exploit")),
            "did not rank its accounts",
        ),
        (
            Broken(Choice([Ranked("south", 1.0, 1.0), Ranked("nobody", 1.0, 1.0)], "exploit")),
            "did not rank its accounts",
        ),
        (Broken(Choice([("south", 1.0), ("west", 1.0)], "exploit")), "failed (ValueError)"),  # type: ignore[list-item]
        (Broken(Choice([], "exploit", None, 5)), "failed (TypeError)"),  # type: ignore[arg-type]
    ],
)
def test_a_strategy_that_gives_nothing_leaves_the_listed_order(policy: Any, says: str) -> None:
    decision = ask(document(default={"strategy": "adaptive", "accounts": ["west", "south"]}), policy=policy)

    assert (decision.route, decision.mode) == (("west", "south"), "forced")
    assert decision.constraint == f"strategy adaptive {says}, {LISTED}"
    assert [each.propensity for each in decision.candidates] == [1.0, 0.0, 0.0]


def test_a_strategy_ranks_those_that_can() -> None:
    routing = document(default={"strategy": "success_rate_window", "accounts": ["west", "south", "north"]})
    policy = learned("success_rate_window", ("south", "approved"), ("west", "declined_provider"), settings={"hedge": 0})
    decision = ask(routing, policy=policy, eligibility={**ALL, "north": "no_token"})

    assert (decision.kind, decision.strategy, decision.mode) == ("strategy", "success_rate_window", "exploit")
    assert decision.route == ("south", "west")
    assert [(each.account, each.why_not, each.ineligible) for each in decision.candidates] == [
        ("south", None, None),
        ("west", "breaker_open", None),
        ("north", "ineligible", "no_token"),
    ]
    assert decision.seed == seed_of("pay_1")
    assert decision.sentence.startswith(
        "south is asked first: strategy success_rate_window of the document's default ranked it first with 9"
    )
    assert decision.sentence.endswith("; not able to take it: north (no_token).")


def test_the_holdout_is_kept_from_the_strategy_and_says_what_would_have_been() -> None:
    routing = document(
        default={"strategy": "priority", "accounts": ["west", "south", "north"]},
        holdout={"percent": 10, "accounts": ["north"]},
    )
    policy = make("priority", ORDER)
    decisions = [ask(routing, replace(FACTS, payment_id=f"pay_{number}"), policy=policy) for number in range(20_000)]
    held = [each for each in decisions if each.kind == "holdout"]

    assert len(held) / 200 == pytest.approx(10, abs=0.6)
    assert {each.route for each in held} == {("north", "west", "south")}
    assert {each.route for each in decisions if each.kind == "strategy"} == {("north", "south", "west")}
    assert {each.mode for each in held} == {"holdout"}
    assert decisions[0].candidates[0].propensity == pytest.approx(1.0)


def test_the_chance_of_an_account_counts_the_strategy_and_the_holdout() -> None:
    routing = document(default={"strategy": "weighted", "accounts": ["west", "south"]}, holdout={"percent": 10})
    decision = ask(routing, policy=make("weighted", ORDER, {"weights": {"west": 1, "south": 3}}))

    assert {each.account: each.propensity for each in decision.candidates} == pytest.approx(
        {"west": 0.9 * 0.25 + 0.1, "south": 0.9 * 0.75, "north": 0.0}
    )


def test_a_holdout_leaves_lists_and_splits_alone() -> None:
    routing = document(default={"priority": ["west"]}, holdout={"percent": 10})

    kinds = {ask(routing, replace(FACTS, payment_id=f"pay_{number}")).kind for number in range(200)}
    assert kinds == {"priority"}


def test_an_account_that_the_merchant_does_not_have_is_passed_over() -> None:
    decision = ask(document(default={"priority": ["nroth", "south"]}))

    assert decision.route == ("south",)
    assert decision.candidates[1] == Candidate("nroth", "unknown_account", propensity=0.0, why_not="ineligible")


def test_where_the_arm_of_a_split_cannot_the_largest_takes_its_part() -> None:
    routing = document(default={"split": {"north": 20, "south": 50, "west": 30}})
    eligibility = {**ALL, "south": "no_token"}
    decisions = [
        ask(routing, replace(FACTS, payment_id=f"pay_{number}"), eligibility=eligibility) for number in range(20_000)
    ]

    assert sum(each.route[0] == "west" for each in decisions) / 200 == pytest.approx(80, abs=1)
    assert {each.account: each.propensity for each in decisions[0].candidates} == pytest.approx(
        {"north": 0.2, "west": 0.8, "south": 0.0}
    )


def test_nobody_can_take_it() -> None:
    decision = ask(document(rule({"currency": "EUR"}, "west")), eligibility=dict.fromkeys(ORDER, "no_token"))

    assert (decision.kind, decision.route) == ("static", ())
    assert decision.sentence == "No account can take this payment (north: no_token; south: no_token; west: no_token)."


def test_dice_of_different_purposes_do_not_know_each_other() -> None:
    """A holdout that fell on the same payments as an arm of a split would compare the arms instead."""
    falls = [(fall(seed := seed_of(f"pay_{number}"), "split"), fall(seed, "holdout")) for number in range(20_000)]
    held = [split for split, holdout in falls if holdout < 1000]

    assert sum(split < 5000 for split in held) / len(held) == pytest.approx(0.5, abs=0.03)


def test_a_strategys_dice_fall_evenly_and_do_not_know_those_of_the_holdout() -> None:
    seeds = [seed_of(f"pay_{number}") for number in range(20_000)]
    tenths = Counter(int(10 * drawn(seed, "strategy")) for seed in seeds)
    held = [drawn(seed, "strategy") for seed in seeds if fall(seed, "holdout") < 1000]

    assert sorted(tenths) == list(range(10))
    assert all(count == pytest.approx(2000, abs=200) for count in tenths.values())
    assert sum(draw < 0.5 for draw in held) / len(held) == pytest.approx(0.5, abs=0.03)


def test_the_dice_fall_the_same_in_every_release() -> None:
    assert (seed_of("pay_1"), fall(seed_of("pay_1"), "split")) == (140_367_553_453_231, 2_674)
    assert drawn(seed_of("pay_1"), "strategy") == 0.6980696206924477


WHENS: Final[list[tuple[dict[str, Any], dict[str, Any], bool]]] = [
    # (condition, facts, whether it holds)
    ({"currency": "EUR"}, {}, True),
    ({"currency": ["USD", "GBP"]}, {}, False),
    ({"currency": {"not": ["USD"]}}, {}, True),
    ({"currency": "EUR", "amount": {"min": 1999}}, {}, True),
    ({"currency": "EUR", "amount": {"max": 1999}}, {}, True),
    ({"currency": "EUR", "amount": {"min": 2000}}, {}, False),
    ({"currency": "EUR", "amount": {"max": 1998}}, {}, False),
    ({"amount": {"min": 1, "currency": "USD"}}, {}, False),
    ({"currency": ["EUR", "USD"], "amount": {"min": 1, "currency": "EUR"}}, {}, True),
    ({"country": "DE"}, {"country": "DE"}, True),
    ({"country": "DE"}, {}, False),
    ({"country": {"not": ["DE"]}}, {}, True),
    ({"brand": "visa"}, {}, True),
    ({"brand": {"not": ["visa", "amex"]}}, {}, False),
    ({"funding": "credit"}, {"funding": "credit"}, True),
    ({"issuer_country": ["US", "CA"]}, {"issuer_country": "CA"}, True),
    ({"initiator": "merchant"}, {}, False),
    ({"initiator": "customer"}, {}, True),
    ({"recurring": "subscription"}, {"recurring": "subscription"}, True),
    ({"three_d_secure": "required"}, {"three_d_secure": "automatic"}, False),
    ({"metadata": {"shop": "7"}}, {"metadata": {"shop": "7", "x": "y"}}, True),
    ({"metadata": {"shop": ["8", "9"]}}, {"metadata": {"shop": "7"}}, False),
    ({"metadata": {"shop": {"not": ["8"]}}}, {}, True),
    ({"bin": "4"}, {"bin": "424242"}, True),
    ({"bin": "42424242"}, {"bin": "42424242"}, True),
    ({"bin": "42424242"}, {"bin": "424242"}, False),  # its next two digits are not known
    ({"bin": {"not": ["42424242"]}}, {"bin": "424242"}, True),
    ({"bin": ["42424200-42424249", "42424250-42424299"]}, {"bin": "424242"}, True),
    ({"bin": "400000-499999"}, {"bin": "49999999"}, True),
    ({"bin": "400000-499999"}, {"bin": "500000"}, False),
    ({"bin": ["51", "55", "2221-2720"]}, {"bin": "272099"}, True),
    ({"bin": ["51", "55", "2221-2720"]}, {"bin": "530000"}, False),
    ({"bin": "4"}, {}, False),
    ({"bin": "4"}, {"bin": "4242"}, True),
    ({"bin": "4"}, {"bin": "4242xx"}, False),
    ({"bin": {"not": ["4"]}}, {"bin": ""}, True),
    ({"bin": {"not": ["4"]}}, {}, True),
    ({"bin": {"not": ["4"]}}, {"bin": "42424242"}, False),
    ({"currency": "EUR", "brand": "amex"}, {}, False),
]


@pytest.mark.parametrize(("conditions", "facts", "holds"), WHENS)
def test_a_condition_holds_where_its_fact_is_one_of_its_values(
    conditions: dict[str, Any], facts: dict[str, Any], *, holds: bool
) -> None:
    found = match(document(rule(conditions, "west")), replace(FACTS, **facts))[0]

    assert found == ("rule 0" if holds else "default")


NIGHT: Final = {"days": ["fri"], "from": "22:00", "until": "06:00", "timezone": "Europe/Berlin"}
WEEKEND: Final = {"days": ["sat", "sun"], "timezone": "America/New_York"}
OFFICE: Final = {"from": "09:00", "until": "17:00", "timezone": "UTC"}


@pytest.mark.parametrize(
    ("window", "at", "holds"),
    [
        (NIGHT, "2026-11-20T20:59:00Z", False),
        (NIGHT, "2026-11-20T21:00:00Z", True),
        (NIGHT, "2026-11-21T04:59:00Z", True),  # Saturday morning belongs to Friday's night
        (NIGHT, "2026-11-21T05:00:00Z", False),
        (NIGHT, "2026-11-20T04:00:00Z", False),  # and Friday morning to Thursday's
        (NIGHT, "2026-07-17T20:00:00Z", True),  # in summer, Berlin is two hours ahead
        (NIGHT, "2026-07-17T19:59:00Z", False),
        (WEEKEND, "2026-11-21T04:59:00Z", False),
        (WEEKEND, "2026-11-21T05:00:00Z", True),
        (WEEKEND, "2026-11-23T04:59:00Z", True),
        (OFFICE, "2026-11-20T09:00:00+00:00", True),
        (OFFICE, "2026-11-20T17:00:00+00:00", False),
        (OFFICE, "2026-11-20T17:00:00+01:00", True),
        ({"until": "12:00", "timezone": "UTC"}, "2026-11-20T00:00:00Z", True),
        ({"until": "12:00", "timezone": "UTC"}, "2026-11-20T12:00:00Z", False),
        ({"from": "23:59", "timezone": "UTC"}, "2026-11-20T23:59:59Z", True),
        ({"from": "23:59", "until": "24:00", "timezone": "UTC"}, "2026-11-20T23:59:59Z", True),
        ({"from": "12:00", "until": "00:00", "timezone": "UTC"}, "2026-11-20T13:00:00Z", True),
    ],
)
def test_a_window_is_of_the_clock_of_its_zone(window: dict[str, Any], at: str, *, holds: bool) -> None:
    facts = replace(FACTS, at=datetime.fromisoformat(at))

    assert (match(document(rule({"time": window}, "west")), facts)[0] == "rule 0") is holds


def test_the_zones_of_a_document_are_loaded_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    routing = document(rule({"time": {"until": "12:00", "timezone": "Pacific/Chatham"}}, "west"))
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr("routing.conditions.ZoneInfo", None)

    assert match(routing, FACTS)[0] == "rule 0"


@pytest.mark.parametrize("wrong", [{"bin": "4242424242424242"}, {"at": FACTS.at.replace(tzinfo=None)}])
def test_facts_hold_no_card_number_and_no_time_without_a_zone(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"BIN|time"):
        replace(FACTS, **wrong)


@pytest.mark.parametrize(
    ("amount", "band"),
    [(0, "0"), (1, "1-999"), (999, "1-999"), (1000, "1000-4999"), (99_999, "20000-99999"), (100_000, "100000+")],
)
def test_amounts_fall_into_bands(amount: int, band: str) -> None:
    assert replace(FACTS, amount=amount).context()["amount_band"] == band


def test_a_strategy_sees_what_is_known_and_nothing_else() -> None:
    context = replace(FACTS, bin="424242", metadata={"email": "a@example.com"}).context()

    assert context == {
        "currency": "EUR",
        "initiator": "customer",
        "amount": "1999",
        "amount_band": "1000-4999",
        "brand": "visa",
        "bin": "424242",
    }
    assert context.keys() <= CONTEXT_KEYS.keys()


@pytest.mark.parametrize(
    ("decision", "sentence"),
    [
        (
            ask(None),
            (
                "north is asked first: it is the first eligible account in the order of the configuration, as no routing document "
                "is in force."
            ),
        ),
        (
            ask(document(rule({"currency": "EUR"}, "west", "south")), eligibility={**ALL, "west": "no_token"}),
            "south is asked first: it is the first eligible account in the list of rule 'rule 0'; not able to take it: west (no_token).",
        ),
        (ask(None, pinned="west"), "west is asked first: the request names it."),
        (
            ask(document(default={"split": {"north": 99.5, "south": 0.5}})),
            "north is asked first: the payment falls into its arm (99.5 % of the payments) of the split of the document's default.",
        ),
    ],
)
def test_a_decision_says_why_in_one_sentence(decision: Decision, sentence: str) -> None:
    assert decision.sentence == sentence
