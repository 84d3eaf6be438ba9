"""A FlowTracker's metrics, exported by Ray as ``ray_serveflow_…``."""

from __future__ import annotations

import asyncio

from deployments.ray_metrics import Counted, Told, tell_again_and_again
from flows.join import Join

__all__ = ["TrackerMetrics"]


class TrackerMetrics:
    """What one tracker tells Ray, now and then, in its event loop.

    Args:
        deployment: Its deployment's name, which ends in the tracker's number.
        join: Its state.
    """

    def __init__(self, deployment: str, join: Join) -> None:
        self._tracker = deployment.rpartition("-")[2]
        self._join = join
        self._open = Told("serveflow_open_flows")
        self._lost = Counted("serveflow_lost_flows_total")
        self._task = asyncio.get_running_loop().create_task(tell_again_and_again(self._publish))

    async def _publish(self) -> None:
        self._open.tell(self._join.open_flows, tracker=self._tracker)
        self._lost.tell(self._join.counters.flows_lost, tracker=self._tracker)
