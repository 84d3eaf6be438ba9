"""Frames and capture files made by hand, for tests of the packet engine."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import ip_address

IPV4_A, IPV4_B = "192.0.2.1", "198.51.100.7"
IPV6_A, IPV6_B = "2001:db8::1", "2001:db8:1::2"

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def tcp(
    src_port: int = 40000,
    dst_port: int = 80,
    flags: int = SYN,
    *,
    seq: int = 1,
    window: int = 64240,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    options += b"\0" * (-len(options) % 4)
    head = struct.pack(
        ">HHIIBBHHH", src_port, dst_port, seq, 0, (20 + len(options)) // 4 << 4, flags, window, 0, 0
    )
    return head + options + payload


def udp(src_port: int = 40000, dst_port: int = 53, payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", src_port, dst_port, 8 + len(payload), 0) + payload


def icmp(kind: int = 8, code: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHHH", kind, code, 0, 7, 1) + payload


def ipv4(
    payload: bytes,
    protocol: int = 6,
    *,
    src: str = IPV4_A,
    dst: str = IPV4_B,
    options: bytes = b"",
    fragment: int = 0,
    tos: int = 0,
    ttl: int = 64,
    total: int | None = None,
) -> bytes:
    header = 20 + len(options)
    total = header + len(payload) if total is None else total
    return (
        struct.pack(">BBHHHBBH", 0x40 | header // 4, tos, total, 1, fragment, ttl, protocol, 0)
        + ip_address(src).packed
        + ip_address(dst).packed
        + options
        + payload
    )


def ipv6(
    payload: bytes,
    protocol: int = 6,
    *,
    src: str = IPV6_A,
    dst: str = IPV6_B,
    traffic_class: int = 0,
    hop_limit: int = 64,
) -> bytes:
    return (
        struct.pack(">IHBB", 6 << 28 | traffic_class << 20, len(payload), protocol, hop_limit)
        + ip_address(src).packed
        + ip_address(dst).packed
        + payload
    )


def ethernet(payload: bytes, ethertype: int = 0x0800, *, tags: Sequence[int] = ()) -> bytes:
    """Tags are ethertypes of VLAN headers, outermost first."""
    frame = bytes(12)
    for tag in tags:
        frame += struct.pack(">HH", tag, 42)
    return frame + struct.pack(">H", ethertype) + payload


def pcap(
    frames: Sequence[bytes],
    *,
    link: int = 1,
    nanos: bool = False,
    big: bool = False,
    times_ns: Sequence[int] | None = None,
    snaplen: int | None = None,
) -> bytes:
    order = ">" if big else "<"
    magic = 0xA1B23C4D if nanos else 0xA1B2C3D4
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)
    for i, frame in enumerate(frames):
        time_ns = times_ns[i] if times_ns else (1_700_000_000 + i) * 10**9
        fraction = time_ns % 10**9 // (1 if nanos else 1000)
        cut = frame[:snaplen]
        out += struct.pack(order + "IIII", time_ns // 10**9, fraction, len(cut), len(frame)) + cut
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += b"\0" * (-len(body) % 4)
    length = len(body) + 12
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = 1, options: bytes = b"", order: str = "<", snaplen: int = 0) -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def enhanced(frame: bytes, stamp: int, which: int = 0, order: str = "<") -> bytes:
    head = struct.pack(
        order + "IIIII", which, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame)
    )
    return block(6, head + frame, order)
