"""The Router's metrics, exported by Ray as ``ray_serveflow_…``; docs/monitoring.md lists them."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from deployments.dispatch import Dispatcher
from deployments.drift_watch import DriftWatch
from deployments.latency_counts import PARTS, LatencyCounts
from deployments.protocols import CascadeSpec
from deployments.ray_metrics import Counted, Distribution, Told, tell_again_and_again
from flows.packet import Records
from flows.records import joined, picked
from models.drift import DriftReference

__all__ = ["Metrics"]

_AT_ONCE = 4_096  # verdicts that are counted at a time: one by one they cost more, later they block

_COUNTED = {
    "serveflow_flows_total": "flows_admitted",
    "serveflow_escalated_flows_total": "flows_escalated",
    "serveflow_packets_total": "packets_in",
    "serveflow_duplicate_packets_total": "packets_duplicate",
    "serveflow_malformed_packets_total": "packets_malformed",
    "serveflow_shed_packets_total": "packets_shed",
    "serveflow_batches_total": "batches",
    "serveflow_refused_batches_total": "batches_refused",
    "serveflow_refused_flows_total": "flows_refused",
    "serveflow_malformed_batches_total": "batches_malformed",
}
"""What is counted by :class:`deployments.counters.DispatchCounters`."""


class Metrics:
    """What one Router replica tells Ray, now and then, in its event loop.

    Args:
        spec: The bundle's cascade.
        dispatcher: Counts what happens.
        reference: What the bundle's cascade says in validation; None: drift is not watched.
    """

    def __init__(
        self, spec: CascadeSpec, dispatcher: Dispatcher, reference: DriftReference | None
    ) -> None:
        self._spec = spec
        self._dispatcher = dispatcher
        self._drift = DriftWatch(reference) if reference is not None else None
        self._latencies = LatencyCounts(len(spec.tiers))
        self._finals: list[Records] = []
        self._stayed_ns: list[npt.NDArray[np.int64]] = []
        self._kept = 0  # verdicts that are not counted yet
        self._most_waiting = self._most_unsettled = 0
        self._counted = {name: Counted(name) for name in _COUNTED}
        self._verdicts = Counted("serveflow_verdicts_total")
        self._restarts = Counted("serveflow_tracker_restarts_total")
        self._waiting = Told("serveflow_waiting_flows")
        self._unsettled = Told("serveflow_unsettled_flows")
        self._score = Told("serveflow_drift_score")
        self._model = Told("serveflow_model_info")
        self._distributions = {
            part: Distribution(f"serveflow_{part}_seconds", spec.tiers) for part in PARTS
        }
        self._task = asyncio.get_running_loop().create_task(tell_again_and_again(self._publish))

    def verdicts(self, part: Records, stayed_ns: int) -> None:
        """Take in one part of an answer.

        Args:
            part: ``VERDICT_DTYPE [n]``.
            stayed_ns: Since its batch came.
        """
        self._look()
        final = picked(part, part["final"] == 1)
        if len(final):
            self._finals.append(final)
            self._stayed_ns.append(np.full(len(final), stayed_ns))
            self._kept += len(final)
            if self._kept >= _AT_ONCE:
                self._count()

    def changed(self) -> None:
        """Note that queues may be longer than before."""
        self._look()

    def _look(self) -> None:
        self._most_waiting = max(self._most_waiting, self._dispatcher.waiting_flows)
        self._most_unsettled = max(self._most_unsettled, self._dispatcher.unsettled_flows)

    def _count(self) -> None:
        if not self._kept:
            return
        finals, stayed_ns = joined(self._finals), np.concatenate(self._stayed_ns)
        self._finals, self._stayed_ns, self._kept = [], [], 0
        self._latencies.add(finals, stayed_ns)
        if self._drift is not None:
            self._drift.add(finals)

    async def _publish(self) -> None:
        """Tell Ray all there is; in pieces, as batches must not wait for it."""
        self._count()
        counters = self._dispatcher.counters.copy()
        for name, counter in self._counted.items():
            counter.tell(getattr(counters, _COUNTED[name]))
        model = self._spec.model_version
        for (tier, reason), n in counters.finals.items():
            self._verdicts.tell(n, tier=self._spec.tiers[tier], reason=reason.text, model=model)
        for tracker, n in counters.tracker_restarts.items():
            self._restarts.tell(n, tracker=str(tracker))
        self._model.tell(1, model=model)
        self._waiting.tell(self._most_waiting)
        self._unsettled.tell(self._most_unsettled)
        self._most_waiting, self._most_unsettled = 0, 0
        if self._drift is not None:
            for kind, score in self._drift.scores.items():
                self._score.tell(score, reason=kind, model=model)
        for part, distribution in self._distributions.items():
            for t in range(len(self._spec.tiers)):
                await asyncio.sleep(0)
                counts, sums_s = self._latencies.counts[part], self._latencies.sums_s[part]
                distribution.tell(t, counts[t], float(sums_s[t]))
