"""Compiles what a collector runs before packets come, so that the first ones need not wait."""

from __future__ import annotations

import gc
import io
import struct
from functools import cache

import numpy as np

from collectors.collector import Collector
from flows.capture import CaptureReader
from flows.link import LinkType
from flows.packet import MAX_DEPTH
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE
from flows.verdict_wire import VerdictReader, VerdictWriter
from flows.wire import MAX_BATCH_PACKETS, encode_batch

__all__ = ["warm_up"]

_UDP_PACKET = bytes.fromhex("450000200001000040110000010101010202020200350035000c0000") + bytes(4)
_CAPTURE = (
    struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, LinkType.RAW)
    + struct.pack("<IIII", 1, 0, len(_UDP_PACKET), len(_UDP_PACKET))
    + _UDP_PACKET
)


@cache
def warm_up(*, with_header: bool) -> None:
    """Take one flow through everything that a collector does.

    The first time on a machine that takes some 10 s, later on a fraction of a second. Objects that
    there are then are left out of garbage collection from then on: they are mostly modules, which
    stay, and to look through them takes some hundred milliseconds, in which no packet is taken in.

    Args:
        with_header: Its packets hold their headers' bytes (``ServiceSchema.header``).
    """
    schema = ServiceSchema(
        depth=MAX_DEPTH,
        max_wait_s=1.0,
        classes=("none",),
        tiers=("none",),
        depths=(MAX_DEPTH,),
        model_version="none",
        trackers=1,
        max_batch_packets=MAX_BATCH_PACKETS,
        max_body_bytes=1 << 20,
        header=with_header,
    )
    collector = Collector(schema, name="warm-up")
    for chunk in CaptureReader(io.BytesIO(_CAPTURE), with_header=with_header).chunks():
        collector.observe(chunk.packets, chunk.endpoints, np.zeros(len(chunk.packets), np.int64))
    collector.fail(collector.next_batch(0))
    out = collector.next_batch(0)
    for _ in range(2):  # what has been written or read once goes another way the second time
        encode_batch(out.batch)
    verdict = np.zeros(1, VERDICT_DTYPE)
    verdict["flow_id"] = out.batch.packets["flow_id"][:1]
    for _ in range(2):
        writer = VerdictWriter(schema.classes, schema.model_version)
        list(VerdictReader(io.BytesIO(writer.part(verdict) + writer.end())))
    for incarnation in ("first", "second"):  # of a tracker that died in between
        collector.receive(out, verdict, {"trackers": {"0": incarnation}}, 0)
    collector.resend_overdue(0)
    collector.advance(2_000_000_000, 0)
    collector.finish(0)
    verdict["final"] = 1
    collector.receive(out, verdict, {}, 0)
    gc.collect()
    gc.freeze()
