"""What can be trained and served keeps one contract, whatever it is.

A new model is one more line in CASES: a name, and a function that trains it on little data.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from flows.errors import BundleError
from models import networks
from models.boosted import BoostedSettings, fit_lightgbm, fit_xgboost
from models.engines import Engine, MeanEngine, OnnxEngine, engine_from_files
from models.features import SEQUENCE_CHANNELS
from models.forest import fit_distilled_tree, fit_extra_trees, fit_random_forest, fit_tree

ROWS, CLASSES, COLUMNS = 700, 5, 9
GROUPS = np.arange(ROWS) // 50


@dataclass(frozen=True)
class Made:
    """An engine, what it reads, and what its trainer's own library says of that."""

    engine: Engine
    inputs: np.ndarray
    theirs: np.ndarray


def flows() -> tuple[np.ndarray, np.ndarray]:
    """Return columns as header fields are, many of them equal, and classes."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    x[:, 0] = rng.integers(0, 3, ROWS)
    x[:, 1] = rng.choice(np.array([-1, 0, 64, 128, 1460], np.float32), ROWS)
    x[:, 2] = np.where(rng.random(ROWS) < 0.3, -1, x[:, 2])
    y = (x[:, 0] + (x[:, 1] > 0) + (x[:, 3] > 0.3)).astype(np.int64)
    y[rng.random(ROWS) < 0.1] = 2
    return x, y


def tree() -> Made:
    x, y = flows()
    own = DecisionTreeClassifier(min_samples_leaf=4, random_state=0).fit(x, y)
    return Made(fit_tree(x, y, CLASSES), x, smoothed(own, x, own.predict_proba(x)))


def smoothed(own: Any, x: np.ndarray, shares: np.ndarray) -> np.ndarray:
    weight = own.tree_.weighted_n_node_samples[own.apply(x)][:, None]
    return (shares * weight + 1 / CLASSES) / (weight + 1)


def extra_trees() -> Made:
    x, y = flows()
    own = ExtraTreesClassifier(9, min_samples_leaf=2, max_features=None, random_state=0)
    return Made(fit_extra_trees(x, y, CLASSES, trees=9), x, own.fit(x, y).predict_proba(x))


def random_forest() -> Made:
    x, y = flows()
    own = RandomForestClassifier(10, min_samples_leaf=2, random_state=0)
    return Made(fit_random_forest(x, y, CLASSES, trees=10), x, own.fit(x, y).predict_proba(x))


def distilled_tree() -> Made:
    x, _ = flows()
    soft = extra_trees().engine.scores(x)
    own = DecisionTreeRegressor(max_leaf_nodes=40, min_samples_leaf=4, random_state=0).fit(x, soft)
    return Made(fit_distilled_tree(x, soft, leaves=40), x, smoothed(own, x, own.predict(x)))


def boosted(fit: Callable[..., Engine], library: ModuleType) -> tuple[Engine, Any]:
    """Return an engine and the booster that it was made of."""
    x, y = flows()
    kept: list[Any] = []
    train = library.train

    def spy(*args: Any, **kwargs: Any) -> Any:
        kept.append(train(*args, **kwargs))
        return kept[0]

    with mock.patch.object(library, "train", spy):
        return fit(x, y, GROUPS, CLASSES, BoostedSettings(rounds=25, patience=5)), kept[0]


def lightgbm() -> Made:
    import lightgbm

    engine, booster = boosted(fit_lightgbm, lightgbm)
    x = flows()[0]
    return Made(engine, x, booster.predict(x, num_threads=1))


def xgboost() -> Made:
    import xgboost

    engine, booster = boosted(fit_xgboost, xgboost)
    x = flows()[0]
    best = booster[: booster.best_iteration + 1]
    return Made(engine, x, best.predict(xgboost.DMatrix(x, nthread=1)))


def mean() -> Made:
    parts = made("extra trees"), made("lightgbm")
    engine = MeanEngine([part.engine for part in parts], [1.0, 3.0])
    return Made(engine, parts[0].inputs, 0.25 * parts[0].theirs + 0.75 * parts[1].theirs)


def network(kind: networks.Kind) -> Made:
    x, y = flows()
    if kind != "mlp":
        rng = np.random.default_rng(6)
        x = np.zeros((ROWS, 4, SEQUENCE_CHANNELS), np.float32)
        there = np.arange(4) < rng.integers(1, 5, ROWS)[:, None]
        x[there] = rng.normal(size=(there.sum(), SEQUENCE_CHANNELS))
        x[..., 0] = there
        y = (x[:, 0, 1] > 0).astype(np.int64) + 2 * (x[:, 1, 2] > 0)
    kept: list[Any] = []
    export = networks.to_engine

    def spy(module: Any, *args: Any) -> OnnxEngine:
        kept.append(module)
        return export(module, *args)

    with mock.patch.object(networks, "to_engine", spy):
        settings = networks.NetworkSettings(width=8, bins=4, epochs=2)
        engine = networks.fit_network(kind, x, y, GROUPS, CLASSES, settings)
    with torch.inference_mode():
        theirs = torch.softmax(kept[0](torch.from_numpy(x)), dim=1).numpy()
    return Made(engine, x, theirs)


CASES: dict[str, Callable[[], Made]] = {
    "tree": tree,
    "extra trees": extra_trees,
    "random forest": random_forest,
    "distilled tree": distilled_tree,
    "lightgbm": lightgbm,
    "xgboost": xgboost,
    "mean": mean,
    **{kind: partial(network, kind) for kind in networks.KINDS},
}


@cache
def made(name: str) -> Made:
    return CASES[name]()


each = pytest.mark.parametrize("name", CASES)


@each
def test_scores_are_probabilities_of_all_classes(name: str) -> None:
    case = made(name)
    scores = case.engine.scores(case.inputs)
    assert scores.dtype == np.float32
    assert scores.shape == (ROWS, CLASSES)
    assert scores.flags.c_contiguous
    assert case.engine.classes == CLASSES
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1, dtype=np.float64), 1.0, rtol=0, atol=1e-6)
    assert case.engine.scores(case.inputs[:0]).shape == (0, CLASSES)


@each
def test_it_says_what_its_trainer_says(name: str) -> None:
    case = made(name)
    scores = case.engine.scores(case.inputs)
    np.testing.assert_allclose(scores, case.theirs, rtol=0, atol=1e-5)
    ours, theirs = scores.argmax(axis=1), case.theirs.argmax(axis=1)
    # Where float32 cannot tell two classes apart, either may be said.
    level = np.isclose(case.theirs.max(axis=1), np.sort(case.theirs)[:, -2], rtol=0, atol=6e-8)
    np.testing.assert_array_equal(ours[~level], theirs[~level])
    assert level.mean() < 0.05


@each
def test_inputs_are_left_as_they_are_and_may_be_read_only(name: str) -> None:
    case = made(name)
    frozen = case.inputs.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(case.engine.scores(frozen), case.engine.scores(case.inputs))
    np.testing.assert_array_equal(case.inputs, frozen)
    spread = np.repeat(case.inputs, 2, axis=0)[::2]  # rows that do not follow each other in memory
    np.testing.assert_array_equal(case.engine.scores(spread), case.engine.scores(case.inputs))


@each
@pytest.mark.parametrize("rows", [1, 2, 3, 16, 17, 64])
def test_a_flow_scores_the_same_in_any_company(name: str, rows: int) -> None:
    case = made(name)
    some = case.inputs[:192]
    whole = case.engine.scores(case.inputs)[:192]
    parts = [case.engine.scores(some[at : at + rows]) for at in range(0, len(some), rows)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(0).permutation(len(some))
    np.testing.assert_array_equal(case.engine.scores(some[order]), whole[order])


@each
def test_what_is_saved_comes_back_the_same_to_the_last_bit(name: str) -> None:
    case = made(name)
    again = engine_from_files(case.engine.kind, case.engine.files())
    assert again.files() == case.engine.files()
    assert (again.classes, again.columns) == (case.engine.classes, case.engine.columns)
    ours, theirs = again.scores(case.inputs), case.engine.scores(case.inputs)
    assert ours.tobytes() == theirs.tobytes()


@each
def test_training_twice_gives_the_same_files(name: str) -> None:
    assert CASES[name]().engine.files() == made(name).engine.files()


@each
def test_a_column_too_many_does_no_harm_or_is_refused(name: str) -> None:
    case = made(name)
    one = np.zeros((*case.inputs.shape[:-1], 1), np.float32)
    more = np.concatenate([case.inputs, one], axis=-1)
    refused = ""
    try:
        np.testing.assert_array_equal(case.engine.scores(more), case.engine.scores(case.inputs))
    except ValueError as error:
        refused = str(error)
    assert not refused or str(more.shape) in refused


@each
def test_too_few_columns_are_refused(name: str) -> None:
    case = made(name)
    for few in (case.inputs[..., :1], case.inputs[..., :0], case.inputs[0], case.inputs[:, None]):
        with pytest.raises(ValueError, match="reads"):
            case.engine.scores(few)


@each
def test_damaged_files_are_refused(name: str) -> None:
    engine = made(name).engine
    files = engine.files()
    for file, data in files.items():
        rest = {key: value for key, value in files.items() if key != file}
        with pytest.raises(BundleError, match=r"json|npy|onnx"):
            engine_from_files(engine.kind, rest)
        for damaged in (b"", data[: len(data) // 2], b"\x93NUMPY", b"PK\x03\x04", data[::-1]):
            with pytest.raises(BundleError):
                engine_from_files(engine.kind, {**rest, file: damaged})


@each
def test_a_changed_byte_is_refused_or_does_no_harm(name: str) -> None:
    """Digests tell of chance; here someone has signed what was changed."""
    case = made(name)
    files = case.engine.files()
    rng = np.random.default_rng(0)
    for file in (file for file in files if file.endswith("npy")):
        for _ in range(30):
            data = bytearray(files[file])
            # Half of the changes to the header, half to the numbers.
            at = rng.integers(0, 128) if rng.random() < 0.5 else rng.integers(128, len(data))
            data[at] ^= 1 << rng.integers(0, 8)
            try:
                engine = engine_from_files(case.engine.kind, {**files, file: bytes(data)})
                scores = engine.scores(case.inputs[:20])
            except (BundleError, ValueError):  # such as: reads more columns
                continue
            assert np.isfinite(scores).all()
            np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-4)


@each
def test_arrays_that_could_carry_code_are_refused(name: str) -> None:
    engine = made(name).engine
    files = engine.files()
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    for file in files:
        with pytest.raises(BundleError):
            engine_from_files(engine.kind, {**files, file: buffer.getvalue()})
