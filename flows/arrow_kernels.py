"""Columns of an Arrow record batch to rows of records and back, compiled."""

from __future__ import annotations

import numpy as np

from flows.compiled import inlined, kernel
from flows.packet import Array

__all__ = ["columns_of", "rows_of"]


_BLOCK = 256  # rows at a time, so that they stay in the nearest cache while all columns are moved

# Indices without a sign: with one, each access would ask first whether it counts from the end.
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_5, _6, _7 = np.uint64(5), np.uint64(6), np.uint64(7)


@kernel
def rows_of(
    body: Array, offsets: Array, sizes: Array, places: Array, row_bytes: int, out: Array
) -> None:
    """Write columns into rows.

    Args:
        body: uint8 ``[b]``, which must hold all columns: nothing is checked here.
        offsets: int64 ``[c]``; where in ``body`` each column begins.
        sizes: int64 ``[c]``; bytes of one value of each column.
        places: int64 ``[c]``; where in a row its value belongs.
        row_bytes: Bytes of a row.
        out: uint8 ``[rows × row_bytes]``.
    """
    rows = len(out) // row_bytes
    for begin in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - begin)
        for c in range(len(sizes)):
            size = sizes[c]
            at, place = offsets[c] + begin * size, begin * row_bytes + places[c]
            _move(body, at, size, size, out, place, row_bytes, n)


@kernel
def columns_of(
    body: Array, offsets: Array, sizes: Array, places: Array, row_bytes: int, rows_in: Array
) -> None:
    """Write rows into columns; the arguments are those of :func:`rows_of`."""
    rows = len(rows_in) // row_bytes
    for begin in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - begin)
        for c in range(len(sizes)):
            size = sizes[c]
            at, place = begin * row_bytes + places[c], offsets[c] + begin * size
            _move(rows_in, at, row_bytes, size, body, place, size, n)


@inlined
def _move(
    source: Array, start: int, step: int, size: int, to: Array, begin: int, stride: int, n: int
) -> None:
    """Move ``n`` values of ``size`` bytes, which lie ``step`` bytes apart, ``stride`` apart."""
    at, place = np.uint64(start), np.uint64(begin)
    further, onward = np.uint64(step), np.uint64(stride)
    # All of a value is read before any of it is written: so the compiler makes one move of it.
    if size == 1:
        for _ in range(n):
            to[place] = source[at]
            at += further
            place += onward
    elif size == 2:
        for _ in range(n):
            a, b = source[at], source[at + _1]
            to[place], to[place + _1] = a, b
            at += further
            place += onward
    elif size == 4:
        for _ in range(n):
            a, b, c, d = source[at], source[at + _1], source[at + _2], source[at + _3]
            to[place], to[place + _1], to[place + _2], to[place + _3] = a, b, c, d
            at += further
            place += onward
    elif size == 8:
        for _ in range(n):
            a, b, c, d = source[at], source[at + _1], source[at + _2], source[at + _3]
            e, f, g, h = source[at + _4], source[at + _5], source[at + _6], source[at + _7]
            to[place], to[place + _1], to[place + _2], to[place + _3] = a, b, c, d
            to[place + _4], to[place + _5], to[place + _6], to[place + _7] = e, f, g, h
            at += further
            place += onward
    else:
        for _ in range(n):
            for byte in range(size):
                to[place + np.uint64(byte)] = source[at + np.uint64(byte)]
            at += further
            place += onward
