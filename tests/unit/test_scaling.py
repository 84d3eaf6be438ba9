"""How many replicas a deployment gets for how busy they are."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import pytest
from ray.serve.config import AutoscalingContext

from deployments.scaling import TARGET, BusyTime, by_busy_time


def context(
    busy: list[float] | None, current: int, target: int | None = None
) -> AutoscalingContext:
    told = None if busy is None else {"busy": dict(enumerate(busy))}
    return cast(
        AutoscalingContext,
        SimpleNamespace(
            aggregated_metrics=told,
            current_num_replicas=current,
            target_num_replicas=current if target is None else target,
        ),
    )


@pytest.mark.parametrize(
    ("busy", "current", "wanted"),
    [
        ([TARGET], 1, 1.0),
        ([2 * TARGET], 1, 2.0),
        ([TARGET / 4, TARGET / 4], 2, 0.5),
        ([0.0, 0.0, 0.0], 3, 0.0),
        ([TARGET], 2, 2.0),  # one of two has not told yet
    ],
)
def test_replicas_follow_the_share_of_busy_time(
    busy: list[float], current: int, wanted: float
) -> None:
    assert by_busy_time(context(busy, current))[0] == pytest.approx(wanted)


@pytest.mark.parametrize("busy", [None, []])
def test_without_news_nothing_changes(busy: list[float] | None) -> None:
    assert by_busy_time(context(busy, current=1, target=2))[0] == 2


def test_a_replica_tells_how_busy_it_was_since_it_last_told() -> None:
    async def told() -> float:
        return (await replica.record_autoscaling_stats())["busy"]

    replica = BusyTime()
    assert asyncio.run(told()) == 0.0
    begin_s = time.process_time()
    while time.process_time() - begin_s < 0.1:
        sum(range(1000))
    assert 0.0 < asyncio.run(told()) <= 1.5  # a tick of the clock and other threads come on top
    time.sleep(0.2)
    assert asyncio.run(told()) < 0.5
