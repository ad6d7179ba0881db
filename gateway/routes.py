"""Routes: which accounts may take a payment, in which order they are asked, and what is recorded of why.

A round of attempts has one decision: made from the document in force as the round opens, and written with its first attempt in the
same commit. Every further attempt of the round has a short record: what came of the one before, and the rule that allowed it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import thread_time
from typing import Any, Final

import structlog

from gateway.brands import brand_of
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.payment import FAILOVER, Operation, Payment, Terms
from gateway.vault import Wallet
from providers.contract import Capability, CardFacts, Declined, Outcome
from providers.money import Money
from routing import rules
from routing.decision import Decision, Facts
from routing.document import Document, Strategy
from routing.strategies import Policy

log = structlog.get_logger()

BIN_DIGITS: Final = 6
LONG_BIN_DIGITS: Final = 8
LONG_NUMBER: Final = 16
"""Of a number of 16 digits or more the first eight may be kept beside the last four, of a shorter one six (PCI SSC, FAQ 1091)."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision, and what was in force when it was made. ``shadow`` is what a version that only watches would have decided."""

    decision: Decision
    unreadable: tuple[str, ...] = ()
    shadow: Decision | None = None

    @property
    def route(self) -> tuple[str, ...]:
        """The accounts to be asked, best first; empty where none can take the payment."""
        return self.decision.route

    def record(self) -> dict[str, Any]:
        """What is kept of it with the first attempt of its round: :meth:`Decision.record`, and the rest beside it where there is any."""
        record = self.decision.record()
        if self.unreadable:
            record["unreadable"] = list(self.unreadable)
        if self.shadow is not None:
            record["shadow"] = {name: value for name, value in self.shadow.record().items() if name != "facts"}
        return record


DECLINED_BEFORE: Final = "declined_before"
"""Why an account is left out of a retry: it has declined this payment in a way that another one may not."""


def decide(
    terms: Terms,
    wallet: Wallet,
    card: CardFacts | None,
    deps: Deps,
    now: datetime,
    *,
    without: frozenset[str] = frozenset(),
) -> Routed:
    """Who is asked for this payment and why: by the account that the request names, the document in force, or the configuration.

    ``card`` is what is known of the card that is paid with, ``without`` are accounts that are left out. Reads nothing and never raises
    on account of a document: what is broken is stood in for, counted, and told in the record.
    """
    known, able = facts(terms, wallet, card, now), eligibility(terms, wallet, deps)
    able |= {name: DECLINED_BEFORE for name, reason in able.items() if reason is None and name in without}
    found = deps.in_force.of(terms.id, terms.merchant_id, now, livemode=terms.livemode)
    if found.unreadable:
        deps.instruments.stood_in("routing_unreadable")
    pinned, learned = terms.pinned_account, _learned(deps.learned.policy, known)

    def by(version: str | None, document: Document | None) -> Decision:
        return rules.decide(document, version, known, able, tuple(able), learned, now.timestamp(), pinned=pinned)

    shadow = None
    if found.shadow is not None and not pinned:
        began = thread_time()
        try:
            shadow = by(*found.shadow)
        except Exception as error:  # what only watches must never stop a payment, whatever is wrong with it
            deps.instruments.stood_in("shadow_not_decided")
            log.error("shadow_not_decided", version=found.shadow[0], error=type(error).__name__)
        deps.in_force.watched(found.shadow[0], thread_time() - began, now)
    elif found.rests and not pinned:
        deps.instruments.stood_in("shadow_not_decided")
    with deps.traces.span("route", payment=terms.id) as span:
        routed = Routed(by(found.version, found.document), found.unreadable, shadow)
        if span is not None:
            decision = routed.decision
            span.told(account=next(iter(decision.route), None), decided=decision.kind, version=decision.version)
            span.told(rule=decision.rule, strategy=decision.strategy)
    return routed


def rehearse(document: Document, version: str, known: Facts, able: Mapping[str, str | None], deps: Deps) -> Decision:
    """How a version that may not be in force would decide a payment now, with what its strategies have learned. Nothing follows from it."""
    learned = _learned(deps.learned.rehearsed, known)
    return rules.decide(document, version, known, able, tuple(able), learned, known.at.timestamp())


def _learned(ask: Callable[..., Policy | None], known: Facts) -> Callable[[Strategy], Policy | None]:
    """What the strategies of a payment's merchant have learned, if they have."""
    return partial(ask, known.merchant_id, livemode=known.livemode)


