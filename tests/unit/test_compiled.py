"""Compiling without numba's memory runtime, and what rests on it."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.errors import NumbaError

from flows.compiled import kernel, prefetch
from flows.table_entries import hash_key


def test_a_kernel_that_allocates_is_refused() -> None:
    def allocates(n: int) -> int:
        return len(np.empty(n, np.uint8))

    with pytest.raises(NumbaError, match="empty"):
        kernel(allocates)(3)


def test_fetching_ahead_changes_nothing() -> None:
    def total(rows: np.ndarray) -> int:
        n = 0
        for i in range(len(rows)):
            prefetch(rows, len(rows) - 1 - i)
            n += rows[i, 1]
        return n

    compiled_total = kernel(total)
    assert compiled_total(np.arange(60).reshape(20, 3)) == sum(range(1, 60, 3))


def test_every_word_of_a_key_moves_its_hash() -> None:
    mapped = 0xFFFF << 32
    seen = {
        int(hash_key(*(np.uint64(word) for word in key)))
        for key in [
            (0, mapped | 1, 0, mapped | 2, 7),
            (0, mapped | 2, 0, mapped | 1, 7),
            (0, mapped | 1, 0, mapped | 2, 8),
            (0, mapped | 1, 0, mapped | 3, 7),
            (0, 1, 0, 2, 7),  # IPv6 addresses that only look like short ones
            (0, 1, 0, 2 | 1 << 40, 7),
            (0, 1 | 1 << 40, 0, 2, 7),
            (1, mapped | 1, 0, mapped | 2, 7),
            (0, mapped | 1, 1, mapped | 2, 7),
        ]
    }
    assert len(seen) == 9
