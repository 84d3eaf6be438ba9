"""The entries of :mod:`flows.table`, compiled: a hash table of flows.

Flows live in a pool of entries; a hash table with linear probing leads from the direction-free
key to the entry.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.ids import mix64
from flows.packet import Record, Records
from flows.table_layout import FREED
from flows.table_timers import unlink

__all__ = ["entry_in", "forget", "hash_key", "rehash", "rest_of_key", "slot_of"]

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


@kernel
def forget(
    entries: Records,
    links: Records,
    slots: npt.NDArray[np.uint64],
    wheel: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    e: int,
    seed: np.uint64,
) -> None:
    """Forget an entry; its flow has ended."""
    unlink(entries, links, wheel, state, e)
    _remove(slots, _hash_of(entries[e], seed), e)
    links[e].after = state[FREED]
    state[FREED] = e
