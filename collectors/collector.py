"""The collector: packets in, batches out, one final verdict per flow. No I/O, no threads.

Each flow's first packet goes out alone; its later ones follow only while the service is not sure
(docs/architecture.md, "The collector"). A batch's watermark promises that every packet up to
that capture time has reached the service, so it never runs ahead of a batch that is still in
flight.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from collectors.ledger import Ledger
from flows.ids import flow_ids, slots_of
from flows.packet import Records
from flows.records import taken
from flows.service_schema import ServiceSchema
from flows.table import FlowTable, FlowTimeouts
from flows.verdict import Reason
from flows.wire import PacketBatch

__all__ = ["Collector", "CollectorSettings", "Outgoing", "Settled"]


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """How a collector works.

    Attributes:
        max_batch_packets: Rows of a batch at most (the service may set a lower bound).
        resend_after_s: How long (wall clock) a verdict may be overdue before the flow is sent
            again.
        timeouts: When a silent or long flow ends (capture time).
        hold_s: How long (wall clock) what a tracker did not take is held before it is sent again.
    """

    max_batch_packets: int = 4096
    resend_after_s: float = 5.0
    timeouts: FlowTimeouts = field(default_factory=FlowTimeouts)
    hold_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch on its way.

    Attributes:
        number: Counts the collector's batches.
        batch: What to submit.
        flows: Numbers (uint64) of the flows that it is about.
        deadline_ns: The earliest deadline (capture time) of those flows.
        formed_ns: The wall clock when it was formed.
    """

    number: int
    batch: PacketBatch
    flows: npt.NDArray[np.uint64]
    deadline_ns: int
    formed_ns: int


@dataclass(frozen=True, slots=True)
class _Held:
    """A batch of which trackers did not take their rows."""

    out: Outgoing
    trackers: frozenset[int]
    since_ns: int  # wall clock


@dataclass(frozen=True, slots=True)
class Settled:
    """Flows that got their final verdict; row ``i`` of each array is about the same flow.

    Attributes:
        flows: ``FLOW_DTYPE [n]``.
        verdicts: ``VERDICT_DTYPE [n]``.
        queue_ns: int64 ``[n]``; wall clock spent in batching, transport and queues.
        infer_ns: int64 ``[n]``; model time of all tiers asked.
    """

    flows: Records
    verdicts: Records
    queue_ns: npt.NDArray[np.int64]
    infer_ns: npt.NDArray[np.int64]


