"""Composes a cascade of candidates: which tiers, weighed by which gate, with which thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.assignment import COARSE, FULL, Effort, Judgements, Yardstick, search
from models.calibration import BestCalibration, Calibration, fit_best_calibration
from models.candidates import Candidate, Task, pareto
from models.costs import COST_BATCH, cost_us
from models.features import flow_features
from models.gates import (
    BENEFIT_COLUMNS,
    GATES,
    Gate,
    assurance,
    benefit_inputs,
    cross_fitted,
    fit_benefit,
)
from models.goals import NEVER, Assignment, LossGoal

__all__ = ["Plan", "PlannedTier", "arrange", "compose", "settled"]

_MOST_TIERS = 6
_GAIN = 0.02  # that a further tier must take off the mean logarithm of the waits
_CHEAPER = 0.9  # or what it must multiply the cost with, at waits that are no longer
_FIRST_GATES = ("benefit", "confidence")  # by which tiers are chosen
_FAST_US = 6.0  # that any tier but the deepest may take, where cost matters
_DEEPEST_SHARES = (5.0, 1.5, 0.5)  # of the cost allowed, that the deepest tier may take


@dataclass(frozen=True, slots=True)
class PlannedTier:
    """A candidate that becomes a tier, with all that is learned from what it said.

    Attributes:
        candidate: The candidate.
        calibration: Of its confidence.
        confidence: What that kind of calibration says of flows that neither it nor the candidate
            was fitted to, float32 ``[n]``.
        gate: What its thresholds are compared with.
        judged: What it says of flows that it was not trained on, by that gate.
    """

    candidate: Candidate
    calibration: Calibration
    confidence: npt.NDArray[np.float32]
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

    The deepest tier is the one that judges best, or where that one takes more than the goal allows,
    the best of the cheaper ones. Where cost matters the others are fast: what they take, every
    flow of a call waits for.

    Everything is judged on flows that neither the tiers nor, for a benefit gate, the gates were
    trained on.

    Args:
        task: The flows.
        candidates: What may become a tier.
        goal: What is wanted.
        gate: One of :data:`models.gates.GATES`; the best one when left out.
    """
    plans = []
    for deepest in _deepest(candidates, goal):
        plans.append(_around(task, candidates, deepest, goal, gate))
        if goal.met(plans[-1].assignment):
            return plans[-1]
    return min(plans, key=lambda plan: goal.rank(plan.assignment))


def _deepest(candidates: list[Candidate], goal: LossGoal) -> list[Candidate]:
    """Return what may be the deepest tier, the best first; where cost matters, cheaper ones too.

    What the deepest tier takes is not to be had again by asking it less: the loss is counted
    against it.
    """
    limits = (goal.max_cost_us * share for share in _DEEPEST_SHARES)
    found: list[Candidate] = []
    for limit_us in limits if np.isfinite(goal.max_cost_us) else (goal.max_cost_us,):
        within = [one for one in candidates if one.cost_us[COST_BATCH] <= limit_us]
        best = max(within or candidates, key=lambda one: one.weighted_f1)
        if all(best is not one for one in found):
            found.append(best)
    return found


def _around(
    task: Task, candidates: list[Candidate], deepest: Candidate, goal: LossGoal, gate: str | None
) -> Plan:
    """Compose a cascade whose deepest tier is given."""
    most_us = _FAST_US if np.isfinite(goal.max_cost_us) else np.inf
    others = [
        one
        for one in pareto([one for one in candidates if one is not deepest])
        if one.recipe.depth <= deepest.recipe.depth and one.cost_us[COST_BATCH] <= most_us
    ]
    book = _Book(task, deepest, goal)
    plans = []
    for first in (gate,) if gate else _FIRST_GATES:
        tiers = [*_chosen(book, others, deepest, first, goal), deepest]
        plans.append(_weighed(book, _in_order(tiers), goal, (gate,) if gate else GATES))
    return min(plans, key=lambda plan: goal.rank(plan.assignment))


def _chosen(
    book: _Book, others: list[Candidate], deepest: Candidate, first: str, goal: LossGoal
) -> list[Candidate]:
    """Add the tier that helps most while one does; then exchange what another does better."""

    def measured(tiers: list[Candidate]) -> Assignment:
        return book.measure([*tiers, deepest], first, full=False)

    def helps(ahead: Assignment) -> bool:
        shorter = ahead.wait <= best.wait - _GAIN
        cheaper = ahead.wait <= best.wait and ahead.cost_us <= _CHEAPER * best.cost_us
        return goal.rank(ahead) < goal.rank(best) and (shorter or cheaper)

    chosen: list[Candidate] = []
    best = measured(chosen)
    while True:
        trials = []
        if len(chosen) + 1 < _MOST_TIERS:
            trials = [[*chosen, one] for one in others if one not in chosen]
        trials = [one for one in trials if helps(measured(one))] or _exchanged(chosen, others)
        found = min(trials, key=lambda one: goal.rank(measured(one)), default=chosen)
        if not helps(measured(found)):
            return chosen
        chosen, best = found, measured(found)


def _exchanged(chosen: list[Candidate], others: list[Candidate]) -> list[list[Candidate]]:
    """Return the choices with one tier exchanged for another one of its depth."""
    return [
        [another if one is gone else one for one in chosen]
        for gone in chosen
        for another in others
        if another.recipe.depth == gone.recipe.depth and another not in chosen
    ]


