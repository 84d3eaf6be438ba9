"""Turns what LightGBM and XGBoost trained into plain arrays, see :mod:`models.boosted`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.engines import BoostedEngine
from models.forest import round_down

__all__ = ["lightgbm_engine", "one_class_engine", "share_engine", "xgboost_engine"]

_ABSENT = -34.5  # score of a class that no row has: a probability of 1e-15
_ZERO = np.float32(1e-35)  # LightGBM's kZeroThreshold


def lightgbm_engine(
    model: str,
    present: npt.NDArray[np.int64],
    classes: int,
    columns: npt.NDArray[np.int64] | None = None,
) -> BoostedEngine:
    """Turn what LightGBM's ``model_to_string`` gave into an engine.

    Args:
        model: A multiclass model without categories, missing values and linear leaves.
        present: Class of each of the model's, int64 ``[model's classes]``.
        classes: Number of classes; the others get a score near 0.
        columns: Which column of the inputs each of the model's is, int64; None: all in order.

    Raises:
        ValueError: The model is of another kind.
    """
    made = _Arrays()
    _add_lightgbm(made, model, len(present), columns)
    return made.engine(present, np.zeros(len(present)), classes)


def share_engine(models: Sequence[str]) -> BoostedEngine:
    """Turn what LightGBM learned of shares into an engine of two classes.

    Args:
        models: By cross-entropy, as for :func:`lightgbm_engine`; the sums are their mean, of which
            the sigmoid is the share of class 1.

    Raises:
        ValueError: A model is of another kind.
    """
    made = _Arrays()
    for model in models:
        _add_lightgbm(made, model, 1, weight=1.0 / len(models))
    return made.engine(np.ones(1, np.int64), np.zeros(1), 2, absent=0.0)


def _add_lightgbm(
    made: _Arrays,
    model: str,
    trees: int,
    columns: npt.NDArray[np.int64] | None = None,
    weight: float = 1.0,
) -> None:
    """Add a model of so many trees a round, its leaves so weighted."""
    head, *sections = model.partition("\nend of trees")[0].split("\nTree=")
    if f"num_tree_per_iteration={trees}" not in head.split("\n"):
        raise ValueError(f"this is no LightGBM model of {trees} classes, a tree for each")
    for section in sections:
        fields = dict(line.split("=", 1) for line in section.split("\n") if "=" in line)
        values = np.array(fields["leaf_value"].split(), np.float64) * weight
        inner = len(values) - 1
        if fields["num_cat"] != "0" or fields.get("is_linear", "0") != "0":
            raise ValueError("a tree with categories or linear leaves has no engine")
        if not inner:
            made.add(*_LONE_LEAF, values)
            continue
        # Bit 0: a category; bits 2 and 3: what counts as missing, 0 for nothing.
        if any(int(kind) & 0b1101 for kind in fields["decision_type"].split()):
            raise ValueError("a tree with categories or missing values has no engine")
        # Inner nodes come first, numbered as they were split; below 0 are leaves, ~ their index.
        left, right = (
            np.where(child < 0, inner + ~child, child)
            for child in (np.array(fields[f"{side}_child"].split(), np.int64) for side in _SIDES)
        )
        threshold = round_down(np.array(fields["threshold"].split(), np.float64))
        # It takes what is no farther from 0 than _ZERO for 0, and so must what is compared.
        near = np.abs(threshold) <= _ZERO
        threshold[near & (threshold >= 0)] = _ZERO
        threshold[near & (threshold < 0)] = np.nextafter(-_ZERO, np.float32(-np.inf))
        feature = np.array(fields["split_feature"].split(), np.int64)
        if columns is not None:
            feature = columns[feature]
        made.add(feature, threshold, left, right, values)


def xgboost_engine(model: bytes, present: npt.NDArray[np.int64], classes: int) -> BoostedEngine:
    """Turn what XGBoost's ``save_raw("json")`` gave into an engine.

    Args:
        model: A ``multi:softprob`` model without categories, one tree per class and round.
        present: Class of each of the model's, int64 ``[model's classes]``.
        classes: Number of classes; the others get a score near 0.

    Raises:
        ValueError: The model is of another kind.
    """
    learner = json.loads(model)["learner"]
    kept = learner["gradient_booster"]["model"]
    base = np.array(json.loads(learner["learner_model_param"]["base_score"]), np.float32)
    order = np.arange(len(kept["trees"])) % len(present)
    if base.shape != (len(present),) or not np.array_equal(kept["tree_info"], order):
        raise ValueError(f"this is no XGBoost model of {len(present)} classes, a tree for each")
    made = _Arrays()
    for tree in kept["trees"]:
        if any(tree["split_type"]) or tree["tree_param"]["num_deleted"] != "0":
            raise ValueError("a tree with categories or deleted nodes has no engine")
        feature = np.array(tree["split_indices"], np.int64)
        left, right = (np.array(tree[f"{side}_children"], np.int64) for side in _SIDES)
        number = np.array(tree["split_conditions"], np.float32)
        inner = left >= 0
        # Inner nodes to the front, in their order.
        at = np.empty(len(left), np.int64)
        at[np.concatenate([np.flatnonzero(inner), np.flatnonzero(~inner)])] = np.arange(len(left))
        # It goes left if x < threshold: so if x <= the greatest float32 below.
        threshold = np.nextafter(number[inner], np.float32(-np.inf))
        made.add(feature[inner], threshold, at[left[inner]], at[right[inner]], number[~inner])
    return made.engine(present, base, classes)


_SIDES = ("left", "right")
_NONE = np.zeros(0, np.int64)
_LONE_LEAF = (_NONE, np.zeros(0, np.float32), _NONE, _NONE)


def one_class_engine(label: int, classes: int) -> BoostedEngine:
    """Return an engine that always says one class."""
    made = _Arrays()
    made.add(*_LONE_LEAF, np.zeros(1))
    return made.engine(np.array([label]), np.zeros(1), classes)


class _Arrays:
    """Gathers trees; in each one inner nodes come first, then its leaves."""

    def __init__(self) -> None:
        self._trees: list[tuple[npt.NDArray[Any], ...]] = []
        self._roots: list[int] = []
        self._nodes = self._leaves = 0

    def add(
        self,
        feature: npt.NDArray[np.int64],
        threshold: npt.NDArray[np.float32],
        left: npt.NDArray[np.int64],
        right: npt.NDArray[np.int64],
        values: npt.NDArray[np.floating[Any]],
    ) -> None:
        ends = np.zeros(len(values), np.int64)
        rows = self._leaves + np.arange(len(values))
        self._roots.append(self._nodes)
        self._trees.append(
            (
                np.concatenate([feature, ends - 1]).astype(np.int16),
                np.concatenate([threshold, ends]).astype(np.float32),
                np.concatenate([left + self._nodes, rows]).astype(np.int32),
                np.concatenate([right + self._nodes, ends]).astype(np.int32),
                values,
            )
        )
        self._nodes += len(feature) + len(values)
        self._leaves += len(values)

    def engine(
        self,
        present: npt.NDArray[np.int64],
        base: npt.NDArray[np.floating[Any]],
        classes: int,
        absent: float = _ABSENT,
    ) -> BoostedEngine:
        feature, threshold, left, right, values = (
            np.concatenate(arrays) for arrays in zip(*self._trees, strict=True)
        )
        start = np.full(classes, absent, values.dtype)
        start[present] = base
        column = np.resize(present, len(self._roots)).astype(np.int32)
        roots = np.array(self._roots, np.int32)
        return BoostedEngine(feature, threshold, left, right, roots, values, column, start)
