"""What the models see of a flow: header fields of its first packets, never an address or payload.

The list of features is versioned: a bundle names the version that it was trained on and is refused
by code that computes another. Two parts of it are options of each bundle (:class:`Sight`): the
responder's port (the originator's is drawn at random by its host and never seen), and what the
flow's host did before (:mod:`flows.hosts`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.packet import Array, Records
from models.feature_names import (
    FEATURE_SCHEMA,
    FIRST,
    HOST,
    LATER,
    SUMMARY,
    Sight,
    feature_names,
)

__all__ = [
    "FEATURE_SCHEMA",
    "SEQUENCE_CHANNELS",
    "Sight",
    "feature_names",
    "flow_features",
    "packet_sequence",
]

_N_FIRST = len(FIRST)
_N_LATER = len(LATER)
_N_SUMMARY = len(SUMMARY)
_N_HOST = len(HOST)
_PACKET_CHANNELS = 20

SEQUENCE_CHANNELS = _PACKET_CHANNELS + _N_HOST
"""Channels of :func:`packet_sequence`; the first says whether the packet is there."""


def flow_features(
    packets: Records,
    offsets: npt.NDArray[np.int64],
    depth: int,
    sight: Sight,
    rows: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Compute the features of flows from their first packets.

    Args:
        packets: ``PACKET_DTYPE [m]``, by flow, each flow's in the order of ``packet_index``.
        offsets: Where each flow's packets begin, int64 ``[n + 1]``.
        depth: First packets that count; later ones are not looked at.
        sight: What is seen.
        rows: Which flows, int64 ``[k]``; all when left out.

    Returns:
        float32 ``[k, len(feature_names(depth, sight))]``; sizes in bytes, gaps as
        log(1 + µs). Of packets that are not there, sizes are 0 and everything else is -1.
    """
    starts, counts = _extents(offsets, depth, rows)
    out = np.empty((len(starts), len(feature_names(depth, sight))), np.float32)
    _features(_read_only(packets), starts, counts, depth, sight.port, sight.host, out)
    return out


