"""Compiled parts of :mod:`flows.join`: a row per flow, found by an open-addressing index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
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
    "count_open",
    "drop",
    "find_due",
    "hand_out",
    "let_go",
    "new_index",
    "rebuild_index",
    "take_in",
]

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
    ]
)

(PACKETS_IN, APPLIED, DUPLICATE, ADMITTED, FINAL, ORPHANS, LOST) = range(7)
COUNTS = 7

_EMPTY = -1
_IDLE = 1  # FlowEndReason.IDLE_TIMEOUT
_ACTIVE = 2  # FlowEndReason.ACTIVE_TIMEOUT

_DUE = np.dtype(
    [("flow_id", "<u8"), ("over_ns", "<i8"), ("next_tier", "u1"), ("over", "u1"), ("reason", "u1")]
)  # flows.join.DUE_DTYPE, here so that compiled code sees a constant


def new_index(capacity: int) -> npt.NDArray[np.int32]:
    """Return an empty index, a power of two of at least twice ``capacity`` places."""
    places = 1 << int(2 * capacity - 1).bit_length()
    return np.full(places, _EMPTY, np.int32)


@compiled
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


@compiled
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


@compiled
def rebuild_index(rows: Records, index: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Enter every used row into the empty ``index`` and return it."""
    for r in range(len(rows)):
        if rows[r].used:
            index[-1 - _find(rows, index, rows[r].flow_id, rows[r].collector)] = r
    return index


@compiled
def _release(
    rows: Records,
    index: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    row: int,
) -> int:
    _remove(rows, index, _find(rows, index, rows[row].flow_id, rows[row].collector))
    rows[row].used = 0
    free[free_count] = row
    return free_count + 1


@compiled
def take_in(
    rows: Records,
    blocks: Records,
    index: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    collector: int,
    packets: Records,
    marks: Records,
    settled: npt.NDArray[np.uint64],
    counts: npt.NDArray[np.int64],
) -> int:
    """Absorb packets, end marks, uncertain marks and settled ids; return the free rows left."""
    depth = blocks.shape[1]
    for i in range(len(settled)):
        place = _find(rows, index, settled[i], collector)
        if place >= 0:
            row = index[place]
            counts[4] += rows[row].admitted
            free_count = _release(rows, index, free, free_count, row)
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
        else:
            row = index[place]
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
    return free_count


@compiled
def _new_due(n: int) -> Records:
    return np.empty(n, _DUE)


@compiled
def find_due(
    rows: Records,
    blocks: Records,
    collector: int,
    watermark_ns: int,
    max_wait_ns: int,
    depths: npt.NDArray[np.uint8],
    reason_ended: int,
    reason_timeout: int,
) -> tuple[Records, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the due flows of one collector: DUE_DTYPE, their rows, and packets that count."""
    depth = blocks.shape[1]
    due = _new_due(len(rows))
    at = np.empty(len(rows), np.int32)
    sizes = np.empty(len(rows), np.int64)
    n = 0
    for r in range(len(rows)):
        row = rows[r]
        if not row.used or row.collector != collector or row.next_tier == 255:
            continue
        if not row.present & np.uint64(1):
            continue
        start_ns = blocks[r, 0].time_ns
        deadline_ns = start_ns + max_wait_ns
        here = 0  # leading packets that are here
        while here < depth and row.present & (np.uint64(1) << np.uint64(here)):
            here += 1
        counting = 0  # of those, within the deadline
        while counting < here and blocks[r, counting].time_ns <= deadline_ns:
            counting += 1
        over = False
        over_ns = deadline_ns
        reason = reason_timeout
        if counting == depth:
            pass
        elif row.end_packets >= 0 and here >= min(row.end_packets, depth):
            over = True
            if counting == here and row.end_ns <= deadline_ns:
                over_ns = row.end_ns
                if row.end_reason != 1 and row.end_reason != 2:
                    reason = reason_ended
        elif counting < here or watermark_ns > deadline_ns:
            over = True
        if over or counting >= depths[row.next_tier]:
            due[n].flow_id = row.flow_id
            due[n].over_ns = over_ns
            due[n].next_tier = row.next_tier
            due[n].over = over
            due[n].reason = reason
            at[n] = r
            sizes[n] = counting
            n += 1
    return due[:n].copy(), at[:n].copy(), sizes[:n].copy()


@compiled
def hand_out(
    blocks: Records, at: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], out: Records
) -> None:
    """Copy the packets of the rows ``at`` into ``out``, one after the other."""
    for i in range(len(at)):
        for k in range(offsets[i + 1] - offsets[i]):
            out[offsets[i] + k] = blocks[at[i], k]


@compiled
def let_go(
    rows: Records,
    index: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    due: Records,
    at: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int64],
    depths: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
) -> int:
    """Free the rows of flows that will be final for certain; take the mark off the others."""
    deepest = depths[len(depths) - 1]
    for i in range(len(at)):
        if due[i].over or sizes[i] >= deepest:
            counts[4] += 1
            free_count = _release(rows, index, free, free_count, at[i])
        else:
            rows[at[i]].next_tier = 255
    return free_count


@compiled
def count_open(rows: Records) -> int:
    """Count the flows that are owed an answer."""
    n = 0
    for r in range(len(rows)):
        if rows[r].used and rows[r].admitted:
            n += 1
    return n


@compiled
def drop(
    rows: Records,
    index: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    collector: int,
    before_ns: int,
    counts: npt.NDArray[np.int64],
) -> int:
    """Free a collector's rows that no tier awaits and that began before ``before_ns``.

    These are packets whose mark never came, and flows handed out whose answer never came back:
    their collector, if it still wants an answer, sends them again from the first packet.
    """
    for r in range(len(rows)):
        row = rows[r]
        if row.used and row.collector == collector and row.touched_ns < before_ns:
            if row.admitted:
                counts[6] += 1
            else:
                counts[5] += 1
            free_count = _release(rows, index, free, free_count, r)
    return free_count
