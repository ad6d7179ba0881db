"""The policy table: complete, unambiguous, and true to the numbers in the code."""

from __future__ import annotations

import math
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.auth import CACHE_S
from gateway.logs import LINES_MAX
from gateway.policies import (
    DEFAULTS,
    POLICIES,
    SKEW_MAX_S,
    WORKER_GRACE_S,
    WORKER_LOST_S,
    Stance,
    Standing,
    field_of,
    refusals,
    variable_of,
)
from gateway.settings import Settings
from gateway.settle import DOUBT_S, HOLD_S, QUEUE_S
from gateway.sweep import PARKED_S
from gateway.watch import certain_skew_s

WELL: Final = {"database_url": "x", "redis_url": "x", "secret_key": "c" * 43 + "="}


def test_every_row_has_its_own_labels() -> None:
    assert len({(row.dep, row.op) for row in POLICIES.values()}) == len(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_a_row_has_its_default_among_its_choices_and_a_reason_where_it_has_no_other(name: str) -> None:
    row = POLICIES[name]

    assert row.default in row.choices
    assert row.configurable == (row.fixed is None)
    assert all(row.choices[choice].does and row.choices[choice].caller_sees for choice in row.choices)


def test_the_settings_offer_what_the_table_offers_and_nothing_else() -> None:
    settings = Settings.model_validate(WELL)
    fields = {name for name in Settings.model_fields if name.startswith("on_")}

    assert fields == {field_of(name) for name, row in POLICIES.items() if row.configurable}
    assert settings.policies == DEFAULTS
    for name, row in POLICIES.items():
        if row.configurable:
            for choice in row.choices:
                chosen = Settings.model_validate(WELL | {field_of(name): choice})
                assert chosen.policies == {**DEFAULTS, name: choice}
            for word in {"", "panic", *Stance} - set(row.choices):
                with pytest.raises(ValueError, match=field_of(name)):
                    Settings.model_validate(WELL | {field_of(name): word})


def test_a_row_that_holds_one_value_refuses_every_other_with_the_reason() -> None:
    for name, row in POLICIES.items():
        if not row.configurable:
            (refusal,) = refusals({variable_of(name): "panic"})
            assert refusal == f"{variable_of(name)}: can only be {row.default}. {row.fixed}"
            assert refusals({variable_of(name): row.default}) == []


def test_a_variable_that_is_nearly_a_policy_is_refused() -> None:
    (refusal,) = refusals({"GATEWAY_ON_REDIS_LOST": "fail_closed", "GATEWAY_ON_REDIS_LOSS": "fail_closed"})

    assert refusal.startswith("GATEWAY_ON_REDIS_LOST: there is no such policy")


def test_the_numbers_in_the_table_are_those_in_the_code() -> None:
    said = {name: " ".join(choice.does for choice in row.choices.values()) for name, row in POLICIES.items()}

    assert f"for {DOUBT_S:g} s" in said["postgres_loss_opening"]
    assert f"for {HOLD_S:g} s" in said["postgres_loss_recording"]
    assert f"for {CACHE_S:g} s" in said["postgres_loss_api_key"]
    assert f"after {PARKED_S // 60} minutes" in said["providers_all_down"]
    assert QUEUE_S == 24 * 3600
    assert "for a day" in said["follow_up_not_reached"]
    assert LINES_MAX == 1000
    assert "a thousand lines" in said["log_sink_loss"]


@pytest.mark.parametrize(
    ("silent_s", "overdue", "overdue_s", "lost", "stalled"),
    [
        (math.inf, 0, 0.0, False, False),  # nothing waits: nobody is missed
        (10.0, 5000, 3600.0, False, False),  # it reports, and has more work than it can do
        (WORKER_LOST_S - 1, 11, 3600.0, False, False),
        (WORKER_LOST_S, 1, 61.0, True, False),
        (math.inf, 11, WORKER_GRACE_S - 1, True, False),
        (math.inf, 10, WORKER_GRACE_S + 1, True, False),  # as many as may wait
        (math.inf, 11, WORKER_GRACE_S, True, True),
    ],
)
def test_a_worker_is_missed_only_where_something_waits_for_it(
    silent_s: float, overdue: int, overdue_s: float, *, lost: bool, stalled: bool
) -> None:
    standing = Standing(worker_silent_s=silent_s, overdue=overdue, overdue_s=overdue_s)

    assert (standing.worker_lost, standing.stalled(10)) == (lost, stalled)


SECONDS: Final = st.integers(-1_000_000, 1_000_000).map(lambda ms: ms / 1000)


@given(true_skew=SECONDS, there=SECONDS.map(abs), back=SECONDS.map(abs))
def test_the_certain_skew_never_exceeds_the_true_one_and_misses_it_by_the_way_there_or_back(
    true_skew: float, there: float, back: float
) -> None:
    theirs = 1_790_000_000.0
    asked, answered = theirs + true_skew - there, theirs + true_skew + back

    found = certain_skew_s(asked, theirs, answered)

    assert abs(found) <= abs(true_skew) + 1e-6
    assert found * true_skew >= 0
    assert abs(found) >= abs(true_skew) - max(there, back) - 1e-6


def test_a_clock_is_wrong_past_the_limit_in_both_directions() -> None:
    near, ahead, behind = SKEW_MAX_S, SKEW_MAX_S + 0.1, -SKEW_MAX_S - 0.1

    assert [Standing(skew_s=skew).clock_wrong for skew in (near, -near, ahead, behind)] == [False, False, True, True]
