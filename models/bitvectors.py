"""Small boosted trees without walking them: every node is asked, many flows at a time.

After QuickScorer (Lucchese et al. 2015) and its form for wide registers (Lucchese et al. 2016): the
leaves of a tree, from left to right, are the bits of a word. A flow that goes right at a node
cannot end at the leaves on its left: their bits are cleared. When all nodes were asked, in
whatever order, the lowest bit that is left is the flow's leaf. There is no branch to guess wrong,
and one instruction asks a node of 8 or 16 flows, which makes up for asking all nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped] # llvmlite is not typed
from numba.core import cgutils, types
from numba.extending import intrinsic

from flows.compiled import compiled
from flows.packet import Array

__all__ = ["FEWEST_ROWS", "BitTrees", "bit_trees"]

FEWEST_ROWS = 4
"""With fewer flows it is faster to walk."""

_LEAVES = 32  # of a tree, at most: bits of a word
_LANES = 16  # flows to a vector; processors with narrower ones take several for it
# Flows at a time, filled up: wider than 64 gains nothing more.
_NARROW, _MIDDLE, _WIDE = 16, 32, 64
# Times a word of one bit, the upper five bits of the product are another number for each bit
# (Leiserson et al. 1998, "Using de Bruijn sequences to index a 1 in a computer word").
_DE_BRUIJN = 0x077CB531


@dataclass(frozen=True, slots=True, eq=False)
class BitTrees:
    """Trees of at most 32 leaves, laid out to be asked node by node.

    Attributes:
        used: Columns of the inputs that a node looks at, int64 ``[columns]``.
        column: Index into ``used`` of each inner node's, uint16 ``[nodes]``; tree by tree.
        threshold: Of each inner node, float32 ``[nodes]``.
        right: Leaves that are left to whom goes right there, uint32 ``[nodes]``.
        starts: Where each tree's nodes begin, int64 ``[trees + 1]``.
        values: What each leaf adds, ``[32 * trees]``, within a tree by the product of its bit.
    """

    used: npt.NDArray[np.int64]
    column: npt.NDArray[np.uint16]
    threshold: npt.NDArray[np.float32]
    right: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    values: Array

    def add(self, rows: Array, classes: Array, out: Array) -> None:
        """Add to each row's sums what its leaves say, in the order of the trees.

        Args:
            rows: float32 ``[n, features]``; NaN goes right.
            classes: Column of ``out`` that each tree adds to, int32 ``[trees or more]``.
            out: ``[n, classes]``, of the type of ``values``.
        """
        _add(
            rows, self.used, self.column, self.threshold, self.right, self.starts, self.values,
            classes, out,
        )  # fmt: skip


def bit_trees(
    feature: Array, threshold: Array, left: Array, right: Array, roots: Array, values: Array
) -> BitTrees | None:
    """Lay trees out; None: one of them has more leaves than a word has bits.

    Args:
        feature: As in :class:`models.ensemble.BoostedEngine`, checked, and so are the rest.
        threshold: float32 ``[nodes]``.
        left: int32 ``[nodes]``.
        right: int32 ``[nodes]``.
        roots: int32 ``[trees]``.
        values: What each leaf adds, ``[leaves]``.
    """
    leaves = np.empty(len(feature), np.int64)
    _count(feature, left, right, leaves)
    if int(leaves[roots].max()) > _LEAVES:
        return None
    tree, kept = np.empty(len(feature), np.int64), np.empty(len(feature), np.uint32)
    slots = np.zeros(_LEAVES * len(roots), values.dtype)
    _number(feature, left, right, roots, values, leaves, tree, kept, slots)
    inner = np.flatnonzero(feature >= 0)
    inner = inner[np.argsort(tree[inner], kind="stable")]
    used, column = np.unique(feature[inner].astype(np.int64), return_inverse=True)
    return BitTrees(
        used,
        column.astype(np.uint16),  # as many as nodes can name, see models/ensemble.py
        threshold[inner],
        kept[inner],
        np.searchsorted(tree[inner], np.arange(len(roots) + 1)),
        slots,
    )


@compiled
def _count(feature: Array, left: Array, right: Array, leaves: Array) -> None:
    """Count the leaves below each node: children stand behind their parents."""
    for node in range(len(feature) - 1, -1, -1):
        leaves[node] = 1
        if feature[node] >= 0:
            leaves[node] = leaves[left[node]] + leaves[right[node]]


@compiled
def _number(
    feature: Array,
    left: Array,
    right: Array,
    roots: Array,
    values: Array,
    leaves: Array,
    tree: Array,
    kept: Array,
    slots: Array,
) -> None:
    """Find each node's tree and what bits going right there keeps; put values in their slots."""
    first = np.zeros(len(feature), np.int64)
    for t in range(len(roots)):
        tree[roots[t]] = t
    for node in range(len(feature)):
        if feature[node] >= 0:
            a, b = left[node], right[node]
            tree[a] = tree[b] = tree[node]
            first[a] = first[node]
            first[b] = first[node] + leaves[a]
            gone = ((1 << leaves[a]) - 1) << first[a]
            kept[node] = np.uint32(0xFFFFFFFF & ~gone)
        else:
            slots[32 * tree[node] + _slot(np.uint32(1 << first[node]))] = values[left[node]]


