"""The plan of one payment: which account is asked next, and when nobody else may be.

Pure: a plan is a value, and :meth:`Plan.after` is the only way it changes. The first run of a charge and its recovery after
a crash build the same plan, because recovery folds the outcomes already recorded through the same function.

Whether there is a next attempt at all is not decided here but in one table, :mod:`routing.retries`; the plan keeps the rule that it was
told. Every account is asked at most once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from providers.contract import Declined, Outcome
from routing.retries import ON_SESSION, Budget, Case, Rule, judge


class OnUnknown(StrEnum):
    """What is done about an attempt whose outcome nobody knows. There is no third way: to go on regardless charges twice."""

    HOLD = "hold"
    """Nobody else is asked until it is settled."""
    VOID_THEN_FAILOVER = "void_then_failover"
    """The attempt is voided at its account, and another account is asked once that void is confirmed."""


class Verdict(StrEnum):
    """Where the plan stands."""

    ASK = "ask"
    """``plan.account`` is to be asked."""
    DECIDED = "decided"
    """The last outcome is the payment's answer."""
    WAITING = "waiting"
    """An account has it, or may have it: wait for news, ask nobody else."""
    NOT_SENT = "not_sent"
    """Nobody processed it and nobody is left to ask: nothing happened."""


_ENDS: Final = {Rule.MONEY_MAY_MOVE: Verdict.WAITING, Rule.APPROVED: Verdict.DECIDED}


@dataclass(frozen=True, slots=True)
class Plan:
    """Accounts still to be asked in order of preference, and the verdict so far. ``accounts[0]`` is the next one."""

    accounts: tuple[str, ...]
    verdict: Verdict
    budget: Budget = ON_SESSION
    history: tuple[Outcome, ...] = field(default=(), compare=False)
    """What the accounts that were asked have answered, oldest first. Two plans are the same where they go on the same way."""
    rule: Rule = Rule.FIRST
    """Which rule allows the next attempt, or forbids it."""

    @classmethod
    def start(cls, accounts: Sequence[str], *, budget: Budget = ON_SESSION) -> Plan:
        """A plan over ``accounts``, best first. Without any it is ``NOT_SENT`` from the start."""
        return _judged(tuple(dict.fromkeys(accounts)), budget, ())

    @classmethod
    def resume(
        cls, accounts: Sequence[str], history: Iterable[tuple[str, Outcome]], *, budget: Budget = ON_SESSION
    ) -> Plan:
        """The plan that ``history`` (account and outcome of each attempt so far, oldest first) has led to.

        An account that was asked before but is no longer offered counts as asked; it is not asked again.
        """
        history = tuple(history)
        plan = cls.start([*(account for account, _ in history), *accounts], budget=budget)
        for account, outcome in history:
            if plan.accounts[:1] != (account,):
                others = tuple(name for name in plan.accounts if name != account)
                plan = replace(plan, accounts=(account, *others))
            plan = plan.after(outcome)
        return plan

    @property
    def account(self) -> str | None:
        """The account to ask now, or ``None`` when nobody may be asked."""
        return self.accounts[0] if self.verdict is Verdict.ASK else None

    @property
    def attempts(self) -> int:
        """How many accounts have been asked."""
        return len(self.history)

    def after(self, outcome: Outcome) -> Plan:
        """The plan once the account just asked has answered ``outcome``."""
        return _judged(self.accounts[1:], self.budget, (*self.history, outcome))

    def held(self) -> Plan:
        """The plan where its next account cannot be asked now: with the decline so far, or with nothing sent.

        What waits or is decided stays so, whatever else comes in.
        """
        return replace(self, verdict=_unasked(self.history)) if self.verdict is Verdict.ASK else self


def _judged(accounts: tuple[str, ...], budget: Budget, history: tuple[Outcome, ...]) -> Plan:
    """The plan with what the table of rules says of its next attempt."""
    ruling = judge(Case(history=history, budget=budget, account_left=bool(accounts)))
    verdict = Verdict.ASK if ruling.allowed else _ENDS.get(ruling.rule) or _unasked(history)
    return Plan(accounts, verdict, budget, history, ruling.rule)


def _unasked(history: Sequence[Outcome]) -> Verdict:
    """What it comes to where nobody else is asked."""
    return Verdict.DECIDED if any(isinstance(outcome, Declined) for outcome in history) else Verdict.NOT_SENT
