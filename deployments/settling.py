"""Unsure flows and their trackers: coalesced calls, and nobody waits for a dead tracker.

A call costs far more than a row in it. So what batches have for a tracker is gathered for a short
while and goes out as one call, and what became due at all trackers goes to the deeper tiers as one
call; the answer to each batch ends when its own rows are through. No Ray here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deployments.counters import DispatchCounters
from deployments.protocols import Absorb, SlowTiers, Tracker
from deployments.settlement import Settlement
from deployments.verdicts import deep_verdicts, packets_of
from flows.ids import SLOTS, slots_of
from flows.join import MARK_DTYPE, Due
from flows.packet import Records
from flows.records import joined, picked, taken
from flows.wire import PacketBatch

__all__ = ["Pace", "Settling"]

_REMEMBERED = 4_096  # collectors × trackers whose watermark is remembered, to bound memory
_TICK_NS = 50_000_000  # a tracker hears of the watermark at least so often (capture time)
_TOGETHER_S = 0.005  # trackers whose replies lie so close share a call to the deeper tiers
_NO_IDS = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long rows are gathered, and how long a tracker is waited for.

    Attributes:
        gather_s: Least time from one round of calls to the next.
        tracker_timeout_s: A tracker that is silent for so long is away.
        retry_after_s: How long one that is away gets no rows; then it is tried again.
        calls: Calls to one tracker that may be open; what comes meanwhile is gathered.
    """

    gather_s: float = 0.0
    tracker_timeout_s: float = 0.8
    retry_after_s: float = 0.5
    calls: int = 2


@dataclass(frozen=True, slots=True)
class _Share:
    """What one batch has for one tracker."""

    request: Absorb
    settlement: Settlement | None  # None: nobody waits for what comes of it


@dataclass(frozen=True, slots=True)
class _Found:
    """What became due at one tracker of one collector, and who is to hear of it."""

    lane: _Lane
    request: Absorb
    settlement: Settlement
    due: Due


@dataclass(slots=True)
class _Lane:
    """The way to one tracker."""

    number: int
    tracker: Tracker
    waiting: list[_Share] = field(default_factory=list)
    calls: int = 0
    away_until_s: float | None = None
    told: set[str] = field(default_factory=set)  # collectors that know its incarnation


