"""Which flows move on to a deeper tier: thresholds found on flows that no tier was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from models.metrics import f1_from_counts

__all__ = ["NEVER", "Assignment", "Judgements", "assign", "route"]

NEVER = 2.0
"""A threshold that no confidence reaches."""

_RESAMPLES = 200
_BOUND = 0.9  # one-sided
_TRIALS = 4_000  # combinations of thresholds on a coarse grid
_SWEEPS = 3  # then of each tier in turn, on a fine one
_FINE = 150


@dataclass(frozen=True, slots=True)
class Judgements:
    """What one tier says of flows that it was not trained on.

    Attributes:
        labels: Class that it names, int64 ``[n]``.
        confidence: Calibrated, float32 ``[n]``.
        depth: First packets that it judges.
        wait_ns: How long each flow waits for those, int64 ``[n]``.
    """

    labels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    depth: int
    wait_ns: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Thresholds, and what they are expected to cost and bring.

    Attributes:
        thresholds: Of all tiers but the deepest.
        loss: Loss of weighted F1 against the deepest tier alone; less than 0: a gain.
        loss_bound: Upper bound (one-sided 90 %, by resampling groups) of the loss of weighted F1
            and of that of accuracy, whichever is greater.
        early: Share of the flows that are answered before the deepest tier.
        wait: Mean logarithm of 1 + milliseconds that flows wait: what is made small. A factor
            counts the same at 10 ms and at 1 s, and no wait at all counts most.
    """

    thresholds: tuple[float, ...]
    loss: float
    loss_bound: float
    early: float
    wait: float


def route(
    tiers: Sequence[Judgements], sizes: npt.NDArray[np.int64], thresholds: Sequence[float]
) -> npt.NDArray[np.int64]:
    """Return the tier that answers each flow, int64 ``[n]``; as ``Cascade.answer`` does.

    Args:
        tiers: All tiers, shallowest first.
        sizes: Packets of each flow that count, int64 ``[n]``.
        thresholds: Of all tiers but the deepest.
    """
    last = len(tiers) - 1
    answered_by = np.full(len(sizes), last)
    # Backwards, so that the first tier that is sure has the last word.
    for t in range(last - 1, -1, -1):
        there = sizes >= tiers[t].depth
        answered_by[~there] = last  # once packets are short, no tier in between is asked
        answered_by[there & (tiers[t].confidence >= thresholds[t])] = t
    return answered_by


def assign(
    true: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    tiers: Sequence[Judgements],
    sizes: npt.NDArray[np.int64],
    *,
    budget: float = 0.005,
    seed: int = 0,
) -> Assignment:
    """Find the thresholds that answer flows the soonest at a bounded loss.

    The loss is bounded on whole groups drawn anew with replacement: flows of one capture are
    right or wrong together, and taken as independent they would promise too much.

    Args:
        true: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
        tiers: What each tier says, shallowest first.
        sizes: Packets of each flow that count, int64 ``[n]``.
        budget: Most that the bound may be, in weighted F1 and in accuracy.
        seed: Of the drawing.
    """
    search = _Search(_Judge(true, groups, seed), tiers, sizes, budget)
    fast = len(tiers) - 1
    per_tier = max(2, int(_TRIALS ** (1.0 / max(fast, 1))))
    for thresholds in product(*(_candidates(tier.confidence, per_tier) for tier in tiers[:-1])):
        search.offer(thresholds)
    for _ in range(_SWEEPS):
        for t in range(fast - 1, -1, -1):
            for threshold in _candidates(tiers[t].confidence, _FINE):
                now = search.best.thresholds
                search.offer((*now[:t], threshold, *now[t + 1 :]))
    return search.best


class _Search:
    """Keeps the best thresholds of those that were offered."""

    def __init__(
        self,
        judge: _Judge,
        tiers: Sequence[Judgements],
        sizes: npt.NDArray[np.int64],
        budget: float,
    ) -> None:
        self._judge = judge
        self._tiers = tiers
        self._sizes = sizes
        self._budget = budget
        self._labels = np.stack([tier.labels for tier in tiers])
        self._base = judge.scores(tiers[-1].labels)
        self._waits = np.stack([np.log1p(tier.wait_ns / 1e6) for tier in tiers])
        never = (NEVER,) * (len(tiers) - 1)
        self.best = Assignment(never, 0.0, 0.0, 0.0, float(self._waits[-1].mean()))
        self._key = (self.best.wait, float(len(tiers) - 1))

    def offer(self, thresholds: tuple[float, ...]) -> None:
        answered_by = route(self._tiers, self._sizes, thresholds)
        rows = np.arange(len(answered_by))
        wait = float(self._waits[answered_by, rows].mean())
        # Of equally long waits, the one with the cheaper tiers.
        key = (wait, float(answered_by.mean()))
        if key >= self._key:
            return
        losses = self._base - self._judge.scores(self._labels[answered_by, rows])
        bound = float(np.quantile(losses[1:], _BOUND, axis=0).max())
        if bound <= self._budget:
            early = float((answered_by < len(self._tiers) - 1).mean())
            self.best = Assignment(thresholds, float(losses[0, 0]), bound, early, wait)
            self._key = key


class _Judge:
    """Scores labels on all groups and on groups drawn anew."""

    def __init__(
        self, true: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], seed: int
    ) -> None:
        names, self._at = np.unique(groups, return_inverse=True)
        self._groups = len(names)
        self._true = true
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(
            self._groups, np.full(self._groups, 1.0 / self._groups), size=_RESAMPLES
        )
        self._weights = np.vstack([np.ones(self._groups), drawn])

    def scores(self, said: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return weighted F1 and accuracy, float64 ``[1 + resamples, 2]``, of all groups first."""
        classes = int(max(self._true.max(), said.max())) + 1
        right = said == self._true
        hits = self._weights @ self._count(self._true[right], self._at[right], classes)
        support = self._weights @ self._count(self._true, self._at, classes)
        claimed = self._weights @ self._count(said, self._at, classes)
        total = support.sum(axis=1)
        weighted = (f1_from_counts(hits, support, claimed) * support).sum(axis=1) / total
        return np.stack([weighted, hits.sum(axis=1) / total], axis=1)

    def _count(
        self, labels: npt.NDArray[np.int64], at: npt.NDArray[np.int64], classes: int
    ) -> npt.NDArray[np.float64]:
        counts = np.bincount(at * classes + labels, minlength=self._groups * classes)
        return counts.reshape(self._groups, classes).astype(np.float64)


def _candidates(confidence: npt.NDArray[np.float32], most: int) -> list[float]:
    """Return thresholds to try, greatest first, ``NEVER`` included."""
    at = np.linspace(0.0, 1.0, most - 1)
    found = np.unique(np.quantile(confidence, at, method="nearest"))
    return [NEVER, *(float(value) for value in found[::-1])]
