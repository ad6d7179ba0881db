"""What a routing document says about one payment: the matching rule, and the decision that follows.

Pure and deterministic: the same arguments give the same decision, on any machine and in any release. The dice of splits, holdouts
and strategies are hashes of the payment's id, so every attempt and every replay of a payment sees the same ones.

A payment is never lost because of a document: where an outcome offers no account that can take it, the default is asked, and then
the order of the configuration; where a strategy is missing or raises, its accounts are asked in the order they are listed in. The
decision says so in ``constraint``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple, cast

from routing.decision import Candidate, Decision, Facts
from routing.document import Document, Priority, Split, Strategy
from routing.strategies.policy import Chosen as Choice
from routing.strategies.policy import Explained, Policy, Ranked
from routing.values import hundredths

DEFAULT: Final = "default"
UNKNOWN: Final = "unknown_account"
"""Why an account that an outcome names and the merchant does not have cannot take a payment."""

_KEY: Final = b"interlock.routing.1"


class Chosen(NamedTuple):
    """The outcome that applies to a payment, the rule that it is of, and why it is not the matched rule's, if it is not."""

    rule: str
    outcome: Priority | Split | Strategy
    constraint: str | None = None


def match(document: Document, facts: Facts) -> tuple[str, Priority | Split | Strategy]:
    """The first rule whose conditions all hold: its name and outcome. ``default`` where there is none."""
    for name, tests, outcome in document.compiled:
        for test in tests:
            if not test(facts):
                break
        else:
            return name, outcome
    return DEFAULT, document.default


def choose(document: Document, facts: Facts, eligibility: Mapping[str, str | None]) -> Chosen | None:
    """The outcome that applies: the matched rule's, or the default's where no account of that can take the payment.

    ``None`` where neither offers an account that can: then the order of the configuration stands in.
    """
    name, outcome = match(document, facts)
    if _offers(outcome, eligibility):
        return Chosen(name, outcome)
    if name != DEFAULT and _offers(document.default, eligibility):
        return Chosen(DEFAULT, document.default, f"no account of rule {name!r} can take it, so the default applies")
    return None


def _offers(outcome: Priority | Split | Strategy, eligibility: Mapping[str, str | None]) -> bool:
    return any(eligibility.get(account, UNKNOWN) is None for account in outcome.accounts)


def decide(
    document: Document | None,
    version: str | None,
    facts: Facts,
    eligibility: Mapping[str, str | None],
    order: Sequence[str],
    learned: Callable[[Strategy], Policy | None],
    now: float,
    *,
    pinned: str | None = None,
    explain: bool = True,
) -> Decision:
    """Which accounts are asked, in which order, and why.

    ``eligibility`` has every account of the merchant with the reason why it cannot take the payment, or ``None``; ``order`` is that of
    the configuration. ``pinned`` is the account that the request names: no other is asked. ``learned`` gives what a strategy has
    learned, or ``None`` where that is not available; it is asked once at most, and must not raise. ``now`` is in seconds, for the
    strategy. Without ``explain`` the candidates tell nothing of what it believes of them.
    Never raises on account of the document or the strategy.
    """
    table = _Table(facts, version, eligibility)
    if pinned is not None:
        return table.decision("pinned", None, (pinned,), others="not_pinned", mode="forced")
    chosen = None if document is None else choose(document, facts, eligibility)
    if document is None or chosen is None:
        constraint = None if document is None else "no account that the document offers can take it"
        return table.decision("static", None, order, constraint=constraint)
    outcome = chosen.outcome
    if isinstance(outcome, Split):
        return _split(table, chosen, outcome)
    if isinstance(outcome, Strategy):
        return _strategy(table, chosen, outcome, document, learned(outcome), now, explain=explain)
    return table.decision("priority", chosen.rule, outcome.priority, constraint=chosen.constraint)


_NOTHING: Final[Mapping[str, Explained]] = {}


