"""Blocks of a kernel's ring, made by hand."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collectors.ring_kernels import OWN_DTYPE, drop_own, give_back, scan_block
from collectors.ring_settings import RingSettings
from collectors.ring_socket import card_drops
from flows.decode import FRAME_DTYPE, Decoded, Skip, decode_frames
from flows.errors import SettingsError
from frames import IPV4_A, ethernet, ipv4, tcp, udp

SIZE = 1 << 16
MAC = 84  # where the kernel puts frames of Ethernet, with room for a tag before them


def entry(
    frame: bytes, *, following: int | None = None, status: int = 1, tci: int = 0, tpid: int = 0,
    mac: int = MAC, captured: int | None = None, kind: int = 0, time_ns: int = 5_000_000_007,
) -> bytes:  # fmt: skip
    """One packet as TPACKET_V3 has it."""
    held = len(frame) if captured is None else captured
    begin = max(mac, 68)  # where it really stands
    length = -(-(begin + len(frame)) // 8) * 8
    head = struct.pack(
        "=6I2H3I", length if following is None else following, time_ns // 10**9, time_ns % 10**9,
        held, len(frame), status, mac, mac + 14, 0, tci, tpid,
    )  # fmt: skip
    link = struct.pack("=HHiHBB8x", 17, 0, 1, 1, kind, 6)
    return (head.ljust(48, b"\0") + link).ljust(begin, b"\0") + frame.ljust(length - begin, b"\0")


def ring_of(*entries: bytes, count: int | None = None, first: int = 48, at: int = 0) -> Any:
    ring = np.zeros(at + SIZE, np.uint8)
    n = len(entries) if count is None else count
    data = struct.pack("=6IQ4I", 1, 0, 1, n, first, 0, 1, 0, 0, 0, 0) + b"".join(entries)
    ring[at : at + len(data)] = np.frombuffer(data, np.uint8)
    return ring


def scan(ring: Any, *, at: int = 0, link: int = 1, loopback: bool = False, room: int = 99) -> Any:
    frames = np.zeros(room, FRAME_DTYPE)
    n, broken = scan_block(
        ring, ring.view(np.uint32), ring.view(np.uint16), at, SIZE, link, loopback, frames, 0
    )
    return frames[:n], broken


def decoded(ring: Any, frames: Any) -> Decoded:
    return decode_frames(ring, frames, np.zeros(len(Skip), np.int64))


def test_frames_are_found_with_their_times_and_lengths() -> None:
    frames = [ethernet(ipv4(tcp())), ethernet(ipv4(udp(payload=b"x" * 77), 17))]
    ring = ring_of(*(entry(f, time_ns=10**18 + i) for i, f in enumerate(frames)), at=SIZE)
    found, broken = scan(ring, at=SIZE)
    assert broken == 0
    assert found["time_ns"].tolist() == [10**18, 10**18 + 1]
    assert found["wire_bytes"].tolist() == [len(f) for f in frames]
    for one, frame in zip(found, frames, strict=True):
        assert ring[one["at"] : one["at"] + one["captured_bytes"]].tobytes() == frame


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8])
def test_a_tag_that_the_kernel_took_out_is_put_back(tpid: int) -> None:
    tagged = ethernet(ipv4(tcp()), tags=[tpid])
    bare = tagged[:12] + tagged[16:]
    found, broken = scan(ring := ring_of(entry(bare, status=0x51, tci=42, tpid=tpid)))
    assert broken == 0
    assert found["wire_bytes"].tolist() == [len(tagged)]
    at = int(found["at"][0])
    assert ring[at : at + len(tagged)].tobytes() == tagged


def test_a_tag_of_an_old_kernel_has_the_usual_type() -> None:
    tagged = ethernet(ipv4(tcp()), tags=[0x8100])
    found, _ = scan(ring := ring_of(entry(tagged[:12] + tagged[16:], status=0x11, tci=42)))
    at = int(found["at"][0])
    assert ring[at : at + len(tagged)].tobytes() == tagged


def test_what_is_sent_on_loopback_is_left_out() -> None:
    frame = ethernet(ipv4(tcp()))
    ring = ring_of(entry(frame, kind=4), entry(frame, kind=0))
    assert len(scan(ring)[0]) == 2
    assert len(scan(ring, loopback=True)[0]) == 1


FRAME = ethernet(ipv4(tcp()))


@pytest.mark.parametrize(
    ("ring", "good", "broken"),
    [
        (ring_of(entry(FRAME), count=0), 0, 0),
        (ring_of(entry(FRAME), first=SIZE), 0, 1),
        (ring_of(entry(FRAME), first=0), 0, 1),
        (ring_of(entry(FRAME), first=52), 0, 1),
        (ring_of(entry(FRAME), first=0xFFFFFFF8), 0, 1),
        (ring_of(entry(FRAME, captured=SIZE)), 0, 1),
        (ring_of(entry(FRAME, captured=0xFFFFFFFF)), 0, 1),
        (ring_of(entry(FRAME, captured=0xFFFFFFFF), entry(FRAME)), 1, 1),
        (ring_of(entry(FRAME, mac=40), entry(FRAME)), 1, 1),
        (ring_of(entry(FRAME, following=0), entry(FRAME)), 1, 1),
        (ring_of(entry(FRAME, following=8), entry(FRAME)), 1, 1),
        (ring_of(entry(FRAME, following=SIZE), entry(FRAME)), 1, 1),
        (ring_of(entry(FRAME, following=0xFFFFFFFF), entry(FRAME)), 1, 1),
        (ring_of(entry(FRAME, following=76), entry(FRAME)), 1, 1),
        (ring_of(entry(FRAME, status=0x51, mac=68)), 0, 1),  # no room for its tag
        (ring_of(entry(FRAME), count=3), 1, 2),  # zeros lie behind
        (ring_of(entry(FRAME), count=0xFFFFFFFF), 1, 0xFFFFFFFE),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_counted_and_not_followed(ring: Any, good: int, broken: int) -> None:
    found, counted = scan(ring)
    assert (len(found), counted) == (good, broken)
    assert len(decoded(ring, found).packets) == good


def test_there_are_never_more_frames_than_room() -> None:
    found, broken = scan(ring_of(*[entry(FRAME)] * 5), room=3)
    assert (len(found), broken) == (3, 2)


def test_a_block_given_back_is_the_kernels_and_empty() -> None:
    ring = ring_of(entry(FRAME))
    give_back(ring.view(np.uint32), 0)
    assert ring.view(np.uint32)[2:4].tolist() == [0, 0]


def test_a_collectors_own_packets_are_dropped_and_no_others() -> None:
    frames = [
        ethernet(ipv4(tcp(40_000, 80))),
        ethernet(ipv4(tcp(40_000, 8_000))),  # to the service
        ethernet(ipv4(tcp(8_000, 41_000), src="198.51.100.7", dst=IPV4_A)),  # and from it
        ethernet(ipv4(tcp(8_000, 443))),  # another host's port of that number
        ethernet(ipv4(udp(40_000, 8_000), 17)),
    ]
    ring = ring_of(*map(entry, frames))
    packets, ends = (one := decoded(ring, scan(ring)[0])).packets, one.endpoints
    own = np.zeros(1, OWN_DTYPE)
    own[0] = (0, 0xFFFF << 32 | 0xC6336407, 8_000)
    left = drop_own(packets, ends, own)
    told = [(int(e["src_port"]), int(e["dst_port"])) for e in ends[:left]]
    assert told == [(40_000, 80), (8_000, 443), (40_000, 8_000)]
    assert packets["protocol"][:left].tolist() == [6, 6, 17]


@pytest.mark.parametrize(
    "wrong", [{"ring_bytes": 1}, {"ring_bytes": 1 << 32}, {"snaplen": 20}, {"fanout": 65_536}]
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        RingSettings("lo", **wrong)  # type: ignore[arg-type]


def test_what_the_card_lost_is_what_its_driver_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counters = tmp_path / "eth7" / "statistics"
    counters.mkdir(parents=True)
    (counters / "rx_missed_errors").write_text("40\n")
    (counters / "rx_dropped").write_text("7\n")  # frames of no known protocol are among these
    monkeypatch.setattr("collectors.ring_socket._SYSTEM", tmp_path)
    assert card_drops("eth7") == 40
    assert card_drops("eth8") == 0
