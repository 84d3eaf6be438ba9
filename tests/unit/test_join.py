"""The tracker's join: what is due, when, and that nothing gets lost on the way."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from flows.join import MARK_DTYPE, Due, Join
from flows.packet import PACKET_DTYPE, FlowEndReason, packet_dtype
from flows.verdict import Reason

S = 1_000_000_000
NO_IDS = np.empty(0, np.uint64)
NO_PACKETS = np.empty(0, PACKET_DTYPE)
DEPTHS = (1, 1, 3)


def packet(flow: int, index: int, time_s: float) -> np.ndarray:
    record = np.zeros(1, PACKET_DTYPE)
    record["flow_id"], record["packet_index"], record["time_ns"] = flow, index, int(time_s * S)
    return record


def end(flow: int, packets: int, time_s: float, reason: FlowEndReason) -> np.ndarray:
    record = packet(flow, packets, time_s)
    record["flow_end_reason"] = reason
    return record


def marks(*flows: int, next_tier: int = 2) -> np.ndarray:
    out = np.zeros(len(flows), MARK_DTYPE)
    out["flow_id"], out["next_tier"] = flows, next_tier
    return out


def absorb(join: Join, watermark_s: float, *packets: np.ndarray, **more: np.ndarray) -> Due:
    rows = np.concatenate([NO_PACKETS, *packets])
    return join.absorb(
        more.get("collector", "edge"),
        int(watermark_s * S),
        rows,
        more.get("marks", marks()),
        more.get("settled", NO_IDS),
    )


def test_a_flow_is_due_when_its_depth_is_reached() -> None:
    join = Join(DEPTHS, 10.0)
    assert not len(absorb(join, 1, packet(1, 0, 1), marks=marks(1)).flows)
    due = absorb(join, 1.2, packet(1, 2, 1.2), packet(1, 1, 1.1))
    assert due.flows["flow_id"].tolist() == [1]
    assert due.flows["over"].tolist() == [0]
    assert due.packets["packet_index"].tolist() == [0, 1, 2]
    assert join.counters.flows_final == 1
    assert join.open_flows == 0


@pytest.mark.parametrize("with_header", [False, True])
def test_packets_are_handed_out_as_they_came(with_header: bool) -> None:
    """The first one with what its host did before, though it comes last, and after growth."""
    join = Join(DEPTHS, 10.0, capacity=1, with_header=with_header)
    dtype = packet_dtype(with_header)
    came = np.arange(6 * dtype.itemsize).astype(np.uint8).view(dtype)
    came["flow_id"], came["packet_index"] = [1, 1, 1, 2, 2, 2], [0, 1, 2] * 2
    came["time_ns"], came["flow_end_reason"] = S, 0
    came["host"][came["packet_index"] > 0] = np.zeros((), came.dtype["host"])
    for i in (2, 5, 1, 4, 3, 0):
        due = join.absorb("edge", S, came[i : i + 1], marks(), NO_IDS)
        assert not len(due.flows)
    due = join.absorb("edge", S, came[:0], marks(1, 2), NO_IDS)
    assert due.packets.tobytes() == came.tobytes()


def test_what_comes_before_the_first_packet_counts_by_the_first_ones_time() -> None:
    join = Join(DEPTHS, 10.0)
    absorb(join, 1, packet(1, 1, 12), packet(1, 2, 3), marks=marks(1))
    due = absorb(join, 1, packet(1, 0, 1))
    assert due.packets["packet_index"].tolist() == [0]
    assert due.flows["over_ns"].tolist() == [11 * S]


def test_packets_may_come_before_their_mark() -> None:
    join = Join(DEPTHS, 10.0)
    assert not len(absorb(join, 1, packet(1, 1, 1.1), packet(1, 2, 1.2)).flows)
    due = absorb(join, 1, packet(1, 0, 1), marks=marks(1))
    assert np.diff(due.offsets).tolist() == [3]


def test_a_packet_absorbed_twice_changes_nothing() -> None:
    join = Join(DEPTHS, 10.0)
    absorb(join, 1, packet(1, 0, 1), marks=marks(1))
    absorb(join, 1, packet(1, 0, 1), marks=marks(1))
    due = absorb(join, 2, packet(1, 1, 1.1), packet(1, 1, 1.1), packet(1, 2, 1.2))
    assert len(due.packets) == 3
    assert join.counters.packets_duplicate == 2
    assert join.counters.flows_admitted == 1


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (FlowEndReason.END_OF_FLOW, Reason.ENDED),
        (FlowEndReason.FORCED_END, Reason.ENDED),
        (FlowEndReason.IDLE_TIMEOUT, Reason.TIMEOUT),
    ],
)
def test_an_ended_flow_is_judged_on_what_there_is(reason: FlowEndReason, said: Reason) -> None:
    join = Join(DEPTHS, 10.0)
    due = absorb(
        join, 2, packet(1, 0, 1), packet(1, 1, 1.5), end(1, 2, 1.5, reason), marks=marks(1)
    )
    assert due.flows["over"].tolist() == [1]
    assert due.flows["reason"].tolist() == [said]
    assert due.flows["over_ns"].tolist() == [int(1.5 * S)]
    assert len(due.packets) == 2


def test_an_end_mark_waits_for_the_packets_before_it() -> None:
    join = Join(DEPTHS, 10.0)
    mark = end(1, 2, 1.5, FlowEndReason.END_OF_FLOW)
    assert not len(absorb(join, 2, packet(1, 0, 1), mark, marks=marks(1)).flows)
    assert len(absorb(join, 2, packet(1, 1, 1.5)).packets) == 2


def test_a_flow_times_out_once_the_watermark_has_passed_its_deadline() -> None:
    join = Join(DEPTHS, 10.0)
    absorb(join, 1, packet(1, 0, 1), marks=marks(1))
    assert not len(absorb(join, 11.0).flows)
    due = absorb(join, 11.001)
    assert due.flows["reason"].tolist() == [Reason.TIMEOUT]
    assert due.flows["over_ns"].tolist() == [11 * S]


def test_packets_behind_the_deadline_do_not_count() -> None:
    join = Join(DEPTHS, 10.0)
    due = absorb(join, 12, packet(1, 0, 1), packet(1, 1, 11), packet(1, 2, 11.5), marks=marks(1))
    assert len(due.packets) == 2
    assert due.flows["reason"].tolist() == [Reason.TIMEOUT]


def test_watermarks_are_each_collectors_own() -> None:
    join = Join(DEPTHS, 10.0)
    absorb(join, 1, packet(1, 0, 1), marks=marks(1))
    assert not len(absorb(join, 100, collector="other").flows)


def test_nobody_reaches_the_flows_of_another_collector() -> None:
    join = Join(DEPTHS, 10.0)
    absorb(join, 1, packet(1, 0, 1), marks=marks(1))
    absorb(join, 1, packet(1, 1, 1), packet(1, 2, 1), collector="other")
    assert join.open_flows == 1
    assert not len(absorb(join, 2, collector="other", settled=np.array([1], np.uint64)).flows)
    assert join.open_flows == 1


def test_a_flow_between_two_depths_stays_until_it_is_marked_again_or_settled() -> None:
    join = Join((1, 2, 3), 10.0)
    due = absorb(join, 1, packet(1, 0, 1), packet(1, 1, 1), marks=marks(1, next_tier=1))
    assert len(due.packets) == 2
    assert not len(absorb(join, 1, packet(1, 2, 1)).flows)
    due = absorb(join, 1, marks=marks(1, next_tier=2))
    assert len(due.packets) == 3
    assert join.open_flows == 0


def test_a_settled_flow_is_let_go() -> None:
    join = Join((1, 2, 3), 10.0)
    absorb(join, 1, packet(1, 0, 1), packet(1, 1, 1), marks=marks(1, next_tier=1))
    absorb(join, 1, settled=np.array([1], np.uint64))
    assert join.open_flows == 0
    assert join.counters.flows_final == 1


def test_packets_whose_mark_never_comes_are_let_go() -> None:
    join = Join(DEPTHS, 10.0)
    absorb(join, 1, packet(1, 1, 1))
    absorb(join, 100)
    assert join.counters.orphans == 1


def test_the_flows_of_a_collector_that_has_gone_are_let_go_and_counted() -> None:
    now_s = [0.0]
    join = Join(DEPTHS, 10.0, wall_clock=lambda: now_s[0])
    absorb(join, 1, packet(1, 0, 1), marks=marks(1))
    now_s[0] = 61.0
    absorb(join, 1, collector="other")
    assert join.counters.flows_lost == 1
    assert join.open_flows == 0


def test_a_flow_that_is_handed_out_and_never_heard_of_again_is_let_go_and_counted() -> None:
    join = Join((1, 2, 3), 10.0)
    absorb(join, 1, packet(1, 0, 1), packet(1, 1, 1), marks=marks(1, next_tier=1))
    absorb(join, 31.0)
    assert join.open_flows == 1
    absorb(join, 31.001)
    assert join.counters.flows_lost == 1
    assert join.open_flows == 0


def test_a_flow_marked_again_still_times_out() -> None:
    join = Join((1, 2, 3), 10.0)
    absorb(join, 1, packet(1, 0, 1), packet(1, 1, 1), marks=marks(1, next_tier=1))
    assert not len(absorb(join, 2, marks=marks(1)).flows)
    assert absorb(join, 12).flows["over_ns"].tolist() == [11 * S]


def test_a_flow_marked_again_behind_its_deadline_is_due_at_once() -> None:
    join = Join((1, 2, 3), 10.0)
    absorb(join, 1, packet(1, 0, 1), packet(1, 1, 1), marks=marks(1, next_tier=1))
    assert not len(absorb(join, 20).flows)
    assert absorb(join, 20, marks=marks(1)).flows["over_ns"].tolist() == [11 * S]


def test_a_watermark_that_goes_back_loses_nobody() -> None:
    join = Join((1, 2, 3), 10.0)
    absorb(join, 1, packet(1, 0, 1), packet(1, 1, 1), marks=marks(1, next_tier=1))
    absorb(join, 20)
    assert not len(absorb(join, 5, packet(2, 0, 2), marks=marks(1, 2)).flows)
    assert absorb(join, 11.5).flows["flow_id"].tolist() == [1]
    assert absorb(join, 20).flows["flow_id"].tolist() == [2]


def test_a_watermark_may_jump_however_far() -> None:
    join = Join(DEPTHS, 10.0)
    starts_s = {flow: flow * 0.7 for flow in range(1, 200)}
    first = [packet(flow, 0, start_s) for flow, start_s in starts_s.items()]
    absorb(join, 0, *first, marks=marks(*starts_s))
    due = absorb(join, 10.0**6)
    assert sorted(due.flows["flow_id"].tolist()) == list(starts_s)


def test_collectors_that_come_and_go_leave_nothing_behind() -> None:
    now_s = [0.0]
    join = Join(DEPTHS, 10.0, wall_clock=lambda: now_s[0])
    tracemalloc.start()
    try:
        for turn in range(300):
            now_s[0] += 61.0
            name = f"edge-{turn}"
            assert not len(absorb(join, 1, packet(1, 0, 1), marks=marks(1), collector=name).flows)
            assert join.counters.packets_duplicate == 0
            assert join.counters.flows_lost == turn
            if turn == 10:
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 1_000_000


def test_growing_keeps_every_flow() -> None:
    join = Join(DEPTHS, 10.0, capacity=2)
    flows = range(1, 5001)
    for some in np.array_split(np.arange(1, 5001), 7):
        absorb(join, 1, *[packet(int(f), 0, 1) for f in some], marks=marks(*some.tolist()))
    assert join.open_flows == 5000
    due = absorb(join, 12)
    assert sorted(due.flows["flow_id"].tolist()) == list(flows)
    assert join.open_flows == 0


def test_packets_keep_their_headers() -> None:
    rng = np.random.default_rng(0)
    join = Join(DEPTHS, 10.0, capacity=2, with_header=True)
    packets = np.zeros(3000, packet_dtype(True))
    packets["flow_id"], packets["packet_index"] = np.arange(3000) // 3 + 1, np.arange(3000) % 3
    packets["header"] = rng.integers(0, 256, (3000, 128))
    sent = rng.permutation(packets)
    none = marks()
    for some in np.array_split(sent, 7):
        assert not len(join.absorb("edge", 0, some, none, NO_IDS).flows)
    due = join.absorb("edge", 0, sent[:0], marks(*range(1, 1001)), NO_IDS)
    assert due.packets.dtype == packet_dtype(True)
    assert (
        due.packets[np.lexsort((due.packets["packet_index"], due.packets["flow_id"]))] == packets
    ).all()
