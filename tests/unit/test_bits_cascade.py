"""A cascade that reads bits says what one that reads columns says of the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frames as f
from collectors.delivery import DeliverySettings
from collectors.replay import Replay, ReplaySettings
from collectors.sender import Part
from flows.wire import PacketBatch, decode_batch, encode_batch
from models.bits import PACKET_BITS
from models.bundle import BundleContents, read_bundle
from models.cascade import Cascade
from models.engines import Engine
from models.features import Sight, feature_names
from models.synthetic import synthetic_bundle
from serveflow_app.local_sender import LocalSender


class WireSender(LocalSender):
    """Takes batches over the wire form."""

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        return super().submit(decode_batch(encode_batch(batch), with_header=self.schema().header))


@dataclass
class OnBits:
    """Reads the packets' sizes from their bits and asks an engine on columns."""

    engine: Engine
    depth: int

    def scores(self, inputs: np.ndarray) -> np.ndarray:
        assert inputs.shape == (len(inputs), self.depth * PACKET_BITS)
        length = inputs.reshape(-1, self.depth, PACKET_BITS)[:, :, 16:32]  # ipv4_tl
        there = length[:, :, 0] >= 0
        sizes = np.where(there, length @ 2.0 ** np.arange(15, -1, -1), 0)
        names = feature_names(self.depth, Sight())
        columns = np.zeros((len(inputs), len(names)), np.float32)
        columns[:, names.index("ip_bytes")] = sizes[:, 0]
        if self.depth > 1:
            columns[:, names.index("mean_ip_bytes")] = sizes.sum(axis=1) / np.maximum(
                there.sum(axis=1), 1
            )
        return self.engine.scores(columns)


def on_bits(contents: BundleContents, which: list[int]) -> BundleContents:
    tiers: list[Any] = list(contents.tiers)
    for t in which:
        tiers[t] = replace(tiers[t], inputs="bits", engine=OnBits(tiers[t].engine, tiers[t].depth))
    return replace(contents, tiers=tuple(tiers))


def capture(folder: Path) -> Path:
    rng = random.Random(3)
    frames = []
    for _ in range(400):
        port = rng.randrange(1000, 1060)
        body = bytes(rng.randrange(1400))
        if port % 2:
            frames.append(f.ethernet(f.ipv4(f.udp(port, payload=body), 17)))
        else:
            frames.append(f.ethernet(f.ipv4(f.tcp(port, flags=f.ACK, payload=body))))
    path = folder / "some.pcap"
    path.write_bytes(f.pcap(frames, times_ns=[10**18 + k * 10**7 for k in range(len(frames))]))
    return path


def verdicts(contents: BundleContents, path: Path) -> dict[int, tuple[Any, ...]]:
    found = {}

    def note(_: Path, settled: Any, __: Part) -> None:
        names = ["label", "confidence", "tier", "packets_used", "reason", "wait_ns"]
        for flow, verdict in zip(settled.flows, settled.verdicts, strict=True):
            found[int(flow["flow_number"])] = verdict[names].item()

    sender = WireSender(Cascade(contents), trackers=2)
    replay = Replay(
        sender, ReplaySettings(delivery=DeliverySettings(max_open=1, batch_delay_s=0.0)), note
    )
    try:
        outcome = replay.run(path)
    finally:
        replay.close()
        sender.close()
    assert outcome.open == 0
    assert outcome.flows == len(found)
    return found


@pytest.mark.parametrize("which", [[0], [2], [0, 1, 2]])
def test_a_cascade_on_bits_says_what_it_says_on_columns(tmp_path: Path, which: list[int]) -> None:
    contents = read_bundle(synthetic_bundle(tmp_path / "bundle", depths=(1, 1, 3)))
    path = capture(tmp_path)
    bits = on_bits(contents, which)
    assert [Cascade(c).needs_header for c in (contents, bits)] == [False, True]
    plain = verdicts(contents, path)
    assert len({said[2] for said in plain.values()}) > 1  # several tiers had their say
    assert verdicts(bits, path) == plain
