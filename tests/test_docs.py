"""The printed pages say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from gateway import printed
from gateway.errors import PROBLEMS
from gateway.lifecycle import OperationStatus, Reason, Status
from gateway.settings import Settings

ROOT: Final = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def steps() -> printed.Edges:
    return printed.payment_steps()


def test_the_printed_pages_are_current() -> None:
    assert printed.stale() == [], "run: python -m gateway.printed"


def test_a_page_that_was_changed_or_is_missing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed, "DOCS", tmp_path)
    for name, page in printed.PAGES.items():
        (tmp_path / name).write_text(page(), encoding="utf-8")
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


def test_a_payment_can_come_into_every_status_but_its_first(steps: printed.Edges) -> None:
    assert {after for _, after in steps} == set(Status) - {Status.REQUIRES_CONFIRMATION}


def test_what_has_failed_or_was_canceled_goes_nowhere(steps: printed.Edges) -> None:
    assert [edge for edge in steps if edge[0] in {Status.FAILED, Status.CANCELED}] == []


def test_a_succeeded_payment_goes_back_only_by_a_capture_that_failed_after_all(steps: printed.Edges) -> None:
    back = {edge: why for edge, why in steps.items() if edge[0] == Status.SUCCEEDED}

    assert back == {(Status.SUCCEEDED, Status.REQUIRES_CAPTURE): ("capture Declined",)}


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")))
def test_a_link_between_pages_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
