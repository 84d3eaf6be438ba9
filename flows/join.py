"""A tracker's state: the packets of uncertain flows, joined with the mark that awaits them.

The join is idempotent and indifferent to order: a packet is known by ``(flow_id, packet_index)``,
so absorbing it twice, late or before its flow's mark changes nothing. What it hands out is a
function of the flow's packets alone:

- packets count from the first on, without gaps, up to the depth, and only those within
  ``max_wait`` of the first (capture time);
- a flow is *due* when it has as many as its next tier wants, when it ended with all of them
  here, or when its collector's watermark has passed the deadline.

A call looks at the flows that it brings something for and, by a timing wheel for each collector,
at those whose time has run out; what else is open costs it nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from flows import join_kernels as kernels
from flows import join_rows as layout
from flows.join_due import find_due, hand_out, wake
from flows.kept import rest_dtype, split
from flows.packet import HOST_DTYPE, Records, packet_dtype
from flows.records import aligned_zeros
from flows.verdict import Reason

__all__ = ["DUE_DTYPE", "MARK_DTYPE", "Due", "Join", "JoinCounters"]

MARK_DTYPE = np.dtype([("flow_id", "<u8"), ("next_tier", "u1")])
"""A flow that a tier was not sure of, and the tier that is to judge it next."""

DUE_DTYPE = np.dtype(
    [
        ("flow_id", "<u8"),
        ("over_ns", "<i8"),  # if over: the capture time at which waiting ended
        ("next_tier", "u1"),
        ("over", "u1"),  # 1: no further packets count, whatever the depth
        ("reason", "u1"),  # if over: Reason.ENDED or Reason.TIMEOUT
    ]
)
"""A flow that is to be judged now."""

_GONE_AFTER_S = 60.0  # a collector that was silent for so long (wall clock) has gone


@dataclass(frozen=True, slots=True)
class Due:
    """Flows to be judged now, with their packets.

    Attributes:
        flows: ``DUE_DTYPE [n]``.
        packets: Their packets, ``PACKET_DTYPE [m]``, by flow, then by index, without gaps.
        offsets: Where each flow's packets begin, int64 ``[n + 1]``.
    """

    flows: Records
    packets: Records
    offsets: npt.NDArray[np.int64]


@dataclass(slots=True)
class JoinCounters:
    """What a tracker has seen; see the conservation laws in docs/architecture.md.

    ``flows_admitted = flows_final + open flows + flows_lost`` and
    ``packets_in = packets_applied + packets_duplicate`` hold at any time.
    """

    packets_in: int = 0
    packets_applied: int = 0
    packets_duplicate: int = 0
    flows_admitted: int = 0
    flows_final: int = 0
    flows_lost: int = 0  # of collectors that have gone, or whose answer never came back
    orphans: int = 0  # packets kept for a mark that never came, let go

    def to_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return asdict(self)


@dataclass(slots=True)
class _Collector:
    """A collector incarnation that sends flows here."""

    number: int  # rows name it by this
    wheel: npt.NDArray[np.int32]
    reached_ns: int  # its furthest watermark so far
    heard_s: float = 0.0


class Join:
    """The packets of the uncertain flows that are pinned to one tracker.

    Args:
        depths: First packets that each tier wants, by tier, not decreasing.
        max_wait_s: How long after its first packet (capture time) a flow waits for more.
        capacity: Flows that fit before the tables grow.
        wall_clock: Seconds; only to tell that a collector has gone.
        with_header: The packets hold their headers' bytes, see :func:`flows.packet.packet_dtype`.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        max_wait_s: float,
        *,
        capacity: int = 1024,
        wall_clock: Callable[[], float] = time.monotonic,
        with_header: bool = False,
    ) -> None:
        self._depths = np.array(depths, np.uint8)
        self._depth = max(depths)
        self._max_wait_ns = np.int64(max_wait_s * 1e9)
        self._wall_clock = wall_clock
        self._bucket_ns = max(self._max_wait_ns // layout.WAIT_BUCKETS, np.int64(1))
        self._collectors: dict[str, _Collector] = {}  # the one heard of last comes last
        self._numbers: list[int] = []  # of collectors that have gone
        self.counters = JoinCounters()
        self._rows = aligned_zeros(capacity, layout.ROW_DTYPE)
        self._blocks = np.zeros((capacity, self._depth), rest_dtype(with_header))
        self._hosts = np.zeros(capacity, HOST_DTYPE)
        self._blank_host = np.zeros(1, HOST_DTYPE)
        self._packet_dtype = packet_dtype(with_header)
        self._free = np.arange(capacity - 1, -1, -1, dtype=np.int32)
        self._free_count = capacity
        self._looked = np.empty(capacity, np.int32)  # scratch: rows that a call looks at
        self._index = layout.new_index(capacity)

    @property
    def open_flows(self) -> int:
        """Flows held here that are owed an answer; counted, so not for the hot path."""
        return int(kernels.count_open(self._rows))

    def absorb(
        self,
        collector: str,
        watermark_ns: int,
        packets: Records,
        marks: Records,
        settled: npt.NDArray[np.uint64],
    ) -> Due:
        """Take in what one collector's batch holds for this tracker.

        Args:
            collector: The collector incarnation.
            watermark_ns: All its packets up to this capture time have been submitted.
            packets: Packets and end marks, ``PACKET_DTYPE [n]``, in any order.
            marks: Uncertain flows, ``MARK_DTYPE [k]``; each one's first packet came before or
                is among ``packets``.
            settled: Ids, uint64 ``[s]``, of flows that were handed out and now have their answer.

        Returns:
            The flows that became due, each one once; one that its next tier may settle only
            provisionally stays here until it is marked again or settled.
        """
        whose = self._hear(collector, watermark_ns)
        self._reserve(len(packets) + len(marks))
        watermark = np.int64(watermark_ns)
        counts = np.zeros(kernels.COUNTS, np.int64)
        self._free_count, n = kernels.take_in(
            self._rows, self._blocks, self._hosts, self._index, whose.wheel,
            self._free, self._free_count, np.int64(whose.number), packets, split(packets),
            marks, settled, self._max_wait_ns, self._looked, counts,
        )  # fmt: skip
        n = wake(
            self._rows, whose.wheel, np.int64(whose.reached_ns), watermark, self._bucket_ns,
            self._max_wait_ns, self._looked, n,
        )  # fmt: skip
        looked = self._looked[:n]
        due, rows, sizes = find_due(
            self._rows, self._depth, looked, watermark, self._max_wait_ns, self._depths,
            Reason.ENDED, Reason.TIMEOUT,
        )  # fmt: skip
        offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        handed = np.empty(offsets[-1], self._packet_dtype)
        hand_out(self._blocks, self._hosts, rows, offsets, self._blank_host, split(handed))
        whose.reached_ns = max(whose.reached_ns, watermark_ns)
        self._free_count = kernels.let_go(
            self._rows, self._index, whose.wheel, self._free, self._free_count,
            due, rows, sizes, looked, np.int64(whose.reached_ns), watermark, self._bucket_ns,
            self._max_wait_ns, self._depths, counts,
        )  # fmt: skip
        self._count(counts)
        self._drop_gone()
        return Due(due, handed, offsets)

    def _hear(self, collector: str, watermark_ns: int) -> _Collector:
        whose = self._collectors.pop(collector, None)
        if whose is None:
            number = self._numbers.pop() if self._numbers else len(self._collectors)
            whose = _Collector(number, layout.new_wheel(), watermark_ns)
        whose.heard_s = self._wall_clock()
        self._collectors[collector] = whose
        return whose

    def _count(self, counts: npt.NDArray[np.int64]) -> None:
        c = self.counters
        c.packets_in += int(counts[kernels.PACKETS_IN])
        c.packets_applied += int(counts[kernels.APPLIED])
        c.packets_duplicate += int(counts[kernels.DUPLICATE])
        c.flows_admitted += int(counts[kernels.ADMITTED])
        c.flows_final += int(counts[kernels.FINAL])
        c.orphans += int(counts[kernels.ORPHANS])
        c.flows_lost += int(counts[kernels.LOST])

    def _drop_gone(self) -> None:
        now_s = self._wall_clock()
        while self._collectors:
            name, whose = next(iter(self._collectors.items()))
            if now_s - whose.heard_s <= _GONE_AFTER_S:
                break
            counts = np.zeros(kernels.COUNTS, np.int64)
            self._free_count = kernels.drop_all(
                self._rows, self._index, whose.wheel, self._free, self._free_count, counts
            )
            self._count(counts)
            self._numbers.append(whose.number)
            del self._collectors[name]

    def _reserve(self, more: int) -> None:
        if self._free_count >= more:
            return
        old = len(self._rows)
        new = max(2 * old, old + more)
        self._rows = _longer(self._rows, aligned_zeros(new, layout.ROW_DTYPE))
        self._blocks = _longer(self._blocks, np.zeros((new, self._depth), self._blocks.dtype))
        self._hosts = _longer(self._hosts, np.zeros(new, HOST_DTYPE))
        free = np.empty(new, np.int32)
        free[: self._free_count] = self._free[: self._free_count]
        free[self._free_count : self._free_count + new - old] = np.arange(
            new - 1, old - 1, -1, dtype=np.int32
        )
        self._free = free
        self._free_count += new - old
        self._looked = np.empty(new, np.int32)
        self._index = layout.rebuild_index(self._index, layout.new_index(new))


def _longer(old: Records, new: Records) -> Records:
    """Fill ``new``, which holds zeros, with ``old`` and return it.

    Memory for its further rows is taken when they are used.
    """
    # As bytes: numpy copies structures field by field, which takes several times as long.
    new.view(np.uint8).ravel()[: old.nbytes] = old.view(np.uint8).ravel()
    return new
