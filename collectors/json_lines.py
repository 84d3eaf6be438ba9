"""The verdict lines that ``--out`` of ``replay`` and ``classify`` writes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from collectors.exchange import Settled
from collectors.sinks import Verdicts
from collectors.text_columns import Bytes, integers, joined, names, times
from collectors.verdict_columns import json_judgement, shared_of
from flows.keys import FiveTuple, addresses_of, community_id
from flows.packet import Protocol
from flows.verdict import Reason

__all__ = ["JsonLinesSink", "out_lines", "verdict_lines"]

_NAMES = {int(p): p.name for p in Protocol}
_PROTOCOLS = tuple(_NAMES.get(k, str(k)) for k in range(256))


def _iso_time(time_ns: int) -> str:
    """Return a capture time as ISO 8601 in UTC, to the nanosecond."""
    return f"{np.datetime64(time_ns, 'ns')}Z"


def verdict_lines(
    settled: Settled, classes: tuple[str, ...], tiers: tuple[str, ...], model_version: str
) -> list[dict[str, Any]]:
    """Return one JSON object per final verdict.

    Args:
        settled: The flows.
        classes: Names of the labels.
        tiers: Names of the tiers.
        model_version: The bundle that judged.
    """
    lines = []
    sources, destinations = addresses_of(settled.flows)
    for i, (flow, verdict) in enumerate(zip(settled.flows, settled.verdicts, strict=True)):
        five_tuple = FiveTuple(
            sources[i],
            destinations[i],
            int(flow["src_port"]),
            int(flow["dst_port"]),
            int(flow["protocol"]),
        )
        wait_ns = int(verdict["wait_ns"])
        queue_ns, infer_ns = int(settled.queue_ns[i]), int(settled.infer_ns[i])
        lines.append(
            {
                "flow_id": int(flow["flow_id"]),
                "community_id": community_id(five_tuple),
                "src_ip": str(five_tuple.src),
                "src_port": five_tuple.src_port,
                "dest_ip": str(five_tuple.dst),
                "dest_port": five_tuple.dst_port,
                "proto": Protocol(five_tuple.protocol).name,
                "start_time": _iso_time(int(flow["start_time_ns"])),
                "label": classes[verdict["label"]],
                "confidence": round(float(verdict["confidence"]), 4),
                "novelty": round(float(verdict["novelty"]), 4),
                "tier": tiers[verdict["tier"]],
                "packets_used": int(verdict["packets_used"]),
                "reason": Reason(verdict["reason"]).text,
                "model_version": model_version,
                "latency_ms": {
                    "wait": wait_ns / 1e6,
                    "queue": queue_ns / 1e6,
                    "infer": infer_ns / 1e6,
                    "total": (wait_ns + queue_ns + infer_ns) / 1e6,
                },
            }
        )
    return lines


def out_lines(found: Verdicts) -> Bytes:
    """Return what :func:`verdict_lines` says, as JSON Lines, uint8 ``[m]``."""
    flows = found.settled.flows
    shared = shared_of(found.settled)
    text, _ = joined(
        [
            (b'{"flow_id":', integers(flows["flow_id"])),
            (b',"community_id":"', shared.community_id),
            (b'","src_ip":"', shared.src),
            (b'","src_port":', integers(flows["src_port"])),
            (b',"dest_ip":"', shared.dst),
            (b'","dest_port":', integers(flows["dst_port"])),
            (b',"proto":"', names(_PROTOCOLS, flows["protocol"])),
            (b'","start_time":"', times(flows["start_time_ns"], 9)),
            *json_judgement(found, shared, b'Z",'),
        ],
        b"}}\n",
    )
    return text


class JsonLinesSink:
    """Writes one JSON object per line and final verdict.

    Args:
        path: The file, made anew.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")

    def write(self, found: Verdicts) -> None:
        """Write verdicts."""
        self._file.write(out_lines(found).data)

    def __enter__(self) -> JsonLinesSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
