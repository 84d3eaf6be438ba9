"""What travels between replicas as bytes.

Pickling a record array pickles its type too, field by field, and unpickling builds it anew: for a
few packets that is most of what a call costs in Python. Both ends know the types, so the rows'
bytes are enough, and the plain pickle is quicker than the one for code, Ray Serve's default.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from deployments.protocols import Absorb, Absorbed
from flows.join import DUE_DTYPE, MARK_DTYPE, Due
from flows.packet import Array, Records, packet_dtype
from flows.records import as_bytes

__all__ = [
    "PackedAbsorb", "PackedAbsorbed", "PackedDue", "PackedPackets", "pack", "pack_absorb",
    "pack_absorbed", "pack_due", "pack_packets", "unpack", "unpack_absorb", "unpack_absorbed",
    "unpack_due", "unpack_packets",
]  # fmt: skip

PackedPackets: TypeAlias = tuple[bytes, bool]
"""Packets, and whether with the field ``header``."""

PackedDue: TypeAlias = tuple[bytes, PackedPackets, bytes]
PackedAbsorb: TypeAlias = tuple[str, int, PackedPackets, bytes, bytes]
PackedAbsorbed: TypeAlias = tuple[PackedDue, int, str]

_NUMBER = np.dtype(np.uint64)
_OFFSET = np.dtype(np.int64)


def pack(rows: Array) -> bytes:
    """Return the bytes of an array ``[n]`` of any type."""
    return as_bytes(np.ascontiguousarray(rows)).tobytes()


def unpack(data: bytes, dtype: np.dtype[np.generic]) -> Array:
    """Return the array again, ``dtype [n]``; it may be written to."""
    return np.frombuffer(bytearray(data), dtype)


def pack_packets(packets: Records) -> PackedPackets:
    """Return ``PACKET_DTYPE [n]`` or ``packet_dtype(True)`` as bytes."""
    return pack(packets), packets.itemsize == packet_dtype(True).itemsize


def unpack_packets(data: PackedPackets) -> Records:
    """Return the packets again."""
    return unpack(data[0], packet_dtype(data[1]))


def pack_due(due: Due) -> PackedDue:
    """Return due flows as bytes."""
    return pack(due.flows), pack_packets(due.packets), pack(due.offsets)


def unpack_due(data: PackedDue) -> Due:
    """Return the due flows again."""
    flows, packets, offsets = data
    return Due(unpack(flows, DUE_DTYPE), unpack_packets(packets), unpack(offsets, _OFFSET))


def pack_absorb(request: Absorb) -> PackedAbsorb:
    """Return what one collector has for a tracker as bytes."""
    return (
        request.collector,
        request.watermark_ns,
        pack_packets(request.packets),
        pack(request.marks),
        pack(request.settled),
    )


def unpack_absorb(data: PackedAbsorb) -> Absorb:
    """Return the request again."""
    collector, watermark_ns, packets, marks, settled = data
    return Absorb(
        collector,
        watermark_ns,
        unpack_packets(packets),
        unpack(marks, MARK_DTYPE),
        unpack(settled, _NUMBER),
    )


def pack_absorbed(reply: Absorbed) -> PackedAbsorbed:
    """Return a tracker's reply as bytes."""
    return pack_due(reply.due), reply.duplicates, reply.incarnation


def unpack_absorbed(data: PackedAbsorbed) -> Absorbed:
    """Return the reply again."""
    due, duplicates, incarnation = data
    return Absorbed(unpack_due(due), duplicates, incarnation)
