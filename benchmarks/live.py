"""``serveflow bench live``: packets offered on a virtual cable, and what reading them costs.

tcpreplay plays captures into one end of a veth pair, in a network namespace of its own, as fast as
it can or at a rate, over and over, each time with other hosts. One thread of this process reads the
other end as a live interface and keeps the flow table. What the kernel does with a packet until it
is in the ring counts for the sender here, whose core it runs on; with a network card it would be an
interrupt's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environment import environment
from benchmarks.long_capture import write_long_capture
from benchmarks.results import spread
from benchmarks.veth import Namespace
from collectors.ring_settings import RING_BYTES, RingSettings
from collectors.ring_source import RingSource
from flows.errors import ServeFlowError, SettingsError
from flows.table import FlowTable

__all__ = ["RATES", "LiveSettings", "measure_live"]

RATES = (300_000.0, 0.0)
"""What is offered unless told otherwise, packets per second; 0: as fast as tcpreplay can."""

_COPIES = 24  # of captures in the file that is played: so many different hosts
_MTU = 65_535
_DEPTH = 10  # first packets that a flow table tells of; the embedded models' depth
_READ_S = 0.1
_SETTLE_S = 0.5
_SENT = re.compile(r"^Actual: (\d+) packets .* sent in ([\d.]+) seconds", re.MULTILINE)
_FAILED = re.compile(r"Failed packets:\s+(\d+)")


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What is offered.

    Attributes:
        captures: Captures to play.
        rates: Packets per second to offer, one after the other; 0: as fast as tcpreplay can.
        seconds: How long to play, each time.
        rounds: Rounds to take medians of.
        ring_bytes: The ring's size.
    """

    captures: Sequence[Path]
    rates: Sequence[float] = RATES
    seconds: float = 5.0
    rounds: int = 3
    ring_bytes: int = RING_BYTES


@dataclass(slots=True)
class _Play:
    """tcpreplay at work."""

    process: subprocess.Popen[str]
    told: str = field(default="")

    def sent(self) -> tuple[int, float]:
        """Return how many packets it has sent, and in how many seconds."""
        found, failed = _SENT.search(self.told), _FAILED.search(self.told)
        if self.process.returncode or found is None:
            raise ServeFlowError(f"tcpreplay has failed: {self.told.strip()[-300:]}")
        if failed and int(failed.group(1)):
            raise ServeFlowError(f"tcpreplay could not send {int(failed.group(1)):,} packets")
        return int(found.group(1)), float(found.group(2))


def measure_live(
    settings: LiveSettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        settings: What is offered.
        on_progress: Told what is going on.

    Raises:
        SettingsError: tcpreplay or the right to make a network namespace is missing.
        CaptureError: The interface cannot be captured from.
        ServeFlowError: tcpreplay has failed.
    """
    if shutil.which("tcpreplay") is None:
        raise SettingsError(
            "there is no tcpreplay here; install it (Debian: apt-get install tcpreplay)"
        )
    taken = environment(
        captures=[path.name for path in settings.captures], seconds=settings.seconds,
        rounds=settings.rounds, ring_bytes=settings.ring_bytes,
    )  # fmt: skip
    passes = max(_COPIES // len(settings.captures), 1)
    with tempfile.TemporaryDirectory() as folder, Namespace() as where:
        where.add_veth(mtu=_MTU)
        played = Path(folder, "played.pcap")
        packets = write_long_capture(settings.captures, passes, played)
        frame_bytes = (played.stat().st_size - 24) / packets - 16
        rates = []
        for rate in settings.rates:
            found = []
            for number in range(settings.rounds + 1):
                on_progress(f"{_named(rate)}, round {number} of {settings.rounds} …")
                one = _round(where, played, rate, settings)
                if number:  # the first one is to warm up
                    found.append(one)
            rates.append(_summed(rate, found))
    return {
        "rates": rates,
        "frame_bytes": frame_bytes,
        "packets_in_capture": packets,
        "environment": taken,
    }


def _named(rate: float) -> str:
    return f"{rate:,.0f} packets/s" if rate else "top speed"


def _round(where: Namespace, played: Path, rate: float, settings: LiveSettings) -> dict[str, float]:
    """Play once and read it; return what was seen."""
    with where.entered():
        source = RingSource(RingSettings("sf1", ring_bytes=settings.ring_bytes))
    try:
        return _read(source, _start(where, played, rate, settings.seconds))
    finally:
        source.close()


def _start(where: Namespace, played: Path, rate: float, seconds: float) -> _Play:
    pace = [f"--pps={rate:.0f}"] if rate else ["--topspeed"]
    command = [
        "tcpreplay", "-i", "sf0", "--preload-pcap", "--loop=0", "--unique-ip", "--no-flow-stats",
        f"--duration={seconds:.0f}", *pace,
        str(played),
    ]  # fmt: skip
    return _Play(
        subprocess.Popen(
            where.inside(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    )


def _read(source: RingSource, play: _Play) -> dict[str, float]:
    table = FlowTable(first_packets=_DEPTH)
    reads = packets = 0
    decode_s = 0.0
    ended_s: float | None = None
    first_s = last_s = 0.0
    while ended_s is None or time.monotonic() - ended_s < _SETTLE_S:
        before_s = time.thread_time()
        decoded = source.read(_READ_S)
        decode_s += time.thread_time() - before_s
        if decoded is None:
            break
        if len(decoded.packets):
            if not packets:
                first_s, decode_s = before_s, time.thread_time() - before_s
            table.update(decoded.packets, decoded.endpoints)
            packets += len(decoded.packets)
            reads += 1
            last_s = time.thread_time()
        elif ended_s is None and play.process.poll() is not None:
            ended_s = time.monotonic()
    play.told, _ = play.process.communicate()
    offered, took_s = play.sent()
    counters = source.counters
    seen = max(counters.frames, 1)
    return {
        "offered": offered,
        "offered_per_second": offered / took_s,
        "ring_packets": counters.ring_packets,
        "kernel_drops": counters.kernel_drops,
        "frames": counters.frames,
        "packets": packets,
        "flows": table.counters.flows,
        "packets_per_read": packets / max(reads, 1),
        "decode_us": decode_s / seen * 1e6,
        "decode_and_table_us": (last_s - first_s) / seen * 1e6,
        "cores_used": (last_s - first_s) / took_s,
    }


def _summed(rate: float, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians of rounds; losses of all of them together."""
    result: dict[str, Any] = {name: median(one[name] for one in rounds) for name in rounds[0]}
    for name in ("kernel_drops", "offered", "ring_packets", "frames", "packets"):
        result[name] = int(sum(one[name] for one in rounds))
    return {
        "asked_per_second": rate or None,
        **result,
        "spread": {
            name: spread([one[name] for one in rounds])
            for name in ("offered_per_second", "decode_us", "decode_and_table_us")
        },
    }
