"""Dashboard, alerts and documents name what is exported, and all of it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import test_agent_http
import yaml

from collectors.agent_metrics import AgentMetrics
from collectors.status import AgentStatus
from collectors.verdict_tally import LATENCY_PARTS
from conftest import ROOT
from deployments.counters import DispatchCounters
from deployments.metric_names import METRICS, exported_names
from prometheus_server import (
    ALERTS,
    DASHBOARD,
    OF_RAY,
    dashboard_queries,
    rule_queries,
    rules,
    selectors,
)

DOCUMENT = ROOT / "docs" / "monitoring.md"


def of_a_collector() -> set[str]:
    """Return the names of all that a collector exports, from what it exports."""
    counts = {part: {float("inf"): 1} for part in LATENCY_PARTS}
    status: AgentStatus = replace(test_agent_http.STATUS, latency_counts=counts)
    text, _ = AgentMetrics(lambda: status).text("")
    return set(re.findall(r"^(serveflow_collector_\w+)", text.decode(), re.MULTILINE))


def names(queries: list[str]) -> set[str]:
    return {selector.partition("{")[0] for query in queries for selector in selectors(query)}


def test_the_dashboard_is_what_the_code_makes() -> None:
    code = "import generate_dashboard as g; print(g.text(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tools", capture_output=True, text=True, check=True
    )
    assert done.stdout == DASHBOARD.read_text(), "run tools/generate_dashboard.py"


def test_queries_name_only_what_is_exported() -> None:
    exported = exported_names() | of_a_collector() | OF_RAY | {"up"}
    exported |= {rule["record"] for rule in rules("record")}
    asked = names([*dashboard_queries(), *rule_queries()])
    assert asked <= exported, asked - exported
    assert asked >= OF_RAY


def test_the_dashboard_shows_all_that_the_service_counts() -> None:
    shown = names(dashboard_queries())
    sums = {name for name in exported_names() if name.endswith(("_sum", "_count"))}
    assert exported_names() - sums <= shown


def test_each_counter_of_the_dispatch_is_told() -> None:
    from deployments.metrics import _COUNTED

    told = set(_COUNTED.values()) | {"finals", "tracker_restarts"}
    # What follows from others, see DispatchCounters.
    told |= {"packets_applied", "flows_sure", "flows_settled"}
    assert set(DispatchCounters.__dataclass_fields__) == told


def test_the_document_lists_every_metric_and_every_alert() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$", DOCUMENT.read_text(), re.M
    )
    told = {row[0]: row[1:] for row in rows}
    assert set(told) == set(METRICS)
    for name, metric in METRICS.items():
        labels = ", ".join(metric.labels) or "none"
        assert told[name] == (metric.kind, labels, metric.by, metric.text)
    for rule in rules("alert"):
        assert f"`{rule['alert']}`" in DOCUMENT.read_text()


def test_each_alert_says_what_it_is_and_where_to_read_on() -> None:
    found = [rule["alert"] for rule in rules("alert")]
    assert len(set(found)) == len(found)
    for rule in rules("alert"):
        name, told = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert told["summary"]
        assert told["description"]
        assert told["runbook_url"] == f"docs/kubernetes.md#{name.lower()}"


def test_each_alert_is_tested_to_fire_and_to_be_quiet() -> None:
    tests = yaml.safe_load((ALERTS.parent / "alerts_test.yaml").read_text())["tests"]
    expected = {f"{rule['alert']} {what}" for rule in rules("alert") for what in ("fires", "quiet")}
    assert {test["name"] for test in tests} == expected
    for test in tests:
        (case,) = test["alert_rule_test"]
        assert bool(case["exp_alerts"]) == test["name"].endswith("fires")
        assert case["alertname"] == test["name"].partition(" ")[0]


@pytest.mark.parametrize("arguments", [["check", "rules"], ["test", "rules"]])
def test_promtool_has_nothing_to_say(arguments: list[str]) -> None:
    """Promtool comes with the Debian package prometheus, which `make test` installs."""
    file = "alerts.yaml" if arguments[0] == "check" else "alerts_test.yaml"
    done = subprocess.run(
        ["promtool", *arguments, str(ALERTS.parent / file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
