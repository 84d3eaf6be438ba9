"""Compiled parts of :mod:`flows.table`: take packets in, tell which flows begin and end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.ids import mix64
from flows.packet import Record, Records
from flows.table_entries import (
    ACTIVE,
    AFTER_END,
    BY_PROTOCOL,
    CLOCK,
    EARLIEST,
    FREE,
    HEADS,
    ICMP,
    LINGER,
    LISTS,
    NEXT_NUMBER,
    OPEN,
    PACKETS,
    REGRESSIONS,
    append,
    forget,
    hash_key,
    renew,
    rest_of_key,
    unlink,
)

__all__ = ["expire", "finish", "update"]

_IDLE_TIMEOUT, _ACTIVE_TIMEOUT, _END_OF_FLOW, _FORCED_END = 1, 2, 3, 4


@inlined
def _tell_end(entry: Record, time_ns: int, reason: int, ends: Records, n: int) -> int:
    ends[n].flow_number = entry.flow_number
    ends[n].time_ns = time_ns
    ends[n].packets = entry.packets
    ends[n].reason = reason
    return n + 1


@kernel
def expire(
    entries: Records,
    used: npt.NDArray[np.uint8],
    free: npt.NDArray[np.int32],
    table: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    seed: np.uint64,
    clock_ns: int,
    ends: Records,
    n: int,
) -> int:
    """End every flow whose timeout has passed at ``clock_ns``; return the end of ``ends``."""
    earliest_ns = np.int64(1) << 62
    for which in range(LISTS):
        while True:
            e = state[HEADS + which]
            if e < 0:
                break
            since = entries[e].start_ns if which == ACTIVE else entries[e].last_ns
            if clock_ns - since < timeouts_ns[which]:
                earliest_ns = min(earliest_ns, since + timeouts_ns[which])
                break
            if which != LINGER:
                reason = _ACTIVE_TIMEOUT if which == ACTIVE else _IDLE_TIMEOUT
                n = _tell_end(entries[e], since + timeouts_ns[which], reason, ends, n)
                unlink(entries, state, ACTIVE, e)
                state[OPEN] -= 1
            forget(entries, used, free, table, state, e, seed)
    state[EARLIEST] = earliest_ns
    return n


@kernel
def finish(entries: Records, used: npt.NDArray[np.uint8], clock_ns: int, ends: Records) -> int:
    """Tell the end of every open flow, in no particular order; return how many."""
    n = 0
    for e in range(len(used)):
        if used[e] and entries[e].list != LINGER:
            n = _tell_end(entries[e], clock_ns, _FORCED_END, ends, n)
    return n


@kernel
def update(
    packets: Records,
    endpoints: Records,
    begin: int,
    first_packets: int,
    entries: Records,
    used: npt.NDArray[np.uint8],
    free: npt.NDArray[np.int32],
    table: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    seed: np.uint64,
    id_seed: np.uint64,
    flow_number: npt.NDArray[np.uint64],
    kept: npt.NDArray[np.int64],
    flows: Records,
    ends: Records,
    lengths: npt.NDArray[np.int64],
) -> int:
    """Take the packets from ``begin`` on; return where it stopped for want of entries.

    ``id_seed`` is the secret of the flow ids, as in :func:`flows.ids.flow_ids`.
    ``lengths`` holds how much of ``kept``, ``flows`` and ``ends`` is filled, and is moved on.
    """
    mask = np.uint64(len(table) - 1)
    n_kept, n_flows, n_ends = lengths[0], lengths[1], lengths[2]
    stop = len(packets)
    for i in range(begin, len(packets)):
        if state[FREE] == 0:
            stop = i
            break
        packet = packets[i]
        end = endpoints[i]
        now_ns = packet.time_ns
        if now_ns < state[CLOCK]:
            now_ns = state[CLOCK]
            packet.time_ns = now_ns
            state[REGRESSIONS] += 1
        elif now_ns > state[CLOCK]:
            state[CLOCK] = now_ns
            if now_ns >= state[EARLIEST]:
                n_ends = expire(
                    entries, used, free, table, state, timeouts_ns, seed, now_ns, ends, n_ends
                )
        src_is_low = (end.src_hi, end.src_lo, end.src_port) <= (
            end.dst_hi,
            end.dst_lo,
            end.dst_port,
        )
        if src_is_low:
            low_hi, low_lo, low_port = end.src_hi, end.src_lo, end.src_port
            high_hi, high_lo, high_port = end.dst_hi, end.dst_lo, end.dst_port
        else:
            low_hi, low_lo, low_port = end.dst_hi, end.dst_lo, end.dst_port
            high_hi, high_lo, high_port = end.src_hi, end.src_lo, end.src_port
        protocol, version = end.protocol, end.ip_version
        rest = rest_of_key(low_port, high_port, protocol, version, seed)
        at = hash_key(low_hi, low_lo, high_hi, high_lo, rest) & mask
        e = -1
        while True:
            candidate = table[at]
            if candidate < 0:
                break
            entry = entries[candidate]
            if (
                entry.low_lo == low_lo
                and entry.high_lo == high_lo
                and entry.low_port == low_port
                and entry.high_port == high_port
                and entry.low_hi == low_hi
                and entry.high_hi == high_hi
                and entry.protocol == protocol
                and entry.ip_version == version
            ):
                e = candidate
                break
            at = (at + np.uint64(1)) & mask
        flags = packet.tcp_flags
        if e >= 0 and protocol == 6 and (flags & 0x12) == 0x02:
            # A SYN opens a new connection unless it repeats the one that is there.
            entry = entries[e]
            by_originator = src_is_low == (entry.originator_is_low == 1)
            repeated = entry.syn_seen and by_originator and entry.syn_seq == end.tcp_seq
            over = entry.list == LINGER
            if not repeated and (over or (entry.syn_seen and by_originator)):
                if not over:
                    n_ends = _tell_end(entry, now_ns, _END_OF_FLOW, ends, n_ends)
                    unlink(entries, state, ACTIVE, e)
                    state[OPEN] -= 1
                forget(entries, used, free, table, state, e, seed)
                e = -1
                at = hash_key(low_hi, low_lo, high_hi, high_lo, rest) & mask
                while table[at] >= 0:
                    at = (at + np.uint64(1)) & mask
        kind = 0 if protocol == 6 else 1 if protocol == 17 else 2 if protocol == 1 else 3
        state[PACKETS] += 1
        state[BY_PROTOCOL + 4 + kind] += 1
        if e < 0:
            state[FREE] -= 1
            e = np.int64(free[state[FREE]])
            used[e] = 1
            table[at] = e
            answers = protocol == 6 and (flags & 0x12) == 0x12
            entry = entries[e]
            entry.low_hi, entry.low_lo, entry.low_port = low_hi, low_lo, low_port
            entry.high_hi, entry.high_lo, entry.high_port = high_hi, high_lo, high_port
            entry.protocol, entry.ip_version = protocol, version
            entry.flow_number = np.uint64(state[NEXT_NUMBER])
            entry.start_ns = now_ns
            entry.packets = 0
            entry.syn_seq = 0
            entry.syn_seen = 0
            entry.fins = 0
            entry.originator_is_low = 1 if src_is_low != answers else 0
            state[NEXT_NUMBER] += 1
            state[OPEN] += 1
            state[BY_PROTOCOL + kind] += 1
            append(entries, state, timeouts_ns, min(kind, ICMP), e, now_ns)
            append(entries, state, timeouts_ns, ACTIVE, e, now_ns)
            flow = flows[n_flows]
            flow.flow_number = entry.flow_number
            flow.flow_id = mix64(entry.flow_number + id_seed)
            flow.reserved = 0
            flow.start_time_ns = now_ns
            flow.protocol, flow.ip_version = protocol, version
            if entry.originator_is_low:
                flow.src_hi, flow.src_lo, flow.src_port = low_hi, low_lo, low_port
                flow.dst_hi, flow.dst_lo, flow.dst_port = high_hi, high_lo, high_port
            else:
                flow.src_hi, flow.src_lo, flow.src_port = high_hi, high_lo, high_port
                flow.dst_hi, flow.dst_lo, flow.dst_port = low_hi, low_lo, low_port
            n_flows += 1
        else:
            renew(entries, state, entries[e].list, e)
        entry = entries[e]
        entry.last_ns = now_ns
        by_originator = src_is_low == (entry.originator_is_low == 1)
        packet.from_originator = 1 if by_originator else 0
        if protocol == 6 or protocol == 17:
            packet.originator_port = end.src_port if by_originator else end.dst_port
            packet.responder_port = end.dst_port if by_originator else end.src_port
        packet.flow_id = mix64(entry.flow_number + id_seed)
        packet.packet_index = min(entry.packets, np.uint32(255))
        flow_number[i] = entry.flow_number
        if entry.list == LINGER:
            packet.packet_index = 255
            state[AFTER_END] += 1
            continue
        if entry.packets < first_packets:
            kept[n_kept] = i
            n_kept += 1
        entry.packets += np.uint32(1)
        if protocol == 6:
            if (flags & 0x12) == 0x02 and by_originator and entry.syn_seen == 0:
                entry.syn_seen = 1
                entry.syn_seq = end.tcp_seq
            if flags & 0x01:
                entry.fins |= 1 if by_originator else 2
            if (flags & 0x04) or entry.fins == 3:
                n_ends = _tell_end(entry, now_ns, _END_OF_FLOW, ends, n_ends)
                unlink(entries, state, entry.list, e)
                unlink(entries, state, ACTIVE, e)
                append(entries, state, timeouts_ns, LINGER, e, now_ns)
                state[OPEN] -= 1
    lengths[0], lengths[1], lengths[2] = n_kept, n_flows, n_ends
    return stop
