"""Large calls are cut into portions that hold the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.portions import due_portions, packet_portions
from flows.join import DUE_DTYPE, Due
from flows.packet import PACKET_DTYPE

SIZE = PACKET_DTYPE.itemsize


def packets(n: int) -> np.ndarray:
    rows = np.zeros(n, PACKET_DTYPE)
    rows["flow_id"] = np.arange(n)
    return rows


@given(st.integers(0, 50), st.integers(0, 20))
def test_packets_come_back_in_order_and_no_portion_is_too_large(n: int, most: int) -> None:
    rows = packets(n)
    parts = list(packet_portions(rows, most * SIZE))
    assert all(0 < len(part) <= max(most, 1) for part in parts)
    assert np.concatenate([rows[:0], *parts])["flow_id"].tolist() == rows["flow_id"].tolist()


@given(st.lists(st.integers(1, 10), max_size=30), st.integers(0, 25))
def test_due_flows_keep_their_packets(sizes: list[int], most: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    flows = np.zeros(len(sizes), DUE_DTYPE)
    flows["flow_id"] = np.arange(len(sizes))
    parts = list(due_portions(Due(flows, packets(int(offsets[-1])), offsets), most * SIZE))
    told = []
    for part in parts:
        assert part.offsets[0] == 0
        assert part.offsets[-1] == len(part.packets)
        assert len(part.flows) == 1 or len(part.packets) <= most
        for i, flow in enumerate(part.flows["flow_id"]):
            of_flow = part.packets[part.offsets[i] : part.offsets[i + 1]]
            told.append((int(flow), of_flow["flow_id"].tolist()))
    wanted = [(i, list(range(offsets[i], offsets[i + 1]))) for i in range(len(sizes))]
    assert told == wanted


@pytest.mark.parametrize("n", [1, 1000])
def test_an_ordinary_call_is_one_portion(n: int) -> None:
    assert len(list(packet_portions(packets(n)))) == 1
