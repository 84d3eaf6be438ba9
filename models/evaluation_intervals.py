"""How far figures would move on other captures: the bootstrap over captures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation_answers import Study, Way
from models.metrics import WITHIN_MS, f1_from_counts

__all__ = ["intervals", "resampled"]

_DRAWS = 500
_LEVEL = 0.9
_SEED = 0
_FIGURES = ("weighted_f1", "macro_f1", "answered_within_16ms")


def intervals(
    study: Study, *, draws: int = _DRAWS, level: float = _LEVEL, seed: int = _SEED
) -> dict[str, Any] | None:
    """Return intervals of the figures and of the difference of cascade and slow-only.

    Whole captures are drawn anew with replacement (the cluster bootstrap, Field and Welsh 2007;
    percentile intervals, Efron 1979): flows of one capture are right or wrong together. The
    difference is taken draw by draw, so what both ways share does not widen it. With a handful of
    captures there are few different draws, and intervals come out too narrow rather than too wide.

    Args:
        study: What was said of the flows.
        draws: Sets of captures that are drawn.
        level: Share of the draws that lies within an interval.
        seed: Of the drawing.

    Returns:
        ``level``, ``draws``, ``captures``, and for ``cascade``, ``slow_only`` and ``difference``
        (cascade - slow-only) by figure ``estimate``, ``low`` and ``high``. None of fewer than 2
        captures: nothing can be said.
    """
    found, at = np.unique(study.groups, return_inverse=True)
    if len(found) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(found), np.full(len(found), 1.0 / len(found)), size=draws)
    weights = np.vstack([np.ones(len(found)), drawn])
    cascade = resampled(study, study.cascade, at, weights)
    slow = resampled(study, study.slow_only, at, weights)
    ends = ((1.0 - level) / 2, (1.0 + level) / 2)

    def summary(values: npt.NDArray[np.float64]) -> dict[str, Any]:
        low, high = np.quantile(values[1:], ends, axis=0)
        return {
            name: {
                "estimate": round(float(values[0, i]), 4),
                "low": round(float(low[i]), 4),
                "high": round(float(high[i]), 4),
            }
            for i, name in enumerate(_FIGURES)
        }

    return {
        "level": level,
        "draws": draws,
        "captures": len(found),
        "cascade": summary(cascade),
        "slow_only": summary(slow),
        "difference": summary(cascade - slow),
    }


def resampled(
    study: Study, way: Way, groups: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return weighted F1, macro F1 and the share answered within 16 ms for weighted captures.

    Args:
        study: The true labels.
        way: What was said of the flows.
        groups: Capture of each flow, int64 ``[n]``, from 0.
        weights: How often each capture counts, float64 ``[draws, captures]``.

    Returns:
        float64 ``[draws, 3]``, by the definitions of :func:`models.metrics.f1_scores`.
    """
    classes = len(study.names)

    def per_capture(labels: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        counts = np.bincount(at * classes + labels, minlength=weights.shape[1] * classes)
        return weights @ counts.reshape(weights.shape[1], classes)

    right = way.said == study.true
    hits = per_capture(study.true[right], groups[right])
    support = per_capture(study.true, groups)
    claimed = per_capture(way.said, groups)
    f1 = f1_from_counts(hits, support, claimed)
    flows = support.sum(axis=1)
    # A class that neither occurs nor is claimed in a draw is none of its classes.
    there = np.maximum((support + claimed > 0).sum(axis=1), 1)
    soon = np.bincount(groups, weights=way.latency_ms <= WITHIN_MS, minlength=weights.shape[1])
    return np.stack(
        [(f1 * support).sum(axis=1) / flows, f1.sum(axis=1) / there, weights @ soon / flows], axis=1
    )
