"""Walks trees, several trees and rows at a time.

Of a forest's trees most steps lead to nodes that no cache holds near: whoever takes one walk after
the other waits for the memory each time. So eight walks, of two rows through four trees, go on side
by side, and nodes are small: the two children of a node lie together, so that a step is a
comparison and an addition, without a branch that a processor could guess wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.errors import BundleError
from flows.packet import Array

__all__ = ["WalkedTrees", "walked_trees"]

_LEAF = -1
_TREES = 4  # walked at a time
_NOT_A_NUMBER = 0x7FC00000  # as float32; its lower bits may be any
_LEAVES = 1 << 22  # that those can tell apart

# Eight bytes: eight nodes to a cache line. ``word`` is the column in its lower bits, and how far on
# the children are. A leaf has the threshold NaN, so that nothing leaves it: its children are itself
# and what follows it. The lower bits of that NaN are its number, as ``leaf`` reads them.
_NODE = np.dtype(
    {
        "names": ["threshold", "leaf", "word"],
        "formats": ["<f4", "<u4", "<u4"],
        "offsets": [0, 0, 4],
        "itemsize": 8,
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class WalkedTrees:
    """Trees, laid out to be walked.

    Attributes:
        nodes: Of all trees, ``_NODE [nodes]``.
        roots: Where each tree begins, int64, filled up to a multiple of four with a leaf of its
            own, whose number is the one behind the last leaf's.
        count: Number of trees.
        shift: Bits of a node's word that are its column.
    """

    nodes: Array
    roots: npt.NDArray[np.int64]
    count: int
    shift: int

    def average(self, rows: Array, values: Array) -> npt.NDArray[np.float32]:
        """Return the mean of each row's leaves, float32 ``[n, classes]``.

        Args:
            rows: float32 ``[n, features]``; NaN goes right.
            values: What each leaf says, float32 ``[leaves + 1, classes]``, the last one 0.
        """
        out = np.empty((len(rows), values.shape[1]), np.float32)
        # float64: with float32 the sums of hundreds of trees would miss 1 by more than 1e-6.
        sums = np.zeros(out.shape)
        _average(rows, self.nodes, self.roots, self.shift, self.count, values, sums, out)
        return out

    def add(self, rows: Array, classes: Array, values: Array, out: Array) -> None:
        """Add to each row's sums what its leaves say, in the order of the trees.

        Args:
            rows: float32 ``[n, features]``; NaN goes right.
            classes: Column of ``out`` that each of ``roots`` adds to, int32.
            values: What each leaf adds, ``[leaves + 1]``, the last one 0.
            out: ``[n, classes]``, of the type of ``values``.
        """
        _add(rows, self.nodes, self.roots, self.shift, classes, values, out)


def walked_trees(
    feature: Array, threshold: Array, left: Array, right: Array, roots: Array, leaves: int
) -> WalkedTrees:
    """Lay trees out.

    Args:
        feature: As in :class:`models.ensemble.ForestEngine`, checked, and so are the rest.
        threshold: float32 ``[nodes]``.
        left: int32 ``[nodes]``.
        right: int32 ``[nodes]``.
        roots: int32 ``[trees]``.
        leaves: Number of leaves that nodes name.

    Raises:
        BundleError: A tree, or all leaves together, are more than a node's bits can tell apart.
    """
    inner, leaf = np.flatnonzero(feature != _LEAF), np.flatnonzero(feature == _LEAF)
    shift = max(int(feature.max(initial=0)), 1).bit_length()
    # A root, and a node's two children, take two nodes' room: so no pair is in two cache lines.
    room = 2 * (feature != _LEAF)
    room[roots] += 2
    behind = np.cumsum(room)
    child = behind[inner] - 2
    at = np.empty(len(feature), np.int64)
    at[roots] = behind[roots] - room[roots]
    at[right[inner]], at[left[inner]] = child, child + 1
    further = child - at[inner]
    if leaves >= _LEAVES or int(further.max(initial=0)) >= 1 << (32 - shift):
        raise BundleError("the forest is too large to be walked; train it with fewer leaves")
    nodes = np.zeros(int(behind[-1]) + 1, _NODE)
    nodes["leaf"] = _NOT_A_NUMBER | leaves
    nodes["leaf"][at[leaf]] = _NOT_A_NUMBER | left[leaf]
    nodes["threshold"][at[inner]] = threshold[inner]
    nodes["word"][at[inner]] = further << shift | feature[inner]
    filled = np.full(len(roots) + -len(roots) % _TREES, len(nodes) - 1)
    filled[: len(roots)] = at[roots]
    return WalkedTrees(nodes, filled, len(roots), shift)


@compiled
def _step(nodes: Array, shift: np.uint32, node: int, row: Array) -> Any:
    there = nodes[node]
    column = there.word & ((np.uint32(1) << shift) - np.uint32(1))
    return node + np.int64(there.word >> shift) + np.int64(row[column] <= there.threshold)


@compiled
def _walk(nodes: Array, shift: np.uint32, roots: Array, tree: int, row: Array, other: Array) -> Any:
    """Return the leaves that two rows end at in four trees."""
    a, b, c, d = roots[tree], roots[tree + 1], roots[tree + 2], roots[tree + 3]
    p, q, r, s = a, b, c, d
    while True:
        # Whether all have arrived is asked at every third step only: that is what a processor
        # guesses wrong, and standing still at a leaf costs less.
        for _ in range(2):
            a, b = _step(nodes, shift, a, row), _step(nodes, shift, b, row)
            c, d = _step(nodes, shift, c, row), _step(nodes, shift, d, row)
            p, q = _step(nodes, shift, p, other), _step(nodes, shift, q, other)
            r, s = _step(nodes, shift, r, other), _step(nodes, shift, s, other)
        e, f = _step(nodes, shift, a, row), _step(nodes, shift, b, row)
        g, h = _step(nodes, shift, c, row), _step(nodes, shift, d, row)
        t, u = _step(nodes, shift, p, other), _step(nodes, shift, q, other)
        v, w = _step(nodes, shift, r, other), _step(nodes, shift, s, other)
        moved = (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | (p ^ t) | (q ^ u) | (r ^ v) | (s ^ w)
        if moved == 0:
            return (
                _leaf(nodes, a), _leaf(nodes, b), _leaf(nodes, c), _leaf(nodes, d),
                _leaf(nodes, p), _leaf(nodes, q), _leaf(nodes, r), _leaf(nodes, s),
            )  # fmt: skip
        a, b, c, d, p, q, r, s = e, f, g, h, t, u, v, w


@compiled
def _leaf(nodes: Array, node: int) -> Any:
    return np.int64(nodes[node].leaf & np.uint32(_LEAVES - 1))


# Four trees by four, so that their nodes stay in the cache for all rows. Each row's sum is made
# in the order of the trees, in whatever company it is.


@compiled
def _average(
    rows: Array,
    nodes: Array,
    roots: Array,
    bits: int,
    trees: int,
    values: Array,
    sums: Array,
    out: Array,
) -> None:
    shift = np.uint32(bits)
    for tree in range(0, len(roots), _TREES):
        for i in range(0, len(rows), 2):
            j = min(i + 1, len(rows) - 1)
            a, b, c, d, p, q, r, s = _walk(nodes, shift, roots, tree, rows[i], rows[j])
            _add_means(values, a, b, c, d, sums[i])
            if j > i:
                _add_means(values, p, q, r, s, sums[j])
    share = 1.0 / trees
    for i in range(len(rows)):
        for k in range(values.shape[1]):
            out[i, k] = sums[i, k] * share


@compiled
def _add_means(values: Array, a: int, b: int, c: int, d: int, sums: Array) -> None:
    for k in range(len(sums)):
        sums[k] = (((sums[k] + values[a, k]) + values[b, k]) + values[c, k]) + values[d, k]


@compiled
def _add(
    rows: Array, nodes: Array, roots: Array, bits: int, classes: Array, values: Array, sums: Array
) -> None:
    shift = np.uint32(bits)
    for tree in range(0, len(roots), _TREES):
        for i in range(0, len(rows), 2):
            j = min(i + 1, len(rows) - 1)
            a, b, c, d, p, q, r, s = _walk(nodes, shift, roots, tree, rows[i], rows[j])
            _add_leaves(values, a, b, c, d, classes[tree : tree + _TREES], sums[i])
            if j > i:
                _add_leaves(values, p, q, r, s, classes[tree : tree + _TREES], sums[j])


@compiled
def _add_leaves(values: Array, a: int, b: int, c: int, d: int, classes: Array, sums: Array) -> None:
    sums[classes[0]] += values[a]
    sums[classes[1]] += values[b]
    sums[classes[2]] += values[c]
    sums[classes[3]] += values[d]
