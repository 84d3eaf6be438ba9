"""What one load generator's collector has to send, and when: two ways to play flows.

Flow ``i`` of a collector begins ``i / rate`` seconds after the load's beginning, whatever the
service does, and is flow ``i`` modulo their number of the template.

- :class:`SpreadFeed`: as a live network. A flow's packets come with their captured delays; its
  first one goes out alone, and the others only while the service is not sure (the collector's
  ledger does the same).
- :class:`WholeFeed`: all first packets of a flow at once, in batches encoded beforehand. It costs
  the generator next to nothing, and the service more bytes and fewer rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.patched import PatchedBatch
from benchmarks.template import FlowTemplate
from flows.ids import flow_ids
from flows.packet import FlowEndReason
from flows.wire import PacketBatch, encode_batch

__all__ = ["Feed", "FlowState", "Offered", "Pace", "SpreadFeed", "WholeFeed"]

_EPOCH_NS = 1_700_000_000_000_000_000  # the load's beginning on the capture's clock
_S = 1_000_000_000

_Rows: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Numbers of flows and rows of the template, as many."""


class FlowState(IntEnum):
    """What the service has said of a flow."""

    NEW = 0
    UNCERTAIN = 1
    FINAL = 2
    REFUSED = 3  # it did not take the flow, and the load went on


