"""Rules decide as their document says, and never lose a payment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import pytest

from routing.decision import Decision, Facts
from routing.document import Document, read
from routing.rules import decide, match

FACTS: Final = Facts("pay_1", "mer_1", False, 1999, "EUR", datetime(2026, 11, 20, 12, 0, tzinfo=UTC), brand="visa")
ORDER: Final = ("north", "south", "west")
ALL: Final[Mapping[str, str | None]] = dict.fromkeys(ORDER)


def document(*rules: dict[str, Any], default: Any = None, **more: Any) -> Document:
    named = [{"name": f"rule {place}", **rule} for place, rule in enumerate(rules)]
    return read({"rules": named, "default": default or {"priority": list(ORDER)}, **more})


def rule(when: dict[str, Any], *accounts: str) -> dict[str, Any]:
    return {"when": when, "then": {"priority": list(accounts)}}


def ask(routing: Document | None, facts: Facts = FACTS, **more: Any) -> Decision:
    eligibility = more.pop("eligibility", ALL)
    return decide(routing, "rt_1", facts, eligibility, ORDER, more.pop("policy", None), 0.0, **more)


@dataclass(frozen=True)
class Seen:
    score: float | None = 0.9
    low: float | None = 0.88
    high: float | None = 0.92
    breaker: str | None = "closed"


@dataclass
class Ranking:
    """A strategy that always ranks by the alphabet."""

    seen: Mapping[str, Seen]
    broken: bool = False

    def rank(
        self, context: Mapping[str, str], candidates: Sequence[str], rng: Random, now: float
    ) -> list[tuple[str, float, float]]:
        if self.broken:
            raise ZeroDivisionError
        return [(each, 0.5, 0.8 if place == 0 else 0.1) for place, each in enumerate(sorted(candidates))]

    def explain(self, context: Mapping[str, str], account: str, now: float) -> Seen:
        return self.seen.get(account, Seen())


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


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (None, "strategy adaptive is not available, so its accounts are asked in their listed order"),
        (
            Ranking({}, broken=True),
            "strategy adaptive failed (ZeroDivisionError), so its accounts are asked in their listed order",
        ),
    ],
)
def test_a_strategy_that_gives_nothing_leaves_the_listed_order(policy: Ranking | None, says: str) -> None:
    decision = ask(document(default={"strategy": "adaptive", "accounts": ["west", "south"]}), policy=policy)

    assert (decision.route, decision.constraint, decision.mode) == (("west", "south"), says, "forced")


def test_a_strategy_ranks_those_that_can() -> None:
    routing = document(default={"strategy": "adaptive", "accounts": ["west", "south", "north"]})
    decision = ask(routing, policy=Ranking({}), eligibility={**ALL, "north": "no_token"})

    assert decision.route == ("south", "west")
    assert decision.mode == "exploit"
    assert decision.sentence == (
        "south is asked first: strategy adaptive of the document's default ranked it first with 90.0 % (88.0 to 92.0) expected "
        "approvals against west 90.0 % (88.0 to 92.0); not able to take it: north (no_token)."
    )


def test_a_decision_is_read_again_from_its_record() -> None:
    routing = document(default={"strategy": "adaptive", "accounts": ["west", "south"]}, holdout={"percent": 5})
    facts = replace(FACTS, bin="424242", metadata={"shop": "7"})
    decision = ask(routing, facts, policy=Ranking({"west": Seen(low=None, breaker="open")}))

    assert Decision.read(json.loads(json.dumps(decision.record()))) == decision