@dataclass(slots=True)
class _Table:
    """What every kind of decision is made over."""

    facts: Facts
    version: str | None
    eligibility: Mapping[str, str | None]

    def can(self, account: str) -> bool:
        """Whether the account exists and can take the payment."""
        return self.eligibility.get(account, UNKNOWN) is None

    def decision(
        self,
        kind: str,
        rule: str | None,
        listed: Sequence[str],
        *,
        later: str = "later",
        others: str = "not_listed",
        propensity: Mapping[str, float] | None = None,
        known: Mapping[str, Explained] = _NOTHING,
        strategy: str | None = None,
        seed: int | None = None,
        constraint: str | None = None,
        mode: str | None = None,
    ) -> Decision:
        """The decision to ask those of ``listed`` that can take the payment, in that order.

        ``later`` says why one is not the first, ``others`` why one is not listed; without a ``propensity`` the order was certain.
        """
        eligibility = self.eligibility
        route: list[str] = []
        candidates: list[Candidate] = []
        barred: list[Candidate] = []
        for account in listed:
            reason = eligibility.get(account, UNKNOWN)
            if reason is not None:
                barred.append(Candidate(account, reason, propensity=0.0, why_not="ineligible"))
                continue
            why = later if route else None
            chance = (0.0 if route else 1.0) if propensity is None else propensity.get(account, 0.0)
            each = known.get(account)
            if each is None:
                candidates.append(Candidate(account, propensity=chance, why_not=why))
            else:
                why = "breaker_open" if route and each.breaker == "open" else why
                candidates.append(Candidate(account, None, each.score, each.low, each.high, chance, each.breaker, why))
            route.append(account)
        candidates += barred
        candidates += [
            Candidate(account, reason, propensity=0.0, why_not=others)
            for account, reason in eligibility.items()
            if account not in listed
        ]
        return Decision(
            self.version,
            rule,
            kind,
            strategy,
            self.facts,
            tuple(candidates),
            tuple(route),
            seed,
            constraint,
            mode,
        )


def _split(table: _Table, chosen: Chosen, split: Split) -> Decision:
    """The arm that the payment falls into, then the others, the largest first.

    Where the arm's account cannot take the payment, the largest of those that can does: its propensity says so.
    """
    seed = seed_of(table.facts.payment_id)
    arm, by_size = arm_of(split, seed), split.accounts
    chances = {account: split.split[account] / 100 for account in by_size if table.can(account)}
    if len(chances) < len(by_size):
        chances[next(iter(chances))] += 1 - sum(chances.values())
    return table.decision(
        "split",
        chosen.rule,
        by_size if arm == by_size[0] else (arm, *[account for account in by_size if account != arm]),
        later="other_arm",
        propensity=chances,
        seed=seed,
        constraint=chosen.constraint,
    )


def arm_of(split: Split, seed: int) -> str:
    """The account whose part of the split the dice fall into."""
    fallen = fall(seed, "split")
    for account, end in split.parts:
        if fallen < end:
            return account
    raise AssertionError("the parts of a split end at 100 %")


def _strategy(
    table: _Table,
    chosen: Chosen,
    outcome: Strategy,
    document: Document,
    policy: Policy | None,
    now: float,
    *,
    explain: bool,
) -> Decision:
    """What the strategy ranks, or the holdout; and the listed order where the strategy gives nothing."""
    seed, listed = seed_of(table.facts.payment_id), outcome.accounts
    offered = [account for account in listed if table.can(account)]
    said = _said(outcome, policy, table.facts.context(), offered, seed, now, explain=explain)
    route, chances, kind, mode, later = said.route, said.chances, "strategy", said.mode, _LATER.get(said.mode, "later")
    held = document.holdout
    if held is not None:
        kept, share = _kept(held.accounts, offered), held.percent / 100
        chances = {account: (1 - share) * chances.get(account, 0.0) for account in offered}
        chances[kept[0]] += share
        if fall(seed, "holdout") < hundredths(held.percent):
            kind, route, mode, later = "holdout", kept, "holdout", "holdout"
    if len(route) < len(listed):
        route = [*route, *[account for account in listed if account not in route]]
    return table.decision(
        kind,
        chosen.rule,
        route,
        later=later,
        propensity=chances,
        known=said.known,
        strategy=outcome.strategy,
        seed=seed,
        constraint="; ".join(filter(None, (chosen.constraint, said.constraint))) or None,
        mode=mode,
    )


def _kept(accounts: Sequence[str] | None, offered: Sequence[str]) -> list[str]:
    """The order of the holdout: its own accounts first, among those that the strategy could have chosen."""
    first = [account for account in accounts or () if account in offered]
    return first + [account for account in offered if account not in first]


class _Said(NamedTuple):
    """What a strategy says of one payment."""

    route: list[str]
    chances: dict[str, float]
    known: dict[str, Explained]
    mode: str
    constraint: str | None


