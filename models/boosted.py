"""Trains boosted forests with LightGBM or XGBoost and turns them into plain arrays.

Both say of a class what the leaves of its trees add up to, then softmax (Friedman 2001; Ke et al.
2017; Chen and Guestrin 2016). The arrays keep leaves and order, so the engine's sums are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.boosted_engines import (
    lightgbm_engine,
    one_class_engine,
    share_engine,
    xgboost_engine,
)
from models.engines import BoostedEngine
from models.folds import grouped_folds
from models.forest import ClassWeight, row_weights

__all__ = ["BoostedSettings", "fit_lightgbm", "fit_shares", "fit_xgboost"]

_AGREE = 1e-5  # most that the engine's probabilities may differ from the library's
_SAMPLE = 2_000  # rows that the engine is checked on
_SHARE_MODELS, _SHARE_ROUNDS = 4, 60
_BEYOND = 3  # rows: as many as LightGBM puts into a bin at least
_WIDE = 512  # columns; of so many, such as headers' bits, most are the same in all rows


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

    def of(self, columns: npt.NDArray[np.int64]) -> _Part:
        """Return the same rows with some of the columns."""
        return replace(self, inputs=self.inputs[:, columns])


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
        return one_class_engine(int(present[0]), classes)
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
        "num_threads": chosen.threads,
        "seed": chosen.seed,
        "verbosity": -1,
    }
    wide = inputs.shape[1] > _WIDE
    how |= {"force_col_wise": True} if wide else {"force_row_wise": True}
    columns = np.flatnonzero((inputs != inputs[:1]).any(axis=0)) if wide else None
    if columns is not None and len(columns):  # the library would bin them all first
        train, aside = train.of(columns), None if aside is None else aside.of(columns)
    else:
        columns = None
    rounds = chosen.rounds
    if aside is not None:
        data = lightgbm.Dataset(train.inputs, train.labels, weight=train.weights)
        valid = data.create_valid(aside.inputs, aside.labels, weight=aside.weights)
        stop = lightgbm.early_stopping(chosen.patience, verbose=False)
        rounds = lightgbm.train(how, data, rounds, [valid], callbacks=[stop]).best_iteration
        train = _together(train, aside)
    data = lightgbm.Dataset(train.inputs, train.labels, weight=train.weights)
    booster = lightgbm.train(how, data, rounds)
    engine = lightgbm_engine(booster.model_to_string(), present, classes, columns)
    sample = _sample(inputs)
    seen = sample if columns is None else sample[:, columns]
    theirs: Any = booster.predict(seen, num_threads=chosen.threads)
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
        return one_class_engine(int(present[0]), classes)

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


def fit_shares(
    inputs: npt.NDArray[np.float32], shares: npt.NDArray[np.float32], seed: int = 0
) -> BoostedEngine:
    """Train with LightGBM on shares instead of labels, by their cross-entropy.

    There is little to be learned from much noise: so rows, columns and thresholds are drawn, and
    what is said is the mean of several such models, which differ by their seeds.

    Args:
        inputs: float32 ``[n, features]``, no NaN.
        shares: What share of each row is class 1, float32 ``[n]`` within [0, 1]; the rest is 0.
        seed: Makes it repeatable.

    Returns:
        An engine of two classes.

    Raises:
        RuntimeError: The engine does not say what LightGBM says.
    """
    import lightgbm

    how = {
        "objective": "cross_entropy",
        "extra_trees": True,
        "learning_rate": 0.09,
        "num_leaves": 31,
        "min_data_in_leaf": 20,
        "lambda_l2": 5.0,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "use_missing": False,
        "zero_as_missing": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    # LightGBM draws any threshold of a column but its last one, so a column of two values would
    # never be split: rows of no weight, beyond all others, make room for it.
    beyond = inputs.max(axis=0) + np.maximum(np.abs(inputs.max(axis=0)), 1.0)
    data = lightgbm.Dataset(
        np.concatenate([inputs, np.tile(beyond.astype(np.float32), (_BEYOND, 1))]),
        np.concatenate([shares, np.full(_BEYOND, shares.mean(), np.float32)]),
        weight=np.repeat([1.0, 0.0], [len(inputs), _BEYOND]),
        free_raw_data=False,
    )
    seeds = np.random.SeedSequence(seed).generate_state(_SHARE_MODELS) >> 1
    found = [lightgbm.train({**how, "seed": int(one)}, data, _SHARE_ROUNDS) for one in seeds]
    engine = share_engine([one.model_to_string() for one in found])
    sample = _sample(inputs)
    raw = np.mean([one.predict(sample, raw_score=True, num_threads=1) for one in found], axis=0)
    theirs = 1.0 / (1.0 + np.exp(-raw))
    _check(engine, sample, np.stack([1.0 - theirs, theirs], axis=1), np.arange(2))
    return engine


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
