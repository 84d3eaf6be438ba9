"""Make ``monitoring/grafana/serveflow.json``: run it after a change here and commit its work.

``tests/unit/test_monitoring_files.py`` fails when it was forgotten, and when a query names a metric
that nobody exports.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "monitoring" / "grafana" / "serveflow.json"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _HEIGHT = 24, 8
_R = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        title: What it shows.
        queries: Query by legend.
        unit: Of the values, in Grafana's words.
        text: What to look for.
        kind: ``timeseries`` or ``stat``.
        width: Of 24 columns.
        stack: The series add up.
        most: Upper end of the axis, where there is one.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    text: str = ""
    kind: str = "timeseries"
    width: int = 8
    stack: bool = False
    most: float | None = None


def _rate(metric: str, by: str = "") -> str:
    summed = f"sum by ({by}) " if by else "sum"
    return f"{summed}(rate({metric}{_R}))"


def _quantiles(metric: str, by: str = "") -> dict[str, str]:
    labels = f"le, {by}" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return {
        f"{name}p{share * 100:g}": f"histogram_quantile({share:g}, {_rate(metric, labels)})"
        for share in ((0.5, 0.99) if by else (0.5, 0.9, 0.99))
    }


_FLOWS = "ray_serveflow_flows_total"
_ESCALATED = "ray_serveflow_escalated_flows_total"
_VERDICTS = "ray_serveflow_verdicts_total"
_COLLECTOR = "serveflow_collector"

ROWS: dict[str, tuple[Panel, ...]] = {
    "At a glance": (
        Panel("New flows", {"": _rate(_FLOWS)}, "cps", kind="stat", width=4),
        Panel("Final verdicts", {"": _rate(_VERDICTS)}, "cps", kind="stat", width=4),
        Panel(
            "Settled on packet 1",
            {"": f"1 - {_rate(_ESCALATED)} / ({_rate(_FLOWS)} > 0)"},
            "percentunit",
            kind="stat",
            width=4,
            text="Share of new flows that needed no further packet.",
        ),
        Panel(
            "Queue p99",
            {"": f"histogram_quantile(0.99, {_rate('ray_serveflow_queue_seconds_bucket', 'le')})"},
            "s",
            kind="stat",
            width=4,
        ),
        Panel(
            "Open flows",
            {"": "sum(ray_serveflow_open_flows)"},
            kind="stat",
            width=4,
            text="Flows that trackers hold, without a final verdict.",
        ),
        Panel(
            "Bundle",
            {"{{model}}": "count by (model) (ray_serveflow_model_info)"},
            kind="stat",
            width=4,
            text="The version that is served, and by how many Routers.",
        ),
    ),
    "Verdicts": (
        Panel("Verdicts by tier", {"{{tier}}": _rate(_VERDICTS, "tier")}, "cps", stack=True),
        Panel(
            "Verdicts by reason",
            {"{{reason}}": _rate(_VERDICTS, "reason")},
            "cps",
            stack=True,
            text="degraded, state_lost and evicted are less than they could be.",
        ),
        Panel(
            "Escalation",
            {
                "escalated": f"{_rate(_ESCALATED)} / ({_rate(_FLOWS)} > 0)",
            },
            "percentunit",
            most=1,
            text="Share of new flows that packet 1 did not settle.",
        ),
    ),
    "Latency": (
        Panel(
            "Wait, by tier",
            _quantiles("ray_serveflow_wait_seconds_bucket", "tier"),
            "s",
            text="Capture time that flows waited for their own packets.",
        ),
        Panel(
            "Queue, by tier",
            _quantiles("ray_serveflow_queue_seconds_bucket", "tier"),
            "s",
            text="From a batch's arrival to the verdict's leave, without model time.",
        ),
        Panel(
            "Infer, by tier",
            _quantiles("ray_serveflow_infer_seconds_bucket", "tier"),
            "s",
            text="Model time.",
        ),
    ),
    "Load": (
        Panel(
            "Flows that wait",
            {
                "for the first answer": "sum(ray_serveflow_waiting_flows)",
                "for SlowModel": "sum(ray_serveflow_unsettled_flows)",
            },
            text="The most within 5 s. Beyond max_waiting_flows new flows are refused, beyond "
            "max_slow_flows they are degraded.",
        ),
        Panel(
            "Refused, degraded, shed",
            {
                "refused flows": _rate("ray_serveflow_refused_flows_total"),
                "refused batches": _rate("ray_serveflow_refused_batches_total"),
                "degraded flows": f'sum(rate({_VERDICTS}{{reason="degraded"}}{_R}))',
                "shed packets": _rate("ray_serveflow_shed_packets_total"),
            },
            "cps",
        ),
        Panel(
            "Packets and batches",
            {
                "packets": _rate("ray_serveflow_packets_total"),
                "sent again": _rate("ray_serveflow_duplicate_packets_total"),
                "malformed packets": _rate("ray_serveflow_malformed_packets_total"),
                "batches": _rate("ray_serveflow_batches_total"),
                "malformed batches": _rate("ray_serveflow_malformed_batches_total"),
                "refused for want of a key": _rate("ray_serveflow_access_refused_total"),
            },
            "cps",
        ),
    ),
    "Trackers and drift": (
        Panel(
            "Open flows, by tracker",
            {"{{tracker}}": "sum by (tracker) (ray_serveflow_open_flows)"},
            stack=True,
        ),
        Panel(
            "Trackers restarted, flows lost",
            {
                "{{tracker}} restarts": "max by (tracker) (ray_serveflow_tracker_restarts_total)",
                "{{tracker}} lost flows": "sum by (tracker) (ray_serveflow_lost_flows_total)",
            },
            text="Lost: their collector has gone.",
        ),
        Panel(
            "Drift",
            {"{{reason}}": "max by (reason) (ray_serveflow_drift_score)"},
            text="Population stability index against the bundle's validation: .1 is little, .25 "
            "much. Absent where the bundle keeps no validation. Nothing acts on it.",
        ),
    ),
    "Ray": (
        Panel(
            "Replicas",
            {
                "{{deployment}}": "sum by (deployment) (ray_serve_deployment_replica_healthy)",
            },
        ),
        Panel(
            "CPU by deployment",
            {"{{Component}}": "sum by (Component) (ray_component_cpu_percentage) / 100"},
            text="Cores.",
        ),
        Panel(
            "Memory by process",
            {"{{Component}}": "sum by (Component) (ray_component_rss_bytes)"},
            "bytes",
            stack=True,
        ),
    ),
    "Collectors": (
        Panel(
            "Frames, packets, flows",
            {
                "{{instance}} frames": _rate(f"{_COLLECTOR}_frames_total", "instance"),
                "{{instance}} packets": _rate(f"{_COLLECTOR}_packets_total", "instance"),
                "{{instance}} flows": _rate(f"{_COLLECTOR}_flows_total", "instance"),
                "{{instance}} verdicts": _rate(f"{_COLLECTOR}_verdicts_total", "instance"),
            },
            "cps",
        ),
        Panel(
            "Lost, by hop and reason",
            {"{{hop}} {{reason}}": f"{_rate(f'{_COLLECTOR}_lost_total', 'hop, reason')} > 0"},
            "cps",
            text="Empty is good. docs/collector.md tells what each reason means.",
        ),
        Panel(
            "First packet to final verdict",
            _quantiles(f"{_COLLECTOR}_verdict_seconds_bucket"),
            "s",
            text="As the collector sees it: wait, queue, transport and models.",
        ),
        Panel(
            "Memory and spool",
            {
                "{{instance}} flows": f"{_COLLECTOR}_memory_bytes",
                "{{instance}} spool": f"{_COLLECTOR}_spool_bytes",
            },
            "bytes",
        ),
        Panel(
            "Flows",
            {
                "{{instance}} open": f"{_COLLECTOR}_open_flows",
                "{{instance}} without verdict": f"{_COLLECTOR}_unsettled_flows",
                "{{instance}} in the spool alone": f"{_COLLECTOR}_spool_waiting_flows",
            },
        ),
        Panel(
            "Service away, sent again",
            {
                "{{instance}} away, s": f"{_COLLECTOR}_service_away_seconds",
                "{{instance}} flows sent again": _rate(
                    f"{_COLLECTOR}_replayed_flows_total", "instance"
                ),
            },
        ),
    ),
}
"""The panels, by row."""


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(_placed({"type": "row", "title": title, "collapsed": False}, 0, y, 24, 1))
        y, x = y + 1, 0
        for panel in row:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + _HEIGHT
            panels.append(_placed(_panel(panel), x, y, panel.width, _HEIGHT))
            x += panel.width
        y += _HEIGHT
    for number, made in enumerate(panels, start=1):
        made["id"] = number
    return {
        "uid": "serveflow",
        "title": "ServeFlow",
        "tags": ["serveflow"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource",
                 "query": "prometheus"}
            ]
        },
        "panels": panels,
    }  # fmt: skip


def _placed(panel: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {**panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 10, "showPoints": "never"}
        if panel.stack:
            custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
        options = {"tooltip": {"mode": "multi"}, "legend": {"placement": "bottom"}}
    defaults = {"unit": panel.unit, "min": 0, "custom": custom}
    if panel.most is not None:
        defaults["max"] = panel.most
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend or "__auto"}
            for i, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text())
    sys.exit(0)
