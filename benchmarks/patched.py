"""Packet batches encoded once and sent many times, each time as other flows at another time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.template import FlowTemplate
from flows.wire import PacketBatch, encode_batch

__all__ = ["EARLIEST_NS", "PatchedBatch"]

EARLIEST_NS = 10**18
"""From here on a time in nanoseconds has 19 digits, so that one fits where another stood."""

_DIGITS = 19


class PatchedBatch:
    """Whole flows as one encoded batch, in which ids, times and the watermark are overwritten.

    Args:
        collector: Name of the collector.
        template: The flows to choose from.
        first: The first flow of the batch.
        count: How many flows, from there on.
    """

    def __init__(self, collector: str, template: FlowTemplate, first: int, count: int) -> None:
        begin, end = template.offsets[first], template.offsets[first + count]
        rows = template.rows[begin:end]
        self.flows = count
        self.rows = len(rows)
        self._of_row = template.flow[begin:end] - first
        self._since_start_ns = rows["time_ns"].copy()
        self.body = bytearray(encode_batch(PacketBatch(collector, EARLIEST_NS, rows)))
        self._ids = self._column("flow_id", np.dtype("<u8"))
        self._times = self._column("time_ns", np.dtype("<i8"))
        mark = str(EARLIEST_NS).encode()
        self._watermark_at = self.body.find(mark)
        if self._watermark_at < 0 or self.body.count(mark) != 1:
            raise AssertionError("the watermark does not stand in the batch once")

    def _column(self, name: str, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
        """Return a column as an array over the encoded bytes: writing to it changes them."""
        buffer = pa.py_buffer(self.body)
        with pa.ipc.open_stream(buffer) as reader:
            data = reader.read_next_batch().column(name).buffers()[1]
        return np.frombuffer(self.body, dtype, self.rows, data.address - buffer.address)

    def patch(
        self,
        ids: npt.NDArray[np.uint64],
        starts_ns: npt.NDArray[np.int64],
        watermark_ns: int,
    ) -> bytearray:
        """Make it a batch of other flows; return :attr:`body`.

        Args:
            ids: Of the flows, uint64 ``[flows]``.
            starts_ns: When each one's first packet came, int64 ``[flows]``.
            watermark_ns: Up to when all is submitted; at least :data:`EARLIEST_NS`.
        """
        self._ids[:] = ids[self._of_row]
        self._times[:] = starts_ns[self._of_row] + self._since_start_ns
        text = str(watermark_ns).encode()
        if len(text) != _DIGITS:
            raise ValueError(f"watermark_ns must have {_DIGITS} digits, is {watermark_ns}")
        self.body[self._watermark_at : self._watermark_at + _DIGITS] = text
        return self.body
