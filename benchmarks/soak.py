"""``serveflow bench soak``: does anything grow while service and collector work on and on?

A load generator keeps the service busy while a collector reads a long capture from a pipe. Memory
and open files of every process are looked at now and then; what counts is their slope once
everything has been used for a while.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collected import Collected
from benchmarks.cpu import cpu_by_process
from benchmarks.environment import environment
from benchmarks.long_capture import write_long_capture
from benchmarks.rate import RateSettings, measure_rate
from benchmarks.started import config_under_test, started

__all__ = ["SoakSettings", "measure_soak", "slope_per_minute"]

_LOOK_S = 2.0
_WARM_SHARE = 0.4  # of the time, in which caches fill and heaps find their size
_MOST_COPIES = 255
_LONGER_S = 20.0  # than the load: the collector is not to be seen ending


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """What to do.

    Attributes:
        captures: What is played.
        seconds: For how long.
        rate: New flows per second of the load generator.
        config: Serve configuration; None: the one that comes along.
    """

    captures: list[Path]
    seconds: float
    rate: float
    config: Path | None


@dataclass(frozen=True, slots=True)
class _Look:
    at_s: float
    memory_mib: dict[str, float]
    files: dict[str, int]


def measure_soak(
    settings: SoakSettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run; return the object that ``--json`` prints.

    Raises:
        ServeFlowError: A capture, the configuration or the service is not as it should be.
    """
    taken = environment(
        captures=[path.name for path in settings.captures],
        seconds=settings.seconds,
        rate=settings.rate,
    )
    with tempfile.TemporaryDirectory(prefix="serveflow-soak-") as name:
        folder = Path(name)
        capture = folder / "long.pcap"
        write_long_capture(settings.captures, _MOST_COPIES // len(settings.captures), capture)
        with started(config_under_test(settings.config)) as (service, _):
            seconds = settings.seconds + _LONGER_S
            collector = Collected(service.url, folder, capture, seconds, spool=True)
            pids = {"service": service.pid or 0, "collector": collector.pid}
            load = RateSettings(
                settings.captures, "http", None, None, None, None, service.url, settings.rate,
                settings.seconds, 0.0, 1_000.0, 1, {"keep_going": True},
            )  # fmt: skip
            with _looked_at(pids) as looks:
                measured = measure_rate(load, on_progress)
            told = collector.end()
    processes = _slopes(looks)
    grows = {name: one["memory_mib_per_minute"] for name, one in processes.items()}
    return {
        "seconds": settings.seconds,
        "most_mib_per_minute": max(grows.values(), default=None),
        "most_files_per_minute": max(
            (one["open_files_per_minute"] for one in processes.values()), default=None
        ),
        "processes": processes,
        "load": {key: measured[key] for key in ("answered_per_second", "flows", "lost_flows")},
        "collector": {key: told[key] for key in ("flows", "final", "open", "refused_flows")},
        "environment": taken,
    }


def slope_per_minute(at_s: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much values grow a minute, by least squares; 0 of fewer than three."""
    if len(at_s) < 3:
        return 0.0
    slope: float = np.polyfit(np.array(at_s) / 60.0, np.array(values), 1)[0]
    return slope


def _slopes(looks: list[_Look]) -> dict[str, Any]:
    begin_s = looks[0].at_s + _WARM_SHARE * (looks[-1].at_s - looks[0].at_s)
    warm = [look for look in looks if look.at_s >= begin_s]
    found: dict[str, Any] = {}
    for name in sorted({name for look in warm for name in look.memory_mib}):
        own = [look for look in warm if name in look.memory_mib]
        files = [look.files[name] for look in own]
        found[name] = {
            "memory_mib": own[-1].memory_mib[name],
            "memory_mib_per_minute": slope_per_minute(
                [look.at_s for look in own], [look.memory_mib[name] for look in own]
            ),
            "open_files": [min(files), max(files)],
            "open_files_per_minute": slope_per_minute([look.at_s for look in own], files),
            "looks": len(own),
        }
    return found


@contextmanager
def _looked_at(pids: dict[str, int]) -> Iterator[list[_Look]]:
    looks: list[_Look] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(_LOOK_S):
            looks.append(_look(pids))

    thread = threading.Thread(target=run, name="looks", daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()


def _look(pids: dict[str, int]) -> _Look:
    memory: dict[str, float] = {}
    files: dict[str, int] = {}
    for owner, root in pids.items():
        for pid, (part, _) in cpu_by_process(root).items():
            name = f"{part} {pid}" if owner == "service" else owner
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                files[name] = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue  # it has ended meanwhile
            if not pages:
                continue  # likewise, and nobody has asked for its exit status yet
            memory[name] = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return _Look(time.monotonic(), memory, files)
