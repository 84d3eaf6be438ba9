"""The header bytes of a packet record, without what tells who talks to whom.

The optional field ``header`` holds the headers' bytes as on the wire, each header at a place of its
own:

=======  ======  =========================================================
bytes    header  shown
=======  ======  =========================================================
0-59     IPv4    0-9; of options: kinds and lengths
60-119   TCP     64-75, 78-79; of options: kinds and lengths, and the data
                 of segment size, window scale, SACK and timestamps
120-127  UDP     124-125: the length
=======  ======  =========================================================

All else is 0 and never leaves the collector: addresses, ports, and what gives them away. Checksums
do, as with the other fields they tell the sum of addresses and ports; options do, as some hold
addresses (routes, Multipath TCP, what load balancers add).

Also 0 is what a header does not have, what was not captured, and what lies behind the options' end
or behind one that is broken or cut. Which headers there are, and how long, the record's other
fields say: ``ip_version``, ``ip_header_bytes``, ``protocol``, ``tcp_header_bytes``. Of an IPv6
packet there is only the transport header, of ICMP none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.packet import Record

__all__ = ["write_header"]


@kernel
def write_header(
    data: npt.NDArray[np.uint8],
    ip: int,
    transport: int,
    end: int,
    packet: Record,
    out: npt.NDArray[np.uint8],
) -> None:
    """Write a packet's headers into ``out``, uint8 ``[128]`` or longer, which begins with zeros.

    Args:
        data: The buffer, uint8 ``[m]``.
        ip: Where the IP header begins in it.
        transport: Where the transport header begins.
        end: Where what was captured of the frame ends.
        packet: The packet's record, decoded.
        out: What is written.
    """
    if packet.ip_version == 4:
        for i in range(10):
            out[i] = data[ip + i]
        _options(data, ip + 20, min(ip + packet.ip_header_bytes, end), out, 20, False)
    if packet.protocol == 6:
        for i in range(4, 16):
            out[60 + i] = data[transport + i]
        out[78], out[79] = data[transport + 18], data[transport + 19]
        _options(data, transport + 20, min(transport + packet.tcp_header_bytes, end), out, 80, True)
    elif packet.protocol == 17:
        out[124], out[125] = data[transport + 4], data[transport + 5]


@inlined
def _options(
    data: npt.NDArray[np.uint8],
    at: int,
    stop: int,
    out: npt.NDArray[np.uint8],
    to: int,
    tcp: bool,
) -> None:
    """Write options, up to the end mark or one that is broken or cut."""
    while at < stop:
        kind = data[at]
        out[to] = kind
        if kind == 1:
            at += 1
            to += 1
            continue
        if kind == 0 or at + 1 >= stop:
            break
        length: Any = np.int64(data[at + 1])
        out[to + 1] = length
        if length < 2 or at + length > stop:
            break
        if tcp and (2 <= kind <= 5 or kind == 8):
            for i in range(2, length):
                out[to + i] = data[at + i]
        at += length
        to += length
