"""Three ways of telling how sure a model is, compared; the runtime uses the first.

Least confidence, margin and entropy (Settles 2009, Active Learning Literature Survey, ch. 2),
each calibrated to a probability of being right, and each worth what its risk-coverage curve says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.calibration import fit_calibration

__all__ = ["SCORES", "calibrated", "certainty", "risk_coverage", "risk_coverage_area"]

SCORES = ("least_confidence", "margin", "entropy")
"""Names of the ways; ``least_confidence`` goes by the score of the top class."""


def certainty(scores: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """Return how sure a model is by one of :data:`SCORES`, float32 ``[n]`` within [0, 1].

    Args:
        scores: Probability of each class, float32 ``[n, classes]``; at least two classes.
        name: The score of the top class (``least_confidence``), its lead over the second
            (``margin``), or how far the entropy is from its greatest (``entropy``).

    Raises:
        ValueError: Nobody knows ``name``.
    """
    if name == "least_confidence":
        return np.asarray(scores.max(axis=1))
    if name == "margin":
        top = np.partition(scores, -2, axis=1)
        return np.asarray(top[:, -1] - top[:, -2])
    if name == "entropy":
        p = scores.astype(np.float64)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        return np.clip(1.0 - entropy / np.log(p.shape[1]), 0.0, 1.0).astype(np.float32)
    raise ValueError(f"{name} is none of {', '.join(SCORES)}")


def risk_coverage_area(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float:
    """Return the area under the risk-coverage curve (Geifman and El-Yaniv 2017); less is better.

    The curve says which share of the surest flows is wrong, at each share of flows that are
    answered. Flows of equal confidence count as drawn in any order.

    Args:
        confidence: float32 ``[n]``; only its order matters.
        right: Whether each label was right, ``[n]``.

    Raises:
        ValueError: There are no flows.
    """
    if not len(right):
        raise ValueError("a risk-coverage curve needs at least one flow")
    _, at, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(at, weights=~right)
    covered = np.arange(1, len(right) + 1)
    # Within a block of equals the expected number of wrong ones grows evenly.
    errors = np.interp(covered, [0, *np.cumsum(size)], [0.0, *np.cumsum(wrong)])
    return float((errors / covered).mean())


def risk_coverage(
    scores: npt.NDArray[np.float32], true: npt.NDArray[np.int64], fold: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return the area under the risk-coverage curve of each of :data:`SCORES`.

    Each is calibrated on the other folds first: a probability of being right on flows that
    neither the model nor its calibration has seen.

    Args:
        scores: Of flows that the model was not trained on, float32 ``[n, classes]``.
        true: Class of each flow, int64 ``[n]``.
        fold: Fold of each flow, int64 ``[n]``; at least two.
    """
    right = scores.argmax(axis=1) == true
    return {
        name: risk_coverage_area(calibrated(certainty(scores, name), right, fold), right)
        for name in SCORES
    }


def calibrated(
    sure: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return each flow's probability of being right by a calibration fitted to the other folds.

    Args:
        sure: How sure the model is, float32 ``[n]``.
        right: Whether its label was right, ``[n]``.
        fold: Fold of each flow, int64 ``[n]``; at least two.

    Returns:
        float32 ``[n]``.
    """
    confidence = np.zeros(len(sure), np.float32)
    for one in np.unique(fold):
        rest = fold != one
        confidence[~rest] = fit_calibration(sure[rest], right[rest]).at(sure[~rest])
    return confidence
