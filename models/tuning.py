"""Moves a bundle to another operating point, on the judgements that training kept: no retraining.

Either by the bound on resampled captures, as training does, or with a guarantee that holds for
any distribution (:mod:`models.guarantee`) and is accordingly hard to get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.errors import SettingsError
from models.assignment import CONFIDENCE, Yardstick, route, search
from models.bundle import check_replaceable, read_bundle, read_validation, rewrite_bundle
from models.card import NOT_GUARANTEED, bounded_text, operating_point, with_operating_point
from models.goals import (
    NEVER,
    Assignment,
    EscalationGoal,
    Goal,
    LossGoal,
    Threshold,
    WithinGoal,
)
from models.guarantee import PATH, certified, fewest_units, group_losses, least_risk
from models.validation import Validation

__all__ = ["Guarantee", "Point", "TuneReport", "goal_of", "tune"]

_ROWS = 15  # of the trade-off curve


@dataclass(frozen=True, slots=True)
class Point:
    """One operating point of the trade-off curve.

    Attributes:
        thresholds: Of all tiers but the deepest; 2: never sure.
        early: Expected share of flows that are answered before the deepest tier.
        within_16ms: That wait for packets for 16 ms at most; the models' time is not counted.
        escalated: That are answered behind packet 1.
        loss: Expected loss of weighted F1 against the deepest tier alone, 0 to 1.
        loss_bound: Its upper bound (one-sided 90 %, of F1 and accuracy the greater).
        mean_wait_ms: Mean of what flows wait for packets.
        typical_wait_ms: The same, as the geometric mean of 1 + milliseconds.
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


def goal_of(
    max_f1_loss: float | None = None,
    within_16ms: float | None = None,
    max_escalation: float | None = None,
) -> Goal:
    """Return the one goal that is given.

    Args:
        max_f1_loss: Most loss of weighted F1 and of accuracy, percentage points.
        within_16ms: Least share of flows that wait for 16 ms at most.
        max_escalation: Greatest share of flows that go beyond packet 1.

    Raises:
        SettingsError: None is given, or more than one, or one is out of range.
    """
    given = {
        "--max-f1-loss": (max_f1_loss, 100.0, "percentage points, such as 0.5"),
        "--within-16ms": (within_16ms, 1.0, "a share, such as 0.8"),
        "--max-escalation": (max_escalation, 1.0, "a share, such as 0.3"),
    }
    chosen = [option for option, (value, _, _) in given.items() if value is not None]
    if len(chosen) != 1:
        got = " and ".join(chosen) if chosen else "none"
        raise SettingsError(f"give exactly one goal of {', '.join(given)}; got {got}")
    value, most, means = given[chosen[0]]
    if value is None or not 0.0 <= value <= most:
        raise SettingsError(f"{chosen[0]} {value}: must lie from 0 to {most:g}: {means}")
    if max_f1_loss is not None:
        return LossGoal(max_f1_loss / 100.0)
    return WithinGoal(value) if within_16ms is not None else EscalationGoal(value)


