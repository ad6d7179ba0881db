"""The Grafana dashboards: they can be read in, ask only for what we tell, and say what they show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.metrics.catalog import instruments

ROOT: Final = Path(__file__).parent.parent.parent
FILES: Final = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
DASHBOARDS: Final[dict[str, dict[str, Any]]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FILES
}
SERIES: Final = {name: labels for each in instruments() for name, labels in each.series.items()}
RECORDED: Final = {
    name
    for file in (ROOT / "deploy" / "prometheus").glob("*.rules.yml")
    for name in re.findall(r"record: (\S+)", file.read_text(encoding="utf-8"))
}
NAME: Final = re.compile(r"\b((?:interlock|dependency)[\w:]+)(?:\{([^}]*)\})?")


def _panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def _queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in _panels(dashboard) for target in panel["targets"]]


def test_there_are_three() -> None:
    assert DASHBOARDS.keys() == {"interlock-overview", "interlock-providers", "interlock-worker"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_asks_only_for_what_we_tell_with_the_labels_that_it_has(name: str) -> None:
    variables = [str(each.get("definition", "")) for each in DASHBOARDS[name]["templating"]["list"]]

    for query in [*_queries(DASHBOARDS[name]), *variables]:
        for series, matchers in NAME.findall(query):
            assert series in SERIES or series in RECORDED, query
            asked = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
            assert asked <= SERIES.get(series, asked), query


@pytest.mark.parametrize("name", DASHBOARDS)
def test_what_is_grouped_and_written_in_a_legend_are_labels_of_what_is_asked_for(name: str) -> None:
    for panel in _panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            query = target["expr"]
            labels = {
                label for series, _ in NAME.findall(query) for label in SERIES.get(series, {"account", "currency"})
            }
            grouped = {label.strip() for each in re.findall(r"by \(([^)]*)\)", query) for label in each.split(",")}
            assert grouped <= labels, query
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= (grouped or labels), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_gauges_of_several_processes_are_not_added_up(name: str) -> None:
    gauges = {each.name for each in instruments() if each.sort == "gauge"}

    for query in _queries(DASHBOARDS[name]):
        for series, _ in NAME.findall(query):
            if series in gauges:
                assert re.search(rf"max (?:by \([^)]*\) )?\({series}|max\({series}", query), query


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_is_promql(name: str, tmp_path: Path) -> None:
    promtool = shutil.which("promtool") or shutil.which("promtool", path=str(Path(sys.prefix) / "bin"))
    if promtool is None:
        pytest.skip("promtool is not here: it is in Debian's package prometheus, and `make debian` fetches it")
    queries = [
        query.replace("$__rate_interval", "5m").replace("$account", ".*") for query in _queries(DASHBOARDS[name])
    ]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": name, "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_it_shows_in_which_unit_and_stands_alone(name: str) -> None:
    dashboard = DASHBOARDS[name]
    taken: set[tuple[int, int]] = set()

    assert dashboard["uid"] == name
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in _panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_every_instrument_of_a_worker_is_on_a_dashboard() -> None:
    shown = {
        series
        for dashboard in DASHBOARDS.values()
        for query in _queries(dashboard)
        for series, _ in NAME.findall(query)
    }
    told = {each.name: set(each.series) for each in instruments() if each.told_by == "a worker"}

    assert {name for name, series in told.items() if not series & shown} <= {"interlock_webhook_deliveries_pending"}
