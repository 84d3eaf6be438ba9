"""Captures as sources: files one after the other, and a stream such as standard input."""

from __future__ import annotations

import fcntl
import select
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

import numpy as np

from collectors.sources import SourceCounters
from flows.capture import ByteStream, CaptureReader
from flows.decode import Decoded
from flows.errors import CaptureError
from flows.packet import ENDPOINTS_DTYPE, packet_dtype

__all__ = ["CaptureTally", "FileSource", "Pipe", "StreamSource", "no_packets"]

_PIPE_BYTES = 1 << 20
_MOST_NAMED = 1_000  # damaged captures, of a folder that is watched for months


def no_packets(with_header: bool) -> Decoded:
    """Return no packets at all."""
    return Decoded(np.empty(0, packet_dtype(with_header)), np.empty(0, ENDPOINTS_DTYPE))


class CaptureTally:
    """Adds up what readers of captures have seen, one after the other."""

    def __init__(self) -> None:
        self._reader: CaptureReader | None = None
        self._frames = self._malformed = self._captures = 0
        self._skipped: Counter[str] = Counter()
        self._damaged: tuple[tuple[str, str], ...] = ()
        self._damaged_captures = 0

    def begin(self, reader: CaptureReader) -> None:
        """Count what ``reader`` reads from now on; the one before has ended."""
        before, self._reader = self._reader, None
        if before is not None:
            self._frames += before.frames
            self._malformed += before.malformed
            self._skipped.update(before.skipped)
        self._reader = reader
        self._captures += 1

    def damage(self, name: str, reason: str) -> None:
        """Note that a capture cannot be read any further."""
        self._damaged = (*self._damaged, (name, reason))[-_MOST_NAMED:]
        self._damaged_captures += 1

    @property
    def counters(self) -> SourceCounters:
        """All so far."""
        skipped = self._skipped.copy()
        frames, malformed = self._frames, self._malformed
        if self._reader is not None:
            skipped.update(self._reader.skipped)
            frames += self._reader.frames
            malformed += self._reader.malformed
        return SourceCounters(
            frames, malformed, dict(skipped), damaged=self._damaged, captures=self._captures,
            damaged_captures=self._damaged_captures,
        )  # fmt: skip


class FileSource:
    """Capture files, one after the other, as one :class:`collectors.sources.Source`.

    A damaged one is read up to the damage, named among the counters, and the next one goes on.

    Args:
        paths: pcap and pcapng files, gzip-compressed ones too, in order of capture time.
        with_header: The packets hold their headers' bytes, see :mod:`flows.header`.
    """

    live = False

    def __init__(self, paths: Sequence[Path], *, with_header: bool = False) -> None:
        self._with_header = with_header
        self._tally = CaptureTally()
        self._chunks = self._all(list(paths))

    @property
    def counters(self) -> SourceCounters:
        """What it has seen so far."""
        return self._tally.counters

    def read(self, wait_s: float) -> Decoded | None:
        """Return the next packets; None: the last file has been read. It never waits."""
        return next(self._chunks, None)

    def quiet_until_ns(self) -> int:
        """Return 0: between two packets of a file no time passes."""
        return 0

    def close(self) -> None:
        """Close the file that is open."""
        self._chunks.close()

    def _all(self, paths: list[Path]) -> Generator[Decoded, None, None]:
        for path in paths:
            reader = CaptureReader(path, with_header=self._with_header)
            self._tally.begin(reader)
            try:
                yield from reader.chunks()
            except CaptureError as error:
                self._tally.damage(str(path), error.reason)


class Pipe:
    """Bytes as they come through a file descriptor; never waits for them when read."""

    def __init__(self, descriptor: int) -> None:
        with suppress(OSError):  # no pipe, or more than this user may have
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._file = FileIO(descriptor, "rb", closefd=False)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.is_dry = False

    def wait(self, wait_s: float) -> bool:
        """Tell whether bytes are there, or the end is, or come within ``wait_s``."""
        return bool(self._poll.poll(max(wait_s, 0.0) * 1000.0))

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill ``buffer`` with what is there; None: nothing is."""
        # By poll, as a flag not to block would be the whole terminal's.
        self.is_dry = not self.wait(0.0)
        return None if self.is_dry else self._file.readinto(buffer)

    def close(self) -> None:
        """Read no further; the descriptor stays open."""
        self._file.close()


class StreamSource:
    """A capture that comes through a pipe, such as standard input.

    Packets are handed out as they come, and not when a buffer is full.

    Args:
        descriptor: The file descriptor to read from; stays open.
        name: What to call it.
        live: Packets come as they cross a wire on this machine.
        behind_s: How far what is live may be behind the wall clock: tcpdump hands packets on
            after up to a second.
        with_header: The packets hold their headers' bytes, see :mod:`flows.header`.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        name: str = "<standard input>",
        live: bool = False,
        behind_s: float = 2.0,
        with_header: bool = False,
    ) -> None:
        self.live = live
        self._behind_ns = int(behind_s * 1e9)
        self._with_header = with_header
        self._name = name
        self._pipe = Pipe(descriptor)
        self._tally = CaptureTally()
        self._chunks = self._all(self._pipe)
        self._quiet_ns = 0

    @property
    def counters(self) -> SourceCounters:
        """What it has seen so far."""
        return self._tally.counters

    def read(self, wait_s: float) -> Decoded | None:
        """Return packets that are there or come within ``wait_s``; None: the stream has ended."""
        waited = False
        while True:
            now_ns = time.time_ns()
            decoded = next(self._chunks, None)
            if decoded is None or len(decoded.packets) or not self._pipe.is_dry:
                return decoded
            if waited or not self._pipe.wait(wait_s):
                if self.live:
                    self._quiet_ns = max(self._quiet_ns, now_ns - self._behind_ns)
                return decoded
            waited = True

    def quiet_until_ns(self) -> int:
        """Return the wall clock less ``behind_s`` at the last silence if it is live, else 0."""
        return self._quiet_ns

    def close(self) -> None:
        """Read no further."""
        self._chunks.close()
        self._pipe.close()

    def _all(self, stream: ByteStream) -> Generator[Decoded, None, None]:
        reader = CaptureReader(stream, with_header=self._with_header)
        self._tally.begin(reader)
        try:
            yield from reader.chunks()
        except CaptureError as error:
            self._tally.damage(self._name, error.reason)
