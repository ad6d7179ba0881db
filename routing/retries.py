"""Retries: whether one more attempt may be made, and the name of the rule that says so.

One table, :data:`RULES`, read from its top: the first rule that applies forbids, and where none does the attempt is allowed by the
rule that asks for it. The order is that of authority: what the outcome means for money, the card networks, the card's history over
all accounts, the budgets, the code's own row in the decline tables, and then what is at hand. Pure: a :class:`Case` in, a
:class:`Ruling` out; the same case gives the same ruling.

Where the limits come from: Visa Core Rules of 2026-04-18, ID 0030640 (reattempts of one card, amount and merchant in 30 days);
Mastercard's Transaction Processing Excellence, as Braintree and TabaPay publish it (10 declines of a card in 24 hours, 35 of a card
and amount in 30 days). Ours are at most those; docs/routing.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from providers.contract import ActionRequired, Approved, Declined, NotProcessed, Outcome, Pending, Unknown
from providers.declines import Action, Advice, Decline

TRIES_MAX: Final = 3
"""Accounts that one charge calls at all, also those that certainly did nothing: three in 25 s is what a shopper waits for."""
LEAST_S: Final = 3600
"""A payment is not tried again by itself within an hour, whatever is set: what declined it has not changed by then."""
SCHEDULED_MAX: Final = timedelta(days=14)
"""How long a payment may be tried again by itself."""
DAY: Final = timedelta(days=1)
FORTNIGHT: Final = timedelta(days=14)
MONTH: Final = timedelta(days=30)
MASTERCARD_DAY: Final = 10
"""Declines of one card in 24 hours after which Mastercard charges for each attempt."""
MASTERCARD_MONTH: Final = 35
"""Declines of one card and amount in 30 days after which Mastercard charges for each attempt."""
FOREVER: Final = datetime.max.replace(tzinfo=UTC)
"""No time after which it would be allowed: another card or another payment it must be."""

NEVER_CODES: Final = frozenset({"lost_stolen", "account_invalid", "hard_decline", "retry_limit_reached"})
"""Hard declines after which the same card will not be approved again: lost, stolen, closed, or stopped by issuer or network."""
NOT_THE_CARDS: Final = frozenset(
    {"provider_error", "provider_config", "provider_rejected", "cancelled", "authentication_expired", "not_sent"}
)
"""Declines that no issuer has given: they say nothing of the card, and count against no card's limit and no budget."""


class Rule(StrEnum):
    """Every rule that forbids or allows an attempt, by the name under which it is recorded, counted and documented."""

    MONEY_MAY_MOVE = "money_may_move"
    APPROVED = "approved"
    NETWORK_NEVER = "network_never"
    CARD_NEVER = "card_never_30d"
    CARD_LIMIT_VISA = "card_limit_visa"
    CARD_LIMIT_MASTERCARD = "card_limit_mastercard"
    BUDGET_ON_SESSION = "budget_on_session"
    BUDGET_OFF_SESSION = "budget_off_session"
    NETWORK_WAIT = "network_wait"
    CODE_TABLE = "code_table"
    TRIES = "tries"
    NO_ACCOUNT = "no_account"
    DEADLINE = "deadline"
    NOT_PROCESSED = "not_processed"
    CONFIRMED = "confirmed"
    SCHEDULED = "scheduled"
    FIRST = "first_attempt"


@dataclass(frozen=True, slots=True)
class Budget:
    """What one charge may use: ``attempts`` that an account has processed, ``tries`` that were made at all."""

    attempts: int
    tries: int
    off_session: bool = False
    declines: int = 4
    """Declined attempts that one payment may have without the shopper, over all its scheduled retries."""
    gap_s: int = 24 * 3600
    """Least time between two of them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The retry policy as it is set. The defaults are stricter than any network. Durations in seconds, counts of attempts."""

    on_session: int = 2
    off_session: int = 4
    """Merchant-initiated attempts of one card that may be declined in 14 days, over all accounts and payments."""
    off_session_gap_s: int = 24 * 3600
    """Least time between two of them. While it is above zero an off-session decline is not taken to another account at once."""
    visa: int = 15
    """Declines of one Visa card and amount in 30 days; Visa allows 20."""
    never_s: int = 30 * 24 * 3600
    """How long a card rests at this merchant after a decline that says "never"."""
    in_test_mode: bool = False
    """Whether the limits of cards hold in test mode too, where everybody shares the same few cards."""

    def budget(self, *, off_session: bool) -> Budget:
        """What one charge may use."""
        at_once = 1 if self.off_session_gap_s > 0 else min(self.on_session, self.off_session)
        attempts = at_once if off_session else self.on_session
        tries = max(TRIES_MAX, attempts)
        return Budget(attempts, tries, off_session=off_session, declines=self.off_session, gap_s=self.off_session_gap_s)

    def hold(self, *, livemode: bool) -> bool:
        """Whether the limits of cards hold in this mode."""
        return livemode or self.in_test_mode


