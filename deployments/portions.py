"""Large calls to the models in portions, which replicas can share among them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flows.join import Due
from flows.packet import Records

__all__ = ["due_portions", "packet_portions"]

_BYTES = 1024 * 1024  # of packets in one call, about; a replica takes 4 MiB as Ray Serve comes


def packet_portions(packets: Records, most_bytes: int = _BYTES) -> Iterator[Records]:
    """Cut ``PACKET_DTYPE [n]`` into portions of at most so many bytes, or one packet."""
    step = max(1, most_bytes // packets.itemsize)
    for at in range(0, len(packets), step):
        yield packets[at : at + step]


def due_portions(due: Due, most_bytes: int = _BYTES) -> Iterator[Due]:
    """Cut due flows into portions with at most so many bytes of packets, or one flow."""
    most = max(1, most_bytes // due.packets.itemsize)
    flows = len(due.flows)
    at = 0
    while at < flows:
        fits = int(np.searchsorted(due.offsets, due.offsets[at] + most, side="right")) - 1
        end = min(max(fits, at + 1), flows)
        first, last = due.offsets[at], due.offsets[end]
        yield Due(due.flows[at:end], due.packets[first:last], due.offsets[at : end + 1] - first)
        at = end
