"""Numbers, addresses and times as text, a column at a time, and lines put together from columns.

A sink writes tens of thousands of lines a second beside everything else that a collector does, so
no Python runs per line: compiled code fills one text column after the other and then copies them,
with what stands between them, into one buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.packet import Array, Records

__all__ = [
    "Bytes",
    "Piece",
    "Texts",
    "addresses",
    "base62",
    "decimals",
    "integers",
    "joined",
    "names",
    "times",
]

Bytes = npt.NDArray[np.uint8]
"""Text as bytes."""

_DIGITS = 20  # of a uint64
_ADDRESS = 39  # characters of an IPv6 address
_DAY_NS = 86_400_000_000_000
_BASE62 = np.frombuffer(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", np.uint8
).copy()


@dataclass(frozen=True, slots=True)
class Texts:
    """One text per row.

    Attributes:
        cells: Bytes that the texts lie in, uint8 ``[m]``.
        where: Where each one begins, int64 ``[n]``.
        size: Bytes of each one, int64 ``[n]``.
    """

    cells: Bytes
    where: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]

    def blank(self, rows: npt.NDArray[np.bool_]) -> Texts:
        """Return these texts, empty where the bool ``[n]`` holds."""
        return Texts(self.cells, self.where, np.where(rows, 0, self.size))


Piece: TypeAlias = tuple[bytes, Texts]
"""A column, and what stands before it in every line."""


def integers(values: Array) -> Texts:
    """Return unsigned integers ``[n]`` in decimal."""
    cells, size = _room(len(values), _DIGITS)
    _integers(values.astype(np.uint64), cells, size)
    return _in_cells(cells, size)


def decimals(values: npt.NDArray[np.int64], places: int, *, short: bool) -> Texts:
    """Return ``values / 10**places`` in decimal.

    Args:
        values: int64 ``[n]``.
        places: Digits behind the point.
        short: As Python and JSON write a float: no zeros at the end but one behind the point, an
            exponent below 0.0001; else all digits.
    """
    cells, size = _room(len(values), _DIGITS + 2 + places)
    _decimals(np.ascontiguousarray(values), places, short, cells, size)
    return _in_cells(cells, size)


def addresses(flows: Records) -> tuple[Texts, Texts]:
    """Return the originators' and the responders' addresses of ``FLOW_DTYPE [n]`` (RFC 5952)."""
    ends = []
    for end in ("src", "dst"):
        cells, size = _room(len(flows), _ADDRESS)
        hi, lo = flows[f"{end}_hi"], flows[f"{end}_lo"]
        _addresses(hi, lo, flows["ip_version"], cells, size)
        ends.append(_in_cells(cells, size))
    return ends[0], ends[1]


def times(times_ns: npt.NDArray[np.int64], places: int) -> Texts:
    """Return times since the epoch, int64 ``[n]``, as ISO 8601 in UTC without a zone.

    Args:
        times_ns: Nanoseconds.
        places: Digits of the second's fraction, 1 to 9; what lies behind them is cut off.
    """
    width = 20 + places
    cells, size = _room(len(times_ns), width)
    size[:] = width
    _times(np.ascontiguousarray(times_ns), places, cells)
    return _in_cells(cells, size)


def base62(values: npt.NDArray[np.uint64], digits: int) -> Texts:
    """Return numbers, uint64 ``[n]``, in base 62 (0-9, A-Z, a-z) with that many digits."""
    cells, size = _room(len(values), digits)
    size[:] = digits
    _base62(np.ascontiguousarray(values), _BASE62, cells)
    return _in_cells(cells, size)


@lru_cache(maxsize=64)
def _table(texts: tuple[str, ...], written: Callable[[str], bytes]) -> tuple[Array, Array, Array]:
    table = [written(text) for text in texts]
    sizes = np.array([len(text) for text in table], np.int64)
    return np.frombuffer(b"".join(table), np.uint8), np.cumsum(sizes) - sizes, sizes


def names(
    texts: tuple[str, ...], rows: Array, written: Callable[[str], bytes] = str.encode
) -> Texts:
    """Return ``texts[row]`` for each of the ``rows``, unsigned integers ``[n]``.

    Args:
        texts: The table.
        rows: Indices into it.
        written: How the format writes a text.

    Raises:
        IndexError: A row is not in the table.
    """
    cells, begins, sizes = _table(texts, written)
    return Texts(cells, begins[rows], sizes[rows])


def joined(pieces: Sequence[Piece], end: bytes) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Put lines together.

    Args:
        pieces: At least one column, each with what stands before it in every line.
        end: What stands at the end of every line.

    Returns:
        The lines, one behind the other, uint8 ``[m]``, and where each one ends, int64 ``[n]``.
    """
    before = [text for text, _ in pieces] + [end]
    columns = [column for _, column in pieces]
    fixed = np.frombuffer(b"".join(before), np.uint8)
    fixed_ends = np.cumsum([len(text) for text in before])
    cells = np.concatenate([column.cells for column in columns])
    cell_ends = np.cumsum([len(column.cells) for column in columns])
    lines = len(columns[0].where)
    where = np.empty((lines, len(columns)), np.int64)
    size = np.empty((lines, len(columns)), np.int64)
    for k, column in enumerate(columns):
        np.add(column.where, cell_ends[k] - len(column.cells), out=where[:, k])
        size[:, k] = column.size
    out = np.empty(int(size.sum()) + lines * len(fixed), np.uint8)
    ends = np.empty(lines, np.int64)
    _join(fixed, fixed_ends, cells, where, size, out, ends)
    return out, ends


