"""Compiled parts of :mod:`collectors.ledger` that look through all flows or many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from collectors.ledger_kernels import FINAL, UNCERTAIN
from flows.compiled import compiled, kernel
from flows.ids import mix64
from flows.packet import Records

__all__ = ["advance_base", "evict", "overdue", "reset_tracker", "unsettled"]


@kernel
def advance_base(entries: Records, base: np.uint64, end: np.uint64) -> np.uint64:
    """Return the number of the oldest flow without a final verdict."""
    mask = np.uint64(len(entries) - 1)
    while base < end and entries[np.int64(base & mask)].state == FINAL:
        base += np.uint64(1)
    return base


@kernel
def evict(
    entries: Records, base: np.uint64, end: np.uint64, most: int, reason: int, out: Records
) -> int:
    """Write the provisional verdicts of the oldest flows that have one as final ones.

    Returns how many there are. ``out`` is ``VERDICT_DTYPE`` and has room for ``most``. Their model
    time is left at 0, as the ledger has added it up.
    """
    mask = np.uint64(len(entries) - 1)
    n = 0
    while base < end and n < most:
        entry = entries[np.int64(base & mask)]
        base += np.uint64(1)
        if entry.state == FINAL or entry.packets_used == 0:
            continue
        verdict = out[n]
        verdict.flow_id, verdict.wait_ns, verdict.infer_ns = entry.flow_id, entry.wait_ns, 0
        verdict.confidence, verdict.novelty = entry.confidence, entry.novelty
        verdict.label, verdict.tier = entry.label, entry.tier
        verdict.packets_used, verdict.final, verdict.reason = entry.packets_used, 1, reason
        n += 1
    return n


@compiled
def overdue(
    entries: Records,
    base: np.uint64,
    end: np.uint64,
    depth: int,
    deadline_before_ns: int,
    sent_before_ns: int,
) -> npt.NDArray[np.uint64]:
    """Return the numbers of flows whose verdict should have come but did not."""
    mask = np.uint64(len(entries) - 1)
    out = np.empty(np.int64(end - base), np.uint64)
    n = 0
    number = base
    while number < end:
        entry = entries[np.int64(number & mask)]
        complete = entry.end_sent or entry.sent == depth or entry.start_ns < deadline_before_ns
        if entry.state == UNCERTAIN and complete and entry.sent_ns < sent_before_ns:
            out[n] = number
            n += 1
        number += np.uint64(1)
    return out[:n]


@compiled
def reset_tracker(
    entries: Records, base: np.uint64, end: np.uint64, tracker: int, trackers: int
) -> npt.NDArray[np.uint64]:
    """Return the numbers of uncertain flows that are pinned to ``tracker``."""
    mask = np.uint64(len(entries) - 1)
    out = np.empty(np.int64(end - base), np.uint64)
    n = 0
    number = base
    while number < end:
        entry = entries[np.int64(number & mask)]
        slot = np.int64(mix64(entry.flow_id) & np.uint64(0xFF))
        if entry.state == UNCERTAIN and slot % trackers == tracker:
            out[n] = number
            n += 1
        number += np.uint64(1)
    return out[:n]


@kernel
def unsettled(
    entries: Records,
    base: np.uint64,
    end: np.uint64,
    numbers: npt.NDArray[np.uint64],
    out: npt.NDArray[np.bool_],
) -> None:
    """Tell of each flow whether it is known and has no final verdict."""
    mask = np.uint64(len(entries) - 1)
    for i in range(len(numbers)):
        number = numbers[i]
        known = base <= number < end
        out[i] = known and entries[np.int64(number & mask)].state != FINAL
