"""Deliberate bugs, each of which the simulation must find; and what the database's own walls hold where the code does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.simulation.mutants import (
    MUTANTS,
    SURPRISE,
    Mutant,
    failover_on_unknown,
    lease_without_fencing,
    refund_without_reservation,
    without,
)
from tests.simulation.postgres import Stage
from tests.simulation.psp import HOUR, Faults
from tests.simulation.simulation import Mutant as Bug
from tests.simulation.simulation import simulate

WORLDS_MAX: Final = 8
PAYMENTS: Final = 250
"""A mutant is found within 8 worlds of 250 payments, or the simulation is too weak."""

_FOUND: Final[dict[str, int]] = {}
_USED: Final[set[tuple[int, Faults]]] = set()


@pytest.fixture(scope="module")
def found(proved: Callable[[str], None]) -> Iterator[dict[str, int]]:
    yield _FOUND
    if _FOUND:
        told = ", ".join(f"{name} after {payments}" for name, payments in _FOUND.items())
        proved(f"mutants: {len(_FOUND)} of {len(MUTANTS)} found, in payments: {told}")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_deliberate_bug_is_found(mutant: Mutant, stage: Stage, found: dict[str, int]) -> None:
    payments, seed, violation, trace = 0, 0, None, ""
    with without(stage, mutant.walls):
        while violation is None and seed < WORLDS_MAX:
            seed += 1
            verdict = simulate(seed, stage, PAYMENTS, mutant.faults, mutant.apply, mutant.blind)
            _USED.add((seed, mutant.faults))
            payments += verdict.counts["payments"]
            violation, trace = verdict.violation, verdict.trace

    assert violation is not None, f"nobody found it in {payments} payments"
    assert violation.rule in mutant.by, trace
    found[mutant.name] = payments


def test_the_code_as_it_is_passes_in_the_same_worlds(stage: Stage) -> None:
    """So it is the bug that is found, and not the world. After the mutants: their worlds are those that are run."""
    for seed, faults in sorted(_USED or {(1, Faults())}, key=repr):
        simulate(seed, stage, PAYMENTS, faults).passed()


@pytest.mark.parametrize("mutant", [failover_on_unknown, refund_without_reservation, lease_without_fencing])
def test_the_database_itself_lets_no_bug_charge_twice_or_give_back_more(mutant: Bug, stage: Stage) -> None:
    touched = 0
    for seed in range(1, 6):  # another promise that the bug breaks may end a world before it comes to the wall
        verdict = simulate(seed, stage, 80, mutant=mutant, blind=SURPRISE, patience_s=HOUR)
        assert verdict.counts["broken: never charged twice"] == 0
        assert verdict.violation is None or verdict.violation.rule != "never more than there is"
        touched += verdict.counts["log request_failed"] + verdict.counts["log sweep_failed"]
        if touched:
            break

    assert touched, "the wall was never touched"
