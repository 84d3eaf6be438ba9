"""Latencies of verdicts, counted exactly and without a call per verdict. No Ray."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.packet import Records

__all__ = ["BOUNDS_S", "PARTS", "LatencyCounts"]

BOUNDS_S = tuple(float(f"{10 ** (i / 4):.3g}") for i in range(-16, 9))
"""Upper ends of the buckets, seconds: .1 ms to 100 s in steps of the fourth root of 10."""

PARTS = ("wait", "queue", "infer")
"""Into which a verdict's latency is taken apart, see :class:`LatencyCounts`."""

_BOUNDS_NS = np.array([round(bound * 1e9) for bound in BOUNDS_S], np.int64)
_BUCKETS = len(BOUNDS_S) + 1  # the last one has no upper end


class LatencyCounts:
    """Counts final verdicts by tier and latency.

    *wait* is for the flow's own packets (capture time), *infer* model time, and *queue* the rest of
    the time from a batch's arrival to the verdict's leave: gathering, transport, other flows.

    Args:
        tiers: Number of tiers.

    Attributes:
        counts: By part, int64 ``[tiers, buckets]``.
        sums_s: By part, seconds, float64 ``[tiers]``.
    """

    def __init__(self, tiers: int) -> None:
        self._tiers = tiers
        self.counts = {part: np.zeros((tiers, _BUCKETS), np.int64) for part in PARTS}
        self.sums_s = {part: np.zeros(tiers) for part in PARTS}

    def add(self, finals: Records, stayed_ns: npt.NDArray[np.int64]) -> None:
        """Take final verdicts in.

        Args:
            finals: ``VERDICT_DTYPE [n]``.
            stayed_ns: From their batch's arrival to their leave, int64 ``[n]``.
        """
        tier = finals["tier"].astype(np.int64)
        queue_ns = np.maximum(stayed_ns - finals["infer_ns"], 0)
        for part, ns in (
            ("wait", finals["wait_ns"]),
            ("queue", queue_ns),
            ("infer", finals["infer_ns"]),
        ):
            at = tier * _BUCKETS + np.searchsorted(_BOUNDS_NS, ns, side="left")
            counts = np.bincount(at, minlength=self._tiers * _BUCKETS)
            self.counts[part] += counts.reshape(self._tiers, _BUCKETS)
            self.sums_s[part] += np.bincount(tier, ns, self._tiers) / 1e9
