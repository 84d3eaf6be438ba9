"""What the Router and the trackers tell Ray: totals that are exact, seldom told."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from deployments import ray_metrics
from deployments.answers import Answers
from deployments.dispatch import Dispatcher
from deployments.fakes import FAKE_SPEC, FakeFastTiers, FakeSlowTiers
from deployments.latency_counts import BOUNDS_S
from deployments.local import LocalTracker
from deployments.metric_names import METRICS, exported_names
from deployments.metrics import Metrics
from deployments.tracker_metrics import TrackerMetrics
from flows.errors import WireError
from flows.packet import PACKET_DTYPE
from flows.wire import PacketBatch
from models.drift import DriftReference

S = 10**9
SOON_S = 0.01
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Series:
    """What was told to Ray, by name and labels; as strict as Ray is."""
    series: Series = {}

    class Fake:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert isinstance(tag_keys, tuple)
            assert description
            self.name, self.keys = name, set(tag_keys)

        def at(self, labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
            assert set(labels) == self.keys, self.name
            assert all(isinstance(value, str) for value in labels.values())
            return self.name, frozenset(labels.items())

        def inc(self, more: float, labels: dict[str, str]) -> None:
            assert more > 0
            series[self.at(labels)] = series.get(self.at(labels), 0) + more

        def set(self, value: float, labels: dict[str, str]) -> None:
            name, own = self.at(labels)
            series[name, own] = value
            most = f"{name}:most", own
            series[most] = max(value, series.get(most, value))

    monkeypatch.setattr(ray_metrics.metrics, "Counter", Fake)
    monkeypatch.setattr(ray_metrics.metrics, "Gauge", Fake)
    monkeypatch.setattr(ray_metrics, "EVERY_S", SOON_S)
    return series


def total(told: Series, name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have these labels."""
    return sum(n for (one, own), n in told.items() if one == name and own >= set(labels.items()))


def first_packets(n: int, first_flow: int = 1) -> np.ndarray:
    rows = np.zeros(n, PACKET_DTYPE)
    rows["flow_id"] = np.arange(first_flow, first_flow + n)
    rows["time_ns"] = S
    rows["ip_bytes"] = np.arange(n) % 50
    return rows


def answers(reference: DriftReference | None = None) -> tuple[Answers, Dispatcher]:
    trackers = [LocalTracker(FAKE_SPEC)]
    dispatcher = Dispatcher(FAKE_SPEC, FakeFastTiers(), trackers, FakeSlowTiers())
    metrics = Metrics(FAKE_SPEC, dispatcher, reference)
    return Answers(FAKE_SPEC, dispatcher, metrics, 1, 1 << 20), dispatcher


async def submit(to: Answers, packets: np.ndarray, late_s: int = 0) -> None:
    async for _ in to.parts(PacketBatch("edge", (1 + late_s) * S, packets)):
        pass


def test_what_is_told_adds_up(told: Series) -> None:
    async def run() -> Dispatcher:
        to, dispatcher = answers()
        for i in range(20):
            await submit(to, first_packets(300, 1 + i * 300))
            await asyncio.sleep(SOON_S / 3)
        await submit(to, first_packets(0), late_s=100)
        broken = first_packets(5, 10**6)
        broken["packet_index"] = 255
        await submit(to, broken)
        await submit(to, np.concatenate([first_packets(4, 10**7)] * 2), late_s=200)
        with pytest.raises(WireError):
            to.read(b"x")
        await asyncio.sleep(10 * SOON_S)
        return dispatcher

    counters = asyncio.run(run()).counters
    assert total(told, "serveflow_flows_total") == counters.flows_admitted == 6_004
    finals = sum(counters.finals.values())
    assert total(told, "serveflow_verdicts_total", model="fake") == finals > 6_000
    assert total(told, "serveflow_escalated_flows_total") == counters.flows_escalated > 0
    assert total(told, "serveflow_packets_total") == counters.packets_in == 6_013
    assert total(told, "serveflow_malformed_packets_total") == 5
    assert total(told, "serveflow_malformed_batches_total") == 1
    assert total(told, "serveflow_duplicate_packets_total") == 4
    assert total(told, "serveflow_model_info", model="fake") == 1
    by_reason = {reason.text: n for (_, reason), n in counters.finals.items()}
    assert total(told, "serveflow_verdicts_total", reason="timeout") == by_reason["timeout"]
    assert {name for name, _ in told if ":" not in name} <= {
        name.removeprefix("ray_") for name in exported_names()
    }
    for part in ("wait", "queue", "infer"):
        name = f"serveflow_{part}_seconds"
        assert total(told, f"{name}_count") == finals
        assert total(told, f"{name}_bucket", le="+Inf") == finals
        up_to = [total(told, f"{name}_bucket", le=f"{bound:g}") for bound in BOUNDS_S]
        assert up_to == sorted(up_to)
    assert total(told, "serveflow_wait_seconds_sum") >= by_reason["timeout"] * 9.9


