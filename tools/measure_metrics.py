"""Measure what the Router's metrics cost: CPU time of counting an answer, and of telling Ray.

In a Ray worker, with the embedded bundle's tiers and labels; the least of five rounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import ray

from deployments.local import local_dispatcher, spec_of
from deployments.metrics import Metrics
from flows.verdict import VERDICT_DTYPE, Reason
from models.cascade import load_cascade
from models.drift import drift_reference
from serveflow_app.settings import bundle_folder

_ROUNDS, _ANSWERS = 5, 400


def _part(n: int, rng: np.random.Generator) -> np.ndarray:
    part = np.zeros(n, VERDICT_DTYPE)
    part["final"], part["reason"] = rng.random(n) < 0.6, Reason.CONFIDENT
    part["tier"], part["label"] = rng.integers(0, 4, n), rng.integers(0, 21, n)
    part["wait_ns"] = 10 ** rng.uniform(4, 10.5, n)
    part["infer_ns"] = 10 ** rng.uniform(3, 6, n)
    return part


def _least_us(run: Callable[[], None], times: int) -> float:
    least = float("inf")
    for _ in range(_ROUNDS):
        begin = time.process_time()
        run()
        least = min(least, (time.process_time() - begin) / times * 1e6)
    return round(least, 1)


async def _measure() -> dict[str, float]:
    cascade = load_cascade(bundle_folder())
    dispatcher = local_dispatcher(cascade)
    metrics = Metrics(spec_of(cascade), dispatcher, drift_reference(bundle_folder()))
    rng = np.random.default_rng(0)
    found = {}
    for n in (1, 32, 250, 1000):
        parts = [_part(n, rng) for _ in range(50)]

        def count(parts: list[np.ndarray] = parts) -> None:
            for i in range(_ANSWERS):
                metrics.changed()
                metrics.verdicts(parts[i % len(parts)], 12_345_678)
                metrics.changed()

        found[f"an answer of {n} verdicts, µs"] = _least_us(count, _ANSWERS)
    least = float("inf")
    for _ in range(_ROUNDS):
        for tier in range(4):
            for reason in (Reason.CONFIDENT, Reason.ENDED, Reason.TIMEOUT):
                finals = dispatcher.counters.finals
                finals[tier, reason] = finals.get((tier, reason), 0) + 1
        begin = time.process_time()
        await metrics._publish()
        least = min(least, time.process_time() - begin)
    found["all told to Ray, ms, every 5 s"] = round(least * 1e3, 2)
    return found


@ray.remote
def _in_a_worker() -> dict[str, float]:
    return asyncio.run(_measure())


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    for what, value in ray.get(_in_a_worker.remote()).items():
        print(f"{what}: {value}")
