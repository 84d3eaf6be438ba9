"""Rows for trackers are gathered, and a tracker that is away holds up nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from deployments.dispatch import Dispatcher
from deployments.fakes import FAKE_SPEC, FakeFastTiers, FakeSlowTiers
from deployments.local import LocalTracker
from deployments.protocols import Absorb, Absorbed, TrackersAwayError
from deployments.settling import Pace
from flows.ids import SLOTS, slots_of
from flows.join import Due
from flows.packet import PACKET_DTYPE
from flows.wire import PacketBatch

S = 1_000_000_000
DEPTH = FAKE_SPEC.depths[-1]
UNSURE = 41  # bytes of a first packet that no fake fast tier is sure of


@dataclass
class Watched:
    """A tracker that notes what it is asked, and can be made to hang or to fail."""

    inner: LocalTracker = field(default_factory=lambda: LocalTracker(FAKE_SPEC))
    asked: list[list[Absorb]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    error: Exception | None = None
    open_calls: int = 0
    most_open: int = 0

    async def absorb(self, requests: list[Absorb]) -> list[Absorbed]:
        self.asked.append(requests)
        self.open_calls += 1
        self.most_open = max(self.most_open, self.open_calls)
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.error is not None:
                raise self.error
            return await self.inner.absorb(requests)
        finally:
            self.open_calls -= 1


def flow_of(tracker: int, trackers: int, nth: int = 0) -> int:
    """Return a flow id that is pinned to ``tracker``."""
    ids = np.arange(1, 50 * SLOTS, dtype=np.uint64)
    return int(ids[slots_of(ids) % trackers == tracker][nth])


def packets(flow: int, *indices: int, at_s: float = 1.0) -> np.ndarray:
    rows = np.zeros(len(indices), PACKET_DTYPE)
    rows["flow_id"] = flow
    rows["packet_index"] = indices
    rows["time_ns"] = int(at_s * S) + np.array(indices) * 1000
    rows["ip_bytes"] = UNSURE
    return rows


def batch(*rows: np.ndarray, collector: str = "edge", at_s: float = 1.0) -> PacketBatch:
    return PacketBatch(collector, int(at_s * S), np.concatenate(rows))


def dispatcher(trackers: list[Watched], slow: Any = None, **pace: Any) -> Dispatcher:
    return Dispatcher(FAKE_SPEC, FakeFastTiers(), trackers, slow or FakeSlowTiers(), Pace(**pace))


async def answered(service: Dispatcher, sent: PacketBatch) -> tuple[set[int], list[dict[int, str]]]:
    """Return the flows that got a final verdict, and the incarnations told with each part."""
    final: set[int] = set()
    told = []
    async for part in service.handle(sent):
        final |= set(part["flow_id"][part["final"] == 1].tolist())
        told.append(dict(service.incarnations))
    return final, told


def test_what_several_batches_have_for_a_tracker_goes_in_one_call() -> None:
    tracker = Watched()
    service = dispatcher([tracker], gather_s=0.02)

    async def run() -> None:
        sent = [
            batch(packets(1, *range(DEPTH)), collector="a"),
            batch(packets(2, *range(DEPTH)), collector="a"),
            batch(packets(3, *range(DEPTH)), collector="b"),
        ]
        await answered(service, batch(packets(9, 0)))  # from here on there is a pace
        found = await asyncio.gather(*(answered(service, one) for one in sent))
        # Whoever hears of a flow is of the collector that sent it.
        assert found[0][0] | found[1][0] == {1, 2}
        assert found[2][0] == {3}

    asyncio.run(run())
    assert [[request.collector for request in call] for call in tracker.asked[1:]] == [["a", "b"]]
    assert len(tracker.asked[1][0].packets) == 2 * DEPTH


def test_a_tracker_that_hangs_holds_up_only_its_own_flows() -> None:
    hanging, well = Watched(), Watched()
    service = dispatcher([hanging, well], tracker_timeout_s=0.05, retry_after_s=0.05)
    lost, kept = flow_of(0, 2), flow_of(1, 2)

    async def run() -> None:
        hanging.hold = asyncio.Event()
        both = batch(packets(lost, *range(DEPTH)), packets(kept, *range(DEPTH)))
        final: list[set[int]] = []

        async def read() -> None:
            async for part in service.handle(both):
                final.append(set(part["flow_id"][part["final"] == 1].tolist()))
                assert not service.counters.packets_shed, "verdicts do not wait for the timeout"

        with pytest.raises(TrackersAwayError, match="FlowTracker 0") as raised:
            await read()
        assert raised.value.trackers == {0}
        assert final == [set(), {kept}]
        assert service.counters.packets_shed == DEPTH
        assert service.counters.packets_applied == DEPTH

        calls = len(hanging.asked)
        with pytest.raises(TrackersAwayError):
            await answered(service, batch(packets(lost, 1)))
        assert len(hanging.asked) == calls, "it was called again though it is away"
        hanging.hold.set()
        await asyncio.sleep(0.06)
        found, told = await answered(service, batch(packets(lost, *range(DEPTH))))
        assert found == {lost}
        assert told[-1][0] == hanging.inner.incarnation

    asyncio.run(run())
    counters = service.counters
    assert counters.packets_in == (
        counters.packets_applied + counters.packets_duplicate + counters.packets_shed
    )


def test_every_collector_learns_of_a_new_incarnation_even_on_a_quiet_wire() -> None:
    tracker = Watched()
    service = dispatcher([tracker])
    tick_s = 1.0

    async def run() -> None:
        nonlocal tick_s
        for name in ("a", "b"):
            await answered(service, batch(packets(1, 0), collector=name))
        tracker.inner = LocalTracker(FAKE_SPEC)
        for name in ("a", "b", "a"):
            tick_s += 0.25
            quiet = batch(packets(1), collector=name, at_s=tick_s)
            _, told = await answered(service, quiet)
            # The first part leaves before the tracker is called; a knows already.
            assert len(told) == (1 if tick_s == 1.75 else 2)
            assert told[-1] == {0: tracker.inner.incarnation}

    asyncio.run(run())


def test_an_empty_batch_moves_the_trackers_clock_however_little() -> None:
    tracker = Watched()
    service = dispatcher([tracker])

    async def run() -> None:
        await answered(service, batch(packets(1, 0)))
        calls = len(tracker.asked)
        await answered(service, batch(packets(1), at_s=1.03125))
        assert tracker.asked[calls:][0][0].watermark_ns == 1_031_250_000
        await answered(service, batch(packets(1), at_s=1.03125))
        assert len(tracker.asked) == calls + 1, "it had been told"

    asyncio.run(run())


def test_calls_to_one_tracker_are_bounded() -> None:
    tracker = Watched()
    service = dispatcher([tracker], calls=2)

    async def run() -> None:
        tracker.hold = asyncio.Event()
        waiting = []
        for flow in range(1, 9):
            waiting.append(
                asyncio.ensure_future(answered(service, batch(packets(flow, *range(DEPTH)))))
            )
            await asyncio.sleep(0.002)
        assert len(tracker.asked) == 2
        tracker.hold.set()
        found = await asyncio.gather(*waiting)
        assert set().union(*(final for final, _ in found)) == set(range(1, 9))

    asyncio.run(run())
    assert tracker.most_open == 2
    assert len(tracker.asked) == 3, "what waited went in one call"


def test_a_slow_tier_that_fails_breaks_the_answer_off_and_no_other() -> None:
    class Failing(FakeSlowTiers):
        failing = True

        async def answer(self, due: Due) -> np.ndarray:
            if self.failing:
                raise RuntimeError("no replica")
            return await super().answer(due)

    slow = Failing()
    service = dispatcher([Watched()], slow)

    async def run() -> None:
        with pytest.raises(RuntimeError, match="no replica"):
            await answered(service, batch(packets(1, *range(DEPTH))))
        slow.failing = False
        assert (await answered(service, batch(packets(2, *range(DEPTH)))))[0] == {2}

    asyncio.run(run())


def test_a_tracker_hears_of_settled_flows_without_further_traffic() -> None:
    """A flow that a middle tier was sure of is let go although it could have more packets."""
    tracker = Watched()
    service = dispatcher([tracker])
    # Bytes that no fast tier is sure of, and the middle one is after three packets.
    rows = packets(1, 0, 1, 2)
    rows["ip_bytes"] = [UNSURE, 40, 39]

    async def run() -> None:
        final, _ = await answered(service, batch(rows))
        assert final == {1}
        await service.drain()

    asyncio.run(run())
    assert tracker.inner.join.open_flows == 0
    assert tracker.asked[-1][0].settled.tolist() == [1]
