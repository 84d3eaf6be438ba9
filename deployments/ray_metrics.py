"""Our metrics with Ray: the table :data:`deployments.metric_names.METRICS` as Ray's own objects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt
from ray.serve import metrics

from deployments.latency_counts import BOUNDS_S
from deployments.metric_names import METRICS

__all__ = ["EVERY_S", "Counted", "Distribution", "Told", "tell_again_and_again"]

_LOG = logging.getLogger(__name__)

EVERY_S = 5.0
"""How often values are told to Ray: it exports them every 10 s, and forgets a gauge after 20."""


async def tell_again_and_again(tell: Callable[[], Awaitable[None]]) -> None:
    """Call ``tell`` every :data:`EVERY_S`; what it raises is logged, and it is called again."""
    while True:
        try:
            await tell()
        except Exception:
            _LOG.exception("metrics could not be told to Ray; they will be tried again")
        await asyncio.sleep(EVERY_S)


class Counted:
    """A counter that is told by its total.

    Args:
        name: Of :data:`METRICS`.
    """

    def __init__(self, name: str) -> None:
        metric = METRICS[name]
        self._counter = metrics.Counter(
            name,
            description=metric.text,
            tag_keys=metric.labels,  # type: ignore[arg-type] # Ray declares a 1-tuple
        )
        self._told: dict[tuple[str, ...], int] = {}

    def tell(self, total: int, **labels: str) -> None:
        """Tell what it has come to."""
        key = tuple(labels.values())
        more = total - self._told.get(key, 0)
        if more > 0:  # Ray refuses to add 0
            self._counter.inc(more, labels)
            self._told[key] = total


class _Gauge:
    """A gauge; Ray forgets it unless it is told again within 20 s, changed or not."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._gauge = metrics.Gauge(
            name,
            description=text,
            tag_keys=labels,  # type: ignore[arg-type] # Ray declares a 1-tuple
        )

    def tell(self, value: float, **labels: str) -> None:
        """Tell its value."""
        self._gauge.set(value, labels)


class Told(_Gauge):
    """A gauge of the table.

    Args:
        name: Of :data:`METRICS`.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, METRICS[name].text, METRICS[name].labels)


class Distribution:
    """A histogram by tier that is told by its counts.

    Ray's own takes one value at a time. So each bucket is a gauge of its own, under the names that
    a histogram has: to Prometheus's queries they are one (docs/decisions/0025-metrics.md).

    Args:
        name: Of :data:`METRICS`.
        tiers: Names of the tiers.
    """

    def __init__(self, name: str, tiers: tuple[str, ...]) -> None:
        metric = METRICS[name]
        self._bucket = _Gauge(f"{name}_bucket", metric.text, (*metric.labels, "le"))
        self._sum = _Gauge(f"{name}_sum", metric.text, metric.labels)
        self._count = _Gauge(f"{name}_count", metric.text, metric.labels)
        self._ends = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
        self._tiers = tiers

    def tell(self, tier: int, counts: npt.NDArray[np.int64], sum_s: float) -> None:
        """Tell what a tier's latencies have come to.

        Args:
            tier: Which one.
            counts: int64 ``[buckets]``.
            sum_s: Seconds.
        """
        name, up_to = self._tiers[tier], counts.cumsum().tolist()
        for end, count in zip(self._ends, up_to, strict=True):
            self._bucket.tell(count, tier=name, le=end)
        self._sum.tell(sum_s, tier=name)
        self._count.tell(up_to[-1], tier=name)