@compiled
def _slot(bit: np.uint32) -> np.int64:
    return np.int64(np.uint32(bit * np.uint32(_DE_BRUIJN)) >> np.uint32(27))


def _exit_leaves(
    _: Any,
    seen: Any,
    column: Any,
    threshold: Any,
    right: Any,
    begin: Any,
    end: Any,
    left_over: Any,
    width: Any,
) -> Any:
    """Ask the nodes from ``begin`` to before ``end``, and write what is left of their tree.

    For compiled code. LLVM would make wide instructions of a loop over flows too, but keeps what is
    left in memory from node to node, and looks anew at each one whether arrays overlap: here it
    stays in registers, for three to four times the speed.

    ``seen`` is float32, ``width`` flows' side by side for each used column; ``left_over`` is uint32
    ``[width]``, and ``width`` a literal multiple of ``_LANES``. The others are as in
    :class:`BitTrees`.
    """
    if not isinstance(width, types.IntegerLiteral):
        return None
    lanes = [lane * _LANES for lane in range(width.literal_value // _LANES)]
    word, offset = ir.IntType(32), ir.IntType(64)
    floats, words = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(word, _LANES)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def element(array: int, index: Any) -> Any:
            made = context.make_array(signature.args[array])(context, builder, values[array])
            return builder.gep(made.data, [index])

        def vector(kind: Any, array: int, index: Any) -> Any:
            return builder.bitcast(element(array, index), kind.as_pointer())

        def everywhere(kind: Any, one: Any) -> Any:
            nothing = ir.Constant(kind, ir.Undefined)
            first = builder.insert_element(nothing, one, word(0))
            return builder.shuffle_vector(first, nothing, ir.Constant(words, [0] * _LANES))

        every = ir.Constant(words, [-1] * _LANES)
        left = [cgutils.alloca_once(builder, words) for _ in lanes]  # type: ignore[no-untyped-call] # numba has no types here
        for so_far in left:
            builder.store(every, so_far)
        begin, end = values[4:6]
        with cgutils.for_range_slice(builder, begin, end, begin.type(1)) as (node, _):
            row = builder.zext(builder.load(element(1, node)), offset)
            row = builder.mul(row, offset(width.literal_value))
            threshold = everywhere(floats, builder.load(element(2, node)))
            right = everywhere(words, builder.load(element(3, node)))
            for lane, so_far in zip(lanes, left, strict=True):
                at = vector(floats, 0, builder.add(row, offset(lane)))
                goes_right = builder.fcmp_unordered(">", builder.load(at, align=4), threshold)
                before = builder.load(so_far)
                kept = builder.select(goes_right, builder.and_(before, right), before)
                builder.store(kept, so_far)
        for lane, so_far in zip(lanes, left, strict=True):
            builder.store(builder.load(so_far), vector(words, 6, offset(lane)), align=4)
        return context.get_dummy_value()

    arrays = seen, column, threshold, right
    signature = types.void(*arrays, types.intp, types.intp, left_over, width)
    return signature, generate


_exits: Callable[..., None] = intrinsic(prefer_literal=True)(_exit_leaves)


@compiled
def _add(
    rows: Array,
    used: Array,
    column: Array,
    threshold: Array,
    right: Array,
    starts: Array,
    values: Array,
    classes: Array,
    out: Array,
) -> None:
    width = _WIDE
    if len(rows) <= _MIDDLE:
        width = _NARROW if len(rows) <= _NARROW else _MIDDLE
    seen = np.zeros(len(used) * width, np.float32)  # by column, so that a node's lie side by side
    left_over = np.empty(width, np.uint32)
    sums = np.zeros((out.shape[1], width), out.dtype)
    for begin in range(0, len(rows), width):
        n = min(width, len(rows) - begin)
        for i in range(n):
            for c in range(len(used)):
                seen[c * width + i] = rows[begin + i, used[c]]
            for c in range(out.shape[1]):
                sums[c, i] = out[begin + i, c]
        for tree in range(len(starts) - 1):
            first, behind = starts[tree], starts[tree + 1]
            if width == _NARROW:
                _exits(seen, column, threshold, right, first, behind, left_over, _NARROW)
            elif width == _MIDDLE:
                _exits(seen, column, threshold, right, first, behind, left_over, _MIDDLE)
            else:
                _exits(seen, column, threshold, right, first, behind, left_over, _WIDE)
            _add_leaves(width, left_over, values, np.uint64(32 * tree), sums, classes[tree])
        for i in range(n):
            for c in range(out.shape[1]):
                out[begin + i, c] = sums[c, i]


@compiled
def _add_leaves(
    width: int, left_over: Array, values: Array, at: np.uint64, sums: Array, label: int
) -> None:
    for i in range(width):
        # numba computes with 64 bits unless it is told not to.
        lowest = np.uint32(left_over[i] & (np.uint32(0) - left_over[i]))
        slot = np.uint64(np.uint32(lowest * np.uint32(_DE_BRUIJN)) >> np.uint32(27))
        sums[label, i] += values[at + slot]
