"""Composes a cascade and trains its tiers on all flows; anew, if they take more than they may.

While a cascade is composed, what a tier takes is known of its parts, each measured by itself on a
part of the flows: the candidate's model, and a gate. Trained on all flows, with its gate beside
it, a tier takes up to half as much again (docs/decisions/0036-room-for-trained-tiers.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from models.bundle import TierModel
from models.candidates import Candidate, Task
from models.cascade import look
from models.composition import Plan, arrange, compose, mean_cost_us, settled
from models.composition_book import PlannedTier
from models.costs import cost_us
from models.gates import assurance
from models.goals import NEVER
from models.inputs import see
from models.novelty_training import novelty_of
from models.recalibration import recalibrated
from models.train_settings import TrainSettings

__all__ = ["composed"]

_TRIES = 3
_ROOM = 0.75  # of what models may take, that candidates may: about as short waits are found


def composed(
    task: Task, usable: list[Candidate], settings: TrainSettings, begin: Callable[[str], None]
) -> tuple[Plan, list[TierModel]]:
    """Compose a cascade that keeps to its limits with tiers as they are when trained.

    Args:
        task: The flows.
        usable: What may become a tier.
        settings: How to train.
        begin: Told of each step.

    Returns:
        The cascade, and its tiers with their thresholds.
    """
    goal = settings.goal
    within = replace(goal, max_cost_us=_ROOM * goal.max_cost_us)
    trained: dict[str, TierModel] = {}
    found: list[tuple[Plan, list[TierModel]]] = []
    for _ in range(_TRIES):
        begin("composing the cascade")
        if settings.preset == "paper":
            wanted = arrange(task, usable, within, "confidence")
        else:
            wanted = compose(task, usable, within, settings.gate)
        models = []
        for tier in wanted.tiers:
            name = tier.candidate.recipe.name
            begin(f"training {name}")
            if name not in trained:
                trained[name] = _trained(task, tier)
            models.append(_gated(task, trained[name], tier))
        costs_us = [model.cost_us for model in models]
        plan = settled(task, recalibrated(task, wanted), costs_us, goal)
        found.append((plan, models))
        taken_us = mean_cost_us(task, wanted, costs_us)
        if goal.met(plan.assignment) or taken_us <= goal.max_cost_us:
            break  # or what the tiers take is not why it falls short
        dearer = taken_us / wanted.assignment.cost_us
        within = replace(within, max_cost_us=goal.max_cost_us / dearer)
    plan, models = min(found, key=lambda one: goal.rank(one[0].assignment))
    return plan, _with_thresholds(models, plan)


def _with_thresholds(models: list[TierModel], plan: Plan) -> list[TierModel]:
    # Training finds one threshold for all classes.
    finals = [float(np.max(threshold)) for threshold in (*plan.assignment.thresholds, NEVER)]
    return [
        replace(model, threshold=final, calibration=tier.calibration)
        for model, final, tier in zip(models, finals, plan.tiers, strict=True)
    ]


def _trained(task: Task, tier: PlannedTier) -> TierModel:
    """Train what is the same in every cascade that has this tier."""
    one = tier.candidate
    return TierModel(
        name=one.recipe.name,
        depth=one.recipe.depth,
        threshold=NEVER,
        inputs=one.recipe.inputs,
        sight=one.sight,
        calibration=tier.calibration,
        engine=task.fit(one.recipe, one.sight),
        novelty=novelty_of(task, one),
    )


def _gated(task: Task, model: TierModel, tier: PlannedTier) -> TierModel:
    """Return a trained tier with its gate in this cascade, and what both take."""
    own = replace(model, gate=tier.gate)
    return replace(own, cost_us=_cost_us(task, own))


def _cost_us(task: Task, model: TierModel) -> dict[int, float]:
    """Measure what a tier takes a flow, its gate included."""
    packets, offsets = task.data.packets, task.data.offsets

    def ask(begin: int, end: int) -> object:
        rows = np.arange(begin, end)
        scores, columns = look(model, packets, offsets, rows)
        if model.gate.kind != "benefit":
            return scores
        if columns is None:
            columns = see("columns", packets, offsets, model.depth, model.sight, rows)
        return assurance(model.gate, scores, scores[:, 0], columns)

    return cost_us(ask, len(task.data))