def tune(
    bundle: Path, out: Path, goal: Goal, *, guarantee: bool = False, seed: int = 0
) -> TuneReport:
    """Choose a bundle's thresholds anew and write it with them; its engines stay as they are.

    Args:
        bundle: The bundle's folder.
        out: Folder for the new bundle; a bundle that is there is replaced, and be it ``bundle``.
        goal: What the thresholds are wanted for, see :func:`goal_of`.
        guarantee: Choose so that the loss of accuracy is guaranteed not to exceed that of a
            :class:`LossGoal`, by Hoeffding and Bentkus; training's bound is not asked then.
        seed: Of the drawing of captures for the bounds.

    Raises:
        BundleError: The bundle is damaged, or keeps no judgements, or ``out`` holds something else
            than a bundle.
        SettingsError: No thresholds do what is wanted; nothing is written.
    """
    check_replaceable(out)
    contents = read_bundle(bundle, tiers=())
    kept = read_validation(bundle)
    groups = len(np.unique(kept.groups))
    yardstick = Yardstick(kept.true, kept.groups, kept.tiers, kept.sizes, seed=seed)
    evidence: Guarantee | None = None
    if guarantee:
        chosen, seen, evidence = _guaranteed(kept, yardstick, goal)
        guaranteed, exceptions = _guarantee_text(evidence)
        rows = _spread(seen)
    else:
        seen = []
        chosen = search(yardstick, goal, seen=seen)
        if not goal.met(chosen):
            raise _out_of_reach(goal, chosen)
        guaranteed, exceptions = bounded_text(groups), NOT_GUARANTEED
        rows = _front(seen, goal)
    current = yardstick.measure(tuple(tier.threshold for tier in contents.tiers[:-1]))
    never = yardstick.measure((NEVER,) * len(current.thresholds))
    section = operating_point(
        chosen,
        [(tier.name, tier.depth) for tier in contents.tiers],
        wanted=_wanted(goal, guarantee),
        guaranteed=guaranteed,
        not_guaranteed=exceptions,
        flows=len(kept.true),
        groups=groups,
    )
    card = with_operating_point(contents.card, section)
    version = rewrite_bundle(bundle, out, chosen.thresholds, card)
    return TuneReport(
        model_version=version,
        tuned_from=contents.model_version,
        goal=goal.name,
        value=goal.value,
        tiers=tuple(tier.name for tier in contents.tiers),
        flows=len(kept.true),
        groups=groups,
        chosen=_point(chosen, chosen, current),
        curve=_curve([*rows, never], chosen, current),
        guarantee=evidence,
        guaranteed=guaranteed,
        not_guaranteed=tuple(exceptions),
    )


def _guaranteed(
    kept: Validation, yardstick: Yardstick, goal: Goal
) -> tuple[Assignment, list[Assignment], Guarantee]:
    """Return the last thresholds of the path that pass, all of the path, and the evidence."""
    if not isinstance(goal, LossGoal):
        raise SettingsError(
            "--guarantee bounds a loss, and there is no other to bound: give it with --max-f1-loss"
        )
    risk, points = goal.value, f"{100.0 * goal.value:g} percentage points"
    if not 0.0 < risk < 1.0:
        raise SettingsError(f"--guarantee: {points}: give more than 0 and less than 100")
    n = len(np.unique(kept.groups))
    needed = fewest_units(risk, CONFIDENCE)
    if n < needed:
        raise SettingsError(
            f"--guarantee: {n} captures cannot guarantee a loss of at most {points} with "
            f"{CONFIDENCE:.0%} confidence. Even if none of them showed any loss, {needed:,} would "
            f"be needed; {n} can guarantee {100.0 * least_risk(n, CONFIDENCE):.1f} points at best. "
            "Nothing was written: train on more captures, or leave out --guarantee for the bound "
            "on resampled captures, which is no guarantee"
        )
    rows = np.arange(len(kept.true))
    labels = np.stack([tier.labels for tier in kept.tiers])
    path = [(threshold,) * (len(kept.tiers) - 1) for threshold in PATH]
    deepest = labels[-1] == kept.true
    losses = []
    for thresholds in path:
        said = labels[route(kept.tiers, kept.sizes, thresholds), rows]
        losses.append(group_losses(said == kept.true, deepest, kept.groups))
    passed = certified(losses, risk, CONFIDENCE)
    if not passed:
        raise SettingsError(
            f"--guarantee: a loss of at most {points} cannot be guaranteed: {n} captures lose "
            f"{100.0 * losses[0].mean():.2f} points in the mean even with thresholds of {PATH[0]}. "
            "Nothing was written: allow more loss, or train on more captures"
        )
    last = len(passed) - 1
    seen = [yardstick.measure(thresholds) for thresholds in path]
    evidence = Guarantee(risk, CONFIDENCE, n, float(losses[last].mean()), passed[last])
    return seen[last], seen, evidence


