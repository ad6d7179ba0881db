"""The alerting rules: they do what their unit tests say, and speak of nothing that we do not tell."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.metrics.catalog import instruments

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOY: Final = ROOT / "deploy" / "prometheus"
RULES: Final = sorted(DEPLOY.glob("*.rules.yml"))
UNIT_TESTS: Final = sorted(DEPLOY.glob("*.test.yml"))
SERIES: Final = {name: labels for each in instruments() for name, labels in each.series.items()}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool") or shutil.which("promtool", path=str(Path(sys.prefix) / "bin"))
    if found is None:
        pytest.skip("promtool is not here: it is in Debian's package prometheus, and `make debian` fetches it")
    return found


def _alerts() -> dict[str, str]:
    """Every alert by its name, as it is written."""
    text = "".join(file.read_text(encoding="utf-8") for file in RULES)
    parts = re.split(r"^ +- (?=alert:|record:|name:)", text, flags=re.MULTILINE)
    return {part.split()[1]: part for part in parts if part.startswith("alert:")}


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_the_rules_are_rules(promtool: str, file: Path) -> None:
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_the_example_is_a_configuration(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "config", DEPLOY / "prometheus.yml"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name)
def test_the_rules_do_what_their_tests_say(promtool: str, file: Path) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", file.name], cwd=DEPLOY, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_never_fires_fails_its_test(promtool: str, tmp_path: Path) -> None:
    for name in ("money.rules.yml", "money.test.yml"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(
            text.replace("interlock_unknown_oldest_seconds) > 900", "interlock_unknown_oldest_seconds) > 90000")
        )
    done = subprocess.run(
        [promtool, "test", "rules", "money.test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "UnknownStuck" in done.stdout + done.stderr


@pytest.mark.parametrize("alert", _alerts())
def test_every_alert_fires_in_a_test_and_stays_silent_in_another(alert: str) -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in UNIT_TESTS)

    assert re.search(rf"alertname: {alert}\n\s+eval_time: \w+\n\s+exp_alerts:\n", text), "it never fires"
    assert re.search(rf"alertname: {alert}, eval_time: \w+, exp_alerts: \[\]", text), "it is never silent"


@pytest.mark.parametrize("alert", _alerts())
def test_every_alert_says_how_bad_it_is_for_whom_and_what_to_do(alert: str) -> None:
    written = _alerts()[alert]
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }

    assert re.search(r"severity: (page|ticket)\b", written)
    assert re.search(r'tier: "[0-3]"', written) or "interlock:slo_bad" in written  # a service level brings its tier
    assert "summary: " in written
    (anchor,) = re.findall(r"runbook: docs/operations\.md#([\w-]+)", written)
    assert anchor in headings
    assert f"`{alert}`" in page


def _told(text: str) -> str:
    """The rules without what is said about them."""
    kept = [line for line in text.splitlines() if not re.match(r"\s*(#|summary:|loss:|runbook:|- name:)", line)]
    return "\n".join(kept)


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_rules_ask_only_for_what_we_tell_with_the_labels_that_it_has(file: Path) -> None:
    text = _told(file.read_text(encoding="utf-8"))

    assert asked_for(text) == {}


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_rules_ask_only_for_what_rules_record(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    recorded = set(re.findall(r"record: (\S+)", text))

    assert set(re.findall(r"interlock:[\w:]+", text)) == recorded


def asked_for(text: str) -> dict[str, set[str]]:
    """Each series in ``text`` that is none of ours, or the labels of it that it does not have."""
    wrong: dict[str, set[str]] = {}
    for name, matchers in re.findall(r"\b((?:interlock|dependency)_\w+)(?:\{([^}]*)\})?", text):
        unknown = set(re.findall(r"(\w+)\s*[=!]~?", matchers)) - SERIES.get(name, frozenset())
        if name not in SERIES or unknown:
            wrong[name] = unknown
    return wrong


def test_a_series_or_a_label_that_there_is_not_is_found() -> None:
    found = asked_for(
        'rate(interlock_decision_total[5m]) + rate(interlock_decisions_total{klass="bad", verb=~"a|b"}[5m])'
    )

    assert found == {"interlock_decision_total": set(), "interlock_decisions_total": {"klass"}}
