"""Forests of decision trees as plain arrays: averaged ones and boosted ones.

Both keep the same six arrays of trees (``feature``, ``threshold``, ``left``, ``right``, ``roots``,
``values``) and lay them out for speed when they are loaded: see :mod:`models.tree_walk`, and for
small boosted trees, if a call has flows enough, :mod:`models.bitvectors`.
"""

from __future__ import annotations

import io
from math import exp
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.errors import BundleError
from flows.packet import Array
from models.bitvectors import FEWEST_ROWS, bit_trees
from models.tree_walk import walked_trees

__all__ = ["BoostedEngine", "ForestEngine"]

_LEAF = -1
_UNEVEN = 1e-4  # most that a leaf's probabilities may miss 1 by
_MOST = 1e37  # most that boosted leaves may add up to, far from what float32 cannot hold

_TREES = {"feature": "<i2", "threshold": "<f4", "left": "<i4", "right": "<i4", "roots": "<i4"}


class _Trees:
    """What forests have in common: their arrays' form, and the layout that is walked.

    A row goes left at a node if ``row[feature] <= threshold``, both float32; NaN goes right.
    """

    kind: ClassVar[str]
    _TYPES: ClassVar[dict[str, tuple[str, ...]]]
    _FLAT: ClassVar[int]  # dimensions of ``values``

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays
        for name, types in self._TYPES.items():
            array = arrays[name]
            dimensions = self._FLAT if name == "values" else 1
            if array.dtype.str not in types or array.ndim != dimensions:
                raise BundleError(
                    f"{name}.npy: {array.dtype} {array.shape} is not what a forest is made of"
                )
        if not _are_trees(**{name: arrays[name] for name in (*_TREES, "values")}):
            raise BundleError("the forest's arrays contradict each other; make the bundle anew")
        # At least one: leaves, too, look at column 0, whatever it holds.
        self.columns = max(int(arrays["feature"].max(initial=_LEAF)), 0) + 1

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> Self:
        """Make an engine of what :meth:`files` gave.

        Raises:
            BundleError: A file is missing or no array, or the arrays are no forest.
        """
        arrays: dict[str, Any] = {}
        for name in cls._TYPES:
            try:
                # Not np.load, which would open archives and pickles too.
                arrays[name] = np.lib.format.read_array(
                    io.BytesIO(files[f"{name}.npy"]), allow_pickle=False
                )
            except KeyError:
                raise BundleError(f"{name}.npy: a forest needs it; make the bundle anew") from None
            except Exception as error:  # a damaged header fails in many ways
                raise BundleError(f"{name}.npy: no array ({error}); make the bundle anew") from None
        return cls(**arrays)

    def files(self) -> dict[str, bytes]:
        """Return the arrays by file name."""
        out = {}
        for name in self._TYPES:
            buffer = io.BytesIO()
            np.save(buffer, self._arrays[name], allow_pickle=False)
            out[f"{name}.npy"] = buffer.getvalue()
        return out

    def _rows(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if inputs.ndim != 2 or inputs.shape[1] < self.columns:
            raise ValueError(f"inputs {inputs.shape}: the forest reads {self.columns} columns")
        rows = np.ascontiguousarray(inputs, np.float32)
        # To numba, what is read-only is of another type: it would compile once more, in service.
        return rows if rows.flags.writeable else rows.copy()


class ForestEngine(_Trees):
    """A forest of decision trees that says the mean of its leaves.

    Args:
        feature: Column that each node looks at, int16 ``[nodes]``; -1 at leaves.
        threshold: float32 ``[nodes]``.
        left: Index of the next node, int32 ``[nodes]``; at leaves the row of ``values``.
        right: Index of the next node, int32 ``[nodes]``.
        roots: Index of each tree's first node, int32 ``[trees]``.
        values: Each leaf's probabilities, float32 ``[leaves, classes]``.

    Attributes:
        classes: Number of classes.
        columns: Columns that its inputs must have at least.

    Raises:
        BundleError: The arrays are no forest; walking them could leave their bounds.
    """

    kind = "forest"
    _TYPES: ClassVar = {**{name: (type_,) for name, type_ in _TREES.items()}, "values": ("<f4",)}
    _FLAT = 2

    def __init__(
        self,
        feature: npt.NDArray[np.int16],
        threshold: npt.NDArray[np.float32],
        left: npt.NDArray[np.int32],
        right: npt.NDArray[np.int32],
        roots: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
    ) -> None:
        trees: dict[str, Array] = {
            "feature": feature,
            "threshold": threshold,
            "left": left,
            "right": right,
            "roots": roots,
        }
        super().__init__({**trees, "values": values})
        shares = values.sum(axis=1, dtype=np.float64)
        if not values.shape[1] or (values < 0).any() or (np.abs(shares - 1.0) > _UNEVEN).any():
            raise BundleError("values.npy: a leaf's are no probabilities; make the bundle anew")
        self.classes = int(values.shape[1])
        # Most leaves hold few flows of one class, and say one of some hundred things: together
        # these fit into the caches, while each leaf's own would come from memory.
        values, at = _distinct(values)
        ends = feature == _LEAF
        trees["left"] = left.copy()
        trees["left"][ends] = at[left[ends]]
        self._arrays = {**trees, "values": values}
        self._walked = walked_trees(**trees, leaves=len(values))
        none = np.zeros((1, self.classes), np.float32)  # what walks without a tree end at
        self._values = np.concatenate([values, none])

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's probability per class; see :class:`models.engines.Engine`."""
        return self._walked.average(self._rows(inputs), self._values)


class BoostedEngine(_Trees):
    """A boosted forest: each tree adds to the score of one class, softmax of the scores.

    The scores are summed as ``values`` are kept, float64 or float32, in the order of the trees:
    so they are those of the library that trained them to the last bit.

    Args:
        feature: As in :class:`ForestEngine`, and so are the four below.
        threshold: float32 ``[nodes]``.
        left: int32 ``[nodes]``.
        right: int32 ``[nodes]``.
        roots: int32 ``[trees]``.
        values: What each leaf adds, float64 or float32 ``[leaves]``.
        column: Class that each tree adds to, int32 ``[trees]``.
        base: Scores that the sums start with, ``[classes]``, of the type of ``values``.

    Attributes:
        classes: Number of classes.
        columns: Columns that its inputs must have at least.

    Raises:
        BundleError: The arrays are no boosted forest; walking them could leave their bounds.
    """

    kind = "boosted"
    _TYPES: ClassVar = {
        **{name: (type_,) for name, type_ in _TREES.items()},
        "values": ("<f4", "<f8"),
        "column": ("<i4",),
        "base": ("<f4", "<f8"),
    }
    _FLAT = 1

    def __init__(
        self,
        feature: npt.NDArray[np.int16],
        threshold: npt.NDArray[np.float32],
        left: npt.NDArray[np.int32],
        right: npt.NDArray[np.int32],
        roots: npt.NDArray[np.int32],
        values: npt.NDArray[np.floating[Any]],
        column: npt.NDArray[np.int32],
        base: npt.NDArray[np.floating[Any]],
    ) -> None:
        trees: dict[str, Array] = {
            "feature": feature,
            "threshold": threshold,
            "left": left,
            "right": right,
            "roots": roots,
        }
        super().__init__({**trees, "values": values, "column": column, "base": base})
        if (
            values.dtype != base.dtype
            or len(column) != len(roots)
            or _outside(column, np.int64(0), len(base))
            or not np.isfinite(base).all()
            # No sum may overflow: softmax of infinities is nothing.
            or float(np.abs(values).max(initial=0)) * len(roots) > _MOST
            or float(np.abs(base).max(initial=0)) > _MOST
        ):
            raise BundleError("the forest's arrays contradict each other; make the bundle anew")
        self.classes = len(base)
        self._walked = walked_trees(**trees, leaves=len(values))
        self._bits = bit_trees(**trees, values=values)
        self._values = np.append(values, values.dtype.type(0))
        none = np.zeros(len(self._walked.roots) - len(column), np.int32)
        self._column = np.concatenate([column, none])
        self._base = base

    def sums(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.floating[Any]]:
        """Return each flow's sum of leaves per class, ``[n, classes]``, of the type of ``values``.

        Args:
            inputs: float32 ``[n, features]``; not changed.

        Raises:
            ValueError: ``inputs`` have too few columns.
        """
        rows = self._rows(inputs)
        out = np.empty((len(rows), self.classes), self._base.dtype)
        out[:] = self._base
        if self._bits is not None and len(rows) >= FEWEST_ROWS:
            self._bits.add(rows, self._column, out)
        else:
            self._walked.add(rows, self._column, self._values, out)
        return out

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's probability per class; see :class:`models.engines.Engine`.

        The likeliest class is the one of the greatest sum, even where float32 cannot tell them
        apart.
        """
        sums = self.sums(inputs)
        out = np.empty(sums.shape, np.float32)
        _softmax(sums, out)
        return out


def _are_trees(
    feature: Array, threshold: Array, left: Array, right: Array, roots: Array, values: Array
) -> bool:
    nodes = np.arange(len(feature))
    if len({len(array) for array in (feature, threshold, left, right)}) != 1 or not len(roots):
        return False
    inner = feature != _LEAF
    if (
        feature.min(initial=0) < _LEAF
        # Children behind their parent: so a walk comes to an end.
        or _outside(left[inner], nodes[inner] + 1, len(nodes))
        or _outside(right[inner], nodes[inner] + 1, len(nodes))
        or _outside(left[~inner], np.int64(0), len(values))
        or _outside(roots, np.int64(0), len(nodes))
    ):
        return False
    # Every node is a root or the child of one node: so children can be laid side by side.
    entered = np.concatenate([left[inner], right[inner], roots])
    once = len(entered) == len(nodes) == len(np.unique(entered))
    return once and bool(np.isfinite(threshold[inner]).all() and np.isfinite(values).all())


def _distinct(values: Array) -> tuple[Array, npt.NDArray[np.int32]]:
    """Return the distinct rows of an array, and which one of them each row is, int32."""
    rows = np.ascontiguousarray(values).view(f"V{values.itemsize * values.shape[1]}")
    _, first, at = np.unique(rows.ravel(), return_index=True, return_inverse=True)
    return values[first], at.astype(np.int32)


def _outside(indices: Array, least: Array | np.int64, stop: int) -> bool:
    return bool(((indices < least) | (indices >= stop)).any())


@compiled
def _softmax(sums: Array, out: Array) -> None:
    for i in range(len(sums)):
        best = 0
        for c in range(sums.shape[1]):
            if sums[i, c] > sums[i, best]:
                best = c
        total = 0.0
        for c in range(sums.shape[1]):
            total += exp(np.float64(sums[i, c]) - np.float64(sums[i, best]))
        for c in range(sums.shape[1]):
            out[i, c] = exp(np.float64(sums[i, c]) - np.float64(sums[i, best])) / total
        for c in range(best):
            if out[i, c] == out[i, best]:
                # Rounding hid which is greater, and the first one would be taken for it.
                out[i, best] *= np.float32(1.0 + 2.0**-23)
