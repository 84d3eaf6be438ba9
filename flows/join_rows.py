"""The rows of :mod:`flows.join`: one per flow, found by an open-addressing index, and its alarms.

A row also lies in its collector's timing wheel, under the capture time at which it must be looked
at though nothing has come for it (Varghese and Lauck, SOSP 1987, scheme 6). So a call costs what
it brings and what has run out, however many flows are open.

With many flows a call waits for memory more than for anything else. So a row is one cache line that
holds all that tells whether its flow is due, and the index tells flows apart without their rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.ids import mix64
from flows.packet import Record, Records

__all__ = [
    "ROW_DTYPE",
    "WAIT_BUCKETS",
    "alarm_ns",
    "enter_wheel",
    "find",
    "hash_of",
    "leave_wheel",
    "new_index",
    "new_wheel",
    "rebuild_index",
    "release",
    "row_at",
]

WAIT_BUCKETS = 4096  # of a wheel in the longest wait: many, as each call goes through one at least
_BUCKETS = 4 * WAIT_BUCKETS  # so that alarms, as a rule at most three waits away, lie in this lap

ROW_DTYPE = np.dtype(
    [
        ("flow_id", "<u8"),
        ("present", "<u8"),  # bit k: packet k is here
        ("start_ns", "<i8"),  # capture time of packet 0, if it is here
        ("touched_ns", "<i8"),  # capture time of the first thing that came for it
        ("end_ns", "<i8"),
        ("collector", "<i4"),
        ("wheel_prev", "<i4"),  # rows before and behind it in its bucket; -1: none
        ("wheel_next", "<i4"),
        ("bucket", "<i2"),  # of its collector's wheel; -1: it is in none yet
        ("end_packets", "<i2"),  # packets that the flow had; -1: it has not ended
        ("first_late", "u1"),  # the first packet here that is over max_wait behind packet 0, or 255
        ("next_tier", "u1"),
        ("end_reason", "u1"),  # FlowEndReason
        ("used", "u1"),
        ("admitted", "u1"),  # 1: it has been marked, so it is owed an answer
        ("listed", "u1"),  # 1: it is among those that the present call looks at
        ("reserved", "<u2"),  # fills it up to a cache line
    ]
)

_EMPTY = -1


def new_index(capacity: int) -> npt.NDArray[np.int64]:
    """Return an empty index, a power of two of at least twice ``capacity`` places.

    A place holds 31 bits of its flow's hash, and the row in the lower 32; -1: it is empty.
    """
    places = 1 << int(2 * capacity - 1).bit_length()
    return np.full(places, _EMPTY, np.int64)


def new_wheel() -> npt.NDArray[np.int32]:
    """Return the empty wheel of one collector: the first row of each bucket, -1 for none."""
    return np.full(_BUCKETS, _EMPTY, np.int32)


@inlined
def hash_of(flow_id: np.uint64) -> np.int64:
    """Return what the index knows a flow by, 31 bits."""
    return np.int64(mix64(flow_id) & np.uint64(0x7FFFFFFF))


@inlined
def row_at(index: npt.NDArray[np.int64], place: int) -> np.int64:
    """Return the row at a place that is not empty."""
    return index[place] & 0xFFFFFFFF


@inlined
def find(rows: Records, index: npt.NDArray[np.int64], flow_id: np.uint64, collector: int) -> int:
    """Return the place in ``index`` of the flow, or -1 - (the empty place where it belongs).

    The collector is part of the key: nobody reaches another's flows by guessing ids.
    """
    mask = len(index) - 1
    sought = hash_of(flow_id)
    place = sought & mask
    while index[place] >= 0:
        if index[place] >> 32 == sought:
            row = rows[row_at(index, place)]
            if row.flow_id == flow_id and row.collector == collector:
                return place
        place = (place + 1) & mask
    return -1 - place


@kernel
def _remove(index: npt.NDArray[np.int64], place: int) -> None:
    """Empty a place and close the gap behind it (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = len(index) - 1
    gap = place
    scan = (place + 1) & mask
    while index[scan] >= 0:
        home = (index[scan] >> 32) & mask
        if ((scan - home) & mask) >= ((scan - gap) & mask):
            index[gap] = index[scan]
            gap = scan
        scan = (scan + 1) & mask
    index[gap] = -1


@kernel
def rebuild_index(
    old: npt.NDArray[np.int64], index: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Enter all that ``old`` holds into the empty ``index`` and return that."""
    mask = len(index) - 1
    for entry in old:
        if entry >= 0:
            place = (entry >> 32) & mask
            while index[place] >= 0:
                place = (place + 1) & mask
            index[place] = entry
    return index


@inlined
def alarm_ns(row: Record, max_wait_ns: int) -> np.int64:
    """Return when ``row`` is to be looked at: when the watermark is past this."""
    forgotten_ns = row.touched_ns + 3 * max_wait_ns
    if row.next_tier != 255 and row.present & np.uint64(1):
        return min(forgotten_ns, row.start_ns + max_wait_ns)
    return forgotten_ns


@inlined
def enter_wheel(rows: Records, wheel: npt.NDArray[np.int32], row: int, bucket: int) -> None:
    """Put a row into a bucket of its collector's wheel."""
    first = wheel[bucket]
    rows[row].bucket = bucket
    rows[row].wheel_prev = -1
    rows[row].wheel_next = first
    if first >= 0:
        rows[first].wheel_prev = row
    wheel[bucket] = row


@inlined
def leave_wheel(rows: Records, wheel: npt.NDArray[np.int32], row: int) -> None:
    """Take a row out of its bucket, if it is in one."""
    if rows[row].bucket < 0:
        return
    before = rows[row].wheel_prev
    behind = rows[row].wheel_next
    if before >= 0:
        rows[before].wheel_next = behind
    else:
        wheel[rows[row].bucket] = behind
    if behind >= 0:
        rows[behind].wheel_prev = before
    rows[row].bucket = -1


@kernel
def release(
    rows: Records,
    index: npt.NDArray[np.int64],
    wheel: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    row: int,
) -> int:
    """Free a row; return the free rows now."""
    _remove(index, find(rows, index, rows[row].flow_id, rows[row].collector))
    leave_wheel(rows, wheel, row)
    rows[row].used = 0
    free[free_count] = row
    return free_count + 1
