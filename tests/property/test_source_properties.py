"""Streams that come in pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.capture import CaptureReader
from flows.errors import CaptureTruncatedError
from flows.packet import Records
from frames import block, enhanced, ethernet, interface, ipv4, pcap, section, tcp

FRAMES = [ethernet(ipv4(tcp(40_000 + i, payload=bytes(i)))) for i in range(40)]
PCAP = pcap(FRAMES)
PCAPNG = b"".join(
    section() + interface() + enhanced(frame, 10**15) + block(0xBAD, bytes(700)) for frame in FRAMES
) + block(0xBAD, bytes(600_000))  # of no interest, and longer than the reader's buffer


class _Pieces:
    """A stream of which now a piece is there, now nothing."""

    def __init__(self, data: bytes, sizes: list[int | None]) -> None:
        self._data = data
        self._sizes = iter(sizes)

    def readinto(self, buffer: memoryview, /) -> int | None:
        size = next(self._sizes, len(self._data))
        if size is None:
            return None
        piece = self._data[: min(size, len(buffer))]
        self._data = self._data[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def packets_of(chunks: Iterator[object]) -> Records:
    return np.concatenate([chunk.packets for chunk in chunks])  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=60)
@given(
    data=st.sampled_from([PCAP, PCAPNG]),
    sizes=st.lists(st.one_of(st.none(), st.integers(1, 1_000), st.integers(1, 400_000))),
    cut=st.integers(0, 20),
)
def test_pieces_make_no_difference(data: bytes, sizes: list[int | None], cut: int) -> None:
    """Nothing waits for what is not there, and nothing is lost or read twice."""
    whole = packets_of(CaptureReader(_Pieces(data, [])).chunks())
    assert len(whole) == len(FRAMES)
    assert np.array_equal(packets_of(CaptureReader(_Pieces(data, sizes)).chunks()), whole)
    if cut:
        found = []
        reader = CaptureReader(_Pieces(data[:-cut], sizes))
        try:
            for chunk in reader.chunks():
                found.append(chunk.packets)  # noqa: PERF401 (what came before the error counts)
        except CaptureTruncatedError:
            assert len(np.concatenate(found)) == len(FRAMES) - (data is PCAP)
        else:
            raise AssertionError("a capture that is cut off was taken for a whole one")
