"""Candidates are judged on captures they were not trained on, and weighed by F1 and cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flows.errors import LabelsError
from models.candidates import (
    Candidate,
    Task,
    judge_candidate,
    mean_candidate,
    measured,
    pareto,
    task_of,
)
from models.costs import BATCHES, COST_BATCH
from models.dataset import Dataset
from models.engines import Engine
from models.features import Sight
from models.forest import fit_tree
from models.metrics import f1_scores
from models.synthetic import synthetic_dataset
from models.zoo import Recipe


def task(data: Dataset | None = None, folds: int = 4) -> Task:
    return task_of(data or synthetic_dataset(200, groups=10, seed=2), folds, 0, 10.0)


def fit(
    inputs: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, seed: int
) -> Engine:
    return fit_tree(inputs, labels, classes, seed=seed)


def candidate(name: str, depth: int, f1: float, cost: float) -> Candidate:
    recipe = Recipe(f"{name}@{depth}", depth, "columns", fit)
    costs = dict.fromkeys(BATCHES, cost)
    return Candidate(recipe, Sight(), np.zeros((0, 2), np.float32), f1, f1, costs)


def test_what_another_beats_in_both_is_left_out() -> None:
    best = candidate("best", 3, 0.9, 10.0)
    cheap = candidate("cheap", 3, 0.8, 1.0)
    shallow = candidate("shallow", 1, 0.7, 5.0)
    worse = candidate("worse", 3, 0.85, 11.0)
    deeper = candidate("deeper", 5, 0.8, 2.0)
    found = pareto([worse, best, deeper, cheap, shallow])
    assert found == [best, cheap, shallow], "as good on fewer packets, or cheaper, or earlier"
    assert pareto([]) == []
    assert pareto([worse]) == [worse]


def test_what_is_deeper_beats_nobody_above_it() -> None:
    """An answer on packet 1 is worth something however good later ones are."""
    early, late = candidate("early", 1, 0.3, 9.0), candidate("late", 10, 0.99, 0.1)
    assert pareto([early, late]) == [early, late]


def test_classes_too_rare_to_learn_and_to_check_are_left_out() -> None:
    data = synthetic_dataset(200, classes=3, groups=10, seed=2)
    labels = data.labels.astype("U20")
    labels[:9] = "few"
    labels[9:30] = "in-one-capture"
    groups = data.groups.copy()
    groups[9:30] = 4
    found = task(replace(data, labels=labels, groups=groups))
    assert found.dropped == {"few": 9, "in-one-capture": 21}
    assert found.classes == ("class-0", "class-1", "class-2")
    assert len(found.data) == len(found.true) == len(found.fold) == 170
    names = np.array(found.classes)[found.true]
    np.testing.assert_array_equal(names, found.data.labels)


def test_with_one_class_there_is_nothing_to_tell_apart() -> None:
    data = synthetic_dataset(60, seed=2)
    with pytest.raises(LabelsError, match="1 of the 1 classes"):
        task(replace(data, labels=np.full(60, "all")))


@pytest.mark.parametrize("folds", [2, 4, 10])
def test_a_capture_is_in_one_fold_only(folds: int) -> None:
    found = task(folds=folds)
    for group in np.unique(found.data.groups):
        assert len(set(found.fold[found.data.groups == group])) == 1
    assert len(set(found.fold)) == folds


def test_each_flow_is_judged_by_a_model_that_never_saw_its_capture() -> None:
    found = task()
    learned: list[set[int]] = []

    def spy(
        inputs: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, seed: int
    ) -> Engine:
        learned.append({int(group) for group in groups})
        return fit(inputs, labels, groups, classes, seed)

    judged = judge_candidate(found, Recipe("spy@1", 1, "columns", spy), Sight())
    every = {int(group) for group in found.data.groups}
    assert len(learned) == 4
    left_out = [every - seen for seen in learned]
    assert sum(map(len, left_out)) == len(every), "each capture is left out once"
    assert set.union(*left_out) == every
    assert judged.scores.shape == (len(found.true), len(found.classes))
    np.testing.assert_allclose(judged.scores.sum(axis=1), 1.0, atol=1e-5)
    scores = f1_scores(found.true, judged.scores.argmax(axis=1))
    assert (judged.weighted_f1, judged.macro_f1) == (scores["weighted_f1"], scores["macro_f1"])
    assert tuple(judged.cost_us) == BATCHES
    assert all(cost > 0.0 for cost in judged.cost_us.values())


def test_judging_again_says_the_same() -> None:
    found, recipe = task(), Recipe("tree@2", 2, "columns", fit)
    first, again = (judge_candidate(found, recipe, Sight()) for _ in range(2))
    np.testing.assert_array_equal(first.scores, again.scores)


@pytest.mark.parametrize(
    ("sight", "name"),
    [
        (Sight(), "tree@1"),
        (Sight(port=True), "tree@1+port"),
        (Sight(host=True), "tree@1+host"),
        (Sight(port=True, host=True), "tree@1+host+port"),
    ],
)
def test_a_name_tells_what_is_seen(sight: Sight, name: str) -> None:
    assert judge_candidate(task(), Recipe("tree@1", 1, "columns", fit), sight).name == name


def test_the_mean_of_two_is_worth_what_it_says_and_costs_both() -> None:
    found = task()
    recipes = [Recipe(f"tree-{i}@10", 10, "columns", fit) for i in range(2)]
    parts = [judge_candidate(found, recipe, Sight()) for recipe in recipes]
    both = mean_candidate(
        found, Recipe("both@10", 10, "columns", fit, tuple(recipes)), parts
    )  # fmt: skip
    np.testing.assert_allclose(both.scores, (parts[0].scores + parts[1].scores) / 2, atol=1e-6)
    assert both.scores.dtype == np.float32
    for batch in BATCHES:
        assert both.cost_us[batch] == sum(part.cost_us[batch] for part in parts)
    assert both.name == "both@10"


def test_costs_are_those_of_features_and_model_together() -> None:
    found, recipe = task(), Recipe("tree@10", 10, "columns", fit)
    engine = found.fit(recipe, Sight())
    costs = measured(found, recipe, Sight(), engine)
    assert tuple(costs) == BATCHES
    assert costs[COST_BATCH] > 0.0
