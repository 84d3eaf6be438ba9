"""The dispatch's verdicts are a function of each flow's packets, however these are batched."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.dispatch import Dispatcher
from deployments.fakes import FAKE_SPEC, FakeFastTiers, FakeSlowTiers
from deployments.local import LocalTracker
from flows.packet import PACKET_DTYPE, FlowEndReason
from flows.wire import PacketBatch

S = 1_000_000_000
DEPTH = FAKE_SPEC.depths[-1]


@st.composite
def captures(draw: st.DrawFn) -> np.ndarray:
    """Draw packets and end marks of a few flows, in capture order."""
    rows = []
    for flow in range(1, draw(st.integers(1, 8)) + 1):
        time_ns = draw(st.integers(0, 20 * S))
        count = draw(st.integers(1, 7))
        for k in range(count):
            time_ns += draw(st.integers(0, 4 * S))
            if k < DEPTH:
                rows.append((time_ns, flow, k, 0, draw(st.integers(20, 1500))))
        reason = draw(st.sampled_from(FlowEndReason))
        if reason:
            rows.append((time_ns + draw(st.integers(0, 6 * S)), flow, count, reason, 0))
    rows.sort(key=lambda row: (row[0], row[1], row[3] != 0, row[2]))
    packets = np.zeros(len(rows), PACKET_DTYPE)
    for packet, row in zip(packets, rows, strict=True):
        packet["time_ns"], packet["flow_id"], packet["packet_index"] = row[:3]
        packet["flow_end_reason"], packet["ip_bytes"] = row[3:]
    return packets


def classify(packets: np.ndarray, cuts: list[int], trackers: int, repeat: bool) -> dict:
    """Submit ``packets`` in the batches between ``cuts``; return the final verdicts."""
    dispatcher = Dispatcher(
        FAKE_SPEC,
        FakeFastTiers(),
        [LocalTracker(FAKE_SPEC) for _ in range(trackers)],
        FakeSlowTiers(),
    )
    final: dict[int, tuple[object, ...]] = {}

    async def submit() -> None:
        edges = sorted({0, len(packets), *(cut % (len(packets) + 1) for cut in cuts)})
        watermark_ns = 0
        batches = []
        for start, stop in itertools.pairwise(edges):
            rows = packets[start:stop]
            watermark_ns = max(watermark_ns, int(rows["time_ns"].max()))
            batches.append(PacketBatch("edge", watermark_ns, rows))
        batches.append(PacketBatch("edge", watermark_ns + 100 * S, packets[:0]))
        for batch in batches:
            for _ in range(2 if repeat else 1):
                async for part in dispatcher.handle(batch):
                    for v in part[part["final"] == 1]:
                        names = ("label", "tier", "packets_used", "reason", "wait_ns")
                        said = tuple(v[name].item() for name in names)
                        assert final.setdefault(int(v["flow_id"]), said) == said

    asyncio.run(submit())
    counters = dispatcher.counters
    assert counters.packets_in == (
        counters.packets_applied + counters.packets_duplicate + counters.packets_malformed
    )
    assert counters.flows_admitted == counters.flows_sure + counters.flows_escalated
    if not repeat:
        assert counters.flows_settled == counters.flows_escalated
    return final


@settings(deadline=None, max_examples=150)
@given(captures(), st.lists(st.integers(0, 100), max_size=12), st.integers(1, 4))
def test_batching_and_trackers_do_not_change_verdicts(
    packets: np.ndarray, cuts: list[int], trackers: int
) -> None:
    whole = classify(packets, [], 1, repeat=False)
    assert set(whole) == set(packets["flow_id"].tolist())
    assert classify(packets, cuts, trackers, repeat=False) == whole


@settings(deadline=None, max_examples=100)
@given(captures(), st.integers(1, 4))
def test_submitting_again_changes_nothing(packets: np.ndarray, trackers: int) -> None:
    assert classify(packets, [], trackers, repeat=True) == classify(packets, [], 1, repeat=False)
