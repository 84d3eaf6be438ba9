"""What the first packet of a flow tells of its host's past, and what it must not tell."""

from __future__ import annotations

import io
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address

import numpy as np
import pytest

import frames as f
from flows.address import AddressKind, address_kind
from flows.capture import CaptureReader
from flows.hosts import HISTORIES, find_history, new_histories
from flows.packet import HOST_DTYPE, Records
from flows.table import FlowTable

S = 10**9
START_NS = 1_700_000_000 * S
HOST, OTHER, SERVER = "192.168.1.10", "192.168.1.11", "198.51.100.7"


def first_packets(frames: Sequence[bytes], seconds: Sequence[float] | None = None) -> Records:
    """Return the first packet of each flow, as a collector would send it."""
    at = seconds if seconds is not None else range(len(frames))
    data = f.pcap(frames, times_ns=[START_NS + int(s * S) for s in at], nanos=True)
    table = FlowTable(first_packets=10)
    found = []
    for chunk in CaptureReader(io.BytesIO(data)).chunks():
        table.update(chunk.packets, chunk.endpoints)
        found.append(chunk.packets[chunk.packets["packet_index"] == 0])
    return np.concatenate(found)


def query(port: int, payload: bytes = b"", src: str = HOST, dst: str = SERVER) -> bytes:
    return f.ethernet(f.ipv4(f.udp(port, 53, payload), 17, src=src, dst=dst))


def syn(port: int, src: str = HOST, dst: str = SERVER, **more: object) -> bytes:
    return f.ethernet(f.ipv4(f.tcp(port, 80, f.SYN, **more), src=src, dst=dst))


def test_the_first_flow_of_a_host_knows_nothing() -> None:
    (packet,) = first_packets([query(1000)])
    assert packet["host"] == np.zeros((), HOST_DTYPE)


def test_a_flow_is_told_of_the_flows_before_it_and_not_of_itself() -> None:
    frames = [query(1000, b"abc"), query(1001, b"x" * 300), syn(1002, window=555), query(1003)]
    told = first_packets(frames)["host"]
    assert told["udp_flows"].tolist() == [0, 16, 25, 25]  # 16 log2(1 + 0, 1, 2, 2)
    assert told["tcp_flows"].tolist() == [0, 0, 0, 16]
    assert told["tcp_window"].tolist() == [0, 0, 0, 555]
    assert told["max_udp_bytes"].tolist() == [0, 31, 328, 328]
    assert told["min_udp_bytes"].tolist() == [0, 31, 31, 31]
    assert told["large_udp_flows"].tolist() == [0, 0, 16, 16]
    assert told["responder_ports"].tolist() == [0, 1, 1, 2]
    assert told["first_packet_sizes"].tolist() == [0, 1, 2, 3]


def test_later_packets_of_a_flow_count_for_the_host_but_carry_nothing() -> None:
    answer = f.ethernet(f.ipv4(f.tcp(80, 1000, f.RST | f.ACK), src=SERVER, dst=HOST))
    data = f.ethernet(f.ipv4(f.tcp(1000, 80, f.ACK, payload=b"x" * 100), src=HOST, dst=SERVER))
    told = first_packets([syn(1000), data, data, answer, query(1001)])["host"]
    assert told[-1]["max_tcp_payload"] == told[-1]["mean_tcp_payload"] == 100
    assert told[-1]["packets_sent"] == 32
    assert told[-1]["resets_received"] == 16
    assert told[-1]["max_received_bytes"] == 40
    frames = [syn(1000), data]
    capture = f.pcap(frames, times_ns=[START_NS, START_NS + S], nanos=True)
    (chunk,) = [c for c in CaptureReader(io.BytesIO(capture)).chunks() if len(c.packets)]
    FlowTable(first_packets=10).update(chunk.packets, chunk.endpoints)
    assert chunk.packets["host"][1] == np.zeros((), HOST_DTYPE)


def test_hosts_behind_one_gateway_have_histories_of_their_own() -> None:
    frames = [query(1000, src=HOST), query(1000, src=OTHER), query(1001, src=HOST)]
    assert first_packets(frames)["host"]["udp_flows"].tolist() == [0, 0, 16]


def test_a_flow_from_outside_belongs_to_the_host_inside() -> None:
    frames = [syn(1000, src=SERVER, dst=HOST), query(1000, src=HOST)]
    told = first_packets(frames)["host"]
    assert told["answered_flows"].tolist() == [0, 16]
    assert told["packets_sent"].tolist() == [0, 0]


def test_who_has_no_address_has_no_history() -> None:
    nobody = str(IPv4Address(0))
    frames = [query(68, src=nobody, dst="255.255.255.255"), query(69, src=nobody)]
    assert not first_packets(frames)["host"]["udp_flows"].any()


