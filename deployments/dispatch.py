"""The cascade's data path, without Ray: who is asked, in which order, and what leaves when.

The same code runs behind ``serveflow classify`` (objects in this process) and in the Router
(Ray Serve handles); the three protocols below are all that it knows of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flows.ids import SLOTS, slots_of
from flows.join import MARK_DTYPE, Due
from flows.packet import FlowEndReason, Records
from flows.verdict import VERDICT_DTYPE, Reason
from flows.wire import PacketBatch, malformed_rows

__all__ = [
    "Absorb",
    "Absorbed",
    "CascadeSpec",
    "DispatchCounters",
    "Dispatcher",
    "FastTiers",
    "SlowTiers",
    "Tracker",
]

_REMEMBERED = 4_096  # collectors × trackers whose watermark is remembered, to bound memory
_TICK_NS = 50_000_000  # a tracker hears of the watermark at least so often (capture time)


@dataclass(frozen=True, slots=True)
class CascadeSpec:
    """What the dispatch has to know of a bundle.

    Attributes:
        depths: First packets that each tier wants, by tier, not decreasing.
        tiers: Names of the tiers.
        fast_tiers: Leading tiers that want packet 1 only.
        max_wait_s: How long after its first packet a flow waits for more (capture time).
        classes: Names of the labels, by index.
        model_version: Short digest of the bundle.
        needs_header: A tier reads the packets' header bytes (:func:`flows.packet.packet_dtype`).
    """

    depths: tuple[int, ...]
    tiers: tuple[str, ...]
    fast_tiers: int
    max_wait_s: float
    classes: tuple[str, ...]
    model_version: str
    needs_header: bool = False


@dataclass(frozen=True, slots=True)
class Absorb:
    """One call to one tracker; see :meth:`flows.join.Join.absorb`."""

    collector: str
    watermark_ns: int
    packets: Records
    marks: Records
    settled: npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A tracker's reply.

    Attributes:
        due: What became due.
        duplicates: Packets of the call that it had already.
        incarnation: Which incarnation of the tracker says so.
    """

    due: Due
    duplicates: int
    incarnation: str


class FastTiers(Protocol):
    """The tiers that answer on packet 1."""

    async def answer(self, packets: Records) -> Records:
        """Judge first packets, ``PACKET_DTYPE [n]``, one a flow; return ``ANSWER_DTYPE [n]``."""


class Tracker(Protocol):
    """Keeps the packets of the uncertain flows that are pinned to it."""

    def absorb(self, request: Absorb) -> Coroutine[Any, Any, Absorbed]:
        """Take packets and marks in; return what became due."""


class SlowTiers(Protocol):
    """The deeper tiers."""

    async def answer(self, due: Due) -> Records:
        """Judge the due flows; return ``ANSWER_DTYPE [n]``."""


