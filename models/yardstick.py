"""Measures thresholds on flows that no tier was trained on: what they cost and bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.packet import Array
from models.costs import CALL_FLOWS, COST_BATCH
from models.delay import Delay
from models.goals import Assignment, Threshold
from models.metrics import WITHIN_MS
from models.resampling import CONFIDENCE, Resampled

__all__ = ["Judgements", "Yardstick", "route"]


@dataclass(frozen=True, slots=True)
class Judgements:
    """What one tier says of flows that it was not trained on.

    Attributes:
        labels: Class that it names, int64 ``[n]``.
        assurance: What thresholds are compared with, float32 ``[n]``, see :mod:`models.gates`.
        depth: First packets that it judges.
        wait_ns: How long each flow waits for those, int64 ``[n]``.
        cost_us: What it takes a flow that it is asked about, microseconds.
        call_us: What a call takes beside its flows, microseconds, see
            :func:`models.costs.call_us`.
    """

    labels: npt.NDArray[np.int64]
    assurance: npt.NDArray[np.float32]
    depth: int
    wait_ns: npt.NDArray[np.int64]
    cost_us: float = 0.0
    call_us: float = 0.0


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
        self._delay = Delay.against(self._wait_ms[-1])
        self._costs_us = np.array([tier.cost_us for tier in tiers])
        self._calls_us = np.array([tier.call_us for tier in tiers])
        self._fast = sum(tier.depth == 1 for tier in tiers)
        self._base = self._judge.scores(tiers[-1].labels)
        self._base_seen = self._judge.seen(tiers[-1].labels)
        self._there = np.stack([sizes >= tier.depth for tier in tiers])
        self._assurance = np.stack([tier.assurance for tier in tiers], dtype=np.float32)

    def there(self, t: int) -> npt.NDArray[np.bool_]:
        """Tell which flows have the packets that tier ``t`` judges, ``[n]``."""
        return np.asarray(self._there[t])

    def asked(self, thresholds: tuple[Threshold, ...]) -> npt.NDArray[np.bool_]:
        """Tell which flows each tier is asked about, bool ``[tiers, n]``.

        Those are the flows that get as far and have its packets; of the deepest, those that it
        answers.
        """
        answered_by, last = self._route(thresholds), len(self.tiers) - 1
        found = (answered_by >= np.arange(last + 1)[:, None]) & self._there
        found[last] = answered_by == last
        return np.asarray(found)

    def glance(self, thresholds: tuple[Threshold, ...]) -> Assignment:
        """Measure all but the loss, which is ``-inf`` and so is its bound."""
        return self._glance(thresholds, self._route(thresholds))

    def estimate(self, thresholds: tuple[Threshold, ...]) -> Assignment:
        """Measure all but the bound, for which the greater one of the two losses stands."""
        answered_by = self._route(thresholds)
        losses = self._base_seen - self._judge.seen(self._labels[answered_by, self._rows])
        return replace(
            self._glance(thresholds, answered_by),
            loss=float(losses[0]),
            loss_bound=float(losses.max()),
        )

    def measure(self, thresholds: tuple[Threshold, ...]) -> Assignment:
        """Measure thresholds of all tiers but the deepest."""
        answered_by = self._route(thresholds)
        losses = self._base - self._judge.scores(self._labels[answered_by, self._rows])
        return replace(
            self._glance(thresholds, answered_by),
            loss=float(losses[0, 0]),
            loss_bound=float(np.quantile(losses[1:], CONFIDENCE, axis=0).max()),
        )

    def _route(self, thresholds: tuple[Threshold, ...]) -> npt.NDArray[np.int64]:
        """Do what :func:`route` does, in a tenth of the time where classes are all alike."""
        if any(isinstance(each, tuple) for each in thresholds):
            return route(self.tiers, self._sizes, thresholds)
        answered_by = np.empty(len(self._sizes), np.int64)
        finals = np.array(thresholds, np.float32)
        _route_alike(self._assurance, self._there, finals, answered_by)
        return answered_by

    def _glance(
        self, thresholds: tuple[Threshold, ...], answered_by: npt.NDArray[np.int64]
    ) -> Assignment:
        n, last = len(answered_by), len(self.tiers) - 1
        asked = np.zeros(last + 1)
        _count_asked(answered_by, self._there, asked)
        cost_us = asked / n * self._costs_us
        # Of what a flow of a large call takes, a part is the call's own.
        own_us = cost_us - asked / n * self._calls_us / COST_BATCH
        call_ms = np.cumsum(own_us * CALL_FLOWS + self._calls_us * (asked > 0)) / 1e3
        wait = np.zeros(4)
        _sum_waits(answered_by, self._wait_ms, call_ms, WITHIN_MS, wait)
        logs, all_ms, waited_ms, within = (wait / n).tolist()
        counts = np.bincount(answered_by, minlength=last + 1)
        return Assignment(
            thresholds=thresholds,
            loss=-np.inf,
            loss_bound=-np.inf,
            early=float(1.0 - counts[last] / n),
            within_16ms=within,
            escalated=float(counts[self._fast :].sum() / n),
            delay=self._delay.mean(logs, all_ms),
            wait=logs,
            mean_wait_ms=waited_ms,
            cost_us=float(cost_us.sum()),
        )


# Training looks at some hundred thousand sets of thresholds, each time at all flows.


@compiled
def _route_alike(assurance: Array, there: Array, thresholds: Array, out: Array) -> None:
    last = len(thresholds)
    for i in range(len(out)):
        out[i] = last
        for t in range(last):
            if not there[t, i]:
                break
            if assurance[t, i] >= thresholds[t]:
                out[i] = t
                break


@compiled
def _count_asked(answered_by: Array, there: Array, out: Array) -> None:
    """Count by tier the flows that get as far and have its packets; of the deepest, its answers."""
    last = len(out) - 1
    for i in range(len(answered_by)):
        for t in range(min(answered_by[i] + 1, last)):
            out[t] += there[t, i]
        out[last] += answered_by[i] == last


@compiled
def _sum_waits(
    answered_by: Array, wait_ms: Array, call_ms: Array, within_ms: float, out: Array
) -> None:
    """Sum up logarithms of 1 + all milliseconds, those, those for packets, and the short ones."""
    for i in range(len(answered_by)):
        t = answered_by[i]
        waited_ms = wait_ms[t, i]
        out[0] += np.log1p(waited_ms + call_ms[t])
        out[1] += waited_ms + call_ms[t]
        out[2] += waited_ms
        out[3] += waited_ms <= within_ms
