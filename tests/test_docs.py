"""The printed pages say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from gateway import printed
from gateway.errors import PROBLEMS
from gateway.payment import OperationStatus, Reason, Status
from gateway.policies import POLICIES, variable_of
from gateway.settings import Settings

ROOT: Final = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def steps() -> printed.Edges:
    return printed.payment_steps()


def test_the_printed_pages_are_current() -> None:
    assert printed.stale() == [], "run: python -m gateway.printed"


def _print_into(folder: Path) -> None:
    """Every page as it is."""
    for name, page in printed.PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
    for name in printed.SECTIONS:
        (folder / name).write_text((ROOT / "docs" / name).read_text(encoding="utf-8"), encoding="utf-8")


def test_a_page_that_was_changed_or_is_missing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed, "DOCS", tmp_path)
    _print_into(tmp_path)
    (tmp_path / "problems.md").write_text("No problems.\n", encoding="utf-8")
    (tmp_path / "settings.md").unlink()

    assert printed.stale(tmp_path) == ["problems.md", "settings.md"]


@pytest.mark.parametrize(
    ("arguments", "found", "code"), [(["--check"], [], 0), (["--check"], ["x.md"], 1), (["--chek"], [], 2)]
)
def test_checking_exits_1_where_a_page_is_stale(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], found: list[str], code: int
) -> None:
    monkeypatch.setattr(printed, "stale", lambda: found)

    assert printed.main(arguments) == code


def test_every_word_of_the_life_of_a_payment_is_explained() -> None:
    assert set(printed.STATUSES) == set(Status)
    assert set(printed.REASONS) == set(Reason)
    assert set(printed.OPERATIONS) == set(OperationStatus)


def test_every_problem_and_every_setting_has_its_row() -> None:
    problems, settings = printed.problems_page(), printed.settings_page()

    assert [code for code in PROBLEMS if f"| `{code}` |" not in problems] == []
    assert [name for name in Settings.model_fields if f"| `GATEWAY_{name.upper()}` |" not in settings] == []


def test_every_policy_has_its_row_and_every_choice_its_own() -> None:
    section = printed.policies_section()

    assert [name for name in POLICIES if f"| `{name}` |" not in section] == []
    for name, row in POLICIES.items():
        for choice in row.choices if row.configurable else ():
            default = " (default)" if choice == row.default else ""
            assert f"| `{variable_of(name)}` | `{choice}`{default} |" in section


@pytest.mark.parametrize(("mark", "left"), [("<!-- printed: policies", "<!-- "), ("<!-- end of policies -->", "")])
def test_a_page_that_has_lost_the_marks_of_its_section_is_stale_and_left_alone(
    mark: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "DOCS", tmp_path)
    _print_into(tmp_path)
    without = (ROOT / "docs/operations.md").read_text(encoding="utf-8").replace(mark, left)
    (tmp_path / "operations.md").write_text(without, encoding="utf-8")

    assert printed.stale(tmp_path) == ["operations.md"]
    assert printed.main([]) == 1
    assert (tmp_path / "operations.md").read_text(encoding="utf-8") == without


def test_a_section_is_printed_again_and_what_is_written_by_hand_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "DOCS", tmp_path)
    _print_into(tmp_path)
    said = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (tmp_path / "operations.md").write_text(said.replace("goes on with the unique key", "stops"), encoding="utf-8")

    assert printed.stale(tmp_path) == ["operations.md"]
    assert printed.main([]) == 0
    assert (tmp_path / "operations.md").read_text(encoding="utf-8") == said


def test_a_payment_can_come_into_every_status_but_its_first(steps: printed.Edges) -> None:
    assert {after for _, after in steps} == set(Status) - {Status.REQUIRES_CONFIRMATION}


def test_what_has_failed_or_was_canceled_goes_nowhere(steps: printed.Edges) -> None:
    assert [edge for edge in steps if edge[0] in {Status.FAILED, Status.CANCELED}] == []


def test_a_succeeded_payment_goes_back_only_by_a_capture_that_failed_after_all(steps: printed.Edges) -> None:
    back = {edge: why for edge, why in steps.items() if edge[0] == Status.SUCCEEDED}

    assert back == {
        (Status.SUCCEEDED, Status.REQUIRES_CAPTURE): ("capture Declined",),
        (Status.SUCCEEDED, Status.CANCELED): ("capture Declined",),  # its authorization had run out meanwhile
    }


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")))
def test_a_link_between_pages_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
