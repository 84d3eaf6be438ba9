"""The service's metrics, exported by Ray as ``ray_serveflow_…`` (OpenMetrics)."""

from __future__ import annotations

import asyncio

import numpy as np
from ray.serve import metrics

from deployments.counters import DispatchCounters
from deployments.protocols import CascadeSpec
from flows.packet import Records
from flows.records import joined, picked
from flows.verdict import VERDICT_DTYPE

__all__ = ["Metrics"]

_EVERY_S = 0.5
_QUANTILES = np.linspace(0.05, 0.95, 10)
_BOUNDARIES_S = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class Metrics:
    """Counters and histograms of one Router replica.

    To record one value with Ray costs some 20 µs, so what is counted is published now and then.

    Args:
        spec: The bundle's cascade, for the tiers' names.
        counters: What the dispatcher counts.
    """

    def __init__(self, spec: CascadeSpec, counters: DispatchCounters) -> None:
        self._tiers = spec.tiers
        self._counters = counters
        self._published = counters.copy()
        self._timer: asyncio.TimerHandle | None = None
        self._parts: list[Records] = []
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
        self._refused = metrics.Counter(
            "serveflow_refused_flows_total",
            description="New flows in batches that were refused under overload.",
        )
        self._escalated = metrics.Counter(
            "serveflow_escalated_flows_total", description="Flows that packet 1 did not settle."
        )
        self._wait = metrics.Histogram(
            "serveflow_wait_seconds",
            description="Capture time that final verdicts had to wait for packets; quantiles of "
            "each half second.",
            boundaries=_BOUNDARIES_S,
        )
        self._infer = metrics.Histogram(
            "serveflow_infer_seconds",
            description="Model time of final verdicts; quantiles of each half second.",
            boundaries=_BOUNDARIES_S,
        )

    def verdicts(self, part: Records) -> None:
        """Take in one part of an answer, ``VERDICT_DTYPE [n]``."""
        if len(part):
            self._parts.append(part)

    def changed(self) -> None:
        """Note that counters have changed."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._publish)

    def _publish(self) -> None:
        self._timer = None
        now, last = self._counters, self._published
        _add(self._flows, now.flows_admitted - last.flows_admitted)
        _add(self._refused, now.flows_refused - last.flows_refused)
        _add(self._escalated, now.flows_escalated - last.flows_escalated)
        for outcome in ("applied", "duplicate", "malformed", "shed"):
            name = f"packets_{outcome}"
            _add(self._packets, getattr(now, name) - getattr(last, name), outcome=outcome)
        for (tier, reason), n in now.finals.items():
            more = n - last.finals.get((tier, reason), 0)
            _add(self._verdicts, more, tier=self._tiers[tier], reason=reason.text)
        self._published = now.copy()
        parts = joined(self._parts) if self._parts else np.empty(0, VERDICT_DTYPE)
        self._parts.clear()
        final = picked(parts, parts["final"] == 1)
        if len(final):
            for histogram, name in ((self._wait, "wait_ns"), (self._infer, "infer_ns")):
                for value_ns in np.quantile(final[name], _QUANTILES).tolist():
                    histogram.observe(max(value_ns / 1e9, 1e-9))  # Ray refuses 0


def _add(counter: metrics.Counter, more: int, **tags: str) -> None:
    if more > 0:  # Ray refuses to add 0
        counter.inc(more, tags)