DEFAULTS: Final = Limits()
ON_SESSION: Final = DEFAULTS.budget(off_session=False)


@dataclass(frozen=True, slots=True)
class CardDecline:
    """One declined attempt of a card, whichever account and payment it was. ``amount`` in minor units of ``currency``."""

    operation_id: str
    at: datetime
    amount: int
    currency: str
    merchant_initiated: bool
    never: bool = False
    not_before: datetime | None = None
    """When the network wants to see the card again."""


@dataclass(frozen=True, slots=True)
class CardUse:
    """What is about to be asked of a card, and what is known of it. ``declines`` are its own of the last 30 days, in any order."""

    declines: tuple[CardDecline, ...]
    amount: int
    currency: str
    network: str | None
    merchant_initiated: bool

    def since(self, age: timedelta, now: datetime) -> list[CardDecline]:
        """The declines that are not older than ``age``, oldest first."""
        return sorted((one for one in self.declines if now - one.at < age), key=lambda one: one.at)

    def of_amount(self, declines: Iterable[CardDecline]) -> list[CardDecline]:
        """Those of the same amount: what a network takes for a retry of the same thing."""
        return [one for one in declines if (one.amount, one.currency) == (self.amount, self.currency)]


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that decides about the next attempt of a charge. ``history`` are its outcomes so far, oldest first."""

    history: tuple[Outcome, ...] = ()
    budget: Budget = ON_SESSION
    limits: Limits = DEFAULTS
    card: CardUse | None = None
    """``None`` where nothing is counted: the limits of cards do not hold, or somebody else asks about them."""
    now: datetime | None = None
    account_left: bool = True
    time_left: bool = True


@dataclass(frozen=True, slots=True)
class Ruling:
    """What holds for the next attempt, and by which rule. ``until`` is when the rule ends that forbids it, ``FOREVER`` if never."""

    rule: Rule
    allowed: bool
    until: datetime | None = None


def judge(case: Case) -> Ruling:
    """Whether one more attempt may be made. The first rule of the table that applies forbids it."""
    for rule, until in ((rule, applies(case)) for rule, applies in RULES.items()):
        if until is not None:
            return Ruling(rule, allowed=False, until=until)
    if not case.history:
        return Ruling(Rule.FIRST, allowed=True)
    last = case.history[-1]
    return Ruling(Rule.NOT_PROCESSED if isinstance(last, NotProcessed) else Rule.CODE_TABLE, allowed=True)


def next_try(decline: Decline, declined: int, budget: Budget, now: datetime, until: datetime) -> Ruling:
    """When a payment whose shopper is away may be tried again by itself, after ``decline``, the last of ``declined`` ones.

    Allowed, ``until`` of the ruling is that moment: after the network's wait, the merchant's gap, and an hour at least. What the limits
    of its card say is asked then: other payments may have used them up meanwhile.
    """
    waits_s = max(budget.gap_s, decline.wait_s or 0, LEAST_S)
    again = now + timedelta(seconds=waits_s)
    forbids = {
        Rule.NETWORK_NEVER: says_never(decline),
        Rule.BUDGET_OFF_SESSION: declined >= budget.declines,
        Rule.CODE_TABLE: decline.action not in {Action.RETRY_LATER, Action.RETRY_OTHER_NOW},
        Rule.DEADLINE: again > until,
    }
    rule = next((rule for rule, applies in forbids.items() if applies), None)
    return Ruling(rule or Rule.SCHEDULED, allowed=rule is None, until=again if rule is None else FOREVER)


def says_never(decline: Decline) -> bool:
    """Whether the card will not be approved again: its network or issuer says so, in advice or by the sort of decline."""
    return decline.network_advice is Advice.NEVER or (decline.type == "hard" and decline.code in NEVER_CODES)


def counts(decline: Decline) -> bool:
    """Whether a decline is one of the card's: given by its issuer or network, not by us, the shopper or the account."""
    return decline.code not in NOT_THE_CARDS


def processed(history: Sequence[Outcome]) -> int:
    """How many attempts of a charge have used its budget: those that were processed, whatever came of them."""
    return sum(not isinstance(one, NotProcessed) and not _not_the_cards(one) for one in history)


def _not_the_cards(outcome: Outcome) -> bool:
    return isinstance(outcome, Declined) and not counts(outcome.decline)


def _declines(case: Case) -> list[Decline]:
    return [one.decline for one in case.history if isinstance(one, Declined)]


# --- The rules --------------------------------------------------------------------------------------------------------
# Each says until when it forbids the attempt, or None where it does not apply.


def _forever(applies: bool) -> datetime | None:  # noqa: FBT001 - it is the one thing that is asked
    return FOREVER if applies else None


