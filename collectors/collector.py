"""The collector: packets in, batches out, one final verdict per flow. No network, no threads.

Each flow's first packet goes out alone; its later ones follow only while the service is not sure
(docs/architecture.md, "The collector"). A batch's watermark promises that every packet up to
that capture time has reached the service, so it never runs ahead of a batch that is still in
flight.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from collectors.exchange import CollectorSettings, Journals, Outgoing, Settled
from collectors.ledger import Ledger
from collectors.memory import EdgeLimits
from flows.failpoints import failpoint
from flows.ids import flow_ids, slots_of
from flows.packet import Records, packet_dtype
from flows.records import taken
from flows.service_schema import ServiceSchema
from flows.table import FLOW_DTYPE, FlowTable
from flows.verdict import Reason
from flows.wire import PacketBatch

__all__ = ["Collector", "CollectorSettings", "Journals", "Outgoing", "Settled"]


@dataclass(frozen=True, slots=True)
class _Held:
    """A batch of which trackers did not take their rows."""

    out: Outgoing
    trackers: frozenset[int]
    since_ns: int  # wall clock


class Collector:
    """One incarnation of a collector: a flow table, a ledger, and batches in flight.

    Args:
        schema: What the service wants.
        settings: How to work.
        name: Who this is; a random suffix makes each incarnation's name its own.
        seed: Secret of the flow ids; random by default.
        limits: To what its memory may grow; new flows beyond are refused and counted.
        journal: Written to before anything is sent.

    Attributes:
        tracker_changes: How often a tracker's incarnation was another one than before.
        evicted_flows: Flows that got their provisional verdict for want of room.
    """

    def __init__(
        self,
        schema: ServiceSchema,
        settings: CollectorSettings | None = None,
        *,
        name: str = "collector",
        seed: int | None = None,
        limits: EdgeLimits | None = None,
        journal: Journals | None = None,
    ) -> None:
        self._schema = schema
        self._settings = settings or CollectorSettings()
        limits = limits or EdgeLimits()
        full = failpoint("table_full")
        self._journal = journal
        self._unwritten_until = 0  # all flows from this number on are in the journal
        self._aside_until = 0
        self._seed = secrets.randbits(63) if seed is None else seed
        self.name = f"{name}#{secrets.token_hex(4)}"
        self.table = FlowTable(
            first_packets=schema.depth,
            timeouts=self._settings.timeouts,
            seed=self._seed,
            most_flows=limits.table_flows if full is None else full.at,
        )
        self.ledger = Ledger(
            schema.depth,
            schema.max_wait_s,
            self._seed,
            with_header=schema.header,
            limits=limits.ledger,
        )
        self._limit = min(self._settings.max_batch_packets, schema.max_batch_packets)
        self._no_flows: Records = np.empty(0, FLOW_DTYPE)
        self._no_packets: Records = np.empty(0, packet_dtype(schema.header))
        self._clock_ns = 0
        self._in_flight: dict[int, Outgoing] = {}
        self._number = 0
        self._away: dict[int, list[int]] = {}
        self._held: list[_Held] = []
        self._tried: dict[frozenset[int], npt.NDArray[np.uint64]] = {}
        self._incarnations: dict[str, str] = {}
        self._acknowledged_ns = self._told_ns = 0
        self.tracker_changes = 0
        self.evicted_flows = 0

    @property
    def seed(self) -> int:
        """Secret of the flow ids."""
        return self._seed

    @property
    def clock_ns(self) -> int:
        """The latest capture time."""
        return self._clock_ns

    @property
    def open_flows(self) -> int:
        """Flows without a final verdict."""
        return self.ledger.open

    @property
    def room(self) -> int:
        """How many more flows without a final verdict there is room for."""
        return self.ledger.numbers_until - self.ledger.end

    @property
    def in_flight(self) -> int:
        """Batches that the service has not answered yet."""
        return len(self._in_flight)

    @property
    def has_work(self) -> bool:
        """Whether a batch would hold any rows."""
        return self.ledger.waiting > 0

    @property
    def untold_deadline_ns(self) -> int | None:
        """Deadline (capture time) of the oldest open flow, if no batch has told that it is over."""
        deadline_ns = self.ledger.oldest_deadline_ns
        return deadline_ns if deadline_ns is not None and deadline_ns >= self._told_ns else None

    @property
    def deadline_has_passed(self) -> bool:
        """Whether a batch's watermark would tell that the oldest open flow's wait is over."""
        deadline_ns = self.untold_deadline_ns
        if deadline_ns is None or deadline_ns >= self._clock_ns:
            return False
        return deadline_ns < min(self._awaited_deadline_ns(), self._clock_ns)

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
        update = self.table.update(packets, endpoints, numbers_until=self.ledger.numbers_until)
        self._clock_ns = max(self._clock_ns, int(packets["time_ns"][-1]))
        self.ledger.enter(update.new_flows)
        self._write(update.new_flows, packets, update.kept, update.flow_number, update.ends)
        self.ledger.keep(packets, update.kept, update.flow_number, seen_ns)
        self.ledger.end_flows(update.ends, int(seen_ns[-1]))

    def advance(self, clock_ns: int, seen_ns: int) -> None:
        """Move the clock on over a quiet wire."""
        if clock_ns > self._clock_ns:
            self._clock_ns = clock_ns
            self._end(self.table.advance(clock_ns), seen_ns)

    def finish(self, seen_ns: int) -> None:
        """End every flow: no further packets will come."""
        self._end(self.table.finish(), seen_ns)

    def restore(
        self,
        flows: Records,
        packets: Records,
        numbers: npt.NDArray[np.uint64],
        ends: Records,
        clock_ns: int,
    ) -> None:
        """Take in what a collector of the same seed has observed, as its journal tells it.

        Instead of :meth:`observe`: this collector has no wire of its own. Flows' numbers must
        increase from call to call; the other arguments are those of :meth:`Journals.observed`.
        """
        seen_ns = time.monotonic_ns()
        self.ledger.enter(flows)
        # Whose beginning could not be read is not known here.
        kept = np.flatnonzero(self.ledger.unsettled(numbers))
        self.ledger.keep(packets, kept, numbers, np.full(len(packets), seen_ns))
        known = np.flatnonzero(self.ledger.unsettled(ends["flow_number"]))
        self.ledger.end_flows(taken(ends, known), seen_ns)
        self._clock_ns = max(self._clock_ns, clock_ns)

    def expire(self) -> None:
        """Let the wait of every flow that there is be over: no further packets will come."""
        self._clock_ns += int(self._schema.max_wait_s * 1e9) + 1

    def _end(self, ends: Records, seen_ns: int) -> None:
        none = np.empty(0, np.int64)
        self._write(self._no_flows, self._no_packets, none, none.view(np.uint64), ends)
        self.ledger.end_flows(ends, seen_ns)

    def _write(
        self,
        flows: Records,
        packets: Records,
        kept: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.uint64],
        ends: Records,
    ) -> None:
        """Write to the journal what is about flows without a final verdict."""
        if self._journal is None:
            return
        kept = kept[self._unsettled(numbers[kept])]
        ends = taken(ends, np.flatnonzero(self._unsettled(ends["flow_number"])))
        if not len(kept) and not len(ends):
            return
        known = self._journal.observed(
            flows, taken(packets, kept), numbers[kept], ends, self._clock_ns
        )
        if not known:
            self._unwritten_until = self.ledger.end

    def _unsettled(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        # Of those set aside it is not known which are settled.
        found = self.ledger.unsettled(numbers)
        if self._aside_until:
            found |= numbers < self._aside_until
        return found

    @property
    def may_set_aside(self) -> bool:
        """Whether the journal holds all flows without a final verdict."""
        return self._journal is not None and self.ledger.base >= self._unwritten_until

    def set_aside(self) -> int:
        """Forget all flows without a final verdict; return the number of the next flow.

        They, and what still comes of them, are in the journal alone from now on.
        """
        self.ledger.forget_all()
        self._aside_until = self.ledger.base
        return self._aside_until

    def evict(self, most: int, now_ns: int) -> Settled:
        """Give the oldest flows that have a provisional verdict that one, at most so many."""
        settled = self._settle(self.ledger.evict(most), now_ns, now_ns)
        self.evicted_flows += len(settled.flows)
        return settled

    def next_batch(self, now_ns: int) -> Outgoing:
        """Form the next batch; it may have no rows, and then only moves the watermark."""
        formed = self.ledger.form(self._limit, self._clock_ns, now_ns)
        # A flow may only time out when all its packets are with the service. Where some are
        # still queued, in flight or held, the watermark stays behind that flow's deadline.
        watermark_ns = min(
            self._clock_ns,
            formed.queued_deadline_ns,
            self._awaited_deadline_ns(),
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
        self._told_ns = max(self._told_ns, out.batch.watermark_ns)
        return out

    def _awaited_deadline_ns(self) -> int:
        """Return the earliest deadline among batches in flight or held; else the clock."""
        outs = (*self._in_flight.values(), *(held.out for held in self._held))
        return min((out.deadline_ns for out in outs), default=self._clock_ns)

    def receive(
        self, out: Outgoing, verdicts: Records, notes: dict[str, Any], now_ns: int
    ) -> Settled:
        """Take one part of an answer in.

        Returns:
            The flows that got their final verdict by it.
        """
        settled = self._settle(verdicts, out.formed_ns, now_ns)
        self._compare_incarnations(notes.get("trackers", {}))
        if notes.get("away"):
            self._away[out.number] = notes["away"]
        return settled

    def _settle(self, verdicts: Records, formed_ns: int, now_ns: int) -> Settled:
        accepted, flows, entries = self.ledger.settle(verdicts)
        final = taken(verdicts, accepted)
        if self._journal is not None and len(flows):
            self._journal.settled(flows["flow_number"])
        # Such a verdict did not wait for the packets that were sent before.
        late = np.isin(final["reason"], (Reason.TIMEOUT, Reason.EVICTED))
        since_ns = np.where(late, formed_ns, entries["asked_seen_ns"])
        queue_ns = np.maximum(now_ns - since_ns - final["infer_ns"], 0)
        ends = np.ascontiguousarray(entries["end_reason"])
        return Settled(flows, final, queue_ns, entries["infer_ns"], ends)

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
        for trackers, flows in list(self._tried.items()):
            if np.isin(flows, out.flows).any():
                self._send_held(trackers)

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
        rest: list[_Held] = []
        tried: dict[frozenset[int], npt.NDArray[np.uint64]] = {}
        for held in self._held:
            if held.since_ns > since_ns or held.trackers in tried:
                rest.append(held)
                continue
            # One batch tries: if all did, with all packets of their flows, whoever is to start the
            # tracker again would be kept busy by them.
            flows = self._pinned(held.out.flows, held.trackers)
            flows = flows[self.ledger.unsettled(flows)]
            if len(flows):
                tried[held.trackers] = flows
                self.ledger.send_again(flows)
        self._held = rest
        waiting = {held.trackers for held in rest}
        self._tried = {t: tries for t, tries in (self._tried | tried).items() if t in waiting}
        before_ns = now_ns - int(self._settings.resend_after_s * 1e9)
        self.ledger.send_again(self.ledger.overdue(self._acknowledged_ns, before_ns))

    def _send_held(self, trackers: frozenset[int]) -> None:
        """Send what is held for ``trackers`` again, all of it: they take rows again."""
        self._tried.pop(trackers, None)
        for held in self._held:
            if held.trackers == trackers:
                self.ledger.send_again(self._pinned(held.out.flows, trackers))
        self._held = [held for held in self._held if held.trackers != trackers]

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
                self.tracker_changes += 1
                # Of all that is held for it too.
                self._send_held(frozenset({int(tracker)}))
                lost = self.ledger.uncertain_of(int(tracker), self._schema.trackers)
                self.ledger.send_again(lost)
