"""The lab's wire: when a frame comes out, whether it does, and what happens to its header."""

from __future__ import annotations

import itertools
import random
import struct

import pytest

from lab.relay import Wire, WireParams, decrement_ttl

FRAME = 1500
MBIT = 1e6


def wire(seed: int = 1, **changed: float) -> Wire:
    plain = {"delay": 0.01, "jitter": 0.0, "loss": 0.0, "rate": 12 * MBIT, "queue": 0.05}
    return Wire(WireParams(**{**plain, **changed}), random.Random(seed))


def test_a_single_frame_takes_the_delay() -> None:
    # The unused link has credit for it, so its bits take no time.
    assert wire().admit(100.0, FRAME) == pytest.approx(100.01)


def test_frames_behind_the_burst_leave_at_the_rate() -> None:
    line = wire(burst_bytes=0)
    out = [line.admit(100.0, FRAME) for _ in range(4)]
    # 1500 bytes at 12 Mbit/s are one millisecond.
    assert out == pytest.approx([100.011, 100.012, 100.013, 100.014])


def test_unused_time_is_credit_for_one_burst_only() -> None:
    line = wire(burst_bytes=2 * FRAME)
    out = [line.admit(100.0, FRAME) for _ in range(4)]
    assert out == pytest.approx([100.01, 100.01, 100.011, 100.012])


def test_a_full_queue_drops_and_counts() -> None:
    line = wire(queue=0.0035, burst_bytes=0)
    out = [line.admit(100.0, FRAME) for _ in range(5)]
    assert [moment is None for moment in out] == [False, False, False, True, True]
    assert line.overflowed == 2
    assert line.admit(100.002, FRAME) is not None


def test_loss_has_its_rate_and_comes_in_runs() -> None:
    line = wire(loss=0.02)
    gone = [line.admit(n * 0.01, 100) is None for n in range(40_000)]
    # A lost frame is followed by another with probability 0.3: p / (p + 0.7) in the long run.
    assert sum(gone) / len(gone) == pytest.approx(0.02 / 0.72, rel=0.15)
    after = [second for first, second in itertools.pairwise(gone) if first]
    assert sum(after) / len(after) == pytest.approx(0.3, abs=0.05)
    assert line.lost == sum(gone)


def test_jitter_delays_but_keeps_the_order() -> None:
    line = wire(jitter=0.005)
    out = [line.admit(n * 0.0015, FRAME) or 0.0 for n in range(500)]
    assert out == sorted(out)
    waits = [moment - n * 0.0015 for n, moment in enumerate(out)]
    assert min(waits) >= 0.01
    assert max(waits) > 0.015


def test_a_reordered_frame_overtakes() -> None:
    line = wire(reorder=1.0)
    assert line.admit(100.0, FRAME) == pytest.approx(100.005)


def test_the_same_seed_gives_the_same_wire() -> None:
    def run(seed: int) -> list[float | None]:
        line = wire(seed, jitter=0.002, loss=0.05, reorder=0.01)
        return [line.admit(n * 0.002, FRAME) for n in range(300)]

    assert run(5) == run(5)
    assert run(5) != run(6)


def ipv4_frame(ttl: int) -> bytearray:
    header = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 7, 0x4000, ttl, 6, 0,
                                   bytes([10, 1, 2, 3]), bytes([10, 1, 2, 4])))  # fmt: skip
    header[10:12] = struct.pack("!H", ~folded(header) & 0xFFFF)
    return bytearray(b"\x02" * 12 + b"\x08\x00") + header + bytes(20)


def folded(header: bytes) -> int:
    total = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("ttl", [64, 128, 255])
@pytest.mark.parametrize("hops", [1, 5, 11])
def test_an_ipv4_header_checksum_follows_the_time_to_live(ttl: int, hops: int) -> None:
    frame = ipv4_frame(ttl)
    decrement_ttl(frame, hops)
    assert frame[22] == ttl - hops
    assert folded(bytes(frame[14:34])) == 0xFFFF


@pytest.mark.parametrize(("ttl", "left"), [(3, 1), (1, 1)])
def test_the_time_to_live_never_reaches_zero(ttl: int, left: int) -> None:
    frame = ipv4_frame(ttl)
    decrement_ttl(frame, 5)
    assert frame[22] == left
    assert folded(bytes(frame[14:34])) == 0xFFFF


def ipv6_frame(next_header: int, first: int = 0) -> bytearray:
    header = struct.pack("!IHBB", 6 << 28, 8, next_header, 255) + bytes(32)
    return bytearray(b"\x02" * 12 + b"\x86\xdd" + header + bytes([first]) + bytes(19))


def test_the_hop_limit_falls_but_not_that_of_neighbour_discovery() -> None:
    datagram, solicitation, echo = ipv6_frame(17), ipv6_frame(58, 135), ipv6_frame(58, 128)
    for frame in (datagram, solicitation, echo):
        decrement_ttl(frame, 4)
    assert [datagram[21], solicitation[21], echo[21]] == [251, 255, 251]


@pytest.mark.parametrize("frame", [b"", b"\x02" * 12 + b"\x08\x06" + bytes(28), b"\x02" * 20])
def test_other_frames_are_left_alone(frame: bytes) -> None:
    changed = bytearray(frame)
    decrement_ttl(changed, 3)
    assert changed == frame
