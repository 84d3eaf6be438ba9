"""``serveflow bench pauses``: a service or a sink stands still for a while, and nothing is lost.

A collector's own parts in this process, on a made-up wire at some rate and with a made-up service;
verdicts go to a file. What waits in memory is looked at all the while, and how long it takes until
all that came before the end of the pause is written.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from collectors.agent import Agent, AgentOptions
from collectors.delivery import DeliverySettings
from collectors.disk_spool import DiskSpool
from collectors.eve_sink import EveSink
from collectors.exchange import Settled
from collectors.fakes import FAKE_SCHEMA, FakeService
from collectors.journal import SpoolSettings
from collectors.memory import edge_limits
from collectors.queued_sink import QueuedSink, QueueSettings
from collectors.sinks import Verdicts
from collectors.sources import SourceCounters
from collectors.warm_up import warm_up
from flows.decode import Decoded
from flows.packet import ENDPOINTS_DTYPE, packet_dtype

__all__ = ["PAUSED", "PauseSettings", "measure_pauses"]

PAUSED = ("service", "sink")
"""What can stand still."""

_PACKETS = 3  # of a flow, at once: then no verdict waits for the wire
_BEFORE_S, _AFTER_S = 1.0, 1.0
_MOST_DRAIN_S = 120.0
_LOOK_S = 0.02
_VERDICT_BYTES = 120  # as QueueSettings tells
_MAPPED = np.uint64(0xFFFF_0000_0000)


@dataclass(frozen=True, slots=True)
class PauseSettings:
    """What to do.

    Attributes:
        paused: Of :data:`PAUSED`, one after the other.
        seconds: For how long.
        rate: New flows per second.
        memory: What flows may take, bytes.
        spool: Whether the collector has a spool.
    """

    paused: tuple[str, ...] = PAUSED
    seconds: float = 20.0
    rate: float = 2_000.0
    memory: int = 256 << 20
    spool: bool = False


class _Wire:
    """A live source that makes flows at a rate; serves as a source."""

    live = True

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._begin_ns = time.time_ns()
        self._made = 0
        self.ended = False

    @property
    def counters(self) -> SourceCounters:
        return SourceCounters(frames=self._made * _PACKETS)

    def read(self, wait_s: float) -> Decoded | None:
        if self.ended:
            return None
        now_ns = time.time_ns()
        until = int((now_ns - self._begin_ns) * 1e-9 * self._rate)
        if until == self._made:
            time.sleep(min(wait_s, 1.0 / self._rate))
        flows = np.arange(self._made, max(until, self._made), dtype=np.uint64)
        self._made = max(until, self._made)
        return _packets(flows, now_ns)

    def quiet_until_ns(self) -> int:
        return time.time_ns()

    def close(self) -> None:
        self.ended = True


class _Gate:
    """A sink that stands still while it is told to."""

    def __init__(self, sink: EveSink) -> None:
        self._sink = sink
        self.open = threading.Event()
        self.open.set()

    def write(self, found: Verdicts) -> None:
        self.open.wait()
        self._sink.write(found)

    def flush(self) -> None:
        self._sink.flush()

    def reopen(self) -> None:
        self._sink.reopen()

    def sync(self) -> None:
        self._sink.sync()

    def close(self) -> None:
        self._sink.close()


@dataclass(slots=True)
class _Most:
    """The most that waited at any time."""

    memory_bytes: int = 0
    sink_verdicts: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self, agent: Agent, sink: QueuedSink) -> None:
        while not self.over.wait(_LOOK_S):
            self.memory_bytes = max(self.memory_bytes, agent.status().table.memory_bytes)
            self.sink_verdicts = max(self.sink_verdicts, sink.counters().waiting)


def measure_pauses(
    settings: PauseSettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run; return the object that ``--json`` prints.

    Raises:
        SettingsError: The memory is too little.
    """
    taken = environment(
        paused=list(settings.paused), seconds=settings.seconds, rate=settings.rate,
        memory=settings.memory, spool=settings.spool,
    )  # fmt: skip
    warm_up(with_header=False)
    found = {}
    for what in settings.paused:
        on_progress(f"{what} stands still for {settings.seconds:g} s …")
        found[what] = _paused(what, settings)
    return {"paused": found, "environment": taken}


