"""The search finds the highest rate that holds; CPU is told apart by process; figures are plain."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.cpu import PARTS, cpu_ms, part_of, spent_ms
from benchmarks.results import medians, percentiles, plain, spread
from benchmarks.search import highest_rate


@pytest.mark.parametrize("capacity", [3.0, 900.0, 4_000.0, 48_500.0, 1e6])
def test_the_highest_rate_is_found(capacity: float) -> None:
    full_runs = []

    def run(rate: float, full: bool) -> tuple[bool, float]:
        full_runs.append(full)
        return rate <= capacity, rate

    found = highest_rate(run, first=4_000.0, rounds=3)
    assert found.rate is not None
    assert capacity / 1.06 <= found.rate <= capacity
    assert found.confirmed == [found.rate] * 3
    assert full_runs[-3:] == [True] * 3
    assert len(found.tried) == len(full_runs) < 30


def test_what_only_short_runs_hold_is_not_reported() -> None:
    def run(rate: float, full: bool) -> tuple[bool, float]:
        return rate <= (10_000.0 if full else 20_000.0), rate

    found = highest_rate(run, first=4_000.0, rounds=2)
    assert found.rate is not None
    assert 9_000.0 < found.rate <= 10_000.0
    assert found.confirmed == [found.rate] * 2


def test_a_service_that_holds_nothing_gives_no_rate() -> None:
    found = highest_rate(lambda rate, full: (False, rate), first=100.0, rounds=3)
    assert found.rate is None
    assert found.confirmed == []


@pytest.mark.parametrize(
    ("title", "part"),
    [
        ("ray::ServeReplica:serveflow:Router", "ingress"),
        ("ray::ServeReplica:serveflow:FastModel", "fast"),
        ("ray::ServeReplica:slow-only:SlowModel", "slow"),
        ("ray::ServeReplica:serveflow:FlowTracker-12", "trackers"),
        ("ray::HAProxyManager", "proxy"),
        ("ray::ProxyActor", "proxy"),
        ("/some/where/haproxy -db -f haproxy.cfg", "proxy"),
        ("raylet --flag", "ray"),
        ("ray::ServeController", "ray"),
        ("python -m ray.serve.scripts run haproxy.yaml", "ray"),
    ],
)
def test_processes_are_told_apart(title: str, part: str) -> None:
    assert part_of(title) == part


def test_what_a_process_used_before_it_became_a_replica_is_not_the_replicas() -> None:
    before = {1: ("ray", 900.0), 2: ("fast", 50.0), 3: ("ray", 10.0)}
    after = {1: ("fast", 905.0), 2: ("fast", 80.0), 4: ("slow", 2.0)}
    used = spent_ms(before, after)
    assert used["fast"] == 35.0
    assert used["slow"] == 2.0
    assert used["ray"] == 0.0


def test_cpu_of_a_process_grows_with_its_work() -> None:
    # A child, as this process may be the ancestor of a whole service.
    with subprocess.Popen(
        [sys.executable, "-c", "while True: sum(range(10_000))"], stdin=subprocess.DEVNULL
    ) as child:
        before = cpu_ms(child.pid)
        assert set(before) == set(PARTS)
        until_s = time.monotonic() + 60
        while sum(cpu_ms(child.pid).values()) < sum(before.values()) + 50.0:
            assert time.monotonic() < until_s
            time.sleep(0.05)
        child.kill()


def test_no_cpu_is_seen_of_a_process_that_is_not_there() -> None:
    assert sum(cpu_ms(2**30).values()) == 0.0


def test_figures_are_plain_json() -> None:
    told = plain({"a": np.float64(1.2345678), "b": math.nan, 3: [np.int64(4), True, None]})
    assert told == {"a": 1.2346, "b": None, "3": [4, True, None]}


def test_medians_are_taken_number_by_number() -> None:
    rounds = [{"a": 1.0, "b": {"c": 5.0}}, {"a": 9.0, "b": {"c": 4.0}}, {"a": 2.0, "b": {"c": 6.0}}]
    assert medians(rounds) == {"a": 2.0, "b": {"c": 5.0}}
    assert spread([3.0, 1.0]) == {"lowest": 1.0, "highest": 3.0, "rounds": 2}


def test_percentiles_of_nothing_are_not_zero() -> None:
    assert percentiles(np.arange(101.0)) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert all(math.isnan(value) for value in percentiles(np.empty(0)).values())
