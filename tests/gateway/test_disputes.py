"""However the tellings of one dispute are shuffled and repeated, the same one is left."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from gateway.disputes import Dispute, facts_in, shows_more, told
from providers.contract import DisputeNews, DisputeStatus
from providers.money import Money

START: Final = datetime(2026, 11, 21, tzinfo=UTC)
S: Final = DisputeStatus
COURSES: Final[dict[str, tuple[tuple[int, DisputeStatus], ...]]] = {
    # seconds of the provider's clock, and what it said then; some say two things in one second
    "won by defense": ((0, S.NEEDS_RESPONSE), (1, S.NEEDS_RESPONSE), (9, S.UNDER_REVIEW), (99, S.WON)),
    "lost after a reversal": (
        (0, S.NEEDS_RESPONSE),
        (5, S.UNDER_REVIEW),
        (7, S.WON),
        (9, S.UNDER_REVIEW),
        (20, S.LOST),
    ),
    "lost, and won in the end": ((0, S.INQUIRY), (3, S.NEEDS_RESPONSE), (7, S.LOST), (8, S.UNDER_REVIEW), (20, S.WON)),
    "accepted, and told of late": ((0, S.NEEDS_RESPONSE), (5, S.LOST), (6, S.NEEDS_RESPONSE)),
    "an answer before the chargeback": ((0, S.NEEDS_RESPONSE), (4, S.UNDER_REVIEW), (6, S.NEEDS_RESPONSE)),
    "an inquiry that came to nothing": ((0, S.INQUIRY), (4, S.UNDER_REVIEW), (6, S.CLOSED)),
    "all in one second": ((0, S.NEEDS_RESPONSE), (0, S.UNDER_REVIEW), (0, S.LOST)),
    "won, and taken up again": ((0, S.NEEDS_RESPONSE), (5, S.UNDER_REVIEW), (7, S.WON), (9, S.UNDER_REVIEW)),
    "won after it was taken up again": ((5, S.UNDER_REVIEW), (7, S.WON), (9, S.UNDER_REVIEW), (11, S.WON)),
    "lost, won, and taken up again": ((5, S.LOST), (7, S.WON), (9, S.UNDER_REVIEW), (9, S.WON)),
}
ENDS: Final = (
    S.WON,
    S.LOST,
    S.WON,
    S.LOST,
    S.NEEDS_RESPONSE,
    S.CLOSED,
    S.LOST,
    S.UNDER_REVIEW,
    S.WON,
    S.WON,
)
"""Where each of them stands in the end."""


def news(status: DisputeStatus, **facts: object) -> DisputeNews:
    return replace(DisputeNews("dp_psp", status, Money(1999, "EUR")), **facts)  # type: ignore[arg-type]  # as given


def opened(first: DisputeNews, at: datetime) -> Dispute:
    return Dispute(
        "dp_1", "pay_1", "a", "psp", first.dispute_id, first.status, first.amount.amount_minor, "EUR",
        first.reason, first.network_reason_code, first.respond_by, at, START, START,
        dict.fromkeys((first.status.value, *facts_in(first)), at),
    )  # fmt: skip


def heard(tellings: Sequence[tuple[int, DisputeNews]]) -> Dispute:
    """What is left of tellings that come in this order."""
    (first_at, first), *rest = tellings
    dispute = opened(first, START + timedelta(seconds=first_at))
    for seconds, said in rest:
        dispute = told(dispute, said, START + timedelta(seconds=seconds), START) or dispute
    return dispute


def test_every_order_of_every_course_leaves_the_same(proved: Callable[[str], None]) -> None:
    orders = 0
    for (name, course), end in zip(COURSES.items(), ENDS, strict=True):
        tellings = [(at, news(status)) for at, status in course]
        left = []
        for order in itertools.permutations(tellings):
            left += [heard(order), heard([*order, *order]), heard([*order, *reversed(order)])]
        orders += len(left)
        assert all(each == left[0] for each in left), name
        assert left[0].status is end, name
    proved(f"orders of what is told of a dispute: {orders} of {len(COURSES)} courses, one end each")


def test_random_courses_end_alike_however_they_are_shuffled() -> None:
    rng = random.Random(26)

    def said() -> DisputeNews:
        facts = {
            "amount": Money(rng.randrange(1, 4), "EUR"),
            "reason": rng.choice([None, "fraudulent", "duplicate"]),
            "network_reason_code": rng.choice([None, "10.4", "4837"]),
            "respond_by": rng.choice([None, START, START + timedelta(days=1)]),
        }
        return news(rng.choice(list(S)), **facts)

    for _ in range(500):
        tellings = [(rng.randrange(6), said()) for _ in range(rng.randrange(2, 7))]
        left = [heard(rng.sample(tellings, len(tellings))) for _ in range(20)]

        assert all(each == left[0] for each in left), tellings


def test_the_newest_telling_of_a_fact_stands_and_what_it_does_not_tell_stays() -> None:
    due = START + timedelta(days=7)
    first = news(S.NEEDS_RESPONSE, reason="fraudulent", respond_by=due)
    last = news(S.NEEDS_RESPONSE, reason="duplicate", amount=Money(500, "EUR"))

    for order in ([(0, first), (9, last)], [(9, last), (0, first)]):
        left = heard(order)
        assert (left.reason, left.amount, left.respond_by, left.news_at) == (
            "duplicate",
            500,
            due,
            START + timedelta(seconds=9),
        )


def test_a_dispute_that_a_version_before_has_written_goes_on() -> None:
    written = replace(opened(news(S.WON), START), heard={})

    assert told(written, news(S.UNDER_REVIEW), START - timedelta(seconds=1), START) is not None
    assert (told(written, news(S.UNDER_REVIEW), START - timedelta(seconds=1), START) or written).status is S.WON
    assert (
        told(written, news(S.UNDER_REVIEW), START + timedelta(seconds=1), START) or written
    ).status is S.UNDER_REVIEW


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_only_one_of_them_tells_is_known_in_the_end(order: tuple[int, ...]) -> None:
    due = START + timedelta(days=7)
    tellings = [
        (0, news(S.NEEDS_RESPONSE, respond_by=due)),
        (1, news(S.NEEDS_RESPONSE, reason="fraudulent")),
        (2, news(S.UNDER_REVIEW, network_reason_code="10.4")),
    ]

    left = heard([tellings[at] for at in order])

    assert (left.status, left.respond_by, left.reason, left.network_reason_code) == (
        S.UNDER_REVIEW,
        due,
        "fraudulent",
        "10.4",
    )


def test_what_stands_as_before_is_remembered_and_shows_nothing() -> None:
    known = opened(news(S.NEEDS_RESPONSE), START)

    later = told(known, news(S.NEEDS_RESPONSE), START + timedelta(seconds=9), START + timedelta(days=1))

    assert later is not None
    assert not shows_more(known, later)
    assert later.news_at == START + timedelta(seconds=9)
    assert set(later.heard.values()) == {START + timedelta(seconds=9)}
    assert told(later, news(S.NEEDS_RESPONSE), START, START) is None
