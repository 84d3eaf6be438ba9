"""The packet record: what ServeFlow knows of one packet, and the end mark of a flow.

Addresses are not part of it: they stay at the collector (see :data:`ENDPOINTS_DTYPE`).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "ENDPOINTS_DTYPE",
    "HEADER_BYTES",
    "HOST_DTYPE",
    "MAX_DEPTH",
    "PACKET_DTYPE",
    "Array",
    "FlowEndReason",
    "IpFlags",
    "Protocol",
    "Record",
    "Records",
    "TcpFlags",
    "TcpOptions",
    "packet_dtype",
]

Records: TypeAlias = npt.NDArray[np.void]
"""A structured array; the docstring that uses it names the dtype."""

Record: TypeAlias = Any
"""One element of a structured array in compiled code, where its fields are attributes."""

Array: TypeAlias = npt.NDArray[Any]
"""An array whose dtype the docstring that uses it names."""

MAX_DEPTH = 64
"""The most first packets of a flow that any model may ask for."""

HOST_DTYPE = np.dtype(
    [
        ("tcp_window", "<u2"),  # of its latest SYN or SYN+ACK
        ("max_tcp_payload", "<u2"),  # bytes of a TCP packet's payload that it sent
        ("mean_tcp_payload", "<u2"),  # of those that carry any
        ("max_udp_bytes", "<u2"),  # IP bytes of first packets of UDP flows that it opened
        ("min_udp_bytes", "<u2"),
        ("max_received_bytes", "<u2"),  # IP bytes of a packet
        ("tcp_flows", "u1"),  # counts x from here on as 16 log2(1 + x), at most 255
        ("udp_flows", "u1"),
        ("icmp_flows", "u1"),
        ("answered_flows", "u1"),  # flows that the other side opened
        ("multicast_ttl_1", "u1"),  # flows to multicast and broadcast addresses, by TTL
        ("multicast_ttl_255", "u1"),
        ("multicast_other", "u1"),
        ("large_udp_flows", "u1"),  # those that begin with more than 300 IP bytes
        ("packets_sent", "u1"),
        ("bytes_sent", "u1"),
        ("bytes_received", "u1"),
        ("resets_received", "u1"),
        ("tcp_window_scale", "u1"),  # of its latest SYN or SYN+ACK; shift count plus 1
        ("max_ttl", "u1"),
        ("responder_ports", "u1"),  # different ones, hashed to 64
        ("first_packet_sizes", "u1"),  # different ones, hashed to 64
    ]
)
"""What a flow's host did before it, see :mod:`flows.hosts`; 28 bytes, all 0: nothing known."""

PACKET_DTYPE = np.dtype(
    [
        ("flow_id", "<u8"),  # unique per collector incarnation; 0 until the flow table sets it
        ("time_ns", "<i8"),  # capture time since the epoch, never decreasing per collector
        ("ip_bytes", "<u2"),  # length of the IP packet on the wire, header included
        ("payload_bytes", "<u2"),  # of those, behind the transport header
        ("originator_port", "<u2"),  # 0 for ICMP
        ("responder_port", "<u2"),  # 0 for ICMP
        ("tcp_window", "<u2"),  # as on the wire, unscaled
        ("tcp_mss", "<u2"),  # 0: option absent
        ("packet_index", "u1"),  # 0: the flow's first packet; of an end mark: packets, at most 255
        ("flow_end_reason", "u1"),  # FlowEndReason; NONE: this record is a packet
        ("from_originator", "u1"),  # 1: sent by the side that opened the flow
        ("ip_version", "u1"),  # 4 or 6
        ("protocol", "u1"),  # Protocol
        ("tos", "u1"),  # IPv4 type of service or IPv6 traffic class
        ("ttl", "u1"),  # IPv4 time to live or IPv6 hop limit
        ("ip_flags", "u1"),  # IpFlags
        ("ip_header_bytes", "u1"),  # with options or extension headers, at most 255
        ("tcp_flags", "u1"),  # TcpFlags
        ("tcp_header_bytes", "u1"),  # 20 to 60; 0: not TCP
        ("tcp_options", "u1"),  # TcpOptions
        ("tcp_window_scale", "u1"),  # shift count plus 1; 0: option absent
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("address_kinds", "u1"),  # flows.address.AddressKind: sender's << 4 | receiver's
        ("ip_id", "<u2"),  # IPv4 identification; 0 for IPv6
        ("tcp_timestamp", "<u4"),  # TSval of RFC 7323; 0: option absent
        ("host", HOST_DTYPE),  # of a flow's first packet; else all 0
    ]
)
"""One packet of a flow, or the flow's end mark; 78 bytes, little-endian.

An end mark (``flow_end_reason`` not ``NONE``) says how many packets the flow had
(``packet_index``) and when it ended (``time_ns``); its other fields are 0.
"""

HEADER_BYTES = 128
"""Size of the optional field ``header``: IPv4 60 | TCP 60 | UDP 8."""

# In front, as numba would take a record with more fields at its end for one without them, and
# which of the two it compiled would depend on which one came first.
_WITH_HEADER = np.dtype([("header", "u1", (HEADER_BYTES,)), *PACKET_DTYPE.descr])


def packet_dtype(with_header: bool) -> np.dtype[np.void]:
    """Return the dtype of packet records.

    Args:
        with_header: With one more field in front, ``header``, uint8 ``[HEADER_BYTES]``: the
            headers' bytes, see :mod:`flows.header`; else :data:`PACKET_DTYPE`. Whatever takes
            ``PACKET_DTYPE`` takes both; an end mark's header is 0.
    """
    return _WITH_HEADER if with_header else PACKET_DTYPE


ENDPOINTS_DTYPE = np.dtype(
    [
        ("src_hi", "<u8"),  # IPv6 address as two big-endian halves; IPv4 as ::ffff:a.b.c.d
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("src_port", "<u2"),  # ICMP: its type and code, see flows.keys
        ("dst_port", "<u2"),
        ("tcp_seq", "<u4"),  # tells a repeated SYN from a new connection's; 0: not TCP
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("transport_at", "<u2"),  # where the transport header begins, from the IP header's begin on
    ]
)
"""Who sent a packet to whom; 44 bytes. Stays at the collector."""


class Protocol(IntEnum):
    """The transport protocols that make flows (IANA numbers)."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58


class TcpFlags(IntFlag):
    """The TCP header's flag bits (RFC 9293)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


class TcpOptions(IntFlag):
    """Which TCP options a packet carries (RFC 9293, 7323, 2018)."""

    MSS = 0x01
    WINDOW_SCALE = 0x02
    SACK_PERMITTED = 0x04
    SACK = 0x08
    TIMESTAMPS = 0x10
    OTHER = 0x20
    MALFORMED = 0x40  # an option's length runs over the header


class IpFlags(IntFlag):
    """What the IP header says of fragmentation and options."""

    DONT_FRAGMENT = 0x01
    MORE_FRAGMENTS = 0x02
    OPTIONS = 0x04  # IPv4 options or IPv6 extension headers are present


class FlowEndReason(IntEnum):
    """How a flow ended, numbered as IPFIX's flowEndReason (RFC 5102, element 136)."""

    NONE = 0  # it has not: the record is a packet
    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW = 3  # FIN from both sides, or RST
    FORCED_END = 4  # the capture or the collector ended
    LACK_OF_RESOURCES = 5