def _guarantee_text(found: Guarantee) -> tuple[str, tuple[str, ...]]:
    """Return what is guaranteed and what is not."""
    text = (
        f"With {found.confidence:.0%} confidence over the draw of the {found.captures:,} captures: "
        "the loss of accuracy against the deepest tier, in the mean over captures drawn like "
        f"these, is at most {100.0 * found.risk:g} percentage points; a capture that gains counts "
        f"as 0. Seen: {100.0 * found.loss:.2f} points, p = {found.p_value:.3g} (Hoeffding and "
        "Bentkus, Bates et al. 2021; thresholds tested in a fixed sequence, Angelopoulos et al. "
        "2021). It rests on two things that nobody has tested: that captures are independent draws "
        "of one kind, and that the tiers judge as they did in cross-validation (see the last point "
        "below)."
    )
    return text, ("weighted F1: its loss is measured above, not guaranteed", *NOT_GUARANTEED)


def _wanted(goal: Goal, guarantee: bool) -> str:
    option = f"--{goal.name.replace('_', '-')}"
    given = goal.value * (100.0 if isinstance(goal, LossGoal) else 1.0)
    command = f"Chosen by `serveflow tune {option} {given:g}{' --guarantee' if guarantee else ''}`:"
    if guarantee:
        return f"{command} the shortest waits at which the loss of accuracy is guaranteed."
    if isinstance(goal, LossGoal):
        return (
            f"{command} the shortest waits at which the loss of weighted F1 and of accuracy is "
            f"bounded by {given:g} percentage points."
        )
    if isinstance(goal, WithinGoal):
        what = f"at least {given:.1%} of the flows wait for packets for 16 ms at most"
    else:
        what = f"at most {given:.1%} of the flows go beyond packet 1"
    return f"{command} the least bound of the loss at which {what}."


def _out_of_reach(goal: Goal, best: Assignment) -> SettingsError:
    if isinstance(goal, WithinGoal):
        most = f"{best.within_16ms:.1%} of the flows wait for packets for 16 ms at most"
        return SettingsError(f"--within-16ms {goal.value:g}: out of reach: at best {most}")
    least = f"{best.escalated:.1%} of the flows go beyond packet 1"
    return SettingsError(f"--max-escalation {goal.value:g}: out of reach: at least {least}")


def _front(seen: Sequence[Assignment], goal: Goal) -> list[Assignment]:
    """Return those that no other beats in both price and bound, thinned out evenly by price."""
    front: list[Assignment] = []
    for found in sorted(seen, key=lambda one: (goal.price(one), one.loss_bound)):
        if not front or found.loss_bound < front[-1].loss_bound:
            front.append(found)
    prices = np.array([goal.price(found) for found in front])
    wanted = np.linspace(prices[0], prices[-1], _ROWS)
    return [front[i] for i in np.unique(np.abs(prices - wanted[:, None]).argmin(axis=1))]


def _spread(path: Sequence[Assignment]) -> list[Assignment]:
    return [path[i] for i in np.linspace(0, len(path) - 1, _ROWS).astype(np.int64)]


def _curve(
    rows: Sequence[Assignment], chosen: Assignment, current: Assignment
) -> tuple[Point, ...]:
    """Return what differs in its figures, and the two in any case; the longest waits first."""
    once = {replace(found, thresholds=()): found for found in rows}
    for own in (current, chosen):
        once.pop(replace(own, thresholds=()), None)
    both = {found.thresholds: found for found in (current, chosen)}
    ordered = sorted(
        (*once.values(), *both.values()), key=lambda found: (-found.wait, found.loss_bound)
    )
    return tuple(_point(found, chosen, current) for found in ordered)


def _point(found: Assignment, chosen: Assignment, current: Assignment) -> Point:
    return Point(
        thresholds=found.thresholds,
        early=round(found.early, 4),
        within_16ms=round(found.within_16ms, 4),
        escalated=round(found.escalated, 4),
        loss=round(found.loss, 4),
        loss_bound=round(found.loss_bound, 4),
        mean_wait_ms=round(found.mean_wait_ms, 2),
        typical_wait_ms=round(found.typical_wait_ms, 2),
        chosen=found.thresholds == chosen.thresholds,
        current=found.thresholds == current.thresholds,
    )
