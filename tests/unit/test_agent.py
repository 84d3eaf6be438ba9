"""An agent gives each flow one final verdict, within its memory, whatever the service does."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import frames as f
from collectors.agent import Agent, AgentOptions, Spool
from collectors.collector import Collector, CollectorSettings, Settled
from collectors.delivery import DeliverySettings
from collectors.fakes import FAKE_SCHEMA, FakeService, FakeSource
from collectors.ledger import LedgerLimits
from collectors.memory import EdgeLimits
from flows.capture import CaptureReader
from flows.decode import Decoded
from flows.verdict import Reason

S = 10**9
BEGIN_NS = 1_700_000_000 * S


def chunk(frames: list[bytes], begin_ns: int = BEGIN_NS, step_ns: int = 1_000_000) -> Decoded:
    """Decode frames, a step apart."""
    times = [begin_ns + i * step_ns for i in range(len(frames))]
    data = f.pcap(frames, times_ns=times, nanos=True)
    (decoded,) = [c for c in CaptureReader(io.BytesIO(data)).chunks() if len(c.packets)]
    return Decoded(decoded.packets.copy(), decoded.endpoints.copy())


def packet(port: int, size: int) -> bytes:
    """Return a UDP packet of one flow per port."""
    return f.ethernet(f.ipv4(f.udp(port, 53, payload=bytes(size)), 17))


class Watched:
    """An agent with fakes around it, and what it said."""

    def __init__(
        self,
        chunks: list[Decoded | None],
        *,
        live: bool = False,
        service: FakeService | None = None,
        limits: EdgeLimits | None = None,
        drain_s: float = 5.0,
        clock_ns: int = 0,
        spool: Spool | None = None,
    ) -> None:
        self.final: dict[int, dict[str, Any]] = {}
        self.source = FakeSource(chunks, live=live, clock_ns=clock_ns)
        self.service = service or FakeService()
        options = AgentOptions(
            "edge", "fake", "fake:",
            collector=CollectorSettings(max_batch_packets=40, resend_after_s=0.2),
            delivery=DeliverySettings(batch_delay_s=0.0, give_up_after_s=None),
            limits=limits or EdgeLimits(),
            drain_s=drain_s,
            full_s=1.0,
        )  # fmt: skip
        self.agent = Agent(self.source, self.service, FAKE_SCHEMA, options, self.note, spool)

    def note(self, settled: Settled, classes: tuple[str, ...], model_version: str) -> None:
        assert classes == FAKE_SCHEMA.classes
        for flow, verdict in zip(settled.flows, settled.verdicts, strict=True):
            number = int(flow["flow_number"])
            assert number not in self.final, "a second final verdict"
            self.final[number] = {name: verdict[name].item() for name in ("label", "reason")}

    def run(self) -> None:
        try:
            self.agent.run()
        finally:
            self.agent.close()
        self.check()

    def check(self) -> None:
        """See that every flow admitted is in one of the sums."""
        status = self.agent.status()
        table = status.table
        assert sum(status.verdicts.values()) == len(self.final)
        assert table.flows == len(self.final) + table.lost_flows
        assert status.seen.frames == table.packets + table.refused_packets


def some_flows(count: int) -> list[Decoded | None]:
    """Return chunks of flows of one to four packets, some of which one packet settles."""
    frames = [packet(1000 + i, i % 7) for i in range(count)]
    frames += [packet(1000 + i, 100 + i % 5) for i in range(count) for _ in range(i % 4)]
    return [
        chunk(frames[at : at + 50], BEGIN_NS + at * 1_000_000) for at in range(0, len(frames), 50)
    ]


def test_each_flow_gets_one_final_verdict() -> None:
    watched = Watched(some_flows(200))
    watched.run()
    assert len(watched.final) == 200
    status = watched.agent.status()
    assert set(status.verdicts) == {"confident", "exhausted", "ended"}
    assert status.latency_counts["total"][float("inf")] == 200
    assert status.delivery.away_s == 0.0


def after(seconds: float, do: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.start()
    return timer


@pytest.mark.parametrize("trouble", ["away", "overloaded", "refusing", "half"])
def test_trouble_with_the_service_changes_no_verdict(trouble: str) -> None:
    calm = Watched(some_flows(200))
    calm.run()
    service = FakeService()
    service.trouble = trouble
    timer = after(0.5, lambda: setattr(service, "trouble", ""))
    stormy = Watched(some_flows(200), service=service)
    stormy.run()
    timer.join()
    assert stormy.final == calm.final
    counters = stormy.agent.status().delivery
    assert counters.failures + counters.overloaded > 0
    assert counters.last_error == ""


def test_a_service_that_goes_and_comes_back_is_said_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    service = FakeService()
    service.trouble = "away"
    timer = after(1.0, lambda: setattr(service, "trouble", ""))
    watched = Watched(some_flows(50), service=service)
    watched.run()
    timer.join()
    assert watched.agent.status().delivery.failures > 1
    told = [(record.levelname, record.message) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert "nobody answers" in told[0][1]
    assert "answers again" in told[1][1]


def test_trackers_that_die_are_given_their_flows_again() -> None:
    calm = Watched(some_flows(300))
    calm.run()
    service = FakeService()
    dying = Watched(some_flows(300), service=service)
    submit = service.submit

    def mortal(batch: Any) -> Any:
        if service.batches in (3, 7):
            service.die()
        return submit(batch)

    service.submit = mortal  # type: ignore[method-assign]
    dying.run()
    assert dying.final == calm.final
    assert dying.agent.status().delivery.tracker_changes > 0
    assert dying.agent.status().delivery.replayed_flows > 0


def test_a_deadline_passes_on_a_quiet_wire() -> None:
    """A flow that nothing more is heard of is final soon after its wait is over."""
    quiet: list[Decoded | None] = [None] * 2_000
    watched = Watched([chunk([packet(1, 1)]), *quiet], live=True)
    watched.source.clock_ns = BEGIN_NS + 11 * S
    read = watched.source.read

    def paced(wait_s: float) -> Decoded | None:
        time.sleep(0.002)
        if watched.final:
            watched.agent.stop()
        return read(wait_s)

    watched.source.read = paced  # type: ignore[method-assign]
    watched.run()
    assert [one["reason"] for one in watched.final.values()] == [Reason.TIMEOUT]


def test_a_deadline_is_told_when_it_passes_and_not_at_the_next_tick() -> None:
    collector = Collector(FAKE_SCHEMA)
    one = chunk([packet(1, 1)])
    collector.observe(one.packets, one.endpoints, np.zeros(1, np.int64))
    deadline_ns = BEGIN_NS + 10 * S
    assert collector.untold_deadline_ns == deadline_ns
    assert not collector.deadline_has_passed
    first = collector.next_batch(0)
    collector.advance(deadline_ns + 1, 0)
    assert not collector.deadline_has_passed, "its packet may not have arrived"
    collector.acknowledge(first, 0)
    assert collector.deadline_has_passed
    told = collector.next_batch(0)
    assert told.batch.watermark_ns == deadline_ns + 1
    assert not collector.deadline_has_passed, "it has been told"
    assert collector.untold_deadline_ns is None
    assert Collector(FAKE_SCHEMA).untold_deadline_ns is None


def flood(flows: int, size: int) -> list[Decoded | None]:
    """Return flows of one packet each."""
    frames = [packet(1 + i % 65_000, size) for i in range(flows)]
    return [chunk(frames[at : at + 500], BEGIN_NS + at * 1_000) for at in range(0, flows, 500)]


def test_a_live_wire_is_refused_new_flows_when_memory_is_full_and_old_ones_keep_theirs() -> None:
    limits = EdgeLimits(1, 1 << 20, LedgerLimits(1_024, 1_024))
    service = FakeService()
    service.trouble = "away"
    watched = Watched(flood(3_000, 2), live=True, service=service, limits=limits, drain_s=10.0)
    timer = after(1.0, lambda: setattr(service, "trouble", ""))
    watched.run()
    timer.join()
    table = watched.agent.status().table
    assert table.flows == 1_024 == len(watched.final)
    assert table.refused_packets == 3_000 - 1_024
    assert table.refused_flows == 3_000 - 1_024
    assert table.lost_flows == table.evicted_flows == 0


def test_a_file_waits_for_room_and_no_flow_of_it_is_refused() -> None:
    limits = EdgeLimits(1, 1 << 20, LedgerLimits(1_024, 1_024))
    watched = Watched(flood(5_000, 2), limits=limits)
    watched.run()
    assert len(watched.final) == 5_000
    assert watched.agent.status().table.refused_flows == 0


def test_old_flows_get_their_provisional_verdict_when_waiting_frees_no_room() -> None:
    limits = EdgeLimits(1, 1 << 20, LedgerLimits(1_024, 1_024))
    # None of them is settled on its one packet, and the wire's clock stands still.
    quiet: list[Decoded | None] = [None] * 3_000
    watched = Watched([*flood(1_500, 1), *quiet, *flood(3_000, 1)[3:]], live=True, limits=limits)
    read = watched.source.read

    def paced(wait_s: float) -> Decoded | None:
        time.sleep(0.001)
        return read(wait_s)

    watched.source.read = paced  # type: ignore[method-assign]
    watched.run()
    status = watched.agent.status()
    assert status.table.evicted_flows > 0
    assert status.verdicts["evicted"] == status.table.evicted_flows
    assert status.table.refused_packets > 0


def test_without_a_service_the_end_comes_all_the_same_and_what_is_lost_is_counted() -> None:
    service = FakeService()
    service.trouble = "away"
    watched = Watched(some_flows(20), service=service, drain_s=0.3)
    watched.run()
    status = watched.agent.status()
    assert status.table.lost_flows == 20
    assert status.delivery.away_s > 0
    assert "nobody answers" in status.delivery.last_error


def test_memory_is_shared_out_and_too_little_is_refused() -> None:
    from collectors.memory import edge_limits
    from flows.errors import SettingsError

    limits = edge_limits(64 << 20, 10)
    assert limits.table_flows >= 65_536
    assert limits.ledger.unsettled >= 32_768
    with pytest.raises(SettingsError, match="at least"):
        edge_limits(1 << 19, 10)


def test_a_table_that_is_full_refuses_flows_and_forgets_those_that_ended() -> None:
    limits = EdgeLimits(1, 64, LedgerLimits(1_024, 1_024))
    opened = [packet(1 + i, 2) for i in range(100)]
    watched = Watched([chunk(opened), chunk(opened, BEGIN_NS + S)], live=True, limits=limits)
    watched.run()
    table = watched.agent.status().table
    assert table.flows == 64
    assert table.refused_packets == 2 * 36
    assert table.refused_flows == 36
    assert table.packets == 2 * 64


def test_refused_packets_belong_to_no_flow() -> None:
    from flows.table import FlowTable
    from flows.table_kernels import NO_FLOW

    table = FlowTable(first_packets=3, most_flows=4)
    decoded = chunk([packet(1 + i, 2) for i in range(6)])
    update = table.update(decoded.packets, decoded.endpoints)
    assert (update.flow_number[4:] == np.uint64(NO_FLOW)).all()
    assert update.kept.tolist() == [0, 1, 2, 3]
    assert table.update(
        decoded.packets[:1], decoded.endpoints[:1], numbers_until=0
    ).kept.tolist() == [0]
