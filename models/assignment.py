"""Which flows move on to a deeper tier: thresholds found on flows that no tier was trained on.

The thresholds' goal says what is bounded and what is made small; their search is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.metrics import WITHIN_MS, f1_from_counts

__all__ = [
    "CONFIDENCE",
    "NEVER",
    "Assignment",
    "EscalationGoal",
    "Goal",
    "Judgements",
    "LossGoal",
    "WithinGoal",
    "Yardstick",
    "assign",
    "route",
    "search",
]

NEVER = 2.0
"""A threshold that no confidence reaches."""

CONFIDENCE = 0.9
"""Of all bounds, one-sided."""

_RESAMPLES = 200
_TRIALS = 4_000  # combinations of thresholds on a coarse grid
_SWEEPS = 3  # then of each tier in turn, on a fine one
_FINE = 150


@dataclass(frozen=True, slots=True)
class Judgements:
    """What one tier says of flows that it was not trained on.

    Attributes:
        labels: Class that it names, int64 ``[n]``.
        confidence: Calibrated, float32 ``[n]``.
        depth: First packets that it judges.
        wait_ns: How long each flow waits for those, int64 ``[n]``.
    """

    labels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    depth: int
    wait_ns: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Thresholds, and what they are expected to cost and bring.

    Attributes:
        thresholds: Of all tiers but the deepest.
        loss: Loss of weighted F1 against the deepest tier alone; less than 0: a gain.
        loss_bound: Upper bound (one-sided 90 %, by resampling groups) of the loss of weighted F1
            and of that of accuracy, whichever is greater.
        early: Share of the flows that are answered before the deepest tier.
        within_16ms: Share of the flows that wait for packets for 16 ms at most; what the models
            take is not counted.
        escalated: Share of the flows that are answered behind packet 1.
        wait: Mean logarithm of 1 + milliseconds that flows wait: what is made small. A factor
            counts the same at 10 ms and at 1 s, and no wait at all counts most.
        mean_wait_ms: Mean of what flows wait; the few that wait until a timeout make most of it.
        mean_tier: Mean index of the tier that answers.
    """

    thresholds: tuple[float, ...]
    loss: float
    loss_bound: float
    early: float
    within_16ms: float
    escalated: float
    wait: float
    mean_wait_ms: float
    mean_tier: float

    @property
    def typical_wait_ms(self) -> float:
        """``wait`` as milliseconds."""
        return float(np.expm1(self.wait))


class Goal(Protocol):
    """What thresholds are wanted for."""

    @property
    def name(self) -> str:
        """Of the goal, as an option without its dashes."""

    @property
    def value(self) -> float:
        """What it asks for, from 0 to 1."""

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """Return how good thresholds are, less is better; must not fall as ``loss_bound`` grows."""

    def met(self, found: Assignment) -> bool:
        """Tell whether thresholds do what is asked for, at whatever price."""

    def price(self, found: Assignment) -> float:
        """Return what is traded against the bound of the loss; less is better."""


@dataclass(frozen=True, slots=True)
class LossGoal:
    """The shortest waits whose loss is bounded.

    Attributes:
        value: Most that ``loss_bound`` may be, from 0 to 1.
    """

    value: float
    name: str = "max_f1_loss"

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`. Of equally long waits, the one with the cheaper tiers."""
        return max(0.0, found.loss_bound - self.value), found.wait, found.mean_tier

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.loss_bound <= self.value

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return found.wait


@dataclass(frozen=True, slots=True)
class WithinGoal:
    """The least bound of the loss with which enough flows wait for 16 ms at most.

    Attributes:
        value: Least share of the flows, from 0 to 1.
    """

    value: float
    name: str = "within_16ms"

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`."""
        return max(0.0, self.value - found.within_16ms), found.loss_bound, found.wait

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.within_16ms >= self.value

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return -found.within_16ms


@dataclass(frozen=True, slots=True)
class EscalationGoal:
    """The least bound of the loss with which few enough flows go beyond packet 1.

    Attributes:
        value: Greatest share of the flows, from 0 to 1.
    """

    value: float
    name: str = "max_escalation"

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`."""
        return max(0.0, found.escalated - self.value), found.loss_bound, found.wait

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.escalated <= self.value

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return found.escalated


