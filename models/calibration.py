"""What a tier's confidence is worth: isotonic calibration, and how far it is off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Calibration", "calibration_error", "fit_calibration", "pool_adjacent"]

_MOST_KNOTS = 200


@dataclass(frozen=True, slots=True)
class Calibration:
    """A monotone, piecewise linear map of top-class scores to probabilities of being right.

    Attributes:
        x: Scores, increasing.
        y: Their probabilities, not decreasing, within [0, 1].
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.y):
            raise ValueError("a calibration needs as many x as y, and at least one")
        if any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ValueError("the x of a calibration must increase")
        if any(b < a for a, b in zip(self.y, self.y[1:], strict=False)):
            raise ValueError("the y of a calibration must not decrease")
        if not (self.y[0] >= 0.0 and self.y[-1] <= 1.0):
            raise ValueError("the y of a calibration must lie within 0 and 1")

    def __call__(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the calibrated confidence of each score, float32 of the same shape."""
        return np.interp(scores, self.x, self.y).astype(np.float32)


def fit_calibration(scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> Calibration:
    """Fit a calibration to flows that the model was not trained on.

    It is a centred isotonic regression (Oron and Flournoy 2017).

    Args:
        scores: Top-class score of each flow, float32 ``[n]``.
        right: Whether the top class was the true one, ``[n]``.

    Raises:
        ValueError: There are no flows.
    """
    if not len(scores):
        raise ValueError("a calibration needs at least one flow")
    x, at, weight = np.unique(scores.astype(np.float64), return_inverse=True, return_counts=True)
    share = np.bincount(at, weights=right) / weight
    level, block = pool_adjacent(share, weight.astype(np.float64))
    # Nothing seen makes a model certain: one more flow might be wrong (Laplace).
    n = np.bincount(block, weights=weight)
    level = np.maximum.accumulate((level * n + 0.5) / (n + 1.0))
    # Centred: a knot in the middle of each block, so that scores within it keep their order.
    centre = np.bincount(block, weights=weight * x) / n
    knots = np.arange(len(level))
    if len(knots) > _MOST_KNOTS:
        knots = knots[np.unique(np.linspace(0, len(knots) - 1, _MOST_KNOTS).astype(np.int64))]
    return Calibration(
        tuple(float(v) for v in centre[knots]), tuple(float(v) for v in level[knots])
    )


def pool_adjacent(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Find the closest not decreasing sequence (pool adjacent violators, Ayer et al. 1955).

    Args:
        values: float64 ``[n]``.
        weights: Positive, float64 ``[n]``.

    Returns:
        The level of each block, float64 ``[b]``, and each value's block, int64 ``[n]``.
    """
    levels: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        level, mass, size = value, weight, 1
        while levels and levels[-1] >= level:
            before = masses.pop()
            level = (levels.pop() * before + level * mass) / (before + mass)
            mass += before
            size += sizes.pop()
        levels.append(level)
        masses.append(mass)
        sizes.append(size)
    return np.array(levels), np.repeat(np.arange(len(levels)), sizes)


def calibration_error(
    confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], bins: int = 15
) -> float:
    """Return the expected calibration error: mean gap of confidence and accuracy, by bin.

    Args:
        confidence: float32 ``[n]``, within [0, 1].
        right: Whether each label was right, ``[n]``.
        bins: Bins of equal width.
    """
    if not len(confidence):
        return 0.0
    at = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(at, weights=confidence.astype(np.float64) - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
