"""Trains trees and forests with scikit-learn and turns them into plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from models.engines import ForestEngine

__all__ = [
    "ClassWeight",
    "fit_distilled_tree",
    "fit_extra_trees",
    "fit_random_forest",
    "fit_tree",
    "forest_engine",
    "round_down",
    "row_weights",
]

ClassWeight = Literal["balanced", "sqrt"]
"""How rare classes are made to count: all classes alike, or half the way there (in logarithms)."""


def row_weights(
    labels: npt.NDArray[np.int64], how: ClassWeight | None
) -> npt.NDArray[np.float64] | None:
    """Return what each row counts for in training, float64 ``[n]``, 1 on average; None: all alike.

    Args:
        labels: Class of each row, int64 ``[n]``.
        how: ``balanced``: as the inverse of its class's rows; ``sqrt``: as that one's root.

    Raises:
        ValueError: There is no such ``how``.
    """
    if how is None:
        return None
    if how not in ("balanced", "sqrt"):
        raise ValueError(f"class weight {how!r} is unknown; known are balanced and sqrt")
    rare = 1.0 / np.maximum(np.bincount(labels), 1)[labels]
    weights = rare if how == "balanced" else np.sqrt(rare)
    return np.asarray(weights / weights.mean())


def fit_tree(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: int,
    *,
    min_leaf: int = 4,
    class_weight: ClassWeight | None = None,
    seed: int = 0,
) -> ForestEngine:
    """Train one decision tree.

    Args:
        inputs: float32 ``[n, features]``.
        labels: Class of each row, int64 ``[n]``.
        classes: Number of classes; those without a row get a score near 0.
        min_leaf: Fewest rows at a leaf: a lone tree with pure leaves is sure of everything.
        class_weight: How rare classes are made to count, see :func:`row_weights`.
        seed: Makes it repeatable.
    """
    model = DecisionTreeClassifier(min_samples_leaf=min_leaf, random_state=seed)
    model.fit(inputs, labels, sample_weight=row_weights(labels, class_weight))
    return forest_engine(model, classes, smoothing=1.0)


def fit_extra_trees(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: int,
    *,
    trees: int,
    most_bytes: int = 8_000_000,
    min_leaf: int = 2,
    max_features: float | Literal["sqrt"] | None = None,
    class_weight: ClassWeight | None = None,
    smoothing: float = 0.0,
    seed: int = 0,
) -> ForestEngine:
    """Train extremely randomised trees (Geurts et al. 2006).

    Args:
        inputs: float32 ``[n, features]``.
        labels: Class of each row, int64 ``[n]``.
        classes: Number of classes.
        trees: Number of trees.
        most_bytes: How large the engine's arrays may be if no two leaves say the same; leaves hold
            more rows if need be.
        min_leaf: Fewest rows at a leaf.
        max_features: Columns that each split chooses from: a share, the root of their number, or
            all: a port tells only when split on finely, so it is looked at each time.
        class_weight: How rare classes are made to count, see :func:`row_weights`.
        smoothing: See :func:`forest_engine`.
        seed: Makes it repeatable.
    """

    def fit(rows: int) -> Any:
        return ExtraTreesClassifier(
            n_estimators=trees,
            min_samples_leaf=rows,
            max_features=max_features,
            n_jobs=1,
            random_state=seed,
        ).fit(inputs, labels, sample_weight=row_weights(labels, class_weight))

    return _held_to_size(fit, classes, most_bytes, min_leaf, smoothing)


def fit_random_forest(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: int,
    *,
    trees: int,
    most_bytes: int = 8_000_000,
    min_leaf: int = 2,
    max_features: float | Literal["sqrt"] | None = "sqrt",
    class_weight: ClassWeight | None = None,
    smoothing: float = 0.0,
    seed: int = 0,
) -> ForestEngine:
    """Train a random forest, each tree on a bootstrap sample (Breiman 2001).

    Args:
        inputs: float32 ``[n, features]``.
        labels: Class of each row, int64 ``[n]``.
        classes: Number of classes.
        trees: Number of trees.
        most_bytes: How large the engine's arrays may be if no two leaves say the same; leaves hold
            more rows if need be.
        min_leaf: Fewest rows at a leaf.
        max_features: Columns that each split chooses from: a share, the root of their number, or
            all.
        class_weight: How rare classes are made to count, see :func:`row_weights`.
        smoothing: See :func:`forest_engine`.
        seed: Makes it repeatable.
    """

    def fit(rows: int) -> Any:
        return RandomForestClassifier(
            n_estimators=trees,
            min_samples_leaf=rows,
            max_features=max_features,
            bootstrap=True,
            n_jobs=1,
            random_state=seed,
        ).fit(inputs, labels, sample_weight=row_weights(labels, class_weight))

    return _held_to_size(fit, classes, most_bytes, min_leaf, smoothing)


def fit_distilled_tree(
    inputs: npt.NDArray[np.float32],
    soft_labels: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64] | None = None,
    *,
    leaves: int = 1024,
    min_leaf: int = 4,
    smoothing: float = 1.0,
    seed: int = 0,
) -> ForestEngine:
    """Train one tree to say what a better model, its teacher, says.

    The teacher may be asked about as many flows as can be made up: so one tree can learn what it
    could not from the labelled ones alone (Breiman and Shang 1996, "Born again trees"; Hinton et
    al. 2015). Splits lower the squared error of the probabilities, which for certain labels is
    the Gini impurity (Breiman et al. 1984).

    Args:
        inputs: float32 ``[n, features]``.
        soft_labels: The teacher's probabilities, float32 ``[n, classes]``; rows sum to 1.
        weights: What each row counts for, ``[n]``; all alike when left out.
        leaves: Most leaves; the splits that help most come first.
        min_leaf: Fewest rows at a leaf.
        smoothing: Average rows that each leaf is credited with, spread evenly over the classes,
            so that no leaf is ever certain.
        seed: Makes it repeatable.

    Raises:
        ValueError: ``soft_labels`` are no probabilities of ``inputs``.
    """
    if (
        soft_labels.ndim != 2
        or len(soft_labels) != len(inputs)
        or not (soft_labels >= 0).all()
        or not np.allclose(soft_labels.sum(axis=1), 1.0, atol=1e-3)
    ):
        raise ValueError(f"soft labels {soft_labels.shape}: no probabilities of {inputs.shape}")
    classes = soft_labels.shape[1]
    model = DecisionTreeRegressor(
        max_leaf_nodes=leaves, min_samples_leaf=min_leaf, random_state=seed
    )
    scaled = None if weights is None else weights / weights.mean()
    tree = model.fit(inputs, soft_labels, sample_weight=scaled).tree_
    ends = tree.children_left < 0
    values = _leaf_rows(tree, ends, tree.value[:, :, 0], np.arange(classes), classes, smoothing)
    return _engine([tree], [values])


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
    return _engine(
        trees,
        [
            _leaf_rows(
                tree, tree.children_left < 0, tree.value[:, 0, :], columns, classes, smoothing
            )
            for tree in trees
        ],
    )


def round_down(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the greatest float32 not above each value: ``x <= value`` stays the same."""
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, then the greatest
        rounded = values.astype(np.float32)
    above = rounded.astype(np.float64) > values
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded


