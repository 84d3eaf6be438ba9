"""What a model takes is measured in calls as they come in serving."""

from __future__ import annotations

import time

import pytest

from models.costs import BATCHES, COST_BATCH, call_us, cost_us


@pytest.mark.parametrize("flows", [1, 5, 300, 2_000])
def test_each_size_of_a_call_is_measured_on_flows_that_are_there(flows: int) -> None:
    calls: list[tuple[int, int]] = []
    found = cost_us(lambda begin, end: calls.append((begin, end)), flows)
    assert tuple(found) == BATCHES
    assert COST_BATCH in found
    assert all(cost > 0.0 for cost in found.values())
    assert all(0 <= begin < end <= flows for begin, end in calls)
    assert {end - begin for begin, end in calls} == {min(batch, flows) for batch in BATCHES}


def test_other_flows_are_asked_about_each_time() -> None:
    begins: set[int] = set()
    cost_us(lambda begin, end: begins.add(begin), 150)
    assert begins == set(range(150))


def test_work_is_counted_for_a_single_flow() -> None:
    """A call of 2 ms of work, however many flows are in it."""

    def work(begin: int, end: int) -> None:
        begin_s = time.thread_time()
        while time.thread_time() - begin_s < 0.002:
            pass

    found = cost_us(work, 1_000)
    for batch in BATCHES:
        assert found[batch] >= 2_000 / batch


def test_time_that_others_have_the_core_is_not_counted() -> None:
    found = cost_us(lambda begin, end: time.sleep(0.0005), 1_000)
    assert found[1] < 500


def test_what_a_call_takes_beside_its_flows_is_told_from_calls_of_two_sizes() -> None:
    found = {batch: 3.0 + 50.0 / batch for batch in BATCHES}  # 50 µs a call, 3 µs a flow
    assert call_us(found) == pytest.approx(50.0)
    assert call_us(dict.fromkeys(BATCHES, 3.0)) == 0.0
    assert call_us({batch: 3.0 - 1.0 / batch for batch in BATCHES}) == 0.0, "noise"
    assert call_us({}) == 0.0, "not measured, as in bundles of before"
