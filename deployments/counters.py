"""What one Router has seen, counted so that it adds up."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from flows.packet import Records
from flows.records import picked
from flows.verdict import Reason

__all__ = ["DispatchCounters"]


@dataclass(slots=True)
class DispatchCounters:
    """What one dispatcher has seen.

    ``flows_admitted = flows_sure + flows_escalated`` and ``packets_in = packets_applied +
    packets_duplicate + packets_malformed + packets_shed`` hold between any two batches.
    """

    batches: int = 0
    packets_in: int = 0
    packets_applied: int = 0  # judged, kept by a tracker, or their flow had its answer already
    packets_duplicate: int = 0
    packets_malformed: int = 0
    packets_shed: int = 0  # refused: a model or a tracker did not take them, the answer said so
    flows_admitted: int = 0
    flows_sure: int = 0
    flows_escalated: int = 0
    flows_settled: int = 0
    verdicts_by_tier: dict[int, int] = field(default_factory=dict)
    verdicts_by_reason: dict[str, int] = field(default_factory=dict)

    def fast(self, verdicts: Records) -> None:
        """Count what the fast tiers said, ``VERDICT_DTYPE [n]``."""
        sure = verdicts["final"] == 1
        self.flows_admitted += len(verdicts)
        self.flows_sure += int(sure.sum())
        self.flows_escalated += int((~sure).sum())
        self.packets_applied += int(sure.sum())
        self._count(picked(verdicts, sure))

    def settled(self, verdicts: Records) -> None:
        """Count what the deeper tiers said, ``VERDICT_DTYPE [n]``."""
        final = picked(verdicts, verdicts["final"] == 1)
        self.flows_settled += len(final)
        self._count(final)

    def to_dict(self) -> dict[str, Any]:
        """Return the counters by name."""
        return asdict(self)

    def _count(self, final: Records) -> None:
        for tier, n in zip(*np.unique(final["tier"], return_counts=True), strict=True):
            by_tier = self.verdicts_by_tier
            by_tier[int(tier)] = by_tier.get(int(tier), 0) + int(n)
        for reason, n in zip(*np.unique(final["reason"], return_counts=True), strict=True):
            by_reason = self.verdicts_by_reason
            by_reason[Reason(reason).text] = by_reason.get(Reason(reason).text, 0) + int(n)
