"""What a collector at work tells of itself: every packet and every flow is in one of these sums."""

from __future__ import annotations

from dataclasses import dataclass, field

from collectors.sources import SourceCounters

__all__ = ["AgentStatus", "DeliveryCounters", "SinkCounters", "SpoolCounters", "TableStatus"]


@dataclass(frozen=True, slots=True)
class TableStatus:
    """The edge's memory.

    Attributes:
        packets: Packets of flows, taken in.
        flows: Flows admitted.
        open_flows: Flows of the table that have not ended.
        unsettled_flows: Flows without a final verdict, in memory.
        refused_flows: First packets of flows that found no room: each one counts.
        refused_packets: All packets of such flows that came while there was no room.
        evicted_flows: Flows that were given their provisional verdict for want of room.
        lost_flows: Flows that had to be given up without any verdict.
        memory_bytes: What table and ledger take.
        limit_bytes: What they may take; 0: no limit.
    """

    packets: int = 0
    flows: int = 0
    open_flows: int = 0
    unsettled_flows: int = 0
    refused_flows: int = 0
    refused_packets: int = 0
    evicted_flows: int = 0
    lost_flows: int = 0
    memory_bytes: int = 0
    limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryCounters:
    """The way to the service.

    Attributes:
        batches: Batches answered to their end.
        in_flight: Batches on their way.
        failures: Batches that may not have arrived.
        overloaded: Batches that the service put off: 429, 503, RESOURCE_EXHAUSTED.
        replayed_flows: Flows that were sent again from their first packet.
        duplicate_packets: Packets that were sent more than once for it.
        tracker_changes: How often a tracker's incarnation was another one than before.
        away_s: For how long the service has not answered; 0: it does.
        last_error: What the last failure said; empty: there was none since the last answer.
    """

    batches: int = 0
    in_flight: int = 0
    failures: int = 0
    overloaded: int = 0
    replayed_flows: int = 0
    duplicate_packets: int = 0
    tracker_changes: int = 0
    away_s: float = 0.0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class SpoolCounters:
    """The spool.

    Attributes:
        spooled_bytes: Bytes ever written to it.
        bytes: Bytes that it holds now.
        limit_bytes: Bytes that it may hold.
        waiting_flows: Flows that are in the spool alone, to be sent when the service is back.
        recovered_flows: Flows that an earlier run had left in it.
        dropped_flows: Flows given up for want of room, by the policy ``drop_oldest``.
        unspooled_records: Records that could not be written; their flows are in memory alone.
        damaged_bytes: Bytes of it that could not be read back.
    """

    spooled_bytes: int = 0
    bytes: int = 0
    limit_bytes: int = 0
    waiting_flows: int = 0
    recovered_flows: int = 0
    dropped_flows: int = 0
    unspooled_records: int = 0
    damaged_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SinkCounters:
    """One sink.

    Attributes:
        name: Its kind and where it writes.
        written: Verdicts written.
        waiting: Verdicts that wait for it.
        lost: Verdicts that it did not take, by reason.
        last_error: What the last failure said; empty: none since it last wrote.
    """

    name: str
    written: int = 0
    waiting: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """A collector at work.

    Attributes:
        name: Who it is.
        source: What it reads, in words.
        to: The service's address.
        model_version: The bundle that judged last; empty: none has yet.
        uptime_s: Since it began.
        seen: What the source has seen.
        table: The edge's memory.
        delivery: The way to the service.
        spool: The spool; None: there is none.
        sinks: Where verdicts go.
        protocols: Flows and packets by protocol.
        verdicts: Final verdicts, by reason.
        tiers: Final verdicts, by tier.
        labels: Final verdicts, by label.
        latency_ms: Percentiles (``p50``, ``p90``, ``p99``) of ``wait``, ``queue``, ``infer`` and
            ``total``; None where there is no verdict yet.
        latency_counts: Of the same parts, how many took at most so many milliseconds, in
            increasing order; under ``inf``, all.
        latency_sum_ms: Of the same parts, the sum.
        within_16ms: Final verdicts within 16 ms of their flow's first packet.
        connected: Whether the service has told what it wants; nothing is read before.
    """

    name: str
    source: str
    to: str
    model_version: str = ""
    uptime_s: float = 0.0
    seen: SourceCounters = field(default_factory=SourceCounters)
    table: TableStatus = field(default_factory=TableStatus)
    delivery: DeliveryCounters = field(default_factory=DeliveryCounters)
    spool: SpoolCounters | None = None
    sinks: tuple[SinkCounters, ...] = ()
    protocols: dict[str, dict[str, int]] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    tiers: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float | None]] = field(default_factory=dict)
    latency_counts: dict[str, dict[float, int]] = field(default_factory=dict)
    latency_sum_ms: dict[str, float] = field(default_factory=dict)
    within_16ms: int = 0
    connected: bool = True
