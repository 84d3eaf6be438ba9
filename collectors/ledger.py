"""The collector's replay log: the first packets of every flow without a final verdict.

Flows are numbered in order of appearance, so a ring indexed by that number finds a flow without
hashing, and a verdict leads back to it because ids are a bijection of numbers
(:mod:`flows.ids`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from collectors import ledger_kernels as kernels
from collectors import ledger_queries as queries
from flows.ids import flow_numbers
from flows.kept import rest_dtype, split
from flows.packet import HOST_DTYPE, Records, packet_dtype
from flows.records import as_bytes, copied, taken
from flows.table import FLOW_DTYPE
from flows.verdict import VERDICT_DTYPE, Reason

__all__ = ["Formed", "Ledger", "LedgerLimits", "block_bytes", "place_bytes"]


def place_bytes() -> int:
    """Return what each flow takes that is not older than the oldest one without a verdict."""
    return kernels.ENTRY_DTYPE.itemsize + FLOW_DTYPE.itemsize + 8  # and a place in the queue


def block_bytes(depth: int, *, with_header: bool) -> int:
    """Return what each flow without a final verdict takes beside that: its packets."""
    return depth * rest_dtype(with_header).itemsize + HOST_DTYPE.itemsize + 4


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """To what a ledger may grow.

    Attributes:
        span: Flows from the oldest one without a final verdict on; a power of two.
        unsettled: Flows without a final verdict.
    """

    span: int = 1 << 40
    unsettled: int = 1 << 31


@dataclass(frozen=True, slots=True)
class Formed:
    """Rows to send.

    Attributes:
        packets: Packets and end marks, ``PACKET_DTYPE [n]``.
        flows: Numbers of their flows, uint64 ``[k]``.
        deadline_ns: The earliest deadline (capture time) of those flows.
        queued_deadline_ns: The same of flows that found no room.
    """

    packets: Records
    flows: npt.NDArray[np.uint64]
    deadline_ns: int
    queued_deadline_ns: int


class Ledger:
    """Unsettled flows: what is known, what has been sent, what the service said.

    Args:
        depth: First packets to keep of each flow.
        max_wait_s: The service's wait for packets, from a flow's first packet (capture time).
        seed: The flow table's seed, which leads from ids to numbers.
        capacity: Flows that fit before the ring grows; a power of two.
        with_header: The packets hold their headers' bytes, see :func:`flows.packet.packet_dtype`.
        limits: To what it may grow. Flows beyond must not be entered, see :attr:`numbers_until`.

    Attributes:
        settled: Flows that got their final verdict.
        set_aside: Flows that were given up here, see :meth:`forget_all`.
        resent_flows: Flows that were sent again.
        resent_packets: Packets of those that had been sent before.
    """

    def __init__(
        self,
        depth: int,
        max_wait_s: float,
        seed: int,
        capacity: int = 32_768,  # memory is used as flows come, and growing stops all else
        *,
        with_header: bool = False,
        limits: LedgerLimits | None = None,
    ) -> None:
        self._limits = limits or LedgerLimits()
        capacity = min(capacity, self._limits.span)
        self._depth = depth
        self._max_wait_ns = np.int64(max_wait_s * 1e9)
        self._seed = np.uint64(seed)
        self._entries = np.zeros(capacity, kernels.ENTRY_DTYPE)
        self._flows = np.zeros(capacity, FLOW_DTYPE)
        kept = min(capacity, self._limits.unsettled)
        self._blocks = np.zeros((kept, depth), rest_dtype(with_header))
        self._hosts = np.zeros(kept, HOST_DTYPE)
        self._free = np.arange(kept, dtype=np.int32)
        self._free_count = kept
        self._blank_entry = np.zeros(1, kernels.ENTRY_DTYPE)
        self._blank_packet = np.zeros(1, packet_dtype(with_header))
        self._out = np.empty(0, self._blank_packet.dtype)
        self._queue = np.empty(capacity, np.uint64)
        self._queued = 0
        self._base = np.uint64(0)
        self._end = np.uint64(0)
        self.admitted = 0
        self.settled = 0
        self.set_aside = 0
        self.resent_flows = 0
        self.resent_packets = 0

    @property
    def open(self) -> int:
        """Flows without a final verdict."""
        return self.admitted - self.settled - self.set_aside

    @property
    def base(self) -> int:
        """The number of the oldest flow without a final verdict; all below are settled."""
        return int(self._base)

    @property
    def end(self) -> int:
        """The number of the next flow."""
        return int(self._end)

    @property
    def numbers_until(self) -> int:
        """The number of the first flow that there is no room for."""
        in_use = len(self._blocks) - self._free_count
        room = min(self._limits.span - int(self._end - self._base), self._limits.unsettled - in_use)
        return int(self._end) + max(room, 0)

    @property
    def memory_bytes(self) -> int:
        """What it takes."""
        arrays = (self._entries, self._flows, self._blocks, self._hosts, self._free, self._queue)
        return sum(array.nbytes for array in arrays)

    @property
    def oldest_deadline_ns(self) -> int | None:
        """Deadline (capture time) of the oldest flow without a final verdict; None: no such."""
        if self._base == self._end:
            return None
        entry = self._entries[int(self._base) & (len(self._entries) - 1)]
        return int(entry["start_ns"]) + int(self._max_wait_ns)

    @property
    def waiting(self) -> int:
        """Flows with something to send."""
        return self._queued

    def enter(self, flows: Records) -> None:
        """Take new flows in, ``FLOW_DTYPE [n]``, in order of their numbers.

        Numbers that are left out count as settled.
        """
        if not len(flows):
            return
        if self._base == self._end:
            self._base = self._end = flows["flow_number"][0]
        until = flows["flow_number"][-1] + np.uint64(1)
        self._reserve(int(until - self._base))
        self._reserve_blocks(len(flows))
        kernels.enter(self._entries, self._flows, self._end, self._blank_entry, flows)
        self._end = until
        self.admitted += len(flows)

    def keep(
        self,
        packets: Records,
        kept: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.uint64],
        seen_ns: npt.NDArray[np.int64],
    ) -> None:
        """Keep ``packets[kept]``, seen at ``seen_ns`` (wall clock), of unsettled flows."""
        self._free_count, self._queued = kernels.keep(
            self._entries, self._blocks, self._hosts, self._free, self._free_count,
            self._queue, self._queued, self._base, packets, split(packets), kept, numbers, seen_ns,
        )  # fmt: skip

    def end_flows(self, ends: Records, seen_ns: int) -> None:
        """Note the ends of flows, ``END_DTYPE [n]``."""
        self._queued = kernels.end_flows(
            self._entries, self._queue, self._queued, self._base, ends, seen_ns
        )

    def form(self, limit: int, clock_ns: int, now_ns: int) -> Formed:
        """Take up to ``limit`` rows to send at ``clock_ns`` (capture) and ``now_ns`` (wall)."""
        size = max(limit, self._depth + 1)
        if len(self._out) != size:  # kept, as touching new memory costs as much as filling it
            self._out = np.empty(size, self._out.dtype)
        out, flows = self._out, np.empty(size, np.uint64)
        rows, written, self._queued, written_ns, queued_ns = kernels.form(
            self._entries, self._blocks, self._hosts, self._queue, self._queued, self._base,
            clock_ns, self._max_wait_ns, now_ns, self._blank_packet, out, split(out), flows,
        )  # fmt: skip
        return Formed(
            copied(out[:rows]),
            flows[:written].copy(),
            int(written_ns + self._max_wait_ns),
            int(queued_ns + self._max_wait_ns),
        )

    def settle(self, verdicts: Records) -> tuple[npt.NDArray[np.int64], Records, Records]:
        """Take verdicts in, ``VERDICT_DTYPE [n]``.

        Returns:
            Rows of ``verdicts`` that gave their flow its final verdict, the flows
            (``FLOW_DTYPE``) and the ledger's entries (``ENTRY_DTYPE``) of those.
        """
        accepted = np.empty(len(verdicts), np.int64)
        self._free_count, self._queued, n = kernels.settle(
            self._entries, self._free, self._free_count, self._queue, self._queued,
            self._base, self._end, self._seed, verdicts, accepted,
        )  # fmt: skip
        self.settled += n
        accepted = accepted[:n]
        numbers = flow_numbers(verdicts["flow_id"][accepted], int(self._seed))
        at = (numbers & np.uint64(len(self._entries) - 1)).astype(np.int64)
        flows, entries = taken(self._flows, at), taken(self._entries, at)
        # Of one type always: numba compiles anew for another.
        self._base = np.uint64(queries.advance_base(self._entries, self._base, self._end))
        return accepted, flows, entries

    def evict(self, most: int) -> Records:
        """Return final verdicts for the oldest flows that have a provisional one, at most so many.

        They are to be taken in by :meth:`settle`, as those of the service are.
        """
        verdicts = np.zeros(min(most, self.open), VERDICT_DTYPE)
        n = queries.evict(
            self._entries, self._base, self._end, len(verdicts), int(Reason.EVICTED), verdicts
        )
        return verdicts[:n]

    def unsettled(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Tell of each flow whether it is here and has no final verdict, bool ``[n]``."""
        out = np.empty(len(numbers), np.bool_)
        queries.unsettled(self._entries, self._base, self._end, numbers, out)
        return out

    def forget_all(self) -> int:
        """Forget every flow, as somebody else sees to their verdicts; return how many had none."""
        count = self.open
        self.set_aside += count
        self._base = self._end
        self._queued = 0
        self._free = np.arange(len(self._blocks), dtype=np.int32)
        self._free_count = len(self._blocks)
        return count

    def send_again(self, numbers: npt.NDArray[np.uint64]) -> None:
        """Send these flows, as far as they are unsettled, again from their first packet."""
        self._queued, flows, packets = kernels.reset(
            self._entries, self._queue, self._queued, self._base, numbers
        )
        self.resent_flows += flows
        self.resent_packets += packets

    def uncertain_of(self, tracker: int, trackers: int) -> npt.NDArray[np.uint64]:
        """Return the numbers of the uncertain flows that are pinned to ``tracker``."""
        return queries.reset_tracker(self._entries, self._base, self._end, tracker, trackers)

    def overdue(self, watermark_ns: int, sent_before_ns: int) -> npt.NDArray[np.uint64]:
        """Return the numbers of flows whose verdict should have come but did not.

        Args:
            watermark_ns: What the service has acknowledged.
            sent_before_ns: Only flows last sent before this wall clock.
        """
        return queries.overdue(
            self._entries, self._base, self._end, self._depth,
            watermark_ns - self._max_wait_ns, sent_before_ns,
        )  # fmt: skip

    def _reserve(self, need: int) -> None:
        """Make room for so many numbers from the oldest unsettled flow's on."""
        size = len(self._entries)
        if need <= size:
            return
        new = 1 << (need - 1).bit_length()
        numbers = np.arange(self._base, self._end, dtype=np.uint64)
        old_at, new_at = numbers & np.uint64(size - 1), numbers & np.uint64(new - 1)
        for name in ("_entries", "_flows"):
            old = getattr(self, name)
            grown = np.zeros(new, old.dtype)
            as_bytes(grown)[new_at] = as_bytes(old)[old_at]
            setattr(self, name, grown)
        queue = np.empty(new, np.uint64)
        queue[: self._queued] = self._queue[: self._queued]
        self._queue = queue

    def _reserve_blocks(self, more: int) -> None:
        """Make room for the packets of so many further flows."""
        size = len(self._blocks)
        need = size - self._free_count + more
        if need <= size:
            return
        new = max(need, min(2 * size, self._limits.unsettled))
        for name in ("_blocks", "_hosts"):
            old = getattr(self, name)
            grown = np.zeros((new, *old.shape[1:]), old.dtype)
            as_bytes(grown)[:size] = as_bytes(old)
            setattr(self, name, grown)
        free = np.empty(new, np.int32)
        free[: self._free_count] = self._free[: self._free_count]
        free[self._free_count : self._free_count + new - size] = np.arange(size, new)
        self._free = free
        self._free_count += new - size
