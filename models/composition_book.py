"""Remembers what was found out about each candidate while a cascade is composed of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.assignment import COARSE, FULL, Effort, search
from models.calibration import BestCalibration, Calibration, fit_best_calibration
from models.candidates import Candidate, Task
from models.costs import COST_BATCH, call_us, cost_us
from models.delay import Delay
from models.features import flow_features
from models.gates import (
    BENEFIT_COLUMNS,
    Gate,
    assurance,
    benefit_inputs,
    cross_fitted,
    fit_benefit,
)
from models.goals import NEVER, Assignment, LossGoal, Threshold
from models.yardstick import Judgements, Yardstick
from models.zoo import DEPTHS

__all__ = ["Book", "Gating", "PlannedTier", "in_order"]


@dataclass(frozen=True, slots=True)
class Gating:
    """How all tiers of a cascade are gated.

    Attributes:
        kind: One of :data:`models.gates.GATES`.
        price: What the delay of the deepest tier alone costs a benefit gate, in right answers.
    """

    kind: str
    price: float = 0.0


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


class Book:
    """Remembers what was found out about each candidate.

    Args:
        task: The flows.
        deepest: The deepest tier.
        goal: What is wanted.
    """

    def __init__(self, task: Task, deepest: Candidate, goal: LossGoal) -> None:
        self._task = task
        self._goal = goal
        self._deepest = deepest
        self._right_deepest = deepest.scores.argmax(axis=1) == task.true
        self._delay = Delay.against(task.data.wait_ns(deepest.recipe.depth) / 1e6)
        self._benefit: dict[tuple[str, float], npt.NDArray[np.float32]] = {}
        self._calibrated: dict[str, BestCalibration] = {}
        self._gates_us: dict[int, float] = {}
        self._found: dict[tuple[frozenset[str], Gating], Assignment] = {}

    def measure(
        self, tiers: list[Candidate], gating: Gating, near: Sequence[Candidate] = ()
    ) -> Assignment:
        """Find good thresholds of a cascade, quickly.

        Args:
            tiers: Its tiers, the deepest among them.
            gating: Of its tiers.
            near: Tiers but the deepest that have been measured; where they are the same, so may
                be their thresholds, and of one that is in another's place.
        """
        key = frozenset(one.name for one in tiers), gating
        if key not in self._found:
            self._found[key] = self._search(tiers, gating, COARSE, self._near(tiers, gating, near))
        return self._found[key]

    def settle(self, tiers: list[Candidate], gating: Gating) -> Assignment:
        """Find the best thresholds of a cascade."""
        found = self._found.get((frozenset(one.name for one in tiers), gating))
        return self._search(tiers, gating, FULL, None if found is None else found.thresholds)

    def _near(
        self, tiers: list[Candidate], gating: Gating, near: Sequence[Candidate]
    ) -> tuple[Threshold, ...] | None:
        found = self._found.get((frozenset(one.name for one in (*near, self._deepest)), gating))
        if found is None:
            return None
        known = dict(zip((one.name for one in in_order([*near])), found.thresholds, strict=True))
        gone = {
            one.recipe.depth: known[one.name]
            for one in near
            if all(one is not tier for tier in tiers)
        }
        return tuple(
            known.get(one.name, gone.get(one.recipe.depth, NEVER))
            for one in in_order(tiers)
            if one is not self._deepest
        )

    def _search(
        self,
        tiers: list[Candidate],
        gating: Gating,
        effort: Effort,
        near: tuple[Threshold, ...] | None,
    ) -> Assignment:
        judged = [self._judged(one, gating) for one in in_order(tiers)]
        data = self._task.data
        yardstick = Yardstick(
            self._task.true, data.groups, judged, data.sizes, seed=self._task.seed
        )
        return search(yardstick, self._goal, effort=effort, near=near)

    def planned(self, one: Candidate, gating: Gating) -> PlannedTier:
        """Return a candidate as a tier."""
        gate = Gate("confidence")
        if one is not self._deepest:
            gate = Gate(gating.kind)
            if gating.kind == "benefit":
                gate = self._fit_benefit(one, gating.price)
        found = self._calibration(one)
        judged = self._judged(one, gating)
        return PlannedTier(one, found.calibration, found.confidence, gate, judged)

    def _judged(self, one: Candidate, gating: Gating) -> Judgements:
        depth = one.recipe.depth
        sure, taken_us = self._calibration(one).confidence, one.cost_us
        if gating.kind != "benefit":
            sure = assurance(Gate(gating.kind), one.scores, sure, None)
        elif one is not self._deepest:
            sure, gate_us = self._benefits(one, gating.price), self._gate_us(one)
            taken_us = {batch: cost + gate_us[batch] for batch, cost in one.cost_us.items()}
        return Judgements(
            one.scores.argmax(axis=1),
            sure,
            depth,
            self._task.data.wait_ns(depth),
            taken_us[COST_BATCH],
            call_us(taken_us),
        )

    def _gate_us(self, one: Candidate) -> dict[int, float]:
        """Return what a benefit gate takes a flow: about the same at every tier."""
        if not self._gates_us:
            gate = self._fit_benefit(one, 0.0)
            columns = self._gate_inputs(one)[:, BENEFIT_COLUMNS:]

            def ask(begin: int, end: int) -> object:
                scores = one.scores[begin:end]
                return assurance(gate, scores, scores[:, 0], columns[begin:end])

            self._gates_us = cost_us(ask, len(columns))
        return self._gates_us

    def _calibration(self, one: Candidate) -> BestCalibration:
        if one.name not in self._calibrated:
            self._calibrated[one.name] = fit_best_calibration(
                one.scores, self._right(one), self._task.fold
            )
        return self._calibrated[one.name]

    def _benefits(self, one: Candidate, price: float) -> npt.NDArray[np.float32]:
        key = one.name, price
        if key not in self._benefit:
            self._benefit[key] = cross_fitted(
                self._gate_inputs(one),
                self._right(one),
                self._right_deepest,
                self._price(one, price),
                self._task.data.groups,
                self._task.seed,
            )
        return self._benefit[key]

    def _fit_benefit(self, one: Candidate, price: float) -> Gate:
        return fit_benefit(
            self._gate_inputs(one),
            self._right(one),
            self._right_deepest,
            self._price(one, price),
            self._task.seed,
        )

    def _price(self, one: Candidate, price: float) -> npt.NDArray[np.float32]:
        """Return what waiting for the next depth's packets costs each flow, in right answers."""
        data, deepest = self._task.data, self._deepest.recipe.depth
        depth = one.recipe.depth
        further = min((k for k in DEPTHS if depth < k <= deepest), default=deepest)
        now, then = (self._delay(data.wait_ns(k) / 1e6) for k in (depth, further))
        return np.asarray(price * (then - now), np.float32)

    def _gate_inputs(self, one: Candidate) -> npt.NDArray[np.float32]:
        data = self._task.data
        columns = flow_features(data.packets, data.offsets, one.recipe.depth, sight=one.sight)
        return benefit_inputs(one.scores, columns)

    def _right(self, one: Candidate) -> npt.NDArray[np.bool_]:
        return np.asarray(one.scores.argmax(axis=1) == self._task.true)


def in_order(tiers: list[Candidate]) -> list[Candidate]:
    """Return tiers as a cascade asks them: the shallowest first, of a depth the cheapest."""
    return sorted(tiers, key=lambda one: (one.recipe.depth, one.cost_us[COST_BATCH]))
