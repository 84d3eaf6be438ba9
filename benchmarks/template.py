"""What the load generator sends of each flow: its first packets and its end, as a collector would.

Taken from captures once; :mod:`benchmarks.feeds` plays them as ever new flows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.recorded import Recorded
from flows.packet import FlowEndReason, Records

__all__ = ["FlowTemplate", "flow_template"]


@dataclass(frozen=True, slots=True)
class FlowTemplate:
    """Flows to be played.

    Attributes:
        rows: Packets and end marks, ``PACKET_DTYPE [m]``, by flow, each flow's in order of time;
            ``time_ns`` counts from the flow's first packet.
        offsets: Where each flow's rows begin, int64 ``[n + 1]``.
    """

    rows: Records
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def flow(self) -> npt.NDArray[np.int64]:
        """Which flow each row belongs to, int64 ``[m]``."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


def flow_template(recorded: Recorded, depth: int, max_wait_s: float) -> FlowTemplate:
    """Return what a service of this depth and wait may be sent of each flow.

    Packets behind the first ``depth`` or later than the wait are left out, as no verdict can
    depend on them. Flows that the end of their capture cut off get no end mark: in a network they
    would go on.

    Args:
        recorded: The captures.
        depth: First packets that count.
        max_wait_s: How long after a flow's first packet they count (capture time).
    """
    starts_ns = recorded.starts_ns
    kept = recorded.tracked["packet_index"] < depth
    # The index saturates at 255; MAX_DEPTH is far below, so none is taken for an early one.
    packets = recorded.tracked[kept]
    flow = recorded.flow[kept]
    ends = recorded.ends[recorded.ends["packets"] < depth]
    marks = np.zeros(len(ends), packets.dtype)
    marks["time_ns"] = ends["time_ns"]
    marks["packet_index"] = np.minimum(ends["packets"], 255)
    marks["flow_end_reason"] = ends["reason"]
    rows = np.concatenate([packets, marks])
    flow = np.concatenate([flow, ends["flow_number"].astype(np.int64)])
    rows["time_ns"] -= starts_ns[flow]
    rows["flow_id"] = 0
    in_time = rows["time_ns"] <= int(max_wait_s * 1e9)
    rows, flow = rows[in_time], flow[in_time]
    # In order of the flows' beginnings, so that neighbours in time stay neighbours.
    rank = np.empty(recorded.flows, np.int64)
    rank[np.argsort(starts_ns, kind="stable")] = np.arange(recorded.flows)
    flow = rank[flow]
    is_mark = rows["flow_end_reason"] != FlowEndReason.NONE
    order = np.lexsort((rows["packet_index"], is_mark, flow))
    offsets = np.zeros(recorded.flows + 1, np.int64)
    np.cumsum(np.bincount(flow, minlength=recorded.flows), out=offsets[1:])
    return FlowTemplate(rows[order], offsets)
