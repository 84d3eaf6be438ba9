"""Compiled parts of :mod:`flows.join`: which rows a call looks at, which are due, their packets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled, kernel
from flows.join_rows import alarm_ns
from flows.packet import Records

__all__ = ["find_due", "hand_out", "wake"]

_DUE = np.dtype(
    [("flow_id", "<u8"), ("over_ns", "<i8"), ("next_tier", "u1"), ("over", "u1"), ("reason", "u1")]
)  # flows.join.DUE_DTYPE, here so that compiled code sees a constant


@kernel
def wake(
    rows: Records,
    wheel: npt.NDArray[np.int32],
    reached_ns: int,
    watermark_ns: int,
    width_ns: int,
    max_wait_ns: int,
    looked: npt.NDArray[np.int32],
    n: int,
) -> int:
    """List a collector's rows whose alarm lies before its watermark behind the ``n`` in ``looked``.

    Args:
        rows: All rows.
        wheel: The collector's wheel.
        reached_ns: Its furthest watermark before this call. What lay before it has been seen, so
            nothing lies in a bucket before its own.
        watermark_ns: Its watermark now. Where that has gone back, rows may still wait for it in
            the bucket of ``reached_ns``, see
            :func:`flows.join_kernels.let_go`.
        width_ns: Capture time that a bucket stands for.
        max_wait_ns: How long a flow waits for packets.
        looked: The rows that this call looks at.
        n: How many these are so far.

    Returns:
        How many these are now.
    """
    buckets = len(wheel)
    first = reached_ns // width_ns
    last = max(reached_ns, watermark_ns) // width_ns
    for tick in range(first, min(last, first + buckets - 1) + 1):
        row = wheel[tick % buckets]
        while row >= 0:
            # Others are of a later lap, or of the later part of the bucket.
            if alarm_ns(rows[row], max_wait_ns) < watermark_ns and not rows[row].listed:
                rows[row].listed = 1
                looked[n] = row
                n += 1
            row = rows[row].wheel_next
    return n


@compiled
def _new_due(n: int) -> Records:
    return np.empty(n, _DUE)


@compiled
def find_due(
    rows: Records,
    depth: int,
    looked: npt.NDArray[np.int32],
    watermark_ns: int,
    max_wait_ns: int,
    depths: npt.NDArray[np.uint8],
    reason_ended: int,
    reason_timeout: int,
) -> tuple[Records, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return which of the rows ``looked`` are due: DUE_DTYPE, rows, and packets that count.

    These are of one collector, and no other row of it can be due: nothing has come for it, and
    its deadline is not past.
    """
    due = _new_due(len(looked))
    at = np.empty(len(looked), np.int32)
    sizes = np.empty(len(looked), np.int64)
    n = 0
    for r in looked:
        row = rows[r]
        if row.next_tier == 255 or not row.present & np.uint64(1):
            continue
        deadline_ns = row.start_ns + max_wait_ns
        here = 0  # leading packets that are here
        while here < depth and row.present & (np.uint64(1) << np.uint64(here)):
            here += 1
        counting: int = min(here, row.first_late)  # of those, within the deadline
        over = False
        over_ns = deadline_ns
        reason = reason_timeout
        if counting == depth:
            pass
        elif row.end_packets >= 0 and here >= min(row.end_packets, depth):
            over = True
            if counting == here and row.end_ns <= deadline_ns:
                over_ns = row.end_ns
                if row.end_reason != 1 and row.end_reason != 2:  # IDLE_TIMEOUT, ACTIVE_TIMEOUT
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


@kernel
def hand_out(
    blocks: Records,
    hosts: Records,
    at: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    blank: Records,
    out: Records,
) -> None:
    """Copy the packets of the rows ``at`` into ``out``, one after the other.

    ``out`` is as :func:`flows.kept.split` gives it; ``blank`` is one host that holds zeros.
    """
    for i in range(len(at)):
        for k in range(offsets[i + 1] - offsets[i]):
            to = out[offsets[i] + k]
            to.rest = blocks[at[i], k]
            to.host = blank[0] if k else hosts[at[i]]
