"""Decoding: each header field, each way to carry IP, each reason to skip a frame."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

import frames as f
from flows.capture import CaptureReader
from flows.packet import IpFlags, Protocol, TcpFlags, TcpOptions

V4 = f.ipv4(f.tcp())
V6 = f.ipv6(f.udp(), 17)


def decode(frame: bytes, link: int = 1, snaplen: int | None = None) -> tuple[np.void, np.void]:
    """Return the one packet record and the endpoints of a frame."""
    reader = CaptureReader(io.BytesIO(f.pcap([frame], link=link, snaplen=snaplen)))
    (chunk,) = [c for c in reader.chunks() if len(c.packets)]
    return chunk.packets[0], chunk.endpoints[0]


def skipped(frame: bytes, link: int = 1, snaplen: int | None = None) -> dict[str, int]:
    reader = CaptureReader(io.BytesIO(f.pcap([frame], link=link, snaplen=snaplen)))
    assert sum(len(c.packets) for c in reader.chunks()) == 0
    return reader.skipped


def test_tcp_over_ipv4() -> None:
    options = bytes([2, 4, 5, 0xB4, 4, 2, 8, 10, *bytes(8), 1, 3, 3, 7])
    segment = f.tcp(51000, 443, f.SYN | 0x40, seq=77, options=options, payload=b"hello")
    ip = f.ipv4(segment, tos=0x2E, ttl=57, fragment=0x4000, options=bytes([1, 1, 1, 0]))
    packet, ends = decode(f.ethernet(ip))
    assert packet["ip_version"] == 4
    assert packet["ip_bytes"] == 24 + 20 + len(options) + 5
    assert packet["ip_header_bytes"] == 24
    assert packet["payload_bytes"] == 5
    assert packet["protocol"] == Protocol.TCP
    assert (packet["tos"], packet["ttl"]) == (0x2E, 57)
    assert packet["ip_flags"] == IpFlags.DONT_FRAGMENT | IpFlags.OPTIONS
    assert packet["tcp_flags"] == TcpFlags.SYN | TcpFlags.ECE
    assert packet["tcp_header_bytes"] == 20 + len(options)
    assert (packet["tcp_window"], packet["tcp_mss"]) == (64240, 1460)
    assert packet["tcp_window_scale"] == 8
    assert packet["tcp_options"] == (
        TcpOptions.MSS | TcpOptions.SACK_PERMITTED | TcpOptions.TIMESTAMPS | TcpOptions.WINDOW_SCALE
    )
    assert (ends["src_port"], ends["dst_port"], ends["tcp_seq"]) == (51000, 443, 77)
    assert (ends["src_hi"], ends["src_lo"]) == (0, 0xFFFF_C000_0201)


def test_udp_over_ipv6_behind_extension_headers() -> None:
    hop = bytes([60, 0]) + bytes(6)
    destination = bytes([44, 1]) + bytes(14)
    fragment = bytes([51, 0, 0, 1]) + bytes(4)  # the first of several
    authentication = bytes([17, 4]) + bytes(22)
    chain = hop + destination + fragment + authentication
    packet, ends = decode(f.ethernet(f.ipv6(chain + f.udp(payload=b"abc"), 0), 0x86DD))
    assert packet["ip_header_bytes"] == 40 + len(chain)
    assert packet["payload_bytes"] == 3
    assert packet["ip_flags"] == IpFlags.OPTIONS | IpFlags.MORE_FRAGMENTS
    assert (ends["src_hi"], ends["src_lo"]) == (0x20010DB8 << 32, 1)
    assert (ends["dst_hi"], ends["dst_lo"]) == (0x20010DB8_00010000, 2)


@pytest.mark.parametrize(
    ("kind", "code", "protocol", "ports"),
    [
        (8, 0, 1, (8, 0)),
        (0, 0, 1, (0, 8)),
        (3, 1, 1, (3, 1)),
        (128, 0, 58, (128, 129)),
        (135, 0, 58, (135, 136)),
        (1, 4, 58, (1, 4)),
    ],
)
def test_icmp_type_and_answer_stand_in_for_ports(
    kind: int, code: int, protocol: int, ports: tuple[int, int]
) -> None:
    message = f.icmp(kind, code, bytes(10))
    frame = (
        f.ethernet(f.ipv4(message, 1)) if protocol == 1 else f.ethernet(f.ipv6(message, 58), 0x86DD)
    )
    packet, ends = decode(frame)
    assert (packet["icmp_type"], packet["icmp_code"]) == (kind, code)
    assert packet["payload_bytes"] == 10
    assert (ends["src_port"], ends["dst_port"]) == ports


@pytest.mark.parametrize(
    ("frame", "link"),
    [
        (f.ethernet(V4), 1),
        (f.ethernet(V4, tags=[0x8100]), 1),
        (f.ethernet(V4, tags=[0x88A8, 0x8100]), 1),
        (bytes(12) + struct.pack(">H", len(V4) + 8) + b"\xaa\xaa\3\0\0\0\x08\0" + V4, 1),
        (f.ethernet(b"\x11\0\0\1\0\0\0\x21" + V4, 0x8864), 1),
        (f.ethernet(b"\0\1\0\x40\0\1\x11\x40" + V4, 0x8847), 1),
        (bytes(14) + b"\x08\0" + V4, 113),
        (b"\x08\0" + bytes(18) + V4, 276),
        (V4, 101),
        (V4, 12),
        (V4, 14),
        (V4, 228),
        (b"\2\0\0\0" + V4, 0),
        (b"\0\0\0\2" + V4, 108),
        (b"\xff\3\0\x21" + V4, 9),
        (b"\x0f\0\x08\0" + V4, 104),
        (b"\x0f\0\x08\0" + V4, 9),
    ],
)
def test_ipv4_is_found_in_every_link_layer(frame: bytes, link: int) -> None:
    packet, ends = decode(frame, link)
    assert (packet["ip_bytes"], packet["tcp_flags"], ends["dst_port"]) == (40, TcpFlags.SYN, 80)


@pytest.mark.parametrize(
    ("frame", "link"),
    [
        (f.ethernet(V6, 0x86DD), 1),
        (f.ethernet(V6, 0x86DD, tags=[0x8100, 0x8100]), 1),
        (bytes(14) + b"\x86\xdd" + V6, 113),
        (V6, 101),
        (V6, 229),
        (b"\x1e\0\0\0" + V6, 0),
        (b"\0\0\0\x18" + V6, 108),
        (b"\0\x57" + V6, 9),
    ],
)
def test_ipv6_is_found_in_every_link_layer(frame: bytes, link: int) -> None:
    packet, _ = decode(frame, link)
    assert (packet["ip_version"], packet["protocol"]) == (6, Protocol.UDP)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (f.ethernet(bytes(28), 0x0806), "not_ip"),
        (f.ethernet(f.ipv4(bytes(20), 47)), "other_protocol"),
        (f.ethernet(f.ipv6(bytes(20), 59), 0x86DD), "other_protocol"),
        (f.ethernet(f.ipv4(f.udp(), 17, fragment=1)), "fragment"),
        (f.ethernet(f.ipv6(bytes([17, 0, 0, 8]) + bytes(12), 44), 0x86DD), "fragment"),
        (f.ethernet(b"")[:9], "cut"),
        (f.ethernet(V4[:19]), "cut"),
        (f.ethernet(f.ipv4(f.tcp())[:30]), "cut"),
        (f.ethernet(b"\x65" + V4[1:]), "bad_ip"),
        (f.ethernet(b"\x44" + V4[1:]), "bad_ip"),
        (f.ethernet(f.ipv4(b"", total=19)), "bad_ip"),
        (f.ethernet(f.ipv4(f.tcp(), total=30)), "bad_transport"),
        (f.ethernet(f.ipv4(f.tcp()[:12] + b"\x40" + f.tcp()[13:])), "bad_transport"),
        (f.ethernet(f.ipv4(f.tcp()[:12] + b"\xf0" + f.tcp()[13:])), "bad_transport"),
        (f.ethernet(f.ipv4(f.udp()[:7], 17)), "bad_transport"),
        (f.ethernet(V4, tags=[0x8100] * 9), "bad_link"),
        (f.ethernet(f.ipv6(bytes(8) * 20, 0), 0x86DD), "bad_ip"),
        (f.ethernet(f.ipv6(b"\x11\xff" + bytes(6), 60), 0x86DD), "bad_transport"),
    ],
)
def test_frames_that_make_no_packet_are_counted_by_reason(frame: bytes, reason: str) -> None:
    assert skipped(frame) == {reason: 1}


def test_a_length_of_zero_means_that_the_card_was_to_cut_it() -> None:
    packet, _ = decode(f.ethernet(f.ipv4(f.tcp(payload=bytes(3000)), total=0)))
    assert (packet["ip_bytes"], packet["payload_bytes"]) == (3040, 3000)


def test_lengths_are_those_on_the_wire_however_little_was_captured() -> None:
    packet, _ = decode(f.ethernet(f.ipv4(f.tcp(payload=bytes(1000)))), snaplen=60)
    assert (packet["ip_bytes"], packet["payload_bytes"]) == (1040, 1000)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"\x02\x04\x05\xb4", TcpOptions.MSS),
        (b"\x02\x03\x05\x00", TcpOptions.OTHER),
        (b"\x05\x0a" + bytes(8), TcpOptions.SACK),
        (b"\x1e\x04\x00\x00", TcpOptions.OTHER),
        (b"\x01\x01\x01\x08", TcpOptions.MALFORMED),
        (b"\x08\x00\x01\x01", TcpOptions.MALFORMED),
        (b"\x08\xff\x01\x01", TcpOptions.MALFORMED),
        (b"\x00\x08\xff\x01", 0),
    ],
)
def test_tcp_options_never_mislead(options: bytes, expected: int) -> None:
    packet, _ = decode(f.ethernet(f.ipv4(f.tcp(options=options))))
    assert packet["tcp_options"] == expected
