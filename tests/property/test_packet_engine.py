"""Properties of the packet engine, checked against a model in plain Python and by mutation."""

from __future__ import annotations

import contextlib
import io
import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import frames as f
from flows.capture import CaptureReader
from flows.decode import Decoded
from flows.errors import CaptureError
from flows.packet import ENDPOINTS_DTYPE, PACKET_DTYPE, FlowEndReason, Records
from flows.table import FlowTable, FlowTimeouts

S = 10**9
TIMEOUTS = FlowTimeouts(tcp_idle_s=20, udp_idle_s=10, icmp_idle_s=5, active_s=60, linger_s=3)
# Some as short as the table's clock is coarse, others longer than it sees ahead.
UNEVEN = FlowTimeouts(tcp_idle_s=20, udp_idle_s=10, icmp_idle_s=0.001, active_s=60, linger_s=3)

steps = st.lists(
    st.tuples(
        st.floats(0, 12),  # seconds since the packet before
        st.sampled_from(["tcp", "udp", "icmp"]),
        st.integers(0, 2),  # which pair of ends
        st.booleans(),  # direction
        st.sampled_from([f.SYN, f.SYN | f.ACK, f.ACK, f.FIN | f.ACK, f.RST]),
        st.integers(1, 2),  # sequence number
    ),
    min_size=1,
    max_size=60,
)


def capture(steps: list[tuple[Any, ...]]) -> bytes:
    frames, times, now = [], [], 1_700_000_000 * S
    for gap, kind, pair, back, flags, seq in steps:
        now += int(gap * 1000) * 1_000_000
        ports = (80, 1000 + pair) if back else (1000 + pair, 80)
        ends = {"src": f.IPV4_B, "dst": f.IPV4_A} if back else {"src": f.IPV4_A, "dst": f.IPV4_B}
        body, protocol = {
            "tcp": (f.tcp(*ports, flags, seq=seq), 6),
            "udp": (f.udp(*ports), 17),
            "icmp": (f.icmp(0 if back else 8), 1),
        }[kind]
        frames.append(f.ethernet(f.ipv4(body, protocol, **ends)))
        times.append(now)
    return f.pcap(frames, times_ns=times, nanos=True)


def decode(data: bytes) -> Decoded:
    parts = list(CaptureReader(io.BytesIO(data)).chunks())
    return Decoded(
        np.concatenate([p.packets for p in parts]), np.concatenate([p.endpoints for p in parts])
    )


class PlainTable:
    """The rules of :class:`flows.table.FlowTable`, one packet at a time."""

    def __init__(self, timeouts: FlowTimeouts) -> None:
        self.timeouts = timeouts
        self.open: dict[Any, dict[str, Any]] = {}
        self.numbers: list[int] = []
        self.indices: list[int] = []
        self.ends: set[tuple[int, int, int, int]] = set()
        self.flows = 0

    def end(self, flow: dict[str, Any], time_ns: int, reason: FlowEndReason) -> None:
        if not flow["over"]:
            self.ends.add((flow["number"], time_ns, flow["packets"], reason))
        flow["over"] = True

    def expire(self, now: int) -> None:
        limits = self.timeouts
        idle = {6: limits.tcp_idle_s, 17: limits.udp_idle_s, 1: limits.icmp_idle_s}
        for key, flow in list(self.open.items()):
            idle_s = limits.linger_s if flow["over"] else idle[key[1]]
            idle_at = flow["last"] + int(idle_s * S)
            active_at = flow["start"] + int(limits.active_s * S)
            if idle_at <= now:
                self.end(flow, idle_at, FlowEndReason.IDLE_TIMEOUT)
                del self.open[key]
            elif not flow["over"] and active_at <= now:
                self.end(flow, active_at, FlowEndReason.ACTIVE_TIMEOUT)
                del self.open[key]

    def take(self, step: tuple[Any, ...], now: int) -> None:
        _, kind, pair, back, flags, seq = step
        self.expire(now)
        key = (0 if kind == "icmp" else pair, {"tcp": 6, "udp": 17, "icmp": 1}[kind])
        flow = self.open.get(key)
        opens = kind == "tcp" and flags == f.SYN
        if flow is not None and opens:
            mine = flow["syn"] is not None and back == flow["back"]
            repeated = mine and flow["syn"] == seq
            if not repeated and (flow["over"] or mine):
                self.end(flow, now, FlowEndReason.END_OF_FLOW)
                flow = None
        if flow is None:
            answers = kind == "tcp" and flags == f.SYN | f.ACK
            flow = {
                "number": self.flows, "start": now, "packets": 0, "over": False,
                "back": back != answers, "syn": None, "fins": set(),
            }  # fmt: skip
            self.open[key] = flow
            self.flows += 1
        flow["last"] = now
        self.numbers.append(flow["number"])
        self.indices.append(255 if flow["over"] else flow["packets"])
        if flow["over"]:
            return
        flow["packets"] += 1
        if kind == "tcp":
            if opens and back == flow["back"] and flow["syn"] is None:
                flow["syn"] = seq
            if flags & f.FIN:
                flow["fins"].add(back)
            if flags & f.RST or len(flow["fins"]) == 2:
                self.end(flow, now, FlowEndReason.END_OF_FLOW)


def told(ends: Records) -> set[tuple[int, ...]]:
    return set(ends[["flow_number", "time_ns", "packets", "reason"]].tolist())


