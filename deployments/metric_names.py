"""Every metric that the service exports: one table for the code, the documents and the dashboard.

Ray puts ``ray_`` before each name and the labels ``application``, ``deployment``, ``replica`` and
its own (``SessionName``, ``NodeAddress``, …) beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["METRICS", "RAY_PREFIX", "Metric", "exported_names"]

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

RAY_PREFIX = "ray_"
_PARTS_OF_HISTOGRAM = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Metric:
    """What is told about a metric.

    Attributes:
        name: Its name, without Ray's prefix.
        kind: What it is.
        text: What it says.
        labels: Its labels, but for Ray's own and a histogram's ``le``.
        by: The deployment that exports it.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    by: str = "Router"


_METRICS = (
    Metric("serveflow_flows_total", "counter", "New flows, judged on packet 1."),
    Metric("serveflow_escalated_flows_total", "counter", "Flows that packet 1 did not settle."),
    Metric(
        "serveflow_verdicts_total",
        "counter",
        "Final verdicts.",
        ("tier", "reason", "model"),
    ),
    Metric("serveflow_packets_total", "counter", "Packets that came in."),
    Metric(
        "serveflow_duplicate_packets_total",
        "counter",
        "Packets that were there already: sent again (replayed) by a collector, or repeated.",
    ),
    Metric("serveflow_malformed_packets_total", "counter", "Packets that make no sense, skipped."),
    Metric(
        "serveflow_shed_packets_total",
        "counter",
        "Packets that a model or tracker did not take; the answer said so, and they come again.",
    ),
    Metric("serveflow_batches_total", "counter", "Batches taken in."),
    Metric("serveflow_refused_batches_total", "counter", "Batches refused under overload."),
    Metric(
        "serveflow_refused_flows_total",
        "counter",
        "New flows in batches that were refused under overload.",
    ),
    Metric("serveflow_malformed_batches_total", "counter", "Bodies that are no packet batch."),
    Metric(
        "serveflow_access_refused_total",
        "counter",
        "Requests refused for want of the right API key, by what was wrong.",
        ("reason",),
    ),
    Metric(
        "serveflow_waiting_flows",
        "gauge",
        "Flows that wait for their first answer; the most since it was told last.",
    ),
    Metric(
        "serveflow_unsettled_flows",
        "gauge",
        "Flows that wait for SlowModel; the most since it was told last.",
    ),
    Metric(
        "serveflow_wait_seconds",
        "histogram",
        "Capture time that a final verdict waited for packets of its flow.",
        ("tier",),
    ),
    Metric(
        "serveflow_queue_seconds",
        "histogram",
        "From the arrival of a final verdict's batch to its leave, without model time: gathering, "
        "transport, other flows.",
        ("tier",),
    ),
    Metric("serveflow_infer_seconds", "histogram", "Model time of a final verdict.", ("tier",)),
    Metric(
        "serveflow_drift_score",
        "gauge",
        "Population stability index of the latest window of final verdicts against the bundle's "
        "validation, over their labels or tiers (reason).",
        ("reason", "model"),
    ),
    Metric("serveflow_model_info", "gauge", "1 for the bundle that is served.", ("model",)),
    Metric(
        "serveflow_tracker_restarts_total",
        "counter",
        "How often a tracker was another one than before, as this Router saw it.",
        ("tracker",),
    ),
    Metric(
        "serveflow_open_flows",
        "gauge",
        "Flows that a tracker holds, without a final verdict.",
        ("tracker",),
        "FlowTracker",
    ),
    Metric(
        "serveflow_lost_flows_total",
        "counter",
        "Flows that a tracker gave up as their collector had gone.",
        ("tracker",),
        "FlowTracker",
    ),
)

METRICS = {metric.name: metric for metric in _METRICS}
"""The metrics, by name."""


def exported_names() -> set[str]:
    """Return the names under which Prometheus finds them."""
    found = set()
    for metric in _METRICS:
        parts = _PARTS_OF_HISTOGRAM if metric.kind == "histogram" else ("",)
        found |= {f"{RAY_PREFIX}{metric.name}{part}" for part in parts}
    return found
