"""FlowTracker: one actor per shard of the uncertain flows.

Each is a deployment of one replica, so that a flow's slot leads to one actor by name; when that
actor dies, the next one says so by a new incarnation and the collectors send its flows again.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve

from deployments.local import LocalTracker
from deployments.packed import PackedAbsorb, PackedAbsorbed, pack_absorbed, unpack_absorb
from deployments.protocols import Absorb, Absorbed, CascadeSpec
from deployments.tracker_metrics import TrackerMetrics
from flows.failpoints import failpoint

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
        self._exit = failpoint("tracker_exit")
        self._metrics = TrackerMetrics(serve.get_replica_context().deployment, self.join)

    async def absorb(self, requests: list[Absorb]) -> list[Absorbed]:
        """See :class:`deployments.protocols.Tracker`."""
        if self._exit is not None and self._exit.reached():
            os._exit(1)
        return await super().absorb(requests)

    async def absorb_packed(self, requests: list[PackedAbsorb]) -> list[PackedAbsorbed]:
        """Take packets and marks in as :meth:`absorb` does."""
        replies = await self.absorb([unpack_absorb(request) for request in requests])
        return [pack_absorbed(reply) for reply in replies]

    async def status(self) -> dict[str, Any]:
        """Return the tracker's incarnation and its conservation counters."""
        return {
            "incarnation": self.incarnation,
            "flows_open": self.join.open_flows,
            **self.join.counters.to_dict(),
        }
