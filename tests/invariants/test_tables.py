"""The checks write the statuses and the steps out once more; here the two are held together."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from gateway.api.openapi import document
from gateway.invariants import INVARIANTS, rules
from gateway.invariants.queries import CARD_DECLINES_MIN, ONE_PAYMENT, OPENED
from gateway.lifecycle import TRANSITIONS
from gateway.payment import FAILOVER, IN_FLIGHT, OPEN, Operation, OperationStatus, Status
from gateway.printed import ENTRY, payment_steps
from gateway.settings import Settings
from gateway.signals import word_of
from gateway.sweep import PARKED_S
from providers.contract import Kind
from providers.declines import Action, Decline
from routing.retries import DAY, MASTERCARD_DAY, MASTERCARD_MONTH, MONTH


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


KEYED: Final = {
    "payment": {"create", "confirm", "capture", "cancel", "increment", "resolve", "evidence", "accept", "refund"},
    "payment_method": {"create_payment_method"},
    "customer": {"create_customer"},
    "webhook_endpoint": {"create_webhook_endpoint"},
    "routing_version": {"create_routing_config"},
    "routing_publication": {
        "publish_routing_config",
        "rollback_routing",
        "approve_publication",
        "withdraw_publication",
    },
    "monitor": {"create_monitor"},
}
"""Every verb that takes a key, by the table of what its key opens."""


def test_what_a_key_may_open_is_looked_for() -> None:
    """A verb that is new and takes a key has to be entered: its keys would be told to open what is not there."""
    verbs = {
        verb["operationId"]
        for path in document()["paths"].values()
        for verb in path.values()
        if any(each.get("name") == "Idempotency-Key" for each in verb.get("parameters", ()))
    }

    assert verbs == set().union(*KEYED.values())
    assert sorted(OPENED.values()) == sorted(KEYED)


def test_the_limits_of_cards_are_the_networks_and_what_is_set_is_no_more() -> None:
    most = {(each.network, each.seconds): each.most for each in rules.WINDOWS}
    assert most == {
        ("visa", MONTH.total_seconds()): 20,
        ("mastercard", DAY.total_seconds()): MASTERCARD_DAY,
        ("mastercard", MONTH.total_seconds()): MASTERCARD_MONTH,
    }
    assert min(most.values()) == CARD_DECLINES_MIN
    assert any(getattr(each, "le", None) == 20 for each in Settings.model_fields["card_limit_visa"].metadata)


def test_an_outcome_speaks_where_a_word_is_written_for_it() -> None:
    plain = Operation("att_1", Kind.AUTHORIZE, 1, 1, "stripe", "stripe", 100, OperationStatus.CREATED, "key")
    for status in OperationStatus:
        if status not in rules.OPERATION_STATUSES["authorize"] | {"created"} or status == "unknown":
            continue
        decline = Decline("issuer_generic", "soft", Action.RETRY_OTHER_NOW) if status == "declined" else None
        word = word_of(replace(plain, status=status, decline=decline))
        assert (word is not None) == (status in rules.SPOKEN), status
    for reason in (*rules.OUR_DOING, "timeout"):
        word = word_of(replace(plain, status=OperationStatus.UNKNOWN, reason=reason))
        assert (word is None) == (reason in rules.OUR_DOING), reason


def test_every_promise_has_a_name_a_sentence_and_something_that_checks_it() -> None:
    assert len({each.name for each in INVARIANTS}) == len(INVARIANTS)
    for each in INVARIANTS:
        assert each.says.endswith("."), each.name
        assert each.needs, each.name


def test_every_field_of_an_entry_is_explained() -> None:
    from gateway.invariants import Entry

    assert tuple(ENTRY) == Entry._fields
