"""Trains trees and forests with scikit-learn and turns them into plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.tree import DecisionTreeClassifier

from models.engines import ForestEngine

__all__ = ["fit_extra_trees", "fit_tree", "forest_engine"]


def fit_tree(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: int,
    *,
    min_leaf: int = 4,
    seed: int = 0,
) -> ForestEngine:
    """Train one decision tree.

    Args:
        inputs: float32 ``[n, features]``.
        labels: Class of each row, int64 ``[n]``.
        classes: Number of classes; those without a row get a score near 0.
        min_leaf: Fewest rows at a leaf: a lone tree with pure leaves is sure of everything.
        seed: Makes it repeatable.
    """
    model = DecisionTreeClassifier(min_samples_leaf=min_leaf, random_state=seed)
    return forest_engine(model.fit(inputs, labels), classes, smoothing=1.0)


def fit_extra_trees(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: int,
    *,
    trees: int,
    most_bytes: int = 8_000_000,
    seed: int = 0,
) -> ForestEngine:
    """Train extremely randomised trees.

    Args:
        inputs: float32 ``[n, features]``.
        labels: Class of each row, int64 ``[n]``.
        classes: Number of classes.
        trees: Number of trees.
        most_bytes: How large the engine's arrays may be; leaves hold more rows if need be.
        seed: Makes it repeatable.
    """
    min_leaf = 2
    while True:
        model = ExtraTreesClassifier(
            n_estimators=trees,
            min_samples_leaf=min_leaf,
            max_features=None,  # a port tells only when split on finely: look at it each time
            n_jobs=1,
            random_state=seed,
        ).fit(inputs, labels)
        leaves = sum(int(tree.tree_.n_leaves) for tree in model.estimators_)
        nodes = 2 * leaves - trees
        if leaves * classes * 4 + nodes * 14 <= most_bytes or leaves <= 2 * trees:
            return forest_engine(model, classes)
        min_leaf *= 2


def forest_engine(model: Any, classes: int, smoothing: float = 0.0) -> ForestEngine:
    """Turn a fitted scikit-learn classifier into an engine.

    Args:
        model: A fitted ``DecisionTreeClassifier``, ``RandomForestClassifier`` or
            ``ExtraTreesClassifier`` whose labels are class indices.
        classes: Number of classes; columns of those that the model never saw are 0.
        smoothing: Rows of each class that a leaf is credited with on top of its own, as a
            fraction: ``smoothing / classes`` each, so that no leaf is ever certain.
    """
    trees = [estimator.tree_ for estimator in getattr(model, "estimators_", [model])]
    columns = np.asarray(model.classes_, np.int64)
    features, thresholds, lefts, rights, values = [], [], [], [], []
    roots = np.zeros(len(trees), np.int32)
    nodes = leaves = 0
    for t, tree in enumerate(trees):
        is_leaf = tree.children_left < 0
        count = int(is_leaf.sum())
        roots[t] = nodes
        features.append(np.where(is_leaf, -1, tree.feature).astype(np.int16))
        thresholds.append(_round_down(np.where(is_leaf, 0.0, tree.threshold)))
        left = (tree.children_left + nodes).astype(np.int32)
        left[is_leaf] = np.arange(leaves, leaves + count)
        lefts.append(left)
        rights.append(np.where(is_leaf, 0, tree.children_right + nodes).astype(np.int32))
        values.append(_leaf_rows(tree, is_leaf, columns, classes, smoothing))
        nodes += len(is_leaf)
        leaves += count
    return ForestEngine(
        np.concatenate(features),
        np.concatenate(thresholds),
        np.concatenate(lefts),
        np.concatenate(rights),
        roots,
        np.concatenate(values),
    )


def _leaf_rows(
    tree: Any,
    is_leaf: npt.NDArray[np.bool_],
    columns: npt.NDArray[np.int64],
    classes: int,
    smoothing: float,
) -> npt.NDArray[np.float32]:
    shares = tree.value[is_leaf, 0, :]
    shares = shares / shares.sum(axis=1, keepdims=True)
    weight = tree.weighted_n_node_samples[is_leaf][:, None]
    rows = np.zeros((len(shares), classes))
    rows[:, columns] = shares * weight
    return np.asarray((rows + smoothing / classes) / (weight + smoothing), np.float32)


def _round_down(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the greatest float32 not above each value: ``x <= value`` stays the same."""
    rounded = values.astype(np.float32)
    above = rounded.astype(np.float64) > values
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded
