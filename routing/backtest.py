"""Replays the payments of the past through a draft: what it would have decided, approved, moved and cost.

:class:`Replay` is fed recorded attempts in their order, one at a time, and keeps sums alone: its memory does not grow with the past,
but for what has to be listed or is still to be learned, and both are bounded. Pure: where attempts come from is not its business.

What is promised of the figures:

* The decisions are those that the draft makes: of the same rules, with the same dice of each payment, over the accounts that could
  take the payment then.
* The rate is of first attempts, one a payment. What a later attempt made of it depends on the first, and is counted apart.
* A strategy starts knowing nothing, and learns from every attempt that is recorded, in the order in which the outcomes were known,
  as it would in shadow: it is judged on each payment before it learns what became of it. So the interval is of the strategy with
  that knowledge. In force it learns from its own choices instead: more of the accounts it prefers, less of the others. Its shares
  are kept by its own choices in the replay, too.
* The interval holds for payments like the recorded ones. It knows nothing of a provider that changes tomorrow.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from routing.decision import Facts
from routing.document import Document, Priority, Split, Strategy
from routing.estimate import Estimate, Snips, weight_max
from routing.rules import DEFAULT, arm_of, choose, decide, seed_of
from routing.strategies import Policy, make

CHANGED_MAX: Final = 100
"""Changed payments that are listed; all are counted."""
LEARNING_MAX: Final = 100_000
"""Outcomes that wait to be learned: more than are ever under way at once. Past it the oldest is learned early."""
APPROVED: Final = "approved"


class Attempt(NamedTuple):
    """One recorded attempt. ``first`` is the payment's first; ``account`` is the one that was asked.

    ``chances`` has the probability with which each account came first, without those that had none; empty where the decision did
    not record any. ``eligibility`` has why each account could not take it, or ``None``. ``word`` is what it is evidence of, a word
    of ``routing.strategies``, or ``None`` where nobody knows yet; ``known_at`` is since when, in seconds. ``pinned`` attempts are
    those whose request named the account.
    """

    facts: Facts
    account: str
    chances: Mapping[str, float]
    eligibility: Mapping[str, str | None]
    word: str | None
    known_at: float
    first: bool = True
    pinned: bool = False
    fair: bool = True


@dataclass(frozen=True, slots=True)
class Changed:
    """One payment that the draft would have sent elsewhere. ``rule`` is the draft's."""

    payment: str
    at: datetime
    amount: int
    currency: str
    recorded: str
    draft: str | None
    rule: str | None


