"""Trains boosted forests with LightGBM or XGBoost and turns them into plain arrays.

Both say of a class what the leaves of its trees add up to, then softmax (Friedman 2001; Ke et al.
2017; Chen and Guestrin 2016). The arrays keep leaves and order, so the engine's sums are theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.engines import BoostedEngine
from models.folds import grouped_folds
from models.forest import ClassWeight, round_down, row_weights

__all__ = [
    "BoostedSettings",
    "fit_lightgbm",
    "fit_xgboost",
    "lightgbm_engine",
    "xgboost_engine",
]

_AGREE = 1e-5  # most that the engine's probabilities may differ from the library's
_ABSENT = -34.5  # score of a class that no row has: a probability of 1e-15
_ZERO = np.float32(1e-35)  # LightGBM's kZeroThreshold
_SAMPLE = 2_000  # rows that the engine is checked on


@dataclass(frozen=True, slots=True)
class BoostedSettings:
    """How a boosted forest is trained.

    Attributes:
        rounds: Most rounds; each one makes a tree per class.
        patience: Rounds without a better validation loss after which training ends.
        learning_rate: What each tree counts for.
        leaves: Most leaves of a tree.
        min_leaf: Fewest rows at a leaf. XGBoost does not count rows but weighs them by how unsure
            it is of them; a tenth of this is the least weight.
        min_hessian: Least sum of a leaf's second derivatives (LightGBM). With many classes most
            rows hardly count for most trees: leaves of next to nothing take steps without end.
        l2: Weight of the squared steps (Ridge).
        max_step: Longest step of a leaf.
        column_share: Share of the columns that each tree sees.
        class_weight: How rare classes are made to count, see :func:`models.forest.row_weights`.
        threads: Threads of the library; XGBoost learns something else with another number of them.
        seed: Makes it repeatable.
    """

    rounds: int = 60
    patience: int = 10
    learning_rate: float = 0.15
    leaves: int = 31
    min_leaf: int = 3
    min_hessian: float = 0.5
    l2: float = 1.0
    max_step: float = 1.0
    column_share: float = 0.25
    class_weight: ClassWeight | None = None
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows to train on or to stop by; their labels are indices into the classes that have rows."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64] | None


def fit_lightgbm(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    settings: BoostedSettings | None = None,
) -> BoostedEngine:
    """Train with LightGBM, for as many rounds as flows of groups kept aside are judged better.

    Those are found first; then all flows are learned from.

    Args:
        inputs: float32 ``[n, features]``, no NaN.
        labels: Class of each row, int64 ``[n]``.
        groups: Group of each row, int64 ``[n]``; a sixth of them is kept aside.
        classes: Number of classes; those without a row get a score near 0.
        settings: How; the defaults when left out.

    Raises:
        RuntimeError: The engine does not say what LightGBM says.
    """
    import lightgbm

    chosen = settings or BoostedSettings()
    present, train, aside = _parts(inputs, labels, groups, chosen)
    if len(present) < 2:
        return _one_class(int(present[0]), classes)
    how = {
        "objective": "multiclass",
        "num_class": len(present),
        "learning_rate": chosen.learning_rate,
        "num_leaves": chosen.leaves,
        "min_data_in_leaf": chosen.min_leaf,
        "min_sum_hessian_in_leaf": chosen.min_hessian,
        "lambda_l2": chosen.l2,
        "max_delta_step": chosen.max_step,
        "min_gain_to_split": 1e-6,  # by default it splits on what rounding leaves over
        "feature_fraction": chosen.column_share,
        "use_missing": False,
        "zero_as_missing": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": chosen.threads,
        "seed": chosen.seed,
        "verbosity": -1,
    }
    rounds = chosen.rounds
    if aside is not None:
        data = lightgbm.Dataset(train.inputs, train.labels, weight=train.weights)
        valid = data.create_valid(aside.inputs, aside.labels, weight=aside.weights)
        stop = lightgbm.early_stopping(chosen.patience, verbose=False)
        rounds = lightgbm.train(how, data, rounds, [valid], callbacks=[stop]).best_iteration
        train = _together(train, aside)
    data = lightgbm.Dataset(train.inputs, train.labels, weight=train.weights)
    booster = lightgbm.train(how, data, rounds)
    engine = lightgbm_engine(booster.model_to_string(), present, classes)
    sample = _sample(inputs)
    theirs: Any = booster.predict(sample, num_threads=chosen.threads)
    _check(engine, sample, theirs, present)
    return engine


def fit_xgboost(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    settings: BoostedSettings | None = None,
) -> BoostedEngine:
    """Train with XGBoost, for as many rounds as flows of groups kept aside are judged better.

    Those are found first; then all flows are learned from.

    Args:
        inputs: float32 ``[n, features]``, no NaN.
        labels: Class of each row, int64 ``[n]``.
        groups: Group of each row, int64 ``[n]``; a sixth of them is kept aside.
        classes: Number of classes; those without a row get a score near 0.
        settings: How; the defaults when left out.

    Raises:
        RuntimeError: The engine does not say what XGBoost says.
    """
    import xgboost

    chosen = settings or BoostedSettings()
    present, train, aside = _parts(inputs, labels, groups, chosen)
    if len(present) < 2:
        return _one_class(int(present[0]), classes)

    def matrix(part: _Part) -> Any:
        return xgboost.DMatrix(
            part.inputs, part.labels, weight=part.weights, nthread=chosen.threads
        )

    how = {
        "objective": "multi:softprob",
        "num_class": len(present),
        "eta": chosen.learning_rate,
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_depth": 0,
        "max_leaves": chosen.leaves,
        "min_child_weight": chosen.min_leaf / 10,
        "reg_lambda": chosen.l2,
        "max_delta_step": chosen.max_step,
        "colsample_bytree": chosen.column_share,
        "nthread": chosen.threads,
        "seed": chosen.seed,
        "verbosity": 0,
    }
    rounds = chosen.rounds
    if aside is not None:
        stopped = xgboost.train(
            how,
            matrix(train),
            rounds,
            evals=[(matrix(aside), "aside")],
            early_stopping_rounds=chosen.patience,
            verbose_eval=False,
        )
        rounds = stopped.best_iteration + 1
        train = _together(train, aside)
    booster = xgboost.train(how, matrix(train), rounds, verbose_eval=False)
    engine = xgboost_engine(bytes(booster.save_raw("json")), present, classes)
    sample = _sample(inputs)
    theirs = booster.predict(xgboost.DMatrix(sample, nthread=chosen.threads))
    _check(engine, sample, theirs, present)
    return engine


def lightgbm_engine(model: str, present: npt.NDArray[np.int64], classes: int) -> BoostedEngine:
    """Turn what LightGBM's ``model_to_string`` gave into an engine.

    Args:
        model: A multiclass model without categories, missing values and linear leaves.
        present: Class of each of the model's, int64 ``[model's classes]``.
        classes: Number of classes; the others get a score near 0.

    Raises:
        ValueError: The model is of another kind.
    """
    head, *sections = model.partition("\nend of trees")[0].split("\nTree=")
    if f"num_tree_per_iteration={len(present)}" not in head.split("\n"):
        raise ValueError(f"this is no LightGBM model of {len(present)} classes, a tree for each")
    made = _Arrays()
    for section in sections:
        fields = dict(line.split("=", 1) for line in section.split("\n") if "=" in line)
        values = np.array(fields["leaf_value"].split(), np.float64)
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
        made.add(
            np.array(fields["split_feature"].split(), np.int64), threshold, left, right, values
        )
    return made.engine(present, np.zeros(len(present)), classes)


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
    ) -> BoostedEngine:
        feature, threshold, left, right, values = (
            np.concatenate(arrays) for arrays in zip(*self._trees, strict=True)
        )
        start = np.full(classes, _ABSENT, values.dtype)
        start[present] = base
        column = np.resize(present, len(self._roots)).astype(np.int32)
        roots = np.array(self._roots, np.int32)
        return BoostedEngine(feature, threshold, left, right, roots, values, column, start)


def _parts(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    settings: BoostedSettings,
) -> tuple[npt.NDArray[np.int64], _Part, _Part | None]:
    """Return the classes that have rows, what to train on, and what to stop by (None: nothing)."""
    aside = np.zeros(len(labels), np.bool_)
    if len(np.unique(groups)) > 1:
        aside = grouped_folds(labels, groups, 6, settings.seed) == 0
    # What stands in groups kept aside alone is better learnt than used to stop by.
    aside &= np.isin(labels, labels[~aside])
    weights = row_weights(labels, settings.class_weight)
    present = np.unique(labels)

    def part(rows: npt.NDArray[np.bool_]) -> _Part:
        index = np.searchsorted(present, labels[rows])
        return _Part(inputs[rows], index, None if weights is None else weights[rows])

    return present, part(~aside), part(aside) if aside.any() else None


def _together(first: _Part, second: _Part) -> _Part:
    weights = None
    if first.weights is not None and second.weights is not None:
        weights = np.concatenate([first.weights, second.weights])
    return _Part(
        np.concatenate([first.inputs, second.inputs]),
        np.concatenate([first.labels, second.labels]),
        weights,
    )


def _one_class(label: int, classes: int) -> BoostedEngine:
    made = _Arrays()
    made.add(*_LONE_LEAF, np.zeros(1))
    return made.engine(np.array([label]), np.zeros(1), classes)


def _sample(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return inputs[:: max(1, len(inputs) // _SAMPLE)]


def _check(
    engine: BoostedEngine,
    inputs: npt.NDArray[np.float32],
    theirs: npt.NDArray[np.floating[Any]],
    present: npt.NDArray[np.int64],
) -> None:
    ours = engine.scores(inputs)
    gap = float(np.abs(ours[:, present] - theirs).max())
    other = int((ours.argmax(axis=1) != present[theirs.argmax(axis=1)]).sum())
    if gap > _AGREE or other:
        raise RuntimeError(
            f"the engine is off by {gap:.2g} in probability, and in the label of {other} of "
            f"{len(inputs)} flows"
        )