@settings(max_examples=200, deadline=None)
@given(steps, st.sampled_from([TIMEOUTS, UNEVEN]))
def test_the_table_follows_its_rules(steps: list[tuple[Any, ...]], timeouts: FlowTimeouts) -> None:
    decoded = decode(capture(steps))
    table = FlowTable(first_packets=4, timeouts=timeouts, initial_capacity=2)
    update = table.update(decoded.packets, decoded.endpoints)
    plain = PlainTable(timeouts)
    for step, packet in zip(steps, decoded.packets, strict=True):
        plain.take(step, int(packet["time_ns"]))
    assert update.flow_number.tolist() == plain.numbers
    assert decoded.packets["packet_index"].tolist() == plain.indices
    assert told(update.ends) == plain.ends
    assert len(update.ends) == len(plain.ends)
    assert len(update.ends) + len(table.finish()) == table.counters.flows == plain.flows


@settings(max_examples=100, deadline=None)
@given(steps, st.lists(st.integers(0, 60)))
def test_how_packets_are_chunked_changes_nothing(
    steps: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    data = capture(steps)
    whole, pieces = decode(data), decode(data)
    at_once = FlowTable(first_packets=4, timeouts=TIMEOUTS)
    update = at_once.update(whole.packets, whole.endpoints)
    piecewise = FlowTable(first_packets=4, timeouts=TIMEOUTS, initial_capacity=2)
    ends: set[tuple[int, ...]] = set()
    bounds = sorted({0, len(steps), *(min(c, len(steps)) for c in cuts)})
    for low, high in itertools.pairwise(bounds):
        # The clock may also be told of time between packets.
        ends |= told(piecewise.advance(int(pieces.packets["time_ns"][low])))
        ends |= told(piecewise.update(pieces.packets[low:high], pieces.endpoints[low:high]).ends)
    assert np.array_equal(whole.packets, pieces.packets)
    assert ends == told(update.ends)
    assert told(at_once.finish()) == told(piecewise.finish())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), min_size=1, max_size=400),
    st.lists(st.integers(1, 5_000), max_size=20),
    st.integers(0, 3_000_000),  # a packet every so many ns
)
def test_flows_end_when_they_are_over_in_that_order(
    packets: list[tuple[int, int]], looks_ms: list[int], apart_ns: int
) -> None:
    table = FlowTable(first_packets=1, timeouts=TIMEOUTS, initial_capacity=2)
    rows, ends = np.zeros(len(packets), PACKET_DTYPE), np.zeros(len(packets), ENDPOINTS_DTYPE)
    rows["protocol"] = ends["protocol"] = 17
    rows["time_ns"] = S + np.arange(len(packets)) * apart_ns
    ends["src_port"], ends["dst_lo"] = np.transpose(packets)
    numbers = table.update(rows, ends).flow_number
    last_ns = np.zeros(table.open_flows, np.int64)
    np.maximum.at(last_ns, numbers.astype(np.int64), rows["time_ns"])
    over_ns = last_ns + 10 * S
    order = np.lexsort((np.arange(len(over_ns)), over_ns))
    clock_ns, seen = int(rows["time_ns"][-1]) + 8 * S, 0
    for look_ms in [*looks_ms, 10_000]:
        clock_ns += look_ms * 1_000_000
        told_now = table.advance(clock_ns)
        assert told_now["flow_number"].tolist() == order[seen:][: len(told_now)].tolist()
        assert told_now["time_ns"].tolist() == over_ns[order[seen:]][: len(told_now)].tolist()
        seen += len(told_now)
        assert seen == int((over_ns <= clock_ns).sum())
    assert table.open_flows == 0


SOUND = capture(
    [
        (0.1, k, p, b, f.ACK, 1)
        for k in ("tcp", "udp", "icmp")
        for p in (0, 1)
        for b in (True, False)
    ]
)
SOUND_NG = (
    f.section()
    + f.interface()
    + b"".join(
        f.enhanced(frame, i)
        for i, frame in enumerate(
            [
                f.ethernet(f.ipv6(f.tcp(options=bytes([2, 4, 1, 2])), 6), 0x86DD, tags=[0x8100]),
                f.ethernet(f.ipv4(f.udp(payload=b"x" * 30), 17, options=bytes(8))),
            ]
        )
    )
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([SOUND, SOUND_NG]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12),
    st.integers(0, 10_000),
)
def test_damage_never_crashes(sound: bytes, flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(sound)
    for at, value in flips:
        data[at % len(data)] = value
    data = data[: max(cut % (2 * len(data)), 1)]
    reader = CaptureReader(io.BytesIO(bytes(data)))
    table = FlowTable(first_packets=4)
    taken = 0
    with contextlib.suppress(CaptureError):
        for chunk in reader.chunks():
            table.update(chunk.packets, chunk.endpoints)
            taken += len(chunk.packets)
    assert reader.frames == taken + sum(reader.skipped.values())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([0, 1, 9, 12, 101, 104, 108, 113, 229, 276]))
def test_any_bytes_are_a_packet_or_a_counted_skip(frame: bytes, link: int) -> None:
    reader = CaptureReader(io.BytesIO(f.pcap([frame], link=link)))
    taken = sum(len(chunk.packets) for chunk in reader.chunks())
    assert taken + sum(reader.skipped.values()) == 1