@dataclass(slots=True)
class Volume:
    """What one account gets of one currency: as it was, and as the draft would have it, an expectation.

    Amounts and fees are in minor units; fees are of approved payments, and ``None`` where the draft states none for the account.
    """

    account: str
    currency: str
    payments: int = 0
    amount: int = 0
    fees: float | None = None
    draft_payments: float = 0.0
    draft_amount: float = 0.0
    draft_fees: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a draft would have done. Counts are of first attempts, unless they say otherwise.

    ``attempts`` are all that were read; ``later`` those after a payment's first, of which ``later_approved`` were approved. Of the
    first ones, ``decided`` were replayed. ``undecided`` bear no record of their decision, or were sent to an account that it gave
    no chance; ``unsettled`` have no outcome yet and are in no rate; ``pinned`` named their account, which no draft changes.
    """

    attempts: int
    decided: int
    undecided: int
    unsettled: int
    pinned: int
    later: int
    later_approved: int
    changed: int
    moves: Mapping[tuple[str, str | None], int]
    rules: Mapping[str, int]
    examples: tuple[Changed, ...]
    volumes: tuple[Volume, ...]
    estimate: Estimate
    learned: int

    @property
    def sentence(self) -> str:
        """The result in plain English, which may change between releases."""
        share = f" ({self.changed / self.decided:.1%})" if self.decided else ""
        return f"The draft changes {self.changed:,} of {self.decided:,} decisions{share}. {self.estimate.sentence}"

    def record(self) -> dict[str, Any]:
        """The result as JSON values: shares from 0 to 1, expected amounts rounded to minor units."""
        return {
            "sentence": self.sentence,
            "attempts": {
                "read": self.attempts,
                "decided": self.decided,
                "undecided": self.undecided,
                "unsettled": self.unsettled,
                "pinned": self.pinned,
                "later": self.later,
                "later_approved": self.later_approved,
                "learned": self.learned,
            },
            "decisions": {
                "changed": self.changed,
                "moves": [{"recorded": was, "draft": now, "payments": n} for (was, now), n in _most(self.moves)],
                "rules": [{"rule": rule, "payments": n} for rule, n in _most(self.rules)],
            },
            "authorization_rate": self.estimate.record(),
            "accounts": [_volume(volume) for volume in self.volumes],
            "changed": [
                {
                    "payment": each.payment,
                    "at": each.at.isoformat(),
                    "amount": each.amount,
                    "currency": each.currency,
                    "recorded": each.recorded,
                    "draft": each.draft,
                    "rule": each.rule,
                }
                for each in self.examples
            ],
        }


@dataclass(slots=True)
class _Counts:
    attempts: int = 0
    decided: int = 0
    undecided: int = 0
    unsettled: int = 0
    pinned: int = 0
    later: int = 0
    later_approved: int = 0
    changed: int = 0
    learned: int = 0


@dataclass(slots=True)
class _Lesson:
    """An outcome that is to be learned once it is known. ``chosen`` is the account that the draft would have asked."""

    facts: Facts
    account: str
    chosen: str
    word: str


class Replay:
    """One draft over the past. ``payments`` is about how many first attempts will come: it sets how much one may count for.

    ``order`` is the merchant's accounts in the order of the configuration. Its strategies are made here, and know nothing yet.
    """

    def __init__(self, document: Document, order: Sequence[str], payments: int) -> None:
        self._document = document
        self._order = tuple(order)
        self._snips = Snips(weight_max(payments))
        self._policies: dict[str, Policy] = {}
        self._learners: list[tuple[frozenset[str], Policy]] = []
        made: list[tuple[Strategy, Policy]] = []
        for name, outcome in strategies_of(document):  # two rules with the same strategy learn as one
            policy = next((each for alike, each in made if alike == outcome), None)
            if policy is None:
                policy = make(outcome.strategy, outcome.accounts, outcome.all_settings)
                made.append((outcome, policy))
                self._learners.append((frozenset(outcome.accounts), policy))
            self._policies[name] = policy
        self._fees = fees_of(document)
        self._known: dict[tuple[str, ...], Mapping[str, float]] = {}
        self._counts = _Counts()
        self._moves: Counter[tuple[str, str | None]] = Counter()
        self._rules: Counter[str] = Counter()
        self._examples: list[Changed] = []
        self._volumes: dict[tuple[str, str], Volume] = {}
        self._waiting: list[tuple[float, int, _Lesson]] = []

    @property
    def attempts(self) -> int:
        """How many were fed."""
        return self._counts.attempts

    def feed(self, attempt: Attempt) -> None:
        """Replay the next attempt."""
        counts = self._counts
        counts.attempts += 1
        if self._learners:
            self._learn(attempt.facts.at.timestamp())
        chosen = attempt.account
        if attempt.first:
            chosen = self._first(attempt)
        else:
            counts.later += 1
            counts.later_approved += attempt.word == APPROVED
        if self._learners and attempt.fair and attempt.word is not None:
            lesson = _Lesson(attempt.facts, attempt.account, chosen, attempt.word)
            heapq.heappush(self._waiting, (attempt.known_at, counts.attempts, lesson))

    def pass_over(self, *, first: bool) -> None:
        """Count an attempt that bears no record of its decision."""
        self._counts.attempts += 1
        self._counts.undecided += first
        self._counts.later += not first

    def result(self) -> Result:
        """What is known by now. May be asked at any time."""
        counts = self._counts
        return Result(
            attempts=counts.attempts,
            decided=counts.decided,
            undecided=counts.undecided,
            unsettled=counts.unsettled,
            pinned=counts.pinned,
            later=counts.later,
            later_approved=counts.later_approved,
            changed=counts.changed,
            moves=dict(self._moves),
            rules=dict(self._rules),
            examples=tuple(self._examples),
            volumes=tuple(self._volumes[key] for key in sorted(self._volumes)),
            estimate=self._snips.estimate(),
            learned=counts.learned,
        )

    # --- parts ---

    def _first(self, attempt: Attempt) -> str:
        """Replay a payment's first attempt, and give the account that the draft asks: that is known before it is looked what came of it."""
        counts, account = self._counts, attempt.account
        recorded, chances = attempt.chances, attempt.chances
        if attempt.pinned:
            counts.pinned += 1
            recorded = chances = {account: 1.0}
            rule, draft = "pinned", account
        elif not recorded.get(account):
            counts.undecided += 1
            return account
        else:
            rule, draft, chances = self._decided(attempt)
        counts.decided += 1
        self._rules[rule] += 1
        if draft != account:
            self._change(attempt, rule, draft)
        word = attempt.word
        approved = word == APPROVED
        self._tell_volume(attempt, recorded, chances, approved=approved)
        if word is None:
            counts.unsettled += 1
        else:
            self._snips.add(attempt.facts.at.toordinal(), account, recorded, chances, approved=approved)
        return draft

    def _decided(self, attempt: Attempt) -> tuple[str, str, Mapping[str, float]]:
        """The draft's decision: the rule, the first account, and the chance of each account to be it."""
        facts, eligibility = attempt.facts, attempt.eligibility
        chosen = choose(self._document, facts, eligibility)
        if chosen is None:
            first = next((account for account in self._order if eligibility.get(account, "") is None), attempt.account)
            return "static", first, {first: 1.0}
        outcome = chosen.outcome
        if isinstance(outcome, Strategy):
            policy, now = self._policies[chosen.rule], facts.at.timestamp()
            # Unexplained: no record is made of it, and explaining costs nearly as much as choosing.
            decision = decide(
                self._document, None, facts, eligibility, self._order, lambda _: policy, now, explain=False
            )
            drawn = {each.account: each.propensity for each in decision.candidates if each.propensity}
            return chosen.rule, decision.route[0], drawn
        key = (chosen.rule, *[account for account in outcome.accounts if eligibility.get(account, "") is None])
        chances = self._known.get(key)
        if chances is None:
            chances = self._known[key] = chances_of(outcome, key[1:])
        if isinstance(outcome, Split):
            arm = arm_of(outcome, seed_of(facts.payment_id))
            return chosen.rule, arm if arm in chances else key[1], chances
        return chosen.rule, key[1], chances

    def _change(self, attempt: Attempt, rule: str, draft: str) -> None:
        self._counts.changed += 1
        self._moves[attempt.account, draft] += 1
        if len(self._examples) < CHANGED_MAX:
            facts = attempt.facts
            changed = Changed(facts.payment_id, facts.at, facts.amount, facts.currency, attempt.account, draft, rule)
            self._examples.append(changed)

    def _tell_volume(
        self, attempt: Attempt, recorded: Mapping[str, float], chances: Mapping[str, float], *, approved: bool
    ) -> None:
        facts, account = attempt.facts, attempt.account
        amount, currency = facts.amount, facts.currency
        asked = self._volume(account, currency)
        asked.payments += 1
        asked.amount += amount
        for name, chance in chances.items():
            volume = asked if name == account else self._volume(name, currency)
            volume.draft_payments += chance
            volume.draft_amount += chance * amount
        if approved and account in self._fees:
            fixed, basis_points = self._fees[account]
            fee = fixed + amount * basis_points / 10_000
            asked.fees = (asked.fees or 0.0) + fee
            asked.draft_fees = (asked.draft_fees or 0.0) + fee * chances.get(account, 0.0) / recorded[account]

    def _volume(self, account: str, currency: str) -> Volume:
        volume = self._volumes.get((account, currency))
        if volume is None:
            volume = self._volumes[account, currency] = Volume(account, currency)
        return volume

    def _learn(self, now: float) -> None:
        """Let the strategies learn what was known by ``now``."""
        waiting = self._waiting
        while waiting and (waiting[0][0] <= now or len(waiting) > LEARNING_MAX):
            known_at, _, lesson = heapq.heappop(waiting)
            context = lesson.facts.context()
            self._counts.learned += 1
            for accounts, policy in self._learners:
                asked = lesson.account if lesson.account in accounts else None
                if asked is not None:
                    policy.update(context, asked, lesson.word, known_at)
                if lesson.chosen != lesson.account:
                    policy.instead(asked, lesson.chosen if lesson.chosen in accounts else None)


