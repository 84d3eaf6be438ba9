"""Log files that are appended to, line by line.

They are rotated by size and time, opened anew when another tool has rotated them, and never left
with half a line in their middle.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.errors import SettingsError, SinkError

__all__ = ["LogFile", "Rotation", "StreamFile", "sync_if_open", "write_all"]


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a log file is set aside, as ``NAME.1`` (then ``NAME.2`` and so on).

    Attributes:
        rotate_bytes: Before it would grow over so many bytes; 0: never.
        rotate_s: When the wall clock passes a multiple of so many seconds; 0: never.
        keep: How many are kept; the oldest one is removed.
    """

    rotate_bytes: int = 0
    rotate_s: float = 0.0
    keep: int = 10

    def __post_init__(self) -> None:
        if self.rotate_bytes < 0 or self.rotate_s < 0:
            raise SettingsError("rotate_bytes and rotate_s: must not be below 0")
        if self.keep < 1:
            raise SettingsError(f"keep: must be at least 1, is {self.keep}")


class LogFile:
    """Appends to a file that nobody else writes.

    What was written is with the operating system at once, so that only a power loss can lose it.

    Args:
        path: The file; made if there is none. If it ends in half a line, as a crash leaves it, the
            line is ended first.
        rotation: When to set it aside.
        head: Makes what each file begins with.
        foot: Makes what each file ends with.
        clock: Tells the wall clock, seconds since the epoch.

    Raises:
        SinkError: It cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        rotation: Rotation | None = None,
        *,
        head: Callable[[], bytes] = bytes,
        foot: Callable[[], bytes] = bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._rotation = rotation or Rotation()
        self._head = head
        self._foot = foot
        self._clock = clock
        self._fd = -1
        self._first = b""  # to be written before what comes next
        self._begun = False  # something has been written since it was opened
        self._period = 0.0
        self._open()

    def write(self, lines: bytes | memoryview) -> None:
        """Append whole lines.

        Raises:
            SinkError: It failed, and nothing was appended.
        """
        self._rotate_if_due(len(lines))
        if self._fd < 0:
            self._open()
        size = os.fstat(self._fd).st_size
        try:
            if self._first:
                write_all(self._fd, self._first)
            write_all(self._fd, lines)
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise self._failed("write to it", error) from None
        self._first = b""
        self._begun = True

    def flush(self) -> None:
        """Rotate it if it is time.

        Raises:
            SinkError: It could not be rotated.
        """
        self._rotate_if_due(0)

    def reopen(self) -> None:
        """Open it anew by its name.

        Raises:
            SinkError: It cannot be opened; the next write tries again.
        """
        self._let_go()
        self._open()

    def sync(self) -> None:
        """Have the disk keep what is written; from any thread.

        Raises:
            OSError: The disk fails.
        """
        sync_if_open(self._fd)

    def close(self) -> None:
        """End it; the second time, do nothing."""
        self._let_go()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise self._failed("open it", error) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SinkError(f"{self.path}: is no regular file; name a file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            torn = status.st_size > 0 and os.pread(fd, 1, status.st_size - 1) != b"\n"
        except BlockingIOError:
            os.close(fd)
            raise SinkError(
                f"{self.path}: another process or sink writes it; name another file"
            ) from None
        except OSError as error:
            os.close(fd)
            raise self._failed("open it", error) from None
        except SinkError:
            os.close(fd)
            raise
        self._fd = fd
        self._first = (b"\n" if torn else b"") + self._head()
        self._begun = False
        self._period = self._period_of(status.st_mtime if status.st_size else self._clock())

    def _let_go(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            size = os.fstat(fd).st_size
            try:
                if self._begun:
                    write_all(fd, self._foot())
                os.fsync(fd)
            except OSError:  # a foot is a courtesy, and all lines are with the system
                os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def _rotate_if_due(self, more_bytes: int) -> None:
        rule = self._rotation
        if self._fd < 0 or not (rule.rotate_bytes or rule.rotate_s):
            return
        size = os.fstat(self._fd).st_size
        full = bool(rule.rotate_bytes) and size + more_bytes > rule.rotate_bytes
        if size and (full or self._period_of(self._clock()) != self._period):
            self._rotate()
        elif not size:
            self._period = self._period_of(self._clock())

    def _rotate(self) -> None:
        self._let_go()
        try:
            for k in range(self._rotation.keep, 0, -1):
                older = self._numbered(k)
                newer = self._numbered(k - 1) if k > 1 else self.path
                if newer.exists():
                    newer.replace(older)
        except OSError as error:
            raise self._failed("rotate it", error) from None
        self._open()

    def _numbered(self, k: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{k}")

    def _period_of(self, time_s: float) -> float:
        return time_s // self._rotation.rotate_s if self._rotation.rotate_s else 0.0

    def _failed(self, what: str, error: OSError) -> SinkError:
        hint = {
            errno.ENOENT: "; make its folder first",
            errno.EACCES: "; it must be writable for this user",
            errno.ENOSPC: "; make room on the disk",
            errno.EDQUOT: "; make room in the quota",
        }.get(error.errno or 0, "")
        return SinkError(f"{self.path}: cannot {what}: {error.strerror}{hint}")


class StreamFile:
    """Writes to what is open already, as standard output is.

    Args:
        fd: Its descriptor; not closed.
        name: What to call it in messages.
        head: What to begin with.
    """

    def __init__(self, fd: int, name: str, head: bytes = b"") -> None:
        self._fd = fd
        self._name = name
        self._first = head

    def write(self, lines: bytes | memoryview) -> None:
        """Write whole lines.

        Raises:
            SinkError: It failed. Some lines may be out; half a one is ended before the next one.
        """
        try:
            if self._first:
                write_all(self._fd, self._first)
                self._first = b""
            write_all(self._fd, lines)
        except OSError as error:
            self._first = b"\n"
            raise SinkError(f"{self._name}: cannot write to it: {error.strerror}") from None

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def reopen(self) -> None:
        """Do nothing: it has no name."""

    def sync(self) -> None:
        """Do nothing: who reads it has it."""

    def close(self) -> None:
        """Do nothing: it is not ours to close."""


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, however many calls it takes.

    Raises:
        OSError: It failed; some may be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_if_open(fd: int) -> None:
    """Have the disk keep what is written to ``fd``, unless that has just been closed.

    Raises:
        OSError: The disk fails.
    """
    try:
        if fd >= 0:
            os.fdatasync(fd)
    except OSError as error:
        # Who closes a file syncs it first; its number may even be a pipe's by now.
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.EROFS):
            raise
