"""Composes a cascade of candidates: which tiers, weighed by which gate, with which thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.assignment import search
from models.candidates import Candidate, Task, pareto
from models.composition_book import Book, Gating, PlannedTier, in_order
from models.costs import COST_BATCH, call_us
from models.gates import GATES
from models.goals import NEVER, Assignment, LossGoal
from models.yardstick import Yardstick

__all__ = ["Plan", "PlannedTier", "arrange", "compose", "mean_cost_us", "settled", "yardstick_of"]

_MOST_TIERS = 6
_GAIN = 0.002  # of the distance from the goal, that a further tier must bring
_CHEAPER = 0.9  # or what it must multiply the cost with, at a distance that is no greater
_FAST_US = 6.0  # that any tier but the deepest may take, where cost matters
_PRICES = (0.12, 0.03)  # of the delay of the deepest tier alone, in right answers
_BETWEEN = 0.06  # what else is tried once tiers are chosen
_ENOUGH = 0.25  # delay, at which no cheaper deepest tier is looked for
_AS_GOOD = 0.015  # weighted F1 that a cheaper deepest tier may lack
_SHORTER = 0.7  # what a cheaper deepest tier must multiply the delay with
_DEEPEST_SHARES = (5.0, 1.5, 0.8, 0.5)  # of the cost allowed, that the deepest tier may take


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
    the best of the cheaper ones; also where so much is left to it that one of those saves a good
    part of the delay. Where cost matters the others are fast: what they take, every flow of a
    call waits for.

    Everything is judged on flows that neither the tiers nor, for a benefit gate, the gates were
    trained on.

    Args:
        task: The flows.
        candidates: What may become a tier.
        goal: What is wanted.
        gate: One of :data:`models.gates.GATES`; the best one when left out.
    """
    first, *cheaper = _deepest(candidates, goal)
    best = _around(task, candidates, first, goal, gate)
    for deepest in cheaper:
        met = goal.met(best.assignment)
        if met and best.assignment.delay <= _ENOUGH:
            break
        plan = _around(task, candidates, deepest, goal, gate)
        if met:
            best = plan if goal.met(plan.assignment) and _much_sooner(plan, best) else best
        else:
            best = min(best, plan, key=lambda one: goal.rank(one.assignment))
    return best


def _much_sooner(plan: Plan, best: Plan) -> bool:
    """Tell whether a cascade saves a good part of the delay, and its deepest tier is about as good.

    Delays are told against the deepest tiers' own, and the same only where these are as deep.
    """
    own, other = plan.tiers[-1].candidate, best.tiers[-1].candidate
    as_good = own.weighted_f1 >= other.weighted_f1 - _AS_GOOD
    as_deep = own.recipe.depth == other.recipe.depth
    return as_good and as_deep and plan.assignment.delay <= _SHORTER * best.assignment.delay


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
        for one in _worth_trying([one for one in candidates if one is not deepest])
        if one.recipe.depth <= deepest.recipe.depth and one.cost_us[COST_BATCH] <= most_us
    ]
    book, kind = Book(task, deepest, goal), gate or GATES[0]
    found = []
    for price in _PRICES if kind == "benefit" else (0.0,):
        gating = Gating(kind, price)
        tiers = in_order([*_chosen(book, others, deepest, gating, goal), deepest])
        found.append((book.settle(tiers, gating), gating, tiers))
    assignment, gating, tiers = min(found, key=lambda one: goal.rank(one[0]))
    others_too = [Gating(kind, _BETWEEN)] if kind == "benefit" else []
    others_too += [Gating(one) for one in GATES if gate is None and one != kind]
    by_gate = {gating: assignment, **{one: book.settle(tiers, one) for one in others_too}}
    return _weighed(book, tiers, goal, by_gate)


def _worth_trying(candidates: list[Candidate]) -> list[Candidate]:
    """Leave out those that another one of their depth beats in both F1 and cost.

    One that a shallower one beats on all flows may be better on those that the shallower one
    leaves to it.
    """
    found = []
    for depth in sorted({one.recipe.depth for one in candidates}):
        found += pareto([one for one in candidates if one.recipe.depth == depth])
    return found


