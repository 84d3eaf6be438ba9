"""Link layers: where the IP packet begins in a frame."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from flows.compiled import big_endian, inlined

__all__ = ["CUT", "NOT_IP", "TAGS", "LinkType", "find_ip", "u8", "u16"]


class LinkType(IntEnum):
    """The link types that the decoder knows (LINKTYPE_ values of the tcpdump group)."""

    NULL = 0  # BSD loopback, the host's byte order
    ETHERNET = 1
    PPP = 9
    RAW_BSD = 12
    RAW_OPENBSD = 14
    RAW = 101
    CISCO_HDLC = 104
    LOOP = 108  # BSD loopback, network byte order
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


NOT_IP = -1  # ARP, spanning tree, …
CUT = -2  # the capture holds too little of the frame
TAGS = -3  # more tags or labels than any network uses

_MOST_TAGS = 8


@inlined
def u8(data: npt.NDArray[np.uint8], at: int) -> int:
    """Read 8 bits."""
    return big_endian(data, at, 1)


@inlined
def u16(data: npt.NDArray[np.uint8], at: int) -> int:
    """Read 16 bits in network byte order."""
    return big_endian(data, at, 2)


@inlined
def _behind_cisco(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    if at + 4 > end:
        return CUT, at
    kind = u16(data, at + 2)
    return (4 if kind == 0x0800 else 6 if kind == 0x86DD else NOT_IP), at + 4


@inlined
def _behind_ethertype(data: npt.NDArray[np.uint8], kind: int, at: int, end: int) -> tuple[int, int]:
    """Follow tags and labels; return the IP version (or a code below 0) and where it begins."""
    for _ in range(_MOST_TAGS):
        if kind == 0x0800:
            return 4, at
        if kind == 0x86DD:
            return 6, at
        if kind in (0x8100, 0x88A8, 0x9100, 0x9200):  # 802.1Q, 802.1ad, older QinQ
            if at + 4 > end:
                return CUT, at
            kind = u16(data, at + 2)
            at += 4
            if kind < 0x0600:
                return NOT_IP, at
        elif kind == 0x8864:  # PPPoE session (RFC 2516)
            if at + 8 > end:
                return CUT, at
            return _behind_ppp(data, at + 6, end)
        elif kind in (0x8847, 0x8848):  # MPLS (RFC 3032)
            if at + 5 > end:
                return CUT, at
            if u8(data, at + 2) & 1:  # bottom of the label stack: the next nibble tells the version
                version = u8(data, at + 4) >> 4
                return (version if version in (4, 6) else NOT_IP), at + 4
            at += 4
        else:
            return NOT_IP, at
    return TAGS, at


@inlined
def _behind_ppp(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    if at + 2 <= end and u8(data, at) == 0xFF and u8(data, at + 1) == 0x03:
        at += 2
    if at + 2 > end:
        return CUT, at
    kind = u16(data, at)
    if kind in (0x0F00, 0x8F00):  # Cisco HDLC, which some tools file under PPP
        return _behind_cisco(data, at, end)
    if kind == 0x0021:
        return 4, at + 2
    if kind == 0x0057:
        return 6, at + 2
    return NOT_IP, at


@inlined
def _raw(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    if at >= end:
        return CUT, at
    version = u8(data, at) >> 4
    return (version if version in (4, 6) else NOT_IP), at


@inlined
def find_ip(data: npt.NDArray[np.uint8], link: int, at: int, end: int) -> tuple[int, int]:
    """Return the IP version (4, 6, or one of the codes below 0) and where the packet begins.

    Args:
        data: Bytes, uint8 ``[m]``.
        link: A :class:`LinkType`.
        at: Where the frame begins.
        end: Where what was captured of it ends.
    """
    if link == 1:
        if at + 14 > end:
            return CUT, at
        kind = u16(data, at + 12)
        at += 14
        if kind < 0x0600:  # a length: IEEE 802.3 with LLC; only SNAP carries an ethertype
            if at + 8 > end or u8(data, at) != 0xAA or u8(data, at + 1) != 0xAA:
                return NOT_IP, at
            kind = u16(data, at + 6)
            at += 8
        return _behind_ethertype(data, kind, at, end)
    if link == 113 or link == 276:
        header = 16 if link == 113 else 20
        if at + header > end:
            return CUT, at
        return _behind_ethertype(data, u16(data, at + 14 if link == 113 else at), at + header, end)
    if link == 0 or link == 108:
        if at + 4 > end:
            return CUT, at
        # Address families differ by system: 2 is IPv4, IPv6 is 24, 28 or 30 (10 on Linux).
        family = u8(data, at) | u8(data, at + 3)
        if family == 2:
            return 4, at + 4
        return (6 if family in (10, 24, 28, 30) else NOT_IP), at + 4
    if link == 9:
        return _behind_ppp(data, at, end)
    if link == 104:
        return _behind_cisco(data, at, end)
    if link == 228 or link == 229:
        return (4 if link == 228 else 6), at
    return _raw(data, at, end)
