"""The gateway in thousands of faulted payments a run, every one of them drawn from a seed that can be run again.

``SIM_SEED=7 python -m pytest tests/simulation -k one_seed`` runs the world of seed 7 alone.
"""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Final

import pytest

from tests.simulation.apart import Apart
from tests.simulation.mutants import fresh_key_per_send
from tests.simulation.postgres import Stage
from tests.simulation.simulation import TRACE_MAX, SimulationFailed, Verdict, simulate

PAYMENTS: Final = 500
SEEDS: Final = range(1, 21)
NIGHTLY_SEEDS: Final = range(1001, 1401)
AT_ONCE: Final = 2
"""Worlds that are run at once, each in a process and on a database of its own."""
Worlds = Mapping[int, Future[Verdict]]


class Tally:
    """What all worlds of a run came to."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.worlds = 0
        self.broken = 0
        """Worlds in which a promise was broken, or which came to no verdict: each ends with the first one."""

    def add(self, world: Future[Verdict]) -> None:
        """Count a world, and fail where a promise was broken in it."""
        self.worlds += 1
        self.broken += 1  # until it has passed
        verdict = world.result()
        self.counts += verdict.counts
        self.counts["statements"] += verdict.statements
        verdict.passed()
        self.broken -= 1

    def told(self, name: str) -> str:
        c = self.counts
        unknown = c["outcomes unknown"]
        return (
            f"{name}: {c['payments']} payments with {c['follow-ups']} follow-ups in {self.worlds} worlds, {c['kills']} kills, "
            f"{c['stalls']} stalls, {c['Redis losses']} Redis losses, {c['Postgres losses']} Postgres losses, "
            f"{c['statements lost'] + c['statements hanging']} statements lost, {c['commits lost']} commits lost, "
            f"{c['faults on the wire']} faults at PSPs, {unknown} unknown outcomes, {c['webhooks']} webhooks, "
            f"{c['resolved by a person']} resolved by a person, {c['keys asked again']} keys asked again, "
            f"{c['rows verified']} rows and {c['book entries verified']} book entries verified: "
            f"{self.broken} broken promises, double charges, lost payments and differing answers among them"
        )


@pytest.fixture(scope="module")
def tally(proved: Callable[[str], None]) -> Iterator[Tally]:
    counted = Tally()
    yield counted
    if counted.worlds:
        proved(counted.told("simulation"))


@pytest.fixture(scope="module")
def worlds(
    request: pytest.FixtureRequest, databases: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worlds]:
    """The worlds of all seeds that this run asks for, in their order."""
    asked = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    made = [databases.create() for _ in range(AT_ONCE)]
    log = tmp_path_factory.mktemp("worlds") / "log"
    apart = Apart([(database.url, database.admin_url) for _, database in made], PAYMENTS, log)
    yield {call.params["seed"]: apart.simulate(call.params["seed"]) for call in asked if call is not None}
    apart.close()
    for name, _ in made:
        databases.server.drop_database(name)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_payment_is_charged_twice_or_lost_and_no_answer_changes(seed: int, worlds: Worlds, tally: Tally) -> None:
    tally.add(worlds[seed])


@pytest.mark.nightly
@pytest.mark.parametrize("seed", NIGHTLY_SEEDS)
def test_no_payment_of_many_more_is_charged_twice_or_lost(seed: int, worlds: Worlds, tally: Tally) -> None:
    tally.add(worlds[seed])


@pytest.mark.skipif("SIM_SEED" not in os.environ, reason="SIM_SEED is not set: no seed is to be run again")
def test_one_seed(stage: Stage) -> None:
    simulate(int(os.environ["SIM_SEED"]), stage, int(os.environ.get("SIM_PAYMENTS", PAYMENTS))).passed()


def test_the_same_seed_is_the_same_run_and_another_one_is_not(stage: Stage) -> None:
    first, again, other = (simulate(seed, stage, 60) for seed in (5, 5, 6))

    assert (first.digest, first.steps, first.statements) == (again.digest, again.steps, again.statements)
    assert first.counts == again.counts
    assert other.digest != first.digest


def test_a_world_without_faults_decides_every_payment_at_once(stage: Stage) -> None:
    from tests.simulation.psp import NO_FAULTS

    verdict = simulate(1, stage, 40, NO_FAULTS).passed()

    assert (verdict.counts["kills"], verdict.counts["faults on the wire"], verdict.counts["connections broken"]) == (
        0,
        0,
        0,
    )
    assert verdict.counts["payments"] == 40
    assert verdict.counts["log database_lost"] == 0


def _ended(verdict: Verdict) -> Future[Verdict]:
    """A world as it comes from another process."""
    world: Future[Verdict] = Future()
    world.set_result(pickle.loads(pickle.dumps(verdict)))
    return world


def test_a_broken_promise_prints_its_seed_how_to_run_it_again_and_a_short_trace(stage: Stage) -> None:
    tally = Tally()
    tally.add(_ended(simulate(1, stage, 5)))
    with pytest.raises(SimulationFailed) as failed:
        tally.add(_ended(simulate(1, stage, 60, mutant=fresh_key_per_send)))

    assert "in 2 worlds" in tally.told("both")
    assert "1 broken promises" in tally.told("both")
    lines = str(failed.value).splitlines()
    assert lines[0].startswith("seed 1: ")
    assert lines[1] == "again: SIM_SEED=1 SIM_PAYMENTS=60 python -m pytest tests/simulation -k one_seed"
    assert len(lines) <= TRACE_MAX + 4
