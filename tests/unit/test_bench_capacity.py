"""The capacity model finds what it was made of, its queues are those of the books, plans hold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.capacity import TERMS, Load, Model, Point, fit, left_out, points_of
from benchmarks.capacity_run import fitted
from benchmarks.plan import Wanted, plan
from benchmarks.points import parse_load
from benchmarks.queueing import Queue, answer_quantile_ms, erlang_c, least
from flows.errors import SettingsError

GATHER_S = 0.05
CORES = 2
TRUE = Model(
    factors={
        "ingress": {"idle": 100.0, "flows": 3.0, "batches": 2.0, "calls": 1.0},
        "fast": {"idle": 30.0, "flows": 1.5, "batches": 1.0},
        "trackers": {"flows": 1.0, "calls": 3.0},
        "slow": {"flows": 4.0, "rounds": 3.0},
        "proxy": {"idle": 20.0, "flows": 0.0, "batches": 0.3},
        "ray": {"idle": 110.0, "flows": 0.0, "batches": 0.0, "calls": 0.0},
        "generator": {"idle": 10.0, "flows": 1.0, "batches": 1.0},
    },
    period_ms=100.0,
    batch_ms=12.0,
    flow_ms=0.004,
    variability=0.8,
)
LOADS = [
    (rate, collectors, trackers)
    for rate in (5_000.0, 20_000.0, 45_000.0)
    for collectors, trackers in ((2, 2), (8, 2), (8, 4), (1, 1))
]


def point(model: Model, rate: float, collectors: int, trackers: int) -> Point:
    load = Load(rate, collectors * 1000.0 / model.period_ms, trackers, GATHER_S)
    cores = {part: model.cores(part, load) for part in TERMS}
    first = (model.first_ms(load, CORES, 0.5), model.first_ms(load, CORES, 0.99))
    return Point(load, collectors, CORES, cores, first, (300.0, 60.0))


POINTS = [point(TRUE, *load) for load in LOADS]


def test_a_model_is_found_again_from_what_it_tells() -> None:
    model = fit(POINTS)
    for part, factors in TRUE.factors.items():
        assert model.factors[part] == pytest.approx(factors, rel=1e-3, abs=1e-3)
    assert model.period_ms == pytest.approx(100.0)
    unseen = point(TRUE, 70_000.0, 4, 3)
    told = model.predicted(unseen)
    assert told["all"] == pytest.approx(sum(unseen.cores_used.values()), rel=1e-3)
    assert told["first_p50_ms"] == pytest.approx(unseen.first_ms[0], rel=0.02)
    assert told["first_p99_ms"] == pytest.approx(unseen.first_ms[1], rel=0.05)


def test_no_factor_is_below_zero_however_noisy_the_points() -> None:
    drawn = np.random.default_rng(3)
    noisy = [
        replace(p, cores_used={k: v * drawn.uniform(0.7, 1.3) for k, v in p.cores_used.items()})
        for p in POINTS
    ]
    factors = fit(noisy).factors
    assert all(value >= 0 for one in factors.values() for value in one.values())


def test_each_point_is_told_by_all_others() -> None:
    told = left_out(POINTS[:8])
    assert [p for p, _ in told] == POINTS[:8]
    odd = replace(POINTS[0], cores_used={k: 9 * v for k, v in POINTS[0].cores_used.items()})
    _, predicted = left_out([odd, *POINTS[1:8]])[0]
    assert predicted["all"] == pytest.approx(told[0][1]["all"])


def test_few_points_are_refused() -> None:
    with pytest.raises(SettingsError, match="6 at least"):
        fit(POINTS[:5])


@pytest.mark.parametrize(
    ("servers", "utilisation", "waits"),
    [
        (1, 0.3, 0.3),
        (1, 0.9, 0.9),
        (2, 0.5, 1 / 3),
        (3, 2 / 3, 4 / 9),
        (5, 1.0, 1.0),
        (4, 0.0, 0.0),
    ],
)
def test_erlang_c(servers: int, utilisation: float, waits: float) -> None:
    assert erlang_c(servers, utilisation) == pytest.approx(waits)


def test_the_wait_in_m_m_1() -> None:
    queue = Queue(1, 0.8, 10.0, 1.0)
    assert queue.mean_wait_ms == pytest.approx(0.8 * 10.0 / 0.2)
    # P(W > t) = rho exp(-(1 - rho) t / s)
    assert queue.wait_ms(0.99) == pytest.approx(10.0 / 0.2 * math.log(0.8 / 0.01))
    assert queue.wait_ms(0.1) == 0.0
    assert Queue(1, 1.2, 10.0, 1.0).mean_wait_ms == math.inf
    assert Queue(1, 0.8, 10.0, 0.5).mean_wait_ms == pytest.approx(20.0)


def test_first_answers_wait_for_batches_and_in_the_queue() -> None:
    """As drawn: a uniform wait, an exponential one for those who have to, and the service."""
    queue, period_ms = Queue(2, 0.7, 15.0, 1.4), 80.0
    drawn = np.random.default_rng(1)
    n = 200_000
    waits = drawn.exponential(queue.mean_wait_ms / queue.waits, n) * (drawn.random(n) < queue.waits)
    total = drawn.uniform(0, period_ms, n) + waits + queue.service_ms
    for quantile in (0.5, 0.9, 0.99):
        expected = float(np.quantile(total, quantile))
        assert answer_quantile_ms(queue, period_ms, quantile) == pytest.approx(expected, rel=0.01)


def test_without_a_queue_only_the_batch_is_waited_for() -> None:
    queue = Queue(2, 0.0, 15.0, 1.0)
    assert answer_quantile_ms(queue, 100.0, 0.99) == pytest.approx(15.0 + 99.0)


def test_the_search_finds_where_a_function_is_least() -> None:
    found = least(lambda x: (x[0] - 3.0) ** 2 + (x[1] + 1.0) ** 2, (0.0, 5.0), (1.0, 1.0))
    assert found == pytest.approx([3.0, 0.0], abs=1e-3)  # none goes below 0


@pytest.mark.parametrize("rate", [1_000.0, 48_500.0, 400_000.0, 3e6])
def test_a_plan_uses_no_replica_more_than_it_may(rate: float) -> None:
    wanted = Wanted(rate, utilisation=0.6, gather_s=GATHER_S, node_cores=32)
    told = plan(TRUE, wanted)
    assert all(one["utilisation"] <= 0.6 + 1e-9 for one in told["parts"].values())
    assert told["cells"] * told["rate_of_a_cell"] == pytest.approx(rate)
    used = sum(one["cores_used"] for one in told["parts"].values())
    assert told["cores_used"] == pytest.approx(used + sum(told["other_cores_used"].values()))
    assert told["cores"] >= told["cores_used"] / 0.6
    assert told["cores_used"] / told["cells"] <= 0.6 * 32 + 1e-9
    assert told["nodes"] * told["cells_a_node"] >= told["cells"]
    assert told["cells_a_node"] * told["cores_used"] / told["cells"] <= 0.6 * 32 + 1e-9


def test_a_plan_costs_what_the_model_says_of_each_cell() -> None:
    told = plan(TRUE, Wanted(50_000.0, gather_s=GATHER_S))
    parts = told["parts"]
    load = Load(
        50_000.0 / told["cells"], 50.0 / told["cells"], parts["trackers"]["replicas_of_a_cell"],
        GATHER_S, parts["ingress"]["replicas_of_a_cell"], parts["fast"]["replicas_of_a_cell"],
    )  # fmt: skip
    for part, one in parts.items():
        assert one["cores_used"] == pytest.approx(told["cells"] * TRUE.cores(part, load))


def test_smaller_batches_cost_more() -> None:
    large, small = (
        plan(TRUE, Wanted(200_000.0, batch_flows=flows, gather_s=GATHER_S))
        for flows in (1_000.0, 50.0)
    )
    assert small["cores_used"] > 1.2 * large["cores_used"]


def test_what_flows_hold_and_send_is_reckoned() -> None:
    told = plan(
        TRUE,
        Wanted(1e6, gather_s=GATHER_S, unsure_share=0.4, open_s=5.0, tracker_flow_bytes=500.0,
               flow_bytes=(250.0, 50.0), collector_us_per_flow=7.0),
    )  # fmt: skip
    assert told["gbit_per_s"] == pytest.approx({"in": 2.0, "out": 0.4})
    assert told["open_at_trackers"] == pytest.approx(2e6)
    assert told["tracker_gb"] == pytest.approx(1.0)
    assert told["collector_cores_used"] == pytest.approx(7.0)


def test_a_utilisation_that_idling_exceeds_is_refused() -> None:
    with pytest.raises(SettingsError, match="calls alone"):
        plan(TRUE, Wanted(1_000.0, utilisation=0.05, gather_s=GATHER_S))


def result_of(points: list[Point], commit: str = "abc", **changes: Any) -> dict[str, Any]:
    return {
        "points": [
            {
                "rate": p.load.rate, "collectors": p.collectors, "held": True, "steady": True,
                "replicas": {"ingress": 1, "fast": 1},
                "batches_per_second": p.load.batches_per_s, "cores_used": p.cores_used,
                "first_answer_ms": {"p50": p.first_ms[0], "p99": p.first_ms[1]},
                "sent_bytes_per_flow": 300.0, "received_bytes_per_flow": 60.0, **changes,
            }
            for p in points
        ],
        "environment": {
            "cores": CORES, "commit": commit,
            "settings": {"trackers": points[0].load.trackers, "gather_s": GATHER_S,
                         "placement": "separate"},
        },
    }  # fmt: skip


def test_kept_points_are_read_as_they_were_measured() -> None:
    same = [p for p in POINTS if p.load.trackers == 2]
    assert points_of(result_of(same)) == same
    assert points_of(result_of(same, held=False)) == []
    assert points_of(result_of(same, steady=False)) == []


def test_the_fit_takes_points_of_one_commit_and_leaves_some_for_the_check() -> None:
    by_trackers = {n: [p for p in POINTS if p.load.trackers == n] for n in (1, 2, 4)}
    checked = point(TRUE, 30_000.0, 4, 2)
    results = [
        ("capacity-points-1", result_of([point(TRUE, 9_000.0, 3, 2)], commit="older")),
        ("engine-2", {}),
        ("capacity-points-3", result_of(by_trackers[1])),
        ("capacity-points-4", result_of([*by_trackers[2], checked])),
        ("capacity-points-5", result_of(by_trackers[4])),
    ]
    model, used, left, files = fitted(results)
    outside = [p for p in POINTS if (p.load.rate, p.collectors) == (45_000.0, 8)]
    assert len(outside) == 2
    assert left == [outside[0], checked, outside[1]]
    assert len(used) == len(POINTS) - len(outside)
    assert files == ["capacity-points-3", "capacity-points-4", "capacity-points-5"]
    assert model.predicted(checked)["all"] == pytest.approx(sum(checked.cores_used.values()), 1e-3)


def test_without_points_it_is_said_how_to_get_them() -> None:
    with pytest.raises(SettingsError, match="bench capacity-points --save"):
        fitted([])


def test_a_load_is_a_rate_and_collectors() -> None:
    assert parse_load("20000@4") == (20_000.0, 4)
    for wrong in ("20000", "0@4", "20000@0", "@4", "fast@4"):
        with pytest.raises(SettingsError, match="RATE@COLLECTORS"):
            parse_load(wrong)