def _chosen(
    book: Book, others: list[Candidate], deepest: Candidate, gating: Gating, goal: LossGoal
) -> list[Candidate]:
    """Add the tier that helps most while one does; then exchange what another does better."""

    def measured(tiers: list[Candidate]) -> Assignment:
        return book.measure([*tiers, deepest], gating, near=chosen)

    def helps(ahead: Assignment) -> bool:
        nearer = goal.distance(best) - goal.distance(ahead)
        return nearer >= _GAIN or (nearer >= 0.0 and ahead.cost_us <= _CHEAPER * best.cost_us)

    chosen: list[Candidate] = []
    best = measured([])
    while True:
        trials = []
        if len(chosen) + 1 < _MOST_TIERS:
            trials = [[*chosen, one] for one in others if one not in chosen]
        trials = [one for one in trials if helps(measured(one))] or _exchanged(chosen, others)
        found = min(trials, key=lambda one: goal.distance(measured(one)), default=chosen)
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


def _weighed(
    book: Book, tiers: list[Candidate], goal: LossGoal, by_gate: dict[Gating, Assignment]
) -> Plan:
    """Choose the gate of a cascade, and leave out tiers that it has no use for."""
    gating = min(by_gate, key=lambda one: goal.rank(by_gate[one]))
    # They were chosen one by one, and maybe by another gate: a tier that is never sure now only
    # costs.
    while NEVER in by_gate[gating].thresholds:
        finals = (*by_gate[gating].thresholds, 0.0)
        tiers = [one for one, final in zip(tiers, finals, strict=True) if final != NEVER]
        by_gate[gating] = book.settle(tiers, gating)
    planned = tuple(book.planned(one, gating) for one in tiers)
    worst_first = sorted(by_gate.items(), key=lambda one: goal.rank(one[1]), reverse=True)
    return Plan(planned, by_gate[gating], {one.kind: found for one, found in worst_first})


def arrange(task: Task, candidates: list[Candidate], goal: LossGoal, gate: str) -> Plan:
    """Make a cascade of all candidates as they are, the last one of them the deepest tier.

    Args:
        task: The flows.
        candidates: The tiers, shallowest first.
        goal: What is wanted of the thresholds.
        gate: One of :data:`models.gates.GATES`.
    """
    book, gating = Book(task, candidates[-1], goal), Gating(gate)
    assignment = book.settle(candidates, gating)
    planned = tuple(book.planned(one, gating) for one in in_order(candidates))
    return Plan(planned, assignment, {gate: assignment})


def settled(
    task: Task, plan: Plan, costs_us: Sequence[Mapping[int, float]], goal: LossGoal
) -> Plan:
    """Choose a cascade's thresholds once more, by what its tiers take when they are trained.

    Measured twice, a cost is never quite the same; the thresholds must keep to those costs that
    the bundle states, or ``serveflow tune`` would find them out of its goal's reach.

    Args:
        task: The flows.
        plan: The cascade.
        costs_us: What each tier takes a flow, by flows in a call, microseconds.
        goal: What is wanted.
    """
    tiers = _priced(plan, costs_us)
    # As tuning searches, so that it finds the same for the same goal.
    return replace(plan, tiers=tiers, assignment=search(yardstick_of(task, tiers), goal))


def mean_cost_us(task: Task, plan: Plan, costs_us: Sequence[Mapping[int, float]]) -> float:
    """Return what a cascade takes a flow by its thresholds as they are, microseconds.

    Args:
        task: The flows.
        plan: The cascade.
        costs_us: What each tier takes a flow, by flows in a call, microseconds.
    """
    yardstick = yardstick_of(task, _priced(plan, costs_us))
    return yardstick.glance(plan.assignment.thresholds).cost_us


def _priced(plan: Plan, costs_us: Sequence[Mapping[int, float]]) -> tuple[PlannedTier, ...]:
    return tuple(
        replace(tier, judged=replace(tier.judged, cost_us=cost[COST_BATCH], call_us=call_us(cost)))
        for tier, cost in zip(plan.tiers, costs_us, strict=True)
    )


def yardstick_of(task: Task, tiers: Sequence[PlannedTier]) -> Yardstick:
    """Return what measures thresholds of planned tiers."""
    data, judged = task.data, [tier.judged for tier in tiers]
    return Yardstick(task.true, data.groups, judged, data.sizes, seed=task.seed)
