"""Scores of labels, with numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.packet import Array

__all__ = ["WITHIN_MS", "accuracy", "f1_from_counts", "f1_scores"]

WITHIN_MS = 16.0
"""The paper's yardstick: a flow answered within 16 ms of its first packet."""


def f1_scores(true: Array, said: Array) -> dict[str, float]:
    """Return ``weighted_f1`` and ``macro_f1``, as scikit-learn defines them.

    Args:
        true: True labels, strings or integers, ``[n]``.
        said: What was said of the same flows, ``[n]``.

    Raises:
        ValueError: There are no labels, or the two differ in number.
    """
    if len(true) != len(said) or not len(true):
        raise ValueError(f"{len(true)} true labels and {len(said)} others cannot be compared")
    names, codes = np.unique(np.concatenate([true, said]), return_inverse=True)
    t, s = codes[: len(true)], codes[len(true) :]
    hits = np.bincount(t[t == s], minlength=len(names))
    support = np.bincount(t, minlength=len(names))
    claimed = np.bincount(s, minlength=len(names))
    per_class = f1_from_counts(hits, support, claimed)
    return {
        "weighted_f1": float(per_class @ support / len(true)),
        "macro_f1": float(per_class.mean()),
    }


def f1_from_counts(hits: Array, support: Array, claimed: Array) -> npt.NDArray[np.float64]:
    """Return the F1 of each class, float64; 0 for one that neither occurs nor is claimed.

    Args:
        hits: Flows of the class that were said to be, of any shape.
        support: Flows of the class, same shape.
        claimed: Flows that were said to be of the class, same shape.
    """
    total = np.asarray(support + claimed, np.float64)
    return np.asarray(2.0 * hits / np.maximum(total, 1e-300))


def accuracy(true: Array, said: Array) -> float:
    """Return the share of labels that are right; NaN of none."""
    return float(np.mean(true == said)) if len(true) else float("nan")
