"""Shifts calibrations to the flows that reach each tier.

A tier's calibration is fitted to all flows. In the cascade a tier behind the first is asked only
of those that the ones before it would not answer, and of these fewer or more may be right than of
others that it gives the same scores. One number per tier says by how much, and it needs few flows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from models.calibration import shifted
from models.candidates import Task
from models.composition import Plan, yardstick_of
from models.composition_book import PlannedTier
from models.goals import NEVER, Threshold

__all__ = ["fit_shift", "recalibrated"]

_PRIOR = 5.0  # what a shift of 1 costs, as half a square in nats: some flows must speak for it
_STEPS = 30
_EDGE = 1e-3  # probabilities nearer to 0 and 1 are not told apart
_FURTHEST = 3.0  # shift; at a step, 1


def recalibrated(task: Task, plan: Plan) -> Plan:
    """Shift each tier's calibration to the flows that it is asked about by the plan's thresholds.

    Who is asked stays the same: where the confidence is what a threshold is compared with, the
    threshold is shifted with it.

    Args:
        task: The flows.
        plan: The cascade, with thresholds that are about its final ones.
    """
    asked = yardstick_of(task, plan.tiers).asked(plan.assignment.thresholds)
    tiers, thresholds = [], []
    for t, tier in enumerate(plan.tiers):
        right = tier.judged.labels == task.true
        shift = fit_shift(tier.confidence[asked[t]], right[asked[t]])
        threshold = (*plan.assignment.thresholds, NEVER)[t]
        gated = tier.gate.kind == "confidence" and tier is not plan.tiers[-1]
        thresholds.append(_shifted(threshold, shift) if gated else threshold)
        tiers.append(_with_shift(tier, shift, gated))
    assignment = replace(plan.assignment, thresholds=tuple(thresholds[:-1]))
    return replace(plan, tiers=tuple(tiers), assignment=assignment)


def fit_shift(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float:
    """Find the shift that makes confidence agree with how often it was right, by Newton's method.

    It is the most likely one, with a normal prior about 0 that keeps it small where flows are few.

    Args:
        confidence: Of flows that the calibration was not fitted to, float32 ``[n]``; may be none.
        right: Whether the top class was the true one, ``[n]``.

    Returns:
        For :func:`models.calibration.shifted`.
    """
    known = np.clip(confidence.astype(np.float64), _EDGE, 1.0 - _EDGE)
    odds, shift = np.log(known / (1.0 - known)), 0.0
    for _ in range(_STEPS):
        said = 1.0 / (1.0 + np.exp(-(odds + shift)))
        slope = float((said - right).sum()) + _PRIOR * shift
        step = slope / (float((said * (1.0 - said)).sum()) + _PRIOR)
        shift -= float(np.clip(step, -1.0, 1.0))
    return float(np.clip(shift, -_FURTHEST, _FURTHEST))


def _with_shift(tier: PlannedTier, shift: float, gated: bool) -> PlannedTier:
    judged = tier.judged
    if gated:
        judged = replace(judged, assurance=shifted(judged.assurance, shift))
    return replace(tier, calibration=replace(tier.calibration, shift=shift), judged=judged)


def _shifted(threshold: Threshold, shift: float) -> float:
    own = float(np.max(threshold))  # training finds one threshold for all classes
    return own if own >= NEVER else float(shifted(np.array([own], np.float32), shift)[0])
