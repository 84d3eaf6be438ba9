"""Which flows move on to a deeper tier: thresholds found on flows that no tier was trained on.

The thresholds' goal says what is bounded and what is made small; their search is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from models.goals import NEVER, Assignment, Goal, LossGoal, Threshold
from models.yardstick import Judgements, Yardstick

__all__ = [
    "COARSE",
    "FULL",
    "Effort",
    "assign",
    "by_class",
    "search",
]

_Rank: TypeAlias = tuple[float, ...]
_SEED = 0  # of the moves
_WIDE, _NARROW = 0.3, 0.005  # share of a tier's flows by which its threshold is moved
_FEWEST_NAMED = 30  # flows that a tier gives a class before that gets a threshold of its own
_PER_CLASS = 20  # thresholds that are tried of each
_CLASS_SWEEPS = 2


def assign(
    true: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    tiers: Sequence[Judgements],
    sizes: npt.NDArray[np.int64],
    *,
    budget: float = 0.005,
    seed: int = 0,
) -> Assignment:
    """Find the thresholds that answer flows the soonest at a bounded loss.

    Args:
        true: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
        tiers: What each tier says, shallowest first.
        sizes: Packets of each flow that count, int64 ``[n]``.
        budget: Most that the bound may be, in weighted F1 and in accuracy.
        seed: Of the drawing.
    """
    return search(Yardstick(true, groups, tiers, sizes, seed=seed), LossGoal(budget))


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly thresholds are searched for.

    Attributes:
        starts: How often the search begins anew: random moves may end in a poor corner.
        trials: How often the best thresholds are moved at random, each time.
        sweeps: How often each tier's threshold is then looked at in turn.
        fine: Thresholds that are tried of it.
    """

    starts: int
    trials: int
    sweeps: int
    fine: int


COARSE = Effort(starts=1, trials=400, sweeps=1, fine=30)
FULL = Effort(starts=2, trials=1_000, sweeps=2, fine=80)


def search(
    yardstick: Yardstick,
    goal: Goal,
    *,
    effort: Effort = FULL,
    near: tuple[Threshold, ...] | None = None,
    seen: list[Assignment] | None = None,
) -> Assignment:
    """Find the thresholds that rank best.

    First the same one for all tiers: what gates say is of one scale, so that is a good place to
    begin. Then the best ones are moved at random, by less and less, and at last each tier's on a
    fine grid.

    Args:
        yardstick: Measures thresholds.
        goal: Ranks them. What is found need not meet it, if nothing does.
        effort: How thoroughly.
        near: Where good ones may be, if that is known.
        seen: Gets all that was tried, measured in full: slower.
    """
    tiers = yardstick.tiers
    fast = len(tiers) - 1
    begin = yardstick.measure((NEVER,) * fast)
    if seen is not None:
        seen.append(begin)
    pooled = np.concatenate([tier.assurance for tier in tiers[:-1]] or [tiers[-1].assurance])
    for threshold in _candidates(pooled, 2 * effort.fine):
        begin = _better_of(yardstick, goal.nearness, begin, (threshold,) * fast, seen)
    ends = [begin]
    if near is not None:
        ends.append(yardstick.measure(near))
        begin = min(ends, key=goal.nearness)
    rng = np.random.default_rng(_SEED)
    ends += [
        _moved_about(yardstick, goal, begin, effort.trials, rng, seen)
        for _ in range(effort.starts if fast else 0)
    ]
    best = min(ends, key=goal.rank)
    for _ in range(effort.sweeps):
        for t in range(fast - 1, -1, -1):
            for threshold in _candidates(tiers[t].assurance, effort.fine):
                now = best.thresholds
                trial = (*now[:t], threshold, *now[t + 1 :])
                best = _better_of(yardstick, goal.rank, best, trial, seen)
    return best


def _moved_about(
    yardstick: Yardstick,
    goal: Goal,
    best: Assignment,
    trials: int,
    rng: np.random.Generator,
    seen: list[Assignment] | None,
) -> Assignment:
    """Move thresholds at random, by less and less, and keep what is better.

    First by nearness, then by rank.
    """
    sure = [np.sort(tier.assurance) for tier in yardstick.tiers[:-1]]
    fast = len(sure)
    for step in range(trials):
        spread = _WIDE * (_NARROW / _WIDE) ** (step / trials)
        which = rng.random(fast) < 0.5
        which[rng.integers(fast)] = True
        draw = rng.normal(0.0, spread, fast)
        now = best.thresholds
        trial = tuple(
            _moved(sure[t], now[t], float(draw[t])) if which[t] else now[t] for t in range(fast)
        )
        rank = goal.nearness if step < trials // 2 else goal.rank
        best = _better_of(yardstick, rank, best, trial, seen)
    return best


def by_class(yardstick: Yardstick, goal: Goal, found: Assignment, classes: int) -> Assignment:
    """Give the classes that a tier names often a threshold each, where the goal gains by it.

    One class of one tier after the other; all the others stay as they are meanwhile. Each
    threshold rests on far fewer flows than one for all classes does.

    Args:
        yardstick: Measures thresholds.
        goal: Ranks them: what is returned never ranks behind ``found``.
        found: Where to begin.
        classes: Number of classes: of so many thresholds consists one by class.
    """
    fast = len(yardstick.tiers) - 1
    best = found
    for _ in range(_CLASS_SWEEPS):
        before = best
        for t in range(fast - 1, -1, -1):
            tier = yardstick.tiers[t]
            # Flows short of packets are not this tier's to answer.
            named, sure = tier.labels[yardstick.there(t)], tier.assurance[yardstick.there(t)]
            often = np.flatnonzero(np.bincount(named, minlength=classes) >= _FEWEST_NAMED)
            for label in often:
                for threshold in _candidates(sure[named == label], _PER_CLASS):
                    now = best.thresholds
                    own = _with_class(now[t], int(label), threshold, classes)
                    trial = (*now[:t], own, *now[t + 1 :])
                    best = _better_of(yardstick, goal.rank, best, trial, None)
        if best is before:
            break
    return best


def _with_class(now: Threshold, label: int, threshold: float, classes: int) -> Threshold:
    each = [now] * classes if isinstance(now, float) else list(now)
    each[label] = threshold
    return each[0] if len(set(each)) == 1 else tuple(each)


def _better_of(
    yardstick: Yardstick,
    rank: Callable[[Assignment], _Rank],
    best: Assignment,
    thresholds: tuple[Threshold, ...],
    seen: list[Assignment] | None,
) -> Assignment:
    """Return the better one of ``best`` and of what other thresholds do."""
    if seen is None:
        # Not even if it lost nothing; or lost no more than is seen. Bounds take longest.
        for look in (yardstick.glance, yardstick.estimate):
            if rank(look(thresholds)) >= rank(best):
                return best
    found = yardstick.measure(thresholds)
    if seen is not None:
        seen.append(found)
    return found if rank(found) < rank(best) else best


def _moved(sure: npt.NDArray[np.float32], threshold: Threshold, by: float) -> float:
    """Move a threshold so that it lets ``by`` more or fewer of the flows through."""
    at = float(np.searchsorted(sure, np.max(threshold))) / len(sure) + by
    return NEVER if at >= 1.0 else float(sure[int(np.clip(at, 0.0, 1.0) * len(sure))])


def _candidates(confidence: npt.NDArray[np.float32], most: int) -> list[float]:
    """Return thresholds to try, greatest first, ``NEVER`` included."""
    at = np.linspace(0.0, 1.0, most - 1)
    found = np.unique(np.quantile(confidence, at, method="nearest"))
    return [NEVER, *(float(value) for value in found[::-1])]
