"""Composes a cascade of candidates: which tiers, weighed by which gate, with which thresholds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.assignment import COARSE, FULL, Judgements, Yardstick, search
from models.calibration import Calibration, fit_calibration
from models.candidates import Candidate, Task, pareto
from models.costs import COST_BATCH
from models.features import flow_features
from models.gates import GATES, Gate, assurance, benefit_inputs, cross_fitted, fit_benefit
from models.goals import Assignment, LossGoal
from models.uncertainty import calibrated

__all__ = ["Plan", "PlannedTier", "compose"]

_MOST_TIERS = 6
_GAIN = 0.02  # that a further tier must take off the mean logarithm of the waits
_CHEAPER = 0.9  # or what it must multiply the cost with, at waits that are no longer
_SLOWEST_US = 40.0  # that the deepest tier may take where cost matters


@dataclass(frozen=True, slots=True)
class PlannedTier:
    """A candidate that becomes a tier, with all that is learned from what it said.

    Attributes:
        candidate: The candidate.
        calibration: Of its confidence.
        gate: What its thresholds are compared with.
        judged: What it says of flows that it was not trained on, by that gate.
    """

    candidate: Candidate
    calibration: Calibration
    gate: Gate
    judged: Judgements


@dataclass(frozen=True, slots=True)
class Plan:
    """A cascade, before its tiers are trained on all flows.

    Attributes:
        tiers: The tiers, shallowest first.
        assignment: Thresholds, and what they are expected to cost and bring.
        gates: What the same tiers would bring by each kind of gate.
    """

    tiers: tuple[PlannedTier, ...]
    assignment: Assignment
    gates: dict[str, Assignment]


def compose(
    task: Task, candidates: list[Candidate], goal: LossGoal, gate: str | None = None
) -> Plan:
    """Choose tiers one by one, each time the one that shortens the waits most.

    Everything is judged on flows that neither the tiers nor, for a benefit gate, the gates were
    trained on.

    Args:
        task: The flows.
        candidates: What may become a tier.
        goal: What is wanted.
        gate: One of :data:`models.gates.GATES`; the best one when left out.
    """
    limited = np.isfinite(goal.max_cost_us)
    affordable = [
        one for one in candidates if not limited or one.cost_us[COST_BATCH] <= _SLOWEST_US
    ]
    deepest = max(affordable or candidates, key=lambda one: one.weighted_f1)
    others = [
        one
        for one in pareto([one for one in candidates if one is not deepest])
        if one.recipe.depth <= deepest.recipe.depth
        and one.cost_us[COST_BATCH] <= deepest.cost_us[COST_BATCH]
    ]
    book = _Book(task, deepest)
    first = gate or GATES[0]
    chosen: list[Candidate] = []
    best = book.measure([deepest], first, goal, full=False)
    while others and len(chosen) + 1 < _MOST_TIERS:
        found = [(book.measure([*chosen, one, deepest], first, goal, full=False), one)
                 for one in others]  # fmt: skip
        ahead, one = min(found, key=lambda pair: goal.rank(pair[0]))
        shorter = ahead.wait <= best.wait - _GAIN
        cheaper = ahead.wait <= best.wait and ahead.cost_us <= _CHEAPER * best.cost_us
        if goal.rank(ahead) >= goal.rank(best) or not (shorter or cheaper):
            break
        best = ahead
        chosen.append(one)
        others.remove(one)
    tiers = [*chosen, deepest]
    kinds = (gate,) if gate else GATES
    by_gate = {kind: book.measure(tiers, kind, goal, full=True) for kind in kinds}
    kind = min(by_gate, key=lambda one: goal.rank(by_gate[one]))
    ordered = _in_order(tiers)
    planned = tuple(book.planned(one, kind) for one in ordered)
    return Plan(planned, by_gate[kind], by_gate)


class _Book:
    """Remembers what was found out about each candidate."""

    def __init__(self, task: Task, deepest: Candidate) -> None:
        self._task = task
        self._deepest = deepest
        self._right_deepest = deepest.scores.argmax(axis=1) == task.true
        self._benefit: dict[str, npt.NDArray[np.float32]] = {}
        self._calibrated: dict[str, npt.NDArray[np.float32]] = {}

    def measure(
        self, tiers: list[Candidate], kind: str, goal: LossGoal, *, full: bool
    ) -> Assignment:
        judged = [self._judged(one, kind) for one in _in_order(tiers)]
        data = self._task.data
        yardstick = Yardstick(
            self._task.true, data.groups, judged, data.sizes, seed=self._task.seed
        )
        return search(yardstick, goal, effort=FULL if full else COARSE)

    def planned(self, one: Candidate, kind: str) -> PlannedTier:
        right = self._right(one)
        gate = Gate("confidence")
        if one is not self._deepest:
            gate = Gate(kind)
            if kind == "benefit":
                gate = fit_benefit(
                    self._gate_inputs(one), right, self._right_deepest, self._task.seed
                )
        calibration = fit_calibration(one.scores.max(axis=1), right)
        return PlannedTier(one, calibration, gate, self._judged(one, kind))

    def _judged(self, one: Candidate, kind: str) -> Judgements:
        depth = one.recipe.depth
        sure = self._confidence(one)
        if kind == "benefit" and one is not self._deepest:
            sure = self._benefits(one)
        elif kind != "benefit":
            sure = assurance(Gate(kind), one.scores, sure, None)
        return Judgements(
            one.scores.argmax(axis=1),
            sure,
            depth,
            self._task.data.wait_ns(depth),
            one.cost_us[COST_BATCH],
        )

    def _confidence(self, one: Candidate) -> npt.NDArray[np.float32]:
        if one.name not in self._calibrated:
            self._calibrated[one.name] = calibrated(
                one.scores.max(axis=1), self._right(one), self._task.fold
            )
        return self._calibrated[one.name]

    def _benefits(self, one: Candidate) -> npt.NDArray[np.float32]:
        if one.name not in self._benefit:
            self._benefit[one.name] = cross_fitted(
                self._gate_inputs(one),
                self._right(one),
                self._right_deepest,
                self._task.data.groups,
                self._task.seed,
            )
        return self._benefit[one.name]

    def _gate_inputs(self, one: Candidate) -> npt.NDArray[np.float32]:
        data = self._task.data
        columns = flow_features(data.packets, data.offsets, one.recipe.depth, sight=one.sight)
        return benefit_inputs(one.scores, columns)

    def _right(self, one: Candidate) -> npt.NDArray[np.bool_]:
        return np.asarray(one.scores.argmax(axis=1) == self._task.true)


def _in_order(tiers: list[Candidate]) -> list[Candidate]:
    return sorted(tiers, key=lambda one: (one.recipe.depth, one.cost_us[COST_BATCH]))


def with_thresholds(plan: Plan, assignment: Assignment) -> Plan:
    """Return the same tiers with other thresholds."""
    return replace(plan, assignment=assignment)
