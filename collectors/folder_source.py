"""A folder into which finished captures come, as tcpdump -G, dumpcap -b and couriers leave them."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from collectors.file_sources import CaptureTally, no_packets
from collectors.sources import SourceCounters
from flows.capture import CaptureReader
from flows.decode import Decoded
from flows.errors import CaptureError

__all__ = ["FolderSettings", "FolderSource", "captures_in", "is_capture"]

_NAME = re.compile(r"[^.].*\.(pcap|pcapng|cap)\d*(\.gz)?", re.IGNORECASE)  # tcpdump -C adds digits
_LOOK_S = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """How a folder is watched.

    Attributes:
        settle_s: A capture is finished when it has not changed for so long and no program has it
            open for writing; the second is not told of another user's files, nor on file systems
            without leases (NFS).
        move_done: Move what has been read into the subfolder ``done``. Without it everything is
            read again after a restart.
        once: End when everything has been read, rather than wait for more.
        with_header: The packets hold their headers' bytes, see :mod:`flows.header`.
    """

    settle_s: float = 1.0
    move_done: bool = False
    once: bool = False
    with_header: bool = False


@dataclass(slots=True)
class _Seen:
    """A file as it was at the last look."""

    state: tuple[int, int, int]  # inode, bytes, time of change
    since_s: float
    done: bool = False


def is_capture(name: str) -> bool:
    """Tell whether a file of this name is taken for a capture."""
    return _NAME.fullmatch(name) is not None


def captures_in(folder: Path) -> list[Path]:
    """Return the captures that are in a folder now, in order of their names.

    Raises:
        CaptureError: It cannot be read, or there is none.
    """
    try:
        found = sorted(p for p in folder.iterdir() if is_capture(p.name) and p.is_file())
    except OSError as error:
        raise CaptureError(folder, error.strerror or str(error)) from None
    if not found:
        raise CaptureError(folder, "the folder holds no .pcap, .pcapng or .cap file")
    return found


class FolderSource:
    """The captures of a folder, each once, in order of their last change, then of their names.

    A file that changes after it was read counts as a new one, since programs use names again. A
    damaged one is read up to the damage and named among the counters.

    Args:
        folder: The folder; subfolders are left alone.
        settings: How to watch it.
        clock: Seconds that only go up.

    Raises:
        CaptureError: It is no folder.
    """

    live = False

    def __init__(
        self,
        folder: Path,
        settings: FolderSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not folder.is_dir():
            raise CaptureError(folder, "there is no such folder")
        self._folder = folder
        self._settings = settings or FolderSettings()
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._ready: list[str] = []
        self._look_at_s = float("-inf")
        self._tally = CaptureTally()
        self._chunks: Iterator[Decoded] = iter(())
        self._reading: Path | None = None
        self._closed = False

    @property
    def counters(self) -> SourceCounters:
        """What it has seen so far."""
        return self._tally.counters

    def read(self, wait_s: float) -> Decoded | None:
        """Return packets; none if no capture was finished within ``wait_s``.

        Raises:
            CaptureError: The folder cannot be read any more.
        """
        until_s = self._clock() + wait_s
        while not self._closed:
            decoded = next(self._chunks, None)
            if decoded is not None:
                return decoded
            self._put_away()
            path = self._finished()
            if path is not None:
                self._reading = path
                self._chunks = self._all(path)
                continue
            if self._settings.once and all(seen.done for seen in self._seen.values()):
                return None
            left_s = min(until_s - self._clock(), _LOOK_S)
            if left_s <= 0:
                return no_packets(self._settings.with_header)
            time.sleep(left_s)
        return None

    def quiet_until_ns(self) -> int:
        """Return 0: when the captures to come begin is not known."""
        return 0

    def close(self) -> None:
        """Look no further; what is being read stays where it is."""
        self._closed = True
        self._chunks = iter(())

    def _all(self, path: Path) -> Iterator[Decoded]:
        reader = CaptureReader(path, with_header=self._settings.with_header)
        self._tally.begin(reader)
        try:
            yield from reader.chunks()
        except CaptureError as error:
            _log.warning("%s", error)
            self._tally.damage(str(path), error.reason)

    def _finished(self) -> Path | None:
        """Return the capture to read next."""
        now_s = self._clock()
        if not self._ready and now_s >= self._look_at_s:
            self._look(now_s)
            # A large folder takes a while to list, and that is not to be what this does all day.
            self._look_at_s = max(now_s + _LOOK_S, now_s + 20 * (self._clock() - now_s))
        while self._ready:
            name = self._ready.pop(0)
            if not _is_written_to(self._folder / name):
                self._seen[name].done = True
                return self._folder / name
        return None

    def _look(self, now_s: float) -> None:
        """See what is in the folder, and which of it is finished."""
        found: list[tuple[int, str]] = []
        there: dict[str, _Seen] = {}
        for name, state in self._states():
            seen = self._seen.get(name)
            if seen is None or seen.state != state:
                seen = _Seen(state, now_s)
            there[name] = seen
            if not seen.done and now_s - seen.since_s >= self._settings.settle_s:
                found.append((state[2], name))
        self._seen = there  # what has gone is forgotten
        self._ready = [name for _, name in sorted(found)]

    def _states(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # it has gone meanwhile
                        if is_capture(entry.name) and entry.is_file():
                            told = entry.stat()
                            yield entry.name, (told.st_ino, told.st_size, told.st_mtime_ns)
        except OSError as error:
            raise CaptureError(self._folder, error.strerror or str(error)) from None

    def _put_away(self) -> None:
        """Move what has been read to its end, if that is wanted."""
        path, self._reading = self._reading, None
        if path is None or not self._settings.move_done:
            return
        done = self._folder / "done"
        target, number = done / path.name, 0
        try:
            done.mkdir(exist_ok=True)
            while target.exists():
                number += 1
                target = done / f"{path.name}.{number}"
            path.rename(target)
        except OSError as error:
            _log.warning("%s: cannot be moved to %s (%s)", path, done, error.strerror)


def _is_written_to(path: Path) -> bool:
    """Tell whether a program has a file open for writing, as far as that can be known."""
    # The kernel gives a lease for reading only where nobody writes. Whoever would write while it
    # is held, which is for no time, makes the kernel send a signal: one that is ignored.
    try:
        with path.open("rb") as file:
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            try:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except BlockingIOError:
                return True
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False  # reading it will tell what is wrong with it, if anything is
    return False
