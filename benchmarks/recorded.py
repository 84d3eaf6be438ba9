"""Captures in memory, on one clock, so that they can be played many times over.

Copies are told apart by their hosts' addresses: each copy's are shifted by a number of its own, at
the decoded packets. What a model may know of an address (its kind) stands in the packet itself and
stays, and so does what each host did before, as far as its own copy goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flows.capture import CaptureReader
from flows.compiled import kernel
from flows.decode import Decoded
from flows.errors import SettingsError
from flows.packet import Records
from flows.records import copied
from flows.table import FlowTable

__all__ = ["Recorded", "RepeatedCaptures", "read_captures", "with_other_hosts"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Decoded captures, each one's first packet at 0 ns.

    Attributes:
        packets: As decoded but for ``time_ns``, ``PACKET_DTYPE [n]``, by capture, then time.
        endpoints: ``ENDPOINTS_DTYPE [n]``; hosts of different captures differ.
        tracked: The same packets as the flow table leaves them, ``PACKET_DTYPE [n]``.
        flow: Which flow each belongs to, int64 ``[n]``; 0, 1, … over all captures.
        ends: ``END_DTYPE``; of flows that ended before their capture did; ``flow_number`` counts
            over all captures too.
        flows: How many flows there are.
        captures: How many captures.
    """

    packets: Records
    endpoints: Records
    tracked: Records
    flow: npt.NDArray[np.int64]
    ends: Records
    flows: int
    captures: int

    @property
    def starts_ns(self) -> npt.NDArray[np.int64]:
        """When each flow begins, int64 ``[flows]``."""
        starts = np.full(self.flows, np.iinfo(np.int64).max)
        np.minimum.at(starts, self.flow, self.tracked["time_ns"])
        return starts


def with_other_hosts(endpoints: Records, copy: npt.NDArray[np.uint64] | int) -> Records:
    """Return ``ENDPOINTS_DTYPE [n]`` with the hosts of another copy.

    Args:
        endpoints: Left as they are.
        copy: Number of the copy, one for all or uint64 ``[n]``; 0: the hosts stay.
    """
    changed = copied(endpoints)
    shift = np.asarray(copy, np.uint64) << np.uint64(32)
    changed["src_hi"] ^= shift
    changed["dst_hi"] ^= shift
    return changed


def read_captures(paths: Sequence[Path], *, with_header: bool = False) -> Recorded:
    """Read captures into memory.

    Args:
        paths: The captures.
        with_header: The packets hold their headers' bytes (``ServiceSchema.header``).

    Raises:
        CaptureError: One cannot be read to its end.
        SettingsError: There is no flow in them.
    """
    raw, endpoints, tracked, flow, ends = [], [], [], [], []
    flows = 0
    for number, path in enumerate(paths):
        table = FlowTable(first_packets=1)
        first_ns: int | None = None
        for chunk in CaptureReader(path, with_header=with_header).chunks():
            if not len(chunk.packets):
                continue
            if first_ns is None:
                first_ns = int(chunk.packets["time_ns"][0])
            packets = chunk.packets.copy()
            update = table.update(packets, chunk.endpoints)
            ended = update.ends.copy()
            packets["time_ns"] -= first_ns
            ended["time_ns"] -= first_ns
            ended["flow_number"] += np.uint64(flows)
            original = chunk.packets.copy()
            original["time_ns"] = packets["time_ns"]
            raw.append(original)
            tracked.append(packets)
            endpoints.append(with_other_hosts(chunk.endpoints, number))
            flow.append(update.flow_number.astype(np.int64) + flows)
            ends.append(ended)
        flows += table.counters.flows
    if not flows:
        raise SettingsError("the captures hold no flow: name others")
    return Recorded(
        np.concatenate(raw),
        np.concatenate(endpoints),
        np.concatenate(tracked),
        np.concatenate(flow),
        np.concatenate(ends),
        flows,
        len(paths),
    )


class RepeatedCaptures:
    """Reads captures over and over as one long capture: each time later, and with other hosts.

    Args:
        paths: The captures; they are read anew in each pass.
        passes: How many times.
        gap_ns: Capture time between one capture's last packet and the next one's first.
        with_header: As for :class:`flows.capture.CaptureReader`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        passes: int,
        *,
        gap_ns: int = 1_000_000,
        with_header: bool = False,
    ) -> None:
        self._paths = paths
        self._passes = passes
        self._gap_ns = gap_ns
        self._with_header = with_header
        self.path = Path("captures")

    def chunks(self) -> Iterator[Decoded]:
        """Yield the packets chunk by chunk.

        Raises:
            CaptureError: A capture cannot be read to its end.
        """
        clock_ns = 1  # 0 would look like a host's free place, see flows.hosts
        for number in range(self._passes * len(self._paths)):
            path = self._paths[number % len(self._paths)]
            shift_ns: int | None = None
            for chunk in CaptureReader(path, with_header=self._with_header).chunks():
                if not len(chunk.packets):
                    continue
                if shift_ns is None:
                    shift_ns = clock_ns - int(chunk.packets["time_ns"][0])
                # In place: nobody else has this chunk.
                clock_ns = _play_as(chunk.packets, chunk.endpoints, number, shift_ns, clock_ns)
                yield chunk
            clock_ns += self._gap_ns


@kernel
def _play_as(packets: Records, endpoints: Records, copy: int, shift_ns: int, clock_ns: int) -> int:
    """Give packets the hosts of another copy, and later times; return the latest one."""
    shift = np.uint64(copy) << np.uint64(32)
    for i in range(len(packets)):
        packets[i].time_ns += shift_ns
        clock_ns = max(clock_ns, packets[i].time_ns)
        endpoints[i].src_hi ^= shift
        endpoints[i].dst_hi ^= shift
    return clock_ns
