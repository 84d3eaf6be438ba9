"""Compiled parts of :mod:`flows.table`: take packets in, tell which flows begin and end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.hosts import add_flow, add_packet, find_history, host_of, tell
from flows.ids import mix64
from flows.packet import Record, Records
from flows.table_entries import forget, slot_of
from flows.table_layout import (
    ACTIVE,
    AFTER_END,
    BY_PROTOCOL,
    CLOCK,
    EARLIEST,
    FINS,
    FREED,
    FRESH,
    HOST_IS_HIGH,
    HOST_IS_LOW,
    ICMP,
    LINGER,
    LINGER_HEAD,
    MOST_ENTRIES,
    NEXT_NUMBER,
    NUMBERS_UNTIL,
    OPEN,
    ORIGINATOR_FIN,
    ORIGINATOR_IS_LOW,
    PACKETS,
    REFUSED_FLOWS,
    REFUSED_PACKETS,
    REGRESSIONS,
    RESPONDER_FIN,
    SYN_SEEN,
)
from flows.table_lookup import KEY_HASH, fetch, find, free_slot, ordered
from flows.table_timers import begin_linger, insert, next_due, renew_linger, turn, unlink

__all__ = ["NO_FLOW", "expire", "finish", "update"]

NO_FLOW = 0xFFFF_FFFF_FFFF_FFFF
"""The number of what is no flow."""

_IDLE_TIMEOUT, _ACTIVE_TIMEOUT, _END_OF_FLOW, _FORCED_END = 1, 2, 3, 4

_NEAR = 4_096  # so many entries are in the cache anyway


@inlined
def _tell_end(
    entry: Record, time_ns: int, reason: int, id_seed: np.uint64, ends: Records, n: int
) -> int:
    ends[n].flow_number = entry.flow_number
    ends[n].flow_id = mix64(entry.flow_number + id_seed)
    ends[n].time_ns = time_ns
    ends[n].packets = entry.packets
    ends[n].reason = reason
    return n + 1


@kernel
def expire(
    entries: Records,
    links: Records,
    slots: npt.NDArray[np.uint64],
    wheel: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    seed: np.uint64,
    id_seed: np.uint64,
    clock_ns: int,
    ends: Records,
    n: int,
) -> int:
    """End every flow whose timeout has passed at ``clock_ns``; return the end of ``ends``.

    They are told in the order in which their timeouts passed, of two at once the older flow first.
    """
    turn(entries, links, wheel, state, timeouts_ns, clock_ns)
    while True:
        e, due_ns = next_due(links, wheel, state)
        if e < 0 or due_ns > clock_ns:
            break
        idle_ns = entries[e].last_ns + timeouts_ns[entries[e].list]
        active_ns = links[e].start_ns + timeouts_ns[ACTIVE]
        if idle_ns > clock_ns and active_ns > clock_ns:  # it had packets since
            unlink(entries, links, wheel, state, e)
            insert(entries, links, wheel, state, e, min(idle_ns, active_ns))
            continue
        if idle_ns <= clock_ns:
            n = _tell_end(entries[e], idle_ns, _IDLE_TIMEOUT, id_seed, ends, n)
        else:
            n = _tell_end(entries[e], active_ns, _ACTIVE_TIMEOUT, id_seed, ends, n)
        state[OPEN] -= 1
        forget(entries, links, slots, wheel, state, e, seed)
    while state[LINGER_HEAD] >= 0:
        e = state[LINGER_HEAD]
        over_ns = entries[e].last_ns + timeouts_ns[LINGER]
        if over_ns > clock_ns:
            due_ns = min(due_ns, over_ns)
            break
        forget(entries, links, slots, wheel, state, e, seed)
    state[EARLIEST] = due_ns
    return n


@kernel
def finish(
    entries: Records,
    links: Records,
    wheel: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    id_seed: np.uint64,
    ends: Records,
) -> int:
    """Tell the end of every open flow, in no order; return how many."""
    n = 0
    for first in wheel:
        e = np.int64(first)
        while e >= 0:
            n = _tell_end(entries[e], state[CLOCK], _FORCED_END, id_seed, ends, n)
            e = np.int64(links[e].after)
    return n


@inlined
def _full(entries: Records, state: npt.NDArray[np.int64]) -> bool:
    """Tell whether there is no entry for another flow."""
    return state[FREED] < 0 and state[FRESH] == len(entries)


@inlined
def _refuse(
    packet: Record,
    key_hash: np.uint64,
    refused: npt.NDArray[np.uint64],
    state: npt.NDArray[np.int64],
) -> None:
    """Count a packet of a flow that finds no room, and the flow unless it was counted lately."""
    packet.packet_index = 255
    state[REFUSED_PACKETS] += 1
    at = key_hash & np.uint64(len(refused) - 1)
    if refused[at] != key_hash:
        refused[at] = key_hash
        state[REFUSED_FLOWS] += 1


@kernel
def update(
    packets: Records,
    endpoints: Records,
    hashes: npt.NDArray[np.uint64],
    begin: int,
    first_packets: int,
    entries: Records,
    links: Records,
    slots: npt.NDArray[np.uint64],
    wheel: npt.NDArray[np.int32],
    histories: Records,
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    seed: np.uint64,
    id_seed: np.uint64,
    flow_number: npt.NDArray[np.uint64],
    kept: npt.NDArray[np.int64],
    flows: Records,
    ends: Records,
    lengths: npt.NDArray[np.int64],
    refused: npt.NDArray[np.uint64],
) -> int:
    """Take the packets from ``begin`` on; return where it stopped for want of entries.

    ``hashes`` is what :func:`hash_packets` wrote; ``refused`` holds those of flows that found no
    room lately, as many as a power of two.
    ``id_seed`` is the secret of the flow ids, as in :func:`flows.ids.flow_ids`.
    ``lengths`` holds how much of ``kept``, ``flows`` and ``ends`` is filled, and is moved on.
    """
    n_kept, n_flows, n_ends = lengths[0], lengths[1], lengths[2]
    clock_ns = state[CLOCK]
    stop, n_refused = len(packets), 0
    for i in range(begin, len(packets)):
        if len(entries) < state[MOST_ENTRIES] and _full(entries, state):
            stop = i
            break
        if state[FRESH] > _NEAR:
            fetch(i, hashes, slots, entries, histories)
        packet = packets[i]
        end = endpoints[i]
        now_ns = packet.time_ns
        if now_ns < clock_ns:
            now_ns = clock_ns
            packet.time_ns = now_ns
            state[REGRESSIONS] += 1
        clock_ns = now_ns
        if now_ns >= state[EARLIEST]:
            n_ends = expire(
                entries, links, slots, wheel, state, timeouts_ns, seed, id_seed, now_ns, ends,
                n_ends,
            )  # fmt: skip
        protocol = end.protocol
        key_hash = hashes[i]
        src_is_low = key_hash >> np.uint64(63) == 1
        low_hi, low_lo, low_port, high_hi, high_lo, high_port = ordered(end, src_is_low)
        e, at = find(
            key_hash, end, low_hi, low_lo, low_port, high_hi, high_lo, high_port, entries, slots
        )
        flags = packet.tcp_flags
        if e >= 0 and protocol == 6 and (flags & 0x12) == 0x02:
            # A SYN opens a new connection unless it repeats the one that is there.
            entry = entries[e]
            by_originator = src_is_low == ((entry.marks & ORIGINATOR_IS_LOW) != 0)
            again = by_originator and (entry.marks & SYN_SEEN) != 0
            over = entry.list == LINGER
            if (again or over) and not (again and links[e].syn_seq == end.tcp_seq):
                if not over:
                    n_ends = _tell_end(entry, now_ns, _END_OF_FLOW, id_seed, ends, n_ends)
                    state[OPEN] -= 1
                forget(entries, links, slots, wheel, state, e, seed)
                e = -1
                at = free_slot(key_hash, slots)
        kind = 0 if protocol == 6 else 1 if protocol == 17 else 2 if protocol == 1 else 3
        if e < 0:
            if _full(entries, state) and state[LINGER_HEAD] >= 0:
                # Rather than a new flow, the stragglers of one that is over go without.
                forget(entries, links, slots, wheel, state, state[LINGER_HEAD], seed)
                at = free_slot(key_hash, slots)
            if _full(entries, state) or state[NEXT_NUMBER] >= state[NUMBERS_UNTIL]:
                flow_number[i] = np.uint64(NO_FLOW)
                n_refused += 1
                _refuse(packet, key_hash & np.uint64(KEY_HASH), refused, state)
                continue
            e = np.int64(state[FREED])
            if e >= 0:
                state[FREED] = links[e].after
            else:
                e = np.int64(state[FRESH])
                state[FRESH] += 1
            slots[at] = slot_of(key_hash, e)
            answers = protocol == 6 and (flags & 0x12) == 0x12
            entry = entries[e]
            entry.low_hi, entry.low_lo, entry.low_port = low_hi, low_lo, low_port
            entry.high_hi, entry.high_lo, entry.high_port = high_hi, high_lo, high_port
            entry.protocol, entry.ip_version = protocol, end.ip_version
            entry.flow_number = np.uint64(state[NEXT_NUMBER])
            entry.last_ns = now_ns
            entry.packets = 0
            entry.history = -1
            entry.list = min(kind, ICMP)
            originator_is_low = src_is_low != answers
            entry.marks = ORIGINATOR_IS_LOW if originator_is_low else 0
            by_src = host_of(packet.address_kinds, not answers)
            if by_src >= 0:
                entry.marks |= HOST_IS_LOW if src_is_low == (by_src == 1) else HOST_IS_HIGH
            links[e].start_ns = now_ns
            links[e].syn_seq = 0
            state[NEXT_NUMBER] += 1
            state[OPEN] += 1
            state[BY_PROTOCOL + kind] += 1
            over_ns = now_ns + min(timeouts_ns[entry.list], timeouts_ns[ACTIVE])
            insert(entries, links, wheel, state, e, over_ns)
            flow = flows[n_flows]
            flow.flow_number = entry.flow_number
            flow.flow_id = mix64(entry.flow_number + id_seed)
            flow.reserved = 0
            flow.start_time_ns = now_ns
            flow.protocol, flow.ip_version = protocol, end.ip_version
            if originator_is_low:
                flow.src_hi, flow.src_lo, flow.src_port = low_hi, low_lo, low_port
                flow.dst_hi, flow.dst_lo, flow.dst_port = high_hi, high_lo, high_port
            else:
                flow.src_hi, flow.src_lo, flow.src_port = high_hi, high_lo, high_port
                flow.dst_hi, flow.dst_lo, flow.dst_port = low_hi, low_lo, low_port
            n_flows += 1
        state[BY_PROTOCOL + 4 + kind] += 1
        entry = entries[e]
        entry.last_ns = now_ns
        marks = np.int64(entry.marks)
        by_originator = src_is_low == ((marks & ORIGINATOR_IS_LOW) != 0)
        packet.from_originator = 1 if by_originator else 0
        if protocol == 6 or protocol == 17:
            packet.originator_port = end.src_port if by_originator else end.dst_port
            packet.responder_port = end.dst_port if by_originator else end.src_port
        packet.flow_id = mix64(entry.flow_number + id_seed)
        flow_number[i] = entry.flow_number
        over = entry.list == LINGER
        packet.packet_index = 255 if over else min(entry.packets, np.uint32(255))
        if marks & (HOST_IS_LOW | HOST_IS_HIGH):
            host_is_low = (marks & HOST_IS_LOW) != 0
            hi = low_hi if host_is_low else high_hi
            lo = low_lo if host_is_low else high_lo
            h = find_history(histories, entry.history, hi, lo, now_ns, seed)
            entry.history = h
            outward = host_is_low == src_is_low
            if packet.packet_index == 0:
                tell(histories[h], packet.host)
                add_flow(histories[h], packet, outward)
            add_packet(histories[h], packet, outward)
        if over:
            renew_linger(links, state, e)
            state[AFTER_END] += 1
            continue
        if entry.packets < first_packets:
            kept[n_kept] = i
            n_kept += 1
        entry.packets += np.uint32(1)
        if protocol == 6 and flags & 0x07:
            if (flags & 0x12) == 0x02 and by_originator and marks & SYN_SEEN == 0:
                marks |= SYN_SEEN
                links[e].syn_seq = end.tcp_seq
            if flags & 0x01:
                marks |= ORIGINATOR_FIN if by_originator else RESPONDER_FIN
            entry.marks = marks
            if (flags & 0x04) or marks & FINS == FINS:
                n_ends = _tell_end(entry, now_ns, _END_OF_FLOW, id_seed, ends, n_ends)
                unlink(entries, links, wheel, state, e)
                entry.list = LINGER
                begin_linger(links, state, timeouts_ns, e, now_ns)
                state[OPEN] -= 1
    state[CLOCK] = clock_ns
    state[PACKETS] += stop - begin - n_refused
    lengths[0], lengths[1], lengths[2] = n_kept, n_flows, n_ends
    return stop
