"""How strange a flow is to a tier: whether it may be of a class that nobody trained it on.

Two signs, each one a rank among flows of known classes: the entropy of the tier's scores (it does
not know which class), and the distance of the flow's columns to the nearest known flow (it has seen
nothing like it; :mod:`models.known_flows`). Forests are often sure of what they have never
seen, and distances grow with what no class depends on: alone, either one misses what the other
finds (docs/decisions/0010-unknown-flows.md). Both ranks are added, and what is rare by either one
counts for more: else a flow unlike all others could never be strange to a tier that is sure of it.
The novelty is the rank of that sum: the share of known flows, of captures that were not trained on,
that are less strange.
"""

from __future__ import annotations

from math import log, log10

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.packet import Array
from models.known_flows import KnownFlows

__all__ = ["UNKNOWN", "Novelty", "Ranks", "added", "entropies"]

UNKNOWN = "unknown"
"""The label of flows that are too strange, if a bundle gives it."""

_TAIL_WEIGHT = 0.25  # of each power of ten that a rank comes nearer to 1
_RAREST = 1e-5  # what lies beyond all known flows counts as so rare
_BODY, _TAIL = 257, 128  # knots of ranks: evenly spread, and where few flows are left


class Ranks:
    """Which share of known flows has less of something, by how much a flow has.

    Args:
        x: Amounts, increasing, float32 ``[k]``.
        y: The share of known flows with less, not decreasing, within [0, 1], float32 ``[k]``; in
            between it is interpolated. Of amounts above the last x the rank is 1.

    Raises:
        ValueError: These are no such arrays.
    """

    def __init__(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> None:
        if x.ndim != 1 or not len(x) or x.shape != y.shape:
            raise ValueError("ranks need as many x as y, and at least one")
        if not np.isfinite(x).all() or (np.diff(x) <= 0).any():
            raise ValueError("the x of ranks must increase")
        if not ((y >= 0) & (y <= 1)).all() or (np.diff(y) < 0).any():
            raise ValueError("the y of ranks must lie within 0 and 1 and not decrease")
        self.x = np.array(x, np.float32)
        self.y = np.array(y, np.float32)

    @classmethod
    def of(cls, amounts: npt.NDArray[np.float32]) -> Ranks:
        """Make ranks of what known flows have, float32 ``[n]``, at least one."""
        amounts = np.sort(amounts)
        n = len(amounts)
        # Alarms are about the last few in a hundred: there no flow is left out, as far as it goes.
        body = np.linspace(0, n - 1, _BODY).astype(np.int64)
        knots = np.concatenate([body, np.arange(max(n - _TAIL, 0), n)])
        x = np.unique(amounts[knots])
        return cls(x, (np.searchsorted(amounts, x) / n).astype(np.float32))

    def __call__(self, amounts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the rank of each amount, float32 ``[n]`` within [0, 1]."""
        out = np.empty(len(amounts), np.float32)
        _rank_all(np.array(amounts, np.float32), self.x, self.y, out)
        return out


class Novelty:
    """Says how strange flows are to a tier.

    Args:
        known: Known flows.
        entropy: Ranks of the entropy of the scores.
        distance: Ranks of the squared distance to the nearest known flow.
        both: Ranks of what :func:`added` makes of these two ranks.

    Attributes:
        columns: Number of columns of :func:`models.features.flow_features`.
    """

    def __init__(self, known: KnownFlows, entropy: Ranks, distance: Ranks, both: Ranks) -> None:
        self.known = known
        self.columns = known.columns
        self.entropy, self.distance, self.both = entropy, distance, both

    def __call__(
        self, scores: npt.NDArray[np.float32], columns: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return the novelty of flows, float32 ``[n]`` within [0, 1]; each rests on its flow alone.

        Args:
            scores: Of the tier, float32 ``[n, classes]``.
            columns: The same flows' columns at the tier's depth, float32 ``[n, columns]``.

        Raises:
            ValueError: The columns are not as many as those learned from, or not of these flows.
        """
        if columns.shape != (len(scores), self.columns):
            raise ValueError(f"columns {columns.shape}: [{len(scores)}, {self.columns}] was due")
        distance = self.known.squared_distances(columns)
        return self.both(added(entropies(scores), distance, self.entropy, self.distance))


def added(
    entropy: npt.NDArray[np.float32],
    distance: npt.NDArray[np.float32],
    by_entropy: Ranks,
    by_distance: Ranks,
) -> npt.NDArray[np.float32]:
    """Return both signs of strangeness as one, float32 ``[n]``; more is stranger.

    Args:
        entropy: Of the scores, float32 ``[n]``.
        distance: Squared, float32 ``[n]``.
        by_entropy: Ranks of the entropy among known flows.
        by_distance: Ranks of the distance.
    """
    out = np.empty(len(entropy), np.float32)
    _sums(entropy, distance, by_entropy.x, by_entropy.y, by_distance.x, by_distance.y, out)
    return out


def entropies(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the entropy of each flow's scores, float32 ``[n]``, of float32 ``[n, classes]``."""
    out = np.empty(len(scores), np.float32)
    _entropies(np.array(scores, np.float32, order="C"), out)
    return out


@compiled
def _entropies(scores: Array, out: Array) -> None:
    for i in range(len(scores)):
        total = 0.0
        for c in range(scores.shape[1]):
            score = np.float64(scores[i, c])
            if score > 0.0:
                total -= score * log(score)
        out[i] = total


@compiled
def _rank(amount: float, x: Array, y: Array) -> float:
    """Return the rank of an amount, by interpolation between the knots around it."""
    if amount > x[-1]:
        return 1.0
    low, high = 0, len(x) - 1
    while low < high:  # the first knot that is not below the amount
        middle = (low + high) // 2
        if x[middle] < amount:
            low = middle + 1
        else:
            high = middle
    if low == 0 or x[low] == amount:
        return np.float64(y[low])
    share = (np.float64(amount) - x[low - 1]) / (np.float64(x[low]) - x[low - 1])
    return y[low - 1] + share * (np.float64(y[low]) - y[low - 1])


@compiled
def _rank_all(amounts: Array, x: Array, y: Array, out: Array) -> None:
    for i in range(len(amounts)):
        out[i] = _rank(amounts[i], x, y)


@compiled
def _rareness(rank: float) -> float:
    """Return a rank, and above the common ones more: the last tenth, hundredth, thousandth."""
    return rank - _TAIL_WEIGHT * log10(max(1.0 - rank, _RAREST))


@compiled
def _sums(
    entropy: Array, distance: Array, ex: Array, ey: Array, dx: Array, dy: Array, out: Array
) -> None:
    for i in range(len(out)):
        out[i] = _rareness(_rank(entropy[i], ex, ey)) + _rareness(_rank(distance[i], dx, dy))
