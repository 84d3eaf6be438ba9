"""A FlowTracker's metrics, exported by Ray as ``ray_serveflow_…``."""

from __future__ import annotations

import asyncio

from deployments.ray_metrics import EVERY_S, Counted, Told
from flows.join import Join

__all__ = ["TrackerMetrics"]


class TrackerMetrics:
    """What one tracker tells Ray, now and then.

    Args:
        deployment: Its deployment's name, which ends in the tracker's number.
        join: Its state.
    """

    def __init__(self, deployment: str, join: Join) -> None:
        self._tracker = deployment.rpartition("-")[2]
        self._join = join
        self._timer: asyncio.TimerHandle | None = None
        self._open = Told("serveflow_open_flows")
        self._lost = Counted("serveflow_lost_flows_total")
        self._publish()

    def changed(self) -> None:
        """Note that the state has changed."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._publish)

    def _publish(self) -> None:
        self._timer = None
        self._open.tell(self._join.open_flows, tracker=self._tracker)
        self._lost.tell(self._join.counters.flows_lost, tracker=self._tracker)
