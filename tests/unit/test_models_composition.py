"""A cascade is composed of what shortens the waits, and of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models import composition_book
from models.assignment import FULL, Effort, search
from models.candidates import Candidate, Task, task_of
from models.composition import Plan, compose, settled
from models.costs import BATCHES
from models.engines import Engine
from models.features import Sight
from models.gates import GATES
from models.goals import NEVER, Assignment, Goal, LossGoal
from models.metrics import f1_scores
from models.synthetic import synthetic_dataset
from models.yardstick import Yardstick, route
from models.zoo import Recipe

TASK: Task = task_of(synthetic_dataset(1_500, groups=20, seed=5), 4, 0, 10.0)
N, CLASSES = len(TASK.true), len(TASK.classes)


def untrained(*_: object) -> Engine:
    raise AssertionError("composing trains no tier")


def candidate(
    name: str,
    depth: int,
    cost: float,
    right: npt.NDArray[np.bool_],
    sure: npt.NDArray[np.float64],
) -> Candidate:
    """Make a candidate that is right where it is told to be, and as sure as it is told."""
    said = np.where(right, TASK.true, (TASK.true + 1) % CLASSES)
    scores = np.repeat(((1.0 - sure) / (CLASSES - 1))[:, None], CLASSES, axis=1)
    scores[np.arange(N), said] = sure
    found = f1_scores(TASK.true, said)
    costs = dict.fromkeys(BATCHES, cost)
    return Candidate(
        Recipe(f"{name}@{depth}", depth, "columns", untrained), Sight(),
        scores.astype(np.float32), found["weighted_f1"], found["macro_f1"], costs,
    )  # fmt: skip


def knows(name: str, depth: int, cost: float, share: float, seed: int = 0) -> Candidate:
    """Right and sure of it for a share of the flows; for the others it guesses and says so."""
    draw = np.random.default_rng(seed).random(N)
    right = (draw < share) | (np.random.default_rng(seed + 100).random(N) < 0.25)
    return candidate(name, depth, cost, right, np.where(draw < share, 0.95, 0.4))


def names(plan: Plan) -> list[str]:
    return [tier.candidate.name for tier in plan.tiers]


DEEPEST = knows("deepest", 10, 20.0, 0.97)
FREE = LossGoal(0.01)


def test_the_best_is_the_deepest_and_what_shortens_waits_stands_before_it() -> None:
    early, middle = knows("early", 1, 1.0, 0.5), knows("middle", 3, 2.0, 0.8)
    useless = candidate("useless", 1, 0.5, np.zeros(N, bool), np.full(N, 0.9))
    plan = compose(TASK, [useless, DEEPEST, middle, early], FREE)
    assert names(plan) == ["early@1", "middle@3", "deepest@10"]
    assert plan.assignment.early > 0.7
    assert plan.assignment.loss_bound <= 0.01
    assert len(plan.assignment.thresholds) == 2
    assert set(plan.gates) == set(GATES)
    assert plan.tiers[-1].gate.kind == "confidence", "the deepest has nothing to ask"
    for tier in plan.tiers:
        assert tier.judged.depth == tier.candidate.recipe.depth
        np.testing.assert_array_equal(tier.judged.labels, tier.candidate.scores.argmax(axis=1))


def test_a_tier_may_be_worse_on_all_flows_and_better_on_those_that_reach_it() -> None:
    draw = np.random.default_rng(0).random(N)
    early = knows("early", 1, 1.0, 0.5)
    rest = candidate("rest", 2, 2.0, draw >= 0.6, np.where(draw >= 0.6, 0.95, 0.4))
    assert rest.weighted_f1 < early.weighted_f1
    plan = compose(TASK, [early, rest, DEEPEST], FREE)
    assert names(plan) == ["early@1", "rest@2", "deepest@10"]


def test_of_equally_good_tiers_the_cheap_one_is_taken() -> None:
    cheap, dear = knows("cheap", 1, 1.0, 0.5), knows("dear", 1, 10.0, 0.5)
    for order in ([cheap, dear], [dear, cheap]):
        plan = compose(TASK, [*order, DEEPEST], FREE)
        assert names(plan) == ["cheap@1", "deepest@10"]


def test_what_the_models_may_take_is_kept() -> None:
    early, middle = knows("early", 1, 1.0, 0.5), knows("middle", 3, 15.0, 0.8)
    costs = []
    for limit in (float("inf"), 12.0, 8.0):
        plan = compose(TASK, [early, middle, DEEPEST], LossGoal(0.01, limit))
        assert plan.assignment.cost_us <= limit
        costs.append(plan.assignment.cost_us)
    assert costs[0] > 8.0, "what the loss allows takes more"


def test_thresholds_keep_to_what_the_trained_tiers_take() -> None:
    goal = LossGoal(0.01, 12.0)
    plan = compose(TASK, [knows("early", 1, 1.0, 0.5), DEEPEST], goal, "confidence")
    stated = [tier.candidate.cost_us for tier in plan.tiers]
    same = settled(TASK, plan, stated, goal)
    assert same.assignment == plan.assignment
    half_more = [{batch: 1.5 * us for batch, us in one.items()} for one in stated]
    dearer = settled(TASK, plan, half_more, LossGoal(0.5, 12.0))
    assert 1.5 * plan.assignment.cost_us > 12.0, "the old thresholds would take too much"
    assert dearer.assignment.cost_us <= 12.0
    assert [tier.judged.cost_us for tier in dearer.tiers] == [1.5 * 1.0, 1.5 * 20.0]


def test_where_cost_matters_no_slow_model_is_the_deepest() -> None:
    slow, early = knows("slow", 10, 500.0, 0.99), knows("early", 1, 1.0, 0.5)
    limited = compose(TASK, [slow, DEEPEST, early], LossGoal(0.01, 15.0))
    assert names(limited)[-1] == "deepest@10"
    assert names(compose(TASK, [slow, DEEPEST, early], FREE))[-1] == "slow@10"
    assert names(compose(TASK, [slow], LossGoal(0.01, 15.0))) == ["slow@10"], (
        "if it is all there is"
    )


@pytest.mark.parametrize("seed", range(4))
def test_no_tier_is_there_for_nothing(seed: int) -> None:
    """Each tier but the deepest answers some flows."""
    rng = np.random.default_rng(seed)
    found = [
        knows(f"some-{i}", int(rng.choice([1, 2, 3, 5])), float(rng.uniform(0.5, 5.0)),
              float(rng.uniform(0.0, 0.9)), seed=10 * seed + i)
        for i in range(6)
    ]  # fmt: skip
    plan = compose(TASK, [*found, DEEPEST], LossGoal(0.005, 25.0))
    judged = [tier.judged for tier in plan.tiers]
    answered_by = route(judged, TASK.data.sizes, plan.assignment.thresholds)
    assert set(answered_by) >= set(range(len(plan.tiers) - 1))
    for threshold in plan.assignment.thresholds:
        assert threshold <= 1.0


def test_a_tier_that_turns_out_never_to_be_sure_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As may be by another gate than the one that it was chosen by."""

    def unsure(yardstick: Yardstick, goal: Goal, *, effort: Effort, near: Any) -> Assignment:
        found = search(yardstick, goal, effort=effort, near=near)
        if effort is FULL and len(yardstick.tiers) == 3:
            return yardstick.measure((NEVER, *found.thresholds[1:]))
        return found

    monkeypatch.setattr(composition_book, "search", unsure)
    early, middle = knows("early", 1, 1.0, 0.5), knows("middle", 3, 2.0, 0.8)
    plan = compose(TASK, [early, middle, DEEPEST], FREE)
    assert names(plan) == ["middle@3", "deepest@10"]
    assert NEVER not in plan.assignment.thresholds
    assert plan.assignment == plan.gates[plan.tiers[0].gate.kind]


