"""What tuning found, as an object: the new operating point, and what others would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models.goals import Assignment, Goal, Threshold

__all__ = ["Guarantee", "Point", "TuneReport", "curve", "front", "point", "spread"]

_ROWS = 15  # of the trade-off curve


@dataclass(frozen=True, slots=True)
class Point:
    """One operating point of the trade-off curve.

    Attributes:
        thresholds: Of all tiers but the deepest, each one for all classes or one for each; 2:
            never sure.
        early: Expected share of flows that are answered before the deepest tier.
        within_16ms: That wait for packets for 16 ms at most; the models' time is not counted.
        escalated: That are answered behind packet 1.
        loss: Expected loss of weighted F1 against the deepest tier alone, 0 to 1.
        loss_bound: Its upper bound (one-sided 90 %, of F1 and accuracy the greater).
        mean_wait_ms: Mean of what flows wait for packets.
        typical_wait_ms: The same, as the geometric mean of 1 + milliseconds.
        cost_us: Mean of what the models take of a flow, microseconds; 0: never measured.
        chosen: Whether it is the new operating point.
        current: Whether it is the one that the bundle had.
    """

    thresholds: tuple[Threshold, ...]
    early: float
    within_16ms: float
    escalated: float
    loss: float
    loss_bound: float
    mean_wait_ms: float
    typical_wait_ms: float
    cost_us: float
    chosen: bool
    current: bool


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A guarantee, and the evidence for it.

    Attributes:
        risk: That the loss of accuracy against the deepest tier does not exceed, from 0 to 1, in
            the mean over captures; a capture that gains counts as 0.
        confidence: That it does not.
        captures: That it rests on.
        loss: Mean of theirs.
        p_value: Of the last test that was passed.
    """

    risk: float
    confidence: float
    captures: int
    loss: float
    p_value: float


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What tuning chose.

    Attributes:
        model_version: Of the new bundle.
        tuned_from: Version of the bundle that was tuned.
        goal: ``max_f1_loss``, ``within_16ms`` or ``max_escalation``.
        value: Of the goal: a share, from 0 to 1.
        max_cost_us: Most that the models were allowed to take of a flow; None: no matter what.
        per_class: Whether classes could get thresholds of their own.
        tiers: Names of the tiers; the deepest, which has no threshold, last.
        flows: Flows of the stored judgements.
        groups: Groups (captures) that they come from.
        chosen: The new operating point.
        curve: Operating points from "never early" on, ``chosen`` among them.
        guarantee: None: only the bound on resampled captures was asked for.
        guaranteed: What is guaranteed, in words.
        not_guaranteed: What is not.
    """

    model_version: str
    tuned_from: str
    goal: str
    value: float
    max_cost_us: float | None
    per_class: bool
    tiers: tuple[str, ...]
    flows: int
    groups: int
    chosen: Point
    curve: tuple[Point, ...]
    guarantee: Guarantee | None
    guaranteed: str
    not_guaranteed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain objects, for JSON."""
        return asdict(self)


def front(seen: Sequence[Assignment], goal: Goal) -> list[Assignment]:
    """Return those that no other beats in both price and bound, thinned out evenly by price."""
    front: list[Assignment] = []
    for found in sorted(seen, key=lambda one: (goal.price(one), one.loss_bound)):
        if not front or found.loss_bound < front[-1].loss_bound:
            front.append(found)
    prices = np.array([goal.price(found) for found in front])
    wanted = np.linspace(prices[0], prices[-1], _ROWS)
    return [front[i] for i in np.unique(np.abs(prices - wanted[:, None]).argmin(axis=1))]


def spread(path: Sequence[Assignment]) -> list[Assignment]:
    """Return some of a path's, evenly."""
    return [path[i] for i in np.linspace(0, len(path) - 1, _ROWS).astype(np.int64)]


def curve(rows: Sequence[Assignment], chosen: Assignment, current: Assignment) -> tuple[Point, ...]:
    """Return what differs in its figures, and the two in any case; the longest waits first."""
    once = {replace(found, thresholds=()): found for found in rows}
    for own in (current, chosen):
        once.pop(replace(own, thresholds=()), None)
    both = {found.thresholds: found for found in (current, chosen)}
    ordered = sorted(
        (*once.values(), *both.values()), key=lambda found: (-found.wait, found.loss_bound)
    )
    return tuple(point(found, chosen, current) for found in ordered)


def point(found: Assignment, chosen: Assignment, current: Assignment) -> Point:
    """Return what is reported of an operating point."""
    return Point(
        thresholds=found.thresholds,
        early=round(found.early, 4),
        within_16ms=round(found.within_16ms, 4),
        escalated=round(found.escalated, 4),
        loss=round(found.loss, 4),
        loss_bound=round(found.loss_bound, 4),
        mean_wait_ms=round(found.mean_wait_ms, 2),
        typical_wait_ms=round(found.typical_wait_ms, 2),
        cost_us=round(found.cost_us, 3),
        chosen=found.thresholds == chosen.thresholds,
        current=found.thresholds == current.thresholds,
    )
