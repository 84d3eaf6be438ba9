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
from llvmlite import ir  # type: ignore[import-untyped] # llvmlite is not typed
from numba.core import config as numba_config
from numba.core import types
from numba.extending import intrinsic

__all__ = ["big_endian", "compiled", "inlined", "kernel", "little_endian", "prefetch"]


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


def _prefetch(_: Any, array: Any, row: Any) -> Any:
    """Fetch the cache lines of ``array[row]``, which begins with one, and go on meanwhile.

    For compiled code. Where rows are met in no order and there are more than the caches hold, most
    of the time goes into waiting for one after the other; fetched some rows ahead, they come
    together. ``array`` may have more axes than one; ``row`` must lie within it.
    """
    if not isinstance(array, types.Array):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        unpacked = context.make_array(signature.args[0])(context, builder, values[0])
        word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        offset = builder.mul(values[1], builder.extract_value(unpacked.strides, 0))
        at = builder.gep(builder.bitcast(unpacked.data, byte), [offset])
        call = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        llvm = builder.module.declare_intrinsic("llvm.prefetch", [byte], call)
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        for line in range(0, size, 64):
            # To be read, to be kept in all caches, data.
            there = builder.gep(at, [ir.IntType(64)(line)])
            builder.call(llvm, [there, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


prefetch: Callable[..., None] = intrinsic(_prefetch)  # its first argument is numba's own


def _number_at(size: Any, big: bool) -> Callable[..., Any]:
    """Return what generates the load of a number of ``size`` bytes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        word = ir.IntType(8 * size)
        at = builder.bitcast(builder.gep(array.data, [values[1]]), word.as_pointer())
        number = builder.load(at, align=1)
        if big and size > 1:
            number = builder.bswap(number)
        return number if size == 8 else builder.zext(number, ir.IntType(64))

    return generate


def _load(array: Any, size: Any, big: bool) -> Any:
    if not isinstance(array, types.Array) or not isinstance(size, types.IntegerLiteral):
        return None
    kind = types.uint64 if size.literal_value == 8 else types.int64
    signature = kind(array, types.intp, types.IntegerLiteral(size.literal_value))
    return signature, _number_at(size.literal_value, big)


def _big_endian(_: Any, array: Any, at: Any, size: Any) -> Any:
    """Read ``size`` bytes (1, 2, 4 or 8, as a literal) of a uint8 array, high ones first.

    For compiled code: one load, where byte by byte each index is first tested for being negative.
    The bytes must lie within the array. Returns int64, of 8 bytes uint64.
    """
    return _load(array, size, True)


def _little_endian(_: Any, array: Any, at: Any, size: Any) -> Any:
    """As :func:`_big_endian`, low bytes first."""
    return _load(array, size, False)


big_endian: Callable[..., Any] = intrinsic(prefer_literal=True)(_big_endian)
little_endian: Callable[..., Any] = intrinsic(prefer_literal=True)(_little_endian)


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    _set_cache_folder()
    jit = numba.njit(cache=True, nogil=True, boundscheck=False, **options)
    return cast(Callable[..., Any], jit(function))


# numba compiles a function anew when its own file has changed, but not when that of a function
# it calls has. So the cache of each version of these modules stands in a folder of its own.
_CALLED_FROM_OTHERS = (
    "address.py", "compiled.py", "header.py", "hosts.py", "ids.py", "join_rows.py", "link.py",
    "table_entries.py", "table_layout.py", "table_lookup.py", "table_timers.py",
)  # fmt: skip


@cache
def _set_cache_folder() -> None:
    here = Path(__file__).parent
    sources = b"".join((here / name).read_bytes() for name in _CALLED_FROM_OTHERS)
    folder = Path(getattr(numba_config, "CACHE_DIR", "") or here / "__pycache__")
    version = hashlib.sha256(sources).hexdigest()[:12]
    setattr(numba_config, "CACHE_DIR", str(folder / f"compiled-{version}"))  # noqa: B010 (numba declares its settings at run time)
