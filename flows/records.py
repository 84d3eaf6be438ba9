"""Whole rows of record arrays, moved as bytes.

numpy moves rows of a record type field by field, nested ones too: 50 times the cost of copying
their bytes. These functions do the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.packet import Records

__all__ = ["aligned_zeros", "as_bytes", "column", "copied", "joined", "picked", "taken"]

_CACHE_LINE = 64  # bytes


def taken(records: Records, rows: npt.NDArray[np.intp]) -> Records:
    """Return ``records[rows]``.

    Args:
        records: Any record type, ``[n]``.
        rows: Indices from 0 to n - 1, ``[k]``.
    """
    return records.take(rows)


def picked(records: Records, mask: npt.NDArray[np.bool_]) -> Records:
    """Return ``records[mask]``, for any record type ``[n]`` and a bool ``[n]``."""
    return records.take(np.flatnonzero(mask))


def joined(parts: Sequence[Records]) -> Records:
    """Return ``np.concatenate(parts)``, for one or more contiguous arrays of one record type."""
    dtype = parts[0].dtype
    return np.concatenate([as_bytes(part) for part in parts]).view(dtype)


def copied(records: Records) -> Records:
    """Return ``records.copy()``, for a contiguous array of any record type."""
    return as_bytes(records).copy().view(records.dtype)


def column(records: Records, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Return ``records[name]`` as a view whose elements are moved as bytes if they are records."""
    kind, start = records.dtype[name], records.dtype.fields[name][1]  # type: ignore[index] # a record type has fields
    if kind.names is None:
        return records[name]
    whole = np.dtype(
        {"names": [name], "formats": [f"V{kind.itemsize}"], "offsets": [start],
         "itemsize": records.dtype.itemsize}
    )  # fmt: skip
    return records.view(whole)[name]


def as_bytes(records: Records) -> npt.NDArray[np.void]:
    """Return a contiguous array of any record type as a view whose rows are moved as bytes."""
    return records.view(f"V{records.dtype.itemsize}")


def aligned_zeros(rows: int, dtype: np.dtype[np.void]) -> Records:
    """Return ``np.zeros(rows, dtype)`` that begins with a cache line."""
    size = rows * dtype.itemsize
    room = np.zeros(size + _CACHE_LINE, np.uint8)
    start = -room.ctypes.data % _CACHE_LINE
    return room[start : start + size].view(dtype)
