"""Moves a bundle to another operating point, on the judgements that training kept: no retraining.

Either by the bound on resampled captures, as training does, or with a guarantee that holds for
any distribution (:mod:`models.guarantee`) and is accordingly hard to get.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flows.errors import SettingsError
from models.assignment import by_class, search
from models.bundle import (
    TierModel,
    check_replaceable,
    read_bundle,
    read_validation,
    rewrite_bundle,
)
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
from models.guarantee import PATH, certified, fewest_units, least_risk, path_losses
from models.resampling import CONFIDENCE
from models.tune_report import Guarantee, TuneReport, curve, front, point, spread
from models.validation import Validation
from models.yardstick import Yardstick

__all__ = ["Guarantee", "TuneReport", "goal_of", "tune"]


def goal_of(
    max_f1_loss: float | None = None,
    within_16ms: float | None = None,
    max_escalation: float | None = None,
    max_cost_us: float | None = None,
) -> Goal:
    """Return the one goal that is given.

    Args:
        max_f1_loss: Most loss of weighted F1 and of accuracy, percentage points.
        within_16ms: Least share of flows that wait for 16 ms at most.
        max_escalation: Greatest share of flows that go beyond packet 1.
        max_cost_us: Most that the models may take of a flow on average, microseconds; no goal of
            its own, but a limit to the first.

    Raises:
        SettingsError: None is given, or more than one, or one is out of range, or there is a limit
            to another goal than the first.
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
    if max_cost_us is not None and max_f1_loss is None:
        raise SettingsError(f"--max-cost-us limits --max-f1-loss; {chosen[0]} has no such limit")
    if max_cost_us is not None and not 0.0 < max_cost_us < float("inf"):
        raise SettingsError(f"--max-cost-us {max_cost_us}: give microseconds above 0, such as 5")
    if max_f1_loss is not None:
        return LossGoal(max_f1_loss / 100.0, max_cost_us or float("inf"))
    return WithinGoal(value) if within_16ms is not None else EscalationGoal(value)


def tune(
    bundle: Path,
    out: Path,
    goal: Goal,
    *,
    guarantee: bool = False,
    per_class: bool = False,
    unknown_from: float | None = None,
    seed: int = 0,
) -> TuneReport:
    """Choose a bundle's thresholds anew and write it with them; its engines stay as they are.

    Args:
        bundle: The bundle's folder.
        out: Folder for the new bundle; a bundle that is there is replaced, and be it ``bundle``.
        goal: What the thresholds are wanted for, see :func:`goal_of`.
        guarantee: Choose so that the loss of accuracy is guaranteed not to exceed that of a
            :class:`LossGoal`, by Hoeffding and Bentkus; training's bound is not asked then.
        per_class: Give classes thresholds of their own where the goal gains by it; see
            :func:`models.assignment.by_class`.
        unknown_from: Novelty from which on a flow is labelled ``unknown``; None: as it is, above
            1: never.
        seed: Of the drawing of captures for the bounds.

    Raises:
        BundleError: The bundle is damaged, or keeps no judgements, or ``out`` holds something else
            than a bundle.
        SettingsError: No thresholds do what is wanted; nothing is written.
    """
    check_replaceable(out)
    if guarantee and per_class:
        raise SettingsError(
            "--per-class and --guarantee exclude each other: a guarantee tests thresholds that "
            "were written down before, the same for all classes"
        )
    contents = read_bundle(bundle, tiers=())
    kept = read_validation(bundle)
    limit_us = goal.max_cost_us if isinstance(goal, LossGoal) else float("inf")
    if limit_us < float("inf") and not all(tier.cost_us for tier in kept.tiers):
        raise SettingsError(f"--max-cost-us: {bundle} does not say what its tiers take")
    groups = len(np.unique(kept.groups))
    yardstick = Yardstick(kept.true, kept.groups, kept.tiers, kept.sizes, seed=seed)
    evidence: Guarantee | None = None
    if guarantee:
        chosen, seen, evidence = _guaranteed(kept, yardstick, goal)
        guaranteed, exceptions = _guarantee_text(evidence)
        rows = spread(seen)
    else:
        seen = []
        chosen = search(yardstick, goal, seen=seen)
        if per_class:
            chosen = by_class(yardstick, goal, chosen, len(contents.classes))
        if not goal.met(chosen):
            raise _out_of_reach(goal, chosen)
        guaranteed, exceptions = bounded_text(groups, per_class=per_class), NOT_GUARANTEED
        rows = front(seen, goal)
    current = yardstick.measure(tuple(_threshold(tier) for tier in contents.tiers[:-1]))
    never = yardstick.measure((NEVER,) * len(current.thresholds))
    section = operating_point(
        chosen,
        [(tier.name, tier.depth) for tier in contents.tiers],
        wanted=_wanted(goal, guarantee, per_class),
        guaranteed=guaranteed,
        not_guaranteed=exceptions,
        flows=len(kept.true),
        groups=groups,
    )
    card = with_operating_point(contents.card, section)
    version = rewrite_bundle(bundle, out, chosen.thresholds, card, unknown_from=unknown_from)
    return TuneReport(
        model_version=version,
        tuned_from=contents.model_version,
        goal=goal.name,
        value=goal.value,
        max_cost_us=limit_us if limit_us < float("inf") else None,
        per_class=per_class,
        tiers=tuple(tier.name for tier in contents.tiers),
        flows=len(kept.true),
        groups=groups,
        chosen=point(chosen, chosen, current),
        curve=curve([*rows, never], chosen, current),
        guarantee=evidence,
        guaranteed=guaranteed,
        not_guaranteed=tuple(exceptions),
    )


