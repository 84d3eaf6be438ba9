"""One way to compile a function with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` with numba at its first call.

    The machine code is cached beside the source file, so that only the first run of a version
    pays for it, and the interpreter lock is released while it runs. Calls are not type-checked:
    numba takes Python's and numpy's numbers alike, and mypy cannot see that.
    """
    return cast(Callable[..., Any], numba.njit(cache=True, nogil=True, boundscheck=False)(function))
