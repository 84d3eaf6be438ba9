"""What a tier's confidence is worth on flows that it judges in the cascade."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.calibration import calibration_error
from models.cascade import NO_TIER
from models.evaluation_answers import Study

__all__ = ["by_chance", "calibration", "reliability"]

_BINS = 15
_DRAWS = 200
_SEED = 0


def calibration(study: Study) -> list[dict[str, Any]]:
    """Return how far each tier's confidence is off (Guo et al. 2017).

    A tier behind the first sees only the flows that those before it were unsure of, so this is
    not what the same tier alone would show.

    Returns:
        By tier: ``tier``, ``depth``, ``judged`` and ``answered`` flows,
        ``expected_calibration_error``, ``mean_confidence`` and ``accuracy`` of those judged
        (None: none), ``by_chance``, see :func:`by_chance`, ``expected_calibration_error_alone``
        of the same tier asked of all flows that have its packets, and ``bins``, see
        :func:`reliability`.
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
                "judged": len(right),
                "answered": int((study.cascade.tier == t).sum()),
                "expected_calibration_error": (
                    round(calibration_error(confidence, right, _BINS), 4) if some else None
                ),
                "by_chance": by_chance(confidence) if some else None,
                "expected_calibration_error_alone": round(calibration_error(*own, _BINS), 4),
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
    at = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    flows = np.bincount(at, minlength=bins)
    mean = np.bincount(at, weights=confidence.astype(np.float64), minlength=bins)
    hits = np.bincount(at, weights=right, minlength=bins)
    return [
        {
            "low": round(b / bins, 4),
            "high": round((b + 1) / bins, 4),
            "flows": int(flows[b]),
            "confidence": round(float(mean[b] / flows[b]), 4),
            "accuracy": round(float(hits[b] / flows[b]), 4),
        }
        for b in np.flatnonzero(flows).tolist()
    ]
