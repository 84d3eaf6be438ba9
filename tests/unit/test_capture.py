"""Capture files: every format gives the same packets, and damage is named."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest

import frames as f
from flows.capture import CaptureReader
from flows.errors import CaptureError, CaptureFormatError, CaptureTruncatedError, LinkTypeError
from flows.packet import ENDPOINTS_DTYPE, PACKET_DTYPE

START_NS = 1_700_000_000 * 10**9
TIMES_NS = [START_NS + i * 1_234_567_000 for i in range(5)]
FRAMES = [f.ethernet(f.ipv4(f.udp(payload=bytes(i)), 17)) for i in range(5)]


def read(data: bytes) -> tuple[np.ndarray, np.ndarray, CaptureReader]:
    reader = CaptureReader(io.BytesIO(data))
    parts = list(reader.chunks())
    packets = np.concatenate([np.empty(0, PACKET_DTYPE), *(p.packets for p in parts)])
    endpoints = np.concatenate([np.empty(0, ENDPOINTS_DTYPE), *(p.endpoints for p in parts)])
    return packets, endpoints, reader


def pcapng(order: str = "<", stamps: list[int] | None = None, options: bytes = b"") -> bytes:
    stamps = stamps or [t // 1000 for t in TIMES_NS]
    body = b"".join(f.enhanced(frame, s, 0, order) for frame, s in zip(FRAMES, stamps, strict=True))
    return f.section(order) + f.interface(1, options, order) + body


@pytest.mark.parametrize(
    "data",
    [
        f.pcap(FRAMES, times_ns=TIMES_NS),
        f.pcap(FRAMES, times_ns=TIMES_NS, big=True),
        f.pcap(FRAMES, times_ns=TIMES_NS, nanos=True),
        f.pcap(FRAMES, times_ns=TIMES_NS, nanos=True, big=True),
        pcapng("<"),
        pcapng(">"),
        pcapng("<", TIMES_NS, f.option(9, b"\x09")),
        pcapng(
            ">",
            [t // 1000 - 5_000_000 for t in TIMES_NS],
            f.option(14, struct.pack(">q", 5), ">"),
        ),
    ],
    ids=["us", "us-big", "ns", "ns-big", "ng", "ng-big", "ng-ns", "ng-offset"],
)
def test_every_format_gives_the_same_packets(data: bytes) -> None:
    packets, endpoints, reader = read(data)
    assert packets["time_ns"].tolist() == TIMES_NS
    assert packets["payload_bytes"].tolist() == [0, 1, 2, 3, 4]
    assert endpoints["dst_port"].tolist() == [53] * 5
    assert (reader.frames, reader.malformed, reader.skipped) == (5, 0, {})


def test_a_binary_clock_resolution_is_converted() -> None:
    """2**-20 s a tick."""
    stamps = [(1_700_000_000 << 20) + (i << 19) for i in range(5)]
    packets, _, _ = read(pcapng("<", stamps, f.option(9, b"\x94")))
    assert packets["time_ns"].tolist() == [START_NS + i * 500_000_000 for i in range(5)]


def test_sections_and_interfaces_of_their_own_kind_follow_each_other() -> None:
    raw = f.ipv4(f.udp(), 17)
    data = (
        f.section("<")
        + f.interface(1)
        + f.interface(101)
        + f.enhanced(raw, START_NS // 1000, 1)
        + f.block(4, b"names, of no interest")
        + f.enhanced(FRAMES[0], START_NS // 1000, 0)
        + f.section(">")
        + f.interface(101, b"", ">")
        + f.enhanced(raw, START_NS // 1000, 0, ">")
        + f.block(3, struct.pack(">I", len(raw)) + raw, ">")
    )
    packets, _, reader = read(data)
    assert len(packets) == 4
    assert set(packets["time_ns"].tolist()) == {START_NS}, "a simple packet has the latest time"
    assert reader.skipped == {}


def test_a_block_longer_than_the_buffer_is_passed_over() -> None:
    data = pcapng() + f.block(0x0BAD, bytes(3_000_000)) + f.enhanced(FRAMES[0], 0)
    packets, _, _ = read(data)
    assert len(packets) == 6


def test_a_compressed_capture_is_unpacked_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap.gz"
    path.write_bytes(gzip.compress(f.pcap(FRAMES)))
    assert sum(len(c.packets) for c in CaptureReader(path).chunks()) == 5
    path.write_bytes(gzip.compress(f.pcap(FRAMES))[:-12])
    with pytest.raises(CaptureTruncatedError, match=r"c\.pcap\.gz: .*cut off"):
        list(CaptureReader(path).chunks())


def test_what_lies_before_the_damage_is_handed_out_first() -> None:
    whole = f.pcap(FRAMES)
    for cut in range(24, len(whole)):
        reader = CaptureReader(io.BytesIO(whole[:cut]))
        got = 0
        ends = [24]
        for frame in FRAMES:
            ends.append(ends[-1] + 16 + len(frame))
        try:
            for chunk in reader.chunks():
                got += len(chunk.packets)
        except CaptureTruncatedError:
            assert cut not in ends
        else:
            assert cut in ends
        assert got == sum(end <= cut for end in ends[1:])


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (b"", CaptureFormatError, "empty"),
        (b"GIF89a, not a capture at all", CaptureFormatError, "not a pcap"),
        (f.pcap([])[:20], CaptureTruncatedError, "file header"),
        (f.pcap(FRAMES, link=127), LinkTypeError, "link type 127 is not supported"),
        (f.pcap(FRAMES) + struct.pack("<IIII", 0, 0, 2**31, 0), CaptureFormatError, "claims"),
        (
            f.section() + f.interface(127) + f.enhanced(b"x", 0),
            LinkTypeError,
            "link type 127 is not supported",
        ),
        (pcapng()[:-4] + b"\1\1\1\1", CaptureFormatError, "another length"),
        (pcapng() + struct.pack("<II", 6, 7) + bytes(8), CaptureFormatError, "impossible"),
        (pcapng() + f.block(0x0BAD, bytes(3_000_000))[:-1], CaptureTruncatedError, "within"),
        (f.section()[:8] + bytes(20), CaptureFormatError, "byte order"),
        (f.section() + f.interface(1, f.option(9, b"\x7f")), CaptureFormatError, "clock"),
    ],
)
def test_damage_is_named(data: bytes, error: type[CaptureError], match: str) -> None:
    with pytest.raises(error, match=match):
        read(data)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="is a directory"):
        list(CaptureReader(tmp_path).chunks())
    with pytest.raises(CaptureError, match="no such file"):
        list(CaptureReader(tmp_path / "absent.pcap").chunks())


def test_time_stamps_out_of_range_are_malformed_frames() -> None:
    packets, _, reader = read(f.section() + f.interface() + f.enhanced(FRAMES[0], 2**63))
    assert len(packets) == 0
    assert reader.malformed == 1
    assert reader.skipped == {"bad_time": 1}
