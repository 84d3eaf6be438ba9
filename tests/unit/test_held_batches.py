"""What a tracker did not take is held: one batch tries it again, then the others follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from collectors.collector import Collector, Outgoing
from flows.ids import slots_of
from flows.packet import ENDPOINTS_DTYPE, packet_dtype
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE

S = 10**9
TRACKERS = 2


@pytest.fixture
def collector() -> Collector:
    schema = ServiceSchema(
        depth=10, max_wait_s=10.0, classes=("a",), tiers=("fast", "deep"), depths=(1, 10),
        model_version="v", trackers=TRACKERS, max_batch_packets=1000, max_body_bytes=1 << 20,
    )  # fmt: skip
    return Collector(schema, name="edge")


def new_flows(collector: Collector, first: int, n: int = 20) -> Outgoing:
    """Let flows of one packet each begin; return the batch that holds them."""
    rows, ends = np.zeros(n, packet_dtype(False)), np.zeros(n, ENDPOINTS_DTYPE)
    rows["time_ns"] = 1_700_000_000 * S + first
    rows["protocol"], rows["ip_bytes"] = 17, 60
    ends["protocol"], ends["ip_version"] = 17, 6
    ends["src_lo"], ends["dst_lo"], ends["dst_port"] = np.arange(first, first + n), 1 << 40, 53
    collector.observe(rows, ends, np.zeros(n, np.int64))
    return collector.next_batch(0)


def answer(
    collector: Collector, out: Outgoing, *, away: list[int], now_s: float, **more: Any
) -> None:
    """Answer a batch: no flow is sure, and some trackers did not take their rows."""
    verdicts = np.zeros(len(np.unique(out.batch.packets["flow_id"])), VERDICT_DTYPE)
    verdicts["flow_id"] = np.unique(out.batch.packets["flow_id"])
    notes: dict[str, Any] = {"trackers": {}, **more} | ({"away": away} if away else {})
    collector.receive(out, verdicts, notes, int(now_s * S))
    collector.acknowledge(out, int(now_s * S))


def pinned(out: Outgoing, tracker: int) -> int:
    """Return how many flows of a batch are pinned to ``tracker``."""
    ids = np.unique(out.batch.packets["flow_id"])
    return int((slots_of(ids) % TRACKERS == tracker).sum())


def held(collector: Collector, batches: int) -> list[int]:
    """Have batches held that tracker 0 did not take; return its flows in each."""
    outs = [new_flows(collector, 100 * i) for i in range(batches)]
    for out in outs:
        answer(collector, out, away=[0], now_s=0.0)
    return [pinned(out, 0) for out in outs]


def test_one_held_batch_tries_and_with_it_only_its_own_trackers_flows(collector: Collector) -> None:
    first, *_ = held(collector, 3)
    collector.resend_overdue(int(0.1 * S))
    assert not collector.has_work, "half a second has not passed"
    collector.resend_overdue(S)
    again = collector.next_batch(S)
    assert (pinned(again, 0), pinned(again, 1)) == (first, 0)


def test_those_that_are_still_away_are_tried_by_the_next_batch(collector: Collector) -> None:
    _, second, *_ = held(collector, 3)
    collector.resend_overdue(S)
    answer(collector, collector.next_batch(S), away=[0], now_s=1.0)
    collector.resend_overdue(2 * S)
    assert pinned(collector.next_batch(2 * S), 0) == second


def test_all_follow_when_it_is_through(collector: Collector) -> None:
    _, *others = held(collector, 3)
    collector.resend_overdue(S)
    answer(collector, collector.next_batch(S), away=[], now_s=1.0)
    assert pinned(collector.next_batch(S), 0) == sum(others)


def test_a_new_incarnation_gets_all_of_its_flows_once(collector: Collector) -> None:
    answer(collector, new_flows(collector, 10_000), away=[], now_s=0.0, trackers={"0": "old"})
    taken = pinned_before = collector.open_flows
    flows = held(collector, 3)
    answer(collector, new_flows(collector, 20_000), away=[], now_s=0.0, trackers={"0": "new"})
    again = collector.next_batch(0)
    rows = again.batch.packets
    assert len(rows) == len(np.unique(rows["flow_id"])), "no packet twice"
    assert pinned(again, 1) == 0
    assert sum(flows) < pinned(again, 0) < sum(flows) + taken + pinned_before
    collector.resend_overdue(10 * S)
    assert not collector.has_work, "nothing is held any more"
