"""The entries of :mod:`flows.table`, compiled: a hash table of flows and their timers.

Flows live in a pool of entries; a hash table with linear probing leads from the direction-free
key to the entry. Timers are five doubly linked lists: each timeout is the same for all flows in
its list, so the list is in order of expiry and its head is all there is to look at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.ids import mix64
from flows.packet import Record, Records

__all__ = [
    "ACTIVE",
    "AFTER_END",
    "BY_PROTOCOL",
    "CLOCK",
    "COUNTERS",
    "EARLIEST",
    "ENTRY_DTYPE",
    "FREE",
    "HEADS",
    "ICMP",
    "LINGER",
    "LISTS",
    "NEXT_NUMBER",
    "OPEN",
    "PACKETS",
    "REGRESSIONS",
    "STATE_SIZE",
    "append",
    "forget",
    "hash_key",
    "rehash",
    "renew",
    "rest_of_key",
    "unlink",
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
TCP, UDP, ICMP, LINGER, ACTIVE = 0, 1, 2, 3, 4
LISTS = 5

# Words of the state vector, int64.
CLOCK = 0
NEXT_NUMBER = 1
OPEN = 2  # flows that have not ended
FREE = 3  # free entries on the stack
HEADS = 4
_TAILS = HEADS + LISTS
EARLIEST = _TAILS + LISTS  # no timeout passes before this time
COUNTERS = EARLIEST + 1
# Counters behind that: packets, time regressions, packets after the end, then flows and packets
# of TCP, UDP, ICMP and ICMPv6.
PACKETS, REGRESSIONS, AFTER_END, BY_PROTOCOL = range(COUNTERS, COUNTERS + 4)
STATE_SIZE = BY_PROTOCOL + 8


@inlined
def hash_key(
    hi: np.uint64, lo: np.uint64, hi2: np.uint64, lo2: np.uint64, rest: np.uint64
) -> np.uint64:
    """Hash a direction-free key: both addresses and :func:`rest_of_key`."""
    half = np.uint64(32)
    if hi == 0 and hi2 == 0 and lo >> half == 0xFFFF and lo2 >> half == 0xFFFF:
        return mix64(mix64(rest) ^ (lo << half | (lo2 & np.uint64(0xFFFFFFFF))))  # IPv4: one word
    h = mix64(hi ^ rest)
    h = mix64(h ^ lo)
    h = mix64(h ^ hi2)
    return mix64(h ^ lo2)


@inlined
def rest_of_key(
    low_port: int, high_port: int, protocol: int, version: int, seed: np.uint64
) -> np.uint64:
    """Pack what a key holds beside the addresses, with the table's secret."""
    ports = (np.uint64(low_port) << np.uint64(16)) | np.uint64(high_port)
    kind = (np.uint64(protocol) << np.uint64(8)) | np.uint64(version)
    return ((ports << np.uint64(16)) | kind) ^ seed


@inlined
def _hash_of(entry: Record, seed: np.uint64) -> np.uint64:
    rest = rest_of_key(entry.low_port, entry.high_port, entry.protocol, entry.ip_version, seed)
    return hash_key(entry.low_hi, entry.low_lo, entry.high_hi, entry.high_lo, rest)


@kernel
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


@kernel
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


@inlined
def append(
    entries: Records,
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    which: int,
    e: int,
    now_ns: int,
) -> None:
    """Put entry ``e`` at the end of a list, in which it is the latest."""
    tail = state[_TAILS + which]
    if which == ACTIVE:
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
        state[HEADS + which] = e
        state[EARLIEST] = min(state[EARLIEST], now_ns + timeouts_ns[which])
    state[_TAILS + which] = e


@inlined
def renew(entries: Records, state: npt.NDArray[np.int64], which: int, e: int) -> None:
    """Move entry ``e`` to the end of its idle list."""
    tail = state[_TAILS + which]
    if tail == e:
        return
    before, after = entries[e].before, entries[e].after
    if before >= 0:
        entries[before].after = after
    else:
        state[HEADS + which] = after
    entries[after].before = before
    entries[tail].after = e
    entries[e].before = tail
    entries[e].after = -1
    state[_TAILS + which] = e


@inlined
def unlink(entries: Records, state: npt.NDArray[np.int64], which: int, e: int) -> None:
    """Take entry ``e`` out of a list."""
    if which == ACTIVE:
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
        state[HEADS + which] = after
    if after < 0:
        state[_TAILS + which] = before


@kernel
def forget(
    entries: Records,
    used: npt.NDArray[np.uint8],
    free: npt.NDArray[np.int32],
    table: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    e: int,
    seed: np.uint64,
) -> None:
    """Forget an entry; its flow has ended."""
    unlink(entries, state, entries[e].list, e)
    _remove(entries, table, e, seed)
    used[e] = 0
    free[state[FREE]] = e
    state[FREE] += 1
