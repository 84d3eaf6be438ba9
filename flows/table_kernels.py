"""Compiled parts of :mod:`flows.table`: take packets in, tell which flows begin and end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel, prefetch
from flows.hosts import add_flow, add_packet, find_history, host_of, tell
from flows.ids import mix64
from flows.packet import Record, Records
from flows.table_entries import (
    ACTIVE,
    AFTER_END,
    BY_PROTOCOL,
    CLOCK,
    EARLIEST,
    FREED,
    FRESH,
    HEADS,
    HIGH_HOST,
    ICMP,
    LINGER,
    LISTS,
    LOW_HOST,
    MOST_ENTRIES,
    NEXT_NUMBER,
    NO_HOST,
    NUMBERS_UNTIL,
    OPEN,
    PACKETS,
    REFUSED_FLOWS,
    REFUSED_PACKETS,
    REGRESSIONS,
    append,
    entry_in,
    forget,
    hash_key,
    renew,
    rest_of_key,
    slot_of,
    unlink,
)

__all__ = ["NO_FLOW", "expire", "finish", "hash_packets", "update"]

NO_FLOW = 0xFFFF_FFFF_FFFF_FFFF
"""The number of what is no flow."""

_IDLE_TIMEOUT, _ACTIVE_TIMEOUT, _END_OF_FLOW, _FORCED_END = 1, 2, 3, 4

# How many packets ahead what a packet needs is fetched: its slot, the entry that this leads to,
# what that one leads to.
_SLOT_AHEAD, _ENTRY_AHEAD, _LINKS_AHEAD = 24, 16, 8
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
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    seed: np.uint64,
    id_seed: np.uint64,
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
            since = links[e].start_ns if which == ACTIVE else entries[e].last_ns
            if clock_ns - since < timeouts_ns[which]:
                earliest_ns = min(earliest_ns, since + timeouts_ns[which])
                break
            if which != LINGER:
                reason = _ACTIVE_TIMEOUT if which == ACTIVE else _IDLE_TIMEOUT
                over_ns = since + timeouts_ns[which]
                n = _tell_end(entries[e], over_ns, reason, id_seed, ends, n)
                unlink(links, state, ACTIVE, e)
                state[OPEN] -= 1
            forget(entries, links, slots, state, e, seed)
    state[EARLIEST] = earliest_ns
    return n


@kernel
def finish(
    entries: Records,
    links: Records,
    state: npt.NDArray[np.int64],
    id_seed: np.uint64,
    ends: Records,
) -> int:
    """Tell the end of every open flow, in order of their beginnings; return how many."""
    n = 0
    e = state[HEADS + ACTIVE]
    while e >= 0:
        n = _tell_end(entries[e], state[CLOCK], _FORCED_END, id_seed, ends, n)
        e = np.int64(links[e].newer)
    return n


@inlined
def _ordered(
    end: Record,
) -> tuple[bool, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return whether the source is the lower end, then addresses and ports of lower and higher.

    Without branches, as which side a packet comes from cannot be foretold.
    """
    src_hi, src_lo, src_port = end.src_hi, end.src_lo, np.uint64(end.src_port)
    dst_hi, dst_lo, dst_port = end.dst_hi, end.dst_lo, np.uint64(end.dst_port)
    lo_in_order = (src_lo < dst_lo) | ((src_lo == dst_lo) & (src_port <= dst_port))
    in_order = (src_hi < dst_hi) | ((src_hi == dst_hi) & lo_in_order)
    others = np.uint64(in_order) - np.uint64(1)  # all ones: exchange them
    hi, lo = (src_hi ^ dst_hi) & others, (src_lo ^ dst_lo) & others
    port = (src_port ^ dst_port) & others
    return (
        in_order, src_hi ^ hi, src_lo ^ lo, src_port ^ port, dst_hi ^ hi, dst_lo ^ lo,
        dst_port ^ port,
    )  # fmt: skip


