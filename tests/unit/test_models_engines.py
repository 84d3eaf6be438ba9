"""Every engine keeps the same contract; a forest says exactly what scikit-learn's does."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from flows.errors import BundleError
from models.engines import Engine, ForestEngine, OnnxEngine, engine_from_files
from models.features import SEQUENCE_CHANNELS, packet_sequence
from models.forest import fit_extra_trees, fit_tree, forest_engine
from models.sequence import SequenceSettings, fit_sequence
from models.synthetic import synthetic_dataset

CLASSES = 4
COLUMNS = 6


def columns(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, COLUMNS)).astype(np.float32)
    x[:, 0] = rng.integers(0, 3, n)  # equal values, as header fields have
    y = (x[:, 0] + (x[:, 1] > 0)).astype(np.int64)
    return x, y


@pytest.fixture(scope="module")
def engines() -> dict[str, tuple[Engine, np.ndarray]]:
    x, y = columns(600)
    data = synthetic_dataset(300, seed=1)
    s = packet_sequence(data.packets, data.offsets, data.depth, with_port=True)
    label = np.unique(data.labels, return_inverse=True)[1]
    settings = SequenceSettings(width=8, epochs=2)
    return {
        "tree": (fit_tree(x, y, CLASSES), x),
        "extra trees": (fit_extra_trees(x, y, CLASSES, trees=7), x),
        "network": (fit_sequence(s, label, data.groups, CLASSES, settings), s),
    }


each_engine = pytest.mark.parametrize("name", ["tree", "extra trees", "network"])


@each_engine
def test_scores_are_probabilities_of_all_classes(
    engines: dict[str, tuple[Engine, np.ndarray]], name: str
) -> None:
    engine, x = engines[name]
    scores = engine.scores(x)
    assert scores.dtype == np.float32
    assert scores.shape == (len(x), CLASSES)
    assert engine.classes == CLASSES
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)


@each_engine
def test_inputs_are_left_as_they_are_and_may_be_read_only(
    engines: dict[str, tuple[Engine, np.ndarray]], name: str
) -> None:
    engine, x = engines[name]
    before = x.copy()
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(engine.scores(frozen), engine.scores(x))
    np.testing.assert_array_equal(x, before)


@each_engine
def test_a_saved_engine_comes_back_the_same(
    engines: dict[str, tuple[Engine, np.ndarray]], name: str
) -> None:
    engine, x = engines[name]
    again = engine_from_files(engine.kind, engine.files())
    np.testing.assert_array_equal(again.scores(x), engine.scores(x))
    assert again.files() == engine.files()


@each_engine
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 15, 16, 17, 64])
def test_a_flow_scores_the_same_in_any_company(
    engines: dict[str, tuple[Engine, np.ndarray]], name: str, rows: int
) -> None:
    engine, x = engines[name]
    whole = engine.scores(x)
    parts = [engine.scores(x[at : at + rows]) for at in range(0, len(x), rows)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(engine.scores(x[order]), whole[order])


@each_engine
def test_no_flows_give_no_scores(engines: dict[str, tuple[Engine, np.ndarray]], name: str) -> None:
    engine, x = engines[name]
    assert engine.scores(x[:0]).shape == (0, CLASSES)


MODELS: list[Callable[[], object]] = [
    lambda: DecisionTreeClassifier(random_state=0),
    lambda: RandomForestClassifier(11, random_state=0),
    lambda: ExtraTreesClassifier(11, random_state=0),
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("missing_class", [False, True])
def test_a_forest_scores_as_scikit_learn_does(
    make: Callable[[], object], missing_class: bool
) -> None:
    x, y = columns(500)
    if missing_class:
        y = np.where(y == 1, 0, y)
    model = make().fit(x, y)  # type: ignore[attr-defined]
    new = np.concatenate([columns(500, seed=9)[0], x])
    wanted = np.zeros((len(new), CLASSES))
    wanted[:, model.classes_] = model.predict_proba(new)
    np.testing.assert_allclose(forest_engine(model, CLASSES).scores(new), wanted, atol=2e-6)


def test_values_next_to_a_threshold_go_the_way_scikit_learn_sends_them() -> None:
    """The threshold is float64 there and float32 here; no float32 value may change sides."""
    rng = np.random.default_rng(3)
    low = rng.normal(size=300).astype(np.float32)
    high = np.nextafter(low, np.float32(np.inf))
    for a, b in zip(low, high, strict=True):
        x = np.array([[a], [b]], np.float32)
        model = DecisionTreeClassifier(random_state=0).fit(x, [0, 1])
        near = np.array([[np.nextafter(a, np.float32(-np.inf))], [a], [b]], np.float32)
        np.testing.assert_allclose(
            forest_engine(model, 2).scores(near), model.predict_proba(near), atol=1e-6
        )


def test_smoothed_leaves_are_never_certain() -> None:
    x, y = columns(300)
    scores = fit_tree(x, y, CLASSES).scores(x)
    assert scores.max() < 1.0
    assert scores.min() > 0.0


def test_a_forest_is_held_to_its_size() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3_000, 4)).astype(np.float32)
    y = rng.integers(0, 4, 3_000)
    engine = fit_extra_trees(x, y, 4, trees=5, most_bytes=20_000)
    assert sum(map(len, engine.files().values())) < 22_000


def test_training_the_network_twice_gives_the_same_file() -> None:
    data = synthetic_dataset(120, seed=2)
    s = packet_sequence(data.packets, data.offsets, data.depth, with_port=False)
    label = np.unique(data.labels, return_inverse=True)[1]
    settings = SequenceSettings(width=8, epochs=2)
    first, second = (
        fit_sequence(s, label, data.groups, CLASSES, settings).files() for _ in range(2)
    )
    assert first == second
    assert b".py" not in first["model.onnx"]  # no paths of the machine that made it


def broken(**changes: np.ndarray) -> dict[str, bytes]:
    x, y = columns(200)
    files = fit_tree(x, y, CLASSES).files()
    for name, array in changes.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[f"{name}.npy"] = buffer.getvalue()
    return files


def arrays() -> dict[str, np.ndarray]:
    return {name.removesuffix(".npy"): np.load(io.BytesIO(data)) for name, data in broken().items()}


def edited(name: str, at: int, value: int) -> np.ndarray:
    array = arrays()[name].copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("left", 0, 10**6),
        ("left", 0, 0),  # a walk would never end
        ("left", 0, -5),
        ("right", 0, -1),
        ("roots", 0, 10**6),
        ("roots", 0, -1),
        ("left", -1, 10**6),  # the last node is a leaf: a row of values that is not there
        ("feature", 0, -2),
    ],
)
def test_a_forest_whose_arrays_lead_astray_is_refused(name: str, at: int, value: int) -> None:
    with pytest.raises(BundleError, match="contradict"):
        ForestEngine.from_files(broken(**{name: edited(name, at, value)}))


def test_a_forest_of_other_types_or_lengths_is_refused() -> None:
    with pytest.raises(BundleError, match="left"):
        ForestEngine.from_files(broken(left=arrays()["left"].astype(np.int64)))
    with pytest.raises(BundleError, match="contradict"):
        ForestEngine.from_files(broken(right=arrays()["right"][:-1]))
    with pytest.raises(BundleError, match="contradict"):
        ForestEngine.from_files(broken(roots=np.zeros(0, np.int32)))
    with pytest.raises(BundleError, match="contradict"):
        ForestEngine.from_files(broken(values=np.full_like(arrays()["values"], np.nan)))
    with pytest.raises(BundleError, match=r"values\.npy"):
        ForestEngine.from_files(broken(values=arrays()["values"][:, 0]))


def test_a_pickled_array_is_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    files = broken()
    files["feature.npy"] = buffer.getvalue()
    with pytest.raises(BundleError, match=r"feature\.npy"):
        ForestEngine.from_files(files)


def test_a_missing_file_is_named() -> None:
    files = broken()
    del files["roots.npy"]
    with pytest.raises(BundleError, match=r"roots\.npy"):
        ForestEngine.from_files(files)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        OnnxEngine.from_files({})


def test_what_is_no_onnx_model_is_refused() -> None:
    with pytest.raises(BundleError, match=r"model\.onnx"):
        OnnxEngine(b"no model")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(BundleError, match="abacus"):
        engine_from_files("abacus", {})


def test_too_few_columns_are_refused() -> None:
    x, y = columns(200)
    with pytest.raises(ValueError, match="columns"):
        fit_tree(x, y, CLASSES).scores(x[:, :1])


def test_the_network_takes_sequences_of_the_published_shape() -> None:
    data = synthetic_dataset(20)
    s = packet_sequence(data.packets, data.offsets, 10, with_port=False)
    assert s.shape == (20, 10, SEQUENCE_CHANNELS)
