"""The printed page says what was measured, and no more."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.routing import __main__ as program
from bench.routing import page
from bench.routing.entrants import ENTRANTS
from bench.routing.play import Result, figures
from bench.routing.world import SCENARIOS

DOCS = Path(__file__).parents[2] / "docs"


def result_of(scenario: str, seed: int, gain: float, openings: int | None = None) -> Result:
    gap = 0 if scenario == "equal" else 100
    got = 17_000 + (gain if gap else 0)
    return Result(
        scenario, seed, 20_000, got, 17_000, 17_000 + gap, 50, 17, 1, 10, openings, 340_000, 40, 10, 30.0, 0.6
    )


def rows(gain: float, openings: int | None = None) -> list[Result]:
    return [result_of(scenario, seed, gain + seed - 201, openings) for seed in (201, 202) for scenario in SCENARIOS]


@pytest.fixture
def run() -> page.Run:
    single = {"adaptive": rows(80, 1), "priority": rows(0), "thompson": rows(-20)}
    return page.Run(single, {"adaptive": rows(80)}, {"adaptive": rows(85)}, (201, 202), 20_000, "22 November 2026")


def test_rows_are_in_the_order_of_what_they_capture_with_their_errors(run: page.Run) -> None:
    text = page.page(run)
    main = text[text.index("## Result") : text.index("### By scenario")]

    captured = re.findall(r"^\| (?:\*\*)?(?:ours|static|Thompson)[^|]*\| ([-\d.]+) ± ([\d.]+)", main, re.MULTILINE)
    assert captured == [("80.5", "0.5"), ("0.5", "0.5"), ("-19.5", "0.5")]
    assert "seeds (201 to 202)" in text
    assert "seeds 1 to 6" in text


def test_a_difference_is_taken_in_the_same_worlds(run: page.Run) -> None:
    behind = page.behind(run.single, "thompson")

    assert str(behind) == "100.0 ± 0.0"  # each captures a point more on the second seed: the difference does not vary
    assert page.behind(run.single, "adaptive") is None


def test_an_aim_that_is_missed_is_said_to_be_missed(run: page.Run) -> None:
    table = page.aim_table(figures(rows(80, 1)))

    assert "| captured, pooled | ≥ 75 % | 80.5 | reached |" in table
    assert "| false switches | ≤ 0.10 | 0.100 | reached |" in table
    assert "| false breaker openings per 20,000 payments | ≤ 0.5 | 1.00 | **missed** |" in table
    assert "not measured" in page.aim_table(figures([result_of("stationary", 201, 5)]))
    assert "| captured in the worst scenario, plus its standard error | ≥ 0 % | -19.0 | **missed** |" in page.aim_table(
        figures(rows(-20))
    )


def test_fees_are_counted_on_approvals_over_the_eight_scenarios(run: page.Run) -> None:
    (row,) = [line for line in page.cost_table(run.single).splitlines() if "adaptive" in line]

    assert [cell.strip() for cell in row.split("|")[2:5]] == ["85.40", "19.9", "2972.1"]


def test_the_plot_has_a_bar_for_every_row_and_negative_ones_go_to_the_left(run: page.Run) -> None:
    root = ET.fromstring(page.plot(run.found()))
    bars = [
        rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("fill") in {page.OURS, page.THEIRS}
    ]

    assert len(bars) == 3
    zero = float(bars[0].get("x", "0"))
    assert float(bars[2].get("x", "0")) + float(bars[2].get("width", "0")) == pytest.approx(zero, abs=0.2)
    assert [bar.get("fill") for bar in bars] == [page.OURS, page.THEIRS, page.THEIRS]


def test_the_program_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "priority,thompson"
    arguments = ["--page", "--only", names, "--seeds", "201", "--payments", "400", "--docs", str(tmp_path)]

    assert program.main(arguments) == 0
    text = (tmp_path / "routing-benchmark.md").read_text(encoding="utf-8")
    assert "Thompson, stationary" in text
    assert (tmp_path / "routing-benchmark.svg").read_text(encoding="utf-8").startswith("<svg")
    assert "wrote" in capsys.readouterr().out


def test_the_page_in_the_repository_holds_all_that_was_compared_on_seeds_that_nothing_was_tuned_on() -> None:
    text = (DOCS / "routing-benchmark.md").read_text(encoding="utf-8")
    main = text[text.index("## Result") : text.index("### By scenario")]

    compared = [name for name, row in ENTRANTS.items() if not row.ours] + ["adaptive"]
    assert [name for name in compared if f"| {page.label(name)} |" not in main] == []
    assert f"8 seeds ({page.SEEDS[0]} to {page.SEEDS[-1]})" in text
    assert "not measured" not in text
    assert ET.parse(DOCS / "routing-benchmark.svg").getroot().tag.endswith("svg")
