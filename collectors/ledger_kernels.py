"""Compiled parts of :mod:`collectors.ledger`: one entry per flow, in a ring by flow number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import kernel
from flows.ids import unmix64
from flows.packet import Record, Records

__all__ = [
    "ASKED",
    "ENTRY_DTYPE",
    "FINAL",
    "NEW",
    "UNCERTAIN",
    "end_flows",
    "enter",
    "form",
    "keep",
    "reset",
    "settle",
]

NEW = 1  # its first packet has not been sent, or everything is to be sent again
ASKED = 2  # its first packet is in flight
UNCERTAIN = 3  # it has a provisional verdict: the service waits for its packets
FINAL = 4

ENTRY_DTYPE = np.dtype(
    [
        ("flow_id", "<u8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("first_seen_ns", "<i8"),  # wall clock at which the first packet came
        ("last_seen_ns", "<i8"),  # ... the latest packet kept, or the end
        ("asked_seen_ns", "<i8"),  # ... the latest packet sent
        ("sent_ns", "<i8"),  # wall clock of the last sending
        ("infer_ns", "<i8"),  # model time so far
        ("block", "<i4"),  # where its packets are kept; -1: nowhere
        ("state", "u1"),
        ("kept", "u1"),
        ("sent", "u1"),
        ("end_packets", "u1"),
        ("end_reason", "u1"),  # 0: it has not ended
        ("end_sent", "u1"),
        ("queued", "u1"),  # it stands in the queue of flows with something to send
        ("again", "u1"),  # send all at once: it is sent again, or its deadline has passed
        ("packets_used", "u1"),  # of the latest provisional verdict; 0: there is none
        ("tier", "u1"),
        ("label", "<u2"),
        ("confidence", "<f4"),
        ("novelty", "<f4"),
        ("wait_ns", "<i8"),
    ]
)
"""What is known of a flow; from ``packets_used`` on, its latest provisional verdict."""


@kernel
def enter(entries: Records, known: Records, end: np.uint64, blank: Records, flows: Records) -> None:
    """Enter new flows, none of them below the number ``end``; ``known`` keeps what is known.

    Numbers that are left out count as settled. ``blank`` is one entry that holds zeros.
    """
    mask = np.uint64(len(entries) - 1)
    for i in range(len(flows)):
        while end < flows[i].flow_number:
            entries[np.int64(end & mask)].state = FINAL
            end += np.uint64(1)
        end += np.uint64(1)
        e = np.int64(flows[i].flow_number & mask)
        known[e] = flows[i]
        entries[e] = blank[0]
        entry = entries[e]
        entry.flow_id = flows[i].flow_id
        entry.block = -1
        entry.state = NEW


@kernel
def keep(
    entries: Records,
    blocks: Records,
    hosts: Records,
    free: npt.NDArray[np.int32],
    free_count: int,
    queue: npt.NDArray[np.uint64],
    queued: int,
    base: np.uint64,
    packets: Records,
    parts: Records,
    kept: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.uint64],
    seen_ns: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Keep the packets ``kept`` of unsettled flows; return free blocks and queue length.

    ``parts`` are the packets as :func:`flows.kept.split` gives them.
    """
    mask = np.uint64(len(entries) - 1)
    for j in range(len(kept)):
        i = kept[j]
        number = numbers[i]
        if number < base:
            continue
        e = np.int64(number & mask)
        entry = entries[e]
        if entry.state == 4 or packets[i].packet_index != entry.kept:
            continue
        if entry.block < 0:
            free_count -= 1
            entry.block = free[free_count]
            entry.start_ns = packets[i].time_ns
            entry.first_seen_ns = seen_ns[i]
            hosts[entry.block] = parts[i].host
        blocks[entry.block, entry.kept] = parts[i].rest
        entry.kept += 1
        entry.last_seen_ns = seen_ns[i]
        if entry.queued == 0 and entry.state != 2:
            entry.queued = 1
            queue[queued] = number
            queued += 1
    return free_count, queued


@kernel
def end_flows(
    entries: Records,
    queue: npt.NDArray[np.uint64],
    queued: int,
    base: np.uint64,
    ends: Records,
    seen_ns: int,
) -> int:
    """Note the ends of flows; return the queue's length."""
    mask = np.uint64(len(entries) - 1)
    for i in range(len(ends)):
        number = ends[i].flow_number
        if number < base:
            continue
        entry = entries[np.int64(number & mask)]
        if entry.state == 4:
            continue
        entry.end_ns = ends[i].time_ns
        entry.end_packets = min(ends[i].packets, 255)
        entry.end_reason = ends[i].reason
        entry.last_seen_ns = seen_ns
        if entry.queued == 0 and entry.state != 2:
            entry.queued = 1
            queue[queued] = number
            queued += 1
    return queued


