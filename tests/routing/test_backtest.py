"""The replay of a draft: what it would have decided is what it decides, what it learns it could have known, and the sums are right."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from routing import backtest
from routing.backtest import CHANGED_MAX, Attempt, Replay, Result, chances_of
from routing.decision import Decision, Facts
from routing.document import Document, Strategy, read
from routing.estimate import Snips
from routing.rules import decide
from routing.strategies import Policy

ACCOUNTS: Final = ("a", "b", "c")
ABLE: Final[Mapping[str, str | None]] = dict.fromkeys(ACCOUNTS)
HALF: Final = {"a": 0.5, "b": 0.5}
BEGIN: Final = datetime(2026, 10, 1, tzinfo=UTC)
SPLIT: Final = {"default": {"split": {"a": 50, "b": 50}}}
WINDOW: Final = {"strategy": "success_rate_window", "accounts": ["a", "b", "c"]}
RULES: Final = {
    "rules": [
        {"name": "large", "when": {"currency": "EUR", "amount": {"min": 5000}}, "then": {"priority": ["b", "a"]}},
        {"name": "visa", "when": {"brand": "visa"}, "then": {"split": {"a": 20, "b": 30, "c": 50}}},
        {"name": "dollars", "when": {"currency": "USD"}, "then": {"priority": ["c"]}},
    ],
    "default": {"split": {"b": 60, "a": 40}},
}


def facts(number: int, *, apart_s: float = 60.0, **changes: Any) -> Facts:
    plain: dict[str, Any] = {
        "payment_id": f"pay_{number:032x}",
        "merchant_id": "mer_1",
        "livemode": True,
        "amount": 1000,
        "currency": "EUR",
        "at": BEGIN + timedelta(seconds=apart_s * number),
    }
    return Facts(**plain | changes)


def attempt(number: int, account: str = "a", word: str | None = "approved", **changes: Any) -> Attempt:
    each = changes.pop("facts", None) or facts(number)
    plain: dict[str, Any] = {
        "facts": each,
        "account": account,
        "chances": HALF,
        "eligibility": ABLE,
        "word": word,
        "known_at": each.at.timestamp() + 1,
    }
    return Attempt(**plain | changes)


def replayed(document: Mapping[str, Any], attempts: Sequence[Attempt], order: Sequence[str] = ACCOUNTS) -> Result:
    replay = Replay(read(document), order, len(attempts))
    for each in attempts:
        replay.feed(each)
    return replay.result()


def recorded(document: Document | None, number: int, dice: random.Random, **changes: Any) -> Attempt:
    """An attempt that ``document`` has decided."""
    each = facts(
        number,
        amount=dice.choice((900, 7000)),
        currency=dice.choice(("EUR", "USD")),
        brand=dice.choice(("visa", "mastercard", None)),
    )
    able = {account: dice.choice((None, None, "no_token")) for account in ACCOUNTS} | changes
    if all(able.values()):
        able["c"] = None
    decision = decide(document, "rt_1", each, able, ACCOUNTS, lambda _: None, each.at.timestamp())
    word = "approved" if dice.random() < 0.8 else "declined_ambiguous"
    return told(decision, able, word)


def told(decision: Decision, able: Mapping[str, str | None], word: str) -> Attempt:
    chances = {each.account: each.propensity for each in decision.candidates if each.propensity}
    known_at = decision.facts.at.timestamp() + 1
    return Attempt(decision.facts, decision.route[0], chances, able, word, known_at)


# --- The decisions are the draft's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [SPLIT, RULES, {"default": {"priority": ["b", "c", "a"]}}])
def test_a_document_replayed_over_its_own_past_changes_nothing(document: Mapping[str, Any]) -> None:
    dice, own = random.Random(3), read(document)
    found = replayed(document, [recorded(own, number, dice) for number in range(3000)])
    assert (found.decided, found.undecided, found.changed, found.moves) == (3000, 0, 0, {})
    assert found.estimate.rate is not None
    assert found.estimate.recorded is not None
    assert found.estimate.difference is not None
    assert found.estimate.rate.value == pytest.approx(found.estimate.recorded.value, abs=1e-12)
    assert found.estimate.difference.high - found.estimate.difference.low == pytest.approx(0, abs=1e-6)
    assert found.estimate.uncovered == 0


def test_the_order_of_the_configuration_is_a_past_too() -> None:
    dice = random.Random(4)
    past = [recorded(None, number, dice) for number in range(1000)]
    found = replayed({"default": {"priority": list(ACCOUNTS)}}, past)
    assert (found.decided, found.changed) == (1000, 0)


ADAPTIVE: Final = {"strategy": "adaptive", "accounts": ["b", "a", "c"]}


@pytest.mark.parametrize(
    "document",
    [
        SPLIT,
        RULES,
        {"default": {"priority": ["c"]}},
        {"default": WINDOW},
        {
            "default": {**ADAPTIVE, "constraints": {"max_share": {"a": 30}}},
            "holdout": {"percent": 5, "accounts": ["c"]},
        },
    ],
)
def test_what_is_replayed_is_what_is_decided(document: Mapping[str, Any]) -> None:
    """Rule, account and chances, over every mixture of accounts that cannot take the payment, with what was learned meanwhile."""
    dice, draft = random.Random(5), read(document)
    replay = Replay(draft, ACCOUNTS, 1)

    def learned(_: Strategy) -> Policy | None:
        return next(iter(replay._policies.values()), None)

    for number in range(1000):
        each = recorded(None, number, dice)
        replay.feed(each)
        rule, account, chances = replay._decided(each)
        decision = decide(draft, None, each.facts, each.eligibility, ACCOUNTS, learned, each.facts.at.timestamp())
        assert account == decision.route[0]
        assert chances == pytest.approx({c.account: c.propensity for c in decision.candidates if c.propensity})
        assert rule == (decision.rule or "static")


def test_the_part_of_an_account_that_cannot_goes_to_the_largest_that_can() -> None:
    outcome = read(RULES).rules[1].then
    assert not isinstance(outcome, Strategy)
    assert chances_of(outcome, ("c", "a")) == pytest.approx({"c": 0.8, "a": 0.2})


# --- What is counted --------------------------------------------------------------------------------------------------


def test_a_small_past_by_hand() -> None:
    """1,000 payments by halves, a approved 450 of 500, b 400 of 500. The draft sends all to a: 90 %, and 500 decisions change."""
    past = [
        attempt(number, "ab"[number % 2], "approved" if number // 2 < (450, 400)[number % 2] else "declined_provider")
        for number in range(1000)
    ]
    found = replayed({"default": {"priority": ["a", "b"]}}, past)
    assert (found.attempts, found.decided, found.changed) == (1000, 1000, 500)
    assert found.moves == {("b", "a"): 500}
    assert found.rules == {"default": 1000}
    assert found.estimate.effective == pytest.approx(500)
    assert found.estimate.recorded is not None
    assert found.estimate.recorded.value == 0.85
    assert found.estimate.rate is not None
    assert found.estimate.rate.value == pytest.approx(0.9)
    assert "500 of 1,000 decisions (50.0%)" in found.sentence
    assert "+5.00 points" in found.sentence


def test_what_cannot_be_replayed_is_counted_and_changes_no_figure() -> None:
    past = [attempt(number, "ab"[number % 2], "approved" if number % 10 else "technical") for number in range(1200)]
    clean = replayed(SPLIT, past)
    more = [
        attempt(2000, chances={}),
        attempt(2001, "c"),
        attempt(2002, first=False),
        attempt(2002, word="declined_customer", first=False),
        attempt(2003, word=None),
    ]
    found = replayed(SPLIT, [*past, *more])
    assert found.attempts == 1205
    assert (found.undecided, found.later, found.later_approved, found.unsettled) == (2, 2, 1, 1)
    assert found.estimate == clean.estimate


def test_a_payment_that_names_its_account_stays_there() -> None:
    past = [attempt(number, "a", pinned=True, chances={}) for number in range(600)]
    found = replayed({"default": {"priority": ["b"]}}, past)
    assert (found.pinned, found.changed, found.undecided) == (600, 0, 0)
    assert found.estimate.rate is not None
    assert found.estimate.rate.value == 1.0


def test_an_account_that_was_never_asked_is_said_to_be_unknown() -> None:
    past = [attempt(number, "a", chances={"a": 1.0}) for number in range(2000)]
    found = replayed({"default": {"priority": ["c", "a"]}}, past)
    assert found.changed == 2000
    assert found.estimate.refusal is not None
    assert found.estimate.refusal.reason == "not_covered"
    assert "2,000 of 2,000" in found.sentence
    assert "c" in found.estimate.refusal.detail.split(": ")[1]
    assert found.record()["authorization_rate"]["draft"] is None


def test_changed_payments_are_listed_up_to_a_bound_and_counted_beyond() -> None:
    past = [attempt(number, "b", chances={"a": 0.5, "b": 0.5}) for number in range(CHANGED_MAX + 50)]
    found = replayed({"default": {"priority": ["a"]}}, past)
    assert (found.changed, len(found.examples)) == (CHANGED_MAX + 50, CHANGED_MAX)
    first = found.record()["changed"][0]
    assert first == {
        "payment": f"pay_{0:032x}",
        "at": BEGIN.isoformat(),
        "amount": 1000,
        "currency": "EUR",
        "recorded": "b",
        "draft": "a",
        "rule": "default",
    }


def test_volume_and_fees_by_hand() -> None:
    """Ten payments of 10.00 by halves, all approved. Fees: a 0.10 and 1 %, b 0.20. The draft sends all to the cheaper one."""
    fees = {"a": {"fixed": 10, "basis_points": 100}, "b": {"fixed": 20, "basis_points": 0}}
    strategy = {"strategy": "least_cost", "accounts": ["a", "b"], "settings": {"fees": fees}}
    draft = {
        "rules": [{"name": "never", "when": {"currency": "SEK"}, "then": strategy}],
        "default": {"priority": ["b"]},
    }
    found = replayed(draft, [attempt(number, "ab"[number % 2]) for number in range(10)])
    accounts = {each["account"]: each for each in found.record()["accounts"]}
    assert accounts["a"] == {
        "account": "a",
        "currency": "EUR",
        "recorded": {"payments": 5, "amount": 5000, "fees": 100},
        "draft": {"payments": 0.0, "amount": 0, "fees": 0},
    }
    assert accounts["b"]["recorded"] == {"payments": 5, "amount": 5000, "fees": 100}
    assert accounts["b"]["draft"] == {"payments": 10.0, "amount": 10_000, "fees": 200}


def test_fees_that_nobody_has_told_are_not_shown_as_none() -> None:
    found = replayed(SPLIT, [attempt(number, "ab"[number % 2]) for number in range(10)])
    assert all(each["recorded"]["fees"] is None for each in found.record()["accounts"])


# --- What is learned --------------------------------------------------------------------------------------------------


def test_nothing_is_learned_before_it_was_known() -> None:
    """A payment each minute; each outcome is known after ten: the last ten are not learned."""
    past = [attempt(n, "a", known_at=facts(n).at.timestamp() + 600) for n in range(100)]
    assert replayed({"default": WINDOW}, past).learned == 90


def test_what_is_known_changes_what_a_strategy_decides() -> None:
    """a declines everything, b nothing: known at once the strategy leaves a, known after the end it never does."""
    words = {"a": "declined_provider", "b": "approved"}
    past = [attempt(n, "ab"[n % 2], words["ab"[n % 2]]) for n in range(2000)]
    late = [each._replace(known_at=each.known_at + 1e9) for each in past]
    strategy = {"strategy": "success_rate_window", "accounts": ["a", "b"]}
    soon, never = replayed({"default": strategy}, past), replayed({"default": strategy}, late)
    shares = [
        next(volume.draft_payments for volume in found.volumes if volume.account == "b") / 2000
        for found in (soon, never)
    ]
    assert shares[0] > 0.9
    assert shares[1] < 0.6


def test_what_is_no_fair_try_teaches_nothing() -> None:
    past = [attempt(n, "a", fair=n % 2 == 0) for n in range(100)]
    assert replayed({"default": WINDOW}, past).learned == 50


def test_two_rules_with_the_same_strategy_learn_as_one_and_others_apart() -> None:
    rules = [
        {"name": "eur", "when": {"currency": "EUR"}, "then": WINDOW},
        {"name": "usd", "when": {"currency": "USD"}, "then": {**WINDOW, "settings": {"window": 200}}},
    ]
    replay = Replay(read({"rules": rules, "default": WINDOW}), ACCOUNTS, 1)
    assert replay._policies["eur"] is replay._policies["default"]
    assert replay._policies["usd"] is not replay._policies["eur"]
    assert len(replay._learners) == 2


def test_shares_are_kept_by_what_the_draft_chooses_and_not_by_what_was_done() -> None:
    """a got half of the payments and may have 30 %, c gets at least 20: counted by the past, a would get nothing, and c much."""
    constraints = {"max_share": {"a": 30}, "min_share": {"c": 20}}
    strategy = {"strategy": "priority", "accounts": ["a", "b", "c"], "constraints": constraints}
    found = replayed({"default": strategy}, [attempt(number, "ab"[number % 2]) for number in range(3000)])
    shares = {volume.account: volume.draft_payments / 3000 for volume in found.volumes}
    assert shares["a"] == pytest.approx(0.3, abs=0.02)
    assert shares["b"] == pytest.approx(0.5, abs=0.02)
    assert shares["c"] == pytest.approx(0.2, abs=0.02)


def test_what_waits_to_be_learned_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "LEARNING_MAX", 100)
    replay = Replay(read({"default": WINDOW}), ACCOUNTS, 1000)
    for number in range(1000):
        replay.feed(attempt(number, known_at=1e12))
        assert len(replay._waiting) <= 101


def test_the_same_past_gives_the_same_result() -> None:
    dice = random.Random(11)
    past = [recorded(read(SPLIT), number, dice) for number in range(1500)]
    document = {"default": {"strategy": "adaptive", "accounts": ["a", "b", "c"]}}
    assert replayed(document, past) == replayed(document, past)


# --- Pasts whose truth is known, with a draft that learns -----------------------------------------------------------------


class Seen(Snips):
    """Also keeps what the draft would have approved, by the truth."""

    def __init__(self, weight_max: float) -> None:
        super().__init__(weight_max)
        self.approval: Mapping[str, float] = {}
        self.expected: list[float] = []

    def add(
        self, day: int, account: str, recorded: Mapping[str, float], target: Mapping[str, float], *, approved: bool
    ) -> None:
        self.expected.append(sum(share * self.approval[name] for name, share in target.items()))
        super().add(day, account, recorded, target, approved=approved)


def learning_past(seed: int, payments: int) -> tuple[bool, float]:
    """Whether one past's interval covers the truth of a draft that learned from it, and what share it sent to the best account."""
    dice = random.Random(seed)
    rates = [{name: dice.uniform(0.75, 0.97) for name in ACCOUNTS} for _ in range(4)]
    chances = {"a": 0.4, "b": 0.3, "c": 0.3}
    replay = Replay(read({"default": WINDOW}), ACCOUNTS, payments)
    seen = replay._snips = Seen(replay._snips.weight_max)
    best = 0.0
    for number in range(payments):
        rate = dice.choice(rates)
        segment = str(rates.index(rate))
        account = dice.choices(ACCOUNTS, list(chances.values()))[0]
        word = "approved" if dice.random() < rate[account] else "declined_ambiguous"
        seen.approval = rate
        each = facts(number, issuer_country=segment)
        replay.feed(attempt(number, account, word, facts=each, chances=chances))
        best += seen.expected[-1] / max(rate.values())
    found = replay.result().estimate
    assert found.rate is not None
    truth = sum(seen.expected) / payments
    return found.rate.low <= truth <= found.rate.high, best / payments


def covered(seeds: range, payments: int) -> float:
    pasts = [learning_past(seed, payments) for seed in seeds]
    assert sum(best for _, best in pasts) / len(pasts) > 0.95  # it has learned: else this would be about nothing
    return sum(covers for covers, _ in pasts) / len(pasts)


def test_the_interval_covers_a_draft_that_learns() -> None:
    assert covered(range(40), 2200) >= 0.85


@pytest.mark.nightly
def test_the_interval_covers_a_draft_that_learns_in_many_pasts() -> None:
    assert 0.92 <= covered(range(1000, 2000), 3000) <= 0.98
