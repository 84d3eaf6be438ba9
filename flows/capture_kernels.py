"""Compiled parts of :mod:`flows.capture`: find the frames in a buffer of a capture file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.compiled import big_endian, inlined, kernel, little_endian
from flows.packet import Records

__all__ = [
    "BAD_LENGTH",
    "FULL",
    "INTERFACE",
    "INTERFACE_DTYPE",
    "LENGTHS_DIFFER",
    "LONG_BLOCK",
    "MAX_FRAME_BYTES",
    "MORE",
    "SECTION",
    "scan_pcap",
    "scan_pcapng",
]

MAX_FRAME_BYTES = 262_144
"""The most bytes that one record may hold; the limit of libpcap and Wireshark."""

# What a scan stopped for.
MORE = 0  # the rest of a record is not in the buffer
FULL = 1  # no room for further frames
BAD_LENGTH = 2
LENGTHS_DIFFER = 3  # pcapng: the two lengths of a block
SECTION = 4  # pcapng: a section header block
INTERFACE = 5  # pcapng: an interface description block
LONG_BLOCK = 6  # pcapng: a block of no interest that does not fit the buffer

INTERFACE_DTYPE = np.dtype(
    [
        ("link", "<i4"),
        ("snaplen", "<u4"),  # 0: no limit
        ("units_per_s", "<u8"),  # resolution of its time stamps
        ("offset_s", "<i8"),  # added to its time stamps
    ]
)

_MAX_S = 1 << 32  # time stamps of pcap end in 2106; later ones are taken for damage


@inlined
def _u32(data: npt.NDArray[np.uint8], at: int, big: bool) -> np.int64:
    return big_endian(data, at, 4) if big else little_endian(data, at, 4)


@inlined
def _u16(data: npt.NDArray[np.uint8], at: int, big: bool) -> np.int64:
    return big_endian(data, at, 2) if big else little_endian(data, at, 2)


@kernel
def scan_pcap(
    data: npt.NDArray[np.uint8],
    at: int,
    limit: int,
    big: bool,
    header: int,
    fraction_ns: int,
    link: int,
    frames: Records,
) -> tuple[int, int, int]:
    """Find pcap records in ``data[at:limit]``.

    Returns:
        How many frames were found, where the scan stopped, and what for.
    """
    n = 0
    while True:
        if n == len(frames):
            return n, at, FULL
        if at + header > limit:
            return n, at, MORE
        captured = _u32(data, at + 8, big)
        if captured > MAX_FRAME_BYTES:
            return n, at, BAD_LENGTH
        if at + header + captured > limit:
            return n, at, MORE
        frame = frames[n]
        frame.at = at + header
        frame.captured_bytes = captured
        frame.wire_bytes = min(_u32(data, at + 12, big), np.int64(0x7FFFFFFF))
        frame.time_ns = _u32(data, at, big) * 1_000_000_000 + _u32(data, at + 4, big) * fraction_ns
        frame.link = link
        at += header + captured
        n += 1


@inlined
def _time_ns(high: np.int64, low: np.int64, units_per_s: np.uint64, offset_s: np.int64) -> np.int64:
    """Return nanoseconds since the epoch, or -1 if they are out of range."""
    stamp = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
    seconds = stamp // units_per_s
    fraction = stamp - seconds * units_per_s
    if seconds > np.uint64(_MAX_S) or offset_s > _MAX_S or offset_s < -_MAX_S:
        return np.int64(-1)
    whole = np.int64(seconds) + offset_s
    if whole < 0 or whole > _MAX_S:
        return np.int64(-1)
    if units_per_s <= np.uint64(10_000_000_000):  # no overflow below
        part = np.int64((fraction * np.uint64(1_000_000_000)) // units_per_s)
    else:
        part = np.int64(float(fraction) / float(units_per_s) * 1e9)
    return whole * 1_000_000_000 + part


@kernel
def scan_pcapng(
    data: npt.NDArray[np.uint8],
    at: int,
    limit: int,
    big: bool,
    interfaces: Records,
    latest_ns: int,
    frames: Records,
) -> tuple[int, int, int, int]:
    """Find the packets in the pcapng blocks of ``data[at:limit]``.

    Returns:
        How many frames were found, where the scan stopped, what for, and the latest time.
    """
    n = 0
    while True:
        if n == len(frames):
            return n, at, FULL, latest_ns
        if at + 12 > limit:
            return n, at, MORE, latest_ns
        kind = _u32(data, at, big)
        if kind == 0x0A0D0D0A:  # the same in both byte orders
            return n, at, SECTION, latest_ns
        length = _u32(data, at + 4, big)
        if length < 12 or length % 4:
            return n, at, BAD_LENGTH, latest_ns
        packet = kind == 2 or kind == 3 or kind == 6
        if packet and length > MAX_FRAME_BYTES + 65_536:
            return n, at, BAD_LENGTH, latest_ns
        if at + length > limit:
            if not packet and kind != 1 and length > len(data):
                return n, at, LONG_BLOCK, latest_ns
            return n, at, MORE, latest_ns
        if _u32(data, at + length - 4, big) != length:
            return n, at, LENGTHS_DIFFER, latest_ns
        if kind == 1:
            return n, at, INTERFACE, latest_ns
        if packet:
            simple = kind == 3
            head = 12 if simple else 28
            if length < head + 4:
                return n, at, BAD_LENGTH, latest_ns
            which = np.int64(0)
            if not simple:
                which = _u32(data, at + 8, big) if kind == 6 else _u16(data, at + 8, big)
            wire = _u32(data, at + (8 if simple else 24), big)
            known = which < len(interfaces)
            if simple:
                captured = min(wire, length - 16)
                if known and interfaces[0].snaplen:
                    captured = min(captured, np.int64(interfaces[0].snaplen))
            else:
                captured = _u32(data, at + 20, big)
            if captured > length - head - 4 or captured > MAX_FRAME_BYTES:
                return n, at, BAD_LENGTH, latest_ns
            time_ns = np.int64(latest_ns)  # a simple packet block tells no time
            if known and not simple:
                time_ns = _time_ns(
                    _u32(data, at + 12, big),
                    _u32(data, at + 16, big),
                    interfaces[which].units_per_s,
                    interfaces[which].offset_s,
                )
                if time_ns > latest_ns:
                    latest_ns = time_ns
            frame = frames[n]
            frame.at = at + head
            frame.captured_bytes = captured
            frame.wire_bytes = min(wire, np.int64(0x7FFFFFFF))
            frame.time_ns = time_ns
            frame.link = interfaces[which].link if known else -1
            n += 1
        at += length
