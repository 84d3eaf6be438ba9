"""What a tier's threshold is compared with: how sure it is, or what asking deeper would bring.

Uncertainty says that an answer may be wrong; it does not say that more packets would put it right.
A *benefit* gate learns just that, on flows that the tiers were not trained on: whether the
deepest tier is right where this one is wrong, less the reverse, less what waiting for it costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.packet import Array
from models.engines import Engine
from models.folds import grouped_folds
from models.uncertainty import certainty

__all__ = [
    "BENEFIT_COLUMNS",
    "GATES",
    "OUTCOMES",
    "Gate",
    "assurance",
    "benefit_inputs",
    "cross_fitted",
    "fit_benefit",
]

GATES = ("benefit", "confidence", "margin", "entropy")
"""Kinds of gates."""

OUTCOMES = 2
"""Classes of a benefit gate's engine."""

BENEFIT_COLUMNS = 4
"""Columns of :func:`benefit_inputs` before the tier's own."""
_FOLDS = 4
_LEAST = 1e-9  # that a score counts as in a logarithm


@dataclass(frozen=True, slots=True)
class Gate:
    """How a tier's answers are weighed.

    Attributes:
        kind: One of :data:`GATES`: the calibrated confidence, the top class's lead, the entropy,
            or the benefit of asking the deepest tier.
        engine: Of a benefit gate: scores flows by :func:`benefit_inputs`, as two classes: "better
            answered here" and "better asked again".
    """

    kind: str = "confidence"
    engine: Engine | None = None


def assurance(
    gate: Gate,
    scores: npt.NDArray[np.float32],
    confidence: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """Return what thresholds are compared with, float32 ``[n]`` within [0, 1]; more is surer.

    Args:
        gate: The tier's.
        scores: Of the tier, float32 ``[n, classes]``.
        confidence: Calibrated, float32 ``[n]``.
        features: Columns of the same flows at the tier's depth; a benefit gate needs them.

    Raises:
        ValueError: A benefit gate has no engine or no features.
    """
    if gate.kind == "confidence":
        return confidence
    if gate.kind != "benefit":
        return certainty(scores, gate.kind)
    if gate.engine is None or features is None:
        raise ValueError("a benefit gate needs its engine and the flows' columns")
    return _assured(gate.engine, benefit_inputs(scores, features))


def benefit_inputs(
    scores: npt.NDArray[np.float32], features: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return what a benefit gate looks at, float32 ``[n, 4 + columns]``.

    The score of the top class, that of the second, the entropy, the top class's index, then the
    tier's own columns.

    Args:
        scores: Of the tier, float32 ``[n, classes]``; at least two classes.
        features: float32 ``[n, columns]``.
    """
    out = np.empty((len(scores), BENEFIT_COLUMNS + features.shape[1]), np.float32)
    _summed_up(np.array(scores, np.float32, order="C"), out)
    out[:, BENEFIT_COLUMNS:] = features
    return out


def fit_benefit(
    inputs: npt.NDArray[np.float32],
    right: npt.NDArray[np.bool_],
    right_deepest: npt.NDArray[np.bool_],
    price: npt.NDArray[np.float32],
    seed: int = 0,
) -> Gate:
    """Learn where the deepest tier would do better by more than the wait for it costs.

    Many flows have no further packet: those wait until they time out. Which ones they are can be
    told from the first packets about as well as what they are.

    Args:
        inputs: :func:`benefit_inputs` of flows that neither tier was trained on.
        right: Whether this tier's answer is right, ``[n]``.
        right_deepest: Whether the deepest tier's is, ``[n]``.
        price: What waiting for more packets costs each flow, in right answers; float32 ``[n]``,
            0 or more.
        seed: Makes it repeatable.
    """
    from models.boosted import fit_shares

    again = np.maximum(1.0 + right_deepest.astype(np.float32) - right - price, 0.0) / 2.0
    return Gate("benefit", fit_shares(inputs, again, seed))


def cross_fitted(
    inputs: npt.NDArray[np.float32],
    right: npt.NDArray[np.bool_],
    right_deepest: npt.NDArray[np.bool_],
    price: npt.NDArray[np.float32],
    groups: npt.NDArray[np.int64],
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    """Return what a benefit gate says of captures that it was not trained on, float32 ``[n]``.

    Args:
        inputs: As for :func:`fit_benefit`, and so are the next three.
        right: Whether this tier's answer is right.
        right_deepest: Whether the deepest tier's is.
        price: What waiting for more packets costs.
        groups: Group (capture) of each flow, int64 ``[n]``; at least two.
        seed: Makes it repeatable.
    """
    said = np.zeros(len(inputs), np.float32)
    fold = grouped_folds(right.astype(np.int64), groups, _FOLDS, seed)
    for one in np.unique(fold):
        rest = fold != one
        gate = fit_benefit(inputs[rest], right[rest], right_deepest[rest], price[rest], seed)
        if gate.engine is not None:
            said[~rest] = _assured(gate.engine, inputs[~rest])
    return said


def _assured(engine: Engine, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return (1 - expected benefit) / 2: above a half where asking deeper would not pay."""
    return np.asarray(engine.scores(inputs)[:, 0])


@compiled
def _summed_up(scores: Array, out: Array) -> None:
    for i in range(len(scores)):
        best, second, entropy = 0, np.float32(-1.0), 0.0
        for c in range(scores.shape[1]):
            score = scores[i, c]
            entropy -= np.float64(score) * log(max(np.float64(score), _LEAST))
            if c == 0 or score > scores[i, best]:
                if c:
                    second = scores[i, best]
                best = c
            elif score > second:
                second = score
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = scores[i, best], second, entropy, best
