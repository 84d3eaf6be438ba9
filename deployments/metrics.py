"""The service's metrics, exported by Ray as ``ray_serveflow_…`` (OpenMetrics)."""

from __future__ import annotations

import time

import numpy as np
from ray.serve import metrics

from deployments.counters import DispatchCounters
from deployments.protocols import CascadeSpec
from flows.packet import Records
from flows.verdict import Reason

__all__ = ["Metrics"]

_EVERY_S = 0.5  # counters are published so often at most
_BOUNDARIES_S = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class Metrics:
    """Counters and histograms of one Router replica.

    Args:
        spec: The bundle's cascade, for the tiers' names.
    """

    def __init__(self, spec: CascadeSpec) -> None:
        self._tiers = spec.tiers
        self._published = DispatchCounters()
        self._published_at_s = 0.0
        self._flows = metrics.Counter(
            "serveflow_flows_total", description="Flows whose first packet was judged."
        )
        self._packets = metrics.Counter(
            "serveflow_packets_total",
            description="Packets by what became of them.",
            tag_keys=("outcome",),
        )
        self._verdicts = metrics.Counter(
            "serveflow_verdicts_total",
            description="Final verdicts.",
            tag_keys=("tier", "reason"),  # type: ignore[arg-type] # Ray declares a 1-tuple
        )
        self._escalated = metrics.Counter(
            "serveflow_escalated_flows_total", description="Flows that packet 1 did not settle."
        )
        self._wait = metrics.Histogram(
            "serveflow_wait_seconds",
            description="Capture time that a final verdict had to wait for packets, mean per part.",
            boundaries=_BOUNDARIES_S,
        )
        self._infer = metrics.Histogram(
            "serveflow_infer_seconds",
            description="Model time of a part's verdicts, mean per part.",
            boundaries=_BOUNDARIES_S,
        )

    def verdicts(self, part: Records) -> None:
        """Count the final verdicts of one part, ``VERDICT_DTYPE [n]``."""
        final = part[part["final"] == 1]
        if not len(final):
            return
        keys = final["tier"].astype(np.int64) * 256 + final["reason"]
        for key, n in zip(*np.unique(keys, return_counts=True), strict=True):
            tier, reason = divmod(int(key), 256)
            tags = {"tier": self._tiers[tier], "reason": Reason(reason).text}
            self._verdicts.inc(int(n), tags)
        self._wait.observe(max(float(final["wait_ns"].mean()) / 1e9, 1e-9))
        self._infer.observe(max(float(final["infer_ns"].mean()) / 1e9, 1e-9))

    def counters(self, now: DispatchCounters) -> None:
        """Publish what the dispatcher has counted since the last time."""
        if time.monotonic() - self._published_at_s < _EVERY_S:
            return
        self._published_at_s = time.monotonic()
        last = self._published
        _add(self._flows, now.flows_admitted - last.flows_admitted)
        _add(self._escalated, now.flows_escalated - last.flows_escalated)
        for outcome in ("applied", "duplicate", "malformed", "shed"):
            name = f"packets_{outcome}"
            _add(self._packets, getattr(now, name) - getattr(last, name), outcome=outcome)
        self._published = DispatchCounters(**now.to_dict())


def _add(counter: metrics.Counter, more: int, **tags: str) -> None:
    if more > 0:  # Ray refuses to add 0
        counter.inc(more, tags)
