"""The same news about several operations of one payment, in whatever order and however often: one end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest

from gateway import lifecycle
from gateway.lifecycle import Change
from gateway.payment import Operation, OperationStatus, Payment, Status, Terms
from providers.contract import Approved, Declined, Kind, Outcome, Pending
from providers.declines import failed_after_all
from providers.money import Money

NOW: Final = datetime(2026, 11, 21, tzinfo=UTC)
S: Final = OperationStatus
News = tuple[str, Outcome | None]
"""An operation, and what is told of it; nothing where it is told that the provider has released it."""


def operation(
    name: str, kind: Kind, status: OperationStatus, amount: int, seq: int, *, final: bool = True
) -> Operation:
    return Operation(
        name, kind, seq, 1, "a", "psp", amount, status, f"key-{seq}", provider_id=f"psp-{name}", final=final
    )


def paid(status: Status, *operations: Operation, captured: int = 0, capturing: int = 0, refunding: int = 0) -> Payment:
    terms = Terms(
        "pay_1",
        "mer_1",
        livemode=False,
        amount=1999,
        currency="EUR",
        capture_method="manual",
        off_session=False,
        created_at=NOW,
    )
    attempt = operation("attempt", Kind.AUTHORIZE, S.AUTHORIZED, 1999, 1)
    return Payment(
        terms,
        status,
        updated_at=NOW,
        version=5,
        round=1,
        route=("a",),
        amount_authorized=1999,
        amount_captured=captured,
        amount_capturing=capturing,
        amount_refunding=refunding,
        account="a",
        provider="psp",
        provider_payment_id="psp-attempt",
        operations=(attempt, *operations),
    )


def happened(payment: Payment, name: str) -> News:
    return name, Approved(f"psp-{name}", Money(payment.operation(name).amount, "EUR"))


def undone(_: Payment, name: str) -> News:
    return name, Declined(failed_after_all("reversed"), f"psp-{name}")


def accepted(_: Payment, name: str) -> News:
    return name, Pending(f"psp-{name}")


def released(_: Payment, name: str) -> News:
    return name, None


def heard(payment: Payment, news: Sequence[News]) -> Payment:
    """The payment once all of it was told, and what had to wait was told again, as the inbox does."""
    waiting = list(news)
    for _ in range(2):
        later: list[News] = []
        for name, outcome in waiting:
            if outcome is None:
                change = lifecycle.released(payment, payment.operation(name), lapsed=True, now=NOW)
            else:
                change = lifecycle.decide(payment, name, outcome, payment.plan({name: outcome}), driven=False, now=NOW)
            if isinstance(change, Change):
                payment = change.payment
            elif (outcome is None and payment.amount_capturing) or (
                isinstance(outcome, Declined) and lifecycle.refunded_since(payment, payment.operation(name))
            ):
                later.append((name, outcome))
        waiting = later
    return replace(payment, version=0)


FIRST: Final = operation("first", Kind.CAPTURE, S.PENDING, 1000, 2, final=False)
LAST: Final = operation("last", Kind.CAPTURE, S.PENDING, 999, 3)
REST: Final = operation("rest", Kind.CAPTURE, S.PENDING, 500, 3)
TAKEN: Final = operation("taken", Kind.CAPTURE, S.SUCCEEDED, 1000, 2, final=False)
BACK: Final = operation("back", Kind.REFUND, S.PENDING, 700, 4)
MORE: Final = operation("more", Kind.REFUND, S.PENDING, 300, 5)
LIVES: Final = {
    "the first of two captures fails after all": (
        paid(Status.REQUIRES_CAPTURE, FIRST, LAST, capturing=1999),
        ((happened, "attempt"), (happened, "first"), (undone, "first"), (happened, "last"), (accepted, "first")),
    ),
    "the first fails after all, and the last leaves a rest": (
        paid(Status.REQUIRES_CAPTURE, FIRST, REST, capturing=1500),
        ((happened, "attempt"), (happened, "first"), (undone, "first"), (happened, "rest"), (accepted, "rest")),
    ),
    "both captures fail after all": (
        paid(Status.REQUIRES_CAPTURE, FIRST, LAST, capturing=1999),
        ((happened, "first"), (undone, "first"), (happened, "last"), (undone, "last")),
    ),
    "a refund fails after all, and then its capture": (
        paid(Status.REQUIRES_CAPTURE, TAKEN, replace(BACK, seq=3), captured=1000, refunding=700),
        ((happened, "attempt"), (happened, "taken"), (happened, "back"), (undone, "back"), (undone, "taken")),
    ),
    "a capture fails after all, and the authorization runs out": (
        paid(Status.REQUIRES_CAPTURE, TAKEN, captured=1000),
        ((happened, "attempt"), (happened, "taken"), (undone, "taken"), (released, "attempt")),
    ),
    "the authorization runs out while a capture is open that fails after all": (
        paid(Status.REQUIRES_CAPTURE, FIRST, capturing=1000),
        ((happened, "attempt"), (happened, "first"), (undone, "first"), (released, "attempt")),
    ),
    "the last capture fails after all, and the authorization runs out": (
        paid(Status.REQUIRES_CAPTURE, LAST, capturing=999),
        ((happened, "attempt"), (happened, "last"), (undone, "last"), (released, "attempt")),
    ),
    "one of two captures fails after all, and the authorization runs out": (
        paid(Status.REQUIRES_CAPTURE, FIRST, REST, capturing=1500),
        ((happened, "first"), (undone, "first"), (happened, "rest"), (released, "attempt"), (happened, "attempt")),
    ),
    "one of two refunds fails after all": (
        paid(Status.REQUIRES_CAPTURE, TAKEN, LAST, BACK, MORE, captured=1000, capturing=999, refunding=1000),
        ((happened, "last"), (happened, "back"), (undone, "back"), (happened, "more"), (happened, "taken")),
    ),
}


CANCELED: Final = [name for name in LIVES if "runs out" in name and "two captures" not in name]


@pytest.mark.parametrize("name", CANCELED)
def test_what_was_released_holds_nothing_once_its_capture_has_failed(name: str) -> None:
    payment, told = LIVES[name]
    for order in itertools.permutations(make(payment, about) for make, about in told):
        left = heard(payment, order)

        assert (left.status, left.cancellation_reason) == (Status.CANCELED, "authorization_expired")
        assert (left.amount_capturable, left.amount_captured, left.attempts[0].status) == (0, 0, S.EXPIRED)


@pytest.mark.parametrize("name", LIVES)
def test_every_order_of_the_news_ends_alike(name: str, proved: Callable[[str], None]) -> None:
    payment, told = LIVES[name]
    news = [make(payment, about) for make, about in told]

    ends, orders = set(), 0
    for order in itertools.permutations(news):
        repeated = [each for one in order for each in (one, one)]
        ends |= {repr(heard(payment, each)) for each in (order, repeated, [*order, *order], [*order, *reversed(order)])}
        orders += 4

    assert len(ends) == 1, ends
    proved(f"orders of news, {name}: {orders}, one end")
