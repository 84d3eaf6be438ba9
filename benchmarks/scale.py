"""``serveflow bench scale``: what the parts cost as there is more of everything.

Of each part in this process, on one core, without Ray: the collector and a tracker by the flows
that are open and by depth, on made-up packets; the dispatch with its models by the flows in a
batch and by the number of trackers, on captures. What Ray adds is measured by
``bench service-rate``.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.engine import one_core
from benchmarks.environment import environment
from benchmarks.feeds import Pace, WholeFeed
from benchmarks.recorded import read_captures
from benchmarks.template import FlowTemplate, flow_template
from collectors.ledger import Ledger
from flows.ids import flow_ids
from flows.join import MARK_DTYPE, Join
from flows.packet import ENDPOINTS_DTYPE, PACKET_DTYPE, Protocol, Records
from flows.table import FlowTable
from flows.wire import decode_batch
from models.cascade import Cascade, load_cascade
from serveflow_app.local_sender import LocalSender
from serveflow_app.settings import bundle_folder

__all__ = ["measure_scale"]

_CHUNK = 4_096  # packets at once, as a batch has
_SPREAD = 1_000  # flows of which a batch brings one packet each
_CALLS = 20  # timed calls of a round
_WAIT_S = 10.0
_FEW = 64  # flows that are enough to run everything once
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TRACKERS = (1, 2, 4, 8)
_BATCHES = (16, 64, 256, 1_024, 4_096)
_DEPTHS = (1, 5, 10, 20)


def measure_scale(
    captures: list[Path],
    bundle: Path | None,
    *,
    rounds: int,
    most_flows: int,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        captures: Capture files, for the dispatch.
        bundle: The bundle; None: the one that comes along.
        rounds: Rounds to take medians of.
        most_flows: Open flows to go up to, by tens from 1,000 on.
        on_progress: Called with what goes on.

    Raises:
        CaptureError: A capture cannot be read to its end.
        BundleError: The bundle cannot be loaded.
        SettingsError: There is no flow in the captures.
    """
    cascade = load_cascade(bundle_folder(bundle))
    taken = environment(
        captures=[path.name for path in captures], bundle=bundle_folder(bundle).name,
        rounds=rounds, most_flows=most_flows, chunk_packets=_CHUNK,
    )  # fmt: skip
    template = _template(captures, cascade)
    counts = [1_000]
    while counts[-1] * 10 <= most_flows:
        counts.append(counts[-1] * 10)
    with one_core():
        by_open = []
        for count in counts:
            on_progress(f"{count:,} open flows")
            by_open.append(
                {
                    "open_flows": count,
                    "depth": cascade.depth,
                    **_in_own_process(count, cascade.depth, rounds),
                }
            )
        by_depth = []
        for depth in _DEPTHS:
            on_progress(f"depth {depth}")
            by_depth.append({"open_flows": counts[0] * 10, "depth": depth,
                             **_in_own_process(counts[0] * 10, depth, rounds)})  # fmt: skip
        by_batch = []
        for flows in _BATCHES:
            on_progress(f"{flows:,} flows in a batch")
            us = [_dispatch_us(cascade, template, flows, 1) for _ in range(rounds + 1)][1:]
            by_batch.append({"batch_flows": flows, "us_per_flow": median(us)})
        by_trackers = []
        for trackers in _TRACKERS:
            on_progress(f"{trackers} trackers")
            us = [_dispatch_us(cascade, template, 1_024, trackers) for _ in range(rounds + 1)][1:]
            by_trackers.append({"trackers": trackers, "us_per_flow": median(us)})
    return {
        "by_open_flows": by_open,
        "by_depth": by_depth,
        "by_batch_flows": by_batch,
        "by_trackers": by_trackers,
        "environment": taken,
    }