def _said(
    outcome: Strategy,
    policy: Policy | None,
    context: Mapping[str, str],
    offered: list[str],
    seed: int,
    now: float,
    *,
    explain: bool,
) -> _Said:
    """What the strategy says. It comes from elsewhere: whatever it does must not stop a payment."""
    if policy is None:
        return _unsaid(outcome, offered, "is not available")
    try:
        choice = policy.choose(context, offered, drawn(seed, "strategy"), now, explain=explain)
        ranking, known = list(choice.ranking), dict(choice.known)
        chances = {account: chance for account, _, chance in ranking}
    except Exception as error:
        return _unsaid(outcome, offered, f"failed ({type(error).__name__})")
    if len(ranking) != len(offered) or chances.keys() != set(offered):
        return _unsaid(outcome, offered, "did not rank its accounts")
    return _Said(list(chances), chances, known, choice.mode, choice.constraint)


def _unsaid(outcome: Strategy, offered: list[str], cause: str) -> _Said:
    constraint = f"strategy {outcome.strategy} {cause}, so its accounts are asked in their listed order"
    return _Said(offered, {offered[0]: 1.0}, {}, "forced", constraint)


_LATER: Final[Mapping[str, str]] = {
    "exploit": "lower_score",
    "explore": "explored",
    "probe": "probed",
    "split": "other_arm",
}
"""Why an account is not the first, by what the choice was for."""


# --- Replay -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A strategy that says again what a decision's record says that it said."""

    decision: Decision
    holdout: float
    """The share of payments that was kept from it."""
    constraint: str | None

    def choose(
        self,
        context: Mapping[str, str],
        candidates: Sequence[str],
        draw: float,
        now: float,
        *,
        explain: bool,
    ) -> Choice:
        known, decision = {each.account: each for each in self.decision.candidates}, self.decision
        kept = {decision.route[0]: self.holdout} if decision.kind == "holdout" else {}
        ranking = [
            Ranked(account, known[account].score or 0.0, self._own(known[account].propensity, kept.get(account, 0.0)))
            for account in decision.route
        ]
        believed = {
            account: Explained(each.score or 0.0, each.low or 0.0, each.high or 0.0, each.breaker or "closed")
            for account, each in known.items()
        }
        return Choice(ranking, decision.mode or "exploit", self.constraint, believed)

    def _own(self, propensity: float | None, kept: float) -> float:
        return ((propensity or 0.0) - kept) / (1 - self.holdout)


def replayed(decision: Decision, document: Document | None) -> Decision:
    """The decision that follows from a record and the document of its version: an equal one, but for rounding in a holdout's propensities.

    What the strategy said is taken from the record: its beliefs have moved on since. The rule, the accounts that can take the payment, the
    dice of splits and of the holdout, and all that follows from them are worked out again.
    """
    able = {each.account: each.ineligible for each in decision.candidates if each.ineligible != UNKNOWN}
    policy = None
    if document is not None and any(each.score is not None for each in decision.candidates):
        chosen = choose(document, decision.facts, able)
        ours = None if chosen is None else chosen.constraint
        said = (
            decision.constraint if ours is None else (decision.constraint or "").removeprefix(ours).removeprefix("; ")
        )
        held = 0.0 if document.holdout is None else document.holdout.percent / 100
        policy = cast("Policy", _Recorded(decision, held, said or None))
    pinned = decision.route[0] if decision.kind == "pinned" else None
    at = decision.facts.at.timestamp()
    return decide(document, decision.version, decision.facts, able, tuple(able), lambda _: policy, at, pinned=pinned)


# --- Dice -------------------------------------------------------------------------------------------------------------


def seed_of(payment_id: str) -> int:
    """The seed of everything that is left to chance for a payment: 48 bits, so that JSON carries them to anybody."""
    return int.from_bytes(blake2b(payment_id.encode(), digest_size=6, key=_KEY).digest())


def fall(seed: int, purpose: str) -> int:
    """Where the dice fall for a ``purpose``, from 0 to 9999: hundredths of a percent. Independent between purposes."""
    return _thrown(seed, purpose) % 100_00


def drawn(seed: int, purpose: str) -> float:
    """The same as a number from 0 to just below 1."""
    return (_thrown(seed, purpose) >> 11) * 2.0**-53  # as many bits as a float holds


def _thrown(seed: int, purpose: str) -> int:
    return int.from_bytes(blake2b(seed.to_bytes(6), digest_size=8, key=purpose.encode()).digest())
