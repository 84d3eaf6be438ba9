"""Compiled parts of :mod:`flows.join`: take packets and marks in, let go of flows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel, prefetch
from flows.join_rows import (
    alarm_ns,
    enter_wheel,
    find,
    hash_of,
    leave_wheel,
    release,
    row_at,
)
from flows.packet import Record, Records

__all__ = [
    "ADMITTED",
    "APPLIED",
    "COUNTS",
    "DUPLICATE",
    "FINAL",
    "LOST",
    "ORPHANS",
    "PACKETS_IN",
    "count_open",
    "drop_all",
    "let_go",
    "take_in",
]

NO_TIER = 255  # no tier awaits this flow: it has no mark yet, or it has been handed out

(PACKETS_IN, APPLIED, DUPLICATE, ADMITTED, FINAL, ORPHANS, LOST) = range(7)
COUNTS = 7

_AHEAD = 12  # packets: what a place leads to is fetched so early, the place twice as early


@inlined
def _flow_at(packets: Records, marks: Records, i: int) -> np.uint64:
    return packets[i].flow_id if i < len(packets) else marks[i - len(packets)].flow_id


@inlined
def _fetch_ahead(
    rows: Records,
    index: npt.NDArray[np.int64],
    packets: Records,
    marks: Records,
    i: int,
) -> None:
    """Fetch what the packets and marks behind the ``i``-th need: its place, then its row."""
    mask = len(index) - 1
    n = len(packets) + len(marks)
    if i + 2 * _AHEAD < n:
        prefetch(index, hash_of(_flow_at(packets, marks, i + 2 * _AHEAD)) & mask)
    if i + _AHEAD < n:
        place = hash_of(_flow_at(packets, marks, i + _AHEAD)) & mask
        if index[place] >= 0:
            prefetch(rows, row_at(index, place))


@inlined
def _begin(row: Record, flow_id: np.uint64, collector: int) -> None:
    row.flow_id = flow_id
    row.collector = collector
    row.present = 0
    row.touched_ns = np.int64(1) << 62
    row.bucket = -1
    row.end_packets = -1
    row.first_late = 255
    row.next_tier = 255
    row.used = 1
    row.admitted = 0
    row.listed = 0


@inlined
def _note_times(row: Record, block: Records, k: int, time_ns: int, max_wait_ns: int) -> None:
    """Note when packet ``k``, which has just been put into ``block``, came."""
    if k:
        if row.present & np.uint64(1) and time_ns > row.start_ns + max_wait_ns:
            row.first_late = min(row.first_late, k)
        return
    row.start_ns = time_ns
    for j in range(1, len(block)):
        here = row.present & (np.uint64(1) << np.uint64(j))
        if here and block[j].time_ns > time_ns + max_wait_ns:
            row.first_late = j
            break


@kernel
def take_in(
    rows: Records,
    blocks: Records,
    hosts: Records,
    index: npt.NDArray[np.int64],
    wheel: npt.NDArray[np.int32],
    free: npt.NDArray[np.int32],
    free_count: int,
    collector: int,
    packets: Records,
    parts: Records,
    marks: Records,
    settled: npt.NDArray[np.uint64],
    max_wait_ns: int,
    looked: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Absorb packets, end marks, uncertain marks and settled ids.

    ``parts`` are the packets as :func:`flows.kept.split` gives them.

    Return the free rows left, and how many rows something came for: these are listed in
    ``looked``, each once, which has a place for every row.
    """
    depth = blocks.shape[1]
    n = 0
    for i in range(len(settled)):
        place = find(rows, index, settled[i], collector)
        if place >= 0:
            r = row_at(index, place)
            counts[4] += rows[r].admitted
            free_count = release(rows, index, wheel, free, free_count, r)
    for i in range(len(packets) + len(marks)):
        _fetch_ahead(rows, index, packets, marks, i)
        flow_id = _flow_at(packets, marks, i)
        place = find(rows, index, flow_id, collector)
        if place < 0:
            free_count -= 1
            r = np.int64(free[free_count])
            index[-1 - place] = (hash_of(flow_id) << 32) | r
            _begin(rows[r], flow_id, collector)
        else:
            r = row_at(index, place)
        row = rows[r]
        if not row.listed:
            row.listed = 1
            looked[n] = r
            n += 1
        if i >= len(packets):
            row.next_tier = marks[i - len(packets)].next_tier
            if not row.admitted:
                row.admitted = 1
                counts[3] += 1
            continue
        packet = packets[i]
        row.touched_ns = min(row.touched_ns, packet.time_ns)
        if packet.flow_end_reason:
            row.end_packets = packet.packet_index
            row.end_ns = packet.time_ns
            row.end_reason = packet.flow_end_reason
            continue
        counts[0] += 1
        k = np.int64(packet.packet_index)
        bit = np.uint64(1) << np.uint64(k)
        if k >= depth:
            counts[1] += 1  # beyond what any tier wants: nothing is left to do with it
        elif row.present & bit:
            counts[2] += 1
        else:
            blocks[r, k] = parts[i].rest
            if k == 0:
                hosts[r] = parts[i].host
            _note_times(row, blocks[r], k, packet.time_ns, max_wait_ns)
            row.present |= bit
            counts[1] += 1
    return free_count, n


@kernel
def let_go(
    rows: Records,
    index: npt.NDArray[np.int64],
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
            free_count = release(rows, index, wheel, free, free_count, at[i])
        else:
            rows[at[i]].next_tier = 255
    for i in range(len(looked)):
        r = looked[i]
        row = rows[r]
        if not row.used:
            continue
        row.listed = 0
        if row.touched_ns < watermark_ns - 3 * max_wait_ns:
            if row.admitted:
                counts[6] += 1
            else:
                counts[5] += 1
            free_count = release(rows, index, wheel, free, free_count, r)
            continue
        bucket = max(alarm_ns(row, max_wait_ns), reached_ns) // width_ns % len(wheel)
        if row.bucket != bucket:
            leave_wheel(rows, wheel, r)
            enter_wheel(rows, wheel, r, bucket)
    return free_count


@kernel
def drop_all(
    rows: Records,
    index: npt.NDArray[np.int64],
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
            free_count = release(rows, index, wheel, free, free_count, row)
    return free_count


@kernel
def count_open(rows: Records) -> int:
    """Count the flows that are owed an answer."""
    n = 0
    for r in range(len(rows)):
        if rows[r].used and rows[r].admitted:
            n += 1
    return n
