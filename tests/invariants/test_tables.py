"""The checks write the statuses and the steps out once more; here the two are held together."""

from __future__ import annotations

from gateway.invariants import INVARIANTS, rules
from gateway.invariants.queries import ONE_PAYMENT
from gateway.lifecycle import TRANSITIONS
from gateway.payment import FAILOVER, IN_FLIGHT, OPEN, OperationStatus, Status
from gateway.printed import ENTRY, payment_steps
from gateway.sweep import PARKED_S


def test_the_steps_are_those_that_a_walk_through_the_life_of_a_payment_finds() -> None:
    walked = payment_steps().keys()

    assert {(before, after) for before, afters in rules.STEPS.items() for after in afters} == walked
    assert rules.STEPS.keys() == set(Status)


def test_an_operation_may_be_what_a_transition_leads_to() -> None:
    reachable = {
        kind: {*steps, *(after for afters in steps.values() for after in afters)} for kind, steps in TRANSITIONS.items()
    }

    assert reachable == rules.OPERATION_STATUSES


def test_the_words_are_those_of_the_life_of_a_payment() -> None:
    assert rules.OPEN == OPEN
    assert rules.IN_FLIGHT == IN_FLIGHT
    assert {OperationStatus.AUTHORIZED, OperationStatus.CAPTURED} == rules.PAID
    assert rules.PARKED_S == PARKED_S
    assert f"'purpose' = '{FAILOVER}'" in ONE_PAYMENT


def test_every_promise_has_a_name_a_sentence_and_something_that_checks_it() -> None:
    assert len({each.name for each in INVARIANTS}) == len(INVARIANTS)
    for each in INVARIANTS:
        assert each.says.endswith("."), each.name
        assert each.needs, each.name


def test_every_field_of_an_entry_is_explained() -> None:
    from gateway.invariants import Entry

    assert tuple(ENTRY) == Entry._fields
