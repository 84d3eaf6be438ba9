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
    "FREED",
    "FRESH",
    "HEADS",
    "HIGH_HOST",
    "ICMP",
    "LINGER",
    "LINKS_DTYPE",
    "LISTS",
    "LOW_HOST",
    "MOST_ENTRIES",
    "NEXT_NUMBER",
    "NO_HOST",
    "NUMBERS_UNTIL",
    "OPEN",
    "PACKETS",
    "REFUSED_FLOWS",
    "REFUSED_PACKETS",
    "REGRESSIONS",
    "STATE_SIZE",
    "append",
    "entry_in",
    "forget",
    "hash_key",
    "rehash",
    "renew",
    "rest_of_key",
    "slot_of",
    "unlink",
]

ENTRY_DTYPE = np.dtype(
    [
        ("low_hi", "<u8"),  # the end with the lower address and port
        ("low_lo", "<u8"),
        ("high_hi", "<u8"),
        ("high_lo", "<u8"),
        ("flow_number", "<u8"),
        ("last_ns", "<i8"),
        ("packets", "<u4"),
        ("low_port", "<u2"),
        ("high_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("originator_is_low", "u1"),
        ("syn_seen", "u1"),
        ("fins", "u1"),  # bit 0: the originator's, bit 1: the responder's
        ("list", "u1"),  # TCP, UDP, ICMP or LINGER
        ("host", "u1"),  # whose history the flow belongs to: NO_HOST, LOW_HOST or HIGH_HOST
        ("reserved", "u1"),
    ]
)
"""What every packet of a flow needs: one cache line."""

LINKS_DTYPE = np.dtype(
    [
        ("start_ns", "<i8"),
        ("syn_seq", "<u4"),  # sequence number of the originator's SYN
        ("history", "<i4"),  # where the host's history was last found
        ("before", "<i4"),  # neighbours in the list of its idle (or linger) timeout
        ("after", "<i4"),  # of a freed entry: the one that was freed before it
        ("older", "<i4"),  # neighbours in the list of the active timeout
        ("newer", "<i4"),
    ]
)
"""What else there is of an entry: half a cache line."""

NO_HOST, LOW_HOST, HIGH_HOST = 0, 1, 2

# Lists, and the index of each one's timeout.
TCP, UDP, ICMP, LINGER, ACTIVE = 0, 1, 2, 3, 4
LISTS = 5

# Words of the state vector, int64.
CLOCK = 0
NEXT_NUMBER = 1
OPEN = 2  # flows that have not ended
FREED = 3  # the entry that was freed last; -1: none
FRESH = 4  # entries from here on have never been used
HEADS = 5
_TAILS = HEADS + LISTS
EARLIEST = _TAILS + LISTS  # no timeout passes before this time
COUNTERS = EARLIEST + 1
# Counters behind that: packets, time regressions, packets after the end, then flows and packets
# of TCP, UDP, ICMP and ICMPv6.
PACKETS, REGRESSIONS, AFTER_END, BY_PROTOCOL = range(COUNTERS, COUNTERS + 4)
REFUSED_FLOWS, REFUSED_PACKETS = BY_PROTOCOL + 8, BY_PROTOCOL + 9
MOST_ENTRIES = BY_PROTOCOL + 10  # to which the table may grow
NUMBERS_UNTIL = BY_PROTOCOL + 11  # no flow begins with this number or a higher one
STATE_SIZE = BY_PROTOCOL + 12

# A slot of the hash table holds the lower half of the key's hash and, below it, an entry's number
# plus 1. So other entries need not be looked at on the way to the one that is sought, nor when
# slots move.
_LOW_HALF = 0xFFFFFFFF


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


@inlined
def slot_of(key_hash: np.uint64, e: int) -> np.uint64:
    """Return what stands in the slot of entry ``e``."""
    return (key_hash << np.uint64(32)) | np.uint64(e + 1)


@inlined
def entry_in(slot: np.uint64) -> int:
    """Return the entry that a slot leads to, -1: none."""
    return np.int64(slot & np.uint64(_LOW_HALF)) - 1


@kernel
def rehash(old: npt.NDArray[np.uint64], slots: npt.NDArray[np.uint64]) -> None:
    """Move the slots of ``old`` to empty ones (all 0), whose number is a power of two."""
    mask = np.uint64(len(slots) - 1)
    for slot in old:
        if slot:
            at = (slot >> np.uint64(32)) & mask
            while slots[at]:
                at = (at + np.uint64(1)) & mask
            slots[at] = slot


@kernel
def _remove(slots: npt.NDArray[np.uint64], key_hash: np.uint64, e: int) -> None:
    """Take entry ``e`` out of the hash table and close the gap."""
    mask = np.uint64(len(slots) - 1)
    sought = slot_of(key_hash, e)
    at = key_hash & mask
    while slots[at] != sought:
        at = (at + np.uint64(1)) & mask
    gap = at
    while True:
        at = (at + np.uint64(1)) & mask
        other = slots[at]
        if other == 0:
            break
        home = (other >> np.uint64(32)) & mask
        # It may move into the gap unless its home lies behind the gap.
        if ((at - home) & mask) >= ((at - gap) & mask):
            slots[gap] = other
            gap = at
    slots[gap] = np.uint64(0)


@inlined
def append(
    links: Records,
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    which: int,
    e: int,
    now_ns: int,
) -> None:
    """Put entry ``e`` at the end of a list, in which it is the latest."""
    tail = state[_TAILS + which]
    if which == ACTIVE:
        links[e].older = tail
        links[e].newer = -1
        if tail >= 0:
            links[tail].newer = e
    else:
        links[e].before = tail
        links[e].after = -1
        if tail >= 0:
            links[tail].after = e
    if tail < 0:
        state[HEADS + which] = e
        state[EARLIEST] = min(state[EARLIEST], now_ns + timeouts_ns[which])
    state[_TAILS + which] = e


@inlined
def renew(links: Records, state: npt.NDArray[np.int64], which: int, e: int) -> None:
    """Move entry ``e`` to the end of its idle list."""
    tail = state[_TAILS + which]
    if tail == e:
        return
    before, after = links[e].before, links[e].after
    if before >= 0:
        links[before].after = after
    else:
        state[HEADS + which] = after
    links[after].before = before
    links[tail].after = e
    links[e].before = tail
    links[e].after = -1
    state[_TAILS + which] = e


@inlined
def unlink(links: Records, state: npt.NDArray[np.int64], which: int, e: int) -> None:
    """Take entry ``e`` out of a list."""
    if which == ACTIVE:
        before, after = links[e].older, links[e].newer
        if before >= 0:
            links[before].newer = after
        if after >= 0:
            links[after].older = before
    else:
        before, after = links[e].before, links[e].after
        if before >= 0:
            links[before].after = after
        if after >= 0:
            links[after].before = before
    if before < 0:
        state[HEADS + which] = after
    if after < 0:
        state[_TAILS + which] = before


@kernel
def forget(
    entries: Records,
    links: Records,
    slots: npt.NDArray[np.uint64],
    state: npt.NDArray[np.int64],
    e: int,
    seed: np.uint64,
) -> None:
    """Forget an entry; its flow has ended."""
    unlink(links, state, entries[e].list, e)
    _remove(slots, _hash_of(entries[e], seed), e)
    links[e].after = state[FREED]
    state[FREED] = e
