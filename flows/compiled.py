"""The ways to compile a function with numba.

numba counts references to arrays: each call that takes arrays raises and lowers their counts
atomically, which in a call per packet costs more than its work. So what allocates nothing is
compiled without counting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numba
from numba.core import config as numba_config

__all__ = ["compiled", "inlined", "kernel"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` with numba at its first call.

    The machine code is cached on disk, so that only the first run of a version pays for it, and
    the interpreter lock is released while it runs. Calls are not type-checked: numba takes
    Python's and numpy's numbers alike, and mypy cannot see that.

    A compiled function may call those of its own module and of the modules named in
    ``_CALLED_FROM_OTHERS``, no others.
    """
    return _compile(function)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as :func:`compiled` does a function that allocates nothing.

    It is compiled without numba's memory runtime, so one that does allocate is refused at its
    first call.
    """
    return _compile(function, _nrt=False)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a helper as :func:`kernel` does, and into whatever calls it.

    For what runs for every packet; the code of each caller grows by it.
    """
    return _compile(function, _nrt=False, forceinline=True)


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    _set_cache_folder()
    jit = numba.njit(cache=True, nogil=True, boundscheck=False, **options)
    return cast(Callable[..., Any], jit(function))


# numba compiles a function anew when its own file has changed, but not when that of a function
# it calls has. So the cache of each version of these modules stands in a folder of its own.
_CALLED_FROM_OTHERS = (
    "address.py", "compiled.py", "header.py", "ids.py", "link.py", "table_entries.py",
)  # fmt: skip


@cache
def _set_cache_folder() -> None:
    here = Path(__file__).parent
    sources = b"".join((here / name).read_bytes() for name in _CALLED_FROM_OTHERS)
    folder = Path(getattr(numba_config, "CACHE_DIR", "") or here / "__pycache__")
    version = hashlib.sha256(sources).hexdigest()[:12]
    setattr(numba_config, "CACHE_DIR", str(folder / f"compiled-{version}"))  # noqa: B010 (numba declares its settings at run time)
