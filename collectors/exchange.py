"""What a collector is told, what it gives out and what it takes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flows.packet import Records
from flows.table import FlowTimeouts
from flows.wire import PacketBatch

__all__ = ["CollectorSettings", "Journals", "Outgoing", "Settled"]


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
class Settled:
    """Flows that got their final verdict; row ``i`` of each array is about the same flow.

    Attributes:
        flows: ``FLOW_DTYPE [n]``.
        verdicts: ``VERDICT_DTYPE [n]``.
        queue_ns: int64 ``[n]``; wall clock spent in batching, transport and queues.
        infer_ns: int64 ``[n]``; model time of all tiers asked.
        end_reason: uint8 ``[n]``; how each had ended by then (:class:`flows.packet.FlowEndReason`);
            None: that is not known.
    """

    flows: Records
    verdicts: Records
    queue_ns: npt.NDArray[np.int64]
    infer_ns: npt.NDArray[np.int64]
    end_reason: npt.NDArray[np.uint8] | None = None

    @property
    def ends(self) -> npt.NDArray[np.uint8]:
        """How each flow had ended, 0 where it had not or that is not known."""
        return np.zeros(len(self.flows), np.uint8) if self.end_reason is None else self.end_reason


class Journals(Protocol):
    """Writes down what a ledger would need to be made anew."""

    def observed(
        self,
        flows: Records,
        packets: Records,
        numbers: npt.NDArray[np.uint64],
        ends: Records,
        clock_ns: int,
    ) -> bool:
        """Write what came up to ``clock_ns`` (capture time); return False if that failed.

        Args:
            flows: New flows, ``FLOW_DTYPE [f]``.
            packets: Packets to keep, ``PACKET_DTYPE [n]``.
            numbers: Their flows, uint64 ``[n]``.
            ends: Ends of flows, ``END_DTYPE [e]``.
            clock_ns: The latest capture time.
        """

    def settled(self, numbers: npt.NDArray[np.uint64]) -> None:
        """Write that flows got their final verdicts."""
