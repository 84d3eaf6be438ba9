"""What a collector has lost, by hop and reason: one table says where each kind of loss is counted.

A hop is a place on a packet's way: ``card``, ``kernel_ring``, ``decode``, ``table``, ``spool``,
``service``, ``sink``. A reason says what was lost: its last word is the unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from collectors.status import AgentStatus
from flows.decode import Skip
from flows.verdict import Reason

__all__ = ["HOPS", "LOSSES", "Loss", "losses"]

HOPS = ("card", "kernel_ring", "decode", "table", "spool", "service", "sink")
"""The places where something can be lost, in the order of a packet's way."""

LOSSES: dict[str, tuple[str, str]] = {
    "seen.card_drops": ("card", "dropped_packets"),
    "seen.kernel_drops": ("kernel_ring", "dropped_packets"),
    "seen.broken_entries": ("kernel_ring", "broken_entries"),
    "seen.skipped": ("decode", "{}_frames"),
    "seen.damaged_captures": ("decode", "damaged_captures"),
    "table.refused_flows": ("table", "refused_flows"),
    "table.refused_packets": ("table", "refused_packets"),
    "table.evicted_flows": ("table", "evicted_flows"),
    "table.lost_flows": ("table", "lost_flows"),
    "spool.dropped_flows": ("spool", "dropped_flows"),
    "spool.unspooled_records": ("spool", "unspooled_records"),
    "spool.damaged_bytes": ("spool", "damaged_bytes"),
    "sinks.lost": ("sink", "{}_verdicts"),
}
"""Where in :class:`AgentStatus` each loss is counted, its hop, and its reason.

``{}`` stands for the status's own word where that counts by reason. Further losses, at the hop
``service``, are verdicts that are less than they could be: ``degraded`` and ``state_lost``.
"""

# Frames that no flow was to be expected of; an alarm on losses must not ring for ARP.
_NO_LOSS = {Skip.NONE.text, Skip.NOT_IP.text, Skip.OTHER_PROTOCOL.text, "own_traffic"}
_SHED = (Reason.DEGRADED, Reason.STATE_LOST)


@dataclass(frozen=True, slots=True)
class Loss:
    """What was lost for one reason.

    Attributes:
        hop: Where, one of :data:`HOPS`.
        reason: Why, and what.
        count: How much.
        sink: At which sink; empty: at none.
    """

    hop: str
    reason: str
    count: int
    sink: str = ""


def losses(status: AgentStatus) -> list[Loss]:
    """Return all that was lost so far; where the reasons are known beforehand, zeros too."""
    found = [loss for path, named in LOSSES.items() for loss in _of(status, path, *named)]
    found += [
        Loss("service", f"{reason.text}_flows", status.verdicts.get(reason.text, 0))
        for reason in _SHED
    ]
    return sorted(found, key=lambda loss: HOPS.index(loss.hop))


def _of(status: AgentStatus, path: str, hop: str, reason: str) -> Iterator[Loss]:
    part, name = path.split(".")
    if part == "sinks":
        for sink in status.sinks:
            for why, count in sink.lost.items():
                yield Loss(hop, reason.format(why), count, sink.name)
        return
    place = getattr(status, part)
    if place is None:  # there is no spool
        return
    value: Any = getattr(place, name)
    if isinstance(value, dict):
        by_reason = {**dict.fromkeys((skip.text for skip in Skip), 0), **value}
        for why, count in by_reason.items():
            if why not in _NO_LOSS:
                yield Loss(hop, reason.format(why), count)
    else:
        yield Loss(hop, reason, value)