def _paused(what: str, settings: PauseSettings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="serveflow-pauses-") as name:
        gate, queue = _Gate(EveSink(Path(name, "eve.json"))), QueueSettings()
        sink, service, wire = QueuedSink("eve", gate, queue), FakeService(), _Wire(settings.rate)
        limits = edge_limits(settings.memory, FAKE_SCHEMA.depth)
        spool = None
        if settings.spool:
            spool = DiskSpool(Path(name, "spool"), SpoolSettings(), "edge", FAKE_SCHEMA, [sink])

        def write(settled: Settled, classes: tuple[str, ...], model_version: str) -> None:
            sink.write(Verdicts(settled, classes, FAKE_SCHEMA.tiers, model_version, "edge"))

        options = AgentOptions(
            "edge", "made up", "made up",
            delivery=DeliverySettings(give_up_after_s=None), limits=limits, drain_s=_MOST_DRAIN_S,
        )  # fmt: skip
        agent, most = Agent(wire, service, FAKE_SCHEMA, options, write, spool), _Most()
        threads = [
            threading.Thread(target=agent.run, name="agent"),
            threading.Thread(target=most.watch, args=(agent, sink), name="look"),
        ]
        for thread in threads:
            thread.start()
        time.sleep(_BEFORE_S)
        _set(what, service, gate, still=True)
        time.sleep(settings.seconds)
        came = agent.status().table.flows
        _set(what, service, gate, still=False)
        drained_s = _until_written(sink, came)
        time.sleep(_AFTER_S)
        wire.close()
        threads[0].join()
        most.over.set()
        threads[1].join()
        agent.close()
        sink.close(_MOST_DRAIN_S)
        if spool is not None:
            spool.close()
        table, told = agent.status().table, sink.counters()
        lines = Path(name, "eve.json").read_bytes().count(b"\n")
    return {
        "flows": table.flows,
        "written": lines,
        "refused_flows": table.refused_flows,
        "evicted_flows": table.evicted_flows,
        "lost": table.lost_flows + sum(told.lost.values()),
        "came_until_the_end_of_it": came,
        "drained_s": drained_s,
        "most_memory_bytes": most.memory_bytes,
        "memory_bound_bytes": limits.memory_bytes,
        "most_sink_bytes": most.sink_verdicts * _VERDICT_BYTES,
        "sink_bound_bytes": queue.max_verdicts * _VERDICT_BYTES,
    }


def _set(what: str, service: FakeService, gate: _Gate, *, still: bool) -> None:
    if what == "service":
        service.trouble = "away" if still else ""
    elif still:
        gate.open.clear()
    else:
        gate.open.set()


def _until_written(sink: QueuedSink, flows: int) -> float | None:
    """Wait until so many verdicts are written; return how long, None: they were not."""
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < _MOST_DRAIN_S:
        if sink.counters().written >= flows:
            return time.monotonic() - begin_s
        time.sleep(_LOOK_S)
    return None


def _packets(flows: np.ndarray[Any, np.dtype[np.uint64]], time_ns: int) -> Decoded:
    """Return the packets of some flows, UDP, each of its own source."""
    every = np.repeat(flows, _PACKETS)
    rows = np.zeros(len(every), packet_dtype(False))
    ends = np.zeros(len(every), ENDPOINTS_DTYPE)
    rows["time_ns"], rows["protocol"] = time_ns, 17
    rows["ip_bytes"] = 60 + every % 7
    ends["src_lo"], ends["dst_lo"] = _MAPPED + np.uint64(0x0A000000) + every, _MAPPED + np.uint64(1)
    ends["src_port"], ends["dst_port"] = 1024, 53
    ends["protocol"], ends["ip_version"] = 17, 4
    return Decoded(rows, ends)
