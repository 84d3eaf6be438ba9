"""Adds final verdicts up in a memory that does not grow, however long a collector runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from collectors.exchange import Settled
from flows.verdict import Reason

__all__ = ["LATENCY_PARTS", "LatencyCounts", "VerdictTally"]

LATENCY_PARTS = ("wait", "queue", "infer", "total")
"""Into which a verdict's latency is taken apart; the last one is the sum of the others."""

_PER_DECADE = 100  # so a percentile is off by 1.2 % at most
_LOWEST_MS, _DECADES = 1e-3, 9
_EDGES_MS = _LOWEST_MS * 10 ** (np.arange(_DECADES * _PER_DECADE + 1) / _PER_DECADE)


class LatencyCounts:
    """How many latencies lie where, from 1 µs to 1,000,000 s on a logarithmic scale."""

    def __init__(self) -> None:
        # Below the lowest edge, between edges, above the highest one.
        self._counts = np.zeros(len(_EDGES_MS) + 1, np.int64)
        self.sum_ms = 0.0

    @property
    def total(self) -> int:
        """How many there are."""
        return int(self._counts.sum())

    def add(self, ms: npt.NDArray[np.float64]) -> None:
        """Take latencies in, milliseconds, float64 ``[n]``."""
        at = np.searchsorted(_EDGES_MS, ms, side="left")
        self._counts += np.bincount(at, minlength=len(self._counts))
        self.sum_ms += float(ms.sum())

    def up_to(self, ms: float) -> int:
        """Return how many are at most ``ms``, within the width of a step."""
        return int(self._counts[: np.searchsorted(_EDGES_MS, ms, side="right")].sum())

    def percentile(self, percent: float) -> float | None:
        """Return what ``percent`` of them are at most, milliseconds; None: there are none."""
        total = self.total
        if not total:
            return None
        rank = percent / 100.0 * total
        at = int(np.searchsorted(np.cumsum(self._counts), max(rank, 1.0)))
        return float(_EDGES_MS[min(at, len(_EDGES_MS) - 1)]) if at else 0.0


class VerdictTally:
    """Sums of final verdicts.

    Attributes:
        final: Verdicts.
        reasons: Verdicts by reason.
        tiers: Verdicts by tier.
        labels: Verdicts by label.
        latency: By part, see :data:`LATENCY_PARTS`.
    """

    def __init__(self) -> None:
        self.final = 0
        self.reasons: Counter[str] = Counter()
        self.tiers: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.latency = {part: LatencyCounts() for part in LATENCY_PARTS}

    def add(self, settled: Settled, classes: tuple[str, ...], tiers: tuple[str, ...]) -> None:
        """Take flows in that got their final verdict.

        Args:
            settled: The flows.
            classes: Names of the labels.
            tiers: Names of the tiers.
        """
        verdicts = settled.verdicts
        self.final += len(verdicts)
        _count(self.reasons, verdicts["reason"], tuple(reason.text for reason in Reason))
        _count(self.tiers, verdicts["tier"], tiers)
        _count(self.labels, verdicts["label"], classes)
        wait_ns, queue_ns, infer_ns = verdicts["wait_ns"], settled.queue_ns, settled.infer_ns
        parts_ns = (wait_ns, queue_ns, infer_ns, wait_ns + queue_ns + infer_ns)
        for name, ns in zip(LATENCY_PARTS, parts_ns, strict=True):
            self.latency[name].add(ns / 1e6)


def _count(sums: Counter[str], codes: npt.NDArray[np.integer], names: tuple[str, ...]) -> None:
    counts = np.bincount(codes, minlength=len(names))
    for code in np.flatnonzero(counts):
        sums[names[code] if code < len(names) else str(code)] += int(counts[code])
