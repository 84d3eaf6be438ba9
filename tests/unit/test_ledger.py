"""What the ledger hands out, and what it remembers while it grows."""

from __future__ import annotations

import numpy as np
import pytest

from collectors.ledger import Ledger
from flows.ids import flow_ids
from flows.packet import FlowEndReason, Records, packet_dtype
from flows.table import END_DTYPE, FLOW_DTYPE
from flows.verdict import VERDICT_DTYPE

SEED = 5
S = 10**9


def enter(ledger: Ledger, first: int, count: int, with_header: bool = False) -> Records:
    """Enter flows with one packet each, whose bytes are not 0; return the packets."""
    flows = np.zeros(count, FLOW_DTYPE)
    flows["flow_number"] = numbers = np.arange(first, first + count, dtype=np.uint64)
    flows["flow_id"] = flow_ids(numbers, SEED)
    flows["src_port"] = numbers % 1000
    dtype = packet_dtype(with_header)
    packets: Records = np.full(count * dtype.itemsize, 7, np.uint8).view(dtype)
    packets["flow_id"], packets["time_ns"] = flows["flow_id"], S + numbers.astype(np.int64)
    packets["packet_index"] = packets["flow_end_reason"] = 0
    ledger.enter(flows)
    ledger.keep(packets, np.arange(count), numbers, np.zeros(count, np.int64))
    return packets


@pytest.mark.parametrize("with_header", [False, True])
def test_a_batch_keeps_its_rows_and_an_end_mark_is_blank(with_header: bool) -> None:
    ledger = Ledger(2, 10.0, SEED, with_header=with_header)
    packet = enter(ledger, 0, 1, with_header)
    first = ledger.form(8, S, 0).packets
    assert first.tobytes() == packet.tobytes()
    ends = np.zeros(1, END_DTYPE)
    ends["time_ns"], ends["packets"], ends["reason"] = 2 * S, 1, FlowEndReason.END_OF_FLOW
    ledger.end_flows(ends, 0)
    verdicts = np.zeros(1, VERDICT_DTYPE)
    verdicts["flow_id"] = packet["flow_id"]
    ledger.settle(verdicts)
    blank = np.zeros(1, packet_dtype(with_header))
    blank["flow_id"], blank["time_ns"], blank["packet_index"] = packet["flow_id"], 2 * S, 1
    blank["flow_end_reason"] = FlowEndReason.END_OF_FLOW
    assert ledger.form(8, 2 * S, 0).packets.tobytes() == blank.tobytes()
    assert first.tobytes() == packet.tobytes()


@pytest.mark.parametrize("with_header", [False, True])
def test_a_flow_is_sent_again_as_it_came(with_header: bool) -> None:
    ledger = Ledger(3, 10.0, SEED, with_header=with_header)
    first = enter(ledger, 0, 1, with_header)
    later: Records = np.full(2 * first.itemsize, 9, np.uint8).view(first.dtype)
    later["flow_id"], later["packet_index"], later["flow_end_reason"] = first["flow_id"], (1, 2), 0
    later["host"] = np.zeros((), first.dtype["host"])  # only a first packet has one
    assert ledger.form(8, S, 0).packets.tobytes() == first.tobytes()
    ledger.keep(later, np.arange(2), np.zeros(2, np.uint64), np.zeros(2, np.int64))
    ledger.send_again(np.zeros(1, np.uint64))
    assert ledger.form(8, S, 0).packets.tobytes() == first.tobytes() + later.tobytes()


def test_growing_keeps_flows_packets_and_their_order() -> None:
    ledger = Ledger(2, 10.0, SEED, capacity=4)
    packets = np.concatenate([enter(ledger, first, 3) for first in (0, 3, 6, 9)])
    formed = ledger.form(100, S, 0)
    assert formed.flows.tolist() == list(range(12))
    assert formed.packets.tobytes() == packets.tobytes()
    verdicts = np.zeros(12, VERDICT_DTYPE)
    verdicts["flow_id"], verdicts["final"] = packets["flow_id"], 1
    accepted, flows, _ = ledger.settle(verdicts)
    assert accepted.tolist() == flows["flow_number"].tolist() == list(range(12))
    assert flows["src_port"].tolist() == list(range(12))
    assert ledger.open == 0