def test_a_tier_that_never_helps_leaves_the_deepest_alone() -> None:
    wrong = candidate("wrong", 1, 1.0, np.zeros(N, bool), np.full(N, 0.99))
    plan = compose(TASK, [wrong, DEEPEST], LossGoal(0.0))
    assert names(plan) == ["deepest@10"]
    assert plan.assignment.thresholds == ()
    assert plan.assignment.early == 0.0


def test_a_gate_that_knows_the_benefit_beats_confidence_where_doubt_tells_nothing() -> None:
    """The first tier fails on half of all flows; on UDP the deepest fails with it."""
    rng = np.random.default_rng(0)
    tcp = TASK.data.packets["protocol"][TASK.data.offsets[:-1]] == 6
    hard = rng.random(N) < 0.5
    first = candidate("first", 1, 1.0, ~hard, np.full(N, 0.6))
    last = candidate("last", 10, 20.0, ~hard | tcp, np.full(N, 0.9))
    plan = compose(TASK, [first, last], FREE)
    assert names(plan) == ["first@1", "last@10"]
    assert plan.tiers[0].gate.kind == "benefit"
    assert plan.tiers[0].gate.engine is not None
    assert plan.gates["benefit"].wait < plan.gates["confidence"].wait - 0.5
    judged = [tier.judged for tier in plan.tiers]
    early = route(judged, TASK.data.sizes, plan.assignment.thresholds) == 0
    assert early[~tcp].mean() > 0.95, "asking deeper would change nothing"
    assert early[tcp & hard].mean() < 0.1


def test_the_gate_may_be_told() -> None:
    early = knows("early", 1, 1.0, 0.5)
    for kind in GATES:
        plan = compose(TASK, [early, DEEPEST], FREE, kind)
        assert list(plan.gates) == [kind]
        assert plan.tiers[0].gate.kind == kind
