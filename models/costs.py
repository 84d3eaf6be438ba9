"""What a tier takes a flow: measured, in the engine that serves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["BATCHES", "CALL_FLOWS", "COST_BATCH", "call_us", "cost_us"]

BATCHES = (1, 16, 256)
"""Flows in a call for which costs are measured."""

COST_BATCH = 256
"""The one that goals on cost are about."""

CALL_FLOWS = 64
"""Flows that a service judges in a call: each one waits for all of them."""

_FEW = 16  # the other of BATCHES that calls are told from

_ROUNDS = 5
_ROUND_S = 0.01
_ROUND_CALLS = 40
_OTHERS = 1 << 18  # float64: 2 MiB, as much as a core has caches for itself


def cost_us(ask: Callable[[int, int], object], flows: int) -> dict[int, float]:
    """Measure what a call takes, microseconds per flow, by flows in a call.

    It is CPU time, as engines use one thread: while others have the core, nothing is counted. And
    it is the least of several rounds: what else the machine does can only add to it. Before each
    call others' data have been in the core's caches, as other tiers' have in a service: where a
    forest finds its trees there, calls of few flows take as little as half as long.

    Args:
        ask: Does the work for the flows from the first number to below the second.
        flows: How many there are.
    """
    found = {}
    others = np.ones(_OTHERS)  # zeros would be one page of memory, again and again
    for batch in BATCHES:
        size = min(batch, flows)
        ask(0, size)
        rounds, at = [], 0
        for _ in range(_ROUNDS):
            calls, spent_s = 0, 0.0
            while spent_s < _ROUND_S and calls < _ROUND_CALLS:
                others.sum()
                begin_s = time.thread_time()
                ask(at, at + size)
                spent_s += time.thread_time() - begin_s
                calls += 1
                at = at + size if at + 2 * size <= flows else 0
            rounds.append(spent_s / (calls * size))
        found[batch] = round(1e6 * float(np.min(rounds)), 3)
    return found


def call_us(found: Mapping[int, float]) -> float:
    """Return what a call takes beside its flows, however few these are, microseconds.

    Args:
        found: By flows in a call, as of :func:`cost_us`; nothing: not measured, and 0 comes back.
    """
    if _FEW not in found or COST_BATCH not in found:
        return 0.0
    # What a flow of a small call takes more than one of a large call is its greater part of it.
    more_us = found[_FEW] - found[COST_BATCH]
    return max(0.0, more_us * _FEW * COST_BATCH / (COST_BATCH - _FEW))