def _threshold(tier: TierModel) -> Threshold:
    return tier.threshold if tier.class_thresholds is None else tier.class_thresholds


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
    losses = list(path_losses(kept.true, kept.groups, kept.sizes, kept.tiers))
    passed = certified(losses, risk, CONFIDENCE)
    if not passed:
        raise SettingsError(
            f"--guarantee: a loss of at most {points} cannot be guaranteed: {n} captures lose "
            f"{100.0 * losses[0].mean():.2f} points in the mean even with thresholds of {PATH[0]}. "
            "Nothing was written: allow more loss, or train on more captures"
        )
    seen = [yardstick.measure((threshold,) * (len(kept.tiers) - 1)) for threshold in PATH]
    # All that passed are guaranteed together, so that any of them may be chosen.
    cheap = [i for i in range(len(passed)) if seen[i].cost_us <= goal.max_cost_us]
    if not cheap:
        raise _too_dear(goal, min(seen[i].cost_us for i in range(len(passed))))
    last = cheap[-1]
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


def _wanted(goal: Goal, guarantee: bool, per_class: bool) -> str:
    given = goal.value * (100.0 if isinstance(goal, LossGoal) else 1.0)
    options = f"--{goal.name.replace('_', '-')} {given:g}"
    limit = ""
    if isinstance(goal, LossGoal) and goal.max_cost_us < float("inf"):
        options += f" --max-cost-us {goal.max_cost_us:g}"
        limit = f" and the models take at most {goal.max_cost_us:g} µs of a flow on average"
    options += " --guarantee" * guarantee + " --per-class" * per_class
    command = f"Chosen by `serveflow tune {options}`:"
    if guarantee:
        return f"{command} the shortest waits at which the loss of accuracy is guaranteed{limit}."
    if isinstance(goal, LossGoal):
        return (
            f"{command} the shortest waits at which the loss of weighted F1 and of accuracy is "
            f"bounded by {given:g} percentage points{limit}."
        )
    if isinstance(goal, WithinGoal):
        what = f"at least {given:.1%} of the flows wait for packets for 16 ms at most"
    else:
        what = f"at most {given:.1%} of the flows go beyond packet 1"
    return f"{command} the least bound of the loss at which {what}."


def _out_of_reach(goal: Goal, best: Assignment) -> SettingsError:
    if isinstance(goal, LossGoal):  # a loss alone is always in reach: nobody has to answer early
        return _too_dear(goal, best.cost_us, best.loss_bound)
    if isinstance(goal, WithinGoal):
        most = f"{best.within_16ms:.1%} of the flows wait for packets for 16 ms at most"
        return SettingsError(f"--within-16ms {goal.value:g}: out of reach: at best {most}")
    least = f"{best.escalated:.1%} of the flows go beyond packet 1"
    return SettingsError(f"--max-escalation {goal.value:g}: out of reach: at least {least}")


def _too_dear(goal: LossGoal, cost_us: float, bound: float | None = None) -> SettingsError:
    limit = f"--max-cost-us {goal.max_cost_us:g}: out of reach"
    if bound is not None and cost_us <= goal.max_cost_us:
        return SettingsError(
            f"{limit} at --max-f1-loss {100.0 * goal.value:g}: with models that cheap, the bound "
            f"of the loss is {100.0 * bound:.2f} percentage points; allow more of either"
        )
    return SettingsError(f"{limit}: the models take {cost_us:.1f} µs of a flow at least")
