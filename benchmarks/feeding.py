"""Feeds a capture file to a pipe in a given time, as ``tcpdump -w -`` would."""

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
    """A thread that writes a capture when its packets are due, at an even multiple of its speed.

    Whoever reads is waited for; once nobody does, what is due is lost, as on a wire.

    Args:
        capture: A little-endian pcap file with nanoseconds, as
            :func:`benchmarks.long_capture.write_long_capture` makes them.
        pipe: Where to.
        seconds: How long it is to take in all.

    Attributes:
        seconds: How long it is to take.
        late_s: By how much it was behind at most: whoever reads was not quick enough.
        behind_s: By how much it was behind when it last wrote.
        took_s: How long it has taken in all; 0: it is at work.
        unseen: Packets that were due while nobody read.
    """

    def __init__(self, capture: Path, pipe: IO[bytes], seconds: float) -> None:
        self._data = np.fromfile(capture, np.uint8)
        frames = np.empty(len(self._data) // _RECORD_BYTES, FRAME_DTYPE)
        n, end, _ = kernels.scan_pcap(
            self._data, _HEADER_BYTES, len(self._data), False, _RECORD_BYTES, 1, 1, frames
        )
        times_ns = np.maximum.accumulate(frames["time_ns"][:n])
        since_ns = times_ns - times_ns[0]
        self._due_s = since_ns / max(int(since_ns[-1]), 1) * seconds
        self._ends = np.append(frames["at"][1:n] - _RECORD_BYTES, end)
        self.seconds = seconds
        self.late_s = self.behind_s = self.took_s = 0.0
        self.unseen = 0
        self._pipe = pipe
        self._lock = threading.Lock()
        self._gone = False  # whoever read; what is due meanwhile nobody sees, as on a wire
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def redirect(self, pipe: IO[bytes]) -> None:
        """Write to another pipe from here on, with the file's header in front."""
        with self._lock:
            with suppress(BrokenPipeError):
                self._pipe.close()
            self._pipe = pipe
            self._pipe.write(self._data[:_HEADER_BYTES].tobytes())
            self._gone = False
            if self.took_s:  # nothing more comes
                self._pipe.close()

    def join(self) -> None:
        """Wait until all is written; the pipe is closed then."""
        self._thread.join()

    def stop(self) -> None:
        """Write no more."""
        self._stop.set()
        self._thread.join()

    @property
    def at_work(self) -> bool:
        """Whether there is more to come."""
        return self._thread.is_alive()

    def _write(self, data: bytes, packets: int) -> None:
        with self._lock:
            try:
                if not self._gone:
                    self._pipe.write(data)
                    self._pipe.flush()
                    return
            except BrokenPipeError:
                self._gone = True
            self.unseen += packets

    def _run(self) -> None:
        begin_s = time.monotonic()
        at, sent = 0, 0
        try:
            while at < len(self._due_s) and not self._stop.is_set():
                now_s = time.monotonic() - begin_s
                until = int(np.searchsorted(self._due_s, now_s, side="right"))
                if until > at:
                    end = int(self._ends[until - 1])
                    self._write(self._data[sent:end].tobytes(), until - at)
                    self.behind_s = time.monotonic() - begin_s - float(self._due_s[at])
                    self.late_s = max(self.late_s, self.behind_s)
                    at, sent = until, end
                time.sleep(_TICK_S)
        finally:
            with self._lock:
                self.took_s = time.monotonic() - begin_s
                with suppress(BrokenPipeError):
                    self._pipe.close()
