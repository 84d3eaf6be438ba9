"""Record arrays as Arrow record batches, a column for each field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from flows.packet import Records
from flows.records import column

__all__ = ["columns_in", "from_arrow", "schema_of", "to_arrow"]


def columns_in(dtype: np.dtype[np.void]) -> list[str]:
    """Return the fields of a record type that are columns."""
    return [name for name in dtype.names or () if name != "reserved"]


def schema_of(dtype: np.dtype[np.void]) -> pa.Schema:
    """Return the columns of a record type, none nullable."""
    return pa.schema(
        [pa.field(c, _arrow_type(dtype[c]), nullable=False) for c in columns_in(dtype)]
    )


def to_arrow(records: Records, schema: pa.Schema) -> pa.RecordBatch:
    """Return records of any type as a record batch of its schema."""
    columns = [_to_column(np.ascontiguousarray(column(records, f.name)), f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def from_arrow(batch: pa.RecordBatch, dtype: np.dtype[np.void]) -> Records:
    """Return a record batch of the type's schema as records."""
    out = np.zeros(batch.num_rows, dtype)
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        column(out, name)[...] = _from_column(values, dtype[name])
    return out


def _arrow_type(dtype: np.dtype[Any]) -> pa.DataType:
    # A record within a record is one column, not one for each of its fields: columns cost.
    return pa.binary(dtype.itemsize) if _is_bytes(dtype) else pa.from_numpy_dtype(dtype)


def _is_bytes(dtype: np.dtype[Any]) -> bool:
    return bool(dtype.names or dtype.subdtype)


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
