"""The spool on disk: segment files of records, each with a checksum.

A segment is ``NNNNNNNNNNNN.spool``: a header that says whose it is, then records. It is only ever
appended to. Whatever is damaged ends the reading of its segment there, and of no other::

    header   8 bytes "SFSPOOL1", length u32, crc32 u32, then a JSON object of that length
    record   length u32, kind u32, crc32 u32 (of length, kind and payload), then the payload
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import SettingsError

__all__ = ["MAX_RECORD_BYTES", "FolderLock", "Segment", "SegmentWriter", "read_records", "segments"]

_MAGIC = b"SFSPOOL1"
_HEAD = struct.Struct("<8sII")
_RECORD = struct.Struct("<III")
_MOST_META = 65_536
_SUFFIX = ".spool"

MAX_RECORD_BYTES = 1 << 28
"""The most bytes of one record."""

Buffers = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that is there.

    Attributes:
        path: The file.
        number: In order of their making.
        meta: What its header says.
        begins_at: Where its first record begins.
    """

    path: Path
    number: int
    meta: dict[str, Any]
    begins_at: int


def segments(folder: Path) -> tuple[list[Segment], list[Path]]:
    """Return the segments of a folder, the oldest first, and files whose header is damaged."""
    found, damaged = [], []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if not path.stem.isdigit():
            continue
        meta, begins_at = _header(path)
        if meta is None:
            damaged.append(path)
        else:
            found.append(Segment(path, int(path.stem), meta, begins_at))
    return found, damaged


def _header(path: Path) -> tuple[dict[str, Any] | None, int]:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return None, 0
            magic, length, crc = _HEAD.unpack(head)
            text = file.read(length) if length <= _MOST_META else b""
    except OSError:
        return None, 0
    if magic != _MAGIC or len(text) != length or zlib.crc32(text) != crc:
        return None, 0
    try:
        meta = json.loads(text)
    except ValueError:
        return None, 0
    return (meta, _HEAD.size + length) if isinstance(meta, dict) else (None, 0)


def read_records(path: Path, begins_at: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield kind, payload and the place behind it, of each record up to the first that is damaged.

    Args:
        path: The segment.
        begins_at: Where to begin.
    """
    at = begins_at
    with path.open("rb") as file:
        file.seek(at)
        while True:
            head = file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                return
            length, kind, crc = _RECORD.unpack(head)
            if length > MAX_RECORD_BYTES:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[:8])) != crc:
                return
            at += _RECORD.size + length
            yield kind, payload, at


class SegmentWriter:
    """Appends records to a new segment.

    Args:
        folder: Where it is made.
        number: Its number.
        meta: What its header says; must fit into JSON.

    Attributes:
        path: The file.
        bytes: How long it is.
        synced: The disk has all of it.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path, number: int, meta: dict[str, Any]) -> None:
        self.path = folder / f"{number:012d}{_SUFFIX}"
        text = json.dumps(meta).encode()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.bytes = 0
        try:
            self._append([_HEAD.pack(_MAGIC, len(text), zlib.crc32(text)), text])
        except OSError:
            os.close(self._fd)
            self.path.unlink()
            raise
        self.begins_at = self.bytes
        self.synced = False
        _sync_folder(folder)

    def append(self, kind: int, payload: Buffers) -> None:
        """Write a record; on failure the segment is as it was before.

        Raises:
            OSError: There is no room, or the disk fails.
        """
        length = sum(len(part) for part in payload)
        head = struct.pack("<II", length, kind)
        crc = zlib.crc32(head)
        for part in payload:
            crc = zlib.crc32(part, crc)
        self._append([head, struct.pack("<I", crc), *payload])
        self.synced = False

    def sync(self) -> None:
        """Have the disk keep what is written so far.

        Raises:
            OSError: The disk fails.
        """
        if not self.synced:
            self.synced = True
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def _append(self, parts: Buffers) -> None:
        whole = b"".join(parts)
        done = 0
        try:
            while done < len(whole):
                done += os.pwrite(self._fd, memoryview(whole)[done:], self.bytes + done)
        except OSError:
            os.ftruncate(self._fd, self.bytes)  # no half record before the next one
            raise
        self.bytes += done


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FolderLock:
    """Keeps other collectors out of a folder for as long as this process has it.

    Args:
        folder: The folder; it is made if it is not there.

    Raises:
        SettingsError: It cannot be made or written to, or somebody has it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(f"spool {folder}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 20, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise SettingsError(
                f"spool {folder}: process {holder or 'unknown'} uses it; give each collector a "
                "folder of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let others in."""
        os.close(self._fd)
