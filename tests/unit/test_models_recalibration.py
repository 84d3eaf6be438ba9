"""Confidence is about the flows that reach a tier, and who reaches it stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.calibration import Isotonic, Temperature, calibration_error, shifted
from models.candidates import Candidate, Task, task_of
from models.composition import Plan, arrange
from models.costs import BATCHES
from models.engines import Engine
from models.features import Sight
from models.goals import LossGoal
from models.recalibration import fit_shift, recalibrated
from models.synthetic import synthetic_dataset
from models.yardstick import route
from models.zoo import Recipe

TASK: Task = task_of(synthetic_dataset(2_000, groups=20, seed=5), 4, 0, 10.0)
N, CLASSES = len(TASK.true), len(TASK.classes)


def drawn(n: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and whether it was right: as often as it says, shifted."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.1, 0.95, n).astype(np.float32)
    return confidence, rng.random(n) < shifted(confidence, shift)


@pytest.mark.parametrize("shift", [-1.5, -0.3, 0.0, 0.8])
def test_the_shift_that_was_made_is_found(shift: float) -> None:
    confidence, right = drawn(20_000, shift)
    found = fit_shift(confidence, right)
    assert found == pytest.approx(shift, abs=0.06)
    assert calibration_error(shifted(confidence, found), right) < 0.02


def test_few_flows_shift_little() -> None:
    sure, wrong = np.full(400, 0.9, np.float32), np.zeros(400, np.bool_)
    shifts = [fit_shift(sure[:n], wrong[:n]) for n in (0, 1, 10, 400)]
    assert shifts[0] == 0.0
    assert shifts == sorted(shifts, reverse=True)
    assert -0.3 < shifts[1] < 0.0
    assert shifts[-1] == -3.0, "there is an end to it"
    certain = np.array([0.0, 1.0], np.float32)
    assert abs(fit_shift(certain, np.array([True, False]))) < 0.1


def test_a_shift_keeps_order_and_ends() -> None:
    confidence = np.linspace(0.0, 1.0, 1_001, dtype=np.float32)
    for shift in (-2.0, 0.7):
        found = shifted(confidence, shift)
        assert found.dtype == np.float32
        assert (np.diff(found) > 0.0).all()
        assert (found[0], found[-1]) == (0.0, 1.0)
        np.testing.assert_allclose(shifted(found, -shift), confidence, atol=1e-6)
    assert shifted(np.float32([0.5]), np.log(3.0))[0] == pytest.approx(0.75)
    assert shifted(confidence, 0.0) is confidence


@pytest.mark.parametrize("plain", [Temperature(1.7), Isotonic((0.3, 0.9), (0.2, 0.8))])
def test_a_shifted_calibration_is_the_same_one_shifted(plain: Temperature | Isotonic) -> None:
    scores = np.random.default_rng(0).dirichlet([0.5] * 4, 100).astype(np.float32)
    moved = replace(plain, shift=-0.5)
    assert moved(scores).tolist() == shifted(plain(scores), -0.5).tolist()
    assert moved.fields() == {**plain.fields(), "shift": -0.5}
    assert "shift" not in plain.fields(), "bundles without shifts stay byte for byte"
    for far in (-11.0, 11.0, float("nan")):
        with pytest.raises(ValueError, match="shift"):
            replace(plain, shift=far)


def untrained(*_: object) -> Engine:
    raise AssertionError("this trains no tier")


def cascade(gate: str) -> Plan:
    """Where the first tier is unsure the second is right half as often as its scores tell."""
    rng = np.random.default_rng(1)
    easy = rng.random(N) < 0.6
    sure = np.where(easy, 0.97, 0.4) + rng.uniform(-0.02, 0.02, N)
    later = np.clip(rng.normal(0.75, 0.1, N), 0.45, 0.95)
    right = [rng.random(N) < sure, np.where(easy, rng.random(N) < 0.95, rng.random(N) < 0.55)]
    candidates = []
    for depth, own, said in ((1, sure, right[0]), (10, later, right[1])):
        label = np.where(said, TASK.true, (TASK.true + 1) % CLASSES)
        scores = np.repeat(((1.0 - own) / (CLASSES - 1))[:, None], CLASSES, axis=1)
        scores[np.arange(N), label] = own
        recipe = Recipe(f"made@{depth}", depth, "columns", untrained)
        costs = dict.fromkeys(BATCHES, 1.0)
        candidates.append(Candidate(recipe, Sight(), scores.astype(np.float32), 0.8, 0.8, costs))
    return arrange(TASK, candidates, LossGoal(0.005), gate)


@pytest.mark.parametrize("gate", ["benefit", "confidence", "margin"])
def test_confidence_is_shifted_to_the_flows_that_are_asked_and_they_stay_the_same(
    gate: str,
) -> None:
    plan = cascade(gate)
    found = recalibrated(TASK, plan)
    before = route([t.judged for t in plan.tiers], TASK.data.sizes, plan.assignment.thresholds)
    after = route([t.judged for t in found.tiers], TASK.data.sizes, found.assignment.thresholds)
    assert (after == before).all()
    assert 0.1 < (after == 1).mean() < 0.8
    last = found.tiers[-1]
    hard = after == 1
    right = (last.judged.labels == TASK.true)[hard]
    said = shifted(last.confidence[hard], last.calibration.shift)
    assert last.calibration.shift < -0.5
    assert abs(said.mean() - right.mean()) < 0.03
    assert abs(last.confidence[hard].mean() - right.mean()) > 0.1
    if gate != "confidence":
        assert found.assignment == plan.assignment
