"""Compiled parts of :mod:`flows.table`: a hash table of open flows and their timers.

Flows live in a pool of entries; a hash table with linear probing leads from the direction-free
key to the entry. Timers are five doubly linked lists: each timeout is the same for all flows in
its list, so the list is in order of expiry and its head is all there is to look at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.ids import mix64
from flows.packet import Record, Records

__all__ = [
    "CLOCK",
    "COUNTERS",
    "ENTRY_DTYPE",
    "FREE",
    "LISTS",
    "NEXT_NUMBER",
    "OPEN",
    "STATE_SIZE",
    "expire",
    "finish",
    "rehash",
    "update",
]

ENTRY_DTYPE = np.dtype(
    [
        ("low_hi", "<u8"),  # the end with the lower address and port
        ("low_lo", "<u8"),
        ("high_hi", "<u8"),
        ("high_lo", "<u8"),
        ("flow_number", "<u8"),
        ("start_ns", "<i8"),
        ("last_ns", "<i8"),
        ("packets", "<u4"),
        ("syn_seq", "<u4"),  # sequence number of the originator's SYN
        ("before", "<i4"),  # neighbours in the list of its idle (or linger) timeout
        ("after", "<i4"),
        ("older", "<i4"),  # neighbours in the list of the active timeout
        ("newer", "<i4"),
        ("low_port", "<u2"),
        ("high_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("originator_is_low", "u1"),
        ("syn_seen", "u1"),
        ("fins", "u1"),  # bit 0: the originator's, bit 1: the responder's
        ("list", "u1"),  # TCP, UDP, ICMP or LINGER
    ]
)

# Lists, and the index of each one's timeout.
_TCP, _UDP, _ICMP, _LINGER, _ACTIVE = 0, 1, 2, 3, 4
LISTS = 5

# Words of the state vector, int64.
CLOCK = 0
NEXT_NUMBER = 1
OPEN = 2  # flows that have not ended
FREE = 3  # free entries on the stack
_HEADS = 4
_TAILS = _HEADS + LISTS
COUNTERS = _TAILS + LISTS
# Counters behind that: packets, time regressions, packets after the end, then flows and packets
# of TCP, UDP, ICMP and ICMPv6.
_PACKETS, _REGRESSIONS, _AFTER_END, _BY_PROTOCOL = range(COUNTERS, COUNTERS + 4)
STATE_SIZE = _BY_PROTOCOL + 8

_IDLE_TIMEOUT, _ACTIVE_TIMEOUT, _END_OF_FLOW, _FORCED_END = 1, 2, 3, 4


@compiled
def _hash(
    hi: np.uint64, lo: np.uint64, hi2: np.uint64, lo2: np.uint64, rest: np.uint64
) -> np.uint64:
    h = mix64(hi ^ rest)
    h = mix64(h ^ lo)
    h = mix64(h ^ hi2)
    return mix64(h ^ lo2)


@compiled
def _rest(low_port: int, high_port: int, protocol: int, version: int, seed: np.uint64) -> np.uint64:
    ports = (np.uint64(low_port) << np.uint64(16)) | np.uint64(high_port)
    kind = (np.uint64(protocol) << np.uint64(8)) | np.uint64(version)
    return ((ports << np.uint64(16)) | kind) ^ seed


@compiled
def _hash_of(entry: Record, seed: np.uint64) -> np.uint64:
    rest = _rest(entry.low_port, entry.high_port, entry.protocol, entry.ip_version, seed)
    return _hash(entry.low_hi, entry.low_lo, entry.high_hi, entry.high_lo, rest)


@compiled
def rehash(
    entries: Records, used: npt.NDArray[np.uint8], table: npt.NDArray[np.int32], seed: np.uint64
) -> None:
    """Enter the used entries into an empty ``table`` (all -1), whose size is a power of two."""
    mask = np.uint64(len(table) - 1)
    for e in range(len(used)):
        if used[e]:
            at = _hash_of(entries[e], seed) & mask
            while table[at] >= 0:
                at = (at + np.uint64(1)) & mask
            table[at] = e


@compiled
def _remove(entries: Records, table: npt.NDArray[np.int32], e: int, seed: np.uint64) -> None:
    """Take entry ``e`` out of the hash table and close the gap."""
    mask = np.uint64(len(table) - 1)
    at = _hash_of(entries[e], seed) & mask
    while table[at] != e:
        at = (at + np.uint64(1)) & mask
    gap = at
    while True:
        at = (at + np.uint64(1)) & mask
        other = table[at]
        if other < 0:
            break
        home = _hash_of(entries[other], seed) & mask
        # It may move into the gap unless its home lies behind the gap.
        if ((at - home) & mask) >= ((at - gap) & mask):
            table[gap] = other
            gap = at
    table[gap] = -1


@compiled
def _append(entries: Records, state: npt.NDArray[np.int64], which: int, e: int) -> None:
    tail = state[_TAILS + which]
    if which == _ACTIVE:
        entries[e].older = tail
        entries[e].newer = -1
        if tail >= 0:
            entries[tail].newer = e
    else:
        entries[e].list = which
        entries[e].before = tail
        entries[e].after = -1
        if tail >= 0:
            entries[tail].after = e
    if tail < 0:
        state[_HEADS + which] = e
    state[_TAILS + which] = e


@compiled
def _unlink(entries: Records, state: npt.NDArray[np.int64], which: int, e: int) -> None:
    if which == _ACTIVE:
        before, after = entries[e].older, entries[e].newer
        if before >= 0:
            entries[before].newer = after
        if after >= 0:
            entries[after].older = before
    else:
        before, after = entries[e].before, entries[e].after
        if before >= 0:
            entries[before].after = after
        if after >= 0:
            entries[after].before = before
    if before < 0:
        state[_HEADS + which] = after
    if after < 0:
        state[_TAILS + which] = before


@compiled
def _tell_end(entry: Record, time_ns: int, reason: int, ends: Records, n: int) -> int:
    ends[n].flow_number = entry.flow_number
    ends[n].time_ns = time_ns
    ends[n].packets = entry.packets
    ends[n].reason = reason
    return n + 1


@compiled
def _free(
    entries: Records,
    used: npt.NDArray[np.uint8],
    free: npt.NDArray[np.int32],
    table: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    e: int,
    seed: np.uint64,
) -> None:
    """Forget an entry; its flow has ended."""
    _unlink(entries, state, entries[e].list, e)
    _remove(entries, table, e, seed)
    used[e] = 0
    free[state[FREE]] = e
    state[FREE] += 1


@compiled
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
    for which in range(LISTS):
        while True:
            e = state[_HEADS + which]
            if e < 0:
                break
            since = entries[e].start_ns if which == _ACTIVE else entries[e].last_ns
            if clock_ns - since < timeouts_ns[which]:
                break
            if which != _LINGER:
                reason = _ACTIVE_TIMEOUT if which == _ACTIVE else _IDLE_TIMEOUT
                n = _tell_end(entries[e], since + timeouts_ns[which], reason, ends, n)
                _unlink(entries, state, _ACTIVE, e)
                state[OPEN] -= 1
            _free(entries, used, free, table, state, e, seed)
    return n


@compiled
def finish(entries: Records, used: npt.NDArray[np.uint8], clock_ns: int, ends: Records) -> int:
    """Tell the end of every open flow, in no particular order; return how many."""
    n = 0
    for e in range(len(used)):
        if used[e] and entries[e].list != _LINGER:
            n = _tell_end(entries[e], clock_ns, _FORCED_END, ends, n)
    return n


@compiled
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
    flow_number: npt.NDArray[np.uint64],
    kept: npt.NDArray[np.int64],
    flows: Records,
    ends: Records,
    lengths: npt.NDArray[np.int64],
) -> int:
    """Take the packets from ``begin`` on; return where it stopped for want of entries.

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
            state[_REGRESSIONS] += 1
        elif now_ns > state[CLOCK]:
            state[CLOCK] = now_ns
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
        rest = _rest(low_port, high_port, protocol, version, seed)
        at = _hash(low_hi, low_lo, high_hi, high_lo, rest) & mask
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
            over = entry.list == _LINGER
            if not repeated and (over or (entry.syn_seen and by_originator)):
                if not over:
                    n_ends = _tell_end(entry, now_ns, _END_OF_FLOW, ends, n_ends)
                    _unlink(entries, state, _ACTIVE, e)
                    state[OPEN] -= 1
                _free(entries, used, free, table, state, e, seed)
                e = -1
                at = _hash(low_hi, low_lo, high_hi, high_lo, rest) & mask
                while table[at] >= 0:
                    at = (at + np.uint64(1)) & mask
        kind = 0 if protocol == 6 else 1 if protocol == 17 else 2 if protocol == 1 else 3
        state[_PACKETS] += 1
        state[_BY_PROTOCOL + 4 + kind] += 1
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
            state[_BY_PROTOCOL + kind] += 1
            _append(entries, state, min(kind, _ICMP), e)
            _append(entries, state, _ACTIVE, e)
            flow = flows[n_flows]
            flow.flow_number = entry.flow_number
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
            which = entries[e].list
            _unlink(entries, state, which, e)
            _append(entries, state, which, e)
        entry = entries[e]
        entry.last_ns = now_ns
        by_originator = src_is_low == (entry.originator_is_low == 1)
        packet.from_originator = 1 if by_originator else 0
        if protocol == 6 or protocol == 17:
            packet.originator_port = end.src_port if by_originator else end.dst_port
            packet.responder_port = end.dst_port if by_originator else end.src_port
        packet.packet_index = min(entry.packets, np.uint32(255))
        flow_number[i] = entry.flow_number
        if entry.list == _LINGER:
            packet.packet_index = 255
            state[_AFTER_END] += 1
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
                _unlink(entries, state, entry.list, e)
                _unlink(entries, state, _ACTIVE, e)
                _append(entries, state, _LINGER, e)
                state[OPEN] -= 1
    lengths[0], lengths[1], lengths[2] = n_kept, n_flows, n_ends
    return stop
