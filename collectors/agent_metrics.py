"""What a collector tells of itself, as metrics for Prometheus: formed from its status on scrape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from collectors.losses import losses
from collectors.status import AgentStatus

__all__ = ["FIELDS", "AgentMetrics"]

_PREFIX = "serveflow_collector_"


@dataclass(frozen=True, slots=True)
class _Field:
    """How a number of the status becomes a metric: a counter if its name ends in ``_total``."""

    name: str
    text: str


FIELDS: dict[str, _Field] = {
    "uptime_s": _Field("uptime_seconds", "Since the collector began."),
    "within_16ms": _Field(
        "verdicts_within_16ms_total", "Final verdicts within 16 ms of their flow's first packet."
    ),
    "seen.frames": _Field("frames_total", "Frames read, those that make no flow included."),
    "seen.captures": _Field("captures_total", "Captures begun."),
    "seen.ring_packets": _Field(
        "ring_packets_total", "Packets that the kernel has put into the ring."
    ),
    "table.packets": _Field("packets_total", "Packets of flows, taken in."),
    "table.flows": _Field("flows_total", "Flows admitted."),
    "table.open_flows": _Field("open_flows", "Flows that have not ended."),
    "table.unsettled_flows": _Field("unsettled_flows", "Flows in memory without a final verdict."),
    "table.memory_bytes": _Field("memory_bytes", "What flows take of memory."),
    "table.limit_bytes": _Field("memory_limit_bytes", "What they may take; 0: no limit."),
    "delivery.batches": _Field("batches_total", "Batches answered to their end."),
    "delivery.in_flight": _Field("batches_in_flight", "Batches on their way."),
    "delivery.failures": _Field("batch_failures_total", "Batches that may not have arrived."),
    "delivery.overloaded": _Field(
        "batches_put_off_total", "Batches that the service put off for having too much to do."
    ),
    "delivery.replayed_flows": _Field("replayed_flows_total", "Flows that were sent again."),
    "delivery.duplicate_packets": _Field(
        "duplicate_packets_total", "Packets that were sent more than once."
    ),
    "delivery.tracker_changes": _Field(
        "tracker_changes_total", "How often a tracker was another one than before."
    ),
    "delivery.away_s": _Field("service_away_seconds", "Since the service answers no more."),
    "spool.spooled_bytes": _Field("spool_written_bytes_total", "Bytes ever written to the spool."),
    "spool.bytes": _Field("spool_bytes", "Bytes that the spool holds."),
    "spool.limit_bytes": _Field("spool_limit_bytes", "Bytes that the spool may hold."),
    "spool.waiting_flows": _Field("spool_waiting_flows", "Flows that are in the spool alone."),
    "spool.recovered_flows": _Field(
        "spool_recovered_flows_total", "Flows that an earlier run had left in the spool."
    ),
    "sinks.written": _Field("sink_written_verdicts_total", "Verdicts that a sink has written."),
    "sinks.waiting": _Field("sink_waiting_verdicts", "Verdicts that wait for a sink."),
}
"""The metric of each number of :class:`AgentStatus` that is no loss."""

_LATENCIES = {
    "wait": _Field("verdict_wait_seconds", "Time of capture that flows waited for their packets."),
    "queue": _Field("verdict_queue_seconds", "Time in batching, transport and queues."),
    "infer": _Field("verdict_infer_seconds", "Time that models took of flows."),
    "total": _Field("verdict_seconds", "Time from a flow's first packet to its final verdict."),
}


class _StatusCollector(Collector):
    """Asks for the status on every scrape."""

    def __init__(self, status: Callable[[], AgentStatus]) -> None:
        self._status = status

    def describe(self) -> list[Metric]:
        """Return nothing: the registry need not ask for a status to know names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        status = self._status()
        for path, field in FIELDS.items():
            yield from _numbers(status, path, field)
        yield _by_label("verdicts_total", "Final verdicts, by reason.", "reason", status.verdicts)
        yield _by_label("tier_verdicts_total", "Final verdicts, by tier.", "tier", status.tiers)
        yield _by_label(
            "skipped_frames_total",
            "Frames that make no flow, those included that none was to be expected of.",
            "reason",
            status.seen.skipped,
        )
        yield _lost(status)
        if status.model_version:
            model = GaugeMetricFamily(
                f"{_PREFIX}model_info", "The bundle that judged last.", labels=["model"]
            )
            model.add_metric([status.model_version], 1)
            yield model
        for part, field in _LATENCIES.items():
            yield from _latency(status, part, field)


def _numbers(status: AgentStatus, path: str, field: _Field) -> Iterator[Metric]:
    part, _, name = path.rpartition(".")
    if part == "sinks":
        family = _family(field, ["sink"])
        for sink in status.sinks:
            family.add_metric([sink.name], getattr(sink, name))
        yield family
        return
    place: Any = getattr(status, part) if part else status
    if place is not None:  # there may be no spool
        family = _family(field, [])
        family.add_metric([], getattr(place, name))
        yield family


def _family(field: _Field, labels: list[str]) -> Any:
    kind = CounterMetricFamily if field.name.endswith("_total") else GaugeMetricFamily
    return kind(f"{_PREFIX}{field.name}", field.text, labels=labels)


def _by_label(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    family = _family(_Field(name, text), [label])
    for value, count in counts.items():
        family.add_metric([value], count)
    found: Metric = family
    return found


def _lost(status: AgentStatus) -> Metric:
    family = CounterMetricFamily(
        f"{_PREFIX}lost_total", "What was lost, by hop and reason; the reason's last word is the "
        "unit.",
    )  # fmt: skip
    for loss in losses(status):
        labels = {"hop": loss.hop, "reason": loss.reason}
        if loss.sink:
            labels["sink"] = loss.sink
        family.add_sample(f"{_PREFIX}lost_total", labels, loss.count)
    return family


def _latency(status: AgentStatus, part: str, field: _Field) -> Iterator[Metric]:
    counts = status.latency_counts.get(part)
    if not counts:
        return
    family = HistogramMetricFamily(f"{_PREFIX}{field.name}", field.text)
    buckets = [
        ("+Inf" if math.isinf(most_ms) else f"{most_ms / 1e3:.6g}", float(count))
        for most_ms, count in sorted(counts.items())
    ]
    family.add_metric([], buckets, status.latency_sum_ms.get(part, 0.0) / 1e3)
    yield family


class AgentMetrics:
    """Forms the text that Prometheus reads: in the OpenMetrics format if it asks for that.

    Args:
        status: Tells how the collector is; asked on every scrape.
    """

    def __init__(self, status: Callable[[], AgentStatus]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_StatusCollector(status))
        ProcessCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return what is scraped, and its content type.

        Args:
            accept: The request's header ``Accept``.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
