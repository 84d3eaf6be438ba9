"""Confidence is worth what it says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from models.calibration import Calibration, calibration_error, fit_calibration, pool_adjacent


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
    calibrated = fit_calibration(score, right)(fresh)
    assert calibration_error(fresh, fresh_right) > 0.15
    assert calibration_error(calibrated, fresh_right) < 0.04


def test_a_calibration_keeps_the_order_of_scores() -> None:
    calibration = fit_calibration(*overconfident(2_000))
    found = calibration(np.linspace(0, 1, 500, dtype=np.float32))
    assert found.dtype == np.float32
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_no_number_of_right_answers_makes_certain() -> None:
    score = np.full(50, 0.9, np.float32)
    calibration = fit_calibration(score, np.ones(50, bool))
    assert 0.97 < calibration(score)[0] < 1.0
    assert 0.0 < fit_calibration(score, np.zeros(50, bool))(score)[0] < 0.03


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
        Calibration(x, y)


def test_without_flows_there_is_no_calibration() -> None:
    with pytest.raises(ValueError, match="at least one flow"):
        fit_calibration(np.zeros(0, np.float32), np.zeros(0, bool))
    assert calibration_error(np.zeros(0, np.float32), np.zeros(0, bool)) == 0.0


def test_the_calibration_error_is_the_mean_gap() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.9], np.float32)
    right = np.array([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.15)
