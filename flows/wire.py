"""The wire form of batches and verdicts: Arrow IPC streams (docs/architecture.md, "Wire").

A **packet batch** is one Arrow IPC stream. Its columns are the fields of
:data:`~flows.packet.PACKET_DTYPE` in that order, none nullable; its schema metadata name the
format, the collector and the watermark. Where the service's bundle reads header bytes, the column
``header`` stands in front of them (:func:`~flows.packet.packet_dtype`). It is read without copying
a column and without decompressing anything.

A **verdict stream** is one Arrow IPC stream of one or more record batches: the first leaves as
soon as the fast tiers have answered, later ones as flows settle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from flows.arrow_columns import from_arrow, schema_of, to_arrow
from flows.arrow_header import batch_header
from flows.batch_messages import BatchMessages, PlainBatch
from flows.errors import BodyTooLargeError, WireError, WireSchemaError
from flows.packet import MAX_DEPTH, FlowEndReason, Records, packet_dtype
from flows.records import joined

__all__ = [
    "ARROW_STREAM",
    "MAX_BATCH_PACKETS",
    "NEW_FLOWS",
    "PACKET_FORMAT",
    "PACKET_SCHEMA",
    "OpenedBatch",
    "PacketBatch",
    "decode_batch",
    "encode_batch",
    "malformed_rows",
    "new_flows_of",
    "open_batch",
    "packet_schema",
]

ARROW_STREAM = "application/vnd.apache.arrow.stream"
"""The media type of both forms (IANA)."""

NEW_FLOWS = "serveflow-new-flows"
"""HTTP header of a batch: rows that are a flow's first packet. A service that has too much to do
can refuse the batch by it, before reading it."""

PACKET_FORMAT = "serveflow.packets.v1"

MAX_BATCH_PACKETS = 65_536
"""The most rows of one packet batch."""

_MAX_TIME_NS = 1 << 62  # leaves room for adding waits without overflow; the year 2116
_MAX_NAME = 128
_NO_END, _LAST_END = int(FlowEndReason.NONE), int(max(FlowEndReason))


PACKET_SCHEMA: pa.Schema = schema_of(packet_dtype(False))
"""The columns of a packet batch."""

_WITH_HEADER: pa.Schema = schema_of(packet_dtype(True))


def packet_schema(with_header: bool) -> pa.Schema:
    """Return the columns of a packet batch, with the column ``header`` or without."""
    return _WITH_HEADER if with_header else PACKET_SCHEMA


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """What a collector submits at once.

    Attributes:
        collector: Name of the collector incarnation; flow ids are unique within it.
        watermark_ns: Every packet of this collector up to this capture time has been submitted.
        packets: Packets and end marks, ``PACKET_DTYPE [n]`` or ``packet_dtype(True)``.
    """

    collector: str
    watermark_ns: int
    packets: Records


def encode_batch(batch: PacketBatch) -> bytes:
    """Return ``batch`` as an Arrow IPC stream."""
    known = _written("header" in (batch.packets.dtype.names or ()))
    stream = known.write(batch.collector, batch.watermark_ns, batch.packets)
    if stream is None:
        schema = known.schema_of(batch.collector, str(batch.watermark_ns))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(to_arrow(batch.packets, schema))
        stream = bytes(sink.getvalue())
        known.remember(stream, batch.collector, batch.watermark_ns)
    return stream


@cache
def _written(with_header: bool) -> BatchMessages:
    return BatchMessages(packet_dtype(with_header), packet_schema(with_header), PACKET_FORMAT)


@cache
def _read(with_header: bool) -> BatchMessages:
    # Apart from what is written: what strangers send is never written.
    return BatchMessages(packet_dtype(with_header), packet_schema(with_header), PACKET_FORMAT)


@dataclass(frozen=True, slots=True)
class _Part:
    """A record batch that pyarrow has read."""

    batch: pa.RecordBatch
    dtype: np.dtype[np.void]

    def column(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        values: np.ndarray[Any, np.dtype[Any]] = self.batch.column(name).to_numpy()
        return values

    def records(self) -> Records:
        return from_arrow(self.batch, self.dtype)


@dataclass(frozen=True, slots=True)
class OpenedBatch:
    """A packet batch whose columns have been checked, not copied yet.

    Attributes:
        collector: Name of the collector incarnation.
        watermark_ns: Every packet of this collector up to this capture time has been submitted.
    """

    collector: str
    watermark_ns: int
    _parts: Sequence[_Part | PlainBatch]
    _dtype: np.dtype[np.void]

    @property
    def new_flows(self) -> int:
        """Rows that are a flow's first packet."""
        columns = ("packet_index", "flow_end_reason")
        return sum(_firsts(*(part.column(c) for c in columns)) for part in self._parts)

    def read(self) -> PacketBatch:
        """Return the batch as records."""
        parts = [part.records() for part in self._parts]
        packets = parts[0] if len(parts) == 1 else joined([np.empty(0, self._dtype), *parts])
        return PacketBatch(self.collector, self.watermark_ns, packets)


