"""What a tier's confidence is worth on flows that it judges in the cascade."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flows.packet import Array
from models.calibration import calibration_error
from models.cascade import NO_TIER
from models.evaluation_answers import Study

__all__ = ["by_chance", "calibration", "debiased", "reliability"]

_BINS = 15
_DRAWS = 200
_SEED = 0


def calibration(study: Study) -> list[dict[str, Any]]:
    """Return how far each tier's confidence is off (Guo et al. 2017).

    A tier behind the first sees only the flows that those before it were unsure of, so this is
    not what the same tier alone would show.

    Returns:
        By tier: ``tier``, ``depth``; ``flows`` that have its packets, and ``ece``, the expected
        calibration error of the tier alone on all of those; ``asked``, how many of them it judges
        in the cascade, and ``answered``, how many it answers; of those asked (None: none)
        ``ece_asked``, ``by_chance``, see :func:`by_chance`, ``rms_asked_debiased``, see
        :func:`debiased`, ``mean_confidence``, ``accuracy`` and ``bins``, see :func:`reliability`.
    """
    found = []
    for t, tier in enumerate(study.tiers):
        asked = study.asked(t) & (study.alone[t].tier != NO_TIER)
        alone = study.alone[t].tier != NO_TIER
        own = study.alone[t].confidence[alone], (study.alone[t].said == study.true)[alone]
        confidence = study.alone[t].confidence[asked]
        right = (study.alone[t].said == study.true)[asked]
        some = len(right) > 0
        found.append(
            {
                "tier": tier.name,
                "depth": tier.depth,
                "flows": int(alone.sum()),
                "ece": round(calibration_error(*own, _BINS), 4) if alone.any() else None,
                "asked": len(right),
                "answered": int((study.cascade.tier == t).sum()),
                "ece_asked": (
                    round(calibration_error(confidence, right, _BINS), 4) if some else None
                ),
                "by_chance": by_chance(confidence) if some else None,
                "rms_asked_debiased": round(debiased(confidence, right), 4) if some else None,
                "mean_confidence": round(float(confidence.mean()), 4) if some else None,
                "accuracy": round(float(right.mean()), 4) if some else None,
                "bins": reliability(confidence, right),
            }
        )
    return found


def by_chance(
    confidence: npt.NDArray[np.float32], *, draws: int = _DRAWS, seed: int = _SEED
) -> dict[str, float]:
    """Return the calibration error that a perfect tier would show: of few flows it is never 0.

    Each flow is right with just the probability that its confidence says, drawn anew (the
    parametric bootstrap, Efron 1979; for calibration Bröcker and Smith 2007).

    Args:
        confidence: float32 ``[n]``, within [0, 1]; at least one.
        draws: How often.
        seed: Of the drawing.

    Returns:
        The ``mean`` error, and ``p95``, which one in twenty draws exceeds.
    """
    rng = np.random.default_rng(seed)
    errors = [
        calibration_error(confidence, rng.random(len(confidence)) < confidence, _BINS)
        for _ in range(draws)
    ]
    return {
        "mean": round(float(np.mean(errors)), 4),
        "p95": round(float(np.quantile(errors, 0.95)), 4),
    }


def debiased(
    confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], bins: int = _BINS
) -> float:
    """Return the root mean square calibration error, less what chance adds to its square.

    A bin's gap between confidence and accuracy, squared, is too great by the variance of its
    accuracy on average; that is taken off (Kumar, Liang and Ma 2019, *Verified Uncertainty
    Calibration*). As a root mean square it is at least as great as the mean gap that
    :func:`models.calibration.calibration_error` returns, chance left out of both. A bin of one
    flow tells nothing of its variance and counts as 0; so does a sum below 0.

    Args:
        confidence: float32 ``[n]``, within [0, 1]; at least one.
        right: Whether each label was right, ``[n]``.
        bins: How many, of equal width.
    """
    flows, sums, hits = _binned(confidence, right, bins)
    some = flows > 1
    flows, sums, hits = flows[some], sums[some], hits[some]
    accuracy = hits / flows
    squares = (sums / flows - accuracy) ** 2 - accuracy * (1.0 - accuracy) / (flows - 1)
    return float(np.sqrt(max(float(flows @ squares) / len(right), 0.0)))


def reliability(
    confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], bins: int = _BINS
) -> list[dict[str, Any]]:
    """Return confidence and accuracy by bins of equal width, those without flows left out.

    Args:
        confidence: float32 ``[n]``, within [0, 1].
        right: Whether each label was right, ``[n]``.
        bins: How many.

    Returns:
        By bin: its bounds ``low`` and ``high``, ``flows``, mean ``confidence``, ``accuracy``.
    """
    flows, sums, hits = _binned(confidence, right, bins)
    return [
        {
            "low": round(b / bins, 4),
            "high": round((b + 1) / bins, 4),
            "flows": int(flows[b]),
            "confidence": round(float(sums[b] / flows[b]), 4),
            "accuracy": round(float(hits[b] / flows[b]), 4),
        }
        for b in np.flatnonzero(flows).tolist()
    ]


def _binned(
    confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], bins: int
) -> tuple[Array, Array, Array]:
    """Return the flows of each bin, the sum of their confidence, and how many were right."""
    at = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    sums = np.bincount(at, weights=confidence.astype(np.float64), minlength=bins)
    return np.bincount(at, minlength=bins), sums, np.bincount(at, weights=right, minlength=bins)
