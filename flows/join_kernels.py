"""Compiled parts of :mod:`flows.join`: a row per flow, found by an open-addressing index.

A row also lies in its collector's timing wheel, under the capture time at which it must be looked
at though nothing has come for it (Varghese and Lauck, SOSP 1987, scheme 6). So a call costs what
it brings and what has run out, however many flows are open.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.ids import mix64
from flows.packet import Records

__all__ = [
    "ADMITTED",
    "APPLIED",
    "COUNTS",
    "DUPLICATE",
    "FINAL",
    "LOST",
    "ORPHANS",
    "PACKETS_IN",
    "ROW_DTYPE",
    "WAIT_BUCKETS",
    "count_open",
    "drop_all",
    "let_go",
    "new_index",
    "new_wheel",
    "rebuild_index",
    "take_in",
]

WAIT_BUCKETS = 4096  # of a wheel in the longest wait: many, as each call goes through one at least
_BUCKETS = 4 * WAIT_BUCKETS  # so that alarms, as a rule at most three waits away, lie in this lap

NO_TIER = 255  # no tier awaits this flow: it has no mark yet, or it has been handed out

ROW_DTYPE = np.dtype(
    [
        ("flow_id", "<u8"),
        ("present", "<u8"),  # bit k: packet k is here
        ("end_ns", "<i8"),
        ("touched_ns", "<i8"),  # capture time of the first thing that came for it
        ("collector", "<i4"),
        ("end_packets", "<i2"),  # packets that the flow had; -1: it has not ended
        ("next_tier", "u1"),
        ("end_reason", "u1"),  # FlowEndReason
        ("used", "u1"),
        ("admitted", "u1"),  # 1: it has been marked, so it is owed an answer
        ("alarm_ns", "<i8"),  # to be looked at when the watermark is past this
        ("wheel_prev", "<i4"),  # rows before and behind it in its bucket; -1: none
        ("wheel_next", "<i4"),
        ("bucket", "<i2"),  # of its collector's wheel; -1: it is in none yet
        ("listed", "u1"),  # 1: it is among those that the present call looks at
    ]
)

(PACKETS_IN, APPLIED, DUPLICATE, ADMITTED, FINAL, ORPHANS, LOST) = range(7)
COUNTS = 7

_EMPTY = -1


def new_index(capacity: int) -> npt.NDArray[np.int32]:
    """Return an empty index, a power of two of at least twice ``capacity`` places."""
    places = 1 << int(2 * capacity - 1).bit_length()
    return np.full(places, _EMPTY, np.int32)


def new_wheel() -> npt.NDArray[np.int32]:
    """Return the empty wheel of one collector: the first row of each bucket, -1 for none."""
    return np.full(_BUCKETS, _EMPTY, np.int32)


@inlined
def _find(rows: Records, index: npt.NDArray[np.int32], flow_id: np.uint64, collector: int) -> int:
    """Return the place in ``index`` of the flow, or -1 - (the empty place where it belongs).

    The collector is part of the key: nobody reaches another's flows by guessing ids.
    """
    mask = len(index) - 1
    place = np.int64(mix64(flow_id) & np.uint64(mask))
    while index[place] >= 0:
        row = rows[index[place]]
        if row.flow_id == flow_id and row.collector == collector:
            return place
        place = (place + 1) & mask
    return -1 - place


@kernel
def _remove(rows: Records, index: npt.NDArray[np.int32], place: int) -> None:
    """Empty a place and close the gap behind it (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = len(index) - 1
    gap = place
    scan = (place + 1) & mask
    while index[scan] >= 0:
        home = np.int64(mix64(rows[index[scan]].flow_id) & np.uint64(mask))
        if ((scan - home) & mask) >= ((scan - gap) & mask):
            index[gap] = index[scan]
            gap = scan
        scan = (scan + 1) & mask
    index[gap] = -1


@kernel
def rebuild_index(rows: Records, index: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Enter every used row into the empty ``index`` and return it."""
    for r in range(len(rows)):
        if rows[r].used:
            index[-1 - _find(rows, index, rows[r].flow_id, rows[r].collector)] = r
    return index


@inlined
def _enter_wheel(rows: Records, wheel: npt.NDArray[np.int32], row: int, bucket: int) -> None:
    first = wheel[bucket]
    rows[row].bucket = bucket
    rows[row].wheel_prev = -1
    rows[row].wheel_next = first
    if first >= 0:
        rows[first].wheel_prev = row
    wheel[bucket] = row


@inlined
def _leave_wheel(rows: Records, wheel: npt.NDArray[np.int32], row: int) -> None:
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
def _release(
    rows: Records,
    index: npt.NDArray[np.int32],
    wheel: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    row: int,
) -> int:
    _remove(rows, index, _find(rows, index, rows[row].flow_id, rows[row].collector))
    _leave_wheel(rows, wheel, row)
    rows[row].used = 0
    free[free_count] = row
    return free_count + 1


@kernel
def take_in(
    rows: Records,
    blocks: Records,
    index: npt.NDArray[np.int32],
    wheel: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    collector: int,
    packets: Records,
    marks: Records,
    settled: npt.NDArray[np.uint64],
    looked: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Absorb packets, end marks, uncertain marks and settled ids.

    Return the free rows left, and how many rows something came for: these are listed in
    ``looked``, each once, which has a place for every row.
    """
    depth = blocks.shape[1]
    n = 0
    for i in range(len(settled)):
        place = _find(rows, index, settled[i], collector)
        if place >= 0:
            row = index[place]
            counts[4] += rows[row].admitted
            free_count = _release(rows, index, wheel, free, free_count, row)
    for i in range(len(packets) + len(marks)):
        is_mark = i >= len(packets)
        flow_id = marks[i - len(packets)].flow_id if is_mark else packets[i].flow_id
        place = _find(rows, index, flow_id, collector)
        if place < 0:
            free_count -= 1
            row = free[free_count]
            index[-1 - place] = row
            rows[row].flow_id = flow_id
            rows[row].present = 0
            rows[row].end_packets = -1
            rows[row].next_tier = 255
            rows[row].collector = collector
            rows[row].touched_ns = np.int64(1) << 62
            rows[row].used = 1
            rows[row].admitted = 0
            rows[row].bucket = -1
            rows[row].listed = 0
        else:
            row = index[place]
        if not rows[row].listed:
            rows[row].listed = 1
            looked[n] = row
            n += 1
        if is_mark:
            rows[row].next_tier = marks[i - len(packets)].next_tier
            if not rows[row].admitted:
                rows[row].admitted = 1
                counts[3] += 1
            continue
        packet = packets[i]
        rows[row].touched_ns = min(rows[row].touched_ns, packet.time_ns)
        if packet.flow_end_reason:
            rows[row].end_packets = packet.packet_index
            rows[row].end_ns = packet.time_ns
            rows[row].end_reason = packet.flow_end_reason
            continue
        counts[0] += 1
        k = np.int64(packet.packet_index)
        bit = np.uint64(1) << np.uint64(k)
        if k >= depth:
            counts[1] += 1  # beyond what any tier wants: nothing is left to do with it
        elif rows[row].present & bit:
            counts[2] += 1
        else:
            blocks[row, k] = packet
            rows[row].present |= bit
            counts[1] += 1
    return free_count, n


@kernel
def let_go(
    rows: Records,
    blocks: Records,
    index: npt.NDArray[np.int32],
    wheel: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    due: Records,
    at: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int64],
    looked: npt.NDArray[np.int32],
    reached_ns: int,
    watermark_ns: int,
    width_ns: int,
    max_wait_ns: int,
    depths: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
) -> int:
    """Free the rows that are done with, and set the alarm of the others that were looked at.

    Done with are due flows (``due``, ``at`` and ``sizes``, of :func:`flows.join_due.find_due`)
    that will be final for certain, and all that began three waits before the watermark: packets
    whose mark never came, and flows handed out whose answer never came back. Their collector, if
    it still wants an answer, sends them again from the first packet. The mark is taken off other
    due flows.

    An alarm stands in the bucket of its time or, if that lies before ``reached_ns``, the
    collector's furthest watermark, in the bucket of that one: the first that the next call visits.

    Returns:
        The free rows left.
    """
    deepest = depths[len(depths) - 1]
    for i in range(len(at)):
        if due[i].over or sizes[i] >= deepest:
            counts[4] += 1
            free_count = _release(rows, index, wheel, free, free_count, at[i])
        else:
            rows[at[i]].next_tier = 255
    for i in range(len(looked)):
        r = looked[i]
        if not rows[r].used:
            continue
        rows[r].listed = 0
        if rows[r].touched_ns < watermark_ns - 3 * max_wait_ns:
            if rows[r].admitted:
                counts[6] += 1
            else:
                counts[5] += 1
            free_count = _release(rows, index, wheel, free, free_count, r)
            continue
        alarm_ns = rows[r].touched_ns + 3 * max_wait_ns
        if rows[r].next_tier != 255 and rows[r].present & np.uint64(1):
            alarm_ns = min(alarm_ns, blocks[r, 0].time_ns + max_wait_ns)
        rows[r].alarm_ns = alarm_ns
        bucket = max(alarm_ns, reached_ns) // width_ns % len(wheel)
        if rows[r].bucket != bucket:
            _leave_wheel(rows, wheel, r)
            _enter_wheel(rows, wheel, r, bucket)
    return free_count


@kernel
def drop_all(
    rows: Records,
    index: npt.NDArray[np.int32],
    wheel: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    counts: npt.NDArray[np.int64],
) -> int:
    """Free all rows of the collector whose wheel this is; return the free rows left."""
    for bucket in range(len(wheel)):
        while wheel[bucket] >= 0:
            row = wheel[bucket]
            if rows[row].admitted:
                counts[6] += 1
            else:
                counts[5] += 1
            free_count = _release(rows, index, wheel, free, free_count, row)
    return free_count


@kernel
def count_open(rows: Records) -> int:
    """Count the flows that are owed an answer."""
    n = 0
    for r in range(len(rows)):
        if rows[r].used and rows[r].admitted:
            n += 1
    return n
