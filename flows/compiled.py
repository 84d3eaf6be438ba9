"""One way to compile a function with numba, typed so that mypy sees through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile ``function`` with numba at its first call.

    The machine code is cached beside the source file, so that only the first run of a version
    pays for it, and the interpreter lock is released while it runs.
    """
    return cast(F, numba.njit(cache=True, nogil=True, boundscheck=False)(function))
