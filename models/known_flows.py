"""Flows of known classes, and how far others are from the nearest of them.

A flow is compared with few of those that are kept: they lie in groups (Lloyd 1982), and only the
group whose centre is nearest is looked through. On the flows of decision 10 that tells unknown
flows as well as looking through all groups, at a twentieth of the cost
(docs/decisions/0010-unknown-flows.md).
"""

from __future__ import annotations

from math import inf

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.packet import Array

__all__ = ["FURTHEST", "MOST_FLOWS", "KnownFlows", "scaled", "shortened"]

MOST_FLOWS = 16_384
"""That a bundle may hold for a tier."""

FURTHEST = 5.0
"""Standard deviations that a column may count for."""

_ONE = int(np.float32(1.0).view(np.int32))
_OCTAVE = np.float32(2.0**-23)  # of a float's bits, taken for a whole number, by powers of two


class KnownFlows:
    """Flows as they are, and what makes their columns comparable.

    Args:
        mean: Of each column of :func:`models.features.flow_features`, float32 ``[columns]``.
        scale: What a column's difference to its mean is multiplied with, float32 ``[columns]``.
        flows: Columns of flows, so scaled, by group, float32 ``[flows, columns]``.
        centres: Of the groups, float32 ``[groups, columns]``; None: there are no groups, as in
            bundles of before, and then columns count as they are, else as :func:`shortened`.
        starts: Where each group's flows begin, int64 ``[groups + 1]``; every group has some.

    Attributes:
        columns: Number of columns.

    Raises:
        ValueError: The arrays contradict each other, or are more than may be kept.
    """

    def __init__(
        self,
        mean: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        flows: npt.NDArray[np.float32],
        centres: npt.NDArray[np.float32] | None = None,
        starts: npt.NDArray[np.int64] | None = None,
    ) -> None:
        if flows.ndim != 2 or not 0 < len(flows) <= MOST_FLOWS:
            raise ValueError(f"{flows.shape} are not 1 to {MOST_FLOWS:,} prototypes")
        self.columns = flows.shape[1]
        if not self.columns or mean.shape != (self.columns,) or scale.shape != (self.columns,):
            raise ValueError("there is not one mean and one scale for each column of prototypes")
        if not all(np.isfinite(array).all() for array in (mean, scale, flows)):
            raise ValueError("means, scales and prototypes must be finite")
        if (scale <= 0).any() or (np.abs(flows) > FURTHEST).any():
            raise ValueError("scales must be above 0, and prototypes near the mean")
        if (centres is None) != (starts is None):
            raise ValueError("groups of prototypes need both centres and starts")
        if centres is not None and starts is not None:
            if centres.ndim != 2 or centres.shape[1] != self.columns or not len(centres):
                raise ValueError(f"centres {centres.shape} are none of these prototypes")
            if not np.isfinite(centres).all() or (np.abs(centres) > FURTHEST).any():
                raise ValueError("centres must be finite and near the mean")
            if starts.shape != (len(centres) + 1,) or (starts[0], starts[-1]) != (0, len(flows)):
                raise ValueError("the starts of groups do not fit the prototypes")
            if (np.diff(starts) <= 0).any():
                raise ValueError("every group needs a prototype")
        self.mean = np.array(mean, np.float32)
        self.scale = np.array(scale, np.float32)
        self.flows = np.array(flows, np.float32, order="C")
        self.centres = None if centres is None else np.array(centres, np.float32, order="C")
        self.starts = None if starts is None else np.array(starts, np.int64)
        # By group, and there by column: so all of a group are compared at once, and each sum is
        # made in the order of the columns whatever the processor does at a time.
        self._starts = np.array([0, len(flows)]) if self.starts is None else self.starts
        parts = np.split(self.flows, self._starts[1:-1])
        self._by_group = np.concatenate([part.T.ravel() for part in parts])
        own = self.flows[:1] if self.centres is None else self.centres
        self._centres = np.ascontiguousarray(own.T).ravel()

    def squared_distances(self, columns: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's squared distance to the nearest known one, float32 ``[n]``.

        It rests on the flow alone.

        Args:
            columns: float32 ``[n, columns]``.

        Raises:
            ValueError: They are not as many as those of the known flows.
        """
        if columns.ndim != 2 or columns.shape[1] != self.columns:
            raise ValueError(f"columns {columns.shape}: [n, {self.columns}] was due")
        if self.centres is not None:
            columns = shortened(columns)
        out = np.empty(len(columns), np.float32)
        at = scaled(columns, self.mean, self.scale)
        _nearest(at, self._centres, self._starts, self._by_group, out)
        return out


def shortened(columns: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return columns by their logarithms, float32 of the same shape, as sizes differ by factors.

    It is the binary logarithm of 1 + the amount, straight between powers of two, with the sign of
    the column.

    Args:
        columns: float32 ``[n, columns]``, finite.
    """
    out = np.empty(columns.shape, np.float32)
    _shorten(np.array(columns, np.float32, order="C"), out)
    return out


def scaled(
    columns: npt.NDArray[np.float32],
    mean: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return columns in standard deviations, at most :data:`FURTHEST`, float32 as the columns.

    Args:
        columns: float32 ``[n, columns]``.
        mean: See :class:`KnownFlows`, and so is ``scale``.
        scale: What differences to the mean are multiplied with.
    """
    out = np.empty(columns.shape, np.float32)
    _scale(np.array(columns, np.float32, order="C"), mean, scale, out)
    return out


@compiled
def _shorten(columns: Array, out: Array) -> None:
    for i in range(len(columns)):
        for c in range(columns.shape[1]):
            out[i, c] = np.float32(1.0) + abs(columns[i, c])
    bits = out.view(np.int32)
    for i in range(len(columns)):
        for c in range(columns.shape[1]):
            octaves = np.float32(bits[i, c] - _ONE) * _OCTAVE
            out[i, c] = octaves if columns[i, c] >= 0 else -octaves


@compiled
def _scale(columns: Array, mean: Array, scale: Array, out: Array) -> None:
    for i in range(len(columns)):
        for c in range(len(mean)):
            at = (columns[i, c] - mean[c]) * scale[c]
            out[i, c] = min(max(at, np.float32(-5.0)), np.float32(5.0))  # FURTHEST


@compiled
def _sums(at: Array, by_column: Array, sums: Array) -> None:
    """Sum up squared differences to each of some points that lie by column."""
    count = len(sums)
    sums[:] = 0.0
    whole = len(at) - len(at) % 4
    for c in range(0, whole, 4):  # one after the other, so that the sums stay as they are
        first, second = by_column[c * count :], by_column[(c + 1) * count :]
        third, fourth = by_column[(c + 2) * count :], by_column[(c + 3) * count :]
        at_1, at_2, at_3, at_4 = at[c], at[c + 1], at[c + 2], at[c + 3]
        for k in range(count):
            total = sums[k]
            off = first[k] - at_1
            total += off * off
            off = second[k] - at_2
            total += off * off
            off = third[k] - at_3
            total += off * off
            off = fourth[k] - at_4
            sums[k] = total + off * off
    for c in range(whole, len(at)):
        own = by_column[c * count :]
        for k in range(count):
            off = own[k] - at[c]
            sums[k] += off * off


@compiled
def _nearest(at: Array, centres: Array, starts: Array, by_group: Array, out: Array) -> None:
    groups, columns = len(starts) - 1, at.shape[1]
    sums = np.empty(max(groups, np.max(starts[1:] - starts[:-1])), np.float32)
    for i in range(len(at)):
        group = 0
        if groups > 1:
            _sums(at[i], centres, sums[:groups])
            nearest = inf
            for g in range(groups):
                if sums[g] < nearest:
                    nearest, group = sums[g], g
        begin, end = starts[group], starts[group + 1]
        count = end - begin
        _sums(at[i], by_group[begin * columns : end * columns], sums[:count])
        best = sums[0]
        for k in range(1, count):
            best = min(best, sums[k])
        out[i] = best
