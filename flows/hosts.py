"""What each host did before: a history per watched-side address, told by each flow's first packet.

One packet says little of who sent it; what the same host's earlier flows looked like says a lot.
The history is of header fields only and causal: a flow's first packet carries what was seen of its
host *before* that packet. It stays with the collector that saw it, keyed by the address, and only
the numbers of :data:`flows.packet.HOST_DTYPE` leave.

A flow's host is its originator, unless only its responder has an address of the inside (private,
link-local): then that one. So a gateway sees each of its hosts, not the servers they talk to.

Memory is bounded: histories stand in sets of four, spread by a secret, and the one of a set that
was silent for longest makes room. A host without a history (new, made room, silent for an hour,
0.0.0.0) looks like one that has done nothing: all numbers are 0, as in flows submitted by others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flows.compiled import inlined, kernel
from flows.ids import mix64
from flows.packet import Record, Records
from flows.records import aligned_zeros

__all__ = [
    "HISTORIES",
    "HISTORY_DTYPE",
    "add_flow",
    "add_packet",
    "find_history",
    "host_of",
    "new_histories",
    "tell",
]

HISTORIES = 65_536
"""Hosts that a collector remembers, at most; about 8 MB."""

_WAYS = 4
_HOUR_NS = 3_600_000_000_000

HISTORY_DTYPE = np.dtype(
    [
        ("hi", "<u8"),  # the host's address
        ("lo", "<u8"),
        ("seen_ns", "<i8"),  # its latest packet; 0: the place is free
        ("halved_ns", "<i8"),  # when its counts were last halved
        ("ports_seen", "<u8"),  # one bit for each hash of a responder's port
        ("sizes_seen", "<u8"),  # the same for sizes of first packets
        ("bytes_sent", "<u8"),
        ("bytes_received", "<u8"),
        ("payload_bytes", "<u8"),  # sent in TCP packets that carry any
        ("payload_packets", "<u4"),
        ("packets_sent", "<u4"),
        ("tcp_flows", "<u4"),
        ("udp_flows", "<u4"),
        ("icmp_flows", "<u4"),
        ("answered_flows", "<u4"),
        ("multicast_ttl_1", "<u4"),
        ("multicast_ttl_255", "<u4"),
        ("multicast_other", "<u4"),
        ("large_udp_flows", "<u4"),
        ("resets_received", "<u4"),
        ("tcp_window", "<u2"),
        ("max_tcp_payload", "<u2"),
        ("max_udp_bytes", "<u2"),
        ("min_udp_bytes", "<u2"),
        ("max_received_bytes", "<u2"),
        ("tcp_window_scale", "u1"),
        ("max_ttl", "u1"),
    ]
)
"""What is known of a host; :data:`flows.packet.HOST_DTYPE` says what the fields mean."""


def new_histories(most: int = HISTORIES) -> Records:
    """Return room for ``most`` hosts (a power of two, at least 4), ``HISTORY_DTYPE``."""
    return aligned_zeros(most, HISTORY_DTYPE)


# Most counts are small, and a logarithm takes as long as all else that is done with a packet.
_LOG_COUNTS = np.rint(16.0 * np.log2(1.0 + np.arange(1_024))).astype(np.uint8)


@inlined
def _log_count(x: int) -> Any:
    if x < 1_024:
        return np.int64(_LOG_COUNTS[x])
    if x >= 65_536:
        return np.int64(255)
    return min(255, np.int64(np.rint(16.0 * np.log2(1.0 + x))))


@inlined
def _bits(x: np.uint64) -> int:
    n = 0
    while x:
        x &= x - np.uint64(1)
        n += 1
    return n


@inlined
def _inside(kind: int) -> bool:
    return kind == 3 or kind == 2


@inlined
def host_of(address_kinds: int, sent_by_originator: bool) -> int:
    """Return which side of a packet its flow's host is: 1: its sender, 0: its receiver, -1: none.

    ``address_kinds`` is the packet's, see :data:`flows.packet.PACKET_DTYPE`.
    """
    src, dst = address_kinds >> 4, address_kinds & 15
    originator = src if sent_by_originator else dst
    responder = dst if sent_by_originator else src
    by_originator = _inside(originator) or not _inside(responder)
    if (originator if by_originator else responder) == 0:
        return -1  # 0.0.0.0 is whoever has no address yet
    return 1 if by_originator == sent_by_originator else 0


@inlined
def find_history(
    histories: Records, hint: int, hi: np.uint64, lo: np.uint64, now_ns: int, seed: np.uint64
) -> int:
    """Return where the history of a host stands, which has a packet at ``now_ns``.

    It is made anew if there is none or an hour has passed.

    Args:
        histories: ``HISTORY_DTYPE``, see :func:`new_histories`.
        hint: Where it was found before, or -1.
        hi: The host's address, as in ``ENDPOINTS_DTYPE``.
        lo: Its lower half.
        now_ns: Not before any time given earlier.
        seed: Secret that spreads the hosts.
    """
    at: Any = np.int64(hint)
    if at < 0 or not _is_of(histories[at], hi, lo) or now_ns - histories[at].halved_ns > _HOUR_NS:
        at = _search(histories, hi, lo, now_ns, seed)
    histories[at].seen_ns = max(now_ns, 1)
    return at


@inlined
def _is_of(host: Record, hi: np.uint64, lo: np.uint64) -> bool:
    return host.lo == lo and host.hi == hi and host.seen_ns != 0


@kernel
def _search(histories: Records, hi: np.uint64, lo: np.uint64, now_ns: int, seed: np.uint64) -> int:
    sets = np.uint64(len(histories) // _WAYS - 1)
    first = np.int64(mix64(np.uint64(mix64(np.uint64(hi + seed)) ^ lo)) & sets) * _WAYS
    oldest: Any = first
    for k in range(first, first + _WAYS):
        if _is_of(histories[k], hi, lo):
            oldest = k
            break
        if histories[k].seen_ns < histories[oldest].seen_ns:
            oldest = k
    host = histories[oldest]
    if not _is_of(host, hi, lo) or now_ns - host.seen_ns > _HOUR_NS:
        _begin(host, hi, lo, now_ns)
    while now_ns - host.halved_ns > _HOUR_NS:
        _halve(host)
    return oldest


@kernel
def _begin(host: Record, hi: np.uint64, lo: np.uint64, now_ns: int) -> None:
    host.hi, host.lo, host.halved_ns = hi, lo, now_ns
    host.ports_seen = host.sizes_seen = 0
    host.bytes_sent = host.bytes_received = host.payload_bytes = 0
    host.payload_packets = host.packets_sent = 0
    host.tcp_flows = host.udp_flows = host.icmp_flows = host.answered_flows = 0
    host.multicast_ttl_1 = host.multicast_ttl_255 = host.multicast_other = 0
    host.large_udp_flows = host.resets_received = 0
    host.tcp_window = host.max_tcp_payload = host.max_udp_bytes = host.min_udp_bytes = 0
    host.max_received_bytes = 0
    host.tcp_window_scale = host.max_ttl = 0


@kernel
def _halve(host: Record) -> None:
    # So that a host that is watched for months looks like one that is watched for an hour or two.
    host.halved_ns += _HOUR_NS
    host.bytes_sent >>= 1
    host.bytes_received >>= 1
    host.payload_bytes >>= 1
    host.payload_packets >>= 1
    host.packets_sent >>= 1
    host.tcp_flows >>= 1
    host.udp_flows >>= 1
    host.icmp_flows >>= 1
    host.answered_flows >>= 1
    host.multicast_ttl_1 >>= 1
    host.multicast_ttl_255 >>= 1
    host.multicast_other >>= 1
    host.large_udp_flows >>= 1
    host.resets_received >>= 1


@kernel
def tell(host: Record, said: Record) -> None:
    """Write what is known of a host into ``said``, ``HOST_DTYPE``, which holds zeros."""
    said.tcp_window = host.tcp_window
    said.max_tcp_payload = host.max_tcp_payload
    if host.payload_packets:
        said.mean_tcp_payload = host.payload_bytes // host.payload_packets
    said.max_udp_bytes = host.max_udp_bytes
    said.min_udp_bytes = host.min_udp_bytes
    said.max_received_bytes = host.max_received_bytes
    said.tcp_flows = _log_count(host.tcp_flows)
    said.udp_flows = _log_count(host.udp_flows)
    said.icmp_flows = _log_count(host.icmp_flows)
    said.answered_flows = _log_count(host.answered_flows)
    said.multicast_ttl_1 = _log_count(host.multicast_ttl_1)
    said.multicast_ttl_255 = _log_count(host.multicast_ttl_255)
    said.multicast_other = _log_count(host.multicast_other)
    said.large_udp_flows = _log_count(host.large_udp_flows)
    said.packets_sent = _log_count(host.packets_sent)
    said.bytes_sent = _log_count(host.bytes_sent)
    said.bytes_received = _log_count(host.bytes_received)
    said.resets_received = _log_count(host.resets_received)
    said.tcp_window_scale = host.tcp_window_scale
    said.max_ttl = host.max_ttl
    said.responder_ports = _bits(host.ports_seen)
    said.first_packet_sizes = _bits(host.sizes_seen)


@kernel
def add_flow(host: Record, packet: Record, outward: bool) -> None:
    """Count a flow by its first packet, which is ``outward`` if it is the host's."""
    if packet.protocol == 6:
        host.tcp_flows += 1
    elif packet.protocol == 17:
        host.udp_flows += 1
        if outward:
            if host.min_udp_bytes == 0 or packet.ip_bytes < host.min_udp_bytes:
                host.min_udp_bytes = packet.ip_bytes
            host.max_udp_bytes = max(host.max_udp_bytes, packet.ip_bytes)
            host.large_udp_flows += 1 if packet.ip_bytes > 300 else 0
    else:
        host.icmp_flows += 1
    if not outward:
        host.answered_flows += 1
    sent_by_originator = packet.from_originator == 1
    responder = packet.address_kinds & 15 if sent_by_originator else packet.address_kinds >> 4
    if responder >= 5:  # to many
        if packet.ttl == 1:
            host.multicast_ttl_1 += 1
        elif packet.ttl == 255:
            host.multicast_ttl_255 += 1
        else:
            host.multicast_other += 1
    protocol = np.uint64(packet.protocol) << np.uint64(16)
    port = mix64(protocol | np.uint64(packet.responder_port))
    size = mix64(protocol | np.uint64(packet.ip_bytes))
    host.ports_seen |= np.uint64(1) << (port & np.uint64(63))
    host.sizes_seen |= np.uint64(1) << (size & np.uint64(63))


@inlined
def add_packet(host: Record, packet: Record, outward: bool) -> None:
    """Count a packet, which is ``outward`` if the host sent it.

    Without branches but for what is rare, as a packet's direction cannot be foretold.
    """
    sent: Any = np.int64(outward)
    sent_bytes, received_bytes = packet.ip_bytes * sent, packet.ip_bytes * (1 - sent)
    host.packets_sent += sent
    host.bytes_sent += sent_bytes
    host.bytes_received += received_bytes
    host.max_received_bytes = max(np.int64(host.max_received_bytes), received_bytes)
    host.max_ttl = max(np.int64(host.max_ttl), packet.ttl * sent)
    if packet.protocol == 6:
        payload = packet.payload_bytes * sent
        host.payload_packets += np.int64(payload > 0)
        host.payload_bytes += payload
        host.max_tcp_payload = max(np.int64(host.max_tcp_payload), payload)
        if packet.tcp_flags & 6:
            if sent and packet.tcp_flags & 2:
                host.tcp_window = packet.tcp_window
                host.tcp_window_scale = packet.tcp_window_scale
            if not sent and packet.tcp_flags & 4:
                host.resets_received += 1