def _template(captures: list[Path], cascade: Cascade) -> FlowTemplate:
    """Return the captures' flows, as often as it takes to fill the largest batch."""
    recorded = read_captures(captures, with_header=cascade.needs_header)
    times = -(-_BATCHES[-1] // recorded.flows)
    if times > 1:
        recorded = read_captures(captures * times, with_header=cascade.needs_header)
    return flow_template(recorded, cascade.depth, cascade.max_wait_s)


def _parts(count: int, depth: int, rounds: int) -> dict[str, float]:
    """Return costs and memory of a collector and of a tracker with ``count`` open flows."""
    return {**_collector(count, depth, rounds), **_tracker(count, depth, rounds)}


def _in_own_process(count: int, depth: int, rounds: int) -> dict[str, float]:
    """Return :func:`_parts` from a process of its own, whose memory holds nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(_parts, _FEW, depth, 1).result()  # loads and compiles what is needed
        return pool.submit(_parts, count, depth, rounds).result()


def _collector(count: int, depth: int, rounds: int) -> dict[str, float]:
    """Fill a flow table and a ledger, then time packets of flows that are open."""
    before = _memory()
    seed = 7
    table = FlowTable(first_packets=depth, seed=seed)
    ledger = Ledger(depth, _WAIT_S, seed)
    numbers = np.arange(count)
    time_ns = 1
    for _ in range(depth):
        for begin in range(0, count, _CHUNK):
            packets, endpoints = _packets(numbers[begin : begin + _CHUNK], time_ns)
            update = table.update(packets, endpoints)
            ledger.enter(update.new_flows)
            seen = np.zeros(len(packets), np.int64)
            ledger.keep(packets, update.kept, update.flow_number, seen)
        time_ns += 1_000
    used = _memory() - before
    drawn = np.random.default_rng(0)

    def chunk() -> tuple[Records, Records]:
        return _packets(drawn.integers(0, count, _CHUNK), time_ns)

    took = [_timed(chunk, lambda made: table.update(*made)) for _ in range(rounds)]
    return {
        "table_ns_per_packet": median(took) / _CHUNK,
        "collector_bytes_per_flow": used / count,
    }


def _tracker(count: int, depth: int, rounds: int) -> dict[str, float]:
    """Fill a join, then time batches that bring flows' next packets."""
    before = _memory()
    join = Join((1, max(depth, 2)), _WAIT_S, capacity=1_024)
    none = np.empty(0, np.uint64)
    for begin in range(0, count, _CHUNK):
        ids = flow_ids(np.arange(begin, min(begin + _CHUNK, count), dtype=np.uint64), 7)
        packets = np.zeros(len(ids), PACKET_DTYPE)
        packets["flow_id"] = ids
        packets["time_ns"] = 1
        marks = np.zeros(len(ids), MARK_DTYPE)
        marks["flow_id"], marks["next_tier"] = ids, 1
        join.absorb("bench", 1, packets, marks, none)
        for index in range(1, depth - 1):
            packets["packet_index"] = index
            join.absorb("bench", 1, packets, marks[:0], none)
    used = _memory() - before
    drawn = np.random.default_rng(0)

    def known(numbers: npt.NDArray[np.int64]) -> Records:
        # Known packets: absorbed like new ones as far as finding the flow and its due ones goes.
        packets = np.zeros(len(numbers), PACKET_DTYPE)
        packets["flow_id"] = flow_ids(numbers.astype(np.uint64), 7)
        packets["time_ns"] = 1
        return packets

    def chunk() -> Records:
        return known(drawn.integers(0, count, _CHUNK))

    def spread() -> Records:
        # As many flows to look at, however many are open.
        return known(drawn.choice(count, min(_SPREAD, count), replace=False))

    def absorb(packets: Records) -> None:
        join.absorb("bench", 2, packets, np.empty(0, MARK_DTYPE), none)

    took = [_timed(chunk, absorb) for _ in range(rounds)]
    spread_took = [_timed(spread, absorb) for _ in range(rounds)]
    return {
        "tracker_us_per_batch": median(took) / 1e3,
        "tracker_us_per_1000_flows": median(spread_took) / 1e3 / min(_SPREAD, count) * 1_000,
        "tracker_bytes_per_flow": used / count,
    }


def _packets(numbers: npt.NDArray[np.integer], time_ns: int) -> tuple[Records, Records]:
    """Return one UDP packet of each of these flows, and its endpoints."""
    packets = np.zeros(len(numbers), PACKET_DTYPE)
    packets["time_ns"] = time_ns
    packets["protocol"] = Protocol.UDP
    packets["ip_version"] = 4
    packets["ip_bytes"] = 100
    endpoints = np.zeros(len(numbers), ENDPOINTS_DTYPE)
    endpoints["src_lo"] = np.uint64(0xFFFF_0A00_0000) + (numbers >> 8).astype(np.uint64)
    endpoints["dst_lo"] = 0xFFFF_0A01_0101
    endpoints["src_port"] = 1_024 + (numbers & 0xFF)
    endpoints["dst_port"] = 53
    endpoints["protocol"] = Protocol.UDP
    endpoints["ip_version"] = 4
    return packets, endpoints


def _timed(make: Callable[[], Any], work: Callable[[Any], Any]) -> float:
    """Return the median time of a call of ``work`` on something new from ``make``, ns."""
    took = []
    for _ in range(_CALLS):
        made = make()
        begin_ns = time.perf_counter_ns()
        work(made)
        took.append(time.perf_counter_ns() - begin_ns)
    return median(took)


def _dispatch_us(
    cascade: Cascade, template: FlowTemplate, batch_flows: int, trackers: int
) -> float:
    """Return what whole flows take in the dispatch, decoding and all models included, µs each."""
    sender = LocalSender(cascade, trackers)
    feed = WholeFeed(template, "bench", Pace(1e6), 7, batch_flows)
    bodies = []
    flows = 0
    while flows < max(4_096, batch_flows):
        offered = feed.next(1 << 60, more=True)
        if offered is None:
            break
        bodies.append(bytes(offered.body))
        flows += offered.flows
    begin_s = time.perf_counter()
    for body in bodies:
        batch = decode_batch(body, with_header=cascade.needs_header)
        for _ in sender.submit(batch):
            pass
    took_s = time.perf_counter() - begin_s
    sender.close()
    return took_s / flows * 1e6


def _memory() -> int:
    """Return the memory that this process holds, bytes (Linux)."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