@dataclass(frozen=True, slots=True)
class Pace:
    """When a collector's flows begin.

    Attributes:
        rate: New flows per second.
        phase: Share of ``1 / rate`` by which flow 0 is late, so that collectors take turns.
    """

    rate: float
    phase: float = 0.0

    def starts_ns(self, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return when flows begin after the load's beginning, int64 ``[n]``."""
        return ((numbers + self.phase) * (_S / self.rate)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Offered:
    """A batch to send.

    Attributes:
        body: Encoded; valid until the next one is asked for.
        flows: New flows in it.
        packets: Packets in it; end marks do not count.
        numbers: All flows that it is about, int64.
        until_ns: All that is due up to this time has been handed out.
    """

    body: bytes | bytearray
    flows: int
    packets: int
    numbers: npt.NDArray[np.int64]
    until_ns: int


class Feed(Protocol):
    """Hands out batches; times count from the load's beginning, capture clock."""

    def next(self, clock_ns: int, *, more: bool) -> Offered | None:
        """Return the next batch that is due at ``clock_ns``; None: none is.

        Args:
            clock_ns: Now.
            more: Whether flows still begin; else those begun are played to their end, and there
                is always a batch, if only to move the watermark.
        """

    def send_again(self, numbers: npt.NDArray[np.int64]) -> None:
        """Put these flows, as far as they have come, into the next batch again."""


class _Again:
    """Flows to be sent again, from their first packet, since a tracker has lost them.

    Args:
        template: The flows.
        collector: The collector's name.
        pace: When flows begin.
        seed: Of the flow ids.
    """

    def __init__(self, template: FlowTemplate, collector: str, pace: Pace, seed: int) -> None:
        self._template = template
        self._collector = collector
        self._pace = pace
        self._seed = seed
        self._numbers = np.empty(0, np.int64)

    def add(self, numbers: npt.NDArray[np.int64]) -> None:
        """Note flows."""
        self._numbers = np.union1d(self._numbers, numbers)

    def take(self, until_ns: int, *, spread: bool) -> _Rows:
        """Return the rows of the flows noted that have come by now, and forget them."""
        flow = self._numbers % len(self._template)
        sizes = np.diff(self._template.offsets)[flow]
        numbers = np.repeat(self._numbers, sizes)
        begins = np.repeat(self._template.offsets[flow] - np.cumsum(sizes) + sizes, sizes)
        rows = begins + np.arange(len(numbers))
        self._numbers = self._numbers[:0]
        if spread:
            due_ns = self._pace.starts_ns(numbers) + self._template.rows["time_ns"][rows]
            return numbers[due_ns <= until_ns], rows[due_ns <= until_ns]
        return numbers, rows

    def offered(self, numbers: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], flows: int,
                until_ns: int) -> Offered:  # fmt: skip
        """Return a batch of these rows of these flows."""
        # Indexing would copy field by field: 50 times slower.
        records = self._template.rows.take(rows)
        records["flow_id"] = flow_ids(numbers.astype(np.uint64), self._seed)
        records["time_ns"] += self._pace.starts_ns(numbers) + _EPOCH_NS
        body = encode_batch(PacketBatch(self._collector, until_ns + _EPOCH_NS, records))
        packets = int((records["flow_end_reason"] == FlowEndReason.NONE).sum())
        return Offered(body, flows, packets, np.unique(numbers), until_ns)


class WholeFeed:
    """All first packets of a flow at once.

    Args:
        template: The flows.
        collector: The collector's name.
        pace: When flows begin.
        seed: Of the flow ids.
        batch_flows: Flows in a batch.
    """

    def __init__(
        self, template: FlowTemplate, collector: str, pace: Pace, seed: int, batch_flows: int
    ) -> None:
        self._pace = pace
        self._seed = seed
        self._again = _Again(template, collector, pace, seed)
        self._until_ns = 0
        count = min(batch_flows, len(template))
        firsts = range(0, len(template) - count + 1, count)
        self._batches = [PatchedBatch(collector, template, at, count) for at in firsts]
        self._packets = [int(_is_packet(template, at, at + count).sum()) for at in firsts]
        self._sent = 0
        self._turn = 0

    def next(self, clock_ns: int, *, more: bool) -> Offered | None:
        """See :meth:`Feed.next`; a batch is due when the last of its flows begins."""
        numbers, rows = self._again.take(0, spread=False)
        if not more:
            return self._again.offered(numbers, rows, 0, clock_ns)
        if len(numbers):
            return self._again.offered(numbers, rows, 0, self._until_ns)
        return self._next(clock_ns)

    def send_again(self, numbers: npt.NDArray[np.int64]) -> None:
        """See :meth:`Feed.send_again`."""
        self._again.add(numbers)

    def _next(self, clock_ns: int) -> Offered | None:
        batch = self._batches[self._turn]
        numbers = np.arange(self._sent, self._sent + batch.flows, dtype=np.uint64)
        starts_ns = self._pace.starts_ns(numbers)
        due_ns = int(starts_ns[-1])
        if due_ns > clock_ns:
            return None
        packets = self._packets[self._turn]
        self._until_ns = due_ns
        self._sent += batch.flows
        self._turn = (self._turn + 1) % len(self._batches)
        body = batch.patch(flow_ids(numbers, self._seed), starts_ns + _EPOCH_NS, due_ns + _EPOCH_NS)
        return Offered(body, batch.flows, packets, numbers.astype(np.int64), due_ns)


class SpreadFeed:
    """Flows whose packets come with their captured delays.

    Args:
        template: The flows.
        collector: The collector's name.
        pace: When flows begin.
        seed: Of the flow ids.
        state: What the service has said of each flow, :class:`FlowState`, uint8 ``[n]``; the
            caller keeps it up to date.
        max_rows: Rows of a batch, about; behind a backlog the clock advances in steps.
    """

    def __init__(
        self,
        template: FlowTemplate,
        collector: str,
        pace: Pace,
        seed: int,
        state: npt.NDArray[np.uint8],
        max_rows: int = 16_384,
    ) -> None:
        self._template = template
        self._pace = pace
        self._again = _Again(template, collector, pace, seed)
        self._state = state
        self._first = template.rows["packet_index"] == 0
        self._first &= template.rows["flow_end_reason"] == FlowEndReason.NONE
        # A round is the template as often as it takes to fill a second, so that few rounds
        # overlap however fast flows come.
        times = max(1, round(pace.rate / len(template)))
        self._round_flows = times * len(template)
        row = np.tile(np.arange(len(template.rows), dtype=np.int64), times)
        flow = np.tile(template.flow, times)
        flow += np.repeat(np.arange(times) * len(template), len(template.rows))
        due_ns = pace.starts_ns(flow) + template.rows["time_ns"][row]
        order = np.argsort(due_ns, kind="stable")
        self._due_ns, self._row, self._flow = due_ns[order], row[order], flow[order]
        per_s = pace.rate * len(template.rows) / len(template)
        self._step_ns = int(max_rows / per_s * _S)
        self._until_ns = -1
        self._cursors: dict[int, int] = {}
        self._next_round = 0
        self._flows = 0
        self._waiting: _Rows = (np.empty(0, np.int64), np.empty(0, np.int64))

    def next(self, clock_ns: int, *, more: bool) -> Offered | None:
        """See :meth:`Feed.next`; rows are due at their own times."""
        until_ns = min(clock_ns, self._until_ns + self._step_ns)
        numbers, rows = self._due(until_ns)
        if not more:  # the flows that have not begun never will
            begun = numbers < self._flows
            numbers, rows = numbers[begun], rows[begun]
        self._until_ns = until_ns
        state = self._state[numbers]
        first = self._first[rows]
        self._flows = max(self._flows, int(numbers[first].max(initial=-1)) + 1)
        # Later packets wait at the collector until the service has said whether it wants them.
        wait = ~first & (state == FlowState.NEW)
        self._waiting = (numbers[wait], rows[wait])
        send = first | (state == FlowState.UNCERTAIN)
        again = self._again.take(until_ns, spread=True)
        numbers = np.concatenate([numbers[send], again[0]])
        rows = np.concatenate([rows[send], again[1]])
        if not len(rows) and more:
            return None
        return self._again.offered(numbers, rows, int(first.sum()), until_ns)

    def send_again(self, numbers: npt.NDArray[np.int64]) -> None:
        """See :meth:`Feed.send_again`."""
        self._again.add(numbers)

    def _due(self, until_ns: int) -> _Rows:
        """Return all that is due and was not sent."""
        period_ns = self._round_flows * _S / self._pace.rate
        while int(self._next_round * period_ns) <= until_ns:
            self._cursors[self._next_round] = 0
            self._next_round += 1
        numbers, rows = [self._waiting[0]], [self._waiting[1]]
        for number, at in list(self._cursors.items()):
            since_ns = until_ns - int(number * period_ns)
            end = int(np.searchsorted(self._due_ns, since_ns, side="right"))
            numbers.append(self._flow[at:end] + number * self._round_flows)
            rows.append(self._row[at:end])
            self._cursors[number] = end
            if end == len(self._due_ns):
                del self._cursors[number]
        return np.concatenate(numbers), np.concatenate(rows)


def _is_packet(template: FlowTemplate, first: int, end: int) -> npt.NDArray[np.bool_]:
    rows = template.rows[template.offsets[first] : template.offsets[end]]
    return np.asarray(rows["flow_end_reason"] == FlowEndReason.NONE)