@dataclass(slots=True)
class DispatchCounters:
    """What one dispatcher has seen.

    ``flows_admitted = flows_sure + flows_escalated`` and ``packets_in = packets_applied +
    packets_duplicate + packets_malformed + packets_shed`` hold between any two batches.
    """

    batches: int = 0
    packets_in: int = 0
    packets_applied: int = 0  # judged, kept by a tracker, or their flow had its answer already
    packets_duplicate: int = 0
    packets_malformed: int = 0
    packets_shed: int = 0  # refused: a model or a tracker did not take them, the answer said so
    flows_admitted: int = 0
    flows_sure: int = 0
    flows_escalated: int = 0
    flows_settled: int = 0
    verdicts_by_tier: dict[int, int] = field(default_factory=dict)
    verdicts_by_reason: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the counters by name."""
        return asdict(self)


class Dispatcher:
    """Answers packet batches.

    Args:
        spec: The bundle's cascade.
        fast: The tiers on packet 1.
        trackers: The trackers; flows are pinned to them by slot.
        slow: The deeper tiers.
    """

    def __init__(
        self, spec: CascadeSpec, fast: FastTiers, trackers: Sequence[Tracker], slow: SlowTiers
    ) -> None:
        self._spec = spec
        self._fast = fast
        self._trackers = list(trackers)
        self._slow = slow
        self._tracker_of_slot = np.arange(SLOTS) % len(self._trackers)
        self._told_ns: dict[tuple[str, int], int] = {}
        self.incarnations: dict[int, str] = {}
        self.counters = DispatchCounters()

    async def handle(self, batch: PacketBatch) -> AsyncIterator[Records]:
        """Yield the verdicts on ``batch``, ``VERDICT_DTYPE [n]``, in up to two parts.

        The first holds an answer for every flow whose first packet is in the batch, final or
        provisional; the second what the trackers and the deeper tiers settled.
        """
        packets = self._admit(batch.packets)
        is_first = (packets["packet_index"] == 0) & (
            packets["flow_end_reason"] == FlowEndReason.NONE
        )
        firsts = self._deduplicate(packets[is_first])
        rest = packets[~is_first]
        marks = np.empty(0, MARK_DTYPE)
        if len(firsts):
            try:
                answers = await self._fast.answer(firsts)
            except BaseException:
                self.counters.packets_shed += _packets(packets)
                raise
            verdicts = _verdicts(firsts["flow_id"], answers)
            verdicts["reason"] = np.select(
                [answers["final"] == 0, answers["sure"] == 1],
                [Reason.UNCERTAIN, Reason.CONFIDENT],
                default=Reason.EXHAUSTED,  # the bundle has no deeper tier
            )
            self._count_fast(verdicts)
            yield verdicts
            unsure = answers["final"] == 0
            marks = np.empty(int(unsure.sum()), MARK_DTYPE)
            marks["flow_id"] = firsts["flow_id"][unsure]
            marks["next_tier"] = answers["next_tier"][unsure]
            rest = self._drop_settled(rest, firsts["flow_id"][~unsure])
            rest = np.concatenate([firsts[unsure], rest])
        settled = await self._settle(batch, rest, marks)
        if len(settled):
            self._count_final(settled)
            yield settled

    def _admit(self, packets: Records) -> Records:
        self.counters.batches += 1
        self.counters.packets_in += _packets(packets)
        malformed = malformed_rows(packets)
        if malformed.any():
            self.counters.packets_malformed += _packets(packets[malformed])
            packets = packets[~malformed]
        return packets

    def _deduplicate(self, firsts: Records) -> Records:
        _, at = np.unique(firsts["flow_id"], return_index=True)
        self.counters.packets_duplicate += len(firsts) - len(at)
        return firsts[np.sort(at)]

    def _drop_settled(self, rest: Records, settled: npt.NDArray[np.uint64]) -> Records:
        """Leave out what belongs to flows that this batch has answered."""
        if not len(rest) or not len(settled):
            return rest
        keep = ~np.isin(rest["flow_id"], settled)
        self.counters.packets_applied += _packets(rest[~keep])
        return rest[keep]

    async def _settle(self, batch: PacketBatch, rest: Records, marks: Records) -> Records:
        """Take packets and marks to the trackers and judge what is due, until nothing is."""
        parts = []
        done = np.empty(0, np.uint64)
        while True:
            replies = await self._absorb(batch, rest, marks, done)
            flows = [reply.due for reply in replies if len(reply.due.flows)]
            if not flows:
                break
            due = _join_due(flows)
            answers = await self._slow.answer(due)
            verdicts = self._deep_verdicts(due, answers)
            parts.append(verdicts)
            again = answers["final"] == 0
            # A flow that was handed out for good is gone from its tracker already.
            kept = (due.flows["over"] == 0) & (np.diff(due.offsets) < self._spec.depths[-1])
            done = due.flows["flow_id"][~again & kept]
            marks = np.empty(int(again.sum()), MARK_DTYPE)
            marks["flow_id"] = due.flows["flow_id"][again]
            marks["next_tier"] = answers["next_tier"][again]
            rest = rest[:0]
            if not len(done) and not len(marks):
                break
        return np.concatenate(parts) if parts else np.empty(0, VERDICT_DTYPE)

    async def _absorb(
        self,
        batch: PacketBatch,
        rest: Records,
        marks: Records,
        settled: npt.NDArray[np.uint64],
    ) -> list[Absorbed]:
        """Call every tracker that has something to learn, all at once."""
        of_rest = self._tracker_of_slot[slots_of(rest["flow_id"])]
        of_marks = self._tracker_of_slot[slots_of(marks["flow_id"])]
        of_settled = self._tracker_of_slot[slots_of(settled)]
        if len(self._told_ns) > _REMEMBERED:
            self._told_ns.clear()
        calls: list[Coroutine[Any, Any, Absorbed]] = []
        called: list[int] = []
        sizes: list[int] = []
        for t in range(len(self._trackers)):
            mine = Absorb(
                batch.collector,
                batch.watermark_ns,
                rest[of_rest == t],
                marks[of_marks == t],
                settled[of_settled == t],
            )
            key = (batch.collector, t)
            overdue = batch.watermark_ns - self._told_ns.get(key, 0) >= _TICK_NS
            if overdue or len(mine.packets) or len(mine.marks) or len(mine.settled):
                self._told_ns[key] = batch.watermark_ns
                calls.append(self._trackers[t].absorb(mine))
                called.append(t)
                sizes.append(_packets(mine.packets))
        replies = await asyncio.gather(*calls, return_exceptions=True)
        absorbed = []
        failed: BaseException | None = None
        for t, sent, reply in zip(called, sizes, replies, strict=True):
            if isinstance(reply, BaseException):
                self.counters.packets_shed += sent
                failed = reply
                continue
            self.incarnations[t] = reply.incarnation
            self.counters.packets_duplicate += reply.duplicates
            self.counters.packets_applied += sent - reply.duplicates
            absorbed.append(reply)
        if failed is not None:
            raise failed
        return absorbed

    def _deep_verdicts(self, due: Due, answers: Records) -> Records:
        verdicts = _verdicts(due.flows["flow_id"], answers)
        times = due.packets["time_ns"]
        start_ns = times[due.offsets[:-1]]
        decided_ns = times[due.offsets[:-1] + np.maximum(answers["packets_used"], 1) - 1]
        full = np.diff(due.offsets) >= self._spec.depths[-1]
        # Judged on less than the depth, because nothing more comes.
        by_end = (answers["sure"] == 0) & ~full
        verdicts["wait_ns"] = np.where(by_end, due.flows["over_ns"], decided_ns) - start_ns
        verdicts["reason"] = np.select(
            [answers["final"] == 0, answers["sure"] == 1, full],
            [Reason.UNCERTAIN, Reason.CONFIDENT, Reason.EXHAUSTED],
            default=due.flows["reason"],
        )
        return verdicts

    def _count_fast(self, verdicts: Records) -> None:
        sure = verdicts["final"] == 1
        self.counters.flows_admitted += len(verdicts)
        self.counters.flows_sure += int(sure.sum())
        self.counters.flows_escalated += int((~sure).sum())
        self.counters.packets_applied += int(sure.sum())
        self._count(verdicts[sure])

    def _count_final(self, verdicts: Records) -> None:
        final = verdicts[verdicts["final"] == 1]
        self.counters.flows_settled += len(final)
        self._count(final)

    def _count(self, final: Records) -> None:
        for tier, n in zip(*np.unique(final["tier"], return_counts=True), strict=True):
            by_tier = self.counters.verdicts_by_tier
            by_tier[int(tier)] = by_tier.get(int(tier), 0) + int(n)
        for reason, n in zip(*np.unique(final["reason"], return_counts=True), strict=True):
            by_reason = self.counters.verdicts_by_reason
            by_reason[Reason(reason).text] = by_reason.get(Reason(reason).text, 0) + int(n)


def _packets(rows: Records) -> int:
    return int((rows["flow_end_reason"] == FlowEndReason.NONE).sum())


def _verdicts(flow_id: npt.NDArray[np.uint64], answers: Records) -> Records:
    verdicts = np.zeros(len(answers), VERDICT_DTYPE)
    verdicts["flow_id"] = flow_id
    for name in ("label", "confidence", "novelty", "tier", "packets_used", "final", "infer_ns"):
        verdicts[name] = answers[name]
    return verdicts


def _join_due(parts: list[Due]) -> Due:
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return Due(
        np.concatenate([part.flows for part in parts]),
        np.concatenate([part.packets for part in parts]),
        offsets,
    )