class Collector:
    """One incarnation of a collector: a flow table, a ledger, and batches in flight.

    Args:
        schema: What the service wants.
        settings: How to work.
        name: Who this is; a random suffix makes each incarnation's name its own.
        seed: Secret of the flow ids; random by default.
    """

    def __init__(
        self,
        schema: ServiceSchema,
        settings: CollectorSettings | None = None,
        *,
        name: str = "collector",
        seed: int | None = None,
    ) -> None:
        self._schema = schema
        self._settings = settings or CollectorSettings()
        self._seed = secrets.randbits(63) if seed is None else seed
        self.name = f"{name}#{secrets.token_hex(4)}"
        self.table = FlowTable(
            first_packets=schema.depth, timeouts=self._settings.timeouts, seed=self._seed
        )
        self.ledger = Ledger(schema.depth, schema.max_wait_s, self._seed, with_header=schema.header)
        self._limit = min(self._settings.max_batch_packets, schema.max_batch_packets)
        self._clock_ns = 0
        self._in_flight: dict[int, Outgoing] = {}
        self._number = 0
        self._away: dict[int, list[int]] = {}
        self._held: list[_Held] = []
        self._incarnations: dict[str, str] = {}
        self._acknowledged_ns = 0

    @property
    def open_flows(self) -> int:
        """Flows without a final verdict."""
        return self.ledger.open

    @property
    def in_flight(self) -> int:
        """Batches that the service has not answered yet."""
        return len(self._in_flight)

    @property
    def has_work(self) -> bool:
        """Whether a batch would hold any rows."""
        return self.ledger.waiting > 0

    @property
    def lags_behind(self) -> bool:
        """Whether more is waiting to be sent than two batches hold: reading should pause."""
        return self.ledger.waiting > 2 * self._limit

    def observe(self, packets: Records, endpoints: Records, seen_ns: npt.NDArray[np.int64]) -> None:
        """Take packets in, as decoded, seen at ``seen_ns`` (wall clock, int64 ``[n]``).

        They must hold their headers' bytes if the service's schema asks for them, and else not.
        """
        if not len(packets):
            return
        update = self.table.update(packets, endpoints)
        self.ledger.enter(update.new_flows)
        self.ledger.keep(packets, update.kept, update.flow_number, seen_ns)
        self.ledger.end_flows(update.ends, int(seen_ns[-1]))
        self._clock_ns = max(self._clock_ns, int(packets["time_ns"][-1]))

    def advance(self, clock_ns: int, seen_ns: int) -> None:
        """Move the clock on over a quiet wire."""
        if clock_ns > self._clock_ns:
            self.ledger.end_flows(self.table.advance(clock_ns), seen_ns)
            self._clock_ns = clock_ns

    def finish(self, seen_ns: int) -> None:
        """End every flow: no further packets will come."""
        self.ledger.end_flows(self.table.finish(), seen_ns)

    def next_batch(self, now_ns: int) -> Outgoing:
        """Form the next batch; it may have no rows, and then only moves the watermark."""
        formed = self.ledger.form(self._limit, self._clock_ns, now_ns)
        # A flow may only time out when all its packets are with the service. Where some are
        # still queued, in flight or held, the watermark stays behind that flow's deadline.
        watermark_ns = min(
            self._clock_ns,
            formed.queued_deadline_ns,
            min((out.deadline_ns for out in self._in_flight.values()), default=self._clock_ns),
            min((held.out.deadline_ns for held in self._held), default=self._clock_ns),
        )
        out = Outgoing(
            self._number,
            PacketBatch(self.name, max(watermark_ns, 0), formed.packets),
            formed.flows,
            formed.deadline_ns,
            now_ns,
        )
        self._in_flight[out.number] = out
        self._number += 1
        return out

    def receive(
        self, out: Outgoing, verdicts: Records, notes: dict[str, Any], now_ns: int
    ) -> Settled:
        """Take one part of an answer in.

        Returns:
            The flows that got their final verdict by it.
        """
        accepted, flows, entries = self.ledger.settle(verdicts)
        final = taken(verdicts, accepted)
        timed_out = final["reason"] == Reason.TIMEOUT
        since_ns = np.where(timed_out, out.formed_ns, entries["asked_seen_ns"])
        queue_ns = np.maximum(now_ns - since_ns - final["infer_ns"], 0)
        self._compare_incarnations(notes.get("trackers", {}))
        if notes.get("away"):
            self._away[out.number] = notes["away"]
        return Settled(flows, final, queue_ns, entries["infer_ns"])

    def acknowledge(self, out: Outgoing, now_ns: int) -> None:
        """Note that a batch has been answered to the end.

        What trackers did not take of it is held, and sent again a little later.
        """
        del self._in_flight[out.number]
        away = self._away.pop(out.number, None)
        if away is not None:
            self._held.append(_Held(out, frozenset(away), now_ns))
            return
        self._acknowledged_ns = max(self._acknowledged_ns, out.batch.watermark_ns)

    def fail(self, out: Outgoing) -> None:
        """Note that a batch may not have arrived: its flows are sent again, from the first packet.

        Nothing else is needed, since absorbing a packet twice changes nothing.
        """
        del self._in_flight[out.number]
        self._away.pop(out.number, None)
        self.ledger.send_again(out.flows)

    def resend_overdue(self, now_ns: int) -> None:
        """Send flows again whose verdict should have come but did not, and those that are held."""
        since_ns = now_ns - int(self._settings.hold_s * 1e9)
        for held in self._held:
            if held.since_ns <= since_ns:
                self.ledger.send_again(self._pinned(held.out.flows, held.trackers))
        self._held = [held for held in self._held if held.since_ns > since_ns]
        before_ns = now_ns - int(self._settings.resend_after_s * 1e9)
        self.ledger.send_again(self.ledger.overdue(self._acknowledged_ns, before_ns))

    def _pinned(
        self, flows: npt.NDArray[np.uint64], trackers: frozenset[int]
    ) -> npt.NDArray[np.uint64]:
        """Return those flows (numbers) that are pinned to some trackers."""
        tracker = slots_of(flow_ids(flows, self._seed)) % self._schema.trackers
        return flows[np.isin(tracker, list(trackers))]

    def _compare_incarnations(self, trackers: dict[str, str]) -> None:
        for tracker, incarnation in trackers.items():
            known = self._incarnations.setdefault(tracker, incarnation)
            if known != incarnation:
                self._incarnations[tracker] = incarnation
                lost = self.ledger.uncertain_of(int(tracker), self._schema.trackers)
                self.ledger.send_again(lost)