def _held_to_size(
    fit: Callable[[int], Any], classes: int, most_bytes: int, min_leaf: int, smoothing: float
) -> ForestEngine:
    while True:
        model = fit(min_leaf)
        trees = len(model.estimators_)
        leaves = sum(int(tree.tree_.n_leaves) for tree in model.estimators_)
        nodes = 2 * leaves - trees
        if leaves * classes * 4 + nodes * 14 <= most_bytes or leaves <= 2 * trees:
            return forest_engine(model, classes, smoothing)
        min_leaf *= 2


def _engine(trees: list[Any], values: list[npt.NDArray[np.float32]]) -> ForestEngine:
    features, thresholds, lefts, rights = [], [], [], []
    roots = np.zeros(len(trees), np.int32)
    nodes = leaves = 0
    for t, tree in enumerate(trees):
        is_leaf = tree.children_left < 0
        count = int(is_leaf.sum())
        roots[t] = nodes
        features.append(np.where(is_leaf, -1, tree.feature).astype(np.int16))
        thresholds.append(round_down(np.where(is_leaf, 0.0, tree.threshold)))
        left = (tree.children_left + nodes).astype(np.int32)
        left[is_leaf] = np.arange(leaves, leaves + count)
        lefts.append(left)
        rights.append(np.where(is_leaf, 0, tree.children_right + nodes).astype(np.int32))
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
    value: npt.NDArray[np.float64],
    columns: npt.NDArray[np.int64],
    classes: int,
    smoothing: float,
) -> npt.NDArray[np.float32]:
    shares = np.maximum(value[is_leaf], 0.0)  # means that are off 0 by rounding
    shares = shares / shares.sum(axis=1, keepdims=True)
    weight = tree.weighted_n_node_samples[is_leaf][:, None]
    rows = np.zeros((len(shares), classes))
    rows[:, columns] = shares * weight
    return np.asarray((rows + smoothing / classes) / (weight + smoothing), np.float32)