def packet_sequence(
    packets: Records,
    offsets: npt.NDArray[np.int64],
    depth: int,
    sight: Sight,
    rows: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Lay flows out as sequences of packets for a neural network.

    Args:
        packets: As for :func:`flow_features`, and so are the other arguments.
        offsets: Where each flow's packets begin.
        depth: First packets that count.
        sight: What is seen; channels of what is not seen are 0, and so are those of the host
            behind the first packet.
        rows: Which flows; all when left out.

    Returns:
        float32 ``[k, depth, SEQUENCE_CHANNELS]`` within [-1, 1]; packets that are not there are 0
        in every channel, the first of which is 1 for those that are.
    """
    starts, counts = _extents(offsets, depth, rows)
    out = np.zeros((len(starts), depth, SEQUENCE_CHANNELS), np.float32)
    _sequence(_read_only(packets), starts, counts, sight.port, sight.host, out)
    return out


def _extents(
    offsets: npt.NDArray[np.int64], depth: int, rows: npt.NDArray[np.int64] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    starts = np.ascontiguousarray(offsets[:-1], np.int64)
    counts = np.minimum(np.diff(offsets), depth).astype(np.int64)
    return (starts, counts) if rows is None else (starts[rows], counts[rows])


def _read_only(packets: Records) -> Records:
    """Return a read-only view, so that numba compiles one version, whoever the sender was.

    What comes out of Ray or Arrow is read-only, what the flow table holds is not; to numba those
    are two types, and the second one would be compiled in the middle of serving.
    """
    view = np.ascontiguousarray(packets)[:]
    view.flags.writeable = False
    return view


@kernel
def _features(
    packets: Array,
    starts: Array,
    counts: Array,
    depth: int,
    port: bool,
    host: bool,
    out: Array,
) -> None:
    for i in range(len(starts)):
        start, count = starts[i], counts[i]
        row = out[i]
        if count == 0:
            row[:] = -1.0
            continue
        _first(packets[start], row)
        at = _N_FIRST
        if depth > 1:
            _later(packets, start, count, depth, row[at : at + (depth - 1) * _N_LATER])
            at += (depth - 1) * _N_LATER
            _summary(packets, start, count, row[at : at + _N_SUMMARY])
            at += _N_SUMMARY
        if host:
            _host(packets[start].host, row[at : at + _N_HOST])
            at += _N_HOST
        if port:
            row[at] = packets[start].responder_port


@inlined
def _first(p: Any, row: Array) -> None:
    is_tcp = p.tcp_header_bytes > 0
    is_icmp = p.protocol == 1 or p.protocol == 58
    row[0] = p.protocol
    row[1] = p.ip_version
    row[2] = p.ip_bytes
    row[3] = p.ip_header_bytes
    row[4] = p.payload_bytes
    row[5] = p.ttl
    row[6] = p.tos
    row[7] = p.ip_flags
    row[8] = p.tcp_flags if is_tcp else -1.0
    row[9] = p.tcp_window if is_tcp else -1.0
    row[10] = p.tcp_mss if is_tcp else -1.0
    row[11] = p.tcp_window_scale if is_tcp else -1.0
    row[12] = p.tcp_options if is_tcp else -1.0
    row[13] = (p.tcp_options >> 4) & 1 if is_tcp else -1.0
    row[14] = (p.tcp_options >> 2) & 1 if is_tcp else -1.0
    row[15] = p.tcp_header_bytes
    row[16] = p.icmp_type if is_icmp else -1.0
    row[17] = p.icmp_code if is_icmp else -1.0
    row[18] = p.address_kinds >> 4
    row[19] = p.address_kinds & 15
    row[20] = p.ip_id if p.ip_version == 4 else -1.0
    row[21] = _log_timestamp(p)


@inlined
def _log_timestamp(p: Any) -> Any:
    # Many a host counts from when it was switched on: seconds tell hosts apart, years do not.
    return np.log1p(np.float64(p.tcp_timestamp)) if p.tcp_timestamp > 0 else -1.0


@inlined
def _host(h: Any, row: Array) -> None:
    row[0] = h.tcp_window
    row[1] = h.max_tcp_payload
    row[2] = h.mean_tcp_payload
    row[3] = h.max_udp_bytes
    row[4] = h.min_udp_bytes
    row[5] = h.max_received_bytes
    row[6] = h.tcp_flows
    row[7] = h.udp_flows
    row[8] = h.icmp_flows
    row[9] = h.answered_flows
    row[10] = h.multicast_ttl_1
    row[11] = h.multicast_ttl_255
    row[12] = h.multicast_other
    row[13] = h.large_udp_flows
    row[14] = h.packets_sent
    row[15] = h.bytes_sent
    row[16] = h.bytes_received
    row[17] = h.resets_received
    row[18] = h.tcp_window_scale
    row[19] = h.max_ttl
    row[20] = h.responder_ports
    row[21] = h.first_packet_sizes


@inlined
def _later(packets: Array, start: int, count: int, depth: int, row: Array) -> None:
    for j in range(1, depth):
        at = (j - 1) * _N_LATER
        if j >= count:
            row[at] = 0.0
            row[at + 1] = 0.0
            row[at + 2] = -1.0
            row[at + 3] = -1.0
            row[at + 4] = -1.0
            continue
        p = packets[start + j]
        sign = 1.0 if p.from_originator else -1.0
        is_tcp = p.tcp_header_bytes > 0
        row[at] = sign * p.ip_bytes
        row[at + 1] = sign * p.payload_bytes
        row[at + 2] = _log_us(p.time_ns - packets[start + j - 1].time_ns)
        row[at + 3] = p.tcp_flags if is_tcp else -1.0
        row[at + 4] = p.tcp_window if is_tcp else -1.0


@inlined
def _summary(packets: Array, start: int, count: int, row: Array) -> None:
    p0 = packets[start]
    forward = 0
    changes = 0
    max_gap = 0
    least = 65_535
    most = 0
    reply = -1
    second = -1  # of the originator's packets
    sent = received = sent_payload = received_payload = 0
    for j in range(count):
        p = packets[start + j]
        side = 0 if p.from_originator else 1
        forward += 1 - side
        sent += p.ip_bytes * (1 - side)
        received += p.ip_bytes * side
        sent_payload += p.payload_bytes * (1 - side)
        received_payload += p.payload_bytes * side
        least = min(least, p.ip_bytes)
        most = max(most, p.ip_bytes)
        if side == 1 and reply < 0:
            reply = start + j
        if side == 0 and j > 0 and second < 0:
            second = start + j
        if j > 0:
            before = packets[start + j - 1]
            max_gap = max(max_gap, p.time_ns - before.time_ns)
            changes += (0 if before.from_originator else 1) != side
    row[0] = count
    row[1] = forward
    row[2] = count - forward
    row[3] = sent
    row[4] = received
    row[5] = sent_payload
    row[6] = received_payload
    row[7] = least
    row[8] = most
    row[9] = (sent + received) / count
    row[10] = changes
    row[11] = _log_us(packets[start + count - 1].time_ns - packets[start].time_ns)
    row[12] = _log_us(max_gap)
    row[13:21] = -1.0
    if second >= 0 and p0.ip_version == 4:
        row[20] = (np.int64(packets[second].ip_id) - np.int64(p0.ip_id)) & 0xFFFF
    if reply >= 0:
        p = packets[reply]
        row[13] = p.ttl
        row[18] = p.ip_id if p.ip_version == 4 else -1.0
        row[19] = _log_timestamp(p)
        if p.tcp_header_bytes > 0:
            row[14] = p.tcp_window
            row[15] = p.tcp_mss
            row[16] = p.tcp_window_scale
            row[17] = p.tcp_options


@inlined
def _log_us(ns: int) -> Any:
    return np.log1p(max(ns, 0) / 1e3)


@kernel
def _sequence(
    packets: Array, starts: Array, counts: Array, port: bool, host: bool, out: Array
) -> None:
    for i in range(len(starts)):
        for j in range(counts[i]):
            p = packets[starts[i] + j]
            gap = p.time_ns - packets[starts[i] + j - 1].time_ns if j else 0
            row = out[i, j]
            row[0] = 1.0
            row[1] = 1.0 if p.from_originator else -1.0
            # Sizes are mostly small: the logarithm keeps 60 and 66 bytes apart.
            row[2] = np.log1p(np.float64(p.ip_bytes)) / np.log1p(65_535.0)
            row[3] = np.log1p(np.float64(p.payload_bytes)) / np.log1p(65_535.0)
            row[4] = min(p.ip_bytes / 1_500.0, 1.0)
            row[5] = min(_log_us(gap) / 17.0, 1.0)  # log(1 + 24 s in µs)
            row[6] = p.ttl / 255.0
            row[7] = p.tos / 255.0
            row[8] = p.tcp_window / 65_535.0
            row[9] = min(p.tcp_mss / 1_500.0, 1.0)
            row[10] = min(p.tcp_window_scale / 15.0, 1.0)
            row[11] = p.tcp_options / 127.0 if p.tcp_options < 128 else 1.0
            row[12] = 1.0 if p.protocol == 6 else (-1.0 if p.protocol == 17 else 0.0)
            row[13] = 1.0 if p.tcp_flags & 0x02 else (-1.0 if p.tcp_flags & 0x05 else 0.0)
            row[14] = 1.0 if p.tcp_flags & 0x08 else 0.0
            # The port's place in the order of things, not its value: 80 and 443 far apart.
            row[15] = np.log1p(np.float64(p.responder_port)) / np.log1p(65_535.0) if port else 0.0
            row[16] = (p.address_kinds >> 4) / 15.0
            row[17] = (p.address_kinds & 15) / 15.0
            row[18] = p.ip_id / 65_535.0
            row[19] = np.log1p(np.float64(p.tcp_timestamp)) / 23.0  # over log of 2^32
            if host and j == 0:
                _host(p.host, row[_PACKET_CHANNELS:])
                for c in range(_PACKET_CHANNELS, _PACKET_CHANNELS + 6):
                    row[c] = np.log1p(np.float64(row[c])) / np.log1p(65_535.0)
                for c in range(_PACKET_CHANNELS + 6, len(row)):
                    row[c] /= 255.0
