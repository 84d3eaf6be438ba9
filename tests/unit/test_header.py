"""Header bytes in the packet record: what is shown, and that nothing else is."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frames as f
from deployments.json_form import JsonBatch
from flows.capture import CaptureReader
from flows.errors import WireSchemaError
from flows.packet import PACKET_DTYPE, packet_dtype
from flows.table import FlowTable

TIMES = bytes([8, 10, *range(1, 9)])
MSS, WINDOW, SACK_OK, NOP = bytes([2, 4, 5, 0xB4]), bytes([3, 3, 7]), bytes([4, 2]), b"\1"


def read(frame: bytes, link: int = 1, snaplen: int | None = None) -> np.ndarray:
    """Return the packet records, one or none, of a frame, with their headers."""
    source = io.BytesIO(f.pcap([frame], link=link, snaplen=snaplen))
    chunks = [c.packets for c in CaptureReader(source, with_header=True).chunks()]
    return np.concatenate(chunks)


def header(frame: bytes, link: int = 1, snaplen: int | None = None) -> bytes:
    (packet,) = read(frame, link, snaplen)
    assert len(packet["header"]) == 128
    return packet["header"].tobytes()


def test_both_dtypes_tell_the_same_of_a_packet() -> None:
    frame = f.ethernet(f.ipv4(f.tcp(options=MSS + TIMES, payload=b"x")))
    narrow = next(CaptureReader(io.BytesIO(f.pcap([frame]))).chunks()).packets
    wide = read(frame)
    assert wide.dtype == packet_dtype(True)
    assert narrow.dtype == packet_dtype(False) == PACKET_DTYPE
    assert (wide[list(PACKET_DTYPE.names)].astype(PACKET_DTYPE) == narrow).all()


def test_tcp_over_ipv4_is_shown_but_for_addresses_ports_and_checksums() -> None:
    options = MSS + SACK_OK + TIMES + NOP + WINDOW
    segment = f.tcp(51_000, 443, 0x12, seq=0x01020304, options=options, payload=b"secret")
    packet = bytearray(f.ipv4(segment, tos=3, ttl=57, fragment=0x4000))
    packet[10:12] = packet[36:38] = b"\xab\xcd"
    got = header(f.ethernet(bytes(packet), tags=[0x88A8, 0x8100]))
    assert got[:10] == packet[:10]
    assert got[10:60] == bytes(50)
    assert got[64:76] == packet[24:36]
    assert got[78:80] == packet[38:40]
    assert got[80:100] == options
    assert got[60:64] + got[76:78] + got[100:] == bytes(34)


def test_udp_shows_its_length_alone() -> None:
    got = header(f.ipv4(f.udp(1, 2, b"abc"), 17), link=101)
    assert got[60:] == bytes(64) + struct.pack(">H", 11) + bytes(2)


def test_icmp_shows_the_ip_header_and_ipv6_the_transport_header() -> None:
    assert header(f.ipv4(f.icmp(), 1), link=101)[9:] == bytes([1]) + bytes(118)
    assert header(f.ipv6(f.icmp(128), 58), link=101) == bytes(128)
    extension = bytes([60, 30]) + bytes(246) + bytes([6, 1]) + bytes(14)
    segment = f.tcp(seq=9, options=MSS)
    got = header(f.ipv6(extension + segment, 0), link=101)
    assert got == bytes(64) + segment[4:] + bytes(128 - 60 - len(segment))


def test_addresses_within_options_are_masked() -> None:
    route = bytes([7, 7, 8, 192, 0, 2, 9])
    added = bytes([30, 8, 0x30, 1, 192, 0, 2, 9])  # Multipath TCP: another address
    packet = f.ipv4(
        f.tcp(options=NOP + added + WINDOW), options=route + b"\1" + bytes([148, 4, 9, 9])
    )
    got = header(packet, link=101)
    assert got[20:32] == bytes([7, 7, 0, 0, 0, 0, 0, 1, 148, 4, 0, 0])
    assert got[80:92] == NOP + bytes([30, 8, 0, 0, 0, 0, 0, 0]) + WINDOW


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (bytes([0, 2, 4, 5]), bytes(4)),  # nothing counts behind the end mark
        (bytes([2, 1, 5, 6]), bytes([2, 1, 0, 0])),
        (bytes([2, 9, 5, 6]), bytes([2, 9, 0, 0])),
        (bytes([1, 1, 1, 2]), bytes([1, 1, 1, 2])),
    ],
)
def test_options_are_shown_up_to_one_that_is_broken(options: bytes, shown: bytes) -> None:
    assert header(f.ipv4(f.tcp(options=options, payload=b"xyz")), link=101)[80:] == shown + bytes(
        44
    )


def test_what_was_not_captured_is_0() -> None:
    packet = f.ipv4(f.tcp(options=MSS + TIMES + WINDOW))
    for snaplen in range(40, len(packet)):
        got = header(packet, link=101, snaplen=snaplen)
        left, shown = snaplen - 40, b""
        for option in (MSS, TIMES, WINDOW):  # the first that is cut shows its kind and length
            whole = left >= len(option)
            shown += option if whole else option[: max(min(left, 2), 0)]
            left = left - len(option) if whole else 0
        assert got[80:] == shown.ljust(48, b"\0"), snaplen


ports = st.integers(0, 65_535)
words = st.binary(min_size=2, max_size=2)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([(4, 6), (4, 17), (6, 6), (6, 17)]),
    st.lists(
        st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
        min_size=2, max_size=2,
    ),
    st.lists(st.tuples(ports, ports, words, words), min_size=2, max_size=2),
)  # fmt: skip
def test_who_talks_to_whom_changes_no_byte(
    kind: tuple[int, int],
    ends: list[tuple[bytes, bytes]],
    rest: list[tuple[int, int, bytes, bytes]],
) -> None:
    version, protocol = kind
    seen = []
    for (src, dst), (src_port, dst_port, ip_sum, sum_) in zip(ends, rest, strict=True):
        body = (
            f.tcp(src_port, dst_port, options=TIMES) if protocol == 6 else f.udp(src_port, dst_port)
        )
        at = 16 if protocol == 6 else 6
        body = body[:at] + sum_ + body[at + 2 :]
        packet = f.ipv4(body, protocol) if version == 4 else f.ipv6(body, protocol)
        if version == 4:
            packet = packet[:10] + ip_sum + src[:4] + dst[:4] + packet[20:]
        else:
            packet = packet[:8] + src + dst + packet[40:]
        seen.append(header(packet, link=101))
    assert seen[0] == seen[1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([1, 101, 113]))
def test_any_bytes_are_told_alike_with_a_header_and_without(frame: bytes, link: int) -> None:
    narrow = [c.packets for c in CaptureReader(io.BytesIO(f.pcap([frame], link=link))).chunks()]
    wide = read(frame, link)
    assert (wide[list(PACKET_DTYPE.names)].astype(PACKET_DTYPE) == np.concatenate(narrow)).all()


def test_the_flow_table_takes_both() -> None:
    data = f.pcap([f.ethernet(f.ipv4(f.tcp(flags=flags))) for flags in (f.SYN, f.ACK, f.RST)])
    told = []
    for with_header in (False, True):
        (chunk,) = CaptureReader(io.BytesIO(data), with_header=with_header).chunks()
        update = FlowTable(first_packets=4).update(chunk.packets, chunk.endpoints)
        told.append((chunk.packets[list(PACKET_DTYPE.names)].tolist(), update.ends.tolist()))
    assert told[0] == told[1]


def test_the_json_form_says_that_it_has_no_headers() -> None:
    batch = JsonBatch.model_validate(
        {"packets": [{"flow_id": 1, "proto": "UDP", "time_ns": 1, "ip_bytes": 40}]}
    )
    assert batch.to_batch(b"secret").packets.dtype == PACKET_DTYPE
    with pytest.raises(WireSchemaError, match=r"column header is missing.*JSON"):
        batch.to_batch(b"secret", with_header=True)