def new_flows_of(packets: Records) -> int:
    """Return how many of ``PACKET_DTYPE [n]`` are a flow's first packet."""
    return _firsts(packets["packet_index"], packets["flow_end_reason"])


def _firsts(index: np.ndarray[Any, Any], mark: np.ndarray[Any, Any]) -> int:
    return int(np.count_nonzero((index == 0) & (mark == _NO_END)))


def decode_batch(body: bytes | memoryview, *, with_header: bool = False) -> PacketBatch:
    """Read a packet batch; see :func:`open_batch`."""
    return open_batch(body, with_header=with_header).read()


def open_batch(body: bytes | memoryview, *, with_header: bool = False) -> OpenedBatch:
    """Check a packet batch, without copying its columns.

    Args:
        body: What was submitted.
        with_header: The column ``header`` must be there; else it must not.

    Raises:
        WireSchemaError: The columns, their types or the metadata are not those of a packet batch.
        BodyTooLargeError: It has too many rows.
        WireError: The body is no Arrow IPC stream, or is compressed.
    """
    known = _read(with_header)
    plain = known.open(body) if isinstance(body, bytes) else None
    if plain is not None and plain.watermark_ns < _MAX_TIME_NS:
        dtype = packet_dtype(with_header)
        return OpenedBatch(plain.collector, plain.watermark_ns, [plain], dtype)
    opened = _open_by_arrow(body, with_header)
    if isinstance(body, bytes):
        known.remember(body, opened.collector, opened.watermark_ns)
    return opened


def _open_by_arrow(body: bytes | memoryview, with_header: bool) -> OpenedBatch:
    dtype = packet_dtype(with_header)
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
        schema_message = messages.read_next_message()
        if schema_message.type != "schema":
            raise WireError(f"the stream begins with a {schema_message.type}, not with a schema")
        schema = pa.ipc.read_schema(schema_message)
        collector, watermark_ns = _check_schema(schema, packet_schema(with_header))
        parts = []
        rows = 0
        for message in _record_batches(messages):
            rows += batch_header(message.metadata.to_pybytes())
            if rows > MAX_BATCH_PACKETS:
                raise BodyTooLargeError(f"over {MAX_BATCH_PACKETS:,} rows: send smaller batches")
            part = pa.ipc.read_record_batch(message, schema)
            part.validate(full=True)
            if any(column.null_count for column in part.columns):
                raise WireSchemaError("a column holds nulls; none may")
            parts.append(_Part(part, dtype))
    except (pa.ArrowException, OSError, EOFError, StopIteration, ValueError) as error:
        raise WireError(f"not an Arrow IPC stream: {_first_line(error)}") from None
    return OpenedBatch(collector, watermark_ns, parts, dtype)


def _record_batches(messages: Any) -> Iterator[Any]:
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type != "record batch":
            raise WireError(f"the stream holds a {message.type}; only record batches may follow")
        yield message


def _check_schema(schema: pa.Schema, wanted: pa.Schema) -> tuple[str, int]:
    if not schema.equals(wanted, check_metadata=False):
        raise WireSchemaError(_schema_difference(schema, wanted))
    metadata = schema.metadata or {}
    if metadata.get(b"format") != PACKET_FORMAT.encode():
        raise WireSchemaError(f"the schema's metadata must hold format={PACKET_FORMAT}")
    try:
        collector = metadata[b"collector"].decode()
        watermark_ns = int(metadata[b"watermark_ns"])
    except (KeyError, ValueError):
        raise WireSchemaError(
            "the schema's metadata must hold collector (text) and watermark_ns (a whole number)"
        ) from None
    if not 0 < len(collector) <= _MAX_NAME:
        raise WireSchemaError(f"collector must have 1 to {_MAX_NAME} characters")
    if not 0 <= watermark_ns < _MAX_TIME_NS:
        raise WireSchemaError(f"watermark_ns is out of range: {watermark_ns}")
    return collector, watermark_ns


def _schema_difference(schema: pa.Schema, wanted: pa.Schema) -> str:
    want = {f.name: f.type for f in wanted}
    have = {f.name: f.type for f in schema}
    said = [f"column {name} is missing" for name in want if name not in have]
    said += [f"column {name} is not wanted" for name in have if name not in want]
    said += [
        f"column {name} is {have[name]}, not {want[name]}"
        for name in want
        if name in have and have[name] != want[name]
    ]
    return (
        "; ".join(said[:5]) or "columns are out of order or nullable"
    ) + " (GET /v1/schema lists the columns)"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["it is empty or ends early"])[0][:200]


def malformed_rows(packets: Records) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which rows, bool ``[n]``, of ``PACKET_DTYPE [n]`` cannot be a packet or an end mark."""
    ends, times = packets["flow_end_reason"], packets["time_ns"]
    return np.asarray(
        (ends > _LAST_END)
        | ((ends == _NO_END) & (packets["packet_index"] >= MAX_DEPTH))
        | (times.view(np.uint64) >= _MAX_TIME_NS)  # those before 1970 as well
        | (packets["from_originator"] > 1)
    )
