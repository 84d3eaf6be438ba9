"""What the join hands out and counts is what a scan of all its flows would, call by call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.join import MARK_DTYPE, Due, Join, JoinCounters
from flows.packet import PACKET_DTYPE, FlowEndReason
from flows.verdict import Reason

NO_TIER = 255
GONE_AFTER_S = 60.0
DEPTHS = ((1, 1, 3), (1, 2, 4), (1, 3, 3))
# A bucket of the wheel stands for 1 ns, 5 ns, 2.4 ms; a lap of it is far more than any jump of the
# watermark, or about four waits.
WAITS_NS = (8, 20_480, 10_000_000_000)


class Packet(NamedTuple):
    """A packet, or where ``end`` is not 0 an end mark."""

    flow: int
    index: int
    time_ns: int
    end: int
    ip_bytes: int


class Call(NamedTuple):
    """One call of ``Join.absorb``, and the wall clock when it is made."""

    now_s: float
    collector: str
    watermark_ns: int
    packets: list[Packet]
    marks: list[tuple[int, int]]
    settled: list[int]


class DueFlow(NamedTuple):
    """A due flow with its packets that count."""

    flow: int
    next_tier: int
    over: bool
    over_ns: int
    reason: int
    packets: tuple[Packet, ...]


@dataclass
class Flow:
    """What the reference keeps of a flow."""

    packets: dict[int, Packet] = field(default_factory=dict)
    end: Packet | None = None
    touched_ns: float = float("inf")
    next_tier: int = NO_TIER
    admitted: bool = False


class FullScan:
    """The join in plain words: it looks at every flow of the collector at every call."""

    def __init__(self, depths: tuple[int, ...], max_wait_ns: int) -> None:
        self.depths, self.max_wait_ns = depths, max_wait_ns
        self.flows: dict[str, dict[int, Flow]] = {}
        self.heard_s: dict[str, float] = {}
        self.counters = JoinCounters()

    @property
    def open_flows(self) -> int:
        return sum(flow.admitted for own in self.flows.values() for flow in own.values())

    def absorb(self, call: Call) -> list[DueFlow]:
        self.heard_s[call.collector] = call.now_s
        own = self.flows.setdefault(call.collector, {})
        self.take_in(own, call)
        due = [d for i, flow in own.items() if (d := self.judge(i, flow, call.watermark_ns))]
        for one in due:
            if one.over or len(one.packets) >= self.depths[-1]:
                self.counters.flows_final += 1
                del own[one.flow]
            else:
                own[one.flow].next_tier = NO_TIER
        self.drop(own, call.watermark_ns - 3 * self.max_wait_ns)
        for name in [n for n, s in self.heard_s.items() if call.now_s - s > GONE_AFTER_S]:
            self.drop(self.flows.pop(name), None)
            del self.heard_s[name]
        return sorted(due)

    def take_in(self, own: dict[int, Flow], call: Call) -> None:
        for i in call.settled:
            flow = own.pop(i, None)
            self.counters.flows_final += flow is not None and flow.admitted
        for packet in call.packets:
            flow = own.setdefault(packet.flow, Flow())
            flow.touched_ns = min(flow.touched_ns, packet.time_ns)
            if packet.end:
                flow.end = packet
                continue
            self.counters.packets_in += 1
            if packet.index in flow.packets:
                self.counters.packets_duplicate += 1
                continue
            self.counters.packets_applied += 1
            if packet.index < self.depths[-1]:
                flow.packets[packet.index] = packet
        for i, next_tier in call.marks:
            flow = own.setdefault(i, Flow())
            flow.next_tier = next_tier
            self.counters.flows_admitted += not flow.admitted
            flow.admitted = True

    def judge(self, i: int, flow: Flow, watermark_ns: int) -> DueFlow | None:
        if flow.next_tier == NO_TIER or 0 not in flow.packets:
            return None
        depth = self.depths[-1]
        deadline_ns = flow.packets[0].time_ns + self.max_wait_ns
        here = next(k for k in range(depth + 1) if k not in flow.packets)
        counting = 0
        while counting < here and flow.packets[counting].time_ns <= deadline_ns:
            counting += 1
        over, over_ns, reason = False, deadline_ns, Reason.TIMEOUT
        if counting == depth:
            pass
        elif flow.end is not None and here >= min(flow.end.index, depth):
            over = True
            if counting == here and flow.end.time_ns <= deadline_ns:
                over_ns = flow.end.time_ns
                if flow.end.end not in (FlowEndReason.IDLE_TIMEOUT, FlowEndReason.ACTIVE_TIMEOUT):
                    reason = Reason.ENDED
        elif counting < here or watermark_ns > deadline_ns:
            over = True
        if not over and counting < self.depths[flow.next_tier]:
            return None
        packets = tuple(flow.packets[k] for k in range(counting))
        return DueFlow(i, flow.next_tier, over, over_ns, int(reason), packets)

    def drop(self, own: dict[int, Flow], before_ns: int | None) -> None:
        for i, flow in list(own.items()):
            if before_ns is None or flow.touched_ns < before_ns:
                self.counters.flows_lost += flow.admitted
                self.counters.orphans += not flow.admitted
                del own[i]


def said(due: Due) -> list[DueFlow]:
    found = []
    for k, flow in enumerate(due.flows):
        packets = []
        for p in due.packets[due.offsets[k] : due.offsets[k + 1]]:
            names = ("flow_id", "packet_index", "time_ns", "flow_end_reason", "ip_bytes")
            packets.append(Packet(*(p[name].item() for name in names)))
        names = ("flow_id", "next_tier", "over", "over_ns", "reason")
        found.append(DueFlow(*(flow[name].item() for name in names), tuple(packets)))
    return sorted(found)


@st.composite
def calls(draw: st.DrawFn, max_wait_ns: int) -> list[Call]:
    """Draw calls of a few collectors, around a time that goes on, stays, jumps and goes back."""
    quarter_ns = max_wait_ns // 4
    flows = st.integers(1, 4)
    jitter = st.integers(-2, 2)
    now_s, now_ns = 0.0, 100 * max_wait_ns
    made = []
    for _ in range(draw(st.integers(1, 25))):
        now_s += draw(st.sampled_from((0.0, 0.0, 0.0, 0.0, 30.0, 61.0)))
        step = draw(st.sampled_from((0, 0, 0, 1, 1, 2, 4, 5, 13, 40, -1, -6)))
        now_ns += step * quarter_ns + draw(jitter)
        packets = []
        for _ in range(draw(st.integers(0, 5))):
            ago = draw(st.sampled_from((0, 0, 0, 1, 2, 4, 5, 11, 13, -1, -3, -20)))
            packets.append(
                Packet(
                    draw(flows),
                    draw(st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4, 60))),
                    now_ns - ago * quarter_ns + draw(jitter),
                    draw(st.sampled_from((0, 0, 0, 0, 0, 1, 3, 4))),
                    draw(st.integers(0, 1)),
                )
            )
        made.append(
            Call(
                now_s,
                draw(st.sampled_from(("a", "a", "a", "b", "c"))),
                # Answers to flows that were handed out come with no news of the time.
                0 if draw(st.integers(0, 9)) == 0 else now_ns,
                packets,
                draw(st.lists(st.tuples(flows, st.integers(0, 2)), max_size=3)),
                draw(st.lists(flows, max_size=1)),
            )
        )
    return made


@settings(deadline=None, max_examples=400)
@given(st.data(), st.sampled_from(DEPTHS), st.sampled_from(WAITS_NS))
def test_the_join_does_what_a_scan_of_all_flows_would(
    data: st.DataObject, depths: tuple[int, ...], max_wait_ns: int
) -> None:
    clock = [0.0]
    join = Join(depths, max_wait_ns / 1e9, capacity=1, wall_clock=lambda: clock[0])
    plain = FullScan(depths, max_wait_ns)
    for call in data.draw(calls(max_wait_ns)):
        clock[0] = call.now_s
        packets = np.zeros(len(call.packets), PACKET_DTYPE)
        for row, packet in zip(packets, call.packets, strict=True):
            row["flow_id"], row["packet_index"], row["time_ns"] = packet[:3]
            row["flow_end_reason"], row["ip_bytes"] = packet[3:]
        due = join.absorb(
            call.collector,
            call.watermark_ns,
            packets,
            np.array(call.marks, MARK_DTYPE),
            np.array(call.settled, np.uint64),
        )
        assert said(due) == plain.absorb(call)
        counters = join.counters
        assert counters == plain.counters
        assert join.open_flows == plain.open_flows
        assert counters.flows_admitted == (
            counters.flows_final + join.open_flows + counters.flows_lost
        )
        assert counters.packets_in == counters.packets_applied + counters.packets_duplicate
