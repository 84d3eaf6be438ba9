"""The cascade's data path, without Ray: who is asked, in which order, and what leaves when.

The same code runs behind ``serveflow classify`` (objects in this process) and in the Router
(Ray Serve handles); three protocols (:mod:`deployments.protocols`) are all that it knows of the
others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import numpy as np
import numpy.typing as npt

from deployments.counters import DispatchCounters
from deployments.limits import Limits
from deployments.protocols import CascadeSpec, FastTiers, SlowTiers, Tracker
from deployments.settling import Pace, Settling
from deployments.verdicts import fast_verdicts, packets_of
from flows.errors import OverloadedError
from flows.join import MARK_DTYPE
from flows.packet import FlowEndReason, Records
from flows.records import joined, picked, taken
from flows.verdict import VERDICT_DTYPE, Reason
from flows.wire import PacketBatch, malformed_rows

__all__ = ["Dispatcher"]


class Dispatcher:
    """Answers packet batches.

    Args:
        spec: The bundle's cascade.
        fast: The tiers on packet 1.
        trackers: The trackers; flows are pinned to them by slot.
        slow: The deeper tiers.
        pace: How rows for trackers are gathered; at once when left out.
        limits: How much is taken on before load is shed.
    """

    def __init__(
        self,
        spec: CascadeSpec,
        fast: FastTiers,
        trackers: Sequence[Tracker],
        slow: SlowTiers,
        pace: Pace | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._fast = fast
        self._limits = limits or Limits()
        self._waiting = 0  # flows whose first answer has not left
        self.counters = DispatchCounters()
        self._settling = Settling(trackers, slow, spec.depths[-1], pace or Pace(), self.counters)

    @property
    def incarnations(self) -> dict[int, str]:
        """The latest incarnation of each tracker that has answered."""
        return self._settling.incarnations

    @property
    def waiting_flows(self) -> int:
        """Flows whose first answer has not left."""
        return self._waiting

    @property
    def unsettled_flows(self) -> int:
        """Flows that the deeper tiers have before them."""
        return self._settling.asked_flows

    def make_sure_of_room(self, new_flows: int) -> None:
        """Refuse a batch that holds first packets of ``new_flows`` if too many are waiting.

        Raises:
            OverloadedError: It is refused, and counted.
        """
        limits = self._limits
        if new_flows and self._waiting and self._waiting + new_flows > limits.waiting_flows:
            self.counters.batches_refused += 1
            self.counters.flows_refused += new_flows
            raise OverloadedError(
                f"{self._waiting:,} new flows are waiting for their first answer: submit these "
                "again a little later",
                limits.retry_after_s,
            )

    def warm_up(self, batch: PacketBatch) -> None:
        """Compile what sharing ``batch`` among the trackers needs; nothing is sent."""
        self._settling.warm_up(batch)

    async def handle(self, batch: PacketBatch) -> AsyncGenerator[Records, None]:
        """Yield the verdicts on ``batch``, ``VERDICT_DTYPE [n]``, part by part.

        The first leaves at once and holds an answer for every flow whose first packet is in the
        batch, final or provisional; the others what the trackers and the deeper tiers settled. A
        later part without verdicts says that ``incarnations`` has changed.

        Raises:
            TrackersAwayError: Trackers did not take their rows; all else has been yielded.
        """
        packets = self._admit(batch.packets)
        is_first = (packets["packet_index"] == 0) & (
            packets["flow_end_reason"] == FlowEndReason.NONE
        )
        firsts = self._deduplicate(picked(packets, is_first))
        rest = picked(packets, ~is_first)
        marks = np.empty(0, MARK_DTYPE)
        if len(firsts):
            left = packets  # to be taken in
            self._waiting += len(firsts)
            try:
                answers = await self._fast.answer(firsts)
                verdicts = fast_verdicts(firsts, answers)
                self._degrade(verdicts)
                self.counters.fast(verdicts)
                unsure = verdicts["final"] == 0
                left = rest = joined([picked(firsts, unsure), rest])
                yield verdicts
                left = rest[:0]
            finally:
                self._waiting -= len(firsts)
                self.counters.packets_shed += packets_of(left)
            marks = np.empty(int(unsure.sum()), MARK_DTYPE)
            marks["flow_id"] = firsts["flow_id"][unsure]
            marks["next_tier"] = answers["next_tier"][unsure]
            rest = self._drop_settled(rest, firsts["flow_id"][~unsure])
        else:
            yield np.empty(0, VERDICT_DTYPE)  # so that the collector knows that it may send on
        async for settled in self._settling.begin(batch, rest, marks).parts():
            self.counters.settled(settled)
            yield settled

    async def drain(self) -> None:
        """Wait until the trackers know all that they have to."""
        await self._settling.drain()

    def _degrade(self, verdicts: Records) -> None:
        """Make what packet 1 says final where the deeper tiers have too much before them."""
        unsure = verdicts["final"] == 0
        asked = self.unsettled_flows
        if asked and asked + int(unsure.sum()) > self._limits.slow_flows:
            verdicts["final"] = 1
            verdicts["reason"][unsure] = Reason.DEGRADED

    def _admit(self, packets: Records) -> Records:
        self.counters.batches += 1
        self.counters.packets_in += packets_of(packets)
        malformed = malformed_rows(packets)
        if malformed.any():
            self.counters.packets_malformed += packets_of(picked(packets, malformed))
            packets = picked(packets, ~malformed)
        return packets

    def _deduplicate(self, firsts: Records) -> Records:
        _, at = np.unique(firsts["flow_id"], return_index=True)
        self.counters.packets_duplicate += len(firsts) - len(at)
        return firsts if len(at) == len(firsts) else taken(firsts, np.sort(at))

    def _drop_settled(self, rest: Records, settled: npt.NDArray[np.uint64]) -> Records:
        """Leave out what belongs to flows that this batch has answered."""
        if not len(rest) or not len(settled):
            return rest
        settled, ids = np.sort(settled), rest["flow_id"]
        at = np.minimum(np.searchsorted(settled, ids), len(settled) - 1)
        keep = settled[at] != ids
        self.counters.packets_applied += packets_of(picked(rest, ~keep))
        return picked(rest, keep)
