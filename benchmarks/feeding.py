"""Feeds a capture file to a pipe at a multiple of its own speed, as ``tcpdump -w -`` would."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from flows import capture_kernels as kernels
from flows.decode import FRAME_DTYPE

__all__ = ["Feeder"]

_HEADER_BYTES, _RECORD_BYTES = 24, 16
_TICK_S = 0.005


class Feeder:
    """A thread that writes a capture when its packets are due; whoever reads is waited for.

    Args:
        capture: A little-endian pcap file with nanoseconds, as
            :func:`benchmarks.long_capture.write_long_capture` makes them.
        pipe: Where to.
        speed: Multiple of the capture's own speed.

    Attributes:
        seconds: How long it takes in all.
        late_s: By how much it was behind at most: whoever reads was not quick enough.
    """

    def __init__(self, capture: Path, pipe: IO[bytes], speed: float) -> None:
        self._data = np.fromfile(capture, np.uint8)
        frames = np.empty(len(self._data) // _RECORD_BYTES, FRAME_DTYPE)
        n, end, _ = kernels.scan_pcap(
            self._data, _HEADER_BYTES, len(self._data), False, _RECORD_BYTES, 1, 1, frames
        )
        times_ns = np.maximum.accumulate(frames["time_ns"][:n])
        self._due_s = (times_ns - times_ns[0]) / 1e9 / speed
        self._ends = np.append(frames["at"][1:n] - _RECORD_BYTES, end)
        self.seconds = float(self._due_s[-1])
        self.late_s = 0.0
        self._pipe = pipe
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until all is written; the pipe is closed then."""
        self._thread.join()

    def stop(self) -> None:
        """Write no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begin_s = time.monotonic()
        at, sent = 0, 0
        try:
            while at < len(self._due_s) and not self._stop.is_set():
                now_s = time.monotonic() - begin_s
                until = int(np.searchsorted(self._due_s, now_s, side="right"))
                if until > at:
                    self.late_s = max(self.late_s, now_s - float(self._due_s[at]))
                    end = int(self._ends[until - 1])
                    self._pipe.write(self._data[sent:end].tobytes())
                    self._pipe.flush()
                    at, sent = until, end
                time.sleep(_TICK_S)
        except BrokenPipeError:
            return  # whoever reads has ended; what became of it shows elsewhere
        finally:
            with suppress(BrokenPipeError):
                self._pipe.close()
