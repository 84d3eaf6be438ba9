"""Boosted forests say exactly what the library that trained them says; means join two engines."""

from __future__ import annotations

import io
import json
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost

from flows.errors import BundleError
from models import boosted_engines
from models.bitvectors import bit_trees
from models.boosted import BoostedSettings, fit_lightgbm, fit_shares, fit_xgboost
from models.boosted_engines import lightgbm_engine, xgboost_engine
from models.engines import BoostedEngine, MeanEngine, OnnxEngine
from models.forest import fit_distilled_tree, fit_extra_trees, fit_tree, row_weights

CLASSES = 4
FITS = [fit_lightgbm, fit_xgboost]
QUICK = BoostedSettings(rounds=12, patience=4, column_share=0.8)
each_fit = pytest.mark.parametrize("fit", FITS)


def flows(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    x[:, 0] = rng.integers(-1, 3, n)  # equal values, -1 for absent, 0
    x[:, 1] = rng.choice(np.array([-1, -1e-35, 0, 1e-38, 1e-30, 3e38], np.float32), n)
    y = np.clip(x[:, 0] + (x[:, 2] > 0), 0, CLASSES - 1).astype(np.int64)
    return x, y, np.arange(n) // 40


def lightgbm_booster(x: np.ndarray, y: np.ndarray, **more: Any) -> lightgbm.Booster:
    settings = {
        "objective": "multiclass",
        "num_class": CLASSES,
        "num_threads": 1,
        "verbosity": -1,
        "use_missing": False,
    }
    return lightgbm.train({**settings, **more}, lightgbm.Dataset(x, y), 8)


def xgboost_booster(x: np.ndarray, y: np.ndarray, **more: Any) -> xgboost.Booster:
    settings = {"objective": "multi:softprob", "num_class": CLASSES, "nthread": 1}
    return xgboost.train({**settings, **more}, xgboost.DMatrix(x, y, nthread=1), 8)


def near(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return rows with each threshold and the float32 numbers next to it in all columns."""
    numbers = np.unique(thresholds.astype(np.float32))
    numbers = np.concatenate(
        [np.nextafter(numbers, np.float32(side)) for side in (-np.inf, np.inf)] + [numbers]
    )
    return np.concatenate([x, np.repeat(numbers[:, None], x.shape[1], axis=1)])


def test_sums_are_those_of_lightgbm_to_the_last_bit() -> None:
    x, y, _ = flows()
    booster = lightgbm_booster(x, y)
    engine = lightgbm_engine(booster.model_to_string(), np.arange(CLASSES), CLASSES)
    new = near(flows(seed=1)[0], arrays(engine)["threshold"])
    wanted = booster.predict(new, raw_score=True, num_threads=1)
    np.testing.assert_array_equal(engine.sums(new), wanted)
    np.testing.assert_array_equal(engine.scores(new).argmax(axis=1), wanted.argmax(axis=1))
    np.testing.assert_allclose(
        engine.scores(new), booster.predict(new, num_threads=1), rtol=0, atol=1e-7
    )


def test_sums_are_those_of_xgboost_to_the_last_bit() -> None:
    x, y, _ = flows()
    booster = xgboost_booster(x, y)
    engine = xgboost_engine(bytes(booster.save_raw("json")), np.arange(CLASSES), CLASSES)
    new = near(flows(seed=1)[0], arrays(engine)["threshold"])
    data = xgboost.DMatrix(new, nthread=1)
    wanted = booster.predict(data, output_margin=True)
    np.testing.assert_array_equal(engine.sums(new), wanted)
    np.testing.assert_array_equal(engine.scores(new).argmax(axis=1), wanted.argmax(axis=1))
    np.testing.assert_allclose(engine.scores(new), booster.predict(data), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fit", FITS)
def test_sums_do_not_depend_on_how_many_flows_are_in_the_call(fit: Any) -> None:
    """Few flows are walked through the trees, more are asked bit by bit."""
    x, y, groups = flows()
    engine = fit(x, y, groups, CLASSES, QUICK)
    new = near(x, arrays(engine)["threshold"])
    new[::7, 2] = np.nan
    alone = np.concatenate([engine.sums(row[None]) for row in new[:150]])
    for n in (2, 4, 5, 16, 17, 63, 64, 65, 150):
        np.testing.assert_array_equal(engine.sums(new[:n]), alone[:n])


def test_a_tree_of_more_leaves_than_a_word_has_bits_is_walked() -> None:
    x, y, _ = flows(2_000)
    x[:, 3:] = np.random.default_rng(5).normal(size=(len(x), 3))
    y = (np.sin(9 * x[:, 3]) + x[:, 4] > 0).astype(np.int64)
    laid_out = {}
    for leaves in (32, 33):
        booster = lightgbm_booster(x, y, num_leaves=leaves, min_data_in_leaf=1)
        engine = lightgbm_engine(booster.model_to_string(), np.arange(CLASSES), CLASSES)
        trees = {name: arrays(engine)[name] for name in
                 ("feature", "threshold", "left", "right", "roots", "values")}  # fmt: skip
        laid_out[leaves] = bit_trees(**trees)
        wanted = booster.predict(x, raw_score=True, num_threads=1)
        np.testing.assert_array_equal(engine.sums(x), wanted)
    assert laid_out[32] is not None
    assert laid_out[33] is None


def test_columns_that_are_the_same_in_all_rows_are_left_out_of_wide_inputs() -> None:
    rng = np.random.default_rng(0)
    x = np.full((600, 2_000), -1, np.float32)
    x[:, [7, 300, 1_999]] = rng.integers(0, 2, (600, 3))
    y = (x[:, 7] + x[:, 1_999]).astype(np.int64)
    settings = BoostedSettings(rounds=12, column_share=1.0)
    engine = fit_lightgbm(x, y, np.arange(600) // 40, CLASSES, settings)
    assert (engine.scores(x).argmax(axis=1) == y).all()
    assert set(arrays(engine)["feature"]) <= {-1, 7, 300, 1_999}
    same = np.zeros_like(x)
    assert fit_lightgbm(same, y, np.arange(600) // 40, CLASSES, settings).scores(same).shape == (
        600, CLASSES,
    )  # fmt: skip


def test_shares_are_learned_from_shares() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((3_000, 6)).astype(np.float32)
    share = np.where(x[:, 2] > 0.5, 0.8, 0.1)
    drawn = (rng.random(3_000) < share).astype(np.float32)
    for learned in (drawn, share.astype(np.float32)):  # certain ones or not
        engine = fit_shares(x, learned)
        assert engine.classes == 2
        said = engine.scores(x)
        np.testing.assert_allclose(said.sum(axis=1), 1.0, atol=1e-6)
        clear = np.abs(x[:, 2] - 0.5) > 0.1
        assert np.abs(said[clear, 1] - share[clear]).mean() < 0.1
        np.testing.assert_array_equal(fit_shares(x, learned).scores(x), said)
    assert not np.array_equal(
        fit_shares(x, drawn, seed=1).scores(x), fit_shares(x, drawn).scores(x)
    )


@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_shares_of_few_rows_that_are_all_alike_are_what_is_said(rows: int, share: float) -> None:
    x = np.random.default_rng(0).random((rows, 3)).astype(np.float32)
    said = fit_shares(x, np.full(rows, share, np.float32)).scores(x)
    np.testing.assert_allclose(said[:, 1], share, atol=1e-6)


@each_fit
def test_classes_that_no_flow_has_are_not_said(fit: Any) -> None:
    x, y, groups = flows()
    y[y == 1] = 0
    scores = fit(x, y, groups, CLASSES + 2, QUICK).scores(x)
    assert scores.shape == (len(x), CLASSES + 2)
    assert scores[:, [1, 4, 5]].max() < 1e-6
    assert (scores.argmax(axis=1) == y).mean() > 0.9


@each_fit
def test_one_class_alone_is_always_said(fit: Any) -> None:
    x, y, groups = flows()
    scores = fit(x, np.full_like(y, 2), groups, CLASSES, QUICK).scores(x)
    assert (scores.argmax(axis=1) == 2).all()


@each_fit
def test_no_class_is_lost_because_its_groups_are_kept_aside(fit: Any) -> None:
    x, y, _ = flows()
    scores = fit(x, y, y.copy(), CLASSES, QUICK).scores(x)  # each class is a group of its own
    assert set(scores.argmax(axis=1)) == set(y)


@each_fit
def test_a_single_group_is_trained_on_to_the_end(fit: Any) -> None:
    x, y, groups = flows()
    engine = fit(x, y, np.zeros_like(groups), CLASSES, QUICK)
    assert len(arrays(engine)["roots"]) == QUICK.rounds * CLASSES


@each_fit
def test_training_ends_when_it_helps_no_more(fit: Any) -> None:
    x, _, groups = flows()
    noise = np.random.default_rng(0).integers(0, CLASSES, len(x))
    engine = fit(x, noise, groups, CLASSES, BoostedSettings(rounds=100, patience=3))
    assert len(arrays(engine)["roots"]) < 50 * CLASSES


@each_fit
def test_rare_classes_can_be_made_to_count(fit: Any) -> None:
    x, _, groups = flows()
    rng = np.random.default_rng(0)
    y = (rng.random(len(x)) < 0.05).astype(np.int64)
    plain, balanced = (
        fit(x, y, groups, 2, BoostedSettings(rounds=3, class_weight=how)).scores(x)[:, 1].mean()
        for how in (None, "balanced")
    )
    assert balanced > 2 * plain


@each_fit
def test_an_engine_that_says_something_else_is_refused(
    fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, groups = flows()
    # As if what the library writes had changed its meaning.
    monkeypatch.setattr(boosted_engines, "_SIDES", ("right", "left"))
    with pytest.raises(RuntimeError, match="the engine is off by"):
        fit(x, y, groups, CLASSES, QUICK)


def test_models_of_another_kind_have_no_engine() -> None:
    x, y, _ = flows()
    present = np.arange(CLASSES)
    with pytest.raises(ValueError, match="no LightGBM model of 3 classes"):
        lightgbm_engine(lightgbm_booster(x, y).model_to_string(), np.arange(3), CLASSES)
    x[::7, 3] = np.nan
    with pytest.raises(ValueError, match="missing values"):
        lightgbm_engine(lightgbm_booster(x, y, use_missing=True).model_to_string(), present, 4)
    category = lightgbm.Dataset(np.abs(x), y, categorical_feature=[0])
    settings = {"objective": "multiclass", "num_class": CLASSES, "verbosity": -1, "num_threads": 1}
    with pytest.raises(ValueError, match="categories"):
        lightgbm_engine(lightgbm.train(settings, category, 3).model_to_string(), present, 4)
    model = bytes(xgboost_booster(x, y).save_raw("json"))
    with pytest.raises(ValueError, match="no XGBoost model of 3 classes"):
        xgboost_engine(model, np.arange(3), CLASSES)
    fields = json.loads(model)
    fields["learner"]["gradient_booster"]["model"]["trees"][0]["split_type"][0] = 1
    with pytest.raises(ValueError, match="categories"):
        xgboost_engine(json.dumps(fields).encode(), present, CLASSES)


def test_the_greatest_sum_is_said_where_float32_sees_two_alike() -> None:
    leaf = np.array([-1, -1, -1], np.int16)
    engine = BoostedEngine(
        feature=leaf,
        threshold=np.zeros(3, np.float32),
        left=np.arange(3, dtype=np.int32),
        right=np.zeros(3, np.int32),
        roots=np.arange(3, dtype=np.int32),
        values=np.array([0.3, 0.3 + 1e-14, 0.1]),
        column=np.arange(3, dtype=np.int32),
        base=np.zeros(3),
    )
    scores = engine.scores(np.zeros((2, 1), np.float32))
    np.testing.assert_array_equal(scores.argmax(axis=1), 1)
    np.testing.assert_allclose(scores.sum(axis=1, dtype=np.float64), 1.0, rtol=0, atol=1e-6)


def arrays(engine: BoostedEngine) -> dict[str, np.ndarray]:
    return {k.removesuffix(".npy"): np.load(io.BytesIO(v)) for k, v in engine.files().items()}


@pytest.fixture(scope="module")
def kept() -> dict[str, np.ndarray]:
    x, y, groups = flows()
    return arrays(fit_lightgbm(x, y, groups, CLASSES, QUICK))


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("left", 0, 0),  # a walk would never end
        ("left", 0, 10**6),
        ("left", 0, 2),  # two nodes lead to the same one, and none to another
        ("right", 0, -1),
        ("left", -1, 10**6),
        ("roots", 0, -1),
        ("roots", 1, 0),
        ("feature", 0, -2),
        ("column", 0, -1),
        ("column", -1, CLASSES),
        ("threshold", 0, np.nan),
        ("threshold", 0, np.inf),
        ("values", 0, np.nan),
        ("values", 0, 1e300),
        ("base", 0, np.inf),
        ("base", 0, -1e300),
    ],
)
def test_arrays_that_lead_astray_are_refused(
    kept: dict[str, np.ndarray], name: str, at: int, value: float
) -> None:
    changed = kept[name].copy()
    changed[at] = value
    with pytest.raises(BundleError, match="contradict"):
        BoostedEngine(**{**kept, name: changed})


def test_arrays_of_other_types_or_lengths_are_refused(kept: dict[str, np.ndarray]) -> None:
    for name, changed in {
        "column": kept["column"][:-1],
        "base": kept["base"].astype(np.float32),
        "right": kept["right"][:-1],
        "roots": kept["roots"][:0],
    }.items():
        with pytest.raises(BundleError, match="contradict"):
            BoostedEngine(**{**kept, name: changed})
    for name, changed in {
        "column": kept["column"].astype(np.int64),
        "base": kept["base"][:, None],
        "values": kept["values"].astype(np.float16),
    }.items():
        with pytest.raises(BundleError, match=name):
            BoostedEngine(**{**kept, name: changed})


def test_a_mean_weighs_its_parts() -> None:
    x, y, groups = flows()
    parts = fit_tree(x, y, CLASSES), fit_xgboost(x, y, groups, CLASSES, QUICK)
    first, second = (part.scores(x).astype(np.float64) for part in parts)
    np.testing.assert_allclose(MeanEngine(parts).scores(x), (first + second) / 2, atol=1e-7)
    weighted = MeanEngine(parts, [2, 6]).scores(x)
    np.testing.assert_allclose(weighted, first / 4 + second * 3 / 4, atol=1e-7)


def test_a_mean_may_be_part_of_a_mean() -> None:
    x, y, _ = flows()
    tree, trees = fit_tree(x, y, CLASSES), fit_extra_trees(x, y, CLASSES, trees=3)
    engine = MeanEngine([MeanEngine([tree, trees]), tree])
    again = MeanEngine.from_files(engine.files())
    np.testing.assert_array_equal(again.scores(x), engine.scores(x))


def test_parts_that_make_no_mean_are_refused() -> None:
    x, y, _ = flows()
    tree, more = fit_tree(x, y, CLASSES), fit_tree(x, y, CLASSES + 1)
    with pytest.raises(BundleError, match="4, 5 classes"):
        MeanEngine([tree, more])
    with pytest.raises(BundleError, match="1 engines"):
        MeanEngine([tree])
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(BundleError, match="weights"):
            MeanEngine([tree, tree], weights)
    network = OnnxEngine.__new__(OnnxEngine)
    network.classes, network.columns = CLASSES, 0
    with pytest.raises(BundleError, match="columns and sequences"):
        MeanEngine([tree, network])


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{}",
        b'{"kinds": ["forest", "forest"]}',
        b'{"kinds": 1, "weights": []}',
        b'{"kinds": ["forest", "abacus"], "weights": [1, 1]}',
        b'{"kinds": ["forest", "onnx"], "weights": [1, 1]}',
        b'{"kinds": ["forest", "forest"], "weights": ["a", 1]}',
        b'{"kinds": ["forest", "forest"], "weights": [NaN, 1]}',
        b'{"kinds": ["forest", "forest"], "weights": [1e308, 1e308]}',
        b'{"kinds": [], "weights": []}',
    ],
)
def test_what_joins_no_parts_is_refused(text: bytes) -> None:
    x, y, _ = flows()
    tree = fit_tree(x, y, CLASSES)
    files = MeanEngine([tree, tree]).files()
    with pytest.raises(BundleError):
        MeanEngine.from_files({**files, "mean.json": text})


def test_a_distilled_tree_says_what_its_teacher_says() -> None:
    x, y, _ = flows(3_000)
    teacher = fit_extra_trees(x, y, CLASSES, trees=20)
    soft = teacher.scores(x)
    tree = fit_distilled_tree(x, soft, leaves=64)
    new = flows(seed=9)[0]
    agree = tree.scores(new).argmax(axis=1) == teacher.scores(new).argmax(axis=1)
    assert agree.mean() > 0.95
    assert tree.scores(new).min() > 0.0
    assert tree.scores(new).max() < 1.0
    values = np.load(io.BytesIO(tree.files()["values.npy"]))
    assert len(values) <= 64


def test_a_distilled_tree_heeds_weights() -> None:
    x, _, _ = flows()
    soft = np.eye(2, dtype=np.float32)[np.arange(len(x)) % 2]
    weights = np.where(soft[:, 1] > 0, 9.0, 1.0)
    tree = fit_distilled_tree(x, soft, weights, leaves=2, min_leaf=200, smoothing=0.0)
    assert tree.scores(x)[:, 1].mean() == pytest.approx(0.9, abs=0.02)


def test_soft_labels_that_are_no_probabilities_are_refused() -> None:
    x, _, _ = flows()
    good = np.full((len(x), 2), 0.5, np.float32)
    for bad in (good[:-1], good[:, 0], good * 2, good - [0.7, -0.7], good * np.nan):
        with pytest.raises(ValueError, match="no probabilities"):
            fit_distilled_tree(x, bad.astype(np.float32))


def test_row_weights_even_out_classes() -> None:
    y = np.array([0] * 90 + [2] * 10)
    assert row_weights(y, None) is None
    for how, ratio in (("balanced", 9.0), ("sqrt", 3.0)):
        weights = row_weights(y, how)  # type: ignore[arg-type]
        assert weights is not None
        assert weights.mean() == pytest.approx(1.0)
        assert weights[-1] / weights[0] == pytest.approx(ratio)
    with pytest.raises(ValueError, match="unknown"):
        row_weights(y, "loud")  # type: ignore[arg-type]
