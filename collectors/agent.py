"""A collector at work for months: one loop around what it reads, remembers, sends and writes.

The loop does everything but to submit batches, to write to sinks and to wait for the disk, which
threads do. It never blocks for longer than a tick, so that timers run on a quiet wire.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from collectors.collector import Collector, CollectorSettings
from collectors.delivery import Delivery, DeliverySettings
from collectors.exchange import Journals, Settled
from collectors.memory import EdgeLimits
from collectors.sender import Part, Sender
from collectors.sources import Source
from collectors.status import AgentStatus, SpoolCounters, TableStatus
from collectors.verdict_tally import VerdictTally
from flows.decode import Decoded
from flows.errors import ServiceError
from flows.service_schema import ServiceSchema

__all__ = ["Agent", "AgentOptions", "VerdictHandler"]

_NS = 1_000_000_000
_LOOK_S = 0.005  # while batches wait to be sent or answered
_CARE_S = 0.1
_EVICT_SHARE = 16  # of the flows that memory holds, one in so many at a time
_STEPS_MS = tuple(10.0 ** (step / 3.0) for step in range(-3, 16))  # 0.1 ms to 100 s

_log = logging.getLogger(__name__)

VerdictHandler = Callable[[Settled, tuple[str, ...], str], None]
"""Is told of flows that got their final verdict, the names of labels, and the bundle's version."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent works.

    Attributes:
        name: Who it is.
        source: What it reads, in words.
        to: The service's address.
        collector: How flows are handled.
        delivery: How batches are delivered; the service is waited for as long as it takes.
        limits: To what memory may grow.
        drain_s: How long verdicts are waited for at the end.
        full_s: For so long new flows are refused before old ones are given the verdict that they
            have; None: as long as a flow waits for packets at most, in which memory frees itself if
            the service keeps up.
    """

    name: str
    source: str
    to: str
    collector: CollectorSettings = field(default_factory=CollectorSettings)
    delivery: DeliverySettings = field(
        default_factory=lambda: DeliverySettings(give_up_after_s=None)
    )
    limits: EdgeLimits = field(default_factory=EdgeLimits)
    drain_s: float = 15.0
    full_s: float | None = None


class Spool(Protocol):
    """Keeps flows on disk, and drains those that are nowhere else."""

    @property
    def seed(self) -> int:
        """Secret of the flow ids of what is journaled."""

    @property
    def journal(self) -> Journals:
        """What the collector writes to."""

    @property
    def must_wait(self) -> bool:
        """Whether nothing should be read for now, as the spool is full and is to block."""

    @property
    def draining(self) -> bool:
        """Whether flows of it wait for their verdicts."""

    @property
    def counters(self) -> SpoolCounters:
        """What has become of it so far."""

    def begin(
        self,
        schema: ServiceSchema,
        settings: CollectorSettings,
        delivery_of: Callable[[Collector], Delivery],
    ) -> None:
        """Begin to drain what an earlier run has left."""

    def pump(self, *, healthy: bool) -> None:
        """Drain, if the service answers; never blocks."""

    @property
    def noting(self) -> bool:
        """Whether sinks have still to write verdicts of what it keeps."""

    def handed_over(self) -> None:
        """Learn that sinks have been given the verdicts of all flows settled so far."""

    def set_aside(self, collector: Collector) -> int:
        """Take over all flows without a final verdict; return how many."""

    def forget_settled(self, collector: Collector) -> None:
        """Let go of what nobody needs any more."""


class Agent:
    """Watches a source and gives each of its flows one final verdict.

    Args:
        source: Where packets come from; closed by whoever opened it.
        sender: The way to the service; likewise.
        schema: What the service wants.
        options: How to work.
        on_settled: Told of every final verdict.
        spooled: The spool, closed by whoever opened it when sinks have written all; None: flows are
            in memory alone.
    """

    def __init__(
        self,
        source: Source,
        sender: Sender,
        schema: ServiceSchema,
        options: AgentOptions,
        on_settled: VerdictHandler,
        spooled: Spool | None = None,
    ) -> None:
        self._source = source
        self._schema = schema
        self._options = options
        self._handler = on_settled
        self._spooled = spooled
        self._stop = threading.Event()
        self._began_ns = self._beat_ns = time.monotonic_ns()
        self._full_since_ns = 0
        self._cared_ns = 0
        self._lost_flows = 0
        self.tally = VerdictTally()
        self._pool = ThreadPoolExecutor(options.delivery.max_open, thread_name_prefix="sender")
        self.collector = Collector(
            schema,
            options.collector,
            name=options.name,
            limits=options.limits,
            seed=None if spooled is None else spooled.seed,
            journal=None if spooled is None else spooled.journal,
        )
        self.delivery = Delivery(
            sender, self.collector, options.delivery, self._pool, self._on_settled
        )
        if spooled is not None:
            spooled.begin(schema, options.collector, self._delivery_of(sender))

    @property
    def heartbeat_age_s(self) -> float:
        """How long ago the loop was last seen at work."""
        return (time.monotonic_ns() - self._beat_ns) / _NS

    def stop(self) -> None:
        """Let :meth:`run` end: flows are finalised, verdicts waited for. From any thread."""
        self._stop.set()

    def run(self) -> None:
        """Watch the source to its end, or until :meth:`stop`.

        Raises:
            CaptureError: The source cannot be read any further; all flows have been seen to.
        """
        try:
            while not self._stop.is_set():
                if not self._step():
                    break
        finally:
            self._finish()

    def close(self) -> None:
        """Stop the threads that submit."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _step(self) -> bool:
        """Take in what there is; return False at the source's end."""
        self._care()
        if self._must_wait():
            self.delivery.pump(_LOOK_S)
            return True
        noting = self._spooled is not None and self._spooled.noting
        busy = noting or self.collector.has_work or self.collector.in_flight > 0
        decoded = self._source.read(_LOOK_S if busy else self._rest_s())
        if decoded is None:
            return False
        if len(decoded.packets):
            self._observe(decoded)
        elif self._source.quiet_until_ns():
            self.collector.advance(self._source.quiet_until_ns(), time.monotonic_ns())
        self.delivery.pump(0.0)
        return True

    def _rest_s(self) -> float:
        """Return how long a quiet wire may be left alone: until a tick, or a flow's deadline."""
        deadline_ns = self.collector.untold_deadline_ns
        tick_s = self._options.delivery.tick_s
        if deadline_ns is None or not self._source.live:
            return tick_s
        return min(max((deadline_ns - time.time_ns()) / _NS, _LOOK_S), tick_s)

    def _observe(self, decoded: Decoded) -> None:
        at, n = 0, len(decoded.packets)
        while at < n:
            # What is not live can wait for room; so no flow of a file is refused for want of it.
            while self._must_wait() and not self._stop.is_set():
                self._care()
                self.delivery.pump(_LOOK_S)
            room = self.collector.room
            if room < n - at and self._may_set_aside:
                until = min(n, at + room)
            else:
                until = n if self._source.live else min(n, at + max(room, 1))
            if until > at:
                seen_ns = np.full(until - at, time.monotonic_ns(), np.int64)
                self.collector.observe(
                    decoded.packets[at:until], decoded.endpoints[at:until], seen_ns
                )
                at = until
            if at < n and not self.collector.room:
                self._set_aside()

    def _must_wait(self) -> bool:
        """Tell whether the source is to be left alone for a while."""
        if self._spooled is not None and self._spooled.must_wait:
            return True
        if self._source.live:
            return False
        full = self.collector.room < 1 and not self._may_set_aside
        return self.collector.lags_behind or full

    def _care(self) -> None:
        """See to what is not urgent: memory that is full, the spool, what is to be drained."""
        now_ns = self._beat_ns = time.monotonic_ns()
        if self._spooled is not None:
            self._spooled.pump(healthy=self.delivery.healthy)
        if now_ns - self._cared_ns < _CARE_S * _NS:
            return
        self._cared_ns = now_ns
        if self._spooled is not None:
            self._spooled.forget_settled(self.collector)
        if self.collector.room > 0:
            self._full_since_ns = 0
            return
        if self._set_aside():
            return
        self._full_since_ns = self._full_since_ns or now_ns
        full_s = self._options.full_s
        full_s = self._schema.max_wait_s if full_s is None else full_s
        if now_ns - self._full_since_ns >= full_s * _NS:
            self._evict(max(self._options.limits.ledger.unsettled // _EVICT_SHARE, 1))

    @property
    def _may_set_aside(self) -> bool:
        return self._spooled is not None and self.collector.may_set_aside

    def _set_aside(self) -> bool:
        """Leave all flows to the spool, if it has them."""
        if self._spooled is None or not self.collector.may_set_aside:
            return False
        count = self._spooled.set_aside(self.collector)
        _log.warning("memory is full: %d flows are in the spool alone for now", count)
        return True

    def _evict(self, most: int) -> None:
        part = self.delivery.part
        if part is None:
            return  # nobody has told what labels mean
        settled = self.collector.evict(most, time.monotonic_ns())
        if len(settled.flows):
            self._on_settled(settled, part)

    def _finish(self) -> None:
        """End all flows, and wait a while for their verdicts."""
        self.collector.finish(time.monotonic_ns())
        until_ns = time.monotonic_ns() + int(self._options.drain_s * _NS)
        while self._unfinished() and time.monotonic_ns() < until_ns:
            self._beat_ns = time.monotonic_ns()
            if self._spooled is not None:
                self._spooled.pump(healthy=self.delivery.healthy)
            try:
                self.delivery.pump(_LOOK_S, hurry=True)
            except ServiceError as error:  # what is left is counted below
                _log.warning("%s", error)
        if self.collector.open_flows and not self.collector.may_set_aside:
            self._evict(self.collector.open_flows)
            self._lost_flows += self.collector.open_flows
        if self._spooled is not None:
            self._spooled.forget_settled(self.collector)

    def _unfinished(self) -> bool:
        waiting = self._spooled is not None and self._spooled.draining
        return self.collector.open_flows > 0 or self.collector.in_flight > 0 or waiting

    def _delivery_of(self, sender: Sender) -> Callable[[Collector], Delivery]:
        settings = replace(self._options.delivery, max_open=4)
        return lambda own: Delivery(sender, own, settings, self._pool, self._on_settled)

    def _on_settled(self, settled: Settled, part: Part) -> None:
        self.tally.add(settled, part.classes, self._schema.tiers)
        self._handler(settled, part.classes, part.model_version)
        if self._spooled is not None:
            self._spooled.handed_over()

    def status(self) -> AgentStatus:
        """Tell how it is; from any thread."""
        collector, tally = self.collector, self.tally
        counters = collector.table.counters
        latency = tally.latency.items()
        return AgentStatus(
            name=self._options.name,
            source=self._options.source,
            to=self._options.to,
            model_version="" if self.delivery.part is None else self.delivery.part.model_version,
            uptime_s=(time.monotonic_ns() - self._began_ns) / _NS,
            seen=self._source.counters,
            table=TableStatus(
                packets=counters.packets,
                flows=counters.flows,
                open_flows=collector.table.open_flows,
                unsettled_flows=collector.open_flows,
                refused_flows=counters.refused_flows,
                refused_packets=counters.refused_packets,
                evicted_flows=collector.evicted_flows,
                lost_flows=self._lost_flows,
                memory_bytes=collector.table.memory_bytes + collector.ledger.memory_bytes,
                limit_bytes=self._options.limits.memory_bytes,
            ),
            delivery=self.delivery.counters,
            spool=self._spooled.counters if self._spooled is not None else None,
            protocols=counters.protocols,
            verdicts=dict(tally.reasons),
            tiers=dict(tally.tiers),
            labels=dict(tally.labels),
            latency_ms={
                part: {f"p{p}": counts.percentile(p) for p in (50, 90, 99)}
                for part, counts in latency
            },
            latency_counts={
                part: {
                    **{step: counts.up_to(step) for step in _STEPS_MS},
                    float("inf"): counts.total,
                }
                for part, counts in latency
            },
            latency_sum_ms={part: counts.sum_ms for part, counts in latency},
            within_16ms=tally.latency["total"].up_to(16.0),
        )
