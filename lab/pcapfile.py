"""Reads and writes classic pcap files of Ethernet frames, with nanosecond times."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lab.errors import LabError

__all__ = ["SNAPLEN", "Frame", "PcapWriter", "Segment", "parse", "read_frames"]

_NANO = 0xA1B23C4D
_MICRO = 0xA1B2C3D4
_ETHERNET = 1
SNAPLEN = 128
"""How many bytes of a frame the files hold at most."""

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


@dataclass(frozen=True)
class Frame:
    """One captured frame."""

    time_ns: int
    data: bytes
    wire_length: int


@dataclass(frozen=True)
class Segment:
    """What the lab must know of a TCP segment or UDP datagram."""

    version: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    protocol: int
    tcp_flags: int
    sequence: int
    header_end: int
    """Where the transport header, options included, ends in the frame."""


def read_frames(path: Path) -> Iterator[Frame]:
    """All frames of a pcap file, in file order; a cut-off last frame is left out."""
    with path.open("rb") as handle:
        head = handle.read(24)
        if len(head) < 24:
            raise LabError(f"{path.name}: no pcap file header")
        order = "<" if struct.unpack("<I", head[:4])[0] in (_NANO, _MICRO) else ">"
        magic, *_, link = struct.unpack(order + "IHHiIII", head)
        if magic not in (_NANO, _MICRO) or link != _ETHERNET:
            raise LabError(f"{path.name}: not a pcap file of Ethernet frames")
        unit = 1 if magic == _NANO else 1000
        record = struct.Struct(order + "IIII")
        while len(lead := handle.read(16)) == 16:
            seconds, fraction, kept, wire = record.unpack(lead)
            data = handle.read(kept)
            if len(data) < kept:
                return
            yield Frame(seconds * 1_000_000_000 + fraction * unit, data, wire)


class PcapWriter:
    """Writes frames to a pcap file.

    Args:
        path: the file, overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._handle: BinaryIO = path.open("wb")
        self._handle.write(struct.pack("<IHHiIII", _NANO, 2, 4, 0, 0, SNAPLEN, _ETHERNET))

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.close()

    def write(self, frame: Frame) -> None:
        """Append one frame."""
        seconds, nanos = divmod(frame.time_ns, 1_000_000_000)
        lead = struct.pack("<IIII", seconds, nanos, len(frame.data), frame.wire_length)
        self._handle.write(lead + frame.data)


def parse(data: bytes) -> Segment | None:
    """The segment or datagram in a frame; None for anything else, later fragments included."""
    if len(data) < 34:
        return None
    kind = data[12] << 8 | data[13]
    if kind == 0x0800:
        start = 14 + (data[14] & 0x0F) * 4
        if (data[20] << 8 | data[21]) & 0x1FFF:
            return None
        version, protocol, source, destination = 4, data[23], data[26:30], data[30:34]
    elif kind == 0x86DD and len(data) >= 54:
        start = 54
        version, protocol, source, destination = 6, data[20], data[22:38], data[38:54]
    else:
        return None
    if protocol == 17 and len(data) >= start + 8:
        one, two = struct.unpack_from("!HH", data, start)
        return Segment(version, source, destination, one, two, 17, 0, 0, start + 8)
    if protocol == 6 and len(data) >= start + 20:
        one, two, sequence = struct.unpack_from("!HHI", data, start)
        end = start + (data[start + 12] >> 4) * 4
        flags = data[start + 13]
        end = min(end, len(data))
        return Segment(version, source, destination, one, two, 6, flags, sequence, end)
    return None
