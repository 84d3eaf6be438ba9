"""Latencies are counted by tier, exactly, in buckets as Prometheus wants them."""

from __future__ import annotations

import numpy as np

from deployments.latency_counts import BOUNDS_S, PARTS, LatencyCounts
from flows.verdict import VERDICT_DTYPE


def test_buckets_reach_from_a_tenth_of_a_millisecond_to_100_s() -> None:
    assert BOUNDS_S[0] == 1e-4
    assert BOUNDS_S[-1] == 100.0
    steps = np.diff(np.log10(BOUNDS_S))
    assert np.allclose(steps, steps[0], rtol=0.02)


def test_each_verdict_is_in_one_bucket_of_its_tier_and_part() -> None:
    rng = np.random.default_rng(0)
    finals = np.zeros(5_000, VERDICT_DTYPE)
    finals["tier"] = rng.integers(3, size=len(finals))
    finals["wait_ns"] = rng.integers(0, 200 * 10**9, len(finals))
    finals["infer_ns"] = rng.integers(0, 10**7, len(finals))
    stayed_ns = rng.integers(0, 10**9, len(finals))
    counts = LatencyCounts(3)
    for part in np.array_split(np.arange(len(finals)), 7):
        counts.add(finals[part], stayed_ns[part])
    queue_ns = np.maximum(stayed_ns - finals["infer_ns"], 0)
    for name, ns in zip(PARTS, (finals["wait_ns"], queue_ns, finals["infer_ns"]), strict=True):
        for tier in range(3):
            own = ns[finals["tier"] == tier]
            found = counts.counts[name][tier].cumsum()
            expected = [int((own <= round(bound * 1e9)).sum()) for bound in BOUNDS_S]
            assert found[:-1].tolist() == expected
            assert found[-1] == len(own)
            assert np.isclose(counts.sums_s[name][tier], own.sum() / 1e9)


def test_a_verdict_whose_models_took_longer_than_its_batch_has_not_queued() -> None:
    """Clocks of two processes: infer is measured at the model."""
    finals = np.zeros(1, VERDICT_DTYPE)
    finals["infer_ns"] = 2_000
    counts = LatencyCounts(1)
    counts.add(finals, np.array([1_000]))
    assert counts.counts["queue"][0, 0] == 1
    assert counts.sums_s["queue"][0] == 0.0
