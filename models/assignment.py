"""Which flows move on to a deeper tier: thresholds found on flows that no tier was trained on.

The thresholds' goal says what is bounded and what is made small; their search is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.costs import CALL_FLOWS
from models.goals import NEVER, Assignment, Goal, LossGoal, Threshold
from models.metrics import WITHIN_MS
from models.resampling import CONFIDENCE, Resampled

__all__ = [
    "COARSE",
    "FULL",
    "Effort",
    "Judgements",
    "Yardstick",
    "assign",
    "by_class",
    "route",
    "search",
]

_SEED = 0  # of the moves
_WIDE, _NARROW = 0.3, 0.005  # share of a tier's flows by which its threshold is moved
_FEWEST_NAMED = 30  # flows that a tier gives a class before that gets a threshold of its own
_PER_CLASS = 20  # thresholds that are tried of each
_CLASS_SWEEPS = 2


@dataclass(frozen=True, slots=True)
class Judgements:
    """What one tier says of flows that it was not trained on.

    Attributes:
        labels: Class that it names, int64 ``[n]``.
        assurance: What thresholds are compared with, float32 ``[n]``, see :mod:`models.gates`.
        depth: First packets that it judges.
        wait_ns: How long each flow waits for those, int64 ``[n]``.
        cost_us: What it takes a flow that it is asked about, microseconds.
    """

    labels: npt.NDArray[np.int64]
    assurance: npt.NDArray[np.float32]
    depth: int
    wait_ns: npt.NDArray[np.int64]
    cost_us: float = 0.0


def route(
    tiers: Sequence[Judgements], sizes: npt.NDArray[np.int64], thresholds: Sequence[Threshold]
) -> npt.NDArray[np.int64]:
    """Return the tier that answers each flow, int64 ``[n]``; as ``Cascade.answer`` does.

    Args:
        tiers: All tiers, shallowest first.
        sizes: Packets of each flow that count, int64 ``[n]``.
        thresholds: Of all tiers but the deepest.
    """
    last = len(tiers) - 1
    answered_by = np.full(len(sizes), last)
    # Backwards, so that the first tier that is sure has the last word.
    for t in range(last - 1, -1, -1):
        there = sizes >= tiers[t].depth
        answered_by[~there] = last  # once packets are short, no tier in between is asked
        answered_by[there & _sure(tiers[t], thresholds[t])] = t
    return answered_by


def _sure(tier: Judgements, threshold: Threshold) -> npt.NDArray[np.bool_]:
    if isinstance(threshold, float):
        return np.asarray(tier.assurance >= threshold)
    return np.asarray(tier.assurance >= np.array(threshold, np.float32)[tier.labels])


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
        trials: How often the best thresholds are moved at random.
        sweeps: How often each tier's threshold is then looked at in turn.
        fine: Thresholds that are tried of it.
    """

    trials: int
    sweeps: int
    fine: int


COARSE = Effort(trials=400, sweeps=1, fine=30)
FULL = Effort(trials=1_500, sweeps=2, fine=80)


