"""What travels between replicas comes back as it was."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.packed import (
    pack_absorb,
    pack_absorbed,
    unpack_absorb,
    unpack_absorbed,
)
from deployments.protocols import Absorb, Absorbed
from flows.join import DUE_DTYPE, MARK_DTYPE, Due
from flows.packet import packet_dtype


def rows(n: int, dtype: np.dtype) -> np.ndarray:
    data = np.random.default_rng(n).integers(0, 256, n * dtype.itemsize, np.uint8)
    return data.view(dtype)


@pytest.mark.parametrize("with_header", [False, True])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_requests_and_replies_of_trackers_come_back(with_header: bool, n: int) -> None:
    packets = rows(2 * n, packet_dtype(with_header))[::2]  # not contiguous
    asked = Absorb("edge#1", 1 << 61, packets, rows(n, MARK_DTYPE), np.arange(n, dtype=np.uint64))
    back = unpack_absorb(pack_absorb(asked))
    assert (back.collector, back.watermark_ns) == ("edge#1", 1 << 61)
    assert back.packets.dtype == packet_dtype(with_header)
    for name in ("packets", "marks", "settled"):
        got, was = getattr(back, name), getattr(asked, name)
        assert got.dtype == was.dtype
        assert got.flags.writeable
        assert got.tobytes() == was.tobytes()
    due = Due(rows(n, DUE_DTYPE), packets, np.arange(n + 1))
    reply = unpack_absorbed(pack_absorbed(Absorbed(due, n, "abc")))
    assert (reply.duplicates, reply.incarnation) == (n, "abc")
    for name in ("flows", "packets", "offsets"):
        assert getattr(reply.due, name).tobytes() == getattr(due, name).tobytes()
