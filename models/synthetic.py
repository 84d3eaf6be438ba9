"""Made-up flows and a made-up bundle: for tests, benchmarks and warming up, not for judging."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flows.packet import PACKET_DTYPE, Protocol, TcpFlags
from flows.verdict import Reason
from models.bundle import BundleContents, TierModel, write_bundle
from models.calibration import Isotonic
from models.dataset import Dataset
from models.engines import ForestEngine
from models.features import Sight, feature_names
from models.validation import Validation
from models.yardstick import Judgements

__all__ = ["synthetic_bundle", "synthetic_dataset", "synthetic_validation"]

_START_NS = 1_700_000_000_000_000_000
_NEVER = 2.0


def synthetic_dataset(
    flows: int, *, classes: int = 4, groups: int = 8, depth: int = 10, seed: int = 0
) -> Dataset:
    """Draw labelled flows that a cascade can tell apart, some of them only by later packets.

    Classes come in pairs: TCP and UDP, with their own sizes and times to live. Half of the flows
    of a pair look alike in packet 1; packets 2 and on tell them apart.

    Args:
        flows: How many.
        classes: How many; ``class-0`` and on.
        groups: How many captures they are spread over.
        depth: Most packets of a flow; some have fewer.
        seed: Makes it repeatable.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, flows)
    sizes = np.where(rng.random(flows) < 0.3, rng.integers(1, depth + 1, flows), depth)
    offsets = np.zeros(flows + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    packets = np.zeros(offsets[-1], PACKET_DTYPE)
    flow = np.repeat(np.arange(flows), sizes)
    index = np.arange(len(packets)) - offsets[flow]
    tcp = (label // 2 % 2 == 0)[flow]
    shown = np.where(rng.random(flows) < 0.5, label, label // 2 * 2)[flow]
    kind = np.where(index == 0, shown, label[flow])
    packets["flow_id"] = flow + 1
    packets["packet_index"] = index
    gap_ns = rng.exponential(20e6, len(packets)).astype(np.int64)
    gap_ns[index == 0] = 0
    since_ns = np.cumsum(gap_ns)
    packets["time_ns"] = _START_NS + since_ns - since_ns[offsets[:-1]][flow]
    packets["from_originator"] = (index % 2 == 0) | (rng.random(len(packets)) < 0.2)
    packets["from_originator"][index == 0] = 1
    packets["ip_version"] = 4
    packets["ip_header_bytes"] = 20
    packets["protocol"] = np.where(tcp, Protocol.TCP, Protocol.UDP)
    packets["ttl"] = 64 - 8 * (kind % 4)
    payload = 40 * kind + rng.integers(0, 60, len(packets))
    packets["payload_bytes"] = np.where(tcp & (index < 2), 0, payload)
    packets["tcp_header_bytes"] = np.where(tcp, 20, 0)
    packets["ip_bytes"] = 20 + np.where(tcp, 20, 8) + packets["payload_bytes"]
    packets["tcp_flags"] = np.where(
        tcp, np.where(index == 0, int(TcpFlags.SYN), int(TcpFlags.ACK)), 0
    )
    packets["tcp_window"] = np.where(tcp, 1_000 + 500 * kind, 0)
    packets["originator_port"] = rng.integers(32_768, 60_000, flows)[flow]
    packets["responder_port"] = 1_000 + label[flow] // 2
    over_ns = packets["time_ns"][offsets[1:] - 1] - packets["time_ns"][offsets[:-1]]
    return Dataset(
        packets=packets,
        offsets=offsets,
        over_ns=over_ns,
        reasons=np.full(flows, Reason.ENDED, np.uint8),
        labels=np.array([f"class-{c}" for c in label]),
        groups=rng.integers(0, groups, flows),
        depth=depth,
        captures=groups,
        seen=flows,
    )


def synthetic_bundle(
    folder: Path,
    *,
    depths: tuple[int, ...] = (1, 1, 10),
    max_wait_s: float = 10.0,
    validation: Validation | None = None,
) -> Path:
    """Write a bundle whose tiers are made by hand, and return its folder.

    It knows ``small`` and ``large``; each tier looks at the size of a packet (packet 1, or the
    mean of all) and is sure of half of what it sees, but for the deepest, which has the last word.

    Args:
        folder: Where; a bundle that is there is replaced.
        depths: First packets that each tier judges, not decreasing.
        max_wait_s: How long a flow waits for packets.
        validation: Judgements that it keeps; by default made-up ones of 8 captures.
    """
    if validation is None:
        validation = synthetic_validation(depths)
    tiers = []
    for i, depth in enumerate(depths):
        names = feature_names(depth, Sight())
        column = names.index("ip_bytes" if depth == 1 else "mean_ip_bytes")
        tiers.append(
            TierModel(
                name=f"stump{i}@{depth}",
                depth=depth,
                threshold=0.9 if i < len(depths) - 1 else _NEVER,
                inputs="columns",
                sight=Sight(),
                calibration=Isotonic((0.5, 1.0), (0.5, 1.0)),
                engine=_stump(column),
            )
        )
    contents = BundleContents(
        classes=("small", "large"),
        tiers=tuple(tiers),
        card="# Made by hand\n",
        training_data="none",
        made_with={},
        max_wait_s=max_wait_s,
    )
    write_bundle(contents, folder, validation)
    return folder


def synthetic_validation(
    depths: tuple[int, ...], *, flows: int = 400, groups: int = 8, seed: int = 0
) -> Validation:
    """Draw judgements of two classes; a tier is right as often as it says.

    Args:
        depths: First packets that each tier judges; the deepest is nearly always right.
        flows: How many.
        groups: How many captures they are spread over.
        seed: Makes it repeatable.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, flows)
    sizes = np.where(rng.random(flows) < 0.2, rng.integers(1, depths[-1] + 1, flows), depths[-1])
    gap_ns = rng.exponential(20e6, flows)
    tiers = []
    for i, depth in enumerate(depths):
        share = rng.uniform(0.5, 1.0, flows) if i < len(depths) - 1 else np.full(flows, 0.98)
        label = np.where(rng.random(flows) < share, true, 1 - true)
        wait_ns = (gap_ns * (depth - 1)).astype(np.int64)
        tiers.append(Judgements(label, share.astype(np.float32), depth, wait_ns))
    return Validation(true, np.arange(flows) % groups, sizes, tuple(tiers))


def _stump(column: int) -> ForestEngine:
    """Sure below 80 and above 800 bytes, less so between; parted at 300."""
    return ForestEngine(
        feature=np.array([column, column, -1, -1, column, -1, -1], np.int16),
        threshold=np.array([300, 80, 0, 0, 800, 0, 0], np.float32),
        left=np.array([1, 2, 0, 1, 5, 2, 3], np.int32),
        right=np.array([4, 3, 0, 0, 6, 0, 0], np.int32),
        roots=np.array([0], np.int32),
        values=np.array([[0.95, 0.05], [0.7, 0.3], [0.3, 0.7], [0.05, 0.95]], np.float32),
    )