@kernel
def hash_packets(endpoints: Records, seed: np.uint64, hashes: npt.NDArray[np.uint64]) -> None:
    """Write the hash of each packet's direction-free key into ``hashes``, uint64 ``[n]``."""
    for i in range(len(endpoints)):
        end = endpoints[i]
        _, low_hi, low_lo, low_port, high_hi, high_lo, high_port = _ordered(end)
        rest = rest_of_key(low_port, high_port, end.protocol, end.ip_version, seed)
        hashes[i] = hash_key(low_hi, low_lo, high_hi, high_lo, rest)


@inlined
def _fetch(
    i: int,
    hashes: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.uint64],
    entries: Records,
    links: Records,
    histories: Records,
) -> None:
    """Fetch what the packets behind packet ``i`` will need, as far as that is known by now."""
    mask = np.uint64(len(slots) - 1)
    if i + _SLOT_AHEAD < len(hashes):
        prefetch(slots, np.int64(hashes[i + _SLOT_AHEAD] & mask))
        e = entry_in(slots[hashes[i + _ENTRY_AHEAD] & mask])
        if e >= 0:
            prefetch(entries, e)
            prefetch(links, e)
        e = entry_in(slots[hashes[i + _LINKS_AHEAD] & mask])
        if e >= 0:
            link = links[e]
            prefetch(links, max(np.int64(link.before), 0))
            prefetch(links, max(np.int64(link.after), 0))
            prefetch(histories, max(np.int64(link.history), 0))


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
    mask = np.uint64(len(slots) - 1)
    n_kept, n_flows, n_ends = lengths[0], lengths[1], lengths[2]
    clock_ns = state[CLOCK]
    stop, n_refused = len(packets), 0
    for i in range(begin, len(packets)):
        if len(entries) < state[MOST_ENTRIES] and _full(entries, state):
            stop = i
            break
        if state[FRESH] > _NEAR:
            _fetch(i, hashes, slots, entries, links, histories)
        packet = packets[i]
        end = endpoints[i]
        now_ns = packet.time_ns
        if now_ns < clock_ns:
            now_ns = clock_ns
            packet.time_ns = now_ns
            state[REGRESSIONS] += 1
        elif now_ns > clock_ns:
            clock_ns = now_ns
            if now_ns >= state[EARLIEST]:
                n_ends = expire(
                    entries, links, slots, state, timeouts_ns, seed, id_seed, now_ns, ends, n_ends
                )
        src_is_low, low_hi, low_lo, low_port, high_hi, high_lo, high_port = _ordered(end)
        protocol, version = end.protocol, end.ip_version
        key_hash = hashes[i]
        at = key_hash & mask
        e = -1
        while True:
            slot = slots[at]
            if slot == 0:
                break
            if slot >> np.uint64(32) == key_hash & np.uint64(0xFFFFFFFF):
                entry = entries[entry_in(slot)]
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
                    e = entry_in(slot)
                    break
            at = (at + np.uint64(1)) & mask
        flags = packet.tcp_flags
        if e >= 0 and protocol == 6 and (flags & 0x12) == 0x02:
            # A SYN opens a new connection unless it repeats the one that is there.
            entry = entries[e]
            by_originator = src_is_low == (entry.originator_is_low == 1)
            repeated = entry.syn_seen and by_originator and links[e].syn_seq == end.tcp_seq
            over = entry.list == LINGER
            if not repeated and (over or (entry.syn_seen and by_originator)):
                if not over:
                    n_ends = _tell_end(entry, now_ns, _END_OF_FLOW, id_seed, ends, n_ends)
                    unlink(links, state, ACTIVE, e)
                    state[OPEN] -= 1
                forget(entries, links, slots, state, e, seed)
                e = -1
                at = key_hash & mask
                while slots[at]:
                    at = (at + np.uint64(1)) & mask
        kind = 0 if protocol == 6 else 1 if protocol == 17 else 2 if protocol == 1 else 3
        if e < 0:
            if _full(entries, state) and state[HEADS + LINGER] >= 0:
                # Rather than a new flow, the stragglers of one that is over go without.
                forget(entries, links, slots, state, np.int64(state[HEADS + LINGER]), seed)
                at = key_hash & mask
                while slots[at]:
                    at = (at + np.uint64(1)) & mask
            if _full(entries, state) or state[NEXT_NUMBER] >= state[NUMBERS_UNTIL]:
                flow_number[i] = np.uint64(NO_FLOW)
                n_refused += 1
                _refuse(packet, key_hash, refused, state)
                continue
        state[BY_PROTOCOL + 4 + kind] += 1
        if e < 0:
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
            entry.protocol, entry.ip_version = protocol, version
            entry.flow_number = np.uint64(state[NEXT_NUMBER])
            entry.packets = 0
            entry.syn_seen = 0
            entry.fins = 0
            entry.originator_is_low = 1 if src_is_low != answers else 0
            entry.list = min(kind, ICMP)
            links[e].start_ns = now_ns
            links[e].syn_seq = 0
            state[NEXT_NUMBER] += 1
            state[OPEN] += 1
            state[BY_PROTOCOL + kind] += 1
            append(links, state, timeouts_ns, min(kind, ICMP), e, now_ns)
            append(links, state, timeouts_ns, ACTIVE, e, now_ns)
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
            by_src = host_of(packet.address_kinds, not answers)
            if by_src < 0:
                entry.host = NO_HOST
            else:
                entry.host = LOW_HOST if src_is_low == (by_src == 1) else HIGH_HOST
            links[e].history = -1
        else:
            renew(links, state, entries[e].list, e)
        entry = entries[e]
        entry.last_ns = now_ns
        by_originator = src_is_low == (entry.originator_is_low == 1)
        packet.from_originator = 1 if by_originator else 0
        if protocol == 6 or protocol == 17:
            packet.originator_port = end.src_port if by_originator else end.dst_port
            packet.responder_port = end.dst_port if by_originator else end.src_port
        packet.flow_id = mix64(entry.flow_number + id_seed)
        flow_number[i] = entry.flow_number
        over = entry.list == LINGER
        packet.packet_index = 255 if over else min(entry.packets, np.uint32(255))
        if entry.host != NO_HOST:
            host_is_low = entry.host == LOW_HOST
            hi = low_hi if host_is_low else high_hi
            lo = low_lo if host_is_low else high_lo
            h = find_history(histories, links[e].history, hi, lo, now_ns, seed)
            links[e].history = h
            outward = host_is_low == src_is_low
            if packet.packet_index == 0:
                tell(histories[h], packet.host)
                add_flow(histories[h], packet, outward)
            add_packet(histories[h], packet, outward)
        if over:
            state[AFTER_END] += 1
            continue
        if entry.packets < first_packets:
            kept[n_kept] = i
            n_kept += 1
        entry.packets += np.uint32(1)
        if protocol == 6:
            if (flags & 0x12) == 0x02 and by_originator and entry.syn_seen == 0:
                entry.syn_seen = 1
                links[e].syn_seq = end.tcp_seq
            if flags & 0x01:
                entry.fins |= 1 if by_originator else 2
            if (flags & 0x04) or entry.fins == 3:
                n_ends = _tell_end(entry, now_ns, _END_OF_FLOW, id_seed, ends, n_ends)
                unlink(links, state, entry.list, e)
                unlink(links, state, ACTIVE, e)
                entry.list = LINGER
                append(links, state, timeouts_ns, LINGER, e, now_ns)
                state[OPEN] -= 1
    state[CLOCK] = clock_ns
    state[PACKETS] += stop - begin - n_refused
    lengths[0], lengths[1], lengths[2] = n_kept, n_flows, n_ends
    return stop
