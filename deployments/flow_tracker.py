"""FlowTracker: one actor per shard of the uncertain flows.

Each is a deployment of one replica, so that a flow's slot leads to one actor by name; when that
actor dies, the next one says so by a new incarnation and the collectors send its flows again.
"""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.local import LocalTracker
from deployments.protocols import CascadeSpec
from deployments.tracker_metrics import TrackerMetrics

__all__ = ["FlowTracker"]


@serve.deployment
class FlowTracker(LocalTracker):
    """Keeps the packets of the uncertain flows that are pinned to it, behind a handle.

    Args:
        spec: The bundle's cascade.
    """

    def __init__(self, spec: CascadeSpec) -> None:
        LocalTracker(spec).warm_up()
        super().__init__(spec)
        self._metrics = TrackerMetrics(serve.get_replica_context().deployment, self.join)

    async def status(self) -> dict[str, Any]:
        """Return the tracker's incarnation and its conservation counters."""
        return {
            "incarnation": self.incarnation,
            "flows_open": self.join.open_flows,
            **self.join.counters.to_dict(),
        }
