"""Flow ids: numbers that a collector hands out, and the slot that each one belongs to.

A collector numbers its flows 0, 1, 2, …; the id is that number, shifted by the collector's
secret seed and scrambled by a bijection. So ids are unique per collector, spread evenly over the
slots, cannot be steered by choosing addresses or ports, and lead back to the flow's number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled, inlined

__all__ = ["SLOTS", "flow_ids", "flow_numbers", "mix64", "slots_of", "unmix64"]

SLOTS = 256
"""Flows are pinned to slots, slots to trackers; see docs/architecture.md."""


@inlined
def mix64(x: np.uint64) -> np.uint64:
    """Scramble 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood; OOPSLA 2014)."""
    x = np.uint64(x)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@inlined
def unmix64(x: np.uint64) -> np.uint64:
    """Undo :func:`mix64`."""
    x = np.uint64(x)
    x ^= (x >> np.uint64(31)) ^ (x >> np.uint64(62))
    x *= np.uint64(0x319642B2D24D8EC3)
    x ^= (x >> np.uint64(27)) ^ (x >> np.uint64(54))
    x *= np.uint64(0x96DE1B173F119089)
    x ^= (x >> np.uint64(30)) ^ (x >> np.uint64(60))
    return x


@compiled
def _ids(numbers: npt.NDArray[np.uint64], seed: np.uint64) -> npt.NDArray[np.uint64]:
    out = np.empty(len(numbers), np.uint64)
    for i in range(len(numbers)):
        out[i] = mix64(np.uint64(numbers[i] + seed))
    return out


@compiled
def _numbers(ids: npt.NDArray[np.uint64], seed: np.uint64) -> npt.NDArray[np.uint64]:
    out = np.empty(len(ids), np.uint64)
    for i in range(len(ids)):
        out[i] = unmix64(ids[i]) - seed
    return out


@compiled
def _slots(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    out = np.empty(len(ids), np.uint8)
    for i in range(len(ids)):
        out[i] = mix64(ids[i]) & np.uint64(0xFF)
    return out


def flow_ids(numbers: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Return the ids, uint64 ``[n]``, of the flows numbered ``numbers``."""
    return _ids(numbers, np.uint64(seed))


def flow_numbers(ids: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Return the numbers, uint64 ``[n]``, behind ``ids``; the inverse of :func:`flow_ids`."""
    return _numbers(ids, np.uint64(seed))


def slots_of(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return each flow's slot, uint8 ``[n]``, in ``[0, SLOTS)``."""
    return _slots(ids)
