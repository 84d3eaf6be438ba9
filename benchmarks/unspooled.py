"""What a killed collector had not spooled yet: flows that no journal tells of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks.collected import Flow
from collectors.journal import OBSERVED, JournalMeta, decoded
from collectors.spool_segments import read_records, segments
from flows.packet import Protocol

__all__ = ["split_missing"]

_Key: TypeAlias = tuple[int, int, int, int]
_NUMBERS = {one.name: int(one) for one in Protocol} | {"IPv6-ICMP": int(Protocol.ICMPV6)}


def split_missing(missing: Iterable[Flow], left: Sequence[Path]) -> dict[str, int]:
    """Tell flows without a verdict that were in a spool from those that were not.

    Args:
        missing: Flows as :func:`benchmarks.collected.labels` names them.
        left: Spools as killed collectors have left them.

    Returns:
        ``spooled``, which must not be, and ``unread``: no packet of theirs had come out of a pipe.
    """
    known = {key for folder in left for key in _begun(folder)}
    found = {"spooled": 0, "unread": 0}
    for flow in missing:
        found["spooled" if _key(flow) in known else "unread"] += 1
    return found


def _key(flow: Flow) -> _Key:
    start, _, src_port, _, dest_port, proto = flow
    start_us = int(np.datetime64(start, "us").astype(np.int64))
    return start_us, src_port, dest_port, _NUMBERS[proto]


def _begun(folder: Path) -> Iterable[_Key]:
    found, _ = segments(folder)
    for segment in found:
        meta = JournalMeta.of(segment.meta)
        if meta is None:
            continue
        for kind, payload, _ in read_records(segment.path, segment.begins_at):
            moment = decoded(payload, with_header=meta.with_header) if kind == OBSERVED else None
            for row in moment.flows if moment is not None else ():
                ports = int(row["src_port"]), int(row["dst_port"])
                if row["protocol"] not in (Protocol.TCP, Protocol.UDP):
                    ports = 0, 0
                yield int(row["start_time_ns"]) // 1_000, *ports, int(row["protocol"])
