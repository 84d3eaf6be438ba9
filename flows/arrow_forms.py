"""Arrow messages that repeat themselves, read and written without Arrow.

A collector sends some hundred small batches a second, and to read or write one by pyarrow costs far
more than what is in it: an object for each column, most of it cold in the caches. But the part of a
record batch's message that says where its columns lie is the same for each batch of so many rows.
So what pyarrow has read or written once is remembered, to the last byte, with where its columns
lay; the next message with those very bytes is read or written by one compiled pass over its body.
Anything else, a stranger's first message too, goes through pyarrow and its checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.arrow_columns import columns_in
from flows.arrow_kernels import columns_of, rows_of
from flows.packet import Records
from flows.records import copied

__all__ = ["END", "MARK", "PREFIX_BYTES", "Form", "Layout", "Memory", "metadata_end"]

END = b"\xff\xff\xff\xff\0\0\0\0"
"""The end of a stream."""

MARK = END[:4]
"""The beginning of a message."""

PREFIX_BYTES = 8
"""In front of a message's metadata: a mark, and how long they are."""

_MOST = 1_024  # messages that are remembered of one kind, to bound memory
_MOST_BYTES = 4_096  # of one of them

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Memory(Generic[_Key, _Value]):
    """A dictionary that forgets everything rather than grow beyond some size."""

    def __init__(self) -> None:
        self._known: dict[_Key, _Value] = {}

    def get(self, key: _Key) -> _Value | None:
        """Return what is known of ``key``."""
        return self._known.get(key)

    def put(self, key: _Key, value: _Value) -> None:
        """Remember a value."""
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = value


def metadata_end(data: bytes, at: int) -> int:
    """Return where the metadata end of the message that begins at ``at``.

    0: there is no such message, or its metadata are too long to be remembered.
    """
    start = at + PREFIX_BYTES
    size = int.from_bytes(data[at + 4 : start], "little")
    end = start + size
    plain = data[at : at + 4] == MARK and 0 < size <= _MOST_BYTES and end <= len(data)
    return end if plain else 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns of a record batch lie in its message's body.

    Attributes:
        rows: Number of rows.
        offsets: int64 ``[c]``; where each column begins.
        body_bytes: Length of the body, which holds all of each column.
    """

    rows: int
    offsets: npt.NDArray[np.int64]
    body_bytes: int


@dataclass(slots=True)
class Form:
    """How the columns of a record type are read and written.

    Args:
        dtype: The record type.
    """

    dtype: np.dtype[np.void]
    _sizes: npt.NDArray[np.int64] = field(init=False)
    _places: npt.NDArray[np.int64] = field(init=False)
    _names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        fields = dict(self.dtype.fields or {})
        self._names = columns_in(self.dtype)
        self._sizes = np.array([fields[name][0].itemsize for name in self._names], np.int64)
        self._places = np.array([fields[name][1] for name in self._names], np.int64)

    def layout(self, data: bytes, at: int, schema: pa.Schema) -> Layout | None:
        """Return the layout of a batch as pyarrow reads it.

        Args:
            data: What holds its message.
            at: Where that begins.
            schema: This record type's.

        Returns:
            None: pyarrow does not find its columns in the message's body, as it copied them, say.

        Raises:
            pyarrow.ArrowException: It is no record batch.
        """
        buffer = pa.py_buffer(data)
        message = pa.ipc.read_message(buffer[at:])
        batch = pa.ipc.read_record_batch(message, schema)
        offsets = np.zeros(len(self._sizes), np.int64)
        rows, body = batch.num_rows, message.body
        if body.size and body.address != buffer.address + metadata_end(data, at):
            return None
        for i, column in enumerate(batch.columns):
            values = column.buffers()[1]
            if rows and (values is None or column.offset or column.null_count):
                return None
            offsets[i] = values.address - body.address if rows else 0
        if (offsets < 0).any() or (offsets + rows * self._sizes > body.size).any():
            return None
        return Layout(rows, offsets, body.size)

    def column(self, data: bytes, at: int, layout: Layout, name: str) -> npt.NDArray[np.uint8]:
        """Return a column of bytes, uint8 ``[rows]``; the other arguments are :meth:`read`'s."""
        offset = at + int(layout.offsets[self._names.index(name)])
        return np.frombuffer(data, np.uint8, layout.rows, offset)

    def read(self, data: bytes, at: int, layout: Layout) -> Records:
        """Return the rows of a batch, ``[rows]`` of this record type.

        Args:
            data: What holds it.
            at: Where the message's body begins; it must be there to its end.
            layout: The layout of the batch.
        """
        assert at + layout.body_bytes <= len(data)  # noqa: S101 (compiled code does not check)
        out = np.zeros(layout.rows, self.dtype)
        if layout.rows:
            body = np.frombuffer(data, np.uint8, layout.body_bytes, at)
            rows_of(
                body, layout.offsets, self._sizes, self._places, self.dtype.itemsize,
                out.view(np.uint8),
            )  # fmt: skip
        return out

    def write(self, records: Records, layout: Layout) -> memoryview:
        """Return the body of a batch of these records, ``[rows]``."""
        assert len(records) == layout.rows  # noqa: S101 (compiled code does not check)
        body = np.zeros(layout.body_bytes, np.uint8)
        if layout.rows:
            # Compiled code tells arrays that may be written from others: one of them is enough.
            own = records if records.flags.writeable and records.flags.c_contiguous else None
            rows = (copied(np.ascontiguousarray(records)) if own is None else own).view(np.uint8)
            columns_of(body, layout.offsets, self._sizes, self._places, self.dtype.itemsize, rows)
        return body.data
