"""Splits that keep whole groups (captures) on one side: flows of one capture know each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["grouped_folds"]


def grouped_folds(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], folds: int, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Deal groups out to folds so that each fold has about its share of every class.

    Args:
        labels: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
        folds: How many; fewer if there are fewer groups.
        seed: Which of equal groups come first.

    Returns:
        Each flow's fold, int64 ``[n]``.

    Raises:
        ValueError: There are fewer than two groups or folds.
    """
    names, at = np.unique(groups, return_inverse=True)
    folds = min(folds, len(names))
    if folds < 2:
        raise ValueError(f"{len(names)} groups cannot be split into {folds} folds")
    classes = int(labels.max()) + 1
    counts = np.bincount(at * classes + labels, minlength=len(names) * classes)
    counts = counts.reshape(len(names), classes).astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=0), 1.0)
    order = np.random.default_rng(seed).permutation(len(names))
    # Those that weigh most for some class first: the small ones then even things out.
    order = order[np.argsort(-shares[order].max(axis=1), kind="stable")]
    held = np.zeros((folds, classes))
    fold_of = np.zeros(len(names), np.int64)
    for group in order:
        uneven = [
            (held + np.eye(folds)[fold][:, None] * shares[group]).std(axis=0).sum()
            for fold in range(folds)
        ]
        # Of folds that are as good, the one that holds least: a class of one group is as uneven
        # in any fold.
        fold = int(np.lexsort((held.sum(axis=1), np.round(uneven, 12)))[0])
        fold_of[group] = fold
        held[fold] += shares[group]
    return np.asarray(fold_of[at])
