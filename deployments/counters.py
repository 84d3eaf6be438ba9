"""What one Router has seen, counted so that it adds up."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
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
    batches_refused: int = 0  # nothing of them was taken in, so no packet of theirs counts below
    batches_malformed: int = 0  # bodies that are no packet batch
    flows_refused: int = 0
    packets_in: int = 0
    packets_applied: int = 0  # judged, kept by a tracker, or their flow had its answer already
    packets_duplicate: int = 0
    packets_malformed: int = 0
    packets_shed: int = 0  # refused: a model or a tracker did not take them, the answer said so
    flows_admitted: int = 0
    flows_sure: int = 0
    flows_escalated: int = 0
    flows_settled: int = 0
    finals: dict[tuple[int, Reason], int] = field(default_factory=dict)  # by tier and reason
    tracker_restarts: dict[int, int] = field(default_factory=dict)  # by tracker

    def fast(self, verdicts: Records) -> None:
        """Count what the fast tiers said, ``VERDICT_DTYPE [n]``."""
        sure = self._count(verdicts)
        self.flows_admitted += len(verdicts)
        self.flows_sure += sure
        self.flows_escalated += len(verdicts) - sure
        self.packets_applied += sure

    def settled(self, verdicts: Records) -> None:
        """Count what the deeper tiers said, ``VERDICT_DTYPE [n]``."""
        self.flows_settled += self._count(verdicts)

    def restarted(self, tracker: int) -> None:
        """Count that a tracker is another one than before."""
        self.tracker_restarts[tracker] = self.tracker_restarts.get(tracker, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Return the counters by name; final verdicts by tier, and by reason."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        by_tier: dict[int, int] = {}
        by_reason: dict[str, int] = {}
        for (tier, reason), n in found.pop("finals").items():
            by_tier[tier] = by_tier.get(tier, 0) + n
            by_reason[reason.text] = by_reason.get(reason.text, 0) + n
        return {**found, "verdicts_by_tier": by_tier, "verdicts_by_reason": by_reason}

    def copy(self) -> DispatchCounters:
        """Return the counters as they are now."""
        return replace(self, finals=dict(self.finals), tracker_restarts=dict(self.tracker_restarts))

    def _count(self, verdicts: Records) -> int:
        """Count the final ones, and return how many they are."""
        final = picked(verdicts, verdicts["final"] == 1)
        kinds = np.bincount(final["tier"] * np.int64(len(Reason)) + final["reason"])
        for kind in np.flatnonzero(kinds).tolist():
            tier, reason = divmod(kind, len(Reason))
            key = tier, Reason(reason)
            self.finals[key] = self.finals.get(key, 0) + int(kinds[kind])
        return len(final)
