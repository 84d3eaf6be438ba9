"""Frames to packet records: Ethernet and its kin, IPv4, IPv6, TCP, UDP, ICMP, ICMPv6.

Written from the RFCs (791, 8200, 4302, 9293, 768, 792, 4443); nothing in a frame makes it raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from flows.address import address_kind
from flows.compiled import big_endian, inlined, kernel
from flows.header import write_header
from flows.link import find_ip, u8, u16
from flows.packet import ENDPOINTS_DTYPE, Record, Records, packet_dtype

__all__ = ["FRAME_DTYPE", "MALFORMED", "Decoded", "Skip", "decode_frames"]

FRAME_DTYPE = np.dtype(
    [
        ("at", "<i8"),  # where it begins in the buffer
        ("time_ns", "<i8"),  # since the epoch; below 0: out of range
        ("captured_bytes", "<i4"),
        ("wire_bytes", "<i4"),
        ("link", "<i4"),  # LinkType, or another LINKTYPE_ value; -1: no such interface
    ]
)
"""One captured frame in a buffer."""


class Skip(IntEnum):
    """Why a frame makes no packet record; the name in lower case is its text form."""

    NONE = 0  # it makes one
    NOT_IP = 1
    LINK_TYPE = 2  # a link layer that the decoder does not know
    OTHER_PROTOCOL = 3  # neither TCP, UDP, ICMP nor ICMPv6; tunnels too
    FRAGMENT = 4  # not the first fragment: it has no ports
    CUT = 5  # too little of it was captured
    BAD_LINK = 6  # more tags or labels than any network uses
    BAD_IP = 7  # a header that contradicts itself
    BAD_TRANSPORT = 8
    BAD_TIME = 9  # before 1970 or after 2106

    @property
    def text(self) -> str:
        """The reason as it stands in JSON."""
        return self.name.lower()


MALFORMED = frozenset({Skip.BAD_LINK, Skip.BAD_IP, Skip.BAD_TRANSPORT, Skip.BAD_TIME})
"""The reasons that say that a frame is broken, and not just of no interest."""

_IPV4_MAPPED = 0xFFFF_0000_0000
_MOST_EXTENSIONS = 16


@dataclass(frozen=True, slots=True)
class Decoded:
    """Packets of one chunk, in file order.

    Attributes:
        packets: ``PACKET_DTYPE [n]``; ``flow_id``, ``packet_index``, ``from_originator`` and the
            ports are 0 until the flow table sets them. ``packet_dtype(True)`` if asked for.
        endpoints: ``ENDPOINTS_DTYPE [n]``.
    """

    packets: Records
    endpoints: Records


def decode_frames(
    data: npt.NDArray[np.uint8],
    frames: Records,
    skipped: npt.NDArray[np.int64],
    *,
    with_header: bool = False,
) -> Decoded:
    """Decode frames.

    Args:
        data: The buffer, uint8 ``[m]``.
        frames: ``FRAME_DTYPE [k]``; each must lie within the buffer.
        skipped: int64 ``[len(Skip)]``; counts of frames by :class:`Skip` are added to it.
        with_header: The records hold the headers' bytes, see :mod:`flows.header`.

    Returns:
        The frames that are packets of flows.
    """
    packets = np.empty(len(frames), packet_dtype(with_header))
    endpoints = np.empty(len(frames), ENDPOINTS_DTYPE)
    headers = np.empty((0, 0), np.uint8)
    if with_header:  # as bytes: compiled code cannot name a field that may be absent
        headers = packets.view(np.uint8).reshape(len(packets), packets.itemsize)
    blank = np.zeros(1, packets.dtype)
    n = _decode(data, frames, blank, packets, endpoints, headers, skipped)
    return Decoded(packets[:n], endpoints[:n])


@kernel
def _decode(
    data: npt.NDArray[np.uint8],
    frames: Records,
    blank: Records,
    packets: Records,
    endpoints: Records,
    headers: npt.NDArray[np.uint8],
    skipped: npt.NDArray[np.int64],
) -> int:
    n = 0
    for i in range(len(frames)):
        at = frames[i].at
        end = at + frames[i].captured_bytes
        reason = 0
        if frames[i].time_ns < 0:
            reason = 9
        elif frames[i].link not in (0, 1, 9, 12, 14, 101, 104, 108, 113, 228, 229, 276):
            reason = 2
        else:
            packets[n] = blank[0]  # so that failed frames leave no trace
            version, ip = find_ip(data, frames[i].link, at, end)
            if version == 4:
                reason = _ipv4(
                    data, ip, end, frames[i].wire_bytes - (ip - at), packets[n], endpoints[n]
                )
            elif version == 6:
                reason = _ipv6(
                    data, ip, end, frames[i].wire_bytes - (ip - at), packets[n], endpoints[n]
                )
            else:
                reason = 1 if version == -1 else 5 if version == -2 else 6
        skipped[reason] += 1
        if reason == 0:
            packets[n].time_ns = frames[i].time_ns
            if len(headers):
                write_header(data, ip, ip + endpoints[n].transport_at, end, packets[n], headers[n])
            n += 1
    skipped[0] = 0
    return n


@inlined
def _kinds(ends: Record) -> int:
    return address_kind(ends.src_hi, ends.src_lo) << 4 | address_kind(ends.dst_hi, ends.dst_lo)


@inlined
def _ipv4(
    data: npt.NDArray[np.uint8], at: int, end: int, wire: int, packet: Record, ends: Record
) -> int:
    if at + 20 > end:
        return 5
    header = (u8(data, at) & 15) * 4
    total = u16(data, at + 2)
    if total == 0:  # the sender's network card was to cut it into pieces
        total = min(wire, 65535)
    if u8(data, at) >> 4 != 4 or header < 20 or total < header:
        return 7
    fragment = u16(data, at + 6)
    if fragment & 0x1FFF:
        return 4
    packet.ip_version = 4
    packet.tos = u8(data, at + 1)
    packet.ip_bytes = total
    packet.ttl = u8(data, at + 8)
    packet.ip_flags = (
        ((fragment >> 14) & 1) | (((fragment >> 13) & 1) << 1) | (4 if header > 20 else 0)
    )
    packet.ip_header_bytes = header
    ends.transport_at = header
    ends.ip_version = 4
    mapped = np.uint64(_IPV4_MAPPED)
    ends.src_hi = 0
    ends.dst_hi = 0
    ends.src_lo = mapped | np.uint64(big_endian(data, at + 12, 4))
    ends.dst_lo = mapped | np.uint64(big_endian(data, at + 16, 4))
    packet.ip_id = u16(data, at + 4)
    packet.address_kinds = _kinds(ends)
    return _transport(data, u8(data, at + 9), at + header, end, total - header, packet, ends)


@inlined
def _ipv6(
    data: npt.NDArray[np.uint8], at: int, end: int, wire: int, packet: Record, ends: Record
) -> int:
    if at + 40 > end:
        return 5
    if u8(data, at) >> 4 != 6:
        return 7
    rest = u16(data, at + 4)
    if rest == 0:  # a jumbogram, or the sender's network card was to cut it into pieces
        rest = min(max(wire - 40, 0), 65535 - 40)
    protocol = u8(data, at + 6)
    packet.ip_version = 6
    packet.tos = ((u8(data, at) & 15) << 4) | (u8(data, at + 1) >> 4)
    packet.ip_bytes = min(rest + 40, 65535)
    packet.ttl = u8(data, at + 7)
    ends.ip_version = 6
    ends.src_hi = big_endian(data, at + 8, 8)
    ends.src_lo = big_endian(data, at + 16, 8)
    ends.dst_hi = big_endian(data, at + 24, 8)
    ends.dst_lo = big_endian(data, at + 32, 8)
    packet.address_kinds = _kinds(ends)
    header = 40
    flags = 0
    for _ in range(_MOST_EXTENSIONS):
        # Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6.
        if protocol not in (0, 43, 44, 51, 60, 135, 139, 140):
            packet.ip_flags = flags
            packet.ip_header_bytes = min(header, 255)
            ends.transport_at = header
            return _transport(data, protocol, at + header, end, rest - (header - 40), packet, ends)
        flags |= 4
        here = at + header
        if header - 40 + 8 > rest:
            return 7
        if here + 8 > end:
            return 5
        if protocol == 44:
            offset = u16(data, here + 2)
            if offset & 0xFFF8:
                return 4
            flags |= (offset & 1) << 1
            header += 8
        elif protocol == 51:
            header += (u8(data, here + 1) + 2) * 4
        else:
            header += (u8(data, here + 1) + 1) * 8
        protocol = u8(data, here)
    return 7


@inlined
def _transport(
    data: npt.NDArray[np.uint8],
    protocol: int,
    at: int,
    end: int,
    left: int,
    packet: Record,
    ends: Record,
) -> int:
    """Decode behind the IP header; ``left`` bytes of the IP packet lie there."""
    if protocol not in (1, 6, 17, 58):
        return 3
    need = 20 if protocol == 6 else 8
    if protocol in (1, 58):
        need = 4  # the shortest ICMP message: type, code, checksum
    if left < need:
        return 8
    if at + need > end:
        return 5
    packet.protocol = protocol
    ends.protocol = protocol
    ends.tcp_seq = 0
    if protocol == 6:
        header = (u8(data, at + 12) >> 4) * 4
        if header < 20 or header > left:
            return 8
        ends.src_port = u16(data, at)
        ends.dst_port = u16(data, at + 2)
        ends.tcp_seq = big_endian(data, at + 4, 4)
        packet.tcp_header_bytes = header
        packet.tcp_flags = u8(data, at + 13)
        packet.tcp_window = u16(data, at + 14)
        packet.payload_bytes = left - header
        _tcp_options(data, at + 20, at + header, end, packet)
    elif protocol == 17:
        ends.src_port = u16(data, at)
        ends.dst_port = u16(data, at + 2)
        packet.payload_bytes = left - 8
    else:
        kind, code = u8(data, at), u8(data, at + 1)
        packet.icmp_type = kind
        packet.icmp_code = code
        packet.payload_bytes = max(left - 8, 0)
        ends.src_port = kind
        answer = _icmp_counterpart(kind) if protocol == 1 else _icmpv6_counterpart(kind)
        ends.dst_port = answer if answer >= 0 else code
    return 0


@inlined
def _icmp_counterpart(kind: int) -> int:
    """Return the type of the answer to an ICMP message, or -1; as Community ID v1 pairs them."""
    if kind == 8 or kind == 0:
        return 8 - kind  # echo
    if kind == 13 or kind == 14:
        return 27 - kind  # timestamp
    if kind == 15 or kind == 16:
        return 31 - kind  # information
    if kind == 17 or kind == 18:
        return 35 - kind  # address mask
    if kind == 9 or kind == 10:
        return 19 - kind  # router advertisement and solicitation
    return -1


@inlined
def _icmpv6_counterpart(kind: int) -> int:
    """Return the type of the answer to an ICMPv6 message, or -1; as Community ID v1 pairs them."""
    if kind == 128 or kind == 129:
        return 257 - kind  # echo
    if kind == 130 or kind == 131:
        return 261 - kind  # multicast listener query and report
    if kind == 133 or kind == 134:
        return 267 - kind  # router
    if kind == 135 or kind == 136:
        return 271 - kind  # neighbour
    if kind == 139 or kind == 140:
        return 279 - kind  # who are you
    if kind == 144 or kind == 145:
        return 289 - kind  # home agent address
    return -1


@inlined
def _tcp_options(data: npt.NDArray[np.uint8], at: int, stop: int, end: int, packet: Record) -> None:
    if stop - at == 12 and stop <= end and u16(data, at) == 0x0101 and u16(data, at + 2) == 0x080A:
        # Two fillers and a time stamp, as RFC 7323 recommends: what most packets have.
        packet.tcp_options = 0x10
        packet.tcp_timestamp = big_endian(data, at + 4, 4)
        return
    found = 0
    while at < stop and at < end:
        kind = u8(data, at)
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= stop:
            found |= 0x40
            break
        if at + 1 >= end:
            break
        length = u8(data, at + 1)
        if length < 2 or at + length > stop:
            found |= 0x40
            break
        if at + length > end:
            break
        if kind == 2 and length == 4:
            found |= 0x01
            packet.tcp_mss = u16(data, at + 2)
        elif kind == 3 and length == 3:
            found |= 0x02
            packet.tcp_window_scale = min(u8(data, at + 2), 254) + 1
        elif kind == 4 and length == 2:
            found |= 0x04
        elif kind == 5:
            found |= 0x08
        elif kind == 8 and length == 10:
            found |= 0x10
            packet.tcp_timestamp = big_endian(data, at + 2, 4)
        else:
            found |= 0x20
        at += length
    packet.tcp_options = found
