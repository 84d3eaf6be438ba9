"""Scores with their uncertainty: on groups drawn anew."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.metrics import f1_from_counts

__all__ = ["CONFIDENCE", "Resampled"]

CONFIDENCE = 0.9
"""Of all bounds, one-sided."""

_RESAMPLES = 200


class Resampled:
    """Scores labels on all groups, and on as many groups drawn anew with replacement.

    Flows of one capture are right or wrong together, so whole groups are drawn (cluster bootstrap,
    Field and Welsh 2007).

    Args:
        true: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
        classes: Number of classes.
        seed: Of the drawing.
    """

    def __init__(
        self, true: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], classes: int, seed: int
    ) -> None:
        names, self._at = np.unique(groups, return_inverse=True)
        self._groups = len(names)
        self._classes = classes
        self._true = true
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(
            self._groups, np.full(self._groups, 1.0 / self._groups), size=_RESAMPLES
        )
        self._weights = np.vstack([np.ones(self._groups), drawn]).astype(np.float32)
        self._support = self._weights @ self._count(true, self._at)

    def seen(self, said: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return weighted F1 and accuracy of all groups, float64 ``[2]``."""
        hits = np.bincount(said[said == self._true], minlength=self._classes)
        claimed = np.bincount(said, minlength=self._classes)
        support = self._support[0]
        weighted = f1_from_counts(hits, support, claimed) @ support
        return np.array([weighted, hits.sum()]) / len(said)

    def scores(self, said: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return weighted F1 and accuracy, float64 ``[1 + resamples, 2]``, of all groups first."""
        right = said == self._true
        counts = [self._count(said[right], self._at[right]), self._count(said, self._at)]
        # Counts are whole numbers well within what float32 holds exactly.
        hits, claimed = np.split(self._weights @ np.hstack(counts), 2, axis=1)
        support = self._support
        total = support.sum(axis=1, dtype=np.float64)
        weighted = (f1_from_counts(hits, support, claimed) * support).sum(axis=1) / total
        return np.stack([weighted, hits.sum(axis=1, dtype=np.float64) / total], axis=1)

    def _count(
        self, labels: npt.NDArray[np.int64], at: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        counts = np.bincount(at * self._classes + labels, minlength=self._groups * self._classes)
        return counts.reshape(self._groups, self._classes).astype(np.float32)
