"""How first packets are kept while their flow is open: what only the very first one holds, once.

A packet record ends with what its flow's host did before, a third of the record, which is 0 in all
packets but the first (:mod:`flows.hosts`). Kept apart it takes room once a flow, not once a packet.
"""

from __future__ import annotations

import numpy as np

from flows.packet import HOST_DTYPE, Records, packet_dtype

__all__ = ["rest_dtype", "split"]

_RESTS = {wide: np.dtype(packet_dtype(wide).descr[:-1]) for wide in (False, True)}
_SPLITS = {
    packet_dtype(wide): np.dtype([("rest", rest), ("host", HOST_DTYPE)])
    for wide, rest in _RESTS.items()
}


def rest_dtype(with_header: bool) -> np.dtype[np.void]:
    """Return what a packet record holds before ``host``, see :func:`flows.packet.packet_dtype`."""
    return _RESTS[with_header]


def split(packets: Records) -> Records:
    """Return packets, ``PACKET_DTYPE [n]``, as a view with the fields ``rest`` and ``host``.

    Compiled code copies each of the two in one go.
    """
    return packets.view(_SPLITS[packets.dtype])
