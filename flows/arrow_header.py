"""Look at an Arrow record batch's header before anything is allocated for it.

pyarrow decompresses a compressed batch while it reads it, whatever size the batch claims. A
service that takes batches from strangers must refuse it first, so this reads the two facts that
matter out of the message's flatbuffer (Arrow columnar format 1.5, ``Message.fbs``).
"""

from __future__ import annotations

import struct

from flows.errors import WireError

__all__ = ["batch_header", "body_bytes"]

_HEADER = 2  # Message.header
_BODY_LENGTH = 3  # Message.bodyLength
_LENGTH = 0  # RecordBatch.length
_COMPRESSION = 3  # RecordBatch.compression


def _field(data: bytes, table: int, index: int) -> int:
    """Return the position of a table's field, or 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (vtable_bytes,) = struct.unpack_from("<H", data, vtable)
    slot = 4 + 2 * index
    if slot + 2 > vtable_bytes:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + slot)
    return table + offset if offset else 0


def batch_header(metadata: bytes) -> int:
    """Return the number of rows that a record batch message claims.

    Args:
        metadata: The message's flatbuffer.

    Raises:
        WireError: The batch is compressed, or its header cannot be read.
    """
    try:
        (message,) = struct.unpack_from("<I", metadata, 0)
        header = _field(metadata, message, _HEADER)
        (relative,) = struct.unpack_from("<I", metadata, header)
        batch = header + relative
        if _field(metadata, batch, _COMPRESSION):
            raise WireError("the batch is compressed: send it without compression")
        length = _field(metadata, batch, _LENGTH)
        rows = struct.unpack_from("<q", metadata, length)[0] if length else 0
    except struct.error:
        raise WireError("the record batch's header cannot be read") from None
    if rows < 0:
        raise WireError("the record batch claims a negative number of rows")
    return int(rows)


def body_bytes(metadata: bytes) -> int:
    """Return the length of the body that a message claims to have.

    Args:
        metadata: The message's flatbuffer.

    Raises:
        WireError: It cannot be read.
    """
    try:
        (message,) = struct.unpack_from("<I", metadata, 0)
        length = _field(metadata, message, _BODY_LENGTH)
        size = struct.unpack_from("<q", metadata, length)[0] if length else 0
    except struct.error:
        raise WireError("the message's header cannot be read") from None
    if size < 0:
        raise WireError("the message claims a body of negative length")
    return int(size)
