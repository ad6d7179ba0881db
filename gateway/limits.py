"""Limits of cards: what is known of a card's declines at all accounts, and what follows where that forbids a charge.

A declined attempt leaves one row, written by the statement that records the decline (:data:`DECLINED`). The rows of a card are read where
a charge reads its stored method anyway; a card that comes with the request is looked for by the statement that opens the payment, and its
rows are read only where there are any. So a card that was never declined costs no round trip (docs/adr/0023). What the rows forbid is for
:mod:`routing.retries` to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from gateway.payment import Operation, OperationStatus, Payment
from gateway.sql import columns, values
from gateway.tables import DeclinedCardRow
from providers.contract import Declined, Kind
from providers.declines import Action, Decline
from routing.plan import Plan
from routing.retries import FOREVER, MONTH, CardDecline, CardUse, Case, Limits, Ruling, counts, judge, says_never

LIMITED: Final = "retry_limit_reached"
"""The code of a charge that was sent to nobody, because its card was declined too often."""
KEPT: Final = MONTH + timedelta(days=1)
"""How long a decline of a card is kept: no limit looks further back than 30 days."""
READ_MAX: Final = 200
"""Rows of one card that are read: more than any limit counts."""

DECLINED: Final = f"""INSERT INTO declined_card ({columns(DeclinedCardRow)})
    SELECT {values(DeclinedCardRow, "y_", card="coalesce(payment_method.fingerprint, payment_method.id)")}
    FROM {{source}}, payment_method WHERE payment_method.id = :y_payment_method ON CONFLICT DO NOTHING"""  # noqa: S608 - our own text
"""A piece of the commit that records a decline. A card without a fingerprint, a token, is counted by its payment method."""
FRESH: Final = f"""SELECT WHERE NOT EXISTS (SELECT FROM declined_card WHERE merchant_id = :f_merchant_id
    AND livemode = :f_livemode AND card = :f_card AND at > now() - interval '{MONTH.days} days')"""  # noqa: S608 - our own text
"""One row where the card was not declined of late, else none: what opens a charge hangs on it."""
_OF_CARD: Final = f"""FROM declined_card WHERE at > now() - interval '{MONTH.days} days'
    AND merchant_id = {{merchant_id}} AND livemode = {{livemode}} AND card = {{card}} ORDER BY at DESC LIMIT {READ_MAX}"""
_READ: Final = "operation_id, at, amount, currency, merchant_initiated, never, not_before"
OF_CARD: Final = f"SELECT {_READ} {_OF_CARD}".format(merchant_id=":merchant_id", livemode=":livemode", card=":card")
"""The declines of one card."""
OF_METHOD: Final = f"(SELECT jsonb_agg(d) FROM (SELECT {_READ} {_OF_CARD}) AS d)".format(  # noqa: S608 - our own text
    merchant_id="payment_method.merchant_id",
    livemode="payment_method.livemode",
    card="coalesce(payment_method.fingerprint, payment_method.id)",
)
"""The same as one value of a row of ``payment_method``; null where there are none."""


def declined_values(before: Payment, payment: Payment, settled: Operation | None) -> dict[str, Any] | None:
    """The parameters of :data:`DECLINED`, where ``settled`` is an attempt that a card's issuer or network has just declined."""
    if settled is None or settled.kind is not Kind.AUTHORIZE or settled.status is not OperationStatus.DECLINED:
        return None
    decline, known = settled.decline, before.operation(settled.id)
    if decline is None or not counts(decline) or known.status is settled.status or payment.payment_method is None:
        return None
    terms, at = payment.terms, payment.updated_at
    return {
        "y_operation_id": settled.id,
        "y_merchant_id": terms.merchant_id,
        "y_livemode": terms.livemode,
        "y_at": at,
        "y_amount": settled.amount,
        "y_currency": terms.currency,
        "y_network": None if payment.card is None else payment.card.brand,
        "y_merchant_initiated": terms.off_session,
        "y_never": says_never(decline),
        "y_not_before": _not_before(decline, at),
        "y_payment_method": payment.payment_method,
    }


def declines_from(rows: Iterable[Mapping[str, Any]] | None) -> tuple[CardDecline, ...]:
    """The declines that rows, or the value of :data:`OF_METHOD`, hold."""
    return tuple(
        CardDecline(**{**row, "at": _instant(row["at"]), "not_before": _instant(row["not_before"])})
        for row in rows or ()
    )


def _instant(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _not_before(decline: Decline, at: datetime) -> datetime | None:
    return None if decline.wait_s is None else at + timedelta(seconds=decline.wait_s)


def judged(
    payment: Payment,
    plan: Plan,
    declines: Sequence[CardDecline],
    limits: Limits,
    now: datetime,
    *,
    time_left: bool = True,
) -> Ruling:
    """Whether the next account of ``plan`` may be asked, by every rule there is.

    ``declines`` are what was read of the card. Those of this round may be among them, and count once: where it has begun, the plan knows them.
    """
    card = None
    terms = payment.terms
    if limits.hold(livemode=terms.livemode):
        here = {attempt.id for attempt in payment.attempts if plan.history and attempt.round == payment.round}
        own = [
            CardDecline(
                "",
                now,
                terms.amount,
                terms.currency,
                terms.off_session,
                says_never(outcome.decline),
                _not_before(outcome.decline, now),
            )
            for outcome in plan.history
            if isinstance(outcome, Declined) and counts(outcome.decline)
        ]
        card = CardUse(
            (*(one for one in declines if one.operation_id not in here), *own),
            terms.amount,
            terms.currency,
            None if payment.card is None else payment.card.brand,
            terms.off_session,
        )
    account_left = plan.account is not None or not plan.history
    return judge(Case(plan.history, plan.budget, limits, card, now, account_left, time_left))


def limited(ruling: Ruling, payment: Payment, now: datetime) -> Decline:
    """The decline of a charge that ``ruling`` forbids before anybody was asked."""
    ends = ruling.until is not None and ruling.until != FOREVER
    wait_s = max(1, round((ruling.until - now).total_seconds())) if ruling.until is not None and ends else None
    action = Action.RETRY_LATER if payment.terms.off_session and wait_s is not None else Action.ASK_NEW_METHOD
    return Decline(LIMITED, "soft", action, wait_s=wait_s)
