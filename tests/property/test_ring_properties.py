"""Blocks of a ring that nobody made on purpose."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.ring_kernels import LEAST_ENTRY_BYTES, scan_block
from flows.decode import FRAME_DTYPE, Skip, decode_frames

SIZE = 4_096
WORD = st.one_of(
    st.integers(0, 128), st.integers(SIZE - 128, SIZE + 128), st.integers(0, 2**32 - 1),
    st.sampled_from([48, 72, 80, 88, 96, 2**31, 2**32 - 8]),
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(
    count=WORD, first=WORD, link=st.sampled_from([1, 101]), loopback=st.booleans(),
    words=st.lists(st.tuples(st.integers(0, SIZE // 4 - 1), WORD), max_size=200),
)  # fmt: skip
def test_no_block_is_read_or_written_beyond_its_end(
    count: int, first: int, link: int, loopback: bool, words: list[tuple[int, int]]
) -> None:
    """Whatever stands in it: frames lie within it, and every entry is found or counted."""
    ring = np.full(3 * SIZE, 0xA5, np.uint8)
    inside = ring[SIZE : 2 * SIZE].view(np.uint32)
    inside[:] = 0
    for at, value in words:
        inside[at] = value
    inside[2:5] = (1, count, first)
    frames = np.zeros(SIZE // LEAST_ENTRY_BYTES, FRAME_DTYPE)
    n, broken = scan_block(
        ring, ring.view(np.uint32), ring.view(np.uint16), SIZE, SIZE, link, loopback, frames, 0
    )
    assert n <= len(frames)
    assert n + broken <= count
    assert loopback or n + broken == count
    found = frames[:n]
    assert (found["at"] >= SIZE).all()
    assert (found["at"] + found["captured_bytes"] <= 2 * SIZE).all()
    assert (ring[:SIZE] == 0xA5).all()
    assert (ring[2 * SIZE :] == 0xA5).all()
    decode_frames(ring, found, np.zeros(len(Skip), np.int64))