class Settling:
    """Takes the rows of unsure flows to their trackers and due flows to the deeper tiers.

    Args:
        trackers: The trackers; flows are pinned to them by slot.
        slow: The deeper tiers.
        depth: First packets that the deepest tier wants.
        pace: How long rows are gathered, and how long a tracker is waited for.
        counters: Gets packets by what became of them.

    Attributes:
        incarnations: The latest one of each tracker.
        asked_flows: Flows that the deeper tiers have before them.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        slow: SlowTiers,
        depth: int,
        pace: Pace,
        counters: DispatchCounters,
    ) -> None:
        self._lanes = [_Lane(t, tracker) for t, tracker in enumerate(trackers)]
        self._lane_of_slot = np.arange(SLOTS) % len(self._lanes)
        self._slow = slow
        self._depth = depth
        self._pace = pace
        self._told_ns: dict[tuple[str, int], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._fired_s = -np.inf
        self.incarnations: dict[int, str] = {}
        self.asked_flows = 0
        self._counters = counters

    def begin(self, batch: PacketBatch, packets: Records, marks: Records) -> Settlement:
        """Take in what a batch holds of unsure flows.

        Args:
            batch: Whose it is, and its watermark.
            packets: ``PACKET_DTYPE [n]``, end marks included.
            marks: Flows that a tier was not sure of, ``MARK_DTYPE [k]``.
        """
        settlement = Settlement()
        if len(self._told_ns) > _REMEMBERED:
            self._told_ns.clear()
        # An empty batch is sent for its watermark's sake: a wait is over on a wire that is quiet.
        every_ns = _TICK_NS if len(batch.packets) else 1
        for lane, request in self._by_lane(batch, packets, marks, _NO_IDS):
            key = (batch.collector, lane.number)
            ticks = batch.watermark_ns - self._told_ns.get(key, 0) >= every_ns
            if ticks or len(request.packets) or len(request.marks):
                self._told_ns[key] = batch.watermark_ns
                self._put(lane, _Share(request, settlement))
        return settlement

    def warm_up(self, batch: PacketBatch) -> None:
        """Share ``batch`` among the trackers, and send it to none.

        Args:
            batch: Of two rows at least: a column of one is compiled for as if it lay by itself.
        """
        packets = batch.packets.copy()  # what is read may not be written to: a type of its own
        list(self._by_lane(batch, packets, np.zeros(len(packets), MARK_DTYPE), _NO_IDS))

    async def drain(self) -> None:
        """Wait until everything that was taken in is through."""
        while self._tasks or any(lane.waiting for lane in self._lanes):
            await asyncio.sleep(self._pace.gather_s)

    def _by_lane(
        self,
        whose: PacketBatch | Absorb,
        packets: Records,
        marks: Records,
        settled: npt.NDArray[np.uint64],
    ) -> Iterable[tuple[_Lane, Absorb]]:
        of_packets = self._lane_of_slot[slots_of(packets["flow_id"])]
        of_marks = self._lane_of_slot[slots_of(marks["flow_id"])]
        of_settled = self._lane_of_slot[slots_of(settled)]
        for lane in self._lanes:
            t = lane.number
            yield (
                lane,
                Absorb(
                    whose.collector,
                    whose.watermark_ns,
                    picked(packets, of_packets == t),
                    picked(marks, of_marks == t),
                    settled[of_settled == t],
                ),
            )

    def _put(self, lane: _Lane, share: _Share) -> None:
        if share.settlement is not None:
            share.settlement.opened()
        lane.waiting.append(share)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._fired_s + self._pace.gather_s, self._fire)

    def _fire(self) -> None:
        """Begin a call to every tracker that has rows waiting and may be called."""
        self._timer = None
        now_s = self._fired_s = asyncio.get_running_loop().time()
        calls = []
        for lane in self._lanes:
            shares = lane.waiting
            if not shares:
                continue
            if lane.away_until_s is None:
                may_call = lane.calls < self._pace.calls
            else:
                may_call = lane.calls == 0 and now_s >= lane.away_until_s
                if not may_call:
                    lane.waiting = []
                    self._shed(lane, shares)
                    continue
            if may_call:
                lane.waiting = []
                lane.calls += 1
                calls.append(asyncio.ensure_future(self._call(lane, shares)))
        if calls:
            task = asyncio.ensure_future(self._settle(calls))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, lane: _Lane, shares: list[_Share]) -> list[_Found]:
        merged = _by_collector(shares)
        try:
            replies = await asyncio.wait_for(
                lane.tracker.absorb([request for request, _ in merged]),
                self._pace.tracker_timeout_s,
            )
        except Exception:  # whatever it is, the tracker has not taken these rows
            lane.away_until_s = asyncio.get_running_loop().time() + self._pace.retry_after_s
            self._shed(lane, shares)
            return []
        finally:
            lane.calls -= 1
            if lane.waiting:
                self._schedule()
        lane.away_until_s = None
        found = []
        for (request, waiting), reply in zip(merged, replies, strict=True):
            self._tell(lane, reply.incarnation, request.collector, waiting)
            self._counters.packets_duplicate += reply.duplicates
            self._counters.packets_applied += packets_of(request.packets) - reply.duplicates
            if len(reply.due.flows):
                # If nobody waits, which takes two Routers, the collector sends the flow again.
                hears = waiting.pop() if waiting else Settlement()
                found.append(_Found(lane, request, hears, reply.due))
            for settlement in waiting:
                settlement.closed()
        return found

    def _shed(self, lane: _Lane, shares: list[_Share]) -> None:
        """Refuse rows: the answers to their batches say so, and collectors send them again."""
        for share in shares:
            request = share.request
            self._counters.packets_shed += packets_of(request.packets)
            if share.settlement is not None:
                if len(request.packets) or len(request.marks):
                    share.settlement.refuse(lane.number)
                share.settlement.closed()

    def _tell(
        self, lane: _Lane, incarnation: str, collector: str, waiting: list[Settlement]
    ) -> None:
        """Remember a tracker's incarnation; to a collector it may be news, so a part must leave."""
        known = self.incarnations.get(lane.number)
        if known not in (None, incarnation):
            self._counters.restarted(lane.number)
        if known != incarnation or len(lane.told) > _REMEMBERED:
            self.incarnations[lane.number] = incarnation
            lane.told.clear()
        if waiting and collector not in lane.told:
            lane.told.add(collector)
            waiting[-1].tell()

    async def _settle(self, calls: Sequence[asyncio.Future[list[_Found]]]) -> None:
        """Judge what became due; trackers that reply late hold up nobody else."""
        waiting: set[asyncio.Future[list[_Found]]] = set(calls)
        judged = []
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                more, waiting = await asyncio.wait(waiting, timeout=_TOGETHER_S)
                done |= more
            found = [one for call in done for one in call.result()]
            if found:
                judged.append(asyncio.ensure_future(self._judge(found)))
        if judged:
            await asyncio.wait(judged)

    async def _judge(self, found: list[_Found]) -> None:
        due = _joined([one.due for one in found])
        self.asked_flows += len(due.flows)
        try:
            answers = await self._slow.answer(due)
        except Exception as error:  # the batch's answer breaks off with it
            for one in found:
                one.settlement.fail(error)
            return
        finally:
            self.asked_flows -= len(due.flows)
        verdicts = deep_verdicts(due, answers, self._depth)
        again = answers["final"] == 0
        # A flow that was handed out for good is gone from its tracker already.
        kept = (due.flows["over"] == 0) & (np.diff(due.offsets) < self._depth)
        marks = np.empty(len(again), MARK_DTYPE)
        marks["flow_id"], marks["next_tier"] = due.flows["flow_id"], answers["next_tier"]
        stop = 0
        for one in found:
            start, stop = stop, stop + len(one.due.flows)
            rows = np.arange(start, stop)
            one.settlement.add(verdicts[start:stop])
            asked = taken(marks, rows[again[rows]])
            done = marks["flow_id"][rows[kept[rows] & ~again[rows]]]
            if len(asked) or len(done):
                # Where nobody waits for verdicts, nothing may time out.
                watermark_ns = one.request.watermark_ns if len(asked) else 0
                request = Absorb(
                    one.request.collector, watermark_ns, one.request.packets[:0], asked, done
                )
                self._put(one.lane, _Share(request, one.settlement if len(asked) else None))
            one.settlement.closed()


def _by_collector(shares: list[_Share]) -> list[tuple[Absorb, list[Settlement]]]:
    """Return one request for each collector, and who waits for what comes of it."""
    by_name: dict[str, list[_Share]] = {}
    for share in shares:
        by_name.setdefault(share.request.collector, []).append(share)
    merged = []
    for collector, own in by_name.items():
        parts = [share.request for share in own]
        request = parts[0]
        if len(parts) > 1:
            request = Absorb(
                collector,
                max(part.watermark_ns for part in parts),
                joined([part.packets for part in parts]),
                joined([part.marks for part in parts]),
                np.concatenate([part.settled for part in parts]),
            )
        merged.append((request, [s.settlement for s in own if s.settlement is not None]))
    return merged


def _joined(parts: list[Due]) -> Due:
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return Due(
        joined([part.flows for part in parts]),
        joined([part.packets for part in parts]),
        offsets,
    )
