"""What the console says of numbers, and what an address asks: pure, so every case is cheap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from gateway.console import wording
from gateway.console.asker import Flow
from gateway.console.explorer import (
    CODES_MAX,
    Line,
    breakdown,
    declines,
    earlier_steps,
    heat,
    line_chart,
    merged,
    over_time,
    pareto_chart,
    sankey_chart,
    scale,
    together,
)
from gateway.console.frame import Look
from gateway.console.overview import largest_first
from gateway.console.question import METRIC, PERIODS, Question, read
from gateway.console.users import Visitor
from gateway.rates import Amount, Cell, Measured, Unanswerable

NOW: Final = datetime(2026, 11, 22, 17, 43, 12, tzinfo=UTC)
LOOK: Final = Look(Visitor("usr_1", "ada@example.com", "mer_dev", "c"), True, (True, False), "system")


def cell(n: int, hits: int, at: datetime | None = None, **keys: str | None) -> Cell:
    return Cell(keys, at, n, hits, (Amount("EUR", 100 * n, 100 * hits),))


def told(*cells: Cell) -> Measured:
    return Measured(cells, NOW)


# --- Words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (wording.count(None), "–"),
        (wording.count(1234567), "1\u202f234\u202f567"),
        (wording.money(123456789, "EUR"), "1\u202f234\u202f567.89\u00a0EUR"),
        (wording.money(5, "EUR"), "0.05\u00a0EUR"),
        (wording.money(5, "JPY"), "5\u00a0JPY"),
        (wording.money(1234, "KWD"), "1.234\u00a0KWD"),
        (wording.money(-100, "EUR"), "\u22121.00\u00a0EUR"),
        (wording.percent(None), "–"),
        (wording.percent(0.93449), "93.4\u202f%"),
        (wording.points(0.0121), "+1.2\u202fpp"),
        (wording.points(-0.0121), "\u22121.2\u202fpp"),
        (wording.points(-0.0001), "±0.0\u202fpp"),
        (wording.milliseconds(0.4121), "412\u202fms"),
        (wording.span(None), "–"),
        (wording.span(0.4), "0\u202fs"),
        (wording.span(59), "59\u202fs"),
        (wording.span(7500), "2\u202fh 5\u202fmin"),
        (wording.span(90000), "1\u202fd 1\u202fh"),
        (wording.instant(NOW), "2026-11-22 17:43:12 UTC"),
        (wording.step(NOW, "hour"), "22 Nov 17:43"),
        (wording.step(NOW, "month"), "Nov 2026"),
        (wording.words("amount_mismatch"), "Amount mismatch"),
        (wording.place(0.5, 0.0, 1.0, 120), "60.0"),
        (wording.place(0.1, 0.5, 1.0, 120), "0.0"),
    ],
)
def test_numbers_are_written_alike_everywhere(said: str, shown: str) -> None:
    assert said == shown


def test_amounts_of_several_currencies_are_never_added_up() -> None:
    amounts = [Amount("EUR", 9, 5), Amount("USD", 9, 7), Amount("GBP", 9, 0)]

    assert [each.currency for each in largest_first(amounts)] == ["USD", "EUR"]


# --- Addresses ----------------------------------------------------------------------------------------------------------


def test_an_address_that_asks_nothing_asks_the_usual() -> None:
    question = read([], NOW)

    assert (question.metric, question.period, question.interval, question.by) == (METRIC, "30d", "day", "account")
    assert question.start == datetime(2026, 10, 23, tzinfo=UTC)
    assert question.before == (question.start - (NOW - question.start), question.start)
    assert LOOK.link("/console/x", **question.query()) == "/console/x"


@pytest.mark.parametrize("period", PERIODS)
def test_a_period_begins_with_a_whole_step(period: str) -> None:
    question = read([("period", period)], NOW)
    asked = question.asked("mer_dev", "account", livemode=True, series=True)

    assert question.start.minute == question.start.second == question.start.microsecond == 0
    assert timedelta(0) <= NOW - PERIODS[period][1] - question.start < timedelta(days=1)
    assert (asked.start, asked.end, asked.interval) == (question.start, NOW, PERIODS[period][2])
    assert asked.end - asked.start == question.before[1] - question.before[0]


def test_a_link_is_the_same_question_with_a_little_of_it_changed() -> None:
    asked = [
        ("by", "bin"),
        ("filter", "brand:visa"),
        ("filter", "brand:amex"),
        ("filter", "rule:a b&c"),
        ("add", "country"),
        ("value", " DE "),
    ]
    question = read(asked, NOW)

    assert question.filters == {"brand": ("visa", "amex"), "rule": ("a b&c",), "country": ("DE",)}
    kept = LOOK.link("/x", **question.query())
    assert kept == "/x?by=bin&filter=brand:visa&filter=brand:amex&filter=rule:a%20b%26c&filter=country:DE"
    assert read([("by", "bin"), ("filter", "brand:amex")], NOW).without("brand", "amex").get("filter") is None
    assert question.without("brand", "visa")["filter"] == ["rule:a b&c", "country:DE", "brand:amex"]
    assert question.only("bin", None)["filter"] == ["brand:visa", "brand:amex", "rule:a b&c", "country:DE", "bin:"]
    assert read([("period", "24h"), ("interval", "day")], NOW).query(period="7d") == {
        "metric": None, "period": "7d", "interval": None, "by": None, "filter": None,
    }  # fmt: skip


def test_a_link_stays_in_the_mode_that_is_looked_at() -> None:
    test = Look(LOOK.visitor, False, (True, False), "system")

    assert (LOOK.link("/x", a=1), test.link("/x", a=1), test.link("/x")) == (
        "/x?a=1",
        "/x?a=1&mode=test",
        "/x?mode=test",
    )


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (("metric", "luck"), "metric"),
        (("period", "9y"), "period"),
        (("interval", "fortnight"), "interval"),
        (("by", "shoe_size"), "by"),
        (("by", "metadata."), "by"),
        (("filter", "brand"), "filter"),
        (("filter", "shoe_size:43"), "filter"),
        (("filter", "brand:a\0"), "filter"),
        (("colour", "red"), "query"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_name(asked: tuple[str, str], param: str) -> None:
    with pytest.raises(Unanswerable) as refused:
        read([asked], NOW)

    assert refused.value.param == param


# --- Tables and charts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "before", "change", "sure"),
    [
        (cell(1000, 900), cell(1000, 800), 0.1, True),
        (cell(1000, 900), cell(1000, 890), 0.01, False),
        (cell(99, 90), cell(1000, 800), None, False),
        (cell(1000, 900), cell(99, 10), None, False),
        (cell(1000, 900), None, None, False),
    ],
)
def test_a_change_is_told_where_both_periods_are_enough_and_marked_where_their_intervals_do_not_meet(
    now: Cell, before: Cell | None, change: float | None, *, sure: bool
) -> None:
    line = Line("visa", now, before, {})

    assert (line.change if change is None else pytest.approx(line.change)) == change
    assert line.is_sure is sure


def test_a_breakdown_keeps_the_value_that_is_not_known_apart() -> None:
    question = Question(NOW, by="brand")
    lines = breakdown(question, told(cell(9, 8, brand="visa"), cell(3, 1, brand=None)), told(cell(5, 5, brand=None)))

    assert [(line.value, line.before and line.before.n) for line in lines] == [("visa", None), (None, 5)]
    assert lines[1].query["filter"] == ["brand:"]


def test_the_heat_is_between_the_worst_and_the_best_and_without_rate_there_is_none() -> None:
    cells = [
        cell(100, 90, bin="1", account="a"),
        cell(300, 150, bin="2", account="a"),
        cell(50, 45, bin="2", account="b"),
    ]
    unknown = [cell(999, 0, bin=None, account="a"), cell(0, 0, bin="1", account="b")]

    rows = heat(told(*cells, *unknown), ["a", "b"])

    assert [(bin_, n, [shade for _, shade in shades]) for bin_, n, shades in rows] == [
        ("2", 350, [0, 9]),
        ("1", 100, [9, 0]),
    ]


def test_where_all_rates_are_equal_the_heat_is_too() -> None:
    ((_, _, shades),) = heat(told(cell(9, 3, bin="1", account="a")), ["a"])

    assert [shade for _, shade in shades] == [9]


def test_declines_are_ordered_and_what_is_rare_is_one_row() -> None:
    def reason(n: int, code: str | None, class_: str = "declined", account: str = "a") -> Cell:
        keys = {"class": class_, "decline_code": code, "decline_type": "soft" if code else None, "account": account}
        return Cell(keys, None, n, 0)

    rare = [reason(1, f"rare_{number:02d}") for number in range(CODES_MAX)]
    shown = declines(
        told(
            reason(1000, None, "approved"),
            reason(5, "no_funds"),
            reason(3, "no_funds", account="b"),
            reason(7, None, "technical"),
            *rare,
        )
    )

    assert [(each.code, each.type, each.n) for each in shown[:2]] == [
        ("no_funds", "soft", 8),
        ("technical", "technical", 7),
    ]
    assert shown[0].counts == {"a": 5, "b": 3}
    assert (len(shown), shown[-1].code, shown[-1].n) == (CODES_MAX + 1, "2 others", 2)
    assert shown[-1].up_to_here == pytest.approx(1.0)
    assert [each.up_to_here for each in shown] == sorted(each.up_to_here for each in shown)


def test_scales_reach_from_what_is_there_to_what_is_there() -> None:
    assert scale([]) == (0.0, 1.0)
    low, high = scale([cell(1000, 850), cell(1000, 950)])
    assert (low, high) == (0.8, 1.0)


def test_a_line_has_a_gap_where_nothing_was_tried() -> None:
    first, second = NOW - timedelta(days=1), NOW
    series = told(cell(10, 9, first, account="a"), cell(10, 8, second, account="a"), cell(4, 2, second, account="b"))

    chart: Any = line_chart(series, ["a", "b"], "day")

    assert [each["rate"] for each in chart["series"]] == [[0.9, 0.8], [None, 0.5]]
    assert line_chart(told(cell(1, 1, first, account="a")), ["a"], "day") is None
    assert [(at, sorted(cells)) for at, cells in over_time(series, ["a", "b"])] == [
        (second, ["a", "b"]),
        (first, ["a"]),
    ]


def test_each_whole_step_of_the_time_before_stands_beside_one_of_now() -> None:
    days, weeks = Question(NOW), read([("period", "90d")], NOW)
    months = read([("period", "90d"), ("interval", "month")], NOW)
    hours = read([("period", "24h")], NOW)
    today, hour = NOW.replace(hour=0, minute=0, second=0), NOW.replace(minute=0, second=0)
    monday = datetime(2026, 11, 16, tzinfo=UTC)

    assert days.beside(today - timedelta(days=31)) == today
    assert days.beside(days.start) is None
    assert days.beside(days.before[0].replace(hour=0, minute=0, second=0)) is None
    assert hours.beside(hour - timedelta(hours=25)) == hour
    assert weeks.beside(monday - timedelta(weeks=12)) is None
    assert weeks.beside(monday - timedelta(weeks=13)) == monday
    assert [months.beside(datetime(2026, month, 1, tzinfo=UTC)) for month in (5, 6, 7, 8)] == [
        None,
        datetime(2026, 9, 1, tzinfo=UTC),
        datetime(2026, 10, 1, tzinfo=UTC),
        None,
    ]


def test_a_line_of_the_time_before_lies_under_that_of_now() -> None:
    question = Question(NOW)
    now = [NOW.replace(hour=0, minute=0, second=0) - timedelta(days=day) for day in (1, 0)]
    series = told(*(cell(10, 9, at, account="a") for at in now))
    before = told(cell(10, 5, now[1] - timedelta(days=31), account="a"), cell(8, 8, question.start, account="b"))

    chart: Any = line_chart(series, ["a"], "day", earlier_steps(question, before))

    assert [each["before"] for each in chart["series"]] == [[None, 0.5]]


def test_what_an_answer_comes_to_by_one_dimension_needs_no_question() -> None:
    first, second = NOW - timedelta(days=1), NOW
    series = told(
        cell(10, 9, first, account="a"),
        cell(10, 8, second, account="a"),
        Cell({"account": "b"}, second, 40, 2, (Amount("USD", 7, 3),), 5),
    )

    by_account = merged(series, "account")

    assert [(each.keys["account"], each.n, each.hits) for each in by_account.cells] == [("b", 40, 2), ("a", 20, 17)]
    assert by_account.as_of == NOW
    assert together(series.cells) == Cell({}, None, 60, 19, (Amount("EUR", 2000, 1700), Amount("USD", 7, 3)), 5)
    assert together([]) == Cell({}, None, 0, 0, (), 0)


def test_the_flow_counts_each_payment_once_in_each_step() -> None:
    flows = [
        Flow("a", "declined", "b", "approved", 5, {"EUR": 500}),
        Flow("a", "technical", "b", "approved", 2, {"EUR": 200}),
        Flow("a", "declined", "b", "declined", 1, {"EUR": 100}),
    ]

    chart: Any = sankey_chart(flows)

    assert sankey_chart([]) is None
    into = {(link["source"], link["target"]): link["value"] for link in chart["links"]}
    assert into["1 a", "1 declined at a"] == 6
    assert into["2 b", "2 approved"] == 7
    assert sum(value for (source, _), value in into.items() if source == "1 a") == 8
    assert len(chart["nodes"]) == 6


def test_nothing_declined_draws_nothing() -> None:
    assert pareto_chart([], ["a"]) is None
