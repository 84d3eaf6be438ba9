"""The wire form of answers: a verdict stream, written and read part by part (:mod:`flows.wire`)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, BinaryIO

import pyarrow as pa

from flows.arrow_columns import from_arrow, schema_of, to_arrow
from flows.arrow_forms import END, MARK, PREFIX_BYTES, Form, Layout, Memory, metadata_end
from flows.arrow_header import body_bytes
from flows.errors import WireError
from flows.packet import Records
from flows.verdict import VERDICT_DTYPE

__all__ = ["VERDICT_FORMAT", "VerdictReader", "VerdictWriter"]

VERDICT_FORMAT = "serveflow.verdicts.v1"

_PIECE_BYTES = 1 << 20  # to be read at once
_SCHEMA: pa.Schema = schema_of(VERDICT_DTYPE)


class _Messages:
    """Messages of parts that repeat themselves; see :mod:`flows.arrow_forms`."""

    def __init__(self) -> None:
        self.form = Form(VERDICT_DTYPE)
        self.written: Memory[tuple[int, str], tuple[bytes, Layout]] = Memory()
        self.read: Memory[bytes, tuple[Layout, dict[str, Any]]] = Memory()


@cache
def _messages() -> _Messages:
    return _Messages()


@dataclass(slots=True)
class VerdictWriter:
    """Encodes the verdicts of one response, part by part.

    Args:
        classes: Names of the labels, by index.
        model_version: The bundle that judged.
    """

    classes: tuple[str, ...]
    model_version: str
    _begun: bool = field(default=False, init=False, repr=False)

    def part(self, verdicts: Records, notes: dict[str, Any] | None = None) -> bytes:
        """Encode ``VERDICT_DTYPE [n]`` with ``notes`` about the service (JSON) as the next part."""
        told = json.dumps(notes) if notes else ""
        messages = _messages()
        key = len(verdicts), told
        known = messages.written.get(key)
        if known is None:
            message = _message(verdicts, told)
            at = metadata_end(message, 0)
            layout = messages.form.layout(message, 0, _SCHEMA) if at else None
            if layout is not None:
                messages.written.put(key, (message[:at], layout))
        else:
            message = b"".join((known[0], messages.form.write(verdicts, known[1])))
        return self._beginning() + message

    def end(self) -> bytes:
        """Return the bytes that end the stream."""
        return self._beginning() + END

    def _beginning(self) -> bytes:
        begun, self._begun = self._begun, True
        return b"" if begun else _schema_message(self.classes, self.model_version)


def _message(verdicts: Records, told: str) -> bytes:
    """Return a part as pyarrow writes it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        notes = {"notes": told} if told else None
        writer.write_batch(to_arrow(verdicts, _SCHEMA), custom_metadata=notes)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream[metadata_end(stream, 0) : -len(END)]


@cache
def _schema_message(classes: tuple[str, ...], model_version: str) -> bytes:
    told = {
        "format": VERDICT_FORMAT,
        "classes": json.dumps(classes),
        "model_version": model_version,
    }
    message: bytes = _SCHEMA.with_metadata(told).serialize().to_pybytes()
    return message


class VerdictReader:
    """Reads a verdict stream, part by part as it comes.

    Args:
        source: The response body, a readable binary file.

    Raises:
        WireError: The body is no verdict stream, or it ends before its end mark.
    """

    def __init__(self, source: BinaryIO | io.BufferedIOBase) -> None:
        self._source = source
        try:
            prefix, metadata = self._metadata()
            self._schema_message = prefix + metadata
            self.classes, self.model_version = _read_schema(self._schema_message)
        except (pa.ArrowException, OSError, KeyError, ValueError, WireError) as error:
            raise WireError(f"the answer is no verdict stream: {_first_line(error)}") from None

    def __iter__(self) -> Iterator[tuple[Records, dict[str, Any]]]:
        """Yield ``VERDICT_DTYPE [n]`` and the notes of each part."""
        while True:
            try:
                prefix, metadata = self._metadata()
                if not metadata:
                    return
                part = self._part(prefix + metadata)
            except (pa.ArrowException, OSError, ValueError, WireError) as error:
                raise WireError(f"the answer broke off: {_first_line(error)}") from None
            yield part

    def _metadata(self) -> tuple[bytes, bytes]:
        """Read a message's prefix and metadata; they are empty where the stream ends."""
        prefix = self._exactly(PREFIX_BYTES)
        if not prefix.startswith(MARK):
            raise WireError("there is no Arrow message where one should begin")
        return prefix, self._exactly(int.from_bytes(prefix[len(MARK) :], "little"))

    def _part(self, header: bytes) -> tuple[Records, dict[str, Any]]:
        messages = _messages()
        known = messages.read.get(header)
        if known is not None:
            layout, notes = known
            return messages.form.read(self._exactly(layout.body_bytes), 0, layout), notes
        message = header + self._exactly(body_bytes(header[PREFIX_BYTES:]))
        reader = pa.ipc.open_stream(self._schema_message + message)
        batch, metadata = reader.read_next_batch_with_custom_metadata()
        notes = json.loads(metadata[b"notes"]) if metadata else {}
        new = messages.form.layout(message, 0, _SCHEMA) if metadata_end(message, 0) else None
        if new is not None:
            messages.read.put(header, (new, notes))
        return from_arrow(batch, VERDICT_DTYPE), notes

    def _exactly(self, size: int) -> bytes:
        pieces = []
        while size:  # a claim alone must not cost memory
            piece = self._source.read(min(size, _PIECE_BYTES))
            if not piece:
                raise WireError("it ends early")
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@lru_cache(maxsize=8)
def _read_schema(message: bytes) -> tuple[tuple[str, ...], str]:
    """Return classes and model version."""
    schema = pa.ipc.read_schema(pa.py_buffer(message))
    metadata = schema.metadata or {}
    if metadata.get(b"format") != VERDICT_FORMAT.encode():
        raise WireError(f"it is not of the format {VERDICT_FORMAT}")
    if not schema.equals(_SCHEMA, check_metadata=False):
        raise WireError(f"its columns are not those of the format {VERDICT_FORMAT}")
    return tuple(json.loads(metadata[b"classes"])), metadata[b"model_version"].decode()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
