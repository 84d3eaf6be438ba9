"""The collector gets one final verdict per flow, the right one, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import io
import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import frames as f
from collectors.collector import Collector, CollectorSettings, Outgoing, Settled
from deployments.dispatch import Dispatcher
from deployments.fakes import FAKE_SPEC, FakeFastTiers, FakeSlowTiers
from deployments.local import LocalTracker
from deployments.protocols import Absorb, Absorbed, TrackersAwayError
from deployments.settling import Pace
from flows.capture import CaptureReader
from flows.join import Due
from flows.packet import packet_dtype
from flows.service_schema import ServiceSchema
from flows.table import FlowTimeouts
from flows.verdict import VERDICT_DTYPE
from flows.wire import decode_batch, encode_batch

S = 10**9
TIMEOUTS = FlowTimeouts(tcp_idle_s=30, udp_idle_s=20, icmp_idle_s=5, active_s=90)


def capture(seed: int, packets: int) -> bytes:
    """Return packets of a few TCP and UDP flows that interleave, end, pause and come again."""
    rng = random.Random(seed)
    frames, times, now = [], [], 1_700_000_000 * S
    for _ in range(packets):
        now += int(rng.choice([0.001, 0.01, 0.3, 2, 7]) * S)
        port, back = rng.randrange(1000, 1012), rng.random() < 0.5
        ports = (80, port) if back else (port, 80)
        ends = {"src": f.IPV4_B, "dst": f.IPV4_A} if back else {"src": f.IPV4_A, "dst": f.IPV4_B}
        payload = bytes(rng.randrange(900))
        if port % 3:
            flags = rng.choice([f.SYN, f.ACK, f.ACK, f.ACK, f.FIN | f.ACK, f.RST])
            frame = f.ipv4(f.tcp(*ports, flags, seq=rng.randrange(3), payload=payload), 6, **ends)
        else:
            frame = f.ipv4(f.udp(*ports, payload=payload), 17, **ends)
        frames.append(f.ethernet(frame))
        times.append(now)
    return f.pcap(frames, times_ns=times, nanos=True)


def check_headers(packets: np.ndarray, with_header: bool) -> None:
    """See that each packet has come with its own header: both tell its length and its TTL."""
    assert packets.dtype == packet_dtype(with_header)
    if with_header:
        header = packets["header"]
        assert (header[:, 2:4].copy().view(">u2")[:, 0] == packets["ip_bytes"]).all()
        assert (header[:, 8] == packets["ttl"]).all()


@dataclass
class FastTiers(FakeFastTiers):
    with_header: bool

    async def answer(self, packets: np.ndarray) -> np.ndarray:
        check_headers(packets, self.with_header)
        return await super().answer(packets)


@dataclass
class SlowTiers(FakeSlowTiers):
    with_header: bool

    async def answer(self, due: Due) -> np.ndarray:
        check_headers(due.packets, self.with_header)
        return await super().answer(due)


class Tracker(LocalTracker):
    """A tracker that can fail to answer, having taken the rows in or not."""

    failing: str = "no"

    async def absorb(self, requests: list[Absorb]) -> list[Absorbed]:
        how, self.failing = self.failing, "no"
        if how == "before":
            raise OSError("away")
        replies = await super().absorb(requests)
        if how == "after":
            raise OSError("away")
        return replies


class Service:
    """A dispatcher with trackers that can be killed, or fail."""

    def __init__(self, trackers: int, with_header: bool) -> None:
        self.spec = replace(FAKE_SPEC, needs_header=with_header)
        self.trackers = [Tracker(self.spec) for _ in range(trackers)]
        self.dispatcher = self._make()

    def _make(self) -> Dispatcher:
        header = self.spec.needs_header
        pace = Pace(retry_after_s=0.0)
        return Dispatcher(self.spec, FastTiers(header), self.trackers, SlowTiers(header), pace)

    def kill(self, tracker: int) -> None:
        self.trackers[tracker] = Tracker(self.spec)
        self.dispatcher = self._make()

    @property
    def schema(self) -> ServiceSchema:
        spec = self.spec
        return ServiceSchema(
            spec.depths[-1], spec.max_wait_s, spec.classes, spec.tiers, spec.depths,
            spec.model_version, len(self.trackers), 65_536, 1 << 24, spec.needs_header,
        )  # fmt: skip

    def answer(self, out: Outgoing) -> list[tuple[np.ndarray, dict[str, Any]]]:
        found: list[tuple[np.ndarray, dict[str, Any]]] = []

        def notes() -> dict[str, Any]:
            return {"trackers": {str(t): i for t, i in self.dispatcher.incarnations.items()}}

        async def parts() -> None:
            batch = decode_batch(encode_batch(out.batch), with_header=self.spec.needs_header)
            try:
                async for part in self.dispatcher.handle(batch):
                    found.append((part, notes()))  # noqa: PERF401 (what came before an error counts)
            except TrackersAwayError as error:
                none = np.empty(0, VERDICT_DTYPE)
                found.append((none, {**notes(), "away": sorted(error.trackers)}))
            await self.dispatcher.drain()

        asyncio.run(parts())
        return found


@dataclass
class Run:
    """Takes a capture through a service, in random order and with random faults."""

    seed: int
    faults: bool
    trackers: int
    with_header: bool = False
    final: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def __call__(self, data: bytes) -> dict[int, tuple[Any, ...]]:
        rng = random.Random(self.seed)
        service = Service(self.trackers, self.with_header)
        collector = Collector(
            service.schema, CollectorSettings(rng.choice([1, 3, 50]), 2.0, TIMEOUTS), seed=5
        )
        now = 0
        pending: list[Outgoing] = []
        reader = CaptureReader(io.BytesIO(data), with_header=self.with_header)
        (chunk,) = [c for c in reader.chunks() if len(c.packets)]
        at = 0
        finished = False
        for _ in range(20_000):
            now += S // 10
            if at < len(chunk.packets):
                to = min(at + rng.randrange(1, 12), len(chunk.packets))
                seen = np.full(to - at, now, np.int64)
                collector.observe(chunk.packets[at:to], chunk.endpoints[at:to], seen)
                at = to
            elif not finished:
                collector.finish(now)
                finished = True
            if len(pending) < 3:
                pending.append(collector.next_batch(now))
            while pending and (rng.random() < 0.5 or len(pending) == 3):
                out = pending.pop(rng.randrange(len(pending)) if self.faults else 0)
                self.deliver(rng, service, collector, out, now)
            collector.resend_overdue(now)
            if finished and not collector.open_flows and not pending:
                assert collector.ledger.admitted == len(self.final)
                return self.final
        raise AssertionError(f"{collector.open_flows} flows without a verdict")

    def deliver(
        self, rng: random.Random, service: Service, collector: Collector, out: Outgoing, now: int
    ) -> None:
        fault = rng.choice(["none", "none", "request", "answer", "half", "kill", "away"])
        if not self.faults:
            fault = "none"
        if fault == "kill":
            service.kill(rng.randrange(self.trackers))
        if fault == "away":
            rng.choice(service.trackers).failing = rng.choice(["before", "after"])
        if fault == "request":
            collector.fail(out)
            return
        parts = service.answer(out)
        if fault == "answer":
            collector.fail(out)
            return
        for part, notes in parts[:1] if fault == "half" else parts:
            self.note(collector.receive(out, part, notes, now))
        if fault == "half":
            collector.fail(out)
        else:
            collector.acknowledge(out, now)

    def note(self, settled: Settled) -> None:
        for flow, verdict in zip(settled.flows, settled.verdicts, strict=True):
            number = int(flow["flow_number"])
            assert number not in self.final, "a second final verdict"
            assert verdict["final"] == 1
            fields = ["label", "confidence", "tier", "packets_used", "reason", "wait_ns"]
            self.final[number] = verdict[fields].item()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 120),
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.booleans(),
)
def test_neither_faults_nor_order_nor_headers_change_a_verdict(
    capture_seed: int, packets: int, seed: int, trackers: int, with_header: bool
) -> None:
    data = capture(capture_seed, packets)
    calm = Run(0, faults=False, trackers=1)(data)
    assert Run(seed, True, trackers, with_header)(data) == calm
