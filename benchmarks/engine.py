"""``serveflow bench engine``: the packet engine and the cascade in one process, on one core.

Captures are read from their files (out of the page cache) over and over, each pass later and with
other hosts, as one long capture: so many short ones do not measure beginnings and ends. Telling
the passes apart costs some 10 ns a packet and counts as reading.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.environment import environment
from benchmarks.overlay import play
from benchmarks.recorded import RepeatedCaptures, read_captures
from benchmarks.results import spread
from collectors.collector import Settled
from collectors.sender import Part
from flows.compiled import kernel
from flows.packet import Records, packet_dtype
from flows.table import FlowTable
from models.bundle import BundleContents, read_bundle
from models.cascade import Cascade
from models.inputs import see
from serveflow_app.local_sender import LOCAL_REPLAY, LocalSender
from serveflow_app.settings import bundle_folder

__all__ = ["measure_engine", "one_core"]

_BATCH = 1_024  # flows that a model is asked at once


@dataclass(frozen=True, slots=True)
class _FirstPackets:
    """First packets of flows, by flow, and where each flow's begin."""

    packets: Records
    offsets: npt.NDArray[np.int64]


class _Stopwatch:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self._since_s = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap for ``stage``."""
        now_s = time.perf_counter()
        self.spent_s[stage] += now_s - self._since_s
        self._since_s = now_s


def measure_engine(
    captures: list[Path], bundle: Path | None, *, rounds: int, least_flows: int
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        captures: Capture files.
        bundle: The bundle; None: the one that comes along.
        rounds: Rounds to take medians of; one more goes before them and does not count.
        least_flows: New flows in a round, at least.

    Raises:
        CaptureError: A capture cannot be read to its end.
        BundleError: The bundle cannot be loaded.
        SettingsError: There is no flow in the captures.
    """
    contents = read_bundle(bundle_folder(bundle))
    recorded = read_captures(captures)
    passes = -(-least_flows // recorded.flows)
    flows, packets = recorded.flows * passes, len(recorded.packets) * passes
    del recorded
    taken = environment(
        captures=[path.name for path in captures], bundle=bundle_folder(bundle).name,
        rounds=rounds, passes=passes, batch_flows=_BATCH,
    )  # fmt: skip
    answered: Counter[int] = Counter()
    found: list[dict[str, float]] = []
    with one_core():
        for number in range(rounds + 1):
            one = _round(contents, captures, passes, flows, answered)
            if number:
                found.append(one)
    stages = {name: median(one[name] for one in found) for name in found[0]}
    tiers = {f"tier {tier.name}": t for t, tier in enumerate(contents.tiers)}
    return {
        "new_flows_per_second_per_core": 1e6 / stages["file_to_verdicts"],
        "packets_per_second_per_core": packets / flows * 1e6 / stages["file_to_verdicts"],
        "packet_side_flows_per_second": 1e6 / stages["packet_side"],
        "packet_side_packets_per_second": packets / flows * 1e6 / stages["packet_side"],
        "stages_us_per_flow": stages,
        "spread_us_per_flow": {name: spread([one[name] for one in found]) for name in stages},
        "answered_share": {name: answered[t] / answered.total() for name, t in tiers.items()},
        "flows": flows,
        "packets": packets,
        "packets_per_flow": packets / flows,
        "passes": passes,
        "environment": taken,
    }


def _round(
    contents: BundleContents,
    captures: list[Path],
    passes: int,
    flows: int,
    answered: Counter[int],
) -> dict[str, float]:
    """Measure every stage once; return µs a flow (of those asked, for a tier)."""
    cascade = Cascade(contents)
    source = RepeatedCaptures(captures, passes, with_header=cascade.needs_header)
    watch, firsts = _packet_side(source, contents, cascade, flows)
    found = {stage: spent_s / flows * 1e6 for stage, spent_s in watch.spent_s.items()}
    found["packet_side"] = sum(found.values())
    for t, tier in enumerate(contents.tiers):
        found[f"tier {tier.name}"] = _tier_us(cascade, t, firsts)

    def on_settled(settled: Settled, _: Part) -> None:
        tiers, counts = np.unique(settled.verdicts["tier"], return_counts=True)
        answered.update(dict(zip(tiers.tolist(), counts.tolist(), strict=True)))

    sender = LocalSender(cascade)
    begin_s = time.perf_counter()
    seen = play(source, sender, LOCAL_REPLAY, on_settled)
    found["file_to_verdicts"] = (time.perf_counter() - begin_s) / seen * 1e6
    sender.close()
    return found


def _packet_side(
    source: RepeatedCaptures, contents: BundleContents, cascade: Cascade, flows: int
) -> tuple[_Stopwatch, _FirstPackets]:
    """Read, decode, track, and make the deepest tier's features of every flow."""
    depth = cascade.depth
    dtype = packet_dtype(cascade.needs_header)
    table = FlowTable(first_packets=depth)
    blocks = np.empty((flows, depth), dtype)
    blocks.view(np.uint8)[:] = 0  # touched, as memory in use is
    sizes = np.zeros(flows, np.int64)
    chunks = source.chunks()
    watch = _Stopwatch()
    while True:
        chunk = next(chunks, None)
        watch.lap("read_decode")
        if chunk is None:
            break
        update = table.update(chunk.packets, chunk.endpoints)
        watch.lap("table")
        _keep(chunk.packets, update.kept, update.flow_number, blocks, sizes)
        watch.lap("first_packets")
    offsets = np.zeros(flows + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    packets = np.empty(offsets[-1], dtype)
    _in_order(blocks, offsets, packets)
    watch.lap("first_packets")
    deepest = contents.tiers[-1]
    for begin in range(0, flows, _BATCH):
        rows = np.arange(begin, min(begin + _BATCH, flows))
        see(deepest.inputs, packets, offsets, depth, deepest.sight, rows)
    watch.lap("features")
    return watch, _FirstPackets(packets, offsets)


@kernel
def _keep(
    packets: Records,
    kept: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.uint64],
    blocks: Records,
    sizes: npt.NDArray[np.int64],
) -> None:
    """Copy the packets ``kept`` to their flows' blocks."""
    for i in kept:
        flow = np.int64(numbers[i])
        blocks[flow, packets[i].packet_index] = packets[i]
        sizes[flow] += 1


@kernel
def _in_order(blocks: Records, offsets: npt.NDArray[np.int64], out: Records) -> None:
    """Copy the packets of all flows into ``out``, one after the other."""
    for flow in range(len(blocks)):
        for k in range(offsets[flow + 1] - offsets[flow]):
            out[offsets[flow] + k] = blocks[flow, k]


def _tier_us(cascade: Cascade, t: int, firsts: _FirstPackets) -> float:
    """Return what tier ``t`` takes of a flow, features, calibration and gate included."""
    sizes = np.diff(firsts.offsets)
    last = len(cascade.tiers) - 1
    able = np.flatnonzero((sizes >= cascade.tiers[t].depth) | (t == last))
    batches = []
    for begin in range(0, len(able), _BATCH):
        rows = able[begin : begin + _BATCH]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(sizes[rows], out=offsets[1:])
        at = np.repeat(firsts.offsets[rows] - offsets[:-1], sizes[rows]) + np.arange(offsets[-1])
        batches.append((firsts.packets.take(at), offsets))
    next_tier, ended = np.full(_BATCH, t, np.uint8), np.ones(_BATCH, np.uint8)
    begin_s = time.perf_counter()
    for packets, offsets in batches:
        n = len(offsets) - 1
        cascade.answer(packets, offsets, next_tier[:n], ended[:n], stop_tier=t + 1)
    return (time.perf_counter() - begin_s) / max(len(able), 1) * 1e6


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, threads that it starts included, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
