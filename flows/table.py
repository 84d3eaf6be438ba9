"""The flow table: which flow a packet belongs to, its number within it, and when flows end.

All time is capture time. Feeding the same packets in other chunks changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows import table_kernels as kernels
from flows import table_layout as layout
from flows import table_timers as timers
from flows.errors import SettingsError
from flows.hosts import new_histories
from flows.ids import flow_ids
from flows.packet import MAX_DEPTH, Protocol, Records
from flows.records import aligned_zeros, as_bytes, copied, taken
from flows.table_entries import rehash
from flows.table_lookup import hash_packets

__all__ = [
    "END_DTYPE",
    "ENTRY_BYTES",
    "FLOW_DTYPE",
    "FlowTable",
    "FlowTimeouts",
    "TableCounters",
    "TableUpdate",
]

_REMEMBERED = 65_536  # refused flows that are told apart; a power of two

ENTRY_BYTES = layout.ENTRY_DTYPE.itemsize + layout.LINKS_DTYPE.itemsize + 16
"""What a flow takes in a table: its entry, and two slots of the hash table."""

FLOW_DTYPE = np.dtype(
    [
        ("flow_number", "<u8"),  # 0, 1, 2, … in order of appearance
        ("flow_id", "<u8"),
        ("start_time_ns", "<i8"),
        ("src_hi", "<u8"),  # the originator's address; see ENDPOINTS_DTYPE
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("reserved", "<u2"),
    ]
)
"""A flow as it is known from its first packet; source is the originator."""

END_DTYPE = np.dtype(
    [
        ("flow_number", "<u8"),
        ("flow_id", "<u8"),
        ("time_ns", "<i8"),  # the packet that ended it, or when its timeout passed
        ("packets", "<u4"),
        ("reason", "u1"),  # flows.packet.FlowEndReason
    ]
)
"""The end of a flow."""


@dataclass(frozen=True, slots=True)
class FlowTimeouts:
    """When flows end, in seconds of capture time.

    Attributes:
        tcp_idle_s: TCP flows without a packet for so long.
        udp_idle_s: UDP flows (RFC 4787 recommends 300 s or more).
        icmp_idle_s: ICMP and ICMPv6 flows.
        active_s: Flows that have gone on for so long, as IPFIX exporters do.
        linger_s: How long packets after the end of a TCP flow still count as its stragglers.
    """

    tcp_idle_s: float = 300.0
    udp_idle_s: float = 300.0
    icmp_idle_s: float = 60.0
    active_s: float = 1800.0
    linger_s: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 < getattr(self, name) <= 1e9:
                raise SettingsError(
                    f"{name}: must be over 0 and at most 1e9, is {getattr(self, name)}"
                )

    def as_ns(self) -> npt.NDArray[np.int64]:
        """Return the timeouts in the order that the compiled table wants."""
        seconds = (
            self.tcp_idle_s, self.udp_idle_s, self.icmp_idle_s, self.linger_s, self.active_s
        )  # fmt: skip
        return np.array([int(s * 1e9) for s in seconds], np.int64)


@dataclass(frozen=True, slots=True)
class TableUpdate:
    """What became of packets.

    Attributes:
        flow_number: Each packet's flow, uint64 ``[n]``; ``NO_FLOW`` of
            :mod:`flows.table_kernels` where it found no room.
        kept: Rows of the packets that are among the first of their flow, int64 ``[k]``.
        new_flows: Flows that begin here, ``FLOW_DTYPE``, in order of their numbers.
        ends: Flows that ended, ``END_DTYPE``.
    """

    flow_number: npt.NDArray[np.uint64]
    kept: npt.NDArray[np.int64]
    new_flows: Records
    ends: Records


@dataclass(frozen=True, slots=True)
class TableCounters:
    """What a table has seen.

    Attributes:
        packets: Packets of flows.
        flows: Flows begun.
        time_regressions: Packets whose time stamp was before an earlier packet's; they were given
            that one's.
        after_end: Packets that came after their TCP flow had ended.
        protocols: Flows and packets by protocol name.
        refused_flows: Flows that found no room; of more than 65,536 at a time some are counted
            more than once.
        refused_packets: Their packets.
    """

    packets: int
    flows: int
    time_regressions: int
    after_end: int
    protocols: dict[str, dict[str, int]]
    refused_flows: int = 0
    refused_packets: int = 0


class FlowTable:
    """The open flows of one collector.

    A flow begins with a packet that belongs to no open flow, or with a TCP SYN that does not
    repeat the open flow's own. It ends with a RST, with FIN from both sides, or by timeout. Its
    originator is the sender of the first packet, or, if that one is a SYN+ACK, its receiver.

    Args:
        first_packets: How many packets of each flow are of interest (``kept``).
        timeouts: When flows end.
        seed: Secret of the flow ids (:mod:`flows.ids`).
        initial_capacity: Flows that fit before the table grows.
        most_flows: Flows that it may grow to hold, rounded up to a power of two; packets that
            would begin others are refused and counted. Those that lately ended count too, but
            make room.

    Raises:
        SettingsError: ``first_packets`` is out of range.
    """

    def __init__(
        self,
        *,
        first_packets: int,
        timeouts: FlowTimeouts | None = None,
        seed: int = 0,
        initial_capacity: int = 4_096,  # few flows are to stand close together, in the cache
        most_flows: int = 1 << 31,
    ) -> None:
        if not 1 <= first_packets <= MAX_DEPTH:
            raise SettingsError(f"first_packets: must be 1 to {MAX_DEPTH}, is {first_packets}")
        self._first_packets = first_packets
        self._timeouts_ns = (timeouts or FlowTimeouts()).as_ns()
        self._id_seed = np.uint64(seed)
        # Spread by a secret, so that nobody can aim many flows at one place of the table.
        self._hash_seed = flow_ids(np.zeros(1, np.uint64), ~seed & (2**64 - 1))[0]
        most = 1 << max(most_flows - 1, 1).bit_length()
        size = min(1 << max(initial_capacity - 1, 1).bit_length(), most)
        self._entries = aligned_zeros(size, layout.ENTRY_DTYPE)
        self._links = aligned_zeros(size, layout.LINKS_DTYPE)
        self._slots = np.zeros(2 * size, np.uint64)
        self._wheel = np.full(timers.SPOKES, -1, np.int32)
        self._state = np.zeros(layout.STATE_SIZE, np.int64)
        self._state[[layout.FREED, layout.LINGER_HEAD, layout.LINGER_TAIL]] = -1
        self._state[layout.SHIFT] = timers.shift_for(self._timeouts_ns)
        self._state[layout.MOST_ENTRIES] = most
        self._refused = np.zeros(_REMEMBERED, np.uint64)
        self._histories = new_histories()

    @property
    def open_flows(self) -> int:
        """Flows that have not ended."""
        return int(self._state[layout.OPEN])

    @property
    def counters(self) -> TableCounters:
        """What the table has seen so far."""
        told = self._state[layout.COUNTERS :].tolist()
        refused = self._state[[layout.REFUSED_FLOWS, layout.REFUSED_PACKETS]].tolist()
        order = (Protocol.TCP, Protocol.UDP, Protocol.ICMP, Protocol.ICMPV6)
        protocols = {
            protocol.name: {"flows": told[3 + i], "packets": told[7 + i]}
            for i, protocol in enumerate(order)
            if told[7 + i]
        }
        flows = int(self._state[layout.NEXT_NUMBER])
        return TableCounters(told[0], flows, told[1], told[2], protocols, *refused)

    @property
    def memory_bytes(self) -> int:
        """What it takes."""
        arrays = (
            self._entries, self._links, self._slots, self._wheel, self._histories, self._refused
        )  # fmt: skip
        return sum(array.nbytes for array in arrays)

    def update(
        self, packets: Records, endpoints: Records, *, numbers_until: int = 2**63 - 1
    ) -> TableUpdate:
        """Take packets in.

        Args:
            packets: ``PACKET_DTYPE [n]`` as decoded; ``flow_id``, ``packet_index``,
                ``from_originator``, the ports and ``host`` (:mod:`flows.hosts`) are filled in,
                and ``time_ns`` is raised to the latest one seen where it goes back.
            endpoints: ``ENDPOINTS_DTYPE [n]``.
            numbers_until: No flow begins with this number or a higher one: such are refused.
        """
        self._state[layout.NUMBERS_UNTIL] = numbers_until
        n = len(packets)
        hashes = np.empty(n, np.uint64)
        flow_number = np.empty(n, np.uint64)
        kept = np.empty(n, np.int64)
        flows = np.empty(n, FLOW_DTYPE)
        ends = np.empty(2 * n + self.open_flows, END_DTYPE)  # at most: all expire, all end again
        lengths = np.zeros(3, np.int64)
        hash_packets(endpoints, self._hash_seed, hashes)
        begin = 0
        while begin < n:
            begin = kernels.update(
                packets, endpoints, hashes, begin, self._first_packets,
                self._entries, self._links, self._slots, self._wheel, self._histories, self._state,
                self._timeouts_ns, self._hash_seed, self._id_seed,
                flow_number, kept, flows, ends, lengths, self._refused,
            )  # fmt: skip
            if begin < n:
                self._grow()
        return TableUpdate(
            flow_number,
            kept[: lengths[0]].copy(),
            copied(flows[: lengths[1]]),
            copied(ends[: lengths[2]]),
        )

    def advance(self, clock_ns: int) -> Records:
        """Move the clock on without a packet; return the flows that ended, ``END_DTYPE``."""
        if clock_ns <= self._state[layout.CLOCK]:
            return np.empty(0, END_DTYPE)
        self._state[layout.CLOCK] = clock_ns
        ends = np.empty(self.open_flows, END_DTYPE)
        n = kernels.expire(
            self._entries, self._links, self._slots, self._wheel, self._state,
            self._timeouts_ns, self._hash_seed, self._id_seed, clock_ns, ends, 0,
        )  # fmt: skip
        return copied(ends[:n])

    def finish(self) -> Records:
        """End the flows that are open, as no packet will follow; return them, ``END_DTYPE``.

        Their order is that of their numbers. The table must not be used any further.
        """
        ends = np.empty(self.open_flows, END_DTYPE)
        kernels.finish(self._entries, self._links, self._wheel, self._state, self._id_seed, ends)
        return taken(ends, np.argsort(ends["flow_number"]))

    def _grow(self) -> None:
        size = 2 * len(self._entries)
        self._entries = _longer(self._entries, size)
        self._links = _longer(self._links, size)
        slots = np.zeros(2 * size, np.uint64)
        rehash(self._slots, slots)
        self._slots = slots


def _longer(records: Records, size: int) -> Records:
    """Return ``records`` with zeros behind them."""
    longer = aligned_zeros(size, records.dtype)
    as_bytes(longer)[: len(records)] = as_bytes(records)
    return longer
