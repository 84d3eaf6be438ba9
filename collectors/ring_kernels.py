"""Compiled parts of :mod:`collectors.ring_source`: find the frames in blocks of a kernel's ring.

The layout is that of TPACKET_V3 (``linux/if_packet.h``, in the host's byte order). The kernel
wrote it, and still no offset in it is followed before it is known to lie within the block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic

from flows.compiled import kernel
from flows.packet import Records

__all__ = [
    "BLOCK_HEADER_BYTES",
    "LEAST_ENTRY_BYTES",
    "OWN_DTYPE",
    "drop_own",
    "give_back",
    "scan_block",
]

BLOCK_HEADER_BYTES = 48
"""What a block begins with: version, offset, and what ``scan_block`` reads of it."""

LEAST_ENTRY_BYTES = 72
"""No entry is shorter: its header, its link layer's address, aligned to 8 bytes."""

OWN_DTYPE = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("port", "<u2")])
"""An address, as in ``ENDPOINTS_DTYPE``, and a port."""

_ADDRESS_ENDS = 68  # struct tpacket3_hdr, 48 bytes, and struct sockaddr_ll; the frame comes later
_PACKET_TYPE = 58  # sll_pkttype
_OUTGOING = 4  # PACKET_OUTGOING
_VLAN_VALID = 0x10  # TP_STATUS_VLAN_VALID
_TPID_VALID = 0x40  # TP_STATUS_VLAN_TPID_VALID
_TAG_BYTES = 4


def _make_fence(_: Any) -> Any:
    """Keep reads and writes on their side of this line, as other cores see them."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


_fence: Callable[[], None] = intrinsic(_make_fence)  # its first argument is numba's own


@kernel
def scan_block(
    ring: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint32],
    halves: npt.NDArray[np.uint16],
    block: int,
    size: int,
    link: int,
    skip_outgoing: bool,
    frames: Records,
    n: int,
) -> tuple[int, int]:
    """Add the frames of the block of ``size`` bytes at ``ring[block:]`` to ``frames[n:]``.

    A VLAN tag that the kernel took out of a frame is put back, so that the frame is what crossed
    the wire.

    Args:
        ring: The mapped ring, uint8 ``[m]``; the next two are views of it.
        words: uint32 ``[m / 4]``.
        halves: uint16 ``[m / 2]``.
        block: Where the block begins, a multiple of 8.
        size: Its bytes, at least ``BLOCK_HEADER_BYTES``.
        link: The interface's :class:`flows.link.LinkType`.
        skip_outgoing: Leave out what this host sends (on loopback it comes back as received).
        frames: ``FRAME_DTYPE``.
        n: How many of them are in use.

    Returns:
        How many of them are in use now, and how many entries of the block made no sense.
    """
    _fence()  # the block's status was read before; what it holds must be read after
    count = np.int64(words[block // 4 + 3])
    at = np.int64(words[block // 4 + 4])  # from the block's beginning, as all that follows
    broken = np.int64(0)
    for i in range(count):
        reachable = at >= BLOCK_HEADER_BYTES and at % 8 == 0 and at + LEAST_ENTRY_BYTES <= size
        if not reachable or n == len(frames):
            return n, broken + count - i
        word, half = (block + at) // 4, (block + at) // 2
        captured = np.int64(words[word + 3])
        begin = at + np.int64(halves[half + 12])
        status = words[word + 5]
        tag = _TAG_BYTES if link == 1 and status & _VLAN_VALID and captured >= 12 else 0
        if begin - tag < at + _ADDRESS_ENDS or begin + captured > size:
            broken += 1
        elif not (skip_outgoing and ring[block + at + _PACKET_TYPE] == _OUTGOING):
            begin += block - tag
            if tag:
                for byte in range(12):  # both addresses go to the front, the tag between
                    ring[begin + byte] = ring[begin + tag + byte]
                kind = np.int64(halves[half + 18]) if status & _TPID_VALID else np.int64(0x8100)
                value = np.int64(words[word + 8])
                ring[begin + 12], ring[begin + 13] = kind >> 8, kind & 0xFF
                ring[begin + 14], ring[begin + 15] = (value >> 8) & 0xFF, value & 0xFF
            frame = frames[n]
            frame.at = begin
            frame.captured_bytes = captured + tag
            frame.wire_bytes = min(np.int64(words[word + 4]) + tag, np.int64(0x7FFFFFFF))
            frame.time_ns = np.int64(words[word + 1]) * 1_000_000_000 + np.int64(words[word + 2])
            frame.link = link
            n += 1
        step = np.int64(words[word])
        if i + 1 < count and step < LEAST_ENTRY_BYTES:
            return n, broken + count - i - 1
        at += step
    return n, broken


@kernel
def give_back(words: npt.NDArray[np.uint32], block: int) -> None:
    """Hand a block back to the kernel, which may write to it from then on."""
    words[block // 4 + 3] = 0  # no packet is in it, from now until the kernel says so
    _fence()
    words[block // 4 + 2] = 0


@kernel
def drop_own(packets: Records, endpoints: Records, own: Records) -> int:
    """Drop TCP packets from or to one of ``own``, ``OWN_DTYPE``, and close the gaps.

    Returns:
        How many packets are left, at the front.
    """
    n = 0
    for i in range(len(packets)):
        ends = endpoints[i]
        mine = False
        for k in range(len(own) if ends.protocol == 6 else 0):
            one = own[k]
            if ends.src_port == one.port and ends.src_lo == one.lo and ends.src_hi == one.hi:
                mine = True
            if ends.dst_port == one.port and ends.dst_lo == one.lo and ends.dst_hi == one.hi:
                mine = True
        if mine:
            continue
        if n < i:
            packets[n] = packets[i]
            endpoints[n] = endpoints[i]
        n += 1
    return n
