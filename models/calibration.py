"""What a tier's confidence is worth: two ways of calibrating it, and how far it is off.

*Isotonic* calibration maps the top class's score to how often that score was right; *temperature*
scaling goes by the whole vector of scores, with one number to learn. Which of the two is better
differs from tier to tier: :func:`fit_best_calibration` asks flows that neither was fitted to.

Either may be *shifted*: the logarithm of the odds by a constant, for flows of which other shares
are right than of those that it was fitted to (Saerens et al. 2002, for labels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.packet import Array

__all__ = [
    "BestCalibration",
    "Calibration",
    "Isotonic",
    "Kind",
    "Temperature",
    "calibration_error",
    "calibration_of",
    "fit_best_calibration",
    "fit_calibration",
    "fit_temperature",
    "pool_adjacent",
    "shifted",
]

Kind = Literal["isotonic", "temperature"]

_MOST_KNOTS = 200
_FLOOR = 1e-4  # scores below count as this: no number of trees that name no such class proves it
_COLDEST, _HOTTEST = 0.05, 20.0
_FURTHEST = 10.0  # that the logarithm of the odds may be shifted
_TRIALS = 11  # temperatures that are tried at a time, evenly spread in logarithms
_ROUNDS = 4  # each around the best one of the round before


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A monotone, piecewise linear map of top-class scores to probabilities of being right.

    Attributes:
        x: Scores, increasing.
        y: Their probabilities, not decreasing, within [0, 1].
        shift: What is added to the logarithm of a probability's odds, see :func:`shifted`.

    Raises:
        ValueError: These are no knots of such a map, or the shift is not within -10 and 10.
    """

    kind: ClassVar[Kind] = "isotonic"
    x: tuple[float, ...]
    y: tuple[float, ...]
    shift: float = 0.0
    # Both as arrays: numpy would make them anew at each call, in most of its time.
    _knots: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        _check_shift(self.shift)
        if not self.x or len(self.x) != len(self.y):
            raise ValueError("a calibration needs as many x as y, and at least one")
        if any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ValueError("the x of a calibration must increase")
        if any(b < a for a, b in zip(self.y, self.y[1:], strict=False)):
            raise ValueError("the y of a calibration must not decrease")
        if not (self.y[0] >= 0.0 and self.y[-1] <= 1.0):
            raise ValueError("the y of a calibration must lie within 0 and 1")
        object.__setattr__(self, "_knots", (np.array(self.x), np.array(self.y)))

    def __call__(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the calibrated confidence of flows, float32 ``[n]``.

        Args:
            scores: Score of each class, float32 ``[n, classes]``.
        """
        return self.at(scores.max(axis=1))

    def at(self, top: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the calibrated confidence of top-class scores, float32 of the same shape."""
        x, y = self._knots
        return shifted(np.interp(top, x, y).astype(np.float32), self.shift)

    def fields(self) -> dict[str, Any]:
        """Return what :func:`calibration_of` makes it of."""
        return {"kind": self.kind, "x": list(self.x), "y": list(self.y), **_shift(self.shift)}


@dataclass(frozen=True, slots=True)
class Temperature:
    """The softmax of the scores' logarithms, divided by a temperature (Guo et al. 2017).

    Attributes:
        temperature: Above 1 it makes confidence smaller, below 1 greater.
        shift: What is added to the logarithm of a probability's odds, see :func:`shifted`.

    Raises:
        ValueError: It is not within .05 and 20, or the shift is not within -10 and 10.
    """

    kind: ClassVar[Kind] = "temperature"
    temperature: float
    shift: float = 0.0

    def __post_init__(self) -> None:
        _check_shift(self.shift)
        if not _COLDEST <= self.temperature <= _HOTTEST:
            raise ValueError(
                f"the temperature of a calibration must lie within {_COLDEST:g} and {_HOTTEST:g}"
            )

    def __call__(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the calibrated confidence of flows, float32 ``[n]``.

        Args:
            scores: Score of each class, float32 ``[n, classes]``.
        """
        out = np.empty(len(scores), np.float32)
        _tempered(np.array(scores, np.float32, order="C"), 1.0 / self.temperature, _FLOOR, out)
        return shifted(out, self.shift)

    def fields(self) -> dict[str, Any]:
        """Return what :func:`calibration_of` makes it of."""
        return {"kind": self.kind, "temperature": self.temperature, **_shift(self.shift)}


Calibration = Isotonic | Temperature
"""Turns a tier's scores into probabilities that the top class is right."""


@dataclass(frozen=True, slots=True)
class BestCalibration:
    """The calibration that does better on flows that it was not fitted to.

    Attributes:
        calibration: It, fitted to all flows.
        confidence: What its kind says of each flow, fitted to the other folds; float32 ``[n]``.
        losses: Brier score of that for each kind (Brier 1950); less is better.
    """

    calibration: Calibration
    confidence: npt.NDArray[np.float32]
    losses: dict[Kind, float]


def calibration_of(
    kind: Kind,
    x: tuple[float, ...],
    y: tuple[float, ...],
    temperature: float | None,
    shift: float = 0.0,
) -> Calibration:
    """Make a calibration of what a manifest says of it.

    Raises:
        ValueError: These are not the fields of such a calibration.
    """
    if kind == "temperature":
        if temperature is None or x or y:
            raise ValueError("a calibration by temperature needs a temperature, and no knots")
        return Temperature(temperature, shift)
    if temperature is not None:
        raise ValueError("an isotonic calibration has no temperature")
    return Isotonic(x, y, shift)


def shifted(probability: npt.NDArray[np.float32], shift: float) -> npt.NDArray[np.float32]:
    """Add a constant to the logarithm of probabilities' odds; their order stays.

    Args:
        probability: float32 ``[n]``, within [0, 1].
        shift: Above 0 it makes them greater; 0 leaves them as they are to the last bit.
    """
    if not shift:
        return probability
    odds = probability.astype(np.float64) * math.exp(shift)
    return np.asarray(odds / (odds + (1.0 - probability)), np.float32)


def fit_best_calibration(
    scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]
) -> BestCalibration:
    """Fit the kind of calibration that does better in cross-validation.

    Args:
        scores: Of flows that the model was not trained on, float32 ``[n, classes]``.
        right: Whether the top class was the true one, ``[n]``.
        fold: Fold of each flow, int64 ``[n]``; at least two.

    Raises:
        ValueError: There are no flows.
    """
    by_kind: dict[Kind, npt.NDArray[np.float32]] = {
        "isotonic": np.zeros(len(scores), np.float32),
        "temperature": np.zeros(len(scores), np.float32),
    }
    for one in np.unique(fold):
        rest = fold != one
        for kind, confidence in by_kind.items():
            confidence[~rest] = _fit(kind, scores[rest], right[rest])(scores[~rest])
    losses = {
        kind: float(np.square(confidence - right).mean()) for kind, confidence in by_kind.items()
    }
    best = min(losses, key=lambda kind: losses[kind])
    return BestCalibration(_fit(best, scores, right), by_kind[best], losses)


def fit_calibration(scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> Isotonic:
    """Fit an isotonic calibration to flows that the model was not trained on.

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
    return Isotonic(tuple(float(v) for v in centre[knots]), tuple(float(v) for v in level[knots]))


def fit_temperature(scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> Temperature:
    """Fit a temperature to flows that the model was not trained on.

    Guo et al. maximise the likelihood of the true class. Here it is that of *the top class is
    right*, which is all that a confidence says: a forest gives many a true class the score 0, and
    a temperature that makes up for those is too high for everything else.

    Args:
        scores: Score of each class, float32 ``[n, classes]``.
        right: Whether the top class was the true one, ``[n]``.

    Raises:
        ValueError: There are no flows.
    """
    if not len(scores):
        raise ValueError("a calibration needs at least one flow")

    def loss(log_temperature: float) -> float:
        said = Temperature(math.exp(log_temperature))(scores).astype(np.float64)
        said = np.clip(said, _FLOOR, 1.0 - _FLOOR)
        return float(-np.log(np.where(right, said, 1.0 - said)).mean())

    low, high = math.log(_COLDEST * 1.001), math.log(_HOTTEST * 0.999)
    for _ in range(_ROUNDS):
        tried = np.linspace(low, high, _TRIALS).tolist()
        losses = [loss(one) for one in tried]
        best = int(np.argmin(losses))
        low, high = tried[max(best - 1, 0)], tried[min(best + 1, _TRIALS - 1)]
    return Temperature(math.exp(tried[best]))


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


def _check_shift(shift: float) -> None:
    if not -_FURTHEST <= shift <= _FURTHEST:
        raise ValueError(f"the shift of a calibration must lie within {_FURTHEST:g} of 0")


def _shift(shift: float) -> dict[str, float]:
    return {"shift": shift} if shift else {}


def _fit(kind: Kind, scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> Calibration:
    if kind == "temperature":
        return fit_temperature(scores, right)
    return fit_calibration(scores.max(axis=1), right)


# Compiled, so that a flow's confidence does not depend on its place among others: numpy takes
# several logarithms at a time, and the last ones of an array by other means than the rest.


@compiled
def _tempered(scores: Array, sharpness: float, floor: float, out: Array) -> None:
    for i in range(len(scores)):
        top = floor
        for c in range(scores.shape[1]):
            top = max(top, np.float64(scores[i, c]))
        low = (floor / top) ** sharpness
        total = 0.0
        for c in range(scores.shape[1]):
            score = np.float64(scores[i, c])
            # Most scores of a forest are 0: one power serves for all of them.
            total += low if score <= floor else (score / top) ** sharpness
        out[i] = 1.0 / total