def _weighed(book: _Book, tiers: list[Candidate], goal: LossGoal, kinds: tuple[str, ...]) -> Plan:
    """Choose the gate of a cascade, and its thresholds."""
    by_gate = {kind: book.measure(tiers, kind, full=True) for kind in kinds}
    kind = min(by_gate, key=lambda one: goal.rank(by_gate[one]))
    # They were chosen one by one, and maybe by another gate: a tier that is never sure now only
    # costs.
    while NEVER in by_gate[kind].thresholds:
        finals = (*by_gate[kind].thresholds, 0.0)
        tiers = [one for one, final in zip(tiers, finals, strict=True) if final != NEVER]
        by_gate[kind] = book.measure(tiers, kind, full=True)
    planned = tuple(book.planned(one, kind) for one in tiers)
    return Plan(planned, by_gate[kind], by_gate)


def arrange(task: Task, candidates: list[Candidate], goal: LossGoal, gate: str) -> Plan:
    """Make a cascade of all candidates as they are, the last one of them the deepest tier.

    Args:
        task: The flows.
        candidates: The tiers, shallowest first.
        goal: What is wanted of the thresholds.
        gate: One of :data:`models.gates.GATES`.
    """
    book = _Book(task, candidates[-1], goal)
    assignment = book.measure(candidates, gate, full=True)
    planned = tuple(book.planned(one, gate) for one in _in_order(candidates))
    return Plan(planned, assignment, {gate: assignment})


def settled(task: Task, plan: Plan, costs_us: Sequence[float], goal: LossGoal) -> Plan:
    """Choose a cascade's thresholds once more, by what its tiers take when they are trained.

    Measured twice, a cost is never quite the same; the thresholds must keep to those costs that
    the bundle states, or ``serveflow tune`` would find them out of its goal's reach.

    Args:
        task: The flows.
        plan: The cascade.
        costs_us: What each tier takes a flow, microseconds.
        goal: What is wanted.
    """
    tiers = tuple(
        replace(tier, judged=replace(tier.judged, cost_us=cost))
        for tier, cost in zip(plan.tiers, costs_us, strict=True)
    )
    data = task.data
    judged = [tier.judged for tier in tiers]
    yardstick = Yardstick(task.true, data.groups, judged, data.sizes, seed=task.seed)
    return replace(plan, tiers=tiers, assignment=search(yardstick, goal))


class _Book:
    """Remembers what was found out about each candidate."""

    def __init__(self, task: Task, deepest: Candidate, goal: LossGoal) -> None:
        self._task = task
        self._goal = goal
        self._deepest = deepest
        self._right_deepest = deepest.scores.argmax(axis=1) == task.true
        self._benefit: dict[str, npt.NDArray[np.float32]] = {}
        self._calibrated: dict[str, BestCalibration] = {}
        self._measured_us: float | None = None
        self._found: dict[tuple[frozenset[str], str, bool], Assignment] = {}

    def measure(self, tiers: list[Candidate], kind: str, *, full: bool) -> Assignment:
        """Find the best thresholds of a cascade."""
        key = frozenset(one.name for one in tiers), kind, full
        if key not in self._found:
            self._found[key] = self._search(tiers, kind, FULL if full else COARSE)
        return self._found[key]

    def _search(self, tiers: list[Candidate], kind: str, effort: Effort) -> Assignment:
        judged = [self._judged(one, kind) for one in _in_order(tiers)]
        data = self._task.data
        yardstick = Yardstick(
            self._task.true, data.groups, judged, data.sizes, seed=self._task.seed
        )
        return search(yardstick, self._goal, effort=effort)

    def planned(self, one: Candidate, kind: str) -> PlannedTier:
        right = self._right(one)
        gate = Gate("confidence")
        if one is not self._deepest:
            gate = Gate(kind)
            if kind == "benefit":
                gate = fit_benefit(
                    self._gate_inputs(one), right, self._right_deepest, self._task.seed
                )
        found = self._calibration(one)
        judged = self._judged(one, kind)
        return PlannedTier(one, found.calibration, found.confidence, gate, judged)

    def _judged(self, one: Candidate, kind: str) -> Judgements:
        depth = one.recipe.depth
        sure = self._calibration(one).confidence
        if kind == "benefit" and one is not self._deepest:
            sure = self._benefits(one)
        elif kind != "benefit":
            sure = assurance(Gate(kind), one.scores, sure, None)
        return Judgements(
            one.scores.argmax(axis=1),
            sure,
            depth,
            self._task.data.wait_ns(depth),
            one.cost_us[COST_BATCH] + (self._gate_us(one) if kind == "benefit" else 0.0),
        )

    def _gate_us(self, one: Candidate) -> float:
        """Return what a benefit gate takes a flow: about the same at every tier."""
        if one is self._deepest:
            return 0.0
        if self._measured_us is None:
            inputs = self._gate_inputs(one)
            gate = fit_benefit(inputs, self._right(one), self._right_deepest, self._task.seed)
            columns = inputs[:, BENEFIT_COLUMNS:]

            def ask(begin: int, end: int) -> object:
                scores = one.scores[begin:end]
                return assurance(gate, scores, scores[:, 0], columns[begin:end])

            self._measured_us = cost_us(ask, len(columns))[COST_BATCH]
        return self._measured_us

    def _calibration(self, one: Candidate) -> BestCalibration:
        if one.name not in self._calibrated:
            self._calibrated[one.name] = fit_best_calibration(
                one.scores, self._right(one), self._task.fold
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
