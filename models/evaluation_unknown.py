"""How well a cascade tells flows of classes that it was never trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation_answers import Study

__all__ = ["FALSE_ALARMS", "auroc", "flagged", "told_apart", "unknown"]

FALSE_ALARMS = (0.01, 0.05)
"""Shares of known flows that may be taken for unknown ones."""


def unknown(study: Study) -> dict[str, Any] | None:
    """Return what the novelty of the cascade's answers tells of unknown flows.

    Returns:
        ``classes``: labels that the bundle was not trained on, as they count; ``flows`` and
        ``captures`` that hold some; ``auroc_by_flow``: how often an unknown flow is stranger than
        a known one, and ``auroc_by_capture``: the same of captures' means, a capture's known and
        unknown flows apart (None: there are no known flows to compare with); ``flagged``: by
        false alarms, as a share of the known flows here, the share of unknown flows that are
        stranger than all but those; ``flagged_from``: by novelty, the shares of ``unknown`` and of
        ``known`` flows at or above it; ``slow_only``: all that when the deepest tier alone is asked
        about every flow. None: there are no unknown flows, or no novelty.
    """
    novelty, deepest = study.cascade.novelty, study.slow_only.novelty
    learned = len(study.names) if study.learned is None else study.learned
    new = study.true >= learned
    if novelty is None or deepest is None or not new.any():
        return None
    return told_apart(novelty, deepest, new, np.array(study.names)[study.true], study.groups)


def told_apart(
    cascade: npt.NDArray[np.float32],
    slow_only: npt.NDArray[np.float32],
    new: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.str_],
    groups: npt.NDArray[np.int64],
) -> dict[str, Any]:
    """Return what :func:`unknown` does of flows that may be of several studies.

    Args:
        cascade: Novelty of each flow's answer, float32 ``[n]``.
        slow_only: The same of the deepest tier's.
        new: Whether its class was never trained on, ``[n]``; some are.
        labels: True label of each flow, ``[n]``.
        groups: Capture of each flow, int64 ``[n]``.
    """
    return {
        "classes": np.unique(labels[new]).tolist(),
        "flows": int(new.sum()),
        "captures": len(np.unique(groups[new])),
        **_separated(cascade, new, groups),
        "slow_only": _separated(slow_only, new, groups),
    }


def _separated(
    novelty: npt.NDArray[np.float32], new: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]
) -> dict[str, Any]:
    by_capture, capture_new = _means(novelty, groups, new)
    found: dict[str, Any] = {
        "auroc_by_flow": None,
        "auroc_by_capture": None,
        "flagged": None,
        "flagged_from": None,
    }
    if not new.all():
        found |= {
            "auroc_by_flow": round(auroc(novelty, new), 4),
            "auroc_by_capture": round(auroc(by_capture, capture_new), 4),
            "flagged": {
                f"{share:g}": round(flagged(novelty, new, share), 4) for share in FALSE_ALARMS
            },
            "flagged_from": {
                f"{1 - share:g}": {
                    "unknown": round(float((novelty[new] >= 1 - share).mean()), 4),
                    "known": round(float((novelty[~new] >= 1 - share).mean()), 4),
                }
                for share in FALSE_ALARMS
            },
        }
    return found


def auroc(score: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative.

    It is the statistic of Mann and Whitney (1947); ties count half.

    Args:
        score: ``[n]``.
        positive: ``[n]``; some are and some are not.

    Raises:
        ValueError: All are, or none is.
    """
    if positive.all() or not positive.any():
        raise ValueError("an area under the ROC curve needs positives and negatives")
    own, rest = score[positive], np.sort(score[~positive])
    below = np.searchsorted(rest, own, side="left")
    upto = np.searchsorted(rest, own, side="right")
    return float((below + upto).mean() / (2.0 * len(rest)))


def flagged(
    score: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_], false_alarms: float
) -> float:
    """Return the share of positives that score above all but a share of the negatives.

    Args:
        score: ``[n]``.
        positive: ``[n]``; some are and some are not.
        false_alarms: Most negatives at or above the threshold, as a share.
    """
    rest = np.sort(score[~positive])
    allowed = int(false_alarms * len(rest))
    return float((score[positive] > rest[len(rest) - 1 - allowed]).mean())


def _means(
    score: npt.NDArray[np.float32], groups: npt.NDArray[np.int64], new: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the mean of each capture's known and of its unknown flows, and which they are."""
    units, at, count = np.unique(2 * groups + new, return_inverse=True, return_counts=True)
    return np.bincount(at, weights=score) / count, units % 2 == 1