def strategies_of(document: Document) -> list[tuple[str, Strategy]]:
    """The outcomes of a document that are strategies, by the name of their rule."""
    outcomes = [*((rule.name, rule.then) for rule in document.rules), (DEFAULT, document.default)]
    return [(name, outcome) for name, outcome in outcomes if isinstance(outcome, Strategy)]


def fees_of(document: Document) -> dict[str, tuple[float, float]]:
    """What the document says each account takes of an approved payment: minor units, and basis points of the amount."""
    found: dict[str, tuple[float, float]] = {}
    for _, outcome in strategies_of(document):
        for account, fee in outcome.settings.get("fees", {}).items():
            found.setdefault(account, (fee["fixed"], fee["basis_points"]))
    return found


def chances_of(outcome: Priority | Split, able: Sequence[str]) -> dict[str, float]:
    """The chance of each account to come first, among those that are ``able`` to take the payment, in the outcome's order."""
    if isinstance(outcome, Priority):
        return {able[0]: 1.0}
    chances = {account: outcome.split[account] / 100 for account in able}
    chances[able[0]] += sum(share for account, share in outcome.split.items() if account not in chances) / 100
    return {account: chance for account, chance in chances.items() if chance}


def _most(counted: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))


def _volume(volume: Volume) -> dict[str, Any]:
    fees = None if volume.fees is None else round(volume.fees)
    draft_fees = None if volume.draft_fees is None else round(volume.draft_fees)
    return {
        "account": volume.account,
        "currency": volume.currency,
        "recorded": {"payments": volume.payments, "amount": volume.amount, "fees": fees},
        "draft": {
            "payments": round(volume.draft_payments, 1),
            "amount": round(volume.draft_amount),
            "fees": draft_fees,
        },
    }
