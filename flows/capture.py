"""Capture files: pcap (microseconds and nanoseconds, both byte orders) and pcapng.

Formats as in the drafts draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. A file is read once,
front to back, in chunks; what cannot be read ends it with an error that says where and why, after
everything before it has been handed out.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn, Protocol, cast

import numpy as np

from flows import capture_kernels as kernels
from flows.decode import FRAME_DTYPE, MALFORMED, Decoded, Skip, decode_frames
from flows.errors import CaptureError, CaptureFormatError, CaptureTruncatedError, LinkTypeError
from flows.link import LinkType
from flows.packet import Records

__all__ = ["ByteStream", "CaptureReader"]

_PCAP = {  # magic number: (nanoseconds in a fraction, bytes of a record's header)
    0xA1B2C3D4: (1000, 16),
    0xA1B23C4D: (1, 16),
    0xA1B2CD34: (1000, 24),  # Kuznetzov's patch of old Linux systems
}
_PCAPNG = 0x0A0D0D0A
_LINKS = frozenset(int(known) for known in LinkType)
_SMALLEST = 2 * kernels.MAX_FRAME_BYTES  # a chunk must hold the largest block


class ByteStream(Protocol):
    """What a capture is read from; every binary file is one."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill ``buffer`` from the front; return how many bytes there were, 0 at the end.

        None: nothing is there yet. Then an empty chunk is handed out before the next attempt.
        """


class CaptureReader:
    """Reads the packets of one capture.

    Args:
        source: A file's path (a gzip-compressed one is unpacked on the way), or a binary stream.
        chunk_bytes: How much to read at a time; at least 512 KiB.
        with_header: The packets hold their headers' bytes, see :mod:`flows.header`.
    """

    def __init__(
        self, source: Path | ByteStream, *, chunk_bytes: int = 1 << 20, with_header: bool = False
    ) -> None:
        self._source = source
        self._with_header = with_header
        self.path = source if isinstance(source, Path) else Path("<stream>")
        self._data = np.empty(max(chunk_bytes, _SMALLEST), np.uint8)
        self._at = 0  # where the next record begins in the buffer
        self._limit = 0  # where what has been read ends in the buffer
        self._base = 0  # how much of the file lies before the buffer
        self._skipped = np.zeros(len(Skip), np.int64)
        self._interfaces = np.zeros(0, kernels.INTERFACE_DTYPE)
        self._big = False
        self._is_dry = False  # the stream had nothing when it was last asked
        self.frames = 0

    @property
    def skipped(self) -> dict[str, int]:
        """Frames read so far that are no packets of flows, by :class:`flows.decode.Skip`."""
        return {s.text: int(self._skipped[s]) for s in Skip if self._skipped[s]}

    @property
    def malformed(self) -> int:
        """How many of the skipped frames are broken."""
        return int(sum(self._skipped[s] for s in MALFORMED))

    def chunks(self) -> Iterator[Decoded]:
        """Yield the packets, chunk by chunk, in file order; can be called once.

        Raises:
            CaptureFormatError: It is no capture, or its structure is broken from here on.
            CaptureTruncatedError: It ends in the middle of a record.
            LinkTypeError: The decoder knows none of its link types.
            CaptureError: It cannot be opened or read.
        """
        try:
            if isinstance(self._source, Path):
                with _open(self._source) as stream:
                    yield from self._read(stream)
            else:
                yield from self._read(self._source)
        except EOFError:
            raise CaptureTruncatedError(self.path, "the gzip-compressed file is cut off") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise CaptureFormatError(self.path, f"damaged gzip file ({error})") from None
        except IsADirectoryError:
            raise CaptureError(self.path, "is a directory, not a capture file") from None
        except FileNotFoundError:
            raise CaptureError(self.path, "there is no such file") from None
        except OSError as error:
            raise CaptureError(self.path, error.strerror or str(error)) from None

    def _read(self, stream: ByteStream) -> Iterator[Decoded]:
        while self._limit < 24 and self._fill(stream):
            if self._is_dry:
                yield self._decode(np.empty(0, FRAME_DTYPE))
        if self._limit == 0:
            raise CaptureFormatError(self.path, "the file is empty")
        if self._limit < 4:
            raise CaptureFormatError(self.path, "not a pcap or pcapng file")
        magic = int.from_bytes(self._data[:4].tobytes(), "little")
        swapped = int.from_bytes(self._data[:4].tobytes(), "big")
        if magic == _PCAPNG:
            yield from self._pcapng(stream)
        elif magic in _PCAP or swapped in _PCAP:
            self._big = swapped in _PCAP
            yield from self._pcap(stream, *_PCAP[swapped if self._big else magic])
        else:
            raise CaptureFormatError(
                self.path, f"not a pcap or pcapng file (it begins with {swapped:08x})"
            )
        known = self.frames - self._skipped[Skip.LINK_TYPE]
        if self.frames and not known:
            links = sorted({int(link) for link in self._interfaces["link"]})
            raise self._unknown_link(", ".join(map(str, links)))

    def _unknown_link(self, link: str) -> LinkTypeError:
        names = ", ".join(f"{known.name} {known.value}" for known in LinkType)
        return LinkTypeError(self.path, f"link type {link} is not supported (known: {names})")

    def _pcap(self, stream: ByteStream, fraction_ns: int, header: int) -> Iterator[Decoded]:
        if self._limit < 24:
            raise CaptureTruncatedError(self.path, "ends within the file header")
        link = self._number(20) & 0xFFFF  # above it: the length of the frame check sequence
        if link not in _LINKS:
            raise self._unknown_link(str(link))
        self._at = 24
        frames = np.empty(len(self._data) // header + 1, FRAME_DTYPE)
        while True:
            n, self._at, why = kernels.scan_pcap(
                self._data, self._at, self._limit, self._big, header, fraction_ns, link, frames
            )
            yield self._decode(frames[:n])
            if why == kernels.BAD_LENGTH:
                self._refuse(f"claims {self._number(self._at + 8):,} captured bytes")
            if not self._fill(stream):
                break
        self._check_end()

    def _pcapng(self, stream: ByteStream) -> Iterator[Decoded]:
        frames = np.empty(len(self._data) // 16 + 1, FRAME_DTYPE)
        latest_ns = 0
        while True:
            n, self._at, why, latest_ns = kernels.scan_pcapng(
                self._data, self._at, self._limit, self._big, self._interfaces, latest_ns, frames
            )
            yield self._decode(frames[:n])
            if why == kernels.BAD_LENGTH:
                self._refuse(f"claims impossible lengths ({self._number(self._at + 4):,} bytes)")
            if why == kernels.LENGTHS_DIFFER:
                self._refuse("ends with another length than it begins with")
            if why == kernels.SECTION and self._section():
                continue
            if why == kernels.INTERFACE:
                self._interface()
                continue
            if why == kernels.LONG_BLOCK:
                yield from self._skip(stream, self._number(self._at + 4))
                continue
            if not self._fill(stream):
                break
        self._check_end()

    def _section(self) -> bool:
        """Begin a section; return False if its header is not in the buffer yet."""
        if self._at + 28 > self._limit:
            return False
        order = self._data[self._at + 8 : self._at + 12].tobytes()
        if order not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
            self._refuse("is a section header without a byte order")
        self._big = order[0] == 0x1A
        length = self._number(self._at + 4)
        if length < 28 or length % 4 or length > len(self._data):
            self._refuse(f"claims impossible lengths ({length:,} bytes)")
        if self._at + length > self._limit:
            return False
        if self._number(self._at + length - 4) != length:
            self._refuse("ends with another length than it begins with")
        self._interfaces = self._interfaces[:0]
        self._at += length
        return True

    def _interface(self) -> None:
        length = self._number(self._at + 4)
        if length < 20:
            self._refuse("is an interface description that is too short")
        row = np.zeros(1, kernels.INTERFACE_DTYPE)
        row["link"] = self._number(self._at + 8, 2)
        row["snaplen"] = self._number(self._at + 12)
        row["units_per_s"] = 1_000_000
        at, stop = self._at + 16, self._at + length - 4
        while at + 4 <= stop:
            code, size = self._number(at, 2), self._number(at + 2, 2)
            if code == 0 or at + 4 + size > stop:
                break
            if code == 9 and size == 1:  # if_tsresol
                value = int(self._data[at + 4])
                units = 2 ** (value & 0x7F) if value & 0x80 else 10**value
                if units >= 1 << 63:
                    self._refuse("is an interface description with an impossible clock")
                row["units_per_s"] = units
            elif code == 14 and size == 8:  # if_tsoffset
                raw = self._data[at + 4 : at + 12].tobytes()
                row["offset_s"] = int.from_bytes(raw, self._order, signed=True)
            at += 4 + size + (-size % 4)
        self._interfaces = np.concatenate([self._interfaces, row])
        self._at += length

    def _decode(self, frames: Records) -> Decoded:
        self.frames += len(frames)
        return decode_frames(self._data, frames, self._skipped, with_header=self._with_header)

    def _fill(self, stream: ByteStream) -> bool:
        """Drop what has been used and read more; return False at the end of the file."""
        rest = self._limit - self._at
        if self._at:
            self._data[:rest] = self._data[self._at : self._limit].copy()
            self._base += self._at
            self._at, self._limit = 0, rest
        got = stream.readinto(self._data.data[self._limit :])
        self._is_dry = got is None
        self._limit += got or 0
        return got != 0

    def _skip(self, stream: ByteStream, length: int) -> Iterator[Decoded]:
        self._base += self._at
        left = length - (self._limit - self._at)
        self._at = self._limit = 0
        self._base += length
        while left > 0:
            got = stream.readinto(self._data.data[:left])
            if got is None:
                yield self._decode(np.empty(0, FRAME_DTYPE))
                continue
            if not got:
                raise CaptureTruncatedError(
                    self.path, f"ends within a block after {self.frames:,} frames"
                )
            left -= got

    @property
    def _order(self) -> Literal["big", "little"]:
        return "big" if self._big else "little"

    def _number(self, at: int, size: int = 4) -> int:
        return int.from_bytes(self._data[at : at + size].tobytes(), self._order)

    def _refuse(self, what: str) -> NoReturn:
        raise CaptureFormatError(
            self.path,
            f"damaged: after {self.frames:,} frames, the record at byte "
            f"{self._base + self._at:,} {what}",
        )

    def _check_end(self) -> None:
        if self._at < self._limit:
            raise CaptureTruncatedError(
                self.path,
                f"cut off: after {self.frames:,} frames it ends within the record at byte "
                f"{self._base + self._at:,}",
            )


@contextmanager
def _open(path: Path) -> Iterator[ByteStream]:
    with path.open("rb") as stream:
        if stream.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield cast(ByteStream, unpacked)
        else:
            yield cast(ByteStream, stream)
