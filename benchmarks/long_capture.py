"""One long capture file out of several short ones, for programs that read nothing but files.

The captures follow one another, over and over, each time later and with other hosts: a byte of
each address is changed by the number of the copy. What was cut off a packet is filled with zeros,
as some programs pass over cut packets, which would flatter them. Checksums are left as they are;
none of the programs that are compared looks at them by default.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.errors import SettingsError

__all__ = ["write_empty_capture", "write_long_capture"]

_MAGICS = {b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xd4\xc3\xb2\xa1": ("<", 1_000),
           b"\xa1\xb2\x3c\x4d": (">", 1), b"\xa1\xb2\xc3\xd4": (">", 1_000)}  # fmt: skip
_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_NANOSECONDS = 0xA1B23C4D
_S = 1_000_000_000
_GAP_NS = 1_000_000  # between one capture's last packet and the next one's first
_ETHERNET = 1
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_MOST_COPIES = 256


def write_empty_capture(path: Path) -> None:
    """Write a capture without a packet: what a program does with it is its start-up."""
    path.write_bytes(_HEADER.pack(_NANOSECONDS, 2, 4, 0, 0, 65_535, _ETHERNET))


def write_long_capture(captures: Sequence[Path], passes: int, path: Path) -> int:
    """Write captures over and over as one; return how many packets it holds.

    Args:
        captures: pcap files of Ethernet.
        passes: How many times.
        path: The file to make.

    Raises:
        SettingsError: A capture is of another form, or there would be too many copies.
    """
    if passes * len(captures) > _MOST_COPIES:
        raise SettingsError(f"{passes} passes of {len(captures)} captures: {_MOST_COPIES} at most")
    clock_ns = _S
    count = 0
    with path.open("wb") as out:
        out.write(_HEADER.pack(_NANOSECONDS, 2, 4, 0, 0, 65_535, _ETHERNET))
        for number in range(passes * len(captures)):
            shift_ns: int | None = None
            for time_ns, length, frame in _frames(captures[number % len(captures)]):
                if shift_ns is None:
                    shift_ns = clock_ns - time_ns
                clock_ns = max(clock_ns, time_ns + shift_ns)
                seconds, rest_ns = divmod(time_ns + shift_ns, _S)
                frame.extend(bytes(max(0, length - len(frame))))
                out.write(_RECORD.pack(seconds, rest_ns, len(frame), max(length, len(frame))))
                out.write(_with_other_hosts(frame, number))
                count += 1
            clock_ns += _GAP_NS
    return count


def _frames(path: Path) -> Iterator[tuple[int, int, bytearray]]:
    """Yield each packet's time, its length on the wire, and what was captured of it."""
    data = path.read_bytes()
    order, unit_ns = _MAGICS.get(data[:4], ("", 0))
    if not order or struct.unpack(f"{order}I", data[20:24])[0] != _ETHERNET:
        raise SettingsError(
            f"{path}: give a pcap file of Ethernet, such as `editcap -F pcap` makes of others"
        )
    record = struct.Struct(f"{order}IIII")
    at = _HEADER.size
    while at + record.size <= len(data):
        seconds, fraction, held, length = record.unpack_from(data, at)
        at += record.size
        yield seconds * _S + fraction * unit_ns, length, bytearray(data[at : at + held])
        at += held


def _with_other_hosts(frame: bytearray, copy: int) -> bytearray:
    """Change a byte of both addresses, so that no two copies share a flow.

    IPv4: the second byte. IPv6: one of the interface's, as nDPI does not tell networks apart.
    """
    kind = bytes(frame[12:14])
    if kind == _IPV4 and len(frame) >= 34:
        frame[27] ^= copy
        frame[31] ^= copy
    elif kind == _IPV6 and len(frame) >= 54:
        frame[31] ^= copy
        frame[47] ^= copy
    return frame
