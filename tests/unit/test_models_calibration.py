"""Confidence is worth what it says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from models.calibration import (
    Isotonic,
    Temperature,
    calibration_error,
    calibration_of,
    fit_best_calibration,
    fit_calibration,
    fit_temperature,
    pool_adjacent,
)


def overconfident(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.3, 1.0, n).astype(np.float32)
    return score, rng.random(n) < score**3


def test_pooling_is_isotonic_regression() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 10, 200):
        values, weights = rng.random(n), rng.integers(1, 5, n).astype(float)
        level, block = pool_adjacent(values, weights)
        wanted = IsotonicRegression().fit_transform(np.arange(n), values, sample_weight=weights)
        np.testing.assert_allclose(level[block], wanted, atol=1e-12)


def test_calibration_makes_confidence_honest() -> None:
    score, right = overconfident(5_000)
    fresh, fresh_right = overconfident(5_000, seed=1)
    calibrated = fit_calibration(score, right).at(fresh)
    assert calibration_error(fresh, fresh_right) > 0.15
    assert calibration_error(calibrated, fresh_right) < 0.04


def test_a_calibration_keeps_the_order_of_scores() -> None:
    calibration = fit_calibration(*overconfident(2_000))
    found = calibration.at(np.linspace(0, 1, 500, dtype=np.float32))
    assert found.dtype == np.float32
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_no_number_of_right_answers_makes_certain() -> None:
    score = np.full(50, 0.9, np.float32)
    calibration = fit_calibration(score, np.ones(50, bool))
    assert 0.97 < calibration.at(score)[0] < 1.0
    assert 0.0 < fit_calibration(score, np.zeros(50, bool)).at(score)[0] < 0.03


def test_a_calibration_has_a_bounded_number_of_knots() -> None:
    rng = np.random.default_rng(0)
    score = np.sort(rng.random(20_000)).astype(np.float32)
    calibration = fit_calibration(score, rng.random(20_000) < score)
    assert len(calibration.x) <= 200


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((), ()),
        ((0.1,), (0.1, 0.2)),
        ((0.2, 0.1), (0.1, 0.2)),
        ((0.1, 0.1), (0.1, 0.2)),
        ((0.1, 0.2), (0.2, 0.1)),
        ((0.1,), (1.1,)),
        ((0.1,), (-0.1,)),
    ],
)
def test_knots_that_are_no_calibration_are_refused(
    x: tuple[float, ...], y: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="calibration"):
        Isotonic(x, y)


def test_without_flows_there_is_no_calibration() -> None:
    with pytest.raises(ValueError, match="at least one flow"):
        fit_calibration(np.zeros(0, np.float32), np.zeros(0, bool))
    assert calibration_error(np.zeros(0, np.float32), np.zeros(0, bool)) == 0.0


def test_the_calibration_error_is_the_mean_gap() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.9], np.float32)
    right = np.array([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.15)


def softened(n: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores of five classes that are honest before they are sharpened, and who is right."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(5, 0.6), n)
    true = (rng.random(n)[:, None] > honest.cumsum(axis=1)).sum(axis=1)
    scores = honest**sharpness
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return scores, scores.argmax(axis=1) == true


def test_the_temperature_that_was_taken_away_is_found() -> None:
    found = fit_temperature(*softened(20_000, 2.0))
    assert found.temperature == pytest.approx(2.0, rel=0.1)
    scores, right = softened(20_000, 2.0, seed=1)
    assert calibration_error(scores.max(axis=1), right) > 0.05
    assert calibration_error(found(scores), right) < 0.02


def test_temperature_is_the_softmax_of_divided_logarithms() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]], np.float32)
    logits = np.log(np.maximum(scores.astype(np.float64), 1e-4)) / 2.5
    wanted = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    found = Temperature(2.5)(scores)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(Temperature(1.0)(scores), [0.7, 1.0], atol=1e-3)


@pytest.mark.parametrize("calibration", [Temperature(1.7), Isotonic((0.3, 0.9), (0.2, 0.8))])
def test_confidence_rests_on_the_flow_alone(calibration: Temperature | Isotonic) -> None:
    scores, _ = softened(257, 1.5)
    whole = calibration(scores)
    alone = np.concatenate([calibration(scores[i : i + 1]) for i in range(257)])
    assert whole.tolist() == alone.tolist()
    frozen = scores[:100]
    frozen.flags.writeable = False
    assert calibration(frozen).tolist() == whole[:100].tolist()


def test_the_kind_that_does_better_elsewhere_is_chosen() -> None:
    rng = np.random.default_rng(0)
    fold = rng.integers(0, 4, 4_000)
    scores, right = softened(4_000, 3.0)
    best = fit_best_calibration(scores, right, fold)
    assert best.calibration.kind == "temperature"
    assert best.losses["temperature"] < best.losses["isotonic"]
    # The score of the top class tells who is right, but by no temperature.
    flipped = np.where(scores.max(axis=1) > 0.8, rng.random(4_000) < 0.5, rng.random(4_000) < 0.2)
    best = fit_best_calibration(scores, flipped, fold)
    assert best.calibration.kind == "isotonic"
    assert best.confidence.dtype == np.float32
    assert calibration_error(best.confidence, flipped) < 0.05


def test_cross_fitted_confidence_knows_nothing_of_its_own_fold() -> None:
    scores, right = softened(600, 2.0)
    fold = np.arange(600) % 2
    before = fit_best_calibration(scores, right, fold)
    turned = np.where(fold == 0, ~right, right)
    rest = fold != 0
    own = fit_temperature(scores[rest], turned[rest])(scores[~rest])
    assert fit_temperature(scores[rest], right[rest])(scores[~rest]).tolist() == own.tolist()
    assert before.confidence.shape == (600,)


@pytest.mark.parametrize("calibration", [Temperature(1.7), Isotonic((0.3, 0.9), (0.2, 0.8))])
def test_a_calibration_is_made_of_its_fields(calibration: Temperature | Isotonic) -> None:
    fields = {"x": (), "y": (), "temperature": None, **calibration.fields()}
    assert (
        calibration_of(
            fields["kind"], tuple(fields["x"]), tuple(fields["y"]), fields["temperature"]
        )
        == calibration
    )


@pytest.mark.parametrize(
    ("kind", "x", "temperature"),
    [
        ("temperature", (), None),
        ("temperature", (0.5,), 1.0),
        ("temperature", (), 0.0),
        ("temperature", (), -1.0),
        ("temperature", (), float("nan")),
        ("temperature", (), 1e9),
        ("isotonic", (), None),
        ("isotonic", (0.5,), 1.0),
    ],
)
def test_fields_that_make_no_calibration_are_refused(
    kind: str, x: tuple[float, ...], temperature: float | None
) -> None:
    with pytest.raises(ValueError, match="calibration"):
        calibration_of(kind, x, x, temperature)  # type: ignore[arg-type]


def test_without_flows_there_is_no_temperature() -> None:
    with pytest.raises(ValueError, match="at least one flow"):
        fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, bool))
