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

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from flows.arrow_header import batch_header
from flows.errors import BodyTooLargeError, WireError, WireSchemaError
from flows.packet import MAX_DEPTH, FlowEndReason, Records, packet_dtype
from flows.records import column, joined
from flows.verdict import VERDICT_DTYPE

__all__ = [
    "ARROW_STREAM",
    "MAX_BATCH_PACKETS",
    "NEW_FLOWS",
    "PACKET_FORMAT",
    "PACKET_SCHEMA",
    "VERDICT_FORMAT",
    "OpenedBatch",
    "PacketBatch",
    "VerdictReader",
    "VerdictWriter",
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
VERDICT_FORMAT = "serveflow.verdicts.v1"

MAX_BATCH_PACKETS = 65_536
"""The most rows of one packet batch."""

_MAX_TIME_NS = 1 << 62  # leaves room for adding waits without overflow; the year 2116
_MAX_NAME = 128


def _columns(dtype: np.dtype[np.void]) -> list[str]:
    return [name for name in dtype.names or () if name != "reserved"]


def _schema(dtype: np.dtype[np.void]) -> pa.Schema:
    return pa.schema([pa.field(c, _arrow_type(dtype[c]), nullable=False) for c in _columns(dtype)])


def _arrow_type(dtype: np.dtype[Any]) -> pa.DataType:
    # A record within a record is one column, not one for each of its fields: columns cost.
    return pa.binary(dtype.itemsize) if _is_bytes(dtype) else pa.from_numpy_dtype(dtype)


def _is_bytes(dtype: np.dtype[Any]) -> bool:
    return bool(dtype.names or dtype.subdtype)


PACKET_SCHEMA: pa.Schema = _schema(packet_dtype(False))
"""The columns of a packet batch."""

_WITH_HEADER: pa.Schema = _schema(packet_dtype(True))


def packet_schema(with_header: bool) -> pa.Schema:
    """Return the columns of a packet batch, with the column ``header`` or without."""
    return _WITH_HEADER if with_header else PACKET_SCHEMA


_VERDICT_SCHEMA: pa.Schema = _schema(VERDICT_DTYPE)


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


def _to_arrow(records: Records, schema: pa.Schema) -> pa.RecordBatch:
    columns = [_to_column(np.ascontiguousarray(column(records, f.name)), f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _to_column(values: np.ndarray[Any, np.dtype[Any]], kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _from_column(given: pa.Array, dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    if not _is_bytes(dtype):
        values: np.ndarray[Any, np.dtype[Any]] = given.to_numpy(zero_copy_only=True)
        return values
    data = given.buffers()[1] or b""  # Arrow may leave an empty column without one
    size = len(given) * dtype.itemsize
    raw = np.frombuffer(data, np.uint8, size, given.offset * dtype.itemsize)
    return raw.view(f"V{dtype.itemsize}") if dtype.names else raw.reshape(-1, dtype.itemsize)


def _from_arrow(batch: pa.RecordBatch, dtype: np.dtype[np.void]) -> Records:
    out = np.zeros(batch.num_rows, dtype)
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        column(out, name)[...] = _from_column(values, dtype[name])
    return out


def encode_batch(batch: PacketBatch) -> bytes:
    """Return ``batch`` as an Arrow IPC stream."""
    schema = packet_schema("header" in (batch.packets.dtype.names or ())).with_metadata(
        {
            "format": PACKET_FORMAT,
            "collector": batch.collector,
            "watermark_ns": str(batch.watermark_ns),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(_to_arrow(batch.packets, schema))
    return bytes(sink.getvalue())


@dataclass(frozen=True, slots=True)
class OpenedBatch:
    """A packet batch whose columns have been checked, not copied yet.

    Attributes:
        collector: Name of the collector incarnation.
        watermark_ns: Every packet of this collector up to this capture time has been submitted.
    """

    collector: str
    watermark_ns: int
    _parts: list[pa.RecordBatch]
    _dtype: np.dtype[np.void]

    @property
    def new_flows(self) -> int:
        """Rows that are a flow's first packet."""
        columns = ("packet_index", "flow_end_reason")
        return sum(_firsts(*(p.column(c).to_numpy() for c in columns)) for p in self._parts)

    def read(self) -> PacketBatch:
        """Return the batch as records."""
        parts = [_from_arrow(part, self._dtype) for part in self._parts]
        packets = parts[0] if len(parts) == 1 else joined([np.empty(0, self._dtype), *parts])
        return PacketBatch(self.collector, self.watermark_ns, packets)


def new_flows_of(packets: Records) -> int:
    """Return how many of ``PACKET_DTYPE [n]`` are a flow's first packet."""
    return _firsts(packets["packet_index"], packets["flow_end_reason"])


def _firsts(index: np.ndarray[Any, Any], mark: np.ndarray[Any, Any]) -> int:
    return int(((index == 0) & (mark == FlowEndReason.NONE)).sum())


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
            parts.append(part)
    except (pa.ArrowException, OSError, EOFError, StopIteration, ValueError) as error:
        raise WireError(f"not an Arrow IPC stream: {_first_line(error)}") from None
    return OpenedBatch(collector, watermark_ns, parts, packet_dtype(with_header))


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
    is_mark = packets["flow_end_reason"] != FlowEndReason.NONE
    return np.asarray(
        (packets["flow_end_reason"] > max(FlowEndReason))
        | (~is_mark & (packets["packet_index"] >= MAX_DEPTH))
        | (packets["time_ns"] < 0)
        | (packets["time_ns"] >= _MAX_TIME_NS)
        | (packets["from_originator"] > 1)
    )


class _Chunks(io.RawIOBase):
    """A sink that hands out what was written since the last time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


@dataclass(slots=True)
class VerdictWriter:
    """Encodes the verdicts of one response, part by part.

    Args:
        classes: Names of the labels, by index.
        model_version: The bundle that judged.
    """

    classes: tuple[str, ...]
    model_version: str
    _sink: _Chunks = field(init=False, repr=False)
    _writer: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._sink = _Chunks()
        schema = _verdict_schema(self.classes, self.model_version)
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), schema)

    def part(self, verdicts: Records, notes: dict[str, Any] | None = None) -> bytes:
        """Encode ``VERDICT_DTYPE [n]`` with ``notes`` about the service (JSON) as the next part."""
        metadata = {"notes": json.dumps(notes)} if notes else None
        self._writer.write_batch(_to_arrow(verdicts, _VERDICT_SCHEMA), custom_metadata=metadata)
        return self._sink.take()

    def end(self) -> bytes:
        """Return the bytes that end the stream."""
        self._writer.close()
        return self._sink.take()


@cache
def _verdict_schema(classes: tuple[str, ...], model_version: str) -> pa.Schema:
    return _VERDICT_SCHEMA.with_metadata(
        {
            "format": VERDICT_FORMAT,
            "classes": json.dumps(classes),
            "model_version": model_version,
        }
    )


class VerdictReader:
    """Reads a verdict stream, part by part as it comes.

    Args:
        source: The response body, a readable binary file.

    Raises:
        WireError: The body is no verdict stream, or it ends before its end mark.
    """

    def __init__(self, source: BinaryIO | io.BufferedIOBase) -> None:
        try:
            self._reader = pa.ipc.open_stream(source)
            metadata = self._reader.schema.metadata or {}
            if metadata.get(b"format") != VERDICT_FORMAT.encode():
                raise WireError(f"the answer is not of the format {VERDICT_FORMAT}")
            self.classes: tuple[str, ...] = tuple(json.loads(metadata[b"classes"]))
            self.model_version = metadata[b"model_version"].decode()
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise WireError(f"the answer is no verdict stream: {_first_line(error)}") from None

    def __iter__(self) -> Iterator[tuple[Records, dict[str, Any]]]:
        """Yield ``VERDICT_DTYPE [n]`` and the notes of each part."""
        while True:
            try:
                batch, metadata = self._reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise WireError(f"the answer broke off: {_first_line(error)}") from None
            notes = json.loads(metadata[b"notes"]) if metadata else {}
            yield _from_arrow(batch, VERDICT_DTYPE), notes
