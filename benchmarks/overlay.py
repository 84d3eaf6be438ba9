"""Plays what no single capture file holds through the real collector and its replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from benchmarks.recorded import Recorded, with_other_hosts
from collectors.collector import Collector, Settled
from collectors.delivery import Delivery
from collectors.replay import Replay, ReplaySettings
from collectors.sender import Part, Sender
from flows.capture import CaptureReader
from flows.decode import Decoded
from flows.errors import CaptureError
from flows.packet import Records

__all__ = ["Overlay", "Source", "play"]

_S = 1_000_000_000
_CHUNK_PACKETS = 1_024


class Source(Protocol):
    """What can be replayed in a capture's stead."""

    path: Path

    def chunks(self) -> Iterator[Decoded]:
        """Yield the packets, chunk by chunk."""


class _Replay(Replay):
    """The replay, but for where its packets come from."""

    source: Source

    def _paced(
        self, reader: CaptureReader, collector: Collector, delivery: Delivery
    ) -> Iterator[tuple[Records, Records, npt.NDArray[np.int64]]]:
        return super()._paced(cast(CaptureReader, self.source), collector, delivery)


def play(
    source: Source,
    sender: Sender,
    settings: ReplaySettings,
    on_settled: Callable[[Settled, Part], None],
) -> int:
    """Replay a source until each of its flows has its final verdict; return how many there were.

    Args:
        source: The packets.
        sender: The way to the service.
        settings: How to replay.
        on_settled: Called with the flows that got their final verdict, and the answer's part that
            brought it.

    Raises:
        CaptureError: The source cannot be read to its end.
        ServiceError: The service was away for too long, or refuses.
    """
    replay = _Replay(sender, settings, lambda _, settled, part: on_settled(settled, part))
    replay.source = source
    try:
        outcome = replay.run(source.path)
    finally:
        replay.close()
    if outcome.damage is not None:
        raise CaptureError(source.path, outcome.damage)
    return outcome.flows


class Overlay:
    """Overlapping copies of captures, with other hosts each, so that flows begin at some rate.

    The first copy begins so long before the timeline that the rate is the same all along. Of each
    copy those flows are played that begin within the timeline's first ``seconds``, with all their
    packets until ``tail_s`` later.

    Args:
        recorded: The captures.
        rate: New flows per second.
        seconds: How long flows begin.
        tail_s: How long their packets still come after that.
    """

    def __init__(self, recorded: Recorded, rate: float, seconds: float, tail_s: float) -> None:
        self.path = Path("overlay")
        self._recorded = recorded
        starts_ns = recorded.starts_ns
        period_ns = recorded.flows / rate * _S  # between two copies' beginnings
        load_ns = seconds * _S
        # Copy c of flow f begins at starts_ns[f] + c × period_ns.
        first = np.ceil(-starts_ns / period_ns).astype(np.int64)
        copies = np.ceil((load_ns - starts_ns) / period_ns).astype(np.int64) - first
        self.flows = int(copies.sum())
        copies_of_row = copies[recorded.flow]
        row = np.repeat(np.arange(len(recorded.packets), dtype=np.int64), copies_of_row)
        begins = np.cumsum(copies_of_row) - copies_of_row
        number = np.arange(len(row)) - np.repeat(begins, copies_of_row)
        number += first[recorded.flow[row]]
        time_ns = recorded.packets["time_ns"][row] + (number * period_ns).astype(np.int64)
        early = np.flatnonzero(time_ns <= load_ns + tail_s * _S)
        order = early[np.argsort(time_ns[early], kind="stable")]
        self._row, self._time_ns = row[order], time_ns[order]
        self._copy = (number[order] - int(first.min())).astype(np.uint64)
        self._captures = 1 << recorded.captures.bit_length()

    def chunks(self) -> Iterator[Decoded]:
        """Yield the packets in order of time; the first flow begins at 0 s or little later."""
        for at in range(0, len(self._row), _CHUNK_PACKETS):
            part = slice(at, at + _CHUNK_PACKETS)
            packets = self._recorded.packets.take(self._row[part])
            packets["time_ns"] = self._time_ns[part] + 1  # 0: a host's free place, flows.hosts
            endpoints = self._recorded.endpoints.take(self._row[part])
            copies = self._copy[part] * np.uint64(self._captures)
            yield Decoded(packets, with_other_hosts(endpoints, copies))
