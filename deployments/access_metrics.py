"""Refusals as metrics, which Ray exports as ``ray_serveflow_…``."""

from __future__ import annotations

from ray.serve import metrics

from deployments.metric_names import METRICS

__all__ = ["AccessMetrics"]


class AccessMetrics:
    """The counter of one Router replica: a refusal costs some 20 µs, who is let in nothing."""

    def __init__(self) -> None:
        told = METRICS["serveflow_access_refused_total"]
        self._refused = metrics.Counter(told.name, told.text, tag_keys=("reason",))

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.inc(1, {"reason": reason})
