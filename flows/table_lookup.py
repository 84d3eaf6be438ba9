"""How :mod:`flows.table` finds a packet's flow, compiled: its hash, its slot, its entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel, prefetch
from flows.packet import Record, Records
from flows.table_entries import entry_in, hash_key, rest_of_key

__all__ = ["KEY_HASH", "fetch", "find", "free_slot", "hash_packets", "ordered"]

# How many packets ahead what a packet needs is fetched: its slot, the entry that this leads to,
# the history that that one leads to.
_SLOT_AHEAD, _ENTRY_AHEAD, _HISTORY_AHEAD = 24, 16, 8

KEY_HASH = 0x7FFF_FFFF_FFFF_FFFF
"""What of a packet's hash is of its key; the highest bit is its side."""


@inlined
def _in_order(end: Record) -> bool:
    """Tell whether a packet's source is the lower end of its key.

    Without branches, as which side a packet comes from cannot be foretold.
    """
    lo_in_order = (end.src_lo < end.dst_lo) | (
        (end.src_lo == end.dst_lo) & (end.src_port <= end.dst_port)
    )
    return (end.src_hi < end.dst_hi) | ((end.src_hi == end.dst_hi) & lo_in_order)


@inlined
def ordered(
    end: Record, in_order: bool
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return addresses and ports of the lower and the higher end, without branches."""
    src_hi, src_lo, src_port = end.src_hi, end.src_lo, np.uint64(end.src_port)
    dst_hi, dst_lo, dst_port = end.dst_hi, end.dst_lo, np.uint64(end.dst_port)
    others = np.uint64(in_order) - np.uint64(1)  # all ones: exchange them
    hi, lo = (src_hi ^ dst_hi) & others, (src_lo ^ dst_lo) & others
    port = (src_port ^ dst_port) & others
    return src_hi ^ hi, src_lo ^ lo, src_port ^ port, dst_hi ^ hi, dst_lo ^ lo, dst_port ^ port


@kernel
def hash_packets(endpoints: Records, seed: np.uint64, hashes: npt.NDArray[np.uint64]) -> None:
    """Write the hash of each packet's direction-free key into ``hashes``, uint64 ``[n]``.

    The highest bit says whether its source is the lower end.
    """
    for i in range(len(endpoints)):
        end = endpoints[i]
        in_order = _in_order(end)
        low_hi, low_lo, low_port, high_hi, high_lo, high_port = ordered(end, in_order)
        rest = rest_of_key(low_port, high_port, end.protocol, end.ip_version, seed)
        key_hash = hash_key(low_hi, low_lo, high_hi, high_lo, rest)
        hashes[i] = (key_hash & np.uint64(KEY_HASH)) | (np.uint64(in_order) << np.uint64(63))


@inlined
def _likely(key_hash: np.uint64, slots: npt.NDArray[np.uint64]) -> Any:
    """Return the entry that a key most likely has, as its slot is in the cache; 0: it has none."""
    mask = np.uint64(len(slots) - 1)
    at = key_hash & mask
    while slots[at] and slots[at] >> np.uint64(32) != key_hash & np.uint64(0xFFFFFFFF):
        at = (at + np.uint64(1)) & mask
    return max(entry_in(slots[at]), 0)


@inlined
def fetch(
    i: int,
    hashes: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.uint64],
    entries: Records,
    histories: Records,
) -> None:
    """Fetch what the packets behind packet ``i`` will need, as far as that is known by now."""
    if i + _SLOT_AHEAD < len(hashes):
        mask = np.uint64(len(slots) - 1)
        prefetch(slots, np.int64(hashes[i + _SLOT_AHEAD] & mask))
        prefetch(entries, _likely(hashes[i + _ENTRY_AHEAD], slots))
        history = entries[_likely(hashes[i + _HISTORY_AHEAD], slots)].history
        prefetch(histories, max(np.int64(history), 0))


@inlined
def find(
    key_hash: np.uint64,
    end: Record,
    low_hi: np.uint64,
    low_lo: np.uint64,
    low_port: np.uint64,
    high_hi: np.uint64,
    high_lo: np.uint64,
    high_port: np.uint64,
    entries: Records,
    slots: npt.NDArray[np.uint64],
) -> tuple[int, np.uint64]:
    """Return the entry of a key, -1: there is none, and the slot where the search ended."""
    mask = np.uint64(len(slots) - 1)
    at = key_hash & mask
    while True:
        slot = slots[at]
        if slot == 0:
            return -1, at
        if slot >> np.uint64(32) == key_hash & np.uint64(0xFFFFFFFF):
            entry = entries[(slot & np.uint64(0xFFFFFFFF)) - np.uint64(1)]  # never below 0
            differs = (entry.low_lo ^ low_lo) | (entry.high_lo ^ high_lo)
            differs |= (entry.low_hi ^ low_hi) | (entry.high_hi ^ high_hi)
            differs |= (np.uint64(entry.low_port) ^ low_port) | (
                np.uint64(entry.high_port) ^ high_port
            )
            differs |= np.uint64(entry.protocol ^ end.protocol)
            differs |= np.uint64(entry.ip_version ^ end.ip_version)
            if differs == 0:
                return entry_in(slot), at
        at = (at + np.uint64(1)) & mask


@inlined
def free_slot(key_hash: np.uint64, slots: npt.NDArray[np.uint64]) -> np.uint64:
    """Return the slot where a key's entry goes that has none."""
    mask = np.uint64(len(slots) - 1)
    at = key_hash & mask
    while slots[at]:
        at = (at + np.uint64(1)) & mask
    return at