def _room(rows: int, width: int) -> tuple[Bytes, npt.NDArray[np.int64]]:
    return np.empty((rows, width), np.uint8), np.empty(rows, np.int64)


def _in_cells(cells: Bytes, size: npt.NDArray[np.int64]) -> Texts:
    rows, width = cells.shape
    return Texts(cells.reshape(-1), np.arange(rows, dtype=np.int64) * width, size)


@kernel
def _join(
    fixed: Bytes,
    fixed_ends: Array,
    cells: Bytes,
    where: Array,
    size: Array,
    out: Bytes,
    ends: Array,
) -> None:
    columns = where.shape[1]
    at = 0
    for i in range(len(where)):
        begin = 0
        for k in range(columns + 1):
            for b in range(begin, fixed_ends[k]):
                out[at] = fixed[b]
                at += 1
            begin = fixed_ends[k]
            if k < columns:
                first = where[i, k]
                for b in range(first, first + size[i, k]):
                    out[at] = cells[b]
                    at += 1
        ends[i] = at


@inlined
def _put_digits(out: Bytes, row: int, at: int, value: np.uint64) -> int:
    """Write a number into ``out[row]`` from ``at`` on; return where it ends."""
    digits, rest = 1, value // np.uint64(10)
    while rest:
        digits += 1
        rest //= np.uint64(10)
    _put_padded(out, row, at, value, digits)
    return at + digits


@inlined
def _put_padded(out: Bytes, row: int, at: int, value: np.uint64, digits: int) -> None:
    """Write the last ``digits`` digits of a number, with zeros in front."""
    for k in range(digits - 1, -1, -1):
        rest = value // np.uint64(10)
        out[row, at + k] = np.uint64(48) + (value - rest * np.uint64(10))
        value = rest


@kernel
def _integers(values: Array, out: Bytes, size: Array) -> None:
    for i in range(len(values)):
        size[i] = _put_digits(out, i, 0, values[i])


@kernel
def _decimals(values: Array, places: int, short: bool, out: Bytes, size: Array) -> None:
    unit = np.uint64(1)
    for _ in range(places):
        unit *= np.uint64(10)
    for i in range(len(values)):
        at = 0
        value = np.uint64(values[i])
        if values[i] < 0:
            out[i, 0] = 45  # minus
            at = 1
            value = np.uint64(0) - value
        if short and value != 0 and value * np.uint64(10_000) < unit:
            size[i] = _put_small(out, i, at, value, places)
            continue
        whole = value // unit
        at = _put_digits(out, i, at, whole)
        out[i, at] = 46  # point
        _put_padded(out, i, at + 1, value - whole * unit, places)
        at += 1 + places
        if short:
            while out[i, at - 1] == 48 and out[i, at - 2] != 46:
                at -= 1
        size[i] = at