def facts(terms: Terms, wallet: Wallet, card: CardFacts | None, now: datetime) -> Facts:
    """What rules and strategies may look at of a payment. Of a token often little is known, until its account has told of the card."""
    number = None if wallet.card is None else wallet.card.number
    shown = card or CardFacts()
    address: Mapping[str, Any] = terms.billing_details.get("address") or {}
    return Facts(
        payment_id=terms.id,
        merchant_id=terms.merchant_id,
        livemode=terms.livemode,
        amount=terms.amount,
        currency=terms.currency,
        at=now,
        country=address.get("country"),
        brand=shown.brand or (None if number is None else brand_of(number)),
        funding=shown.funding,
        bin=_bin(number, shown),
        issuer_country=shown.country,
        initiator="merchant" if terms.off_session else "customer",
        recurring=terms.recurring,
        three_d_secure=terms.three_d_secure or "automatic",
        metadata=terms.metadata,
    )


def _bin(number: str | None, shown: CardFacts) -> str | None:
    """The first digits of the card, as many as may be kept."""
    if number is None:
        return None if shown.bin is None else shown.bin[:LONG_BIN_DIGITS]
    return number[: LONG_BIN_DIGITS if len(number) >= LONG_NUMBER else BIN_DIGITS]


def eligibility(terms: Terms, wallet: Wallet, deps: Deps) -> dict[str, str | None]:
    """Each account of the merchant with the reason why it cannot take the payment, or ``None``; in the order of the configuration."""
    return able(terms, wallet.tokens.keys(), deps, has_card=wallet.card is not None)


def able(terms: Terms, tokens: Collection[str], deps: Deps, *, has_card: bool) -> dict[str, str | None]:
    """The same, by the accounts that know the payment method and whether its card is at hand."""
    money, needs = Money(terms.amount, terms.currency), _needs(terms)
    # An account that remembers the card itself knows its first payment, too.
    remembered = needs - {Capability.NETWORK_TRANSACTION_ID}
    reasons = {}
    for account in deps.accounts_of(terms.merchant_id, livemode=terms.livemode):
        has_token = account.name in tokens
        asked = remembered if has_token else needs
        reasons[account.name] = account.eligible(money, has_token=has_token, has_card=has_card, needs=asked)
    return reasons


def refusal(terms: Terms, wallet: Wallet, deps: Deps) -> Problem:
    """What is answered where no account may take the payment: each with its reason."""
    pinned = terms.pinned_account
    able = eligibility(terms, wallet, deps)
    reasons = {name: reason for name, reason in able.items() if pinned in {None, name}}
    if pinned is not None and not reasons:
        return Problem("no_eligible_account", "There is no account of that name.", "routing.account")
    param = "routing.account" if pinned is not None else None
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no account is configured"
    return Problem(
        "no_eligible_account", f"No account can take this payment ({why}).", param, extra={"accounts": reasons}
    )


def _needs(terms: Terms) -> frozenset[Capability]:
    """What an account must be able to do for these terms."""
    wanted = {
        Capability.VERIFICATION: terms.amount == 0,
        Capability.MANUAL_CAPTURE: terms.capture_method == "manual",
        Capability.STORED_CREDENTIALS: terms.setup_future_usage is not None,
        Capability.MERCHANT_INITIATED: terms.off_session,
        Capability.INCREMENT: bool(terms.adjustable),
        Capability.REDIRECT: terms.three_d_secure == "required",
        Capability.NETWORK_TRANSACTION_ID: terms.network_transaction_id is not None,
    }
    return frozenset(capability for capability, needed in wanted.items() if needed)


# --- After the first attempt ------------------------------------------------------------------------------------------


def cascade(payment: Payment, before: Operation, outcome: Outcome) -> dict[str, Any]:
    """The record of an attempt that follows ``before``, which ended with ``outcome``, in the same round.

    ``decided_by`` is the attempt that holds the decision of the round. The rule that allows it stands in the attempt's own row.
    """
    deciding = next(attempt for attempt in payment.attempts if attempt.round == before.round)
    if isinstance(outcome, Declined):
        word, code = "declined", outcome.decline.code
    elif before.reason == FAILOVER:
        word, code = "voided", None
    else:
        word, code = "not_processed", getattr(outcome, "reason", None)
    told = {"after": before.id, "outcome": word, "code": code, "decided_by": deciding.id}
    return {name: value for name, value in told.items() if value is not None}
