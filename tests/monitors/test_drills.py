"""How good the monitors are: weeks of synthetic payments without a page for nothing, and troubles that are found.

It all goes through the functions that the worker calls, a look a minute. What it prints stands in docs/monitors.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

import pytest

from gateway.monitors import BUILTIN, Decision, Incident, Segment, State, decide, needed_from, of_dict, told
from gateway.monitors.segments import nested
from tests.monitors.traffic import DAY, START, Market, Trouble, failing, less, sinking

BEGIN: Final = START + 28 * DAY
"""Four weeks are known by then."""
NINE: Final = 9 * 60
"""When there are about 50 attempts a minute."""
LASTS: Final = 90


def looks(market: Market, since: int, until: int) -> Iterator[tuple[int, Decision]]:
    """A look a minute. The state goes through JSON now and then, as it does at every look of the worker."""
    state = State()
    for at in range(since, until):
        if at % 60 == 0:
            state = State.from_json(json.loads(json.dumps(state.to_json())))
        decision = decide(at, BUILTIN, market.seen(needed_from(state, at), at), market.expected(at // 60), state)
        state = decision.state
        yield at, decision


@dataclass(frozen=True)
class Drill:
    """A trouble that is injected, and the monitor that must find it."""

    name: str
    monitor: str
    trouble: partial[Trouble]

    def at(self, start: int) -> Trouble:
        return self.trouble(start=start, end=start + LASTS)


def drill(name: str, monitor: str, dimensions: dict[str, str | None] | None = None, **how: object) -> Drill:
    return Drill(name, monitor, partial(Trouble, segment=of_dict(dimensions or {}), **how))  # type: ignore[arg-type]


DRILLS: Final = (
    drill("a provider, 10 points less", "authorization_drop", {"account": "acme_us"}, worse=less(0.10)),
    drill(
        "an issuer country to 0", "authorization_drop", {"issuer_country": "FR"}, worse=less(1.0), code="do_not_honor"
    ),
    drill("a currency whose challenges loop", "authentication_drop", {"currency": "GBP"}, loops=0.9),
    drill("an account to 0", "authorization_drop", {"account": "acme_eu"}, worse=less(1.0)),
    drill("a brand, 20 points less", "authorization_drop", {"brand": "mastercard"}, worse=less(0.20)),
    drill("no traffic", "no_traffic", gone=1.0),
    drill("30 % of an account fail", "technical_errors", {"account": "backup"}, worse=failing(0.30, "technical")),
    drill("15 % of an account are unknown", "technical_errors", {"account": "acme_eu"}, worse=failing(0.15, "unknown")),
    drill(
        "one code of an issuer country, 40 points less",
        "authorization_drop",
        {"issuer_country": "ES"},
        worse=less(0.40),
        code="transaction_not_allowed",
    ),
    drill(
        "a currency at an account, 50 points less",
        "authorization_drop",
        {"account": "acme_us", "currency": "USD"},
        worse=less(0.50),
    ),
    drill("25 % of an account are blocked", "blocked_share", {"account": "backup"}, worse=failing(0.25, "blocked")),
    drill("everything, 5 points less", "authorization_drop", worse=less(0.05)),
)


@dataclass(frozen=True)
class Found:
    """Minutes from the beginning of a trouble to the page, how many pages there were, and what the incident said in the end."""

    delay: int | None
    pages: int
    incident: Incident | None

    def row(self, name: str) -> str:
        if self.incident is None or self.delay is None:
            return f"| {name} | not found | | |"
        return f"| {name} | {self.delay} | `{self.incident.detector}` | {told(self.incident.segment)} |"


def found(market: Market, each: Drill, start: int, after: int) -> Found:
    """Look from shortly before until ``after`` minutes after it was found."""
    delay, pages, incident = None, set[str](), None
    for at, decision in looks(market, start - 6, start + LASTS):
        paging = [it for it in decision.opened if it.severity == "page"]
        paging += [it for it in decision.changed if it.key in decision.escalated]
        pages |= {it.key for it in paging}
        if delay is None and any(it.monitor == each.monitor for it in paging):
            delay = at - start
        incident = next((it.incident for it in decision.state.open if it.incident.monitor == each.monitor), incident)
        if delay is not None and at >= start + delay + after:
            break
    return Found(delay, len(pages), incident)


def run_drills(seed: int, after: int) -> dict[Drill, Found]:
    """Each trouble at nine o'clock of the same day, from a state that knows of nothing."""
    market, start = Market(seed), BEGIN + seed % 7 * DAY + NINE
    return {each: found(market.beside(each.at(start)), each, start, after) for each in DRILLS}


def report(results: dict[Drill, Found]) -> None:
    for each, result in results.items():
        sys.stdout.write(f"{result.row(each.name)}\n")
    sys.stdout.write(f"median {median(it.delay for it in results.values() if it.delay is not None)} minutes\n")


def segment_of(each: Drill) -> Segment:
    return each.at(0).segment


def test_twelve_troubles_are_all_found_in_ten_minutes_by_the_median() -> None:
    results = run_drills(101, after=2)
    report(results)
    for each, result in results.items():
        assert result.delay is not None, each.name
        assert result.pages == 1, each.name
        assert result.incident is not None
        assert nested(result.incident.segment, segment_of(each)), each.name
        assert result.incident.loss_per_hour, each.name
    assert median(it.delay for it in results.values() if it.delay is not None) <= 10


@pytest.mark.parametrize("seed", [201, 202, 203])
def test_hours_without_trouble_page_nobody(seed: int) -> None:
    market = Market(seed)
    for _, decision in looks(market, BEGIN + NINE, BEGIN + NINE + 90):
        assert not [incident.summary for incident in decision.opened if incident.severity == "page"]
        assert set(decision.verdicts.values()) == {"ok"}


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [301, 302, 303])
def test_four_weeks_without_trouble_page_nobody(seed: int) -> None:
    opened = [it for _, each in looks(Market(seed), BEGIN, BEGIN + 28 * DAY) for it in (*each.opened, *each.changed)]
    tickets = {it.key: it for it in opened}
    sys.stdout.write("\n".join((f"seed {seed}: {len(tickets)} tickets", *(it.summary for it in tickets.values()), "")))
    assert not [it.summary for it in opened if it.severity == "page"]


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [411, 412, 413, 414, 415])
def test_troubles_are_found_and_their_cause_is_named(seed: int) -> None:
    results = run_drills(seed, after=25)
    report(results)
    for each, result in results.items():
        assert result.delay is not None, each.name
        assert result.pages == 1, each.name
        assert result.incident is not None
        assert result.incident.segment == segment_of(each), each.name
    assert median(it.delay for it in results.values() if it.delay is not None) <= 10


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [501, 502])
def test_a_slow_drift_by_half_a_point_a_day_is_found(seed: int) -> None:
    market = Market(seed, [Trouble(BEGIN, BEGIN + 14 * DAY, worse=sinking(0.005, BEGIN))])
    first: dict[str, float] = {}
    for at, decision in looks(market, BEGIN, BEGIN + 10 * DAY):
        for it in (*decision.opened, *decision.changed):
            if it.detector == "cusum" and it.severity not in first:
                days = first[it.severity] = (at - BEGIN) / DAY
                sys.stdout.write(f"seed {seed}: {it.severity} after {days:.1f} days: {it.summary}\n")
        if "page" in first:
            break
    assert "ticket" in first or "page" in first
    assert min(first.values()) < 7
