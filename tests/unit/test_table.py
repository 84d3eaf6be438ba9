"""The flow table: what a flow is, who opened it, and when it ends."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest

import frames as f
from flows.capture import CaptureReader
from flows.errors import SettingsError
from flows.ids import flow_ids
from flows.packet import FlowEndReason, Records
from flows.table import FlowTable, FlowTimeouts, TableUpdate

S = 10**9
START_NS = 1_700_000_000 * S
A, B = f.IPV4_A, f.IPV4_B


def to_server(flags: int, port: int = 40000, **more: object) -> bytes:
    return f.ethernet(f.ipv4(f.tcp(port, 80, flags, **more), src=A, dst=B))


def to_client(flags: int, port: int = 40000) -> bytes:
    return f.ethernet(f.ipv4(f.tcp(80, port, flags), src=B, dst=A))


def feed(
    table: FlowTable, frames: Sequence[bytes], seconds: Sequence[float] | None = None
) -> tuple[Records, TableUpdate]:
    """Feed frames, one a second unless told."""
    at = seconds if seconds is not None else range(len(frames))
    data = f.pcap(frames, times_ns=[START_NS + int(s * S) for s in at], nanos=True)
    (chunk,) = [c for c in CaptureReader(io.BytesIO(data)).chunks() if len(c.packets)]
    return chunk.packets, table.update(chunk.packets, chunk.endpoints)


def table(first_packets: int = 10, **timeouts: float) -> FlowTable:
    return FlowTable(first_packets=first_packets, timeouts=FlowTimeouts(**timeouts), seed=99)


def test_a_connection_is_one_flow_from_handshake_to_both_fins() -> None:
    frames = [
        to_server(f.SYN),
        to_client(f.SYN | f.ACK),
        to_server(f.ACK),
        to_server(f.FIN | f.ACK),
        to_client(f.FIN | f.ACK),
        to_server(f.ACK),
    ]
    t = table()
    packets, update = feed(t, frames)
    assert update.flow_number.tolist() == [0] * 6
    assert packets["packet_index"].tolist() == [0, 1, 2, 3, 4, 255]
    assert packets["from_originator"].tolist() == [1, 0, 1, 1, 0, 1]
    assert set(packets["responder_port"].tolist()) == {80}
    assert update.kept.tolist() == [0, 1, 2, 3, 4]
    (end,) = update.ends
    assert end["reason"] == FlowEndReason.END_OF_FLOW
    assert (end["packets"], end["time_ns"]) == (5, START_NS + 4 * S)
    assert packets["flow_id"].tolist() == flow_ids(update.flow_number, 99).tolist()
    assert end["flow_id"] == packets["flow_id"][0]
    assert (t.open_flows, t.counters.after_end) == (0, 1)
    assert len(t.finish()) == 0


def test_a_reset_ends_the_flow_and_a_new_handshake_begins_another() -> None:
    frames = [to_server(f.SYN), to_client(f.RST | f.ACK), to_server(f.SYN, seq=9)]
    _, update = feed(table(), frames)
    assert update.flow_number.tolist() == [0, 0, 1]
    assert len(update.ends) == 1


def test_a_repeated_handshake_is_the_same_flow_unless_its_number_differs() -> None:
    again = [to_server(f.SYN, seq=5), to_server(f.SYN, seq=5), to_server(f.SYN, seq=6)]
    _, update = feed(table(), again)
    assert update.flow_number.tolist() == [0, 0, 1]
    assert update.ends["packets"].tolist() == [2]


def test_the_receiver_of_a_leading_syn_ack_opened_the_flow() -> None:
    packets, update = feed(table(), [to_client(f.SYN | f.ACK), to_server(f.ACK)])
    assert packets["from_originator"].tolist() == [0, 1]
    assert update.new_flows["dst_port"].tolist() == [80]


def test_stragglers_are_swallowed_for_as_long_as_they_linger() -> None:
    frames = [to_server(f.RST), to_client(f.ACK), to_client(f.ACK), to_client(f.ACK)]
    _, update = feed(table(linger_s=5), frames, [0, 4, 8, 13])
    assert update.flow_number.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("frame", "timeout"),
    [
        (to_server(f.ACK), {"tcp_idle_s": 30}),
        (f.ethernet(f.ipv4(f.udp(), 17)), {"udp_idle_s": 30}),
        (f.ethernet(f.ipv4(f.icmp(), 1)), {"icmp_idle_s": 30}),
        (f.ethernet(f.ipv6(f.icmp(128), 58), 0x86DD), {"icmp_idle_s": 30}),
    ],
)
def test_silence_ends_a_flow_by_protocol(frame: bytes, timeout: dict[str, float]) -> None:
    _, update = feed(table(**timeout), [frame] * 4, [0, 29, 58.9, 88.9])
    assert update.flow_number.tolist() == [0, 0, 0, 1]
    (end,) = update.ends
    assert end["reason"] == FlowEndReason.IDLE_TIMEOUT
    assert end["time_ns"] == START_NS + int(88.9 * S)


def test_a_long_flow_is_cut_at_the_active_timeout() -> None:
    _, update = feed(table(active_s=100), [to_server(f.ACK)] * 5, [0, 40, 80, 120, 160])
    assert update.flow_number.tolist() == [0, 0, 0, 1, 1]
    (end,) = update.ends
    assert (end["reason"], end["time_ns"]) == (FlowEndReason.ACTIVE_TIMEOUT, START_NS + 100 * S)


def test_the_clock_ends_flows_on_a_quiet_wire() -> None:
    t = table(tcp_idle_s=30)
    feed(t, [to_server(f.ACK)])
    assert len(t.advance(START_NS + 30 * S - 1)) == 0
    assert t.advance(START_NS + 30 * S)["reason"].tolist() == [FlowEndReason.IDLE_TIMEOUT]
    assert len(t.advance(START_NS)) == 0, "the clock does not go back"


def test_time_never_goes_back() -> None:
    t = table()
    packets, _ = feed(t, [to_server(f.ACK)] * 3, [5, 3, 6])
    assert (packets["time_ns"] - START_NS).tolist() == [5 * S, 5 * S, 6 * S]
    assert t.counters.time_regressions == 1


def test_both_directions_of_a_ping_are_one_flow_without_ports() -> None:
    there = f.ethernet(f.ipv4(f.icmp(8), 1, src=A, dst=B))
    back = f.ethernet(f.ipv4(f.icmp(0), 1, src=B, dst=A))
    packets, update = feed(table(), [there, back])
    assert update.flow_number.tolist() == [0, 0]
    assert packets["from_originator"].tolist() == [1, 0]
    assert not packets["responder_port"].any()
    assert update.new_flows[["src_port", "dst_port"]].tolist() == [(8, 0)]


def test_only_the_first_packets_are_kept_and_indices_saturate() -> None:
    packets, update = feed(table(3), [to_server(f.ACK)] * 300)
    assert update.kept.tolist() == [0, 1, 2]
    assert packets["packet_index"].tolist() == [min(i, 255) for i in range(300)]


def test_the_table_grows_and_counts_by_protocol() -> None:
    t = FlowTable(first_packets=1, initial_capacity=4)
    frames = [to_server(f.SYN, port) for port in range(1, 1001)]
    _, update = feed(t, frames, [0.001 * i for i in range(1000)])
    assert update.flow_number.tolist() == list(range(1000))
    assert t.open_flows == 1000
    assert t.counters.protocols == {"TCP": {"flows": 1000, "packets": 1000}}
    ends = t.finish()
    assert ends["flow_number"].tolist() == list(range(1000))
    assert set(ends["reason"]) == {FlowEndReason.FORCED_END}


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="first_packets"):
        FlowTable(first_packets=0)
    with pytest.raises(SettingsError, match="udp_idle_s"):
        FlowTimeouts(udp_idle_s=0)
