"""The plan of one payment: which account is asked next, and when nobody else may be.

Pure: a plan is a value, and :meth:`Plan.after` is the only way it changes. The first run of a charge and its recovery after
a crash build the same plan, because recovery folds the outcomes already recorded through the same function.

Three rules stand above every preference:

* after ``Unknown``, ``Pending`` or ``ActionRequired`` no other account is asked: money has moved or may move;
* after a decline, another account is asked only where the decline's action says ``retry_other_now``;
* every account is asked at most once, and at most ``attempts_max`` are asked at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, assert_never

from providers.contract import ActionRequired, Approved, Declined, NotProcessed, Outcome, Pending, Unknown
from providers.declines import Action

ATTEMPTS_MAX: Final = 3
"""Attempts of one charge. Networks charge for excessive retries; three accounts in 25 s is what a shopper waits for."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """Accounts still to be asked in order of preference, and the verdict so far. ``accounts[0]`` is the next one."""

    accounts: tuple[str, ...]
    verdict: Verdict
    attempts: int = 0
    attempts_max: int = ATTEMPTS_MAX
    declined: bool = False
    """Whether an account declined on the way: then running out of accounts is a decline, not \"nothing happened\"."""

    @classmethod
    def start(cls, accounts: Sequence[str], *, attempts_max: int = ATTEMPTS_MAX) -> Plan:
        """A plan over ``accounts``, best first. Without any it is ``NOT_SENT`` from the start."""
        verdict = Verdict.ASK if accounts and attempts_max > 0 else Verdict.NOT_SENT
        return cls(tuple(dict.fromkeys(accounts)), verdict, attempts_max=attempts_max)

    @classmethod
    def resume(
        cls, accounts: Sequence[str], history: Iterable[tuple[str, Outcome]], *, attempts_max: int = ATTEMPTS_MAX
    ) -> Plan:
        """The plan that ``history`` (account and outcome of each attempt so far, oldest first) has led to.

        An account that was asked before but is no longer offered counts as asked; it is not asked again.
        """
        history = tuple(history)
        plan = cls.start([*(account for account, _ in history), *accounts], attempts_max=attempts_max)
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

    def after(self, outcome: Outcome) -> Plan:
        """The plan once the account just asked has answered ``outcome``."""
        rest, attempts = self.accounts[1:], self.attempts + 1
        match outcome:
            case Approved():
                return replace(self, accounts=rest, attempts=attempts, verdict=Verdict.DECIDED)
            case ActionRequired() | Pending() | Unknown():  # money moved or may move: nobody else is asked
                return replace(self, accounts=rest, attempts=attempts, verdict=Verdict.WAITING)
            case NotProcessed():  # certainly nothing happened there
                return replace(self, accounts=rest, attempts=attempts).cascaded()
            case Declined(decline=decline):
                after = replace(self, accounts=rest, attempts=attempts, declined=True)
                return after.cascaded() if decline.action is Action.RETRY_OTHER_NOW else after.stopped()
            case _:
                assert_never(outcome)

    def stopped(self) -> Plan:
        """The plan where nobody further may be asked: with the decline so far, or with nothing sent."""
        if self.verdict in {
            Verdict.WAITING,
            Verdict.DECIDED,
        }:  # what waits or is decided stays so, whatever else comes in
            return self
        return replace(self, verdict=Verdict.DECIDED if self.declined else Verdict.NOT_SENT)

    def held(self) -> Plan:
        """The plan where its next account cannot be asked now: as :meth:`stopped`, if an account was to be asked at all."""
        return self.stopped() if self.verdict is Verdict.ASK else self

    def cascaded(self) -> Plan:
        """On to the next account, while one is left and the attempts are not used up."""
        left = self.verdict is Verdict.ASK and bool(self.accounts) and self.attempts < self.attempts_max
        return self if left else self.stopped()
