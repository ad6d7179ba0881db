"""What a routing document says about one payment: the matching rule, and the decision that follows.

Pure and deterministic: the same arguments give the same decision, on any machine and in any release. The dice of splits, holdouts
and strategies are hashes of the payment's id, so every attempt and every replay of a payment sees the same ones.

A payment is never lost because of a document: where an outcome offers no account that can take it, the default is asked, and then
the order of the configuration; where a strategy is missing or raises, its accounts are asked in the order they are listed in. The
decision says so in ``constraint``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Final, Protocol

from routing.decision import Candidate, Decision, Facts
from routing.document import Document, Priority, Split, Strategy
from routing.values import hundredths

DEFAULT: Final = "default"
UNKNOWN: Final = "unknown_account"
"""Why an account that an outcome names and the merchant does not have cannot take a payment."""

_KEY: Final = b"interlock.routing.1"


class Explained(Protocol):
    """What a strategy knows of one account in one context: expected approvals from 0 to 1 with their 95 % interval."""

    @property
    def score(self) -> float | None: ...  # noqa: D102
    @property
    def low(self) -> float | None: ...  # noqa: D102
    @property
    def high(self) -> float | None: ...  # noqa: D102
    @property
    def breaker(self) -> str | None: ...  # noqa: D102


class Policy(Protocol):
    """What is asked of a strategy here. ``routing.strategies`` has the rest."""

    def rank(
        self, context: Mapping[str, str], candidates: Sequence[str], rng: Random, now: float
    ) -> list[tuple[str, float, float]]:
        """The candidates, best first, each with its score and the probability that it came first."""

    def explain(self, context: Mapping[str, str], account: str, now: float) -> Explained:
        """What is known of ``account``."""


@dataclass(frozen=True, slots=True)
class Chosen:
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
    policy: Policy | None,
    now: float,
    *,
    pinned: str | None = None,
) -> Decision:
    """Which accounts are asked, in which order, and why.

    ``eligibility`` has every account of the merchant with the reason why it cannot take the payment, or ``None``; ``order`` is that of
    the configuration. ``pinned`` is the account that the request names: no other is asked. ``policy`` is the strategy of the outcome
    that :func:`choose` gives; ``None`` where it has none or it is not available. ``now`` is in seconds, for the strategy.
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
        return _strategy(table, chosen, outcome, document, policy, now)
    return table.decision("priority", chosen.rule, outcome.priority, constraint=chosen.constraint)


