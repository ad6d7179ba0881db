"""The decision of the monitors: its arithmetic, its words, and how good it is on synthetic payments."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import comb, exp, factorial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitors import (
    BUILTIN,
    OWN,
    CodeShare,
    Decision,
    Expected,
    Incident,
    Leaf,
    Loss,
    Monitor,
    Overall,
    Past,
    Run,
    Seen,
    Segment,
    State,
    Static,
    Tuning,
    Untunable,
    Verdict,
    as_dict,
    debounce,
    decide,
    expect,
    judge,
    needed_from,
    of_dict,
    past_hours,
    slow,
    told,
    with_codes,
)
from gateway.monitors.causes import Finding, causes
from gateway.monitors.chances import chance_of_so_few, chance_of_so_many, steps
from gateway.monitors.detection import Open
from gateway.monitors.incident import money
from gateway.monitors.monitor import LOOKS_MAX, SILENT_MAX
from gateway.monitors.segments import EVERYTHING, SHAPES, nested, parent, segments_of, shape, within

AUTHORIZATION = BUILTIN[0]
US, EU = Leaf("acme_us", "visa", "USD", "US"), Leaf("acme_eu", "visa", "EUR", "DE")
HOUR = 480_000
NOW = HOUR * 60 + 40


# --- Chances --------------------------------------------------------------------------------------------------------------


def exactly(bad: int, n: int, share: Fraction, weight: int) -> Fraction:
    """The same by the definition: the sum of the beta-binomial chances."""

    def rising(start: Fraction, k: int) -> Fraction:
        product = Fraction(1)
        for i in range(k):
            product *= start + i
        return product

    fail, pass_ = share * weight, (1 - share) * weight
    each = (
        comb(n, k) * rising(fail, k) * rising(pass_, n - k) / rising(Fraction(weight), n) for k in range(bad, n + 1)
    )
    return sum(each, Fraction(0))


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 99), st.integers(1, 3000))
def test_the_chance_of_so_many_failures_is_that_of_the_definition(
    n: int, bad: int, hundredths: int, weight: int
) -> None:
    bad = min(bad, n)
    expected = float(exactly(bad, n, Fraction(hundredths, 100), weight))
    assert chance_of_so_many(bad, n, hundredths / 100, weight) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_the_normal_approximation_would_be_far_off() -> None:
    assert chance_of_so_many(6, 20, 0.05, 1e9) == pytest.approx(1 / 3000, rel=0.1)


@given(st.integers(0, 60), st.integers(1, 400))
def test_the_chance_of_so_few_is_poissons(seen: int, tenths: int) -> None:
    expected = sum(exp(-tenths / 10) * (tenths / 10) ** k / factorial(k) for k in range(seen + 1))
    assert chance_of_so_few(seen, tenths / 10) == pytest.approx(expected, rel=1e-6)


def test_the_steps_of_the_sum_are_the_published_ones() -> None:
    approval, decline = steps(0.90, 0.05)
    assert (round(approval, 3), round(decline, 3)) == (-0.057, 0.405)


# --- Segments -------------------------------------------------------------------------------------------------------------


def test_a_parent_is_one_of_the_segments_and_holds_its_child() -> None:
    for segment in segments_of(US)[1:]:
        assert parent(segment) in segments_of(US)
        assert nested(parent(segment), segment)
        assert len(parent(segment)) < len(segment)
    assert {shape(each) for each in segments_of(US)} == {EVERYTHING, *SHAPES}


def test_a_segment_is_told_in_words_and_read_from_json() -> None:
    assert told(of_dict({"issuer_country": None, "account": "acme_us"})) == "account acme_us, issuer country not known"
    assert told(EVERYTHING) == "all payments"
    with pytest.raises(ValueError, match="no dimension 'bin'"):
        of_dict({"bin": "424242"})


# --- What is usual --------------------------------------------------------------------------------------------------------


def history(
    rates: dict[Leaf, float], an_hour: int = 120, *, weeks: dict[int, float] | None = None
) -> tuple[list[Past], list[Overall]]:
    """Four weeks in which each leaf has so many attempts an hour; ``weeks`` gives one of them another rate."""
    past = []
    for hour in past_hours(HOUR):
        week = round((HOUR - hour) / 168)
        for leaf, rate in rates.items():
            good = round(an_hour * (weeks or {}).get(week, rate))
            past += [
                Past(hour, leaf, "approved", good, good * 5000),
                Past(hour, leaf, "declined", an_hour - good, (an_hour - good) * 5000),
            ]
    overall = [
        row
        for leaf, rate in rates.items()
        for row in (
            Overall(leaf, "approved", round(672 * an_hour * rate), round(672 * an_hour * rate) * 5000),
            Overall(leaf, "declined", round(672 * an_hour * (1 - rate)), round(672 * an_hour * (1 - rate)) * 5000),
        )
    ]
    return past, overall


def usual(expected: Expected, segment: Segment) -> float:
    return expected.usual[segment].rates[0][1]


def test_a_segment_that_differs_from_its_parent_is_held_to_itself() -> None:
    expected = expect(HOUR, *history({US: 0.95, EU: 0.75}, 20))
    assert usual(expected, EVERYTHING) == pytest.approx(0.85, abs=0.01)
    assert usual(expected, (("account", "acme_us"),)) == pytest.approx(0.95, abs=0.01)
    assert usual(expected, (("account", "acme_eu"),)) == pytest.approx(0.75, abs=0.01)


def test_a_new_segment_is_measured_by_its_parent() -> None:
    past, overall = history({US: 0.90})
    new = Leaf("acme_us", "amex", "USD", "US")
    expected = expect(HOUR, past, [*overall, Overall(new, "declined", 2, 100)])
    assert usual(expected, tuple(zip(Leaf._fields, new, strict=True))) == pytest.approx(0.90, abs=0.03)


def test_an_hour_of_an_outage_is_no_measure_unless_it_is_the_rule() -> None:
    once = expect(HOUR, *history({US: 0.90}, weeks={1: 0.2}))
    assert usual(once, EVERYTHING) == pytest.approx(0.90, abs=0.005)
    mostly = expect(HOUR, *history({US: 0.90}, weeks={1: 0.2, 2: 0.2, 3: 0.2}))
    assert usual(mostly, EVERYTHING) < 0.6


def test_a_batch_that_came_once_at_night_is_not_usual_traffic() -> None:
    past, overall = history({US: 0.9}, 600)
    once = [row for row in past if row.hour < HOUR - 3 * 168 - 2]
    assert expect(HOUR, once, overall).usual[EVERYTHING].traffic == (0.0, 0.0, 0.0)
    every_week_so_far = [row for row in past if row.hour > HOUR - 168 - 2]
    assert expect(HOUR, every_week_so_far, overall).usual[EVERYTHING].traffic == (10.0, 10.0, 10.0)


def test_without_history_nothing_is_out_of_the_usual() -> None:
    rows = [Seen(NOW - 1 - at % 15, US, "declined", "do_not_honor", 1, 5000) for at in range(300)]
    decision = watch(expect(HOUR, [], []), rows, minutes=20)[-1]
    assert not decision.state.open
    assert set(decision.verdicts.values()) == {"too_little"}


# --- Looks ----------------------------------------------------------------------------------------------------------------


def rows_of(leaf: Leaf, since: int, until: int, counts: dict[str, int], *, code: str | None = None) -> list[Seen]:
    """The same in every minute."""
    return [
        Seen(minute, leaf, what, code if what == "declined" else None, n, n * 5000)
        for minute in range(since, until)
        for what, n in counts.items()
        if n
    ]


def watch(
    expected: Expected,
    rows: list[Seen],
    *,
    until: int = NOW,
    minutes: int = 10,
    monitors: tuple[Monitor, ...] = BUILTIN,
    state: State | None = None,
) -> list[Decision]:
    """Look every minute, up to ``until``; what is later than a look is not handed in. The state goes through JSON each time."""
    decisions, state = [], state or State()
    for at in range(until - minutes + 1, until + 1):
        since = needed_from(state, at)
        decision = decide(at, monitors, [row for row in rows if since <= row.minute < at], expected, state)
        decisions.append(decision)
        state = State.from_json(json.loads(json.dumps(decision.state.to_json())))
        assert state == decision.state
    return decisions


def opened(decisions: list[Decision]) -> list[Incident]:
    return [incident for decision in decisions for incident in decision.opened]


def closed(decisions: list[Decision]) -> list[Incident]:
    return [incident for decision in decisions for incident in decision.closed]


WELL = {"approved": 9, "declined": 1}
BOTH = expect(HOUR, *history({US: 0.90, EU: 0.90}, 600))


def good_then(leaf: Leaf, bad: dict[str, int], since: int, until: int = NOW, code: str | None = None) -> list[Seen]:
    return rows_of(leaf, NOW - 200, since, WELL) + rows_of(leaf, since, until, bad, code=code)


def test_an_incident_says_where_how_bad_and_what_it_costs() -> None:
    rows = good_then(US, {"declined": 10}, NOW - 15, code="do_not_honor") + rows_of(EU, NOW - 200, NOW, WELL)
    (incident,) = opened(watch(BOTH, rows, minutes=1, monitors=(replace(AUTHORIZATION, tuning=Tuning(open_after=1)),)))
    assert (incident.severity, incident.detector, incident.monitor) == ("page", "window", "authorization_drop")
    assert as_dict(incident.segment) == {"account": "acme_us"}
    assert (incident.n, incident.seen_rate, incident.minutes) == (150, 0.0, 15)
    assert incident.expected_rate == pytest.approx(0.9, abs=0.005)
    # 150 attempts over 50.00 in a quarter of an hour, of which 90 % are usually approved
    assert incident.lost == pytest.approx(135, abs=1)
    (loss,) = incident.loss_per_hour
    assert isinstance(loss.amount, int)
    assert loss.currency == "USD"
    assert loss.amount == pytest.approx(4 * 135 * 5000, rel=0.01)
    assert incident.codes == (CodeShare("do_not_honor", 150, 1.0),)
    (code,) = with_codes(incident, {"do_not_honor": 30, "insufficient_funds": 90}).codes
    assert code.share_before == 0.25
    assert incident.summary.startswith("100.0 % of 150 attempts of ")
    assert "where 10.0 % are usual: about 5" in incident.summary
    state = State(open=(Open(incident, Run(open=True), 0.9),))
    assert State.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_losses_of_two_currencies_are_never_added() -> None:
    rows = [row for leaf in (US, EU) for row in good_then(leaf, {"declined": 10}, NOW - 15)]
    (incident,) = opened(watch(BOTH, rows, minutes=2, monitors=(AUTHORIZATION,)))
    assert incident.segment == EVERYTHING
    assert incident.child is None
    assert sorted(each.currency for each in incident.loss_per_hour) == ["EUR", "USD"]
    for each in incident.loss_per_hour:
        assert each.amount == pytest.approx(4 * 135 * 5000, rel=0.01)


@pytest.mark.parametrize(
    ("loss", "written"),
    [(Loss("EUR", 123_450), "1,234.50 EUR"), (Loss("JPY", 1234), "1,234 JPY"), (Loss("KWD", 5), "0.005 KWD")],
)
def test_money_is_written_with_the_decimals_of_its_currency(loss: Loss, written: str) -> None:
    assert money(loss) == written


def test_it_opens_once_after_two_bad_looks_and_closes_after_ten_good_ones() -> None:
    rows = good_then(US, {"declined": 10}, NOW - 60, NOW - 40) + rows_of(US, NOW - 40, NOW + 60, WELL)
    rows += rows_of(EU, NOW - 200, NOW + 60, WELL)
    decisions = watch(BOTH, rows, until=NOW + 10, minutes=75)
    assert len(opened(decisions)) == 1
    (ended,) = closed(decisions)
    assert ended.closed_reason == "recovered"
    assert ended.closed is not None
    assert NOW - 30 < ended.closed <= NOW
    first_bad = next(at for at, each in enumerate(decisions) if each.state.runs)
    assert decisions[first_bad + 1].opened
    assert not decisions[first_bad].opened


def test_looking_again_at_the_same_minute_changes_nothing() -> None:
    rows = good_then(US, {"declined": 10}, NOW - 15)
    (first,) = watch(BOTH, rows, minutes=1)
    again = decide(NOW, BUILTIN, rows, BOTH, first.state)
    assert again == Decision(first.state)


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_is_of_no_account(dice: Random) -> None:
    rows = good_then(US, {"approved": 3, "declined": 7}, NOW - 8) + good_then(
        EU, {"technical": 4, "approved": 6}, NOW - 5
    )
    expected = watch(BOTH, rows, minutes=1)[0]
    dice.shuffle(rows)
    assert watch(BOTH, rows, minutes=1)[0] == expected


def test_a_late_result_restates_the_window() -> None:
    unknown = good_then(US, {"unknown": 6, "approved": 4}, NOW - 12) + rows_of(EU, NOW - 200, NOW, WELL)
    known = [row._replace(what="approved") if row.what == "unknown" else row for row in unknown]
    look = watch(BOTH, unknown, minutes=1)[0]
    assert (("account", "acme_us"),) in {segment for _, segment, _ in look.state.runs}
    after = decide(NOW + 1, BUILTIN, known, BOTH, look.state)
    assert not after.opened
    assert not after.state.runs


def test_the_slow_sum_counts_a_minute_once_however_late_a_result_comes() -> None:
    rows = good_then(US, {"approved": 7, "declined": 3}, NOW - 30)
    first = watch(BOTH, rows, until=NOW, minutes=40, monitors=(AUTHORIZATION,))[-1]
    late = [row._replace(what="declined") if row.minute < NOW - slow.SETTLED - 1 else row for row in rows]
    after = decide(NOW + 1, (replace(AUTHORIZATION, tuning=Tuning(open_after=LOOKS_MAX)),), late, BOTH, first.state)
    before = dict(first.state.sums).get(EVERYTHING, 0.0)
    assert abs(dict(after.state.sums).get(EVERYTHING, 0.0) - before) <= slow.CAP


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=30))
def test_the_slow_sum_is_never_negative_and_one_minute_adds_no_more_than_its_cap(
    minutes: list[tuple[int, int]],
) -> None:
    sums: dict[Segment, float] = {}
    for at, (approved, declined) in enumerate(minutes):
        rows = rows_of(US, NOW + at, NOW + at + 1, {"approved": approved, "declined": declined})
        grown = slow.grown(sums, rows, NOW + at, NOW + at + 1, BOTH, {})
        for segment, total in grown.items():
            assert 0 <= total <= min(slow.CEILING, sums.get(segment, 0.0) + slow.CAP)
        sums = grown


def test_below_the_minimum_sample_nothing_is_judged() -> None:
    thin = expect(HOUR, *history({US: 0.90}, 80))
    rows = [Seen(NOW - 1 - at % 15, US, "declined", None, 1, 5000) for at in range(19)]
    decision = watch(thin, rows, minutes=5, monitors=(AUTHORIZATION,))[-1]
    assert not decision.state.open
    assert decision.verdicts == {"authorization_drop": "too_little"}


def test_a_challenge_that_goes_round_in_circles_is_found_though_it_never_ends() -> None:
    waiting = [row for leaf in (US, EU) for row in rows_of(leaf, NOW - 200, NOW, {"approved": 9, "declined": 1})]
    waiting = [row if row.minute < NOW - 12 or row.leaf != EU else row._replace(what="pending") for row in waiting]
    (incident,) = opened(watch(BOTH, waiting, minutes=3))
    assert incident.monitor == "authentication_drop"
    assert (
        ("account", "acme_eu") in incident.segment
        or ("currency", "EUR") in incident.segment
        or incident.segment[-1][1] == "DE"
    )


def test_no_traffic_is_told_of_shoppers_and_not_of_an_account_that_routing_left() -> None:
    moved = rows_of(US, NOW - 200, NOW - 10, WELL) + rows_of(US._replace(account="acme_eu"), NOW - 10, NOW, WELL)
    moved += rows_of(EU, NOW - 200, NOW, WELL)
    history_of_both = {US: 0.9, EU: 0.9}
    assert not opened(watch(expect(HOUR, *history(history_of_both, 600)), moved, minutes=8))
    nobody = rows_of(US, NOW - 200, NOW - 10, WELL) + rows_of(EU, NOW - 200, NOW - 10, WELL)
    (incident,) = opened(watch(BOTH, nobody, minutes=8))
    assert (incident.monitor, incident.segment, incident.n) == ("no_traffic", EVERYTHING, 0)
    # 20 attempts a minute over 50.00, of which 90 % are usually approved, in each of two currencies
    assert [each.amount for each in incident.loss_per_hour] == pytest.approx([540 * 5000] * 2, rel=0.02)
    assert "0 attempts of all payments in 5 minutes, where 100 are usual" in incident.summary


def test_two_alarms_of_one_cause_are_one_incident() -> None:
    rows = good_then(US, {"declined": 5, "technical": 5}, NOW - 15) + rows_of(EU, NOW - 200, NOW, WELL)
    decisions = watch(BOTH, rows, minutes=12)
    (incident,) = opened(decisions)
    (kept,) = decisions[-1].state.open
    assert kept.incident.key == incident.key
    assert {kept.incident.monitor, *kept.incident.also} == {"authorization_drop", "technical_errors"}


def test_a_second_trouble_elsewhere_is_a_second_incident() -> None:
    rows = good_then(US, {"declined": 10}, NOW - 15) + good_then(EU, {"technical": 10}, NOW - 15)
    segments = {incident.monitor: incident.segment for incident in opened(watch(BOTH, rows, minutes=5))}
    assert set(segments) == {"authorization_drop", "technical_errors"}
    assert not nested(*segments.values())


def test_a_monitor_of_ones_own_watches_its_segment_alone() -> None:
    own = Monitor("mine", "drop", "authorization", of_dict({"brand": "visa", "currency": "EUR"}), OWN)
    rows = good_then(US, {"declined": 10}, NOW - 15) + rows_of(EU, NOW - 200, NOW, WELL)
    assert not opened(watch(BOTH, rows, minutes=5, monitors=(own,)))
    worse = good_then(EU, {"declined": 10}, NOW - 15)
    (incident,) = opened(watch(BOTH, worse, minutes=5, monitors=(own,)))
    assert as_dict(incident.segment) == {"brand": "visa", "currency": "EUR"}


def test_an_incident_whose_monitor_is_gone_is_closed() -> None:
    rows = good_then(US, {"declined": 10}, NOW - 15) + rows_of(EU, NOW - 200, NOW, WELL)
    before = watch(BOTH, rows, minutes=3)[-1]
    after = decide(NOW + 1, BUILTIN[1:], rows, BOTH, before.state)
    assert [each.closed_reason for each in after.closed] == ["gone"]


def test_a_ticket_that_grows_into_a_page_is_told_as_the_same_incident() -> None:
    quiet = Tuning(severity="ticket")
    rows = good_then(US, {"declined": 10}, NOW - 15) + rows_of(EU, NOW - 200, NOW, WELL)
    before = watch(BOTH, rows, minutes=3, monitors=(replace(AUTHORIZATION, tuning=quiet),))[-1]
    (kept,) = before.state.open
    assert kept.incident.severity == "ticket"
    after = decide(NOW + 1, (AUTHORIZATION,), rows, BOTH, before.state)
    assert not after.opened
    assert after.escalated == {kept.incident.key}
    (changed,) = after.changed
    assert changed.severity == "page"


findings = st.builds(
    Finding,
    st.sampled_from([*segments_of(US), *segments_of(EU)]),
    st.sampled_from(["window", "cusum"]),
    st.floats(20, 1e6),
    st.floats(0, 1e6),
)


@given(st.lists(findings, min_size=1, unique_by=lambda each: each.segment), st.randoms(use_true_random=False))
def test_causes_are_among_what_is_bad_and_none_lies_in_another(bad: list[Finding], dice: Random) -> None:
    by_segment = {each.segment: each for each in bad}
    found = causes(by_segment, lambda each, _: each if dice.random() < 0.5 else None)
    assert found
    assert all(each.segment in by_segment for each in found)
    for one in found:
        assert not [other for other in found if other is not one and within(one.segment, other.segment)]


def test_a_drift_is_told_though_the_last_half_an_hour_was_fine() -> None:
    rows = rows_of(US, NOW - 200, NOW, WELL) + rows_of(EU, NOW - 200, NOW, WELL)
    drifted = State(until=NOW - 1, settled=NOW - slow.SETTLED - 1, sums=((EVERYTHING, slow.CEILING),))
    after = watch(BOTH, rows, minutes=2, monitors=(AUTHORIZATION,), until=NOW + 1, state=drifted)
    (incident,) = opened(after)
    assert (incident.detector, incident.segment, incident.severity) == ("cusum", EVERYTHING, "page")
    assert incident.lost >= 0
    assert incident.summary


# --- Tuning, static monitors, debounce -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "param"),
    [
        (lambda: Tuning(drop=0.0), "drop"),
        (lambda: Tuning(min_sample=5), "min_sample"),
        (lambda: Tuning(open_after=0), "open_after"),
        (lambda: Tuning(close_after=121), "close_after"),
        (lambda: Tuning(false_pages_per_day=0), "false_pages_per_day"),
        (lambda: Tuning(severity="email"), "severity"),  # type: ignore[arg-type]
        (lambda: Monitor("x", "drop", "speed"), "rate"),
        (lambda: Static("speed", "below", 0.9), "metric"),
        (lambda: Static("acceptance_rate", "under", 0.9), "op"),  # type: ignore[arg-type]
        (lambda: Static("acceptance_rate", "below", 90), "threshold"),
        (lambda: Static("acceptance_rate", "below", 0.9, window=1), "window"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(made: object, param: str) -> None:
    with pytest.raises(Untunable) as refused:
        made()  # type: ignore[operator]
    assert refused.value.param == param
    assert str(refused.value)


def test_a_static_monitor_judges_by_its_threshold_and_not_below_its_sample() -> None:
    below = Static("acceptance_rate", "below", 0.85, min_sample=50)
    assert judge(below, 42, 49) is Verdict.UNJUDGED
    assert judge(below, 84, 100) is Verdict.BAD
    assert judge(below, 85, 100) is Verdict.GOOD
    above = Static("unknown_rate", "above", 0.01, min_sample=50)
    assert judge(above, 2, 100) is Verdict.BAD
    assert judge(above, 1, 100) is Verdict.GOOD


@given(st.lists(st.sampled_from(Verdict)), st.integers(1, 5), st.integers(1, 5))
def test_debounce_opens_and_closes_only_after_so_many_in_a_row(
    looks: list[Verdict], open_after: int, close_after: int
) -> None:
    run, judged, silent = Run(), list[Verdict](), 0
    for look in looks:
        before = run
        run, step = debounce(run, look, open_after, close_after)
        silent = silent + 1 if look is Verdict.UNJUDGED else 0
        if look is not Verdict.UNJUDGED:
            judged.append(look)
        if step == "opened":
            assert not before.open
            assert judged[-open_after:] == [Verdict.BAD] * open_after
        elif step == "recovered":
            assert before.open
            assert judged[-close_after:] == [Verdict.GOOD] * close_after
        assert run.open == (before.open if step is None else step == "opened")
        assert silent < SILENT_MAX or not run.open


def test_an_incident_that_nobody_can_judge_any_more_is_closed() -> None:
    run = Run(open=True)
    for _ in range(SILENT_MAX - 1):
        run, step = debounce(run, Verdict.UNJUDGED, 1, 10)
        assert step is None
    assert debounce(run, Verdict.UNJUDGED, 1, 10) == (Run(), "no_data")
