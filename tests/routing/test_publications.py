"""What is in force follows from the history of publications alone: staged, scheduled, withdrawn, rolled back."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.publications import (
    Publication,
    PublicationKind,
    awaited,
    bucket,
    in_force,
    in_shadow,
    standing,
)

NOON: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
PAYMENTS: Final = [f"pay_{number:032x}" for number in range(5_000)]


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def said(sequence: int, version: str | None, at: float = 0, **changes: Any) -> Publication:
    """A publication recorded ``at`` minutes after noon, in force at once unless told otherwise."""
    plain = Publication(
        id=f"rp_{sequence}",
        sequence=sequence,
        kind=PublicationKind.PUBLISH,
        version=version,
        percent=100,
        starts_at=NOON + minutes(at),
        published_at=NOON + minutes(at),
        published_by="key_1",
        reason="a reason",
    )
    return replace(plain, **changes)


def rollback(sequence: int, version: str | None, at: float = 0) -> Publication:
    return said(sequence, version, at, kind=PublicationKind.ROLLBACK)


def withdraw(sequence: int, target: str, at: float = 0) -> Publication:
    return said(sequence, "any", at, kind=PublicationKind.WITHDRAW, target=target)


def force(*publications: Publication, at: float = 60) -> str | None:
    """What is in force for every payment; an error where they differ."""
    found = {in_force(publications, payment, NOON + minutes(at)) for payment in PAYMENTS[:200]}
    assert len(found) == 1
    return found.pop()


def test_nothing_is_in_force_before_the_first_publication() -> None:
    assert force() is None
    assert force(said(1, "a", 10), at=5) == "a"  # it is there, so it has started, whatever this clock says
    assert force(said(1, "a", starts_at=NOON + minutes(10)), at=5) is None


def test_the_newest_publication_is_in_force() -> None:
    assert force(said(1, "a"), said(2, "b", 1)) == "b"
    assert force(said(2, "b"), said(1, "a")) == "b"  # of one instant, in whatever order they are read


def test_a_scheduled_publication_starts_at_its_time_and_not_before() -> None:
    scheduled = said(2, "b", 1, starts_at=NOON + minutes(30))

    assert force(said(1, "a"), scheduled, at=29.99) == "a"
    assert force(said(1, "a"), scheduled, at=30) == "b"
    assert standing([said(1, "a"), scheduled], NOON + minutes(10)).scheduled == (scheduled,)


def test_what_was_recorded_while_another_waited_is_in_force_until_that_starts() -> None:
    history = [said(1, "a"), said(2, "b", 1, starts_at=NOON + minutes(30)), said(3, "c", 2)]

    assert force(*history, at=10) == "c"
    assert force(*history, at=31) == "b"


def test_what_was_withdrawn_never_starts() -> None:
    scheduled = said(2, "b", 1, starts_at=NOON + minutes(30))

    assert force(said(1, "a"), scheduled, withdraw(3, "rp_2", 2), at=60) == "a"


@pytest.mark.parametrize("percent", [1, 5, 25, 50, 99])
def test_a_part_of_the_payments_has_what_is_staged_and_the_others_what_was_before(percent: int) -> None:
    history = [said(1, "a"), said(2, "b", 1, percent=percent)]

    new = sum(in_force(history, payment, NOON + minutes(5)) == "b" for payment in PAYMENTS)

    assert abs(new / len(PAYMENTS) - percent / 100) < 0.03
    assert all(in_force(history, payment, NOON + minutes(5)) in {"a", "b"} for payment in PAYMENTS)


def test_who_has_the_new_version_keeps_it_while_its_share_grows() -> None:
    shares = []
    for percent in (5, 25, 100):
        history = [said(1, "a"), said(2, "b", 1, percent=percent)]
        shares.append({payment for payment in PAYMENTS if in_force(history, payment, NOON + minutes(5)) == "b"})

    assert shares[0] < shares[1] < shares[2] == set(PAYMENTS)


def test_two_that_are_staged_after_each_other_share_what_was_in_force_for_all() -> None:
    history = [said(1, "a"), said(2, "b", 1, percent=50), said(3, "c", 2, percent=10)]

    assert {in_force(history, payment, NOON + minutes(5)) for payment in PAYMENTS} == {"a", "c"}


def test_the_first_version_may_be_staged_above_the_configuration() -> None:
    history = [said(1, "a", percent=50)]

    assert {in_force(history, payment, NOON + minutes(5)) for payment in PAYMENTS} == {"a", None}
    assert standing(history, NOON + minutes(5)).before is None


def test_a_bucket_is_even_and_says_nothing_of_other_dice() -> None:
    counts = [0] * 100
    for payment in PAYMENTS:
        counts[bucket(payment)] += 1

    assert min(counts) > 20
    assert max(counts) < 90
    assert bucket("pay_00000000000000000000000000000001") == 17


def test_each_rollback_goes_one_version_further_back_down_to_the_configuration() -> None:
    history = [said(1, "a"), said(2, "b", 1), said(3, "c", 2)]
    went = []
    for sequence in range(4, 8):
        history.append(rollback(sequence, standing(history, NOON + minutes(sequence)).before, sequence))
        went.append(force(*history))

    assert went == ["b", "a", None, None]


def test_a_rollback_of_what_is_staged_keeps_what_was_in_force_for_all() -> None:
    history = [said(1, "a"), said(2, "b", 1), said(3, "c", 2, percent=5), said(4, "c", 3, percent=25)]
    assert standing(history, NOON + minutes(5)).before == "b"

    history.append(rollback(5, "b", 6))
    assert force(*history) == "b"
    assert standing(history, NOON + minutes(7)).before == "a"


def test_stages_of_one_version_are_one_step_of_a_rollback() -> None:
    history = [said(1, "a"), *(said(2 + at, "b", 1 + at, percent=p) for at, p in enumerate((5, 25, 100, 100)))]

    assert standing(history, NOON + minutes(9)).before == "a"


def test_an_old_version_that_is_published_again_is_gone_back_from_to_the_one_before() -> None:
    history = [said(1, "a"), said(2, "b", 1), said(3, "a", 2)]
    assert force(*history) == "a"

    history.append(rollback(4, standing(history, NOON + minutes(3)).before, 3))
    assert force(*history) == "b"
    history.append(rollback(5, standing(history, NOON + minutes(4)).before, 4))
    assert force(*history) == "a"


def test_a_rollback_leaves_what_is_scheduled() -> None:
    history = [said(1, "a"), said(2, "b", 1, starts_at=NOON + minutes(30)), rollback(3, None, 2)]

    assert force(*history, at=10) is None
    assert force(*history, at=30) == "b"


def test_a_shadow_decides_nothing_and_is_asked_until_it_is_withdrawn() -> None:
    history = [said(1, "a"), said(2, "b", 1, shadow=True)]
    assert force(*history) == "a"
    assert in_shadow(history, PAYMENTS[0], NOON + minutes(5)) == "b"

    history.append(said(3, "c", 2, shadow=True, percent=30))
    assert {in_shadow(history, payment, NOON + minutes(5)) for payment in PAYMENTS} == {"c", None}

    history += [withdraw(4, "rp_3", 3), withdraw(5, "rp_2", 3)]
    assert in_shadow(history, PAYMENTS[0], NOON + minutes(5)) is None
    assert force(*history) == "a"


def test_a_request_puts_nothing_in_force() -> None:
    asked = said(2, "b", 1, kind=PublicationKind.REQUEST)

    assert force(said(1, "a"), asked) == "a"


def test_a_request_waits_until_it_is_approved_withdrawn_or_too_old() -> None:
    asked, at = said(1, "a", 1, kind=PublicationKind.REQUEST), NOON + minutes(10)

    assert awaited([asked], at, 3600) == [asked]
    assert awaited([asked], NOON + minutes(61), 3600) == []
    assert awaited([asked, withdraw(2, "rp_1", 2)], at, 3600) == []
    assert awaited([asked, said(2, "a", 2, target="rp_1", approved_by="key_2")], at, 3600) == []


def test_a_version_that_cannot_be_read_is_followed_by_those_before_it() -> None:
    history = [said(1, "a"), said(2, "b", 1), said(3, "a", 2), said(4, "c", 3, percent=50)]
    lines = {standing(history, NOON + minutes(5)).versions(payment) for payment in PAYMENTS}

    assert lines == {("c", "a", "b"), ("a", "b")}


@st.composite
def histories(draw: st.DrawFn) -> list[Publication]:
    """Histories as they can be written: each row after the one before, rollbacks to what was before."""
    history: list[Publication] = []
    for sequence in range(1, draw(st.integers(1, 12)) + 1):
        now = NOON + minutes(sequence)
        version = draw(st.sampled_from("abcd"))
        match draw(st.sampled_from(["publish", "stage", "schedule", "shadow", "rollback", "withdraw"])):
            case "publish":
                history.append(said(sequence, version, sequence))
            case "stage":
                history.append(said(sequence, version, sequence, percent=draw(st.integers(1, 99))))
            case "schedule":
                later = now + minutes(draw(st.integers(1, 20)))
                history.append(
                    said(sequence, version, sequence, starts_at=later, percent=draw(st.sampled_from([30, 100])))
                )
            case "shadow":
                history.append(said(sequence, version, sequence, shadow=True))
            case "rollback":
                history.append(rollback(sequence, standing(history, now).before, sequence))
            case _:
                waiting = standing(history, now).scheduled
                if waiting:
                    history.append(withdraw(sequence, waiting[0].id, sequence))
    return history


@given(histories(), st.integers(0, 40), st.randoms(use_true_random=False))
def test_what_is_in_force_was_published_and_does_not_depend_on_the_order_of_reading(
    history: list[Publication], after: int, dice: random.Random
) -> None:
    now, shuffled = NOON + minutes(after), history.copy()
    dice.shuffle(shuffled)
    published = {each.version for each in history if not each.shadow and each.started(now)}

    for payment in PAYMENTS[:20]:
        found = in_force(history, payment, now)
        assert found is None or found in published
        assert found == in_force(shuffled, payment, now)


@given(histories())
def test_a_rollback_takes_effect_at_once_and_for_every_payment(history: list[Publication]) -> None:
    now = NOON + minutes(20)
    before = standing(history, now).before

    after = [*history, rollback(99, before, 20)]

    assert {in_force(after, payment, now) for payment in PAYMENTS[:50]} == {before}
