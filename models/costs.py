"""What a tier takes a flow: measured, in the engine that serves it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

__all__ = ["BATCHES", "CALL_FLOWS", "COST_BATCH", "cost_us"]

BATCHES = (1, 16, 256)
"""Flows in a call for which costs are measured."""

COST_BATCH = 256
"""The one that goals on cost are about."""

CALL_FLOWS = 64
"""Flows that a service judges in a call: each one waits for all of them."""

_ROUNDS = 5
_ROUND_S = 0.01


def cost_us(ask: Callable[[int, int], object], flows: int) -> dict[int, float]:
    """Measure what a call takes, microseconds per flow, by flows in a call.

    It is CPU time, as engines use one thread: while others have the core, nothing is counted. And
    it is the least of several rounds: what else the machine does can only add to it.

    Args:
        ask: Does the work for the flows from the first number to below the second.
        flows: How many there are.
    """
    found = {}
    for batch in BATCHES:
        size = min(batch, flows)
        ask(0, size)
        rounds = []
        for _ in range(_ROUNDS):
            calls, at = 0, 0
            begin_s = time.thread_time()
            while (spent_s := time.thread_time() - begin_s) < _ROUND_S:
                ask(at, at + size)
                calls += 1
                at = at + size if at + 2 * size <= flows else 0
            rounds.append(spent_s / (calls * size))
        found[batch] = round(1e6 * float(np.min(rounds)), 3)
    return found