@dataclass(frozen=True, slots=True)
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
        known: Mapping[str, Explained] | None = None,
        strategy: str | None = None,
        seed: int | None = None,
        constraint: str | None = None,
        mode: str | None = None,
    ) -> Decision:
        """The decision to ask those of ``listed`` that can take the payment, in that order.

        ``later`` says why one is not the first, ``others`` why one is not listed; without a ``propensity`` the order was certain.
        """
        eligibility, candidates, barred = self.eligibility, [], []
        route = tuple(account for account in listed if self.can(account))
        for place, account in enumerate(route):
            chance = (0.0 if place else 1.0) if propensity is None else propensity.get(account, 0.0)
            why = later if place else None
            if known is not None and account in known:
                each = known[account]
                candidates.append(Candidate(account, None, each.score, each.low, each.high, chance, each.breaker, why))
            else:
                candidates.append(Candidate(account, propensity=chance, why_not=why))
        for account in listed:
            reason = eligibility.get(account, UNKNOWN)
            if reason is not None:
                barred.append(Candidate(account, reason, propensity=0.0, why_not="ineligible"))
        rest = [
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
            (*candidates, *barred, *rest),
            route,
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
    heir = next(account for account in by_size if table.can(account))
    chances = {account: split.split[account] / 100 for account in by_size if table.can(account)}
    chances[heir] += sum(split.split[account] for account in by_size if not table.can(account)) / 100
    return table.decision(
        "split",
        chosen.rule,
        (arm, *(account for account in by_size if account != arm)),
        later="other_arm",
        propensity=chances,
        seed=seed,
        constraint=chosen.constraint,
    )


def arm_of(split: Split, seed: int) -> str:
    """The account whose part of the split the dice fall into.

    The parts lie in the order of the accounts' names, so that moving the percentages a little moves few payments.
    """
    left = fall(seed, "split")
    for account in sorted(split.split):
        left -= hundredths(split.split[account])
        if left < 0:
            return account
    raise AssertionError("a split sums up to 100")


def _strategy(
    table: _Table, chosen: Chosen, outcome: Strategy, document: Document, policy: Policy | None, now: float
) -> Decision:
    """What the strategy ranks, or the holdout; and the listed order where the strategy gives nothing."""
    seed = seed_of(table.facts.payment_id)
    offered = [account for account in outcome.accounts if table.can(account)]
    context, constraint = table.facts.context(), chosen.constraint
    ranked, known, failure = _ranked(outcome, policy, context, offered, seed, now)
    chances = {account: propensity for account, _, propensity in ranked} or {offered[0]: 1.0}
    route = [account for account, _, _ in ranked] or offered
    mode = _mode(route, known) if ranked else "forced"
    later = {"explore": "explored", "probe": "probed"}.get(mode, "lower_score")
    if not ranked:
        constraint, later = _joined(constraint, failure), "later"
    limit = outcome.constraints.never_explore_above
    facts = table.facts
    if mode == "explore" and limit is not None and facts.currency == limit.currency and facts.amount > limit.amount:
        best = _best(route, known)
        route = [best, *(account for account in route if account != best)]
        chances, mode, later = {best: 1.0}, "forced", "constraint"
        constraint = _joined(constraint, f"nothing is explored above {limit.amount} {limit.currency}")
    kind, held = "strategy", document.holdout
    if held is not None:
        kept = _kept(held.accounts, offered)
        share = held.percent / 100
        chances = {account: (1 - share) * chances.get(account, 0.0) for account in offered}
        chances[kept[0]] += share
        if fall(seed, "holdout") < hundredths(held.percent):
            kind, route, mode, later = "holdout", kept, "holdout", "holdout"
    rest = [account for account in outcome.accounts if account not in route]
    return table.decision(
        kind,
        chosen.rule,
        (*route, *rest),
        later=later,
        propensity=chances,
        known=known,
        strategy=outcome.strategy,
        seed=seed,
        constraint=constraint,
        mode=mode,
    )


def _joined(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part is not None) or None


def _kept(accounts: Sequence[str] | None, offered: Sequence[str]) -> list[str]:
    """The order of the holdout: its own accounts first, among those that the strategy could have chosen."""
    first = [account for account in accounts or () if account in offered]
    return first + [account for account in offered if account not in first]


def _ranked(
    outcome: Strategy,
    policy: Policy | None,
    context: Mapping[str, str],
    offered: Sequence[str],
    seed: int,
    now: float,
) -> tuple[list[tuple[str, float, float]], dict[str, Explained], str | None]:
    """What the strategy says, or nothing and the reason. It comes from elsewhere: whatever it does must not stop a payment."""
    if policy is None:
        return [], {}, f"strategy {outcome.strategy} is not available, so its accounts are asked in their listed order"
    try:
        ranked = policy.rank(context, offered, Random(seed), now)  # noqa: S311  # dice that can be thrown again
        known = {account: policy.explain(context, account, now) for account in offered}
    except Exception as error:
        return [], {}, _FAILED.format(outcome.strategy, type(error).__name__)
    if sorted(account for account, _, _ in ranked) != sorted(offered):
        return [], {}, _FAILED.format(outcome.strategy, "no ranking of its accounts")
    return ranked, known, None


_FAILED: Final = "strategy {} failed ({}), so its accounts are asked in their listed order"


def _mode(route: Sequence[str], known: Mapping[str, Explained]) -> str:
    if known[route[0]].breaker in {"open", "probing"}:
        return "probe"
    return "exploit" if route[0] == _best(route, known) else "explore"


def _best(route: Sequence[str], known: Mapping[str, Explained]) -> str:
    """The account that is expected to approve most, of those whose breaker is not open if there is one."""
    sound = [account for account in route if known[account].breaker in {None, "closed"}] or list(route)
    return max(sound, key=lambda account: known[account].score or 0.0)


# --- Dice -------------------------------------------------------------------------------------------------------------


def seed_of(payment_id: str) -> int:
    """The seed of everything that is left to chance for a payment: 48 bits, so that JSON carries them to anybody."""
    return int.from_bytes(blake2b(payment_id.encode(), digest_size=6, key=_KEY).digest())


def fall(seed: int, purpose: str) -> int:
    """Where the dice fall for a ``purpose``, from 0 to 9999: hundredths of a percent. Independent between purposes."""
    digest = blake2b(seed.to_bytes(6), digest_size=8, key=purpose.encode()).digest()
    return int.from_bytes(digest) % 100_00
