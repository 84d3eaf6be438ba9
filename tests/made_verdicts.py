"""Verdicts for tests of sinks."""

from __future__ import annotations

import numpy as np

from collectors.exchange import Settled
from collectors.sinks import Verdicts
from flows.packet import FlowEndReason, Protocol
from flows.table import FLOW_DTYPE
from flows.verdict import VERDICT_DTYPE

CLASSES = ("dns", 'a "quoted"\nname', "Größe 😀 \\ \t", "-", "")
TIERS = ("fast", "slow")
START_NS = 1_699_999_200_000_000_000  # 2023-11-14T22:00


def made(n: int, *, first_id: int = 0, start_ns: int = START_NS, hours: int = 1) -> Verdicts:
    """Return ``n`` verdicts on flows of all kinds, whose ids count from ``first_id`` on.

    Args:
        n: How many.
        first_id: Id of the first one.
        start_ns: When the first one starts.
        hours: They start within so many hours.
    """
    rng = np.random.default_rng(n + first_id)
    flows = np.zeros(n, FLOW_DTYPE)
    flows["flow_id"] = first_id + np.arange(n, dtype=np.uint64)
    flows["start_time_ns"] = start_ns + np.arange(n) * (hours * 3_600_000_000_000 // max(n, 1))
    flows["protocol"] = rng.choice([int(p) for p in Protocol], n)
    four = (flows["protocol"] != Protocol.ICMPV6) & (rng.random(n) < 0.5)
    flows["ip_version"] = np.where(four, 4, 6)
    for end in ("src", "dst"):
        low = rng.integers(0, 1 << 32, n, dtype=np.uint64)
        flows[f"{end}_hi"] = np.where(four, 0, np.uint64(0x20010DB8 << 32))
        flows[f"{end}_lo"] = np.where(four, low | np.uint64(0xFFFF << 32), low)
        flows[f"{end}_port"] = rng.integers(0, 256, n)
    verdicts = np.zeros(n, VERDICT_DTYPE)
    verdicts["flow_id"], verdicts["final"] = flows["flow_id"], 1
    verdicts["label"] = rng.integers(0, len(CLASSES), n)
    verdicts["tier"] = rng.integers(0, len(TIERS), n)
    verdicts["confidence"], verdicts["novelty"] = rng.random(n), rng.random(n)
    verdicts["packets_used"] = rng.integers(1, 11, n)
    verdicts["reason"] = rng.integers(1, 8, n)
    verdicts["wait_ns"] = rng.integers(0, 10**10, n)
    queue_ns, infer_ns = rng.integers(0, 10**8, n), rng.integers(0, 10**6, n)
    ends = rng.integers(0, len(FlowEndReason), n, dtype=np.uint8)
    settled = Settled(flows, verdicts, queue_ns, infer_ns, ends)
    return Verdicts(settled, CLASSES, TIERS, "2026-11-24", "edge#1f2e3d4c", "eth0")
