"""A forest says exactly what scikit-learn's does; see test_models_contract for what all keep."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from flows.errors import BundleError
from models.engines import ForestEngine, OnnxEngine, engine_from_files
from models.features import SEQUENCE_CHANNELS, Sight, packet_sequence
from models.forest import fit_extra_trees, fit_random_forest, fit_tree, forest_engine, round_down
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


def leaves(engine: ForestEngine) -> int:
    return int((load(engine.files()["feature.npy"]) < 0).sum())


@pytest.mark.parametrize("fit", [fit_extra_trees, fit_random_forest])
def test_the_options_of_forests_are_heeded(fit: Callable[..., ForestEngine]) -> None:
    x, y = columns(600)
    plain = fit(x, y, CLASSES, trees=5, seed=1)
    assert leaves(fit(x, y, CLASSES, trees=5, seed=1, min_leaf=30)) < leaves(plain) / 2
    for other in ({"max_features": 0.2}, {"class_weight": "balanced"}, {"seed": 2}):
        engine = fit(x, y, CLASSES, trees=5, **{"seed": 1, **other})
        assert engine.files() != plain.files()


def test_rare_classes_can_be_made_to_count() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_000, 2)).astype(np.float32)
    y = (rng.random(1_000) < 0.05).astype(np.int64)
    shares = [
        fit_tree(x, y, 2, min_leaf=200, class_weight=how).scores(x)[:, 1].mean()
        for how in (None, "sqrt", "balanced")
    ]
    np.testing.assert_allclose(shares, [0.05, 0.2, 0.5], atol=0.07)


def test_thresholds_beyond_float32_decide_as_before() -> None:
    rounded = round_down(np.array([1e300, -1e300, 0.1, -0.1]))
    greatest = np.finfo(np.float32).max
    np.testing.assert_array_equal(rounded[:2], np.array([greatest, -np.inf], np.float32))
    assert rounded[2] <= 0.1
    assert rounded[3] <= -0.1


def test_training_the_network_twice_gives_the_same_file() -> None:
    data = synthetic_dataset(120, seed=2)
    s = packet_sequence(data.packets, data.offsets, data.depth, sight=Sight())
    label = np.unique(data.labels, return_inverse=True)[1]
    settings = SequenceSettings(width=8, epochs=2)
    first, second = (
        fit_sequence(s, label, data.groups, CLASSES, settings).files() for _ in range(2)
    )
    assert first == second
    assert b".py" not in first["model.onnx"]  # no paths of the machine that made it


def test_leaves_that_say_the_same_are_kept_once() -> None:
    x, y = columns(4_000)
    engine = fit_extra_trees(x, y, CLASSES, trees=8, min_leaf=1, smoothing=3.0)
    kept = {name.removesuffix(".npy"): load(data) for name, data in engine.files().items()}
    assert len(np.unique(kept["values"], axis=0)) == len(kept["values"])
    ends = np.flatnonzero(kept["feature"] < 0)
    assert len(kept["values"]) < 0.6 * len(ends), "many hold few flows of one class"
    apart = dict(kept, left=kept["left"].copy(), values=kept["values"][kept["left"][ends]])
    apart["left"][ends] = np.arange(len(ends))
    again = ForestEngine(**apart)
    np.testing.assert_array_equal(again.scores(x), engine.scores(x))
    assert again.files() == engine.files(), "however they come"


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 65])
def test_rows_are_walked_two_by_two_and_none_is_left_out(rows: int) -> None:
    x, y = columns(400)
    x[::5, 1] = np.nan  # as scikit-learn, which learned of none, does not take them
    engine = fit_extra_trees(np.nan_to_num(x), y, CLASSES, trees=6)
    np.testing.assert_array_equal(engine.scores(x[:rows]), engine.scores(x)[:rows])
    far = np.where(np.isnan(x), np.float32(3e38), x)
    np.testing.assert_array_equal(engine.scores(x), engine.scores(far), "NaN goes right")


def test_a_tree_too_wide_to_be_walked_is_refused() -> None:
    """A node of eight bytes has no room for both a far column and far children."""

    def chain(length: int, column: int) -> ForestEngine:
        # The root's right child stands behind all nodes on its left: a chain with a leaf at each.
        last = 2 * length + 2
        feature = np.full(last + 3, -1, np.int16)
        chained = np.arange(1, 2 * length, 2)
        feature[chained], feature[[0, last]] = 0, (column, 0)
        left, right = np.zeros((2, len(feature)), np.int32)
        left[chained], right[chained] = chained + 1, chained + 2
        left[[0, last]], right[[0, last]] = (1, last + 1), (last, last + 2)
        nothing, root = np.zeros(len(feature), np.float32), np.zeros(1, np.int32)
        return ForestEngine(feature, nothing, left, right, root, np.float32([[0.5, 0.5]]))

    narrow = chain(70_000, 40)
    assert narrow.scores(np.zeros((1, 41), np.float32)).tolist() == [[0.5, 0.5]]
    with pytest.raises(BundleError, match="too large to be walked"):
        chain(70_000, 16_384)


def load(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


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


def edited(name: str, at: int, value: float) -> np.ndarray:
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
        ("left", 0, 2),  # two nodes lead to the same one, and none to another
        ("threshold", 0, np.nan),
    ],
)
def test_a_forest_whose_arrays_lead_astray_is_refused(name: str, at: int, value: float) -> None:
    with pytest.raises(BundleError, match="contradict"):
        ForestEngine.from_files(broken(**{name: edited(name, at, value)}))


def test_leaves_that_are_no_probabilities_are_refused() -> None:
    values = arrays()["values"]
    for changed in (values * 2, values - [1, -1, 0, 0], values[:, :0]):
        with pytest.raises(BundleError, match="no probabilities"):
            ForestEngine.from_files(broken(values=changed.astype(np.float32)))


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
    s = packet_sequence(data.packets, data.offsets, 10, sight=Sight())
    assert s.shape == (20, 10, SEQUENCE_CHANNELS)