def test_queues_are_told_at_their_fullest_and_empty_again(told: Series) -> None:
    async def run() -> None:
        to, _ = answers()
        await submit(to, first_packets(200))
        await asyncio.sleep(10 * SOON_S)  # nothing comes any more
        assert total(told, "serveflow_waiting_flows:most") == 200
        assert total(told, "serveflow_waiting_flows") == 0

    asyncio.run(run())


def test_nothing_is_told_of_drift_where_there_is_nothing_to_compare_with(told: Series) -> None:
    even = DriftReference(np.full(7, 500), np.full(4, 500))

    async def run(reference: DriftReference | None) -> None:
        to, _ = answers(reference)
        for i in range(12):
            await submit(to, first_packets(300, 1 + i * 300), late_s=60 * i)
        await asyncio.sleep(5 * SOON_S)

    asyncio.run(run(None))
    assert not any(name == "serveflow_drift_score" for name, _ in told)
    asyncio.run(run(even))
    for kind in ("labels", "tiers"):
        assert total(told, "serveflow_drift_score", reason=kind, model="fake") > 0


def test_a_tracker_that_is_another_one_is_counted(told: Series) -> None:
    async def run() -> None:
        to, dispatcher = answers()
        await submit(to, first_packets(50))
        tracker: Any = dispatcher._settling._lanes[0]
        tracker.tracker = LocalTracker(FAKE_SPEC)
        await submit(to, first_packets(50, 1_000))
        await submit(to, first_packets(50, 2_000))
        await asyncio.sleep(5 * SOON_S)

    asyncio.run(run())
    assert total(told, "serveflow_tracker_restarts_total", tracker="0") == 1


def test_a_tracker_tells_how_many_flows_it_holds(told: Series) -> None:
    async def run() -> None:
        to, dispatcher = answers()
        tracker: Any = dispatcher._settling._lanes[0].tracker
        TrackerMetrics("FlowTracker-3", tracker.join)
        await asyncio.sleep(0)
        assert told[("serveflow_open_flows", frozenset({("tracker", "3")}))] == 0
        await submit(to, first_packets(300))
        await asyncio.sleep(5 * SOON_S)
        assert total(told, "serveflow_open_flows", tracker="3") == tracker.join.open_flows > 0

    asyncio.run(run())


def test_what_ray_does_not_take_is_said_and_told_again(
    told: Series, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def tell() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("Ray is away")

    async def run() -> None:
        task = asyncio.create_task(ray_metrics.tell_again_and_again(tell))
        await asyncio.sleep(10 * SOON_S)
        assert not task.done()

    asyncio.run(run())
    assert calls > 3
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "metrics could not be told to Ray"
    ] * 2


def test_labels_are_of_a_closed_set() -> None:
    assert {label for metric in METRICS.values() for label in metric.labels} == {
        "tier", "reason", "model", "tracker",
    }  # fmt: skip
    ends = {"counter": ("_total",), "histogram": ("_seconds",)}
    for metric in METRICS.values():
        assert metric.name.endswith(ends.get(metric.kind, metric.name)), metric.name