@inlined
def _put_small(out: Bytes, row: int, at: int, value: np.uint64, places: int) -> int:
    """Write ``value / 10**places`` with an exponent; return where it ends."""
    exponent = places
    while value % np.uint64(10) == 0:
        value //= np.uint64(10)
        exponent -= 1
    # The first digit goes before the point, so all are written one place further on.
    end = _put_digits(out, row, at + 1, value)
    out[row, at] = out[row, at + 1]
    exponent -= end - at - 2
    if end > at + 2:
        out[row, at + 1] = 46
    else:
        end = at + 1
    out[row, end] = 101  # e
    out[row, end + 1] = 45
    _put_padded(out, row, end + 2, np.uint64(exponent), 2)
    return end + 4


@kernel
def _addresses(hi: Array, lo: Array, version: Array, out: Bytes, size: Array) -> None:
    for i in range(len(hi)):
        if version[i] == 4:
            at = 0
            for k in range(4):
                if k:
                    out[i, at] = 46
                    at += 1
                byte = (lo[i] >> np.uint64(24 - 8 * k)) & np.uint64(0xFF)
                at = _put_digits(out, i, at, byte)
            size[i] = at
        else:
            size[i] = _put_ipv6(out, i, hi[i], lo[i])


@inlined
def _group(hi: np.uint64, lo: np.uint64, k: int) -> int:
    """Return one of the eight 16-bit groups of an IPv6 address."""
    half = hi if k < 4 else lo
    return np.int64((half >> np.uint64(48 - 16 * (k & 3))) & np.uint64(0xFFFF))


@inlined
def _put_ipv6(out: Bytes, row: int, hi: np.uint64, lo: np.uint64) -> int:
    """Write an IPv6 address; the first one of the longest runs of zero groups becomes ``::``."""
    longest, begin, run = 1, -1, 0
    for k in range(8):
        run = run + 1 if _group(hi, lo, k) == 0 else 0
        if run > longest:
            longest, begin = run, k + 1 - run
    at = k = 0
    while k < 8:
        if k == begin:
            out[row, at] = 58  # colon
            at += 1
            k += longest
            if k == 8:
                out[row, at] = 58
                at += 1
            continue
        if k:
            out[row, at] = 58
            at += 1
        group = _group(hi, lo, k)
        digits = 1 + (group > 0xF) + (group > 0xFF) + (group > 0xFFF)
        for d in range(digits):
            nibble = (group >> (4 * (digits - 1 - d))) & 0xF
            out[row, at] = nibble + 48 if nibble < 10 else nibble + 87
            at += 1
        k += 1
    return at


@kernel
def _times(times_ns: Array, places: int, out: Bytes) -> None:
    cut = np.int64(1)
    for _ in range(9 - places):
        cut *= 10
    for i in range(len(times_ns)):
        days = times_ns[i] // _DAY_NS
        in_day = times_ns[i] - days * _DAY_NS
        # Days since the first of March of year 0, when a year's last day is the leap day.
        shifted = days + 719_468
        era = shifted // 146_097
        of_era = shifted - era * 146_097
        of_year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
        day = of_era - (365 * of_year + of_year // 4 - of_year // 100)
        month = (5 * day + 2) // 153
        day = day - (153 * month + 2) // 5 + 1
        month = month + 3 if month < 10 else month - 9
        year = of_year + era * 400 + (1 if month <= 2 else 0)
        second = in_day // 1_000_000_000
        _put_padded(out, i, 0, np.uint64(year), 4)
        _put_padded(out, i, 5, np.uint64(month), 2)
        _put_padded(out, i, 8, np.uint64(day), 2)
        _put_padded(out, i, 11, np.uint64(second // 3_600), 2)
        _put_padded(out, i, 14, np.uint64(second // 60 % 60), 2)
        _put_padded(out, i, 17, np.uint64(second % 60), 2)
        _put_padded(out, i, 20, np.uint64((in_day % 1_000_000_000) // cut), places)
        out[i, 4] = out[i, 7] = 45
        out[i, 10] = 84  # T
        out[i, 13] = out[i, 16] = 58
        out[i, 19] = 46


@kernel
def _base62(values: Array, digits: Bytes, out: Bytes) -> None:
    for i in range(len(values)):
        value = values[i]
        for k in range(out.shape[1] - 1, -1, -1):
            rest = value // np.uint64(62)
            out[i, k] = digits[np.int64(value - rest * np.uint64(62))]
            value = rest