def test_an_hour_of_silence_makes_a_host_new_and_an_hour_of_work_halves_its_counts() -> None:
    forgotten = first_packets([query(1, b"a"), query(2)], [0, 3_601])["host"]
    assert forgotten[1] == np.zeros((), HOST_DTYPE)
    busy = first_packets([query(i) for i in range(8)], [i * 1_000 for i in range(8)])["host"]
    # 4 flows within the first hour, halved to 2, then 2 more within the second, then 4 / 2.
    assert busy["udp_flows"].tolist() == [0, 16, 25, 32, 25, 32, 37, 41]


def test_other_chunks_tell_the_same() -> None:
    rng = np.random.default_rng(3)
    frames = [
        query(int(rng.integers(1, 9)), bytes(int(rng.integers(0, 50))), src=f"10.0.0.{i % 7}")
        for i in range(300)
    ]
    data = f.pcap(frames, times_ns=[START_NS + i * S for i in range(300)], nanos=True)
    (chunk,) = [c for c in CaptureReader(io.BytesIO(data)).chunks() if len(c.packets)]
    pieces, ends = chunk.packets.copy(), chunk.endpoints
    FlowTable(first_packets=3).update(chunk.packets, ends)
    table = FlowTable(first_packets=3)
    for i in range(0, 300, 7):
        table.update(pieces[i : i + 7], ends[i : i + 7])
    assert (pieces["host"] == chunk.packets["host"]).all()
    assert chunk.packets["host"]["udp_flows"].any()


def test_a_flood_of_hosts_takes_no_more_room() -> None:
    histories = new_histories(64)
    for i in range(5_000):
        find_history(histories, -1, np.uint64(0), np.uint64(i + 1), START_NS + i, np.uint64(7))
    assert len(histories) == 64
    assert len(np.unique(histories["lo"])) == 64
    assert HISTORIES * histories.itemsize <= 9e6


def test_a_place_that_another_host_has_taken_is_no_longer_believed() -> None:
    histories, none, seed = new_histories(4), np.uint64(0), np.uint64(7)
    place = find_history(histories, -1, none, np.uint64(1), START_NS, seed)
    histories["udp_flows"][place] = 9
    assert find_history(histories, place, none, np.uint64(1), START_NS + 1, seed) == place
    assert histories["udp_flows"][place] == 9
    for i in range(2, 6):
        find_history(histories, -1, none, np.uint64(i), START_NS + i, seed)
    assert histories["lo"][place] != 1
    found = find_history(histories, place, none, np.uint64(1), START_NS + 6, seed)
    assert (histories["lo"][found], histories["udp_flows"][found]) == (1, 0)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (str(IPv4Address(0)), AddressKind.UNSPECIFIED),
        ("127.0.0.1", AddressKind.LOOPBACK),
        ("169.254.3.4", AddressKind.LINK_LOCAL),
        ("10.1.2.3", AddressKind.PRIVATE),
        ("172.31.0.1", AddressKind.PRIVATE),
        ("172.32.0.1", AddressKind.GLOBAL),
        ("192.168.7.255", AddressKind.BROADCAST),
        ("100.64.0.1", AddressKind.PRIVATE),
        ("100.128.0.1", AddressKind.GLOBAL),
        ("224.0.0.251", AddressKind.LINK_MULTICAST),
        ("239.255.255.250", AddressKind.MULTICAST),
        ("255.255.255.255", AddressKind.BROADCAST),
        ("8.8.8.255", AddressKind.GLOBAL),
        ("::", AddressKind.UNSPECIFIED),
        ("::1", AddressKind.LOOPBACK),
        ("fe80::1", AddressKind.LINK_LOCAL),
        ("fd00::1", AddressKind.PRIVATE),
        ("2001:db8::1", AddressKind.GLOBAL),
        ("ff02::fb", AddressKind.LINK_MULTICAST),
        ("ff05::2", AddressKind.MULTICAST),
    ],
)
def test_addresses_are_told_apart_by_kind(address: str, kind: AddressKind) -> None:
    found = ip_address(address)
    number = int(found) if found.version == 6 else 0xFFFF << 32 | int(found)
    assert address_kind(np.uint64(number >> 64), np.uint64(number & (2**64 - 1))) == kind


def test_the_decoder_tells_kinds_identification_and_timestamp() -> None:
    option = bytes([8, 10]) + (77).to_bytes(4, "big") + bytes(4)
    packet = first_packets([syn(1000, options=option)])[0]
    assert packet["address_kinds"] == AddressKind.PRIVATE << 4 | AddressKind.GLOBAL
    assert (packet["ip_id"], packet["tcp_timestamp"]) == (1, 77)
