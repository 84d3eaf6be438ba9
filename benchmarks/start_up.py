"""``serveflow bench start-up``: from the start to the first verdict, and what memory it takes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cpu import PARTS, cpu_by_process
from benchmarks.environment import environment
from benchmarks.results import medians, spread
from benchmarks.started import config_under_test, started
from collectors.sender import HttpSender
from flows.errors import ServiceError
from flows.packet import packet_dtype
from flows.wire import PacketBatch

__all__ = ["measure_start_up", "memory_mib"]

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_NOW_NS = 1_700_000_000 * 10**9


def measure_start_up(
    config: Path | None,
    *,
    placement: str | None,
    trackers: int | None,
    bundle: Path | None,
    rounds: int,
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        config: Serve configuration; None: the one that comes along.
        placement: separate or colocated; None, here and below: as the configuration says.
        trackers: Number of trackers.
        bundle: The bundle.
        rounds: Starts to take medians of.

    Raises:
        ServeFlowError: The configuration, the bundle or the service is not as it should be.
    """
    taken = environment(placement=placement, trackers=trackers, rounds=rounds,
                        config=None if config is None else config.name,
                        bundle=None if bundle is None else bundle.name)  # fmt: skip
    ready_s, verdict_s, memory = [], [], []
    for _ in range(rounds):
        under_test = config_under_test(
            config, placement=placement, trackers=trackers, bundle=bundle
        )
        with started(under_test) as (service, took_s):
            begin_s = time.monotonic()
            _first_verdict(service.url)
            ready_s.append(took_s)
            verdict_s.append(took_s + time.monotonic() - begin_s)
            assert service.pid is not None  # noqa: S101 (it has been started)
            memory.append(memory_mib(service.pid))
    return {
        "first_verdict_s": median(verdict_s),
        "ready_s": median(ready_s),
        "memory_mib": medians(memory),
        "spread_of_rounds": {"first_verdict_s": spread(verdict_s)},
        "environment": taken,
    }


def memory_mib(root: int) -> dict[str, float]:
    """Return the memory (proportional set size, MiB) of each part, and of ``all`` (Linux).

    Args:
        root: Process id of the service; it and all its descendants that live count.
    """
    used = dict.fromkeys(PARTS, 0.0)
    for pid, (part, _) in cpu_by_process(root).items():
        try:
            found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except OSError:
            continue  # it has ended meanwhile
        used[part] += int(found.group(1)) / 1024 if found else 0.0
    return {**used, "all": sum(used.values())}


def _first_verdict(url: str) -> None:
    with HttpSender(url) as sender:
        packets = np.zeros(1, packet_dtype(sender.schema().header))
        packets["flow_id"], packets["time_ns"] = 1, _NOW_NS
        packets["ip_bytes"], packets["ip_version"], packets["protocol"] = 60, 4, 6
        packets["from_originator"] = 1
        first = next(iter(sender.submit(PacketBatch("start-up", _NOW_NS, packets))))
    if len(first.verdicts) != 1:
        raise ServiceError(f"{url} gave no verdict on its first flow")
