"""The messages of packet batches that repeat themselves; see :mod:`flows.arrow_forms`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.arrow_forms import END, Form, Layout, Memory, metadata_end
from flows.packet import Records

__all__ = ["BatchMessages", "PlainBatch"]

_DIGITS = re.compile(rb"[0-9]{1,19}")
_PROBE = "1234567890123456789"


@dataclass(frozen=True, slots=True)
class PlainBatch:
    """A batch whose messages are known.

    Attributes:
        collector: Name of the collector incarnation.
        watermark_ns: What the digits in the schema's message say.
    """

    collector: str
    watermark_ns: int
    _form: Form
    _body: bytes
    _at: int
    _layout: Layout

    def column(self, name: str) -> npt.NDArray[np.uint8]:
        """Return a column of bytes, uint8 ``[n]``."""
        return self._form.column(self._body, self._at, self._layout, name)

    def records(self) -> Records:
        """Return all columns as records, ``[n]``."""
        return self._form.read(self._body, self._at, self._layout)


class BatchMessages:
    """What is known of streams of one record batch, with who sent it in the schema's metadata.

    A schema's message holds the watermark too, which is another one each time. So it is known by
    what stands around the watermark's digits.

    Args:
        dtype: The packets' record type.
        schema: Its columns.
        format_name: What the metadata say of the format.
    """

    def __init__(self, dtype: np.dtype[np.void], schema: pa.Schema, format_name: str) -> None:
        self._form = Form(dtype)
        self._schema = schema
        self._format = format_name
        self._collectors: Memory[bytes, str] = Memory()
        self._layouts: Memory[bytes, Layout] = Memory()
        self._around: Memory[tuple[str, int], tuple[bytes, bytes]] = Memory()
        self._of_rows: Memory[int, tuple[bytes, Layout]] = Memory()
        self._at = self._schema_message("-", _PROBE).index(_PROBE.encode())

    def schema_of(self, collector: str, watermark: str) -> pa.Schema:
        """Return the schema of a batch, with its metadata."""
        told = {"format": self._format, "collector": collector, "watermark_ns": watermark}
        return self._schema.with_metadata(told)

    def write(self, collector: str, watermark_ns: int, packets: Records) -> bytes | None:
        """Return the stream of a batch, or None where its messages are not known."""
        digits = b"%d" % watermark_ns
        around = self._around.get((collector, len(digits)))
        of_rows = self._of_rows.get(len(packets))
        if around is None or of_rows is None or watermark_ns < 0:
            return None
        metadata, layout = of_rows
        body = self._form.write(packets, layout)
        return b"".join((around[0], digits, around[1], metadata, body, END))

    def open(self, stream: bytes) -> PlainBatch | None:
        """Return a stream as a batch, or None where its messages are not known."""
        digits = _DIGITS.match(stream, self._at)
        schema_end = metadata_end(stream, 0)
        if digits is None or digits.end() > schema_end:
            return None
        collector = self._collectors.get(stream[: self._at] + stream[digits.end() : schema_end])
        at = metadata_end(stream, schema_end)
        layout = self._layouts.get(stream[schema_end:at])
        if collector is None or layout is None:
            return None
        end = at + layout.body_bytes
        if len(stream) not in (end, end + len(END)) or stream[end:] not in (b"", END):
            return None
        return PlainBatch(collector, int(digits[0]), self._form, stream, at, layout)

    def remember(self, stream: bytes, collector: str, watermark_ns: int) -> None:
        """Remember the messages of a stream that pyarrow has written, or read and found in order.

        Only if the schema's message is what pyarrow here would write, to the last byte: so a
        stranger cannot have one remembered that pyarrow would understand in another way.
        """
        watermark = str(watermark_ns)
        schema_end = metadata_end(stream, 0)
        at = metadata_end(stream, schema_end) if schema_end else 0
        message = self._schema_message(collector, watermark)
        if not at or stream[:schema_end] != message:
            return
        layout = self._form.layout(stream, schema_end, self._schema)
        if layout is None:
            return
        before, after = message[: self._at], message[self._at + len(watermark) :]
        metadata = stream[schema_end:at]
        self._collectors.put(before + after, collector)
        self._around.put((collector, len(watermark)), (before, after))
        self._layouts.put(metadata, layout)
        self._of_rows.put(layout.rows, (metadata, layout))

    def _schema_message(self, collector: str, watermark: str) -> bytes:
        message: bytes = self.schema_of(collector, watermark).serialize().to_pybytes()
        return message
