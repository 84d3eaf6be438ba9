"""How many replicas: as many as keep each one's share of busy time below a target.

Ray Serve's own measure, requests under way, does not fit here: a batch stays open at the Router
until its unsure flows are with their trackers, whether or not there is work to do, and one call to
a model may hold ten flows or ten thousand. What runs out is the one core of a replica's process.
"""

from __future__ import annotations

import time
from typing import Any

from ray.serve.config import AutoscalingContext

__all__ = ["TARGET", "BusyTime", "by_busy_time"]

TARGET = 0.75
"""Share of its time that a replica may be busy. Where service times vary little, as these do, a
share r of busy time makes work wait for r / (2 (1 - r)) of the time that it takes itself (M/D/1):
one and a half times at .75, but four and a half times at .9 (docs/capacity.md)."""

_METRIC = "busy"


class BusyTime:
    """Lets a deployment's replicas tell Ray Serve which share of its time their process works."""

    _last: tuple[float, float] | None = None

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the CPU time per wall-clock time since the last call; Ray Serve calls it."""
        now = time.monotonic(), time.process_time()
        last, self._last = self._last, now
        if last is None or now[0] <= last[0]:
            return {_METRIC: 0.0}
        return {_METRIC: (now[1] - last[1]) / (now[0] - last[0])}


def by_busy_time(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return how many replicas bring the share of busy time to :data:`TARGET`.

    Delays, the least and the most replicas are Ray Serve's to apply; they stand in
    ``serve_config.yaml``.

    Args:
        context: What Ray Serve knows of the deployment.
    """
    told = (context.aggregated_metrics or {}).get(_METRIC, {})
    if not told:
        return context.target_num_replicas, {}
    # Replicas that have not told yet, as they are new, do as much as the others.
    mean = sum(told.values()) / len(told)
    return mean * context.current_num_replicas / TARGET, {}