def search(
    yardstick: Yardstick,
    goal: Goal,
    *,
    effort: Effort = FULL,
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
        seen: Gets all that was tried, measured in full: slower.
    """
    tiers = yardstick.tiers
    fast = len(tiers) - 1
    best = yardstick.measure((NEVER,) * fast)
    if seen is not None:
        seen.append(best)
    pooled = np.concatenate([tier.assurance for tier in tiers[:-1]] or [tiers[-1].assurance])
    for threshold in _candidates(pooled, 2 * effort.fine):
        best = _better_of(yardstick, goal, best, (threshold,) * fast, seen)
    sure = [np.sort(tier.assurance) for tier in tiers[:-1]]
    rng = np.random.default_rng(_SEED)
    for step in range(effort.trials if fast else 0):
        spread = _WIDE * (_NARROW / _WIDE) ** (step / effort.trials)
        which = rng.random(fast) < 0.5
        which[rng.integers(fast)] = True
        draw = rng.normal(0.0, spread, fast)
        now = best.thresholds
        trial = tuple(
            _moved(sure[t], now[t], float(draw[t])) if which[t] else now[t] for t in range(fast)
        )
        best = _better_of(yardstick, goal, best, trial, seen)
    for _ in range(effort.sweeps):
        for t in range(fast - 1, -1, -1):
            for threshold in _candidates(tiers[t].assurance, effort.fine):
                now = best.thresholds
                trial = (*now[:t], threshold, *now[t + 1 :])
                best = _better_of(yardstick, goal, best, trial, seen)
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
                    best = _better_of(yardstick, goal, best, trial, None)
        if best is before:
            break
    return best


def _with_class(now: Threshold, label: int, threshold: float, classes: int) -> Threshold:
    each = [now] * classes if isinstance(now, float) else list(now)
    each[label] = threshold
    return each[0] if len(set(each)) == 1 else tuple(each)


def _better_of(
    yardstick: Yardstick,
    goal: Goal,
    best: Assignment,
    thresholds: tuple[Threshold, ...],
    seen: list[Assignment] | None,
) -> Assignment:
    """Return the better one of ``best`` and of what other thresholds do."""
    if seen is None:
        # Not even if it lost nothing; or lost no more than is seen. Bounds take longest.
        for look in (yardstick.glance, yardstick.estimate):
            if goal.rank(look(thresholds)) >= goal.rank(best):
                return best
    found = yardstick.measure(thresholds)
    if seen is not None:
        seen.append(found)
    return found if goal.rank(found) < goal.rank(best) else best


def _moved(sure: npt.NDArray[np.float32], threshold: Threshold, by: float) -> float:
    """Move a threshold so that it lets ``by`` more or fewer of the flows through."""
    at = float(np.searchsorted(sure, np.max(threshold))) / len(sure) + by
    return NEVER if at >= 1.0 else float(sure[int(np.clip(at, 0.0, 1.0) * len(sure))])


class Yardstick:
    """Measures thresholds on judged flows.

    The loss is bounded on whole groups drawn anew, see :class:`models.resampling.Resampled`: taken
    as independent, flows would promise too much.

    Args:
        true: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
        tiers: What each tier says, shallowest first.
        sizes: Packets of each flow that count, int64 ``[n]``.
        seed: Of the drawing.

    Attributes:
        tiers: What each tier says, shallowest first.
    """

    def __init__(
        self,
        true: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        tiers: Sequence[Judgements],
        sizes: npt.NDArray[np.int64],
        *,
        seed: int = 0,
    ) -> None:
        self.tiers = tuple(tiers)
        self._sizes = sizes
        classes = 1 + max(int(true.max()), *(int(tier.labels.max()) for tier in tiers))
        self._judge = Resampled(true, groups, classes, seed)
        self._rows = np.arange(len(sizes))
        self._labels = np.stack([tier.labels for tier in tiers])
        self._wait_ms = np.stack([tier.wait_ns / 1e6 for tier in tiers])
        self._costs_us = np.array([tier.cost_us for tier in tiers])
        self._fast = sum(tier.depth == 1 for tier in tiers)
        self._base = self._judge.scores(tiers[-1].labels)
        self._base_seen = self._judge.seen(tiers[-1].labels)
        self._there = [sizes >= tier.depth for tier in tiers]

    def there(self, t: int) -> npt.NDArray[np.bool_]:
        """Tell which flows have the packets that tier ``t`` judges, ``[n]``."""
        return np.asarray(self._there[t])

    def glance(self, thresholds: tuple[Threshold, ...]) -> Assignment:
        """Measure all but the loss, which is ``-inf`` and so is its bound."""
        return self._glance(thresholds, route(self.tiers, self._sizes, thresholds))

    def estimate(self, thresholds: tuple[Threshold, ...]) -> Assignment:
        """Measure all but the bound, for which the greater one of the two losses stands."""
        answered_by = route(self.tiers, self._sizes, thresholds)
        losses = self._base_seen - self._judge.seen(self._labels[answered_by, self._rows])
        return replace(
            self._glance(thresholds, answered_by),
            loss=float(losses[0]),
            loss_bound=float(losses.max()),
        )

    def measure(self, thresholds: tuple[Threshold, ...]) -> Assignment:
        """Measure thresholds of all tiers but the deepest."""
        answered_by = route(self.tiers, self._sizes, thresholds)
        losses = self._base - self._judge.scores(self._labels[answered_by, self._rows])
        return replace(
            self._glance(thresholds, answered_by),
            loss=float(losses[0, 0]),
            loss_bound=float(np.quantile(losses[1:], CONFIDENCE, axis=0).max()),
        )

    def _glance(
        self, thresholds: tuple[Threshold, ...], answered_by: npt.NDArray[np.int64]
    ) -> Assignment:
        wait_ms = self._wait_ms[answered_by, self._rows]
        cost_us = self._asked(answered_by) * self._costs_us
        call_ms = np.cumsum(cost_us) * CALL_FLOWS / 1e3
        return Assignment(
            thresholds=thresholds,
            loss=-np.inf,
            loss_bound=-np.inf,
            early=float((answered_by < len(self.tiers) - 1).mean()),
            within_16ms=float((wait_ms <= WITHIN_MS).mean()),
            escalated=float((answered_by >= self._fast).mean()),
            wait=float(np.log1p(wait_ms + call_ms[answered_by]).mean()),
            mean_wait_ms=float(wait_ms.mean()),
            cost_us=float(cost_us.sum()),
        )

    def _asked(self, answered_by: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the share of the flows that each tier is asked about, ``[tiers]``.

        Those are the flows that get as far and have its packets; of the deepest, those that it
        answers.
        """
        last = len(self.tiers) - 1
        asked = [((answered_by >= t) & self._there[t]).mean() for t in range(last)]
        return np.array([*asked, (answered_by == last).mean()])


def _candidates(confidence: npt.NDArray[np.float32], most: int) -> list[float]:
    """Return thresholds to try, greatest first, ``NEVER`` included."""
    at = np.linspace(0.0, 1.0, most - 1)
    found = np.unique(np.quantile(confidence, at, method="nearest"))
    return [NEVER, *(float(value) for value in found[::-1])]