def route(
    tiers: Sequence[Judgements], sizes: npt.NDArray[np.int64], thresholds: Sequence[float]
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
        answered_by[there & (tiers[t].confidence >= thresholds[t])] = t
    return answered_by


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


def search(yardstick: Yardstick, goal: Goal, *, seen: list[Assignment] | None = None) -> Assignment:
    """Find the thresholds that rank best: on a coarse grid, then tier by tier on a fine one.

    Args:
        yardstick: Measures thresholds.
        goal: Ranks them. What is found need not meet it, if nothing does.
        seen: Gets all that was tried, measured in full: slower.
    """
    tiers = yardstick.tiers
    fast = len(tiers) - 1
    best = yardstick.measure((NEVER,) * fast)
    if seen is not None:
        seen.append(best)

    def better_of(best: Assignment, thresholds: tuple[float, ...]) -> Assignment:
        if seen is None and goal.rank(yardstick.glance(thresholds)) >= goal.rank(best):
            return best  # not even if it cost nothing, and to measure the cost takes longest
        found = yardstick.measure(thresholds)
        if seen is not None:
            seen.append(found)
        return found if goal.rank(found) < goal.rank(best) else best

    per_tier = max(2, int(_TRIALS ** (1.0 / max(fast, 1))))
    for thresholds in product(*(_candidates(tier.confidence, per_tier) for tier in tiers[:-1])):
        best = better_of(best, thresholds)
    for _ in range(_SWEEPS):
        for t in range(fast - 1, -1, -1):
            for threshold in _candidates(tiers[t].confidence, _FINE):
                now = best.thresholds
                best = better_of(best, (*now[:t], threshold, *now[t + 1 :]))
    return best


class Yardstick:
    """Measures thresholds on judged flows.

    The loss is bounded on whole groups drawn anew with replacement (cluster bootstrap, Field and
    Welsh 2007): flows of one capture are right or wrong together, and taken as independent they
    would promise too much.

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
        self._judge = _Judge(true, groups, seed)
        self._rows = np.arange(len(sizes))
        self._labels = np.stack([tier.labels for tier in tiers])
        self._wait_ms = np.stack([tier.wait_ns / 1e6 for tier in tiers])
        self._waits = np.log1p(self._wait_ms)
        self._fast = sum(tier.depth == 1 for tier in tiers)
        self._base = self._judge.scores(tiers[-1].labels)

    def glance(self, thresholds: tuple[float, ...]) -> Assignment:
        """Measure all but the loss, which is ``-inf`` and so is its bound."""
        return self._glance(thresholds, route(self.tiers, self._sizes, thresholds))

    def measure(self, thresholds: tuple[float, ...]) -> Assignment:
        """Measure thresholds of all tiers but the deepest."""
        answered_by = route(self.tiers, self._sizes, thresholds)
        losses = self._base - self._judge.scores(self._labels[answered_by, self._rows])
        return replace(
            self._glance(thresholds, answered_by),
            loss=float(losses[0, 0]),
            loss_bound=float(np.quantile(losses[1:], CONFIDENCE, axis=0).max()),
        )

    def _glance(
        self, thresholds: tuple[float, ...], answered_by: npt.NDArray[np.int64]
    ) -> Assignment:
        wait_ms = self._wait_ms[answered_by, self._rows]
        return Assignment(
            thresholds=thresholds,
            loss=-np.inf,
            loss_bound=-np.inf,
            early=float((answered_by < len(self.tiers) - 1).mean()),
            within_16ms=float((wait_ms <= WITHIN_MS).mean()),
            escalated=float((answered_by >= self._fast).mean()),
            wait=float(self._waits[answered_by, self._rows].mean()),
            mean_wait_ms=float(wait_ms.mean()),
            mean_tier=float(answered_by.mean()),
        )


class _Judge:
    """Scores labels on all groups and on groups drawn anew."""

    def __init__(
        self, true: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], seed: int
    ) -> None:
        names, self._at = np.unique(groups, return_inverse=True)
        self._groups = len(names)
        self._true = true
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(
            self._groups, np.full(self._groups, 1.0 / self._groups), size=_RESAMPLES
        )
        self._weights = np.vstack([np.ones(self._groups), drawn])

    def scores(self, said: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return weighted F1 and accuracy, float64 ``[1 + resamples, 2]``, of all groups first."""
        classes = int(max(self._true.max(), said.max())) + 1
        right = said == self._true
        hits = self._weights @ self._count(self._true[right], self._at[right], classes)
        support = self._weights @ self._count(self._true, self._at, classes)
        claimed = self._weights @ self._count(said, self._at, classes)
        total = support.sum(axis=1)
        weighted = (f1_from_counts(hits, support, claimed) * support).sum(axis=1) / total
        return np.stack([weighted, hits.sum(axis=1) / total], axis=1)

    def _count(
        self, labels: npt.NDArray[np.int64], at: npt.NDArray[np.int64], classes: int
    ) -> npt.NDArray[np.float64]:
        counts = np.bincount(at * classes + labels, minlength=self._groups * classes)
        return counts.reshape(self._groups, classes).astype(np.float64)


def _candidates(confidence: npt.NDArray[np.float32], most: int) -> list[float]:
    """Return thresholds to try, greatest first, ``NEVER`` included."""
    at = np.linspace(0.0, 1.0, most - 1)
    found = np.unique(np.quantile(confidence, at, method="nearest"))
    return [NEVER, *(float(value) for value in found[::-1])]
