"""What thresholds are wanted for: what is asked comes first, then what is made small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.goals import Assignment, EscalationGoal, Goal, LossGoal, WithinGoal

FOUND = Assignment(
    thresholds=(0.5,),
    loss=0.001,
    loss_bound=0.004,
    early=0.6,
    within_16ms=0.7,
    escalated=0.3,
    delay=0.2,
    wait=1.0,
    mean_wait_ms=50.0,
    cost_us=4.0,
)
GOALS: tuple[Goal, ...] = (
    LossGoal(0.005), LossGoal(0.005, 5.0), LossGoal(0.001, 2.0), WithinGoal(0.6), WithinGoal(0.9),
    EscalationGoal(0.4), EscalationGoal(0.1),
)  # fmt: skip


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_a_goal_is_met_when_nothing_is_left_of_what_is_asked(goal: Goal) -> None:
    asked = 2 if isinstance(goal, LossGoal) else 1
    assert goal.met(FOUND) == (not any(goal.rank(FOUND)[:asked]))


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_a_greater_bound_never_ranks_better(goal: Goal) -> None:
    """The search rests on it: it looks at the loss that is seen before it asks for the bound."""
    found = [replace(FOUND, loss_bound=bound) for bound in (-np.inf, 0.0, 0.004, 0.1)]
    for how in (goal.rank, goal.nearness):
        ranks = [how(one) for one in found]
        assert ranks == sorted(ranks)


def test_a_limited_cost_comes_before_the_loss_and_the_loss_before_the_delay() -> None:
    goal = LossGoal(0.005, 5.0)
    dear = replace(FOUND, cost_us=6.0, loss_bound=0.0, delay=0.0)
    lossy = replace(FOUND, loss_bound=0.006, delay=0.0)
    slow, dearer = replace(FOUND, delay=0.3), replace(FOUND, cost_us=4.5)
    order = [FOUND, dearer, slow, lossy, dear]
    ranks = [goal.rank(found) for found in order]
    assert ranks == sorted(ranks)
    assert LossGoal(0.005).met(dear), "without a limit, cost parts equals only"


def test_what_is_too_much_may_be_given_way_to_on_the_way() -> None:
    """A search that keeps to the cost first would never leave the first of these."""
    goal = LossGoal(0.005, 5.0)
    poor = replace(FOUND, delay=0.9)
    near = replace(FOUND, cost_us=5.05, loss_bound=0.0055, delay=0.2)
    far = replace(FOUND, cost_us=9.0, delay=0.2)
    assert goal.rank(poor) < goal.rank(near)
    assert goal.nearness(near) < goal.nearness(poor) < goal.nearness(far)
    assert goal.distance(FOUND) == FOUND.delay, "where all is kept to, the delay alone counts"


def test_a_typical_wait_is_the_geometric_mean() -> None:
    waits = np.array([0.0, 10.0, 1_000.0])
    found = replace(FOUND, wait=float(np.log1p(waits).mean()))
    assert found.typical_wait_ms == pytest.approx((1 * 11 * 1_001) ** (1 / 3) - 1)


def test_prices_fall_with_what_is_traded() -> None:
    better = replace(FOUND, delay=0.1, within_16ms=0.8, escalated=0.2)
    for goal in GOALS:
        assert goal.price(better) < goal.price(FOUND)
