"""The columns of the Parquet files that verdicts are written to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from collectors.sinks import Verdicts
from collectors.text_columns import Texts, joined, names
from collectors.verdict_columns import REASONS, shared_of
from flows.packet import Protocol

__all__ = ["PARQUET_SCHEMA", "to_arrow"]

_NAMES = {int(p): p.name for p in Protocol}
_PROTOCOLS = tuple(_NAMES.get(k, str(k)) for k in range(256))

PARQUET_SCHEMA = pa.schema(
    [
        # Microseconds, as not every reader knows nanoseconds.
        pa.field("start_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("flow_id", pa.uint64(), nullable=False),
        pa.field("community_id", pa.string(), nullable=False),
        pa.field("src_ip", pa.string(), nullable=False),
        pa.field("src_port", pa.uint16(), nullable=False),
        pa.field("dest_ip", pa.string(), nullable=False),
        pa.field("dest_port", pa.uint16(), nullable=False),
        pa.field("proto", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("novelty", pa.float32(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("packets_used", pa.uint8(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("wait_ns", pa.int64(), nullable=False),
        pa.field("queue_ns", pa.int64(), nullable=False),
        pa.field("infer_ns", pa.int64(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("collector", pa.string(), nullable=False),
        pa.field("interface", pa.string()),
    ]
)
"""Columns and their types; ports of ICMP flows as in :class:`flows.keys.FiveTuple`."""


def to_arrow(found: Verdicts) -> Any:
    """Return verdicts as one record batch of :data:`PARQUET_SCHEMA`."""
    flows, verdicts = found.settled.flows, found.settled.verdicts
    shared = shared_of(found.settled)
    columns = {
        "start_time": pa.array(flows["start_time_ns"] // 1_000).cast(
            PARQUET_SCHEMA.field("start_time").type
        ),
        "flow_id": pa.array(flows["flow_id"]),
        "community_id": _strings(shared.community_id),
        "src_ip": _strings(shared.src),
        "src_port": pa.array(flows["src_port"]),
        "dest_ip": _strings(shared.dst),
        "dest_port": pa.array(flows["dst_port"]),
        "proto": _strings(names(_PROTOCOLS, flows["protocol"])),
        "label": _strings(names(found.classes, verdicts["label"])),
        "confidence": pa.array(verdicts["confidence"]),
        "novelty": pa.array(verdicts["novelty"]),
        "tier": _strings(names(found.tiers, verdicts["tier"])),
        "packets_used": pa.array(verdicts["packets_used"]),
        "reason": _strings(names(REASONS, verdicts["reason"])),
        "wait_ns": pa.array(shared.latency_ns["wait"]),
        "queue_ns": pa.array(shared.latency_ns["queue"]),
        "infer_ns": pa.array(shared.latency_ns["infer"]),
        "model_version": pa.repeat(found.model_version, len(found)),
        "collector": pa.repeat(found.collector, len(found)),
        "interface": pa.repeat(pa.scalar(found.interface, pa.string()), len(found)),
    }
    return pa.record_batch([columns[name] for name in PARQUET_SCHEMA.names], schema=PARQUET_SCHEMA)


def _strings(texts: Texts) -> Any:
    text, ends = joined([(b"", texts)], b"")
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
