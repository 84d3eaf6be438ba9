"""What a model sees of a flow bit by bit: its first packets' headers, as nPrint lays them out.

After Holland et al. 2021, "New Directions in Automated Traffic Analysis", and the features of the
ServeFlow paper: each packet is 1,024 values, the bits of an IPv4 header of 60 bytes (480), of a TCP
header of 60 bytes (480) and of a UDP header of 8 bytes (64), highest bit first. A bit is 0 or 1,
or -1 where there is none: the header is absent, or shorter than that.

Masked bits are always -1, whatever the packet: addresses, ports and checksums. Options' data that
:mod:`flows.header` masks are 0. IPv6 packets have no IPv4 bits and their own fixed header is not
shown, their transport header is; of ICMP there is only the IPv4 header. What was not captured is
0.

The packets carry their headers' bytes (:func:`flows.packet.packet_dtype`); only here, right before
a model looks at them, they take 32 times the room: 40 KB for ten packets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.packet import Array, Records
from models.features import Sight

__all__ = ["PACKET_BITS", "bit_names", "packet_bits"]

PACKET_BITS = 1024
"""Values of a packet."""

_FIELDS = {  # nPrint's names; bits of each field
    "ipv4": (
        ("ver", 4), ("hl", 4), ("tos", 8), ("tl", 16), ("id", 16), ("rbit", 1), ("dfbit", 1),
        ("mfbit", 1), ("foff", 13), ("ttl", 8), ("proto", 8), ("cksum", 16), ("src", 32),
        ("dst", 32), ("opt", 320),
    ),
    "tcp": (
        ("sprt", 16), ("dprt", 16), ("seq", 32), ("ackn", 32), ("doff", 4), ("res", 3), ("ns", 1),
        ("cwr", 1), ("ece", 1), ("urg", 1), ("ackf", 1), ("psh", 1), ("rst", 1), ("syn", 1),
        ("fin", 1), ("wsize", 16), ("cksum", 16), ("urp", 16), ("opt", 320),
    ),
    "udp": (("sport", 16), ("dport", 16), ("len", 16), ("cksum", 16)),
}  # fmt: skip


def bit_names(depth: int) -> tuple[str, ...]:
    """Return the names of the columns of :func:`packet_bits`: header, field, bit and packet.

    ``ipv4_ttl_3_p1`` is bit 3, from the highest on, of the time to live of packet 1.

    Args:
        depth: First packets that count.
    """
    names = [
        f"{header}_{field}_{bit}"
        for header, fields in _FIELDS.items()
        for field, bits in fields
        for bit in range(bits)
    ]
    return tuple(f"{name}_p{k + 1}" for k in range(depth) for name in names)


def packet_bits(
    packets: Records,
    offsets: npt.NDArray[np.int64],
    depth: int,
    sight: Sight,
    rows: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Lay the headers of flows' first packets out bit by bit.

    A flow takes ``4 * depth`` KB: ask for no more of them at a time than will be judged at once.

    Args:
        packets: ``packet_dtype(True) [m]``, by flow, each flow's in the order of ``packet_index``.
        offsets: Where each flow's packets begin, int64 ``[n + 1]``.
        depth: First packets that count; later ones are not looked at.
        sight: Must be ``Sight()``: ports and hosts are no header bits.
        rows: Which flows, int64 ``[k]``; all when left out.

    Returns:
        float32 ``[k, depth * PACKET_BITS]``: -1, 0 or 1; of packets that are not there, -1.

    Raises:
        ValueError: ``sight`` asks for more, or the packets hold no headers.
    """
    if sight.port or sight.host:
        raise ValueError("bits show headers alone, neither the port nor the host")
    if "header" not in (packets.dtype.names or ()):
        raise ValueError("bits need packets that were read with their headers (with_header=True)")
    starts = np.ascontiguousarray(offsets[:-1], np.int64)
    counts = np.minimum(np.diff(offsets), depth).astype(np.int64)
    if rows is not None:
        starts, counts = starts[rows], counts[rows]
    out = np.full((len(starts), depth * PACKET_BITS), -1, np.float32)
    # Read-only, so that numba compiles one version: see models.features.
    view = np.ascontiguousarray(packets)[:]
    view.flags.writeable = False
    _flows(view, starts, counts, out)
    return out


@compiled
def _flows(packets: Array, starts: Array, counts: Array, out: Array) -> None:
    for i in range(len(starts)):
        for k in range(counts[i]):
            packet = packets[starts[i] + k]
            header = packet.header
            at = 1024 * k
            if packet.ip_version == 4:
                _bits(header, 0, min(10, packet.ip_header_bytes), out[i], at)
                _bits(header, 20, min(60, packet.ip_header_bytes), out[i], at)
            if packet.protocol == 6:
                _bits(header, 64, 60 + min(16, packet.tcp_header_bytes), out[i], at)
                _bits(header, 78, 60 + min(60, packet.tcp_header_bytes), out[i], at)
            elif packet.protocol == 17:
                _bits(header, 124, 126, out[i], at)


@compiled
def _bits(header: Array, first: int, stop: int, row: Array, at: int) -> None:
    for byte in range(first, stop):
        value = header[byte]
        for bit in range(8):
            row[at + 8 * byte + bit] = (value >> (7 - bit)) & 1