@kernel
def form(
    entries: Records,
    blocks: Records,
    hosts: Records,
    queue: npt.NDArray[np.uint64],
    queued: int,
    base: np.uint64,
    clock_ns: int,
    max_wait_ns: int,
    now_ns: int,
    blank: Records,
    out: Records,
    parts: Records,
    flows: npt.NDArray[np.uint64],
) -> tuple[int, int, int, int, int]:
    """Write what is to be sent into ``out``; ``blank`` is one packet that holds zeros.

    ``parts`` is ``out`` as :func:`flows.kept.split` gives it.

    Returns rows and flows written, the queue's new length, and the earliest start (ns) of the
    flows written and of those still queued.

    A flow whose deadline is still ahead sends its first packet alone: most need no more.
    """
    mask = np.uint64(len(entries) - 1)
    rows = 0
    written = 0
    taken = 0
    written_start_ns = np.int64(1) << 62
    queued_start_ns = np.int64(1) << 62
    depth = blocks.shape[1]
    while taken < queued and rows + depth + 1 <= len(out):
        number = queue[taken]
        taken += 1
        if number < base:
            continue
        entry = entries[np.int64(number & mask)]
        entry.queued = 0
        if entry.state == 4 or entry.state == 2:
            continue
        if entry.state == 1 and entry.again == 0 and entry.start_ns + max_wait_ns > clock_ns:
            parts[rows].rest = blocks[entry.block, 0]
            parts[rows].host = hosts[entry.block]
            rows += 1
            entry.sent = 1
            entry.state = 2
            entry.asked_seen_ns = entry.first_seen_ns
        else:
            for k in range(entry.sent, entry.kept):
                parts[rows].rest = blocks[entry.block, k]
                parts[rows].host = blank[0].host if k else hosts[entry.block]
                rows += 1
            entry.sent = entry.kept
            if entry.end_reason and entry.end_sent == 0:
                out[rows] = blank[0]
                out[rows].flow_id = entry.flow_id
                out[rows].time_ns = entry.end_ns
                out[rows].packet_index = entry.end_packets
                out[rows].flow_end_reason = entry.end_reason
                entry.end_sent = 1
                rows += 1
            if entry.state == 1:
                entry.state = 2
            entry.again = 0
            entry.asked_seen_ns = entry.last_seen_ns
        entry.sent_ns = now_ns
        written_start_ns = min(written_start_ns, entry.start_ns)
        flows[written] = number
        written += 1
    left = queued - taken
    for i in range(left):
        number = queue[taken + i]
        queue[i] = number
        if number >= base:
            queued_start_ns = min(queued_start_ns, entries[np.int64(number & mask)].start_ns)
    return rows, written, left, written_start_ns, queued_start_ns


@kernel
def settle(
    entries: Records,
    free: npt.NDArray[np.int32],
    free_count: int,
    queue: npt.NDArray[np.uint64],
    queued: int,
    base: np.uint64,
    end: np.uint64,
    seed: np.uint64,
    verdicts: Records,
    accepted: npt.NDArray[np.int64],
) -> tuple[int, int, int]:
    """Take verdicts in; return free blocks, queue length and how many became final.

    ``accepted[:n]`` are the rows of ``verdicts`` that gave a flow its final verdict.
    """
    mask = np.uint64(len(entries) - 1)
    finals = 0
    for i in range(len(verdicts)):
        number = np.uint64(unmix64(verdicts[i].flow_id) - seed)
        if number < base or number >= end:
            continue
        entry = entries[np.int64(number & mask)]
        if entry.state == 4:
            continue
        entry.infer_ns += verdicts[i].infer_ns
        if verdicts[i].final:
            entry.state = 4
            if entry.block >= 0:
                free[free_count] = entry.block
                free_count += 1
                entry.block = -1
            accepted[finals] = i
            finals += 1
            continue
        entry.packets_used, entry.tier = verdicts[i].packets_used, verdicts[i].tier
        entry.label, entry.wait_ns = verdicts[i].label, verdicts[i].wait_ns
        entry.confidence, entry.novelty = verdicts[i].confidence, verdicts[i].novelty
        if entry.state == 2:
            entry.state = 3
            more = entry.sent < entry.kept or (entry.end_reason and entry.end_sent == 0)
            if more and entry.queued == 0:
                entry.queued = 1
                queue[queued] = number
                queued += 1
    return free_count, queued, finals


@kernel
def _start_over(entry: Record) -> None:
    entry.state = 1
    entry.sent = 0
    entry.end_sent = 0
    entry.infer_ns = 0
    entry.again = 1


@kernel
def reset(
    entries: Records,
    queue: npt.NDArray[np.uint64],
    queued: int,
    base: np.uint64,
    numbers: npt.NDArray[np.uint64],
) -> tuple[int, int, int]:
    """Send these flows again from their first packet.

    Returns the queue's length, how many flows that are, and how many of their packets had been
    sent.
    """
    mask = np.uint64(len(entries) - 1)
    count = 0
    packets = 0
    for number in numbers:
        if number < base:
            continue
        entry = entries[np.int64(number & mask)]
        if entry.state != 2 and entry.state != 3:
            continue
        count += 1
        packets += entry.sent
        _start_over(entry)
        if entry.queued == 0:
            entry.queued = 1
            queue[queued] = number
            queued += 1
    return queued, count, packets