def _money_may_move(case: Case) -> datetime | None:
    """An attempt waits for its end, or nobody knows it: another one could charge twice."""
    waits = any(isinstance(one, ActionRequired | Pending | Unknown) for one in case.history)
    return _forever(waits and not isinstance(case.history[-1], Approved))


def _approved(case: Case) -> datetime | None:
    return _forever(any(isinstance(one, Approved) for one in case.history))


def _network_never(case: Case) -> datetime | None:
    """Visa's category 1, Mastercard's 03 and 21, "do not try again", a card that is lost, stolen or closed."""
    return _forever(any(map(says_never, _declines(case))))


def _card_never(case: Case) -> datetime | None:
    """The same, told of this card in another payment, at any account."""
    if case.card is None or case.now is None:
        return None
    rests = timedelta(seconds=case.limits.never_s)
    told = [one.at + rests for one in case.card.declines if one.never and case.now - one.at < rests]
    return max(told, default=None)


def _full(declines: Sequence[CardDecline], most: int, age: timedelta) -> datetime | None:
    """When the oldest of so many declines, oldest first, is old enough to leave room for one more."""
    return declines[len(declines) - most].at + age if len(declines) >= most else None


def _visa(case: Case) -> datetime | None:
    """Reattempts of one card and amount in 30 days, those of the shopper and those of the merchant apart."""
    if case.card is None or case.now is None or case.card.network not in {"visa", None}:
        return None
    same = case.card.of_amount(case.card.since(MONTH, case.now))
    same = [one for one in same if one.merchant_initiated == case.card.merchant_initiated]
    return _full(same, case.limits.visa, MONTH)


def _mastercard(case: Case) -> datetime | None:
    """Declines of one card in 24 hours, and of one card and amount in 30 days."""
    if case.card is None or case.now is None or case.card.network not in {"mastercard", "maestro", None}:
        return None
    day = _full(case.card.since(DAY, case.now), MASTERCARD_DAY, DAY)
    month = _full(case.card.of_amount(case.card.since(MONTH, case.now)), MASTERCARD_MONTH, MONTH)
    return max((until for until in (day, month) if until is not None), default=None)


def _budget_on_session(case: Case) -> datetime | None:
    """So many accounts have processed this charge: the shopper is told, and may confirm again."""
    return _forever(not case.budget.off_session and processed(case.history) >= case.budget.attempts)


def _budget_off_session(case: Case) -> datetime | None:
    """So many merchant-initiated attempts of the card in 14 days, and one in 24 hours, whichever account and payment."""
    if not case.budget.off_session:
        return None
    if processed(case.history) >= case.budget.attempts:
        return FOREVER
    if case.card is None or case.now is None:
        return None
    own = [one for one in case.card.since(FORTNIGHT, case.now) if one.merchant_initiated]
    gap = timedelta(seconds=case.limits.off_session_gap_s)
    rests = own[-1].at + gap if own and case.now - own[-1].at < gap else None
    full = _full(own, case.limits.off_session, FORTNIGHT)
    return max((until for until in (rests, full) if until is not None), default=None)


def _network_wait(case: Case) -> datetime | None:
    """The network has asked to be left alone with this card. A shopper who comes by himself may still try."""
    if any(decline.wait_s for decline in _declines(case)):
        return FOREVER
    if case.card is None or case.now is None or not case.card.merchant_initiated:
        return None
    waits = [one.not_before for one in case.card.declines if one.not_before is not None and one.not_before > case.now]
    return max(waits, default=None)


def _code_table(case: Case) -> datetime | None:
    """A decline on the way whose row in the decline tables does not say ``retry_other_now``."""
    return _forever(any(decline.action is not Action.RETRY_OTHER_NOW for decline in _declines(case)))


def _tries(case: Case) -> datetime | None:
    return _forever(len(case.history) >= case.budget.tries)


RULES: Final[Mapping[Rule, Callable[[Case], datetime | None]]] = MappingProxyType(
    {
        Rule.MONEY_MAY_MOVE: _money_may_move,
        Rule.APPROVED: _approved,
        Rule.NETWORK_NEVER: _network_never,
        Rule.CARD_NEVER: _card_never,
        Rule.CARD_LIMIT_VISA: _visa,
        Rule.CARD_LIMIT_MASTERCARD: _mastercard,
        Rule.BUDGET_ON_SESSION: _budget_on_session,
        Rule.BUDGET_OFF_SESSION: _budget_off_session,
        Rule.NETWORK_WAIT: _network_wait,
        Rule.CODE_TABLE: _code_table,
        Rule.TRIES: _tries,
        Rule.NO_ACCOUNT: lambda case: _forever(not case.account_left),
        Rule.DEADLINE: lambda case: _forever(not case.time_left),
    }
)
"""The rules that forbid, in the order of their authority."""
