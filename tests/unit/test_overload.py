"""What a service sheds when it has more to do than it can, and in which order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from deployments.dispatch import Dispatcher
from deployments.fakes import FAKE_SPEC, FakeFastTiers, FakeSlowTiers
from deployments.limits import Limits
from deployments.local import LocalTracker
from flows.errors import OverloadedError
from flows.join import Due
from flows.packet import PACKET_DTYPE, FlowEndReason, Records
from flows.verdict import Reason
from flows.wire import PacketBatch, encode_batch, open_batch

S = 1_000_000_000
UNSURE, SURE = 41, 46  # bytes of a first packet that no fake fast tier is sure of, and that one is
LATE_S = 100.0  # every wait is over by then


@dataclass
class Held:
    """Tiers that answer when they are let."""

    inner: Any
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, asked: Any) -> Records:
        await self.may_answer.wait()
        answers: Records = await self.inner.answer(asked)
        return answers


def new_flows(*flows: int, ip_bytes: int = UNSURE) -> np.ndarray:
    rows = np.zeros(len(flows), PACKET_DTYPE)
    rows["flow_id"] = flows
    rows["time_ns"] = S
    rows["ip_bytes"] = ip_bytes
    return rows


def batch(rows: np.ndarray, at_s: float = 1.0) -> PacketBatch:
    return PacketBatch("edge", int(at_s * S), rows)


def dispatcher(fast: Any, slow: Any, **limits: Any) -> Dispatcher:
    trackers = [LocalTracker(FAKE_SPEC)]
    return Dispatcher(FAKE_SPEC, fast, trackers, slow, limits=Limits(**limits))


async def all_of(service: Dispatcher, sent: PacketBatch) -> Records:
    service.make_sure_of_room(open_batch(encode_batch(sent)).new_flows)
    return np.concatenate([part async for part in service.handle(sent)])


def adds_up(service: Dispatcher) -> bool:
    c = service.counters
    told = c.packets_applied + c.packets_duplicate + c.packets_malformed + c.packets_shed
    return c.packets_in == told and c.flows_admitted == c.flows_sure + c.flows_escalated


def test_new_flows_beyond_the_limit_are_refused_and_counted() -> None:
    async def check() -> None:
        fast = Held(FakeFastTiers())
        service = dispatcher(fast, FakeSlowTiers(), waiting_flows=3, retry_after_s=0.5)
        taken = asyncio.ensure_future(all_of(service, batch(new_flows(1, 2))))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 new flows are waiting") as refusal:
            await all_of(service, batch(new_flows(3, 4)))
        assert refusal.value.retry_after_s == 0.5
        assert (service.counters.batches_refused, service.counters.flows_refused) == (1, 2)
        one_more = asyncio.ensure_future(all_of(service, batch(new_flows(5))))  # within the limit
        await asyncio.sleep(0)
        fast.may_answer.set()
        assert set((await taken)["flow_id"]) == {1, 2}
        assert set((await one_more)["flow_id"]) == {5}
        assert set((await all_of(service, batch(new_flows(3, 4))))["flow_id"]) == {3, 4}
        assert adds_up(service)

    asyncio.run(check())


def test_one_batch_is_always_taken_however_large() -> None:
    async def check() -> None:
        service = dispatcher(FakeFastTiers(), FakeSlowTiers(), waiting_flows=1)
        for flows in ((1, 2, 3), (4, 5, 6)):
            assert len(await all_of(service, batch(new_flows(*flows, ip_bytes=SURE)))) == 3

    asyncio.run(check())


def test_what_concludes_flows_is_never_refused() -> None:
    async def check() -> None:
        fast = Held(FakeFastTiers())
        service = dispatcher(fast, FakeSlowTiers(), waiting_flows=1)
        asyncio.get_running_loop().call_soon(fast.may_answer.set)
        await all_of(service, batch(new_flows(1)))
        fast.may_answer.clear()
        waiting = asyncio.ensure_future(all_of(service, batch(new_flows(2, 3))))
        await asyncio.sleep(0)
        end = new_flows(1)
        end["flow_end_reason"] = FlowEndReason.IDLE_TIMEOUT
        end["packet_index"] = 1
        verdicts = await all_of(service, batch(end))
        assert verdicts["flow_id"][verdicts["final"] == 1].tolist() == [1]
        fast.may_answer.set()
        await waiting

    asyncio.run(check())


def test_when_the_deeper_tiers_have_too_much_packet_1_decides() -> None:
    async def check() -> None:
        slow = Held(FakeSlowTiers())
        service = dispatcher(FakeFastTiers(), slow, slow_flows=2)
        busy = asyncio.ensure_future(all_of(service, batch(new_flows(1, 2), LATE_S)))
        while not service.unsettled_flows:
            await asyncio.sleep(0)
        rows = np.concatenate([new_flows(3), new_flows(4, ip_bytes=SURE)])
        verdicts = await all_of(service, batch(rows, LATE_S))
        assert verdicts["final"].all()
        by_flow = dict(zip(verdicts["flow_id"].tolist(), verdicts["reason"].tolist(), strict=True))
        assert by_flow == {3: Reason.DEGRADED, 4: Reason.CONFIDENT}
        slow.may_answer.set()
        judged = await busy
        assert set(judged["flow_id"][judged["final"] == 1]) == {1, 2}
        again = await all_of(service, batch(new_flows(5), LATE_S))
        assert Reason.DEGRADED not in again["reason"]
        assert adds_up(service)

    asyncio.run(check())


def test_a_client_that_leaves_after_the_first_part_leaves_nothing_uncounted() -> None:
    async def check() -> None:
        service = dispatcher(FakeFastTiers(), FakeSlowTiers())
        rows = np.concatenate([new_flows(1, 2), new_flows(3, ip_bytes=SURE)])
        answer = service.handle(batch(rows))
        assert len(await anext(answer)) == 3
        await answer.aclose()
        assert (service.counters.packets_applied, service.counters.packets_shed) == (1, 2)
        assert adds_up(service)
        assert len(await all_of(service, batch(rows))) == 3

    asyncio.run(check())


def test_a_failing_slow_tier_is_not_taken_for_a_busy_one() -> None:
    class Broken:
        async def answer(self, due: Due) -> Records:
            raise RuntimeError("broken")

    async def check() -> None:
        service = dispatcher(FakeFastTiers(), Broken(), slow_flows=1)
        for flow in (1, 2, 3):
            with pytest.raises(RuntimeError, match="broken"):
                await all_of(service, batch(new_flows(flow), LATE_S))
        assert service.unsettled_flows == 0

    asyncio.run(check())
